//! A full backlog stops the reading of its session for a while. Bursts of streams arrive whole,
//! programs that don't accept get moving again, and several events end the pause.
//!
//! Time limits are small unless time itself is under test. If a call must be woken, the stall
//! timeout is `None`, so that no time limit can hide a lost wake-up. The watchdog then ends the
//! test. With `GMUX_FULL` the bursts have the size of `tests/full bursts`.
//!
//! Promises: P58, P62, P63, P111.

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use gmux::wire::Command;
use gmux::{Config, Error, Session, Stream};
use support::blocked::blocked;
use support::raw::{Raw, against_server};
use support::{pair, test, test_for, until, versions};

const VERSIONS: [u8; 2] = [1, 2];

fn quiet(version: u8) -> Config {
    Config::new().version(version).keepalive_disabled(true)
}

/// Returns a session that has stopped reading for a full backlog of two streams, 3 and 5. Stream 7
/// waits.
fn paused(config: Config, version: u8) -> (Raw, Session) {
    let (mut raw, session) = against_server(config.accept_backlog(2), version);
    for id in [3, 5, 7] {
        raw.syn(id, format!("{id}"));
    }
    until(|| session.stats().accept_pauses == 1);
    (raw, session)
}

// ---- bursts -------------------------------------------------------------------------------------

fn full() -> bool {
    std::env::var_os("GMUX_FULL").is_some()
}

/// Returns a number of bytes from `/proc/self/status`, or 0 where there is no such file.
fn memory(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Bound on the memory of a stream at either end, in bytes: the stream itself
/// (`src/manual/security.md`) and its data.
const STREAM: u64 = 4500 + 4096;

/// Bound on the memory of an application's thread, in bytes: the part of its stack that it touches.
const THREAD: u64 = 48 * 1024;

/// Opens a stream. Tries again while `max_streams` are open, and allows no other error.
fn open(session: &Session, name: &str) -> Stream {
    loop {
        match session.open(name) {
            Ok(stream) => return stream,
            // No event tells that a stream was forgotten.
            Err(Error::TooManyStreams { .. }) => thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// P62: each stream whose `open`, `write` and `close` returned Ok arrives. The peer accepts in a
/// loop, with a thread for each stream. The settings are the defaults.
#[test]
fn bursts_of_streams_that_are_written_and_closed_at_once_arrive_whole() {
    let limit = Duration::from_secs(if full() { 600 } else { 60 });
    test_for("bursts_of_streams_that_are_written_and_closed_at_once_arrive_whole", limit, || {
        let count = if full() { 100_000 } else { 5000 };
        for config in versions() {
            let began = Instant::now();
            // Makes the peak of memory start at the memory in use.
            let _ = fs::write("/proc/self/clear_refs", "5");
            let before = memory("VmRSS:");
            let (client, server) = pair(config);
            let arrived = Mutex::new(HashSet::new());
            let handlers = [AtomicUsize::new(0), AtomicUsize::new(0)];
            thread::scope(|scope| {
                scope.spawn(|| {
                    for stream in server.incoming().take(count) {
                        let mut stream = stream.unwrap();
                        let now = handlers[0].fetch_add(1, SeqCst) + 1;
                        handlers[1].fetch_max(now, SeqCst);
                        let arrived = &arrived;
                        let handlers = &handlers;
                        scope.spawn(move || {
                            let mut data = String::new();
                            stream.read_to_string(&mut data).unwrap();
                            assert_eq!(data, format!("all of {}", stream.name()));
                            assert!(arrived.lock().unwrap().insert(data), "it comes once");
                            drop(stream);
                            handlers[0].fetch_sub(1, SeqCst);
                        });
                    }
                });
                for n in 0..count {
                    let name = n.to_string();
                    let mut stream = open(&client, &name);
                    stream.write_all(format!("all of {name}").as_bytes()).unwrap();
                    stream.close().unwrap();
                }
            });
            assert_eq!(arrived.into_inner().unwrap().len(), count);
            let ours = client.stats();
            let theirs = server.stats();
            assert_eq!(
                (theirs.streams_received, theirs.streams_refused, theirs.streams_cut),
                (count as u64, 0, 0)
            );
            let peak = memory("VmHWM:").saturating_sub(before);
            let most_handlers = handlers[1].load(SeqCst) as u64;
            let bound = (ours.streams_peak + theirs.streams_peak) * STREAM
                + most_handlers * THREAD
                + (16 << 20);
            println!(
                "{count} streams in {:.1?}: {} pauses, at most {} open at the sender, {} at the \
                 receiver, {most_handlers} handlers; \
                 memory {} KiB of {} KiB",
                began.elapsed(),
                theirs.accept_pauses,
                ours.streams_peak,
                theirs.streams_peak,
                peak / 1024,
                bound / 1024,
            );
            assert!(
                theirs.streams_peak <= 1024 + most_handlers + 1,
                "the backlog, and what handlers hold"
            );
            // At full size this test runs alone. Otherwise other tests' memory would count.
            assert!(!full() || peak <= bound, "{peak} bytes of memory, {bound} are allowed");
        }
    });
}

// ---- programs that don't accept -----------------------------------------------------------------

/// P63: the server handles each stream in its accept loop. The data of the first stream arrives
/// after 3,000 SYNs, and until then the server accepts no other stream.
#[test]
fn a_server_that_handles_streams_in_its_accept_loop_gets_through_all_accepted_ones() {
    test("a_server_that_handles_streams_in_its_accept_loop_gets_through_all_accepted_ones", || {
        for version in VERSIONS {
            let stall = Duration::from_millis(200);
            let (mut raw, session) =
                against_server(quiet(version).accept_stall_timeout(Some(stall)), version);
            let server = thread::spawn(move || {
                let mut handled = 0;
                for stream in session.incoming() {
                    let mut stream = stream.unwrap();
                    let mut data = String::new();
                    stream.read_to_string(&mut data).unwrap();
                    assert_eq!(data, stream.name());
                    handled += 1;
                }
                (handled, session.stats())
            });
            let ids = || (0..3000).map(|n| 2 * n + 1);
            ids().for_each(|id| raw.syn(id, id.to_string()));
            for id in ids() {
                raw.psh(id, id.to_string());
                raw.fin(id);
            }
            raw.finish();
            let (handled, stats) = server.join().unwrap();
            assert_eq!(handled, stats.streams_received);
            assert!(handled >= 1025, "the backlog, and the first: {handled}");
            assert_eq!(handled + stats.streams_refused, 3000);
            assert!((1..=2).contains(&stats.accept_pauses), "{stats:?}");
        }
    });
}

#[test]
fn a_pool_whose_workers_all_wait_for_data_gets_moving_again() {
    test("a_pool_whose_workers_all_wait_for_data_gets_moving_again", || {
        const WORKERS: usize = 4;
        for version in VERSIONS {
            let config = quiet(version)
                .accept_backlog(WORKERS)
                .accept_stall_timeout(Some(Duration::from_millis(100)));
            let (mut raw, session) = against_server(config, version);
            let workers: Vec<_> = (0..WORKERS)
                .map(|_| {
                    let session = session.clone();
                    blocked(move || {
                        for stream in session.incoming() {
                            let mut stream = stream.unwrap();
                            let mut request = [0; 4];
                            stream.read_exact(&mut request).unwrap();
                            stream.write_all(&request).unwrap();
                        }
                    })
                })
                .collect();
            // One stream for each worker, the same number for the backlog, and two more.
            let ids = || (0..2 * WORKERS as u32 + 2).map(|n| 2 * n + 1);
            for (n, id) in ids().enumerate() {
                raw.syn(id, "");
                until(|| session.stats().streams_received > n as u64 || n >= 2 * WORKERS);
            }
            ids().for_each(|id| raw.psh(id, id.to_le_bytes()));
            let mut answers = HashSet::new();
            while answers.len() < 2 * WORKERS {
                let frame = raw.recv();
                if frame.header.command == Command::Psh {
                    assert_eq!(frame.payload, frame.header.stream_id.to_le_bytes());
                    answers.insert(frame.header.stream_id);
                }
            }
            assert!(ids().take(2 * WORKERS).all(|id| answers.contains(&id)));
            let stats = session.stats();
            assert_eq!((stats.streams_refused, stats.accept_pauses), (2, 1));
            raw.finish();
            workers.into_iter().for_each(|worker| worker.join());
        }
    });
}

// ---- the length of the pause --------------------------------------------------------------------

/// P63: after a pause that has lasted for the stall timeout, streams are refused at once until half
/// of the backlog is free.
#[test]
fn after_the_stall_timeout_streams_are_refused_until_half_of_the_backlog_is_free() {
    test("after_the_stall_timeout_streams_are_refused_until_half_of_the_backlog_is_free", || {
        for version in VERSIONS {
            let stall = Duration::from_millis(50);
            let config = quiet(version).accept_backlog(4).accept_stall_timeout(Some(stall));
            let (mut raw, session) = against_server(config, version);
            for id in [1, 3, 5, 7] {
                raw.syn(id, "");
            }
            until(|| session.stats().streams_received == 4);
            let sent = Instant::now();
            raw.syn(9, "");
            raw.expect(Command::Fin, 9);
            assert!(sent.elapsed() >= stall);
            let mut accepted = vec![session.accept().unwrap()];
            raw.syn(11, "");
            raw.expect(Command::Fin, 11); // a quarter of the backlog is free
            assert_eq!(session.stats().accept_pauses, 1);
            accepted.push(session.accept().unwrap());
            raw.syn(13, ""); // half of it is free
            raw.syn(15, "");
            until(|| session.stats().streams_received == 6);
            raw.syn(17, "");
            raw.expect(Command::Fin, 17);
            assert_eq!(session.stats().accept_pauses, 2);
            assert_eq!(session.stats().streams_refused, 3);
        }
    });
}

/// P63: a pause is measured from the later of its begin and the last `accept`. So a program that
/// accepts slowly loses no stream.
#[test]
fn each_accept_gives_the_pause_its_whole_time_again() {
    test("each_accept_gives_the_pause_its_whole_time_again", || {
        let stall = Duration::from_secs(2); // a busy machine may be a second late
        let config = quiet(1).accept_backlog(1).accept_stall_timeout(Some(stall));
        let (mut raw, session) = against_server(config, 1);
        let ids = [1, 3, 5, 7, 9, 11];
        ids.iter().for_each(|&id| raw.syn(id, ""));
        let began = Instant::now();
        for id in ids {
            assert_eq!(session.accept().unwrap().id(), id);
            thread::sleep(stall * 2 / 5); // time itself is under test
        }
        assert!(began.elapsed() > stall);
        assert_eq!(session.stats().streams_refused, 0);
    });
}

/// P58, P63: with `None` the pause lasts until an `accept`. Neither keepalive nor `stall_timeout`
/// acts meanwhile. Keepalive starts again when the pause is over.
#[test]
fn without_a_limit_the_pause_lasts_until_an_accept_and_keepalive_rests() {
    test("without_a_limit_the_pause_lasts_until_an_accept_and_keepalive_rests", || {
        for version in VERSIONS {
            // Each of the few steps before the pause may take this long.
            let timeout = Duration::from_millis(1500);
            let config = Config::new()
                .version(version)
                .keepalive_interval(timeout / 3)
                .keepalive_timeout(timeout);
            let config = config.stall_timeout(Some(timeout / 10)).accept_stall_timeout(None);
            let (mut raw, session) = against_server(config.accept_backlog(1), version);
            raw.syn(3, "");
            raw.psh(3, "unread");
            raw.syn(5, "");
            until(|| session.stats().accept_pauses == 1);
            thread::sleep(timeout * 4 / 3); // nothing happens, which is no event
            let stats = session.stats();
            assert!(!session.is_closed());
            assert_eq!((stats.streams_refused, stats.streams_cut, stats.receive_pauses), (0, 0, 0));
            let first = session.accept().unwrap();
            let resumed = Instant::now();
            assert_eq!(session.accept().unwrap().id(), 5);
            // The peer is silent, so keepalive ends the session, but not before a whole timeout.
            assert!(session.closed().recv().is_err());
            assert!(matches!(session.close_reason(), Some(Error::KeepaliveTimeout(_))));
            assert!(resumed.elapsed() >= timeout * 9 / 10);
            drop(first);
        }
    });
}

// ---- the end of the pause -----------------------------------------------------------------------

#[test]
fn close_ends_the_pause() {
    test("close_ends_the_pause", || {
        for version in VERSIONS {
            let config =
                quiet(version).accept_stall_timeout(None).close_timeout(Duration::from_secs(3600));
            let (raw, session) = paused(config, version);
            let closer = thread::spawn(move || session.close());
            raw.finish();
            // The reader drops the rest of the input. The check after the last test shows that its
            // thread has ended.
            closer.join().unwrap().unwrap();
        }
    });
}

#[test]
fn drain_ends_the_pause() {
    test("drain_ends_the_pause", || {
        for version in VERSIONS {
            let (mut raw, session) = paused(quiet(version).accept_stall_timeout(None), version);
            let drain = {
                let session = session.clone();
                blocked(move || session.drain(Duration::from_secs(3600)))
            };
            raw.expect(Command::Fin, 7);
            // The streams in the backlog can still be accepted.
            for id in [3, 5] {
                assert_eq!(session.accept().unwrap().id(), id);
                raw.expect(Command::Fin, id);
            }
            raw.finish();
            drain.join().unwrap();
        }
    });
}

#[test]
fn the_drop_of_the_last_session_handle_ends_the_pause() {
    test("the_drop_of_the_last_session_handle_ends_the_pause", || {
        for version in VERSIONS {
            let (mut raw, session) = paused(quiet(version).accept_stall_timeout(None), version);
            let ours = session.open("lives on").unwrap();
            assert_eq!(raw.expect(Command::Syn, 2), b"lives on");
            drop(session);
            let mut refused = [(); 3].map(|()| raw.recv().header);
            refused.sort_by_key(|header| header.stream_id);
            assert!(refused.iter().all(|header| header.command == Command::Fin));
            assert_eq!(refused.map(|header| header.stream_id), [3, 5, 7]);
            raw.psh(2, "!");
            assert_eq!((&ours).read(&mut [0; 9]).unwrap(), 1);
        }
    });
}

/// P63: the session's no-data timeout ends it during the pause.
#[test]
fn the_sessions_end_ends_the_pause() {
    test("the_sessions_end_ends_the_pause", || {
        for version in VERSIONS {
            let (mut raw, session) = paused(quiet(version).accept_stall_timeout(None), version);
            session.set_no_data_timeout(Some(Duration::from_millis(50))).unwrap();
            assert!(session.closed().recv().is_err());
            for id in [3, 5] {
                assert_eq!(session.accept().unwrap().id(), id, "they were received");
            }
            assert!(matches!(session.accept(), Err(Error::NoData(_))));
            assert!(raw.next().is_err());
        }
    });
}

// ---- refused ids --------------------------------------------------------------------------------

/// P111: the first data on a refused id gets one more FIN, because Go drops a FIN that comes before
/// its `OpenStream` has returned.
#[test]
fn the_first_data_on_one_of_the_last_1024_refused_ids_gets_one_more_fin() {
    test("the_first_data_on_one_of_the_last_1024_refused_ids_gets_one_more_fin", || {
        const REFUSED: u32 = 1100;
        for version in VERSIONS {
            let (mut raw, session) = against_server(quiet(version).max_name_len(0), version);
            let id = |n: u32| 2 * n + 1;
            for n in 0..REFUSED {
                raw.syn(id(n), "n");
                raw.expect(Command::Fin, id(n));
            }
            // Each refused id gets small or large data, and then more data.
            for n in 0..REFUSED {
                raw.psh(id(n), vec![1; if n % 2 == 0 { 1 } else { 5000 }]);
                raw.psh(id(n), "x");
            }
            for n in REFUSED - 1024..REFUSED {
                raw.expect(Command::Fin, id(n));
            }
            // No other FIN comes. When a refused id opens later, it is an ordinary stream, and late
            // data for it gets no answer.
            raw.syn(id(REFUSED), "n");
            raw.expect(Command::Fin, id(REFUSED));
            raw.syn(id(REFUSED), "");
            let _ = session.accept().unwrap();
            raw.expect(Command::Fin, id(REFUSED));
            raw.syn(id(REFUSED + 1), "");
            let stream = session.accept().unwrap();
            raw.psh(id(REFUSED), "late");
            raw.psh(id(REFUSED + 1), "!");
            assert_eq!((&stream).read(&mut [0; 9]).unwrap(), 1);
            drop(stream);
            loop {
                let header = raw.recv().header;
                match header.command {
                    Command::Upd => {}
                    command => {
                        break assert_eq!(
                            (command, header.stream_id),
                            (Command::Fin, id(REFUSED + 1))
                        );
                    }
                }
            }
            assert_eq!(session.stats().streams_refused, u64::from(REFUSED) + 1);
        }
    });
}

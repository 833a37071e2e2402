//! Stalls: unread data uses up a session's receive budget. More tests of stalls are in
//! `tests/promises_windows.rs`.
//!
//! No test here measures how soon a cut comes, because that depends on how busy the machine is. If
//! a cut must not come yet and the test itself was late, the test tries again. The test
//! `src/proto/keepalive.rs` shows in virtual time that a cut is due exactly one `stall_timeout`
//! after the pause. Keepalive is off here, so a session whose timer wasn't told of the stall would
//! look again only after an hour. The watchdog reports that.
//!
//! Promises: P78, P79.

mod support;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use gmux::wire::Command;
use gmux::{Config, Error, Session, Stream};
use support::blocked::started;
use support::raw::{Raw, against_server};
use support::scripted::{processed, quiet};
use support::{Pattern, pair, tcp, test, test_for, until};

/// The smallest budget that version 2 allows: one first window.
const BUDGET: usize = 262_144;
/// The default `stall_timeout` of these tests.
const STALL: Duration = Duration::from_millis(300);

/// Whether to run at full size, with the default stall timeout.
fn full() -> bool {
    std::env::var_os("GMUX_FULL").is_some()
}

fn error_of<T>(result: io::Result<T>) -> Error {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.into(),
    }
}

/// Returns why a `write_all` failed, whether or not a part was accepted.
fn cause(error: Error) -> Error {
    match error {
        Error::PartialWrite { source, .. } => Error::clone(&source),
        other => other,
    }
}

/// Sends a piece and reads its echo.
fn round(mut stream: &Stream, seed: u64) {
    let sent = Pattern::bytes(seed, 10_000);
    stream.write_all(&sent).unwrap();
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == sent, "{:?}", stream.name());
}

/// P78: one stream that nobody reads uses the budget up. Four echo streams stand still until it is
/// cut, and never again. The calls of the cut stream fail with `Stalled`, and its peer gets FIN.
#[test]
fn a_sleeping_reader_stalls_the_others_once() {
    const OTHERS: usize = 4;
    test("a_sleeping_reader_stalls_the_others_once", || {
        for version in [1, 2] {
            let config =
                quiet().version(version).max_receive_buffer(BUDGET).stall_timeout(Some(STALL));
            let (client, server) = pair(config.half_close_stall(Some(Duration::from_millis(50))));
            let sleeper = client.open("sleeper").unwrap();
            let asleep = server.accept().unwrap();
            let others: Vec<_> =
                (0..OTHERS).map(|i| client.open(format!("{i}")).unwrap()).collect();
            let echoes: Vec<_> = others
                .iter()
                .map(|_| {
                    let stream = server.accept().unwrap();
                    thread::spawn(move || io::copy(&mut &stream, &mut &stream).unwrap())
                })
                .collect();
            others.iter().for_each(|stream| round(stream, 0)); // all of them move

            let before = Instant::now();
            let write = thread::spawn({
                let mut stream = sleeper.clone();
                move || stream.write_all(&vec![1; 4 * BUDGET])
            });
            until(|| server.stats().receive_pauses > 0);
            thread::scope(|scope| {
                for stream in &others {
                    scope.spawn(move || (1..=20).for_each(|seed| round(stream, seed)));
                }
            });
            assert!(before.elapsed() >= STALL);
            assert_eq!(
                (server.stats().receive_pauses, server.stats().streams_cut),
                (1, 1),
                "version {version}"
            );

            match error_of((&asleep).read(&mut [0])) {
                Error::Stalled { held, after: STALL } => {
                    assert!(held > BUDGET / 2 && held <= BUDGET, "{held}")
                }
                other => panic!("{other:?}"),
            }
            assert!(matches!(error_of((&asleep).write(&[0])), Error::Stalled { .. }));
            assert_eq!((&sleeper).read(&mut [0]).unwrap(), 0, "the peer got FIN");
            match version {
                // Version 1 has no window, so the rest is received and dropped.
                1 => write.join().unwrap().unwrap(),
                _ => assert!(matches!(
                    cause(error_of(write.join().unwrap())),
                    Error::PeerFinished(_)
                )),
            }

            drop(others);
            drop(sleeper);
            for echo in echoes {
                assert_eq!(echo.join().unwrap(), 21 * 10_000);
            }
            assert_eq!(
                (server.stats().receive_buffered, server.num_streams()),
                (0, 1),
                "the sleeper isn't closed"
            );
            assert!(!client.is_closed() && !server.is_closed());
            client.close().unwrap();
        }
    });
}

/// P78, and the known bug smux#18, #85 and #69 at its worst: on 17 streams each end writes a
/// mebibyte before it reads anything. The unsolicited data arrives before the server starts. It is
/// more than twice the server's budget, which is an eighth of the default. Both ends are blocked in
/// write, and the server reads no input, so no window update reaches it. When the client begins to
/// read, nothing moves until a stream is cut. Then all other streams get all data in both
/// directions.
#[test]
fn seventeen_streams_with_both_ends_blocked_in_write_get_moving_again() {
    const STREAMS: usize = 17;
    const EACH: usize = 1 << 20;
    test_for(
        "seventeen_streams_with_both_ends_blocked_in_write_get_moving_again",
        2 * support::WATCHDOG,
        || {
            let mut stall = Duration::from_secs(30);
            let mut config = quiet().version(2).half_close_stall(Some(Duration::from_millis(50)));
            if !full() {
                stall = Duration::from_secs(6); // long enough to see all of them blocked first
                config = config.stall_timeout(Some(stall));
            }
            // The data that goes to the server on each stream, and then the data that comes back.
            // It is made before a stall begins, because that takes a while.
            let data: Arc<Vec<_>> =
                Arc::new((0..2 * STREAMS).map(|i| Pattern::bytes(i as u64, EACH)).collect());
            let (there, back) = data.split_at(STREAMS);
            // Returns false if the machine took half a stall to block all calls, so that the
            // attempt shows nothing.
            let in_time = || {
                let (near, far) = tcp();
                let client = Session::client(near, config.clone()).unwrap();
                let streams: Vec<_> =
                    (0..STREAMS).map(|i| client.open(format!("{i}")).unwrap()).collect();
                for (i, (stream, there)) in streams.iter().zip(there).enumerate() {
                    assert_eq!((&mut &*stream).write(there).unwrap(), unsolicited(i));
                }
                let begin = Instant::now();
                let server =
                    Session::server(far, config.clone().max_receive_buffer(2 * BUDGET)).unwrap();
                until(|| server.stats().receive_pauses > 0);
                let theirs: Vec<_> = (0..STREAMS)
                    .map(|i| {
                        let mut stream = server.accept().unwrap();
                        assert_eq!(stream.name(), i.to_string());
                        let data = Arc::clone(&data);
                        started(move || -> Result<Vec<u8>, Error> {
                            stream.write_all(&data[i + STREAMS])?;
                            // The client sends FIN only after its data, because the server's
                            // blocked writes fail some time after the peer's FIN.
                            let mut got = Vec::new();
                            stream.read_to_end(&mut got)?;
                            Ok(got)
                        })
                    })
                    .collect();
                let ours: Vec<_> = streams
                    .iter()
                    .enumerate()
                    .map(|(i, stream)| {
                        let mut stream = stream.clone();
                        let data = Arc::clone(&data);
                        started(move || {
                            stream.write_all(&data[i][unsolicited(i)..])?;
                            stream.shutdown(Shutdown::Write)
                        })
                    })
                    .collect();
                let early = || begin.elapsed() < stall / 2;
                let blocked = theirs
                    .iter()
                    .all(|write| early().then(|| write.assert_asleep()).is_some())
                    && ours.iter().all(|write| early().then(|| write.assert_asleep()).is_some());
                let cut = server.stats().streams_cut;
                if !blocked || !early() {
                    let _ = server.close();
                    let _ = client.close();
                    theirs.into_iter().for_each(|write| {
                        let _ = write.join();
                    });
                    ours.into_iter().for_each(|write| {
                        let _ = write.join();
                    });
                    return false;
                }
                assert_eq!(cut, 0);

                // Now the client reads everything.
                let received: Vec<_> = thread::scope(|scope| {
                    let reads = streams.iter().map(|mut stream| {
                        scope.spawn(move || {
                            let mut got = Vec::new();
                            stream.read_to_end(&mut got).map(|_| got).unwrap()
                        })
                    });
                    let reads: Vec<_> = reads.collect();
                    reads.into_iter().map(|read| read.join().unwrap()).collect()
                });
                let mut cut = 0;
                for (i, ((theirs, ours), received)) in
                    theirs.into_iter().zip(ours).zip(received).enumerate()
                {
                    match theirs.join() {
                        Ok(got) => {
                            ours.join().unwrap();
                            assert!(received == back[i] && got == there[i], "stream {i}");
                        }
                        Err(error) => {
                            assert!(matches!(cause(error), Error::Stalled { .. }));
                            assert!(matches!(cause(error_of(ours.join())), Error::PeerFinished(_)));
                            assert!(
                                received.len() < EACH && back[i].starts_with(&received),
                                "stream {i}"
                            );
                            cut += 1;
                        }
                    }
                }
                // While a write waits for credit, the budget is twice as large. The unsolicited
                // data exceeds even that by one initial window.
                assert!((1..=2).contains(&cut), "{cut} were cut");
                assert_eq!((server.stats().streams_cut, client.stats().streams_cut), (cut, 0));
                for session in [client, server] {
                    assert!(!session.is_closed());
                }
                true
            };
            while !in_time() {}
        },
    );
}

/// Returns the bytes that stream `i` may send before its first window update. Four streams may send
/// the initial window, and the others a share.
fn unsolicited(i: usize) -> usize {
    if i < 4 { BUDGET } else { 16_384 }
}

/// P79: the same unsolicited data, but the server echoes it and has a quarter of the default
/// budget. It reads each stream as long as the client reads the echo. The budget is used up before
/// the echo begins, but for less than the stall timeout, so no stream is cut.
#[test]
fn seventeen_echo_streams_that_begin_with_a_full_budget_lose_nothing() {
    const STREAMS: usize = 17;
    const EACH: usize = 1 << 20;
    test("seventeen_echo_streams_that_begin_with_a_full_budget_lose_nothing", || {
        let (near, far) = tcp();
        let config = quiet().version(2); // the default stall timeout is 30 s
        let client = Session::client(near, config.clone()).unwrap();
        let streams: Vec<_> = (0..STREAMS).map(|i| client.open(format!("{i}")).unwrap()).collect();
        let sent = |i: usize| Pattern::bytes(i as u64, EACH);
        for (i, mut stream) in streams.iter().enumerate() {
            assert_eq!(stream.write(&sent(i)).unwrap(), unsolicited(i));
        }
        let server = Session::server(far, config.max_receive_buffer(4 * BUDGET)).unwrap();
        until(|| server.stats().receive_pauses > 0);
        let start = Barrier::new(STREAMS);
        thread::scope(|scope| {
            for (i, mut stream) in streams.iter().enumerate() {
                let theirs = server.accept().unwrap();
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    io::copy(&mut &theirs, &mut &theirs).unwrap();
                });
                scope.spawn(move || {
                    stream.write_all(&sent(i)[unsolicited(i)..]).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || {
                    let mut got = Vec::new();
                    stream.read_to_end(&mut got).unwrap();
                    assert!(got == sent(i), "stream {i}");
                });
            }
        });
        assert_eq!((server.stats().streams_cut, client.stats().streams_cut), (0, 0));
    });
}

/// Returns a session that has stopped reading, because stream 1 of a raw peer occupies all of a
/// small budget.
fn paused(config: Config) -> (Raw, Session, Stream) {
    let version = 1;
    let (mut raw, session) =
        against_server(config.version(version).max_receive_buffer(65_536), version);
    raw.syn(1, "");
    let stream = session.accept().unwrap();
    raw.psh(1, [1; 65_535]);
    raw.psh(1, [2; 100]);
    until(|| session.stats().receive_pauses > 0);
    (raw, session, stream)
}

/// P79: version 1 has no stall timeout by default, so unread data stays until it is read. At full
/// size this takes longer than the 30 s that are the default of version 2.
#[test]
fn version_1_cuts_nothing_unless_it_is_told_to() {
    test_for("version_1_cuts_nothing_unless_it_is_told_to", 2 * support::WATCHDOG, || {
        let (_raw, session, mut stream) = paused(Config::new());
        let (told, after) = if full() {
            (Config::new().version(2).max_receive_buffer(BUDGET), Duration::from_secs(30))
        } else {
            (quiet().max_receive_buffer(BUDGET).stall_timeout(Some(STALL)), STALL)
        };
        let before = Instant::now();
        let (client, server) = pair(told);
        let ours = client.open("").unwrap();
        let theirs = server.accept().unwrap();
        let write = thread::spawn({
            let mut ours = ours.clone();
            move || ours.write_all(&vec![0; 2 * BUDGET])
        });
        assert!(theirs.closed().recv().is_err(), "the other session's is cut");
        assert!(before.elapsed() >= after);
        assert!(matches!(error_of((&theirs).read(&mut [0])), Error::Stalled { .. }));
        client.close().unwrap();
        // The data was dropped on version 1, and the close ended the write on version 2.
        let _ = write.join().unwrap();

        assert_eq!((session.stats().streams_cut, session.is_closed()), (0, false));
        assert!(session.stats().receive_buffered >= 65_535);
        let mut got = vec![0; 65_635];
        stream.read_exact(&mut got).unwrap();
        assert!(got[..65_535].iter().all(|&byte| byte == 1) && got[65_535..] == [2; 100]);
    });
}

/// P78: the stream that holds most is cut, whatever its position among the others and the size of
/// its frames.
#[test]
fn the_stream_that_holds_most_is_cut_and_no_other() {
    test("the_stream_that_holds_most_is_cut_and_no_other", || {
        const SHORT: Duration = Duration::from_millis(50);
        let ids = [1, 3, 5, 7, 9];
        for (most, piece) in ids.into_iter().flat_map(|id| [(id, 100), (id, 8192)]) {
            let (mut raw, session) =
                against_server(quiet().max_receive_buffer(BUDGET).stall_timeout(Some(SHORT)), 1);
            let streams = ids.map(|id| {
                raw.syn(id, format!("{id}"));
                session.accept().unwrap()
            });
            // Each stream holds four fifths of an equal share. One stream takes the rest and more.
            for id in ids {
                (0..5).for_each(|_| raw.psh(id, [id as u8; 8192]));
            }
            let mut sender = Raw::new(raw.stream.try_clone().unwrap(), 1);
            let sender = thread::spawn(move || {
                for _ in 0..BUDGET / piece {
                    sender.psh(most, vec![most as u8; piece]);
                }
            });
            let at = ids.iter().position(|&id| id == most).unwrap();
            assert!(streams[at].closed().recv().is_err());
            sender.join().unwrap(); // its later data was dropped
            raw.expect(Command::Fin, most);
            raw.assert_alive(&session, 99);
            for (i, mut stream) in streams.iter().enumerate() {
                if i == at {
                    assert!(matches!(error_of(stream.read(&mut [0])), Error::Stalled { .. }));
                } else {
                    let mut got = vec![0; 5 * 8192];
                    stream.read_exact(&mut got).unwrap();
                    assert!(
                        got.iter().all(|&byte| byte == ids[i] as u8),
                        "stream {} lost data",
                        ids[i]
                    );
                }
            }
            assert_eq!(
                (session.stats().streams_cut, session.stats().receive_buffered),
                (1, 0),
                "{most} {piece}"
            );
        }
    });
}

/// P78: a stream that isn't accepted yet is cut, too.
#[test]
fn a_stream_in_the_backlog_is_cut_too() {
    test("a_stream_in_the_backlog_is_cut_too", || {
        let (mut raw, session) =
            against_server(quiet().max_receive_buffer(65_536).stall_timeout(Some(STALL)), 1);
        raw.syn(1, "never accepted");
        raw.psh(1, [1; 65_535]);
        raw.psh(1, [2; 100]);
        raw.expect(Command::Fin, 1);
        // The cut is counted a moment after its FIN is queued.
        until(|| session.stats().streams_cut == 1);
        let mut stream = session.accept().unwrap();
        assert_eq!(stream.name(), "never accepted");
        assert!(matches!(error_of(stream.read(&mut [0])), Error::Stalled { .. }));
        raw.assert_alive(&session, 3);
    });
}

/// P78: a stall that lasts longer than the keepalive timeout ends with a cut, because
/// keepalive rests meanwhile. Only after the cut does keepalive end the session, whose peer is
/// silent.
#[test]
fn a_cut_comes_before_keepalive_whose_clock_rests() {
    test("a_cut_comes_before_keepalive_whose_clock_rests", || {
        // Each of the few steps before the session stops reading may take this long.
        let timeout = Duration::from_secs(2);
        let alive = quiet()
            .keepalive_disabled(false)
            .keepalive_interval(timeout / 20)
            .keepalive_timeout(timeout);
        let before = Instant::now();
        let (mut raw, session, stream) = paused(alive.stall_timeout(Some(timeout * 3 / 2)));
        // This end goes on sending pings, so the peer's keepalive doesn't fire either. On a quiet
        // machine about 30 pings come before the cut.
        for _ in 0..6 {
            assert_eq!(raw.next().unwrap().header.command, Command::Nop);
        }
        assert!(stream.closed().recv().is_err());
        assert!(matches!(error_of((&stream).read(&mut [0])), Error::Stalled { .. }));
        assert!(session.closed().recv().is_err());
        assert!(
            matches!(session.close_reason(), Some(Error::KeepaliveTimeout(_))),
            "{:?}",
            session.close_reason()
        );
        assert!(
            before.elapsed() >= timeout * 5 / 2,
            "the clock restarts at the cut: {:?}",
            before.elapsed()
        );
    });
}

/// P79: each stall has its whole timeout, whatever the stalls before it took.
#[test]
fn each_stall_has_its_whole_timeout() {
    test("each_stall_has_its_whole_timeout", || {
        let stall = Duration::from_millis(2500);
        // Returns false if the machine made one of the stalls too long, so that the attempt shows
        // nothing.
        let in_time = || {
            let mut begin = Instant::now();
            let (mut raw, session, mut stream) = paused(quiet().stall_timeout(Some(stall)));
            let mut all = vec![0; 65_635];
            for pauses in 1..=5 {
                // Time itself is under test. Four of these pauses are longer than the stall
                // timeout.
                thread::sleep(stall * 3 / 10);
                let stats = session.stats();
                let read = stream.read_exact(&mut all);
                if begin.elapsed() >= stall {
                    return false;
                }
                assert_eq!((stats.receive_pauses, stats.streams_cut), (pauses, 0));
                read.unwrap();
                if pauses < 5 {
                    begin = Instant::now();
                    raw.psh(1, [1; 65_535]);
                    raw.psh(1, [2; 100]);
                    until(|| session.stats().receive_pauses > pauses);
                }
            }
            processed(&mut raw, &session, 11); // a SYN and ten PSH
            assert_eq!((session.stats().streams_cut, session.stats().receive_buffered), (0, 0));
            true
        };
        while !in_time() {}
    });
}

/// P78: bytes that `write_to` has given to its writer, and that the writer hasn't taken, count as
/// unread. A cut takes them back while the writer is still stuck. On version 1, one frame occupies
/// all of the budget. On version 2, three streams each have one frame with their writers, and a
/// fourth frame has no room.
#[test]
fn a_cut_takes_back_data_that_a_stuck_writer_holds() {
    struct Stuck(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv(); // fails when the test lets it go
            Ok(data.len().min(100))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    test("a_cut_takes_back_data_that_a_stuck_writer_holds", || {
        for (version, budget, streams) in [(1, 65536, 1), (2, BUDGET, 3)] {
            let server =
                quiet().version(version).max_receive_buffer(budget).stall_timeout(Some(STALL));
            let (mut raw, session) = against_server(server, version);
            let mut movers = Vec::new();
            for i in 0..streams {
                let id = 3 + 2 * i;
                raw.syn(id, "stuck");
                let stream = session.accept().unwrap();
                raw.psh(id, vec![1; 65_000]);
                let (say, heard) = std::sync::mpsc::channel();
                let (go, told) = std::sync::mpsc::channel();
                let mover = stream.clone();
                movers.push((
                    thread::spawn(move || mover.write_to(&mut Stuck(say, told))),
                    go,
                    stream,
                ));
                heard.recv().unwrap();
            }
            // The next frame has no room until a stream is cut.
            raw.syn(99, "other");
            let mut other = session.accept().unwrap();
            raw.psh(99, vec![2; 65_500]);
            let mut got = vec![0; 65_500];
            other.read_exact(&mut got).unwrap();
            assert!(got.iter().all(|byte| *byte == 2));
            assert_eq!(session.stats().streams_cut, 1);
            assert!(movers.iter().all(|(mover, ..)| !mover.is_finished()), "all of them are stuck");
            let mut cut = 0;
            for (mover, go, stream) in movers {
                if (&stream).write(&[0]).is_err() {
                    drop(go);
                    assert!(matches!(error_of(mover.join().unwrap()), Error::Stalled { .. }));
                    cut += 1;
                } else {
                    stream.close().unwrap();
                    drop(go);
                    assert!(matches!(error_of(mover.join().unwrap()), Error::Closed));
                }
            }
            assert_eq!((cut, session.stats().receive_buffered), (1, 0), "version {version}");
        }
    });
}

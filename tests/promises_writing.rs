//! The promises, *Writing*.

mod support;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use gmux::wire::Command;
use gmux::{Error, Stream};
use support::lab::{FAR, Lab, asleep, blocked, count, data, quiet, quiet_versions};
use support::raw::against_client;
use support::{Pattern, pair, test};

const SHORT: Duration = Duration::from_millis(20);

/// A stream of a session whose transport takes nothing: SYN and one byte (`first`) are in a write that is blocked, nothing is queued.
fn behind_a_blocked_transport(max_send_buffer: usize) -> (Lab, gmux::Session, Stream) {
    let (lab, session) = Lab::client(quiet().max_send_buffer(max_send_buffer));
    let mut stream = session.open("").unwrap();
    lab.blocked(); // SYN alone
    lab.allow(8);
    lab.until_frames(|frames| frames.len() == 1);
    stream.write_all(b"f").unwrap();
    lab.blocked();
    (lab, session, stream)
}

/// "`write` takes what there is room for and returns that count ..."
#[test]
fn a_write_takes_what_there_is_room_for_and_says_how_much() {
    test("a_write_takes_what_there_is_room_for_and_says_how_much", || {
        // Small copies are made in one way, large ones in another.
        for room in [10, 4096, 5000, 100_000] {
            let (lab, _session, mut stream) = behind_a_blocked_transport(room);
            let sent = Pattern::bytes(1, 2 * room);
            assert_eq!(stream.write(&sent[..room / 2]).unwrap(), room / 2);
            assert_eq!(stream.write(&sent[room / 2..]).unwrap(), room - room / 2, "a part");
            stream.set_nonblocking(true).unwrap();
            assert_eq!(stream.write(&sent[room..]).unwrap_err().kind(), ErrorKind::WouldBlock);
            assert_eq!(stream.write(&[]).unwrap(), 0, "nothing needs no room");
            lab.allow_all();
            let frames = lab.until_frames(|frames| data(frames, 3).len() > room);
            assert!(data(&frames, 3)[1..] == sent[..room]);
        }
    });
}

/// "... it waits only when there is none": for version 2's window too, which a raw peer sees filled to the byte.
#[test]
fn a_write_fills_the_peers_window_to_the_byte_and_then_waits() {
    test("a_write_fills_the_peers_window_to_the_byte_and_then_waits", || {
        let (mut raw, session) = against_client(quiet().version(2).max_send_buffer(1 << 20), 2);
        let mut stream = session.open("").unwrap();
        raw.expect(Command::Syn, 3);
        let sent = Pattern::bytes(2, 400_000);
        assert_eq!(stream.write(&sent).unwrap(), 262_144);
        let rest = sent[262_144..].to_vec();
        let write = blocked("no-window", {
            let mut stream = stream.clone();
            move || stream.write(&rest).unwrap()
        });
        assert!(raw.expect_data(3, 262_144) == sent[..262_144]);
        // A smaller window than what is in flight gives nothing; 100,010 more than was consumed gives 10.
        raw.upd(3, 162_144, 100_000);
        asleep("no-window");
        raw.upd(3, 162_144, 100_010);
        assert_eq!(write.join().unwrap(), 10);
        assert!(raw.expect_data(3, 10) == sent[262_144..262_154]);
    });
}

/// "`Err(TimedOut)` means it took nothing": whatever timed out, the peer receives exactly what the counts say.
#[test]
fn a_write_that_timed_out_took_nothing() {
    test("a_write_that_timed_out_took_nothing", || {
        for (config, max) in quiet_versions().into_iter().flat_map(|config| [(config.clone(), 100), (config, 50_000)]) {
            let (client, server) = pair(config.max_send_buffer(max).max_receive_buffer(262_144));
            let stream = client.open("").unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
            // The reader stops after each few bytes until a write has timed out.
            let (timed_out, go_on) = std::sync::mpsc::channel();
            let reader = thread::spawn(move || {
                let (mut stream, mut got, mut piece) = (server.accept().unwrap(), Vec::new(), vec![0; 60_000]);
                loop {
                    let _ = go_on.recv(); // disconnected: the writer is done
                    match stream.read(&mut piece).unwrap() {
                        0 => break,
                        n => got.extend_from_slice(&piece[..n]),
                    }
                }
                got
            });
            let (mut accepted, mut failures, mut call) = (Vec::new(), 0, 0u64);
            while failures < 30 {
                call += 1;
                let bytes = Pattern::bytes(call, [1, 77, 5000, 70_000][call as usize % 4]);
                match (&stream).write(&bytes) {
                    Ok(n) => accepted.extend_from_slice(&bytes[..n]),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::TimedOut);
                        failures += 1;
                        timed_out.send(()).unwrap();
                    }
                }
            }
            stream.close().unwrap();
            drop(timed_out);
            let got = reader.join().unwrap();
            assert_eq!(got.len(), accepted.len());
            assert!(got == accepted);
        }
    });
}

/// "`write` ... waits only when there is none": an expired deadline doesn't keep it from taking what there is room for.
#[test]
fn an_expired_deadline_still_lets_bytes_be_written_while_there_is_room() {
    test("an_expired_deadline_still_lets_bytes_be_written_while_there_is_room", || {
        let (lab, _session, mut stream) = behind_a_blocked_transport(100);
        stream.set_write_deadline(Some(Instant::now()));
        assert_eq!(stream.write(&[1; 60]).unwrap(), 60);
        assert_eq!(stream.write(&[2; 60]).unwrap(), 40);
        assert_eq!(stream.write(&[3; 60]).unwrap_err().kind(), ErrorKind::TimedOut);
        lab.allow_all();
        let frames = lab.until_frames(|frames| data(frames, 3).len() == 101);
        assert_eq!(data(&frames, 3)[1..], [[1; 60].as_slice(), &[2; 40]].concat());
    });
}

/// "One call's accepted bytes are contiguous, from however many threads."
#[test]
fn one_calls_bytes_are_contiguous_from_many_threads() {
    const THREADS: u8 = 8;
    const TAGS: u8 = 32;
    test("one_calls_bytes_are_contiguous_from_many_threads", || {
        for config in quiet_versions() {
            let (client, server) = pair(config.max_send_buffer(150_000).max_frame_size(9000));
            let stream = client.open("").unwrap();
            let start = Arc::new(Barrier::new(usize::from(THREADS)));
            let writers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (mut stream, start) = (stream.clone(), Arc::clone(&start));
                    // Each call writes bytes of one value; a thread's successive calls differ.
                    thread::spawn(move || {
                        start.wait();
                        let mut runs = VecDeque::new();
                        for call in 0..60 {
                            let len = [1, 50, 4000, 5000, 40_000, 100_000][(call + usize::from(thread)) % 6];
                            let tag = thread * TAGS + call as u8 % TAGS;
                            runs.push_back((tag, stream.write(&vec![tag; len]).unwrap()));
                        }
                        runs
                    })
                })
                .collect();
            let reader = thread::spawn(move || {
                let mut got = Vec::new();
                server.accept().unwrap().read_to_end(&mut got).unwrap();
                got
            });
            let mut runs: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            stream.close().unwrap();
            let got = reader.join().unwrap();
            for run in got.chunk_by(|a, b| a == b) {
                let (tag, thread) = (run[0], run[0] / TAGS);
                assert_eq!(runs[usize::from(thread)].pop_front(), Some((tag, run.len())));
            }
            assert!(runs.iter().all(VecDeque::is_empty), "all came");
        }
    });
}

/// "`flush` returns when the bytes accepted before it have been handed to the transport" - those alone.
#[test]
fn a_flush_waits_for_the_bytes_before_it_and_no_others() {
    test("a_flush_waits_for_the_bytes_before_it_and_no_others", || {
        let (lab, _session, mut stream) = behind_a_blocked_transport(1000);
        stream.write_all(b"before").unwrap();
        let flush = blocked("flusher", {
            let mut stream = stream.clone();
            move || stream.flush().unwrap()
        });
        stream.write_all(&[7; 900]).unwrap();
        lab.allow(9); // the frame that was blocked
        asleep("flusher");
        assert_eq!(data(&lab.frames(), 3), b"f");
        // What came after it was merged into the same frame, or the writer took its turn before: either way it is handed over in time.
        lab.allow_all();
        flush.join().unwrap();
        assert!(data(&lab.frames(), 3).starts_with(b"fbefore"));

        // A flush with nothing outstanding doesn't wait.
        stream.flush().unwrap();
        assert_eq!(data(&lab.frames(), 3).len(), 907);
        stream.set_write_deadline(Some(Instant::now()));
        stream.flush().unwrap();
    });
}

/// "... those alone": more data behind it, in a frame that isn't written, doesn't hold a flush up.
#[test]
fn a_flush_returns_though_later_bytes_are_stuck() {
    test("a_flush_returns_though_later_bytes_are_stuck", || {
        let (lab, _session, mut stream) = behind_a_blocked_transport(100_000);
        let flush = blocked("flush-first", {
            let mut stream = stream.clone();
            move || stream.flush().unwrap()
        });
        stream.write_all(&[7; 50_000]).unwrap();
        lab.allow(9);
        flush.join().unwrap();
        assert!(data(&lab.frames(), 3) == b"f");
        assert!(lab.blocked() > 32_768);
    });
}

/// "... (write deadline applies; nothing is withdrawn)".
#[test]
fn a_flush_that_timed_out_withdraws_nothing() {
    test("a_flush_that_timed_out_withdraws_nothing", || {
        let (lab, _session, mut stream) = behind_a_blocked_transport(1000);
        stream.write_all(b"kept").unwrap();
        stream.set_write_timeout(Some(SHORT)).unwrap();
        assert_eq!(stream.flush().unwrap_err().kind(), ErrorKind::TimedOut);
        stream.set_write_timeout(None).unwrap();
        stream.set_write_deadline(Some(Instant::now() + SHORT));
        assert!(matches!(Error::from(stream.flush().unwrap_err()), Error::Timeout));
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.flush().unwrap_err().kind(), ErrorKind::WouldBlock);
        stream.set_nonblocking(false).unwrap();
        stream.set_write_deadline(Some(Instant::now() + FAR));
        lab.allow_all();
        stream.flush().unwrap();
        assert_eq!(data(&lab.frames(), 3), b"fkept");
    });
}

/// The transport's own `flush` is called before the writer parks: what a buffered transport holds goes out without any call.
#[test]
fn the_transport_is_flushed_when_nothing_is_left_to_write() {
    test("the_transport_is_flushed_when_nothing_is_left_to_write", || {
        let (lab, session) = Lab::client(quiet());
        lab.allow_all();
        let mut stream = session.open("").unwrap();
        stream.write_all(b"x").unwrap();
        lab.until_frames(|frames| data(frames, 3) == b"x");
        let before = lab.wait(|state| (state.flushes > 0).then_some(state.flushes));
        stream.write_all(b"y").unwrap();
        lab.wait(|state| (state.flushes > before).then_some(()));
    });
}

/// "FIN follows what was accepted", and a write after `shutdown(Write)` is a `BrokenPipe`; a flush still works.
#[test]
fn after_shutdown_write_the_rest_is_sent_and_writes_are_broken_pipes() {
    test("after_shutdown_write_the_rest_is_sent_and_writes_are_broken_pipes", || {
        let (lab, _session, mut stream) = behind_a_blocked_transport(1000);
        stream.write_all(b"last").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert!(matches!(Error::from(stream.write(b"x").unwrap_err()), Error::WriteShutdown));
        assert_eq!(stream.write(b"").unwrap(), 0);
        lab.allow_all();
        stream.flush().unwrap();
        let frames = lab.until_frames(|frames| count(frames, Command::Fin, 3) == 1);
        assert_eq!((data(&frames, 3), frames.last().unwrap().header.command), (b"flast".to_vec(), Command::Fin));
    });
}

//! Closing a stream: close, half-close, drop, FIN, and writing after the peer's FIN.
//!
//! Promises: P25, P26, P27, P28, P29, P30, P31.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use gmux::Error;
use gmux::wire::Command;
use support::raw::{End, against_client, against_server};
use support::scripted::{FAR, Script, blocked, count, data, processed, quiet, quiet_versions};
use support::{Pattern, pair, test, until};

/// P25: closing a stream and dropping a handle don't block, and FIN follows the accepted bytes.
#[test]
fn closing_never_blocks_and_fin_follows_the_accepted_bytes() {
    test("closing_never_blocks_and_fin_follows_the_accepted_bytes", || {
        for by_drop in [false, true] {
            let (script, session) =
                Script::client(quiet().max_send_buffer(100_000).close_timeout(FAR));
            let sent = Pattern::bytes(1, 100_000);
            let streams: Vec<_> = (0..3).map(|_| session.open("").unwrap()).collect();
            for mut stream in &streams {
                let n = stream.write(&sent).unwrap();
                assert_eq!(n, sent.len());
            }
            // The transport takes nothing, so a close that waited for it would hang.
            for stream in streams {
                if !by_drop {
                    let other = stream.clone();
                    stream.close().unwrap();
                    other.close().unwrap();
                    assert_eq!((&other).write(b"x").unwrap_err().kind(), ErrorKind::NotConnected);
                    assert_eq!(
                        (&other).read(&mut [0]).unwrap_err().kind(),
                        ErrorKind::NotConnected
                    );
                    assert_eq!(
                        other.shutdown(Shutdown::Both).unwrap_err().kind(),
                        ErrorKind::NotConnected
                    );
                }
                drop(stream);
            }
            assert_eq!(session.num_streams(), 0);
            script.allow_all();
            let ids = [3, 5, 7];
            let frames = script
                .until_frames(|frames| ids.iter().all(|&id| count(frames, Command::Fin, id) > 0));
            for id in ids {
                assert!(data(&frames, id) == sent);
                let of_stream: Vec<_> =
                    frames.iter().filter(|frame| frame.header.stream_id == id).collect();
                assert_eq!(of_stream.first().unwrap().header.command, Command::Syn);
                assert_eq!(of_stream.last().unwrap().header.command, Command::Fin);
            }
            script.eof();
            session.close().unwrap();
            assert!(
                ids.iter().all(|&id| count(&script.frames(), Command::Fin, id) == 1),
                "exactly once"
            );
        }
    });
}

/// P26: the drop of a handle that isn't its stream's last ends nothing.
#[test]
fn a_stream_is_closed_by_the_drop_of_its_last_handle_alone() {
    test("a_stream_is_closed_by_the_drop_of_its_last_handle_alone", || {
        let (mut raw, session) = against_client(quiet(), 1);
        let stream = session.open("").unwrap();
        raw.expect(Command::Syn, 3);
        let mut other = stream.clone();
        drop(stream);
        other.write_all(b"alive").unwrap();
        assert_eq!(raw.expect_data(3, 5), b"alive");
        assert_eq!(session.num_streams(), 1);
        drop(other);
        raw.expect(Command::Fin, 3);
        assert_eq!(session.num_streams(), 0);
    });
}

/// P26: if a panic drops the last handle, the peer sees an ordinary end, because the wire has no
/// reset. The guide says at "An end of file is no proof" how to tell the two apart.
#[test]
fn a_handler_that_panics_looks_like_one_that_has_finished() {
    test("a_handler_that_panics_looks_like_one_that_has_finished", || {
        for version in [1, 2] {
            let (mut raw, session) = against_client(quiet().version(version), version);
            let mut stream = session.open("").unwrap();
            raw.expect(Command::Syn, 3);
            let handler = thread::spawn(move || {
                stream.write_all(b"the first half").unwrap();
                std::panic::resume_unwind(Box::new("of the handler's own making"))
            });
            let panicked: thread::Result<()> = handler.join();
            assert!(panicked.is_err());
            assert_eq!(raw.expect_data(3, 14), b"the first half");
            raw.expect(Command::Fin, 3);
        }
    });
}

/// P25: FIN follows the accepted bytes, though the write deadline has expired.
#[test]
fn fin_ignores_deadlines() {
    test("fin_ignores_deadlines", || {
        let (script, session) = Script::client(quiet());
        let mut stream = session.open("").unwrap();
        stream.write_all(b"data").unwrap();
        stream.set_deadline(Some(Instant::now()));
        stream.close().unwrap();
        script.allow_all();
        let frames = script.until_frames(|frames| count(frames, Command::Fin, 3) == 1);
        assert_eq!(data(&frames, 3), b"data");
    });
}

/// P27: unread data survives a half-close and the FINs of both ends.
#[test]
fn unread_data_survives_a_half_close_and_both_fins() {
    test("unread_data_survives_a_half_close_and_both_fins", || {
        for config in quiet_versions() {
            let (client, server) = pair(config);
            let mut ours = client.open("").unwrap();
            let there = Pattern::bytes(1, 200_000);
            let back = Pattern::bytes(2, 200_000);
            ours.write_all(&there).unwrap();
            ours.shutdown(Shutdown::Write).unwrap();
            let mut theirs = server.accept().unwrap();
            theirs.write_all(&back).unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            // Both ends have sent and received FIN. Neither has read.
            until(|| {
                client.stats().bytes_received == 200_000 && server.stats().bytes_received == 200_000
            });
            theirs.flush().unwrap();
            ours.flush().unwrap();
            for (stream, expected) in [(&mut ours, &back), (&mut theirs, &there)] {
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                assert!(got == *expected);
                assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
            }
            assert_eq!((client.num_streams(), server.num_streams()), (1, 1), "not closed yet");
        }
    });
}

/// P28: after FIN a stream sends no SYN, no PSH and no second FIN. Window updates go on while the
/// application reads.
#[test]
fn after_fin_a_stream_sends_nothing_but_upd() {
    test("after_fin_a_stream_sends_nothing_but_upd", || {
        let (mut raw, session) = against_client(quiet().version(2), 2);
        let mut stream = session.open("half").unwrap();
        stream.write_all(b"request").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(raw.expect(Command::Syn, 3), b"half");
        assert_eq!(raw.expect_data(3, 7), b"request");
        raw.expect(Command::Fin, 3);
        let mut consumed = 0;
        for _ in 0..20 {
            raw.psh(3, [1; 40_000]);
            stream.read_exact(&mut [0; 40_000]).unwrap();
            consumed += 40_000u32;
            let payload = raw.expect(Command::Upd, 3);
            let told = u32::from_le_bytes(payload[..4].try_into().unwrap());
            assert!(told > 0 && told <= consumed, "{told} of {consumed}");
        }
        stream.shutdown(Shutdown::Write).unwrap();
        raw.fin(3);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        drop(stream);
        raw.finish();
        let (rest, end) = raw.rest();
        assert!(rest.iter().all(|frame| frame.header.command == Command::Upd), "{rest:?}");
        assert_eq!(end, End::Clean);
    });
}

/// P29: after the peer's FIN, a writer without credit fails after `half_close_stall`.
#[test]
fn a_writer_without_credit_fails_some_time_after_the_peers_fin() {
    const STALL: Duration = Duration::from_millis(50);
    test("a_writer_without_credit_fails_some_time_after_the_peers_fin", || {
        let (mut raw, session) =
            against_client(quiet().version(2).half_close_stall(Some(STALL)), 2);
        let stream = session.open("").unwrap();
        (&stream).write_all(&[0; 262_144]).unwrap();
        let write = blocked("starving", {
            let mut stream = stream.clone();
            move || (stream.write(b"x").unwrap_err(), Instant::now())
        });
        let before = Instant::now();
        raw.fin(3);
        let (error, failed) = write.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert!(matches!(Error::from(error), Error::PeerFinished(STALL)));
        assert!(failed - before >= STALL);
        // Only writing has failed.
        stream.close().unwrap();
        raw.expect(Command::Syn, 3);
        raw.expect_data(3, 262_144);
        raw.expect(Command::Fin, 3);
    });
}

/// P29: each window update with room starts the time of `half_close_stall` again.
#[test]
fn credit_after_the_peers_fin_restarts_the_writers_clock() {
    const STALL: Duration = Duration::from_millis(1500);
    test("credit_after_the_peers_fin_restarts_the_writers_clock", || {
        // Returns false if this machine made a pause so long that the attempt shows nothing.
        let in_time = || {
            let (mut raw, session) =
                against_client(quiet().version(2).half_close_stall(Some(STALL)), 2);
            let stream = session.open("").unwrap();
            (&stream).write_all(&[0; 262_144]).unwrap();
            // Each update has one byte of room. The writer that is served first takes it, and the
            // time starts again for all writers.
            let writers: Vec<_> = (0..8)
                .map(|i| {
                    let mut stream = stream.clone();
                    let starve =
                        move || (stream.write_all(&[1; 5000]).unwrap_err(), Instant::now());
                    blocked(&format!("starving-{i}"), starve)
                })
                .collect();
            let mut last = Instant::now();
            raw.fin(3);
            let mut late = false;
            for more in 1..=8 {
                // Time itself is under test. All eight pauses are longer than one stall together.
                thread::sleep(STALL / 5);
                let before = std::mem::replace(&mut last, Instant::now());
                raw.upd(3, 0, 262_144 + more);
                // The FIN, and for each round an UPD and a NOP.
                processed(&mut raw, &session, u64::from(2 * more));
                late |= before.elapsed() >= STALL;
            }
            let ends: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            if late {
                return false;
            }
            for (i, (error, failed)) in ends.into_iter().enumerate() {
                match Error::from(error) {
                    Error::PartialWrite { accepted: 8, source } if i == 0 => {
                        assert!(matches!(*source, Error::PeerFinished(STALL)));
                    }
                    error => {
                        assert!(i > 0 && matches!(error, Error::PeerFinished(STALL)), "{error}")
                    }
                }
                assert!(failed >= last + STALL, "{:?} too early", last + STALL - failed);
            }
            raw.expect(Command::Syn, 3);
            assert_eq!(raw.expect_data(3, 262_152)[262_144..], [1; 8]);
            true
        };
        while !in_time() {}
    });
}

/// P29: a peer that has finished can be written to for as long as it reads.
#[test]
fn a_writer_with_credit_goes_on_after_the_peers_fin() {
    test("a_writer_with_credit_goes_on_after_the_peers_fin", || {
        for config in quiet_versions() {
            let (client, server) = pair(config.half_close_stall(Some(Duration::from_secs(30))));
            let ours = client.open("").unwrap();
            ours.shutdown(Shutdown::Write).unwrap();
            let writer = thread::spawn(move || {
                let mut theirs = server.accept().unwrap();
                assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
                theirs.write_all(&Pattern::bytes(3, 2_000_000)).unwrap();
            });
            let mut got = Vec::new();
            (&ours).read_to_end(&mut got).unwrap();
            assert!(got == Pattern::bytes(3, 2_000_000));
            writer.join().unwrap();
        }
    });
}

/// Data for a stream that is closed here is read and dropped, before and after its FIN is handed
/// over. It occupies no budget.
#[test]
fn data_for_a_closed_stream_costs_nothing() {
    test("data_for_a_closed_stream_costs_nothing", || {
        let (mut raw, session) = against_server(quiet().max_receive_buffer(65_536), 1);
        raw.syn(1, "");
        raw.psh(1, [0; 20_000]);
        let stream = session.accept().unwrap();
        processed(&mut raw, &session, 2);
        assert!(session.stats().receive_buffered >= 20_000);
        drop(stream);
        raw.expect(Command::Fin, 1);
        assert_eq!(session.stats().receive_buffered, 0, "the unread data is gone");
        (0..20).for_each(|_| raw.psh(1, [0; 20_000]));
        raw.fin(1);
        raw.assert_alive(&session, 3);
        assert_eq!((session.stats().receive_buffered, session.stats().receive_pauses), (0, 0));
    });
}

/// P26, and a test of Go's smux: many streams and their session are closed at once, each by a
/// thread of its own.
#[test]
fn many_streams_and_their_session_close_at_once() {
    test("many_streams_and_their_session_close_at_once", || {
        for config in quiet_versions() {
            let (client, server) = pair(config.close_timeout(Duration::from_secs(30)));
            let streams: Vec<_> = (0..100)
                .map(|i| {
                    let mut stream = client.open(format!("{i}")).unwrap();
                    stream.write_all(&[0; 1000]).unwrap();
                    stream
                })
                .collect();
            let start = Arc::new(Barrier::new(102));
            let mut threads: Vec<_> = streams
                .into_iter()
                .map(|stream| {
                    let start = Arc::clone(&start);
                    thread::spawn(move || {
                        start.wait();
                        stream.close().unwrap();
                        stream.close().unwrap();
                    })
                })
                .collect();
            for _ in 0..2 {
                let start = Arc::clone(&start);
                let client = client.clone();
                threads.push(thread::spawn(move || {
                    start.wait();
                    client.close().unwrap();
                }));
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert!(client.is_closed());
            assert_eq!(client.num_streams(), 0);
            assert!(server.closed().recv().is_err());
            // All accepted bytes arrived, however the stream ended.
            for i in 0..100 {
                let mut stream = server.accept().unwrap();
                assert_eq!(stream.name(), i.to_string());
                stream.read_exact(&mut [0; 1000]).unwrap();
                match stream.read(&mut [0]) {
                    Ok(0) => {}
                    Ok(n) => panic!("{n} bytes too many"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionAborted),
                }
            }
            server.close().unwrap_or_else(|error| {
                assert!(matches!(error, Error::ConnectionLost(_)), "{error}")
            });
        }
    });
}

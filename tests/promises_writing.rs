//! Writing: `write`, `write_all`, `flush`, their atomicity, and their failures.
//!
//! Promises: P18, P19, P20, P21, P22, P23, P24, P25.

mod support;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use gmux::wire::Command;
use gmux::{Error, Stream};
use support::raw::against_client;
use support::scripted::{FAR, Script, asleep, blocked, count, data, quiet, quiet_versions};
use support::{Pattern, pair, test};

const SHORT: Duration = Duration::from_millis(20);

/// Returns a stream over a transport that takes nothing. Its SYN has been written. One byte, `f`,
/// is in a write that is blocked. Nothing is queued.
fn behind_a_blocked_transport(max_send_buffer: usize) -> (Script, gmux::Session, Stream) {
    let (script, session) = Script::client(quiet().max_send_buffer(max_send_buffer));
    let mut stream = session.open("").unwrap();
    script.blocked(); // in the write of SYN
    script.allow(8);
    script.until_frames(|frames| frames.len() == 1);
    stream.write_all(b"f").unwrap();
    script.blocked();
    (script, session, stream)
}

/// P18: `write` takes the bytes for which there is room, and returns their number.
#[test]
fn a_write_takes_the_bytes_that_fit_and_returns_their_number() {
    test("a_write_takes_the_bytes_that_fit_and_returns_their_number", || {
        // Small and large pieces are copied by different code.
        for room in [10, 4096, 5000, 100_000] {
            let (script, _session, mut stream) = behind_a_blocked_transport(room);
            let sent = Pattern::bytes(1, 2 * room);
            assert_eq!(stream.write(&sent[..room / 2]).unwrap(), room / 2);
            assert_eq!(stream.write(&sent[room / 2..]).unwrap(), room - room / 2, "a part");
            stream.set_nonblocking(true).unwrap();
            assert_eq!(stream.write(&sent[room..]).unwrap_err().kind(), ErrorKind::WouldBlock);
            assert_eq!(stream.write(&[]).unwrap(), 0, "nothing needs no room");
            script.allow_all();
            let frames = script.until_frames(|frames| data(frames, 3).len() > room);
            assert!(data(&frames, 3)[1..] == sent[..room]);
        }
    });
}

/// P18: `write` waits only while there is no room, here in version 2's window. The raw peer
/// receives exactly the window's bytes.
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
        // A window smaller than the bytes in flight has no room. The next update allows 10 bytes
        // more than were sent.
        raw.upd(3, 162_144, 100_000);
        asleep("no-window");
        raw.upd(3, 162_144, 100_010);
        assert_eq!(write.join().unwrap(), 10);
        assert!(raw.expect_data(3, 10) == sent[262_144..262_154]);
    });
}

/// P19: a `write` that timed out has accepted nothing. The peer receives exactly the bytes that
/// other calls accepted.
#[test]
fn a_write_that_timed_out_took_nothing() {
    test("a_write_that_timed_out_took_nothing", || {
        for (config, max) in quiet_versions()
            .into_iter()
            .flat_map(|config| [(config.clone(), 100), (config, 50_000)])
        {
            let (client, server) = pair(config.max_send_buffer(max).max_receive_buffer(262_144));
            let stream = client.open("").unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
            // The reader reads once for each write that timed out, and waits for the next.
            let (timed_out, go_on) = std::sync::mpsc::channel();
            let reader = thread::spawn(move || {
                let mut stream = server.accept().unwrap();
                let mut got = Vec::new();
                let mut piece = vec![0; 60_000];
                loop {
                    let _ = go_on.recv(); // fails when the writer is done
                    match stream.read(&mut piece).unwrap() {
                        0 => break,
                        n => got.extend_from_slice(&piece[..n]),
                    }
                }
                got
            });
            let mut accepted = Vec::new();
            let mut failures = 0;
            let mut call = 0u64;
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

/// P18: a `write` after its deadline still takes bytes while there is room.
#[test]
fn an_expired_deadline_still_lets_bytes_be_written_while_there_is_room() {
    test("an_expired_deadline_still_lets_bytes_be_written_while_there_is_room", || {
        let (script, _session, mut stream) = behind_a_blocked_transport(100);
        stream.set_write_deadline(Some(Instant::now()));
        assert_eq!(stream.write(&[1; 60]).unwrap(), 60);
        assert_eq!(stream.write(&[2; 60]).unwrap(), 40);
        assert_eq!(stream.write(&[3; 60]).unwrap_err().kind(), ErrorKind::TimedOut);
        script.allow_all();
        let frames = script.until_frames(|frames| data(frames, 3).len() == 101);
        assert_eq!(data(&frames, 3)[1..], [[1; 60].as_slice(), &[2; 40]].concat());
    });
}

/// P21: the bytes of one call are contiguous, however many threads write the stream.
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
                    let mut stream = stream.clone();
                    let start = Arc::clone(&start);
                    // Each call writes bytes of one value. Two calls of one thread in a row have
                    // different values.
                    thread::spawn(move || {
                        start.wait();
                        let mut runs = VecDeque::new();
                        for call in 0..60 {
                            let len = [1, 50, 4000, 5000, 40_000, 100_000]
                                [(call + usize::from(thread)) % 6];
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
            let mut runs: Vec<_> =
                writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            stream.close().unwrap();
            let got = reader.join().unwrap();
            for run in got.chunk_by(|a, b| a == b) {
                let tag = run[0];
                let thread = run[0] / TAGS;
                assert_eq!(runs[usize::from(thread)].pop_front(), Some((tag, run.len())));
            }
            assert!(runs.iter().all(VecDeque::is_empty), "all came");
        }
    });
}

/// P24: `flush` returns when the bytes that were accepted before it have been handed to the
/// transport.
#[test]
fn a_flush_waits_for_the_bytes_before_it_and_no_others() {
    test("a_flush_waits_for_the_bytes_before_it_and_no_others", || {
        let (script, _session, mut stream) = behind_a_blocked_transport(1000);
        stream.write_all(b"before").unwrap();
        let flush = blocked("flusher", {
            let mut stream = stream.clone();
            move || stream.flush().unwrap()
        });
        stream.write_all(&[7; 900]).unwrap();
        script.allow(9); // the blocked frame
        asleep("flusher");
        assert_eq!(data(&script.frames(), 3), b"f");
        // The later bytes are in the flush's own frame or in a later one. The flush returns in both
        // cases.
        script.allow_all();
        flush.join().unwrap();
        assert!(data(&script.frames(), 3).starts_with(b"fbefore"));

        // A flush returns at once if nothing is outstanding.
        stream.flush().unwrap();
        assert_eq!(data(&script.frames(), 3).len(), 907);
        stream.set_write_deadline(Some(Instant::now()));
        stream.flush().unwrap();
    });
}

/// P24: a flush returns though later bytes are stuck in another frame.
#[test]
fn a_flush_returns_though_later_bytes_are_stuck() {
    test("a_flush_returns_though_later_bytes_are_stuck", || {
        let (script, _session, mut stream) = behind_a_blocked_transport(100_000);
        let flush = blocked("flush-first", {
            let mut stream = stream.clone();
            move || stream.flush().unwrap()
        });
        stream.write_all(&[7; 50_000]).unwrap();
        script.allow(9);
        flush.join().unwrap();
        assert!(data(&script.frames(), 3) == b"f");
        assert!(script.blocked() > 32_768);
    });
}

/// P24: a flush obeys the write deadline. If its time runs out, nothing is withdrawn.
#[test]
fn a_flush_that_timed_out_withdraws_nothing() {
    test("a_flush_that_timed_out_withdraws_nothing", || {
        let (script, _session, mut stream) = behind_a_blocked_transport(1000);
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
        script.allow_all();
        stream.flush().unwrap();
        assert_eq!(data(&script.frames(), 3), b"fkept");
    });
}

/// P24: the writer calls the transport's own `flush` before it parks. So bytes in a buffered
/// transport are sent without any further call.
#[test]
fn the_transport_is_flushed_when_nothing_is_left_to_write() {
    test("the_transport_is_flushed_when_nothing_is_left_to_write", || {
        let (script, session) = Script::client(quiet());
        script.allow_all();
        let mut stream = session.open("").unwrap();
        stream.write_all(b"x").unwrap();
        script.until_frames(|frames| data(frames, 3) == b"x");
        let before = script.wait(|state| (state.flushes > 0).then_some(state.flushes));
        stream.write_all(b"y").unwrap();
        script.wait(|state| (state.flushes > before).then_some(()));
    });
}

/// P25: after `shutdown(Write)`, the accepted bytes are sent, then FIN. A write fails with the kind
/// `BrokenPipe`, and a flush still works.
#[test]
fn after_shutdown_write_the_rest_is_sent_and_writes_are_broken_pipes() {
    test("after_shutdown_write_the_rest_is_sent_and_writes_are_broken_pipes", || {
        let (script, _session, mut stream) = behind_a_blocked_transport(1000);
        stream.write_all(b"last").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert!(matches!(Error::from(stream.write(b"x").unwrap_err()), Error::WriteShutdown));
        assert_eq!(stream.write(b"").unwrap(), 0);
        script.allow_all();
        stream.flush().unwrap();
        let frames = script.until_frames(|frames| count(frames, Command::Fin, 3) == 1);
        assert_eq!(
            (data(&frames, 3), frames.last().unwrap().header.command),
            (b"flast".to_vec(), Command::Fin)
        );
    });
}

// ---- `write_all` is one call --------------------------------------------------------------------

/// Returns a record: its writer, its number, its length, and then that number of bytes, which
/// depend on writer and number.
fn record(writer: u8, number: u32, len: usize) -> Vec<u8> {
    let mut record = vec![writer];
    record.extend(number.to_be_bytes());
    record.extend((len as u32).to_be_bytes());
    record.extend(Pattern::bytes(u64::from(writer) << 32 | u64::from(number), len));
    record
}

const HEAD: usize = 9;

/// A record that was cut: its writer, the number of the writer's whole records before it, and the
/// accepted bytes. The writer was told by `PartialWrite`, and wrote no further record.
type Cut = (u8, usize, Vec<u8>);

/// Splits the received bytes into records, and returns each one's writer and number. All records
/// must be whole, except those in `told`.
fn records(mut data: &[u8], mut told: Vec<Cut>) -> Vec<(u8, u32)> {
    let mut whole: Vec<(u8, u32)> = Vec::new();
    loop {
        let seen = |writer| whole.iter().filter(|(by, _)| *by == writer).count();
        let cut = told
            .iter()
            .position(|(by, before, part)| seen(*by) == *before && data.starts_with(part));
        if let Some(at) = cut {
            data = &data[told.swap_remove(at).2.len()..];
            continue;
        }
        let Some((head, rest)) = data.split_at_checked(HEAD) else { break };
        let writer = head[0];
        let number = u32::from_be_bytes(head[1..5].try_into().unwrap());
        let len = u32::from_be_bytes(head[5..9].try_into().unwrap()) as usize;
        let expected = &record(writer, number, len)[HEAD..];
        assert!(
            rest.get(..len) == Some(expected),
            "a torn record: {writer}/{number} of {len} bytes"
        );
        whole.push((writer, number));
        data = &rest[len..];
    }
    assert!(
        data.is_empty() && told.is_empty(),
        "{} bytes are left over, and {} cuts",
        data.len(),
        told.len()
    );
    whole
}

/// P21: eight threads write records of a few bytes up to 1 MiB, and a reader takes a little at a
/// time.
#[test]
fn records_of_many_threads_never_tear() {
    const WRITERS: u8 = 8;
    const EACH: u32 = 12;
    test("records_of_many_threads_never_tear", || {
        for config in quiet_versions() {
            let (client, server) = pair(config.max_send_buffer(100_000));
            let stream = client.open("records").unwrap();
            let start = Arc::new(Barrier::new(usize::from(WRITERS)));
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let mut stream = stream.clone();
                    let start = Arc::clone(&start);
                    thread::spawn(move || {
                        start.wait();
                        for number in 0..EACH {
                            let len = [1, 88, 4000, 5000, 70_000, 300_000]
                                [(number as usize + usize::from(writer)) % 6];
                            let len = if number == u32::from(writer) && writer < 2 {
                                1 << 20
                            } else {
                                len
                            };
                            match writer % 2 {
                                0 => stream.write_all(&record(writer, number, len)).unwrap(),
                                _ => (&stream).write_all(&record(writer, number, len)).unwrap(),
                            }
                        }
                    })
                })
                .collect();
            let reader = thread::spawn(move || {
                let mut stream = server.accept().unwrap();
                let mut got = Vec::new();
                let mut piece = vec![0; 50_000];
                for i in 0.. {
                    match stream.read(&mut piece[..[1, 700, 9_000, 50_000][i % 4]]).unwrap() {
                        0 => break,
                        n => got.extend_from_slice(&piece[..n]),
                    }
                    thread::yield_now();
                }
                got
            });
            for writer in writers {
                writer.join().unwrap();
            }
            stream.close().unwrap();
            let whole = records(&reader.join().unwrap(), Vec::new());
            assert_eq!(whole.len(), usize::from(WRITERS) * EACH as usize);
            for writer in 0..WRITERS {
                let numbers =
                    whole.iter().filter(|(by, _)| *by == writer).map(|(_, number)| *number);
                assert!(numbers.eq(0..EACH), "in its thread's order");
            }
        }
    });
}

/// P22: a deadline, the non-blocking mode or a close comes in the middle of writing. Each record
/// arrives whole or not at all, or its writer was told how many of its bytes were accepted.
#[test]
fn a_record_is_cut_only_where_its_writer_was_told_so() {
    const WRITERS: u8 = 8;
    test("a_record_is_cut_only_where_its_writer_was_told_so", || {
        for (config, end) in quiet_versions()
            .into_iter()
            .flat_map(|config| [0, 1, 2].map(|end| (config.clone(), end)))
        {
            let (client, server) = pair(config.max_send_buffer(20_000));
            let stream = client.open("records").unwrap();
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let mut stream = stream.clone();
                    // Writes until a record is cut or the stream ends. Returns the accepted
                    // records, and the accepted part of the record that was cut.
                    thread::spawn(move || {
                        let mut taken = Vec::new();
                        for number in 0.. {
                            let record = record(
                                writer,
                                number,
                                [1, 3000, 40_000, 8_000][(number % 4) as usize],
                            );
                            match stream.write_all(&record) {
                                Ok(()) => taken.push((writer, number)),
                                Err(error) => match Error::from(error) {
                                    Error::PartialWrite { accepted, .. } => {
                                        // The reader would take further bytes for the rest of this
                                        // record.
                                        let _ = stream.shutdown(Shutdown::Write);
                                        return (taken, Some(record[..accepted].to_vec()));
                                    }
                                    Error::Timeout | Error::WouldBlock => thread::yield_now(),
                                    _ => return (taken, None),
                                },
                            }
                        }
                        unreachable!()
                    })
                })
                .collect();
            let (tell, told) = std::sync::mpsc::channel();
            let reader = thread::spawn(move || {
                let mut stream = server.accept().unwrap();
                let mut got = Vec::new();
                let mut piece = vec![0; 30_000];
                loop {
                    match stream.read(&mut piece).unwrap() {
                        0 => return got,
                        n => got.extend_from_slice(&piece[..n]),
                    }
                    let _ = tell.send(got.len());
                }
            });
            assert!(told.iter().any(|len| len > 1 << 20));
            match end {
                0 => stream.set_write_deadline(Some(Instant::now())),
                1 => stream.set_nonblocking(true).unwrap(),
                _ => stream.close().unwrap(),
            }
            let ends: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            stream.close().unwrap();
            // Before the stream is shut down, other threads may write behind a record that was cut.
            let told = ends
                .iter()
                .zip(0..)
                .filter_map(|((taken, cut), by)| Some((by, taken.len(), cut.clone()?)));
            let mut whole = records(&reader.join().unwrap(), told.collect());
            let mut taken: Vec<_> = ends.iter().flat_map(|(taken, _)| taken.clone()).collect();
            whole.sort_unstable();
            taken.sort_unstable();
            assert!(whole == taken, "all that was taken came, and nothing else");
        }
    });
}

/// P20: eight threads write lines of 97 bytes by plain `write`, and each line is accepted whole.
#[test]
fn small_writes_are_whole() {
    const WRITERS: u8 = 8;
    test("small_writes_are_whole", || {
        // In two cases the send buffer is always full. In the third case the window is.
        for (version, queue, window) in [(1, 4096, 65536), (2, 4096, 65536), (2, 262_144, 8192)] {
            let config = quiet().version(version).max_send_buffer(queue).max_stream_buffer(window);
            let (client, server) = pair(config);
            let stream = client.open("lines").unwrap();
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let mut stream = stream.clone();
                    thread::spawn(move || {
                        for number in 0..1000 {
                            let line = record(writer, number, 97 - HEAD);
                            assert_eq!(stream.write(&line).unwrap(), 97);
                        }
                    })
                })
                .collect();
            let mut theirs = server.accept().unwrap();
            let reader = thread::spawn(move || {
                let mut got = Vec::new();
                theirs.read_to_end(&mut got).unwrap();
                got
            });
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            stream.close().unwrap();
            assert_eq!(records(&reader.join().unwrap(), Vec::new()).len(), 8000);
        }
    });
}

/// P20: in non-blocking mode a small `write` that doesn't fit whole is `WouldBlock`. With a smaller
/// `max_send_buffer` it takes the bytes that fit.
#[test]
fn a_small_write_is_whole_or_not_at_all_unless_it_may_never_fit() {
    test("a_small_write_is_whole_or_not_at_all_unless_it_may_never_fit", || {
        let (_script, _session, mut stream) = behind_a_blocked_transport(4096);
        assert_eq!(stream.write(&[0; 4000]).unwrap(), 4000);
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.write(&[0; 97]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(matches!(Error::from(stream.write_all(&[0; 97]).unwrap_err()), Error::WouldBlock));
        assert_eq!(stream.write(&[0; 96]).unwrap(), 96);
        let (_script, _session, mut stream) = behind_a_blocked_transport(4095);
        assert_eq!(stream.write(&[0; 4000]).unwrap(), 4000);
        assert_eq!(stream.write(&[0; 97]).unwrap(), 95);
    });
}

/// P22, P23: a `write_all` that fails returns the number of accepted bytes. A call that waits
/// behind it takes nothing, and has a timeout of its own.
#[test]
fn a_write_all_that_fails_says_how_much_was_accepted() {
    test("a_write_all_that_fails_says_how_much_was_accepted", || {
        let (script, _session, stream) = behind_a_blocked_transport(10_000);
        let midway = blocked("midway", {
            let mut stream = stream.clone();
            move || stream.write_all(&[1; 15_000]).unwrap_err()
        });
        let behind = blocked("behind", {
            let mut stream = stream.clone();
            move || stream.write_all(b"behind").unwrap_err()
        });
        stream.set_write_deadline(Some(Instant::now() + SHORT));
        let error = midway.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let inner = error.get_ref().and_then(|error| error.downcast_ref());
        let Some(Error::PartialWrite { accepted: 10_000, source }) = inner else {
            panic!("{error:?}")
        };
        assert!(matches!(**source, Error::Timeout));
        assert!(matches!(Error::from(behind.join().unwrap()), Error::Timeout), "it took nothing");
        stream.shutdown(Shutdown::Write).unwrap();
        script.allow_all();
        let frames = script.until_frames(|frames| count(frames, Command::Fin, 3) == 1);
        assert_eq!(data(&frames, 3)[1..], [1; 10_000]);
    });
}

/// P21: `write!`, a trait object, and code that is generic over `Write` make one call.
#[test]
fn every_way_to_write_all_is_one_call() {
    fn generic(mut writer: impl Write, len: usize) {
        writer.write_all(&vec![b'g'; len]).unwrap();
    }
    test("every_way_to_write_all_is_one_call", || {
        const LEN: usize = 50_000;
        let (script, _session, stream) = behind_a_blocked_transport(10_000);
        let mut object: Box<dyn gmux::MuxStream> = Box::new(stream.clone());
        let first = blocked("object", move || object.write_all(&[b'o'; LEN]).unwrap());
        // If each piece of the text were a call of its own, the other calls' bytes would come
        // between them.
        let mut formats = stream.clone();
        let text = "f".repeat(LEN / 2);
        let second = blocked("formats", move || write!(formats, "{text}{}", text.clone()).unwrap());
        let by_value = stream.clone();
        let third = blocked("generic", move || generic(by_value, LEN));
        let mut boxed: Box<dyn gmux::MuxStream> = Box::new(stream.clone());
        let fourth = blocked("boxed", move || write!(boxed, "b{}", "x".repeat(LEN)).unwrap());
        script.allow_all();
        [first, second, third, fourth].into_iter().for_each(|thread| thread.join().unwrap());
        (&stream).flush().unwrap();
        let frames = script.until_frames(|frames| data(frames, 3).len() == 4 * LEN + 2);
        let data = data(&frames, 3);
        let runs: Vec<_> = data.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
        assert_eq!(
            runs,
            [(b'f', 1), (b'o', LEN), (b'f', LEN), (b'g', LEN), (b'b', 1), (b'x', LEN)],
            "as they came"
        );
    });
}

/// P21: a `write!` that fails to format its text writes nothing.
#[test]
fn text_that_cannot_be_formatted_is_not_written() {
    struct Broken;
    impl std::fmt::Display for Broken {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Err(std::fmt::Error)
        }
    }
    test("text_that_cannot_be_formatted_is_not_written", || {
        let (script, _session, mut stream) = behind_a_blocked_transport(10_000);
        assert!(write!(stream, "half of it {Broken}").is_err());
        stream.close().unwrap();
        script.allow_all();
        let frames = script.until_frames(|frames| count(frames, Command::Fin, 3) == 1);
        assert_eq!(data(&frames, 3), b"f");
    });
}

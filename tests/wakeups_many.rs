//! Several calls that are blocked on one stream at once. One piece of data wakes one of them. If
//! that one leaves data behind, it wakes the next. An ending wakes all of them.
//!
//! Promises: P15, P21, P26, P45, P50, P51.

mod support;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gmux::wire::{Command, Frame};
use gmux::{Config, Session, Stream};
use support::blocked::{Blocked, blocked, started};
use support::frame_peer::{FramePeer, frame_peer};
use support::{test, until};

const FAR: Duration = Duration::from_secs(3600);
const VERSIONS: [u8; 2] = [1, 2];

struct Fixture {
    peer: FramePeer,
    stream: Stream,
    session: Session,
}

fn fixture(version: u8) -> Fixture {
    let (peer, transport) = frame_peer(version);
    let config = Config::new().version(version).max_send_buffer(4096).close_timeout(FAR);
    let session = Session::server(transport, config).unwrap();
    peer.syn(3, "fixture");
    Fixture { stream: session.accept().unwrap(), peer, session }
}

/// Starts a read of at most `most` bytes, which returns the bytes.
fn read(stream: &Stream, most: usize) -> Blocked<io::Result<Vec<u8>>> {
    let mut stream = stream.clone();
    blocked(move || {
        let mut data = vec![0; most];
        let n = stream.read(&mut data)?;
        data.truncate(n);
        Ok(data)
    })
}

fn write(stream: &Stream, byte: u8, len: usize) -> Blocked<io::Result<usize>> {
    let mut stream = stream.clone();
    blocked(move || stream.write(&vec![byte; len]))
}

fn flush(stream: &Stream) -> Blocked<io::Result<()>> {
    let mut stream = stream.clone();
    blocked(move || stream.flush())
}

/// Shuts the transport, and fills the stream's send buffer to the last byte. Returns the number of
/// accepted bytes.
fn fill(fixture: &Fixture) -> usize {
    fixture.peer.shut();
    let mut stream = &fixture.stream;
    let mut accepted = stream.write(b"x").unwrap();
    fixture.peer.wait_stuck();
    fixture.stream.set_nonblocking(true).unwrap();
    while let Ok(n) = stream.write(&[b'x'; 5000]) {
        accepted += n;
    }
    fixture.stream.set_nonblocking(false).unwrap();
    accepted
}

/// Waits until one of the calls has returned. Removes it, and returns its result.
fn take_finished<T>(calls: &mut Vec<Blocked<T>>) -> T {
    until(|| calls.iter().any(Blocked::is_finished));
    let at = calls.iter().position(Blocked::is_finished).unwrap();
    calls.remove(at).join()
}

// ---- readers ------------------------------------------------------------------------------------

#[test]
fn one_piece_of_data_wakes_one_read_and_the_others_stay_blocked() {
    test("one_piece_of_data_wakes_one_read_and_the_others_stay_blocked", || {
        for version in VERSIONS {
            let fixture = fixture(version);
            let mut calls: Vec<_> = (0..3).map(|_| read(&fixture.stream, 16)).collect();
            for piece in [&b"one"[..], b"two", b"three"] {
                fixture.peer.psh(3, piece);
                assert_eq!(take_finished(&mut calls).unwrap(), piece);
                for call in &calls {
                    call.assert_asleep();
                }
            }
        }
    });
}

/// P51: each of these reads leaves data for the others. Reads of 1 byte copy under the stream's
/// lock, and reads of 5000 bytes outside it.
#[test]
fn a_reader_that_leaves_data_behind_wakes_the_next() {
    test("a_reader_that_leaves_data_behind_wakes_the_next", || {
        for version in VERSIONS {
            for size in [1, 5000] {
                let fixture = fixture(version);
                let calls: Vec<_> = (0..4).map(|_| read(&fixture.stream, size)).collect();
                // One frame makes the reader thread wake one call. Each call wakes the next.
                let sent: Vec<u8> = (0..4).flat_map(|byte| vec![byte; size]).collect();
                fixture.peer.psh(3, &sent);
                let mut got: Vec<u8> =
                    calls.into_iter().flat_map(|call| call.join().unwrap()).collect();
                got.sort_unstable();
                assert!(got == sent, "every byte once");
            }
        }
    });
}

#[test]
fn a_read_that_times_out_as_data_comes_loses_none() {
    test("a_read_that_times_out_as_data_comes_loses_none", || {
        let fixture = fixture(1);
        for round in 0..80u64 {
            fixture.stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
            let mut stream = fixture.stream.clone();
            let limited = started(move || stream.read_exact(&mut [0; 4]));
            // The data comes at about the time of the limit. In each round it comes a little later.
            std::thread::sleep(Duration::from_micros(8_000 + 50 * round));
            fixture.peer.psh(3, "data");
            let first = limited.join();
            fixture.stream.set_read_timeout(None).unwrap();
            if let Err(error) = first {
                assert_eq!(error.kind(), ErrorKind::TimedOut);
                (&fixture.stream).read_exact(&mut [0; 4]).unwrap();
            }
        }
        fixture.peer.fin(3);
        assert_eq!((&fixture.stream).read(&mut [0]).unwrap(), 0, "nothing came twice");
    });
}

/// A writer for `write_to` that reports each call, and waits until it may return.
struct Slow {
    called: mpsc::Sender<usize>,
    leave: mpsc::Receiver<()>,
}

impl Write for Slow {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.called.send(buf.len()).unwrap();
        self.leave.recv().unwrap();
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Calls `happens` while `write_to` holds the data and three readers wait for it. The event has to
/// reach all of them.
fn while_write_to_is_busy(happens: impl Fn(&Fixture), check: impl Fn(io::Result<Vec<u8>>)) {
    for version in VERSIONS {
        let fixture = fixture(version);
        let (called, calls) = mpsc::channel();
        let (leave, leaves) = mpsc::channel();
        let stream = fixture.stream.clone();
        fixture.peer.psh(3, "busy");
        let busy = blocked(move || stream.write_to(&mut Slow { called, leave: leaves }));
        assert_eq!(calls.recv().unwrap(), 4);
        let readers: Vec<_> = (0..3).map(|_| read(&fixture.stream, 16)).collect();
        happens(&fixture);
        leave.send(()).unwrap();
        for reader in readers {
            check(reader.join());
        }
        drop(leave);
        let _ = busy.join();
    }
}

#[test]
fn a_fin_behind_a_slow_write_to_reaches_every_waiting_reader() {
    test("a_fin_behind_a_slow_write_to_reaches_every_waiting_reader", || {
        while_write_to_is_busy(
            |fixture| {
                fixture.peer.fin(3);
                // The next stream has arrived, so the FIN has, too.
                fixture.peer.syn(5, "");
                fixture.session.accept().unwrap();
            },
            |read| assert_eq!(read.unwrap(), b""),
        );
    });
}

#[test]
fn shutdown_read_behind_a_slow_write_to_reaches_every_waiting_reader() {
    test("shutdown_read_behind_a_slow_write_to_reaches_every_waiting_reader", || {
        while_write_to_is_busy(
            |fixture| fixture.stream.shutdown(Shutdown::Read).unwrap(),
            |read| assert_eq!(read.unwrap(), b""),
        );
    });
}

#[test]
fn the_sessions_end_behind_a_slow_write_to_reaches_every_waiting_reader() {
    test("the_sessions_end_behind_a_slow_write_to_reaches_every_waiting_reader", || {
        while_write_to_is_busy(
            |fixture| {
                fixture.peer.end();
                assert!(fixture.session.closed().recv().is_err());
            },
            |read| assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionAborted),
        );
    });
}

/// The session ends, and the stream has more data than `write_to` holds. So the readers wait for
/// `write_to`, and not for the ending.
#[test]
fn data_and_then_the_end_behind_a_slow_write_to_reach_every_waiting_reader() {
    test("data_and_then_the_end_behind_a_slow_write_to_reach_every_waiting_reader", || {
        for version in VERSIONS {
            let fixture = fixture(version);
            let (called, calls) = mpsc::channel();
            let (leave, leaves) = mpsc::channel();
            let stream = fixture.stream.clone();
            fixture.peer.psh(3, [1; 5000]);
            let busy = blocked(move || stream.write_to(&mut Slow { called, leave: leaves }));
            assert_eq!(calls.recv().unwrap(), 5000);
            fixture.peer.psh(3, [2; 5000]);
            fixture.peer.end();
            assert!(fixture.session.closed().recv().is_err());
            let readers: Vec<_> = (0..3).map(|_| read(&fixture.stream, 2)).collect();
            for reader in &readers {
                reader.assert_asleep(); // the data isn't theirs while `write_to` reads
            }
            leave.send(()).unwrap();
            assert_eq!(calls.recv().unwrap(), 5000, "`write_to` takes all data at once");
            leave.send(()).unwrap();
            for reader in readers {
                assert_eq!(reader.join().unwrap_err().kind(), ErrorKind::ConnectionAborted);
            }
            assert_eq!(busy.join().unwrap_err().kind(), ErrorKind::ConnectionAborted);
        }
    });
}

#[test]
fn a_deadline_behind_a_slow_write_to_reaches_every_waiting_reader() {
    test("a_deadline_behind_a_slow_write_to_reaches_every_waiting_reader", || {
        while_write_to_is_busy(
            |fixture| fixture.stream.set_read_deadline(Some(Instant::now())),
            |read| assert_eq!(read.unwrap_err().kind(), ErrorKind::TimedOut),
        );
    });
}

// ---- writers ------------------------------------------------------------------------------------

/// P21: the bytes of each call are contiguous, whichever call was woken first. Calls of more than
/// 4096 bytes copy outside the stream's lock.
#[test]
fn room_reaches_every_writer_and_each_calls_bytes_are_contiguous() {
    test("room_reaches_every_writer_and_each_calls_bytes_are_contiguous", || {
        for version in VERSIONS {
            for size in [100, 20_000] {
                let mut fixture = fixture(version);
                let filled = fill(&fixture);
                let calls: Vec<_> =
                    (0..6).map(|byte| (byte, write(&fixture.stream, byte, size))).collect();
                fixture.peer.open();
                let mut accepted = BTreeMap::new();
                for (byte, call) in calls {
                    accepted.insert(byte, call.join().unwrap());
                }
                let data = fixture.peer.expect_data(3, filled + accepted.values().sum::<usize>());
                let mut runs = data[filled..].chunk_by(|a, b| a == b).collect::<Vec<_>>();
                runs.sort_unstable();
                let expected: Vec<_> = accepted.iter().map(|(&byte, &n)| vec![byte; n]).collect();
                assert!(runs == expected, "{accepted:?}");
            }
        }
    });
}

/// P51: credit for one byte wakes one of the writers.
#[test]
fn a_little_credit_wakes_one_writer_and_more_the_next() {
    test("a_little_credit_wakes_one_writer_and_more_the_next", || {
        let window = gmux::INITIAL_WINDOW;
        let mut fixture = fixture(2);
        (&fixture.stream).write_all(&vec![0; window as usize]).unwrap();
        fixture.peer.expect_data(3, window as usize);
        let mut calls: Vec<_> = (1..=3).map(|byte| write(&fixture.stream, byte, 1)).collect();
        fixture.peer.upd(3, 1, window);
        assert_eq!(take_finished(&mut calls).unwrap(), 1);
        for call in &calls {
            call.assert_asleep();
        }
        fixture.peer.upd(3, 3, window); // one UPD with room for both
        for call in calls {
            assert_eq!(call.join().unwrap(), 1);
        }
        let mut sent = fixture.peer.expect_data(3, 3);
        sent.sort_unstable();
        assert_eq!(sent, [1, 2, 3]);
    });
}

/// P51: the writer thread is stuck, so it can't be the one that wakes the other calls.
#[test]
fn a_writer_that_leaves_room_behind_wakes_the_next() {
    test("a_writer_that_leaves_room_behind_wakes_the_next", || {
        let window = gmux::INITIAL_WINDOW;
        let mut fixture = fixture(2);
        (&fixture.stream).write_all(&vec![0; window as usize]).unwrap();
        fixture.peer.expect_data(3, window as usize);
        let calls: Vec<_> = (1..=3).map(|byte| write(&fixture.stream, byte, 1)).collect();
        fixture.peer.shut();
        let _other = fixture.session.open("something to be stuck with").unwrap();
        fixture.peer.wait_stuck();
        fixture.peer.upd(3, 3, window); // one wake-up, and room for all three
        for call in calls {
            assert_eq!(call.join().unwrap(), 1);
        }
    });
}

#[test]
fn handed_over_data_wakes_every_flush() {
    test("handed_over_data_wakes_every_flush", || {
        for version in VERSIONS {
            let fixture = fixture(version);
            fill(&fixture);
            let calls = [(); 3].map(|()| flush(&fixture.stream));
            fixture.peer.open();
            for call in calls {
                call.join().unwrap();
            }
        }
    });
}

// ---- endings, for all calls at once -------------------------------------------------------------

/// Blocks three calls each of read, write, flush and `accept`. `happens` has to wake all of them.
fn everybody(happens: impl Fn(&Fixture), kind: ErrorKind, accepts_too: bool) {
    for version in VERSIONS {
        let fixture = fixture(version);
        fill(&fixture);
        let reads = [(); 3].map(|()| read(&fixture.stream, 16));
        let writes = [(); 3].map(|()| write(&fixture.stream, 1, 16));
        let flushes = [(); 3].map(|()| flush(&fixture.stream));
        let accepts = [(); 3].map(|()| {
            let session = fixture.session.clone();
            blocked(move || session.accept().map(drop))
        });
        happens(&fixture);
        for call in reads {
            assert_eq!(call.join().unwrap_err().kind(), kind);
        }
        for call in writes {
            assert_eq!(call.join().unwrap_err().kind(), kind);
        }
        for call in flushes {
            assert_eq!(call.join().unwrap_err().kind(), kind);
        }
        if !accepts_too {
            for call in &accepts {
                call.assert_asleep();
            }
            fixture.peer.end();
        }
        for call in accepts {
            assert!(call.join().is_err());
        }
    }
}

#[test]
fn the_sessions_end_wakes_everybody() {
    test("the_sessions_end_wakes_everybody", || {
        everybody(|fixture| fixture.peer.end(), ErrorKind::ConnectionAborted, true);
        everybody(
            |fixture| fixture.peer.fail_read(ErrorKind::ConnectionReset),
            ErrorKind::ConnectionReset,
            true,
        );
        let fault = |fixture: &Fixture| fixture.peer.frame(Command::Fin, 3, b"?");
        everybody(fault, ErrorKind::InvalidData, true);
    });
}

#[test]
fn the_streams_close_wakes_everybody_on_it() {
    test("the_streams_close_wakes_everybody_on_it", || {
        everybody(|fixture| fixture.stream.close().unwrap(), ErrorKind::NotConnected, false);
    });
}

#[test]
fn a_deadline_wakes_everybody_on_the_stream() {
    test("a_deadline_wakes_everybody_on_the_stream", || {
        everybody(
            |fixture| fixture.stream.set_deadline(Some(Instant::now())),
            ErrorKind::TimedOut,
            false,
        );
    });
}

#[test]
fn non_blocking_mode_wakes_everybody_on_the_stream() {
    test("non_blocking_mode_wakes_everybody_on_the_stream", || {
        everybody(
            |fixture| fixture.stream.set_nonblocking(true).unwrap(),
            ErrorKind::WouldBlock,
            false,
        );
    });
}

#[test]
fn the_sessions_close_wakes_everybody() {
    test("the_sessions_close_wakes_everybody", || {
        let close = |fixture: &Fixture| {
            let session = fixture.session.clone();
            let closing = blocked(move || session.close());
            fixture.peer.open();
            closing.join().unwrap();
        };
        everybody(close, ErrorKind::NotConnected, true);
    });
}

/// P51: one read of the transport collects the wake-ups of many streams, and none is lost.
#[test]
fn many_streams_in_one_read_each_wake_their_reader() {
    test("many_streams_in_one_read_each_wake_their_reader", || {
        let fixture = fixture(1);
        let ids: Vec<u32> = (5..45).step_by(2).collect();
        let mut calls = Vec::new();
        for &id in &ids {
            fixture.peer.syn(id, "");
            calls.push(read(&fixture.session.accept().unwrap(), 16));
        }
        let frame = |id: u32| Frame::new(1, Command::Psh, id, id.to_le_bytes()).unwrap().encode();
        // Each stream has two frames, and the streams alternate.
        fixture.peer.bytes(ids.iter().chain(&ids).flat_map(|&id| frame(id)).collect::<Vec<_>>());
        for (id, call) in ids.into_iter().zip(calls) {
            assert!(call.join().unwrap().starts_with(&id.to_le_bytes()));
        }
    });
}

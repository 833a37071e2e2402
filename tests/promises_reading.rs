//! Reading: data, endings and their order, `shutdown(Read)`, `write_to`, and several readers of one
//! stream.
//!
//! Promises: P10, P11, P12, P13, P14, P15, P16, P17, P84, P92.

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gmux::wire::Command;
use gmux::{Error, Session, Stream};
use support::raw::{Raw, against_server};
use support::scripted::{FAR, Script, asleep, blocked, processed, quiet, quiet_versions};
use support::{Pattern, pair, test, until};

/// Returns the error of a read of one byte.
fn read_error(mut stream: &Stream) -> Error {
    match stream.read(&mut [0]) {
        Ok(n) => panic!("read {n} bytes, an error was expected"),
        Err(error) => error.into(),
    }
}

type Ending = fn(&mut Raw, &Session, &Stream);

/// Waits until the stream has ended. Whatever is delivered before its end is there then.
fn ended(stream: &Stream) {
    assert!(stream.closed().recv().is_err());
}

/// All endings of a stream except its own close and a cut by `stall_timeout`.
const ENDINGS: [(&str, Ending); 7] = [
    ("FIN", |raw, session, _| {
        raw.fin(1);
        processed(raw, session, 4); // with a NOP
    }),
    ("end of the connection", |raw, _, stream| {
        raw.finish();
        ended(stream);
    }),
    ("end of the connection inside a frame", |raw, _, stream| {
        raw.bytes(&[2, 2]);
        raw.finish();
        ended(stream);
    }),
    ("protocol fault", |raw, _, stream| {
        raw.bytes(&[2, 99, 0, 0, 1, 0, 0, 0]);
        ended(stream);
    }),
    ("fault of this stream alone", |raw, _, stream| {
        raw.upd(1, 1000, 65536);
        ended(stream);
    }),
    ("local close of the session", |raw, session, _| {
        raw.finish();
        session
            .close()
            .unwrap_or_else(|error| assert!(matches!(error, Error::ConnectionLost(_)), "{error}"));
    }),
    ("the session's no-data timeout", |_, session, stream| {
        session.set_no_data_timeout(Some(Duration::from_millis(1))).unwrap();
        ended(stream);
    }),
];

/// Returns a version 2 session that has received `abc` on stream 1, and then the ending.
fn after(ending: Ending) -> (Raw, Session, Stream) {
    let (mut raw, session) =
        against_server(quiet().version(2).close_timeout(Duration::from_secs(30)), 2);
    raw.syn(1, "");
    raw.psh(1, "abc");
    let stream = session.accept().unwrap();
    processed(&mut raw, &session, 2);
    ending(&mut raw, &session, &stream);
    (raw, session, stream)
}

/// P11: a read returns the received data before the ending.
#[test]
fn buffered_data_comes_before_every_ending() {
    test("buffered_data_comes_before_every_ending", || {
        for (name, ending) in ENDINGS {
            let (_raw, _session, mut stream) = after(ending);
            let mut buf = [0; 2];
            assert_eq!((stream.read(&mut buf).unwrap(), &buf), (2, b"ab"), "{name}");
            assert_eq!(stream.read(&mut buf).unwrap(), 1, "{name}");
            match stream.read(&mut buf) {
                Ok(0) => assert_eq!(name, "FIN"),
                Ok(n) => panic!("{name}: {n} more bytes"),
                Err(_) => assert_ne!(name, "FIN"),
            }
        }
    });
}

/// P12: after the data, only the peer's FIN reads as `Ok(0)`. Each other ending is an error.
#[test]
fn every_ending_but_fin_is_an_error_of_its_own_kind() {
    test("every_ending_but_fin_is_an_error_of_its_own_kind", || {
        for (name, ending) in ENDINGS {
            let (_raw, _session, mut stream) = after(ending);
            let mut all = Vec::new();
            let result = stream.read_to_end(&mut all);
            assert_eq!(all, b"abc", "{name}");
            let kind = match name {
                "FIN" => {
                    assert_eq!(result.unwrap(), 3);
                    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "and it stays so");
                    continue;
                }
                "end of the connection" | "end of the connection inside a frame" => {
                    ErrorKind::ConnectionAborted
                }
                "protocol fault" | "fault of this stream alone" => ErrorKind::InvalidData,
                "the session's no-data timeout" => ErrorKind::TimedOut,
                // Either the reader thread saw the connection's end first, or `close` came first.
                "local close of the session" => {
                    let kind = result.unwrap_err().kind();
                    assert!(
                        matches!(kind, ErrorKind::NotConnected | ErrorKind::ConnectionAborted),
                        "{kind}"
                    );
                    continue;
                }
                _ => unreachable!(),
            };
            assert_eq!(result.unwrap_err().kind(), kind, "{name}");
        }
    });
}

/// P13: if FIN came before the fatal error, the stream ends with `Ok(0)`.
#[test]
fn a_stream_that_had_its_fin_ends_cleanly_whatever_happens_to_the_session_later() {
    test("a_stream_that_had_its_fin_ends_cleanly_whatever_happens_to_the_session_later", || {
        let (mut raw, session) = against_server(quiet(), 1);
        raw.syn(1, "");
        raw.psh(1, "abc");
        raw.fin(1);
        raw.bytes(&[7, 0, 0, 0, 3, 0, 0, 0]);
        let mut stream = session.accept().unwrap();
        assert!(session.closed().recv().is_err());
        assert!(matches!(
            session.close_reason(),
            Some(Error::InvalidVersion { ours: 1, theirs: 7, peer: Some(_), .. })
        ));
        let mut all = Vec::new();
        assert_eq!(stream.read_to_end(&mut all).unwrap(), 3);
    });
}

/// P12: a read with an empty buffer returns `Ok(0)` at once.
#[test]
fn an_empty_buffer_reads_0_without_waiting() {
    test("an_empty_buffer_reads_0_without_waiting", || {
        for config in quiet_versions() {
            let (client, server) = pair(config);
            let mut stream = client.open("").unwrap();
            assert_eq!(stream.read(&mut []).unwrap(), 0);
            stream.write_all(b"x").unwrap();
            let mut theirs = server.accept().unwrap();
            assert_eq!(theirs.read(&mut []).unwrap(), 0);
            let mut byte = [0];
            theirs.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x", "nothing was taken by the empty reads");
        }
    });
}

/// P12, P16: after `shutdown(Read)`, reads return `Ok(0)`, and the peer isn't held up.
#[test]
fn after_shutdown_read_reads_return_0_and_the_peer_is_not_held_up() {
    test("after_shutdown_read_reads_return_0_and_the_peer_is_not_held_up", || {
        for config in quiet_versions() {
            let (client, server) = pair(config.max_receive_buffer(300_000));
            let ours = client.open("").unwrap();
            (&ours).write_all(b"buffered").unwrap();
            (&ours).flush().unwrap();
            let _next = client.open("all data before this SYN is delivered").unwrap();
            let mut theirs = server.accept().unwrap();
            let _next = server.accept().unwrap();
            assert!(server.stats().receive_buffered > 0);
            theirs.shutdown(Shutdown::Read).unwrap();
            assert_eq!(theirs.read(&mut [0; 9]).unwrap(), 0, "the buffered data is dropped");
            assert_eq!(server.stats().receive_buffered, 0);
            // This is more than every window and budget. It is dropped on arrival, and counts as
            // consumed.
            (&ours).write_all(&vec![1; 2_000_000]).unwrap();
            (&ours).flush().unwrap();
            assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
            theirs.write_all(b"still writable").unwrap();
            let mut text = [0; 14];
            (&ours).read_exact(&mut text).unwrap();
            assert_eq!(&text, b"still writable");
        }
    });
}

/// P16: `shutdown(Read)` wakes a blocked read.
#[test]
fn shutdown_read_wakes_a_blocked_read_with_0() {
    test("shutdown_read_wakes_a_blocked_read_with_0", || {
        let (client, _server) = pair(quiet());
        let stream = client.open("").unwrap();
        let mut reader = stream.clone();
        let read = blocked("shut-read", move || reader.read(&mut [0]).unwrap());
        stream.shutdown(Shutdown::Read).unwrap();
        assert_eq!(read.join().unwrap(), 0);
    });
}

/// P14: a read whose deadline has expired still returns data, and the ending.
#[test]
fn an_expired_deadline_still_returns_data_and_the_end() {
    test("an_expired_deadline_still_returns_data_and_the_end", || {
        let (mut raw, session) = against_server(quiet(), 1);
        raw.syn(1, "");
        raw.psh(1, "abcd");
        let mut stream = session.accept().unwrap();
        processed(&mut raw, &session, 2);
        stream.set_read_deadline(Some(Instant::now()));
        for byte in b"abcd" {
            let mut got = [0];
            assert_eq!((stream.read(&mut got).unwrap(), got[0]), (1, *byte));
        }
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(matches!(read_error(&stream), Error::Timeout));
        raw.fin(1);
        processed(&mut raw, &session, 4); // with a NOP
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the end needs no waiting either");
    });
}

/// P92: a transport's `Interrupted`, `WouldBlock`, `TimedOut`, short reads and short writes don't
/// reach the stream's caller.
#[test]
fn a_transports_interruptions_never_reach_a_caller() {
    test("a_transports_interruptions_never_reach_a_caller", || {
        let (script, session) = Script::server(quiet().version(2));
        script.piecewise(7);
        let kinds = [ErrorKind::Interrupted, ErrorKind::WouldBlock, ErrorKind::TimedOut];
        let mut writes = 0;
        script.on_write(move || {
            writes += 1;
            if writes % 4 == 0 { Ok(()) } else { Err(kinds[writes % 4 - 1].into()) }
        });
        script.allow_all();
        let sent = Pattern::bytes(3, 2000);
        script.frame(2, Command::Syn, 1, b"hiccups");
        for piece in sent.chunks(100) {
            kinds.into_iter().for_each(|kind| script.fail_read(kind));
            script.frame(2, Command::Psh, 1, piece);
        }
        kinds.into_iter().for_each(|kind| script.fail_read(kind));
        script.frame(2, Command::Fin, 1, &[]);
        let mut stream = session.accept().unwrap();
        assert_eq!(stream.name(), "hiccups");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == sent);
        stream.write_all(&sent).unwrap();
        stream.flush().unwrap();
        let frames = script.until_frames(|frames| support::scripted::data(frames, 1).len() == 2000);
        assert!(support::scripted::data(&frames, 1) == sent);
        drop(stream);
        script.eof();
        session.close().unwrap();
    });
}

/// P17: `write_to` moves all data before it returns the ending.
#[test]
fn write_to_moves_everything_until_the_end() {
    test("write_to_moves_everything_until_the_end", || {
        for config in quiet_versions() {
            let (client, server) = pair(config);
            let sent = Pattern::bytes(5, 1_500_000);
            let writer = thread::spawn({
                let mut stream = client.open("").unwrap();
                let sent = sent.clone();
                move || stream.write_all(&sent).unwrap()
            });
            let mut got = Vec::new();
            assert_eq!(server.accept().unwrap().write_to(&mut got).unwrap(), 1_500_000);
            assert!(got == sent);
            writer.join().unwrap();
        }
    });
}

/// P17: bytes that a failing writer didn't take are read next. `Interrupted` is no failure.
#[test]
fn bytes_that_a_failing_writer_left_are_read_next() {
    /// Takes `left` bytes, three at a time, with interruptions. Then it fails, takes nothing, or
    /// panics.
    struct Failing {
        left: usize,
        calls: usize,
        got: Vec<u8>,
        how: u8,
    }
    impl Write for Failing {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls % 2 == 1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let n = buf.len().min(3).min(self.left);
            match (n, self.how) {
                (0, 0) => return Err(ErrorKind::StorageFull.into()),
                (0, 1) => return Ok(0),
                (0, _) => panic!("the writer panics, as ordered"),
                _ => {}
            }
            self.left -= n;
            self.got.extend(&buf[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    test("bytes_that_a_failing_writer_left_are_read_next", || {
        for (how, config) in
            [0, 1, 2].into_iter().flat_map(|how| quiet_versions().map(|config| (how, config)))
        {
            let (client, server) = pair(config);
            let sent = Pattern::bytes(6, 20_000);
            let mut ours = client.open("").unwrap();
            // Two chunks: a large one, and one that was merged from small ones.
            ours.write_all(&sent[..16_000]).unwrap();
            ours.flush().unwrap();
            ours.write_all(&sent[16_000..]).unwrap();
            ours.close().unwrap();
            let mut theirs = server.accept().unwrap();
            until(|| server.stats().bytes_received == 20_000);
            let mut failing = Failing { left: 16_001, calls: 0, got: Vec::new(), how };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                theirs.write_to(&mut failing)
            }));
            match how {
                0 => assert_eq!(result.unwrap().unwrap_err().kind(), ErrorKind::StorageFull),
                1 => assert_eq!(result.unwrap().unwrap_err().kind(), ErrorKind::WriteZero),
                _ => assert!(result.is_err()),
            }
            let mut got = failing.got;
            assert_eq!(got.len(), 16_001);
            theirs.read_to_end(&mut got).unwrap();
            assert!(got == sent, "nothing is lost or repeated");
        }
    });
}

/// P15: if several threads read one stream, each byte goes to one of them, and the ending reaches
/// all.
#[test]
fn several_readers_share_a_stream_without_loss() {
    test("several_readers_share_a_stream_without_loss", || {
        for config in quiet_versions() {
            let (client, server) = pair(config);
            let mut ours = client.open("").unwrap();
            let theirs = {
                ours.write_all(&[0; 4])
                    .and_then(|()| ours.flush())
                    .map(|()| server.accept().unwrap())
            }
            .unwrap();
            let readers: Vec<_> = (0..4)
                .map(|i| {
                    let mut stream = theirs.clone();
                    thread::spawn(move || {
                        let mut buf = vec![0; 100 + 9000 * i];
                        let mut counts = vec![0u64; 256];
                        while let n @ 1.. = stream.read(&mut buf).unwrap() {
                            buf[..n].iter().for_each(|&byte| counts[usize::from(byte)] += 1);
                        }
                        counts
                    })
                })
                .collect();
            let sent = Pattern::bytes(8, 1_000_000);
            for piece in sent.chunks(7001) {
                ours.write_all(piece).unwrap();
            }
            ours.close().unwrap();
            let mut counts = vec![0u64; 256];
            for reader in readers {
                counts.iter_mut().zip(reader.join().unwrap()).for_each(|(sum, n)| *sum += n);
            }
            let mut expected = vec![0u64; 256];
            expected[0] = 4;
            sent.iter().for_each(|&byte| expected[usize::from(byte)] += 1);
            assert_eq!(counts, expected);
        }
    });
}

/// P15: while a `write_to` has the stream, three reads wait for it. The ending that comes meanwhile
/// reaches all of them.
#[test]
fn an_end_that_comes_during_a_write_to_reaches_all_reads_that_wait() {
    struct Slow(mpsc::Sender<()>, mpsc::Receiver<()>);
    impl Write for Slow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.send(()).unwrap();
            self.1.recv().unwrap();
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    test("an_end_that_comes_during_a_write_to_reaches_all_reads_that_wait", || {
        for clean in [true, false] {
            let (mut raw, session) = against_server(quiet(), 1);
            raw.syn(1, "");
            raw.psh(1, "x");
            let stream = session.accept().unwrap();
            let (began, begins) = mpsc::channel();
            let (release, released) = mpsc::channel();
            let holder = thread::spawn({
                let stream = stream.clone();
                move || stream.write_to(&mut Slow(began, released))
            });
            begins.recv().unwrap();
            let waiting: Vec<_> = (0..3)
                .map(|i| {
                    let mut stream = stream.clone();
                    blocked(&format!("waits-{clean}-{i}"), move || stream.read(&mut [0]))
                })
                .collect();
            match clean {
                true => {
                    raw.fin(1);
                    processed(&mut raw, &session, 3);
                }
                false => {
                    raw.finish();
                    ended(&stream);
                }
            }
            if clean {
                // All three have looked, and wait for the `write_to`.
                (0..3).for_each(|i| asleep(&format!("waits-{clean}-{i}")));
            }
            release.send(()).unwrap();
            assert_eq!(holder.join().unwrap().is_ok(), clean);
            for call in waiting {
                assert_eq!(call.join().unwrap().map_err(|error| error.kind()).is_ok(), clean);
            }
        }
    });
}

/// P10: data wakes a read whose deadline is far away.
#[test]
fn data_wakes_a_read_long_before_its_deadline() {
    test("data_wakes_a_read_long_before_its_deadline", || {
        let (mut raw, session) = against_server(quiet(), 1);
        raw.syn(1, "");
        let mut stream = session.accept().unwrap();
        stream.set_read_deadline(Some(Instant::now() + FAR));
        let read = blocked("far-deadline", move || {
            let mut buf = [0; 8];
            let n = stream.read(&mut buf).unwrap();
            buf[..n].to_vec()
        });
        raw.psh(1, "data");
        assert_eq!(read.join().unwrap(), b"data");
    });
}

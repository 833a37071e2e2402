//! The fast paths, and how they hand over to the ordinary ones: inline writes and the writer
//! thread, reading ahead and its interruptions, windows that grow and shrink.
//!
//! Promises: P24, P25, P33, P44, P46, P48, P77, P82, P110.

mod support;

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use gmux::transport::{Control, Halves, Transport};
use gmux::wire::{Command, Frame};
use gmux::{Config, Error, Session, Stream};
use support::raw::{Raw, against_server};
use support::scripted::{FAR, Script, ScriptedTransport, asleep, data, processed, quiet};
use support::{Pattern, test, until};

// ---- inline writes ------------------------------------------------------------------------------

type OnFlush = Box<dyn FnMut() -> io::Result<()> + Send>;

/// A scripted transport that says that its writes are bounded, as sockets do.
struct Bounded {
    script: ScriptedTransport,
    on_flush: OnFlush,
}

struct Flushing(Box<dyn Write + Send>, OnFlush);

impl Write for Flushing {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        (self.1)()?;
        self.0.flush()
    }
}

impl Transport for Bounded {
    fn split(self) -> io::Result<Halves> {
        let mut halves = self.script.split()?.bounded_writes(true);
        halves.writer = Box::new(Flushing(halves.writer, self.on_flush));
        Ok(halves)
    }
}

/// A server's session over a script with bounded writes. Its stream 3 has received a request, and
/// the test has read it, so a write on it is a reply.
struct Asked {
    script: Script,
    session: Session,
    stream: Stream,
    /// The threads that wrote to the transport, and those that flushed it.
    wrote: Arc<Mutex<Vec<ThreadId>>>,
    flushed: Arc<Mutex<Vec<ThreadId>>>,
}

fn asked() -> Asked {
    asked_with(|_| Ok(()), || Ok(()))
}

/// Calls `on_write` at each write of the transport, with `true` if it is an inline write.
fn asked_with(
    mut on_write: impl FnMut(bool) -> io::Result<()> + Send + 'static,
    mut on_flush: impl FnMut() -> io::Result<()> + Send + 'static,
) -> Asked {
    let script = Script::new();
    let wrote = Arc::default();
    let flushed = Arc::default();
    let threads = Arc::clone(&wrote);
    let flushers = Arc::clone(&flushed);
    let record = |list: &Mutex<Vec<ThreadId>>| list.lock().unwrap().push(thread::current().id());
    script.on_write(move || {
        record(&threads);
        on_write(!thread::current().name().is_some_and(|name| name.starts_with("gmux-writer-")))
    });
    let on_flush = Box::new(move || {
        record(&flushers);
        on_flush()
    });
    let session =
        Session::server(Bounded { script: script.transport(), on_flush }, quiet()).unwrap();
    script.frame(1, Command::Syn, 3, b"asked");
    let stream = session.accept().unwrap();
    let asked = Asked { script, session, stream, wrote, flushed };
    asked.ask(b"?");
    asked
}

impl Asked {
    /// The peer sends a request, and this thread reads it. Then waits until the writer thread is
    /// parked.
    fn ask(&self, question: &[u8]) {
        self.script.frame(1, Command::Psh, 3, question);
        (&self.stream).read_exact(&mut vec![0; question.len()]).unwrap();
        self.parked();
    }

    fn parked(&self) {
        asleep(&format!("gmux-writer-{}", number(&self.session)));
    }

    /// Returns for each write so far whether this thread made it.
    fn mine(&self) -> Vec<bool> {
        self.wrote.lock().unwrap().iter().map(|&id| id == thread::current().id()).collect()
    }
}

/// Returns the session's number, which is also a part of its threads' names.
fn number(session: &Session) -> String {
    let text = format!("{session:?}");
    text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect()
}

/// Returns each frame as a text such as `Psh 3 answer`.
fn said(frames: &[Frame]) -> Vec<String> {
    let text = |frame: &Frame| {
        let Frame { header, payload } = frame;
        format!("{:?} {} {}", header.command, header.stream_id, String::from_utf8_lossy(payload))
            .trim_end()
            .to_owned()
    };
    frames.iter().map(text).collect()
}

#[test]
fn a_reply_is_written_inline_by_the_thread_that_calls_write() {
    test("a_reply_is_written_inline_by_the_thread_that_calls_write", || {
        let asked = asked();
        asked.script.allow_all();
        for round in 0..20 {
            assert_eq!((&asked.stream).write(b"answer").unwrap(), 6);
            // When the call returns, the reply has been written and flushed. Nothing is waited for.
            assert_eq!(asked.script.frames().len(), round + 1);
            assert_eq!(
                (asked.mine().len(), asked.flushed.lock().unwrap().len()),
                (round + 1, round + 1)
            );
            (&asked.stream).flush().unwrap();
            asked.ask(b"again?");
        }
        assert!(asked.mine().iter().all(|&mine| mine), "{:?}", asked.mine());
        assert_eq!(data(&asked.script.frames(), 3), b"answer".repeat(20));
    });
}

#[test]
fn the_rest_of_an_inline_write_goes_out_before_any_other_frame() {
    test("the_rest_of_an_inline_write_goes_out_before_any_other_frame", || {
        let whole = 8 + "the answer".len();
        for cut in [1, 4, 7, 8, 9, whole - 1] {
            let asked = asked();
            asked.script.allow(cut);
            assert_eq!((&asked.stream).write(b"the answer").unwrap(), 10);
            assert_eq!(
                asked.script.blocked(),
                whole - cut,
                "the writer thread goes on with the rest"
            );
            // All of these wait for the rest of the frame, also the express queue and NOP.
            let mut other = asked.session.open("other").unwrap();
            other.write_all(b"express").unwrap();
            asked.script.frame(1, Command::Psh, 3, b"more?");
            (&asked.stream).read_exact(&mut [0; 5]).unwrap();
            (&asked.stream).write_all(b", and more").unwrap();
            asked.stream.close().unwrap();
            assert_eq!(asked.script.blocked(), whole - cut);
            asked.script.allow_all();
            let frames = asked
                .script
                .until_frames(|frames| support::scripted::count(frames, Command::Fin, 3) == 1);
            let said = said(&frames);
            assert_eq!(said[0], "Psh 3 the answer", "cut at {cut}: {said:?}");
            assert_eq!(data(&frames, 3), b"the answer, and more");
            assert_eq!(
                data(&asked.script.until_frames(|frames| !data(frames, 2).is_empty()), 2),
                b"express"
            );
            assert_eq!(
                frames
                    .iter()
                    .rposition(|f| f.header.stream_id == 3 && f.header.command == Command::Psh)
                    .map(|at| at + 1),
                frames
                    .iter()
                    .position(|f| f.header.stream_id == 3 && f.header.command == Command::Fin)
            );
            assert_eq!(asked.mine()[..2], [true, false]);
        }
    });
}

#[test]
fn an_inline_write_that_would_block_is_left_to_the_writer_thread() {
    test("an_inline_write_that_would_block_is_left_to_the_writer_thread", || {
        for kind in [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut, io::ErrorKind::Interrupted]
        {
            let asked =
                asked_with(move |caller| if caller { Err(kind.into()) } else { Ok(()) }, || Ok(()));
            asked.script.allow_all();
            (&asked.stream).write_all(b"answer").unwrap();
            (&asked.stream).flush().unwrap(); // the writer thread writes, and wakes the flush
            assert_eq!(said(&asked.script.frames()), ["Psh 3 answer"], "{kind}");
            assert_eq!(asked.mine(), [true, false], "{kind}");
            // Later replies are written inline again.
            asked.ask(b"again?");
            (&asked.stream).write_all(b"!").unwrap();
            (&asked.stream).flush().unwrap();
            assert_eq!(asked.mine(), [true, false, true, false], "{kind}");
            assert_eq!(data(&asked.script.frames(), 3), b"answer!");
            assert_eq!(asked.session.close_reason().map(|e| e.to_string()), None);
        }
    });
}

#[test]
fn an_inline_flush_that_would_block_is_left_to_the_writer_thread() {
    test("an_inline_flush_that_would_block_is_left_to_the_writer_thread", || {
        let mut first = true;
        let not_first = move || {
            if std::mem::take(&mut first) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        };
        let asked = asked_with(|_| Ok(()), not_first);
        asked.script.allow_all();
        (&asked.stream).write_all(b"answer").unwrap();
        asked.script.wait(|state| (state.flushes == 1).then_some(()));
        let flushed = asked.flushed.lock().unwrap().clone();
        let me = thread::current().id();
        assert!(flushed.len() == 2 && flushed[0] == me && flushed[1] != me, "{flushed:?}");
        assert_eq!(said(&asked.script.frames()), ["Psh 3 answer"]);
    });
}

/// Checks the effects of an inline write that failed. The write itself was accepted. Later writes
/// return the transport's error, and reading goes on.
fn assert_write_failed(asked: &Asked, seen: impl Fn(&Error) -> bool) {
    until(|| asked.session.close_reason().is_some());
    let reason = asked.session.close_reason().unwrap();
    assert!(seen(&reason), "{reason:?}");
    until(|| (&asked.stream).write(b"more").is_err());
    assert!(asked.session.open("late").is_err());
    asked.script.frame(1, Command::Psh, 3, b"received all the same!");
    let mut text = [0; 22];
    (&asked.stream).read_exact(&mut text).unwrap();
    assert_eq!(&text, b"received all the same!");
    assert!(asked.script.frames().is_empty());
}

#[test]
fn an_inline_write_that_fails_ends_the_sessions_writes_and_not_its_reads() {
    test("an_inline_write_that_fails_ends_the_sessions_writes_and_not_its_reads", || {
        let asked = asked_with(|_| Err(io::ErrorKind::BrokenPipe.into()), || Ok(()));
        asked.script.allow_all();
        assert_eq!((&asked.stream).write(b"answer").unwrap(), 6);
        assert_write_failed(
            &asked,
            |error| matches!(error, Error::Io(e) if e.kind() == io::ErrorKind::BrokenPipe),
        );
        assert_eq!(asked.mine(), [true], "after a failure nobody writes again");
        assert!(asked.session.close().is_err());
    });
}

#[test]
fn a_transport_that_panics_in_an_inline_write_harms_the_session_and_not_the_caller() {
    test("a_transport_that_panics_in_an_inline_write_harms_the_session_and_not_the_caller", || {
        // The script removes its hook while it calls it. So the panic on this thread is the first
        // and only call.
        let asked = asked_with(|_| panic!("the transport panics, as ordered"), || Ok(()));
        asked.script.allow_all();
        assert_eq!((&asked.stream).write(b"answer").unwrap(), 6);
        assert_write_failed(&asked, |error| error.to_string().contains("as ordered"));
        assert_eq!(asked.mine(), [true]);
        assert!(asked.session.close().is_err());
    });
}

/// Returns a session whose next inline write stays in the transport. The write sends to the first
/// channel when it is there. It ends when the test sends to the second channel.
fn held() -> (Asked, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (enter, inside) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let on_write = move |caller| {
        if caller {
            enter.send(()).unwrap();
            let _ = released.recv();
        }
        Ok(())
    };
    (asked_with(on_write, || Ok(())), inside, release)
}

#[test]
fn a_session_that_closes_during_an_inline_write_sends_all_of_it_first() {
    test("a_session_that_closes_during_an_inline_write_sends_all_of_it_first", || {
        for piece in [3, 8, 11, usize::MAX] {
            let (asked, inside, release) = held();
            asked.script.allow_all();
            let mut other = asked.session.open("other").unwrap();
            asked.script.until_frames(|frames| frames.len() == 1);
            asked.parked();
            asked.script.wait(|state| {
                state.written.clear();
                Some(())
            });
            asked.script.piecewise(piece);

            let stream = asked.stream.clone();
            let writer = thread::spawn(move || (&stream).write(b"the last answer").unwrap());
            inside.recv().unwrap();
            other.write_all(b"other").unwrap();
            other.close().unwrap();
            let session = asked.session.clone();
            let closer = support::blocked::blocked(move || session.close());
            assert!(!asked.script.wait(|state| Some(state.finished)));
            release.send(()).unwrap();
            assert_eq!(writer.join().unwrap(), 15);
            asked.script.wait(|state| state.finished.then_some(()));
            assert_eq!(
                said(&asked.script.frames()),
                ["Psh 3 the last answer", "Psh 2 other", "Fin 2"]
            );
            asked.script.eof();
            closer.join().unwrap();
        }
    });
}

#[test]
fn a_session_that_closes_behind_a_partial_inline_write_finishes_it() {
    test("a_session_that_closes_behind_a_partial_inline_write_finishes_it", || {
        for cut in [3, 8, 11] {
            let asked = asked();
            asked.script.allow(cut);
            (&asked.stream).write_all(b"the last answer").unwrap();
            assert_eq!(asked.script.blocked(), 23 - cut);
            let session = asked.session.clone();
            let closer = support::blocked::blocked(move || session.close());
            asked.script.allow_all();
            asked.script.wait(|state| state.finished.then_some(()));
            assert_eq!(said(&asked.script.frames()), ["Psh 3 the last answer"]);
            asked.script.eof();
            closer.join().unwrap();
        }
    });
}

#[test]
fn a_stream_that_is_closed_during_its_inline_write_gets_its_fin_after_the_data() {
    test("a_stream_that_is_closed_during_its_inline_write_gets_its_fin_after_the_data", || {
        let (asked, inside, release) = held();
        asked.script.allow(10); // ends within the frame
        let stream = asked.stream.clone();
        let writer = thread::spawn(move || (&stream).write(b"answer").unwrap());
        inside.recv().unwrap();
        asked.stream.close().unwrap(); // doesn't wait for the inline write
        assert_eq!(asked.session.num_streams(), 0);
        let drain = {
            let session = asked.session.clone();
            support::blocked::blocked(move || session.drain(FAR))
        };
        release.send(()).unwrap();
        assert_eq!(writer.join().unwrap(), 6);
        assert_eq!(asked.script.blocked(), 4);
        asked.script.allow_all();
        asked.script.wait(|state| state.finished.then_some(()));
        asked.script.eof();
        drain.join().unwrap();
        assert_eq!(said(&asked.script.frames()), ["Psh 3 answer", "Fin 3"]);
    });
}

#[test]
fn a_fin_that_leaves_with_another_streams_data_ends_a_drain() {
    test("a_fin_that_leaves_with_another_streams_data_ends_a_drain", || {
        // One stream's inline write also sends another stream's FIN. That FIN counts as handed over
        // like any other.
        let (asked, inside, release) = held();
        asked.script.allow_all();
        let stream = asked.stream.clone();
        let writer = thread::spawn(move || (&stream).write(b"answer").unwrap());
        inside.recv().unwrap();
        let opened = asked.session.open("opened and closed meanwhile").unwrap();
        drop(opened);
        release.send(()).unwrap();
        writer.join().unwrap();
        asked.stream.close().unwrap();
        let session = asked.session.clone();
        let drain = support::blocked::started(move || session.drain(FAR));
        asked.script.wait(|state| state.finished.then_some(()));
        asked.script.eof();
        drain.join().unwrap();
        let said = said(&asked.script.frames());
        assert_eq!(said[0], "Psh 3 answer");
        assert_eq!(said.iter().filter(|line| line.starts_with("Fin")).count(), 2, "{said:?}");
    });
}

#[test]
fn a_call_with_a_near_limit_does_not_write_inline() {
    test("a_call_with_a_near_limit_does_not_write_inline", || {
        type Setting = fn(&Stream);
        let near: [(&str, Setting); 5] = [
            ("a timeout of 19 ms", |stream| {
                stream.set_write_timeout(Some(Duration::from_millis(19))).unwrap()
            }),
            ("a deadline in 19 ms", |stream| {
                stream.set_write_deadline(Some(Instant::now() + Duration::from_millis(19)));
            }),
            ("an expired deadline", |stream| stream.set_deadline(Some(Instant::now()))),
            ("a non-blocking stream", |stream| stream.set_nonblocking(true).unwrap()),
            ("a far deadline and a near timeout", |stream| {
                stream.set_write_deadline(Some(Instant::now() + FAR));
                stream.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
            }),
        ];
        for (name, set) in near {
            let asked = asked();
            asked.script.allow_all();
            set(&asked.stream);
            assert_eq!((&asked.stream).write(b"answer").unwrap(), 6);
            asked.script.until_frames(|frames| frames.len() == 1);
            assert_eq!(asked.mine(), [false], "{name}");
        }
        let far: [Setting; 3] = [
            |stream| stream.set_write_timeout(Some(FAR)).unwrap(),
            |stream| stream.set_write_deadline(Some(Instant::now() + FAR)),
            // a limit of the other direction
            |stream| stream.set_read_deadline(Some(Instant::now())),
        ];
        for set in far {
            let asked = asked();
            asked.script.allow_all();
            set(&asked.stream);
            (&asked.stream).write_all(b"answer").unwrap();
            assert_eq!(asked.mine(), [true]);
        }
    });
}

#[test]
fn a_write_that_is_no_reply_is_queued() {
    test("a_write_that_is_no_reply_is_queued", || {
        let asked = asked();
        asked.script.allow_all();
        (&asked.stream).write_all(b"1").unwrap();
        assert_eq!(asked.mine(), [true]);
        // This thread writes again and has read nothing since its last write.
        for (n, text) in [(2, "2"), (3, "3"), (4, "4")] {
            asked.parked();
            (&asked.stream).write_all(text.as_bytes()).unwrap();
            asked.script.until_frames(|frames| frames.len() == n);
            assert_eq!(asked.mine()[n - 1..], [false]);
        }
        // This thread has not read all received data.
        asked.script.frame(1, Command::Psh, 3, b"two bytes, of which one is read");
        (&asked.stream).read_exact(&mut [0]).unwrap();
        asked.parked();
        (&asked.stream).write_all(b"5").unwrap();
        asked.script.until_frames(|frames| frames.len() == 5);
        assert_eq!(asked.mine()[4..], [false]);
        (&asked.stream).read_exact(&mut [0; 30]).unwrap();
        // This write is longer than a reply may be.
        asked.parked();
        (&asked.stream).write_all(&[7; 2049]).unwrap();
        asked.script.until_frames(|frames| frames.len() == 6);
        assert!(asked.mine()[5..].iter().all(|mine| !mine));
        // All data has been read, so the next write is a reply.
        asked.parked();
        let writes = asked.mine().len();
        (&asked.stream).write_all(&[7; 2048]).unwrap();
        assert_eq!(asked.mine()[writes..], [true]);
        // The first data on a stream that this end opened is no reply.
        asked.parked();
        let writes = asked.mine().len();
        asked.session.open("ours").unwrap().write_all(b"hello").unwrap();
        asked.script.until_frames(|frames| !data(frames, 2).is_empty());
        assert!(asked.mine()[writes..].iter().all(|mine| !mine));
    });
}

#[test]
fn a_transport_that_does_not_bound_its_writes_is_left_to_the_writer_thread() {
    test("a_transport_that_does_not_bound_its_writes_is_left_to_the_writer_thread", || {
        let (script, session) = Script::server(quiet());
        let wrote: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
        let threads = Arc::clone(&wrote);
        script.on_write(move || {
            threads.lock().unwrap().push(thread::current().id());
            Ok(())
        });
        script.allow_all();
        script.frame(1, Command::Syn, 3, b"asked");
        script.frame(1, Command::Psh, 3, b"?");
        let mut stream = session.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        asleep(&format!("gmux-writer-{}", number(&session)));
        stream.write_all(b"answer").unwrap();
        stream.flush().unwrap();
        assert!(wrote.lock().unwrap().iter().all(|&id| id != thread::current().id()));
    });
}

#[test]
fn during_an_inline_write_other_calls_leave_theirs_to_the_writer_thread() {
    test("during_an_inline_write_other_calls_leave_theirs_to_the_writer_thread", || {
        let (asked, inside, release) = held();
        asked.script.allow_all();
        asked.script.frame(1, Command::Syn, 5, b"asked too");
        let second = asked.session.accept().unwrap();
        asked.script.frame(1, Command::Psh, 5, b"?");
        (&second).read_exact(&mut [0]).unwrap();
        let stream = asked.stream.clone();
        let first = thread::spawn(move || (&stream).write(b"first").unwrap());
        inside.recv().unwrap();
        assert_eq!((&second).write(b"second").unwrap(), 6); // doesn't wait
        release.send(()).unwrap();
        first.join().unwrap();
        (&second).flush().unwrap();
        assert_eq!(said(&asked.script.frames()), ["Psh 3 first", "Psh 5 second"]);
        assert_eq!(asked.wrote.lock().unwrap().len(), 2);
    });
}

// ---- reading ahead ------------------------------------------------------------------------------

/// Input that comes in pieces of the given sizes, each over several buffers, and then ends.
struct Feed {
    data: Vec<u8>,
    at: usize,
    sizes: std::iter::Cycle<std::vec::IntoIter<usize>>,
    reads: Arc<AtomicUsize>,
}

struct Sink;

impl Read for Feed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.reads.fetch_add(1, SeqCst);
        let mut left = self.sizes.next().unwrap();
        let before = self.at;
        for buf in bufs {
            let n = left.min(buf.len()).min(self.data.len() - self.at);
            buf[..n].copy_from_slice(&self.data[self.at..self.at + n]);
            self.at += n;
            left -= n;
        }
        Ok(self.at - before)
    }
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Control for Sink {
    fn finish_write(&self) -> io::Result<()> {
        Ok(())
    }

    fn abort(&self) {}
}

impl Transport for Feed {
    fn split(self) -> io::Result<Halves> {
        Ok(Halves::new(self, Sink, Sink))
    }
}

/// A conversation: runs of equal frames, with frames of all kinds between them.
struct Conversation {
    bytes: Vec<u8>,
    /// The data of each stream, by id.
    streams: Vec<(u32, Vec<u8>)>,
}

fn conversation(version: u8, seed: u64, most: usize) -> Conversation {
    let mut random = Pattern::new(seed);
    let mut pick = move |n: usize| {
        let mut word = [0; 4];
        random.fill(&mut word);
        u32::from_le_bytes(word) as usize % n
    };
    let mut bytes = Vec::new();
    let mut streams: Vec<(u32, Vec<u8>)> = Vec::new();
    let frame = |bytes: &mut Vec<u8>, command, id, payload: &[u8]| {
        bytes.extend(Frame::new(version, command, id, payload).unwrap().encode());
    };
    // Stream 3 gets data after its FIN, which is dropped.
    for id in [3, 5, 7, 9] {
        frame(&mut bytes, Command::Syn, id, &[]);
        streams.push((id, Vec::new()));
    }
    frame(&mut bytes, Command::Fin, 3, &[]);
    let mut made = 0;
    for round in 0..24 {
        let length = [4097, 5000, 8192, 20_000, 32_768, 65_535, 4096, 4104][pick(8)];
        let id = [5, 7, 9][pick(3)];
        for repeat in 0..1 + pick(14) {
            let mut psh = |bytes: &mut Vec<u8>, id: u32, length: usize| {
                let stream = streams.iter_mut().find(|(of, _)| *of == id).unwrap();
                if stream.1.len() + length <= most {
                    let payload = Pattern::bytes(made, length);
                    frame(bytes, Command::Psh, id, &payload);
                    stream.1.extend(payload);
                }
                made += 1;
            };
            psh(&mut bytes, id, length);
            if repeat % 3 != 2 {
                continue;
            }
            match pick(11) {
                0 => psh(&mut bytes, 5, 1),
                1 => psh(&mut bytes, 7, length - 1),
                2 => psh(&mut bytes, 9, length.min(65_534) + 1),
                // An unknown stream's frame, as long as those around it.
                3 => frame(&mut bytes, Command::Psh, 999, &vec![1; length]),
                4 => frame(&mut bytes, Command::Psh, 999, &[1; 17]),
                5 => frame(&mut bytes, Command::Psh, 3, &vec![2; length]), // after its FIN
                6 => frame(&mut bytes, Command::Nop, 0, &[]),
                7 => frame(&mut bytes, Command::Psh, id, &[]),
                // The stream is open, so this SYN is dropped.
                8 => frame(&mut bytes, Command::Syn, 5, &vec![b'n'; length]),
                9 if version == 2 => bytes.extend(Frame::update(id, 0, 65_536).encode()),
                _ => frame(&mut bytes, Command::Fin, 999, &[]),
            }
        }
        if round % 6 == 5 {
            // A name as long as a frame, which the reader may already have read into a buffer of
            // its own. The smaller budget has room for four names of 32 KiB.
            let opened = 11 + 2 * round as u32;
            frame(&mut bytes, Command::Syn, opened, &vec![b'a' + round as u8; length.min(32_768)]);
            streams.push((opened, vec![]));
        }
    }
    for (id, _) in &streams[1..] {
        frame(&mut bytes, Command::Fin, *id, &[]);
    }
    Conversation { bytes, streams }
}

/// Reads all streams of a conversation, each in a thread, and compares every byte.
fn listen(session: &Session, streams: Vec<(u32, Vec<u8>)>) {
    let readers: Vec<_> = (0..streams.len())
        .map(|_| {
            let mut stream = session.accept().unwrap();
            let (id, sent) = streams.iter().find(|(id, _)| *id == stream.id()).unwrap().clone();
            thread::spawn(move || {
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                let first = got.iter().zip(&sent).position(|(a, b)| a != b);
                assert!(
                    got == sent,
                    "stream {id}: {} of {} bytes, the first wrong one at {first:?}",
                    got.len(),
                    sent.len()
                );
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
}

fn listening(version: u8) -> Config {
    quiet().version(version).max_name_len(65_535).stall_timeout(None)
}

#[test]
fn runs_of_equal_frames_with_anything_between_them_lose_and_mix_up_nothing() {
    test("runs_of_equal_frames_with_anything_between_them_lose_and_mix_up_nothing", || {
        let splits: [&[usize]; 6] = [
            &[usize::MAX],
            &[65_536, 1, 8],
            &[100_000, 7, 33_000],
            &[4096],
            &[32_776 * 3 + 5, 9],
            &[70_001, 12, 500_000],
        ];
        for seed in 0..30 {
            let version = 1 + (seed % 2) as u8;
            // Nobody reads the UPDs of version 2 here, so each stream carries at most the initial
            // window.
            let Conversation { bytes, streams } = conversation(version, seed, 262_144);
            for budget in [262_144, 64 << 20] {
                let sizes: Vec<usize> = splits[seed as usize % splits.len()].into();
                let sizes = sizes.into_iter().cycle();
                let feed = Feed { data: bytes.clone(), at: 0, sizes, reads: Arc::default() };
                let session =
                    Session::server(feed, listening(version).max_receive_buffer(budget)).unwrap();
                listen(&session, streams.clone());
            }
        }
    });
}

#[test]
fn runs_of_equal_frames_over_a_socket_lose_and_mix_up_nothing() {
    test("runs_of_equal_frames_over_a_socket_lose_and_mix_up_nothing", || {
        for seed in 100..110 {
            let Conversation { bytes, streams } = conversation(1, seed, usize::MAX);
            let (mut raw, session) = against_server(listening(1), 1);
            let sender = thread::spawn(move || {
                for piece in bytes.chunks(77_777) {
                    raw.bytes(piece);
                }
                raw
            });
            listen(&session, streams);
            let _ = sender.join().unwrap();
        }
    });
}

#[test]
fn a_run_of_equal_frames_takes_few_reads() {
    test("a_run_of_equal_frames_takes_few_reads", || {
        let payload = Pattern::bytes(1, 32_768);
        let mut bytes = Frame::new(1, Command::Syn, 3, []).unwrap().encode();
        for _ in 0..80 {
            bytes.extend(Frame::new(1, Command::Psh, 3, payload.clone()).unwrap().encode());
        }
        bytes.extend(Frame::new(1, Command::Fin, 3, []).unwrap().encode());
        let reads = Arc::new(AtomicUsize::new(0));
        let feed = Feed {
            data: bytes,
            at: 0,
            sizes: vec![usize::MAX].into_iter().cycle(),
            reads: Arc::clone(&reads),
        };
        let session = Session::server(feed, listening(1)).unwrap();
        listen(&session, vec![(3, payload.repeat(80))]);
        // One read takes eight frames, and one read takes the next header. Some more reads come
        // before the reader takes the frames for a run.
        assert!(reads.load(SeqCst) <= 80 / 8 * 2 + 10, "{reads:?} reads");
    });
}

// ---- windows that grow --------------------------------------------------------------------------

/// A raw version 2 peer that fills the windows of a session's streams.
struct Filling {
    raw: Raw,
    session: Session,
    /// Number of frames sent so far.
    frames: u64,
    streams: Vec<Filled>,
}

struct Filled {
    id: u32,
    stream: Stream,
    sent: u64,
    /// Number of bytes that the application has read.
    read: u64,
    /// The end of the highest window so far, and the consumed bytes of the last UPD.
    edge: u64,
    consumed: u64,
    /// The announced windows.
    windows: Vec<u32>,
}

impl Filling {
    fn new(config: Config, streams: usize) -> Self {
        let (mut raw, session) = against_server(config.version(2), 2);
        let streams: Vec<_> = (0..streams as u32)
            .map(|n| {
                let id = 3 + 2 * n;
                raw.syn(id, "filled");
                let stream = session.accept().unwrap();
                Filled {
                    id,
                    stream,
                    sent: 0,
                    read: 0,
                    edge: 262_144,
                    consumed: 0,
                    windows: Vec::new(),
                }
            })
            .collect();
        Self { raw, session, frames: streams.len() as u64, streams }
    }

    /// Sends up to the edge, and waits until the session has received all of it.
    fn fill(&mut self, at: usize) {
        self.send(at, self.streams[at].edge - self.streams[at].sent);
    }

    fn send(&mut self, at: usize, n: u64) {
        let to = &mut self.streams[at];
        let until = to.sent + n;
        while to.sent < until {
            let n = (until - to.sent).min(32_768);
            self.raw.psh(to.id, vec![1; n as usize]);
            to.sent += n;
            self.frames += 1;
        }
        processed(&mut self.raw, &self.session, self.frames);
        self.frames += 1;
    }

    /// Reads `n` bytes. They have been received already, so this doesn't wait.
    fn read(&mut self, at: usize, n: u64) {
        let of = &mut self.streams[at];
        of.stream.read_exact(&mut vec![0; n as usize]).unwrap();
        of.read += n;
    }

    /// Receives an UPD, which must be this stream's, and returns its window.
    fn expect_update(&mut self, at: usize) -> u32 {
        let update = self.raw.expect(Command::Upd, self.streams[at].id);
        let word = |at: usize| u32::from_le_bytes(update[at..at + 4].try_into().unwrap());
        let of = &mut self.streams[at];
        assert_eq!(u64::from(word(0)), of.read);
        of.consumed = word(0).into();
        of.edge = of.edge.max(of.consumed + u64::from(word(4)));
        of.windows.push(word(4));
        word(4)
    }

    /// One round: the peer fills the window, and the reader reads all of it. Returns the announced
    /// window.
    fn round(&mut self, at: usize) -> u32 {
        self.fill(at);
        self.read(at, self.streams[at].sent - self.streams[at].read);
        self.expect_update(at)
    }

    /// Returns the number of bytes that are granted and not consumed, over all streams, as the peer
    /// sees it.
    fn granted(&self) -> u64 {
        self.streams.iter().map(|of| of.edge - of.consumed).sum()
    }
}

#[test]
fn a_window_that_limits_a_reader_that_keeps_up_grows_to_its_maximum() {
    test("a_window_that_limits_a_reader_that_keeps_up_grows_to_its_maximum", || {
        for (config, max) in [
            (quiet().max_stream_window(1 << 20), 1 << 20),
            (quiet().max_receive_buffer(3 << 20), 3 << 19), // half of the budget
            (quiet().max_stream_window(100_000), 100_000),
            (quiet().max_stream_window(65_536), 65_536),
            (quiet().max_stream_window(1), 65_536), // windows don't grow
        ] {
            let mut filling = Filling::new(config, 1);
            let windows: Vec<u32> = (0..8).map(|_| filling.round(0)).collect();
            let doubling: Vec<u32> = (1..9).map(|n| (65_536 << n).min(max)).collect();
            assert_eq!(windows, doubling);
        }
    });
}

#[test]
fn a_reader_that_leaves_the_window_full_gets_half_of_it_and_no_less_than_the_first() {
    test("a_reader_that_leaves_the_window_full_gets_half_of_it_and_no_less_than_the_first", || {
        let mut filling = Filling::new(quiet().max_stream_window(1 << 20), 1);
        while filling.round(0) < 1 << 20 {}
        // From now on the reader leaves half of the window unread each time.
        let windows: Vec<u32> = (0..48)
            .map(|_| {
                filling.fill(0);
                let half = u64::from(*filling.streams[0].windows.last().unwrap() / 2);
                assert!(filling.streams[0].sent - filling.streams[0].read > half);
                filling.read(0, half);
                filling.expect_update(0)
            })
            .collect();
        // A window shrinks after eight such UPDs in a row, because a burst causes a few of them as
        // well.
        let mut window = 1 << 20;
        for eight in windows.chunks(8) {
            let half = (window / 2).max(65_536);
            assert_eq!(
                eight,
                [window, window, window, window, window, window, window, half],
                "{windows:?}"
            );
            window = half;
        }
        // The window grows again when the reader keeps up.
        let again: Vec<u32> = (0..3).map(|_| filling.round(0)).collect();
        assert_eq!(again, [1 << 17, 1 << 18, 1 << 19]);
    });
}

#[test]
fn many_streams_grow_together_to_no_more_than_half_of_the_budget() {
    test("many_streams_grow_together_to_no_more_than_half_of_the_budget", || {
        let budget = 4 << 20;
        let mut filling = Filling::new(quiet().max_receive_buffer(budget), 4);
        for _ in 0..10 {
            for at in 0..4 {
                filling.round(at);
                assert!(filling.granted() <= budget as u64 / 2, "{}", filling.granted());
            }
        }
        assert!(filling.granted() > budget as u64 / 4, "they did grow: {}", filling.granted());
    });
}

#[test]
fn a_window_does_not_grow_into_bytes_that_another_stream_will_be_granted_again() {
    test("a_window_does_not_grow_into_bytes_that_another_stream_will_be_granted_again", || {
        let budget = 4 << 20;
        let mut filling = Filling::new(quiet().max_receive_buffer(budget), 2);
        filling.round(1);
        while filling.round(0) < 1 << 20 {}
        // One byte less than makes an UPD due. That UPD will grant all these bytes again.
        let quarter = (1 << 18) - 1;
        filling.send(0, quarter);
        filling.read(0, quarter);
        while filling.round(1) != filling.round(1) {}
        filling.send(0, 1);
        filling.read(0, 1);
        assert_eq!(filling.expect_update(0), 1 << 20);
        assert!(filling.granted() <= budget as u64 / 2, "{}", filling.granted());
    });
}

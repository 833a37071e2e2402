//! Inline reads. While one stream alone exchanges requests and replies, the thread that is blocked
//! in `read` reads the transport itself. The tests show what happens to the frames that it
//! receives, and how the reader thread goes on afterwards.
//!
//! Most tests run over a [`Line`]. Its bounded reads last until the test ends them, so an inline
//! read can last as long as a test needs. It records which thread reads.
//! `fast_path_reading_sockets.rs` has tests over real sockets.
//!
//! Promises: P15, P43, P48, P62.

mod support;

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gmux::transport::{Control, Halves, Transport};
use gmux::wire::{Command, Frame};
use gmux::{Config, Error, Session, Stream};
use support::faulty::Rng;
use support::scripted::{asleep, blocked, data, quiet};
use support::{Pattern, test, until};

// ---- a transport that the test moves ------------------------------------------------------------

/// The result of a read.
#[derive(Debug, Clone)]
enum Input {
    Bytes(Vec<u8>),
    /// The bound of a bounded read expires.
    Bound,
    Fail(io::ErrorKind),
    Panic,
    Eof,
}

/// The changes of the bound that fail.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Refuse {
    #[default]
    None,
    Setting,
    Clearing,
}

#[derive(Default)]
struct State {
    input: VecDeque<Input>,
    /// The name of the thread that waits inside a read.
    inside: Option<String>,
    /// The names of the threads whose reads returned bytes, one for each read.
    reads: Vec<String>,
    /// Whether a read has returned the end or a failure, and the number of reads that began after
    /// that.
    over: bool,
    after: usize,
    /// Whether bounded reads last until `Input::Bound`, instead of until their bound.
    held: bool,
    bound: Option<Duration>,
    /// The bounds that were set, in order.
    bounds: Vec<Option<Duration>>,
    refuse: Refuse,
    /// Number of bytes that a [`Stuck`] writer holds.
    stuck_with: usize,
    undecoded: Vec<u8>,
    frames: Vec<Frame>,
    finished: bool,
    aborted: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The test's end of the connection, and the transport.
#[derive(Clone, Default)]
struct Line(Arc<Shared>);

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The line is used after a test has failed, too.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.lock());
        self.0.changed.notify_all();
        result
    }

    /// Waits until `seen` returns a result.
    fn wait<R>(&self, mut seen: impl FnMut(&mut State) -> Option<R>) -> R {
        let mut state = self.lock();
        loop {
            if let Some(result) = seen(&mut state) {
                return result;
            }
            state = self.0.changed.wait(state).unwrap();
        }
    }

    fn push(&self, input: Input) {
        self.change(|state| state.input.push_back(input));
    }

    /// Waits until all input was read and this thread waits for more.
    fn reads_next(&self, name: &str) {
        self.wait(|state| {
            (state.input.is_empty() && state.inside.as_deref() == Some(name)).then_some(())
        });
    }

    /// Waits until all input was read and a thread waits for more. Returns its name.
    fn who_reads(&self) -> String {
        self.wait(|state| if state.input.is_empty() { state.inside.clone() } else { None })
    }
}

impl Transport for Line {
    fn split(self) -> io::Result<Halves> {
        let line = self.clone();
        let bound = move |bound: Option<Duration>| {
            line.change(|state| {
                state.bounds.push(bound);
                match (state.refuse, bound) {
                    (Refuse::Setting, Some(_)) | (Refuse::Clearing, None) => {
                        Err(io::Error::other("as ordered"))
                    }
                    _ => {
                        state.bound = bound;
                        Ok(())
                    }
                }
            })
        };
        Ok(Halves::new(self.clone(), self.clone(), self).bounded_writes(true).bound_reads(bound))
    }
}

impl Read for Line {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let me = thread::current().name().unwrap_or_default().to_owned();
        let begun = Instant::now();
        let mut state = self.lock();
        state.after += usize::from(state.over);
        loop {
            if state.aborted {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let input = state.input.pop_front();
            state.over |= matches!(input, Some(Input::Fail(_) | Input::Panic | Input::Eof));
            match input {
                Some(Input::Bytes(mut bytes)) => {
                    let n = bytes.len().min(buf.len());
                    buf[..n].copy_from_slice(&bytes[..n]);
                    bytes.drain(..n);
                    if !bytes.is_empty() {
                        state.input.push_front(Input::Bytes(bytes));
                    }
                    state.reads.push(me);
                    return Ok(n);
                }
                Some(Input::Bound) if state.bound.is_some() => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Some(Input::Bound) => continue,
                Some(Input::Fail(kind)) => return Err(kind.into()),
                Some(Input::Eof) => {
                    state.input.push_front(Input::Eof);
                    return Ok(0);
                }
                Some(Input::Panic) => {
                    drop(state);
                    panic!("the line's read panics, as ordered");
                }
                None => {}
            }
            let left = match state.bound {
                Some(bound) if !state.held => bound.saturating_sub(begun.elapsed()),
                _ => Duration::from_secs(600),
            };
            if left.is_zero() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state.inside = Some(me.clone());
            self.0.changed.notify_all();
            state = self.0.changed.wait_timeout(state, left).unwrap().0;
            state.inside = None;
        }
    }
}

impl Write for Line {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.change(|state| {
            if state.aborted {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            for buf in bufs {
                state.undecoded.extend_from_slice(buf);
            }
            while let Some((frame, rest)) = Frame::decode(&state.undecoded).unwrap() {
                let used = state.undecoded.len() - rest.len();
                state.undecoded.drain(..used);
                state.frames.push(frame);
            }
            Ok(bufs.iter().map(|buf| buf.len()).sum())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Control for Line {
    fn finish_write(&self) -> io::Result<()> {
        self.change(|state| state.finished = true);
        Ok(())
    }

    fn abort(&self) {
        self.change(|state| state.aborted = true);
    }
}

// ---- a conversation -----------------------------------------------------------------------------

/// The bytes that an application's thread received, and the result of its last read.
type Heard = (Vec<u8>, io::Result<()>);

/// A server's session over a line. A thread replies with one byte to each read of stream 3.
struct Conversation {
    line: Line,
    session: Option<Session>,
    stream: Option<Stream>,
    version: u8,
    app: Option<JoinHandle<Heard>>,
    /// The names of that thread and of the reader thread.
    name: String,
    reader: String,
    /// The bytes that were sent to it, and the number of its replies.
    said: Vec<u8>,
    answers: usize,
    /// The peer sends this number of bytes of the next message with each message. `ahead` is the
    /// number that it has sent of the next one.
    carry: usize,
    ahead: usize,
}

/// Reads up to `size` bytes at a time, calls `then`, and replies to each read.
fn answer(stream: &Stream, size: usize, mut then: impl FnMut()) -> Heard {
    let mut stream = stream;
    let mut heard = Vec::new();
    let mut buf = vec![0; size];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return (heard, Ok(())),
            Ok(n) => {
                heard.extend_from_slice(&buf[..n]);
                then();
                let _ = stream.write_all(b"!"); // if this fails, the next read says why
            }
            Err(error) => return (heard, Err(error)),
        }
    }
}

fn number(session: &Session) -> String {
    let text = format!("{session:?}");
    text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect()
}

/// Starts a thread with this name.
fn named<R: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> R + Send + 'static,
) -> JoinHandle<R> {
    thread::Builder::new().name(name.into()).spawn(body).unwrap()
}

impl Conversation {
    /// A session with stream 3, which nobody reads.
    fn silent(version: u8, config: Config) -> Self {
        let config = config.version(version);
        let line = Line::default();
        line.change(|state| state.held = true);
        let session = Session::server(line.clone(), config).unwrap();
        let name = format!("app-{}", number(&session));
        let reader = format!("gmux-reader-{}", number(&session));
        let mut talk = Self {
            line,
            session: Some(session),
            stream: None,
            version,
            app: None,
            name,
            reader,
            said: Vec::new(),
            answers: 0,
            carry: 0,
            ahead: 0,
        };
        talk.stream = Some(talk.open(3));
        talk
    }

    fn new(version: u8) -> Self {
        Self::with(version, quiet())
    }

    fn with(version: u8, config: Config) -> Self {
        let mut talk = Self::silent(version, config);
        let stream = talk.stream().clone();
        talk.app = Some(named(&talk.name, move || answer(&stream, 70_000, || ())));
        talk
    }

    fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }

    fn stream(&self) -> &Stream {
        self.stream.as_ref().unwrap()
    }

    fn open(&self, id: u32) -> Stream {
        self.frame(Command::Syn, id, b"");
        self.session().accept().unwrap()
    }

    fn encode(&self, command: Command, id: u32, payload: &[u8]) -> Vec<u8> {
        Frame::new(self.version, command, id, payload).unwrap().encode()
    }

    fn frame(&self, command: Command, id: u32, payload: &[u8]) {
        self.line.push(Input::Bytes(self.encode(command, id, payload)));
    }

    /// Sends a message, and waits for its reply.
    fn ask(&mut self, message: &[u8]) {
        let frame = self.encode(Command::Psh, 3, message);
        let mut bytes = frame[self.ahead..].to_vec();
        bytes.extend_from_slice(&frame[..self.carry]); // all these messages are equal
        self.ahead = self.carry;
        self.line.push(Input::Bytes(bytes));
        self.said.extend_from_slice(message);
        self.answered();
    }

    fn answered(&mut self) {
        self.answers += 1;
        let answers = self.answers;
        self.line.wait(|state| (data(&state.frames, 3).len() >= answers).then_some(()));
    }

    /// Sends messages until the application's thread is in an inline read that has just begun.
    fn read_inline(&mut self) {
        loop {
            // These follow quickly, because slow inline reads would make offers rare.
            (0..20).for_each(|_| self.ask(b"?"));
            asleep(&self.name); // in an inline read, or waiting on its stream
            if self.line.who_reads() == self.name {
                // This ends the inline read that has lasted for long.
                self.ask(b"?");
                if self.line.who_reads() == self.name {
                    return;
                }
            }
        }
    }

    fn reads(&self) -> Vec<String> {
        self.line.lock().reads.clone()
    }

    /// Checks that the application's thread received all that was sent. Returns the result of its
    /// last read.
    fn end(&mut self) -> io::Result<()> {
        let (heard, end) =
            self.app.take().unwrap().join().expect("no panic reaches the application");
        assert!(heard == self.said, "{} bytes heard, {} said", heard.len(), self.said.len());
        end
    }

    /// The peer finishes the stream, and the application's read returns the end.
    fn finish(mut self) {
        self.frame(Command::Fin, 3, b"");
        self.end().unwrap();
        assert!(self.session().close_reason().is_none());
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // Ends the session's reader, and makes the session's close clean.
        self.line.change(|state| {
            state.held = false;
            state.input.push_back(Input::Eof);
        });
    }
}

// ---- the reading thread -------------------------------------------------------------------------

#[test]
fn a_conversation_is_soon_read_inline_by_the_thread_that_waits_for_it() {
    test("a_conversation_is_soon_read_inline_by_the_thread_that_waits_for_it", || {
        for version in [1, 2] {
            let mut talk = Conversation::new(version);
            talk.read_inline();
            assert_eq!(talk.line.lock().bounds.last(), Some(&Some(Duration::from_millis(10))));
            let before = talk.reads().len();
            assert!(
                talk.reads()[..8].iter().all(|name| *name == talk.reader),
                "{:?}",
                talk.reads()
            );
            talk.ask(b"and now?");
            assert_eq!(talk.reads()[before..], [talk.name.clone()]);
            talk.finish();
        }
    });
}

/// Returns the number of times that a thread of this process has gone to sleep by itself, as the
/// system's line of text.
fn sleeps(name: &str) -> Option<String> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let status =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
    let ours = |status: &String| {
        status.lines().next().is_some_and(|line| line.trim_end().ends_with(&format!("\t{name}")))
    };
    let line = |status: String| {
        status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).map(str::to_owned)
    };
    status.into_iter().find(ours).and_then(line)
}

#[test]
fn when_the_conversation_stops_the_reader_thread_reads_again_and_sleeps() {
    test("when_the_conversation_stops_the_reader_thread_reads_again_and_sleeps", || {
        for version in [1, 2] {
            let mut talk = Conversation::new(version);
            for _ in 0..2 {
                talk.read_inline();
                talk.line.push(Input::Bound); // nothing came within the bound
                talk.line.reads_next(&talk.reader);
                assert_eq!(talk.line.lock().bound, None);
                for name in [
                    talk.reader.clone(),
                    talk.name.clone(),
                    talk.reader.replace("reader", "writer"),
                ] {
                    asleep(&name);
                    let before = sleeps(&name);
                    // Nothing happens, which is no event. This takes many handoff timeouts and some
                    // bounds.
                    thread::sleep(Duration::from_millis(60));
                    assert_eq!(sleeps(&name), before, "{name} wakes up though nothing happens");
                    assert_eq!(before.is_some(), cfg!(target_os = "linux"));
                }
                talk.ask(b"still there?");
            }
            talk.finish();
        }
    });
}

#[test]
fn a_caller_that_does_not_come_back_is_not_waited_for() {
    test("a_caller_that_does_not_come_back_is_not_waited_for", || {
        let mut talk = Conversation::silent(1, quiet());
        let stream = talk.stream().clone();
        let (stop, go) = mpsc::channel::<()>();
        let (tell, stopped) = mpsc::channel();
        talk.app = Some(named(&talk.name, move || {
            let mut told = false;
            let then = || {
                // After this message the application does something else.
                if let (false, Ok(())) = (told, go.try_recv()) {
                    told = true;
                    tell.send(()).unwrap();
                    let _ = go.recv();
                }
            };
            answer(&stream, 70_000, then)
        }));
        talk.read_inline();
        stop.send(()).unwrap();
        talk.frame(Command::Psh, 3, b"away");
        talk.said.extend(b"away");
        stopped.recv().unwrap();
        talk.line.reads_next(&talk.reader);
        assert_eq!(talk.line.lock().bound, None);
        // Meanwhile frames for other streams arrive.
        let mut other = talk.open(5);
        talk.frame(Command::Psh, 5, b"hello");
        let mut text = [0; 5];
        other.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
        stop.send(()).unwrap();
        talk.answered();
        talk.read_inline();
        talk.finish();
    });
}

#[test]
fn a_transport_whose_bound_cannot_be_set_is_read_by_the_reader_thread_alone() {
    test("a_transport_whose_bound_cannot_be_set_is_read_by_the_reader_thread_alone", || {
        let mut talk = Conversation::new(1);
        talk.line.change(|state| state.refuse = Refuse::Setting);
        for _ in 0..40 {
            talk.ask(b"?");
            asleep(&talk.name);
        }
        assert!(talk.reads().iter().all(|name| *name == talk.reader));
        let tried = talk.line.lock().bounds.clone();
        assert!(tried.iter().all(Option::is_some) && (1..=5).contains(&tried.len()), "{tried:?}");
        talk.finish();
    });
}

#[test]
fn a_bound_on_reads_that_cannot_be_cleared_does_no_harm() {
    test("a_bound_on_reads_that_cannot_be_cleared_does_no_harm", || {
        let mut talk = Conversation::new(1);
        talk.read_inline();
        talk.line.change(|state| state.refuse = Refuse::Clearing);
        for _ in 0..3 {
            talk.line.push(Input::Bound);
            talk.line.reads_next(&talk.reader); // bounded, and once more
            talk.line.push(Input::Bound);
            talk.line.reads_next(&talk.reader);
            talk.ask(b"?");
        }
        talk.finish();
    });
}

#[test]
fn a_call_with_a_near_limit_or_in_non_blocking_mode_does_not_read_inline() {
    test("a_call_with_a_near_limit_or_in_non_blocking_mode_does_not_read_inline", || {
        for nonblocking in [false, true] {
            let mut talk = Conversation::silent(1, quiet());
            let stream = talk.stream().clone();
            if nonblocking {
                stream.set_nonblocking(true).unwrap();
            } else {
                stream.set_read_timeout(Some(Duration::from_millis(15))).unwrap();
            }
            let app = named(&talk.name, move || {
                loop {
                    let (heard, end) = answer(&stream, 100, || ());
                    match end {
                        Ok(()) => return heard,
                        Err(error) if !nonblocking => {
                            assert_eq!(error.kind(), io::ErrorKind::TimedOut)
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                            thread::yield_now();
                        }
                    }
                }
            });
            for _ in 0..200 {
                talk.ask(b"?");
            }
            talk.frame(Command::Fin, 3, b"");
            app.join().unwrap();
            assert!(talk.reads().iter().all(|name| *name == talk.reader));
        }
    });
}

// ---- data during an inline read -----------------------------------------------------------------

#[test]
fn frames_for_others_in_an_inline_read_reach_them_and_end_the_offer() {
    test("frames_for_others_in_an_inline_read_reach_them_and_end_the_offer", || {
        for version in [1, 2] {
            let mut talk = Conversation::new(version);
            let other = talk.open(5);
            for id in [7, 9] {
                let mut stream = other.clone();
                let waits = blocked(&format!("other-{}", talk.name), move || {
                    let mut text = [0; 5];
                    stream.read_exact(&mut text).map(|()| text)
                });
                talk.read_inline();
                talk.frame(Command::Psh, 5, b"hello");
                assert_eq!(waits.join().unwrap().unwrap(), *b"hello");
                assert_eq!(talk.reads().last(), Some(&talk.name), "it came in an inline read");
                talk.line.reads_next(&talk.reader);

                let session = talk.session().clone();
                let accepts = blocked(&format!("acc-{}", talk.name), move || session.accept());
                talk.read_inline();
                talk.frame(Command::Syn, id, b"new");
                assert_eq!(accepts.join().unwrap().unwrap().name(), "new");
                talk.line.reads_next(&talk.reader);
            }
            // FIN wakes a blocked read, too. Data for a stream that nobody reads is kept.
            let mut stream = other.clone();
            let waits = blocked(&format!("fin-{}", talk.name), move || stream.read(&mut [0; 5]));
            let silent = talk.open(11);
            talk.read_inline();
            talk.frame(Command::Psh, 11, b"later");
            talk.frame(Command::Fin, 5, b"");
            assert_eq!(waits.join().unwrap().unwrap(), 0);
            let mut text = [0; 5];
            (&silent).read_exact(&mut text).unwrap();
            assert_eq!(&text, b"later");
            talk.ask(b"and you?");
            talk.finish();
        }
    });
}

#[test]
fn credit_for_another_streams_writer_in_an_inline_read_wakes_it() {
    test("credit_for_another_streams_writer_in_an_inline_read_wakes_it", || {
        let mut talk = Conversation::new(2);
        let mut other = talk.open(5);
        let writes = blocked(&format!("wr-{}", talk.name), move || other.write_all(&[7; 300_000]));
        talk.read_inline();
        talk.line.push(Input::Bytes(Frame::update(5, 262_144, 65_536).encode()));
        writes.join().unwrap().unwrap();
        talk.line.reads_next(&talk.reader);
        talk.line.wait(|state| (data(&state.frames, 5).len() == 300_000).then_some(()));
        talk.finish();
    });
}

#[test]
fn a_frame_that_comes_in_part_in_an_inline_read_is_completed_by_the_reader_thread() {
    test("a_frame_that_comes_in_part_in_an_inline_read_is_completed_by_the_reader_thread", || {
        for version in [1, 2] {
            let mut talk = Conversation::new(version);
            for (size, cuts) in
                [(5, vec![1, 7, 8, 12]), (5000, vec![8, 100, 5007]), (40_000, vec![9, 30_000])]
            {
                let message = Pattern::bytes(size as u64, size);
                for cut in cuts {
                    talk.read_inline();
                    let frame = talk.encode(Command::Psh, 3, &message);
                    talk.line.push(Input::Bytes(frame[..cut].to_vec()));
                    talk.line.who_reads();
                    talk.line.push(Input::Bound);
                    talk.line.reads_next(&talk.reader);
                    talk.line.push(Input::Bytes(frame[cut..].to_vec()));
                    talk.said.extend_from_slice(&message);
                    talk.answered();
                    // If the inline read lasts, it completes the frame itself, in two or more
                    // reads.
                    talk.ask(&message);
                }
            }
            talk.finish();
        }
    });
}

#[test]
fn a_frame_that_the_reader_thread_has_begun_is_completed_in_an_inline_read() {
    test("a_frame_that_the_reader_thread_has_begun_is_completed_in_an_inline_read", || {
        for version in [1, 2] {
            for carry in [1, 7, 8] {
                let mut talk = Conversation::new(version);
                talk.carry = carry;
                talk.read_inline();
                let before = talk.reads().len();
                talk.ask(b"?");
                assert_eq!(talk.reads()[before], talk.name);
                talk.ask(b"?");
                talk.carry = 0;
                talk.ask(b"?");
                talk.finish();
            }
        }
    });
}

#[test]
fn a_peer_that_sends_little_by_little_does_not_prolong_an_inline_read() {
    test("a_peer_that_sends_little_by_little_does_not_prolong_an_inline_read", || {
        let mut talk = Conversation::new(1);
        talk.read_inline();
        thread::sleep(Duration::from_millis(11)); // this inline read has lasted for its bound
        let before = talk.reads().len();
        for _ in 0..4 {
            talk.frame(Command::Nop, 0, b"");
            talk.line.who_reads();
        }
        assert_eq!(talk.reads()[before], talk.name);
        assert!(
            talk.reads()[before + 1..].iter().all(|name| *name == talk.reader),
            "{:?}",
            &talk.reads()[before..]
        );
        talk.finish();
    });
}

#[test]
fn a_budget_that_is_nearly_used_up_ends_the_offer_and_the_reader_thread_pauses() {
    test("a_budget_that_is_nearly_used_up_ends_the_offer_and_the_reader_thread_pauses", || {
        let mut talk =
            Conversation::with(1, quiet().max_receive_buffer(262_144).stall_timeout(None));
        let mut bulk = talk.open(5);
        let payload = Pattern::bytes(5, 32_768);
        for _ in 0..3 {
            talk.frame(Command::Psh, 5, &payload);
        }
        talk.read_inline(); // there is room for a frame of any size, and then again
        talk.frame(Command::Psh, 5, &payload);
        talk.line.reads_next(&talk.reader);
        // There is less room now. Callers don't read inline, and the reader thread waits for budget
        // if it must.
        let before = talk.reads().len();
        for _ in 0..20 {
            talk.ask(b"?");
            asleep(&talk.name);
        }
        assert!(talk.reads()[before..].iter().all(|name| *name == talk.reader));
        for _ in 0..8 {
            talk.frame(Command::Psh, 5, &payload);
        }
        until(|| talk.session().stats().receive_pauses == 1);
        for frame in 0..12 {
            let mut got = vec![0; payload.len()];
            bulk.read_exact(&mut got).unwrap();
            assert!(got == payload, "frame {frame}");
        }
        talk.read_inline();
        talk.finish();
    });
}

/// P62: an inline read takes in the streams that fit into the backlog. It ends before a stream that
/// doesn't fit. The reader thread then waits for `accept`. The caller waits on its own stream,
/// until a timeout ends that.
#[test]
fn a_full_backlog_ends_the_offer_and_the_reader_thread_pauses() {
    test("a_full_backlog_ends_the_offer_and_the_reader_thread_pauses", || {
        for version in [1, 2] {
            let mut talk =
                Conversation::with(version, quiet().accept_backlog(1).accept_stall_timeout(None));
            talk.read_inline();
            let streams = [5, 7].map(|id| talk.encode(Command::Syn, id, b"")).concat();
            talk.line.push(Input::Bytes(streams));
            until(|| talk.session().stats().accept_pauses == 1);
            talk.stream().set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            let session = talk.session().clone();
            assert_eq!(talk.end().unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!([(); 2].map(|()| session.accept().unwrap().id()), [5, 7]);
        }
    });
}

// ---- events during an inline read ---------------------------------------------------------------

/// An event during an inline read: its name, the event, and the kind of the error that ends the
/// read, or `None` for an end of file.
type Ending = (&'static str, fn(&Conversation), Option<io::ErrorKind>);

#[test]
fn limits_and_endings_reach_an_inline_read() {
    use io::ErrorKind::{NotConnected, TimedOut, WouldBlock};
    const MS: Duration = Duration::from_millis(1);
    let endings: [Ending; 12] = [
        ("the stream's close", |talk| talk.stream().close().unwrap(), Some(NotConnected)),
        ("shutdown(Read)", |talk| talk.stream().shutdown(Shutdown::Read).unwrap(), None),
        ("shutdown(Both)", |talk| talk.stream().shutdown(Shutdown::Both).unwrap(), None),
        (
            "a passed deadline",
            |talk| talk.stream().set_read_deadline(Some(Instant::now())),
            Some(TimedOut),
        ),
        (
            "a deadline",
            |talk| talk.stream().set_read_deadline(Some(Instant::now() + 30 * MS)),
            Some(TimedOut),
        ),
        ("a timeout", |talk| talk.stream().set_read_timeout(Some(MS)).unwrap(), Some(TimedOut)),
        (
            "a no-data timeout",
            |talk| talk.stream().set_no_data_timeout(Some(MS)).unwrap(),
            Some(TimedOut),
        ),
        (
            "non-blocking mode",
            |talk| talk.stream().set_nonblocking(true).unwrap(),
            Some(WouldBlock),
        ),
        // These two wait for the peer's end, but not for the inline read, which is still held.
        (
            "the session's close",
            |talk| {
                begin(talk, |session| {
                    let _ = session.close();
                })
            },
            Some(NotConnected),
        ),
        (
            "a drain that is late",
            |talk| {
                begin(talk, |session| {
                    assert!(matches!(
                        session.drain(MS),
                        Err(Error::DrainIncomplete { streams: 1, .. })
                    ));
                });
            },
            Some(NotConnected),
        ),
        (
            "the session's no-data timeout",
            |talk| talk.session().set_no_data_timeout(Some(MS)).unwrap(),
            Some(TimedOut),
        ),
        ("the peer's FIN", |talk| talk.frame(Command::Fin, 3, b""), None),
    ];
    /// Closes the session on a thread of its own, and waits until the close has begun.
    fn begin(talk: &Conversation, close: fn(&Session)) {
        let session = talk.session().clone();
        thread::spawn(move || close(&session));
        until(|| talk.session().is_closed());
    }
    test("limits_and_endings_reach_an_inline_read", || {
        for version in [1, 2] {
            for (what, happens, ends) in endings {
                let mut talk = Conversation::new(version);
                talk.read_inline();
                happens(&talk);
                talk.line.change(|state| state.held = false); // the bound expires
                let end = talk.end();
                assert_eq!(end.err().map(|error| error.kind()), ends, "{what}");
            }
        }
    });
}

#[test]
fn an_inline_read_keeps_the_session_that_has_no_other_handle() {
    test("an_inline_read_keeps_the_session_that_has_no_other_handle", || {
        for version in [1, 2] {
            let mut talk = Conversation::new(version);
            talk.read_inline();
            let _ = talk.stream.take();
            let _ = talk.session.take();
            talk.frame(Command::Syn, 7, b"too late");
            let refused =
                |frame: &Frame| (frame.header.command, frame.header.stream_id) == (Command::Fin, 7);
            talk.line.wait(|state| state.frames.iter().any(refused).then_some(()));
            talk.ask(b"still there?");
            talk.frame(Command::Fin, 3, b"");
            // The application drops the last handle. That closes the session, and waits until
            // everything was handed over.
            talk.end().unwrap();
            assert!(talk.line.lock().finished);
        }
    });
}

#[test]
fn a_transport_that_fails_in_an_inline_read_ends_the_session_once_for_its_own_cause() {
    type Failure = (&'static str, fn(&Conversation), fn(&Error) -> bool);
    let failures: [Failure; 6] = [
        (
            "an error",
            |talk| talk.line.push(Input::Fail(io::ErrorKind::ConnectionReset)),
            |cause| {
                let is_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
                matches!(cause, Error::Io(error) if is_reset(error))
            },
        ),
        (
            "the end, between frames",
            |talk| talk.line.push(Input::Eof),
            |cause| matches!(cause, Error::ConnectionLost(lost) if lost.ours + lost.theirs > 0),
        ),
        (
            "the end, inside a header",
            |talk| {
                talk.line.push(Input::Bytes(vec![talk.version, 2, 9]));
                talk.line.push(Input::Eof);
            },
            |cause| matches!(cause, Error::ConnectionLost(lost) if lost.inside_frame),
        ),
        (
            "the end, inside a payload",
            |talk| {
                talk.line
                    .push(Input::Bytes(talk.encode(Command::Psh, 99, &[0; 6000])[..5000].to_vec()));
                talk.line.push(Input::Eof);
            },
            |cause| matches!(cause, Error::ConnectionLost(lost) if lost.inside_frame),
        ),
        (
            "a panic",
            |talk| talk.line.push(Input::Panic),
            |cause| matches!(cause, Error::Io(error) if error.to_string().contains("as ordered")),
        ),
        (
            "garbage",
            |talk| talk.line.push(Input::Bytes(vec![99; 8])),
            |cause| matches!(cause, Error::InvalidVersion { theirs: 99, .. }),
        ),
    ];
    test(
        "a_transport_that_fails_in_an_inline_read_ends_the_session_once_for_its_own_cause",
        || {
            for version in [1, 2] {
                for (what, happens, is_cause) in failures {
                    let mut talk = Conversation::new(version);
                    let (tell, told) = mpsc::channel();
                    talk.stream().set_close_notifier(move |_| tell.send(()).unwrap());
                    let others = talk.open(5);
                    talk.read_inline();
                    let reads = talk.reads().len();
                    happens(&talk);
                    let end = talk.end().expect_err(what);
                    let by = talk.reads();
                    assert!(by[reads..].iter().all(|name| *name == talk.name), "{what}: {by:?}");
                    let inside = end.downcast::<Error>().expect("the session's error");
                    assert!(is_cause(&inside), "{what}: the caller got {inside:?}");
                    let cause = talk.session().close_reason();
                    assert!(cause.as_ref().is_some_and(is_cause), "{what}: {cause:?}");
                    assert!((&others).read(&mut [0]).is_err(), "{what}");
                    // The second receive fails, so the notifier was dropped after its only call.
                    assert_eq!(
                        (told.recv(), told.recv()),
                        (Ok(()), Err(mpsc::RecvError)),
                        "{what}"
                    );
                    // After an end of file the session ends its output in order, so it doesn't
                    // abort.
                    let by_eof = what.starts_with("the end");
                    until(|| {
                        if by_eof { talk.line.lock().finished } else { talk.line.lock().aborted }
                    });
                    assert_eq!(talk.line.lock().after, 0, "{what}: reads after the end");
                }
            }
        },
    );
}

// ---- several threads ----------------------------------------------------------------------------

#[test]
fn two_threads_that_read_one_stream_share_it_and_miss_nothing() {
    test("two_threads_that_read_one_stream_share_it_and_miss_nothing", || {
        for version in [1, 2] {
            // There is no inline read if the system doesn't let the caller run within half a
            // millisecond of the offer. Each such offer also makes the next ones rarer. So on a
            // busy machine a conversation may have no inline read, and then another one follows.
            while !two_threads_share_a_stream(version) {}
        }
    });
}

/// Holds a conversation in which two threads read one stream, and checks that both together receive
/// all of it. Returns whether there was an inline read.
fn two_threads_share_a_stream(version: u8) -> bool {
    let mut talk = Conversation::new(version);
    let stream = talk.stream().clone();
    let second = named(&format!("sec-{}", talk.name), move || answer(&stream, 70_000, || ()));
    for n in 0..400_u32 {
        talk.ask(&n.to_le_bytes());
    }
    talk.line.change(|state| state.held = false);
    talk.frame(Command::Fin, 3, b"");
    let (first, end) = talk.app.take().unwrap().join().unwrap();
    end.unwrap();
    let (second, end) = second.join().unwrap();
    end.unwrap();
    let all = [&*first, &*second].concat();
    let mut all: Vec<_> =
        all.chunks(4).map(|n| u32::from_le_bytes(n.try_into().unwrap())).collect();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..400));
    talk.reads().iter().any(|name| *name != talk.reader)
}

#[test]
fn a_deadline_that_is_set_while_another_stream_reads_inline_is_not_missed() {
    test("a_deadline_that_is_set_while_another_stream_reads_inline_is_not_missed", || {
        let mut talk = Conversation::new(1);
        let mut other = talk.open(5);
        talk.read_inline(); // it stays inline, so no other call can
        let ready = Arc::new(Barrier::new(2));
        let done = Arc::new(Barrier::new(2));
        let rounds = if std::env::var_os("GMUX_FULL").is_some() { 20_000 } else { 1000 };
        let reads = named(&format!("oth-{}", talk.name), {
            let ready = Arc::clone(&ready);
            let done = Arc::clone(&done);
            let mut stream = other.clone();
            move || {
                for _ in 0..rounds {
                    ready.wait();
                    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
                    done.wait();
                }
            }
        });
        let mut rng = Rng::new(1);
        for _ in 0..rounds {
            ready.wait();
            for _ in 0..rng.below(300) {
                std::hint::spin_loop();
            }
            other.set_read_deadline(Some(Instant::now()));
            done.wait();
            other.set_read_deadline(None);
        }
        reads.join().unwrap();
        assert_eq!(talk.line.who_reads(), talk.name);
        other.flush().unwrap();
        talk.finish();
    });
}

/// A writer that doesn't return before the test lets it.
struct Stuck {
    tell: mpsc::Sender<()>,
    go: mpsc::Receiver<()>,
    line: Line,
}

impl Write for Stuck {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.line.change(|state| state.stuck_with = buf.len());
        let _ = self.tell.send(());
        let _ = self.go.recv();
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_caller_beside_a_write_to_that_never_returns_stops_reading_inline() {
    test("a_caller_beside_a_write_to_that_never_returns_stops_reading_inline", || {
        // The caller has to read inline while the writer is stuck. On a busy machine it may be too
        // late for that.
        while !beside_a_stuck_write_to() {}
    });
}

/// Returns whether the caller read inline while the writer was stuck.
fn beside_a_stuck_write_to() -> bool {
    let mut talk = Conversation::silent(1, quiet());
    // The application's thread takes one byte at a time. If the test has told it so, it then waits
    // until `write_to` has taken the other bytes.
    let stream = talk.stream().clone();
    let (pause, paused) = mpsc::channel::<mpsc::Receiver<()>>();
    let then = move || {
        if let Ok(stuck) = paused.try_recv() {
            stuck.recv().unwrap();
        }
    };
    talk.app = Some(named(&talk.name, move || answer(&stream, 1, then)));
    let mut other = talk.open(5);
    talk.read_inline();
    let (tell, stuck) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let stream = talk.stream().clone();
    let mut writer = Stuck { tell, go: may_go, line: talk.line.clone() };
    let to = blocked(&format!("to-{}", talk.name), move || stream.write_to(&mut writer));
    assert_eq!(talk.line.who_reads(), talk.name);
    pause.send(stuck).unwrap();
    talk.frame(Command::Psh, 3, b"xy");
    talk.answers += 1;
    let answers = talk.answers;
    let answered = |state: &mut State| data(&state.frames, 3).len() >= answers;
    // On a busy machine `write_to` may be faster than the caller that read the data, and take both
    // bytes.
    let both_stuck = talk.line.wait(|state| match state.stuck_with {
        2 => Some(true),
        _ => answered(state).then_some(false),
    });
    if both_stuck {
        talk.stream().close().unwrap();
        drop(go);
        assert!(to.join().unwrap().is_err());
        assert!(talk.app.take().unwrap().join().unwrap().1.is_err());
        return false;
    }
    asleep(&talk.name);
    let was_inline = talk.line.who_reads() == talk.name;
    // The stream gets more data, which the caller can't have while the writer is stuck. This must
    // not make the caller begin inline reads again and again that read nothing.
    talk.frame(Command::Psh, 3, b"z");
    talk.line.reads_next(&talk.reader);
    talk.frame(Command::Psh, 5, b"hello");
    let mut text = [0; 5];
    other.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
    talk.stream().close().unwrap();
    drop(go);
    assert!(to.join().unwrap().is_err());
    assert!(talk.app.take().unwrap().join().unwrap().1.is_err());
    was_inline
}

//! A transport in memory that a test moves by hand, byte for byte. Also functions that wait until a
//! thread is blocked.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use gmux::transport::{Control, Halves, Transport};
use gmux::wire::{Command, Frame};
use gmux::{Config, Session};

/// The result of the session's next read.
#[derive(Debug)]
enum Input {
    Bytes(VecDeque<u8>),
    Fail(io::ErrorKind),
    Panic,
    Eof,
}

/// The hook that runs before the transport takes any byte of a write.
type OnWrite = Box<dyn FnMut() -> io::Result<()> + Send>;

#[derive(Default)]
pub struct State {
    input: VecDeque<Input>,
    /// The most bytes that one read returns or one write takes.
    piece: Option<usize>,
    /// Bytes that the session has written.
    pub written: Vec<u8>,
    /// Number of bytes that the session may still write before its writes block.
    allowed: usize,
    /// Number of bytes in the write that is blocked.
    pub offered: usize,
    pub flushes: usize,
    pub finished: bool,
    pub aborted: bool,
    /// `abort` doesn't return while this is set.
    hold_abort: bool,
    /// A read waits for input.
    pub reading: bool,
    on_write: Option<OnWrite>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The test's end of a scripted transport.
#[derive(Clone, Default)]
pub struct Script(Arc<Shared>);

impl Script {
    /// Returns a script with nothing to read. Writes block until `allow` is called.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a new script, and a server's session over it.
    pub fn server(config: Config) -> (Self, Session) {
        let script = Self::new();
        let session = Session::server(script.transport(), config).unwrap();
        (script, session)
    }

    /// Returns a new script, and a client's session over it.
    pub fn client(config: Config) -> (Self, Session) {
        let script = Self::new();
        let session = Session::client(script.transport(), config).unwrap();
        (script, session)
    }

    pub fn transport(&self) -> ScriptedTransport {
        ScriptedTransport(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.lock());
        self.0.changed.notify_all();
        result
    }

    /// Waits until `seen` returns a result for the script's state.
    pub fn wait<R>(&self, mut seen: impl FnMut(&mut State) -> Option<R>) -> R {
        let mut state = self.lock();
        loop {
            if let Some(result) = seen(&mut state) {
                return result;
            }
            state = self.0.changed.wait(state).unwrap();
        }
    }

    // ---- towards the session --------------------------------------------------------------------

    pub fn send(&self, bytes: impl Into<Vec<u8>>) {
        let bytes = Input::Bytes(bytes.into().into());
        self.change(|state| state.input.push_back(bytes));
    }

    pub fn frame(&self, version: u8, command: Command, id: u32, payload: &[u8]) {
        self.send(Frame::new(version, command, id, payload).unwrap().encode());
    }

    pub fn upd(&self, id: u32, consumed: u32, window: u32) {
        self.send(Frame::update(id, consumed, window).encode());
    }

    pub fn eof(&self) {
        self.change(|state| state.input.push_back(Input::Eof));
    }

    /// Makes the next read fail.
    pub fn fail_read(&self, kind: io::ErrorKind) {
        self.change(|state| state.input.push_back(Input::Fail(kind)));
    }

    /// Makes the next read panic.
    pub fn panic_read(&self) {
        self.change(|state| state.input.push_back(Input::Panic));
    }

    // ---- from the session -----------------------------------------------------------------------

    /// Limits each read and each write to `piece` bytes.
    pub fn piecewise(&self, piece: usize) {
        self.change(|state| state.piece = Some(piece));
    }

    /// Lets the session write `bytes` more bytes.
    pub fn allow(&self, bytes: usize) {
        self.change(|state| state.allowed = state.allowed.saturating_add(bytes));
    }

    pub fn allow_all(&self) {
        self.allow(usize::MAX);
    }

    /// Sets a hook that runs before each write that is allowed.
    pub fn on_write(&self, on_write: impl FnMut() -> io::Result<()> + Send + 'static) {
        self.change(|state| state.on_write = Some(Box::new(on_write)));
    }

    /// With `true`, `abort` doesn't return from now on, which holds the session's end where it is.
    /// `false` lets `abort` return again.
    pub fn hold_abort(&self, hold: bool) {
        self.change(|state| state.hold_abort = hold);
    }

    /// Waits until a write is blocked. Returns how many bytes it offers.
    pub fn blocked(&self) -> usize {
        self.wait(|state| (state.offered > 0).then_some(state.offered))
    }

    /// Waits until the session has read everything and waits for more.
    pub fn idle(&self) {
        self.wait(|state| (state.reading && state.input.is_empty()).then_some(()));
    }

    /// Waits until the session has read everything and waits for more, or has ended.
    pub fn taken(&self) {
        self.wait(|state| (state.aborted || state.reading && state.input.is_empty()).then_some(()));
    }

    /// Returns the frames that were written so far, without NOPs.
    pub fn frames(&self) -> Vec<Frame> {
        frames(&self.lock().written)
    }

    /// Waits until `wanted` accepts the frames that were written. Returns them.
    pub fn until_frames(&self, wanted: impl Fn(&[Frame]) -> bool) -> Vec<Frame> {
        self.wait(|state| {
            let frames = frames(&state.written);
            wanted(&frames).then_some(frames)
        })
    }
}

/// Returns the whole frames in `bytes`, without NOPs.
fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while let Some((frame, after)) = Frame::decode(rest).unwrap() {
        rest = after;
        if frame.header.command != Command::Nop {
            frames.push(frame);
        }
    }
    frames
}

/// Returns all data of a stream among `frames`.
pub fn data(frames: &[Frame], id: u32) -> Vec<u8> {
    let of_stream =
        |frame: &&Frame| frame.header.command == Command::Psh && frame.header.stream_id == id;
    frames.iter().filter(of_stream).flat_map(|frame| frame.payload.clone()).collect()
}

/// Returns how many frames of a kind a stream has among `frames`.
pub fn count(frames: &[Frame], command: Command, id: u32) -> usize {
    frames
        .iter()
        .filter(|frame| frame.header.command == command && frame.header.stream_id == id)
        .count()
}

pub struct ScriptedTransport(Script);

struct ScriptedReader(Script);
struct ScriptedWriter(Script);
struct ScriptedControl(Script);

impl Transport for ScriptedTransport {
    fn split(self) -> io::Result<Halves> {
        Ok(Halves::new(
            ScriptedReader(self.0.clone()),
            ScriptedWriter(self.0.clone()),
            ScriptedControl(self.0),
        ))
    }
}

impl Control for ScriptedControl {
    fn finish_write(&self) -> io::Result<()> {
        self.0.change(|state| state.finished = true);
        Ok(())
    }

    fn abort(&self) {
        self.0.change(|state| state.aborted = true);
        self.0.wait(|state| (!state.hold_abort).then_some(()));
    }
}

impl Read for ScriptedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        loop {
            if state.aborted {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let piece = state.piece.unwrap_or(usize::MAX).min(buf.len());
            match state.input.pop_front() {
                Some(Input::Bytes(bytes)) if bytes.is_empty() => {}
                Some(Input::Bytes(mut bytes)) => {
                    let n = bytes.read(&mut buf[..piece])?;
                    state.input.push_front(Input::Bytes(bytes));
                    return Ok(n);
                }
                Some(Input::Fail(kind)) => return Err(kind.into()),
                Some(Input::Panic) => {
                    drop(state);
                    panic!("the scripted read panics, as ordered");
                }
                Some(Input::Eof) => {
                    state.input.push_front(Input::Eof);
                    return Ok(0);
                }
                None => {
                    state.reading = true;
                    self.0.0.changed.notify_all();
                    state = self.0.0.changed.wait(state).unwrap();
                    state.reading = false;
                }
            }
        }
    }
}

impl Write for ScriptedWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        while state.allowed == 0 && !state.aborted {
            state.offered = offered;
            self.0.0.changed.notify_all();
            state = self.0.0.changed.wait(state).unwrap();
        }
        state.offered = 0;
        if state.aborted {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if let Some(mut on_write) = state.on_write.take() {
            drop(state);
            let result = on_write(); // It may panic, so not under the lock.
            state = self.0.lock();
            state.on_write = Some(on_write);
            result?;
        }
        let taken = offered.min(state.allowed).min(state.piece.unwrap_or(usize::MAX));
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).take(taken).collect();
        state.written.extend(all);
        state.allowed -= if state.allowed == usize::MAX { 0 } else { taken };
        drop(state);
        self.0.0.changed.notify_all();
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.change(|state| state.flushes += 1);
        Ok(())
    }
}

/// Waits until the thread with this name sleeps in a system call. Seen from outside, such a thread
/// is blocked. Thread names are cut after 15 bytes. Where the system doesn't show its threads, a
/// pause has to be enough.
pub fn asleep(name: &str) {
    asleep_unless(name, || false);
}

fn asleep_unless(name: &str, over: impl Fn() -> bool) {
    let mut looks = 0;
    let mut before = None;
    super::until(|| {
        assert!(!over(), "thread {name:?} was to block, it has ended");
        let sleeps = match task_of(name) {
            None if !cfg!(target_os = "linux") => Some(String::new()),
            task => task.and_then(|task| super::blocked::sleeps(&task)),
        };
        looks = if sleeps.is_some() && sleeps == before { looks + 1 } else { 0 };
        before = sleeps;
        looks >= 10 // A single look may find it asleep on a lock.
    });
}

/// Returns the thread's folder under `/proc`.
fn task_of(name: &str) -> Option<String> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let paths = tasks.filter_map(|task| task.ok()?.path().to_str().map(str::to_owned));
    paths.into_iter().find(|path| {
        std::fs::read_to_string(format!("{path}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
}

/// Runs `body` on a thread of that name and waits until it is blocked.
pub fn blocked<R: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> R + Send + 'static,
) -> std::thread::JoinHandle<R> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(body).unwrap();
    asleep_unless(name, || thread.is_finished());
    thread
}

/// A time limit far away. A wait that reaches it is a hang, which the watchdog finds.
pub const FAR: Duration = Duration::from_secs(600);

/// Returns the defaults without keepalive, which would end a session that hangs, and the test with
/// it.
pub fn quiet() -> Config {
    Config::new().keepalive_disabled(true)
}

/// Returns [`quiet`] in both protocol versions.
pub fn quiet_versions() -> [Config; 2] {
    [quiet(), quiet().version(2)]
}

/// Waits until the session has handled the `frames` frames that the raw peer has sent so far.
///
/// The session counts and charges a frame before it handles it. So this sends one more frame, and
/// waits until that one is counted.
pub fn processed(raw: &mut super::raw::Raw, session: &Session, frames: u64) {
    raw.nop();
    super::until(|| session.stats().frames_received > frames);
}

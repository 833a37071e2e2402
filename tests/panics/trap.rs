//! Transports and a logger that panic at the call with a given number.

use std::any::Any;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use gmux::transport::{Control, Halves, Pair, Shared, Transport};
use gmux::{Config, Result, Session};
use log::{LevelFilter, Log, Metadata, Record};

/// The text of every injected panic that has a text.
const TEXT: &str = "as ordered";

/// Number of panics so far, injected or not.
pub static PANICS: AtomicUsize = AtomicUsize::new(0);

/// The value that is thrown.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    Formatted,
    /// A value that panics when it is dropped.
    Bomb,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Text, Self::Formatted, Self::Bomb];

    fn throw(self) -> ! {
        match self {
            Self::Text => panic!("as ordered"),
            Self::Formatted => panic!("{}", TEXT.to_owned()),
            Self::Bomb => panic::panic_any(Bomb),
        }
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bomb was dropped, not {TEXT}");
    }
}

/// Installs a hook that counts panics, and doesn't print the injected ones.
pub fn count_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, SeqCst);
        let ordered = info.payload().is::<Bomb>() || text(info.payload()) == Some(TEXT);
        if !ordered {
            usual(info);
        }
    }));
}

fn text(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or(payload.downcast_ref::<String>().map(String::as_str))
}

/// Counts calls. Call number `at` panics, none if that is 0.
#[derive(Debug)]
struct Fuse {
    at: usize,
    kind: Kind,
    /// Every call so far.
    names: Mutex<Vec<&'static str>>,
}

impl Fuse {
    fn call(&self, name: &'static str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.push(name);
        let due = names.len() == self.at;
        drop(names);
        if due {
            self.kind.throw();
        }
    }
}

// ---- the logger ---------------------------------------------------------------------------------

pub struct Logger {
    state: Mutex<Logged>,
}

struct Logged {
    /// Whether only the timer's lines count.
    timers: bool,
    calls: usize,
    at: usize,
    kind: Kind,
    lines: Vec<String>,
}

pub static LOGGER: Logger = Logger {
    state: Mutex::new(Logged {
        timers: false,
        calls: 0,
        at: 0,
        kind: Kind::Text,
        lines: Vec::new(),
    }),
};

impl Logger {
    pub fn install() {
        let _ = log::set_logger(&LOGGER); // Another test of this binary may have installed it.
        log::set_max_level(LevelFilter::Trace);
    }

    fn lock(&self) -> MutexGuard<'_, Logged> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the n-th line from now on panic.
    pub fn arm(&self, n: usize, kind: Kind) {
        let mut state = self.lock();
        state.calls = 0;
        state.at = n;
        state.kind = kind;
        state.lines.clear();
    }

    /// With `true`, only lines of the timer's thread count from now on.
    pub fn only_timers(&self, only: bool) {
        self.lock().timers = only;
    }

    pub fn count(&self) -> usize {
        self.lock().calls
    }

    /// Makes no more lines panic. Returns whether one did.
    pub fn disarm(&self) -> bool {
        let mut state = self.lock();
        let at = std::mem::take(&mut state.at);
        at > 0 && state.calls >= at
    }

    /// Returns the lines about panics, and forgets them.
    pub fn take_panics(&self) -> Vec<String> {
        let mut lines = std::mem::take(&mut self.lock().lines);
        lines.retain(|line| line.contains("panicked") || line.contains(TEXT));
        lines
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        let mut state = self.lock();
        let counts = !state.timers || thread::current().name() == Some("gmux-timer");
        state.calls += usize::from(counts);
        if counts && state.calls == state.at {
            let kind = state.kind;
            drop(state);
            kind.throw();
        }
        state.lines.push(line);
    }

    fn flush(&self) {}
}

// ---- transports ---------------------------------------------------------------------------------

/// The kind of transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Separate halves of our own, which allow inline reads and writes.
    Halves,
    Pair,
    Shared,
}

/// A transport over a socket. One of its calls panics.
#[derive(Debug)]
pub struct Trap {
    pub over: Over,
    fuse: Arc<Fuse>,
}

impl Trap {
    pub fn new(over: Over, at: usize, kind: Kind) -> Self {
        Self { over, fuse: Arc::new(Fuse { at, kind, names: Mutex::default() }) }
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.fuse.names.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.names().len()
    }

    /// Returns the call that panicked, if one did.
    pub fn sprung(&self) -> Option<&'static str> {
        self.fuse.at.checked_sub(1).and_then(|at| self.names().get(at).copied())
    }

    /// Starts a session over this transport.
    pub fn session(&self, socket: UnixStream, config: Config) -> Result<Session> {
        let fuse = Arc::clone(&self.fuse);
        let clone = || socket.try_clone().unwrap();
        let part = |drops| Part { socket: clone(), fuse: Arc::clone(&fuse), drops };
        match self.over {
            Over::Halves => {
                Session::client(Whole { socket: clone(), fuse: Arc::clone(&fuse) }, config)
            }
            Over::Pair => {
                let abort = clone();
                let held = Held::new(&fuse, "drop of the abort hook");
                let pair = Pair::new(part("drop of the reader"), Ender(part("drop of the writer")));
                let pair = pair.with_abort(move || {
                    let _ = abort.shutdown(Shutdown::Both);
                    held.call("abort hook");
                });
                Session::client(pair, config)
            }
            Over::Shared => {
                let bound = Some(Duration::from_millis(1));
                socket.set_read_timeout(bound).unwrap();
                socket.set_write_timeout(bound).unwrap();
                let hooks =
                    ["drop of the readiness", "drop of the finish hook", "drop of the abort hook"];
                let [ready, finish, hook] = hooks.map(|name| Held::new(&fuse, name));
                let abort = clone();
                let mut asked = 0;
                let shared = Shared::new(part("drop of the inner one"))
                    .with_readiness(move || {
                        asked += 1;
                        if asked <= 3 {
                            ready.call("readiness");
                        }
                        Ok(())
                    })
                    .on_finish(move |inner| {
                        finish.call("finish hook");
                        inner.socket.shutdown(Shutdown::Write)
                    })
                    .on_abort(move || {
                        let _ = abort.shutdown(Shutdown::Both);
                        hook.call("abort hook");
                    });
                Session::client(shared, config)
            }
        }
    }
}

/// A value that a closure captures. Its drop counts as a call.
struct Held {
    fuse: Arc<Fuse>,
    drops: &'static str,
}

impl Held {
    fn new(fuse: &Arc<Fuse>, drops: &'static str) -> Self {
        Self { fuse: Arc::clone(fuse), drops }
    }

    fn call(&self, name: &'static str) {
        self.fuse.call(name);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.fuse.call(self.drops);
        }
    }
}

/// A half that reads or writes.
struct Part {
    socket: UnixStream,
    fuse: Arc<Fuse>,
    drops: &'static str,
}

impl Part {
    /// Counts a call that did something. A call that couldn't is repeated an unknown number of
    /// times, so it isn't counted.
    fn done<T>(&self, name: &'static str, result: io::Result<T>) -> io::Result<T> {
        if !matches!(&result, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            self.fuse.call(name);
        }
        result
    }
}

impl Read for Part {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let result = self.socket.read(buf);
        self.done("read", result)
    }
}

impl Write for Part {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let result = self.socket.write(buf);
        self.done("write", result)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.done("flush", Ok(()))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.fuse.call(self.drops);
        }
    }
}

/// A write half whose drop ends writing.
struct Ender(Part);

impl Write for Ender {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        let _ = self.0.socket.shutdown(Shutdown::Write);
    }
}

/// A transport whose own drop doesn't count as a call. A panic there, at the end of `split`, would
/// lose the returned halves inside the compiler's code.
struct Whole {
    socket: UnixStream,
    fuse: Arc<Fuse>,
}

impl Transport for Whole {
    fn split(self) -> io::Result<Halves> {
        let Self { socket, fuse } = &self;
        fuse.call("split");
        socket.set_write_timeout(Some(Duration::from_millis(10)))?;
        let part = |drops| {
            Ok::<_, io::Error>(Part { socket: socket.try_clone()?, fuse: Arc::clone(fuse), drops })
        };
        let control = Handle(part("drop of the control")?);
        let bounds = socket.try_clone()?;
        let held = Held::new(fuse, "drop of the bound");
        let bound = move |bound| {
            held.call("bound of reads");
            bounds.set_read_timeout(bound)
        };
        let halves = Halves::new(part("drop of the reader")?, part("drop of the writer")?, control);
        Ok(halves.bounded_writes(true).bound_reads(bound))
    }
}

struct Handle(Part);

impl Control for Handle {
    fn finish_write(&self) -> io::Result<()> {
        self.0.fuse.call("finish_write");
        self.0.socket.shutdown(Shutdown::Write)
    }

    fn abort(&self) {
        let _ = self.0.socket.shutdown(Shutdown::Both);
        self.0.fuse.call("abort");
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.0.fuse.call("local_addr");
        None
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.fuse.call("peer_addr");
        None
    }
}

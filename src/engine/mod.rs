//! A session's machinery: what its handles, its two threads and the timer share, and how it starts, closes and ends.
//!
//! ```text
//! out: write() → StreamCell → shaper's channels → writer thread → frames, vectored → transport
//! in:  transport → reader thread → frame reader → registry → StreamCell → read()
//! ```
//!
//! Invariants: the first fatal error ends the session, once, in [`Core::end`]: it stores the cause, aborts the transport,
//! empties the registry and wakes everybody, and never joins a thread. The engine's and the timer's references to [`Core`]
//! aren't handles; the last handle's drop closes the session.
//!
//! The registry's lock guards the table of streams and the backlog; `acceptable` waits on it, in `accept`, and is woken by: a
//! stream in the backlog, a changed deadline, `drain`, the local close, the end. `drained` waits on it in `drain`, and is woken by a stream
//! that is over, and by the end.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use parking_lot::{Condvar, Mutex};

use crate::config::{Config, INITIAL_WINDOW};
use crate::error::{Error, Result};
use crate::pool::BufferPool;
use crate::proto::keepalive::Keepalive;
use crate::proto::registry::{Limits, Registry, Role};
use crate::stats::{Counters, SessionStats};
use crate::sync::budget::Budget;
use crate::sync::cell::{Ended, Env, Name, Notifier, StreamCell};
use crate::sync::close::{Lifecycle, Phase};
use crate::sync::deadline::{Call, Deadline};
use crate::sync::shaper::{Order, Queue, shaper};
use crate::transport::{Control, Halves};
use crate::wire::MAX_PAYLOAD;

mod liveness;
mod reader;
pub(crate) mod timer;
mod writer;

thread_local! {
    /// Whether this is one of gmux's own threads: those never wait for a session to close.
    static OURS: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn on_own_thread() -> bool {
    OURS.get()
}

/// Starts one of gmux's threads. Whatever it panics with stays inside.
fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let body = move || {
        OURS.set(true);
        run();
    };
    thread::Builder::new().name(name).spawn(body).map(drop)
}

/// What a session's handles and threads share.
pub(crate) struct Core {
    /// Number in the process: for logs and threads' names.
    pub(crate) number: u64,
    pub(crate) env: Env,
    pub(crate) counters: Counters,
    pub(crate) lifecycle: Lifecycle,
    registry: Mutex<Accepting>,
    acceptable: Condvar,
    drained: Condvar,
    /// What the names of the peer's streams may occupy: half as much as their data. They are charged for as long as their streams
    /// live, so in the budget itself they could use up what reading needs.
    names: Arc<Budget>,
    /// Taken out by the last of the two threads, so that the descriptor is closed though handles live on.
    control: Mutex<Option<Arc<Box<dyn Control>>>>,
    local_addr: Option<SocketAddr>,
    peer_addr: Option<SocketAddr>,
    aborted: AtomicBool,
    /// Session and stream handles; and the session handles among them.
    handles: AtomicUsize,
    session_handles: AtomicUsize,
    /// Of the two threads, those that run.
    threads: AtomicUsize,
    clock: liveness::Clock,
    keepalive: Mutex<Keepalive>,
}

struct Accepting {
    streams: Registry<Arc<StreamCell>>,
    deadline: Option<Instant>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Core {
    /// Starts a session over `halves`, with no handle yet.
    pub(crate) fn start(halves: Halves, config: Config, role: Role) -> Result<Arc<Self>> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let Halves { reader, writer, control } = halves;
        let now = Instant::now();
        let (shaper, queue) = shaper();
        let period = (!config.keepalive_disabled).then_some((config.keepalive_interval, config.keepalive_timeout));
        let limits = Limits { max_streams: config.max_streams, backlog: config.accept_backlog };
        let core = Arc::new(Self {
            number: NUMBER.fetch_add(1, SeqCst),
            counters: Counters::default(),
            lifecycle: Lifecycle::new(),
            registry: Mutex::new(Accepting { streams: Registry::new(role, limits), deadline: None }),
            acceptable: Condvar::new(),
            drained: Condvar::new(),
            names: Budget::new((config.max_receive_buffer / 2).max(config.max_name_len)),
            local_addr: control.local_addr(),
            peer_addr: control.peer_addr(),
            control: Mutex::new(Some(Arc::new(control))),
            aborted: AtomicBool::new(false),
            handles: AtomicUsize::new(0),
            session_handles: AtomicUsize::new(0),
            threads: AtomicUsize::new(2),
            clock: liveness::Clock::new(now),
            keepalive: Mutex::new(Keepalive::new(period, config.stall(), now)),
            env: Env {
                budget: Budget::new(config.max_receive_buffer),
                pool: BufferPool::shared(),
                granted: AtomicU64::new(0),
                shaper,
                config,
            },
        });
        core.clone().start_threads(reader, writer, queue)?;
        debug!(target: "gmux::session", "session {} started as {role:?}{}", core.number, core.peer_text());
        Ok(core)
    }

    fn start_threads(
        self: Arc<Self>,
        reader: Box<dyn std::io::Read + Send>,
        writer: Box<dyn std::io::Write + Send>,
        queue: Queue,
    ) -> Result<()> {
        timer::register(&self)?;
        let core = Arc::clone(&self);
        let name = format!("gmux-reader-{}", self.number);
        let reader = spawn(name, move || {
            reader::run(&core, reader);
            core.thread_ends();
        });
        let core = Arc::clone(&self);
        let name = format!("gmux-writer-{}", self.number);
        let writer = spawn(name, move || {
            writer::run(&core, writer, queue);
            core.thread_ends();
        });
        // A thread that couldn't be had counts as ended; the other one ends when the transport is aborted.
        let failed = [reader, writer].into_iter().filter_map(Result::err);
        let failed: Vec<Error> = failed
            .map(|error| {
                let error = Error::from(error);
                self.end(error.clone());
                self.thread_ends();
                error
            })
            .collect();
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    /// The last of the two threads lets go of the transport.
    fn thread_ends(&self) {
        if self.threads.fetch_sub(1, SeqCst) == 1 {
            self.end(Error::Closed); // a local close that went well ends here
            let control = self.control.lock().take();
            drop(control);
            info!(target: "gmux::session", "session {} is gone", self.number);
        }
    }

    /// ` with 192.0.2.1:80`, for the log.
    pub(crate) fn peer_text(&self) -> String {
        self.peer_addr.map(|addr| format!(" with {addr}")).unwrap_or_default()
    }

    // ---- streams ------------------------------------------------------------------------------------------------

    /// Opens a stream from this end. It is in the registry before its SYN can leave, so that an answer finds it.
    pub(crate) fn open(&self, name: &[u8]) -> Result<Arc<StreamCell>> {
        if name.len() > MAX_PAYLOAD {
            return Err(Error::NameTooLong { len: name.len(), max: MAX_PAYLOAD });
        }
        let (config, now) = (&self.env.config, Instant::now());
        let name = Name::new(name, None);
        let cell = self.registry.lock().streams.open(|id| StreamCell::new(id, name, config, true, now))?;
        self.counters.streams_opened.add(1);
        self.introduce(&cell);
        Ok(cell)
    }

    /// Queues what a new stream owes: SYN if it is ours, and UPD if it mustn't have the whole initial window.
    fn introduce(&self, cell: &Arc<StreamCell>) {
        if self.env.config.version == 2 && self.env.granted.load(SeqCst) > self.env.config.max_receive_buffer as u64 / 2
        {
            cell.announce();
        }
        cell.queue_now(&self.env);
    }

    /// Closes a stream of the application, and returns what is left to do.
    pub(crate) fn close_stream(&self, cell: &Arc<StreamCell>) -> Option<Notifier> {
        let mut ended = cell.close(&self.env);
        if ended.closed {
            let mut registry = self.registry.lock();
            registry.streams.closed(cell.id);
            if ended.over {
                registry.streams.forget(cell.id);
            }
            drop(registry);
            self.drained.notify_all();
        }
        ended.notifier.take().or_else(|| cell.take_notifier())
    }

    /// A closed stream's FIN was handed over.
    fn forget(&self, id: u32) {
        let cell = self.registry.lock().streams.forget(id);
        drop(cell);
        self.drained.notify_all();
    }

    /// A stream fails alone.
    fn fail_stream(&self, cell: &Arc<StreamCell>, error: Error, lossy: bool) {
        let ended = cell.fail(&self.env, error, lossy);
        if ended.first {
            self.counters.streams_cut.add(1);
        }
        self.notify_apart(vec![(Arc::clone(cell), ended)]);
    }

    pub(crate) fn num_streams(&self) -> usize {
        self.registry.lock().streams.open_count()
    }

    pub(crate) fn stats(&self) -> SessionStats {
        let registry = self.registry.lock();
        let (streams, peak) = (registry.streams.open_count() as u64, registry.streams.peak() as u64);
        drop(registry);
        let receive_buffered = self.env.budget.used() as u64;
        SessionStats { streams, streams_peak: peak, receive_buffered, ..self.counters.snapshot() }
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer_addr
    }

    // ---- accepting ----------------------------------------------------------------------------------------------

    /// The next stream of the peer. Queued ones come first, then why there will be no more.
    pub(crate) fn accept(&self, timeout: Option<Duration>) -> Result<Arc<StreamCell>> {
        let mut call = Call::default();
        let mut registry = self.registry.lock();
        loop {
            if let Some(cell) = self.next_accepted(&mut registry)? {
                return Ok(cell);
            }
            let deadline = Deadline { at: registry.deadline, timeout };
            match deadline.limit(&mut call, Instant::now())? {
                Some(limit) => drop(self.acceptable.wait_until(&mut registry, limit)),
                None => self.acceptable.wait(&mut registry),
            }
        }
    }

    pub(crate) fn try_accept(&self) -> Result<Option<Arc<StreamCell>>> {
        self.next_accepted(&mut self.registry.lock())
    }

    fn next_accepted(&self, registry: &mut Accepting) -> Result<Option<Arc<StreamCell>>> {
        let cause = self.lifecycle.cause();
        if let Some(Error::Closed) = cause.as_deref() {
            return Err(Error::Closed);
        }
        match (registry.streams.accept(), cause) {
            (Some(cell), _) => Ok(Some(cell)),
            (None, Some(cause)) => Err(Error::clone(&cause)),
            (None, None) if registry.streams.is_sealed() => Err(Error::Closed), // draining
            (None, None) => Ok(None),
        }
    }

    pub(crate) fn set_accept_deadline(&self, deadline: Option<Instant>) {
        self.registry.lock().deadline = deadline;
        self.acceptable.notify_all();
    }

    /// Accepts no more streams; those that wait get their FIN.
    fn refuse_incoming(&self) {
        let mut registry = self.registry.lock();
        registry.streams.stop_accepting();
        let backlog = registry.streams.take_backlog();
        drop(registry);
        for cell in backlog {
            drop(self.close_stream(&cell));
        }
    }

    // ---- handles ------------------------------------------------------------------------------------------------

    pub(crate) fn add_session_handle(&self) {
        self.session_handles.fetch_add(1, SeqCst);
        self.add_handle();
    }

    pub(crate) fn drop_session_handle(self: &Arc<Self>) {
        if self.session_handles.fetch_sub(1, SeqCst) == 1 {
            self.refuse_incoming();
        }
        self.drop_handle();
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, SeqCst);
    }

    /// The last handle closes the session, and waits for that as `close` does, but not on our own threads.
    pub(crate) fn drop_handle(self: &Arc<Self>) {
        if self.handles.fetch_sub(1, SeqCst) == 1 {
            self.begin_close();
            if !on_own_thread() {
                drop(self.lifecycle.wait_written());
            }
        }
    }

    // ---- closing and ending -------------------------------------------------------------------------------------

    /// Closes the session: what was accepted is sent, then the writing direction ends.
    ///
    /// # Errors
    /// `Timeout` after the close timeout; what ended the session before, unless that was the peer's clean end.
    pub(crate) fn close(self: &Arc<Self>) -> Result<()> {
        self.begin_close();
        if on_own_thread() {
            return Ok(()); // a notifier's thread: the close goes on without it
        }
        let result = self.lifecycle.wait_written();
        if let Err(Error::Timeout) = result {
            self.end(Error::Closed);
        }
        result
    }

    /// Opens no more streams, waits until all are closed and their FINs handed over, then closes the session.
    ///
    /// # Errors
    /// `Timeout` if that took longer than `timeout` (the session is closed all the same), else what `close` says.
    pub(crate) fn drain(self: &Arc<Self>, timeout: Duration) -> Result<()> {
        let limit = Instant::now().checked_add(timeout);
        let mut registry = self.registry.lock();
        registry.streams.seal(Error::Closed);
        self.acceptable.notify_all();
        let mut late = false;
        while registry.streams.len() > 0 && !late {
            late = match limit {
                Some(limit) => self.drained.wait_until(&mut registry, limit).timed_out() && registry.streams.len() > 0,
                None => {
                    self.drained.wait(&mut registry);
                    false
                }
            };
        }
        drop(registry);
        let closed = self.close();
        if late { Err(Error::Timeout) } else { closed }
    }

    fn begin_close(self: &Arc<Self>) {
        if let (true, Some(cause)) = (self.lifecycle.is_in(Phase::WriteFailed), self.lifecycle.cause()) {
            self.end(Error::clone(&cause));
            return;
        }
        let deadline = Instant::now().checked_add(self.env.config.close_timeout);
        if !self.lifecycle.begin_close(deadline) {
            return;
        }
        debug!(target: "gmux::session", "session {} is closing", self.number);
        let cause = Arc::new(Error::Closed);
        let mut registry = self.registry.lock();
        registry.streams.seal(Error::Closed);
        let (cells, backlog) = (registry.streams.streams(), registry.streams.take_backlog());
        drop(registry);
        drop(backlog);
        self.acceptable.notify_all();
        let mut notifiers = Vec::new();
        for cell in cells {
            let mut ended = cell.detach(&self.env, &cause);
            notifiers.extend(ended.notifier.take().map(|notifier| (notifier, cell)));
        }
        // Every stream knows, so nothing is accepted any more: the writer can send what waits and finish.
        self.env.budget.open();
        self.env.shaper.order(Order::Finish);
        if let Some(deadline) = deadline {
            timer::schedule(self, deadline);
        }
        for (notifier, cell) in notifiers {
            call_notifier(notifier, &cell);
        }
    }

    /// The transport takes no more writes. What the peer sent before may still lie in the transport, so reading goes on: until its end,
    /// or for the close timeout.
    fn fail_write(self: &Arc<Self>, error: Error) {
        let cause = Arc::new(error);
        let deadline = Instant::now().checked_add(self.env.config.close_timeout);
        if !self.lifecycle.fail_write(&cause, deadline) {
            return;
        }
        warn!(target: "gmux::session", "session {}{} can't write: {cause}", self.number, self.peer_text());
        let mut registry = self.registry.lock();
        registry.streams.seal(Error::clone(&cause));
        let cells = registry.streams.streams();
        drop(registry);
        self.acceptable.notify_all();
        for cell in cells {
            drop(cell.fail_write(&self.env, &cause));
        }
        if let Some(deadline) = deadline {
            timer::schedule(self, deadline);
        }
    }

    /// Ends the session, unless it has ended already. Never waits and never joins.
    pub(crate) fn end(&self, error: Error) {
        let Some(cause) = self.lifecycle.end(error) else { return };
        self.abort();
        self.env.budget.open();
        self.env.shaper.order(Order::Stop);
        let cells = self.registry.lock().streams.end(Error::clone(&cause));
        self.acceptable.notify_all();
        self.drained.notify_all();
        let ended = cells.into_iter().map(|cell| {
            let ended = cell.end(&self.env, &cause);
            (cell, ended)
        });
        let ended: Vec<_> = ended.collect();
        timer::forget(self.number);
        let (number, peer) = (self.number, self.peer_text());
        match &*cause {
            Error::Closed | Error::PeerClosed => {
                info!(target: "gmux::session", "session {number}{peer} ended: {cause}")
            }
            cause => warn!(target: "gmux::session", "session {number}{peer} ended: {cause}"),
        }
        self.notify_apart(ended);
    }

    /// Makes the transport's blocked calls return, once.
    fn abort(&self) {
        if self.aborted.swap(true, SeqCst) {
            return;
        }
        let control = self.control.lock().clone();
        let Some(control) = control else { return };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| control.abort())).is_err() {
            warn!(target: "gmux::session", "session {}: the transport panicked in abort", self.number);
        }
        // The threads may have let go of it meanwhile; the timer must never be the one that drops a transport.
        if let Some(last) = Arc::into_inner(control) {
            drop_elsewhere(self.number, last);
        }
    }

    /// Calls notifiers of streams that ended by themselves, on a thread of their own.
    fn notify_apart(&self, ended: Vec<(Arc<StreamCell>, Ended)>) {
        let mut due: Vec<(Arc<StreamCell>, Notifier)> = Vec::new();
        for (cell, mut ended) in ended {
            due.extend(ended.notifier.take().map(|notifier| (cell, notifier)));
        }
        if due.is_empty() {
            return;
        }
        // If no thread can be had, the notifiers stay with their streams, for the threads that close those.
        let due = Arc::new(Mutex::new(due));
        let list = Arc::clone(&due);
        let started = spawn(format!("gmux-notify-{}", self.number), move || {
            let due = std::mem::take(&mut *list.lock());
            for (cell, notifier) in due {
                call_notifier(notifier, &cell);
            }
        });
        if let Err(error) = started {
            warn!(target: "gmux::session", "session {}: no thread for close notifiers: {error}", self.number);
            let due = std::mem::take(&mut *due.lock());
            for (cell, notifier) in due {
                cell.keep_notifier(notifier);
            }
        }
    }
}

/// Drops something of the user's on a thread of its own, or here if there is none to be had.
fn drop_elsewhere<T: Send + 'static>(number: u64, thing: T) {
    drop(spawn(format!("gmux-notify-{number}"), move || drop(thing)));
}

/// Calls a user's notifier; its panic hurts only itself.
pub(crate) fn call_notifier(notifier: Notifier, cell: &Arc<StreamCell>) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| notifier(cell))).is_err() {
        warn!(target: "gmux::stream", "the close notifier of stream {} {:?} panicked", cell.id, cell.name.text());
    }
}

const _: () = assert!(INITIAL_WINDOW as usize > MAX_PAYLOAD, "one frame always fits a new stream's window");

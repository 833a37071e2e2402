//! A session's machinery: what its handles, its two threads and the timer share, and how it starts,
//! closes and ends.
//!
//! ```text
//! out: write() → SharedStream → shaper's channels → writer thread → frames, vectored → transport
//! in:  transport → reader thread → frame reader → registry → SharedStream → read()
//! ```
//!
//! Invariants: the first fatal error ends the session, once, in [`SessionShared::end`]
//! ([`ending`]): it stores the cause, aborts the transport, empties the registry and wakes
//! everybody, and never joins a thread. The engine's and the timer's references to
//! [`SessionShared`] aren't handles; the last handle's drop closes the session.
//!
//! The registry's lock guards the table of streams and the backlog. Three condvars wait on it:
//! `acceptable` and `room` ([`accepting`] says who waits and who wakes them), and `drained`, in
//! `drain`, which is woken by a stream that is over, by the local close, and by the end.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::config::{Config, INITIAL_WINDOW};
use crate::error::{Error, Result};
use crate::proto::keepalive::Keepalive;
use crate::proto::registry::{Limits, Registry, Role};
use crate::stats::Counters;
use crate::sync::budget::Budget;
use crate::sync::close::Lifecycle;
use crate::sync::pause::Pause;
use crate::sync::shaper::shaper;
use crate::sync::stream::{Env, Name, Notifier, SharedStream, Take};
use crate::transport::{Control, Halves};
use crate::wire::MAX_PAYLOAD;

mod accepting;
mod ending;
mod guard;
mod liveness;
mod logging;
mod lost;
mod quantum;
mod reader;
mod threads;
pub(crate) mod timer;
mod view;
mod warn_limiter;
mod write_bound;
mod writer;

pub(crate) use ending::call_notifier;
pub(crate) use guard::UserObject;
use guard::guarded;
use logging::{debug, info};
use threads::{on_own_thread, spawn};

/// What a session's handles and threads share.
pub(crate) struct SessionShared {
    /// Itself, for threads that are started where only a reference is at hand.
    me: Weak<Self>,
    /// Number in the process: for logs and threads' names.
    pub(crate) number: u64,
    role: Role,
    pub(crate) env: Env,
    pub(crate) counters: Counters,
    pub(crate) lifecycle: Lifecycle,
    registry: Mutex<Accepting>,
    acceptable: Condvar,
    room: Condvar,
    drained: Condvar,
    /// The budget for the names of the peer's streams, [`Config::name_budget`].
    names: Arc<Budget>,
    /// Taken out by the last of the two threads, so that the descriptor is closed though handles
    /// live on.
    control: Mutex<Option<Arc<UserControl>>>,
    local_addr: Option<SocketAddr>,
    peer_addr: Option<SocketAddr>,
    aborted: AtomicBool,
    /// Session and stream handles; and the session handles among them.
    handles: AtomicUsize,
    session_handles: AtomicUsize,
    /// Of the two threads, those that run.
    threads: AtomicUsize,
    writer: writer::Slot,
    reader: reader::Slot,
    /// Callers' turns at the writer: answers to what came.
    replies: AtomicU32,
    /// Whether the transport bounds its writes, so that callers may take the writer's turn.
    bounded_writes: bool,
    clock: liveness::Clock,
    /// What the reader waits for, if it is the application.
    pause: Pause,
    keepalive: Mutex<Keepalive>,
    /// A leaf.
    notifiers: Mutex<ending::NotifierPool>,
}

type UserControl = UserObject<Box<dyn Control>>;

struct Accepting {
    streams: Registry<Arc<SharedStream>>,
    deadline: Option<Instant>,
    /// Calls of `accept` that wait.
    waiters: usize,
}

impl std::fmt::Debug for SessionShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionShared").field("number", &self.number).finish_non_exhaustive()
    }
}

impl SessionShared {
    /// Starts a session over what `split` gives, with no handle yet. A panic in there is an error,
    /// as it is later.
    pub(crate) fn start(
        split: impl FnOnce() -> io::Result<Halves>,
        config: Config,
        role: Role,
    ) -> Result<Arc<Self>> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, SeqCst);
        let halves = guarded(number, "the transport panicked when it was split", || Ok(split()?))?;
        let Halves { reader, writer, control, bounded_writes, bound_writes, bound_reads } = halves;
        let reader = UserObject::new(
            number,
            "the transport panicked when its read half was dropped",
            reader,
        );
        let writer = UserObject::new(
            number,
            "the transport panicked when its write half was dropped",
            writer,
        );
        let control =
            UserObject::new(number, "the transport panicked when its control was dropped", control);
        let bound =
            |set| UserObject::new(number, "the transport panicked when a bound was dropped", set);
        let bound_writes = bound_writes.map(bound);
        let bound_reads = bound_reads.map(bound);
        let (local_addr, peer_addr, can_finish) =
            guarded(number, "the transport panicked when asked what it is", || {
                let control = control.get()?;
                Ok((control.local_addr(), control.peer_addr(), control.can_finish()))
            })?;
        let control = Arc::new(control);
        let now = Instant::now();
        let (shaper, queue) = shaper();
        let period = (!config.keepalive_disabled)
            .then_some((config.keepalive_interval, config.keepalive_timeout));
        let limits = Limits { max_streams: config.max_streams, backlog: config.accept_backlog };
        let session = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            number,
            role,
            counters: Counters::default(),
            lifecycle: Lifecycle::new(can_finish),
            registry: Mutex::new(Accepting {
                streams: Registry::new(role, limits),
                deadline: None,
                waiters: 0,
            }),
            acceptable: Condvar::new(),
            room: Condvar::new(),
            drained: Condvar::new(),
            names: Budget::new(config.name_budget()),
            local_addr,
            peer_addr,
            control: Mutex::new(Some(Arc::clone(&control))),
            aborted: AtomicBool::new(false),
            handles: AtomicUsize::new(0),
            session_handles: AtomicUsize::new(0),
            threads: AtomicUsize::new(2),
            bounded_writes,
            writer: Mutex::new(None),
            reader: Mutex::new(None),
            replies: AtomicU32::new(0),
            clock: liveness::Clock::new(now),
            pause: Pause::default(),
            keepalive: Mutex::new(Keepalive::new(period, config.stall(), now)),
            notifiers: Mutex::default(),
            env: Env::new(config, shaper),
        });
        let parker = queue.parker();
        *session.writer.lock() =
            Some(writer::Writer::new(writer, write_bound::WriteBound::new(bound_writes), queue));
        *session.reader.lock() =
            Some(reader::Input::new(reader, bound_reads, control, &session.env.config));
        session.clone().start_threads(parker)?;
        debug!(target: "gmux::session", "session {} started as {role:?}{}", session.number, session.peer_text());
        Ok(session)
    }

    /// The last of the two threads lets go of the transport.
    fn thread_ends(&self) {
        if self.threads.fetch_sub(1, SeqCst) == 1 {
            self.end_with_threads();
            timer::forget(self.number);
            // The threads have let go of their halves, unless they panicked.
            let reader = self.reader.lock().take();
            let writer = self.writer.lock().take();
            let control = self.control.lock().take();
            drop(reader);
            drop(writer);
            drop(control);
            info!(target: "gmux::session", "session {} is gone", self.number);
        }
    }

    /// ` with 192.0.2.1:80`, for the log.
    pub(crate) fn peer_text(&self) -> String {
        self.peer_addr.map(|addr| format!(" with {addr}")).unwrap_or_default()
    }

    // ---- streams --------------------------------------------------------------------------------

    /// Opens a stream from this end. It is in the registry before its SYN can leave, so that an
    /// answer finds it.
    pub(crate) fn open(&self, name: &[u8]) -> Result<Arc<SharedStream>> {
        if name.len() > MAX_PAYLOAD {
            return Err(Error::NameTooLong { len: name.len(), max: MAX_PAYLOAD });
        }
        // The registry is told of an end as well, but later: after the transport's `abort`.
        if let Some(cause) = self.lifecycle.cause() {
            return Err(Error::clone(&cause));
        }
        let config = &self.env.config;
        let now = Instant::now();
        let name = Name::new(name, None);
        let mut registry = self.registry.lock();
        let stream = registry.streams.open(|id| SharedStream::new(id, name, config, true, now))?;
        self.env.allowance.set_streams(registry.streams.len());
        drop(registry);
        self.counters.streams_opened.add(1);
        self.introduce(&stream);
        Ok(stream)
    }

    /// Queues what a new stream owes: SYN if it is ours, and UPD if it mustn't have the whole
    /// initial window.
    fn introduce(&self, stream: &Arc<SharedStream>) {
        if self.env.config.version == 2 && self.env.is_crowded() {
            stream.announce();
        }
        stream.queue_now(&self.env);
    }

    /// Writes to a stream. If that answers what came, and the writer is idle, this thread takes the
    /// writer's turn.
    pub(crate) fn write(
        self: &Arc<Self>,
        stream: &Arc<SharedStream>,
        buf: &[u8],
        take: Take,
    ) -> Result<usize> {
        let written = stream.write(&self.env, buf, take)?;
        let shaper = &self.env.shaper;
        let inline = written.is_reply
            && self.bounded_writes
            && written.wakeup.is_due()
            && shaper.is_parked();
        if inline && writer::write_inline(self) {
            self.replies.fetch_add(1, SeqCst);
        } else {
            shaper.unpark(written.wakeup);
        }
        Ok(written.accepted)
    }

    /// Reads from a stream. If the reader thread stands by, this thread reads the transport instead
    /// of waiting.
    pub(crate) fn read(
        self: &Arc<Self>,
        stream: &Arc<SharedStream>,
        buf: &mut [u8],
    ) -> Result<usize> {
        stream.read(&self.env, buf, || reader::read_inline(self, stream))
    }

    /// Closes a stream of the application, and returns what is left to do.
    pub(crate) fn close_stream(&self, stream: &Arc<SharedStream>) -> Option<Notifier> {
        let mut ended = stream.close(&self.env);
        if ended.closed {
            self.registry.lock().streams.closed(stream.id);
            self.drained.notify_all();
        }
        if ended.can_forget {
            self.forget(stream.id);
        }
        ended.notifier.take().or_else(|| stream.take_notifier())
    }

    /// A closed stream's FIN was handed over.
    fn forget(&self, id: u32) {
        let mut registry = self.registry.lock();
        let stream = registry.streams.forget(id);
        let grown = self.env.allowance.set_streams(registry.streams.len());
        drop(registry);
        if let Some(stream) = stream {
            stream.forget(&self.env);
        }
        self.env.wake_allowance_waiters(grown);
        self.drained.notify_all();
    }

    /// A stream fails alone.
    fn fail_stream(&self, stream: &Arc<SharedStream>, error: Error, discard_unread: bool) {
        let ended = stream.fail(&self.env, error, discard_unread);
        if ended.first {
            self.counters.streams_cut.add(1);
        }
        self.notify_apart(vec![(Arc::clone(stream), ended)]);
    }

    /// Streams that aren't closed. A close of the session closes them all, though some may still
    /// have something to send.
    pub(crate) fn num_streams(&self) -> usize {
        if self.lifecycle.is_closing_or_ended() {
            0
        } else {
            self.registry.lock().streams.open_count()
        }
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer_addr
    }

    // ---- handles --------------------------------------------------------------------------------

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

    /// The last handle closes the session, and waits until everything is handed over, but not for
    /// the peer's end, and not on our own threads.
    pub(crate) fn drop_handle(self: &Arc<Self>) {
        if self.handles.fetch_sub(1, SeqCst) == 1 {
            self.begin_close();
            if !on_own_thread() {
                self.lifecycle.wait_written();
            }
        }
    }
}

const _: () =
    assert!(INITIAL_WINDOW as usize > MAX_PAYLOAD, "one frame always fits a new stream's window");

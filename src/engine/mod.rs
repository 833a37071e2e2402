//! The session: the state that its handles, its two threads and the timer share.
//!
//! `manual/architecture.md` describes the threads, the way of a byte, the lock order, and who wakes
//! whom.
//!
//! Invariants:
//! - The first fatal error ends the session, in [`SessionShared::end`]. That function stores the
//!   cause, aborts the transport, empties the registry and wakes all waiters. It never joins a
//!   thread.
//! - The references of the engine and of the timer aren't handles. The drop of the last handle
//!   closes the session.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::config::Config;
use crate::error::Result;
use crate::proto::keepalive::Keepalive;
use crate::proto::registry::{Limits, Registry, Role};
use crate::stats::Counters;
use crate::sync::budget::Budget;
use crate::sync::close::Lifecycle;
use crate::sync::pause::Pause;
use crate::sync::shaper::shaper;
use crate::sync::stream::{Env, SharedStream};
use crate::transport::{Control, Halves};

mod accepting;
mod ending;
mod guard;
mod liveness;
mod logging;
mod lost;
mod notifiers;
mod quantum;
mod reader;
mod streams;
mod threads;
pub(crate) mod timer;
mod view;
mod warn_limiter;
mod write_bound;
mod writer;

pub(crate) use guard::UserObject;
use guard::guarded;
use logging::{debug, info};
pub(crate) use notifiers::call_notifier;
use threads::{on_own_thread, spawn};

/// The state that a session's handles and threads share.
pub(crate) struct SessionShared {
    /// The session itself, for functions that start a thread and have only `&self`.
    me: Weak<Self>,
    /// The session's number in the process, for logs and thread names.
    pub(crate) number: u64,
    role: Role,
    pub(crate) env: Env,
    pub(crate) counters: Counters,
    pub(crate) lifecycle: Lifecycle,
    /// Guards the table of streams, the backlog, and the deadline of `accept`.
    registry: Mutex<Accepting>,
    /// Calls of `accept` wait here, with the registry's lock.
    acceptable: Condvar,
    /// The reader thread waits here for room in the backlog, with the registry's lock.
    room: Condvar,
    /// Calls of `drain` wait here, with the registry's lock.
    drained: Condvar,
    /// The budget for the names of the peer's streams, [`Config::name_budget`].
    names: Arc<Budget>,
    /// Guards the transport's control. The last of the session's two threads drops it. So the
    /// descriptor is closed even if handles live on.
    control: Mutex<Option<Arc<UserControl>>>,
    local_addr: Option<SocketAddr>,
    peer_addr: Option<SocketAddr>,
    /// Whether the transport was aborted.
    aborted: AtomicBool,
    /// Number of session and stream handles.
    handles: AtomicUsize,
    /// Number of session handles.
    session_handles: AtomicUsize,
    /// Number of the session's two threads (reader and writer) that still run.
    threads: AtomicUsize,
    writer: writer::Slot,
    reader: reader::Slot,
    /// Number of inline writes. Each is a reply. The reader thread looks at this number to
    /// recognise an exchange of requests and replies.
    replies: AtomicU32,
    /// Whether the transport bounds its writes. Inline writes require it.
    bounded_writes: bool,
    clock: liveness::Clock,
    /// The reader's current pause, if there is one.
    pause: Pause,
    /// Guards the timer's state for this session. A leaf in the lock order.
    keepalive: Mutex<Keepalive>,
    /// Guards the queue of close notifiers. A leaf in the lock order.
    notifiers: Mutex<notifiers::NotifierPool>,
}

type UserControl = UserObject<Box<dyn Control>>;

/// The state under the registry's lock.
struct Accepting {
    streams: Registry<Arc<SharedStream>>,
    /// The deadline of `accept`.
    deadline: Option<Instant>,
    /// Number of blocked calls of `accept`.
    waiters: usize,
}

impl std::fmt::Debug for SessionShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionShared").field("number", &self.number).finish_non_exhaustive()
    }
}

impl SessionShared {
    /// Starts a session over the halves that `split` returns. The session has no handle yet.
    ///
    /// # Errors
    /// Returns `split`'s error, an `Io` error if the transport panics, and the system's error if a
    /// thread can't be started.
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
        debug!(
            target: "gmux::session",
            "session {} started as {role:?}{}",
            session.number, session.peer_text(),
        );
        Ok(session)
    }

    /// Counts the end of the reader thread or the writer thread. The last of them ends the session
    /// and drops the transport.
    fn thread_ends(&self) {
        if self.threads.fetch_sub(1, SeqCst) == 1 {
            self.end_with_threads();
            timer::forget(self.number);
            // A thread that panicked has left its half here.
            let reader = self.reader.lock().take();
            let writer = self.writer.lock().take();
            let control = self.control.lock().take();
            drop(reader);
            drop(writer);
            drop(control);
            info!(target: "gmux::session", "session {} is gone", self.number);
        }
    }

    /// Returns the peer's address for the log, as in ` with 192.0.2.1:80`, or an empty text.
    pub(crate) fn peer_text(&self) -> String {
        self.peer_addr.map(|addr| format!(" with {addr}")).unwrap_or_default()
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

    /// Drops a session handle. After the drop of the last one, the peer's new streams are refused.
    pub(crate) fn drop_session_handle(self: &Arc<Self>) {
        if self.session_handles.fetch_sub(1, SeqCst) == 1 {
            self.refuse_incoming();
        }
        self.drop_handle();
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, SeqCst);
    }

    /// Drops a handle. The drop of the last handle closes the session. Then this function blocks
    /// until all accepted bytes are handed over, at most for the close timeout. It doesn't wait
    /// until the peer ends its side. It doesn't block on gmux's own threads.
    pub(crate) fn drop_handle(self: &Arc<Self>) {
        if self.handles.fetch_sub(1, SeqCst) == 1 {
            self.begin_close();
            if !on_own_thread() {
                self.lifecycle.wait_written();
            }
        }
    }
}

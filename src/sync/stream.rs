//! One stream, shared by its handles, the reader thread and the writer thread: the protocol state
//! under a lock, and the waits.
//!
//! The lock guards [`State`]. Calls wait on three kinds of condvars: `readable`, `writable` and
//! `flushed`. The manual says [who wakes them](crate::manual::architecture#who-wakes-whom). Two
//! events wake all of them:
//! - a changed limit,
//! - an *ending*: a close by another thread, `shutdown`, a failure of the stream, the close or end
//!   of the session.
//!
//! # Large copies
//! Large copies run outside the lock. A read sets the mark `reading` and takes chunks out of the
//! inbox. A write sets the mark `write_in_progress`, fills buffers, and puts them into the outbox.
//! The marks keep the bytes of one call together. A read that finds `reading` set waits as if there
//! were no data. A write that finds `write_in_progress` set waits as if there were no room.
//!
//! # Invariants
//! - The call that sets a mark clears it, even if a user's writer panics ([`reading::ReadGuard`]).
//! - Every change after which the stream may have something to send is followed by
//!   [`SharedStream::reschedule`], under the same lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::budget::{Budget, Charge};
use super::deadline::{Deadline, NoData};
use super::read_handoff::ReadHandoff;
use super::shaper::{Shaper, Wakeup};
use super::unsolicited::Allowance;
use crate::config::Config;
use crate::pool::BufferPool;
use crate::proto::stream::StreamCore;
use crate::proto::window::{WindowSizes, window_cap};

mod endings;
mod peer;
mod reading;
mod transmit;
mod view;
mod waits;
mod write_queue;
mod writing;

pub(crate) use endings::Ended;
pub(crate) use peer::{Small, Wakes};
use reading::Reading;
pub(crate) use waits::Direction;
use write_queue::WriteQueue;
pub(crate) use writing::Take;

/// Largest copy that is made under the lock, in bytes. Copying 4 KiB takes less time than unlocking
/// and locking again.
const COPY_LOCKED: usize = 4096;

/// The parts of a session that its streams share.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) config: Config,
    pub(crate) shaper: Shaper,
    pub(crate) budget: Arc<Budget>,
    pub(crate) read_handoff: ReadHandoff,
    pub(crate) pool: &'static BufferPool,
    /// Version 2: the sum of all streams' grants, in bytes. A stream's grant is the number of bytes
    /// that its peer may send or has sent, and that aren't consumed.
    pub(crate) granted: AtomicU64,
    /// Version 2: the unsolicited bytes of all streams, and the queue of streams that wait for an
    /// allowance.
    pub(crate) allowance: Allowance,
}

impl Env {
    pub(crate) fn new(config: Config, shaper: Shaper) -> Self {
        Self {
            shaper,
            budget: Budget::new(config.max_receive_buffer),
            read_handoff: ReadHandoff::default(),
            pool: BufferPool::shared(),
            granted: AtomicU64::new(0),
            allowance: Allowance::default(),
            config,
        }
    }

    /// Returns how many bytes may still be granted to streams whose windows grow, out of
    /// [`Config::grant_budget`].
    fn spare_grant(&self) -> u64 {
        let limit = self.config.grant_budget() as u64;
        limit.saturating_sub(self.granted.load(Relaxed))
    }

    /// Returns whether more than [`Config::grant_budget`] is granted.
    pub(crate) fn is_crowded(&self) -> bool {
        self.granted.load(SeqCst) > self.config.grant_budget() as u64
    }

    /// Returns the largest window that a stream may announce now, and whether the session
    /// [is crowded](Self::is_crowded).
    fn window_cap(&self) -> (u32, bool) {
        (window_cap(self.config.grant_budget(), self.allowance.streams()), self.is_crowded())
    }
}

/// A user's close notifier. The layer above has wrapped it in a function that makes a handle and
/// passes it to the user's closure.
pub(crate) type Notifier = Box<dyn FnOnce(&Arc<SharedStream>) + Send>;

/// A stream's name. It is charged to the budget if the peer chose it.
#[derive(Debug)]
pub(crate) struct Name {
    bytes: Box<[u8]>,
    lossy: OnceLock<Box<str>>,
    _charge: Option<Charge>,
}

impl Name {
    pub(crate) fn new(bytes: &[u8], charge: Option<Charge>) -> Self {
        Self { bytes: bytes.into(), lossy: OnceLock::new(), _charge: charge }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn text(&self) -> &str {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => text,
            Err(_) => self.lossy.get_or_init(|| String::from_utf8_lossy(&self.bytes).into()),
        }
    }
}

/// A stream that handles and the session's threads share.
pub(crate) struct SharedStream {
    pub(crate) id: u32,
    born: view::Born,
    pub(crate) name: Name,
    /// The number of the application's handles. References of the engine don't count.
    pub(crate) handles: AtomicUsize,
    state: Mutex<State>,
    /// Calls of `read` and `write_to` wait on it. The manual says
    /// [who wakes whom](crate::manual::architecture#who-wakes-whom), here and below.
    readable: Condvar,
    /// One blocked write waits on it. Each further blocked write has a condvar of its own: see
    /// [`write_queue`].
    writable: Condvar,
    /// Calls of `flush` wait on it.
    flushed: Condvar,
}

/// The state of a stream that its lock guards.
struct State {
    core: StreamCore<Charge>,
    no_data: NoData,
    nonblocking: bool,
    /// Whether a read has taken chunks out of the inbox. No other read may begin meanwhile.
    reading: Reading,
    /// Whether a write is in progress. No other write may begin meanwhile: see [`write_queue`].
    write_in_progress: bool,
    read_waiters: u32,
    /// The number of blocked writes.
    write_waiters: u32,
    flush_waiters: u32,
    /// The time of the peer's FIN, or of the last credit after it.
    credit_at: Option<Instant>,
    /// Whether data came after the peer's FIN.
    late: bool,
    /// Whether data has come since the last inline write on this stream.
    may_reply: bool,
    /// The stream's part of [`Env::granted`], in bytes.
    granted: u64,
    /// The stream's part of the session's unsolicited bytes.
    unsolicited: u64,
    /// Whether the stream is in the queue for allowance.
    queued: bool,
    extras: Option<Box<Extras>>,
}

/// State that few streams need. It is allocated apart, so that an idle stream is small.
#[derive(Default)]
struct Extras {
    read: Deadline,
    write: Deadline,
    write_queue: WriteQueue,
    closed: Option<(Sender<()>, Receiver<()>)>,
    notifier: Option<Notifier>,
}

impl State {
    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Brings the session's sum of grants up to date.
    fn update_granted(&mut self, env: &Env) {
        let granted = self.core.granted();
        if granted != self.granted {
            env.granted.fetch_add(granted.wrapping_sub(self.granted), Relaxed);
            self.granted = granted;
        }
    }

    /// Gets as much allowance for a write of `n` bytes as there is.
    #[inline]
    fn take_allowance(&mut self, env: &Env, n: usize) {
        let want = self.core.needs_allowance(n, env.config.max_send_buffer);
        if want > 0 && !self.core.writing {
            let part = env.allowance.take(self.unsolicited, want);
            self.allow(part);
        }
    }

    /// Takes allowance as [`take_allowance`](Self::take_allowance) does, before a wait. If there is
    /// none, puts the stream into the queue for allowance. Returns whether there was any.
    fn take_allowance_or_queue(&mut self, env: &Env, stream: &Arc<SharedStream>, n: usize) -> bool {
        let want = self.core.needs_allowance(n, env.config.max_send_buffer);
        if want == 0 || self.queued || self.core.writing {
            return false;
        }
        let part = env.allowance.take_or_queue(stream, self.unsolicited, want);
        self.allow(part);
        self.queued = part == 0;
        part > 0
    }

    /// Gives the stream an allowance of `part` bytes.
    fn allow(&mut self, part: u64) {
        self.core.allow(part);
        self.unsolicited += part;
    }

    /// Brings the session's sum of unsolicited bytes up to date. Returns whether the stream has
    /// given any back.
    #[inline]
    fn update_unsolicited(&mut self, env: &Env) -> bool {
        self.core.return_allowance();
        let before = self.unsolicited;
        let after = self.core.unsolicited();
        if before != after {
            env.allowance.change(before, after);
            self.unsolicited = after;
        }
        after < before
    }
}

impl std::fmt::Debug for SharedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.id)
            .field("name", &self.name.text())
            .finish_non_exhaustive()
    }
}

impl SharedStream {
    /// Creates a stream. `opened_here` says whether this side has opened it. If so, the stream owes
    /// a SYN.
    pub(crate) fn new(
        id: u32,
        name: Name,
        config: &Config,
        opened_here: bool,
        now: Instant,
    ) -> Arc<Self> {
        let sizes = WindowSizes { base: config.max_stream_buffer, max: config.largest_window() };
        let mut core = StreamCore::new(config.version, sizes, opened_here);
        core.await_allowance();
        let state = State {
            core,
            no_data: NoData::new(config.no_data_timeout, now),
            nonblocking: false,
            reading: Reading::Nobody,
            write_in_progress: false,
            read_waiters: 0,
            write_waiters: 0,
            flush_waiters: 0,
            credit_at: None,
            late: false,
            may_reply: false,
            granted: 0,
            unsolicited: 0,
            queued: false,
            extras: None,
        };
        Arc::new(Self {
            id,
            born: view::Born::at(now),
            name,
            handles: AtomicUsize::new(0),
            state: Mutex::new(state),
            readable: Condvar::new(),
            writable: Condvar::new(),
            flushed: Condvar::new(),
        })
    }

    /// Queues the stream for everything that it owes. Each change after which the stream may have
    /// something to send ends with this call, under the same lock. So the thread that locks the
    /// stream next, such as one that closes the session, finds it queued. The caller unparks the
    /// writer after unlocking.
    fn reschedule(self: &Arc<Self>, env: &Env, state: &mut State) -> Wakeup {
        state.update_granted(env);
        self.reschedule_only(env, state)
    }

    /// Does the work of [`reschedule`](Self::reschedule) after a change that doesn't affect the
    /// receiving window.
    #[inline]
    fn reschedule_only(self: &Arc<Self>, env: &Env, state: &mut State) -> Wakeup {
        let mut wakeup = Wakeup::default();
        while let Some(lane) = state.core.schedule() {
            wakeup = wakeup.and(env.shaper.schedule(Arc::clone(self), lane));
        }
        wakeup
    }

    /// Queues a new stream for everything that it owes, such as its SYN.
    pub(crate) fn queue_now(self: &Arc<Self>, env: &Env) {
        let wakeup = self.reschedule(env, &mut self.state.lock());
        env.shaper.unpark(wakeup);
    }

    /// Wakes every call that waits on the stream, and unlocks the stream. Each woken call looks
    /// again whether it can go on.
    fn wake_all(&self, state: MutexGuard<'_, State>) {
        self.wake_all_writes(&state);
        drop(state);
        self.readable.notify_all();
        self.flushed.notify_all();
    }
}

#[cfg(test)]
mod tests;

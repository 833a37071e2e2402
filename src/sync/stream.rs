//! One stream, shared by its handles, the reader thread and the writer thread: the protocol state
//! under a lock, and the waits.
//!
//! The lock guards [`State`]. Three condvars wait on it:
//!
//! | condvar | waits in | woken by |
//! |---|---|---|
//! | `readable` | `read`, `write_to` | data, FIN, a reader that leaves data behind; endings; changed deadlines |
//! | `writable`, and one for each more that waits | `write`, `write_all` | whoever has the writer, and made room, UPD with credit, what another stream gives back of unsolicited data ([`super::unsolicited`]), a writer that is done or gives up: they wake the first write of the queue ([`write_queue`]); FIN (it starts a stall clock); endings; changed deadlines |
//! | `flushed` | `flush` | whoever has the writer, and handed data over; endings; changed deadlines |
//!
//! *Endings* are: close by another thread, `shutdown`, the stream's own failure, the session's
//! close or end. They wake all three.
//!
//! Large copies run outside the lock: a reader takes chunks out (`reading`), a writer fills buffers
//! and puts them in (`write_in_progress`). These two marks are what keeps one call's bytes together; a call
//! that finds its mark set waits like one that finds no data or no room.
//!
//! Invariants: whoever sets a mark clears it, also when a user's writer panics
//! ([`reading::ReadGuard`]); every change is followed by [`SharedStream::reschedule`] under the
//! same lock.

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

/// Up to so many bytes a copy is made under the lock: it takes less time than locking again.
const COPY_LOCKED: usize = 4096;

/// What the streams of a session have in common.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) config: Config,
    pub(crate) shaper: Shaper,
    pub(crate) budget: Arc<Budget>,
    pub(crate) read_handoff: ReadHandoff,
    pub(crate) pool: &'static BufferPool,
    /// Version 2: what is granted to the peer and isn't consumed, over all streams, in bytes.
    pub(crate) granted: AtomicU64,
    /// Version 2: what streams send before their peer has announced a window.
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

    /// Whether more than [`Config::grant_budget`] is granted.
    pub(crate) fn is_crowded(&self) -> bool {
        self.granted.load(SeqCst) > self.config.grant_budget() as u64
    }

    /// Returns the largest window that a stream may announce now, and whether the session
    /// [is crowded](Self::is_crowded).
    fn window_cap(&self) -> (u32, bool) {
        (window_cap(self.config.grant_budget(), self.allowance.streams()), self.is_crowded())
    }
}

/// A user's close notifier, wrapped by the layer above to make a handle of the stream.
pub(crate) type Notifier = Box<dyn FnOnce(&Arc<SharedStream>) + Send>;

/// A stream's name, charged to the budget if the peer chose it.
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

pub(crate) struct SharedStream {
    pub(crate) id: u32,
    born: view::Born,
    pub(crate) name: Name,
    /// Handles of the application; the engine's own references don't count.
    pub(crate) handles: AtomicUsize,
    state: Mutex<State>,
    readable: Condvar,
    writable: Condvar,
    flushed: Condvar,
}

struct State {
    core: StreamCore<Charge>,
    no_data: NoData,
    nonblocking: bool,
    reading: Reading,
    /// A write has to go on before another may begin: see [`write_queue`].
    write_in_progress: bool,
    read_waiters: u32,
    /// How many are in the write queue.
    write_waiters: u32,
    flush_waiters: u32,
    /// When the peer's FIN, or credit after it, came last.
    credit_at: Option<Instant>,
    /// Data came after the peer's FIN.
    late: bool,
    /// Data came since a caller last took the writer's turn.
    may_reply: bool,
    /// The stream's part of [`Env::granted`].
    granted: u64,
    /// The stream's part of unsolicited data, over the session.
    unsolicited: u64,
    /// It is in the queue for more of that.
    queued: bool,
    extras: Option<Box<Extras>>,
}

/// What few streams have, apart, so that an idle stream is small.
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

    /// Gets a write of `n` bytes as much allowance as there is for it.
    #[inline]
    fn ask(&mut self, env: &Env, n: usize) {
        let want = self.core.needs_allowance(n, env.config.max_send_buffer);
        if want > 0 && !self.core.writing {
            let part = env.allowance.take(self.unsolicited, want);
            self.allow(part);
        }
    }

    /// The same before a wait: what isn't there is queued for. Returns whether there was any.
    fn ask_or_queue(&mut self, env: &Env, stream: &Arc<SharedStream>, n: usize) -> bool {
        let want = self.core.needs_allowance(n, env.config.max_send_buffer);
        if want == 0 || self.queued || self.core.writing {
            return false;
        }
        let part = env.allowance.take_or_queue(stream, self.unsolicited, want);
        self.allow(part);
        self.queued = part == 0;
        part > 0
    }

    fn allow(&mut self, part: u64) {
        self.core.allow(part);
        self.unsolicited += part;
    }

    /// Brings the session's sum of unsolicited data up to date; returns whether something came
    /// back.
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
    /// A new stream; `opened_here` if it was opened from this end, and owes a SYN.
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

    /// What every change ends with, under the lock: the stream is queued for what it owes, so that
    /// whoever locks it next (a session's close, say) knows that it is. The wake-up is for after
    /// unlocking.
    fn reschedule(self: &Arc<Self>, env: &Env, state: &mut State) -> Wakeup {
        state.update_granted(env);
        self.reschedule_only(env, state)
    }

    /// The same after a change that leaves the receiving window alone.
    #[inline]
    fn reschedule_only(self: &Arc<Self>, env: &Env, state: &mut State) -> Wakeup {
        let mut wakeup = Wakeup::default();
        while let Some(lane) = state.core.schedule() {
            wakeup = wakeup.and(env.shaper.schedule(Arc::clone(self), lane));
        }
        wakeup
    }

    /// Queues the stream for whatever it owes: a new one's SYN.
    pub(crate) fn queue_now(self: &Arc<Self>, env: &Env) {
        let wakeup = self.reschedule(env, &mut self.state.lock());
        env.shaper.unpark(wakeup);
    }

    /// Wakes everybody who waits for the stream, to look again; unlocks it.
    fn wake_all(&self, state: MutexGuard<'_, State>) {
        self.wake_all_writes(&state);
        drop(state);
        self.readable.notify_all();
        self.flushed.notify_all();
    }
}

#[cfg(test)]
mod tests;

//! The unsolicited bytes of a session's streams, counted together, and the queue of streams whose
//! writes wait for an allowance.
//!
//! The lock guards the count and the queue. It is a leaf of the lock order, and may be taken under
//! a stream's lock.
//!
//! # How a write gets more
//! Nobody waits here. A write waits on its own stream, because the first UPD of that stream lets it
//! go on as well.
//!
//! - A write that finds too little allowance puts its stream into the queue. It looks and joins the
//!   queue under one lock. So it misses no bytes that are given back later.
//! - Bytes are given back by an UPD, by a forgotten stream, and by a write that took less than it
//!   was offered. The thread that gives them back calls [`Env::wake_allowance_waiters`]. This
//!   function takes streams out of the queue, first come, first served, as long as there is enough
//!   for the next one. It wakes one write of each of these streams, with no lock held.
//! - A stream that doesn't wait any more leaves its part to the next one.
//! - A write that was woken calls the same function when it is done, even if it fails. So other
//!   streams get the bytes that it didn't take.
//!
//! # Invariants
//! - The count is the sum of
//!   [`StreamCore::unsolicited`](crate::proto::stream::StreamCore::unsolicited) over all streams,
//!   as it was at each stream's last change.
//! - A stream is in the queue at most once. Its mark `queued` says whether it is.
//! - A forgotten stream isn't in the queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;

use super::stream::{Env, SharedStream, Wakes};
use crate::proto::unsolicited::{Unsolicited, share};

/// The unsolicited bytes of a session, and the queue for more of them.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    /// The number of streams in the registry.
    streams: AtomicUsize,
    /// The number of streams in the queue. A thread that finds 0 here needn't take the lock.
    waiting: AtomicUsize,
    /// Guards the count and the queue. Nobody waits on it.
    pool: Mutex<Pool>,
}

/// The count of unsolicited bytes, and the streams that wait for some.
#[derive(Debug, Default)]
struct Pool {
    unsolicited: Unsolicited,
    queue: VecDeque<Waiter>,
}

/// A stream in the queue.
#[derive(Debug)]
struct Waiter {
    stream: Arc<SharedStream>,
    /// The unsolicited bytes that the stream had, and the number that its write wanted in addition.
    held: u64,
    want: u64,
}

impl Allowance {
    /// Sets the number of streams. The caller holds the registry's lock. Returns whether the share
    /// of each stream has grown.
    pub(crate) fn set_streams(&self, streams: usize) -> bool {
        let before = self.streams.swap(streams, SeqCst);
        share(streams) > share(before)
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(SeqCst)
    }

    /// Takes up to `want` bytes for a stream that has `held` bytes. Returns the number of bytes
    /// taken.
    pub(crate) fn take(&self, held: u64, want: u64) -> u64 {
        let mut pool = self.pool.lock();
        let n = pool.unsolicited.offer(held, want, self.streams());
        pool.unsolicited.change(held, held + n);
        n
    }

    /// Takes bytes as [`take`](Self::take) does. If there is nothing to take, puts the stream at
    /// the end of the queue and returns 0.
    pub(super) fn take_or_queue(&self, stream: &Arc<SharedStream>, held: u64, want: u64) -> u64 {
        let mut pool = self.pool.lock();
        let n = pool.unsolicited.offer(held, want, self.streams());
        if n > 0 {
            pool.unsolicited.change(held, held + n);
        } else {
            pool.queue.push_back(Waiter { stream: Arc::clone(stream), held, want });
            self.waiting.store(pool.queue.len(), SeqCst);
        }
        n
    }

    /// Notes that a stream has `after` bytes instead of `before`.
    pub(crate) fn change(&self, before: u64, after: u64) {
        self.pool.lock().unsolicited.change(before, after);
    }

    /// Takes a forgotten stream out of the queue.
    pub(super) fn leave(&self, stream: &Arc<SharedStream>) {
        let mut pool = self.pool.lock();
        pool.queue.retain(|waiter| !waiter.stream.is(stream));
        self.waiting.store(pool.queue.len(), SeqCst);
    }

    /// Takes a stream out of the queue, and returns it with its part. Without `any`, only the first
    /// stream of the queue is looked at. With `any`, the first stream for which there is enough is
    /// taken. The bytes `promised` to streams that were taken before aren't free any more.
    fn next(&self, promised: u64, any: bool) -> Option<(Arc<SharedStream>, u64)> {
        let mut pool = self.pool.lock();
        let mut unsolicited = pool.unsolicited;
        unsolicited.change(0, promised);
        let looks = if any { pool.queue.len() } else { 1 };
        let offers = pool
            .queue
            .iter()
            .take(looks)
            .map(|waiter| unsolicited.offer(waiter.held, waiter.want, self.streams()));
        let (at, part) = offers.enumerate().find(|&(_, part)| part > 0)?;
        let waiter = pool.queue.remove(at)?;
        self.waiting.store(pool.queue.len(), SeqCst);
        Some((waiter.stream, part))
    }
}

impl Env {
    /// Wakes the blocked writes for which there is enough allowance now. It is called after bytes
    /// were given back, or may have been. `grown` says that every stream's share has become larger.
    /// The caller holds no lock.
    pub(crate) fn wake_allowance_waiters(&self, grown: bool) {
        self.each_due(grown, |stream| stream.wake_blocked_write());
    }

    /// Finds the same writes for the reader thread, which gathers its wake-ups and sends them
    /// later.
    pub(super) fn gather_allowance_waiters(&self, wakes: &mut Wakes) {
        self.each_due(false, |stream| wakes.add_write(stream));
    }

    /// Calls `wake` for each stream of the queue for which there is enough.
    fn each_due(&self, grown: bool, mut wake: impl FnMut(&Arc<SharedStream>)) {
        let mut promised = 0;
        // If the queue is empty, this stops without taking the lock. A write that joins the queue
        // after this look has looked under the lock, and would have found the returned bytes
        // itself. But the lock doesn't guard the number of streams. So if the share has grown, the
        // queue is always looked at under the lock.
        while (grown || self.allowance.waiting.load(SeqCst) > 0)
            && let Some((stream, part)) = self.allowance.next(promised, grown)
        {
            if stream.is_due(self) {
                promised += part;
                wake(&stream);
            }
        }
    }
}

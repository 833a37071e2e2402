//! What the streams of a session send unsolicited, counted together, and the streams whose writes
//! wait for a part of it.
//!
//! The lock guards the count and the queue. It is a leaf: it is taken under a stream's lock, and
//! under the registry's.
//!
//! Nobody waits here: a write waits on its own stream, whose first UPD lets it go as well. It
//! queues its stream under the lock under which it found too little, so nothing that comes back
//! later is missed. Whoever gives back ([`Env`]'s `wake_allowance_waiters`), by an UPD, a forgotten
//! stream, or a write that took less than it was offered, takes out as many streams as there is
//! enough for, first come first served, and wakes a write of each, with no lock held. A stream that
//! turns out not to wait any more leaves its part to the next. A write that was woken looks at the
//! queue again when it is done, however it ends: so what it didn't take isn't left lying.
//!
//! Invariants: the count is the sum over the streams'
//! [`StreamCore::unsolicited`](crate::proto::stream::StreamCore::unsolicited), as of each one's
//! last change; a stream is in the queue at most once (its mark), and not after it was forgotten.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;

use super::stream::{Env, SharedStream, Wakes};
use crate::proto::unsolicited::{Unsolicited, share};

#[derive(Debug, Default)]
pub(crate) struct Allowance {
    /// Streams in the registry.
    streams: AtomicUsize,
    /// Streams in the queue, for those who needn't look.
    waiting: AtomicUsize,
    pool: Mutex<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    unsolicited: Unsolicited,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    stream: Arc<SharedStream>,
    /// What the stream held, and what its write wanted more.
    held: u64,
    want: u64,
}

impl Allowance {
    /// So many streams are in the registry, which is locked. Returns whether each one's share has
    /// grown.
    pub(crate) fn set_streams(&self, streams: usize) -> bool {
        let before = self.streams.swap(streams, SeqCst);
        share(streams) > share(before)
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(SeqCst)
    }

    /// Takes what a stream may have of `want` bytes more.
    pub(crate) fn take(&self, held: u64, want: u64) -> u64 {
        let mut pool = self.pool.lock();
        let n = pool.unsolicited.offer(held, want, self.streams());
        pool.unsolicited.change(held, held + n);
        n
    }

    /// Takes it, or puts the stream at the end of the queue.
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

    /// A stream holds `after` bytes instead of `before`.
    pub(crate) fn change(&self, before: u64, after: u64) {
        self.pool.lock().unsolicited.change(before, after);
    }

    /// A stream that is forgotten leaves the queue.
    pub(super) fn leave(&self, stream: &Arc<SharedStream>) {
        let mut pool = self.pool.lock();
        pool.queue.retain(|waiter| !waiter.stream.is(stream));
        self.waiting.store(pool.queue.len(), SeqCst);
    }

    /// Takes the first stream out of the queue, if there is enough for it beside what was promised
    /// to those before; with `any`, the first of all for which there is. Returns it with its part.
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
    /// Something came back, or might have: wakes writes that wait for it, those for which there is
    /// enough. With `grown`, every stream's share is larger than before. The caller holds no lock.
    pub(crate) fn wake_allowance_waiters(&self, grown: bool) {
        self.each_due(grown, |stream| stream.wake_blocked_write());
    }

    /// The same for the reader thread, which wakes later.
    pub(super) fn gather_allowance_waiters(&self, wakes: &mut Wakes) {
        self.each_due(false, |stream| wakes.add_write(stream));
    }

    fn each_due(&self, grown: bool, mut wake: impl FnMut(&Arc<SharedStream>)) {
        let mut promised = 0;
        // Who has just queued itself found too little then, after what this caller gave back. But
        // the number of streams isn't under the queue's lock: who is to find a larger share there
        // looks under that.
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

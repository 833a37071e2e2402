//! The session's receive budget: an account in bytes. The reader takes bytes out before it reads a
//! payload. They come back when the received data is dropped.
//!
//! A [`Charge`] stands for a number of bytes that were taken. Dropping it refunds them. Only the
//! reader thread waits here ([`Budget::take`]).
//!
//! # Overdraft
//! In version 2, a write that waits for credit may keep its thread from reading. The UPD with that
//! credit may lie behind data that doesn't fit the budget. Then nothing would move again. So while
//! a write *starves*, the reader may take up to [`OVERDRAFT`] times the limit. The
//! [manual](crate::manual::architecture#why-four-rules-are-enough) calculates why this is enough.
//!
//! # The wait
//! The [manual](crate::manual::architecture#who-wakes-whom) says who wakes the reader. The reader
//! and the threads that wake it follow Dekker's protocol:
//! 1. The reader publishes the number of bytes that it needs. Then it looks at `used` and
//!    `starving` once more, under the lock.
//! 2. A refund lowers `used`, and a write raises `starving`. Then each looks at the published
//!    number.
//!
//! All of these operations are sequentially consistent, so at least one of the two threads notices
//! the other.
//!
//! # Invariants
//! - `used` is the sum of all living charges.
//! - `starving` is the number of starving writes, as the glossary defines them. The stream decides
//!   which writes count.
//! - Data is admitted if it fits, or if nothing else is charged. The second case is for a frame
//!   that is larger than the whole budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Factor by which the limit grows while a write starves. The reader must be able to reach the UPD
/// that the write waits for. The factor is 2. On the default budget, the windows of 512 streams at
/// the smallest size, 8192 bytes, use all of it. Other grants, and the memory that payloads occupy
/// beyond their length, need the same amount once more.
const OVERDRAFT: usize = 2;

/// The receive budget of a session.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The limit in bytes: `max_receive_buffer`.
    limit: usize,
    /// The charged bytes.
    used: AtomicUsize,
    /// Bytes that the reader waits for. 0 while it doesn't wait.
    needed: AtomicUsize,
    /// The number of writes that wait for credit.
    starving: AtomicUsize,
    /// Guards whether the budget is closed. It is closed when the session is closing or has ended.
    /// Then nobody waits any more. A refund takes this lock before it notifies the reader. So the
    /// reader can't miss the notification between its last look and its wait. The lock is a leaf of
    /// the lock order.
    closed: Mutex<bool>,
    /// The reader thread alone waits on it, for room. A refund, a starving write and
    /// [`Budget::close`] wake it.
    room: Condvar,
}

/// Bytes that are taken out of a [`Budget`] until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    amount: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.refund(self.amount);
    }
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            needed: AtomicUsize::new(0),
            starving: AtomicUsize::new(0),
            closed: Mutex::new(false),
            room: Condvar::new(),
        })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(SeqCst)
    }

    /// Returns whether the reader waits for bytes that don't fit. This is false as soon as they
    /// fit, even if the reader hasn't run yet.
    pub(crate) fn is_short(&self) -> bool {
        let needed = self.needed.load(SeqCst);
        needed > 0 && !self.fits(needed)
    }

    /// Returns whether `amount` bytes fit the limit, without overdraft.
    pub(crate) fn has_room(&self, amount: usize) -> bool {
        self.used().saturating_add(amount) <= self.limit
    }

    /// Takes `amount` bytes if they fit. Doesn't wait.
    pub(crate) fn try_take(self: &Arc<Self>, amount: usize) -> Option<Charge> {
        self.fits(amount).then(|| self.charge(amount))
    }

    /// Takes `amount` bytes, whether they fit or not. This is for data that moves from a large
    /// buffer to a smaller one, and for names, which have a limit of their own.
    pub(crate) fn charge(self: &Arc<Self>, amount: usize) -> Charge {
        self.used.fetch_add(amount, SeqCst);
        Charge { budget: Arc::clone(self), amount }
    }

    /// Takes `amount` bytes, and waits until they fit. The result is
    ///
    /// - `Some(Some(charge))` if they were taken,
    /// - `Some(None)` if the budget is closed,
    /// - `None` if `until` has passed first. Then the caller calls again.
    ///   [`is_short`](Self::is_short) stays true until the bytes fit.
    pub(crate) fn take(
        self: &Arc<Self>,
        amount: usize,
        until: Option<Instant>,
    ) -> Option<Option<Charge>> {
        let mut closed = self.closed.lock();
        self.needed.store(amount.max(1), SeqCst);
        while !*closed && !self.fits(amount) {
            match until {
                None => self.room.wait(&mut closed),
                Some(until) => {
                    let late = self.room.wait_until(&mut closed, until).timed_out();
                    if late && !*closed && !self.fits(amount) {
                        return None;
                    }
                }
            }
        }
        self.needed.store(0, SeqCst);
        Some((!*closed).then(|| self.charge(amount)))
    }

    /// Closes the budget. The reader stops waiting, and doesn't wait any more.
    pub(crate) fn close(&self) {
        *self.closed.lock() = true;
        self.room.notify_all();
    }

    /// Notes that a write begins to wait for credit. Each call must be followed by a call of
    /// [`end_starving`](Self::end_starving).
    pub(crate) fn begin_starving(&self) {
        self.starving.fetch_add(1, SeqCst);
        self.wake();
    }

    /// Notes that a write has stopped waiting for credit.
    pub(crate) fn end_starving(&self) {
        self.starving.fetch_sub(1, SeqCst);
    }

    /// Returns whether `amount` bytes fit now, with overdraft while a write starves.
    fn fits(&self, amount: usize) -> bool {
        let times = if self.starving.load(SeqCst) > 0 { OVERDRAFT } else { 1 };
        let used = self.used.load(SeqCst);
        used == 0 || used.saturating_add(amount) <= self.limit.saturating_mul(times)
    }

    fn refund(&self, amount: usize) {
        self.used.fetch_sub(amount, SeqCst);
        self.wake();
    }

    /// Wakes the reader if the bytes that it waits for fit now.
    fn wake(&self) {
        let needed = self.needed.load(SeqCst);
        if needed > 0 && self.fits(needed) {
            // While this thread holds the lock, the reader is either before its look at `used` or
            // already inside its wait. So it can't miss the wake-up.
            let closed = self.closed.lock();
            drop(closed);
            self.room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::{until, watched};
    use std::thread;

    #[test]
    fn what_fits_is_what_the_limit_leaves() {
        let budget = Budget::new(100);
        assert_eq!((budget.limit(), budget.used()), (100, 0));
        assert!(budget.has_room(100) && !budget.has_room(101));
        let held = budget.charge(1);
        assert!(budget.has_room(99) && !budget.has_room(100));
        assert!(budget.try_take(100).is_none());
        let rest = budget.try_take(99).unwrap();
        // `charge` goes past the limit.
        let more = budget.charge(50);
        assert_eq!(budget.used(), 150);
        assert!(!budget.is_short(), "nobody waits");
        assert!(!budget.has_room(0) && budget.try_take(0).is_none());
        drop(held);
        drop(rest);
        drop(more);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_reader_waits_until_enough_comes_back() {
        watched(|| {
            let budget = Budget::new(10);
            let held: Vec<_> = (0..10).map(|_| budget.charge(1)).collect();
            let reader = thread::spawn({
                let budget = Arc::clone(&budget);
                move || budget.take(3, None).flatten().map(|charge| charge.amount)
            });
            until(|| budget.is_short());
            let mut held = held.into_iter();
            held.next();
            held.next();
            assert!(budget.is_short(), "two of three");
            held.next();
            assert_eq!(reader.join().unwrap(), Some(3));
            assert!(!budget.is_short(), "nobody waits");
        });
    }

    #[test]
    fn what_fits_is_taken_without_a_wait_and_nothing_once_it_is_closed() {
        watched(|| {
            let budget = Budget::new(10);
            let taken = |amount| budget.take(amount, None).unwrap().map(|charge| charge.amount);
            assert_eq!(taken(10), Some(10));
            budget.close();
            assert_eq!(taken(1), None);
            assert_eq!(budget.used(), 0);
        });
    }

    #[test]
    fn charges_add_up_and_come_back() {
        let budget = Budget::new(100);
        let a = budget.try_take(60).unwrap();
        assert!(budget.try_take(41).is_none());
        let b = budget.try_take(40).unwrap();
        assert_eq!(budget.used(), 100);
        drop(a);
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn something_larger_than_the_budget_passes_when_it_is_alone() {
        let budget = Budget::new(10);
        let small = budget.try_take(1).unwrap();
        assert!(budget.try_take(1000).is_none());
        drop(small);
        assert!(budget.try_take(1000).is_some());
    }

    #[test]
    fn a_refund_wakes_the_reader() {
        watched(|| {
            let budget = Budget::new(10);
            let held = budget.try_take(10).unwrap();
            let reader = thread::spawn({
                let budget = Arc::clone(&budget);
                move || budget.take(5, None).flatten().map(|charge| charge.amount)
            });
            until(|| budget.is_short());
            drop(held);
            assert_eq!(reader.join().unwrap(), Some(5));
            assert_eq!(budget.used(), 0);
        });
    }

    #[test]
    fn a_reader_that_was_given_room_is_not_short_of_it_though_it_has_not_run() {
        let budget = Budget::new(10);
        let held = budget.try_take(10).unwrap();
        assert!(!budget.is_short());
        budget.needed.store(5, SeqCst); // stands for a reader that waits and doesn't run
        assert!(budget.is_short());
        drop(held);
        assert!(!budget.is_short());
    }

    #[test]
    fn a_write_that_starves_lets_the_reader_go_on_up_to_twice_the_limit() {
        watched(|| {
            let budget = Budget::new(10);
            let held = budget.charge(8);
            let reader = thread::spawn({
                let budget = Arc::clone(&budget);
                move || budget.take(12, None).flatten()
            });
            until(|| budget.is_short());
            budget.begin_starving();
            let more = reader.join().unwrap();
            assert_eq!((budget.used(), budget.try_take(1).is_none()), (20, true));
            budget.end_starving();
            drop(held);
            assert!(budget.try_take(1).is_none(), "the limit holds again");
            drop(more);
        });
    }

    #[test]
    fn closing_wakes_the_reader_empty_handed() {
        watched(|| {
            let budget = Budget::new(10);
            let held = budget.try_take(10).unwrap();
            let reader = thread::spawn({
                let budget = Arc::clone(&budget);
                move || matches!(budget.take(5, None), Some(None))
            });
            until(|| budget.is_short());
            budget.close();
            assert!(reader.join().unwrap());
            assert_eq!(budget.used(), 10);
            drop(held);
        });
    }

    #[test]
    fn a_wait_with_a_limit_ends_there_and_the_reader_stays_short_until_it_comes_back() {
        watched(|| {
            let budget = Budget::new(10);
            let held = budget.try_take(10).unwrap();
            assert!(budget.take(5, Some(Instant::now())).is_none());
            assert!(budget.is_short());
            // Room, or a closed budget, is found even after the limit has passed.
            drop(held);
            assert_eq!(
                budget.take(5, Some(Instant::now())).unwrap().map(|charge| charge.amount),
                Some(5)
            );
            assert!(!budget.is_short());
            budget.close();
            assert!(matches!(budget.take(5, Some(Instant::now())), Some(None)));
        });
    }
}

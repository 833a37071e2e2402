//! The session's receive budget: a token bucket of bytes that the reader takes from before it
//! reads, and that comes back when what was read is dropped.
//!
//! A [`Charge`] is a number of bytes taken; dropping it refunds them. Only the reader thread waits
//! here ([`Budget::take`]).
//!
//! Version 2: a write that waits for credit may keep its thread from reading, and the update that
//! brings the credit may lie behind data that doesn't fit. Then nothing would move again. So while
//! a write *starves* the reader may take up to [`OVERDRAFT`] times the limit
//! (`manual::architecture` has the sum that this has to cover).
//!
//! Who wakes it: every refund that makes room for what it waits for, a write that begins to starve,
//! and [`Budget::close`] at the session's end or close. The protocol between the two sides is
//! Dekker's: the reader publishes what it needs, then looks at `used` and `starving` again under
//! the gate's lock; a refund lowers `used`, and a write says that it starves, and then each looks
//! at what is needed. Sequentially consistent operations make sure that one of them sees the other.
//!
//! Invariants: `used` is the sum of all living charges; `starving` that of writes that wait for
//! credit; data is admitted while it fits, or when nothing else is charged (a single frame may be
//! larger than the whole budget).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// How many times its limit the budget may hold while a write starves. With a least window for each
/// of 512 streams, which use up the default budget, there is as much again for what else was
/// granted, and for what payloads occupy beyond their length.
const OVERDRAFT: usize = 2;

#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// How much the reader waits for; 0 while it doesn't.
    needed: AtomicUsize,
    /// Writes that wait for credit.
    starving: AtomicUsize,
    /// Whether the gate is open: the session has ended or is closing, and nobody waits any more.
    /// The only waiter is the reader thread.
    closed: Mutex<bool>,
    room: Condvar,
}

/// Bytes taken out of a [`Budget`], until it is dropped.
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

    /// Whether what the reader waits for doesn't fit: it may have been given room and not have run
    /// since.
    pub(crate) fn is_short(&self) -> bool {
        let needed = self.needed.load(SeqCst);
        needed > 0 && !self.fits(needed)
    }

    /// Whether `amount` bytes fit.
    pub(crate) fn has_room(&self, amount: usize) -> bool {
        self.used().saturating_add(amount) <= self.limit
    }

    /// Takes `amount` bytes if they fit.
    pub(crate) fn try_take(self: &Arc<Self>, amount: usize) -> Option<Charge> {
        self.fits(amount).then(|| self.charge(amount))
    }

    /// Takes `amount` bytes, whether they fit or not: for what replaces a larger charge, and for
    /// names, which have a limit of their own.
    pub(crate) fn charge(self: &Arc<Self>, amount: usize) -> Charge {
        self.used.fetch_add(amount, SeqCst);
        Charge { budget: Arc::clone(self), amount }
    }

    /// Takes `amount` bytes, waiting until they fit; nothing once the gate is open. `None` if
    /// `until` passes first: then the caller comes back, and [`is_short`](Self::is_short) stays
    /// true meanwhile.
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

    /// Lets the reader go, now and for ever.
    pub(crate) fn close(&self) {
        *self.closed.lock() = true;
        self.room.notify_all();
    }

    /// A write waits for credit, until [`end_starving`](Self::end_starving) is called for it.
    pub(crate) fn begin_starving(&self) {
        self.starving.fetch_add(1, SeqCst);
        self.wake();
    }

    pub(crate) fn end_starving(&self) {
        self.starving.fetch_sub(1, SeqCst);
    }

    fn fits(&self, amount: usize) -> bool {
        let times = if self.starving.load(SeqCst) > 0 { OVERDRAFT } else { 1 };
        let used = self.used.load(SeqCst);
        used == 0 || used.saturating_add(amount) <= self.limit.saturating_mul(times)
    }

    fn refund(&self, amount: usize) {
        self.used.fetch_sub(amount, SeqCst);
        self.wake();
    }

    /// Wakes the reader, if what it waits for fits by now.
    fn wake(&self) {
        let needed = self.needed.load(SeqCst);
        if needed > 0 && self.fits(needed) {
            // The lock makes sure that the reader is either before its look at `used` or inside its
            // wait.
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
        // What can't wait is charged past the limit.
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
        budget.needed.store(5, SeqCst); // a reader waits, and won't run
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
            // What fits, or an open gate, is found though the limit has passed.
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

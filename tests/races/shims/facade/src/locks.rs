//! parking_lot's `Mutex` and `Condvar`.
//!
//! As in parking_lot, a wait ends only by a notification or its time limit. A notification that
//! finds a waiter belongs to that waiter, even if its time runs out before it goes on.
//!
//! In parking_lot, `notify_one` takes the oldest waiter. Here the scheduler chooses one. gmux
//! doesn't depend on the order.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync;

use crate::sched::{Id, block_until, choose, me, pass_a_moment, switch, wake};
use crate::time::{Alarm, Duration, Instant};

pub struct Mutex<T> {
    owner: sync::Mutex<Owner>,
    data: sync::Mutex<T>,
}

#[derive(Default)]
struct Owner {
    taken: bool,
    waiting: Vec<Id>,
}

pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` while the guard waits in a condvar.
    data: Option<sync::MutexGuard<'a, T>>,
}

/// Locks the standard library's lock, which no other thread can hold.
fn own<T>(lock: &sync::Mutex<T>) -> sync::MutexGuard<'_, T> {
    match lock.try_lock() {
        Ok(guard) => guard,
        Err(sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(sync::TryLockError::WouldBlock) => {
            panic!("a thread was switched in the middle of a step")
        }
    }
}

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        let owner = Owner { taken: false, waiting: Vec::new() };
        Self { owner: sync::Mutex::new(owner), data: sync::Mutex::new(value) }
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        switch();
        self.lock_now();
        MutexGuard { mutex: self, data: Some(own(&self.data)) }
    }

    fn lock_now(&self) {
        block_until(|| {
            let mut owner = own(&self.owner);
            if owner.taken {
                let me = me();
                if !owner.waiting.contains(&me) {
                    owner.waiting.push(me);
                }
            }
            !std::mem::replace(&mut owner.taken, true)
        });
        let mut owner = own(&self.owner);
        let me = me();
        owner.waiting.retain(|&id| id != me);
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        switch();
        let free = !std::mem::replace(&mut own(&self.owner).taken, true);
        free.then(|| MutexGuard { mutex: self, data: Some(own(&self.data)) })
    }

    /// Frees the lock and lets all waiting threads try.
    fn unlock(&self) {
        let mut owner = own(&self.owner);
        owner.taken = false;
        let waiting = std::mem::take(&mut owner.waiting);
        drop(owner);
        waiting.into_iter().for_each(wake);
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("data", &self.data).finish_non_exhaustive()
    }
}

impl<T> MutexGuard<'_, T> {
    /// Frees the lock. The scheduler chooses the next owner, here too.
    pub fn unlock_fair(guard: Self) {
        drop(guard);
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // Other threads can see changes under the lock before it is free, by `try_lock` and through
        // atomics.
        switch();
        self.data = None;
        self.mutex.unlock();
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.data.as_ref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.data.as_mut().expect("held")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Waiting,
    Notified,
    TimedOut,
}

/// One wait in a condvar.
#[derive(Debug)]
pub struct Waiter {
    thread: Id,
    state: sync::Mutex<Wait>,
}

impl Waiter {
    /// Ends the wait, unless it has ended already.
    fn end(&self, how: Wait) -> bool {
        let mut state = own(&self.state);
        let waits = *state == Wait::Waiting;
        if waits {
            *state = how;
            drop(state);
            wake(self.thread);
        }
        waits
    }

    /// Ends the wait because its time limit has passed.
    pub fn time_out(&self) {
        self.end(Wait::TimedOut);
    }
}

#[derive(Debug, Default)]
pub struct Condvar {
    waiters: sync::Mutex<Vec<sync::Arc<Waiter>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    pub const fn new() -> Self {
        Self { waiters: sync::Mutex::new(Vec::new()) }
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_to(guard, None);
    }

    pub fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        limit: Instant,
    ) -> WaitTimeoutResult {
        WaitTimeoutResult(self.wait_to(guard, Some(limit)) == Wait::TimedOut)
    }

    /// A short wait. The library relies on its end. So it may end at any moment even though time
    /// stands still, unlike a wait with a deadline.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Duration) -> WaitTimeoutResult {
        assert!(limit < Duration::from_millis(100), "{limit:?}: is somebody to be rescued by it?");
        switch();
        let waiter =
            sync::Arc::new(Waiter { thread: me(), state: sync::Mutex::new(Wait::Waiting) });
        own(&self.waiters).push(sync::Arc::clone(&waiter));
        guard.data = None;
        guard.mutex.unlock();
        pass_a_moment(|| *own(&waiter.state) != Wait::Waiting);
        waiter.end(Wait::TimedOut);
        WaitTimeoutResult(self.waited(guard, &waiter) == Wait::TimedOut)
    }

    fn wait_to<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Option<Instant>) -> Wait {
        switch();
        let waiter =
            sync::Arc::new(Waiter { thread: me(), state: sync::Mutex::new(Wait::Waiting) });
        // The alarm fires at once if the limit has passed.
        let _alarm = limit.map(|limit| Alarm::set(limit, &waiter));
        own(&self.waiters).push(sync::Arc::clone(&waiter));
        // The lock is released and the wait begins in one step, as a condvar promises.
        guard.data = None;
        guard.mutex.unlock();
        block_until(|| *own(&waiter.state) != Wait::Waiting);
        self.waited(guard, &waiter)
    }

    fn waited<T>(&self, guard: &mut MutexGuard<'_, T>, waiter: &sync::Arc<Waiter>) -> Wait {
        own(&self.waiters).retain(|other| !sync::Arc::ptr_eq(other, waiter));
        guard.mutex.lock_now();
        guard.data = Some(own(&guard.mutex.data));
        *own(&waiter.state)
    }

    /// Returns the waiters that haven't been woken yet.
    fn waiting(&self) -> Vec<sync::Arc<Waiter>> {
        let waiters = own(&self.waiters);
        waiters.iter().filter(|waiter| *own(&waiter.state) == Wait::Waiting).cloned().collect()
    }

    pub fn notify_one(&self) -> bool {
        switch();
        let waiting = self.waiting();
        waiting.get(choose(waiting.len())).is_some_and(|waiter| waiter.end(Wait::Notified))
    }

    pub fn notify_all(&self) -> usize {
        switch();
        self.waiting().iter().filter(|waiter| waiter.end(Wait::Notified)).count()
    }
}

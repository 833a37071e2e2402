//! Time that stands still until a check moves it. [`advance`] may come at any point of an
//! execution, and ends every wait whose limit it passes. So a call that isn't woken in time hangs.
//! Its time limit doesn't rescue it.

use std::cell::RefCell;
use std::ops::{Add, Sub};
use std::sync::{Arc, Weak};

pub use std::time::Duration;

use crate::locks::Waiter;
use crate::sched::switch;

/// A point in time, as the time since the epoch of its execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

struct Clock {
    now: Duration,
    /// Whether this execution moves the time. Only then is a look at the clock a switching point.
    moves: bool,
    alarms: Vec<(Instant, Weak<Waiter>)>,
}

/// Start of the clock. It is long after zero, so that earlier points in time exist.
const EPOCH: Duration = Duration::from_secs(1_000_000);

thread_local! {
    static CLOCK: RefCell<Clock> =
        const { RefCell::new(Clock { now: EPOCH, moves: false, alarms: Vec::new() }) };
}

/// Begins an execution. `moves` says whether it may `advance` the time.
pub fn reset(moves: bool) {
    CLOCK.with_borrow_mut(|clock| *clock = Clock { now: EPOCH, moves, alarms: Vec::new() });
}

/// Moves the time. The check's threads call this. The scheduler chooses when such a thread runs.
pub fn advance(by: Duration) {
    switch();
    let due: Vec<Weak<Waiter>> = CLOCK.with_borrow_mut(|clock| {
        assert!(clock.moves, "this execution was to be without time");
        clock.now += by;
        let now = Instant(clock.now);
        clock
            .alarms
            .iter()
            .filter(|(at, _)| *at <= now)
            .map(|(_, waiter)| Weak::clone(waiter))
            .collect()
    });
    for waiter in due.iter().filter_map(Weak::upgrade) {
        waiter.time_out();
    }
}

/// A wait's time limit, which ends when it is dropped.
pub(crate) struct Alarm(Weak<Waiter>);

impl Alarm {
    pub(crate) fn set(at: Instant, waiter: &Arc<Waiter>) -> Self {
        let weak = Arc::downgrade(waiter);
        let passed = CLOCK.with_borrow_mut(|clock| {
            clock.alarms.push((at, Weak::clone(&weak)));
            at.0 <= clock.now
        });
        if passed {
            waiter.time_out();
        }
        Self(weak)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        CLOCK.with_borrow_mut(|clock| clock.alarms.retain(|(_, waiter)| !waiter.ptr_eq(&self.0)));
    }
}

impl Instant {
    pub fn now() -> Self {
        if CLOCK.with_borrow(|clock| clock.moves) {
            switch();
        }
        CLOCK.with_borrow(|clock| Self(clock.now))
    }

    pub fn elapsed(&self) -> Duration {
        Self::now() - *self
    }

    pub fn checked_add(&self, by: Duration) -> Option<Self> {
        // The real clock has an upper end, too.
        self.0.checked_add(by).filter(|at| at.as_secs() < i64::MAX as u64).map(Self)
    }

    pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub fn duration_since(&self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0 + by)
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, by: Duration) -> Self {
        Self(self.0 - by)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

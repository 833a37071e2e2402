//! An endpoint's time, and the next wake-up of its clock thread.
//!
//! Each conversation has an atomic with its due time. The clock thread looks at all due times, and
//! sleeps until the earliest. It is woken when a conversation becomes due earlier.
//!
//! The order of stores and loads prevents lost wake-ups, as in Dekker's algorithm:
//! - A thread that makes a conversation due stores the due time, and then loads `wakes_at`
//!   ([`Clock::ring`]).
//! - The clock thread stores `u64::MAX` in `wakes_at`, and then loads all due times.
//!
//! So at least one of the two sees the other's store.
//!
//! The lock guards `rung`. The clock thread waits on `changed`, and [`Clock::ring`] wakes it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

#[derive(Debug)]
pub struct Clock {
    epoch: Instant,
    /// The time at which the clock thread wakes up by itself. `u64::MAX` means that it is looking
    /// at the due times, or sleeps without a time limit.
    wakes_at: AtomicU64,
    /// Whether a conversation became due after the clock thread began to look.
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Clock {
    pub fn new() -> Self {
        Self {
            epoch: Instant::now(),
            wakes_at: AtomicU64::new(u64::MAX),
            rung: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// Returns the milliseconds since the endpoint was made.
    pub fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Wakes the clock thread if it would sleep beyond `due`. The caller must first store `due` in
    /// the conversation.
    pub fn ring(&self, due: u64) {
        if due < self.wakes_at.load(SeqCst) {
            *self.rung.lock() = true;
            self.changed.notify_one();
        }
    }

    /// Marks that the clock thread begins to look at the due times.
    pub fn begin(&self) {
        *self.rung.lock() = false;
        self.wakes_at.store(u64::MAX, SeqCst);
    }

    /// Sleeps until `due`, or until woken. The clock thread calls this after it has looked at all
    /// due times.
    pub fn sleep(&self, due: u64) {
        let mut rung = self.rung.lock();
        self.wakes_at.store(due, SeqCst);
        if !*rung {
            match self.epoch.checked_add(Duration::from_millis(due)) {
                Some(until) => {
                    let _ = self.changed.wait_until(&mut rung, until);
                }
                None => self.changed.wait(&mut rung),
            }
        }
    }
}

//! An endpoint's time, and when its clock thread is to wake up.
//!
//! Each conversation says when it is due by an atomic of its own; the clock thread looks at all of
//! them, sleeps until the earliest, and is woken when one becomes due before that.
//!
//! The protocol is Dekker's. Who makes a conversation due stores that, then looks at `wakes_at`
//! ([`Clock::ring`]). The clock thread stores `u64::MAX` there, then looks at all. So one of the
//! two sees the other.
//!
//! The lock guards `rung`. The clock thread waits on `changed`; who rings wakes it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

#[derive(Debug)]
pub struct Clock {
    epoch: Instant,
    /// When the clock thread wakes up by itself; `u64::MAX`: it is looking, or sleeps for good.
    wakes_at: AtomicU64,
    /// Something became due since the clock thread began to look.
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

    /// Milliseconds since the endpoint was made.
    pub fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something is due at `due`. To be called after that was stored where the clock thread looks.
    pub fn ring(&self, due: u64) {
        if due < self.wakes_at.load(SeqCst) {
            *self.rung.lock() = true;
            self.changed.notify_one();
        }
    }

    /// The clock thread begins to look.
    pub fn begin(&self) {
        *self.rung.lock() = false;
        self.wakes_at.store(u64::MAX, SeqCst);
    }

    /// The clock thread has looked, and sleeps until `due`, or until it is woken.
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

//! Pauses between the tries of a transport call. A pause follows a try that read or wrote nothing
//! and returned at once. The pauses grow from 1 ms to 40 ms while no byte is read or written. So an
//! idle transport in non-blocking mode costs 25 tries a second instead of a thousand.
//!
//! # Invariants
//! - A pause is between [`FIRST`] and [`LONGEST`].
//! - After progress in any thread, a thread begins with [`FIRST`] again.
//!
//! The lock of [`Pauses`] guards only the wait. A thread in a long pause waits on its condvar.
//! Progress in another thread wakes it ([`Pauses::end`]). The protocol is Dekker's. The waiter
//! first counts itself as a waiter, then checks for progress. A thread that made progress first
//! counts the progress, then checks for waiters. So at least one of these two threads sees that the
//! other one has counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The first pause. A millisecond is long compared with a try, and short compared with a network's
/// delay.
const FIRST: Duration = Duration::from_millis(1);

/// The longest pause. 25 tries a second cost almost nothing, and a person doesn't notice the delay.
const LONGEST: Duration = Duration::from_millis(40);

/// The length of the next pause.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// Begins again with the first pause, after progress.
    pub(crate) fn reset(&mut self) {
        self.0 = FIRST;
    }

    /// Returns the pause after a call that read or wrote nothing and took the time `took`. Returns
    /// `None` if the call took at least [`FIRST`], because such a call has waited by itself.
    fn after(&mut self, took: Duration) -> Option<Duration> {
        let next = (self.0 * 2).min(LONGEST);
        (took < FIRST).then(|| std::mem::replace(&mut self.0, next))
    }

    /// Sleeps, unless the call that began at `started` has waited by itself.
    pub(crate) fn sleep(&mut self, started: Instant) {
        if let Some(pause) = self.after(started.elapsed()) {
            std::thread::sleep(pause);
        }
    }
}

/// Pauses of the threads that share one transport. Progress in one thread ends the pauses of the
/// others.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// Counts progress of any thread.
    done: AtomicU64,
    /// Number of threads in a pause that can be ended.
    waiting: AtomicUsize,
    gate: Mutex<()>,
    ended: Condvar,
}

/// One call's pauses.
#[derive(Debug)]
pub(super) struct Pausing<'a> {
    pauses: &'a Pauses,
    seen: u64,
    backoff: Backoff,
}

impl Pauses {
    /// Begins the pauses of one call.
    pub(super) fn begin(&self) -> Pausing<'_> {
        Pausing { pauses: self, seen: self.done.load(SeqCst), backoff: Backoff::default() }
    }

    /// Notes progress. Threads in a pause try again at once, except threads in a first pause. A
    /// first pause isn't ended early, because a thread that writes all the time would then wake the
    /// reading thread at each write.
    pub(super) fn end(&self) {
        self.done.fetch_add(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            let gate = self.gate.lock();
            drop(gate);
            self.ended.notify_all();
        }
    }

    /// Waits for `pause`, or until the progress count differs from `seen`.
    fn wait(&self, pause: Duration, seen: u64) {
        let mut gate = self.gate.lock();
        self.waiting.fetch_add(1, SeqCst);
        if self.done.load(SeqCst) == seen {
            self.ended.wait_for(&mut gate, pause);
        }
        self.waiting.fetch_sub(1, SeqCst);
    }
}

impl Pausing<'_> {
    /// Pauses after a call that began at `started` and did nothing, unless the call has waited by
    /// itself.
    pub(super) fn after(&mut self, started: Instant) {
        let done = self.pauses.done.load(SeqCst);
        if done != self.seen {
            self.seen = done;
            self.backoff.reset();
        }
        match self.backoff.after(started.elapsed()) {
            Some(pause) if pause > FIRST => self.pauses.wait(pause, self.seen),
            Some(pause) => std::thread::sleep(pause),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn a_pause_grows_from_1_to_40_ms_and_falls_back() {
        let mut backoff = Backoff::default();
        let next = |backoff: &mut Backoff| backoff.after(AT_ONCE).unwrap().as_millis();
        let first: Vec<_> = (0..9).map(|_| next(&mut backoff)).collect();
        assert_eq!(first, [1, 2, 4, 8, 16, 32, 40, 40, 40]);
        backoff.reset();
        assert_eq!([next(&mut backoff), next(&mut backoff)], [1, 2]);
    }

    #[test]
    fn after_a_call_that_has_waited_by_itself_there_is_no_pause() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after(FIRST), None);
        assert_eq!(backoff.after(FIRST / 2), Some(FIRST), "and it hasn't grown");
    }

    #[test]
    fn what_another_thread_does_ends_a_long_pause_and_makes_the_next_one_short() {
        let pauses = Arc::new(Pauses::default());
        let seen = 0;
        let long = thread::spawn({
            let pauses = Arc::clone(&pauses);
            move || pauses.wait(Duration::from_secs(600), seen)
        });
        while pauses.waiting.load(SeqCst) == 0 {
            thread::yield_now();
        }
        pauses.end();
        long.join().unwrap(); // without the wake-up, this would take 600 s
        pauses.wait(Duration::from_secs(600), seen); // the progress came before, so it doesn't wait
        let mut call = Pausing { pauses: &pauses, seen, backoff: Backoff(LONGEST) };
        call.after(Instant::now());
        assert_eq!((call.seen, call.backoff.0), (1, 2 * FIRST));
    }
}

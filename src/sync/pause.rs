//! The reader's pause: a record of whether the reader waits for the application, since when, and
//! for what.
//!
//! Only the reader thread begins and ends a pause. The timer looks at the record, and suspends
//! keepalive during a pause. Calls that show a session's state look at it, too.
//!
//! The lock guards the record. It is a leaf of the lock order. Nobody waits on it.
//!
//! Invariant: the reader's clock is stamped before anybody can see that the pause is over. Without
//! this rule, keepalive could find a reader that isn't paused, and that seems to have received
//! nothing since the pause began.

use std::time::Instant;

use parking_lot::Mutex;

/// The reason for a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The application has to read data, because `max_receive_buffer` is used up.
    Budget,
    /// The application has to accept streams, because the backlog is full.
    Backlog,
}

/// The record of the reader's pause: its begin and its cause. `None` while the reader isn't paused.
#[derive(Debug, Default)]
pub(crate) struct Pause(Mutex<Option<(Instant, Cause)>>);

impl Pause {
    /// Begins a pause at `now`. The reader thread calls this before it waits.
    pub(crate) fn begin(&self, now: Instant, cause: Cause) {
        *self.0.lock() = Some((now, cause));
    }

    /// Returns the begin and the cause of the current pause.
    pub(crate) fn current(&self) -> Option<(Instant, Cause)> {
        *self.0.lock()
    }

    /// Ends the pause. Calls `stamp` before anybody can see the end.
    pub(crate) fn end(&self, stamp: impl FnOnce()) {
        let mut record = self.0.lock();
        stamp();
        *record = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seen_from_its_begin_to_its_end_and_stamped_before_that() {
        let pause = Pause::default();
        let now = Instant::now();
        assert_eq!(pause.current(), None);
        for cause in [Cause::Budget, Cause::Backlog] {
            pause.begin(now, cause);
            assert_eq!(pause.current(), Some((now, cause)));
            // Nobody can look at the record while the stamp is made.
            let mut hidden = false;
            pause.end(|| hidden = pause.0.try_lock().is_none());
            assert!(hidden);
            assert_eq!(pause.current(), None);
        }
    }
}

//! Whether the reader waits for the application, since when, and for what.
//!
//! Only the reader thread begins and ends a pause. Others look: the timer, which suspends keepalive
//! meanwhile, and whoever shows a session's state.
//!
//! The lock guards the record, and is a leaf. Nobody waits on it.
//!
//! Invariant: at a pause's end the reader's stamp is made before anybody can see that the pause is
//! over, so that keepalive never finds a reader that isn't paused and has received nothing for as
//! long.

use std::time::Instant;

use parking_lot::Mutex;

/// What the reader waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Data is to be read: `max_receive_buffer` is used up.
    Budget,
    /// Streams are to be accepted: the backlog is full.
    Backlog,
}

/// The reader's pause, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Pause(Mutex<Option<(Instant, Cause)>>);

impl Pause {
    /// The reader is about to wait, from `now` on: whoever it tells of that finds it so.
    pub(crate) fn begin(&self, now: Instant, cause: Cause) {
        *self.0.lock() = Some((now, cause));
    }

    /// Since when the reader has been waiting, and for what, if it is.
    pub(crate) fn current(&self) -> Option<(Instant, Cause)> {
        *self.0.lock()
    }

    /// The reader goes on; `stamp` is called before anybody can see that.
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
            // The record can't be looked at before the stamp is made.
            let mut hidden = false;
            pause.end(|| hidden = pause.0.try_lock().is_none());
            assert!(hidden);
            assert_eq!(pause.current(), None);
        }
    }
}

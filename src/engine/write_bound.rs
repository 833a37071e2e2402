//! The time limit of a single transport write, and the decision to retry a write.
//!
//! Inline writes need a small limit ([`SMALL`]), since their caller may have a deadline. While the
//! writer thread is blocked in the transport, no inline write is possible, so the limit may grow.
//! With a peer that doesn't read, the thread then wakes up once a second instead of a hundred
//! times. If a write fails at once, the writer thread sleeps before it retries.
//!
//! Invariant: after a write or flush that made progress, the limit is [`SMALL`], provided that the
//! transport can change it. So it is small whenever the writer thread parks.

use std::io;
use std::time::{Duration, Instant};

use super::SessionShared;
use super::guard::UserObject;
use crate::error::{Error, Result};
use crate::transport::{Backoff, BoundWrites};

/// The limit that inline writes need, as [`Halves`](crate::transport::Halves) documents.
const SMALL: Duration = Duration::from_millis(10);

/// The largest limit. One wake-up a second costs very little. The no-data clocks may learn up to
/// one second late that a slow peer has taken some bytes, so the limit doesn't grow further.
const LARGE: Duration = Duration::from_secs(1);

/// Growth factor of the limit. With 4 the limits are 10, 40, 160, 640 and 1000 ms. A blocked
/// transport reaches the largest one in under a second.
const GROWTH: u32 = 4;

/// The current limit of a transport write, and the pauses between failed writes.
pub(super) struct WriteBound {
    /// Sets the transport's limit. `None` if the transport can't change it.
    set: Option<UserObject<BoundWrites>>,
    bound: Duration,
    backoff: Backoff,
}

impl WriteBound {
    pub(super) fn new(set: Option<UserObject<BoundWrites>>) -> Self {
        Self { set, bound: SMALL, backoff: Backoff::default() }
    }

    /// Sets the limit back to [`SMALL`], after a write or flush that made progress.
    pub(super) fn progressed(&mut self) {
        self.backoff.reset();
        self.set_bound(SMALL);
    }

    /// Decides whether a failed write or flush is retried: `Ok` means yes. `started` is the time of
    /// the call. Raises the limit, and sleeps if the call failed at once.
    ///
    /// # Errors
    /// Returns the write's error if it is fatal, and `Closed` if the transport was aborted.
    pub(super) fn retry(
        &mut self,
        session: &SessionShared,
        error: io::Error,
        started: Instant,
    ) -> Result<()> {
        if !is_retryable(&error) {
            return Err(error.into());
        }
        if error.kind() != io::ErrorKind::Interrupted {
            self.set_bound((self.bound * GROWTH).min(LARGE));
            self.backoff.sleep(started);
        }
        // After an end of file of the input the session has ended. But its output is still written
        // until the transport is aborted.
        if session.is_aborted() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Returns whether the limit is small enough for an inline write.
    pub(super) fn is_small(&self) -> bool {
        self.bound == SMALL
    }

    /// Sets the limit. If the transport refuses, `bound` keeps its value, and the next call tries
    /// again.
    fn set_bound(&mut self, bound: Duration) {
        if bound != self.bound
            && self
                .set
                .as_mut()
                .is_some_and(|set| set.get_mut().and_then(|set| set(Some(bound))).is_ok())
        {
            self.bound = bound;
        }
    }
}

/// Returns whether a failed transport call may succeed when it is retried.
pub(super) fn is_retryable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

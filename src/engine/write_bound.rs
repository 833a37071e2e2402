//! How long the writer waits for a transport that takes nothing.
//!
//! Each write is bounded to [`SMALL`], for the sake of callers that take the writer's turn. While
//! the writer thread is stuck in the transport it has the writer, so nobody could use that: the
//! bound grows, and a peer that doesn't read costs a wake-up a second instead of a hundred. A
//! transport whose writes come back at once is asked again after a pause.
//!
//! Invariant: the bound is small, if it could be set, whenever the last write or flush did
//! something; so it is small when the writer is given up.

use std::io;
use std::time::{Duration, Instant};

use super::SessionShared;
use super::guard::UserObject;
use crate::error::{Error, Result};
use crate::transport::{Backoff, BoundWrites};

/// The bound that callers rely upon, as [`Halves`](crate::transport::Halves) says.
const SMALL: Duration = Duration::from_millis(10);

/// The largest bound: a wake-up a second costs nothing. What a slow peer took is seen so much later
/// at worst, which matters to the no-data clocks.
const LARGE: Duration = Duration::from_secs(1);

/// By how much the bound grows at a time: 10, 40, 160, 640 ms, a second.
const GROWTH: u32 = 4;

pub(super) struct WriteBound {
    /// Bounds the transport's writes, where that can be changed.
    set: Option<UserObject<BoundWrites>>,
    bound: Duration,
    backoff: Backoff,
}

impl WriteBound {
    pub(super) fn new(set: Option<UserObject<BoundWrites>>) -> Self {
        Self { set, bound: SMALL, backoff: Backoff::default() }
    }

    /// The transport did something.
    pub(super) fn progressed(&mut self) {
        self.backoff.reset();
        self.set_bound(SMALL);
    }

    /// Decides whether a write that began at `started` and failed is to be tried again; pauses if
    /// that came back at once.
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
        // A session that has ended with its input still ends its output, until it is aborted.
        if session.is_aborted() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Whether a caller may write: the bound is what it relies upon.
    pub(super) fn is_small(&self) -> bool {
        self.bound == SMALL
    }

    /// Where it can't be set it stays as it is, and that is tried again.
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

/// Whether a failed call is to be tried again.
pub(super) fn is_retryable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

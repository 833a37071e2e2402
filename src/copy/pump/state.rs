//! The state of the two directions of a copy.
//!
//! Invariant: the state is read and changed only under the lock of `Pumps`.

use std::io;
use std::time::Instant;

use crate::copy::Fault;

/// The operations that a direction may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Everything.
    Run,
    /// Copy the received bytes while they move.
    Drain {
        /// Bytes that may still be copied.
        left: u64,
        /// The time at which a byte moved last.
        moved: Instant,
    },
    /// Read, and throw the bytes away. No error counts as a failure any more.
    Discard { until: Instant },
    /// Nothing.
    Stop,
}

/// The present operation of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// In a read.
    Reading,
    /// In a write. It may have accepted a part without having reported it.
    Writing,
    /// In `finish_write`. It may have written bytes without having reported them.
    Finishing,
    /// The direction has ended.
    Over,
}

/// One direction of a copy.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) mode: Mode,
    pub(super) phase: Phase,
    /// The time at which a byte moved last.
    pub(super) moved: Instant,
    /// The time up to which it is known that no byte has moved since `moved`. While the direction
    /// reads, that is always now.
    pub(super) known: Instant,
}

impl Way {
    /// Ends the direction. If it failed, the failure is noted under the same lock. So an end that
    /// the other direction reads is the peer's only if this direction ended without a failure.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Over;
        self.moved = Instant::now();
    }
}

/// The state that both directions share.
#[derive(Debug)]
pub(super) struct State {
    /// The first failure.
    pub(super) first: Option<(Fault, io::Error)>,
    /// The error that each connection reported when it was checked at the start. The connection
    /// won't report it again.
    pub(super) at_start: [Option<io::Error>; 2],
    pub(super) ways: [Way; 2],
}

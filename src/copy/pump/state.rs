//! The state of the two directions of a copy.
//!
//! Invariant: the state is read and changed only under the lock of `Pumps`.

use std::io;
use std::time::Instant;

use crate::copy::Fault;

/// The operations that a direction may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// All operations.
    Run,
    /// Copy the received bytes, as long as bytes move within the time limit.
    Drain {
        /// Bytes that may still be copied.
        left: u64,
        /// The time at which a byte moved last.
        moved: Instant,
    },
    /// Read until this time, and throw the bytes away. Errors don't count as failures any more.
    Discard { until: Instant },
    /// No operation.
    Stop,
}

/// The present operation of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// In a read.
    Reading,
    /// In a write. The write may already have accepted a part of its bytes.
    Writing,
    /// In `finish_write`. That call may have sent bytes that it hasn't reported.
    Finishing,
    /// The direction is over.
    Over,
}

/// One direction of a copy.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) mode: Mode,
    pub(super) phase: Phase,
    /// The time at which a byte moved last.
    pub(super) moved: Instant,
    /// The last time at which the thread knew that no byte had moved since `moved`. While the
    /// direction is in a read, the present time is used instead.
    pub(super) known: Instant,
}

impl Way {
    /// Ends the direction. If the direction has failed, the failure is noted while the lock is
    /// still held. So when the other direction reads an end of file, it sees the failure. Then it
    /// doesn't assume that the end of file came from the peer.
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

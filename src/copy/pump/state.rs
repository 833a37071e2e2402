//! Where the two directions of a copy are, and what each may do.
//!
//! Invariant: read and changed under the lock of `Pumps` alone.

use std::io;
use std::time::Instant;

use crate::copy::Fault;

/// What a direction may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Run,
    /// Copy what has come, as long as something moves.
    Drain {
        left: u64,
        moved: Instant,
    },
    /// Read, and throw away. Whatever happens is no failure any more.
    Discard {
        until: Instant,
    },
    Stop,
}

/// Where a direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Reading,
    /// In a write, which may have taken a part without having said so.
    Writing,
    /// In `finish_write`, likewise.
    Finishing,
    Over,
}

#[derive(Debug)]
pub(super) struct Way {
    pub(super) mode: Mode,
    pub(super) phase: Phase,
    /// When a byte moved last.
    pub(super) moved: Instant,
    /// Until when it is known that none has moved since. Where it reads, that is always now.
    pub(super) known: Instant,
}

impl Way {
    /// Under the lock that tells of the failure, too, if there is one: an end that the other
    /// direction reads is the peer's only if this one is over without.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Over;
        self.moved = Instant::now();
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) first: Option<(Fault, io::Error)>,
    /// What each connection said when it was asked at the start, and won't say again.
    pub(super) at_start: [Option<io::Error>; 2],
    pub(super) ways: [Way; 2],
}

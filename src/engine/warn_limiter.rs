//! Limits the rate of warnings that a peer can provoke, so that a flood can't fill the disk with
//! log lines.
//!
//! Invariants:
//! - A session logs at most [`WarnLimiter::RATE`] such warnings a second.
//! - Suppressed warnings are counted, and the count is logged.
//! - A line shows at most [`NAME_SHOWN`] bytes of a name that a peer chose.

use std::time::{Duration, Instant};

use super::logging::warn;

/// Number of bytes of a stream's name that are logged. 100 bytes suffice to recognise a name. Ten
/// lines a second with names of 65,535 bytes, each escaped to five characters, would be 3 MB/s.
const NAME_SHOWN: usize = 100;

/// Returns a name for the log: quoted and escaped, and cut if it is long.
pub(super) fn shown(name: &[u8]) -> String {
    match name.get(..NAME_SHOWN) {
        Some(start) if name.len() > NAME_SHOWN => {
            format!("{:?}... ({} bytes)", String::from_utf8_lossy(start), name.len())
        }
        _ => format!("{:?}", String::from_utf8_lossy(name)),
    }
}

/// A session's limiter. It is part of the reader's state.
#[derive(Default)]
pub(super) struct WarnLimiter {
    /// Begin of the current second.
    second: Option<Instant>,
    /// Warnings logged in the current second.
    logged: u32,
    /// Warnings suppressed since the last report.
    suppressed: u64,
}

impl WarnLimiter {
    /// Largest number of warnings a second. Ten show the kind of problem, and are too few to fill a
    /// disk.
    const RATE: u32 = 10;

    /// Logs a warning, or counts it as suppressed.
    pub(super) fn warn(&mut self, now: Instant, session: u64, text: impl FnOnce() -> String) {
        if self
            .second
            .is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1))
        {
            self.report_suppressed(session);
            *self = Self { second: Some(now), ..Self::default() };
        }
        if self.logged < Self::RATE {
            self.logged += 1;
            warn!(target: "gmux::reader", "session {session}: {}", text());
        } else {
            self.suppressed += 1;
        }
    }

    /// Logs the number of warnings that were suppressed since the last report, if there are any.
    /// Called before the first warning of a new second, and at the end of the session's input.
    pub(super) fn report_suppressed(&mut self, session: u64) {
        let suppressed = std::mem::take(&mut self.suppressed);
        if suppressed > 0 {
            warn!(target: "gmux::reader", "session {session}: {suppressed} more such warnings were \
                                           left out");
        }
    }
}

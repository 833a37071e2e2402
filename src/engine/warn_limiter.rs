//! Warnings that a peer can provoke, at a bounded rate: a flood must not fill the disk with its own
//! log.
//!
//! Invariants: at most [`WarnLimiter::RATE`] of them a second and session; what is left out is
//! counted, and the count is said; of a name that a peer chose, a line has at most [`NAME_SHOWN`]
//! bytes.

use std::time::{Duration, Instant};

use super::logging::warn;

/// So many bytes of a stream's name are shown: enough to know it by. Ten lines a second with names
/// of 65,535 bytes, each escaped to five, would be 3 MB/s.
const NAME_SHOWN: usize = 100;

/// A name, for the log: quoted and escaped, and cut if it is long.
pub(super) fn shown(name: &[u8]) -> String {
    match name.get(..NAME_SHOWN) {
        Some(start) if name.len() > NAME_SHOWN => {
            format!("{:?}... ({} bytes)", String::from_utf8_lossy(start), name.len())
        }
        _ => format!("{:?}", String::from_utf8_lossy(name)),
    }
}

/// Owned by a session's reader thread.
#[derive(Default)]
pub(super) struct WarnLimiter {
    second: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

impl WarnLimiter {
    /// Warnings a second: enough to see what goes on, too few to fill a disk.
    const RATE: u32 = 10;

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

    /// Says how many were left out since that was said last: before the next one, and at the end of
    /// the session's input.
    pub(super) fn report_suppressed(&mut self, session: u64) {
        let suppressed = std::mem::take(&mut self.suppressed);
        if suppressed > 0 {
            warn!(target: "gmux::reader", "session {session}: {suppressed} more such warnings were \
                                           left out");
        }
    }
}

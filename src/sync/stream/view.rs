//! Views of a stream, for statistics and for `Debug`.
//!
//! Invariant: nothing here changes anything, and nothing here waits, except for the stream's own
//! lock, which is held for moments only. `Debug` doesn't wait for this lock either.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::{SharedStream, State};
use crate::error::Error;
use crate::stats::StreamStats;

/// Zero of the clock for streams' creation times.
static ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The creation time of a stream, in units of 10 ms after [`ZERO`], modulo 2³². An `Instant` would
/// take 16 bytes in each stream, and there may be a hundred thousand idle streams. This value takes
/// no space, because four bytes next to the id were unused. The age is right to 10 ms, for 497
/// days.
#[derive(Debug, Clone, Copy)]
pub(super) struct Born(u32);

impl Born {
    const UNIT: Duration = Duration::from_millis(10);

    pub(super) fn at(now: Instant) -> Self {
        // The cast wraps.
        Self((now.saturating_duration_since(*ZERO).as_millis() / Self::UNIT.as_millis()) as u32)
    }

    fn age(self, now: Instant) -> Duration {
        Self::UNIT * Self::at(now).0.wrapping_sub(self.0)
    }
}

impl SharedStream {
    pub(crate) fn stats(&self, now: Instant) -> StreamStats {
        self.stats_of(&self.state.lock(), now)
    }

    fn stats_of(&self, state: &State, now: Instant) -> StreamStats {
        let core = &state.core;
        StreamStats {
            id: self.id,
            name: self.name.text().to_owned(),
            age: self.born.age(now),
            bytes_received: core.received(),
            bytes_sent: core.written(),
            unread: core.unread() as u64,
            unsent: core.unsent(),
            // A write may wait for allowance though the window has room.
            credit: core.credit().map(|credit| if state.queued { 0 } else { credit }),
            readers_waiting: state.read_waiters,
            writers_waiting: state.write_waiters,
            flushes_waiting: state.flush_waiters,
            peer_finished: core.peer_fin_received(),
        }
    }

    /// Returns the statistics for `Debug`, and the cause if the stream has ended. Returns `None`
    /// while the stream is locked.
    pub(crate) fn glance(&self, now: Instant) -> Option<(StreamStats, Option<Error>)> {
        let state = self.state.try_lock()?;
        Some((self.stats_of(&state, now), state.core.cause()))
    }

    /// Runs `look` while the stream is locked.
    #[cfg(test)]
    pub(crate) fn while_locked(&self, look: impl FnOnce()) {
        let state = self.state.lock();
        look();
        drop(state);
    }

    /// Returns the number of accepted bytes that haven't been handed over. Returns `None` while the
    /// stream is locked.
    pub(crate) fn try_unsent(&self) -> Option<u64> {
        Some(self.state.try_lock()?.core.unsent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_right_to_10_ms_also_when_the_count_wraps() {
        let start = *ZERO;
        let day = Duration::from_secs(86_400);
        for (born, age) in [(0, 0), (0, 5), (400, 90), (496, 4), (1000, 496)] {
            let born = start + day * born;
            let age = day * age;
            assert_eq!(Born::at(born).age(born + age), age);
        }
        assert_eq!(
            Born::at(start).age(start + Duration::from_millis(1999)),
            Duration::from_millis(1990)
        );
    }
}

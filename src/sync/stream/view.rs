//! What a stream shows of itself: for statistics, and for `Debug`.
//!
//! Invariant: nothing here changes anything, or waits for more than the stream's own lock, which is
//! held for moments; `Debug` doesn't wait even for that.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::{SharedStream, State};
use crate::error::Error;
use crate::stats::StreamStats;

/// Point zero of streams' births.
static ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When a stream was made: so many times 10 ms after [`ZERO`], modulo 2³². An `Instant` would take
/// 16 bytes in each of what may be a hundred thousand idle streams; this takes none, for there were
/// four free beside the id. The age is right to 10 ms, for 497 days.
#[derive(Debug, Clone, Copy)]
pub(super) struct Born(u32);

impl Born {
    const UNIT: Duration = Duration::from_millis(10);

    pub(super) fn at(now: Instant) -> Self {
        // it wraps
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
            // A write may wait for what the session lets go unsolicited, though the window has
            // room.
            credit: core.credit().map(|credit| if state.queued { 0 } else { credit }),
            readers_waiting: state.read_waiters,
            writers_waiting: state.write_waiters,
            flushes_waiting: state.flush_waiters,
            peer_finished: core.peer_fin_received(),
        }
    }

    /// The same for `Debug`, and why the stream is over, if it is; `None` while somebody has it
    /// locked.
    pub(crate) fn glance(&self, now: Instant) -> Option<(StreamStats, Option<Error>)> {
        let state = self.state.try_lock()?;
        Some((self.stats_of(&state, now), state.core.cause()))
    }

    /// Runs `look` while somebody has the stream locked.
    #[cfg(test)]
    pub(crate) fn while_locked(&self, look: impl FnOnce()) {
        let state = self.state.lock();
        look();
        drop(state);
    }

    /// How many accepted bytes the transport hasn't taken yet; `None` while somebody has the stream
    /// locked.
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

//! How much of its data a stream may send before it is another's turn.
//!
//! Large turns are cheap: frames of one stream that arrive together wake its reader once. (With
//! turns of one frame, sixteen streams made twice as many system calls for wake-ups, and were a
//! tenth slower.) Beside few streams on a fast link they cost nobody anything, since a batch is
//! written whole. But 64 streams on a link of a gigabit a second would each move every 67 ms. So
//! turns become smaller where a round takes long.
//!
//! Invariants: pure, the clock is an argument; an allowance is never nothing.

use std::time::{Duration, Instant};

use crate::wire::writer::BATCH_BYTES;

/// The largest turn, in bytes: half a batch.
const LARGEST: usize = BATCH_BYTES / 2;

/// How long a round of all streams ought to take at most, and how long the rate is measured.
const ROUND: Duration = Duration::from_millis(10);

/// However many streams there are, a turn may take such a part of [`ROUND`]: 100 µs, beside which
/// waking a reader is little.
const TURNS_IN_ROUND: usize = 100;

/// How fast the transport takes data, as last seen.
pub(super) struct Quantum {
    since: Instant,
    taken: usize,
    /// Bytes in the time that a round may take.
    per_round: usize,
}

impl Quantum {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, taken: 0, per_round: usize::MAX }
    }

    /// The transport has taken so many bytes more.
    pub(super) fn record(&mut self, bytes: usize, now: Instant) {
        self.taken += bytes;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= ROUND {
            let per_round = self.taken as f64 * (ROUND.as_secs_f64() / elapsed.as_secs_f64());
            *self = Self { since: now, taken: 0, per_round: per_round as usize };
        }
    }

    /// What each of `streams` may send in its turn, in bytes. Any more than nothing is worth a
    /// frame.
    pub(super) fn bytes(&self, streams: usize) -> usize {
        (self.per_round / streams.clamp(1, TURNS_IN_ROUND)).clamp(1, LARGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The quantum at which `rate` bytes a second were taken, 256 KiB at a time.
    fn at(rate: usize) -> Quantum {
        let mut now = Instant::now();
        let mut quantum = Quantum::new(now);
        let batch = Duration::from_secs_f64(BATCH_BYTES as f64 / rate as f64);
        for _ in 0..=(2 * ROUND.as_nanos() / batch.as_nanos()) {
            now += batch;
            quantum.record(BATCH_BYTES, now);
        }
        quantum
    }

    #[test]
    fn turns_are_large_until_the_rate_is_known_and_on_fast_links() {
        assert_eq!(Quantum::new(Instant::now()).bytes(1000), LARGEST);
        assert_eq!(at(2_000_000_000).bytes(16), LARGEST);
        assert_eq!(at(2_000_000_000).bytes(10_000), LARGEST);
    }

    #[test]
    fn a_round_takes_ten_milliseconds_where_a_frame_each_allows_it() {
        let quantum = at(125_000_000);
        assert_eq!(quantum.bytes(1), LARGEST);
        for streams in [16, 50, 64] {
            let round = quantum.bytes(streams) * streams;
            assert!((1_100_000..=1_250_000).contains(&round), "{streams}: {round}");
        }
    }

    #[test]
    fn a_turn_lasts_a_hundred_microseconds_however_many_streams_there_are() {
        assert_eq!(at(1_000_000_000).bytes(10_000), at(1_000_000_000).bytes(100));
        assert!((90_000..=100_000).contains(&at(1_000_000_000).bytes(10_000)));
    }

    #[test]
    fn after_a_pause_a_turn_is_one_frame_until_the_rate_is_known_again() {
        let now = Instant::now();
        let mut quantum = Quantum::new(now);
        quantum.record(0, now + Duration::from_secs(60));
        assert_eq!(quantum.bytes(1), 1);
        quantum.record(10 * LARGEST, now + Duration::from_secs(60) + ROUND);
        assert_eq!(quantum.bytes(10), LARGEST);
    }
}

//! The quantum: the number of bytes that a stream may send before the next stream's turn, in
//! round-robin order.
//!
//! A large quantum saves system calls, since frames of one stream that arrive together wake the
//! stream's blocked read only once. (With a quantum of one frame, sixteen streams made twice as
//! many system calls for wake-ups, and were 10 % slower.) With few streams on a fast link, a large
//! quantum delays no stream, since one transport call writes the whole batch. But 64 streams on a
//! link of 1 Gbit/s would each send only every 67 ms. So the quantum shrinks when a round of all
//! streams would take longer than [`ROUND`].
//!
//! Invariants:
//! - Nothing here reads the clock. The time is an argument.
//! - The quantum is at least one byte.

use std::time::{Duration, Instant};

use crate::wire::writer::BATCH_BYTES;

/// Largest quantum, in bytes: half a batch. The express streams take about the other half at most,
/// so one quantum fits beside them.
const LARGEST: usize = BATCH_BYTES / 2;

/// Duration that a round of all streams should not exceed. It is also the time over which the rate
/// is measured. 10 ms add little to the round trip of a long link.
const ROUND: Duration = Duration::from_millis(10);

/// Largest number of streams that share a round. With more streams the quantum doesn't shrink
/// further. Sending one quantum then takes 10 ms / 100 = 100 µs. Waking a blocked read takes much
/// less.
const MAX_STREAMS_IN_ROUND: usize = 100;

/// The rate at which the transport takes data, as last measured.
pub(super) struct Quantum {
    /// Begin of the current measurement.
    since: Instant,
    /// Bytes that the transport has taken since then.
    taken: usize,
    /// Bytes that the transport takes in [`ROUND`]. Unlimited until the first measurement.
    per_round: usize,
}

impl Quantum {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, taken: 0, per_round: usize::MAX }
    }

    /// Records that the transport has taken `bytes` more.
    pub(super) fn record(&mut self, bytes: usize, now: Instant) {
        self.taken += bytes;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= ROUND {
            let per_round = self.taken as f64 * (ROUND.as_secs_f64() / elapsed.as_secs_f64());
            *self = Self { since: now, taken: 0, per_round: per_round as usize };
        }
    }

    /// Returns the quantum of each of `streams` streams, in bytes. Even the smallest quantum lets a
    /// stream send one frame.
    pub(super) fn bytes(&self, streams: usize) -> usize {
        (self.per_round / streams.clamp(1, MAX_STREAMS_IN_ROUND)).clamp(1, LARGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the quantum after a transport has taken `rate` bytes a second, 256 KiB at a time.
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

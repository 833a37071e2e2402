//! The round-trip time, and the time to wait for an ack. It is RFC 6298 with KCP's changes.
//!
//! Invariants:
//! - A wait is between the mode's least wait and [`MOST`].
//! - A measured time over [`MOST`] is ignored, because only a peer that lies can cause it.

/// The least wait in milliseconds, without and with `nodelay`. The numbers are KCP's.
const LEAST: u32 = 100;
const LEAST_NODELAY: u32 = 30;

/// The longest wait that a measured time leads to, in milliseconds. The number is KCP's.
const MOST: u32 = 60_000;

/// The longest wait after repeats without an ack, in milliseconds. So a link that works again is
/// noticed within this time. KCP has no such limit.
const MOST_IN_VAIN: u32 = 5000;

/// The wait before the first measured time, in milliseconds. The number is KCP's.
const FIRST: u32 = 200;

#[derive(Debug)]
pub struct RoundTrip {
    smoothed: u32,
    deviation: u32,
    wait: u32,
    least: u32,
    /// Time that the mode gives a peer to answer, in milliseconds.
    interval: u32,
}

impl RoundTrip {
    pub fn new(nodelay: bool, interval: u32) -> Self {
        let least = if nodelay { LEAST_NODELAY } else { LEAST };
        Self { smoothed: 0, deviation: 0, wait: FIRST, least, interval }
    }

    /// The time to wait for an ack before a segment is sent again, in milliseconds.
    pub fn wait(&self) -> u32 {
        self.wait
    }

    /// The next wait after a wait of `wait` milliseconds has passed without an ack.
    pub fn next_wait(&self, wait: u32, nodelay: bool) -> u32 {
        let more = if nodelay { self.wait / 2 } else { self.wait };
        wait.saturating_add(more).min(self.wait.max(MOST_IN_VAIN))
    }

    /// Takes a measure from an ack. The acked segment was sent at `ts`. `now` is the low half of
    /// the same clock.
    pub fn measure(&mut self, now: u32, ts: u32) {
        let taken = now.wrapping_sub(ts);
        if taken > MOST {
            return;
        }
        if self.smoothed == 0 {
            self.smoothed = taken;
            self.deviation = taken / 2;
        } else {
            let off = taken.abs_diff(self.smoothed);
            // A time shorter than usual is no reason to wait longer. So it has an eighth of the
            // weight.
            let early = taken.saturating_add(self.deviation) < self.smoothed;
            let weight = if early { 32 } else { 4 };
            self.smoothed = toward(self.smoothed, taken, 8);
            self.deviation = toward(self.deviation, off, weight);
        }
        let wait = self.smoothed + self.interval.max(4 * self.deviation);
        self.wait = wait.clamp(self.least, MOST);
    }
}

/// Returns `from`, moved towards `to` by the distance divided by `part`.
fn toward(from: u32, to: u32, part: u32) -> u32 {
    if to >= from { from + (to - from) / part } else { from - (from - to) / part }
}

//! The round-trip time, and the time to wait for an ack. They are computed by RFC 6298 with KCP's
//! changes.
//!
//! Invariants:
//! - A wait is between the mode's least wait and [`MAX_WAIT`].
//! - A measured time over [`MAX_WAIT`] is ignored, because only a peer that lies can cause it.

/// The least wait in milliseconds, without and with `nodelay`. The numbers are KCP's.
const MIN_WAIT: u32 = 100;
const MIN_WAIT_NODELAY: u32 = 30;

/// The longest wait that a measured time leads to, in milliseconds. The number is KCP's.
const MAX_WAIT: u32 = 60_000;

/// The longest wait after repeats without an ack, in milliseconds. When the link works again, the
/// next repeat comes within this time. KCP has no such limit.
const MAX_WAIT_WITHOUT_ACK: u32 = 5000;

/// The wait before the first measured time, in milliseconds. The number is KCP's.
const INITIAL_WAIT: u32 = 200;

#[derive(Debug)]
pub struct RoundTrip {
    smoothed: u32,
    deviation: u32,
    wait: u32,
    least: u32,
    /// Time that a peer may take to answer, in milliseconds. The mode sets it.
    interval: u32,
}

impl RoundTrip {
    pub fn new(nodelay: bool, interval: u32) -> Self {
        let least = if nodelay { MIN_WAIT_NODELAY } else { MIN_WAIT };
        Self { smoothed: 0, deviation: 0, wait: INITIAL_WAIT, least, interval }
    }

    /// Returns the time to wait for an ack before a segment is sent again, in milliseconds.
    pub fn wait(&self) -> u32 {
        self.wait
    }

    /// Returns the next wait after a wait of `wait` milliseconds has passed without an ack.
    pub fn next_wait(&self, wait: u32, nodelay: bool) -> u32 {
        let more = if nodelay { self.wait / 2 } else { self.wait };
        wait.saturating_add(more).min(self.wait.max(MAX_WAIT_WITHOUT_ACK))
    }

    /// Takes a measure from an ack. The acked segment was sent at `ts`. `now` is the low half of
    /// the same clock.
    pub fn measure(&mut self, now: u32, ts: u32) {
        let taken = now.wrapping_sub(ts);
        if taken > MAX_WAIT {
            return;
        }
        if self.smoothed == 0 {
            self.smoothed = taken;
            self.deviation = taken / 2;
        } else {
            let off = taken.abs_diff(self.smoothed);
            // A shorter round trip than usual raises the deviation, too. But it is no reason to
            // wait longer. So it has an eighth of the usual weight.
            let early = taken.saturating_add(self.deviation) < self.smoothed;
            let weight = if early { 32 } else { 4 };
            self.smoothed = toward(self.smoothed, taken, 8);
            self.deviation = toward(self.deviation, off, weight);
        }
        let wait = self.smoothed + self.interval.max(4 * self.deviation);
        self.wait = wait.clamp(self.least, MAX_WAIT);
    }
}

/// Returns `from`, moved towards `to` by the distance divided by `part`.
fn toward(from: u32, to: u32, part: u32) -> u32 {
    if to >= from { from + (to - from) / part } else { from - (from - to) / part }
}

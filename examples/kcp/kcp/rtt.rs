//! Round-trip time, and how long to wait for an ack: RFC 6298 as KCP has it.
//!
//! Invariants: a wait is between the mode's least and [`MOST`]; a measure past [`MOST`] is the
//! peer's invention, and is left out.

/// The least wait in milliseconds, without and with `nodelay`: KCP's.
const LEAST: u32 = 100;
const LEAST_NODELAY: u32 = 30;

/// The longest wait that a measure makes, in milliseconds: KCP's.
const MOST: u32 = 60_000;

/// The longest wait that repeating in vain makes, in milliseconds: a link that comes back is found
/// so soon. KCP knows no end there.
const MOST_IN_VAIN: u32 = 5000;

/// The wait before anything was measured, in milliseconds: KCP's.
const FIRST: u32 = 200;

#[derive(Debug)]
pub struct RoundTrip {
    smoothed: u32,
    deviation: u32,
    wait: u32,
    least: u32,
    /// What a peer may take to answer, by the mode.
    interval: u32,
}

impl RoundTrip {
    pub fn new(nodelay: bool, interval: u32) -> Self {
        let least = if nodelay { LEAST_NODELAY } else { LEAST };
        Self { smoothed: 0, deviation: 0, wait: FIRST, least, interval }
    }

    /// How long to wait for an ack before a segment is sent again, in milliseconds.
    pub fn wait(&self) -> u32 {
        self.wait
    }

    /// How long after a wait of so long, which was too short.
    pub fn next_wait(&self, wait: u32, nodelay: bool) -> u32 {
        let more = if nodelay { self.wait / 2 } else { self.wait };
        wait.saturating_add(more).min(self.wait.max(MOST_IN_VAIN))
    }

    /// An ack came for what was sent at `ts`, by the clock whose low half is `now`.
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
            // Shorter than what is usual isn't a reason to wait longer: an eighth of the weight.
            let early = taken.saturating_add(self.deviation) < self.smoothed;
            let weight = if early { 32 } else { 4 };
            self.smoothed = toward(self.smoothed, taken, 8);
            self.deviation = toward(self.deviation, off, weight);
        }
        let wait = self.smoothed + self.interval.max(4 * self.deviation);
        self.wait = wait.clamp(self.least, MOST);
    }
}

/// `from`, moved by one `part` of the way to `to`.
fn toward(from: u32, to: u32, part: u32) -> u32 {
    if to >= from { from + (to - from) / part } else { from - (from - to) / part }
}

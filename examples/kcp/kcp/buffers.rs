//! Buffers of segments, used again instead of allocated for each.
//!
//! Invariant: at most [`KEPT`] are kept, and none that is larger than a datagram.

/// How many unused buffers a conversation keeps: a burst's worth, 350 KiB.
const KEPT: usize = 256;

#[derive(Debug, Default)]
pub struct Buffers(Vec<Vec<u8>>);

impl Buffers {
    /// An empty buffer for so many bytes.
    pub fn take(&mut self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.0.pop().unwrap_or_default();
        buffer.reserve(capacity);
        buffer
    }

    /// Gives one back.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        if self.0.len() < KEPT && buffer.capacity() > 0 {
            buffer.clear();
            self.0.push(buffer);
        }
    }

    /// Whether they aren't worth giving back.
    pub fn is_small(&self) -> bool {
        self.0.len() <= KEPT / 16
    }

    /// Nothing is on the way: gives the memory back.
    pub fn rest(&mut self) {
        self.0 = Vec::new();
    }
}

//! Buffers of segments. They are used again, so most segments need no allocation.
//!
//! Invariant: at most [`MAX_UNUSED`] unused buffers are kept, and none is larger than a datagram.

/// Limit of the unused buffers that a conversation keeps. It is enough for a burst of 350 KiB.
const MAX_UNUSED: usize = 256;

#[derive(Debug, Default)]
pub struct Buffers(Vec<Vec<u8>>);

impl Buffers {
    /// Returns an empty buffer with room for `capacity` bytes.
    pub fn take(&mut self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.0.pop().unwrap_or_default();
        buffer.reserve(capacity);
        buffer
    }

    /// Takes back a buffer that is no longer used.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        if self.0.len() < MAX_UNUSED && buffer.capacity() > 0 {
            buffer.clear();
            self.0.push(buffer);
        }
    }

    /// Returns whether the unused buffers are too few to be worth freeing.
    pub fn is_small(&self) -> bool {
        self.0.len() <= MAX_UNUSED / 16
    }

    /// Frees the unused buffers. Called when no segment is in flight.
    pub fn rest(&mut self) {
        self.0 = Vec::new();
    }
}

//! Datagrams that wait to be sent. They lie one behind the other in one buffer.
//!
//! So the socket can take many of them in one call, and no datagram needs an allocation. Each
//! datagram begins with [`HEAD`] bytes for the nonce and the checksum. `datagram.rs` fills them in.
//!
//! Invariant: a datagram is at most `mtu` bytes long, its head included.

use super::datagram::HEAD;
use super::segment::Segment;

/// Memory that an idle outbox keeps, in bytes. It is enough for a small burst.
const IDLE_CAPACITY: usize = 16 * 1024;

#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// The offset at which each finished datagram ends. The datagram at the end of `bytes` is open
    /// until [`seal`](Self::seal).
    ends: Vec<usize>,
    /// The offset at which the open datagram begins.
    start: usize,
}

impl Outbox {
    /// Adds a segment to the open datagram, or to a new one if it doesn't fit.
    pub fn push(&mut self, segment: &Segment<'_>, mtu: usize) {
        if self.bytes.len() - self.start + segment.size() > mtu {
            self.seal();
        }
        if self.bytes.len() == self.start {
            self.bytes.extend_from_slice(&[0; HEAD]);
        }
        segment.write(&mut self.bytes);
    }

    /// Ends the open datagram, if there is one.
    pub fn seal(&mut self) {
        if self.bytes.len() > self.start {
            self.start = self.bytes.len();
            self.ends.push(self.start);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the bytes of all datagrams, and the offset at which each datagram ends.
    pub fn parts(&mut self) -> (&mut [u8], &[usize]) {
        (&mut self.bytes, &self.ends)
    }

    /// Removes all datagrams. The memory that a burst has needed is freed.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.bytes.shrink_to(IDLE_CAPACITY.max(self.start / 2));
        self.start = 0;
    }
}

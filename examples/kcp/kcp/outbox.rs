//! Datagrams that wait to be sent, one behind the other in one buffer.
//!
//! They lie so that the socket can take many in one call, and so that nothing is allocated for
//! each. Each begins with [`HEAD`] bytes for the nonce and the checksum, which the datagram layer
//! fills in.
//!
//! Invariant: a datagram is at most `mtu` bytes long, its head included.

use super::datagram::HEAD;
use super::segment::Segment;

/// What an idle outbox keeps, in bytes: a small burst.
const KEPT: usize = 16 * 1024;

#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Where each datagram ends; the last one is open until [`seal`](Self::seal).
    ends: Vec<usize>,
    /// Where the open datagram begins.
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

    /// All of them, and where each ends.
    pub fn parts(&mut self) -> (&mut [u8], &[usize]) {
        (&mut self.bytes, &self.ends)
    }

    /// Takes them out. What a burst needed is given back.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.bytes.shrink_to(KEPT.max(self.start / 2));
        self.start = 0;
    }
}

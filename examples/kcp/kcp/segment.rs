//! Segments, the parts of a KCP datagram, as bytes and as values.
//!
//! ```text
//! conv u32 | cmd u8 | frg u8 | wnd u16 | ts u32 | sn u32 | una u32 | len u32 | len bytes
//! ```
//! All numbers are little endian. A datagram holds one or more segments, all with the same `conv`.
//!
//! Invariants:
//! - Parsing never panics and never allocates, whatever the bytes are.
//! - A [`Seq`] is compared only by distance. So no code here depends on the point where the numbers
//!   wrap.

/// The length of a segment without its data, in bytes.
pub const HEADER: usize = 24;

/// The number of a segment. It wraps after 2^32 segments, which are 5.6 TB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seq(pub u32);

impl Seq {
    /// Returns the distance from `other` to this number. It is negative if this number comes before
    /// `other`.
    pub fn since(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// Returns the index of this number in a queue that begins with `first`, or `None` if this
    /// number comes before `first`.
    pub fn index_from(self, first: Self) -> Option<usize> {
        usize::try_from(self.since(first)).ok()
    }

    /// Returns the number that comes `n` places after this one.
    pub fn plus(self, n: usize) -> Self {
        Self(self.0.wrapping_add(n as u32))
    }
}

/// The purpose of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Data.
    Push = 81,
    /// Segment `sn`, which was sent at `ts`, has arrived.
    Ack = 82,
    /// Asks for the peer's window.
    Ask = 83,
    /// Tells the peer our window.
    Tell = 84,
}

impl Command {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            81 => Self::Push,
            82 => Self::Ack,
            83 => Self::Ask,
            84 => Self::Tell,
            _ => return None,
        })
    }
}

/// One segment. The field `frg` is left out. It numbers the parts of a message, and this is a byte
/// stream.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    pub conv: u32,
    pub command: Command,
    /// Number of further segments for which its sender has room.
    pub window: u16,
    /// The time at which it was sent, by its sender's clock, in milliseconds. An ack repeats the
    /// `ts` of the segment that it acks.
    pub ts: u32,
    pub sn: Seq,
    /// All segments before this number have arrived.
    pub una: Seq,
    pub data: &'a [u8],
}

/// The datagram doesn't consist of segments, or has a segment that its conversation can't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The segments of a datagram, from first to last. The iterator ends after the first malformed one.
#[derive(Debug, Clone)]
pub struct Segments<'a>(&'a [u8]);

/// Parses a datagram. The nonce and the checksum must have been removed before.
pub fn parse(datagram: &[u8]) -> Segments<'_> {
    Segments(datagram)
}

impl<'a> Iterator for Segments<'a> {
    type Item = Result<Segment<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let segment = take(&mut self.0);
        if segment.is_none() {
            self.0 = &[];
        }
        Some(segment.ok_or(Malformed))
    }
}

/// Removes one segment from the front.
fn take<'a>(bytes: &mut &'a [u8]) -> Option<Segment<'a>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let [c0, c1, c2, c3, cmd, _frg, w0, w1, rest_of_header @ ..] = *header;
    let [t0, t1, t2, t3, s0, s1, s2, s3, u0, u1, u2, u3, l0, l1, l2, l3] = rest_of_header;
    let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
    let (data, rest) = rest.split_at_checked(len)?;
    *bytes = rest;
    Some(Segment {
        conv: u32::from_le_bytes([c0, c1, c2, c3]),
        command: Command::from_byte(cmd)?,
        window: u16::from_le_bytes([w0, w1]),
        ts: u32::from_le_bytes([t0, t1, t2, t3]),
        sn: Seq(u32::from_le_bytes([s0, s1, s2, s3])),
        una: Seq(u32::from_le_bytes([u0, u1, u2, u3])),
        data,
    })
}

impl Segment<'_> {
    /// Returns its size in a datagram, in bytes.
    pub fn size(&self) -> usize {
        HEADER + self.data.len()
    }

    /// Appends this segment to a datagram.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.conv.to_le_bytes());
        out.extend_from_slice(&[self.command as u8, 0]);
        out.extend_from_slice(&self.window.to_le_bytes());
        out.extend_from_slice(&self.ts.to_le_bytes());
        out.extend_from_slice(&self.sn.0.to_le_bytes());
        out.extend_from_slice(&self.una.0.to_le_bytes());
        out.extend_from_slice(&(self.data.len() as u32).to_le_bytes());
        out.extend_from_slice(self.data);
    }
}

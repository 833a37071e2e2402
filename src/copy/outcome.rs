//! The outcome of a copy: the bytes that were copied, and the failure, if there was one.
//!
//! Invariant: only the first failure of a copy is kept.

use std::fmt;
use std::io;

/// The number of bytes that were copied in each direction. A byte counts when the receiving
/// connection has accepted it in a write. That doesn't mean that the peer's application has read
/// the byte. Only the application can confirm that it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Bytes that were read from `a` and written to `b`.
    pub a_to_b: u64,
    /// Bytes that were read from `b` and written to `a`.
    pub b_to_a: u64,
}

/// One of the two connections of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first argument of the copy.
    A,
    /// The second argument of the copy.
    B,
}

impl Side {
    /// Returns the side of `ends[end]`.
    pub(super) fn of(end: usize) -> Self {
        if end == 0 { Self::A } else { Self::B }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// The operation of a copy that failed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The copy didn't begin.
    Start,
    /// A read of this connection failed.
    Read(Side),
    /// Writing to this connection failed, or ending its writing failed.
    Write(Side),
    /// The idle timeout passed.
    Idle,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("it did not begin"),
            Self::Read(side) => write!(f, "reading {side} failed"),
            Self::Write(side) => write!(f, "writing to {side} failed"),
            Self::Idle => f.write_str("it was idle"),
        }
    }
}

/// The failure of a copy: the operation that failed first, its error, and the number of bytes that
/// were copied before and after the failure.
///
/// After the first failure the copy aborts connections. The errors that these aborts cause are
/// never reported.
#[derive(Debug, thiserror::Error)]
#[error(
    "copy: {fault} after {} bytes from a to b and {} from b to a: {source}",
    .copied.a_to_b,
    .copied.b_to_a
)]
#[non_exhaustive]
pub struct CopyError {
    /// The operation that failed.
    pub fault: Fault,
    /// The bytes that were copied.
    pub copied: Copied,
    /// The error of that operation. If it came from a stream, `Error::from` turns it into an
    /// [`Error`](crate::Error).
    pub source: io::Error,
}

impl CopyError {
    /// Returns the kind of the source.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Returns an error of the source's kind, with the `CopyError` inside.
impl From<CopyError> for io::Error {
    fn from(error: CopyError) -> Self {
        Self::new(error.kind(), error)
    }
}

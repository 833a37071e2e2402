//! Counts of a stream, for statistics and `Debug`.
//!
//! Invariant: nothing here changes the stream.

use super::StreamCore;
use crate::error::Error;

impl<C> StreamCore<C> {
    /// Returns the bytes received since the stream began. A large frame counts as soon as its
    /// header has been read.
    pub(crate) fn received(&self) -> u64 {
        self.rx.received()
    }

    /// Returns the bytes written to the transport since the stream began.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Returns the received bytes that the application hasn't read.
    pub(crate) fn unread(&self) -> usize {
        self.inbox.len()
    }

    /// Returns the number of bytes that may still be accepted within the peer's window. `None` on
    /// version 1, which has no windows.
    pub(crate) fn credit(&self) -> Option<u64> {
        self.tx.limited_credit().map(|credit| credit as u64)
    }

    /// Returns the error that ended the stream for its application, if it has ended.
    pub(crate) fn cause(&self) -> Option<Error> {
        if self.closed {
            return Some(Error::Closed);
        }
        self.failure.as_ref().or(self.ending.as_ref()).map(|error| Error::clone(error))
    }
}

//! What a stream's counts say, for those who only look.
//!
//! Invariant: nothing here changes anything.

use super::StreamCore;
use crate::error::Error;

impl<C> StreamCore<C> {
    /// Bytes received since the stream began: a large frame counts when its header has come.
    pub(crate) fn received(&self) -> u64 {
        self.rx.received()
    }

    /// Bytes handed to the transport since the stream began.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that wait for the application.
    pub(crate) fn unread(&self) -> usize {
        self.inbox.len()
    }

    /// Bytes that the peer's window still lets be accepted; `None` on version 1, which has none.
    pub(crate) fn credit(&self) -> Option<u64> {
        self.tx.limited_credit().map(|credit| credit as u64)
    }

    /// Why the stream is over for its application, if it is.
    pub(crate) fn cause(&self) -> Option<Error> {
        if self.closed {
            return Some(Error::Closed);
        }
        self.failure.as_ref().or(self.ending.as_ref()).map(|error| Error::clone(error))
    }
}

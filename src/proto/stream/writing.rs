//! The application's writes on a stream: how many bytes are accepted, when a blocked write is worth
//! waking, and whether accepted bytes were written to the transport.
//!
//! The queue of a stream holds its accepted bytes until the writer takes them. In this file `max`
//! is the limit of the queue, in bytes (`max_send_buffer`). `least` is the number of bytes that a
//! write has to accept at once.
//!
//! Invariant: accepted bytes are within the peer's window and the queue's limit, and are charged to
//! both at once.

use super::{Sending, StreamCore, Writable};
use crate::error::Error;
use crate::pool::BufferPool;
use crate::proto::outbox::Payload;

/// Limit of writes that are accepted whole, in bytes. Several threads may write records or log
/// lines to one stream, and each record stays in one piece. The number is half of the smallest
/// window that this crate announces while many streams are open. Up to half of a window may be
/// consumed without an UPD, so only the other half is sure to become free.
const WHOLE: usize = 4096;

impl<C> StreamCore<C> {
    /// Returns the number of bytes that a write of `n` bytes has to accept at once: all `n` for a
    /// write of at most [`WHOLE`] bytes, and 1 for a larger write. The result is also 1 if the
    /// queue or the peer's window may never have room for the whole write.
    #[inline]
    pub(crate) fn least(&self, n: usize, max: usize) -> usize {
        if n <= WHOLE && max >= WHOLE && self.tx.window() / 2 >= WHOLE { n } else { 1 }
    }

    /// Returns the answer to a write that has to accept `least` bytes or more at once.
    #[inline]
    pub(crate) fn writable(&self, max: usize, least: usize) -> Writable {
        if self.closed {
            return Writable::Failed(Error::Closed);
        }
        if let Some(error) = self.broken() {
            return Writable::Failed(error);
        }
        if self.state.sending != Sending::Open {
            return Writable::Failed(Error::WriteShutdown);
        }
        match self.room(max) {
            room if room >= least => Writable::Room(room),
            _ => Writable::Full {
                starved: self.peer_fin_received() && self.lacks_credit(max, least),
            },
        }
    }

    #[inline]
    fn room(&self, max: usize) -> usize {
        self.tx.credit().min(max.saturating_sub(self.outbox.len()))
    }

    /// Returns whether a blocked write of `least` bytes is worth waking. This is so in two cases:
    ///
    /// - At least half of the queue is free, and both queue and window have room for `least` bytes.
    /// - The queue is empty, whatever its limit, and the window has room for `least` bytes.
    pub(crate) fn worth_waking(&self, max: usize, least: usize) -> bool {
        let queued = self.outbox.len();
        (queued <= max / 2 && self.may_have_room(max, least))
            || (queued == 0 && self.tx.reach() >= least)
    }

    /// Accepts small data. Copies it behind the queued data.
    #[inline]
    pub(crate) fn accept_small(&mut self, data: &[u8], max_frame: usize, pool: &BufferPool) {
        self.tx.accept(data.len());
        self.outbox.append(data, max_frame, pool);
    }

    /// Accepts a payload, which the caller has filled outside the stream's lock.
    pub(crate) fn accept(&mut self, payload: Payload) {
        self.tx.accept(payload.len());
        self.outbox.push(payload);
    }

    /// Returns the bytes accepted since the stream began.
    pub(crate) fn accepted(&self) -> u64 {
        self.tx.accepted()
    }

    /// Returns the number of accepted bytes that aren't known to be written to the transport. A
    /// failed stream counts as 0, because its calls have reported the failure.
    pub(crate) fn unsent(&self) -> u64 {
        if self.failure.is_some() { 0 } else { self.tx.accepted() - self.written }
    }

    /// Returns the accepted bytes that wait for the writer.
    pub(crate) fn queued(&self) -> u64 {
        self.outbox.len() as u64
    }

    /// Returns `Ok` if the first `target` accepted bytes were written to the transport. Returns the
    /// error if these bytes will never be written, and `None` if a flush has to wait.
    pub(crate) fn flushed(&self, target: u64) -> Option<Result<(), Error>> {
        if self.closed {
            return Some(Err(Error::Closed));
        }
        if self.written >= target {
            return Some(Ok(()));
        }
        self.broken().map(Err)
    }

    /// Returns the failure or the session's ending that keeps writes from going on, if there is
    /// one.
    fn broken(&self) -> Option<Error> {
        let error = self.failure.as_ref().or(self.ending.as_ref()).or(self.write_ending.as_ref());
        error.map(|error| Error::clone(error))
    }
}

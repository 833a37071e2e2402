//! What a stream accepts from its application: how much at once, when a writer that waits is worth
//! waking, and whether what was accepted is with the transport.
//!
//! Invariant: what is accepted is within the peer's window and the queue's limit, and charged to
//! both at once.

use super::{Sending, StreamCore, Writable};
use crate::error::Error;
use crate::pool::BufferPool;
use crate::proto::outbox::Payload;

/// A write of at most so many bytes is accepted whole: a record or a log line of several threads.
/// Windows that we announce are twice that, since a peer's first half may lie unread without an
/// UPD.
const WHOLE: usize = 4096;

impl<C> StreamCore<C> {
    /// The least that a write of `n` bytes begins with, with at most `max` bytes accepted and
    /// unsent: all of a few, if there is sure to be room for so many some time, and else one.
    #[inline]
    pub(crate) fn least(&self, n: usize, max: usize) -> usize {
        if n <= WHOLE && max >= WHOLE && self.tx.window() / 2 >= WHOLE { n } else { 1 }
    }

    /// What a write can do that takes `least` bytes or more, with at most `max` bytes accepted and
    /// unsent.
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

    /// Whether a writer that waits for `least` bytes is worth waking: the window has room, and half
    /// of the queue is free, or all of it (half of `max` is never reached behind a small window).
    pub(crate) fn worth_waking(&self, max: usize, least: usize) -> bool {
        let queued = self.outbox.len();
        (queued <= max / 2 && self.may_have_room(max, least))
            || (queued == 0 && self.tx.reach() >= least)
    }

    /// Accepts small data by copying it behind what waits.
    #[inline]
    pub(crate) fn accept_small(&mut self, data: &[u8], max_frame: usize, pool: &BufferPool) {
        self.tx.accept(data.len());
        self.outbox.append(data, max_frame, pool);
    }

    /// Accepts a payload.
    pub(crate) fn accept(&mut self, payload: Payload) {
        self.tx.accept(payload.len());
        self.outbox.push(payload);
    }

    /// How many bytes were accepted since the stream began.
    pub(crate) fn accepted(&self) -> u64 {
        self.tx.accepted()
    }

    /// How many accepted bytes the transport hasn't taken yet, as far as it has said so. What a
    /// failed stream threw away isn't counted: its own calls have said that.
    pub(crate) fn unsent(&self) -> u64 {
        if self.failure.is_some() { 0 } else { self.tx.accepted() - self.written }
    }

    /// How many accepted bytes wait for the writer.
    pub(crate) fn queued(&self) -> u64 {
        self.outbox.len() as u64
    }

    /// Whether the bytes accepted up to `target` were handed to the transport, or why they never
    /// will.
    pub(crate) fn flushed(&self, target: u64) -> Option<Result<(), Error>> {
        if self.closed {
            return Some(Err(Error::Closed));
        }
        if self.written >= target {
            return Some(Ok(()));
        }
        self.broken().map(Err)
    }

    /// Why nothing more can be written, if the fault isn't the application's.
    fn broken(&self) -> Option<Error> {
        let error = self.failure.as_ref().or(self.ending.as_ref()).or(self.write_ending.as_ref());
        error.map(|error| Error::clone(error))
    }
}

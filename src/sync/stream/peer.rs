//! What the reader thread does to a stream: delivers data, FIN and UPD. Nothing here waits.
//!
//! Wake-ups are gathered ([`Wakes`]) and sent when all that one transport read brought is
//! delivered: a thread that is woken for each frame costs more than the frame. They have to be sent
//! before the reader waits for anything, since the threads they wake may be those that refund the
//! budget.
//!
//! Invariant: a stream whose readers or writers have to be woken is in `Wakes` before its lock is
//! released.

use std::sync::Arc;
use std::time::Instant;

use super::{Charge, Env, SharedStream};
use crate::error::{Error, Result};
use crate::proto::chunks::Chunk;
use crate::proto::stream::{Readable, Received};

/// How many streams' places each list keeps. Where one read brings more wake-ups than that, an
/// allocation is nothing beside them.
const KEPT_WAKES: usize = 256;

/// Threads to be woken.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    readers: Vec<Arc<SharedStream>>,
    writers: Vec<Arc<SharedStream>>,
}

impl Wakes {
    fn add(list: &mut Vec<Arc<SharedStream>>, stream: &Arc<SharedStream>) {
        if list.last().is_none_or(|last| !last.is(stream)) {
            list.push(Arc::clone(stream));
        }
    }

    /// A write of this stream is to be woken.
    pub(crate) fn add_write(&mut self, stream: &Arc<SharedStream>) {
        Self::add(&mut self.writers, stream);
    }

    /// The stream, if it is one, whose reader alone is to be woken.
    pub(crate) fn only_read(&self) -> Option<u32> {
        match (&*self.readers, &*self.writers) {
            ([stream], []) => Some(stream.id),
            _ => None,
        }
    }

    /// Whether no other stream's threads are to be woken.
    pub(crate) fn are_only_for(&self, stream: &Arc<SharedStream>) -> bool {
        self.readers.iter().chain(&self.writers).all(|other| other.is(stream))
    }

    /// Wakes them. A reader that leaves data behind wakes the next one, so one is enough.
    pub(crate) fn send(&mut self) {
        for stream in self.readers.drain(..) {
            stream.readable.notify_one();
        }
        for stream in self.writers.drain(..) {
            stream.wake_blocked_write();
        }
        self.readers.shrink_to(KEPT_WAKES);
        self.writers.shrink_to(KEPT_WAKES);
    }
}

/// What became of a small payload.
#[derive(Debug)]
pub(crate) enum Small {
    Done,
    /// It came after FIN.
    Late,
    /// So many bytes were merged; the rest needs a buffer of `size` bytes, to be given to
    /// `deliver`.
    Needs {
        merged: usize,
        size: usize,
    },
}

impl SharedStream {
    /// Whether `n` bytes of data that are coming are to be read, or read past.
    ///
    /// # Errors
    /// `Overrun`: the stream has to fail.
    pub(crate) fn admit(self: &Arc<Self>, env: &Env, n: usize) -> Result<Received, Error> {
        let mut state = self.state.lock();
        let received = state.core.receive(n).map_err(|counts| self.overrun(counts))?;
        let wakeup = self.reschedule(env, &mut state); // what is discarded counts as consumed
        drop(state);
        env.shaper.unpark(wakeup);
        Ok(received)
    }

    /// Delivers a payload that lies in the reader's window, as far as it can be merged with what is
    /// there.
    ///
    /// # Errors
    /// `Overrun`: the stream has to fail.
    pub(crate) fn deliver_small(
        self: &Arc<Self>,
        env: &Env,
        data: &[u8],
        now: Instant,
        wakes: &mut Wakes,
    ) -> Result<Small, Error> {
        let mut state = self.state.lock();
        let small = match state.core.receive(data.len()).map_err(|counts| self.overrun(counts))? {
            Received::Late => Small::Late,
            Received::Discard => Small::Done,
            Received::Queue => {
                state.may_reply = true;
                let merged = state.core.inbox().merge(data);
                if merged > 0 && state.read_waiters > 0 {
                    Wakes::add(&mut wakes.readers, self);
                }
                match data.len() - merged {
                    0 => Small::Done,
                    rest => Small::Needs { merged, size: state.core.inbox().merge_size(rest) },
                }
            }
        };
        state.no_data.touch(now);
        let wakeup = self.reschedule(env, &mut state);
        drop(state);
        env.shaper.unpark(wakeup);
        Ok(small)
    }

    /// Delivers a chunk that was admitted.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        env: &Env,
        chunk: Chunk<Charge>,
        now: Instant,
        wakes: &mut Wakes,
    ) {
        let mut state = self.state.lock();
        state.no_data.touch(now);
        if state.core.wants_data() {
            state.may_reply = true;
            state.core.inbox().push(chunk);
            if state.read_waiters > 0 {
                Wakes::add(&mut wakes.readers, self);
            }
            return;
        }
        // Closed or shut down since it was admitted: it counts as consumed.
        state.core.consumed(chunk.len(), 0);
        let wakeup = self.reschedule(env, &mut state);
        drop(state);
        drop(chunk);
        env.shaper.unpark(wakeup);
    }

    /// FIN came. Everybody who waits looks again: readers find the end, and a writer without credit
    /// starts its stall clock.
    pub(crate) fn peer_fin(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        let first = state.core.peer_fin();
        if first {
            state.credit_at = Some(now);
            self.wake_all(state);
        }
        first
    }

    /// UPD came.
    ///
    /// # Errors
    /// `Consumed`: the stream has to fail.
    pub(crate) fn update(
        self: &Arc<Self>,
        env: &Env,
        (consumed, window): (u32, u32),
        now: Instant,
        wakes: &mut Wakes,
    ) -> Result<(), Error> {
        let mut state = self.state.lock();
        let gained = state
            .core
            .update(consumed, window)
            .map_err(|(consumed, sent)| Error::Consumed { stream: self.id, consumed, sent })?;
        if gained {
            state.credit_at = Some(now);
        }
        // Also without credit: a smaller window may be one that a small write no longer waits for.
        if state.has_room_for_first_write(env.config.max_send_buffer) {
            Wakes::add(&mut wakes.writers, self);
        }
        let returned = state.update_unsolicited(env);
        drop(state);
        if returned {
            env.gather_allowance_waiters(wakes);
        }
        Ok(())
    }

    /// Whether a read would return at once, with whatever.
    pub(crate) fn is_readable(&self) -> bool {
        !matches!(self.state.lock().core.readable(), Readable::Nothing)
    }

    /// What the stream holds of the budget, in bytes.
    pub(crate) fn occupied(&self) -> usize {
        self.state.lock().core.inbox().occupied()
    }

    /// Data crossed at `now`, if only in part.
    pub(crate) fn touch(&self, now: Instant) {
        self.state.lock().no_data.touch(now);
    }

    /// Whether the data that came too late is the first after the peer's own FIN. After a failure
    /// at this end it is ordinary: the peer didn't know.
    pub(crate) fn first_late(&self) -> bool {
        let mut state = self.state.lock();
        state.core.peer_fin_received() && !std::mem::replace(&mut state.late, true)
    }

    /// Tells the peer the window before the first read.
    pub(crate) fn announce(&self) {
        self.state.lock().core.announce();
    }

    /// Whether the peer's end of the connection now cuts the stream off.
    pub(crate) fn is_cut_off_by_eof(&self) -> bool {
        self.state.lock().core.is_cut_off_by_eof()
    }

    fn overrun(&self, (received, allowed): (u64, u64)) -> Error {
        Error::Overrun { stream: self.id, received, allowed }
    }
}

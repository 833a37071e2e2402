//! How the reader works on a stream: it delivers data, FIN and UPD. The thread that does this is
//! the reader thread or a caller in an inline read. Nothing here waits.
//!
//! Wake-ups are gathered in [`Wakes`]. They are sent when everything from one transport read is
//! delivered, because waking a thread for each frame costs more than the frame. They must be sent
//! before the reader waits for anything, because the woken threads may be those that refund the
//! budget.
//!
//! Invariant: before a stream's lock is released, the stream is in `Wakes` if one of its blocked
//! calls has to be woken.

use std::sync::Arc;
use std::time::Instant;

use super::{Charge, Env, SharedStream};
use crate::error::{Error, Result};
use crate::proto::chunks::Chunk;
use crate::proto::stream::{Readable, Received};

/// Capacity that each list keeps, in streams. If one transport read causes more wake-ups, an
/// allocation costs little compared with them.
const KEPT_WAKES: usize = 256;

/// Streams whose blocked calls are to be woken.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    reads: Vec<Arc<SharedStream>>,
    writes: Vec<Arc<SharedStream>>,
}

impl Wakes {
    fn add(list: &mut Vec<Arc<SharedStream>>, stream: &Arc<SharedStream>) {
        if list.last().is_none_or(|last| !last.is(stream)) {
            list.push(Arc::clone(stream));
        }
    }

    /// Notes that a blocked write of this stream is to be woken.
    pub(crate) fn add_write(&mut self, stream: &Arc<SharedStream>) {
        Self::add(&mut self.writes, stream);
    }

    /// Returns the id of the stream if one blocked read, and nothing else, is to be woken.
    pub(crate) fn only_read(&self) -> Option<u32> {
        match (&*self.reads, &*self.writes) {
            ([stream], []) => Some(stream.id),
            _ => None,
        }
    }

    /// Returns whether no calls of other streams are to be woken.
    pub(crate) fn are_only_for(&self, stream: &Arc<SharedStream>) -> bool {
        self.reads.iter().chain(&self.writes).all(|other| other.is(stream))
    }

    /// Wakes one read and one write of each stream in the lists. One read is enough, since a read
    /// that leaves data behind wakes the next one.
    pub(crate) fn send(&mut self) {
        for stream in self.reads.drain(..) {
            stream.readable.notify_one();
        }
        for stream in self.writes.drain(..) {
            stream.wake_blocked_write();
        }
        self.reads.shrink_to(KEPT_WAKES);
        self.writes.shrink_to(KEPT_WAKES);
    }
}

/// The result of delivering a small payload.
#[derive(Debug)]
pub(crate) enum Small {
    /// The payload was delivered, or discarded.
    Done,
    /// The payload came after FIN.
    Late,
    /// `merged` bytes were merged with the queued data. The rest needs a buffer of `size` bytes,
    /// and goes to `deliver`.
    Needs { merged: usize, size: usize },
}

impl SharedStream {
    /// Decides how `n` incoming bytes of data are treated: they are queued, discarded, or came too
    /// late.
    ///
    /// # Errors
    /// Returns `Overrun` if the peer sends more than it may. Then the stream has to fail.
    pub(crate) fn admit(self: &Arc<Self>, env: &Env, n: usize) -> Result<Received, Error> {
        let mut state = self.state.lock();
        let received = state.core.receive(n).map_err(|counts| self.overrun(counts))?;
        let wakeup = self.reschedule(env, &mut state); // Discarded data counts as consumed.
        drop(state);
        env.shaper.unpark(wakeup);
        Ok(received)
    }

    /// Delivers a payload that lies in the reader's buffer, as far as it can be merged with the
    /// queued data.
    ///
    /// # Errors
    /// Returns `Overrun` if the peer sends more than it may. Then the stream has to fail.
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
                    Wakes::add(&mut wakes.reads, self);
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
                Wakes::add(&mut wakes.reads, self);
            }
            return;
        }
        // The stream was closed or shut down since the chunk was admitted. So the chunk counts as
        // consumed.
        state.core.consumed(chunk.len(), 0);
        let wakeup = self.reschedule(env, &mut state);
        drop(state);
        drop(chunk);
        env.shaper.unpark(wakeup);
    }

    /// Notes that FIN came. Every blocked call looks again: reads find the end, and a write without
    /// credit starts its stall clock. Returns whether it is the first FIN.
    pub(crate) fn peer_fin(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        let first = state.core.peer_fin();
        if first {
            state.credit_at = Some(now);
            self.wake_all(state);
        }
        first
    }

    /// Notes that UPD came.
    ///
    /// # Errors
    /// Returns `Consumed` if the peer reports more consumed bytes than were sent. Then the stream
    /// has to fail.
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
        // The first write may be able to go on even without new credit. If the window has become
        // very small, a small write no longer has to be accepted whole.
        if state.has_room_for_first_write(env.config.max_send_buffer) {
            Wakes::add(&mut wakes.writes, self);
        }
        let returned = state.update_unsolicited(env);
        drop(state);
        if returned {
            env.gather_allowance_waiters(wakes);
        }
        Ok(())
    }

    /// Returns whether a read would return at once, with data, the end or an error.
    pub(crate) fn is_readable(&self) -> bool {
        !matches!(self.state.lock().core.readable(), Readable::Nothing)
    }

    /// Returns the bytes of the budget that the stream's unread data occupies.
    pub(crate) fn occupied(&self) -> usize {
        self.state.lock().core.inbox().occupied()
    }

    /// Notes that a part of a payload came at `now`.
    pub(crate) fn touch(&self, now: Instant) {
        self.state.lock().no_data.touch(now);
    }

    /// Returns whether this is the first data after the peer's own FIN. Data after a failure at
    /// this side is ordinary, because the peer didn't know of the failure.
    pub(crate) fn first_late(&self) -> bool {
        let mut state = self.state.lock();
        state.core.peer_fin_received() && !std::mem::replace(&mut state.late, true)
    }

    /// Queues an UPD that announces the window before the first read.
    pub(crate) fn announce(&self) {
        self.state.lock().core.announce();
    }

    /// Returns whether the stream would lose something if the peer ended the connection now.
    pub(crate) fn is_cut_off_by_eof(&self) -> bool {
        self.state.lock().core.is_cut_off_by_eof()
    }

    fn overrun(&self, (received, allowed): (u64, u64)) -> Error {
        Error::Overrun { stream: self.id, received, allowed }
    }
}

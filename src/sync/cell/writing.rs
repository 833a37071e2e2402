//! How an application writes: small data is merged into the queue under the lock; for the rest a writer fills buffers outside of it.
//!
//! Invariants: one writer at a time fills buffers, so that what one call is told was accepted lies together; the stream is
//! queued before it is unlocked.

use std::sync::Arc;
use std::time::Instant;

use super::waits::{Direction, is_far};
use super::{COPY_LOCKED, Env, State, StreamCell};
use crate::error::Result;
use crate::proto::outbox::Payload;
use crate::proto::stream::{EXPRESS_BYTES, Writable};
use crate::sync::deadline::Call;
use crate::sync::shaper::Bell;

/// What a write did.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Written {
    /// Bytes accepted.
    pub(crate) accepted: usize,
    pub(crate) bell: Bell,
    /// Whether the caller may take the writer's turn.
    pub(crate) is_answer: bool,
}

impl State {
    /// Whether a write of `n` bytes answers what came: then the thread that wrote takes the writer's turn, if that is idle. A thread
    /// that writes without reading in between, or has more to read already, is better served by the queue, where its writes
    /// merge.
    fn take_answer(&mut self, n: usize, call: &mut Call) -> bool {
        let is_answer = self.answerable && n <= EXPRESS_BYTES && self.core.inbox().is_empty() && self.is_patient(call);
        self.answerable &= !is_answer;
        is_answer
    }

    /// Whether a write may spend some time in the transport.
    fn is_patient(&self, call: &mut Call) -> bool {
        if self.nonblocking {
            return false;
        }
        let deadline = self.deadline(Direction::Write);
        if deadline.is_none() {
            return true; // without a look at the clock
        }
        let now = Instant::now();
        match deadline.limit(call, now) {
            Ok(limit) => is_far(limit, now),
            Err(_) => false,
        }
    }
}

impl StreamCell {
    /// Accepts as much of `buf` as there is room for, at least one byte, waiting for it.
    ///
    /// The caller rings.
    pub(crate) fn write(self: &Arc<Self>, env: &Env, buf: &[u8]) -> Result<Written> {
        if buf.is_empty() {
            return Ok(Written::default());
        }
        let (max_send, max_frame) = (env.config.max_send_buffer, env.config.max_frame_size);
        let (mut state, mut room, mut call) = self.wait_writable(env, buf.len())?;
        let mut done = 0;
        let failed = loop {
            let n = room.min(buf.len() - done);
            let rest = &buf[done..done + n];
            if n <= COPY_LOCKED {
                state.core.accept_small(rest, max_frame, env.pool);
                done += n;
                if done == buf.len() {
                    break None;
                }
            } else {
                state.core.writing = true;
                let bell = self.settle_turns(env, &mut state);
                drop(state);
                env.shaper.ring(bell);
                let payload = Payload::of(env.pool, rest, max_frame);
                let n = payload.len();
                state = self.state.lock();
                state.core.writing = false;
                if let Writable::Failed(error) = state.core.writable(max_send) {
                    // Closed meanwhile: this piece wasn't accepted, those before it were.
                    break Some(error);
                }
                state.core.accept(payload);
                done += n;
            }
            room = match state.core.writable(max_send) {
                Writable::Room(room) if done < buf.len() => room,
                _ => break None,
            };
        };
        let next = state.write_waiters > 0 && state.core.may_have_room(max_send);
        let unasked = state.unasked > 0;
        state.settle_unasked(env);
        let bell = self.settle_turns(env, &mut state);
        let is_answer = state.take_answer(done, &mut call);
        drop(state);
        if next {
            self.writable.notify_one();
        }
        if unasked {
            env.wake_unasked(false); // it may have been offered more than it took
        }
        match failed {
            Some(error) if done == 0 => {
                env.shaper.ring(bell);
                Err(error)
            }
            _ => Ok(Written { accepted: done, bell, is_answer }),
        }
    }
}

//! How an application writes. Small data is merged into the outbox under the lock. Larger data is
//! copied into buffers outside of it.
//!
//! # Invariants
//! - The bytes that one call reports as accepted lie together. A call that unlocks the stream in
//!   its middle keeps other writes out ([`write_queue`](super::write_queue)).
//! - The stream is queued for the writer before it is unlocked.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::waits::{Direction, allows_inline};
use super::{COPY_LOCKED, Env, SharedStream, State};
use crate::error::{Error, Result};
use crate::proto::outbox::Payload;
use crate::proto::stream::{EXPRESS_BYTES, Writable};
use crate::sync::deadline::Call;
use crate::sync::shaper::Wakeup;

/// The part of its buffer that a write has to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// As much as there is room for. A small write is accepted whole.
    WhatFits,
    /// Everything. If only a part is accepted, the write fails, and its error has the number of
    /// accepted bytes.
    All,
}

/// The result of a write.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Written {
    /// Bytes accepted.
    pub(crate) accepted: usize,
    pub(crate) wakeup: Wakeup,
    /// Whether the write is a reply, which the caller may write inline.
    pub(crate) is_reply: bool,
}

impl State {
    /// Returns whether a write of `n` bytes is a reply. If it is, the thread that wrote may do an
    /// inline write. A thread that writes without reading in between, or has more to read already,
    /// is faster if its writes go to the queue, where they merge.
    fn take_reply(&mut self, n: usize, call: &mut Call) -> bool {
        let is_reply = self.may_reply
            && n <= EXPRESS_BYTES
            && self.core.inbox().is_empty()
            && self.allows_inline(call);
        self.may_reply &= !is_reply;
        is_reply
    }

    /// Returns whether a write may spend some time in the transport.
    fn allows_inline(&self, call: &mut Call) -> bool {
        if self.nonblocking {
            return false;
        }
        let deadline = self.deadline(Direction::Write);
        if deadline.is_none() {
            return true; // without reading the clock
        }
        let now = Instant::now();
        match deadline.limit(call, now) {
            Ok(limit) => allows_inline(limit, now),
            Err(_) => false,
        }
    }
}

impl SharedStream {
    /// Accepts `buf`, or the part that `take` asks for. Waits for room and for its place among the
    /// writes. No bytes of other calls come between the bytes that it accepts.
    ///
    /// The caller unparks the writer.
    ///
    /// # Errors
    /// The error of the stream or of a limit. If a part was accepted, the error is wrapped in a
    /// `PartialWrite` with [`Take::All`]. With [`Take::WhatFits`], such a write succeeds.
    pub(crate) fn write(self: &Arc<Self>, env: &Env, buf: &[u8], take: Take) -> Result<Written> {
        if buf.is_empty() {
            return Ok(Written::default());
        }
        let max = env.config.max_send_buffer;
        let mut call = Call::default();
        let mut done = 0;
        let mut in_progress = false;
        let mut state = self.state.lock();
        let failed = loop {
            let rest = &buf[done..];
            if in_progress || state.is_first(None) {
                state.take_allowance(env, rest.len());
            }
            let room = match state.room_at_once(rest.len(), in_progress, max) {
                Some(room) => room,
                None if done > 0 && take == Take::WhatFits => break None,
                None => {
                    if done > 0 {
                        in_progress = true;
                        state.write_in_progress = true;
                        state.update_unsolicited(env);
                        self.unlock(env, state);
                        env.wake_allowance_waiters(false);
                        state = self.state.lock();
                    }
                    let waited;
                    (state, waited) =
                        self.wait_for_room(env, state, &mut call, (rest.len(), in_progress));
                    match waited {
                        Ok(room) => room,
                        Err(error) => break Some(error),
                    }
                }
            };
            let rest = &rest[..room.min(rest.len())];
            if rest.len() <= COPY_LOCKED {
                state.core.accept_small(rest, env.config.max_frame_size, env.pool);
                done += rest.len();
            } else {
                if take == Take::All {
                    // The call may have to wait later, and its timeout runs from here.
                    call.start(Instant::now());
                }
                in_progress = true;
                state.write_in_progress = true;
                let accepted;
                (state, accepted) = self.accept_large(env, state, rest);
                match accepted {
                    Ok(n) => done += n,
                    Err(error) => break Some(error),
                }
            }
            if done == buf.len() {
                break None;
            }
        };
        if in_progress {
            state.write_in_progress = false;
        }
        self.wake_next_write(&state, max);
        let unsolicited = state.unsolicited > 0 || failed.is_some();
        state.update_unsolicited(env);
        let wakeup = self.reschedule_only(env, &mut state);
        let is_reply = failed.is_none() && state.take_reply(done, &mut call);
        drop(state);
        if unsolicited {
            // The write may have been woken for more allowance than it took, or may have been
            // offered more.
            env.wake_allowance_waiters(false);
        }
        match failed {
            Some(error) if done == 0 || take == Take::All => {
                env.shaper.unpark(wakeup);
                Err(if done == 0 {
                    error
                } else {
                    Error::PartialWrite { accepted: done, source: Arc::new(error) }
                })
            }
            _ => Ok(Written { accepted: done, wakeup, is_reply }),
        }
    }

    /// Accepts as much as fits one frame, and copies it outside the lock. Fails if the stream has
    /// ended meanwhile.
    fn accept_large<'a>(
        self: &'a Arc<Self>,
        env: &Env,
        mut state: MutexGuard<'a, State>,
        data: &[u8],
    ) -> (MutexGuard<'a, State>, Result<usize>) {
        state.core.writing = true;
        self.unlock(env, state);
        let payload = Payload::of(env.pool, data, env.config.max_frame_size);
        let n = payload.len();
        let mut state = self.state.lock();
        state.core.writing = false;
        if let Writable::Failed(error) = state.core.writable(env.config.max_send_buffer, 1) {
            return (state, Err(error));
        }
        state.core.accept(payload);
        (state, Ok(n))
    }

    /// Unlocks the stream in the middle of a write, so that the accepted bytes can be sent.
    fn unlock(self: &Arc<Self>, env: &Env, mut state: MutexGuard<'_, State>) {
        let wakeup = self.reschedule_only(env, &mut state);
        drop(state);
        env.shaper.unpark(wakeup);
    }
}

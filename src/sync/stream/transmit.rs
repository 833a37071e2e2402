//! What the writer (its thread, or a caller in its turn) does to a stream: takes its frames, and
//! tells it when they were handed to the transport.
//!
//! Invariant: nothing here waits, or does I/O.

use std::sync::Arc;
use std::time::Instant;

use super::{Env, SharedStream};
use crate::proto::stream::{Lane, Transmit};
use crate::wire::HEADER_LEN;

impl SharedStream {
    /// The stream's turn: passes its frames to `emit`, which mustn't block.
    pub(crate) fn transmit(
        self: &Arc<Self>,
        env: &Env,
        lane: Lane,
        mut allowance: usize,
        mut emit: impl FnMut(Transmit),
    ) -> Transmitted {
        let mut state = self.state.lock();
        state.core.cap_window(env.window_cap());
        state.core.begin_transmit(lane);
        let mut transmitted = Transmitted::default();
        while let Some(frame) = state.core.poll_transmit(lane, allowance) {
            match &frame {
                Transmit::Data(payload) => {
                    transmitted.data += payload.len();
                    // With its header: a turn of tiny frames is no larger on the wire than others.
                    allowance = allowance.saturating_sub(HEADER_LEN + payload.len());
                }
                Transmit::Fin => transmitted.fin = true,
                Transmit::Syn | Transmit::Update { .. } => {}
            }
            emit(frame);
        }
        transmitted.wake_blocked_write =
            transmitted.data > 0 && state.has_room_for_first_write(env.config.max_send_buffer);
        state.update_granted(env);
        while let Some(lane) = state.core.schedule() {
            match lane {
                Lane::Bulk => transmitted.again = true,
                // the writer looks again before it parks
                Lane::Express => env.shaper.schedule(Arc::clone(self), lane).discard(),
            }
        }
        transmitted
    }

    /// Wakes the write that is the next to get room.
    pub(crate) fn wake_blocked_write(&self) {
        self.wake_first_write(&self.state.lock());
    }

    /// The stream was taken out of the queue for allowance, since there is enough for it
    /// now; returns whether a write still waits for it.
    pub(crate) fn is_due(&self, env: &Env) -> bool {
        let mut state = self.state.lock();
        state.queued = false;
        state.write_waiters > 0 && state.core.needs_allowance(1, env.config.max_send_buffer) > 0
    }

    /// The session has forgotten the stream: its unsolicited data doesn't count any more. The
    /// caller wakes those who wait for that.
    pub(crate) fn forget(self: &Arc<Self>, env: &Env) {
        let mut state = self.state.lock();
        state.core.forget_allowance();
        state.update_unsolicited(env);
        if std::mem::take(&mut state.queued) {
            env.allowance.leave(self);
        }
    }

    /// What a turn took was handed to the transport; returns whether the stream is over.
    pub(crate) fn mark_written(&self, data: usize, fin: bool, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.core.mark_written(data, fin);
        if data > 0 {
            state.no_data.touch(now);
        }
        let wake = state.flush_waiters > 0;
        let can_forget = fin && state.core.can_forget();
        drop(state);
        if wake {
            self.flushed.notify_all();
        }
        can_forget
    }
}

/// What a turn at the writer did.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Transmitted {
    /// Bytes of data, and whether FIN went with them.
    pub(crate) data: usize,
    pub(crate) fin: bool,
    /// There is more for the bulk lane: the caller puts the stream at the end of its round.
    pub(crate) again: bool,
    /// A write waits, and there is room for it.
    pub(crate) wake_blocked_write: bool,
}

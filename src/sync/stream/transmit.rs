//! How the writer works on a stream: it takes the stream's frames, and notes when they were handed
//! over. The thread that does this is the writer thread or a caller in an inline write.
//!
//! Invariant: nothing here waits or does I/O.

use std::sync::Arc;
use std::time::Instant;

use super::{Env, SharedStream};
use crate::proto::stream::{Lane, Transmit};
use crate::wire::HEADER_LEN;

impl SharedStream {
    /// Takes the stream's turn in `lane`: passes its frames to `emit`, which mustn't block.
    /// `quantum` is the number of bytes after which no further frame of data begins.
    pub(crate) fn transmit(
        self: &Arc<Self>,
        env: &Env,
        lane: Lane,
        mut quantum: usize,
        mut emit: impl FnMut(Transmit),
    ) -> Transmitted {
        let mut state = self.state.lock();
        state.core.cap_window(env.window_cap());
        state.core.begin_transmit(lane);
        let mut transmitted = Transmitted::default();
        while let Some(frame) = state.core.poll_transmit(lane, quantum) {
            match &frame {
                Transmit::Data(payload) => {
                    transmitted.data += payload.len();
                    // Headers count, so a turn of tiny frames isn't larger on the wire than others.
                    quantum = quantum.saturating_sub(HEADER_LEN + payload.len());
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
                // The writer looks for work again before it parks.
                Lane::Express => env.shaper.schedule(Arc::clone(self), lane).discard(),
            }
        }
        transmitted
    }

    /// Wakes the first blocked write, which gets the room that there is.
    pub(crate) fn wake_blocked_write(&self) {
        self.wake_first_write(&self.state.lock());
    }

    /// Notes that the stream was taken out of the queue for allowance, because there is enough for
    /// it now. Returns whether a write still waits for allowance.
    pub(crate) fn is_due(&self, env: &Env) -> bool {
        let mut state = self.state.lock();
        state.queued = false;
        state.write_waiters > 0 && state.core.needs_allowance(1, env.config.max_send_buffer) > 0
    }

    /// Notes that the session has forgotten the stream. Its unsolicited bytes don't count any more.
    /// The caller wakes the streams that wait for such bytes.
    pub(crate) fn forget(self: &Arc<Self>, env: &Env) {
        let mut state = self.state.lock();
        state.core.forget_allowance();
        state.update_unsolicited(env);
        if std::mem::take(&mut state.queued) {
            env.allowance.leave(self);
        }
    }

    /// Notes that the frames of a turn were handed over: `data` bytes, and FIN if `fin`. Returns
    /// whether the session can forget the stream now.
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

/// The result of a turn.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Transmitted {
    /// Bytes of data that were taken.
    pub(crate) data: usize,
    /// Whether FIN was taken.
    pub(crate) fin: bool,
    /// Whether there is more for the bulk lane. Then the caller puts the stream at the end of that
    /// lane.
    pub(crate) again: bool,
    /// Whether there is room now for a blocked write.
    pub(crate) wake_blocked_write: bool,
}

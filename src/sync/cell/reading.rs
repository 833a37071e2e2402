//! How an application reads: small data is copied under the lock; for the rest a reader takes chunks out, and copies, or writes them to
//! a user's writer, outside of it.
//!
//! Invariants: one reader at a time has chunks out; what it doesn't use goes back to the head, also when a user's writer
//! panics.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::{COPY_LOCKED, Charge, Env, State, StreamCell};
use crate::error::Result;
use crate::proto::chunks::Chunk;
use crate::proto::stream::Readable;
use crate::sync::shaper::Bell;

/// Whether a reader has chunks out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Nobody,
    /// To copy them, which doesn't take long.
    Copying,
    /// To write them to a user's writer, which may take for ever.
    Writing,
}

impl StreamCell {
    /// Reads at least one byte, waiting for it; 0 at the end. Instead of waiting, `lead` may be called: see
    /// [`wait_readable`](Self::wait_readable).
    pub(crate) fn read(self: &Arc<Self>, env: &Env, buf: &mut [u8], lead: impl Fn() -> bool) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(mut state) = self.wait_readable(env, &lead)? else { return Ok(0) };
            let mut done = 0;
            if buf.len().min(state.core.inbox().len()) <= COPY_LOCKED {
                while done < buf.len()
                    && let Some(mut chunk) = state.core.inbox().pop()
                {
                    done += chunk.copy_to(&mut buf[done..]);
                    state.core.inbox().unpop(chunk);
                }
                self.finish_read(env, state, done);
                return Ok(done);
            }
            let mut turn = self.begin_read(env, state, Reading::Copying);
            while done < buf.len()
                && let Some(chunk) = turn.chunk()
            {
                let n = chunk.copy_to(&mut buf[done..]);
                turn.consumed += n;
                done += n;
            }
            drop(turn);
            if done > 0 {
                return Ok(done);
            }
            // What was there has been thrown away since (the stream was cut, or closed), which isn't the end of it: look again.
        }
    }

    /// Moves what comes to `out`, until the end.
    pub(crate) fn write_to(self: &Arc<Self>, env: &Env, out: &mut dyn std::io::Write) -> std::io::Result<u64> {
        let mut total = 0;
        while let Some(state) = self.wait_readable(env, || false)? {
            let mut turn = self.begin_read(env, state, Reading::Writing);
            while let Some(chunk) = turn.chunk() {
                let n = match out.write(chunk.data()) {
                    Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                    Ok(n) => n.min(chunk.len()),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                chunk.consume(n);
                turn.consumed += n;
                total += n as u64;
            }
        }
        Ok(total)
    }

    fn begin_read<'a>(
        self: &'a Arc<Self>,
        env: &'a Env,
        mut state: MutexGuard<'a, State>,
        reading: Reading,
    ) -> ReadTurn<'a> {
        state.reading = reading;
        ReadTurn { cell: self, env, chunk: None, consumed: 0 }
    }

    /// What every read does last: counts what was read, lets go of a large buffer with a small rest, wakes the next reader if there
    /// is something for it (all of them for an ending, which needs no turn, so that nobody would pass it on), and unlocks.
    fn finish_read(self: &Arc<Self>, env: &Env, mut state: MutexGuard<'_, State>, consumed: usize) {
        state.core.cap_window(env.window_cap());
        state.core.consumed(consumed, env.spare_grant());
        let spent = state.core.inbox().release_tail(env.pool, |n| env.budget.charge(n));
        let waiting = state.read_waiters > 0;
        let next = state.core.readable();
        let bell = self.settle(env, &mut state);
        drop(state);
        drop(spent);
        match next {
            Readable::Data if waiting => drop(self.readable.notify_one()),
            Readable::Eof | Readable::Failed(_) if waiting => drop(self.readable.notify_all()),
            _ => {}
        }
        env.shaper.ring(bell);
    }
}

/// A reader's right to take chunks out of the stream: what it didn't use goes back when it is dropped.
pub(super) struct ReadTurn<'a> {
    cell: &'a Arc<StreamCell>,
    env: &'a Env,
    chunk: Option<Chunk<Charge>>,
    consumed: usize,
}

impl ReadTurn<'_> {
    /// The chunk at the head, with something in it.
    fn chunk(&mut self) -> Option<&mut Chunk<Charge>> {
        if self.chunk.as_ref().is_none_or(|chunk| chunk.len() == 0) {
            self.chunk = None; // back to the pool and the budget, outside the lock
            let mut state = self.cell.state.lock();
            let mut bell = Bell::default();
            if state.reading == Reading::Writing {
                // The user's writer may take its time: the peer is to hear of what it has taken, and not of all at the end.
                state.core.cap_window(self.env.window_cap());
                state.core.consumed(std::mem::take(&mut self.consumed), self.env.spare_grant());
                bell = self.cell.settle(self.env, &mut state);
            }
            self.chunk = state.core.inbox().pop();
            drop(state);
            self.env.shaper.ring(bell);
        }
        self.chunk.as_mut()
    }
}

impl Drop for ReadTurn<'_> {
    fn drop(&mut self) {
        let chunk = self.chunk.take();
        let mut state = self.cell.state.lock();
        state.reading = Reading::Nobody;
        let unwanted = match chunk {
            Some(chunk) if state.core.keeps_data() => {
                state.core.inbox().unpop(chunk);
                None
            }
            other => other,
        };
        // `shutdown(Read)` meanwhile has counted what it found in the stream, not what was out here.
        let consumed = self.consumed + unwanted.as_ref().map_or(0, Chunk::len);
        self.cell.finish_read(self.env, state, consumed);
        drop(unwanted);
    }
}

//! How an application reads. Small data is copied under the lock. For larger data, a call takes
//! chunks out of the inbox. It copies them outside the lock, or passes them to a user's writer.
//!
//! # Invariants
//! - At most one call at a time has chunks out.
//! - The part of a chunk that the call doesn't use goes back to the front of the inbox, even if a
//!   user's writer panics.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::{COPY_LOCKED, Env, SharedStream, State};
use crate::error::Result;
use crate::proto::chunks::Chunk;
use crate::proto::stream::Readable;
use crate::sync::shaper::Wakeup;

/// Whether a call has chunks out, and for which purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Nobody,
    /// A `read` copies them, which takes only moments.
    Copying,
    /// A `write_to` passes them to a user's writer, which may take any time.
    Writing,
}

impl SharedStream {
    /// Reads at least one byte, and waits for it. Returns 0 at the end. `read_inline` may be called
    /// instead of waiting: see [`wait_readable`](Self::wait_readable).
    pub(crate) fn read(
        self: &Arc<Self>,
        env: &Env,
        buf: &mut [u8],
        read_inline: impl Fn() -> bool,
    ) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(mut state) = self.wait_readable(env, &read_inline)? else { return Ok(0) };
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
            let mut guard = self.begin_read(env, state, Reading::Copying);
            while done < buf.len()
                && let Some(chunk) = guard.chunk()
            {
                let n = chunk.copy_to(&mut buf[done..]);
                guard.consumed += n;
                done += n;
            }
            drop(guard);
            if done > 0 {
                return Ok(done);
            }
            // The data has been discarded meanwhile, because the stream was cut or closed. That
            // isn't the end of the stream, so look again.
        }
    }

    /// Writes all data to `out` until the end, and returns the number of bytes.
    pub(crate) fn write_to(
        self: &Arc<Self>,
        env: &Env,
        out: &mut dyn std::io::Write,
    ) -> std::io::Result<u64> {
        let mut total = 0;
        while let Some(state) = self.wait_readable(env, || false)? {
            let mut guard = self.begin_read(env, state, Reading::Writing);
            while let Some(chunk) = guard.chunk() {
                let n = match out.write(chunk.data()) {
                    Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                    Ok(n) => n.min(chunk.len()),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                chunk.consume(n);
                guard.consumed += n;
                total += n as u64;
            }
        }
        Ok(total)
    }

    /// Marks the stream as being read, and unlocks it.
    fn begin_read<'a>(
        self: &'a Arc<Self>,
        env: &'a Env,
        mut state: MutexGuard<'a, State>,
        reading: Reading,
    ) -> ReadGuard<'a> {
        state.reading = reading;
        ReadGuard { stream: self, env, reading, chunk: None, consumed: 0 }
    }

    /// Does the last step of every read:
    ///
    /// - It counts the consumed bytes.
    /// - If a large buffer holds only a small rest, it moves the rest to a small buffer.
    /// - It unlocks the stream.
    /// - It wakes the next read if there is data for it. At an ending, it wakes all reads: a read
    ///   that finds the ending wakes no other.
    fn finish_read(self: &Arc<Self>, env: &Env, mut state: MutexGuard<'_, State>, consumed: usize) {
        state.core.cap_window(env.window_cap());
        state.core.consumed(consumed, env.spare_grant());
        let spent = state.core.inbox().release_tail(env.pool, |n| env.budget.charge(n));
        let waiting = state.read_waiters > 0;
        let next = state.core.readable();
        let wakeup = self.reschedule(env, &mut state);
        drop(state);
        drop(spent);
        match next {
            Readable::Data if waiting => {
                let _ = self.readable.notify_one();
            }
            Readable::Eof | Readable::Failed(_) if waiting => {
                let _ = self.readable.notify_all();
            }
            _ => {}
        }
        env.shaper.unpark(wakeup);
    }
}

/// A call's right to take chunks out of the inbox. The unused part goes back when this is dropped.
///
/// Chunks that are out are *lent*. They count as unread. A cut or a close takes their charge back,
/// even if a user's writer still uses them.
pub(super) struct ReadGuard<'a> {
    stream: &'a Arc<SharedStream>,
    env: &'a Env,
    reading: Reading,
    chunk: Option<Chunk<()>>,
    consumed: usize,
}

impl ReadGuard<'_> {
    /// Returns the first chunk that has data.
    ///
    /// This function must be called after each call of a user's writer, since such a call may take
    /// long. This function counts the bytes that the user's writer has taken, so that the peer can
    /// learn of them early. It returns no further data if the stream was cut or closed meanwhile.
    fn chunk(&mut self) -> Option<&mut Chunk<()>> {
        let used_up = self.chunk.as_ref().is_none_or(|chunk| chunk.len() == 0);
        if used_up {
            self.chunk = None; // The buffer goes back to the pool, outside the lock.
        }
        if used_up || self.reading == Reading::Writing {
            let mut state = self.stream.state.lock();
            let recalled = if state.core.inbox().is_lent() { None } else { self.chunk.take() };
            self.consumed += recalled.as_ref().map_or(0, Chunk::len);
            let mut wakeup = Wakeup::default();
            if self.reading == Reading::Writing {
                state.core.cap_window(self.env.window_cap());
                state.core.consumed(std::mem::take(&mut self.consumed), self.env.spare_grant());
                wakeup = self.stream.reschedule(self.env, &mut state);
            }
            let mut spent = None;
            if used_up {
                spent = state.core.inbox().recall();
                self.chunk = state.core.inbox().lend();
            }
            drop(state);
            drop(recalled);
            drop(spent);
            self.env.shaper.unpark(wakeup);
        }
        self.chunk.as_mut()
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.stream.state.lock();
        state.reading = Reading::Nobody;
        // If `shutdown(Read)` came meanwhile, it has counted the data in the inbox as consumed, but
        // not the data that was taken out.
        let unwanted = self.chunk.take().and_then(|chunk| state.core.inbox().give_back(chunk));
        let consumed = self.consumed + unwanted.as_ref().map_or(0, Chunk::len);
        self.stream.finish_read(self.env, state, consumed);
        drop(unwanted);
    }
}

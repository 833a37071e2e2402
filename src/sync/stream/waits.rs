//! The waits of a stream's calls: for data, for room, and for everything to be handed over. The
//! settings that limit these waits are here, too.
//!
//! Invariant: a wait that is woken looks again at its condition and at its limits, whatever woke
//! it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, MutexGuard};

use super::{Env, Reading, SharedStream, State};
use crate::error::{Error, Result};
use crate::proto::stream::{Readable, Writable};
use crate::sync::deadline::{Call, Deadline, earlier};

/// One of a stream's two directions. Each direction has a deadline and a timeout of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl State {
    pub(super) fn deadline(&self, direction: Direction) -> Deadline {
        self.extras.as_ref().map_or_else(Deadline::default, |extras| match direction {
            Direction::Read => extras.read,
            Direction::Write => extras.write,
        })
    }

    fn deadline_mut(&mut self, direction: Direction) -> &mut Deadline {
        let extras = self.extras();
        match direction {
            Direction::Read => &mut extras.read,
            Direction::Write => &mut extras.write,
        }
    }

    /// Returns the time until which a write may wait. `starved` says whether the peer has sent FIN
    /// and the write waits for credit.
    ///
    /// # Errors
    /// Those of [`limit`](Self::limit), and `PeerFinished` if the stall clock has run out.
    fn write_limit(
        &mut self,
        env: &Env,
        call: &mut Call,
        starved: bool,
    ) -> Result<Option<Instant>> {
        let now = Instant::now();
        let limit = self.limit(Direction::Write, call, now)?;
        let Some(stall) = env.config.half_close_stall.filter(|_| self.core.peer_fin_received())
        else {
            return Ok(limit);
        };
        // A write that waits for the outbox may lose its credit meanwhile, to another write or to a
        // smaller window. Neither of these events wakes it, so it looks again after `stall`.
        let since = if starved { call.start(now).max(self.credit_at.unwrap_or(now)) } else { now };
        match since.checked_add(stall) {
            Some(at) if at <= now => Err(Error::PeerFinished(stall)),
            at => Ok(earlier(limit, at)),
        }
    }

    /// Returns the time until which a call may wait. `None` means without limit.
    ///
    /// # Errors
    /// `WouldBlock`, `Timeout` or `NoData` if the call may not wait.
    fn limit(
        &mut self,
        direction: Direction,
        call: &mut Call,
        now: Instant,
    ) -> Result<Option<Instant>> {
        if self.nonblocking {
            return Err(Error::WouldBlock);
        }
        let deadline = self.deadline(direction).limit(call, now)?;
        Ok(earlier(deadline, self.no_data.limit(now)?))
    }
}

/// Least time until a call's limit at which the call may do inline I/O. With less time, it leaves
/// the transport to the session's threads. A bounded read or write of the transport takes up to 10
/// ms. The value is twice that.
const INLINE_MIN_TIME: Duration = Duration::from_millis(20);

/// Waits on `condvar` until it is notified or `limit` has passed.
fn wait(condvar: &Condvar, state: &mut MutexGuard<'_, State>, limit: Option<Instant>) {
    match limit {
        // A time-out isn't reported. The caller computes its limits anew, since they may have
        // changed.
        Some(limit) => {
            let _ = condvar.wait_until(state, limit);
        }
        None => condvar.wait(state),
    }
}

/// Returns whether a call with this limit may spend [`INLINE_MIN_TIME`] in the transport.
pub(super) fn allows_inline(limit: Option<Instant>, now: Instant) -> bool {
    limit.is_none_or(|limit| limit.saturating_duration_since(now) >= INLINE_MIN_TIME)
}

impl SharedStream {
    /// Waits until there is data and no other read has chunks out. Returns `None` at the end of the
    /// stream.
    ///
    /// `read_inline` reads the transport, or returns `false` if it can't read now. It is called
    /// instead of waiting if all of these hold:
    /// - A handoff is offered.
    /// - The stream has no data.
    /// - The call's limit isn't near.
    pub(super) fn wait_readable(
        &self,
        env: &Env,
        read_inline: impl Fn() -> bool,
    ) -> Result<Option<MutexGuard<'_, State>>> {
        let mut call = Call::default();
        let mut state = self.state.lock();
        // Whether `read_inline` was called since the last wait and couldn't read.
        let mut tried = false;
        loop {
            let nothing = match state.core.readable() {
                Readable::Data if state.reading == Reading::Nobody => return Ok(Some(state)),
                Readable::Eof if state.reading == Reading::Nobody || state.core.is_read_shut() => {
                    return Ok(None);
                }
                // A read that is copying may put data back. All data has to be read before the
                // ending is reported.
                Readable::Failed(error)
                    if state.reading != Reading::Copying || state.core.is_closed() =>
                {
                    return Err(error);
                }
                // Another read has chunks out, perhaps for a long time. An inline read would return
                // at once, so this loop would spin.
                Readable::Data | Readable::Eof | Readable::Failed(_) => false,
                Readable::Nothing => true,
            };
            let now = Instant::now();
            let limit = state.limit(Direction::Read, &mut call, now)?;
            if nothing && !tried && env.read_handoff.is_offered() && allows_inline(limit, now) {
                drop(state);
                tried = !read_inline();
                state = self.state.lock();
                continue; // The condition and the limits may have changed meanwhile.
            }
            tried = false;
            state.read_waiters += 1;
            wait(&self.readable, &mut state, limit);
            state.read_waiters -= 1;
        }
    }

    /// Waits until a call that has `left` bytes to write may write. Returns the room in bytes. A
    /// call that is in progress goes on as soon as there is any room. Any other call waits until
    /// there is enough room and the call is the first of the [queue](super::write_queue).
    pub(super) fn wait_for_room<'a>(
        self: &'a Arc<Self>,
        env: &Env,
        mut state: MutexGuard<'a, State>,
        call: &mut Call,
        (left, in_progress): (usize, bool),
    ) -> (MutexGuard<'a, State>, Result<usize>) {
        let max = env.config.max_send_buffer;
        let mut place = None;
        let result = loop {
            let first = in_progress || state.is_first(place.as_ref());
            if first {
                state.take_allowance(env, left);
            }
            let least = state.least(left, in_progress, max);
            let starved = match state.core.writable(max, least) {
                Writable::Room(room)
                    if in_progress || state.may_write(place.as_ref(), left, room) =>
                {
                    break Ok(room);
                }
                Writable::Room(_) => false,
                Writable::Full { starved } => starved,
                Writable::Failed(error) => break Err(error),
            };
            let limit = match state.write_limit(env, call, starved) {
                Ok(limit) => limit,
                Err(error) => break Err(error),
            };
            if first && state.take_allowance_or_queue(env, self, left) {
                continue; // There is some allowance again.
            }
            let starves = state.core.starves(max, least);
            if starves {
                env.budget.begin_starving();
            }
            let place = place.get_or_insert_with(|| state.enqueue(left, in_progress));
            wait(place.condvar.as_deref().unwrap_or(&self.writable), &mut state, limit);
            if starves {
                env.budget.end_starving();
            }
        };
        if let Some(place) = place {
            state.dequeue(&place);
        }
        (state, result)
    }

    /// Waits until all bytes that have been accepted so far are handed over.
    ///
    /// # Errors
    /// The stream's error if that has become impossible, or the error of a limit.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut call = Call::default();
        let mut state = self.state.lock();
        let target = state.core.accepted();
        loop {
            if let Some(result) = state.core.flushed(target) {
                return result;
            }
            let limit = state.limit(Direction::Write, &mut call, Instant::now())?;
            state.flush_waiters += 1;
            wait(&self.flushed, &mut state, limit);
            state.flush_waiters -= 1;
        }
    }

    /// Changes limits, and wakes all blocked calls. Each call then computes its limit anew.
    fn set(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        self.wake_all(state);
    }

    pub(crate) fn set_deadline(&self, direction: Direction, at: Option<Instant>) {
        self.set(|state| state.deadline_mut(direction).at = at);
    }

    pub(crate) fn set_timeout(&self, direction: Direction, timeout: Option<Duration>) {
        self.set(|state| state.deadline_mut(direction).timeout = timeout);
    }

    pub(crate) fn timeout(&self, direction: Direction) -> Option<Duration> {
        self.state.lock().deadline(direction).timeout
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.set(|state| state.nonblocking = nonblocking);
    }

    pub(crate) fn set_no_data_timeout(&self, timeout: Option<Duration>) {
        self.set(|state| state.no_data.set(timeout, Instant::now()));
    }

    pub(crate) fn no_data_timeout(&self) -> Option<Duration> {
        self.state.lock().no_data.timeout()
    }

    /// Returns whether both are the same stream.
    pub(crate) fn is(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, other)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc;
    use std::thread;

    use super::super::{Name, Wakes};
    use super::*;
    use crate::config::Config;
    use crate::pool::BufferPool;
    use crate::proto::chunks::Chunk;
    use crate::sync::budget::Budget;
    use crate::sync::read_handoff::ReadHandoff;
    use crate::sync::shaper::shaper;

    /// A stream of a session whose reader thread offers a handoff.
    fn in_handoff() -> (Env, Arc<SharedStream>) {
        let config = Config::new();
        let stream = SharedStream::new(3, Name::new(b"", None), &config, false, Instant::now());
        let budget = Budget::new(1000);
        let pool = BufferPool::shared();
        let read_handoff = ReadHandoff::default();
        read_handoff.offer();
        (
            Env {
                config,
                shaper: shaper().0,
                budget,
                read_handoff,
                pool,
                granted: AtomicU64::new(0),
                allowance: Default::default(),
            },
            stream,
        )
    }

    #[test]
    fn a_limit_that_is_set_during_a_failed_inline_read_is_not_missed() {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let (env, stream) = in_handoff();
            let read_inline = || {
                stream.set_deadline(Direction::Read, Some(Instant::now()));
                false
            };
            tell.send(stream.read(&env, &mut [0], read_inline)).unwrap();
        });
        // If the limit were missed, the call would hang.
        assert!(matches!(told.recv_timeout(Duration::from_secs(60)), Ok(Err(Error::Timeout))));
    }

    #[test]
    fn a_read_that_waits_for_another_reader_does_not_read_inline() {
        let (env, stream) = in_handoff();
        let chunk = Chunk::new(env.pool.get(64).unwrap(), 0, 64, env.budget.charge(64));
        stream.deliver(&env, chunk, Instant::now(), &mut Wakes::default());
        stream.state.lock().reading = Reading::Writing;
        // far enough for an inline read
        stream.set_timeout(Direction::Read, Some(INLINE_MIN_TIME * 3));
        let inline_reads = Cell::new(0);
        let read_inline = || {
            inline_reads.set(inline_reads.get() + 1);
            true
        };
        assert!(matches!(stream.read(&env, &mut [0], read_inline), Err(Error::Timeout)));
        assert_eq!(inline_reads.get(), 0);
    }
}

//! Where calls wait for a stream: until there is something to read, room to write, or everything is
//! handed over; and the settings that say for how long.
//!
//! Invariant: every wait looks again at what it waits for, and at its limits, whenever it is woken,
//! for whatever reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, MutexGuard};

use super::{Env, Reading, SharedStream, State};
use crate::error::{Error, Result};
use crate::proto::stream::{Readable, Writable};
use crate::sync::deadline::{Call, Deadline, earlier};

/// Which of a stream's two deadlines is meant.
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

    /// Until when a write may wait; `starved`: the peer has sent FIN and granted too little window.
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
        // Who waits for the queue may lose the credit meanwhile, to another writer or a smaller
        // window, which wakes nobody: so it looks again, too.
        let since = if starved { call.start(now).max(self.credit_at.unwrap_or(now)) } else { now };
        match since.checked_add(stall) {
            Some(at) if at <= now => Err(Error::PeerFinished(stall)),
            at => Ok(earlier(limit, at)),
        }
    }

    /// Until when a call may wait.
    ///
    /// # Errors
    /// `WouldBlock`, `Timeout` or `NoData` if it may not.
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

/// A call whose limit is nearer than this leaves the transport to the session's threads: twice what
/// a bounded read or write may take.
const INLINE_MIN_TIME: Duration = Duration::from_millis(20);

fn wait(condvar: &Condvar, state: &mut MutexGuard<'_, State>, limit: Option<Instant>) {
    match limit {
        // Whether it timed out is asked anew, of the limits that hold by then.
        Some(limit) => {
            let _ = condvar.wait_until(state, limit);
        }
        None => condvar.wait(state),
    }
}

/// Whether a call with this limit may spend [`INLINE_MIN_TIME`] in the transport.
pub(super) fn allows_inline(limit: Option<Instant>, now: Instant) -> bool {
    limit.is_none_or(|limit| limit.saturating_duration_since(now) >= INLINE_MIN_TIME)
}

impl SharedStream {
    /// Waits until there is data that no other reader has taken up; `None` at the end. While the
    /// reader thread stands by, and nothing has come, this thread calls `read_inline` instead of
    /// waiting, unless its limit is near: that reads the transport, or returns `false` where it
    /// can't.
    pub(super) fn wait_readable(
        &self,
        env: &Env,
        read_inline: impl Fn() -> bool,
    ) -> Result<Option<MutexGuard<'_, State>>> {
        let mut call = Call::default();
        let mut state = self.state.lock();
        // Whether it was tried, and couldn't be had, since the last wait.
        let mut tried = false;
        loop {
            let nothing = match state.core.readable() {
                Readable::Data if state.reading == Reading::Nobody => return Ok(Some(state)),
                Readable::Eof if state.reading == Reading::Nobody || state.core.is_read_shut() => {
                    return Ok(None);
                }
                // A reader that is copying may put something back: data comes before the ending.
                Readable::Failed(error)
                    if state.reading != Reading::Copying || state.core.is_closed() =>
                {
                    return Err(error);
                }
                // There is something, and another reader has to be done first, who may take for
                // ever: an inline read would end at once, and the next one.
                Readable::Data | Readable::Eof | Readable::Failed(_) => false,
                Readable::Nothing => true,
            };
            let now = Instant::now();
            let limit = state.limit(Direction::Read, &mut call, now)?;
            if nothing && !tried && env.read_handoff.is_offered() && allows_inline(limit, now) {
                drop(state);
                tried = !read_inline();
                state = self.state.lock();
                continue; // what it waits for, and its limits, may have changed meanwhile
            }
            tried = false;
            state.read_waiters += 1;
            wait(&self.readable, &mut state, limit);
            state.read_waiters -= 1;
        }
    }

    /// Waits until there is room for a call that has `left` bytes to write, and it is its turn;
    /// returns how much. A call that is in progress goes on as soon as there is any.
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
                state.ask(env, left);
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
            if first && state.ask_or_queue(env, self, left) {
                continue; // something came back just now
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

    /// Waits until what has been accepted so far was handed to the transport.
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

    /// Changes what calls wait for, and lets those that are blocked look again.
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

    /// Whether a handle to the same stream is the same stream.
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

    /// A stream of a session whose reader thread stands by.
    fn standing_by() -> (Env, Arc<SharedStream>) {
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
    fn a_limit_that_is_set_while_a_turn_cannot_be_had_is_not_missed() {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let (env, stream) = standing_by();
            let read_inline = || {
                stream.set_deadline(Direction::Read, Some(Instant::now()));
                false
            };
            tell.send(stream.read(&env, &mut [0], read_inline)).unwrap();
        });
        // A hang would be for ever.
        assert!(matches!(told.recv_timeout(Duration::from_secs(60)), Ok(Err(Error::Timeout))));
    }

    #[test]
    fn a_reader_that_waits_for_another_reader_takes_no_turn() {
        let (env, stream) = standing_by();
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

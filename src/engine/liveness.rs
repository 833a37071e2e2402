//! Liveness: the time stamps that the timer looks at, and its actions.
//!
//! Invariant: the stamps are atomics. The thread that reads or writes the transport sets them once
//! per call. So the timer can read the stamps even while the reader thread or the writer thread is
//! stuck in the transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::logging::{trace, warn};
use super::warn_limiter::shown;
use super::{SessionShared, timer};
use crate::error::Error;
use crate::proto::keepalive::{TimerAction, TimerInput};
use crate::stats::WriterState;
use crate::sync::close::Phase;
use crate::sync::pause::Cause;
use crate::sync::shaper::Signal;
use crate::sync::stream::SharedStream;

/// The time stamps that matter to liveness. Stamps are in nanoseconds since `epoch`.
#[derive(Debug)]
pub(super) struct Clock {
    epoch: Instant,
    /// When anything was last received, or when the reader went on after a pause.
    received: AtomicU64,
    /// When stream data last crossed, in either direction, or the no-data timeout was set.
    payload: AtomicU64,
    /// The writer thread's state:
    /// - 0: the thread isn't in the transport.
    /// - `u64::MAX`: the thread has ended.
    /// - any other value: the thread has been in the transport since this stamp. One was added to
    ///   the stamp, so that it is never 0.
    writing: AtomicU64,
    /// Guards the session's no-data timeout. A leaf in the lock order.
    no_data: Mutex<Option<Duration>>,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            received: AtomicU64::new(0),
            payload: AtomicU64::new(0),
            writing: AtomicU64::new(0),
            no_data: Mutex::new(None),
        }
    }

    /// Returns the stamp for `now`.
    fn nanos(&self, now: Instant) -> u64 {
        // A u64 holds the nanoseconds of 584 years.
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the time of a stamp.
    fn instant(&self, stamp: &AtomicU64) -> Instant {
        self.epoch + Duration::from_nanos(stamp.load(Relaxed))
    }

    /// Records that something was received, or that the reader goes on after a pause.
    pub(super) fn received(&self, now: Instant) {
        self.received.fetch_max(self.nanos(now), Relaxed);
    }

    /// Records that the writer thread enters the transport.
    pub(super) fn writer_enters(&self) {
        self.writing.store(self.nanos(Instant::now()).saturating_add(1), Relaxed);
    }

    /// Records that the writer thread has left the transport.
    pub(super) fn writer_leaves(&self) {
        self.writing.store(0, Relaxed);
    }

    /// Records that the writer thread has ended.
    pub(super) fn writer_ends(&self) {
        self.writing.store(u64::MAX, Relaxed);
    }

    /// Returns the writer thread's state at `now`. `is_parked` says whether the thread is parked.
    /// This argument counts only while the thread isn't in the transport.
    pub(super) fn writer(&self, now: Instant, is_parked: bool) -> WriterState {
        match self.writing.load(Relaxed) {
            0 if is_parked => WriterState::Parked,
            0 => WriterState::Working,
            u64::MAX => WriterState::Ended,
            since => WriterState::InTransport(Duration::from_nanos(
                self.nanos(now).saturating_sub(since - 1),
            )),
        }
    }

    /// Records that stream data crossed.
    pub(super) fn payload(&self, now: Instant) {
        self.payload.fetch_max(self.nanos(now), Relaxed);
    }
}

impl SessionShared {
    pub(crate) fn no_data_timeout(&self) -> Option<Duration> {
        *self.clock.no_data.lock()
    }

    pub(crate) fn set_no_data_timeout(self: &Arc<Self>, timeout: Option<Duration>) {
        let now = Instant::now();
        *self.clock.no_data.lock() = timeout;
        // The no-data time begins with this call.
        self.clock.payload(now);
        if let Some(at) = timeout.and_then(|timeout| now.checked_add(timeout)) {
            timer::schedule(self, at);
        }
    }

    /// Looks at the session, on the timer's thread. `late` is the delay of this look after its
    /// scheduled time. Returns the time of the next look, or `None` for no more. Never blocks.
    pub(super) fn on_timer(&self, now: Instant, late: Duration) -> Option<Instant> {
        if self.lifecycle.is_in(Phase::Ended) {
            return self.on_timer_ended(now);
        }
        // A session that is closing has the close timeout instead.
        let no_data =
            if self.lifecycle.is_in(Phase::Closing) { None } else { self.no_data_timeout() };
        // The pause must be read before `received`. The reader sets that stamp before it ends the
        // pause, so a look that finds no pause finds the new stamp.
        let pause = self.pause();
        let input = TimerInput {
            now,
            late,
            received: self.clock.instant(&self.clock.received),
            payload: self.clock.instant(&self.clock.payload),
            no_data,
            paused: pause.is_some(),
            short: pause.filter(|&(_, cause)| cause == Cause::Budget).map(|(since, _)| since),
            deadline: self.lifecycle.deadline(),
        };
        let (action, next) = self.keepalive.lock().poll(input);
        match action {
            TimerAction::Nothing => {}
            TimerAction::Ping => self.env.shaper.signal(Signal::Ping),
            TimerAction::Stalled(after) => self.cut_the_largest(after),
            TimerAction::Silent(timeout) => self.end(Error::KeepaliveTimeout(timeout)),
            TimerAction::NoData(timeout) => self.end(Error::NoData(timeout)),
            TimerAction::Overdue => self.overdue(),
        }
        // A session that hasn't ended always has a next look, so that the timer's thread lives as
        // long as the session.
        (!self.lifecycle.is_in(Phase::Ended)).then(|| next.unwrap_or(now + IDLE_LOOK))
    }

    /// Looks at a session that has ended. When the session's input has reached its end of file, the
    /// writer thread may still be ending the output, for at most the close timeout.
    fn on_timer_ended(&self, now: Instant) -> Option<Instant> {
        let deadline = self.lifecycle.deadline().filter(|_| !self.is_aborted())?;
        if deadline <= now {
            self.overdue();
            return None;
        }
        Some(deadline)
    }

    /// Cuts the stream that holds most of the budget. `after` is the time for which the budget was
    /// used up. So the other streams can go on.
    fn cut_the_largest(&self, after: Duration) {
        if !self.env.budget.is_short() {
            // There is room again, but the reader hasn't run yet. A cut would gain nothing.
            return;
        }
        let Some((held, stream)) = self.largest() else { return };
        warn!(
            target: "gmux::session",
            "session {}: the receive budget was full for {after:?}; stream {} {}, which holds \
             {held} bytes, is cut",
            self.number, stream.id, shown(stream.name.bytes()),
        );
        self.fail_stream(&stream, Error::Stalled { held, after }, true);
    }

    /// Returns the stream that holds most of the budget, and the number of bytes that it holds.
    /// Returns `None` if no stream holds any.
    pub(super) fn largest(&self) -> Option<(usize, Arc<SharedStream>)> {
        let streams = self.registry.lock().streams.streams();
        let held = streams.into_iter().map(|stream| (stream.occupied(), stream));
        held.max_by_key(|(held, _)| *held).filter(|(held, _)| *held > 0)
    }

    // ---- the reader's pause ---------------------------------------------------------------------

    /// Returns the time at which the reader's current pause began, and its reason. Returns `None`
    /// if there is no pause.
    pub(crate) fn pause(&self) -> Option<(Instant, Cause)> {
        self.pause.current()
    }

    /// Records that the reader begins to wait for the application.
    pub(super) fn reader_pauses(self: &Arc<Self>, now: Instant, cause: Cause) {
        self.pause.begin(now, cause);
        trace!(
            target: "gmux::reader",
            "session {}: reading stops for want of room ({cause:?})",
            self.number,
        );
        match cause {
            Cause::Budget => {
                self.counters.receive_pauses.add(1);
                if let Some(at) = self.env.config.stall().and_then(|stall| now.checked_add(stall)) {
                    timer::schedule(self, at);
                }
            }
            Cause::Backlog => self.counters.accept_pauses.add(1),
        }
    }

    /// Records that the reader goes on. This counts as a sign of life, since input that came during
    /// the pause wasn't read.
    pub(super) fn reader_resumes(&self, now: Instant) {
        self.pause.end(|| self.clock.received(now));
    }
}

/// Interval of the timer's looks at a session that has no time limit. It only keeps the session in
/// the queue, so an hour is short enough.
pub(super) const IDLE_LOOK: Duration = Duration::from_secs(3600);

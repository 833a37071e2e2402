//! What the timer looks at: when something was last received, and when payload last crossed; and
//! what it does about it.
//!
//! Invariant: stamps are atomics, taken once per transport read or write by the threads that do
//! those, so that liveness depends on neither thread's being able to run.

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

/// Points in time that matter to liveness.
#[derive(Debug)]
pub(super) struct Clock {
    epoch: Instant,
    /// Nanoseconds since the epoch.
    received: AtomicU64,
    payload: AtomicU64,
    /// When the writer thread went into the transport, and one; 0 while it isn't there, the largest
    /// number when it is over.
    writing: AtomicU64,
    /// Guards the session's no-data timeout, a leaf.
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

    fn nanos(&self, now: Instant) -> u64 {
        // 584 years
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn instant(&self, stamp: &AtomicU64) -> Instant {
        self.epoch + Duration::from_nanos(stamp.load(Relaxed))
    }

    /// Something was received, or the reader goes on after a pause.
    pub(super) fn received(&self, now: Instant) {
        self.received.fetch_max(self.nanos(now), Relaxed);
    }

    /// The writer thread goes into the transport.
    pub(super) fn writer_enters(&self) {
        self.writing.store(self.nanos(Instant::now()).saturating_add(1), Relaxed);
    }

    /// The writer thread is out of the transport again.
    pub(super) fn writer_leaves(&self) {
        self.writing.store(0, Relaxed);
    }

    /// The writer thread is done, for ever.
    pub(super) fn writer_ends(&self) {
        self.writing.store(u64::MAX, Relaxed);
    }

    /// What the writer thread does, which may be parked if it isn't in the transport.
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

    /// Payload crossed.
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
        self.clock.payload(now); // the clock starts at the setting
        if let Some(at) = timeout.and_then(|timeout| now.checked_add(timeout)) {
            timer::schedule(self, at);
        }
    }

    /// The timer's look at the session, so much later than it was asked for; returns when to look
    /// again, `None` for no more. Never waits.
    pub(super) fn on_timer(&self, now: Instant, late: Duration) -> Option<Instant> {
        if self.lifecycle.is_in(Phase::Ended) {
            return self.on_timer_ended(now);
        }
        // A session that is closing has a deadline of its own.
        let no_data =
            if self.lifecycle.is_in(Phase::Closing) { None } else { self.no_data_timeout() };
        // Before `received`, which is stamped before a pause is seen to be over.
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
        // A session always has a next look, so that the timer's thread lives as long as a session
        // does.
        (!self.lifecycle.is_in(Phase::Ended)).then(|| next.unwrap_or(now + IDLE_LOOK))
    }

    /// The same when the session has ended with its input: its writer may still end the output, for
    /// some time.
    fn on_timer_ended(&self, now: Instant) -> Option<Instant> {
        let deadline = self.lifecycle.deadline().filter(|_| !self.is_aborted())?;
        if deadline <= now {
            self.overdue();
            return None;
        }
        Some(deadline)
    }

    /// The budget stayed used up: the stream that holds most of it goes, so that the others live.
    fn cut_the_largest(&self, after: Duration) {
        if !self.env.budget.is_short() {
            // there is room since, and the reader hasn't run yet: a second stream would
            // be cut for nothing
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

    /// The stream that holds most of the budget, and how many bytes that is.
    pub(super) fn largest(&self) -> Option<(usize, Arc<SharedStream>)> {
        let streams = self.registry.lock().streams.streams();
        let held = streams.into_iter().map(|stream| (stream.occupied(), stream));
        held.max_by_key(|(held, _)| *held).filter(|(held, _)| *held > 0)
    }

    // ---- the reader's pause ---------------------------------------------------------------------

    /// Since when the reader has been waiting for the application, and for what, if it is.
    pub(crate) fn pause(&self) -> Option<(Instant, Cause)> {
        self.pause.current()
    }

    /// The reader begins to wait for the application.
    pub(super) fn reader_pauses(self: &Arc<Self>, now: Instant, cause: Cause) {
        self.pause.begin(now, cause);
        trace!(target: "gmux::reader", "session {}: reading stops for want of room ({cause:?})", self.number);
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

    /// The reader goes on. That counts as life: what came meanwhile wasn't looked at.
    pub(super) fn reader_resumes(&self, now: Instant) {
        self.pause.end(|| self.clock.received(now));
    }
}

/// How often a session with no time limit at all is looked at.
pub(super) const IDLE_LOOK: Duration = Duration::from_secs(3600);

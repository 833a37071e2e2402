//! The lifecycle of a session: open, closing, ended. It holds the session's cause and the result of
//! `close`.
//!
//! ```text
//!            close() or last drop            writer and reader done, or close_timeout
//!   Open ──────────────────────────▶ Closing ────────────────────────────────────────▶ Ended
//!     │                                                                                  ▲
//!     ├── the transport takes no more writes ──▶ WriteFailed (reads go on) ──────────────┤
//!     └── the input's end, or any fatal error ───────────────────────────────────────────┘
//! ```
//!
//! # The result of `close`
//! The result is called the *outcome* here. It is `Ok` on three conditions:
//! 1. The writer has handed everything over and ended its direction.
//! 2. The input has ended with an end of file, and not with an error.
//! 3. No accepted byte was left when the input ended.
//!
//! Each condition is reported here by the thread that knows it. The outcome is decided as soon as
//! the reports allow it. If the transport can't tell its peer that writing is over, the outcome
//! doesn't wait for the input. Then the second condition isn't required.
//!
//! # Invariants
//! - The phase never goes back.
//! - The first cause is kept, and so is the first outcome.
//! - [`Lifecycle::end`] returns the cause to one caller only. That caller does all further work of
//!   the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

/// A phase of the lifecycle. The order matters: from `Closing` on, the session was closed here or
/// has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Open,
    WriteFailed,
    Closing,
    Ended,
}

/// The lifecycle of a session.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// A copy of the state's phase, which is read without the lock.
    phase: AtomicU8,
    /// Whether the peer has ended its side. Bytes that are handed over after that come too late.
    input_over: AtomicBool,
    /// Whether the transport can tell its peer that writing is over. If it can, the peer ends its
    /// side, too, and `close` waits for that.
    can_finish: bool,
    /// Guards the rest of the lifecycle's state. It is a leaf of the lock order.
    state: Mutex<State>,
    /// Calls of `close` wait here, and so do drops of the last handle. Each of these wakes them:
    /// `begin_close`, `fail_write`, `writer_done`, `input_done`, `mark_notified`, `end` and
    /// `overdue`.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    cause: Option<Arc<Error>>,
    /// The time at which the session has to be over. `None` while the session is open, or if there
    /// is no limit.
    deadline: Option<Instant>,
    /// The time at which the close began or the input ended.
    since: Option<Instant>,
    /// The result of the writer thread, once it has finished.
    written: Option<Result<()>>,
    /// The end of the input, once it has come. `Ok` is an end of file.
    input: Option<Result<()>>,
    /// Accepted bytes that hadn't been handed over when the peer ended its side.
    late: u64,
    /// The outcome of `close`, once it is decided.
    outcome: Option<Result<()>>,
    /// Whether every stream was told of the close or the end.
    streams_notified: bool,
    closed: ClosedChannel,
}

impl State {
    /// Decides the outcome of `close` if the reports allow it.
    fn decide_outcome(&mut self, can_finish: bool) {
        if self.outcome.is_some() {
            return;
        }
        self.outcome = match (self.phase, self.cause.as_deref()) {
            (Phase::Open, _) => None,
            // The peer ended first. Then it doesn't matter whether the peer could be told of our
            // end. The bytes that are left in a stream are counted when the stream is told of the
            // session's end. So the outcome waits until all streams were told.
            (Phase::Ended, Some(Error::PeerClosed)) => {
                self.written.as_ref().filter(|_| self.streams_notified).map(|_| self.nothing_late())
            }
            (Phase::Closing, _) | (Phase::Ended, None | Some(Error::Closed)) => {
                match (&self.written, &self.input) {
                    (Some(Err(error)), _) => Some(Err(error.clone())),
                    (Some(Ok(())), Some(Ok(()))) => Some(self.nothing_late()),
                    (Some(Ok(())), _) if !can_finish => Some(self.nothing_late()),
                    (Some(Ok(())), Some(Err(error))) => Some(Err(error.clone())),
                    (Some(Ok(())), None) | (None, _) => None,
                }
            }
            (Phase::WriteFailed | Phase::Ended, cause) => cause.map(|cause| Err(cause.clone())),
        };
    }

    /// Returns `Ok` if no accepted byte was left when the peer ended its side.
    ///
    /// # Errors
    /// `CloseIncomplete` if the peer had ended its side before the last accepted byte was handed
    /// over.
    fn nothing_late(&self) -> Result<()> {
        match self.late {
            0 => Ok(()),
            unsent => Err(Error::CloseIncomplete { unsent, after: self.age(), peer_ended: true }),
        }
    }

    /// Returns the time since the close began or the input ended.
    fn age(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The channel of `closed()`. Nothing is ever sent on it. It is created at the first call of
/// `closed()`. Dropping this value disconnects its receivers.
pub(crate) type ClosedChannel = Option<(Sender<()>, Receiver<()>)>;

/// The effect of the input's end on a session.
#[derive(Debug)]
pub(crate) enum InputEnd {
    /// It ends the session with this cause. The caller does all further work of the end.
    Ends(Arc<Error>),
    /// The session is closing or has ended already. The last of the reader thread and the writer
    /// thread completes the close.
    Noted,
}

impl Lifecycle {
    /// Creates the lifecycle of a session. `can_finish` says whether its transport can tell the
    /// peer that writing is over.
    pub(crate) fn new(can_finish: bool) -> Self {
        let state = State {
            phase: Phase::Open,
            cause: None,
            deadline: None,
            since: None,
            written: None,
            input: None,
            late: 0,
            outcome: None,
            streams_notified: false,
            closed: None,
        };
        Self {
            phase: AtomicU8::new(Phase::Open as u8),
            input_over: AtomicBool::new(false),
            can_finish,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Returns whether the session is in `phase`.
    pub(crate) fn is_in(&self, phase: Phase) -> bool {
        self.phase.load(SeqCst) == phase as u8
    }

    /// Returns whether the session was closed here or has ended.
    pub(crate) fn is_closing_or_ended(&self) -> bool {
        self.phase.load(SeqCst) >= Phase::Closing as u8
    }

    /// Returns whether the peer has ended its side.
    pub(crate) fn is_input_over(&self) -> bool {
        self.input_over.load(SeqCst)
    }

    /// Returns the cause: the first error after which the session wasn't usable any more.
    pub(crate) fn cause(&self) -> Option<Arc<Error>> {
        self.state.lock().cause.clone()
    }

    /// Returns the time at which the session has to be over, if there is one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.state.lock().deadline
    }

    /// Changes the state, decides the outcome if that is possible now, and wakes all waiters.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        state.decide_outcome(self.can_finish);
        drop(state);
        self.changed.notify_all();
        result
    }

    /// Enters a phase. The cause stays if there is one already.
    fn step(&self, state: &mut State, phase: Phase, cause: &Arc<Error>) {
        state.phase = phase;
        self.phase.store(phase as u8, SeqCst);
        state.cause.get_or_insert_with(|| Arc::clone(cause));
    }

    /// Begins the local close at `now`. Returns `true` only if the session was open. Then the
    /// caller tells all streams and calls [`mark_notified`](Self::mark_notified).
    pub(crate) fn begin_close(&self, now: Instant, deadline: Option<Instant>) -> bool {
        self.change(|state| {
            let first = state.phase == Phase::Open;
            if first {
                self.step(state, Phase::Closing, &Arc::new(Error::Closed));
                state.since = Some(now);
                state.deadline = deadline;
            }
            first
        })
    }

    /// Notes that every stream was told of the close or the end, and that the bytes left in them
    /// are counted. Returns the channel of `closed()`, which the caller drops.
    pub(crate) fn mark_notified(&self) -> ClosedChannel {
        self.change(|state| {
            state.streams_notified = true;
            state.closed.take()
        })
    }

    /// Notes that the transport takes no more writes. Returns `true` only if the session was open.
    pub(crate) fn fail_write(&self, cause: &Arc<Error>, deadline: Option<Instant>) -> bool {
        self.change(|state| {
            let first = state.phase == Phase::Open;
            if first {
                self.step(state, Phase::WriteFailed, cause);
                state.deadline = deadline;
            }
            first
        })
    }

    /// Ends the session. Returns the session's cause, to the first caller only. This is `cause`,
    /// unless the session had a cause already. The first caller tells all streams and calls
    /// [`mark_notified`](Self::mark_notified).
    pub(crate) fn end(&self, cause: Error) -> Option<Arc<Error>> {
        self.end_with(cause, None)
    }

    /// Ends the session because its time is over. `unsent` is the number of accepted bytes that the
    /// transport isn't known to have taken. Returns as [`end`](Self::end) does.
    pub(crate) fn overdue(&self, unsent: u64, after: Duration) -> Option<Arc<Error>> {
        self.end_with(
            Error::Closed,
            Some(Error::CloseIncomplete { unsent, after, peer_ended: false }),
        )
    }

    /// Ends a session. If a close is under way and its outcome isn't known yet, the outcome becomes
    /// the first of these that exists: the error of a failed input, `incomplete`, `cause`.
    fn end_with(&self, cause: Error, incomplete: Option<Error>) -> Option<Arc<Error>> {
        self.change(|state| {
            if state.phase == Phase::Closing {
                state.decide_outcome(self.can_finish);
                // The error of the input explains more than `incomplete` or `cause`.
                let known = state.input.clone().and_then(Result::err).or(incomplete.clone());
                state.outcome.get_or_insert_with(|| Err(known.unwrap_or_else(|| cause.clone())));
            } else if state.phase == Phase::Ended {
                if incomplete.is_some() {
                    // The peer had ended its side. This side couldn't end its own in time.
                    let unsent = state.late;
                    let after = state.age();
                    state.outcome.get_or_insert(Err(Error::CloseIncomplete {
                        unsent,
                        after,
                        peer_ended: true,
                    }));
                }
                return None;
            }
            let cause = Arc::new(cause);
            self.step(state, Phase::Ended, &cause);
            state.cause.clone()
        })
    }

    /// Notes that the input has ended with `error`. `clean` says whether the transport reported an
    /// end of file. The end may lie between two frames or inside one. The whole change is one step
    /// under the lock, since a close may begin at any moment.
    pub(crate) fn input_done(
        &self,
        error: Error,
        clean: bool,
        now: Instant,
        deadline: Option<Instant>,
    ) -> InputEnd {
        self.change(|state| {
            if clean {
                self.input_over.store(true, SeqCst);
            }
            state.input.get_or_insert(if clean { Ok(()) } else { Err(error.clone()) });
            if state.phase >= Phase::Closing {
                return InputEnd::Noted;
            }
            let cause = Arc::new(error);
            self.step(state, Phase::Ended, &cause);
            if clean {
                state.since = Some(now);
                state.deadline = deadline;
            }
            InputEnd::Ends(state.cause.clone().unwrap_or(cause))
        })
    }

    /// Counts accepted bytes that hadn't been handed over when the peer ended its side.
    pub(crate) fn too_late(&self, bytes: u64) {
        self.state.lock().late += bytes;
    }

    /// Notes that the writer thread has finished. `Ok` means that everything is handed over and the
    /// writing direction has ended.
    pub(crate) fn writer_done(&self, result: Result<()>) {
        self.change(|state| {
            state.written.get_or_insert(result);
        });
    }

    /// Waits until `done` holds. Returns `false` if the deadline passes first.
    fn wait(&self, done: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        while !done(&state) {
            match state.deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() && !done(&state) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Waits until the outcome of `close` is decided, or until the deadline. Returns `None` at the
    /// deadline. Then [`overdue`](Self::overdue) decides the outcome.
    ///
    /// # Errors
    /// The inner result is that of `close`.
    pub(crate) fn wait_outcome(&self) -> Option<Result<()>> {
        self.wait(|state| state.outcome.is_some());
        self.outcome()
    }

    /// Returns whether both directions have ended by themselves and without an error. Then there is
    /// nothing to abort. Returns `false` if the transport can't tell its peer that writing is over.
    pub(crate) fn ended_in_order(&self) -> bool {
        let state = self.state.lock();
        self.can_finish && matches!((&state.written, &state.input), (Some(Ok(())), Some(Ok(()))))
    }

    /// Returns the outcome of `close` if it is decided.
    pub(crate) fn outcome(&self) -> Option<Result<()>> {
        self.state.lock().outcome.clone()
    }

    /// Waits until one of these:
    ///
    /// - All accepted bytes were handed over, and the writing direction has ended.
    /// - That has become impossible.
    /// - The deadline has passed.
    pub(crate) fn wait_written(&self) {
        self.wait(|state| {
            state.written.is_some() || matches!(state.phase, Phase::Ended | Phase::WriteFailed)
        });
    }

    /// Returns a channel that disconnects after the session was closed here or has ended, and all
    /// its streams were told.
    pub(crate) fn closed(&self) -> Receiver<()> {
        let mut state = self.state.lock();
        if state.streams_notified {
            return disconnected();
        }
        state.closed.get_or_insert_with(|| bounded(0)).1.clone()
    }
}

/// Returns a channel that is disconnected already.
pub(crate) fn disconnected() -> Receiver<()> {
    bounded(0).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::watched;
    use crossbeam_channel::TryRecvError;
    use std::io;
    use std::thread;
    use std::time::Duration;

    const PHASES: [Phase; 4] = [Phase::Open, Phase::WriteFailed, Phase::Closing, Phase::Ended];

    fn cut() -> Arc<Error> {
        Arc::new(Error::from(io::Error::other("cut")))
    }

    /// Returns a lifecycle in `phase`.
    fn life_in(phase: Phase) -> Lifecycle {
        let life = Lifecycle::new(true);
        match phase {
            Phase::Open => {}
            Phase::WriteFailed => assert!(life.fail_write(&cut(), None)),
            Phase::Closing => assert!(life.begin_close(Instant::now(), None)),
            Phase::Ended => assert!(life.end(Error::GoAway).is_some()),
        }
        life
    }

    /// Returns whether a channel of `closed()` is connected.
    fn open(channel: &Receiver<()>) -> bool {
        match channel.try_recv() {
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
            Ok(()) => panic!("nothing is ever sent"),
        }
    }

    #[test]
    fn a_session_is_in_one_phase() {
        for phase in PHASES {
            let life = life_in(phase);
            assert_eq!(PHASES.map(|other| life.is_in(other)), PHASES.map(|other| other == phase));
            assert_eq!(life.is_closing_or_ended(), matches!(phase, Phase::Closing | Phase::Ended));
            assert_eq!(life.cause().is_some(), phase != Phase::Open);
        }
    }

    #[test]
    fn each_step_is_taken_from_the_phases_before_it_alone() {
        let closes = PHASES.map(|phase| life_in(phase).begin_close(Instant::now(), None));
        assert_eq!(closes, [true, false, false, false]);
        let fails = PHASES.map(|phase| life_in(phase).fail_write(&cut(), None));
        assert_eq!(fails, [true, false, false, false]);
        let ends = PHASES.map(|phase| life_in(phase).end(Error::Timeout).is_some());
        assert_eq!(ends, [true, true, true, false]);
        let ends = PHASES
            .map(|phase| matches!(input_done(&life_in(phase), Error::Timeout), InputEnd::Ends(_)));
        assert_eq!(ends, [true, true, false, false]);
    }

    #[test]
    fn the_first_cause_stays_and_is_what_an_end_returns() {
        let life = Lifecycle::new(true);
        let cause = life.end(Error::GoAway).unwrap();
        assert!(matches!(*cause, Error::GoAway) && life.is_in(Phase::Ended));
        let life = life_in(Phase::Closing);
        let cause = life.end(Error::GoAway).unwrap();
        assert!(matches!(*cause, Error::Closed));
        let life = life_in(Phase::WriteFailed);
        assert!(matches!(input_done(&life, Error::PeerClosed), InputEnd::Ends(cause)
                if matches!(*cause, Error::Io(_))));
        assert!(life.end(Error::GoAway).is_none());
        assert!(matches!(life.cause().as_deref(), Some(Error::Io(_))));
    }

    #[test]
    fn a_close_and_failed_writes_set_the_time_by_which_all_has_to_be_over() {
        let at = Instant::now() + Duration::from_secs(3600);
        let life = Lifecycle::new(true);
        assert_eq!(life.deadline(), None);
        let _ = life.begin_close(Instant::now(), Some(at));
        assert_eq!(life.deadline(), Some(at));
        let life = Lifecycle::new(true);
        life.fail_write(&cut(), Some(at));
        assert!(!life.fail_write(&cut(), None), "the first stays");
        assert_eq!(life.deadline(), Some(at));
    }

    #[test]
    fn the_channel_disconnects_when_the_streams_were_told_and_not_before() {
        let life = Lifecycle::new(true);
        let first = life.closed();
        let second = life.closed();
        life.fail_write(&cut(), None);
        assert!(open(&first) && open(&second) && open(&life.closed()), "reads go on");
        assert!(life.end(Error::PeerClosed).is_some());
        let late = life.closed();
        assert!(open(&first) && open(&late), "streams are told first");
        let _ = life.mark_notified();
        assert!(!open(&first) && !open(&second) && !open(&late) && !open(&life.closed()));

        let life = Lifecycle::new(true);
        let channel = life.closed();
        assert!(life.begin_close(Instant::now(), None));
        assert!(open(&channel) && open(&life.closed()));
        let _ = life.mark_notified();
        assert!(!open(&channel) && !open(&life.closed()));
    }

    /// Ends the input of `life` with `error`, and returns the effect.
    fn input_done(life: &Lifecycle, error: Error) -> InputEnd {
        let clean = error.is_end_of_input();
        life.input_done(error, clean, Instant::now(), None)
    }

    fn is_incomplete(outcome: Option<Result<()>>, count: u64, by_peer: bool) -> bool {
        matches!(outcome, Some(Err(Error::CloseIncomplete { unsent, peer_ended, .. }))
            if unsent == count && peer_ended == by_peer)
    }

    #[test]
    fn a_close_is_ok_when_all_was_handed_over_and_then_the_input_ended_cleanly() {
        for input_first in [false, true] {
            let life = life_in(Phase::Closing);
            assert!(life.outcome().is_none());
            if input_first {
                assert!(matches!(input_done(&life, Error::PeerClosed), InputEnd::Noted));
                assert!(life.outcome().is_none() && life.is_input_over());
                life.writer_done(Ok(()));
            } else {
                life.writer_done(Ok(()));
                assert!(life.outcome().is_none(), "the peer may not have read it");
                assert!(matches!(input_done(&life, Error::PeerClosed), InputEnd::Noted));
            }
            assert!(matches!(life.outcome(), Some(Ok(()))) && life.ended_in_order());
            assert!(life.is_in(Phase::Closing));
            let _ = life.end(Error::Closed);
            assert!(matches!(life.outcome(), Some(Ok(()))), "the first stays");
        }
    }

    #[test]
    fn a_close_says_what_went_wrong_first() {
        // The writer failed. A second report changes nothing.
        let life = life_in(Phase::Closing);
        life.writer_done(Err(Error::GoAway));
        life.writer_done(Ok(()));
        assert!(matches!(life.outcome(), Some(Err(Error::GoAway))));
        // The input failed, before or after the writer was done.
        for writer_first in [false, true] {
            let life = life_in(Phase::Closing);
            if writer_first {
                life.writer_done(Ok(()));
            }
            let _ = input_done(&life, Error::GoAway);
            if !writer_first {
                assert!(life.outcome().is_none() && !life.is_input_over());
                life.writer_done(Ok(()));
            }
            assert!(matches!(life.outcome(), Some(Err(Error::GoAway))) && !life.ended_in_order());
        }
        // Time ran out after the input had failed. The input's error is the outcome.
        let life = life_in(Phase::Closing);
        let _ = input_done(&life, Error::GoAway);
        let _ = life.overdue(7, Duration::ZERO);
        assert!(matches!(life.outcome(), Some(Err(Error::GoAway))));
        // Another error ended the session.
        let life = life_in(Phase::Closing);
        let _ = life.end(Error::NoData(Duration::ZERO));
        assert!(matches!(life.outcome(), Some(Err(Error::NoData(_)))));
        assert!(matches!(life_in(Phase::Ended).outcome(), Some(Err(Error::GoAway))));
        assert!(matches!(life_in(Phase::WriteFailed).outcome(), Some(Err(Error::Io(_)))));
    }

    #[test]
    fn a_close_that_takes_too_long_is_incomplete() {
        let life = life_in(Phase::Closing);
        assert!(life.overdue(7, Duration::ZERO).is_some());
        assert!(is_incomplete(life.outcome(), 7, false));
        life.writer_done(Ok(()));
        let _ = input_done(&life, Error::PeerClosed);
        assert!(is_incomplete(life.outcome(), 7, false), "the first stays");
        assert!(life.overdue(0, Duration::ZERO).is_none());
    }

    #[test]
    fn what_is_handed_over_after_the_peers_end_is_lost() {
        // The input ends while the session closes.
        let life = life_in(Phase::Closing);
        let _ = input_done(&life, Error::PeerClosed);
        life.too_late(5);
        life.too_late(6);
        life.writer_done(Ok(()));
        assert!(is_incomplete(life.outcome(), 11, true));
        // The peer ended first, and the close came later.
        let life = Lifecycle::new(true);
        assert!(matches!(input_done(&life, Error::PeerClosed), InputEnd::Ends(_)));
        assert!(!life.begin_close(Instant::now(), None) && life.outcome().is_none());
        life.writer_done(Err(Error::GoAway));
        assert!(life.outcome().is_none(), "what the streams had left isn't counted yet");
        life.too_late(5);
        let _ = life.mark_notified();
        assert!(is_incomplete(life.outcome(), 5, true));
        // The session's output couldn't be ended in time.
        for late in [0, 5] {
            let life = Lifecycle::new(true);
            let _ = input_done(&life, Error::PeerClosed);
            life.too_late(late);
            assert!(life.overdue(0, Duration::ZERO).is_none());
            assert!(is_incomplete(life.outcome(), late, true));
        }
    }

    #[test]
    fn without_a_way_to_tell_the_peer_a_close_is_ok_when_all_was_handed_over() {
        let life = Lifecycle::new(false);
        assert!(life.begin_close(Instant::now(), None));
        life.writer_done(Ok(()));
        assert!(matches!(life.outcome(), Some(Ok(()))));
        let _ = life.overdue(0, Duration::ZERO);
        assert!(matches!(life.outcome(), Some(Ok(()))) && !life.ended_in_order());
    }

    #[test]
    fn a_close_after_the_inputs_end_is_no_error_if_nothing_was_left() {
        let life = Lifecycle::new(true);
        assert!(matches!(input_done(&life, Error::PeerClosed), InputEnd::Ends(_)));
        assert!(matches!(input_done(&life, Error::Closed), InputEnd::Noted));
        assert!(!life.begin_close(Instant::now(), None));
        let _ = life.mark_notified();
        // The writer's failure doesn't matter, because the peer has already ended its side.
        life.writer_done(Err(Error::GoAway));
        assert!(matches!(life.outcome(), Some(Ok(()))));
    }

    #[test]
    fn waiters_are_woken_by_the_writer_the_input_and_the_end() {
        watched(|| {
            // With a deadline far away, and without one.
            let far = Instant::now() + Duration::from_secs(3600);
            for deadline in [None, Some(far)] {
                for ended in [false, true] {
                    let life = Arc::new(Lifecycle::new(true));
                    let _ = life.begin_close(Instant::now(), deadline);
                    let waiters = [(); 2].map(|()| {
                        let life = Arc::clone(&life);
                        thread::spawn(move || life.wait_outcome())
                    });
                    let written = thread::spawn({
                        let life = Arc::clone(&life);
                        move || life.wait_written()
                    });
                    // Nothing shows that a thread has begun to wait here. It may also find that the
                    // outcome is decided already.
                    thread::yield_now();
                    if ended {
                        let _ = life.end(Error::GoAway);
                    } else {
                        life.writer_done(Ok(()));
                        written.join().unwrap();
                        let _ = input_done(&life, Error::PeerClosed);
                    }
                    let outcomes = waiters.map(|waiter| waiter.join().unwrap().unwrap());
                    assert!(
                        outcomes.iter().all(|outcome| outcome.is_err() == ended),
                        "{outcomes:?}"
                    );
                }
            }
        });
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        watched(|| {
            let life = Lifecycle::new(true);
            let _ =
                life.begin_close(Instant::now(), Some(Instant::now() + Duration::from_millis(1)));
            assert!(life.wait_outcome().is_none());
            life.wait_written();
        });
    }
}

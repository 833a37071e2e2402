//! A session's life: open, closing, ended; and its one sticky cause.
//!
//! ```text
//!            close() or last drop            writer and reader done, or close_timeout
//!   Open ──────────────────────────▶ Closing ────────────────────────────────────────▶ Ended
//!     │                                                                                  ▲
//!     ├── the transport takes no more writes ──▶ WriteFailed (reads go on) ──────────────┤
//!     └── any fatal error ───────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants: the phase never goes back; the first cause stays; [`Lifecycle::end`] returns the cause to one caller alone, who
//! does what an end needs.
//!
//! The lock guards all of it and is a leaf. Waiters on `changed` are `close` calls; `writer_done` and `end` wake them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Open,
    WriteFailed,
    Closing,
    Ended,
}

#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// A copy of the state's phase, to be read without its lock.
    phase: AtomicU8,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    cause: Option<Arc<Error>>,
    /// When a session that is closing, or whose writes failed, has to be over.
    deadline: Option<Instant>,
    /// How the writer thread finished, once it has.
    written: Option<Result<()>>,
    /// Whether every stream was told of the close or the end.
    told: bool,
    closed: ClosedChannel,
}

/// A channel on which nothing is ever sent, made when somebody asks for it; dropping this disconnects it.
pub(crate) type ClosedChannel = Option<(Sender<()>, Receiver<()>)>;

impl Lifecycle {
    pub(crate) fn new() -> Self {
        let state = State { phase: Phase::Open, cause: None, deadline: None, written: None, told: false, closed: None };
        Self { phase: AtomicU8::new(Phase::Open as u8), state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(crate) fn is_in(&self, phase: Phase) -> bool {
        self.phase.load(SeqCst) == phase as u8
    }

    /// Whether the session was closed here, or has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.phase.load(SeqCst) >= Phase::Closing as u8
    }

    /// Why the session is over, or not usable any more.
    pub(crate) fn cause(&self) -> Option<Arc<Error>> {
        self.state.lock().cause.clone()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.state.lock().deadline
    }

    fn step(&self, state: &mut State, phase: Phase, cause: &Arc<Error>) {
        state.phase = phase;
        self.phase.store(phase as u8, SeqCst);
        state.cause.get_or_insert_with(|| Arc::clone(cause));
    }

    /// The local close begins; returns whether it does so now, for the first time, on a session that is open. Then
    /// [`told`](Self::told) follows.
    pub(crate) fn begin_close(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        let first = state.phase == Phase::Open;
        if first {
            self.step(&mut state, Phase::Closing, &Arc::new(Error::Closed));
            state.deadline = deadline;
        }
        first
    }

    /// Every stream knows of the close or the end; returns the channel, to be dropped.
    pub(crate) fn told(&self) -> ClosedChannel {
        let mut state = self.state.lock();
        state.told = true;
        state.closed.take()
    }

    /// The transport takes no more writes; returns whether that is news to an open session.
    pub(crate) fn fail_write(&self, cause: &Arc<Error>, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        let first = state.phase == Phase::Open;
        if first {
            self.step(&mut state, Phase::WriteFailed, cause);
            state.deadline = deadline;
        }
        first
    }

    /// The session ends; returns, to the first caller alone, its cause: `cause`, or what ended it before. Then [`told`](Self::told)
    /// follows.
    pub(crate) fn end(&self, cause: Error) -> Option<Arc<Error>> {
        self.end_if(|phase| phase != Phase::Ended, cause)
    }

    /// [`end`](Self::end), unless a local close has begun: then the writer still has something to send, and the session ends when that is
    /// done. One step, since a close may begin at any moment.
    pub(crate) fn end_unless_closing(&self, cause: Error) -> Option<Arc<Error>> {
        self.end_if(|phase| phase < Phase::Closing, cause)
    }

    fn end_if(&self, may_end: impl FnOnce(Phase) -> bool, cause: Error) -> Option<Arc<Error>> {
        let mut state = self.state.lock();
        if !may_end(state.phase) {
            return None;
        }
        let cause = Arc::new(cause);
        self.step(&mut state, Phase::Ended, &cause);
        let result = state.cause.clone().unwrap_or(cause);
        drop(state);
        self.changed.notify_all();
        Some(result)
    }

    /// The writer thread has finished a close.
    pub(crate) fn writer_done(&self, result: Result<()>) {
        self.state.lock().written.get_or_insert(result);
        self.changed.notify_all();
    }

    /// Waits until everything accepted was handed over and the writing direction ended.
    ///
    /// # Errors
    /// `Timeout` if that took longer than the close timeout; what ended the session before, unless it was the peer's clean end.
    pub(crate) fn wait_written(&self) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            if let Some(result) = &state.written {
                return result.clone();
            }
            match (state.phase, state.cause.as_deref(), state.deadline) {
                (Phase::Ended, Some(Error::PeerClosed), _) => return Ok(()),
                (Phase::Ended, None | Some(Error::Closed), _) => return Err(Error::Timeout),
                (Phase::Ended | Phase::WriteFailed, Some(cause), _) => return Err(cause.clone()),
                (_, _, None) => self.changed.wait(&mut state),
                (_, _, Some(deadline)) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() && state.written.is_none() {
                        return Err(Error::Timeout);
                    }
                }
            }
        }
    }

    /// A channel that disconnects when the session is closed here, or ends, and its streams were told.
    pub(crate) fn closed(&self) -> Receiver<()> {
        let mut state = self.state.lock();
        if state.told {
            return disconnected();
        }
        state.closed.get_or_insert_with(|| bounded(0)).1.clone()
    }
}

/// A channel that is disconnected already.
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

    /// A session that has come to `phase`.
    fn life_in(phase: Phase) -> Lifecycle {
        let life = Lifecycle::new();
        match phase {
            Phase::Open => {}
            Phase::WriteFailed => assert!(life.fail_write(&cut(), None)),
            Phase::Closing => assert!(life.begin_close(None)),
            Phase::Ended => assert!(life.end(Error::GoAway).is_some()),
        }
        life
    }

    /// Whether a closed channel is open still.
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
            assert_eq!(life.is_over(), matches!(phase, Phase::Closing | Phase::Ended));
            assert_eq!(life.cause().is_some(), phase != Phase::Open);
        }
    }

    #[test]
    fn each_step_is_taken_from_the_phases_before_it_alone() {
        let closes = PHASES.map(|phase| life_in(phase).begin_close(None));
        assert_eq!(closes, [true, false, false, false]);
        let fails = PHASES.map(|phase| life_in(phase).fail_write(&cut(), None));
        assert_eq!(fails, [true, false, false, false]);
        let ends = PHASES.map(|phase| life_in(phase).end(Error::Timeout).is_some());
        assert_eq!(ends, [true, true, true, false]);
        let ends = PHASES.map(|phase| life_in(phase).end_unless_closing(Error::Timeout).is_some());
        assert_eq!(ends, [true, true, false, false]);
    }

    #[test]
    fn the_first_cause_stays_and_is_what_an_end_returns() {
        let life = Lifecycle::new();
        let cause = life.end(Error::GoAway).unwrap();
        assert!(matches!(*cause, Error::GoAway) && life.is_in(Phase::Ended));
        let life = life_in(Phase::Closing);
        let cause = life.end(Error::GoAway).unwrap();
        assert!(matches!(*cause, Error::Closed));
        let life = life_in(Phase::WriteFailed);
        let cause = life.end_unless_closing(Error::PeerClosed).unwrap();
        assert!(matches!(*cause, Error::Io(_)));
        assert!(life.end(Error::GoAway).is_none());
        assert!(matches!(life.cause().as_deref(), Some(Error::Io(_))));
    }

    #[test]
    fn a_close_and_failed_writes_set_the_time_by_which_all_has_to_be_over() {
        let at = Instant::now() + Duration::from_secs(3600);
        let life = Lifecycle::new();
        assert_eq!(life.deadline(), None);
        let _ = life.begin_close(Some(at));
        assert_eq!(life.deadline(), Some(at));
        let life = Lifecycle::new();
        life.fail_write(&cut(), Some(at));
        assert!(!life.fail_write(&cut(), None), "the first stays");
        assert_eq!(life.deadline(), Some(at));
    }

    #[test]
    fn the_channel_disconnects_when_the_streams_were_told_and_not_before() {
        let life = Lifecycle::new();
        let (first, second) = (life.closed(), life.closed());
        life.fail_write(&cut(), None);
        assert!(open(&first) && open(&second) && open(&life.closed()), "reads go on");
        assert!(life.end(Error::PeerClosed).is_some());
        let late = life.closed();
        assert!(open(&first) && open(&late), "streams are told first");
        drop(life.told());
        assert!(!open(&first) && !open(&second) && !open(&late) && !open(&life.closed()));

        let life = Lifecycle::new();
        let channel = life.closed();
        assert!(life.begin_close(None));
        assert!(open(&channel) && open(&life.closed()));
        drop(life.told());
        assert!(!open(&channel) && !open(&life.closed()));
    }

    #[test]
    fn what_a_close_reports() {
        watched(|| {
            // The writer's own word comes first.
            let life = life_in(Phase::Closing);
            life.writer_done(Ok(()));
            life.writer_done(Err(Error::GoAway));
            let _ = life.end(Error::Timeout);
            assert!(life.wait_written().is_ok());
            let life = life_in(Phase::Closing);
            life.writer_done(Err(Error::GoAway));
            assert!(matches!(life.wait_written(), Err(Error::GoAway)));
            // Ended before it was written: that took too long.
            let life = life_in(Phase::Closing);
            let _ = life.end(Error::Timeout);
            assert!(matches!(life.wait_written(), Err(Error::Timeout)));
            // Something else ended it.
            assert!(matches!(life_in(Phase::Ended).wait_written(), Err(Error::GoAway)));
            assert!(matches!(life_in(Phase::WriteFailed).wait_written(), Err(Error::Io(_))));
        });
    }

    #[test]
    fn a_close_waits_for_the_writer_or_the_end() {
        watched(|| {
            // With a deadline far away, and without one.
            let far = Instant::now() + Duration::from_secs(3600);
            for deadline in [None, Some(far)] {
                for written in [true, false] {
                    let life = Arc::new(Lifecycle::new());
                    let _ = life.begin_close(deadline);
                    let waiters = [(); 2].map(|()| {
                        let life = Arc::clone(&life);
                        thread::spawn(move || life.wait_written())
                    });
                    // There is no event for a thread's falling asleep here: it may as well find it done already.
                    thread::yield_now();
                    if written {
                        life.writer_done(Ok(()));
                    } else {
                        let _ = life.end(Error::GoAway);
                    }
                    let results = waiters.map(|waiter| waiter.join().unwrap());
                    assert!(results.iter().all(|result| result.is_ok() == written), "{results:?}");
                }
            }
        });
    }

    #[test]
    fn a_close_that_takes_too_long_is_a_timeout() {
        watched(|| {
            let life = Lifecycle::new();
            let _ = life.begin_close(Some(Instant::now() + Duration::from_millis(1)));
            assert!(matches!(life.wait_written(), Err(Error::Timeout)));
        });
    }

    #[test]
    fn the_inputs_end_doesnt_end_a_session_that_is_closing() {
        let life = Lifecycle::new();
        assert!(life.begin_close(None));
        assert!(life.end_unless_closing(Error::PeerClosed).is_none());
        assert!(life.is_in(Phase::Closing));
        life.writer_done(Ok(()));
        assert!(life.wait_written().is_ok());
        assert!(matches!(life.end(Error::Closed), Some(cause) if matches!(*cause, Error::Closed)));
    }

    #[test]
    fn a_close_after_the_inputs_end_is_no_error() {
        let life = Lifecycle::new();
        assert!(life.end_unless_closing(Error::PeerClosed).is_some());
        assert!(life.end_unless_closing(Error::Closed).is_none());
        assert!(!life.begin_close(None));
        assert!(life.wait_written().is_ok());
    }
}

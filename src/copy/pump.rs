//! The two directions of a copy at work: what each does with a call that failed or only waited, and
//! how one's failure ends the other.
//!
//! Direction 0 reads `ends[0]` and writes `ends[1]`, direction 1 the other way. Each has a thread.
//! They share [`State`] under a lock, which nobody waits on, and which isn't held across a call of
//! a connection.
//!
//! A failure belongs to one connection. What was received from that one still goes to the other
//! connection, since it came before the failure. Nothing more goes to it:
//!
//! | failure | the direction that reads the failed connection | the one that writes it |
//! |---|---|---|
//! | a read | is what failed: all that came before is written | `Stop`: both are aborted |
//! | a write | `Drain`: what has come is written, then it ends | is what failed |
//! | idle, a panic | `Stop` | `Stop` |
//!
//! Where an end ends both, the other direction goes on reading in `Discard`: a socket that is
//! closed with unread input resets the connection, and with it what was written there.
//!
//! Invariants: the first failure alone is told; after it no end is passed on, since it isn't the
//! peer's; every thread that is blocked when a direction fails is woken by `abort` or
//! `stop_reading`, or looks by itself when its write has timed out.

mod state;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::state::{Mode, Phase, State, Way};
use super::duplex::Duplex;
use super::{Copied, CopyOptions, Fault, Side};

/// The most that one read takes: what Linux's TCP hands over at once on a fast link. Memory that
/// isn't used isn't touched.
const BUFFER: usize = 64 * 1024;

/// How long a blocked write waits before it looks whether the other direction has failed: seldom
/// enough to cost nothing.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// The shortest timeout that is asked for: systems count in ticks of up to 10 ms.
pub(super) const SHORTEST: Duration = Duration::from_millis(20);

/// After a failure, what has come may wait so long for room at the other end: as a session's close
/// does by default.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// After a failure, so much is still copied: more than the system and a session hold by default (6
/// and 4 MiB), so that a peer that goes on sending doesn't keep the copy from ending.
const DRAIN_BYTES: u64 = 16 << 20;

/// Why a direction didn't come to its end.
enum Ended {
    /// The other one has failed.
    Stopped,
    Failed(Fault, io::Error),
}

pub(super) struct Pumps<'a> {
    ends: [&'a dyn Duplex; 2],
    options: &'a CopyOptions,
    /// How long a write to each end waits; `None`: for ever.
    bounds: [Option<Duration>; 2],
    /// Whether each end was open for writing at the start.
    writable: [bool; 2],
    copied: [AtomicU64; 2],
    state: Mutex<State>,
}

impl<'a> Pumps<'a> {
    pub(super) fn new(
        ends: [&'a dyn Duplex; 2],
        options: &'a CopyOptions,
        bounds: [Option<Duration>; 2],
    ) -> Self {
        let now = Instant::now();
        let way = || Way { mode: Mode::Run, phase: Phase::Reading, moved: now, known: now };
        let mut at_start = ends.map(|end| end.confirm_end().err());
        let writable = [at_start[0].is_none(), at_start[1].is_none()];
        for error in &mut at_start {
            // That is also what a socket says whose writing was ended before, at this end.
            error.take_if(|error| error.kind() == io::ErrorKind::BrokenPipe);
        }
        let state = Mutex::new(State { first: None, at_start, ways: [way(), way()] });
        Self {
            ends,
            options,
            bounds,
            writable,
            copied: [AtomicU64::new(0), AtomicU64::new(0)],
            state,
        }
    }

    pub(super) fn copied(&self) -> Copied {
        let [a_to_b, b_to_a] = &self.copied;
        Copied { a_to_b: a_to_b.load(Relaxed), b_to_a: b_to_a.load(Relaxed) }
    }

    /// The first failure. To be taken when both directions are over.
    pub(super) fn failure(&self) -> Option<(Fault, io::Error)> {
        self.state.lock().first.take()
    }

    pub(super) fn abort(&self) {
        self.ends.iter().for_each(|end| end.abort());
    }

    /// Copies one way until it is over. A panic of a connection's ends both, and is returned.
    pub(super) fn run(&self, way: usize) -> Result<(), Box<dyn Any + Send>> {
        let run = || match self.pump(way) {
            Err(Ended::Failed(fault, error)) => self.fail(way, fault, error),
            Ok(()) | Err(Ended::Stopped) => self.state.lock().ways[way].end(),
        };
        let result = catch_unwind(AssertUnwindSafe(run));
        if result.is_err() {
            {
                let mut state = self.state.lock();
                state.ways.iter_mut().for_each(|way| way.mode = Mode::Stop);
            }
            for end in self.ends {
                // the first panic is the one that is told
                let _ = catch_unwind(AssertUnwindSafe(|| end.abort()));
            }
        }
        result
    }

    fn pump(&self, way: usize) -> Result<(), Ended> {
        let from = self.ends[way];
        let to = self.ends[1 - way];
        let reading = Fault::Read(Side::of(way));
        let writing = Fault::Write(Side::of(1 - way));
        let mut buf = vec![0; BUFFER];
        let mut limit = self.options.read_bound();
        loop {
            let n = self.call(way, Phase::Reading, reading, &mut limit, || from.read(&mut buf))?;
            if n == 0 {
                break;
            }
            let Some(rest) = buf.get(..n) else {
                let error = io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a read said more than there is room for",
                );
                return Err(Ended::Failed(reading, error));
            };
            let written = self.write_whole(way, rest);
            if written.is_err() && !self.is_discarding(way) {
                return written;
            }
        }
        if self.is_discarding(way) {
            return Ok(());
        }
        self.confirm(way)?;
        // First: a peer that reads the end may reset the connection at once.
        if self.options.ends_both && !self.discard_other(way) {
            return Ok(());
        }
        self.call(way, Phase::Finishing, writing, &mut { self.bounds[1 - way] }, || {
            match to.finish_write() {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(0),
                other => other.map(|()| 0),
            }
        })?;
        if self.options.ends_both {
            from.abort(); // its peer has ended, and gets no more
        }
        Ok(())
    }

    fn write_whole(&self, way: usize, mut rest: &[u8]) -> Result<(), Ended> {
        let to = self.ends[1 - way];
        let fault = Fault::Write(Side::of(1 - way));
        let mut limit = self.bounds[1 - way];
        while !rest.is_empty() {
            let n = self.call(way, Phase::Writing, fault, &mut limit, || to.write(rest))?;
            match rest.split_at_checked(n) {
                Some((_, left)) if n > 0 => rest = left,
                _ => return Err(Ended::Failed(fault, io::ErrorKind::WriteZero.into())),
            }
            self.copied[way].fetch_add(n as u64, Relaxed);
        }
        self.call(way, Phase::Writing, fault, &mut limit, || to.flush().map(|()| 0))?;
        Ok(())
    }

    fn is_discarding(&self, way: usize) -> bool {
        matches!(self.state.lock().ways[way].mode, Mode::Discard { .. })
    }

    /// An end is about to be passed on, and ends the other direction as well; unless that one's end
    /// came first, and has ended this one: then it returns `false`.
    fn discard_other(&self, way: usize) -> bool {
        let mut state = self.state.lock();
        if state.ways[way].mode != Mode::Run {
            return false;
        }
        let other = &mut state.ways[1 - way];
        if other.phase != Phase::Over && other.mode == Mode::Run {
            other.mode = Mode::Discard { until: Instant::now() + DRAIN_TIME };
        }
        true
    }

    /// An end was read: whether it is the peer's, and may be passed on.
    fn confirm(&self, way: usize) -> Result<(), Ended> {
        let is_written = || self.state.lock().ways[1 - way].phase == Phase::Writing;
        if self.writable[way]
            && is_written()
            && let Err(error) = self.ends[way].confirm_end()
        {
            // Nothing can be written any more. If a write was told of a failure that this read
            // wasn't, it returns at once, and is what failed. If it was done before, the end was in
            // order.
            let began = Instant::now();
            while is_written() {
                if began.elapsed() > LOOK {
                    return Err(Ended::Failed(Fault::Read(Side::of(way)), error));
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        let mut state = self.state.lock();
        match state.at_start[way].take() {
            _ if state.first.is_some() => Err(Ended::Stopped),
            Some(error) => Err(Ended::Failed(Fault::Read(Side::of(way)), error)),
            None => Ok(()),
        }
    }

    /// One call of a connection's, repeated while it was interrupted, or only its time has passed.
    /// `limit` is the timeout that is set for it.
    fn call(
        &self,
        way: usize,
        phase: Phase,
        fault: Fault,
        limit: &mut Option<Duration>,
        mut call: impl FnMut() -> io::Result<usize>,
    ) -> Result<usize, Ended> {
        let end = self.ends[if phase == Phase::Reading { way } else { 1 - way }];
        loop {
            let began = Instant::now();
            self.enter(way, phase, began)?;
            match call() {
                Ok(n) => {
                    if n > 0 {
                        self.moved(way, phase, n);
                    }
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // One that comes long before its time is a limit of the user's, such as a stream's
                // deadline.
                Err(error)
                    if end.is_timeout(&error)
                        && limit.is_some_and(|limit| began.elapsed() >= limit / 4) =>
                {
                    let left = self.silent(way)?;
                    if phase == Phase::Reading && left != *limit {
                        *limit = left;
                        end.set_read_timeout(left).map_err(|error| Ended::Failed(fault, error))?;
                    }
                }
                Err(error) => return Err(Ended::Failed(fault, error)),
            }
        }
    }

    /// A call begins, if it still may.
    fn enter(&self, way: usize, phase: Phase, now: Instant) -> Result<(), Ended> {
        let mut state = self.state.lock();
        let own = &mut state.ways[way];
        own.phase = phase;
        match own.mode {
            Mode::Run => Ok(()),
            // What was read is written as long as there is room in time; nothing is finished.
            Mode::Drain { left, moved } if phase != Phase::Finishing => {
                let goes_on = left > 0 && now.saturating_duration_since(moved) < DRAIN_TIME;
                if goes_on { Ok(()) } else { Err(Ended::Stopped) }
            }
            Mode::Discard { until } if phase == Phase::Reading && now < until => Ok(()),
            Mode::Drain { .. } | Mode::Discard { .. } | Mode::Stop => Err(Ended::Stopped),
        }
    }

    /// Bytes were read or written.
    fn moved(&self, way: usize, phase: Phase, n: usize) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let own = &mut state.ways[way];
        own.moved = now;
        own.known = now;
        if let Mode::Drain { left, moved } = &mut own.mode {
            *moved = now;
            if phase == Phase::Writing {
                *left = left.saturating_sub(n as u64);
            }
        }
    }

    /// A call's time has passed, and nothing moved in it: how long a read may wait before it looks
    /// again.
    fn silent(&self, way: usize) -> Result<Option<Duration>, Ended> {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.ways[way].known = now;
        let other = &state.ways[1 - way];
        let one_is_over = other.phase == Phase::Over;
        let Some(idle) =
            self.options.limit(one_is_over).filter(|_| state.ways[way].mode == Mode::Run)
        else {
            return Ok(self.options.read_bound());
        };
        let since = state.ways[way].moved.max(other.moved);
        let known = match other.phase {
            Phase::Writing | Phase::Finishing => other.known, // it may have moved since
            Phase::Reading | Phase::Over => now,
        };
        if known.saturating_duration_since(since) >= idle {
            let over = (0..2).find(|&way| state.ways[way].phase == Phase::Over);
            let after =
                over.map_or(String::new(), |way| format!(", after {} had ended", Side::of(way)));
            let text = format!("no byte moved for {idle:?}{after}");
            return Err(Ended::Failed(Fault::Idle, io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        let left = idle.saturating_sub(now.saturating_duration_since(since)).max(SHORTEST);
        // Until one direction is over, a read has to come back in time for the other limit.
        Ok(if one_is_over {
            Some(left)
        } else {
            self.options.read_bound().map(|bound| bound.min(left))
        })
    }

    /// A direction has failed. If it is the first, the other one is told how it ends.
    fn fail(&self, way: usize, fault: Fault, error: io::Error) {
        // What is written to must be able to give up, or a peer that doesn't read would hold the
        // copy for ever.
        let drain = matches!(fault, Fault::Write(_)) && self.bounds[way].is_some();
        {
            let mut state = self.state.lock();
            state.ways[way].end();
            if state.first.is_some() || matches!(state.ways[way].mode, Mode::Discard { .. }) {
                return;
            }
            state.first = Some((fault, error));
            state.ways[1 - way].mode = if drain {
                Mode::Drain { left: DRAIN_BYTES, moved: Instant::now() }
            } else {
                Mode::Stop
            };
        }
        if drain { self.ends[1 - way].stop_reading() } else { self.abort() }
    }
}

//! The two directions of a copy: how a direction goes on after a call that failed or timed out, and
//! how the failure of one direction ends the other one.
//!
//! Direction 0 reads `ends[0]` and writes `ends[1]`. Direction 1 reads `ends[1]` and writes
//! `ends[0]`. Each direction has a thread. The threads share [`State`] under a lock. While a thread
//! holds this lock, it doesn't wait for a condition and doesn't call a connection.
//!
//! A read or write that fails belongs to one connection. Bytes that were received from that
//! connection still go to the other connection, because they came before the failure. No further
//! bytes go to the failed connection. `Stop`, `Drain` and `Discard` are modes of a direction
//! ([`state::Mode`]):
//!
//! | failure | the direction that reads the failed connection | the direction that writes to it |
//! |---|---|---|
//! | a read | It has failed. It had written all bytes that came before the failure. | `Stop`. Both connections are aborted. |
//! | a write | `Drain`. It writes the received bytes, then it is over. | It has failed. |
//! | idle, a panic | `Stop` | `Stop` |
//!
//! With `half_close(false)`, an end of file in one direction ends both directions. The other
//! direction then goes on reading in the mode `Discard`, and throws the bytes away. It does so
//! because a system resets a connection whose socket is closed with unread input. The reset can
//! destroy the bytes that were written to the socket.
//!
//! # Invariants
//! - Only the first failure is reported.
//! - After a failure no end of file is passed on, because the peer may not have ended its writing.
//! - When a direction fails, no thread stays blocked. `abort` or `stop_reading` makes the blocked
//!   call of the other direction return. The exception is a write with a timeout: it returns when
//!   the timeout has passed, and then its thread checks the state.

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

/// Size of the buffer for one read, in bytes. On a fast link, one read of a TCP socket on Linux
/// returns about this number of bytes. If a read returns less, the rest of the buffer's memory
/// isn't touched.
const BUFFER: usize = 64 * 1024;

/// Interval at which a blocked write checks whether the other direction has failed. One check a
/// second costs almost nothing.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Shortest timeout that is set on a connection. Systems count time in ticks of up to 10 ms, and 20
/// ms are two such ticks.
pub(super) const SHORTEST: Duration = Duration::from_millis(20);

/// Limit of the time without progress while received bytes are still copied after a failure. The
/// value is the same as the default of a session's `close_timeout`.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Limit of the bytes that are still copied after a failure. It is more than the received bytes
/// that the system (6 MiB) and a session (4 MiB) hold by default. Because of this limit, the copy
/// returns even if a peer goes on sending.
const DRAIN_BYTES: u64 = 16 << 20;

/// The reason why a direction stopped early.
enum Ended {
    /// The other direction has failed.
    Stopped,
    /// This direction has failed.
    Failed(Fault, io::Error),
}

/// The two directions of a copy.
pub(super) struct Pumps<'a> {
    ends: [&'a dyn Duplex; 2],
    options: &'a CopyOptions,
    /// The time that a write to each connection waits. `None` means no limit.
    bounds: [Option<Duration>; 2],
    /// Whether each connection was open for writing at the start.
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
            // `BrokenPipe` may only mean that this program has already ended its own writing. So it
            // doesn't count as a failure.
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

    /// Takes the first failure out of the state. Called when both directions are over.
    pub(super) fn failure(&self) -> Option<(Fault, io::Error)> {
        self.state.lock().first.take()
    }

    pub(super) fn abort(&self) {
        self.ends.iter().for_each(|end| end.abort());
    }

    /// Copies in one direction until it is over. A panic of a connection ends both directions. The
    /// panic is returned as the error.
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
                // Only the first panic is reported.
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
        // Make the other direction discard before the end of file is passed on. A peer that reads
        // the end of file may reset the connection at once.
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
            from.abort(); // the peer of `from` has ended its writing, and gets no more data
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

    /// Makes the other direction discard its input, before this direction passes its end of file
    /// on. Returns `false` if this direction isn't in the mode `Run` any more. The other direction
    /// came first then, with an end of file or a failure.
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

    /// Checks whether the end of file that was read came from the peer. If it didn't, it must not
    /// be passed on.
    fn confirm(&self, way: usize) -> Result<(), Ended> {
        let is_written = || self.state.lock().ways[1 - way].phase == Phase::Writing;
        if self.writable[way]
            && is_written()
            && let Err(error) = self.ends[way].confirm_end()
        {
            // The connection accepts no new bytes now. A write of the other direction is still
            // under way, and its result decides. The socket may have reported a failure to the
            // write of the other direction, and an end of file to this read. In this case the write
            // returns at once with the failure. If the write succeeds, the end of file came from
            // the peer.
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

    /// Does one call of a connection. Repeats the call if it was interrupted, or if it only timed
    /// out. `limit` is the timeout that is set for the call.
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
                // A timeout that comes long before `limit` is one that the user has set, such as a
                // stream's deadline.
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

    /// Notes that a call begins. Returns an error if the direction must not do this call.
    fn enter(&self, way: usize, phase: Phase, now: Instant) -> Result<(), Ended> {
        let mut state = self.state.lock();
        let own = &mut state.ways[way];
        own.phase = phase;
        match own.mode {
            Mode::Run => Ok(()),
            // The bytes that were read are written as long as there is progress within the time
            // limit. No end of file is passed on.
            Mode::Drain { left, moved } if phase != Phase::Finishing => {
                let goes_on = left > 0 && now.saturating_duration_since(moved) < DRAIN_TIME;
                if goes_on { Ok(()) } else { Err(Ended::Stopped) }
            }
            Mode::Discard { until } if phase == Phase::Reading && now < until => Ok(()),
            Mode::Drain { .. } | Mode::Discard { .. } | Mode::Stop => Err(Ended::Stopped),
        }
    }

    /// Notes that bytes were read or written.
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

    /// Checks the idle limits after a call that timed out without moving a byte. Returns the time
    /// that a read may wait before the next check.
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
            Phase::Writing | Phase::Finishing => other.known, // bytes may have moved after it
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
        // Until one direction is over, a read also has to return in time to apply the half-close
        // timeout.
        Ok(if one_is_over {
            Some(left)
        } else {
            self.options.read_bound().map(|bound| bound.min(left))
        })
    }

    /// Notes that a direction has failed. After the first failure, tells the other direction how to
    /// end.
    fn fail(&self, way: usize, fault: Fault, error: io::Error) {
        // Drain only if writes to the other connection have a timeout. Without a timeout, a peer
        // that doesn't read would hold the copy forever.
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

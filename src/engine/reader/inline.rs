//! The caller's turn at reading. While one stream alone talks, in requests and answers, the thread
//! that waits for its next message reads the transport itself: otherwise each message would cost
//! waking it.
//!
//! The reader thread finds that it is so ([`RequestReplyDetector`]), bounds the transport's reads,
//! and stands by ([`ReadHandoff`](crate::sync::read_handoff::ReadHandoff)). A call that would have
//! to wait for data then takes a turn. It gives the reading back when nothing came for it within
//! the bound or a few reads, when something came for anybody else, when turns are slow, when the
//! budget is nearly used up or the backlog full, when the session closes or fails; and without its
//! doing anything, when it doesn't come back in time.
//!
//! Invariants: a caller's turn never waits but for the transport, within its bound; only the reader
//! thread ends the input; nothing depends on callers, since the reader thread takes the reading
//! back by itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Input, READING, Reader, SessionShared, guarded};
use crate::error::Result;
use crate::pool::MAX_BUFFER;
use crate::sync::close::Phase;
use crate::sync::stream::SharedStream;

/// How long a caller's read of the transport may take: so long it may be deaf to a deadline that
/// another thread sets, or to a close. Long enough for a peer that answers at once over a network.
pub(super) const INLINE_READ_BOUND: Duration = Duration::from_millis(10);

/// How many messages of one stream, each to a reader that was waiting and has answered the one
/// before, make it likely that the next one is waited for, too. Fewer, and a program that begins
/// with a few questions and answers pays for an offer that leads nowhere, half a millisecond.
const MIN_REQUIRED_RUN: u32 = 8;

/// How many such messages it takes at most, when what they led to came to nothing again and again:
/// the program reads by calls that take no turn, or its peer takes so long that waking a thread
/// makes no difference. An offer that leads nowhere, half a millisecond, is then about a hundredth
/// of what so many messages take.
const MAX_REQUIRED_RUN: u32 = 1024;

/// What a turn may take, but for so many in a row, for callers to go on: the reader thread, which
/// looks whether they do, wakes up twice in that time.
const QUICK_READ: Duration = Duration::from_millis(1);
const MAX_SLOW_READS: u32 = 8;

/// So much of the budget has to be free for a caller, in bytes, that it can't run into its end:
/// what one frame may occupy, and some.
const INLINE_MIN_BUDGET: usize = 2 * MAX_BUFFER;

/// How many reads a caller makes in one turn at most, while what comes isn't for it. It doesn't
/// begin another one after half of [`INLINE_READ_BOUND`], so that a peer whose frames for others
/// trickle in can't make a turn longer than two of those, also where the system rounds a bound up.
const MAX_TRANSPORT_READS: usize = 4;

/// What tells the reader thread that one stream alone talks.
pub(super) struct RequestReplyDetector {
    stream: u32,
    replies: u32,
    run: u32,
    /// How long a run has to be.
    required_run: u32,
    /// Callers' turns in a row that weren't [`QUICK_READ`].
    slow: u32,
    /// Somebody else was told something: a stream was opened.
    pub(super) interrupted: bool,
}

impl Default for RequestReplyDetector {
    fn default() -> Self {
        Self {
            stream: 0,
            replies: 0,
            run: 0,
            required_run: MIN_REQUIRED_RUN,
            slow: 0,
            interrupted: false,
        }
    }
}

impl RequestReplyDetector {
    /// Offering the reading to callers did, or didn't, lead to anything.
    pub(super) fn record_outcome(&mut self, good: bool) {
        self.required_run =
            if good { MIN_REQUIRED_RUN } else { (self.required_run * 2).min(MAX_REQUIRED_RUN) };
        if !good {
            self.slow = 0;
        }
    }

    /// A caller's turn is over, and the reading stays with callers, or doesn't. A slow turn is no
    /// success yet.
    fn inline_read_ended(&mut self, keep_offer: bool) {
        if !keep_offer || self.slow == 0 {
            self.record_outcome(keep_offer);
        }
    }
}

/// Reads the transport on the calling thread, which waits for data on `stream`. Returns whether it
/// did: if not, the reading is seen to by another thread.
pub(in crate::engine) fn read_inline(
    session: &Arc<SessionShared>,
    stream: &Arc<SharedStream>,
) -> bool {
    let Some(mut slot) = session.reader.try_lock() else { return false };
    let handoff = &session.env.read_handoff;
    let Some(input) = slot.as_mut() else { return false };
    let Some(inline_read) = handoff.begin() else { return false };
    let keep_offer =
        match guarded(session.number, READING, || Reader { session, input }.read_for(stream)) {
            Ok(keep_offer) => keep_offer,
            Err(error) => {
                input.failed = Some(error);
                false
            }
        };
    input.detector.inline_read_ended(keep_offer);
    inline_read.end(keep_offer);
    drop(slot);
    if !keep_offer {
        handoff.resume();
    }
    true
}

impl Reader<'_> {
    /// A caller's turn: reads until there is something for `stream`. Returns whether callers may go
    /// on.
    fn read_for(&mut self, stream: &Arc<SharedStream>) -> Result<bool> {
        let started = Instant::now();
        for read in 0..=MAX_TRANSPORT_READS {
            loop {
                let in_order = self.session.lifecycle.is_in(Phase::Open) && self.has_room();
                if !in_order {
                    return Ok(false);
                }
                if !self.step()? {
                    break;
                }
            }
            let alone = self.input.wakes.are_only_for(stream);
            self.input.wakes.send();
            if !alone || std::mem::take(&mut self.input.detector.interrupted) {
                return Ok(false);
            }
            let taken = self.input.now.saturating_duration_since(started);
            if stream.is_readable() {
                let slow = &mut self.input.detector.slow;
                *slow = if taken < QUICK_READ { 0 } else { *slow + 1 };
                return Ok(*slow < MAX_SLOW_READS);
            }
            if read == MAX_TRANSPORT_READS || taken >= INLINE_READ_BOUND / 2 {
                break;
            }
            match self.fill_once() {
                Ok(0) => return Err(self.end_of_input()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.input.now = Instant::now()
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Whether the reader wouldn't have to wait for the application, whatever comes next.
    fn has_room(&mut self) -> bool {
        if self.input.crowded {
            self.input.crowded = self.session.registry.lock().streams.makes_wait();
        }
        !self.input.crowded && self.session.env.budget.has_room(INLINE_MIN_BUDGET)
    }

    /// Whether the stream that is about to be woken is likely to be read again at once: asked once
    /// for all that one read brought.
    pub(super) fn should_hand_off(&mut self) -> bool {
        let has_room = self.has_room();
        let Input { detector, wakes, .. } = &mut *self.input;
        let replies = self.session.replies.load(Relaxed);
        let stream = wakes.only_read().unwrap_or(0);
        let interrupted = std::mem::take(&mut detector.interrupted);
        let goes_on = has_room
            && stream != 0
            && stream == detector.stream
            && replies != detector.replies
            && !interrupted;
        detector.run = if goes_on { detector.run + 1 } else { 0 };
        detector.stream = stream;
        detector.replies = replies;
        let hand_off = detector.run >= detector.required_run;
        if hand_off {
            detector.run = 0; // where the bound can't be set, that isn't tried at each message
        }
        hand_off
    }

    /// Bounds the transport's reads, or lets them take as long as they like; returns whether that
    /// could be done.
    pub(super) fn set_read_bound(&mut self, bound: Option<Duration>) -> bool {
        let Input { bound: set, bounded, .. } = &mut *self.input;
        if *bounded == bound {
            return true;
        }
        let done = set.as_mut().is_some_and(|set| set.get_mut().and_then(|set| set(bound)).is_ok());
        if done {
            *bounded = bound;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_reads_make_offers_rarer_and_a_quick_one_ends_that() {
        let mut detector = RequestReplyDetector::default();
        let mut runs = Vec::new();
        while detector.required_run < MAX_REQUIRED_RUN {
            for slow in 1..=MAX_SLOW_READS {
                detector.slow = slow;
                detector.inline_read_ended(slow < MAX_SLOW_READS);
            }
            runs.push(detector.required_run);
        }
        assert_eq!(runs, [16, 32, 64, 128, 256, 512, 1024]);
        detector.inline_read_ended(true); // none slow since
        assert_eq!(detector.required_run, MIN_REQUIRED_RUN);
    }

    #[test]
    fn what_led_to_nothing_makes_offers_rarer_to_a_limit() {
        let mut detector = RequestReplyDetector::default();
        (0..20).for_each(|_| detector.inline_read_ended(false));
        assert_eq!(detector.required_run, MAX_REQUIRED_RUN);
    }
}

//! Inline reads: a thread that waits for data reads the transport itself.
//!
//! An inline read saves the wake-up of the waiting thread, which is a large part of a short round
//! trip. It is worthwhile while one stream alone exchanges requests and replies. The steps are:
//!
//! 1. The reader thread recognises such an exchange ([`RequestReplyDetector`]). It limits the
//!    transport's reads to [`INLINE_READ_BOUND`], offers the reading to callers, and waits
//!    ([`ReadHandoff`](crate::sync::read_handoff::ReadHandoff)).
//! 2. A call of `read` that finds no data does an inline read ([`read_inline`]). Afterwards the
//!    offer stands for the next call, or is withdrawn.
//! 3. When the offer is withdrawn, the caller wakes the reader thread, which reads on. If no caller
//!    reads within the handoff's timeout, the reader thread withdraws the offer itself.
//!
//! A caller withdraws the offer in these cases ([`Reader::read_for`]):
//!
//! - a transport read brought nothing within the bound, or [`MAX_TRANSPORT_READS`] reads brought
//!   nothing for the caller's stream
//! - a blocked call of another stream was woken, or a stream was opened
//! - [`MAX_SLOW_READS`] inline reads in a row were slow
//! - less than [`INLINE_MIN_BUDGET`] of the receive budget is free, or the backlog is full
//! - the session is closing, or the transport failed
//!
//! Invariants:
//! - An inline read waits for the transport only, and for at most twice the bound.
//! - Only the reader thread reports the end or the failure of the input to the session. A caller
//!   stores the error and withdraws the offer.
//! - Progress never depends on a caller, since the reader thread takes the reading back by itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Input, READING, Reader, SessionShared, guarded};
use crate::error::Result;
use crate::pool::MAX_BUFFER;
use crate::sync::close::Phase;
use crate::sync::read_handoff::Offer;
use crate::sync::stream::SharedStream;

/// Time limit of a transport read during an inline read. Until it has passed, the caller doesn't
/// notice a close, nor a deadline that another thread sets. 10 ms suffice for a peer that replies
/// at once over a network.
pub(super) const INLINE_READ_BOUND: Duration = Duration::from_millis(10);

/// Smallest required run. A *run* in this file is a number of qualifying messages in a row. After a
/// run of the required length, the reading is handed off. A message qualifies if it was for a
/// blocked read of the same stream as the message before, and a reply was written inline between
/// the two. A handoff that no caller uses costs 0.5 ms. With a smaller number, this cost would also
/// hit a program that begins with a few requests and then does something else.
const MIN_REQUIRED_RUN: u32 = 8;

/// Largest required run, reached after repeated useless handoffs. A handoff is useless if the
/// program reads by calls that do no inline read, or if the peer is so slow that a wake-up doesn't
/// matter. A useless handoff costs 0.5 ms, about 1 % of the time that 1024 messages take.
const MAX_REQUIRED_RUN: u32 = 1024;

/// An inline read of this duration or more counts as slow. In 1 ms the waiting reader thread wakes
/// up twice, since it looks every 0.5 ms whether callers read. So a slow inline read saves no
/// wake-up.
const QUICK_READ: Duration = Duration::from_millis(1);

/// Number of slow inline reads in a row after which the offer is withdrawn. A few late replies
/// don't end the exchange.
const MAX_SLOW_READS: u32 = 8;

/// Free receive budget that an inline read requires, in bytes, so that it never waits for budget.
/// One frame occupies at most one buffer of the largest size. Twice that leaves a margin.
const INLINE_MIN_BUDGET: usize = 2 * MAX_BUFFER;

/// Largest number of transport reads in one inline read, while they bring nothing for the caller's
/// stream. No further read begins after half of [`INLINE_READ_BOUND`]. So an inline read lasts at
/// most one and a half times the bound, or twice the bound on a system that rounds the bound up. A
/// peer that slowly sends frames for other streams can't prolong it further.
const MAX_TRANSPORT_READS: usize = 4;

/// Whether a handoff saved wake-ups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Useful,
    Useless,
}

/// Recognises that one stream alone exchanges requests and replies.
pub(super) struct RequestReplyDetector {
    /// The stream of the run, 0 for none.
    stream: u32,
    /// The session's count of replies at the last message.
    replies: u32,
    /// Number of qualifying messages in a row.
    run: u32,
    /// Length of a run that leads to a handoff.
    required_run: u32,
    /// Number of slow inline reads in a row ([`QUICK_READ`]).
    slow: u32,
    /// Whether a stream was opened since the last message. Then other streams are in use, too.
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
    /// Adapts the required run to the outcome of a handoff. A useless one doubles it, up to
    /// [`MAX_REQUIRED_RUN`]. A useful one resets it.
    pub(super) fn record_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Useful => self.required_run = MIN_REQUIRED_RUN,
            Outcome::Useless => {
                self.required_run = (self.required_run * 2).min(MAX_REQUIRED_RUN);
                self.slow = 0;
            }
        }
    }

    /// Records the end of an inline read. If the offer is withdrawn, the handoff was useless. If
    /// the offer is kept after a quick read, the handoff was useful. If the offer is kept after a
    /// slow read, no outcome is recorded, and the required run stays as it is. Only
    /// [`MAX_SLOW_READS`] slow reads in a row make the handoff useless.
    fn inline_read_ended(&mut self, offer: Offer) {
        match offer {
            Offer::Withdraw => self.record_outcome(Outcome::Useless),
            Offer::Keep if self.slow == 0 => self.record_outcome(Outcome::Useful),
            Offer::Keep => {}
        }
    }
}

/// Does an inline read for a call that waits for data on `stream`.
///
/// Returns `false` without reading if another thread has the input, or if the reading isn't
/// offered. Then another thread reads, and the caller has to wait for the stream. Never waits for a
/// lock.
pub(in crate::engine) fn read_inline(
    session: &Arc<SessionShared>,
    stream: &Arc<SharedStream>,
) -> bool {
    let Some(mut slot) = session.reader.try_lock() else { return false };
    let handoff = &session.env.read_handoff;
    let Some(input) = slot.as_mut() else { return false };
    let Some(inline_read) = handoff.begin() else { return false };
    let offer =
        match guarded(session.number, READING, || Reader { session, input }.read_for(stream)) {
            Ok(offer) => offer,
            Err(error) => {
                input.failed = Some(error);
                Offer::Withdraw
            }
        };
    input.detector.inline_read_ended(offer);
    inline_read.end(offer);
    drop(slot);
    if offer == Offer::Withdraw {
        handoff.resume();
    }
    true
}

impl Reader<'_> {
    /// Reads until `stream` is readable, or until the offer has to be withdrawn. The file's head
    /// lists the cases.
    ///
    /// # Errors
    /// Returns the error that ends the session. The reader thread has to report it.
    fn read_for(&mut self, stream: &Arc<SharedStream>) -> Result<Offer> {
        let started = Instant::now();
        for read in 0..=MAX_TRANSPORT_READS {
            loop {
                let in_order = self.session.lifecycle.is_in(Phase::Open) && self.has_room();
                if !in_order {
                    return Ok(Offer::Withdraw);
                }
                if !self.step()? {
                    break;
                }
            }
            let alone = self.input.wakes.are_only_for(stream);
            self.input.wakes.send();
            if !alone || std::mem::take(&mut self.input.detector.interrupted) {
                return Ok(Offer::Withdraw);
            }
            let taken = self.input.now.saturating_duration_since(started);
            if stream.is_readable() {
                let slow = &mut self.input.detector.slow;
                *slow = if taken < QUICK_READ { 0 } else { *slow + 1 };
                return Ok(if *slow < MAX_SLOW_READS { Offer::Keep } else { Offer::Withdraw });
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
                    return Ok(Offer::Withdraw);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Offer::Withdraw)
    }

    /// Returns whether the next frame can be handled without waiting for the application.
    fn has_room(&mut self) -> bool {
        if self.input.crowded {
            self.input.crowded = self.session.registry.lock().streams.makes_wait();
        }
        !self.input.crowded && self.session.env.budget.has_room(INLINE_MIN_BUDGET)
    }

    /// Returns whether the reading should be handed off to callers. Called once for each transport
    /// read, before the wake-ups are sent, since the wake-ups show which streams the read was for.
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
            // A new run begins. If the transport can't limit its reads, the caller of this function
            // makes no handoff. The new run keeps the caller from trying again at the next message.
            detector.run = 0;
        }
        hand_off
    }

    /// Sets the time limit of the transport's reads, `None` for no limit. Returns whether the
    /// transport has this limit now.
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
                let offer = if slow < MAX_SLOW_READS { Offer::Keep } else { Offer::Withdraw };
                detector.inline_read_ended(offer);
            }
            runs.push(detector.required_run);
        }
        assert_eq!(runs, [16, 32, 64, 128, 256, 512, 1024]);
        detector.slow = 0;
        detector.inline_read_ended(Offer::Keep);
        assert_eq!(detector.required_run, MIN_REQUIRED_RUN);
    }

    #[test]
    fn useless_handoffs_make_offers_rarer_to_a_limit() {
        let mut detector = RequestReplyDetector::default();
        (0..20).for_each(|_| detector.inline_read_ended(Offer::Withdraw));
        assert_eq!(detector.required_run, MAX_REQUIRED_RUN);
    }
}

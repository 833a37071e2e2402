//! The reader thread on stand-by: it has offered the reading to callers, who are quicker while one
//! stream alone talks in requests and answers.
//!
//! Who wakes it: a caller that gives the reading back ([`ReadHandoff::resume`]). Otherwise it wakes
//! by itself, and takes the reading back when no caller had a turn for [`HANDOFF_TIMEOUT`]. So a
//! caller that never comes, or never comes back, costs that long and no more.
//!
//! Invariants: `offered` changes to true only by the thread that has the session's input, the
//! reader thread; turns begin and end only on a thread that has the input.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long the reader thread waits for callers' turns: many times what a program needs between an
/// answer and the next request. If the program then doesn't ask, another stream's data may have to
/// wait so long, and up to twice: a turn that ended just after a look is found at the next.
const HANDOFF_TIMEOUT: Duration = Duration::from_micros(500);

#[derive(Debug, Default)]
pub(crate) struct ReadHandoff {
    offered: AtomicBool,
    /// Turns begun and turns ended: odd while one lasts.
    inline_reads: AtomicU32,
    /// What `inline_reads` was at the offer.
    at_offer: AtomicU32,
    /// Whether the reading was given back.
    resume: Mutex<bool>,
    resumed: Condvar,
}

/// A caller's turn.
#[must_use]
pub(crate) struct InlineRead<'a>(&'a ReadHandoff);

impl InlineRead<'_> {
    /// Ends it; the reading stays on offer, or doesn't.
    pub(crate) fn end(self, keep: bool) {
        if !keep {
            self.0.offered.store(false, SeqCst);
        }
        self.0.inline_reads.fetch_add(1, SeqCst);
    }
}

impl ReadHandoff {
    /// Whether callers may read.
    pub(crate) fn is_offered(&self) -> bool {
        self.offered.load(SeqCst)
    }

    /// Lets callers read; the reader thread says so before it lets go of the input, then calls
    /// [`wait`](Self::wait).
    pub(crate) fn offer(&self) {
        *self.resume.lock() = false;
        self.at_offer.store(self.inline_reads.load(SeqCst), SeqCst);
        self.offered.store(true, SeqCst);
    }

    /// Begins a turn, if the reading is still on offer. The caller has the input.
    pub(crate) fn begin(&self) -> Option<InlineRead<'_>> {
        if !self.is_offered() {
            return None;
        }
        self.inline_reads.fetch_add(1, SeqCst);
        Some(InlineRead(self))
    }

    /// Wakes the reader thread, after a turn that ended the offer.
    pub(crate) fn resume(&self) {
        *self.resume.lock() = true;
        self.resumed.notify_one();
    }

    /// Waits until the reading was given back, or no caller wants it; returns whether there was a
    /// turn.
    pub(crate) fn wait(&self) -> bool {
        let mut resume = self.resume.lock();
        let mut seen = self.inline_reads.load(SeqCst);
        while !*resume {
            let timed_out = self.resumed.wait_for(&mut resume, HANDOFF_TIMEOUT).timed_out();
            let inline_reads = self.inline_reads.load(SeqCst);
            if timed_out && inline_reads == seen && inline_reads.is_multiple_of(2) {
                break;
            }
            seen = inline_reads;
        }
        *resume = false;
        self.offered.store(false, SeqCst);
        self.inline_reads.load(SeqCst) != self.at_offer.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::watched;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn without_callers_the_reading_comes_back_by_itself() {
        let handoff = ReadHandoff::default();
        handoff.offer();
        assert!(!handoff.wait(), "there was no turn");
        assert!(!handoff.is_offered() && handoff.begin().is_none());
    }

    #[test]
    fn a_turn_that_lasts_keeps_the_reader_away_until_it_is_given_back() {
        let handoff = Arc::new(ReadHandoff::default());
        handoff.offer();
        let inline_read = handoff.begin().unwrap();
        let reader = thread::spawn({
            let handoff = Arc::clone(&handoff);
            move || handoff.wait()
        });
        // There is no event for what doesn't happen: some graces pass.
        thread::sleep(HANDOFF_TIMEOUT * 20);
        assert!(handoff.is_offered() && !reader.is_finished());
        inline_read.end(false);
        assert!(!handoff.is_offered());
        handoff.resume();
        assert!(reader.join().unwrap(), "there was a turn");
    }

    #[test]
    fn giving_back_wakes_the_reader_though_a_turn_lasts() {
        watched(|| {
            let handoff = Arc::new(ReadHandoff::default());
            handoff.offer();
            let inline_read = handoff.begin().unwrap(); // no grace ends the wait
            let reader = thread::spawn({
                let handoff = Arc::clone(&handoff);
                move || handoff.wait()
            });
            handoff.resume();
            reader.join().unwrap();
            inline_read.end(true);
            assert!(!handoff.is_offered());
        });
    }

    #[test]
    fn a_turn_may_leave_the_reading_on_offer() {
        let handoff = ReadHandoff::default();
        handoff.offer();
        handoff.begin().unwrap().end(true);
        handoff.begin().unwrap().end(false);
        assert!(handoff.begin().is_none());
    }

    #[test]
    fn giving_back_before_the_reader_waits_is_not_lost() {
        let handoff = ReadHandoff::default();
        handoff.offer();
        handoff.begin().unwrap().end(false);
        handoff.resume();
        assert!(handoff.wait());
        assert!(!handoff.is_offered());
        // And it is forgotten by the next offer.
        handoff.resume();
        handoff.offer();
        assert!(handoff.is_offered() && !*handoff.resume.lock());
    }
}

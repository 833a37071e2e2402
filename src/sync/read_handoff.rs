//! The handoff of reading: the reader thread offers it to callers and waits meanwhile. While one
//! stream alone exchanges requests and replies, a caller that reads the transport itself saves a
//! wake-up for each message.
//!
//! The reader thread is woken by [`ReadHandoff::resume`], which a caller calls after it has
//! withdrawn the offer. If no caller does so, the reader thread withdraws the offer itself, once no
//! inline read has begun or ended for [`HANDOFF_TIMEOUT`]. So if no caller comes, or if none comes
//! again, the other streams wait for at most twice this time.
//!
//! Invariants:
//! - Only the reader thread makes an offer, and it holds the session's input while it does.
//! - An inline read begins and ends on a thread that holds the session's input.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Time without inline reads after which the reader thread withdraws the offer. It is many times
/// the time that a program needs between a reply and the next request. If the program stops
/// reading, the reader thread withdraws the offer after this time at least, and after twice this
/// time at most. The second case comes when an inline read ends just after the thread has looked.
const HANDOFF_TIMEOUT: Duration = Duration::from_micros(500);

/// The state of the offer.
#[derive(Debug, Default)]
pub(crate) struct ReadHandoff {
    offered: AtomicBool,
    /// Number of begins plus number of ends of inline reads. It is odd during an inline read.
    inline_reads: AtomicU32,
    /// The value of `inline_reads` at the time of the offer.
    at_offer: AtomicU32,
    /// Guards whether a caller has withdrawn the offer. A leaf in the lock order.
    resume: Mutex<bool>,
    /// The reader thread waits here, with `resume`'s lock.
    resumed: Condvar,
}

/// Whether the offer stands after an inline read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// The next call may do an inline read, too.
    Keep,
    /// The reader thread reads on. The caller wakes it by [`ReadHandoff::resume`].
    Withdraw,
}

/// An inline read that has begun.
#[must_use]
pub(crate) struct InlineRead<'a>(&'a ReadHandoff);

impl InlineRead<'_> {
    /// Ends the inline read. The caller still holds the session's input.
    pub(crate) fn end(self, offer: Offer) {
        if offer == Offer::Withdraw {
            self.0.offered.store(false, SeqCst);
        }
        self.0.inline_reads.fetch_add(1, SeqCst);
    }
}

impl ReadHandoff {
    /// Returns whether callers may read.
    pub(crate) fn is_offered(&self) -> bool {
        self.offered.load(SeqCst)
    }

    /// Offers the reading to callers. The reader thread calls this while it holds the session's
    /// input. It then releases the input and calls [`wait`](Self::wait).
    pub(crate) fn offer(&self) {
        *self.resume.lock() = false;
        self.at_offer.store(self.inline_reads.load(SeqCst), SeqCst);
        self.offered.store(true, SeqCst);
    }

    /// Begins an inline read. Returns `None` if the reading isn't offered any more. The caller
    /// holds the session's input.
    pub(crate) fn begin(&self) -> Option<InlineRead<'_>> {
        if !self.is_offered() {
            return None;
        }
        self.inline_reads.fetch_add(1, SeqCst);
        Some(InlineRead(self))
    }

    /// Wakes the reader thread, after an inline read that withdrew the offer.
    pub(crate) fn resume(&self) {
        *self.resume.lock() = true;
        self.resumed.notify_one();
    }

    /// Blocks until the offer is withdrawn, by a caller or after [`HANDOFF_TIMEOUT`] without inline
    /// reads. Returns whether there was an inline read since the offer.
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
        assert!(!handoff.wait(), "there was no inline read");
        assert!(!handoff.is_offered() && handoff.begin().is_none());
    }

    #[test]
    fn an_inline_read_that_lasts_keeps_the_reader_away_until_it_is_given_back() {
        let handoff = Arc::new(ReadHandoff::default());
        handoff.offer();
        let inline_read = handoff.begin().unwrap();
        let reader = thread::spawn({
            let handoff = Arc::clone(&handoff);
            move || handoff.wait()
        });
        // Nothing signals that the reader keeps waiting, so the test lets some timeouts pass.
        thread::sleep(HANDOFF_TIMEOUT * 20);
        assert!(handoff.is_offered() && !reader.is_finished());
        inline_read.end(Offer::Withdraw);
        assert!(!handoff.is_offered());
        handoff.resume();
        assert!(reader.join().unwrap(), "there was an inline read");
    }

    #[test]
    fn giving_back_wakes_the_reader_though_an_inline_read_lasts() {
        watched(|| {
            let handoff = Arc::new(ReadHandoff::default());
            handoff.offer();
            // During an inline read no timeout ends the wait.
            let inline_read = handoff.begin().unwrap();
            let reader = thread::spawn({
                let handoff = Arc::clone(&handoff);
                move || handoff.wait()
            });
            handoff.resume();
            reader.join().unwrap();
            inline_read.end(Offer::Keep);
            assert!(!handoff.is_offered());
        });
    }

    #[test]
    fn an_inline_read_may_leave_the_reading_on_offer() {
        let handoff = ReadHandoff::default();
        handoff.offer();
        handoff.begin().unwrap().end(Offer::Keep);
        handoff.begin().unwrap().end(Offer::Withdraw);
        assert!(handoff.begin().is_none());
    }

    #[test]
    fn giving_back_before_the_reader_waits_is_not_lost() {
        let handoff = ReadHandoff::default();
        handoff.offer();
        handoff.begin().unwrap().end(Offer::Withdraw);
        handoff.resume();
        assert!(handoff.wait());
        assert!(!handoff.is_offered());
        // The next offer forgets it.
        handoff.resume();
        handoff.offer();
        assert!(handoff.is_offered() && !*handoff.resume.lock());
    }
}

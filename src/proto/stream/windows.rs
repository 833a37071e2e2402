//! The limits of one stream's windows that depend on the session's other streams:
//!
//! - The number of bytes that the stream may accept before its peer's first UPD
//!   ([`Unsolicited`](crate::proto::unsolicited::Unsolicited)).
//! - The largest window that the stream may announce.
//!
//! The *allowance* of a stream is the number of bytes that the session lets it accept before the
//! first UPD. The rules are in `manual::architecture`, "Windows of many streams".
//!
//! Invariant: before the first UPD no byte is accepted without allowance.

use super::StreamCore;

impl<C> StreamCore<C> {
    /// Makes the stream need allowance until its peer's first UPD. The allowance begins at 0.
    pub(crate) fn await_allowance(&mut self) {
        self.tx.disallow();
    }

    /// Returns the number of bytes of allowance that a write of `n` bytes still needs. After the
    /// first UPD, a write needs none. A write never needs allowance for more bytes than the window
    /// and the queue of `max` bytes have room for.
    #[inline]
    pub(crate) fn needs_allowance(&self, n: usize, max: usize) -> u64 {
        if !self.tx.awaits_first_update() {
            return 0;
        }
        let possible = self.tx.reach().min(max.saturating_sub(self.outbox.len()));
        n.min(possible).saturating_sub(self.tx.credit()) as u64
    }

    /// Adds `n` bytes to the allowance.
    pub(crate) fn allow(&mut self, n: u64) {
        self.tx.allow(n);
    }

    /// Returns the number of bytes that the stream adds to the session's sum of unsolicited bytes.
    pub(crate) fn unsolicited(&self) -> u64 {
        self.tx.unsolicited()
    }

    /// Gives unused allowance back, at the end of a change. While a write is still copying, the
    /// stream keeps its allowance.
    #[inline]
    pub(crate) fn return_allowance(&mut self) {
        if self.tx.awaits_first_update() && !self.writing {
            self.tx.disallow();
        }
    }

    /// Ends the stream's part in the session's sum, when the session has forgotten the stream.
    pub(crate) fn forget_allowance(&mut self) {
        self.tx.forget();
    }

    /// Returns whether a write that found no room for `least` bytes waits for its peer or for
    /// allowance. If it doesn't, it waits only for room in the queue.
    pub(crate) fn lacks_credit(&self, max: usize, least: usize) -> bool {
        self.tx.reach() < least || (self.tx.credit() < least && self.outbox.len() + least <= max)
    }

    /// Returns whether a write of `least` bytes *starves*: it waits for credit, and its peer keeps
    /// to the window that this side has granted.
    ///
    /// The thread of such a write may also be the only thread that reads the peer's data. While
    /// this thread waits, no thread reads that data. But the UPD for which the thread waits may
    /// come after the granted data. So the session has to receive the granted data. A write doesn't
    /// count if its peer exceeds the granted window, because then there may be more data than was
    /// granted.
    pub(crate) fn starves(&self, max: usize, least: usize) -> bool {
        self.lacks_credit(max, least) && self.rx.is_respected()
    }

    /// Returns whether a write may find room for `least` bytes if it tries again. The result is
    /// true if the window and the queue have this room. Allowance may still be missing.
    pub(crate) fn may_have_room(&self, max: usize, least: usize) -> bool {
        self.tx.reach() >= least && self.outbox.len() + least <= max
    }

    /// Sets the largest window that may be announced from here on, and whether the session's whole
    /// grant budget is granted (`crowded`).
    pub(crate) fn cap_window(&mut self, (cap, crowded): (u32, bool)) {
        self.rx.cap(cap, crowded);
    }
}

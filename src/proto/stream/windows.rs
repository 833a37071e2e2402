//! The limits that a session's other streams set to the windows of one stream:
//!
//! - The number of bytes that it may accept before its peer's first UPD
//!   ([`Unsolicited`](crate::proto::unsolicited::Unsolicited)).
//! - The largest window that it may announce.
//!
//! The *allowance* of a stream is the number of bytes that the session lets it accept before the
//! first UPD. The rules are in `manual::architecture`, "Windows of many streams".
//!
//! Invariant: before the first UPD no byte is accepted without allowance.

use super::StreamCore;

impl<C> StreamCore<C> {
    /// Makes the stream depend on allowance, which begins at 0, until its peer's first UPD.
    pub(crate) fn await_allowance(&mut self) {
        self.tx.disallow();
    }

    /// Returns how much more allowance a write of `n` bytes needs. It is 0 after the first UPD, and
    /// it doesn't exceed the room in the window and in the queue of `max` bytes.
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

    /// Returns the stream's part of the session's sum of unsolicited bytes, in bytes.
    pub(crate) fn unsolicited(&self) -> u64 {
        self.tx.unsolicited()
    }

    /// Gives unused allowance back, at the end of a change. A write that is still copying keeps it.
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
    /// allowance. Otherwise it waits for room in the queue alone.
    pub(crate) fn lacks_credit(&self, max: usize, least: usize) -> bool {
        self.tx.reach() < least || (self.tx.credit() < least && self.outbox.len() + least <= max)
    }

    /// Returns whether a write of `least` bytes *starves*: it waits for credit, and its peer keeps
    /// to the granted window.
    ///
    /// The thread of such a write may be the one that should read. So the session has to receive
    /// the granted data, though nobody reads it. It doesn't do so for a peer that
    /// exceeds its window, since that data may be more than was granted.
    pub(crate) fn starves(&self, max: usize, least: usize) -> bool {
        self.lacks_credit(max, least) && self.rx.is_respected()
    }

    /// Returns whether a write may find room for `least` bytes if it tries again. The window and
    /// the queue have this room, but allowance may still be missing.
    pub(crate) fn may_have_room(&self, max: usize, least: usize) -> bool {
        self.tx.reach() >= least && self.outbox.len() + least <= max
    }

    /// Sets the largest window that may be announced from here on, and whether the session's whole
    /// grant budget is granted (`crowded`).
    pub(crate) fn cap_window(&mut self, (cap, crowded): (u32, bool)) {
        self.rx.cap(cap, crowded);
    }
}

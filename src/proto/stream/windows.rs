//! What a session's other streams mean for the windows of one: how far it may go before its peer
//! has announced a window ([`Unsolicited`](crate::proto::unsolicited::Unsolicited)), and how large
//! a window it may announce.
//!
//! Invariant: before the first UPD nothing is accepted past what the session allowed.

use super::StreamCore;

impl<C> StreamCore<C> {
    /// From here on the stream goes as far as the session allows, until its peer has announced a
    /// window.
    pub(crate) fn await_allowance(&mut self) {
        self.tx.disallow();
    }

    /// How much more allowance a write of `n` bytes needs, with at most `max` bytes accepted and
    /// unsent; 0 if it needs none.
    #[inline]
    pub(crate) fn needs_allowance(&self, n: usize, max: usize) -> u64 {
        if !self.tx.awaits_first_update() {
            return 0;
        }
        let possible = self.tx.reach().min(max.saturating_sub(self.outbox.len()));
        n.min(possible).saturating_sub(self.tx.credit()) as u64
    }

    /// The session allows `n` bytes more.
    pub(crate) fn allow(&mut self, n: u64) {
        self.tx.allow(n);
    }

    /// What the stream counts for in the session's sum, in bytes.
    pub(crate) fn unsolicited(&self) -> u64 {
        self.tx.unsolicited()
    }

    /// A change is over: what was allowed and not accepted goes back, unless a write is still
    /// copying it.
    #[inline]
    pub(crate) fn return_allowance(&mut self) {
        if self.tx.awaits_first_update() && !self.writing {
            self.tx.disallow();
        }
    }

    /// The session has forgotten the stream: it counts for nothing any more.
    pub(crate) fn forget_allowance(&mut self) {
        self.tx.forget();
    }

    /// Whether a write that found no room for `least` bytes waits for its peer, or for the
    /// session's allowance, and not for the queue alone.
    pub(crate) fn lacks_credit(&self, max: usize, least: usize) -> bool {
        self.tx.reach() < least || (self.tx.credit() < least && self.outbox.len() + least <= max)
    }

    /// Whether such a write may keep what was granted to the peer from being read, so that the
    /// session has to take it in: it is more than that where the peer doesn't keep to its window.
    pub(crate) fn starves(&self, max: usize, least: usize) -> bool {
        self.lacks_credit(max, least) && self.rx.is_kept_to()
    }

    /// Whether a write might find room for `least` bytes if it looked: there is, or the session may
    /// allow them.
    pub(crate) fn may_have_room(&self, max: usize, least: usize) -> bool {
        self.tx.reach() >= least && self.outbox.len() + least <= max
    }

    /// The largest window that may be announced from here on, and whether half of the session's
    /// budget is granted.
    pub(crate) fn cap_window(&mut self, (cap, crowded): (u32, bool)) {
        self.rx.cap(cap, crowded);
    }
}

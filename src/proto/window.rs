//! The sliding windows of version 2, one for each direction of a stream. This file has the sender's
//! window, and `receive` has the receiver's. Streams of version 1 have both windows, too, but these
//! never limit anything. So the code is the same for both versions.
//!
//! Counters have 64 bits here and 32 bits on the wire. A counter from the wire stands for the
//! nearest 64-bit value, so counters that wrap past 2³² need no special case.
//!
//! An *edge* is the count of bytes, since the stream began, up to which the sender may go.
//!
//! Invariants of the sender: `consumed <= transmitted <= accepted`, and before the first UPD
//! `accepted <= allowed_edge`.

mod receive;

use crate::config::INITIAL_WINDOW;
pub(crate) use receive::{ReceiveWindow, WindowSizes, window_cap};

/// Largest window, in bytes. A larger value in an UPD counts as this one. The wire's counters have
/// 32 bits, and the difference of two counters has to fit into a signed 32-bit number.
const MAX_WINDOW: u32 = i32::MAX as u32;

/// The sender's window: the bytes that may still be accepted and sent.
#[derive(Debug)]
pub(crate) struct SendWindow {
    /// Whether the window limits the stream. True on version 2.
    enforced: bool,
    /// The size of the peer's window, from its newest UPD.
    window: u32,
    /// Bytes accepted from the application.
    accepted: u64,
    /// Bytes taken by the writer.
    transmitted: u64,
    /// Bytes consumed by the peer's application, from its newest UPD.
    consumed: u64,
    /// Whether an UPD was received.
    update_received: bool,
    /// The highest edge of the peer's UPDs.
    announced_edge: u64,
    /// The edge that the session's allowance sets before the first UPD.
    allowed_edge: u64,
}

/// The effect of an UPD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Update {
    /// No effect. The UPD is older than the newest one received.
    Stale,
    /// The window has moved. `gained` says whether the UPD brought credit.
    Applied { gained: bool },
    /// No effect. The peer claims to have consumed more than was sent.
    Impossible { consumed: u64, sent: u64 },
}

impl SendWindow {
    /// Returns the window of a stream that has carried `origin` bytes. `origin` is 0 except in
    /// tests of counters that wrap.
    pub(crate) fn new(enforced: bool, origin: u64) -> Self {
        let allowed_edge = origin + u64::from(INITIAL_WINDOW);
        let accepted = origin;
        let transmitted = origin;
        let consumed = origin;
        let announced_edge = origin;
        Self {
            enforced,
            window: INITIAL_WINDOW,
            accepted,
            transmitted,
            consumed,
            update_received: false,
            announced_edge,
            allowed_edge,
        }
    }

    /// Returns the number of bytes that may be accepted now.
    pub(crate) fn credit(&self) -> usize {
        match self.awaits_first_update() {
            true => self.reach().min(
                usize::try_from(self.allowed_edge.saturating_sub(self.accepted))
                    .unwrap_or(usize::MAX),
            ),
            false => self.reach(),
        }
    }

    /// Returns the number of bytes that the window leaves, without regard to the allowance. Before
    /// the first UPD the allowance may be smaller.
    pub(crate) fn reach(&self) -> usize {
        if !self.enforced {
            return usize::MAX;
        }
        // A later UPD may make the window smaller than the data in flight. Then the result is 0.
        let in_flight = self.accepted - self.consumed;
        usize::try_from(u64::from(self.window).saturating_sub(in_flight)).unwrap_or(usize::MAX)
    }

    /// Returns [`reach`](Self::reach) on version 2, and `None` on version 1.
    pub(crate) fn limited_credit(&self) -> Option<usize> {
        self.enforced.then(|| self.reach())
    }

    /// Returns whether the peer's first UPD hasn't been received, so that the stream needs
    /// allowance.
    pub(crate) fn awaits_first_update(&self) -> bool {
        self.enforced && !self.update_received
    }

    /// Adds `n` bytes to the allowance.
    pub(crate) fn allow(&mut self, n: u64) {
        self.allowed_edge += n;
    }

    /// Takes back the unused allowance.
    pub(crate) fn disallow(&mut self) {
        self.allowed_edge = self.accepted;
    }

    /// Returns the number of accepted bytes past the announced edge. Before the first UPD, unused
    /// allowance counts as accepted.
    pub(crate) fn unsolicited(&self) -> u64 {
        if !self.enforced {
            return 0;
        }
        let reached =
            if self.update_received { self.accepted } else { self.accepted.max(self.allowed_edge) };
        reached.saturating_sub(self.announced_edge)
    }

    /// Ends the counting of unsolicited bytes, when the session forgets the stream.
    pub(crate) fn forget(&mut self) {
        self.update_received = true;
        self.announced_edge = u64::MAX;
    }

    /// Returns the size of the peer's newest window, in bytes. It doesn't matter how much of the
    /// window is used.
    pub(crate) fn window(&self) -> usize {
        usize::try_from(self.window).unwrap_or(usize::MAX)
    }

    /// Charges `n` bytes that were accepted from the application.
    pub(crate) fn accept(&mut self, n: usize) {
        self.accepted += n as u64;
    }

    /// Returns the bytes accepted since the stream began.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Counts `n` bytes that the writer has taken.
    pub(crate) fn transmit(&mut self, n: usize) {
        self.transmitted += n as u64;
        debug_assert!(self.transmitted <= self.accepted);
    }

    /// Applies an UPD of the peer.
    pub(crate) fn update(&mut self, consumed: u32, window: u32) -> Update {
        // The distance from the newest count, modulo 2³². A distance above `MAX_WINDOW` means that
        // this UPD is older than the newest one. That holds even if the counter wrapped in between.
        let ahead = consumed.wrapping_sub(self.consumed as u32);
        if ahead > MAX_WINDOW {
            return Update::Stale;
        }
        let consumed = self.consumed + u64::from(ahead);
        if consumed > self.transmitted {
            return Update::Impossible { consumed, sent: self.transmitted };
        }
        let before = self.credit();
        self.consumed = consumed;
        self.window = window.min(MAX_WINDOW);
        self.update_received = true;
        self.announced_edge = self.announced_edge.max(consumed + u64::from(self.window));
        Update::Applied { gained: self.credit() > before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Just below the point where the wire's counters wrap.
    const NEAR_WRAP: u64 = (1 << 32) - 100;

    #[test]
    fn the_first_window_is_the_protocols() {
        let mut window = SendWindow::new(true, 0);
        assert_eq!(window.credit(), 262_144);
        window.accept(262_144);
        assert_eq!(window.credit(), 0);
    }

    #[test]
    fn a_window_smaller_than_what_is_in_flight_means_wait() {
        let mut window = SendWindow::new(true, 0);
        window.accept(200_000);
        window.transmit(200_000);
        assert_eq!(window.update(10, 65536), Update::Applied { gained: false });
        assert_eq!(window.credit(), 0);
        assert_eq!(window.update(200_000, 65536), Update::Applied { gained: true });
        assert_eq!(window.credit(), 65536);
    }

    #[test]
    fn consumed_past_transmitted_is_impossible_even_if_accepted() {
        let mut window = SendWindow::new(true, 0);
        window.accept(100);
        window.transmit(40);
        assert_eq!(window.update(41, 65536), Update::Impossible { consumed: 41, sent: 40 });
        assert_eq!(window.update(40, 65536), Update::Applied { gained: false });
    }

    #[test]
    fn an_update_from_just_within_the_signed_range_is_news() {
        let all = MAX_WINDOW as usize;
        for (consumed, update) in [
            (MAX_WINDOW, Update::Impossible { consumed: u64::from(MAX_WINDOW), sent: 0 }),
            (MAX_WINDOW + 1, Update::Stale),
        ] {
            assert_eq!(SendWindow::new(true, 0).update(consumed, 1), update);
        }
        let mut window = SendWindow::new(true, 0);
        window.accept(all);
        window.transmit(all);
        assert_eq!(window.accepted(), u64::from(MAX_WINDOW));
        assert_eq!(window.update(MAX_WINDOW, MAX_WINDOW), Update::Applied { gained: true });
    }

    #[test]
    fn an_update_that_changes_nothing_gains_nothing() {
        let mut window = SendWindow::new(true, 0);
        assert_eq!(window.update(0, INITIAL_WINDOW), Update::Applied { gained: false });
        assert_eq!(window.update(0, INITIAL_WINDOW + 1), Update::Applied { gained: true });
    }

    #[test]
    fn an_older_update_is_ignored() {
        let mut window = SendWindow::new(true, 0);
        window.accept(100);
        window.transmit(100);
        assert_eq!(window.update(60, 1000), Update::Applied { gained: false });
        assert_eq!(window.update(59, 1 << 20), Update::Stale);
        assert_eq!(window.credit(), 960);
        assert_eq!(window.update(60, 2000), Update::Applied { gained: true });
    }

    #[test]
    fn a_window_beyond_the_signed_range_counts_as_its_largest() {
        let mut window = SendWindow::new(true, 0);
        let _ = window.update(0, u32::MAX);
        assert_eq!(window.credit(), i32::MAX as usize);
    }

    #[test]
    fn before_the_first_update_the_session_says_how_far_a_stream_may_go() {
        let mut tx = SendWindow::new(true, NEAR_WRAP);
        assert_eq!(
            tx.unsolicited(),
            262_144,
            "what the protocol allows, unless the session says otherwise"
        );
        tx.disallow();
        assert_eq!((tx.credit(), tx.reach(), tx.unsolicited()), (0, 262_144, 0));
        tx.allow(100_000);
        tx.accept(60_000);
        tx.transmit(60_000);
        assert_eq!((tx.credit(), tx.reach(), tx.unsolicited()), (40_000, 202_144, 100_000));
        tx.disallow();
        assert_eq!((tx.credit(), tx.unsolicited()), (0, 60_000));
        // Bytes up to the announced edge don't count any more. Bytes past it count until an UPD
        // moves the edge.
        let consumed = NEAR_WRAP.wrapping_add(10_000) as u32;
        assert_eq!(tx.update(consumed, 16_384), Update::Applied { gained: false });
        assert_eq!((tx.credit(), tx.unsolicited()), (0, 60_000 - 26_384));
        let consumed = NEAR_WRAP.wrapping_add(50_000) as u32;
        assert_eq!(tx.update(consumed, 16_384), Update::Applied { gained: true });
        assert_eq!((tx.credit(), tx.unsolicited()), (6384, 0));
        tx.accept(6384);
        assert_eq!(tx.unsolicited(), 0);
    }

    #[test]
    fn a_forgotten_stream_counts_for_nothing() {
        let mut tx = SendWindow::new(true, 0);
        tx.accept(1000);
        tx.forget();
        assert_eq!(tx.unsolicited(), 0);
        let mut tx = SendWindow::new(false, 0);
        tx.disallow();
        assert_eq!(
            (tx.credit(), tx.unsolicited(), tx.awaits_first_update()),
            (usize::MAX, 0, false),
            "version 1 has no windows"
        );
    }
}

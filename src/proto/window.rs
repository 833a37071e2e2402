//! The sliding windows of version 2, one for each direction of a stream. On version 1 they exist
//! too, and never limit anything: the two versions share one path.
//!
//! Counters are 64 bits wide here and 32 on the wire; a wire counter stands for the nearest value
//! of ours, so that wrapping past 2³² needs no case of its own.
//!
//! Invariants, sender: `consumed <= transmitted <= accepted`; before the first UPD
//! `accepted <= allowed_edge`. Receiver: `consumed <= received`; `edge` never goes back.

mod receive;

use crate::config::INITIAL_WINDOW;
pub(crate) use receive::{ReceiveWindow, WindowSizes, window_cap};

/// Windows above this count as this: the difference of two wire counters has to fit a signed 32-bit
/// number.
const MAX_WINDOW: u32 = i32::MAX as u32;

/// What may be sent.
#[derive(Debug)]
pub(crate) struct SendWindow {
    enforced: bool,
    /// The peer's window: absolute, from its newest UPD.
    window: u32,
    /// Bytes taken from the application, handed to the writer, and consumed by the peer's
    /// application.
    accepted: u64,
    transmitted: u64,
    consumed: u64,
    /// An UPD has come.
    update_received: bool,
    /// How far the peer has asked us to go: the highest edge of its UPDs.
    announced_edge: u64,
    /// How far the session lets the stream go before the first UPD.
    allowed_edge: u64,
}

/// What an UPD changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Update {
    /// An older one than the newest seen.
    Stale,
    /// The window moved; `gained` if there is more credit than before.
    Applied { gained: bool },
    /// The peer claims to have consumed more than was sent.
    Impossible { consumed: u64, sent: u64 },
}

impl SendWindow {
    /// A window after `origin` bytes (0, but in tests of counters that wrap).
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

    /// How many bytes may be accepted now.
    pub(crate) fn credit(&self) -> usize {
        match self.awaits_first_update() {
            true => self.reach().min(
                usize::try_from(self.allowed_edge.saturating_sub(self.accepted))
                    .unwrap_or(usize::MAX),
            ),
            false => self.reach(),
        }
    }

    /// How many bytes the window alone leaves, whatever the session allows of it before the first
    /// UPD.
    pub(crate) fn reach(&self) -> usize {
        if !self.enforced {
            return usize::MAX;
        }
        // The window may be smaller than what is in flight: then there is none.
        let in_flight = self.accepted - self.consumed;
        usize::try_from(u64::from(self.window).saturating_sub(in_flight)).unwrap_or(usize::MAX)
    }

    /// [`reach`](Self::reach), where there is a window that limits it.
    pub(crate) fn limited_credit(&self) -> Option<usize> {
        self.enforced.then(|| self.reach())
    }

    /// Whether the peer has announced nothing yet, so that the session says how far the stream may
    /// go.
    pub(crate) fn awaits_first_update(&self) -> bool {
        self.enforced && !self.update_received
    }

    /// The session lets the stream go `n` bytes further before the first UPD.
    pub(crate) fn allow(&mut self, n: u64) {
        self.allowed_edge += n;
    }

    /// Takes back what the stream was allowed and hasn't accepted.
    pub(crate) fn disallow(&mut self) {
        self.allowed_edge = self.accepted;
    }

    /// How many bytes were accepted, or may be, past what the peer has asked for.
    pub(crate) fn unsolicited(&self) -> u64 {
        if !self.enforced {
            return 0;
        }
        let reached =
            if self.update_received { self.accepted } else { self.accepted.max(self.allowed_edge) };
        reached.saturating_sub(self.announced_edge)
    }

    /// The peer hears of the stream no more: nothing counts as unsolicited from here on.
    pub(crate) fn forget(&mut self) {
        self.update_received = true;
        self.announced_edge = u64::MAX;
    }

    /// The peer's newest window, in bytes, whatever of it is in use.
    pub(crate) fn window(&self) -> usize {
        usize::try_from(self.window).unwrap_or(usize::MAX)
    }

    pub(crate) fn accept(&mut self, n: usize) {
        self.accepted += n as u64;
    }

    /// Bytes accepted since the stream began.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(crate) fn transmit(&mut self, n: usize) {
        self.transmitted += n as u64;
        debug_assert!(self.transmitted <= self.accepted);
    }

    /// Takes an UPD.
    pub(crate) fn update(&mut self, consumed: u32, window: u32) -> Update {
        // The signed distance from the newest consumed count seen: negative is old, whatever
        // wrapped in between.
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
        // What the peer has asked for counts no more; what lies beyond does, until that is consumed
        // or asked for.
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

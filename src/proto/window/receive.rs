//! The receiving window of a stream: the bytes that its peer may send, and the growing and
//! shrinking of the window.
//!
//! The rules and their reasons are in `manual::architecture`, "How windows grow" and "Windows of
//! many streams".
//!
//! Invariants: `consumed <= received`, and `edge` never goes back.

use super::MAX_WINDOW;
use crate::config::INITIAL_WINDOW;

/// Number of UPDs in a row after which the window is halved, if the application didn't catch up
/// between any two of them. Such an application counts as slower than its peer.
///
/// A few such UPDs prove nothing. On a long link a window arrives as a burst, and four UPDs fall
/// due within a burst, however fast the reader is. 8 is two bursts.
const SHRINK_AFTER: u8 = 8;

/// Number of UPDs in a row after which the window doubles, if the application caught up between
/// each two of them. The window doubles even if the peer was never seen near the window's end.
///
/// On a long link, UPDs may spread the peer's data evenly over the round trip. Then a part of the
/// window is always on its way. So the receiver never sees data near the window's end, although the
/// window limits the peer. A stream that the window doesn't limit looks the same to the receiver.
/// The number is large, so that the window of such a stream seldom grows. 64 UPDs, each for a
/// quarter of a window, are 16 windows. If the window limits a stream and a round trip takes 100
/// ms, 16 windows take 1.6 s.
const GROW_AFTER: u8 = 64;

/// Smallest value of [`window_cap`], in bytes. With a window of this size, a write of 4096 bytes
/// can still be accepted whole. Up to half of a window may be consumed without an UPD. So the
/// sender can be sure of the other half only, which is 4096 bytes.
const LEAST_WINDOW: usize = 8192;

/// Window of a new stream while the whole grant budget is granted, in bytes. During that time, the
/// window may become as large as half of the bytes that the stream has consumed.
/// 16 KiB is also the largest share of a sender ([`crate::proto::unsolicited`]).
const SMALL_WINDOW: u32 = 16 * 1024;

/// Returns the largest window that may be announced while `streams` are open. The result is an
/// equal part of [`Config::grant_budget`](crate::config::Config::grant_budget), but at least
/// [`LEAST_WINDOW`]. `manual::architecture`, "Windows of many streams", gives the reason.
pub(crate) fn window_cap(grant_budget: usize, streams: usize) -> u32 {
    let part = (grant_budget / streams.max(1)).max(LEAST_WINDOW);
    u32::try_from(part).unwrap_or(MAX_WINDOW).min(MAX_WINDOW)
}

/// The configured sizes of a receiver's window, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowSizes {
    /// The size at the beginning. If the application reads slowly, the window shrinks down to this
    /// size.
    pub(crate) base: usize,
    /// The size up to which the window may grow.
    pub(crate) max: usize,
}

/// The receiver's window: the bytes that the peer may send, and the UPDs that announce them.
///
/// The size of the window is tuned when an UPD becomes due. `manual::architecture`, "How windows
/// grow", has the rules. [`resize`](Self::resize) applies them.
///
/// The window stays between `base` and `max`. The session sets three further limits:
///
/// - The window is at most [`cap`](Self::cap), even if `cap` is smaller than `base`.
/// - The window grows by at most the bytes that are left of the session's grant budget.
/// - While the whole grant budget is granted, the window may be smaller than `base`
///   ([`SMALL_WINDOW`]).
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    /// Whether the window limits the peer. True on version 2.
    enforced: bool,
    /// The size at the beginning, and the smallest one after shrinking.
    base: u32,
    /// The largest size.
    max: u32,
    /// A limit of the window that the session sets. It may be smaller than `base`.
    cap: u32,
    /// Whether the session's whole grant budget is granted.
    crowded: bool,
    /// The size of the window that the next UPD announces.
    window: u32,
    /// The value with which the counters began.
    first: u64,
    received: u64,
    consumed: u64,
    /// The value of `consumed` that the last UPD announced.
    announced: u64,
    /// The edge of the newest window: that of the last UPD, or the initial one.
    limit: u64,
    /// The highest edge that the peer was ever allowed.
    edge: u64,
    /// The largest window announced.
    largest: u32,
    /// Whether the application hasn't read anything yet.
    fresh: bool,
    /// Whether an UPD is due.
    due: bool,
    /// Whether the peer's data came within a quarter of the window's end. The flag stays set until
    /// the application has caught up, even if an UPD is sent before that.
    peer_near_limit: bool,
    /// Whether the application had read all delivered data at some moment since the last UPD.
    caught_up: bool,
    /// The number of UPDs in a row without `caught_up`.
    updates_behind: u8,
    /// The number of UPDs in a row with `caught_up`, since the window grew.
    updates_caught_up: u8,
}

impl ReceiveWindow {
    /// Returns the window of a stream that has carried `origin` bytes. `origin` is 0 except in
    /// tests of counters that wrap.
    pub(crate) fn new(enforced: bool, sizes: WindowSizes, origin: u64) -> Self {
        let size = |n: usize| u32::try_from(n).unwrap_or(MAX_WINDOW).min(MAX_WINDOW);
        let base = size(sizes.base);
        let limit = origin + u64::from(INITIAL_WINDOW);
        Self {
            enforced,
            base,
            max: size(sizes.max).max(base),
            cap: MAX_WINDOW,
            crowded: false,
            window: base,
            first: origin,
            received: origin,
            consumed: origin,
            announced: origin,
            limit,
            edge: limit,
            largest: 0,
            fresh: true,
            due: false,
            peer_near_limit: false,
            caught_up: false,
            updates_behind: 0,
            updates_caught_up: 0,
        }
    }

    /// Returns the number of granted bytes that aren't consumed. They may be not yet sent, on their
    /// way, or unread. The result is at least the size of the window, because the next UPD will
    /// grant a whole window.
    pub(crate) fn granted(&self) -> u64 {
        // Data within the slack lies past the edge. If such data is consumed before an UPD moves
        // the edge, `consumed` is larger than `edge`.
        if self.enforced {
            self.edge.saturating_sub(self.consumed).max(self.window.into())
        } else {
            0
        }
    }

    /// Returns the bytes received since the stream began.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Returns whether the peer has kept to the granted windows, without using the slack.
    pub(crate) fn is_respected(&self) -> bool {
        self.received <= self.edge
    }

    /// Counts `n` bytes received from the peer.
    ///
    /// The peer may exceed the highest edge by a *slack*: the size of the largest window announced,
    /// and at least 262144 bytes. The reason for the slack: Go's smux exceeds a window a little
    /// when several goroutines write.
    ///
    /// # Errors
    /// Returns the bytes received and the bytes allowed, if the peer exceeds the slack.
    pub(crate) fn receive(&mut self, n: usize) -> Result<(), (u64, u64)> {
        self.received += n as u64;
        // If less than a quarter of the window is left, the peer may already be waiting, because
        // its next write may not fit.
        self.peer_near_limit |= self.received + u64::from(self.window / 4) >= self.limit;
        let slack = u64::from(self.largest.max(INITIAL_WINDOW));
        if self.enforced && self.received > self.edge + slack {
            return Err((self.received, self.edge + slack));
        }
        Ok(())
    }

    /// Counts `n` bytes that the application has read, or that were discarded for it.
    ///
    /// This may make an UPD due. `manual::architecture`, "When an UPD is sent", has the cases. When
    /// an UPD becomes due, the window may grow by up to `spare` bytes.
    pub(crate) fn consume(&mut self, n: usize, spare: u64) {
        self.consumed += n as u64;
        debug_assert!(self.consumed <= self.received);
        if !self.enforced || self.due || n == 0 {
            return;
        }
        if self.fresh
            || self.consumed - self.announced >= self.update_step()
            || self.peer_may_be_waiting()
        {
            self.fresh = false;
            self.due = true;
            self.resize(spare);
        }
    }

    /// Returns whether the peer may be waiting for an UPD: all received data is consumed, and less
    /// than a quarter of the window is left to the peer.
    ///
    /// Without this rule, the last consumed bytes, if they are fewer than
    /// [`update_step`](Self::update_step), wouldn't be announced. The window would be smaller by
    /// these bytes in each round trip.
    fn peer_may_be_waiting(&self) -> bool {
        self.received == self.consumed
            && self.limit.saturating_sub(self.received) < u64::from(self.window / 4)
    }

    /// Returns the number of bytes after whose consumption an UPD is due. The number is half of the
    /// window, as in other implementations. It is a quarter if the window has grown. Windows grow
    /// on long links, and on a long link smaller steps let the peer go on earlier.
    fn update_step(&self) -> u64 {
        let part = if self.window > self.base { 4 } else { 2 };
        u64::from(self.window / part).max(1)
    }

    /// Sets the size of the window for the UPD that is due now.
    fn resize(&mut self, spare: u64) {
        let caught_up = std::mem::take(&mut self.caught_up);
        // `peer_near_limit` stays set until the application has caught up. The last bytes of a
        // burst set the flag, and one more UPD may fall due before the application has read the
        // whole burst.
        let peer_near_limit = caught_up && std::mem::take(&mut self.peer_near_limit);
        (self.updates_behind, self.updates_caught_up) =
            if caught_up { (0, self.updates_caught_up + 1) } else { (self.updates_behind + 1, 0) };
        if self.updates_behind == SHRINK_AFTER {
            self.updates_behind = 0;
            self.window /= 2;
        } else if peer_near_limit || self.updates_caught_up == GROW_AFTER {
            self.updates_caught_up = 0;
            let room =
                self.max.saturating_sub(self.window).min(u32::try_from(spare).unwrap_or(u32::MAX));
            self.window += self.window.min(room);
        }
        let least =
            self.base.min(self.cap).min(if self.crowded { self.earned() } else { u32::MAX });
        if self.announced == self.first && self.crowded {
            // No UPD has announced consumed bytes, so the peer doesn't know a window of `base`
            // bytes yet. So the window may become smaller than `base`.
            self.window = self.window.min(least);
        }
        self.window = self.window.clamp(least, self.max.min(self.cap).max(least));
    }

    /// Returns the window that the stream may have while the whole grant budget is granted: half of
    /// the bytes that it has consumed, and at least [`SMALL_WINDOW`].
    fn earned(&self) -> u32 {
        u32::try_from((self.consumed - self.first) / 2).unwrap_or(u32::MAX).max(SMALL_WINDOW)
    }

    /// Sets the largest window that may be announced from here on, and whether the whole grant
    /// budget is granted. Windows that were announced before aren't taken back.
    pub(crate) fn cap(&mut self, cap: u32, crowded: bool) {
        self.cap = cap.max(1);
        self.crowded = crowded;
    }

    /// Records that the application has read all delivered data. Data that is still on its way
    /// doesn't matter. Call this before the call of [`consume`](Self::consume) that counts the last
    /// bytes.
    pub(crate) fn mark_caught_up(&mut self) {
        self.caught_up = true;
    }

    /// Makes an UPD due before the first read. This UPD announces a window that is smaller than the
    /// initial one.
    pub(crate) fn announce(&mut self) {
        self.due = self.enforced;
        self.window = self.window.min(SMALL_WINDOW);
    }

    /// Returns whether an UPD is due.
    pub(crate) fn is_due(&self) -> bool {
        self.due
    }

    /// Returns the fields CONSUMED and WINDOW of the UPD to be sent now, if one is due. Both fields
    /// have their newest values.
    pub(crate) fn take_update(&mut self) -> Option<(u32, u32)> {
        if !std::mem::take(&mut self.due) {
            return None;
        }
        self.window = self.window.min(self.cap); // `cap` may have changed since `resize`
        self.announced = self.consumed;
        self.limit = self.consumed + u64::from(self.window);
        self.edge = self.edge.max(self.limit);
        self.largest = self.largest.max(self.window);
        Some((self.consumed as u32, self.window)) // the wire's counter wraps
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::window::{SendWindow, Update};

    /// Just below the point where the wire's counters wrap.
    const NEAR_WRAP: u64 = (1 << 32) - 100;

    /// Returns the sizes of a window that neither grows nor shrinks.
    fn fixed(size: usize) -> WindowSizes {
        WindowSizes { base: size, max: size }
    }

    #[test]
    fn version_1_has_no_window() {
        let mut window = SendWindow::new(false, 0);
        window.accept(usize::MAX / 2);
        assert_eq!(window.credit(), usize::MAX);
        let mut window = ReceiveWindow::new(false, fixed(64), 0);
        assert_eq!(window.receive(1 << 40), Ok(()));
        window.consume(1 << 40, 0);
        assert_eq!((window.take_update(), window.granted()), (None, 0));
    }

    #[test]
    fn the_window_counts_as_granted_though_all_is_consumed() {
        let mut window = ReceiveWindow::new(true, fixed(65536), NEAR_WRAP);
        assert_eq!(window.receive(300_000), Ok(())); // past the edge, within the slack
        window.consume(300_000, 0);
        assert_eq!(window.granted(), 65536); // more was consumed than granted
        assert!(window.take_update().is_some());
        assert_eq!(window.granted(), 65536);
    }

    #[test]
    fn a_peer_is_near_its_limit_within_a_quarter_of_the_windows_end() {
        for (left, window) in [(65536 / 4 + 1, 65536), (65536 / 4, 2 * 65536)] {
            let mut rx = ReceiveWindow::new(true, GROWING, 0);
            let n = INITIAL_WINDOW as usize - left; // `left` bytes before the first window's end
            rx.receive(n).unwrap();
            rx.mark_caught_up();
            rx.consume(n, u64::MAX);
            assert_eq!(rx.take_update().unwrap().1, window);
        }
    }

    #[test]
    fn counters_wrap_without_a_case_of_their_own() {
        let mut tx = SendWindow::new(true, NEAR_WRAP);
        let mut rx = ReceiveWindow::new(true, fixed(64), NEAR_WRAP);
        for _ in 0..100 {
            tx.accept(16);
            tx.transmit(16);
            rx.receive(16).unwrap();
            rx.consume(16, 0);
            if let Some((consumed, window)) = rx.take_update() {
                assert!(matches!(tx.update(consumed, window), Update::Applied { .. }));
            }
        }
        assert!(tx.credit() >= 32, "{tx:?}");
        let wrapped = (NEAR_WRAP + 1700) as u32;
        assert!(matches!(tx.update(wrapped, 64), Update::Impossible { .. }));
    }

    #[test]
    fn updates_are_due_at_the_first_read_and_then_every_half_window() {
        let mut window = ReceiveWindow::new(true, fixed(64), 0);
        let mut said = Vec::new();
        for _ in 0..12 {
            window.receive(16).unwrap();
            window.consume(16, 0);
            said.extend(window.take_update());
        }
        assert_eq!(said, [(16, 64), (48, 64), (80, 64), (112, 64), (144, 64), (176, 64)]);
    }

    #[test]
    fn the_highest_edge_is_never_taken_back() {
        let mut window = ReceiveWindow::new(true, fixed(64), 0);
        window.receive(1000).unwrap();
        window.consume(1000, 0);
        assert_eq!(window.take_update(), Some((1000, 64)));
        // The edge of the initial window still holds, and the slack has its least value, 262144.
        assert_eq!(window.receive(262_144 - 1000), Ok(()));
        assert_eq!(window.receive(262_144), Ok(()));
        assert_eq!(window.receive(1), Err((524_289, 524_288)));
    }

    /// Plays one round of a sender that fills the window and a reader that reads all of it. Returns
    /// the window announced last.
    fn round(rx: &mut ReceiveWindow, spare: u64) -> u32 {
        let n = (rx.limit - rx.received) as usize;
        rx.receive(n).unwrap();
        rx.mark_caught_up();
        rx.consume(n, spare);
        rx.take_update().unwrap().1
    }

    const GROWING: WindowSizes = WindowSizes { base: 65536, max: 1 << 20 };

    #[test]
    fn a_window_that_limits_a_reader_that_keeps_up_doubles_to_its_maximum() {
        let mut rx = ReceiveWindow::new(true, GROWING, 0);
        let windows: Vec<u32> = (0..6).map(|_| round(&mut rx, u64::MAX)).collect();
        assert_eq!(windows, [1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 20, 1 << 20]);
    }

    #[test]
    fn a_window_grows_only_out_of_what_is_to_spare() {
        let mut rx = ReceiveWindow::new(true, GROWING, 0);
        assert_eq!([round(&mut rx, 1000), round(&mut rx, 0)], [66536, 66536]);
    }

    #[test]
    fn a_peer_that_isnt_seen_to_run_into_the_window_gets_a_larger_one_after_a_long_while() {
        let mut rx = ReceiveWindow::new(true, GROWING, 0);
        let mut windows = Vec::new();
        for _ in 0..200 {
            rx.receive(40_000).unwrap();
            rx.mark_caught_up();
            rx.consume(40_000, u64::MAX);
            windows.extend(rx.take_update().map(|(_, window)| window));
        }
        assert_eq!(windows.iter().position(|&window| window > 65536), Some(63));
        assert_eq!(windows.last(), Some(&(1 << 18)));
    }

    #[test]
    fn a_window_is_a_part_of_the_grant_budget_and_not_less_than_8192() {
        const BUDGET: usize = 2 << 20;
        let caps = [0, 1, 2, 32, 256, 257, 512, 65_536].map(|streams| window_cap(BUDGET, streams));
        assert_eq!(caps, [2 << 20, 2 << 20, 1 << 20, 65_536, 8192, 8192, 8192, 8192]);
        assert_eq!(window_cap(usize::MAX, 1), MAX_WINDOW);
    }

    #[test]
    fn windows_shrink_while_streams_are_many_and_come_back() {
        let mut rx = ReceiveWindow::new(true, GROWING, 0);
        while round(&mut rx, u64::MAX) < 1 << 20 {}
        // A limit that is set while an UPD is due applies to this UPD.
        let n = (rx.limit - rx.received) as usize;
        rx.receive(n).unwrap();
        rx.consume(n, u64::MAX);
        rx.cap(20_000, false);
        assert_eq!(rx.take_update().unwrap().1, 20_000);
        rx.cap(8192, false);
        assert_eq!(
            [round(&mut rx, u64::MAX), round(&mut rx, u64::MAX)],
            [8192, 8192],
            "below the base, and no larger"
        );
        let edge = rx.edge;
        assert!(edge >= rx.limit, "what was granted stays granted");
        rx.cap(1 << 18, false);
        assert_eq!(
            [round(&mut rx, u64::MAX), round(&mut rx, u64::MAX)],
            [1 << 16, 1 << 17],
            "the base, then it grows"
        );
    }

    #[test]
    fn a_smaller_base_is_no_matter_of_the_cap() {
        let mut rx = ReceiveWindow::new(true, fixed(1000), 0);
        rx.cap(8192, false);
        assert_eq!([round(&mut rx, u64::MAX), round(&mut rx, u64::MAX)], [1000, 1000]);
    }

    #[test]
    fn while_half_the_budget_is_granted_a_new_streams_window_is_half_of_what_it_has_consumed() {
        let read = |rx: &mut ReceiveWindow, n: usize| {
            rx.receive(n).unwrap();
            rx.consume(n, 0);
            rx.take_update().unwrap().1
        };
        let crowded = |origin| {
            let mut rx = ReceiveWindow::new(true, GROWING, origin);
            rx.cap(1 << 20, true);
            rx
        };
        let mut rx = crowded(NEAR_WRAP);
        rx.announce();
        assert_eq!(rx.take_update().unwrap().1, 16_384);
        assert_eq!([20_000, 20_000, 14_000].map(|n| read(&mut rx, n)), [16_384, 20_000, 27_000]);
        assert_eq!(read(&mut rx, 100_000), 65_536, "no more than the base");
        // Without `announce`, the first read makes an UPD due.
        assert_eq!(read(&mut crowded(0), 40_000), 20_000);
        // As soon as a part of the grant budget is free again, the window is at least `base`.
        let mut rx = crowded(0);
        assert_eq!(read(&mut rx, 10), 16_384);
        rx.cap(1 << 20, false);
        assert_eq!(read(&mut rx, 10_000), 65_536);
    }

    #[test]
    fn what_is_left_over_of_a_window_is_announced_when_nothing_else_will_come() {
        let mut rx = ReceiveWindow::new(true, fixed(65536), 0);
        rx.receive(262_144).unwrap();
        rx.consume(262_144, 0);
        assert_eq!(rx.take_update(), Some((262_144, 65536)));
        rx.receive(50_000).unwrap();
        rx.consume(40_000, 0);
        assert_eq!(rx.take_update(), Some((302_144, 65536)));
        rx.consume(10_000, 0);
        assert_eq!(rx.take_update(), None, "the peer may go on: it has 55,536 bytes");
        rx.receive(55_536 - 16_000).unwrap();
        rx.consume(20_000, 0);
        assert_eq!(rx.take_update(), None, "there is more to consume");
        rx.consume(19_536, 0);
        assert_eq!(
            rx.take_update(),
            Some((351_680, 65536)),
            "16,000 bytes are less than a quarter"
        );
    }

    #[test]
    fn a_reader_that_falls_behind_gets_half_down_to_the_base() {
        let mut rx = ReceiveWindow::new(true, GROWING, 0);
        assert_eq!([(); 4].map(|()| round(&mut rx, u64::MAX))[3], 1 << 20);
        // The reader never catches up.
        rx.receive(1 << 20).unwrap();
        let mut windows = Vec::new();
        for _ in 0..40 {
            let half = rx.window as usize / 2;
            rx.consume(half, u64::MAX);
            rx.receive(half).unwrap();
            windows.extend(rx.take_update().map(|(_, window)| window));
        }
        // Seven UPDs in a row change nothing.
        let halves = [
            [1 << 20, 1 << 19],
            [1 << 19, 1 << 18],
            [1 << 18, 1 << 17],
            [1 << 17, 1 << 16],
            [1 << 16, 1 << 16],
        ];
        let expected: Vec<u32> = halves
            .iter()
            .flat_map(|&[before, after]| [&[before; 7][..], &[after]].concat())
            .collect();
        assert_eq!(windows, expected);
    }

    #[test]
    fn a_burst_that_brings_several_updates_is_no_falling_behind() {
        let mut rx = ReceiveWindow::new(true, GROWING, 0);
        while round(&mut rx, u64::MAX) < 1 << 20 {}
        for _ in 0..100 {
            rx.receive(1 << 20).unwrap();
            rx.consume(1 << 19, u64::MAX); // the rest of the burst is delivered already
            assert_eq!(rx.take_update().map(|(_, window)| window), Some(1 << 20));
            rx.mark_caught_up();
            rx.consume(1 << 19, u64::MAX);
            assert_eq!(rx.take_update().map(|(_, window)| window), Some(1 << 20));
        }
    }

    proptest! {
        #[test]
        fn a_sender_that_keeps_to_the_window_never_overruns(
            origin in prop_oneof![Just(0u64), Just(NEAR_WRAP)],
            steps in prop::collection::vec((0..40_000usize, 0..40_000usize, any::<bool>()), 1..200),
            base in 1..100_000usize,
            max in 1..1_000_000usize,
        ) {
            let mut tx = SendWindow::new(true, origin);
            let mut rx = ReceiveWindow::new(true, WindowSizes { base, max }, origin);
            let mut unread = 0;
            for (write, read, deliver) in steps {
                let n = write.min(tx.credit());
                tx.accept(n);
                tx.transmit(n);
                prop_assert!(rx.receive(n).is_ok());
                unread += n;
                let n = read.min(unread);
                unread -= n;
                rx.consume(n, 50_000);
                prop_assert!(rx.received <= rx.edge, "no slack is needed");
                if deliver && let Some((consumed, window)) = rx.take_update() {
                    let applied = matches!(tx.update(consumed, window), Update::Applied { .. });
                    prop_assert!(applied);
                }
            }
        }
    }
}

//! How much the streams of a session may send unsolicited: past what their peer has announced.
//!
//! The protocol lets every stream begin with 262144 bytes before its peer has said a word. Many
//! streams that do so use up the peer's budget, and then it stops reading, updates of its own
//! windows included. So unsolicited data is counted over the session, and bounded.
//!
//! Invariants: a stream may always hold its share; past it nobody takes more while all together
//! hold [`TOGETHER`].

use crate::config::INITIAL_WINDOW;

/// What all streams may hold unsolicited together, in bytes, their shares apart: four whole first
/// windows, a quarter of the default budget of a peer.
const TOGETHER: u64 = 1 << 20;

/// What the shares of all streams come to, in bytes, as long as each has more than the least: half
/// of the default budget.
const SHARES: u64 = 2 << 20;

/// A share is at most so many bytes: more than most requests. 128 streams have that.
const LARGEST_SHARE: u64 = 16 * 1024;

/// A share is at least so many bytes: a small write fits. 512 streams have more than that, or just
/// that.
const LEAST_SHARE: u64 = 4096;

/// What is taken past the share is at least so much, or all that is wanted, so that data isn't cut
/// into crumbs.
const PIECE: u64 = 4096;

/// What a stream may always send before its first UPD, in bytes, with so many streams open.
pub(crate) fn share(streams: usize) -> u64 {
    (SHARES / (streams as u64).max(1)).clamp(LEAST_SHARE, LARGEST_SHARE)
}

/// What the streams of a session have sent unsolicited.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Unsolicited {
    held: u64,
}

impl Unsolicited {
    /// How much a stream gets that holds `held` bytes already and wants `want` more, with so many
    /// streams open. A little is given whole or not at all.
    pub(crate) fn offer(self, held: u64, want: u64, streams: usize) -> u64 {
        let want = want.min(u64::from(INITIAL_WINDOW).saturating_sub(held));
        let own = share(streams).saturating_sub(held).min(want);
        let rest = want - own;
        let more = TOGETHER.saturating_sub(self.held + own).min(rest);
        let offered = own + if more < rest.min(PIECE) { 0 } else { more };
        if want <= PIECE && offered < want { 0 } else { offered }
    }

    /// A stream holds `after` bytes instead of `before`.
    pub(crate) fn change(&mut self, before: u64, after: u64) {
        debug_assert!(self.held >= before);
        self.held = self.held - before + after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: u64 = INITIAL_WINDOW as u64;

    #[test]
    fn a_share_is_a_part_of_two_mebibytes_within_bounds() {
        let shares = [0, 1, 128, 129, 256, 512, 513, 65_536].map(share);
        assert_eq!(shares, [16_384, 16_384, 16_384, 16_256, 8192, 4096, 4096, 4096]);
    }

    #[test]
    fn four_streams_have_their_whole_first_window_and_the_fifth_its_share() {
        let mut all = Unsolicited::default();
        for _ in 0..4 {
            let n = all.offer(0, FIRST, 5);
            assert_eq!(n, FIRST);
            all.change(0, n);
        }
        assert_eq!(all.offer(0, FIRST, 5), 16_384);
        all.change(0, 16_384);
        assert_eq!(all.offer(16_384, 1, 5), 0);
        // What comes back goes to whoever asks, no more than that, and not in crumbs.
        all.change(FIRST, FIRST - 16_384 - 4095);
        assert_eq!(all.offer(16_384, FIRST, 5), 0);
        assert_eq!(all.offer(16_384, 4095, 5), 4095);
        all.change(FIRST, FIRST - 1);
        assert_eq!(all.offer(16_384, FIRST, 5), 4096);
    }

    #[test]
    fn a_stream_never_gets_more_than_the_protocols_first_window() {
        let all = Unsolicited::default();
        assert_eq!(all.offer(0, u64::MAX, 1), FIRST);
        assert_eq!(all.offer(FIRST - 10, 100, 1), 10);
        assert_eq!(all.offer(FIRST, 1, 1), 0);
    }

    #[test]
    fn a_little_is_given_whole_or_not_at_all() {
        let mut all = Unsolicited::default();
        all.change(0, TOGETHER);
        assert_eq!(all.offer(12_288, 4096, 1), 4096);
        assert_eq!(all.offer(12_289, 4096, 1), 0);
        assert_eq!(
            all.offer(12_289, 4097, 1),
            4095,
            "what is larger may be cut, and the share is a promise"
        );
    }

    proptest! {
        #[test]
        fn shares_are_always_to_be_had_and_the_rest_is_bounded(
            takes in prop::collection::vec((0..64usize, 1..300_000u64, 1..600usize, any::<bool>()), 1..300),
        ) {
            let mut all = Unsolicited::default();
            let mut held = [0u64; 64];
            let mut beyond = 0;
            for (stream, want, streams, back) in takes {
                if back {
                    all.change(held[stream], 0);
                    held[stream] = 0;
                    continue;
                }
                let n = all.offer(held[stream], want, streams);
                prop_assert!(n <= want && held[stream] + n <= FIRST);
                let share = share(streams);
                let before = held[stream];
                let after = held[stream] + n;
                if want > PIECE {
                    prop_assert!(after >= share.min(before + want), "the share");
                }
                all.change(before, after);
                held[stream] = after;
                if after > share && n > 0 {
                    beyond += 1;
                    prop_assert!(held.iter().sum::<u64>() <= TOGETHER, "past the shares");
                }
            }
            prop_assert!(beyond <= 300);
        }
    }
}

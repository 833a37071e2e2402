//! The limit on a session's *unsolicited bytes*: the bytes that a stream sends past the newest edge
//! that the peer's UPDs have announced. (An *edge* is the byte count up to which a side may send on
//! a stream.)
//!
//! The protocol lets each stream send 262144 bytes before the peer's first UPD. Many streams that
//! do so use up the peer's budget. Then the peer stops reading the connection. So the peer also
//! doesn't read the UPDs for which its own writes wait. Therefore unsolicited bytes are counted
//! over all streams of the session, and this sum is bounded. The rules are in
//! `manual::architecture`, "Windows of many streams".
//!
//! Invariants: a stream may always hold its share. A stream gets more than its share only while the
//! sum over all streams is below [`MAX_TOTAL`].

use crate::config::INITIAL_WINDOW;

/// Limit of the sum over all streams, in bytes. A stream gets its share even if the sum is past
/// this limit. 1 MiB is four initial windows, and a quarter of the default budget of a peer.
const MAX_TOTAL: u64 = 1 << 20;

/// Sum of all shares, in bytes, while a share is larger than [`MIN_SHARE`]. 2 MiB is half of the
/// default budget.
const SHARES_TOTAL: u64 = 2 << 20;

/// Largest share, in bytes. Most requests fit into it. With up to 128 streams, each stream has this
/// share (2 MiB / 128).
const MAX_SHARE: u64 = 16 * 1024;

/// Smallest share, in bytes. A write that is accepted whole (4096 bytes) fits into it. From 512
/// streams on, each stream has this share (2 MiB / 512).
const MIN_SHARE: u64 = 4096;

/// Smallest allowance that a stream gets beyond its share, in bytes, unless the stream wants less.
/// This limit keeps the data from being cut into tiny frames. 4096 is also the largest write that
/// is accepted whole.
const MIN_PIECE: u64 = 4096;

/// Returns the share of a stream while `streams` are open: the bytes that it may always send before
/// the first UPD.
pub(crate) fn share(streams: usize) -> u64 {
    (SHARES_TOTAL / (streams as u64).max(1)).clamp(MIN_SHARE, MAX_SHARE)
}

/// The unsolicited bytes of a session's streams.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Unsolicited {
    /// The sum over all streams, in bytes.
    held: u64,
}

impl Unsolicited {
    /// Returns the allowance for a stream that holds `held` bytes already and wants `want` more,
    /// while `streams` are open. If the stream wants at most [`MIN_PIECE`] bytes, it gets all of
    /// them or none.
    pub(crate) fn offer(self, held: u64, want: u64, streams: usize) -> u64 {
        let want = want.min(u64::from(INITIAL_WINDOW).saturating_sub(held));
        let own = share(streams).saturating_sub(held).min(want);
        let rest = want - own;
        let more = MAX_TOTAL.saturating_sub(self.held + own).min(rest);
        let offered = own + if more < rest.min(MIN_PIECE) { 0 } else { more };
        if want <= MIN_PIECE && offered < want { 0 } else { offered }
    }

    /// Records that a stream holds `after` bytes instead of `before`.
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
        // A stream that asks gets the returned allowance, and no piece of less than 4096 bytes.
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
        all.change(0, MAX_TOTAL);
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
            takes in prop::collection::vec(
                (0..64usize, 1..300_000u64, 1..600usize, any::<bool>()),
                1..300,
            ),
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
                if want > MIN_PIECE {
                    prop_assert!(after >= share.min(before + want), "the share");
                }
                all.change(before, after);
                held[stream] = after;
                if after > share && n > 0 {
                    beyond += 1;
                    prop_assert!(held.iter().sum::<u64>() <= MAX_TOTAL, "past the shares");
                }
            }
            prop_assert!(beyond <= 300);
        }
    }
}

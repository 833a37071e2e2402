//! A lane of streams that wait for a turn at the writer: many threads put them in, the writer takes
//! them out.
//!
//! It is a short bounded channel, whose places are made once, and an unbounded one for when that is
//! full: an unbounded channel allocates for every 31 messages, which small writes would pay for all
//! the time, and a bounded one for `max_streams` would cost an idle session a megabyte.
//!
//! Invariants: sending never blocks; what one thread sends comes out in its order, so that streams
//! are accepted in the order in which they were opened. For that, nothing goes the short way while
//! something waits in the long one, and the writer empties the short one before it takes what it
//! has seen in the long one.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use super::stream::SharedStream;

/// Places in the short channel: more streams than are usually scheduled between two batches, at 16
/// bytes and a few each.
const SHORT: usize = 64;

#[derive(Debug)]
pub(super) struct LaneSender {
    short: Sender<Arc<SharedStream>>,
    long: Sender<Arc<SharedStream>>,
}

#[derive(Debug, Clone)]
pub(super) struct LaneReceiver {
    short: Receiver<Arc<SharedStream>>,
    long: Receiver<Arc<SharedStream>>,
}

pub(super) fn lane() -> (LaneSender, LaneReceiver) {
    let (short, short_end) = bounded(SHORT);
    let (long, long_end) = unbounded();
    (LaneSender { short, long }, LaneReceiver { short: short_end, long: long_end })
}

impl LaneSender {
    /// Puts a stream in; `false` if there is no writer any more.
    pub(super) fn send(&self, stream: Arc<SharedStream>) -> bool {
        if !self.long.is_empty() {
            return self.long.send(stream).is_ok();
        }
        match self.short.try_send(stream) {
            Ok(()) => true,
            Err(TrySendError::Full(stream)) => self.long.send(stream).is_ok(),
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl LaneReceiver {
    /// Moves what has come to the end of `waiting`.
    pub(super) fn take(&self, waiting: &mut VecDeque<Arc<SharedStream>>) {
        // Counted first: what comes to the long way from here on may be newer than what then lies
        // in the short one.
        let overflow = self.long.len();
        waiting.extend(self.short.try_iter());
        waiting.extend(self.long.try_iter().take(overflow));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::sync::stream::Name;
    use std::time::Instant;

    fn stream(id: u32) -> Arc<SharedStream> {
        SharedStream::new(id, Name::new(b"", None), &Config::new(), false, Instant::now())
    }

    fn take(receiver: &LaneReceiver) -> Vec<u32> {
        let mut waiting = VecDeque::new();
        receiver.take(&mut waiting);
        waiting.iter().map(|stream| stream.id).collect()
    }

    #[test]
    fn what_one_thread_sends_comes_out_in_its_order() {
        let (sender, receiver) = lane();
        assert!(receiver.is_empty());
        // Within the short channel, past it, and back within it.
        for count in [1, SHORT as u32, 3 * SHORT as u32, 2] {
            let sent: Vec<u32> = (0..count).collect();
            assert!(sent.iter().all(|id| sender.send(stream(*id))));
            assert!(!receiver.is_empty());
            assert_eq!(take(&receiver), sent);
            assert!(receiver.is_empty());
        }
    }

    #[test]
    fn nothing_overtakes_what_waits_in_the_long_channel() {
        let (sender, receiver) = lane();
        let full = SHORT as u32;
        assert!((0..=full).all(|id| sender.send(stream(id))));
        assert!(receiver.short.try_iter().count() == SHORT && !receiver.is_empty());
        // There is room in the short one again, but something waits in the long one.
        assert!(sender.send(stream(full + 1)));
        assert!(receiver.short.is_empty() && !receiver.is_empty());
        assert_eq!(take(&receiver), [full, full + 1]);
        assert!(
            sender.send(stream(0)) && !receiver.short.is_empty(),
            "it is empty: the short way again"
        );
        assert!(!receiver.is_empty());
    }

    #[test]
    fn without_a_writer_sending_fails() {
        let (sender, receiver) = lane();
        drop(receiver);
        assert!(!sender.send(stream(1)));
        let (sender, receiver) = lane();
        assert!((0..=SHORT as u32).all(|id| sender.send(stream(id))));
        drop(receiver);
        assert!(!sender.send(stream(1)));
    }
}

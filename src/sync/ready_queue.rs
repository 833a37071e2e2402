//! A ready queue: streams that have something to send, in order. Many threads put them in, the
//! writer takes them out.
//!
//! It consists of two channels: a bounded one, whose places are allocated once, and an unbounded
//! one for the overflow. Each of the two channels alone would cost too much:
//! - An unbounded channel allocates for every 31 messages. Small writes would cause such
//!   allocations all the time.
//! - A bounded channel with a place for each of `max_streams` streams would cost an idle session a
//!   megabyte.
//!
//! # Invariants
//! - Sending never blocks.
//! - The streams that one thread sends come out in the order in which it sent them. So streams that
//!   one thread opens reach the peer in this order.
//!
//! The second invariant needs two rules. While the overflow holds anything, every stream goes
//! there. And the writer first counts the overflow, then empties the bounded channel, then takes
//! the counted streams out of the overflow.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::stream::SharedStream;

/// Capacity of the bounded channel. Usually fewer streams become ready between two batches, so the
/// overflow stays unused. A place takes 16 bytes, so 64 of them cost 1 KiB.
const BOUNDED_PLACES: usize = 64;

/// The sending end, for threads that make streams ready.
#[derive(Debug)]
pub(super) struct ReadySender {
    bounded: Sender<Arc<SharedStream>>,
    overflow: Sender<Arc<SharedStream>>,
}

/// The receiving end, for the writer.
#[derive(Debug, Clone)]
pub(super) struct ReadyReceiver {
    bounded: Receiver<Arc<SharedStream>>,
    overflow: Receiver<Arc<SharedStream>>,
}

/// Creates both ends of a ready queue.
pub(super) fn ready_queue() -> (ReadySender, ReadyReceiver) {
    let (bounded, bounded_receiver) = crossbeam_channel::bounded(BOUNDED_PLACES);
    let (overflow, overflow_receiver) = crossbeam_channel::unbounded();
    (
        ReadySender { bounded, overflow },
        ReadyReceiver { bounded: bounded_receiver, overflow: overflow_receiver },
    )
}

impl ReadySender {
    /// Puts a stream in. Returns `false` if the writer is gone.
    pub(super) fn send(&self, stream: Arc<SharedStream>) -> bool {
        if !self.overflow.is_empty() {
            return self.overflow.send(stream).is_ok();
        }
        match self.bounded.try_send(stream) {
            Ok(()) => true,
            Err(TrySendError::Full(stream)) => self.overflow.send(stream).is_ok(),
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl ReadyReceiver {
    /// Moves all streams that are in the queue to the end of `waiting`.
    pub(super) fn take(&self, waiting: &mut VecDeque<Arc<SharedStream>>) {
        // The overflow is counted first. A stream that comes into the overflow from here on may be
        // newer than a stream that comes into the bounded channel after this call has emptied it.
        let overflowed = self.overflow.len();
        waiting.extend(self.bounded.try_iter());
        waiting.extend(self.overflow.try_iter().take(overflowed));
    }

    /// Returns whether the queue has no stream.
    pub(super) fn is_empty(&self) -> bool {
        self.bounded.is_empty() && self.overflow.is_empty()
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

    fn take(receiver: &ReadyReceiver) -> Vec<u32> {
        let mut waiting = VecDeque::new();
        receiver.take(&mut waiting);
        waiting.iter().map(|stream| stream.id).collect()
    }

    #[test]
    fn what_one_thread_sends_comes_out_in_its_order() {
        let (sender, receiver) = ready_queue();
        assert!(receiver.is_empty());
        // Within the bounded channel, past it, and back within it.
        for count in [1, BOUNDED_PLACES as u32, 3 * BOUNDED_PLACES as u32, 2] {
            let sent: Vec<u32> = (0..count).collect();
            assert!(sent.iter().all(|id| sender.send(stream(*id))));
            assert!(!receiver.is_empty());
            assert_eq!(take(&receiver), sent);
            assert!(receiver.is_empty());
        }
    }

    #[test]
    fn nothing_overtakes_a_stream_in_the_overflow() {
        let (sender, receiver) = ready_queue();
        let full = BOUNDED_PLACES as u32;
        assert!((0..=full).all(|id| sender.send(stream(id))));
        assert!(receiver.bounded.try_iter().count() == BOUNDED_PLACES && !receiver.is_empty());
        // There is room in the bounded channel again, but a stream waits in the overflow.
        assert!(sender.send(stream(full + 1)));
        assert!(receiver.bounded.is_empty() && !receiver.is_empty());
        assert_eq!(take(&receiver), [full, full + 1]);
        assert!(
            sender.send(stream(0)) && !receiver.bounded.is_empty(),
            "the overflow is empty, so the bounded channel is used again"
        );
        assert!(!receiver.is_empty());
    }

    #[test]
    fn without_a_writer_sending_fails() {
        let (sender, receiver) = ready_queue();
        drop(receiver);
        assert!(!sender.send(stream(1)));
        let (sender, receiver) = ready_queue();
        assert!((0..=BOUNDED_PLACES as u32).all(|id| sender.send(stream(id))));
        drop(receiver);
        assert!(!sender.send(stream(1)));
    }
}

//! The receiving direction. It holds the segments that are ready for the reader, the early
//! segments, and the acks that have to be sent. A segment is early if a segment with a lower number
//! is still missing.
//!
//! Invariants:
//! - `ready` and `early` together never hold more segments than the window, whatever the peer
//!   sends. They hold no segment that the announced window didn't allow.
//! - `early` begins with the place of segment `next`, and that place is empty.
//! - A repeated segment causes one ack and nothing else.

use std::collections::VecDeque;

use super::buffers::Buffers;
use super::segment::Seq;

/// Time that an ack may wait for further acks, in milliseconds. It is short compared with a round
/// trip, and long enough for the acks of a burst to share a datagram.
const ACK_DELAY: u64 = 1;

/// Number of waiting acks at which they are sent at once. So the peer can send new segments while
/// the rest of its burst still arrives.
const ACKS: usize = 32;

#[derive(Debug)]
pub struct Receiver {
    window: usize,
    next: Seq,
    ready: VecDeque<Vec<u8>>,
    /// Number of bytes of the front segment that were read already.
    read: usize,
    early: VecDeque<Option<Vec<u8>>>,
    acks: Vec<(Seq, u32)>,
    /// The acks that were sent last. While a segment is missing, they are sent a second time,
    /// because each lost ack would make the peer repeat a segment.
    before: Vec<(Seq, u32)>,
    /// The time at which the acks have to be sent.
    due: u64,
    /// Whether nobody reads any more.
    discards: bool,
}

impl Receiver {
    pub fn new(window: u16, next: Seq) -> Self {
        Self {
            window: window.into(),
            next,
            ready: VecDeque::new(),
            read: 0,
            early: VecDeque::new(),
            acks: Vec::new(),
            before: Vec::new(),
            due: u64::MAX,
            discards: false,
        }
    }

    // ---- from the peer --------------------------------------------------------------------------

    /// Takes in segment `sn`. `ts` is the sending time that it carries. The segment is acked if
    /// there is room for it, or if it was received before. Otherwise it is dropped, and the peer
    /// sends it again later.
    pub fn push(&mut self, sn: Seq, ts: u32, data: &[u8], now: u64, buffers: &mut Buffers) {
        let place = sn.index_from(self.next);
        if place.is_some_and(|index| index >= self.room()) {
            return;
        }
        self.acks.push((sn, ts));
        let due = if self.acks.len() >= ACKS { now } else { now + ACK_DELAY };
        self.due = self.due.min(due);
        let Some(index) = place else { return };
        if index == 0 {
            self.accept(copy(data, buffers), buffers);
        } else {
            if self.early.len() <= index {
                self.early.resize_with(index + 1, || None);
            }
            if let Some(early @ None) = self.early.get_mut(index) {
                *early = Some(copy(data, buffers));
            }
            return;
        }
        // Early segments may have waited for this one.
        while let Some(early @ Some(_)) = self.early.front_mut() {
            let Some(data) = early.take() else { break };
            self.accept(data, buffers);
        }
    }

    /// Makes the next segment ready for the reader.
    fn accept(&mut self, data: Vec<u8>, buffers: &mut Buffers) {
        self.early.pop_front();
        self.next = self.next.plus(1);
        if data.is_empty() || self.discards {
            buffers.give(data);
        } else {
            self.ready.push_back(data);
        }
    }

    // ---- to the peer ----------------------------------------------------------------------------

    /// Returns the number of the next segment to arrive. All segments before it have arrived.
    pub fn next(&self) -> Seq {
        self.next
    }

    /// Returns the number of further segments for which there is room.
    pub fn room(&self) -> usize {
        self.window - self.ready.len()
    }

    /// Returns the number of segments for which there is room when no data waits to be read.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Returns the latest time to send the acks.
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Returns whether there are acks to send.
    pub fn owes(&self) -> bool {
        !self.acks.is_empty()
    }

    /// Calls `send` with each ack that has to be sent. Segments before `next` need no separate ack,
    /// because every segment carries `next`. The last ack is sent in any case, so that the peer can
    /// measure the round-trip time.
    pub fn acks(&mut self, mut send: impl FnMut(Seq, u32)) {
        let last = self.acks.len().saturating_sub(1);
        let next = self.next;
        self.before.retain(|(sn, _)| sn.since(next) >= 0);
        self.before.drain(..).for_each(|(sn, ts)| send(sn, ts));
        for (index, (sn, ts)) in self.acks.iter().copied().enumerate() {
            if index == last || sn.since(next) >= 0 {
                send(sn, ts);
            }
        }
        std::mem::swap(&mut self.acks, &mut self.before);
        self.due = u64::MAX;
    }

    // ---- to the application ---------------------------------------------------------------------

    pub fn is_readable(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Reads received bytes into `buf`. Returns their number.
    pub fn read(&mut self, mut buf: &mut [u8], buffers: &mut Buffers) -> usize {
        let len = buf.len();
        while !buf.is_empty()
            && let Some(front) = self.ready.front()
        {
            let rest = front.get(self.read..).unwrap_or_default();
            let n = rest.len().min(buf.len());
            let (now, later) = std::mem::take(&mut buf).split_at_mut(n);
            now.copy_from_slice(rest.get(..n).unwrap_or_default());
            buf = later;
            self.read += n;
            if n == rest.len() {
                buffers.give(self.ready.pop_front().unwrap_or_default());
                self.read = 0;
            }
        }
        len - buf.len()
    }

    /// Notes that nobody reads any more. Data that has been received, and later data, is acked and
    /// thrown away.
    pub fn discard(&mut self, buffers: &mut Buffers) {
        self.discards = true;
        self.ready.drain(..).for_each(|data| buffers.give(data));
        self.read = 0;
    }
}

fn copy(data: &[u8], buffers: &mut Buffers) -> Vec<u8> {
    let mut copy = buffers.take(data.len());
    copy.extend_from_slice(data);
    copy
}

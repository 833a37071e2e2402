//! The receiving direction: segments in order for the reader, early ones, and acks that are owed.
//!
//! Invariants: `ready` and `early` together never hold more segments than the window, whatever the
//! peer sends, nor a segment that wasn't announced as welcome; `early` begins with the place of
//! `next`, which is empty. A peer's repeats cost it an ack each, and nothing else.

use std::collections::VecDeque;

use super::buffers::Buffers;
use super::segment::Seq;

/// How long an ack may wait for others, in milliseconds: short beside a round trip, long enough for
/// the datagrams of a burst to share one.
const ACK_DELAY: u64 = 1;

/// So many don't wait: the peer's window should move while the burst still comes.
const ACKS: usize = 32;

#[derive(Debug)]
pub struct Receiver {
    window: usize,
    next: Seq,
    ready: VecDeque<Vec<u8>>,
    /// How much of the front one was read.
    read: usize,
    early: VecDeque<Option<Vec<u8>>>,
    acks: Vec<(Seq, u32)>,
    /// The acks of before, which are sent once more while a segment is missing: a lost ack would
    /// cost a segment.
    before: Vec<(Seq, u32)>,
    /// When acks are to be sent.
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

    /// Segment `sn` came, which says that it was sent at `ts`. It is acked if it has its place, or
    /// had it before; otherwise the peer sends it again when there is room.
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
        // It may be what early ones have waited for.
        while let Some(early @ Some(_)) = self.early.front_mut() {
            let Some(data) = early.take() else { break };
            self.accept(data, buffers);
        }
    }

    /// The next segment is there.
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

    /// All before this one have come.
    pub fn next(&self) -> Seq {
        self.next
    }

    /// How many more segments there is room for.
    pub fn room(&self) -> usize {
        self.window - self.ready.len()
    }

    /// How many segments there is room for while nothing waits to be read.
    pub fn window(&self) -> usize {
        self.window
    }

    /// When acks are to be sent, at the latest.
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Whether acks are owed.
    pub fn owes(&self) -> bool {
        !self.acks.is_empty()
    }

    /// Gives `send` the acks that are owed. Those before `next` need none of their own, since every
    /// segment says `next`; the last one is sent all the same, for the round-trip time.
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

    /// Reads what is there into `buf`; returns how much.
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

    /// Nobody reads any more: what is there and what comes is thrown away, and acked.
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

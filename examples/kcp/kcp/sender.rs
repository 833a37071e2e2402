//! The sending direction. It holds the waiting data and the segments in flight, and decides which
//! segments are sent again.
//!
//! A segment is sent again in two cases:
//! - Two acks of later segments have arrived. One ack is enough when no new segment can be sent.
//! - The time to wait for its ack is over.
//!
//! There is no congestion control, as in all of kcptun's modes. The windows are the only limit of
//! the segments in flight.
//!
//! Invariants:
//! - `flight` holds the segments with the numbers from `first` up to, but not including, `next`.
//!   They are sorted by number. So an ack finds its segment by index.
//! - `flight` is never longer than the window.
//! - An ack of a segment that wasn't sent is refused. [`Sender::is_sane`] checks it.
//! - Numbers are compared by distance, because they wrap.
//!
//! Costs: an ack is O(1), except for the walk over the earlier segments that still lack their acks.
//! The segments are searched for expired waits only when the earliest wait is over.

use std::collections::VecDeque;

use super::buffers::Buffers;
use super::rtt::RoundTrip;
use super::segment::{Segment, Seq};
use super::settings::{Mode, Settings};

/// The assumed window of a peer before it has announced one, in segments. The number is KCP's.
const FIRST_WINDOW: u16 = 32;

/// The least and the greatest limit of queued segments. The queue is so long that the receiving
/// thread can go on sending when acks arrive, without waiting for the writer. It is so short that
/// small frames don't wait long in it.
const QUEUE: (usize, usize) = (16, 128);

/// A segment in flight.
#[derive(Debug)]
struct InFlight {
    data: Vec<u8>,
    /// The time at which it was last sent.
    sent: u64,
    /// The time to wait for its ack, and the end of that wait, in milliseconds.
    wait: u32,
    due: u64,
    /// Number of acks of later segments that have come since it was last sent.
    passed: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sent,
    /// It has to be sent again, and is in `again`.
    Lost,
    Acked,
}

#[derive(Debug)]
pub struct Sender {
    /// The number of the very first segment.
    begin: Seq,
    first: Seq,
    next: Seq,
    flight: VecDeque<InFlight>,
    again: Vec<Seq>,
    /// Data that wasn't sent yet, in segments. All segments except the last are full.
    queue: VecDeque<Vec<u8>>,
    /// Whether the last segment may be sent although it isn't full.
    flushed: bool,
    window: usize,
    /// The window that the peer announced last.
    remote: usize,
    segment: usize,
    mode: Mode,
    pub rtt: RoundTrip,
    /// No wait ends before this time.
    due: u64,
    /// Number of segments that were sent again.
    pub repeats: u64,
}

impl Sender {
    pub fn new(settings: &Settings, first: Seq) -> Self {
        let mode = settings.mode;
        Self {
            begin: first,
            first,
            next: first,
            flight: VecDeque::new(),
            again: Vec::new(),
            queue: VecDeque::new(),
            flushed: false,
            window: settings.send_window.into(),
            remote: FIRST_WINDOW.into(),
            segment: settings.segment(),
            mode,
            rtt: RoundTrip::new(mode.nodelay, mode.interval),
            due: u64::MAX,
            repeats: 0,
        }
    }

    // ---- from the application -------------------------------------------------------------------

    /// Takes bytes of `data` until there is no more room. Returns the number of bytes taken.
    pub fn write(&mut self, mut data: &[u8], buffers: &mut Buffers) -> usize {
        let len = data.len();
        while !data.is_empty() {
            if self.queue.back().is_none_or(|last| last.len() >= self.segment) {
                if self.queue.len() >= self.most_queued() {
                    break;
                }
                self.queue.push_back(buffers.take(self.segment));
            }
            let Some(last) = self.queue.back_mut() else { break };
            let (now, later) = data.split_at(data.len().min(self.segment - last.len()));
            last.extend_from_slice(now);
            data = later;
        }
        len - data.len()
    }

    /// Lets all written data be sent, even if it doesn't fill a segment.
    pub fn flush(&mut self) {
        self.flushed = !self.queue.is_empty();
    }

    /// Returns whether there is enough room to make waking a blocked write worthwhile.
    pub fn has_room(&self) -> bool {
        self.queue.len() <= self.most_queued() / 2
    }

    fn most_queued(&self) -> usize {
        (self.window / 2).clamp(QUEUE.0, QUEUE.1)
    }

    /// Returns whether the peer has acked any segment.
    pub fn is_proven(&self) -> bool {
        self.first != self.begin
    }

    /// Returns whether the peer has acked everything.
    pub fn is_done(&self) -> bool {
        self.flight.is_empty() && self.queue.is_empty()
    }

    // ---- from the peer --------------------------------------------------------------------------

    /// Returns whether the segment can come from this sender's peer. It can't if it acks a segment
    /// that wasn't sent.
    pub fn is_sane(&self, segment: &Segment<'_>, is_ack: bool) -> bool {
        segment.una.since(self.next) <= 0 && !(is_ack && segment.sn.since(self.next) >= 0)
    }

    /// Applies two fields that every received segment has. All segments before `una` have arrived
    /// at the peer. `window` is the peer's room. The fields are ignored if a newer segment has
    /// overtaken this one.
    pub fn progress(&mut self, una: Seq, window: u16, buffers: &mut Buffers) {
        let Some(count) = una.index_from(self.first) else { return };
        for _ in 0..count {
            let Some(segment) = self.flight.pop_front() else { break };
            buffers.give(segment.data);
            self.first = self.first.plus(1);
        }
        self.remote = window.into();
    }

    /// Records that the peer has received segment `sn`. Returns whether that segment was in flight.
    /// A segment may no longer be in flight, because an ack can arrive twice or late.
    pub fn ack(&mut self, sn: Seq, buffers: &mut Buffers) -> bool {
        let index = sn.index_from(self.first);
        let Some(segment) = index.and_then(|index| self.flight.get_mut(index)) else {
            return false;
        };
        if segment.state == State::Acked {
            return false;
        }
        segment.state = State::Acked;
        buffers.give(std::mem::take(&mut segment.data));
        true
    }

    /// Finds lost segments after the acks of a datagram. A segment is lost if enough later segments
    /// were acked. `acks` are the acks for which [`ack`](Self::ack) returned true, sorted by `sn`.
    /// Each ack has the time at which its segment was sent.
    pub fn find_lost(&mut self, acks: &[(Seq, u64)]) {
        let Some(&(highest, _)) = acks.last() else { return };
        let before = highest.index_from(self.first).unwrap_or(0);
        let blocked = self.queue.is_empty() || self.flight.len() >= self.limit();
        let enough = if blocked { 1 } else { self.mode.resend };
        for (index, segment) in self.flight.iter_mut().enumerate().take(before) {
            if segment.state != State::Sent {
                continue;
            }
            let sn = self.first.plus(index);
            // An ack says nothing about segments that were sent, or sent again, after the acked
            // segment.
            let passed = acks.iter().rev().take_while(|(ack, _)| ack.since(sn) > 0);
            let passed = passed.filter(|(_, sent)| *sent >= segment.sent).take(enough as usize);
            segment.passed += passed.count() as u32;
            if segment.passed >= enough {
                segment.state = State::Lost;
                segment.wait = self.rtt.wait();
                self.again.push(sn);
            }
        }
    }

    // ---- to the peer ----------------------------------------------------------------------------

    /// Returns the limit of the segments in flight.
    fn limit(&self) -> usize {
        self.window.min(self.remote)
    }

    /// Returns whether data waits while the peer has no room.
    pub fn is_shut_out(&self) -> bool {
        self.remote == 0 && !self.queue.is_empty()
    }

    /// Returns the time at which the next wait ends, or `u64::MAX` if there is none.
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Calls `send` with the number and the data of each segment that has to be sent now.
    pub fn transmit(&mut self, now: u64, mut send: impl FnMut(Seq, &[u8])) {
        if now >= self.due {
            self.find_overdue(now);
        }
        let wait = self.rtt.wait();
        for sn in self.again.drain(..) {
            let Some(index) = sn.index_from(self.first) else { continue };
            let Some(segment) = self.flight.get_mut(index) else { continue };
            if segment.state == State::Lost {
                segment.state = State::Sent;
                segment.passed = 0;
                segment.sent = now;
                segment.due = now + u64::from(segment.wait);
                self.due = self.due.min(segment.due);
                self.repeats += 1;
                send(sn, &segment.data);
            }
        }
        while self.flight.len() < self.limit() && self.may_send() {
            let Some(data) = self.queue.pop_front() else { break };
            send(self.next, &data);
            let due = now + u64::from(wait);
            self.due = self.due.min(due);
            self.next = self.next.plus(1);
            self.flight.push_back(InFlight {
                data,
                sent: now,
                wait,
                due,
                passed: 0,
                state: State::Sent,
            });
        }
        self.flushed &= !self.queue.is_empty();
    }

    /// Returns whether the front of the queue may be sent. It may if it is full or flushed.
    fn may_send(&self) -> bool {
        self.flushed
            || self.queue.len() > 1
            || self.queue.front().is_some_and(|data| data.len() == self.segment)
    }

    /// Marks the segments whose wait is over as lost, and finds the end of the next wait.
    fn find_overdue(&mut self, now: u64) {
        self.due = u64::MAX;
        for (index, segment) in self.flight.iter_mut().enumerate() {
            if segment.state == State::Sent && now >= segment.due {
                segment.state = State::Lost;
                segment.wait = self.rtt.next_wait(segment.wait, self.mode.nodelay);
                self.again.push(self.first.plus(index));
            } else if segment.state == State::Sent {
                self.due = self.due.min(segment.due);
            }
        }
    }
}

//! The sending direction: data that waits, segments on the way, and which of them are sent again.
//!
//! A segment is sent again when two acks of later segments came (one, when nothing new can be
//! sent), or when its wait is over. There is no congestion control, as in all of kcptun's modes:
//! the windows alone bound what is on the way.
//!
//! Invariants: `flight` holds the segments from `first` to before `next`, in order, so that an ack
//! finds its segment by index; it is never longer than the window. Only one who has sent something
//! can be acked, which [`Sender::is_sane`] asks. Numbers are compared by distance.
//!
//! Costs: an ack is O(1), but for the walk over the segments before it that lack theirs; waits are
//! only looked through when the earliest of them is over.

use std::collections::VecDeque;

use super::buffers::Buffers;
use super::rtt::RoundTrip;
use super::segment::{Segment, Seq};
use super::settings::{Mode, Settings};

/// How large the peer's window is taken to be before it has said so, in segments: KCP's.
const FIRST_WINDOW: u16 = 32;

/// How many segments wait for room on the way, at least and at most: enough for the acks' thread to
/// send on without waiting for the writer, little enough for short frames not to wait long.
const QUEUE: (usize, usize) = (16, 128);

/// A segment on the way.
#[derive(Debug)]
struct InFlight {
    data: Vec<u8>,
    /// When it was sent last.
    sent: u64,
    /// How long its ack is waited for, and until when.
    wait: u32,
    due: u64,
    /// How many acks of later segments came since.
    passed: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sent,
    /// To be sent again: it is in `again`.
    Lost,
    Acked,
}

#[derive(Debug)]
pub struct Sender {
    /// The number of the first segment of all.
    begin: Seq,
    first: Seq,
    next: Seq,
    flight: VecDeque<InFlight>,
    again: Vec<Seq>,
    /// Data that wasn't sent yet, in segments; all but the last are full.
    queue: VecDeque<Vec<u8>>,
    /// Whether the last one may go although it isn't full.
    flushed: bool,
    window: usize,
    /// The peer's window.
    remote: usize,
    segment: usize,
    mode: Mode,
    pub rtt: RoundTrip,
    /// No wait is over before this.
    due: u64,
    /// How many segments were sent again.
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

    /// Takes as much of `data` as there is room for; returns how much.
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

    /// What was written may go, also where it doesn't fill a segment.
    pub fn flush(&mut self) {
        self.flushed = !self.queue.is_empty();
    }

    /// Whether there is enough room for a writer to be worth waking.
    pub fn has_room(&self) -> bool {
        self.queue.len() <= self.most_queued() / 2
    }

    fn most_queued(&self) -> usize {
        (self.window / 2).clamp(QUEUE.0, QUEUE.1)
    }

    /// Whether anything was acked.
    pub fn is_proven(&self) -> bool {
        self.first != self.begin
    }

    /// Whether everything was acked.
    pub fn is_done(&self) -> bool {
        self.flight.is_empty() && self.queue.is_empty()
    }

    // ---- from the peer --------------------------------------------------------------------------

    /// Whether a peer of this sender's can have sent the segment: it acks nothing that wasn't sent.
    pub fn is_sane(&self, segment: &Segment<'_>, is_ack: bool) -> bool {
        segment.una.since(self.next) <= 0 && !(is_ack && segment.sn.since(self.next) >= 0)
    }

    /// What every segment says: how far the peer has come, and how much more it takes. What an
    /// older one says, which was overtaken, doesn't count.
    pub fn progress(&mut self, una: Seq, window: u16, buffers: &mut Buffers) {
        let Some(count) = una.index_from(self.first) else { return };
        for _ in 0..count {
            let Some(segment) = self.flight.pop_front() else { break };
            buffers.give(segment.data);
            self.first = self.first.plus(1);
        }
        self.remote = window.into();
    }

    /// Segment `sn` has come. Returns whether it was on the way: acks may come twice, and late.
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

    /// After the acks of a datagram: the segments that were passed by enough of them are lost.
    /// `acks` are those that [`ack`](Self::ack) knew, with when what they ack was sent, sorted by
    /// `sn`.
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
            // An ack says nothing about what was sent (again) after the segment that it acks.
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

    /// How many segments may be on the way.
    fn limit(&self) -> usize {
        self.window.min(self.remote)
    }

    /// Whether the peer has no room, and something waits for it.
    pub fn is_shut_out(&self) -> bool {
        self.remote == 0 && !self.queue.is_empty()
    }

    /// When a wait is over, or nothing will be.
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Gives `send` what is to be sent now: `(sn, data)`.
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

    /// Whether the front of the queue may go: it is full, or flushed.
    fn may_send(&self) -> bool {
        self.flushed
            || self.queue.len() > 1
            || self.queue.front().is_some_and(|data| data.len() == self.segment)
    }

    /// Looks through the waits, and finds when the next one is over.
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

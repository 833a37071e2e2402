//! The line of calls that wait to write: first come, first served.
//!
//! A call that can't go on at once queues up, and leaves the line when it goes on, or gives up.
//! While a call is *midway* (it copies outside the lock, or a part of it was accepted and there is
//! no room for the rest) nobody else is served, so that what one call is told was accepted lies
//! together. A midway call that waits is at the head.
//!
//! A call for which there is room beside all that the line wants needn't queue up, if it is small:
//! nobody waits longer for it. Else a line that has formed once would never dissolve, and each
//! small write would cost a switch of threads.
//!
//! Who is woken: the head alone, since nobody else could go on; for that each of the line has a
//! condvar of its own. Whoever makes room wakes it, and whoever stops being in its way: a writer
//! that is done or gives up ([`SharedStream::pass_on`]). Endings, FIN and changed limits wake all.
//!
//! Invariants: a call that isn't in `wait_for_room` isn't in the line; a midway call is one at
//! most; nothing of a user's runs while the mark is set or a call is in the line, so that no panic
//! leaves either behind.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Condvar;

use super::{COPY_LOCKED, SharedStream, State};
use crate::proto::stream::Writable;

/// Those that wait.
#[derive(Default)]
pub(super) struct Line {
    waiting: VecDeque<Waiter>,
    /// The sum of their `left`.
    bytes: u64,
    /// The newest ticket.
    ticket: u64,
}

struct Waiter {
    ticket: u64,
    /// How much it has to write, in bytes.
    left: usize,
    /// Whether it is the midway call.
    midway: bool,
    /// Where it waits: one of the line at `writable`, so that a writer alone needs no condvar made.
    seat: Option<Arc<Condvar>>,
}

/// A call's place in the line.
pub(super) struct Place {
    ticket: u64,
    pub(super) seat: Option<Arc<Condvar>>,
}

/// A line that is gone keeps memory for so many.
const KEPT_PLACES: usize = 4;

impl State {
    /// How much a call that isn't in the line, and has `left` bytes to write, may write now;
    /// `midway`: it is the midway one.
    #[inline]
    pub(super) fn room_at_once(&self, left: usize, midway: bool, max: usize) -> Option<usize> {
        match self.core.writable(max, self.least(left, midway, max)) {
            Writable::Room(room) if midway || self.lets_pass(left, room) => Some(room),
            _ => None,
        }
    }

    /// The least that such a call takes at once. (Asked each time: a window may become so small
    /// that all of a small write never fits.)
    #[inline]
    pub(super) fn least(&self, left: usize, midway: bool, max: usize) -> usize {
        if midway { 1 } else { self.core.least(left, max) }
    }

    #[inline]
    fn lets_pass(&self, left: usize, room: usize) -> bool {
        !self.midway && (self.write_waiters == 0 || self.leaves_enough(left, room))
    }

    /// Whether there is room for `left` bytes beside all that the line wants.
    fn leaves_enough(&self, left: usize, room: usize) -> bool {
        let wanted = self.extras.as_ref().map_or(0, |extras| extras.line.bytes);
        left <= COPY_LOCKED && room as u64 >= wanted + left as u64
    }

    /// Whether it is the turn of a call that has `left` bytes to write, and this place in the line,
    /// if any.
    pub(super) fn is_turn(&self, place: Option<&Place>, left: usize, room: usize) -> bool {
        self.is_first(place) || (place.is_none() && self.lets_pass(left, room))
    }

    /// Whether a call may ask the session for allowance: nobody is before it.
    pub(super) fn is_first(&self, place: Option<&Place>) -> bool {
        match (place, self.head()) {
            (Some(place), Some(head)) => head.ticket == place.ticket && !self.midway,
            _ => !self.midway && self.write_waiters == 0,
        }
    }

    pub(super) fn queue_up(&mut self, left: usize, midway: bool) -> Place {
        self.write_waiters += 1;
        let line = &mut self.extras().line;
        line.ticket += 1;
        line.bytes += left as u64;
        let seat = line.waiting.iter().any(|waiter| waiter.seat.is_none()).then(Arc::default);
        let place = Place { ticket: line.ticket, seat: seat.clone() };
        let waiter = Waiter { ticket: line.ticket, left, midway, seat };
        if midway {
            line.waiting.push_front(waiter)
        } else {
            line.waiting.push_back(waiter)
        }
        place
    }

    pub(super) fn leave(&mut self, place: &Place) {
        let line = &mut self.extras().line;
        if let Some(at) = line.waiting.iter().position(|waiter| waiter.ticket == place.ticket)
            && let Some(waiter) = line.waiting.remove(at)
        {
            line.bytes -= waiter.left as u64;
        }
        if line.waiting.is_empty() {
            line.waiting.shrink_to(KEPT_PLACES);
        }
        self.write_waiters -= 1;
    }

    fn head(&self) -> Option<&Waiter> {
        self.extras.as_ref()?.line.waiting.front()
    }

    /// What the head waits for: so many bytes of room; `None` if it would wait all the same, or
    /// nobody waits.
    fn awaited(&self, max: usize) -> Option<usize> {
        if self.write_waiters == 0 {
            return None;
        }
        let head = self.head()?;
        // and not for a midway call, which is at work
        let waits_for_room = head.midway || !self.midway;
        waits_for_room.then(|| self.least(head.left, head.midway, max))
    }

    /// Whether there is so much room that the head is worth waking for it.
    pub(super) fn has_room_for_head(&self, max: usize) -> bool {
        self.awaited(max).is_some_and(|least| self.core.worth_waking(max, least))
    }
}

impl SharedStream {
    /// Wakes the head, if it can go on: what every writer does last.
    pub(super) fn pass_on(&self, state: &State, max: usize) {
        if let Some(least) = state.awaited(max)
            && state.core.may_have_room(max, least)
        {
            self.wake_head(state);
        }
    }

    pub(super) fn wake_head(&self, state: &State) {
        if let Some(head) = state.head() {
            head.seat.as_deref().unwrap_or(&self.writable).notify_one();
        }
    }

    /// Wakes the whole line, to look again.
    pub(super) fn wake_line(&self, state: &State) {
        let line = state.extras.iter().flat_map(|extras| &extras.line.waiting);
        for waiter in line {
            waiter.seat.as_deref().unwrap_or(&self.writable).notify_one();
        }
    }
}

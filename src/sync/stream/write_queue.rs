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
//! that is done or gives up ([`SharedStream::wake_next_write`]). Endings, FIN and changed limits wake all.
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
pub(super) struct WriteQueue {
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
    in_progress: bool,
    /// Where it waits: one of the line at `writable`, so that a writer alone needs no condvar made.
    condvar: Option<Arc<Condvar>>,
}

/// A call's place in the line.
pub(super) struct Place {
    ticket: u64,
    pub(super) condvar: Option<Arc<Condvar>>,
}

/// A line that is gone keeps memory for so many.
const KEPT_PLACES: usize = 4;

impl State {
    /// How much a call that isn't in the line, and has `left` bytes to write, may write now;
    /// `midway`: it is the midway one.
    #[inline]
    pub(super) fn room_at_once(&self, left: usize, in_progress: bool, max: usize) -> Option<usize> {
        match self.core.writable(max, self.least(left, in_progress, max)) {
            Writable::Room(room) if in_progress || self.may_overtake(left, room) => Some(room),
            _ => None,
        }
    }

    /// The least that such a call takes at once. (Asked each time: a window may become so small
    /// that all of a small write never fits.)
    #[inline]
    pub(super) fn least(&self, left: usize, in_progress: bool, max: usize) -> usize {
        if in_progress { 1 } else { self.core.least(left, max) }
    }

    #[inline]
    fn may_overtake(&self, left: usize, room: usize) -> bool {
        !self.write_in_progress
            && (self.write_waiters == 0 || self.leaves_room_for_queue(left, room))
    }

    /// Whether there is room for `left` bytes beside all that the line wants.
    fn leaves_room_for_queue(&self, left: usize, room: usize) -> bool {
        let wanted = self.extras.as_ref().map_or(0, |extras| extras.write_queue.bytes);
        left <= COPY_LOCKED && room as u64 >= wanted + left as u64
    }

    /// Whether it is the turn of a call that has `left` bytes to write, and this place in the line,
    /// if any.
    pub(super) fn may_write(&self, place: Option<&Place>, left: usize, room: usize) -> bool {
        self.is_first(place) || (place.is_none() && self.may_overtake(left, room))
    }

    /// Whether a call may ask the session for allowance: nobody is before it.
    pub(super) fn is_first(&self, place: Option<&Place>) -> bool {
        match (place, self.first_write()) {
            (Some(place), Some(first)) => first.ticket == place.ticket && !self.write_in_progress,
            _ => !self.write_in_progress && self.write_waiters == 0,
        }
    }

    pub(super) fn enqueue(&mut self, left: usize, in_progress: bool) -> Place {
        self.write_waiters += 1;
        let queue = &mut self.extras().write_queue;
        queue.ticket += 1;
        queue.bytes += left as u64;
        let condvar =
            queue.waiting.iter().any(|waiter| waiter.condvar.is_none()).then(Arc::default);
        let place = Place { ticket: queue.ticket, condvar: condvar.clone() };
        let waiter = Waiter { ticket: queue.ticket, left, in_progress, condvar };
        if in_progress {
            queue.waiting.push_front(waiter)
        } else {
            queue.waiting.push_back(waiter)
        }
        place
    }

    pub(super) fn dequeue(&mut self, place: &Place) {
        let queue = &mut self.extras().write_queue;
        if let Some(at) = queue.waiting.iter().position(|waiter| waiter.ticket == place.ticket)
            && let Some(waiter) = queue.waiting.remove(at)
        {
            queue.bytes -= waiter.left as u64;
        }
        if queue.waiting.is_empty() {
            queue.waiting.shrink_to(KEPT_PLACES);
        }
        self.write_waiters -= 1;
    }

    fn first_write(&self) -> Option<&Waiter> {
        self.extras.as_ref()?.write_queue.waiting.front()
    }

    /// What the head waits for: so many bytes of room; `None` if it would wait all the same, or
    /// nobody waits.
    fn wanted_by_first_write(&self, max: usize) -> Option<usize> {
        if self.write_waiters == 0 {
            return None;
        }
        let first = self.first_write()?;
        // and not for a midway call, which is at work
        let waits_for_room = first.in_progress || !self.write_in_progress;
        waits_for_room.then(|| self.least(first.left, first.in_progress, max))
    }

    /// Whether there is so much room that the head is worth waking for it.
    pub(super) fn has_room_for_first_write(&self, max: usize) -> bool {
        self.wanted_by_first_write(max).is_some_and(|least| self.core.worth_waking(max, least))
    }
}

impl SharedStream {
    /// Wakes the head, if it can go on: what every writer does last.
    pub(super) fn wake_next_write(&self, state: &State, max: usize) {
        if let Some(least) = state.wanted_by_first_write(max)
            && state.core.may_have_room(max, least)
        {
            self.wake_first_write(state);
        }
    }

    pub(super) fn wake_first_write(&self, state: &State) {
        if let Some(first) = state.first_write() {
            first.condvar.as_deref().unwrap_or(&self.writable).notify_one();
        }
    }

    /// Wakes the whole line, to look again.
    pub(super) fn wake_all_writes(&self, state: &State) {
        let queue = state.extras.iter().flat_map(|extras| &extras.write_queue.waiting);
        for waiter in queue {
            waiter.condvar.as_deref().unwrap_or(&self.writable).notify_one();
        }
    }
}

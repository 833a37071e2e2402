//! The queue of a stream's blocked writes: first come, first served.
//!
//! A write that can't go on at once joins the queue. It leaves the queue when it goes on or gives
//! up.
//!
//! A write is *in progress* in two cases:
//! - It copies outside the lock.
//! - A part of it was accepted, and there is no room for the rest.
//!
//! No other write is served meanwhile, so the accepted bytes of one call lie together. A write in
//! progress that waits is the first of the queue.
//!
//! A small write may overtake the queue if there is room for its bytes and for all bytes that the
//! queue wants. So it makes no other write wait longer. Without this rule, a queue that has formed
//! once would never become empty, and each small write would cost a switch of threads.
//!
//! # One condvar for each write
//! A thread that makes room wakes the first write of the queue alone, since no other could go on.
//! For this purpose, each write of the queue waits on a condvar of its own. A write that finishes
//! or gives up wakes the next one ([`SharedStream::wake_next_write`]). The
//! [manual](crate::manual::architecture#who-wakes-whom) lists the threads that wake the first
//! write, and those that wake every write.
//!
//! # Invariants
//! - Only calls that are in `wait_for_room` are in the queue.
//! - At most one write is in progress.
//! - A call runs no code of a user while it has `write_in_progress` set or is in the queue. So a
//!   panic of a user's code can't leave the mark set or the call in the queue.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Condvar;

use super::{COPY_LOCKED, SharedStream, State};
use crate::proto::stream::Writable;

/// The blocked writes of a stream, in the order in which they are served.
#[derive(Default)]
pub(super) struct WriteQueue {
    waiting: VecDeque<Waiter>,
    /// The bytes that all of these writes want to write.
    bytes: u64,
    /// The ticket of the write that joined last.
    ticket: u64,
}

/// A blocked write.
struct Waiter {
    ticket: u64,
    /// The bytes that the write has yet to write.
    left: usize,
    /// Whether it is the write in progress.
    in_progress: bool,
    /// The condvar on which it waits. `None` stands for the stream's `writable`, which one write of
    /// the queue uses. So a write that waits alone needs no allocation.
    condvar: Option<Arc<Condvar>>,
}

/// A call's place in the queue.
pub(super) struct Place {
    ticket: u64,
    pub(super) condvar: Option<Arc<Condvar>>,
}

/// Capacity that an empty queue keeps, in entries. So a few blocked writes don't allocate again and
/// again. Four is the least that a `VecDeque` allocates.
const KEPT_PLACES: usize = 4;

impl State {
    /// Returns the room for a call that isn't in the queue and has `left` bytes to write. Returns
    /// `None` if it has to wait. `in_progress` says whether it is the write in progress.
    #[inline]
    pub(super) fn room_at_once(&self, left: usize, in_progress: bool, max: usize) -> Option<usize> {
        match self.core.writable(max, self.least(left, in_progress, max)) {
            Writable::Room(room) if in_progress || self.may_overtake(left, room) => Some(room),
            _ => None,
        }
    }

    /// Returns the least number of bytes that a call with `left` bytes to write accepts at once.
    /// This number is computed anew each time, because a window may become so small that a whole
    /// small write never fits.
    #[inline]
    pub(super) fn least(&self, left: usize, in_progress: bool, max: usize) -> usize {
        if in_progress { 1 } else { self.core.least(left, max) }
    }

    /// Returns whether a call that isn't in the queue may write now.
    #[inline]
    fn may_overtake(&self, left: usize, room: usize) -> bool {
        !self.write_in_progress
            && (self.write_waiters == 0 || self.leaves_room_for_queue(left, room))
    }

    /// Returns whether there is room for `left` bytes and for all bytes that the queue wants.
    fn leaves_room_for_queue(&self, left: usize, room: usize) -> bool {
        let wanted = self.extras.as_ref().map_or(0, |extras| extras.write_queue.bytes);
        left <= COPY_LOCKED && room as u64 >= wanted + left as u64
    }

    /// Returns whether a call with `left` bytes to write may write now. `place` is its place in the
    /// queue, or `None` if it isn't in the queue.
    pub(super) fn may_write(&self, place: Option<&Place>, left: usize, room: usize) -> bool {
        self.is_first(place) || (place.is_none() && self.may_overtake(left, room))
    }

    /// Returns whether no other write comes before this call. Only such a call may ask the session
    /// for allowance.
    pub(super) fn is_first(&self, place: Option<&Place>) -> bool {
        match (place, self.first_write()) {
            (Some(place), Some(first)) => first.ticket == place.ticket && !self.write_in_progress,
            _ => !self.write_in_progress && self.write_waiters == 0,
        }
    }

    /// Puts a call into the queue: a write in progress in front, any other at the end.
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

    /// Takes a call out of the queue.
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

    /// Returns the room in bytes that the first write waits for. Returns `None` if nobody waits, or
    /// if room alone wouldn't let it go on.
    fn wanted_by_first_write(&self, max: usize) -> Option<usize> {
        if self.write_waiters == 0 {
            return None;
        }
        let first = self.first_write()?;
        // A write in progress that waits is the first of the queue. So if the first write isn't in
        // progress but another one is, the other one copies outside the lock. Then the first write
        // waits for the end of that copy, and not for room.
        let waits_for_room = first.in_progress || !self.write_in_progress;
        waits_for_room.then(|| self.least(first.left, first.in_progress, max))
    }

    /// Returns whether there is enough room to make waking the first write worthwhile.
    pub(super) fn has_room_for_first_write(&self, max: usize) -> bool {
        self.wanted_by_first_write(max).is_some_and(|least| self.core.worth_waking(max, least))
    }
}

impl SharedStream {
    /// Wakes the first write if it can go on. Each write calls this at its end.
    pub(super) fn wake_next_write(&self, state: &State, max: usize) {
        if let Some(least) = state.wanted_by_first_write(max)
            && state.core.may_have_room(max, least)
        {
            self.wake_first_write(state);
        }
    }

    /// Wakes the first write, which looks again whether it can go on.
    pub(super) fn wake_first_write(&self, state: &State) {
        if let Some(first) = state.first_write() {
            first.condvar.as_deref().unwrap_or(&self.writable).notify_one();
        }
    }

    /// Wakes all blocked writes, which look again whether they can go on.
    pub(super) fn wake_all_writes(&self, state: &State) {
        let queue = state.extras.iter().flat_map(|extras| &extras.write_queue.waiting);
        for waiter in queue {
            waiter.condvar.as_deref().unwrap_or(&self.writable).notify_one();
        }
    }
}

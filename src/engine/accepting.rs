//! Accepts the peer's streams, and keeps the reader waiting while the backlog is full.
//!
//! Two condvars belong to the registry's lock. Calls of `accept` wait on `acceptable`. The reader
//! thread waits on `room`. `manual/architecture.md` lists who wakes them, under *Who wakes whom*.
//!
//! Invariant: `room` is notified after each change that makes room in the backlog, and after each
//! event that keeps new streams out of it. These events are `close`, `drain`, failed writes, the
//! session's end, and the drop of the last `Session` handle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Accepting, SessionShared};
use crate::error::{Error, Result};
use crate::proto::registry::Admission;
use crate::sync::deadline::{Call, Deadline, earlier};
use crate::sync::stream::SharedStream;

impl SessionShared {
    /// Returns the peer's next stream, and blocks until there is one. Streams that are in the
    /// backlog already are returned even if the session has ended, unless this side has closed the
    /// session.
    ///
    /// # Errors
    /// Returns `Timeout` if the deadline or `timeout` has passed. If no more streams will come,
    /// returns the reason.
    pub(crate) fn accept(&self, timeout: Option<Duration>) -> Result<Arc<SharedStream>> {
        let mut call = Call::default();
        let mut registry = self.registry.lock();
        loop {
            if let Some(stream) = self.next_accepted(&mut registry)? {
                drop(registry);
                self.room.notify_one();
                return Ok(stream);
            }
            let deadline = Deadline { at: registry.deadline, timeout };
            let limit = deadline.limit(&mut call, Instant::now())?;
            registry.waiters += 1;
            match limit {
                Some(limit) => {
                    let _ = self.acceptable.wait_until(&mut registry, limit);
                }
                None => self.acceptable.wait(&mut registry),
            }
            registry.waiters -= 1;
        }
    }

    /// Returns the peer's next stream if the backlog has one. Never blocks.
    ///
    /// # Errors
    /// If no more streams will come, returns the reason.
    pub(crate) fn try_accept(&self) -> Result<Option<Arc<SharedStream>>> {
        let accepted = self.next_accepted(&mut self.registry.lock())?;
        self.room.notify_one();
        Ok(accepted)
    }

    /// Takes the next stream out of the backlog.
    fn next_accepted(&self, registry: &mut Accepting) -> Result<Option<Arc<SharedStream>>> {
        let cause = self.lifecycle.cause();
        if let Some(Error::Closed) = cause.as_deref() {
            return Err(Error::Closed);
        }
        match (registry.streams.accept(), cause) {
            (Some(stream), _) => Ok(Some(stream)),
            (None, Some(cause)) => Err(Error::clone(&cause)),
            // The session is draining, or its last handle was dropped.
            (None, None) if !registry.streams.is_accepting() => Err(Error::Closed),
            (None, None) => Ok(None),
        }
    }

    /// Sets the deadline of `accept`. Calls that are blocked already use it, too.
    pub(crate) fn set_accept_deadline(&self, deadline: Option<Instant>) {
        self.registry.lock().deadline = deadline;
        self.acceptable.notify_all();
    }

    /// Accepts no more streams, and closes those in the backlog.
    pub(super) fn refuse_incoming(&self) {
        let mut registry = self.registry.lock();
        registry.streams.stop_accepting();
        let backlog = registry.streams.take_backlog();
        drop(registry);
        self.accepting_ended();
        for stream in backlog {
            let _ = self.close_stream(&stream);
        }
    }

    /// Wakes all calls of `accept`, and the reader if it waits for room. Called when no stream
    /// comes into the backlog any more.
    pub(super) fn accepting_ended(&self) {
        self.acceptable.notify_all();
        self.room.notify_one();
    }

    // ---- a full backlog -------------------------------------------------------------------------

    /// Returns the number of streams in the backlog.
    pub(super) fn waiting_for_accept(&self) -> usize {
        self.registry.lock().streams.waiting()
    }

    /// Judges a SYN with `id`. If the backlog is full and `accept_stall_timeout` is zero, the SYN
    /// is refused at once.
    pub(super) fn admit(&self, id: u32) -> Admission {
        let streams = &mut self.registry.lock().streams;
        if self.env.config.accept_stall_timeout == Some(Duration::ZERO) && streams.makes_wait() {
            streams.turn_away();
        }
        streams.admit(id)
    }

    /// Judges a SYN with `id` that found the backlog full at the time `begun`. Blocks the reader
    /// thread until there is room, or until `accept_stall_timeout` has passed since `begun`.
    /// Returns `None` if `until` passes first, and never `Full`.
    ///
    /// Users are promised that the timeout runs from the last `accept`. Each `accept` makes room
    /// and so ends the pause. So the last `accept` was before `begun`, and a timeout from `begun`
    /// on is long enough.
    pub(super) fn wait_for_room(
        &self,
        id: u32,
        begun: Instant,
        until: Option<Instant>,
    ) -> Option<Admission> {
        let limit =
            self.env.config.accept_stall_timeout.and_then(|timeout| begun.checked_add(timeout));
        let mut registry = self.registry.lock();
        loop {
            let admission = registry.streams.admit(id);
            if admission != Admission::Full {
                return Some(admission);
            }
            let now = Instant::now();
            let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if passed(limit) {
                registry.streams.turn_away();
                return Some(registry.streams.admit(id));
            }
            if passed(until) {
                return None;
            }
            match earlier(limit, until) {
                Some(at) => {
                    let _ = self.room.wait_until(&mut registry, at);
                }
                None => self.room.wait(&mut registry),
            }
        }
    }
}

//! How streams of the peer wait for the application: `accept`, and what the reader does while the
//! backlog is full.
//!
//! Two condvars wait on the registry's lock:
//!
//! | condvar | waits in | woken by |
//! |---|---|---|
//! | `acceptable` | `accept` | a stream in the backlog; a changed deadline; whatever ends the accepting |
//! | `room` | the reader thread alone, [`SessionShared::wait_for_room`] | `accept` and `try_accept` when they take a stream; whatever ends the accepting; its own time limit |
//!
//! *What ends the accepting*: `close`, `drain`, failed writes, the session's end, the drop of the
//! last `Session` handle.
//!
//! Invariant: whoever makes room in the backlog, or ends the accepting, wakes `room` after it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Accepting, SessionShared};
use crate::error::{Error, Result};
use crate::proto::registry::Admission;
use crate::sync::deadline::{Call, Deadline, earlier};
use crate::sync::stream::SharedStream;

impl SessionShared {
    /// The next stream of the peer. Queued ones come first, then why there will be no more.
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

    pub(crate) fn try_accept(&self) -> Result<Option<Arc<SharedStream>>> {
        let accepted = self.next_accepted(&mut self.registry.lock())?;
        self.room.notify_one();
        Ok(accepted)
    }

    fn next_accepted(&self, registry: &mut Accepting) -> Result<Option<Arc<SharedStream>>> {
        let cause = self.lifecycle.cause();
        if let Some(Error::Closed) = cause.as_deref() {
            return Err(Error::Closed);
        }
        match (registry.streams.accept(), cause) {
            (Some(stream), _) => Ok(Some(stream)),
            (None, Some(cause)) => Err(Error::clone(&cause)),
            // Draining, or there was no session handle.
            (None, None) if !registry.streams.is_accepting() => Err(Error::Closed),
            (None, None) => Ok(None),
        }
    }

    pub(crate) fn set_accept_deadline(&self, deadline: Option<Instant>) {
        self.registry.lock().deadline = deadline;
        self.acceptable.notify_all();
    }

    /// Accepts no more streams; those that wait get their FIN.
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

    /// No stream of the peer comes into the backlog any more: whoever waits for one, or for room,
    /// looks again.
    pub(super) fn accepting_ended(&self) {
        self.acceptable.notify_all();
        self.room.notify_one();
    }

    // ---- a full backlog -------------------------------------------------------------------------

    /// Streams that wait to be accepted.
    pub(super) fn waiting_for_accept(&self) -> usize {
        self.registry.lock().streams.waiting()
    }

    /// Whether a SYN with `id` may open a stream. A backlog that is full refuses at once where it
    /// is told to.
    pub(super) fn admit(&self, id: u32) -> Admission {
        let streams = &mut self.registry.lock().streams;
        if self.env.config.accept_stall_timeout == Some(Duration::ZERO) && streams.makes_wait() {
            streams.turn_away();
        }
        streams.admit(id)
    }

    /// What becomes of a SYN with `id` that came, at `begun`, while the backlog was full: the
    /// reader thread waits until there is room, or the stall timeout has passed. (That runs from
    /// the last accept if that is later; but each accept makes room, so the next pause begins after
    /// it.) `None` if `until` passes first.
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

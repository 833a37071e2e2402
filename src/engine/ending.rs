//! Closes, fails and ends a session, and tells its streams.
//!
//! Invariants:
//! - [`SessionShared::end`] ends the session once, for the first caller.
//! - Two functions block. `drain` blocks on any thread. `close` blocks on all threads except gmux's
//!   own. Some others call a user's code, which may block: a notifier, or the transport's `abort`.
//! - No lock is held while a notifier is called or a user's object is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::guard::{guarded, is_logged};
use super::logging::{debug, info, warn};
use super::notifiers::call_notifier;
use super::threads::run_on_new_thread;
use super::{SessionShared, on_own_thread, timer};
use crate::error::{Error, Result};
use crate::sync::close::{InputEnd, Phase};
use crate::sync::shaper::Signal;

impl SessionShared {
    /// Closes the session: sends all accepted bytes, ends the writing direction, and blocks until
    /// the peer has ended its side, at most for the close timeout.
    ///
    /// # Errors
    /// - `CloseIncomplete` after the close timeout, or if the peer ended its side before all
    ///   accepted bytes were handed over
    /// - the error that ended the session or its input
    /// - `WouldBlock` on one of gmux's own threads. There this function doesn't wait. The close has
    ///   begun, and goes on in the background.
    pub(crate) fn close(self: &Arc<Self>) -> Result<()> {
        self.begin_close();
        if on_own_thread() {
            return Err(Error::WouldBlock);
        }
        if let Some(outcome) = self.lifecycle.wait_outcome() {
            return outcome;
        }
        self.overdue();
        // `overdue` has decided the outcome.
        self.lifecycle.outcome().unwrap_or(Err(Error::Closed))
    }

    /// Ends the session after the close timeout: decides the outcome, and aborts the transport.
    pub(super) fn overdue(&self) {
        let streams = self.registry.lock().streams.streams();
        let unsent = streams.iter().map(|stream| stream.unsent()).sum();
        match self.lifecycle.overdue(unsent, self.env.config.close_timeout) {
            Some(cause) => self.ended(&cause, Output::Abort),
            // The session ended earlier, when its input ended. Its output couldn't be ended in
            // time.
            None => self.abort(),
        }
    }

    /// Lets neither side open a new stream. Blocks until all streams are closed and their FINs are
    /// handed over, then closes the session. Streams in the backlog count as well, and can still be
    /// accepted.
    ///
    /// # Errors
    /// Returns `DrainIncomplete` if streams were left after `timeout`. The session is closed in
    /// this case, too. If no stream was left, returns the errors of [`close`](Self::close).
    pub(crate) fn drain(self: &Arc<Self>, timeout: Duration) -> Result<()> {
        let limit = Instant::now().checked_add(timeout);
        let mut registry = self.registry.lock();
        registry.streams.seal(Error::Closed);
        self.accepting_ended();
        let mut late = false;
        while registry.streams.len() > 0 && !late && !self.lifecycle.is_closing_or_ended() {
            late = match limit {
                Some(limit) => {
                    self.drained.wait_until(&mut registry, limit).timed_out()
                        && registry.streams.len() > 0
                }
                None => {
                    self.drained.wait(&mut registry);
                    false
                }
            };
        }
        let streams = registry.streams.len();
        drop(registry);
        let closed = self.close();
        if late { Err(Error::DrainIncomplete { streams, after: timeout }) } else { closed }
    }

    /// Begins a close: tells the streams, and signals the writer thread to finish. If writes have
    /// failed, ends the session instead. Does nothing if a close has begun or the session has
    /// ended.
    pub(super) fn begin_close(self: &Arc<Self>) {
        let now = Instant::now();
        let deadline = now.checked_add(self.env.config.close_timeout);
        if !self.lifecycle.begin_close(now, deadline) {
            // If writes have failed, perhaps a moment ago on another thread, no accepted bytes can
            // be sent. Then the session ends at once.
            if let (true, Some(cause)) =
                (self.lifecycle.is_in(Phase::WriteFailed), self.lifecycle.cause())
            {
                self.end(Error::clone(&cause));
            }
            return;
        }
        debug!(target: "gmux::session", "session {} is closing", self.number);
        let cause = Arc::new(Error::Closed);
        let mut registry = self.registry.lock();
        registry.streams.seal(Error::Closed);
        let streams = registry.streams.streams();
        let backlog = registry.streams.take_backlog();
        drop(registry);
        drop(backlog);
        self.accepting_ended();
        self.drained.notify_all();
        let mut notifiers = Vec::new();
        for stream in streams {
            let mut ended = stream.detach(&self.env, &cause);
            notifiers.extend(ended.notifier.take().map(|notifier| (notifier, stream)));
        }
        let _ = self.lifecycle.mark_notified();
        // Every stream has been told, so no more bytes are accepted. The writer thread sends the
        // rest and finishes.
        self.env.budget.close();
        self.env.shaper.signal(Signal::Finish);
        if let Some(deadline) = deadline {
            timer::schedule(self, deadline);
        }
        for (notifier, stream) in notifiers {
            call_notifier(self.number, notifier, &stream);
        }
    }

    /// Ends the writing after the transport has failed a write. Reading goes on until the end of
    /// the input, or for the close timeout, since data of the peer may still lie in the transport.
    pub(super) fn fail_write(self: &Arc<Self>, error: Error) {
        let cause = Arc::new(error);
        let deadline = Instant::now().checked_add(self.env.config.close_timeout);
        if !self.lifecycle.fail_write(&cause, deadline) {
            return;
        }
        if !is_logged(&cause) {
            warn!(
                target: "gmux::session",
                "session {}{} can't write: {cause}",
                self.number, self.peer_text(),
            );
        }
        let mut registry = self.registry.lock();
        registry.streams.seal(Error::clone(&cause));
        let streams = registry.streams.streams();
        drop(registry);
        self.accepting_ended();
        for stream in streams {
            let _ = stream.fail_write(&self.env, &cause);
        }
        if let Some(deadline) = deadline {
            timer::schedule(self, deadline);
        }
    }

    /// Ends the session with `error`, unless it has ended already. Joins no thread, and blocks only
    /// if the transport's `abort` does.
    pub(crate) fn end(&self, error: Error) {
        if let Some(cause) = self.lifecycle.end(error) {
            self.ended(&cause, Output::Abort);
        }
    }

    /// Reports the end of the input. `error` says how it ended.
    ///
    /// - A session that is closing goes on. The writer thread sends the rest, and the last of the
    ///   two threads ends the session.
    /// - Any other session ends. If the input ended with an end of file, even inside a frame, the
    ///   writer thread still ends the output. So the peer reads an end of file, too.
    pub(super) fn end_of_input(self: &Arc<Self>, error: Error) {
        let clean = error.is_end_of_input();
        let now = Instant::now();
        let deadline = now.checked_add(self.env.config.close_timeout);
        if let InputEnd::Ends(cause) = self.lifecycle.input_done(error, clean, now, deadline) {
            self.ended(&cause, if clean { Output::Finish } else { Output::Abort });
            if let (true, Some(deadline)) = (clean, deadline) {
                timer::schedule(self, deadline);
            }
        }
    }

    /// Ends the session when the last of its two threads has ended. This completes a close. The
    /// transport is aborted, unless both of its directions have [ended in
    /// order](crate::sync::close::Lifecycle::ended_in_order).
    pub(super) fn end_with_threads(&self) {
        let finished = self.lifecycle.ended_in_order();
        if let Some(cause) = self.lifecycle.end(Error::Closed) {
            self.ended(&cause, if finished { Output::Finish } else { Output::Abort });
        }
        if !finished {
            self.abort();
        }
    }

    /// Does the work of an end: wakes all waiters, tells the streams, and logs the cause. Called
    /// once, since [`Lifecycle`](crate::sync::close::Lifecycle) returns the cause to the first
    /// caller only.
    fn ended(&self, cause: &Arc<Error>, output: Output) {
        if output == Output::Abort {
            self.abort();
        }
        self.env.budget.close();
        if output == Output::Abort {
            self.env.shaper.signal(Signal::Stop);
        }
        let streams = self.registry.lock().streams.end(Error::clone(cause));
        self.accepting_ended();
        self.drained.notify_all();
        let ended = streams.into_iter().map(|stream| {
            let ended = stream.end(&self.env, cause);
            (stream, ended)
        });
        let ended: Vec<_> = ended.collect();
        if output == Output::Finish {
            // This must come before `mark_notified`. If the writer thread has ended already,
            // `mark_notified` decides the outcome of `close`. So the number of bytes that weren't
            // sent must be known by then.
            self.lifecycle.too_late(ended.iter().map(|(_, ended)| ended.unsent).sum());
        }
        let _ = self.lifecycle.mark_notified();
        match output {
            Output::Abort => timer::forget(self.number),
            Output::Finish => self.env.shaper.signal(Signal::Finish),
        }
        let number = self.number;
        let peer = self.peer_text();
        match &**cause {
            Error::Closed => {
                info!(target: "gmux::session", "session {number}{peer} ended: closed at this end")
            }
            Error::PeerClosed => {
                info!(target: "gmux::session", "session {number}{peer} ended: {cause}")
            }
            cause if is_logged(cause) => {
                info!(target: "gmux::session", "session {number}{peer} ended by that")
            }
            cause => warn!(target: "gmux::session", "session {number}{peer} ended: {cause}"),
        }
        self.notify_on_pool(ended);
    }

    /// Returns whether the transport was aborted.
    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(SeqCst)
    }

    /// Aborts the transport, which makes its blocked calls return. Does nothing the second time.
    pub(super) fn abort(&self) {
        if self.aborted.swap(true, SeqCst) {
            return;
        }
        let control = self.control.lock().clone();
        let Some(control) = control else { return };
        let number = self.number;
        let abort = move || {
            // The session's two threads may drop their references to the control meanwhile. Then
            // this closure drops the last one, and with it a user's object.
            let _ = guarded(number, "the transport panicked in abort", || {
                control.get()?.abort();
                Ok(())
            });
        };
        if timer::is_this_thread() {
            // The closure may run a user's code, which may block. The timer has other sessions to
            // look at.
            run_on_new_thread(number, abort);
        } else {
            abort();
        }
    }
}

/// How a session's output ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// The writer thread ends it, within the close timeout.
    Finish,
    /// The abort ends it at once. It ends the input, too.
    Abort,
}

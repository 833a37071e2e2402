//! How a session closes, fails and ends, and how streams that end with it are told.
//!
//! Invariants: [`SessionShared::end`] does its work once, whoever calls it first; nothing here
//! waits but `close` and `drain`, on a user's thread; notifiers are called, and a user's things
//! dropped, with no lock held.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::guard::{caught, guarded, is_said, said};
use super::logging::{debug, info, warn};
use super::warn_limiter::shown;
use super::{SessionShared, on_own_thread, spawn, timer};
use crate::error::{Error, Result};
use crate::sync::close::{InputEnd, Phase};
use crate::sync::shaper::Signal;
use crate::sync::stream::{Ended, Notifier, SharedStream};

impl SessionShared {
    /// Closes the session: what was accepted is sent, the writing direction ends, then the peer's
    /// end is waited for.
    ///
    /// # Errors
    /// `CloseIncomplete` after the close timeout, or if the peer ended first; what ended the
    /// session or its input; on one of our own threads `WouldBlock`: the close goes on without it.
    pub(crate) fn close(self: &Arc<Self>) -> Result<()> {
        self.begin_close();
        if on_own_thread() {
            return Err(Error::WouldBlock);
        }
        if let Some(outcome) = self.lifecycle.wait_outcome() {
            return outcome;
        }
        self.overdue();
        self.lifecycle.outcome().unwrap_or(Err(Error::Closed)) // it is known from here on
    }

    /// The close timeout has passed.
    pub(super) fn overdue(&self) {
        let streams = self.registry.lock().streams.streams();
        let unsent = streams.iter().map(|stream| stream.unsent()).sum();
        match self.lifecycle.overdue(unsent, self.env.config.close_timeout) {
            Some(cause) => self.ended(&cause, Output::Abort),
            // it ended with its input, and its output couldn't be ended in time
            None => self.abort(),
        }
    }

    /// Opens no more streams, waits until all are closed and their FINs handed over, then closes
    /// the session.
    ///
    /// # Errors
    /// `DrainIncomplete` if that took longer than `timeout` (the session is closed all the same),
    /// else what `close` says.
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

    pub(super) fn begin_close(self: &Arc<Self>) {
        let now = Instant::now();
        let deadline = now.checked_add(self.env.config.close_timeout);
        if !self.lifecycle.begin_close(now, deadline) {
            // Where writes failed, before this or in this moment, nothing that was accepted can be
            // sent: it ends at once.
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
        // Every stream knows, so nothing is accepted any more: the writer can send what waits and
        // finish.
        self.env.budget.close();
        self.env.shaper.signal(Signal::Finish);
        if let Some(deadline) = deadline {
            timer::schedule(self, deadline);
        }
        for (notifier, stream) in notifiers {
            call_notifier(self.number, notifier, &stream);
        }
    }

    /// The transport takes no more writes. What the peer sent before may still lie in the
    /// transport, so reading goes on: until its end, or for the close timeout.
    pub(super) fn fail_write(self: &Arc<Self>, error: Error) {
        let cause = Arc::new(error);
        let deadline = Instant::now().checked_add(self.env.config.close_timeout);
        if !self.lifecycle.fail_write(&cause, deadline) {
            return;
        }
        if !is_said(&cause) {
            warn!(target: "gmux::session", "session {}{} can't write: {cause}", self.number, self.peer_text());
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

    /// Ends the session, unless it has ended already. Never waits and never joins.
    pub(crate) fn end(&self, error: Error) {
        if let Some(cause) = self.lifecycle.end(error) {
            self.ended(&cause, Output::Abort);
        }
    }

    /// The input is over. That ends the session, unless it is closing: then what the writer still
    /// has to send goes out, and the last of the two threads ends the session. After an end of file
    /// the writer still ends the output, so that the peer reads an end, too.
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

    /// The last of the two threads has ended: so does a local close that went well. What hasn't
    /// ended by itself is aborted.
    pub(super) fn end_with_threads(&self) {
        let finished = self.lifecycle.ended_in_order();
        if let Some(cause) = self.lifecycle.end(Error::Closed) {
            self.ended(&cause, if finished { Output::Finish } else { Output::Abort });
        }
        if !finished {
            self.abort();
        }
    }

    /// Does what an end needs; once, for [`Lifecycle`](crate::sync::close::Lifecycle) lets one
    /// caller alone through.
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
            // Before `told`, which lets a close say what it knows: the writer may have failed by
            // itself.
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
            cause if is_said(cause) => {
                info!(target: "gmux::session", "session {number}{peer} ended by that")
            }
            cause => warn!(target: "gmux::session", "session {number}{peer} ended: {cause}"),
        }
        self.notify_apart(ended);
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(SeqCst)
    }

    /// Makes the transport's blocked calls return, once.
    pub(super) fn abort(&self) {
        if self.aborted.swap(true, SeqCst) {
            return;
        }
        let control = self.control.lock().clone();
        let Some(control) = control else { return };
        let number = self.number;
        let abort = move || {
            // Our two threads may let go of the control meanwhile; then it is dropped here.
            let _ = guarded(number, "the transport panicked in abort", || {
                control.get()?.abort();
                Ok(())
            });
        };
        if timer::is_this_thread() {
            // it may be a user's code, and the timer has other sessions to look after
            run_apart(number, abort);
        } else {
            abort();
        }
    }

    /// Calls notifiers of streams that ended by themselves, on a thread of their own.
    pub(super) fn notify_apart(&self, ended: Vec<(Arc<SharedStream>, Ended)>) {
        let mut due: Vec<(Arc<SharedStream>, Notifier)> = Vec::new();
        for (stream, mut ended) in ended {
            due.extend(ended.notifier.take().map(|notifier| (stream, notifier)));
        }
        let mut notifiers = self.notifiers.lock();
        notifiers.queue.extend(due);
        // who is there sees to the rest
        let wanted = notifiers.queue.len().min(NOTIFIER_THREADS - notifiers.threads);
        notifiers.threads += wanted;
        drop(notifiers);
        for _ in 0..wanted {
            self.start_notifier_thread();
        }
    }

    /// Starts one of the threads that call notifiers, which is counted already.
    fn start_notifier_thread(&self) {
        let number = self.number;
        // A notifier gets a handle, which needs the session; all others may be gone by the time
        // that the thread runs.
        let session = self.me.upgrade();
        let started = spawn(format!("gmux-notify-{number}"), move || {
            while let Some((stream, notifier)) =
                session.as_ref().and_then(|session| session.next_notifier())
            {
                call_notifier(number, notifier, &stream);
            }
            drop(session);
        });
        if let Err(error) = started {
            let mut notifiers = self.notifiers.lock();
            notifiers.threads -= 1;
            // With no thread at all, the notifiers stay with their streams, for the threads that
            // close those.
            let due = if notifiers.threads == 0 {
                std::mem::take(&mut notifiers.queue)
            } else {
                VecDeque::new()
            };
            let said = std::mem::replace(&mut notifiers.lack_logged, true);
            drop(notifiers);
            if !said {
                warn!(target: "gmux::session", "session {number}: no thread for close notifiers \
                                                (not said again): {error}");
            }
            for (stream, notifier) in due {
                if let Some(notifier) = stream.keep_notifier(notifier) {
                    self.notifiers.lock().queue.push_back((stream, notifier)); // for the next such thread
                }
            }
        }
    }

    /// The next notifier for one of the threads that call them, which ends when there is none.
    fn next_notifier(&self) -> Option<(Arc<SharedStream>, Notifier)> {
        let mut notifiers = self.notifiers.lock();
        let next = notifiers.queue.pop_front();
        if next.is_none() {
            notifiers.threads -= 1;
        }
        next
    }
}

/// What becomes of a session's output when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// The writer ends it, in its time, at most the close timeout.
    Finish,
    /// It is cut off at once, and so is the input.
    Abort,
}

/// How many threads of a session call close notifiers of streams that ended by themselves, at most.
/// A peer can make a stream fail with 24 bytes: a thread for each, with notifiers that take their
/// time, would be as many threads as there are streams. More than one, so that a notifier that
/// waits doesn't hold up the others.
const NOTIFIER_THREADS: usize = 8;

/// Close notifiers that are to be called on a thread of their own.
#[derive(Default)]
pub(super) struct NotifierPool {
    queue: VecDeque<(Arc<SharedStream>, Notifier)>,
    /// Threads that call them, or are about to.
    threads: usize,
    /// That no thread could be started was logged. The peer chooses how often streams fail.
    lack_logged: bool,
}

/// Runs something of the user's on a thread of its own, or here if there is none to be had.
pub(super) fn run_apart(number: u64, task: impl FnOnce() + Send + 'static) {
    let task = Arc::new(Mutex::new(Some(task)));
    let theirs = Arc::clone(&task);
    let started = spawn(format!("gmux-notify-{number}"), move || {
        let task = theirs.lock().take();
        if let Some(task) = task {
            task();
        }
    });
    if started.is_err() {
        let task = task.lock().take();
        if let Some(task) = task
            && let Err(text) = caught(task)
        {
            said(number, "a thread's work panicked", &text);
        }
    }
}

/// Calls a user's notifier; its panic hurts only itself.
pub(crate) fn call_notifier(session: u64, notifier: Notifier, stream: &Arc<SharedStream>) {
    if let Err(text) = caught(|| notifier(stream)) {
        let name = shown(stream.name.bytes());
        warn!(target: "gmux::stream", "session {session}: the close notifier of stream {} {name} \
                                       panicked: {text}", stream.id);
    }
}

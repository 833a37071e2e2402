//! How a stream ends: closed by its application, shut down by halves, failed alone, or with its
//! session. Each wakes everybody who is blocked on it.
//!
//! Invariants: a stream ends once for its application, and that time alone gives out the notifier
//! and the channel; nothing of a user's is called or dropped under the lock.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Charge, Env, Notifier, SharedStream, State};
use crate::error::Error;
use crate::proto::stream::Discarded;
use crate::sync::close::disconnected;

/// What an ending leaves to the caller, who holds no lock: a notifier to call, a channel to
/// disconnect, data to drop.
#[must_use]
#[derive(Default)]
pub(crate) struct Ended {
    /// To be called, on a thread that may run a user's code.
    pub(crate) notifier: Option<Notifier>,
    /// Whether this ended the stream: it hadn't before.
    pub(crate) first: bool,
    /// Whether this closed it, for the first time.
    pub(crate) closed: bool,
    /// Whether that made it of no more use to the session.
    pub(crate) can_forget: bool,
    /// Accepted bytes that this threw away.
    pub(crate) unsent: u64,
    /// Dropped first: who is told of the end finds the budget refunded.
    _discarded: Option<Discarded<Charge>>,
    _channel: Option<(Sender<()>, Receiver<()>)>,
}

impl SharedStream {
    /// Ends the stream as `end` says, under the lock, then wakes everybody and queues what is owed.
    fn end_with(
        self: &Arc<Self>,
        env: &Env,
        end: impl FnOnce(&mut State) -> Option<Discarded<Charge>>,
    ) -> Ended {
        let mut state = self.state.lock();
        let before = state.core.has_ended();
        let was_closed = state.core.is_closed();
        let queued = state.core.queued();
        let discarded = end(&mut state);
        let first = !before && state.core.has_ended();
        let closed = !was_closed && state.core.is_closed();
        let (notifier, channel) = match &mut state.extras {
            Some(extras) if first => (extras.notifier.take(), extras.closed.take()),
            _ => (None, None),
        };
        let ended = Ended {
            notifier,
            first,
            closed,
            can_forget: closed && state.core.can_forget(),
            unsent: queued - state.core.queued(),
            _discarded: discarded,
            _channel: channel,
        };
        let wakeup = self.reschedule(env, &mut state);
        self.wake_all(state);
        env.shaper.unpark(wakeup);
        ended
    }

    /// The application closed it; `first` is whether nothing had ended it before.
    pub(crate) fn close(self: &Arc<Self>, env: &Env) -> Ended {
        self.end_with(env, |state| state.core.close())
    }

    /// It fails alone; with `discard_unread`, unread data is thrown away.
    pub(crate) fn fail(self: &Arc<Self>, env: &Env, error: Error, discard_unread: bool) -> Ended {
        self.end_with(env, |state| Some(state.core.fail(error, discard_unread)))
    }

    /// Its session is closing.
    pub(crate) fn detach(self: &Arc<Self>, env: &Env, error: &Arc<Error>) -> Ended {
        self.end_with(env, |state| {
            state.core.detach(error);
            None
        })
    }

    /// Its session has ended.
    pub(crate) fn end(self: &Arc<Self>, env: &Env, error: &Arc<Error>) -> Ended {
        self.end_with(env, |state| Some(state.core.end(error)))
    }

    /// Its session's transport takes no more writes.
    pub(crate) fn fail_write(self: &Arc<Self>, env: &Env, error: &Arc<Error>) -> Ended {
        self.end_with(env, |state| {
            state.core.fail_write(error);
            None
        })
    }

    /// `shutdown(Write)`.
    pub(crate) fn finish(self: &Arc<Self>, env: &Env) -> Ended {
        self.end_with(env, |state| {
            state.core.finish();
            None
        })
    }

    /// `shutdown(Read)`.
    pub(crate) fn shut_read(self: &Arc<Self>, env: &Env) -> Ended {
        self.end_with(env, |state| Some(state.core.shut_read()))
    }

    /// How many accepted bytes the transport hasn't taken yet.
    pub(crate) fn unsent(&self) -> u64 {
        self.state.lock().core.unsent()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().core.is_closed()
    }

    /// A channel that disconnects when the stream ends.
    pub(crate) fn closed(&self) -> Receiver<()> {
        let mut state = self.state.lock();
        if state.core.has_ended() {
            return disconnected();
        }
        state.extras().closed.get_or_insert_with(|| bounded(0)).1.clone()
    }

    /// Keeps a notifier for the stream's end; returns what is to be dropped (the one before it), or
    /// called (if the stream has ended).
    pub(crate) fn set_notifier(&self, notifier: Notifier) -> (Option<Notifier>, Option<Notifier>) {
        let mut state = self.state.lock();
        if state.core.has_ended() {
            (None, Some(notifier))
        } else {
            (state.extras().notifier.replace(notifier), None)
        }
    }

    /// Keeps a notifier that couldn't be called, for the thread that closes the stream; gives it
    /// back where that has been closed already.
    pub(crate) fn keep_notifier(&self, notifier: Notifier) -> Option<Notifier> {
        let mut state = self.state.lock();
        if state.core.is_closed() {
            return Some(notifier);
        }
        state.extras().notifier = Some(notifier);
        None
    }

    /// Takes a notifier that was kept.
    pub(crate) fn take_notifier(&self) -> Option<Notifier> {
        self.state.lock().extras.as_mut()?.notifier.take()
    }

    /// One handle more.
    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, SeqCst);
    }

    /// One handle less; returns whether it was the last.
    pub(crate) fn drop_handle(&self) -> bool {
        self.handles.fetch_sub(1, SeqCst) == 1
    }
}

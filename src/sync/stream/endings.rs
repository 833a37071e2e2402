//! How a stream ends: it is closed by its application, shut down in one direction or both, fails
//! alone, or ends with its session. Each of these wakes every call that is blocked on the stream.
//!
//! # Invariants
//! - A stream ends once for its application. Only the call that ends it gets the notifier and the
//!   channel.
//! - Nothing of a user's is called or dropped under the lock.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Charge, Env, Notifier, SharedStream, State};
use crate::error::Error;
use crate::proto::stream::Discarded;
use crate::sync::close::disconnected;

/// The work that an ending leaves to the caller, who holds no lock: a notifier to call, a channel
/// to disconnect, data to drop.
#[must_use]
#[derive(Default)]
pub(crate) struct Ended {
    /// The close notifier. The caller calls it on a thread that may run a user's code.
    pub(crate) notifier: Option<Notifier>,
    /// Whether this call has ended the stream for its application.
    pub(crate) first: bool,
    /// Whether this call has closed the stream.
    pub(crate) closed: bool,
    /// Whether the session can forget the stream, now that this call has closed it.
    pub(crate) can_forget: bool,
    /// Accepted bytes that this ending has discarded.
    pub(crate) unsent: u64,
    /// Unread data. It is dropped before the channel, so a thread that notices the end finds the
    /// budget refunded.
    _discarded: Option<Discarded<Charge>>,
    _channel: Option<(Sender<()>, Receiver<()>)>,
}

impl SharedStream {
    /// Ends the stream by calling `end` under the lock. Then wakes every blocked call and queues
    /// the stream for the frames that it owes.
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

    /// Closes the stream for its application.
    pub(crate) fn close(self: &Arc<Self>, env: &Env) -> Ended {
        self.end_with(env, |state| state.core.close())
    }

    /// Fails this stream alone. With `discard_unread`, unread data is discarded.
    pub(crate) fn fail(self: &Arc<Self>, env: &Env, error: Error, discard_unread: bool) -> Ended {
        self.end_with(env, |state| Some(state.core.fail(error, discard_unread)))
    }

    /// Ends the stream because its session is closing.
    pub(crate) fn detach(self: &Arc<Self>, env: &Env, error: &Arc<Error>) -> Ended {
        self.end_with(env, |state| {
            state.core.detach(error);
            None
        })
    }

    /// Ends the stream because its session has ended.
    pub(crate) fn end(self: &Arc<Self>, env: &Env, error: &Arc<Error>) -> Ended {
        self.end_with(env, |state| Some(state.core.end(error)))
    }

    /// Ends writing because the session's transport takes no more writes.
    pub(crate) fn fail_write(self: &Arc<Self>, env: &Env, error: &Arc<Error>) -> Ended {
        self.end_with(env, |state| {
            state.core.fail_write(error);
            None
        })
    }

    /// Does `shutdown(Write)`.
    pub(crate) fn finish(self: &Arc<Self>, env: &Env) -> Ended {
        self.end_with(env, |state| {
            state.core.finish();
            None
        })
    }

    /// Does `shutdown(Read)`.
    pub(crate) fn shut_read(self: &Arc<Self>, env: &Env) -> Ended {
        self.end_with(env, |state| Some(state.core.shut_read()))
    }

    /// Returns the number of accepted bytes that haven't been handed over.
    pub(crate) fn unsent(&self) -> u64 {
        self.state.lock().core.unsent()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().core.is_closed()
    }

    /// Returns a channel that disconnects when the stream ends.
    pub(crate) fn closed(&self) -> Receiver<()> {
        let mut state = self.state.lock();
        if state.core.has_ended() {
            return disconnected();
        }
        state.extras().closed.get_or_insert_with(|| bounded(0)).1.clone()
    }

    /// Keeps a notifier for the stream's end. Returns two: a notifier to drop, which is the
    /// previous one, and a notifier to call, which is `notifier` if the stream has ended already.
    pub(crate) fn set_notifier(&self, notifier: Notifier) -> (Option<Notifier>, Option<Notifier>) {
        let mut state = self.state.lock();
        if state.core.has_ended() {
            (None, Some(notifier))
        } else {
            (state.extras().notifier.replace(notifier), None)
        }
    }

    /// Keeps a notifier that couldn't be called, for the thread that closes the stream. Returns it
    /// if the stream has been closed already.
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

    /// Counts one more handle.
    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, SeqCst);
    }

    /// Counts one handle less. Returns whether it was the last.
    pub(crate) fn drop_handle(&self) -> bool {
        self.handles.fetch_sub(1, SeqCst) == 1
    }
}

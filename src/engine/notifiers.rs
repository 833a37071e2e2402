//! Calls close notifiers of streams that ended by themselves.
//!
//! A notifier is a user's code and may block. So a few threads of the session call them, up to
//! [`NOTIFIER_THREADS`]. Further notifiers wait in a queue. A thread ends when the queue is empty.
//!
//! Invariants:
//! - A notifier is called once, with no lock held.
//! - A notifier is never lost. If no thread can be started, the notifier stays with its stream, and
//!   the thread that closes the stream calls it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::guard::caught;
use super::logging::warn;
use super::warn_limiter::shown;
use super::{SessionShared, spawn};
use crate::sync::stream::{Ended, Notifier, SharedStream};

/// Largest number of a session's threads that call close notifiers. A peer can make a stream fail
/// with 24 bytes. If each notifier had a thread, slow notifiers would occupy as many threads as
/// there are streams. With eight threads, one notifier that blocks doesn't hold up the others.
const NOTIFIER_THREADS: usize = 8;

/// The queue of close notifiers, and the number of threads that call them.
#[derive(Default)]
pub(super) struct NotifierPool {
    queue: VecDeque<(Arc<SharedStream>, Notifier)>,
    /// Number of threads that call notifiers, or are about to call one.
    threads: usize,
    /// Whether it was logged that no thread could be started. It is logged once, since the peer
    /// chooses how often streams fail.
    lack_logged: bool,
}

impl SessionShared {
    /// Queues the notifiers of streams that ended by themselves, and starts threads to call them.
    pub(super) fn notify_on_pool(&self, ended: Vec<(Arc<SharedStream>, Ended)>) {
        let mut due: Vec<(Arc<SharedStream>, Notifier)> = Vec::new();
        for (stream, mut ended) in ended {
            due.extend(ended.notifier.take().map(|notifier| (stream, notifier)));
        }
        let mut notifiers = self.notifiers.lock();
        notifiers.queue.extend(due);
        // Running threads call the notifiers for which no new thread is started.
        let wanted = notifiers.queue.len().min(NOTIFIER_THREADS - notifiers.threads);
        notifiers.threads += wanted;
        drop(notifiers);
        for _ in 0..wanted {
            self.start_notifier_thread();
        }
    }

    /// Starts one of the threads that call notifiers. The pool's count of threads includes it
    /// already.
    fn start_notifier_thread(&self) {
        let number = self.number;
        // A notifier gets a handle, which needs the session. All other references may be gone by
        // the time that the thread runs.
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
            // If the pool has no thread at all, the notifiers go back to their streams. The threads
            // that close the streams call them.
            let due = if notifiers.threads == 0 {
                std::mem::take(&mut notifiers.queue)
            } else {
                VecDeque::new()
            };
            let logged = std::mem::replace(&mut notifiers.lack_logged, true);
            drop(notifiers);
            if !logged {
                warn!(target: "gmux::session", "session {number}: no thread for close notifiers \
                                                (not said again): {error}");
            }
            for (stream, notifier) in due {
                if let Some(notifier) = stream.keep_notifier(notifier) {
                    // The stream is closed already, so the next thread of the pool calls this
                    // notifier.
                    self.notifiers.lock().queue.push_back((stream, notifier));
                }
            }
        }
    }

    /// Takes the next notifier out of the queue. If the queue is empty, the calling thread is no
    /// longer counted, and has to end.
    fn next_notifier(&self) -> Option<(Arc<SharedStream>, Notifier)> {
        let mut notifiers = self.notifiers.lock();
        let next = notifiers.queue.pop_front();
        if next.is_none() {
            notifiers.threads -= 1;
        }
        next
    }
}

/// Calls a user's notifier. A panic in it is logged.
pub(crate) fn call_notifier(session: u64, notifier: Notifier, stream: &Arc<SharedStream>) {
    if let Err(text) = caught(|| notifier(stream)) {
        let name = shown(stream.name.bytes());
        warn!(target: "gmux::stream", "session {session}: the close notifier of stream {} {name} \
                                       panicked: {text}", stream.id);
    }
}

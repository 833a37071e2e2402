//! Starts gmux's own threads, and catches their panics.
//!
//! Invariants:
//! - No panic leaves a thread.
//! - A session's reader thread and writer thread always end in [`SessionShared::thread_ends`].

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use super::guard::{caught, guarded, log_panic};
use super::logging::warn;
use super::{SessionShared, reader, timer, writer};
use crate::error::{Error, Result};
use crate::sync::shaper::Parker;

thread_local! {
    /// Whether this is one of gmux's own threads. On these threads, `close` and the drop of the
    /// last handle don't wait.
    static OURS: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether the calling thread is one of gmux's own.
pub(super) fn on_own_thread() -> bool {
    OURS.get()
}

/// Starts one of gmux's threads. A panic in `run` is logged and stays inside.
///
/// # Errors
/// Returns the system's reason as an error of kind `Other`.
pub(super) fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let called = name.clone();
    let body = move || {
        OURS.set(true);
        if let Err(text) = caught(run) {
            warn!(target: "gmux::session", "a thread panicked, {called}: {text}");
        }
    };
    let started = thread::Builder::new().name(name.clone()).spawn(body);
    // The system's error has the kind `WouldBlock`. The caller who starts a session would take this
    // for a transport that isn't ready.
    started
        .map(drop)
        .map_err(|error| io::Error::other(format!("no thread could be had for {name}: {error}")))
}

/// Runs a user's code on a new thread, or on this one if no thread can be started.
pub(super) fn run_on_new_thread(number: u64, task: impl FnOnce() + Send + 'static) {
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
            log_panic(number, "a thread's work panicked", &text);
        }
    }
}

impl SessionShared {
    /// Registers the session with the timer, and starts the reader thread and the writer thread.
    ///
    /// # Errors
    /// Returns the first error of the system. Then the session has ended.
    pub(super) fn start_threads(self: Arc<Self>, parker: Parker) -> Result<()> {
        timer::register(&self)?;
        let session = Arc::clone(&self);
        let name = format!("gmux-reader-{}", self.number);
        let reader = spawn(name, move || session.thread(|| reader::run(&session)));
        let session = Arc::clone(&self);
        let name = format!("gmux-writer-{}", self.number);
        let writer = spawn(name, move || session.thread(|| writer::run(&session, &parker)));
        // A thread that couldn't be started counts as ended. The other one ends when the transport
        // is aborted.
        let failed = [reader, writer].into_iter().filter_map(Result::err);
        let failed: Vec<Error> = failed
            .map(|error| {
                let error = Error::from(error);
                self.end(error.clone());
                self.thread_ends();
                error
            })
            .collect();
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    /// Runs the reader thread or the writer thread. Their calls of the transport have guards of
    /// their own. This one catches all other panics, which end the session, too.
    fn thread(&self, run: impl FnOnce()) {
        let outcome = guarded(self.number, "its thread panicked", || {
            run();
            Ok(())
        });
        if let Err(error) = outcome {
            self.end(error);
        }
        self.thread_ends();
    }
}

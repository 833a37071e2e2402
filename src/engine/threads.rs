//! gmux's own threads: how they are started, and what becomes of a panic in them.
//!
//! Invariant: no panic leaves a thread; one of a session's two threads ends in
//! [`SessionShared::thread_ends`], whatever happens in it.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::thread;

use super::guard::{caught, guarded};
use super::logging::warn;
use super::{SessionShared, reader, timer, writer};
use crate::error::{Error, Result};
use crate::sync::shaper::Parker;

thread_local! {
    /// Whether this is one of gmux's own threads: those never wait for a session to close.
    static OURS: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn on_own_thread() -> bool {
    OURS.get()
}

/// Starts one of gmux's threads. Whatever it panics with stays inside.
pub(super) fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let called = name.clone();
    let body = move || {
        OURS.set(true);
        if let Err(text) = caught(run) {
            warn!(target: "gmux::session", "a thread panicked, {called}: {text}");
        }
    };
    let started = thread::Builder::new().name(name.clone()).spawn(body);
    // The system says "try again" (`WouldBlock`), which is no answer to somebody who wants a
    // session.
    started
        .map(drop)
        .map_err(|error| io::Error::other(format!("no thread could be had for {name}: {error}")))
}

impl SessionShared {
    pub(super) fn start_threads(self: Arc<Self>, parker: Parker) -> Result<()> {
        timer::register(&self)?;
        let session = Arc::clone(&self);
        let name = format!("gmux-reader-{}", self.number);
        let reader = spawn(name, move || session.thread(|| reader::run(&session)));
        let session = Arc::clone(&self);
        let name = format!("gmux-writer-{}", self.number);
        let writer = spawn(name, move || session.thread(|| writer::run(&session, &parker)));
        // A thread that couldn't be had counts as ended; the other one ends when the transport is
        // aborted.
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

    /// One of the two threads. They have guards of their own where the transport is called;
    /// whatever else panics ends the session, too.
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

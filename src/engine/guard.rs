//! What is called of a user's must not take a thread of ours with it: a logger, a transport, a
//! hook, a notifier may panic.
//!
//! A panic is said once, in the log, where it is caught ([`said`]); the error that it becomes isn't
//! said again.
//!
//! Invariants: no panic leaves [`caught`]; of what was thrown only texts are dropped, since a drop
//! may panic, too; a user's thing that we keep is [`UserObject`], so that dropping it is guarded too,
//! whoever does it last.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::logging::warn;
use crate::error::{Error, Result};

/// Runs `work`; a panic becomes its message.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(message)
}

/// What a panic says. What was thrown may panic in its drop, so all but a text is leaked: it is
/// rare, and a second panic would have no place to go.
#[cold]
fn message(panic: Box<dyn Any + Send>) -> String {
    let panic = match panic.downcast::<String>() {
        Ok(text) => return *text,
        Err(panic) => panic,
    };
    if let Some(text) = panic.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    std::mem::forget(panic);
    "(no message)".to_owned()
}

/// Runs something that uses the transport. A panic becomes an error of the session's; `what`
/// panicked, and where, is for the log.
pub(super) fn guarded<T>(session: u64, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(work).unwrap_or_else(|text| {
        said(session, what, &text);
        Err(io::Error::other(Panicked(text)).into())
    })
}

/// Says that something of a user's panicked.
#[cold]
pub(super) fn said(session: u64, what: &str, text: &str) {
    warn!(target: "gmux::session", "session {session}: {what}: {text}");
}

/// What a panic of the transport is to the session.
#[derive(Debug)]
struct Panicked(String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the transport panicked: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

/// Whether an error is a panic, which stands in the log already.
pub(super) fn is_said(error: &Error) -> bool {
    matches!(error, Error::Io(source) if source.get_ref().is_some_and(|inner| inner.is::<Panicked>()))
}

/// A thing of a user's. Whoever drops it survives that.
pub(crate) struct UserObject<T> {
    session: u64,
    /// What the log says of a panic in its drop.
    what: &'static str,
    object: Option<T>,
}

impl<T> UserObject<T> {
    pub(crate) fn new(session: u64, what: &'static str, object: T) -> Self {
        Self { session, what, object: Some(object) }
    }

    /// The thing itself, to be called under a guard.
    ///
    /// # Errors
    /// It has been let go of.
    pub(super) fn get(&self) -> io::Result<&T> {
        self.object.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// As [`get`](Self::get).
    ///
    /// # Errors
    /// It has been let go of.
    pub(super) fn get_mut(&mut self) -> io::Result<&mut T> {
        self.object.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Gives it out, for a call that takes it.
    pub(crate) fn take(mut self) -> Option<T> {
        self.object.take()
    }

    /// Drops it.
    ///
    /// # Errors
    /// It panicked in its drop.
    pub(super) fn release(mut self) -> Result<()> {
        self.drop_object()
    }

    fn drop_object(&mut self) -> Result<()> {
        let object = self.object.take();
        guarded(self.session, self.what, move || {
            drop(object);
            Ok(())
        })
    }
}

impl<T> Drop for UserObject<T> {
    fn drop(&mut self) {
        let _ = self.drop_object();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;

    /// Panics when it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn a_panic_becomes_its_message_whatever_was_thrown() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| panic!("plain")), Err::<(), _>("plain".to_owned()));
        assert_eq!(caught(|| panic!("made of {}", 2)), Err::<(), _>("made of 2".to_owned()));
        assert_eq!(caught(|| panic_any(3)), Err::<(), _>("(no message)".to_owned()));
        assert_eq!(caught(|| panic_any(Bomb)), Err::<(), _>("(no message)".to_owned()));
    }
}

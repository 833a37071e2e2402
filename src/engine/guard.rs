//! Guards against panics of a user's code. A logger, a transport, a hook or a notifier may panic,
//! and this must not end one of gmux's threads.
//!
//! A panic is logged once, where it is caught ([`log_panic`]). The panic becomes an error, and this
//! error isn't logged again.
//!
//! Invariants:
//! - No panic leaves [`caught`].
//! - A panic's payload is dropped only if it is a text. Any other payload is leaked, since it may
//!   panic in its drop.
//! - A user's object that gmux keeps is a [`UserObject`]. So its drop is guarded on every thread.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::logging::warn;
use crate::error::{Error, Result};

/// Runs `work`.
///
/// # Errors
/// Returns the message of a panic.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(message)
}

/// Returns the message of a panic. A payload that isn't a text is leaked, since its drop may panic
/// again. Such payloads are rare.
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

/// Runs `work`, which calls the transport. A panic is logged, with `what` as its description.
///
/// # Errors
/// Returns `work`'s error, or an `Io` error for a panic.
pub(super) fn guarded<T>(session: u64, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(work).unwrap_or_else(|text| {
        log_panic(session, what, &text);
        Err(io::Error::other(Panicked(text)).into())
    })
}

/// Logs a panic of a user's code. `what` describes it, `text` is its message.
#[cold]
pub(super) fn log_panic(session: u64, what: &str, text: &str) {
    warn!(target: "gmux::session", "session {session}: {what}: {text}");
}

/// The session's error for a panic of the transport, with the panic's message.
#[derive(Debug)]
struct Panicked(String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the transport panicked: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

/// Returns whether an error stands for a panic. Such a panic is in the log already.
pub(super) fn is_logged(error: &Error) -> bool {
    let Error::Io(source) = error else { return false };
    source.get_ref().is_some_and(|inner| inner.is::<Panicked>())
}

/// An object of the user's. A panic in its drop is caught.
pub(crate) struct UserObject<T> {
    session: u64,
    /// The log's description of a panic in the drop.
    what: &'static str,
    object: Option<T>,
}

impl<T> UserObject<T> {
    pub(crate) fn new(session: u64, what: &'static str, object: T) -> Self {
        Self { session, what, object: Some(object) }
    }

    /// Returns the object. The caller uses it inside [`guarded`] or [`caught`].
    ///
    /// # Errors
    /// Returns `NotConnected` if the object was released or taken.
    pub(super) fn get(&self) -> io::Result<&T> {
        self.object.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Returns the object, as [`get`](Self::get) does.
    ///
    /// # Errors
    /// Returns `NotConnected` if the object was released or taken.
    pub(super) fn get_mut(&mut self) -> io::Result<&mut T> {
        self.object.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Returns the object by value, for a call that consumes it.
    pub(crate) fn take(mut self) -> Option<T> {
        self.object.take()
    }

    /// Drops the object.
    ///
    /// # Errors
    /// Returns an error if the object panicked in its drop.
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

//! What is called of a user's must not take a thread of ours with it: a logger, a transport, a hook, a notifier may panic.
//!
//! Invariants: no panic leaves [`caught`]; what was thrown is never dropped, since its drop may panic as well.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`; a panic becomes its message.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(message)
}

/// What a panic says. It is leaked: a panic is rare, and one in its drop would have no place to go.
#[cold]
fn message(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)").to_owned();
    std::mem::forget(panic);
    text
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

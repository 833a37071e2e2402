//! The protocol core: state without I/O, locks, clocks, threads or logging.
//!
//! The caller passes `now` in. A call returns the actions that have to follow, such as waking a
//! blocked write or queuing the stream for the writer. The caller takes these actions after it has
//! unlocked the state.
//!
//! Invariant: the effect of a call depends on the state and the arguments alone.

pub(crate) mod chunks;
pub(crate) mod keepalive;
pub(crate) mod outbox;
pub(crate) mod registry;
pub(crate) mod state;
pub(crate) mod stream;
pub(crate) mod unsolicited;
pub(crate) mod window;

#[cfg(test)]
mod tests;

//! The protocol core: state without I/O, locks, clocks, threads or logging.
//!
//! The caller passes the time in, as `now`. A call returns the actions that have to follow, such as
//! waking a blocked write or dropping a buffer. The caller takes most of these actions after it has
//! unlocked the state. One action comes before unlocking: the stream is put into a ready queue.
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

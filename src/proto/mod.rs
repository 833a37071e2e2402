//! The protocol core: state without I/O, locks, clocks, threads or logging. `now` is passed in;
//! what a call asks for (wake somebody, take a turn at the writer) is returned, and the caller acts
//! on it after unlocking.
//!
//! Invariant: what a call does depends on the state and its arguments alone.

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

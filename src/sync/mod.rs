//! Locks and waits.
//!
//! Invariant: locks are taken in the order below, and in no other.
//!
//! # The lock order
//! A thread that holds one of these may only take one that stands further down:
//!
//! 1. the session's writer and its input ([`crate::engine`]): what the writer thread and the reader
//!    thread work with, and a caller in its turn; never both. They are held across transport I/O,
//!    so nobody waits for them but those two threads themselves; callers try
//! 2. the session's registry ([`crate::engine`]), which guards which streams exist, and the backlog
//! 3. a stream's state ([`stream`]); never two streams at once
//! 4. leaves: the budget's lock ([`budget`]), the pause ([`pause`]), unsolicited data
//!    ([`unsolicited`]), the read hand-off's mark ([`read_handoff`]), the session's lifecycle
//!    ([`close`]), the refusals ([`shaper`]), the engine's own (`manual::architecture` names them),
//!    a pool's class, what crossbeam's channels lock inside
//!
//! No lock is held while a user's closure runs, while a handle, a notifier or a transport is
//! dropped, while something is logged, or across transport I/O, but for the writer, the input, and
//! a `Shared` transport's turns. (While these are held, frames are logged at level `trace`, and a
//! peer's oddities: a logger must not wait for a stream of the same session.)

pub(crate) mod budget;
pub(crate) mod close;
pub(crate) mod deadline;
pub(crate) mod pause;
pub(crate) mod read_handoff;
mod ready_queue;
pub(crate) mod shaper;
pub(crate) mod stream;
pub(crate) mod unsolicited;

#[cfg(test)]
mod testing;

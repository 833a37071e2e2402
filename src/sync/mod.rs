//! Locks and waits.
//!
//! # The lock order
//! A thread that holds one of these may only take one that stands further down:
//!
//! 1. the session's registry ([`crate::engine`]), which guards which streams exist, and the backlog
//! 2. a stream's state ([`cell`]); never two streams at once
//! 3. leaves: the budget's gate ([`budget`]), the session's lifecycle ([`close`]), the refusals ([`shaper`]), a pool's
//!    class, the timer's queue, what crossbeam's channels lock inside
//!
//! Invariant: no lock is held while a user's closure runs, while a handle, a notifier or a transport is dropped, while something is logged,
//! or across transport I/O. (The exceptions are named where they are: a `Shared` transport's turns.)

pub(crate) mod budget;
pub(crate) mod cell;
pub(crate) mod close;
pub(crate) mod deadline;
pub(crate) mod shaper;

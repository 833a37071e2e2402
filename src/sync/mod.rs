//! Locks and waits.
//!
//! Invariant: locks are taken in the order below, and in no other.
//!
//! # The lock order
//! A thread that holds one of these may only take one that stands further down:
//!
//! 1. the session's writer ([`crate::engine`]): what the writer thread works with, and a caller in its turn. It is held across
//!    transport I/O, so nobody waits for it but the writer thread itself; callers try
//! 2. the session's registry ([`crate::engine`]), which guards which streams exist, and the backlog
//! 3. a stream's state ([`cell`]); never two streams at once
//! 4. leaves: the budget's gate ([`budget`]), the session's lifecycle ([`close`]), the refusals ([`shaper`]), a pool's
//!    class, the timer's queue, what crossbeam's channels lock inside
//!
//! No lock is held while a user's closure runs, while a handle, a notifier or a transport is dropped, while something is logged,
//! or across transport I/O, but for the writer and a `Shared` transport's turns. (At level `trace` the writer thread logs while it holds the
//! writer: a logger that itself writes to a stream of this session must not do so at that level.)

pub(crate) mod budget;
pub(crate) mod cell;
pub(crate) mod close;
pub(crate) mod deadline;
mod lane;
pub(crate) mod shaper;

//! Locks and waits.
//!
//! Invariant: locks are taken in the [lock order](crate::manual::architecture#locks) and in no
//! other. That page also says [who wakes whom](crate::manual::architecture#who-wakes-whom). In the
//! code, each lock says what it guards, and each condvar says who waits on it.

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

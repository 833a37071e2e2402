//! The parts of parking_lot that gmux uses, under the scheduler's control.

pub use facade::locks::{Condvar, Mutex, MutexGuard, WaitTimeoutResult};

//! What gmux uses of parking_lot, under the scheduler's control.

pub use facade::locks::{Condvar, Mutex, MutexGuard, WaitTimeoutResult};

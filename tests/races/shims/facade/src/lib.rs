//! The standard library as gmux sees it when the scheduler chooses the order of its threads' steps.
//! Threads, atomics, time and statics are replaced. The rest is unchanged. The locks and channels
//! that gmux uses from other crates are here, too.
//!
//! All threads of an execution are coroutines on one thread of the system. Between two calls of
//! [`sched::switch`] no other thread runs. So a `RefCell` is enough for the values here. Where a
//! type has to be `Sync`, the standard library's locks take its place, and no thread ever waits for
//! them.
//!
//! Two kinds of faults can't be found here:
//!
//! - Effects of weak memory orders. Every atomic operation takes effect at once and in one order.
//! - Starvation by a lock. Any waiting thread may get the lock next.

pub use std::*;

pub mod breaks;
pub mod channels;
pub mod locks;
pub mod sched;
pub mod time;

/// `std::sync`, with atomics and a `LazyLock` of ours.
pub mod sync {
    pub use std::sync::*;

    pub use crate::lazy::LazyLock;

    pub mod atomic {
        pub use crate::atomics::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence};
        pub use std::sync::atomic::Ordering;
    }
}

/// `std::collections`, with a map whose order is the same in every execution, so that a schedule
/// can be replayed.
pub mod collections {
    pub use crate::map::HashMap;
    pub use std::collections::*;
}

/// The standard library's items under the names that are replaced here.
pub mod real {
    pub use std::time::Instant;
    pub use std::{sync, thread};
}

/// `std::thread`, with the scheduler's threads.
pub mod thread {
    pub use crate::lazy::Local;
    pub use shuttle::thread::{Builder, JoinHandle, current, spawn, yield_now};
    pub use std::thread::{Result, panicking};

    /// A sleep only lets other threads run, because time stands still (see [`crate::time`]).
    pub fn sleep(_: std::time::Duration) {
        yield_now();
    }
}

mod atomics;
mod lazy;
mod map;

#[doc(hidden)]
pub use shuttle::thread::LocalKey;

/// `std::thread_local`, for the scheduler's threads.
#[macro_export]
macro_rules! per_thread {
    ($($(#[$attr:meta])* $vis:vis static $name:ident: $t:ty = const { $init:expr };)*) => {$(
        $(#[$attr])* $vis static $name: $crate::thread::Local<$t> = {
            static KEY: $crate::LocalKey<$t> =
                $crate::LocalKey { init: || $init, _p: ::core::marker::PhantomData };
            $crate::thread::Local::new(&KEY)
        };
    )*};
}

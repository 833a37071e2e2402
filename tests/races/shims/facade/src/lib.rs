//! The standard library as gmux sees it when the scheduler chooses the order of its threads' steps:
//! threads, atomics, time and statics are replaced, the rest is as it is. The locks and channels
//! that it uses beside them are here too.
//!
//! All threads of an execution are coroutines on one thread of the system. Between two calls of
//! [`sched::switch`] nothing else runs, so what is kept here needs no care beyond a `RefCell`'s;
//! where a type has to be `Sync`, the standard library's locks stand in for one, and are never
//! waited for.
//!
//! What this can't show: effects of weak memory orders, for every atomic operation takes effect at
//! once and in one order; and starvation by a lock, since whoever waits for one may get it next.

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

/// What the standard library has under the names that are taken here.
pub mod real {
    pub use std::time::Instant;
    pub use std::{sync, thread};
}

/// `std::thread`, with the scheduler's threads.
pub mod thread {
    pub use crate::lazy::Local;
    pub use shuttle::thread::{Builder, JoinHandle, current, spawn, yield_now};
    pub use std::thread::{Result, panicking};

    /// Time stands still (see [`crate::time`]), so a sleep lets others go first, and that is all.
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

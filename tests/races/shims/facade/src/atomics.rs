//! Atomics. Each operation is one step, in an order that all threads agree on. Another thread may
//! run before it.
//!
//! In gmux, relaxed operations are statistics and gauges, and no thread waits for them. So they are
//! no switching points, which keeps executions short.

use std::sync::atomic::{self, Ordering};

use crate::sched::switch;

fn step(order: Ordering) {
    if order != Ordering::Relaxed {
        switch();
    }
}

/// All threads see every step, so a fence has nothing to order.
pub fn fence(_: Ordering) {}

macro_rules! atomic {
    ($name:ident, $value:ty, $($method:ident),*) => {
        #[derive(Debug, Default)]
        pub struct $name(atomic::$name);

        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            pub fn load(&self, order: Ordering) -> $value {
                step(order);
                self.0.load(Ordering::SeqCst)
            }

            pub fn store(&self, value: $value, order: Ordering) {
                step(order);
                self.0.store(value, Ordering::SeqCst);
            }

            $(pub fn $method(&self, value: $value, order: Ordering) -> $value {
                step(order);
                self.0.$method(value, Ordering::SeqCst)
            })*

            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                order: Ordering,
                _: Ordering,
            ) -> Result<$value, $value> {
                step(order);
                self.0.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
            }
        }
    };
}

atomic!(AtomicBool, bool, swap, fetch_and, fetch_or);
atomic!(AtomicU8, u8, swap, fetch_and, fetch_or, fetch_add, fetch_sub);
atomic!(AtomicU32, u32, swap, fetch_add, fetch_sub, fetch_max, fetch_min);
atomic!(AtomicU64, u64, swap, fetch_add, fetch_sub, fetch_max, fetch_min);
atomic!(AtomicUsize, usize, swap, fetch_add, fetch_sub, fetch_max, fetch_min);

//! Statics and thread-locals.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;

use shuttle::thread::LocalKey;

/// A static's value. Each thread of the system has its own, and so has each check that runs. It
/// lives through all executions of that check. gmux's statics allow that: a pool, and a timer whose
/// queue is empty when no session lives.
pub struct LazyLock<T: 'static> {
    init: fn() -> T,
}

thread_local! {
    static VALUES: RefCell<HashMap<usize, &'static dyn Any>> = RefCell::default();
}

impl<T> LazyLock<T> {
    pub const fn new(init: fn() -> T) -> Self {
        Self { init }
    }
}

impl<T> Deref for LazyLock<T> {
    type Target = T;

    fn deref(&self) -> &T {
        let key = self as *const Self as usize;
        let known = VALUES.with_borrow(|values| values.get(&key).copied());
        let value = known.unwrap_or_else(|| {
            let value: &'static dyn Any = Box::leak(Box::new((self.init)()));
            VALUES.with_borrow_mut(|values| values.insert(key, value));
            value
        });
        value.downcast_ref().expect("the static of that address")
    }
}

impl<T> fmt::Debug for LazyLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("LazyLock { .. }")
    }
}

/// A thread-local of the scheduler's threads, with the methods of the standard library's that gmux
/// uses.
pub struct Local<T: 'static>(&'static LocalKey<T>);

impl<T> Local<T> {
    pub const fn new(key: &'static LocalKey<T>) -> Self {
        Self(key)
    }
}

impl<T: Copy> Local<Cell<T>> {
    pub fn get(&'static self) -> T {
        self.0.with(Cell::get)
    }

    pub fn set(&'static self, value: T) {
        self.0.with(|cell| cell.set(value));
    }
}

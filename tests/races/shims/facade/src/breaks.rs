//! For showing that the checks bite: deliberate mistakes in a copy of the library, of which one is
//! made at a time, see `tests/races/mutants`. And whether an execution got to what its check is
//! about.

use std::cell::Cell;
use std::sync::OnceLock;

static CHOSEN: OnceLock<String> = OnceLock::new();

/// From now on, the mistake of this name is made.
pub fn choose(name: &str) {
    CHOSEN.set(name.to_owned()).expect("one mistake at a time");
}

/// Whether this mistake is made.
pub fn broken(name: &str) -> bool {
    CHOSEN.get().is_some_and(|chosen| chosen == name)
}

thread_local! {
    static REACHED: Cell<bool> = const { Cell::new(false) };
}

/// This execution has got to what its check is about.
pub fn reach() {
    REACHED.set(true);
}

/// Whether the last execution has; forgotten thereby.
pub fn take_reached() -> bool {
    REACHED.replace(false)
}

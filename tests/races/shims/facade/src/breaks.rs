//! Deliberate mistakes in a copy of the library, one at a time, to show that the checks notice
//! them. `tests/races/mutants` makes them. Also records whether an execution reached the point that
//! its check is about.

use std::cell::Cell;
use std::sync::OnceLock;

static CHOSEN: OnceLock<String> = OnceLock::new();

/// Switches the mistake of this name on.
pub fn choose(name: &str) {
    CHOSEN.set(name.to_owned()).expect("one mistake at a time");
}

/// Whether the mistake of this name is switched on.
pub fn broken(name: &str) -> bool {
    CHOSEN.get().is_some_and(|chosen| chosen == name)
}

thread_local! {
    static REACHED: Cell<bool> = const { Cell::new(false) };
}

/// Records that this execution has reached the point that its check is about.
pub fn reach() {
    REACHED.set(true);
}

/// Returns whether the last execution has reached that point, and forgets it.
pub fn take_reached() -> bool {
    REACHED.replace(false)
}

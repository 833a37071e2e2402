//! What the locks, channels and atomics here are made of: points where another thread may go on,
//! and blocking.

use shuttle_engine::runtime::execution::ExecutionState;
use shuttle_engine::runtime::task::TaskId;
use shuttle_engine::runtime::thread;

/// A thread of the execution.
pub type Id = TaskId;

/// Another thread may go on here. Comes before whatever others can see.
#[track_caller]
pub fn switch() {
    // A thread that panics fails the check; its locks are released all the same, but nothing may be
    // scheduled from its drops.
    if !std::thread::panicking() {
        thread::switch();
    }
}

/// This thread.
pub fn me() -> Id {
    ExecutionState::me()
}

/// Stops this thread until `done` says otherwise, which it is asked when somebody has [`wake`]d it.
/// What it waits for has to know it before.
pub fn block_until(mut done: impl FnMut() -> bool) {
    while !done() {
        ExecutionState::with(|state| state.current_mut().block(false));
        thread::switch();
    }
}

/// Lets a blocked thread go on. Harmless if it isn't blocked.
pub fn wake(id: Id) {
    ExecutionState::with(|state| {
        let task = state.get_mut(id);
        if !task.finished() {
            task.unblock();
        }
    });
}

/// A number below `bound`, the scheduler's choice.
pub fn choose(bound: usize) -> usize {
    if bound <= 1 { 0 } else { (ExecutionState::next_u64() % bound as u64) as usize }
}

/// A short time passes, in which others may do much or nothing: so a bounded wait may end at any
/// moment, and does end when nothing else can happen. Returns early when `done` says so, and
/// whether it did.
pub fn pass_a_moment(mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..=choose(MOMENT) {
        if done() {
            return true;
        }
        shuttle::thread::yield_now();
    }
    done()
}

/// Steps of this thread in the longest moment. With half a dozen threads it is enough for each to
/// get to where it waits.
const MOMENT: usize = 40;

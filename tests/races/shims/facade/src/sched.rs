//! The basis of the locks, channels and atomics here: points where another thread may run, and
//! blocking.

use shuttle_engine::runtime::execution::ExecutionState;
use shuttle_engine::runtime::task::TaskId;
use shuttle_engine::runtime::thread;

/// A thread of the execution.
pub type Id = TaskId;

/// A switching point: another thread may run here. Comes before any effect that other threads can
/// see.
#[track_caller]
pub fn switch() {
    // A thread that panics fails the check, and releases its locks. The scheduler must not be
    // called from its drops.
    if !std::thread::panicking() {
        thread::switch();
    }
}

/// Returns this thread's id.
pub fn me() -> Id {
    ExecutionState::me()
}

/// Blocks this thread until `done` returns true. `done` is called first, and again after each
/// [`wake`]. So the thread must be registered with its waker before this call.
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

/// Returns a number below `bound`, which the scheduler chooses.
pub fn choose(bound: usize) -> usize {
    if bound <= 1 { 0 } else { (ExecutionState::next_u64() % bound as u64) as usize }
}

/// Lets a short time pass, in which other threads may do much or nothing. So a bounded wait may end
/// at any moment, and it does end when nothing else can happen. Returns true, early, when `done`
/// does.
pub fn pass_a_moment(mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..=choose(MOMENT) {
        if done() {
            return true;
        }
        shuttle::thread::yield_now();
    }
    done()
}

/// Number of this thread's steps in the longest moment. With half a dozen threads, it is enough for
/// each of them to get to its wait.
const MOMENT: usize = 40;

//! One thread for the time limits of all sessions of the process: keepalive, no-data timeouts, stalls, close timeouts.
//!
//! Invariants: it holds sessions weakly; it never waits for anything but time; it never drops a session or a transport (if its
//! reference is the last one, another thread gets it); it exists while there are sessions.
//!
//! The lock guards the queue, and is a leaf. The thread waits on `changed`, which is woken when the earliest entry changes or
//! the queue empties.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::ending::run_apart;
use super::{Core, spawn};
use crate::error::Result;

static TIMER: LazyLock<Timer> = LazyLock::new(Timer::default);

thread_local! {
    /// Whether this is the timer's thread.
    static HERE: Cell<bool> = const { Cell::new(false) };
}

#[derive(Default)]
struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is to be looked at, by time and the session's number.
    queue: BTreeMap<(Instant, u64), Weak<Core>>,
    /// Each session's place in the queue.
    places: HashMap<u64, Instant>,
    running: bool,
}

impl State {
    /// Puts a session in its place, unless it has an earlier one.
    fn place(&mut self, core: &Arc<Core>, at: Instant) {
        if let Some(&earlier) = self.places.get(&core.number) {
            if earlier <= at {
                return;
            }
            self.queue.remove(&(earlier, core.number));
        }
        self.places.insert(core.number, at);
        self.queue.insert((at, core.number), Arc::downgrade(core));
    }
}

/// Takes a new session in, and starts the thread if there is none.
pub(super) fn register(core: &Arc<Core>) -> Result<()> {
    let mut state = TIMER.state.lock();
    state.place(core, Instant::now());
    if !state.running {
        if let Err(error) = spawn("gmux-timer".into(), run) {
            let at = state.places.remove(&core.number);
            at.and_then(|at| state.queue.remove(&(at, core.number)));
            return Err(error.into());
        }
        state.running = true;
    }
    drop(state);
    TIMER.changed.notify_one();
    Ok(())
}

/// Looks at a session at `at`, or before.
pub(super) fn schedule(core: &Arc<Core>, at: Instant) {
    let mut state = TIMER.state.lock();
    if state.places.contains_key(&core.number) {
        state.place(core, at);
        drop(state);
        TIMER.changed.notify_one();
    } // else it has ended, or is being looked at: see `run`
}

/// Looks no more at a session.
pub(super) fn forget(number: u64) {
    let mut state = TIMER.state.lock();
    if let Some(at) = state.places.remove(&number) {
        state.queue.remove(&(at, number));
    }
    let empty = state.queue.is_empty();
    drop(state);
    if empty {
        TIMER.changed.notify_one();
    }
}

/// Whether this is the timer's thread, which must not run a user's code.
pub(super) fn is_this_thread() -> bool {
    HERE.get()
}

fn run() {
    HERE.set(true);
    let mut state = TIMER.state.lock();
    loop {
        let now = Instant::now();
        match state.queue.first_key_value() {
            None => {
                state.running = false;
                return;
            }
            Some((&(at, _), _)) if at > now => drop(TIMER.changed.wait_until(&mut state, at)),
            Some((&key, _)) => {
                let core = state.queue.remove(&key).and_then(|weak| weak.upgrade());
                let Some(core) = core else {
                    state.places.remove(&key.1);
                    continue;
                };
                // Its place is kept meanwhile, far away, so that `schedule` can bring it forward.
                state.places.remove(&key.1);
                state.place(&core, now + super::liveness::IDLE_LOOK);
                drop(state);
                let next = core.on_timer(now);
                match next {
                    Some(at) => schedule(&core, at),
                    None => forget(core.number),
                }
                if let Some(last) = Arc::into_inner(core) {
                    let number = last.number;
                    run_apart(number, move || drop(last));
                }
                state = TIMER.state.lock();
            }
        }
    }
}

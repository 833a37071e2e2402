//! The timer: one thread for the time limits of all sessions of the process. The limits are
//! keepalive, no-data timeouts, stalls and close timeouts.
//!
//! Its lock guards the queue, and is a leaf in the lock order. The thread waits on `changed`. The
//! thread is notified in two cases only: when a new entry is earlier than all others, and when the
//! queue has become empty. Other entries wake nobody, since a busy session makes thousands of them
//! a second.
//!
//! Invariants:
//! - The thread holds only weak references to sessions, except during a look.
//! - It waits for time only.
//! - It never drops a session or a transport, since a drop runs a user's code. If it holds the last
//!   reference to a session, it passes this reference to another thread.
//! - It exists while there are sessions. `running` says whether it exists.
//! - A panic during the look at a session ends that session alone.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::SessionShared;
use super::guard::{caught, guarded};
use super::logging::warn;
use super::threads::{run_on_new_thread, spawn};
use crate::error::Result;

static TIMER: LazyLock<Timer> = LazyLock::new(Timer::default);

thread_local! {
    /// Whether this thread is the timer's.
    static HERE: Cell<bool> = const { Cell::new(false) };
}

#[derive(Default)]
struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The sessions, by the time of their next look and their number.
    queue: BTreeMap<(Instant, u64), Weak<SessionShared>>,
    /// The time of each session's entry in the queue, by the session's number.
    places: HashMap<u64, Instant>,
    /// Whether the timer's thread exists.
    running: bool,
}

impl State {
    /// Sets the time of a session's next look, unless it has an earlier one. Returns whether this
    /// entry is now the earliest of all sessions. Then the thread has to be notified.
    fn place(&mut self, number: u64, session: Weak<SessionShared>, at: Instant) -> bool {
        if let Some(&earlier) = self.places.get(&number) {
            if earlier <= at {
                return false;
            }
            self.queue.remove(&(earlier, number));
        }
        self.places.insert(number, at);
        self.queue.insert((at, number), session);
        self.queue.first_key_value().is_some_and(|(first, _)| *first == (at, number))
    }

    /// Removes a session from the queue.
    fn remove(&mut self, number: u64) {
        if let Some(at) = self.places.remove(&number) {
            self.queue.remove(&(at, number));
        }
    }
}

/// Adds a new session, and starts the timer's thread if there is none.
///
/// # Errors
/// Returns the system's error if the thread can't be started.
pub(super) fn register(session: &Arc<SessionShared>) -> Result<()> {
    let mut state = TIMER.state.lock();
    let first = state.place(session.number, Arc::downgrade(session), Instant::now());
    if !state.running {
        if let Err(error) = spawn("gmux-timer".into(), run) {
            state.remove(session.number);
            return Err(error.into());
        }
        state.running = true;
    }
    drop(state);
    if first {
        TIMER.changed.notify_one();
    }
    Ok(())
}

/// Makes the timer look at a session at `at` or earlier. If an earlier look is due anyway, this
/// wakes nobody.
pub(super) fn schedule(session: &Arc<SessionShared>, at: Instant) {
    let mut state = TIMER.state.lock();
    // A session without an entry has ended.
    let first = state.places.contains_key(&session.number)
        && state.place(session.number, Arc::downgrade(session), at);
    drop(state);
    if first {
        TIMER.changed.notify_one();
    }
}

/// Removes a session from the timer.
pub(super) fn forget(number: u64) {
    let mut state = TIMER.state.lock();
    state.remove(number);
    let empty = state.queue.is_empty();
    drop(state);
    if empty {
        TIMER.changed.notify_one();
    }
}

/// Returns whether this thread is the timer's. The timer's thread must not run a user's code.
pub(super) fn is_this_thread() -> bool {
    HERE.get()
}

/// Runs the timer's thread. If [`look_until_empty`] panics, it begins again. So the thread ends
/// only after that function has set `running` to false.
fn run() {
    HERE.set(true);
    while let Err(text) = caught(look_until_empty) {
        warn!(target: "gmux::session", "the timer panicked: {text}");
    }
}

/// Looks at each session at its time, until there are no sessions.
fn look_until_empty() {
    let mut state = TIMER.state.lock();
    loop {
        let now = Instant::now();
        match state.queue.first_key_value() {
            None => {
                state.running = false;
                return;
            }
            Some((&(at, _), _)) if at > now => {
                let _ = TIMER.changed.wait_until(&mut state, at);
            }
            Some((&(at, number), _)) => {
                let session = state.queue.remove(&(at, number)).and_then(|weak| weak.upgrade());
                state.places.remove(&number);
                let Some(session) = session else { continue };
                // During the look the session has a late entry, which `schedule` can replace by an
                // earlier one.
                state.place(number, Arc::downgrade(&session), now + super::liveness::IDLE_LOOK);
                drop(state);
                let next = look(&session, now, now.saturating_duration_since(at));
                match next {
                    Some(at) => schedule(&session, at),
                    None => forget(number),
                }
                if let Some(last) = Arc::into_inner(session) {
                    run_on_new_thread(number, move || drop(last));
                }
                state = TIMER.state.lock();
            }
        }
    }
}

/// Looks at one session. Returns the time of the next look, or `None` for no more. A panic ends
/// that session.
fn look(session: &SessionShared, now: Instant, late: Duration) -> Option<Instant> {
    let looked = guarded(session.number, "the timer panicked", || Ok(session.on_timer(now, late)));
    looked.unwrap_or_else(|error| {
        let _ = guarded(session.number, "its end panicked", || {
            session.end(error);
            Ok(())
        });
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_is_told_only_of_what_is_earlier_than_all_else() {
        let mut state = State::default();
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut place = |number, ms| state.place(number, Weak::new(), at(ms));
        assert!(place(1, 1000));
        assert!(place(2, 500) && !place(3, 600));
        // Pauses come thousands of times a second. Each asks for a look after the stall timeout.
        let told = (0..10_000).filter(|k| place(1 + k % 3, 2000 + k)).count();
        assert_eq!(told, 0);
        assert!(!place(1, 700) && place(1, 499) && !place(1, 499));
        state.remove(1);
        assert_eq!(state.queue.keys().copied().collect::<Vec<_>>(), [(at(500), 2), (at(600), 3)]);
        assert_eq!(state.places.len(), 2);
    }
}

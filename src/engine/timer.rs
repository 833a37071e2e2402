//! One thread for the time limits of all sessions of the process: keepalive, no-data timeouts,
//! stalls, close timeouts.
//!
//! Invariants: it holds sessions weakly; it never waits for anything but time; it never drops a
//! session or a transport (if its reference is the last one, another thread gets it); it exists
//! while there are sessions, and `running` is true as long; a panic at one session's look ends that
//! session alone.
//!
//! The lock guards the queue, and is a leaf. The thread waits on `changed`, which is woken when
//! there is something earlier than all else, and when the queue empties: not for each session that
//! wants to be looked at some time.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::ending::run_apart;
use super::guard::{caught, guarded};
use super::logging::warn;
use super::{SessionShared, spawn};
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
    queue: BTreeMap<(Instant, u64), Weak<SessionShared>>,
    /// Each session's place in the queue.
    places: HashMap<u64, Instant>,
    running: bool,
}

impl State {
    /// Puts a session in its place, unless it has an earlier one; returns whether it is the first
    /// of all now, so that the thread has to know.
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

    /// Takes a session out.
    fn remove(&mut self, number: u64) {
        if let Some(at) = self.places.remove(&number) {
            self.queue.remove(&(at, number));
        }
    }
}

/// Takes a new session in, and starts the thread if there is none.
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

/// Looks at a session at `at`, or before. Cheap where it is looked at before anyway: then nobody is
/// woken.
pub(super) fn schedule(session: &Arc<SessionShared>, at: Instant) {
    let mut state = TIMER.state.lock();
    // One without a place has ended.
    let first = state.places.contains_key(&session.number)
        && state.place(session.number, Arc::downgrade(session), at);
    drop(state);
    if first {
        TIMER.changed.notify_one();
    }
}

/// Looks no more at a session.
pub(super) fn forget(number: u64) {
    let mut state = TIMER.state.lock();
    state.remove(number);
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

/// The thread. It ends in [`looks`] alone, which says so in `running`: should that panic, it begins
/// again.
fn run() {
    HERE.set(true);
    while let Err(text) = caught(looks) {
        warn!(target: "gmux::session", "the timer panicked: {text}");
    }
}

/// Looks at sessions when it is time to, until there are none.
fn looks() {
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
                // It has a place meanwhile, far away, so that `schedule` can bring it forward.
                state.place(number, Arc::downgrade(&session), now + super::liveness::IDLE_LOOK);
                drop(state);
                let next = look(&session, now, now.saturating_duration_since(at));
                match next {
                    Some(at) => schedule(&session, at),
                    None => forget(number),
                }
                if let Some(last) = Arc::into_inner(session) {
                    run_apart(number, move || drop(last));
                }
                state = TIMER.state.lock();
            }
        }
    }
}

/// One look at one session; returns when the next is due. A panic ends that session, and nothing
/// else.
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
        // Pauses, thousands a second: each would be looked at after the stall timeout.
        let told = (0..10_000).filter(|k| place(1 + k % 3, 2000 + k)).count();
        assert_eq!(told, 0);
        assert!(!place(1, 700) && place(1, 499) && !place(1, 499));
        state.remove(1);
        assert_eq!(state.queue.keys().copied().collect::<Vec<_>>(), [(at(500), 2), (at(600), 3)]);
        assert_eq!(state.places.len(), 2);
    }
}

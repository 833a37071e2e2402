//! Starts calls, and knows that they are blocked before the test goes on.
//!
//! gmux has no way to ask whether a thread waits inside a call, so these functions ask the system.
//! The thread tells its own id just before the call. After that, several looks in a row have to
//! find it asleep, and it must not have run between them.

use std::fs;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Number of looks in a row that have to find the thread asleep. A lock or a page fault on the way
/// to the wait is over sooner.
const LOOKS: u32 = 4;
/// Pause between two looks. There is no event for a thread that falls asleep.
const PAUSE: Duration = Duration::from_millis(2);

/// A call that runs in a thread of its own.
#[derive(Debug)]
pub struct Blocked<T> {
    thread: JoinHandle<T>,
    /// The thread's folder under `/proc`, where there is one.
    task: Option<String>,
}

/// Runs `call` in a thread, and returns once it is asleep inside. Panics if it returns instead.
pub fn blocked<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Blocked<T> {
    let blocked = started(call);
    blocked.assert_asleep();
    blocked
}

/// Runs `call` in a thread. The call may block or not.
pub fn started<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Blocked<T> {
    let (tell, task) = mpsc::channel();
    let thread = thread::spawn(move || {
        // Where `/proc/thread-self` exists, it leads to `PID/task/TID`.
        let link = fs::read_link("/proc/thread-self").ok();
        tell.send(link.map(|link| format!("/proc/{}", link.display()))).unwrap();
        call()
    });
    let task = task.recv().unwrap();
    Blocked { thread, task }
}

impl<T> Blocked<T> {
    /// Waits until the thread is asleep inside the call. Panics if the call has returned.
    pub fn assert_asleep(&self) {
        let Some(task) = &self.task else {
            // Without /proc there is no way to know. This pause is long enough, most likely.
            thread::sleep(Duration::from_millis(200));
            assert!(!self.thread.is_finished(), "the call returned; it should have blocked");
            return;
        };
        let mut looks = 0;
        let mut before = None;
        while looks < LOOKS {
            assert!(!self.thread.is_finished(), "the call returned; it should have blocked");
            let switches = sleeps(task);
            looks = if switches.is_some() && switches == before { looks + 1 } else { 0 };
            before = switches;
            thread::sleep(PAUSE);
        }
        assert!(!self.thread.is_finished(), "the call returned; it should have blocked");
    }

    /// Waits for the call to return. The watchdog bounds the wait.
    pub fn join(self) -> T {
        match self.thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Returns how often the thread of this folder has gone to sleep by itself, if it sleeps now. The
/// same number in two looks means that the thread slept all the time between them.
pub fn sleeps(task: &str) -> Option<String> {
    let status = fs::read_to_string(format!("{task}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let asleep = field("State:").is_some_and(|state| state.starts_with('S'));
    asleep.then(|| field("voluntary_ctxt_switches:").unwrap_or_default().to_owned())
}

//! What the tests of this layer share: a watchdog, and threads that are known to be blocked.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A test that takes longer hangs. Mutants that hang needn't take that long: `tests/mutants` sets
/// the variable.
fn patience() -> Duration {
    let seconds = std::env::var("GMUX_WATCHDOG").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// While it lives, a hang ends the whole process with the test's name.
pub(crate) struct Watchdog {
    _done: mpsc::Sender<()>,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        let name = thread::current().name().unwrap_or("?").to_owned();
        let (done, watch) = mpsc::channel();
        thread::spawn(move || {
            if watch.recv_timeout(patience()) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = writeln!(std::io::stderr(), "\nWATCHDOG: test {name} hangs");
                std::process::exit(86);
            }
        });
        Self { _done: done }
    }
}

/// Runs a test under a watchdog.
pub(crate) fn watched(body: impl FnOnce()) {
    let _dog = Watchdog::new();
    body();
}

/// Waits until `condition` holds: for what is seen in a state, and has no event of its own.
pub(crate) fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

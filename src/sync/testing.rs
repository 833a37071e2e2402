//! Helpers for the tests of this layer: a watchdog, and a wait for a condition.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Time after which a test counts as hanging: a minute, or the seconds in `GMUX_WATCHDOG`.
/// `tests/mutants` sets the variable, since many mutants hang.
fn patience() -> Duration {
    let seconds = std::env::var("GMUX_WATCHDOG").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// A watchdog. If it lives too long, it ends the whole process and names the test.
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

/// Waits until `condition` holds. This is for conditions that show in a state and have no event of
/// their own.
pub(crate) fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

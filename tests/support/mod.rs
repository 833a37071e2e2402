//! The integration tests share this module. It has a watchdog, a check for leaked threads,
//! connections, and data that a receiver can verify.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod blocked;
pub mod faulty;
pub mod forwarders;
pub mod frame_peer;
pub mod links;
pub mod load;
pub mod pages;
pub mod peers;
pub mod process_snapshot;
pub mod raw;
pub mod relay;
pub mod scripted;
pub mod udp_relay;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gmux::{Config, Error, Session};

/// Watchdog limit. A test that takes longer is taken for a hang.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// Number of tests of this binary that are running.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Runs a test under a watchdog. A hang ends the whole process and prints the test's name.
///
/// If no other test is running at the end, no thread of gmux may be left.
pub fn test<R>(name: &str, body: impl FnOnce() -> R) -> R {
    test_for(name, WATCHDOG, body)
}

/// Does the same as [`test`], with its own limit for the watchdog.
pub fn test_for<R>(name: &str, limit: Duration, body: impl FnOnce() -> R) -> R {
    RUNNING.fetch_add(1, SeqCst);
    let (done, watch) = mpsc::channel::<()>();
    let hung = name.to_owned();
    let dog = thread::spawn(move || {
        if watch.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            let text = format!(
                "\nWATCHDOG: test {hung:?} hangs (over {limit:?}); its threads:\n{}\n",
                threads().join("\n")
            );
            let _ = std::io::stderr().write_all(text.as_bytes());
            std::process::exit(86);
        }
    });
    let result = catch_unwind(AssertUnwindSafe(body));
    drop(done);
    dog.join().unwrap();
    let last = RUNNING.fetch_sub(1, SeqCst) == 1;
    match result {
        Err(panic) => resume_unwind(panic),
        Ok(value) => {
            if last {
                no_threads_left(name);
            }
            value
        }
    }
}

/// Returns the names of this process's threads, as far as the system tells them.
pub fn threads() -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Returns the names of gmux's threads in this process.
pub fn gmux_threads() -> Vec<String> {
    threads().into_iter().filter(|name| name.starts_with("gmux-")).collect()
}

/// Waits until gmux's threads are gone, unless another test begins meanwhile. A thread that has
/// ended needs a moment to leave the process.
fn no_threads_left(name: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    while RUNNING.load(SeqCst) == 0 {
        let left = gmux_threads();
        if left.is_empty() {
            return;
        }
        assert!(
            Instant::now() < until,
            "after {name:?}, the last test, threads are left: {left:?}"
        );
        // The end of a thread that isn't joined raises no event.
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a condition that has no event of its own. The watchdog bounds the wait.
pub fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns both ends of a TCP connection over loopback.
pub fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Returns a client's and a server's session over loopback TCP.
pub fn pair(config: Config) -> (Session, Session) {
    pair_of(config.clone(), config)
}

/// Returns a client's and a server's session, configured separately.
pub fn pair_of(client: Config, server: Config) -> (Session, Session) {
    let (a, b) = tcp();
    (Session::client(a, client).unwrap(), Session::server(b, server).unwrap())
}

/// Closes a session with an empty send queue whose peer stays. The close fails when the close
/// timeout has passed.
pub fn close_beside_a_peer_that_stays(session: &Session) {
    let closed = session.close();
    let known = matches!(closed, Err(Error::CloseIncomplete { unsent: 0, peer_ended: false, .. }));
    assert!(known, "{closed:?}");
}

/// Returns the default configuration in both protocol versions.
pub fn versions() -> [Config; 2] {
    [Config::new(), Config::new().version(2)]
}

/// Deterministic bytes: splitmix64, eight bytes at a time, little-endian. The Go peer makes the
/// same bytes.
pub struct Pattern {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Pattern {
    pub fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == 8 {
                self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                self.word = (z ^ (z >> 31)).to_le_bytes();
                self.used = 0;
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
    }

    pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Self::new(seed).fill(&mut bytes);
        bytes
    }
}

/// Returns the next random number of splitmix64. A seed always gives the same numbers.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

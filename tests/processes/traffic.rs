//! Endless, verified data in both directions, and a count of its progress.

use std::io::{self, Read, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use gmux::{Session, Stream};

use super::support::{Pattern, until};

/// The sent data repeats after this many bytes.
const PERIOD: usize = 499_979;
static DATA: LazyLock<Vec<u8>> = LazyLock::new(|| Pattern::bytes(33, PERIOD));

/// Number of bytes that have moved.
#[derive(Default)]
pub struct Moved {
    sent: AtomicU64,
    read: AtomicU64,
}

impl Moved {
    /// Waits until `bytes` more bytes have moved each way, counted from now.
    pub fn wait_for(&self, bytes: u64) {
        let sent = self.sent.load(SeqCst);
        let read = self.read.load(SeqCst);
        until(|| self.sent.load(SeqCst) >= sent + bytes && self.read.load(SeqCst) >= read + bytes);
    }

    /// Waits until no more bytes are accepted or written to the transport. There is no event for
    /// that, so the counts have to stand still for a while.
    pub fn wait_until_stuck(&self, session: &Session) {
        let now =
            || (self.sent.load(SeqCst), session.stats().bytes_sent, session.stats().bytes_received);
        let mut before = now();
        let mut still = 0;
        while still < 15 || before.0 == 0 {
            thread::sleep(Duration::from_millis(20));
            let after = now();
            still = if after == before { still + 1 } else { 0 };
            before = after;
        }
    }
}

/// Sends until a call fails. Returns its error.
pub fn send(mut stream: &Stream, moved: &Moved) -> io::Error {
    let mut at = 0;
    loop {
        match stream.write(&DATA[at..PERIOD.min(at + 65536)]) {
            Ok(n) => {
                at = (at + n) % PERIOD;
                moved.sent.fetch_add(n as u64, SeqCst);
            }
            Err(error) => return error,
        }
    }
}

/// Reads and compares until a call fails. Returns its error. A clean end would be wrong.
pub fn check(mut stream: &Stream, moved: &Moved) -> io::Error {
    let mut at = 0;
    let mut buf = vec![0; 65536];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => panic!("a clean end of a stream that wasn't finished"),
            Ok(n) => {
                let mut rest = &buf[..n];
                while !rest.is_empty() {
                    let len = rest.len().min(PERIOD - at);
                    assert!(rest[..len] == DATA[at..at + len], "wrong data");
                    rest = &rest[len..];
                    at = (at + len) % PERIOD;
                }
                moved.read.fetch_add(n as u64, SeqCst);
            }
            Err(error) => return error,
        }
    }
}

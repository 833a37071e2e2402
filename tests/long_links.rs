//! Version 2 over links with delays of 1, 10 and 50 ms each way. Windows grow to their maximum
//! while the reader keeps up. They never grow past half of the budget. They shrink again when the
//! reader stays behind. `benches/compare/run` measures the speed, also with Go's peers, in its rows
//! `rtt2`, `rtt20` and `rtt100`.
//!
//! Promises: P77.

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use gmux::{Config, Session, Stream};
use support::relay::delayed;
use support::{Pattern, test};

/// The server's budget in bytes.
const BUDGET: usize = 4 << 20;

/// The largest window, which is half of the budget.
const LARGEST: u64 = BUDGET as u64 / 2;

/// Raises `most` to the part of the budget that is in use now.
fn check_budget(server: &Session, most: &mut u64) {
    *most = (*most).max(server.stats().receive_buffered);
}

/// Reads `n` bytes and checks them.
fn read(stream: &mut Stream, server: &Session, expected: &mut Pattern, n: usize, most: &mut u64) {
    let mut buffer = vec![0; 128 * 1024];
    let mut wanted = vec![0; 128 * 1024];
    let mut left = n;
    while left > 0 {
        let most_now = left.min(buffer.len());
        let got = stream.read(&mut buffer[..most_now]).unwrap();
        assert!(got > 0, "the writer goes on");
        expected.fill(&mut wanted[..got]);
        assert!(buffer[..got] == wanted[..got], "the bytes are those that were written");
        left -= got;
        check_budget(server, most);
    }
}

/// Waits until the unread bytes have stayed the same for two round trips, and returns their number.
fn unread_when_nobody_reads(server: &Session, delay: Duration) -> u64 {
    let mut before = server.stats().receive_buffered;
    loop {
        // Data that doesn't come is no event.
        thread::sleep(delay * 4 + Duration::from_millis(20));
        let now = server.stats().receive_buffered;
        if now == before && now > 0 {
            return now;
        }
        before = now;
    }
}

fn windows_grow_over(delay: Duration) {
    let (a, b) = delayed(delay);
    let config = Config::new().version(2).max_receive_buffer(BUDGET);
    let client = Session::client(a, config.clone()).unwrap();
    let server = Session::server(b, config).unwrap();
    let mut to = client.open("long").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut pattern = Pattern::new(7);
            let mut buffer = vec![0; 64 * 1024];
            while !stop.load(SeqCst) {
                pattern.fill(&mut buffer);
                to.write_all(&buffer).unwrap();
            }
            to.shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    let mut stream = server.accept().unwrap();
    let mut expected = Pattern::new(7);
    let mut most = 0;
    // A reader that keeps up gets the largest window after a while. Then this number of bytes
    // arrives when it stops. Two further rounds show that the window doesn't grow past its maximum.
    let mut times = 0;
    while times < 3 {
        read(&mut stream, &server, &mut expected, 8 << 20, &mut most);
        let unread = unread_when_nobody_reads(&server, delay);
        most = most.max(unread);
        times += i32::from(times > 0 || unread > 3 * LARGEST / 4);
    }
    // This compares with the largest window. The budget itself can't be passed, because the reader
    // pauses before. Unread data may occupy a quarter more than its length.
    assert!(most <= LARGEST + LARGEST / 4, "{most} bytes were in use, windows grow to {LARGEST}");
    // A reader that stays behind, because it reads only a quarter of the data at a time, loses the
    // large window again.
    let mut unread = server.stats().receive_buffered;
    while unread > LARGEST / 4 {
        read(&mut stream, &server, &mut expected, unread as usize / 4, &mut most);
        unread = unread_when_nobody_reads(&server, delay);
    }
    stop.store(true, SeqCst);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    let mut wanted = vec![0; rest.len()];
    expected.fill(&mut wanted);
    assert!(rest == wanted, "the bytes are those that were written");
    writer.join().unwrap();
    drop(client);
}

#[test]
fn windows_grow_and_shrink_over_a_link_of_1_ms() {
    test("windows_grow_and_shrink_over_a_link_of_1_ms", || {
        windows_grow_over(Duration::from_millis(1))
    });
}

#[test]
fn windows_grow_and_shrink_over_a_link_of_10_ms() {
    test("windows_grow_and_shrink_over_a_link_of_10_ms", || {
        windows_grow_over(Duration::from_millis(10))
    });
}

#[test]
fn windows_grow_and_shrink_over_a_link_of_50_ms() {
    test("windows_grow_and_shrink_over_a_link_of_50_ms", || {
        windows_grow_over(Duration::from_millis(50))
    });
}

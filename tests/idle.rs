//! The cost of a session while nothing moves: how long its threads wait inside the transport, and
//! how often they look.
//!
//! The tests here show the mechanism, by the calls that a transport counts. With `GMUX_FULL` set
//! (`tests/full idle`) the figures are measured and have limits: voluntary context switches a
//! second and session, over 10 s, for 100 sessions.
//!
//! Promises: P83.

mod support;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use gmux::transport::{Control, Halves, Shared, Transport};
use gmux::{Config, Session, Stream};
use support::scripted::quiet;
use support::{tcp, test, test_for, until};

// ---- a writer whose peer doesn't read -----------------------------------------------------------

/// A transport that takes nothing until it may. Its writes return at once. It records the bounds
/// that are set.
#[derive(Clone, Default)]
struct Stuck(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    bounds: Vec<Option<Duration>>,
    open: bool,
    taken: usize,
    aborted: bool,
}

impl Stuck {
    fn bounds(&self) -> Vec<u128> {
        self.0.lock().unwrap().bounds.iter().map(|bound| bound.unwrap().as_millis()).collect()
    }
}

impl Read for Stuck {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        until(|| self.0.lock().unwrap().aborted);
        Ok(0)
    }
}

impl Write for Stuck {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap();
        if !state.open {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.taken += buf.len();
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Control for Stuck {
    fn finish_write(&self) -> io::Result<()> {
        self.abort(); // The far end ends its side, too.
        Ok(())
    }

    fn abort(&self) {
        self.0.lock().unwrap().aborted = true;
    }
}

impl Transport for Stuck {
    fn split(self) -> io::Result<Halves> {
        let state = Arc::clone(&self.0);
        Ok(Halves::new(self.clone(), self.clone(), self).bound_writes(move |bound| {
            state.lock().unwrap().bounds.push(bound);
            Ok(())
        }))
    }
}

#[test]
fn the_bound_of_writes_grows_while_the_transport_takes_nothing_and_falls_back_at_a_byte() {
    test(
        "the_bound_of_writes_grows_while_the_transport_takes_nothing_and_falls_back_at_a_byte",
        || {
            let line = Stuck::default();
            let session = Session::client(line.clone(), quiet()).unwrap();
            assert!(line.bounds().is_empty(), "it is small from the start");
            for round in 1..3 {
                session.open("").unwrap();
                until(|| line.bounds().len() >= 5 * round - 1);
                line.0.lock().unwrap().open = true;
                until(|| line.bounds().len() >= 5 * round);
                line.0.lock().unwrap().open = false;
                assert_eq!(line.bounds()[5 * (round - 1)..], [40, 160, 640, 1000, 10]);
            }
            line.0.lock().unwrap().open = true;
            session.close().unwrap();
        },
    );
}

/// Returns a session over a socket, a stream, a handle to that socket, and the peer's end.
fn stuck_tcp() -> (Session, Stream, TcpStream, TcpStream) {
    let (near, far) = tcp();
    let socket = near.try_clone().unwrap();
    let session = Session::client(near, quiet().max_send_buffer(1 << 20)).unwrap();
    let stream = session.open("").unwrap();
    (session, stream, socket, far)
}

/// Returns the write bound of the socket, in milliseconds. The system rounds it up to its ticks.
#[cfg(unix)]
fn bound(socket: &TcpStream) -> u128 {
    socket.write_timeout().unwrap().map_or(u128::MAX, |bound| bound.as_millis())
}

#[cfg(unix)]
const SMALL: std::ops::Range<u128> = 10..40;

/// Windows has no such bound.
#[cfg(unix)]
#[test]
fn a_socket_whose_peer_does_not_read_is_waited_for_in_one_call_a_second() {
    test("a_socket_whose_peer_does_not_read_is_waited_for_in_one_call_a_second", || {
        let (session, stream, socket, far) = stuck_tcp();
        assert!(SMALL.contains(&bound(&socket)));
        let mut writes = stream.clone();
        let writes = thread::spawn(move || writes.write_all(&vec![1; 32 << 20]));
        until(|| (1000..1100).contains(&bound(&socket)));
        // The writer holds the writer lock, so this call can't write inline. It waits in the queue.
        let other = session.open("other").unwrap();
        (&other).write_all(b"x").unwrap();
        // The far end receives everything. After that the bound is small again, for inline writes.
        let mut drain = far.try_clone().unwrap();
        let drain = thread::spawn(move || io::copy(&mut drain, &mut io::sink()));
        writes.join().unwrap().unwrap();
        (&stream).flush().unwrap();
        (&other).flush().unwrap();
        assert!(SMALL.contains(&bound(&socket)));
        // An end interrupts a stuck write, however large its bound is.
        drop(far);
        session.close().unwrap();
        drain.join().unwrap().unwrap();
    });
}

#[cfg(unix)]
#[test]
fn the_end_interrupts_a_write_with_a_large_bound() {
    test("the_end_interrupts_a_write_with_a_large_bound", || {
        let (session, stream, socket, _far) = stuck_tcp();
        let mut writes = stream.clone();
        let writes = thread::spawn(move || writes.write_all(&vec![1; 32 << 20]));
        until(|| (1000..1100).contains(&bound(&socket)));
        session.set_no_data_timeout(Some(Duration::from_millis(1))).unwrap();
        writes.join().unwrap().unwrap_err();
        until(|| support::gmux_threads().iter().all(|name| !name.starts_with("gmux-writer")));
    });
}

// ---- Shared -------------------------------------------------------------------------------------

/// A transport that never has data, and says so at once. It counts the reads, and takes all writes.
struct Nothing {
    reads: Arc<AtomicU64>,
    input: Arc<Mutex<Vec<u8>>>,
}

impl Read for Nothing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reads.fetch_add(1, SeqCst);
        let mut input = self.input.lock().unwrap();
        let n = input.len().min(buf.len());
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buf[..n].copy_from_slice(&input[..n]);
        input.drain(..n);
        Ok(n)
    }
}

impl Write for Nothing {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a session over that transport, and the counter. With `readiness` the transport always
/// claims that a read is worth trying. Without, nothing says when to read.
fn over_nothing(readiness: bool) -> (Session, Arc<AtomicU64>, Arc<Mutex<Vec<u8>>>) {
    let reads = Arc::new(AtomicU64::new(0));
    let input = Arc::new(Mutex::new(Vec::new()));
    let mut transport =
        Shared::new(Nothing { reads: Arc::clone(&reads), input: Arc::clone(&input) });
    if readiness {
        transport = transport.with_readiness(|| Ok(()));
    }
    let session =
        Session::client(transport, quiet().close_timeout(Duration::from_millis(1))).unwrap();
    (session, reads, input)
}

/// Returns how often a session reads in a second without data, after one such second. On a busy
/// machine it is less.
fn reads_a_second(reads: &AtomicU64) -> u64 {
    thread::sleep(Duration::from_secs(1));
    let before = reads.load(SeqCst);
    let begin = Instant::now();
    thread::sleep(Duration::from_secs(1));
    let counted = (reads.load(SeqCst) - before) as f64;
    (counted / begin.elapsed().as_secs_f64()) as u64
}

#[test]
fn a_non_blocking_transport_without_data_is_asked_25_times_a_second() {
    test("a_non_blocking_transport_without_data_is_asked_25_times_a_second", || {
        let (_session, reads, _) = over_nothing(false);
        let rate = reads_a_second(&reads);
        assert!((1..=30).contains(&rate), "{rate}");
    });
}

#[test]
fn readiness_that_lies_costs_no_core() {
    test("readiness_that_lies_costs_no_core", || {
        let (_session, reads, _) = over_nothing(true);
        let rate = reads_a_second(&reads);
        assert!((1..=30).contains(&rate), "{rate}");
    });
}

/// A write to a shared transport may have read input, too, and is likely to be answered. So the
/// reader looks at once, and often, whatever its pause was.
#[test]
fn a_write_ends_the_readers_long_pause() {
    test("a_write_ends_the_readers_long_pause", || {
        for readiness in [false, true] {
            let (session, reads, _) = over_nothing(readiness);
            thread::sleep(Duration::from_millis(300)); // By then the pauses have grown.
            let before = reads.load(SeqCst);
            let stream = session.open("").unwrap();
            (&stream).flush().unwrap();
            until(|| reads.load(SeqCst) >= before + 3);
        }
    });
}

// ---- figures ------------------------------------------------------------------------------------

/// Returns how often gmux's threads of this process have gone to sleep by themselves so far.
fn switches() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let status =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
    let of_gmux =
        |status: &String| status.lines().next().is_some_and(|name| name.contains("\tgmux-"));
    let count = |status: String| -> Option<u64> {
        status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok())
    };
    status.filter(of_gmux).filter_map(count).sum()
}

/// Returns the processor time of this process, in clock ticks (hundredths of a second).
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Measures `sessions` sessions over 10 s. Returns the switches a second and session.
fn measure(what: &str, sessions: usize) -> f64 {
    let before = switches();
    let cpu = ticks();
    let begin = Instant::now();
    thread::sleep(Duration::from_secs(10));
    let seconds = begin.elapsed().as_secs_f64();
    let rate = (switches() - before) as f64 / seconds / sessions as f64;
    let core = (ticks() - cpu) as f64 / seconds;
    println!(
        "{what}: {rate:.2} voluntary context switches a second and session, {core:.2} % of a core \
         for {sessions}"
    );
    rate
}

/// Returns a pair of sessions over `Shared` in non-blocking mode. With `lies`, readiness always
/// says yes.
fn shared_pair(lies: bool) -> [Session; 2] {
    let (a, b) = tcp();
    let shared = |socket: TcpStream| {
        socket.set_nonblocking(true).unwrap();
        let abort = socket.try_clone().unwrap();
        let shared = Shared::new(socket).on_abort(move || {
            let _ = abort.shutdown(std::net::Shutdown::Both);
        });
        if lies { shared.with_readiness(|| Ok(())) } else { shared }
    };
    let config = Config::new().close_timeout(Duration::from_millis(1));
    [
        Session::client(shared(a), config.clone()).unwrap(),
        Session::server(shared(b), config).unwrap(),
    ]
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "a measurement, for tests/full idle"]
fn figures_of_idle_sessions() {
    test_for("figures_of_idle_sessions", Duration::from_secs(300), || {
        let settle = || thread::sleep(Duration::from_secs(2));
        {
            let pairs: Vec<_> = (0..50).map(|_| support::pair(Config::new())).collect();
            settle();
            let rate = measure("idle", 100);
            assert!(rate <= 0.35, "{rate}");
            drop(pairs);
        }
        {
            let stuck: Vec<_> = (0..100)
                .map(|_| {
                    let (near, far) = tcp();
                    // The peer sends nothing either, and must not be taken for dead meanwhile.
                    let config = Config::new().keepalive_timeout(Duration::from_secs(600));
                    let session = Session::client(near, config).unwrap();
                    let mut stream = session.open("").unwrap();
                    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
                    let full = stream.write_all(&vec![1; 64 << 20]).unwrap_err();
                    assert_eq!(full.kind(), io::ErrorKind::TimedOut);
                    (session, stream, far)
                })
                .collect();
            settle();
            let rate = measure("peer doesn't read", 100);
            assert!(rate <= 2.0, "{rate}");
            stuck.iter().for_each(|(session, ..)| {
                session.set_no_data_timeout(Some(Duration::from_millis(1))).unwrap();
            });
        }
        for (what, lies) in [("non-blocking Shared", false), ("Shared whose readiness lies", true)]
        {
            let pairs: Vec<_> = (0..50).map(|_| shared_pair(lies)).collect();
            settle();
            let rate = measure(what, 100);
            assert!(rate <= 50.0, "{rate}");
            drop(pairs);
        }
    });
}

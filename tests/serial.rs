//! Tests of a serial line as a transport. A serial line can't show that the peer has ended. The
//! tests show the result of `close`, and the end of the threads.
//!
//! The line consists of two pseudoterminals. Their masters are copied to each other, as
//! `socat pty pty` does. `tests/peers` runs the same tests over a line of socat. The recipe for a
//! transport comes from the manual's page on transports.
//!
//! Promises: P41, P96.
#![cfg(target_os = "linux")]

#[cfg(feature = "rustls")]
#[path = "support/certs.rs"]
mod certs;
mod support;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gmux::transport::{Pair, Shared};
use gmux::{Config, Error, Session};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use support::links::{check, reader_and_writer, send, threads_end};
use support::{close_beside_a_peer_that_stays, test, until};
use tempfile::TempDir;

// ---- the recipe ---------------------------------------------------------------------------------

/// Opens one end in raw mode. Reads return after a tenth of a second.
fn open(path: &Path) -> io::Result<File> {
    let line = OpenOptions::new().read(true).write(true).open(path)?;
    let mut settings = tcgetattr(&line)?;
    settings.make_raw();
    settings.special_codes[SpecialCodeIndex::VMIN] = 0;
    settings.special_codes[SpecialCodeIndex::VTIME] = 1; // tenths of a second
    tcsetattr(&line, OptionalActions::Flush, &settings)?; // This discards old input.
    Ok(line)
}

/// The read half. A serial line has no end, so a read of no bytes means "not yet". `over` ends the
/// read half.
struct Reading {
    line: File,
    over: Arc<AtomicBool>,
}

impl Read for Reading {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.line.read(buf)? {
            0 if self.over.load(SeqCst) => Ok(0),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

/// Returns both halves, and a flag that ends the read half after the close. The write half is
/// opened separately, because it needs another mode. It doesn't block, so it can be interrupted
/// too.
fn halves(path: &Path) -> (Reading, File, Arc<AtomicBool>) {
    let over = Arc::new(AtomicBool::new(false));
    let reading = Reading { line: open(path).unwrap(), over: Arc::clone(&over) };
    let writing = OpenOptions::new().write(true).open(path).unwrap();
    fcntl_setfl(&writing, OFlags::NONBLOCK).unwrap();
    (reading, writing, over)
}

/// The other recipe: one file that doesn't block, for reading and writing in turns.
fn in_turns(path: &Path) -> Shared<File> {
    let line = open(path).unwrap();
    let mut settings = tcgetattr(&line).unwrap();
    // 0 would make a read of no bytes an end of file.
    settings.special_codes[SpecialCodeIndex::VMIN] = 1;
    tcsetattr(&line, OptionalActions::Now, &settings).unwrap();
    fcntl_setfl(&line, OFlags::NONBLOCK).unwrap();
    Shared::new(line)
}

// ---- the line -----------------------------------------------------------------------------------

/// A line with two ends. The line stays when its ends are closed.
struct Line {
    ends: [PathBuf; 2],
    /// Both ends, kept open. So the copiers or socat see no hang-up while the line exists.
    held: Vec<File>,
    copiers: Vec<JoinHandle<()>>,
    socat: Option<(Child, TempDir)>,
}

impl Line {
    /// Makes a line by itself, or by socat if the variable `GMUX_SERIAL` is `socat`.
    fn new() -> Self {
        match std::env::var("GMUX_SERIAL") {
            Ok(program) if program == "socat" => Self::by_socat(),
            Ok(other) => panic!("GMUX_SERIAL={other}: socat, or nothing"),
            Err(_) => Self::by_copying(),
        }
    }

    fn by_copying() -> Self {
        let masters = [0; 2].map(|_| {
            let master =
                openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            File::from(master)
        });
        let ends = [0, 1].map(|at: usize| {
            let name = ptsname(&masters[at], Vec::new()).unwrap();
            PathBuf::from(OsStr::from_bytes(name.to_bytes()))
        });
        let held = ends.iter().map(|end| open(end).unwrap()).collect();
        let [a, b] = masters;
        let copy = |mut from: File, mut to: File| {
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
            })
        };
        let copiers = vec![copy(a.try_clone().unwrap(), b.try_clone().unwrap()), copy(b, a)];
        Self { ends, held, copiers, socat: None }
    }

    fn by_socat() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ends = ["a", "b"].map(|name| dir.path().join(name));
        let pty = |end: &Path| format!("pty,raw,echo=0,link={}", end.display());
        let socat =
            Command::new("socat").args(ends.each_ref().map(|end| pty(end))).spawn().unwrap();
        until(|| ends.iter().all(|end| end.exists()));
        let held = ends.iter().map(|end| open(end).unwrap()).collect();
        Self { ends, held, copiers: Vec::new(), socat: Some((socat, dir)) }
    }
}

impl Drop for Line {
    /// Closes the ends. Then the reads of the copiers end.
    fn drop(&mut self) {
        self.held.clear();
        if let Some((socat, _)) = &mut self.socat {
            let _ = socat.kill();
            let _ = socat.wait();
        }
        for copier in self.copiers.drain(..) {
            copier.join().unwrap();
        }
    }
}

/// Small frames. At 115200 baud a frame of the default size takes three seconds, and a keepalive
/// message would wait behind it.
fn config() -> Config {
    Config::new().version(2).max_frame_size(1024).close_timeout(SHORT)
}

/// The close timeout. Some tests wait until it has passed.
const SHORT: Duration = Duration::from_secs(1);

/// Sends data in both directions at once, on two streams.
fn both_ways(client: &Session, server: &Session, size: usize) {
    let ours = ["0", "1"].map(|name| client.open(name).unwrap());
    let theirs = ours.each_ref().map(|_| server.accept().unwrap());
    thread::scope(|scope| {
        for (end, streams) in [&ours, &theirs].into_iter().enumerate() {
            for stream in streams {
                let at = move |end| 7 * (stream.name().parse::<usize>().unwrap() * 2 + end);
                scope.spawn(move || {
                    send(stream, at(end), size);
                    stream.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || assert_eq!(check(stream, at(1 - end)), size));
            }
        }
    });
}

// ---- the recipe works ---------------------------------------------------------------------------

/// Both ends close without waiting for each other. Then the line serves the next session.
#[test]
fn a_serial_line_carries_data_both_ways_and_then_another_session() {
    test("a_serial_line_carries_data_both_ways_and_then_another_session", || {
        let line = Line::new();
        for _ in 0..2 {
            let [(a, a_writes, a_over), (b, b_writes, b_over)] =
                line.ends.each_ref().map(|end| halves(end));
            // The close timeout is longer than the watchdog's. So the test fails if only the close
            // timeout frees the line.
            let config = config().close_timeout(Duration::from_secs(600));
            let client =
                Session::client(Pair::new(a, a_writes).without_end(), config.clone()).unwrap();
            let server = Session::server(Pair::new(b, b_writes).without_end(), config).unwrap();
            both_ways(&client, &server, 256 * 1024);
            client.close().unwrap();
            assert!(!server.is_closed(), "it can't know");
            server.close().unwrap();
            for (over, session) in [(a_over, &client), (b_over, &server)] {
                // Only the reader thread is left.
                until(|| reader_and_writer(session) == (true, false));
                over.store(true, SeqCst);
                threads_end(session);
            }
        }
    });
}

#[test]
fn a_serial_line_in_turns_carries_data_both_ways() {
    test("a_serial_line_in_turns_carries_data_both_ways", || {
        let line = Line::new();
        let [a, b] = line.ends.each_ref().map(|end| in_turns(end));
        let client = Session::client(a, config()).unwrap();
        let server = Session::server(b, config()).unwrap();
        both_ways(&client, &server, 64 * 1024);
        client.close().unwrap();
        assert!(!server.is_closed(), "it can't know");
        server.close().unwrap();
        threads_end(&client); // after the close timeout
        threads_end(&server);
    });
}

#[test]
fn the_peer_of_a_closed_session_hears_of_it_by_keepalive_alone() {
    test("the_peer_of_a_closed_session_hears_of_it_by_keepalive_alone", || {
        let line = Line::new();
        let [(a, a_writes, a_over), (b, b_writes, _)] = line.ends.each_ref().map(|end| halves(end));
        let server_config = config().keepalive_interval(SHORT / 4).keepalive_timeout(SHORT);
        let client = Session::client(
            Pair::new(a, a_writes).without_end(),
            config().keepalive_interval(SHORT / 4), // It must not be silent before the close.
        );
        let client = client.unwrap();
        let server = Session::server(Pair::new(b, b_writes).without_end(), server_config).unwrap();
        let mut stream = client.open("said").unwrap();
        stream.write_all(b"all").unwrap();
        stream.close().unwrap();
        let mut theirs = server.accept().unwrap();
        client.close().unwrap();
        let mut text = String::new();
        // Data sent before the close arrives, and then the stream's end.
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "all");
        assert!(matches!(server.accept(), Err(Error::KeepaliveTimeout(_))));
        a_over.store(true, SeqCst);
        threads_end(&client);
        threads_end(&server); // Its reads have a time limit, so it needs no abort.
    });
}

/// TLS has an end of its own. The peer learns of a close at once, and so Ok from the close means
/// that the peer has read everything.
#[cfg(feature = "rustls")]
#[test]
fn tls_over_a_serial_line_brings_the_end_that_it_lacks() {
    use gmux::transport::Tls;

    test("tls_over_a_serial_line_brings_the_end_that_it_lacks", || {
        let line = Line::new();
        let [(a, a_writes, _), (b, b_writes, _)] = line.ends.each_ref().map(|end| halves(end));
        let (client, server) = certs::connections();
        let config = config().close_timeout(Duration::from_secs(600));
        let [client, server] = thread::scope(|scope| {
            let server = scope.spawn(|| {
                let pair = Pair::new(b, b_writes).without_end();
                let tls = Tls::handshake(server, pair, Duration::from_secs(50)).unwrap();
                Session::server(tls, config.clone()).unwrap()
            });
            let pair = Pair::new(a, a_writes).without_end();
            let tls = Tls::handshake(client, pair, Duration::from_secs(50)).unwrap();
            [Session::client(tls, config.clone()).unwrap(), server.join().unwrap()]
        });
        both_ways(&client, &server, 64 * 1024);
        client.close().unwrap();
        assert!(matches!(server.accept(), Err(Error::PeerClosed)));
        server.close().unwrap();
        threads_end(&client);
        threads_end(&server);
    });
}

/// Nobody reads from the line, and it is full. A write half that doesn't block can still end.
#[test]
fn a_close_over_a_line_that_takes_nothing_says_what_is_lost_and_ends() {
    test("a_close_over_a_line_that_takes_nothing_says_what_is_lost_and_ends", || {
        let line = Line::new();
        let (reading, writing, _) = halves(&line.ends[0]);
        let client = Session::client(Pair::new(reading, writing).without_end(), config()).unwrap();
        let mut stream = client.open("lost").unwrap();
        // Accepted. It is more than two ttys and socat hold.
        stream.write_all(&vec![7; 200_000]).unwrap();
        let closed = client.close();
        assert!(matches!(closed, Err(Error::CloseIncomplete { unsent: 1.., .. })), "{closed:?}");
        threads_end(&client);
        drop(stream);
        // Empty the line. Bytes in it would keep the copiers from ending.
        while (&line.held[1]).read(&mut [0; 4096]).unwrap() > 0 {}
    });
}

// ---- without the recipe it doesn't --------------------------------------------------------------

/// By default a pair is assumed to have an end. So a close waits for the peer's end, which never
/// comes.
#[test]
fn a_pair_that_is_said_to_have_an_end_waits_for_it_in_vain() {
    test("a_pair_that_is_said_to_have_an_end_waits_for_it_in_vain", || {
        let line = Line::new();
        let [(a, a_writes, _), (b, b_writes, _)] = line.ends.each_ref().map(|end| halves(end));
        let client = Session::client(Pair::new(a, a_writes), config()).unwrap();
        let server = Session::server(Pair::new(b, b_writes), config()).unwrap();
        close_beside_a_peer_that_stays(&client);
        close_beside_a_peer_that_stays(&server);
        threads_end(&client);
        threads_end(&server);
    });
}

/// Reads without a time limit. The reader thread stays after the close, and consumes the next bytes
/// of the line.
#[test]
fn a_read_that_is_not_bounded_stays_and_eats_what_comes_next() {
    test("a_read_that_is_not_bounded_stays_and_eats_what_comes_next", || {
        let line = Line::new();
        let file = open(&line.ends[0]).unwrap();
        let mut settings = tcgetattr(&file).unwrap();
        settings.special_codes[SpecialCodeIndex::VMIN] = 1;
        tcsetattr(&file, OptionalActions::Now, &settings).unwrap();
        let pair = Pair::new(file.try_clone().unwrap(), file).without_end();
        let session = Session::client(pair, config()).unwrap();
        session.close().unwrap();
        until(|| reader_and_writer(&session) == (true, false));
        thread::sleep(2 * SHORT); // There is no event for the passing of the close timeout.
        assert_eq!(reader_and_writer(&session), (true, false));
        let mut far = OpenOptions::new().write(true).open(&line.ends[1]).unwrap();
        far.write_all(b"x").unwrap();
        threads_end(&session);
    });
}

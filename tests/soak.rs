//! The effect of months of use: many sessions, many streams, and many bytes on one stream.
//! Afterwards the process holds no more than before.
//!
//! `tests/full soak` (`GMUX_FULL`) runs 100,000 connections, which are 200,000 sessions, and
//! 10,000,000 streams. It also sends 2³² bytes and more on one stream, on each version. By default
//! the counts are less than a hundredth of that. `GMUX_SOAK_SEED` is the first seed.
//!
//! A stream's name is a seed, from which both ends know the stream's plan ([`Plan`]): how many
//! bytes go there and back, who drops the stream unread, and who has a deadline. The read bytes are
//! compared as far as they come, also on streams that end in an error. A clean end may only come
//! after the last byte.
//!
//! The process is measured between rounds, while nothing runs: threads, descriptors, live
//! allocations, resident memory. The first round warms up. It fills the pool, the tables of the
//! runtime and those of the allocator.
//!
//! Promises: P1, P81.
#![cfg(unix)]

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gmux::{Config, Error, Session, Stream};
use support::links::{Any, over_narrow_pipes};
use support::process_snapshot::{Counting, Margin, ProcessSnapshot, namesakes};
use support::{Pattern, test_for, until};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Lets one test run at a time, since the tests measure the process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone(name: &str, body: impl FnOnce()) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    test_for(name, if full() { WATCHDOG } else { SHORT_WATCHDOG }, body);
}

fn full() -> bool {
    std::env::var_os("GMUX_FULL").is_some()
}

/// The watchdog's limit is for a machine that does other things as well. A stream that hangs is
/// found by its own limit, [`STUCK`].
const WATCHDOG: Duration = Duration::from_secs(6 * 3600);
const SHORT_WATCHDOG: Duration = Duration::from_secs(120);

/// Time limit of each call. The workers' threads get at least this much of the machine.
const STUCK: Duration = Duration::from_secs(300);

/// Time limit of a write to a stream that the other end has dropped. Such a write may run out of
/// window now and then, and the thread's other streams wait for it. Writes to all other streams
/// have [`STUCK`], however late the reader's thread is.
const TO_DROPPED: Duration = Duration::from_millis(200);

/// Allowed growth of the process.
///
/// - Blocks: a session leaves eight or more behind, so one session in the whole run is seen.
/// - Buffers: the pool keeps as many as the busiest moment needed. No two rounds have the same.
///   They are a few hundred at once.
/// - Resident memory: the part of these buffers that the allocator keeps, in an arena for each
///   thread.
const MARGIN: Margin = Margin { resident: 12 << 20, blocks: 7, pooled: 3 << 20 };

// ---- plans --------------------------------------------------------------------------------------

/// A random generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        support::splitmix64(&mut self.0)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn per_cent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    /// Returns a size that is mostly small, and now and then large.
    fn size(&mut self) -> usize {
        let most = match self.below(1000) {
            0 => 200_000,
            1..50 => 8192,
            50..200 => 1024,
            200..950 => 64,
            _ => 1,
        };
        self.below(most) as usize
    }
}

/// The plan of one stream.
struct Plan {
    /// Positions in the pattern where its data begins, there and back.
    places: [usize; 2],
    /// Bytes there and back.
    sizes: [usize; 2],
    /// The opener drops the stream instead of reading the answer.
    opener_drops: bool,
    /// The acceptor drops the stream instead of reading it, and sends nothing.
    acceptor_drops: bool,
    /// Time limits of the opener's and the acceptor's first read.
    patience: [Option<Duration>; 2],
}

/// Length of the longest data, and the number of positions.
const LONGEST: usize = 200_000;
const PLACES: u64 = 300_000;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| Pattern::bytes(21, LONGEST + PLACES as usize));

impl Plan {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let patience = |random: &mut Random| {
            let micros = random.below(300);
            random.per_cent(10).then_some(Duration::from_micros(micros))
        };
        Self {
            places: [random.below(PLACES) as usize, random.below(PLACES) as usize],
            sizes: [random.size(), random.size()],
            opener_drops: random.per_cent(3),
            acceptor_drops: random.per_cent(3),
            patience: [patience(&mut random), patience(&mut random)],
        }
    }

    fn data(&self, way: usize) -> &'static [u8] {
        &PATTERN[self.places[way]..][..self.sizes[way]]
    }
}

/// Returns a stream's name: the seed, and now and then more bytes, so that the memory of names
/// matters.
fn name(seed: u64) -> Vec<u8> {
    let mut name = seed.to_le_bytes().to_vec();
    if seed.is_multiple_of(97) {
        name.resize(8 + (seed % 3000) as usize, b'.');
    }
    name
}

// ---- counting -----------------------------------------------------------------------------------

#[derive(Default)]
struct Tally {
    connections: AtomicU64,
    aborted: AtomicU64,
    streams: AtomicU64,
    bytes: AtomicU64,
    timeouts: AtomicU64,
    dropped: AtomicU64,
    /// Number of writers without window on streams that the other end had dropped.
    stalled: AtomicU64,
}

static TALLY: LazyLock<Tally> = LazyLock::new(Tally::default);

impl Tally {
    fn reset(&self) {
        let all = [&self.connections, &self.aborted, &self.streams, &self.bytes, &self.timeouts];
        all.iter().chain(&[&self.dropped, &self.stalled]).for_each(|count| count.store(0, Relaxed));
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} sessions ({} connections broken off), {} streams ({} dropped unread, {} writers \
             without window), {} MiB, {} deadlines passed",
            self.connections.load(Relaxed) * 2,
            self.aborted.load(Relaxed),
            self.streams.load(Relaxed),
            self.dropped.load(Relaxed),
            self.stalled.load(Relaxed),
            self.bytes.load(Relaxed) >> 20,
            self.timeouts.load(Relaxed),
        )
    }
}

// ---- streams ------------------------------------------------------------------------------------

/// Reads to the end and compares. A clean end may only come after the last byte.
fn check(
    mut stream: &Stream,
    expected: &[u8],
    patience: Option<Duration>,
    buf: &mut [u8],
) -> io::Result<()> {
    stream.set_read_deadline(patience.map(|patience| Instant::now() + patience));
    let mut done = 0;
    loop {
        match stream.read(buf) {
            Ok(0) => {
                assert_eq!(done, expected.len(), "a clean end of {stream:?}");
                TALLY.bytes.fetch_add(done as u64, Relaxed);
                return Ok(());
            }
            Ok(n) => {
                assert!(
                    expected.get(done..done + n) == Some(&buf[..n]),
                    "wrong data at {done} of {stream:?}"
                );
                done += n;
            }
            Err(error) if error.kind() == ErrorKind::TimedOut && patience.is_some() => {
                TALLY.timeouts.fetch_add(1, Relaxed);
                stream.set_read_deadline(None);
                stream.set_read_timeout(Some(STUCK)).unwrap();
            }
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::TimedOut, "stuck: {stream:?}");
                return Err(error);
            }
        }
    }
}

/// Writes all data and returns true. If the other end drops the stream, writes as much as the
/// window allows and returns false.
fn send(mut stream: &Stream, data: &[u8], is_dropped: bool) -> io::Result<bool> {
    stream.set_write_timeout(Some(if is_dropped { TO_DROPPED } else { STUCK })).unwrap();
    match stream.write_all(data) {
        Err(error) if is_dropped && error.kind() == ErrorKind::TimedOut => {
            TALLY.stalled.fetch_add(1, Relaxed);
            Ok(false)
        }
        result => result.map(|()| true),
    }
}

/// The opener's end of some streams at once. Returns the first failure.
fn open_some(session: &Session, seeds: &[u64], buf: &mut [u8]) -> io::Result<()> {
    let mut open = Vec::new();
    for &seed in seeds {
        let plan = Plan::new(seed);
        let stream = session.open(name(seed)).map_err(io::Error::from)?;
        TALLY.streams.fetch_add(1, Relaxed);
        if !send(&stream, plan.data(0), plan.acceptor_drops)? {
            continue;
        }
        if plan.opener_drops {
            TALLY.dropped.fetch_add(1, Relaxed);
        } else {
            stream.shutdown(Shutdown::Write)?;
            open.push((stream, plan));
        }
    }
    for (stream, plan) in open {
        let expected = if plan.acceptor_drops { &[] } else { plan.data(1) };
        check(&stream, expected, plan.patience[0], buf)?;
    }
    Ok(())
}

/// The acceptor's end of one stream.
fn serve(stream: Stream, buf: &mut [u8]) -> io::Result<()> {
    let seed = u64::from_le_bytes(stream.name_bytes()[..8].try_into().unwrap());
    assert_eq!(stream.name_bytes(), name(seed));
    let plan = Plan::new(seed);
    if plan.acceptor_drops {
        TALLY.dropped.fetch_add(1, Relaxed);
        return Ok(());
    }
    check(&stream, plan.data(0), plan.patience[1], buf)?;
    match send(&stream, plan.data(1), plan.opener_drops) {
        // The opener doesn't wait for this answer. So the session may be closed.
        Err(_) if plan.opener_drops => Ok(()),
        result => result.map(drop),
    }
}

/// The acceptor's end of a session, until the opener ends it.
fn accept_all(session: &Session, random: &mut Random, buf: &mut [u8]) -> io::Result<()> {
    loop {
        let patience =
            if random.per_cent(5) { Duration::from_micros(random.below(200)) } else { STUCK };
        match session.accept_timeout(patience) {
            Ok(stream) => serve(stream, buf)?,
            Err(Error::Timeout) if patience < STUCK => {
                let _ = TALLY.timeouts.fetch_add(1, Relaxed);
            }
            Err(Error::PeerClosed) => return Ok(()),
            Err(error) => {
                assert!(!matches!(error, Error::Timeout), "stuck: {session:?}");
                return Err(error.into());
            }
        }
    }
}

// ---- sessions -----------------------------------------------------------------------------------

/// The way in which the opener ends a connection.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    /// It closes when all streams have ended.
    Clean,
    /// It closes while streams are open.
    CloseMidway,
    /// It drops all handles while streams are open. These streams get their FIN.
    DropMidway,
    /// The connection breaks.
    Broken,
}

/// Makes a connection, and a way to break it where there is one.
fn connect(random: &mut Random, listener: &TcpListener) -> (Any, Any, Box<dyn FnOnce() + Send>) {
    match random.below(10) {
        0..4 => {
            let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let b = listener.accept().unwrap().0;
            let same = a.try_clone().unwrap();
            (
                Any::new(a),
                Any::new(b),
                Box::new(move || same.shutdown(Shutdown::Both).unwrap_or(())),
            )
        }
        4..8 => {
            let (a, b) = UnixStream::pair().unwrap();
            let same = a.try_clone().unwrap();
            (
                Any::new(a),
                Any::new(b),
                Box::new(move || same.shutdown(Shutdown::Both).unwrap_or(())),
            )
        }
        _ => {
            let (a, b) = over_narrow_pipes();
            (a, b, Box::new(|| {}))
        }
    }
}

fn config(version: u8) -> Config {
    // The limit is low. If each session kept one stream in its table, the limit would be reached.
    Config::new()
        .version(version)
        .max_streams(300)
        .half_close_stall(Some(STUCK))
        .keepalive_timeout(STUCK)
}

/// Upper limit of the streams that are open at once. Their data fits into buffers and windows, so
/// one thread at each end is enough.
const AT_ONCE: u64 = 12;

/// Runs both ends of one connection, from the first stream to the end.
fn connection(seed: u64, streams: u64, listener: &TcpListener) {
    let random = &mut Random(seed);
    let (a, b, sever) = connect(random, listener);
    let config = config(1 + (random.below(2) as u8));
    let client = Session::client(a, config.clone()).unwrap();
    let server = Session::server(b, config).unwrap();
    let (opener, acceptor) = if random.per_cent(70) { (client, server) } else { (server, client) };
    let end = match random.below(100) {
        0..3 => End::CloseMidway,
        3..6 => End::DropMidway,
        6..9 => End::Broken,
        _ => End::Clean,
    };
    let streams = streams / 2 + random.below(streams + 1);
    let mut theirs = Random(random.next());
    thread::scope(|scope| {
        scope.spawn(move || {
            let result = accept_all(&acceptor, &mut theirs, &mut [0; 16384]);
            assert!(result.is_ok() || end != End::Clean, "{end:?} {result:?} {acceptor:?}");
            let _ = acceptor.close(); // Where the connection broke, this returns how.
            finish(&acceptor, end);
        });
        let mut left = streams;
        let broken_at = if end == End::Clean { 0 } else { random.below(streams) };
        let buf = &mut [0; 16384];
        while left > broken_at {
            let some: Vec<u64> =
                (0..left.min(1 + random.below(AT_ONCE))).map(|_| random.next()).collect();
            left -= some.len() as u64;
            open_some(&opener, &some, buf).unwrap_or_else(|error| panic!("{error} {opener:?}"));
        }
        if end == End::Clean {
            opener.close().unwrap();
        } else {
            TALLY.aborted.fetch_add(1, Relaxed);
            let unfinished =
                (0..AT_ONCE).map(|_| opener.open(name(random.next())).and_then(write_unfinished));
            let unfinished = unfinished.collect::<Result<Vec<Stream>, Error>>().unwrap();
            match end {
                End::CloseMidway => {
                    let _ = opener.close();
                }
                End::DropMidway => {
                    drop(unfinished);
                    drop(opener);
                    return;
                }
                _ => sever(),
            }
            drop(unfinished);
        }
        let _ = opener.close(); // This is the second close, or comes after the break.
        finish(&opener, end);
    });
    TALLY.connections.fetch_add(1, Relaxed);
}

/// Sends the data of the stream's plan, and doesn't end the stream.
fn write_unfinished(stream: Stream) -> Result<Stream, Error> {
    let plan = Plan::new(u64::from_le_bytes(stream.name_bytes()[..8].try_into().unwrap()));
    send(&stream, plan.data(0), plan.acceptor_drops)?;
    Ok(stream)
}

/// Asserts that an ended session holds nothing, except data of streams that nobody accepted in its
/// backlog.
fn finish(session: &Session, end: End) {
    assert_eq!(session.num_streams(), 0, "{end:?} {session:?}");
    if end == End::Clean {
        let stats = session.stats();
        assert_eq!((stats.streams_refused, stats.streams_cut), (0, 0), "{session:?}");
        // Data that is still being delivered is discarded.
        until(|| session.stats().receive_buffered == 0);
    }
}

// ---- rounds -------------------------------------------------------------------------------------

/// Number of connections that run at once.
const WORKERS: u64 = 6;

/// Runs connections with seeds `from..to`, and waits for the last thread's end.
fn round(from: u64, to: u64, streams: u64) -> ProcessSnapshot {
    let all = namesakes();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                for seed in (from + worker..to).step_by(WORKERS as usize) {
                    connection(seed, streams, &listener);
                }
            });
        }
    });
    ProcessSnapshot::settled(all)
}

fn first_seed() -> u64 {
    std::env::var("GMUX_SOAK_SEED").map_or(0, |seed| seed.parse().unwrap())
}

#[test]
fn many_sessions_and_streams_leave_nothing_behind() {
    alone("many_sessions_and_streams_leave_nothing_behind", || {
        let (connections, rounds, streams) = if full() { (100_000, 20, 72) } else { (400, 4, 40) };
        LazyLock::force(&PATTERN);
        TALLY.reset();
        let began = Instant::now();
        let first = ProcessSnapshot::now();
        println!("before anything: {first}");
        let mut base: Option<ProcessSnapshot> = None;
        for k in 0..rounds {
            let at = |k: u64| first_seed() + connections * k / rounds;
            let snapshot = round(at(k), at(k + 1), streams);
            println!("{:6.1} s: {}; {snapshot}", began.elapsed().as_secs_f64(), *TALLY);
            if k == 0 {
                assert_eq!(
                    (snapshot.threads, snapshot.descriptors),
                    (first.threads, first.descriptors)
                );
            }
            snapshot.assert_back_to(base.get_or_insert(snapshot), MARGIN);
        }
    });
}

#[test]
fn a_session_forgets_its_streams() {
    alone("a_session_forgets_its_streams", || {
        let (streams, rounds) = if full() { (1_600_000, 8) } else { (8000, 4) };
        LazyLock::force(&PATTERN);
        for version in [1, 2] {
            let began = Instant::now();
            let all = namesakes();
            let (a, b) = UnixStream::pair().unwrap();
            let config = config(version);
            let sessions =
                (Session::client(a, config.clone()).unwrap(), Session::server(b, config).unwrap());
            let mut base: Option<ProcessSnapshot> = None;
            for k in 0..rounds {
                // Both ends open streams at once, so that ids and round-robin turns interleave.
                thread::scope(|scope| {
                    for (end, (ours, theirs)) in
                        [(&sessions.0, &sessions.1), (&sessions.1, &sessions.0)]
                            .into_iter()
                            .enumerate()
                    {
                        let count = streams / rounds / 2;
                        scope.spawn(move || {
                            let random = &mut Random(first_seed() + k * 2 + end as u64);
                            let mut left = count;
                            let buf = &mut [0; 16384];
                            while left > 0 {
                                let some: Vec<u64> = (0..left.min(1 + random.below(AT_ONCE)))
                                    .map(|_| random.next())
                                    .collect();
                                left -= some.len() as u64;
                                open_some(ours, &some, buf).unwrap();
                            }
                        });
                        scope.spawn(move || {
                            let buf = &mut [0; 16384];
                            for _ in 0..count {
                                serve(theirs.accept_timeout(STUCK).unwrap(), buf).unwrap();
                            }
                        });
                    }
                });
                let ours = &sessions.0;
                let theirs = &sessions.1;
                until(|| ours.stats().receive_buffered + theirs.stats().receive_buffered == 0);
                assert_eq!((ours.num_streams(), theirs.num_streams()), (0, 0));
                let stats = ours.stats();
                assert_eq!((stats.streams_refused, stats.streams_cut), (0, 0));
                let snapshot = ProcessSnapshot::now();
                println!(
                    "{:6.1} s: version {version}, one session: {} streams ({} writers without \
                     window); {snapshot}",
                    began.elapsed().as_secs_f64(),
                    stats.streams_opened + stats.streams_received,
                    TALLY.stalled.load(Relaxed)
                );
                // The session lives, so its threads hold varying amounts.
                snapshot
                    .assert_back_to(base.get_or_insert(snapshot), Margin { blocks: 100, ..MARGIN });
            }
            drop(sessions);
            ProcessSnapshot::settled(all);
        }
    });
}

// ---- one stream ---------------------------------------------------------------------------------

/// The data of the stream repeats after this many bytes. The number is no multiple and no divisor
/// of those at which counters wrap.
const PERIOD: usize = 499_979;

#[test]
fn one_stream_carries_more_than_its_counters_hold() {
    alone("one_stream_carries_more_than_its_counters_hold", || {
        let total: u64 = if full() { (1 << 32) + (300 << 20) + 1 } else { (48 << 20) + 1 };
        let data = &PATTERN[..PERIOD];
        for version in [1, 2] {
            let all = namesakes();
            let began = Instant::now();
            let before = ProcessSnapshot::settled(all);
            let (client, server) = support::pair(Config::new().version(version));
            let mut out = client.open("long").unwrap();
            let mut inn = server.accept().unwrap();
            thread::scope(|scope| {
                scope.spawn(move || {
                    let mut sent = 0;
                    out.set_write_timeout(Some(STUCK)).unwrap();
                    while sent < total {
                        let rest = &data[(sent % PERIOD as u64) as usize..];
                        let most = rest.len().min((total - sent) as usize).min(128 * 1024);
                        sent += out.write(&rest[..most]).unwrap() as u64;
                    }
                });
                scope.spawn(move || {
                    inn.set_read_timeout(Some(STUCK)).unwrap();
                    let mut buf = vec![0; 256 * 1024];
                    let mut read = 0;
                    loop {
                        let n = inn.read(&mut buf).unwrap();
                        if n == 0 {
                            break;
                        }
                        let mut rest = &buf[..n];
                        while !rest.is_empty() {
                            let expected = &data[(read % PERIOD as u64) as usize..];
                            let len = rest.len().min(expected.len());
                            assert!(
                                rest[..len] == expected[..len],
                                "wrong data after {read} bytes"
                            );
                            rest = &rest[len..];
                            read += len as u64;
                        }
                    }
                    assert_eq!(read, total);
                });
            });
            assert_eq!((client.stats().bytes_sent, server.stats().bytes_received), (total, total));
            assert_eq!(server.stats().receive_buffered, 0);
            client.close().unwrap();
            server.close().unwrap();
            drop(client);
            drop(server);
            let snapshot = ProcessSnapshot::settled(all);
            println!(
                "version {version}: {total} bytes on one stream in {:.1} s; {snapshot}",
                began.elapsed().as_secs_f64()
            );
            // The first version fills the pool with the buffers of a receive budget and of a send
            // queue.
            snapshot.assert_back_to(
                &before,
                Margin { resident: 24 << 20, blocks: 20, pooled: 8 << 20 },
            );
        }
    });
}

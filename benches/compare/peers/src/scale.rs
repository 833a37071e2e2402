//! The workloads that only our program has. They measure how streams share a link over time, and
//! the cost of thousands of streams and sessions.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use gmux::{Config, Session, Stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::blocking::{Link, pair};
use crate::common::{Options, PING, print, quantiles, resident};
use crate::links::Ours;
use crate::relay;

/// Sampling interval of the curve.
const SAMPLE: Duration = Duration::from_millis(20);

/// Number of threads that write on many active streams. Each of them writes to its streams in turn.
const WORKERS: usize = 16;

/// Stack size of a thread that only reads, in bytes.
const STACK: usize = 64 * 1024;

/// Bytes that a thread writes on a stream in one turn. It is also the limit of one read.
const TURN: usize = 16 * 1024;

/// Measures the bandwidth of each stream over time, on a link of `rate` bytes per second. Returns a
/// list for each stream.
pub fn curve(options: &Options) -> io::Result<()> {
    let streams = options.number("streams", 8) as usize;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let behind = TcpListener::bind("127.0.0.1:0")?;
    let server = TcpStream::connect(behind.local_addr()?)?;
    let client = TcpStream::connect(addr)?;
    let delay = Duration::from_micros(options.number("rtt_us", 0) / 2);
    relay::connect(
        listener.accept()?.0,
        behind.accept()?.0,
        delay,
        options.number("rate", 125_000_000),
    )?;
    let config = Config::new().version(options.version());
    let client = Session::client(client, config.clone())?;
    let server = Session::server(server, config)?;
    let counts: Arc<Vec<AtomicU64>> = Arc::new((0..streams).map(|_| AtomicU64::new(0)).collect());
    for index in 0..streams {
        let mut to = client.open("")?;
        let counts = Arc::clone(&counts);
        thread::spawn(move || while to.write_all(&[0; TURN]).is_ok() {});
        let mut from = server.accept()?;
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                counts[index].fetch_add(n as u64, Relaxed);
            }
        });
    }
    thread::sleep(options.seconds("warm", 0.3));
    let read = || counts.iter().map(|count| count.load(Relaxed)).collect::<Vec<_>>();
    let start = Instant::now();
    let span = options.seconds("secs", 2.0);
    let mut last = read();
    let mut then = start;
    let mut samples = Vec::new();
    while start.elapsed() < span {
        thread::sleep((then + SAMPLE).saturating_duration_since(Instant::now()));
        let next = read();
        let now = Instant::now();
        let seconds = (now - then).as_secs_f64();
        let rates: Vec<_> = next.iter().zip(&last).map(|(b, a)| (b - a) as f64 / seconds).collect();
        samples.push(json!({ "t": (now - start).as_secs_f64(), "rates": rates }));
        last = next;
        then = now;
    }
    print(&json!({ "samples": samples }));
    Ok(())
}

fn ping(to: &mut Stream, from: &mut Stream, nanos: &mut Vec<u64>) -> io::Result<()> {
    let mut buffer = [1; PING];
    let begin = Instant::now();
    to.write_all(&buffer)?;
    from.read_exact(&mut buffer)?;
    from.write_all(&buffer)?;
    to.read_exact(&mut buffer)?;
    nanos.push(begin.elapsed().as_nanos() as u64);
    Ok(())
}

/// Measures `n` streams in one session. Both ends are in this process. Memory is per stream and
/// end. This thread sends and answers each ping.
pub fn streams(options: &Options) -> io::Result<()> {
    let n = options.number("n", 10_000) as usize;
    let (client, server) = pair::<Ours>(options)?;
    let before = resident()?;
    let begin = Instant::now();
    let mut opened = (0..n).map(|_| client.open()).collect::<io::Result<Vec<_>>>()?;
    let mut accepted = (0..n).map(|_| server.accept()).collect::<io::Result<Vec<_>>>()?;
    let seconds = begin.elapsed().as_secs_f64();
    let idle = resident()?.saturating_sub(before);
    // The order in which streams are accepted may differ from the order in which they were opened.
    opened.sort_by_key(Stream::id);
    accepted.sort_by_key(Stream::id);
    let mut nanos = Vec::with_capacity(n);
    let mut ends: Vec<_> = opened.into_iter().zip(accepted).collect();
    for (to, from) in &mut ends {
        ping(to, from, &mut nanos)?;
    }
    let pinged = resident()?.saturating_sub(before);
    print(&json!({
        "open_us": seconds * 1e6 / n as f64,
        "bytes": idle as f64 / n as f64 / 2.0,
        "bytes_after_ping": pinged as f64 / n as f64 / 2.0,
        "ping": quantiles(nanos),
    }));
    Ok(())
}

/// Measures `n` connections. Both ends are in this process. Memory is per session.
pub fn sessions(options: &Options) -> io::Result<()> {
    let n = options.number("n", 1000) as usize;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let config = Config::new().version(options.version());
    let before = resident()?;
    let begin = Instant::now();
    let mut ends = Vec::with_capacity(n);
    for _ in 0..n {
        let client = Session::client(TcpStream::connect(addr)?, config.clone())?;
        ends.push((client, Session::server(listener.accept()?.0, config.clone())?));
    }
    let seconds = begin.elapsed().as_secs_f64();
    thread::sleep(Duration::from_millis(200)); // until all threads are blocked
    let idle = resident()?.saturating_sub(before);
    let mut nanos = Vec::with_capacity(n);
    let mut held = Vec::with_capacity(n);
    for (client, server) in &ends {
        let mut to = client.open("")?;
        let mut from = server.accept()?;
        ping(&mut to, &mut from, &mut nanos)?;
        held.push((to, from));
    }
    let pinged = resident()?.saturating_sub(before);
    print(&json!({
        "open_us": seconds * 1e6 / n as f64,
        "bytes": idle as f64 / n as f64 / 2.0,
        "bytes_after_ping": pinged as f64 / n as f64 / 2.0,
        "ping": quantiles(nanos),
    }));
    Ok(())
}

/// Measures the throughput of `streams` that are all active. Each stream has a thread that reads
/// it. At most [`WORKERS`] threads write, and each writes to its streams in turn. A reading thread
/// can't serve several streams. While it waits for data on one stream, the data of others could
/// fill the session's budget, and it would wait forever.
pub fn active(options: &Options) -> io::Result<()> {
    let n = options.number("streams", 100) as usize;
    let (client, server) = pair::<Ours>(options)?;
    let workers = n.min(WORKERS);
    let mut writers: Vec<Vec<Stream>> = (0..workers).map(|_| Vec::new()).collect();
    let count = Arc::new(AtomicU64::new(0));
    for index in 0..n {
        writers[index % workers].push(client.open()?);
        let mut from = server.accept()?;
        let count = Arc::clone(&count);
        thread::Builder::new().stack_size(STACK).spawn(move || {
            let mut buffer = vec![0; TURN];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                count.fetch_add(n as u64, Relaxed);
            }
        })?;
    }
    for mut to in writers {
        thread::spawn(
            move || while to.iter_mut().all(|stream| stream.write_all(&[0; TURN]).is_ok()) {},
        );
    }
    thread::sleep(options.seconds("warm", 0.3));
    let begin = Instant::now();
    let first = count.load(Relaxed);
    thread::sleep(options.seconds("secs", 1.0));
    let bytes = count.load(Relaxed) - first;
    print(&json!({
        "bytes_per_s": bytes as f64 / begin.elapsed().as_secs_f64(),
        "resident": resident()?,
    }));
    Ok(())
}

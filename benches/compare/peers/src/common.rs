//! The code that the workloads share: options, the clock of a bulk run, latencies, and the printing
//! of results.
//!
//! Invariant: no code here knows a peer.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

/// Size of a batch of streams. The opener of `openclose` may be [`AHEAD`] batches ahead of the
/// acceptor. These are fewer streams than the smallest default backlog that refuses further ones.
pub const BATCH: u64 = 128;
pub const AHEAD: usize = 3;

/// Limit of the connections that raw TCP opens in `openclose`. A limit is needed because a closed
/// connection keeps its port for a while.
pub const RAW_CONNECTIONS: u64 = 6000;

pub const PING: usize = 64;

#[derive(Default)]
pub struct Options(HashMap<String, String>);

impl Options {
    pub fn parse(args: impl Iterator<Item = String>) -> io::Result<Self> {
        args.map(|arg| match arg.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(io::Error::other(format!("not key=value: {arg}"))),
        })
        .collect::<io::Result<_>>()
        .map(Self)
    }

    pub fn number(&self, key: &str, default: u64) -> u64 {
        self.0.get(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    pub fn seconds(&self, key: &str, default: f64) -> Duration {
        Duration::from_secs_f64(
            self.0.get(key).and_then(|value| value.parse().ok()).unwrap_or(default),
        )
    }

    pub fn text(&self, key: &str) -> io::Result<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| io::Error::other(format!("{key}= is missing")))
    }

    pub fn version(&self) -> u8 {
        self.number("v", 1) as u8
    }
}

pub fn print(result: &Value) {
    println!("{result}");
}

/// The resources that the process has used so far.
#[derive(Clone, Copy)]
pub struct Usage {
    cpu: f64,
    /// Number of times that a thread gave up its core to wait.
    waits: f64,
}

impl Usage {
    pub fn now() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own usage");
        let seconds =
            |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        Self {
            cpu: seconds(usage.user_time()) + seconds(usage.system_time()),
            waits: usage.voluntary_context_switches() as f64,
        }
    }
}

/// One bulk run. Writers go on until the time is over, or until they have written the given amount.
/// Readers go on until they have all written bytes.
///
/// A writer announces its total before its last write. The reader checks the announced total after
/// each read, so it can't miss the end.
pub struct Bulk {
    start: Instant,
    usage: Usage,
    span: Duration,
    /// Bytes that each stream sends, instead of the time `span`. 0 means that the time applies.
    amount: u64,
    pub write: usize,
    /// Number of writes between two reads of the clock. After each small write a read of the clock
    /// would cost too much, because it takes as long as that write.
    stride: u64,
    totals: Vec<AtomicU64>,
}

impl Bulk {
    pub fn new(options: &Options) -> Self {
        let streams = options.number("streams", 1);
        let write = options.number("write", 128 * 1024) as usize;
        Self {
            start: Instant::now(),
            usage: Usage::now(),
            span: options.seconds("secs", 0.6),
            amount: options.number("mib", 0) * 1024 * 1024 / streams,
            write,
            stride: if write < 16 * 1024 { 256 } else { 1 },
            totals: (0..streams).map(|_| AtomicU64::new(u64::MAX)).collect(),
        }
    }

    pub fn streams(&self) -> usize {
        self.totals.len()
    }

    /// Returns the data that writer `index` writes again and again. Its first byte tells the reader
    /// which writer's total counts.
    pub fn payload(&self, index: usize) -> Vec<u8> {
        vec![index as u8; self.write]
    }

    /// Returns whether the write after `done` writes is the last.
    pub fn is_last(&self, index: usize, done: u64) -> bool {
        let bytes = (done + 1) * self.write as u64;
        let last = match self.amount {
            0 => done.is_multiple_of(self.stride) && self.start.elapsed() >= self.span,
            amount => bytes >= amount,
        };
        if last {
            self.totals[index].store(bytes, SeqCst);
        }
        last
    }

    pub fn is_complete(&self, index: usize, bytes: u64) -> bool {
        bytes >= self.totals[index].load(SeqCst)
    }

    pub fn report(&self, frames: u64) {
        let seconds = self.start.elapsed().as_secs_f64();
        let usage = Usage::now();
        let bytes = self.totals.iter().map(|total| total.load(SeqCst)).sum::<u64>() as f64;
        print(&json!({
            "bytes_per_s": bytes / seconds,
            "writes_per_s": bytes / self.write as f64 / seconds,
            "cpu_s_per_gb": (usage.cpu - self.usage.cpu) / (bytes / 1e9),
            "waits_per_mb": (usage.waits - self.usage.waits) / (bytes / 1e6),
            "bytes": bytes,
            "frames": frames,
            "seconds": seconds,
        }));
    }
}

/// The times of round trips. Those of the first tenth of the run don't count.
pub struct Latencies {
    start: Instant,
    span: Duration,
    nanos: Vec<u64>,
}

impl Latencies {
    pub fn new(options: &Options) -> Self {
        Self {
            start: Instant::now(),
            span: options.seconds("secs", 0.6),
            nanos: Vec::with_capacity(1 << 16),
        }
    }

    /// Notes a round trip that began at `begin`. Returns false when the time is over.
    pub fn add(&mut self, begin: Instant) -> bool {
        let now = Instant::now();
        if now - self.start > self.span / 10 {
            self.nanos.push((now - begin).as_nanos() as u64);
        }
        now - self.start < self.span
    }

    pub fn report(self) {
        print(&quantiles(self.nanos));
    }
}

/// Returns the mean and the quantiles, in microseconds.
pub fn quantiles(mut nanos: Vec<u64>) -> Value {
    nanos.sort_unstable();
    let at = |q: f64| nanos[((nanos.len() - 1) as f64 * q) as usize] as f64 / 1e3;
    if nanos.is_empty() {
        return json!({});
    }
    json!({
        "mean": nanos.iter().sum::<u64>() as f64 / nanos.len() as f64 / 1e3,
        "p1": at(0.01), "p10": at(0.1), "p25": at(0.25), "p50": at(0.5), "p75": at(0.75),
        "p90": at(0.9), "p95": at(0.95),
        "p99": at(0.99), "p999": at(0.999),
        "count": nanos.len(),
    })
}

/// Returns the resident memory, in bytes.
pub fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    Ok(kib.ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))? * 1024)
}

/// The measurement of `serve-idle` and `dial-idle`. It is the growth of memory per stream.
pub struct Idle {
    streams: f64,
    before: u64,
    opened: u64,
}

impl Idle {
    pub fn new(streams: usize) -> io::Result<Self> {
        Ok(Self { streams: streams as f64, before: resident()?, opened: 0 })
    }

    /// Notes that all streams are open.
    pub fn opened(&mut self) -> io::Result<()> {
        self.opened = resident()?;
        Ok(())
    }

    /// Notes that all streams were used.
    pub fn used(&self) -> io::Result<()> {
        let each = |now: u64| now.saturating_sub(self.before) as f64 / self.streams;
        print(&json!({ "opened": each(self.opened), "used": each(resident()?) }));
        Ok(())
    }
}

/// The byte count of `serve-sink`. The warm-up begins with the first read. The measurement begins
/// with the first read after the warm-up, whose bytes don't count yet.
pub struct Sink {
    warm: Duration,
    span: Duration,
    first: Option<Instant>,
    counted: u64,
    counting_since: Option<Instant>,
}

impl Sink {
    pub fn new(options: &Options) -> Self {
        let warm = options.seconds("warm", 1.0);
        let span = options.seconds("secs", 1.0);
        Self { warm, span, first: None, counted: 0, counting_since: None }
    }

    /// Counts the bytes of a read. Returns the result when the time is over.
    pub fn add(&mut self, bytes: usize) -> Option<Value> {
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        let Some(since) = self.counting_since else {
            if now - first >= self.warm {
                self.counting_since = Some(now);
            }
            return None;
        };
        self.counted += bytes as u64;
        (now - since >= self.span)
            .then(|| json!({ "bytes_per_s": self.counted as f64 / (now - since).as_secs_f64() }))
    }
}

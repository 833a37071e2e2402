//! The rows of the comparison. A row has a workload, the programs that run it, the metrics that are
//! read from their results, and the goals for these metrics.

use serde_json::Value;

use crate::number;
use crate::run::Runner;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Rust,
    Go,
}

/// The program at one end, with the arguments that its command line gets.
#[derive(Clone)]
pub struct Peer {
    pub language: Language,
    pub peer: &'static str,
    pub version: u8,
}

#[derive(Clone)]
pub struct Program {
    pub name: String,
    pub peer: Peer,
    /// The program at the receiving end, if it isn't the same.
    pub receiver: Option<Peer>,
}

impl Program {
    pub fn is_ours(&self) -> bool {
        self.peer.peer == "ours" && self.receiver.is_none()
    }

    pub fn is_raw(&self) -> bool {
        self.peer.peer == "raw"
    }

    /// Returns whether this is a program to compare with. Such a program isn't ours at either end,
    /// and isn't raw TCP.
    pub fn is_rival(&self) -> bool {
        self.peer.peer != "ours" && !self.is_raw() && self.receiver.is_none()
    }

    pub fn is_missing(&self, runner: &Runner) -> bool {
        self.peer.language == Language::Go && runner.go.is_err()
    }
}

fn rust(name: &str, peer: &'static str, version: u8) -> Program {
    Program {
        name: name.to_owned(),
        peer: Peer { language: Language::Rust, peer, version },
        receiver: None,
    }
}

pub fn go(name: &str, peer: &'static str, version: u8) -> Program {
    Program {
        name: name.to_owned(),
        peer: Peer { language: Language::Go, peer, version },
        receiver: None,
    }
}

pub fn ours(version: u8) -> Program {
    rust(if version == 1 { "ours" } else { "ours v2" }, "ours", version)
}

/// Returns all programs that speak version 1 or have no version.
fn everyone() -> Vec<Program> {
    vec![
        ours(1),
        go("Go smux", "smux", 1),
        go("hashicorp yamux", "hyamux", 1),
        rust("async_smux", "async_smux", 1),
        rust("yamux (Rust)", "yamux", 1),
        rust("smux_rust", "smux_rust", 1),
        rust("raw TCP", "raw", 1),
    ]
}

#[derive(Clone, Copy)]
pub enum Against {
    /// The best of the peers, in each round.
    Best,
    Raw,
    Named(&'static str),
    /// An amount, in the metric's unit.
    Amount,
}

#[derive(Clone, Copy)]
pub struct Goal {
    pub against: Against,
    pub factor: f64,
}

pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    path: &'static [&'static str],
    scale: f64,
    pub less_is_better: bool,
    pub goals: Vec<Goal>,
}

impl Metric {
    pub fn value(&self, result: &Value) -> Option<f64> {
        // If there are two processes, take the worse value.
        let at = |key| number(result.get(key)?, self.path);
        let worse = at("server").zip(at("client")).map(|(a, b)| a.max(b));
        worse.or_else(|| number(result, self.path)).map(|value| value * self.scale)
    }

    pub fn show(&self, result: &Value) -> String {
        self.value(result)
            .map_or("-".to_owned(), |value| format!("{} {}", digits(value), self.unit))
    }
}

/// Formats a value with three significant digits.
pub fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 1.0 => format!("{value:.3}"),
        small if small < 10.0 => format!("{value:.2}"),
        small if small < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One process has both ends.
    One,
    /// One process has both ends, bound to one core.
    OneCore,
    /// Two processes, `serve-X` and `dial-X`. The result is the dialler's.
    TwoPing,
    /// Two processes, `serve-X` and `dial-X`. Both have a result.
    TwoIdle,
    /// `dial-source` to `serve-sink` through a relay with this round trip, in µs.
    Relay(u32),
}

pub struct Row {
    pub id: &'static str,
    pub title: String,
    pub shape: Shape,
    pub workload: &'static str,
    pub arguments: Vec<String>,
    pub programs: Vec<Program>,
    pub metrics: Vec<Metric>,
    pub max_rounds: usize,
    /// Whether system calls are counted, in a separate run.
    pub counts_calls: bool,
    pub note: &'static str,
}

fn row(id: &'static str, title: &str, workload: &'static str, arguments: &str) -> Row {
    Row {
        id,
        title: title.to_owned(),
        shape: Shape::One,
        workload,
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        programs: everyone(),
        metrics: Vec::new(),
        max_rounds: usize::MAX,
        counts_calls: false,
        note: "",
    }
}

fn more(
    name: &'static str,
    unit: &'static str,
    path: &'static [&'static str],
    scale: f64,
) -> Metric {
    Metric { name, unit, path, scale, less_is_better: false, goals: Vec::new() }
}

fn less(
    name: &'static str,
    unit: &'static str,
    path: &'static [&'static str],
    scale: f64,
) -> Metric {
    Metric { less_is_better: true, ..more(name, unit, path, scale) }
}

impl Metric {
    fn goal(mut self, against: Against, factor: f64) -> Self {
        self.goals.push(Goal { against, factor });
        self
    }
}

fn cpu() -> Metric {
    less("CPU", "s/GB", &["cpu_s_per_gb"], 1.0)
}

fn waits() -> Metric {
    less("waits", "per MB", &["waits_per_mb"], 1.0)
}

fn throughput() -> Metric {
    more("throughput", "GB/s", &["bytes_per_s"], 1e-9)
}

fn writes() -> Metric {
    more("messages", "M/s", &["writes_per_s"], 1e-6)
}

fn p50() -> Metric {
    less("p50", "µs", &["p50"], 1.0)
}

fn p99() -> Metric {
    less("p99", "µs", &["p99"], 1.0)
}

/// Peers whose idle streams can be opened and counted.
const IDLE: [&str; 4] = ["ours", "smux", "hyamux", "async_smux"];

/// Returns the rows in the order in which they run. The goals were set before any code could be
/// measured.
pub fn all() -> Vec<Row> {
    use Against::{Amount, Best, Named, Raw};
    let mut rows = vec![
        Row {
            metrics: vec![
                throughput().goal(Best, 1.5).goal(Raw, 1.0),
                cpu().goal(Named("Go smux"), 0.8),
                waits(),
            ],
            counts_calls: true,
            ..row("bulk1", "1 stream, 128 KiB writes, version 1", "bulk", "secs=0.8")
        },
        Row {
            programs: vec![
                ours(2),
                go("Go smux v2", "smux", 2),
                rust("smux_rust v2", "smux_rust", 2),
            ],
            metrics: vec![throughput().goal(Best, 2.0), cpu(), waits()],
            counts_calls: true,
            ..row(
                "bulk1v2",
                "1 stream, 128 KiB writes, version 2, default windows",
                "bulk",
                "secs=0.8",
            )
        },
        Row {
            metrics: vec![throughput().goal(Best, 1.15), cpu(), waits()],
            counts_calls: true,
            note: "Raw TCP has 16 connections.",
            ..row(
                "bulk16",
                "16 streams at once, 128 KiB writes, version 1",
                "bulk",
                "streams=16 secs=0.8",
            )
        },
        Row {
            metrics: vec![writes().goal(Best, 4.0), cpu()],
            counts_calls: true,
            ..row("small64", "64 B writes, one stream", "bulk", "write=64 secs=0.6")
        },
        Row {
            metrics: vec![writes().goal(Best, 4.0), cpu()],
            ..row("small1k", "1 KiB writes, one stream", "bulk", "write=1024 secs=0.6")
        },
        Row {
            shape: Shape::OneCore,
            metrics: vec![p50().goal(Best, 1.2), p99()],
            ..row("ping1core", "64 B ping-pong, both ends on one core", "ping", "secs=0.6")
        },
        Row {
            shape: Shape::TwoPing,
            metrics: vec![p50().goal(Raw, 1.05), p99()],
            ..row("ping2proc", "64 B ping-pong, two processes", "ping", "secs=0.6")
        },
        Row {
            metrics: vec![p50().goal(Best, 0.5), p99().goal(Best, 0.5)],
            note: "Raw TCP has 9 connections.",
            ..row("pingload", "64 B ping beside 8 bulk streams", "ping", "load=8 secs=1")
        },
        Row {
            programs: vec![
                ours(2),
                go("Go smux v2", "smux", 2),
                go("hashicorp yamux", "hyamux", 2),
                rust("yamux (Rust)", "yamux", 2),
                rust("smux_rust v2", "smux_rust", 2),
                rust("raw TCP", "raw", 2),
            ],
            metrics: vec![p50(), p99()],
            note: "This row has version 2, because version 1 has no flow control for single \
                   streams. There, one unread stream holds up all streams, in every program.",
            ..row(
                "pingstuck",
                "64 B ping beside 8 bulk streams, one of which the peer doesn't read",
                "ping",
                "load=8 stuck=1 secs=1",
            )
        },
        Row {
            metrics: vec![more("streams", "k/s", &["per_s"], 1e-3).goal(Best, 5.0)],
            note: "Pipelined: the opener doesn't wait for the peer until it is 384 streams \
                   ahead of it. Raw TCP opens connections, up to 128 ahead.",
            ..row("openclose", "open, 1 byte, close", "openclose", "secs=0.6")
        },
        Row {
            shape: Shape::TwoIdle,
            programs: everyone()
                .into_iter()
                .filter(|program| IDLE.contains(&program.peer.peer))
                .collect(),
            metrics: vec![
                less("unused", "B/stream", &["opened"], 1.0).goal(Amount, 512.0),
                less("after a ping", "B/stream", &["used"], 1.0).goal(Amount, 512.0),
            ],
            max_rounds: 3,
            note: "Growth of a process's resident memory over 10,000 streams, at the worse end. It \
                   is measured when the streams are open and no byte was sent, and again after a \
                   ping on each. Go's memory is measured after its garbage was collected and given \
                   back. Two peers are left out: yamux (Rust) announces a stream only with its \
                   first data, and smux_rust's pings take too long for this number of streams.",
            ..row("idlemem", "memory of an idle stream, one end", "idle", "n=10000")
        },
    ];
    // With one window per round trip, the throughput has to be well below what the relay can carry,
    // which is some 800 MB/s. Otherwise the relay's time for a window would noticeably lengthen the
    // round trip.
    for (id, rtt_us, warm, factor, window) in [
        ("rtt100", 100_000, 4.0, Some(20.0), 2 << 20),
        ("rtt20", 20_000, 2.0, None, 2 << 20),
        ("rtt2", 2_000, 1.0, None, 128 << 10),
    ] {
        let [smux, ours] = [go("", "smux", 2).peer, ours(2).peer];
        let mixed = |name: &str, from: &Peer, to: &Peer| Program {
            name: name.to_owned(),
            peer: from.clone(),
            receiver: Some(to.clone()),
        };
        let metric = more("throughput", "MB/s", &["bytes_per_s"], 1e-6);
        rows.push(Row {
            shape: Shape::Relay(rtt_us),
            programs: vec![
                self::ours(2),
                go("Go smux v2", "smux", 2),
                mixed("Go smux v2 to ours", &smux, &ours),
                mixed("ours to Go smux v2", &ours, &smux),
            ],
            metrics: vec![
                match factor {
                    Some(factor) => metric.goal(Best, factor),
                    None => metric,
                },
                more(
                    "of ours' largest window per round trip",
                    "%",
                    &["bytes_per_s"],
                    100.0 * f64::from(rtt_us) / 1e6 / f64::from(window),
                )
                .goal(Amount, 80.0),
            ],
            max_rounds: 3,
            note: "The receiver's window is the limit. smux's window stays at 64 KiB. Ours \
                   grows, and an unchanged Go sender may use it, too.",
            ..row(
                id,
                &format!(
                    "1 stream, version 2, {} ms round trip, windows up to {} KiB",
                    rtt_us / 1000,
                    window >> 10
                ),
                "",
                &format!("warm={warm} secs=1 window={window}"),
            )
        });
    }
    rows
}

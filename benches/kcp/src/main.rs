//! Measures pairs of forwarders over a link that is slow and loses packets. The pairs are our
//! example `kcp`, kcptun's programs, and our example `forward`, which runs the same sessions over
//! TCP.
//!
//! A client's TCP connection goes through the near forwarder, the relay, and the far forwarder to a
//! target. The relay, the client and the target (`tests/support/load.rs`) are in this process. The
//! measured processor time is the user and system time of the two forwarders. The programs run by
//! turns. `report.rs` writes a section of `benches/RESULTS.md`.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../../tests/support/forwarders.rs"]
mod forwarders;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../../tests/support/load.rs"]
mod load;
mod report;
mod tunnel;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../../tests/support/udp_relay.rs"]
mod udp_relay;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use forwarders::{Forwarder, Options, Program, free_addr, kcptun_is_there};
use load::{Closes, Job, Target, transfer};
use report::Row;
use tunnel::Tunnel;
use udp_relay::{Link, UdpRelay};

/// Time limit of a connection on which no byte moves. After this time the connection counts as
/// failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures our example and kcptun over a link that is slow and loses packets.
#[derive(Parser)]
pub struct Cli {
    /// The built example `kcp`
    #[arg(long)]
    kcp: PathBuf,
    /// The built example `forward`, for the same sessions over TCP (as root, with socat)
    #[arg(long)]
    forward: Option<PathBuf>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Milliseconds each way: half of the round trip
    #[arg(long, default_value_t = 10)]
    delay: u64,
    /// Bytes of a measurement, both directions together, in millions
    #[arg(long, default_value_t = 100)]
    megabytes: u64,
    /// Both windows of both ends, in datagrams
    #[arg(long, default_value_t = 1024)]
    window: usize,
    #[arg(long, default_value = "fast")]
    mode: String,
    /// Measure only rows whose name begins with this
    #[arg(long, default_value = "")]
    only: String,
    /// Measure only this program: kcp, kcptun
    #[arg(long)]
    program: Option<String>,
    /// The file that gets the section. Without it, the section is only printed
    #[arg(long)]
    results: Option<PathBuf>,
    /// The version of this crate that the section names
    #[arg(long, default_value = "unknown")]
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Kcp,
    Kcptun,
    /// Our sessions over TCP, with the named congestion control.
    Tcp(String),
}

/// A case that is measured with each program.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub loss: u32,
    /// Whether bytes go in both directions at once. If not, only the client sends.
    pub both: bool,
    pub smuxver: u8,
    pub crypt: &'static str,
    /// Whether the goals apply to this case.
    pub goal: bool,
}

pub struct Measured {
    /// Bytes per second, both directions together.
    pub throughput: f64,
    /// Processor time of both forwarders for 10^9 bytes, in seconds.
    pub cpu: f64,
    /// Number of datagrams for a million bytes, both directions together.
    pub datagrams: f64,
    /// Resident memory of both forwarders after the measurement, in bytes.
    pub memory: f64,
}

const CASES: [Case; 8] = [
    Case { name: "up0", loss: 0, both: false, smuxver: 1, crypt: "none", goal: true },
    Case { name: "both0", loss: 0, both: true, smuxver: 1, crypt: "none", goal: true },
    Case { name: "up5", loss: 5, both: false, smuxver: 1, crypt: "none", goal: true },
    Case { name: "both5", loss: 5, both: true, smuxver: 1, crypt: "none", goal: true },
    Case { name: "v2-up0", loss: 0, both: false, smuxver: 2, crypt: "none", goal: false },
    Case { name: "v2-up5", loss: 5, both: false, smuxver: 2, crypt: "none", goal: false },
    Case { name: "aes-up0", loss: 0, both: false, smuxver: 1, crypt: "aes", goal: false },
    Case { name: "aes-up5", loss: 5, both: false, smuxver: 1, crypt: "aes", goal: false },
];

fn main() {
    let cli = Cli::parse();
    let mut missing = Vec::new();
    let mut leave_out = |what: &str| {
        println!("LEFT OUT: {what}");
        missing.push(what.to_owned());
    };
    let mut programs = vec![Which::Kcp];
    if kcptun_is_there() {
        programs.push(Which::Kcptun);
    } else {
        leave_out("kcptun: its programs aren't here");
    }
    let tunnel = cli.forward.as_ref().map(|_| Tunnel::new());
    match &tunnel {
        Some(Ok(_)) => programs.extend(Tunnel::controls().into_iter().map(Which::Tcp)),
        Some(Err(why)) => leave_out(&format!("our sessions over TCP: {why}")),
        None => {}
    }
    let tunnel = tunnel.and_then(Result::ok);
    if let Some(only) = cli.program.clone() {
        programs.retain(|program| program.name() == only);
    }
    let mut rows = Vec::new();
    for case in CASES.into_iter().filter(|case| case.name.starts_with(&cli.only)) {
        // A cipher or other windows make no difference for TCP here. So it only has the two rows of
        // version 1 with one direction.
        let mut programs = programs.clone();
        programs.retain(|program| !program.is_tcp() || case.goal && !case.both);
        let mut row = Row { case, results: Vec::new() };
        row.results.extend(programs.into_iter().map(|program| (program, Vec::new())));
        for _ in 0..cli.rounds {
            for (program, measured) in &mut row.results {
                measured.push(measure(&cli, program, &row.case, tunnel.as_ref()));
            }
        }
        println!("{}", row.print());
        rows.push(row);
    }
    let text = report::section(&cli, &rows, &missing);
    match &cli.results {
        Some(path) => report::replace(path, &text),
        None => println!("\n{text}"),
    }
}

impl Which {
    pub fn name(&self) -> String {
        match self {
            Self::Kcp => "kcp".to_owned(),
            Self::Kcptun => "kcptun".to_owned(),
            Self::Tcp(control) => format!("tcp, {control}"),
        }
    }

    fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }
}

/// Two forwarders with a relay between them.
struct Pair {
    near: SocketAddr,
    client: Forwarder,
    server: Forwarder,
    target: Target,
    relay: UdpRelay,
    /// Processes that carry packets between the two forwarders. They aren't part of the
    /// measurement.
    #[allow(dead_code, reason = "they only have to live")]
    beside: Vec<Forwarder>,
}

impl Pair {
    fn start(cli: &Cli, program: &Which, case: &Case, tunnel: Option<&Tunnel>) -> Self {
        let delay = Duration::from_millis(cli.delay);
        let link = Link { loss: case.loss, delay, ..Link::default() };
        let program = match program {
            Which::Kcp => Program::Ours(cli.kcp.clone()),
            Which::Kcptun => Program::Kcptun,
            Which::Tcp(control) => {
                let forward = cli.forward.as_ref().expect("asked for");
                return tunnel.expect("it is there").start(forward, link, control);
            }
        };
        let options = Options {
            smuxver: case.smuxver,
            crypt: case.crypt,
            mode: cli.mode.clone().leak(),
            sndwnd: [cli.window; 2],
            rcvwnd: [cli.window; 2],
            ..Options::default()
        };
        let target = Target::start(PATIENCE).unwrap();
        let far = free_addr();
        let near = free_addr();
        let server = Forwarder::server(&program, far, target.addr(), &options);
        let relay = UdpRelay::start(far, link).unwrap();
        let client = Forwarder::client(&program, near, relay.addr(), &options);
        Self { near, client, server, target, relay, beside: Vec::new() }
    }

    fn cpu(&self) -> Duration {
        self.client.cpu() + self.server.cpu()
    }
}

fn measure(cli: &Cli, program: &Which, case: &Case, tunnel: Option<&Tunnel>) -> Measured {
    let pair = Pair::start(cli, program, case, tunnel);
    let warm = Job { closes: Closes::Target, ..Job::both(100_000, 1) };
    transfer(pair.near, warm, PATIENCE).unwrap();

    let mut bytes = cli.megabytes * 1_000_000;
    if program.is_tcp() && case.loss > 0 {
        bytes /= 40; // TCP over this link is about 40 times slower
    }
    let (up, down) = match (case.both, program.is_tcp()) {
        (true, _) => (bytes / 2, bytes / 2),
        (false, false) => (bytes, 0),
        (false, true) => (0, bytes), // the congestion control was set at the far end
    };
    let job = Job { up, down, seed: 7, closes: Closes::Target };
    let cpu = pair.cpu();
    let datagrams = pair.relay.counts().received;
    let begin = Instant::now();
    transfer(pair.near, job, PATIENCE).unwrap();
    let elapsed = begin.elapsed();
    let cpu = pair.cpu() - cpu;
    let counts = pair.relay.counts();
    assert_eq!(counts.overflowed, 0, "the relay was too slow: {counts:?}");
    assert!(pair.target.take_faults().is_empty());
    let total = (up + down) as f64;
    Measured {
        throughput: total / elapsed.as_secs_f64(),
        cpu: cpu.as_secs_f64() / (total / 1e9),
        datagrams: (counts.received - datagrams) as f64 / (total / 1e6),
        memory: (pair.client.memory() + pair.server.memory()) as f64,
    }
}

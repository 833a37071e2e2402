//! Runs every row of the comparison. In a row, the programs run by turns. Writes a report to the
//! terminal and to `RESULTS.md`, and plots as SVG files.
//!
//! Options: `--rounds N`, `--only ROW,..`, `--quick`, `--out DIR` (the directory of `RESULTS.md`
//! and `plots/`).
//!
//! The script `run` sets these environment variables:
//! - `PEERS` is the path of the Rust program.
//! - `GOPEERS` is the path of the Go program. If there is none, `GO_MISSING` has the reason.
//! - `VERSIONS` is a text for the report.

mod plots;
mod report;
mod rows;
mod run;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use rows::{Program, Row};
use run::{Outcome, Runner};

/// Number of failures after which a program is left out of a row's further rounds. Each further
/// failure could cost a timeout.
const GIVE_UP: usize = 2;

/// Heading of the section of `RESULTS.md` that `benches/kcp/run` writes. It is the last section of
/// the file.
const KCP_SECTION: &str = "## Over a link that is slow and loses";

struct Arguments {
    rounds: usize,
    only: Vec<String>,
    quick: bool,
    out: PathBuf,
}

fn arguments() -> Result<Arguments, String> {
    let mut found =
        Arguments { rounds: 5, only: Vec::new(), quick: false, out: PathBuf::from("benches") };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => found.rounds = value()?.parse().map_err(|_| "--rounds needs a number")?,
            "--only" => found.only = value()?.split(',').map(str::to_owned).collect(),
            "--out" => found.out = PathBuf::from(value()?),
            "--quick" => found.quick = true,
            _ => {
                return Err(format!(
                    "unknown option {arg}; there are --rounds N, --only ROW,.. --quick, --out DIR"
                ));
            }
        }
    }
    if found.quick {
        found.rounds = found.rounds.min(1);
    }
    Ok(found)
}

/// All runs of one row. Each program has one outcome for each round.
pub struct Measured {
    pub row: Row,
    pub outcomes: Vec<(Program, Vec<Outcome>)>,
}

fn measure(runner: &Runner, row: Row, rounds: usize) -> Measured {
    let mut outcomes: Vec<_> =
        row.programs.iter().map(|program| (program.clone(), Vec::new())).collect();
    for round in 0..rounds.min(row.max_rounds) {
        for (program, results) in &mut outcomes {
            let failed: Vec<_> = results
                .iter()
                .filter_map(|result: &Outcome| result.as_ref().err().cloned())
                .collect();
            if failed.len() >= GIVE_UP || program.is_missing(runner) && round > 0 {
                continue;
            }
            let outcome = runner.row(&row, program);
            let shown = match &outcome {
                Ok(value) => row
                    .metrics
                    .iter()
                    .map(|metric| metric.show(value))
                    .collect::<Vec<_>>()
                    .join("  "),
                Err(why) => why.clone(),
            };
            eprintln!("{:>10}  round {}  {:28} {shown}", row.id, round + 1, program.name);
            results.push(outcome);
        }
    }
    Measured { row, outcomes }
}

/// Returns the outcomes of the workloads that only our program has, by name. Each workload runs
/// once.
fn extras(
    runner: &Runner,
    wanted: &dyn Fn(&str) -> bool,
    quick: bool,
) -> BTreeMap<String, Outcome> {
    let mut found = BTreeMap::new();
    let mut note = |name: String, outcome: Outcome| {
        let shown = outcome
            .as_ref()
            .map_or_else(Clone::clone, |value| value.to_string().chars().take(100).collect());
        eprintln!("{name}: {shown}");
        found.insert(name, outcome);
    };
    if wanted("scale") {
        for version in [1, 2] {
            let v = format!("v={version}");
            note(format!("streams v{version}"), runner.ours("scale-streams", &[&v, "n=10000"]));
            note(format!("sessions v{version}"), runner.ours("scale-sessions", &[&v, "n=1000"]));
            for streams in [1, 10, 100, 1000, 10_000] {
                // All streams together may hold at most 160 MB of accepted and unsent data.
                let send = (160_000_000 / streams).clamp(16 * 1024, 256 * 1024);
                let streams = format!("streams={streams}");
                let send = format!("send={send}");
                let secs = if quick { "secs=0.3" } else { "secs=1" };
                note(
                    format!("active v{version} {streams}"),
                    runner.ours("scale-active", &[&v, &streams, &send, secs]),
                );
            }
        }
    }
    if wanted("curve") {
        for streams in [1, 8, 64] {
            let streams = format!("streams={streams}");
            note(
                format!("curve {streams}"),
                runner.ours("curve", &[&streams, "rate=125000000", "warm=0.5", "secs=2"]),
            );
        }
    }
    if wanted("memory") {
        for streams in [1000, 5000, 10_000, 20_000] {
            for program in [rows::ours(1), rows::go("Go smux", "smux", 1)] {
                let outcome = runner.idle(&program, streams);
                note(format!("memory {} {streams}", program.name), outcome);
            }
        }
    }
    found
}

/// Counts our system calls in each bulk row, with strace. strace slows the program down, so these
/// runs aren't timed.
fn syscalls(runner: &Runner, measured: &[Measured]) -> BTreeMap<&'static str, Outcome> {
    let bulk = measured.iter().filter(|one| one.row.counts_calls);
    bulk.map(|one| (one.row.id, runner.calls(&one.row))).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = arguments()?;
    let begin = Instant::now();
    let runner = Runner::from_environment(args.quick)?;
    let wanted = |id: &str| args.only.is_empty() || args.only.iter().any(|only| only == id);
    let measured: Vec<_> = rows::all()
        .into_iter()
        .filter(|row| wanted(row.id))
        .map(|row| measure(&runner, row, args.rounds))
        .collect();
    let calls = syscalls(&runner, &measured);
    let extras = extras(&runner, &wanted, args.quick);
    let seconds = begin.elapsed().as_secs();

    let plots = args.out.join("plots");
    fs::create_dir_all(&plots)?;
    let mut text = report::write(&measured, &calls, &extras, &args, seconds);
    text += &plots::draw(&measured, &extras, &plots)?;
    let results = args.out.join("RESULTS.md");
    let before = fs::read_to_string(&results).unwrap_or_default();
    if let Some(at) = before.find(KCP_SECTION) {
        text.push('\n');
        text += &before[at..]; // keep the section that `benches/kcp/run` has written
    }
    fs::write(results, &text)?;
    println!("{text}");
    Ok(())
}

/// Returns a number from a result, by a path of keys.
pub fn number(value: &Value, path: &[&str]) -> Option<f64> {
    path.iter().try_fold(value, |found, key| found.get(key))?.as_f64()
}

/// Combines the results of two processes into one.
pub fn both(server: &Value, client: &Value) -> Value {
    json!({ "server": server, "client": client })
}

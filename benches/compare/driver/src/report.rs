//! Turns outcomes into `RESULTS.md`: medians, ratios per round, goals.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use serde_json::Value;

use crate::rows::{Against, Goal, Metric, Program, digits};
use crate::run::Outcome;
use crate::{Arguments, Measured, number};

/// A median, with the least and the greatest value.
#[derive(Clone, Copy)]
pub struct Spread {
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let median = match values.len() {
            0 => return None,
            n if n % 2 == 1 => values[n / 2],
            n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
        };
        Some(Self { median, least: values[0], most: values[values.len() - 1] })
    }

    fn show(self) -> String {
        if self.least == self.most {
            return digits(self.median);
        }
        format!("{} ({}–{})", digits(self.median), digits(self.least), digits(self.most))
    }
}

impl Measured {
    pub fn values(&self, program: &str, metric: &Metric) -> Vec<f64> {
        let found = self.outcomes.iter().find(|(other, _)| other.name == program);
        let results = found.into_iter().flat_map(|(_, results)| results);
        results.filter_map(|result| metric.value(result.as_ref().ok()?)).collect()
    }

    fn in_round(
        &self,
        round: usize,
        metric: &Metric,
        which: impl Fn(&Program) -> bool,
    ) -> Option<f64> {
        let chosen = self.outcomes.iter().filter(|(program, _)| which(program));
        let values =
            chosen.filter_map(|(_, results)| metric.value(results.get(round)?.as_ref().ok()?));
        values.reduce(|a, b| if metric.less_is_better { a.min(b) } else { a.max(b) })
    }

    /// Returns the ratio of our value to the other program's value, for each round that has both.
    fn ratios(&self, metric: &Metric, against: Against) -> Option<Spread> {
        let rounds = self.outcomes.iter().map(|(_, results)| results.len()).max().unwrap_or(0);
        let ratio = |round| {
            let ours = self.in_round(round, metric, Program::is_ours)?;
            let other = match against {
                Against::Best => self.in_round(round, metric, Program::is_rival)?,
                Against::Raw => self.in_round(round, metric, Program::is_raw)?,
                Against::Named(name) => {
                    self.in_round(round, metric, |program| program.name == name)?
                }
                Against::Amount => 1.0,
            };
            Some(ours / other)
        };
        Spread::of((0..rounds).filter_map(ratio).collect())
    }

    /// Returns the rivals that couldn't be run at all. If one is missing, the best of the others
    /// may not be the best of all.
    fn missing_rivals(&self, metric: &Metric) -> Vec<&str> {
        let rivals =
            self.outcomes.iter().map(|(program, _)| program).filter(|program| program.is_rival());
        let missing = rivals.filter(|rival| self.values(&rival.name, metric).is_empty());
        missing.map(|rival| rival.name.as_str()).collect()
    }

    /// Returns the rival with the best median.
    fn best_rival(&self, metric: &Metric) -> Option<&str> {
        let rivals =
            self.outcomes.iter().map(|(program, _)| program).filter(|program| program.is_rival());
        let with_medians = rivals.filter_map(|rival| {
            Some((rival, Spread::of(self.values(&rival.name, metric))?.median))
        });
        let best =
            with_medians.reduce(|a, b| if (a.1 < b.1) == metric.less_is_better { a } else { b });
        best.map(|(rival, _)| rival.name.as_str())
    }
}

fn against(goal: Against, metric: &Metric) -> String {
    match goal {
        Against::Best => "× the best peer".to_owned(),
        Against::Raw => "× raw TCP".to_owned(),
        Against::Named(name) => format!("× {name}"),
        Against::Amount => metric.unit.to_owned(),
    }
}

fn goals(text: &mut String, measured: &[Measured]) {
    let _ = writeln!(text, "## Goals\n");
    let _ = writeln!(
        text,
        "| row | measured | goal | ours: median of the ratios (least–most) | the best peer | |"
    );
    let _ = writeln!(text, "|---|---|---|---|---|---|");
    for one in measured {
        for metric in &one.row.metrics {
            for &Goal { against: to, factor } in &metric.goals {
                let sign = if metric.less_is_better { "≤" } else { "≥" };
                let ratios = one.ratios(metric, to);
                let met = ratios.map(|ratios| {
                    if metric.less_is_better {
                        ratios.median <= factor
                    } else {
                        ratios.median >= factor
                    }
                });
                let missing =
                    if let Against::Best = to { one.missing_rivals(metric) } else { Vec::new() };
                let without = if missing.is_empty() {
                    String::new()
                } else {
                    format!(", without {}", missing.join(", "))
                };
                let _ = writeln!(
                    text,
                    "| {} | {} | {sign} {factor} {} | {} | {} | {}{without} |",
                    one.row.title,
                    metric.name,
                    against(to, metric),
                    ratios.map_or("–".to_owned(), Spread::show),
                    if let Against::Best | Against::Amount = to {
                        one.best_rival(metric).unwrap_or("–")
                    } else {
                        ""
                    },
                    match met {
                        Some(true) => "met",
                        Some(false) => "**not met**",
                        None => "not measured",
                    },
                );
            }
        }
    }
}

/// Returns a failure's message, made fit for a cell of a table.
fn cell(why: &str) -> String {
    why.replace('|', "/").chars().take(160).collect()
}

fn table(text: &mut String, one: &Measured, calls: Option<&Outcome>) {
    let metrics = &one.row.metrics;
    let _ = writeln!(text, "\n### {}: {}\n", one.row.id, one.row.title);
    let heads: Vec<_> =
        metrics.iter().map(|metric| format!("{}, {}", metric.name, metric.unit)).collect();
    let _ = writeln!(text, "| program | {} | × the best peer | × raw TCP |", heads.join(" | "));
    let _ = writeln!(text, "|---|{}---|---|", "---|".repeat(metrics.len()));
    for (program, results) in &one.outcomes {
        let mut cells = Vec::new();
        for metric in metrics {
            let spread = Spread::of(one.values(&program.name, metric));
            cells.push(spread.map_or("–".to_owned(), Spread::show));
        }
        let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        if let Some(why) = failed.first() {
            let count = if failed.len() == results.len() {
                String::new()
            } else {
                format!("{} of {}: ", failed.len(), results.len())
            };
            cells[0] = if failed.len() == results.len() {
                String::new()
            } else {
                format!("{}; ", cells[0])
            };
            cells[0] += &format!("*{count}{}*", cell(why));
        }
        for to in [Against::Best, Against::Raw] {
            let ratios = if program.is_ours() { one.ratios(&metrics[0], to) } else { None };
            cells.push(ratios.map_or(String::new(), Spread::show));
        }
        let _ = writeln!(text, "| {} | {} |", program.name, cells.join(" | "));
    }
    if !one.row.note.is_empty() {
        let _ = writeln!(text, "\n{}", one.row.note);
    }
    match calls {
        Some(Ok(result)) => {
            let (Some(bytes), Some(frames)) =
                (number(result, &["bytes"]), number(result, &["frames"]))
            else {
                return;
            };
            let sum = |names: &[&str]| {
                names.iter().filter_map(|name| number(result, &["calls", name])).sum::<f64>()
            };
            let per = |calls: f64| {
                format!(
                    "{} per MB, {} per frame",
                    digits(calls / (bytes / 1e6)),
                    digits(calls / frames)
                )
            };
            let _ = writeln!(
                text,
                "\nSystem calls of ours at both ends, counted by strace in a separate run, which \
                 strace slows: futex {}; write {}; read {}. \
                 A frame carries {} B.",
                per(sum(&["futex"])),
                per(sum(&["write", "writev", "sendto", "sendmsg"])),
                per(sum(&["read", "readv", "recvfrom", "recvmsg"])),
                digits(bytes / frames),
            );
        }
        Some(Err(why)) => {
            let _ = writeln!(text, "\nSystem calls weren't counted: {}.", cell(why));
        }
        None => {}
    }
}

fn round_trips(text: &mut String, measured: &[Measured]) {
    if measured.iter().any(|one| one.row.id.starts_with("rtt")) {
        let _ = writeln!(
            text,
            "\nFor reference, this is the throughput of one window per round trip.\n\n\
             | window | 100 ms | 20 ms | 2 ms |\n|---|---|---|---|\n\
             | 64 KiB (`max_stream_buffer`, smux's window) | 0.66 MB/s | 3.3 MB/s | 33 MB/s |\n\
             | 2 MiB (`max_stream_window`'s default) | 21 MB/s | 105 MB/s | 1050 MB/s |\n\
             | 128 KiB | | | 66 MB/s |"
        );
    }
}

fn scale(text: &mut String, extras: &BTreeMap<String, Outcome>) {
    if !extras.keys().any(|name| name.starts_with("streams ")) {
        return;
    }
    let _ = writeln!(text, "\n## Scale\n");
    let _ = writeln!(
        text,
        "Both ends are in one process. Memory is the growth of the process's resident memory, \
         divided by the number of streams or sessions and by the two *ends*. One thread is both \
         ends of each ping, and the pings follow one another.\n"
    );
    let _ = writeln!(
        text,
        "| | version | open, µs | memory, B | after the ping, B | ping p50, µs | p99, µs |"
    );
    let _ = writeln!(text, "|---|---|---|---|---|---|---|");
    for (what, shown) in
        [("streams", "10,000 streams in one session"), ("sessions", "1,000 sessions")]
    {
        for version in [1, 2] {
            let shown = format!("| {shown} | {version} |");
            match extras.get(&format!("{what} v{version}")) {
                Some(Ok(result)) => {
                    let at = |path: &[&str]| number(result, path).map_or("–".to_owned(), digits);
                    let columns: [&[&str]; 5] = [
                        &["open_us"],
                        &["bytes"],
                        &["bytes_after_ping"],
                        &["ping", "p50"],
                        &["ping", "p99"],
                    ];
                    let _ = writeln!(text, "{shown} {} |", columns.map(at).join(" | "));
                }
                Some(Err(why)) => {
                    let _ = writeln!(text, "{shown} *{}* | | | | |", cell(why));
                }
                None => {}
            }
        }
    }
    let _ = writeln!(
        text,
        "\nThroughput by the number of active streams, in GB/s. Each stream has a thread that \
         reads it. At most 16 threads write, each serving its streams in turn with 16 KiB. \
         From 1000 streams on, `max_send_buffer` is lowered so that all streams together may hold \
         160 MB.\n"
    );
    let _ = writeln!(text, "| version | 1 | 10 | 100 | 1000 | 10000 |\n|---|---|---|---|---|---|");
    for version in [1, 2] {
        let cells = ACTIVE.map(|streams| {
            match extras.get(&format!("active v{version} streams={streams}")) {
                Some(Ok(result)) => number(result, &["bytes_per_s"])
                    .map_or("–".to_owned(), |rate| digits(rate / 1e9)),
                Some(Err(why)) => format!("*{}*", cell(why)),
                None => "–".to_owned(),
            }
        });
        let _ = writeln!(text, "| {version} | {} |", cells.join(" | "));
    }
}

/// Numbers of streams that share the link.
pub const SHARED: [usize; 3] = [1, 8, 64];
/// Rate of the shared link, in MB/s.
pub const LINK: f64 = 125.0;

/// Bandwidth of each stream at each sample, in MB/s.
pub struct Curve {
    pub times: Vec<f64>,
    rates: Vec<Vec<f64>>,
}

impl Curve {
    pub fn of(extras: &BTreeMap<String, Outcome>, streams: usize) -> Option<Self> {
        let result = extras.get(&format!("curve streams={streams}"))?.as_ref().ok()?;
        let samples = result["samples"].as_array()?;
        let times = samples.iter().filter_map(|sample| number(sample, &["t"])).collect();
        let of_sample = |sample: &Value| -> Vec<f64> {
            let rates = sample["rates"].as_array().map_or(&[][..], Vec::as_slice);
            rates.iter().filter_map(Value::as_f64).map(|rate| rate / 1e6).collect()
        };
        Some(Self { times, rates: samples.iter().map(of_sample).collect() })
    }

    /// Returns each stream's mean over `span` samples, with the time of the last sample.
    pub fn averaged(&self, span: usize) -> Vec<(f64, Vec<f64>)> {
        let mean = |rows: &[Vec<f64>]| -> Vec<f64> {
            (0..rows[0].len())
                .map(|index| rows.iter().map(|row| row[index]).sum::<f64>() / rows.len() as f64)
                .collect()
        };
        self.times[span - 1..].iter().copied().zip(self.rates.windows(span).map(mean)).collect()
    }

    /// Returns Jain's fairness index of the streams' shares, over spans of `span` samples. 1 means
    /// that all shares are equal. 1/n means that one of n streams has everything.
    fn fairness(&self, span: usize) -> Option<Spread> {
        let index = |(_, rates): (f64, Vec<f64>)| {
            let sum: f64 = rates.iter().sum();
            let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
            if squares > 0.0 { sum * sum / squares / rates.len() as f64 } else { 0.0 }
        };
        Spread::of(self.averaged(span).into_iter().map(index).collect())
    }

    /// Returns the bandwidth of all streams together.
    fn total(&self) -> Option<Spread> {
        Spread::of(self.rates.iter().map(|rates| rates.iter().sum()).collect())
    }
}

fn shared(text: &mut String, extras: &BTreeMap<String, Outcome>) {
    if !extras.keys().any(|name| name.starts_with("curve")) {
        return;
    }
    let _ = writeln!(
        text,
        "\n## A shared link\n\nStreams of ours, version 1, through a relay that passes on 125 \
         MB/s. Fairness is Jain's index over the \
         streams' bandwidth in each span. 1 means equal shares.\n"
    );
    let _ = writeln!(
        text,
        "| streams | all together, MB/s | fairness over 20 ms | 100 ms | 500 ms \
         |\n|---|---|---|---|---|"
    );
    for streams in SHARED {
        let Some(curve) = Curve::of(extras, streams) else { continue };
        let shown = |spread: Option<Spread>| spread.map_or("–".to_owned(), Spread::show);
        let spans = [1, 5, 25].map(|span| shown(curve.fairness(span)));
        let _ = writeln!(text, "| {streams} | {} | {} |", shown(curve.total()), spans.join(" | "));
    }
}

pub const ACTIVE: [u32; 5] = [1, 10, 100, 1000, 10_000];

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("an unknown processor");
    let memory =
        read("/proc/meminfo").split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
    let load = read("/proc/loadavg").split_whitespace().next().unwrap_or("?").to_owned();
    format!(
        "{} cores of {}, {} GB, Linux {}. Load average at the end: {load}",
        std::thread::available_parallelism().map_or(0, usize::from),
        model.trim_start_matches([' ', '\t', ':']),
        memory.map_or("?".to_owned(), |kib| digits(kib / 1e6)),
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

pub fn write(
    measured: &[Measured],
    calls: &BTreeMap<&str, Outcome>,
    extras: &BTreeMap<String, Outcome>,
    args: &Arguments,
    seconds: u64,
) -> String {
    let mut text = String::from("# Measured, side by side\n\n");
    let part = if args.quick || !args.only.is_empty() { " **Not a full run.**" } else { "" };
    let _ = writeln!(text, "Written by `./benches/compare/run`. Don't edit.{part}\n");
    let _ = writeln!(
        text,
        "The programs took turns, for {} rounds (3 in the rows on memory and round trips). They \
         ran over loopback TCP with `TCP_NODELAY` and default configurations. Both ends are in one \
         process unless a row says otherwise. The tables show medians, with the least and the \
         most. A *ratio* is our value divided by the other's in the same round. Each goal is \
         compared with the median of its ratios. Machines are noisy, so don't compare figures of \
         different runs. \"Waits\" are a process's voluntary context switches.\n",
        args.rounds
    );
    let _ = writeln!(
        text,
        "Machine: {}. It took {} min {} s.\n",
        machine(),
        seconds / 60,
        seconds % 60
    );
    if let Ok(versions) = std::env::var("VERSIONS") {
        let _ = writeln!(text, "{}\n", versions.trim());
    }
    let _ = writeln!(text, "Go's gmux isn't compared, because it isn't packaged.\n");
    goals(&mut text, measured);
    let _ = writeln!(text, "\n## Rows");
    for one in measured {
        table(&mut text, one, calls.get(one.row.id));
    }
    round_trips(&mut text, measured);
    shared(&mut text, extras);
    scale(&mut text, extras);
    text
}

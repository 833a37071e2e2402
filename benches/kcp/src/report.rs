//! Turns measurements into a section of `benches/RESULTS.md`.
//!
//! The section is the last one of the file. `benches/compare/run` writes the rest of the file, and
//! keeps this section.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::{Case, Cli, Measured, Which};

/// The section's heading.
const HEADING: &str = "## Over a link that is slow and loses: KCP, kcptun, TCP";

pub struct Row {
    pub case: Case,
    pub results: Vec<(Which, Vec<Measured>)>,
}

/// The least value, the median, and the greatest value.
struct Spread([f64; 3]);

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Self([values[0], values[values.len() / 2], values[values.len() - 1]])
    }

    fn show(&self) -> String {
        let digits = |value: f64| match value {
            100.0.. => format!("{value:.0}"),
            10.0.. => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        };
        let [least, median, most] = self.0.map(digits);
        format!("{median} ({least}–{most})")
    }
}

impl Row {
    fn of(&self, which: &Which) -> Option<&[Measured]> {
        self.results.iter().find(|(program, _)| program == which).map(|(_, measured)| &measured[..])
    }

    /// Returns the ratio of our value to kcptun's value, for each round.
    fn ratio(&self, value: fn(&Measured) -> f64) -> Option<Spread> {
        let ours = self.of(&Which::Kcp)?;
        let other = self.of(&Which::Kcptun)?;
        Some(Spread::of(ours.iter().zip(other).map(|(ours, other)| value(ours) / value(other))))
    }

    fn what(&self) -> String {
        let Case { loss, both, smuxver, crypt, .. } = &self.case;
        let direction = if *both { "both ways" } else { "up" };
        let cipher = if *crypt == "none" { String::new() } else { format!(", {crypt}") };
        format!("{loss} % lost, {direction}, smux version {smuxver}{cipher}")
    }

    /// Formats the row for the terminal, as soon as it is measured.
    pub fn print(&self) -> String {
        let mut text = format!("{}:", self.what());
        for (program, measured) in &self.results {
            let throughput = Spread::of(measured.iter().map(|one| one.throughput / 1e6)).show();
            let cpu = Spread::of(measured.iter().map(|one| one.cpu)).show();
            let _ = write!(text, "\n    {:<7} {throughput} MB/s, {cpu} s/GB", program.name());
        }
        if let (Some(throughput), Some(cpu)) =
            (self.ratio(|one| one.throughput), self.ratio(|one| one.cpu))
        {
            let throughput = throughput.show();
            let cpu = cpu.show();
            let _ = write!(text, "\n    ratio   {throughput} throughput, {cpu} CPU");
        }
        text
    }
}

pub fn section(cli: &Cli, rows: &[Row], missing: &[String]) -> String {
    let mut text = format!(
        "{HEADING}\n\n\
         Written by `./benches/kcp/run`. Don't edit.\n\n\
         `examples/kcp` and Debian's kcptun, each pair with a relay between its two processes. The \
         round trip is {} ms. The relay loses datagrams in each direction as the row says, the \
         same ones in each run. One TCP connection through the pair carries {} MB. \"Both ways\" \
         is half of it in each direction at once, and the sum counts. Mode {}, windows of {} \
         datagrams at both ends, MTU 1350, no compression, no error correction. CPU is user and \
         system time of both processes, without the relay. The programs take turns, for {} \
         rounds. The tables show medians, with the least and the most. A ratio is our value \
         divided by kcptun's in the same round. `tcp` is our `examples/forward`, which runs the \
         same sessions over TCP with the named congestion control. Its packets of 1350 bytes go \
         through the same relay by TUN devices and socat. Without loss these limit it, not TCP. \
         It moves its bytes down instead of up, and a fortieth of them if packets are lost.\n\n\
         This crate at {}, kcptun {}.\n\n",
        2 * cli.delay,
        cli.megabytes,
        cli.mode,
        cli.window,
        cli.rounds,
        cli.version,
        kcptun_version(),
    );
    for what in missing {
        let _ = writeln!(text, "LEFT OUT: {what}\n");
    }
    text += "| row | measured | goal | ratio | |\n|---|---|---|---|---|\n";
    for row in rows.iter().filter(|row| row.case.goal) {
        type Goal = (&'static str, fn(&Measured) -> f64, &'static str, fn(f64) -> bool);
        let goals: [Goal; 2] = [
            ("throughput", |one| one.throughput, "≥ 1 × kcptun", |ratio| ratio >= 1.0),
            ("CPU", |one| one.cpu, "≤ 1 × kcptun", |ratio| ratio <= 1.0),
        ];
        for (measured, value, goal, is_met) in goals {
            let Some(ratio) = row.ratio(value) else { continue };
            let verdict = if is_met(ratio.0[1]) { "met" } else { "**not met**" };
            let what = row.what();
            let ratio = ratio.show();
            let _ = writeln!(text, "| {what} | {measured} | {goal} | {ratio} | {verdict} |");
        }
    }
    text +=
        "\n| row | program | throughput, MB/s | CPU, s/GB | datagrams per MB | resident, MB |\n";
    text += "|---|---|---|---|---|---|\n";
    for row in rows {
        for (program, measured) in &row.results {
            let column = |value: fn(&Measured) -> f64| Spread::of(measured.iter().map(value));
            let [throughput, cpu] =
                [column(|one| one.throughput / 1e6), column(|one| one.cpu)].map(|one| one.show());
            let [datagrams, memory] =
                [column(|one| one.datagrams), column(|one| one.memory / 1e6)].map(|one| one.0[1]);
            // Processor time is counted in hundredths of a second. A run of a few megabytes is too
            // short for that.
            let is_short = matches!(program, Which::Tcp(_)) && row.case.loss > 0;
            let cpu = if is_short { "–".to_owned() } else { cpu };
            let _ = writeln!(
                text,
                "| {} | {} | {throughput} | {cpu} | {datagrams:.0} | {memory:.1} |",
                row.what(),
                program.name(),
            );
        }
    }
    text
}

/// Returns Debian's version of kcptun, because the program itself doesn't know its version.
fn kcptun_version() -> String {
    let query = ["-W", "-f", "${Version}", "kcptun"];
    let output = std::process::Command::new("dpkg-query").args(query).output();
    let version = output.ok().filter(|output| output.status.success());
    version.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).into())
}

/// Puts the section into a file, in place of the earlier section.
pub fn replace(path: &Path, section: &str) {
    let before = fs::read_to_string(path).unwrap_or_default();
    let rest = before.find(HEADING).map_or(&*before, |at| &before[..at]);
    let text = format!("{}\n\n{section}", rest.trim_end());
    fs::write(path, text.trim_start()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    println!("written: {}", path.display());
}

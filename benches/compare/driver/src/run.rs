//! Starts programs, waits for their results up to a timeout, and kills programs that hang.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::both;
use crate::rows::{Language, Peer, Program, Row, Shape, ours};

/// Time limit of a run. A run takes about a second.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A result, or the reason why there is none.
pub type Outcome = Result<Value, String>;

pub struct Runner {
    peers: String,
    pub go: Result<String, String>,
    quick: bool,
}

/// A program that was started, and its output. The drop of this kills the program.
struct Started {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill(); // usually this fails, because the program has exited
        let _ = self.child.wait();
    }
}

impl Started {
    fn new(mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        let stdout = child.stdout.take();
        let mut stderr = child.stderr.take();
        let (to, lines) = mpsc::channel();
        let (to_errors, errors) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout.expect("it is piped")).lines().map_while(Result::ok) {
                let _ = to.send(line);
            }
        });
        thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.take().expect("it is piped").read_to_string(&mut text);
            let _ = to_errors.send(text);
        });
        Ok(Self { child, lines, errors })
    }

    fn line(&mut self, until: Instant) -> Result<String, String> {
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(line),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("hung: ended after {} s", TIMEOUT.as_secs()))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let text = self.errors.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                let first = text
                    .lines()
                    .find(|line| !line.trim().is_empty())
                    .unwrap_or("no result and no message");
                Err(format!("failed: {}", first.trim()))
            }
        }
    }

    fn address(&mut self, until: Instant) -> Result<String, String> {
        let line = self.line(until)?;
        line.strip_prefix("ADDR ").map(str::to_owned).ok_or(format!("no address but {line}"))
    }

    fn result(&mut self, until: Instant) -> Outcome {
        let line = self.line(until)?;
        serde_json::from_str(&line).map_err(|error| format!("not a result: {error}"))
    }
}

impl Runner {
    pub fn from_environment(quick: bool) -> Result<Self, String> {
        let peers = env::var("PEERS")
            .map_err(|_| "PEERS isn't set: start this through benches/compare/run")?;
        let go = env::var("GOPEERS")
            .map_err(|_| env::var("GO_MISSING").unwrap_or_else(|_| "not built".to_owned()));
        Ok(Self { peers, go, quick })
    }

    fn command(
        &self,
        wrapper: &[&str],
        peer: &Peer,
        workload: &str,
        arguments: &[String],
    ) -> Result<Command, String> {
        let program = match peer.language {
            Language::Rust => &self.peers,
            Language::Go => self.go.as_ref().map_err(|why| format!("missing: {why}"))?,
        };
        let words = wrapper.iter().copied().chain([program.as_str()]).collect::<Vec<_>>();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args([peer.peer, workload])
            .arg(format!("v={}", peer.version))
            .args(arguments);
        if self.quick {
            command.arg("secs=0.3"); // the last `secs` applies
        }
        Ok(command)
    }

    pub fn row(&self, row: &Row, program: &Program) -> Outcome {
        let until = Instant::now() + TIMEOUT;
        let start = |workload: &str, peer, arguments: &[String]| {
            Started::new(self.command(&[], peer, workload, arguments)?)
        };
        match row.shape {
            Shape::One => start(row.workload, &program.peer, &row.arguments)?.result(until),
            Shape::OneCore => {
                let wrapper = ["taskset", "-c", "0"];
                Started::new(self.command(
                    &wrapper,
                    &program.peer,
                    row.workload,
                    &row.arguments,
                )?)?
                .result(until)
            }
            Shape::TwoPing | Shape::TwoIdle => {
                let mut server =
                    start(&format!("serve-{}", row.workload), &program.peer, &row.arguments)?;
                let mut arguments = row.arguments.clone();
                arguments.push(format!("addr={}", server.address(until)?));
                let mut client =
                    start(&format!("dial-{}", row.workload), &program.peer, &arguments)?;
                let result = client.result(until);
                if row.shape == Shape::TwoIdle {
                    Ok(both(&server.result(until)?, &result?))
                } else {
                    result
                }
            }
            Shape::Relay(rtt_us) => {
                let receiver = program.receiver.as_ref().unwrap_or(&program.peer);
                let mut sink = start("serve-sink", receiver, &row.arguments)?;
                let relay = Peer { language: Language::Rust, peer: "relay", version: 0 };
                let to = [format!("to={}", sink.address(until)?), format!("rtt_us={rtt_us}")];
                let mut relay = start("serve", &relay, &to)?;
                let addr = [format!("addr={}", relay.address(until)?)];
                let _source = start("dial-source", &program.peer, &addr)?;
                sink.result(until)
            }
        }
    }

    /// Runs a workload that only our program has.
    pub fn ours(&self, workload: &str, arguments: &[&str]) -> Outcome {
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Started::new(self.command(&[], &ours(1).peer, workload, &arguments)?)?
            .result(Instant::now() + TIMEOUT)
    }

    /// Measures the memory of idle streams.
    pub fn idle(&self, program: &Program, streams: u32) -> Outcome {
        let row = crate::rows::all()
            .into_iter()
            .find(|row| row.id == "idlemem")
            .ok_or("no row idlemem")?;
        self.row(&Row { arguments: vec![format!("n={streams}")], ..row }, program)
    }

    /// Counts our system calls in a bulk row of a fixed amount.
    pub fn calls(&self, row: &Row) -> Outcome {
        let table = env::temp_dir().join(format!("gmux-compare-{}", std::process::id()));
        let table_name = table.to_string_lossy().into_owned();
        let mib = if row.id == "small64" { 64 } else { 256 };
        let arguments: Vec<_> =
            row.arguments.iter().cloned().chain([format!("mib={mib}")]).collect();
        let ours = row
            .programs
            .iter()
            .find(|program| program.is_ours())
            .ok_or("ours isn't in this row")?;
        let wrapper = ["strace", "-f", "-c", "-o", &table_name];
        let result = self
            .command(&wrapper, &ours.peer, row.workload, &arguments)
            .and_then(Started::new)
            .and_then(|mut traced| {
                let result = traced.result(Instant::now() + 3 * TIMEOUT)?;
                // strace writes its table at the end
                traced.child.wait().map_err(|error| error.to_string())?;
                Ok(result)
            });
        let counts = read_counts(&table);
        let _ = std::fs::remove_file(&table);
        let mut result = result?;
        let counts = counts?;
        result["calls"] = counts;
        Ok(result)
    }
}

/// strace's table: share, seconds, µs per call, calls, errors (may be missing), name.
fn read_counts(table: &Path) -> Outcome {
    let text =
        std::fs::read_to_string(table).map_err(|error| format!("no table from strace: {error}"))?;
    let mut counts = serde_json::Map::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [_, _, _, calls, .., name] = words[..]
            && let Ok(calls) = calls.parse::<u64>()
            && name != "total"
        {
            counts.insert(name.to_owned(), calls.into());
        }
    }
    Ok(Value::Object(counts))
}

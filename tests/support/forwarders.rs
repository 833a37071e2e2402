//! Runs forwarders over KCP as child processes: our example `kcp`, or kcptun's programs. Both have
//! the same options.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time limit for a program to begin to listen.
const START: Duration = Duration::from_secs(30);

/// Limit of the output lines that are kept. Later lines are dropped.
const LINES: usize = 2000;

/// Which program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Our built example, at this path.
    Ours(PathBuf),
    /// Debian's kcptun-client and kcptun-server.
    Kcptun,
}

/// The options of both ends. The defaults are kcptun's, except that compression, error correction
/// and encryption are off.
#[derive(Clone, Debug)]
pub struct Options {
    pub smuxver: u8,
    pub crypt: &'static str,
    pub key: &'static str,
    pub mode: &'static str,
    pub mtu: usize,
    /// Send windows of the client and of the server, in datagrams.
    pub sndwnd: [usize; 2],
    /// Receive windows of the client and of the server, in datagrams.
    pub rcvwnd: [usize; 2],
    /// Number of sessions from the client to the server.
    pub conn: usize,
    /// Keepalive interval in seconds.
    pub keepalive: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            smuxver: 1,
            crypt: "none",
            key: "it's a secrect",
            mode: "fast",
            mtu: 1350,
            sndwnd: [128, 1024],
            rcvwnd: [512, 1024],
            conn: 1,
            keepalive: 10,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// A running program. Dropping it kills it.
pub struct Forwarder {
    child: Child,
    /// The program and its role, for messages.
    pub name: String,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

/// Returns a loopback address at which nothing listens now, for TCP or UDP.
pub fn free_addr() -> SocketAddr {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        if UdpSocket::bind(addr).is_ok() {
            return addr;
        }
    }
}

/// Whether kcptun's programs are installed.
pub fn kcptun_is_there() -> bool {
    let in_path = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
    };
    in_path("kcptun-client") && in_path("kcptun-server")
}

impl Options {
    fn arguments(&self, program: &Program, role: Role) -> Vec<String> {
        let end = usize::from(role == Role::Server);
        let mut arguments = vec![
            format!("--smuxver={}", self.smuxver),
            format!("--crypt={}", self.crypt),
            format!("--key={}", self.key),
            format!("--mode={}", self.mode),
            format!("--mtu={}", self.mtu),
            format!("--sndwnd={}", self.sndwnd[end]),
            format!("--rcvwnd={}", self.rcvwnd[end]),
            format!("--keepalive={}", self.keepalive),
        ];
        if role == Role::Client {
            arguments.push(format!("--conn={}", self.conn));
        }
        if *program == Program::Kcptun {
            arguments.extend(["--nocomp", "--datashard=0", "--parityshard=0"].map(str::to_owned));
        }
        arguments
    }
}

impl Forwarder {
    /// Starts the end that listens on UDP and connects to `target`.
    pub fn server(program: &Program, listen: SocketAddr, target: SocketAddr, of: &Options) -> Self {
        let addrs = [format!("--listen={listen}"), format!("--target={target}")];
        let forwarder = Self::start(program, Role::Server, addrs, of);
        forwarder.wait("udp", listen)
    }

    /// Starts the end that listens on TCP and sends to `remote`.
    pub fn client(program: &Program, listen: SocketAddr, remote: SocketAddr, of: &Options) -> Self {
        let names = match program {
            Program::Ours(_) => ["listen", "remote"],
            Program::Kcptun => ["localaddr", "remoteaddr"],
        };
        let addrs = [format!("--{}={listen}", names[0]), format!("--{}={remote}", names[1])];
        let forwarder = Self::start(program, Role::Client, addrs, of);
        forwarder.wait("tcp", listen)
    }

    fn start(program: &Program, role: Role, addrs: [String; 2], options: &Options) -> Self {
        let role_name = if role == Role::Client { "client" } else { "server" };
        let (mut command, whose) = match program {
            Program::Kcptun => (Command::new(format!("kcptun-{role_name}")), "kcptun"),
            Program::Ours(path) => {
                let mut command = Command::new(path);
                command.arg(role_name);
                (command, "ours")
            }
        };
        command.args(addrs).args(options.arguments(program, role));
        Self::spawn(format!("{whose} {role_name}"), command)
    }

    /// Starts any program.
    pub fn spawn(name: String, mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        let lines = Arc::default();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = outputs.map(|output| {
            let lines = Arc::clone(&lines);
            thread::spawn(move || collect(output, &lines))
        });
        Self { child, name, lines, readers: readers.into() }
    }

    /// Waits until the program listens at `addr`. Panics with its output if it ends instead.
    pub fn wait(mut self, protocol: &str, addr: SocketAddr) -> Self {
        let until = Instant::now() + START;
        while !listens(self.child.id(), protocol, addr.port()) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} has ended: {status}\n{}", self.name, self.log());
            }
            assert!(Instant::now() < until, "{} doesn't listen\n{}", self.name, self.log());
            // No event tells of a socket of another process.
            thread::sleep(Duration::from_millis(2));
        }
        self
    }

    /// Returns the processor time so far, user and system.
    pub fn cpu(&self) -> Duration {
        /// Units per second of the times in `stat`. Linux always shows hundredths of a second
        /// there.
        const TICKS: u64 = 100;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Count the fields after the name, because the name may contain spaces. Fields 14 and 15
        // are the times.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let times = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        Duration::from_millis(times.sum::<u64>() * 1000 / TICKS)
    }

    /// Returns the resident memory now, in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// Returns the number of open descriptors now.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Returns its output.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

impl Drop for Forwarder {
    /// Kills the program, so that it can't tell its peer anything, as when a machine fails.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if thread::panicking() {
            eprintln!("---- {} said:\n{}", self.name, self.log());
        }
    }
}

fn collect(output: impl Read, lines: &Mutex<Vec<String>>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while matches!(output.read_until(b'\n', &mut line), Ok(1..)) {
        let mut lines = lines.lock().unwrap();
        if lines.len() < LINES {
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        line.clear();
    }
}

/// Whether a socket of this protocol is bound to the port, in the network namespace of the process.
fn listens(process: u32, protocol: &str, port: u16) -> bool {
    let bound = |table: String| {
        table.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().and_then(|local| local.rsplit_once(':'));
            let listening = protocol == "udp" || fields.nth(1) == Some("0A");
            listening && local.is_some_and(|local| u16::from_str_radix(local.1, 16) == Ok(port))
        })
    };
    [protocol.to_owned(), format!("{protocol}6")].iter().any(|name| {
        let path = format!("/proc/{process}/net/{name}");
        fs::read_to_string(Path::new(&path)).is_ok_and(bound)
    })
}

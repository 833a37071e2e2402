//! Forwarders over KCP as child processes: our example `kcp`, and kcptun's own programs. Both take
//! the same options by the same names.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a program may take until it listens.
const START: Duration = Duration::from_secs(30);

/// Lines of a program's output that are kept: the first ones.
const LINES: usize = 2000;

/// Whose program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Our example, built, here.
    Ours(PathBuf),
    /// Debian's kcptun-client and kcptun-server.
    Kcptun,
}

/// What both ends are told. The default is kcptun's own, but for compression and error correction,
/// which are off, and for encryption, too.
#[derive(Clone, Debug)]
pub struct Options {
    pub smuxver: u8,
    pub crypt: &'static str,
    pub key: &'static str,
    pub mode: &'static str,
    pub mtu: usize,
    /// Datagrams: at the client, at the server.
    pub sndwnd: [usize; 2],
    pub rcvwnd: [usize; 2],
    /// Connections of the client's to the server.
    pub conn: usize,
    /// Seconds.
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
    /// Whose program, and its role.
    pub name: String,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

/// An address on loopback at which nothing listens now, for TCP or UDP.
pub fn free_addr() -> SocketAddr {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        if UdpSocket::bind(addr).is_ok() {
            return addr;
        }
    }
}

/// Whether kcptun's programs are here.
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
    /// The end that listens on UDP and connects to `target`.
    pub fn server(program: &Program, listen: SocketAddr, target: SocketAddr, of: &Options) -> Self {
        let addrs = [format!("--listen={listen}"), format!("--target={target}")];
        let forwarder = Self::start(program, Role::Server, addrs, of);
        forwarder.wait("udp", listen)
    }

    /// The end that listens on TCP and sends to `remote`.
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

    /// Any program.
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

    /// Waits until something listens there. A program that ends instead is a panic with its words.
    pub fn wait(mut self, protocol: &str, addr: SocketAddr) -> Self {
        let until = Instant::now() + START;
        while !listens(self.child.id(), protocol, addr.port()) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} has ended: {status}\n{}", self.name, self.log());
            }
            assert!(Instant::now() < until, "{} doesn't listen\n{}", self.name, self.log());
            thread::sleep(Duration::from_millis(2)); // another process's socket has no event
        }
        self
    }

    /// Processor time so far, user and system.
    pub fn cpu(&self) -> Duration {
        /// Of the times in `stat`: Linux shows hundredths, whatever its own clock is.
        const TICKS: u64 = 100;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name may hold anything, so count behind it. Fields 14 and 15 are the times.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let times = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        Duration::from_millis(times.sum::<u64>() * 1000 / TICKS)
    }

    /// Resident memory now, in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// Open descriptors now.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

impl Drop for Forwarder {
    /// Kills it, as a machine's end would: it says nothing to anybody.
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

/// Whether a socket of that protocol is bound to the port, in the process's own network.
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

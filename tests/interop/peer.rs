//! Builds gopeer from `go/` when it can be built, and runs it as a child process.
//!
//! Invariant: if Go or Debian's smux package is missing, the terminal shows `LEFT OUT: …`, even if
//! the test harness captures output. With `GMUX_INTEROP=required` this is a failure. Everything
//! else that goes wrong is always a failure.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};

use gmux::{Config, Session};

/// The directory of Debian's sources of Go packages.
const GOPATH: &str = "/usr/share/gocode";

/// Go's side of the smux session. We have the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// A protocol version and a role. Every test runs with each combination.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub version: u8,
    pub go: Side,
}

impl Case {
    pub const ALL: [Self; 4] = [
        Self { version: 1, go: Side::Server },
        Self { version: 1, go: Side::Client },
        Self { version: 2, go: Side::Server },
        Self { version: 2, go: Side::Client },
    ];

    /// Whether we open the streams. The client does, unless a test decides otherwise.
    pub fn we_open(self) -> bool {
        self.go == Side::Server
    }

    pub fn session(self, transport: TcpStream, config: Config) -> Session {
        let config = config.version(self.version);
        match self.go {
            Side::Server => Session::client(transport, config).unwrap(),
            Side::Client => Session::server(transport, config).unwrap(),
        }
    }
}

/// Returns gopeer's path. The error names the part that is missing to build it.
pub fn binary() -> Result<&'static Path, &'static str> {
    static BINARY: OnceLock<Result<PathBuf, &'static str>> = OnceLock::new();
    BINARY.get_or_init(build).as_ref().map(PathBuf::as_path).map_err(|missing| *missing)
}

/// Whether gopeer can be built. If not, this prints it visibly.
pub fn is_there(test: &str) -> bool {
    let Err(missing) = binary() else { return true };
    let text = format!("LEFT OUT: {test}: {missing}");
    assert!(std::env::var("GMUX_INTEROP").as_deref() != Ok("required"), "{text}");
    // This isn't `eprintln!`, because the harness would hide its output. A test that did nothing
    // would then look like one that has passed.
    std::io::stderr().write_all(format!("\n{text}\n").as_bytes()).unwrap();
    false
}

fn build() -> Result<PathBuf, &'static str> {
    if !Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/go").is_dir() {
        return Err("the Go peer's source isn't here (published packages go without it)");
    }
    if Command::new("go").arg("version").stdout(Stdio::null()).status().is_err() {
        return Err("no Go compiler (Debian: golang-go)");
    }
    if !Path::new(GOPATH).join("src/github.com/xtaci/smux").is_dir() {
        return Err("no smux for Go (Debian: golang-github-xtaci-smux-dev)");
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(target).unwrap();
    let mut go = Command::new("go");
    // This build uses neither modules nor a network, so settings for Go modules must not affect it.
    go.env("GO111MODULE", "off").env("GOPATH", GOPATH).env_remove("GOFLAGS");
    if std::env::var_os("HOME").is_none() && std::env::var_os("GOCACHE").is_none() {
        go.env("GOCACHE", target.join("go-cache"));
    }
    // Build under another name first, so that a second run never finds a half-written program.
    let fresh = target.join(format!("gopeer-{}", std::process::id()));
    go.current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "-o"])
        .arg(&fresh)
        .arg("./tests/interop/go");
    let built = go.output().unwrap();
    assert!(
        built.status.success(),
        "gopeer doesn't build: {}",
        String::from_utf8_lossy(&built.stderr)
    );
    let program = target.join("gopeer");
    fs::rename(fresh, &program).unwrap();
    Ok(program)
}

/// A running gopeer.
pub struct Peer {
    args: Vec<String>,
    child: Child,
    out: Option<JoinHandle<Vec<String>>>,
    err: Option<JoinHandle<Vec<String>>>,
}

impl Peer {
    /// Starts gopeer in `mode` and connects to it. `README.md` lists the options. As the smux
    /// server gopeer listens, and as the client it dials.
    pub fn start(case: Case, mode: &str, options: &[&str]) -> (Self, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut args: Vec<String> = ["-mode", mode, "-version"].map(String::from).into();
        args.push(case.version.to_string());
        // Less than our watchdog's time, so that gopeer can print its goroutines.
        args.extend(
            ["-timeout", "50s", "-opener", if case.we_open() { "peer" } else { "go" }]
                .map(String::from),
        );
        match case.go {
            Side::Server => args.extend(["-role", "listen", "-side", "server"].map(String::from)),
            Side::Client => {
                let addr = listener.local_addr().unwrap().to_string();
                args.extend(["-role", "dial", "-side", "client", "-addr", &addr].map(String::from));
            }
        }
        args.extend(options.iter().map(ToString::to_string)); // The last value of a flag counts.
        let mut child = Command::new(binary().unwrap())
            .args(&args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let err = collect(BufReader::new(child.stderr.take().unwrap()));
        let mut first = String::new();
        if case.go == Side::Server {
            out.read_line(&mut first).unwrap();
        }
        let peer = Self { args, child, out: Some(collect(out)), err: Some(err) };
        let transport = match case.go {
            Side::Server => {
                let addr =
                    first.strip_prefix("ADDR ").expect("the first line says where it listens");
                TcpStream::connect(addr.trim()).unwrap()
            }
            Side::Client => listener.accept().unwrap().0,
        };
        (peer, transport)
    }

    /// Waits until gopeer exits, which has to be with success. Returns its output.
    pub fn finish(mut self) -> Said {
        let out = self.out.take().unwrap().join().unwrap();
        let err = self.err.take().unwrap().join().unwrap();
        let status = self.child.wait().unwrap();
        assert!(
            status.success(),
            "gopeer {:?} left with {status}:\n{}\n{}",
            self.args,
            out.join("\n"),
            err.join("\n")
        );
        Said(out)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.out.is_some() {
            // The test has failed. End gopeer, and print its output to explain the failure.
            let _ = self.child.kill();
            let _ = self.child.wait();
            let out = self.out.take().unwrap().join();
            let err = self.err.take().unwrap().join();
            eprintln!("gopeer {:?} said {out:?}, {err:?}", self.args);
        }
    }
}

fn collect(lines: impl Read + Send + 'static) -> JoinHandle<Vec<String>> {
    thread::spawn(move || BufReader::new(lines).lines().map_while(Result::ok).collect())
}

/// gopeer's standard output.
#[derive(Debug)]
pub struct Said(pub Vec<String>);

impl Said {
    /// Returns all lines except the counts of frames.
    pub fn events(&self) -> Vec<&str> {
        let other = |line: &&str| !line.starts_with("WIRE ") && !line.starts_with("NOTE ");
        self.0.iter().map(String::as_str).filter(other).collect()
    }

    /// Returns a count of `WIRE in` (frames that we sent) or `WIRE out`.
    pub fn wire(&self, direction: &str, what: &str) -> u64 {
        let line = self
            .0
            .iter()
            .find_map(|line| line.strip_prefix(&format!("WIRE {direction} ")))
            .expect("WIRE");
        let count = line
            .split(' ')
            .find_map(|word| word.strip_prefix(what)?.strip_prefix('='))
            .expect(what);
        count.parse().unwrap()
    }
}

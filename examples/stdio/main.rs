//! Many streams over the standard input and output of a command, such as ssh. No port is opened at
//! the other host, and ssh does the login and the encryption.
//!
//! ```text
//! cargo build --example stdio             and copy target/debug/examples/stdio to the other host
//! stdio check -- ssh host stdio serve
//! stdio forward --port 127.0.0.1:8080=10.0.0.7:80 -- ssh host stdio serve --allow 10.0.0.7:80
//! ```
//!
//! `child.rs` is how a command is started and ended, `own.rs` how a program takes over its own
//! standard input and output: both are there to be copied. `child.rs` needs nothing but gmux,
//! `own.rs` needs `rustix = { version = "1", features = ["stdio"] }` in your `Cargo.toml` (on
//! Unix).

mod child;
mod own;

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use gmux::{Config, Session, Stream, copy_bidirectional};

use child::Running;

/// Many streams over the standard input and output of a command, such as ssh.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Serve on this process's own standard input and output.
    ///
    /// That is what the command of the other modes has to come to. Messages go to standard error.
    Serve {
        /// A target of `forward` that is connected to; others are refused. May be given several
        /// times.
        #[arg(long, value_name = "HOST:PORT")]
        allow: Vec<String>,
    },
    /// Open streams all at once, send on each, and compare what comes back.
    Check {
        /// How many streams
        #[arg(long, default_value_t = 100)]
        streams: usize,
        /// How much each sends, in KiB
        #[arg(long, default_value_t = 64)]
        kib: usize,
        /// What to start, with its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Forward local TCP ports to what the other host can reach.
    Forward {
        /// Where to listen, and where the other host connects. May be given several times.
        #[arg(long = "port", value_name = "LISTEN=HOST:PORT", required = true, value_parser = port)]
        ports: Vec<(String, String)>,
        /// What to start, with its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn port(text: &str) -> Result<(String, String), String> {
    let (listen, target) = text.split_once('=').ok_or("expected LISTEN=HOST:PORT")?;
    Ok((listen.to_owned(), target.to_owned()))
}

/// Version 2, since both ends are this program: a stream that nobody reads holds up no other.
fn config() -> Config {
    Config::new().version(2)
}

fn main() -> ExitCode {
    let done = match Cli::parse().mode {
        Mode::Serve { allow } => serve(allow).map(|()| ExitCode::SUCCESS),
        Mode::Check { streams, kib, command } => child::start(&command, config())
            .map(|running| finish(check(&running.session, streams, kib * 1024), running)),
        Mode::Forward { ports, command } => child::start(&command, config())
            .map(|running| finish(forward(&running.session, ports), running)),
    };
    done.unwrap_or_else(|error| {
        eprintln!("stdio: {error}");
        ExitCode::FAILURE
    })
}

/// Says how it went, and how the command ended. If that failed, its code is this program's.
fn finish(done: io::Result<()>, running: Running) -> ExitCode {
    let (closed, end) = running.finish();
    // What ended the session says more than what a stream of it saw.
    let session = closed.map_err(io::Error::from);
    let result = session.and(done);
    eprintln!("stdio: {end}"); // first: where the command failed, the rest follows from that
    if let Err(error) = &result {
        eprintln!("stdio: {error}");
    }
    match end.code() {
        Some(code) if code != 0 => ExitCode::from(code),
        _ if result.is_ok() && end.is_success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

// ---- what is served, by the stream's name -------------------------------------------------------

fn serve(allow: Vec<String>) -> io::Result<()> {
    let session = Session::server(own::take()?, config())?;
    thread::scope(|scope| {
        for stream in &session {
            let stream = stream?;
            let allow = &allow;
            thread::Builder::new().spawn_scoped(scope, move || {
                if let Err(error) = serve_stream(&stream, allow) {
                    eprintln!("stdio serve: {:?}: {error}", stream.name());
                }
            })?;
        }
        // The other end has closed, with no stream cut off. Ok: it has got all.
        session.close().map_err(io::Error::from)
    })
}

fn serve_stream(mut stream: &Stream, allow: &[String]) -> io::Result<()> {
    // The bytes decide: a name that was made fit for showing isn't what was asked for.
    let name = str::from_utf8(stream.name_bytes()).unwrap_or_default();
    let Some(target) = name.strip_prefix("tcp ") else {
        if name == "echo" {
            return io::copy(&mut &*stream, &mut stream).map(drop);
        }
        return writeln!(stream, "no such service");
    };
    if !allow.iter().any(|allowed| allowed == target) {
        return writeln!(stream, "{target} is not allowed: see --allow of serve");
    }
    match TcpStream::connect(target) {
        Ok(tcp) => {
            writeln!(stream, "{CONNECTED}")?;
            copy_bidirectional(stream, &tcp)
                .map(drop)
                .inspect_err(|_| reset(&tcp))
                .map_err(io::Error::from)
        }
        Err(error) => writeln!(stream, "{target}: {error}"),
    }
}

/// The first line of a forwarded connection, unless it says why there is none.
const CONNECTED: &str = "connected";

/// The longest such line that is read, in bytes: it comes from the peer.
const LONGEST: u64 = 1024;

/// Lets the socket's peer see a reset, not an end of file that looks as if all had come.
fn reset(tcp: &TcpStream) {
    let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

// ---- forward ------------------------------------------------------------------------------------

/// How long connections may take to end when the session has: what was received before is still
/// written, to whoever reads slowly.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves the ports until the session ends.
fn forward(session: &Session, ports: Vec<(String, String)>) -> io::Result<()> {
    let listeners = ports.len();
    // one reference here, one for each listener, and one for each connection
    let busy = Arc::new(());
    for (listen, target) in ports {
        let listener = TcpListener::bind(&listen)
            .map_err(|error| io::Error::new(error.kind(), format!("{listen}: {error}")))?;
        println!("listening on {}", listener.local_addr()?);
        let session = session.clone();
        let busy = Arc::clone(&busy);
        thread::Builder::new().spawn(move || {
            for tcp in listener.incoming() {
                let session = session.clone();
                let target = target.clone();
                let busy = Arc::clone(&busy);
                let carry = move || {
                    let _busy = busy;
                    let carried = tcp.and_then(|tcp| carry(&session, &tcp, &target));
                    let _ = carried.inspect_err(|error| eprintln!("stdio forward: {error}"));
                };
                if let Err(error) = thread::Builder::new().spawn(carry) {
                    eprintln!("stdio forward: {error}"); // that connection ends
                }
            }
        })?;
    }
    let _ = session.closed().recv(); // it disconnects, when the command has ended or was lost
    // An exit closes all sockets as if they had ended well. So those who use them are told first.
    let limit = Instant::now() + PATIENCE;
    while Arc::strong_count(&busy) > 1 + listeners && Instant::now() < limit {
        thread::sleep(Duration::from_millis(10));
    }
    match session.close_reason() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// One connection, over a stream of its own.
fn carry(session: &Session, tcp: &TcpStream, target: &str) -> io::Result<()> {
    let carried =
        session.open(format!("tcp {target}")).map_err(io::Error::from).and_then(|stream| {
            // An end of file is no proof of anything: the other end says that it has connected, or
            // why not.
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                let mut byte = [0];
                if (&stream).take(LONGEST - line.len() as u64).read(&mut byte)? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                line.push(byte[0]);
            }
            match String::from_utf8_lossy(&line).trim_end() {
                CONNECTED => copy_bidirectional(&stream, tcp).map(drop).map_err(io::Error::from),
                refused => Err(io::Error::other(refused.to_owned())),
            }
        });
    carried.inspect_err(|_| reset(tcp))
}

// ---- check --------------------------------------------------------------------------------------

fn check(session: &Session, streams: usize, size: usize) -> io::Result<()> {
    let began = Instant::now();
    thread::scope(|scope| {
        let checks: Vec<_> = (0..streams)
            .map(|number| {
                thread::Builder::new().spawn_scoped(scope, move || check_one(session, number, size))
            })
            .collect::<io::Result<_>>()?;
        checks.into_iter().try_for_each(|check| check.join().expect("a thread panicked"))
    })?;
    let all = streams * size;
    let time = began.elapsed();
    let what = if streams == 1 { "stream" } else { "streams at once" };
    println!("{streams} {what}, {all} bytes each way in {time:.2?}: all came back");
    Ok(())
}

/// Sends, finishes its side, and still reads the rest: a half-close.
fn check_one(session: &Session, number: usize, size: usize) -> io::Result<()> {
    let stream = session.open("echo")?;
    let sent: Vec<u8> = (0..size).map(|at| ((at * 7) ^ (at >> 8) ^ (number * 31)) as u8).collect();
    let mut came = Vec::new();
    thread::scope(|scope| {
        let writer = thread::Builder::new().spawn_scoped(scope, || {
            (&stream).write_all(&sent)?;
            stream.shutdown(Shutdown::Write)
        })?;
        (&stream).read_to_end(&mut came)?;
        writer.join().expect("a thread panicked")
    })?;
    if came == sent {
        Ok(())
    } else {
        Err(io::Error::other(format!("stream {number}: other bytes came back")))
    }
}

//! Many streams over the standard input and output of a command, such as ssh.
//! No port is opened at the other host. ssh does the login and the encryption.
//!
//! ```text
//! cargo build --example stdio             and copy target/debug/examples/stdio to the other host
//! stdio check -- ssh host stdio serve
//! stdio forward --port 127.0.0.1:8080=10.0.0.7:80 -- ssh host stdio serve --allow 10.0.0.7:80
//! ```
//!
//! Two files are meant to be copied into your program:
//! - `child.rs` starts and ends a command. It needs nothing but gmux.
//! - `own.rs` takes over the program's own standard input and output. On Unix it needs
//!   `rustix = { version = "1", features = ["stdio"] }` in your `Cargo.toml`.

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
    /// The command that you give to the other modes has to start this mode at the other host.
    /// Messages go to standard error.
    Serve {
        /// A target that `forward` may use. All others are refused. May be given several times.
        #[arg(long, value_name = "HOST:PORT")]
        allow: Vec<String>,
    },
    /// Open many streams at once, send data on each, and compare it with the answer.
    Check {
        /// Number of streams
        #[arg(long, default_value_t = 100)]
        streams: usize,
        /// Data that each stream sends, in KiB
        #[arg(long, default_value_t = 64)]
        kib: usize,
        /// The command to start, with its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Forward local TCP ports to addresses that the other host can reach.
    Forward {
        /// Address to listen on, and address that the other host connects to. May be given several
        /// times.
        #[arg(long = "port", value_name = "LISTEN=HOST:PORT", required = true, value_parser = port)]
        ports: Vec<(String, String)>,
        /// The command to start, with its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn port(text: &str) -> Result<(String, String), String> {
    let (listen, target) = text.split_once('=').ok_or("expected LISTEN=HOST:PORT")?;
    Ok((listen.to_owned(), target.to_owned()))
}

/// The configuration of both ends. With version 2 of the protocol, a stream that nobody reads
/// doesn't stop the others. Both ends are this program, so both use version 2.
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

/// Prints how the session and the command ended. If the command failed, its exit code becomes this
/// program's.
fn finish(done: io::Result<()>, running: Running) -> ExitCode {
    let (closed, end) = running.finish();
    // The session's error says more than the error of one of its streams.
    let session = closed.map_err(io::Error::from);
    let result = session.and(done);
    // This comes first, because a failure of the command explains the other errors.
    eprintln!("stdio: {end}");
    if let Err(error) = &result {
        eprintln!("stdio: {error}");
    }
    match end.code() {
        Some(code) if code != 0 => ExitCode::from(code),
        _ if result.is_ok() && end.is_success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

// ---- serve: the stream's name says which service it wants --------------------------------------

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
        // The client has closed the session, and no stream was cut off. Ok means that the client
        // has received everything.
        session.close().map_err(io::Error::from)
    })
}

fn serve_stream(mut stream: &Stream, allow: &[String]) -> io::Result<()> {
    // Take the name from its bytes. `name()` replaces bytes that aren't UTF-8, so it may differ
    // from the name that the peer sent.
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

/// The first line of a forwarded stream if the target is connected. If it isn't, the first line
/// gives the reason.
const CONNECTED: &str = "connected";

/// Limit of the first line's length, in bytes. It is needed because the line comes from the peer.
const MAX_LINE: u64 = 1024;

/// Makes the drop of the socket a reset. An end of file would tell the socket's peer that
/// everything has arrived.
fn reset(tcp: &TcpStream) {
    let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

// ---- forward ------------------------------------------------------------------------------------

/// Time that the connections have to end after the session has ended. Received bytes are still
/// being written then, and some users read slowly.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the ports until the session ends.
fn forward(session: &Session, ports: Vec<(String, String)>) -> io::Result<()> {
    let listeners = ports.len();
    // Counts the connections. There is one reference here, one for each listener, and one for each
    // connection.
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
                    if let Err(error) = tcp.and_then(|tcp| carry(&session, &tcp, &target)) {
                        eprintln!("stdio forward: {error}");
                    }
                };
                if let Err(error) = thread::Builder::new().spawn(carry) {
                    eprintln!("stdio forward: {error}"); // The connection was closed.
                }
            }
        })?;
    }
    let _ = session.closed().recv(); // The channel disconnects when the session ends.
    // An exit of this program would close all sockets, and their peers would read an end of file,
    // as after a success. So the connections get time to end first. Those that failed end with a
    // reset.
    let limit = Instant::now() + DRAIN_TIMEOUT;
    while Arc::strong_count(&busy) > 1 + listeners && Instant::now() < limit {
        thread::sleep(Duration::from_millis(10));
    }
    match session.close_reason() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Carries one connection over a new stream.
fn carry(session: &Session, tcp: &TcpStream, target: &str) -> io::Result<()> {
    let carried =
        session.open(format!("tcp {target}")).map_err(io::Error::from).and_then(|stream| {
            // The server first sends a line. The line says that the target is connected, or why
            // not. An end of file instead of the line is an error.
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                let mut byte = [0];
                if (&stream).take(MAX_LINE - line.len() as u64).read(&mut byte)? == 0 {
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

/// Sends all data, ends its side, and still reads the rest of the answer. This is a half-close.
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

//! The other process. Commands come by its standard input, one a line. Its answers are lines that
//! begin with [`MARK`], since the test harness writes to the same output.

use std::env;
use std::io::{self, BufRead, Read, Write, stdin, stdout};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use gmux::{Config, Error, Session, Stream};

use super::support::links::Any;
use super::support::process_snapshot::{ProcessSnapshot, namesakes};
use super::support::{Pattern, threads};
use super::traffic::{self, Moved};

/// The beginning of each of its answers.
pub const MARK: &str = "@@ ";

/// The variable that holds the child's part. [`run`] lists the parts.
pub const PART: &str = "GMUX_PROCESS_PART";

fn say(text: impl std::fmt::Display) {
    let mut out = stdout().lock();
    writeln!(out, "{MARK}{text}").unwrap();
    out.flush().unwrap();
}

fn commands() -> impl Iterator<Item = String> {
    stdin().lock().lines().map(Result::unwrap)
}

/// Runs the child's part. Does nothing if this process is no child.
pub fn run() {
    let Ok(part) = env::var(PART) else { return };
    let words: Vec<&str> = part.split(' ').collect();
    match words[..] {
        ["talk", addr, role, version, keepalive, close] => {
            talk(addr, role, config(version, keepalive, close))
        }
        ["upload", addr, version] => upload(addr, version),
        ["crowd", addr] => crowd(addr),
        _ => panic!("{part}"),
    }
}

/// Returns the configuration. The timeouts of keepalive and close are in milliseconds.
pub fn config(version: &str, keepalive: &str, close: &str) -> Config {
    let timeout = Duration::from_millis(keepalive.parse().unwrap());
    Config::new()
        .version(version.parse().unwrap())
        .keepalive_interval(timeout / 10)
        .keepalive_timeout(timeout)
        .close_timeout(Duration::from_millis(close.parse().unwrap()))
}

fn connect(addr: &str) -> Any {
    if addr.starts_with('/') {
        Any::new(UnixStream::connect(addr).unwrap())
    } else {
        Any::new(TcpStream::connect(addr).unwrap())
    }
}

/// Starts the session for `role`.
pub fn session(transport: Any, role: &str, config: Config) -> Session {
    match role {
        "client" => Session::client(transport, config).unwrap(),
        _ => Session::server(transport, config).unwrap(),
    }
}

/// Sends without end on a stream that it opens. Reads the stream's data, unless told `deaf`.
fn talk(addr: &str, role: &str, config: Config) {
    let all = namesakes();
    let role_only = role.trim_start_matches("deaf-");
    let session = session(connect(addr), role_only, config);
    let stream = session.open("both ways").unwrap();
    let moved = Moved::default();
    thread::scope(|scope| {
        let writing = scope.spawn(|| traffic::send(&stream, &moved));
        let reading = scope
            .spawn(|| if role == role_only { Some(traffic::check(&stream, &moved)) } else { None });
        for command in commands() {
            match &*command {
                "moving" => {
                    moved.wait_for(1 << 20);
                    say("moving");
                }
                "full" => {
                    moved.wait_until_stuck(&session);
                    say("full");
                }
                "close" => say(outcome(session.close())),
                "ended" => {
                    let _ = session.closed().recv(); // The channel is disconnected.
                    let write = writing.join().unwrap();
                    let read = reading.join().unwrap();
                    say(format!(
                        "{:?} | {:?} | {:?}",
                        session.close_reason(),
                        write.kind(),
                        read.map(|e| e.kind())
                    ));
                    break;
                }
                other => panic!("{other}"),
            }
        }
    });
    drop(stream);
    drop(session);
    say(ProcessSnapshot::settled(all).threads);
}

/// Number of streams that [`upload`] sends, and the bytes on each.
pub const UPLOADS: usize = 16;
pub const UPLOAD: usize = 200 << 10;

/// An ordinary client. It writes, finishes, closes, and exits as soon as `close` returns Ok.
fn upload(addr: &str, version: &str) {
    let config = Config::new().version(version.parse().unwrap());
    let session = session(connect(addr), "client", config);
    let streams: Vec<Stream> =
        (0..UPLOADS).map(|i| session.open(format!("upload {i}")).unwrap()).collect();
    thread::scope(|scope| {
        for (i, mut stream) in streams.iter().enumerate() {
            scope.spawn(move || {
                stream.write_all(&Pattern::bytes(i as u64, UPLOAD)).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
        }
    });
    let outcome = outcome(session.close());
    say(outcome);
    std::process::exit(0); // As when `main` returns, values on other threads aren't dropped.
}

fn outcome(result: Result<(), Error>) -> String {
    result.map_or_else(|error| format!("{error:?}"), |()| "Ok".to_owned())
}

/// Makes sessions while threads or descriptors are scarce, over connections that it has made
/// before. Reports the results.
fn crowd(addr: &str) {
    let all = namesakes();
    let mut connections: Vec<TcpStream> =
        (0..8).map(|_| TcpStream::connect(addr).unwrap()).collect();
    connections.reverse();
    let mut sessions: Vec<(Session, Stream)> = Vec::new();
    let mut hoard: Vec<TcpStream> = Vec::new();
    let spare = TcpStream::connect(addr).unwrap();
    for command in commands() {
        match &*command {
            "count" => say(format!("{} {}", threads().len(), ProcessSnapshot::now())),
            "settle" => say(ProcessSnapshot::settled(all)),
            "try" => match Session::client(connections.pop().unwrap(), Config::new()) {
                Ok(session) => {
                    let stream = session.open("crowded").unwrap();
                    sessions.push((session, stream));
                    say("Ok");
                }
                Err(error) => say(format!("{:?} {error}", error.kind())),
            },
            // Sends a byte there and back on every session.
            "echo" => {
                for (_, stream) in &mut sessions {
                    stream.write_all(&[7]).unwrap();
                    let mut back = [0];
                    stream.read_exact(&mut back).unwrap();
                    assert_eq!(back, [7]);
                }
                say(sessions.len());
            }
            "close" => {
                for (session, stream) in sessions.drain(..) {
                    drop(stream);
                    session.close().unwrap();
                }
                say("closed");
            }
            "hoard" => {
                let error = loop {
                    match spare.try_clone() {
                        Ok(same) => hoard.push(same),
                        Err(error) => break error,
                    }
                };
                say(format!("{} {error}", hoard.len()));
            }
            "connect" => say(TcpStream::connect(addr)
                .map(drop)
                .map_err(|error| error.to_string())
                .unwrap_err()),
            "unhoard" => {
                hoard = Vec::new();
                say("free");
            }
            other => panic!("{other}"),
        }
    }
}

/// Echoes a stream's data to its end.
pub fn echo(mut stream: Stream) -> io::Result<()> {
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

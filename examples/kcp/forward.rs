//! Forwarding: a TCP connection at one end, a stream between, a TCP connection at the other end.
//!
//! Invariants: an end in one direction is passed on, and the other direction goes on; an error in
//! one ends both. A client whose session has ended makes a new one for the next connection.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use gmux::{Session, Stream};

use crate::kcp::{self, Endpoint};
use crate::options::{Client, Server};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Copies so much at a time, in bytes: what a frame and the socket like, and a thread can afford.
const BUFFER: usize = 64 * 1024;

/// How long accepting pauses after an error, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The server: each conversation is a session, each stream a connection to the target.
pub fn serve(options: &Server) -> Result<()> {
    let endpoint = Endpoint::bind(&options.listen, &options.settings())?;
    println!("listening on {}", endpoint.local_addr());
    loop {
        let transport = endpoint.accept()?;
        let peer = transport.peer_addr();
        let (config, target, quiet) = (options.common.config(), options.target.clone(), options.common.quiet);
        let session = Session::server(transport, config)?;
        println!("session from {peer}");
        spawn("session", move || {
            for stream in session.incoming() {
                match stream {
                    Ok(stream) => {
                        let target = target.clone();
                        spawn("stream", move || serve_stream(&stream, &target, quiet));
                    }
                    Err(error) => println!("session from {peer}: {error}"),
                }
            }
        });
    }
}

fn serve_stream(stream: &Stream, target: &str, quiet: bool) {
    match TcpStream::connect(target) {
        Ok(tcp) => copy_both(stream, &tcp, quiet),
        Err(error) => println!("{target}: {error}"), // the drop of the stream closes it
    }
}

/// The client: each TCP connection is a stream of one of the sessions, in turn.
pub fn connect(options: Client) -> Result<()> {
    options.common.config().validate()?;
    let listener = TcpListener::bind(&options.listen)?;
    println!("listening on {}", listener.local_addr()?);
    let sessions = Arc::new(Sessions::new(options));
    for tcp in listener.incoming() {
        match tcp {
            Ok(tcp) => {
                let sessions = Arc::clone(&sessions);
                spawn("stream", move || match sessions.open() {
                    Ok(stream) => copy_both(&stream, &tcp, sessions.options.common.quiet),
                    Err(error) => println!("no stream: {error}"),
                });
            }
            Err(error) => {
                println!("no connection: {error}");
                thread::sleep(PAUSE);
            }
        }
    }
    Ok(())
}

/// The client's sessions, made when they are needed.
struct Sessions {
    options: Client,
    /// Each lock guards its session; it is held while that is made.
    slots: Vec<Mutex<Option<Session>>>,
    next: AtomicUsize,
}

impl Sessions {
    fn new(options: Client) -> Self {
        let slots = (0..options.conn).map(|_| Mutex::new(None)).collect();
        Self { options, slots, next: AtomicUsize::new(0) }
    }

    /// A stream of the session whose turn it is.
    fn open(&self) -> Result<Stream> {
        let turn = self.next.fetch_add(1, Relaxed) % self.slots.len();
        let slot = self.slots.get(turn).ok_or("no sessions")?;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let session = match slot.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => {
                let transport = kcp::connect(&self.options.remote, &self.options.settings())?;
                Session::client(transport, self.options.common.config())?
            }
        };
        Ok(slot.insert(session).open("")?) // kcptun's streams have no names
    }
}

/// Copies both ways until both have ended, or one has failed.
fn copy_both(stream: &Stream, tcp: &TcpStream, quiet: bool) {
    if !quiet {
        println!("stream {} opened", stream.id());
    }
    let _ = tcp.set_nodelay(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            if copy(tcp, stream).is_err() || stream.shutdown(Shutdown::Write).is_err() {
                end(stream, tcp);
            }
        });
        if copy(stream, tcp).is_err() || tcp.shutdown(Shutdown::Write).is_err() {
            end(stream, tcp);
        }
    });
    if !quiet {
        println!("stream {} closed", stream.id());
    }
}

fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(buffer.get(..n).unwrap_or_default())?,
        }
    }
}

/// Wakes the other direction.
fn end(stream: &Stream, tcp: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
    let _ = tcp.shutdown(Shutdown::Both);
}

/// Runs `body` in a thread. If there can't be another one, `body` is dropped, with its connections.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.into()).spawn(body) {
        println!("no thread: {error}");
    }
}

//! Forwards TCP connections. A TCP connection at one end is carried over a stream to a TCP
//! connection at the other end.
//!
//! Invariants:
//! - No peer can end the program.
//! - A client whose session has ended makes a new session for the next connection.
//! - Every thread ends with its connection.

use std::error::Error;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use gmux::{Session, Stream};
use parking_lot::Mutex;

use crate::copy::copy;
use crate::kcp::{self, Endpoint, KcpTransport};
use crate::options::{Client, Common, Server};
#[cfg(feature = "rustls")]
use crate::tls;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Pause after an error of `accept`, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// A hint for the user if nothing has ever arrived from the server.
const NO_ANSWER_HINT: &str =
    "is the address right, does the server run, and do both ends have the same --key and --crypt?";

/// Interval at which the server reports dropped datagrams.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Runs the server. Each KCP conversation carries a session, and each stream is connected to the
/// target.
pub fn serve(options: Server) -> Result<()> {
    options.common.config().validate()?;
    let endpoint = Arc::new(Endpoint::bind(&options.listen, &options.settings())?);
    println!("listening on {}", endpoint.local_addr());
    spawn("dropped", {
        let endpoint = Arc::clone(&endpoint);
        move || tell_of_dropped(&endpoint)
    });
    let server = Arc::new(ServerState::new(options)?);
    loop {
        let transport = endpoint.accept()?;
        let server = Arc::clone(&server);
        spawn("session", move || {
            let peer = transport.peer_addr();
            if let Err(error) = server.serve_session(transport, peer) {
                println!("session from {peer}: {error}");
            }
        });
    }
}

struct ServerState {
    options: Server,
    #[cfg(feature = "rustls")]
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl ServerState {
    fn new(options: Server) -> Result<Self> {
        Ok(Self {
            #[cfg(feature = "rustls")]
            tls: tls::of_server(&options)?,
            options,
        })
    }

    fn serve_session(self: &Arc<Self>, transport: KcpTransport, peer: SocketAddr) -> Result<()> {
        let session = self.session(transport)?;
        println!("session from {peer}");
        for stream in session.incoming() {
            let stream = stream?;
            let server = Arc::clone(self);
            spawn("stream", move || server.serve_stream(&stream));
        }
        Ok(())
    }

    fn session(&self, transport: KcpTransport) -> Result<Session> {
        let config = self.options.common.config();
        #[cfg(feature = "rustls")]
        if let Some(tls) = &self.tls {
            return Ok(Session::server(tls::accept(tls, transport)?, config)?);
        }
        Ok(Session::server(transport, config)?)
    }

    fn serve_stream(&self, stream: &Stream) {
        match TcpStream::connect(&self.options.target) {
            Ok(tcp) => forward(stream, tcp, &self.options.common),
            // The drop of the stream closes it.
            Err(error) => println!("{}: {error}", self.options.target),
        }
    }
}

/// Runs the client. Each TCP connection gets a stream. The streams are spread over the sessions,
/// round-robin.
pub fn connect(options: Client) -> Result<()> {
    options.common.config().validate()?;
    let listener = TcpListener::bind(&options.listen)?;
    println!("listening on {}", listener.local_addr()?);
    let sessions = Arc::new(Sessions::new(options)?);
    for tcp in listener.incoming() {
        match tcp {
            Ok(tcp) => {
                let sessions = Arc::clone(&sessions);
                spawn("stream", move || match sessions.open() {
                    Ok(stream) => forward(&stream, tcp, &sessions.options.common),
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

/// The client's sessions. Each is made when it is first needed.
struct Sessions {
    options: Client,
    /// Each lock guards one session. It is also held while that session is made.
    slots: Vec<Mutex<Option<Session>>>,
    next: AtomicUsize,
    #[cfg(feature = "rustls")]
    tls: Option<(Arc<rustls::ClientConfig>, rustls::pki_types::ServerName<'static>)>,
}

impl Sessions {
    fn new(options: Client) -> Result<Self> {
        Ok(Self {
            slots: (0..options.conn).map(|_| Mutex::new(None)).collect(),
            next: AtomicUsize::new(0),
            #[cfg(feature = "rustls")]
            tls: tls::of_client(&options)?,
            options,
        })
    }

    /// Opens a stream of the next session, round-robin.
    fn open(&self) -> Result<Stream> {
        let index = self.next.fetch_add(1, Relaxed) % self.slots.len();
        let mut slot = self.slots.get(index).ok_or("no sessions")?.lock();
        let session = match slot.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => self.session()?,
        };
        Ok(slot.insert(session).open("")?) // kcptun's streams have no names.
    }

    /// Makes a new session over a new UDP port.
    fn session(&self) -> Result<Session> {
        let transport = kcp::connect(&self.options.remote, &self.options.settings())?;
        let config = self.options.common.config();
        #[cfg(feature = "rustls")]
        if let Some(tls) = &self.tls {
            let tls = tls::connect(tls, transport)
                .map_err(|error| format!("{error}: {NO_ANSWER_HINT}"))?;
            return self.watched(Session::client(tls, config)?);
        }
        self.watched(Session::client(transport, config)?)
    }

    /// Starts a thread that prints the error by which the session ends. The streams may have ended
    /// earlier, so they may not show this error.
    fn watched(&self, session: Session) -> Result<Session> {
        let watched = session.clone();
        let remote = self.options.remote.clone();
        spawn("watch", move || {
            let _ = watched.closed().recv(); // The channel disconnects when the session ends.
            let Some(error) = watched.close_reason() else { return };
            if error.is_closed() || matches!(error, gmux::Error::PeerClosed) {
                return;
            }
            let hint = match watched.stats().bytes_received {
                0 => format!(": nothing ever came: {NO_ANSWER_HINT}"),
                _ => String::new(),
            };
            println!("the session with {remote} ended: {error}{hint}");
        });
        Ok(session)
    }
}

/// Copies in both directions until both have ended.
fn forward(stream: &Stream, tcp: TcpStream, options: &Common) {
    let id = stream.id();
    if !options.quiet {
        println!("stream {id} opened");
    }
    let copied = copy(stream, tcp, options.half_close);
    match copied {
        _ if options.quiet => {}
        Ok(copied) => println!(
            "stream {id}: {} bytes from the session, {} to it",
            copied.a_to_b, copied.b_to_a
        ),
        Err(error) => println!("stream {id}: {error}"),
    }
}

/// Reports dropped datagrams. Without this report, two ends with different settings look like a
/// dead link.
fn tell_of_dropped(endpoint: &Endpoint) {
    let counters = endpoint.counters();
    let dropped = [
        (&counters.short, "too short"),
        (&counters.checksum, "with a wrong checksum (another --key or --crypt there, or damaged)"),
        (
            &counters.fec,
            "with error correction (the other end needs --datashard 0 --parityshard 0)",
        ),
        (&counters.unknown, "of no session"),
        (&counters.malformed, "malformed"),
        (&counters.refused, "of new sessions beyond the limit"),
    ];
    let mut told = [0; 6];
    loop {
        thread::sleep(REPORT_INTERVAL);
        for ((counter, what), told) in dropped.iter().zip(&mut told) {
            let count = counter.load(Relaxed);
            if count > *told {
                let last = match *counters.last_damaged.lock() {
                    Some(peer) if std::ptr::eq(*counter, &counters.checksum) => {
                        format!(", the last from {peer}")
                    }
                    _ => String::new(),
                };
                println!("dropped {} datagrams {what}{last}", count - *told);
            }
            *told = count;
        }
    }
}

/// Runs `body` in a new thread. If the thread can't be started, `body` is dropped, with the
/// connections that it owns.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.into()).spawn(body) {
        println!("no thread: {error}");
    }
}

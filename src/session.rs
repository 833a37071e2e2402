//! [`Session`]: one connection and its streams.
//!
//! Invariant: handles are counted by hand; the last one, session's or stream's, closes the session.

#[path = "session/incoming.rs"] // benches and checks take this file by its path
mod incoming;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::config::Config;
use crate::engine::SessionShared;
use crate::error::{Error, Result};
use crate::proto::registry::Role;
use crate::stats::{SessionStats, StreamStats};
use crate::stream::Stream;
use crate::sync::deadline::not_zero;
use crate::transport::Transport;

pub use incoming::Incoming;

/// One connection that carries many streams.
///
/// Either end opens streams, by name, and accepts those of the other. The two ends differ only in
/// their streams' ids: one has to be the [`client`](Session::client), the other the
/// [`server`](Session::server).
///
/// `Clone` gives another handle to the same session. It lives while any of its handles does,
/// session's or stream's; when all `Session` handles are dropped, its streams live on, and later
/// streams of the peer are refused.
///
/// # Closing
/// [`close`](Session::close), or the drop of the last handle, sends what was accepted and ends the
/// writing direction. Streams that the application closed before get their FIN. Others get none, so
/// that their peers see an error and not a clean end. Then what still comes is read and dropped
/// until the peer ends its side, so that no unread input makes the system reset the connection,
/// which would purge what was sent. All that takes at most
/// [`close_timeout`](Config::close_timeout).
///
/// | | returns when | then |
/// |---|---|---|
/// | `close()` is Ok | everything accepted was handed to the transport, and after that the peer has ended its side | the process may exit: the peer's session has everything |
/// | `close()` is an error | it can't be so: see there | what was sent may be lost if the process exits |
/// | the last handle is dropped | everything accepted was handed to the transport; it doesn't wait for the peer | the rest goes on in the background. A process that exits at once calls `close()` instead |
///
/// A peer that runs this crate ends its side as soon as its session has read everything, whatever
/// its application does, unless that reads so slowly that the session stops reading, or accepts too
/// slowly. (Go's smux and gmux end it when the application calls `Close`, or waits in
/// `AcceptStream` and calls it then. A Go peer that does neither costs the close timeout.)
///
/// What the peer's *application* has read, only an answer of its own can tell.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
/// use gmux::{Config, Session};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let addr = listener.local_addr()?;
/// let server = std::thread::spawn(move || -> std::io::Result<()> {
///     let session = Session::server(listener.accept()?.0, Config::new())?;
///     for stream in session.incoming() {
///         let mut stream = stream?;
///         assert_eq!(stream.name(), "sum");
///         let mut bytes = Vec::new();
///         stream.read_to_end(&mut bytes)?;
///         stream.write_all(&[bytes.iter().sum()])?;
///     } // dropping the stream closes it
///     Ok(())
/// });
///
/// let session = Session::client(TcpStream::connect(addr)?, Config::new())?;
/// let mut stream = session.open("sum")?;
/// stream.write_all(&[1, 2, 3])?;
/// stream.shutdown(std::net::Shutdown::Write)?;
/// let mut answer = [0];
/// stream.read_exact(&mut answer)?;
/// assert_eq!(answer, [6]);
/// drop(stream);
/// session.close()?;
/// server.join().unwrap()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Session {
    shared: Arc<SessionShared>,
}

impl Session {
    /// Starts the client's end: its streams have odd ids.
    ///
    /// # Errors
    /// [`Error::Config`]; [`Error::Io`] if the transport can't be set up, or no threads can be had.
    /// Nothing is left behind.
    pub fn client(transport: impl Transport, config: Config) -> Result<Self> {
        Self::start(transport, config, Role::Client)
    }

    /// Starts the server's end: its streams have even ids.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub fn server(transport: impl Transport, config: Config) -> Result<Self> {
        Self::start(transport, config, Role::Server)
    }

    fn start(transport: impl Transport, config: Config, role: Role) -> Result<Self> {
        config.validate()?;
        let shared = SessionShared::start(|| transport.split(), config, role)?;
        Ok(Self::new(shared))
    }

    /// A new handle.
    pub(crate) fn new(shared: Arc<SessionShared>) -> Self {
        shared.add_session_handle();
        Self { shared }
    }

    fn stream(&self, stream: Arc<crate::sync::stream::SharedStream>) -> Stream {
        Stream::new(Arc::clone(&self.shared), stream)
    }

    // ---- streams --------------------------------------------------------------------------------

    /// Opens a stream. Doesn't wait for the peer: the name goes out with the first data, or at
    /// once, and there is no answer to it. A peer that refuses the stream ends it, so that reads
    /// return `Ok(0)`.
    ///
    /// Plain smux peers understand only the empty name `""`.
    ///
    /// # Errors
    /// [`Error::NameTooLong`] over 65535 bytes (a peer may allow less, see
    /// [`max_name_len`](Config::max_name_len)), [`Error::TooManyStreams`], [`Error::GoAway`] when
    /// ids run out; what ended the session.
    pub fn open(&self, name: impl AsRef<[u8]>) -> Result<Stream> {
        Ok(self.stream(self.shared.open(name.as_ref())?))
    }

    /// Waits for the next stream of the peer: until [`set_deadline`](Self::set_deadline)'s point in
    /// time, if it is set.
    ///
    /// Woken by a stream, a changed deadline, `close`, `drain`, and the session's end.
    ///
    /// # Errors
    /// [`Error::Timeout`]. After a local close, [`Error::Closed`] at once. Otherwise streams that
    /// are queued come first, then what ended the session: [`Error::PeerClosed`] if that was the
    /// peer's clean end.
    pub fn accept(&self) -> Result<Stream> {
        self.shared.accept(None).map(|stream| self.stream(stream))
    }

    /// The next stream of the peer if there is one now.
    ///
    /// # Errors
    /// As [`accept`](Self::accept), but for `Timeout`.
    pub fn try_accept(&self) -> Result<Option<Stream>> {
        Ok(self.shared.try_accept()?.map(|stream| self.stream(stream)))
    }

    /// Waits for the next stream of the peer for at most `timeout`, and not past the deadline if
    /// that is earlier.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn accept_timeout(&self, timeout: Duration) -> Result<Stream> {
        self.shared.accept(Some(timeout)).map(|stream| self.stream(stream))
    }

    /// The peer's streams, one after the other. Ends after a local close or the peer's clean end;
    /// any other error is yielded, once, and then it ends too.
    #[must_use]
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming::new(self)
    }

    /// Sets until when `accept` waits; `None`: for ever. Reaches calls that are already blocked.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.shared.set_accept_deadline(deadline);
    }

    // ---- the session itself ---------------------------------------------------------------------

    /// Closes the session, for all its handles: see [Closing](Session#closing). Returns Ok when
    /// everything accepted has been handed to the transport, and after that the peer has ended its
    /// side: then the process may exit. A second call waits for the same and returns the same.
    /// Calls that are blocked, on streams too, and in [`drain`](Self::drain), fail with
    /// [`Error::Closed`]; what was received before can still be read.
    ///
    /// Over a transport that can't tell its peer that writing is over
    /// ([`Control::can_finish`](crate::transport::Control::can_finish)), it returns Ok when
    /// everything was handed over and flushed.
    ///
    /// # Errors
    /// - [`Error::CloseIncomplete`] after [`close_timeout`](Config::close_timeout), counted from
    ///   the first call: not everything could be handed over (`unsent` bytes), or the peer hasn't
    ///   ended its side (`unsent` is 0).
    /// - The same with `peer_ended`: the peer had ended its side before everything was handed over.
    /// - [`Error::Io`]: the transport failed meanwhile, such as by the peer's reset.
    /// - What ended the session before, unless that was the peer's clean end.
    /// - [`Error::WouldBlock`] in a close notifier that runs on a thread of gmux's own: the close
    ///   has begun, and goes on in the background.
    pub fn close(&self) -> Result<()> {
        self.shared.close()
    }

    /// Ends the session gently: no new streams either way (those that wait can still be accepted),
    /// then waits until every stream is closed here and its FIN was handed over, then closes. Woken
    /// by the last stream's FIN, by `close`, and by the session's end. In all it takes at most
    /// `timeout` and [`close_timeout`](Config::close_timeout).
    ///
    /// # Errors
    /// [`Error::DrainIncomplete`] if streams were left after `timeout`: the session is closed all
    /// the same. Otherwise as [`close`](Self::close).
    pub fn drain(&self, timeout: Duration) -> Result<()> {
        self.shared.drain(timeout)
    }

    /// Whether the session was closed here, or has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.lifecycle.is_over()
    }

    /// A channel that disconnects when the session is closed here, or ends. Nothing is ever sent.
    /// Waiting for a time goes by [`recv_timeout`](Receiver::recv_timeout), and for several
    /// channels by [`Select`](crate::Select) or crossbeam's `select!`:
    ///
    /// ```
    /// use std::time::Duration;
    /// use gmux::{RecvTimeoutError, Select};
    /// # use gmux::{Config, Session};
    /// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
    /// # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
    /// let (first, second) = (client.closed(), server.closed());
    /// assert_eq!(first.recv_timeout(Duration::from_millis(1)), Err(RecvTimeoutError::Timeout));
    /// let closer = std::thread::spawn(move || drop(server));
    /// let mut either = Select::new();
    /// either.recv(&first);
    /// either.recv(&second);
    /// println!("session {} of two has ended", either.ready() + 1);
    /// # closer.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// ```
    /// use crossbeam_channel::{after, select};
    /// # use gmux::{Config, Session};
    /// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
    /// # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
    /// client.close()?;
    /// select! {
    ///     recv(server.closed()) -> _ => println!("{}", server.close_reason().unwrap()),
    ///     recv(after(std::time::Duration::from_secs(9))) -> _ => panic!("nothing happened"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn closed(&self) -> Receiver<()> {
        self.shared.lifecycle.closed()
    }

    /// Why the session isn't usable any more: [`Error::Closed`] after a local close,
    /// [`Error::PeerClosed`] after the peer's clean end, otherwise the error that ended it. `None`
    /// while it is open.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.shared.lifecycle.cause().map(|cause| Error::clone(&cause))
    }

    /// How many streams there are that aren't closed. 0 once the session is closed here, or has
    /// ended.
    #[must_use]
    pub fn num_streams(&self) -> usize {
        self.shared.num_streams()
    }

    /// The session's number, from 1, in this process: the log calls it `session 3`, and its threads
    /// are `gmux-reader-3` and `gmux-writer-3`.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.shared.number
    }

    /// The streams that aren't closed at this end, in the order of their ids, those that wait for
    /// `accept` included: which one holds the memory, who waits, and for what. After the session's
    /// end there are none.
    ///
    /// ```
    /// use std::io::Write;
    /// # use gmux::{Config, Session};
    /// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
    /// # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
    /// let mut stream = client.open("upload")?;
    /// stream.write_all(b"nobody reads this")?;
    /// # let theirs = server.accept()?;
    /// # while theirs.stats().unread < 17 { std::thread::yield_now() }
    /// let streams = server.streams();
    /// let largest = streams.iter().max_by_key(|stream| stream.unread).unwrap();
    /// assert_eq!((largest.name.as_str(), largest.unread), ("upload", 17));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn streams(&self) -> Vec<StreamStats> {
        self.shared.stream_stats()
    }

    /// What the session has counted, and what it does now. It looks at every stream, which takes
    /// about a tenth of a microsecond each.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.shared.stats()
    }

    /// This end's address, where the transport knows it.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.local_addr()
    }

    /// The peer's address, where the transport knows it.
    #[doc(alias = "remote_addr")]
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.peer_addr()
    }

    /// The session's no-data timeout.
    #[must_use]
    pub fn no_data_timeout(&self) -> Option<Duration> {
        self.shared.no_data_timeout()
    }

    /// Ends the session with [`Error::NoData`] when no stream payload crossed it in either
    /// direction for this long; `None`: never. The clock starts at the latest of the session's
    /// start, this call, and the last payload.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a duration of zero; the timeout stays as it was.
    pub fn set_no_data_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        not_zero(timeout)?;
        self.shared.set_no_data_timeout(timeout);
        Ok(())
    }
}

impl Clone for Session {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl Drop for Session {
    /// The last handle of a session, counting its streams', closes it: see
    /// [Closing](Session#closing). That waits until everything accepted was handed over, for at
    /// most [`close_timeout`](Config::close_timeout), but not for the peer's end, and not at all in
    /// a close notifier on a thread of gmux's own.
    fn drop(&mut self) {
        self.shared.drop_session_handle();
    }
}

/// What it takes to understand a hang: who waits, what waits, since when reading is paused and for
/// what, what the writer does. It never blocks; where another thread has the session's table of
/// streams just then, that part is left out.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Session");
        text.field("number", &self.shared.number)
            .field("role", &self.shared.setup().role)
            .field("peer", &self.peer_addr())
            .field("close_reason", &self.close_reason());
        let Some(stats) = self.shared.glance() else {
            return text.finish_non_exhaustive(); // somebody has the table of streams
        };
        text.field("streams", &stats.streams)
            .field("backlog", &stats.backlog)
            .field("accepts_waiting", &stats.accepts_waiting)
            .field("receive_buffered", &stats.receive_buffered)
            .field("paused", &stats.paused)
            .field("unsent", &stats.unsent)
            .field("writer", &stats.writer)
            .finish()
    }
}

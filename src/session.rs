//! [`Session`]: one connection and its streams.
//!
//! Invariant: handles are counted explicitly. The last handle, a `Session` or a `Stream`, closes
//! the session.

// Benches and checks compile this file by its path, so it names the paths of its modules.
#[path = "session/incoming.rs"]
mod incoming;
#[path = "session/status.rs"]
mod status;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::engine::SessionShared;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::proto::registry::Role;
use crate::stream::Stream;
use crate::sync::deadline::not_zero;
use crate::transport::Transport;

pub use incoming::Incoming;

/// One connection that carries many streams.
///
/// Each peer can open streams by name, and accept the streams that the other peer opens. One peer
/// has to be the [`client`](Session::client), the other the [`server`](Session::server). The two
/// differ only in the ids of their streams.
///
/// `Clone` gives another handle to the same session. The session lives as long as any handle lives.
/// The handles of its streams count, too. When all `Session` handles are dropped, the open streams
/// live on, and later streams of the peer are refused.
///
/// # Closing
/// [`close`](Session::close), or the drop of the last handle, does this:
///
/// 1. It sends the accepted data. Streams that the application has already closed get their FIN,
///    the frame that ends a stream. Other streams get none, so their peers see an error and not an
///    end of file.
/// 2. It ends the connection's writing direction.
/// 3. It reads and drops further input until the peer ends its side. Unread input would make the
///    operating system reset the connection, and the reset would discard the sent data.
///
/// All of it takes at most [`close_timeout`](Config::close_timeout).
///
/// | outcome | returns when | then |
/// |---|---|---|
/// | `close()` is Ok | everything accepted was handed to the transport, and the peer has ended its side after that | The process may exit, because the peer's session has everything |
/// | `close()` is an error | the first row's conditions weren't met in time, or the transport failed: see the errors of [`close`](Session::close) | Sent data may be lost if the process exits |
/// | the last handle is dropped | everything accepted was handed to the transport | The wait for the peer goes on in the background. A process that exits at once must call `close()` instead |
///
/// A peer that runs this crate ends its side as soon as its session has read everything. Its
/// application need not do anything for that. But an application that reads or accepts too slowly
/// can delay the end, because its session stops reading.
///
/// A Go peer (smux, or the Go package gmux) ends its side when its application calls `Close`. When
/// this side has ended, an application that waits in `AcceptStream` gets an error, and most
/// applications then call `Close`. If a Go peer doesn't call `Close`, then `close` here takes the
/// whole close timeout.
///
/// Only an answer of the peer's *application* can confirm that it has read the data.
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
    /// Starts a session as the client. The streams that it opens have odd ids.
    ///
    /// # Errors
    /// - [`Error::Config`] for a setting that breaks a rule.
    /// - [`Error::Io`] if the transport can't be set up, or no threads can be started.
    ///
    /// After an error, no thread and no transport is left behind.
    pub fn client(transport: impl Transport, config: Config) -> Result<Self> {
        Self::start(transport, config, Role::Client)
    }

    /// Starts a session as the server. The streams that it opens have even ids.
    ///
    /// # Errors
    /// Those of [`client`](Self::client).
    pub fn server(transport: impl Transport, config: Config) -> Result<Self> {
        Self::start(transport, config, Role::Server)
    }

    fn start(transport: impl Transport, config: Config, role: Role) -> Result<Self> {
        config.validate()?;
        let shared = SessionShared::start(|| transport.split(), config, role)?;
        Ok(Self::new(shared))
    }

    /// Returns a new handle.
    pub(crate) fn new(shared: Arc<SessionShared>) -> Self {
        shared.add_session_handle();
        Self { shared }
    }

    fn stream(&self, stream: Arc<crate::sync::stream::SharedStream>) -> Stream {
        Stream::new(Arc::clone(&self.shared), stream)
    }

    // ---- streams --------------------------------------------------------------------------------

    /// Opens a stream. It doesn't wait for the peer.
    ///
    /// The name is sent without delay, together with the first data if that is already there. The
    /// peer doesn't answer. A peer that refuses the stream ends it, and then reads return `Ok(0)`.
    ///
    /// Plain smux peers understand only the empty name `""`.
    ///
    /// # Errors
    /// - [`Error::NameTooLong`] for a name over 65535 bytes. (A peer may allow less, see
    ///   [`max_name_len`](Config::max_name_len).)
    /// - [`Error::TooManyStreams`] if this side has opened [`max_streams`](Config::max_streams)
    ///   streams that still count. A stream counts until this side has closed it and its FIN was
    ///   handed to the transport.
    /// - [`Error::GoAway`] when the stream ids are used up.
    /// - If the session has ended, the error that ended it.
    pub fn open(&self, name: impl AsRef<[u8]>) -> Result<Stream> {
        Ok(self.stream(self.shared.open(name.as_ref())?))
    }

    /// Waits for the next stream of the peer, until the deadline of
    /// [`set_deadline`](Self::set_deadline) if one is set.
    ///
    /// These wake it: a new stream, a changed deadline, `close`, `drain`, a failed write of the
    /// transport, and the session's end.
    ///
    /// # Errors
    /// - [`Error::Timeout`] if the deadline has passed.
    /// - [`Error::Closed`] at once after a local close. During a [`drain`](Self::drain), queued
    ///   streams are returned before this error.
    /// - If the session has ended for another reason, or a write of the transport has failed, the
    ///   error of that. Queued streams are returned before that error. If the peer has ended the
    ///   session cleanly (no stream and no frame was cut off), the error is [`Error::PeerClosed`].
    pub fn accept(&self) -> Result<Stream> {
        self.shared.accept(None).map(|stream| self.stream(stream))
    }

    /// Returns the next stream of the peer if one is queued. It doesn't wait.
    ///
    /// # Errors
    /// Those of [`accept`](Self::accept), without `Timeout`.
    pub fn try_accept(&self) -> Result<Option<Stream>> {
        Ok(self.shared.try_accept()?.map(|stream| self.stream(stream)))
    }

    /// Waits for the next stream of the peer, for at most `timeout`. An earlier deadline of
    /// [`set_deadline`](Self::set_deadline) applies, too.
    ///
    /// # Errors
    /// Those of [`accept`](Self::accept).
    pub fn accept_timeout(&self, timeout: Duration) -> Result<Stream> {
        self.shared.accept(Some(timeout)).map(|stream| self.stream(stream))
    }

    /// Returns an iterator over the peer's streams. The iterator ends after a local close, or after
    /// the peer has ended the session cleanly. It yields any other error once, and then ends.
    #[must_use]
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming::new(self)
    }

    /// Sets the deadline of `accept` (`None`: no limit). It also affects calls that are already
    /// blocked.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.shared.set_accept_deadline(deadline);
    }

    // ---- the session itself ---------------------------------------------------------------------

    /// Closes the session for all its handles: see [Closing](Session#closing).
    ///
    /// It returns Ok when everything accepted has been handed to the transport, and the peer has
    /// ended its side after that. Then the process may exit. A second call waits for the same
    /// conditions, and returns the same result.
    ///
    /// Blocked calls on streams and in [`accept`](Self::accept) fail with [`Error::Closed`] when
    /// the close begins. A blocked [`drain`](Self::drain) stops waiting for streams, and returns
    /// the result of the close. Data that was received before the close can still be read.
    ///
    /// Some transports can't tell their peer that writing is over
    /// ([`Control::can_finish`](crate::transport::Control::can_finish)). Over these, `close`
    /// doesn't wait until the peer ends its side. It returns Ok when everything was handed over and
    /// flushed.
    ///
    /// # Errors
    /// - [`Error::CloseIncomplete`] after [`close_timeout`](Config::close_timeout), counted from
    ///   the first call. If `unsent` is 0, everything was handed over, but the peer hasn't ended
    ///   its side. If `unsent` isn't 0, not everything could be handed over.
    /// - [`Error::CloseIncomplete`] with `peer_ended`, if the peer ended its side before this side
    ///   had ended its own. `unsent` is the number of accepted bytes that weren't handed over when
    ///   the peer ended its side. It can be 0. Then no loss is known, and the error only says that
    ///   ending the writing direction took longer than the close timeout.
    /// - [`Error::Io`] if the transport failed during the close, such as by the peer's reset.
    /// - If the session had already ended, the error that ended it. If the peer had ended the
    ///   session cleanly, `close` returns Ok if all accepted bytes had been handed over and the
    ///   writing direction was ended in time. Otherwise it returns `CloseIncomplete` with
    ///   `peer_ended` as above.
    /// - [`Error::WouldBlock`] in a close notifier that runs on one of gmux's threads. The close
    ///   has begun, and goes on in the background.
    pub fn close(&self) -> Result<()> {
        self.shared.close()
    }

    /// Ends the session gently, in three steps:
    ///
    /// 1. Neither peer can open new streams. Streams that wait in the backlog can still be
    ///    accepted.
    /// 2. It waits until every stream is closed on this side and its FIN was handed over.
    /// 3. It closes the session.
    ///
    /// These end the wait of step 2: the last stream's FIN, `timeout`, `close` in another thread,
    /// and the session's end. The whole call takes at most the sum of `timeout` and
    /// [`close_timeout`](Config::close_timeout).
    ///
    /// In a close notifier that runs on one of gmux's threads, step 2 still waits, but step 3 only
    /// begins the close.
    ///
    /// # Errors
    /// [`Error::DrainIncomplete`] if streams were left after `timeout`. The session is closed in
    /// this case, too. The other errors are those of [`close`](Self::close).
    pub fn drain(&self, timeout: Duration) -> Result<()> {
        self.shared.drain(timeout)
    }

    /// Returns the session's no-data timeout.
    #[must_use]
    pub fn no_data_timeout(&self) -> Option<Duration> {
        self.shared.no_data_timeout()
    }

    /// Sets the session's no-data timeout (`None`: no limit). The session ends with
    /// [`Error::NoData`] when no stream payload has crossed it in either direction for this time.
    /// The clock starts at the session's start, this call, or the last payload, whichever is
    /// latest.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a duration of zero. The timeout then stays as it was.
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
    /// Closes the session if this is its last handle. Handles of its streams count, too. See
    /// [Closing](Session#closing).
    ///
    /// The drop of the last handle waits until everything accepted was handed over, for at most
    /// [`close_timeout`](Config::close_timeout). The drop doesn't wait until the peer ends its
    /// side. In a close notifier that runs on one of gmux's threads, the drop doesn't wait at all.
    fn drop(&mut self) {
        self.shared.drop_session_handle();
    }
}

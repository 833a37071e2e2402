//! The errors of calls, streams and sessions.
//!
//! Invariants:
//! - An [`Error`] is cheap to clone, because every stream of a session returns the same fatal
//!   error.
//! - An [`Error`] keeps the details of the fault (frame, stream, peer), and its source if it has
//!   one.
//! - Only [`Error::kind`] maps an [`Error`] to an [`io::ErrorKind`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::wire::Header;
use foreign::Foreign;

// Benches and checks compile this file by its path, so it names the paths of its modules.
#[path = "error/foreign.rs"]
mod foreign;
#[path = "error/lost.rs"]
mod lost;
#[path = "error/questions.rs"]
mod questions;

pub use foreign::Received;
pub(crate) use foreign::start_of;
#[cfg(feature = "rustls")]
pub(crate) use foreign::text as text_of;
pub use lost::Lost;
pub(crate) use lost::Setup;

/// A [`Result`](std::result::Result) whose error is gmux's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why a call, a stream or a whole session failed.
///
/// `Read` and `Write` calls return it inside an [`io::Error`], from which it can be downcast:
///
/// ```
/// use std::io;
/// let error: io::Error = gmux::Error::Timeout.into();
/// assert_eq!(error.kind(), io::ErrorKind::TimedOut);
/// let inner = error.get_ref().and_then(|e| e.downcast_ref::<gmux::Error>());
/// assert!(matches!(inner, Some(gmux::Error::Timeout)));
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- the caller -----------------------------------------------------------------------------
    /// A configuration field breaks a rule.
    #[error("configuration: {field} = {value}, but {rule}")]
    Config {
        /// The field, which is the name of its setter.
        field: &'static str,
        /// The refused value.
        value: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A stream's name is longer than a frame can carry.
    #[error("the stream's name has {len} bytes, at most {max} fit: use a shorter name")]
    NameTooLong {
        /// Length of the name, in bytes.
        len: usize,
        /// The longest name that can be sent, in bytes.
        max: usize,
    },
    /// The stream or session of the call was closed on this side. Three things close it:
    /// [`close`](crate::Stream::close), the drop of the last handle, or, for a session,
    /// [`drain`](crate::Session::drain). For a loop over `accept` this is the normal end.
    #[error(
        "closed at this end, by this program: to go on, open another stream, or another session"
    )]
    Closed,
    /// A write after `shutdown(Write)`.
    #[error(
        "this stream's sending side was shut down at this end: write before shutdown, or open \
         another stream"
    )]
    WriteShutdown,
    /// A duration of zero was given where a timeout is expected.
    #[error(
        "a timeout of zero: pass None for no timeout (set_nonblocking(true) makes a stream's \
         calls never wait)"
    )]
    ZeroTimeout,
    /// A `write_all` failed after a part of its bytes was accepted. These bytes stay accepted and
    /// are sent, so the peer gets an incomplete record. The error's kind is that of `source`.
    ///
    /// The right reaction depends on your protocol:
    ///
    /// - If each record contains its length, shut the stream down.
    /// - If an end of file marks the end of the data, a shutdown would make an incomplete answer
    ///   look complete. Close the session instead.
    ///
    /// ```
    /// use std::io::{self, Write};
    /// # use gmux::{Config, Error, Session};
    /// # let (a, _b) = std::os::unix::net::UnixStream::pair()?;
    /// # let client = Session::client(a, Config::new().max_send_buffer(10_000))?;
    /// let mut stream = client.open("records")?;
    /// stream.set_nonblocking(true)?;
    /// let error = stream.write_all(&vec![7; 1 << 20]).unwrap_err(); // more than there is room for
    /// assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    /// match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
    ///     Some(Error::PartialWrite { accepted, .. }) => {
    ///         println!("a torn record: the peer gets {accepted} bytes of it");
    ///         stream.shutdown(std::net::Shutdown::Write)?;
    ///     }
    ///     _ => println!("nothing was accepted: try again"),
    /// }
    /// # Ok::<(), io::Error>(())
    /// ```
    #[error("{accepted} bytes were accepted, the rest was not: {source}")]
    PartialWrite {
        /// Bytes that were accepted, from the start of the buffer on.
        accepted: usize,
        /// The reason why no more bytes were accepted.
        source: Arc<Self>,
    },
    /// This side has as many streams open as `max_streams` allows.
    #[error("{max} streams are open from this end already: close some, or raise max_streams")]
    TooManyStreams {
        /// The configured `max_streams`.
        max: usize,
    },
    /// This side has used up its stream ids, after opening 2³¹ streams. The session's open streams
    /// go on.
    #[error(
        "this end has used up the session's stream ids: open a new session, over a new connection"
    )]
    GoAway,

    // ---- time -----------------------------------------------------------------------------------
    /// The deadline or timeout of a call has passed. The stream or session stays usable.
    #[error("timeout: the call's deadline or timeout passed before it could be done")]
    Timeout,
    /// The timeout of a [`drain`](crate::Session::drain) has passed, and streams were left. The
    /// session is closed nevertheless.
    #[error(
        "drain: {streams} streams were still open, or had something to send, after {after:?}, and \
         were cut off: close them sooner (Session::streams lists them), or give drain more time"
    )]
    DrainIncomplete {
        /// Streams that weren't closed on this side, or whose FIN couldn't be handed to the
        /// transport.
        streams: usize,
        /// The time that drain had waited.
        after: Duration,
    },
    /// The call would have to wait, but must not wait. Its stream is in non-blocking mode, or the
    /// calling thread is one of gmux's threads.
    #[error("operation would block")]
    WouldBlock,
    /// The no-data timeout has passed: no payload crossed the stream (or the session) for this
    /// time.
    #[error("no data crossed for {0:?}")]
    NoData(Duration),
    /// The keepalive timeout has passed: no byte was received from the peer for this time.
    #[error("keepalive: nothing was received from the peer for {0:?}")]
    KeepaliveTimeout(Duration),
    /// The receive budget stayed used up for the time `stall_timeout`. This stream held most of the
    /// budget, so it was cut.
    #[error(
        "stalled: the session's receive buffer stayed full for {after:?} and this stream held \
         most of it ({held} bytes): read faster, or raise max_receive_buffer"
    )]
    Stalled {
        /// Bytes of the receive budget that the stream's unread data occupied.
        held: usize,
        /// The configured `stall_timeout`.
        after: Duration,
    },
    /// The peer has sent FIN. After that, it granted no window to a waiting write for the time
    /// `half_close_stall`.
    #[error(
        "the peer finished its side and granted no window for {0:?}: it has most likely closed \
         the stream"
    )]
    PeerFinished(Duration),

    // ---- the peer's faults ----------------------------------------------------------------------
    /// The peer sent a frame that the protocol doesn't allow.
    #[error("invalid protocol: {reason} ({frame})")]
    InvalidProtocol {
        /// The frame's header.
        frame: Header,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The peer reports more bytes as consumed than were sent.
    #[error("peer consumed more than sent: {consumed} bytes of {sent} on stream {stream}")]
    Consumed {
        /// The stream.
        stream: u32,
        /// Bytes consumed since the stream began, as the peer counts them.
        consumed: u64,
        /// Bytes that were sent since the stream began.
        sent: u64,
    },
    /// The peer sent more data than its windows, and a slack beyond them, allow.
    #[error(
        "window overrun: the peer sent {received} bytes on stream {stream}, {allowed} were allowed"
    )]
    Overrun {
        /// The stream.
        stream: u32,
        /// Bytes received since the stream began.
        received: u64,
        /// Bytes that the peer was allowed to send: the windows granted so far, plus a slack. The
        /// slack is the size of the largest of these windows, and at least 262144 bytes.
        allowed: u64,
    },
    /// The peer sent a command byte that isn't in the protocol.
    #[error("invalid command {0:#04x}: is the peer speaking gmux or smux at all?")]
    InvalidCommand(u8),
    /// The peer sent a frame of another protocol version, or no frame at all. If text came in the
    /// place of a frame, the message shows its start.
    #[error("{}", Foreign(*.ours, *.theirs, .peer, .received))]
    #[non_exhaustive]
    InvalidVersion {
        /// The configured version.
        ours: u8,
        /// The first byte that came, where a frame has its version.
        theirs: u8,
        /// The peer's address if the transport knows it.
        peer: Option<SocketAddr>,
        /// The bytes that came in the place of the frame, from the version byte on. They are the
        /// first 1 to 64 of the bytes that had come by then.
        received: Received,
    },
    /// The peer opens streams faster than their refusals can be sent to the peer.
    #[error("flood: {refusals} refused streams wait for their answer to be sent")]
    Flood {
        /// The number of queued refusals.
        refusals: usize,
    },

    // ---- the transport --------------------------------------------------------------------------
    /// The peer ended the connection between frames, and cut off no stream.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// A session's [`close`](crate::Session::close) can't confirm that the peer's session has
    /// received all accepted data. Either [`close_timeout`](crate::Config::close_timeout) has
    /// passed, or the peer ended its side first.
    #[error("close: {}", Incomplete(*.unsent, *.after, *.peer_ended))]
    #[non_exhaustive]
    CloseIncomplete {
        /// The accepted bytes that the transport isn't known to have taken. Treat them as lost. But
        /// up to 256 KiB of them may have been sent, because a batch that was cut off counts as a
        /// whole.
        ///
        /// If this is 0 and `peer_ended` is false, everything was handed over, but the peer hasn't
        /// ended its side. Data that the peer hasn't read yet may be lost if this process, or its
        /// host, ends now.
        ///
        /// If this is 0 and `peer_ended` is true, no byte is known to be lost, but this side
        /// couldn't end its writing direction in time.
        unsent: u64,
        /// The time that the close had taken.
        after: Duration,
        /// Whether the peer had ended its side before this session had ended its own side. If it
        /// had, the peer's session can't have read the `unsent` bytes.
        peer_ended: bool,
    },
    /// The connection ended inside a frame, or while the peer had not finished all streams. The
    /// peer's program may have died, or may have left its streams open. Or the peer didn't expect a
    /// gmux session on this side.
    #[error("connection lost: {0}")]
    ConnectionLost(Lost),
    /// The transport failed. If nothing has come from the peer, the text asks about the likely
    /// reasons why the peer has left.
    #[error("transport: {0}")]
    Io(#[source] Arc<io::Error>),
}

/// The message of [`Error::CloseIncomplete`], from its fields `unsent`, `after` and `peer_ended`.
struct Incomplete(u64, Duration, bool);

impl std::fmt::Display for Incomplete {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(unsent, after, peer_ended) = self;
        match (unsent, peer_ended) {
            (0, true) => write!(
                f,
                "the peer ended the connection, and this end could not end its own direction \
                 within {after:?}: does something block in the transport?"
            ),
            (_, true) => write!(
                f,
                "the peer ended the connection before {unsent} accepted bytes were sent, and they \
                 are lost: let the peer close after it has read what it wants"
            ),
            (0, false) => write!(
                f,
                "everything was sent, but the peer has not ended its side within {after:?}, and \
                 may not have read it all: let the peer read or close, or raise close_timeout"
            ),
            (_, false) => write!(
                f,
                "{unsent} accepted bytes could not be sent within {after:?}, and are lost: is the \
                 peer reading? let it read, or raise close_timeout"
            ),
        }
    }
}

impl Error {
    /// Returns whether a transport's end of file ended the session. If so, the session may still
    /// end its writing direction cleanly.
    pub(crate) fn is_end_of_input(&self) -> bool {
        matches!(self, Self::PeerClosed | Self::ConnectionLost(_))
    }

    /// Returns the [`io::ErrorKind`] of the error that `Read` and `Write` callers get.
    ///
    /// A cut-off stream is never `UnexpectedEof`, because `read_exact` uses that kind for itself.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, InvalidData, InvalidInput, NotConnected, QuotaExceeded,
            TimedOut, WouldBlock,
        };
        match self {
            Self::Config { .. } | Self::NameTooLong { .. } | Self::ZeroTimeout => InvalidInput,
            Self::Closed => NotConnected,
            Self::PartialWrite { source, .. } => source.kind(),
            Self::WriteShutdown | Self::PeerFinished(_) => BrokenPipe,
            Self::TooManyStreams { .. } | Self::GoAway => QuotaExceeded,
            Self::Timeout
            | Self::NoData(_)
            | Self::DrainIncomplete { .. }
            | Self::CloseIncomplete { peer_ended: false, .. } => TimedOut,
            Self::WouldBlock => WouldBlock,
            Self::KeepaliveTimeout(_)
            | Self::Stalled { .. }
            | Self::PeerClosed
            | Self::ConnectionLost(_)
            | Self::CloseIncomplete { peer_ended: true, .. } => ConnectionAborted,
            Self::InvalidProtocol { .. }
            | Self::Consumed { .. }
            | Self::Overrun { .. }
            | Self::InvalidCommand(_)
            | Self::InvalidVersion { .. }
            | Self::Flood { .. } => InvalidData,
            Self::Io(source) => match source.kind() {
                // A transport may report the end of the connection as `UnexpectedEof`. For a
                // stream's reader that is a cut-off stream.
                io::ErrorKind::UnexpectedEof => ConnectionAborted,
                kind => kind,
            },
        }
    }
}

impl Error {
    /// Adds questions to the error of a transport over which nothing came from the peer: see
    /// [`Lost`].
    pub(crate) fn unheard(self, setup: Setup) -> Self {
        match self {
            Self::Io(error) => Self::Io(lost::unheard(error, setup)),
            other => other,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error)
    }
}

impl From<io::Error> for Error {
    /// Returns the [`Error`] inside, if `error` came from a stream or a session.
    ///
    /// Don't convert other errors, such as a file's. They become [`Io`](Error::Io), which means a
    /// fault of the session's transport.
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(error) => Self::Io(Arc::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_io_error() {
        let there: io::Error = Error::Consumed { stream: 3, consumed: 9, sent: 8 }.into();
        assert_eq!(there.kind(), io::ErrorKind::InvalidData);
        assert!(matches!(Error::from(there), Error::Consumed { stream: 3, consumed: 9, sent: 8 }));
    }

    #[test]
    fn a_version_mismatch_names_both_versions_and_the_peer() {
        let peer = Some("192.0.2.7:99".parse().unwrap());
        let text = Error::InvalidVersion { ours: 1, theirs: 2, peer, received: start_of(&[2]) }
            .to_string();
        assert!(
            text.contains("version 1")
                && text.contains("version 2")
                && text.contains("192.0.2.7:99"),
            "{text}"
        );
    }

    #[test]
    fn texts_of_what_ends_a_users_own_plan_say_what_to_do() {
        let says = [
            (Error::Closed, "open another stream, or another session"),
            (Error::GoAway, "open a new session, over a new connection"),
            (Error::WriteShutdown, "open another stream"),
            (Error::ZeroTimeout, "pass None"),
            (
                Error::DrainIncomplete { streams: 2, after: Duration::from_secs(1) },
                "or give drain more time",
            ),
        ];
        for (error, what) in says {
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[test]
    fn predicates_hold_for_the_variants_that_they_name() {
        let header =
            Header { version: 1, command: crate::wire::Command::Fin, length: 1, stream_id: 3 };
        let io = |kind| Error::from(io::Error::from(kind));
        let time = Duration::from_secs(1);
        // (timeout, closed, session over)
        let cases = [
            (Error::Timeout, (true, false, false)),
            (Error::NoData(time), (true, false, false)),
            (Error::DrainIncomplete { streams: 2, after: time }, (true, false, true)),
            (
                Error::CloseIncomplete { unsent: 0, after: time, peer_ended: false },
                (true, false, true),
            ),
            (
                Error::CloseIncomplete { unsent: 2, after: time, peer_ended: true },
                (false, false, true),
            ),
            // A partial write is judged as its source is.
            (
                Error::PartialWrite { accepted: 1, source: Arc::new(Error::Timeout) },
                (true, false, false),
            ),
            (
                Error::PartialWrite { accepted: 1, source: Arc::new(Error::Closed) },
                (false, true, false),
            ),
            (
                Error::PartialWrite { accepted: 1, source: Arc::new(Error::PeerClosed) },
                (false, false, true),
            ),
            (Error::Closed, (false, true, false)),
            (Error::WriteShutdown, (false, true, false)),
            (Error::PeerClosed, (false, false, true)),
            (Error::KeepaliveTimeout(time), (false, false, true)),
            (Error::InvalidProtocol { frame: header, reason: "" }, (false, false, true)),
            (Error::InvalidCommand(9), (false, false, true)),
            (
                Error::InvalidVersion { ours: 1, theirs: 2, peer: None, received: start_of(&[]) },
                (false, false, true),
            ),
            (Error::Flood { refusals: 1 }, (false, false, true)),
            (io(io::ErrorKind::TimedOut), (false, false, true)),
            (Error::WouldBlock, (false, false, false)),
            (Error::ZeroTimeout, (false, false, false)),
            (Error::GoAway, (false, false, false)),
            (Error::TooManyStreams { max: 1 }, (false, false, false)),
            (Error::NameTooLong { len: 9, max: 8 }, (false, false, false)),
            (Error::Stalled { held: 1, after: time }, (false, false, false)),
            (Error::PeerFinished(time), (false, false, false)),
            (Error::Consumed { stream: 3, consumed: 2, sent: 1 }, (false, false, false)),
            (Error::Overrun { stream: 3, received: 2, allowed: 1 }, (false, false, false)),
            (Error::Config { field: "", value: String::new(), rule: "" }, (false, false, false)),
        ];
        for (error, expected) in cases {
            assert_eq!(
                (error.is_timeout(), error.is_closed(), error.is_session_over()),
                expected,
                "{error:?}"
            );
        }
    }

    #[test]
    fn truncation_is_never_unexpected_eof() {
        let source = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(Error::from(source).kind(), io::ErrorKind::ConnectionAborted);
    }
}

//! Questions about an [`Error`] that its kind doesn't answer. Has a time limit passed? Has this
//! program itself closed the stream? Is the whole session over?
//!
//! Invariant: for a [`PartialWrite`](Error::PartialWrite), every answer is the one for its source.

use super::Error;

impl Error {
    /// Returns whether a time limit has passed that this side had set for a call. These are such
    /// errors:
    ///
    /// - [`Timeout`](Self::Timeout)
    /// - [`NoData`](Self::NoData)
    /// - [`DrainIncomplete`](Self::DrainIncomplete)
    /// - [`CloseIncomplete`](Self::CloseIncomplete), unless the peer had ended its side first
    /// - [`PartialWrite`](Self::PartialWrite) if its source is one of these
    ///
    /// It is `false` for [`Io`](Self::Io), whose [`kind`](Self::kind) may be `TimedOut` when the
    /// operating system has ended the connection for a timeout.
    ///
    /// ```
    /// use std::io::Read;
    /// use std::time::Duration;
    /// # use gmux::{Config, Error, Session};
    /// # let (a, _b) = std::os::unix::net::UnixStream::pair()?;
    /// # let session = Session::client(a, Config::new().close_timeout(Duration::from_millis(1)))?;
    /// let mut stream = session.open("")?;
    /// stream.set_read_timeout(Some(Duration::from_millis(1)))?;
    /// let error = Error::from(stream.read(&mut [0]).unwrap_err());
    /// assert!(error.is_timeout() && !error.is_closed() && !error.is_session_over());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::PartialWrite { source, .. } => source.is_timeout(),
            Self::Timeout | Self::NoData(_) | Self::DrainIncomplete { .. } => true,
            error => matches!(error, Self::CloseIncomplete { peer_ended: false, .. }),
        }
    }

    /// Returns whether this program itself has closed the stream, the session or the writing
    /// direction that the call needs. The error is [`Closed`](Self::Closed),
    /// [`WriteShutdown`](Self::WriteShutdown), or a [`PartialWrite`](Self::PartialWrite) with one
    /// of these as its source. This error is no fault in a program in which other threads close
    /// streams and sessions.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match self {
            Self::PartialWrite { source, .. } => source.is_closed(),
            error => matches!(error, Self::Closed | Self::WriteShutdown),
        }
    }

    /// Returns whether the whole session is over, so that only a new connection helps. These are
    /// such errors: [`PeerClosed`](Self::PeerClosed), [`CloseIncomplete`](Self::CloseIncomplete),
    /// [`ConnectionLost`](Self::ConnectionLost), [`Io`](Self::Io),
    /// [`KeepaliveTimeout`](Self::KeepaliveTimeout), [`InvalidProtocol`](Self::InvalidProtocol),
    /// [`InvalidCommand`](Self::InvalidCommand), [`InvalidVersion`](Self::InvalidVersion),
    /// [`Flood`](Self::Flood), [`DrainIncomplete`](Self::DrainIncomplete), and a
    /// [`PartialWrite`](Self::PartialWrite) with one of these as its source.
    ///
    /// It is `false` for [`Closed`](Self::Closed) and [`NoData`](Self::NoData), which may concern
    /// one stream only. For these two, ask [`Session::is_closed`](crate::Session::is_closed).
    #[must_use]
    pub fn is_session_over(&self) -> bool {
        match self {
            Self::PeerClosed
            | Self::DrainIncomplete { .. }
            | Self::CloseIncomplete { .. }
            | Self::ConnectionLost(_)
            | Self::Io(_)
            | Self::KeepaliveTimeout(_)
            | Self::InvalidProtocol { .. }
            | Self::InvalidCommand(_)
            | Self::InvalidVersion { .. }
            | Self::Flood { .. } => true,
            Self::PartialWrite { source, .. } => source.is_session_over(),
            Self::Config { .. }
            | Self::NameTooLong { .. }
            | Self::Closed
            | Self::WriteShutdown
            | Self::ZeroTimeout
            | Self::TooManyStreams { .. }
            | Self::GoAway
            | Self::Timeout
            | Self::WouldBlock
            | Self::NoData(_)
            | Self::Stalled { .. }
            | Self::PeerFinished(_)
            | Self::Consumed { .. }
            | Self::Overrun { .. } => false,
        }
    }
}

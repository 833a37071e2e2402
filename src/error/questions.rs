//! What a program asks an [`Error`] whose kind doesn't say enough: did time pass, did it close this
//! itself, is all over?
//!
//! Invariant: a `write_all` that failed midway is asked for what made it fail.

use super::Error;

impl Error {
    /// Whether a limit of time passed that this end had set for a call: [`Timeout`](Self::Timeout),
    /// [`NoData`](Self::NoData), [`DrainIncomplete`](Self::DrainIncomplete), and
    /// [`CloseIncomplete`](Self::CloseIncomplete), unless that is because the peer had ended.
    /// [`PartialWrite`](Self::PartialWrite) is asked of its source, here as below.
    ///
    /// Unlike [`kind`](Self::kind) it doesn't hold for [`Io`](Self::Io), by which the system may
    /// tell that the connection timed out.
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

    /// Whether the program itself closed, at this end, what the call needs:
    /// [`Closed`](Self::Closed) and [`WriteShutdown`](Self::WriteShutdown). Where other threads
    /// close streams and sessions, this is no fault.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match self {
            Self::PartialWrite { source, .. } => source.is_closed(),
            error => matches!(error, Self::Closed | Self::WriteShutdown),
        }
    }

    /// Whether the whole session is over, so that only a new connection helps:
    /// [`PeerClosed`](Self::PeerClosed), [`CloseIncomplete`](Self::CloseIncomplete),
    /// [`ConnectionLost`](Self::ConnectionLost), [`Io`](Self::Io),
    /// [`KeepaliveTimeout`](Self::KeepaliveTimeout), [`InvalidProtocol`](Self::InvalidProtocol),
    /// [`InvalidCommand`](Self::InvalidCommand), [`InvalidVersion`](Self::InvalidVersion),
    /// [`Flood`](Self::Flood) and [`DrainIncomplete`](Self::DrainIncomplete).
    ///
    /// Not [`Closed`](Self::Closed) and [`NoData`](Self::NoData), which may be a stream's alone:
    /// there [`Session::is_closed`](crate::Session::is_closed) knows.
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

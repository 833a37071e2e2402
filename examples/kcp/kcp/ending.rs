//! The ways in which a conversation can end without a close of its session, and the error that its
//! halves then return.

use std::io;

/// The reason why a conversation has ended.
#[derive(Debug, Clone, Copy)]
pub enum End {
    Aborted,
    Replaced,
    Evicted,
    Expired,
}

impl End {
    pub fn error(self) -> io::Error {
        match self {
            Self::Aborted => {
                io::Error::new(io::ErrorKind::ConnectionAborted, "the KCP conversation was aborted")
            }
            Self::Replaced => io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the peer has begun another KCP conversation",
            ),
            Self::Evicted => io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the KCP conversation had to make room",
            ),
            Self::Expired => {
                io::Error::new(io::ErrorKind::TimedOut, "the KCP conversation wasn't begun in time")
            }
        }
    }
}

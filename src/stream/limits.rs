//! The limits on a stream's blocking calls: deadlines, timeouts, no-data timeouts, non-blocking
//! mode.
//!
//! Invariant: each limit belongs to the stream, not to a handle. Setting one also affects calls
//! that are blocked already.

use std::io;
use std::time::{Duration, Instant};

use super::Stream;
#[cfg(doc)]
use crate::error::Error;
use crate::sync::deadline::not_zero;
use crate::sync::stream::Direction;

impl Stream {
    /// Sets the deadlines of reads and of writes (`None`: no deadline). They also affect calls that
    /// are already blocked. When a deadline has expired, reads still return data that is there, and
    /// writes still accept bytes while there is room.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.set_read_deadline(deadline);
        self.set_write_deadline(deadline);
    }

    /// Sets the deadline of reads: see [`set_deadline`](Self::set_deadline).
    pub fn set_read_deadline(&self, deadline: Option<Instant>) {
        self.stream.set_deadline(Direction::Read, deadline);
    }

    /// Sets the deadline of writes and flushes: see [`set_deadline`](Self::set_deadline).
    pub fn set_write_deadline(&self, deadline: Option<Instant>) {
        self.stream.set_deadline(Direction::Write, deadline);
    }

    /// Sets the time that each read may wait, counted from the start of the call (`None`: no
    /// limit). If a deadline is set as well, the earlier one applies. The timeout also affects
    /// calls that are blocked already. A call that waits longer fails with [`Error::Timeout`]
    /// ([`io::ErrorKind::TimedOut`]).
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a duration of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_timeout(Direction::Read, timeout)
    }

    /// Sets the time that each write and flush may wait, counted from the start of the call: see
    /// [`set_read_timeout`](Self::set_read_timeout). The time in which a call waits for other
    /// writes counts, too.
    ///
    /// A `write` that timed out has accepted nothing. The same is true of a `write_all`, unless its
    /// error is [`Error::PartialWrite`].
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a duration of zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_timeout(Direction::Write, timeout)
    }

    fn set_timeout(&self, direction: Direction, timeout: Option<Duration>) -> io::Result<()> {
        not_zero(timeout)?;
        self.stream.set_timeout(direction, timeout);
        Ok(())
    }

    /// Returns the time that each read may wait.
    ///
    /// # Errors
    /// None at present. The signature is that of `TcpStream`.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.stream.timeout(Direction::Read))
    }

    /// Returns the time that each write and flush may wait.
    ///
    /// # Errors
    /// None at present. The signature is that of `TcpStream`.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.stream.timeout(Direction::Write))
    }

    /// Switches non-blocking mode on or off, for all handles of the stream. In this mode, calls
    /// that would have to wait fail with [`io::ErrorKind::WouldBlock`] instead. Calls that are
    /// waiting already fail too.
    ///
    /// # Errors
    /// None at present. The signature is that of `TcpStream`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking);
        Ok(())
    }

    /// Returns the stream's no-data timeout.
    #[must_use]
    pub fn no_data_timeout(&self) -> Option<Duration> {
        self.stream.no_data_timeout()
    }

    /// Sets the stream's no-data timeout (`None`: no limit). Reads and writes fail with
    /// [`Error::NoData`] when no payload has crossed the stream in either direction for this time.
    /// The stream stays usable.
    ///
    /// The clock starts at the latest of these: the stream's creation, this call, the last payload,
    /// the last `NoData` failure. It also runs between calls.
    ///
    /// This method may be called any number of times. It also affects calls that are blocked
    /// already.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a duration of zero. The timeout then stays as it was.
    pub fn set_no_data_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        not_zero(timeout)?;
        self.stream.set_no_data_timeout(timeout);
        Ok(())
    }
}

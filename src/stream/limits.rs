//! How long a stream's calls may wait: deadlines, timeouts, no-data timeouts, non-blocking mode.
//!
//! Invariant: each of them reaches calls that are blocked already, and belongs to the stream, not
//! to a handle.

use std::io;
use std::time::{Duration, Instant};

use super::Stream;
use crate::sync::deadline::not_zero;
use crate::sync::stream::Direction;

impl Stream {
    /// Sets the deadlines of reads and of writes; `None`: none. Reaches calls that are already
    /// blocked. An expired deadline still lets data be read that is there, and written what there
    /// is room for.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.set_read_deadline(deadline);
        self.set_write_deadline(deadline);
    }

    /// Sets the deadline of reads; see [`set_deadline`](Self::set_deadline).
    pub fn set_read_deadline(&self, deadline: Option<Instant>) {
        self.stream.set_deadline(Direction::Read, deadline);
    }

    /// Sets the deadline of writes and flushes; see [`set_deadline`](Self::set_deadline).
    pub fn set_write_deadline(&self, deadline: Option<Instant>) {
        self.stream.set_deadline(Direction::Write, deadline);
    }

    /// Sets how long each read may wait, from its start; `None`: for ever. If a deadline is set as
    /// well, the earlier one holds. Calls that are blocked already are reached too. They fail with
    /// [`Error::Timeout`] ([`io::ErrorKind::TimedOut`]).
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a duration of zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_timeout(Direction::Read, timeout)
    }

    /// Sets how long each write and flush may wait, from its start; see
    /// [`set_read_timeout`](Self::set_read_timeout). The time that it waits for other writes counts
    /// too. A `write` that timed out took nothing. So did a `write_all`, unless its error is
    /// [`Error::PartialWrite`].
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

    /// How long each read may wait.
    ///
    /// # Errors
    /// None at present; the signature is `TcpStream`'s.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.stream.timeout(Direction::Read))
    }

    /// How long each write and flush may wait.
    ///
    /// # Errors
    /// None at present; the signature is `TcpStream`'s.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.stream.timeout(Direction::Write))
    }

    /// With `true`, calls that would have to wait fail with [`io::ErrorKind::WouldBlock`] instead;
    /// also those that are waiting now. It belongs to the stream, so it holds for all its handles.
    ///
    /// # Errors
    /// None at present; the signature is `TcpStream`'s.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking);
        Ok(())
    }

    /// The stream's no-data timeout.
    #[must_use]
    pub fn no_data_timeout(&self) -> Option<Duration> {
        self.stream.no_data_timeout()
    }

    /// Makes reads and writes fail with [`Error::NoData`] when no payload crossed the stream in
    /// either direction for this long; `None`: never. The clock starts at the latest of the
    /// stream's creation, this call, the last data, and the last failure, and runs between calls
    /// too. The stream stays usable.
    ///
    /// May be called any number of times, also while calls are blocked, which it reaches.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a duration of zero; the timeout stays as it was.
    pub fn set_no_data_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        not_zero(timeout)?;
        self.stream.set_no_data_timeout(timeout);
        Ok(())
    }
}

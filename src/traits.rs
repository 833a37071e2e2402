//! [`MuxConn`] and [`MuxStream`]: traits for code that is independent of its multiplexer. They
//! correspond to `MuxConnIF` and `StreamIF` of the Go package.
//!
//! Invariant: both traits are object-safe. Each method does exactly the same as the method of
//! [`Session`] or [`Stream`] with the same name.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::error::Result;
use crate::{Session, Stream};

/// A multiplexed connection.
///
/// ```
/// use std::io::{Read, Write};
/// use gmux::MuxConn;
///
/// fn ask(conn: &dyn MuxConn, name: &str) -> std::io::Result<String> {
///     let mut stream = conn.open(name.as_bytes())?;
///     let mut answer = String::new();
///     stream.read_to_string(&mut answer)?;
///     Ok(answer)
/// }
/// # use gmux::{Config, Session};
/// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
/// # let client = Session::client(a, Config::new())?;
/// # let server = Session::server(b, Config::new())?;
/// # std::thread::spawn(move || server.accept().unwrap().write_all(b"42").unwrap());
/// assert_eq!(ask(&client, "answer")?, "42");
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait MuxConn: Send + Sync {
    /// See [`Session::open`].
    ///
    /// # Errors
    /// Those of that method.
    fn open(&self, name: &[u8]) -> Result<Box<dyn MuxStream>>;
    /// See [`Session::accept`].
    ///
    /// # Errors
    /// Those of that method.
    fn accept(&self) -> Result<Box<dyn MuxStream>>;
    /// See [`Session::set_deadline`].
    fn set_deadline(&self, deadline: Option<Instant>);
    /// See [`Session::close`].
    ///
    /// # Errors
    /// Those of that method.
    fn close(&self) -> Result<()>;
    /// See [`Session::is_closed`].
    fn is_closed(&self) -> bool;
    /// See [`Session::closed`].
    fn closed(&self) -> Receiver<()>;
    /// See [`Session::num_streams`].
    fn num_streams(&self) -> usize;
    /// See [`Session::local_addr`].
    fn local_addr(&self) -> Option<SocketAddr>;
    /// See [`Session::peer_addr`].
    fn peer_addr(&self) -> Option<SocketAddr>;
    /// See [`Session::no_data_timeout`].
    fn no_data_timeout(&self) -> Option<Duration>;
    /// See [`Session::set_no_data_timeout`].
    ///
    /// # Errors
    /// Those of that method.
    fn set_no_data_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
}

/// The closure that [`MuxStream::set_close_notifier`] takes.
pub type CloseNotifier = Box<dyn FnOnce(&dyn MuxStream) + Send>;

/// A stream of a multiplexed connection. Its `write_all` is one call, as [`Stream`] describes it.
pub trait MuxStream: Read + Write + Send + Sync {
    /// See [`Stream::id`].
    fn id(&self) -> u32;
    /// See [`Stream::name`].
    fn name(&self) -> &str;
    /// See [`Stream::name_bytes`].
    fn name_bytes(&self) -> &[u8];
    /// See [`Stream::set_deadline`].
    fn set_deadline(&self, deadline: Option<Instant>);
    /// See [`Stream::set_read_deadline`].
    fn set_read_deadline(&self, deadline: Option<Instant>);
    /// See [`Stream::set_write_deadline`].
    fn set_write_deadline(&self, deadline: Option<Instant>);
    /// See [`Stream::no_data_timeout`].
    fn no_data_timeout(&self) -> Option<Duration>;
    /// See [`Stream::set_no_data_timeout`].
    ///
    /// # Errors
    /// Those of that method.
    fn set_no_data_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
    /// See [`Stream::close`].
    ///
    /// # Errors
    /// Those of that method.
    fn close(&self) -> Result<()>;
    /// See [`Stream::shutdown`].
    ///
    /// # Errors
    /// Those of that method.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
    /// See [`Stream::closed`].
    fn closed(&self) -> Receiver<()>;
    /// See [`Stream::set_close_notifier`].
    fn set_close_notifier(&self, notifier: CloseNotifier);
    /// See [`Stream::local_addr`].
    fn local_addr(&self) -> Option<SocketAddr>;
    /// See [`Stream::peer_addr`].
    fn peer_addr(&self) -> Option<SocketAddr>;
}

impl MuxConn for Session {
    fn open(&self, name: &[u8]) -> Result<Box<dyn MuxStream>> {
        Ok(Box::new(self.open(name)?))
    }
    fn accept(&self) -> Result<Box<dyn MuxStream>> {
        Ok(Box::new(self.accept()?))
    }
    fn set_deadline(&self, deadline: Option<Instant>) {
        self.set_deadline(deadline);
    }
    fn close(&self) -> Result<()> {
        self.close()
    }
    fn is_closed(&self) -> bool {
        self.is_closed()
    }
    fn closed(&self) -> Receiver<()> {
        self.closed()
    }
    fn num_streams(&self) -> usize {
        self.num_streams()
    }
    fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr()
    }
    fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer_addr()
    }
    fn no_data_timeout(&self) -> Option<Duration> {
        self.no_data_timeout()
    }
    fn set_no_data_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_no_data_timeout(timeout)
    }
}

impl MuxStream for Stream {
    fn id(&self) -> u32 {
        self.id()
    }
    fn name(&self) -> &str {
        self.name()
    }
    fn name_bytes(&self) -> &[u8] {
        self.name_bytes()
    }
    fn set_deadline(&self, deadline: Option<Instant>) {
        self.set_deadline(deadline);
    }
    fn set_read_deadline(&self, deadline: Option<Instant>) {
        self.set_read_deadline(deadline);
    }
    fn set_write_deadline(&self, deadline: Option<Instant>) {
        self.set_write_deadline(deadline);
    }
    fn no_data_timeout(&self) -> Option<Duration> {
        self.no_data_timeout()
    }
    fn set_no_data_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_no_data_timeout(timeout)
    }
    fn close(&self) -> Result<()> {
        self.close()
    }
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }
    fn closed(&self) -> Receiver<()> {
        self.closed()
    }
    fn set_close_notifier(&self, notifier: CloseNotifier) {
        self.set_close_notifier(|stream| notifier(stream));
    }
    fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr()
    }
    fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer_addr()
    }
}

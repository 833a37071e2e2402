//! [`Duplex`]: the operations that a copy needs of its connections, and the types that have them.
//!
//! Invariant: [`Duplex::is_timeout`] is true for a call that failed only because its time had
//! passed, and for no other call. After a timeout the copy repeats the call. After a failure it
//! must not repeat the call. A socket reports each error only once, so a repeated read would return
//! an end of file.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::stream::Stream;

mod sockets;

/// A connection that one thread may read while another thread writes to it. The writing can be
/// ended while the reading goes on.
///
/// The trait is implemented for [`Stream`], [`TcpStream`](std::net::TcpStream) and
/// [`UnixStream`](std::os::unix::net::UnixStream), and for `&T`, `Box<T>` and `Arc<T>` of each type
/// `T` that implements it. To pass a connection of your own, such as TLS, to
/// [`copy_bidirectional`](super::copy_bidirectional), implement the trait for the connection. The
/// trait is object-safe. The crate's root doesn't export it. If the root exported it, the trait's
/// `read` and `write` would hide those of `Read` and `Write` in each file with `use gmux::*`.
///
/// During the copy, one thread calls `read`, `set_read_timeout` and `confirm_end`. A second thread
/// calls `write`, `flush`, `set_write_timeout` and `finish_write`. Each of these threads may call
/// `stop_reading` and `abort` while the other thread is blocked in a call.
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::net::Shutdown;
/// use gmux::copy::{Duplex, copy_bidirectional};
///
/// /// A socket on which a login came first. The login's code has read too far. `early` holds the
/// /// bytes that came after the login.
/// struct Behind {
///     early: std::sync::Mutex<io::Cursor<Vec<u8>>>,
///     socket: std::os::unix::net::UnixStream,
/// }
///
/// impl Duplex for Behind {
///     fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
///         match self.early.lock().unwrap().read(buf)? {
///             0 => (&self.socket).read(buf),
///             n => Ok(n),
///         }
///     }
///     fn write(&self, buf: &[u8]) -> io::Result<usize> {
///         (&self.socket).write(buf)
///     }
///     fn finish_write(&self) -> io::Result<()> {
///         self.socket.shutdown(Shutdown::Write)
///     }
///     fn abort(&self) {
///         let _ = self.socket.shutdown(Shutdown::Both);
///     }
/// }
/// # let (socket, mut far) = std::os::unix::net::UnixStream::pair()?;
/// # let (other, mut peer) = std::os::unix::net::UnixStream::pair()?;
/// # far.write_all(b" world")?;
/// # far.shutdown(Shutdown::Write)?;
/// # peer.shutdown(Shutdown::Write)?;
///
/// let behind = Behind { early: io::Cursor::new(b"hello".to_vec()).into(), socket };
/// let copied = copy_bidirectional(&behind, &other)?;
/// assert_eq!((copied.a_to_b, copied.b_to_a), (11, 0));
/// # drop(other);
/// # let mut text = String::new();
/// # peer.read_to_string(&mut text)?;
/// # assert_eq!(text, "hello world");
/// # Ok::<(), io::Error>(())
/// ```
pub trait Duplex: Sync {
    /// Waits for at least one byte, and reads the bytes that have come. `Ok(0)` means an end of
    /// file: the peer has ended its writing, without a failure.
    ///
    /// # Errors
    /// An error ends the copy. So return an error only after the copy has read all bytes that came
    /// before the error. The copy repeats the call after `Interrupted`, and after an error for
    /// which [`is_timeout`](Self::is_timeout) is true.
    fn read(&self, buf: &mut [u8]) -> io::Result<usize>;

    /// Waits for room, and writes at least one byte of `buf`. A call that accepts a part of `buf`
    /// and then times out returns the length of that part.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn write(&self, buf: &[u8]) -> io::Result<usize>;

    /// Sends the bytes that `write` has accepted but holds back, if there are any. The copy calls
    /// this after each piece that it has written. The default does nothing.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Ends the writing. The peer reads the written bytes, then an end of file. The peer may still
    /// write. Like `write`, this call may wait.
    ///
    /// # Errors
    /// As for [`read`](Self::read). The copy counts `NotConnected` as a success, because on such a
    /// connection there is nothing left to end.
    fn finish_write(&self) -> io::Result<()>;

    /// Makes reads return the bytes that have come already, and then an end of file or an error.
    /// Reads no longer wait, and a blocked read returns.
    ///
    /// The copy calls this when writing to this connection has failed. So the copy still gets the
    /// bytes that the peer sent before the failure. The default calls [`abort`](Self::abort), which
    /// may lose these bytes.
    fn stop_reading(&self) {
        self.abort();
    }

    /// Makes calls that are **blocked in other threads return**, with an end of file or any error.
    /// Makes later calls return at once, too. The copy calls this when it has failed, or when it no
    /// longer needs this connection. If `abort` leaves a call blocked, the copy never returns.
    ///
    /// There is one exception: a blocked write may stay blocked if writes have a timeout
    /// ([`set_write_timeout`](Self::set_write_timeout)). The copy sets this timeout to at most one
    /// second, so the write returns by itself. `abort` itself must not wait. It may be called more
    /// than once.
    fn abort(&self);

    /// Checks whether the connection has failed. The default returns Ok.
    ///
    /// The copy calls this once before it begins. It also calls this when a read has returned
    /// `Ok(0)` while another thread is in a write to this connection.
    ///
    /// If the check fails during the copy, the copy waits for that write, for at most one second:
    ///
    /// - If the write succeeds, the end of file is valid, and the copy goes on.
    /// - If the write fails, its error ends the copy.
    /// - If the write is still blocked, the check's error ends the copy.
    ///
    /// If the check fails before the copy begins, the copy doesn't check this connection again. An
    /// end of file of this connection then ends the copy with the check's error. But if the error
    /// is `BrokenPipe`, the end of file is valid, because a socket also reports this error when
    /// this program has ended its own writing.
    ///
    /// The reason for the check: a socket reports a reset only once. If the write gets the report,
    /// a read at the same moment returns `Ok(0)`, although the peer hasn't ended its writing.
    ///
    /// # Errors
    /// Returns an error if the connection has failed.
    fn confirm_end(&self) -> io::Result<()> {
        Ok(())
    }

    /// Prepares the connection for the copy, before the copy begins. The default does nothing.
    ///
    /// # Errors
    /// If this returns an error, the copy doesn't begin.
    fn prepare(&self) -> io::Result<()> {
        Ok(())
    }

    /// Returns the time that each read may wait. At its end, the copy sets this value again.
    /// The default is `None`, which means no limit.
    ///
    /// # Errors
    /// Returns the system's error.
    fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(None)
    }

    /// Sets the time that each read may wait. The copy passes `Some` only if one of its options
    /// needs read timeouts.
    ///
    /// # Errors
    /// The default returns `Unsupported` for `Some`. So a copy with such an option doesn't begin.
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        unsupported(timeout)
    }

    /// Returns the time that each write may wait. At its end, the copy sets this value again.
    /// The default is `None`, which means no limit.
    ///
    /// # Errors
    /// Returns the system's error.
    fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(None)
    }

    /// Sets the time that each write may wait. The copy sets at most one second. When a write has
    /// timed out, the copy checks its own timeouts and the other direction, then repeats the write.
    ///
    /// # Errors
    /// The default returns `Unsupported` for `Some`. Without write timeouts, the following holds:
    ///
    /// - [`abort`](Self::abort) has to make a blocked write return.
    /// - After a failure of the other connection, bytes that came from there aren't written to this
    ///   connection.
    /// - An idle timeout doesn't end a blocked write.
    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        unsupported(timeout)
    }

    /// Returns whether an error means only that the call's timeout has passed. After such an error
    /// no byte was lost, and the call can be repeated. By default, the result is true for
    /// `WouldBlock`, which sockets return when a timeout has passed. It is false for `TimedOut`, by
    /// which a system reports a dead connection.
    fn is_timeout(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::WouldBlock
    }
}

fn unsupported(timeout: Option<Duration>) -> io::Result<()> {
    match timeout {
        None => Ok(()),
        Some(_) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "this connection has no timeouts"))
        }
    }
}

/// - The copy changes the stream's timeouts, and sets it to blocking mode. The user's deadlines and
///   no-data timeout stay in force. When one of these limits passes, the copy fails with the error
///   of that limit.
/// - `finish_write` is `shutdown(Write)`. It waits until the accepted bytes have been handed to the
///   session's transport.
/// - `abort` is [`Stream::close`], which sends FIN behind the accepted bytes. So the peer reads an
///   end of file after a failure, too.
impl Duplex for Stream {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        Read::read(&mut &*self, buf)
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        Write::write(&mut &*self, buf)
    }

    fn finish_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)?;
        Write::flush(&mut &*self)
    }

    fn stop_reading(&self) {
        self.set_read_deadline(Some(std::time::Instant::now())); // buffered data is still returned
    }

    fn abort(&self) {
        let _ = self.close(); // never fails
    }

    fn prepare(&self) -> io::Result<()> {
        self.set_nonblocking(false)
    }

    fn read_timeout(&self) -> io::Result<Option<Duration>> {
        self.read_timeout()
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)
    }

    fn write_timeout(&self) -> io::Result<Option<Duration>> {
        self.write_timeout()
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_write_timeout(timeout)
    }

    fn is_timeout(&self, error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        matches!(inner, Some(Error::Timeout))
    }
}

/// Implements `Duplex` for pointers to a `T` that implements it.
macro_rules! pointer {
    ($($pointer:ty),*) => {$(
        impl<T: Duplex + ?Sized> Duplex for $pointer
        where
            Self: Sync,
        {
            fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
                (**self).read(buf)
            }
            fn write(&self, buf: &[u8]) -> io::Result<usize> {
                (**self).write(buf)
            }
            fn flush(&self) -> io::Result<()> {
                (**self).flush()
            }
            fn finish_write(&self) -> io::Result<()> {
                (**self).finish_write()
            }
            fn stop_reading(&self) {
                (**self).stop_reading();
            }
            fn abort(&self) {
                (**self).abort();
            }
            fn confirm_end(&self) -> io::Result<()> {
                (**self).confirm_end()
            }
            fn prepare(&self) -> io::Result<()> {
                (**self).prepare()
            }
            fn read_timeout(&self) -> io::Result<Option<Duration>> {
                (**self).read_timeout()
            }
            fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                (**self).set_read_timeout(timeout)
            }
            fn write_timeout(&self) -> io::Result<Option<Duration>> {
                (**self).write_timeout()
            }
            fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                (**self).set_write_timeout(timeout)
            }
            fn is_timeout(&self, error: &io::Error) -> bool {
                (**self).is_timeout(error)
            }
        }
    )*};
}

pointer!(&T, Box<T>, Arc<T>);

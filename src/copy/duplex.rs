//! [`Duplex`]: what a connection has to offer to be copied, and the connections that do.
//!
//! Invariant: a call that only its time has ended says so ([`Duplex::is_timeout`]), and nothing
//! else does: a failure that is taken for a timeout would be asked again, and reads as a clean end
//! then (a socket tells each error once).

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::stream::Stream;

/// A connection that one thread may read while another one writes, and whose writing can be ended
/// alone.
///
/// Implemented for [`Stream`], [`TcpStream`] and [`UnixStream`](std::os::unix::net::UnixStream),
/// and for `&T`, `Box<T>` and `Arc<T>` of all that implement it. Implement it for a connection of
/// your own, such as TLS, to give that to [`copy_bidirectional`](super::copy_bidirectional). It is
/// object-safe. (It isn't exported at the crate's root, since its `read` and `write` would be found
/// before those of `Read` and `Write`, where all of the root is imported.)
///
/// One thread calls `read`, `set_read_timeout` and `confirm_end`, another one `write`, `flush`,
/// `set_write_timeout` and `finish_write`. `stop_reading` and `abort` may come from either, while
/// the other one is blocked in a call.
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::net::Shutdown;
/// use gmux::copy::{Duplex, copy_bidirectional};
///
/// /// A socket, and the bytes of it that a login has read too many.
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
    /// Reads what has come, at least one byte, waiting for it. `Ok(0)`: the peer has ended its
    /// writing, in order.
    ///
    /// # Errors
    /// Whatever ends the copy, after all that came before it was read. `Interrupted`, and what
    /// [`is_timeout`](Self::is_timeout) knows, are asked again.
    fn read(&self, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes some of `buf`, at least one byte, waiting for room. A call that times out after it
    /// took a part says how much.
    ///
    /// # Errors
    /// As [`read`](Self::read)'s.
    fn write(&self, buf: &[u8]) -> io::Result<usize>;

    /// Sends what `write` holds back, if it does. It is called after each piece that was written.
    /// By default it does nothing.
    ///
    /// # Errors
    /// As [`read`](Self::read)'s.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Ends the writing: the peer reads an end behind what was written, and may still write. It may
    /// wait, as `write` may.
    ///
    /// # Errors
    /// As [`read`](Self::read)'s. `NotConnected` is no failure: there is nothing left to end. After
    /// a timeout it is called again.
    fn finish_write(&self) -> io::Result<()>;

    /// From now on reads return what has come already, and then an end or an error. They don't wait
    /// any more, and one that is blocked returns. It is called when writing to this connection has
    /// failed, so that what its peer sent before that isn't lost. By default it is
    /// [`abort`](Self::abort), which may lose it.
    fn stop_reading(&self) {
        self.abort();
    }

    /// The copy has failed, or this connection is needed no more: calls that are **blocked in other
    /// threads return**, with an end or any error, and so do later ones. A copy whose connection
    /// doesn't keep to that never returns.
    ///
    /// Where writes have a timeout a blocked one need not return at once: the copy sets one of a
    /// second at most. `abort` itself doesn't wait. It may be called more than once.
    fn abort(&self);

    /// Asked when a read has said `Ok(0)` while another thread is in a write to this connection:
    /// whether that write may still succeed. If not, the copy waits for what it returns, and an
    /// error of it is the end of the copy. It is also asked before the copy begins. By default it
    /// may.
    ///
    /// A socket tells of a reset once. If a write is told, a read that goes on at the same moment
    /// returns `Ok(0)`.
    ///
    /// # Errors
    /// The connection has failed.
    fn confirm_end(&self) -> io::Result<()> {
        Ok(())
    }

    /// Called before the copy begins: the connection is made fit for it. By default it does
    /// nothing.
    ///
    /// # Errors
    /// The copy doesn't begin.
    fn prepare(&self) -> io::Result<()> {
        Ok(())
    }

    /// How long each read may wait: what the copy sets it back to at its end. By default `None`.
    ///
    /// # Errors
    /// Of the system.
    fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(None)
    }

    /// Sets how long each read may wait. Called with `Some` only where an option of the copy needs
    /// it.
    ///
    /// # Errors
    /// By default, `Unsupported` for `Some`. Then such a copy doesn't begin.
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        unsupported(timeout)
    }

    /// How long each write may wait: what the copy sets it back to at its end. By default `None`.
    ///
    /// # Errors
    /// Of the system.
    fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(None)
    }

    /// Sets how long each write may wait. The copy sets a second at most, to look around, and then
    /// goes on.
    ///
    /// # Errors
    /// By default, `Unsupported` for `Some`. Then [`abort`](Self::abort) has to wake a blocked
    /// write, what has come for this connection isn't written after a failure, and an idle timeout
    /// doesn't end a blocked write.
    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        unsupported(timeout)
    }

    /// Whether an error of a call says that only its timeout passed: nothing was lost, and it can
    /// be repeated. By default that is `WouldBlock`, as sockets say it. It isn't `TimedOut`, by
    /// which a system tells that a connection is dead.
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

/// - Its timeouts and its non-blocking mode are set by the copy. A deadline and a no-data timeout
///   of the user's hold: when one passes, the copy fails with it.
/// - `finish_write` is `shutdown(Write)`, and waits until what was accepted has been handed to the
///   session's transport.
/// - `abort` is [`Stream::close`]: FIN behind what was accepted. So after a failure, too, its peer
///   reads an end of file.
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
        self.set_read_deadline(Some(std::time::Instant::now())); // still returns what is there
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

/// A call that timed out there leaves the socket in no defined state, so the copy can't go on after
/// it.
fn no_timeout_on_windows(timeout: Option<Duration>) -> io::Result<()> {
    if cfg!(windows) { unsupported(timeout) } else { Ok(()) }
}

/// Implements what `TcpStream` and `UnixStream` have in common.
macro_rules! socket {
    () => {
        fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
            Read::read(&mut &*self, buf)
        }

        fn write(&self, buf: &[u8]) -> io::Result<usize> {
            Write::write(&mut &*self, buf)
        }

        fn finish_write(&self) -> io::Result<()> {
            self.shutdown(Shutdown::Write)
        }

        fn stop_reading(&self) {
            // fails where the connection is gone: then reads don't wait anyhow
            let _ = self.shutdown(Shutdown::Read);
        }

        fn abort(&self) {
            let _ = self.shutdown(ABORT); // as above
        }

        /// Writes nothing, which fails if the connection was reset, the peer of a Unix socket is
        /// gone, or this end has finished its writing.
        fn confirm_end(&self) -> io::Result<()> {
            match Write::write(&mut &*self, &[]) {
                Err(error)
                    if !self.is_timeout(&error) && error.kind() != io::ErrorKind::Interrupted =>
                {
                    Err(error)
                }
                _ => Ok(()),
            }
        }

        fn read_timeout(&self) -> io::Result<Option<Duration>> {
            self.read_timeout()
        }

        fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
            no_timeout_on_windows(timeout)?;
            self.set_read_timeout(timeout)
        }

        fn write_timeout(&self) -> io::Result<Option<Duration>> {
            self.write_timeout()
        }

        fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
            no_timeout_on_windows(timeout)?;
            self.set_write_timeout(timeout)
        }
    };
}

/// What `abort` ends of a socket. Not the writing: that would send FIN, which the peer can't tell
/// from an end in order. A blocked write sees the failure when its timeout has passed. On Windows,
/// where a write that timed out leaves the socket in no defined state, it has none, and has to be
/// woken.
const ABORT: Shutdown = if cfg!(windows) { Shutdown::Both } else { Shutdown::Read };

/// - It is set to blocking mode and to `TCP_NODELAY`, and stays so: the copy writes what it has at
///   once, and Nagle's algorithm would hold back the end of an answer.
/// - `abort` ends the reading alone (on Windows both): what its peer sees after a failure is
///   decided by [whoever drops the socket](super::copy_bidirectional#what-each-end-sees).
impl Duplex for TcpStream {
    socket!();

    fn prepare(&self) -> io::Result<()> {
        // fails where the connection is gone already: the first read says so better
        let _ = self.set_nodelay(true);
        self.set_nonblocking(false)
    }
}

/// It is set to blocking mode, and stays so. Otherwise as a `TcpStream`.
#[cfg(unix)]
impl Duplex for std::os::unix::net::UnixStream {
    socket!();

    fn prepare(&self) -> io::Result<()> {
        self.set_nonblocking(false)
    }
}

/// Implements it for what points to a `T` that has it.
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

//! [`Duplex`] for the sockets of the standard library.
//!
//! Invariant: no shutdown here sends FIN after a failure. Windows is an exception, because only a
//! shutdown of both directions makes a blocked write return there.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::{Duplex, unsupported};

/// Refuses timeouts on Windows. There, a call that timed out leaves the socket in an undefined
/// state, so the copy couldn't go on after a timeout.
fn no_timeout_on_windows(timeout: Option<Duration>) -> io::Result<()> {
    if cfg!(windows) { unsupported(timeout) } else { Ok(()) }
}

/// Implements the methods that are the same for `TcpStream` and `UnixStream`.
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
            // This fails only if the connection is gone. Reads of such a connection don't wait.
            let _ = self.shutdown(Shutdown::Read);
        }

        fn abort(&self) {
            let _ = self.shutdown(ABORT); // fails if the connection is gone
        }

        /// Writes 0 bytes. That fails if the connection was reset, if the peer of a Unix socket is
        /// gone, or if this program has ended its own writing.
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

/// The direction of a socket that `abort` shuts down: only reading, except on Windows. Shutting
/// down the writing would send FIN. The peer would then read an end of file, as if the copy had
/// succeeded. A blocked write needs no shutdown, because its thread sees the failure when the
/// write's timeout has passed. On Windows writes have no timeout, because a write that timed out
/// leaves the socket in an undefined state. So there `abort` shuts down both directions, which
/// makes a blocked write return.
const ABORT: Shutdown = if cfg!(windows) { Shutdown::Both } else { Shutdown::Read };

/// - The copy sets blocking mode and `TCP_NODELAY`, and doesn't reset them when it is over.
///   `TCP_NODELAY` is set because the copy writes all its bytes at once, so Nagle's algorithm would
///   only delay the last bytes of an answer.
/// - `abort` ends only the reading (on Windows, both directions). The code that drops the socket
///   decides [what the peer sees after a
///   failure](crate::copy::copy_bidirectional#what-each-peer-sees).
impl Duplex for TcpStream {
    socket!();

    fn prepare(&self) -> io::Result<()> {
        // This fails if the connection is gone already. The first read returns the better error.
        let _ = self.set_nodelay(true);
        self.set_nonblocking(false)
    }
}

/// The copy sets blocking mode, and doesn't reset this mode at its end. Otherwise the socket is
/// handled like a `TcpStream`.
#[cfg(unix)]
impl Duplex for std::os::unix::net::UnixStream {
    socket!();

    fn prepare(&self) -> io::Result<()> {
        self.set_nonblocking(false)
    }
}

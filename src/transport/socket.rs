//! Sockets of the standard library as transports.
//!
//! Invariant: a session uses one file descriptor, which both halves and the control share.
//! `shutdown(Both)` interrupts reads and writes that are blocked in other threads. `abort` uses
//! this effect.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::{Control, Halves, Transport};

/// Implements the halves, which are the same for `TcpStream` and `UnixStream`.
macro_rules! socket {
    ($stream:ty, $half:ident) => {
        struct $half(Arc<$stream>);

        impl Read for $half {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                (&*self.0).read(buf)
            }

            fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                (&*self.0).read_vectored(bufs)
            }
        }

        impl Write for $half {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                (&*self.0).write(buf)
            }

            fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                (&*self.0).write_vectored(bufs)
            }

            fn flush(&mut self) -> io::Result<()> {
                (&*self.0).flush()
            }
        }

        /// Sets blocking mode and the session's timeouts, in place of the settings of an earlier
        /// owner. Returns the halves.
        fn halves(stream: Arc<$stream>, control: impl Control + 'static) -> io::Result<Halves> {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(None)?;
            stream.set_write_timeout(super::WRITE_BOUND)?;
            let writer = $half(Arc::clone(&stream));
            let reads = Arc::clone(&stream);
            let writes = Arc::clone(&stream);
            let halves = Halves::new($half(stream), writer, control);
            if super::WRITE_BOUND.is_none() {
                return Ok(halves);
            }
            let halves = halves.bound_reads(move |bound| reads.set_read_timeout(bound));
            Ok(halves.bound_writes(move |bound| writes.set_write_timeout(bound)))
        }
    };
}

/// Time limit of one write that waits for room in the socket's buffer. The limit is short enough
/// that an inline write keeps the deadline of its call. It is long enough that repeated writes cost
/// little. The session raises the limit while the peer doesn't read (see `Halves::bound_writes`).
/// Timeouts and modes belong to the socket, so the socket's clones have them, too.
///
/// There is no limit on Windows, where a call that timed out leaves the socket in an undefined
/// state.
const WRITE_BOUND: Option<Duration> =
    if cfg!(windows) { None } else { Some(Duration::from_millis(10)) };

/// Turns `NotConnected` into a success. `shutdown` returns this error if the connection has already
/// ended, and then there is nothing left to end.
fn finish(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

mod tcp {
    use super::*;

    struct TcpControl {
        stream: Arc<TcpStream>,
        local: Option<SocketAddr>,
        peer: Option<SocketAddr>,
    }

    socket!(TcpStream, TcpHalf);

    impl Control for TcpControl {
        fn finish_write(&self) -> io::Result<()> {
            finish(self.stream.shutdown(Shutdown::Write))
        }

        fn abort(&self) {
            let _ = self.stream.shutdown(Shutdown::Both); // if it fails, nothing is left to do
        }

        fn local_addr(&self) -> Option<SocketAddr> {
            self.local
        }

        fn peer_addr(&self) -> Option<SocketAddr> {
            self.peer
        }
    }

    /// `split` makes these settings. Clones of the socket have them, too.
    ///
    /// - Blocking mode is set.
    /// - The read timeout is cleared. Later the session sets it to 10 ms and clears it again as
    ///   needed.
    /// - The write timeout is set to 10 ms, except on Windows. It rises to a second while the peer
    ///   doesn't read.
    /// - `TCP_NODELAY` is set. Frames are gathered into large writes already, so Nagle's algorithm
    ///   would only delay the small ones.
    impl Transport for TcpStream {
        fn split(self) -> io::Result<Halves> {
            self.set_nodelay(true)?;
            let stream = Arc::new(self);
            let control = TcpControl {
                local: stream.local_addr().ok(),
                peer: stream.peer_addr().ok(),
                stream: Arc::clone(&stream),
            };
            halves(stream, control)
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::net::UnixStream;

    use super::*;

    struct UnixControl(Arc<UnixStream>);

    socket!(UnixStream, UnixHalf);

    impl Control for UnixControl {
        fn finish_write(&self) -> io::Result<()> {
            finish(self.0.shutdown(Shutdown::Write))
        }

        fn abort(&self) {
            let _ = self.0.shutdown(Shutdown::Both); // if it fails, nothing is left to do
        }
    }

    /// `split` makes these settings. Clones of the socket have them, too.
    ///
    /// - Blocking mode is set.
    /// - The read timeout is cleared. Later the session sets it to 10 ms and clears it again as
    ///   needed.
    /// - The write timeout is set to 10 ms. It rises to a second while the peer doesn't read.
    impl Transport for UnixStream {
        fn split(self) -> io::Result<Halves> {
            let stream = Arc::new(self);
            let control = UnixControl(Arc::clone(&stream));
            halves(stream, control)
        }
    }
}

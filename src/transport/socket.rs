//! Sockets of the standard library as transports.
//!
//! Invariant: a session uses one file descriptor; both halves and the control share it.
//! `shutdown(Both)` interrupts reads and writes that are blocked in other threads, which is what
//! makes `abort` work.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::{Control, Halves, Transport};

/// Implements what `TcpStream` and `UnixStream` have in common.
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

        /// Blocking mode, and our timeouts instead of those that an earlier owner left behind; then
        /// the halves.
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

/// How long a write waits for room at a time: short enough for a thread that takes the writer's
/// turn and has a deadline, long enough to cost nothing. It is raised while the peer doesn't read:
/// see `Halves`. (Timeouts and modes belong to the socket, so clones of it have them too.)
///
/// Not on Windows, where a call that timed out leaves the socket in no defined state.
const WRITE_BOUND: Option<Duration> =
    if cfg!(windows) { None } else { Some(Duration::from_millis(10)) };

/// `shutdown` says `NotConnected` when the peer has ended the connection already: then there is
/// nothing left to end.
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
            let _ = self.stream.shutdown(Shutdown::Both); // nothing is left to do where it fails
        }

        fn local_addr(&self) -> Option<SocketAddr> {
            self.local
        }

        fn peer_addr(&self) -> Option<SocketAddr> {
            self.peer
        }
    }

    /// Sets blocking mode, clears the read timeout (later it is set to 10 ms and cleared again, as
    /// it suits), sets the write timeout to 10 ms (up to a second while the peer doesn't read; not
    /// on Windows; clones of the socket have these settings too), and sets `TCP_NODELAY`: frames
    /// are gathered into large writes already, and Nagle's algorithm would only delay the small
    /// ones.
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
            let _ = self.0.shutdown(Shutdown::Both); // nothing is left to do where it fails
        }
    }

    /// Sets blocking mode, clears the read timeout (later it is set to 10 ms and cleared again, as
    /// it suits), and sets the write timeout to 10 ms (up to a second while the peer doesn't read).
    /// Clones of the socket have these settings too.
    impl Transport for UnixStream {
        fn split(self) -> io::Result<Halves> {
            let stream = Arc::new(self);
            let control = UnixControl(Arc::clone(&stream));
            halves(stream, control)
        }
    }
}

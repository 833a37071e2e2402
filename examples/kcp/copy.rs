//! Copies between a stream and a TCP connection.
//!
//! `copy_bidirectional` passes on the end of each direction separately. kcptun can't do that. When
//! one direction ends, kcptun closes both, and discards bytes that are written into its stream
//! after that. So without `--half-close`, the end of the stream ends both directions of the TCP
//! connection.
//!
//! Invariants:
//! - Bytes that came before the stream's end are written to the TCP connection before it is closed.
//! - The TCP connection has no unread input when it is closed. Unread input would make the close a
//!   reset, and a reset could destroy written bytes.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use gmux::copy::Duplex;
use gmux::{Copied, CopyError, Stream, copy_bidirectional};
use parking_lot::{Condvar, Mutex};

/// Time that a TCP connection's peer has to end its side after the stream's end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Copies until both directions have ended, or one has failed.
///
/// # Errors
/// Returns the errors of `copy_bidirectional`. After an error the drop of the TCP connection is a
/// reset. An end of file would tell its peer that everything has arrived.
pub fn copy(stream: &Stream, tcp: TcpStream, half_close: bool) -> Result<Copied, CopyError> {
    let _ = tcp.set_nodelay(true);
    let copied = match half_close {
        true => copy_bidirectional(stream, &tcp),
        false => copy_bidirectional(stream, &Whole::new(&tcp)),
    };
    if copied.is_err() {
        let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
    }
    copied
}

/// A TCP connection whose two directions end together.
struct Whole<'a> {
    tcp: &'a TcpStream,
    /// Whether the input has ended.
    read: Mutex<bool>,
    /// `finish_write` waits on this for the end of the input. The reading thread wakes it.
    over: Condvar,
}

impl<'a> Whole<'a> {
    fn new(tcp: &'a TcpStream) -> Self {
        Self { tcp, read: Mutex::new(false), over: Condvar::new() }
    }
}

impl Duplex for Whole<'_> {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let read = Duplex::read(self.tcp, buf);
        if !matches!(read, Ok(1..)) {
            *self.read.lock() = true;
            self.over.notify_all();
        }
        read
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        Duplex::write(self.tcp, buf)
    }

    /// Ends both directions. The peer now reads an end of file, and most peers then end their side
    /// too. Input is read until they do, at most for `END_TIMEOUT`.
    fn finish_write(&self) -> io::Result<()> {
        self.tcp.finish_write()?;
        let mut read = self.read.lock();
        self.over.wait_while_for(&mut read, |read| !*read, END_TIMEOUT);
        drop(read);
        let _ = self.tcp.shutdown(Shutdown::Read); // This fails if the connection is gone.
        Ok(())
    }

    fn stop_reading(&self) {
        self.tcp.stop_reading();
    }

    fn abort(&self) {
        self.tcp.abort();
    }

    fn confirm_end(&self) -> io::Result<()> {
        self.tcp.confirm_end()
    }

    fn prepare(&self) -> io::Result<()> {
        self.tcp.prepare()
    }
}

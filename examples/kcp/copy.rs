//! Copies between a stream and a TCP connection.
//!
//! `copy_bidirectional` passes each way's end on by itself. kcptun doesn't know that: it closes
//! both sides as soon as one way has ended, and what is written into its stream after that goes
//! nowhere. So without `--half-close` an end of the stream ends the TCP connection both ways.
//!
//! Invariant: what was received before the stream's end is written to the connection before that
//! closes, and no unread input makes the close a reset, which could destroy it.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use gmux::copy::Duplex;
use gmux::{Copied, CopyError, Stream, copy_bidirectional};
use parking_lot::{Condvar, Mutex};

/// How long a connection has to end its side, after the stream's end.
const GRACE: Duration = Duration::from_secs(2);

/// Copies until both ways have ended, or one has failed.
///
/// # Errors
/// As of `copy_bidirectional`. The drop of the TCP connection is a reset then, so that its peer
/// doesn't take what came for all.
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

/// A TCP connection whose writing doesn't end without its reading.
struct Whole<'a> {
    tcp: &'a TcpStream,
    /// Whether its input is over.
    read: Mutex<bool>,
    /// `finish_write` waits; the thread that reads wakes it.
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

    /// The peer reads its end now, and most end their side, too. Their input is read until then.
    fn finish_write(&self) -> io::Result<()> {
        self.tcp.finish_write()?;
        let mut read = self.read.lock();
        self.over.wait_while_for(&mut read, |read| !*read, GRACE);
        drop(read);
        let _ = self.tcp.shutdown(Shutdown::Read); // it may be gone
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

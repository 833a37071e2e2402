//! A transport that can't be split. A lock lets either the session's reader thread or its writer
//! thread use the transport, one at a time.
//!
//! The lock is held across transport I/O. So it must be held only for a short time. **Reads and
//! writes of the inner transport have to be bounded to a few milliseconds**, by its timeouts or by
//! non-blocking mode. A call that could do nothing (`WouldBlock`, `TimedOut`) gives up the lock,
//! and then the other direction can go on. Therefore neither direction is stuck when both are full
//! at once.
//!
//! # Invariants
//! - The lock is handed over fairly. When a thread releases the lock, a waiting thread gets it
//!   before the releasing thread can take it again.
//! - The reader waits for readiness ([`with_readiness`](Shared::with_readiness)) outside the lock,
//!   and only after a read returned `WouldBlock`. It always reads first, because a TLS connection
//!   may hold decrypted bytes, which readiness doesn't show.
//! - If there was a write while the reader waited for readiness, the reader reads again as soon as
//!   the readiness closure has returned, whether the transport is ready or not. A write may also
//!   take input from the socket. rustls's write does so when it can't write. Readiness doesn't show
//!   that input.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::backoff::Pauses;
use super::{Control, Halves, Transport};

type Readiness = Box<dyn FnMut() -> io::Result<()> + Send>;
type Hook = Box<dyn FnOnce() + Send>;
type Finish<T> = Box<dyn FnMut(&mut T) -> io::Result<()> + Send>;

/// Limit of useless reads in a row. A read is useless if it finds nothing although the readiness
/// closure has just returned Ok. After this number of useless reads, each further one is followed
/// by a pause. Some useless reads are normal. For example, the largest TLS record comes in a dozen
/// packets, and a read gives no plaintext before the last of them.
const READY_FOR_NOTHING: u32 = 16;

/// Any `Read + Write + Send` object as a transport.
///
/// This is for objects that can't be split, such as another TLS library's connection or a serial
/// port. (For rustls there is `Tls`, with the feature `rustls`. It reads and writes at the same
/// time.)
///
/// The object's reads and writes must return at once or within a few milliseconds, with
/// `WouldBlock` or `TimedOut` when there is nothing to do. **Use non-blocking mode for that**, as
/// in the example. Then no call waits while it holds the lock. A call that could do nothing is
/// tried again after a pause. The pause is 1 ms at first. It doubles up to 40 ms while nothing is
/// read or written, and falls back to 1 ms at the first byte in either direction. So data that
/// comes after a silence is noticed up to 40 ms late. An answer that comes after a wait of 8 ms is
/// noticed up to 8 ms late, because the pause has grown only to about 8 ms.
///
/// If the object has no non-blocking mode, timeouts of a few milliseconds also work, without that
/// delay. But a read that waits for its timeout holds the lock, and nothing can be written
/// meanwhile. In a measurement with bulk data, such a transport was much slower than the same
/// transport in non-blocking mode.
///
/// If the object has neither non-blocking mode nor timeouts:
///
/// - A read that blocks holds the lock, and nothing is written until the read returns.
/// - A write that blocks holds the lock. When both directions are full, both peers wait forever.
/// - Keepalive still ends such a session for its users. But the session's threads stay until the
///   blocked call returns, unless [`on_abort`](Shared::on_abort) can make it return.
///
/// ```no_run
/// use std::net::TcpStream;
/// use gmux::{Config, Session, transport::Shared};
/// # fn handshake(tcp: TcpStream) -> std::io::Result<TcpStream> { Ok(tcp) }
/// # fn end(tls: &mut TcpStream) -> std::io::Result<()> { Ok(()) }
///
/// let tcp = TcpStream::connect("192.0.2.1:443")?;
/// tcp.set_nodelay(true)?;
/// let (mode, abort) = (tcp.try_clone()?, tcp.try_clone()?);
/// let tls = handshake(tcp)?; // native-tls, openssl …
/// mode.set_nonblocking(true)?; // after the handshake, which needs blocking mode
/// let transport = Shared::new(tls)
///     .on_finish(|tls| end(tls)) // sends close_notify
///     .on_abort(move || { let _ = abort.shutdown(std::net::Shutdown::Both); });
/// let session = Session::client(transport, Config::new())?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Shared<T> {
    inner: T,
    readiness: Option<Readiness>,
    finish: Option<Finish<T>>,
    abort: Option<Hook>,
}

impl<T: Read + Write + Send + 'static> Shared<T> {
    /// Returns a transport that calls `inner` for one read, write or flush at a time.
    pub fn new(inner: T) -> Self {
        Self { inner, readiness: None, finish: None, abort: None }
    }

    /// Makes the reader wait in `readiness`, outside the lock. `readiness` should return when a
    /// read is worth trying.
    ///
    /// `WouldBlock`, `TimedOut` and `Interrupted` mean "not yet", and `readiness` is called again.
    /// Any other error ends the session. `readiness` must either return every few hundred
    /// milliseconds, or be interrupted by [`on_abort`](Self::on_abort). Over TLS it must return
    /// within a few milliseconds. A TLS connection may take input from the socket while it writes.
    /// The reader finds that input only after `readiness` has returned.
    #[must_use]
    pub fn with_readiness(
        mut self,
        readiness: impl FnMut() -> io::Result<()> + Send + 'static,
    ) -> Self {
        self.readiness = Some(Box::new(readiness));
        self
    }

    /// Calls `finish` to end the writing direction, after the last write and flush. For TLS,
    /// `finish` should send `close_notify`. It is called again when it returns `WouldBlock`,
    /// `TimedOut` or `Interrupted`.
    ///
    /// Without `finish`, the peer reads an end of file only when the transport is dropped. Also,
    /// [`close`](crate::Session::close) doesn't wait for the peer then, so an Ok of `close`
    /// promises less ([`Control::can_finish`]).
    #[must_use]
    pub fn on_finish(
        mut self,
        finish: impl FnMut(&mut T) -> io::Result<()> + Send + 'static,
    ) -> Self {
        self.finish = Some(Box::new(finish));
        self
    }

    /// Calls `abort` once when the session ends by an error or by its close timeout. `abort` should
    /// interrupt blocked calls, and must not block.
    #[must_use]
    pub fn on_abort(mut self, abort: impl FnOnce() + Send + 'static) -> Self {
        self.abort = Some(Box::new(abort));
        self
    }
}

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("readiness", &self.readiness.is_some())
            .finish_non_exhaustive()
    }
}

/// The inner transport and its lock, shared by both halves and the control.
struct Exclusive<T> {
    /// Guards the transport itself, for one read, write or flush at a time.
    inner: Mutex<T>,
    /// Whether there was a write since the last read began.
    wrote: AtomicBool,
    aborted: AtomicBool,
    pauses: Pauses,
}

impl<T> Exclusive<T> {
    /// Does `io` once with exclusive access. Then passes the lock to a thread that waits for the
    /// lock, if there is one.
    fn once<R>(&self, io: impl FnOnce(&mut T) -> io::Result<R>) -> io::Result<R> {
        self.check()?;
        let mut inner = self.inner.lock();
        let result = io(&mut inner);
        MutexGuard::unlock_fair(inner);
        result
    }

    fn check(&self) -> io::Result<()> {
        if self.aborted.load(Ordering::SeqCst) {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }

    /// Repeats `io`, each time with exclusive access, until it returns something other than "not
    /// yet". Pauses between the tries.
    fn until_done<R>(&self, mut io: impl FnMut(&mut T) -> io::Result<R>) -> io::Result<R> {
        let mut pausing = self.pauses.begin();
        loop {
            let started = Instant::now();
            match self.once(&mut io) {
                Err(error) if is_not_yet(&error) => pausing.after(started),
                other => {
                    self.pauses.end();
                    return other;
                }
            }
        }
    }

    /// Repeats a write or a flush like [`until_done`](Self::until_done). Sets `wrote` after each
    /// try, so that the reader tries again.
    fn write_until_done<R>(&self, mut io: impl FnMut(&mut T) -> io::Result<R>) -> io::Result<R> {
        self.until_done(|inner| {
            let result = io(inner);
            self.wrote.store(true, Ordering::SeqCst);
            result
        })
    }
}

/// Turns the `Ok(0)` of a write that accepted nothing into "not yet". rustls returns `Ok(0)` while
/// its buffer is full. So `Ok(0)` doesn't mean that the connection has ended. An ended connection
/// returns an error, or an end of file to a read.
fn taken(count: usize, offered: bool) -> io::Result<usize> {
    if count == 0 && offered { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

struct SharedReader<T> {
    exclusive: Arc<Exclusive<T>>,
    readiness: Option<Readiness>,
}

impl<T: Read> Read for SharedReader<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(readiness) = &mut self.readiness else {
            return self.exclusive.until_done(|inner| inner.read(buf));
        };
        let mut pausing = self.exclusive.pauses.begin();
        let mut in_vain = 0;
        loop {
            self.exclusive.wrote.store(false, Ordering::SeqCst);
            let round = Instant::now();
            match self.exclusive.once(|inner| inner.read(buf)) {
                Err(error) if is_not_yet(&error) => {}
                other => {
                    self.exclusive.pauses.end();
                    return other;
                }
            }
            loop {
                let started = Instant::now();
                match readiness() {
                    Ok(()) if in_vain < READY_FOR_NOTHING => in_vain += 1,
                    Ok(()) => pausing.after(round),
                    Err(error) if is_not_yet(&error) => {
                        in_vain = 0;
                        self.exclusive.check()?;
                        pausing.after(started);
                        if !self.exclusive.wrote.load(Ordering::SeqCst) {
                            continue;
                        }
                    }
                    Err(error) => return Err(error),
                }
                break;
            }
        }
    }
}

struct SharedWriter<T>(Arc<Exclusive<T>>);

impl<T: Write> Write for SharedWriter<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write_until_done(|inner| taken(inner.write(buf)?, !buf.is_empty()))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered = bufs.iter().any(|buf| !buf.is_empty());
        self.0.write_until_done(|inner| taken(inner.write_vectored(bufs)?, offered))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.write_until_done(T::flush)
    }
}

struct SharedControl<T> {
    exclusive: Arc<Exclusive<T>>,
    finish: Mutex<Option<Finish<T>>>,
    abort: Mutex<Option<Hook>>,
}

impl<T: Read + Write + Send + 'static> Control for SharedControl<T> {
    fn can_finish(&self) -> bool {
        self.finish.lock().is_some()
    }

    fn finish_write(&self) -> io::Result<()> {
        let finish = self.finish.lock().take();
        match finish {
            Some(finish) => {
                self.exclusive.until_done(finish)?;
                self.exclusive.write_until_done(T::flush)
            }
            None => Ok(()),
        }
    }

    fn abort(&self) {
        self.exclusive.aborted.store(true, Ordering::SeqCst);
        self.exclusive.pauses.end();
        let abort = self.abort.lock().take();
        if let Some(abort) = abort {
            abort();
        }
    }
}

impl<T: Read + Write + Send + 'static> Transport for Shared<T> {
    fn split(self) -> io::Result<Halves> {
        let exclusive = Arc::new(Exclusive {
            inner: Mutex::new(self.inner),
            wrote: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            pauses: Pauses::default(),
        });
        let writer = SharedWriter(Arc::clone(&exclusive));
        let finish = Mutex::new(self.finish);
        let abort = Mutex::new(self.abort);
        let control = SharedControl { exclusive: Arc::clone(&exclusive), finish, abort };
        Ok(Halves::new(SharedReader { exclusive, readiness: self.readiness }, writer, control))
    }
}

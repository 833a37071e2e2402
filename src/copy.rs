//! [`copy_bidirectional`]: what a forwarder does with two connections.
//!
//! Invariants: two threads, the caller's and one that ends before the call does; what was read is
//! written before an end or an error is passed on, as far as the other connection takes it;
//! connections that a failed start has touched have the timeouts that they had.

use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

mod duplex;
mod pump;

pub use duplex::Duplex;
use pump::{LOOK, Pumps, SHORTEST};

/// Copies from `a` to `b` and from `b` to `a`, until both have ended; returns how many bytes each
/// way.
///
/// It takes two threads: the caller's, and one named `gmux-copy`, which has ended when the call
/// returns. There is no limit of time, so a silent pair of connections is copied for ever:
/// [`CopyOptions`] has timeouts.
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::net::{Shutdown, TcpListener, TcpStream};
/// use std::thread;
/// use gmux::{Session, copy_bidirectional};
/// # use gmux::Config;
///
/// /// Each stream that comes is forwarded to a TCP service.
/// fn forward(session: &Session, target: std::net::SocketAddr) -> io::Result<()> {
///     for stream in session {
///         let stream = stream?;
///         thread::spawn(move || match TcpStream::connect(target) {
///             Ok(tcp) => match copy_bidirectional(&stream, &tcp) {
///                 Ok(copied) => println!("{:?}: {} bytes there", stream.name(), copied.a_to_b),
///                 Err(error) => eprintln!("{:?}: {error}", stream.name()),
///             },
///             Err(error) => eprintln!("{target}: {error}"),
///         });
///     }
///     Ok(())
/// }
/// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
/// # let config = Config::new().version(2);
/// # let (client, server) = (Session::client(a, config.clone())?, Session::server(b, config)?);
/// # let service = TcpListener::bind("127.0.0.1:0")?;
/// # let target = service.local_addr()?;
/// # thread::spawn(move || forward(&server, target));
///
/// let mut stream = client.open("service")?;
/// stream.write_all(b"question")?;
/// stream.shutdown(Shutdown::Write)?;
///
/// let (mut tcp, mut question) = (service.accept()?.0, String::new());
/// tcp.read_to_string(&mut question)?; // the half-close comes through
/// tcp.write_all(b"answer")?;
/// drop(tcp);
///
/// let mut answer = String::new();
/// stream.read_to_string(&mut answer)?;
/// assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
/// # Ok::<(), io::Error>(())
/// ```
///
/// # What each end sees
/// An end that is read at one connection is passed on to the other by
/// [`finish_write`](Duplex::finish_write), behind all data, and the other direction goes on: that
/// is a half-close. When both directions have ended the call returns Ok. The connections are still
/// to be dropped.
///
/// When one direction fails, both end, and the first failure is returned. What was received from
/// the failed connection before is still written to the other one, for at most 5 s without
/// progress, and at most 16 MiB. No end is passed on. After that:
///
/// - A **stream** has been closed. Its peer reads what was accepted, and then an end of file: [that
///   is no proof](crate#an-end-of-file-is-no-proof). Version 1 and 2 have no other word for it.
/// - A **TCP socket** has been shut down for reading, and no FIN was sent. If it is dropped now
///   (with all its clones), its peer reads what was written, and then an end of file, as if all had
///   gone well; or a reset, if it has sent something that wasn't read. Who wants it to see a reset
///   in any case sets `SO_LINGER` to zero, which std can't, and then drops it. The reset throws
///   away what the system hasn't sent yet.
/// - A **Unix socket** is the same, but has no such option: its peer reads an end of file, or a
///   reset if it has sent something that wasn't read.
/// - On Windows both kinds of sockets have sent FIN.
///
/// ```
/// use std::net::TcpStream;
/// use std::time::Duration;
/// use gmux::{Stream, copy_bidirectional};
///
/// /// The peer of `tcp` reads an end of file only if the stream has ended in order.
/// fn forward(stream: &Stream, tcp: TcpStream) -> std::io::Result<()> {
///     let result = copy_bidirectional(stream, &tcp);
///     if result.is_err() {
///         // socket2 is another crate: `cargo add socket2`
///         socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?; // its drop is a reset
///     }
///     result?;
///     Ok(())
/// }
/// ```
///
/// If a socket's peer gives up a download, the next write to the socket fails, and the stream is
/// closed. The stream's peer reads an end of file then; its writes go on as [the
/// guide](crate#an-end-of-file-is-no-proof) says: on version 2 they wait for window until
/// [`half_close_stall`](crate::Config::half_close_stall) has passed, 60 s. An idle timeout of a
/// copy at that end ends them earlier.
///
/// # Blocking
/// It is woken by whatever wakes the connections' calls: data, room, ends, errors. To end it from
/// another thread, close the stream (the error's kind is `NotConnected` then), and shut the socket
/// down for both directions, in case it is blocked in a write.
///
/// [`Duplex::prepare`] makes non-blocking connections blocking. Read and write timeouts that were
/// set before don't hold meanwhile, and are set again at the end. (Clones of a socket share all of
/// these.) A stream's deadlines and no-data timeout hold.
///
/// # Errors
/// See [`CopyError`]. It becomes an [`io::Error`] of its source's kind by `?`. Before the first
/// byte it is
/// [`Fault::Start`]: a connection can't be prepared, or the thread can't be had. Then both connections
/// have the timeouts that they had before, and may have become blocking if they could be prepared.
///
/// # Panics
/// Where a [`Duplex`] of the caller's panics: both connections are aborted, and the panic goes on
/// in the calling thread.
pub fn copy_bidirectional<A, B>(a: &A, b: &B) -> Result<Copied, CopyError>
where
    A: Duplex + ?Sized,
    B: Duplex + ?Sized,
{
    CopyOptions::new().run(a, b)
}

/// [`copy_bidirectional`] with timeouts, or for peers that know no half-close.
///
/// ```
/// use std::io::ErrorKind;
/// use std::time::Duration;
/// use gmux::copy::{CopyOptions, Fault};
/// # use gmux::{Config, Session};
/// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
/// # let client = Session::client(a, Config::new().close_timeout(Duration::from_millis(1)))?;
/// # let _server = Session::server(b, Config::new())?;
/// # let (socket, _peer) = std::os::unix::net::UnixStream::pair()?;
/// let stream = client.open("silence")?;
/// let options = CopyOptions::new().idle_timeout(Some(Duration::from_millis(50)));
/// let error = options.run(&stream, &socket).unwrap_err();
/// assert_eq!((error.fault, error.kind()), (Fault::Idle, ErrorKind::TimedOut));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "it does nothing until `run` is called"]
pub struct CopyOptions {
    idle: Option<Duration>,
    half_closed: Option<Duration>,
    ends_both: bool,
}

impl CopyOptions {
    /// No timeouts, and half-close is passed on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the copy with [`Fault::Idle`] (kind `TimedOut`) when no byte has moved for this long,
    /// in either direction: neither peer sends, or one doesn't read what the other sent. `None`,
    /// the default: never.
    ///
    /// It takes up to a quarter longer, and 40 ms. What a system has buffered for a peer that
    /// doesn't read has moved.
    ///
    /// **Where both ends of a session copy, set it at one end**, or count an Ok that copied nothing
    /// as no proof. The copy whose timeout passes first closes its stream, and the other end reads
    /// that as an end of file: its copy returns Ok, and its socket's peer reads a clean end.
    pub fn idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.idle = timeout;
        self
    }

    /// The same once one direction has ended. (If an idle timeout is set as well, the shorter one
    /// holds.) A peer that is gone for good looks like one that has ended its writing alone, and a
    /// silent other direction would wait for ever. `None`, the default: it may, since an answer may
    /// take its time.
    pub fn half_close_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.half_closed = timeout;
        self
    }

    /// With `false`, the first end ends both directions: for peers that know no half-close, such as
    /// kcptun. It is passed on behind all data, as always. Then the connection that it came from is
    /// [aborted](Duplex::abort), and what the other one still sends is thrown away, until its end,
    /// or for 5 s. (A socket that is dropped with unread input is reset, and its peer may lose what
    /// it hasn't read.) That is Ok. The default is `true`.
    pub fn half_close(mut self, passed_on: bool) -> Self {
        self.ends_both = !passed_on;
        self
    }

    /// How long nothing may move; `None`: as long as it likes.
    fn limit(&self, one_is_over: bool) -> Option<Duration> {
        [self.idle, self.half_closed.filter(|_| one_is_over)].into_iter().flatten().min()
    }

    /// How long a read waits at most before it looks around: a timeout doesn't reach a read that is
    /// blocked already.
    fn read_bound(&self) -> Option<Duration> {
        [self.idle, self.half_closed, self.ends_both.then_some(LOOK)].into_iter().flatten().min()
    }

    /// [`copy_bidirectional`] with these options.
    ///
    /// # Errors
    /// As there. Also [`Fault::Start`] with the kind `InvalidInput` for a timeout of zero, and with
    /// `Unsupported` where an option needs read timeouts and a connection has none, as sockets on
    /// Windows (a read that timed out leaves them in no defined state).
    ///
    /// # Panics
    /// As there.
    pub fn run<A, B>(&self, a: &A, b: &B) -> Result<Copied, CopyError>
    where
        A: Duplex + ?Sized,
        B: Duplex + ?Sized,
    {
        self.copy([&a, &b])
    }

    fn copy(&self, ends: [&dyn Duplex; 2]) -> Result<Copied, CopyError> {
        let not_started =
            |source| CopyError { fault: Fault::Start, copied: Copied::default(), source };
        let _restored = ends.map(Timeouts::of);
        let bounds = self.prepare(ends).map_err(not_started)?;
        let pumps = Pumps::new(ends, self, bounds);
        let results = thread::scope(|scope| {
            let builder = thread::Builder::new().name("gmux-copy".to_owned());
            let there = builder.spawn_scoped(scope, || pumps.run(1))?;
            let here = pumps.run(0);
            Ok([here, there.join().unwrap_or_else(Err)])
        });
        for result in results.map_err(not_started)? {
            if let Err(panic) = result {
                resume_unwind(panic);
            }
        }
        match pumps.failure() {
            None => Ok(pumps.copied()),
            Some((fault, source)) => {
                pumps.abort();
                Err(CopyError { fault, copied: pumps.copied(), source })
            }
        }
    }

    /// Sets both connections' timeouts; returns how long a write to each may wait.
    fn prepare(&self, ends: [&dyn Duplex; 2]) -> io::Result<[Option<Duration>; 2]> {
        let limit = self.limit(true);
        if limit.is_some_and(|limit| limit.is_zero()) {
            return Err(crate::error::Error::ZeroTimeout.into());
        }
        let bound = limit.map_or(LOOK, |limit| (limit / 4).clamp(SHORTEST, LOOK));
        let mut bounds = [None; 2];
        for (end, bounded) in ends.iter().zip(&mut bounds) {
            end.set_read_timeout(self.read_bound())?;
            match end.set_write_timeout(Some(bound)) {
                Ok(()) => *bounded = Some(bound),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            }
        }
        // Last: what this changes, such as a mode, isn't put back if the other connection can't be
        // copied.
        ends.iter().try_for_each(|end| end.prepare())?;
        Ok(bounds)
    }
}

/// The timeouts that a connection had: set again when this is dropped.
struct Timeouts<'a> {
    end: &'a dyn Duplex,
    read: io::Result<Option<Duration>>,
    write: io::Result<Option<Duration>>,
}

impl<'a> Timeouts<'a> {
    fn of(end: &'a dyn Duplex) -> Self {
        Self { end, read: end.read_timeout(), write: end.write_timeout() }
    }
}

impl Drop for Timeouts<'_> {
    fn drop(&mut self) {
        // Where they can't be told or set, the connection is gone: nothing depends on them.
        if let Ok(timeout) = self.read {
            let _ = self.end.set_read_timeout(timeout);
        }
        if let Ok(timeout) = self.write {
            let _ = self.end.set_write_timeout(timeout);
        }
    }
}

/// How many bytes were copied each way: those that the writing connection has accepted. As with any
/// write, only the peer's application can confirm more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Read at `a`, written to `b`.
    pub a_to_b: u64,
    /// Read at `b`, written to `a`.
    pub b_to_a: u64,
}

/// One of the two connections of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first argument.
    A,
    /// The second.
    B,
}

impl Side {
    fn of(end: usize) -> Self {
        if end == 0 { Self::A } else { Self::B }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// What failed in a copy, first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The copy didn't begin.
    Start,
    /// Reading this connection.
    Read(Side),
    /// Writing to this connection, or ending its writing.
    Write(Side),
    /// The idle timeout passed.
    Idle,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("it did not begin"),
            Self::Read(side) => write!(f, "reading {side} failed"),
            Self::Write(side) => write!(f, "writing to {side} failed"),
            Self::Idle => f.write_str("it was idle"),
        }
    }
}

/// Why a copy failed: what failed first, by which error, and what was copied all the same.
///
/// It is never what the copy itself has done to a connection after that.
#[derive(Debug, thiserror::Error)]
#[error("copy: {fault} after {} bytes from a to b and {} from b to a: {source}", .copied.a_to_b, .copied.b_to_a)]
#[non_exhaustive]
pub struct CopyError {
    /// What failed.
    pub fault: Fault,
    /// What was copied.
    pub copied: Copied,
    /// The error of that call. A stream's becomes an [`Error`](crate::Error) by `Error::from`.
    pub source: io::Error,
}

impl CopyError {
    /// The kind of its source.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Its kind is its source's, and it is inside.
impl From<CopyError> for io::Error {
    fn from(error: CopyError) -> Self {
        Self::new(error.kind(), error)
    }
}

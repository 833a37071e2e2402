//! [`copy_bidirectional`]: the copy that a forwarder makes between two connections.
//!
//! # Invariants
//! - A copy has two threads: the caller's, and a second one that stops before the call returns.
//! - Bytes that were read are written, as far as the other connection accepts them. After that, the
//!   copy passes the end of file on, or returns the error.
//! - If a copy fails to start, both connections get their previous timeouts back.

use std::io;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

mod duplex;
mod outcome;
mod pump;

pub use duplex::Duplex;
pub use outcome::{Copied, CopyError, Fault, Side};
use pump::{LOOK, Pumps, SHORTEST};

/// Copies from `a` to `b` and from `b` to `a` until both directions have ended. Returns the number
/// of bytes for each direction.
///
/// A copy uses two threads: the caller's, and one named `gmux-copy`, which stops before the call
/// returns. There is no time limit. If no byte moves, the call waits forever. [`CopyOptions`] has
/// timeouts.
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::net::{Shutdown, TcpListener, TcpStream};
/// use std::thread;
/// use gmux::{Session, copy_bidirectional};
/// # use gmux::Config;
///
/// /// Forwards each incoming stream to a TCP service.
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
/// # What each peer sees
/// When a read of one connection returns an end of file, the copy passes it on to the other
/// connection by [`finish_write`](Duplex::finish_write), after all data. The other direction goes
/// on. That is a half-close. When both directions have ended, the call returns Ok. It doesn't drop
/// the connections. The caller drops them.
///
/// When one direction fails, both directions end, and the call returns the first failure. Bytes
/// that were received from the failed connection before the failure are still written to the other
/// connection, for at most 5 s without progress, and at most 16 MiB. After the failure, the copy
/// doesn't call `finish_write`. But a peer may still read an end of file. When the call has
/// returned:
///
/// - A **stream** has been closed. Its peer reads the accepted bytes, and then an end of file,
///   because versions 1 and 2 of the protocol can't express a failure. So an end of file [doesn't
///   prove](crate#an-end-of-file-is-no-proof) that the data is complete.
/// - A **TCP socket** has been shut down for reading, and no FIN was sent. If the caller now drops
///   the socket and all its clones, the peer reads the written bytes, and then an end of file, as
///   if the copy had succeeded. If the peer has sent bytes that weren't read, it sees a reset
///   instead. To show the peer a reset in any case, set `SO_LINGER` to zero and drop the socket.
///   std can't set that option, but the crate socket2 can. A reset throws away data that the system
///   hasn't sent yet.
/// - A **Unix socket** is in the same state as a TCP socket. When the socket is dropped, its peer
///   reads an end of file. If the peer has sent bytes that weren't read, the peer sees a reset
///   instead. Unix sockets have no option that always shows a reset.
/// - On Windows, a TCP socket has sent FIN.
///
/// ```
/// use std::net::TcpStream;
/// use std::time::Duration;
/// use gmux::{Stream, copy_bidirectional};
///
/// /// The peer of `tcp` reads an end of file only if the copy has succeeded.
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
/// If a socket's peer gives up a download, the next write to the socket fails, and the copy closes
/// the stream. Then the stream's peer reads an end of file, and [isn't
/// told](crate#an-end-of-file-is-no-proof) that the download was given up. On version 1, its writes
/// go on succeeding. On version 2, they soon wait for a window that nobody grants, and fail after
/// [`half_close_stall`](crate::Config::half_close_stall) (60 s). On version 2, an idle timeout of a
/// copy at the stream's peer ends these writes earlier.
///
/// # Blocking
/// The call is woken by everything that wakes a read or a write of the two connections: data, room,
/// an end of file, an error. To end the copy from another thread, close the stream, and then shut
/// the socket down for both directions. The socket has to be shut down because the copy may be
/// blocked in a write to it. The copy's error then has the kind `NotConnected`.
///
/// [`Duplex::prepare`] makes non-blocking connections blocking. The copy replaces the connections'
/// read and write timeouts, and restores them before it returns. Clones of a socket share its mode
/// and its timeouts. A stream's deadlines and no-data timeout stay in force.
///
/// # Errors
/// See [`CopyError`]. The operator `?` turns it into an [`io::Error`] of the same kind as its
/// source. If a connection can't be prepared, or the thread can't be started, the error is
/// [`Fault::Start`], and no byte was copied. Both connections get their previous timeouts back. A
/// connection that was already made blocking stays in blocking mode.
///
/// # Panics
/// If a method of [`Duplex`] panics, both connections are aborted, and the panic goes on in the
/// calling thread.
pub fn copy_bidirectional<A, B>(a: &A, b: &B) -> Result<Copied, CopyError>
where
    A: Duplex + ?Sized,
    B: Duplex + ?Sized,
{
    CopyOptions::new().run(a, b)
}

/// [`copy_bidirectional`] with timeouts, or for peers that don't support half-close.
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
    /// Returns options that have no timeouts and pass half-close on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the copy with [`Fault::Idle`] (kind `TimedOut`) when no byte has moved for this time in
    /// either direction. That happens when neither peer sends, or when one peer doesn't read the
    /// bytes of the other. `None`, the default, sets no limit.
    ///
    /// The copy may end later than the timeout, by at most a quarter of the timeout plus 40 ms.
    /// Bytes that a system has buffered for a peer that doesn't read count as moved.
    ///
    /// **If both peers of a session run a copy, set the timeout at one of them only.** The copy
    /// whose timeout passes first closes its stream, and returns the fault. The copy at the other
    /// peer reads an end of file and returns Ok, and the peer of its socket reads an end of file,
    /// as if all had gone well. With a timeout at one peer, you know which copy reports it. With
    /// timeouts at both peers, either copy may report a timeout, and the other one returns Ok. Then
    /// the results of both copies have to be checked.
    pub fn idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.idle = timeout;
        self
    }

    /// Sets the idle timeout for the time after one direction has ended. If
    /// [`idle_timeout`](Self::idle_timeout) is set as well, the shorter one applies.
    ///
    /// A peer that is gone may look like a peer that has ended only its writing. In this case, a
    /// copy without a limit would wait forever for the other direction, if no byte moves there.
    /// `None`, the default, sets no limit, because an answer may take long.
    pub fn half_close_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.half_closed = timeout;
        self
    }

    /// Chooses whether half-close is passed on. The default is `true`.
    ///
    /// With `false`, the first end of file ends both directions. This is for peers that don't
    /// support half-close, such as kcptun. The copy passes the end of file on to the other
    /// connection, after all data. Then it [aborts](Duplex::abort) the connection that has ended.
    /// Bytes that still come from the other connection are thrown away, until that connection ends,
    /// or for 5 s. (They have to be read, because a socket that is dropped with unread input is
    /// reset, and then its peer may lose data.) The copy returns Ok.
    pub fn half_close(mut self, passed_on: bool) -> Self {
        self.ends_both = !passed_on;
        self
    }

    /// Returns the limit of the time in which no byte moves. `None` means no limit.
    fn limit(&self, one_is_over: bool) -> Option<Duration> {
        [self.idle, self.half_closed.filter(|_| one_is_over)].into_iter().flatten().min()
    }

    /// Returns the longest time of one read. After this time the thread checks the copy's timeouts.
    /// The half-close timeout bounds reads from the beginning, not only after one direction has
    /// ended. The reason is that a new timeout of a socket doesn't affect a read that is already
    /// blocked.
    fn read_bound(&self) -> Option<Duration> {
        [self.idle, self.half_closed, self.ends_both.then_some(LOOK)].into_iter().flatten().min()
    }

    /// Copies like [`copy_bidirectional`], with these options.
    ///
    /// # Errors
    /// Returns the errors of [`copy_bidirectional`]. Also returns [`Fault::Start`] in these cases:
    ///
    /// - The kind is `InvalidInput` if a timeout is zero.
    /// - The kind is `Unsupported` if an option needs read timeouts and a connection has none.
    ///   Sockets on Windows have none, because a read that timed out leaves them in an undefined
    ///   state.
    ///
    /// # Panics
    /// Panics like [`copy_bidirectional`].
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

    /// Sets both connections' timeouts. Returns the time that a write to each may wait.
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
        // Prepare the connections last. `prepare` may change a connection, for example to blocking
        // mode, and that change isn't undone if the other connection can't be prepared.
        ends.iter().try_for_each(|end| end.prepare())?;
        Ok(bounds)
    }
}

/// The timeouts that a connection had before the copy. Dropping this value sets them again.
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
        // If the timeouts can't be read or set, the connection is gone, and nothing depends on
        // them.
        if let Ok(timeout) = self.read {
            let _ = self.end.set_read_timeout(timeout);
        }
        if let Ok(timeout) = self.write {
            let _ = self.end.set_write_timeout(timeout);
        }
    }
}

//! What a session runs over: anything that reads and writes bytes in order.
//!
//! | transport | how |
//! |---|---|
//! | `TcpStream`, `UnixStream` | as they are |
//! | a read half and a write half (`std::io::pipe`, a child's stdio) | as a tuple `(reader, writer)`, or [`Pair`] to say how to end a blocked read |
//! | TLS by rustls, over any of these | `Tls`, with the feature `rustls` |
//! | a serial line | as a [`Pair`] [without an end](Pair::without_end) |
//! | any other `T: Read + Write + Send` (another TLS) | in [`Shared`] |
//! | your own | `impl Transport` |
//!
//! [The manual](crate::manual::transports) compares them: what holds over each, and what each
//! costs.
//!
//! A session reads in one thread and writes in another, so a transport is something that *splits*,
//! with a [`Control`] beside the halves that works while both are blocked.
//!
//! # Panics
//! A transport, or a closure that was given with it, may panic at any call, and in its drop. The
//! session ends with an error, one line in the log says where it was, and other sessions go on.
//! While a session is created, it is the error of that call. What was thrown is never dropped. In a
//! program that is built with `panic = "abort"` a panic ends the process, as always.
//!
//! Invariant: each half is used by one thread at a time, and `abort` is called at most once.

mod backoff;
mod pair;
mod shared;
mod socket;
#[cfg(feature = "rustls")]
mod tls;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use backoff::Backoff;
pub use pair::Pair;
pub use shared::Shared;
#[cfg(feature = "rustls")]
#[cfg_attr(docsrs, doc(cfg(feature = "rustls")))]
pub use tls::Tls;

/// A connection that a session can run over.
///
/// The halves may block; the session's own two threads wait there (and threads that read or write a
/// stream, where reads or writes are bounded). Reads and writes that return `Interrupted`,
/// `WouldBlock` or `TimedOut` are tried again: the last two after a pause, if they came at once.
///
/// A read that took something in, but has nothing to give out yet (a part of a record), ought to
/// return an `Interrupted` that it makes itself (`io::ErrorKind::Interrupted.into()`): it is tried
/// again without a pause, and counts as a sign of life of the peer.
///
/// The example `custom_transport` (in the repository, `examples/custom_transport.rs`) is a
/// transport over messages in memory that does all that one may do: bounds, an end, an abort,
/// addresses, and answers of its own. Each method says why. [The
/// manual](crate::manual::transports#your-own) has what other kinds of connections would take.
pub trait Transport {
    /// Splits the connection into what the reader thread and the writer thread use, and the
    /// control.
    ///
    /// This is where settings that a session depends on are made, such as blocking mode.
    ///
    /// # Errors
    /// Whatever the system says; session creation passes it on.
    fn split(self) -> io::Result<Halves>;
}

/// Bounds the time that a transport's reads may take.
pub type BoundReads = Box<dyn FnMut(Option<Duration>) -> io::Result<()> + Send>;

/// Bounds the time that a transport's writes and flushes may take.
pub type BoundWrites = BoundReads;

/// What a [`Transport`] splits into: see [`Halves::new`].
#[non_exhaustive]
pub struct Halves {
    /// Used by one thread at a time: the reader thread, or, with `bound_reads`, one that calls
    /// [`Stream::read`](crate::Stream).
    pub reader: Box<dyn Read + Send>,
    /// Used by one thread at a time: the writer thread, or, with `bounded_writes`, one that calls
    /// [`Stream::write`](crate::Stream). It is dropped when the last byte is written, after
    /// [`Control::finish_write`].
    pub writer: Box<dyn Write + Send>,
    /// Whether every write and flush returns within about 10 ms, with `WouldBlock` or `TimedOut`
    /// when nothing could be done. Only then may a thread that calls
    /// [`Stream::write`](crate::Stream) do the writer thread's work itself, which saves waking it.
    pub bounded_writes: bool,
    /// Changes that bound. While the transport takes nothing, the writer thread waits inside its
    /// writes, and nobody else could use the small bound: it is raised to a second by steps, so
    /// that a peer that doesn't read costs few wake-ups, and set back to 10 ms at the next byte
    /// that is taken. Without such a function each write goes on being bounded to about 10 ms.
    pub bound_writes: Option<BoundWrites>,
    /// Bounds how long a read may take, or, with `None`, lets it take as long as it likes. Only
    /// where there is such a function may a thread that calls [`Stream::read`](crate::Stream) read
    /// the transport itself, which saves waking it.
    pub bound_reads: Option<BoundReads>,
    /// Used by any thread.
    pub control: Box<dyn Control>,
}

impl Halves {
    /// The two halves, which may block, and the control.
    pub fn new(
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
        control: impl Control + 'static,
    ) -> Self {
        Self {
            reader: Box::new(reader),
            writer: Box::new(writer),
            control: Box::new(control),
            bounded_writes: false,
            bound_writes: None,
            bound_reads: None,
        }
    }

    /// Gives a function to bound the reads, as the field of this name says. Reads past the bound
    /// return `WouldBlock` or `TimedOut`. It is called with the session's locks held, between two
    /// reads, so it mustn't wait for anything.
    #[must_use]
    pub fn bound_reads(
        mut self,
        bound: impl FnMut(Option<Duration>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        self.bound_reads = Some(Box::new(bound));
        self
    }

    /// Says whether the field of this name is true; without this and
    /// [`bound_writes`](Self::bound_writes), it isn't. `false` also takes away what `bound_writes`
    /// gave.
    #[must_use]
    pub fn bounded_writes(mut self, bounded: bool) -> Self {
        self.bounded_writes = bounded;
        self.bound_writes = self.bound_writes.filter(|_| bounded);
        self
    }

    /// Says that writes and flushes are bounded to about 10 ms
    /// ([`bounded_writes`](Self::bounded_writes)), and gives a function to change that bound, as
    /// the field of this name says. Writes past the bound return `WouldBlock` or `TimedOut`. The
    /// transport itself sets the 10 ms that it begins with. After that the function is called with
    /// `Some` of 10 ms to a second, never with `None`, by the writer thread, between two writes,
    /// and mustn't wait for anything. [`Control::abort`] has to interrupt a write, as ever.
    #[must_use]
    pub fn bound_writes(
        mut self,
        bound: impl FnMut(Option<Duration>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        self.bounded_writes = true;
        self.bound_writes = Some(Box::new(bound));
        self
    }
}

impl std::fmt::Debug for Halves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Halves").finish_non_exhaustive()
    }
}

/// Handles a connection from outside its reads and writes.
pub trait Control: Send + Sync {
    /// Ends the writing direction, so that the peer reads an end of file after what was written.
    /// Called once, by the writer thread, after the last write and flush, when the session is
    /// closed here or its input has ended. Does nothing where dropping the write half is what ends
    /// it. It may block until [`abort`](Self::abort) is called, which is
    /// [`close_timeout`](crate::Config::close_timeout) later at most.
    ///
    /// # Errors
    /// Whatever the system says; it becomes the result of closing the session.
    fn finish_write(&self) -> io::Result<()>;

    /// Whether [`finish_write`](Self::finish_write), or the drop of the write half, really lets the
    /// peer know that nothing more will come. A peer that knows it ends its side, too, and
    /// [`close`](crate::Session::close) waits for that. Where the peer can't know (a serial line, a
    /// TLS connection without `close_notify`), say `false`: then `close` returns Ok as soon as
    /// everything was handed over and flushed, which is less. The default is `true`. Asked once, at
    /// the session's start.
    fn can_finish(&self) -> bool {
        true
    }

    /// Whether the transport has something of its own to send that only a flush of the write half
    /// would send now: an answer that its reads have made, such as TLS's to a new key or a
    /// WebSocket's pong. If so, the session's writer is woken, and calls `flush`. The default is
    /// `false`.
    ///
    /// It is asked after every read of the transport that brought something or is tried again, by
    /// the thread that read. So what a read has made is seen at once. It must not block, and ought
    /// to cost no more than a look at an atomic. It goes on being asked, and `true` may be said
    /// again and again, until the writer has come to the flush. A writer that is in the middle of a
    /// write comes to it later: so each write ought to send first what waits.
    fn wants_flush(&self) -> bool {
        false
    }

    /// Makes blocked and later reads and writes return, with an error or an end of file. Must not
    /// block. Called at most once, from any thread: when the session ends by an error or by its
    /// close timeout. It isn't called where both directions have ended by themselves.
    fn abort(&self);

    /// This end's address.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// The peer's address.
    fn peer_addr(&self) -> Option<SocketAddr> {
        None
    }
}

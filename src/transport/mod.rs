//! Transports: connections over which a session runs. A transport reads and writes bytes in order.
//!
//! | transport | how |
//! |---|---|
//! | `TcpStream`, `UnixStream` | directly |
//! | a read half and a write half (`std::io::pipe`, a child's stdio) | as a tuple `(reader, writer)`, or [`Pair`] to say how to end a blocked read |
//! | TLS by rustls, over any of these | `Tls`, with the feature `rustls` |
//! | a serial line | as a [`Pair`] [without an end](Pair::without_end) |
//! | any other `T: Read + Write + Send` (another TLS) | in [`Shared`] |
//! | your own | `impl Transport` |
//!
//! [The manual](crate::manual::transports) compares them. It says which promises hold over each,
//! and what each costs.
//!
//! A session reads in one thread and writes in another. So a transport *splits* into a read half
//! and a write half. A [`Control`] beside the halves works while both are blocked.
//!
//! # Panics
//! A transport, or a closure that was given with it, may panic at any call, and in its drop. The
//! session ends with an error, one line in the log says where the panic was, and other sessions go
//! on. If it panics while a session is created, that call returns the error. The panic's payload is
//! never dropped. In a program that is built with `panic = "abort"` a panic ends the process, as
//! always.
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
/// The halves may block. The session's own two threads wait in them. Where reads or writes are
/// bounded, threads that read or write a stream wait in them, too. Reads and writes that return
/// `Interrupted`, `WouldBlock` or `TimedOut` are tried again. After the last two there is a pause
/// first, if the call returned at once.
///
/// A read may have taken bytes in without having bytes to give out yet, such as a part of a record.
/// It should return an `Interrupted` that it makes itself (`io::ErrorKind::Interrupted.into()`).
/// Such a read is tried again without a pause, and counts as a sign of life of the peer.
///
/// The example `custom_transport` (in the repository, `examples/custom_transport.rs`) is a
/// transport over messages in memory. It does everything that a transport may do: bounds, an end,
/// an abort, addresses, and answers of its own. It says why at each method. [The
/// manual](crate::manual::transports#your-own) says what other kinds of connections need.
pub trait Transport {
    /// Splits the connection into a reader, a writer and a control.
    ///
    /// Make the settings here that a session depends on, such as blocking mode.
    ///
    /// # Errors
    /// Returns the system's error. The call that creates the session returns the same error.
    fn split(self) -> io::Result<Halves>;
}

/// Bounds the time that a transport's reads may take.
pub type BoundReads = Box<dyn FnMut(Option<Duration>) -> io::Result<()> + Send>;

/// Bounds the time that a transport's writes and flushes may take.
pub type BoundWrites = BoundReads;

/// The parts into which a [`Transport`] splits. See [`Halves::new`].
#[non_exhaustive]
pub struct Halves {
    /// The read half. One thread at a time uses it: the reader thread or, with `bound_reads`, a
    /// thread that calls [`Stream::read`](crate::Stream).
    pub reader: Box<dyn Read + Send>,
    /// The write half. One thread at a time uses it: the writer thread or, with `bounded_writes`, a
    /// thread that calls [`Stream::write`](crate::Stream). It is dropped when the last byte is
    /// written, after [`Control::finish_write`].
    pub writer: Box<dyn Write + Send>,
    /// Declares that every write and flush returns within about 10 ms, with `WouldBlock` or
    /// `TimedOut` if it could do nothing. Only then a thread that calls
    /// [`Stream::write`](crate::Stream) may write to the transport itself, which saves waking the
    /// writer thread.
    pub bounded_writes: bool,
    /// Changes the bound of writes.
    ///
    /// While the transport accepts no bytes, the writer thread waits inside its writes, and no
    /// other thread could use the small bound. So the session raises the bound by steps to a
    /// second, and a peer that doesn't read costs few wake-ups. At the next byte that is accepted,
    /// the session sets the bound to 10 ms again. Without this function each write stays bounded to
    /// about 10 ms.
    pub bound_writes: Option<BoundWrites>,
    /// Bounds the time of a read. `None` removes the bound. Only if there is such a function, a
    /// thread that calls [`Stream::read`](crate::Stream) may read the transport itself. That saves
    /// a wake-up by the reader thread.
    pub bound_reads: Option<BoundReads>,
    /// The control. Any thread uses it.
    pub control: Box<dyn Control>,
}

impl Halves {
    /// Returns two halves, which may block, and their control.
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

    /// Sets the function that bounds reads (the field of this name). Reads past the bound return
    /// `WouldBlock` or `TimedOut`. The session calls the function between two reads, with its own
    /// locks held, so the function mustn't wait for anything.
    #[must_use]
    pub fn bound_reads(
        mut self,
        bound: impl FnMut(Option<Duration>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        self.bound_reads = Some(Box::new(bound));
        self
    }

    /// Declares whether writes and flushes are bounded (the field of this name). The default is
    /// `false`, unless [`bound_writes`](Self::bound_writes) was called. `false` also removes the
    /// function that `bound_writes` set.
    #[must_use]
    pub fn bounded_writes(mut self, bounded: bool) -> Self {
        self.bounded_writes = bounded;
        self.bound_writes = self.bound_writes.filter(|_| bounded);
        self
    }

    /// Declares that writes and flushes are bounded to about 10 ms
    /// ([`bounded_writes`](Self::bounded_writes)), and sets the function that changes the bound
    /// (the field of this name). Writes past the bound return `WouldBlock` or `TimedOut`.
    ///
    /// The transport itself sets the 10 ms with which it begins. After that, the writer thread
    /// calls the function between two writes, with `Some` of 10 ms to a second, never with `None`.
    /// The function mustn't wait for anything. [`Control::abort`] must still interrupt a write.
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

/// Ends a connection while its reads and writes may be blocked, and describes it.
pub trait Control: Send + Sync {
    /// Ends the writing direction, so that the peer reads an end of file behind the written bytes.
    ///
    /// The writer thread calls this once, after the last write and flush, when the session is
    /// closed here or its input has ended. It does nothing for a transport whose writing ends when
    /// the write half is dropped. The call may block until [`abort`](Self::abort) is called, which
    /// happens at most [`close_timeout`](crate::Config::close_timeout) later.
    ///
    /// # Errors
    /// Returns the system's error. It becomes the result of closing the session.
    fn finish_write(&self) -> io::Result<()>;

    /// Returns whether [`finish_write`](Self::finish_write), or the drop of the write half, really
    /// tells the peer that no more bytes will come. The default is `true`. The session asks once,
    /// at its start.
    ///
    /// A peer that knows of the end ends its side, too, and [`close`](crate::Session::close) waits
    /// for that. Return `false` if the peer can't know: for a serial line, or for a TLS connection
    /// without `close_notify`. Then `close` returns Ok as soon as everything was handed over and
    /// flushed. That Ok promises less.
    fn can_finish(&self) -> bool {
        true
    }

    /// Returns whether the transport has bytes of its own that only a flush of the write half would
    /// send now. Such bytes are answers that its reads have made, for example TLS's answer to a new
    /// key or a WebSocket's pong. If so, the session's writer thread is woken and calls `flush`.
    /// The default is `false`.
    ///
    /// The thread that reads asks this after every read of the transport that brought bytes or is
    /// tried again. So an answer that a read has made is seen at once. The call must not block, and
    /// should cost no more than a look at an atomic.
    ///
    /// The session goes on asking, and the answer may be `true` again and again, until the writer
    /// thread calls `flush`. A writer thread in the middle of a write calls it later. So each write
    /// should first send the waiting answers.
    fn wants_flush(&self) -> bool {
        false
    }

    /// Makes blocked and later reads and writes return, with an error or an end of file. Must not
    /// block. It is called at most once, from any thread, when the session ends by an error or by
    /// its close timeout. It isn't called if both directions have ended by themselves.
    fn abort(&self);

    /// Returns this end's address. The default is `None`.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Returns the peer's address. The default is `None`.
    fn peer_addr(&self) -> Option<SocketAddr> {
        None
    }
}

//! Transports: connections over which a session runs. A transport carries a stream of bytes in each
//! direction.
//!
//! | transport | how |
//! |---|---|
//! | `TcpStream`, `UnixStream` | directly |
//! | a read half and a write half (`std::io::pipe`, a child's stdio) | as a tuple `(reader, writer)`, or as a [`Pair`] with a closure that ends a blocked read |
//! | TLS by rustls, over any of these | `Tls`, with the feature `rustls` |
//! | a serial line | as a [`Pair`] with [`without_end`](Pair::without_end) |
//! | any other `T: Read + Write + Send` (another TLS) | in [`Shared`] |
//! | your own | `impl Transport` |
//!
//! [The manual](crate::manual::transports) compares them. For each transport it gives the promises
//! that hold and the costs.
//!
//! A session reads in one thread and writes in another. So a transport *splits* into a read half
//! and a write half. The third part is a [`Control`], which can end the connection while both
//! halves are blocked.
//!
//! # Panics
//! A transport, or a closure that was given with it, may panic at any call, and when it is dropped.
//! Then:
//!
//! - The session ends with an error. Other sessions go on.
//! - One line in the log says where the panic was.
//! - If the panic happens while a session is created, the call that creates the session returns the
//!   error.
//! - The panic's payload is never dropped, because that drop could panic, too.
//!
//! In a program that is built with `panic = "abort"`, a panic ends the process.
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
/// The halves may block. The session's reader thread and writer thread wait in them. If the
/// transport bounds the time of its reads or writes (see [`Halves`]), threads of the application
/// that read or write a stream may wait in them, too.
///
/// A read or write that returns `Interrupted`, `WouldBlock` or `TimedOut` is tried again. If the
/// call returned `WouldBlock` or `TimedOut` at once, without waiting, the session pauses before the
/// next try.
///
/// A read may receive bytes and still have none to return, for example a part of a TLS record. Such
/// a read should return `io::ErrorKind::Interrupted.into()`. The read is tried again without a
/// pause, and counts as a sign of life of the peer. (The system's own `Interrupted`, after a
/// signal, has an OS error code, and doesn't count as a sign of life.)
///
/// The example `custom_transport` (in the repository, `examples/custom_transport.rs`) is a
/// transport over messages in memory. It has all the parts that a transport may have: time bounds,
/// an end of the writing, an abort, addresses, and answers of the transport itself, which its reads
/// cause (such as a pong). A comment at each method gives the reason for the method. [The
/// manual](crate::manual::transports#your-own) says what other kinds of connections need.
pub trait Transport {
    /// Splits the connection into a reader, a writer and a control.
    ///
    /// This is the place for settings that a session depends on, such as blocking mode.
    ///
    /// # Errors
    /// Returns the system's error. The call that creates the session returns the same error.
    fn split(self) -> io::Result<Halves>;
}

/// A function that bounds the time that a transport's reads may take.
pub type BoundReads = Box<dyn FnMut(Option<Duration>) -> io::Result<()> + Send>;

/// A function that bounds the time that a transport's writes and flushes may take.
pub type BoundWrites = BoundReads;

/// The parts into which a [`Transport`] splits. See [`Halves::new`].
#[non_exhaustive]
pub struct Halves {
    /// The read half. One thread at a time uses it: the reader thread or, with `bound_reads`, a
    /// thread that calls [`Stream::read`](crate::Stream).
    pub reader: Box<dyn Read + Send>,
    /// The write half. One thread at a time uses it: the writer thread or, with `bounded_writes`, a
    /// thread that calls [`Stream::write`](crate::Stream). The session drops it after the last byte
    /// and [`Control::finish_write`].
    pub writer: Box<dyn Write + Send>,
    /// Declares that every write and flush returns within about 10 ms, with `WouldBlock` or
    /// `TimedOut` if it could do nothing. With this declaration, a thread that calls
    /// [`Stream::write`](crate::Stream) may write to the transport itself. Then the writer thread
    /// doesn't have to be woken. Without it, only the writer thread writes.
    pub bounded_writes: bool,
    /// Changes the bound of writes.
    ///
    /// The bound of 10 ms is for the application's threads that write to the transport themselves.
    /// While the transport accepts no bytes, the writer thread is inside a write, and no other
    /// thread can write. So the session raises the bound in steps, up to one second. Thus a peer
    /// that doesn't read costs few wake-ups. When the transport accepts a byte again, the session
    /// sets the bound back to 10 ms. Without this function each write stays bounded to about 10 ms.
    pub bound_writes: Option<BoundWrites>,
    /// Bounds the time of a read. The argument `None` removes the bound. With this function, a
    /// thread that calls [`Stream::read`](crate::Stream) may read the transport itself. Then the
    /// reader thread doesn't have to wake it. Without this function, only the reader thread reads.
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

    /// Sets the field `bound_reads`, the function that bounds reads. A read that reaches the bound
    /// returns `WouldBlock` or `TimedOut`. The session calls the function between two reads, and
    /// holds locks during the call. So the function must not wait for anything.
    #[must_use]
    pub fn bound_reads(
        mut self,
        bound: impl FnMut(Option<Duration>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        self.bound_reads = Some(Box::new(bound));
        self
    }

    /// Sets the field `bounded_writes`, which declares whether writes and flushes are bounded. The
    /// default is `false`, or `true` after a call of [`bound_writes`](Self::bound_writes). `false`
    /// also removes a function that `bound_writes` has set.
    #[must_use]
    pub fn bounded_writes(mut self, bounded: bool) -> Self {
        self.bounded_writes = bounded;
        self.bound_writes = self.bound_writes.filter(|_| bounded);
        self
    }

    /// Declares that writes and flushes are bounded to about 10 ms
    /// ([`bounded_writes`](Self::bounded_writes)), and sets the field `bound_writes`, the function
    /// that changes the bound. A write that reaches the bound returns `WouldBlock` or `TimedOut`.
    ///
    /// The transport itself sets the first bound, 10 ms, in [`Transport::split`]. Later the writer
    /// thread calls the function between two writes. It passes `Some` of 10 ms to one second, never
    /// `None`. The function must not wait for anything. [`Control::abort`] must still interrupt a
    /// write.
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

/// Ends a connection, even while its reads and writes are blocked, and returns its addresses.
pub trait Control: Send + Sync {
    /// Ends the writing direction, so that the peer reads an end of file behind the written bytes.
    ///
    /// The writer thread calls this once, after the last write and flush, when the session is
    /// closed here or its input has ended. For a transport whose writing ends when its write half
    /// is dropped, this call should do nothing. The call may block until [`abort`](Self::abort) is
    /// called, which happens at most [`close_timeout`](crate::Config::close_timeout) later.
    ///
    /// # Errors
    /// Returns the system's error. The error becomes the result of closing the session.
    fn finish_write(&self) -> io::Result<()>;

    /// Returns whether [`finish_write`](Self::finish_write), or the drop of the write half, really
    /// tells the peer that no more bytes will come. The default is `true`. The session asks once,
    /// at its start.
    ///
    /// A peer that learns this ends its side, too, and [`close`](crate::Session::close) waits until
    /// it has done so. Return `false` if the peer can't learn it, for example on a serial line, or
    /// on a TLS connection without `close_notify`. Then `close` returns Ok as soon as all bytes
    /// were handed over and flushed. That Ok promises less, because the peer may not have received
    /// the bytes.
    fn can_finish(&self) -> bool {
        true
    }

    /// Returns whether the transport has answers that only a flush of the write half would send
    /// now. Answers are bytes that the transport itself sends because of its input, for example
    /// TLS's answer to a new key, or a WebSocket's pong. On `true` the session wakes its writer
    /// thread, which calls `flush`. The default is `false`.
    ///
    /// The reading thread calls this after every read of the transport that has brought bytes, and
    /// after every read that will be tried again. So the session notices at once that a read has
    /// made an answer. The call must not block, and should cost no more than a look at an atomic.
    ///
    /// The session calls this again after later reads. It may return `true` each time until the
    /// writer thread calls `flush`. A writer thread that is inside a write can't call `flush` yet.
    /// So each write should first send the waiting answers.
    fn wants_flush(&self) -> bool {
        false
    }

    /// Makes blocked and later reads and writes return, with an error or an end of file. This must
    /// not block. The session calls it at most once, from any thread, when the session ends by an
    /// error or by its close timeout. If both directions have ended by themselves, the session
    /// doesn't call it.
    fn abort(&self);

    /// Returns this side's address. The default is `None`.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Returns the peer's address. The default is `None`.
    fn peer_addr(&self) -> Option<SocketAddr> {
        None
    }
}

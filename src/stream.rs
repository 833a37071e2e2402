//! [`Stream`]: one named stream of a session, to be used like a `TcpStream`.
//!
//! Invariant: a handle counts twice, in its stream and in its session; the last one of a stream
//! closes it, the last one of a session closes that.

#[path = "stream/data.rs"] // benches and checks take this file by its path
mod data;
#[path = "stream/limits.rs"] // as above
mod limits;

use std::fmt;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;

use crate::engine::{SessionShared, Theirs, call_notifier};
use crate::error::{Error, Result};
use crate::session::Session;
use crate::stats::StreamStats;
use crate::sync::stream::SharedStream;

/// One stream of a [`Session`](crate::Session): ordered, reliable, both ways, with a name.
///
/// It is used like a [`TcpStream`](std::net::TcpStream): `Read` and `Write` are implemented for
/// `Stream` and `&Stream`, so one thread may read while another writes; `Clone` gives another
/// handle to the same stream. Dropping the last handle closes it.
///
/// # Blocking
/// `read` waits until at least one byte has come, and returns what is there; `Ok(0)` is the peer's
/// clean end. `flush` waits until everything accepted has been handed to the transport.
///
/// `write` copies what there is room for ([`max_send_buffer`](crate::Config::max_send_buffer) and,
/// on version 2, the peer's window) and returns that count. It waits only while there is no room at
/// all. At most 4096 bytes are written whole, though: `write` waits until all of them fit. (Unless
/// `max_send_buffer` or half of the peer's window is less than 4096; then it takes what fits.)
///
/// `write_all` is one call, whatever its length: nothing of other calls comes between its bytes.
/// While it waits for room, other writes of the stream wait for it. Those that wait are served in
/// the order in which they came. Each has its own limit, and its time runs from its start; a
/// non-blocking one fails with `WouldBlock`. `write!` formats its text first and then writes it by
/// one `write_all`. A [`BufWriter`](std::io::BufWriter) has a buffer of its own and isn't covered:
/// give each record to `write_all`.
///
/// `Ok` means accepted here, as with any socket: only the peer's application can confirm more.
///
/// ```
/// use std::io::{self, Read, Write};
/// # use gmux::{Config, Session};
/// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
/// # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
/// let stream = client.open("records")?;
/// let mut theirs = server.accept()?;
/// std::thread::scope(|scope| {
///     for text in ["a record", "another one, of another thread"] {
///         let mut stream = &stream;
///         scope.spawn(move || {
///             let mut record = (text.len() as u32).to_be_bytes().to_vec();
///             record.extend_from_slice(text.as_bytes());
///             stream.write_all(&record) // length and text by one call
///         });
///     }
///     for _ in 0..2 {
///         let mut len = [0; 4];
///         theirs.read_exact(&mut len)?;
///         let mut text = vec![0; u32::from_be_bytes(len) as usize];
///         theirs.read_exact(&mut text)?;
///         assert!(text.starts_with(b"a record") || text.ends_with(b"thread"));
///     }
///     io::Result::Ok(())
/// })?;
/// # Ok::<(), io::Error>(())
/// ```
///
/// A `write_all` that fails after a part of its bytes was accepted (a timeout, a close) returns
/// [`Error::PartialWrite`] with the count. They stay accepted, and are sent. Only then can a record
/// be incomplete: shut the stream down, as the example there does. Every other error of a write
/// means that none of its bytes were accepted.
///
/// A blocked call is woken by data or room, the peer's FIN, its deadline or timeout (also one that
/// is set or moved meanwhile), the no-data timeout, `close` or `shutdown` in another thread, and
/// the session's end, whatever its cause.
///
/// # Endings
/// Data that was received is always read first; then comes the ending. Truncation is never silent:
/// `Ok(0)` means that the peer finished; if the session ends without that, reads fail.
///
/// ```
/// use std::io::{Read, Write};
/// # use gmux::{Config, Session};
/// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
/// # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
/// let mut ours = client.open("greeting")?;
/// let mut theirs = server.accept()?;
/// ours.write_all(b"hello")?;
/// ours.shutdown(std::net::Shutdown::Write)?;
/// let mut text = String::new();
/// theirs.read_to_string(&mut text)?;
/// assert_eq!((theirs.name(), text.as_str()), ("greeting", "hello"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Stream {
    session: Arc<SessionShared>,
    stream: Arc<SharedStream>,
}

impl Stream {
    /// A new handle.
    pub(crate) fn new(session: Arc<SessionShared>, stream: Arc<SharedStream>) -> Self {
        stream.add_handle();
        session.add_handle();
        Self { session, stream }
    }

    /// The stream's id on the wire. Ids are unique within a session while the stream is open.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.stream.id
    }

    /// The name that it was opened with; bytes that aren't UTF-8 are replaced. Not for
    /// authorisation: two different names may look alike here ([`name_bytes`](Self::name_bytes) is
    /// for that).
    #[must_use]
    pub fn name(&self) -> &str {
        self.stream.name.text()
    }

    /// The name that it was opened with, exactly.
    #[must_use]
    pub fn name_bytes(&self) -> &[u8] {
        self.stream.name.bytes()
    }

    /// This end's address, where the transport knows it.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.session.local_addr()
    }

    /// The peer's address, where the transport knows it.
    #[doc(alias = "remote_addr")]
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.session.peer_addr()
    }

    /// Another handle to the same stream, as [`Clone`] gives it; the name and signature are
    /// `TcpStream`'s.
    ///
    /// # Errors
    /// None at present.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(self.clone())
    }

    /// The session that it belongs to: a handle like any other, which keeps the session alive, and
    /// whose drop may be the last. Where all other session handles are dropped already, it opens
    /// streams, but accepts none: [`accept`](Session::accept) fails with [`Error::Closed`].
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(Arc::clone(&self.session))
    }

    /// What the stream has counted, and who waits in it.
    ///
    /// ```
    /// use std::io::Write;
    /// # use gmux::{Config, Session};
    /// # let (a, _b) = std::os::unix::net::UnixStream::pair()?;
    /// # let client = Session::client(a, Config::new().version(2))?;
    /// let mut stream = client.open("upload")?;
    /// stream.write_all(&[7; 1000])?;
    /// stream.flush()?;
    /// let stats = stream.stats();
    /// assert_eq!((stats.bytes_sent, stats.unsent), (1000, 0));
    /// assert_eq!(stats.credit, Some(262_144 - 1000)); // what the peer's window has left
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> StreamStats {
        self.stream.stats(Instant::now())
    }

    // ---- endings --------------------------------------------------------------------------------

    /// Closes the stream, for all its handles: FIN follows what was accepted, unread data is thrown
    /// away, and calls that are blocked fail with [`Error::Closed`]. Doesn't block. A second call
    /// does nothing.
    ///
    /// # Errors
    /// None at present.
    pub fn close(&self) -> Result<()> {
        if let Some(notifier) = self.session.close_stream(&self.stream) {
            call_notifier(self.session.number, notifier, &self.stream);
        }
        Ok(())
    }

    /// Ends one direction, or both, and leaves the stream open. Doesn't block.
    ///
    /// After `Write`, FIN follows what was accepted, and writes fail with `BrokenPipe`. After
    /// `Read`, reads return `Ok(0)`; what was buffered and what still comes is thrown away.
    ///
    /// # Errors
    /// `NotConnected` if the stream was closed here.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if self.stream.is_closed() {
            return Err(Error::Closed.into());
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            let _ = self.stream.finish(&self.session.env);
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            let _ = self.stream.shut_read(&self.session.env);
        }
        Ok(())
    }

    /// A channel that disconnects when the stream ends at this end: it is closed, fails, or its
    /// session ends. Nothing is ever sent. For crossbeam's `select!`. A stream whose peer has
    /// finished hasn't ended.
    #[must_use]
    pub fn closed(&self) -> Receiver<()> {
        self.stream.closed()
    }

    /// Calls `notifier` once when the stream ends, as [`closed`](Self::closed) defines it: on the
    /// thread that closes it or its session, or, when it ends by itself, on a thread of its own (at
    /// most 8 of those a session: a ninth notifier waits). Never on a session's threads, and never
    /// under a lock; its panic hurts only itself. On a stream that has ended already it is called
    /// at once. A second notifier replaces the first.
    pub fn set_close_notifier(&self, notifier: impl FnOnce(&Stream) + Send + 'static) {
        // Weak: the stream holds the notifier, and the session holds the stream.
        let session = Arc::downgrade(&self.session);
        let notifier = Theirs::new(
            self.session.number,
            "a close notifier panicked when it was dropped",
            notifier,
        );
        let wrapped = move |stream: &Arc<SharedStream>| {
            if let (Some(session), Some(notifier)) = (session.upgrade(), notifier.take()) {
                notifier(&Stream::new(session, Arc::clone(stream)));
            }
        };
        let (replaced, due) = self.stream.set_notifier(Box::new(wrapped));
        drop(replaced);
        if let Some(due) = due {
            call_notifier(self.session.number, due, &self.stream);
        }
    }

    // ---- data -----------------------------------------------------------------------------------

    /// Writes everything that comes, until the peer's end, to `writer`, straight from the received
    /// buffers; returns the count of bytes.
    ///
    /// # Errors
    /// The writer's error: what it didn't take stays in the stream, at the head. The stream's, as
    /// `read` returns it. The bytes already moved aren't lost, but their count is.
    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<u64> {
        self.stream.write_to(&self.session.env, writer)
    }
}

impl Clone for Stream {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.session), Arc::clone(&self.stream))
    }
}

impl Drop for Stream {
    /// The last handle closes the stream. That doesn't block, unless it is also the last handle of
    /// a session, which is then closed: see [`Session`](crate::Session).
    fn drop(&mut self) {
        if self.stream.drop_handle()
            && let Some(notifier) = self.session.close_stream(&self.stream)
        {
            call_notifier(self.session.number, notifier, &self.stream);
        }
        self.session.drop_handle();
    }
}

/// What it takes to understand a hang: [`StreamStats`], and why the stream is over, if it is. It
/// never blocks; where another thread has the stream just then, that part is left out.
impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Stream");
        text.field("session", &self.session.number)
            .field("id", &self.id())
            .field("name", &self.name());
        let Some((stats, cause)) = self.stream.glance(Instant::now()) else {
            return text.finish_non_exhaustive(); // another thread has it
        };
        text.field("age", &stats.age)
            .field("received", &stats.bytes_received)
            .field("unread", &stats.unread)
            .field("sent", &stats.bytes_sent)
            .field("unsent", &stats.unsent)
            .field("credit", &stats.credit)
            .field("readers_waiting", &stats.readers_waiting)
            .field("writers_waiting", &stats.writers_waiting)
            .field("flushes_waiting", &stats.flushes_waiting)
            .field("peer_finished", &stats.peer_finished)
            .field("ended", &cause)
            .finish()
    }
}

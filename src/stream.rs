//! [`Stream`]: one named stream of a session, to be used like a `TcpStream`.
//!
//! Invariant: a handle of a stream counts twice, for the stream and for the session. The last
//! handle of a stream closes the stream. The last handle of a session, of either type, closes the
//! session.

// Benches and checks compile this file by its path, so it names the paths of its modules.
#[path = "stream/data.rs"]
mod data;
#[path = "stream/limits.rs"]
mod limits;

use std::fmt;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;

use crate::engine::{SessionShared, UserObject, call_notifier};
use crate::error::{Error, Result};
use crate::session::Session;
use crate::stats::StreamStats;
use crate::sync::stream::SharedStream;

/// One stream of a [`Session`]: a named, ordered, reliable connection in both
/// directions.
///
/// It is used like a [`TcpStream`](std::net::TcpStream). `Read` and `Write` are implemented for
/// `Stream` and `&Stream`, so one thread may read while another writes. `Clone` gives another
/// handle to the same stream. Dropping the last handle closes the stream.
///
/// # Blocking
/// `read` waits until at least one byte has come, and returns the bytes that are there. `Ok(0)`
/// means that the peer has finished the stream: see [Endings](#endings). `flush` waits until
/// everything accepted has been handed to the transport.
///
/// `write` copies as many bytes as there is room for, and returns their number. The room is limited
/// by [`max_send_buffer`](crate::Config::max_send_buffer) and, on version 2, by the peer's window.
/// `write` waits only while there is no room at all, or while earlier writes of the stream wait.
///
/// There is one exception: a `write` of at most 4096 bytes waits until all of its bytes fit. (If
/// `max_send_buffer` or half of the peer's window is less than 4096, it takes as many bytes as
/// fit.)
///
/// `write_all` is one call, whatever its length: bytes of other calls never come between its bytes.
/// While it waits for room, other writes of the stream wait for it. Waiting writes are served in
/// the order in which they came. Each has its own time limit, which runs from the start of its
/// call. A non-blocking write fails with `WouldBlock` instead of waiting.
///
/// `write!` formats its text first, then writes it by one `write_all`. A
/// [`BufWriter`](std::io::BufWriter) writes whenever its own buffer is full, so a record may be
/// split anywhere. Give each record to `write_all` instead.
///
/// As with any socket, `Ok` means accepted here. Only the peer's application can confirm more.
///
/// ```
/// use std::io::{self, Read, Write};
/// # use gmux::{Config, Session};
/// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
/// # let client = Session::client(a, Config::new())?;
/// # let server = Session::server(b, Config::new())?;
/// let stream = client.open("records")?;
/// let mut theirs = server.accept()?;
/// std::thread::scope(|scope| {
///     for text in ["a record", "another one, of another thread"] {
///         let mut stream = &stream;
///         scope.spawn(move || {
///             let mut record = (text.len() as u32).to_be_bytes().to_vec();
///             record.extend_from_slice(text.as_bytes());
///             stream.write_all(&record) // length and text in one call
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
/// If a `write_all` fails after a part of its bytes was accepted (a timeout, a close), it returns
/// [`Error::PartialWrite`] with the number of accepted bytes. These bytes stay accepted and are
/// sent, so the stream may contain an incomplete record. Don't write more to the stream.
/// [`PartialWrite`](Error::PartialWrite) says how to end the stream. Every other error of a write
/// means that none of the call's bytes were accepted.
///
/// These wake a blocked call:
///
/// - data or room
/// - the peer's FIN
/// - the call's deadline or timeout, even one that is set or moved during the call
/// - the no-data timeout
/// - `close` or `shutdown` in another thread
/// - the session's end, whatever its cause
///
/// # Endings
/// Reads first return all received data, and only then report how the stream ended. (Unread data is
/// lost in three cases: this side has closed the stream, this side has called `shutdown(Read)`, or
/// the stream was cut for a stall.)
///
/// A lost connection never looks like an end of file. If the session ends without the peer's FIN,
/// reads fail. A read into a buffer that isn't empty returns `Ok(0)` in two cases only: the peer
/// has sent FIN, the frame that ends the stream, or this side has called `shutdown(Read)`. But FIN
/// doesn't prove that the peer's application [had sent
/// everything](crate#an-end-of-file-is-no-proof).
///
/// ```
/// use std::io::{Read, Write};
/// # use gmux::{Config, Session};
/// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
/// # let client = Session::client(a, Config::new())?;
/// # let server = Session::server(b, Config::new())?;
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
    /// Returns a new handle.
    pub(crate) fn new(session: Arc<SessionShared>, stream: Arc<SharedStream>) -> Self {
        stream.add_handle();
        session.add_handle();
        Self { session, stream }
    }

    /// Returns the stream's id on the wire. No other open stream of the session has the same id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.stream.id
    }

    /// Returns the name that the stream was opened with, as text. Bytes that aren't UTF-8 are
    /// replaced, so two different names may look alike here. For authorisation use
    /// [`name_bytes`](Self::name_bytes).
    #[must_use]
    pub fn name(&self) -> &str {
        self.stream.name.text()
    }

    /// Returns the name that the stream was opened with, unchanged.
    #[must_use]
    pub fn name_bytes(&self) -> &[u8] {
        self.stream.name.bytes()
    }

    /// Returns this side's address if the transport knows it.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.session.local_addr()
    }

    /// Returns the peer's address if the transport knows it.
    #[doc(alias = "remote_addr")]
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.session.peer_addr()
    }

    /// Returns another handle to the same stream, as [`Clone`] does. The name and the signature are
    /// those of `TcpStream::try_clone`.
    ///
    /// # Errors
    /// None at present.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(self.clone())
    }

    /// Returns a handle to the stream's session. It is a handle like any other: it keeps the
    /// session alive, and dropping it may close the session.
    ///
    /// If all other `Session` handles have already been dropped, the returned handle can open
    /// streams but not accept them. [`accept`](Session::accept) fails with [`Error::Closed`].
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(Arc::clone(&self.session))
    }

    /// Returns the stream's counters, and the number of calls that wait in it.
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
    /// assert_eq!(stats.credit, Some(262_144 - 1000)); // the rest of the peer's window
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> StreamStats {
        self.stream.stats(Instant::now())
    }

    // ---- endings --------------------------------------------------------------------------------

    /// Closes the stream for all its handles. It doesn't block. A second call does nothing.
    ///
    /// - Accepted data is still sent, and FIN follows it.
    /// - Unread data is thrown away.
    /// - Blocked calls fail with [`Error::Closed`].
    ///
    /// # Errors
    /// None at present.
    pub fn close(&self) -> Result<()> {
        if let Some(notifier) = self.session.close_stream(&self.stream) {
            call_notifier(self.session.number, notifier, &self.stream);
        }
        Ok(())
    }

    /// Ends one direction, or both, and leaves the stream open. It doesn't block.
    ///
    /// After `Write`, accepted data is still sent, FIN follows it, and writes fail with
    /// `BrokenPipe`. After `Read`, reads return `Ok(0)`. Buffered data and later data is thrown
    /// away.
    ///
    /// # Errors
    /// `NotConnected` if the stream was closed on this side.
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

    /// Returns a channel that disconnects when the stream ends on this side: when it is closed,
    /// when it fails, or when its session ends. Nothing is ever sent on the channel. It suits
    /// crossbeam's `select!`. The peer's FIN alone doesn't end the stream.
    #[must_use]
    pub fn closed(&self) -> Receiver<()> {
        self.stream.closed()
    }

    /// Calls `notifier` once when the stream ends. [`closed`](Self::closed) says when that is.
    ///
    /// | the stream's end | thread of the call |
    /// |---|---|
    /// | this program closes the stream or its session | the thread that closes |
    /// | the stream ends by itself | one of gmux's notifier threads, at most 8 per session (a ninth notifier waits) |
    /// | the stream had ended before this call | the calling thread, at once |
    ///
    /// A notifier never runs on the session's reader or writer thread, and never under a lock. A
    /// panic in a notifier affects nothing else. A second notifier replaces the first.
    pub fn set_close_notifier(&self, notifier: impl FnOnce(&Stream) + Send + 'static) {
        // Weak: the stream holds the notifier, and the session holds the stream.
        let session = Arc::downgrade(&self.session);
        let notifier = UserObject::new(
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

    /// Copies the incoming data into `writer`, until the peer's FIN. The data is written directly
    /// from the received buffers. Returns the number of copied bytes.
    ///
    /// # Errors
    /// - The error of `writer`. Data that `writer` didn't take stays in the stream, in front of
    ///   later data.
    /// - The stream's error, as `read` returns it.
    ///
    /// Bytes that were written before the error aren't lost, but their number isn't returned.
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
    /// Closes the stream if this is its last handle, without blocking. If this is also the last
    /// handle of the session, the drop closes the session and may block: see [`Session`].
    fn drop(&mut self) {
        if self.stream.drop_handle()
            && let Some(notifier) = self.session.close_stream(&self.stream)
        {
            call_notifier(self.session.number, notifier, &self.stream);
        }
        self.session.drop_handle();
    }
}

/// Shows the state that explains a hang: [`StreamStats`], and the cause of the stream's end if it
/// has ended. It never blocks. If another thread holds the stream's lock at that moment, both are
/// left out.
impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Stream");
        text.field("session", &self.session.number)
            .field("id", &self.id())
            .field("name", &self.name());
        let Some((stats, cause)) = self.stream.glance(Instant::now()) else {
            return text.finish_non_exhaustive(); // another thread holds the stream
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

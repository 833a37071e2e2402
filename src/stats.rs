//! What a session counts: atomics that the engine raises, and the snapshot that users read.
//!
//! Invariant: counting never locks and never waits; each counter is monotonic except the gauges,
//! which say so.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A snapshot of a session's counters, from [`Session::stats`](crate::Session::stats).
///
/// Counters are read one by one while the session goes on, so they may be a frame apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Frames received, of every kind.
    pub frames_received: u64,
    /// Frames handed to the transport, of every kind.
    pub frames_sent: u64,
    /// Stream payload received, in bytes.
    pub bytes_received: u64,
    /// Stream payload handed to the transport, in bytes.
    pub bytes_sent: u64,
    /// Streams opened from this end.
    pub streams_opened: u64,
    /// Streams that the peer opened and that were put in the backlog.
    pub streams_received: u64,
    /// Streams of the peer that were refused with FIN (backlog or limit reached, name too long,
    /// session closing).
    pub streams_refused: u64,
    /// Streams that were cut because they stalled the session, or failed for a fault of the peer.
    pub streams_cut: u64,
    /// Frames that were read past, though few peers send such: data for streams that are unknown,
    /// or over here, or whose peer had sent FIN; FIN or UPD for streams that never were; a second
    /// FIN; a SYN for a stream that is open. Not FIN and UPD for streams that are over: they cross
    /// with our own FIN all the time.
    pub frames_ignored: u64,
    /// How often the session stopped reading because its budget was used up.
    pub receive_pauses: u64,
    /// How often the session stopped reading because its backlog was full (see
    /// [`accept_stall_timeout`](crate::Config::accept_stall_timeout)).
    pub accept_pauses: u64,
    /// Gauge: received and unread data, in bytes as they are charged to `max_receive_buffer`.
    pub receive_buffered: u64,
    /// Gauge: streams that aren't closed.
    pub streams: u64,
    /// The largest number of streams that were open at once.
    pub streams_peak: u64,
    /// Gauge: streams of the peer that wait for `accept`.
    pub backlog: u64,
    /// Gauge: calls of `accept` that wait for a stream.
    pub accepts_waiting: u64,
    /// Gauge: accepted bytes that the transport hasn't taken yet, over all streams.
    pub unsent: u64,
    /// Whether the session has stopped reading, for what, and how long it has. While it has, it
    /// learns nothing of the peer: no data, no end, no new window for its own writes.
    pub paused: Option<ReadPause>,
    /// What the writer thread does.
    pub writer: WriterState,
}

/// Why a session has stopped reading, and for how long.
///
/// Its text says what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadPause {
    /// Received and unread data uses up
    /// [`max_receive_buffer`](crate::Config::max_receive_buffer). The stream whose
    /// [`unread`](StreamStats::unread) is largest is the one to read, or to close.
    ReceiveBuffer(Duration),
    /// As many streams as [`accept_backlog`](crate::Config::accept_backlog) wait for `accept`.
    AcceptBacklog(Duration),
}

impl fmt::Display for ReadPause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReceiveBuffer(lasting) => write!(
                f,
                "reading is paused for {lasting:?}: the receive buffer is full (read or close the \
                 stream that holds \
                 most, or raise max_receive_buffer)"
            ),
            Self::AcceptBacklog(lasting) => write!(
                f,
                "reading is paused for {lasting:?}: the accept backlog is full (accept, or raise \
                 accept_backlog)"
            ),
        }
    }
}

/// What a session's writer thread does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriterState {
    /// It has nothing to do, and sleeps.
    #[default]
    Parked,
    /// It prepares frames, or is about to.
    Working,
    /// It is in the transport's `write`, `flush` or half-close, for so long. Longer than a moment
    /// means that the peer doesn't read, or that the link is slow or dead.
    InTransport(Duration),
    /// It has ended: everything was sent after a close, or the transport takes no more.
    Ended,
}

/// A snapshot of one stream, from [`Stream::stats`](crate::Stream::stats) and
/// [`Session::streams`](crate::Session::streams).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// The stream's id on the wire.
    pub id: u32,
    /// The name that it was opened with; bytes that aren't UTF-8 are replaced.
    pub name: String,
    /// How long ago it was opened, or its SYN came, to 10 ms.
    pub age: Duration,
    /// Payload received, in bytes; a large frame counts when its header has come.
    pub bytes_received: u64,
    /// Payload handed to the transport, in bytes.
    pub bytes_sent: u64,
    /// Received bytes that no read has taken yet.
    pub unread: u64,
    /// Accepted bytes that the transport hasn't taken yet; those that a failed stream threw away
    /// aren't counted.
    pub unsent: u64,
    /// How many more bytes the peer's window lets be written; `None` on version 1, which has no
    /// windows. A writer that waits with 0 here waits for the peer's application to read: this
    /// stream, or, before it has read anything of this one, other new streams of the session.
    pub credit: Option<u64>,
    /// Calls of `read` and `write_to` that wait for data.
    pub readers_waiting: u32,
    /// Calls of `write` that wait for room.
    pub writers_waiting: u32,
    /// Calls of `flush` that wait.
    pub flushes_waiting: u32,
    /// Whether the peer has finished its side (FIN): nothing more will come.
    pub peer_finished: bool,
}

/// A monotonic counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters behind [`SessionStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) frames_received: Counter,
    pub(crate) frames_sent: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) streams_opened: Counter,
    pub(crate) streams_received: Counter,
    pub(crate) streams_refused: Counter,
    pub(crate) streams_cut: Counter,
    pub(crate) frames_ignored: Counter,
    pub(crate) receive_pauses: Counter,
    pub(crate) accept_pauses: Counter,
}

impl Counters {
    /// A snapshot, without the gauges, which live elsewhere.
    pub(crate) fn snapshot(&self) -> SessionStats {
        SessionStats {
            frames_received: self.frames_received.value(),
            frames_sent: self.frames_sent.value(),
            bytes_received: self.bytes_received.value(),
            bytes_sent: self.bytes_sent.value(),
            streams_opened: self.streams_opened.value(),
            streams_received: self.streams_received.value(),
            streams_refused: self.streams_refused.value(),
            streams_cut: self.streams_cut.value(),
            frames_ignored: self.frames_ignored.value(),
            receive_pauses: self.receive_pauses.value(),
            accept_pauses: self.accept_pauses.value(),
            ..SessionStats::default()
        }
    }
}

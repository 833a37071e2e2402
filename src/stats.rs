//! The counters of a session: atomics that the engine raises, and the snapshots that users read.
//!
//! Invariants: counting never locks and never waits. Each counter is monotonic, except the gauges.
//! A gauge is a present value, which rises and falls, and is marked as such.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A snapshot of a session's counters and of its present state, from
/// [`Session::stats`](crate::Session::stats).
///
/// The counters are read one after the other while the session goes on. So two counters that
/// belong together may disagree by about one frame.
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
    /// Streams that this side has opened.
    pub streams_opened: u64,
    /// Streams that the peer has opened and that were put into the backlog.
    pub streams_received: u64,
    /// Streams of the peer that were refused with FIN. The reason is a full backlog, a reached
    /// limit, a name that is too long, or a session that is being closed.
    pub streams_refused: u64,
    /// Streams that this side has cut (ended with an error) while the session went on. They had
    /// stalled the session, or the peer had broken the protocol on them.
    pub streams_cut: u64,
    /// Frames that were ignored, of these kinds, which few peers send:
    ///
    /// - data for a stream that is unknown, that has ended on this side, or whose FIN had come
    ///   before
    /// - FIN or UPD for a stream that never existed
    /// - a second FIN of a stream that is open here
    /// - a SYN for a stream that is open
    ///
    /// FIN and UPD for streams that have ended don't count, because they often cross with this
    /// side's FIN.
    pub frames_ignored: u64,
    /// The number of times that the session stopped reading because its receive budget was used up.
    pub receive_pauses: u64,
    /// The number of times that the session stopped reading because its backlog was full (see
    /// [`accept_stall_timeout`](crate::Config::accept_stall_timeout)).
    pub accept_pauses: u64,
    /// Gauge: received and unread data, in bytes as charged to
    /// [`max_receive_buffer`](crate::Config::max_receive_buffer).
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
    /// The reason why the session has stopped reading, and the duration of this pause. `None` if
    /// the session is reading. During a pause nothing arrives from the peer: no data, no end of a
    /// stream, no new window for this side's writes.
    pub paused: Option<ReadPause>,
    /// The state of the writer thread.
    pub writer: WriterState,
}

/// The reason why a session has stopped reading, and the duration of the pause.
///
/// The text (`Display`) includes a remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadPause {
    /// Received and unread data uses up [`max_receive_buffer`](crate::Config::max_receive_buffer).
    /// Read or close the stream with the largest [`unread`](StreamStats::unread).
    ReceiveBuffer(Duration),
    /// As many streams wait for `accept` as [`accept_backlog`](crate::Config::accept_backlog)
    /// allows.
    AcceptBacklog(Duration),
}

impl fmt::Display for ReadPause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReceiveBuffer(lasting) => write!(
                f,
                "reading is paused for {lasting:?}: the receive buffer is full (read or close the \
                 stream that holds most, or raise max_receive_buffer)"
            ),
            Self::AcceptBacklog(lasting) => write!(
                f,
                "reading is paused for {lasting:?}: the accept backlog is full (accept, or raise \
                 accept_backlog)"
            ),
        }
    }
}

/// The state of a session's writer thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriterState {
    /// The thread has no work, and sleeps.
    #[default]
    Parked,
    /// The thread prepares frames, or is about to do so.
    Working,
    /// The thread has been in the transport's `write`, `flush` or half-close for this time. If this
    /// is more than a moment, the peer doesn't read, or the link is slow or dead.
    InTransport(Duration),
    /// The thread has ended. Either everything was sent after a close, or the transport takes no
    /// more data.
    Ended,
}

/// A snapshot of one stream, from [`Stream::stats`](crate::Stream::stats) and
/// [`Session::streams`](crate::Session::streams).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// The stream's id on the wire.
    pub id: u32,
    /// The name that the stream was opened with. Bytes that aren't UTF-8 are replaced.
    pub name: String,
    /// The time since the stream was opened here, or since its SYN came, with a resolution of 10
    /// ms.
    pub age: Duration,
    /// Payload received, in bytes. A large frame counts as a whole when its header has come.
    pub bytes_received: u64,
    /// Payload handed to the transport, in bytes.
    pub bytes_sent: u64,
    /// Received bytes that no read has taken yet.
    pub unread: u64,
    /// Accepted bytes that the transport hasn't taken yet. Bytes that a failed stream threw away
    /// don't count.
    pub unsent: u64,
    /// The rest of the peer's window: the number of bytes that may still be written. `None` on
    /// version 1, which has no windows.
    ///
    /// While this is 0, a write waits until the peer's application reads this stream. If the
    /// application hasn't read anything from this stream yet, the write also goes on when the
    /// application reads other new streams of the session.
    pub credit: Option<u64>,
    /// Calls of `read` and `write_to` that wait for data.
    pub readers_waiting: u32,
    /// Calls of `write` that wait for room.
    pub writers_waiting: u32,
    /// Calls of `flush` that wait.
    pub flushes_waiting: u32,
    /// Whether the peer has finished the stream (FIN). Then no more data will come.
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
    /// Returns a snapshot without the gauges, which are kept elsewhere.
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

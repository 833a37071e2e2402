//! What a session counts: atomics that the engine raises, and the snapshot that users read.
//!
//! Invariant: counting never locks and never waits; each counter is monotonic except the gauges, which say so.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    /// Streams of the peer that were refused with FIN (backlog or limit reached, name too long, session closing).
    pub streams_refused: u64,
    /// Streams that were cut because they stalled the session, or failed for a fault of the peer.
    pub streams_cut: u64,
    /// Frames that were read past: for unknown streams, after FIN, repeated SYN.
    pub frames_ignored: u64,
    /// How often the session stopped reading because its budget was used up.
    pub receive_pauses: u64,
    /// Gauge: received and unread data, in bytes as they are charged to `max_receive_buffer`.
    pub receive_buffered: u64,
    /// Gauge: streams that aren't closed.
    pub streams: u64,
    /// The largest number of streams that were open at once.
    pub streams_peak: u64,
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
            ..SessionStats::default()
        }
    }
}

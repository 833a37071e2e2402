//! The session's statistics: its counters and gauges, and those of its streams. They are meant to
//! explain a hang.
//!
//! Invariants:
//! - Nothing here changes the session.
//! - [`SessionShared::glance`], which `Debug` uses, only tries the locks of the registry and the
//!   streams.
//! - Streams are looked at while the registry is unlocked.

use std::sync::Arc;
use std::time::Instant;

use super::{Accepting, SessionShared};
use crate::stats::{ReadPause, SessionStats, StreamStats};
use crate::sync::pause::Cause;
use crate::sync::stream::SharedStream;

/// A copy of the registry's state.
struct Table {
    streams: Vec<Arc<SharedStream>>,
    open: usize,
    peak: usize,
    backlog: usize,
    accepts: usize,
}

impl Table {
    fn of(registry: &Accepting) -> Self {
        let streams = &registry.streams;
        Self {
            streams: streams.streams(),
            open: streams.open_count(),
            peak: streams.peak(),
            backlog: streams.waiting(),
            accepts: registry.waiters,
        }
    }
}

impl SessionShared {
    /// Returns the session's counters and gauges.
    pub(crate) fn stats(&self) -> SessionStats {
        let table = Table::of(&self.registry.lock());
        let unsent = table.streams.iter().map(|stream| stream.unsent()).sum();
        self.gauges(&table, unsent)
    }

    /// Returns [`stats`](Self::stats) without blocking, for `Debug`, which may be used anywhere.
    /// Returns `None` if the registry is locked. Streams that are locked don't count.
    pub(crate) fn glance(&self) -> Option<SessionStats> {
        let table = Table::of(&*self.registry.try_lock()?);
        let unsent = table.streams.iter().filter_map(|stream| stream.try_unsent()).sum();
        Some(self.gauges(&table, unsent))
    }

    fn gauges(&self, table: &Table, unsent: u64) -> SessionStats {
        let now = Instant::now();
        SessionStats {
            streams: if self.lifecycle.is_closing_or_ended() { 0 } else { table.open as u64 },
            streams_peak: table.peak as u64,
            backlog: table.backlog as u64,
            accepts_waiting: table.accepts as u64,
            receive_buffered: self.env.budget.used() as u64,
            unsent,
            paused: self.read_pause(now),
            writer: self.clock.writer(now, self.env.shaper.is_parked()),
            ..self.counters.snapshot()
        }
    }

    /// Returns the reason and the duration of the reader's current pause, if there is one.
    fn read_pause(&self, now: Instant) -> Option<ReadPause> {
        let (since, cause) = self.pause()?;
        let lasting = now.saturating_duration_since(since);
        Some(match cause {
            Cause::Budget => ReadPause::ReceiveBuffer(lasting),
            Cause::Backlog => ReadPause::AcceptBacklog(lasting),
        })
    }

    /// Returns the statistics of the streams that aren't closed here, in the order of their ids.
    pub(crate) fn stream_stats(&self) -> Vec<StreamStats> {
        let mut streams = self.registry.lock().streams.streams();
        streams.retain(|stream| !stream.is_closed() && !self.lifecycle.is_closing_or_ended());
        streams.sort_unstable_by_key(|stream| stream.id);
        let now = Instant::now();
        streams.iter().map(|stream| stream.stats(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::config::Config;
    use crate::error::Error;
    use crate::proto::registry::Role;
    use crate::transport::Transport;

    #[test]
    fn debug_waits_for_nobody_who_has_the_table_or_a_stream() {
        let (transport, _peer) = UnixStream::pair().unwrap();
        let session =
            SessionShared::start(|| transport.split(), Config::new(), Role::Client).unwrap();
        let stream = session.open(b"").unwrap();
        let table = session.registry.lock();
        assert!(session.glance().is_none());
        drop(table);
        let now = Instant::now();
        while stream.glance(now).is_none()
            || session.glance().is_none_or(|stats| stats.streams != 1)
        {
            // The writer may have locked the stream, to take its SYN.
            std::thread::yield_now();
        }
        stream.while_locked(|| {
            assert!(stream.glance(now).is_none());
            assert_eq!(
                session.glance().map(|stats| stats.streams),
                Some(1),
                "the stream itself counts"
            );
        });
        session.end(Error::Closed);
    }
}

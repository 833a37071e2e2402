//! The model of one end of a stream.
//!
//! Invariant: no value is taken from the core. All follow from the operations alone.

use crate::INITIAL_WINDOW;

/// One end of a stream. Counters are bytes since the stream began.
#[derive(Debug)]
pub(crate) struct Side {
    // Operations of the application, and events of the stream.
    pub(crate) closed: bool,
    /// `finish`, `close` or a failure has asked for FIN.
    pub(crate) finished: bool,
    pub(crate) read_shut: bool,
    pub(crate) failed: bool,
    /// That failure discarded the unread data.
    pub(crate) unread_discarded: bool,
    /// The session is closing, or has ended.
    pub(crate) ending: bool,
    pub(crate) write_failed: bool,
    /// No more frames leave this end.
    pub(crate) send_closed: bool,
    /// No more data is delivered to this end.
    pub(crate) unreachable: bool,

    // The sender's part.
    pub(crate) syn_due: bool,
    pub(crate) accepted: u64,
    pub(crate) transmitted: u64,
    pub(crate) written: u64,
    pub(crate) fin_taken: bool,
    pub(crate) fin_written: bool,
    /// The window of the newest UPD.
    pub(crate) window: u64,
    pub(crate) peer_consumed: u64,

    // The receiver's part.
    pub(crate) arrived: u64,
    /// Bytes in the inbox.
    pub(crate) queued: u64,
    /// Bytes that the application got.
    pub(crate) read: u64,
    /// Bytes that the application got, or that were discarded for it.
    pub(crate) consumed: u64,
    pub(crate) fin_arrived: bool,
    /// The highest count that the peer was ever granted.
    pub(crate) edge: u64,
}

/// The required result of a read or a write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Found {
    /// This much data, or room for this much.
    Some(usize),
    Nothing {
        starved: bool,
    },
    Eof,
    Closed,
    Shut,
    /// The stream or the session has failed.
    Broken,
}

impl Side {
    pub(crate) fn new(syn_due: bool) -> Self {
        Self {
            closed: false,
            finished: false,
            read_shut: false,
            failed: false,
            unread_discarded: false,
            ending: false,
            write_failed: false,
            send_closed: false,
            unreachable: false,
            syn_due,
            accepted: 0,
            transmitted: 0,
            written: 0,
            fin_taken: false,
            fin_written: false,
            window: INITIAL_WINDOW.into(),
            peer_consumed: 0,
            arrived: 0,
            queued: 0,
            read: 0,
            consumed: 0,
            fin_arrived: false,
            edge: INITIAL_WINDOW.into(),
        }
    }

    /// Whether the application still wants all data that arrives.
    pub(crate) fn reads_on(&self) -> bool {
        !self.closed && !self.read_shut && !self.failed
    }

    /// Whether the session needs the stream no more.
    pub(crate) fn can_forget(&self) -> bool {
        self.closed && self.fin_written
    }

    /// Whether accepted bytes may have been discarded.
    pub(crate) fn has_discarded(&self) -> bool {
        self.failed || self.send_closed
    }

    /// Returns the rest of the peer's window, in bytes.
    pub(crate) fn credit(&self, version: u8) -> u64 {
        if version == 1 {
            u64::MAX
        } else {
            self.window.saturating_sub(self.accepted - self.peer_consumed)
        }
    }

    pub(crate) fn readable(&self) -> Found {
        match self {
            Self { closed: true, .. } => Found::Closed,
            Self { read_shut: true, .. } => Found::Eof,
            Self { queued: 1.., .. } => Found::Some(0),
            Self { failed: true, .. } => Found::Broken,
            Self { fin_arrived: true, .. } => Found::Eof,
            Self { ending: true, .. } => Found::Broken,
            _ => Found::Nothing { starved: false },
        }
    }

    pub(crate) fn writable(&self, version: u8, max_send: usize) -> Found {
        if self.closed {
            return Found::Closed;
        }
        if self.failed || self.ending || self.write_failed {
            return Found::Broken;
        }
        if self.finished {
            return Found::Shut;
        }
        let free = (max_send as u64).saturating_sub(self.accepted - self.transmitted);
        match self.credit(version) {
            0 => Found::Nothing { starved: self.fin_arrived },
            credit if credit.min(free) > 0 => Found::Some(credit.min(free) as usize),
            _ => Found::Nothing { starved: false },
        }
    }

    /// Whether all accepted data has been written to the transport. `None` if it never will be.
    pub(crate) fn flushed(&self) -> Option<bool> {
        match self {
            Self { closed: true, .. } => Some(false),
            _ if self.written >= self.accepted => Some(true),
            _ if self.failed || self.ending || self.write_failed => Some(false),
            _ => None,
        }
    }
}

//! What the model knows of one end of a stream.
//!
//! Invariant: nothing here is taken from the core; it follows from what was done to it alone.

use crate::INITIAL_WINDOW;

/// One end of a stream: counters are bytes since the stream began.
#[derive(Debug)]
pub(crate) struct Side {
    // What the application did, and what happened to the stream.
    pub(crate) closed: bool,
    /// FIN was asked for: by `finish`, `close` or a failure.
    pub(crate) finished: bool,
    pub(crate) read_shut: bool,
    pub(crate) failed: bool,
    /// What was unread went with that failure.
    pub(crate) unread_discarded: bool,
    /// The session is closing, or has ended.
    pub(crate) ending: bool,
    pub(crate) write_failed: bool,
    /// Nothing leaves this end any more.
    pub(crate) send_closed: bool,
    /// Nothing that comes is delivered here any more.
    pub(crate) unreachable: bool,

    // As a sender.
    pub(crate) syn_due: bool,
    pub(crate) accepted: u64,
    pub(crate) transmitted: u64,
    pub(crate) written: u64,
    pub(crate) fin_taken: bool,
    pub(crate) fin_written: bool,
    /// What the newest UPD said.
    pub(crate) window: u64,
    pub(crate) peer_consumed: u64,

    // As a receiver.
    pub(crate) arrived: u64,
    /// Bytes in the inbox.
    pub(crate) queued: u64,
    /// Bytes that the application got.
    pub(crate) read: u64,
    /// Bytes that it got, or that were thrown away for it.
    pub(crate) consumed: u64,
    pub(crate) fin_arrived: bool,
    /// The highest count that the peer was ever allowed.
    pub(crate) edge: u64,
}

/// What a read or a write has to find.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Found {
    /// Data, or so much room.
    Some(usize),
    Nothing {
        starved: bool,
    },
    Eof,
    Closed,
    Shut,
    /// The stream's failure, or the session's.
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

    /// Whether the application still wants all that comes.
    pub(crate) fn reads_on(&self) -> bool {
        !self.closed && !self.read_shut && !self.failed
    }

    /// Whether the stream is of no more use to its session.
    pub(crate) fn can_forget(&self) -> bool {
        self.closed && self.fin_written
    }

    /// Whether accepted bytes may have been thrown away.
    pub(crate) fn has_discarded(&self) -> bool {
        self.failed || self.send_closed
    }

    /// What the peer's window leaves, in bytes.
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

    /// Whether all that was accepted is with the transport, or never will be.
    pub(crate) fn flushed(&self) -> Option<bool> {
        match self {
            Self { closed: true, .. } => Some(false),
            _ if self.written >= self.accepted => Some(true),
            _ if self.failed || self.ending || self.write_failed => Some(false),
            _ => None,
        }
    }
}

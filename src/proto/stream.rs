//! The protocol state of one stream: its windows, its queued data, the frames it owes to the peer,
//! and how it ended.
//!
//! The state holds *intents*, not ready-made frames. A flag says that SYN, an UPD or FIN is due.
//! The frame is made when the writer asks for it ([`StreamCore::poll_transmit`]). This has three
//! effects:
//!
//! - FIN can't overtake data.
//! - Window updates merge and never go stale.
//! - Small writes merge into large frames.
//!
//! Invariants:
//!
//! - The peer's window is charged when bytes are accepted, so accepted bytes can always be sent.
//! - A stream waits in each lane at most once (the flags `in_express` and `in_bulk`).
//! - Frames leave in the order SYN, (UPD, data)*, FIN, then UPDs alone.

mod transmit;
mod view;
mod windows;
mod writing;

use std::collections::VecDeque;
use std::sync::Arc;

use super::chunks::{Chunk, Inbox};
use super::outbox::{Outbox, Payload};
use super::state::{Event, Receiving, Sending, StreamState};
use super::window::{ReceiveWindow, SendWindow, Update, WindowSizes};
use crate::error::Error;

/// Limit of the express lane, in bytes of data. A stream with at most this amount of data goes by
/// the express lane. So a request, a reply or a keystroke doesn't wait behind bulk data. The value
/// is a choice. Most such messages fit.
pub(crate) const EXPRESS_BYTES: usize = 2048;

/// The lane in which a stream waits for the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// For SYN, UPD, FIN and at most [`EXPRESS_BYTES`] of data. Served first, with at most half of
    /// each batch.
    Express,
    /// For everything else. Served round-robin by bytes.
    Bulk,
}

/// The answer to a call that wants to read.
#[derive(Debug)]
pub(crate) enum Readable {
    /// There is unread data.
    Data,
    /// The peer sent FIN, or the application called `shutdown(Read)`.
    Eof,
    /// The call has to wait.
    Nothing,
    Failed(Error),
}

/// The answer to a call that wants to write.
#[derive(Debug)]
pub(crate) enum Writable {
    /// Up to this number of bytes can be accepted.
    Room(usize),
    /// There isn't enough room now. `starved` says whether the peer has sent FIN and the write
    /// waits for credit.
    Full {
        starved: bool,
    },
    Failed(Error),
}

/// The decision on received data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Put the data into the inbox.
    Queue,
    /// Drop the data, because the application doesn't want it. The data has been counted as
    /// consumed.
    Discard,
    /// Drop the data, because it came after the peer's FIN, or after the stream failed.
    Late,
}

/// A frame to be sent.
#[derive(Debug)]
pub(crate) enum Transmit {
    Syn,
    Update { consumed: u32, window: u32 },
    Data(Payload),
    Fin,
}

/// Data that a stream discarded. The caller drops this outside the stream's lock.
#[must_use = "drop it after unlocking"]
pub(crate) struct Discarded<C> {
    _chunks: VecDeque<Chunk<C>>,
    _lent: Option<C>,
    _payloads: VecDeque<Payload>,
}

#[derive(Debug)]
pub(crate) struct StreamCore<C> {
    state: StreamState,
    inbox: Inbox<C>,
    outbox: Outbox,
    tx: SendWindow,
    rx: ReceiveWindow,
    /// Bytes written to the transport since the stream began.
    written: u64,
    /// Why this stream failed. Reads report the failure after all received data, even if the peer
    /// has sent FIN.
    failure: Option<Arc<Error>>,
    /// Why the session ended or is closing.
    ending: Option<Arc<Error>>,
    /// Why the session's transport takes no more writes.
    write_ending: Option<Arc<Error>>,
    /// Whether the application closed the stream: all handles are gone, or `close` was called.
    closed: bool,
    /// Whether `shutdown(Read)` was called.
    read_shut: bool,
    syn_due: bool,
    /// Whether a write is copying outside the lock. FIN waits for this write.
    pub(crate) writing: bool,
    /// Whether the stream waits in the express lane.
    in_express: bool,
    /// Whether the stream waits in the bulk lane.
    in_bulk: bool,
    /// Whether the session has ended. Then nothing is sent any more.
    send_closed: bool,
}

impl<C> StreamCore<C> {
    /// Returns a new stream that announces windows of `sizes`. `syn_due` says that this side opened
    /// the stream and owes SYN.
    pub(crate) fn new(version: u8, sizes: WindowSizes, syn_due: bool) -> Self {
        Self::starting_at(0, version, sizes, syn_due)
    }

    /// Returns a stream that has carried `origin` bytes in each direction already.
    pub(crate) fn starting_at(origin: u64, version: u8, sizes: WindowSizes, syn_due: bool) -> Self {
        Self {
            state: StreamState::new(),
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            tx: SendWindow::new(version == 2, origin),
            rx: ReceiveWindow::new(version == 2, sizes, origin),
            written: origin,
            failure: None,
            ending: None,
            write_ending: None,
            closed: false,
            read_shut: false,
            syn_due,
            writing: false,
            in_express: false,
            in_bulk: false,
            send_closed: false,
        }
    }

    // ---- reading --------------------------------------------------------------------------------

    /// Returns the state that a read finds: unread data first, then the ending.
    pub(crate) fn readable(&self) -> Readable {
        if self.closed {
            return Readable::Failed(Error::Closed);
        }
        if self.read_shut {
            return Readable::Eof;
        }
        if !self.inbox.is_empty() {
            return Readable::Data;
        }
        match (&self.failure, self.state.receiving, &self.ending) {
            (Some(failure), _, _) => Readable::Failed(Error::clone(failure)),
            (None, Receiving::Ended, _) => Readable::Eof,
            (None, _, Some(ending)) => Readable::Failed(Error::clone(ending)),
            (None, _, None) => Readable::Nothing,
        }
    }

    pub(crate) fn inbox(&mut self) -> &mut Inbox<C> {
        &mut self.inbox
    }

    /// Records that the application took `n` bytes out of the inbox. The window may grow by up to
    /// `spare` bytes.
    pub(crate) fn consumed(&mut self, n: usize, spare: u64) {
        if !self.closed {
            if self.inbox.is_empty() {
                self.rx.mark_caught_up();
            }
            self.rx.consume(n, spare);
        }
    }

    /// Returns the granted bytes that aren't consumed.
    pub(crate) fn granted(&self) -> u64 {
        if self.closed || self.state.receiving == Receiving::Ended { 0 } else { self.rx.granted() }
    }

    /// Makes an UPD due at once, before the first read.
    pub(crate) fn announce(&mut self) {
        self.rx.announce();
    }

    // ---- frames of the peer ---------------------------------------------------------------------

    /// Counts `n` bytes of the peer's data, before they are delivered. Returns the decision on
    /// these bytes.
    ///
    /// # Errors
    /// Returns the bytes received and the bytes allowed, if the data is past every granted window
    /// and the slack. Then the stream has to fail.
    pub(crate) fn receive(&mut self, n: usize) -> Result<Received, (u64, u64)> {
        if self.state.receiving == Receiving::Ended || self.failure.is_some() {
            return Ok(Received::Late);
        }
        self.rx.receive(n)?;
        if self.closed || self.state.receiving == Receiving::Discarding {
            self.rx.consume(n, 0);
            return Ok(Received::Discard);
        }
        Ok(Received::Queue)
    }

    /// Returns whether data for which [`receive`](Self::receive) returned `Queue` is still wanted.
    pub(crate) fn wants_data(&self) -> bool {
        !self.closed && !self.read_shut && self.failure.is_none()
    }

    /// Records the peer's FIN. Returns whether it is the first.
    pub(crate) fn peer_fin(&mut self) -> bool {
        self.state.on(Event::PeerFin)
    }

    /// Takes an UPD of the peer. Returns whether the UPD brought credit.
    ///
    /// # Errors
    /// Returns the bytes claimed as consumed and the bytes sent, if the peer claims more than was
    /// sent. Then the stream has to fail.
    pub(crate) fn update(&mut self, consumed: u32, window: u32) -> Result<bool, (u64, u64)> {
        match self.tx.update(consumed, window) {
            Update::Stale => Ok(false),
            Update::Applied { gained } => Ok(gained),
            Update::Impossible { consumed, sent } => Err((consumed, sent)),
        }
    }

    /// Returns whether this stream would lose data if the transport's input ended now.
    pub(crate) fn is_cut_off_by_eof(&self) -> bool {
        !self.peer_fin_received() && self.wants_data()
    }

    /// Returns whether the peer has sent FIN. Such a peer may have closed the stream, and may never
    /// send an UPD again.
    pub(crate) fn peer_fin_received(&self) -> bool {
        self.state.receiving == Receiving::Ended
    }

    // ---- the application's endings --------------------------------------------------------------

    /// Ends the writing, for `shutdown(Write)`. Returns whether the call changed the state.
    ///
    /// The call changes nothing if the session is closing already. Writes fail then, and a FIN
    /// would make an incomplete record look complete.
    pub(crate) fn finish(&mut self) -> bool {
        self.ending.is_none() && self.state.on(Event::Finish)
    }

    /// Ends the reading, for `shutdown(Read)`. Unread data counts as consumed, and so does data
    /// that still comes.
    pub(crate) fn shut_read(&mut self) -> Discarded<C> {
        self.read_shut = true;
        self.state.on(Event::ShutRead);
        let n = self.inbox.len();
        self.rx.consume(n, 0);
        self.discard(true, false)
    }

    /// Discards the received data, the accepted data, or both.
    fn discard(&mut self, received: bool, accepted: bool) -> Discarded<C> {
        let (chunks, lent) =
            if received { (self.inbox.clear(), self.inbox.recall()) } else { Default::default() };
        let payloads = if accepted { self.outbox.clear() } else { VecDeque::new() };
        Discarded { _chunks: chunks, _lent: lent, _payloads: payloads }
    }

    /// Closes the stream for the application. Unread data is discarded. FIN follows the accepted
    /// data, unless the session is closing. Returns `None` if the stream was closed before.
    pub(crate) fn close(&mut self) -> Option<Discarded<C>> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        if self.ending.is_none() {
            self.state.on(Event::Finish);
        }
        Some(self.discard(true, false))
    }

    /// Returns whether `shutdown(Read)` was called.
    pub(crate) fn is_read_shut(&self) -> bool {
        self.read_shut
    }

    /// Returns whether the application closed the stream.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns whether the session can forget the stream: the application closed it, and its FIN
    /// was written to the transport.
    pub(crate) fn can_forget(&self) -> bool {
        self.closed && self.state.sending == Sending::Finished
    }

    /// Returns whether the stream has ended for its application: it was closed, it failed, or its
    /// session ended or is closing.
    pub(crate) fn has_ended(&self) -> bool {
        self.closed || self.failure.is_some() || self.ending.is_some()
    }

    // ---- other endings --------------------------------------------------------------------------

    /// Fails this stream, and no other. Unsent data is discarded, and the peer gets FIN. With
    /// `discard_unread`, unread data is discarded as well. A later failure doesn't replace the
    /// first one.
    pub(crate) fn fail(&mut self, error: Error, discard_unread: bool) -> Discarded<C> {
        self.failure.get_or_insert_with(|| Arc::new(error));
        self.state.on(Event::Finish);
        self.discard(discard_unread, true)
    }

    /// Records that the session is closing. Later calls fail with `error`. Accepted data is still
    /// sent. FIN is sent only if the application had finished the writing before.
    pub(crate) fn detach(&mut self, error: &Arc<Error>) {
        self.ending.get_or_insert_with(|| Arc::clone(error));
    }

    /// Records that the transport takes no more writes. Reads go on.
    pub(crate) fn fail_write(&mut self, error: &Arc<Error>) {
        self.write_ending.get_or_insert_with(|| Arc::clone(error));
    }

    /// Records that the session has ended. Nothing is sent any more, and unsent data is discarded.
    pub(crate) fn end(&mut self, error: &Arc<Error>) -> Discarded<C> {
        self.ending.get_or_insert_with(|| Arc::clone(error));
        self.send_closed = true;
        self.discard(false, true)
    }
}

#[cfg(test)]
mod tests;

//! One stream's protocol state: what it may read, write and send, and what it owes the peer.
//!
//! Packets aren't queued, *intents* are: that SYN, an UPD or FIN is due is a flag here, and the
//! frame is made when the writer takes the stream's turn ([`StreamCore::poll_transmit`]). So FIN
//! can't overtake data, window updates merge and never go stale, and small writes merge into large
//! frames.
//!
//! Invariants: the window is charged when bytes are accepted, so what is accepted can always be
//! sent; a stream waits in each lane at most once (the scheduled flags); frames leave in the order
//! SYN, (UPD, data)*, FIN, then UPD alone.

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

/// A turn may go by the express lane if it has at most so many bytes of data: a request, an answer
/// or a keystroke doesn't wait behind bulk.
pub(crate) const EXPRESS_BYTES: usize = 2048;

/// Which way a turn at the writer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// SYN, UPD, FIN and a little data: served first, with at most half of each batch.
    Express,
    /// Everything else: round-robin by bytes.
    Bulk,
}

/// What a reader finds.
#[derive(Debug)]
pub(crate) enum Readable {
    Data,
    /// The peer's FIN, or a local `shutdown(Read)`.
    Eof,
    Nothing,
    Failed(Error),
}

/// What a writer finds.
#[derive(Debug)]
pub(crate) enum Writable {
    /// So many bytes can be accepted.
    Room(usize),
    /// Not enough room now. `starved`: the peer has sent FIN and granted too little window.
    Full {
        starved: bool,
    },
    Failed(Error),
}

/// What to do with received data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Queue,
    /// The application doesn't want it; it has been counted as consumed.
    Discard,
    /// It came after the peer's FIN, or after the stream failed.
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

/// What a stream threw away, for the caller to drop outside its lock.
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
    /// Bytes handed to the transport.
    written: u64,
    /// The stream failed alone; what was received stays readable, then this is reported, even after
    /// FIN.
    failure: Option<Arc<Error>>,
    /// The session ended, or is closing.
    ending: Option<Arc<Error>>,
    /// The session's transport takes no more writes.
    write_ending: Option<Arc<Error>>,
    /// Closed by the application: all handles are gone, or `close` was called.
    closed: bool,
    /// `shutdown(Read)` was called.
    read_shut: bool,
    syn_due: bool,
    /// A write is copying outside the lock: FIN waits for it.
    pub(crate) writing: bool,
    in_express: bool,
    in_bulk: bool,
    /// Nothing is sent any more: the session has ended.
    send_closed: bool,
}

impl<C> StreamCore<C> {
    /// A stream that announces windows of `sizes`; `syn_due` if it was opened from this end.
    pub(crate) fn new(version: u8, sizes: WindowSizes, syn_due: bool) -> Self {
        Self::starting_at(0, version, sizes, syn_due)
    }

    /// A stream that has carried `origin` bytes each way already.
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

    /// Buffered data first, then the ending.
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

    /// The application took `n` bytes out of the inbox. The window may grow by up to `spare` bytes.
    pub(crate) fn consumed(&mut self, n: usize, spare: u64) {
        if !self.closed {
            if self.inbox.is_empty() {
                self.rx.mark_caught_up();
            }
            self.rx.consume(n, spare);
        }
    }

    /// What was granted to the peer and isn't consumed, in bytes.
    pub(crate) fn granted(&self) -> u64 {
        if self.closed || self.state.receiving == Receiving::Ended { 0 } else { self.rx.granted() }
    }

    /// Tells the peer the window at once, before the first read.
    pub(crate) fn announce(&mut self) {
        self.rx.announce();
    }

    // ---- what the peer sends --------------------------------------------------------------------

    /// `n` bytes of data came, and will follow.
    ///
    /// # Errors
    /// Past every window granted: the bytes received and allowed. The stream has to fail.
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

    /// Whether data that [`receive`](Self::receive) let in is still wanted.
    pub(crate) fn wants_data(&self) -> bool {
        !self.closed && !self.read_shut && self.failure.is_none()
    }

    /// FIN came; returns whether it is the first.
    pub(crate) fn peer_fin(&mut self) -> bool {
        self.state.on(Event::PeerFin)
    }

    /// UPD came; returns whether there is more credit than before.
    ///
    /// # Errors
    /// The counts that can't be; the stream has to fail.
    pub(crate) fn update(&mut self, consumed: u32, window: u32) -> Result<bool, (u64, u64)> {
        match self.tx.update(consumed, window) {
            Update::Stale => Ok(false),
            Update::Applied { gained } => Ok(gained),
            Update::Impossible { consumed, sent } => Err((consumed, sent)),
        }
    }

    /// Whether the peer's end of a connection now would cut this stream off.
    pub(crate) fn is_cut_off_by_eof(&self) -> bool {
        !self.peer_fin_received() && self.wants_data()
    }

    // ---- writing --------------------------------------------------------------------------------

    /// Whether the peer has sent FIN: it may have closed, and never grant window again.
    pub(crate) fn peer_fin_received(&self) -> bool {
        self.state.receiving == Receiving::Ended
    }

    // ---- the application's endings --------------------------------------------------------------

    /// `shutdown(Write)`; returns whether it is news. When the session is closing already it isn't:
    /// writes have failed, so FIN would pass what was cut off as whole.
    pub(crate) fn finish(&mut self) -> bool {
        self.ending.is_none() && self.state.on(Event::Finish)
    }

    /// `shutdown(Read)`: what is buffered and what comes counts as consumed.
    pub(crate) fn shut_read(&mut self) -> Discarded<C> {
        self.read_shut = true;
        self.state.on(Event::ShutRead);
        let n = self.inbox.len();
        self.rx.consume(n, 0);
        self.discard(true, false)
    }

    /// Throws away what was received, or what was accepted, or both.
    fn discard(&mut self, received: bool, accepted: bool) -> Discarded<C> {
        let (chunks, lent) =
            if received { (self.inbox.clear(), self.inbox.recall()) } else { Default::default() };
        let payloads = if accepted { self.outbox.clear() } else { VecDeque::new() };
        Discarded { _chunks: chunks, _lent: lent, _payloads: payloads }
    }

    /// The application closed the stream: FIN follows what was accepted, unread data is thrown
    /// away.
    pub(crate) fn close(&mut self) -> Option<Discarded<C>> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        if self.ending.is_none() {
            self.state.on(Event::Finish);
        }
        Some(self.discard(true, false))
    }

    /// Whether the application reads no more.
    pub(crate) fn is_read_shut(&self) -> bool {
        self.read_shut
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the stream is of no more use: closed here, and its FIN was handed over.
    pub(crate) fn can_forget(&self) -> bool {
        self.closed && self.state.sending == Sending::Finished
    }

    /// Whether the stream has ended for its application: closed, failed, or with its session.
    pub(crate) fn has_ended(&self) -> bool {
        self.closed || self.failure.is_some() || self.ending.is_some()
    }

    // ---- other endings --------------------------------------------------------------------------

    /// The stream fails alone: accepted and unsent data is thrown away, the peer gets FIN. With
    /// `discard_unread`, unread data is thrown away as well.
    pub(crate) fn fail(&mut self, error: Error, discard_unread: bool) -> Discarded<C> {
        self.failure.get_or_insert_with(|| Arc::new(error));
        self.state.on(Event::Finish);
        self.discard(discard_unread, true)
    }

    /// The session is closing: calls fail with `error`, what was accepted is still sent, and FIN
    /// only if the application finished already.
    pub(crate) fn detach(&mut self, error: &Arc<Error>) {
        self.ending.get_or_insert_with(|| Arc::clone(error));
    }

    /// The transport takes no more writes; reads go on.
    pub(crate) fn fail_write(&mut self, error: &Arc<Error>) {
        self.write_ending.get_or_insert_with(|| Arc::clone(error));
    }

    /// The session has ended: nothing is sent any more.
    pub(crate) fn end(&mut self, error: &Arc<Error>) -> Discarded<C> {
        self.ending.get_or_insert_with(|| Arc::clone(error));
        self.send_closed = true;
        self.discard(false, true)
    }
}

#[cfg(test)]
mod tests;

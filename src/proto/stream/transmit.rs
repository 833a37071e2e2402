//! A stream's turns at the writer: when it has to be queued, in which lane, and which frames it
//! sends when its turn comes.
//!
//! Invariants: a stream is queued in each lane at most once; frames leave in the order SYN, (UPD,
//! data)*, FIN, then UPD alone; after the session's end nothing leaves.

use super::{EXPRESS_BYTES, Lane, StreamCore, Transmit};
use crate::proto::state::{Event, Sending};

impl<C> StreamCore<C> {
    /// FIN is due when everything accepted is sent.
    #[inline]
    fn fin_due(&self) -> bool {
        self.state.sending == Sending::Finishing && self.outbox.is_empty() && !self.writing
    }

    /// UPD is of use while the application may read.
    #[inline]
    fn update_due(&self) -> bool {
        self.rx.is_due() && !self.closed
    }

    /// The lane in which the stream has to be queued now, if it has something to send and isn't
    /// queued for it; it counts as queued from here on. Call it after every change, until it says
    /// `None`.
    #[inline]
    pub(crate) fn schedule(&mut self) -> Option<Lane> {
        if self.send_closed {
            return None;
        }
        let data = self.outbox.len();
        let little = data > 0 && data <= EXPRESS_BYTES && !self.in_bulk;
        let express = self.syn_due || self.update_due() || self.fin_due() || little;
        if express && !self.in_express {
            self.in_express = true;
            return Some(Lane::Express);
        }
        if data > 0 && !self.in_bulk && !(little && self.in_express) {
            self.in_bulk = true;
            return Some(Lane::Bulk);
        }
        None
    }

    /// The stream's turn in `lane` begins: it isn't queued there any more.
    pub(crate) fn begin_transmit(&mut self, lane: Lane) {
        match lane {
            Lane::Express => self.in_express = false,
            Lane::Bulk => self.in_bulk = false,
        }
    }

    /// The next frame of a turn, of at most `allowance` bytes of data; `None` when nothing is left,
    /// or allowed.
    ///
    /// In the bulk lane a frame may exceed what is left of the allowance.
    pub(crate) fn poll_transmit(&mut self, lane: Lane, allowance: usize) -> Option<Transmit> {
        if self.send_closed {
            return None;
        }
        if std::mem::take(&mut self.syn_due) {
            return Some(Transmit::Syn);
        }
        if self.update_due()
            && let Some((consumed, window)) = self.rx.take_update()
        {
            return Some(Transmit::Update { consumed, window });
        }
        let fits = match lane {
            Lane::Express => self.outbox.front_len() <= allowance,
            Lane::Bulk => allowance > 0,
        };
        if fits && let Some(payload) = self.outbox.pop() {
            self.tx.transmit(payload.len());
            return Some(Transmit::Data(payload));
        }
        if self.fin_due() && self.state.on(Event::FinTaken) {
            return Some(Transmit::Fin);
        }
        None
    }

    /// `n` bytes of data, and FIN, were handed to the transport.
    pub(crate) fn mark_written(&mut self, n: usize, fin: bool) {
        self.written += n as u64;
        if fin {
            self.state.on(Event::FinWritten);
        }
    }
}

//! The sending of a stream: when it has to be queued for the writer, in which lane, and which
//! frames it then makes.
//!
//! Invariants:
//!
//! - A stream is queued in each lane at most once.
//! - Frames leave in the order SYN, (UPD, data)*, FIN, then UPDs alone.
//! - After the session's end no frame leaves.

use super::{EXPRESS_BYTES, Lane, StreamCore, Transmit};
use crate::proto::state::{Event, Sending};

impl<C> StreamCore<C> {
    /// Returns whether FIN is due: the application has finished, and all accepted data has been
    /// taken by the writer.
    #[inline]
    fn fin_due(&self) -> bool {
        self.state.sending == Sending::Finishing && self.outbox.is_empty() && !self.writing
    }

    /// Returns whether an UPD is due. A closed stream sends no UPD, because its application reads
    /// no more.
    #[inline]
    fn update_due(&self) -> bool {
        self.rx.is_due() && !self.closed
    }

    /// Returns a lane in which the caller has to queue the stream now. The stream has something to
    /// send in that lane and isn't queued in it yet. From this call on, the stream counts as queued
    /// in it.
    ///
    /// Call it after every change, until it returns `None`.
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

    /// Begins to send in `lane`: the writer has taken the stream out of this lane's queue.
    pub(crate) fn begin_transmit(&mut self, lane: Lane) {
        match lane {
            Lane::Express => self.in_express = false,
            Lane::Bulk => self.in_bulk = false,
        }
    }

    /// Returns the next frame to send in `lane`. Returns `None` when no frame is left, or when the
    /// quantum doesn't cover the next one.
    ///
    /// `quantum` is the number of bytes of data that the stream may still send now. In the express
    /// lane a frame has to fit into the quantum. In the bulk lane a frame may exceed the quantum,
    /// unless the quantum is 0.
    pub(crate) fn poll_transmit(&mut self, lane: Lane, quantum: usize) -> Option<Transmit> {
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
            Lane::Express => self.outbox.front_len() <= quantum,
            Lane::Bulk => quantum > 0,
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

    /// Records that `n` bytes of data were written to the transport, and FIN too if `fin` is set.
    pub(crate) fn mark_written(&mut self, n: usize, fin: bool) {
        self.written += n as u64;
        if fin {
            self.state.on(Event::FinWritten);
        }
    }
}

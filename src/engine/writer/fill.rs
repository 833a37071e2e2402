//! Fills the writer's batch.
//!
//! The order is:
//! 1. NOP and the FINs of refused streams
//! 2. express streams: those that owe control frames or little data. Steps 1 and 2 together take
//!    about half of a batch at most
//! 3. bulk streams, round-robin. A stream that has more data than its quantum goes to the end of
//!    the bulk queue
//!
//! Invariant: a stream makes its frames when it is taken from the queue, not before. So a window
//! update is never stale, and a FIN never overtakes data.

use std::sync::Arc;

use super::{Sent, Writer};
use crate::engine::SessionShared;
use crate::engine::logging::{is_tracing, trace};
use crate::proto::stream::{EXPRESS_BYTES, Lane, Transmit};
use crate::sync::shaper::Signal;
use crate::sync::stream::SharedStream;
use crate::wire::writer::{BATCH_BYTES, BATCH_SEGMENTS};
use crate::wire::{Command, Header, UPDATE_LEN, encode_update};

/// Number of streams with data or a FIN at which a batch takes no further express stream. So
/// `Writer::sent` stays small when each stream brings only a few bytes.
const MAX_TRANSMITS: usize = 1024;

impl Writer {
    /// Fills the batch.
    pub(super) fn fill(&mut self, session: &SessionShared) {
        self.fill_small(session, BATCH_BYTES / 2);
        while !self.batch.is_full()
            && let Some(stream) = self.queue.next_bulk()
        {
            let quantum = self.quantum.bytes(self.queue.bulk_len() + 1);
            self.transmit(session, stream, Lane::Bulk, quantum);
        }
    }

    /// Fills the batch with control frames and express streams, until it has `bytes` bytes. The
    /// last stream may add its control frames and its quantum of data to that.
    pub(super) fn fill_small(&mut self, session: &SessionShared, bytes: usize) {
        let version = session.env.config.version;
        let empty = |command, stream_id| Header { version, command, length: 0, stream_id };
        let mut frames = 0;
        if session.env.shaper.take_signal(Signal::Ping) {
            frames += 1;
            self.push_empty(session, empty(Command::Nop, 0));
        }
        while !self.has_small(bytes)
            && let Some(id) = session.env.shaper.take_refusal()
        {
            frames += 1;
            self.push_empty(session, empty(Command::Fin, id));
        }
        self.frames += frames;
        while !self.has_small(bytes)
            && let Some(stream) = self.queue.next_express()
        {
            self.transmit(session, stream, Lane::Express, EXPRESS_BYTES);
        }
    }

    /// Returns whether the batch takes no more control frames and express streams. This is so once
    /// the batch has `bytes` bytes, half of its segments, or [`MAX_TRANSMITS`] streams.
    fn has_small(&self, bytes: usize) -> bool {
        self.batch.len() >= bytes
            || self.batch.segments() >= BATCH_SEGMENTS / 2
            || self.sent.len() >= MAX_TRANSMITS
    }

    /// Appends a frame without a payload.
    fn push_empty(&mut self, session: &SessionShared, header: Header) {
        trace!(target: "gmux::writer", "session {}: {header}", session.number);
        self.batch.push_small(header, &[]);
    }

    /// Takes up to `quantum` bytes of data from `stream`, with the control frames that it owes,
    /// and appends them to the batch.
    fn transmit(
        &mut self,
        session: &SessionShared,
        stream: Arc<SharedStream>,
        lane: Lane,
        quantum: usize,
    ) {
        let version = session.env.config.version;
        let id = stream.id;
        let header = |command, length: usize| Header {
            version,
            command,
            // Names and payloads are at most 65,535 bytes.
            length: u16::try_from(length).unwrap_or(u16::MAX),
            stream_id: id,
        };
        let batch = &mut self.batch;
        let traced = &mut self.traced;
        let mut frames = 0;
        let tracing = is_tracing();
        let transmitted = stream.transmit(&session.env, lane, quantum, |frame| {
            frames += 1;
            let header = match &frame {
                Transmit::Syn => header(Command::Syn, stream.name.bytes().len()),
                Transmit::Update { .. } => header(Command::Upd, UPDATE_LEN),
                Transmit::Data(payload) => header(Command::Psh, payload.len()),
                Transmit::Fin => header(Command::Fin, 0),
            };
            if tracing {
                traced.push(header);
            }
            match frame {
                Transmit::Syn => batch.push_small(header, stream.name.bytes()),
                Transmit::Update { consumed, window } => {
                    batch.push_small(header, &encode_update(consumed, window))
                }
                Transmit::Data(payload) => batch.push_frame(header, payload.into_buffer()),
                Transmit::Fin => batch.push_small(header, &[]),
            }
        });
        self.frames += frames;
        for header in self.traced.drain(..) {
            trace!(target: "gmux::writer", "session {}: {header}", session.number);
        }
        if transmitted.again {
            self.queue.requeue(Arc::clone(&stream));
        }
        if transmitted.wake_blocked_write {
            stream.wake_blocked_write();
        }
        if transmitted.data > 0 || transmitted.fin {
            self.sent.push(Sent { stream, data: transmitted.data, fin: transmitted.fin });
        }
    }
}

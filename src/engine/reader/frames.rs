//! Dispatches frames: decides where a frame's payload goes, and acts on the complete frame.
//!
//! A payload of up to [`SMALL_PAYLOAD_MAX`](crate::wire::reader::SMALL_PAYLOAD_MAX) bytes is small,
//! and is taken from the read buffer. A larger one is collected in a buffer of its own.
//!
//! Invariant: while a large payload is being collected, `pending` holds its destination.

use std::sync::Arc;

use super::{Pending, Reader};
use crate::engine::logging::trace;
use crate::error::Result;
use crate::proto::chunks::Chunk;
use crate::sync::stream::SharedStream;
use crate::wire::reader::PayloadBuffer;
use crate::wire::{Command, Header, decode_update};

impl Reader<'_> {
    /// Handles a header: checks it, counts the frame, and decides where the payload goes.
    pub(super) fn header(&mut self, header: Header) -> Result<()> {
        header.check()?;
        trace!(target: "gmux::reader", "session {}: {header}", self.session.number);
        self.session.counters.frames_received.add(1);
        let length = usize::from(header.length);
        match header.command {
            Command::Syn => self.syn(header, length)?,
            Command::Psh if length == 0 => {}
            Command::Psh => self.data(header, length),
            Command::Upd => self.input.frames.take_buffered(),
            Command::Fin => match self.find(header.stream_id) {
                Some(stream) if stream.peer_fin(self.input.now) => {}
                Some(_) => self.session.counters.frames_ignored.add(1),
                None => self.stray(header.stream_id),
            },
            Command::Nop => {}
        }
        Ok(())
    }

    /// Handles a frame whose small payload lies in the read buffer.
    pub(super) fn small_payload(&mut self, header: Header) -> Result<()> {
        match header.command {
            Command::Psh => self.small(header),
            Command::Upd => {
                let Some(stream) = self.find(header.stream_id) else {
                    self.stray(header.stream_id);
                    return Ok(());
                };
                if let Some(update) = decode_update(self.input.frames.payload())
                    && let Err(error) = stream.update(
                        &self.session.env,
                        update,
                        self.input.now,
                        &mut self.input.wakes,
                    )
                {
                    self.fail(&stream, error);
                }
            }
            Command::Syn => {
                let name = self.input.frames.payload().to_vec();
                return self.open(header, &name);
            }
            Command::Fin | Command::Nop => {}
        }
        Ok(())
    }

    /// Handles a frame whose large payload is complete.
    pub(super) fn large_payload(&mut self, header: Header, payload: PayloadBuffer) -> Result<()> {
        let start = payload.start;
        let len = usize::from(header.length);
        match self.input.pending.take() {
            Some(Pending::Data(stream, charge)) => {
                self.count_data(len);
                let chunk = Chunk::new(payload.buffer, start, len, charge);
                stream.deliver(&self.session.env, chunk, self.input.now, &mut self.input.wakes);
                Ok(())
            }
            Some(Pending::Name) => self.open(header, &payload.buffer[start..start + len]),
            None => Ok(()),
        }
    }

    /// Returns the stream with this id, if the registry has one.
    pub(super) fn find(&self, id: u32) -> Option<Arc<SharedStream>> {
        self.session.registry.lock().streams.find(id).cloned()
    }

    /// Counts `n` bytes of stream data, and restarts the session's no-data clock.
    pub(super) fn count_data(&self, n: usize) {
        self.session.counters.bytes_received.add(n as u64);
        self.session.clock.payload(self.input.now);
    }
}

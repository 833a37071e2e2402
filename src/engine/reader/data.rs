//! Delivers data frames.
//!
//! For a large payload the order is: ask the stream, charge the budget, read the payload into its
//! buffer, deliver it. A small payload has been read already. It is merged into the stream's last
//! chunk, as far as that chunk has room. The rest gets a new chunk.
//!
//! Invariant: delivered bytes lie in a buffer that was charged to the budget before they were
//! copied or read into it.

use std::sync::Arc;

use super::{Pending, Reader, SMALL_PAYLOAD_MAX};
use crate::proto::chunks::{Chunk, charge_for};
use crate::proto::stream::Received;
use crate::sync::budget::Charge;
use crate::sync::pause::Cause;
use crate::sync::stream::Small;
use crate::wire::Header;

impl Reader<'_> {
    /// Handles the header of a PSH. A small payload is delivered once it lies in the read buffer.
    /// For a large payload, this function asks the stream and charges the budget, so it may block.
    pub(super) fn data(&mut self, header: Header, length: usize) {
        if length <= SMALL_PAYLOAD_MAX {
            self.input.frames.take_buffered();
            return;
        }
        let Some(stream) = self.find(header.stream_id) else {
            self.input.frames.skip();
            return self.unknown(header.stream_id);
        };
        match stream.admit(&self.session.env, length) {
            Ok(Received::Queue) => {
                // Without a charge the session is closing or has ended. Then the payload stays
                // uncollected, and the input is discarded.
                if let Some(payload) = self.input.frames.prepare(self.session.env.pool)
                    && let Some(charge) = self.charge(charge_for(&payload.buffer))
                {
                    self.input.pending = Some(Pending::Data(stream, charge));
                    self.input.frames.collect(payload);
                    // The first part may have come with the header.
                    self.touch_pending();
                }
            }
            Ok(Received::Discard) => {
                self.count_data(length);
                self.input.frames.skip();
            }
            Ok(Received::Late) => {
                self.count_data(length);
                self.late(&stream);
                self.input.frames.skip();
            }
            Err(error) => {
                self.fail(&stream, error);
                self.input.frames.skip();
            }
        }
    }

    /// Delivers a small payload, which lies in the read buffer. Blocks if the budget is used up.
    pub(super) fn small(&mut self, header: Header) {
        let Some(stream) = self.find(header.stream_id) else {
            return self.unknown(header.stream_id);
        };
        let env = &self.session.env;
        let now = self.input.now;
        self.count_data(usize::from(header.length));
        match stream.deliver_small(env, self.input.frames.payload(), now, &mut self.input.wakes) {
            Ok(Small::Done) => {}
            Ok(Small::Late) => self.late(&stream),
            Ok(Small::Needs { merged, size }) => {
                if let Some(mut buffer) = env.pool.get(size)
                    && let Some(charge) = self.charge(charge_for(&buffer))
                {
                    let rest = &self.input.frames.payload()[merged..];
                    buffer[..rest.len()].copy_from_slice(rest);
                    let chunk = Chunk::new(buffer, 0, rest.len(), charge);
                    stream.deliver(env, chunk, now, &mut self.input.wakes);
                }
            }
            Err(error) => self.fail(&stream, error),
        }
    }

    /// Charges the budget for `amount` bytes, and blocks until they fit. Returns `None` when the
    /// session is closing or has ended.
    fn charge(&mut self, amount: usize) -> Option<Charge> {
        let budget = &self.session.env.budget;
        if let Some(charge) = budget.try_take(amount) {
            return Some(charge);
        }
        let budget = Arc::clone(budget);
        self.pause(Cause::Budget, |until| budget.take(amount, until))
    }
}

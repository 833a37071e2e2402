//! How the reader thread takes data in: the stream is asked, then the budget, then the payload goes
//! where it belongs.
//!
//! Invariant: what is delivered was charged for before it was read, or merged into what is charged.

use std::sync::Arc;

use super::{INLINE_MAX, Pending, Reader};
use crate::proto::chunks::{Chunk, charge_for};
use crate::proto::stream::Received;
use crate::sync::budget::Charge;
use crate::sync::pause::Cause;
use crate::sync::stream::Small;
use crate::wire::Header;

impl Reader<'_> {
    /// A PSH header came. Small payloads are delivered when they lie in the window; for a large one
    /// the stream is asked now, and the budget, before the rest is read.
    pub(super) fn data(&mut self, header: Header, length: usize) {
        if length <= INLINE_MAX {
            self.input.frames.inline();
            return;
        }
        let Some(stream) = self.find(header.stream_id) else {
            self.input.frames.skip();
            return self.unknown(header.stream_id);
        };
        match stream.admit(&self.session.env, length) {
            Ok(Received::Queue) => {
                // Where there is no charge the session is closing, or has ended: what comes is of
                // no interest any more.
                if let Some(payload) = self.input.frames.prepare(self.session.env.pool)
                    && let Some(charge) = self.charge(charge_for(&payload.buffer))
                {
                    self.input.pending = Some(Pending::Data(stream, charge));
                    self.input.frames.collect(payload);
                    self.touch_pending(); // the first part may have come with the header
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

    /// A small PSH payload lies in the window.
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

    /// Charges the budget for what a payload will occupy: here the reader waits if that is used up.
    /// `None` when the session is closing or has ended.
    fn charge(&mut self, amount: usize) -> Option<Charge> {
        let budget = &self.session.env.budget;
        if let Some(charge) = budget.try_take(amount) {
            return Some(charge);
        }
        let budget = Arc::clone(budget);
        self.pause(Cause::Budget, |until| budget.take(amount, until))
    }
}

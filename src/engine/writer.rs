//! The writer thread: takes streams' turns, lays their frames out, and hands them to the transport.
//!
//! A batch is filled in this order: refusals and NOP, the express lane (with those at most half of the batch), the
//! bulk lane round-robin. Then: wake the writers for whom there is room; write; tell the streams. When nothing is left, flush, then
//! finish if that was ordered, or park.
//!
//! Invariants: nothing is locked across a write; wake-ups are sent before it; a frame is written whole before the next begins, whatever
//! the transport takes at a time.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::trace;

use super::Core;
use crate::error::{Error, Result};
use crate::proto::stream::{EXPRESS_BYTES, Lane, Transmit};
use crate::sync::cell::StreamCell;
use crate::sync::close::Phase;
use crate::sync::shaper::{Order, Queue};
use crate::wire::writer::{BATCH_BYTES, BATCH_SEGMENTS, Batch};
use crate::wire::{Command, Header, encode_update};

/// How much a stream may send in one turn of the bulk lane, in bytes: one default frame, or as many smaller ones.
const QUANTUM: usize = 32 * 1024;

/// How long the writer sleeps when the transport says `WouldBlock` at once: a transport that does that ought not to be non-blocking.
const BACK_OFF: Duration = Duration::from_millis(1);

/// Runs until the session's writes are over; then the write half is dropped.
pub(super) fn run(core: &Arc<Core>, transport: Box<dyn Write + Send>, queue: Queue) {
    let result = catch_unwind(AssertUnwindSafe(move || {
        let mut writer = Writer { core, transport, queue, batch: Batch::default(), sent: Vec::new(), flushed: true };
        writer.run()
    }));
    let result = result.unwrap_or_else(|panic| Err(super::reader::panicked(&*panic)));
    if let Err(error) = &result {
        core.fail_write(error.clone());
    }
    // A session that has ended meanwhile says so itself.
    if result.is_ok() || !core.lifecycle.is_in(Phase::Ended) {
        core.lifecycle.writer_done(result);
    }
}

/// What a turn put into the batch, to be told to its stream when it is written.
struct Sent {
    cell: Arc<StreamCell>,
    data: usize,
    fin: bool,
}

struct Writer<'a> {
    core: &'a Arc<Core>,
    transport: Box<dyn Write + Send>,
    queue: Queue,
    batch: Batch,
    sent: Vec<Sent>,
    /// Whether the transport's `flush` was called since the last write.
    flushed: bool,
}

impl Writer<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            let shaper = &self.core.env.shaper;
            if shaper.has(Order::Stop) {
                return Err(self.core.lifecycle.cause().map_or(Error::Closed, |cause| Error::clone(&cause)));
            }
            // Looked at before the queues: what was accepted before the order is in them by now.
            let finish = shaper.has(Order::Finish);
            self.fill();
            if !self.batch.is_empty() {
                self.send()?;
            } else if !self.flushed {
                self.flush()?;
            } else if finish {
                return self.finish();
            } else {
                self.queue.park(shaper);
            }
        }
    }

    /// Fills the batch with what waits.
    fn fill(&mut self) {
        let version = self.core.env.config.version;
        let empty = |command, stream_id| Header { version, command, length: 0, stream_id };
        let mut frames = 0;
        if self.core.env.shaper.take_ping() {
            self.batch.push_small(empty(Command::Nop, 0), &[]);
            frames += 1;
        }
        while !self.is_half_full()
            && let Some(id) = self.core.env.shaper.take_refusal()
        {
            self.batch.push_small(empty(Command::Fin, id), &[]);
            frames += 1;
        }
        self.core.counters.frames_sent.add(frames);
        while !self.is_half_full()
            && let Some(cell) = self.queue.next_express()
        {
            self.turn(cell, Lane::Express, EXPRESS_BYTES);
        }
        while !self.batch.is_full()
            && let Some(cell) = self.queue.next_bulk()
        {
            self.turn(cell, Lane::Bulk, QUANTUM);
        }
    }

    /// Whether control frames and the express lane have had their share.
    fn is_half_full(&self) -> bool {
        self.batch.len() >= BATCH_BYTES / 2
            || self.batch.segments() >= BATCH_SEGMENTS / 2
            || self.sent.len() >= MAX_TURNS
    }

    fn turn(&mut self, cell: Arc<StreamCell>, lane: Lane, allowance: usize) {
        let (version, id) = (self.core.env.config.version, cell.id);
        let header = |command, length: usize| Header {
            version,
            command,
            length: u16::try_from(length).unwrap_or(u16::MAX), // names and frames are at most 65535 bytes
            stream_id: id,
        };
        let (batch, mut frames) = (&mut self.batch, 0);
        let turn = cell.take_turn(&self.core.env, lane, allowance, |frame| {
            frames += 1;
            match frame {
                Transmit::Syn => batch.push_small(header(Command::Syn, cell.name.bytes().len()), cell.name.bytes()),
                Transmit::Update { consumed, window } => {
                    let payload = encode_update(consumed, window);
                    batch.push_small(header(Command::Upd, payload.len()), &payload);
                }
                Transmit::Data(payload) => batch.push_frame(header(Command::Psh, payload.len()), payload.into_buffer()),
                Transmit::Fin => batch.push_small(header(Command::Fin, 0), &[]),
            }
        });
        self.core.counters.frames_sent.add(frames);
        if turn.again {
            self.queue.again(Arc::clone(&cell));
        }
        if turn.wake_writer {
            cell.wake_writer();
        }
        if turn.data > 0 || turn.fin {
            self.sent.push(Sent { cell, data: turn.data, fin: turn.fin });
        }
    }

    /// Writes the batch, and tells the streams.
    fn send(&mut self) -> Result<()> {
        trace!(target: "gmux::writer", "session {}: {} bytes to write", self.core.number, self.batch.len());
        self.flushed = false;
        while !self.batch.is_empty() {
            let started = Instant::now();
            match self.batch.write_to(&mut self.transport) {
                Ok(_) => {}
                Err(error) => self.retry(error, started)?,
            }
        }
        let now = Instant::now();
        let mut data = 0;
        for Sent { cell, data: n, fin } in self.sent.drain(..) {
            data += n as u64;
            if cell.hand_over(n, fin, now) {
                self.core.forget(cell.id);
            }
        }
        if data > 0 {
            self.core.counters.bytes_sent.add(data);
            self.core.clock.payload(now);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        loop {
            let started = Instant::now();
            match self.transport.flush() {
                Ok(()) => break,
                Err(error) => self.retry(error, started)?,
            }
        }
        self.flushed = true;
        Ok(())
    }

    /// Decides whether a failed call is to be tried again.
    fn retry(&self, error: io::Error, started: Instant) -> Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                if started.elapsed() < BACK_OFF {
                    std::thread::sleep(BACK_OFF);
                }
            }
            _ => return Err(error.into()),
        }
        if self.core.lifecycle.is_in(Phase::Ended) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Everything is sent: ends the writing direction.
    fn finish(&mut self) -> Result<()> {
        let control = self.core.control.lock().clone();
        match control {
            Some(control) => control.finish_write().map_err(Error::from),
            None => Ok(()),
        }
    }
}

/// A batch takes so many express turns at most, whatever little they bring.
const MAX_TURNS: usize = 1024;

//! The writer thread: takes streams' turns, lays their frames out, and hands them to the transport.
//!
//! A batch is filled in this order: refusals and NOP, the express lane (with those at most half of
//! the batch), the bulk lane round-robin. Then: wake the writers for whom there is room; write;
//! tell the streams. When nothing is left, flush (also when the transport asked for that), then
//! finish if that was ordered, or park. A caller may do all this, once and in small, if the writer
//! is idle: see [`write_inline`].
//!
//! Invariants: nothing but the writer itself is locked across a write; wake-ups are sent before it;
//! a frame is written whole before the next begins, whatever the transport takes at a time.

mod fill;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::SessionShared;
use super::guard::{UserObject, guarded};
use super::logging::trace;
use super::quantum::Quantum;
use super::write_bound::{WriteBound, is_retryable};
use crate::error::{Error, Result};
use crate::sync::close::Phase;
use crate::sync::shaper::{Parker, Queue, Signal};
use crate::sync::stream::SharedStream;
use crate::wire::Header;
use crate::wire::writer::Batch;

/// How much a caller takes on in its turn, in bytes, and an express turn: little enough that a
/// system takes it in one piece, or says at once that it can't.
const INLINE_WRITE_MAX: usize = 16 * 1024;

/// How long the writer has to be idle to give back what a burst needed: then the next one isn't
/// about to come, and a busy session doesn't allocate.
const REST_AFTER: Duration = Duration::from_millis(100);

/// How many turns' places an idle writer keeps.
const KEPT_TRANSMITS: usize = 64;

/// The writer's own state: held by the writer thread while it works, and by a caller during its
/// turn.
pub(super) struct Writer {
    transport: UserObject<Box<dyn Write + Send>>,
    write_bound: WriteBound,
    queue: Queue,
    batch: Batch,
    sent: Vec<Sent>,
    /// A turn's frames, to be logged when its stream is unlocked: none unless that is wanted.
    traced: Vec<Header>,
    /// Frames in the batch.
    frames: u64,
    quantum: Quantum,
    /// Whether the transport's `flush` was called since the last write.
    flushed: bool,
    /// The error of a failed inline write.
    failed: Option<Error>,
    /// The batch's data was counted as lost: it comes after the peer's end, or not at all.
    late: bool,
}

/// What a turn put into the batch, to be told to its stream when it is written.
struct Sent {
    stream: Arc<SharedStream>,
    data: usize,
    fin: bool,
}

/// Where the writer is, until its work is over.
pub(super) type Slot = Mutex<Option<Writer>>;

/// What the log says of a panic while it is written.
const WRITING: &str = "the transport panicked while it was written, flushed or finished";

/// Runs until the session's writes are over; then the write half is dropped.
pub(super) fn run(session: &Arc<SessionShared>, parker: &Parker) {
    loop {
        let mut slot = session.writer.lock();
        let Some(writer) = slot.as_mut() else { return };
        match guarded(session.number, WRITING, || writer.work(session)) {
            Ok(WriterOutcome::Idle) => {
                let limit = writer.is_heavy().then_some(REST_AFTER);
                drop(slot);
                if !parker.park(&session.env.shaper, limit)
                    && let Some(writer) = session.writer.lock().as_mut()
                {
                    writer.rest();
                }
            }
            Ok(WriterOutcome::Finished) => return conclude(session, slot, Ok(())),
            Err(error) => return conclude(session, slot, Err(error)),
        }
    }
}

/// Writes inline: does what the writer thread would have to be woken for, on the calling
/// thread, if the writer is idle. Never waits for a lock; waits for the transport only as long as
/// that bounds its writes. Returns whether the work that the caller has queued is seen to.
pub(super) fn write_inline(session: &Arc<SessionShared>) -> bool {
    let Some(mut slot) = session.writer.try_lock() else { return false };
    let Some(writer) = slot.as_mut() else { return true };
    match guarded(session.number, WRITING, || writer.write_one_batch(session)) {
        Ok(InlineOutcome::Complete) => return true,
        Ok(InlineOutcome::Incomplete) => {}
        Err(error) => writer.failed = Some(error),
    }
    drop(slot);
    session.env.shaper.signal(Signal::Resume);
    true
}

/// The writer's work is over, well or not. Only the writer thread says so.
fn conclude(
    session: &Arc<SessionShared>,
    mut slot: MutexGuard<'_, Option<Writer>>,
    result: Result<()>,
) {
    let mut writer = slot.take();
    drop(slot);
    session.clock.writer_ends();
    // Should the peer have ended meanwhile, nothing else says so.
    writer.iter_mut().for_each(|writer| writer.lose(session, result.is_err()));
    // The write half may panic here, too; what follows has to be done all the same.
    let released = writer.map_or(Ok(()), |writer| writer.transport.release());
    let result = released.and(result.map_err(|error| session.judge_failure(error)));
    if let Err(error) = &result {
        session.fail_write(error.clone());
    }
    session.lifecycle.writer_done(result.clone());
    if let (true, Err(error)) = (session.lifecycle.is_in(Phase::Closing), result) {
        session.end(error); // nothing more can be sent, so there is nothing to wait for
    }
}

/// How the writer thread's work ended.
enum WriterOutcome {
    /// Nothing is left to do: the thread parks.
    Idle,
    /// The session is closing, and everything is sent.
    Finished,
}

/// How an inline write ended.
enum InlineOutcome {
    /// Everything that was queued is written and flushed.
    Complete,
    /// The writer thread has to go on.
    Incomplete,
}

impl Writer {
    pub(super) fn new(
        transport: UserObject<Box<dyn Write + Send>>,
        write_bound: WriteBound,
        queue: Queue,
    ) -> Self {
        Self {
            transport,
            write_bound,
            queue,
            batch: Batch::default(),
            sent: Vec::new(),
            traced: Vec::new(),
            frames: 0,
            quantum: Quantum::new(Instant::now()),
            flushed: true,
            failed: None,
            late: false,
        }
    }

    /// Whether it keeps more memory than an idle session should.
    fn is_heavy(&self) -> bool {
        self.sent.capacity() > KEPT_TRANSMITS || self.batch.is_heavy() || self.queue.is_heavy()
    }

    /// Gives back what a burst needed.
    fn rest(&mut self) {
        self.sent.shrink_to(KEPT_TRANSMITS);
        self.batch.rest();
        self.queue.rest();
    }

    /// Works until nothing is left.
    fn work(&mut self, session: &Arc<SessionShared>) -> Result<WriterOutcome> {
        let shaper = &session.env.shaper;
        loop {
            if shaper.is_signalled(Signal::Stop) {
                return Err(session
                    .lifecycle
                    .cause()
                    .map_or(Error::Closed, |cause| Error::clone(&cause)));
            }
            // Looked at before the queues: what was accepted before the signal is in them by now.
            let finish = shaper.is_signalled(Signal::Finish);
            shaper.take_signal(Signal::Resume);
            self.flushed &= !shaper.take_signal(Signal::Flush);
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if self.batch.is_empty() {
                self.fill(session);
            }
            if !self.batch.is_empty() {
                self.send(session)?;
            } else if !self.flushed {
                self.flush(session)?;
            } else if finish {
                return self.finish(session).map(|()| WriterOutcome::Finished);
            } else {
                return Ok(WriterOutcome::Idle);
            }
        }
    }

    /// One write of what waits. What the transport doesn't take stays in the batch, and the writer
    /// thread goes on with it before any other frame.
    fn write_one_batch(&mut self, session: &Arc<SessionShared>) -> Result<InlineOutcome> {
        if !self.batch.is_empty()
            || !self.flushed
            || self.failed.is_some()
            || !self.write_bound.is_small()
        {
            return Ok(InlineOutcome::Incomplete);
        }
        self.fill_small(session, INLINE_WRITE_MAX);
        if self.batch.is_empty() {
            return Ok(if self.queue.has_ready() {
                InlineOutcome::Incomplete
            } else {
                InlineOutcome::Complete
            });
        }
        self.flushed = false;
        match self.write_once(session) {
            Ok(_) if self.batch.is_empty() => self.mark_written(session),
            Ok(_) => {
                self.touch(session);
                return Ok(InlineOutcome::Incomplete);
            }
            Err(error) if is_retryable(&error) => return Ok(InlineOutcome::Incomplete),
            Err(error) => return Err(error.into()),
        }
        match self.transport.get_mut().and_then(|output| output.flush()) {
            Ok(()) => self.flushed = true,
            Err(error) if is_retryable(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(if self.flushed && !self.queue.has_ready() {
            InlineOutcome::Complete
        } else {
            InlineOutcome::Incomplete
        })
    }

    /// Writes the batch, and tells the streams.
    fn send(&mut self, session: &SessionShared) -> Result<()> {
        trace!(target: "gmux::writer", "session {}: {} bytes to write", session.number, self.batch.len());
        self.flushed = false;
        session.clock.writer_enters();
        while !self.batch.is_empty() {
            let started = Instant::now();
            match self.write_once(session) {
                Ok(_) => {
                    self.write_bound.progressed();
                    self.touch(session);
                }
                Err(error) => self.write_bound.retry(session, error, started)?,
            }
        }
        session.clock.writer_leaves();
        self.mark_written(session);
        Ok(())
    }

    /// One write of the batch. What is written after the peer has ended its side comes too late.
    fn write_once(&mut self, session: &SessionShared) -> io::Result<usize> {
        self.lose(session, session.lifecycle.is_input_over());
        self.batch.write_to(self.transport.get_mut()?)
    }

    /// Counts the batch's data as lost, once, if it is.
    fn lose(&mut self, session: &SessionShared, lost: bool) {
        if lost && !std::mem::replace(&mut self.late, true) {
            session.lifecycle.too_late(self.sent.iter().map(|sent| sent.data as u64).sum());
        }
    }

    /// A part of the batch is with the transport: on a slow link the rest may take long, and that
    /// part is data crossing.
    fn touch(&self, session: &SessionShared) {
        // if it is whole, `mark_written` follows
        let now = Instant::now();
        let whole = self.batch.is_empty();
        for sent in self.sent.iter().filter(|sent| sent.data > 0 && !whole) {
            session.clock.payload(now);
            sent.stream.touch(now);
        }
    }

    /// Tells the streams that the batch is with the transport.
    fn mark_written(&mut self, session: &SessionShared) {
        let now = Instant::now();
        let data: usize = self.sent.iter().map(|sent| sent.data).sum();
        self.late = false;
        // Counted before anybody is woken who may look.
        session.counters.frames_sent.add(std::mem::take(&mut self.frames));
        session.counters.bytes_sent.add(data as u64);
        if data > 0 {
            session.clock.payload(now);
            self.quantum.record(data, now);
        }
        for Sent { stream, data, fin } in self.sent.drain(..) {
            if stream.mark_written(data, fin, now) {
                session.forget(stream.id);
            }
        }
    }

    fn flush(&mut self, session: &SessionShared) -> Result<()> {
        session.clock.writer_enters();
        loop {
            let started = Instant::now();
            match self.transport.get_mut().and_then(|output| output.flush()) {
                Ok(()) => break,
                Err(error) => self.write_bound.retry(session, error, started)?,
            }
        }
        self.write_bound.progressed();
        session.clock.writer_leaves();
        self.flushed = true;
        Ok(())
    }

    /// Everything is sent: ends the writing direction.
    fn finish(&mut self, session: &SessionShared) -> Result<()> {
        let control = session.control.lock().clone();
        session.clock.writer_enters();
        match control {
            Some(control) => control.get()?.finish_write().map_err(Error::from),
            None => Ok(()),
        }
    }
}

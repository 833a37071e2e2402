//! The writer thread takes frames from streams, collects them in a batch, and writes the batch to
//! the transport.
//!
//! One round of the thread:
//!
//! 1. Fill the batch ([`fill`]). Each stream whose outbox has room again wakes its blocked write.
//! 2. Write the batch, with as many transport calls as it takes.
//! 3. Tell the streams that their data and FINs are written.
//! 4. If nothing is left to write: flush the transport, then end the output if
//!    [`Signal::Finish`] is set, else park.
//!
//! While the writer thread is parked, a thread that calls `write` may do a smaller round itself: a
//! batch of about [`INLINE_WRITE_MAX`] bytes, written by one transport call. This is an inline
//! write: see [`write_inline`].
//!
//! Invariants:
//! - The writer's own lock is the only one that is held while the transport is called.
//! - Blocked writes are woken before the transport is called.
//! - A frame is written completely before the next one begins, even if the transport takes only a
//!   part of it at a time.

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

/// Size at which an inline write stops filling its batch, in bytes. The last stream may add its
/// name and 2 KiB of data to that ([`EXPRESS_BYTES`](crate::proto::stream::EXPRESS_BYTES)). A
/// socket that has room takes 16 KiB in one piece. A full socket makes the caller wait for about 10
/// ms at most.
const INLINE_WRITE_MAX: usize = 16 * 1024;

/// Idle time after which the writer frees the memory that a burst needed. After 100 ms without
/// work, the burst counts as over. With a much shorter time, a busy session would free and allocate
/// the memory again and again.
const REST_AFTER: Duration = Duration::from_millis(100);

/// Capacity of `Writer::sent` that an idle writer keeps, in entries. 64 entries are 1.5 KiB.
const KEPT_TRANSMITS: usize = 64;

/// The writer's state. The writer thread locks it while it works. A caller locks it during an
/// inline write.
pub(super) struct Writer {
    transport: UserObject<Box<dyn Write + Send>>,
    write_bound: WriteBound,
    queue: Queue,
    batch: Batch,
    /// The streams that have data or a FIN in the batch.
    sent: Vec<Sent>,
    /// The headers that one stream has just emitted. They are logged after the stream is unlocked.
    /// The list is empty unless the log level is `trace`.
    traced: Vec<Header>,
    /// Number of frames in the batch.
    frames: u64,
    quantum: Quantum,
    /// Whether the transport's `flush` has succeeded since the last write.
    flushed: bool,
    /// The error of a failed inline write. The writer thread takes it and ends the writing.
    failed: Option<Error>,
    /// Whether the batch's data was counted as lost. Data counts as lost if it isn't written, or if
    /// it is written after the peer has ended its side.
    late: bool,
}

/// One stream's part of the batch. The stream is told when the batch is written.
struct Sent {
    stream: Arc<SharedStream>,
    /// Bytes of stream data.
    data: usize,
    /// Whether the stream's FIN is in the batch.
    fin: bool,
}

/// The lock that guards the writer's state. The state is `None` once the session's writing is over.
/// `manual/architecture.md` has the lock order.
pub(super) type Slot = Mutex<Option<Writer>>;

/// The log's text for a panic of the transport during a write, a flush or a finish.
const WRITING: &str = "the transport panicked while it was written, flushed or finished";

/// Runs the writer thread until the session's writing is over, then drops the write half.
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

/// Writes one batch on the calling thread, so that the writer thread needn't be woken.
///
/// Returns `false` if another thread holds the writer's lock. Then the caller has to unpark the
/// writer thread. Returns `true` in all other cases:
/// - The queued frames were written.
/// - The writer thread was signalled to write the rest.
/// - The session's writing was over already.
///
/// Never waits for a lock. Calls the transport's `write` and `flush` at most once each. The
/// transport bounds each of these calls to about 10 ms.
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

/// Ends the writing with `result`. Only the writer thread calls this.
fn conclude(
    session: &Arc<SessionShared>,
    mut slot: MutexGuard<'_, Option<Writer>>,
    result: Result<()>,
) {
    let mut writer = slot.take();
    drop(slot);
    session.clock.writer_ends();
    // If the writing failed, all data of the unfinished batch counts as lost. No other code counts
    // it.
    writer.iter_mut().for_each(|writer| writer.lose(session, result.is_err()));
    // The write half may panic in its drop. `release` turns such a panic into an error, so the rest
    // of this function still runs.
    let released = writer.map_or(Ok(()), |writer| writer.transport.release());
    let result = released.and(result.map_err(|error| session.judge_failure(error)));
    if let Err(error) = &result {
        session.fail_write(error.clone());
    }
    session.lifecycle.writer_done(result.clone());
    if let (true, Err(error)) = (session.lifecycle.is_in(Phase::Closing), result) {
        // Nothing more can be sent, so the close has nothing to wait for.
        session.end(error);
    }
}

/// Why [`Writer::work`] returned.
enum WriterOutcome {
    /// Nothing is left to do. The thread parks.
    Idle,
    /// Everything is sent, and the output has ended.
    Finished,
}

/// The result of an inline write.
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

    /// Returns whether the writer holds more memory than an idle session should.
    fn is_heavy(&self) -> bool {
        self.sent.capacity() > KEPT_TRANSMITS || self.batch.is_heavy() || self.queue.is_heavy()
    }

    /// Frees the memory that a burst needed.
    fn rest(&mut self) {
        self.sent.shrink_to(KEPT_TRANSMITS);
        self.batch.rest();
        self.queue.rest();
    }

    /// Writes until nothing is left to write, or until the output has ended.
    ///
    /// # Errors
    /// Returns one of these errors:
    ///
    /// - the error of a failed write, flush or `finish_write`
    /// - the error of an earlier inline write that failed
    /// - after [`Signal::Stop`]: the error that ended the session
    fn work(&mut self, session: &Arc<SessionShared>) -> Result<WriterOutcome> {
        let shaper = &session.env.shaper;
        loop {
            if shaper.is_signalled(Signal::Stop) {
                return Err(session
                    .lifecycle
                    .cause()
                    .map_or(Error::Closed, |cause| Error::clone(&cause)));
            }
            // The signal is read before the queues. If `Finish` is set, each stream that accepted
            // bytes before that is in a ready queue already. So the fill below finds them all.
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

    /// Fills one small batch and writes it with one transport call.
    ///
    /// Bytes that the transport doesn't take stay in the batch. The writer thread writes them
    /// before any other frame.
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

    /// Writes the whole batch, and tells the streams.
    fn send(&mut self, session: &SessionShared) -> Result<()> {
        trace!(
            target: "gmux::writer",
            "session {}: {} bytes to write",
            session.number, self.batch.len(),
        );
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

    /// Calls the transport's `write` once. If the peer has already ended its side, the batch's
    /// data is counted as lost, since the peer may never read it.
    fn write_once(&mut self, session: &SessionShared) -> io::Result<usize> {
        self.lose(session, session.lifecycle.is_input_over());
        self.batch.write_to(self.transport.get_mut()?)
    }

    /// Counts the batch's data as lost if `lost` is true. A batch is counted at most once.
    fn lose(&mut self, session: &SessionShared, lost: bool) {
        if lost && !std::mem::replace(&mut self.late, true) {
            session.lifecycle.too_late(self.sent.iter().map(|sent| sent.data as u64).sum());
        }
    }

    /// Restarts the no-data clocks of the session and of the batch's streams, if a part of the
    /// batch is written. On a slow link the rest may take long. The written part is a sign that
    /// data still crosses.
    fn touch(&self, session: &SessionShared) {
        // After a whole batch, `mark_written` restarts the clocks.
        let now = Instant::now();
        let whole = self.batch.is_empty();
        for sent in self.sent.iter().filter(|sent| sent.data > 0 && !whole) {
            session.clock.payload(now);
            sent.stream.touch(now);
        }
    }

    /// Counts the written batch, and tells the streams that it is written.
    fn mark_written(&mut self, session: &SessionShared) {
        let now = Instant::now();
        let data: usize = self.sent.iter().map(|sent| sent.data).sum();
        self.late = false;
        // The counters change first, since a call that is woken below may read them.
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

    /// Flushes the transport, retrying until that has succeeded.
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

    /// Ends the writing direction, after everything is sent.
    fn finish(&mut self, session: &SessionShared) -> Result<()> {
        let control = session.control.lock().clone();
        session.clock.writer_enters();
        match control {
            Some(control) => control.get()?.finish_write().map_err(Error::from),
            None => Ok(()),
        }
    }
}

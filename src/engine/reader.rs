//! The reader thread: reads frames and delivers them.
//!
//! It waits for the transport, and for what the application hasn't taken yet: data past the receive
//! budget, streams past the backlog (for `accept_stall_timeout` at most; [`pauses`]). And it stands
//! by while callers read in its place ([`inline`]), where it may wait for its input while a caller
//! has that, for two bounds at most. It never waits on one stream, the writer, or another lock that
//! is held across I/O. Before it waits, it sends the wake-ups that it has gathered.
//!
//! Invariants: `now` is read once per transport read; what a peer can provoke is logged at a
//! bounded rate.

mod data;
mod inline;
mod pauses;
mod streams;

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::guard::{UserObject, guarded};
use super::logging::trace;
use super::warn_limiter::WarnLimiter;
use super::write_bound::is_retryable;
use super::{SessionShared, UserControl};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::proto::chunks::Chunk;
use crate::sync::budget::Charge;
use crate::sync::close::Phase;
use crate::sync::shaper::Signal;
use crate::sync::stream::{SharedStream, Wakes};
use crate::transport::{Backoff, BoundReads};
use crate::wire::reader::{FrameReader, INLINE_MAX, PayloadBuffer, Step};
use crate::wire::{Command, Header, decode_update};

pub(super) use inline::read_inline;
use inline::{INLINE_READ_BOUND, RequestReplyDetector};

/// What the log says of a panic while it is read.
const READING: &str = "the transport panicked while it was read";

/// Where the input is, until it is over.
pub(super) type Slot = Mutex<Option<Input>>;

/// Runs until the session's input is over; then the read half is dropped.
pub(super) fn run(session: &Arc<SessionShared>) {
    loop {
        let mut slot = session.reader.lock();
        let Some(input) = slot.as_mut() else { return };
        let error = match guarded(session.number, READING, || Reader { session, input }.work()) {
            Ok(ReaderOutcome::HandOff) => {
                drop(slot);
                if !session.env.read_handoff.wait()
                    && let Some(input) = session.reader.lock().as_mut()
                {
                    input.detector.record_outcome(false);
                }
                continue;
            }
            Ok(ReaderOutcome::InputOver) => Error::PeerClosed,
            Err(error) => {
                let error = session.judge_failure(error);
                Reader { session, input }.deliver_what_came(&error).err().unwrap_or(error)
            }
        };
        let input = slot.take();
        drop(slot);
        if let Some(mut input) = input {
            input.wakes.send();
            input.warnings.report_suppressed(session.number);
            return session.end_of_input(input.release().err().unwrap_or(error));
        }
    }
}

/// The reader's own state: held by the reader thread while it works, and by a caller during its
/// turn.
pub(super) struct Input {
    transport: UserObject<Box<dyn Read + Send>>,
    /// Bounds the transport's reads, where that can be done.
    bound: Option<UserObject<BoundReads>>,
    /// Asked after each read. A reference of its own, since the session's lies behind a lock.
    control: Arc<UserControl>,
    frames: FrameReader,
    wakes: Wakes,
    /// When the last transport read returned.
    now: Instant,
    warnings: WarnLimiter,
    /// Where the payload that is being collected goes.
    pending: Option<Pending>,
    detector: RequestReplyDetector,
    /// The last stream that came filled the backlog: a caller looks again before it parses on.
    crowded: bool,
    /// How long a read may take now.
    bounded: Option<Duration>,
    /// The error of a failed inline read.
    failed: Option<Error>,
}

impl Input {
    pub(super) fn new(
        transport: UserObject<Box<dyn Read + Send>>,
        bound: Option<UserObject<BoundReads>>,
        control: Arc<UserControl>,
        config: &Config,
    ) -> Self {
        Self {
            transport,
            bound,
            control,
            frames: FrameReader::new(config.version, config.read_ahead_budget()),
            wakes: Wakes::default(),
            now: Instant::now(),
            warnings: WarnLimiter::default(),
            pending: None,
            detector: RequestReplyDetector::default(),
            crowded: false,
            bounded: None,
            failed: None,
        }
    }

    /// Drops it.
    ///
    /// # Errors
    /// The read half panicked in its drop.
    fn release(self) -> Result<()> {
        self.transport.release()
    }
}

struct Reader<'a> {
    session: &'a Arc<SessionShared>,
    input: &'a mut Input,
}

/// How far the reader thread got.
enum ReaderOutcome {
    /// The input is of no interest any more.
    InputOver,
    /// It leaves the next reads to a caller.
    HandOff,
}

/// Whether a failed read is a sign of life: an `Interrupted` that the transport has made itself,
/// since it took something that isn't whole yet. The system's own has a number.
fn has_taken_something(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted && error.raw_os_error().is_none()
}

enum Pending {
    Data(Arc<SharedStream>, Charge),
    Name,
}

impl Reader<'_> {
    /// Reads until the end of the input, or until a caller is likely to read next.
    ///
    /// # Errors
    /// What ends the session; a clean end is `PeerClosed`.
    fn work(&mut self) -> Result<ReaderOutcome> {
        if let Some(error) = self.input.failed.take() {
            return Err(error);
        }
        self.set_read_bound(None);
        loop {
            if self.session.lifecycle.is_in(Phase::Closing) {
                return self.discard().map(|()| ReaderOutcome::InputOver);
            }
            if self.session.lifecycle.is_in(Phase::Ended) {
                return Ok(ReaderOutcome::InputOver);
            }
            if self.step()? {
                continue;
            }
            let hand_off = self.should_hand_off();
            self.input.wakes.send();
            if hand_off && self.set_read_bound(Some(INLINE_READ_BOUND)) {
                self.session.env.read_handoff.offer();
                return Ok(ReaderOutcome::HandOff);
            }
            if self.fill()? == 0 {
                return Err(self.end_of_input());
            }
        }
    }

    /// Parses what was read, one step; returns whether there was a whole one.
    fn step(&mut self) -> Result<bool> {
        match self.input.frames.next().map_err(|error| self.with_peer(error))? {
            Step::NeedInput => return Ok(false),
            Step::Header(header) => self.header(header)?,
            Step::Inline(header) => self.inline(header)?,
            Step::Collected(header, payload) => self.collected(header, payload)?,
        }
        Ok(true)
    }

    /// Adds the peer's address to an error that has a place for it.
    fn with_peer(&self, error: Error) -> Error {
        match error {
            Error::InvalidVersion { ours, theirs, received, .. } => {
                Error::InvalidVersion { ours, theirs, peer: self.session.peer_addr, received }
            }
            other => other,
        }
    }

    /// Reads from the transport, as long as it takes.
    fn fill(&mut self) -> Result<usize> {
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            match self.fill_once() {
                Ok(n) => return Ok(n),
                Err(error) => self.retry(error, started, &mut backoff)?,
            }
        }
    }

    /// One read of the transport.
    fn fill_once(&mut self) -> io::Result<usize> {
        let read = self.input.frames.fill(self.input.transport.get_mut()?, self.session.env.pool);
        self.see_to_answers(&read)?;
        if read.as_ref().map_or_else(has_taken_something, |_| true) {
            self.input.now = Instant::now();
            self.session.clock.received(self.input.now);
            self.touch_pending();
        }
        read
    }

    /// Wakes the writer if the transport has answers of its own to send to what that read brought.
    /// The signal is a flag that a writer looks at before it parks, and a wake-up: see [`Shaper`].
    ///
    /// [`Shaper`]: crate::sync::shaper::Shaper
    fn see_to_answers(&self, read: &io::Result<usize>) -> io::Result<()> {
        let is_over = match read {
            Ok(n) => *n == 0,
            Err(error) => !is_retryable(error),
        };
        if !is_over && self.input.control.get()?.wants_flush() {
            self.session.env.shaper.signal(Signal::Flush);
        }
        Ok(())
    }

    /// On a slow link a large payload may be long in coming: its parts are data too.
    fn touch_pending(&self) {
        if let Some(Pending::Data(stream, _)) = &self.input.pending {
            self.session.clock.payload(self.input.now);
            stream.touch(self.input.now);
        }
    }

    /// Decides whether a failed read is to be tried again. A transport that says `WouldBlock` at
    /// once ought not to be non-blocking; it is asked again after a pause.
    fn retry(&mut self, error: io::Error, started: Instant, backoff: &mut Backoff) -> Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                if error.kind() != io::ErrorKind::Interrupted {
                    backoff.sleep(started);
                }
                self.input.now = Instant::now();
                if self.session.lifecycle.is_in(Phase::Ended) { Err(Error::Closed) } else { Ok(()) }
            }
            _ => Err(error.into()),
        }
    }

    /// The transport has ended.
    fn end_of_input(&self) -> Error {
        self.session.judge_eof(self.input.frames.inside_frame())
    }

    /// The input has ended inside a frame, for whatever reason of the transport's: what has come of
    /// the data is delivered.
    fn deliver_what_came(&mut self, error: &Error) -> Result<()> {
        let by_transport = error.is_end_of_input() || matches!(error, Error::Io(_));
        if by_transport
            && !self.session.lifecycle.is_closing_or_ended()
            && self.input.frames.cut_short()
        {
            self.step()?;
        }
        Ok(())
    }

    /// The session is closing: what comes is thrown away until the peer ends its side, so that no
    /// unread input makes the system reset the connection, which would purge what was sent.
    fn discard(&mut self) -> Result<()> {
        let mut waste = vec![0; 16 * 1024];
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            let read = self.input.transport.get_mut()?.read(&mut waste);
            self.see_to_answers(&read)?;
            match read {
                Ok(0) => return Ok(()),
                Ok(_) if self.session.lifecycle.is_in(Phase::Ended) => return Ok(()),
                Ok(_) => {
                    self.session.clock.received(Instant::now()); // it is life, whatever it says
                    backoff.reset();
                }
                Err(error) => {
                    if has_taken_something(&error) {
                        self.session.clock.received(Instant::now());
                    }
                    self.retry(error, started, &mut backoff)?;
                }
            }
        }
    }

    // ---- frames ---------------------------------------------------------------------------------

    /// A header came: checks it, and says where its payload goes.
    fn header(&mut self, header: Header) -> Result<()> {
        header.check()?;
        trace!(target: "gmux::reader", "session {}: {header}", self.session.number);
        self.session.counters.frames_received.add(1);
        let length = usize::from(header.length);
        match header.command {
            Command::Syn => self.syn(header, length)?,
            Command::Psh if length == 0 => {}
            Command::Psh => self.data(header, length),
            Command::Upd => self.input.frames.inline(),
            Command::Fin => match self.find(header.stream_id) {
                Some(stream) if stream.peer_fin(self.input.now) => {}
                Some(_) => self.session.counters.frames_ignored.add(1),
                None => self.stray(header.stream_id),
            },
            Command::Nop => {}
        }
        Ok(())
    }

    /// An inline payload is complete.
    fn inline(&mut self, header: Header) -> Result<()> {
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

    /// A large payload is complete.
    fn collected(&mut self, header: Header, payload: PayloadBuffer) -> Result<()> {
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

    fn find(&self, id: u32) -> Option<Arc<SharedStream>> {
        self.session.registry.lock().streams.find(id).cloned()
    }

    fn count_data(&self, n: usize) {
        self.session.counters.bytes_received.add(n as u64);
        self.session.clock.payload(self.input.now);
    }
}

//! The reader thread reads frames from the transport and delivers them to streams.
//!
//! It waits in four places, and in no other:
//!
//! - in a read of the transport
//! - between two reads of a transport that fails at once with `WouldBlock` ([`Backoff`])
//! - for the application ([`pauses`]): until data fits the receive budget, or until a stream fits
//!   the backlog (at most for `accept_stall_timeout`)
//! - while it has handed the reading off ([`inline`]): until callers no longer read in its place.
//!   After that, a last inline read may hold the lock of [`Input`], for at most twice
//!   [`INLINE_READ_BOUND`]
//!
//! It never waits for a single stream, nor for the writer. Before it waits, it sends the wake-ups
//! that it has collected.
//!
//! Invariants:
//! - Frames aren't timed one by one. All use `now` of [`Input`], which is set after each transport
//!   read and after each pause.
//! - Events that a peer can provoke are logged at a bounded rate.

mod data;
mod frames;
mod inline;
mod pauses;
mod streams;

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::guard::{UserObject, guarded};
use super::warn_limiter::WarnLimiter;
use super::write_bound::is_retryable;
use super::{SessionShared, UserControl};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sync::budget::Charge;
use crate::sync::close::Phase;
use crate::sync::shaper::Signal;
use crate::sync::stream::{SharedStream, Wakes};
use crate::transport::{Backoff, BoundReads};
use crate::wire::reader::{FrameReader, SMALL_PAYLOAD_MAX, Step};

pub(super) use inline::read_inline;
use inline::{INLINE_READ_BOUND, Outcome, RequestReplyDetector};

/// The log's text for a panic of the transport during a read.
const READING: &str = "the transport panicked while it was read";

/// The lock that guards the reader's state. The state is `None` once the input is over.
/// `manual/architecture.md` has the lock order.
pub(super) type Slot = Mutex<Option<Input>>;

/// Runs the reader thread until the session's input is over, then drops the read half.
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
                    input.detector.record_outcome(Outcome::Useless);
                }
                continue;
            }
            Ok(ReaderOutcome::InputOver) => Error::PeerClosed,
            Err(error) => {
                let error = session.judge_failure(error);
                Reader { session, input }.deliver_partial_frame(&error).err().unwrap_or(error)
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

/// The reader's state. The reader thread locks it while it works. A caller locks it during an
/// inline read.
pub(super) struct Input {
    transport: UserObject<Box<dyn Read + Send>>,
    /// The function that sets the time limit of the transport's reads. `None` if the transport
    /// can't limit them.
    bound: Option<UserObject<BoundReads>>,
    /// The transport's control. The reader asks it after each read whether the transport wants a
    /// flush. The session's own reference to the control lies behind a lock. This reference needs
    /// no lock.
    control: Arc<UserControl>,
    frames: FrameReader,
    /// Blocked calls that are to be woken for the data and updates of the last transport read.
    wakes: Wakes,
    /// Time at which the last transport read returned, or the last pause ended.
    now: Instant,
    warnings: WarnLimiter,
    /// Destination of the payload that is being collected.
    pending: Option<Pending>,
    detector: RequestReplyDetector,
    /// Whether the last new stream filled the backlog. Then an inline read asks the registry
    /// whether there is room again, before it parses a further frame.
    crowded: bool,
    /// The current time limit of a transport read.
    bounded: Option<Duration>,
    /// The error of a failed inline read. The reader thread takes it and reports it to the session.
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

    /// Drops the input.
    ///
    /// # Errors
    /// Returns an error if the read half panicked in its drop.
    fn release(self) -> Result<()> {
        self.transport.release()
    }
}

/// The reader at work, on the reader thread or during an inline read.
struct Reader<'a> {
    session: &'a Arc<SessionShared>,
    input: &'a mut Input,
}

/// Why [`Reader::work`] returned.
enum ReaderOutcome {
    /// The session is closing or has ended. The rest of its input was discarded or isn't read any
    /// more.
    InputOver,
    /// Callers do the next reads.
    HandOff,
}

/// Returns whether a failed read is a sign of life.
///
/// A transport such as TLS returns `Interrupted` if it took bytes that aren't a whole record yet.
/// The system's own `Interrupted` has an OS error number. It is no sign of life.
fn has_taken_something(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted && error.raw_os_error().is_none()
}

/// The destination of a large payload that is being collected.
enum Pending {
    /// Data for this stream, and the budget's charge for its buffer.
    Data(Arc<SharedStream>, Charge),
    /// The name of a new stream.
    Name,
}

impl Reader<'_> {
    /// Reads until the input is over, or until the reading is handed off to callers.
    ///
    /// # Errors
    /// Returns the error that ends the session. It is `PeerClosed` after a clean end of the input.
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

    /// Parses and handles the next header or payload of the bytes that were read. Returns `false`
    /// if more bytes must be read first.
    fn step(&mut self) -> Result<bool> {
        match self.input.frames.next().map_err(|error| self.with_peer(error))? {
            Step::NeedInput => return Ok(false),
            Step::Header(header) => self.header(header)?,
            Step::Buffered(header) => self.small_payload(header)?,
            Step::Collected(header, payload) => self.large_payload(header, payload)?,
        }
        Ok(true)
    }

    /// Adds the peer's address to an `InvalidVersion`. Returns other errors unchanged.
    fn with_peer(&self, error: Error) -> Error {
        match error {
            Error::InvalidVersion { ours, theirs, received, .. } => {
                Error::InvalidVersion { ours, theirs, peer: self.session.peer_addr, received }
            }
            other => other,
        }
    }

    /// Reads from the transport, and retries until some bytes or the end of the input have come.
    /// Returns the number of bytes, 0 at the end.
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

    /// Calls the transport's `read` once.
    fn fill_once(&mut self) -> io::Result<usize> {
        let read = self.input.frames.fill(self.input.transport.get_mut()?, self.session.env.pool);
        self.signal_flush_if_wanted(&read)?;
        if read.as_ref().map_or_else(has_taken_something, |_| true) {
            self.input.now = Instant::now();
            self.session.clock.received(self.input.now);
            self.touch_pending();
        }
        read
    }

    /// Signals a flush to the writer thread if the transport wants one after the read. A flush
    /// sends the transport's own answers, such as a WebSocket's pong.
    fn signal_flush_if_wanted(&self, read: &io::Result<usize>) -> io::Result<()> {
        let is_over = match read {
            Ok(n) => *n == 0,
            Err(error) => !is_retryable(error),
        };
        if !is_over && self.input.control.get()?.wants_flush() {
            self.session.env.shaper.signal(Signal::Flush);
        }
        Ok(())
    }

    /// Restarts the no-data clocks of the session and the stream, if a part of a large payload may
    /// have come. On a slow link a large payload takes long, and its parts count as data.
    fn touch_pending(&self) {
        if let Some(Pending::Data(stream, _)) = &self.input.pending {
            self.session.clock.payload(self.input.now);
            stream.touch(self.input.now);
        }
    }

    /// Decides whether a failed read is retried: `Ok` means yes. `started` is the time of the call.
    /// A transport that is non-blocking, although the rules forbid it, fails at once with
    /// `WouldBlock`. Then this function sleeps, so that the next read comes later.
    ///
    /// # Errors
    /// Returns the read's error if it is fatal, and `Closed` if the session has ended.
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

    /// Returns the session's error for an end of file of the transport.
    fn end_of_input(&self) -> Error {
        self.session.judge_eof(self.input.frames.inside_frame())
    }

    /// Delivers the received part of a frame, if the transport ended or failed inside that frame.
    fn deliver_partial_frame(&mut self, error: &Error) -> Result<()> {
        let by_transport = error.is_end_of_input() || matches!(error, Error::Io(_));
        if by_transport
            && !self.session.lifecycle.is_closing_or_ended()
            && self.input.frames.cut_short()
        {
            self.step()?;
        }
        Ok(())
    }

    /// Reads and discards the input of a closing session, until the peer ends its side. Unread
    /// input would make the system reset the connection, and a reset discards sent data that the
    /// peer hasn't read.
    fn discard(&mut self) -> Result<()> {
        let mut waste = vec![0; 16 * 1024];
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            let read = self.input.transport.get_mut()?.read(&mut waste);
            self.signal_flush_if_wanted(&read)?;
            match read {
                Ok(0) => return Ok(()),
                Ok(_) if self.session.lifecycle.is_in(Phase::Ended) => return Ok(()),
                Ok(_) => {
                    // Discarded input is a sign of life, too.
                    self.session.clock.received(Instant::now());
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
}

//! The reader thread: reads frames and delivers them.
//!
//! It waits for two things alone: the transport, and the receive budget. It never waits on a stream, the backlog, the writer, or
//! a lock that is held across I/O. Before it waits, it sends the wake-ups that it has gathered.
//!
//! Invariants: `now` is read once per transport read; what a peer can provoke is logged at a bounded rate.

use std::any::Any;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::trace;

use super::Core;
use super::complaints::Complaints;
use crate::error::{Error, Result};
use crate::pool::Buffer;
use crate::proto::chunks::{Chunk, charge_for};
use crate::proto::registry::{Admission, Refusal};
use crate::proto::stream::Received;
use crate::sync::budget::Charge;
use crate::sync::cell::{Name, Small, StreamCell, Wakes};
use crate::sync::close::Phase;
use crate::wire::reader::{FrameReader, INLINE_MAX, Step};
use crate::wire::{Command, Header, decode_update};

/// How long the reader sleeps when the transport says `WouldBlock` at once: a transport that does that ought not to be non-blocking.
const BACK_OFF: Duration = Duration::from_millis(1);

/// Runs until the session's input is over; then the read half is dropped.
pub(super) fn run(core: &Arc<Core>, transport: Box<dyn Read + Send>) {
    let result = catch_unwind(AssertUnwindSafe(move || {
        let mut reader = Reader {
            core,
            transport,
            frames: FrameReader::new(),
            wakes: Wakes::default(),
            now: Instant::now(),
            complaints: Complaints::default(),
            pending: None,
        };
        let result = reader.run();
        reader.wakes.send();
        result
    }));
    let error = result.unwrap_or_else(|panic| Err(panicked(&*panic))).err();
    core.end_of_input(error.unwrap_or(Error::PeerClosed));
}

/// What a panic inside the transport is to the session.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    io::Error::other(format!("the transport panicked: {}", text.unwrap_or("(no message)"))).into()
}

struct Reader<'a> {
    core: &'a Arc<Core>,
    transport: Box<dyn Read + Send>,
    frames: FrameReader,
    wakes: Wakes,
    /// When the last transport read returned.
    now: Instant,
    complaints: Complaints,
    /// Where the payload that is being collected goes.
    pending: Option<Pending>,
}

enum Pending {
    Data(Arc<StreamCell>, Charge),
    Name,
}

impl Reader<'_> {
    /// Reads until the end of the input.
    ///
    /// # Errors
    /// What ends the session; a clean end is `PeerClosed`.
    fn run(&mut self) -> Result<()> {
        loop {
            if self.core.lifecycle.is_in(Phase::Closing) {
                return self.discard();
            }
            if self.core.lifecycle.is_in(Phase::Ended) {
                return Ok(());
            }
            match self.frames.next()? {
                Step::NeedInput => {
                    self.wakes.send();
                    if self.fill()? == 0 {
                        return Err(self.end_of_input());
                    }
                }
                Step::Header(header) => self.header(header)?,
                Step::Inline(header) => self.inline(header)?,
                Step::Collected(header, buffer) => self.collected(header, buffer)?,
            }
        }
    }

    /// One read of the transport.
    fn fill(&mut self) -> Result<usize> {
        loop {
            let started = self.now;
            match self.frames.fill(&mut self.transport) {
                Ok(n) => {
                    self.now = Instant::now();
                    self.core.clock.received(self.now);
                    return Ok(n);
                }
                Err(error) => self.retry(error, started)?,
            }
        }
    }

    /// Decides whether a failed read is to be tried again.
    fn retry(&mut self, error: io::Error, started: Instant) -> Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                if started.elapsed() < BACK_OFF {
                    std::thread::sleep(BACK_OFF);
                }
                self.now = Instant::now();
                if self.core.lifecycle.is_in(Phase::Ended) { Err(Error::Closed) } else { Ok(()) }
            }
            _ => Err(error.into()),
        }
    }

    /// The transport has ended. That is clean between frames, with no stream cut off.
    fn end_of_input(&self) -> Error {
        if self.frames.inside_frame() {
            return Error::ConnectionLost("inside a frame");
        }
        let cells = self.core.registry.lock().streams.streams();
        if cells.iter().any(|cell| cell.is_cut_off_by_eof()) {
            return Error::ConnectionLost("while the peer had streams open");
        }
        Error::PeerClosed
    }

    /// The session is closing: what comes is thrown away until the peer ends its side, so that no unread input makes the system
    /// reset the connection, which would purge what was sent.
    fn discard(&mut self) -> Result<()> {
        let mut waste = vec![0; 16 * 1024];
        loop {
            let started = Instant::now();
            match self.transport.read(&mut waste) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => self.retry(error, started)?,
            }
        }
    }

    // ---- frames -------------------------------------------------------------------------------------------------

    /// A header came: checks it, and says where its payload goes.
    fn header(&mut self, header: Header) -> Result<()> {
        let ours = self.core.env.config.version;
        if header.version != ours {
            return Err(Error::InvalidVersion { ours, theirs: header.version, peer: self.core.peer_addr });
        }
        header.check()?;
        trace!(target: "gmux::reader", "session {}: {header}", self.core.number);
        self.core.counters.frames_received.add(1);
        let length = usize::from(header.length);
        match header.command {
            Command::Syn => self.syn(header, length)?,
            Command::Psh if length == 0 => {}
            Command::Psh => self.data(header, length),
            Command::Upd => self.frames.inline(),
            Command::Fin => match self.find(header.stream_id) {
                Some(cell) if cell.peer_fin(self.now) => {}
                _ => self.core.counters.frames_ignored.add(1),
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
                let Some(cell) = self.find(header.stream_id) else {
                    self.core.counters.frames_ignored.add(1);
                    return Ok(());
                };
                if let Some(update) = decode_update(self.frames.payload())
                    && let Err(error) = cell.update(&self.core.env, update, self.now, &mut self.wakes)
                {
                    self.fail(&cell, error);
                }
            }
            Command::Syn => {
                let name = self.frames.payload().to_vec();
                return self.open(header, &name);
            }
            Command::Fin | Command::Nop => {}
        }
        Ok(())
    }

    /// A large payload is complete.
    fn collected(&mut self, header: Header, buffer: Buffer) -> Result<()> {
        match self.pending.take() {
            Some(Pending::Data(cell, charge)) => {
                self.count_data(buffer.len());
                let len = buffer.len();
                cell.deliver(&self.core.env, Chunk::new(buffer, len, charge), self.now, &mut self.wakes);
                Ok(())
            }
            Some(Pending::Name) => self.open(header, &buffer),
            None => Ok(()),
        }
    }

    fn find(&self, id: u32) -> Option<Arc<StreamCell>> {
        self.core.registry.lock().streams.find(id).cloned()
    }

    fn count_data(&self, n: usize) {
        self.core.counters.bytes_received.add(n as u64);
        self.core.clock.payload(self.now);
    }

    // ---- data ---------------------------------------------------------------------------------------------------

    /// A PSH header came. Small payloads are delivered when they lie in the window; for a large one the stream is asked now, and
    /// the budget, before the rest is read.
    fn data(&mut self, header: Header, length: usize) {
        if length <= INLINE_MAX {
            self.frames.inline();
            return;
        }
        let Some(cell) = self.find(header.stream_id) else {
            self.core.counters.frames_ignored.add(1);
            self.frames.skip();
            return;
        };
        match cell.admit(&self.core.env, length) {
            Ok(Received::Queue) => {
                if let Some((buffer, charge)) = self.buffer(length) {
                    self.pending = Some(Pending::Data(cell, charge));
                    self.frames.collect(buffer);
                }
            }
            Ok(Received::Discard) => {
                self.count_data(length);
                self.frames.skip();
            }
            Ok(Received::Late) => {
                self.count_data(length);
                self.late(&cell);
                self.frames.skip();
            }
            Err(error) => {
                self.fail(&cell, error);
                self.frames.skip();
            }
        }
    }

    /// A small PSH payload lies in the window.
    fn small(&mut self, header: Header) {
        let Some(cell) = self.find(header.stream_id) else {
            self.core.counters.frames_ignored.add(1);
            return;
        };
        let (env, now) = (&self.core.env, self.now);
        self.count_data(usize::from(header.length));
        match cell.deliver_small(env, self.frames.payload(), now, &mut self.wakes) {
            Ok(Small::Done) => {}
            Ok(Small::Late) => self.late(&cell),
            Ok(Small::Needs { merged, size }) => {
                if let Some((mut buffer, charge)) = self.buffer(size) {
                    let rest = &self.frames.payload()[merged..];
                    buffer[..rest.len()].copy_from_slice(rest);
                    let chunk = Chunk::new(buffer, rest.len(), charge);
                    cell.deliver(env, chunk, now, &mut self.wakes);
                }
            }
            Err(error) => self.fail(&cell, error),
        }
    }

    /// A buffer of `size` bytes, charged to the budget: here the reader waits if that is used up. `None` when the session is closing
    /// or has ended.
    fn buffer(&mut self, size: usize) -> Option<(Buffer, Charge)> {
        let buffer = self.core.env.pool.get(size)?;
        let (budget, amount) = (&self.core.env.budget, charge_for(&buffer));
        if let Some(charge) = budget.try_take(amount) {
            return Some((buffer, charge));
        }
        drop(buffer); // the wait may be long
        self.wakes.send();
        let now = Instant::now();
        self.core.reader_pauses(now);
        let charge = budget.take(amount, now, || self.core.clock.received(Instant::now()))?;
        self.now = Instant::now();
        Some((self.core.env.pool.get(size)?, charge))
    }

    // ---- streams ------------------------------------------------------------------------------------------------

    /// A SYN header came; its payload is the name.
    fn syn(&mut self, header: Header, length: usize) -> Result<()> {
        let config = &self.core.env.config;
        if length > config.max_name_len {
            self.frames.skip();
            return self.admitted(header, Err(Refusal::NameTooLong)).map(drop);
        }
        match length {
            0 => return self.open(header, &[]),
            1..=INLINE_MAX => self.frames.inline(),
            _ => match self.core.env.pool.get(length) {
                Some(buffer) => {
                    self.pending = Some(Pending::Name);
                    self.frames.collect(buffer);
                }
                None => self.frames.skip(),
            },
        }
        Ok(())
    }

    /// A SYN is complete.
    fn open(&mut self, header: Header, name: &[u8]) -> Result<()> {
        let id = header.stream_id;
        if !self.admitted(header, Ok(name))? {
            return Ok(());
        }
        let names = &self.core.names;
        if names.used() + name.len() > names.limit() {
            return self.refuse(header, Some(name), Refusal::NamesTooMany);
        }
        let charged = Name::new(name, Some(names.charge(name.len())));
        let cell = StreamCell::new(id, charged, &self.core.env.config, false, self.now);
        let received = self.core.registry.lock().streams.receive(id, Arc::clone(&cell));
        if !received {
            return self.refuse(header, Some(name), Refusal::NotAccepting);
        }
        self.core.counters.streams_received.add(1);
        self.core.introduce(&cell);
        self.core.acceptable.notify_one();
        Ok(())
    }

    /// Whether a SYN opens a stream; `name` is its name, or why that wasn't read. What the id says comes first: a refusal's FIN must
    /// not go to a stream that is open.
    fn admitted(&mut self, header: Header, name: Result<&[u8], Refusal>) -> Result<bool> {
        let admission = self.core.registry.lock().streams.admit(header.stream_id);
        match (admission, name) {
            (Admission::Duplicate, _) => self.core.counters.frames_ignored.add(1),
            (Admission::WrongParity, _) => {
                let reason = "SYN with an id that only this end may open: are both ends clients, or both servers?";
                return Err(Error::InvalidProtocol { frame: header, reason });
            }
            (Admission::Welcome, Ok(_)) => return Ok(true),
            (Admission::Refused(refusal), Ok(name)) => self.refuse(header, Some(name), refusal)?,
            (Admission::Welcome | Admission::Refused(_), Err(refusal)) => self.refuse(header, None, refusal)?,
        }
        Ok(false)
    }

    /// Refuses a stream with FIN. The name, if it was read, is for the log.
    fn refuse(&mut self, header: Header, name: Option<&[u8]>, refusal: Refusal) -> Result<()> {
        self.core.counters.streams_refused.add(1);
        let (core, id) = (self.core, header.stream_id);
        self.complaints.say(self.now, core.number, || {
            let name = name.map(|name| format!(" {:?}", String::from_utf8_lossy(name))).unwrap_or_default();
            format!("stream {id}{name} is refused: {}", refusal.reason())
        });
        self.core.env.shaper.refuse(id).map_err(|refusals| Error::Flood { refusals })
    }

    /// A stream fails alone, for a fault of the peer's.
    fn fail(&mut self, cell: &Arc<StreamCell>, error: Error) {
        let (id, name) = (cell.id, cell.name.text());
        self.complaints.say(self.now, self.core.number, || format!("stream {id} {name:?} fails: {error}"));
        self.core.fail_stream(cell, error, false);
    }

    /// Data came after the stream's FIN.
    fn late(&mut self, cell: &Arc<StreamCell>) {
        self.core.counters.frames_ignored.add(1);
        if cell.first_late() {
            let (id, name) = (cell.id, cell.name.text());
            self.complaints.say(self.now, self.core.number, || {
                format!("stream {id} {name:?}: data after its end is dropped (Go peers can let FIN overtake data)")
            });
        }
    }
}

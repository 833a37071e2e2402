//! Opens and refuses the peer's streams, and fails a stream on which the peer breaks the protocol.
//!
//! Invariants:
//! - A refused stream costs the memory of two ids: one in the queue of refusals, one in the record
//!   of refused ids.
//! - The id is judged before every other reason to refuse. Without this order, the FIN of a refusal
//!   could go to an open stream with the same id.
//! - A SYN that finds the backlog full blocks the reader thread, and no other thread.

use std::sync::Arc;
use std::time::Instant;

use super::{Pending, Reader, SMALL_PAYLOAD_MAX};
use crate::engine::warn_limiter::shown;
use crate::error::{Error, Result};
use crate::proto::registry::{Admission, Refusal};
use crate::sync::pause::Cause;
use crate::sync::stream::{Name, SharedStream};
use crate::wire::Header;

impl Reader<'_> {
    /// Handles the header of a SYN. Its payload is the stream's name.
    pub(super) fn syn(&mut self, header: Header, length: usize) -> Result<()> {
        let config = &self.session.env.config;
        if length > config.max_name_len {
            self.input.frames.skip();
            return self.admitted(header, Err(Refusal::NameTooLong)).map(drop);
        }
        match length {
            0 => return self.open(header, &[]),
            1..=SMALL_PAYLOAD_MAX => self.input.frames.take_buffered(),
            _ => match self.input.frames.prepare(self.session.env.pool) {
                Some(payload) => {
                    self.input.pending = Some(Pending::Name);
                    self.input.frames.collect(payload);
                }
                None => self.input.frames.skip(),
            },
        }
        Ok(())
    }

    /// Handles a complete SYN: opens the stream, or refuses it.
    pub(super) fn open(&mut self, header: Header, name: &[u8]) -> Result<()> {
        let id = header.stream_id;
        if !self.admitted(header, Ok(name))? {
            return Ok(());
        }
        let names = &self.session.names;
        if names.used() + name.len() > names.limit() {
            return self.refuse(header, Some(name), Refusal::NamesTooMany);
        }
        let charged = Name::new(name, Some(names.charge(name.len())));
        let stream =
            SharedStream::new(id, charged, &self.session.env.config, false, self.input.now);
        let mut registry = self.session.registry.lock();
        let received = registry.streams.receive(id, Arc::clone(&stream));
        self.session.env.allowance.set_streams(registry.streams.len());
        self.input.crowded = registry.streams.makes_wait();
        drop(registry);
        if !received {
            return self.refuse(header, Some(name), Refusal::NotAccepting);
        }
        self.session.counters.streams_received.add(1);
        self.session.introduce(&stream);
        self.session.acceptable.notify_one();
        self.input.detector.interrupted = true;
        Ok(())
    }

    /// Returns whether a SYN opens a stream, and refuses the stream if not. Blocks while the
    /// backlog is full, if the name was read. `name` is the stream's name, or the reason why the
    /// name wasn't read.
    ///
    /// # Errors
    /// Returns an error if only this side may open a stream with this id, or if too many refused
    /// streams wait for their FIN.
    fn admitted(&mut self, header: Header, name: Result<&[u8], Refusal>) -> Result<bool> {
        let mut admission = self.session.admit(header.stream_id);
        if admission == Admission::Full && name.is_ok() {
            let session = Arc::clone(self.session);
            let begun = Instant::now();
            let wait = |until| session.wait_for_room(header.stream_id, begun, until);
            admission = self.pause(Cause::Backlog, wait);
        }
        match (admission, name) {
            (Admission::Duplicate, _) => self.session.counters.frames_ignored.add(1),
            (Admission::WrongParity, _) => {
                let reason = "SYN with an id that only this end may open: are both ends clients, \
                              or both servers?";
                return Err(Error::InvalidProtocol { frame: header, reason });
            }
            (Admission::Welcome, Ok(_)) => return Ok(true),
            (Admission::Refused(refusal), Ok(name)) => self.refuse(header, Some(name), refusal)?,
            // Unreachable: `wait_for_room` never returns `Full`.
            (Admission::Full, Ok(name)) => self.refuse(header, Some(name), Refusal::Backlog)?,
            (_, Err(refusal)) => self.refuse(header, None, refusal)?,
        }
        Ok(false)
    }

    /// Refuses a stream: queues a FIN for its opener. The name, if it was read, is for the log.
    ///
    /// # Errors
    /// Returns `Flood` if too many refused streams wait for their FIN.
    fn refuse(&mut self, header: Header, name: Option<&[u8]>, refusal: Refusal) -> Result<()> {
        let session = self.session;
        let id = header.stream_id;
        session.counters.streams_refused.add(1);
        session.registry.lock().streams.refused(id);
        self.input.warnings.warn(self.input.now, session.number, || {
            let name = name.map(|name| format!(" {}", shown(name))).unwrap_or_default();
            format!("stream {id}{name} is refused: {}", refusal.reason())
        });
        self.session.env.shaper.refuse(id).map_err(|refusals| Error::Flood { refusals })
    }

    /// Handles data for an id that has no stream. If the id's stream was refused, the first such
    /// data is answered with a second FIN. The opener may have missed the first one: Go's smux
    /// drops a FIN that comes before its `OpenStream` has returned.
    pub(super) fn unknown(&mut self, id: u32) {
        self.session.counters.frames_ignored.add(1);
        let first = self.session.registry.lock().streams.is_first_for_refused(id);
        if first {
            self.session.env.shaper.refuse_again(id);
        }
    }

    /// Fails a stream for a fault of the peer. The session goes on.
    pub(super) fn fail(&mut self, stream: &Arc<SharedStream>, error: Error) {
        self.input.warnings.warn(self.input.now, self.session.number, || {
            format!("stream {} {} fails: {error}", stream.id, shown(stream.name.bytes()))
        });
        self.session.fail_stream(stream, error, false);
    }

    /// Handles a FIN or UPD for an id that has no stream. If the id may have had a stream before,
    /// this is normal: the peer sent the frame before it got our FIN. In all other cases the frame
    /// counts as ignored.
    pub(super) fn stray(&self, id: u32) {
        if !self.session.registry.lock().streams.may_have_been(id) {
            self.session.counters.frames_ignored.add(1);
        }
    }

    /// Handles data that came after the peer's FIN, or for a stream that has failed at this side.
    /// Logs the first such frame of a stream.
    pub(super) fn late(&mut self, stream: &Arc<SharedStream>) {
        self.session.counters.frames_ignored.add(1);
        if stream.first_late() {
            self.input.warnings.warn(self.input.now, self.session.number, || {
                let id = stream.id;
                let name = shown(stream.name.bytes());
                format!(
                    "stream {id} {name}: data after its end is dropped (Go peers can let FIN \
                         overtake data)"
                )
            });
        }
    }
}

//! How the reader thread opens and refuses the peer's streams, and fails those that break the
//! protocol alone.
//!
//! Invariants: refusing costs no more than a queued id and a remembered one; what an id says comes
//! before every other reason to refuse; a SYN that finds the backlog full waits only on the reader
//! thread.

use std::sync::Arc;
use std::time::Instant;

use super::{INLINE_MAX, Pending, Reader};
use crate::engine::complaints::shown;
use crate::error::{Error, Result};
use crate::proto::registry::{Admission, Refusal};
use crate::sync::cell::{Name, StreamCell};
use crate::sync::pause::Cause;
use crate::wire::Header;

impl Reader<'_> {
    /// A SYN header came; its payload is the name.
    pub(super) fn syn(&mut self, header: Header, length: usize) -> Result<()> {
        let config = &self.core.env.config;
        if length > config.max_name_len {
            self.input.frames.skip();
            return self.admitted(header, Err(Refusal::NameTooLong)).map(drop);
        }
        match length {
            0 => return self.open(header, &[]),
            1..=INLINE_MAX => self.input.frames.inline(),
            _ => match self.input.frames.prepare(self.core.env.pool) {
                Some(payload) => {
                    self.input.pending = Some(Pending::Name);
                    self.input.frames.collect(payload);
                }
                None => self.input.frames.skip(),
            },
        }
        Ok(())
    }

    /// A SYN is complete.
    pub(super) fn open(&mut self, header: Header, name: &[u8]) -> Result<()> {
        let id = header.stream_id;
        if !self.admitted(header, Ok(name))? {
            return Ok(());
        }
        let names = &self.core.names;
        if names.used() + name.len() > names.limit() {
            return self.refuse(header, Some(name), Refusal::NamesTooMany);
        }
        let charged = Name::new(name, Some(names.charge(name.len())));
        let cell = StreamCell::new(id, charged, &self.core.env.config, false, self.input.now);
        let mut registry = self.core.registry.lock();
        let received = registry.streams.receive(id, Arc::clone(&cell));
        self.core.env.allowance.set_streams(registry.streams.len());
        self.input.crowded = registry.streams.makes_wait();
        drop(registry);
        if !received {
            return self.refuse(header, Some(name), Refusal::NotAccepting);
        }
        self.core.counters.streams_received.add(1);
        self.core.introduce(&cell);
        self.core.acceptable.notify_one();
        self.input.talk.interrupted = true;
        Ok(())
    }

    /// Whether a SYN opens a stream; `name` is its name, or why that wasn't read. What the id says
    /// comes first: a refusal's FIN must not go to a stream that is open.
    fn admitted(&mut self, header: Header, name: Result<&[u8], Refusal>) -> Result<bool> {
        let mut admission = self.core.admit(header.stream_id);
        if admission == Admission::Full && name.is_ok() {
            let core = Arc::clone(self.core);
            let begun = Instant::now();
            let wait = |until| core.wait_for_room(header.stream_id, begun, until);
            admission = self.pause(Cause::Backlog, wait);
        }
        match (admission, name) {
            (Admission::Duplicate, _) => self.core.counters.frames_ignored.add(1),
            (Admission::WrongParity, _) => {
                let reason = "SYN with an id that only this end may open: are both ends clients, \
                              or both servers?";
                return Err(Error::InvalidProtocol { frame: header, reason });
            }
            (Admission::Welcome, Ok(_)) => return Ok(true),
            (Admission::Refused(refusal), Ok(name)) => self.refuse(header, Some(name), refusal)?,
            // it was waited for
            (Admission::Full, Ok(name)) => self.refuse(header, Some(name), Refusal::Backlog)?,
            (_, Err(refusal)) => self.refuse(header, None, refusal)?,
        }
        Ok(false)
    }

    /// Refuses a stream with FIN. The name, if it was read, is for the log.
    fn refuse(&mut self, header: Header, name: Option<&[u8]>, refusal: Refusal) -> Result<()> {
        let core = self.core;
        let id = header.stream_id;
        core.counters.streams_refused.add(1);
        core.registry.lock().streams.refused(id);
        self.input.complaints.say(self.input.now, core.number, || {
            let name = name.map(|name| format!(" {}", shown(name))).unwrap_or_default();
            format!("stream {id}{name} is refused: {}", refusal.reason())
        });
        self.core.env.shaper.refuse(id).map_err(|refusals| Error::Flood { refusals })
    }

    /// Data came for a stream that isn't there. If that was refused, its opener may have missed the
    /// FIN (Go drops one that comes before its `OpenStream` has returned): it gets one more.
    pub(super) fn unknown(&mut self, id: u32) {
        self.core.counters.frames_ignored.add(1);
        let first = self.core.registry.lock().streams.is_first_for_refused(id);
        if first {
            self.core.env.shaper.refuse_again(id);
        }
    }

    /// A stream fails alone, for a fault of the peer's.
    pub(super) fn fail(&mut self, cell: &Arc<StreamCell>, error: Error) {
        self.input.complaints.say(self.input.now, self.core.number, || {
            format!("stream {} {} fails: {error}", cell.id, shown(cell.name.bytes()))
        });
        self.core.fail_stream(cell, error, false);
    }

    /// FIN or UPD came for a stream that isn't there. On one that was, that is ordinary: it has
    /// crossed with our own FIN.
    pub(super) fn stray(&self, id: u32) {
        if !self.core.registry.lock().streams.may_have_been(id) {
            self.core.counters.frames_ignored.add(1);
        }
    }

    /// Data came after the peer's FIN, or for a stream that has failed here.
    pub(super) fn late(&mut self, cell: &Arc<StreamCell>) {
        self.core.counters.frames_ignored.add(1);
        if cell.first_late() {
            self.input.complaints.say(self.input.now, self.core.number, || {
                let id = cell.id;
                let name = shown(cell.name.bytes());
                format!(
                    "stream {id} {name}: data after its end is dropped (Go peers can let FIN \
                         overtake data)"
                )
            });
        }
    }
}

//! The reading half: takes ciphertext from the inner transport, and plaintext from rustls.
//!
//! A call reads the inner transport once at most, outside every lock; then it decrypts, under the
//! connection's lock, as much as the caller has room for. It never writes: what TLS wants sent in
//! answer is noted for the writing half ([`Link::set_owed`]).
//!
//! Invariants: bytes are given out before the ending is told; after a failure nothing more is
//! decrypted; `spilled` holds the plaintext of one decryption at most, which is what fits rustls's
//! own buffer.

use std::io::{self, IoSliceMut, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::Connection;

use super::link::{Failure, Link};

/// How much ciphertext is read at a time, in bytes, while little comes: a session's window of small
/// frames isn't larger, and every idle connection keeps this.
const SMALLEST: usize = 8 * 1024;

/// The same while much comes: four full records, with what encryption adds to each.
const LARGEST: usize = 4 * (16 * 1024 + 256);

/// How much plaintext comes from one lock of the connection, in bytes: about one record.
const ENOUGH: usize = 16 * 1024;

/// How long a failure waits for the alert that tells it to the peer. The writer thread is woken for
/// that, and takes far less, unless the transport is full.
const ALERT_TIME: Duration = Duration::from_millis(100);

/// How the input has ended.
#[derive(Debug)]
enum Ending {
    /// By `close_notify`.
    Clean,
    Failed(Failure, Instant),
}

/// The inner read half, and what lies between it and the caller.
pub(super) struct Incoming {
    inner: Box<dyn Read + Send>,
    /// Ciphertext that rustls hasn't taken is `start..end`.
    ciphertext: Vec<u8>,
    start: usize,
    end: usize,
    /// How much to read next.
    size: usize,
    /// Plaintext that a caller had no room for; `given` bytes of it were given out since.
    spilled: Vec<u8>,
    given: usize,
    ending: Option<Ending>,
}

impl Incoming {
    pub(super) fn new(inner: Box<dyn Read + Send>) -> Self {
        Self {
            inner,
            ciphertext: Vec::new(),
            start: 0,
            end: 0,
            size: SMALLEST,
            spilled: Vec::new(),
            given: 0,
            ending: None,
        }
    }

    /// One read of the inner transport, when rustls has taken all that was read before.
    ///
    /// # Errors
    /// The inner transport's.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        if self.ciphertext.len() != self.size {
            // What came before is of no interest: another buffer is cheaper than moving it.
            self.ciphertext = vec![0; self.size];
        }
        let n = self.inner.read(&mut self.ciphertext)?.min(self.size);
        self.start = 0;
        self.end = n;
        if n == self.size {
            self.size = LARGEST;
        } else if n < self.size / 4 {
            self.size = (self.size / 2).max(SMALLEST);
            if self.spilled.is_empty() {
                self.spilled = Vec::new(); // a burst's
            }
        }
        if n == 0 && self.ending.is_none() {
            self.fail(Failure::Cut);
        }
        Ok(())
    }

    /// What was read and rustls hasn't taken.
    pub(super) fn waiting(&self) -> &[u8] {
        self.ciphertext.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether rustls hasn't taken all that was read.
    pub(super) fn has_ciphertext(&self) -> bool {
        self.start < self.end
    }

    /// Lets rustls have what was read, until `is_enough`.
    pub(super) fn decrypt(
        &mut self,
        tls: &mut Connection,
        out: &mut Room<'_, '_>,
        is_enough: impl Fn(&Connection, &Room<'_, '_>) -> bool,
    ) {
        while self.has_ciphertext() && self.ending.is_none() && !is_enough(tls, out) {
            match tls.read_tls(&mut &self.ciphertext[self.start..self.end]) {
                Ok(0) => return self.fail(Failure::Cut), // it takes nothing: not seen to happen
                Ok(n) => self.start = (self.start + n).min(self.end),
                Err(error) => {
                    return self.fail(Failure::Tls(rustls::Error::General(error.to_string())));
                }
            }
            let state = process(tls);
            self.take_plaintext(tls, out);
            match state {
                Ok(state) if state.peer_has_closed() => {
                    self.ending = Some(Ending::Clean);
                    self.start = self.end; // whatever follows is to be ignored
                }
                Ok(_) => {}
                Err(error) => self.fail(Failure::Tls(error)),
            }
        }
    }

    /// Takes all plaintext from rustls: to the caller while there is room, then to `spilled`.
    pub(super) fn take_plaintext(&mut self, tls: &mut Connection, out: &mut Room<'_, '_>) {
        let mut reader = tls.reader();
        while let Some(room) = out.next() {
            match reader.read(room) {
                Ok(n @ 1..) => out.filled(n),
                _ => return, // nothing is there; the ending is known elsewhere
            }
        }
        let mut end = self.spilled.len();
        loop {
            self.spilled.resize(end + SPILL_STEP, 0);
            match reader.read(&mut self.spilled[end..]) {
                Ok(n @ 1..) => end += n,
                _ => break,
            }
        }
        self.spilled.truncate(end);
        if end == 0 {
            // nothing was there: an idle connection doesn't keep the room
            self.spilled = Vec::new();
        }
    }

    /// Gives out what was spilled.
    fn give_out(&mut self, out: &mut Room<'_, '_>) {
        while self.given < self.spilled.len()
            && let Some(room) = out.next()
        {
            let n = room.len().min(self.spilled.len() - self.given);
            room[..n].copy_from_slice(&self.spilled[self.given..self.given + n]);
            self.given += n;
            out.filled(n);
        }
        if self.given == self.spilled.len() {
            self.spilled.clear();
            self.given = 0;
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.start = self.end;
        self.ending = Some(Ending::Failed(failure, Instant::now() + ALERT_TIME));
    }

    /// What it failed with.
    pub(super) fn failure(&self) -> Option<&Failure> {
        match &self.ending {
            Some(Ending::Failed(failure, _)) => Some(failure),
            _ => None,
        }
    }

    /// Throws away what comes, for one read.
    ///
    /// # Errors
    /// The inner transport's.
    pub(super) fn discard(&mut self) -> io::Result<usize> {
        self.inner.read(&mut self.ciphertext)
    }
}

/// rustls takes what it was given. After this end's `close_notify` a record that is wrong meets an
/// assertion of rustls's debug builds: it has sent an alert already. That is no panic of the
/// program's.
fn process(tls: &mut Connection) -> Result<rustls::IoState, rustls::Error> {
    let processed = catch_unwind(AssertUnwindSafe(|| tls.process_new_packets()));
    processed
        .unwrap_or_else(|_| Err(rustls::Error::General("rustls panicked at what came".to_owned())))
}

/// The step by which spilled plaintext grows, in bytes: one record's.
const SPILL_STEP: usize = 16 * 1024;

/// A caller's buffers, and how much of them is filled.
pub(super) struct Room<'a, 'b> {
    bufs: &'a mut [IoSliceMut<'b>],
    /// The buffer that isn't full yet, and how much of it is.
    at: usize,
    within: usize,
    total: usize,
}

impl<'a, 'b> Room<'a, 'b> {
    pub(super) fn new(bufs: &'a mut [IoSliceMut<'b>]) -> Self {
        let mut room = Self { bufs, at: 0, within: 0, total: 0 };
        room.filled(0);
        room
    }

    /// Whether there is room left.
    fn is_open(&self) -> bool {
        self.at < self.bufs.len()
    }

    /// The next part that isn't filled.
    fn next(&mut self) -> Option<&mut [u8]> {
        self.bufs.get_mut(self.at).and_then(|buf| buf.get_mut(self.within..))
    }

    /// `n` bytes of that part are filled.
    fn filled(&mut self, n: usize) {
        self.total += n;
        self.within += n;
        while self.bufs.get(self.at).is_some_and(|buf| self.within >= buf.len()) {
            self.at += 1;
            self.within = 0;
        }
    }
}

/// The half that a session reads.
pub(super) struct TlsReader {
    link: Arc<Link>,
    incoming: Incoming,
}

impl TlsReader {
    pub(super) fn new(link: Arc<Link>, incoming: Incoming) -> Self {
        Self { link, incoming }
    }

    /// Decrypts what was read, and notes what TLS wants sent in answer.
    fn decrypt(&mut self, out: &mut Room<'_, '_>) {
        let mut guarded = self.link.connection.lock();
        let before = out.total;
        self.incoming.decrypt(&mut guarded.tls, out, |_, out| {
            !out.is_open() || out.total - before >= ENOUGH
        });
        match &self.incoming.ending {
            Some(Ending::Failed(failure, _)) => guarded.failure = Some(failure.clone()),
            Some(Ending::Clean) => guarded.peer_closed = true,
            None => {}
        }
        guarded.answer();
        self.link.set_owed(guarded.tls.wants_write());
    }
}

impl Read for TlsReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut out = Room::new(bufs);
        if !out.is_open() {
            return Ok(0);
        }
        self.incoming.give_out(&mut out);
        for has_read in [false, true] {
            while self.incoming.has_ciphertext() && out.is_open() {
                self.decrypt(&mut out);
            }
            if out.total > 0 {
                return Ok(out.total);
            }
            match &self.incoming.ending {
                None => {}
                Some(Ending::Clean) => return Ok(0),
                Some(Ending::Failed(_, until))
                    if self.link.has_answers() && Instant::now() < *until =>
                {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Some(Ending::Failed(failure, _)) => return Err(failure.clone().into()),
            }
            if !has_read {
                self.incoming.fill()?;
            }
        }
        // A part of a record came, or one that brings no data. The session's own threads look at
        // what else there is to do, and come back at once.
        Err(io::ErrorKind::Interrupted.into())
    }
}

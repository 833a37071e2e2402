//! The reading half. It takes ciphertext from the inner transport, and takes plaintext from rustls.
//!
//! A call reads the inner transport at most once, outside of every lock. Then the call decrypts as
//! much as the caller has room for, under the connection's lock. The reading half never writes. If
//! rustls has an answer to send, the call notes that for the writing half ([`Link::set_owed`]).
//!
//! # Invariants
//! - The caller gets all decrypted bytes before it learns that the input has ended or failed.
//! - After a failure no further bytes are decrypted.
//! - `spilled` holds the plaintext of at most one decryption, which fits rustls's own buffer.

use std::io::{self, IoSliceMut, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::Connection;

use super::link::{Failure, Link};

/// Size of a read of ciphertext while little data comes, in bytes. Every idle connection keeps a
/// buffer of this size. It is half of a session's read buffer.
const SMALLEST: usize = 8 * 1024;

/// Size of a read of ciphertext while much data comes, in bytes. Four full records fit into it,
/// with the bytes that encryption adds to each record.
const LARGEST: usize = 4 * (16 * 1024 + 256);

/// Amount of plaintext after which a read releases the connection's lock, in bytes. It is about one
/// record.
const ENOUGH: usize = 16 * 1024;

/// Limit of the time for which a failure is held back so that the alert for the peer can be sent
/// first. The writer thread is woken to send the alert. It needs far less than this time, unless
/// the transport is full.
const ALERT_TIME: Duration = Duration::from_millis(100);

/// The end of the input.
#[derive(Debug)]
enum Ending {
    /// The input ended by `close_notify`.
    Clean,
    /// The input failed. The failure is held back until the alert is sent, or until this time if
    /// that is earlier.
    Failed(Failure, Instant),
}

/// The inner read half, and the bytes between it and the caller.
pub(super) struct Incoming {
    inner: Box<dyn Read + Send>,
    /// The range `start..end` of this buffer is ciphertext that rustls hasn't taken.
    ciphertext: Vec<u8>,
    start: usize,
    end: usize,
    /// Size of the next read, in bytes.
    size: usize,
    /// Plaintext for which a caller had no room. The first `given` bytes have been returned to
    /// later calls.
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

    /// Does one read of the inner transport. Called only when rustls has taken all earlier bytes.
    ///
    /// # Errors
    /// Returns the inner transport's error.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        if self.ciphertext.len() != self.size {
            // The old content isn't needed, so a new buffer is cheaper than a resized one.
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
                self.spilled = Vec::new(); // give back the memory of a burst
            }
        }
        if n == 0 && self.ending.is_none() {
            self.fail(Failure::Cut);
        }
        Ok(())
    }

    /// Returns the bytes that were read and that rustls hasn't taken.
    pub(super) fn waiting(&self) -> &[u8] {
        self.ciphertext.get(self.start..self.end).unwrap_or_default()
    }

    /// Returns whether there are read bytes that rustls hasn't taken.
    pub(super) fn has_ciphertext(&self) -> bool {
        self.start < self.end
    }

    /// Passes the read bytes to rustls until no byte is left, the input ends, or `is_enough`
    /// returns true.
    pub(super) fn decrypt(
        &mut self,
        tls: &mut Connection,
        out: &mut Room<'_, '_>,
        is_enough: impl Fn(&Connection, &Room<'_, '_>) -> bool,
    ) {
        while self.has_ciphertext() && self.ending.is_none() && !is_enough(tls, out) {
            match tls.read_tls(&mut &self.ciphertext[self.start..self.end]) {
                Ok(0) => return self.fail(Failure::Cut), // rustls took no byte: never seen so far
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
                    self.start = self.end; // ignore the bytes behind the end
                }
                Ok(_) => {}
                Err(error) => self.fail(Failure::Tls(error)),
            }
        }
    }

    /// Takes all plaintext from rustls. The plaintext goes to the caller as far as the caller has
    /// room. The rest goes to `spilled`.
    pub(super) fn take_plaintext(&mut self, tls: &mut Connection, out: &mut Room<'_, '_>) {
        let mut reader = tls.reader();
        while let Some(room) = out.next() {
            match reader.read(room) {
                Ok(n @ 1..) => out.filled(n),
                _ => return, // there is no plaintext; `decrypt` notes an ending
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
            // There was no plaintext. An idle connection doesn't keep the memory.
            self.spilled = Vec::new();
        }
    }

    /// Returns spilled plaintext to the caller.
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

    /// Returns the failure of the input, if it failed.
    pub(super) fn failure(&self) -> Option<&Failure> {
        match &self.ending {
            Some(Ending::Failed(failure, _)) => Some(failure),
            _ => None,
        }
    }

    /// Reads once and throws the bytes away.
    ///
    /// # Errors
    /// Returns the inner transport's error.
    pub(super) fn discard(&mut self) -> io::Result<usize> {
        self.inner.read(&mut self.ciphertext)
    }
}

/// Lets rustls process the bytes that it was given, and turns a panic of rustls into an error. In
/// debug builds, rustls panics at a wrong record that comes after this side's `close_notify`,
/// because it has already sent an alert. Such a panic is the peer's fault, so it must not become a
/// panic of the program.
fn process(tls: &mut Connection) -> Result<rustls::IoState, rustls::Error> {
    let processed = catch_unwind(AssertUnwindSafe(|| tls.process_new_packets()));
    processed
        .unwrap_or_else(|_| Err(rustls::Error::General("rustls panicked at what came".to_owned())))
}

/// Step by which spilled plaintext grows, in bytes: one record.
const SPILL_STEP: usize = 16 * 1024;

/// A caller's buffers, and the number of their bytes that are filled.
pub(super) struct Room<'a, 'b> {
    bufs: &'a mut [IoSliceMut<'b>],
    /// Index of the first buffer that isn't full.
    at: usize,
    /// Number of filled bytes of that buffer.
    within: usize,
    /// Number of filled bytes of all buffers together.
    total: usize,
}

impl<'a, 'b> Room<'a, 'b> {
    pub(super) fn new(bufs: &'a mut [IoSliceMut<'b>]) -> Self {
        let mut room = Self { bufs, at: 0, within: 0, total: 0 };
        room.filled(0);
        room
    }

    /// Returns whether there is room left.
    fn is_open(&self) -> bool {
        self.at < self.bufs.len()
    }

    /// Returns the next part that isn't filled.
    fn next(&mut self) -> Option<&mut [u8]> {
        self.bufs.get_mut(self.at).and_then(|buf| buf.get_mut(self.within..))
    }

    /// Notes that `n` more bytes are filled, from the beginning of the part that
    /// [`next`](Self::next) returns.
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

    /// Decrypts the read bytes, and notes whether TLS wants to send an answer.
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
        // Only a part of a record came, or a record without data. After `Interrupted` the session's
        // thread checks its other work, and reads again at once.
        Err(io::ErrorKind::Interrupted.into())
    }
}

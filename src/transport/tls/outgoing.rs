//! The writing half: encrypts, and hands the ciphertext to the inner transport in the order in
//! which it was made.
//!
//! A write sends first what is left of the one before. Then it encrypts as much as
//! [`Outgoing::unit`] says, under the connection's lock, lets that go, and writes. What the inner
//! transport doesn't take stays here, and goes first the next time: it is like a larger buffer of
//! the system's.
//!
//! Invariants: a write that returns an error has taken nothing that will not fail for ever after;
//! ciphertext is collected from rustls only while the way out is locked, so its order here is the
//! order of its records.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::Connection;

use super::super::{Backoff, Control};
use super::link::{Failure, Guarded, Link, is_not_yet};

/// How much plaintext is encrypted for one write, in bytes, after the inner transport didn't take
/// all: one record, so that on a slow link what was accepted and what was sent are close together.
const SMALLEST: usize = 16 * 1024;

/// The same while it takes all: enough that system calls don't count. The connection is locked for
/// one record at a time, so that a reader that waits for it waits some microseconds.
const LARGEST: usize = 64 * 1024;

/// How many buffers one record is made of at most.
const PIECE_SLICES: usize = 32;

/// How long one call goes on writing to a transport that takes piece after piece: as long as
/// [`Halves::bounded_writes`](crate::transport::Halves) allows.
const BOUND: Duration = Duration::from_millis(10);

/// How long an inner write error waits for the reading half to find what it means: a peer that
/// refuses says so by an alert and ends the connection, and the alert is the better answer.
const VERDICT_TIME: Duration = Duration::from_millis(250);

/// The inner write half, and the ciphertext that it hasn't taken.
pub(super) struct Outgoing {
    /// Gone when the writing half was dropped.
    inner: Option<Box<dyn Write + Send>>,
    ciphertext: Vec<u8>,
    /// So much of that was taken.
    sent: usize,
    /// How much to encrypt at a time.
    unit: usize,
    /// The most ciphertext that there was since the last flush.
    most: usize,
    /// The inner transport failed, and when. The error is told once.
    broken: Option<(Instant, Option<io::Error>)>,
}

impl Outgoing {
    pub(super) fn new(inner: Box<dyn Write + Send>) -> Self {
        Self {
            inner: Some(inner),
            ciphertext: Vec::new(),
            sent: 0,
            unit: SMALLEST,
            most: 0,
            broken: None,
        }
    }

    /// Takes what rustls wants sent.
    pub(super) fn collect(&mut self, tls: &mut Connection) {
        while tls.wants_write() && tls.write_tls(&mut self.ciphertext).is_ok_and(|n| n > 0) {}
        self.most = self.most.max(self.ciphertext.len());
    }

    /// Whether all was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.ciphertext.len()
    }

    fn inner(&mut self) -> io::Result<&mut Box<dyn Write + Send>> {
        self.inner.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Writes what was collected, as much as the inner transport takes in one call's time.
    ///
    /// # Errors
    /// `WouldBlock` or `TimedOut` if nothing was taken, `Interrupted` if not all was; the inner
    /// transport's, `WriteZero` if it says that it took nothing.
    pub(super) fn push(&mut self) -> io::Result<()> {
        let mut started = None;
        while self.sent < self.ciphertext.len() {
            let Some(inner) = &mut self.inner else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            match inner.write(&self.ciphertext[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.sent = (self.sent + n).min(self.ciphertext.len()),
                Err(error) if is_not_yet(&error) && started.is_some() => {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                Err(error) => return Err(error),
            }
            if self.sent < self.ciphertext.len() {
                self.unit = SMALLEST;
                if started.get_or_insert_with(Instant::now).elapsed() > BOUND {
                    return Err(io::ErrorKind::Interrupted.into());
                }
            } else if started.is_none() {
                self.unit = (self.unit * 2).min(LARGEST);
            }
        }
        self.ciphertext.clear();
        self.sent = 0;
        Ok(())
    }

    /// Flushes the inner transport. Memory that a burst needed is given back when less was enough
    /// since the last flush.
    ///
    /// # Errors
    /// The inner transport's.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.inner()?.flush()?;
        if self.ciphertext.is_empty() && self.most < self.ciphertext.capacity() / 4 {
            self.ciphertext = Vec::with_capacity(self.most);
        }
        self.most = 0;
        Ok(())
    }

    /// Encrypts a piece of `bufs` from byte `from` on, a record's worth; returns how much.
    fn encrypt(
        &mut self,
        tls: &mut Connection,
        bufs: &[IoSlice<'_>],
        mut from: usize,
    ) -> io::Result<usize> {
        self.collect(tls);
        let mut slices = [IoSlice::new(&[]); PIECE_SLICES];
        let mut count = 0;
        let mut offered = 0;
        for buf in bufs {
            let Some(rest) = buf.get(from..) else {
                from -= buf.len();
                continue;
            };
            from = 0;
            let Some(slice) = slices.get_mut(count).filter(|_| offered < SMALLEST) else { break };
            *slice = IoSlice::new(&rest[..rest.len().min(SMALLEST - offered)]);
            count += 1;
            offered += slice.len();
        }
        let before = self.ciphertext.len();
        let taken = tls.writer().write_vectored(&slices[..count])?;
        self.collect(tls);
        if self.ciphertext.len() - before < taken || has_alert(&self.ciphertext[before..]) {
            // rustls dropped it without a word, and made a close_notify, which would say that all
            // is well.
            self.ciphertext.truncate(before);
            return Err(Failure::WornOut.into());
        }
        if taken == 0 && offered > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }
}

impl Link {
    /// Sends what is left, and what TLS wants sent.
    fn push(&self, outgoing: &mut Outgoing) -> io::Result<()> {
        if outgoing.broken.is_some() {
            return Err(self.broken(outgoing));
        }
        let pushed = outgoing.push();
        self.set_unsent(!outgoing.is_empty());
        self.judge(outgoing, pushed)
    }

    /// Lets an error that isn't "not yet" wait for what the reading half finds.
    fn judge(&self, outgoing: &mut Outgoing, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if !is_not_yet(&error) => {
                outgoing.broken = Some((Instant::now(), Some(error)));
                Err(self.broken(outgoing))
            }
            other => other,
        }
    }

    /// The inner transport failed: what to say of it now.
    fn broken(&self, outgoing: &mut Outgoing) -> io::Error {
        if let Some(failure) = self.connection.lock().failure.clone() {
            return failure.into();
        }
        match &mut outgoing.broken {
            Some((since, _)) if since.elapsed() < VERDICT_TIME && !self.is_aborted() => {
                io::ErrorKind::WouldBlock.into()
            }
            Some((_, error)) => error.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
            None => io::ErrorKind::BrokenPipe.into(),
        }
    }

    /// Takes what rustls wants sent; the caller has both locks. `unsent` is set before `owed` is
    /// cleared, so that an answer is always seen in one of them.
    fn collect(&self, outgoing: &mut Outgoing, guarded: &mut Guarded) {
        outgoing.collect(&mut guarded.tls);
        self.set_unsent(!outgoing.is_empty());
        self.set_owed(false);
    }

    /// Sends all that there is, and flushes.
    fn flush(&self) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock();
        // What is left goes before more is collected: a peer that makes answers necessary and
        // doesn't read can't make them pile up here.
        self.push(&mut outgoing)?;
        let mut guarded = self.connection.lock();
        outgoing.collect(&mut guarded.tls);
        // Another request may have come while the answer to the one before wasn't collected.
        guarded.answer();
        self.collect(&mut outgoing, &mut guarded);
        drop(guarded);
        self.push(&mut outgoing)?;
        let flushed = outgoing.flush();
        self.judge(&mut outgoing, flushed)
    }
}

impl Link {
    /// [`flush`](Self::flush), until all is done, or the connection was aborted.
    fn flush_all(&self) -> io::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            match self.flush() {
                Err(error) if is_not_yet(&error) && !self.is_aborted() => {
                    if error.kind() != io::ErrorKind::Interrupted {
                        backoff.sleep(started);
                    }
                }
                other => return other,
            }
        }
    }
}

/// Whether there is an alert among whole records that were made by a write. Of TLS 1.3 no types can
/// be seen, and none is needed: it makes new keys.
fn has_alert(mut records: &[u8]) -> bool {
    const ALERT: u8 = 21;
    while let [kind, _, _, high, low, rest @ ..] = records {
        if *kind == ALERT {
            return true;
        }
        records = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or_default();
    }
    false
}

/// Whether an error says that the peer's end of the connection isn't there any more.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}

/// The half that a session writes.
pub(super) struct TlsWriter(pub(super) Arc<Link>);

impl Write for TlsWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let link = &*self.0;
        let mut outgoing = link.outgoing.lock();
        link.push(&mut outgoing)?;
        let mut so_far = 0;
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        let taken = loop {
            if so_far >= outgoing.unit.min(offered) {
                break Ok(so_far);
            }
            let mut guarded = link.connection.lock();
            let piece = match guarded.failure.clone() {
                Some(failure) => Err(failure.into()),
                None if guarded.finished => Err(io::ErrorKind::BrokenPipe.into()),
                None => outgoing.encrypt(&mut guarded.tls, bufs, so_far),
            };
            link.collect(&mut outgoing, &mut guarded);
            match piece {
                Ok(piece) => {
                    so_far += piece;
                    if piece > 0 {
                        guarded.answers = 0;
                    }
                }
                // What was encrypted is on its way: it mustn't be offered again. An error is met
                // again.
                Err(_) if so_far > 0 => break Ok(so_far),
                Err(error) => break Err(error),
            }
        };
        // What it doesn't take goes first the next time. Where TLS failed, this is its alert.
        match link.push(&mut outgoing) {
            Err(error) if !is_not_yet(&error) => Err(error),
            _ => taken,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for TlsWriter {
    /// The inner write half goes with it: for some transports that is what ends the writing.
    fn drop(&mut self) {
        let inner = self.0.outgoing.lock().inner.take();
        drop(inner);
    }
}

/// The control of both.
pub(super) struct TlsControl(pub(super) Arc<Link>);

impl Control for TlsControl {
    /// Sends what is left, then `close_notify`, then ends the inner transport's writing.
    fn finish_write(&self) -> io::Result<()> {
        let link = &*self.0;
        link.flush_all()?;
        let mut guarded = link.connection.lock();
        guarded.tls.send_close_notify();
        guarded.finished = true;
        drop(guarded);
        match link.flush_all() {
            // A peer that has said its own needn't be there any more.
            Err(error) if is_gone(&error) && link.connection.lock().peer_closed => {}
            other => other?,
        }
        link.inner.finish_write()
    }

    fn wants_flush(&self) -> bool {
        self.0.owes() || self.0.inner.wants_flush()
    }

    fn abort(&self) {
        self.0.abort();
    }

    fn local_addr(&self) -> Option<std::net::SocketAddr> {
        self.0.inner.local_addr()
    }

    fn peer_addr(&self) -> Option<std::net::SocketAddr> {
        self.0.inner.peer_addr()
    }
}

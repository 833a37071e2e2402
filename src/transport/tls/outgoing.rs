//! The writing half. It encrypts, and hands the ciphertext to the inner transport in the order in
//! which the ciphertext was made.
//!
//! A write first sends the ciphertext that an earlier write has left. Then it encrypts up to
//! [`Outgoing::unit`] bytes, under the connection's lock. It releases the lock and sends the new
//! ciphertext. Ciphertext that the inner transport doesn't take stays in [`Outgoing`], and the next
//! write sends it first. The ciphertext that waits here therefore acts as an extension of the
//! system's send buffer.
//!
//! # Invariants
//! - A write that returns an error has accepted no byte. The one exception is an error after which
//!   the connection has failed for good.
//! - Ciphertext is collected from rustls only under the lock of [`Link::outgoing`]. So it lies in
//!   [`Outgoing`] in the order in which rustls has made its records.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::Connection;

use super::super::{Backoff, Control};
use super::link::{Failure, Guarded, Link, is_not_yet};

/// Amount of plaintext that one write encrypts after the inner transport didn't take all
/// ciphertext, in bytes. It fits into one record. So on a slow link, only a little more plaintext
/// is accepted than is sent.
const SMALLEST: usize = 16 * 1024;

/// Largest amount of plaintext that one write encrypts while the inner transport takes all
/// ciphertext, in bytes. At this size the cost of system calls doesn't matter. The connection is
/// locked for one record at a time, so the reading half waits for the lock only some microseconds.
const LARGEST: usize = 64 * 1024;

/// Largest number of the caller's buffers from which one record is made.
const PIECE_SLICES: usize = 32;

/// Time limit of one call. Without this limit, a transport that takes one small piece after another
/// would prolong the call. The value is the limit that
/// [`Halves::bounded_writes`](crate::transport::Halves) promises.
const BOUND: Duration = Duration::from_millis(10);

/// Time for which an error of an inner write is held back, so that the reading half can find the
/// reason of the error. A peer that refuses this side sends an alert and ends the connection. The
/// alert is the better error, because it tells the reason.
const VERDICT_TIME: Duration = Duration::from_millis(250);

/// The inner write half, and the ciphertext that it hasn't taken.
pub(super) struct Outgoing {
    /// `None` when the writing half was dropped.
    inner: Option<Box<dyn Write + Send>>,
    ciphertext: Vec<u8>,
    /// Bytes of `ciphertext` that the inner transport has taken.
    sent: usize,
    /// Plaintext to encrypt at a time, in bytes.
    unit: usize,
    /// Largest length of `ciphertext` since the last flush.
    most: usize,
    /// The time at which the inner transport failed, and its error. The error is returned once.
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

    /// Collects the bytes that rustls wants to send.
    pub(super) fn collect(&mut self, tls: &mut Connection) {
        while tls.wants_write() && tls.write_tls(&mut self.ciphertext).is_ok_and(|n| n > 0) {}
        self.most = self.most.max(self.ciphertext.len());
    }

    /// Returns whether the inner transport has taken all ciphertext.
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.ciphertext.len()
    }

    fn inner(&mut self) -> io::Result<&mut Box<dyn Write + Send>> {
        self.inner.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Writes the collected ciphertext, as far as the inner transport takes it within [`BOUND`].
    ///
    /// # Errors
    /// Returns `WouldBlock` or `TimedOut` if the inner transport took nothing, and `Interrupted` if
    /// it took a part. Returns `WriteZero` if a write of the inner transport returns `Ok(0)`.
    /// Returns any other error of the inner transport unchanged.
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

    /// Flushes the inner transport. Frees the memory that a burst has needed, if much less was
    /// needed since the last flush.
    ///
    /// # Errors
    /// Returns the inner transport's error.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.inner()?.flush()?;
        if self.ciphertext.is_empty() && self.most < self.ciphertext.capacity() / 4 {
            self.ciphertext = Vec::with_capacity(self.most);
        }
        self.most = 0;
        Ok(())
    }

    /// Encrypts one record of `bufs` from byte `from` on. Returns the number of bytes encrypted.
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
            // The keys are used up. rustls then drops the data without an error, and makes a
            // close_notify. The close_notify isn't sent, because it would tell the peer that the
            // connection ended without a failure.
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
    /// Sends the ciphertext that earlier calls have left.
    fn push(&self, outgoing: &mut Outgoing) -> io::Result<()> {
        if outgoing.broken.is_some() {
            return Err(self.broken(outgoing));
        }
        let pushed = outgoing.push();
        self.set_unsent(!outgoing.is_empty());
        self.judge(outgoing, pushed)
    }

    /// Holds back a permanent error until the reading half finds the reason of the error, for at
    /// most [`VERDICT_TIME`]. An error that means "not yet" is returned at once.
    fn judge(&self, outgoing: &mut Outgoing, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if !is_not_yet(&error) => {
                outgoing.broken = Some((Instant::now(), Some(error)));
                Err(self.broken(outgoing))
            }
            other => other,
        }
    }

    /// Returns the error of a call after the inner transport has failed.
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

    /// Collects the bytes that rustls wants to send. The caller holds the locks of `outgoing` and
    /// of the connection. `owed` says that rustls holds an answer, such as to a key update.
    /// `unsent` says that its ciphertext waits here. `unsent` is set first, so a pending answer is
    /// visible at any moment.
    fn collect(&self, outgoing: &mut Outgoing, guarded: &mut Guarded) {
        outgoing.collect(&mut guarded.tls);
        self.set_unsent(!outgoing.is_empty());
        self.set_owed(false);
    }

    /// Sends all bytes, and flushes.
    fn flush(&self) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock();
        // Send the rest before collecting more. Without this order, answers would pile up here for
        // a peer that asks for answers and doesn't read.
        self.push(&mut outgoing)?;
        let mut guarded = self.connection.lock();
        outgoing.collect(&mut guarded.tls);
        // The peer may have asked for another key update before the answer to the last one was
        // collected.
        guarded.answer();
        self.collect(&mut outgoing, &mut guarded);
        drop(guarded);
        self.push(&mut outgoing)?;
        let flushed = outgoing.flush();
        self.judge(&mut outgoing, flushed)
    }
}

impl Link {
    /// Repeats [`flush`](Self::flush) until all bytes are sent, or until the connection is aborted.
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

/// Returns whether there is an alert among the records that a write has made. With TLS 1.3 the
/// result is always false, because TLS 1.3 hides the types of its records. TLS 1.3 doesn't need
/// this check, because it makes new keys.
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

/// Returns whether an error means that the connection no longer exists.
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
                // The encrypted bytes are accepted, and the caller must not offer them again. The
                // next write returns the error.
                Err(_) if so_far > 0 => break Ok(so_far),
                Err(error) => break Err(error),
            }
        };
        // If TLS failed, this sends the alert of the failure. The next write first sends the bytes
        // that the transport doesn't take now.
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
    /// Drops the inner write half, too. On some transports, this drop ends the writing.
    fn drop(&mut self) {
        let inner = self.0.outgoing.lock().inner.take();
        drop(inner);
    }
}

/// The control of both halves.
pub(super) struct TlsControl(pub(super) Arc<Link>);

impl Control for TlsControl {
    /// Sends the remaining ciphertext, then `close_notify`. Then ends the inner transport's
    /// writing.
    fn finish_write(&self) -> io::Result<()> {
        let link = &*self.0;
        link.flush_all()?;
        let mut guarded = link.connection.lock();
        guarded.tls.send_close_notify();
        guarded.finished = true;
        drop(guarded);
        match link.flush_all() {
            // After a peer has sent its close_notify, it may end the connection. So this error is
            // no failure.
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

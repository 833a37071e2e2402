//! The handshake. It runs on the caller's thread. One deadline applies to the whole handshake.
//!
//! If the inner transport can bound its reads and writes, each call is bounded by the remaining
//! time. Otherwise a second thread, which lives as long as the handshake, aborts the transport at
//! the deadline.
//!
//! # Invariants
//! - When a handshake returns an error, the transport was aborted and no thread is left.
//! - `abort` is called at most once.
//!
//! If TLS fails, an alert tells the peer the reason. The alert gets some time to arrive
//! ([`LINGER`]). This side ends its writing first. Then, for that time, it reads further input and
//! throws it away. A system resets a connection whose socket is closed with unread input, and the
//! reset may destroy the alert.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::Connection;

use crate::error::{Received, start_of, text_of};

use super::super::{Backoff, BoundReads, BoundWrites, Control, Halves};
use super::incoming::{Incoming, Room};
use super::link::{Failure, is_not_yet};
use super::outgoing::Outgoing;

/// Limit of the time that the alert of a failed handshake gets to arrive. The handshake's deadline
/// may make this time shorter. A second is long enough for some round trips over a long distance.
const LINGER: Duration = Duration::from_secs(1);

/// Limit of the input that is thrown away during the time [`LINGER`], in bytes. The limit is more
/// than a peer sends in the middle of a handshake. It is small, so a peer that never stops sending
/// costs little.
const LINGER_BYTES: usize = 256 * 1024;

/// Longest bound of one inner read. It also applies if the handshake has no deadline.
const LONG: Duration = Duration::from_secs(3600);

/// Number of input bytes, from the first one on, that are kept to be shown in an error.
const FIRST: usize = 64;

/// The result of a handshake.
pub(super) struct Done {
    pub(super) tls: Connection,
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    pub(super) control: Box<dyn Control>,
    pub(super) bounded_writes: bool,
    pub(super) bound_writes: Option<BoundWrites>,
    pub(super) bound_reads: Option<BoundReads>,
}

/// Does the handshake over `halves`.
///
/// # Errors
/// See [`Tls::handshake`](super::Tls::handshake).
pub(super) fn handshake(tls: Connection, halves: Halves, timeout: Duration) -> io::Result<Done> {
    let Halves { reader, writer, bounded_writes, bound_writes, bound_reads, control } = halves;
    let mut hand = Hand {
        tls,
        incoming: Incoming::new(reader),
        outgoing: Outgoing::new(writer),
        bound_reads,
        deadline: Instant::now().checked_add(timeout),
        first: Vec::new(),
    };
    let is_bounded = bounded_writes && hand.bound_reads.is_some();
    let (result, mut aborted) = if is_bounded {
        (hand.shake(), false)
    } else {
        watched(&*control, hand.deadline, || hand.shake())
    };
    let fault = match result {
        Ok(()) if !aborted => {
            let Hand { tls, incoming, outgoing, bound_reads, .. } = hand;
            return Ok(Done {
                tls,
                incoming,
                outgoing,
                control,
                bounded_writes,
                bound_writes,
                bound_reads,
            });
        }
        Ok(()) => Fault::Io(io::ErrorKind::TimedOut.into()),
        Err(fault) => fault,
    };
    let is_late = aborted || hand.is_late();
    if !is_late && matches!(fault, Fault::Tls(_)) {
        let soon = Instant::now().checked_add(LINGER);
        hand.deadline = [hand.deadline, soon].into_iter().flatten().min();
        ((), aborted) = watched(&*control, hand.deadline, || hand.say_why(&*control));
    }
    if !aborted {
        control.abort();
    }
    Err(match fault {
        _ if is_late => io::Error::new(io::ErrorKind::TimedOut, Unfinished::Late(timeout)),
        Fault::Tls(Failure::Cut) if hand.first.is_empty() => {
            io::Error::new(io::ErrorKind::UnexpectedEof, Unfinished::Mute)
        }
        Fault::Tls(Failure::Cut) => io::Error::new(io::ErrorKind::UnexpectedEof, Unfinished::Ended),
        Fault::Tls(Failure::Tls(error @ rustls::Error::InvalidMessage(_)))
            if !is_tls(&hand.first) =>
        {
            io::Error::new(
                io::ErrorKind::InvalidData,
                Unfinished::Foreign(error, start_of(&hand.first)),
            )
        }
        Fault::Tls(Failure::Tls(error)) => {
            io::Error::new(io::ErrorKind::InvalidData, Unfinished::Tls(error))
        }
        Fault::Tls(failure) => failure.into(),
        Fault::Io(error) => io::Error::new(error.kind(), Unfinished::Io(error)),
    })
}

/// Returns whether the first bytes may be a record of TLS, by its type.
fn is_tls(first: &[u8]) -> bool {
    matches!(first, [] | [20..=24, ..])
}

/// Runs `work`, and aborts the transport if `work` isn't done at `deadline`. Returns the result of
/// `work`, and whether the transport was aborted.
fn watched<T>(
    control: &dyn Control,
    deadline: Option<Instant>,
    work: impl FnOnce() -> T,
) -> (T, bool) {
    let Some(deadline) = deadline else { return (work(), false) };
    thread::scope(|scope| {
        let (over, is_over) = mpsc::channel::<()>();
        let watch = move || {
            let late = is_over.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                == Err(mpsc::RecvTimeoutError::Timeout);
            if late {
                control.abort();
            }
            late
        };
        let watch =
            thread::Builder::new().name("gmux-handshake".to_owned()).spawn_scoped(scope, watch);
        let result = work();
        drop(over); // a panic of `work` drops `over`, too
        // If the watching thread panicked in `abort`, the transport counts as aborted.
        (result, watch.is_ok_and(|watch| watch.join().unwrap_or(true)))
    })
}

/// A handshake in progress.
struct Hand {
    tls: Connection,
    incoming: Incoming,
    outgoing: Outgoing,
    bound_reads: Option<BoundReads>,
    deadline: Option<Instant>,
    /// The first input, at most [`FIRST`] bytes.
    first: Vec<u8>,
}

/// The fault that ends a handshake.
enum Fault {
    Tls(Failure),
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Hand {
    /// Does the handshake, and leaves the transport in the state that a session expects.
    fn shake(&mut self) -> Result<(), Fault> {
        loop {
            self.send()?;
            if !self.tls.is_handshaking() {
                break;
            }
            self.receive()?;
        }
        if let Some(bound) = &mut self.bound_reads {
            bound(None)?;
        }
        if let Connection::Server(server) = &mut self.tls
            && server.early_data().is_some()
        {
            // No code of this crate would read the early data.
            return Err(Fault::Tls(Failure::Tls(rustls::Error::General(
                "early data isn't supported".to_owned(),
            ))));
        }
        // Data that came right behind the handshake is for the session.
        self.incoming.take_plaintext(&mut self.tls, &mut Room::new(&mut []));
        Ok(())
    }

    /// Sends the bytes that TLS wants to send.
    fn send(&mut self) -> Result<(), Fault> {
        self.outgoing.collect(&mut self.tls);
        if self.outgoing.is_empty() {
            return Ok(());
        }
        self.until_done(|hand| hand.outgoing.push())?;
        self.until_done(|hand| hand.outgoing.flush())
    }

    /// Decrypts the ciphertext that has come, or waits for more.
    fn receive(&mut self) -> Result<(), Fault> {
        if !self.incoming.has_ciphertext() {
            self.until_done(|hand| {
                hand.bound_read()?;
                hand.incoming.fill()
            })?;
            let came = self.incoming.waiting();
            self.first.extend(came.iter().take(FIRST - self.first.len()));
        }
        let none = &mut Room::new(&mut []);
        self.incoming.decrypt(&mut self.tls, none, |tls, _| !tls.is_handshaking());
        match self.incoming.failure() {
            Some(failure) => Err(Fault::Tls(failure.clone())),
            None => Ok(()),
        }
    }

    /// Bounds the next read by the remaining time, if the transport can bound reads.
    fn bound_read(&mut self) -> io::Result<()> {
        let Some(bound) = &mut self.bound_reads else { return Ok(()) };
        let left = self
            .deadline
            .map_or(LONG, |deadline| deadline.saturating_duration_since(Instant::now()));
        bound(Some(left.clamp(Duration::from_millis(1), LONG)))
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Calls `io` until it succeeds or fails, or until the deadline has passed.
    fn until_done(&mut self, mut io: impl FnMut(&mut Self) -> io::Result<()>) -> Result<(), Fault> {
        let mut backoff = Backoff::default();
        loop {
            // Check after progress, too. A peer that sends one byte at a time makes progress
            // without end.
            if self.is_late() {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            let started = Instant::now();
            match io(self) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_not_yet(&error) => backoff.sleep(started),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends the alert with the reason, and gives it time to arrive.
    fn say_why(&mut self, control: &dyn Control) {
        if !self.tls.wants_write() || self.send().is_err() || control.finish_write().is_err() {
            return;
        }
        let mut left = LINGER_BYTES;
        while left > 0 {
            let mut n = 0;
            let read = self.until_done(|hand| {
                hand.bound_read()?;
                n = hand.incoming.discard()?;
                Ok(())
            });
            if read.is_err() || n == 0 {
                return;
            }
            left = left.saturating_sub(n);
        }
    }
}

/// The reason why there is no connection.
enum Unfinished {
    Tls(rustls::Error),
    /// The input isn't TLS at all. It begins with these bytes.
    Foreign(rustls::Error, Received),
    Io(io::Error),
    Ended,
    /// The peer ended the connection before any byte came from it.
    Mute,
    Late(Duration),
}

/// Shows the text, because a `main` that returns an error prints it by `Debug`.
impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TLS handshake: ")?;
        match self {
            Self::Tls(rustls::Error::AlertReceived(alert)) => {
                write!(f, "the peer refused it by the alert {alert:?}")
            }
            Self::Tls(error) => error.fmt(f),
            Self::Foreign(_, first) => {
                f.write_str("not TLS: the peer sent ")?;
                match (&**first, text_of(first)) {
                    ([1 | 2, 0..=15, ..], _) => f.write_str("a frame of gmux or smux")?,
                    (_, Some(text)) => write!(f, "{text:?}")?,
                    (first, None) => write!(f, "{:02x?}", &first[..first.len().min(16)])?,
                }
                f.write_str(": is it without TLS?")
            }
            Self::Io(error) => error.fmt(f),
            Self::Ended => f.write_str("the peer ended the connection in the middle of it"),
            Self::Mute => f.write_str(
                "the peer ended the connection before anything came from it: does it speak TLS?",
            ),
            Self::Late(timeout) => write!(f, "not done within {timeout:?}"),
        }
    }
}

impl StdError for Unfinished {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Tls(error) | Self::Foreign(error, _) => Some(error),
            Self::Io(error) => Some(error),
            Self::Ended | Self::Mute | Self::Late(_) => None,
        }
    }
}

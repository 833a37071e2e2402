//! What both halves of a TLS connection and its control share: rustls's state, and the way out.
//!
//! Invariants: the connection's lock is held around calls of rustls alone, never across the inner
//! transport's reads, writes or flushes. The way out is locked across inner writes and flushes, by
//! who writes; **who reads never takes it**, so a writer that is stuck in a full transport keeps
//! nobody from reading. Lock order: `outgoing`, then `connection`. `abort` and `wants_flush` take
//! neither.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use parking_lot::Mutex;
use rustls::Connection;

use super::super::Control;
use super::outgoing::Outgoing;

pub(super) struct Link {
    /// Guards rustls's state. Who waits for it waits for the encryption or decryption of one
    /// buffer.
    pub(super) connection: Mutex<Guarded>,
    /// Guards the order on the wire: the inner write half, and the ciphertext that it hasn't taken.
    pub(super) outgoing: Mutex<Outgoing>,
    /// rustls has something to send that nobody has collected. Changes under `connection`'s lock.
    owed: AtomicBool,
    /// Ciphertext was collected, and the inner write half hasn't taken all of it. Changes under
    /// `outgoing`'s lock.
    unsent: AtomicBool,
    aborted: AtomicBool,
    pub(super) inner: Box<dyn Control>,
}

/// What the connection's lock guards.
pub(super) struct Guarded {
    pub(super) tls: Connection,
    /// What TLS failed with, once the reading half has found that.
    pub(super) failure: Option<Failure>,
    /// The peer's `close_notify` has come.
    pub(super) peer_closed: bool,
    /// This end's `close_notify` was made: nothing may follow it.
    pub(super) finished: bool,
    /// Answers to requests for new keys that were made ready with no data since.
    pub(super) answers: u8,
}

/// So many answers to requests for new keys leave by themselves with no data between them. rustls
/// and BoringSSL end a connection at 33 changes of keys in a row, whoever has asked for them.
const MOST_ANSWERS: u8 = 20;

impl Guarded {
    /// Makes rustls's answer to a request for new keys ready to be collected. rustls keeps it back
    /// until something is written, so this is a write of nothing. After [`MOST_ANSWERS`] it is left
    /// there, one for all further requests, and goes before the next data: TLS asks for no more.
    pub(super) fn answer(&mut self) {
        // While nothing else waits alone, so that a peer that asks again and again, and doesn't
        // read, can't pile answers up.
        if self.finished || self.answers >= MOST_ANSWERS || self.tls.wants_write() {
            return;
        }
        let _ = self.tls.writer().write(&[]);
        self.answers += u8::from(self.tls.wants_write());
    }
}

impl Link {
    pub(super) fn new(tls: Connection, outgoing: Outgoing, inner: Box<dyn Control>) -> Self {
        let owed = AtomicBool::new(tls.wants_write());
        Self {
            connection: Mutex::new(Guarded {
                tls,
                failure: None,
                peer_closed: false,
                finished: false,
                answers: 0,
            }),
            outgoing: Mutex::new(outgoing),
            owed,
            unsent: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            inner,
        }
    }

    /// Whether rustls has something to send that nobody has collected.
    pub(super) fn owes(&self) -> bool {
        self.owed.load(SeqCst)
    }

    /// The caller has the connection, and knows whether rustls has something to send.
    pub(super) fn set_owed(&self, owed: bool) {
        if self.owes() != owed {
            self.owed.store(owed, SeqCst);
        }
    }

    /// The caller has the way out, and knows whether all of it was taken.
    pub(super) fn set_unsent(&self, unsent: bool) {
        if self.unsent.load(SeqCst) != unsent {
            self.unsent.store(unsent, SeqCst);
        }
    }

    /// Whether an answer may still be on its way out of here.
    pub(super) fn has_answers(&self) -> bool {
        self.owes() || self.unsent.load(SeqCst)
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(SeqCst)
    }

    pub(super) fn abort(&self) {
        self.aborted.store(true, SeqCst);
        self.inner.abort();
    }
}

/// How a TLS connection failed.
#[derive(Clone)]
pub(super) enum Failure {
    /// rustls says so, or its peer did by an alert.
    Tls(rustls::Error),
    /// The inner transport ended without `close_notify`.
    Cut,
    /// TLS 1.2 has no new keys for a connection that has sent so much.
    WornOut,
}

/// The text, since a `main` that returns an error shows that by `Debug`.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(rustls::Error::AlertReceived(alert)) => {
                write!(f, "TLS: the peer ended it by the alert {alert:?}")
            }
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Cut => f.write_str(
                "TLS: the connection ended without close_notify, so it may have been cut off",
            ),
            Self::WornOut => {
                f.write_str("TLS 1.2: the keys have encrypted as much as they may; use TLS 1.3")
            }
        }
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Tls(error) => Some(error),
            Self::Cut | Self::WornOut => None,
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure {
            Failure::Tls(_) => io::ErrorKind::InvalidData,
            Failure::Cut => io::ErrorKind::UnexpectedEof,
            Failure::WornOut => io::ErrorKind::Other,
        };
        Self::new(kind, failure)
    }
}

/// Whether a failed call is to be tried again.
pub(super) fn is_not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

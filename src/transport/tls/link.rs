//! The state that both halves of a TLS connection and its control share. The state has two parts:
//! rustls's state, and the output (the inner write half with its unsent ciphertext).
//!
//! # Invariants
//! - The connection's lock is held only around calls of rustls, never across the inner transport's
//!   reads, writes or flushes.
//! - The writing thread holds the lock of the output across inner writes and flushes. **The reading
//!   thread never takes that lock.** So it can read while a write is stuck in a full transport.
//! - Lock order: `outgoing`, then `connection`. `abort` and `wants_flush` take neither.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use parking_lot::Mutex;
use rustls::Connection;

use super::super::Control;
use super::outgoing::Outgoing;

/// The state that both halves and the control share.
pub(super) struct Link {
    /// Guards rustls's state. A thread waits for this lock at most for the time that rustls needs
    /// to encrypt or decrypt one buffer.
    pub(super) connection: Mutex<Guarded>,
    /// Guards the output: the inner write half, and the ciphertext that the write half hasn't
    /// taken. So this lock also keeps the bytes in order on the wire.
    pub(super) outgoing: Mutex<Outgoing>,
    /// Whether rustls has bytes to send that aren't collected yet. It changes only under
    /// `connection`'s lock.
    owed: AtomicBool,
    /// Whether there is collected ciphertext that the inner write half hasn't taken. It changes
    /// only under `outgoing`'s lock.
    unsent: AtomicBool,
    aborted: AtomicBool,
    pub(super) inner: Box<dyn Control>,
}

/// The state that the connection's lock guards.
pub(super) struct Guarded {
    pub(super) tls: Connection,
    /// The failure of TLS, once the reading half has found it.
    pub(super) failure: Option<Failure>,
    /// Whether the peer's `close_notify` has come.
    pub(super) peer_closed: bool,
    /// Whether this side's `close_notify` was made. No record may follow it.
    pub(super) finished: bool,
    /// Number of answers that were made since data was last written. Each answers a request of the
    /// peer for new keys.
    pub(super) answers: u8,
}

/// Limit of answers to requests for new keys with no data between them. rustls and BoringSSL end a
/// connection at 33 changes of keys in a row. They count the requests of both sides.
const MOST_ANSWERS: u8 = 20;

impl Guarded {
    /// Makes rustls's answer to a request for new keys ready to be collected. rustls keeps the
    /// answer back until data is written, so this writes 0 bytes. After [`MOST_ANSWERS`] answers,
    /// this does nothing. In that case rustls keeps one answer for all further requests, and sends
    /// it before the next data. TLS requires no more than that.
    pub(super) fn answer(&mut self) {
        // Make an answer only if rustls has no other bytes to send. Without this rule, answers
        // would pile up for a peer that asks again and again and doesn't read.
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

    /// Returns whether rustls has bytes to send that aren't collected yet.
    pub(super) fn owes(&self) -> bool {
        self.owed.load(SeqCst)
    }

    /// Notes whether rustls has bytes to send. The caller holds `connection`'s lock.
    pub(super) fn set_owed(&self, owed: bool) {
        if self.owes() != owed {
            self.owed.store(owed, SeqCst);
        }
    }

    /// Notes whether ciphertext is left. The caller holds `outgoing`'s lock.
    pub(super) fn set_unsent(&self, unsent: bool) {
        if self.unsent.load(SeqCst) != unsent {
            self.unsent.store(unsent, SeqCst);
        }
    }

    /// Returns whether there may be an answer that the inner transport hasn't taken yet.
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

/// The failure of a TLS connection.
#[derive(Clone)]
pub(super) enum Failure {
    /// rustls found an error, or the peer reported one by an alert.
    Tls(rustls::Error),
    /// The inner transport ended without `close_notify`.
    Cut,
    /// The connection has sent as much as its keys allow, and TLS 1.2 makes no new keys.
    WornOut,
}

/// Shows the text, because a `main` that returns an error prints it by `Debug`.
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

/// Returns whether a failed call is to be tried again.
pub(super) fn is_not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

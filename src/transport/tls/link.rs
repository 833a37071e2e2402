//! The state that both halves of a TLS connection and its control share: rustls's state, and the
//! way out (the inner write half with its ciphertext).
//!
//! # Invariants
//! - The connection's lock is held only around calls of rustls, never across the inner transport's
//!   reads, writes or flushes.
//! - The writing thread holds the lock of the way out across inner writes and flushes. **The
//!   reading thread never takes that lock**, so a write that is stuck in a full transport doesn't
//!   keep it from reading.
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
    /// Guards rustls's state. A thread that waits for it waits for the encryption or decryption of
    /// one buffer.
    pub(super) connection: Mutex<Guarded>,
    /// Guards the order on the wire, that is, the inner write half and the ciphertext that it
    /// hasn't taken.
    pub(super) outgoing: Mutex<Outgoing>,
    /// Whether rustls has bytes to send that aren't collected yet. Changes under `connection`'s
    /// lock.
    owed: AtomicBool,
    /// Whether the inner write half hasn't taken all collected ciphertext. Changes under
    /// `outgoing`'s lock.
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
    /// Whether this end's `close_notify` was made. Nothing may follow it.
    pub(super) finished: bool,
    /// Number of answers to requests for new keys that were made ready since the last data.
    pub(super) answers: u8,
}

/// Limit of answers to requests for new keys that are sent with no data between them. rustls and
/// BoringSSL end a connection at 33 changes of keys in a row, whichever end has asked for them.
const MOST_ANSWERS: u8 = 20;

impl Guarded {
    /// Makes rustls's answer to a request for new keys ready to be collected. rustls keeps the
    /// answer back until data is written, so this writes 0 bytes. After [`MOST_ANSWERS`] the answer
    /// stays in rustls, one for all further requests, and goes out before the next data. TLS
    /// demands no more.
    pub(super) fn answer(&mut self) {
        // Only if rustls has nothing else to send. Otherwise a peer that asks again and again, and
        // doesn't read, could pile up answers.
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

    /// Returns whether an answer may not have been handed to the inner transport yet.
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

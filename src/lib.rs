//! Thousands of named streams over one connection, for blocking Rust.
// The rest of this page is `manual/guide.md`. A doc test's line number is its line there plus two.
#![doc = ""]
#![doc = include_str!("manual/guide.md")]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod config;
pub mod copy;
mod engine;
mod error;
#[cfg(any(doc, doctest))]
pub mod manual;
pub mod pool;
mod proto;
mod session;
mod stats;
mod stream;
mod sync;
mod traits;
pub mod transport;
pub mod wire;

pub use config::{Config, INITIAL_WINDOW, Settings};
pub use copy::{Copied, CopyError, CopyOptions, copy_bidirectional};
pub use crossbeam_channel::{Receiver, RecvTimeoutError, Select};
pub use error::{Error, Lost, Received, Result};
pub use session::{Incoming, Session};
pub use stats::{ReadPause, SessionStats, StreamStats, WriterState};
pub use stream::Stream;
pub use traits::{CloseNotifier, MuxConn, MuxStream};

/// The README's examples are doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

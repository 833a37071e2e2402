//! Thousands of named streams over one connection, for blocking Rust.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod config;
mod engine;
mod error;
pub mod pool;
mod proto;
mod session;
mod stats;
mod stream;
mod sync;
mod traits;
pub mod transport;
pub mod wire;

pub use config::{Config, INITIAL_WINDOW};
pub use crossbeam_channel::Receiver;
pub use error::{Error, Result};
pub use session::{Incoming, Session};
pub use stats::SessionStats;
pub use stream::Stream;
pub use traits::{CloseNotifier, MuxConn, MuxStream};

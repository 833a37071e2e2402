//! gmux's own source, compiled so that a scheduler chooses the order of its threads' steps. The
//! checks assert conditions that must hold in every order.
//!
//! The files are the library's, unchanged. `std` is [`facade`] here. parking_lot and
//! crossbeam-channel are crates of the same names beside this one. So the scheduler controls every
//! lock, wait, channel, atomic and thread of the library, and runs each check in thousands of
//! orders. A thread that is never woken is found at once, as a deadlock. So is a thread that
//! doesn't end.

// The checks use parts of the library. The rest isn't dead code.
#![allow(dead_code, unused_imports)]

extern crate facade as std;

/// Replaces the standard library's macro in the library's files.
macro_rules! thread_local {
    ($($t:tt)*) => { facade::per_thread! { $($t)* } };
}

pub mod checks;

#[path = "../../../src/config.rs"]
mod config;
#[path = "../../../src/engine/mod.rs"]
mod engine;
#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/pool.rs"]
pub mod pool;
#[path = "../../../src/proto/mod.rs"]
mod proto;
#[path = "../../../src/session.rs"]
mod session;
#[path = "../../../src/stats.rs"]
mod stats;
#[path = "../../../src/stream.rs"]
mod stream;
#[path = "../../../src/sync/mod.rs"]
mod sync;
#[path = "../../../src/transport/mod.rs"]
pub mod transport;
#[path = "../../../src/wire/mod.rs"]
pub mod wire;

pub use config::{Config, INITIAL_WINDOW};
pub use crossbeam_channel::Receiver;
pub use error::{Error, Result};
pub use session::{Incoming, Session};
pub use stats::SessionStats;
pub use stream::Stream;

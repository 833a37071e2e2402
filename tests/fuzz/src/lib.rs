//! The bodies of the fuzz targets, and the code that they share. `tests/fuzz_corpus.rs` takes these
//! files, too, and replays the corpus with them.
//!
//! Two of the targets use code that is private to the library. So the library's source files are
//! taken by path, as in `benches/micro.rs`.
//!
//! Invariants: any bytes are an input. A target reads choices from it ([`Choices`]), so that little
//! of an input is wasted. A target panics when gmux misbehaves.
#![allow(dead_code, unused_imports, reason = "the library's modules, of which this uses a part")]

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
#[path = "../../../src/traits.rs"]
mod traits;
#[path = "../../../src/transport/mod.rs"]
pub mod transport;
#[path = "../../../src/wire/mod.rs"]
pub mod wire;

mod choices;
pub mod frame_reader;
pub mod server_session;
pub mod two_cores;

pub use choices::{Choices, generate, parse_corpus};
pub use config::{Config, INITIAL_WINDOW};
pub use crossbeam_channel::Receiver;
pub use error::{Error, Result};
pub use session::{Incoming, Session};
pub use stats::SessionStats;
pub use stream::Stream;
pub use traits::{CloseNotifier, MuxConn, MuxStream};

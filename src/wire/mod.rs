//! The wire format: headers and frames, and the two state machines that cut a byte stream into
//! frames and lay frames out for vectored writes.
//!
//! Invariant: nothing here knows of streams, or of sessions' state.

mod header;
pub(crate) mod reader;
pub(crate) mod writer;

pub use header::{Command, Frame, HEADER_LEN, Header, MAX_PAYLOAD, UPDATE_LEN};
pub(crate) use header::{decode_update, encode_update};

//! The wire format: headers, frames, and two state machines. The frame reader cuts a byte stream
//! into frames. The batch lays frames out for vectored writes.
//!
//! Invariant: no code here knows the state of streams or sessions.

mod header;
pub(crate) mod reader;
pub(crate) mod writer;

pub use header::{Command, Frame, HEADER_LEN, Header, MAX_PAYLOAD, UPDATE_LEN};
pub(crate) use header::{decode_update, encode_update};

//! KCP as a transport of gmux. KCP is a reliable, ordered protocol over UDP, made for links that
//! lose packets.
//!
//! To use it in your program:
//! - Copy this directory, `kcp/`, beside your `main.rs`.
//! - Write `#[allow(dead_code, unused_imports)] mod kcp;`. The `allow` is there because you use
//!   only a part of the module.
//! - Add these crates to your `Cargo.toml`:
//! ```text
//! aes = "0.8"
//! cfb-mode = "0.8"
//! crc32fast = "1"
//! parking_lot = "0.12"
//! pbkdf2 = "0.13"
//! quinn-udp = { version = "0.5", default-features = false }
//! rand = "0.9"
//! rustix = { version = "1", features = ["event"] }     # only on Unix
//! sha1 = "0.11"
//! socket2 = "0.6"
//! ```
//!
//! At the client:
//! ```text
//! let session = Session::client(kcp::connect("192.0.2.1:29900", &Settings::client())?, config)?;
//! ```
//! At the server, which calls `accept` in a loop and serves each session in a new thread:
//! ```text
//! let endpoint = Endpoint::bind("0.0.0.0:29900", &Settings::server())?;
//! let session = Session::server(endpoint.accept()?, config)?;
//! ```
//! Both ends need the same `Settings::cipher` and `Settings::key`. A wrong key looks like a dead
//! link.
//!
//! **TLS over KCP** needs gmux's feature `rustls`. At the client, make the session over
//! `Tls::handshake(connection, kcp::connect(..)?, timeout)?`. At the server do the same with the
//! transport from `accept`, in a new thread for each connection. With TLS, the peer learns of a
//! close at once. Without TLS, the peer learns of a close only by keepalive.
//!
//! | file | what it does |
//! |---|---|
//! | `segment.rs`, `sender.rs`, `receiver.rs`, `rtt.rs`, `protocol.rs` | the protocol, without I/O |
//! | `buffers.rs`, `outbox.rs` | memory of the protocol |
//! | `datagram.rs` | nonce, checksum and cipher |
//! | `conversation.rs`, `ending.rs` | the protocol under a lock, and the threads that wait for it |
//! | `endpoint.rs`, `clock.rs`, `link.rs`, `socket.rs`, `table.rs` | a socket, its two threads and its conversations |
//! | `transport.rs` | gmux's `Transport` over a conversation |
//! | `settings.rs` | the settings, with kcptun's names and defaults |
//!
//! The wire format is kcptun's, without FEC and compression. KCP has no handshake, and no message
//! that ends a conversation. `transport.rs` explains the consequences for a session.

mod buffers;
mod clock;
mod conversation;
pub mod datagram;
mod ending;
mod endpoint;
mod link;
pub mod outbox;
pub mod protocol;
mod receiver;
mod rtt;
pub mod segment;
mod sender;
mod settings;
mod socket;
mod table;
mod transport;

pub use datagram::Cipher;
pub use endpoint::{Endpoint, connect};
pub use settings::{Mode, Settings};
pub use transport::KcpTransport;

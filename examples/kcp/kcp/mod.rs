//! KCP as a transport of gmux: reliable and ordered over UDP, for links that lose packets.
//!
//! **To use it in your program**: copy this directory, `kcp/`, beside your `main.rs`, write
//! `#[allow(dead_code, unused_imports)] mod kcp;`, for you use a part of it, and add what it needs
//! to your `Cargo.toml`:
//! `aes = "0.8"`, `cfb-mode = "0.8"`, `crc32fast = "1"`, `parking_lot = "0.12"`, `pbkdf2 = "0.13"`,
//! `quinn-udp = { version = "0.5", default-features = false }`, `rand = "0.9"`, on Unix
//! `rustix = { version = "1", features = ["event"] }`, `sha1 = "0.11"`, `socket2 = "0.6"`. Then, at
//! the client and at the server:
//! ```text
//! let session = Session::client(kcp::connect("192.0.2.1:29900", &Settings::client())?, config)?;
//!
//! let endpoint = Endpoint::bind("0.0.0.0:29900", &Settings::server())?;
//! let session = Session::server(endpoint.accept()?, config)?; // again and again, a thread for each
//! ```
//! Both have the same `Settings::cipher` and `key`. A wrong key looks like a dead link.
//!
//! **TLS over it**, with gmux's feature `rustls`:
//! `Tls::handshake(connection, kcp::connect(..)?, timeout)?` at the client, the same over what
//! `accept` gives at the server, in the connection's own thread; then a session over that. The peer
//! then hears of a close at once, not by keepalive.
//!
//! | file | what it does |
//! |---|---|
//! | `segment.rs`, `sender.rs`, `receiver.rs`, `rtt.rs`, `protocol.rs` | the protocol, pure |
//! | `buffers.rs`, `outbox.rs` | memory for it |
//! | `datagram.rs` | nonce, checksum, cipher |
//! | `conversation.rs`, `ending.rs` | a protocol under a lock, and those who wait for it |
//! | `endpoint.rs`, `clock.rs`, `link.rs`, `socket.rs`, `table.rs` | a socket, its two threads, its conversations |
//! | `transport.rs` | gmux's `Transport` over a conversation |
//! | `settings.rs` | what can be set, with kcptun's names and defaults |
//!
//! The wire is kcptun's without FEC and compression. KCP has no handshake and no end: see
//! `transport.rs` for what that means to a session.

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

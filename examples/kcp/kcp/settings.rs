//! The settings, with kcptun's names, meanings and defaults.
//!
//! Both ends need the same cipher and key. The other settings may differ, because each end
//! announces its window and accepts segments of any size.

use super::datagram::{Cipher, HEAD};
use super::segment::HEADER;

/// kcptun's modes. A mode determines how early segments are sent again. No mode has congestion
/// control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Whether the least wait for an ack is 30 ms instead of 100, and waits grow half as fast.
    pub nodelay: bool,
    /// Time that the peer may take to answer, in milliseconds. It is the interval at which kcptun
    /// sends acks.
    pub interval: u32,
    /// Number of acks of later segments after which a segment is sent again.
    pub resend: u32,
}

impl Mode {
    pub const NORMAL: Self = Self { nodelay: false, interval: 40, resend: 2 };
    pub const FAST: Self = Self { nodelay: false, interval: 30, resend: 2 };
    pub const FAST2: Self = Self { nodelay: true, interval: 20, resend: 2 };
    pub const FAST3: Self = Self { nodelay: true, interval: 10, resend: 2 };
}

/// The settings of a conversation, and of all conversations of an endpoint.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest datagram in bytes, nonce and checksum included. [`MTUS`](Self::MTUS) has the
    /// limits.
    pub mtu: usize,
    /// Limit of the segments in flight.
    pub send_window: u16,
    /// Limit of the received segments that wait for the reader.
    pub receive_window: u16,
    pub mode: Mode,
    pub cipher: Cipher,
    /// The shared secret.
    pub key: String,
    /// Size of the socket's buffers in bytes, as far as the system allows it. The buffers should be
    /// as large as the windows of all conversations together.
    pub socket_buffer: usize,
    /// Limit of the conversations of an endpoint. It includes those that linger after their end. At
    /// the limit, a new conversation is refused or takes the place of an old one. So a flood can't
    /// use up the memory.
    pub conversations: usize,
}

impl Settings {
    /// The limits of `mtu`, as in kcp-go.
    pub const MTUS: std::ops::RangeInclusive<usize> = 64..=1500;

    /// Returns kcptun's defaults for a client.
    pub fn client() -> Self {
        Self {
            mtu: 1350,
            send_window: 128,
            receive_window: 512,
            mode: Mode::FAST,
            cipher: Cipher::Aes,
            key: "it's a secrect".into(), // kcptun's default, with this spelling
            socket_buffer: 4 << 20,
            conversations: 1024,
        }
    }

    /// Returns kcptun's defaults for a server.
    pub fn server() -> Self {
        Self { send_window: 1024, receive_window: 1024, ..Self::client() }
    }

    /// Returns the size of a full segment's data, in bytes.
    pub fn segment(&self) -> usize {
        self.mtu.clamp(*Self::MTUS.start(), *Self::MTUS.end()) - HEAD - HEADER
    }
}

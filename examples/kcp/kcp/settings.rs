//! What can be set, with kcptun's names, meanings and defaults.
//!
//! Both ends need the same cipher and key. The rest may differ: each end tells its window, and
//! takes segments of any size.

use super::datagram::{Cipher, HEAD};
use super::segment::HEADER;

/// How eagerly segments are sent again: kcptun's modes. None of them has congestion control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Waits for acks begin at 30 ms instead of 100, and grow half as fast.
    pub nodelay: bool,
    /// How long the peer may take to answer, in milliseconds: kcptun's peers send acks so often.
    pub interval: u32,
    /// After how many acks of later segments a segment is sent again.
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
    /// The largest datagram in bytes, nonce and checksum included: [`MTUS`](Self::MTUS).
    pub mtu: usize,
    /// How many segments may be on the way, and how many may wait for the reader.
    pub send_window: u16,
    pub receive_window: u16,
    pub mode: Mode,
    pub cipher: Cipher,
    /// The shared secret.
    pub key: String,
    /// The size of the socket's buffers in bytes, as far as the system allows it. They should hold
    /// the windows of all conversations together.
    pub socket_buffer: usize,
    /// How many conversations an endpoint has at most, those that only linger included. What comes
    /// beyond is dropped, so that a flood ends here.
    pub conversations: usize,
}

impl Settings {
    /// What `mtu` can be: kcp-go's limits.
    pub const MTUS: std::ops::RangeInclusive<usize> = 64..=1500;

    /// kcptun's defaults for a client.
    pub fn client() -> Self {
        Self {
            mtu: 1350,
            send_window: 128,
            receive_window: 512,
            mode: Mode::FAST,
            cipher: Cipher::Aes,
            key: "it's a secrect".into(), // kcptun's, and spelt so
            socket_buffer: 4 << 20,
            conversations: 1024,
        }
    }

    /// kcptun's defaults for a server.
    pub fn server() -> Self {
        Self { send_window: 1024, receive_window: 1024, ..Self::client() }
    }

    /// The data of a full segment, in bytes.
    pub fn segment(&self) -> usize {
        self.mtu.clamp(*Self::MTUS.start(), *Self::MTUS.end()) - HEAD - HEADER
    }
}

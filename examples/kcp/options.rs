//! The options of the command line, with kcptun's names, meanings and defaults.
//!
//! Invariant: kcptun features that this program lacks (compression, error correction, disguise) are
//! refused and never silently ignored. Options that switch them off are accepted.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gmux::Config;

use crate::kcp::{Cipher, Mode, Settings};

/// Forwards TCP connections over KCP, as kcptun does.
#[derive(Parser)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Accept KCP, and connect each stream to the target.
    Server(Server),
    /// Accept TCP connections, and carry each over a stream to the server.
    Client(Client),
}

#[derive(Args)]
pub struct Server {
    /// UDP address to listen on. With port 0, the first line of output shows the chosen port
    #[arg(short, long, value_name = "UDP", default_value = "0.0.0.0:29900")]
    pub listen: String,
    /// TCP address to connect each stream to
    #[arg(short, long, value_name = "TCP", default_value = "127.0.0.1:12948")]
    pub target: String,
    /// Send window, in packets
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    sndwnd: u16,
    /// Receive window, in packets
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    rcvwnd: u16,
    /// TLS over KCP: the server's certificates, a PEM file
    #[cfg(feature = "rustls")]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<std::path::PathBuf>,
    /// The certificate's key, a PEM file
    #[cfg(feature = "rustls")]
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<std::path::PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct Client {
    /// TCP address to listen on. With port 0, the first line of output shows the chosen port
    #[arg(short, long, alias = "localaddr", value_name = "TCP", default_value = "127.0.0.1:12948")]
    pub listen: String,
    /// UDP address of the server
    #[arg(short, long, alias = "remoteaddr", value_name = "UDP")]
    pub remote: String,
    /// Number of sessions that the connections are spread over. Each has a UDP port of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub conn: u16,
    /// Send window, in packets
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    sndwnd: u16,
    /// Receive window, in packets
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    rcvwnd: u16,
    /// TLS over KCP: the authorities that may have signed the server's certificate, a PEM file
    #[cfg(feature = "rustls")]
    #[arg(long, value_name = "FILE", requires = "tls_name")]
    pub tls_ca: Option<std::path::PathBuf>,
    /// The name in the server's certificate
    #[cfg(feature = "rustls")]
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    pub tls_name: Option<String>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args)]
pub struct Common {
    /// The secret that both ends share
    #[arg(long, default_value = "it's a secrect")]
    key: String,
    /// The cipher
    #[arg(long, value_enum, default_value_t = Crypt::Aes)]
    crypt: Crypt,
    /// How eagerly packets are sent again
    #[arg(long, value_enum, default_value_t = ModeName::Fast)]
    mode: ModeName,
    /// The largest UDP packet, in bytes
    #[arg(long, default_value_t = 1350, value_parser = clap::value_parser!(u16).range(64..=1500))]
    mtu: u16,
    /// Version of the smux protocol. Both ends have to use the same
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    smuxver: u8,
    /// Limit of a session's unread data, in bytes
    #[arg(long, default_value_t = 4_194_304)]
    smuxbuf: usize,
    /// Limit of a stream's unread data with version 2, in bytes
    #[arg(long, default_value_t = 2_097_152)]
    streambuf: usize,
    /// Size of the socket's buffers, in bytes
    #[arg(long, default_value_t = 4_194_304)]
    sockbuf: usize,
    /// Seconds between two keepalive messages
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=30))]
    keepalive: u64,
    /// Keep one direction of a connection open when the other has ended. Use it only if the other
    /// end is this program too, because kcptun closes both directions as soon as one has ended
    #[arg(long)]
    pub half_close: bool,
    /// Print nothing about single streams
    #[arg(long)]
    pub quiet: bool,
    /// Does nothing, because there is no compression here. kcptun needs this option
    #[arg(long)]
    nocomp: bool,
    /// Must be 0, because there is no error correction here. kcptun needs this option
    #[arg(
        long,
        alias = "ds",
        default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=0)
    )]
    datashard: u8,
    /// The same as --datashard
    #[arg(
        long,
        alias = "ps",
        default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=0)
    )]
    parityshard: u8,
}

#[derive(Clone, Copy, ValueEnum)]
enum Crypt {
    Aes,
    #[value(name = "aes-192")]
    Aes192,
    #[value(name = "aes-128")]
    Aes128,
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    Normal,
    Fast,
    Fast2,
    Fast3,
}

/// Keepalive limit. A session ends after this time without any frame from the peer. It is smux's
/// default, which kcptun doesn't change.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(30);

impl Server {
    pub fn settings(&self) -> Settings {
        self.common.settings(self.sndwnd, self.rcvwnd)
    }
}

impl Client {
    pub fn settings(&self) -> Settings {
        self.common.settings(self.sndwnd, self.rcvwnd)
    }
}

impl Common {
    fn settings(&self, send_window: u16, receive_window: u16) -> Settings {
        Settings {
            mtu: self.mtu.into(),
            send_window,
            receive_window,
            mode: match self.mode {
                ModeName::Normal => Mode::NORMAL,
                ModeName::Fast => Mode::FAST,
                ModeName::Fast2 => Mode::FAST2,
                ModeName::Fast3 => Mode::FAST3,
            },
            cipher: match self.crypt {
                Crypt::Aes => Cipher::Aes,
                Crypt::Aes192 => Cipher::Aes192,
                Crypt::Aes128 => Cipher::Aes128,
                Crypt::None => Cipher::None,
            },
            key: self.key.clone(),
            socket_buffer: self.sockbuf,
            ..Settings::server()
        }
    }

    /// Returns the session's configuration.
    pub fn config(&self) -> Config {
        Config::new()
            .version(self.smuxver)
            .max_receive_buffer(self.smuxbuf)
            .max_stream_buffer(self.streambuf)
            .keepalive_interval(Duration::from_secs(self.keepalive))
            .keepalive_timeout(KEEPALIVE_TIMEOUT)
    }
}

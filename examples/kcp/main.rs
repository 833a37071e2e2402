//! Forwards TCP connections over KCP, for links that lose packets. It does the same as kcptun, and
//! can talk to kcptun's programs.
//!
//! ```text
//! cargo run --release --example kcp -- server --listen 0.0.0.0:29900 --target 127.0.0.1:8080
//! cargo run --release --example kcp -- client --listen 127.0.0.1:12948 --remote 192.0.2.1:29900
//! ```
//! Each TCP connection to the client becomes a stream to the server, and the server connects that
//! stream to the target. Options have kcptun's names and defaults. Replace the default `--key` by
//! your own secret. **A wrong key, or a server that doesn't run, looks like a dead link.** In both
//! cases nothing arrives, and the client reports the loss after 30 seconds. Every 10 seconds the
//! server reports the datagrams that it has dropped, and why.
//!
//! The other end may be kcptun, if it runs with `--nocomp --datashard 0 --parityshard 0`:
//! ```text
//! kcptun-server -l :29900 -t 127.0.0.1:8080 --nocomp --datashard 0 --parityshard 0
//! kcptun-client -l :12948 -r 192.0.2.1:29900 --nocomp --datashard 0 --parityshard 0
//! ```
//! If both ends are this program, add `--half-close` at both. Then a connection whose one direction
//! has ended keeps its other direction open. kcptun closes both directions as soon as one has
//! ended.
//!
//! KCP's ciphers have no authentication. If you need authentication, use TLS over KCP. Build with
//! `--features rustls`, give the server `--tls-cert FILE --tls-key FILE`, and the client
//! `--tls-ca FILE --tls-name NAME`.
//!
//! Like all of kcptun's modes, this KCP has no congestion control. Only its windows limit its
//! traffic, even on a link that others share.
//!
//! Where to read on:
//! - `kcp/mod.rs` is the transport. It is meant to be copied into your program.
//! - `forward.rs` uses the transport, with the help of `copy.rs` and `tls.rs`.
//! - `options.rs` has the options.

mod copy;
mod forward;
#[allow(dead_code, unused_imports, reason = "a program uses a part of it")]
mod kcp;
mod options;
#[cfg(feature = "rustls")]
mod tls;

use std::process::ExitCode;

use clap::Parser;
use options::{Cli, Command};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Server(server) => forward::serve(server),
        Command::Client(client) => forward::connect(client),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kcp: {error}");
            ExitCode::FAILURE
        }
    }
}

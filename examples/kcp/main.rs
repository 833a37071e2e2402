//! Forwards TCP connections over KCP, as kcptun does, and to kcptun's own programs: for links that
//! lose packets.
//!
//! ```text
//! cargo run --release --example kcp -- server --listen 0.0.0.0:29900 --target 127.0.0.1:8080
//! cargo run --release --example kcp -- client --listen 127.0.0.1:12948 --remote 192.0.2.1:29900
//! ```
//! Each TCP connection to the client is a stream to the server, which connects it to the target.
//! Options have kcptun's names and defaults; set a `--key` of your own. **A wrong key, or a server
//! that isn't there, looks like a dead link**: nothing comes, and after 30 s the client says so. (A
//! server says every 10 s what it has dropped, and why.) The other end may be
//! kcptun, if it runs with `--nocomp --datashard 0 --parityshard 0`:
//! ```text
//! kcptun-server -l :29900 -t 127.0.0.1:8080 --nocomp --datashard 0 --parityshard 0
//! kcptun-client -l :12948 -r 192.0.2.1:29900 --nocomp --datashard 0 --parityshard 0
//! ```
//! Between two of these programs add `--half-close` at both ends: each way of a connection then
//! ends by itself. kcptun closes both ways as soon as one has ended.
//!
//! KCP's ciphers have no authentication. Where that matters, use TLS over it: build with
//! `--features rustls`, give the server `--tls-cert FILE --tls-key FILE`, and the client `--tls-ca
//! FILE --tls-name NAME`. KCP is for links that lose packets, and knows no congestion control, as
//! in all of kcptun's modes: on a link that others share its windows are what bounds it.
//!
//! Where to read on: `kcp/mod.rs` is the transport, to be copied into your program; `forward.rs` is
//! what is done with it, `copy.rs` and `tls.rs` help; `options.rs` are the options.

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

//! One program for every Rust peer: `peers PEER WORKLOAD [key=value …]` runs one workload once and
//! prints one line of JSON.
//!
//! The Go program (in `go/`) takes the same command line and prints the same lines. So the driver
//! treats all peers alike. Both ends are in this process, unless the workload's name begins with
//! `serve-` or `dial-`. A `serve-` workload prints its address, and a `dial-` workload takes that
//! address as an argument.

mod blocking;
mod common;
mod links;
mod nonblocking;
mod relay;
mod scale;

use std::io;
use std::process::ExitCode;

use common::Options;

fn run(peer: &str, workload: &str, options: &Options) -> io::Result<()> {
    match (peer, workload) {
        ("relay", "serve") => relay::serve(options),
        ("ours", "curve") => scale::curve(options),
        ("ours", "scale-streams") => scale::streams(options),
        ("ours", "scale-active") => scale::active(options),
        ("ours", "scale-sessions") => scale::sessions(options),
        ("ours", _) => blocking::run::<links::Ours>(workload, options),
        ("raw", _) => blocking::run::<links::Raw>(workload, options),
        ("async_smux", _) => nonblocking::run::<links::AsyncSmux>(workload, options),
        ("yamux", _) => nonblocking::run::<links::Yamux>(workload, options),
        ("smux_rust", _) => nonblocking::run::<links::SmuxRust>(workload, options),
        _ => Err(io::Error::other(format!("no peer {peer}"))),
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(peer), Some(workload)) = (args.next(), args.next()) else {
        eprintln!("usage: peers PEER WORKLOAD [key=value ...]");
        return ExitCode::from(2);
    };
    match Options::parse(args).and_then(|options| run(&peer, &workload, &options)) {
        // Exit instead of returning. The sessions, threads and runtime that a workload leaves
        // behind aren't part of it.
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{peer} {workload}: {error}");
            std::process::exit(1)
        }
    }
}

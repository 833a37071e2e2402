//! Sends a directory tree through one connection. Each file has a named stream, many files are sent
//! at once, and the receiver confirms each.
//!
//! ```text
//! # copies this repository to a temporary directory, and compares the two
//! cargo run --release --example transfer
//! # copies a tree to another host
//! cargo run --release --example transfer -- serve --listen 0.0.0.0:7000 --into copy
//! cargo run --release --example transfer -- send 192.0.2.1:7000 tree
//! ```
//!
//! Where to read on:
//! - `protocol.rs` defines the bytes of a stream.
//! - `send.rs` and `receive.rs` are the two ends. They show how to use gmux with plain threads.
//! - `names.rs` keeps a hostile sender inside the directory.

mod names;
mod protocol;
mod receive;
mod report;
mod send;
mod tree;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use gmux::{Config, Session};
use indicatif::{ProgressBar, ProgressStyle};
use report::Report;
use tree::Tree;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Sends a directory tree through one TCP connection, a named stream for each file.
///
/// Without a command, sends a tree over loopback to a temporary directory and compares every byte.
///
/// The copy keeps names (any bytes, on Unix), contents and empty directories. It doesn't keep
/// permissions, owners and times. Symbolic links and special files are left out, with a note. The
/// receiver verifies length and SHA-256 of each file before the file appears under its name.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    local: Local,
}

#[derive(Args)]
struct Local {
    /// The tree [default: this repository, without everything called .git or target]
    dir: Option<PathBuf>,
    #[command(flatten)]
    exclude: Exclude,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    /// Receive the tree of one sender, then end.
    ///
    /// A name is refused if it would leave DIR, if it leads through a symbolic link, or if it comes
    /// twice. Files that were there before are replaced. Ends with status 0 only if everything that
    /// the sender announced is in place. Otherwise lists the missing names. Temporary files are
    /// called .gmux-transfer-*. They stay behind if this process is killed.
    Serve {
        /// Address to listen on. With port 0, the first line of output shows the chosen port
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000")]
        listen: String,
        /// Directory to receive into. It is made if it is missing
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Send a tree to `transfer serve`.
    ///
    /// Ends with status 0 only if the receiver has confirmed everything. Otherwise lists the names
    /// that it hasn't confirmed.
    Send {
        /// Where the receiver listens
        addr: String,
        /// The tree
        dir: PathBuf,
        #[command(flatten)]
        exclude: Exclude,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Common {
    /// Number of files sent or received at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Version of the gmux protocol. Both ends have to use the same
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    gmux_version: u8,
}

#[derive(Args)]
struct Exclude {
    /// Leave out files and directories of this name, at any depth. May be given several times
    #[arg(long, value_name = "NAME")]
    exclude: Vec<OsString>,
}

impl Common {
    fn config(&self) -> Config {
        // A receiver that gives up within a file sends the reason and closes the stream. With
        // version 2 of the protocol, the sender may then be waiting for the receiver to take more
        // data. `half_close_stall` ends that wait. A second is enough, because no receiver here
        // goes on reading after it has closed its side.
        Config::new().version(self.gmux_version).half_close_stall(Some(Duration::from_secs(1)))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => local(cli.local),
        Some(Command::Serve { listen, into, common }) => serve(&listen, &into, &common),
        Some(Command::Send { addr, dir, exclude, common }) => send(&addr, &dir, &exclude, &common),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE, // The reasons have been printed.
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs both ends in one process.
fn local(Local { dir, mut exclude, common }: Local) -> Result<bool> {
    let dir = dir.unwrap_or_else(|| {
        exclude.exclude.extend([".git", "target"].map(OsString::from));
        // Cargo sets this variable to the repository's directory. Without Cargo, use the current
        // directory.
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into()).into()
    });
    let tree = scan(&dir, &exclude)?;
    let copy = tempfile::tempdir()?;
    let into = receive::prepare(copy.path())?;

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (theirs, _) = listener.accept()?;
    let (sent, received) = thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let session = Session::server(theirs, common.config())?;
            Ok::<_, gmux::Error>(receive::receive(
                &session,
                &into,
                common.jobs.into(),
                &ProgressBar::hidden(),
            ))
        });
        let sent = send_tree(ours, &tree, &common);
        (sent, receiver.join().expect("the receiver panicked"))
    });
    let sent = sent?;
    let received = received?;

    sent.complain();
    received.complain();
    sent.summarize("sent");
    let differences = tree.differences(&into);
    for difference in &differences {
        eprintln!("differs: {difference}");
    }
    println!("compared every byte at the other end: {} files differ", differences.len());
    Ok(tree.unreadable.is_empty()
        && sent.is_complete()
        && received.is_complete()
        && differences.is_empty())
}

fn serve(listen: &str, into: &Path, common: &Common) -> Result<bool> {
    let into = receive::prepare(into).map_err(|error| format!("{}: {error}", into.display()))?;
    let listener = TcpListener::bind(listen).map_err(|error| format!("{listen}: {error}"))?;
    println!("listening on {}", listener.local_addr()?);
    io::stdout().flush()?;
    let (tcp, peer) = listener.accept()?;
    drop(listener);
    println!("receiving from {peer}");

    let session = Session::server(tcp, common.config())?;
    let bar = progress_bar(0);
    let report = receive::receive(&session, &into, common.jobs.into(), &bar);
    bar.finish_and_clear();
    report.complain();
    report.summarize("received");
    Ok(report.is_complete())
}

fn send(addr: &str, dir: &Path, exclude: &Exclude, common: &Common) -> Result<bool> {
    let tree = scan(dir, exclude)?;
    let tcp = TcpStream::connect(addr).map_err(|error| format!("{addr}: {error}"))?;
    let report = send_tree(tcp, &tree, common)?;
    report.complain();
    report.summarize("sent");
    Ok(tree.unreadable.is_empty() && report.is_complete())
}

fn scan(dir: &Path, exclude: &Exclude) -> Result<Tree> {
    let tree =
        Tree::scan(dir, &exclude.exclude).map_err(|error| format!("{}: {error}", dir.display()))?;
    for skipped in &tree.skipped {
        eprintln!("left out: {skipped}");
    }
    for unreadable in &tree.unreadable {
        eprintln!("error: {unreadable}");
    }
    Ok(tree)
}

fn send_tree(tcp: TcpStream, tree: &Tree, common: &Common) -> Result<Report> {
    let session = Session::client(tcp, common.config())?;
    let bar = progress_bar(tree.bytes);
    let report = send::send(&session, tree, common.jobs.into(), &bar);
    bar.finish_and_clear();
    Ok(report)
}

/// Makes a progress bar. It is hidden unless standard error is a terminal.
fn progress_bar(bytes: u64) -> ProgressBar {
    let template = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style)
}

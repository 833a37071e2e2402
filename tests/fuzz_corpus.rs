//! Replays the fuzz targets' corpus, and some thousands of inputs from a fixed seed, on any
//! toolchain and without cargo-fuzz. `tests/fuzz/run` does the fuzzing.
//!
//! The targets take the library's source files by path. The usual harness would compile these files
//! for tests, and run the library's unit tests a second time. So this test has a `main` of its own.
//!
//! Promises: none. It replays inputs against source files that it takes by path.

#![allow(dead_code, unused_imports, reason = "the library's modules, of which this uses a part")]

#[path = "../src/config.rs"]
mod config;
#[path = "../src/engine/mod.rs"]
mod engine;
#[path = "../src/error.rs"]
mod error;
#[path = "../src/pool.rs"]
mod pool;
#[path = "../src/proto/mod.rs"]
mod proto;
#[path = "../src/session.rs"]
mod session;
#[path = "../src/stats.rs"]
mod stats;
#[path = "../src/stream.rs"]
mod stream;
#[path = "../src/sync/mod.rs"]
mod sync;
#[path = "../src/traits.rs"]
mod traits;
#[path = "../src/transport/mod.rs"]
mod transport;
#[path = "../src/wire/mod.rs"]
mod wire;

#[path = "fuzz/src/choices.rs"]
mod choices;
#[path = "fuzz/src/frame_reader.rs"]
mod frame_reader;
#[path = "fuzz/src/server_session/mod.rs"]
mod server_session;
mod support;
#[path = "fuzz/src/two_cores/mod.rs"]
mod two_cores;

use std::panic;
use std::time::Duration;

use choices::{Choices, generate, parse_corpus};
use config::{Config, INITIAL_WINDOW};
use crossbeam_channel::Receiver;
use error::{Error, Result};
use parking_lot::Mutex;
use session::{Incoming, Session};
use stats::SessionStats;
use stream::Stream;
use traits::{CloseNotifier, MuxConn, MuxStream};

struct Target {
    name: &'static str,
    run: fn(&[u8]),
    corpus: &'static str,
    /// Number of generated inputs. At full size it is a hundred times as many.
    generated: u64,
}

const TARGETS: [Target; 3] = [
    Target {
        name: "frame_reader",
        run: frame_reader::run,
        corpus: include_str!("fuzz/corpus/frame_reader.hex"),
        generated: 600,
    },
    Target {
        name: "server_session",
        run: server_session::run,
        corpus: include_str!("fuzz/corpus/server_session.hex"),
        generated: 600,
    },
    Target {
        name: "two_cores",
        run: two_cores::run,
        corpus: include_str!("fuzz/corpus/two_cores.hex"),
        generated: 1200,
    },
];

/// The current input, for the message when it fails.
static INPUT: Mutex<String> = Mutex::new(String::new());

fn main() {
    let mut filters = Vec::new();
    let mut skips = Vec::new();
    let mut exact = false;
    let mut list = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => list = true,
            "--exact" => exact = true,
            "--skip" => skips.extend(args.next()),
            // Options of the usual harness that take a value. They have no effect here, but their
            // value must not be taken for a name.
            "--test-threads" | "--format" | "--color" | "--logfile" | "--shuffle-seed" | "-Z" => {
                let _ = args.next();
            }
            option if option.starts_with('-') => {
                skips.extend(option.strip_prefix("--skip=").map(str::to_owned))
            }
            _ => filters.push(arg),
        }
    }
    let is_meant = |name: &str, filter: &String| {
        if exact { name == filter } else { name.contains(filter.as_str()) }
    };
    let wanted = |name: &str| {
        (filters.is_empty() || filters.iter().any(|filter| is_meant(name, filter)))
            && !skips.iter().any(|skip| is_meant(name, skip))
    };
    let targets: Vec<&Target> = TARGETS.iter().filter(|target| wanted(target.name)).collect();
    if list {
        targets.iter().for_each(|target| println!("{}: test", target.name));
        return;
    }
    // A panic on any thread is a finding. gmux's own threads pass none on.
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        print(info);
        eprintln!("{}", INPUT.lock());
        std::process::exit(101);
    }));
    for target in &targets {
        replay(target);
    }
    let passed = targets.len();
    let others = TARGETS.len() - targets.len();
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; {others} filtered out");
}

fn replay(target: &Target) {
    let full = std::env::var_os("GMUX_FULL").is_some();
    // One watchdog serves for all inputs. A busy machine takes long for thousands of sessions.
    let (times, minutes) = if full { (100, 120) } else { (1, 5) };
    let limit = Duration::from_secs(60 * minutes);
    let corpus = parse_corpus(target.corpus);
    support::test_for(target.name, limit, || {
        let generated = (0..target.generated * times).map(generate);
        for (n, input) in corpus.iter().cloned().chain(generated).enumerate() {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            *INPUT.lock() = format!("{}, input {n}: {hex}", target.name);
            (target.run)(&input);
        }
    });
    let name = target.name;
    let inputs = corpus.len();
    let made = target.generated * times;
    println!("test {name} ... ok ({inputs} inputs of the corpus, {made} from a seed)");
}

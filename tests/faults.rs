//! Mixed traffic over transports that fail, driven by seeds.
//!
//! A seed determines a plan ([`plan`]): the kind of transport, its faults, streams in both
//! directions, how each end uses and ends them, and how the sessions end. The traffic ([`traffic`])
//! keeps a ledger of the bytes that were accepted, finished and read. Afterwards the ledger has to
//! agree ([`verdict`]). Every few seeds the process must hold no more threads and no more memory
//! than before ([`leaks`]).
//!
//! `GMUX_FAULT_SEED=n` runs one seed a hundred times, since the threads' schedule differs each
//! time. `GMUX_FULL` runs 10,000 seeds instead of a few hundred. `GMUX_FAULT_SEEDS=a..b` runs the
//! seeds of that range.
//!
//! Promises: P1.

mod support;

#[path = "faults/leaks.rs"]
mod leaks;
#[path = "faults/ledger.rs"]
mod ledger;
#[path = "faults/plan.rs"]
mod plan;
#[path = "faults/traffic.rs"]
mod traffic;
#[path = "faults/verdict.rs"]
mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::ops::Range;
use std::panic;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use support::faulty::{CALLERS, INJECTED};
use support::process_snapshot::Margin;

use leaks::Leaks;
use plan::Plan;
use verdict::Tally;

/// Number of seeds that run at once. A seed spends most of its time waiting.
const WORKERS: usize = 6;
/// Upper limit of the seeds between two checks for leaks.
const BATCH: usize = 60;
/// Lower limit of the number of checks for leaks, if there are enough seeds. The first check shows
/// nothing, since the others are compared with it.
const BATCHES: usize = 10;
/// A seed that takes longer hangs. The longest wait in a plan is a fraction of a second.
const LIMIT: Duration = Duration::from_secs(120);

/// The running seeds, and when each began.
static RUNNING: Mutex<BTreeMap<u64, Instant>> = Mutex::new(BTreeMap::new());

/// Reports that a seed failed and how to run it again, then ends the process. The seed's other
/// threads may be blocked forever.
pub fn fail(seed: u64, text: &str) -> ! {
    let plan = Plan::new(seed);
    let threads = support::threads().join(" ");
    let text = format!(
        "\nSEED {seed} FAILED: {text}\nagain: GMUX_FAULT_SEED={seed}\nthreads: \
         {threads}\n{plan:#?}\n"
    );
    let _ = std::io::stderr().write_all(text.as_bytes());
    process::exit(86);
}

/// Runs a part of a seed. A panic in it is the seed's failure.
pub fn guard<R>(seed: u64, run: impl FnOnce() -> R) -> R {
    panic::catch_unwind(panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or(panic.downcast_ref::<String>().map(String::as_str));
        fail(seed, text.unwrap_or("a panic"))
    })
}

/// Keeps injected panics from being printed. Thousands of them are expected.
fn hush() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<&str>().copied();
        if !text
            .or(info.payload().downcast_ref::<String>().map(String::as_str))
            .is_some_and(|t| t.contains(INJECTED))
        {
            print(info);
        }
    }));
}

/// Ends the process when a seed hangs. Returns when the sender is dropped.
fn watch(done: &mpsc::Receiver<()>) {
    while done.recv_timeout(Duration::from_millis(500)) == Err(mpsc::RecvTimeoutError::Timeout) {
        let oldest = RUNNING
            .lock()
            .unwrap()
            .iter()
            .min_by_key(|(_, since)| **since)
            .map(|(seed, since)| (*seed, *since));
        if let Some((seed, since)) = oldest
            && since.elapsed() > LIMIT
        {
            fail(seed, &format!("it hangs (over {LIMIT:?})"));
        }
    }
}

fn run_batch(seeds: &[u64], tally: &Mutex<Tally>) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(seeds.len()) {
            scope.spawn(|| {
                while let Some(&seed) = seeds.get(next.fetch_add(1, SeqCst) as usize) {
                    let begin = Instant::now();
                    RUNNING.lock().unwrap().insert(seed, begin);
                    let mut result = guard(seed, || traffic::run(&Plan::new(seed)));
                    RUNNING.lock().unwrap().remove(&seed);
                    tally.lock().unwrap().add(&mut result, seed, begin.elapsed());
                }
            });
        }
    });
}

/// Runs seeds in batches.
fn run_seeds(seeds: &[u64], margin: Margin) {
    hush();
    let (stop, stopped) = mpsc::channel();
    let dog = thread::spawn(move || watch(&stopped));
    let tally = Mutex::new(Tally::default());
    let size = (seeds.len() / BATCHES).clamp(1, BATCH);
    let mut leaks = Leaks::new(margin);
    let begin = Instant::now();
    for batch in seeds.chunks(size) {
        run_batch(batch, &tally);
        leaks.settle(batch);
        tally.lock().unwrap().check();
        leaks.check(batch, || run_batch(batch, &Mutex::new(Tally::default())));
    }
    drop(stop);
    dog.join().unwrap();
    let took = begin.elapsed();
    let [reads, writes] = [&CALLERS[0], &CALLERS[1]].map(|count| count.load(SeqCst));
    println!("{} seeds in {took:.1?}\n{}", seeds.len(), tally.into_inner().unwrap());
    println!("inline: {reads} reads, {writes} writes of the transport");
    // If this fails, the plans don't reach inline reads and writes, which they are meant to test.
    assert!(seeds.len() < 200 || (reads > 0 && writes > 0), "no thread read or wrote inline");
}

/// Parses `a..b` from the environment.
fn range(text: &str) -> Range<u64> {
    let (from, to) = text.split_once("..").expect("GMUX_FAULT_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn every_byte_is_right_and_every_stream_ends_whole_or_with_an_error() {
    let env: HashMap<String, String> = std::env::vars().collect();
    let (seeds, margin): (Vec<u64>, Margin) = if let Some(seed) = env.get("GMUX_FAULT_SEED") {
        (vec![seed.parse().expect("GMUX_FAULT_SEED=number"); 100], leaks::SMALL)
    } else if let Some(seeds) = env.get("GMUX_FAULT_SEEDS") {
        (range(seeds).collect(), leaks::LARGE)
    } else if env.contains_key("GMUX_FULL") {
        ((0..10_000).collect(), leaks::LARGE)
    } else {
        ((0..200).collect(), leaks::SMALL)
    };
    // Each seed has its own watch. This watchdog is for the work after them.
    let name = "every_byte_is_right_and_every_stream_ends_whole_or_with_an_error";
    support::test_for(name, Duration::from_secs(3600), || run_seeds(&seeds, margin));
}

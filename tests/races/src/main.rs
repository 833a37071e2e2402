//! Runs the checks, two or more at a time: `gmux-races [--schedules N] [--seed S] [--list]
//! [--replay SCHEDULE] [--exact] [NAME]...`
//!
//! A NAME chooses the checks that contain it. With `--exact`, it chooses the check of that name,
//! which must exist. Exits non-zero if a check failed.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use gmux_races::checks::{Check, Plan, all};

/// Executions of each check by each scheduler, unless `--schedules` says otherwise.
const SCHEDULES: usize = 2000;

fn main() {
    let mut plan = Plan { schedules: SCHEDULES, seed: 1, print: true };
    let mut names = Vec::new();
    let mut replay = None;
    let mut list = false;
    let mut exact = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| usage(&arg));
        match arg.as_str() {
            "--schedules" => plan.schedules = value().parse().unwrap_or_else(|_| usage(&arg)),
            "--seed" => {
                plan.seed = match value().as_str() {
                    "new" => SystemTime::now()
                        .duration_since(UNIX_EPOCH)
                        .map_or(1, |age| age.as_nanos() as u64),
                    seed => seed.parse().unwrap_or_else(|_| usage(&arg)),
                }
            }
            "--replay" => replay = Some(value()),
            "--break" => facade::breaks::choose(&value()),
            "--quiet" => plan.print = false,
            "--log" => {
                log::set_max_level(log::LevelFilter::Trace);
                let _ = log::set_logger(&Stderr);
            }
            "--list" => list = true,
            "--exact" => exact = true,
            name if !name.starts_with('-') => names.push(name.to_owned()),
            _ => usage(&arg),
        }
    }
    if exact
        && let Some(unknown) =
            names.iter().find(|name| all().iter().all(|check| check.name != name.as_str()))
    {
        usage(&format!("no check is called {unknown}"));
    }
    let is_meant = |check: &Check, name: &String| {
        if exact { check.name == name } else { check.name.contains(name) }
    };
    let chosen = |check: &Check| names.is_empty() || names.iter().any(|name| is_meant(check, name));
    let checks: VecDeque<Check> = all().into_iter().filter(chosen).collect();
    if list {
        checks.iter().for_each(|check| println!("{:32} {}", check.name, check.about));
        return;
    }
    if checks.is_empty() {
        usage("no check has such a name");
    }
    let begin = Instant::now();
    let count = checks.len();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(checks);
    let failed = Mutex::new(0);
    println!("seed {}, {} schedules by each scheduler", plan.seed, plan.schedules);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let check = queue.lock().expect("no check panics").pop_front();
                    let Some(check) = check else { return };
                    // Each check has a thread of its own. A failed execution may leave
                    // thread-locals behind, which must not reach the next check.
                    let explore = || match &replay {
                        Some(schedule) => check.replay(schedule),
                        None => check.explore(&plan),
                    };
                    let report = std::thread::scope(|scope| {
                        scope.spawn(explore).join().expect("no check panics")
                    });
                    *failed.lock().expect("no check panics") += usize::from(report.failed);
                    println!("{:32} {}", check.name, report.text);
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no check panics");
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let seconds = begin.elapsed().as_secs_f64();
    // The last line has the form of cargo's own tests, for scripts that add up the counts.
    println!(
        "test result: {verdict}. {} passed; {failed} failed; finished in {seconds:.1}s",
        count - failed
    );
    std::process::exit(i32::from(failed > 0));
}

fn usage(about: &str) -> ! {
    eprintln!(
        "{about}: usage: gmux-races [--schedules N] [--seed S|new] [--quiet] [--log] [--break \
         MISTAKE] [--list] [--replay SCHEDULE] [--exact] [NAME]..."
    );
    std::process::exit(2);
}

/// Prints the library's log, to follow a schedule that is replayed.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("{} {} {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

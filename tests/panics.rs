//! A panic of a user's code costs at worst its session: a transport of any kind, its hooks, or the
//! logger, at any step of a session's life. Another session of the process keeps its keepalive and
//! its time limits.
//!
//! A script runs once to count its calls. Then it runs again for each call, and that call panics.
//! The logger belongs to the process, so this file is a binary of its own, and its tests run one at
//! a time.
//!
//! Promises: P82.
#![cfg(target_os = "linux")]

#[path = "panics/panic_run.rs"]
mod panic_run;
mod support;
#[path = "panics/trap.rs"]
mod trap;

use panic_run::{Ending, PanicRun};
use support::test_for;
use trap::{Kind, LOGGER, Over, Trap};

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Runs a test of this file alone. The log, the threads and the timer belong to the process.
fn alone(name: &str, body: impl FnOnce(&PanicRun)) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    test_for(name, Duration::from_secs(120), || body(&PanicRun::begin()));
}

fn is_full() -> bool {
    std::env::var_os("GMUX_FULL").is_some()
}

/// Returns each version with some of the endings. In the full run, with all of them.
fn rounds(endings: [&[Ending]; 2]) -> Vec<(u8, Ending)> {
    let chosen =
        |version: u8| if is_full() { &Ending::ALL } else { endings[usize::from(version) - 1] };
    (1..=2)
        .flat_map(|version| chosen(version).iter().map(move |&ending| (version, ending)))
        .collect()
}

/// Returns the kinds of panic for the n-th call. Each round has another kind. In the full run, each
/// has all of them.
fn kinds(n: usize, round: usize) -> Vec<Kind> {
    if is_full() { Kind::ALL.to_vec() } else { vec![Kind::ALL[(n + round) % 3]] }
}

/// No line of the log panics.
const NO_LINE: (usize, Kind) = (0, Kind::Text);

/// Runs the script once for each call of the transport that it makes.
fn each_call(run: &PanicRun, over: Over, endings: [&[Ending]; 2]) {
    for (round, (version, ending)) in rounds(endings).into_iter().enumerate() {
        let counted = Trap::new(over, 0, Kind::Text);
        run.play(&counted, NO_LINE, version, ending);
        assert!(counted.count() > 10, "only {} calls: {:?}", counted.count(), counted.names());
        // The number of calls depends on the schedule. So this tries some more than were counted.
        for n in 1..=counted.count() + 2 {
            for kind in kinds(n, round) {
                run.play(&Trap::new(over, n, kind), NO_LINE, version, ending);
            }
        }
    }
}

#[test]
fn a_transport_that_panics_at_any_call_costs_its_session_alone() {
    alone("a_transport_that_panics_at_any_call_costs_its_session_alone", |run| {
        each_call(
            run,
            Over::Halves,
            [&[Ending::Close, Ending::NoData], &[Ending::Drop, Ending::Lost]],
        );
    });
}

#[test]
fn a_pair_whose_halves_or_hook_panic_costs_its_session_alone() {
    alone("a_pair_whose_halves_or_hook_panic_costs_its_session_alone", |run| {
        each_call(run, Over::Pair, [&[Ending::NoData], &[Ending::Close, Ending::Drop]]);
    });
}

#[test]
fn a_shared_transport_whose_closures_panic_costs_its_session_alone() {
    alone("a_shared_transport_whose_closures_panic_costs_its_session_alone", |run| {
        each_call(run, Over::Shared, [&[Ending::NoData], &[Ending::Close]]);
    });
}

#[test]
fn a_logger_that_panics_at_any_line_costs_the_line_alone() {
    alone("a_logger_that_panics_at_any_line_costs_the_line_alone", |run| {
        let rounds = rounds([&[Ending::Close, Ending::NoData], &[Ending::NoData, Ending::Lost]]);
        for (round, (version, ending)) in rounds.into_iter().enumerate() {
            let sound = || Trap::new(Over::Halves, 0, Kind::Text);
            run.play(&sound(), (usize::MAX, Kind::Text), version, ending);
            let lines = LOGGER.count();
            assert!(lines > 10, "only {lines} lines");
            for n in 1..=lines + 2 {
                for kind in kinds(n, round) {
                    run.play(&sound(), (n, kind), version, ending);
                }
            }
        }
    });
}

/// The process has one timer thread. If it died, all sessions would lose keepalive and time limits.
#[test]
fn a_logger_that_panics_on_the_timers_thread_stops_no_keepalive_and_no_timeout() {
    alone("a_logger_that_panics_on_the_timers_thread_stops_no_keepalive_and_no_timeout", |run| {
        LOGGER.only_timers(true);
        for kind in Kind::ALL {
            run.play(&Trap::new(Over::Halves, 0, kind), (1, kind), 1, Ending::NoData);
            assert!(LOGGER.count() > 0, "the timer said nothing");
        }
        LOGGER.only_timers(false);
    });
}

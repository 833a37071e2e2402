//! Hostile peers: what an attack may cost, and whom. `src/manual/security.md` has the table.
//!
//! Each attack is made on a process of its own, this test's executable, which measures its memory, threads, log and panics; beside it, in
//! the same process, a well-behaved peer is served. `GMUX_FULL` makes the attacks as large as the table says, and measures what the
//! well-behaved peer gets beside them.
#![cfg(target_os = "linux")]

#[path = "hostile/attacks.rs"]
mod attacks;
#[path = "hostile/matrix.rs"]
mod matrix;
#[path = "hostile/scene.rs"]
mod scene;
mod support;
#[path = "hostile/victim.rs"]
mod victim;

use std::panic::catch_unwind;
use std::time::Duration;

use attacks::{ALL, Attack, Fate};
use scene::{Outcome, Sent};
use support::test_for;

fn full() -> bool {
    std::env::var_os("GMUX_FULL").is_some()
}

/// How many lines a session logs a second at most (ten complaints and the count of those left out), and at its beginning and its end.
const LINES_A_SECOND: u64 = 11;
const LINES_A_SESSION: u64 = 5;

/// How long a line is at most, in bytes.
const LINE: u64 = 1024;

/// Threads of the victim that are none of the attack's doing: the harness's, its own, two sessions' with their applications, the timer; and those that
/// serve the well-behaved peer's streams, one at a time, and another that ends.
const THREADS: usize = 16;

/// Threads that a session that is attacked has, with its application.
const THREADS_A_SESSION: usize = 3;

fn assert_bounded(attack: &Attack, version: u8, outcome: &Outcome) {
    let Outcome { report, sent, ending, friend } = outcome;
    let of = |key: &str| report.get(key);
    let name = format!("{} v{version}", attack.name);
    let bound = attack.bound() as u64;
    println!(
        "{name}: sent {sent} ({ending:?}), memory {} KiB of {} KiB, now {} KiB, buffered {} KiB, streams {}, refused {}, cut {}, ignored {}, \
         threads {}, {} lines (longest {}) in {} ms, cpu {} ms, ended {} {:?}, transfers beside {friend}",
        of("memory_peak") / 1024,
        bound / 1024,
        of("memory_now") / 1024,
        of("buffered_peak") / 1024,
        of("streams_peak"),
        of("refused"),
        of("cut"),
        of("ignored"),
        of("threads_peak"),
        of("lines"),
        of("longest_line"),
        of("millis"),
        of("cpu_millis"),
        of("ended"),
        report.reasons,
    );
    assert_eq!(of("panics"), 0, "{name}");
    assert!(of("memory_peak") <= bound, "{name}: {} bytes of memory, {bound} are allowed", of("memory_peak"));
    // The budget, and the one frame that is let in when nothing else is held.
    let buffered = attack.settings.receive_buffer.max(65_600) as u64 * (1 + attack.cost.sessions as u64);
    assert!(of("buffered_peak") <= buffered, "{name}: {} bytes are buffered", of("buffered_peak"));
    let sessions = of("ended") + of("alive");
    let lines = (of("millis") / 1000 + 1) * LINES_A_SECOND + sessions * LINES_A_SESSION;
    assert!(of("lines") <= lines, "{name}: {} lines in {} ms", of("lines"), of("millis"));
    assert!(of("longest_line") <= LINE, "{name}: a line of {} bytes", of("longest_line"));
    let threads = THREADS + attack.cost.threads + attack.cost.sessions * THREADS_A_SESSION;
    assert!(of("threads_peak") <= threads as u64, "{name}: {} threads", of("threads_peak"));
    match attack.fate {
        Fate::Lives => assert!(of("ended") == 0 && *ending == Sent::All, "{name}: {:?}", report.reasons),
        Fate::Waits => assert!(of("ended") == 0 && *ending != Sent::Gone, "{name}: {ending:?} {:?}", report.reasons),
        Fate::Ends(reason) => assert!(
            of("ended") > 0 && report.reasons.split(',').all(|found| found.starts_with(reason)),
            "{name}: {:?}",
            report.reasons
        ),
    }
}

#[test]
fn every_attack_costs_no_more_than_the_settings_allow() {
    test_for("every_attack_costs_no_more_than_the_settings_allow", Duration::from_secs(600), || {
        let only = std::env::var("GMUX_HOSTILE_ONLY").ok();
        let mut failed = Vec::new();
        for attack in ALL.iter().filter(|attack| only.as_ref().is_none_or(|only| attack.name == only)) {
            if attack.pieces.0 == 0 && !full() {
                continue; // for the full run
            }
            for &version in attack.versions {
                let outcome = scene::attack(attack, version, full());
                if catch_unwind(|| assert_bounded(attack, version, &outcome)).is_err() {
                    failed.push((attack.name, version));
                }
            }
        }
        assert!(failed.is_empty(), "{failed:?}: see above");
    });
}

/// The attacked process: started by the other tests.
#[test]
#[ignore = "the other tests' child process"]
fn the_victim() {
    if let Ok(attack) = std::env::var(victim::ATTACK) {
        victim::main(&attack);
    }
}

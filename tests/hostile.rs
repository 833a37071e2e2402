//! Hostile peers: how much an attack may cost, and who pays. `src/manual/security.md` has the
//! table.
//!
//! Each attack is made on a process of its own, which runs this test's executable. That process
//! measures its memory, threads, log and panics. Beside the attack, the same process serves a
//! well-behaved peer. `GMUX_FULL` makes the attacks as large as the table says, and measures how
//! much service the well-behaved peer gets beside them.
//!
//! Promises: P65, P67, P112, P115.
#![cfg(target_os = "linux")]

#[path = "hostile/attack_run.rs"]
mod attack_run;
#[path = "hostile/attacks.rs"]
mod attacks;
#[path = "hostile/matrix.rs"]
mod matrix;
mod support;
#[path = "hostile/victim.rs"]
mod victim;

use std::io::Write;
use std::panic::catch_unwind;
use std::time::Duration;

use attack_run::{Outcome, Sent, Traffic, Victim};
use attacks::{ALL, Answers, Attack, Fate, SLOW, SLOW_CONNECTIONS};
use gmux::wire::{Command, Frame};
use support::test_for;

fn full() -> bool {
    std::env::var_os("GMUX_FULL").is_some()
}

/// Upper limit of a session's log lines a second, and at its beginning and its end. It is ten
/// warnings, and one line with the number of warnings left out.
const LINES_A_SECOND: u64 = 11;
const LINES_A_SESSION: u64 = 5;

/// Upper limit of a log line's length, in bytes.
const LINE: u64 = 700;

/// Threads of the victim that don't belong to the attack:
///
/// - the harness's and the victim's own
/// - those of two sessions with their applications, and the timer
/// - the thread that serves a stream of the well-behaved peer, one at a time, and another that ends
const THREADS: usize = 16;

/// Threads of one attacked session with its application.
const THREADS_A_SESSION: usize = 3;

fn assert_bounded(attack: &Attack, version: u8, outcome: &Outcome) {
    let Outcome { report, over, sent, ending, friend } = outcome;
    let of = |key: &str| report.get(key);
    let name = format!("{} v{version}", attack.name);
    let bound = attack.bound() as u64;
    println!(
        "{name}: sent {sent} ({ending:?}), memory {} KiB of {} KiB, now {} KiB, buffered {} KiB, \
         streams {}, refused {}, cut {}, ignored {}, \
         threads {}, {} lines (longest {}) in {} ms, cpu {} ms, ended {} {:?}, transfers beside \
         {friend}",
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
    assert_eq!(over.get("panics"), 0, "{name}");
    let peak = over.get("memory_peak");
    assert!(peak <= bound, "{name}: {peak} bytes of memory, {bound} are allowed");
    // The budget, and one frame. If nothing else is held, one frame is let in whatever its size.
    let buffered =
        attack.settings.receive_buffer.max(65_600) as u64 * (1 + attack.cost.sessions as u64);
    assert!(of("buffered_peak") <= buffered, "{name}: {} bytes are buffered", of("buffered_peak"));
    let sessions = of("ended") + of("alive");
    let lines = (of("millis") / 1000 + 1) * LINES_A_SECOND + sessions * LINES_A_SESSION;
    assert!(of("lines") <= lines, "{name}: {} lines in {} ms", of("lines"), of("millis"));
    assert!(of("longest_line") <= LINE, "{name}: a line of {} bytes", of("longest_line"));
    let threads = THREADS + attack.cost.threads + attack.cost.sessions * THREADS_A_SESSION;
    assert!(of("threads_peak") <= threads as u64, "{name}: {} threads", of("threads_peak"));
    match attack.fate {
        Fate::Lives => {
            assert!(of("ended") == 0 && *ending == Sent::All, "{name}: {:?}", report.reasons)
        }
        Fate::Waits => assert!(
            of("ended") == 0 && *ending != Sent::Gone,
            "{name}: {ending:?} {:?}",
            report.reasons
        ),
        Fate::Ends(reason) => assert!(
            of("ended") > 0 && report.reasons.split(',').all(|found| found.starts_with(reason)),
            "{name}: {:?}",
            report.reasons
        ),
        Fate::MayEnd(reason) => {
            assert!(of("ended") == 0 || report.reasons == reason, "{name}: {:?}", report.reasons)
        }
    }
}

#[test]
fn every_attack_costs_no_more_than_the_settings_allow() {
    test_for(
        "every_attack_costs_no_more_than_the_settings_allow",
        Duration::from_secs(600),
        || {
            let only = std::env::var("GMUX_HOSTILE_ONLY").ok();
            let mut failed = Vec::new();
            let mut made = 0;
            for attack in
                ALL.iter().filter(|attack| only.as_ref().is_none_or(|only| attack.name == only))
            {
                if attack.pieces.0 == 0 && !full() {
                    continue; // This measurement belongs to the full run.
                }
                for &version in attack.versions {
                    let name = format!("the attack {} v{version}", attack.name);
                    let outcome = test_for(&name, Duration::from_secs(120), || {
                        attack_run::attack(attack, version, full())
                    });
                    if catch_unwind(|| assert_bounded(attack, version, &outcome)).is_err() {
                        failed.push((attack.name, version));
                    }
                    made += 1;
                }
            }
            assert!(made > 0, "no attack is called {only:?}");
            assert!(failed.is_empty(), "{failed:?}: see above");
        },
    );
}

/// Upper limit of a connection's cost while a frame is under way, in bytes:
///
/// - the frame, as it is charged
/// - two threads' stacks as far as they are touched, the reader's buffer, a stream
/// - the share of the application and the test: a third thread, and a session in lists
const SLOW_CONNECTION: u64 = 65_600 + 96 * 1024;

#[test]
fn a_frame_that_never_ends_costs_its_buffer_until_its_bytes_stop_coming() {
    test_for(
        "a_frame_that_never_ends_costs_its_buffer_until_its_bytes_stop_coming",
        Duration::from_secs(120),
        || {
            for version in [1, 2] {
                // The pause is longer than the keepalive timeout.
                let pause = Duration::from_millis(if full() { 1000 } else { 200 });
                let [slow, over] = attack_run::slow(&SLOW, version, SLOW_CONNECTIONS, pause);
                let connections = SLOW_CONNECTIONS as u64;
                let bound = 2 * 1024 * 1024 + connections * SLOW_CONNECTION;
                println!(
                    "slow-frame v{version}: {connections} connections, memory {} KiB of {} KiB, \
                     buffered {} KiB, threads {}, {} lines, cpu {} ms in {} ms; \
                 ended {} {:?}",
                    slow.get("memory_peak") / 1024,
                    bound / 1024,
                    slow.get("buffered_peak") / 1024,
                    slow.get("threads_peak"),
                    over.get("lines"),
                    slow.get("cpu_millis"),
                    slow.get("millis"),
                    over.get("ended"),
                    over.reasons,
                );
                // While bytes arrive, the session is alive, and holds one buffer.
                assert_eq!(
                    (slow.get("alive"), slow.get("panics"), over.get("panics")),
                    (connections, 0, 0)
                );
                assert!(slow.get("memory_peak") <= bound, "{slow:?}");
                assert_eq!(slow.get("buffered_now"), connections * (65_536 + 64));
                assert!(
                    slow.get("threads_peak")
                        <= (THREADS + SLOW_CONNECTIONS * THREADS_A_SESSION) as u64,
                    "{slow:?}"
                );
                // When the bytes stop, keepalive ends the session.
                assert_eq!((over.get("ended"), &*over.reasons), (connections, "KeepaliveTimeout"));
                assert_eq!(over.get("buffered_now"), 0);
                assert!(over.get("lines") <= connections * LINES_A_SESSION, "{over:?}");
            }
        },
    );
}

/// The least share of service that a well-behaved peer must get beside an attacker. The whole is
/// the service beside a well-behaved neighbour that sends as many bytes.
const SHARE: f64 = 0.9;

/// The attackers' pace, in bytes a second.
const PACE: u64 = 1 << 20;

/// Length of each measurement. The two kinds alternate.
const SLICE: Duration = Duration::from_millis(700);
const MIN_ROUNDS: u64 = 3;
const MAX_ROUNDS: u64 = 21;

/// Returns pieces that `make` makes, enough bytes for one measurement and some more. Small pieces
/// are joined, unless `apart` is set. A system call for each would cost the attacker's side of the
/// machine, which isn't to be measured.
fn pieces(pace: u64, apart: bool, make: impl Fn(u32) -> Vec<u8>) -> Vec<Vec<u8>> {
    let (mut all, mut sent): (Vec<Vec<u8>>, u64) = (Vec::new(), 0);
    for n in 0.. {
        let piece = make(n);
        sent += piece.len() as u64;
        match all.last_mut() {
            Some(last) if !apart && last.len() < attack_run::part(pace) => last.extend(piece),
            _ => all.push(piece),
        }
        if sent >= pace * 5 / 4 {
            break;
        }
    }
    all
}

/// Measures the service beside an attack, so it runs only in the full run. Its output goes into the
/// table.
///
/// The service beside a good neighbour and the service beside the attack are measured alternately,
/// equally often, and the sums are compared. Single measurements on two cores differ by a third. So
/// the test goes on for longer while the share is too small.
#[test]
fn others_keep_their_share_beside_every_attack() {
    if !full() {
        let text =
            "\nLEFT OUT: what others get beside each attack is measured by tests/full hostile\n";
        // The text goes past the harness, which would hide it, on a line of its own.
        return std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    test_for("others_keep_their_share_beside_every_attack", Duration::from_secs(3600), || {
        let only = std::env::var("GMUX_HOSTILE_ONLY").ok();
        let pace = std::env::var("GMUX_HOSTILE_PACE").map_or(PACE, |pace| pace.parse().unwrap());
        let well_behaved = pieces(pace, false, |_| {
            Frame::new(1, Command::Psh, 1, vec![1; 32_768]).unwrap().encode()
        });
        let mut failed = Vec::new();
        let mut made = 0;
        for attack in
            ALL.iter().filter(|attack| only.as_ref().is_none_or(|only| attack.name == only))
        {
            for &version in attack.versions {
                let mut victim = Victim::start(attack, version);
                let bad = pieces(pace, attack.apart, |n| (attack.piece)(version, n));
                let good = Frame::new(1, Command::Syn, 1, victim::NEIGHBOUR).unwrap().encode();
                let good = Traffic {
                    door: victim.good,
                    prelude: good,
                    answers: Answers::Read,
                    pieces: &well_behaved,
                    apart: false,
                };
                let prelude = (attack.prelude)(version);
                let bad = Traffic {
                    door: victim.bad,
                    prelude,
                    answers: attack.answers,
                    pieces: &bad,
                    apart: attack.apart,
                };
                let mut served = [0; 2];
                let mut cpu = [0; 2];
                let mut share = 0.0;
                let mut rounds = 0;
                while rounds < MIN_ROUNDS || (rounds < MAX_ROUNDS && share < SHARE) {
                    for (i, traffic) in [&good, &bad].into_iter().enumerate() {
                        let (bytes, millis) = attack_run::beside(&mut victim, SLICE, pace, traffic);
                        served[i] += bytes;
                        cpu[i] += millis;
                    }
                    rounds += 1;
                    share = served[1] as f64 / served[0].max(1) as f64;
                }
                println!(
                    "{} v{version} at {} KiB/s: share {share:.2} in {rounds} rounds; the victim's \
                     cpu {} ms beside a good neighbour, {} ms beside this",
                    attack.name,
                    pace / 1024,
                    cpu[0] / rounds,
                    cpu[1] / rounds,
                );
                if share < SHARE {
                    failed.push((attack.name, version));
                }
                victim.end();
                made += 1;
            }
        }
        assert!(made > 0, "no attack is called {only:?}");
        assert!(failed.is_empty(), "{failed:?}: see above");
    });
}

/// Runs the attacked process. The other tests start it.
#[test]
#[ignore = "the other tests' child process"]
fn the_victim() {
    if let Ok(attack) = std::env::var(victim::ATTACK) {
        victim::main(&attack);
    }
}

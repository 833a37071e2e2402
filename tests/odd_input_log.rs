//! The log lines about odd input and about pauses: they name the session and the stream, and their
//! rate is limited.
//!
//! Promises: P85, P88, P89.

mod support;

use std::io::{Read, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gmux::wire::Command;
use gmux::{Config, Error, Session};
use log::{Level, LevelFilter, Log, Metadata, Record};
use support::raw::{against_client, against_server};
use support::{test, until};

/// P88: the limit of warnings per second and session that a peer can provoke.
const RATE: usize = 10;

/// A logger that keeps two lists: the warnings and errors, and the lines about sent frames.
struct Keep(Mutex<Vec<(String, String)>>, Mutex<Vec<String>>);

static KEEP: Keep = Keep(Mutex::new(Vec::new()), Mutex::new(Vec::new()));

impl Log for Keep {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() <= Level::Warn {
            self.0.lock().unwrap().push((record.target().to_owned(), record.args().to_string()));
        }
        if record.level() == Level::Trace && record.target() == "gmux::writer" {
            self.1.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn keep_log() {
    let _ = log::set_logger(&KEEP); // fails if another test of this file has set it
    log::set_max_level(LevelFilter::Trace);
}

/// Returns the warnings about a session so far, without the session's number.
fn warnings(session: &Session) -> Vec<String> {
    let prefix = format!("session {}: ", session.number());
    let kept = KEEP.0.lock().unwrap();
    assert!(kept.iter().all(|(target, _)| target.starts_with("gmux::")), "{kept:?}");
    kept.iter().filter_map(|(_, line)| line.strip_prefix(&prefix)).map(str::to_owned).collect()
}

fn config(version: u8) -> Config {
    Config::new().version(version).keepalive_disabled(true)
}

#[test]
fn data_after_fin_is_one_warning_per_stream_with_its_name() {
    test("data_after_fin_is_one_warning_per_stream_with_its_name", || {
        keep_log();
        let (mut raw, session) = against_server(config(1), 1);
        for (id, name) in [(3, "first"), (5, "line\nbreak"), (7, "well-behaved")] {
            raw.syn(id, name);
            raw.fin(id);
        }
        for id in [3, 3, 5, 3, 5] {
            raw.psh(id, "late");
            raw.psh(id, [0; 10_000]);
        }
        until(|| session.stats().frames_ignored == 10);
        let warnings = warnings(&session);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("stream 3 \"first\""), "{warnings:?}");
        // A line break in the peer's name doesn't break the log line.
        assert!(warnings[1].contains("stream 5 \"line\\nbreak\""), "{warnings:?}");
    });
}

#[test]
fn a_stream_that_fails_alone_is_a_warning_with_its_name_and_the_error() {
    test("a_stream_that_fails_alone_is_a_warning_with_its_name_and_the_error", || {
        keep_log();
        let (mut raw, session) = against_server(config(2), 2);
        raw.syn(3, "overpaid");
        raw.upd(3, 1, 65536);
        until(|| session.stats().streams_cut == 1);
        let warnings = warnings(&session);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("stream 3 \"overpaid\""), "{warnings:?}");
        assert!(warnings[0].contains("consumed more than sent"), "{warnings:?}");
    });
}

#[test]
fn refusals_are_warnings_at_a_bounded_rate_and_left_out_lines_are_counted() {
    test("refusals_are_warnings_at_a_bounded_rate_and_left_out_lines_are_counted", || {
        keep_log();
        let config = config(1).accept_backlog(1).accept_stall_timeout(Some(Duration::ZERO));
        let (mut raw, session) = against_server(config.max_name_len(100), 1);
        raw.syn(1, "waits");
        let start = Instant::now();
        for n in 0..500 {
            // Streams are refused for two reasons alternately.
            raw.syn(3 + 4 * n, format!("refused {n}"));
            raw.syn(5 + 4 * n, [b'n'; 101]);
        }
        until(|| session.stats().streams_refused == 1000);
        let seconds = start.elapsed().as_secs() as usize + 1;
        let said = warnings(&session);
        assert!(said.len() <= (RATE + 1) * seconds, "{} warnings in {seconds} s", said.len());
        assert!(said[0].contains("stream 3 ") && said[0].contains("backlog"), "{}", said[0]);
        assert!(said[1].contains("stream 5 ") && said[1].contains("max_name_len"), "{}", said[1]);

        // The first warning after a second is preceded by the number of lines that were left out.
        // No event tells that a second is over, so this sleeps.
        std::thread::sleep(Duration::from_millis(1100));
        raw.syn(4003, "");
        until(|| session.stats().streams_refused == 1001);
        until(|| warnings(&session).iter().any(|line| line.contains("stream 4003 ")));
        let (left_out, said): (Vec<_>, Vec<_>) =
            warnings(&session).into_iter().partition(|line| line.contains("left out"));
        let left_out: usize = left_out
            .iter()
            .map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap())
            .sum();
        assert_eq!(said.len() + left_out, 1001);
        assert!(left_out > 0);
    });
}

/// P89: a warning about a refused stream has its name, if the name is known.
#[test]
fn a_refusal_names_the_stream() {
    test("a_refusal_names_the_stream", || {
        keep_log();
        let config = config(1).accept_backlog(1).accept_stall_timeout(Some(Duration::ZERO));
        let (mut raw, session) = against_server(config, 1);
        raw.syn(1, "waits");
        raw.syn(3, "one too many");
        until(|| session.stats().streams_refused == 1);
        until(|| !warnings(&session).is_empty());
        let warnings = warnings(&session);
        assert!(
            warnings[0].contains("stream 3") && warnings[0].contains("one too many"),
            "{warnings:?}"
        );
    });
}

// ---- pauses -------------------------------------------------------------------------------------

/// Waits for the line about a pause of the session, which has to contain `words`. Then calls
/// `go_on`, which ends the pause, and waits for the line that says so.
fn explained(session: &Session, words: &[&str], go_on: impl FnOnce()) {
    let about = || {
        warnings(session)
            .into_iter()
            .filter(|line| line.contains("pause") || line.contains("nothing"))
    };
    until(|| about().count() == 1);
    let line = about().next().unwrap();
    assert!(line.starts_with("nothing has been read for "), "{line}");
    assert!(words.iter().all(|word| line.contains(word)), "{words:?}: {line}");
    go_on();
    until(|| about().count() > 1);
    let end = about().nth(1).unwrap();
    assert!(end.starts_with("reading goes on after a pause of "), "{end}");
    assert_eq!(about().count(), 2);
}

/// P88: a session of version 1 stops reading because nobody reads one stream. The log names that
/// stream, its unread bytes, and the setting to change.
#[test]
fn a_session_that_has_stopped_reading_for_a_second_says_which_stream_holds_most() {
    test("a_session_that_has_stopped_reading_for_a_second_says_which_stream_holds_most", || {
        keep_log();
        for (version, advice) in [(1, "version 2"), (2, "30s (stall_timeout)")] {
            let (mut raw, session) =
                against_server(config(version).max_receive_buffer(262_144), version);
            raw.syn(3, "little");
            raw.psh(3, [0; 100]);
            raw.syn(5, "hog");
            for _ in 0..8 {
                raw.psh(5, [0; 32_768]);
            }
            raw.psh(3, [0; 20_000]);
            until(|| session.stats().receive_pauses == 1);
            let streams = [(); 2].map(|()| session.accept().unwrap());
            let held = |line: &str| line.contains("bytes") && line.contains("of the 262144");
            explained(
                &session,
                &["stream 5 \"hog\" holds most", "max_receive_buffer", "Read faster", advice],
                || {
                    for (mut stream, len) in streams.iter().rev().zip([8 * 32_768, 20_100]) {
                        stream.read_exact(&mut vec![0; len]).unwrap();
                    }
                },
            );
            assert!(warnings(&session).iter().any(|line| held(line)));
        }
    });
}

#[test]
fn a_session_whose_backlog_is_full_for_a_second_says_how_many_streams_wait() {
    test("a_session_whose_backlog_is_full_for_a_second_says_how_many_streams_wait", || {
        keep_log();
        for (timeout, advice) in [(None, "an accept_stall_timeout would"), (Some(60), "60s after")]
        {
            let config =
                config(1).accept_backlog(2).accept_stall_timeout(timeout.map(Duration::from_secs));
            let (mut raw, session) = against_server(config, 1);
            for id in [3, 5, 7] {
                raw.syn(id, "");
            }
            explained(
                &session,
                &["2 streams wait for accept", "raise accept_backlog", "Accept faster", advice],
                || {
                    let _ = session.accept().unwrap();
                },
            );
        }
    });
}

/// Short pauses are ordinary, so they aren't logged.
#[test]
fn a_pause_shorter_than_a_second_says_nothing() {
    test("a_pause_shorter_than_a_second_says_nothing", || {
        keep_log();
        let mut shown = false;
        while !shown {
            let (mut raw, session) =
                against_server(config(1).accept_backlog(1).accept_stall_timeout(None), 1);
            let before = Instant::now();
            raw.syn(3, "");
            raw.syn(5, "");
            until(|| session.stats().accept_pauses == 1);
            let _ = [(); 2].map(|()| session.accept().unwrap());
            // Otherwise the machine was too slow for this attempt.
            shown = before.elapsed() < Duration::from_secs(1);
            assert!(!shown || warnings(&session).is_empty(), "{:?}", warnings(&session));
        }
    });
}

#[test]
fn a_fatal_fault_is_one_warning_with_the_session_the_peer_and_the_error() {
    test("a_fatal_fault_is_one_warning_with_the_session_the_peer_and_the_error", || {
        keep_log();
        let (mut raw, session) = against_server(config(1), 1);
        let peer = raw.stream.local_addr().unwrap();
        raw.bytes(&[1, 77, 0, 0, 0, 0, 0, 0]);
        assert!(session.accept().is_err());
        let about_it = |line: &&(String, String)| line.1.contains(&format!("with {peer} ended"));
        until(|| KEEP.0.lock().unwrap().iter().any(|line| about_it(&line)));
        let kept = KEEP.0.lock().unwrap();
        let lines: Vec<_> = kept.iter().filter(about_it).collect();
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].1.starts_with("session ") && lines[0].1.contains("invalid command 0x4d"),
            "{lines:?}"
        );
    });
}

/// P88: if the session ends within the second, the number of lines that were left out is logged at
/// its end.
#[test]
fn left_out_lines_are_counted_at_the_sessions_end_too() {
    test("left_out_lines_are_counted_at_the_sessions_end_too", || {
        keep_log();
        let (mut raw, session) = against_server(config(1).max_name_len(1), 1);
        for n in 0..100 {
            raw.syn(1 + 2 * n, "refused");
        }
        until(|| session.stats().streams_refused == 100);
        raw.finish();
        assert!(session.closed().recv().is_err());
        let counted = || {
            let (left_out, said): (Vec<_>, Vec<_>) =
                warnings(&session).into_iter().partition(|line| line.contains("left out"));
            let left_out = left_out
                .iter()
                .map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap());
            said.len() + left_out.sum::<usize>()
        };
        until(|| counted() == 100); // the line may come just after the session's end
    });
}

/// The peer can't know that this end has cut the stream, so its data is no fault.
#[test]
fn data_after_our_own_cut_is_no_warning() {
    test("data_after_our_own_cut_is_no_warning", || {
        keep_log();
        // Cut for a fault of the peer.
        let (mut raw, session) = against_server(config(2), 2);
        raw.syn(3, "failed");
        raw.upd(3, 1, 65536);
        // Cut because it stalled the session.
        let after = Duration::from_millis(20);
        let small = config(2).max_receive_buffer(262_144).stall_timeout(Some(after));
        let (mut other, stalled) = against_server(small, 2);
        other.syn(3, "stalled");
        (0..5).for_each(|_| other.psh(3, [0; 60_000]));
        for (raw, session, frames) in [(&mut raw, &session, 6), (&mut other, &stalled, 10)] {
            until(|| session.stats().streams_cut == 1);
            let before = session.stats().frames_ignored;
            raw.psh(3, "small");
            raw.psh(3, [0; 10_000]);
            raw.fin(3);
            raw.nop();
            until(|| session.stats().frames_received == frames);
            assert!(session.stats().frames_ignored >= before + 2);
            let said = warnings(session);
            assert!(said.iter().all(|line| !line.contains("after its end")), "{said:?}");
        }
    });
}

/// P89: each kind of sent frame has a line at the level `trace`.
#[test]
fn frames_that_are_sent_are_named_at_trace() {
    test("frames_that_are_sent_are_named_at_trace", || {
        keep_log();
        let often =
            Config::new().version(2).max_name_len(10).keepalive_interval(Duration::from_millis(20));
        let (mut raw, session) =
            against_server(often.keepalive_timeout(Duration::from_secs(60)), 2);
        let mut stream = session.open("traced").unwrap();
        stream.write_all(&[7; 10_000]).unwrap();
        stream.flush().unwrap();
        raw.psh(2, "data");
        let prefix = format!("session {}: Version:2 ", session.number());
        let sent = || {
            let said = KEEP.1.lock().unwrap();
            said.iter()
                .filter_map(|line| line.strip_prefix(&prefix))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let named = |frame: &&str| sent().iter().any(|line| line == frame);
        stream.read_exact(&mut [0; 4]).unwrap();
        // The first read sends an UPD. A stream that is closed sends none.
        until(|| named(&"Cmd:4 StreamID:2 Length:8"));
        stream.close().unwrap();
        raw.syn(99, "refused, for its name");
        let frames = [
            "Cmd:0 StreamID:2 Length:6",
            "Cmd:2 StreamID:2 Length:10000",
            "Cmd:4 StreamID:2 Length:8",
            "Cmd:1 StreamID:2 Length:0",
            "Cmd:1 StreamID:99 Length:0",
            "Cmd:3 StreamID:0 Length:0",
        ];
        until(|| frames.iter().all(&named));
        // Each frame has one line. The last lines may come a moment later.
        until(|| sent().len() as u64 == session.stats().frames_sent);
    });
}

/// P85: all streams were written and closed before, so no call can fail, and the peer's end is
/// clean. The log asks about the setup instead.
#[test]
fn the_log_asks_about_a_peer_that_sent_nothing_if_no_call_can_fail() {
    test("the_log_asks_about_a_peer_that_sent_nothing_if_no_call_can_fail", || {
        keep_log();
        for opens in [true, false] {
            let (mut raw, session) = against_client(config(2), 2);
            if opens {
                session.open("forgotten").unwrap().close().unwrap();
                raw.expect(Command::Syn, 3);
                raw.expect(Command::Fin, 3);
                until(|| session.stats().frames_sent == 2);
            }
            raw.finish();
            assert!(matches!(session.accept(), Err(Error::PeerClosed)));
            let said = warnings(&session);
            assert_eq!(said.len(), usize::from(opens), "{said:?}");
            assert!(said.iter().all(
                |line| line.contains("configured for version 2") && line.contains("the client")
            ));
        }
    });
}

/// For example, the peer of an upload has nothing to send, and ends when this end has closed.
#[test]
fn the_log_asks_nothing_if_the_peer_ends_after_our_close() {
    test("the_log_asks_nothing_if_the_peer_ends_after_our_close", || {
        keep_log();
        let (mut raw, session) = against_client(config(1), 1);
        session.open("upload").unwrap().close().unwrap();
        let closing = std::thread::spawn({
            let session = session.clone();
            move || session.close()
        });
        assert_eq!(raw.rest().0.len(), 2);
        raw.finish();
        closing.join().unwrap().unwrap();
        assert_eq!(warnings(&session), Vec::<String>::new());
    });
}

//! What a session says in the log about its peer's odd input: which session, which stream, and not more than so often.

mod support;

use std::sync::Mutex;
use std::time::Instant;

use gmux::{Config, Session};
use log::{Level, LevelFilter, Log, Metadata, Record};
use support::raw::against_server;
use support::{test, until};

/// How many such warnings a session writes a second at most.
const RATE: usize = 10;

/// Keeps what is logged as a warning or an error.
struct Keep(Mutex<Vec<(String, String)>>);

static KEEP: Keep = Keep(Mutex::new(Vec::new()));

impl Log for Keep {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() <= Level::Warn {
            self.0.lock().unwrap().push((record.target().to_owned(), record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

fn keep_log() {
    let _ = log::set_logger(&KEEP); // another test of this binary may have done it
    log::set_max_level(LevelFilter::Trace);
}

/// The warnings about a session so far, without the session's number.
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
        // What the peer chose can't break a line.
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
fn refusals_are_warnings_at_a_bounded_rate_and_what_is_left_out_is_counted() {
    test("refusals_are_warnings_at_a_bounded_rate_and_what_is_left_out_is_counted", || {
        keep_log();
        let (mut raw, session) = against_server(config(1).accept_backlog(1).max_name_len(100), 1);
        raw.syn(1, "waits");
        let start = Instant::now();
        for n in 0..500 {
            // For two reasons in turn.
            raw.syn(3 + 4 * n, format!("refused {n}"));
            raw.syn(5 + 4 * n, [b'n'; 101]);
        }
        until(|| session.stats().streams_refused == 1000);
        let seconds = start.elapsed().as_secs() as usize + 1;
        let said = warnings(&session);
        assert!(said.len() <= (RATE + 1) * seconds, "{} warnings in {seconds} s", said.len());
        assert!(said[0].contains("stream 3 ") && said[0].contains("backlog"), "{}", said[0]);
        assert!(said[1].contains("stream 5 ") && said[1].contains("max_name_len"), "{}", said[1]);

        // The next one after a second says how many were left out: no event tells that a second is over.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        raw.syn(4003, "");
        until(|| session.stats().streams_refused == 1001);
        until(|| warnings(&session).iter().any(|line| line.contains("stream 4003 ")));
        let (left_out, said): (Vec<_>, Vec<_>) =
            warnings(&session).into_iter().partition(|line| line.contains("left out"));
        let left_out: usize =
            left_out.iter().map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap()).sum();
        assert_eq!(said.len() + left_out, 1001);
        assert!(left_out > 0);
    });
}

/// Streams whose name is known have it in the line, refused ones too.
#[test]
fn a_refusal_names_the_stream() {
    test("a_refusal_names_the_stream", || {
        keep_log();
        let (mut raw, session) = against_server(config(1).accept_backlog(1), 1);
        raw.syn(1, "waits");
        raw.syn(3, "one too many");
        until(|| session.stats().streams_refused == 1);
        until(|| !warnings(&session).is_empty());
        let warnings = warnings(&session);
        assert!(warnings[0].contains("stream 3") && warnings[0].contains("one too many"), "{warnings:?}");
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
        assert!(lines[0].1.starts_with("session ") && lines[0].1.contains("invalid command 0x4d"), "{lines:?}");
    });
}

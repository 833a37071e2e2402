//! Memory: the bounds of received data, of accepted data, of names, and of open streams.
//!
//! Promises: P67, P68, P69, P70.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::Mutex;

use gmux::wire::{Command, Frame};
use gmux::{Error, Session};
use support::raw::{Raw, against_server};
use support::scripted::{FAR, Script, count, processed, quiet};
use support::{Pattern, until};

const MIB: usize = 1 << 20;

/// Runs one test at a time, because some of them measure the process's memory.
fn test(name: &str, body: impl FnOnce()) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    support::test(name, body);
}

/// Returns the memory that the process has in use, in bytes, or 0 where the system doesn't tell.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024)
}

/// Sends frames of `len` bytes on stream `id` until the session stops reading. Bytes that are then
/// in the system's socket buffers don't occupy the session's memory.
fn flood(raw: &mut Raw, id: u32, len: usize, session: &Session) {
    let frame = Frame::new(raw.version, Command::Psh, id, vec![9; len]).unwrap().encode();
    let batch = frame.repeat((16_384 / frame.len()).max(1));
    let mut at = 0;
    raw.stream.set_nonblocking(true).unwrap();
    while session.stats().receive_pauses == 0 {
        match raw.stream.write(&batch[at..]) {
            Ok(n) => at = (at + n) % batch.len(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// P67: received and unread data occupies at most 1.5 times the budget, whatever frame sizes the
/// peer chooses.
#[test]
fn an_unread_stream_takes_no_more_memory_than_the_budget_allows() {
    test("an_unread_stream_takes_no_more_memory_than_the_budget_allows", || {
        for (len, budget) in
            [(1, MIB), (100, 4 * MIB), (1025, 4 * MIB), (33_000, 8 * MIB), (65_535, 8 * MIB)]
        {
            let (mut raw, session) = against_server(quiet().max_receive_buffer(budget), 1);
            raw.syn(1, "");
            let stream = session.accept().unwrap();
            let before = resident();
            flood(&mut raw, 1, len, &session);
            let stats = session.stats();
            let grown = resident().saturating_sub(before);
            assert!(
                stats.receive_buffered as usize <= budget + 65_600,
                "{len}: {} bytes charged",
                stats.receive_buffered
            );
            // The budget counts occupied memory, which is more than the held bytes, but not much
            // more.
            let held = stats.bytes_received as usize;
            assert!(held >= budget / 3, "{len}: only {held} bytes are held");
            // The 4 MiB are for the read buffer, the threads' stacks, and memory that the allocator
            // keeps.
            assert!(
                grown <= budget * 3 / 2 + 4 * MIB,
                "{len}: the process has grown by {grown} bytes"
            );
            session.set_no_data_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
            drop(raw);
            drop(stream);
        }
    });
}

/// P67: many streams with one unread byte each are charged at the memory that they occupy.
#[test]
fn many_small_rests_are_charged_at_what_they_occupy() {
    test("many_small_rests_are_charged_at_what_they_occupy", || {
        let (mut raw, session) =
            against_server(quiet().max_receive_buffer(MIB).accept_backlog(100_000), 1);
        let mut frames = Vec::new();
        for id in (1..60_000).step_by(2) {
            frames.extend(Frame::new(1, Command::Syn, id, []).unwrap().encode());
            frames.extend(Frame::new(1, Command::Psh, id, [id as u8]).unwrap().encode());
        }
        let mut sender = raw.stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || sender.write_all(&frames).unwrap());
        until(|| session.stats().receive_pauses > 0);
        let stats = session.stats();
        assert!(stats.receive_buffered as usize <= MIB);
        assert!(
            stats.streams_received < 16_384,
            "a byte costs {} bytes",
            MIB as u64 / stats.streams_received
        );
        // Reading goes on as streams are accepted and read, so all 30,000 arrive.
        for id in (1..60_000).step_by(2) {
            let mut stream = session.accept().unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            assert_eq!((stream.id(), byte[0]), (id, id as u8));
        }
        sender.join().unwrap();
        let fins = |raw: &mut Raw| {
            (0..30_000).map(|_| raw.recv()).all(|frame| frame.header.command == Command::Fin)
        };
        assert!(fins(&mut raw));
        assert_eq!(session.stats().receive_buffered, 0);
    });
}

/// P67: a small unread rest doesn't keep the buffer of its large frame.
#[test]
fn the_rest_of_a_large_frame_gives_its_buffer_back() {
    test("the_rest_of_a_large_frame_gives_its_buffer_back", || {
        let (mut raw, session) = against_server(quiet(), 1);
        let sent = Pattern::bytes(1, 65_535);
        let mut streams = Vec::new();
        for id in (1..41).step_by(2) {
            raw.syn(id, "");
            raw.psh(id, &sent);
            let mut stream = session.accept().unwrap();
            let mut got = vec![0; 65_534];
            stream.read_exact(&mut got).unwrap();
            assert!(got == sent[..65_534]);
            streams.push(stream);
        }
        let held = session.stats().receive_buffered;
        assert!(held <= 20 * 200, "20 bytes hold {held}");
        for stream in &mut streams {
            let mut last = [0];
            stream.read_exact(&mut last).unwrap();
            assert_eq!(last[0], sent[65_534]);
        }
        assert_eq!(session.stats().receive_buffered, 0);
    });
}

/// P68: a stream holds at most `max_send_buffer` accepted bytes, beside those in the writer's
/// hands.
#[test]
fn a_stream_accepts_no_more_than_its_send_buffer() {
    test("a_stream_accepts_no_more_than_its_send_buffer", || {
        for (max, piece) in
            [(1, 1), (1000, 7), (65_536, 65_536), (262_144, 1_000_000), (100_000, 1)]
        {
            let (script, session) = Script::client(quiet().max_send_buffer(max));
            let streams = [session.open("").unwrap(), session.open("").unwrap()];
            script.blocked();
            let bytes = vec![1; piece];
            let mut accepted = 0;
            for mut stream in &streams {
                stream.set_nonblocking(true).unwrap();
                accepted += std::iter::from_fn(|| stream.write(&bytes).ok()).sum::<usize>();
                assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::WouldBlock);
            }
            let in_flight = script.blocked();
            assert!(
                accepted <= 2 * max + in_flight,
                "{accepted} bytes accepted, {in_flight} of them in a write"
            );
            assert!(accepted >= 2 * max);
            script.allow_all();
            let sent = script.until_frames(|frames| {
                frames
                    .iter()
                    .filter(|frame| frame.header.command == Command::Psh)
                    .map(|f| f.payload.len())
                    .sum::<usize>()
                    >= accepted
            });
            assert!(sent.iter().all(|frame| frame.payload.len() <= 32_768));
            script.eof();
        }
    });
}

/// P69: a stream of the peer counts against `max_streams` until its FIN is handed over.
/// `num_streams` counts only streams that aren't closed.
#[test]
fn the_peers_closed_streams_count_until_their_fin_is_handed_over() {
    test("the_peers_closed_streams_count_until_their_fin_is_handed_over", || {
        let (script, session) = Script::server(quiet().max_streams(2));
        script.frame(1, Command::Syn, 1, &[]);
        script.frame(1, Command::Syn, 3, &[]);
        let streams = [session.accept().unwrap(), session.accept().unwrap()];
        assert_eq!(session.num_streams(), 2);
        drop(streams);
        assert_eq!(session.num_streams(), 0);
        script.frame(1, Command::Syn, 5, &[]);
        script.idle();
        let stats = session.stats();
        assert_eq!((stats.streams, stats.streams_peak, stats.streams_refused), (0, 2, 1));
        script.allow_all();
        script.until_frames(|frames| {
            [1, 3, 5].iter().all(|&id| count(frames, Command::Fin, id) == 1)
        });
        // Each FIN has been written, but is counted a moment later. So streams are refused for a
        // moment.
        let mut id = 7;
        until(|| {
            script.frame(1, Command::Syn, id, &[]);
            script.idle();
            id += 2;
            session.num_streams() > 0
        });
        assert_eq!(session.accept().unwrap().id(), id - 2);
        script.eof();
    });
}

/// P69: a stream that this end opened counts against `max_streams` in the same way.
#[test]
fn our_closed_streams_count_until_their_fin_is_handed_over() {
    test("our_closed_streams_count_until_their_fin_is_handed_over", || {
        let (script, session) = Script::client(quiet().max_streams(2).close_timeout(FAR));
        let a = session.open("a").unwrap();
        let b = session.open("b").unwrap();
        let error = session.open("c").unwrap_err();
        assert!(matches!(error, Error::TooManyStreams { max: 2 }));
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
        drop(a);
        assert_eq!(session.num_streams(), 1);
        assert!(matches!(session.open("c"), Err(Error::TooManyStreams { max: 2 })));
        script.allow_all();
        script.until_frames(|frames| count(frames, Command::Fin, 3) == 1);
        let mut opened = None;
        until(|| {
            // The FIN has been written, but is counted a moment later.
            opened = session.open("c").ok();
            opened.is_some()
        });
        assert_eq!(opened.as_ref().unwrap().id(), 7, "a failed open used no id up");
        // The peer's streams have a limit of their own.
        script.frame(1, Command::Syn, 2, &[]);
        assert_eq!(session.accept().unwrap().id(), 2);
        script.eof();
        drop(b);
    });
}

/// P70: the names of the peer's streams may occupy half of `max_receive_buffer`.
#[test]
fn names_are_bounded_too() {
    test("names_are_bounded_too", || {
        let (mut raw, session) =
            against_server(quiet().max_receive_buffer(MIB).accept_backlog(100_000), 1);
        for id in (1..2001).step_by(2) {
            raw.syn(id, [b'n'; 4096]);
        }
        processed(&mut raw, &session, 1000);
        let stats = session.stats();
        assert_eq!((stats.streams_received, stats.streams_refused), (128, 872));
        // A name counts until its stream is closed. This accepts one stream and closes it at once.
        let _ = session.accept().unwrap();
        assert_eq!(raw.expect(Command::Fin, 257), []);
        (0..871).for_each(|i| {
            let _ = raw.expect(Command::Fin, 259 + 2 * i);
        });
        raw.expect(Command::Fin, 1);
        let mut id = 2001;
        until(|| {
            // The FIN has been written, but is counted a moment later.
            raw.syn(id, [b'n'; 4096]);
            // 1000 SYNs, then a SYN and a NOP for each attempt.
            processed(&mut raw, &session, u64::from(id) - 999);
            id += 2;
            session.stats().streams_received == 129
        });
    });
}

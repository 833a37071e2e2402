//! Waiting: deadlines, timeouts, no-data timeouts, and `accept` with its deadline.
//!
//! Promises: P48, P49, P50, P52, P53, P54, P55, P59, P60.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gmux::wire::{Command, Frame};
use gmux::{Error, MuxConn, MuxStream, Stream};
use support::raw::{against_client, against_server};
use support::scripted::{FAR, Script, blocked, processed, quiet};
use support::{Pattern, pair, test, until};

const SHORT: Duration = Duration::from_millis(40);

/// Returns the result of a read of one byte.
fn read(mut stream: &Stream) -> Result<usize, Error> {
    Ok(stream.read(&mut [0])?)
}

// ---- Waiting ------------------------------------------------------------------------------------

/// P49: deadlines, timeouts and the non-blocking mode belong to the stream, and hold for all its
/// handles.
#[test]
fn settings_belong_to_the_stream_not_the_handle() {
    test("settings_belong_to_the_stream_not_the_handle", || {
        let (_raw, session) = against_client(quiet(), 1);
        let stream = session.open("").unwrap();
        let other = stream.clone();
        other.set_read_timeout(Some(SHORT)).unwrap();
        other.set_write_timeout(Some(FAR)).unwrap();
        other.set_no_data_timeout(Some(FAR)).unwrap();
        assert_eq!(stream.read_timeout().unwrap(), Some(SHORT));
        assert_eq!(stream.write_timeout().unwrap(), Some(FAR));
        assert_eq!(stream.no_data_timeout(), Some(FAR));
        assert!(matches!(read(&stream), Err(Error::Timeout)));
        drop(other);
        assert!(matches!(read(&stream), Err(Error::Timeout)));
        let other = stream.clone();
        stream.set_read_timeout(None).unwrap();
        assert_eq!(other.read_timeout().unwrap(), None);
        stream.set_nonblocking(true).unwrap();
        assert!(matches!(read(&other), Err(Error::WouldBlock)));
        let unrelated = session.open("").unwrap();
        assert_eq!((unrelated.write_timeout().unwrap(), unrelated.no_data_timeout()), (None, None));
    });
}

/// P48: a limit that another handle sets reaches a call that is blocked already. `tests/wakeups.rs`
/// tests each call with each limit.
#[test]
fn settings_reach_calls_that_are_blocked() {
    test("settings_reach_calls_that_are_blocked", || {
        type Set = fn(&Stream);
        let settings: [(Set, ErrorKind); 5] = [
            (|stream| stream.set_deadline(Some(Instant::now())), ErrorKind::TimedOut),
            (|stream| stream.set_read_deadline(Some(Instant::now() + SHORT)), ErrorKind::TimedOut),
            (
                |stream| stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap(),
                ErrorKind::TimedOut,
            ),
            (|stream| stream.set_no_data_timeout(Some(SHORT)).unwrap(), ErrorKind::TimedOut),
            (|stream| stream.set_nonblocking(true).unwrap(), ErrorKind::WouldBlock),
        ];
        for (i, (set, kind)) in settings.into_iter().enumerate() {
            let (_raw, session) = against_client(quiet(), 1);
            let stream = session.open("").unwrap();
            stream.set_deadline(Some(Instant::now() + FAR));
            stream.set_no_data_timeout(Some(FAR)).unwrap();
            let call = blocked(&format!("reached-{i}"), {
                let mut stream = stream.clone();
                move || stream.read(&mut [0]).unwrap_err()
            });
            set(&stream);
            assert_eq!(call.join().unwrap().kind(), kind);
        }
    });
}

/// P49: if both a deadline and a timeout are set, the earlier one applies to each call.
#[test]
fn the_earlier_of_deadline_and_timeout_wins() {
    test("the_earlier_of_deadline_and_timeout_wins", || {
        let (script, session) = Script::client(quiet().max_send_buffer(1));
        let mut stream = session.open("").unwrap();
        stream.write_all(b"x").unwrap();
        script.blocked();
        stream.set_nonblocking(true).unwrap();
        while stream.write(b"x").is_ok() {}
        stream.set_nonblocking(false).unwrap();
        for deadline_first in [true, false] {
            let (deadline, timeout) = if deadline_first { (SHORT, FAR) } else { (FAR, SHORT) };
            stream.set_read_timeout(Some(timeout)).unwrap();
            stream.set_write_timeout(Some(timeout)).unwrap();
            for call in 0..3 {
                let before = Instant::now();
                stream.set_deadline(Some(before + deadline));
                let error = match call {
                    0 => stream.read(&mut [0]).unwrap_err(),
                    1 => stream.write(b"x").unwrap_err(),
                    _ => stream.flush().unwrap_err(),
                };
                assert!(matches!(Error::from(error), Error::Timeout));
                assert!(before.elapsed() >= SHORT);
            }
            let before = Instant::now();
            session.set_deadline(Some(before + deadline));
            assert!(matches!(session.accept_timeout(timeout), Err(Error::Timeout)));
            assert!(before.elapsed() >= SHORT);
        }
    });
}

/// P49: a timeout runs from each call's start. A deadline stays where it is.
#[test]
fn each_call_has_its_whole_timeout_and_a_deadline_stays_where_it_is() {
    test("each_call_has_its_whole_timeout_and_a_deadline_stays_where_it_is", || {
        let (_raw, session) = against_client(quiet(), 1);
        let stream = session.open("").unwrap();
        stream.set_read_timeout(Some(SHORT)).unwrap();
        for _ in 0..3 {
            let before = Instant::now();
            assert!(matches!(read(&stream), Err(Error::Timeout)));
            assert!(before.elapsed() >= SHORT);
        }
        stream.set_read_timeout(None).unwrap();
        stream.set_read_deadline(Some(Instant::now()));
        (0..3).for_each(|_| assert!(matches!(read(&stream), Err(Error::Timeout))));
        let call = blocked("deadline-lifted", {
            stream.set_read_deadline(Some(Instant::now() + FAR));
            let stream = stream.clone();
            move || read(&stream)
        });
        stream.set_read_deadline(None);
        stream.set_nonblocking(true).unwrap();
        assert!(matches!(call.join().unwrap(), Err(Error::WouldBlock)));
    });
}

/// P49: a timeout runs from the call's start, and a wake-up doesn't start it again.
#[test]
fn being_woken_for_nothing_does_not_prolong_a_timeout() {
    test("being_woken_for_nothing_does_not_prolong_a_timeout", || {
        let (_raw, session) = against_client(quiet(), 1);
        let stream = session.open("").unwrap();
        stream.set_read_timeout(Some(SHORT)).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        // Every change of a setting wakes the call. If each wake-up started the timeout again, the
        // call would never time out.
        let poker = thread::spawn({
            let stream = stream.clone();
            let over = Arc::clone(&over);
            move || {
                while !over.load(SeqCst) {
                    stream.set_read_timeout(Some(SHORT)).unwrap();
                }
            }
        });
        assert!(matches!(read(&stream), Err(Error::Timeout)));
        over.store(true, SeqCst);
        poker.join().unwrap();
    });
}

/// P50: a timeout of zero is refused, as by `TcpStream`, and the setting stays as it was. The same
/// holds for no-data timeouts.
#[test]
fn a_timeout_of_zero_is_invalid() {
    test("a_timeout_of_zero_is_invalid", || {
        let (_raw, session) = against_client(quiet(), 1);
        let stream = session.open("").unwrap();
        let (conn, boxed): (&dyn MuxConn, &dyn MuxStream) = (&session, &stream);
        stream.set_read_timeout(Some(FAR)).unwrap();
        stream.set_no_data_timeout(Some(FAR)).unwrap();
        session.set_no_data_timeout(Some(FAR)).unwrap();
        let zero = Some(Duration::ZERO);
        let refused = [
            stream.set_read_timeout(zero),
            stream.set_write_timeout(zero),
            stream.set_no_data_timeout(zero),
            boxed.set_no_data_timeout(zero),
            session.set_no_data_timeout(zero),
            conn.set_no_data_timeout(zero),
        ];
        for error in refused.map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(matches!(Error::from(error), Error::ZeroTimeout));
        }
        assert_eq!(
            (stream.read_timeout().unwrap(), stream.write_timeout().unwrap()),
            (Some(FAR), None)
        );
        assert_eq!((boxed.no_data_timeout(), conn.no_data_timeout()), (Some(FAR), Some(FAR)));
        // The longest timeout waits forever, and doesn't overflow.
        stream.set_read_timeout(Some(Duration::MAX)).unwrap();
        stream.set_no_data_timeout(Some(Duration::MAX)).unwrap();
        session.set_no_data_timeout(Some(Duration::MAX)).unwrap();
        let call = blocked("for-ever", {
            let stream = stream.clone();
            move || read(&stream)
        });
        stream.close().unwrap();
        assert!(matches!(call.join().unwrap(), Err(Error::Closed)));
    });
}

// ---- No-data clock ------------------------------------------------------------------------------

/// P52: a read and a write fail with `NoData`, of the kind `TimedOut`. The stream stays usable.
#[test]
fn calls_fail_with_no_data_and_the_stream_stays_usable() {
    test("calls_fail_with_no_data_and_the_stream_stays_usable", || {
        for version in [1, 2] {
            // New streams start with the configured timeout.
            let (mut raw, session) =
                against_client(quiet().version(version).no_data_timeout(Some(SHORT)), version);
            let mut stream = session.open("").unwrap();
            assert_eq!(stream.no_data_timeout(), Some(SHORT));
            let error = stream.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert!(matches!(Error::from(error), Error::NoData(SHORT)));
            raw.expect(Command::Syn, 3);
            raw.psh(3, "x");
            processed(&mut raw, &session, 1);
            assert_eq!(read(&stream).unwrap(), 1);
            stream.write_all(b"y").unwrap();
            assert_eq!(raw.expect_data(3, 1), b"y");
            assert!(matches!(read(&stream), Err(Error::NoData(SHORT))));
            assert!(!session.is_closed());
        }
    });
}

/// P52: a write that waits for the peer's window fails with `NoData`.
#[test]
fn a_write_without_window_fails_with_no_data() {
    test("a_write_without_window_fails_with_no_data", || {
        let (mut raw, session) = against_client(quiet().version(2), 2);
        let mut stream = session.open("").unwrap();
        stream.write_all(&[0; 262_144]).unwrap();
        stream.set_no_data_timeout(Some(SHORT)).unwrap();
        assert!(matches!(Error::from(stream.write(b"x").unwrap_err()), Error::NoData(SHORT)));
        raw.expect(Command::Syn, 3);
        raw.expect_data(3, 262_144);
        raw.upd(3, 262_144, 65_536);
        stream.set_no_data_timeout(None).unwrap();
        stream.write_all(b"y").unwrap();
        assert_eq!(raw.expect_data(3, 1), b"y", "the one that failed took nothing");
    });
}

/// P53: the clock starts at the creation, at a call that sets the timeout, at data, and when the
/// clock has fired. It also runs between calls.
#[test]
fn the_no_data_clock_runs_between_calls_and_starts_anew_when_it_fires_or_is_set() {
    const LONG: Duration = Duration::from_millis(400);
    test("the_no_data_clock_runs_between_calls_and_starts_anew_when_it_fires_or_is_set", || {
        let (mut raw, session) = against_client(quiet(), 1);
        let stream = session.open("").unwrap();
        let created = Instant::now();
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let is_timeout = || matches!(read(&stream), Err(Error::Timeout));

        stream.set_no_data_timeout(Some(LONG)).unwrap();
        assert!(is_timeout() || created.elapsed() > LONG);
        thread::sleep(LONG); // time itself is under test
        // The clock ran out between two calls. The next call returns that, though its own timeout
        // is 1 ms.
        let fired = Instant::now();
        assert!(matches!(read(&stream), Err(Error::NoData(LONG))));
        // The clock has fired, so it starts again.
        assert!(is_timeout() || fired.elapsed() > LONG);
        thread::sleep(LONG);
        // A call that sets the timeout starts the clock again, even with the same value.
        let set = Instant::now();
        stream.set_no_data_timeout(Some(LONG)).unwrap();
        assert!(is_timeout() || set.elapsed() > LONG);
        thread::sleep(LONG);
        // Data starts the clock again.
        let data = Instant::now();
        raw.psh(3, "x");
        processed(&mut raw, &session, 1);
        assert_eq!(read(&stream).unwrap(), 1);
        assert!(is_timeout() || data.elapsed() > LONG);
        thread::sleep(LONG);
        assert!(matches!(read(&stream), Err(Error::NoData(LONG))));
    });
}

/// P54: data that is written keeps a blocked read from failing.
#[test]
fn data_in_the_other_direction_counts() {
    const LONG: Duration = Duration::from_millis(1500);
    test("data_in_the_other_direction_counts", || {
        // Returns false if this machine made a pause so long that the attempt shows nothing.
        let in_time = || {
            let (mut raw, session) = against_client(quiet(), 1);
            let mut stream = session.open("").unwrap();
            let mut last = Instant::now();
            stream.set_no_data_timeout(Some(LONG)).unwrap();
            let call = thread::spawn({
                let stream = stream.clone();
                move || (read(&stream), Instant::now())
            });
            raw.expect(Command::Syn, 3);
            for _ in 0..6 {
                thread::sleep(LONG / 4); // the six pauses together are longer than the timeout
                let before = std::mem::replace(&mut last, Instant::now());
                let written = stream.write_all(b"x");
                if written.is_ok() {
                    raw.expect_data(3, 1);
                }
                if before.elapsed() >= LONG {
                    return false;
                }
                written.unwrap();
            }
            let (result, failed) = call.join().unwrap();
            assert!(matches!(result, Err(Error::NoData(LONG))));
            assert!(failed >= last + LONG, "{:?} too early", last + LONG - failed);
            true
        };
        while !in_time() {}
    });
}

/// P54: bytes that are only accepted don't count. NOPs and other streams' data don't count either.
#[test]
fn accepted_data_and_other_streams_do_not_count() {
    test("accepted_data_and_other_streams_do_not_count", || {
        let (script, session) = Script::server(quiet());
        script.frame(1, Command::Syn, 1, &[]);
        script.frame(1, Command::Syn, 3, &[]);
        let mut stream = session.accept().unwrap();
        let other = session.accept().unwrap();
        stream.write_all(b"blocked").unwrap();
        script.blocked();
        let over = Arc::new(AtomicBool::new(false));
        let busy = thread::spawn({
            let mut stream = stream.clone();
            let script = script.clone();
            let over = Arc::clone(&over);
            move || {
                while !over.load(SeqCst) {
                    script.frame(1, Command::Nop, 0, &[]);
                    script.frame(1, Command::Psh, 3, b"x");
                    (&other).read_exact(&mut [0]).unwrap();
                    stream.set_nonblocking(false).unwrap();
                    let _ = stream.write(b"y"); // fails when there is no room left
                }
            }
        });
        stream.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
        stream.set_no_data_timeout(Some(SHORT)).unwrap();
        // If any of these events counted, the read would never fail.
        assert!(matches!(read(&stream), Err(Error::NoData(SHORT))));
        over.store(true, SeqCst);
        busy.join().unwrap();
        script.allow_all();
        script.eof();
    });
}

/// P55: a session ends with `NoData` when no payload has crossed it in either direction for this
/// long. NOPs have no payload.
#[test]
fn a_session_without_payload_ends_though_keepalive_goes_on() {
    test("a_session_without_payload_ends_though_keepalive_goes_on", || {
        let config = quiet().keepalive_disabled(false).keepalive_interval(Duration::from_millis(5));
        let (client, server) = pair(config);
        let stream = client.open("").unwrap();
        let call = blocked("no-payload", move || read(&stream));
        assert_eq!(client.no_data_timeout(), None);
        let before = Instant::now();
        client.set_no_data_timeout(Some(SHORT)).unwrap();
        assert_eq!(client.no_data_timeout(), Some(SHORT));
        assert!(matches!(call.join().unwrap(), Err(Error::NoData(SHORT))));
        assert!(before.elapsed() >= SHORT);
        assert!(matches!(client.close_reason(), Some(Error::NoData(SHORT))));
        assert!(matches!(client.accept(), Err(Error::NoData(SHORT))));
        assert!(server.closed().recv().is_err());
    });
}

/// P55: payload in either direction keeps the session alive. `None` switches the timeout off.
#[test]
fn payload_in_either_direction_keeps_a_session() {
    const LONG: Duration = Duration::from_secs(1);
    test("payload_in_either_direction_keeps_a_session", || {
        // Returns false if this machine made a pause so long that the attempt shows nothing.
        let in_time = |inward| {
            let (mut raw, session) = against_client(quiet(), 1);
            let mut stream = session.open("").unwrap();
            raw.expect(Command::Syn, 3);
            let set = Instant::now();
            session.set_no_data_timeout(Some(SHORT)).unwrap();
            session.set_no_data_timeout(None).unwrap();
            if set.elapsed() >= SHORT {
                return false;
            }
            let mut last = Instant::now();
            session.set_no_data_timeout(Some(LONG)).unwrap();
            for _ in 0..6 {
                thread::sleep(LONG / 4); // the six pauses together are longer than the timeout
                let before = std::mem::replace(&mut last, Instant::now());
                let moved = match inward {
                    true => {
                        raw.psh(3, "x");
                        read(&stream).is_ok_and(|n| n == 1)
                    }
                    false => {
                        stream.write_all(b"x").is_ok()
                            && raw.next().is_ok_and(|frame| frame.payload.len() == 1)
                    }
                };
                if before.elapsed() >= LONG {
                    return false;
                }
                assert!(moved, "{:?}", session.close_reason());
            }
            assert!(session.closed().recv().is_err());
            assert!(last.elapsed() >= LONG);
            assert!(matches!(session.close_reason(), Some(Error::NoData(LONG))));
            true
        };
        for inward in [true, false] {
            while !in_time(inward) {}
        }
    });
}

/// P54: on a slow link a large frame takes long to arrive, and each part of it counts as payload.
/// While parts arrive, neither the stream's clock nor the session's clock fires, though the whole
/// frame takes longer than the timeout.
#[test]
fn parts_of_a_large_payload_are_data_to_both_clocks() {
    test("parts_of_a_large_payload_are_data_to_both_clocks", || {
        const TIMEOUT: Duration = Duration::from_millis(400);
        for version in [1, 2] {
            while !parts_keep_both_clocks_from_firing(version, TIMEOUT) {}
        }
    });
}

/// Sends a large frame in parts, with pauses of half a timeout. Returns `false` if the machine was
/// so busy that two parts were a whole timeout apart. A clock may have fired then, so the attempt
/// has to be repeated.
fn parts_keep_both_clocks_from_firing(version: u8, timeout: Duration) -> bool {
    let config = quiet().version(version);
    let (script, session) = Script::server(config);
    script.allow_all();
    let payload = Pattern::bytes(1, 60_000);
    let frame = Frame::new(version, Command::Psh, 1, payload.clone()).unwrap().encode();
    script.frame(version, Command::Syn, 1, &[]);
    let mut stream = session.accept().unwrap();
    script.idle();
    let mut last = Instant::now();
    stream.set_no_data_timeout(Some(timeout)).unwrap();
    session.set_no_data_timeout(Some(timeout)).unwrap();
    let read = thread::spawn(move || {
        let mut got = vec![0; 60_000];
        stream.read_exact(&mut got).map(|()| got)
    });
    let mut in_time = true;
    for part in frame.chunks(frame.len().div_ceil(6)) {
        thread::sleep(timeout / 2); // time itself is under test
        let sent = Instant::now();
        script.send(part);
        if session.close_reason().is_none() {
            script.taken();
        }
        // This part set the clock back between `sent` and now. The part before it did so at `last`
        // or later.
        in_time &= last.elapsed() < timeout;
        last = sent;
    }
    let read = read.join().unwrap();
    // The session's clock doesn't fire before this check, unless the machine is too late.
    let reason = session.close_reason();
    in_time &= last.elapsed() < timeout;
    script.eof();
    if in_time {
        assert!(reason.is_none(), "the session's clock: {reason:?}");
        assert!(read.expect("the stream's clock") == payload);
    }
    in_time
}

/// P55: the session's clock also runs while the session has stopped reading.
#[test]
fn a_paused_reader_does_not_stop_the_sessions_no_data_clock() {
    test("a_paused_reader_does_not_stop_the_sessions_no_data_clock", || {
        let (mut raw, session) = against_server(quiet().max_receive_buffer(65_536), 1);
        raw.syn(1, "");
        let stream = session.accept().unwrap();
        (0..10).for_each(|_| raw.psh(1, [0; 10_000]));
        until(|| session.stats().receive_pauses > 0);
        session.set_no_data_timeout(Some(SHORT)).unwrap();
        assert!(session.closed().recv().is_err());
        assert!(matches!(session.close_reason(), Some(Error::NoData(SHORT))));
        // Received data can still be read.
        let mut all = Vec::new();
        assert!((&stream).read_to_end(&mut all).is_err());
        assert!(all.len() >= 20_000);
    });
}

// ---- accept -------------------------------------------------------------------------------------

/// P59: `accept` returns queued streams first, and then the error.
#[test]
fn queued_streams_are_accepted_before_the_error() {
    test("queued_streams_are_accepted_before_the_error", || {
        let (mut raw, session) = against_server(quiet(), 1);
        for (id, name) in [(1, "first"), (3, "second"), (9, "third")] {
            raw.syn(id, name);
            raw.psh(id, name);
        }
        raw.bytes(&[1, 200, 0, 0, 0, 0, 0, 0]);
        assert!(session.closed().recv().is_err());
        until(|| session.num_streams() == 0); // `closed()` may disconnect before the streams end
        for name in ["first", "second", "third"] {
            let mut stream = session.accept().unwrap();
            let mut text = vec![0; name.len()];
            stream.read_exact(&mut text).unwrap();
            assert_eq!((stream.name(), &text[..]), (name, name.as_bytes()));
            assert!(matches!(read(&stream), Err(Error::InvalidCommand(200))));
        }
        assert!(matches!(session.accept(), Err(Error::InvalidCommand(200))));
        assert!(matches!(session.try_accept(), Err(Error::InvalidCommand(200))));
    });
}

/// P60: `incoming` ends after a clean end of the peer's. Such an end cuts no frame and no stream
/// off.
#[test]
fn incoming_ends_after_the_peers_clean_end() {
    test("incoming_ends_after_the_peers_clean_end", || {
        let (mut raw, session) = against_server(quiet(), 1);
        raw.syn(1, "a");
        raw.fin(1);
        raw.syn(3, "b");
        raw.fin(3);
        raw.finish();
        let names: Vec<_> =
            session.incoming().map(|stream| stream.unwrap().name().to_owned()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(matches!(session.accept(), Err(Error::PeerClosed)));
        assert!(matches!(session.close_reason(), Some(Error::PeerClosed)));
    });
}

/// P60: after an end that cuts a stream or a frame off, `incoming` yields one error and then ends.
#[test]
fn incoming_yields_one_error_when_a_stream_or_a_frame_is_cut_off() {
    test("incoming_yields_one_error_when_a_stream_or_a_frame_is_cut_off", || {
        for frame in [false, true] {
            let (mut raw, session) = against_server(quiet(), 1);
            raw.syn(1, "a");
            match frame {
                true => {
                    raw.fin(1);
                    raw.bytes(&[1]);
                }
                false => raw.psh(1, "no FIN"),
            }
            raw.finish();
            let mut incoming = session.incoming();
            // This handle is kept, because the end cuts nothing off if the stream is closed here.
            let stream = incoming.next().unwrap().unwrap();
            assert_eq!(stream.name(), "a");
            assert!(matches!(incoming.next(), Some(Err(Error::ConnectionLost(_)))));
            assert!(incoming.next().is_none());
            assert!(incoming.next().is_none());
        }
    });
}

/// P60: a local close ends an `incoming` that waits.
#[test]
fn a_local_close_ends_incoming_while_it_waits() {
    test("a_local_close_ends_incoming_while_it_waits", || {
        let (mut raw, session) = against_server(quiet(), 1);
        let (accepted, seen) = mpsc::channel();
        raw.syn(1, "one");
        let server = session.clone();
        let incoming = blocked("incoming", move || {
            server
                .incoming()
                .for_each(|stream| accepted.send(stream.unwrap().name().to_owned()).unwrap());
        });
        let close = blocked("close-incoming", move || session.close());
        raw.part();
        close.join().unwrap().unwrap();
        incoming.join().unwrap();
        assert_eq!(seen.iter().collect::<Vec<_>>(), ["one"]);
    });
}

/// P59: `try_accept`, `accept_timeout` and `accept` with an expired deadline return a stream that
/// is in the backlog.
#[test]
fn an_expired_accept_deadline_still_returns_a_stream_that_waits() {
    test("an_expired_accept_deadline_still_returns_a_stream_that_waits", || {
        let (mut raw, session) = against_server(quiet(), 1);
        assert!(session.try_accept().unwrap().is_none());
        assert!(matches!(session.accept_timeout(SHORT), Err(Error::Timeout)));
        session.set_deadline(Some(Instant::now()));
        assert!(matches!(session.accept(), Err(Error::Timeout)));
        assert!(matches!(session.accept_timeout(FAR), Err(Error::Timeout)));
        for id in [1, 3, 5] {
            raw.syn(id, "");
        }
        until(|| session.num_streams() == 3);
        assert_eq!(session.accept().unwrap().id(), 1);
        assert_eq!(session.accept_timeout(Duration::ZERO).unwrap().id(), 3);
        assert_eq!(session.try_accept().unwrap().unwrap().id(), 5);
        session.set_deadline(None);
        let accept = blocked("accept-late", {
            let session = session.clone();
            move || session.accept().unwrap().id()
        });
        raw.syn(7, "");
        assert_eq!(accept.join().unwrap(), 7);
    });
}

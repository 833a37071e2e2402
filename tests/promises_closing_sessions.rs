//! Closing a session by `close`, `drain` and the last drop: what is sent, who is woken, and what
//! can still be used.
//!
//! Promises: P11, P32, P33, P34, P35, P38, P39, P40, P43, P44, P45, P59.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gmux::wire::{Command, Frame};
use gmux::{Error, Session};
use support::raw::{End, against_client, against_server};
use support::scripted::{FAR, Script, asleep, blocked, count, data, processed, quiet};
use support::{Pattern, close_beside_a_peer_that_stays, gmux_threads, pair, test, until};

/// P33, P59: a closed session opens and accepts no stream.
#[test]
fn a_closed_session_opens_and_accepts_nothing() {
    test("a_closed_session_opens_and_accepts_nothing", || {
        let (client, server) = pair(quiet());
        let waiting = client.open("waiting").unwrap();
        until(|| server.num_streams() == 1);
        assert!(!server.is_closed() && server.close_reason().is_none());
        server.close().unwrap();
        assert!(server.is_closed());
        assert!(matches!(server.close_reason(), Some(Error::Closed)));
        assert!(server.closed().recv().is_err());
        assert!(matches!(server.open("late"), Err(Error::Closed)));
        assert!(matches!(server.accept(), Err(Error::Closed)), "at once, though a stream waits");
        assert!(matches!(server.try_accept(), Err(Error::Closed)));
        assert!(matches!(server.accept_timeout(FAR), Err(Error::Closed)));
        assert!(server.incoming().next().is_none());
        server.close().unwrap();
        // The close cut the other end's stream off.
        assert_eq!((&waiting).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert!(matches!(client.open("late"), Err(Error::ConnectionLost(_))));
    });
}

/// P45: a session that says that it is closed gives out no stream, also while its end is still in
/// progress. A transport's `abort` is the user's code, so the end can take any time.
#[test]
fn a_session_that_is_ending_opens_nothing() {
    test("a_session_that_is_ending_opens_nothing", || {
        let (script, session) = Script::client(quiet());
        script.hold_abort(true);
        script.send([1, 99, 0, 0, 0, 0, 0, 0]);
        until(|| session.is_closed()); // `closed()` would wait until all streams have ended
        assert!(matches!(session.open("zombie"), Err(Error::InvalidCommand(99))));
        assert!(matches!(session.accept(), Err(Error::InvalidCommand(99))));
        assert!(matches!(session.close(), Err(Error::InvalidCommand(99))));
        script.hold_abort(false);
        assert!(matches!(session.open("zombie"), Err(Error::InvalidCommand(99))));
    });
}

/// P33: a close sends all accepted data. Streams that the application closed get FIN. The other
/// streams get none.
#[test]
fn a_close_sends_accepted_bytes_and_closed_streams_alone_get_fin() {
    test("a_close_sends_accepted_bytes_and_closed_streams_alone_get_fin", || {
        let config = quiet().max_send_buffer(8 << 20).close_timeout(FAR);
        let (mut raw, session) = against_client(config, 1);
        let sent = Pattern::bytes(1, 6 << 20); // more than the system's socket buffers hold
        let streams: Vec<_> = (0..4).map(|_| session.open("").unwrap()).collect();
        for mut stream in &streams {
            stream.write_all(&sent).unwrap();
        }
        streams[0].close().unwrap();
        streams[1].shutdown(Shutdown::Write).unwrap();
        let close = blocked("slow-close", {
            let session = session.clone();
            move || session.close()
        });
        let (frames, end) = raw.part();
        close.join().unwrap().unwrap();
        assert_eq!(end, End::Clean);
        for (id, fins) in [(3, 1), (5, 1), (7, 0), (9, 0)] {
            assert!(data(&frames, id) == sent);
            assert_eq!(count(&frames, Command::Fin, id), fins, "stream {id}");
        }
    });
}

/// P33: the peer reads all data of a stream that wasn't closed, and then an error instead of an
/// end.
#[test]
fn peers_of_streams_that_were_not_closed_see_an_error_after_the_data() {
    test("peers_of_streams_that_were_not_closed_see_an_error_after_the_data", || {
        let (client, server) = pair(quiet());
        let open = client.open("open").unwrap();
        let closed = client.open("closed").unwrap();
        (&open).write_all(b"cut off").unwrap();
        (&closed).write_all(b"complete").unwrap();
        closed.close().unwrap();
        client.close().unwrap();
        let mut first = server.accept().unwrap();
        let mut second = server.accept().unwrap();
        let mut cut = Vec::new();
        let mut complete = Vec::new();
        assert_eq!(first.read_to_end(&mut cut).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        second.read_to_end(&mut complete).unwrap();
        assert_eq!((&cut[..], &complete[..]), (&b"cut off"[..], &b"complete"[..]));
        drop(open);
    });
}

/// P38: while a session closes, it reads its peer's data and drops it. If a socket is closed with
/// unread input, the system sends a reset, and the peer may lose data that it has received.
#[test]
fn a_peer_that_goes_on_sending_still_gets_everything() {
    test("a_peer_that_goes_on_sending_still_gets_everything", || {
        let config = quiet().max_send_buffer(4 << 20).max_receive_buffer(65_536).close_timeout(FAR);
        let (mut raw, session) = against_server(config, 1);
        raw.syn(1, "");
        let mut stream = session.accept().unwrap();
        // The peer floods the stream until the test stops it, so that the session stops reading.
        let mut flood = raw.stream.try_clone().unwrap();
        let frame = Frame::new(1, Command::Psh, 1, vec![0; 32_768]).unwrap().encode();
        let (stop, stopped) = mpsc::channel::<()>();
        let flood = thread::spawn(move || {
            let mut sent = 0;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                flood.write_all(&frame)?;
                sent += frame.len();
            }
            flood.shutdown(Shutdown::Write).map(|()| sent)
        });
        until(|| session.stats().receive_pauses > 0);
        let sent = Pattern::bytes(1, 4 << 20);
        stream.write_all(&sent).unwrap();
        let close = thread::spawn({
            let session = session.clone();
            move || session.close()
        });
        let got = raw.expect_data(1, sent.len());
        let (rest, end) = raw.rest();
        assert!(!close.is_finished(), "the peer is still sending");
        drop(stop);
        assert!(got == sent);
        assert_eq!((rest, end), (vec![], End::Clean));
        assert!(flood.join().unwrap().unwrap() > 0, "and the peer isn't cut off while it sends");
        close.join().unwrap().unwrap();
        drop(stream);
    });
}

/// P35: a peer that never ends its side is cut off after `close_timeout`.
#[test]
fn a_peer_that_never_ends_its_side_is_cut_off_after_the_close_timeout() {
    test("a_peer_that_never_ends_its_side_is_cut_off_after_the_close_timeout", || {
        let (script, session) = Script::client(quiet().close_timeout(Duration::from_millis(50)));
        script.allow_all();
        let before = Instant::now();
        close_beside_a_peer_that_stays(&session);
        script.wait(|state| {
            assert!(state.finished);
            state.aborted.then_some(())
        });
        assert!(before.elapsed() >= Duration::from_millis(50));
    });
}

/// P34: `close` is Ok when everything was handed over, and the input ended cleanly after that.
#[test]
fn close_returns_when_the_peer_has_ended_its_side_too() {
    test("close_returns_when_the_peer_has_ended_its_side_too", || {
        let (script, session) = Script::client(quiet().close_timeout(FAR));
        let mut stream = session.open("").unwrap();
        stream.write_all(b"last words").unwrap();
        script.blocked();
        let close = blocked("close-returns", {
            let session = session.clone();
            move || session.close()
        });
        assert!(!script.wait(|state| Some(state.finished)), "nothing is handed over yet");
        script.allow_all();
        script.wait(|state| state.finished.then_some(()));
        assert_eq!(data(&script.frames(), 3), b"last words");
        asleep("close-returns");
        script.eof();
        close.join().unwrap().unwrap();
        assert_eq!((session.num_streams(), session.stats().streams), (0, 0));
        drop(stream);
        until(|| gmux_threads().is_empty());
        assert!(!script.wait(|state| Some(state.aborted)), "nothing is left to be aborted");
    });
}

/// P35: `close` returns `CloseIncomplete` after `close_timeout`, counted from the call.
#[test]
fn close_times_out_when_the_peer_reads_nothing() {
    test("close_times_out_when_the_peer_reads_nothing", || {
        let timeout = Duration::from_millis(100);
        let config = quiet().max_send_buffer(32 << 20).close_timeout(timeout);
        let (raw, session) = against_client(config, 1);
        let mut stream = session.open("").unwrap();
        stream.write_all(&vec![0; 32 << 20]).unwrap(); // more than the system's socket buffers hold
        let before = Instant::now();
        let Err(Error::CloseIncomplete { unsent, after, peer_ended: false, .. }) = session.close()
        else {
            panic!()
        };
        assert!(before.elapsed() >= timeout && after == timeout);
        assert!((1..=32 << 20).contains(&unsent), "{unsent}");
        let again = session.close();
        assert!(
            matches!(again, Err(Error::CloseIncomplete { unsent: same, .. }) if same == unsent),
            "{again:?}"
        );
        assert!(matches!(session.close_reason(), Some(Error::Closed)));
        drop(raw);
        drop(stream);
    });
}

/// P45: after an earlier end, `close` returns the error that ended the session. It returns Ok if
/// that was the peer's clean end.
#[test]
fn close_after_the_end_returns_the_error_of_the_end() {
    test("close_after_the_end_returns_the_error_of_the_end", || {
        let (raw, session) = against_client(quiet(), 1);
        raw.finish();
        assert!(session.closed().recv().is_err());
        assert!(matches!(session.close_reason(), Some(Error::PeerClosed)));
        session.close().unwrap();

        let (mut raw, session) = against_client(quiet(), 1);
        raw.bytes(&[1, 9, 0, 0, 0, 0, 0, 0]);
        assert!(session.closed().recv().is_err());
        assert!(matches!(session.close(), Err(Error::InvalidCommand(9))));
        assert!(matches!(session.open(""), Err(Error::InvalidCommand(9))));
        assert!(matches!(session.accept(), Err(Error::InvalidCommand(9))));
    });
}

/// P39: the drop of the last handle, of the session or of a stream, closes the session. It waits
/// until everything was handed over.
#[test]
fn the_last_drop_closes_and_waits() {
    test("the_last_drop_closes_and_waits", || {
        for stream_is_last in [false, true] {
            let (script, session) = Script::client(quiet().close_timeout(FAR));
            let mut stream = session.open("").unwrap();
            stream.write_all(b"accepted").unwrap();
            script.blocked();
            let name = format!("last-drop-{stream_is_last}");
            let last = blocked(&name, {
                let script = script.clone();
                move || {
                    if stream_is_last {
                        drop(session);
                        drop(stream);
                    } else {
                        drop(stream);
                        drop(session);
                    }
                    script.wait(|state| Some(state.finished))
                }
            });
            script.allow_all();
            assert!(last.join().unwrap(), "the drop returned before everything was handed over");
            assert_eq!(data(&script.frames(), 3), b"accepted");
            assert_eq!(
                count(&script.frames(), Command::Fin, 3),
                1,
                "its stream was closed by the drop"
            );
            script.eof();
        }
    });
}

/// P40: the last handle is dropped inside a close notifier, on the thread `gmux-notify-N`. That
/// drop doesn't wait.
#[test]
fn a_last_drop_on_a_notifiers_thread_does_not_wait() {
    test("a_last_drop_on_a_notifiers_thread_does_not_wait", || {
        let (script, session) = Script::client(quiet().version(2).close_timeout(FAR));
        let stream = session.open("").unwrap();
        (&stream).write_all(b"accepted").unwrap();
        script.blocked();
        let (done, dropped) = mpsc::channel();
        let last = stream.clone();
        stream.set_close_notifier(move |_| {
            drop(last);
            done.send(thread::current().name().unwrap_or("").to_owned()).unwrap();
        });
        drop(stream);
        drop(session);
        script.idle();
        assert!(!script.wait(|state| Some(state.finished)));
        script.upd(3, 1000, 65_536); // this update is impossible, so the stream fails
        let name = dropped.recv().unwrap();
        assert!(name.starts_with("gmux-notify-"), "{name}");
        // The notifier owns the very last handle, which is dropped after the call. That drop
        // doesn't wait for the transport either, so the thread ends.
        let cut = &name[..name.len().min(15)]; // the system cuts a thread's name
        until(|| !gmux_threads().iter().any(|name| name == cut));
        assert!(!script.wait(|state| Some(state.finished || state.aborted)));
        script.allow_all();
        script.wait(|state| state.finished.then_some(()));
        script.eof();
    });
}

/// P33: a close wakes every blocked call of all streams, and `accept`. `tests/wakeups.rs` tests
/// each call with each cause.
#[test]
fn a_close_wakes_every_blocked_call() {
    test("a_close_wakes_every_blocked_call", || {
        let (script, session) = Script::client(quiet().max_send_buffer(10).close_timeout(FAR));
        let mut calls = Vec::new();
        for i in 0..2 {
            let stream = session.open("").unwrap();
            (&stream).write_all(&[0; 10]).unwrap();
            script.blocked();
            let reader = stream.clone();
            let writer = stream.clone();
            let flusher = stream.clone();
            calls.push(blocked(&format!("c-read-{i}"), move || (&reader).read(&mut [0]).map(drop)));
            calls.push(blocked(&format!("c-write-{i}"), move || (&writer).write_all(&[0; 40])));
            calls.push(blocked(&format!("c-flush-{i}"), move || (&flusher).flush()));
        }
        let accept = blocked("c-accept", {
            let session = session.clone();
            move || session.accept().map(drop)
        });
        let close = blocked("c-close", {
            let session = session.clone();
            move || session.close()
        });
        assert!(matches!(accept.join().unwrap(), Err(Error::Closed)));
        for call in calls {
            assert_eq!(call.join().unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
        }
        asleep("c-close");
        script.allow_all();
        script.wait(|state| state.finished.then_some(()));
        script.eof();
        close.join().unwrap().unwrap();
    });
}

/// P11: after a close, the data that was received before it can still be read.
#[test]
fn data_that_was_received_before_a_close_can_be_read_after_it() {
    test("data_that_was_received_before_a_close_can_be_read_after_it", || {
        let (mut raw, session) = against_server(quiet(), 1);
        raw.syn(1, "");
        raw.psh(1, "before");
        let mut stream = session.accept().unwrap();
        processed(&mut raw, &session, 2);
        let close = blocked("close-then-read", {
            let session = session.clone();
            move || session.close()
        });
        raw.finish();
        close.join().unwrap().unwrap();
        let mut all = Vec::new();
        assert_eq!(stream.read_to_end(&mut all).unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(all, b"before");
        assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(stream.flush().map_err(|error| error.kind()), Ok(()), "nothing is outstanding");
    });
}

/// P43: streams live on when all `Session` handles are dropped. The streams in the backlog and
/// later ones are refused.
#[test]
fn streams_outlive_the_sessions_handles_and_later_streams_are_refused() {
    test("streams_outlive_the_sessions_handles_and_later_streams_are_refused", || {
        let (mut raw, session): (_, Session) = against_server(quiet(), 1);
        raw.syn(1, "kept");
        let stream = session.accept().unwrap();
        let stats = {
            raw.syn(3, "in the backlog");
            until(|| session.num_streams() == 2);
            session.stats()
        };
        assert_eq!((stats.streams_received, stats.streams_refused), (2, 0));
        let _ = session.clone();
        raw.psh(1, "before");
        drop(session);
        raw.expect(Command::Fin, 3);
        raw.syn(5, "later");
        raw.expect(Command::Fin, 5);
        raw.psh(3, "nobody reads this");
        raw.psh(1, " and after");
        let mut buf = [0; 16];
        (&stream).read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"before and after");
        (&stream).write_all(b"answer").unwrap();
        assert_eq!(raw.expect_data(1, 6), b"answer");
        // The drop of the last stream closes the session.
        drop(stream);
        raw.expect(Command::Fin, 1);
        assert_eq!(raw.rest(), (vec![], End::Clean));
    });
}

/// P44: a drain lets no new stream be opened, waits for the existing streams, and then closes the
/// session.
#[test]
fn drain_waits_for_the_streams_and_closes() {
    test("drain_waits_for_the_streams_and_closes", || {
        let (mut raw, session) = against_server(quiet(), 1);
        raw.syn(1, "works");
        raw.syn(3, "waits");
        let stream = session.accept().unwrap();
        until(|| session.num_streams() == 2);
        let drain = blocked("drain", {
            let session = session.clone();
            move || session.drain(FAR)
        });
        assert!(matches!(session.open("new"), Err(Error::Closed)));
        raw.syn(5, "new");
        raw.expect(Command::Fin, 5);
        assert!(!session.is_closed());
        let waiting = session.accept().unwrap();
        assert_eq!(waiting.name(), "waits");
        assert!(matches!(session.accept(), Err(Error::Closed)));
        raw.psh(1, "ping");
        let mut ping = [0; 4];
        (&stream).read_exact(&mut ping).unwrap();
        (&stream).write_all(&ping).unwrap();
        drop(stream);
        assert_eq!(raw.expect_data(1, 4), b"ping");
        raw.expect(Command::Fin, 1);
        asleep("drain");
        drop(waiting);
        raw.expect(Command::Fin, 3);
        assert_eq!(raw.part(), (vec![], End::Clean));
        drain.join().unwrap().unwrap();
        assert!(matches!(session.close_reason(), Some(Error::Closed)));
    });
}

/// P44: if streams are left after the timeout, `drain` returns an error with their number. The
/// session is closed all the same.
#[test]
fn drain_gives_up_after_its_timeout_and_closes() {
    test("drain_gives_up_after_its_timeout_and_closes", || {
        let (mut raw, session) =
            against_client(quiet().close_timeout(Duration::from_millis(20)), 1);
        let mut stream = session.open("").unwrap();
        stream.write_all(b"sent").unwrap();
        stream.flush().unwrap();
        let patience = Duration::from_millis(20);
        let error = session.drain(Duration::from_millis(20)).unwrap_err();
        assert!(
            matches!(error, Error::DrainIncomplete { streams: 1, after } if after == patience),
            "{error:?}"
        );
        assert!(error.is_timeout() && error.to_string().contains("close them sooner"), "{error}");
        assert!(session.is_closed());
        let (frames, end) = raw.rest();
        assert_eq!(
            (data(&frames, 3), count(&frames, Command::Fin, 3), end),
            (b"sent".to_vec(), 0, End::Clean)
        );
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
    });
}

/// P44: a drain returns when the session ends. So two ends that drain at once don't wait for each
/// other.
#[test]
fn a_drain_returns_when_the_session_ends() {
    test("a_drain_returns_when_the_session_ends", || {
        let (raw, session) = against_client(quiet(), 1);
        let _stream = session.open("").unwrap();
        let drain = blocked("drain-end", {
            let session = session.clone();
            move || session.drain(FAR)
        });
        raw.finish();
        assert!(matches!(drain.join().unwrap(), Err(Error::ConnectionLost(_))));
    });
}

/// P44: `close` in another thread wakes a blocked `drain`, which returns the close's result.
#[test]
fn a_close_wakes_a_drain() {
    test("a_close_wakes_a_drain", || {
        let (mut raw, session) = against_client(quiet(), 1);
        let stream = session.open("stays open").unwrap();
        let drain = blocked("drain-close", {
            let session = session.clone();
            move || session.drain(FAR)
        });
        let close = blocked("close-drain", {
            let session = session.clone();
            move || session.close()
        });
        assert_eq!(raw.part().1, End::Clean);
        close.join().unwrap().unwrap();
        drain.join().unwrap().unwrap();
        drop(stream);
    });
}

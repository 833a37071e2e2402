//! Close notifiers, the names and ends of a session's threads, and panics in a transport or a
//! notifier.
//!
//! Promises: P40, P64, P65, P66, P81, P82.

mod support;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use gmux::wire::Command;
use gmux::{Error, Session, Stream};
use support::raw::{Raw, against_client, against_server};
use support::scripted::{FAR, Script, blocked, quiet};
use support::{close_beside_a_peer_that_stays, gmux_threads, pair, test, until};

fn thread_name() -> String {
    thread::current().name().unwrap_or("").to_owned()
}

/// Sets a notifier that sends the name of the thread that it runs on.
fn tell(stream: &Stream) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    stream.set_close_notifier(move |_| tell.send(thread_name()).unwrap());
    told
}

/// Returns a version 2 session in the client's role, with a stream that the raw peer knows. The
/// peer stays, so a close of the session ends after the close timeout of 20 ms.
fn one_stream() -> (Raw, Session, Stream) {
    let config = quiet().version(2).close_timeout(Duration::from_millis(20));
    let (mut raw, session) = against_client(config, 2);
    let stream = session.open("").unwrap();
    raw.expect(Command::Syn, 3);
    (raw, session, stream)
}

/// Returns a session's number, which is also a part of its threads' names.
fn number(session: &Session) -> u64 {
    let text = format!("{session:?}");
    let digits = text.split("number: ").nth(1).unwrap();
    digits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

// ---- close notifier -----------------------------------------------------------------------------

/// P65: the notifier runs on the thread that closes the stream. The three cases are `close`, the
/// drop of the last handle, and the session's close.
#[test]
fn a_local_end_notifies_on_the_thread_that_closes() {
    test("a_local_end_notifies_on_the_thread_that_closes", || {
        type Close = fn(Session, Stream);
        let ways: [(&str, Close); 4] = [
            ("by-close", |_, stream| stream.close().unwrap()),
            ("by-drop", |_session, stream| drop(stream)),
            ("by-session", |session, _stream| close_beside_a_peer_that_stays(&session)),
            ("by-last-drop", |session, stream| {
                drop(session);
                drop(stream);
            }),
        ];
        for (name, close) in ways {
            let (_raw, session, stream) = one_stream();
            let told = tell(&stream);
            let closed = stream.closed();
            assert_eq!(closed.try_recv(), Err(crossbeam_channel::TryRecvError::Empty));
            let thread = thread::Builder::new().name(name.into()).spawn(move || {
                close(session, stream);
                told.try_recv().expect("the notifier ran before the closing call returned")
            });
            assert_eq!(thread.unwrap().join().unwrap(), name);
            assert!(closed.recv().is_err());
        }
    });
}

/// P65: if the stream or its session ends by itself, the notifier runs on the thread
/// `gmux-notify-N`.
#[test]
fn a_stream_that_ends_by_itself_notifies_on_a_thread_of_gmuxs_own() {
    test("a_stream_that_ends_by_itself_notifies_on_a_thread_of_gmuxs_own", || {
        type End = fn(&mut Raw, &Session);
        let ends: [End; 5] = [
            |raw, _| raw.finish(),
            |raw, _| raw.bytes(&[2, 77, 0, 0, 0, 0, 0, 0]),
            // this update is impossible, so only this stream fails
            |raw, _| raw.upd(3, 1000, 65_536),
            // The timer finds this one.
            |_, session| session.set_no_data_timeout(Some(Duration::from_millis(1))).unwrap(),
            |raw, _| raw.stream.shutdown(std::net::Shutdown::Both).unwrap(),
        ];
        for end in ends {
            let (mut raw, session, stream) = one_stream();
            let told = tell(&stream);
            let closed = stream.closed();
            end(&mut raw, &session);
            assert_eq!(told.recv().unwrap(), format!("gmux-notify-{}", number(&session)));
            assert!(closed.recv().is_err());
            drop(stream);
            drop(session);
            assert!(told.recv().is_err(), "once, and the notifier is dropped");
        }
    });
}

/// P65: up to eight notifiers of one session can wait for each other, also if one event ends all
/// their streams.
#[test]
fn notifiers_of_a_session_that_ends_by_itself_do_not_wait_for_each_other() {
    test("notifiers_of_a_session_that_ends_by_itself_do_not_wait_for_each_other", || {
        const STREAMS: usize = 8; // all threads for notifiers that a session has
        let (raw, session) = against_client(quiet(), 1);
        let together = Arc::new(Barrier::new(STREAMS + 1));
        let streams: Vec<_> = (0..STREAMS).map(|_| session.open("").unwrap()).collect();
        for stream in &streams {
            let together = Arc::clone(&together);
            stream.set_close_notifier(move |_| {
                together.wait();
            });
        }
        drop(raw);
        together.wait();
    });
}

/// P64: the peer's FIN doesn't end a stream at this end, so it calls no notifier.
#[test]
fn the_peers_fin_alone_does_not_notify() {
    test("the_peers_fin_alone_does_not_notify", || {
        let (mut raw, session, mut stream) = one_stream();
        let told = tell(&stream);
        let closed = stream.closed();
        raw.fin(3);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        raw.expect(Command::Fin, 3);
        until(|| session.stats().frames_received == 1);
        assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty));
        assert_eq!(closed.try_recv(), Err(crossbeam_channel::TryRecvError::Empty));
        drop(stream);
        told.recv().unwrap();
    });
}

/// P64: a notifier may call every method of its stream and of the session, whatever ended the
/// stream. No lock is held.
#[test]
fn everything_can_be_called_inside_a_notifier() {
    fn call_everything(stream: &Stream, session: &Session) {
        let mut handle = stream.clone();
        assert!(handle.write(b"x").is_err());
        let _ = (handle.read(&mut [0]), handle.flush(), handle.write_to(&mut Vec::new()));
        handle.set_deadline(None);
        handle.set_read_timeout(None).unwrap();
        handle.set_nonblocking(false).unwrap();
        handle.set_no_data_timeout(None).unwrap();
        let _ = (
            handle.shutdown(std::net::Shutdown::Both),
            handle.id(),
            handle.name(),
            handle.peer_addr(),
        );
        assert!(handle.closed().recv().is_err());
        assert!(!format!("{handle:?} {session:?}").is_empty());
        let _ =
            (session.num_streams(), session.stats(), session.close_reason(), session.try_accept());
        session.set_no_data_timeout(None).unwrap();
        session.set_deadline(None);
        if let Ok(mut other) = session.open("from inside") {
            other.write_all(b"x").unwrap();
            other.close().unwrap();
        }
        // The stream has ended, so a notifier that is set now is called at once.
        let (inner, called) = mpsc::channel();
        handle.set_close_notifier(move |_| inner.send(()).unwrap());
        called.recv().unwrap();
        handle.close().unwrap();
    }
    test("everything_can_be_called_inside_a_notifier", || {
        type End = fn(&mut Raw, &Session, &Stream);
        let ends: [End; 4] = [
            |_, _, stream| stream.close().unwrap(),
            |_, session, _| close_beside_a_peer_that_stays(session),
            |raw, _, _| raw.upd(3, 1000, 65_536),
            |raw, _, _| raw.finish(),
        ];
        for end in ends {
            let (mut raw, session, stream) = one_stream();
            let (done, told) = mpsc::channel();
            let inside = session.clone();
            stream.set_close_notifier(move |stream| {
                call_everything(stream, &inside);
                drop(inside);
                done.send(stream.id()).unwrap();
            });
            end(&mut raw, &session, &stream);
            assert_eq!(told.recv().unwrap(), 3);
        }
    });
}

/// P40: `close` of the session inside a notifier, on a thread of gmux's own and on the program's
/// thread.
#[test]
fn a_session_can_be_closed_inside_a_notifier() {
    test("a_session_can_be_closed_inside_a_notifier", || {
        for alone in [true, false] {
            let (mut raw, session, stream) = one_stream();
            let (done, told) = mpsc::channel();
            let inside = session.clone();
            stream.set_close_notifier(move |_| done.send(inside.close()).unwrap());
            match alone {
                true => raw.upd(3, 1000, 65_536),
                false => stream.close().unwrap(),
            }
            let closed = told.recv().unwrap();
            match alone {
                // On a thread of gmux's own, `close` only begins the close.
                true => assert!(matches!(closed, Err(Error::WouldBlock)), "{closed:?}"),
                false => assert!(
                    matches!(closed, Err(Error::CloseIncomplete { unsent: 0, .. })),
                    "{closed:?}"
                ),
            }
            assert!(matches!(session.close_reason(), Some(Error::Closed)));
            let (_, end) = raw.rest();
            assert_eq!(end, support::raw::End::Clean);
        }
    });
}

/// P66: a notifier that is set on an ended stream is called at once, on the thread that sets it.
#[test]
fn a_notifier_set_on_an_ended_stream_fires_at_once() {
    test("a_notifier_set_on_an_ended_stream_fires_at_once", || {
        type End = fn(&mut Raw, &Session, &Stream);
        let ends: [End; 3] = [
            |_, _, stream| stream.close().unwrap(),
            |_, session, _| close_beside_a_peer_that_stays(session),
            |raw, _, _| raw.finish(),
        ];
        for end in ends {
            let (mut raw, session, stream) = one_stream();
            end(&mut raw, &session, &stream);
            assert!(stream.closed().recv().is_err());
            for _ in 0..2 {
                assert_eq!(tell(&stream).try_recv().unwrap(), thread_name());
            }
        }
    });
}

/// P66: a second notifier replaces the first, which is dropped without a call. No lock is held
/// then.
#[test]
fn a_second_notifier_replaces_the_first() {
    /// Uses the stream in its own drop.
    struct Guard(Stream, mpsc::Sender<&'static str>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.set_nonblocking(true).unwrap();
            assert!(self.0.read(&mut [0]).is_err());
            self.1.send("dropped").unwrap();
        }
    }
    test("a_second_notifier_replaces_the_first", || {
        let (_raw, _session, stream) = one_stream();
        let (said, heard) = mpsc::channel();
        let guard = Guard(stream.clone(), said.clone());
        let first = said.clone();
        stream.set_close_notifier(move |_| {
            let _guard = &guard;
            first.send("first").unwrap();
        });
        assert!(heard.try_recv().is_err());
        let second = said.clone();
        stream.set_close_notifier(move |_| second.send("second").unwrap());
        assert_eq!(heard.try_recv().unwrap(), "dropped");
        drop(said);
        stream.close().unwrap();
        assert_eq!(heard.iter().collect::<Vec<_>>(), ["second"]);
    });
}

/// P64: the notifier is called once, though the stream's close, the session's close and the
/// connection's end race.
#[test]
fn a_notifier_is_called_once_though_endings_race() {
    test("a_notifier_is_called_once_though_endings_race", || {
        for round in 0..60 {
            let (raw, session, stream) = one_stream();
            let calls = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&calls);
            stream.set_close_notifier(move |_| {
                counted.fetch_add(1, SeqCst);
            });
            let start = Arc::new(Barrier::new(3));
            let a = Arc::clone(&start);
            let b = Arc::clone(&start);
            let closer = thread::spawn(move || {
                a.wait();
                match round % 2 {
                    0 => stream.close().unwrap(),
                    _ => drop(stream),
                }
            });
            let vanisher = thread::spawn(move || {
                b.wait();
                raw.finish();
                raw
            });
            start.wait();
            let _ = session.close();
            closer.join().unwrap();
            let _ = vanisher.join().unwrap();
            until(|| calls.load(SeqCst) > 0); // this call may be on a thread of gmux's own
            drop(session);
            // The notifier was dropped, so no second call can follow.
            until(|| Arc::strong_count(&calls) == 1);
            assert_eq!(calls.load(SeqCst), 1);
        }
    });
}

/// P64: if a session ends by itself, the notifiers of all its streams are called.
#[test]
fn the_notifiers_of_all_streams_are_called_when_a_session_ends() {
    test("the_notifiers_of_all_streams_are_called_when_a_session_ends", || {
        let (raw, session) = against_client(quiet(), 1);
        let (tell, told) = mpsc::channel();
        let streams: Vec<_> = (0..50).map(|_| session.open("").unwrap()).collect();
        for stream in &streams {
            let tell = tell.clone();
            stream.set_close_notifier(move |stream| tell.send(stream.id()).unwrap());
        }
        drop(tell);
        raw.finish();
        let mut ids: Vec<_> = told.iter().collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..50).map(|i| 3 + 2 * i).collect::<Vec<_>>());
    });
}

// ---- Threads ------------------------------------------------------------------------------------

/// P81: a session's threads have these names, and end with the session, though handles of it still
/// exist.
#[test]
fn a_sessions_threads_have_names_and_go_when_it_ends() {
    test("a_sessions_threads_have_names_and_go_when_it_ends", || {
        let (raw, session, stream) = one_stream();
        let n = number(&session);
        // The system cuts names after 15 bytes.
        let names = [format!("gmux-reader-{n}"), format!("gmux-writer-{n}")]
            .map(|name| name[..name.len().min(15)].to_owned());
        let running = || gmux_threads().into_iter().filter(|name| names.contains(name)).count();
        until(|| running() == 2);
        assert!(gmux_threads().contains(&"gmux-timer".to_owned()));
        raw.finish();
        assert!(session.closed().recv().is_err());
        until(|| running() == 0); // the end of a thread that nobody joins is no event
        assert!(session.is_closed() && (&stream).write(b"x").is_err());
    });
}

/// P82: a panic in the transport's read ends the session with an error.
#[test]
fn a_panic_in_the_transports_read_ends_the_session_with_an_error() {
    test("a_panic_in_the_transports_read_ends_the_session_with_an_error", || {
        let (script, session) = Script::client(quiet().close_timeout(FAR));
        script.allow_all();
        let stream = session.open("").unwrap();
        let read = blocked("panic-read", {
            let mut stream = stream.clone();
            move || stream.read(&mut [0]).unwrap_err()
        });
        script.panic_read();
        assert!(read.join().unwrap().to_string().contains("panicked"));
        assert!(session.closed().recv().is_err());
        let reason = session.close_reason().unwrap().to_string();
        assert!(reason.contains("panicked") && reason.contains("as ordered"), "{reason}");
        assert!(session.close().is_err());
        script.wait(|state| state.aborted.then_some(()));
    });
}

/// P82: a panic in the transport's write ends the session within the close timeout. Data that was
/// received before can still be read.
#[test]
fn a_panic_in_the_transports_write_ends_the_session_with_an_error() {
    test("a_panic_in_the_transports_write_ends_the_session_with_an_error", || {
        let (script, session) = Script::server(quiet().close_timeout(Duration::from_millis(50)));
        script.frame(1, Command::Syn, 1, &[]);
        script.frame(1, Command::Psh, 1, b"before");
        let mut stream = session.accept().unwrap();
        script.idle();
        script.on_write(|| panic!("the script's write panics, as ordered"));
        script.allow_all();
        stream.write_all(b"x").unwrap();
        assert!(session.closed().recv().is_err());
        let reason = session.close_reason().unwrap().to_string();
        assert!(reason.contains("panicked") && reason.contains("as ordered"), "{reason}");
        assert!(stream.write(b"y").unwrap_err().to_string().contains("panicked"));
        assert!(session.open("").is_err());
        let mut all = Vec::new();
        assert!(stream.read_to_end(&mut all).unwrap_err().to_string().contains("panicked"));
        assert_eq!(all, b"before");
    });
}

/// P82: a panic in a notifier costs that call. The other notifiers, the threads and the session go
/// on.
#[test]
fn a_panic_in_a_notifier_hurts_only_itself() {
    test("a_panic_in_a_notifier_hurts_only_itself", || {
        // In `close`: the closing thread goes on, and so does the session.
        let (client, server) = pair(quiet());
        let stream = client.open("").unwrap();
        stream.set_close_notifier(|_| panic!("the notifier panics, as ordered"));
        stream.close().unwrap();
        let mut echo = client.open("echo").unwrap();
        echo.write_all(b"x").unwrap();
        assert_eq!(server.accept().unwrap().name(), "");
        let mut theirs = server.accept().unwrap();
        theirs.read_exact(&mut [0]).unwrap();
        theirs.write_all(b"y").unwrap();
        echo.read_exact(&mut [0]).unwrap();

        // On a thread of gmux's own: the other notifiers are called all the same.
        let (raw, session) = against_server(quiet(), 1);
        let (tell, told) = mpsc::channel();
        let streams: Vec<_> = (0..10).map(|_| session.open("").unwrap()).collect();
        for stream in &streams {
            let tell = tell.clone();
            stream.set_close_notifier(move |stream| {
                tell.send(stream.id()).unwrap();
                panic!("the notifier panics, as ordered");
            });
        }
        drop(tell);
        raw.finish();
        assert_eq!(told.iter().count(), 10);
        assert!(
            matches!(session.close(), Err(Error::ConnectionLost(_))),
            "the session's own error, not a panic"
        );
    });
}

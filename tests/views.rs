//! The views of a program that hangs: `stats`, `streams` and `Debug` show which calls wait, for how
//! many bytes, since when reading is paused, and the state of the writer.
//!
//! Promises: P39, P81, P86, P87, P89.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use gmux::{Error, ReadPause, Session, StreamStats, WriterState};
use support::raw::{against_client, against_server};
use support::scripted::{FAR, Script, blocked, quiet, quiet_versions};
use support::{pair, test, until};

/// P87: over a transport that takes nothing, the writer is stuck in the transport, and all accepted
/// bytes wait.
#[test]
fn a_stream_whose_peer_takes_nothing_shows_waiting_bytes_and_calls() {
    test("a_stream_whose_peer_takes_nothing_shows_waiting_bytes_and_calls", || {
        for (version, config) in [1, 2].into_iter().zip(quiet_versions()) {
            let (script, session) = Script::client(config.max_send_buffer(100_000));
            let mut stream = session.open("stuck").unwrap();
            script.blocked();
            assert_eq!(stream.write(&[7; 300_000]).unwrap(), 100_000);
            let calls = [
                blocked("v-write", {
                    let mut stream = stream.clone();
                    move || {
                        let _ = stream.write(b"x");
                    }
                }),
                blocked("v-flush", {
                    let mut stream = stream.clone();
                    move || {
                        let _ = stream.flush();
                    }
                }),
                blocked("v-read", {
                    let mut stream = stream.clone();
                    move || {
                        let _ = stream.read(&mut [0]);
                    }
                }),
                blocked("v-accept", {
                    let session = session.clone();
                    move || {
                        let _ = session.accept();
                    }
                }),
            ];

            let seen = stream.stats();
            assert_eq!(
                (seen.id, seen.name.as_str(), seen.unsent, seen.bytes_sent),
                (3, "stuck", 100_000, 0)
            );
            assert_eq!(
                (seen.readers_waiting, seen.writers_waiting, seen.flushes_waiting),
                (1, 1, 1)
            );
            assert_eq!(seen.credit, (version == 2).then_some(262_144 - 100_000));
            let text = format!("{stream:?}");
            let told = [
                "\"stuck\"",
                "unsent: 100000",
                "readers_waiting: 1",
                "writers_waiting: 1",
                "flushes_waiting: 1",
            ];
            assert!(told.iter().all(|part| text.contains(part)), "{text}");

            let seen = session.stats();
            assert_eq!(
                (seen.unsent, seen.accepts_waiting, seen.streams, seen.paused),
                (100_000, 1, 1, None)
            );
            assert!(matches!(seen.writer, WriterState::InTransport(_)), "{seen:?}");
            let text = format!("{session:?}");
            let told = [
                "role: \"client\"",
                "unsent: 100000",
                "accepts_waiting: 1",
                "writer: InTransport(",
            ];
            assert!(told.iter().all(|part| text.contains(part)), "{text}");

            script.allow_all();
            script.eof();
            calls.into_iter().for_each(|call| call.join().unwrap());
            let seen = stream.stats();
            assert_eq!(
                (seen.readers_waiting, seen.writers_waiting, seen.flushes_waiting),
                (0, 0, 0)
            );
            assert_eq!(session.stats().accepts_waiting, 0);
        }
    });
}

/// P87: a writer that has nothing to do is parked. After the session's end it has ended.
#[test]
fn the_writer_is_parked_or_has_ended() {
    test("the_writer_is_parked_or_has_ended", || {
        let (client, server) = pair(quiet());
        until(|| client.stats().writer == WriterState::Parked);
        drop(server);
        until(|| client.stats().writer == WriterState::Ended);
        assert!(format!("{client:?}").contains("writer: Ended"));
    });
}

#[test]
fn a_pause_for_the_receive_buffer_shows_while_it_lasts() {
    test("a_pause_for_the_receive_buffer_shows_while_it_lasts", || {
        for (version, config) in [1, 2].into_iter().zip(quiet_versions()) {
            let (mut raw, session) =
                against_server(config.max_receive_buffer(262_144).stall_timeout(None), version);
            raw.syn(1, "unread");
            (0..10).for_each(|_| raw.psh(1, [7; 40_000]));
            until(|| session.stats().paused.is_some());
            let seen = session.stats();
            let Some(ReadPause::ReceiveBuffer(lasting)) = seen.paused else { panic!("{seen:?}") };
            until(|| {
                matches!(
                    session.stats().paused,
                    Some(ReadPause::ReceiveBuffer(longer)) if longer > lasting
                )
            });
            assert!(seen.paused.unwrap().to_string().contains("max_receive_buffer"));
            assert!(format!("{session:?}").contains("paused: Some(ReceiveBuffer("), "{session:?}");
            let unread = session.streams()[0].unread;
            assert!(unread >= 100_000, "{unread}");

            let mut stream = session.accept().unwrap();
            stream.read_exact(&mut [0; 400_000]).unwrap();
            assert_eq!(session.stats().paused, None);
            assert_eq!((stream.stats().bytes_received, stream.stats().unread), (400_000, 0));
        }
    });
}

#[test]
fn a_pause_for_the_accept_backlog_shows_while_it_lasts() {
    test("a_pause_for_the_accept_backlog_shows_while_it_lasts", || {
        let (mut raw, session) =
            against_server(quiet().accept_backlog(2).accept_stall_timeout(None), 1);
        for id in [1, 3, 5] {
            raw.syn(id, "waits");
        }
        until(|| matches!(session.stats().paused, Some(ReadPause::AcceptBacklog(_))));
        let seen = session.stats();
        assert_eq!((seen.backlog, seen.accept_pauses), (2, 1));
        assert!(seen.paused.unwrap().to_string().contains("accept_backlog"));
        assert!(format!("{session:?}").contains("paused: Some(AcceptBacklog("), "{session:?}");
        let _streams: Vec<_> = session.incoming().take(3).collect();
        until(|| session.stats().paused.is_none());
    });
}

/// P87: the list has all streams that aren't closed here, by id. It includes the peer's streams and
/// those in the backlog.
#[test]
fn a_session_lists_its_streams() {
    test("a_session_lists_its_streams", || {
        let (mut raw, session) = against_server(quiet(), 1);
        let mut ours = session.open("ours").unwrap();
        ours.write_all(&[1; 500]).unwrap();
        ours.flush().unwrap();
        raw.syn(1, "first");
        raw.psh(1, [0; 30]);
        raw.psh(1, [0; 20_000]);
        raw.fin(1);
        raw.syn(3, [0xFF, b'x']);
        raw.syn(5, "closed");
        until(|| session.stats().backlog == 3 && session.stats().bytes_received == 20_030);
        until(|| session.streams()[0].peer_finished);
        let mut first = session.accept().unwrap();
        first.read_exact(&mut [0; 10]).unwrap();
        let second = session.accept().unwrap();
        session.accept().unwrap().close().unwrap();

        let streams = session.streams();
        let told = |s: &StreamStats| {
            (s.id, s.name.clone(), s.bytes_received, s.unread, s.bytes_sent, s.peer_finished)
        };
        let expected = [
            (1, "first".to_owned(), 20_030, 20_020, 0, true),
            (2, "ours".to_owned(), 0, 0, 500, false),
            (3, "\u{FFFD}x".to_owned(), 0, 0, 0, false),
        ];
        assert_eq!(streams.iter().map(told).collect::<Vec<_>>(), expected);
        assert_eq!(told(&first.stats()), expected[0]);
        let age = second.stats().age;
        until(|| second.stats().age > age);
        assert!(session.streams()[2].age >= age && age < FAR);
        drop(raw);
        assert!(session.closed().recv().is_err());
        assert!(session.streams().is_empty(), "the session has ended");
        assert_eq!(first.stats().unread, 20_020, "a handle can be asked all the same");
    });
}

/// P81, P89: a session's number is a part of its threads' names, and of the text of its streams.
#[test]
fn a_session_has_the_number_that_its_threads_have() {
    test("a_session_has_the_number_that_its_threads_have", || {
        let (client, server) = pair(quiet());
        assert_ne!(client.number(), server.number());
        let name = format!("gmux-reader-{}", client.number());
        until(|| support::gmux_threads().contains(&name));
        assert!(
            format!("{:?}", client.open("").unwrap())
                .contains(&format!("session: {}", client.number()))
        );
    });
}

/// P39: `Stream::session` returns a handle, which keeps the session alive. Its drop may be the
/// last.
#[test]
fn the_session_of_a_stream_is_a_handle() {
    test("the_session_of_a_stream_is_a_handle", || {
        let (client, server) = pair(quiet());
        let stream = client.open("a").unwrap();
        assert_eq!(stream.session().number(), client.number());
        drop(client);
        let again = stream.session();
        drop(stream);
        // There was no session handle for a while, so the peer's streams are refused from then on.
        // So `accept` fails at once.
        assert!(matches!(again.accept(), Err(Error::Closed)));
        assert!(again.try_accept().is_err());
        assert!(!again.is_closed());
        let mut more = again.open("b").unwrap();
        more.write_all(b"x").unwrap();
        let first = server.accept().unwrap();
        let mut second = server.accept().unwrap();
        assert_eq!((first.name(), second.name()), ("a", "b"));
        second.read_exact(&mut [0]).unwrap();
        drop(more);
        drop(again);
        drop(first);
        drop(second);
        assert!(server.closed().recv().is_err(), "that was the last handle");
    });
}

/// P86: `Debug` doesn't block, even in a transport's `write`.
#[test]
fn debug_can_be_used_inside_the_transport() {
    test("debug_can_be_used_inside_the_transport", || {
        let script = Script::new();
        let known = Arc::new(OnceLock::<Session>::new());
        let seen = Arc::new(AtomicU32::new(0));
        script.on_write({
            let known = Arc::clone(&known);
            let seen = Arc::clone(&seen);
            move || {
                let text =
                    known.get().map(|session| format!("{session:?} {:?}", session.streams()));
                seen.fetch_add(
                    text.map_or(0, |text| u32::from(text.contains("writer: InTransport"))),
                    SeqCst,
                );
                Ok(())
            }
        });
        script.allow_all();
        let session = Session::client(script.transport(), quiet()).unwrap();
        known.set(session.clone()).unwrap();
        let mut stream = session.open("").unwrap();
        stream.write_all(b"x").unwrap();
        until(|| seen.load(SeqCst) > 0);
        script.eof();
        assert!(session.closed().recv().is_err());
        script.on_write(|| Ok(())); // the closure owned a handle of the session
    });
}

/// P86: `Debug` of a stream that has ended says why.
#[test]
fn debug_of_a_stream_that_ended_says_why() {
    test("debug_of_a_stream_that_ended_says_why", || {
        let (mut raw, session) = against_client(quiet().version(2), 2);
        let closed = session.open("").unwrap();
        let failed = session.open("").unwrap();
        let open = session.open("").unwrap();
        open.shutdown(Shutdown::Write).unwrap();
        closed.close().unwrap();
        raw.upd(5, 1, 1); // the update has more consumed bytes than were sent, so stream 5 fails
        assert!(failed.closed().recv().is_err());
        assert!(format!("{closed:?}").contains("ended: Some(Closed)"), "{closed:?}");
        assert!(format!("{failed:?}").contains("ended: Some(Consumed"), "{failed:?}");
        assert!(format!("{open:?}").contains("ended: None"), "{open:?}");
    });
}

//! The causes that wake a blocked `accept`, one by one. Each call is seen asleep before its cause
//! comes.
//!
//! Promises: P32, P44, P48, P61.

mod support;

use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

use gmux::wire::Command;
use gmux::{Config, Error, Session};
use support::blocked::{Blocked, blocked, started};
use support::frame_peer::{FramePeer, frame_peer};
use support::test;

/// A limit that a test waits for.
const SHORT: Duration = Duration::from_millis(30);
/// A limit that no test waits for. If it is the cause, the watchdog fires first.
const FAR: Duration = Duration::from_secs(3600);

fn session(config: Config) -> (FramePeer, Session) {
    let (peer, transport) = frame_peer(1);
    let session = Session::server(transport, config.close_timeout(FAR)).unwrap();
    (peer, session)
}

/// Returns an `accept` call that returns the stream's name.
fn accept(session: &Session) -> impl FnOnce() -> Result<String, Error> + Send + 'static {
    let session = session.clone();
    move || session.accept().map(|stream| stream.name().to_owned())
}

fn accepting(session: &Session) -> Blocked<Result<String, Error>> {
    blocked(accept(session))
}

macro_rules! fails_with {
    ($call:expr, $pattern:pat $(if $guard:expr)?) => {{
        let error = $call.join().unwrap_err();
        assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}");
    }};
}

#[test]
fn a_stream_wakes_accept() {
    test("a_stream_wakes_accept", || {
        let (peer, session) = session(Config::new());
        for (id, name) in [(3, ""), (5, "named")] {
            let call = accepting(&session);
            peer.syn(id, name);
            assert_eq!(call.join().unwrap(), name);
        }
    });
}

#[test]
fn a_stream_wakes_accept_timeout_and_incoming() {
    test("a_stream_wakes_accept_timeout_and_incoming", || {
        let (peer, session) = session(Config::new());
        let acceptor = session.clone();
        let call = blocked(move || acceptor.accept_timeout(FAR).map(|stream| stream.id()));
        peer.syn(3, "");
        assert_eq!(call.join().unwrap(), 3);
        let acceptor = session.clone();
        let call = blocked(move || {
            acceptor.incoming().map(|stream| stream.unwrap().id()).collect::<Vec<_>>()
        });
        peer.syn(5, "");
        call.assert_asleep();
        session.close().unwrap();
        assert_eq!(call.join(), [5]);
    });
}

#[test]
fn one_stream_wakes_one_accept_and_two_wake_two() {
    test("one_stream_wakes_one_accept_and_two_wake_two", || {
        let (peer, session) = session(Config::new());
        let mut calls = (0..3).map(|_| accepting(&session)).collect::<Vec<_>>();
        peer.syn(3, "first");
        support::until(|| calls.iter().any(Blocked::is_finished));
        let first = calls.iter().position(Blocked::is_finished).unwrap();
        assert_eq!(calls.remove(first).join().unwrap(), "first");
        for call in &calls {
            call.assert_asleep();
        }
        // Both SYNs come in one read of the transport.
        let mut both = Vec::new();
        for id in [5, 7] {
            both.extend(gmux::wire::Frame::new(1, Command::Syn, id, *b"more").unwrap().encode());
        }
        peer.bytes(both);
        for call in calls {
            assert_eq!(call.join().unwrap(), "more");
        }
    });
}

// ---- deadlines ----------------------------------------------------------------------------------

#[test]
fn a_deadline_ends_the_wait() {
    test("a_deadline_ends_the_wait", || {
        let (peer, session) = session(Config::new());
        session.set_deadline(Some(Instant::now() + SHORT));
        fails_with!(started(accept(&session)), Error::Timeout);
        fails_with!(started(accept(&session)), Error::Timeout);
        assert_eq!(io::Error::from(Error::Timeout).kind(), ErrorKind::TimedOut);
        // A queued stream is accepted though the deadline has passed.
        peer.syn(3, "queued");
        support::until(|| session.num_streams() == 1);
        assert_eq!(accept(&session)().unwrap(), "queued");
        session.set_deadline(None);
        let call = accepting(&session);
        peer.syn(5, "later");
        assert_eq!(call.join().unwrap(), "later");
    });
}

#[test]
fn a_deadline_set_or_moved_nearer_meanwhile_reaches_a_blocked_accept() {
    test("a_deadline_set_or_moved_nearer_meanwhile_reaches_a_blocked_accept", || {
        let (_peer, session) = session(Config::new());
        for before in [None, Some(FAR)] {
            for ahead in [Duration::ZERO, SHORT] {
                session.set_deadline(before.map(|before| Instant::now() + before));
                let call = accepting(&session);
                session.set_deadline(Some(Instant::now() + ahead));
                fails_with!(call, Error::Timeout);
            }
        }
    });
}

#[test]
fn a_deadline_moved_further_or_removed_doesnt_fire() {
    test("a_deadline_moved_further_or_removed_doesnt_fire", || {
        for further in [Some(FAR), None] {
            let (peer, session) = session(Config::new());
            let mut ahead = Duration::from_millis(100);
            let call = loop {
                let deadline = Instant::now() + ahead;
                session.set_deadline(Some(deadline));
                let call = started(accept(&session));
                std::thread::sleep(ahead / 4); // the call blocks in this time
                session.set_deadline(further.map(|ahead| Instant::now() + ahead));
                if Instant::now() < deadline {
                    std::thread::sleep(
                        (deadline + SHORT).saturating_duration_since(Instant::now()),
                    );
                    break call;
                }
                // The machine was too slow. The deadline may have passed before it was moved, so
                // this attempt shows nothing.
                session.set_deadline(Some(Instant::now()));
                let _ = call.join();
                ahead *= 2;
            };
            call.assert_asleep();
            peer.syn(3, "after all");
            assert_eq!(call.join().unwrap(), "after all");
        }
    });
}

#[test]
fn the_earlier_of_deadline_and_accept_timeout_wins_also_when_moved_meanwhile() {
    test("the_earlier_of_deadline_and_accept_timeout_wins_also_when_moved_meanwhile", || {
        let (_peer, session) = session(Config::new());
        session.set_deadline(Some(Instant::now() + FAR));
        assert!(matches!(session.accept_timeout(SHORT), Err(Error::Timeout)));
        let acceptor = session.clone();
        let call = blocked(move || acceptor.accept_timeout(FAR).map(drop));
        session.set_deadline(Some(Instant::now() + SHORT));
        fails_with!(call, Error::Timeout);
    });
}

// ---- endings ------------------------------------------------------------------------------------

#[test]
fn close_in_another_thread_wakes_accept_before_it_is_done() {
    test("close_in_another_thread_wakes_accept_before_it_is_done", || {
        let (peer, session) = session(Config::new());
        peer.shut();
        let mut stream = session.open("").unwrap();
        stream.write_all(b"x").unwrap();
        let call = accepting(&session);
        let closer = session.clone();
        let closing = started(move || closer.close());
        fails_with!(call, Error::Closed);
        closing.assert_asleep();
        peer.open();
        closing.join().unwrap();
    });
}

#[test]
fn drain_wakes_accept() {
    test("drain_wakes_accept", || {
        let (_peer, session) = session(Config::new());
        let stream = session.open("keeps the drain waiting").unwrap();
        let call = accepting(&session);
        let drainer = session.clone();
        let draining = started(move || drainer.drain(FAR));
        fails_with!(call, Error::Closed);
        draining.assert_asleep();
        drop(stream);
        draining.join().unwrap();
    });
}

#[test]
fn the_peers_clean_end_wakes_accept_and_ends_incoming() {
    test("the_peers_clean_end_wakes_accept_and_ends_incoming", || {
        let (peer, session) = session(Config::new());
        let call = accepting(&session);
        let other = session.clone();
        let incoming = blocked(move || other.incoming().count());
        peer.end();
        fails_with!(call, Error::PeerClosed);
        assert_eq!(incoming.join(), 0);
    });
}

#[test]
fn an_end_with_streams_open_wakes_accept_with_an_error_and_incoming_yields_it_once() {
    test("an_end_with_streams_open_wakes_accept_with_an_error_and_incoming_yields_it_once", || {
        let (peer, session) = session(Config::new());
        let _open = session.open("").unwrap();
        let call = accepting(&session);
        let other = session.clone();
        let incoming =
            blocked(move || other.incoming().map(|stream| stream.unwrap_err()).collect::<Vec<_>>());
        peer.end();
        fails_with!(call, Error::ConnectionLost(_));
        let errors = incoming.join();
        assert!(matches!(errors[..], [Error::ConnectionLost(_)]), "{errors:?}");
    });
}

#[test]
fn a_failing_read_of_the_transport_wakes_accept() {
    test("a_failing_read_of_the_transport_wakes_accept", || {
        let (peer, session) = session(Config::new());
        let call = accepting(&session);
        peer.fail_read(ErrorKind::ConnectionReset);
        fails_with!(call, Error::Io(source) if source.kind() == ErrorKind::ConnectionReset);
    });
}

/// P61: the input stays open, and the close timeout is far away. So the failed write itself has to
/// wake the call.
#[test]
fn a_failing_write_of_the_transport_wakes_accept_at_once() {
    test("a_failing_write_of_the_transport_wakes_accept_at_once", || {
        let (peer, session) = session(Config::new());
        let call = accepting(&session);
        peer.fail_write(ErrorKind::HostUnreachable);
        let _stream = session.open("something to write").unwrap();
        fails_with!(call, Error::Io(source) if source.kind() == ErrorKind::HostUnreachable);
        fails_with!(started(accept(&session)), Error::Io(_)); // a later call returns the same error
    });
}

#[test]
fn a_fault_of_the_peers_wakes_accept() {
    test("a_fault_of_the_peers_wakes_accept", || {
        let (peer, session) = session(Config::new());
        let call = accepting(&session);
        peer.frame(Command::Fin, 3, b"?");
        fails_with!(call, Error::InvalidProtocol { .. });
    });
}

#[test]
fn the_sessions_no_data_timeout_set_or_shortened_meanwhile_wakes_accept() {
    test("the_sessions_no_data_timeout_set_or_shortened_meanwhile_wakes_accept", || {
        for before in [None, Some(FAR)] {
            let (_peer, session) = session(Config::new());
            session.set_no_data_timeout(before).unwrap();
            let call = accepting(&session);
            session.set_no_data_timeout(Some(SHORT)).unwrap();
            fails_with!(call, Error::NoData(SHORT));
        }
    });
}

#[test]
fn keepalive_expiry_wakes_accept_also_with_the_writer_stuck_in_the_transport() {
    test("keepalive_expiry_wakes_accept_also_with_the_writer_stuck_in_the_transport", || {
        for (stuck, deaf) in [(false, false), (true, false), (true, true)] {
            let silence = Duration::from_millis(300);
            let config = Config::new().keepalive_interval(silence / 3).keepalive_timeout(silence);
            let (peer, session) = session(config);
            if deaf {
                peer.turn_deaf();
            }
            if stuck {
                peer.shut();
                let _ = session.open("").unwrap();
            }
            let call = started(accept(&session));
            if stuck {
                peer.wait_stuck();
            }
            match call.join() {
                Err(Error::KeepaliveTimeout(after)) => assert_eq!(after, silence),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn every_accept_that_is_blocked_wakes_at_the_end() {
    test("every_accept_that_is_blocked_wakes_at_the_end", || {
        let (peer, session) = session(Config::new());
        let calls = [(); 4].map(|()| accepting(&session));
        peer.end();
        for call in calls {
            fails_with!(call, Error::PeerClosed);
        }
    });
}

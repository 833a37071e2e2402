//! Runs the tests that every transport of the crate has to pass, with the transport of the
//! `custom_transport` example.
//!
//! Promises: P90, P95, P97.

mod support;

#[path = "../examples/custom_transport.rs"]
mod example;

use std::io::{Read, Write};
use std::thread;

use example::{Connection, connect};
use gmux::{Config, Session};
use support::links::{self, Any, threads_end};
use support::{test, until};

fn ends() -> (Connection, Connection) {
    connect(["192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()])
}

fn over_messages() -> (Any, Any) {
    let (a, b) = ends();
    (Any::new(a), Any::new(b))
}

macro_rules! scenarios {
    ($($name:ident: $scenario:ident($($more:expr)?);)+) => {$(
        #[test]
        fn $name() {
            test(stringify!($name), || links::$scenario(over_messages $(, $more)?));
        }
    )+};
}

scenarios! {
    it_carries_8_mib_both_ways: carries_8_mib_both_ways();
    it_closes_while_parked: closes_while_parked();
    it_closes_while_both_threads_are_stuck: closes_while_both_threads_are_stuck(true);
    it_notices_a_vanished_peer: notices_that_the_far_end_vanished();
    it_notices_a_vanished_peer_during_a_write: notices_that_the_far_end_vanished_during_a_write();
    it_moves_again_when_full_both_ways: both_directions_full_at_once_move_again();
    it_echoes_1_mib_in_both_directions: echoes_1_mib_in_both_directions();
}

#[test]
fn its_main_runs() {
    test("its_main_runs", || example::main().unwrap());
}

#[test]
fn it_tells_its_addresses() {
    test("it_tells_its_addresses", || {
        let (a, b) = ends();
        let client = Session::client(a, Config::new()).unwrap();
        let server = Session::server(b, Config::new()).unwrap();
        assert_eq!(client.peer_addr(), server.local_addr());
        assert_eq!(client.local_addr(), server.peer_addr());
        assert_eq!(client.peer_addr(), Some("192.0.2.2:2".parse().unwrap()));
    });
}

/// Sends questions and gets answers, one at a time. The asking threads read and write by
/// themselves, without waking the session's threads.
#[test]
fn it_answers_a_thousand_questions() {
    test("it_answers_a_thousand_questions", || {
        let (a, b) = ends();
        let client = Session::client(a, Config::new()).unwrap();
        let server = Session::server(b, Config::new()).unwrap();
        let echo = thread::spawn(move || {
            let mut stream = server.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 {
                stream.write_all(&byte).unwrap();
            }
        });
        let mut stream = client.open("questions").unwrap();
        for question in 0..1000_u32 {
            let byte = [question.to_le_bytes()[0]];
            stream.write_all(&byte).unwrap();
            let mut answer = [0];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, byte);
        }
        stream.close().unwrap();
        echo.join().unwrap();
        client.close().unwrap();
    });
}

/// The session has nothing to write, and keepalive is off. The pong is sent nevertheless.
#[test]
fn it_answers_pings_while_its_session_is_idle() {
    test("it_answers_pings_while_its_session_is_idle", || {
        let (a, b) = ends();
        let pings = a.pings();
        let config = Config::new().keepalive_disabled(true);
        let client = Session::client(a, config.clone()).unwrap();
        let server = Session::server(b, config).unwrap();
        for count in 1..=100 {
            pings.send().unwrap();
            until(|| pings.answered() == count);
        }
        client.close().unwrap();
        threads_end(&server);
    });
}

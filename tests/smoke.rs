//! The shortest test of everything. If it fails, mend this fault first.
//!
//! Promises: P1, P6.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use gmux::Config;
use support::{Pattern, pair, test, versions};

#[test]
fn an_echo_crosses_both_ways() {
    test("an_echo_crosses_both_ways", || {
        for config in versions() {
            let (client, server) = pair(config);
            let echo = thread::spawn(move || {
                for stream in server.incoming() {
                    let stream = stream.unwrap();
                    assert_eq!(stream.name(), "echo");
                    std::io::copy(&mut &stream, &mut &stream).unwrap();
                }
            });
            let stream = client.open("echo").unwrap();
            let sent = Pattern::bytes(1, 3_000_000);
            let writer = thread::spawn({
                let stream = stream.clone();
                let sent = sent.clone();
                move || {
                    (&stream).write_all(&sent).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                }
            });
            let mut back = Vec::new();
            (&stream).read_to_end(&mut back).unwrap();
            writer.join().unwrap();
            assert!(back == sent);
            drop(stream);
            client.close().unwrap();
            echo.join().unwrap();
        }
    });
}

#[test]
fn streams_are_accepted_in_the_order_in_which_one_thread_opened_them() {
    const STREAMS: usize = 20_000; // far more than the writer's bounded queue holds
    test("streams_are_accepted_in_the_order_in_which_one_thread_opened_them", || {
        for _ in 0..5 {
            let (client, server) = pair(Config::new().accept_backlog(STREAMS));
            let opened: Vec<_> = (0..STREAMS).map(|_| client.open("").unwrap()).collect();
            let accepted: Vec<_> = (0..STREAMS).map(|_| server.accept().unwrap()).collect();
            for (opened, accepted) in opened.iter().zip(&accepted) {
                assert_eq!(opened.id(), accepted.id());
            }
        }
    });
}

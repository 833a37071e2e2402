//! Counts the threads that a copy needs. It counts all threads of the process, so this file has
//! only one test.
//!
//! Promises: P106.
#![cfg(target_os = "linux")]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use gmux::{Config, copy_bidirectional};
use support::{pair, tcp, test, threads, until};

#[test]
fn a_copy_takes_two_threads_and_the_second_is_gone_when_it_returns() {
    test("a_copy_takes_two_threads_and_the_second_is_gone_when_it_returns", || {
        const COPIES: usize = 8;
        let (client, server) = pair(Config::new().version(2));
        let mut forwards = Vec::new();
        for _ in 0..COPIES {
            let far = client.open("").unwrap();
            let near = server.accept().unwrap();
            let (socket, peer) = tcp();
            forwards.push((far, near, socket, peer));
        }
        let before = threads().len();
        let (go, running): (Vec<_>, Vec<_>) = forwards
            .into_iter()
            .map(|(mut far, near, socket, mut peer)| {
                let caller = thread::spawn(move || copy_bidirectional(&near, &socket).unwrap());
                // Check that both directions run.
                let mut byte = [0];
                far.write_all(b"x").unwrap();
                peer.read_exact(&mut byte).unwrap();
                peer.write_all(b"y").unwrap();
                far.read_exact(&mut byte).unwrap();
                ((far, peer), caller)
            })
            .unzip();
        assert_eq!(threads().len(), before + 2 * COPIES, "{:?}", threads());
        assert_eq!(threads().iter().filter(|name| *name == "gmux-copy").count(), COPIES);
        for (far, peer) in &go {
            far.shutdown(Shutdown::Write).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
        }
        for caller in running {
            let copied = caller.join().unwrap();
            assert_eq!((copied.a_to_b, copied.b_to_a), (1, 1));
        }
        // The threads are joined, but a thread leaves the process a moment later.
        until(|| threads().len() == before);
    });
}

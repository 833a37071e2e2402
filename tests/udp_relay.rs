//! Tests of two test tools, the UDP relay and the load. Tests that use them are only as reliable as
//! the tools.
//!
//! Promises: none. It shows that helpers of other tests do what they say.

mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use support::load::{Closes, Job, Target, transfer};
use support::udp_relay::{Counts, Link, UdpRelay};
use support::{test, until};

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn number(socket: &UdpSocket) -> (u32, SocketAddr) {
    let mut bytes = [0; 4];
    let (length, from) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!(length, 4);
    (u32::from_le_bytes(bytes), from)
}

/// Sends `count` numbered datagrams. Returns the numbers that arrive, in the order of arrival.
fn arrived(link: Link, count: u32) -> (Vec<u32>, Counts) {
    let client = socket();
    let server = socket();
    let relay = UdpRelay::start(server.local_addr().unwrap(), link).unwrap();
    let mut seen = Vec::new();
    for each in 0..count {
        client.send_to(&each.to_le_bytes(), relay.addr()).unwrap();
        if each % 50 == 49 {
            // The buffers must not overflow.
            until(|| relay.counts().received == u64::from(each) + 1);
            let left = |seen: &[u32]| {
                let counts = relay.counts();
                seen.len() as u64 + counts.lost < counts.received + counts.doubled + counts.damaged
            };
            while left(&seen) {
                seen.push(number(&server).0);
            }
        }
    }
    (seen, relay.counts())
}

#[test]
fn a_perfect_link_changes_nothing() {
    test("a_perfect_link_changes_nothing", || {
        let (seen, counts) = arrived(Link::default(), 1000);
        assert!(seen.iter().copied().eq(0..1000));
        assert_eq!(counts, Counts { received: 1000, ..Counts::default() });
    });
}

#[test]
fn a_seed_loses_the_same_datagrams_each_time() {
    test("a_seed_loses_the_same_datagrams_each_time", || {
        let link = Link { loss: 20, seed: 7, ..Link::default() };
        let (seen, counts) = arrived(link, 2000);
        assert!((300..500).contains(&counts.lost), "{counts:?}");
        assert_eq!(seen.len() as u64, 2000 - counts.lost);
        assert_eq!(arrived(link, 2000).0, seen);
        assert_ne!(arrived(Link { seed: 8, ..link }, 2000).0, seen);
    });
}

#[test]
fn late_ones_come_behind_later_ones_and_doubled_ones_twice() {
    test("late_ones_come_behind_later_ones_and_doubled_ones_twice", || {
        let late = Duration::from_millis(20);
        let link = Link { reorder: 5, late, double: 10, ..Link::default() };
        let (seen, counts) = arrived(link, 1000);
        assert_eq!((counts.received, counts.lost, counts.overflowed), (1000, 0, 0));
        assert!((20..80).contains(&counts.reordered), "{counts:?}");
        assert!((60..140).contains(&counts.doubled), "{counts:?}");
        assert_eq!(seen.len() as u64, 1000 + counts.doubled);
        assert!(!seen.is_sorted());
        let mut sorted = seen;
        sorted.sort_unstable();
        sorted.dedup();
        assert!(sorted.into_iter().eq(0..1000));
    });
}

#[test]
fn a_damaged_copy_comes_behind_the_right_one() {
    test("a_damaged_copy_comes_behind_the_right_one", || {
        let (seen, counts) = arrived(Link { damage: 30, ..Link::default() }, 1000);
        assert!((200..400).contains(&counts.damaged), "{counts:?}");
        let mut next = 0;
        let wrong = seen.iter().filter(|&&each| {
            let right = each == next;
            next += u32::from(right);
            if !right {
                // A damaged copy of 2 may read as 3. Then the real 3 looks like the damaged one.
                assert!((each ^ (next - 1)).count_ones() <= 1);
            }
            !right
        });
        assert_eq!(wrong.count() as u64, counts.damaged);
        assert_eq!(next, 1000);
    });
}

#[test]
fn clients_that_share_an_address_are_one_and_the_last_gets_the_answer() {
    test("clients_that_share_an_address_are_one_and_the_last_gets_the_answer", || {
        let server = socket();
        let link = Link::default();
        let relay = UdpRelay::start_as_one_client(server.local_addr().unwrap(), link).unwrap();
        let clients = [socket(), socket()];
        let mut froms = Vec::new();
        for (client, each) in clients.iter().zip(0u32..) {
            client.send_to(&each.to_le_bytes(), relay.addr()).unwrap();
            let (came, from) = number(&server);
            assert_eq!(came, each);
            server.send_to(&(each + 10).to_le_bytes(), from).unwrap();
            assert_eq!(number(client).0, each + 10);
            froms.push(from);
        }
        assert_eq!(froms[0], froms[1]);
        relay.forge_from_clients(&99u32.to_le_bytes());
        assert_eq!(number(&server), (99, froms[0]));
        relay.forge_from_server(&98u32.to_le_bytes());
        assert_eq!(number(&clients[1]), (98, relay.addr()));
    });
}

#[test]
fn clients_are_told_apart_and_answers_take_as_long_as_questions() {
    test("clients_are_told_apart_and_answers_take_as_long_as_questions", || {
        let delay = Duration::from_millis(30);
        let server = socket();
        let link = Link { delay, ..Link::default() };
        let relay = UdpRelay::start(server.local_addr().unwrap(), link).unwrap();
        let clients = [(); 20].map(|()| socket());
        let begin = Instant::now();
        for (client, each) in clients.iter().zip(0u32..) {
            client.send_to(&each.to_le_bytes(), relay.addr()).unwrap();
        }
        let mut froms = Vec::new();
        for _ in &clients {
            let (each, from) = number(&server);
            froms.push(from);
            server.send_to(&(each + 100).to_le_bytes(), from).unwrap();
        }
        assert!(begin.elapsed() >= delay);
        for (client, each) in clients.iter().zip(100u32..) {
            assert_eq!(number(client), (each, relay.addr()));
        }
        assert!(begin.elapsed() >= 2 * delay);
        froms.sort_unstable();
        froms.dedup();
        assert_eq!(froms.len(), clients.len());
    });
}

#[test]
fn a_dead_link_passes_nothing_until_it_is_mended_and_a_drop_ends_all() {
    test("a_dead_link_passes_nothing_until_it_is_mended_and_a_drop_ends_all", || {
        let client = socket();
        let server = socket();
        let dead = Link { loss: 100, ..Link::default() };
        let relay = UdpRelay::start(server.local_addr().unwrap(), dead).unwrap();
        for _ in 0..50 {
            client.send_to(&[0; 4], relay.addr()).unwrap();
        }
        until(|| relay.counts().lost == 50);
        relay.set_link(Link::default());
        client.send_to(&7u32.to_le_bytes(), relay.addr()).unwrap();
        assert_eq!(number(&server).0, 7);
        let addr = relay.addr();
        drop(relay);
        UdpSocket::bind(addr).unwrap();
    });
}

// ---- the load -----------------------------------------------------------------------------------

/// Runs the load through a forwarder that applies `spoil` to each piece on the way back.
fn through_a_forwarder(spoil: fn(&mut Vec<u8>, usize), closes: Closes) -> (io::Result<()>, Target) {
    let patience = Duration::from_secs(20);
    let target = Target::start(patience).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = listener.local_addr().unwrap();
    let far = target.addr();
    let forwarder = thread::spawn(move || {
        let near = listener.accept().unwrap().0;
        let far = TcpStream::connect(far).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ = io::copy(&mut &near, &mut &far);
                let _ = far.shutdown(std::net::Shutdown::Both);
            });
            let mut buffer = vec![0; 10_000];
            let mut at = 0;
            while let Ok(n @ 1..) = (&far).read(&mut buffer) {
                let mut piece = buffer[..n].to_vec();
                spoil(&mut piece, at);
                at += n;
                if (&near).write_all(&piece).is_err() {
                    break;
                }
            }
            let _ = near.shutdown(std::net::Shutdown::Both);
        });
    });
    let job = Job { up: 3_000_000, down: 3_000_000, seed: 5, closes };
    let moved = transfer(near, job, patience);
    forwarder.join().unwrap();
    until(|| target.open() == 0);
    (moved, target)
}

#[test]
fn a_transfer_passes_whoever_closes() {
    test("a_transfer_passes_whoever_closes", || {
        for closes in [Closes::Client, Closes::Target] {
            let (moved, target) = through_a_forwarder(|_, _| {}, closes);
            moved.unwrap();
            assert_eq!((target.served(), target.take_faults()), (1, vec![]));
        }
    });
}

#[test]
fn a_transfer_sees_bytes_that_are_wrong_missing_or_too_many() {
    test("a_transfer_sees_bytes_that_are_wrong_missing_or_too_many", || {
        let wrong: fn(&mut Vec<u8>, usize) = |piece, at| {
            if (at..at + piece.len()).contains(&2_000_000) {
                piece[2_000_000 - at] ^= 1;
            }
        };
        let missing: fn(&mut Vec<u8>, usize) = |piece, at| {
            if (at..at + piece.len()).contains(&2_000_000) {
                piece.remove(2_000_000 - at);
            }
        };
        // The receipt has eight bytes, and nothing may follow it.
        let too_many: fn(&mut Vec<u8>, usize) = |piece, at| {
            if at + piece.len() == 3_000_008 {
                piece.push(0);
            }
        };
        let all = [(wrong, "wrong bytes"), (missing, "wrong bytes"), (too_many, "more")];
        for (spoil, says) in all {
            let (moved, _) = through_a_forwarder(spoil, Closes::Target);
            let error = moved.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    });
}

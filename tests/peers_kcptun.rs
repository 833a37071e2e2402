//! Tests of our example `kcp` with kcptun's programs on the other end, in both roles, over good and
//! bad links. `./tests/peers kcptun` installs the programs and runs these tests. Plain `cargo test`
//! ignores them.
//!
//! A transfer (`support/load.rs`) compares every byte in both directions. kcptun knows no
//! half-close, so the end that is done closes the whole connection.
//!
//! Promises: none. It shows the example `kcp`, which isn't a part of the crate.

mod support;

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use support::forwarders::{Forwarder, Options, Program, free_addr};
use support::load::{Closes, Job, Target, transfer, transfer_over};
use support::udp_relay::{Link, UdpRelay};
use support::{peers, splitmix64, test_for, until};

const WATCHDOG: Duration = Duration::from_secs(300);

/// Time limit. A connection on which nothing moves for this time has failed.
const PATIENCE: Duration = Duration::from_secs(100);

/// smux's keepalive timeout, which kcptun doesn't change. Our example has the same.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(30);

const MIB: u64 = 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}
use Role::{Client, Server};

#[derive(Clone, Copy, Debug)]
struct Case {
    /// Our role. kcptun has the other.
    ours: Role,
    smuxver: u8,
    crypt: &'static str,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for crypt in ["none", "aes"] {
            for smuxver in [1, 2] {
                all.extend([Client, Server].map(|ours| Self { ours, smuxver, crypt }));
            }
        }
        all
    }

    /// The cases without a cipher, for tests that don't depend on it.
    fn plain() -> Vec<Self> {
        Self::all().into_iter().filter(|case| case.crypt == "none").collect()
    }

    fn options(self) -> Options {
        let Self { smuxver, crypt, .. } = self;
        // The client's windows are as large as a server's, so that much data may be on the way at
        // once.
        let sndwnd = [1024; 2];
        let rcvwnd = [1024; 2];
        Options { smuxver, crypt, sndwnd, rcvwnd, keepalive: 1, ..Options::default() }
    }

    /// Returns the program for a role.
    fn program(self, role: Role) -> Program {
        if self.ours == role { Program::Ours(peers::example("kcp")) } else { Program::Kcptun }
    }
}

/// A client, perhaps a relay, a server, and a target behind the server.
struct Pair {
    case: Case,
    /// The client's address.
    near: SocketAddr,
    /// The server's address.
    far: SocketAddr,
    client: Option<Forwarder>,
    relay: Option<UdpRelay>,
    server: Option<Forwarder>,
    target: Target,
}

impl Pair {
    fn start(case: Case) -> Self {
        Self::run(case, |_| None)
    }

    fn start_over(case: Case, link: Link) -> Self {
        Self::run(case, |far| Some(UdpRelay::start(far, link).unwrap()))
    }

    fn run(case: Case, relay: impl FnOnce(SocketAddr) -> Option<UdpRelay>) -> Self {
        let target = Target::start(PATIENCE).unwrap();
        let near = free_addr();
        let far = free_addr();
        let relay = relay(far);
        let mut pair = Self { case, near, far, client: None, relay, server: None, target };
        pair.start_again(Server);
        pair.start_again(Client);
        pair
    }

    /// Kills a program like a crash, so that it can't tell the other end.
    fn kill(&mut self, role: Role) {
        match role {
            Client => self.client = None,
            Server => self.server = None,
        }
    }

    fn start_again(&mut self, role: Role) {
        let program = self.case.program(role);
        let options = self.case.options();
        match role {
            Client => {
                let remote = self.relay.as_ref().map_or(self.far, UdpRelay::addr);
                self.client = Some(Forwarder::client(&program, self.near, remote, &options));
            }
            Server => {
                let target = self.target.addr();
                self.server = Some(Forwarder::server(&program, self.far, target, &options));
            }
        }
    }

    fn transfer(&self, job: Job) {
        if let Err(error) = transfer(self.near, job, PATIENCE) {
            panic!("{:?}: {job:?}: {error}\n{}", self.case, self.words());
        }
    }

    /// Returns the output of both programs, and the target's faults.
    fn words(&self) -> String {
        let logs = [&self.client, &self.server].into_iter().flatten();
        let logs = logs.map(|end| format!("---- {}:\n{}", end.name, end.log()));
        logs.chain(self.target.take_faults()).collect::<Vec<_>>().join("\n")
    }

    fn ours(&self) -> &Forwarder {
        if self.case.ours == Client { &self.client } else { &self.server }.as_ref().unwrap()
    }

    /// Checks that the target has also received everything without a fault, and that no connection
    /// stays.
    fn all_served(&self, count: u64) {
        until(|| self.target.open() == 0);
        let faults = self.target.take_faults();
        assert!(faults.is_empty(), "{:?}: {faults:?}\n{}", self.case, self.words());
        assert_eq!(self.target.served(), count, "{:?}", self.case);
    }
}

/// Runs `body` if kcptun is installed.
fn with_kcptun(name: &str, body: impl FnOnce()) {
    test_for(name, WATCHDOG, || {
        if peers::are_there(name, &["kcptun-client", "kcptun-server"]) {
            body();
        }
    });
}

/// Runs `body` alone among the tests that move much data. Tests that wait for timeouts run at the
/// same time.
fn with_kcptun_alone(name: &str, body: impl FnOnce()) {
    static MOVING: Mutex<()> = Mutex::new(());
    let _moving = MOVING.lock().unwrap_or_else(PoisonError::into_inner);
    with_kcptun(name, body);
}

/// Runs all cases at once, for tests that mostly wait.
fn at_once(cases: Vec<Case>, body: impl Fn(Case) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            let body = &body;
            let name = format!("{case:?}");
            thread::Builder::new().name(name).spawn_scoped(scope, move || body(case)).unwrap();
        }
    });
}

// ---- data ---------------------------------------------------------------------------------------

#[test]
#[ignore = "kcptun on the other end: ./tests/peers kcptun"]
fn sixty_four_mebibytes_each_way_at_once() {
    with_kcptun_alone("sixty_four_mebibytes_each_way_at_once", || {
        for case in Case::all() {
            let begin = Instant::now();
            let pair = Pair::start(case);
            pair.transfer(Job::both(64 * MIB, 1));
            pair.all_served(1);
            println!("{case:?}: {:.1} s", begin.elapsed().as_secs_f64());
        }
    });
}

/// Transfers through a relay that loses, reorders, doubles and damages datagrams.
fn over_a_bad_link(loss: u32, bytes: u64) {
    for case in Case::all() {
        let delay = Duration::from_millis(5);
        let late = Duration::from_millis(12);
        let link = Link { loss, reorder: 10, late, double: 5, damage: 5, delay, seed: 11 };
        let begin = Instant::now();
        let pair = Pair::start_over(case, link);
        pair.transfer(Job::both(bytes, 1));
        pair.all_served(1);
        let counts = pair.relay.as_ref().unwrap().counts();
        assert_eq!(counts.lost > 0, loss > 0, "{counts:?}");
        assert!(counts.reordered > 0 && counts.doubled > 0 && counts.damaged > 0, "{counts:?}");
        println!("{case:?}: {:.1} s, {counts:?}", begin.elapsed().as_secs_f64());
    }
}

#[test]
#[ignore = "kcptun on the other end: ./tests/peers kcptun"]
fn reordering_and_doubling_change_no_byte() {
    with_kcptun_alone("reordering_and_doubling_change_no_byte", || over_a_bad_link(0, 64 * MIB));
}

#[test]
#[ignore = "kcptun on the other end: ./tests/peers kcptun"]
fn five_percent_of_loss_change_no_byte() {
    with_kcptun_alone("five_percent_of_loss_change_no_byte", || over_a_bad_link(5, 64 * MIB));
}

#[test]
#[ignore = "kcptun on the other end: ./tests/peers kcptun"]
fn twenty_percent_of_loss_change_no_byte() {
    with_kcptun_alone("twenty_percent_of_loss_change_no_byte", || over_a_bad_link(20, 64 * MIB));
}

// ---- connections --------------------------------------------------------------------------------

const CONNECTIONS: usize = 200;

#[test]
#[ignore = "kcptun on the other end: ./tests/peers kcptun"]
fn two_hundred_connections_at_once() {
    with_kcptun_alone("two_hundred_connections_at_once", || {
        for case in Case::all() {
            let pair = Pair::start(case);
            let all_done = Barrier::new(CONNECTIONS);
            thread::scope(|scope| {
                for seed in 0..CONNECTIONS as u64 {
                    let pair = &pair;
                    let all_done = &all_done;
                    scope.spawn(move || {
                        let socket = TcpStream::connect(pair.near).unwrap();
                        let moved = transfer_over(&socket, Job::both(128 * 1024, seed), PATIENCE);
                        all_done.wait(); // Each stays open until all are done.
                        moved.unwrap_or_else(|error| panic!("{case:?}: {seed}: {error}"));
                    });
                }
            });
            assert_eq!(pair.target.most(), CONNECTIONS, "{case:?}");
            pair.all_served(CONNECTIONS as u64);
        }
    });
}

#[test]
#[ignore = "kcptun on the other end: ./tests/peers kcptun"]
fn a_close_after_the_whole_answer_loses_nothing_and_leaves_nothing() {
    with_kcptun_alone("a_close_after_the_whole_answer_loses_nothing_and_leaves_nothing", || {
        for case in Case::all() {
            let link = Link { delay: Duration::from_millis(3), ..Link::default() };
            let pair = Pair::start_over(case, link);
            pair.transfer(Job::both(1000, 1)); // All lasting descriptors are open after this.
            pair.all_served(1);
            let before = settled_descriptors(pair.ours());
            let mut count = 1;
            for closes in [Closes::Target, Closes::Client] {
                for (up, down) in [(0, 0), (0, 1), (100, 300_000), (300_000, 0), (1, 3 * MIB)] {
                    for seed in 0..6 {
                        pair.transfer(Job { up, down, seed, closes });
                        count += 1;
                    }
                }
            }
            pair.all_served(count);
            until(|| pair.ours().descriptors() <= before);
        }
    });
}

/// Returns the number of descriptors of a process, when it no longer changes.
fn settled_descriptors(of: &Forwarder) -> usize {
    let mut before = of.descriptors();
    loop {
        // No event tells that the other process has closed them.
        thread::sleep(Duration::from_millis(200));
        let now = of.descriptors();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// An idle connection outlives two keepalive timeouts of both ends, because both send keepalive
/// messages. After that time it still works.
#[test]
#[ignore = "kcptun on the other end: ./tests/peers kcptun"]
fn a_keepalive_keeps_idle_connections() {
    with_kcptun("a_keepalive_keeps_idle_connections", || {
        at_once(Case::all(), |case| {
            let pair = Pair::start(case);
            let socket = TcpStream::connect(pair.near).unwrap();
            until(|| pair.target.open() == 1);
            // The test is about this time.
            thread::sleep(2 * KEEPALIVE_TIMEOUT + Duration::from_secs(3));
            transfer_over(&socket, Job::both(100_000, 1), PATIENCE).unwrap();
            drop(socket);
            pair.all_served(1);
            assert_eq!(pair.target.accepted(), 1, "{case:?}");
        });
    });
}

// ---- restarts -----------------------------------------------------------------------------------

/// A program is killed in the middle of a transfer and started again at once. The other program
/// isn't told, and serves the new conversation.
fn killed_and_restarted(case: Case, killed: Role, as_one_client: bool) {
    let what = format!("{case:?}, {killed:?} killed, as one client: {as_one_client}");
    let link = Link { delay: Duration::from_millis(2), ..Link::default() };
    let relay = if as_one_client { UdpRelay::start_as_one_client } else { UdpRelay::start };
    let mut pair = Pair::run(case, |far| Some(relay(far, link).unwrap()));
    pair.transfer(Job::both(MIB, 1));
    pair.all_served(1);

    // There is an idle connection, and one in the middle of a transfer.
    let idle = TcpStream::connect(pair.near).unwrap();
    until(|| pair.target.open() == 1);
    let near = pair.near;
    let cut = thread::spawn(move || transfer(near, Job::both(4096 * MIB, 1), PATIENCE));
    until(|| pair.target.open() == 2);
    thread::sleep(Duration::from_millis(300)); // The transfer has to be under way.
    pair.kill(killed);
    let begin = Instant::now();
    pair.start_again(killed);

    // A client notices only by its keepalive that the server was lost.
    let limit = 2 * KEEPALIVE_TIMEOUT + Duration::from_secs(30);
    let mut tries = 0;
    while let Err(error) = transfer(pair.near, Job::both(MIB, 2), Duration::from_secs(2)) {
        tries += 1;
        assert!(begin.elapsed() < limit, "{what}: {error}\n{}", pair.words());
    }
    println!("{what}: served again after {:.1} s, {tries} tries", begin.elapsed().as_secs_f64());
    if killed == Client {
        assert!(begin.elapsed() < KEEPALIVE_TIMEOUT, "{what}: a new client needn't wait");
    }
    // The old connections end too, at both ends. They end with an error where bytes are missing.
    cut.join().unwrap().unwrap_err();
    idle.set_read_timeout(Some(limit)).unwrap();
    let end = std::io::Read::read(&mut &idle, &mut [0]);
    assert!(matches!(&end, Ok(0) | Err(_)), "{what}: {end:?}");
    until(|| pair.target.open() == 0 || begin.elapsed() > limit);
    assert_eq!(pair.target.open(), 0, "{what}: connections stay\n{}", pair.words());
    pair.transfer(Job::both(MIB, 3));
}

#[test]
#[ignore = "kcptun on the other end: ./tests/peers kcptun"]
fn either_program_is_killed_and_restarted() {
    with_kcptun("either_program_is_killed_and_restarted", || {
        at_once(Case::plain(), |case| {
            thread::scope(|scope| {
                for (killed, as_one_client) in [(Client, false), (Client, true), (Server, false)] {
                    scope.spawn(move || killed_and_restarted(case, killed, as_one_client));
                }
            });
        });
    });
}

// ---- bad input ----------------------------------------------------------------------------------

/// Returns a datagram that is malformed, or that no conversation can have.
fn bad_datagram(random: &mut u64) -> Vec<u8> {
    let mut bytes = |n: usize| (0..n).map(|_| splitmix64(random) as u8).collect::<Vec<_>>();
    let kind = bytes(1)[0] % 6;
    let length = usize::from(u16::from_le_bytes([bytes(1)[0], bytes(1)[0]])) % 1500;
    let mut datagram = bytes(length);
    match kind {
        // Too short, and sometimes empty.
        0 => datagram.truncate(44),
        // Random bytes with a wrong checksum.
        1 => {}
        // Random bytes with a correct checksum.
        2 => {
            let mut whole = bytes(20);
            whole.extend(datagram);
            datagram = sealed(whole);
        }
        // A segment of a conversation that doesn't exist, with a number from its middle, an unknown
        // command or a wrong length.
        _ => {
            let [conv, number] = [bytes(4), bytes(4)];
            let (command, length) = match kind {
                3 => (81, 100u32),
                4 => (bytes(1)[0] % 81, 100),
                _ => (81, 4_000_000_000),
            };
            let mut whole = vec![0; 20];
            whole.extend(&conv);
            whole.extend([command, 0, 128, 0]);
            whole.extend([0; 4]);
            whole.extend(&number);
            whole.extend([0; 4]);
            whole.extend(length.to_le_bytes());
            whole.extend([7; 100]);
            whole[36..40].copy_from_slice(&(1 << 20 | 64u32).to_le_bytes()); // not a first number
            datagram = sealed(whole);
        }
    }
    datagram
}

/// Fills in the checksum.
fn sealed(mut datagram: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&datagram[20..]);
    datagram[16..20].copy_from_slice(&sum.to_le_bytes());
    datagram
}

#[test]
#[ignore = "kcptun on the other end: ./tests/peers kcptun"]
fn bad_datagrams_in_the_middle_of_a_transfer_change_nothing() {
    with_kcptun_alone("bad_datagrams_in_the_middle_of_a_transfer_change_nothing", || {
        for case in Case::plain() {
            let link = Link { damage: 20, ..Link::default() };
            let pair = Pair::start_over(case, link);
            pair.transfer(Job::both(16 * MIB, 1));
            pair.all_served(1);
            let memory = pair.ours().memory();
            let relay = pair.relay.as_ref().unwrap();
            let done = AtomicBool::new(false);
            let sent = thread::scope(|scope| {
                let bad = scope.spawn(|| {
                    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
                    let mut random = 7;
                    let mut sent = 0u64;
                    while !done.load(SeqCst) || sent < 20_000 {
                        let datagram = bad_datagram(&mut random);
                        // Send it from a stranger's address, and from the other end's address.
                        match (sent % 3, case.ours) {
                            (0, Server) => {
                                let _ = stranger.send_to(&datagram, pair.far);
                            }
                            (_, Server) => relay.forge_from_clients(&datagram),
                            (_, Client) => relay.forge_from_server(&datagram),
                        }
                        sent += 1;
                        if sent.is_multiple_of(32) {
                            // The test is about bad input, not about a flood.
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                    sent
                });
                for seed in 2..5 {
                    pair.transfer(Job::both(16 * MIB, seed));
                }
                done.store(true, SeqCst);
                bad.join().unwrap()
            });
            pair.transfer(Job::both(MIB, 5));
            pair.all_served(5);
            assert_eq!(pair.target.accepted(), 5, "{case:?}: connections came from nowhere");
            if case.ours == Server {
                // Our server prints the numbers of dropped datagrams by kind.
                for kind in ["too short", "wrong checksum", "of no session", "malformed"] {
                    let says = |line: &str| line.starts_with("dropped") && line.contains(kind);
                    until(|| pair.ours().log().lines().any(says));
                }
            }
            let grown = pair.ours().memory().saturating_sub(memory);
            assert!(grown < 32 << 20, "{case:?}: {grown} bytes more");
            println!("{case:?}: {sent} bad datagrams, {grown} bytes more\n{}", pair.ours().log());
        }
    });
}

//! Tests of the KCP transport of the `kcp` example, `examples/kcp/kcp/`:
//! - sessions over it, through a link that loses, reorders and doubles datagrams
//! - its ends
//! - hostile datagrams
//!
//! `kcp_protocol.rs` tests the pure protocol core, and `peers_kcptun.rs` tests it with kcptun's
//! programs.
//!
//! Promises: none. It shows the example of that name, which isn't a part of the crate.

#[cfg(feature = "rustls")]
#[path = "support/certs.rs"]
mod certs;
#[allow(dead_code, unused_imports, reason = "a part of the example")]
#[path = "../examples/kcp/kcp/mod.rs"]
mod kcp;
mod support;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use gmux::transport::{Halves, Transport};
use gmux::{Config, Error, Session, Stream};
use kcp::datagram::{Crypt, HEAD, Refused};
use kcp::outbox::Outbox;
use kcp::protocol::Protocol;
use kcp::segment::{Command, HEADER, Segment, Seq};
use kcp::{Cipher, Endpoint, KcpTransport, Mode, Settings};
use rand::RngCore;
use support::udp_relay::{Link, UdpRelay};
use support::{Pattern, test, threads, until};

fn settings() -> Settings {
    Settings { cipher: Cipher::None, mode: Mode::FAST3, ..Settings::server() }
}

fn config() -> Config {
    // After a close the session's input stays until the close timeout, because KCP has no end that
    // could be read.
    Config::new().version(2).close_timeout(Duration::from_secs(1))
}

fn endpoint(settings: &Settings) -> Endpoint {
    Endpoint::bind((Ipv4Addr::LOCALHOST, 0), settings).unwrap()
}

/// Two sessions over KCP, through a relay.
struct World {
    endpoint: Endpoint,
    relay: UdpRelay,
    client: Session,
    server: Session,
}

const BAD: Link = Link {
    loss: 5,
    reorder: 10,
    late: Duration::from_millis(3),
    double: 10,
    damage: 2,
    delay: Duration::from_millis(2),
    seed: 11,
};

const GOOD: Link = Link { loss: 0, reorder: 0, double: 0, damage: 0, ..BAD };

fn world(settings: &Settings, link: Link, config: &Config) -> World {
    let endpoint = endpoint(settings);
    let relay = UdpRelay::start(endpoint.local_addr(), link).unwrap();
    let client =
        Session::client(kcp::connect(relay.addr(), settings).unwrap(), config.clone()).unwrap();
    let mut first = client.open("first").unwrap();
    // KCP has no handshake. The server learns of the client by its first byte.
    first.write_all(b"!").unwrap();
    let server = Session::server(endpoint.accept().unwrap(), config.clone()).unwrap();
    assert_eq!(server.accept().unwrap().read(&mut [0; 9]).unwrap(), 1);
    World { endpoint, relay, client, server }
}

impl Drop for World {
    /// Ends both sessions. If only one were closed, the other would stay until its keepalive runs
    /// out.
    fn drop(&mut self) {
        thread::scope(|scope| {
            for session in [&self.client, &self.server] {
                // The tests of closing check the result themselves.
                scope.spawn(|| {
                    let _ = session.close();
                });
            }
        });
    }
}

/// Echoes every stream of the session, in a new thread.
fn echo(session: Session) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for stream in session.incoming().flatten() {
            thread::spawn(move || {
                let _ = io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    })
}

/// Sends `len` bytes, ends its writing, and checks that the same bytes and then the end come back.
fn echoed(stream: &Stream, seed: u64, len: usize) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut writing = stream;
            writing.write_all(&Pattern::bytes(seed, len)).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        let mut reading = stream;
        reading.read_to_end(&mut back).unwrap();
        assert!(back == Pattern::bytes(seed, len), "{} of {len} bytes", back.len());
    });
}

// ---- sessions -----------------------------------------------------------------------------------

#[test]
fn every_byte_is_right_both_ways_at_once_over_a_bad_link() {
    test("bad link", || {
        for cipher in [Cipher::None, Cipher::Aes] {
            let World { client, server, relay, .. } =
                &world(&Settings { cipher, ..settings() }, BAD, &config());
            let _echoing = echo(server.clone());
            echoed(&client.open("echo").unwrap(), 5, 3 << 20);
            assert!(relay.counts().lost > 50 && relay.counts().doubled > 50);
        }
    });
}

#[test]
fn each_way_ends_by_itself() {
    test("half-close", || {
        let World { client, server, .. } = &world(&settings(), GOOD, &config());
        let mut asks = client.open("half").unwrap();
        let mut answers = thread::scope(|scope| {
            scope.spawn(|| {
                asks.write_all(b"question").unwrap();
                asks.shutdown(Shutdown::Write).unwrap();
            });
            let mut answers = server.accept().unwrap();
            let mut question = String::new();
            answers.read_to_string(&mut question).unwrap();
            assert_eq!(question, "question");
            answers
        });
        answers.write_all(b"answer").unwrap();
        answers.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        asks.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    });
}

#[test]
fn two_hundred_streams_at_once() {
    test("200 streams", || {
        let World { client, server, .. } = &world(&settings(), Link { loss: 2, ..GOOD }, &config());
        let _echoing = echo(server.clone());
        thread::scope(|scope| {
            for n in 0..200 {
                scope.spawn(move || echoed(&client.open("echo").unwrap(), n, 10_000));
            }
        });
    });
}

#[test]
fn many_clients_on_one_socket() {
    test("many clients", || {
        let settings = settings();
        let endpoint = &endpoint(&settings);
        let done = &Barrier::new(13);
        thread::scope(|scope| {
            scope.spawn(|| {
                let accept = || Session::server(endpoint.accept().unwrap(), config()).unwrap();
                let sessions: Vec<_> = (0..12).map(|_| accept()).collect();
                sessions.iter().cloned().for_each(|session| {
                    let _ = echo(session);
                });
                done.wait();
                thread::scope(|scope| {
                    for session in &sessions {
                        scope.spawn(|| session.close().unwrap());
                    }
                });
            });
            for n in 0..12 {
                let settings = &settings;
                scope.spawn(move || {
                    let transport = kcp::connect(endpoint.local_addr(), settings).unwrap();
                    let session = Session::client(transport, config()).unwrap();
                    assert_eq!(session.peer_addr(), Some(endpoint.local_addr()));
                    assert_ne!(session.local_addr().unwrap().port(), 0);
                    echoed(&session.open("echo").unwrap(), n, 200_000);
                    done.wait();
                    session.close().unwrap();
                });
            }
        });
        assert_eq!(endpoint.counters().malformed.load(SeqCst), 0);
    });
}

#[cfg(feature = "rustls")]
#[test]
fn tls_runs_over_it_and_its_end_is_on_the_wire() {
    use gmux::transport::Tls;
    test("TLS over KCP", || {
        let settings = settings();
        let endpoint = endpoint(&settings);
        let relay = UdpRelay::start(endpoint.local_addr(), BAD).unwrap();
        let (client, server) = certs::connections();
        let limit = Duration::from_secs(20);
        let server = thread::spawn(move || {
            let tls = Tls::handshake(server, endpoint.accept().unwrap(), limit).unwrap();
            let session = Session::server(tls, config()).unwrap();
            echo(session.clone()).join().unwrap(); // The loop ends at a clean end of the input.
            session.close()
        });
        let tls =
            Tls::handshake(client, kcp::connect(relay.addr(), &settings).unwrap(), limit).unwrap();
        let client = Session::client(tls, config().close_timeout(limit)).unwrap();
        echoed(&client.open("echo").unwrap(), 3, 1 << 20);
        client.close().unwrap(); // Ok: the peer's close_notify has arrived.
        server.join().unwrap().unwrap();
    });
}

// ---- ends ---------------------------------------------------------------------------------------

#[test]
fn close_says_ok_when_all_was_acked_and_both_may_close_at_once() {
    test("both close", || {
        let config = config().close_timeout(Duration::from_secs(4));
        let World { client, server, .. } = &world(&settings(), Link { loss: 20, ..BAD }, &config);
        for session in [client, server] {
            let mut stream = session.open("last words").unwrap();
            stream.write_all(&Pattern::bytes(1, 100_000)).unwrap();
        }
        let a = client.accept().unwrap();
        let b = server.accept().unwrap();
        let both = Barrier::new(2);
        thread::scope(|scope| {
            for (session, mut stream) in [(client, a), (server, b)] {
                let both = &both;
                scope.spawn(move || {
                    stream.read_exact(&mut vec![0; 100_000]).unwrap();
                    both.wait();
                    session.close().unwrap();
                });
            }
        });
    });
}

#[test]
fn close_says_what_is_missing_when_the_peer_is_gone() {
    test("close without a peer", || {
        let config = config().close_timeout(Duration::from_millis(300));
        let World { client, relay, .. } = &world(&settings(), GOOD, &config);
        relay.set_link(Link { loss: 100, ..GOOD });
        client.open("unheard").unwrap().write_all(b"unheard").unwrap();
        let closed = client.close();
        assert!(
            matches!(closed, Err(Error::CloseIncomplete { peer_ended: false, .. })),
            "{closed:?}"
        );
    });
}

#[test]
fn a_silent_peer_ends_by_keepalive_and_frees_its_conversation() {
    test("silent peer", || {
        let quick = Duration::from_millis(100);
        let config = config().keepalive_interval(quick).keepalive_timeout(6 * quick);
        let World { endpoint, relay, server, .. } = &world(&settings(), GOOD, &config);
        assert_eq!(endpoint.conversations(), 1);
        relay.set_link(Link { loss: 100, ..GOOD });
        assert!(matches!(server.accept(), Err(Error::KeepaliveTimeout { .. })));
        until(|| endpoint.conversations() == 0);
    });
}

#[test]
fn a_finished_conversation_answers_for_a_while_and_an_aborted_one_is_gone() {
    test("linger", || {
        let settings = settings();
        let endpoint = endpoint(&settings);
        let (mut client, server) = halves(&endpoint, &settings);
        server.control.finish_write().unwrap();
        server.control.abort();
        drop(server);
        // The server's end has ended, but data from the client is still acked.
        write_all(&mut client.writer, &Pattern::bytes(1, 3_000_000));
        client.control.finish_write().unwrap();
        assert_eq!(endpoint.conversations(), 1);

        let (mut client, server) = halves(&endpoint, &settings);
        server.control.abort();
        drop(server);
        assert_eq!(endpoint.conversations(), 1);
        let unknown = endpoint.counters().unknown.load(SeqCst);
        client.writer.write_all(b"anybody?").unwrap();
        client.writer.flush().unwrap();
        until(|| endpoint.counters().unknown.load(SeqCst) > unknown);
    });
}

#[test]
fn its_threads_end_with_the_last_conversation() {
    test("threads", || {
        let settings = settings();
        let endpoint = endpoint(&settings);
        let (mut client, mut server) = halves(&endpoint, &settings);
        let ports = [
            server.control.local_addr().unwrap().port(),
            client.control.local_addr().unwrap().port(),
        ];
        // A thread gets its name shortly after its start.
        until(|| ports.map(threads_of) == [2, 2]);
        drop(endpoint); // Accepting ends. These conversations live on.
        client.writer.write_all(b"still here").unwrap();
        client.writer.flush().unwrap();
        assert_eq!(server.reader.read(&mut [0; 99]).unwrap(), 10);
        drop(client);
        drop(server);
        until(|| ports.map(threads_of) == [0, 0]);
    });
}

/// Number of threads of the endpoint at this port.
fn threads_of(port: u16) -> usize {
    threads()
        .iter()
        .filter(|name| name.starts_with("kcp-") && name.ends_with(&format!("-{port}")))
        .count()
}

#[test]
fn a_closed_endpoint_wakes_who_accepts() {
    test("closed endpoint", || {
        let endpoint = &endpoint(&settings());
        thread::scope(|scope| {
            let accepts = scope.spawn(|| endpoint.accept().map(|_| ()).unwrap_err().kind());
            endpoint.close();
            assert_eq!(accepts.join().unwrap(), io::ErrorKind::NotConnected);
        });
    });
}

// ---- halves -------------------------------------------------------------------------------------

/// The halves of both ends. The server's end has read the client's first byte.
fn halves(endpoint: &Endpoint, settings: &Settings) -> (Halves, Halves) {
    let mut client = split(kcp::connect(endpoint.local_addr(), settings).unwrap());
    client.writer.write_all(b"!").unwrap();
    client.writer.flush().unwrap();
    let mut server = split(endpoint.accept().unwrap());
    assert_eq!(server.reader.read(&mut [0; 9]).unwrap(), 1);
    (client, server)
}

fn split(transport: KcpTransport) -> Halves {
    transport.split().unwrap()
}

#[test]
fn abort_wakes_both_halves() {
    test("abort", || {
        let settings = Settings { send_window: 8, receive_window: 8, ..settings() };
        let endpoint = endpoint(&settings);
        // The server's application reads nothing.
        let (client, _server) = halves(&endpoint, &settings);
        let Halves { mut reader, mut writer, control, bound_writes, .. } = client;
        bound_writes.unwrap()(None).unwrap();
        let written = AtomicU64::new(0);
        thread::scope(|scope| {
            let reads = scope.spawn(move || reader.read(&mut [0; 9]).unwrap_err().kind());
            let written = &written;
            let writes = scope.spawn(move || {
                loop {
                    match writer.write(&[0; 1306]) {
                        Ok(n) => {
                            let _ = written.fetch_add(n as u64, SeqCst);
                        }
                        Err(error) => return error.kind(),
                    }
                }
            });
            // The peer has eight segments, and sixteen may wait. A blocked write is woken when half
            // of the sixteen were sent.
            until(|| written.load(SeqCst) >= 23 * 1306);
            control.abort();
            assert_eq!(reads.join().unwrap(), io::ErrorKind::ConnectionAborted);
            assert_eq!(writes.join().unwrap(), io::ErrorKind::ConnectionAborted);
        });
        assert!(written.load(SeqCst) <= 24 * 1306);
    });
}

#[test]
fn reads_and_writes_keep_their_bounds() {
    test("bounds", || {
        let settings = Settings { send_window: 8, receive_window: 8, ..settings() };
        let endpoint = endpoint(&settings);
        let (mut client, _server) = halves(&endpoint, &settings);
        let bound = Duration::from_millis(20);
        client.bound_reads.unwrap()(Some(bound)).unwrap();
        let began = Instant::now();
        assert_eq!(client.reader.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(began.elapsed() >= bound);

        assert!(client.bounded_writes);
        let full = loop {
            if let Err(error) = client.writer.write(&[0; 1306]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        client.bound_writes.unwrap()(Some(bound)).unwrap();
        let began = loop {
            let began = Instant::now();
            if client.writer.write(&[0; 9]).is_err() {
                break began;
            } // A late ack has made room.
        };
        assert!(began.elapsed() >= bound);
        client.writer.flush().unwrap(); // It never waits.
    });
}

#[test]
fn a_reader_that_stalls_stops_neither_the_clock_nor_the_other_way() {
    test("stalled reader", || {
        let settings = Settings { send_window: 64, receive_window: 64, ..settings() };
        let endpoint = endpoint(&settings);
        let (mut client, mut server) = halves(&endpoint, &settings);
        let sent = Pattern::bytes(7, 500_000);
        thread::scope(|scope| {
            let mut writer = client.writer;
            let sent = &sent;
            scope.spawn(move || {
                write_all(&mut writer, sent);
                writer.flush().unwrap();
            });
            // Meanwhile the server doesn't read. It writes a megabyte in the other direction.
            let mut writer = server.writer;
            scope.spawn(move || {
                write_all(&mut writer, &Pattern::bytes(8, 1_000_000));
                writer.flush().unwrap();
            });
            let mut other = vec![0; 1_000_000];
            client.reader.read_exact(&mut other).unwrap();
            assert!(other == Pattern::bytes(8, 1_000_000));
            let mut came = vec![0; sent.len()];
            server.reader.read_exact(&mut came).unwrap();
            assert!(came == *sent);
        });
    });
}

/// `write_all` for a writer with a time limit.
fn write_all(writer: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match writer.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
}

// ---- hostile datagrams --------------------------------------------------------------------------

/// A peer that sends single KCP datagrams, without a cipher.
struct Raw {
    socket: UdpSocket,
    protocol: Protocol,
}

impl Raw {
    fn new(server: SocketAddr, conv: u32) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(server).unwrap();
        Self { socket, protocol: Protocol::new(conv, &settings()) }
    }

    fn send(&self, segments: &[u8]) {
        self.socket.send(&seal(segments)).unwrap();
    }

    /// Writes bytes and sends the protocol's datagram for them. Returns that datagram.
    fn say(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.protocol.write(bytes);
        self.protocol.flush();
        let mut outbox = Outbox::default();
        self.protocol.transmit(0, &mut outbox);
        let segments = outbox.parts().0[HEAD..].to_vec();
        self.send(&segments);
        segments
    }

    /// Takes in a datagram. The next `say` then acks it, which proves to the server that the peer
    /// exists.
    fn hear(&mut self) {
        let mut buffer = [0; 2048];
        let len = self.socket.recv(&mut buffer).unwrap();
        self.protocol.input(&buffer[HEAD..len], 0).unwrap();
    }
}

fn seal(segments: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; HEAD];
    datagram.extend(segments);
    Crypt::new(Cipher::None, "").close(&mut datagram, &mut rand::rng());
    datagram
}

fn push(conv: u32, sn: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let segment = Segment {
        conv,
        command: Command::Push,
        window: 99,
        ts: 0,
        sn: Seq(sn),
        una: Seq(0),
        data: b"data",
    };
    segment.write(&mut bytes);
    bytes
}

#[test]
fn datagrams_that_make_no_sense_are_counted_and_change_nothing() {
    test("bad datagrams", || {
        let World { endpoint, client, server, .. } = &world(&settings(), GOOD, &config());
        let _echoing = echo(server.clone());
        let raw = Raw::new(endpoint.local_addr(), 1);
        let counters = endpoint.counters();
        let mut seed = 1;
        let mut random = |len: usize| {
            seed += 1;
            Pattern::bytes(seed, len)
        };
        for len in 0..=HEAD {
            raw.socket.send(&random(len)).unwrap();
        }
        until(|| counters.short.load(SeqCst) == HEAD as u64 + 1);
        for len in (HEAD + 1..1500).step_by(2) {
            raw.socket.send(&random(len)).unwrap();
            if len % 20 == 1 {
                thread::sleep(Duration::from_millis(1)); // The socket's buffer must not overflow.
            }
        }
        let damaged = (HEAD + 1..1500).step_by(2).count() as u64;
        until(|| counters.checksum.load(SeqCst) == damaged);
        // The checksum is right, but the segments are malformed. First random bytes, then segments
        // that are cut off.
        for len in 1..200 {
            raw.send(&random(len));
        }
        for len in 1..push(1, 0).len() {
            raw.send(&push(1, 0)[..len]);
        }
        // A valid segment, but in a datagram that is longer than allowed.
        let long = Segment {
            conv: 1,
            command: Command::Push,
            window: 9,
            ts: 0,
            sn: Seq(0),
            una: Seq(0),
            data: &[1; 1501 - HEAD - HEADER],
        };
        let mut bytes = Vec::new();
        long.write(&mut bytes);
        raw.send(&bytes);
        let nonsense = 199 + push(1, 0).len() as u64 - 1 + 1;
        until(|| counters.malformed.load(SeqCst) == nonsense);
        // Well-formed, but of no conversation, and not the beginning of one.
        for sn in [32, 33, 1000, 1 << 31, u32::MAX] {
            raw.send(&push(1, sn));
        }
        for command in [Command::Ack, Command::Ask, Command::Tell] {
            let mut bytes = Vec::new();
            let segment =
                Segment { conv: 1, command, window: 0, ts: 0, sn: Seq(0), una: Seq(0), data: &[] };
            segment.write(&mut bytes);
            raw.send(&bytes);
        }
        until(|| counters.unknown.load(SeqCst) == 8);
        assert_eq!(endpoint.conversations(), 1);
        echoed(&client.open("echo").unwrap(), 1, 100_000);
    });
}

#[test]
fn a_conversation_begins_with_its_first_byte_also_when_that_comes_late() {
    test("late begin", || {
        let endpoint = endpoint(&settings());
        let raw = Raw::new(endpoint.local_addr(), 1);
        for sn in [3, 1, 2] {
            raw.send(&push(7, sn));
        }
        until(|| endpoint.conversations() == 1 && endpoint.counters().received.load(SeqCst) == 3);
        raw.send(&push(7, 0));
        let mut reader = split(endpoint.accept().unwrap()).reader;
        let mut came = [0; 16];
        reader.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"datadatadatadata");
    });
}

#[test]
fn a_client_that_starts_again_takes_the_place_of_its_silent_past() {
    test("started again", || {
        let endpoint = endpoint(&settings());
        let mut raw = Raw::new(endpoint.local_addr(), 1);
        let before = raw.say(b"before");
        let mut old = split(endpoint.accept().unwrap());
        assert_eq!(old.reader.read(&mut [0; 99]).unwrap(), 6);

        // A new conversation at once. It may be a forged datagram, so the old conversation goes on.
        let first = Raw {
            protocol: Protocol::new(2, &settings()),
            socket: raw.socket.try_clone().unwrap(),
        }
        .say(b"new");
        let mut new = split(endpoint.accept().unwrap());
        assert_eq!(new.reader.read(&mut [0; 99]).unwrap(), 3);
        raw.say(b"still");
        assert_eq!(old.reader.read(&mut [0; 99]).unwrap(), 5);
        assert_eq!(endpoint.conversations(), 2);

        thread::sleep(Duration::from_millis(1100)); // The old one has to be silent for a second.
        Raw { protocol: Protocol::new(3, &settings()), socket: raw.socket.try_clone().unwrap() }
            .say(b"newer");
        let mut newer = split(endpoint.accept().unwrap());
        assert_eq!(newer.reader.read(&mut [0; 99]).unwrap(), 5);
        for end in [&mut old, &mut new] {
            assert_eq!(
                end.reader.read(&mut [0; 99]).unwrap_err().kind(),
                io::ErrorKind::ConnectionReset
            );
            assert_eq!(end.writer.write(b"x").unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
        assert_eq!(endpoint.conversations(), 1);

        // Late copies of an ended conversation's datagrams begin no new conversation.
        let unknown = endpoint.counters().unknown.load(SeqCst);
        raw.send(&before);
        raw.send(&first);
        until(|| endpoint.counters().unknown.load(SeqCst) == unknown + 2);
        assert_eq!(endpoint.conversations(), 1);
    });
}

#[test]
fn a_flood_of_conversations_is_bounded_and_doesnt_lock_others_out() {
    test("flood", || {
        let settings = Settings { conversations: 40, ..settings() };
        let endpoint = endpoint(&settings);
        // A conversation from before the flood that has acked a segment of the server.
        let mut known = Raw::new(endpoint.local_addr(), 5);
        known.say(b"first");
        let mut server = split(endpoint.accept().unwrap());
        server.writer.write_all(b"hello").unwrap();
        server.writer.flush().unwrap();
        known.hear();
        known.hear(); // The server's ack and its data come in any order.
        known.say(b"second");

        let sockets: Vec<_> = (0..100).map(|_| Raw::new(endpoint.local_addr(), 0)).collect();
        for (n, raw) in sockets.iter().enumerate() {
            for conv in 0..20 {
                raw.send(&push(100 + conv, 0));
            }
            until(|| endpoint.counters().received.load(SeqCst) >= 2 + 20 * (n as u64 + 1));
            assert!(endpoint.conversations() <= 10, "a quarter for one host");
        }
        assert!(endpoint.counters().refused.load(SeqCst) > 0, "five from an address");
        // A new conversation is accepted, and the known one goes on.
        let mut late = Raw::new(endpoint.local_addr(), 6);
        late.say(b"late");
        until(|| {
            let mut came = [0; 9];
            let n = split(endpoint.accept().unwrap()).reader.read(&mut came).unwrap();
            &came[..n] == b"late"
        });
        let mut came = [0; 11];
        server.reader.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"firstsecond");
        known.say(b"third");
        server.reader.read_exact(&mut came[..5]).unwrap();
    });
}

#[test]
fn fuzzed_datagrams_leave_an_endpoint_that_works() {
    test("fuzz", || {
        let World { endpoint, client, server, .. } = &world(&settings(), GOOD, &config());
        let _echoing = echo(server.clone());
        let raw = Raw::new(endpoint.local_addr(), 1);
        let mut random = rand::rng();
        let sent = 6000;
        let before = endpoint.counters().received.load(SeqCst);
        for n in 0..sent {
            let mut segments = [push(n % 5, n % 40), push(n % 5, n % 7)].concat();
            for _ in 0..n % 4 {
                let at = random.next_u32() as usize % segments.len();
                segments[at] = random.next_u32() as u8;
            }
            raw.send(&segments);
            if n % 50 == 0 {
                until(|| endpoint.counters().received.load(SeqCst) >= before + u64::from(n) / 2);
            }
        }
        echoed(&client.open("echo").unwrap(), 1, 100_000);
        assert!(endpoint.conversations() <= 5);
    });
}

// ---- nonce, checksum, cipher --------------------------------------------------------------------

/// A source of "random" bytes that returns 0, 1, 2 …
struct Counting(u8);

impl RngCore for Counting {
    fn next_u32(&mut self) -> u32 {
        unreachable!("bytes are asked for")
    }
    fn next_u64(&mut self) -> u64 {
        unreachable!("bytes are asked for")
    }
    fn fill_bytes(&mut self, out: &mut [u8]) {
        for byte in out {
            *byte = self.0;
            self.0 += 1;
        }
    }
}

/// Reference datagrams. Each is the nonce 0, 1, 2 …, the checksum and the text, encrypted by
/// openssl with `-aes-256-cfb` and so on. The key is made by PBKDF2 from "it's a secrect".
const VECTORS: [(Cipher, &str); 4] = [
    (
        Cipher::Aes,
        "86834343335b168ca911bf584a05f990bd441d394bf25be263c167617d6e6d56c70123a9d156a4c4a1e44668\
         9c2ed093c73b8a755d8648c640f9f60e266a98e36e",
    ),
    (
        Cipher::Aes192,
        "b9db59f7dd1bce4922855fb7f8f8e26117cb0eee141045e159f078ecd709b27d76745a403aadc5935ddd57c3\
         17ac6f8420be98231c8e2de399f44939bceb6d518b",
    ),
    (
        Cipher::Aes128,
        "ddd7e0a7981ba3e2a7f6d51f2a266318f6699aa7997dafbeab2a9f3374ee239cbe32ffb545a5636ca29801cd\
         256a12944a11384dbfaef69f1a364f44a6597ad540",
    ),
    (
        Cipher::None,
        "000102030405060708090a0b0c0d0e0fa34960f07365676d656e7473206f6620736f6d65206c656e6774682c\
         206e6f742061206d756c7469706c65206f66203136",
    ),
];

#[test]
fn datagrams_are_closed_as_kcptun_closes_them() {
    let text = b"segments of some length, not a multiple of 16";
    for (cipher, expected) in VECTORS {
        let crypt = Crypt::new(cipher, "it's a secrect");
        let mut datagram = [&[0; HEAD], &text[..]].concat();
        crypt.close(&mut datagram, &mut Counting(0));
        let hex: String = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected, "{cipher:?}");
        assert_eq!(crypt.open(&mut datagram.clone()), Ok(&text[..]));
        // A datagram that is damaged at any place after the nonce, cut off, or encrypted with
        // another key.
        for at in 16..datagram.len() {
            let mut damaged = datagram.clone();
            damaged[at] ^= 4;
            assert_eq!(crypt.open(&mut damaged), Err(Refused::Checksum), "{cipher:?} {at}");
        }
        for len in 0..datagram.len() {
            let expected = if len <= HEAD { Refused::Short } else { Refused::Checksum };
            assert_eq!(crypt.open(&mut datagram[..len].to_vec()), Err(expected));
        }
        if cipher != Cipher::None {
            assert_eq!(Crypt::new(cipher, "another").open(&mut datagram), Err(Refused::Checksum));
        }
    }
}

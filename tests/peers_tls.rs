//! Tests of `transport::Tls` with other TLS programs on the other end, over loopback: OpenSSL's
//! programs and stunnel, in both roles. `./tests/peers tls` installs the programs and runs these
//! tests in release mode. The large transfers between two of our own ends are also here, because
//! they take longest.
//!
//! The heading of each part says what it shows. `peers_tls/openssl.rs` explains how the openssl
//! program is made to renew keys in the middle of binary data.
//!
//! Promises: P99, P100.

#[path = "support/authority.rs"]
mod authority;
#[path = "peers_tls/openssl.rs"]
mod openssl;
#[path = "peers_tls/programs.rs"]
mod programs;
mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use gmux::transport::{BoundWrites, Halves, Pair, Tls, Transport};
use gmux::{Config, Error, Session};
use rustls::SupportedProtocolVersion;
use tempfile::TempDir;

use authority::{
    Authority, CLIENT, Purpose, SERVER, VERSIONS, Valid, client_config, server_config,
};
use openssl::{Frames, Gate, Openssl, Text, bytes_at};
use programs::Program;
use support::peers::are_there;
use support::{links, test_for, versions};

/// Time limit of a test. A slower one hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Time limit of a wait. Nothing that these tests wait for takes this long, unless one of the ends
/// has failed.
const PATIENCE: Duration = Duration::from_secs(50);

/// The time limit of writes with which a session begins.
const SHORT: Duration = Duration::from_millis(10);

/// Time limit of a handshake. A slower one hangs.
const LONG: Duration = Duration::from_secs(30);

/// Runs `body` if the programs are installed.
fn with(programs: &[&str], name: &str, body: impl FnOnce()) {
    if are_there(name, programs) {
        test_for(name, WATCHDOG, body);
    }
}

/// The certificates of an authority. They are here, and in files for the other program.
struct Certified {
    authority: Authority,
    server: authority::Identity,
    client: authority::Identity,
    files: TempDir,
}

impl Certified {
    fn new() -> Self {
        let authority = Authority::new("the authority");
        let (server, client) = authority.issue_both();
        let files = tempfile::tempdir().unwrap();
        authority.write(files.path(), "ca");
        server.write(files.path(), "server");
        client.write(files.path(), "client");
        Self { authority, server, client, files }
    }

    /// Returns a file's path as text.
    fn file(&self, name: &str) -> String {
        self.files.path().join(name).into_os_string().into_string().unwrap()
    }

    /// Does the handshake of our server. With `mutual` it requires a client's certificate.
    fn serve(&self, tcp: TcpStream, mutual: bool) -> io::Result<Tls> {
        let verifier = mutual.then(|| self.authority.verifier());
        Tls::handshake(
            authority::server(server_config(&self.server, verifier, &VERSIONS)),
            tcp,
            LONG,
        )
    }

    /// Does the handshake of our client.
    fn connect(
        &self,
        tcp: TcpStream,
        versions: &[&'static SupportedProtocolVersion],
    ) -> io::Result<Tls> {
        let config = client_config(&self.authority, Some(&self.client), versions);
        Tls::handshake(authority::client(config), tcp, LONG)
    }
}

/// Counts the lines with `what` in a program's `-msgfile`.
fn messages(file: &str, what: &str) -> usize {
    std::fs::read_to_string(file).unwrap().lines().filter(|line| line.contains(what)).count()
}

// ---- keys are renewed while both directions are full --------------------------------------------
//
// Our end is a transport without a session, split into its halves. Both directions carry known
// bytes all the time. OpenSSL renews its keys again and again, and asks our end to renew its keys.

/// The state of our end.
struct Ours {
    sent: AtomicU64,
    received: AtomicU64,
    /// Number of writes that found no room within their time limit of about 10 ms.
    stuck: AtomicUsize,
    reading: Gate,
}

impl Ours {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            sent: zero(),
            received: zero(),
            stuck: AtomicUsize::new(0),
            reading: Gate::default(),
        }
    }

    /// Writes until `limit` bytes were sent.
    fn write(&self, writer: &mut dyn Write, limit: &AtomicU64) {
        loop {
            let at = self.sent.load(SeqCst);
            let left = limit.load(SeqCst).saturating_sub(at);
            if left == 0 {
                break;
            }
            let data = bytes_at(at);
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(data.len()).min(100_000);
            match writer.write(&data[..piece]) {
                Ok(n) => {
                    self.sent.fetch_add(n as u64, SeqCst);
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    self.stuck.fetch_add(1, SeqCst);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("our write after {at} bytes: {error}"),
            }
        }
        flush(writer);
    }

    /// Reads to the end, which has to be a clean one.
    fn read(&self, reader: &mut dyn Read) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            self.reading.pass();
            let at = self.received.load(SeqCst);
            match reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => {
                    assert_right(&buffer[..n], at);
                    self.received.fetch_add(n as u64, SeqCst);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("our read after {at} bytes: {error}"),
            }
        }
    }
}

fn flush(writer: &mut dyn Write) {
    while let Err(error) = writer.flush() {
        let again = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted];
        assert!(again.contains(&error.kind()), "our flush: {error}");
    }
}

/// Checks the bytes that were received at a position of the data.
#[track_caller]
fn assert_right(mut came: &[u8], mut at: u64) {
    while !came.is_empty() {
        let right = bytes_at(at);
        let n = right.len().min(came.len());
        assert!(came[..n] == right[..n], "wrong bytes in {n} from {at} on");
        came = &came[n..];
        at += n as u64;
    }
}

/// The state of the end behind the openssl program.
struct Theirs {
    sent: AtomicU64,
    received: AtomicU64,
    stuck: AtomicUsize,
    commands: AtomicUsize,
    reading: Gate,
}

impl Theirs {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let count = || AtomicUsize::new(0);
        Self {
            sent: zero(),
            received: zero(),
            stuck: count(),
            commands: count(),
            reading: Gate::default(),
        }
    }

    /// Writes to the program until `limit` bytes were sent, with a command after every `every`
    /// messages. The commands renew the program's keys. Every second one also asks our end for new
    /// keys.
    fn write(&self, openssl: &Openssl, limit: &AtomicU64, every: u64) {
        openssl.input.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
        let send = |message: &[u8]| {
            loop {
                match openssl.input.send(message) {
                    Ok(n) => break assert_eq!(n, message.len()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.stuck.fetch_add(1, SeqCst);
                    }
                    Err(error) => panic!("the program's input: {error}"),
                }
            }
        };
        let message = openssl::MESSAGE as u64;
        while self.sent.load(SeqCst) < limit.load(SeqCst) {
            send(&bytes_at(self.sent.load(SeqCst))[..openssl::MESSAGE]);
            let sent = self.sent.fetch_add(message, SeqCst) / message + 1;
            if sent.is_multiple_of(every) {
                let asks = self.commands.fetch_add(1, SeqCst).is_multiple_of(2);
                send(if asks { b"K\n" } else { b"k\n" });
            }
        }
    }

    /// Reads the program's output to the end.
    fn read(&self, output: &mut dyn Read) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            self.reading.pass();
            let n = output.read(&mut buffer).unwrap();
            if n == 0 {
                return;
            }
            assert_right(&buffer[..n], self.received.load(SeqCst));
            self.received.fetch_add(n as u64, SeqCst);
        }
    }
}

/// Waits until a direction has been full for some time.
fn wait_until_full(stuck: &AtomicUsize, moved: &AtomicU64) {
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < PATIENCE, "it didn't become full");
        let before = stuck.load(SeqCst);
        let at = moved.load(SeqCst);
        thread::sleep(openssl::FULL); // Waits for the time in which nothing may move.
        if moved.load(SeqCst) == at && stuck.load(SeqCst) >= before + 3 {
            return;
        }
    }
}

/// Waits until a writer stays blocked in one call. Before that its writes have returned again and
/// again, without room.
fn wait_until_in_a_call(stuck: &AtomicUsize) {
    loop {
        let before = stuck.load(SeqCst);
        // Six times the time limit of its writes. If no write returns in this time, it is blocked.
        thread::sleep(openssl::FULL);
        if stuck.load(SeqCst) == before {
            return;
        }
    }
}

/// Waits until `bytes` bytes have been received.
fn wait_for(came: &AtomicU64, bytes: u64) {
    let started = Instant::now();
    support::until(|| {
        assert!(
            started.elapsed() < PATIENCE,
            "{} instead of {bytes} bytes came",
            came.load(SeqCst)
        );
        came.load(SeqCst) >= bytes
    });
}

/// Runs both ends. `steer` controls them. Then all bytes that are under way arrive, and our end
/// closes.
fn both_work(
    halves: Halves,
    openssl: &Openssl,
    output: &mut (dyn Read + Send),
    every: u64,
    steer: impl FnOnce(&Ours, &Theirs, &mut BoundWrites),
) -> (Ours, Theirs) {
    let Halves { mut reader, mut writer, control, bound_writes, .. } = halves;
    let mut bound_writes = bound_writes.unwrap();
    let ours = Ours::new();
    let theirs = Theirs::new();
    let [our_limit, their_limit] = [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)];
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            ours.write(&mut *writer, &our_limit);
            writer
        });
        let reading = scope.spawn(|| ours.read(&mut *reader));
        let feeding = scope.spawn(|| theirs.write(openssl, &their_limit, every));
        let printed = scope.spawn(|| theirs.read(output));
        let steered = catch_unwind(AssertUnwindSafe(|| steer(&ours, &theirs, &mut bound_writes)));
        if let Err(panic) = steered {
            // All threads have to end. Otherwise the panic would look like a hang.
            control.abort();
            ours.reading.set(true);
            theirs.reading.set(true);
            resume_unwind(panic);
        }
        bound_writes(Some(SHORT)).unwrap();
        their_limit.store(0, SeqCst);
        our_limit.store(0, SeqCst);
        let mut writer = writing.join().unwrap();
        feeding.join().unwrap();
        support::until(|| {
            flush(&mut *writer); // An answer may be owed.
            theirs.received.load(SeqCst) == ours.sent.load(SeqCst)
                && ours.received.load(SeqCst) == theirs.sent.load(SeqCst)
        });
        control.finish_write().unwrap();
        reading.join().unwrap();
        printed.join().unwrap();
    });
    println!("sent {} and {} bytes", ours.sent.load(SeqCst), theirs.sent.load(SeqCst));
    (ours, theirs)
}

/// Counts the key renewals in a program's `-msgfile`: its own, and ours.
fn renewals(log: &str) -> (usize, usize) {
    let count = |direction| {
        messages(log, &format!("{direction} TLS 1.3, Handshake [length 0005], KeyUpdate"))
    };
    let its = count(">>>");
    let ours = count("<<<");
    (its, ours)
}

/// s_client renews its keys while both directions are full, so that our writer and its writer are
/// stuck. Our reader gets renewals, data under the new keys, and requests for new keys of ours. Our
/// writer is stuck all that time, so the reader must not wait for the writer, and must not write.
/// When the program reads again, all our bytes arrive, from before and after our renewals.
#[test]
#[ignore = "needs openssl; ./tests/peers runs it"]
fn s_client_renews_keys_while_both_directions_are_full() {
    with(&["openssl"], "s_client_renews_keys_while_both_directions_are_full", || {
        const ROUNDS: usize = 10;
        const STEP: u64 = 2 << 20; // four renewals
        let made = Certified::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let ca = made.file("ca.pem");
        let log = made.file("log");
        let mut openssl = Openssl::start(&[
            "s_client",
            "-brief",
            "-nbio",
            "-verify_return_error",
            "-connect",
            &to,
            "-servername",
            SERVER,
            "-CAfile",
            &ca,
            "-msg",
            "-msgfile",
            &log,
        ]);
        let tls = made.serve(listener.accept().unwrap().0, false).unwrap();
        let mut output = openssl.output.take().unwrap();
        let (_, theirs) = both_work(
            tls.split().unwrap(),
            &openssl,
            &mut output,
            64,
            |ours, theirs, bound_writes| {
                let mut rounds = 0;
                for tried in 1.. {
                    wait_until_full(&ours.stuck, &ours.sent);
                    wait_until_full(&theirs.stuck, &theirs.sent);
                    // From now on our writer stays in one call. A reader that waits for the writer
                    // would hang.
                    bound_writes(None).unwrap();
                    wait_until_in_a_call(&ours.stuck);
                    let sent = ours.sent.load(SeqCst);
                    let received = ours.received.load(SeqCst);
                    ours.reading.set(true);
                    wait_for(&ours.received, received + STEP);
                    // On a loaded machine the program may have been late, so that the direction
                    // wasn't full.
                    rounds += usize::from(ours.sent.load(SeqCst) == sent);
                    let received = theirs.received.load(SeqCst);
                    theirs.reading.set(true);
                    wait_for(&theirs.received, received + STEP);
                    bound_writes(Some(SHORT)).unwrap();
                    // The call without a time limit has returned.
                    wait_for(&ours.sent, ours.sent.load(SeqCst) + STEP);
                    if rounds == ROUNDS {
                        break;
                    }
                    assert!(
                        tried < 10 * ROUNDS,
                        "our writer was stuck in {rounds} of {tried} rounds only"
                    );
                    ours.reading.set(false);
                    theirs.reading.set(false);
                }
            },
        );
        let (_, said) = openssl.program.finish();
        let commands = theirs.commands.load(SeqCst);
        assert_eq!(said.matches("KEYUPDATE").count(), commands, "{said}");
        let (its, ours) = renewals(&log);
        println!("it renewed its keys {its} times, and we ours {ours} times");
        assert_eq!(its, commands);
        assert!((ROUNDS..=commands.div_ceil(2)).contains(&ours), "we renewed ours {ours} times");
    });
}

/// The same with s_server, with a limit. That program takes no input while its own output is full.
/// So both directions move here, and our written bytes wait for the program.
#[test]
#[ignore = "needs openssl; ./tests/peers runs it"]
fn s_server_renews_keys_in_the_middle_of_both_directions() {
    with(&["openssl"], "s_server_renews_keys_in_the_middle_of_both_directions", || {
        const STEPS: u64 = 64;
        const STEP: u64 = 1 << 20;
        let mut on_the_way = Vec::new();
        let made = Certified::new();
        let certificate = made.file("server.pem");
        let key = made.file("server.key.pem");
        let log = made.file("log");
        let mut openssl = Openssl::start(&[
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-naccept",
            "1",
            "-cert",
            &certificate,
            "-key",
            &key,
            "-msg",
            "-msgfile",
            &log,
        ]);
        let tcp = TcpStream::connect(("127.0.0.1", openssl.port())).unwrap();
        let tls = made.connect(tcp, &VERSIONS).unwrap();
        let mut output = Text::new(openssl.output.take().unwrap());
        let (_, theirs) =
            both_work(tls.split().unwrap(), &openssl, &mut output, 64, |ours, theirs, _| {
                ours.reading.set(true);
                theirs.reading.set(true);
                for step in 1..=STEPS {
                    wait_for(&ours.received, step * STEP);
                    wait_for(&theirs.received, step * STEP);
                    on_the_way.push(ours.sent.load(SeqCst) - theirs.received.load(SeqCst));
                }
            });
        drop(openssl.input);
        let (_, said) = openssl.program.finish();
        let commands = theirs.commands.load(SeqCst);
        assert_eq!(output.renewals, commands, "{said}");
        let (its, ours) = renewals(&log);
        println!("it renewed its keys {its} times, and we ours {ours} times");
        on_the_way.sort_unstable();
        let half_of_the_time = on_the_way[on_the_way.len() / 2];
        println!("half of the time at least {half_of_the_time} of our bytes were on their way");
        assert_eq!(its, commands);
        assert!(ours > 0 && half_of_the_time > 256 * 1024);
    });
}

/// An answer of TLS is sent at once, although the session itself has nothing to send.
#[test]
#[ignore = "needs openssl; ./tests/peers runs it"]
fn an_idle_session_answers_a_request_for_new_keys() {
    with(&["openssl"], "an_idle_session_answers_a_request_for_new_keys", || {
        let made = Certified::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let log = made.file("log");
        let openssl =
            Openssl::start(&["s_client", "-brief", "-connect", &to, "-msg", "-msgfile", &log]);
        let tls = made.serve(listener.accept().unwrap().0, false).unwrap();
        let ours = Session::server(tls, Config::new().keepalive_disabled(true)).unwrap();
        for requests in 1..=5 {
            openssl.input.send(b"K\n").unwrap();
            support::until(|| renewals(&log) == (requests, requests));
        }
        assert!(!ours.is_closed());
        openssl.input.send(&[]).unwrap(); // This ends its input.
        assert!(matches!(ours.accept(), Err(Error::PeerClosed)));
    });
}

/// With TLS 1.2 only a new handshake can bring new keys. rustls refuses it by a warning. The
/// warning is sent at once too. s_client then gives up.
#[test]
#[ignore = "needs openssl; ./tests/peers runs it"]
fn an_idle_session_refuses_to_negotiate_again() {
    with(&["openssl"], "an_idle_session_refuses_to_negotiate_again", || {
        let made = Certified::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let openssl = Openssl::start(&["s_client", "-brief", "-tls1_2", "-connect", &to]);
        let tls = made.serve(listener.accept().unwrap().0, false).unwrap();
        let ours = Session::server(tls, Config::new().keepalive_disabled(true)).unwrap();
        openssl.input.send(b"R\n").unwrap();
        println!("s_client: {}", openssl.program.line_with("no renegotiation"));
        println!("our session: {}", ours.accept().unwrap_err());
    });
}

// ---- sessions through openssl's programs, which renew keys meanwhile ----------------------------
//
// On one side there is a session over `Tls`. On the other side there is a session over the
// program's standard input and output. So gmux's frames pass through OpenSSL's TLS.

const STREAMS: usize = 16;
const EACH: usize = 2 << 20;

/// Streams from both ends carry bytes in both directions, all at once. Every byte is checked.
fn exchange(ours: &Session, theirs: &Session, streams: usize, each: usize) {
    thread::scope(|scope| {
        for number in 0..streams {
            let opener = if number % 2 == 0 { ours } else { theirs };
            let carry = move |stream: gmux::Stream, from: usize, theirs: usize| {
                scope.spawn(move || {
                    thread::scope(|both| {
                        both.spawn(|| {
                            links::send(&stream, from, each);
                            stream.shutdown(Shutdown::Write).unwrap();
                        });
                        assert_eq!(links::check(&stream, theirs), each, "stream {}", stream.name());
                    });
                });
            };
            let near = number * 2 * 1_000_003;
            let far = (number * 2 + 1) * 1_000_003;
            carry(opener.open(number.to_string()).unwrap(), near, far);
            let acceptor = if number % 2 == 0 { theirs } else { ours };
            let accepted = acceptor.accept().unwrap();
            assert_eq!(accepted.name(), number.to_string());
            carry(accepted, far, near);
        }
    });
}

/// Which session is closed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closes {
    Ours,
    Theirs,
}

#[test]
#[ignore = "needs openssl; ./tests/peers runs it"]
fn sessions_go_through_s_client_which_renews_keys() {
    with(&["openssl"], "sessions_go_through_s_client_which_renews_keys", || {
        for (config, closes) in versions().into_iter().zip([Closes::Ours, Closes::Theirs]) {
            let made = Certified::new();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap().to_string();
            let ca = made.file("ca.pem");
            let log = made.file("log");
            let certificate = made.file("client.pem");
            let key = made.file("client.key.pem");
            #[rustfmt::skip]
            let mut openssl = Openssl::start(&[
                "s_client", "-brief", "-nbio", "-verify_return_error", "-connect", &to,
                "-servername", SERVER, "-CAfile", &ca, "-cert", &certificate, "-key", &key,
                "-alpn", "gmux", "-msg", "-msgfile", &log,
            ]);
            let tls = made.serve(listener.accept().unwrap().0, true).unwrap();
            assert_eq!(tls.server_name(), Some(SERVER));
            assert_eq!(tls.peer_certificates().unwrap()[0], made.client.certificate);
            let ours = Session::server(tls, config.clone()).unwrap();
            let frames = Frames::new(openssl.input, b"K\n", 100);
            let theirs = Pair::new(openssl.output.take().unwrap(), frames);
            let theirs = Session::client(theirs, config.max_frame_size(Frames::PAYLOAD)).unwrap();
            exchange(&ours, &theirs, STREAMS, EACH);
            match closes {
                Closes::Ours => {
                    ours.close().unwrap();
                    assert!(matches!(theirs.accept(), Err(Error::PeerClosed)));
                }
                Closes::Theirs => {
                    theirs.close().unwrap();
                    assert!(matches!(ours.accept(), Err(Error::PeerClosed)));
                }
            }
            drop(ours);
            drop(theirs);
            let (_, said) = openssl.program.finish();
            let (its, ours) = renewals(&log);
            println!("it renewed its keys {its} times, and we ours {ours} times");
            println!("it renewed its keys {its} times, and we ours {ours} times");
            assert_eq!(its, said.matches("KEYUPDATE").count());
            assert!(its > 40 && ours > 0, "{said}");
        }
    });
}

/// s_server never ends its side cleanly by itself, so our end closes.
#[test]
#[ignore = "needs openssl; ./tests/peers runs it"]
fn sessions_go_through_s_server_which_renews_keys() {
    with(&["openssl"], "sessions_go_through_s_server_which_renews_keys", || {
        for config in versions() {
            let made = Certified::new();
            let certificate = made.file("server.pem");
            let key = made.file("server.key.pem");
            let ca = made.file("ca.pem");
            let log = made.file("log");
            #[rustfmt::skip]
            let mut openssl = Openssl::start(&[
                "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-cert", &certificate,
                "-key", &key, "-Verify", "1", "-verify_return_error", "-CAfile", &ca,
                "-msg", "-msgfile", &log,
            ]);
            let tcp = TcpStream::connect(("127.0.0.1", openssl.port())).unwrap();
            let ours =
                Session::client(made.connect(tcp, &VERSIONS).unwrap(), config.clone()).unwrap();
            let frames = Frames::new(openssl.input, b"K\n", 100);
            let theirs = Pair::new(Text::new(openssl.output.take().unwrap()), frames);
            let theirs = Session::server(theirs, config.max_frame_size(Frames::PAYLOAD)).unwrap();
            exchange(&ours, &theirs, STREAMS, EACH);
            ours.close().unwrap();
            assert!(matches!(theirs.accept(), Err(Error::PeerClosed)));
            drop(ours);
            drop(theirs);
            openssl.program.finish();
            let (its, ours) = renewals(&log);
            println!("it renewed its keys {its} times, and we ours {ours} times");
            println!("it renewed its keys {its} times, and we ours {ours} times");
            assert!(its > 40 && ours > 0);
        }
    });
}

// ---- OpenSSL and certificates -------------------------------------------------------------------

/// The fault of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    UnknownAuthority,
    Expired,
    /// A server's certificate has another name. A client has no certificate.
    NameOrNone,
}

impl Fault {
    const ALL: [Self; 3] = [Self::UnknownAuthority, Self::Expired, Self::NameOrNone];

    /// Makes a certificate with this fault, in the files `wrong.pem` and `wrong.key.pem`.
    fn certificate(self, made: &Certified, purpose: Purpose) -> Option<authority::Identity> {
        let name = if purpose == Purpose::Server { SERVER } else { CLIENT };
        let wrong = match (self, purpose) {
            (Self::UnknownAuthority, _) => {
                Authority::new("another authority").issue(purpose, name, Valid::Now)
            }
            (Self::Expired, _) => made.authority.issue(purpose, name, Valid::Expired),
            (Self::NameOrNone, Purpose::Server) => {
                made.authority.issue(purpose, "other.example", Valid::Now)
            }
            (Self::NameOrNone, Purpose::Client) => return None,
        };
        wrong.write(made.files.path(), "wrong");
        Some(wrong)
    }
}

/// Returns the error of a client that its server has to refuse. The error comes in the handshake
/// or, with TLS 1.3, after it.
fn refused_client(tls: io::Result<Tls>) -> io::Error {
    match tls {
        Err(error) => error,
        Ok(tls) => Session::client(tls, Config::new()).unwrap().accept().unwrap_err().into(),
    }
}

#[track_caller]
fn assert_says(who: &str, text: &str, part: &str) {
    println!("{who}: {text}");
    assert!(text.contains(part), "{who} doesn't say {part:?}: {text}");
}

#[test]
#[ignore = "needs openssl; ./tests/peers runs it"]
fn our_client_and_s_server_refuse_each_others_certificates() {
    with(&["openssl"], "our_client_and_s_server_refuse_each_others_certificates", || {
        let made = Certified::new();
        for (fault, ours, theirs) in [
            (Fault::UnknownAuthority, "UnknownIssuer", "alert unknown ca"),
            (Fault::Expired, "certificate expired", "alert certificate expired"),
            (Fault::NameOrNone, "not valid for name \"localhost\"", "alert bad certificate"),
        ] {
            fault.certificate(&made, Purpose::Server);
            let certificate = made.file("wrong.pem");
            let key = made.file("wrong.key.pem");
            let args =
                ["-accept", "127.0.0.1:0", "-naccept", "1", "-cert", &certificate, "-key", &key];
            let mut openssl = Openssl::start(&[&["s_server"], &args[..]].concat());
            let tcp = TcpStream::connect(("127.0.0.1", openssl.port())).unwrap();
            let error = made.connect(tcp, &VERSIONS).unwrap_err();
            assert_says("our client", &error.to_string(), ours);
            assert_says("s_server", &openssl.program.line_with("alert"), theirs);
        }
        for fault in Fault::ALL {
            for version in VERSIONS {
                let wrong = fault.certificate(&made, Purpose::Client);
                let certificate = made.file("server.pem");
                let key = made.file("server.key.pem");
                let ca = made.file("ca.pem");
                let args = [
                    "-accept",
                    "127.0.0.1:0",
                    "-naccept",
                    "1",
                    "-cert",
                    &certificate,
                    "-key",
                    &key,
                ];
                let wants = ["-Verify", "1", "-verify_return_error", "-CAfile", &ca];
                let mut openssl = Openssl::start(&[&["s_server"], &args[..], &wants[..]].concat());
                let tcp = TcpStream::connect(("127.0.0.1", openssl.port())).unwrap();
                let config = client_config(&made.authority, wrong.as_ref(), &[version]);
                let error = refused_client(Tls::handshake(authority::client(config), tcp, LONG));
                let alert = match (fault, version.version) {
                    (Fault::UnknownAuthority, _) => "alert UnknownCA",
                    (Fault::Expired, _) => "alert CertificateExpired",
                    (Fault::NameOrNone, rustls::ProtocolVersion::TLSv1_3) => {
                        "alert CertificateRequired"
                    }
                    (Fault::NameOrNone, _) => "alert HandshakeFailure",
                };
                assert_says("our client", &error.to_string(), alert);
                assert_eq!(error.kind(), ErrorKind::InvalidData);
            }
        }
    });
}

#[test]
#[ignore = "needs openssl; ./tests/peers runs it"]
fn our_server_and_s_client_refuse_each_others_certificates() {
    with(&["openssl"], "our_server_and_s_client_refuse_each_others_certificates", || {
        let made = Certified::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let ca = made.file("ca.pem");
        let usual = ["s_client", "-brief", "-connect", &to, "-CAfile", &ca, "-verify_return_error"];
        for (fault, ours, theirs) in [
            (Fault::UnknownAuthority, "UnknownIssuer", "alert unknown ca"),
            (Fault::Expired, "certificate expired", "alert certificate expired"),
            (Fault::NameOrNone, "peer sent no certificates", "alert certificate required"),
        ] {
            let wrong = fault.certificate(&made, Purpose::Client);
            let certificate = made.file("wrong.pem");
            let key = made.file("wrong.key.pem");
            let own = ["-cert", &certificate, "-key", &key];
            let own = if wrong.is_some() { &own[..] } else { &[] };
            let openssl = Openssl::start(&[&usual, own].concat());
            let error = made.serve(listener.accept().unwrap().0, true).unwrap_err();
            assert_says("our server", &error.to_string(), ours);
            assert_says("s_client", &openssl.program.line_with("alert"), theirs);
        }
        for (fault, ours) in [
            (Fault::UnknownAuthority, "the peer refused it by the alert UnknownCA"),
            (Fault::Expired, "the peer refused it by the alert CertificateExpired"),
            (Fault::NameOrNone, "the peer refused it by the alert BadCertificate"),
        ] {
            for version in VERSIONS {
                let wrong = fault.certificate(&made, Purpose::Server).unwrap();
                let openssl = Openssl::start(&[&usual[..], &["-verify_hostname", SERVER]].concat());
                let connection = authority::server(server_config(&wrong, None, &[version]));
                let error =
                    Tls::handshake(connection, listener.accept().unwrap().0, LONG).unwrap_err();
                assert_says("our server", &error.to_string(), ours);
                drop(openssl);
            }
        }
    });
}

// ---- stunnel ------------------------------------------------------------------------------------

/// A running stunnel, and the port that it listens on.
struct Stunnel {
    _program: Program,
    port: u16,
}

impl Stunnel {
    /// Starts stunnel with one service, which connects to `to`.
    fn start(made: &Certified, to: std::net::SocketAddr, service: &str) -> Self {
        let file = made.files.path().join("stunnel.conf");
        let text = format!(
            "foreground = yes\npid =\ndebug = info\nsyslog = no\n[gmux]\naccept = \
             127.0.0.1:0\nconnect = {to}\n{service}\n"
        );
        std::fs::write(&file, text).unwrap();
        let program = Program::start(Command::new("stunnel4").arg(&file));
        let line = program.line_with("bound to 127.0.0.1:");
        let port = line.rsplit(':').next().unwrap().trim().parse().unwrap();
        Self { _program: program, port }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap()
    }
}

/// The role of stunnel.
#[derive(Debug, Clone, Copy)]
enum Role {
    /// It decrypts the TLS of our client, in front of a gmux server without TLS.
    Server,
    /// It encrypts for a gmux client without TLS, and connects to our server.
    Client,
}

/// A session over `Tls`, a session without TLS, and stunnel between them.
struct Between {
    tls: Session,
    plain: Session,
    stunnel: Stunnel,
}

/// Makes both sessions. Our TLS end and stunnel check each other's certificate.
fn through_stunnel(
    made: &Certified,
    role: Role,
    version: &'static SupportedProtocolVersion,
    config: &Config,
) -> Between {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let ca = made.file("ca.pem");
    let number =
        if version.version == rustls::ProtocolVersion::TLSv1_2 { "TLSv1.2" } else { "TLSv1.3" };
    let common = format!("sslVersion = {number}\nverifyChain = yes\nCAfile = {ca}");
    match role {
        Role::Server => {
            let own = format!(
                "cert = {}\nkey = {}",
                made.file("server.pem"),
                made.file("server.key.pem")
            );
            let stunnel = Stunnel::start(made, to, &format!("{common}\n{own}"));
            let tls = made.connect(stunnel.connect(), &VERSIONS).unwrap();
            assert_eq!(tls.protocol_version(), Some(version.version));
            let tls = Session::client(tls, config.clone()).unwrap();
            let plain = Session::server(listener.accept().unwrap().0, config.clone()).unwrap();
            Between { tls, plain, stunnel }
        }
        Role::Client => {
            let own = format!(
                "cert = {}\nkey = {}",
                made.file("client.pem"),
                made.file("client.key.pem")
            );
            let service =
                format!("client = yes\n{common}\n{own}\ncheckHost = {SERVER}\nsni = {SERVER}");
            let stunnel = Stunnel::start(made, to, &service);
            let plain = Session::client(stunnel.connect(), config.clone()).unwrap();
            let tls = made.serve(listener.accept().unwrap().0, true).unwrap();
            assert_eq!(
                (tls.protocol_version(), tls.server_name()),
                (Some(version.version), Some(SERVER))
            );
            assert_eq!(tls.peer_certificates().unwrap()[0], made.client.certificate);
            Between { tls: Session::server(tls, config.clone()).unwrap(), plain, stunnel }
        }
    }
}

/// Carries 100 streams at once, and 32 MiB in each direction. Then one end closes after the other's
/// last byte, and both closes return Ok.
fn stunnel_carries(name: &str, role: Role) {
    with(&["stunnel4", "openssl"], name, || {
        let made = Certified::new();
        for version in VERSIONS {
            for (config, tls_closes_first) in versions().into_iter().zip([true, false]) {
                let Between { tls, plain, stunnel } =
                    through_stunnel(&made, role, version, &config);
                let started = Instant::now();
                exchange(&tls, &plain, 100, (32 << 20) / 100);
                let seconds = started.elapsed().as_secs_f64();
                println!("{role:?} {:?}: 32 MiB each way in {seconds:.2} s", version.version);
                let (first, second) =
                    if tls_closes_first { (&tls, &plain) } else { (&plain, &tls) };
                first.close().unwrap();
                assert!(
                    matches!(second.accept(), Err(Error::PeerClosed)),
                    "{:?}",
                    second.close_reason()
                );
                second.close().unwrap();
                drop(stunnel);
            }
        }
    });
}

#[test]
#[ignore = "needs stunnel4; ./tests/peers runs it"]
fn stunnel_as_the_server_carries_100_streams_and_both_ends_close() {
    stunnel_carries("stunnel_as_the_server_carries_100_streams_and_both_ends_close", Role::Server);
}

#[test]
#[ignore = "needs stunnel4; ./tests/peers runs it"]
fn stunnel_as_the_client_carries_100_streams_and_both_ends_close() {
    stunnel_carries("stunnel_as_the_client_carries_100_streams_and_both_ends_close", Role::Client);
}

/// Checks the error at each end when the connection is cut, beyond stunnel or in it.
fn stunnel_passes_cuts(name: &str, role: Role) {
    with(&["stunnel4", "openssl"], name, || {
        let made = Certified::new();
        for version in VERSIONS {
            for kill in [false, true] {
                let Between { tls, plain, stunnel } =
                    through_stunnel(&made, role, version, &Config::new());
                let mut stream = tls.open("cut").unwrap();
                stream.write_all(b"half").unwrap();
                let mut far = plain.accept().unwrap();
                far.read_exact(&mut [0; 4]).unwrap();
                if kill {
                    drop(stunnel);
                    let error = plain.accept().unwrap_err();
                    println!(
                        "{role:?} {:?}, stunnel killed, the plain end: {error}",
                        version.version
                    );
                    assert!(matches!(error, Error::ConnectionLost(_) | Error::Io(_)), "{error}");
                    let error = tls.accept().unwrap_err();
                    println!(
                        "{role:?} {:?}, stunnel killed, the TLS end: {error}",
                        version.version
                    );
                    assert!(matches!(error, Error::Io(_)), "{error}");
                } else {
                    // The end without TLS is closed with the stream open. This ends the connection,
                    // but not the stream.
                    let closed = plain.close();
                    println!("{role:?} {:?}, the plain end's close: {closed:?}", version.version);
                    let error = stream.read(&mut [0]).unwrap_err();
                    drop(far);
                    println!("{role:?} {:?}, the plain end left: {error}", version.version);
                    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
                }
            }
        }
    });
}

/// A limit of stunnel. If a TLS connection ends without `close_notify`, stunnel gives the end
/// without TLS a clean end. With a stream open, gmux still reports a cut. Without one it can't
/// know.
#[test]
#[ignore = "needs stunnel4; ./tests/peers runs it"]
fn stunnel_hides_a_missing_close_notify_from_the_plain_end() {
    with(
        &["stunnel4", "openssl"],
        "stunnel_hides_a_missing_close_notify_from_the_plain_end",
        || {
            let made = Certified::new();
            let own = format!(
                "cert = {}\nkey = {}",
                made.file("server.pem"),
                made.file("server.key.pem")
            );
            for has_stream in [true, false] {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let stunnel = Stunnel::start(&made, listener.local_addr().unwrap(), &own);
                let tcp = stunnel.connect();
                let cut = tcp.try_clone().unwrap();
                let tls =
                    Session::client(made.connect(tcp, &VERSIONS).unwrap(), Config::new()).unwrap();
                let plain = Session::server(listener.accept().unwrap().0, Config::new()).unwrap();
                let stream = has_stream.then(|| tls.open("open").unwrap());
                let accepted = has_stream.then(|| plain.accept().unwrap());
                cut.shutdown(Shutdown::Write).unwrap();
                let error = plain.accept().unwrap_err();
                println!("a TLS connection cut, streams: {has_stream}, the plain end: {error}");
                if has_stream {
                    assert!(matches!(error, Error::ConnectionLost(_)), "{error}");
                } else {
                    assert!(matches!(error, Error::PeerClosed), "{error}");
                }
                drop(stream);
                drop(accepted);
            }
        },
    );
}

#[test]
#[ignore = "needs stunnel4; ./tests/peers runs it"]
fn stunnel_as_the_server_passes_on_that_a_connection_was_cut() {
    stunnel_passes_cuts("stunnel_as_the_server_passes_on_that_a_connection_was_cut", Role::Server);
}

#[test]
#[ignore = "needs stunnel4; ./tests/peers runs it"]
fn stunnel_as_the_client_passes_on_that_a_connection_was_cut() {
    stunnel_passes_cuts("stunnel_as_the_client_passes_on_that_a_connection_was_cut", Role::Client);
}

// ---- large transfers between our own ends -------------------------------------------------------

/// Sets a socket's buffers to `size` bytes. Linux doubles the size, and has a smallest size of its
/// own.
fn narrow(socket: &socket2::Socket, size: usize) {
    socket.set_recv_buffer_size(size).unwrap();
    socket.set_send_buffer_size(size).unwrap();
    let sizes = (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap());
    assert!(sizes.0.max(sizes.1) <= 2 * size.max(2304), "{sizes:?} instead of {size}");
}

/// Makes a TCP connection over loopback. Both ends have buffers of `size` bytes from the beginning.
fn narrow_tcp(size: usize) -> (TcpStream, TcpStream) {
    let socket = || {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        narrow(&socket, size);
        socket
    };
    let listener = socket();
    let near = socket();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(1).unwrap();
    near.connect(&listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    narrow(&far, size);
    (near.into(), far.into())
}

/// Sends `bytes` bytes in each direction at once. Then both ends close. Returns the time in
/// seconds.
fn at_once(
    what: &str,
    bytes: usize,
    config: &Config,
    near: impl Transport,
    far: impl Transport,
) -> f64 {
    let client = Session::client(near, config.clone()).unwrap();
    let server = Session::server(far, config.clone()).unwrap();
    let started = Instant::now();
    exchange(&client, &server, 1, bytes);
    let seconds = started.elapsed().as_secs_f64();
    let rate = 2.0 * bytes as f64 / seconds / 1e6;
    println!(
        "{what}: {bytes} bytes each way in {seconds:.2} s: {rate:.0} MB/s, both ways together"
    );
    client.close().unwrap();
    server.close().unwrap();
    seconds
}

/// Does the handshake over both ends of a connection.
fn shake_hands<T: Transport + Send>(near: T, far: T) -> (Tls, Tls) {
    let authority = Authority::new("the authority");
    let versions = &VERSIONS;
    let (server, _) = authority.issue_both();
    thread::scope(|scope| {
        let client = authority::client(client_config(&authority, None, versions));
        let client = scope.spawn(|| Tls::handshake(client, near, LONG).unwrap());
        let server = authority::server(server_config(&server, None, versions));
        let server = Tls::handshake(server, far, LONG).unwrap();
        (client.join().unwrap(), server)
    })
}

#[test]
#[ignore = "takes long; ./tests/peers runs it"]
fn four_gib_each_way_at_once_with_buffers_of_64_kib() {
    test_for("four_gib_each_way_at_once_with_buffers_of_64_kib", Duration::from_secs(240), || {
        let (near, far) = narrow_tcp(64 * 1024);
        let (near, far) = shake_hands(near, far);
        at_once("buffers of 64 KiB", 4 << 30, &Config::new().version(2), near, far);
    });
}

/// Unix sockets get the smallest buffers that the system gives. TCP sockets get 4096 bytes, which
/// Linux doubles.
///
/// With less, Linux's TCP itself stops now and then. Its window is then smaller than a segment
/// although the receive queue is empty, and the sender waits for its persist timer of 0.2 s before
/// each segment. With 2304 bytes, the smallest size, a session without TLS stops in the same way.
#[test]
#[ignore = "takes long; ./tests/peers runs it"]
fn sixteen_mib_each_way_at_once_with_the_smallest_buffers() {
    test_for("sixteen_mib_each_way_at_once_with_the_smallest_buffers", WATCHDOG, || {
        for config in versions() {
            let unix = || {
                let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
                narrow(&socket2::SockRef::from(&near), 1);
                narrow(&socket2::SockRef::from(&far), 1);
                (near, far)
            };
            let (near, far) = unix();
            at_once("smallest, Unix socket, plain", 16 << 20, &config, near, far);
            let (near, far) = unix();
            let (near, far) = shake_hands(near, far);
            at_once("smallest, Unix socket, TLS", 16 << 20, &config, near, far);
            let (near, far) = narrow_tcp(4096);
            at_once("smallest, TCP, plain", 16 << 20, &config, near, far);
            let (near, far) = narrow_tcp(4096);
            let (near, far) = shake_hands(near, far);
            at_once("smallest, TCP, TLS", 16 << 20, &config, near, far);
        }
    });
}

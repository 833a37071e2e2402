//! Tests of every transport: the data that it carries, how it ends, and its own further promises.
//!
//! The scenarios that all of them have to pass are in `support::links`.
//!
//! Promises: P3, P9, P24, P37, P41, P47, P81, P90, P91, P92, P93, P94, P96, P97.

mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use gmux::transport::{Control, Halves, Pair, Shared, Transport};
use gmux::wire::{Command as Cmd, Frame};
use gmux::{Config, Error, Session};

use support::blocked::blocked;
use support::links::{self, *};
use support::{Pattern, close_beside_a_peer_that_stays, tcp, test, until};

/// A close timeout that a test waits for. It is long enough for a close to succeed on a busy
/// machine.
const SHORT: Duration = Duration::from_millis(500);

/// Makes a test for each listed pair of a scenario and a kind of connection.
macro_rules! scenarios {
    ($($name:ident: $scenario:ident($kind:ident $(, $more:expr)?);)+) => {$(
        #[test]
        fn $name() {
            test(stringify!($name), || links::$scenario(links::$kind $(, $more)?));
        }
    )+};
}

scenarios! {
    tcp_carries_8_mib_both_ways: carries_8_mib_both_ways(over_tcp);
    pipes_carry_8_mib_both_ways: carries_8_mib_both_ways(over_pipes);
    shared_carries_8_mib_both_ways: carries_8_mib_both_ways(over_shared);
    shared_with_readiness_carries_8_mib_both_ways: carries_8_mib_both_ways(over_shared_ready);
    shared_that_hoards_carries_8_mib_both_ways: carries_8_mib_both_ways(over_shared_hoard);

    tcp_closes_while_parked: closes_while_parked(over_tcp);
    pipes_close_while_parked: closes_while_parked(over_pipes);
    shared_closes_while_parked: closes_while_parked(over_shared);
    shared_with_readiness_closes_while_parked: closes_while_parked(over_shared_ready);

    tcp_closes_while_both_threads_are_stuck: closes_while_both_threads_are_stuck(over_tcp, true);
    pipes_close_while_both_threads_are_stuck:
        closes_while_both_threads_are_stuck(over_pipes, false);
    shared_closes_while_both_threads_are_stuck:
        closes_while_both_threads_are_stuck(over_shared, true);
    shared_with_readiness_closes_while_both_threads_are_stuck:
        closes_while_both_threads_are_stuck(over_shared_ready, true);

    tcp_notices_a_vanished_peer: notices_that_the_far_end_vanished(over_tcp);
    pipes_notice_a_vanished_peer: notices_that_the_far_end_vanished(over_pipes);
    shared_notices_a_vanished_peer: notices_that_the_far_end_vanished(over_shared);
    shared_with_readiness_notices_a_vanished_peer:
        notices_that_the_far_end_vanished(over_shared_ready);

    tcp_notices_a_vanished_peer_during_a_write:
        notices_that_the_far_end_vanished_during_a_write(over_tcp);
    pipes_notice_a_vanished_peer_during_a_write:
        notices_that_the_far_end_vanished_during_a_write(over_pipes);
    shared_notices_a_vanished_peer_during_a_write:
        notices_that_the_far_end_vanished_during_a_write(over_shared);
    shared_with_readiness_notices_a_vanished_peer_during_a_write:
        notices_that_the_far_end_vanished_during_a_write(over_shared_ready);

    tcp_full_both_ways_moves_again: both_directions_full_at_once_move_again(over_tcp);
    pipes_full_both_ways_move_again: both_directions_full_at_once_move_again(over_pipes);
    narrow_pipes_full_both_ways_move_again:
        both_directions_full_at_once_move_again(over_narrow_pipes);
    shared_full_both_ways_moves_again: both_directions_full_at_once_move_again(over_shared);
    shared_with_readiness_full_both_ways_moves_again:
        both_directions_full_at_once_move_again(over_shared_ready);
    shared_narrow_pipes_full_both_ways_move_again:
        both_directions_full_at_once_move_again(over_shared_narrow_pipes);

    narrow_pipes_echo_1_mib_in_both_directions: echoes_1_mib_in_both_directions(over_narrow_pipes);
    shared_narrow_pipes_echo_1_mib_in_both_directions:
        echoes_1_mib_in_both_directions(over_shared_narrow_pipes);
}

#[cfg(unix)]
scenarios! {
    unix_sockets_carry_8_mib_both_ways: carries_8_mib_both_ways(over_unix);
    unix_sockets_close_while_parked: closes_while_parked(over_unix);
    unix_sockets_close_while_both_threads_are_stuck:
        closes_while_both_threads_are_stuck(over_unix, true);
    unix_sockets_notice_a_vanished_peer: notices_that_the_far_end_vanished(over_unix);
    unix_sockets_notice_a_vanished_peer_during_a_write:
        notices_that_the_far_end_vanished_during_a_write(over_unix);
    unix_sockets_full_both_ways_move_again: both_directions_full_at_once_move_again(over_unix);
}

// ---- sockets ------------------------------------------------------------------------------------

/// Whether a descriptor is in non-blocking mode. Linux tells it in `/proc`. On other systems the
/// result is `None`.
#[cfg(unix)]
fn is_nonblocking(socket: &impl std::os::fd::AsRawFd) -> Option<bool> {
    const O_NONBLOCK: u32 = 0o4000;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", socket.as_raw_fd())).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    Some(u32::from_str_radix(flags.trim(), 8).unwrap() & O_NONBLOCK != 0)
}

#[cfg(not(unix))]
fn is_nonblocking<T>(_: &T) -> Option<bool> {
    None
}

/// Checks that a byte can be sent in each direction.
fn assert_works(client: &Session, server: &Session) {
    let mut ours = client.open("works").unwrap();
    ours.write_all(&[1]).unwrap();
    let mut theirs = server.accept().unwrap();
    let mut byte = [0];
    theirs.read_exact(&mut byte).unwrap();
    theirs.write_all(&[byte[0] + 1]).unwrap();
    ours.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [2]);
}

#[test]
fn a_session_undoes_what_an_earlier_owner_of_a_tcp_stream_set() {
    test("a_session_undoes_what_an_earlier_owner_of_a_tcp_stream_set", || {
        let (a, b) = tcp();
        for socket in [&a, &b] {
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            socket.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.set_nodelay(false).unwrap();
        }
        // They share the sockets' settings.
        let clones = [a.try_clone().unwrap(), b.try_clone().unwrap()];
        assert_ne!(is_nonblocking(&clones[0]), Some(false));
        let client = Session::client(a, Config::new()).unwrap();
        let server = Session::server(b, Config::new()).unwrap();
        for socket in &clones {
            assert_ne!(is_nonblocking(socket), Some(true));
            assert_eq!(socket.read_timeout().unwrap(), None);
            // The session's time limit of a single write. It is 10 ms, which the system may round
            // up to a tick of its clock.
            let bound = socket.write_timeout().unwrap().unwrap();
            assert!((10..=20).contains(&bound.as_millis()), "{bound:?}");
            assert!(socket.nodelay().unwrap());
        }
        assert_works(&client, &server);
        client.close().unwrap();
        server.close().unwrap();
    });
}

#[cfg(unix)]
#[test]
fn a_session_undoes_what_an_earlier_owner_of_a_unix_stream_set() {
    test("a_session_undoes_what_an_earlier_owner_of_a_unix_stream_set", || {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        for socket in [&a, &b] {
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            socket.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
            socket.set_nonblocking(true).unwrap();
        }
        let clones = [a.try_clone().unwrap(), b.try_clone().unwrap()];
        assert_ne!(is_nonblocking(&clones[0]), Some(false));
        let client = Session::client(a, Config::new()).unwrap();
        let server = Session::server(b, Config::new()).unwrap();
        for socket in &clones {
            assert_ne!(is_nonblocking(socket), Some(true));
            assert_eq!(socket.read_timeout().unwrap(), None);
            // The session's time limit of a single write. It is 10 ms, which the system may round
            // up to a tick of its clock.
            let bound = socket.write_timeout().unwrap().unwrap();
            assert!((10..=20).contains(&bound.as_millis()), "{bound:?}");
        }
        assert_works(&client, &server);
        client.close().unwrap();
        server.close().unwrap();
    });
}

#[test]
fn a_tcp_session_and_its_streams_tell_their_addresses() {
    test("a_tcp_session_and_its_streams_tell_their_addresses", || {
        let (a, b) = tcp();
        let ours = a.local_addr().unwrap();
        let theirs = b.local_addr().unwrap();
        let client = Session::client(a, Config::new()).unwrap();
        let stream = client.open("").unwrap();
        assert_eq!((client.local_addr(), client.peer_addr()), (Some(ours), Some(theirs)));
        assert_eq!((stream.local_addr(), stream.peer_addr()), (Some(ours), Some(theirs)));
        drop(b);
        until(|| client.is_closed());
        assert_eq!((client.local_addr(), client.peer_addr()), (Some(ours), Some(theirs)));
    });
}

#[test]
fn a_transport_without_addresses_tells_none() {
    test("a_transport_without_addresses_tells_none", || {
        let (client, server) = sessions(over_pipes, &Config::new());
        assert_eq!((client.local_addr(), client.peer_addr()), (None, None));
        drop(client);
        drop(server);
    });
}

/// An orderly shutdown of one side with a stream open, and a reset, are different errors.
#[test]
fn an_orderly_end_of_tcp_with_a_stream_open_is_a_loss() {
    test("an_orderly_end_of_tcp_with_a_stream_open_is_a_loss", || {
        let (near, far) = tcp();
        let session = Session::client(near, Config::new()).unwrap();
        let mut stream = session.open("lost").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        let error = Error::from(stream.read(&mut [0]).unwrap_err());
        assert!(matches!(error, Error::ConnectionLost(_)), "{error:?}");
        assert!(matches!(session.accept(), Err(Error::ConnectionLost(_))));
        threads_end(&session);
    });
}

/// Both ends close at about the same time, with all possible offsets. Neither close fails because
/// of it.
#[test]
fn both_ends_closing_at_once_is_no_error() {
    test("both_ends_closing_at_once_is_no_error", || {
        for round in 0..1500 {
            let (client, server) = sessions(over_tcp, &Config::new());
            let meet = std::sync::Barrier::new(2);
            thread::scope(|scope| {
                for session in [&client, &server] {
                    let meet = &meet;
                    scope.spawn(move || {
                        meet.wait();
                        session.close().unwrap_or_else(|error| panic!("round {round}: {error}"));
                    });
                }
            });
        }
    });
}

/// A transport that can't be set up makes session creation fail, and nothing is left behind.
#[test]
fn a_transport_that_fails_to_split_is_an_error() {
    struct Broken;
    impl Transport for Broken {
        fn split(self) -> io::Result<Halves> {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, "no"))
        }
    }
    test("a_transport_that_fails_to_split_is_an_error", || {
        let error = Session::client(Broken, Config::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    });
}

// ---- pairs --------------------------------------------------------------------------------------

#[cfg(target_os = "linux")]
scenarios! {
    named_pipes_carry_8_mib_both_ways: carries_8_mib_both_ways(over_fifos);
    named_pipes_close_while_parked: closes_while_parked(over_fifos);
}

/// The manual warns of such a pair. The drop of one clone of a socket doesn't end the connection
/// while another clone exists.
#[test]
fn a_pair_of_a_sockets_clones_never_tells_its_peer_of_its_end() {
    test("a_pair_of_a_sockets_clones_never_tells_its_peer_of_its_end", || {
        let (near, far) = tcp();
        let abort = near.try_clone().unwrap();
        let pair = Pair::new(near.try_clone().unwrap(), near);
        let pair = pair.with_abort(move || {
            let _ = abort.shutdown(Shutdown::Both);
        });
        let client = Session::client(pair, Config::new().close_timeout(SHORT)).unwrap();
        let server = Session::server(far, Config::new()).unwrap();
        close_beside_a_peer_that_stays(&client);
        until(|| server.is_closed()); // The abort ends it.
        threads_end(&client);
        threads_end(&server);
    });
}

/// A pair that is declared to have no end. A close returns Ok although the peer stays. The threads
/// end after the close timeout.
#[test]
fn a_pair_without_an_end_closes_beside_a_peer_that_stays() {
    test("a_pair_without_an_end_closes_beside_a_peer_that_stays", || {
        let (near, far) = tcp();
        let abort = near.try_clone().unwrap();
        let pair = Pair::new(near.try_clone().unwrap(), near).without_end();
        let pair = pair.with_abort(move || {
            let _ = abort.shutdown(Shutdown::Both);
        });
        let client = Session::client(pair, Config::new().close_timeout(SHORT)).unwrap();
        let server = Session::server(far, Config::new()).unwrap();
        client.open("before").unwrap().write_all(b"the end").unwrap();
        client.close().unwrap();
        let mut text = String::new();
        server.accept().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "the end");
        until(|| server.is_closed()); // The abort ends it.
        threads_end(&client);
        threads_end(&server);
    });
}

/// The documented limit of a pair is that its reads can't be interrupted. Only the reader thread is
/// affected.
#[test]
fn calls_over_a_pair_wake_at_once_though_its_reader_is_stuck() {
    test("calls_over_a_pair_wake_at_once_though_its_reader_is_stuck", || {
        let (reader, far_writer) = io::pipe().unwrap();
        let (mut far_reader, writer) = io::pipe().unwrap();
        let config = Config::new().close_timeout(SHORT);
        let session = Session::client((reader, writer), config).unwrap();
        let mut stream = session.open("stuck").unwrap();
        let read = blocked(move || stream.read(&mut [0]).unwrap_err());
        close_beside_a_peer_that_stays(&session);
        assert_eq!(read.join().kind(), io::ErrorKind::NotConnected);
        // The accepted bytes arrive, and then the end, because the write half is gone.
        let mut bytes = Vec::new();
        far_reader.read_to_end(&mut bytes).unwrap();
        let (frame, rest) = Frame::decode(&bytes).unwrap().unwrap();
        assert_eq!(
            (frame.header.command, frame.payload.as_slice(), rest),
            (Cmd::Syn, &b"stuck"[..], &[][..])
        );
        until(|| reader_and_writer(&session) == (true, false));
        assert_eq!(reader_and_writer(&session), (true, false));
        drop(far_writer);
        threads_end(&session);
    });
}

#[test]
fn a_pairs_abort_is_called_once_and_ends_its_reader() {
    test("a_pairs_abort_is_called_once_and_ends_its_reader", || {
        for silent_death in [false, true] {
            let (reader, far_writer) = io::pipe().unwrap();
            let (_far_reader, writer) = io::pipe().unwrap();
            let calls = Arc::new(AtomicUsize::new(0));
            let far_writer = Mutex::new(Some(far_writer));
            let counter = Arc::clone(&calls);
            let transport = Pair::new(reader, writer).with_abort(move || {
                counter.fetch_add(1, SeqCst);
                let _ = far_writer.lock().unwrap().take();
            });
            let tick = Duration::from_millis(20);
            let config = if silent_death {
                Config::new().keepalive_interval(tick).keepalive_timeout(2 * tick)
            } else {
                Config::new().close_timeout(SHORT)
            };
            let session = Session::client(transport, config).unwrap();
            let mut stream = session.open("aborted").unwrap();
            let read = blocked_unless(silent_death, move || stream.read(&mut [0]).unwrap_err());
            if silent_death {
                assert!(matches!(Error::from(read()), Error::KeepaliveTimeout(_)));
            } else {
                close_beside_a_peer_that_stays(&session);
                assert_eq!(read().kind(), io::ErrorKind::NotConnected);
            }
            threads_end(&session);
            drop(session);
            assert_eq!(calls.load(SeqCst), 1);
        }
    });
}

/// Runs `call` in another thread. Waits until the call is blocked, unless `soon` says that it may
/// return by itself. Returns the call, to be joined.
fn blocked_unless<T: Send + 'static>(
    soon: bool,
    call: impl FnOnce() -> T + Send + 'static,
) -> impl FnOnce() -> T {
    let running = if soon { support::blocked::started(call) } else { blocked(call) };
    || running.join()
}

// ---- a child's stdio ----------------------------------------------------------------------------

/// The variable that tells the child below what to do.
const CHILD: &str = "GMUX_TEST_CHILD";
/// The line of the child after which the session begins. libtest prints text before a test.
const MARKER: &[u8] = b"\nfrom here on it is gmux\n";

/// Not a test, but the child process of the tests below. libtest writes to standard output before
/// and after a test. So the parent reads past the marker, and the child exits inside this function.
#[test]
#[ignore = "the tests that need it run it as a child process"]
fn child_on_stdio() {
    let Ok(mode) = std::env::var(CHILD) else { return };
    io::stdout().write_all(MARKER).unwrap();
    io::stdout().flush().unwrap();
    if mode == "stubborn" {
        // It reads nothing. Only a kill ends it before that.
        thread::sleep(Duration::from_secs(100));
        std::process::exit(3);
    }
    let config = Config::new().version(mode.parse().unwrap());
    let session = Session::server((io::stdin(), io::stdout()), config).unwrap();
    let mut echoes = Vec::new();
    let mut code = 0;
    for stream in session.incoming() {
        match stream {
            Ok(mut stream) => echoes
                .push(thread::spawn(move || io::copy(&mut stream.clone(), &mut stream).is_ok())),
            Err(_) => code = 1,
        }
    }
    if !echoes.into_iter().all(|echo| echo.join().unwrap()) && code == 0 {
        code = 2;
    }
    std::process::exit(code);
}

/// Starts the child, and reads its output up to the marker.
fn child(mode: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_on_stdio", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, mode)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.as_mut().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(MARKER) {
        stdout
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&seen)));
        seen.push(byte[0]);
    }
    child
}

#[test]
fn a_childs_stdio_carries_8_mib_both_ways() {
    test("a_childs_stdio_carries_8_mib_both_ways", || {
        const SIZE: usize = 8 << 20;
        for version in [1, 2] {
            let mut child = child(&version.to_string());
            let transport = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
            let session = Session::client(transport, Config::new().version(version)).unwrap();
            let streams = ["0", "1", "2"].map(|name| session.open(name).unwrap());
            thread::scope(|scope| {
                for (at, stream) in streams.iter().enumerate() {
                    scope.spawn(move || {
                        send(stream, at, SIZE);
                        stream.shutdown(Shutdown::Write).unwrap();
                    });
                    scope.spawn(move || assert_eq!(check(stream, at), SIZE));
                }
            });
            drop(streams);
            session.close().unwrap();
            assert!(child.wait().unwrap().success(), "the child saw a clean end");
            threads_end(&session);
        }
    });
}

#[test]
fn a_close_while_a_child_waits_ends_both() {
    test("a_close_while_a_child_waits_ends_both", || {
        let mut child = child("1");
        let transport = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let session = Session::client(transport, Config::new()).unwrap();
        let mut stream = session.open("parked").unwrap();
        stream.write_all(&[7]).unwrap();
        stream.read_exact(&mut [0]).unwrap(); // The child has answered.
        let read = blocked(move || stream.read(&mut [0]).unwrap_err());
        session.close().unwrap();
        assert_eq!(read.join().kind(), io::ErrorKind::NotConnected);
        assert_eq!(child.wait().unwrap().code(), Some(1), "the child saw its stream cut off");
        threads_end(&session);
    });
}

#[test]
fn a_child_that_is_killed_is_noticed() {
    test("a_child_that_is_killed_is_noticed", || {
        let mut child = child("1");
        let transport = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let session = Session::client(transport, Config::new()).unwrap();
        let mut stream = session.open("lost").unwrap();
        stream.write_all(&[7]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let mut reader = stream.clone();
        let read = blocked(move || reader.read(&mut [0]).unwrap_err());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_lost(read.join());
        assert_lost(stream.write(&[1]).unwrap_err());
        threads_end(&session);
    });
}

#[test]
fn a_child_that_ignores_the_end_is_killed_by_the_pairs_abort() {
    test("a_child_that_ignores_the_end_is_killed_by_the_pairs_abort", || {
        let mut child = child("stubborn");
        let stdout = child.stdout.take().unwrap();
        let stdin = child.stdin.take().unwrap();
        let (reaped, status) = std::sync::mpsc::channel();
        let transport = Pair::new(stdout, stdin).with_abort(move || {
            child.kill().unwrap();
            reaped.send(child.wait().unwrap()).unwrap();
        });
        let session = Session::client(transport, Config::new().close_timeout(SHORT)).unwrap();
        let mut stream = session.open("ignored").unwrap();
        let read = blocked(move || stream.read(&mut [0]).unwrap_err());
        close_beside_a_peer_that_stays(&session);
        assert_eq!(read.join().kind(), io::ErrorKind::NotConnected);
        assert!(!status.recv().unwrap().success());
        threads_end(&session);
    });
}

// ---- Shared -------------------------------------------------------------------------------------

/// Bytes in the transport's own buffer are delivered, although the socket is not readable and stays
/// so.
#[test]
fn shared_delivers_what_its_transport_hoards() {
    test("shared_delivers_what_its_transport_hoards", || {
        for version in [1, 2] {
            let (near, far) = tcp();
            let config = Config::new().version(version);
            let session = Session::server(shared_ready(near, Hoard::new), config).unwrap();
            let sent = Pattern::bytes(3, 100_000);
            let mut raw = support::raw::Raw::new(far, version);
            let mut burst = Frame::new(version, Cmd::Syn, 3, b"burst").unwrap().encode();
            for piece in sent.chunks(30_000) {
                burst.extend(Frame::new(version, Cmd::Psh, 3, piece).unwrap().encode());
            }
            raw.bytes(&burst);
            let mut got = vec![0; sent.len()];
            session.accept().unwrap().read_exact(&mut got).unwrap();
            assert!(got == sent);
            drop(raw);
        }
    });
}

/// A transport in memory. It takes input only during a write, as rustls does when it can't write.
/// Every other write accepts nothing.
struct Reluctant {
    input: Vec<u8>,
    hoard: Vec<u8>,
    writes: usize,
    output: std::sync::mpsc::Sender<Vec<u8>>,
}

impl Read for Reluctant {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.hoard.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = buf.len().min(self.hoard.len());
        buf[..n].copy_from_slice(&self.hoard[..n]);
        self.hoard.drain(..n);
        Ok(n)
    }
}

impl Write for Reluctant {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        if self.writes % 2 == 1 {
            return Ok(0);
        }
        self.hoard.append(&mut self.input);
        self.output.send(buf.to_vec()).unwrap();
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket never becomes readable again, but a write has taken input. The session finds that
/// input. It also repeats a write that accepted nothing.
#[test]
fn shared_finds_what_its_transport_took_in_while_writing() {
    test("shared_finds_what_its_transport_took_in_while_writing", || {
        let (output, written) = std::sync::mpsc::channel();
        let input = Frame::new(1, Cmd::Syn, 2, b"taken in").unwrap().encode();
        let (parked, is_parked) = std::sync::mpsc::channel();
        let transport = Shared::new(Reluctant { input, hoard: Vec::new(), writes: 0, output })
            .with_readiness(move || {
                let _ = parked.send(()); // The test waits only for the first.
                Err(io::ErrorKind::WouldBlock.into())
            });
        let session = Session::client(transport, Config::new().close_timeout(SHORT)).unwrap();
        is_parked.recv().unwrap();
        let stream = session.open("nothing is taken at first").unwrap();
        assert_eq!(session.accept().unwrap().name(), "taken in");
        let frame = written.recv().unwrap();
        assert_eq!(Frame::decode(&frame).unwrap().unwrap().0.payload, stream.name_bytes());
    });
}

/// A transport in non-blocking mode is allowed too. The session polls it.
#[test]
fn shared_works_in_non_blocking_mode() {
    test("shared_works_in_non_blocking_mode", || {
        fn nonblocking(tcp: TcpStream) -> Plain {
            tcp.set_nonblocking(true).unwrap();
            Plain(tcp)
        }
        let (a, b) = tcp();
        let client = Session::client(shared(a, nonblocking), Config::new()).unwrap();
        let server = Session::server(shared_ready(b, nonblocking), Config::new()).unwrap();
        assert_works(&client, &server);
        client.close().unwrap();
        server.close().unwrap();
    });
}

/// Without `on_finish` the peer learns of a close when the transport is dropped, after the close
/// timeout. The closing end doesn't wait for that.
#[test]
fn shared_without_on_finish_ends_when_its_transport_is_dropped() {
    test("shared_without_on_finish_ends_when_its_transport_is_dropped", || {
        let (near, far) = tcp();
        near.set_read_timeout(Some(BOUND)).unwrap();
        near.set_write_timeout(Some(BOUND)).unwrap();
        let config = Config::new().close_timeout(SHORT);
        let client = Session::client(Shared::new(Plain(near)), config).unwrap();
        let server = Session::server(far, Config::new()).unwrap();
        let _ = client.open("closed").unwrap();
        let mut stream = server.accept().unwrap();
        client.close().unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        drop(stream);
        assert!(matches!(server.accept(), Err(Error::PeerClosed)));
        threads_end(&client);
        threads_end(&server);
    });
}

/// `on_abort` ends a readiness closure that waits without limit. It is called once.
#[test]
fn shared_aborts_a_readiness_closure_that_waits() {
    test("shared_aborts_a_readiness_closure_that_waits", || {
        let (near, far) = tcp();
        let (hold, wait) = std::sync::mpsc::channel::<()>();
        let (called, calls) = std::sync::mpsc::channel();
        let transport = shared(near, Plain)
            .with_readiness(move || {
                wait.recv().map_err(|_| io::ErrorKind::ConnectionAborted.into())
            })
            .on_abort(move || {
                drop(hold);
                called.send(()).unwrap();
            });
        let session = Session::client(transport, Config::new().close_timeout(SHORT)).unwrap();
        close_beside_a_peer_that_stays(&session);
        threads_end(&session);
        drop(session);
        assert_eq!(calls.iter().count(), 1);
        drop(far);
    });
}

/// An error of a readiness closure ends the session. `WouldBlock` doesn't.
#[test]
fn shared_ends_with_its_readiness_closures_error() {
    test("shared_ends_with_its_readiness_closures_error", || {
        let (near, far) = tcp();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let transport = shared(near, Plain).with_readiness(move || {
            let kind = match count.fetch_add(1, SeqCst) {
                0 => io::ErrorKind::WouldBlock,
                1 => io::ErrorKind::TimedOut,
                2 => io::ErrorKind::Interrupted,
                _ => io::ErrorKind::PermissionDenied,
            };
            Err(kind.into())
        });
        let session = Session::client(transport, Config::new()).unwrap();
        assert!(session.closed().recv().is_err());
        assert_eq!(session.close_reason().unwrap().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(asked.load(SeqCst), 4);
        threads_end(&session);
        drop(far);
    });
}

// ---- a transport that the user implements -------------------------------------------------------

/// Checks the calls of a session that closes well on its transport. It flushes after the last
/// write, then finishes once, and then drops all parts.
#[test]
fn a_session_flushes_finishes_and_lets_go_of_a_transport_in_order() {
    type Log = Arc<Mutex<Vec<&'static str>>>;

    struct Logged(TcpStream, Log);
    struct Part(TcpStream, Log, &'static str);

    impl Transport for Logged {
        fn split(self) -> io::Result<Halves> {
            let part = |name| io::Result::Ok(Part(self.0.try_clone()?, Arc::clone(&self.1), name));
            Ok(Halves::new(
                part("reader dropped")?,
                part("writer dropped")?,
                part("control dropped")?,
            ))
        }
    }

    impl Part {
        fn log(&self, what: &'static str) {
            let mut log = self.1.lock().unwrap();
            if log.last() != Some(&what) {
                log.push(what);
            }
        }
    }

    impl Read for Part {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl Write for Part {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.log("write");
            self.0.write(buf)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.log("flush");
            Ok(())
        }
    }

    impl Control for Part {
        fn finish_write(&self) -> io::Result<()> {
            self.log("finish");
            self.0.shutdown(Shutdown::Write)
        }

        fn abort(&self) {
            self.log("abort");
        }
    }

    impl Drop for Part {
        fn drop(&mut self) {
            self.log(self.2);
        }
    }

    test("a_session_flushes_finishes_and_lets_go_of_a_transport_in_order", || {
        let (near, mut far) = tcp();
        let log = Log::default();
        let config = Config::new().keepalive_disabled(true);
        let session = Session::client(Logged(near, Arc::clone(&log)), config).unwrap();
        let mut stream = session.open("").unwrap();
        stream.write_all(&[1]).unwrap();
        // The writer thread flushes by itself before it parks.
        until(|| log.lock().unwrap().last() == Some(&"flush"));
        let closing = blocked({
            let session = session.clone();
            move || session.close()
        });
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), 8 + 8 + 1);
        drop(far);
        closing.join().unwrap();
        until(|| log.lock().unwrap().contains(&"control dropped"));
        let log = log.lock().unwrap();
        let seen: Vec<_> =
            log.iter().copied().filter(|entry| !matches!(*entry, "write" | "flush")).collect();
        let writes = log.iter().rposition(|entry| *entry == "write").unwrap();
        let finish = log.iter().position(|entry| *entry == "finish").unwrap();
        assert!(log[writes..finish].contains(&"flush"), "{log:?}");
        // When the writer is done, the reader still waits for the far end. There is nothing to
        // abort, and the control is dropped last.
        assert_eq!(seen, ["finish", "writer dropped", "reader dropped", "control dropped"]);
    });
}

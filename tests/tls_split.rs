//! Tests of `transport::Tls`. They run the scenarios of every transport over TCP, Unix sockets and
//! pipes, with TLS 1.3 and 1.2. They also test how a TLS connection ends.
//!
//! Promises: P90, P91, P99, P100.

#[path = "support/certs.rs"]
mod certs;
mod support;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use gmux::transport::{Tls, Transport};
use gmux::{Config, Error, Session};
use rustls::{
    CipherSuiteCommon, ClientConfig, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    Tls12CipherSuite, Tls13CipherSuite,
};

use support::links::{self, Any};
use support::{tcp, test};

/// Time limit of a handshake. A slower one hangs.
const LONG: Duration = Duration::from_secs(60);

/// Does the handshake over both ends of a connection.
fn handshake_of<T: Transport + Send>(
    (client, server): (rustls::ClientConnection, rustls::ServerConnection),
    (a, b): (T, T),
) -> (Tls, Tls) {
    thread::scope(|scope| {
        let client = scope.spawn(|| Tls::handshake(client, a, LONG).unwrap());
        let server = Tls::handshake(server, b, LONG).unwrap();
        (client.join().unwrap(), server)
    })
}

fn handshake<T: Transport + Send>(ends: (T, T)) -> (Tls, Tls) {
    handshake_of(certs::connections(), ends)
}

fn any((a, b): (Tls, Tls)) -> (Any, Any) {
    (Any::new(a), Any::new(b))
}

fn over_tcp() -> (Any, Any) {
    any(handshake(tcp()))
}

fn over_tcp_with_tls12() -> (Any, Any) {
    any(handshake_of(certs::connections_of(&certs::configs(&[&rustls::version::TLS12])), tcp()))
}

#[cfg(unix)]
fn over_unix() -> (Any, Any) {
    any(handshake(std::os::unix::net::UnixStream::pair().unwrap()))
}

fn over_pipes() -> (Any, Any) {
    any(handshake(links::over_pipes()))
}

fn over_narrow_pipes() -> (Any, Any) {
    any(handshake(links::over_narrow_pipes()))
}

/// Makes a test for each listed pair of a scenario and a kind of connection.
macro_rules! scenarios {
    ($($name:ident: $scenario:ident($kind:ident $(, $more:expr)?);)+) => {$(
        #[test]
        fn $name() {
            test(stringify!($name), || links::$scenario($kind $(, $more)?));
        }
    )+};
}

scenarios! {
    tls_over_tcp_carries_8_mib_both_ways: carries_8_mib_both_ways(over_tcp);
    tls12_over_tcp_carries_8_mib_both_ways: carries_8_mib_both_ways(over_tcp_with_tls12);
    tls_over_pipes_carries_8_mib_both_ways: carries_8_mib_both_ways(over_pipes);

    tls_over_tcp_closes_while_parked: closes_while_parked(over_tcp);
    tls12_over_tcp_closes_while_parked: closes_while_parked(over_tcp_with_tls12);
    tls_over_pipes_closes_while_parked: closes_while_parked(over_pipes);

    tls_over_tcp_closes_while_both_threads_are_stuck:
        closes_while_both_threads_are_stuck(over_tcp, true);
    tls_over_pipes_closes_while_both_threads_are_stuck:
        closes_while_both_threads_are_stuck(over_pipes, false);

    tls_over_tcp_notices_a_vanished_peer: notices_that_the_far_end_vanished(over_tcp);
    tls_over_pipes_notices_a_vanished_peer: notices_that_the_far_end_vanished(over_pipes);
    tls_over_tcp_notices_a_vanished_peer_during_a_write:
        notices_that_the_far_end_vanished_during_a_write(over_tcp);
    tls_over_pipes_notices_a_vanished_peer_during_a_write:
        notices_that_the_far_end_vanished_during_a_write(over_pipes);

    tls_over_tcp_full_both_ways_moves_again: both_directions_full_at_once_move_again(over_tcp);
    tls12_over_tcp_full_both_ways_moves_again:
        both_directions_full_at_once_move_again(over_tcp_with_tls12);
    tls_over_pipes_full_both_ways_moves_again: both_directions_full_at_once_move_again(over_pipes);
    tls_over_narrow_pipes_full_both_ways_moves_again:
        both_directions_full_at_once_move_again(over_narrow_pipes);

    tls_over_narrow_pipes_echoes_1_mib_in_both_directions:
        echoes_1_mib_in_both_directions(over_narrow_pipes);
}

#[cfg(unix)]
scenarios! {
    tls_over_unix_sockets_carries_8_mib_both_ways: carries_8_mib_both_ways(over_unix);
    tls_over_unix_sockets_closes_while_parked: closes_while_parked(over_unix);
    tls_over_unix_sockets_closes_while_both_threads_are_stuck:
        closes_while_both_threads_are_stuck(over_unix, true);
    tls_over_unix_sockets_notices_a_vanished_peer: notices_that_the_far_end_vanished(over_unix);
    tls_over_unix_sockets_full_both_ways_moves_again:
        both_directions_full_at_once_move_again(over_unix);
}

/// Only `close_notify` makes an end clean. Without it the connection counts as cut, even between
/// two frames and with no stream open.
#[test]
fn tls_tells_a_clean_end_from_a_cut() {
    test("tls_tells_a_clean_end_from_a_cut", || {
        let (client, server) = links::sessions(over_tcp, &Config::new());
        client.close().unwrap();
        assert!(matches!(server.accept(), Err(Error::PeerClosed)));

        let (client, server) = tcp();
        let cut = client.try_clone().unwrap();
        let (client, server) = handshake((client, server));
        let server = Session::server(server, Config::new()).unwrap();
        cut.shutdown(std::net::Shutdown::Both).unwrap();
        drop(client);
        let error = server.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error:?}");
        assert!(error.to_string().contains("close_notify"), "{error}");
    });
}

/// Returns configurations of one version whose keys may encrypt at most `limit` records.
fn worn_out_after(
    limit: u64,
    version: &'static SupportedProtocolVersion,
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: limit,
    };
    let mut provider = rustls::crypto::ring::default_provider();
    for suite in &mut provider.cipher_suites {
        *suite = match *suite {
            SupportedCipherSuite::Tls12(suite) => {
                let common = common(&suite.common);
                SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                    common,
                    ..*suite
                })))
            }
            SupportedCipherSuite::Tls13(suite) => {
                let common = common(&suite.common);
                SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                    common,
                    ..*suite
                })))
            }
        };
    }
    certs::configs_by(provider, &[version])
}

/// The keys of TLS 1.2 can't be renewed. All bytes accepted before the keys wore out arrive.
/// Nothing is accepted after that, and the peer doesn't read a clean end.
#[test]
fn worn_out_keys_of_tls12_lose_nothing_that_was_accepted() {
    test("worn_out_keys_of_tls12_lose_nothing_that_was_accepted", || {
        let configs = worn_out_after(40, &rustls::version::TLS12);
        for size in [1, 8, 23, 24, 100, 50_000] {
            let (client, server) = handshake_of(certs::connections_of(&configs), tcp());
            let mut client = client.split().unwrap();
            let mut server = server.split().unwrap();
            let received = thread::spawn(move || {
                let mut received = 0;
                let mut buf = vec![0; 65536];
                loop {
                    match server.reader.read(&mut buf) {
                        Ok(0) => return (received, None),
                        Ok(n) => received += n,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return (received, Some(error.kind())),
                    }
                }
            });
            let mut accepted = 0;
            let data = vec![7; size];
            let error = loop {
                match client.writer.write(&data) {
                    Ok(n) => accepted += n,
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                        ) => {}
                    Err(error) => break error,
                }
                assert!(accepted < 10_000_000, "{size}");
            };
            assert!(error.to_string().contains("TLS 1.2: the keys"), "{size}: {error}");
            drop(client);
            assert_eq!(
                received.join().unwrap(),
                (accepted, Some(io::ErrorKind::UnexpectedEof)),
                "{size}"
            );
        }
    });
}

/// The keys of TLS 1.3 are renewed again and again, while data moves in both directions.
#[test]
fn worn_out_keys_of_tls13_are_renewed() {
    fn connect() -> (Any, Any) {
        let configs = worn_out_after(7, &rustls::version::TLS13);
        any(handshake_of(certs::connections_of(&configs), tcp()))
    }
    test("worn_out_keys_of_tls13_are_renewed", || links::carries_8_mib_both_ways(connect));
}

/// One end sends nothing but its answers to requests for new keys. With version 1 a session has no
/// frame to send when data arrives.
#[test]
fn worn_out_keys_of_tls13_are_renewed_by_one_end_while_the_other_is_silent() {
    test("worn_out_keys_of_tls13_are_renewed_by_one_end_while_the_other_is_silent", || {
        fn connect() -> (Any, Any) {
            let configs = worn_out_after(7, &rustls::version::TLS13);
            any(handshake_of(certs::connections_of(&configs), tcp()))
        }
        const EACH: usize = 16 << 20; // A thousand records need over a hundred requests.
        let (client, server) = links::sessions(connect, &Config::new().keepalive_disabled(true));
        let up = client.open("up").unwrap();
        let accepted = server.accept().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                links::send(&up, 0, EACH);
                up.shutdown(std::net::Shutdown::Write).unwrap();
            });
            assert_eq!(links::check(&accepted, 0), EACH);
        });
        drop(up);
        drop(accepted);
        client.close().unwrap();
        server.close().unwrap();
    });
}

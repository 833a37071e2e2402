//! Tests of a real TLS connection (rustls) in `transport::Shared`. `Shared` is made for such
//! transports:
//! - The connection can't be split.
//! - It holds decrypted bytes that the socket's readiness doesn't show.
//! - It returns `UnexpectedEof` when it was cut off.
//!
//! Promises: P91.

#[path = "support/certs.rs"]
mod certs;
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::DerefMut;
use std::thread;

use gmux::transport::Shared;
use gmux::{Config, Error, Session};
use rustls::{ClientConnection, ConnectionCommon, ServerConnection, SideData, StreamOwned};

use support::links::{self, Any, BOUND};
use support::{tcp, test};

/// Makes a TLS connection over loopback TCP, and does its handshake.
fn handshake()
-> (StreamOwned<ClientConnection, TcpStream>, StreamOwned<ServerConnection, TcpStream>) {
    let (a, b) = tcp();
    let (client, server) = certs::connections();
    let mut client = StreamOwned::new(client, a);
    let mut server = StreamOwned::new(server, b);
    thread::scope(|scope| {
        scope.spawn(|| client.conn.complete_io(&mut client.sock).unwrap());
        server.conn.complete_io(&mut server.sock).unwrap();
    });
    (client, server)
}

/// Makes the transport as the documentation of `Shared` recommends, with time limits, readiness,
/// `close_notify` and abort.
fn shared<C, S>(tls: StreamOwned<C, TcpStream>) -> Shared<StreamOwned<C, TcpStream>>
where
    C: DerefMut<Target = ConnectionCommon<S>> + Send + 'static,
    S: SideData + 'static,
    StreamOwned<C, TcpStream>: Read + Write,
{
    tls.sock.set_nodelay(true).unwrap();
    tls.sock.set_read_timeout(Some(BOUND)).unwrap();
    tls.sock.set_write_timeout(Some(BOUND)).unwrap();
    let ready = tls.sock.try_clone().unwrap();
    let abort = tls.sock.try_clone().unwrap();
    Shared::new(tls)
        .with_readiness(move || ready.peek(&mut [0]).map(drop))
        .on_finish(|tls| {
            tls.conn.send_close_notify();
            Ok(())
        })
        .on_abort(move || {
            let _ = abort.shutdown(Shutdown::Both);
        })
}

fn over_tls() -> (Any, Any) {
    let (client, server) = handshake();
    (Any::new(shared(client)), Any::new(shared(server)))
}

#[test]
fn tls_carries_8_mib_both_ways() {
    test("tls_carries_8_mib_both_ways", || links::carries_8_mib_both_ways(over_tls));
}

#[test]
fn tls_closes_while_parked() {
    test("tls_closes_while_parked", || links::closes_while_parked(over_tls));
}

#[test]
fn tls_closes_while_both_threads_are_stuck() {
    test("tls_closes_while_both_threads_are_stuck", || {
        links::closes_while_both_threads_are_stuck(over_tls, true)
    });
}

#[test]
fn tls_notices_a_vanished_peer() {
    test("tls_notices_a_vanished_peer", || links::notices_that_the_far_end_vanished(over_tls));
}

#[test]
fn tls_notices_a_vanished_peer_during_a_write() {
    test("tls_notices_a_vanished_peer_during_a_write", || {
        links::notices_that_the_far_end_vanished_during_a_write(over_tls);
    });
}

#[test]
fn tls_full_both_ways_moves_again() {
    test("tls_full_both_ways_moves_again", || {
        links::both_directions_full_at_once_move_again(over_tls)
    });
}

/// Only `close_notify` makes an end clean. Without it the connection counts as cut, even between
/// two frames and with no stream open.
#[test]
fn tls_tells_a_clean_end_from_a_cut() {
    test("tls_tells_a_clean_end_from_a_cut", || {
        let (client, server) = links::sessions(over_tls, &Config::new());
        client.close().unwrap();
        assert!(matches!(server.accept(), Err(Error::PeerClosed)));

        let (client, server) = handshake();
        let server = Session::server(shared(server), Config::new()).unwrap();
        client.sock.shutdown(Shutdown::Both).unwrap();
        let error = server.accept().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted, "{error:?}");
        assert!(!matches!(error, Error::PeerClosed), "{error:?}");
    });
}

//! Tests of the records that arrive over a TLS connection:
//! - new keys while both directions are full
//! - records in odd pieces, damaged, cut off, or after the end
//!
//! The peer is rustls, called directly. So it can do things that a session never does.
//!
//! Promises: P99, P100.

#[path = "support/certs.rs"]
mod certs;
mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use gmux::transport::{Halves, Tls, Transport};
use gmux::wire::{Command, Frame};
use gmux::{Config, Error, Session};
use rustls::ClientConnection;

use support::faulty::Rng;
use support::links::{self, Any};
use support::{Pattern, tcp, test, test_for, until};

const LONG: Duration = Duration::from_secs(60);

/// Does a handshake. Returns the server's end, and its peer as rustls and a socket.
fn handshake() -> (Tls, ClientConnection, TcpStream) {
    let (mut a, b) = tcp();
    let (mut client, server) = certs::connections();
    let server = thread::scope(|scope| {
        let server = scope.spawn(|| Tls::handshake(server, b, LONG).unwrap());
        while client.is_handshaking() || client.wants_write() {
            client.complete_io(&mut a).unwrap();
        }
        server.join().unwrap()
    });
    (server, client, a)
}

/// Does a handshake, and makes a session at the server's end.
fn fixture() -> (Session, ClientConnection, TcpStream) {
    let (server, client, socket) = handshake();
    let config = Config::new().keepalive_disabled(true).close_timeout(Duration::from_secs(600));
    (Session::server(server, config).unwrap(), client, socket)
}

fn frame(command: Command, payload: &[u8]) -> Vec<u8> {
    Frame::new(1, command, 3, payload).unwrap().encode()
}

/// Returns the records of `client` for some frames.
fn encrypted(client: &mut ClientConnection, frames: &[u8]) -> Vec<u8> {
    client.set_buffer_limit(None);
    client.writer().write_all(frames).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

// ---- full in both directions -------------------------------------------------------------------

/// Unix sockets with the smallest buffers that the system gives, at both ends. Loopback TCP would
/// move only a few KiB a second, with TLS or without, because its segments are larger than such a
/// window.
#[cfg(unix)]
fn over_smallest_buffers() -> (Any, Any) {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    for socket in [&a, &b] {
        socket2::SockRef::from(socket).set_send_buffer_size(1).unwrap();
        socket2::SockRef::from(socket).set_recv_buffer_size(1).unwrap();
    }
    let (client, server) = certs::connections();
    thread::scope(|scope| {
        let client = scope.spawn(|| Tls::handshake(client, a, LONG).unwrap());
        let server = Tls::handshake(server, b, LONG).unwrap();
        (Any::new(client.join().unwrap()), Any::new(server))
    })
}

/// Sends 16 MiB in each direction at once, through sockets with the smallest buffers.
#[cfg(unix)]
#[test]
fn both_directions_are_full_over_the_smallest_buffers() {
    test_for(
        "both_directions_are_full_over_the_smallest_buffers",
        Duration::from_secs(180),
        || {
            const EACH: usize = 16 << 20;
            let (client, server) =
                links::sessions(over_smallest_buffers, &Config::new().keepalive_disabled(true));
            let opened = client.open("full").unwrap();
            let accepted = server.accept().unwrap();
            thread::scope(|scope| {
                for (stream, from) in [(&opened, 0), (&accepted, 7)] {
                    scope.spawn(move || {
                        links::send(stream, from, EACH);
                        stream.shutdown(Shutdown::Write).unwrap();
                    });
                    scope.spawn(move || assert_eq!(links::check(stream, 7 - from), EACH));
                }
            });
            drop(opened);
            drop(accepted);
            client.close().unwrap();
            server.close().unwrap();
        },
    );
}

/// Both ends close at once, in either order, and both closes return Ok.
#[cfg(unix)]
#[test]
fn closes_meet() {
    test("closes_meet", || {
        for round in 0..50 {
            let (client, server) = links::sessions(over_smallest_buffers, &Config::new());
            let ends = if round % 2 == 0 { [client, server] } else { [server, client] };
            thread::scope(|scope| {
                for end in &ends {
                    scope.spawn(|| end.close().unwrap());
                    if round % 4 > 1 {
                        thread::yield_now();
                    }
                }
            });
        }
    });
}

// ---- new keys ----------------------------------------------------------------------------------

/// The peer sends 4 MiB, reads them back, and asks for new keys every 64 KiB. The session has to
/// send each answer between two records, while its writer is busy.
#[test]
fn new_keys_in_the_middle_of_both_directions_full() {
    test("new_keys_in_the_middle_of_both_directions_full", || {
        const SIZE: usize = 4 << 20;
        let (session, mut client, mut socket) = fixture();
        let echo = thread::spawn({
            let session = session.clone();
            move || {
                let stream = session.accept().unwrap();
                io::copy(&mut &stream, &mut &stream).unwrap();
            }
        });
        let data = Pattern::bytes(3, SIZE);
        let mut frames = frame(Command::Syn, b"keys");
        data.chunks(16 << 10).for_each(|chunk| frames.extend(frame(Command::Psh, chunk)));
        frames.extend(frame(Command::Fin, &[]));
        socket.set_nonblocking(true).unwrap();
        client.set_buffer_limit(Some(64 << 10));
        let mut sent = 0;
        let mut received = Vec::new();
        let mut updates = 0;
        let mut back = Vec::new();
        while back.len() < SIZE {
            if sent < frames.len() && !client.wants_write() {
                if sent > 0 {
                    client.refresh_traffic_keys().unwrap();
                    updates += 1;
                }
                sent += client.writer().write(&frames[sent..]).unwrap();
            }
            let wrote = client.write_tls(&mut socket);
            let read = client.read_tls(&mut socket);
            for moved in [&wrote, &read] {
                assert!(
                    moved.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::WouldBlock),
                    "{moved:?}"
                );
            }
            client.process_new_packets().unwrap();
            match client.reader().read_to_end(&mut received) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            let mut at = 0;
            while let Some(head) = received.get(at..at + 8) {
                let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
                let Some(payload) = received.get(at + 8..at + 8 + length) else { break };
                if head[1] == Command::Psh as u8 {
                    back.extend_from_slice(payload);
                }
                at += 8 + length;
            }
            received.drain(..at);
            if wrote.is_err() && read.is_err() {
                thread::yield_now();
            }
        }
        assert!(back == data && updates > 30, "{updates} updates");
        echo.join().unwrap();
    });
}

/// The session has nothing else to send. So the writer thread is woken only for the answer.
#[test]
fn new_keys_are_answered_by_a_session_that_is_silent() {
    test("new_keys_are_answered_by_a_session_that_is_silent", || {
        let (session, mut client, mut socket) = fixture();
        for _ in 0..20 {
            // rustls accepts 32 such answers without data between them.
            client.refresh_traffic_keys().unwrap();
            socket.write_all(&encrypted(&mut client, &frame(Command::Nop, &[]))).unwrap();
            let mut answer = [0; 1024];
            let n = socket.read(&mut answer).unwrap(); // Without an answer it blocks forever.
            assert_eq!(answer[0], 0x17);
            client.read_tls(&mut &answer[..n]).unwrap();
            client.process_new_packets().unwrap();
        }
        drop(session);
    });
}

/// rustls and BoringSSL end a connection after 33 changes of keys in a row without data between
/// them. An answer is such a change. So a peer that sends much data could end a session that never
/// sends anything.
#[test]
fn any_number_of_requests_for_new_keys_leaves_a_silent_session_alive() {
    test("any_number_of_requests_for_new_keys_leaves_a_silent_session_alive", || {
        let (session, mut client, mut socket) = fixture();
        for requests in 1..=1000 {
            client.refresh_traffic_keys().unwrap();
            socket.write_all(&encrypted(&mut client, &frame(Command::Nop, &[]))).unwrap();
            // Requests that are read together get one answer, so wait until this one was read.
            until(|| session.stats().frames_received == requests);
        }
        socket.write_all(&encrypted(&mut client, &frame(Command::Syn, b"keys"))).unwrap();
        let data = b"under the newest keys";
        let mut stream = session.accept().unwrap();
        stream.write_all(data).unwrap();
        let mut received = Vec::new();
        while !received.ends_with(data) {
            assert!(client.read_tls(&mut socket).unwrap() > 0);
            client.process_new_packets().unwrap();
            match client.reader().read_to_end(&mut received) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    });
}

/// The second request is read before the answer to the first was sent. Nothing would later remind
/// of the second. So the flush that sends the first answer sends the second too.
#[test]
fn a_flush_answers_all_requests_for_new_keys() {
    test("a_flush_answers_all_requests_for_new_keys", || {
        let (tls, mut client, mut socket) = handshake();
        let Halves { mut reader, mut writer, control, .. } = tls.split().unwrap();
        for byte in [b"1", b"2"] {
            client.refresh_traffic_keys().unwrap();
            socket.write_all(&encrypted(&mut client, byte)).unwrap();
            let mut came = [0; 9];
            let n = loop {
                match reader.read(&mut came) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    read => break read.unwrap(),
                }
            };
            assert_eq!(&came[..n], byte);
        }
        assert!(control.wants_flush());
        writer.flush().unwrap();
        assert!(!control.wants_flush());
        // One record of session tickets, then two answers. Without the second answer this blocks
        // forever.
        for _ in 0..1 + 2 {
            let mut head = [0; 5];
            socket.read_exact(&mut head).unwrap();
            assert_eq!(head[0], 0x17);
            let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            socket.read_exact(&mut body).unwrap();
        }
    });
}

// ---- odd, damaged, cut off ---------------------------------------------------------------------

/// Returns the encrypted frames of a stream that carries `data` and ends.
fn stream_of(client: &mut ClientConnection, data: &[u8]) -> Vec<u8> {
    let mut frames = frame(Command::Syn, b"fuzz");
    data.chunks(1000).for_each(|chunk| frames.extend(frame(Command::Psh, chunk)));
    frames.extend(frame(Command::Fin, &[]));
    // Each record has a few frames, so that there are many records.
    let mut bytes = Vec::new();
    frames.chunks(3000).for_each(|chunk| bytes.extend(encrypted(client, chunk)));
    bytes
}

/// Reads the only stream to its end. Returns its data, and whether it ended cleanly.
fn read_on(session: &Session) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    let Ok(mut stream) = session.accept() else { return (data, false) };
    let clean = stream.read_to_end(&mut data).is_ok();
    (data, clean)
}

#[test]
fn pieces_of_any_size_are_the_same_stream() {
    test("pieces_of_any_size_are_the_same_stream", || {
        for size in [1, 2, 3, 5, 7, 100, 3021, 4096, 100_000] {
            let (session, mut client, mut socket) = fixture();
            socket.set_nodelay(true).unwrap();
            let data = Pattern::bytes(5, 20_000);
            let bytes = stream_of(&mut client, &data);
            let writer = thread::spawn(move || {
                bytes.chunks(size).for_each(|piece| socket.write_all(piece).unwrap());
                socket
            });
            assert!(read_on(&session) == (data, true));
            let _ = writer.join().unwrap();
        }
    });
}

/// One bit is flipped, at any place. The data before it is read, and then there is an error. The
/// end is never a clean one.
#[test]
fn a_damaged_record_is_an_error_behind_what_came_before() {
    test("a_damaged_record_is_an_error_behind_what_came_before", || {
        let mut rng = Rng::new(1);
        for _ in 0..150 {
            let (session, mut client, mut socket) = fixture();
            let data = Pattern::bytes(5, 20_000);
            let mut bytes = stream_of(&mut client, &data);
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
            socket.write_all(&bytes).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let (read, clean) = read_on(&session);
            assert!(!clean && data.starts_with(&read), "bit flipped at {at}");
            let whole = at / 3022 * 3000; // Bytes of the frames in whole records before it.
            assert!(
                read.len() + 2000 >= whole.saturating_sub(whole / 100),
                "{} of {whole} came",
                read.len()
            );
            until(|| session.is_closed());
            let reason = session.close_reason().unwrap();
            assert!(!matches!(reason, Error::PeerClosed), "{reason}");
        }
    });
}

#[test]
fn a_cut_anywhere_is_an_error_behind_what_came_before() {
    test("a_cut_anywhere_is_an_error_behind_what_came_before", || {
        let mut rng = Rng::new(2);
        for _ in 0..100 {
            let (session, mut client, mut socket) = fixture();
            let data = Pattern::bytes(5, 20_000);
            let bytes = stream_of(&mut client, &data);
            let at = rng.below(bytes.len());
            socket.write_all(&bytes[..at]).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let (read, clean) = read_on(&session);
            assert!(!clean && data.starts_with(&read), "cut at {at}");
            until(|| session.is_closed());
            let reason = session.close_reason().unwrap();
            assert!(reason.to_string().contains("close_notify"), "{reason}");
        }
    });
}

/// Bytes after `close_notify` are ignored, in the same TCP segment or in a later one.
#[test]
fn junk_behind_the_end_is_ignored() {
    test("junk_behind_the_end_is_ignored", || {
        for later in [false, true] {
            let (session, mut client, mut socket) = fixture();
            let data = Pattern::bytes(5, 20_000);
            let mut bytes = stream_of(&mut client, &data);
            client.send_close_notify();
            bytes.extend(encrypted(&mut client, &[]));
            if later {
                socket.write_all(&bytes).unwrap();
                bytes.clear();
            }
            bytes.extend([0xa5; 8192]);
            // A later write may fail, because the session may have ended its side.
            assert!(socket.write_all(&bytes).is_ok() || later);
            assert!(read_on(&session) == (data, true));
            until(|| session.is_closed());
            assert!(matches!(session.close_reason(), Some(Error::PeerClosed)));
        }
    });
}

/// The peer is told of a fault by an alert, even after the session has begun.
#[test]
fn a_damaged_record_is_answered_by_an_alert() {
    test("a_damaged_record_is_answered_by_an_alert", || {
        for _ in 0..20 {
            let (session, mut client, mut socket) = fixture();
            let mut bytes = encrypted(&mut client, &frame(Command::Nop, &[]));
            *bytes.last_mut().unwrap() ^= 1;
            socket.write_all(&bytes).unwrap();
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer); // It may end by a reset.
            client.read_tls(&mut &answer[..]).unwrap();
            let error = client.process_new_packets().unwrap_err();
            assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
            drop(session);
        }
    });
}

//! Odd input: the effects in the table "Odd input" of `src/manual/protocol.md`, row by row. The
//! peer is a test that writes frames itself.
//!
//! After a fatal fault the error names the fault, and every stream fails with that error. Data that
//! was received before can still be read. Any other fault is answered as the table says, or is
//! counted, and the session goes on.
//!
//! Promises: P5, P7, P11, P12, P43, P63, P67, P69, P70, P71, P75, P85, P110, P113, P114.

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use gmux::wire::{Command, Frame, Header};
use gmux::{Config, Error, Session, Stream};
use support::raw::{End, Raw, against_client, against_server};
use support::{test, until};

const VERSIONS: [u8; 2] = [1, 2];

fn config(version: u8) -> Config {
    Config::new().version(version).keepalive_disabled(true)
}

/// Returns a frame with any header, which need not match its payload.
fn odd(version: u8, command: u8, length: u16, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![version, command];
    bytes.extend(length.to_le_bytes());
    bytes.extend(id.to_le_bytes());
    bytes.extend(payload);
    bytes
}

fn inner(error: io::Error) -> Error {
    Error::from(error)
}

fn read_all(mut stream: &Stream) -> (Vec<u8>, io::Result<usize>) {
    let mut data = Vec::new();
    let mut piece = [0; 1000];
    loop {
        match stream.read(&mut piece) {
            Ok(n @ 1..) => data.extend(&piece[..n]),
            end => return (data, end),
        }
    }
}

/// Sends `fault` to a session and checks that it ends the session. `check` returns whether an error
/// is the right one. The session has three streams:
///
/// - 3 has unread data
/// - 5 has unread data and the peer's FIN
/// - 7 has data, and waits to be accepted
fn is_fatal(version: u8, fault: &[u8], kind: ErrorKind, check: impl Fn(&Error, &Raw) -> bool) {
    // The fault comes in one piece with the frames before it, or later, byte by byte.
    for split in [false, true] {
        let (mut raw, session) = against_server(config(version), version);
        let version = |command, id, payload: &[u8]| {
            Frame::new(version, command, id, payload).unwrap().encode()
        };
        let mut before = Vec::new();
        for (id, name) in [(3, "cut off"), (5, "finished"), (7, "in the backlog")] {
            before.extend(version(Command::Syn, id, name.as_bytes()));
            before.extend(version(Command::Psh, id, format!("before, on {name}").as_bytes()));
        }
        before.extend(version(Command::Fin, 5, &[]));
        if split {
            raw.bytes(&before);
            until(|| session.stats().frames_received == 7);
            for byte in fault {
                let _ = raw.try_bytes(&[*byte]); // the session may end before the last byte
            }
        } else {
            before.extend(fault);
            raw.bytes(&before);
        }
        assert!(session.closed().recv().is_err());
        let right = |error: &Error| {
            assert!(check(error, &raw), "{error:?}: {error}");
            assert_eq!(error.kind(), kind);
        };
        right(&session.close_reason().unwrap());

        // The session still has all that it received before the fault: the streams, their data, and
        // the FIN.
        let streams: Vec<Stream> = (0..3).map(|_| session.accept().unwrap()).collect();
        for stream in &streams {
            let (data, end) = read_all(stream);
            assert_eq!(data, format!("before, on {}", stream.name()).as_bytes());
            match stream.id() {
                5 => assert_eq!(end.unwrap(), 0),
                _ => right(&inner(end.unwrap_err())),
            }
            assert!(stream.closed().recv().is_err()); // streams end one after the other
            right(&inner((&mut &*stream).write(b"x").unwrap_err()));
        }
        right(&session.accept().unwrap_err());
        right(&session.open("").unwrap_err());
        match session.incoming().collect::<Vec<_>>().as_slice() {
            [Err(error)] => right(error),
            other => panic!("one error was expected: {other:?}"),
        }
        let (frames, end) = raw.rest();
        assert!(frames.iter().all(|frame| frame.header.command == Command::Upd), "{frames:?}");
        assert_ne!(end, End::Cut);
    }
}

// ---- fatal faults -------------------------------------------------------------------------------

#[test]
fn another_version_is_fatal_and_the_error_names_both_and_the_peer() {
    test("another_version_is_fatal_and_the_error_names_both_and_the_peer", || {
        for ours in VERSIONS {
            for theirs in [3 - ours, 0, 3, 255] {
                is_fatal(ours, &odd(theirs, 3, 0, 0, b""), ErrorKind::InvalidData, |error, raw| {
                    let peer = raw.stream.local_addr().unwrap();
                    let text = error.to_string();
                    let names =
                        [format!("version {ours}"), format!("version {theirs}"), peer.to_string()];
                    names.iter().all(|name| text.contains(name))
                        && matches!(
                            *error,
                            Error::InvalidVersion { ours: o, theirs: t, peer: p, .. }
                                if (o, t, p) == (ours, theirs, Some(peer))
                        )
                });
            }
        }
    });
}

/// P85: the text is a banner before the first frame, or a prompt that is shorter than a header and
/// followed by nothing. The error shows it and says where it may come from.
#[test]
fn text_in_a_frames_place_is_shown_and_the_error_says_what_to_do() {
    test("text_in_a_frames_place_is_shown_and_the_error_says_what_to_do", || {
        for version in VERSIONS {
            for text in ["Welcome to Debian GNU/Linux\r\nLast login: never\r\n", "$ "] {
                let (mut raw, session) = against_client(config(version), version);
                let mut stream = session.open("who is there?").unwrap();
                raw.bytes(text.as_bytes()); // the peer waits for an answer then
                let error = inner(stream.read(&mut [0]).unwrap_err());
                assert_eq!(error.kind(), ErrorKind::InvalidData);
                let said = error.to_string();
                let first = text.chars().next().unwrap();
                let expected = [
                    &format!("version {version}"),
                    "no frame, but text",
                    "login banner",
                    "standard error",
                ];
                assert!(expected.iter().all(|part| said.contains(*part)), "{said}");
                match error {
                    Error::InvalidVersion { received, .. } => {
                        assert!(
                            text.as_bytes().starts_with(&received) && received[0] == first as u8
                        );
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

#[test]
fn with_different_versions_the_end_that_receives_first_names_both() {
    test("with_different_versions_the_end_that_receives_first_names_both", || {
        for client_begins in [true, false] {
            let (client, server) = support::pair_of(config(1), config(2));
            let (speaker, listener) =
                if client_begins { (client, server) } else { (server, client) };
            let stream = speaker.open("hello").unwrap();
            match (client_begins, listener.accept().unwrap_err()) {
                (true, Error::InvalidVersion { ours: 2, theirs: 1, peer: Some(_), .. }) => {}
                (false, Error::InvalidVersion { ours: 1, theirs: 2, peer: Some(_), .. }) => {}
                (_, error) => panic!("{error:?}"),
            }
            // The listener has sent nothing, so the speaker's error can only ask about the setup.
            let version = if client_begins { 1 } else { 2 };
            asks_about_setup((&stream).read(&mut [0]).unwrap_err(), version, client_begins);
        }
    });
}

#[test]
fn an_unknown_command_is_fatal_and_the_error_has_the_byte() {
    test("an_unknown_command_is_fatal_and_the_error_has_the_byte", || {
        for version in VERSIONS {
            for command in [5, 0x42, 255] {
                // The payload must not be taken for frames.
                is_fatal(
                    version,
                    &odd(version, command, 3, 3, b"abc"),
                    ErrorKind::InvalidData,
                    |error, _| {
                        error.to_string().contains(&format!("{command:#04x}"))
                            && matches!(*error, Error::InvalidCommand(byte) if byte == command)
                    },
                );
            }
        }
    });
}

#[test]
fn another_protocol_altogether_is_fatal() {
    test("another_protocol_altogether_is_fatal", || {
        for version in VERSIONS {
            for text in [
                &b"GET / HTTP/1.1\r\n\r\n"[..],
                b"SSH-2.0-OpenSSH_9.9\r\n",
                &[0xff; 100],
                &[0; 100],
            ] {
                is_fatal(version, text, ErrorKind::InvalidData, |error, _| {
                    matches!(error, Error::InvalidCommand(_) | Error::InvalidVersion { .. })
                });
            }
        }
    });
}

#[test]
fn frames_of_the_wrong_length_are_fatal_and_the_error_shows_the_frame() {
    test("frames_of_the_wrong_length_are_fatal_and_the_error_shows_the_frame", || {
        let mut cases = Vec::new();
        for version in VERSIONS {
            for length in [1, 8, 65535] {
                cases.push((version, Command::Fin, length, "FIN has no payload"));
                cases.push((version, Command::Nop, length, "NOP has no payload"));
            }
        }
        for length in [0, 7, 9, 65535] {
            cases.push((2, Command::Upd, length, "UPD has a payload of 8 bytes"));
        }
        for length in [0, 8] {
            cases.push((1, Command::Upd, length, "UPD is a frame of version 2"));
        }
        for (version, command, length, why) in cases {
            // The header alone shows the fault, so no payload is waited for.
            is_fatal(
                version,
                &odd(version, command as u8, length, 3, b""),
                ErrorKind::InvalidData,
                |error, _| {
                    let header = Header { version, command, length, stream_id: 3 };
                    let text = error.to_string();
                    text.contains(why)
                        && text.contains(&header.to_string())
                        && matches!(
                            error,
                            Error::InvalidProtocol { frame, reason }
                                if *frame == header && *reason == why
                        )
                },
            );
        }
    });
}

fn asks_about_roles(error: &Error, id: u32) -> bool {
    error.to_string().contains("are both ends clients")
        && matches!(
            error,
            Error::InvalidProtocol { frame, .. }
                if frame.stream_id == id && frame.command == Command::Syn
        )
}

#[test]
fn a_syn_with_our_parity_is_fatal_and_the_error_asks_about_roles() {
    test("a_syn_with_our_parity_is_fatal_and_the_error_asks_about_roles", || {
        for version in VERSIONS {
            for id in [0, 2, 4, 0xffff_fffe] {
                for name in ["", "name"] {
                    let syn = Frame::new(version, Command::Syn, id, name).unwrap().encode();
                    is_fatal(version, &syn, ErrorKind::InvalidData, |error, _| {
                        asks_about_roles(error, id)
                    });
                }
            }
            let (mut raw, session) = against_client(config(version), version);
            raw.syn(1, "");
            assert!(asks_about_roles(&session.accept().unwrap_err(), 1));
        }
    });
}

/// The error is about the roles, even if the name is too long as well.
#[test]
fn a_syn_with_our_parity_and_a_name_that_is_too_long_is_fatal_too() {
    test("a_syn_with_our_parity_and_a_name_that_is_too_long_is_fatal_too", || {
        let (mut raw, session) = against_server(config(1).max_name_len(4), 1);
        raw.syn(2, "too long");
        assert!(asks_about_roles(&session.accept().unwrap_err(), 2));
    });
}

#[test]
fn two_clients_or_two_servers_are_told_about_their_roles() {
    test("two_clients_or_two_servers_are_told_about_their_roles", || {
        for clients in [true, false] {
            let start = |transport| match clients {
                true => Session::client(transport, config(1)).unwrap(),
                false => Session::server(transport, config(1)).unwrap(),
            };
            let (a, b) = support::tcp();
            let a = start(a);
            let b = start(b);
            let stream = a.open("").unwrap();
            assert!(asks_about_roles(&b.accept().unwrap_err(), stream.id()));
            asks_about_setup((&stream).read(&mut [0]).unwrap_err(), 1, clients);
        }
    });
}

/// Checks that an error asks about the version, the roles and the names.
fn asks_about_setup(error: io::Error, version: u8, is_client: bool) {
    let kind = error.kind();
    assert!(
        matches!(
            kind,
            ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
        "{kind}"
    );
    let text = error.to_string();
    let role = if is_client { "client" } else { "server" };
    let asked = [
        &format!("configured for version {version}"),
        &format!("this end is the {role}"),
        "unnamed",
    ];
    assert!(asked.iter().all(|question| text.contains(*question)), "{text}");
    assert!(inner(error).is_session_over());
}

/// P85: for example, Go's smux closes the connection when it receives a SYN with a payload.
#[test]
fn an_end_before_anything_came_asks_about_version_roles_and_names() {
    test("an_end_before_anything_came_asks_about_version_roles_and_names", || {
        for version in VERSIONS {
            for reset in [false, true] {
                let (mut raw, session) = against_client(config(version), version);
                let mut stream = session.open("named").unwrap();
                if reset {
                    // unread input at its close makes a socket reset
                    raw.stream.peek(&mut [0]).unwrap();
                } else {
                    raw.expect(Command::Syn, 3);
                }
                drop(raw);
                asks_about_setup(stream.read(&mut [0]).unwrap_err(), version, true);
                // A write may be the call that notices the end.
                let (mut raw, session) = against_server(config(version), version);
                let mut stream = session.open("named").unwrap();
                raw.expect(Command::Syn, 2);
                drop(raw);
                let error = std::iter::repeat_with(|| stream.write(&[0; 10_000]))
                    .find_map(Result::err)
                    .unwrap();
                asks_about_setup(error, version, false);
            }
            // The peer has sent a frame, so version and roles are right, and the error asks
            // nothing.
            let (mut raw, session) = against_client(config(version), version);
            let mut stream = session.open("named").unwrap();
            raw.expect(Command::Syn, 3);
            raw.nop();
            raw.finish();
            let text = stream.read(&mut [0]).unwrap_err().to_string();
            assert!(
                text.contains("1 stream of this end was open") && !text.contains('?'),
                "{text}"
            );
        }
        // No stream was open, so the peer's end is clean.
        let (raw, session) = against_server(config(1), 1);
        drop(raw);
        assert!(matches!(session.accept(), Err(Error::PeerClosed)));
    });
}

// ---- the end of the transport -------------------------------------------------------------------

#[test]
fn an_end_inside_a_frame_is_an_error_for_every_stream_without_fin() {
    test("an_end_inside_a_frame_is_an_error_for_every_stream_without_fin", || {
        for version in VERSIONS {
            let psh = Frame::new(version, Command::Psh, 3, [7; 20_000]).unwrap().encode();
            let small = Frame::new(version, Command::Psh, 3, *b"small").unwrap().encode();
            let unknown = Frame::new(version, Command::Psh, 99, [7; 20_000]).unwrap().encode();
            let name = Frame::new(version, Command::Syn, 9, [b'n'; 4096]).unwrap().encode();
            let cuts: [(&[u8], usize); 9] = [
                (&psh, 1),
                (&psh, 7),
                (&psh, 8), // exactly the header
                (&psh, 9),
                (&psh, 20_007),
                (&small, 10),
                (&unknown, 5000),
                (&name, 8),
                (&name, 4000),
            ];
            for (frame, cut) in cuts {
                let (mut raw, session) = against_server(config(version), version);
                raw.syn(3, "");
                raw.psh(3, "before");
                raw.syn(5, "");
                raw.psh(5, "before");
                raw.fin(5);
                raw.bytes(&frame[..cut]);
                raw.finish();
                assert!(session.closed().recv().is_err());
                let lost = |error: &Error| {
                    assert!(
                        matches!(error, Error::ConnectionLost(lost) if lost.inside_frame),
                        "{error:?}"
                    );
                    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
                };
                lost(&session.close_reason().unwrap());
                let cut_off = session.accept().unwrap();
                let finished = session.accept().unwrap();
                // The received part of the cut frame can be read, and so can everything before it.
                let came = if frame == psh || frame == small {
                    frame.get(8..cut).unwrap_or_default()
                } else {
                    &[]
                };
                let (data, end) = read_all(&cut_off);
                assert!(data == [b"before", came].concat(), "{} bytes of {cut}", data.len());
                lost(&inner(end.unwrap_err()));
                let (data, end) = read_all(&finished);
                assert_eq!((&data[..], end.unwrap()), (&b"before"[..], 0));
                lost(&session.accept().unwrap_err());
            }
        }
    });
}

#[test]
fn an_end_inside_a_frame_is_an_error_even_with_no_stream() {
    test("an_end_inside_a_frame_is_an_error_even_with_no_stream", || {
        let (mut raw, session) = against_server(config(1), 1);
        raw.bytes(&[1, 3, 0]);
        raw.finish();
        let error = session.accept().unwrap_err();
        assert!(matches!(error, Error::ConnectionLost(lost) if lost.inside_frame), "{error:?}");
    });
}

#[test]
fn an_end_between_frames_with_open_streams_is_an_error_on_those_without_fin() {
    test("an_end_between_frames_with_open_streams_is_an_error_on_those_without_fin", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version), version);
            raw.syn(3, "");
            raw.psh(3, "before");
            raw.syn(5, "");
            raw.fin(5);
            let ours = session.open("ours").unwrap();
            assert_eq!(raw.expect(Command::Syn, 2), b"ours");
            let more = session.open("more").unwrap();
            assert_eq!(raw.expect(Command::Syn, 4), b"more");
            raw.finish();
            let cut_off = session.accept().unwrap();
            let finished = session.accept().unwrap();
            let (data, end) = read_all(&cut_off);
            assert_eq!(data, b"before");
            let error = end.unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::ConnectionAborted,
                "not UnexpectedEof, which read_exact uses for itself"
            );
            let error = inner(error);
            assert!(
                matches!(&error, Error::ConnectionLost(lost) if (lost.ours, lost.theirs) == (2, 1)),
                "{error:?}"
            );
            let text = error.to_string();
            assert!(text.contains("2 streams of this end and 1 of the peer's were open"), "{text}");
            assert!(!text.contains('?'), "versions and roles agree: {text}");
            assert_eq!((&finished).read(&mut [0]).unwrap(), 0);
            assert!(matches!(inner((&ours).read(&mut [0]).unwrap_err()), Error::ConnectionLost(_)));
            drop(more);
            assert!(matches!(session.accept(), Err(Error::ConnectionLost(_))));
        }
    });
}

#[test]
fn an_end_between_frames_with_nothing_cut_off_is_clean() {
    test("an_end_between_frames_with_nothing_cut_off_is_clean", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version), version);
            raw.syn(3, "");
            raw.psh(3, "all");
            raw.fin(3);
            raw.finish();
            let stream = session.accept().unwrap();
            let (data, end) = read_all(&stream);
            assert_eq!((&data[..], end.unwrap()), (&b"all"[..], 0));
            assert!(matches!(session.accept(), Err(Error::PeerClosed)));
            assert_eq!(session.incoming().count(), 0);
            assert!(matches!(session.close_reason(), Some(Error::PeerClosed)));
            session.close().unwrap(); // the peer's clean end isn't an error of the close
        }
    });
}

// ---- SYN ----------------------------------------------------------------------------------------

#[test]
fn a_syn_for_an_open_id_is_ignored_and_counted() {
    test("a_syn_for_an_open_id_is_ignored_and_counted", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version), version);
            raw.syn(3, "first");
            let stream = session.accept().unwrap();
            // The second SYN has no name, a short name, or a name that takes more than one read.
            for name in [&b""[..], b"second", &[b'n'; 4096]] {
                raw.syn(3, name);
                raw.psh(3, "!");
                assert_eq!((&stream).read(&mut [0; 9]).unwrap(), 1);
            }
            assert_eq!(stream.name(), "first");
            raw.assert_alive(&session, 5);
            let stats = session.stats();
            assert_eq!(
                (stats.frames_ignored, stats.streams_refused, stats.streams_received),
                (3, 0, 2)
            );
        }
    });
}

/// If this SYN were refused, the FIN would end the open stream.
#[test]
fn a_syn_for_an_open_id_with_a_name_that_is_too_long_is_ignored_too() {
    test("a_syn_for_an_open_id_with_a_name_that_is_too_long_is_ignored_too", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version).max_name_len(10), version);
            raw.syn(3, "first");
            let stream = session.accept().unwrap();
            raw.syn(3, [b'n'; 65535]);
            raw.assert_alive(&session, 5);
            let stats = session.stats();
            assert_eq!((stats.frames_ignored, stats.streams_refused), (1, 0));
            (&stream).write_all(b"still open").unwrap();
            assert_eq!(raw.expect_data(3, 10), b"still open");
        }
    });
}

#[test]
fn a_syn_for_an_id_that_was_closed_and_forgotten_opens_again() {
    test("a_syn_for_an_id_that_was_closed_and_forgotten_opens_again", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version), version);
            for round in ["first", "second", "third"] {
                raw.syn(3, round);
                raw.psh(3, round);
                raw.fin(3);
                let stream = session.accept().unwrap();
                assert_eq!(stream.name(), round);
                let (data, end) = read_all(&stream);
                assert_eq!((&data[..], end.unwrap()), (round.as_bytes(), 0));
                drop(stream);
                while raw.recv().header.command != Command::Fin {}
                // The stream is forgotten when its FIN has been handed over. A later frame of the
                // session shows that.
                let id = session.open("").unwrap().id();
                raw.expect(Command::Syn, id);
                raw.expect(Command::Fin, id);
            }
            assert_eq!(session.stats().frames_ignored, 0);
        }
    });
}

#[test]
fn syn_ids_may_come_out_of_order_and_be_0_or_1() {
    test("syn_ids_may_come_out_of_order_and_be_0_or_1", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version), version);
            for id in [9, 1, 0xffff_ffff, 5, 3] {
                raw.syn(id, id.to_string());
                let stream = session.accept().unwrap();
                assert_eq!((stream.id(), stream.name()), (id, &*id.to_string()));
            }
            let (mut raw, session) = against_client(config(version), version);
            for id in [8, 0, 0xffff_fffe, 2] {
                raw.assert_alive(&session, id);
            }
        }
    });
}

#[test]
fn past_the_backlog_a_stream_gets_fin_at_once_and_its_data_is_dropped() {
    test("past_the_backlog_a_stream_gets_fin_at_once_and_its_data_is_dropped", || {
        for version in VERSIONS {
            let config =
                config(version).accept_backlog(2).accept_stall_timeout(Some(Duration::ZERO));
            let (mut raw, session) = against_server(config, version);
            for id in [3, 5, 7, 9] {
                raw.syn(id, id.to_string());
                raw.psh(id, "data");
            }
            // Each refused stream gets a second FIN for its data, because the opener may have
            // missed the first.
            let mut refused = [(); 4].map(|()| raw.recv().header);
            refused.sort_by_key(|header| header.stream_id);
            assert!(refused.iter().all(|header| header.command == Command::Fin));
            assert_eq!(refused.map(|header| header.stream_id), [7, 7, 9, 9]);
            // The accepted streams lose nothing, and each `accept` makes room for one more.
            let streams = [3, 5].map(|id| {
                let stream = session.accept().unwrap();
                let mut data = [0; 4];
                (&stream).read_exact(&mut data).unwrap();
                assert_eq!((stream.id(), &data), (id, b"data"));
                stream
            });
            raw.assert_alive(&session, 7); // the peer may use a refused id again
            let stats = session.stats();
            assert_eq!(
                (stats.streams_refused, stats.streams_received, stats.frames_ignored),
                (2, 3, 2)
            );
            drop(streams);
        }
    });
}

#[test]
fn past_max_streams_a_stream_gets_fin_until_one_is_closed() {
    test("past_max_streams_a_stream_gets_fin_until_one_is_closed", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version).max_streams(2), version);
            let streams = [3, 5].map(|id| {
                raw.syn(id, "");
                session.accept().unwrap()
            });
            raw.syn(7, "one too many");
            raw.expect(Command::Fin, 7);
            // The streams that this end opens have a limit of their own.
            let ours = session.open("").unwrap();
            raw.expect(Command::Syn, ours.id());
            drop(ours);
            raw.expect(Command::Fin, 2);
            drop(streams);
            raw.expect(Command::Fin, 3);
            raw.expect(Command::Fin, 5);
            // The FINs have been handed over when a later frame of the session arrives.
            let _ = session.open("").unwrap();
            raw.expect(Command::Syn, 4);
            raw.expect(Command::Fin, 4);
            raw.assert_alive(&session, 7);
            assert_eq!(session.stats().streams_refused, 1);
        }
    });
}

#[test]
fn a_name_longer_than_max_name_len_is_refused_with_fin() {
    test("a_name_longer_than_max_name_len_is_refused_with_fin", || {
        for version in VERSIONS {
            for (max, too_long) in [(0, 1), (10, 11), (10, 65535), (4096, 4097), (60_000, 60_001)] {
                let (mut raw, session) = against_server(config(version).max_name_len(max), version);
                raw.syn(3, vec![b'n'; too_long]);
                raw.expect(Command::Fin, 3);
                raw.syn(5, vec![b'n'; max]);
                assert_eq!(session.accept().unwrap().name_bytes(), vec![b'n'; max]);
                raw.expect(Command::Fin, 5);
                let stats = session.stats();
                assert_eq!((stats.streams_refused, stats.streams_received), (1, 1));
            }
            let (mut raw, session) = against_server(config(version).max_name_len(65535), version);
            raw.syn(3, [0xfe; 65535]); // any bytes are allowed
            assert!(session.accept().unwrap().name_bytes() == [0xfe; 65535]);
        }
    });
}

#[test]
fn names_that_use_up_their_memory_are_refused_with_fin() {
    test("names_that_use_up_their_memory_are_refused_with_fin", || {
        // Names may occupy half of the receive budget.
        let config = config(1).max_receive_buffer(8192).max_stream_buffer(8192).max_name_len(1000);
        let (mut raw, session) = against_server(config, 1);
        for id in [3, 5, 7, 9, 11] {
            raw.syn(id, [b'n'; 1000]);
        }
        raw.expect(Command::Fin, 11);
        let streams = [(); 4].map(|()| session.accept().unwrap());
        raw.syn(13, [b'n'; 97]);
        raw.expect(Command::Fin, 13);
        drop(streams);
        for id in [3, 5, 7, 9] {
            raw.expect(Command::Fin, id);
        }
        let _ = session.open("").unwrap();
        raw.expect(Command::Syn, 2);
        raw.expect(Command::Fin, 2);
        raw.assert_alive(&session, 15);
        assert_eq!(session.stats().streams_refused, 2);
    });
}

#[test]
fn without_a_session_handle_the_backlog_and_later_streams_are_refused() {
    test("without_a_session_handle_the_backlog_and_later_streams_are_refused", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version), version);
            raw.syn(3, "lives on");
            let stream = session.accept().unwrap();
            raw.syn(5, "waits");
            until(|| session.stats().streams_received == 2);
            drop(session);
            raw.expect(Command::Fin, 5);
            raw.syn(7, "late");
            raw.expect(Command::Fin, 7);
            raw.psh(3, "!");
            assert_eq!((&stream).read(&mut [0; 9]).unwrap(), 1);
        }
    });
}

// ---- floods -------------------------------------------------------------------------------------

/// P71: the largest number of refusals that may wait to be sent.
const MOST_REFUSALS: u32 = 65_536;

/// Returns a session whose writer is stuck in the transport, with the largest number of refusals
/// queued.
fn refusing() -> (support::frame_peer::FramePeer, Session) {
    let (peer, transport) = support::frame_peer::frame_peer(1);
    peer.shut();
    let session = Session::server(transport, config(1).max_name_len(0)).unwrap();
    let _ = session.open("something to be stuck with").unwrap();
    peer.wait_stuck();
    for id in 0..MOST_REFUSALS {
        peer.syn(2 * id + 1, "n"); // longer than max_name_len, so it is refused
    }
    until(|| session.stats().streams_refused == u64::from(MOST_REFUSALS));
    assert!(!session.is_closed());
    (peer, session)
}

#[test]
fn refusals_that_cant_be_sent_end_the_session_when_they_are_too_many() {
    test("refusals_that_cant_be_sent_end_the_session_when_they_are_too_many", || {
        let (peer, session) = refusing();
        peer.syn(3, "one too many");
        let error = session.accept().unwrap_err();
        assert!(matches!(error, Error::Flood { refusals: 65_536 }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(peer.is_aborted());
    });
}

#[test]
fn all_refusals_up_to_the_limit_are_sent_when_the_transport_goes_on() {
    test("all_refusals_up_to_the_limit_are_sent_when_the_transport_goes_on", || {
        let (mut peer, session) = refusing();
        peer.open();
        assert_eq!(peer.recv().header.command, Command::Syn);
        let mut refused: Vec<u32> = Vec::new();
        while refused.len() < MOST_REFUSALS as usize {
            let header = peer.recv().header;
            assert_eq!(header.command, Command::Fin);
            if header.stream_id != 2 {
                refused.push(header.stream_id);
            }
        }
        assert!(refused.iter().zip(0..).all(|(&id, n)| id == 2 * n + 1), "once each, in order");
        peer.syn(3, "");
        assert_eq!(session.accept().unwrap().id(), 3);
    });
}

// ---- PSH ----------------------------------------------------------------------------------------

#[test]
fn empty_data_is_ignored() {
    test("empty_data_is_ignored", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version), version);
            raw.syn(3, "");
            let stream = session.accept().unwrap();
            raw.psh(3, "");
            raw.psh(99, ""); // a stream that doesn't exist
            raw.psh(3, "x");
            raw.psh(3, "");
            raw.fin(3);
            raw.psh(3, ""); // after its FIN
            let (data, end) = read_all(&stream);
            assert_eq!((&data[..], end.unwrap()), (&b"x"[..], 0));
            raw.assert_alive(&session, 5);
            assert_eq!(session.stats().frames_ignored, 0);
        }
    });
}

#[test]
fn data_for_an_unknown_stream_is_dropped_without_a_charge_or_an_answer() {
    test("data_for_an_unknown_stream_is_dropped_without_a_charge_or_an_answer", || {
        for version in VERSIONS {
            let budget = 300_000;
            let (mut raw, session) =
                against_server(config(version).max_receive_buffer(budget), version);
            // The budget is nearly used up, so any charge would stop the reader.
            raw.syn(3, "");
            for _ in 0..4 {
                raw.psh(3, [1; 65535]);
            }
            let stream = session.accept().unwrap();
            until(|| session.stats().bytes_received == 4 * 65535);
            let before = session.stats();
            for length in [1, 4096, 4097, 65535, 65535, 65535] {
                raw.psh(99, vec![9; length]); // the peer's parity
                raw.psh(98, vec![9; length]); // this end's parity
            }
            until(|| session.stats().frames_ignored == 12);
            let after = session.stats();
            assert_eq!(after.receive_buffered, before.receive_buffered);
            assert_eq!((after.receive_pauses, after.bytes_received), (0, before.bytes_received));
            let mut data = vec![0; 4 * 65535];
            (&stream).read_exact(&mut data).unwrap();
            assert!(data.iter().all(|&byte| byte == 1));
            // The next frame except an UPD is of this new stream, so there was no reply.
            raw.assert_alive(&session, 5);
        }
    });
}

#[test]
fn data_after_fin_is_dropped_and_counted() {
    test("data_after_fin_is_dropped_and_counted", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version), version);
            raw.syn(3, "");
            raw.psh(3, "before");
            raw.fin(3);
            raw.psh(3, "after");
            raw.psh(3, [9; 30_000]);
            let stream = session.accept().unwrap();
            until(|| session.stats().frames_ignored == 2);
            let (data, end) = read_all(&stream);
            assert_eq!((&data[..], end.unwrap()), (&b"before"[..], 0));
            // The stream can still be written.
            (&stream).write_all(b"still open").unwrap();
            assert_eq!(raw.expect_data(3, 10), b"still open");
            raw.assert_alive(&session, 5);
        }
    });
}

#[test]
fn the_largest_frame_is_accepted_also_if_it_is_larger_than_the_budget() {
    test("the_largest_frame_is_accepted_also_if_it_is_larger_than_the_budget", || {
        let small = config(1).max_receive_buffer(1).max_stream_buffer(1);
        for (version, config) in [(1, config(1)), (2, config(2)), (1, small)] {
            let (mut raw, session) = against_server(config, version);
            let sent = support::Pattern::bytes(3, 2 * 65535);
            raw.syn(3, "");
            raw.psh(3, &sent[..65535]);
            raw.psh(3, &sent[65535..]);
            raw.fin(3);
            let (data, end) = read_all(&session.accept().unwrap());
            assert!(data == sent);
            assert_eq!(end.unwrap(), 0);
        }
    });
}

#[test]
fn frames_may_come_split_at_any_byte() {
    test("frames_may_come_split_at_any_byte", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version), version);
            let frame = |command, payload: &[u8]| {
                Frame::new(version, command, 3, payload).unwrap().encode()
            };
            let mut bytes = frame(Command::Syn, b"split");
            bytes.extend(frame(Command::Psh, b"data"));
            bytes.extend(Frame::new(version, Command::Nop, 0, []).unwrap().encode());
            bytes.extend(frame(Command::Fin, b""));
            for byte in bytes {
                raw.bytes(&[byte]);
            }
            let stream = session.accept().unwrap();
            assert_eq!(stream.name(), "split");
            let (data, end) = read_all(&stream);
            assert_eq!((&data[..], end.unwrap()), (&b"data"[..], 0));
            assert_eq!(session.stats().frames_received, 4);
        }
    });
}

// ---- FIN and UPD --------------------------------------------------------------------------------

#[test]
fn fin_and_upd_for_unknown_streams_and_a_second_fin_are_ignored_and_counted() {
    test("fin_and_upd_for_unknown_streams_and_a_second_fin_are_ignored_and_counted", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version), version);
            raw.syn(3, "");
            raw.fin(3);
            let stream = session.accept().unwrap();
            raw.fin(3);
            raw.fin(99);
            raw.fin(98);
            if version == 2 {
                raw.upd(99, 1000, 65536);
                raw.upd(98, 0, 0);
            }
            (&stream).write_all(b"open").unwrap();
            assert_eq!(raw.expect_data(3, 4), b"open");
            raw.assert_alive(&session, 5);
            assert_eq!(session.stats().frames_ignored, if version == 2 { 5 } else { 3 });
        }
    });
}

/// Such frames often cross with this end's FIN, so they are no fault of the peer.
#[test]
fn fin_and_upd_for_streams_that_ended_or_were_refused_are_not_counted() {
    test("fin_and_upd_for_streams_that_ended_or_were_refused_are_not_counted", || {
        for version in VERSIONS {
            let (mut raw, session) = against_server(config(version).max_name_len(10), version);
            raw.syn(3, "closed");
            session.accept().unwrap().close().unwrap();
            raw.expect(Command::Fin, 3);
            session.open("ours").unwrap().close().unwrap();
            raw.expect(Command::Syn, 2);
            raw.expect(Command::Fin, 2);
            raw.syn(5, "refused, for its name");
            raw.expect(Command::Fin, 5);
            until(|| session.streams().is_empty());
            for id in [3, 2, 5] {
                if version == 2 {
                    raw.upd(id, 0, 65536);
                }
                raw.fin(id);
            }
            raw.assert_alive(&session, 7);
            assert_eq!(session.stats().frames_ignored, 0);
        }
    });
}

#[test]
fn data_past_every_window_and_the_slack_fails_its_stream_alone() {
    test("data_past_every_window_and_the_slack_fails_its_stream_alone", || {
        // No UPD was sent yet, so the edge and the slack are both the initial window. A larger
        // configured window doesn't count before an UPD grants it.
        let (mut raw, session) = against_server(config(2), 2);
        raw.syn(3, "greedy");
        let stream = session.accept().unwrap();
        let allowed = 2 * gmux::INITIAL_WINDOW as usize;
        let sent = support::Pattern::bytes(7, allowed);
        for piece in sent.chunks(65535) {
            raw.psh(3, piece);
        }
        until(|| session.stats().bytes_received == allowed as u64);
        assert!(
            (&stream).flush().is_ok() && session.stats().streams_cut == 0,
            "the slack is allowed"
        );
        raw.psh(3, "!");
        raw.expect(Command::Fin, 3);
        raw.psh(3, "more is dropped");
        assert!((&stream).write(b"x").is_err());
        // The data that was received before the fault can be read.
        let (data, end) = read_all(&stream);
        assert!(data == sent);
        let error = end.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let text = error.to_string();
        match inner(error) {
            Error::Overrun { stream: 3, received, allowed: limit } => {
                assert_eq!((received, limit), (allowed as u64 + 1, allowed as u64), "{text}");
            }
            other => panic!("{other:?}"),
        }
        raw.assert_alive(&session, 5);
        let stats = session.stats();
        assert_eq!((stats.streams_cut, stats.frames_ignored), (1, 1));
    });
}

#[test]
fn an_update_for_more_than_was_sent_fails_its_stream_alone() {
    test("an_update_for_more_than_was_sent_fails_its_stream_alone", || {
        let (mut raw, session) = against_server(config(2), 2);
        raw.syn(3, "");
        raw.psh(3, "before");
        let stream = session.accept().unwrap();
        (&stream).write_all(b"0123456789").unwrap();
        assert_eq!(raw.expect_data(3, 10), b"0123456789");
        raw.upd(3, 10, 65536);
        raw.upd(3, 9, 1 << 30); // an older update
        raw.upd(3, 10, u32::MAX); // the largest window that a frame can name
        (&stream).write_all(b"still").unwrap();
        assert_eq!(raw.expect_data(3, 5), b"still");
        raw.upd(3, 16, 65536);
        raw.expect(Command::Fin, 3);
        let error = inner((&stream).write(b"x").unwrap_err());
        assert!(
            matches!(error, Error::Consumed { stream: 3, consumed: 16, sent: 15 }),
            "{error:?}"
        );
        let (data, end) = read_all(&stream);
        assert_eq!(data, b"before");
        assert_eq!(end.unwrap_err().kind(), ErrorKind::InvalidData);
        raw.assert_alive(&session, 5);
    });
}

// ---- this end -----------------------------------------------------------------------------------

#[test]
fn a_name_that_no_frame_can_carry_is_an_error_here_and_leaves_nothing_behind() {
    test("a_name_that_no_frame_can_carry_is_an_error_here_and_leaves_nothing_behind", || {
        for version in VERSIONS {
            let (mut raw, session) = against_client(config(version), version);
            let error = session.open(vec![b'n'; 65536]).unwrap_err();
            assert!(matches!(error, Error::NameTooLong { len: 65536, max: 65535 }), "{error:?}");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!((session.num_streams(), session.stats().streams_opened), (0, 0));
            // The longest name can have any bytes. The failed call used no id up.
            let stream = session.open([0xff; 65535]).unwrap();
            assert_eq!(stream.id(), 3);
            assert!(raw.expect(Command::Syn, 3) == [0xff; 65535]);
        }
    });
}

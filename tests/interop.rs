//! Tests of interoperation with Go's smux, in both versions and both roles, over loopback TCP.
//!
//! The peer is the program gopeer. `interop/README.md` describes its modes, and how it checks our
//! frames. A fault of ours that smux would silently tolerate makes gopeer exit with an error.
//!
//! Without Go, or without Debian's package of smux, the tests print `LEFT OUT` and do nothing. With
//! `GMUX_INTEROP=required` they fail instead.
//!
//! Promises: P12, P33, P37, P57, P108.

mod support;

#[path = "interop/peer.rs"]
mod peer;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use gmux::{Config, Error, Session, Stream};
use peer::{Case, Peer, Said};
use sha2::{Digest, Sha256};
use support::{Pattern, test, test_for};

/// Time limit of a test. gopeer's own watchdog is at 50 s, and building gopeer takes a while on a
/// fresh machine.
const WATCHDOG: Duration = Duration::from_secs(180);

/// Runs `body` if gopeer can be built.
fn interop(name: &str, body: impl FnOnce()) {
    test_for(name, WATCHDOG, || {
        if peer::is_there(name) {
            body();
        }
    });
}

/// Runs `body` for all versions and roles at once, for tests that mostly wait.
fn at_once(body: impl Fn(Case) + Sync) {
    thread::scope(|scope| {
        for case in Case::ALL {
            let body = &body;
            thread::Builder::new()
                .name(format!("{case:?}"))
                .spawn_scoped(scope, move || body(case))
                .unwrap();
        }
    });
}

/// Opens or accepts the only stream of the modes `bulk` and `close`. The opener sends a start byte
/// first, and the acceptor waits for it. This is needed because smux drops data that arrives before
/// its `OpenStream` has returned.
fn start(session: &Session, we_open: bool) -> Stream {
    if we_open {
        let mut stream = session.open("").unwrap();
        stream.write_all(b"S").unwrap();
        stream
    } else {
        let mut stream = session.accept().unwrap();
        assert_eq!(stream.name_bytes(), b"", "plain smux knows no names");
        expect(&mut stream, b'S');
        stream
    }
}

fn expect(stream: &mut Stream, byte: u8) {
    let mut came = [0];
    stream.read_exact(&mut came).unwrap();
    assert_eq!(came, [byte]);
}

fn expect_eof(mut stream: &Stream) {
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// Waits for the session's end, which has to be a clean end by the peer.
fn expect_clean_end(session: &Session) {
    session.closed().recv().unwrap_err();
    assert!(
        matches!(session.close_reason(), Some(Error::PeerClosed)),
        "{:?}",
        session.close_reason()
    );
}

// ---- streams ------------------------------------------------------------------------------------

const STREAMS: usize = 1000;
const MAX_LEN: u64 = 16 * 1024;

/// Sends a message: its length, its bytes, and their SHA-256. Returns the number of bytes.
fn send_message(mut stream: &Stream, number: u64) -> u64 {
    let mut random = [0; 8];
    Pattern::new(number).fill(&mut random);
    let body = Pattern::bytes(
        number,
        usize::try_from(u64::from_le_bytes(random) % (MAX_LEN + 1)).unwrap(),
    );
    let length = u32::try_from(body.len()).unwrap();
    let message = [&length.to_le_bytes()[..], &body, &Sha256::digest(&body)].concat();
    stream.write_all(&message).unwrap();
    u64::from(length)
}

fn receive_message(mut stream: &Stream) -> u64 {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let length = u32::from_le_bytes(length);
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).unwrap();
    let mut sum = [0; 32];
    stream.read_exact(&mut sum).unwrap();
    assert_eq!(sum[..], Sha256::digest(&body)[..], "the checksum of {length} bytes");
    u64::from(length)
}

fn streams(case: Case, we_open: bool) {
    let options = ["-count", &STREAMS.to_string(), "-maxlen", &MAX_LEN.to_string()];
    let opener = if we_open { "peer" } else { "go" };
    // The end that opens the streams also ends the session.
    let (peer, transport) = Peer::start(
        case,
        "streams",
        &[&options[..], &["-opener", opener, "-hangup", opener]].concat(),
    );
    let session = case.session(transport, Config::new());
    let total = AtomicU64::new(0);
    if we_open {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    while let number @ 0..STREAMS = next.fetch_add(1, SeqCst) {
                        let stream = session.open("").unwrap();
                        let sent = send_message(&stream, number as u64);
                        total.fetch_add(sent + receive_message(&stream), SeqCst);
                        expect_eof(&stream);
                    }
                });
            }
        });
        assert_eq!(session.num_streams(), 0);
        session.close().unwrap();
    } else {
        thread::scope(|scope| {
            for number in 0..STREAMS {
                let stream = session.accept().unwrap();
                let total = &total;
                scope.spawn(move || {
                    let came = receive_message(&stream);
                    total.fetch_add(came + send_message(&stream, number as u64), SeqCst);
                });
            }
        });
        expect_clean_end(&session);
    }
    let said = peer.finish();
    let verdict = format!("OK streams {STREAMS} bytes {}", total.into_inner());
    assert_eq!(said.events().last(), Some(&&*verdict), "{said:?}");
    let all = STREAMS as u64;
    assert_eq!(
        (said.wire("in", "syn"), said.wire("in", "fin")),
        (if we_open { all } else { 0 }, all)
    );
    let stats = session.stats();
    assert_eq!((stats.streams_refused, stats.streams_cut), (0, 0), "{stats:?}");
    if we_open {
        // When Go opens, our end closes first and then ignores Go's FIN. Here nothing is ignored.
        assert_eq!(stats.frames_ignored, 0, "{stats:?}");
    }
}

#[test]
fn a_thousand_streams_that_we_open_keep_their_checksums() {
    interop("a_thousand_streams_that_we_open_keep_their_checksums", || {
        Case::ALL.into_iter().for_each(|case| streams(case, true));
    });
}

#[test]
fn a_thousand_streams_that_go_opens_keep_their_checksums() {
    interop("a_thousand_streams_that_go_opens_keep_their_checksums", || {
        Case::ALL.into_iter().for_each(|case| streams(case, false));
    });
}

// ---- bulk ---------------------------------------------------------------------------------------

/// The bytes of [`Pattern`], made word by word. This is fast enough to make and check a quarter of
/// a gigabyte in a debug build.
struct Words(u64);

impl Words {
    /// Returns our data and the peer's. The opener sends the first, and the acceptor the second.
    fn ours_and_theirs(we_open: bool) -> (Self, Self) {
        if we_open { (Self(1), Self(2)) } else { (Self(2), Self(1)) }
    }

    fn fill(&mut self, out: &mut [u8]) {
        let (words, rest) = out.as_chunks_mut::<8>();
        assert!(rest.is_empty());
        for word in words {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            *word = (z ^ (z >> 31)).to_le_bytes();
        }
    }

    fn send(&mut self, mut stream: &Stream, bytes: usize) {
        let mut chunk = vec![0; 64 * 1024];
        for at in (0..bytes).step_by(chunk.len()) {
            let chunk = &mut chunk[..(bytes - at).min(64 * 1024)];
            self.fill(chunk);
            stream.write_all(chunk).unwrap();
        }
    }

    fn receive(&mut self, mut stream: &Stream, bytes: usize) {
        let mut chunk = vec![0; 64 * 1024];
        let mut expected = vec![0; 64 * 1024];
        for at in (0..bytes).step_by(chunk.len()) {
            let n = (bytes - at).min(64 * 1024);
            stream.read_exact(&mut chunk[..n]).unwrap();
            self.fill(&mut expected[..n]);
            assert!(chunk[..n] == expected[..n], "within 64 KiB of byte {at}");
        }
    }
}

#[test]
fn the_fast_pattern_is_the_pattern() {
    test("the_fast_pattern_is_the_pattern", || {
        let mut fast = vec![0; 4096];
        Words(7).fill(&mut fast[..1024]);
        let mut words = Words(7);
        words.fill(&mut fast[..8]);
        words.fill(&mut fast[8..]);
        assert_eq!(fast, Pattern::bytes(7, 4096));
    });
}

/// Sends and verifies `bytes` bytes, both at once.
fn exchange(stream: &Stream, we_open: bool, bytes: usize) {
    let (mut ours, mut theirs) = Words::ours_and_theirs(we_open);
    thread::scope(|scope| {
        scope.spawn(|| ours.send(stream, bytes));
        theirs.receive(stream, bytes);
    });
}

fn bulk(case: Case) {
    const BYTES: usize = 256 << 20;
    let (peer, transport) = Peer::start(case, "bulk", &["-bytes", &BYTES.to_string()]);
    let session = case.session(transport, Config::new());
    let mut stream = start(&session, case.we_open());
    exchange(&stream, case.we_open(), BYTES);
    stream.write_all(b"A").unwrap();
    expect(&mut stream, b'A');
    if !case.we_open() {
        expect_eof(&stream);
    }
    stream.close().unwrap();
    session.close().unwrap();
    let said = peer.finish();
    assert_eq!(said.events().last(), Some(&"OK bulk"), "{said:?}");
    let our_bytes = BYTES as u64 + 1 + u64::from(case.we_open());
    assert_eq!((said.wire("in", "bytes"), said.wire("in", "maxpsh")), (our_bytes, 32768));
    assert_eq!(said.wire("in", "upd") > 0, case.version == 2);
}

#[test]
fn a_quarter_gigabyte_each_way_at_once_arrives_intact_on_version_1() {
    interop("a_quarter_gigabyte_each_way_at_once_arrives_intact_on_version_1", || {
        Case::ALL.into_iter().filter(|case| case.version == 1).for_each(bulk);
    });
}

#[test]
fn a_quarter_gigabyte_each_way_at_once_arrives_intact_on_version_2() {
    interop("a_quarter_gigabyte_each_way_at_once_arrives_intact_on_version_2", || {
        Case::ALL.into_iter().filter(|case| case.version == 2).for_each(bulk);
    });
}

// ---- close --------------------------------------------------------------------------------------

const CLOSE_BYTES: usize = 100_000;
const ANSWER: usize = 10_000;

/// Starts a peer in the mode `close`. Returns it with our session and the stream after the start
/// byte.
fn closing(case: Case, options: &[&str]) -> (Peer, Session, Stream) {
    let (peer, transport) =
        Peer::start(case, "close", &[&["-bytes", &CLOSE_BYTES.to_string()], options].concat());
    let session = case.session(transport, Config::new());
    let stream = start(&session, case.we_open());
    (peer, session, stream)
}

/// Returns gopeer's lines in order, without the one with its address.
fn events(peer: Peer) -> Vec<String> {
    let said = peer.finish();
    said.events().into_iter().filter(|line| !line.starts_with("ADDR ")).map(String::from).collect()
}

#[test]
fn go_closes_first() {
    interop("go_closes_first", || {
        at_once(|case| {
            let (peer, session, stream) = closing(case, &["-who", "go"]);
            let (mut ours, mut theirs) = Words::ours_and_theirs(case.we_open());
            theirs.receive(&stream, CLOSE_BYTES);
            expect_eof(&stream);
            // For Go a full close and a half-close look the same. It has forgotten the stream, but
            // we may still write.
            ours.send(&stream, ANSWER);
            stream.close().unwrap();
            expect_clean_end(&session);
            assert_eq!(
                events(peer),
                ["SENT 100000", "CLOSED", "PEERFIN", "SESSION closed here", "OK close"]
            );
        });
    });
}

#[test]
fn go_ends_the_session_right_after_its_stream() {
    interop("go_ends_the_session_right_after_its_stream", || {
        at_once(|case| {
            let (peer, session, stream) =
                closing(case, &["-who", "go", "-abrupt", "-linger", "1s"]);
            Words::ours_and_theirs(case.we_open()).1.receive(&stream, CLOSE_BYTES);
            expect_eof(&stream);
            expect_clean_end(&session);
            assert_eq!(events(peer), ["SENT 100000", "CLOSED", "SESSION closed here", "OK close"]);
        });
    });
}

#[test]
fn we_close_first_and_still_read_the_answer() {
    interop("we_close_first_and_still_read_the_answer", || {
        at_once(|case| {
            let (peer, session, stream) = closing(case, &["-who", "peer"]);
            let (mut ours, mut theirs) = Words::ours_and_theirs(case.we_open());
            ours.send(&stream, CLOSE_BYTES);
            stream.shutdown(Shutdown::Write).unwrap();
            theirs.receive(&stream, ANSWER);
            expect_eof(&stream);
            session.close().unwrap();
            let said = events(peer);
            assert_eq!(
                said,
                ["READ 100000", "EOF", "SENT 10000", "CLOSED", "SESSION EOF", "OK close"]
            );
        });
    });
}

#[test]
fn both_close_at_once() {
    interop("both_close_at_once", || {
        at_once(|case| {
            let (peer, session, mut stream) = closing(case, &["-who", "both"]);
            exchange(&stream, case.we_open(), CLOSE_BYTES);
            if case.we_open() {
                stream.write_all(b"B").unwrap();
                expect(&mut stream, b'B');
            } else {
                expect(&mut stream, b'B');
                stream.write_all(b"B").unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
            expect_eof(&stream);
            stream.close().unwrap();
            session.close().unwrap();
            let mut said = events(peer);
            said[..2].sort();
            let expected = [
                "READ 100000",
                "SENT 100000",
                "CLOSED",
                "PEERFIN",
                "SESSION closed here",
                "OK close",
            ];
            assert_eq!(said, expected);
        });
    });
}

/// Go's gmux and smux report this as a clean end of file.
#[test]
fn a_stream_that_go_cuts_off_is_an_error_after_all_its_data() {
    interop("a_stream_that_go_cuts_off_is_an_error_after_all_its_data", || {
        at_once(|case| {
            let (peer, session, stream) = closing(case, &["-who", "cut", "-linger", "1s"]);
            Words::ours_and_theirs(case.we_open()).1.receive(&stream, CLOSE_BYTES);
            let error = (&stream).read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted, "{error}");
            assert!(
                matches!(session.close_reason(), Some(Error::ConnectionLost(_))),
                "{:?}",
                session.close_reason()
            );
            assert_eq!(events(peer), ["SENT 100000", "SESSION closed here", "OK close"]);
        });
    });
}

#[test]
fn a_session_that_we_close_sends_all_data_and_no_fin_for_open_streams() {
    interop("a_session_that_we_close_sends_all_data_and_no_fin_for_open_streams", || {
        at_once(|case| {
            let (peer, session, stream) = closing(case, &["-who", "peercut"]);
            Words::ours_and_theirs(case.we_open()).0.send(&stream, CLOSE_BYTES);
            session.close().unwrap();
            // smux can't distinguish this from an end of file. gopeer sees in the frames that no
            // FIN came.
            assert_eq!(events(peer), ["READ 100000", "EOF", "SESSION EOF", "OK close"]);
            drop(stream);
        });
    });
}

// ---- keepalive ----------------------------------------------------------------------------------

/// The session is idle for longer than the keepalive timeouts of both sides. smux checks once in
/// each `keeptimeout` whether anything has arrived since its last check.
#[test]
fn an_idle_session_lives_on_keepalives_alone() {
    const INTERVAL: Duration = Duration::from_millis(300);
    const TIMEOUT: Duration = Duration::from_secs(2);
    interop("an_idle_session_lives_on_keepalives_alone", || {
        at_once(|case| {
            let (peer, transport) = Peer::start(
                case,
                "keepalive",
                &["-intervals", "3", "-interval", "300ms", "-keeptimeout", "2s"],
            );
            let session = case.session(
                transport,
                Config::new().keepalive_interval(INTERVAL).keepalive_timeout(TIMEOUT),
            );
            if case.we_open() {
                // Wait for two of the longer timeouts. Only NOPs are sent and received meanwhile.
                thread::sleep(TIMEOUT * 2 + INTERVAL);
                let stats = session.stats();
                assert!(stats.frames_sent >= 3 && stats.frames_received >= 3, "{stats:?}");
                assert_eq!(
                    (stats.bytes_sent, stats.bytes_received, session.close_reason().is_none()),
                    (0, 0, true)
                );
                let mut stream = session.open("").unwrap();
                let sent = Pattern::bytes(1, 100);
                stream.write_all(&sent).unwrap();
                let mut back = vec![0; 100];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(back, sent);
                stream.close().unwrap();
            } else {
                let mut stream = session.accept().unwrap();
                let mut buf = [0; 100];
                while let n @ 1.. = stream.read(&mut buf).unwrap() {
                    stream.write_all(&buf[..n]).unwrap();
                }
                stream.close().unwrap();
            }
            session.close().unwrap();
            let said = peer.finish();
            assert_eq!(said.events().last(), Some(&"OK keepalive"), "{said:?}");
            assert!(said.wire("in", "nop") >= 3 && said.wire("out", "nop") >= 3, "{said:?}");
        });
    });
}

// ---- versions -----------------------------------------------------------------------------------

#[test]
fn different_versions_are_named_with_the_peers_address() {
    interop("different_versions_are_named_with_the_peers_address", || {
        at_once(|case| {
            let (peer, transport) = Peer::start(case, "version", &["-opener", "go"]);
            let addr = transport.peer_addr().unwrap();
            let session =
                Case { version: 3 - case.version, ..case }.session(transport, Config::new());
            let error = session.accept().unwrap_err();
            match error {
                Error::InvalidVersion { ours, theirs, peer, .. } => {
                    assert_eq!((ours, theirs, peer), (3 - case.version, case.version, Some(addr)));
                }
                other => panic!("{other:?}"),
            }
            let text = error.to_string();
            for part in ["version 1", "version 2", &addr.to_string()] {
                assert!(text.contains(part), "{text}");
            }
            let open = session.open("").unwrap_err();
            assert!(matches!(open, Error::InvalidVersion { .. }), "{open}");
            let said = peer.finish();
            assert!(
                said.events()
                    .last()
                    .is_some_and(|line| line.starts_with("ERR ") && *line != "ERR timeout"),
                "{said:?}"
            );
        });
    });
}

/// Go doesn't report a wrong version, and our side sees only the connection's end. It isn't a clean
/// end, because the stream was cut off.
#[test]
fn go_ends_a_session_of_another_version() {
    interop("go_ends_a_session_of_another_version", || {
        at_once(|case| {
            let (peer, transport) = Peer::start(case, "version", &["-opener", "peer"]);
            let session =
                Case { version: 3 - case.version, ..case }.session(transport, Config::new());
            let mut stream = session.open("").unwrap();
            let error = Error::from(stream.read(&mut [0]).unwrap_err());
            assert!(matches!(error, Error::ConnectionLost(_)), "{error:?}");
            let said = peer.finish();
            assert_eq!(said.events().last(), Some(&"ERR invalid protocol"), "{said:?}");
        });
    });
}

// ---- names --------------------------------------------------------------------------------------

/// Opens a stream with this name, writes `hello`, and reads until Go is gone. Returns the bytes
/// read, the error at the end, and gopeer's output.
fn open_named(case: Case, name: &str) -> (Vec<u8>, Error, Said) {
    let (peer, transport) = Peer::start(case, "named", &["-opener", "peer", "-wait", "500ms"]);
    let session = case.session(transport, Config::new());
    let mut stream = session.open(name).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut back = Vec::new();
    let error = stream.read_to_end(&mut back).expect_err("Go ends without FIN");
    (back, error.into(), peer.finish())
}

#[test]
fn a_named_syn_stops_plain_smux() {
    interop("a_named_syn_stops_plain_smux", || {
        at_once(|case| {
            let (back, error, said) = open_named(case, "echo");
            assert!(matches!(error, Error::ConnectionLost(_) | Error::Io(_)), "{error:?}");
            // smux has both a stream and an error for its accept, and returns one of them by
            // chance. It reads no data.
            let mut wrote = false;
            for event in said.events() {
                let words: Vec<_> = event.split(' ').collect();
                match words[..] {
                    ["SAW", "accept" | "read", _, "error", "invalid", "protocol"] => {}
                    ["SAW", "accept", _, "stream", _]
                    | ["SAW", "open", "stream", _]
                    | ["OK", "named"] => {}
                    ["SAW", "write", "ok"] => wrote = true,
                    ["SAW", "session", state] => {
                        assert_eq!(state, "closed=false", "a zombie: it doesn't end by itself")
                    }
                    ["ADDR", _] => {}
                    _ => panic!("{event}: {said:?}"),
                }
            }
            // Its sending still works.
            assert_eq!(back, if wrote { &b"hello"[..] } else { b"" });
            assert_eq!((said.wire("in", "syn"), said.wire("in", "psh")), (1, 0), "{said:?}");
        });
    });
}

/// The same as [`a_named_syn_stops_plain_smux`], but without a name.
#[test]
fn an_unnamed_syn_is_what_plain_smux_expects() {
    interop("an_unnamed_syn_is_what_plain_smux_expects", || {
        at_once(|case| {
            let (back, error, said) = open_named(case, "");
            assert!(matches!(error, Error::ConnectionLost(_) | Error::Io(_)), "{error:?}");
            assert_eq!(back, b"hello");
            assert!(said.events().contains(&"SAW read 1 bytes \"hello\""), "{said:?}");
            assert!(said.events().contains(&"SAW accept 2 error timeout"), "{said:?}");
        });
    });
}

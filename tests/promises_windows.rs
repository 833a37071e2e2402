//! Version 2 windows, stalls, and keepalive while the session has stopped reading.
//!
//! Promises: P58, P73, P75, P76, P77, P78, P79.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gmux::wire::Command;
use gmux::{Config, Error, INITIAL_WINDOW, Session, Stream};
use support::raw::{Raw, against_client, against_server};
use support::scripted::{asleep, blocked, processed, quiet};
use support::{Pattern, pair, test, until};

const MIB: usize = 1 << 20;
const SHORT: Duration = Duration::from_millis(50);

/// Returns a version 2 session that has accepted stream 1 of a raw peer.
fn accepted(config: Config) -> (Raw, Session, Stream) {
    let (mut raw, session) = against_server(config.version(2), 2);
    raw.syn(1, "");
    let stream = session.accept().unwrap();
    (raw, session, stream)
}

/// Sends this number of bytes on a stream, in frames of 32768 bytes.
fn send(raw: &mut Raw, id: u32, mut bytes: usize) {
    while bytes > 0 {
        let n = bytes.min(32_768);
        raw.psh(id, vec![id as u8; n]);
        bytes -= n;
    }
}

/// Receives the next frame, which must be an UPD on stream `id`. Returns its two numbers, the
/// consumed bytes and the window.
fn update(raw: &mut Raw, id: u32) -> (usize, usize) {
    let payload = raw.expect(Command::Upd, id);
    let word = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().unwrap()) as usize;
    (word(0), word(4))
}

/// Checks that stream 1, on which the peer has sent one byte too many, has failed alone. The data
/// that it received before can be read.
fn fails_alone(raw: &mut Raw, session: &Session, mut stream: Stream, unread: usize) {
    raw.assert_alive(session, 101);
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).unwrap_err();
    assert_eq!((all.len(), error.kind()), (unread, ErrorKind::InvalidData));
    assert!(matches!(Error::from(error), Error::Overrun { stream: 1, .. }));
    assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!((session.stats().streams_cut, session.is_closed()), (1, false));
}

// ---- Version 2 windows --------------------------------------------------------------------------

/// P75: the peer may send up to the highest edge that was ever granted. Past that edge and the
/// largest window granted, the stream fails alone. Before any UPD, both numbers are 262144.
#[test]
fn before_any_update_the_edge_and_the_slack_are_the_initial_window() {
    test("before_any_update_the_edge_and_the_slack_are_the_initial_window", || {
        // The configured window has no effect before it is granted, whether it is smaller or
        // larger.
        for window in [1000, 65_536, 2 * MIB] {
            let (mut raw, session, stream) = accepted(quiet().max_stream_buffer(window));
            send(&mut raw, 1, 2 * INITIAL_WINDOW as usize);
            raw.assert_alive(&session, 99);
            assert_eq!(stream.closed().try_recv(), Err(crossbeam_channel::TryRecvError::Empty));
            raw.psh(1, "!");
            raw.expect(Command::Fin, 1);
            fails_alone(&mut raw, &session, stream, 2 * INITIAL_WINDOW as usize);
        }
    });
}

/// P75: a smaller window that is granted later doesn't lower the edge.
#[test]
fn a_smaller_window_granted_later_takes_nothing_back() {
    test("a_smaller_window_granted_later_takes_nothing_back", || {
        let (mut raw, session, mut stream) = accepted(quiet().max_stream_buffer(1000));
        send(&mut raw, 1, 5000);
        stream.read_exact(&mut [0; 5000]).unwrap();
        assert_eq!(update(&mut raw, 1), (5000, 1000));
        send(&mut raw, 1, 2 * INITIAL_WINDOW as usize - 5000);
        raw.assert_alive(&session, 99);
        assert_eq!(stream.closed().try_recv(), Err(crossbeam_channel::TryRecvError::Empty));
        raw.psh(1, "!");
        raw.expect(Command::Fin, 1);
        fails_alone(&mut raw, &session, stream, 2 * INITIAL_WINDOW as usize - 5000);
    });
}

/// P75: an UPD moves the edge to its consumed bytes plus its window. A larger window also moves the
/// limit past the edge.
#[test]
fn each_update_moves_the_edge_and_a_larger_window_the_slack() {
    test("each_update_moves_the_edge_and_a_larger_window_the_slack", || {
        let (mut raw, session, mut stream) = accepted(
            quiet().max_receive_buffer(8 * MIB).max_stream_buffer(MIB).max_stream_window(MIB),
        );
        send(&mut raw, 1, 30_000);
        stream.read_exact(&mut [0; 30_000]).unwrap();
        assert_eq!(update(&mut raw, 1), (30_000, MIB));
        // The edge is at 30,000 bytes and 1 MiB, and the stream fails 1 MiB past it.
        send(&mut raw, 1, 2 * MIB);
        raw.assert_alive(&session, 99);
        assert_eq!(stream.closed().try_recv(), Err(crossbeam_channel::TryRecvError::Empty));
        raw.psh(1, "!");
        raw.expect(Command::Fin, 1);
        fails_alone(&mut raw, &session, stream, 2 * MIB);
    });
}

/// P77: when more than half of the budget is granted, a new stream gets a small window by an UPD at
/// once.
#[test]
fn new_streams_get_a_small_window_while_half_the_budget_is_granted() {
    test("new_streams_get_a_small_window_while_half_the_budget_is_granted", || {
        let config = quiet()
            .version(2)
            .max_receive_buffer(4 * INITIAL_WINDOW as usize)
            .max_stream_buffer(5000);
        let (mut raw, session) = against_server(config.clone(), 2);
        let mut streams = Vec::new();
        for id in [1, 3, 5, 7, 9] {
            raw.syn(id, "");
            streams.push(session.accept().unwrap());
        }
        // The first two streams have half of the budget. With the third, more than half is granted,
        // so the next streams get a small window.
        assert_eq!(update(&mut raw, 7), (0, 5000));
        assert_eq!(update(&mut raw, 9), (0, 5000));
        // Closed streams have no grant. With two streams left, a new stream has the whole initial
        // window, so no UPD comes before its data.
        streams.truncate(2);
        for id in [5, 7, 9] {
            raw.expect(Command::Fin, id);
        }
        raw.syn(11, "");
        let mut stream = session.accept().unwrap();
        stream.write_all(b"x").unwrap();
        assert_eq!(raw.expect(Command::Psh, 11), b"x");

        // The same holds for streams that this end opens. UPD follows SYN.
        let (mut raw, session) = against_client(config, 2);
        let streams: Vec<_> = (0..4).map(|_| session.open("").unwrap()).collect();
        let frames: Vec<_> = (0..5)
            .map(|_| raw.recv())
            .map(|frame| (frame.header.command, frame.header.stream_id))
            .collect();
        let syn = |id| (Command::Syn, id);
        assert_eq!(frames, [syn(3), syn(5), syn(7), syn(9), (Command::Upd, 9)]);
        drop(streams);
    });
}

/// P76: this end's sender keeps to a small first window of the peer.
#[test]
fn a_small_first_window_limits_our_own_sender() {
    test("a_small_first_window_limits_our_own_sender", || {
        let (mut raw, session) = against_client(quiet().version(2), 2);
        let mut stream = session.open("").unwrap();
        raw.upd(3, 0, 5000);
        processed(&mut raw, &session, 1);
        assert_eq!(stream.write(&[0; 100_000]).unwrap(), 5000);
        raw.expect(Command::Syn, 3);
        raw.expect_data(3, 5000);
    });
}

/// P76: before their first UPD, streams send at most 1 MiB together. Beside that, each stream may
/// send its first 4096 to 16384 bytes, namely 2 MiB divided by the number of open streams within
/// these bounds. No stream sends more than 262144 bytes before its first UPD.
#[test]
fn unsolicited_data_is_a_mebibyte_together_and_a_share_for_each() {
    test("unsolicited_data_is_a_mebibyte_together_and_a_share_for_each", || {
        for (streams, share) in [(1, 16_384), (6, 16_384), (200, 2 * MIB / 200), (600, 4096)] {
            let (_raw, session) = against_client(quiet().version(2), 2);
            let streams: Vec<_> = (0..streams).map(|_| session.open("").unwrap()).collect();
            for (i, mut stream) in streams.iter().enumerate() {
                let first = INITIAL_WINDOW as usize;
                let sent = if i < 4 { first } else { share };
                assert_eq!(stream.write(&vec![i as u8; first + 1]).unwrap(), sent, "stream {i}");
                stream.set_nonblocking(true).unwrap();
                assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::WouldBlock);
                stream.set_nonblocking(false).unwrap();
            }
        }
    });
}

/// P76: the first UPD of a stream gives its unsolicited bytes back, and so does the end of a
/// stream. Other streams' writes that wait for them go on then. No frame for these other streams
/// arrives meanwhile.
#[test]
fn writes_that_wait_for_unsolicited_bytes_go_on_when_another_stream_gives_its_bytes_back() {
    test(
        "writes_that_wait_for_unsolicited_bytes_go_on_when_another_stream_gives_its_bytes_back",
        || {
            let (mut raw, session) = against_client(quiet().version(2), 2);
            let mut streams: Vec<_> = (0..6).map(|_| session.open("").unwrap()).collect();
            let first = INITIAL_WINDOW as usize;
            for (i, mut stream) in streams.iter().enumerate() {
                let sent = if i < 4 { first } else { 16_384 };
                assert_eq!(stream.write(&vec![0; first]).unwrap(), sent);
            }
            let ids: Vec<u32> = streams.iter().map(Stream::id).collect();
            let writes = [4, 5].map(|i| {
                let mut stream = streams[i].clone();
                let name = format!("unsolicited-{i}");
                let write = blocked(&name, move || stream.write(&vec![1; first]).unwrap());
                asleep(&name);
                write
            });
            let [one, other] = writes;
            // This grants no more than the bytes that were sent, so this stream itself may send no
            // more.
            // more.
            raw.upd(ids[0], 0, first as u32);
            assert_eq!(one.join().unwrap(), first - 2 * 16_384, "past the two shares");
            asleep("unsolicited-5");
            streams.remove(1).close().unwrap(); // FIN follows its accepted bytes
            while raw.recv().header.command != Command::Fin {}
            assert_eq!(other.join().unwrap(), first - 16_384);
        },
    );
}

/// P77: an announced window is at most half of the budget divided by the number of open streams, or
/// 8192 bytes if that is more.
#[test]
fn announced_windows_shrink_as_streams_become_many_and_come_back() {
    test("announced_windows_shrink_as_streams_become_many_and_come_back", || {
        let (mut raw, session) = against_server(quiet().version(2), 2);
        let open = |raw: &mut Raw, id: u32| {
            raw.syn(id, "");
            session.accept().unwrap()
        };
        let mut lone = open(&mut raw, 1);
        raw.psh(1, [1; 1000]);
        lone.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(update(&mut raw, 1), (1000, 65_536), "max_stream_buffer");
        let mut others = Vec::new();
        for (streams, read, window) in [(64, 32_768, 2 * MIB / 64), (300, 16_384, 8192)] {
            while others.len() < streams - 1 {
                let id = 3 + 2 * others.len() as u32;
                others.push(open(&mut raw, id));
                // From the tenth stream on, each new stream gets a small window at once, because
                // half of the budget is granted.
                if others.len() >= 9 {
                    assert_eq!(
                        update(&mut raw, id),
                        (0, (2 * MIB / (others.len() + 1)).clamp(8192, 16_384))
                    );
                }
            }
            send(&mut raw, 1, read); // half of its window, which makes one UPD
            lone.read_exact(&mut vec![0; read]).unwrap();
            assert_eq!(update(&mut raw, 1).1, window);
        }
        for stream in others {
            raw_fin(&mut raw, stream);
        }
        send(&mut raw, 1, 4096);
        lone.read_exact(&mut [0; 4096]).unwrap();
        assert!(update(&mut raw, 1).1 >= 65_536);
    });
}

/// Closes a stream, and waits until its FIN has come.
fn raw_fin(raw: &mut Raw, stream: Stream) {
    let id = stream.id();
    drop(stream);
    raw.expect(Command::Fin, id);
}

/// P73, and smux#18, #85 and #69: 17 echo streams on the default budget are all blocked in write,
/// because nobody reads the echo. When the program reads one of them, that one gets its whole echo,
/// though the sixteen others still hold their data. Then all others do. No stream is cut.
#[test]
fn one_of_17_blocked_echo_streams_gets_moving_alone_and_then_all_do() {
    const STREAMS: usize = 17;
    test("one_of_17_blocked_echo_streams_gets_moving_alone_and_then_all_do", || {
        let (client, server) = pair(quiet().version(2));
        let echo = thread::spawn(move || {
            let echoes: Vec<_> = (0..STREAMS)
                .map(|_| {
                    let stream = server.accept().unwrap();
                    thread::spawn(move || std::io::copy(&mut &stream, &mut &stream).unwrap())
                })
                .collect();
            echoes.into_iter().for_each(|echo| assert_eq!(echo.join().unwrap(), 2 * MIB as u64));
            server
        });
        let streams: Vec<_> = (0..STREAMS).map(|i| client.open(format!("{i}")).unwrap()).collect();
        let writers: Vec<_> = streams
            .iter()
            .enumerate()
            .map(|(i, stream)| {
                let stream = stream.clone();
                blocked(&format!("writer-{i}"), move || {
                    (&stream).write_all(&Pattern::bytes(i as u64, 2 * MIB)).unwrap();
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                })
            })
            .collect();
        (0..STREAMS).for_each(|i| support::scripted::asleep(&format!("writer-{i}")));
        let read_all = |i: usize| {
            let mut got = Vec::new();
            (&streams[i]).read_to_end(&mut got).unwrap();
            assert!(got == Pattern::bytes(i as u64, 2 * MIB), "stream {i}");
        };
        read_all(STREAMS - 1);
        assert!(
            writers[..STREAMS - 1].iter().all(|writer| !writer.is_finished()),
            "the others are still stuck"
        );
        thread::scope(|scope| {
            (0..STREAMS - 1).for_each(|i| {
                let _ = scope.spawn(move || read_all(i));
            })
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let server = echo.join().unwrap();
        for session in [client, server] {
            assert_eq!(session.stats().streams_cut, 0);
        }
    });
}

// ---- Stalls -------------------------------------------------------------------------------------

/// Returns a session that has stopped reading. Streams 1, 3 and 5 are sent 9, 15 and 8 frames of 32
/// KiB, which is more than the budget.
fn stalled(config: Config, version: u8) -> (Raw, Session, [Stream; 3], thread::JoinHandle<()>) {
    let (mut raw, session) =
        against_server(config.version(version).max_receive_buffer(MIB), version);
    let streams = [1, 3, 5].map(|id| {
        raw.syn(id, format!("{id}"));
        session.accept().unwrap()
    });
    let mut sender = Raw::new(raw.stream.try_clone().unwrap(), version);
    let sender = thread::spawn(move || {
        send(&mut sender, 1, 9 * 32_768);
        send(&mut sender, 3, 15 * 32_768);
        send(&mut sender, 5, 8 * 32_768);
    });
    until(|| session.stats().receive_pauses > 0);
    (raw, session, streams, sender)
}

/// P78: the stream that holds most is cut. Its unread data is dropped, its calls fail with
/// `Stalled`, and its peer gets FIN. The other streams go on.
#[test]
fn a_stall_cuts_the_stream_that_holds_most_and_the_others_go_on() {
    test("a_stall_cuts_the_stream_that_holds_most_and_the_others_go_on", || {
        for version in [1, 2] {
            let before = Instant::now();
            let (mut raw, session, streams, sender) =
                stalled(quiet().stall_timeout(Some(SHORT)), version);
            let [first, largest, third] = streams;
            assert!(largest.closed().recv().is_err());
            assert!(before.elapsed() >= SHORT);
            assert_eq!(session.stats().streams_cut, 1);
            let error = (&largest).read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            match Error::from(error) {
                Error::Stalled { held, after: SHORT } => assert!(held >= 15 * 32_768, "{held}"),
                other => panic!("{other}"),
            }
            let stalled = |error| matches!(Error::from(error), Error::Stalled { .. });
            assert!(stalled((&largest).write(b"x").unwrap_err()));
            assert!((&largest).flush().map_err(stalled) != Err(false));
            // The peer gets FIN, and the other streams have lost nothing.
            loop {
                let frame = raw.recv();
                match frame.header.command {
                    Command::Fin => break assert_eq!(frame.header.stream_id, 3),
                    _ => assert_eq!(frame.header.command, Command::Upd),
                }
            }
            for (id, stream, frames) in [(1, &first, 9), (5, &third, 8)] {
                let mut got = vec![0; frames * 32_768];
                let mut stream = stream;
                stream.read_exact(&mut got).unwrap();
                assert!(got.iter().all(|&byte| byte == id as u8));
                stream.write_all(b"echo").unwrap();
                assert_eq!(raw.expect_data(id, 4), b"echo");
            }
            sender.join().unwrap();
            raw.psh(3, "too late");
            raw.assert_alive(&session, 7);
            assert_eq!((session.stats().receive_buffered, session.stats().streams_cut), (0, 1));
            assert_eq!(session.num_streams(), 3, "the application hasn't closed it");
            drop(largest);
            assert_eq!(session.num_streams(), 2);
        }
    });
}

/// P78: a blocked write of the stream that is cut fails with `Stalled`, and the stream's notifier
/// is called.
#[test]
fn a_stall_wakes_a_blocked_write() {
    test("a_stall_wakes_a_blocked_write", || {
        let (_raw, session, streams, _sender) =
            stalled(quiet().stall_timeout(Some(Duration::from_secs(2))), 2);
        let mut stream = streams[1].clone();
        let (tell, told) = mpsc::channel();
        stream.set_close_notifier(move |_| {
            tell.send(thread::current().name().unwrap_or("").to_owned()).unwrap()
        });
        // The peer never grants more than the initial window, so the write blocks.
        let write = thread::spawn(move || stream.write_all(&[0; 1_000_000]).unwrap_err());
        let Error::PartialWrite { accepted, source } = Error::from(write.join().unwrap()) else {
            panic!()
        };
        assert!(accepted > 0 && matches!(*source, Error::Stalled { .. }));
        assert!(told.recv().unwrap().starts_with("gmux-notify-"));
        assert!(!session.is_closed());
    });
}

/// P79: if one cut doesn't free enough, the stream that then holds most is cut after the same time.
#[test]
fn stalls_go_on_until_the_session_moves() {
    test("stalls_go_on_until_the_session_moves", || {
        let (mut raw, session, streams, sender) = stalled(quiet().stall_timeout(Some(SHORT)), 1);
        sender.join().unwrap(); // the first cut made room for the sent frames
        assert!(streams[1].closed().recv().is_err());
        let more = thread::spawn(move || {
            send(&mut raw, 5, 30 * 32_768);
            raw
        });
        // Now stream 5 holds more than stream 1.
        assert!(streams[2].closed().recv().is_err());
        assert_eq!(session.stats().streams_cut, 2);
        (&streams[0]).read_exact(&mut vec![0; 9 * 32_768]).unwrap();
        let mut raw = more.join().unwrap();
        raw.expect(Command::Fin, 3);
        raw.expect(Command::Fin, 5);
        raw.assert_alive(&session, 7);
    });
}

/// P79: a session whose application reads now and then doesn't stall, because each read that makes
/// room ends the stall.
#[test]
fn a_slow_reader_is_not_cut() {
    test("a_slow_reader_is_not_cut", || {
        let stall = Duration::from_secs(2);
        let config = quiet().version(2).max_receive_buffer(262_144).stall_timeout(Some(stall));
        let (client, server) = pair(config);
        let mut ours = client.open("").unwrap();
        let writer = thread::spawn(move || {
            ours.write_all(&vec![1; 3 * MIB]).unwrap();
            ours.close().unwrap();
        });
        let mut theirs = server.accept().unwrap();
        let mut piece = vec![0; 100_000];
        let mut got = 0;
        while got < 3 * MIB {
            // Slowness is under test. All 30 reads together take longer than one stall.
            thread::sleep(stall / 20);
            theirs.read_exact(&mut piece[..100_000.min(3 * MIB - got)]).unwrap();
            got += 100_000.min(3 * MIB - got);
        }
        writer.join().unwrap();
        assert_eq!(server.stats().streams_cut, 0);
    });
}

/// P58: keepalive rests while the session has stopped reading, and starts again when it goes on.
#[test]
fn keepalive_rests_while_the_reader_is_paused_and_restarts_when_it_resumes() {
    test("keepalive_rests_while_the_reader_is_paused_and_restarts_when_it_resumes", || {
        // Each of the few steps before the session stops reading may take this long.
        let timeout = Duration::from_millis(1500);
        let config = quiet()
            .keepalive_disabled(false)
            .keepalive_interval(timeout / 10)
            .keepalive_timeout(timeout);
        let (mut raw, session) = against_server(config.max_receive_buffer(65_536), 1);
        raw.syn(1, "");
        let mut stream = session.accept().unwrap();
        // The session has already received the whole frame for which it needs room. When it goes
        // on, no byte comes from the transport.
        raw.psh(1, [0; 65_535]);
        raw.psh(1, [0; 100]);
        until(|| session.stats().receive_pauses > 0);
        thread::sleep(timeout * 2); // a pause longer than the keepalive timeout is under test
        assert!(!session.is_closed(), "{:?}", session.close_reason());
        let resumed = Instant::now();
        stream.read_exact(&mut [0; 65_635]).unwrap();
        assert!(session.closed().recv().is_err());
        assert!(matches!(session.close_reason(), Some(Error::KeepaliveTimeout(_))));
        assert!(resumed.elapsed() >= timeout, "the clock restarts: {:?}", resumed.elapsed());
        drop(raw);
    });
}

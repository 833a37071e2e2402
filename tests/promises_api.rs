//! The public interface: the rules of every setting, ids and names, the traits, the kinds of
//! errors, and the types that are `Send` and `Debug`.
//!
//! Promises: P5, P6, P8, P45, P84, P86, P87, P97, P109, P110, P117.

mod support;

use std::error::Error as _;
use std::fmt::Debug;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gmux::wire::{Command, Frame};
use gmux::{Config, Error, MuxConn, MuxStream, Session, SessionStats, Stream};
use support::raw::{against_client, against_server};
use support::scripted::{FAR, Script, quiet, quiet_versions};
use support::{pair, pair_of, tcp, test, until};

const fn is_shared<T: Send + Sync + Clone + Debug + 'static>() {}
const fn is_error<T: std::error::Error + Send + Sync + Clone + 'static>() {}
const fn is_mux<T: ?Sized + Send + Sync>() {}

/// `Session` and `Stream` are `Clone + Send + Sync + Debug`. `Stream` and `&Stream` are `Read` and
/// `Write`.
const _: () = {
    is_shared::<Session>();
    is_shared::<Stream>();
    is_shared::<Config>();
    is_shared::<SessionStats>();
    is_error::<Error>();
    is_mux::<dyn MuxConn>();
    is_mux::<dyn MuxStream>();
    const fn reads_and_writes<T: Read + Write>() {}
    reads_and_writes::<Stream>();
    reads_and_writes::<&Stream>();
};

/// P8: a configuration that breaks a rule is refused by `validate` and by the creation of a
/// session. The error, `Error::Config`, names the field, its value and the rule.
#[test]
fn every_rule_of_the_configuration_names_field_value_and_rule() {
    test("every_rule_of_the_configuration_names_field_value_and_rule", || {
        let c = Config::new;
        let zero = Duration::ZERO;
        let broken: Vec<(Config, &str, &str)> = vec![
            (c().version(0), "version", "0"),
            (c().version(3), "version", "3"),
            (c().keepalive_interval(zero), "keepalive_interval", "0ns"),
            (c().keepalive_timeout(Duration::from_secs(9)), "keepalive_timeout", "9s"),
            (c().max_frame_size(0), "max_frame_size", "0"),
            (c().max_frame_size(65_536), "max_frame_size", "65536"),
            (c().max_receive_buffer(0), "max_receive_buffer", "0"),
            (c().version(2).max_receive_buffer(262_143), "max_receive_buffer", "262143"),
            (c().version(2).max_stream_buffer(0), "max_stream_buffer", "0"),
            (c().version(2).max_stream_buffer(4_194_305), "max_stream_buffer", "4194305"),
            (
                c().version(2).max_receive_buffer(1 << 40).max_stream_buffer(1 << 31),
                "max_stream_buffer",
                "2147483648",
            ),
            (c().version(2).max_stream_window(4_194_305), "max_stream_window", "4194305"),
            (c().accept_backlog(0), "accept_backlog", "0"),
            (c().max_streams(0), "max_streams", "0"),
            (c().max_name_len(65_536), "max_name_len", "65536"),
            (c().max_send_buffer(0), "max_send_buffer", "0"),
            (c().close_timeout(zero), "close_timeout", "0ns"),
            (c().stall_timeout(Some(zero)), "stall_timeout", "Some(0ns)"),
            (c().half_close_stall(Some(zero)), "half_close_stall", "Some(0ns)"),
            (c().no_data_timeout(Some(zero)), "no_data_timeout", "Some(0ns)"),
        ];
        for (config, field, value) in broken {
            for error in
                [config.validate().unwrap_err(), Session::client(tcp().0, config).unwrap_err()]
            {
                let text = error.to_string();
                match &error {
                    Error::Config { field: f, value: v, rule } => {
                        assert_eq!((*f, v.as_str()), (field, value));
                        assert!(
                            !rule.is_empty()
                                && text.contains(field)
                                && text.contains(value)
                                && text.contains(rule)
                        );
                    }
                    other => panic!("{field}: {other}"),
                }
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
            }
        }
    });
}

/// P8: sessions with the smallest and the largest allowed values carry data.
#[test]
fn the_extremes_that_the_rules_allow_work() {
    test("the_extremes_that_the_rules_allow_work", || {
        let smallest = quiet()
            .max_frame_size(1)
            .max_receive_buffer(1)
            .max_stream_buffer(1)
            .max_send_buffer(1)
            .accept_backlog(1);
        let smallest = smallest.max_streams(1).max_name_len(0);
        let second = Config::new()
            .keepalive_interval(FAR)
            .keepalive_timeout(FAR)
            .max_frame_size(65_535)
            .max_name_len(65_535);
        let second = second
            .version(2)
            .max_receive_buffer(262_144)
            .max_stream_buffer(262_144)
            .stall_timeout(None);
        let second = second.half_close_stall(None).close_timeout(Duration::MAX);
        let third = Config::new()
            .keepalive_disabled(true)
            .keepalive_interval(Duration::ZERO)
            .keepalive_timeout(Duration::ZERO);
        for config in [smallest, second, third] {
            config.validate().unwrap();
            let (client, server) = pair(config);
            let mut ours = client.open("").unwrap();
            let writer = std::thread::spawn(move || {
                ours.write_all(&[7; 3000]).unwrap();
                ours
            });
            let mut got = vec![0; 3000];
            server.accept().unwrap().read_exact(&mut got).unwrap();
            assert!(got.iter().all(|&byte| byte == 7));
            let _ = writer.join().unwrap();
            client.close().unwrap();
            server.close().unwrap();
        }
    });
}

/// P8: the defaults are those of Go's gmux, as far as a peer can see them. They are version 1,
/// 32768 bytes a frame, a backlog of 1024, names of up to 4096 bytes, and no no-data timeout.
#[test]
fn the_defaults_are_those_of_gos_gmux() {
    test("the_defaults_are_those_of_gos_gmux", || {
        let (script, session) = Script::client(Config::default());
        let mut stream = session.open("").unwrap();
        script.blocked(); // the writer is stuck in the SYN, so it takes no data from the queue
        assert_eq!(stream.write(&[0; 300_000]).unwrap(), 262_144, "max_send_buffer");
        script.allow_all();
        script.eof();

        let (mut raw, session) = against_client(Config::default(), 1);
        let mut stream = session.open("").unwrap();
        raw.expect(Command::Syn, 3);
        stream.write_all(&[0; 262_144]).unwrap();
        let frames: Vec<_> = (0..8).map(|_| raw.expect(Command::Psh, 3).len()).collect();
        assert_eq!(frames, [32_768; 8]);
        assert_eq!((stream.no_data_timeout(), session.no_data_timeout()), (None, None));
        raw.syn(2, [b'n'; 4096]);
        raw.syn(4, [b'n'; 4097]);
        raw.expect(Command::Fin, 4);
        assert_eq!(session.accept().unwrap().name().len(), 4096);
        raw.expect(Command::Fin, 2);
        (0..1025).for_each(|i| raw.syn(6 + 2 * i, ""));
        raw.expect(Command::Fin, 6 + 2 * 1024);
    });
}

/// P6: the client's ids are 3, 5, 7 and so on. The server's ids are 2, 4, 6 and so on.
#[test]
fn ids_count_up_by_two_from_3_and_2() {
    test("ids_count_up_by_two_from_3_and_2", || {
        let (client, server) = pair(quiet());
        for i in 0..5 {
            let ours = client.open("c").unwrap();
            let theirs = server.open("s").unwrap();
            assert_eq!((ours.id(), theirs.id()), (3 + 2 * i, 2 + 2 * i));
            assert_eq!(
                (server.accept().unwrap().id(), client.accept().unwrap().id()),
                (3 + 2 * i, 2 + 2 * i)
            );
        }
    });
}

/// P5: `name_bytes` returns a name's exact bytes, and `name` replaces those that aren't UTF-8. A
/// name of 65535 bytes fits. With one byte more, `open` returns `NameTooLong` and uses no id up.
#[test]
fn names_are_any_bytes_up_to_a_frames_length() {
    test("names_are_any_bytes_up_to_a_frames_length", || {
        for config in quiet_versions() {
            let (client, server) = pair(config.max_name_len(65_535));
            let longest = vec![b'l'; 65_535];
            let names: [&[u8]; 5] =
                [b"", "plain".as_bytes(), "größer/🦀".as_bytes(), &[0xFF, 0, b'a', 0xC3], &longest];
            for name in names {
                let ours = client.open(name).unwrap();
                let theirs = server.accept().unwrap();
                for stream in [ours, theirs] {
                    assert_eq!(stream.name_bytes(), name);
                    assert_eq!(stream.name(), String::from_utf8_lossy(name));
                }
            }
            let next = client.open("next").unwrap().id();
            let error = client.open(vec![b'x'; 65_536]).unwrap_err();
            assert!(matches!(error, Error::NameTooLong { len: 65_536, max: 65_535 }));
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(client.open("after").unwrap().id(), next + 2);
        }
    });
}

/// P97: sessions and streams know their `local_addr` and `peer_addr`, also after the session's end.
/// Both are `None` over a transport without addresses.
#[test]
fn addresses_are_the_transports() {
    test("addresses_are_the_transports", || {
        let (a, b) = tcp();
        let a_addr = a.local_addr().unwrap();
        let b_addr = b.local_addr().unwrap();
        let client = Session::client(a, quiet()).unwrap();
        let server = Session::server(b, quiet()).unwrap();
        let stream = client.open("").unwrap();
        let of_streams = |stream: &Stream| (stream.local_addr(), stream.peer_addr());
        assert_eq!((client.local_addr(), client.peer_addr()), (Some(a_addr), Some(b_addr)));
        assert_eq!((server.local_addr(), server.peer_addr()), (Some(b_addr), Some(a_addr)));
        assert_eq!(of_streams(&stream), (Some(a_addr), Some(b_addr)));
        client.close().unwrap();
        assert_eq!(of_streams(&stream), (Some(a_addr), Some(b_addr)));
        assert_eq!(client.peer_addr(), Some(b_addr));

        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let session = Session::client(a, quiet().close_timeout(Duration::from_millis(1))).unwrap();
        assert_eq!((session.local_addr(), session.peer_addr()), (None, None));
    });
}

/// P117: `MuxConn` and `MuxStream` are object-safe, and do the same as `Session` and `Stream`.
#[test]
fn everything_works_through_the_traits() {
    fn talk(client: &dyn MuxConn, server: Box<dyn MuxConn>) {
        let mut ours = client.open(b"through traits").unwrap();
        let mut theirs = server.accept().unwrap();
        assert_eq!((ours.id(), theirs.id()), (3, 3));
        assert_eq!(
            (theirs.name(), theirs.name_bytes()),
            ("through traits", &b"through traits"[..])
        );
        ours.write_all(b"hello").unwrap();
        ours.flush().unwrap();
        let mut hello = [0; 5];
        theirs.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello");

        assert_eq!((client.num_streams(), server.num_streams()), (1, 1));
        assert_eq!(
            (client.local_addr(), client.peer_addr()),
            (server.peer_addr(), server.local_addr())
        );
        assert_eq!(
            (ours.local_addr(), ours.peer_addr()),
            (theirs.peer_addr(), theirs.local_addr())
        );
        server.set_deadline(Some(Instant::now()));
        assert!(matches!(server.accept(), Err(Error::Timeout)));
        server.set_no_data_timeout(Some(FAR)).unwrap();
        assert_eq!(server.no_data_timeout(), Some(FAR));
        ours.set_no_data_timeout(Some(FAR)).unwrap();
        assert_eq!(ours.no_data_timeout(), Some(FAR));
        let set: [fn(&dyn MuxStream, Option<Instant>); 2] =
            [|s, at| s.set_deadline(at), |s, at| s.set_read_deadline(at)];
        for set in set {
            set(&*ours, Some(Instant::now()));
            assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
            set(&*ours, None);
        }
        ours.set_write_deadline(None);

        let (tell, told) = std::sync::mpsc::channel();
        theirs.set_close_notifier(Box::new(move |stream| tell.send(stream.id()).unwrap()));
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        theirs.close().unwrap();
        assert_eq!(told.recv().unwrap(), 3);
        assert!(theirs.closed().recv().is_err());
        assert!(!client.is_closed());
        client.close().unwrap();
        assert!(client.is_closed() && client.closed().recv().is_err());
        assert!(server.closed().recv().is_err());
    }
    test("everything_works_through_the_traits", || {
        let (client, server) = pair(quiet());
        talk(&client, Box::new(server));
    });
}

/// P8: `settings` returns each value that was set, and the version's default for all others.
#[test]
fn a_configuration_can_be_read() {
    test("a_configuration_can_be_read", || {
        let second = Duration::from_secs(1);
        let config = Config::new().version(2).keepalive_disabled(true).keepalive_interval(second);
        let config =
            config.keepalive_timeout(2 * second).max_frame_size(3).max_receive_buffer(400_000);
        let config =
            config.max_stream_buffer(5).max_stream_window(6).accept_backlog(7).max_streams(8);
        let config = config.max_name_len(9).max_send_buffer(10).close_timeout(11 * second);
        let config = config.stall_timeout(Some(12 * second)).half_close_stall(Some(13 * second));
        let config = config.accept_stall_timeout(Some(15 * second));
        let set = config.no_data_timeout(Some(14 * second)).settings();
        assert_eq!((set.version, set.keepalive_disabled), (2, true));
        assert_eq!((set.keepalive_interval, set.keepalive_timeout), (second, 2 * second));
        assert_eq!((set.max_frame_size, set.max_receive_buffer), (3, 400_000));
        assert_eq!((set.max_stream_buffer, set.max_stream_window), (5, 6));
        assert_eq!(
            (set.accept_backlog, set.max_streams, set.max_name_len, set.max_send_buffer),
            (7, 8, 9, 10)
        );
        assert_eq!(set.accept_stall_timeout, Some(15 * second));
        assert_eq!((set.close_timeout, set.stall_timeout), (11 * second, Some(12 * second)));
        assert_eq!(
            (set.half_close_stall, set.no_data_timeout),
            (Some(13 * second), Some(14 * second))
        );

        let one = Config::new().settings();
        let two = Config::new().version(2).settings();
        assert_eq!((one.accept_backlog, one.accept_stall_timeout), (1024, Some(5 * second)));
        assert_eq!((one.version, one.stall_timeout, one.max_stream_window), (1, None, 2_097_152));
        assert_eq!(
            (two.stall_timeout, two.half_close_stall),
            (Some(30 * second), Some(60 * second))
        );
    });
}

/// P117: a stream has `try_clone`, and `&session` can be iterated, as with std's sockets and
/// listeners. The types that a program needs to wait on channels are exported.
#[test]
fn sessions_and_streams_have_the_habits_of_std() {
    test("sessions_and_streams_have_the_habits_of_std", || {
        let (client, server) = pair(quiet());
        let stream = client.open("a").unwrap();
        let again = stream.try_clone().unwrap();
        drop(stream);
        (&again).write_all(b"x").unwrap();
        client.open("b").unwrap();
        let names: Vec<String> =
            (&server).into_iter().take(2).map(|s| s.unwrap().name().to_owned()).collect();
        assert_eq!(names, ["a", "b"]);
        let closed: gmux::Receiver<()> = server.closed();
        let waited = closed.recv_timeout(Duration::from_millis(1));
        assert_eq!(waited, Err(gmux::RecvTimeoutError::Timeout));
        drop(client);
        drop(again);
        let mut select = gmux::Select::new();
        select.recv(&closed);
        assert_eq!(select.ready(), 0);
        assert_eq!((&server).into_iter().count(), 0, "after the peer's clean end there is nothing");
    });
}

/// P86: `Debug` of a session or stream says which one it is, in every state.
#[test]
fn debug_says_which_session_and_stream() {
    test("debug_says_which_session_and_stream", || {
        let (client, server) = pair(quiet());
        let stream = client.open("debugged").unwrap();
        let text = format!("{stream:?}");
        assert!(text.contains("debugged") && text.contains('3'), "{text}");
        assert!(format!("{client:?}").contains(&client.peer_addr().unwrap().to_string()));
        assert!(!format!("{:?}", server.incoming()).is_empty());
        client.close().unwrap();
        assert!(format!("{client:?}").contains("Closed"), "{client:?}");
    });
}

/// P84, P45: an error that `Read` or `Write` returns has gmux's own `Error` inside, which can be
/// downcast. A transport's error keeps its kind and its source.
#[test]
fn io_errors_have_the_error_inside() {
    test("io_errors_have_the_error_inside", || {
        let (client, _server) = pair(quiet());
        let stream = client.open("").unwrap();
        stream.close().unwrap();
        let error = (&stream).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected);
        assert!(matches!(
            error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()),
            Some(Error::Closed)
        ));
        assert!(matches!(error.downcast::<Error>(), Ok(Error::Closed)));

        let (script, session) = Script::server(quiet());
        script.frame(1, Command::Syn, 1, &[]);
        let mut stream = session.accept().unwrap();
        script.fail_read(ErrorKind::HostUnreachable);
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable);
        let inner = Error::from(error);
        let source = inner
            .source()
            .and_then(|source| source.downcast_ref::<Arc<io::Error>>())
            .map(|source| source.kind());
        assert_eq!(source, Some(ErrorKind::HostUnreachable));
        assert!(matches!(session.close_reason(), Some(Error::Io(_))));
    });
}

/// P84: if the transport's read returns `UnexpectedEof`, the stream's reader gets another kind.
#[test]
fn truncation_is_never_unexpected_eof() {
    test("truncation_is_never_unexpected_eof", || {
        let (script, session) = Script::server(quiet());
        script.frame(1, Command::Syn, 1, &[]);
        let mut stream = session.accept().unwrap();
        script.fail_read(ErrorKind::UnexpectedEof);
        assert_eq!(stream.read_exact(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        // After a clean end, `read_exact` itself returns `UnexpectedEof`.
        let (mut raw, session) = against_server(quiet(), 1);
        raw.syn(1, "");
        raw.psh(1, "x");
        raw.fin(1);
        let mut stream = session.accept().unwrap();
        assert_eq!(stream.read_exact(&mut [0; 2]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    });
}

/// P84: calls on closed sessions and streams fail with `NotConnected`. They don't panic or hang.
/// Getters and setters still work.
#[test]
fn calls_on_closed_things_say_not_connected() {
    test("calls_on_closed_things_say_not_connected", || {
        for config in quiet_versions() {
            let (client, _server) = pair(config);
            let stream = client.open("closed").unwrap();
            stream.close().unwrap();
            stream.close().unwrap();
            let mut s = &stream;
            let kinds = [
                s.read(&mut [0]).unwrap_err().kind(),
                s.write(b"x").unwrap_err().kind(),
                stream.write_to(&mut Vec::new()).unwrap_err().kind(),
                stream.shutdown(std::net::Shutdown::Write).unwrap_err().kind(),
            ];
            assert_eq!(kinds, [ErrorKind::NotConnected; 4]);
            assert_eq!((s.read(&mut []).unwrap(), s.write(&[]).unwrap()), (0, 0));
            stream.set_deadline(Some(Instant::now()));
            stream.set_read_timeout(Some(FAR)).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream.set_no_data_timeout(Some(FAR)).unwrap();
            assert_eq!((stream.id(), stream.name()), (3, "closed"));
            client.close().unwrap();
            client.close().unwrap();
            client.drain(FAR).unwrap();
            client.set_deadline(None);
            client.set_no_data_timeout(None).unwrap();
            assert_eq!(client.num_streams(), 0);
        }
    });
}

/// P87: `stats` counts the frames, bytes and streams that crossed.
#[test]
fn stats_count_what_crossed() {
    test("stats_count_what_crossed", || {
        let (mut raw, session) = against_server(quiet().max_name_len(10), 1);
        raw.syn(1, "one");
        raw.psh(1, [0; 100]);
        raw.psh(77, [0; 10]); // a stream that doesn't exist
        raw.syn(3, "a name that is too long");
        raw.expect(Command::Fin, 3);
        let mut stream = session.accept().unwrap();
        let own = session.open("").unwrap();
        raw.expect(Command::Syn, 2);
        stream.write_all(&[0; 50]).unwrap();
        stream.flush().unwrap();
        raw.expect_data(1, 50);
        until(|| session.stats().bytes_sent == 50); // the flush may return just before the count
        let stats = session.stats();
        assert_eq!(
            (stats.frames_received, stats.bytes_received, stats.frames_ignored),
            (4, 100, 1)
        );
        assert_eq!((stats.frames_sent, stats.bytes_sent), (3, 50));
        assert_eq!(
            (stats.streams_opened, stats.streams_received, stats.streams_refused),
            (1, 1, 1)
        );
        assert_eq!(
            (stats.streams, stats.streams_peak, stats.streams_cut, stats.receive_pauses),
            (2, 2, 0, 0)
        );
        assert!((100..1000).contains(&stats.receive_buffered));
        drop(stream);
        drop(own);
        assert_eq!(
            (
                session.stats().streams,
                session.stats().streams_peak,
                session.stats().receive_buffered
            ),
            (0, 2, 0)
        );
    });
}

/// P110: an end understands frames of any size, and its own `max_frame_size` limits only the frames
/// that it sends.
#[test]
fn frame_sizes_need_not_agree() {
    test("frame_sizes_need_not_agree", || {
        let (client, server) = pair_of(quiet().max_frame_size(65_535), quiet().max_frame_size(100));
        let mut ours = client.open("").unwrap();
        ours.write_all(&[1; 200_000]).unwrap();
        let mut theirs = server.accept().unwrap();
        let mut got = vec![0; 200_000];
        theirs.read_exact(&mut got).unwrap();
        theirs.write_all(&got).unwrap();
        ours.read_exact(&mut got).unwrap();
        assert!(got.iter().all(|&byte| byte == 1));
        assert!(client.stats().frames_received >= 2000);

        let (mut raw, session) = against_client(quiet().max_frame_size(1000), 1);
        let mut stream = session.open("").unwrap();
        stream.write_all(&[0; 2500]).unwrap();
        raw.expect(Command::Syn, 3);
        let frames: Vec<usize> = (0..3).map(|_| raw.expect(Command::Psh, 3).len()).collect();
        assert_eq!(frames, [1000, 1000, 500]);
    });
}

/// P109: the text of a `Frame` is that of Go's gmux.
#[test]
fn a_frame_displays_as_in_go() {
    test("a_frame_displays_as_in_go", || {
        let frame = Frame::new(1, Command::Syn, 1, vec![0; 100]).unwrap();
        assert_eq!(frame.to_string(), "Version:1 Cmd:0 StreamID:1 Length:100");
    });
}

//! Known bugs of other multiplexers, and tests that others have, as far as no other file here shows
//! them. `src/manual/testing.md` has the whole list, with the tests of each line. The end of this
//! file checks that page.
//!
//! Promises: P1, P2, P3, P4, P7, P10, P28, P29, P56, P57, P65, P73, P80, P94, P112.

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gmux::transport::{Shared, Transport};
use gmux::wire::Command;
use gmux::{Config, Error, Session, Stream};
use support::blocked::blocked;
use support::links::{check, send};
use support::pages::{missing, named_tests};
use support::raw::{Raw, against_server};
use support::scripted::{FAR, Script, data, quiet, quiet_versions};
use support::{Pattern, pair, pair_of, test, test_for, until, versions};

/// Returns a count for plain `cargo test`, or the full count with `GMUX_FULL`.
fn sized(small: usize, full: usize) -> usize {
    if std::env::var_os("GMUX_FULL").is_some() { full } else { small }
}

/// Watchdog limit for tests whose full size takes longer than usual.
const LONG: Duration = Duration::from_secs(600);

/// A random generator. A seed always gives the same numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        support::splitmix64(&mut self.0)
    }

    /// Returns a number in `from..=to`.
    fn within(&mut self, from: usize, to: usize) -> usize {
        from + (self.next() % (to - from + 1) as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.within(0, choices.len() - 1)]
    }
}

/// Echoes every accepted stream, each on a thread of its own, until the session ends.
fn echo(session: Session) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        thread::scope(|scope| {
            for stream in session.incoming() {
                let stream = stream.unwrap();
                scope.spawn(move || {
                    io::copy(&mut &stream, &mut &stream).unwrap();
                });
            }
        });
    })
}

// ---- many streams -------------------------------------------------------------------------------

/// A test of rust-yamux: 512 streams at once, with 128 KiB on each, and back.
///
/// On version 2 the budget is set for it. An echo that can't write doesn't read. 512 first windows
/// (256 KiB each before the first UPD) are 32 times the default budget. If they were full, they
/// would hold back the window updates that the echoes wait for. `stall_timeout` would have to cut
/// one stream after the other, as in `tests/stalls.rs`. Version 1 has no windows.
#[test]
fn _512_streams_of_128_kib_each_at_once() {
    const STREAMS: usize = 512;
    const EACH: usize = 128 << 10;
    test("_512_streams_of_128_kib_each_at_once", || {
        for config in
            [Config::new(), Config::new().version(2).max_receive_buffer(2 * STREAMS * EACH)]
        {
            let (client, server) = pair(config);
            let echo = echo(server);
            let start = Barrier::new(STREAMS);
            thread::scope(|scope| {
                for i in 0..STREAMS {
                    let client = &client;
                    let start = &start;
                    scope.spawn(move || {
                        let stream = client.open(format!("{i}")).unwrap();
                        start.wait();
                        thread::scope(|scope| {
                            scope.spawn(|| {
                                send(&stream, i * 1009, EACH);
                                stream.shutdown(Shutdown::Write).unwrap();
                            });
                            assert_eq!(check(&stream, i * 1009), EACH);
                        });
                    });
                }
            });
            assert_eq!(client.num_streams(), 0);
            client.close().unwrap();
            echo.join().unwrap();
        }
    });
}

/// A test of yamux: 50 threads each open a thousand streams, one after the other. All streams are
/// echoed, and none is left.
#[test]
fn _50_threads_open_a_thousand_streams_each() {
    test_for("_50_threads_open_a_thousand_streams_each", LONG, || {
        let each = sized(20, 1000);
        for config in versions() {
            let (client, server) = pair(config);
            let echo = echo(server.clone());
            thread::scope(|scope| {
                for thread in 0..50 {
                    let client = &client;
                    scope.spawn(move || {
                        for i in 0..each {
                            let text = format!("{thread}/{i}");
                            let mut stream = client.open(&text).unwrap();
                            stream.write_all(text.as_bytes()).unwrap();
                            stream.shutdown(Shutdown::Write).unwrap();
                            let mut back = String::new();
                            stream.read_to_string(&mut back).unwrap();
                            assert_eq!(back, text);
                        }
                    });
                }
            });
            assert_eq!(client.num_streams(), 0);
            until(|| server.num_streams() == 0); // A finished echo is dropped a moment later.
            assert_eq!(server.stats().streams_received, 50 * each as u64);
            client.close().unwrap();
            echo.join().unwrap();
        }
    });
}

/// A test of yamux: 50 streams, with a thousand questions and answers on each.
#[test]
fn _50_streams_play_ping_pong() {
    test_for("_50_streams_play_ping_pong", LONG, || {
        let rounds = sized(50, 1000);
        for config in versions() {
            let (client, server) = pair(config);
            let echo = echo(server);
            thread::scope(|scope| {
                for i in 0..50u32 {
                    let client = &client;
                    scope.spawn(move || {
                        let mut stream = client.open("").unwrap();
                        for round in 0..rounds as u32 {
                            let ping = [i.to_le_bytes(), round.to_le_bytes()].concat();
                            stream.write_all(&ping).unwrap();
                            let mut pong = [0; 8];
                            stream.read_exact(&mut pong).unwrap();
                            assert_eq!(pong, *ping);
                        }
                    });
                }
            });
            client.close().unwrap();
            echo.join().unwrap();
        }
    });
}

/// A stream that nobody reads holds up no other. Streams that nobody accepts hold the others up
/// once, for at most the stall timeout. Then they are refused.
#[test]
fn an_unread_stream_and_a_full_backlog_hold_up_no_other() {
    test("an_unread_stream_and_a_full_backlog_hold_up_no_other", || {
        for config in quiet_versions() {
            let stall = Duration::from_millis(50);
            let (client, server) = pair(config.accept_backlog(4).accept_stall_timeout(Some(stall)));
            let ours = client.open("works").unwrap();
            let theirs = server.accept().unwrap();
            let unread = client.open("unread").unwrap();
            let _asleep = server.accept().unwrap();
            send(&unread, 0, 262_144);
            let refused: Vec<_> = (0..10).map(|i| client.open(format!("{i}")).unwrap()).collect();
            for mut stream in &refused[4..] {
                assert_eq!(stream.read(&mut [0]).unwrap(), 0, "refused, as a FIN says");
            }
            thread::scope(|scope| {
                scope.spawn(|| io::copy(&mut &theirs, &mut &theirs).unwrap());
                scope.spawn(|| {
                    send(&ours, 3, 4 << 20);
                    ours.shutdown(Shutdown::Write).unwrap();
                });
                // The end of the echo has to follow, so the stream is closed there.
                let mut back = vec![0; 4 << 20];
                (&ours).read_exact(&mut back).unwrap();
            });
            let stats = server.stats();
            assert_eq!(
                (stats.streams_refused, stats.accept_pauses, server.num_streams()),
                (6, 1, 6)
            );
        }
    });
}

// ---- data ---------------------------------------------------------------------------------------

/// A test of smux: writes and reads of random lengths, a gibibyte at full size.
#[test]
fn writes_and_reads_of_random_lengths_keep_every_byte() {
    /// The data repeats after this many bytes. No length divides it.
    const PERIOD: usize = 1_000_003;
    const LONGEST: usize = 300_000;
    test_for("writes_and_reads_of_random_lengths_keep_every_byte", LONG, || {
        let total = sized(12 << 20, 1 << 30);
        let mut round = Pattern::bytes(9, PERIOD);
        round.extend_from_within(..LONGEST); // With this, a piece may begin anywhere.
        let round = Arc::new(round);
        for config in versions() {
            let (client, server) = pair(config);
            let rounds = Arc::clone(&round);
            let round = &round;
            let writer = thread::spawn(move || {
                let round = rounds;
                let mut stream = client.open("").unwrap();
                let mut random = Random(1);
                let mut sent = 0;
                while sent < total {
                    let most = random.one_of(&[1, 100, 5000, 100_000, LONGEST]);
                    let len = random.within(1, most).min(total - sent);
                    stream.write_all(&round[sent % PERIOD..][..len]).unwrap();
                    sent += len;
                }
            });
            let mut stream = server.accept().unwrap();
            let mut random = Random(2);
            let mut got = 0;
            let mut buf = vec![0; LONGEST];
            loop {
                let most = random.one_of(&[1, 100, 5000, 100_000, LONGEST]);
                let len = random.within(1, most);
                let n = stream.read(&mut buf[..len]).unwrap();
                if n == 0 {
                    break;
                }
                assert!(buf[..n] == round[got % PERIOD..][..n], "wrong data at {got}");
                got += n;
            }
            assert_eq!(got, total);
            writer.join().unwrap();
        }
    });
}

/// A test of smux: reads of a few bytes.
#[test]
fn tiny_reads_lose_nothing() {
    test("tiny_reads_lose_nothing", || {
        for config in versions() {
            let (client, server) = pair(config);
            let sent = Pattern::bytes(7, 40_000);
            let mut ours = client.open("").unwrap();
            for piece in sent.chunks(6007) {
                ours.write_all(piece).unwrap();
            }
            ours.close().unwrap();
            let mut theirs = server.accept().unwrap();
            let mut got = Vec::<u8>::new();
            for len in (1..=3).cycle() {
                let mut piece = [0; 3];
                match theirs.read(&mut piece[..len]).unwrap() {
                    0 => break,
                    n => got.extend(&piece[..n]),
                }
            }
            assert!(got == sent);
        }
    });
}

/// Accepted bytes belong to the session. The caller may change its buffer, although nothing was
/// sent yet.
#[test]
fn accepted_bytes_are_copied() {
    test("accepted_bytes_are_copied", || {
        for len in [100, 100_000] {
            let (script, session) = Script::client(quiet());
            let mut stream = session.open("").unwrap();
            script.blocked();
            let mut bytes = vec![1; len];
            stream.write_all(&bytes).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
            assert_eq!(stream.flush().unwrap_err().kind(), ErrorKind::TimedOut);
            bytes.fill(2);
            script.allow_all();
            let frames = script.until_frames(|frames| data(frames, 3).len() == len);
            assert!(data(&frames, 3).iter().all(|&byte| byte == 1));
            script.eof();
        }
    });
}

/// A test of rust-yamux: random configurations that the rules allow, different at the two ends.
#[test]
fn random_configurations_carry_data() {
    test_for("random_configurations_carry_data", LONG, || {
        for seed in 0..sized(30, 1000) as u64 {
            let mut random = Random(seed);
            let version = random.one_of(&[1, 2]);
            let configs = [(); 2].map(|()| {
                let least = if version == 2 { 262_144 } else { 1 };
                let budget =
                    random.one_of(&[1, 1000, 262_144, 300_000, 1 << 20, 4 << 20]).max(least);
                let window = random.within(1, budget).max(random.one_of(&[1, 1000.min(budget)]));
                let highest = random.within(window, budget);
                let frame = random.within(1, 65_535);
                let buffer = random.within(1, 1 << 20);
                quiet()
                    .version(version)
                    .max_receive_buffer(budget)
                    .max_stream_buffer(window)
                    .max_stream_window(highest)
                    .max_frame_size(frame.max(random.one_of(&[1, 1000])))
                    .max_send_buffer(buffer)
                    .stall_timeout(None)
            });
            let about = format!("seed {seed}: {configs:?}");
            let result = std::panic::catch_unwind(|| {
                let [a, b] = configs;
                let (client, server) = pair_of(a, b);
                let ends = [(&client, &server), (&server, &client)];
                thread::scope(|scope| {
                    for (opener, accepter) in ends {
                        for _ in 0..2 {
                            let ours = opener.open("").unwrap();
                            let theirs = accepter.accept().unwrap();
                            scope.spawn(move || exchange(&ours, 20_000));
                            scope.spawn(move || exchange(&theirs, 20_000));
                        }
                    }
                });
                client.close().unwrap();
            });
            result.unwrap_or_else(|panic| {
                eprintln!("{about}");
                std::panic::resume_unwind(panic)
            });
        }
    });
}

/// Sends `len` bytes and FIN, and receives as many, at the same time.
fn exchange(stream: &Stream, len: usize) {
    thread::scope(|scope| {
        scope.spawn(|| {
            send(stream, 11, len);
            stream.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(check(stream, 11), len);
    });
}

/// A test of rust-yamux: one end sends everything and finishes. Then the other end does the same.
#[test]
fn half_closed_transfers_carry_a_mebibyte_each_way() {
    const SIZE: usize = 1 << 20;
    test("half_closed_transfers_carry_a_mebibyte_each_way", || {
        for config in versions() {
            let (client, server) = pair(config);
            for opener_first in [true, false] {
                let ours = client.open("").unwrap();
                let theirs = server.accept().unwrap();
                let (first, second) = if opener_first { (ours, theirs) } else { (theirs, ours) };
                thread::scope(|scope| {
                    scope.spawn(move || {
                        send(&first, 1, SIZE);
                        first.shutdown(Shutdown::Write).unwrap();
                        assert_eq!(check(&first, 2), SIZE);
                    });
                    scope.spawn(move || {
                        assert_eq!(check(&second, 1), SIZE);
                        send(&second, 2, SIZE);
                        second.shutdown(Shutdown::Write).unwrap();
                    });
                });
            }
            assert_eq!((client.num_streams(), server.num_streams()), (0, 0));
        }
    });
}

// ---- windows ------------------------------------------------------------------------------------

/// Returns CONSUMED of the next frame, which has to be an UPD of stream 1.
fn consumed(raw: &mut Raw) -> u32 {
    let payload = raw.expect(Command::Upd, 1);
    u32::from_le_bytes(payload[..4].try_into().unwrap())
}

/// A test of yamux: partial reads are announced to the peer when they add up to half of the window.
/// Unread bytes aren't announced.
#[test]
fn partial_reads_update_the_window() {
    test("partial_reads_update_the_window", || {
        let config = quiet().version(2).max_stream_buffer(65_536).max_stream_window(65_536);
        let (mut raw, session) = against_server(config, 2);
        raw.syn(1, "");
        let mut stream = session.accept().unwrap();
        (0..8).for_each(|_| raw.psh(1, [1; 32_768]));
        let mut read = 0;
        let mut told = 0;
        // The first read is announced at once, later reads at each half of a window.
        for due in [1000, 33_768, 66_536, 99_304, 132_072] {
            while read < due {
                let n = 1000.min(due - read) as usize;
                stream.read_exact(&mut vec![0; n]).unwrap();
                read += n as u32;
            }
            told = consumed(&mut raw);
            assert_eq!(told, due);
        }
        // A byte less than half of a window isn't announced. The next frame is another one.
        stream.read_exact(&mut [0; 32_767]).unwrap();
        stream.write_all(b"!").unwrap();
        assert_eq!(raw.expect(Command::Psh, 1), b"!");
        stream.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(consumed(&mut raw), told + 32_768);
    });
}

/// P28: UPD ignores deadlines. `tests/promises_closing_streams.rs` shows the same for FIN.
#[test]
fn updates_ignore_an_expired_deadline() {
    test("updates_ignore_an_expired_deadline", || {
        let (mut raw, session) = against_server(quiet().version(2), 2);
        raw.syn(1, "");
        raw.psh(1, [1; 40_000]);
        let mut stream = session.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap(); // Some of the data is there.
        assert_eq!(consumed(&mut raw), 1);
        support::scripted::processed(&mut raw, &session, 2);
        stream.set_deadline(Some(Instant::now()));
        stream.set_no_data_timeout(Some(Duration::from_nanos(1))).unwrap();
        stream.read_exact(&mut vec![0; 39_999]).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(consumed(&mut raw), 40_000);
    });
}

// ---- fairness -----------------------------------------------------------------------------------

/// A test of smux, but deterministic: several streams all have more to send than the link takes.
/// Their shares differ by less than a quarter, whatever their frames and writes are.
#[test]
fn streams_share_the_link_by_bytes() {
    const QUEUE: usize = 2 << 20;
    const STREAMS: usize = 4;
    test("streams_share_the_link_by_bytes", || {
        let (script, session) =
            Script::client(quiet().max_send_buffer(QUEUE).close_timeout(Duration::from_millis(1)));
        let streams: Vec<_> = (0..STREAMS).map(|_| session.open("").unwrap()).collect();
        script.blocked();
        for (mut stream, piece) in streams.iter().zip([100, 3000, 50_000, QUEUE]) {
            vec![1; QUEUE].chunks(piece).for_each(|piece| stream.write_all(piece).unwrap());
        }
        // Half of the queued data is sent, so every stream still has some.
        script.allow(STREAMS * QUEUE / 2);
        script.wait(|state| (state.written.len() >= STREAMS * QUEUE / 2).then_some(()));
        let whole = script.frames();
        let shares: Vec<_> = streams.iter().map(|stream| data(&whole, stream.id()).len()).collect();
        let even = shares.iter().sum::<usize>() / STREAMS;
        assert!(even > QUEUE / 3, "{shares:?}");
        assert!(shares.iter().all(|share| share.abs_diff(even) < even / 4), "{shares:?}");
        // The rest isn't needed.
        session.set_no_data_timeout(Some(Duration::from_millis(1))).unwrap();
        assert!(session.closed().recv().is_err());
    });
}

/// On a link that takes 64 KiB in a millisecond or more, 32 busy streams move frame by frame. So
/// none stands still for long.
#[test]
fn many_streams_share_a_slow_link_frame_by_frame() {
    const QUEUE: usize = 1 << 20;
    const STREAMS: usize = 32;
    /// The bytes that are sent before the link's pace is known, and some more.
    const BEGINNING: usize = 4 << 20;
    test("many_streams_share_a_slow_link_frame_by_frame", || {
        let (script, session) =
            Script::client(quiet().max_send_buffer(QUEUE).close_timeout(Duration::from_millis(1)));
        let streams: Vec<_> = (0..STREAMS).map(|_| session.open("").unwrap()).collect();
        script.blocked();
        streams.iter().for_each(|mut stream| stream.write_all(&vec![1; QUEUE]).unwrap());
        for _ in 0..3 * BEGINNING / (64 << 10) {
            // This is the link's pace. A longer pause makes no difference.
            thread::sleep(Duration::from_millis(1));
            script.allow(64 << 10);
            script.blocked();
        }
        let frames = script.frames();
        let mut before = 0;
        let later = frames.iter().skip_while(|frame| {
            before += frame.payload.len();
            before < BEGINNING
        });
        let ids: Vec<_> = later
            .filter(|frame| frame.header.command == Command::Psh)
            .map(|frame| frame.header.stream_id)
            .collect();
        assert!(ids.len() >= 4 * STREAMS, "{}", ids.len());
        let round = ids.windows(STREAMS).map(|ids| ids.iter().collect::<HashSet<_>>().len());
        assert_eq!(
            round.min(),
            Some(STREAMS),
            "somebody had a second turn before another had one: {ids:?}"
        );
        // The rest isn't needed.
        session.set_no_data_timeout(Some(Duration::from_millis(1))).unwrap();
        assert!(session.closed().recv().is_err());
    });
}

/// A new stream waits for the bytes that are being written, and for one round-robin turn of each
/// other stream. It doesn't wait for all their data.
#[test]
fn a_new_stream_does_not_wait_behind_the_old_ones() {
    const QUEUE: usize = 4 << 20;
    /// Upper limit of the bytes before the new stream: the batch in hand, a batch before the next
    /// look at the queues, and a turn (128 KiB) of each of the three old streams, with headers.
    const AHEAD: usize = 2 * (256 << 10) + 3 * (128 << 10) + (64 << 10);
    test("a_new_stream_does_not_wait_behind_the_old_ones", || {
        for len in [100, 100_000] {
            let (script, session) = Script::client(quiet().max_send_buffer(QUEUE));
            let old: Vec<_> = (0..3).map(|_| session.open("").unwrap()).collect();
            script.blocked();
            old.iter().for_each(|mut stream| stream.write_all(&vec![1; QUEUE]).unwrap());
            script.allow(1 << 20);
            script.wait(|state| (state.written.len() == 1 << 20).then_some(()));
            let mut new = session.open("new").unwrap();
            new.write_all(&vec![2; len]).unwrap();
            script.allow(AHEAD + len);
            script.wait(|state| (state.written.len() == (1 << 20) + AHEAD + len).then_some(()));
            assert_eq!(
                data(&script.frames(), new.id()).len(),
                len,
                "it had to wait for the others"
            );
            script.allow_all();
            script.eof();
        }
    });
}

/// A ping overtakes bulk data.
#[test]
fn a_ping_goes_before_bulk_data() {
    const QUEUE: usize = 16 << 20;
    test("a_ping_goes_before_bulk_data", || {
        let config =
            quiet().keepalive_disabled(false).keepalive_interval(Duration::from_millis(10));
        let (script, session) =
            Script::client(config.keepalive_timeout(FAR).max_send_buffer(QUEUE));
        let mut stream = session.open("").unwrap();
        stream.write_all(&vec![1; QUEUE]).unwrap();
        let mut pings = 0;
        while pings == 0 {
            // Only time makes pings due. The queue is enough for 2.5 s of these pauses.
            thread::sleep(Duration::from_millis(10));
            script.allow(1 << 16);
            script.wait(|state| (state.offered > 0 || state.written.len() >= QUEUE).then_some(()));
            script.wait(|state| {
                assert!(state.written.len() < QUEUE, "all of the bulk data went first");
                let mut rest = &state.written[..];
                while let Some((frame, after)) = gmux::wire::Frame::decode(rest).unwrap() {
                    pings += usize::from(frame.header.command == Command::Nop);
                    rest = after;
                }
                Some(())
            });
        }
        script.allow_all();
        script.eof();
    });
}

/// Any byte that arrives is a sign of life. A peer that is busy with one large frame and never
/// pings isn't dead.
#[test]
fn any_received_byte_is_life() {
    test("any_received_byte_is_life", || {
        let timeout = Duration::from_secs(2);
        let config = quiet()
            .keepalive_disabled(false)
            .keepalive_interval(timeout)
            .keepalive_timeout(timeout);
        // Returns false if the machine let a silence get too long, so that the attempt shows
        // nothing. Half of the timeout is left for the session's threads.
        let in_time = || {
            let (mut raw, session) = against_server(config.clone(), 1);
            raw.syn(1, "");
            let mut stream = session.accept().unwrap();
            raw.bytes(&[1, 2, 0xFF, 0xFF, 1, 0, 0, 0]);
            let begin = Instant::now();
            let mut last = Instant::now();
            while begin.elapsed() < timeout * 5 / 4 {
                let _ = raw.try_bytes(&[7; 100]);
                if last.elapsed() >= timeout / 2 {
                    return false;
                }
                last = Instant::now();
                thread::sleep(timeout / 50); // Time itself is under test.
            }
            assert!(!session.is_closed(), "{:?}", session.close_reason());
            // Without any bytes, the peer is taken for dead.
            assert!(session.closed().recv().is_err());
            assert!(matches!(session.close_reason(), Some(Error::KeepaliveTimeout(_))));
            assert!(stream.read(&mut [0]).is_err());
            true
        };
        while !in_time() {}
    });
}

/// A session's two threads take fair turns at a transport that can't be split. A writer that waits
/// during a read comes before the next read, though the reader wants the transport again at once.
#[test]
fn a_shared_transports_writer_comes_before_the_next_read() {
    /// A transport that reads when the test says so, and reports each call.
    struct Told(mpsc::Receiver<()>, mpsc::Sender<&'static str>);
    impl Read for Told {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.1.send("read begins").unwrap();
            Ok(self.0.recv().map_or(0, |()| 1))
        }
    }
    impl Write for Told {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.1.send("write").unwrap();
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    test("a_shared_transports_writer_comes_before_the_next_read", || {
        let (go, told) = mpsc::channel();
        let (say, said) = mpsc::channel();
        let halves = Shared::new(Told(told, say)).split().unwrap();
        let mut reader = halves.reader;
        let mut writer = halves.writer;
        let reads = thread::spawn(move || while reader.read(&mut [0]).unwrap() > 0 {});
        assert_eq!(said.recv().unwrap(), "read begins");
        for _ in 0..10 {
            let write = blocked(move || {
                assert_eq!(writer.write(&[0]).unwrap(), 1);
                writer
            });
            go.send(()).unwrap();
            assert_eq!([said.recv().unwrap(), said.recv().unwrap()], ["write", "read begins"]);
            writer = write.join();
        }
        drop(go);
        reads.join().unwrap();
    });
}

// ---- crafted input ------------------------------------------------------------------------------

/// A test of smux: random bytes instead of frames, and frames with random content. The session ends
/// with an error that names the fault, and nothing panics.
#[test]
fn random_garbage_ends_a_session_with_an_error() {
    test_for("random_garbage_ends_a_session_with_an_error", LONG, || {
        let mut clean = 0;
        for seed in 0..sized(300, 20_000) as u64 {
            let mut random = Random(seed);
            let version = random.one_of(&[1, 2]);
            let (mut raw, session) = against_server(quiet().version(version), version);
            let mut bytes = Vec::new();
            for _ in 0..random.within(0, 40) {
                frame_like(&mut random, version, &mut bytes);
            }
            let noise = random.one_of(&[0, 7, 8, 3000]);
            bytes.extend(Pattern::bytes(seed, random.within(0, noise)));
            if raw.try_bytes(&bytes).is_ok() {
                // The session may have ended meanwhile.
                let _ = raw.stream.shutdown(Shutdown::Write);
            }
            assert!(session.closed().recv().is_err());
            match session.close_reason().unwrap() {
                Error::Io(error) if error.kind() == ErrorKind::Other => {
                    panic!("seed {seed}: {error}")
                } // This is a panic's kind of error.
                Error::KeepaliveTimeout(_) | Error::Closed => panic!("seed {seed}"),
                Error::PeerClosed => clean += 1,
                _ => {}
            }
        }
        assert!(clean < sized(100, 5000), "garbage that was none: {clean}");
    });
}

/// Appends bytes that resemble a frame. Mostly its version is right, its command is known, and its
/// length is true.
fn frame_like(random: &mut Random, version: u8, bytes: &mut Vec<u8>) {
    let known: &[u8] = if version == 2 { &[0, 1, 2, 2, 3, 4] } else { &[0, 1, 2, 2, 3] };
    let version = if random.within(0, 50) == 0 { random.next() as u8 } else { version };
    let command =
        if random.within(0, 50) == 0 { random.next() as u8 } else { random.one_of(known) };
    let most = random.one_of(&[0, 8, 100, 5000]);
    let len = match command {
        1 | 3 if random.within(0, 20) > 0 => 0,
        4 if random.within(0, 20) > 0 => 8,
        _ => random.within(0, most),
    };
    let id = if random.within(0, 8) == 0 {
        random.next() as u32
    } else {
        random.one_of(&[0, 1, 3, 3, 5, 5, 7])
    };
    bytes.extend([version, command]);
    bytes.extend((len as u16).to_le_bytes());
    bytes.extend(id.to_le_bytes());
    bytes.extend(Pattern::bytes(random.next(), len));
}

// ---- threads that can't be had ------------------------------------------------------------------

/// A variable that tells the next test that it runs in a process of its own, whose address space is
/// limited.
#[cfg(target_os = "linux")]
const CHILD: &str = "GMUX_TEST_NO_THREADS";

/// A stream fails alone when the process can start no thread for its notifier. The notifier waits
/// for the thread that closes the stream, and the session goes on.
#[cfg(target_os = "linux")]
#[test]
fn a_notifier_for_which_no_thread_can_be_had_waits_for_the_close() {
    const NAME: &str = "a_notifier_for_which_no_thread_can_be_had_waits_for_the_close";
    test(NAME, || {
        if std::env::var_os(CHILD).is_some() {
            return without_threads();
        }
        let child = std::process::Command::new("sh")
            .args([
                "-c",
                "ulimit -v 2000000 && exec \"$0\" --exact --nocapture --test-threads=1 \"$1\"",
            ])
            .arg(std::env::current_exe().unwrap())
            .arg(NAME)
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        let about = String::from_utf8_lossy(&child.stderr);
        assert!(
            child.status.success() && said.contains("no thread was to be had"),
            "{said}\n{about}"
        );
    });
}

#[cfg(target_os = "linux")]
fn without_threads() {
    let (mut raw, session) = against_server(quiet().version(2), 2);
    raw.syn(1, "");
    let stream = session.accept().unwrap();
    let (tell, told) = mpsc::channel();
    stream.set_close_notifier(move |_| tell.send(thread::current().id()).unwrap());
    raw.syn(3, "");
    let mut other = session.accept().unwrap();
    // Takes the address space, and gives 1 to 1.5 MiB back. A thread's stack of 2 MiB doesn't fit
    // there. The small allocations of this process do: one that failed would abort it.
    let mut all: Vec<Vec<u8>> = Vec::with_capacity(10_000);
    for size in [64 << 20, 512 << 10] {
        loop {
            let mut piece = Vec::new();
            if piece.try_reserve_exact(size).is_err() {
                break;
            }
            all.push(piece);
        }
    }
    all.truncate(all.len() - 2);
    assert!(thread::Builder::new().spawn(|| ()).is_err(), "there is room for a thread");
    raw.upd(1, 1, 1); // Nothing was sent, so the stream fails alone.
    raw.psh(3, "x");
    other.read_exact(&mut [0]).unwrap(); // By now the failure is complete.
    assert!(stream.closed().recv().is_err());
    assert!(told.try_recv().is_err(), "nobody could call it");
    assert!(thread::Builder::new().spawn(|| ()).is_err(), "there is room for a thread");
    drop(all);
    stream.close().unwrap();
    assert_eq!(told.try_recv(), Ok(thread::current().id()));
    raw.expect(Command::Fin, 1);
    assert!(!session.is_closed());
    println!("no thread was to be had");
}

// ---- the page -----------------------------------------------------------------------------------

#[test]
fn every_test_that_the_manual_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("src/manual/testing.md")).unwrap();
    assert!(
        named_tests(&page).len() > 100,
        "only {} tests are named: the check sees nothing",
        named_tests(&page).len()
    );
    let wrong = missing(&page, |path| fs::read_to_string(root.join(path)).ok());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Each line of the page's tables names a test.
#[test]
fn every_line_of_the_manuals_tables_of_known_bugs_names_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("src/manual/testing.md")).unwrap();
    let tables = page.split("\n## ").filter(|section| section.starts_with("Known bugs"));
    let rows: Vec<_> = tables.flat_map(str::lines).filter(|line| line.starts_with("| ")).collect();
    assert!(rows.len() > 60, "only {} lines were found", rows.len());
    let is_head = |row: &str| row.starts_with("| elsewhere") || row.starts_with("| seen in");
    let empty = rows.iter().filter(|row| !is_head(row) && named_tests(row).is_empty());
    let empty: Vec<_> = empty.collect();
    assert!(empty.is_empty(), "{empty:#?}");
}

#[test]
fn the_check_of_the_page_finds_what_is_missing() {
    let text = "#[test]\nfn there() {}\nfn helper() {}\n\
                scenarios! {\n    made: of(this);\n    split:\n        of(that);\n}\nx: y";
    let read = |path: &str| (path == "tests/a.rs" || path == "src/b.rs").then(|| text.to_owned());
    let page = |name: &str| format!("| x | `{name}` and `code` |");
    for good in ["a.rs::there", "a.rs::made", "a.rs::split", "src/b.rs::there"] {
        assert_eq!(missing(&page(good), read), [""; 0], "{good}");
    }
    for bad in
        ["a.rs::gone", "a.rs::helper", "a.rs::of", "a.rs::x", "b.rs::there", "src/a.rs::there"]
    {
        assert_eq!(missing(&page(bad), read).len(), 1, "{bad}");
    }
}

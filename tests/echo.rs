//! Echo on many streams of version 2 at once, with default settings: the session doesn't freeze.
//! The server has a thread for each stream, which reads a piece and then writes it. So unread data
//! waits for the thread's writes. The clients write and read in separate threads.
//!
//! `tests/full echo` runs the full size with optimisation: 4 MiB each way on 17, 64, 128 and 512
//! streams, in five rounds. A session that freezes would cut streams after 30 s, so each test
//! checks that no stream was cut.
//!
//! Promises: P74.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use gmux::{Config, Session, Stream};
use support::blocked::started;
use support::{Pattern, pair, test_for, until};

/// The numbers of streams at full size. P74 promises up to 512.
const STREAMS: [usize; 4] = [17, 64, 128, 512];

/// The bytes of one read or write, at either end.
const PIECE: usize = 64 * 1024;

fn full() -> bool {
    std::env::var_os("GMUX_FULL").is_some()
}

/// Starts a thread with a small stack, because there are three threads for each stream.
fn small<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::Builder::new().name(name).stack_size(256 * 1024).spawn(body).unwrap()
}

/// Accepts `streams` streams, and echoes each in a thread of its own. The thread that this returns
/// ends with the session when all echoes have ended.
fn echo(server: Session, streams: usize) -> thread::JoinHandle<Session> {
    small("accept".to_owned(), move || {
        let echoes: Vec<_> = (0..streams)
            .map(|i| {
                let mut stream = server.accept().unwrap();
                small(format!("echo-{i}"), move || {
                    let mut piece = vec![0; PIECE];
                    loop {
                        match stream.read(&mut piece).unwrap() {
                            0 => return stream.shutdown(Shutdown::Write).unwrap(),
                            n => stream.write_all(&piece[..n]).unwrap(),
                        }
                    }
                })
            })
            .collect();
        echoes.into_iter().for_each(|echo| echo.join().unwrap());
        server
    })
}

fn write_pattern(mut stream: &Stream, seed: u64, each: usize) {
    let mut pattern = Pattern::new(seed);
    let mut piece = vec![0; PIECE];
    for _ in 0..each / PIECE {
        pattern.fill(&mut piece);
        stream.write_all(&piece).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn read_pattern(mut stream: &Stream, seed: u64, each: usize) {
    let mut pattern = Pattern::new(seed);
    let mut piece = vec![0; PIECE];
    let mut wanted = vec![0; PIECE];
    let mut left = each;
    loop {
        let n = stream.read(&mut piece).unwrap();
        if n == 0 {
            return assert_eq!(left, 0, "stream {seed} ends early");
        }
        pattern.fill(&mut wanted[..n]);
        assert!(piece[..n] == wanted[..n], "stream {seed}, {left} bytes before its end");
        left -= n;
    }
}

/// Checks that no stream was cut at either end.
fn nothing_cut(client: &Session, server: &Session) {
    assert_eq!((client.stats().streams_cut, server.stats().streams_cut), (0, 0));
    assert!(!client.is_closed() && !server.is_closed());
}

/// Echoes `each` bytes on each of `streams` streams at once.
fn round(streams: usize, each: usize) {
    let (client, server) = pair(Config::new().version(2));
    let echo = echo(server, streams);
    let begin = Arc::new(Barrier::new(2 * streams));
    let clients: Vec<_> = (0..streams)
        .flat_map(|i| {
            let ours = client.open(format!("{i}")).unwrap();
            let theirs = ours.clone();
            let seed = i as u64;
            let one = Arc::clone(&begin);
            let other = Arc::clone(&begin);
            let writer = small(format!("writer-{i}"), move || {
                one.wait();
                write_pattern(&ours, seed, each);
            });
            let reader = small(format!("reader-{i}"), move || {
                other.wait();
                read_pattern(&theirs, seed, each);
            });
            [writer, reader]
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let server = echo.join().unwrap();
    nothing_cut(&client, &server);
}

/// P74: the echo ends, and no stream is cut.
#[test]
fn echo_on_many_streams_ends_and_nothing_is_cut() {
    let (counts, each, rounds) =
        if full() { (&STREAMS[..], 4 << 20, 5) } else { (&[64][..], 256 << 10, 1) };
    for &streams in counts {
        for nth in 1..=rounds {
            let begin = Instant::now();
            test_for("echo_on_many_streams_ends_and_nothing_is_cut", 5 * support::WATCHDOG, || {
                round(streams, each)
            });
            println!(
                "{streams} echo streams, {each} bytes each way, round {nth}: {:?}",
                begin.elapsed()
            );
        }
    }
}

/// P74: the clients begin to read only when nothing moves any more. Then all their writers and all
/// echoes are blocked. The server's budget has room for all bytes that are on their way. So the
/// server's reader goes on, and receives the window updates for the echoes.
#[test]
fn clients_that_read_late_find_an_echo_that_moves() {
    let counts = if full() { &STREAMS[..] } else { &[17, 64, 128][..] };
    for &streams in counts {
        let begin = Instant::now();
        test_for("clients_that_read_late_find_an_echo_that_moves", 2 * support::WATCHDOG, || {
            late(streams)
        });
        println!("{streams} echo streams, read late: {:?}", begin.elapsed());
    }
}

fn late(streams: usize) {
    const EACH: usize = 1 << 20;
    let (client, server) = pair(Config::new().version(2));
    let echo = echo(server, streams);
    let ours: Vec<_> = (0..streams).map(|i| client.open(format!("{i}")).unwrap()).collect();
    let writers: Vec<_> = ours
        .iter()
        .enumerate()
        .map(|(i, stream)| {
            let stream = stream.clone();
            started(move || write_pattern(&stream, i as u64, EACH))
        })
        .collect();
    writers.iter().for_each(|writer| writer.assert_asleep());
    // A session that stands still gives no event.
    let mut before = 0;
    until(|| {
        thread::sleep(Duration::from_millis(50));
        let now = client.stats().bytes_sent + client.stats().bytes_received;
        std::mem::replace(&mut before, now) == now
    });
    thread::scope(|scope| {
        for (i, stream) in ours.iter().enumerate() {
            let read = move || read_pattern(stream, i as u64, EACH);
            thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, read).unwrap();
        }
    });
    writers.into_iter().for_each(|writer| writer.join());
    let server = echo.join().unwrap();
    nothing_cut(&client, &server);
}

//! Inline reads over real sockets. Whole conversations run alone, beside streams that are opened
//! and closed, and in several sessions at once. `fast_path_reading.rs` shows an inline read step by
//! step.
//!
//! Promises: P3.

mod support;

use std::io::{self, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use gmux::transport::{Halves, Transport};
use gmux::{Config, Session, Stream};
use support::faulty::Rng;
use support::{Pattern, tcp, test_for};

/// A transport that counts its reads, inline and by the reader thread.
struct Counted<T>(T, Arc<Counts>);

#[derive(Default)]
struct Counts {
    callers: AtomicUsize,
    reader: AtomicUsize,
}

struct CountedReader(Box<dyn Read + Send>, Arc<Counts>);

impl<T: Transport> Transport for Counted<T> {
    fn split(self) -> io::Result<Halves> {
        let mut halves = self.0.split()?;
        halves.reader = Box::new(CountedReader(halves.reader, self.1));
        Ok(halves)
    }
}

impl CountedReader {
    fn count(&self) {
        let by_reader =
            thread::current().name().is_some_and(|name| name.starts_with("gmux-reader-"));
        let counter = if by_reader { &self.1.reader } else { &self.1.callers };
        counter.fetch_add(1, SeqCst);
    }
}

impl Read for CountedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.count();
        self.0.read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.count();
        self.0.read_vectored(bufs)
    }
}

fn full() -> bool {
    std::env::var_os("GMUX_FULL").is_some()
}

/// The application at the other end: returns every byte, changed.
fn echo(mut stream: Stream) {
    let mut buf = [0; 4096];
    loop {
        let n = stream.read(&mut buf).unwrap();
        if n == 0 {
            return;
        }
        buf[..n].iter_mut().for_each(|byte| *byte ^= 0x5a);
        stream.write_all(&buf[..n]).unwrap();
    }
}

/// Sends `messages` messages, and compares every byte of the replies.
fn converse(stream: &mut Stream, seed: u64, messages: u64) {
    let mut rng = Rng::new(seed);
    for message in 0..messages {
        let bytes = Pattern::bytes(
            seed ^ message,
            1 + rng.below(if message % 50 == 0 { 6000 } else { 300 }),
        );
        stream.write_all(&bytes).unwrap();
        let mut answer = vec![0; bytes.len()];
        stream.read_exact(&mut answer).unwrap();
        assert!(
            answer.iter().zip(&bytes).all(|(a, b)| *a == *b ^ 0x5a),
            "message {message} of seed {seed}"
        );
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// Holds a whole conversation over a pair of transports. Meanwhile `beside` uses the sessions.
fn conversation<T: Transport>(
    name: &str,
    (a, b): (T, T),
    config: &Config,
    messages: u64,
    beside: impl FnOnce(&Session, &Session),
) {
    let counts = Arc::<Counts>::default();
    let client = Session::client(Counted(a, Arc::clone(&counts)), config.clone()).unwrap();
    let server = Session::server(Counted(b, Arc::clone(&counts)), config.clone()).unwrap();
    let mut stream = client.open("talk").unwrap();
    let far = server.accept().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || echo(far));
        scope.spawn(move || converse(&mut stream, messages, messages));
        beside(&client, &server);
    });
    let callers = counts.callers.load(SeqCst);
    let reader = counts.reader.load(SeqCst);
    println!(
        "{name}: {messages} messages and answers, right; {callers} reads by callers, {reader} by \
         reader threads"
    );
    assert!(callers > 0, "{name}: no caller ever read");
    let closing = thread::spawn(move || client.close());
    server.close().unwrap();
    closing.join().unwrap().unwrap();
}

/// Watchdog of the full size, which takes minutes on a busy machine.
const LONG: Duration = Duration::from_secs(1200);

#[test]
fn conversations_over_sockets_in_parallel_sessions_are_right() {
    test_for("conversations_over_sockets_in_parallel_sessions_are_right", LONG, || {
        let messages = if full() { 100_000 } else { 1500 };
        thread::scope(|scope| {
            for config in support::versions() {
                let of_unix = config.clone();
                scope.spawn(move || conversation("TCP", tcp(), &config, messages, |_, _| ()));
                #[cfg(unix)]
                scope.spawn(move || {
                    let pair = std::os::unix::net::UnixStream::pair().unwrap();
                    conversation("Unix", pair, &of_unix, messages, |_, _| ());
                });
            }
        });
    });
}

#[test]
fn a_conversation_beside_streams_that_come_and_go_is_right_and_so_are_they() {
    test_for(
        "a_conversation_beside_streams_that_come_and_go_is_right_and_so_are_they",
        LONG,
        || {
            let (messages, streams) = if full() { (100_000, 20_000) } else { (1500, 200) };
            thread::scope(|scope| {
                for (seed, config) in support::versions().into_iter().enumerate() {
                    scope.spawn(move || {
                        conversation(
                            "TCP, streams come and go",
                            tcp(),
                            &config,
                            messages,
                            |client, server| {
                                thread::scope(|scope| {
                                    scope.spawn(|| come_and_go(client, 7 + seed as u64, streams));
                                    scope.spawn(|| come_and_go(server, 70 + seed as u64, streams));
                                    scope.spawn(|| take_in(client, streams));
                                    scope.spawn(|| take_in(server, streams));
                                });
                            },
                        );
                    });
                }
            });
        },
    );
}

/// Opens streams, sends a little on each, and closes it. Pauses now and then, so that the
/// conversation is alone for a while.
fn come_and_go(session: &Session, seed: u64, streams: u64) {
    let mut rng = Rng::new(seed);
    for _ in 0..streams {
        let len = rng.below(3000);
        let mut stream = session.open(len.to_string()).unwrap();
        stream.write_all(&Pattern::bytes(len as u64, len)).unwrap();
        if rng.chance(50) {
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
        drop(stream);
        if rng.chance(30) {
            thread::sleep(Duration::from_millis(rng.below(4) as u64));
        }
    }
}

/// Accepts the streams of the other end's [`come_and_go`], and checks their data.
fn take_in(session: &Session, streams: u64) {
    for _ in 0..streams {
        let mut stream = session.accept().unwrap();
        let len: usize = stream.name().parse().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == Pattern::bytes(len as u64, len), "stream {}", stream.id());
    }
}

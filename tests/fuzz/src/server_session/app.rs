//! The application of the fuzzed session, and its records of the streams.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::feed::Feed;
use crate::{Choices, Config, Receiver, Session, Stream};

/// The application's record of one stream.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) id: u32,
    /// It was opened from this end.
    pub(super) ours: bool,
    pub(super) name: Vec<u8>,
    pub(super) read: Vec<u8>,
    pub(super) wrote: Vec<u8>,
    /// A read returned the end of the stream.
    pub(super) eof: bool,
    /// A read failed for good.
    failed: bool,
    pub(super) shut_read: bool,
    /// It was read to its end, or to the session's end.
    pub(super) complete: bool,
}

impl Seen {
    fn new(stream: &Stream, ours: bool) -> Self {
        Self { id: stream.id(), ours, name: stream.name_bytes().to_vec(), ..Self::default() }
    }

    /// Records the result of a read into a buffer that isn't empty. Returns the number of bytes.
    fn take(&mut self, result: io::Result<usize>, buf: &[u8]) -> usize {
        match result {
            Ok(0) => self.eof = true,
            Ok(n) => {
                assert!(!self.eof && !self.failed, "{}: {n} bytes after the end", self.id);
                self.read.extend_from_slice(&buf[..n]);
                return n;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                assert!(!self.eof && !self.failed, "{}: nothing yet, after the end", self.id);
            }
            Err(error) => {
                assert_ne!(error.kind(), io::ErrorKind::Interrupted);
                assert_ne!(error.kind(), io::ErrorKind::UnexpectedEof);
                self.failed = true;
            }
        }
        0
    }
}

/// Upper limits of the session's own counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    buffered: usize,
    max_streams: usize,
}

impl Bounds {
    pub(super) fn new(config: &Config) -> Self {
        // One frame may be larger than the whole budget, and a small rest is charged before the
        // large buffer is refunded. On version 2, a write that waits for credit lets the budget
        // hold twice as much.
        let limit = config.max_receive_buffer * usize::from(config.version);
        let buffered = limit.max(65536 + 64) + 8192 + 64;
        Self { buffered, max_streams: config.max_streams }
    }
}

pub(super) struct App {
    session: Session,
    /// Is disconnected when the session has ended and its streams know of it.
    closed: Receiver<()>,
    bounds: Bounds,
    streams: Vec<(Stream, Seen)>,
    /// Streams that were closed or dropped.
    done: Vec<Seen>,
    /// The thread of the blocking application.
    helper: Option<JoinHandle<Vec<Seen>>>,
}

/// Accepts, reads, echoes and closes, one stream at a time, until the session ends.
fn blocking_app(session: &Session) -> Vec<Seen> {
    let mut streams = Vec::new();
    while let Ok(mut stream) = session.accept() {
        let mut seen = Seen::new(&stream, false);
        let mut buf = [0; 5000];
        loop {
            let result = stream.read(&mut buf);
            match seen.take(result, &buf) {
                0 => break,
                n => match stream.write(&buf[..n]) {
                    Ok(n) => seen.wrote.extend_from_slice(&buf[..n]),
                    Err(_) => break,
                },
            }
        }
        let _ = stream.close();
        streams.push(seen);
    }
    streams
}

impl App {
    pub(super) fn new(session: Session, bounds: Bounds, blocking: bool) -> Self {
        let helper = blocking.then(|| {
            let session = session.clone();
            thread::spawn(move || blocking_app(&session))
        });
        Self {
            closed: session.closed(),
            session,
            bounds,
            streams: Vec::new(),
            done: Vec::new(),
            helper,
        }
    }

    /// Whether the reader has ever waited for budget.
    pub(super) fn may_be_paused(&self) -> bool {
        self.session.stats().receive_pauses > 0
    }

    /// Asserts the conditions that hold at any time.
    pub(super) fn check(&self) {
        let stats = self.session.stats();
        let Bounds { buffered, max_streams } = self.bounds;
        assert!(stats.receive_buffered as usize <= buffered, "{stats:?}, {:?}", self.bounds);
        assert!(self.session.num_streams() <= 2 * max_streams, "{stats:?}, {:?}", self.bounds);
    }

    fn accept(&mut self) -> bool {
        let Ok(Some(stream)) = self.session.try_accept() else { return false };
        let seen = Seen::new(&stream, false);
        self.keep(stream, seen);
        true
    }

    fn keep(&mut self, stream: Stream, seen: Seen) {
        stream.set_nonblocking(true).expect("it can be set");
        self.streams.push((stream, seen));
    }

    /// Performs some operations between two pieces of input.
    pub(super) fn step(&mut self, choices: &mut Choices) {
        if self.helper.is_some() {
            return;
        }
        for _ in 0..choices.below(4) {
            let op = choices.byte();
            let n = choices.length();
            let nth = usize::from(op / 16) % self.streams.len().max(1);
            match (op % 16, self.streams.get_mut(nth)) {
                (0 | 1, _) | (_, None) if op < 240 => {
                    let _ = self.accept();
                }
                (0 | 1, _) | (_, None) => {
                    if let Ok(stream) = self.session.open(&[b'o'; 70][..n % 70]) {
                        let seen = Seen::new(&stream, true);
                        self.keep(stream, seen);
                    }
                }
                (2..=4, Some(held)) => {
                    let _ = read(held, n);
                }
                (5 | 6, Some(held)) => {
                    let from = held.1.read.len();
                    read(held, n);
                    let heard = held.1.read[from..].to_vec();
                    write(held, &heard);
                }
                (7, Some(held)) => write(held, &vec![op; n]),
                (8, Some((stream, seen))) => {
                    let mut out = Vec::new();
                    match stream.write_to(&mut out) {
                        Ok(n) => {
                            assert_eq!(n as usize, out.len());
                            seen.eof = true;
                        }
                        Err(error) => {
                            let _ = seen.take(Err(error), &[]);
                        }
                    }
                    seen.read.extend(out);
                }
                (9, Some((stream, _))) => {
                    let _ = stream.flush();
                }
                (10, Some((stream, _))) => {
                    let _ = stream.shutdown(Shutdown::Write);
                }
                (11, Some((stream, seen))) => {
                    if stream.shutdown(Shutdown::Read).is_ok() {
                        seen.shut_read = true;
                    }
                }
                (12, Some((stream, _))) => {
                    stream.close().expect("closing a stream never fails");
                    self.done.push(self.streams.swap_remove(nth).1);
                }
                (13, Some(_)) => self.done.push(self.streams.swap_remove(nth).1),
                (14, Some(_)) => while self.accept() {},
                (_, Some((stream, _))) => {
                    stream.set_write_deadline(None);
                    stream.set_nonblocking(true).expect("it can be set");
                }
            }
        }
    }

    /// Reads until the session has ended and every stream has returned its end or its error.
    pub(super) fn read_all(&mut self) {
        if self.helper.is_some() {
            return;
        }
        loop {
            // The reader may be waiting for budget, and then no event tells of new data.
            let over = self.closed.recv_timeout(Duration::from_micros(200))
                != Err(crossbeam_channel::RecvTimeoutError::Timeout);
            while self.accept() {}
            for held in &mut self.streams {
                while read(held, 65536) > 0 {}
            }
            if over {
                break;
            }
        }
        for (_, seen) in &mut self.streams {
            assert!(
                seen.eof || seen.failed,
                "{}: the session has ended, and the stream hasn't",
                seen.id
            );
            seen.complete = true;
        }
    }

    pub(super) fn close_streams(&mut self) {
        for (stream, seen) in self.streams.drain(..) {
            stream.close().expect("closing a stream never fails");
            stream.close().expect("nor does a second time");
            self.done.push(seen);
        }
    }

    pub(super) fn drain(&self) {
        let _ = self.session.drain(Duration::from_millis(1));
    }

    /// Lets go of everything, by closing or by dropping the handles. Returns the records.
    pub(super) fn leave(self, by_drop: bool, feed: &Feed) -> Vec<Seen> {
        let Self { session, streams, mut done, helper, .. } = self;
        feed.release();
        if helper.is_some() || !by_drop {
            let _ = session.close();
            assert!(session.is_closed());
            while let Ok(stream) = session.try_accept() {
                assert!(stream.is_some(), "no accept waits after the end");
            }
        }
        if let Some(helper) = helper {
            done.extend(helper.join().expect("the application doesn't panic"));
        }
        for (stream, seen) in streams {
            drop(stream);
            done.push(seen);
        }
        done
    }
}

/// Reads once, at most `n` bytes and at least one. Returns the number of bytes.
fn read((stream, seen): &mut (Stream, Seen), n: usize) -> usize {
    let mut buf = vec![0; n.max(1)];
    let result = stream.read(&mut buf);
    seen.take(result, &buf)
}

fn write((stream, seen): &mut (Stream, Seen), data: &[u8]) {
    if let Ok(n) = stream.write(data) {
        seen.wrote.extend_from_slice(&data[..n]);
    }
}

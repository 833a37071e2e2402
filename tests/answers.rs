//! Tests of answers that a transport sends by itself to bytes that it has read
//! (`Control::wants_flush`). They are sent whichever thread reads, and whatever the writer thread
//! does at that moment.
//!
//! The transport of these tests owes an answer after every read that brought bytes or returned
//! `Interrupted`. Only a flush sends the answer.
//!
//! Promises: P82, P95.

mod support;

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use gmux::transport::{Control, Halves, Transport};
use gmux::wire::{Command, Frame};
use gmux::{Config, Session};

use support::{splitmix64, tcp, test, until};

/// The state of a TCP connection that answers its input.
#[derive(Default)]
struct Answers {
    /// Number of reads that made an answer necessary.
    owed: AtomicU64,
    /// Number of these reads whose answer was sent.
    sent: AtomicU64,
    /// Writes wait while this is set.
    shut: AtomicBool,
    /// The next read returns `Interrupted`, and keeps its bytes for the read after it.
    hides: AtomicBool,
    panics: AtomicBool,
    /// Names of the threads that called `wants_flush` while an answer was owed.
    asked: Mutex<BTreeSet<String>>,
}

impl Answers {
    fn owes(&self) -> bool {
        self.owed.load(SeqCst) > self.sent.load(SeqCst)
    }

    /// Waits until no answer is owed. The watchdog limits the wait.
    fn wait_sent(&self) {
        until(|| !self.owes());
    }
}

struct Answering(TcpStream, Arc<Answers>);

impl Transport for Answering {
    fn split(self) -> io::Result<Halves> {
        let Halves { reader, writer, bound_writes, bound_reads, control, .. } = self.0.split()?;
        let answers = self.1;
        let reader = Reader { inner: reader, hidden: Vec::new(), answers: Arc::clone(&answers) };
        let mut halves =
            Halves::new(reader, Writer(writer, Arc::clone(&answers)), Asked(control, answers));
        halves.bounded_writes = true;
        halves.bound_writes = bound_writes;
        halves.bound_reads = bound_reads;
        Ok(halves)
    }
}

struct Reader {
    inner: Box<dyn Read + Send>,
    hidden: Vec<u8>,
    answers: Arc<Answers>,
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.hidden.is_empty() {
            if self.answers.owes() {
                // No more input comes before the answer.
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = self.hidden.len().min(buf.len());
            buf[..n].copy_from_slice(&self.hidden[..n]);
            self.hidden.drain(..n);
            return Ok(n);
        }
        let n = self.inner.read(buf)?;
        if n > 0 {
            self.answers.owed.fetch_add(1, SeqCst);
        }
        if n > 0 && self.answers.hides.load(SeqCst) {
            self.hidden = buf[..n].to_vec();
            self.answers.hides.store(false, SeqCst);
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(n)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        bufs.iter_mut().find(|buf| !buf.is_empty()).map_or(Ok(0), |buf| self.read(buf))
    }
}

struct Writer(Box<dyn Write + Send>, Arc<Answers>);

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.1.shut.load(SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.1.shut.load(SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        let owed = self.1.owed.load(SeqCst);
        self.0.flush()?;
        self.1.sent.store(owed, SeqCst);
        Ok(())
    }
}

struct Asked(Box<dyn Control>, Arc<Answers>);

impl Control for Asked {
    fn finish_write(&self) -> io::Result<()> {
        self.0.finish_write()
    }

    fn abort(&self) {
        self.0.abort();
    }

    fn wants_flush(&self) -> bool {
        assert!(!self.1.panics.load(SeqCst), "as ordered");
        let owes = self.1.owes();
        if owes {
            self.1
                .asked
                .lock()
                .unwrap()
                .insert(thread::current().name().unwrap_or_default().to_owned());
        }
        owes
    }
}

/// Makes a server's session over an answering transport. The other end is a plain socket.
fn fixture() -> (Session, TcpStream, Arc<Answers>) {
    let (a, b) = tcp();
    let answers = Arc::new(Answers::default());
    let config = Config::new().keepalive_disabled(true).close_timeout(Duration::from_secs(600));
    (Session::server(Answering(b, Arc::clone(&answers)), config).unwrap(), a, answers)
}

fn nop() -> Vec<u8> {
    Frame::new(1, Command::Nop, 0, []).unwrap().encode()
}

/// The writer thread parks after each answer. Each answer comes at another moment of the parking,
/// and none is left behind.
#[test]
fn each_answer_is_sent_though_nothing_else_is() {
    test("each_answer_is_sent_though_nothing_else_is", || {
        let (session, mut peer, answers) = fixture();
        let mut seed = 1;
        for _ in 0..5000 {
            peer.write_all(&nop()).unwrap();
            until_spinning(|| answers.owed.load(SeqCst) > 0 && !answers.owes());
            answers.owed.store(0, SeqCst);
            answers.sent.store(0, SeqCst);
            for _ in 0..splitmix64(&mut seed) % 4000 {
                std::hint::spin_loop();
            }
        }
        drop(peer);
        drop(session);
    });
}

/// Waits for a condition that becomes true within microseconds. The watchdog limits the wait.
fn until_spinning(mut done: impl FnMut() -> bool) {
    while !done() {
        thread::yield_now();
    }
}

/// A read that brings nothing for the session may still make an answer necessary.
#[test]
fn an_answer_to_a_read_that_is_tried_again_is_sent() {
    test("an_answer_to_a_read_that_is_tried_again_is_sent", || {
        let (session, mut peer, answers) = fixture();
        for _ in 0..100 {
            answers.hides.store(true, SeqCst);
            let before = answers.owed.load(SeqCst);
            peer.write_all(&nop()).unwrap();
            until(|| answers.owed.load(SeqCst) > before);
            answers.wait_sent();
        }
        drop(peer);
        drop(session);
    });
}

/// Callers that read inline, in place of the reader thread, call `wants_flush` too. The writer
/// thread sends the answers.
#[test]
fn callers_that_read_have_answers_sent_too() {
    test("callers_that_read_have_answers_sent_too", || {
        let (a, b) = tcp();
        let answers = Arc::new(Answers::default());
        let server = Session::server(Answering(b, Arc::clone(&answers)), Config::new()).unwrap();
        let client = Session::client(a, Config::new()).unwrap();
        let opened = client.open("talk").unwrap();
        let accepted = server.accept().unwrap();
        let name = "talker".to_owned();
        let echo = thread::Builder::new().name(name.clone()).spawn(move || {
            let mut byte = [0];
            while (&accepted).read(&mut byte).unwrap() > 0 {
                (&accepted).write_all(&byte).unwrap();
            }
        });
        // The scheduler decides whether a caller reads inline. So this repeats until one has.
        until(|| {
            for _ in 0..100 {
                (&opened).write_all(&[7]).unwrap();
                (&opened).read_exact(&mut [0]).unwrap();
            }
            answers.asked.lock().unwrap().contains(&name)
        });
        answers.wait_sent(); // Also the last answer is sent.
        opened.close().unwrap();
        echo.unwrap().join().unwrap();
        client.close().unwrap();
        server.close().unwrap();
    });
}

/// The writer thread is stuck in a write when the answer becomes necessary. It sends the answer
/// when the write returns, even if it was told to finish meanwhile.
#[test]
fn an_answer_waits_for_a_writer_that_is_stuck_and_is_sent_before_the_end() {
    test("an_answer_waits_for_a_writer_that_is_stuck_and_is_sent_before_the_end", || {
        let (session, mut peer, answers) = fixture();
        let stream = session.open("stuck").unwrap();
        let mut syn = [0; 8 + 5];
        peer.read_exact(&mut syn).unwrap();
        answers.shut.store(true, SeqCst);
        (&stream).write_all(&[1; 100]).unwrap();
        peer.write_all(&nop()).unwrap();
        until(|| !answers.asked.lock().unwrap().is_empty());
        let closing = thread::spawn({
            let session = session.clone();
            move || session.close()
        });
        until(|| session.is_closed());
        assert!(answers.owes());
        answers.shut.store(false, SeqCst);
        answers.wait_sent();
        drop(stream);
        io::copy(&mut peer, &mut io::sink()).unwrap();
        drop(peer);
        closing.join().unwrap().unwrap();
    });
}

#[test]
fn a_panic_in_the_question_ends_the_session_with_an_error() {
    test("a_panic_in_the_question_ends_the_session_with_an_error", || {
        let (session, mut peer, answers) = fixture();
        answers.panics.store(true, SeqCst);
        peer.write_all(&nop()).unwrap();
        let error = session.accept().unwrap_err();
        assert!(error.to_string().contains("as ordered"), "{error}");
    });
}

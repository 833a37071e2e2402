//! One run of the script: a session over a transport that may panic, with its peer. Other sessions
//! of the process must not notice.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use gmux::{Config, Error, Session, Stream};

use super::support::{gmux_threads, until};
use super::trap::{Kind, LOGGER, Logger, Over, PANICS, Trap, count_panics};

/// The way in which the session ends, unless the panic ends it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Close,
    /// Its last handle is dropped.
    Drop,
    /// The timer ends it.
    NoData,
    /// The peer ends it.
    Lost,
}

impl Ending {
    pub const ALL: [Self; 4] = [Self::Close, Self::Drop, Self::NoData, Self::Lost];
}

/// Close timeout. If the write half panics during a close, the peer doesn't learn of the end, and
/// the session waits this long for it.
const CLOSE: Duration = Duration::from_millis(100);

fn quiet() -> Config {
    Config::new().keepalive_disabled(true)
}

/// A session that must not notice anything. Its peer counts its pings.
struct Bystander {
    session: Option<Session>,
    pings: Receiver<()>,
    threads: usize,
    descriptors: usize,
}

pub struct PanicRun(Bystander);

impl PanicRun {
    pub fn begin() -> Self {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(count_panics);
        Logger::install();
        LOGGER.arm(0, Kind::Text);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // The keepalive timeout is longer than any test, since the peer never sends anything.
        let config = Config::new()
            .keepalive_interval(Duration::from_millis(2))
            .keepalive_timeout(Duration::from_secs(900));
        let session = Session::client(ours, config).unwrap();
        let (tell, pings) = mpsc::channel();
        thread::spawn(
            move || while theirs.read_exact(&mut [0; 8]).is_ok() && tell.send(()).is_ok() {},
        );
        pings.recv().unwrap();
        until(|| gmux_threads().len() == 3); // The third is the timer.
        Self(Bystander { session: Some(session), pings, threads: 3, descriptors: descriptors() })
    }

    /// Runs the script once, and asserts that everything works afterwards. The log line with the
    /// number `line` panics, if there is one.
    pub fn play(&self, trap: &Trap, (line, kind): (usize, Kind), version: u8, ending: Ending) {
        // 12 requests and answers are more than it takes before calling threads read inline, where
        // the transport allows that.
        let talks = if trap.over == Over::Halves && line == 0 { 12 } else { 3 };
        let before = PANICS.load(SeqCst);
        LOGGER.arm(line, kind);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (idle, _idle_peer) = UnixStream::pair().unwrap();
        let idle = Session::client(idle, quiet()).unwrap();
        let config = quiet().version(version).close_timeout(CLOSE);
        let peer = Session::server(theirs, config.clone()).unwrap();
        let serving = thread::spawn({
            let peer = peer.clone();
            move || serve(&peer)
        });
        match trap.session(ours, config) {
            Ok(session) => self.act(session, &peer, ending, talks),
            Err(error) => assert!(error.to_string().contains("panicked"), "{error}"),
        }

        // The peer has seen the end of the connection.
        assert!(peer.closed().recv().is_err());
        serving.join().unwrap();
        drop(peer);
        // Keepalive goes on. The time limits of a session that existed before still work.
        while self.0.pings.try_recv().is_ok() {}
        self.0.pings.recv().unwrap();
        idle.set_no_data_timeout(Some(Duration::from_millis(1))).unwrap();
        assert!(idle.closed().recv().is_err());
        assert!(matches!(idle.close_reason(), Some(Error::NoData(_))));
        drop(idle);
        drop(_idle_peer);
        // Nothing is left of the other sessions.
        until(|| gmux_threads().len() == self.0.threads);
        until(|| descriptors() == self.0.descriptors);
        let logger = LOGGER.disarm();
        let transport = trap.sprung();
        let ordered = usize::from(logger) + usize::from(transport.is_some());
        let panics = || PANICS.load(SeqCst) - before;
        until(|| panics() >= ordered); // The line may belong to a bystander.
        assert_eq!(panics(), ordered, "{transport:?}: a panic led to others");
        let lines = LOGGER.take_panics();
        assert_eq!(lines.len(), usize::from(transport.is_some()), "{transport:?}: {lines:?}");
    }

    /// The session's part of the script. Each step may fail.
    fn act(&self, session: Session, peer: &Session, ending: Ending, talks: usize) {
        let mut notices = Vec::new();
        let mut open = |name: &str| {
            let stream = session.open(name).ok()?;
            let count = Arc::new(AtomicUsize::new(0));
            notices.push(Arc::clone(&count));
            stream.set_close_notifier(move |_| {
                count.fetch_add(1, SeqCst);
            });
            Some(stream)
        };
        let talk = open("talk");
        let silent = open("silent");
        let full = open("full");
        if let Some(mut stream) = talk.as_ref() {
            for _ in 0..talks {
                if stream.write_all(b"?").is_err() || stream.read_exact(&mut [0]).is_err() {
                    break;
                }
            }
        }
        let mut blocked = Vec::new();
        if ending != Ending::Drop {
            let acceptor = session.clone();
            blocked.push(thread::spawn(move || {
                let _ = acceptor.accept().unwrap_err();
            }));
            blocked.extend(silent.clone().map(|mut stream| {
                thread::spawn(move || {
                    let _ = stream.read(&mut [0]);
                })
            }));
            // On version 2 this uses up the stream's window. On version 1 the data is accepted or
            // sent.
            blocked.extend(full.clone().map(|mut stream| {
                thread::spawn(move || {
                    let _ = stream.write_all(&vec![0; 400_000]);
                })
            }));
        }
        let closed = session.closed();
        match ending {
            Ending::Close => {
                let _ = session.close();
            }
            Ending::Drop => {}
            Ending::NoData => {
                session.set_no_data_timeout(Some(Duration::from_millis(1))).unwrap();
                assert!(closed.recv().is_err());
            }
            Ending::Lost => {
                let _ = peer.close();
                assert!(closed.recv().is_err());
            }
        }
        for thread in blocked {
            thread.join().unwrap();
        }
        drop(talk);
        drop(silent);
        drop(full);
        drop(session);
        assert!(closed.recv().is_err());
        until(|| notices.iter().all(|count| count.load(SeqCst) > 0));
        // A count has a single reference once no notifier can be called any more.
        until(|| notices.iter().all(|count| Arc::strong_count(count) == 1));
        assert!(notices.iter().all(|count| count.load(SeqCst) == 1), "a notifier was called twice");
    }
}

impl Drop for PanicRun {
    fn drop(&mut self) {
        let _ = self.0.session.take();
    }
}

/// The peer's part of the script. It answers on one stream and keeps the others.
fn serve(peer: &Session) {
    let mut kept: Vec<Stream> = Vec::new();
    for stream in peer.incoming() {
        let Ok(mut stream) = stream else { break };
        if stream.name() == "talk" {
            let mut byte = [0];
            while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
        }
        kept.push(stream);
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

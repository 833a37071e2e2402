//! The attacked process: a server with two ports, the doors. It measures itself.
//!
//! - Behind the bad door are sessions with the attack's settings. Their application behaves as
//!   suits the attacker.
//! - Behind the good door are sessions of well-behaved peers. The server serves them as usual.
//!
//! It is a process of its own, so that memory, threads, processor time and panics are the victim's
//! alone. Commands come by its standard input, one a line. Its answers are lines that begin with
//! [`MARK`], since the test harness writes to the same output.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, Read, Write, stdin};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use gmux::{Config, Error, Session, Stream};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::attacks::{self, App};

/// The beginning of each of its answers.
pub const MARK: &str = "@@ ";

/// The variable that holds the attack's name and the protocol version.
pub const ATTACK: &str = "GMUX_HOSTILE_ATTACK";

/// Counts the log lines, and keeps none. `trace` isn't counted. It documents that it has a line for
/// each frame.
struct Lines;

static LINES: AtomicU64 = AtomicU64::new(0);
static LONGEST: AtomicUsize = AtomicUsize::new(0);
static PANICS: AtomicU64 = AtomicU64::new(0);
/// Streams that the attacked application holds, or held.
static ACCEPTED: AtomicU64 = AtomicU64::new(0);
/// Stream payload that the well-behaved sessions' application has read.
static SERVED: AtomicU64 = AtomicU64::new(0);

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && record.target().starts_with("gmux") {
            LINES.fetch_add(1, SeqCst);
            LONGEST.fetch_max(record.args().to_string().len(), SeqCst);
        }
    }

    fn flush(&self) {}
}

/// Returns a number from `/proc/self/status`. A number in kB is returned in bytes.
fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or(": 0");
    let number: u64 = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0);
    if line.ends_with("kB") { number * 1024 } else { number }
}

/// Returns the processor time that the process has used, in ticks of 10 ms.
fn ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    fields
        .get(11..13)
        .map_or(0, |fields| fields.iter().filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// The values when measuring began, and the peaks since then.
struct Peaks {
    began: Instant,
    resident: u64,
    ticks: u64,
    served: u64,
    lines: u64,
    buffered: AtomicU64,
    threads: AtomicU64,
}

impl Peaks {
    fn begin() -> Self {
        // The peak of memory starts at the memory in use now.
        let _ = fs::write("/proc/self/clear_refs", "5");
        Self {
            began: Instant::now(),
            resident: status("VmRSS"),
            ticks: ticks(),
            served: SERVED.load(SeqCst),
            lines: LINES.load(SeqCst),
            buffered: AtomicU64::new(0),
            threads: AtomicU64::new(0),
        }
    }
}

/// The attacked sessions.
#[derive(Default)]
struct Attacked(Mutex<Sessions>);

#[derive(Default)]
struct Sessions {
    alive: Vec<Session>,
    /// Counts of the sessions that are gone, and why they ended.
    gone: HashMap<&'static str, u64>,
    reasons: Vec<String>,
    ended: u64,
}

fn counts(session: &Session) -> [(&'static str, u64); 9] {
    let stats = session.stats();
    [
        ("frames", stats.frames_received),
        ("bytes", stats.bytes_received),
        ("sent", stats.bytes_sent),
        ("received", stats.streams_received),
        ("refused", stats.streams_refused),
        ("cut", stats.streams_cut),
        ("ignored", stats.frames_ignored),
        ("pauses", stats.receive_pauses),
        ("streams_peak", stats.streams_peak),
    ]
}

impl Attacked {
    fn add(&self, session: Session) {
        self.sweep();
        self.0.lock().unwrap().alive.push(session);
    }

    /// Lets go of the sessions that have ended. Otherwise the test itself would keep their memory.
    fn sweep(&self) {
        let mut gone = Vec::new();
        let mut sessions = self.0.lock().unwrap();
        let Sessions { alive, .. } = &mut *sessions;
        for i in (0..alive.len()).rev() {
            if alive[i].close_reason().is_some() {
                gone.push(alive.swap_remove(i));
            }
        }
        for session in &gone {
            let reason =
                session.close_reason().map(|error| format!("{error:?}")).unwrap_or_default();
            let known = reason.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
            if !sessions.reasons.contains(&known) {
                sessions.reasons.push(known);
            }
            sessions.ended += 1;
            for (key, count) in counts(session) {
                *sessions.gone.entry(key).or_default() += count;
            }
        }
        drop(sessions);
        drop(gone);
    }

    fn buffered(&self) -> u64 {
        self.0.lock().unwrap().alive.iter().map(|session| session.stats().receive_buffered).sum()
    }

    fn report(&self, peaks: &Peaks) -> String {
        self.sweep();
        let sessions = self.0.lock().unwrap();
        let mut sums = sessions.gone.clone();
        for (key, count) in sessions.alive.iter().flat_map(counts) {
            *sums.entry(key).or_default() += count;
        }
        let mut text: String = sums.iter().map(|(key, count)| format!("{key}={count} ")).collect();
        let more = [
            ("memory_peak", status("VmHWM").saturating_sub(peaks.resident)),
            ("memory_now", status("VmRSS").saturating_sub(peaks.resident)),
            ("buffered_peak", peaks.buffered.load(SeqCst).max(self.buffered_of(&sessions))),
            ("buffered_now", self.buffered_of(&sessions)),
            ("threads_peak", peaks.threads.load(SeqCst).max(status("Threads"))),
            ("lines", LINES.load(SeqCst) - peaks.lines),
            ("longest_line", LONGEST.load(SeqCst) as u64),
            ("panics", PANICS.load(SeqCst)),
            ("millis", peaks.began.elapsed().as_millis() as u64),
            ("cpu_millis", (ticks() - peaks.ticks) * 10),
            ("served", SERVED.load(SeqCst) - peaks.served),
            ("accepted", ACCEPTED.load(SeqCst)),
            ("alive", sessions.alive.len() as u64),
            ("ended", sessions.ended),
        ];
        for (key, value) in more {
            text += &format!("{key}={value} ");
        }
        text + &format!("reasons={}", sessions.reasons.join(","))
    }

    fn buffered_of(&self, sessions: &Sessions) -> u64 {
        sessions.alive.iter().map(|session| session.stats().receive_buffered).sum()
    }
}

/// Runs the attacked process, from start to end.
pub fn main(attack: &str) {
    let _ = log::set_logger(&Lines);
    log::set_max_level(LevelFilter::Debug);
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, SeqCst);
        told(info);
    }));

    let (name, version) = attack.split_once(' ').unwrap();
    let attack = attacks::find(name);
    let config = attack.config(version.parse().unwrap());
    let attacked: Arc<Attacked> = Arc::default();
    let peaks = Arc::new(Mutex::new(Peaks::begin()));

    let bad = TcpListener::bind("127.0.0.1:0").unwrap();
    let good = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{MARK}{} {}", bad.local_addr().unwrap(), good.local_addr().unwrap());
    let app = attack.app;
    let sessions = Arc::clone(&attacked);
    thread::spawn(move || {
        for connection in bad.incoming() {
            let session = Session::server(connection.unwrap(), config.clone()).unwrap();
            sessions.add(session.clone());
            thread::spawn(move || apply(app, session));
        }
    });
    thread::spawn(move || {
        for connection in good.incoming() {
            let session = Session::server(connection.unwrap(), Config::new()).unwrap();
            thread::spawn(move || serve(&session));
        }
    });
    let sessions = Arc::clone(&attacked);
    let watched = Arc::clone(&peaks);
    thread::spawn(move || {
        loop {
            let watched = watched.lock().unwrap();
            watched.buffered.fetch_max(sessions.buffered(), SeqCst);
            watched.threads.fetch_max(status("Threads"), SeqCst);
            drop(watched);
            thread::sleep(Duration::from_millis(5)); // The gauge has no event for its peak.
        }
    });
    for command in stdin().lock().lines() {
        match command.unwrap().as_str() {
            "begin" => {
                *peaks.lock().unwrap() = Peaks::begin();
                println!("{MARK}begun");
            }
            "report" => println!("{MARK}{}", attacked.report(&peaks.lock().unwrap())),
            other => panic!("unknown command {other:?}"),
        }
    }
    assert_eq!(PANICS.load(SeqCst), 0, "a thread panicked");
}

/// The name of a stream whose bytes aren't counted as served.
pub const NEIGHBOUR: &str = "a neighbour";

/// The application behind the good door. It reads each stream to its end, and answers with the
/// count.
fn serve(session: &Session) {
    for stream in session.incoming() {
        let Ok(mut stream) = stream else { return };
        thread::spawn(move || {
            let mut piece = vec![0; 65536];
            let mut total = 0;
            let counted = u64::from(stream.name() != NEIGHBOUR);
            while let Ok(n @ 1..) = stream.read(&mut piece) {
                total += n as u64;
                SERVED.fetch_add(n as u64 * counted, SeqCst);
            }
            let _ = stream.write_all(&total.to_le_bytes()); // Its peer may be gone.
        });
    }
}

/// The application behind the bad door.
fn apply(app: App, session: Session) {
    match app {
        App::Ignores => {
            let _ = session.closed().recv();
        }
        App::Drops => session.incoming().for_each(drop),
        App::Holds => hold(&session, false, |_| ()),
        App::HoldsWhatIsGood => hold(&session, true, |_| ()),
        App::Reads => {
            for stream in session.incoming() {
                let Ok(mut stream) = stream else { return };
                thread::spawn(move || {
                    let mut piece = vec![0; 65536];
                    while let Ok(1..) = stream.read(&mut piece) {}
                });
            }
        }
        App::Fills => {
            for stream in session.incoming() {
                let Ok(mut stream) = stream else { return };
                if stream.name() == "fill" {
                    thread::spawn(move || while let Ok(1..) = stream.write(&[7; 65536]) {});
                }
            }
        }
        App::ReadsInBursts => {
            let Ok(mut stream) = session.accept() else { return };
            let mut piece = vec![0; 65536];
            loop {
                // Any read may let the session go on. So everything that waits is read before the
                // next wait for a pause.
                let pauses = session.stats().receive_pauses;
                stream.set_nonblocking(true).unwrap();
                loop {
                    match stream.read(&mut piece) {
                        Ok(1..) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                        Ok(0) | Err(_) => return,
                    }
                }
                while session.stats().receive_pauses == pauses && !session.is_closed() {
                    thread::sleep(Duration::from_millis(1)); // A pause has no event.
                }
            }
        }
        App::NotifiesSlowly => {
            let (go, wait) = mpsc::channel::<()>();
            let wait = Arc::new(Mutex::new(wait));
            hold(&session, false, move |stream| {
                let wait = Arc::clone(&wait);
                // The notifier runs as long as the session lives.
                stream.set_close_notifier(move |_| {
                    // A disconnected channel means that the session is over.
                    let _ = wait.lock().unwrap().recv();
                });
            });
            drop(go);
        }
    }
}

/// Accepts streams and keeps them: forever, or until they fail.
fn hold(session: &Session, sweep: bool, mut accepted: impl FnMut(&Stream)) {
    let mut held: Vec<Stream> = Vec::new();
    let mut swept = Instant::now();
    loop {
        match session.accept_timeout(Duration::from_millis(5)) {
            Ok(stream) => {
                accepted(&stream);
                held.push(stream);
                ACCEPTED.fetch_add(1, SeqCst);
            }
            Err(Error::Timeout) => {}
            Err(_) => return,
        }
        if sweep && swept.elapsed() > Duration::from_millis(5) {
            held.retain(|stream| stream.closed().try_recv() != Err(TryRecvError::Disconnected));
            swept = Instant::now();
        }
    }
}

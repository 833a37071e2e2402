//! The attacker's side. It starts the victim, attacks it, asks for its state, and keeps a
//! well-behaved peer busy beside the attack.

use std::collections::HashMap;
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gmux::wire::Command::{Fin, Syn};
use gmux::wire::{Frame, Header};
use gmux::{Config, Session};

use super::attacks::{Answers, Attack, Fate, count_frames};
use super::support::Pattern;
use super::victim::{ATTACK, MARK};

/// Time without progress after which the attacker asks whether the victim still reads.
const NO_PROGRESS: Duration = Duration::from_millis(50);

/// The victim's report of its own state. See `victim.rs` for the words.
#[derive(Debug)]
pub struct Report {
    numbers: HashMap<String, u64>,
    pub reasons: String,
}

impl Report {
    fn parse(line: &str) -> Self {
        let words = line.split_whitespace().filter_map(|word| word.split_once('='));
        let (reasons, numbers): (Vec<_>, Vec<_>) = words.partition(|(key, _)| *key == "reasons");
        let numbers = numbers
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.parse().unwrap()))
            .collect();
        Self {
            numbers,
            reasons: reasons.first().map(|(_, value)| (*value).to_owned()).unwrap_or_default(),
        }
    }

    pub fn get(&self, key: &str) -> u64 {
        self.numbers.get(key).copied().unwrap_or(0)
    }
}

/// The attacked process. It ends with its test.
pub struct Victim {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub bad: SocketAddr,
    pub good: SocketAddr,
}

impl Victim {
    pub fn start(attack: &Attack, version: u8) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "the_victim", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ATTACK, format!("{} {version}", attack.name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut victim = Self { child, input, output, bad: nowhere, good: nowhere };
        let line = victim.answer();
        let (bad, good) = line.split_once(' ').unwrap();
        victim.bad = bad.parse().unwrap();
        victim.good = good.parse().unwrap();
        victim
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.output.read_line(&mut line).unwrap() > 0,
                "the victim is dead: {:?}",
                self.child.wait()
            );
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.trim_end().to_owned();
            }
        }
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
        self.answer()
    }

    /// Starts the measurement of peaks.
    pub fn begin(&mut self) {
        self.ask("begin");
    }

    pub fn report(&mut self) -> Report {
        Report::parse(&self.ask("report"))
    }

    /// Asserts that the process ends by itself, with success.
    pub fn end(mut self) {
        let _ = self.input.take();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "the victim ended badly: {rest}");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It has ended already, if all went well.
        let _ = self.child.wait();
    }
}

/// A connection to the bad door: the port for attackers.
pub struct Foe {
    tcp: TcpStream,
    /// Bytes that were sent.
    pub sent: u64,
    /// Number of FINs that came back, and whether one of them belongs to [`KNOCK`].
    fins: Arc<AtomicU64>,
    heard: Arc<AtomicBool>,
    reading: Option<JoinHandle<()>>,
}

/// Id of the stream with which an attacker asks whether the session still answers.
const KNOCK: u32 = 0x7fff_fff1;

/// The result of sending.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    All,
    /// The victim has stopped reading.
    Stuck,
    /// The victim has ended the connection.
    Gone,
}

impl Foe {
    pub fn to(door: SocketAddr, answers: Answers) -> Self {
        let tcp = TcpStream::connect(door).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_write_timeout(Some(NO_PROGRESS)).unwrap();
        let fins = Arc::new(AtomicU64::new(0));
        let heard = Arc::new(AtomicBool::new(false));
        let reading = (answers == Answers::Read).then(|| {
            let mut tcp = BufReader::with_capacity(65536, tcp.try_clone().unwrap());
            let fins = Arc::clone(&fins);
            let heard = Arc::clone(&heard);
            thread::spawn(move || {
                let mut header = [0; 8];
                while tcp.read_exact(&mut header).is_ok() {
                    let header = Header::decode(&header).expect("the victim sends frames");
                    if header.command == Fin {
                        fins.fetch_add(1, SeqCst);
                        heard.fetch_or(header.stream_id == KNOCK, SeqCst);
                    }
                    // An error will come again at the next read.
                    let _ = io::copy(&mut tcp.by_ref().take(header.length.into()), &mut io::sink());
                }
            })
        });
        Self { tcp, sent: 0, fins, heard, reading }
    }

    /// Opens a stream that the session must refuse because of its name, and waits for its FIN.
    pub fn knock(&mut self, version: u8) {
        let knock = Frame::new(version, Syn, KNOCK, [b'?'; 65_535]).unwrap().encode();
        assert_eq!(self.send(&knock, || false), Sent::All);
        super::support::until(|| self.heard.load(SeqCst));
    }

    /// Sends `bytes`, as far as the victim takes them. While the victim takes nothing, `stuck`
    /// decides whether to give up.
    pub fn send(&mut self, mut bytes: &[u8], mut stuck: impl FnMut() -> bool) -> Sent {
        while !bytes.is_empty() {
            match self.tcp.write(bytes) {
                Ok(n) => {
                    self.sent += n as u64;
                    bytes = &bytes[n..];
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    if stuck() {
                        return Sent::Stuck;
                    }
                }
                Err(_) => return Sent::Gone,
            }
        }
        Sent::All
    }

    /// Waits until the victim has ended the connection.
    pub fn wait_end(&mut self) {
        match self.reading.take() {
            Some(reading) => reading.join().unwrap(),
            None => while let Ok(1..) = self.tcp.read(&mut [0; 65536]) {},
        }
    }

    /// Ends the connection.
    pub fn leave(mut self) {
        let _ = self.tcp.shutdown(Shutdown::Both); // The victim may have ended it already.
        self.wait_end();
    }
}

/// A well-behaved peer at the good door: the port for its sessions. It makes transfers of `len`
/// bytes, one after the other.
pub struct Friend {
    stop: Arc<AtomicBool>,
    pub done: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Friend {
    pub fn start(victim: &Victim, len: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let stopped = Arc::clone(&stop);
        let counted = Arc::clone(&done);
        let session =
            Session::client(TcpStream::connect(victim.good).unwrap(), Config::new()).unwrap();
        let thread = thread::spawn(move || {
            let data = Pattern::bytes(1, len);
            while !stopped.load(SeqCst) {
                let mut stream = session.open("a well-behaved stream").unwrap();
                stream.write_all(&data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut count = [0; 8];
                stream.read_exact(&mut count).unwrap();
                assert_eq!(u64::from_le_bytes(count), len as u64);
                counted.fetch_add(1, SeqCst);
            }
            session.close().unwrap();
        });
        Self { stop, done, thread }
    }

    /// Lets the current transfer finish, and stops. Returns the number of transfers.
    pub fn stop(self) -> u64 {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap();
        self.done.load(SeqCst)
    }
}

/// Waits until the victim can send no more.
fn wait_full(victim: &mut Victim) {
    let mut before = 0;
    let mut same = 0;
    while same < 3 {
        thread::sleep(Duration::from_millis(20)); // There is no event for the lack of progress.
        let sent = victim.report().get("sent");
        same = if sent == before && sent > 0 { same + 1 } else { 0 };
        before = sent;
    }
}

/// The results of an attack.
pub struct Outcome {
    pub report: Report,
    /// The report when the attacked session was over.
    pub over: Report,
    /// The bytes that the attacker sent, and how sending ended.
    pub sent: u64,
    pub ending: Sent,
    /// Transfers that the well-behaved peer completed.
    pub friend: u64,
}

/// Runs one attack at full speed, beside a well-behaved peer.
pub fn attack(attack: &Attack, version: u8, full: bool) -> Outcome {
    let pieces = if full { attack.pieces.1 } else { attack.pieces.0 };
    let mut victim = Victim::start(attack, version);
    let friend = Friend::start(&victim, 256 * 1024);
    // The first transfer comes before the measurement, so that its cost isn't taken for the
    // attack's.
    super::support::until(|| friend.done.load(SeqCst) > 0);
    victim.begin();
    let mut sent = 0;
    let mut ending = Sent::All;
    if attack.apart {
        for n in 0..pieces {
            let mut foe = Foe::to(victim.bad, attack.answers);
            foe.send(&(attack.piece)(version, n), || false);
            foe.wait_end();
            sent += foe.sent;
        }
    } else {
        let mut foe = Foe::to(victim.bad, attack.answers);
        let mut stuck = || attack.fate == Fate::Waits && victim.report().get("pauses") > 0;
        foe.send(&(attack.prelude)(version), &mut stuck);
        super::support::until(|| victim.report().get("accepted") >= attack.accepted);
        if attack.answers == Answers::Unread {
            wait_full(&mut victim);
        }
        let mut frames = count_frames(&(attack.prelude)(version));
        let mut piece = (attack.piece)(version, 0);
        for n in 0..pieces {
            let mut stuck = || attack.fate == Fate::Waits && victim.report().get("pauses") > 0;
            if n > 0 && !attack.same {
                piece = (attack.piece)(version, n);
            }
            ending = foe.send(&piece, &mut stuck);
            frames += count_frames(&piece);
            if ending != Sent::All {
                break;
            }
            if let Some(syns) = attack.paced {
                // The attacker sends faster than the victim answers. The surplus stays below the
                // limit on refusals.
                let asked = u64::from(n + 1) * syns;
                super::support::until(|| foe.fins.load(SeqCst) + UNANSWERED > asked);
            }
        }
        match attack.fate {
            Fate::Lives | Fate::MayEnd(_) => wait_dealt_with(&mut victim, frames),
            Fate::Waits => super::support::until(|| victim.report().get("pauses") > 0),
            Fate::Ends(_) => super::support::until(|| victim.report().get("ended") > 0),
        }
        sent = foe.sent;
        let before = friend.done.load(SeqCst);
        // The attack still goes on, in whatever state. The other sessions must work.
        super::support::until(|| friend.done.load(SeqCst) >= before + 2);
        let report = victim.report();
        let answers =
            attack.answers == Answers::Read && !matches!(attack.fate, Fate::Waits | Fate::Ends(_));
        if answers && report.get("ended") == 0 {
            foe.knock(version);
        }
        foe.leave();
        if attack.fate != Fate::Waits {
            // A reader that waits for its application doesn't see the end.
            super::support::until(|| victim.report().get("alive") == 0);
        }
        let over = victim.report();
        let friend = friend.stop();
        victim.end();
        return Outcome { report, over, sent, ending, friend };
    }
    let before = friend.done.load(SeqCst);
    super::support::until(|| friend.done.load(SeqCst) >= before + 2);
    super::support::until(|| victim.report().get("alive") == 0);
    let report = victim.report();
    let over = victim.report();
    let friend = friend.stop();
    victim.end();
    Outcome { report, over, sent, ending, friend }
}

/// Upper limit of the streams that a paced attacker leaves unanswered: half of the refusals that
/// may wait, and a full backlog.
const UNANSWERED: u64 = 32_768 + 1024;

/// Waits until the victim has handled `frames` frames, or has ended the session.
fn wait_dealt_with(victim: &mut Victim, frames: u64) {
    super::support::until(|| {
        let report = victim.report();
        report.get("frames") >= frames || report.get("ended") > 0
    });
}

/// Bytes that are sent at a pace. They are made beforehand, so that the measurement doesn't include
/// making them.
pub struct Traffic<'a> {
    /// The port to connect to.
    pub door: SocketAddr,
    pub prelude: Vec<u8>,
    pub answers: Answers,
    pub pieces: &'a [Vec<u8>],
    /// Each piece comes by a connection of its own.
    pub apart: bool,
}

/// Returns how many bytes the pace brings in 4 ms. They are sent at once.
pub fn part(pace: u64) -> usize {
    (pace / 250) as usize
}

/// Returns how many bytes a well-behaved peer gets in `time` while a neighbour sends `traffic` at
/// `pace` bytes a second. Also returns the processor time of the victim.
pub fn beside(victim: &mut Victim, time: Duration, pace: u64, traffic: &Traffic<'_>) -> (u64, u64) {
    let friend = Friend::start(victim, 1 << 20);
    super::support::until(|| friend.done.load(SeqCst) > 2);
    let mut foe = Foe::to(traffic.door, traffic.answers);
    foe.send(&traffic.prelude, || false);
    victim.begin();
    let begin = Instant::now();
    let mut sent = 0;
    let over = || begin.elapsed() >= time;
    thread::scope(|scope| {
        scope.spawn(move || {
            for piece in traffic.pieces {
                if traffic.apart {
                    foe = Foe::to(traffic.door, traffic.answers);
                }
                for part in piece.chunks(part(pace)) {
                    let due = begin + Duration::from_nanos(sent * 1_000_000_000 / pace);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    if over() || foe.send(part, over) == Sent::Stuck {
                        return foe.leave();
                    }
                    sent += part.len() as u64;
                }
                if traffic.apart {
                    foe.wait_end();
                }
            }
            foe.leave();
        });
        thread::sleep(time); // This is the measured time.
        let report = victim.report();
        friend.stop();
        (report.get("served"), report.get("cpu_millis"))
    })
}

/// Opens many connections that send a frame byte by byte and never finish it, and then send nothing
/// more. Returns two reports: while bytes came, and when the sessions had ended.
pub fn slow(attack: &Attack, version: u8, connections: usize, pause: Duration) -> [Report; 2] {
    let mut victim = Victim::start(attack, version);
    let friend = Friend::start(&victim, 256 * 1024);
    super::support::until(|| friend.done.load(SeqCst) > 0);
    victim.begin();
    let mut foes: Vec<Foe> =
        (0..connections).map(|_| Foe::to(victim.bad, attack.answers)).collect();
    for foe in &mut foes {
        assert_eq!(foe.send(&(attack.prelude)(version), || false), Sent::All);
    }
    super::support::until(|| victim.report().get("accepted") == attack.accepted);
    let before = friend.done.load(SeqCst);
    let mut n = 0;
    while n < attack.pieces.0 || friend.done.load(SeqCst) < before + 2 {
        for foe in &mut foes {
            foe.send(&(attack.piece)(version, n), || false);
        }
        n += 1;
        thread::sleep(pause); // The attack is slow on purpose.
    }
    let slow = victim.report();
    foes.iter_mut().for_each(Foe::wait_end);
    super::support::until(|| victim.report().get("alive") == 0);
    let over = victim.report();
    friend.stop();
    victim.end();
    [slow, over]
}

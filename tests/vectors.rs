//! Tests against conversations that were recorded from the real Go programs (`vectors/*.txt`). Our
//! client plays against the recorded server, and our server against the recorded client.
//!
//! A recording has the order of each side's frames, but not how the two sides interleave. So the
//! scripted side waits for the frames that its next frame answers ([`Player::due`]).
//!
//! The frames are compared for each stream:
//! - SYN with its name, PSH with its length, and FIN: byte for byte
//! - UPD: by the rule that one comes at the first read, and then one for every half window. They
//!   may be merged.
//!
//! NOPs belong to no stream, and are compared byte for byte.
//!
//! Promises: P109.

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gmux::wire::{Command, Frame};
use gmux::{Config, Session};
use support::raw::{End, Raw, against_client, against_server};
use support::test;

/// A recorded conversation.
struct Vector {
    text: String,
    version: u8,
    keepalive: bool,
    max_frame_size: usize,
    window: u32,
    c2s: Vec<Frame>,
    s2c: Vec<Frame>,
}

impl Vector {
    fn load(name: &str) -> Self {
        let path = format!("{}/tests/vectors/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        Self::parse(
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")),
        )
    }

    fn parse(text: String) -> Self {
        let settings = text
            .lines()
            .find_map(|line| line.strip_prefix("# version="))
            .expect("a line of settings");
        let setting = |name: &str| {
            let settings = format!("version={settings}");
            let found = settings
                .split(' ')
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(String::from));
            found.unwrap_or_else(|| panic!("no setting {name}"))
        };
        let side = |side: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(side));
            lines.map(|line| decode(line.split("  #").next().unwrap().trim())).collect()
        };
        let vector = Self {
            version: setting("version").parse().unwrap(),
            keepalive: setting("keepalive").parse().unwrap(),
            max_frame_size: setting("max_frame_size").parse().unwrap(),
            window: setting("max_stream_buffer").parse().unwrap(),
            c2s: side("c2s "),
            s2c: side("s2c "),
            text: text.clone(),
        };
        let frames = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
        assert_eq!(
            vector.c2s.len() + vector.s2c.len(),
            frames,
            "every line that isn't a comment is a frame"
        );
        assert!(frames > 0);
        vector
    }

    fn config(&self) -> Config {
        Config::new()
            .version(self.version)
            .max_frame_size(self.max_frame_size)
            .max_stream_buffer(self.window as usize)
            .max_stream_window(self.window as usize) // Go's windows don't grow.
            .keepalive_disabled(!self.keepalive)
    }

    /// The name of the recorded client's only stream.
    fn name(&self) -> &[u8] {
        assert_eq!(self.c2s[0].header.command, Command::Syn);
        &self.c2s[0].payload
    }

    fn check(&self, recorded: &[Frame], got: &[Frame]) {
        if let Err(fault) = compare(recorded, got, self.window) {
            panic!("{fault}\n{}", self.text);
        }
    }
}

fn decode(hex: &str) -> Frame {
    let bytes: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
        .collect();
    let (frame, rest) = Frame::decode(&bytes).unwrap().expect("a whole frame");
    assert!(rest.is_empty(), "one frame a line");
    assert_eq!(frame.encode(), bytes, "the recorded bytes are what is sent and compared");
    frame
}

/// Returns the frames with this command on one stream.
fn of(frames: &[Frame], id: u32, command: Command) -> impl Iterator<Item = &Frame> {
    frames
        .iter()
        .filter(move |frame| frame.header.stream_id == id && frame.header.command == command)
}

fn data(frames: &[Frame], id: u32) -> Vec<u8> {
    of(frames, id, Command::Psh).flat_map(|frame| frame.payload.clone()).collect()
}

/// Returns the fields CONSUMED and WINDOW of a UPD.
fn update(frame: &Frame) -> (u32, u32) {
    let word = |at: usize| u32::from_le_bytes(frame.payload[at..at + 4].try_into().unwrap());
    assert_eq!(frame.payload.len(), 8, "{frame}");
    (word(0), word(4))
}

/// Compares one direction.
///
/// # Errors
/// The difference, as text.
fn compare(recorded: &[Frame], got: &[Frame], window: u32) -> Result<(), String> {
    let ids = |frames: &[Frame]| {
        frames.iter().map(|frame| frame.header.stream_id).collect::<BTreeSet<_>>()
    };
    if ids(recorded) != ids(got) {
        return Err(format!("streams {:?} were recorded, {:?} came", ids(recorded), ids(got)));
    }
    for id in ids(recorded) {
        let exact = |frames: &[Frame]| -> Vec<Vec<u8>> {
            let frames = frames.iter().filter(|frame| frame.header.stream_id == id);
            frames.filter(|frame| frame.header.command != Command::Upd).map(Frame::encode).collect()
        };
        if exact(recorded) != exact(got) {
            return Err(format!(
                "stream {id}: {:02x?} was recorded, {:02x?} came",
                exact(recorded),
                exact(got)
            ));
        }
        let updates: Vec<_> = of(got, id, Command::Upd).map(update).collect();
        if updates.is_empty() != of(recorded, id, Command::Upd).next().is_none() {
            return Err(format!("stream {id}: UPDs {updates:?} came"));
        }
        let mut before = 0;
        for &(consumed, announced) in &updates {
            // The first UPD comes at the first read, even of few bytes. Each later one comes after
            // at least half a window was consumed.
            let least = if before == 0 { 1 } else { before + window / 2 };
            if consumed < least || announced != window {
                return Err(format!(
                    "stream {id}: UPD {consumed}, {announced} among {updates:?}, at least {least}"
                ));
            }
            before = consumed;
        }
    }
    Ok(())
}

/// The recorded side of a conversation.
struct Player<'a> {
    raw: &'a mut Raw,
    vector: &'a Vector,
    /// The frames that this side sends.
    script: &'a [Frame],
    /// The recorded frames of the other side.
    other: &'a [Frame],
    /// The frames received so far.
    got: Vec<Frame>,
    /// The frames sent so far.
    sent: Vec<Frame>,
}

impl<'a> Player<'a> {
    fn new(raw: &'a mut Raw, vector: &'a Vector, script: &'a [Frame], other: &'a [Frame]) -> Self {
        // With this limit a missing frame fails with a message, long before the watchdog.
        raw.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { raw, vector, script, other, got: Vec::new(), sent: Vec::new() }
    }

    /// Sends the script, and returns the session's frames. It calls `settled` when all data and
    /// window updates have come, before any FIN that has to wait for them.
    fn play(mut self, settled: impl FnOnce()) -> Vec<Frame> {
        let (ends, begins): (Vec<_>, Vec<_>) =
            self.script.iter().partition(|frame| frame.header.command == Command::Fin);
        for frame in begins {
            self.send(frame);
        }
        while !self.settled() {
            self.receive();
        }
        settled();
        for frame in ends {
            self.send(frame);
        }
        while self.count(&self.got, Command::Fin) < self.count(self.other, Command::Fin) {
            self.receive();
        }
        self.got
    }

    fn count(&self, frames: &[Frame], command: Command) -> usize {
        frames.iter().filter(|frame| frame.header.command == command).count()
    }

    fn send(&mut self, frame: &Frame) {
        while !self.due(frame) {
            self.receive();
        }
        self.raw.bytes(&frame.encode());
        self.sent.push(frame.clone());
    }

    /// Whether the other side has sent the frames that this frame answers.
    fn due(&self, frame: &Frame) -> bool {
        let id = frame.header.stream_id;
        let ours = of(self.script, id, Command::Syn).next().is_some();
        let opened = ours || of(&self.got, id, Command::Syn).next().is_some();
        let came = data(&self.got, id).len();
        opened
            && match frame.header.command {
                Command::Syn | Command::Nop => true,
                // An echo. The data must have come before.
                Command::Psh => ours || came >= data(&self.sent, id).len() + frame.payload.len(),
                Command::Upd => came >= update(frame).0 as usize,
                // The opener finishes first.
                Command::Fin => ours || of(&self.got, id, Command::Fin).next().is_some(),
            }
    }

    /// Whether all frames have come that the other side sends before its FIN.
    fn settled(&self) -> bool {
        self.count(&self.got, Command::Syn) == self.count(self.other, Command::Syn)
            && self.other.iter().all(|frame| {
                let id = frame.header.stream_id;
                let enough = data(&self.got, id).len() >= data(self.other, id).len();
                let told = of(&self.got, id, Command::Upd).last().map(|frame| update(frame).0);
                let read = data(self.script, id).len() as u32;
                let is_told = told.is_some_and(|told| read - told < self.vector.window / 2);
                enough && (frame.header.command != Command::Upd || is_told)
            })
    }

    fn receive(&mut self) {
        let frame = self
            .raw
            .next()
            .unwrap_or_else(|end| panic!("{end:?} after {:?}\n{}", self.got, self.vector.text));
        if frame.header.command == Command::Upd {
            let sent = data(&self.sent, frame.header.stream_id).len();
            assert!(
                update(&frame).0 as usize <= sent,
                "UPD {:?}, only {sent} bytes were sent",
                update(&frame)
            );
        }
        self.got.push(frame);
    }
}

/// Checks that the session sends nothing more, and ends the connection between two frames.
fn assert_over(raw: &mut Raw) {
    assert_eq!(raw.next(), Err(End::Clean));
}

/// Plays an echo. The client opens a stream, writes N bytes, reads them back and closes. The server
/// sees EOF and closes. Each read takes `piece` bytes. The server writes each piece by one call.
fn echo(name: &'static str, piece: Option<usize>) {
    let vector = &Vector::load(name);
    let payload = &data(&vector.c2s, 3);
    assert_eq!(payload, &data(&vector.s2c, 3), "an echo was recorded");
    let piece = piece.unwrap_or(payload.len());

    // We are the client.
    let (mut raw, session) = against_client(vector.config(), vector.version);
    let (settled, may_close) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = session.open(vector.name()).unwrap();
            assert_eq!(stream.write(payload).unwrap(), payload.len(), "one call");
            for expected in payload.chunks(piece) {
                let mut back = vec![0; expected.len()];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(back, expected);
            }
            may_close.recv().unwrap(); // A closed stream sends no UPD.
            stream.close().unwrap();
            assert_eq!(session.num_streams(), 0);
            session.close().unwrap();
        });
        let got = Player::new(&mut raw, vector, &vector.s2c, &vector.c2s)
            .play(|| settled.send(()).unwrap());
        vector.check(&vector.c2s, &got);
        assert_over(&mut raw);
        drop(raw);
    });

    // We are the server.
    let (mut raw, session) = against_server(vector.config(), vector.version);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = session.accept().unwrap();
            assert_eq!((stream.id(), stream.name_bytes()), (3, vector.name()));
            for expected in payload.chunks(piece) {
                let mut came = vec![0; expected.len()];
                stream.read_exact(&mut came).unwrap();
                assert_eq!(came, expected);
                stream.write_all(&came).unwrap();
            }
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "EOF");
            stream.close().unwrap();
            assert_eq!(session.num_streams(), 0);
            session.close().unwrap();
        });
        let got = Player::new(&mut raw, vector, &vector.c2s, &vector.s2c).play(|| {});
        vector.check(&vector.s2c, &got);
        assert_over(&mut raw);
        drop(raw);
    });
}

#[test]
fn gmux_v1_echo() {
    test("gmux_v1_echo", || echo("gmux-v1-echo", None));
}

#[test]
fn gmux_v2_echo() {
    test("gmux_v2_echo", || echo("gmux-v2-echo", None));
}

#[test]
fn smux_v1_echo() {
    test("smux_v1_echo", || echo("smux-v1-echo", None));
}

#[test]
fn smux_v2_echo() {
    test("smux_v2_echo", || echo("smux-v2-echo", None));
}

#[test]
fn gmux_v1_unnamed() {
    test("gmux_v1_unnamed", || echo("gmux-v1-unnamed", None));
}

#[test]
fn gmux_v1_unicode() {
    test("gmux_v1_unicode", || echo("gmux-v1-unicode", None));
}

#[test]
fn gmux_v1_split() {
    test("gmux_v1_split", || echo("gmux-v1-split", None));
}

/// The recorded reader took 16 bytes at a time. Here UPDs may merge. A test of the protocol core
/// checks their exact sequence.
#[test]
fn gmux_v2_window() {
    test("gmux_v2_window", || echo("gmux-v2-window", Some(16)));
}

/// In the recording the client opens "a" and "b", and the server opens "push". On each stream the
/// opener sends one byte, and the opener closes first.
#[test]
fn gmux_v1_two_way() {
    fn open_and_close(session: &Session, streams: &[(&str, u8)]) {
        let opened: Vec<_> = streams.iter().map(|(name, _)| session.open(name).unwrap()).collect();
        for (mut stream, (_, byte)) in opened.iter().zip(streams) {
            assert_eq!(stream.write(&[*byte]).unwrap(), 1);
        }
    } // The drop of the streams closes them.

    fn accept_and_close(session: &Session, streams: &[(&str, u8)]) {
        for (name, byte) in streams {
            let mut stream = session.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!((stream.name(), &all[..]), (*name, &[*byte][..]));
            stream.close().unwrap();
        }
    }

    test("gmux_v1_two_way", || {
        let vector = &Vector::load("gmux-v1-two-way");
        let clients = &[("a", 10), ("b", 11)];
        let servers = &[("push", 12)];

        let (mut raw, session) = against_client(vector.config(), vector.version);
        thread::scope(|scope| {
            scope.spawn(move || {
                open_and_close(&session, clients);
                accept_and_close(&session, servers);
                session.close().unwrap();
            });
            let got = Player::new(&mut raw, vector, &vector.s2c, &vector.c2s).play(|| {});
            vector.check(&vector.c2s, &got);
            assert_over(&mut raw);
            drop(raw);
        });

        let (mut raw, session) = against_server(vector.config(), vector.version);
        thread::scope(|scope| {
            scope.spawn(move || {
                open_and_close(&session, servers);
                accept_and_close(&session, clients);
                session.close().unwrap();
            });
            let got = Player::new(&mut raw, vector, &vector.c2s, &vector.s2c).play(|| {});
            vector.check(&vector.s2c, &got);
            assert_over(&mut raw);
            drop(raw);
        });
    });
}

/// The recording has no stream. For about 200 ms there are NOP frames with stream id 0, at a
/// keepalive interval of 60 ms. They are never answered.
#[test]
fn gmux_v1_keepalive() {
    test("gmux_v1_keepalive", || {
        let vector = Vector::load("gmux-v1-keepalive");
        let with = |interval| {
            vector
                .config()
                .keepalive_interval(interval)
                .keepalive_timeout(interval.max(Duration::from_secs(60)))
        };
        for (role, theirs, ours) in
            [("client", &vector.s2c, &vector.c2s), ("server", &vector.c2s, &vector.s2c)]
        {
            let start = |config| {
                if role == "client" { against_client(config, 1) } else { against_server(config, 1) }
            };

            let (mut raw, session) = start(with(Duration::from_millis(60)));
            for (recorded, theirs) in ours.iter().zip(theirs) {
                raw.bytes(&theirs.encode());
                assert_eq!(raw.next().unwrap().encode(), recorded.encode(), "{role}");
            }
            assert!(session.close_reason().is_none());
            drop(raw);
            drop(session);

            // A session must not answer a NOP by a NOP. This session has no reason to send one by
            // itself. An answer would come before the stream's frames, and so be noticed.
            let (mut raw, session) = start(with(Duration::from_secs(3600)));
            for nop in theirs {
                raw.bytes(&nop.encode());
            }
            let id = if role == "client" { 2 } else { 3 };
            raw.syn(id, "");
            let mut stream = session.accept().unwrap();
            stream.write_all(&[7]).unwrap();
            let answer = raw.next().unwrap();
            assert_eq!(
                (answer.header.command, &answer.payload[..]),
                (Command::Psh, &[7][..]),
                "{role}: {answer}"
            );
        }
    });
}

/// Every file has a test. This notices a new recording without one.
#[test]
fn every_vector_has_a_test() {
    test("every_vector_has_a_test", || {
        let source = include_str!("vectors.rs");
        let mut files = 0;
        for entry in
            std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors")).unwrap()
        {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let name = name.strip_suffix(".txt").unwrap_or_else(|| panic!("what is {name}?"));
            assert!(source.contains(&format!("(\"{name}\"")), "{name} has no test");
            files += 1;
        }
        assert_eq!(files, 10);
    });
}

/// Tests the comparison itself. It notices each wrong byte of a frame, a different length of
/// frames, and a window update that breaks the rule.
#[test]
fn a_wrong_byte_is_noticed() {
    test("a_wrong_byte_is_noticed", || {
        let vector = Vector::load("gmux-v2-window");
        let recorded = &vector.c2s;
        let window = vector.window;
        assert_eq!(compare(recorded, recorded, window), Ok(()));
        let fails = |change: &dyn Fn(&mut Vec<Frame>)| {
            let mut changed = recorded.clone();
            change(&mut changed);
            compare(recorded, &changed, window).is_err()
        };
        for (at, frame) in
            recorded.iter().enumerate().filter(|(_, frame)| frame.header.command != Command::Upd)
        {
            assert!(fails(&|frames| frames[at].header.version ^= 3));
            assert!(fails(&|frames| frames[at].header.stream_id ^= 8));
            assert!(fails(&|frames| frames[at].header.command = Command::Nop));
            assert!(fails(&|frames| {
                let _ = frames.remove(at);
            }));
            for byte in 0..frame.payload.len() {
                assert!(fails(&|frames| frames[at].payload[byte] ^= 1));
            }
        }
        assert!(fails(&|frames| frames.swap(1, 2)), "order");
        let merged = |frames: &mut Vec<Frame>| {
            let second = frames.remove(2);
            let whole = [&frames[1].payload[..], &second.payload].concat();
            frames[1] = Frame::new(2, Command::Psh, 3, whole).unwrap();
        };
        assert!(fails(&merged), "another cut");
        let first = recorded.iter().position(|frame| frame.header.command == Command::Upd).unwrap();
        assert!(
            fails(&|frames| frames.retain(|frame| frame.header.command != Command::Upd)),
            "no UPD"
        );
        assert!(
            fails(&|frames| frames[first + 1] = Frame::update(3, 47, window)),
            "an UPD too early"
        );
        assert!(fails(&|frames| frames.swap(first, first + 1)), "an UPD that goes back");
        assert!(fails(&|frames| frames[first] = Frame::update(3, 16, 65)), "another window");
        assert!(
            !fails(&|frames| {
                let _ = frames.remove(first + 1);
            }),
            "UPDs may merge"
        );
    });
}

//! A connection whose other end is the check itself. The check feeds frames, and looks at the
//! written frames.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use facade::sched::{choose, pass_a_moment};
use parking_lot::{Condvar, Mutex};

use crate::transport::{Control, Halves, Transport};
use crate::wire::{Command, Frame};
use crate::{Config, Session};

pub struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    input: VecDeque<u8>,
    eof: bool,
    reads_fail: bool,
    writes_fail: bool,
    aborted: bool,
    output: Vec<u8>,
    /// `finish_write` was called, and the write half was dropped.
    finished: bool,
    dropped: bool,
    /// The peer keeps its side open when the session has ended its own.
    held: bool,
    /// The read half was dropped.
    unread: bool,
    /// Writes wait, as on a full socket.
    full: bool,
    /// Reads have a time bound now.
    bound: bool,
    was_bound: bool,
    /// Number of later writes that may take only a part, or nothing.
    moods: usize,
}

impl Line {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::default()), changed: Condvar::new() })
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    /// The peer sends `frames`.
    pub fn feed(&self, frames: &[Frame]) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        self.set(|state| state.input.extend(bytes));
    }

    /// The peer ends its side.
    pub fn eof(&self) {
        self.set(|state| state.eof = true);
    }

    /// From now on the peer keeps its side open until [`Line::eof`], even if the session has ended
    /// its own.
    pub fn hold(&self) {
        self.set(|state| state.held = true);
    }

    pub fn fail_reads(&self) {
        self.set(|state| state.reads_fail = true);
    }

    pub fn fail_writes(&self) {
        self.set(|state| state.writes_fail = true);
    }

    pub fn full(&self, full: bool) {
        self.set(|state| state.full = full);
    }

    pub fn moods(&self, moods: usize) {
        self.set(|state| state.moods = moods);
    }

    /// Waits until `enough` accepts the written frames.
    pub fn wait_for(&self, mut enough: impl FnMut(&[Frame]) -> bool) {
        let mut state = self.state.lock();
        while !enough(&decode(&state.output)) {
            self.changed.wait(&mut state);
        }
    }

    /// Waits until the writing direction has ended.
    pub fn wait_finished(&self) {
        let mut state = self.state.lock();
        while !state.finished {
            self.changed.wait(&mut state);
        }
    }

    /// Waits until the session reads no more.
    pub fn wait_unread(&self) {
        let mut state = self.state.lock();
        while !state.unread {
            self.changed.wait(&mut state);
        }
    }

    /// Returns the written frames. They are whole, unless a write failed.
    pub fn frames(&self) -> Vec<Frame> {
        decode(&self.state.lock().output)
    }

    pub fn is_finished(&self) -> bool {
        self.state.lock().finished
    }

    /// Whether a read was ever bounded, as inline reads are.
    pub fn was_bounded(&self) -> bool {
        self.state.lock().was_bound
    }

    /// Whether the session has let go of the write half.
    pub fn is_dropped(&self) -> bool {
        self.state.lock().dropped
    }
}

fn decode(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((frame, rest)) = Frame::decode(bytes).expect("gmux writes commands that exist") {
        frames.push(frame);
        bytes = rest;
    }
    frames
}

struct ReadHalf(Arc<Line>);

struct WriteHalf(Arc<Line>);

struct LineControl(Arc<Line>);

impl Read for ReadHalf {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        loop {
            if state.aborted || state.reads_fail {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if !state.input.is_empty() {
                return state.input.read(buf);
            }
            if state.eof {
                return Ok(0);
            }
            if state.bound {
                drop(state);
                let came = pass_a_moment(|| {
                    let state = self.0.state.lock();
                    !state.input.is_empty() || state.eof || state.aborted || state.reads_fail
                });
                if !came {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                state = self.0.state.lock();
                continue;
            }
            self.0.changed.wait(&mut state);
        }
    }
}

impl Write for WriteHalf {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !std::thread::current().name().is_some_and(|name| name.starts_with("gmux-writer")) {
            facade::breaks::reach(); // This is an inline write.
        }
        let mut state = self.0.state.lock();
        while state.full && !state.aborted && !state.writes_fail {
            self.0.changed.wait(&mut state);
        }
        if state.aborted || state.writes_fail {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let mut n = bytes.len();
        if state.moods > 0 {
            state.moods -= 1;
            match choose(3) {
                0 => return Err(io::ErrorKind::WouldBlock.into()),
                1 => n = 1 + choose(n),
                _ => {}
            }
        }
        state.output.extend_from_slice(&bytes[..n]);
        drop(state);
        self.0.changed.notify_all();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.0.set(|state| state.unread = true);
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.set(|state| state.dropped = true);
    }
}

impl Control for LineControl {
    /// By then the peer has read everything. It ends its side, too.
    fn finish_write(&self) -> io::Result<()> {
        self.0.set(|state| (state.finished, state.eof) = (true, state.eof || !state.held));
        Ok(())
    }

    fn abort(&self) {
        self.0.set(|state| state.aborted = true);
    }
}

/// The session's side of the connection. With `bounded`, its reads and writes can be bounded, so
/// calling threads may read and write inline.
pub struct Ours {
    line: Arc<Line>,
    bounded: bool,
}

impl Transport for Ours {
    fn split(self) -> io::Result<Halves> {
        let line = self.line;
        let control = LineControl(Arc::clone(&line));
        let halves =
            Halves::new(ReadHalf(Arc::clone(&line)), WriteHalf(Arc::clone(&line)), control);
        if !self.bounded {
            return Ok(halves);
        }
        // A bound holds from the next read on. No read runs while the bound is set.
        let bound = move |bound: Option<std::time::Duration>| {
            line.set(|state| {
                state.bound = bound.is_some();
                state.was_bound |= state.bound;
            });
            Ok(())
        };
        Ok(halves.bounded_writes(true).bound_reads(bound))
    }
}

/// Returns a server's session and its line. With `bounded`, calling threads may write inline.
pub fn server(config: Config, bounded: bool) -> (Session, Arc<Line>) {
    let line = Line::new();
    let session = Session::server(Ours { line: Arc::clone(&line), bounded }, config);
    (session.expect("the configuration is valid"), line)
}

/// Returns a configuration of version 1 without keepalive.
pub fn quiet() -> Config {
    Config::new().keepalive_disabled(true)
}

// ---- frames -------------------------------------------------------------------------------------

fn frame(version: u8, command: Command, id: u32, payload: &[u8]) -> Frame {
    Frame::new(version, command, id, payload).expect("short enough")
}

/// Makes frames of one version.
#[derive(Clone, Copy)]
pub struct Peer(pub u8);

impl Peer {
    pub fn syn(self, id: u32) -> Frame {
        frame(self.0, Command::Syn, id, b"")
    }

    pub fn psh(self, id: u32, payload: &[u8]) -> Frame {
        frame(self.0, Command::Psh, id, payload)
    }

    pub fn fin(self, id: u32) -> Frame {
        frame(self.0, Command::Fin, id, b"")
    }

    pub fn upd(self, id: u32, consumed: u32, window: u32) -> Frame {
        Frame::update(id, consumed, window)
    }
}

pub fn count(frames: &[Frame], command: Command, id: u32) -> usize {
    frames
        .iter()
        .filter(|frame| frame.header.command == command && frame.header.stream_id == id)
        .count()
}

/// Returns a stream's data.
pub fn data(frames: &[Frame], id: u32) -> Vec<u8> {
    let psh = |frame: &&Frame| frame.header.command == Command::Psh && frame.header.stream_id == id;
    frames.iter().filter(psh).flat_map(|frame| frame.payload.clone()).collect()
}

/// Asserts the order of a stream's frames: at most one SYN, which comes first, at most one FIN, and
/// no data after it.
pub fn assert_order(frames: &[Frame], id: u32, ours: bool) {
    let of_stream: Vec<Command> = frames
        .iter()
        .filter(|frame| frame.header.stream_id == id)
        .map(|frame| frame.header.command)
        .collect();
    let at = |command| of_stream.iter().position(|&other| other == command);
    assert_eq!(
        count(frames, Command::Syn, id),
        usize::from(ours && !of_stream.is_empty()),
        "{of_stream:?}"
    );
    assert!(at(Command::Syn).is_none_or(|at| at == 0), "{of_stream:?}");
    assert!(count(frames, Command::Fin, id) <= 1, "{of_stream:?}");
    if let Some(fin) = at(Command::Fin) {
        assert!(!of_stream[fin..].contains(&Command::Psh), "{of_stream:?}");
    }
}

// ---- two sessions -------------------------------------------------------------------------------

/// One end of a connection between two sessions. Its output is the other's input.
pub struct End {
    ours: Arc<Line>,
    theirs: Arc<Line>,
}

/// Returns a connection between two sessions.
pub fn pair() -> (End, End) {
    let one = Line::new();
    let two = Line::new();
    (End { ours: Arc::clone(&one), theirs: Arc::clone(&two) }, End { ours: two, theirs: one })
}

struct PairWrite(Arc<Line>);

struct PairControl {
    ours: Arc<Line>,
    theirs: Arc<Line>,
}

impl Write for PairWrite {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.set(|state| state.input.extend(buf));
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Control for PairControl {
    fn finish_write(&self) -> io::Result<()> {
        self.theirs.eof();
        Ok(())
    }

    fn abort(&self) {
        self.ours.set(|state| state.aborted = true);
        self.theirs.eof();
    }
}

impl Transport for End {
    fn split(self) -> io::Result<Halves> {
        let control =
            PairControl { ours: Arc::clone(&self.ours), theirs: Arc::clone(&self.theirs) };
        Ok(Halves::new(ReadHalf(self.ours), PairWrite(self.theirs), control).bounded_writes(true))
    }
}

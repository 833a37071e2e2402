//! Transports that fail as a seed says: over pipes in memory, over pairs, behind `Shared`, and over
//! real sockets.
//!
//! [`Reads`] and [`Writes`] decide the result of each call. They sit between a session and a sound
//! connection, so that every kind of transport can have every fault. There are two kinds of fault:
//!
//! - A *soft* fault makes the session try the call again: an odd size, `Interrupted`, `WouldBlock`,
//!   `TimedOut`, or a short stall.
//! - A *hard* fault comes once, at a place in the stream of frames, and stays.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use gmux::transport::{Control, Halves, Pair, Shared, Transport};

use super::links::Any;
use super::tcp;

/// The text of every injected error and panic.
pub const INJECTED: &str = "injected fault";

/// A random generator (splitmix64).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn word(&mut self) -> u64 {
        super::splitmix64(&mut self.0)
    }

    /// Returns a number less than `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n.max(1) as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Returns another generator, which is independent from here on.
    pub fn fork(&mut self) -> Self {
        Self(self.word())
    }
}

// ---- faults -------------------------------------------------------------------------------------

/// The number of bytes that a call may move.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    Whole,
    /// Between 1 and this many bytes.
    Odd(usize),
    One,
}

/// Faults after which a session has to try again.
#[derive(Debug, Clone)]
pub struct Soft {
    pub cut: Cut,
    /// Percentage of calls that fail with `Interrupted`.
    pub interrupted: usize,
    /// Percentage of calls that fail with `WouldBlock` or `TimedOut`. Each costs the session a
    /// sleep of 1 ms.
    pub not_yet: usize,
    /// Number of calls that will wait 1 to 3 ms before they begin.
    pub stalls: usize,
}

impl Soft {
    pub fn none() -> Self {
        Self { cut: Cut::Whole, interrupted: 0, not_yet: 0, stalls: 0 }
    }

    pub fn new(rng: &mut Rng) -> Self {
        let cut = match rng.below(10) {
            0..3 => Cut::Whole,
            3..5 => Cut::Odd(7),
            5..7 => Cut::Odd(200),
            7..9 => Cut::Odd(5000),
            _ => Cut::One,
        };
        let interrupted = rng.pick(&[0, 0, 5, 30]);
        Self { cut, interrupted, not_yet: rng.pick(&[0, 0, 1, 5]), stalls: rng.pick(&[0, 0, 0, 2]) }
    }

    /// Runs before a call. Returns how many of `room` bytes the call may move.
    ///
    /// # Errors
    /// The call is to be tried again.
    fn begin(&mut self, rng: &mut Rng, room: usize) -> io::Result<usize> {
        if self.stalls > 0 && rng.chance(10) {
            self.stalls -= 1;
            // The stall is the fault.
            thread::sleep(Duration::from_millis(1 + rng.below(3) as u64));
        }
        if rng.chance(self.interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        if self.not_yet > 0 && rng.chance(20) {
            self.not_yet -= 1;
            return Err(rng.pick(&[ErrorKind::WouldBlock, ErrorKind::TimedOut]).into());
        }
        Ok(match self.cut {
            Cut::Whole => room,
            Cut::Odd(most) => room.min(1 + rng.below(most)),
            Cut::One => 1,
        })
    }
}

/// The place in the stream of frames where a fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Anywhere.
    Any,
    /// After 1 to 7 bytes of a header.
    Header,
    /// After a header that announces a payload, and before the end of that payload.
    Payload,
    /// Between two frames.
    Boundary,
}

/// A fault at the first such place after a number of bytes.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub bytes: usize,
    pub place: Place,
}

/// Follows the frames, to find the place of a fault.
#[derive(Debug, Clone, Copy)]
struct Fuse {
    at: Option<At>,
    seen: usize,
    header: [u8; 8],
    have: usize,
    payload_left: usize,
}

impl Fuse {
    fn new(at: Option<At>) -> Self {
        Self { at, seen: 0, header: [0; 8], have: 0, payload_left: 0 }
    }

    /// Whether the fault comes here.
    fn is_due(&self) -> bool {
        let Some(At { bytes, place }) = self.at else { return false };
        self.seen >= bytes
            && match place {
                Place::Any => true,
                Place::Header => self.have > 0,
                Place::Payload => self.payload_left > 0,
                Place::Boundary => self.have == 0 && self.payload_left == 0,
            }
    }

    /// Goes over `bytes`, up to the fault. Returns how many bytes pass.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        if self.at.is_none() {
            return bytes.len();
        }
        for (passed, byte) in bytes.iter().enumerate() {
            if self.is_due() {
                return passed;
            }
            self.seen += 1;
            if self.payload_left > 0 {
                self.payload_left -= 1;
                continue;
            }
            self.header[self.have] = *byte;
            self.have += 1;
            if self.have == self.header.len() {
                self.have = 0;
                self.payload_left =
                    usize::from(u16::from_le_bytes([self.header[2], self.header[3]]));
            }
        }
        bytes.len()
    }
}

#[derive(Debug, Clone, Copy)]
pub enum ReadFault {
    /// The input ends. A read returns `Ok(0)`.
    Eof,
    Error(ErrorKind),
    Panic,
}

#[derive(Debug, Clone, Copy)]
pub enum WriteFault {
    Error(ErrorKind),
    /// Every write returns `Ok(0)` from now on.
    Zero,
    Panic,
    /// Writes take everything and send nothing, as on a dead link.
    Swallow,
}

#[derive(Debug, Clone, Copy)]
pub enum CallFault {
    Error(ErrorKind),
    Panic,
}

impl CallFault {
    fn blow(self) -> io::Result<()> {
        match self {
            Self::Error(kind) => Err(io::Error::new(kind, INJECTED)),
            Self::Panic => panic!("{INJECTED}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortFault {
    /// Panics before the call has done anything.
    Before,
    /// Panics when the call has done its work.
    After,
}

/// The faults of one end.
#[derive(Debug, Clone)]
pub struct Faults {
    pub read_soft: Soft,
    pub write_soft: Soft,
    pub read: Option<(At, ReadFault)>,
    pub write: Option<(At, WriteFault)>,
    /// Number of the flush that fails, from 1.
    pub flush: Option<(usize, CallFault)>,
    /// Number of the call that sets a bound on reads and fails, from 1.
    pub bound: Option<(usize, CallFault)>,
    pub finish: Option<CallFault>,
    pub abort: Option<AbortFault>,
    /// The call for the peer's address panics. The session makes that call while it starts.
    pub address: bool,
    /// The drop of the read half, or of the write half, panics.
    pub drops: [bool; 2],
}

impl Faults {
    pub fn none() -> Self {
        Self {
            read_soft: Soft::none(),
            write_soft: Soft::none(),
            read: None,
            write: None,
            flush: None,
            bound: None,
            finish: None,
            abort: None,
            address: false,
            drops: [false; 2],
        }
    }

    pub fn is_hard(&self) -> bool {
        self.read.is_some()
            || self.write.is_some()
            || self.flush.is_some()
            || self.bound.is_some()
            || self.finish.is_some()
            || self.abort.is_some()
            || self.address
            || self.drops != [false; 2]
    }
}

// ---- calls --------------------------------------------------------------------------------------

/// Inline reads and inline writes: those that threads of the application made.
pub static CALLERS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

fn count_caller(which: usize) {
    if !thread::current().name().is_some_and(|name| name.starts_with("gmux-")) {
        CALLERS[which].fetch_add(1, SeqCst);
    }
}

/// Every part of a transport holds one. When all are gone, the receiver is disconnected.
type Held = Sender<()>;

/// Decides the results of reads.
struct Reads {
    rng: Rng,
    soft: Soft,
    fuse: Fuse,
    fault: Option<ReadFault>,
    /// Panics on drop, if armed.
    bomb: Bomb,
    bytes: Vec<u8>,
}

impl Reads {
    fn new(faults: &Faults, rng: &mut Rng, held: &Held) -> Self {
        Self {
            rng: rng.fork(),
            soft: faults.read_soft.clone(),
            fuse: Fuse::new(faults.read.map(|(at, _)| at)),
            fault: faults.read.map(|(_, fault)| fault),
            bomb: Bomb { armed: faults.drops[0], _held: held.clone() },
            bytes: Vec::new(),
        }
    }

    fn read(&mut self, inner: &mut dyn Read, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room = bufs.iter().map(|buf| buf.len()).sum();
        if room == 0 {
            return Ok(0);
        }
        if let (true, Some(fault)) = (self.fuse.is_due(), self.fault) {
            return match fault {
                ReadFault::Eof => Ok(0),
                ReadFault::Error(kind) => Err(io::Error::new(kind, INJECTED)),
                ReadFault::Panic => panic!("{INJECTED}"),
            };
        }
        count_caller(0);
        let size = self.soft.begin(&mut self.rng, room)?;
        self.bytes.resize(size, 0);
        let n = inner.read(&mut self.bytes)?;
        // The bytes behind the fault are lost. The fault isn't due before the first byte, so this
        // is 0 only if `n` is.
        let passed = self.fuse.pass(&self.bytes[..n]);
        let mut rest = &self.bytes[..passed];
        for buf in bufs {
            let n = rest.read(buf)?;
            if n == 0 && rest.is_empty() {
                break;
            }
        }
        Ok(passed)
    }
}

/// Decides the results of writes and flushes.
struct Writes {
    rng: Rng,
    soft: Soft,
    fuse: Fuse,
    fault: Option<WriteFault>,
    flush: Option<(usize, CallFault)>,
    flushes: usize,
    bomb: Bomb,
    bytes: Vec<u8>,
}

impl Writes {
    fn new(faults: &Faults, rng: &mut Rng, held: &Held) -> Self {
        Self {
            rng: rng.fork(),
            soft: faults.write_soft.clone(),
            fuse: Fuse::new(faults.write.map(|(at, _)| at)),
            fault: faults.write.map(|(_, fault)| fault),
            flush: faults.flush,
            flushes: 0,
            bomb: Bomb { armed: faults.drops[1], _held: held.clone() },
            bytes: Vec::new(),
        }
    }

    fn write(&mut self, inner: &mut dyn Write, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let room = bufs.iter().map(|buf| buf.len()).sum();
        if room == 0 {
            return Ok(0);
        }
        if let (true, Some(fault)) = (self.fuse.is_due(), self.fault) {
            return match fault {
                WriteFault::Error(kind) => Err(io::Error::new(kind, INJECTED)),
                WriteFault::Zero => Ok(0),
                WriteFault::Panic => panic!("{INJECTED}"),
                WriteFault::Swallow => Ok(room),
            };
        }
        count_caller(1);
        let size = self.soft.begin(&mut self.rng, room)?;
        self.bytes.clear();
        for buf in bufs {
            let n = buf.len().min(size - self.bytes.len());
            self.bytes.extend_from_slice(&buf[..n]);
        }
        let mut trial = self.fuse;
        let passes = trial.pass(&self.bytes);
        let n = inner.write(&self.bytes[..passes])?;
        self.fuse.pass(&self.bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self, inner: &mut dyn Write) -> io::Result<()> {
        self.soft.begin(&mut self.rng, 1)?;
        self.flushes += 1;
        match self.flush {
            Some((at, fault)) if self.flushes >= at => fault.blow(),
            _ => inner.flush(),
        }
    }
}

/// Panics when it is dropped, if it is armed.
struct Bomb {
    armed: bool,
    _held: Held,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.armed && !thread::panicking() {
            panic!("{INJECTED}");
        }
    }
}

struct FaultyReader<R> {
    inner: R,
    reads: Reads,
}

impl<R: Read> Read for FaultyReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reads.read(&mut self.inner, &mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.reads.read(&mut self.inner, bufs)
    }
}

struct FaultyWriter<W> {
    inner: W,
    writes: Writes,
}

impl<W: Write> Write for FaultyWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writes.write(&mut self.inner, &[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.writes.write(&mut self.inner, bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writes.flush(&mut self.inner)
    }
}

struct FaultyControl {
    inner: Box<dyn Control>,
    finish: Option<CallFault>,
    abort: Option<AbortFault>,
    address: bool,
    _held: Held,
}

impl Control for FaultyControl {
    fn finish_write(&self) -> io::Result<()> {
        match self.finish {
            Some(fault) => fault.blow(),
            None => self.inner.finish_write(),
        }
    }

    fn abort(&self) {
        assert!(self.abort != Some(AbortFault::Before), "{INJECTED}");
        self.inner.abort();
        assert!(self.abort != Some(AbortFault::After), "{INJECTED}");
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        assert!(!self.address, "{INJECTED}");
        self.inner.peer_addr()
    }
}

/// A sound connection with faults.
struct Faulty<T> {
    inner: T,
    faults: Faults,
    rng: Rng,
    held: Held,
}

impl<T: Transport> Transport for Faulty<T> {
    fn split(mut self) -> io::Result<Halves> {
        let halves = self.inner.split()?;
        let reads = Reads::new(&self.faults, &mut self.rng, &self.held);
        let writes = Writes::new(&self.faults, &mut self.rng, &self.held);
        let control = FaultyControl {
            inner: halves.control,
            finish: self.faults.finish,
            abort: self.faults.abort,
            address: self.faults.address,
            _held: self.held,
        };
        let reader = FaultyReader { inner: halves.reader, reads };
        let writer = FaultyWriter { inner: halves.writer, writes };
        let mut outer = Halves::new(reader, writer, control).bounded_writes(halves.bounded_writes);
        outer.bound_writes = halves.bound_writes;
        let Some(mut bound) = halves.bound_reads else { return Ok(outer) };
        let mut calls = 0;
        let fault = self.faults.bound;
        Ok(outer.bound_reads(move |to| {
            calls += 1;
            match fault {
                Some((at, fault)) if calls >= at => fault.blow(),
                _ => bound(to),
            }
        }))
    }
}

/// Both directions of a connection with faults in one object, for `Shared`.
struct FaultyDuplex<R, W> {
    reader: FaultyReader<R>,
    writer: FaultyWriter<W>,
}

impl<R: Read, W> Read for FaultyDuplex<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.reader.read_vectored(bufs)
    }
}

impl<R, W: Write> Write for FaultyDuplex<R, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writer.write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.writer.write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

// ---- pipes in memory ----------------------------------------------------------------------------

/// One direction of a connection in memory, with limited capacity.
struct Pipe {
    /// Guards the pipe's whole state. `changed` tells both ends of every change.
    state: Mutex<PipeState>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    /// The way in which the writing end went away: an end of file, or a reset.
    end: Option<End>,
    /// Set once the reading end is gone, or its owner has aborted.
    reader_gone: bool,
    writer_aborted: bool,
}

impl PipeState {
    /// Ends the writing side. Only the first call counts.
    fn ends(&mut self, end: End) {
        self.end.get_or_insert(end);
    }
}

#[derive(Clone, Copy)]
enum End {
    Eof,
    Reset,
}

impl Pipe {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), capacity })
    }

    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut PipeState)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `ready` returns true, for at most `bound`.
    ///
    /// # Errors
    /// `WouldBlock` if the bound passes first.
    fn wait(
        &self,
        bound: Option<Duration>,
        ready: impl Fn(&PipeState) -> bool,
    ) -> io::Result<MutexGuard<'_, PipeState>> {
        let state = self.lock();
        let Some(bound) = bound else {
            let waited = self.changed.wait_while(state, |state| !ready(state));
            return Ok(waited.unwrap_or_else(PoisonError::into_inner));
        };
        let waited = self.changed.wait_timeout_while(state, bound, |state| !ready(state));
        let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        if result.timed_out() { Err(ErrorKind::WouldBlock.into()) } else { Ok(state) }
    }
}

/// Time limit of a read, in nanoseconds. 0 means no limit.
type ReadBound = Arc<AtomicU64>;

struct PipeReader(Arc<Pipe>, ReadBound);

impl Read for PipeReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bound =
            Some(Duration::from_nanos(self.1.load(SeqCst))).filter(|bound| !bound.is_zero());
        let mut state = self.0.wait(bound, |state| {
            state.reader_gone || state.end.is_some() || !state.bytes.is_empty()
        })?;
        if state.reader_gone {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        if let (true, Some(End::Reset)) = (state.bytes.is_empty(), state.end) {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let n = state.bytes.read(buf)?;
        // `read` stops at the end of the deque's first slice, so the second slice is read as well.
        let n = n + state.bytes.read(&mut buf[n..])?;
        drop(state);
        self.0.changed.notify_all();
        Ok(n)
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.0.change(|state| state.reader_gone = true);
    }
}

struct PipeWriter(Arc<Pipe>, Option<Duration>);

impl Write for PipeWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let capacity = self.0.capacity;
        let ready = |state: &PipeState| {
            state.reader_gone
                || state.writer_aborted
                || state.end.is_some()
                || state.bytes.len() < capacity
        };
        let mut state = self.0.wait(self.1, ready)?;
        if state.reader_gone || state.writer_aborted || state.end.is_some() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let n = buf.len().min(capacity - state.bytes.len());
        state.bytes.extend(&buf[..n]);
        drop(state);
        self.0.changed.notify_all();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.0.change(|state| state.ends(End::Eof));
    }
}

/// Ends a connection in memory from outside.
struct PipeControl {
    input: Arc<Pipe>,
    output: Arc<Pipe>,
    /// Whether an abort resets the connection. A reset loses the bytes that the peer hasn't read
    /// yet.
    resets: bool,
}

impl Control for PipeControl {
    fn finish_write(&self) -> io::Result<()> {
        self.output.change(|state| state.ends(End::Eof));
        Ok(())
    }

    fn abort(&self) {
        self.input.change(|state| state.reader_gone = true);
        self.output.change(|state| {
            state.writer_aborted = true;
            if state.end.is_none() && self.resets {
                state.bytes.clear();
                state.end = Some(End::Reset);
            }
            state.ends(End::Eof);
        });
    }
}

fn nanos(bound: Option<Duration>) -> u64 {
    bound.map_or(0, |bound| bound.as_nanos() as u64)
}

/// One end of a connection in memory.
struct Memory {
    reader: PipeReader,
    writer: PipeWriter,
    control: PipeControl,
}

impl Memory {
    fn pair(
        capacities: [usize; 2],
        resets: bool,
        read: Option<Duration>,
        write: Option<Duration>,
    ) -> (Self, Self) {
        let [there, back] = capacities.map(Pipe::new);
        let end = |input: &Arc<Pipe>, output: &Arc<Pipe>| Self {
            reader: PipeReader(Arc::clone(input), Arc::new(AtomicU64::new(nanos(read)))),
            writer: PipeWriter(Arc::clone(output), write),
            control: PipeControl { input: Arc::clone(input), output: Arc::clone(output), resets },
        };
        (end(&back, &there), end(&there, &back))
    }
}

impl Transport for Memory {
    fn split(self) -> io::Result<Halves> {
        let bounded = self.writer.1.is_some();
        let bound = Arc::clone(&self.reader.1);
        let halves = Halves::new(self.reader, self.writer, self.control).bounded_writes(bounded);
        Ok(if bounded {
            halves.bound_reads(move |to| {
                bound.store(nanos(to), SeqCst);
                Ok(())
            })
        } else {
            halves
        })
    }
}

// ---- connections --------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In memory. Reads and writes block.
    Memory,
    /// In memory. Writes are bounded, so calling threads write inline.
    Bounded,
    /// In memory, as a `Pair` with an abort hook.
    Pair,
    /// In memory, in one object, behind `Shared`.
    Shared,
    Unix,
    Tcp,
}

/// One end of a faulty connection, and a receiver that is disconnected when a session has let go of
/// all of it.
pub type FaultyEnd = (Any, Receiver<()>);

/// Returns both ends of a connection with faults.
pub fn connect(
    kind: Kind,
    capacities: [usize; 2],
    resets: bool,
    faults: [Faults; 2],
    rng: &mut Rng,
) -> (FaultyEnd, FaultyEnd) {
    let bound = Some(Duration::from_millis(5));
    match kind {
        Kind::Memory => {
            let ends = Memory::pair(capacities, resets, None, None);
            both(ends, faults, rng, whole)
        }
        Kind::Bounded => {
            let ends = Memory::pair(capacities, resets, None, bound);
            both(ends, faults, rng, whole)
        }
        Kind::Pair => {
            let ends = Memory::pair(capacities, resets, None, None);
            both(ends, faults, rng, |memory, faults, mut rng, held| {
                let reads = Reads::new(&faults, &mut rng, &held);
                let writes = Writes::new(&faults, &mut rng, &held);
                let control = FaultyControl {
                    inner: Box::new(memory.control),
                    finish: None,
                    abort: faults.abort,
                    address: false,
                    _held: held,
                };
                let reader = FaultyReader { inner: memory.reader, reads };
                let writer = FaultyWriter { inner: memory.writer, writes };
                Any::new(Pair::new(reader, writer).with_abort(move || control.abort()))
            })
        }
        Kind::Shared => {
            let bound = Some(Duration::from_micros(300));
            let ends = Memory::pair(capacities, resets, bound, bound);
            both(ends, faults, rng, |memory, faults, mut rng, held| {
                let reads = Reads::new(&faults, &mut rng, &held);
                let writes = Writes::new(&faults, &mut rng, &held);
                let control = Arc::new(FaultyControl {
                    inner: Box::new(memory.control),
                    finish: faults.finish,
                    abort: faults.abort,
                    address: false,
                    _held: held,
                });
                let abort = Arc::clone(&control);
                let mut not_yet = rng.below(3);
                let duplex = FaultyDuplex {
                    reader: FaultyReader { inner: memory.reader, reads },
                    writer: FaultyWriter { inner: memory.writer, writes },
                };
                let shared = Shared::new(duplex).on_finish(move |_| {
                    if not_yet > 0 {
                        not_yet -= 1;
                        return Err(ErrorKind::WouldBlock.into());
                    }
                    control.finish_write()
                });
                Any::new(shared.on_abort(move || abort.abort()))
            })
        }
        #[cfg(unix)]
        Kind::Unix => both(std::os::unix::net::UnixStream::pair().unwrap(), faults, rng, whole),
        #[cfg(not(unix))]
        Kind::Unix => both(tcp(), faults, rng, whole),
        Kind::Tcp => both(tcp(), faults, rng, whole),
    }
}

fn whole<T: Transport + Send + 'static>(inner: T, faults: Faults, rng: Rng, held: Held) -> Any {
    Any::new(Faulty { inner, faults, rng, held })
}

fn both<T>(
    (a, b): (T, T),
    faults: [Faults; 2],
    rng: &mut Rng,
    wrap: impl Fn(T, Faults, Rng, Held) -> Any,
) -> (FaultyEnd, FaultyEnd) {
    let [for_a, for_b] = faults;
    let mut end = |inner, faults| {
        let (held, gone) = mpsc::channel();
        (wrap(inner, faults, rng.fork(), held), gone)
    };
    (end(a, for_a), end(b, for_b))
}

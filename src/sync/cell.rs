//! One stream, shared by its handles, the reader thread and the writer thread: the protocol state under a lock, and the waits.
//!
//! The lock guards [`State`]. Three condvars wait on it:
//!
//! | condvar | waits in | woken by |
//! |---|---|---|
//! | `readable` | `read`, `write_to` | data, FIN, a reader that leaves data behind; endings; changed deadlines |
//! | `writable` | `write` | the writer thread that made room, UPD with credit, FIN (it starts a stall clock), a writer that leaves room behind; endings; changed deadlines |
//! | `flushed` | `flush` | the writer thread that handed data over; endings; changed deadlines |
//!
//! *Endings* are: close by another thread, `shutdown`, the stream's own failure, the session's close or end. They wake all three.
//!
//! Large copies run outside the lock: a reader takes chunks out (`reading`), a writer fills buffers and puts them in
//! (`writing`). These two marks are what keeps one call's bytes together; a call that finds its mark set waits like one that
//! finds no data or no room.
//!
//! Invariants: whoever sets a mark clears it, also when a user's writer panics ([`ReadTurn`]); every change is followed by
//! [`StreamCell::settle`] under the same lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::budget::{Budget, Charge};
use super::close::disconnected;
use super::deadline::{Call, Deadline, NoData, earlier};
use super::shaper::{Bell, Shaper};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::pool::BufferPool;
use crate::proto::chunks::Chunk;
use crate::proto::stream::{Discarded, Readable, Received, StreamCore, Writable};

mod endings;
mod peer;
mod turns;
mod waits;

pub(crate) use endings::Ended;
pub(crate) use peer::{Small, Wakes};
pub(crate) use waits::Direction;

/// Up to so many bytes a copy is made under the lock: it takes less time than locking again.
const COPY_LOCKED: usize = 4096;

/// What the streams of a session have in common.
#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) config: Config,
    pub(crate) shaper: Shaper,
    pub(crate) budget: Arc<Budget>,
    pub(crate) pool: &'static BufferPool,
    /// Version 2: what is granted to the peer and isn't consumed, over all streams, in bytes.
    pub(crate) granted: AtomicU64,
}

/// A user's close notifier, wrapped by the layer above to make a handle of the cell.
pub(crate) type Notifier = Box<dyn FnOnce(&Arc<StreamCell>) + Send>;

/// A stream's name, charged to the budget if the peer chose it.
#[derive(Debug)]
pub(crate) struct Name {
    bytes: Box<[u8]>,
    lossy: OnceLock<Box<str>>,
    _charge: Option<Charge>,
}

impl Name {
    pub(crate) fn new(bytes: &[u8], charge: Option<Charge>) -> Self {
        Self { bytes: bytes.into(), lossy: OnceLock::new(), _charge: charge }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn text(&self) -> &str {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => text,
            Err(_) => self.lossy.get_or_init(|| String::from_utf8_lossy(&self.bytes).into()),
        }
    }
}

pub(crate) struct StreamCell {
    pub(crate) id: u32,
    pub(crate) name: Name,
    /// Handles of the application; the engine's own references don't count.
    pub(crate) handles: AtomicUsize,
    state: Mutex<State>,
    readable: Condvar,
    writable: Condvar,
    flushed: Condvar,
}

struct State {
    core: StreamCore<Charge>,
    read: Deadline,
    write: Deadline,
    no_data: NoData,
    nonblocking: bool,
    /// A reader has chunks out.
    reading: bool,
    read_waiters: u32,
    write_waiters: u32,
    flush_waiters: u32,
    /// When the peer's FIN, or credit after it, came last.
    credit_at: Option<Instant>,
    /// Data came after the stream's end.
    late: bool,
    /// The stream's part of [`Env::granted`].
    granted: u64,
    closed: Option<(Sender<()>, Receiver<()>)>,
    notifier: Option<Notifier>,
}

impl State {
    /// Brings the session's sum of grants up to date.
    fn settle_grant(&mut self, env: &Env) {
        let granted = self.core.granted();
        if granted != self.granted {
            env.granted.fetch_add(granted.wrapping_sub(self.granted), Relaxed);
            self.granted = granted;
        }
    }
}

impl std::fmt::Debug for StreamCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("id", &self.id).field("name", &self.name.text()).finish_non_exhaustive()
    }
}

impl StreamCell {
    /// A new stream; `ours` if it was opened from this end, and owes a SYN.
    pub(crate) fn new(id: u32, name: Name, config: &Config, ours: bool, now: Instant) -> Arc<Self> {
        let state = State {
            core: StreamCore::new(config.version, config.max_stream_buffer, ours),
            read: Deadline::default(),
            write: Deadline::default(),
            no_data: NoData::new(config.no_data_timeout, now),
            nonblocking: false,
            reading: false,
            read_waiters: 0,
            write_waiters: 0,
            flush_waiters: 0,
            credit_at: None,
            late: false,
            granted: 0,
            closed: None,
            notifier: None,
        };
        Arc::new(Self {
            id,
            name,
            handles: AtomicUsize::new(0),
            state: Mutex::new(state),
            readable: Condvar::new(),
            writable: Condvar::new(),
            flushed: Condvar::new(),
        })
    }

    /// What every change ends with, under the lock: the stream is queued for what it owes, so that whoever locks it next (a session's
    /// close, say) knows that it is. The bell is for after unlocking.
    fn settle(self: &Arc<Self>, env: &Env, state: &mut State) -> Bell {
        state.settle_grant(env);
        let mut bell = Bell::default();
        while let Some(lane) = state.core.schedule() {
            bell = bell.and(env.shaper.schedule(Arc::clone(self), lane));
        }
        bell
    }

    /// Queues the stream for whatever it owes: a new one's SYN.
    pub(crate) fn queue_now(self: &Arc<Self>, env: &Env) {
        let bell = self.settle(env, &mut self.state.lock());
        env.shaper.ring(bell);
    }

    fn wake_all(&self) {
        self.readable.notify_all();
        self.writable.notify_all();
        self.flushed.notify_all();
    }

    // ---- reading ------------------------------------------------------------------------------------------------

    /// Reads at least one byte, waiting for it; 0 at the end.
    pub(crate) fn read(self: &Arc<Self>, env: &Env, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let Some(mut state) = self.wait_readable()? else { return Ok(0) };
        if buf.len().min(state.core.inbox().len()) <= COPY_LOCKED {
            let mut done = 0;
            while done < buf.len()
                && let Some(mut chunk) = state.core.inbox().pop()
            {
                done += chunk.copy_to(&mut buf[done..]);
                state.core.inbox().unpop(chunk);
            }
            self.finish_read(env, state, done);
            return Ok(done);
        }
        let mut turn = self.begin_read(env, state);
        let mut done = 0;
        while done < buf.len()
            && let Some(chunk) = turn.chunk()
        {
            let n = chunk.copy_to(&mut buf[done..]);
            turn.consumed += n;
            done += n;
        }
        Ok(done)
    }

    /// Moves what comes to `out`, until the end.
    pub(crate) fn write_to(self: &Arc<Self>, env: &Env, out: &mut dyn std::io::Write) -> std::io::Result<u64> {
        let mut total = 0;
        while let Some(state) = self.wait_readable()? {
            let mut turn = self.begin_read(env, state);
            while let Some(chunk) = turn.chunk() {
                let n = match out.write(chunk.data()) {
                    Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                    Ok(n) => n.min(chunk.len()),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                chunk.consume(n);
                turn.consumed += n;
                total += n as u64;
            }
        }
        Ok(total)
    }

    fn begin_read<'a>(self: &'a Arc<Self>, env: &'a Env, mut state: MutexGuard<'a, State>) -> ReadTurn<'a> {
        state.reading = true;
        ReadTurn { cell: self, env, chunk: None, consumed: 0 }
    }

    /// What every read does last: counts what was read, lets go of a large buffer with a small rest, wakes the next reader if there
    /// is something for it (all of them for an ending, which needs no turn, so that nobody would pass it on), and unlocks.
    fn finish_read(self: &Arc<Self>, env: &Env, mut state: MutexGuard<'_, State>, consumed: usize) {
        state.core.consumed(consumed);
        let spent = state.core.inbox().release_tail(env.pool, |n| env.budget.charge(n));
        let waiting = state.read_waiters > 0;
        let next = state.core.readable();
        let bell = self.settle(env, &mut state);
        drop(state);
        drop(spent);
        match next {
            Readable::Data if waiting => drop(self.readable.notify_one()),
            Readable::Eof | Readable::Failed(_) if waiting => drop(self.readable.notify_all()),
            _ => {}
        }
        env.shaper.ring(bell);
    }

    // ---- writing ------------------------------------------------------------------------------------------------

    /// Accepts as much of `buf` as there is room for, at least one byte, waiting for it.
    pub(crate) fn write(self: &Arc<Self>, env: &Env, buf: &[u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let (max_send, max_frame) = (env.config.max_send_buffer, env.config.max_frame_size);
        let (mut state, mut room) = self.wait_writable(env)?;
        let mut done = 0;
        let failed = loop {
            let n = room.min(buf.len() - done);
            let rest = &buf[done..done + n];
            if n <= COPY_LOCKED {
                state.core.accept_small(rest, max_frame, env.pool);
                done += n;
            } else {
                state.core.writing = true;
                let bell = self.settle(env, &mut state);
                drop(state);
                env.shaper.ring(bell);
                let mut payload = crate::proto::chunks::Payload::with_room(env.pool, n.min(max_frame));
                let n = payload.append(rest, max_frame);
                state = self.state.lock();
                state.core.writing = false;
                if let Writable::Failed(error) = state.core.writable(max_send) {
                    // Closed meanwhile: this piece wasn't accepted, those before it were.
                    break Some(error);
                }
                state.core.accept(payload);
                done += n;
            }
            room = match state.core.writable(max_send) {
                Writable::Room(room) if done < buf.len() => room,
                _ => break None,
            };
        };
        let next = state.write_waiters > 0 && matches!(state.core.writable(max_send), Writable::Room(_));
        let bell = self.settle(env, &mut state);
        drop(state);
        if next {
            self.writable.notify_one();
        }
        env.shaper.ring(bell);
        match failed {
            Some(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }
}

/// A reader's right to take chunks out of the stream: what it didn't use goes back when it is dropped.
struct ReadTurn<'a> {
    cell: &'a Arc<StreamCell>,
    env: &'a Env,
    chunk: Option<Chunk<Charge>>,
    consumed: usize,
}

impl ReadTurn<'_> {
    /// The chunk at the head, with something in it.
    fn chunk(&mut self) -> Option<&mut Chunk<Charge>> {
        if self.chunk.as_ref().is_none_or(|chunk| chunk.len() == 0) {
            self.chunk = None; // back to the pool and the budget, outside the lock
            self.chunk = self.cell.state.lock().core.inbox().pop();
        }
        self.chunk.as_mut()
    }
}

impl Drop for ReadTurn<'_> {
    fn drop(&mut self) {
        let chunk = self.chunk.take();
        let mut state = self.cell.state.lock();
        state.reading = false;
        let unwanted = match chunk {
            Some(chunk) if state.core.keeps_data() => {
                state.core.inbox().unpop(chunk);
                None
            }
            other => other,
        };
        // `shutdown(Read)` meanwhile has counted what it found in the stream, not what was out here.
        let consumed = self.consumed + unwanted.as_ref().map_or(0, Chunk::len);
        self.cell.finish_read(self.env, state, consumed);
        drop(unwanted);
    }
}

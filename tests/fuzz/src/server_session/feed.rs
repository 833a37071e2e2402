//! A transport in memory. The target gives it pieces, the session's reader takes them, and the
//! bytes that the session writes are kept.
//!
//! Invariant: one read returns bytes of one piece, as if each piece were a packet. Two pieces never
//! come together.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::Choices;
use crate::transport::{Control, Halves, Transport};

/// The behaviour of the transport towards the session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// The most bytes that one write takes.
    take: usize,
    /// Number of bytes after which writes wait until they are released or aborted.
    stuck_after: usize,
    /// Every other call is interrupted.
    interrupts: bool,
    /// The transport declares its writes bounded, so that calling threads write inline.
    bounded: bool,
}

impl Manner {
    pub(super) fn choose(choices: &mut Choices) -> Self {
        let bits = choices.byte();
        let take = [usize::MAX, 1, 13, 1000][usize::from(bits & 3)];
        let stuck_after = if bits & 12 == 12 { choices.length() } else { usize::MAX };
        let bounded = bits & 32 != 0 && stuck_after == usize::MAX;
        Self { take, stuck_after, interrupts: bits & 16 != 0, bounded }
    }
}

#[derive(Default)]
struct State {
    input: VecDeque<VecDeque<u8>>,
    /// The session's reader waits for input.
    waiting: bool,
    ended: bool,
    /// The input stays open when the session has ended its writing.
    endless: bool,
    read_fails: bool,
    write_fails: bool,
    released: bool,
    aborted: bool,
    written: Vec<u8>,
    calls: usize,
    /// Number of dropped parts, of the two halves and the control.
    dropped: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    manner: Manner,
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}

/// The target's end.
pub(super) struct Feed(Arc<Shared>);

/// The session's end, and each of its parts.
pub(super) struct Fed(Arc<Shared>);

pub(super) fn feed(manner: Manner) -> (Feed, Fed) {
    let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), manner });
    (Feed(Arc::clone(&shared)), Fed(shared))
}

impl Feed {
    pub(super) fn give(&self, piece: Vec<u8>) {
        if !piece.is_empty() {
            self.0.change(|state| state.input.push_back(piece.into()));
        }
    }

    /// Waits until one of these is true:
    ///
    /// - The reader has taken everything and wants more.
    /// - The reader is gone.
    /// - The reader may be waiting for the application.
    pub(super) fn wait_taken(&self, paused: impl Fn() -> bool) {
        let mut state = self.0.state.lock();
        while !(state.waiting && state.input.is_empty()) && state.dropped == 0 && !state.aborted {
            // No event tells of a reader that waits for budget, so it has to be asked.
            if self.0.changed.wait_for(&mut state, Duration::from_micros(200)).timed_out() {
                drop(state);
                if paused() {
                    return;
                }
                state = self.0.state.lock();
            }
        }
    }

    /// The peer ends its side.
    pub(super) fn end(&self) {
        self.0.change(|state| state.ended = true);
    }

    pub(super) fn never_ends(&self) {
        self.0.change(|state| state.endless = true);
    }

    pub(super) fn fail_read(&self) {
        self.0.change(|state| state.read_fails = true);
    }

    pub(super) fn fail_write(&self) {
        self.0.change(|state| state.write_fails = true);
    }

    /// Lets writes go on.
    pub(super) fn release(&self) {
        self.0.change(|state| state.released = true);
    }

    /// Waits until the session's threads have let go of the transport.
    pub(super) fn wait_gone(&self) {
        let mut state = self.0.state.lock();
        while state.dropped < 3 {
            self.0.changed.wait(&mut state);
        }
    }

    pub(super) fn written(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.state.lock().written)
    }
}

impl Transport for Fed {
    fn split(self) -> io::Result<Halves> {
        let reader = Fed(Arc::clone(&self.0));
        let writer = Fed(Arc::clone(&self.0));
        let bounded = self.0.manner.bounded;
        Ok(Halves::new(Part(reader), Part(writer), Part(self)).bounded_writes(bounded))
    }
}

/// A half or the control. Its drop is counted.
struct Part(Fed);

impl Part {
    fn interrupted(&self, state: &mut State) -> io::Result<()> {
        state.calls += 1;
        if self.0.0.manner.interrupts && state.calls.is_multiple_of(2) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.0.change(|state| state.dropped += 1);
    }
}

impl Read for Part {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        self.interrupted(&mut state)?;
        while state.input.is_empty() && !state.ended && !state.read_fails && !state.aborted {
            state.waiting = true;
            shared.changed.notify_all();
            shared.changed.wait(&mut state);
        }
        state.waiting = false;
        let Some(mut piece) = state.input.pop_front().filter(|_| !state.aborted) else {
            return if state.read_fails && !state.aborted {
                Err(io::ErrorKind::ConnectionReset.into())
            } else {
                Ok(0)
            };
        };
        let mut n = 0;
        for buf in bufs {
            n += piece.read(buf)?;
        }
        if !piece.is_empty() {
            state.input.push_front(piece);
        }
        Ok(n)
    }
}

impl Write for Part {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        self.interrupted(&mut state)?;
        while state.written.len() >= shared.manner.stuck_after && !state.released && !state.aborted
        {
            shared.changed.wait(&mut state);
        }
        if state.aborted || state.write_fails {
            // A fault that fails writes ends reads, too. Otherwise the session would read on until
            // its close timeout.
            state.ended |= !state.endless;
            shared.changed.notify_all();
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut left = shared.manner.take;
        // After 500 bytes, more is taken at once. In small pieces, large batches would take too
        // long.
        if state.written.len() > 500 {
            left = left.max(4096);
        }
        let before = state.written.len();
        for buf in bufs {
            let n = left.min(buf.len());
            state.written.extend_from_slice(&buf[..n]);
            left -= n;
        }
        Ok(state.written.len() - before)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Control for Part {
    fn finish_write(&self) -> io::Result<()> {
        self.0.0.change(|state| state.ended |= !state.endless);
        Ok(())
    }

    fn abort(&self) {
        self.0.0.change(|state| state.aborted = true);
    }
}

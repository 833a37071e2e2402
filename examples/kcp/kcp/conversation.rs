//! A conversation: the protocol under a lock, and the threads that wait for it.
//!
//! The lock guards the protocol, the outbox (datagrams to be sent), and the way in which the
//! conversation ended. It is never held across a system call. One thread at a time sends. If a
//! thread finds datagrams in the outbox and no other thread sends, it releases the lock and sends
//! the datagrams one after the other. It also sends the datagrams that other threads add meanwhile.
//!
//! | who waits | on | woken by |
//! |---|---|---|
//! | the read half | `readable` | the receiving thread, once for a batch, and [`Conversation::end`] |
//! | the write half, `finish` | `writable` | the receiving thread, and [`Conversation::end`] |
//!
//! Invariants:
//! - Only one thread at a time sends. So datagrams don't overtake each other before they reach the
//!   network.
//! - `due` is stored before the clock is rung.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::ending::End;
use super::link::Link;
use super::outbox::Outbox;
use super::protocol::Protocol;
use super::segment::Malformed;

/// Limit of the batches that a thread sends in a row. After that, the clock thread sends the
/// datagrams that other threads add.
const MAX_BATCHES: usize = 4;

/// Time for which a finished conversation goes on answering, in milliseconds. If one of our acks
/// was lost, the peer repeats the segment. It can finish its side only when it has our ack.
const LINGER: u64 = 10_000;

/// Time limit for a new conversation to bring its first byte, in milliseconds.
const BEGIN_TIMEOUT: u64 = 10_000;

#[derive(Debug)]
pub struct Conversation {
    pub peer: SocketAddr,
    pub conv: u32,
    /// The time at which it began, and the time at which its last datagram arrived, in
    /// milliseconds.
    pub since: u64,
    pub heard: AtomicU64,
    /// Whether the peer has acked a segment of ours. A sender that forges its address can't do
    /// that.
    pub proven: AtomicBool,
    pub accepted: AtomicBool,
    /// The time at which the clock thread has to call `tick`, in milliseconds. `u64::MAX` if no
    /// time is set.
    due: AtomicU64,
    state: Mutex<State>,
    readable: Condvar,
    writable: Condvar,
}

#[derive(Debug)]
struct State {
    protocol: Protocol,
    outbox: Outbox,
    /// An empty outbox, whose memory is used again.
    spare: Outbox,
    sending: bool,
    end: Option<End>,
    /// Whether all written bytes were acked, and no more will be written.
    finished: bool,
    /// Whether its first byte has arrived.
    begun: bool,
    /// The time at which it is removed from the table.
    expires: u64,
    readers: usize,
    writers: usize,
}

impl Conversation {
    /// Makes a conversation. `begun` is true if this end begins it. If it is false, the peer has
    /// begun the conversation by a datagram, which `protocol` has already taken in.
    pub fn new(peer: SocketAddr, protocol: Protocol, begun: bool, now: u64) -> Self {
        let expires = if begun { u64::MAX } else { now + BEGIN_TIMEOUT };
        Self {
            peer,
            conv: protocol.conv(),
            since: now,
            heard: AtomicU64::new(now),
            proven: AtomicBool::new(false),
            accepted: AtomicBool::new(false),
            due: AtomicU64::new(expires),
            state: Mutex::new(State {
                protocol,
                outbox: Outbox::default(),
                spare: Outbox::default(),
                sending: false,
                end: None,
                finished: false,
                begun,
                expires,
                readers: 0,
                writers: 0,
            }),
            readable: Condvar::new(),
            writable: Condvar::new(),
        }
    }

    // ---- the endpoint's threads -----------------------------------------------------------------

    /// Takes in a datagram of this conversation.
    ///
    /// # Errors
    /// The errors of [`Protocol::input`].
    pub fn input(&self, segments: &[u8], now: u64) -> Result<(), Malformed> {
        let mut state = self.state.lock();
        state.protocol.input(segments, now)?;
        self.proven.store(state.protocol.is_proven(), SeqCst);
        self.heard.store(now, SeqCst);
        Ok(())
    }

    /// Finishes a batch of received datagrams. It sends the answers, and wakes the threads that can
    /// go on. Returns whether the first byte of the conversation was in this batch.
    pub fn settle(&self, link: &Link) -> bool {
        let mut state = self.state.lock();
        self.send(&mut state, link);
        if state.writers > 0 && (state.protocol.has_room() || state.protocol.is_done()) {
            self.writable.notify_all();
        }
        if state.readers > 0 && state.protocol.is_readable() {
            self.readable.notify_all();
        }
        if state.begun || !state.protocol.is_readable() {
            return false;
        }
        state.begun = true;
        state.expires = u64::MAX;
        true
    }

    /// Sends segments that are due. The clock thread calls this. Returns the time of the next call,
    /// or `None` if the conversation has expired.
    pub fn tick(&self, link: &Link, now: u64) -> Option<u64> {
        let due = self.due.load(SeqCst);
        if due > now {
            return Some(due);
        }
        let mut state = self.state.lock();
        if state.expires <= now {
            self.end_with(&mut state, End::Expired);
            return None;
        }
        self.send(&mut state, link);
        Some(self.due.load(SeqCst))
    }

    /// Sends everything that has to be sent now, and tells the clock thread the next due time.
    fn send(&self, state: &mut MutexGuard<'_, State>, link: &Link) {
        let all = &mut **state;
        all.protocol.transmit(link.clock.now(), &mut all.outbox);
        self.set_due(all.protocol.due().min(all.expires), link);
        if all.sending || all.outbox.is_empty() {
            return;
        }
        all.sending = true;
        for _ in 0..MAX_BATCHES {
            let spare = std::mem::take(&mut state.spare);
            let mut batch = std::mem::replace(&mut state.outbox, spare);
            MutexGuard::unlocked(state, || link.send(&mut batch, self.peer));
            batch.clear();
            state.spare = batch;
            if state.outbox.is_empty() {
                break;
            }
        }
        state.sending = false;
        if !state.outbox.is_empty() {
            self.set_due(0, link);
        }
    }

    fn set_due(&self, due: u64, link: &Link) {
        self.due.store(due, SeqCst);
        link.clock.ring(due);
    }

    /// Ends the conversation. Blocked and later calls return an error.
    pub fn end(&self, end: End) {
        self.end_with(&mut self.state.lock(), end);
    }

    fn end_with(&self, state: &mut State, end: End) {
        state.end.get_or_insert(end);
        self.readable.notify_all();
        self.writable.notify_all();
    }

    // ---- the halves -----------------------------------------------------------------------------

    /// Reads the bytes that are there. If there are none, waits for some, at most for `bound`.
    pub fn read(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        bound: Option<Duration>,
        link: &Link,
    ) -> io::Result<usize> {
        let mut state = self.state.lock();
        let until = bound.and_then(|bound| Instant::now().checked_add(bound));
        loop {
            let mut n = 0;
            for buf in &mut *bufs {
                n += state.protocol.read(buf);
            }
            if n > 0 {
                if state.protocol.due() == 0 {
                    self.send(&mut state, link); // The peer has to learn of the new room.
                }
                return Ok(n);
            }
            if let Some(end) = state.end {
                return Err(end.error());
            }
            state.readers += 1;
            let in_time = wait(&self.readable, &mut state, until);
            state.readers -= 1;
            if !in_time && !state.protocol.is_readable() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }

    /// Writes as many bytes as there is room for. If there is no room, waits for some, at most for
    /// `bound`.
    pub fn write(
        &self,
        bufs: &[IoSlice<'_>],
        bound: Option<Duration>,
        link: &Link,
    ) -> io::Result<usize> {
        let mut state = self.state.lock();
        let until = bound.and_then(|bound| Instant::now().checked_add(bound));
        loop {
            if let Some(end) = state.end {
                return Err(end.error());
            }
            let mut n = 0;
            for buf in bufs {
                n += state.protocol.write(buf);
            }
            if n > 0 || bufs.iter().all(|buf| buf.is_empty()) {
                self.send(&mut state, link);
                return Ok(n);
            }
            state.writers += 1;
            let in_time = wait(&self.writable, &mut state, until);
            state.writers -= 1;
            if !in_time && !state.protocol.has_room() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }

    /// Sends all written bytes, even if they don't fill a segment.
    pub fn flush(&self, link: &Link) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(end) = state.end {
            return Err(end.error());
        }
        state.protocol.flush();
        self.send(&mut state, link);
        Ok(())
    }

    /// Waits until the peer has acked everything.
    pub fn finish(&self, link: &Link) -> io::Result<()> {
        self.flush(link)?;
        let mut state = self.state.lock();
        while !state.protocol.is_done() {
            if let Some(end) = state.end {
                return Err(end.error());
            }
            state.writers += 1;
            self.writable.wait(&mut state);
            state.writers -= 1;
        }
        state.finished = true;
        Ok(())
    }

    /// Notes that nobody uses the conversation any more. A finished conversation goes on answering
    /// for [`LINGER`]. Any other is removed at once.
    pub fn leave(self: &Arc<Self>, link: &Link) {
        let mut state = self.state.lock();
        if state.finished && !matches!(state.end, Some(End::Replaced)) {
            state.protocol.discard();
            state.expires = link.clock.now() + LINGER;
            self.send(&mut state, link);
        } else {
            drop(state);
            link.remove(self);
        }
    }
}

/// Waits. Returns true if it was woken, and false if `until` has passed.
fn wait(condvar: &Condvar, state: &mut MutexGuard<'_, State>, until: Option<Instant>) -> bool {
    match until {
        Some(until) => !condvar.wait_until(state, until).timed_out(),
        None => {
            condvar.wait(state);
            true
        }
    }
}

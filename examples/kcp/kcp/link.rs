//! The parts that the conversations of an endpoint share: socket, cipher, clock, counters and
//! table.
//!
//! The table's lock guards the table and the flag [`Open`]. It isn't held across a system call, or
//! while waiting for a conversation's lock. `accept` waits on `came`. The receiving thread and the
//! endpoint's close wake it.
//!
//! Invariant: the threads stop when the endpoint is closed and the last conversation has left.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::clock::Clock;
use super::conversation::Conversation;
use super::datagram::Crypt;
use super::ending::End;
use super::outbox::Outbox;
use super::settings::Settings;
use super::socket::Socket;
use super::table::{Full, Table};
use parking_lot::{Condvar, Mutex};

/// Limit of a run of datagrams in one system call, in bytes. A run has to fit into the largest IP
/// packet.
const LONGEST_RUN: usize = 65_000;

/// Counts of datagrams. Datagrams that are malformed, or not for this endpoint, are counted and
/// dropped.
#[derive(Debug, Default)]
pub struct Counters {
    pub received: AtomicU64,
    pub sent: AtomicU64,
    /// It is too short for a nonce, a checksum and a segment.
    pub short: AtomicU64,
    /// The checksum is wrong. The datagram was cut or damaged, or its sender uses another key or
    /// cipher.
    pub checksum: AtomicU64,
    /// The sender of the last one with a wrong checksum. The lock guards only this address, and is
    /// held for a moment.
    pub last_damaged: Mutex<Option<SocketAddr>>,
    /// The datagram uses error correction (FEC), which isn't supported here.
    pub fec: AtomicU64,
    /// It belongs to no known conversation, and begins no new one.
    pub unknown: AtomicU64,
    /// It doesn't consist of segments, or has a segment that its conversation can't have.
    pub malformed: AtomicU64,
    /// It begins a conversation for which there is no place.
    pub refused: AtomicU64,
    /// The system didn't send it. The protocol treats it as a lost datagram.
    pub unsent: AtomicU64,
}

pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

#[derive(Debug)]
pub struct Link {
    pub socket: Socket,
    pub local: SocketAddr,
    pub crypt: Crypt,
    pub settings: Settings,
    pub clock: Clock,
    pub counters: Counters,
    table: Mutex<(Table, Open)>,
    came: Condvar,
    /// Whether the threads have to stop.
    over: AtomicBool,
}

/// Whether conversations can still be accepted.
type Open = bool;

impl Link {
    pub fn new(socket: Socket, local: SocketAddr, settings: Settings) -> Self {
        let table = Table::new(settings.conversations);
        Self {
            local,
            crypt: Crypt::new(settings.cipher, &settings.key),
            settings,
            clock: Clock::new(),
            counters: Counters::default(),
            table: Mutex::new((table, true)),
            came: Condvar::new(),
            over: AtomicBool::new(false),
            socket,
        }
    }

    /// Encrypts and sends datagrams, a run of them in one system call. If the system returns an
    /// error, the protocol treats the datagrams as lost. So a router's report about an earlier
    /// datagram doesn't end a conversation. If the peer is really gone, the session's keepalive
    /// ends it.
    pub fn send(&self, batch: &mut Outbox, peer: SocketAddr) {
        let mut random = rand::rng();
        let most = self.socket.most_at_once();
        let (mut rest, ends) = batch.parts();
        let mut lens =
            ends.iter().scan(0, |start, end| Some(end - std::mem::replace(start, *end))).peekable();
        while let Some(len) = lens.next() {
            // All datagrams of a run have one length. Only the last may be shorter.
            let mut count = 1;
            let mut total = len;
            let mut last = len;
            while count < most
                && last == len
                && let Some(next) =
                    lens.next_if(|next| *next <= len && total + *next <= LONGEST_RUN)
            {
                count += 1;
                total += next;
                last = next;
            }
            let (run, later) = std::mem::take(&mut rest).split_at_mut(total);
            rest = later;
            run.chunks_mut(len).for_each(|datagram| self.crypt.close(datagram, &mut random));
            let sent = self.socket.send(run, len, peer);
            let counter = if sent.is_ok() { &self.counters.sent } else { &self.counters.unsent };
            counter.fetch_add(count as u64, Relaxed);
        }
    }

    // ---- the table ------------------------------------------------------------------------------

    pub fn find(&self, peer: SocketAddr, conv: u32) -> Option<Arc<Conversation>> {
        self.table.lock().0.find(peer, conv)
    }

    /// Returns whether this conversation has ended not long ago.
    pub fn has_ended(&self, peer: SocketAddr, conv: u32) -> bool {
        self.table.lock().0.has_ended(peer, conv, self.clock.now())
    }

    /// Adds all conversations to `into`.
    pub fn all(&self, into: &mut Vec<Arc<Conversation>>) {
        into.extend(self.table.lock().0.all().cloned());
    }

    pub fn conversations(&self) -> usize {
        self.table.lock().0.len()
    }

    /// Adds a conversation that the peer has begun. Returns whether there was a place for it.
    pub fn add(&self, new: &Arc<Conversation>) -> bool {
        let added = match &mut *self.table.lock() {
            (table, true) => table.add(new, self.clock.now()),
            (_, false) => Err(Full),
        };
        if let Ok(Some(gone)) = &added {
            gone.end(End::Evicted);
        }
        added.is_ok()
    }

    /// Adds the only conversation of a client.
    pub fn add_own(&self, own: &Arc<Conversation>) {
        let (table, open) = &mut *self.table.lock();
        table.add_own(own);
        *open = false;
    }

    /// Makes a conversation ready to be accepted. Called when its first byte has arrived.
    pub fn offer(&self, conversation: &Arc<Conversation>) {
        let past = {
            let (table, open) = &mut *self.table.lock();
            if !*open {
                return;
            }
            table.offer(conversation);
            table.supersede(conversation, self.clock.now())
        };
        self.came.notify_one();
        past.iter().for_each(|past| past.end(End::Replaced));
    }

    /// Waits for a conversation.
    ///
    /// # Errors
    /// The endpoint was closed.
    pub fn accept(&self) -> io::Result<Arc<Conversation>> {
        let mut state = self.table.lock();
        loop {
            match &mut *state {
                (_, false) => {
                    return Err(io::Error::new(
                        io::ErrorKind::NotConnected,
                        "the KCP endpoint was closed",
                    ));
                }
                (table, true) => {
                    if let Some(conversation) = table.accept() {
                        return Ok(conversation);
                    }
                }
            }
            self.came.wait(&mut state);
        }
    }

    /// Removes a conversation.
    pub fn remove(&self, conversation: &Arc<Conversation>) {
        let mut state = self.table.lock();
        state.0.remove(conversation, self.clock.now());
        self.end_if_over(&state);
    }

    /// Makes `accept` fail from now on, and removes the conversations that nobody has accepted.
    pub fn close(&self) {
        let mut state = self.table.lock();
        state.1 = false;
        state.0.remove_unaccepted(self.clock.now());
        self.end_if_over(&state);
        drop(state);
        self.came.notify_all();
    }

    /// Returns whether the threads have to end.
    pub fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Stops the threads, if no conversation needs them any more.
    fn end_if_over(&self, (table, open): &(Table, Open)) {
        if !open && table.len() == 0 {
            self.over.store(true, SeqCst);
            self.clock.ring(0);
            self.socket.wake();
        }
    }
}

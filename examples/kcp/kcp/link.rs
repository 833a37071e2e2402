//! What the conversations of an endpoint share: socket, cipher, clock, counters, and their table.
//!
//! The table's lock guards the table, and whether the endpoint is open. It isn't held across a
//! system call, nor while a conversation's lock is waited for. `accept` waits on `came`; the
//! receiving thread wakes it, and the endpoint's close.
//!
//! Invariant: the threads end when the endpoint is closed and the last conversation has left.

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

/// The longest run of datagrams in one system call, in bytes: what fits into the largest of IP's.
const LONGEST_RUN: usize = 65_000;

/// Counts of datagrams. Those that aren't for us, or not well-formed, are counted and dropped.
#[derive(Debug, Default)]
pub struct Counters {
    pub received: AtomicU64,
    pub sent: AtomicU64,
    /// Too short for a nonce, a checksum and a segment.
    pub short: AtomicU64,
    /// The checksum is wrong: cut, damaged, or with another key or cipher.
    pub checksum: AtomicU64,
    /// Whom the last of these came from. Guards that alone, for a moment.
    pub last_damaged: Mutex<Option<SocketAddr>>,
    /// With error correction (FEC), which isn't done here.
    pub fec: AtomicU64,
    /// Of a conversation that there isn't, and not the begin of one.
    pub unknown: AtomicU64,
    /// No segments, or such as the conversation can't have.
    pub malformed: AtomicU64,
    /// The begin of a conversation for which there was no place.
    pub refused: AtomicU64,
    /// The system didn't take it. To the protocol it is lost.
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
    /// The threads are to end.
    over: AtomicBool,
}

/// Whether conversations are accepted still.
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

    /// Closes and sends datagrams, a run of them in one system call. An error of the system's is a
    /// loss to the protocol: what a router said of an earlier datagram doesn't end a conversation,
    /// the session's keepalive does.
    pub fn send(&self, batch: &mut Outbox, peer: SocketAddr) {
        let mut random = rand::rng();
        let most = self.socket.most_at_once();
        let (mut rest, ends) = batch.parts();
        let mut lens =
            ends.iter().scan(0, |start, end| Some(end - std::mem::replace(start, *end))).peekable();
        while let Some(len) = lens.next() {
            // A run is of one length, but for the last, which may be shorter.
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

    /// Whether it ended not long ago.
    pub fn has_ended(&self, peer: SocketAddr, conv: u32) -> bool {
        self.table.lock().0.has_ended(peer, conv, self.clock.now())
    }

    /// All conversations.
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

    /// Adds the one conversation of a client.
    pub fn add_own(&self, own: &Arc<Conversation>) {
        let (table, open) = &mut *self.table.lock();
        table.add_own(own);
        *open = false;
    }

    /// The first byte of a conversation has come: it may be accepted.
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

    /// Takes a conversation out.
    pub fn remove(&self, conversation: &Arc<Conversation>) {
        let mut state = self.table.lock();
        state.0.remove(conversation, self.clock.now());
        self.end_if_over(&state);
    }

    /// No more conversations are accepted, and those that wait for it are taken out.
    pub fn close(&self) {
        let mut state = self.table.lock();
        state.1 = false;
        state.0.remove_unaccepted(self.clock.now());
        self.end_if_over(&state);
        drop(state);
        self.came.notify_all();
    }

    /// Whether the threads are to end.
    pub fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Ends the threads, if nobody needs them any more.
    fn end_if_over(&self, (table, open): &(Table, Open)) {
        if !open && table.len() == 0 {
            self.over.store(true, SeqCst);
            self.clock.ring(0);
            self.socket.wake();
        }
    }
}

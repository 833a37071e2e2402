//! What the conversations of an endpoint share: socket, cipher, clock, counters, and their table.
//!
//! Invariants: the table has at most [`Settings::conversations`] entries, one for an address. Its
//! lock guards the map, the queue of those that wait to be accepted, and whether the endpoint is
//! open; it isn't held across a system call, nor while a conversation's lock is waited for.
//! `accept` waits on `came`, and is woken by the receiving thread and by the endpoint's close. The
//! threads end when the endpoint is closed and the last conversation has left.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::clock::Clock;
use super::conversation::Conversation;
use super::datagram::Crypt;
use super::outbox::Outbox;
use super::settings::Settings;
use super::socket::Socket;
use parking_lot::{Condvar, Mutex};

/// How many conversations wait to be accepted at most: kcp-go's number.
const BACKLOG: usize = 128;

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
    table: Mutex<Table>,
    came: Condvar,
    /// The threads are to end.
    over: AtomicBool,
}

#[derive(Debug)]
struct Table {
    by_address: HashMap<SocketAddr, Arc<Conversation>>,
    /// Conversations that wait to be accepted.
    queue: VecDeque<Arc<Conversation>>,
    /// How many there are that nobody has accepted, whether they are in the queue or not yet.
    unaccepted: usize,
    open: bool,
}

impl Link {
    pub fn new(socket: Socket, local: SocketAddr, settings: Settings) -> Self {
        let table = Table { by_address: HashMap::new(), queue: VecDeque::new(), unaccepted: 0, open: true };
        Self {
            local,
            crypt: Crypt::new(settings.cipher, &settings.key),
            settings,
            clock: Clock::new(),
            counters: Counters::default(),
            table: Mutex::new(table),
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
        let mut lens = ends.iter().scan(0, |start, end| Some(end - std::mem::replace(start, *end))).peekable();
        while let Some(len) = lens.next() {
            // A run is of one length, but for the last, which may be shorter.
            let (mut count, mut total, mut last) = (1, len, len);
            while count < most
                && last == len
                && let Some(next) = lens.next_if(|next| *next <= len && total + *next <= LONGEST_RUN)
            {
                (count, total, last) = (count + 1, total + next, next);
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

    /// The conversation with an address.
    pub fn find(&self, peer: SocketAddr) -> Option<Arc<Conversation>> {
        self.table.lock().by_address.get(&peer).cloned()
    }

    /// All conversations.
    pub fn all(&self, into: &mut Vec<Arc<Conversation>>) {
        into.extend(self.table.lock().by_address.values().cloned());
    }

    pub fn conversations(&self) -> usize {
        self.table.lock().by_address.len()
    }

    /// Adds a conversation that the peer has begun, in the place of `old`. Returns whether there
    /// was room for it.
    pub fn add(&self, new: &Arc<Conversation>, old: Option<&Arc<Conversation>>) -> bool {
        let mut table = self.table.lock();
        let full = table.by_address.len() >= self.settings.conversations + usize::from(old.is_some());
        if !table.open || full || table.unaccepted >= BACKLOG {
            return false;
        }
        table.unaccepted += 1;
        table.by_address.insert(new.peer, Arc::clone(new));
        if let Some(old) = old {
            table.forget(old);
        }
        true
    }

    /// Adds the one conversation of a client; nobody needs to accept it.
    pub fn add_own(&self, own: &Arc<Conversation>) {
        own.accepted.store(true, SeqCst);
        let mut table = self.table.lock();
        table.by_address.insert(own.peer, Arc::clone(own));
        table.open = false;
    }

    /// The first byte of a conversation has come: it may be accepted.
    pub fn offer(&self, conversation: Arc<Conversation>) {
        let mut table = self.table.lock();
        if table.open && table.holds(&conversation) {
            table.queue.push_back(conversation);
            drop(table);
            self.came.notify_one();
        }
    }

    /// Waits for a conversation.
    ///
    /// # Errors
    /// The endpoint was closed.
    pub fn accept(&self) -> io::Result<Arc<Conversation>> {
        let mut table = self.table.lock();
        loop {
            if let Some(conversation) = table.queue.pop_front() {
                conversation.accepted.store(true, SeqCst);
                table.unaccepted -= 1;
                return Ok(conversation);
            }
            if !table.open {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the KCP endpoint was closed"));
            }
            self.came.wait(&mut table);
        }
    }

    /// Takes a conversation out.
    pub fn remove(&self, conversation: &Arc<Conversation>) {
        let mut table = self.table.lock();
        if table.holds(conversation) {
            table.by_address.remove(&conversation.peer);
            table.forget(conversation);
        }
        self.end_if_over(&table);
    }

    /// No more conversations are accepted, and those that wait for it are taken out.
    pub fn close(&self) {
        let mut table = self.table.lock();
        table.open = false;
        table.by_address.retain(|_, conversation| conversation.accepted.load(SeqCst));
        (table.unaccepted, table.queue) = (0, VecDeque::new());
        self.end_if_over(&table);
        drop(table);
        self.came.notify_all();
    }

    /// Whether the threads are to end.
    pub fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Ends the threads, if nobody needs them any more.
    fn end_if_over(&self, table: &Table) {
        if !table.open && table.by_address.is_empty() {
            self.over.store(true, SeqCst);
            self.clock.ring(0);
            // Wakes the receiving thread where the system does that; elsewhere it wakes up by
            // itself.
            self.socket.wake();
        }
    }
}

impl Table {
    fn holds(&self, conversation: &Arc<Conversation>) -> bool {
        self.by_address.get(&conversation.peer).is_some_and(|held| Arc::ptr_eq(held, conversation))
    }

    /// It isn't in the map any more.
    fn forget(&mut self, gone: &Arc<Conversation>) {
        if !gone.accepted.load(SeqCst) {
            self.unaccepted = self.unaccepted.saturating_sub(1);
            self.queue.retain(|waiting| !Arc::ptr_eq(waiting, gone));
        }
    }
}

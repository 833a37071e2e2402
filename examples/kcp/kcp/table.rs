//! The conversations of an endpoint: by address and number, few for each address, bounded in all.
//!
//! What a flood can do here: nothing is kept of a datagram that begins nothing. Of conversations
//! there are so many in all, a quarter of that from one host, and [`OF_AN_ADDRESS`] from one
//! address. When there is no place, the oldest goes that has never acked anything of ours: whoever
//! forges addresses can't do that. A conversation of the same address that has been silent goes
//! before.
//!
//! Invariants: the counts are those of the map; what has ended is remembered for a while, so that
//! late datagrams of it begin nothing.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::conversation::Conversation;

/// How many conversations an address has at most: a client has one, and a few from before it was
/// started again.
const OF_AN_ADDRESS: usize = 4;

/// How many conversations wait to be accepted at most: kcp-go's number.
const BACKLOG: usize = 128;

/// How long a conversation has been silent for a new one of its address to take its place, in
/// milliseconds. Its client was started again; a busy one isn't ended by a datagram that is forged.
const SILENT: u64 = 1000;

/// How long, in milliseconds, and how many conversations are remembered that have ended: as long as
/// a datagram may be on the way.
const REMEMBERED: u64 = 60_000;
const REMEMBERED_COUNT: usize = 1024;

#[derive(Debug)]
pub struct Table {
    by_address: HashMap<SocketAddr, Vec<Arc<Conversation>>>,
    by_host: HashMap<IpAddr, usize>,
    count: usize,
    /// How many at most.
    most: usize,
    /// Those that wait to be accepted.
    queue: VecDeque<Arc<Conversation>>,
    /// How many there are that nobody has accepted, whether they are in the queue or not yet.
    unaccepted: usize,
    /// What has ended, and when.
    ended: VecDeque<(u64, SocketAddr, u32)>,
}

impl Table {
    pub fn new(most: usize) -> Self {
        Self {
            by_address: HashMap::new(),
            by_host: HashMap::new(),
            count: 0,
            most,
            queue: VecDeque::new(),
            unaccepted: 0,
            ended: VecDeque::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Conversation>> {
        self.by_address.values().flatten()
    }

    pub fn find(&self, peer: SocketAddr, conv: u32) -> Option<Arc<Conversation>> {
        self.by_address.get(&peer)?.iter().find(|known| known.conv == conv).cloned()
    }

    /// Whether it ended not long ago.
    pub fn has_ended(&self, peer: SocketAddr, conv: u32, now: u64) -> bool {
        let recent = self.ended.iter().rev().take_while(|(at, ..)| now < at + REMEMBERED);
        recent.map(|(_, peer, conv)| (*peer, *conv)).any(|ended| ended == (peer, conv))
    }

    /// Adds a conversation that its peer has begun.
    ///
    /// # Errors
    /// There is no place for it.
    ///
    /// Otherwise returns the conversation that it took the place of.
    pub fn add(
        &mut self,
        new: &Arc<Conversation>,
        now: u64,
    ) -> Result<Option<Arc<Conversation>>, Full> {
        let of_address = self.by_address.get(&new.peer).map_or(0, Vec::len);
        let of_host = self.by_host.get(&new.peer.ip()).copied().unwrap_or(0);
        let gone = if of_address >= OF_AN_ADDRESS {
            Some(self.most_silent(new.peer, now).ok_or(Full)?)
        } else if self.unaccepted >= BACKLOG {
            Some(self.oldest_unproven(|one| !one.accepted.load(SeqCst)).ok_or(Full)?)
        } else if self.count >= self.most {
            Some(self.oldest_unproven(|_| true).ok_or(Full)?)
        } else if of_host >= self.most.div_ceil(4) {
            Some(self.oldest_unproven(|one| one.peer.ip() == new.peer.ip()).ok_or(Full)?)
        } else {
            None
        };
        if let Some(gone) = &gone {
            self.remove(gone, now);
        }
        self.insert(new);
        Ok(gone)
    }

    /// Adds one that needs nobody to accept it.
    pub fn add_own(&mut self, own: &Arc<Conversation>) {
        own.accepted.store(true, SeqCst);
        self.insert(own);
    }

    fn insert(&mut self, new: &Arc<Conversation>) {
        self.by_address.entry(new.peer).or_default().push(Arc::clone(new));
        *self.by_host.entry(new.peer.ip()).or_default() += 1;
        self.count += 1;
        self.unaccepted += usize::from(!new.accepted.load(SeqCst));
    }

    /// The conversation of an address that was silent for longest, if that is long enough.
    fn most_silent(&self, peer: SocketAddr, now: u64) -> Option<Arc<Conversation>> {
        let all = self.by_address.get(&peer)?;
        let silent = all.iter().filter(|one| one.heard.load(SeqCst) + SILENT <= now);
        silent.min_by_key(|one| one.heard.load(SeqCst)).cloned()
    }

    /// The oldest one, of those asked for, that has never acked anything.
    fn oldest_unproven(&self, among: impl Fn(&Conversation) -> bool) -> Option<Arc<Conversation>> {
        let unproven = self.all().filter(|one| !one.proven.load(SeqCst) && among(one));
        unproven.min_by_key(|one| one.since).cloned()
    }

    /// A conversation of this address has begun indeed: those of its past go.
    pub fn supersede(&mut self, new: &Arc<Conversation>, now: u64) -> Vec<Arc<Conversation>> {
        let all = self.by_address.get(&new.peer).map(Vec::as_slice).unwrap_or_default();
        let past = all
            .iter()
            .filter(|one| one.since < new.since && one.heard.load(SeqCst) + SILENT <= now);
        let past: Vec<_> = past.cloned().collect();
        past.iter().for_each(|one| {
            self.remove(one, now);
        });
        past
    }

    /// Takes it out, if it is in.
    pub fn remove(&mut self, gone: &Arc<Conversation>, now: u64) {
        let Some(all) = self.by_address.get_mut(&gone.peer) else { return };
        let Some(index) = all.iter().position(|one| Arc::ptr_eq(one, gone)) else { return };
        all.swap_remove(index);
        if all.is_empty() {
            self.by_address.remove(&gone.peer);
        }
        if let Some(count) = self.by_host.get_mut(&gone.peer.ip()) {
            *count -= 1;
            if *count == 0 {
                self.by_host.remove(&gone.peer.ip());
            }
        }
        self.count -= 1;
        if !gone.accepted.load(SeqCst) {
            self.unaccepted -= 1;
            self.queue.retain(|waiting| !Arc::ptr_eq(waiting, gone));
        }
        if self.ended.len() >= REMEMBERED_COUNT {
            self.ended.pop_front();
        }
        self.ended.push_back((now, gone.peer, gone.conv));
    }

    /// It may be accepted.
    pub fn offer(&mut self, conversation: &Arc<Conversation>) {
        if self
            .find(conversation.peer, conversation.conv)
            .is_some_and(|known| Arc::ptr_eq(&known, conversation))
        {
            self.queue.push_back(Arc::clone(conversation));
        }
    }

    /// The next that is to be accepted.
    pub fn accept(&mut self) -> Option<Arc<Conversation>> {
        let conversation = self.queue.pop_front()?;
        conversation.accepted.store(true, SeqCst);
        self.unaccepted -= 1;
        Some(conversation)
    }

    /// Nobody accepts any more.
    pub fn remove_unaccepted(&mut self, now: u64) {
        let unaccepted = self.all().filter(|one| !one.accepted.load(SeqCst)).cloned();
        unaccepted.collect::<Vec<_>>().iter().for_each(|one| self.remove(one, now));
    }
}

/// There is no place for another conversation.
#[derive(Debug)]
pub struct Full;

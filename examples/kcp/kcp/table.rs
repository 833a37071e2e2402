//! The conversations of an endpoint, by address and number. The count of conversations has three
//! limits: in all, for each host, and for each address.
//!
//! A flood of datagrams is limited in this way:
//! - A datagram that begins no conversation leaves nothing behind.
//! - There are at most `most` conversations in all, a quarter of that from one host, and
//!   [`MAX_PER_ADDRESS`] from one address.
//! - When an address is at its limit, a new conversation replaces the one that has been silent
//!   longest, if it has been silent for [`SILENT_AFTER`]. If none has been silent for that time,
//!   the new one is refused.
//! - At the other limits, the oldest unproven conversation is removed. A conversation is unproven
//!   until its peer has acked one of our segments. A sender that forges its address can't ack.
//!
//! Invariants:
//! - The counts match the map.
//! - An ended conversation is remembered for a while, so that its late datagrams begin no new one.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::conversation::Conversation;

/// Limit of the conversations of one address. A client has one, and after restarts perhaps a few
/// older ones.
const MAX_PER_ADDRESS: usize = 4;

/// Limit of the conversations that nobody has accepted yet. The number is kcp-go's.
const MAX_UNACCEPTED: usize = 128;

/// Time of silence after which a new conversation of the same address may replace a conversation,
/// in milliseconds. The client was probably restarted. A busy conversation isn't silent, so a
/// forged datagram can't end it.
const SILENT_AFTER: u64 = 1000;

/// Time for which an ended conversation is remembered, in milliseconds. A late datagram may be on
/// its way for this time.
const REMEMBER_FOR: u64 = 60_000;
/// Limit of the ended conversations that are remembered.
const MAX_REMEMBERED: usize = 1024;

#[derive(Debug)]
pub struct Table {
    by_address: HashMap<SocketAddr, Vec<Arc<Conversation>>>,
    by_host: HashMap<IpAddr, usize>,
    count: usize,
    /// Limit of the number of conversations.
    most: usize,
    /// The conversations that can be accepted.
    queue: VecDeque<Arc<Conversation>>,
    /// Number of conversations that nobody has accepted. Some of them aren't in the queue yet.
    unaccepted: usize,
    /// The ended conversations: the time at which each ended, its address, and its number.
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

    /// Returns whether this conversation has ended not long ago.
    pub fn has_ended(&self, peer: SocketAddr, conv: u32, now: u64) -> bool {
        let recent = self.ended.iter().rev().take_while(|(at, ..)| now < at + REMEMBER_FOR);
        recent.map(|(_, peer, conv)| (*peer, *conv)).any(|ended| ended == (peer, conv))
    }

    /// Adds a conversation that the peer has begun. Returns the conversation that was removed to
    /// make room, if there was one.
    ///
    /// # Errors
    /// Returns [`Full`] if a limit is reached and no conversation can be removed.
    pub fn add(
        &mut self,
        new: &Arc<Conversation>,
        now: u64,
    ) -> Result<Option<Arc<Conversation>>, Full> {
        let of_address = self.by_address.get(&new.peer).map_or(0, Vec::len);
        let of_host = self.by_host.get(&new.peer.ip()).copied().unwrap_or(0);
        let gone = if of_address >= MAX_PER_ADDRESS {
            Some(self.most_silent(new.peer, now).ok_or(Full)?)
        } else if self.unaccepted >= MAX_UNACCEPTED {
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

    /// Adds a conversation that this end has begun. Nobody has to accept it.
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

    /// Finds the conversation of this address that has been silent longest, if it has been silent
    /// for [`SILENT_AFTER`].
    fn most_silent(&self, peer: SocketAddr, now: u64) -> Option<Arc<Conversation>> {
        let all = self.by_address.get(&peer)?;
        let silent = all.iter().filter(|one| one.heard.load(SeqCst) + SILENT_AFTER <= now);
        silent.min_by_key(|one| one.heard.load(SeqCst)).cloned()
    }

    /// Finds the oldest conversation in `among` whose peer has never acked one of our segments.
    fn oldest_unproven(&self, among: impl Fn(&Conversation) -> bool) -> Option<Arc<Conversation>> {
        let unproven = self.all().filter(|one| !one.proven.load(SeqCst) && among(one));
        unproven.min_by_key(|one| one.since).cloned()
    }

    /// Removes the older, silent conversations of this address. `new` has just brought its first
    /// byte, so the client was probably restarted. Returns the removed conversations.
    pub fn supersede(&mut self, new: &Arc<Conversation>, now: u64) -> Vec<Arc<Conversation>> {
        let all = self.by_address.get(&new.peer).map(Vec::as_slice).unwrap_or_default();
        let past = all
            .iter()
            .filter(|one| one.since < new.since && one.heard.load(SeqCst) + SILENT_AFTER <= now);
        let past: Vec<_> = past.cloned().collect();
        past.iter().for_each(|one| {
            self.remove(one, now);
        });
        past
    }

    /// Removes a conversation, if it is in the table.
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
        if self.ended.len() >= MAX_REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back((now, gone.peer, gone.conv));
    }

    /// Makes a conversation ready to be accepted, if it is still in the table.
    pub fn offer(&mut self, conversation: &Arc<Conversation>) {
        if self
            .find(conversation.peer, conversation.conv)
            .is_some_and(|known| Arc::ptr_eq(&known, conversation))
        {
            self.queue.push_back(Arc::clone(conversation));
        }
    }

    /// Returns the next conversation to accept.
    pub fn accept(&mut self) -> Option<Arc<Conversation>> {
        let conversation = self.queue.pop_front()?;
        conversation.accepted.store(true, SeqCst);
        self.unaccepted -= 1;
        Some(conversation)
    }

    /// Removes all conversations that nobody has accepted. It is called when accepting ends.
    pub fn remove_unaccepted(&mut self, now: u64) {
        let unaccepted = self.all().filter(|one| !one.accepted.load(SeqCst)).cloned();
        unaccepted.collect::<Vec<_>>().iter().for_each(|one| self.remove(one, now));
    }
}

/// The error of a table that has no place for another conversation.
#[derive(Debug)]
pub struct Full;

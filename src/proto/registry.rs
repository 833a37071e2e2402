//! The registry of a session: the table of its streams, the backlog of streams that wait for
//! `accept`, and the next stream id.
//!
//! Invariants:
//!
//! - An id enters the table before its SYN can leave. It stays until the stream is closed here and
//!   its FIN was written to the transport.
//! - `next` has this side's parity and never goes back.
//! - The backlog holds streams that are in the table, or that were in it when the session ended.
//! - A refused id that is remembered is in both `order` and `ids`, and not in the table.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::error::Error;

/// This side's role in the connection. The role decides whether the ids of the streams that this
/// side opens are odd or even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Opens streams with odd ids, from 3.
    Client,
    /// Opens streams with even ids, from 2.
    Server,
}

impl Role {
    fn first_id(self) -> u32 {
        match self {
            Self::Client => 3,
            Self::Server => 2,
        }
    }

    /// Returns whether `id` has the parity of the streams that this side opens.
    pub(crate) fn opens(self, id: u32) -> bool {
        (id % 2 == 1) == (self == Self::Client)
    }
}

/// Limits of the table and the backlog.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The largest number of streams in the table that one side has opened. A closed stream counts
    /// until it is forgotten.
    pub(crate) max_streams: usize,
    /// The largest number of streams that wait for `accept`.
    pub(crate) backlog: usize,
}

impl Limits {
    /// Returns half of the backlog's limit. A session that refuses streams admits new ones again
    /// when its backlog has at most this number of streams. With half of the backlog free, a
    /// session that accepts slowly doesn't pause for each new stream.
    fn backlog_reopens_at(self) -> usize {
        self.backlog / 2
    }
}

/// The decision on a SYN of the peer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The stream may open. The caller makes the stream and passes it to [`Registry::receive`].
    Welcome,
    /// The backlog is full. The caller may wait for room and call `admit` again, or it may give up
    /// ([`Registry::turn_away`]).
    Full,
    /// The stream is open already.
    Duplicate,
    /// The id has the parity of this side's streams.
    WrongParity,
    /// The stream is refused. The caller answers with FIN.
    Refused(Refusal),
}

/// Why a stream of the peer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Backlog,
    Streams,
    NotAccepting,
    NameTooLong,
    NamesTooMany,
}

impl Refusal {
    /// Returns the reason as a text for the log.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Backlog => "the accept backlog is full (accept faster, or raise accept_backlog)",
            Self::Streams => "max_streams are open",
            Self::NotAccepting => "this session accepts no more streams",
            Self::NameTooLong => "its name is longer than max_name_len",
            Self::NamesTooMany => "the names of open streams use up half of max_receive_buffer",
        }
    }
}

/// Number of refused ids that are remembered. A peer usually opens fewer than 1024 streams before
/// it receives the FIN of the first refusal. 1024 ids occupy about 8 KiB.
const REMEMBERED: usize = 1024;

/// The ids that were refused last. An id is forgotten when data comes for it.
#[derive(Debug, Default)]
struct Refused {
    /// The ids from the oldest to the newest.
    order: VecDeque<u32>,
    ids: HashSet<u32>,
}

impl Refused {
    fn remember(&mut self, id: u32) {
        if !self.ids.insert(id) {
            return;
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.order.push_back(id);
    }

    /// Forgets an id. Returns whether it was remembered.
    fn forget(&mut self, id: u32) -> bool {
        let found = !self.ids.is_empty() && self.ids.remove(&id);
        if found {
            self.order.retain(|&other| other != id);
        }
        found
    }
}

/// Number of streams for which an empty backlog keeps memory: 512 bytes for 64 streams. Thanks to
/// this memory, a backlog of usual length doesn't allocate again.
const KEPT_PLACES: usize = 64;

#[derive(Debug)]
struct Entry<S> {
    stream: S,
    /// Whether the application closed the stream.
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Registry<S> {
    role: Role,
    limits: Limits,
    streams: HashMap<u32, Entry<S>>,
    backlog: VecDeque<S>,
    /// Whether new streams are refused until half of the backlog is free, because it was full for
    /// too long.
    turned_away: bool,
    refused: Refused,
    /// The id of the next stream that this side opens, or `None` if the ids are used up.
    next: Option<u32>,
    /// The largest id that the peer has opened, or tried to open.
    newest: u32,
    /// The number of streams in the table that this side opened.
    opened_here: usize,
    /// The number of streams in the table that the peer opened.
    opened_by_peer: usize,
    /// The number of streams in the table that the application hasn't closed.
    open: usize,
    /// The largest value that `open` has had.
    peak: usize,
    accepting: bool,
    /// Why the session can open no more streams: it is closing or has ended.
    sealed: Option<Error>,
}

impl<S: Clone> Registry<S> {
    pub(crate) fn new(role: Role, limits: Limits) -> Self {
        Self::starting_at(role.first_id(), role, limits)
    }

    /// Returns a registry whose next id is `next`.
    pub(crate) fn starting_at(next: u32, role: Role, limits: Limits) -> Self {
        Self {
            role,
            limits,
            streams: HashMap::new(),
            backlog: VecDeque::new(),
            turned_away: false,
            refused: Refused::default(),
            next: Some(next),
            newest: 0,
            opened_here: 0,
            opened_by_peer: 0,
            open: 0,
            peak: 0,
            accepting: true,
            sealed: None,
        }
    }

    pub(crate) fn find(&self, id: u32) -> Option<&S> {
        self.streams.get(&id).map(|entry| &entry.stream)
    }

    /// Opens a stream from this side. `make` makes the stream from its id.
    ///
    /// # Errors
    /// The error that sealed the registry, `TooManyStreams`, or `GoAway` if all ids are used up.
    pub(crate) fn open(&mut self, make: impl FnOnce(u32) -> S) -> Result<S, Error> {
        if let Some(error) = &self.sealed {
            return Err(error.clone());
        }
        if self.opened_here >= self.limits.max_streams {
            return Err(Error::TooManyStreams { max: self.limits.max_streams });
        }
        let id = self.next.ok_or(Error::GoAway)?;
        self.next = id.checked_add(2);
        let stream = make(id);
        self.insert(id, stream.clone());
        Ok(stream)
    }

    /// Returns whether a SYN with `id` may open a stream.
    pub(crate) fn admit(&mut self, id: u32) -> Admission {
        if self.role.opens(id) {
            return Admission::WrongParity;
        }
        self.newest = self.newest.max(id);
        if self.streams.contains_key(&id) {
            Admission::Duplicate
        } else if !self.accepting {
            Admission::Refused(Refusal::NotAccepting)
        } else if self.opened_by_peer >= self.limits.max_streams {
            Admission::Refused(Refusal::Streams)
        } else if self.turned_away {
            Admission::Refused(Refusal::Backlog)
        } else if self.is_full() {
            Admission::Full
        } else {
            Admission::Welcome
        }
    }

    /// Puts an admitted stream of the peer into the table and the backlog. Returns `false`, and
    /// does nothing, if the session has stopped accepting meanwhile.
    pub(crate) fn receive(&mut self, id: u32, stream: S) -> bool {
        if self.accepting {
            self.backlog.push_back(stream.clone());
            self.refused.forget(id); // a peer may use a refused id again
            self.insert(id, stream);
        }
        self.accepting
    }

    fn insert(&mut self, id: u32, stream: S) {
        self.streams.insert(id, Entry { stream, closed: false });
        *self.side(id) += 1;
        self.open += 1;
        self.peak = self.peak.max(self.open);
    }

    /// Returns the counter that includes `id`: `opened_here` or `opened_by_peer`.
    fn side(&mut self, id: u32) -> &mut usize {
        if self.role.opens(id) { &mut self.opened_here } else { &mut self.opened_by_peer }
    }

    /// Takes the next stream out of the backlog.
    pub(crate) fn accept(&mut self) -> Option<S> {
        let next = self.backlog.pop_front();
        self.turned_away &= self.backlog.len() > self.limits.backlog_reopens_at();
        if self.backlog.is_empty() {
            self.backlog.shrink_to(KEPT_PLACES);
        }
        next
    }

    fn is_full(&self) -> bool {
        self.backlog.len() >= self.limits.backlog
    }

    /// Returns whether a new stream of the peer would find the backlog [`Full`](Admission::Full).
    pub(crate) fn makes_wait(&self) -> bool {
        self.is_full() && self.accepting && !self.turned_away
    }

    /// Refuses new streams until half of the backlog is free. Called when the backlog was full for
    /// too long. Does nothing if the backlog isn't full any more.
    pub(crate) fn turn_away(&mut self) {
        self.turned_away = self.is_full();
    }

    /// Remembers that a stream of the peer was refused.
    pub(crate) fn refused(&mut self, id: u32) {
        self.refused.remember(id);
    }

    /// Returns whether `id` is one of the last [`REMEMBERED`] refused ids, and forgets the id.
    /// Called when data comes for an id that isn't in the table. So the result is true only for the
    /// first data of a refused stream.
    pub(crate) fn is_first_for_refused(&mut self, id: u32) -> bool {
        self.refused.forget(id)
    }

    /// Records that the application closed a stream. Then [`open_count`](Self::open_count) doesn't
    /// include the stream any more.
    pub(crate) fn closed(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut entry.closed, true)
        {
            self.open -= 1;
        }
    }

    /// Removes a stream from the table. Returns the stream.
    pub(crate) fn forget(&mut self, id: u32) -> Option<S> {
        self.closed(id);
        let entry = self.streams.remove(&id)?;
        *self.side(id) -= 1;
        if self.streams.len() * 8 < self.streams.capacity() {
            // The memory of a burst of streams isn't kept.
            self.streams.shrink_to(self.streams.len() * 2);
        }
        Some(entry.stream)
    }

    /// Returns the number of streams that aren't closed.
    pub(crate) fn open_count(&self) -> usize {
        self.open
    }

    /// Returns whether `id` may have been used already. If such an id isn't in the table, its
    /// stream was forgotten or refused.
    ///
    /// For the peer's ids this is a guess: all ids up to the largest one seen count as used. All
    /// known peers count up, but the protocol lets a peer use its ids in any order.
    pub(crate) fn may_have_been(&self, id: u32) -> bool {
        match self.role.opens(id) {
            true => id >= self.role.first_id() && self.next.is_none_or(|next| id < next),
            false => id <= self.newest,
        }
    }

    /// Returns the number of streams in the table, closed or not.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Returns the largest number of streams that were open at once.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    /// Returns all streams of the table.
    pub(crate) fn streams(&self) -> Vec<S> {
        self.streams.values().map(|entry| entry.stream.clone()).collect()
    }

    /// Accepts no more streams of the peer. Streams in the backlog stay there.
    pub(crate) fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    /// Opens no more streams, in either direction.
    pub(crate) fn seal(&mut self, error: Error) {
        self.accepting = false;
        self.sealed.get_or_insert(error);
    }

    /// Returns whether new streams of the peer are still accepted.
    pub(crate) fn is_accepting(&self) -> bool {
        self.accepting
    }

    /// Returns the number of streams in the backlog.
    pub(crate) fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// Takes all streams out of the backlog.
    pub(crate) fn take_backlog(&mut self) -> VecDeque<S> {
        self.turned_away = false;
        std::mem::take(&mut self.backlog)
    }

    /// Empties the table at the session's end, and returns its streams. Streams in the backlog can
    /// still be accepted.
    pub(crate) fn end(&mut self, error: Error) -> Vec<S> {
        self.seal(error);
        self.opened_here = 0;
        self.opened_by_peer = 0;
        self.open = 0;
        std::mem::take(&mut self.streams).into_values().map(|entry| entry.stream).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_streams: 4, backlog: 2 };

    #[test]
    fn ids_start_at_3_and_2_and_step_by_two() {
        let mut client = Registry::new(Role::Client, LIMITS);
        assert_eq!([client.open(|id| id).unwrap(), client.open(|id| id).unwrap()], [3, 5]);
        let mut server = Registry::new(Role::Server, LIMITS);
        assert_eq!([server.open(|id| id).unwrap(), server.open(|id| id).unwrap()], [2, 4]);
    }

    #[test]
    fn ids_are_never_used_again_and_run_out_with_go_away() {
        for (role, last) in [(Role::Client, u32::MAX), (Role::Server, u32::MAX - 1)] {
            let mut registry = Registry::starting_at(last - 2, role, LIMITS);
            assert_eq!(registry.open(|id| id).unwrap(), last - 2);
            registry.forget(last - 2);
            assert_eq!(registry.open(|id| id).unwrap(), last);
            assert!(matches!(registry.open(|id| id), Err(Error::GoAway)));
            assert_eq!(registry.find(last), Some(&last), "existing streams go on");
        }
    }

    #[test]
    fn admission_follows_the_table_of_odd_input() {
        let mut registry = Registry::new(Role::Server, LIMITS);
        assert_eq!(registry.admit(2), Admission::WrongParity);
        assert_eq!(registry.admit(0), Admission::WrongParity);
        for id in [1, 9] {
            assert_eq!(registry.admit(id), Admission::Welcome);
            assert!(registry.receive(id, id));
        }
        assert_eq!(registry.admit(9), Admission::Duplicate);
        assert!(registry.makes_wait());
        assert_eq!(registry.admit(3), Admission::Full);
        assert_eq!(registry.accept(), Some(1));
        assert!(!registry.makes_wait());
        assert_eq!(registry.admit(3), Admission::Welcome);
        registry.closed(1);
        registry.forget(1);
        assert_eq!(registry.admit(1), Admission::Welcome, "closed and forgotten");
        registry.stop_accepting();
        assert_eq!(registry.admit(1), Admission::Refused(Refusal::NotAccepting));
        assert!(!registry.receive(1, 1));
    }

    #[test]
    fn what_was_full_for_too_long_refuses_until_half_of_it_is_free() {
        for (backlog, half) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
            let mut registry = Registry::new(Role::Server, Limits { max_streams: 99, backlog });
            let ids: Vec<u32> = (0..backlog as u32).map(|n| 2 * n + 1).collect();
            assert!(ids.iter().all(|&id| registry.receive(id, id)));
            assert_eq!((registry.admit(99), registry.waiting()), (Admission::Full, backlog));
            registry.turn_away();
            while registry.waiting() > half {
                assert!(!registry.makes_wait(), "what is refused doesn't wait");
                assert_eq!(registry.admit(99), Admission::Refused(Refusal::Backlog));
                assert!(registry.accept().is_some());
            }
            assert_eq!(registry.admit(99), Admission::Welcome);
            // After the backlog was filled again, the next stream may wait again.
            assert!((0..backlog - half).all(|n| registry.receive(101 + 2 * n as u32, 0)));
            assert_eq!(registry.admit(99), Admission::Full);
            registry.accept();
            registry.turn_away();
            assert_eq!(registry.admit(99), Admission::Welcome, "there was room by then");
        }
    }

    #[test]
    fn a_backlog_that_is_taken_out_or_closed_keeps_nobody_waiting() {
        let mut registry = Registry::new(Role::Server, LIMITS);
        assert!(registry.receive(1, 1) && registry.receive(3, 3));
        registry.turn_away();
        let _ = registry.take_backlog();
        assert_eq!(registry.admit(5), Admission::Welcome);
        assert!(registry.receive(5, 5) && registry.receive(7, 7));
        registry.forget(1);
        registry.stop_accepting();
        assert!(!registry.makes_wait());
        assert_eq!(registry.admit(9), Admission::Refused(Refusal::NotAccepting));
    }

    #[test]
    fn the_last_refused_ids_are_remembered_until_data_comes_for_them_or_they_open() {
        let mut registry = Registry::new(Role::Server, LIMITS);
        assert!(!registry.is_first_for_refused(1));
        let ids = |n: u32| (0..n).map(|n| 2 * n + 1);
        ids(REMEMBERED as u32 + 2).for_each(|id| registry.refused(id));
        registry.refused(5); // a second time, but it is remembered once
        assert!(
            !registry.is_first_for_refused(1) && !registry.is_first_for_refused(3),
            "those are forgotten"
        );
        assert!(registry.receive(7, 7));
        registry.forget(7);
        for id in ids(REMEMBERED as u32 + 2).skip(2) {
            assert_eq!(
                (registry.is_first_for_refused(id), registry.is_first_for_refused(id)),
                (id != 7, false)
            );
        }
        assert!(registry.refused.order.is_empty() && registry.refused.ids.is_empty());
    }

    #[test]
    fn a_closed_stream_counts_against_the_limit_until_it_is_forgotten() {
        let mut registry = Registry::new(Role::Server, Limits { max_streams: 2, backlog: 9 });
        registry.receive(1, 1);
        registry.receive(3, 3);
        registry.closed(1);
        assert_eq!((registry.open_count(), registry.len()), (1, 2));
        assert_eq!(registry.admit(5), Admission::Refused(Refusal::Streams));
        registry.forget(1);
        assert_eq!(registry.admit(5), Admission::Welcome);
        // The streams that this end opens are counted apart.
        assert!(registry.open(|id| id).is_ok() && registry.open(|id| id).is_ok());
        assert!(matches!(registry.open(|id| id), Err(Error::TooManyStreams { max: 2 })));
        assert_eq!(registry.peak(), 3);
    }

    #[test]
    fn a_sealed_registry_opens_nothing_and_keeps_its_backlog() {
        let mut registry = Registry::new(Role::Server, LIMITS);
        registry.receive(1, 1);
        assert_eq!(registry.end(Error::PeerClosed), [1]);
        assert!(matches!(registry.open(|id| id), Err(Error::PeerClosed)));
        assert_eq!(
            (registry.accept(), registry.accept(), registry.open_count()),
            (Some(1), None, 0)
        );
    }

    #[test]
    fn a_refusal_says_what_can_be_done() {
        let all = [
            Refusal::Backlog,
            Refusal::Streams,
            Refusal::NotAccepting,
            Refusal::NameTooLong,
            Refusal::NamesTooMany,
        ];
        let words = [
            "accept_backlog",
            "max_streams",
            "no more streams",
            "max_name_len",
            "max_receive_buffer",
        ];
        assert!(all.iter().zip(words).all(|(refusal, word)| refusal.reason().contains(word)));
    }

    #[test]
    fn ids_that_were_never_used_are_told_from_those_of_streams_that_are_over() {
        let mut registry = Registry::new(Role::Server, LIMITS);
        let been =
            |registry: &Registry<u32>| [0, 1, 2, 4, 7, 9].map(|id| registry.may_have_been(id));
        assert_eq!(been(&registry), [false; 6]);
        assert_eq!(registry.open(|id| id).unwrap(), 2);
        assert_eq!(registry.admit(7), Admission::Welcome);
        assert_eq!(been(&registry), [false, true, true, false, true, false]);
        let mut last: Registry<u32> = Registry::starting_at(u32::MAX, Role::Client, LIMITS);
        assert!(!last.may_have_been(u32::MAX));
        assert!(
            last.open(|id| id).is_ok() && last.may_have_been(u32::MAX) && !last.may_have_been(1)
        );
    }

    #[test]
    fn the_memory_of_a_burst_of_streams_is_given_back() {
        let mut registry =
            Registry::new(Role::Server, Limits { max_streams: 100_000, backlog: 100_000 });
        let ids = || (0..10_000).map(|i| 2 * i + 1);
        assert!(ids().all(|id| registry.receive(id, id)));
        let burst = registry.streams.capacity();
        let mut shrinks = 0;
        for id in ids() {
            let before = registry.streams.capacity();
            assert_eq!(registry.forget(id), Some(id));
            let len = registry.len();
            let after = registry.streams.capacity();
            // At least an eighth of the table is in use. A table that has shrunk has room for twice
            // its entries, so that it doesn't grow again at once.
            assert!(len * 8 >= after || after < 32, "{len} of {after}");
            let shrunk = after <= before / 2; // the capacity also varies by a few on its own
            assert!(
                !shrunk || (len * 8 < before && after >= len * 2),
                "{len} of {before}, then {after}"
            );
            shrinks += usize::from(shrunk);
        }
        assert!(burst >= 10_000 && registry.streams.capacity() < 32);
        assert!((3..20).contains(&shrinks), "{shrinks}: now and then, not for each stream");
    }

    #[test]
    fn all_streams_are_told_apart_from_those_that_wait_to_be_accepted() {
        let mut registry = Registry::new(Role::Server, LIMITS);
        assert!(registry.receive(1, 1) && registry.receive(3, 3));
        assert_eq!(registry.open(|id| id).unwrap(), 2);
        assert_eq!(registry.accept(), Some(1));
        let mut streams = registry.streams();
        streams.sort_unstable();
        assert_eq!(streams, [1, 2, 3]);
        assert_eq!(registry.take_backlog(), [3]);
        assert_eq!((registry.accept(), registry.len()), (None, 3));
    }

    #[test]
    fn a_registry_is_sealed_once_with_its_first_error() {
        let mut registry: Registry<u32> = Registry::new(Role::Client, LIMITS);
        registry.stop_accepting();
        assert!(
            !registry.is_accepting() && registry.open(|id| id).is_ok(),
            "that is the other direction"
        );
        registry.seal(Error::Closed);
        registry.seal(Error::PeerClosed);
        assert!(!registry.is_accepting() && !registry.receive(2, 2));
        assert!(matches!(registry.open(|id| id), Err(Error::Closed)));
    }
}

//! One end of the connection: the cores of its streams, and their registry. Around them is a small
//! version of the engine, without threads. Every operation on a core is repeated on the model
//! beside it.

use std::cell::Cell as Count;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use super::Rules;
use super::side::{Found, Side};
use crate::error::Error;
use crate::pool::{Buffer, BufferPool};
use crate::proto::chunks::{Chunk, charge_for};
use crate::proto::outbox::Payload;
use crate::proto::registry::{Admission, Registry, Role};
use crate::proto::stream::{Lane, Readable, Received, StreamCore, Transmit, Writable};
use crate::wire::HEADER_LEN;
use crate::wire::reader::SMALL_PAYLOAD_MAX;

/// A frame under way.
#[derive(Debug)]
pub(crate) struct Packet {
    id: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    Syn,
    Data(Buffer),
    /// The fields on the wire, and the full count that `consumed` stands for.
    Update {
        consumed: u32,
        window: u32,
        count: u64,
    },
    Fin,
}

/// Bytes charged to an end's budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct Charge(Rc<Count<usize>>, usize);

impl Charge {
    fn new(used: &Rc<Count<usize>>, amount: usize) -> Self {
        used.set(used.get() + amount);
        Self(Rc::clone(used), amount)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.set(self.0.get() - self.1);
    }
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) core: StreamCore<Charge>,
    pub(crate) side: Side,
    /// The application has it: it opened or accepted it.
    in_hand: bool,
    /// The chunk that a reader has taken out.
    taken: Option<Chunk<()>>,
    /// Length of a large write that is being copied.
    copying: Option<usize>,
}

pub(crate) struct End {
    role: Role,
    rules: Rules,
    pub(crate) registry: Registry<u32>,
    /// By stream id. Streams that the registry has forgotten stay here.
    pub(crate) streams: BTreeMap<u32, Stream>,
    /// Streams that wait for a round-robin turn: express, bulk.
    pub(crate) lanes: [VecDeque<u32>; 2],
    /// Frames that were transmitted and aren't written yet: id, bytes, FIN.
    batch: Vec<(u32, usize, bool)>,
    /// Number of bytes charged to the budget.
    pub(crate) used: Rc<Count<usize>>,
    /// A payload that was accepted and waits for budget. It is the reader's next step.
    pending: Option<(u32, Buffer, usize)>,
    opened: u32,
    /// The backlog was full. Streams are refused until half of it is free.
    turned_away: bool,
    /// No more frames leave this end, and none is delivered to it.
    pub(crate) dumb: bool,
    pub(crate) deaf: bool,
}

/// Returns the `at`th byte that the end of `role` writes to a stream.
fn pattern(id: u32, role: Role, at: u64) -> u8 {
    let seed = u64::from(id) * 17 + u64::from(role == Role::Client) * 101;
    (at.wrapping_mul(31) ^ (at >> 8).wrapping_mul(7)).wrapping_add(seed) as u8
}

fn bytes(id: u32, role: Role, from: u64, n: usize) -> Vec<u8> {
    (from..from + n as u64).map(|at| pattern(id, role, at)).collect()
}

impl End {
    pub(crate) fn new(role: Role, rules: Rules) -> Self {
        Self {
            role,
            rules,
            registry: Registry::new(role, rules.limits),
            streams: BTreeMap::new(),
            lanes: [VecDeque::new(), VecDeque::new()],
            batch: Vec::new(),
            used: Rc::new(Count::new(0)),
            pending: None,
            opened: 0,
            turned_away: false,
            dumb: false,
            deaf: false,
        }
    }

    fn peer(&self) -> Role {
        if self.role == Role::Client { Role::Server } else { Role::Client }
    }

    fn stream(&mut self, id: u32) -> &mut Stream {
        self.streams.get_mut(&id).expect("a stream that exists")
    }

    /// Returns one of the streams that the application has.
    pub(crate) fn in_hand(&self, nth: usize) -> Option<u32> {
        let count = self.streams.values().filter(|stream| stream.in_hand).count();
        let mut ids = self.streams.iter().filter(|(_, stream)| stream.in_hand).map(|(&id, _)| id);
        ids.nth(nth % count.max(1))
    }

    /// Queues a stream if it has something to send, as every change of the application's does.
    fn reschedule(&mut self, id: u32) {
        while let Some(lane) = self.stream(id).core.schedule() {
            let queue = &mut self.lanes[lane as usize];
            assert!(!queue.contains(&id), "{id} is in lane {lane:?} already");
            queue.push_back(id);
        }
    }

    /// Returns how much windows may still grow.
    fn spare(&self) -> u64 {
        (self.rules.budget as u64 / 2).saturating_sub(self.granted())
    }

    fn granted(&self) -> u64 {
        self.streams.values().map(|stream| stream.core.granted()).sum()
    }

    // ---- the application ------------------------------------------------------------------------

    pub(crate) fn open(&mut self) -> Option<u32> {
        let ours = self
            .streams
            .iter()
            .filter(|(id, stream)| self.role.opens(**id) && !stream.side.can_forget())
            .count();
        match self.registry.open(|id| id) {
            Ok(id) => {
                let first = if self.role == Role::Client { 3 } else { 2 };
                assert_eq!(id, first + 2 * self.opened, "ids go up by two");
                assert!(ours < self.rules.limits.max_streams, "the limit holds");
                self.opened += 1;
                self.insert(id, true);
                Some(id)
            }
            Err(Error::TooManyStreams { .. }) if ours >= self.rules.limits.max_streams => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn insert(&mut self, id: u32, ours: bool) {
        let Rules { version, sizes, origin, .. } = self.rules;
        let core = StreamCore::starting_at(origin, version, sizes, ours);
        let stream =
            Stream { core, side: Side::new(ours), in_hand: ours, taken: None, copying: None };
        assert!(self.streams.insert(id, stream).is_none(), "{id} is used twice");
        if self.rules.announce {
            self.stream(id).core.announce();
        }
        self.reschedule(id);
    }

    pub(crate) fn accept(&mut self) {
        if let Some(id) = self.registry.accept() {
            self.stream(id).in_hand = true;
        }
    }

    pub(crate) fn write(&mut self, id: u32, n: usize) {
        let role = self.role;
        let rules = self.rules;
        let stream = self.stream(id);
        if let Writable::Room(room) = stream.core.writable(rules.max_send, 1)
            && stream.copying.is_none()
            && n > 0
        {
            let n = n.min(room);
            let data = bytes(id, role, stream.side.accepted, n);
            stream.core.accept_small(&data, rules.max_frame, BufferPool::shared());
            stream.side.accepted += n as u64;
            self.reschedule(id);
        }
    }

    /// Begins a write that copies outside the lock, or ends the current one.
    pub(crate) fn write_large(&mut self, id: u32, n: usize) {
        let role = self.role;
        let rules = self.rules;
        let stream = self.stream(id);
        match (stream.copying.take(), stream.core.writable(rules.max_send, 1)) {
            (None, Writable::Room(room)) if n > 0 => {
                stream.copying = Some(n.min(room).min(rules.max_frame));
                stream.core.writing = true;
            }
            (None, _) => {}
            (Some(n), writable) => {
                stream.core.writing = false;
                if !matches!(writable, Writable::Failed(_)) {
                    let mut payload = Payload::with_room(BufferPool::shared(), n, rules.max_frame);
                    assert_eq!(payload.append(&bytes(id, role, stream.side.accepted, n)), n);
                    stream.core.accept(payload);
                    stream.side.accepted += n as u64;
                }
            }
        }
        self.reschedule(id);
    }

    pub(crate) fn read(&mut self, id: u32, n: usize) {
        let peer = self.peer();
        let stream = self.stream(id);
        if stream.taken.is_some() || n == 0 || !matches!(stream.core.readable(), Readable::Data) {
            return;
        }
        let mut out = vec![0; n.min(stream.core.inbox().len())];
        let mut done = 0;
        while done < out.len()
            && let Some(mut chunk) = stream.core.inbox().pop()
        {
            done += chunk.copy_to(&mut out[done..]);
            stream.core.inbox().unpop(chunk);
        }
        assert_eq!(done, out.len());
        assert!(
            out == bytes(id, peer, stream.side.read, done),
            "{id}: other bytes than were written"
        );
        stream.side.read += done as u64;
        stream.side.queued -= done as u64;
        self.consumed(id, done);
    }

    /// The last step of every read.
    fn consumed(&mut self, id: u32, n: usize) {
        let before = self.granted();
        let spare = self.spare();
        let used = Rc::clone(&self.used);
        let stream = self.stream(id);
        stream.core.consumed(n, spare);
        if !stream.side.closed {
            stream.side.consumed += n as u64;
        }
        let _ = stream.core.inbox().release_tail(BufferPool::shared(), |n| Charge::new(&used, n));
        self.reschedule(id);
        let after = self.granted();
        let own = self.stream(id).core.granted();
        // A window that began small because half of the budget was granted gets its base back
        // later.
        let grew = after > before && own > self.rules.sizes.base as u64;
        assert!(
            !grew || after <= self.rules.budget as u64 / 2,
            "windows grew past half of the budget"
        );
    }

    /// Takes a chunk out for a reader that copies outside the lock. If the reader has one, gives it
    /// back after `n` bytes of it were used.
    pub(crate) fn take_chunk(&mut self, id: u32, n: usize) {
        let peer = self.peer();
        let stream = self.stream(id);
        let Some(mut chunk) = stream.taken.take() else {
            if matches!(stream.core.readable(), Readable::Data) {
                let before = stream.core.inbox().occupied();
                let chunk = stream.core.inbox().lend().expect("there is data");
                stream.side.queued -= chunk.len() as u64;
                assert_eq!(stream.core.inbox().occupied(), before, "what is out counts");
                stream.taken = Some(chunk);
            }
            return;
        };
        let done = n.min(chunk.len());
        assert!(
            chunk.data()[..done] == bytes(id, peer, stream.side.read, done),
            "{id}: other bytes than were written"
        );
        stream.side.read += done as u64;
        chunk.consume(done);
        let keeps = !stream.side.closed && !stream.side.read_shut && !stream.side.unread_discarded;
        let left = chunk.len();
        assert_eq!(stream.core.inbox().give_back(chunk).is_none(), keeps);
        let mut consumed = done;
        if keeps {
            stream.side.queued += left as u64;
        } else {
            consumed += left;
        }
        self.consumed(id, consumed);
    }

    pub(crate) fn finish(&mut self, id: u32) {
        let stream = self.stream(id);
        let news = !stream.side.finished && !stream.side.ending;
        assert_eq!(stream.core.finish(), news);
        stream.side.finished |= news;
        self.reschedule(id);
    }

    pub(crate) fn shut_read(&mut self, id: u32) {
        let stream = self.stream(id);
        let _ = stream.core.shut_read();
        stream.side.read_shut = true;
        stream.side.consumed += std::mem::take(&mut stream.side.queued);
        self.reschedule(id);
    }

    pub(crate) fn close(&mut self, id: u32) {
        let stream = self.stream(id);
        let first = stream.core.close();
        assert_eq!(first.is_some(), !stream.side.closed, "a second close has nothing to do");
        drop(first);
        stream.side.closed = true;
        stream.side.finished |= !stream.side.ending;
        stream.side.queued = 0;
        let over = stream.core.can_forget();
        self.registry.closed(id);
        if over {
            self.registry.forget(id);
        }
        self.reschedule(id);
    }

    /// Makes the stream fail alone.
    pub(crate) fn fail(&mut self, id: u32, discard_unread: bool) {
        let stream = self.stream(id);
        let _ = stream.core.fail(Error::PeerClosed, discard_unread);
        stream.side.failed = true;
        stream.side.finished = true;
        if discard_unread {
            stream.side.unread_discarded = true;
            stream.side.queued = 0;
        }
        self.reschedule(id);
    }

    // ---- the writer -----------------------------------------------------------------------------

    /// Gives the next stream in `lane` a turn of at most `polls` frames. Returns whether there was
    /// one.
    pub(crate) fn turn(
        &mut self,
        lane: Lane,
        quantum: usize,
        polls: usize,
        wire: &mut VecDeque<Packet>,
    ) -> bool {
        let Some(id) = self.lanes[lane as usize].pop_front() else { return false };
        let rules = self.rules;
        let stream = self.stream(id);
        stream.core.begin_transmit(lane);
        let mut left = quantum;
        let mut data = 0;
        let mut fin = false;
        for _ in 0..polls {
            let Some(frame) = stream.core.poll_transmit(lane, left) else { break };
            let side = &mut stream.side;
            assert!(!side.send_closed, "{id}: a frame after the session's end");
            let what = match frame {
                Transmit::Syn => {
                    assert!(
                        std::mem::take(&mut side.syn_due),
                        "{id}: SYN is sent once, by who opened it"
                    );
                    What::Syn
                }
                Transmit::Update { consumed, window } => {
                    assert!(
                        rules.version == 2 && !side.closed && !side.syn_due,
                        "{id}: UPD, {side:?}"
                    );
                    assert_eq!(
                        consumed,
                        (rules.origin + side.consumed) as u32,
                        "{id}: an UPD says the newest count"
                    );
                    // A window begins with 16 KiB while half of the budget is granted.
                    assert!(
                        window as usize >= rules.sizes.base.min(16_384)
                            && window as usize <= rules.sizes.max
                    );
                    side.edge = side.edge.max(side.consumed + u64::from(window));
                    What::Update { consumed, window, count: side.consumed }
                }
                Transmit::Data(payload) => {
                    let n = payload.len();
                    assert!((1..=rules.max_frame).contains(&n), "{id}: a frame of {n} bytes");
                    assert!(lane == Lane::Bulk || n <= left, "{id}: more than the lane allows");
                    assert!(
                        left > 0 && !side.syn_due && !side.fin_taken && !side.failed,
                        "{id}: data, {side:?}"
                    );
                    side.transmitted += n as u64;
                    assert!(side.transmitted <= side.accepted);
                    left = left.saturating_sub(n);
                    data += n;
                    What::Data(payload.into_buffer())
                }
                Transmit::Fin => {
                    let all = side.failed || side.transmitted == side.accepted;
                    assert!(
                        all && side.finished && !side.fin_taken && stream.copying.is_none(),
                        "{id}: FIN, {side:?}"
                    );
                    side.fin_taken = true;
                    fin = true;
                    What::Fin
                }
            };
            wire.push_back(Packet { id, what });
        }
        self.batch.push((id, data, fin));
        self.reschedule(id);
        true
    }

    /// The transport has taken the batch.
    pub(crate) fn mark_written(&mut self) {
        for (id, data, fin) in std::mem::take(&mut self.batch) {
            let stream = self.stream(id);
            stream.core.mark_written(data, fin);
            stream.side.written += data as u64;
            stream.side.fin_written |= fin;
            if fin && stream.core.can_forget() {
                self.registry.forget(id);
            }
        }
    }

    // ---- the reader -----------------------------------------------------------------------------

    /// Makes the reader's next step. Returns whether there was one.
    pub(crate) fn deliver(
        &mut self,
        from: &mut VecDeque<Packet>,
        to: &mut VecDeque<Packet>,
    ) -> bool {
        if let Some((id, buffer, len)) = self.pending.take() {
            let amount = charge_for(&buffer);
            let used = self.used.get();
            if used > 0 && used + amount > self.rules.budget {
                self.pending = Some((id, buffer, len));
                return false;
            }
            self.queue(id, buffer, len);
            return true;
        }
        let Some(Packet { id, what }) = from.pop_front() else { return false };
        let known = self.registry.find(id).is_some();
        match what {
            What::Syn => self.syn(id, to),
            _ if !known => {}
            What::Data(buffer) => self.data(id, &buffer[HEADER_LEN..]),
            What::Update { consumed, window, count } => {
                let version = self.rules.version;
                let stream = self.stream(id);
                let before = stream.side.credit(version);
                assert!(count >= stream.side.peer_consumed, "updates come in order");
                stream.side.peer_consumed = count;
                stream.side.window = window.into();
                let gained = stream.side.credit(version) > before;
                assert_eq!(
                    stream.core.update(consumed, window),
                    Ok(gained),
                    "{id}: {:?}",
                    stream.side
                );
            }
            What::Fin => {
                let stream = self.stream(id);
                assert!(
                    stream.core.peer_fin() && !stream.side.fin_arrived,
                    "{id}: FIN is sent once"
                );
                stream.side.fin_arrived = true;
            }
        }
        true
    }

    fn syn(&mut self, id: u32, to: &mut VecDeque<Packet>) {
        let theirs = self
            .streams
            .iter()
            .filter(|(id, stream)| !self.role.opens(**id) && !stream.side.can_forget())
            .count();
        let waiting = self.streams.values().filter(|stream| !stream.in_hand).count();
        let limits = self.rules.limits;
        match self.registry.admit(id) {
            Admission::Welcome => {
                self.turned_away = false; // Half of the backlog was free at some moment.
                assert!(theirs < limits.max_streams && waiting < limits.backlog, "the limits hold");
                assert!(self.registry.receive(id, id));
                self.insert(id, false);
            }
            Admission::Full => {
                assert!(waiting >= limits.backlog, "there is room");
                self.registry.turn_away(); // No application waits here.
                self.turned_away = true;
                assert!(matches!(self.registry.admit(id), Admission::Refused(_)));
                self.syn(id, to);
            }
            Admission::Refused(_) => {
                let turned_away = self.turned_away && waiting > limits.backlog / 2;
                let full = theirs >= limits.max_streams || turned_away;
                assert!(full || self.dumb, "refused without a reason");
                if !self.dumb {
                    to.push_back(Packet { id, what: What::Fin });
                }
            }
            other => panic!("{id}: {other:?}"),
        }
    }

    /// Delivers data for a known stream.
    fn data(&mut self, id: u32, data: &[u8]) {
        let n = data.len();
        let stream = self.stream(id);
        assert!(!stream.side.fin_arrived, "{id}: data after FIN");
        stream.side.arrived += n as u64;
        let received =
            stream.core.receive(n).expect("a sender that keeps to the window never overruns");
        let expected = match stream.side {
            Side { failed: true, .. } => Received::Late,
            Side { closed: true, .. } | Side { read_shut: true, .. } => Received::Discard,
            _ => Received::Queue,
        };
        assert_eq!(received, expected, "{id}: {:?}", stream.side);
        match received {
            Received::Late => {}
            Received::Discard => {
                stream.side.consumed += n as u64;
                self.reschedule(id);
            }
            Received::Queue => {
                let pool = BufferPool::shared();
                let (merged, buffer) = if n <= SMALL_PAYLOAD_MAX {
                    let merged = stream.core.inbox().merge(data);
                    let size = stream.core.inbox().merge_size(n - merged);
                    (merged, if merged < n { pool.get(size) } else { None })
                } else {
                    (0, pool.fit(n))
                };
                stream.side.queued += merged as u64;
                if let Some(mut buffer) = buffer {
                    buffer[..n - merged].copy_from_slice(&data[merged..]);
                    self.pending = Some((id, buffer, n - merged));
                }
            }
        }
    }

    /// Queues an accepted payload, once there is budget for it.
    fn queue(&mut self, id: u32, buffer: Buffer, len: usize) {
        let charge = Charge::new(&self.used, charge_for(&buffer));
        let chunk = Chunk::new(buffer, 0, len, charge);
        assert_eq!(chunk.len(), len);
        let stream = self.stream(id);
        assert_eq!(stream.core.wants_data(), stream.side.reads_on());
        if stream.core.wants_data() {
            stream.core.inbox().push(chunk);
            stream.side.queued += len as u64;
        } else {
            stream.core.consumed(len, 0);
            stream.side.consumed += if stream.side.closed { 0 } else { len as u64 };
            drop(chunk);
            self.reschedule(id);
        }
    }

    // ---- endings --------------------------------------------------------------------------------

    /// Completes the calls that are under way.
    pub(crate) fn complete_calls(&mut self) {
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            if self.stream(id).copying.is_some() {
                self.write_large(id, 0);
            }
            if self.stream(id).taken.is_some() {
                self.take_chunk(id, usize::MAX);
            }
        }
    }

    /// Accepts all streams that wait and reads all data. Returns whether there was any.
    pub(crate) fn read_all(&mut self) -> bool {
        while self.registry.accept().map(|id| self.stream(id).in_hand = true).is_some() {}
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        let before: u64 = self.streams.values().map(|stream| stream.side.read).sum();
        for id in ids {
            self.read(id, usize::MAX);
        }
        self.streams.values().map(|stream| stream.side.read).sum::<u64>() > before
    }

    /// The application closes the session.
    pub(crate) fn begin_close(&mut self) {
        let error = Arc::new(Error::Closed);
        self.registry.seal(Error::Closed);
        let _ = self.registry.take_backlog();
        self.stop_reading();
        for (_, stream) in self.streams.iter_mut() {
            stream.core.detach(&error);
            stream.side.ending = true;
        }
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.into_iter().for_each(|id| self.reschedule(id));
    }

    fn stop_reading(&mut self) {
        self.deaf = true;
        self.pending = None;
        self.streams.values_mut().for_each(|stream| stream.side.unreachable = true);
    }

    /// The transport takes no more writes.
    pub(crate) fn writes_fail(&mut self) {
        let error = Arc::new(Error::PeerClosed);
        self.registry.seal(Error::PeerClosed);
        self.dumb = true;
        for stream in self.streams.values_mut() {
            stream.core.fail_write(&error);
            stream.side.write_failed = true;
            stream.side.send_closed = true;
        }
    }

    /// Ends the session at once.
    pub(crate) fn session_ends(&mut self) {
        self.stop_reading();
        self.end_streams();
    }

    /// The transport's input has ended. That cuts off streams that have received no FIN.
    pub(crate) fn input_ends(&mut self) {
        for (id, stream) in &self.streams {
            let cut = !stream.side.fin_arrived && stream.side.reads_on();
            assert_eq!(stream.core.is_cut_off_by_eof(), cut, "{id}: {:?}", stream.side);
        }
        self.end_streams();
    }

    fn end_streams(&mut self) {
        self.dumb = true;
        let error = Arc::new(Error::PeerClosed);
        self.registry.end(Error::PeerClosed);
        for stream in self.streams.values_mut() {
            let _ = stream.core.end(&error);
            stream.side.ending = true;
            stream.side.send_closed = true;
        }
    }

    // ---- conditions -----------------------------------------------------------------------------

    /// Asserts that every core is in the state of its model.
    pub(crate) fn check(&mut self) {
        let rules = self.rules;
        let mut occupied = 0;
        let mut entries = 0;
        let mut open = 0;
        for (id, stream) in &mut self.streams {
            let core = &mut stream.core;
            let side = &stream.side;
            let held = core.inbox().occupied();
            occupied += held;
            assert_eq!(core.inbox().len() as u64, side.queued, "{id}: bytes in the inbox");
            let lent = if core.inbox().is_lent() { 65536 + 64 } else { 0 };
            let most = 8 * core.inbox().len() + 100_000 + lent;
            assert!(held <= most, "{id}: {} bytes occupy {held}", core.inbox().len());
            let found = match core.readable() {
                Readable::Data => Found::Some(0),
                Readable::Eof => Found::Eof,
                Readable::Nothing => Found::Nothing { starved: false },
                Readable::Failed(Error::Closed) if side.closed => Found::Closed,
                Readable::Failed(_) => Found::Broken,
            };
            assert_eq!(found, side.readable(), "{id}: a read, {side:?}");
            let found = match core.writable(rules.max_send, 1) {
                Writable::Room(room) => Found::Some(room),
                Writable::Full { starved } => Found::Nothing { starved },
                Writable::Failed(Error::Closed) if side.closed => Found::Closed,
                Writable::Failed(Error::WriteShutdown) => Found::Shut,
                Writable::Failed(_) => Found::Broken,
            };
            assert_eq!(
                found,
                side.writable(rules.version, rules.max_send),
                "{id}: a write, {side:?}"
            );
            assert_eq!(core.accepted(), rules.origin + side.accepted);
            let flushed = core.flushed(core.accepted()).map(|result| result.is_ok());
            assert_eq!(flushed, side.flushed(), "{id}: a flush, {side:?}");
            assert_eq!(core.can_forget(), side.can_forget(), "{id}: {side:?}");
            assert_eq!(core.has_ended(), side.closed || side.failed || side.ending);
            entries += usize::from(!side.can_forget());
            open += usize::from(!side.closed);
        }
        assert_eq!(self.used.get(), occupied, "what is charged is what is occupied");
        assert!(self.used.get() <= rules.budget.max(65536 + 64) + 8192 + 64, "the budget holds");
        if !self.streams.values().any(|stream| stream.side.ending) {
            assert_eq!((self.registry.len(), self.registry.open_count()), (entries, open));
        }
    }
}

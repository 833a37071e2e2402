//! The writer's work: streams that have something to send, refusals, and signals.
//!
//! The shaper is a scheduler: it decides which stream sends next. It is not a rate limiter. It has
//! two lanes, and each lane is a [ready queue](super::ready_queue). The lane *express* is for
//! control frames and small data, the lane *bulk* is for all other data. A stream has a flag for
//! each lane, so it is in each lane at most once. So a lane never holds more entries than there are
//! streams. Fairness is round-robin: a stream that has more to send after its turn goes to the end
//! of the bulk lane.
//!
//! # Parking
//! Every thread that adds work calls [`Shaper::unpark`]. For signals and refusals, the shaper
//! itself calls it. A parked writer has to notice *every* kind of work, and no lock covers them
//! all. So parking follows Dekker's protocol:
//! 1. The writer sets `parked`, then looks once more for work of every kind, then waits for a
//!    token.
//! 2. A thread that adds work adds it first, then looks at `parked`. If this flag is set, the
//!    thread sends a token.
//!
//! A superfluous token does no harm: the writer looks for work, finds none, and parks again.
//!
//! # Invariants
//! - At most [`MAX_REFUSALS`] refusals wait. They are of two kinds: the first FIN of a refused
//!   stream, and a second FIN if its opener sends data nevertheless. A second FIN never keeps a
//!   first one out.
//! - Signals are flags, so they can't pile up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst, fence};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use super::ready_queue::{ReadyReceiver, ReadySender, ready_queue};
use super::stream::SharedStream;
use crate::proto::stream::Lane;

/// Limit of queued refusals. A peer that causes more of them is flooding, and its session ends. The
/// number is the default of `max_streams`.
pub(crate) const MAX_REFUSALS: usize = 65_536;

/// Capacity that an idle queue keeps for each lane, in streams. A ready queue's bounded channel has
/// the same capacity.
const KEPT_PLACES: usize = 64;

/// A flag that tells the writer thread to do something. Streams and refusals have queues instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Signal {
    /// Send a NOP.
    Ping = 1,
    /// Send all queued data, then end the writing direction.
    Finish = 2,
    /// Stop at once.
    Stop = 4,
    /// Go on with the rest of an inline write.
    Resume = 8,
    /// Flush the transport, so that it sends its own answers.
    Flush = 16,
}

/// Whether the writer has to be woken, because work was added. The wake-up is sent after the stream
/// is unlocked.
#[derive(Debug, Default, Clone, Copy)]
#[must_use = "unpark the writer after unlocking"]
pub(crate) struct Wakeup(bool);

impl Wakeup {
    /// Merges two wake-ups into one.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 || other.0)
    }

    /// Returns whether the writer has to be unparked.
    pub(crate) fn is_due(self) -> bool {
        self.0
    }

    /// Drops the wake-up. Only the thread that holds the writer may call this. The writer thread
    /// looks for work again before it parks. A caller in an inline write signals the writer thread
    /// if work is left.
    pub(crate) fn discard(self) {}
}

/// The sending end, for threads that add work.
#[derive(Debug)]
pub(crate) struct Shaper {
    express: ReadySender,
    bulk: ReadySender,
    /// Sends the token, in [`Shaper::unpark`]. The channel holds one token. Only the parked writer
    /// waits on it.
    token: Sender<()>,
    /// Whether the writer is parked or about to park.
    parked: AtomicBool,
    /// The set signals, one bit each.
    signals: AtomicU8,
    /// Guards the ids of refused streams that are owed a FIN. It is a leaf of the lock order.
    /// Nobody waits on it.
    refusals: Mutex<Refusals>,
}

/// Ids of refused streams that are owed a FIN.
#[derive(Debug, Default)]
struct Refusals {
    /// Ids that are owed their first FIN.
    ids: VecDeque<u32>,
    /// Ids that are owed a second FIN. Second FINs are sent after all first ones. If the two queues
    /// together are full, a new first FIN replaces the newest second one.
    again: VecDeque<u32>,
}

impl Refusals {
    fn len(&self) -> usize {
        self.ids.len() + self.again.len()
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.again.is_empty()
    }
}

/// Capacity that an empty queue of refusals keeps, in ids. So a few refusals don't allocate again
/// and again. A queue that needed more belonged to a flood, and frees its memory. 1024 ids take 4
/// KiB.
const KEPT_REFUSALS: usize = 1024;

/// Takes the next id. Once the queue is empty, frees its memory if a flood has made it large.
fn take(ids: &mut VecDeque<u32>) -> Option<u32> {
    let id = ids.pop_front();
    if ids.is_empty() && ids.capacity() > KEPT_REFUSALS {
        ids.shrink_to(0);
    }
    id
}

/// The receiving end, for the writer.
#[derive(Debug)]
pub(crate) struct Queue {
    express: ReadyReceiver,
    bulk: ReadyReceiver,
    unparked: Receiver<()>,
    /// Streams that the writer has taken out of the express lane's channels.
    express_ready: VecDeque<Arc<SharedStream>>,
    /// Streams that the writer has taken out of the bulk lane's channels, and those that had more
    /// to send after their turn.
    bulk_ready: VecDeque<Arc<SharedStream>>,
}

/// The parts of the queue that the writer thread needs to park. A parked writer thread holds only
/// these, so an inline write can use the queue.
#[derive(Debug)]
pub(crate) struct Parker {
    express: ReadyReceiver,
    bulk: ReadyReceiver,
    unparked: Receiver<()>,
}

/// Creates both ends of a shaper.
pub(crate) fn shaper() -> (Shaper, Queue) {
    let (express, express_queue) = ready_queue();
    let (bulk, bulk_queue) = ready_queue();
    let (token, unparked) = bounded(1);
    let refusals = Mutex::default();
    let shaper = Shaper {
        express,
        bulk,
        token,
        parked: AtomicBool::new(false),
        signals: AtomicU8::new(0),
        refusals,
    };
    let express_ready = VecDeque::new();
    let bulk_ready = VecDeque::new();
    let queue =
        Queue { express: express_queue, bulk: bulk_queue, unparked, express_ready, bulk_ready };
    (shaper, queue)
}

impl Shaper {
    /// Queues a stream for a turn in `lane`. The caller unparks the writer after it has unlocked
    /// the stream. Doesn't block.
    pub(crate) fn schedule(&self, stream: Arc<SharedStream>, lane: Lane) -> Wakeup {
        let channel = match lane {
            Lane::Express => &self.express,
            Lane::Bulk => &self.bulk,
        };
        // Sending fails if the writer is gone. Then the session has ended, and has told the stream.
        Wakeup(channel.send(stream))
    }

    /// Sets a signal and unparks the writer.
    pub(crate) fn signal(&self, signal: Signal) {
        self.signals.fetch_or(signal as u8, SeqCst);
        self.unpark(Wakeup(true));
    }

    /// Queues a FIN for a stream that was refused.
    ///
    /// # Errors
    /// Returns the number of waiting refusals if there are [`MAX_REFUSALS`], and none of them is a
    /// second FIN.
    pub(crate) fn refuse(&self, id: u32) -> Result<(), usize> {
        let mut refusals = self.refusals.lock();
        if refusals.len() >= MAX_REFUSALS && refusals.again.pop_back().is_none() {
            return Err(refusals.len());
        }
        refusals.ids.push_back(id);
        drop(refusals);
        self.unpark(Wakeup(true));
        Ok(())
    }

    /// Queues a second FIN for a stream that was refused, if there is room. If the queues are full,
    /// the stream's first FIN is probably still waiting. Go drops a FIN that comes before its
    /// `OpenStream` has returned. An opener that sends data has returned from it, so it can't miss
    /// that FIN. So a second FIN isn't needed.
    pub(crate) fn refuse_again(&self, id: u32) {
        let mut refusals = self.refusals.lock();
        if refusals.len() < MAX_REFUSALS {
            refusals.again.push_back(id);
        }
        drop(refusals);
        self.unpark(Wakeup(true));
    }

    /// Wakes the writer if it is parked and `wakeup` is due.
    pub(crate) fn unpark(&self, wakeup: Wakeup) {
        if !wakeup.0 {
            return;
        }
        fence(SeqCst);
        if self.parked.load(SeqCst) && self.parked.swap(false, SeqCst) {
            match self.token.try_send(()) {
                Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
    }

    /// Clears a signal and returns whether it was set. This function is called for `Ping`, `Resume`
    /// and `Flush` only. `Finish` and `Stop` stay set.
    pub(crate) fn take_signal(&self, signal: Signal) -> bool {
        self.is_signalled(signal)
            && self.signals.fetch_and(!(signal as u8), SeqCst) & signal as u8 != 0
    }

    /// Returns whether the writer thread is parked, or about to be.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(SeqCst)
    }

    /// Returns whether `signal` is set.
    pub(crate) fn is_signalled(&self, signal: Signal) -> bool {
        self.signals.load(SeqCst) & signal as u8 != 0
    }

    /// Takes the next id that is owed a FIN.
    pub(crate) fn take_refusal(&self) -> Option<u32> {
        let Refusals { ids, again } = &mut *self.refusals.lock();
        take(ids).or_else(|| take(again))
    }
}

impl Queue {
    /// Takes the next stream of the express lane.
    pub(crate) fn next_express(&mut self) -> Option<Arc<SharedStream>> {
        self.express.take(&mut self.express_ready);
        self.express_ready.pop_front()
    }

    /// Takes the next stream of the bulk lane.
    pub(crate) fn next_bulk(&mut self) -> Option<Arc<SharedStream>> {
        self.bulk.take(&mut self.bulk_ready);
        self.bulk_ready.pop_front()
    }

    /// Returns the number of streams that have been taken out of the bulk lane's channels and wait
    /// for their turn.
    pub(crate) fn bulk_len(&self) -> usize {
        self.bulk_ready.len()
    }

    /// Puts a stream that has more to send after its turn at the end of the bulk lane.
    pub(crate) fn requeue(&mut self, stream: Arc<SharedStream>) {
        self.bulk_ready.push_back(stream);
    }

    /// Returns whether a stream waits for a turn in either lane.
    pub(crate) fn has_ready(&self) -> bool {
        !self.express_ready.is_empty()
            || !self.bulk_ready.is_empty()
            || !self.express.is_empty()
            || !self.bulk.is_empty()
    }

    /// Returns whether the queue keeps more memory than an idle session should.
    pub(crate) fn is_heavy(&self) -> bool {
        self.express_ready.capacity().max(self.bulk_ready.capacity()) > KEPT_PLACES
    }

    /// Gives back the memory that a burst of streams needed.
    pub(crate) fn rest(&mut self) {
        self.express_ready.shrink_to(KEPT_PLACES);
        self.bulk_ready.shrink_to(KEPT_PLACES);
    }

    /// Returns the parts that the writer thread needs to park.
    pub(crate) fn parker(&self) -> Parker {
        Parker {
            express: self.express.clone(),
            bulk: self.bulk.clone(),
            unparked: self.unparked.clone(),
        }
    }
}

impl Parker {
    /// Parks the writer thread until there may be work, or until `limit` has passed. Returns
    /// whether there may be work.
    pub(crate) fn park(&self, shaper: &Shaper, limit: Option<Duration>) -> bool {
        shaper.parked.store(true, SeqCst);
        fence(SeqCst);
        let idle = self.express.is_empty()
            && self.bulk.is_empty()
            && shaper.signals.load(SeqCst) == 0
            && shaper.refusals.lock().is_empty();
        let mut woken = true;
        if idle {
            match limit {
                Some(limit) => woken = self.unparked.recv_timeout(limit).is_ok(),
                // An error means that the session is gone. The caller notices this by itself.
                None => {
                    let _ = self.unparked.recv();
                }
            }
        }
        shaper.parked.store(false, SeqCst);
        woken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::sync::stream::Name;
    use crate::sync::testing::{until, watched};
    use std::thread;
    use std::time::Instant;

    fn stream(id: u32) -> Arc<SharedStream> {
        SharedStream::new(id, Name::new(b"", None), &Config::new(), false, Instant::now())
    }

    const SIGNALS: [Signal; 5] =
        [Signal::Ping, Signal::Finish, Signal::Stop, Signal::Resume, Signal::Flush];

    #[test]
    fn a_wakeup_is_due_if_either_of_two_is() {
        let due = |a, b| Wakeup(a).and(Wakeup(b)).is_due();
        assert_eq!(
            [due(false, false), due(true, false), due(false, true), due(true, true)],
            [false, true, true, true]
        );
    }

    #[test]
    fn a_signal_stays_until_it_is_taken_and_the_others_stay_then() {
        for signal in SIGNALS {
            let (shaper, _queue) = shaper();
            assert!(!shaper.is_signalled(signal) && !shaper.take_signal(signal));
            shaper.signal(signal);
            shaper.signal(signal); // they can't pile up
            assert_eq!(
                SIGNALS.map(|other| shaper.is_signalled(other)),
                SIGNALS.map(|other| other == signal)
            );
            assert!(shaper.take_signal(signal) && !shaper.take_signal(signal));
            for other in SIGNALS {
                shaper.signal(other);
            }
            assert!(shaper.take_signal(signal) && !shaper.take_signal(signal));
            assert_eq!(
                SIGNALS.map(|other| shaper.is_signalled(other)),
                SIGNALS.map(|other| other != signal)
            );
        }
    }

    #[test]
    fn refusals_come_out_in_order_and_are_bounded() {
        let (shaper, _queue) = shaper();
        assert_eq!(shaper.take_refusal(), None);
        assert!((0..MAX_REFUSALS as u32).all(|id| shaper.refuse(id).is_ok()));
        assert_eq!(shaper.refuse(7), Err(MAX_REFUSALS));
        assert_eq!(shaper.take_refusal(), Some(0));
        assert_eq!(shaper.refuse(7), Ok(()));
        let rest: Vec<u32> = std::iter::from_fn(|| shaper.take_refusal()).collect();
        assert!(
            rest[..MAX_REFUSALS - 1].iter().copied().eq(1..MAX_REFUSALS as u32)
                && rest[MAX_REFUSALS - 1] == 7
        );
        assert_eq!(shaper.refusals.lock().ids.capacity(), 0, "a flood's memory isn't kept");
    }

    #[test]
    fn second_refusals_come_after_the_first_and_never_make_them_too_many() {
        let (shaper, _queue) = shaper();
        shaper.refuse_again(1);
        shaper.refuse(1).unwrap();
        assert_eq!([(); 3].map(|()| shaper.take_refusal()), [Some(1), Some(1), None]);

        let half = MAX_REFUSALS as u32 / 2;
        assert!((0..half).all(|id| shaper.refuse(id).is_ok()));
        (0..half + 9).for_each(|id| shaper.refuse_again(id));
        assert_eq!(shaper.refusals.lock().len(), MAX_REFUSALS, "as many as may wait");
        assert!(
            (half..2 * half).all(|id| shaper.refuse(id).is_ok()),
            "as many as without the second ones"
        );
        assert_eq!(
            (shaper.refuse(7), shaper.refusals.lock().len()),
            (Err(MAX_REFUSALS), MAX_REFUSALS)
        );
        assert!((0..2 * half).all(|id| shaper.take_refusal() == Some(id)));
        assert_eq!(shaper.take_refusal(), None);
        assert_eq!(shaper.refusals.lock().again.capacity(), 0, "a flood's memory isn't kept");
    }

    #[test]
    fn the_memory_of_some_refusals_is_kept() {
        let (shaper, _queue) = shaper();
        for count in [10, 1024] {
            assert!((0..count).all(|id| shaper.refuse(id).is_ok()));
            assert!((0..count).all(|id| shaper.take_refusal() == Some(id)));
            assert!(shaper.refusals.lock().ids.capacity() >= count as usize);
        }
    }

    #[test]
    fn lanes_are_apart_and_a_stream_with_more_to_send_goes_to_the_end() {
        let (shaper, mut queue) = shaper();
        assert!(
            !queue.has_ready() && queue.next_express().is_none() && queue.next_bulk().is_none()
        );
        for (id, lane) in [(1, Lane::Express), (2, Lane::Bulk), (3, Lane::Bulk), (4, Lane::Express)]
        {
            assert!(shaper.schedule(stream(id), lane).is_due());
        }
        let first = queue.next_bulk().unwrap();
        assert_eq!(first.id, 2);
        queue.requeue(first);
        let order: Vec<u32> =
            std::iter::from_fn(|| queue.next_bulk()).map(|stream| stream.id).collect();
        assert_eq!(order, [3, 2]);
        assert!(queue.has_ready(), "by the express lane");
        let order: Vec<u32> =
            std::iter::from_fn(|| queue.next_express()).map(|stream| stream.id).collect();
        assert_eq!(order, [1, 4]);
        assert!(!queue.has_ready());
    }

    #[test]
    fn a_stream_is_ready_wherever_it_lies() {
        let (shaper, mut queue) = shaper();
        for lane in [Lane::Express, Lane::Bulk] {
            for id in [1, 2] {
                shaper.schedule(stream(id), lane).discard();
            }
            assert!(queue.has_ready(), "in the channel");
            let mut next =
                || if lane == Lane::Express { queue.next_express() } else { queue.next_bulk() };
            assert_eq!(next().unwrap().id, 1);
            assert!(queue.has_ready(), "out of the channel");
            let mut next =
                || if lane == Lane::Express { queue.next_express() } else { queue.next_bulk() };
            assert_eq!(next().unwrap().id, 2);
            assert!(!queue.has_ready());
        }
    }

    #[test]
    fn a_stream_for_a_writer_that_is_gone_owes_no_wakeup() {
        let (shaper, queue) = shaper();
        drop(queue);
        assert!(!shaper.schedule(stream(1), Lane::Bulk).is_due());
    }

    /// Every kind of work.
    const WORK: [fn(&Shaper); 9] = [
        |shaper| shaper.unpark(shaper.schedule(stream(1), Lane::Express)),
        |shaper| shaper.unpark(shaper.schedule(stream(1), Lane::Bulk)),
        |shaper| shaper.refuse(1).unwrap(),
        |shaper| shaper.refuse_again(1),
        |shaper| shaper.signal(Signal::Ping),
        |shaper| shaper.signal(Signal::Flush),
        |shaper| shaper.signal(Signal::Finish),
        |shaper| shaper.signal(Signal::Stop),
        |shaper| shaper.signal(Signal::Resume),
    ];

    #[test]
    fn work_that_is_there_already_keeps_the_writer_from_parking() {
        watched(|| {
            for work in WORK {
                let (shaper, queue) = shaper();
                work(&shaper);
                queue.parker().park(&shaper, None);
                assert!(!shaper.is_parked());
            }
        });
    }

    #[test]
    fn every_kind_of_work_wakes_a_parked_writer() {
        watched(|| {
            for work in WORK {
                let (shaper, queue) = shaper();
                let shaper = Arc::new(shaper);
                let parker = queue.parker();
                let writer = thread::spawn({
                    let shaper = Arc::clone(&shaper);
                    move || parker.park(&shaper, None)
                });
                until(|| shaper.is_parked());
                // Nothing new, no wake-up.
                shaper.unpark(Wakeup::default());
                assert!(shaper.is_parked());
                work(&shaper);
                writer.join().unwrap();
                assert!(!shaper.is_parked());
            }
        });
    }

    #[test]
    fn one_wakeup_is_enough_for_a_writer_that_was_parked() {
        let (shaper, queue) = shaper();
        shaper.unpark(Wakeup(true));
        assert!(queue.unparked.is_empty(), "nobody is parked");
        shaper.parked.store(true, SeqCst); // stands for a writer that doesn't run
        shaper.unpark(Wakeup(true));
        assert!(!shaper.is_parked() && queue.unparked.try_recv().is_ok());
        shaper.unpark(Wakeup(true));
        assert!(queue.unparked.is_empty());
    }
}

//! The reader thread on stand-by: it has offered the reading to callers, who are quicker while one
//! stream alone talks in requests and answers.
//!
//! Who wakes it: a caller that gives the reading back ([`Standby::resume`]). Otherwise it wakes by
//! itself, and takes the reading back when no caller had a turn for [`GRACE`]. So a caller that
//! never comes, or never comes back, costs that long and no more.
//!
//! Invariants: `offered` changes to true only by the thread that has the session's input, the
//! reader thread; turns begin and end only on a thread that has the input.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long the reader thread waits for callers' turns: many times what a program needs between an
/// answer and the next request. If the program then doesn't ask, another stream's data may have to
/// wait so long, and up to twice: a turn that ended just after a look is found at the next.
const GRACE: Duration = Duration::from_micros(500);

#[derive(Debug, Default)]
pub(crate) struct Standby {
    offered: AtomicBool,
    /// Turns begun and turns ended: odd while one lasts.
    turns: AtomicU32,
    /// What `turns` was at the offer.
    before: AtomicU32,
    /// Whether the reading was given back.
    resume: Mutex<bool>,
    resumed: Condvar,
}

/// A caller's turn.
#[must_use]
pub(crate) struct Turn<'a>(&'a Standby);

impl Turn<'_> {
    /// Ends it; the reading stays on offer, or doesn't.
    pub(crate) fn end(self, keep: bool) {
        if !keep {
            self.0.offered.store(false, SeqCst);
        }
        self.0.turns.fetch_add(1, SeqCst);
    }
}

impl Standby {
    /// Whether callers may read.
    pub(crate) fn is_offered(&self) -> bool {
        self.offered.load(SeqCst)
    }

    /// Lets callers read; the reader thread says so before it lets go of the input, then calls
    /// [`wait`](Self::wait).
    pub(crate) fn offer(&self) {
        *self.resume.lock() = false;
        self.before.store(self.turns.load(SeqCst), SeqCst);
        self.offered.store(true, SeqCst);
    }

    /// Begins a turn, if the reading is still on offer. The caller has the input.
    pub(crate) fn begin(&self) -> Option<Turn<'_>> {
        if !self.is_offered() {
            return None;
        }
        self.turns.fetch_add(1, SeqCst);
        Some(Turn(self))
    }

    /// Wakes the reader thread, after a turn that ended the offer.
    pub(crate) fn resume(&self) {
        *self.resume.lock() = true;
        self.resumed.notify_one();
    }

    /// Waits until the reading was given back, or no caller wants it; returns whether there was a
    /// turn.
    pub(crate) fn wait(&self) -> bool {
        let mut resume = self.resume.lock();
        let mut seen = self.turns.load(SeqCst);
        while !*resume {
            let timed_out = self.resumed.wait_for(&mut resume, GRACE).timed_out();
            let turns = self.turns.load(SeqCst);
            if timed_out && turns == seen && turns.is_multiple_of(2) {
                break;
            }
            seen = turns;
        }
        *resume = false;
        self.offered.store(false, SeqCst);
        self.turns.load(SeqCst) != self.before.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::watched;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn without_callers_the_reading_comes_back_by_itself() {
        let standby = Standby::default();
        standby.offer();
        assert!(!standby.wait(), "there was no turn");
        assert!(!standby.is_offered() && standby.begin().is_none());
    }

    #[test]
    fn a_turn_that_lasts_keeps_the_reader_away_until_it_is_given_back() {
        let standby = Arc::new(Standby::default());
        standby.offer();
        let turn = standby.begin().unwrap();
        let reader = thread::spawn({
            let standby = Arc::clone(&standby);
            move || standby.wait()
        });
        // There is no event for what doesn't happen: some graces pass.
        thread::sleep(GRACE * 20);
        assert!(standby.is_offered() && !reader.is_finished());
        turn.end(false);
        assert!(!standby.is_offered());
        standby.resume();
        assert!(reader.join().unwrap(), "there was a turn");
    }

    #[test]
    fn giving_back_wakes_the_reader_though_a_turn_lasts() {
        watched(|| {
            let standby = Arc::new(Standby::default());
            standby.offer();
            let turn = standby.begin().unwrap(); // no grace ends the wait
            let reader = thread::spawn({
                let standby = Arc::clone(&standby);
                move || standby.wait()
            });
            standby.resume();
            reader.join().unwrap();
            turn.end(true);
            assert!(!standby.is_offered());
        });
    }

    #[test]
    fn a_turn_may_leave_the_reading_on_offer() {
        let standby = Standby::default();
        standby.offer();
        standby.begin().unwrap().end(true);
        standby.begin().unwrap().end(false);
        assert!(standby.begin().is_none());
    }

    #[test]
    fn giving_back_before_the_reader_waits_is_not_lost() {
        let standby = Standby::default();
        standby.offer();
        standby.begin().unwrap().end(false);
        standby.resume();
        assert!(standby.wait());
        assert!(!standby.is_offered());
        // And it is forgotten by the next offer.
        standby.resume();
        standby.offer();
        assert!(standby.is_offered() && !*standby.resume.lock());
    }
}

//! The parts that wait, each alone: the receive budget, the session's lifecycle, the lanes, the
//! parker.

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

use super::{Check, streams};
use crate::Error;
use crate::proto::stream::Lane;
use crate::sync::budget::Budget;
use crate::sync::close::{InputEnd, Lifecycle, Phase};
use crate::sync::pause::{Cause, Pause};
use crate::sync::read_handoff::{Offer, ReadHandoff};
use crate::sync::shaper::{Signal, shaper};

pub const CHECKS: &[Check] = &[
    Check {
        name: "budget_refunds",
        about: "budget: refunds by three threads against the reader's pause",
        time: false,
        reaches: false,
        body: budget_refunds,
    },
    Check {
        name: "budget_opens",
        about: "budget: a refund and the session's end against the reader's pause",
        time: false,
        reaches: false,
        body: budget_opens,
    },
    Check {
        name: "pause_is_seen",
        about: "the reader's pause: its end against the timer's look",
        time: false,
        reaches: false,
        body: pause_is_seen,
    },
    Check {
        name: "lifecycle_ends_once",
        about: "close, the input's end, failed writes and the writer's end against each other, \
                and two waiting threads",
        time: false,
        reaches: false,
        body: lifecycle_ends_once,
    },
    Check {
        name: "lifecycle_overdue",
        about: "the close timeout, which discards the queued data, against the writer's and the \
                input's end, and a close",
        time: false,
        reaches: false,
        body: lifecycle_overdue,
    },
    Check {
        name: "lifecycle_channel",
        about: "closed() against close and end: every channel is disconnected in the end",
        time: false,
        reaches: false,
        body: lifecycle_channel,
    },
    Check {
        name: "parking_signals",
        about: "parked writer: signals, a refusal and a stream's turn, from three threads",
        time: false,
        reaches: false,
        body: parking_signals,
    },
    Check {
        name: "handoff_comes_back",
        about: "inline reads: an offer, reads of two threads and the hand-back against the \
                reader thread's wait",
        time: false,
        reaches: true,
        body: handoff_comes_back,
    },
    Check {
        name: "ready_queue_order",
        about: "ready queue: each thread's streams come out in its order while the bounded \
                channel runs over",
        time: false,
        reaches: false,
        body: ready_queue_order,
    },
];

fn budget_refunds() {
    let budget = Budget::new(10);
    let held = [3, 3, 4].map(|amount| budget.try_take(amount).unwrap());
    let (charges, taken) = crossbeam_channel::unbounded();
    let reader = thread::spawn({
        let budget = Arc::clone(&budget);
        move || {
            // 20 is more than the whole budget. It is admitted when nothing else is charged.
            for amount in [5, 20, 4, 5] {
                let wait = || budget.take(amount, None).flatten().expect("the budget is open");
                let charge = budget.try_take(amount).unwrap_or_else(wait);
                charges.send(charge).unwrap();
            }
        }
    });
    let droppers = held.map(|charge| thread::spawn(move || drop(charge)));
    // The application drops the data that it has read.
    for _ in 0..4 {
        let _ = taken.recv().unwrap();
    }
    for thread in droppers {
        thread.join().unwrap();
    }
    reader.join().unwrap();
    assert_eq!(budget.used(), 0);
}

fn budget_opens() {
    let budget = Budget::new(10);
    let held = budget.try_take(10).unwrap();
    let threads = [
        thread::spawn({
            let budget = Arc::clone(&budget);
            move || {
                let _ = budget.take(5, None);
            }
        }),
        thread::spawn(move || drop(held)),
        thread::spawn({
            let budget = Arc::clone(&budget);
            move || budget.close()
        }),
    ];
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(budget.used(), 0);
    assert!(matches!(budget.take(99, None), Some(None)), "once open, always open");
}

/// A thread that sees the end of a pause must also see the time that this end recorded.
fn pause_is_seen() {
    let pause = Arc::new(Pause::default());
    let stamped = Arc::new(AtomicBool::new(false));
    pause.begin(Instant::now(), Cause::Backlog);
    let timer = thread::spawn({
        let pause = Arc::clone(&pause);
        let stamped = Arc::clone(&stamped);
        move || {
            for _ in 0..3 {
                if pause.current().is_none() {
                    assert!(
                        stamped.load(SeqCst),
                        "keepalive would find a reader that isn't paused and heard nothing"
                    );
                }
            }
        }
    });
    pause.end(|| stamped.store(true, SeqCst));
    timer.join().unwrap();
    assert!(pause.current().is_none());
}

fn lifecycle_ends_once() {
    let life = Arc::new(Lifecycle::new(true));
    let ends = Arc::new(AtomicUsize::new(0));
    let closes = Arc::new(AtomicUsize::new(0));
    let run = |work: fn(&Lifecycle, &AtomicUsize, &AtomicUsize)| {
        let life = Arc::clone(&life);
        let ends = Arc::clone(&ends);
        let closes = Arc::clone(&closes);
        thread::spawn(move || work(&life, &ends, &closes))
    };
    fn close(life: &Lifecycle, _: &AtomicUsize, closes: &AtomicUsize) {
        closes.fetch_add(usize::from(life.begin_close(std::time::Instant::now(), None)), SeqCst);
        life.wait_written();
        assert!(life.wait_outcome().is_some());
        assert!(life.cause().is_some());
    }
    let threads = [
        run(close),
        run(close),
        run(|life, ends, _| {
            let end = life.input_done(Error::PeerClosed, true, std::time::Instant::now(), None);
            ends.fetch_add(usize::from(matches!(end, InputEnd::Ends(_))), SeqCst);
            let _ = life.mark_notified();
        }),
        run(|life, _, _| {
            life.fail_write(&Arc::new(Error::Timeout), None);
        }),
        // The writer and the last of the two threads run here.
        run(|life, ends, _| {
            life.writer_done(Ok(()));
            ends.fetch_add(usize::from(life.end(Error::Closed).is_some()), SeqCst);
        }),
    ];
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(life.is_in(Phase::Ended) && life.is_closing_or_ended());
    assert_eq!(ends.load(SeqCst), 1);
    assert!(closes.load(SeqCst) <= 1);
}

/// The session's end has discarded the data. A writer that finds none hasn't written it.
fn lifecycle_overdue() {
    let life = Arc::new(Lifecycle::new(true));
    let waiting = Arc::new(AtomicUsize::new(2));
    let handed_over = Arc::new(AtomicUsize::new(0));
    assert!(life.begin_close(Instant::now(), None));
    let closer = thread::spawn({
        let life = Arc::clone(&life);
        move || life.wait_outcome().expect("there is no deadline")
    });
    let writer = thread::spawn({
        let life = Arc::clone(&life);
        let waiting = Arc::clone(&waiting);
        let handed_over = Arc::clone(&handed_over);
        move || {
            handed_over.store(waiting.swap(0, SeqCst), SeqCst);
            life.writer_done(Ok(()));
            // This is the peer's answer.
            life.input_done(Error::PeerClosed, true, Instant::now(), None);
        }
    });
    let timer = thread::spawn({
        let life = Arc::clone(&life);
        let waiting = Arc::clone(&waiting);
        move || {
            if life.overdue(2, std::time::Duration::ZERO).is_some() {
                waiting.store(0, SeqCst);
            }
        }
    });
    let outcome = closer.join().unwrap();
    writer.join().unwrap();
    timer.join().unwrap();
    assert!(outcome.is_err() || handed_over.load(SeqCst) == 2, "Ok, and it wasn't handed over");
}

fn lifecycle_channel() {
    let life = Arc::new(Lifecycle::new(true));
    let watchers = [(); 2].map(|()| {
        let life = Arc::clone(&life);
        thread::spawn(move || assert!(life.closed().recv().is_err()))
    });
    let closer = thread::spawn({
        let life = Arc::clone(&life);
        move || {
            if life.begin_close(std::time::Instant::now(), None) {
                let _ = life.mark_notified();
            }
        }
    });
    if life.end(Error::PeerClosed).is_some() {
        let _ = life.mark_notified();
    }
    closer.join().unwrap();
    for watcher in watchers {
        watcher.join().unwrap();
    }
}

/// A parked writer sees every kind of work, whichever thread adds it and whatever was added before.
fn parking_signals() {
    let (shaper, mut queue) = shaper();
    let shaper = Arc::new(shaper);
    let parker = queue.parker();
    let writer = thread::spawn({
        let shaper = Arc::clone(&shaper);
        move || {
            let mut pings = 0;
            let mut flushes = 0;
            let mut refusals = 0;
            let mut turns = 0;
            loop {
                flushes += usize::from(shaper.take_signal(Signal::Flush));
                pings += usize::from(shaper.take_signal(Signal::Ping));
                refusals += usize::from(shaper.take_refusal().is_some());
                turns += usize::from(queue.next_express().is_some());
                turns += usize::from(queue.next_bulk().is_some());
                if (pings, flushes, refusals, turns) == (1, 1, 2, 2) {
                    return;
                }
                if !queue.has_ready()
                    && !shaper.is_signalled(Signal::Ping)
                    && !shaper.is_signalled(Signal::Flush)
                {
                    parker.park(&shaper, None);
                }
            }
        }
    });
    let add = |work: fn(&crate::sync::shaper::Shaper)| {
        let shaper = Arc::clone(&shaper);
        thread::spawn(move || work(&shaper))
    };
    let threads = [
        add(|shaper| {
            shaper.signal(Signal::Ping);
            shaper.refuse(2).unwrap();
        }),
        add(|shaper| {
            shaper.refuse(1).unwrap();
            shaper.signal(Signal::Flush);
        }),
        add(|shaper| shaper.unpark(shaper.schedule(streams::stream(1), Lane::Express))),
        add(|shaper| shaper.unpark(shaper.schedule(streams::stream(2), Lane::Bulk))),
    ];
    for thread in threads {
        thread.join().unwrap();
    }
    writer.join().unwrap();
}

/// The reader thread offers the input to inline readers, and gets it back whatever they do. While
/// it has the input, no other thread reads.
fn handoff_comes_back() {
    let handoff = Arc::new(ReadHandoff::default());
    let slot = Arc::new(parking_lot::Mutex::new(0));
    let reader = thread::spawn({
        let handoff = Arc::clone(&handoff);
        let slot = Arc::clone(&slot);
        move || {
            for _ in 0..2 {
                let mut input = slot.lock();
                *input += 1;
                handoff.offer();
                drop(input);
                handoff.wait();
                assert!(!handoff.is_offered(), "the reader thread has it back");
            }
        }
    });
    let callers = [false, true].map(|keep| {
        let handoff = Arc::clone(&handoff);
        let slot = Arc::clone(&slot);
        thread::spawn(move || {
            for _ in 0..3 {
                if !handoff.is_offered() {
                    continue;
                }
                let Some(mut input) = slot.try_lock() else { continue };
                let Some(inline_read) = handoff.begin() else { continue };
                facade::breaks::reach();
                *input += 1;
                inline_read.end(if keep { Offer::Keep } else { Offer::Withdraw });
                drop(input);
                if !keep {
                    handoff.resume();
                }
            }
        })
    });
    for thread in callers {
        thread.join().unwrap();
    }
    reader.join().unwrap();
    assert!(!handoff.is_offered() && handoff.begin().is_none());
}

/// Number of places in the bounded part of a lane's ready queue.
const SHORT: u32 = 64;

fn ready_queue_order() {
    let (shaper, mut queue) = shaper();
    let shaper = Arc::new(shaper);
    // All places except two are taken.
    for id in 0..SHORT - 2 {
        shaper.schedule(streams::stream(1000 + id), Lane::Bulk).discard();
    }
    let senders = [0, 100].map(|base| {
        let shaper = Arc::clone(&shaper);
        thread::spawn(move || {
            for id in 1..=3 {
                shaper.schedule(streams::stream(base + id), Lane::Bulk).discard();
            }
        })
    });
    let mut ids = Vec::new();
    let mut take = |most: usize| {
        for _ in 0..most {
            match queue.next_bulk() {
                Some(stream) => ids.push(stream.id),
                None => return,
            }
        }
    };
    take(SHORT as usize);
    for sender in senders {
        sender.join().unwrap();
    }
    take(usize::MAX);
    let of = |range: core::ops::Range<u32>| {
        ids.iter().copied().filter(|id| range.contains(id)).collect::<Vec<_>>()
    };
    assert_eq!(ids.len(), SHORT as usize - 2 + 6);
    assert!(of(1000..2000).is_sorted());
    assert_eq!((of(0..100), of(100..200)), (vec![1, 2, 3], vec![101, 102, 103]));
}

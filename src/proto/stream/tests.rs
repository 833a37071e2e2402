//! One end of a stream: after each step, its answers to its application, to the reader and to the
//! writer.

mod transmit;

use super::super::chunks::charge_for;
use super::*;
use crate::pool::BufferPool;

const MAX_SEND: usize = 1000;

type Core = StreamCore<usize>;

fn core(version: u8) -> Core {
    StreamCore::new(version, WindowSizes { base: 65536, max: 65536 }, false)
}

fn error(error: Error) -> Arc<Error> {
    Arc::new(error)
}

/// An event that ends a stream, or one of its halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    Fin,
    Finish,
    ShutRead,
    Close,
    Fail,
    FailAndDiscard,
    Detach,
    FailWrite,
    End,
}

use Step::*;

const STEPS: [Step; 10] =
    [Nothing, Fin, Finish, ShutRead, Close, Fail, FailAndDiscard, Detach, FailWrite, End];

impl Step {
    fn take(self, core: &mut Core) {
        match self {
            Nothing => {}
            Fin => assert!(core.peer_fin()),
            Finish => assert!(core.finish()),
            ShutRead => {
                let _ = core.shut_read();
            }
            Close => assert!(core.close().is_some()),
            Fail => {
                let _ = core.fail(Error::GoAway, false);
            }
            FailAndDiscard => {
                let _ = core.fail(Error::GoAway, true);
            }
            Detach => core.detach(&error(Error::Closed)),
            FailWrite => core.fail_write(&error(Error::WouldBlock)),
            End => {
                let _ = core.end(&error(Error::PeerClosed));
            }
        }
    }
}

/// Returns the steps after which `holds` is true, each taken on a new stream.
fn steps_after_which(holds: impl Fn(&mut Core) -> bool) -> Vec<Step> {
    let after = |step: &Step| {
        let mut core = core(2);
        step.take(&mut core);
        holds(&mut core)
    };
    STEPS.into_iter().filter(after).collect()
}

fn deliver(core: &mut Core, data: &[u8]) {
    assert_eq!(core.receive(data.len()), Ok(Received::Queue));
    let mut buffer = BufferPool::shared().get(data.len()).unwrap();
    buffer.copy_from_slice(data);
    let charge = charge_for(&buffer);
    core.inbox().push(Chunk::new(buffer, 0, data.len(), charge));
}

fn accept(core: &mut Core, n: usize) {
    core.accept_small(&vec![0; n], 65535, BufferPool::shared());
}

/// Sends all frames that are due. Returns the bytes of data, and whether FIN was among them.
fn transmit(core: &mut Core) -> (usize, bool) {
    let mut data = 0;
    let mut fin = false;
    while let Some(lane) = core.schedule() {
        core.begin_transmit(lane);
        while let Some(frame) = core.poll_transmit(lane, usize::MAX) {
            match frame {
                Transmit::Data(payload) => data += payload.len(),
                Transmit::Fin => fin = true,
                Transmit::Syn | Transmit::Update { .. } => {}
            }
        }
    }
    (data, fin)
}

fn room(core: &Core) -> Option<usize> {
    match core.writable(MAX_SEND, 1) {
        Writable::Room(room) => Some(room),
        Writable::Full { .. } | Writable::Failed(_) => None,
    }
}

fn starved(core: &Core) -> bool {
    match core.writable(usize::MAX, 1) {
        Writable::Full { starved } => starved,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_step_shows_where_it_should_and_nowhere_else() {
    assert_eq!(steps_after_which(|core| core.is_closed()), [Close]);
    assert_eq!(steps_after_which(|core| core.is_read_shut()), [ShutRead]);
    assert_eq!(
        steps_after_which(|core| core.has_ended()),
        [Close, Fail, FailAndDiscard, Detach, End]
    );
    assert_eq!(steps_after_which(|core| room(core).is_some()), [Nothing, Fin, ShutRead]);
    assert_eq!(
        steps_after_which(|core| matches!(core.readable(), Readable::Nothing)),
        [Nothing, Finish, FailWrite]
    );
    assert_eq!(steps_after_which(|core| matches!(core.readable(), Readable::Eof)), [Fin, ShutRead]);
}

#[test]
fn what_comes_is_queued_discarded_or_late() {
    let after = |outcome: Received| {
        steps_after_which(move |core| core.receive(10).as_ref() == Ok(&outcome))
    };
    assert_eq!(after(Received::Queue), [Nothing, Finish, Detach, FailWrite, End]);
    assert_eq!(after(Received::Discard), [ShutRead, Close]);
    assert_eq!(after(Received::Late), [Fin, Fail, FailAndDiscard]);
}

#[test]
fn data_is_wanted_and_kept_for_whoever_may_still_read_it() {
    // FIN comes after the data, so data that was received before it is wanted.
    assert_eq!(
        steps_after_which(|core| core.wants_data()),
        [Nothing, Fin, Finish, Detach, FailWrite, End],
        "after a failure, only the data that was there before is kept"
    );
    let mut keeps = STEPS.to_vec();
    keeps.retain(|step| {
        let mut core = core(2);
        deliver(&mut core, b"unread");
        let chunk = core.inbox().lend().unwrap();
        assert!(core.inbox().is_empty() && core.inbox().occupied() > 0);
        step.take(&mut core);
        let kept = core.inbox().give_back(chunk).is_none();
        assert_eq!(
            (core.inbox().len(), core.inbox().occupied() > 0),
            (if kept { 6 } else { 0 }, kept)
        );
        kept
    });
    assert_eq!(keeps, [Nothing, Fin, Finish, Fail, Detach, FailWrite, End]);
}

#[test]
fn few_bytes_are_accepted_whole_where_they_are_sure_to_fit_some_time() {
    let full = |core: &Core, n| {
        matches!(core.writable(MAX_QUEUE, core.least(n, MAX_QUEUE)), Writable::Full { .. })
    };
    const MAX_QUEUE: usize = 1 << 20;
    let mut core = core(2);
    accept(&mut core, 262_144 - 4095);
    assert!(full(&core, 4096) && !full(&core, 4095) && !full(&core, 4097));
    // From here on the queue or the window is too small for the whole write.
    assert_eq!(
        (core.least(4096, 4096), core.least(4096, 4095), core.least(4097, 4097)),
        (4096, 1, 1)
    );
    for (window, least) in [(8191, 1), (8192, 4096)] {
        assert!(core.update(0, window).is_ok());
        assert_eq!(core.least(4096, MAX_QUEUE), least);
    }
    // The peer may never grant more. So a window that is too small for the whole write counts as
    // no window.
    assert!(core.update(0, 262_144).is_ok());
    Fin.take(&mut core);
    assert!(matches!(core.writable(MAX_QUEUE, 4096), Writable::Full { starved: true }));
    assert!(matches!(core.writable(4096, 1), Writable::Full { starved: false }), "the queue");
    // A blocked write is worth waking when all bytes that it waits for fit.
    assert!(transmit(&mut core).0 > 0);
    assert!(core.worth_waking(MAX_QUEUE, 4095) && !core.worth_waking(MAX_QUEUE, 4096));
}

#[test]
fn the_connections_end_cuts_off_what_is_read_and_has_had_no_fin() {
    assert_eq!(
        steps_after_which(|core| core.is_cut_off_by_eof()),
        [Nothing, Finish, Detach, FailWrite, End]
    );
}

#[test]
fn windows_are_granted_until_the_peer_has_finished_or_nobody_reads() {
    assert_eq!(steps_after_which(|core| core.granted() == 0), [Fin, Close]);
    assert_eq!(core(2).granted(), 262_144);
    assert_eq!(core(1).granted(), 0, "version 1 has no windows");
}

#[test]
fn unread_data_comes_before_any_ending_but_a_close_and_one_that_discards_it() {
    let kept = |step: &Step| {
        let mut core = core(2);
        deliver(&mut core, b"unread");
        step.take(&mut core);
        matches!(core.readable(), Readable::Data)
    };
    let kept: Vec<Step> = STEPS.into_iter().filter(kept).collect();
    assert_eq!(kept, [Nothing, Fin, Finish, Fail, Detach, FailWrite, End]);
}

#[test]
fn endings_are_reported_by_their_own_errors() {
    let read = |step: Step| {
        let mut core = core(2);
        step.take(&mut core);
        match core.readable() {
            Readable::Failed(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let closed = Error::Closed.to_string();
    let failed = Error::GoAway.to_string();
    let ended = Error::PeerClosed.to_string();
    assert_eq!(
        [Close, Fail, FailAndDiscard, Detach, End].map(read),
        [&closed, &failed, &failed, &closed, &ended].map(String::clone)
    );
    let write = |step: Step| {
        let mut core = core(2);
        step.take(&mut core);
        match core.writable(MAX_SEND, 1) {
            Writable::Failed(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let shut = Error::WriteShutdown.to_string();
    let cut = Error::WouldBlock.to_string();
    assert_eq!(
        [Close, Fail, Detach, End, Finish, FailWrite].map(write),
        [closed, failed, Error::Closed.to_string(), ended, shut, cut]
    );
}

#[test]
fn the_failure_that_came_first_is_the_one_that_is_reported() {
    let mut core = core(2);
    Fail.take(&mut core);
    let _ = core.fail(Error::Timeout, false);
    Detach.take(&mut core);
    End.take(&mut core);
    assert!(matches!(core.readable(), Readable::Failed(Error::GoAway)));
    // After a FIN, the session's end is a clean one for the stream. A failure is still reported.
    let mut core = super::tests::core(2);
    Fin.take(&mut core);
    End.take(&mut core);
    assert!(matches!(core.readable(), Readable::Eof));
    Fail.take(&mut core);
    assert!(matches!(core.readable(), Readable::Failed(Error::GoAway)));
}

#[test]
fn room_is_the_smaller_of_the_queues_and_the_windows() {
    let mut core = core(2);
    assert_eq!(room(&core), Some(MAX_SEND));
    accept(&mut core, 300);
    assert_eq!(room(&core), Some(700));
    // A separate payload counts like merged data.
    let payload = Payload::of(BufferPool::shared(), &[0; 200], 65535);
    core.accept(payload);
    assert_eq!((room(&core), core.accepted()), (Some(500), 500));
    accept(&mut core, 500);
    assert_eq!(room(&core), None);
    assert_eq!(transmit(&mut core), (1000, false));
    assert_eq!(room(&core), Some(MAX_SEND));
    // The window leaves less than the queue.
    assert_eq!(core.update(1000, 300), Ok(false), "less than before");
    assert_eq!(room(&core), Some(300));
    assert_eq!(core.update(1000, 301), Ok(true));
    assert_eq!(room(&core), Some(301));
    assert_eq!(core.update(2000, 300), Err((2000, 1000)));
}

#[test]
fn version_1_has_room_for_whatever_the_queue_takes() {
    let mut core = core(1);
    for _ in 0..1000 {
        accept(&mut core, 1000);
        assert_eq!(transmit(&mut core), (1000, false));
    }
    assert_eq!(room(&core), Some(MAX_SEND));
}

#[test]
fn a_writer_starves_without_credit_when_the_peer_has_finished() {
    let mut full = core(2);
    accept(&mut full, 262_144);
    assert!(!starved(&full), "the peer may grant more");
    Fin.take(&mut full);
    assert!(starved(&full));
    // If only the queue is full, the writer will empty it.
    let mut queued = core(2);
    Fin.take(&mut queued);
    accept(&mut queued, MAX_SEND);
    assert!(matches!(queued.writable(MAX_SEND, 1), Writable::Full { starved: false }));
}

#[test]
fn a_waiting_writer_is_worth_waking_with_credit_and_half_a_queue() {
    let mut core = core(2);
    for (accepted, worth) in [(0, true), (500, true), (1, false)] {
        accept(&mut core, accepted);
        assert_eq!(core.worth_waking(MAX_SEND, 1), worth, "{accepted} more");
    }
    // Behind a small window a large queue is never half full. So the window decides.
    assert_eq!(transmit(&mut core), (501, false));
    assert_eq!(core.update(501, 10), Ok(false), "less than before");
    assert!(core.worth_waking(MAX_SEND, 1));
    accept(&mut core, 10);
    assert!(!core.worth_waking(MAX_SEND, 1), "no credit");
    assert_eq!(transmit(&mut core), (10, false));
    assert!(!core.worth_waking(MAX_SEND, 1), "nor with an empty queue");
    assert_eq!(core.update(511, 10), Ok(true));
    assert!(core.worth_waking(1, 1) && core.worth_waking(0, 1), "an empty queue, of whatever size");
}

#[test]
fn reading_all_there_is_lets_the_window_grow_and_a_close_stops_counting() {
    let sizes = WindowSizes { base: 65536, max: 1 << 20 };
    for (left, window) in [(1, 65536), (0, 131_072)] {
        let mut core: Core = StreamCore::new(2, sizes, false);
        for _ in 0..8 {
            deliver(&mut core, &[0; 32768]);
        }
        let mut taken = core.inbox().clear();
        if left > 0 {
            let mut last = taken.pop_back().unwrap();
            last.consume(32768 - left);
            core.inbox().push(last);
        }
        core.consumed(8 * 32768 - left, u64::MAX);
        assert_eq!(core.schedule(), Some(Lane::Express));
        let update = core.poll_transmit(Lane::Express, 0);
        assert!(
            matches!(update, Some(Transmit::Update { window: w, .. }) if w == window),
            "{update:?}"
        );
    }
    let mut core = core(2);
    deliver(&mut core, b"unread");
    Close.take(&mut core);
    core.consumed(6, 0);
    assert_eq!(transmit(&mut core), (0, true));
}

//! How an application writes.

use super::*;
use crate::error::Error;
use crate::sync::cell::Direction;

/// Whether a write would be answered by the caller's turn.
fn is_answer(bench: &Bench, data: &[u8]) -> bool {
    let written = bench.cell.write(&bench.env, data).unwrap();
    assert_eq!(written.accepted, data.len());
    written.is_answer
}

/// A stream that just read a request.
fn asked() -> Bench {
    let bench = Bench::v1();
    ask(&bench);
    bench
}

fn ask(bench: &Bench) {
    bench.deliver(b"request");
    assert_eq!(bench.read(100).unwrap(), b"request");
}

#[test]
fn what_is_accepted_is_sent_in_its_order() {
    // Below, at and above what is copied under the lock, and what fills several frames.
    let mut bench = Bench::new(Config::new().max_frame_size(10_000));
    let data = pattern(60_000);
    let mut at = 0;
    for n in [1, 4095, 4096, 4097, 30_000, 5] {
        assert_eq!(bench.write(&data[at..at + n]).unwrap(), n);
        at += n;
    }
    let sent = bench.turns().into_iter().flat_map(|sent| match sent {
        Sent::Data(data) => data,
        other => panic!("{other:?}"),
    });
    assert_eq!(sent.collect::<Vec<_>>(), data[..at]);
}

#[test]
fn a_write_takes_what_there_is_room_for() {
    watched(|| {
        let mut bench = Bench::with_queue(10_000);
        assert_eq!(bench.write(&pattern(20_000)).unwrap(), 10_000);
        assert_eq!(bench.send_data(), 10_000);
        assert_eq!(bench.write(&pattern(9_000)).unwrap(), 9_000);
        assert_eq!(bench.write(&pattern(2_000)).unwrap(), 1_000);
        assert_eq!(bench.send_data(), 10_000);
        assert_eq!(bench.write(b"").unwrap(), 0);
        assert_eq!(bench.turns(), []);
    });
}

#[test]
fn an_empty_write_returns_at_once_whatever_the_stream_is_in() {
    let bench = Bench::v1();
    let _ = bench.cell.close(&bench.env);
    assert_eq!(bench.write(b"").unwrap(), 0);
}

#[test]
fn small_data_goes_by_the_express_lane_and_large_by_bulk() {
    let mut bench = Bench::v1();
    assert!(!bench.queue.has_turns());
    assert_eq!(bench.write(&pattern(100)).unwrap(), 100);
    assert!(bench.queue.next_express().is_some() && !bench.queue.has_turns());
    let mut bench = Bench::v1();
    assert_eq!(bench.write(&pattern(100_000)).unwrap(), 100_000);
    assert!(bench.queue.has_turns());
    assert_eq!(bench.send_data(), 100_000);
}

#[test]
fn a_writer_that_leaves_room_behind_wakes_the_next() {
    watched(|| {
        let mut bench = Bench::with_queue(10);
        assert_eq!(bench.write(&[0; 10]).unwrap(), 10);
        let writers = [(); 2].map(|()| bench.blocked(|cell, env| write(cell, env, b"four")));
        // The turn wakes one; the other has only the first to wake it.
        assert!(bench.queue.next_express().is_some());
        let turn = bench.cell.take_turn(&bench.env, Lane::Express, usize::MAX, |_| {});
        assert!(turn.wake_writer);
        bench.cell.wake_writer();
        assert!(writers.into_iter().all(|writer| writer.join().unwrap().unwrap() == 4));
        assert_eq!(bench.waiting(), NOBODY);
    });
}

#[test]
fn pieces_of_writes_at_once_stay_together() {
    watched(|| {
        let mut bench = Bench::new(Config::new().max_send_buffer(1 << 20));
        let writers: Vec<_> =
            (0..4u8).map(|i| bench.spawn(move |cell, env| write(cell, env, &vec![i; 100_000]))).collect();
        assert!(writers.into_iter().all(|writer| writer.join().unwrap().unwrap() == 100_000));
        let data = bench.turns().into_iter().flat_map(|sent| match sent {
            Sent::Data(data) => data,
            other => panic!("{other:?}"),
        });
        let data: Vec<u8> = data.collect();
        assert!(data.chunks(100_000).all(|call| call.iter().all(|byte| *byte == call[0])));
    });
}

#[test]
fn a_write_after_an_ending_fails_and_accepts_nothing() {
    let mut bench = Bench::v1();
    let _ = bench.cell.finish(&bench.env);
    assert_eq!(bench.turns(), [Sent::Fin]);
    assert!(matches!(bench.write(&pattern(100)), Err(Error::WriteShutdown)));
    assert!(matches!(bench.write(&pattern(100_000)), Err(Error::WriteShutdown)));
    assert_eq!(bench.turns(), []);
}

#[test]
fn a_write_owes_a_ring_if_it_queued_the_stream() {
    let bench = Bench::v1();
    assert!(bench.cell.write(&bench.env, b"first").unwrap().bell.is_due());
    assert!(!bench.cell.write(&bench.env, b"second").unwrap().bell.is_due(), "it is queued already");
}

#[test]
fn a_write_answers_what_was_read_once() {
    let bench = asked();
    assert!(is_answer(&bench, b"answer"));
    assert!(!is_answer(&bench, b"and more"), "one turn a request");
    ask(&bench);
    assert!(is_answer(&bench, b"answer"));
}

#[test]
fn a_write_that_was_not_asked_for_is_no_answer() {
    assert!(!is_answer(&Bench::v1(), b"greeting"));
}

#[test]
fn a_large_write_is_no_answer_and_leaves_the_right_to_a_small_one() {
    let bench = asked();
    assert!(!is_answer(&bench, &pattern(2049)));
    assert!(is_answer(&bench, &pattern(2048)));
}

#[test]
fn a_write_with_more_requests_to_read_is_no_answer() {
    let bench = asked();
    bench.deliver(b"another");
    assert!(!is_answer(&bench, b"answer"));
    assert_eq!(bench.read(100).unwrap(), b"another");
    assert!(is_answer(&bench, b"answers"));
}

#[test]
fn a_write_that_has_no_time_is_no_answer() {
    let far = Duration::from_secs(3600);
    let bench = asked();
    bench.cell.set_nonblocking(true);
    assert!(!is_answer(&bench, b"answer"));
    bench.cell.set_nonblocking(false);
    assert!(is_answer(&bench, b"answer"));

    // A deadline, a timeout; both near, passed, and far.
    for near in [Duration::ZERO, Duration::from_millis(10)] {
        let bench = asked();
        bench.cell.set_deadline(Direction::Write, Some(Instant::now() + near));
        assert!(!is_answer(&bench, b"answer"));
        bench.cell.set_deadline(Direction::Write, None);
        bench.cell.set_timeout(Direction::Write, Some(near + Duration::from_nanos(1)));
        assert!(!is_answer(&bench, b"answer"));
        bench.cell.set_timeout(Direction::Write, Some(far));
        assert!(is_answer(&bench, b"answer"));
    }
    let bench = asked();
    bench.cell.set_deadline(Direction::Write, Some(Instant::now() + far));
    assert!(is_answer(&bench, b"answer"));
    // The time that a read may take is not a write's.
    let bench = asked();
    bench.cell.set_deadline(Direction::Read, Some(bench.start));
    assert!(is_answer(&bench, b"answer"));
}

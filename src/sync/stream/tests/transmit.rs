//! How the writer works on a stream.

use super::*;
use crate::error::Error;

#[test]
fn transmit_sends_what_the_stream_owes_and_says_how_much() {
    let mut bench = Bench::opened(Config::new(), true);
    assert_eq!(bench.write(&pattern(1000)).unwrap(), 1000);
    let _ = bench.stream.finish(&bench.env);
    assert!(bench.queue.next_express().is_some());
    let mut sent = Vec::new();
    let transmitted = bench
        .stream
        .transmit(&bench.env, Lane::Express, usize::MAX, |frame| sent.push(Sent::of(frame)));
    assert_eq!(sent, [Sent::Syn, Sent::Data(pattern(1000)), Sent::Fin]);
    assert_eq!(
        (transmitted.data, transmitted.fin, transmitted.again, transmitted.wake_blocked_write),
        (1000, true, false, false)
    );
}

#[test]
fn a_bulk_transmit_keeps_to_its_allowance_and_asks_for_another() {
    let bench = Bench::new(Config::new().max_frame_size(1000));
    assert_eq!(bench.write(&pattern(10_000)).unwrap(), 10_000);
    let mut lengths = Vec::new();
    let mut take = |quantum| {
        let transmitted =
            bench.stream.transmit(&bench.env, Lane::Bulk, quantum, |frame| match Sent::of(frame) {
                Sent::Data(data) => lengths.push(data.len()),
                other => panic!("{other:?}"),
            });
        (transmitted.data, transmitted.again)
    };
    // A frame may exceed the rest of the quantum. The next one doesn't begin.
    assert_eq!(take(2500), (3000, true));
    assert_eq!(take(1000), (1000, true));
    assert_eq!(take(usize::MAX), (6000, false));
    assert_eq!(lengths, [1000; 10]);
}

#[test]
fn what_a_bulk_transmit_leaves_goes_by_the_express_lane_when_it_is_little() {
    let mut bench = Bench::new(Config::new().max_frame_size(1000));
    assert_eq!(bench.write(&pattern(4000)).unwrap(), 4000);
    assert!(bench.queue.next_bulk().is_some());
    let transmitted = bench.stream.transmit(&bench.env, Lane::Bulk, 2000, |_| {});
    assert_eq!((transmitted.data, transmitted.again), (2000, false));
    assert!(bench.queue.next_express().is_some(), "2000 bytes are left");
}

#[test]
fn transmit_wakes_a_blocked_write_once_there_is_room() {
    watched(|| {
        let mut bench = Bench::with_queue(10_000);
        assert_eq!(bench.write(&pattern(10_000)).unwrap(), 10_000);
        assert!(bench.queue.next_bulk().is_some());
        // Nobody waits, so nobody is to be woken.
        let nothing = bench.stream.transmit(&bench.env, Lane::Express, 0, |_| {});
        assert!(!nothing.wake_blocked_write);
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"more"));
        // A turn that sends nothing makes no room.
        let nothing = bench.stream.transmit(&bench.env, Lane::Express, 0, |_| {});
        assert_eq!((nothing.data, nothing.wake_blocked_write), (0, false));
        let transmitted = bench.stream.transmit(&bench.env, Lane::Bulk, usize::MAX, |_| {});
        assert_eq!((transmitted.data, transmitted.wake_blocked_write), (10_000, true));
        bench.stream.wake_blocked_write();
        assert_eq!(blocked_write.join().unwrap().unwrap(), 4);
    });
}

#[test]
fn transmit_without_a_blocked_write_wakes_nobody() {
    let bench = Bench::v1();
    assert_eq!(bench.write(&pattern(10_000)).unwrap(), 10_000);
    let transmitted = bench.stream.transmit(&bench.env, Lane::Bulk, usize::MAX, |_| {});
    assert_eq!((transmitted.data, transmitted.wake_blocked_write), (10_000, false));
}

#[test]
fn a_stream_can_be_forgotten_when_it_is_closed_and_its_fin_was_written() {
    let bench = Bench::v1();
    let _ = bench.stream.finish(&bench.env);
    let transmitted = bench.stream.transmit(&bench.env, Lane::Express, usize::MAX, |_| {});
    assert!(transmitted.fin);
    assert!(!bench.stream.mark_written(0, true, bench.start), "its application may still read");

    let bench = Bench::v1();
    assert_eq!(bench.write(b"last words").unwrap(), 10);
    let _ = bench.stream.close(&bench.env);
    let transmitted = bench.stream.transmit(&bench.env, Lane::Express, usize::MAX, |_| {});
    assert_eq!((transmitted.data, transmitted.fin), (10, true));
    assert!(!bench.stream.mark_written(10, false, bench.start), "its FIN isn't out");
    assert!(bench.stream.mark_written(0, true, bench.start));
    assert!(!bench.stream.mark_written(0, false, bench.start), "it is over once");
}

#[test]
fn flush_returns_when_the_bytes_accepted_before_it_are_written() {
    watched(|| {
        let mut bench = Bench::v1();
        assert!(bench.stream.flush().is_ok(), "nothing was accepted");
        assert_eq!(bench.write(b"first").unwrap(), 5);
        let flush = bench.blocked(|stream, _| stream.flush());
        assert_eq!(bench.write(b"second").unwrap(), 6);
        let later = bench.blocked(|stream, _| stream.flush());
        assert_eq!(bench.waiting(), (0, 0, 2));
        // The turn takes the data. A flush waits until that is handed over.
        assert!(bench.queue.next_express().is_some());
        let transmitted = bench.stream.transmit(&bench.env, Lane::Express, usize::MAX, |_| {});
        assert_eq!(transmitted.data, 11);
        assert!(!bench.stream.mark_written(5, false, bench.start));
        assert!(flush.join().unwrap().is_ok());
        until(|| bench.waiting() == (0, 0, 1));
        assert!(!bench.stream.mark_written(6, false, bench.start));
        assert!(later.join().unwrap().is_ok());
        assert_eq!(bench.waiting(), NOBODY);
        let _ = bench.stream.close(&bench.env);
        assert!(matches!(bench.stream.flush(), Err(Error::Closed)));
    });
}

#[test]
fn written_data_restarts_the_no_data_clock() {
    let bench = Bench::v1();
    let minute = Duration::from_secs(60);
    bench.stream.set_no_data_timeout(Some(minute));
    let since = |bench: &Bench| {
        bench.stream.state.lock().no_data.limit(bench.start).unwrap().unwrap() - minute
    };
    let set = since(&bench);
    let later = set + Duration::from_secs(10);
    assert!(!bench.stream.mark_written(0, false, later));
    assert_eq!(since(&bench), set, "FIN and UPD aren't data");
    assert_eq!(bench.write(b"data").unwrap(), 4);
    let transmitted = bench.stream.transmit(&bench.env, Lane::Express, usize::MAX, |_| {});
    assert!(!bench.stream.mark_written(transmitted.data, transmitted.fin, later));
    assert_eq!(since(&bench), later);
}

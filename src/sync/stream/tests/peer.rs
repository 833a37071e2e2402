//! How the reader works on a stream.

use super::*;
use crate::error::Error;

/// A time after the start that is long for these tests. Nobody waits for it.
const LATER: Duration = Duration::from_secs(10);

/// Returns the time from the stream's start to the last start of its no-data clock.
fn no_data_since(bench: &Bench) -> Duration {
    let hour = Duration::from_secs(3600);
    let at = bench.stream.state.lock().no_data.limit(bench.start).unwrap().unwrap();
    at.saturating_duration_since(bench.start + hour)
}

fn with_no_data_clock() -> Bench {
    Bench::new(Config::new().version(2).no_data_timeout(Some(Duration::from_secs(3600))))
}

/// Returns whether nobody is to be woken: only calls of a stream that isn't there.
fn wakes_nobody(wakes: &Wakes) -> bool {
    wakes.are_only_for(&Bench::v1().stream)
}

#[test]
fn what_is_delivered_is_read_in_its_order() {
    // Small payloads that merge, and a large one.
    let bench = Bench::v1();
    let data = pattern(20_000);
    let mut at = 0;
    for n in [1, 1, 60, 3, 100, 4096, 1, 12_000, 5, 700] {
        bench.deliver(&data[at..at + n]);
        at += n;
    }
    let mut heard = Vec::new();
    while heard.len() < at {
        heard.extend(bench.read(3000).unwrap());
    }
    assert_eq!(heard, data[..at]);
}

#[test]
fn small_data_says_what_it_needs_when_it_could_not_be_merged() {
    let bench = Bench::v1();
    let mut wakes = Wakes::default();
    let mut small = |data: &[u8]| {
        bench.stream.deliver_small(&bench.env, data, bench.start, &mut wakes).unwrap()
    };
    assert!(matches!(small(&[1; 10]), Small::Needs { merged: 0, size: 64 }));
    bench.deliver(&[1; 10]); // a chunk of 64 bytes
    assert!(matches!(small(&[2; 50]), Small::Done));
    assert!(matches!(small(&[3; 30]), Small::Needs { merged: 4, size: 64 }));
    assert_eq!(bench.stream.occupied(), 128); // with its overhead
}

#[test]
fn data_that_nobody_wants_is_taken_and_counts_as_consumed() {
    let mut bench = Bench::v2();
    let _ = bench.stream.shut_read(&bench.env);
    assert_eq!(bench.transmit_all(), []);
    let mut wakes = Wakes::default();
    let small = bench.stream.deliver_small(&bench.env, &[0; 100], bench.start, &mut wakes).unwrap();
    assert!(matches!(small, Small::Done));
    assert_eq!(bench.transmit_all(), [Sent::Update(100, 65536)], "the first data that is consumed");
    assert_eq!(bench.stream.admit(&bench.env, 40_000).unwrap(), Received::Discard);
    assert_eq!(bench.transmit_all(), [Sent::Update(40_100, 65536)]);
    assert_eq!(bench.stream.occupied(), 0);
}

#[test]
fn data_that_was_admitted_and_isnt_wanted_any_more_counts_as_consumed() {
    let mut bench = Bench::v2();
    assert_eq!(bench.stream.admit(&bench.env, 50_000).unwrap(), Received::Queue);
    let _ = bench.stream.shut_read(&bench.env);
    let buffer = bench.env.pool.fit(50_000).unwrap();
    let charge = bench.env.budget.charge(charge_for(&buffer));
    bench.stream.deliver(
        &bench.env,
        Chunk::new(buffer, 0, 50_000, charge),
        bench.start,
        &mut Wakes::default(),
    );
    assert_eq!((bench.stream.occupied(), bench.env.budget.used()), (0, 0));
    assert_eq!(bench.transmit_all(), [Sent::Update(50_000, 65536)]);
}

#[test]
fn data_after_fin_is_late_and_the_first_of_it_is_told_apart() {
    let bench = Bench::v1();
    assert!(bench.stream.peer_fin(bench.start));
    assert!(!bench.stream.peer_fin(bench.start), "a second FIN is no news");
    let mut wakes = Wakes::default();
    assert!(matches!(
        bench.stream.deliver_small(&bench.env, b"late", bench.start, &mut wakes),
        Ok(Small::Late)
    ));
    assert_eq!(bench.stream.admit(&bench.env, 5000).unwrap(), Received::Late);
    assert_eq!([(); 3].map(|()| bench.stream.first_late()), [true, false, false]);
}

#[test]
fn data_past_every_window_is_an_overrun_of_this_stream() {
    let bench = Bench::v2();
    // The initial window, and a slack of the same size.
    assert_eq!(bench.stream.admit(&bench.env, 524_288).unwrap(), Received::Queue);
    let overrun =
        |error| matches!(error, Error::Overrun { stream: 3, received: 524_289, allowed: 524_288 });
    assert!(overrun(bench.stream.admit(&bench.env, 1).unwrap_err()));
    let bench = Bench::v2();
    assert_eq!(bench.stream.admit(&bench.env, 524_288).unwrap(), Received::Queue);
    assert!(overrun(
        bench
            .stream
            .deliver_small(&bench.env, b"1", bench.start, &mut Wakes::default())
            .unwrap_err()
    ));
}

#[test]
fn data_wakes_one_reader_when_all_that_came_is_delivered() {
    watched(|| {
        // A payload that is merged with queued data, one in a chunk of its own, and a large one.
        for (there, n) in [(1, 10), (0, 10), (0, 5000)] {
            let bench = Bench::v1();
            let mut wakes = Wakes::default();
            bench.deliver_into(&pattern(n), bench.start, &mut wakes);
            assert_eq!(wakes.only_read(), None, "nobody waits");
            assert_eq!(bench.read(n).unwrap().len(), n);
            bench.deliver(&vec![0; there]);
            // A second reader waits until the first is done with the data.
            let reader = if there == 0 {
                bench.blocked(|stream, env| read(stream, env, 10_000))
            } else {
                bench.stream.state.lock().reading = super::super::Reading::Copying;
                bench.blocked(|stream, env| read(stream, env, 10_000))
            };
            let data = pattern(n);
            bench.deliver_into(&data, bench.start, &mut wakes);
            assert_eq!(bench.waiting(), (1, 0, 0), "not before the wakes are sent");
            assert_eq!(wakes.only_read(), Some(3));
            bench.stream.state.lock().reading = super::super::Reading::Nobody;
            wakes.send();
            assert_eq!(reader.join().unwrap().unwrap()[there..], data);
        }
    });
}

#[test]
fn small_data_wakes_a_reader_that_waits_and_for_what_it_can_read() {
    watched(|| {
        let bench = Bench::v1();
        let mut wakes = Wakes::default();
        bench.deliver(&[1; 10]);
        let small =
            bench.stream.deliver_small(&bench.env, &[2; 10], bench.start, &mut wakes).unwrap();
        assert!(matches!(small, Small::Done) && wakes_nobody(&wakes), "merged, and nobody waits");
        assert_eq!(bench.read(100).unwrap().len(), 20);
        let reader = bench.blocked(|stream, env| read(stream, env, 100));
        let small =
            bench.stream.deliver_small(&bench.env, &[3; 10], bench.start, &mut wakes).unwrap();
        assert!(
            matches!(small, Small::Needs { merged: 0, .. }) && wakes_nobody(&wakes),
            "nothing to read yet"
        );
        bench.deliver_into(&[3; 10], bench.start, &mut wakes);
        let small =
            bench.stream.deliver_small(&bench.env, &[4; 10], bench.start, &mut wakes).unwrap();
        assert!(matches!(small, Small::Done) && wakes.only_read().is_some());
        wakes.send();
        assert_eq!(reader.join().unwrap().unwrap().len(), 20);
    });
}

#[test]
fn wakes_know_whose_they_are() {
    watched(|| {
        let a = Bench::with_queue(10);
        let b = Bench::v1();
        let mut wakes = Wakes::default();
        assert!(wakes.are_only_for(&a.stream) && wakes.only_read().is_none());
        let readers = [&a, &b].map(|bench| bench.blocked(|stream, env| read(stream, env, 100)));
        for _ in 0..3 {
            a.deliver_into(&[0; 20], a.start, &mut wakes); // one stream, delivered to several times
        }
        assert_eq!(wakes.only_read(), Some(3));
        assert!(wakes.are_only_for(&a.stream) && !wakes.are_only_for(&b.stream));
        // A blocked write of the same stream.
        assert_eq!(a.write(&[0; 10]).unwrap(), 10);
        let blocked_write = a.blocked(|stream, env| write(stream, env, b"x"));
        let transmitted = a.stream.transmit(&a.env, Lane::Express, usize::MAX, |_| {});
        assert_eq!(transmitted.data, 10);
        a.stream.update(&a.env, (10, 300_000), a.start, &mut wakes).unwrap();
        assert!(wakes.only_read().is_none() && wakes.are_only_for(&a.stream));
        // And another stream.
        b.deliver_into(&[0; 20], b.start, &mut wakes);
        assert!(!wakes.are_only_for(&a.stream) && !wakes.are_only_for(&b.stream));
        wakes.send();
        assert!(
            wakes.are_only_for(&a.stream) && wakes.are_only_for(&b.stream),
            "nobody is left to be woken"
        );
        assert_eq!(readers.map(|reader| reader.join().unwrap().unwrap().len()), [60, 20]);
        assert_eq!(blocked_write.join().unwrap().unwrap(), 1);
    });
}

#[test]
fn fin_wakes_reads_with_the_end_and_writes_to_watch_their_clock() {
    watched(|| {
        let stall = Duration::from_secs(3600);
        let bench =
            Bench::new(Config::new().version(2).max_send_buffer(10).half_close_stall(Some(stall)));
        assert_eq!(bench.write(&[0; 10]).unwrap(), 10);
        let readers = [
            bench.blocked(|stream, env| read(stream, env, 1)),
            bench.blocked(|stream, env| read(stream, env, 1)),
        ];
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"x"));
        assert!(bench.stream.peer_fin(bench.start));
        assert!(readers.into_iter().all(|reader| reader.join().unwrap().unwrap().is_empty()));
        until(|| bench.waiting() == (0, 1, 0));
        let _ = bench.stream.close(&bench.env);
        assert!(blocked_write.join().unwrap().is_err());
    });
}

#[test]
fn an_update_wakes_a_write_when_there_is_room_worth_it() {
    watched(|| {
        let mut bench = Bench::new(Config::new().version(2).max_send_buffer(400_000));
        assert_eq!(bench.write(&pattern(400_000)).unwrap(), 262_144);
        // Credit alone isn't room: the outbox is more than half full.
        let mut wakes = Wakes::default();
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"more"));
        bench.stream.update(&bench.env, (0, 262_244), bench.start, &mut wakes).unwrap();
        assert!(wakes_nobody(&wakes));
        assert!(
            bench.send_data() >= 262_144,
            "with what the blocked write adds, once there is room"
        );
        assert_eq!(blocked_write.join().unwrap().unwrap(), 4);
        bench.send_data();
        assert_eq!(bench.write(&pattern(5000)).unwrap(), 96);
        assert_eq!(bench.send_data(), 96);
        // An update wakes nobody if it brings nothing, or if nobody waits for it.
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"more"));
        bench.stream.update(&bench.env, (0, 262_244), bench.start, &mut wakes).unwrap();
        assert!(wakes_nobody(&wakes) && bench.waiting() == (0, 1, 0));
        bench.stream.update(&bench.env, (100, 262_244), bench.start, &mut wakes).unwrap();
        assert!(!wakes_nobody(&wakes) && wakes.only_read().is_none());
        wakes.send();
        assert_eq!(blocked_write.join().unwrap().unwrap(), 4);
        bench.stream.update(&bench.env, (200, 262_244), bench.start, &mut wakes).unwrap();
        assert!(wakes_nobody(&wakes));
    });
}

#[test]
fn an_update_that_consumed_more_than_was_sent_names_the_stream() {
    let mut bench = Bench::v2();
    assert_eq!(bench.write(b"five!").unwrap(), 5);
    let mut wakes = Wakes::default();
    let error = bench.stream.update(&bench.env, (1, 65536), bench.start, &mut wakes).unwrap_err();
    assert!(
        matches!(error, Error::Consumed { stream: 3, consumed: 1, sent: 0 }),
        "it was accepted, not sent"
    );
    assert_eq!(bench.send_data(), 5);
    assert!(bench.stream.update(&bench.env, (5, 65536), bench.start, &mut wakes).is_ok());
}

#[test]
fn data_restarts_the_no_data_clock_however_it_comes() {
    let bench = with_no_data_clock();
    let mut wakes = Wakes::default();
    assert_eq!(no_data_since(&bench), Duration::ZERO);
    bench.deliver_into(b"small", bench.start + LATER, &mut wakes);
    assert_eq!(no_data_since(&bench), LATER);
    let small = bench
        .stream
        .deliver_small(&bench.env, b"merged", bench.start + LATER * 2, &mut wakes)
        .unwrap();
    assert!(matches!(small, Small::Done));
    assert_eq!(no_data_since(&bench), LATER * 2);
    bench.deliver_into(&[0; 5000], bench.start + LATER * 3, &mut wakes);
    assert_eq!(no_data_since(&bench), LATER * 3);
    bench.stream.touch(bench.start + LATER * 4);
    assert_eq!(no_data_since(&bench), LATER * 4);
}

#[test]
fn a_stream_that_was_announced_owes_an_update_before_the_first_read() {
    let mut bench = Bench::v2();
    bench.stream.announce();
    bench.stream.queue_now(&bench.env);
    assert_eq!(bench.transmit_all(), [Sent::Update(0, 16384)]);
}

#[test]
fn the_end_of_the_connection_cuts_off_what_has_had_no_fin_and_is_still_read() {
    let bench = Bench::v1();
    assert!(bench.stream.is_cut_off_by_eof());
    bench.stream.peer_fin(bench.start);
    assert!(!bench.stream.is_cut_off_by_eof());
    let bench = Bench::v1();
    let _ = bench.stream.shut_read(&bench.env);
    assert!(!bench.stream.is_cut_off_by_eof());
}

#[test]
fn a_stream_is_readable_when_a_read_would_return_whatever_with() {
    let bench = Bench::v1();
    assert!(!bench.stream.is_readable());
    bench.deliver(b"data");
    assert!(bench.stream.is_readable());
    assert_eq!(bench.read(10).unwrap(), b"data");
    assert!(!bench.stream.is_readable());
    bench.stream.peer_fin(bench.start);
    assert!(bench.stream.is_readable());
}

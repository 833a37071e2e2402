//! How an application writes.

use super::*;
use crate::error::Error;
use crate::sync::stream::Direction;

/// Whether a write would be a reply, to be written inline.
fn is_reply(bench: &Bench, data: &[u8]) -> bool {
    let written = bench.stream.write(&bench.env, data, Take::WhatFits).unwrap();
    assert_eq!(written.accepted, data.len());
    written.is_reply
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
    // Sizes below, at and above the limit for copies under the lock, and one of several frames.
    let mut bench = Bench::new(Config::new().max_frame_size(10_000));
    let data = pattern(60_000);
    let mut at = 0;
    for n in [1, 4095, 4096, 4097, 30_000, 5] {
        assert_eq!(bench.write(&data[at..at + n]).unwrap(), n);
        at += n;
    }
    let sent = bench.transmit_all().into_iter().flat_map(|sent| match sent {
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
        assert_eq!(bench.write(&pattern(5_000)).unwrap(), 5_000);
        assert_eq!(bench.write(&pattern(5_001)).unwrap(), 5_000);
        assert_eq!(bench.send_data(), 10_000);
        assert_eq!(bench.write(b"").unwrap(), 0);
        assert_eq!(bench.transmit_all(), []);
    });
}

#[test]
fn an_empty_write_returns_at_once_whatever_the_stream_is_in() {
    let bench = Bench::v1();
    let _ = bench.stream.close(&bench.env);
    assert_eq!(bench.write(b"").unwrap(), 0);
}

#[test]
fn small_data_goes_by_the_express_lane_and_large_by_bulk() {
    let mut bench = Bench::v1();
    assert!(!bench.queue.has_ready());
    assert_eq!(bench.write(&pattern(100)).unwrap(), 100);
    assert!(bench.queue.next_express().is_some() && !bench.queue.has_ready());
    let mut bench = Bench::v1();
    assert_eq!(bench.write(&pattern(100_000)).unwrap(), 100_000);
    assert!(bench.queue.has_ready());
    assert_eq!(bench.send_data(), 100_000);
}

#[test]
fn a_write_that_leaves_room_behind_wakes_the_next() {
    watched(|| {
        let mut bench = Bench::with_queue(10);
        assert_eq!(bench.write(&[0; 10]).unwrap(), 10);
        let blocked_writes =
            [(); 2].map(|()| bench.blocked(|stream, env| write(stream, env, b"four")));
        // The turn wakes one write. The other can be woken by the first only.
        assert!(bench.queue.next_express().is_some());
        let transmitted = bench.stream.transmit(&bench.env, Lane::Express, usize::MAX, |_| {});
        assert!(transmitted.wake_blocked_write);
        bench.stream.wake_blocked_write();
        assert!(
            blocked_writes
                .into_iter()
                .all(|blocked_write| blocked_write.join().unwrap().unwrap() == 4)
        );
        assert_eq!(bench.waiting(), NOBODY);
    });
}

#[test]
fn pieces_of_writes_at_once_stay_together() {
    watched(|| {
        let mut bench = Bench::new(Config::new().max_send_buffer(1 << 20));
        let blocked_writes: Vec<_> = (0..4u8)
            .map(|i| bench.spawn(move |stream, env| write(stream, env, &vec![i; 100_000])))
            .collect();
        assert!(
            blocked_writes
                .into_iter()
                .all(|blocked_write| blocked_write.join().unwrap().unwrap() == 100_000)
        );
        let data = bench.transmit_all().into_iter().flat_map(|sent| match sent {
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
    let _ = bench.stream.finish(&bench.env);
    assert_eq!(bench.transmit_all(), [Sent::Fin]);
    assert!(matches!(bench.write(&pattern(100)), Err(Error::WriteShutdown)));
    assert!(matches!(bench.write(&pattern(100_000)), Err(Error::WriteShutdown)));
    assert_eq!(bench.transmit_all(), []);
}

#[test]
fn a_write_owes_a_ring_if_it_queued_the_stream() {
    let bench = Bench::v1();
    assert!(bench.stream.write(&bench.env, b"first", Take::WhatFits).unwrap().wakeup.is_due());
    assert!(
        !bench.stream.write(&bench.env, b"second", Take::WhatFits).unwrap().wakeup.is_due(),
        "it is queued already"
    );
}

#[test]
fn a_write_answers_what_was_read_once() {
    let bench = asked();
    assert!(is_reply(&bench, b"answer"));
    assert!(!is_reply(&bench, b"and more"), "one inline write for each request");
    ask(&bench);
    assert!(is_reply(&bench, b"answer"));
}

#[test]
fn a_write_that_was_not_asked_for_is_no_answer() {
    assert!(!is_reply(&Bench::v1(), b"greeting"));
}

#[test]
fn a_large_write_is_no_answer_and_leaves_the_right_to_a_small_one() {
    let bench = asked();
    assert!(!is_reply(&bench, &pattern(2049)));
    assert!(is_reply(&bench, &pattern(2048)));
}

#[test]
fn a_write_with_more_requests_to_read_is_no_answer() {
    let bench = asked();
    bench.deliver(b"another");
    assert!(!is_reply(&bench, b"answer"));
    assert_eq!(bench.read(100).unwrap(), b"another");
    assert!(is_reply(&bench, b"answers"));
}

#[test]
fn a_write_that_has_no_time_is_no_answer() {
    let far = Duration::from_secs(3600);
    let bench = asked();
    bench.stream.set_nonblocking(true);
    assert!(!is_reply(&bench, b"answer"));
    bench.stream.set_nonblocking(false);
    assert!(is_reply(&bench, b"answer"));

    // A deadline or a timeout, each near, passed, and far.
    for near in [Duration::ZERO, Duration::from_millis(10)] {
        let bench = asked();
        bench.stream.set_deadline(Direction::Write, Some(Instant::now() + near));
        assert!(!is_reply(&bench, b"answer"));
        bench.stream.set_deadline(Direction::Write, None);
        bench.stream.set_timeout(Direction::Write, Some(near + Duration::from_nanos(1)));
        assert!(!is_reply(&bench, b"answer"));
        bench.stream.set_timeout(Direction::Write, Some(far));
        assert!(is_reply(&bench, b"answer"));
    }
    let bench = asked();
    bench.stream.set_deadline(Direction::Write, Some(Instant::now() + far));
    assert!(is_reply(&bench, b"answer"));
    // A read's limit doesn't apply to a write.
    let bench = asked();
    bench.stream.set_deadline(Direction::Read, Some(bench.start));
    assert!(is_reply(&bench, b"answer"));
}

/// Does a `write_all`.
fn write_all(stream: &Arc<SharedStream>, env: &Env, data: &[u8]) -> Result<()> {
    let written = stream.write(env, data, Take::All)?;
    assert_eq!(written.accepted, data.len());
    env.shaper.unpark(written.wakeup);
    Ok(())
}

/// Returns the bytes that are sent, all of which must be data.
fn sent(bench: &mut Bench) -> Vec<u8> {
    let data = |sent| if let Sent::Data(data) = sent { data } else { panic!("{sent:?}") };
    bench.transmit_all().into_iter().flat_map(data).collect()
}

#[test]
fn few_bytes_are_written_whole() {
    watched(|| {
        let mut bench = Bench::with_queue(10_000);
        assert_eq!(bench.write(&pattern(9_950)).unwrap(), 9_950);
        bench.stream.set_nonblocking(true);
        assert!(matches!(bench.write(&[1; 97]), Err(Error::WouldBlock)));
        assert!(matches!(write_all(&bench.stream, &bench.env, &[1; 97]), Err(Error::WouldBlock)));
        bench.stream.set_nonblocking(false);
        let blocked_write = bench.blocked(|stream, env| write(stream, env, &[1; 97]));
        assert!(bench.send_data() >= 9_950);
        assert_eq!(blocked_write.join().unwrap().unwrap(), 97);
    });
}

#[test]
fn a_small_write_takes_what_fits_once_the_window_is_too_small_for_all_of_it() {
    watched(|| {
        let mut bench = Bench::v2();
        assert_eq!(bench.write(&pattern(262_100)).unwrap(), 262_100);
        assert_eq!(bench.send_data(), 262_100);
        let blocked_write = bench.blocked(|stream, env| write(stream, env, &[1; 97]));
        bench.update(0, 262_100 + 50); // Half of the write would fit.
        until(|| bench.waiting() == (0, 1, 0));
        bench.update(262_100 - 8_000, 8_010); // Ten bytes fit, and more may never fit.
        assert_eq!(blocked_write.join().unwrap().unwrap(), 10);
    });
}

#[test]
fn calls_that_wait_are_served_as_they_came() {
    watched(|| {
        let mut bench = Bench::with_queue(20_000);
        assert_eq!(bench.write(&[0; 20_000]).unwrap(), 20_000);
        // Small and large writes, with both values of `Take`. Each must wait.
        let lens = [50_000, 97, 4096, 60_000, 1, 9000];
        let calls: Vec<_> = (1..)
            .zip(lens)
            .map(|(i, n)| {
                bench.blocked(move |stream, env| write_all(stream, env, &vec![i; n]).map(drop))
            })
            .collect();
        let mut data = Vec::new();
        while data.len() < 20_000 + lens.iter().sum::<usize>() {
            data.extend(sent(&mut bench));
        }
        assert!(calls.into_iter().all(|call| call.join().unwrap().is_ok()));
        let runs: Vec<_> = data.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
        let expected: Vec<_> = (0..).zip([20_000].into_iter().chain(lens)).collect();
        assert_eq!(runs, expected);
        assert_eq!(bench.waiting(), NOBODY);
    });
}

#[test]
fn while_a_write_is_in_progress_no_other_is_served() {
    watched(|| {
        let mut bench = Bench::with_queue(10_000);
        let first = bench.blocked(|stream, env| write_all(stream, env, &[1; 15_000]));
        let second = bench.blocked(|stream, env| write(stream, env, &[2; 10]));
        assert!(!second.is_finished());
        bench.stream.set_nonblocking(true);
        assert!(matches!(second.join().unwrap(), Err(Error::WouldBlock)));
        let error = first.join().unwrap().unwrap_err();
        assert!(matches!(&error, Error::PartialWrite { accepted: 10_000, source }
                if matches!(**source, Error::WouldBlock)));
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(sent(&mut bench), [1; 10_000]);
        assert_eq!(bench.waiting(), NOBODY);
        assert_eq!(bench.write(&[3; 10]).unwrap(), 10, "the queue is free");
    });
}

#[test]
fn a_call_that_gives_its_place_up_lets_the_next_go_on() {
    watched(|| {
        let mut bench = Bench::with_queue(10_000);
        assert_eq!(bench.write(&[0; 9_950]).unwrap(), 9_950);
        // The first write needs more room than there is, the next one doesn't.
        let first = bench.stream.state.lock().enqueue(97, false);
        let next = bench.blocked(|stream, env| write(stream, env, &[2; 30]));
        let mut state = bench.stream.state.lock();
        state.dequeue(&first);
        bench.stream.wake_next_write(&state, 10_000);
        drop(state);
        assert_eq!(next.join().unwrap().unwrap(), 30);
        assert_eq!(sent(&mut bench).len(), 9_980);
    });
}

#[test]
fn a_small_call_passes_the_line_if_there_is_room_for_all() {
    watched(|| {
        let bench = Bench::new(Config::new().max_send_buffer(10_000));
        assert_eq!(bench.write(&[0; 9_950]).unwrap(), 9_950);
        let waits = bench.blocked(|stream, env| write(stream, env, &[1; 97]));
        bench.stream.set_deadline(Direction::Write, None);
        let state = bench.stream.state.lock();
        assert_eq!(
            (state.room_at_once(50, false, 10_000), state.room_at_once(50, false, 20_000)),
            (None, Some(10_050))
        );
        assert_eq!(state.room_at_once(10_050 - 97, false, 20_000), None, "not a large one");
        assert_eq!(
            (state.room_at_once(4000, false, 14_000), state.room_at_once(3950, false, 14_000)),
            (None, Some(4050))
        );
        drop(state);
        let _ = bench.stream.close(&bench.env);
        assert!(matches!(waits.join().unwrap(), Err(Error::Closed)));
    });
}

#[test]
fn a_write_all_fails_with_what_it_has_had_accepted() {
    watched(|| {
        type End = (fn(&Bench), &'static str);
        let ends: [End; 3] = [
            (
                |bench| {
                    let _ = bench.stream.finish(&bench.env);
                },
                "this stream's sending side was shut down",
            ),
            (
                |bench| {
                    let _ = bench.stream.close(&bench.env);
                },
                "",
            ),
            (|bench| bench.stream.set_deadline(Direction::Write, Some(Instant::now())), "timeout"),
        ];
        for (i, (end, text)) in ends.into_iter().enumerate() {
            let mut bench = Bench::with_queue(10_000);
            let in_progress = bench.blocked(|stream, env| write_all(stream, env, &[1; 12_000]));
            let waits = bench.blocked(|stream, env| write_all(stream, env, &[2; 12_000]));
            end(&bench);
            let Err(Error::PartialWrite { accepted: 10_000, source }) = in_progress.join().unwrap()
            else {
                panic!()
            };
            assert!(source.to_string().contains(text), "{source}");
            assert_eq!(
                waits.join().unwrap().unwrap_err().to_string(),
                source.to_string(),
                "it took nothing"
            );
            // The accepted bytes are sent, and FIN behind them.
            let mut sent = bench.transmit_all();
            assert_eq!(sent.last() == Some(&Sent::Fin), i < 2);
            sent.retain(|sent| *sent != Sent::Fin);
            assert!(sent.iter().all(
                |sent| matches!(sent, Sent::Data(data) if data.iter().all(|byte| *byte == 1))
            ));
        }
    });
}

#[test]
fn a_write_alls_time_runs_while_it_waits_for_its_place() {
    watched(|| {
        let bench = Bench::with_queue(10_000);
        let in_progress = bench.blocked(|stream, env| write_all(stream, env, &[1; 15_000]));
        let short = Duration::from_millis(20);
        // This wakes nobody, so it applies to calls that come later.
        bench.stream.state.lock().extras().write.timeout = Some(short);
        let begin = Instant::now();
        assert!(matches!(write_all(&bench.stream, &bench.env, &[2; 10]), Err(Error::Timeout)));
        assert!(begin.elapsed() >= short);
        let _ = bench.stream.close(&bench.env);
        assert!(matches!(
            in_progress.join().unwrap(),
            Err(Error::PartialWrite { accepted: 10_000, .. })
        ));
    });
}

#[test]
fn a_small_write_all_is_an_answer() {
    let bench = asked();
    assert!(bench.stream.write(&bench.env, b"answer", Take::All).unwrap().is_reply);
}

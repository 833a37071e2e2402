//! Where calls wait, and until when.

use super::super::reading::Reading;
use super::*;
use crate::error::Error;
use crate::sync::stream::Direction;

/// A limit that no test reaches.
const FAR: Duration = Duration::from_secs(3600);

/// A stream whose outbox is full, so that reads, writes and flushes all have to wait.
fn stuck() -> Bench {
    let bench = Bench::with_queue(10);
    assert_eq!(bench.write(&[0; 10]).unwrap(), 10);
    bench
}

#[test]
fn without_limits_a_call_waits_until_there_is_something() {
    watched(|| {
        let mut bench = stuck();
        let reader = bench.blocked(|stream, env| read(stream, env, 10));
        assert_eq!(bench.waiting(), (1, 0, 0));
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"more"));
        assert_eq!(bench.waiting(), (1, 1, 0));
        let flush = bench.blocked(|stream, _| stream.flush());
        assert_eq!(bench.waiting(), (1, 1, 1));
        bench.deliver(b"data");
        assert_eq!(reader.join().unwrap().unwrap(), b"data");
        assert_eq!(bench.waiting(), (0, 1, 1));
        assert!(bench.send_data() >= 10);
        assert_eq!(blocked_write.join().unwrap().unwrap(), 4);
        assert!(flush.join().unwrap().is_ok());
        assert_eq!(bench.waiting(), NOBODY);
    });
}

#[test]
fn a_non_blocking_call_never_waits() {
    watched(|| {
        let bench = stuck();
        bench.stream.set_nonblocking(true);
        assert!(matches!(bench.read(1), Err(Error::WouldBlock)));
        assert!(matches!(bench.write(b"x"), Err(Error::WouldBlock)));
        assert!(matches!(bench.stream.flush(), Err(Error::WouldBlock)));
        bench.deliver(b"data");
        assert_eq!(bench.read(10).unwrap(), b"data");
    });
}

#[test]
fn a_deadline_that_has_passed_fails_what_would_wait_and_nothing_else() {
    watched(|| {
        let bench = stuck();
        bench.stream.set_deadline(Direction::Read, Some(bench.start));
        assert!(matches!(bench.read(1), Err(Error::Timeout)));
        bench.deliver(b"data");
        assert_eq!(bench.read(10).unwrap(), b"data", "data that is there comes first");
        bench.stream.set_deadline(Direction::Write, Some(bench.start));
        assert!(matches!(bench.write(b"x"), Err(Error::Timeout)));
        assert!(matches!(bench.stream.flush(), Err(Error::Timeout)));
        // Each direction has limits of its own: a write's limit doesn't apply to a read.
        bench.stream.set_deadline(Direction::Read, None);
        let reader = bench.blocked(|stream, env| read(stream, env, 10));
        bench.deliver(b"more");
        assert_eq!(reader.join().unwrap().unwrap(), b"more");
    });
}

#[test]
fn a_limit_ends_a_wait_by_itself() {
    watched(|| {
        let bench = stuck();
        let short = Duration::from_millis(1);
        bench.stream.set_timeout(Direction::Read, Some(short));
        assert!(matches!(bench.read(1), Err(Error::Timeout)));
        bench.stream.set_timeout(Direction::Write, Some(short));
        assert!(matches!(bench.write(b"x"), Err(Error::Timeout)));
        assert!(matches!(bench.stream.flush(), Err(Error::Timeout)));
        bench.stream.set_timeout(Direction::Read, None);
        bench.stream.set_no_data_timeout(Some(short));
        assert!(matches!(bench.read(1), Err(Error::NoData(_))));
        assert_eq!(bench.waiting(), NOBODY);
    });
}

#[test]
fn limits_set_meanwhile_reach_calls_that_are_blocked() {
    watched(|| {
        type Change = (fn(&SharedStream), fn(&Error) -> bool);
        let changes: [Change; 4] = [
            (
                |stream| {
                    stream.set_deadline(Direction::Read, Some(Instant::now()));
                    stream.set_deadline(Direction::Write, Some(Instant::now()));
                },
                |error| matches!(error, Error::Timeout),
            ),
            (
                |stream| {
                    stream.set_timeout(Direction::Read, Some(Duration::from_nanos(1)));
                    stream.set_timeout(Direction::Write, Some(Duration::from_nanos(1)));
                },
                |error| matches!(error, Error::Timeout),
            ),
            (|stream| stream.set_nonblocking(true), |error| matches!(error, Error::WouldBlock)),
            // Each time that it fires, the clock restarts. So each call fails soon, after a time of
            // its own.
            (
                |stream| stream.set_no_data_timeout(Some(Duration::from_nanos(1))),
                |error| matches!(error, Error::NoData(_)),
            ),
        ];
        for (change, expected) in changes {
            let bench = stuck();
            let reader = bench.blocked(|stream, env| read(stream, env, 1));
            let blocked_write = bench.blocked(|stream, env| write(stream, env, b"x"));
            let flush = bench.blocked(|stream, _| stream.flush());
            change(&bench.stream);
            assert!(expected(&reader.join().unwrap().unwrap_err()));
            assert!(expected(&blocked_write.join().unwrap().unwrap_err()));
            assert!(expected(&flush.join().unwrap().unwrap_err()));
        }
    });
}

#[test]
fn settings_are_told_as_they_were_set() {
    let bench = Bench::v1();
    assert_eq!(
        (bench.stream.timeout(Direction::Read), bench.stream.timeout(Direction::Write)),
        (None, None)
    );
    assert_eq!(bench.stream.no_data_timeout(), None);
    bench.stream.set_timeout(Direction::Read, Some(FAR));
    bench.stream.set_timeout(Direction::Write, Some(FAR * 2));
    bench.stream.set_no_data_timeout(Some(FAR * 3));
    assert_eq!(bench.stream.timeout(Direction::Read), Some(FAR));
    assert_eq!(bench.stream.timeout(Direction::Write), Some(FAR * 2));
    assert_eq!(bench.stream.no_data_timeout(), Some(FAR * 3));
}

#[test]
fn a_reader_waits_while_another_has_chunks_out() {
    watched(|| {
        let bench = Bench::v1();
        bench.deliver(b"data");
        bench.stream.state.lock().reading = Reading::Writing;
        let reader = bench.blocked(|stream, env| read(stream, env, 10));
        // The end isn't reported either, since the other read may put something back.
        bench.stream.peer_fin(bench.start);
        until(|| bench.waiting() == (1, 0, 0));
        bench.stream.state.lock().reading = Reading::Nobody;
        bench.stream.readable.notify_all();
        assert_eq!(reader.join().unwrap().unwrap(), b"data");
    });
}

#[test]
fn the_end_waits_for_a_reader_that_may_put_something_back() {
    watched(|| {
        for reading in [Reading::Copying, Reading::Writing] {
            let bench = Bench::v1();
            bench.stream.state.lock().reading = reading;
            assert!(bench.stream.peer_fin(bench.start));
            let reader = bench.blocked(|stream, env| read(stream, env, 10));
            bench.stream.state.lock().reading = Reading::Nobody;
            bench.stream.readable.notify_all();
            assert_eq!(reader.join().unwrap().unwrap(), b"");
        }
    });
}

#[test]
fn an_end_is_told_while_another_has_chunks_out_if_none_of_it_would_be_read() {
    watched(|| {
        let bench = Bench::v1();
        bench.stream.state.lock().reading = Reading::Copying;
        bench.stream.peer_fin(bench.start);
        let reader = bench.blocked(|stream, env| read(stream, env, 10));
        let _ = bench.stream.shut_read(&bench.env);
        assert_eq!(reader.join().unwrap().unwrap(), b"");
        let _ = bench.stream.close(&bench.env);
        assert!(matches!(bench.read(10), Err(Error::Closed)));
    });
}

#[test]
fn a_failure_waits_for_a_copy_and_not_for_a_users_writer() {
    watched(|| {
        let bench = Bench::v1();
        bench.stream.state.lock().reading = Reading::Writing;
        let _ = bench.stream.fail(&bench.env, Error::GoAway, false);
        assert!(matches!(bench.read(10), Err(Error::GoAway)));
        bench.stream.state.lock().reading = Reading::Copying;
        let reader = bench.blocked(|stream, env| read(stream, env, 10));
        bench.stream.state.lock().reading = Reading::Nobody;
        bench.stream.readable.notify_all();
        assert!(matches!(reader.join().unwrap(), Err(Error::GoAway)));
    });
}

#[test]
fn a_write_waits_while_another_fills_buffers() {
    watched(|| {
        let mut bench = Bench::v1();
        bench.stream.state.lock().write_in_progress = true;
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"second"));
        {
            let mut state = bench.stream.state.lock();
            state.core.accept_small(b"first ", 1000, bench.env.pool);
            state.write_in_progress = false;
        }
        bench.stream.wake_blocked_write();
        assert_eq!(blocked_write.join().unwrap().unwrap(), 6);
        assert_eq!(bench.transmit_all(), [Sent::Data(b"first second".to_vec())]);
    });
}

#[test]
fn a_write_without_credit_after_the_peers_fin_fails_after_the_stall() {
    watched(|| {
        let stall = Duration::from_millis(20);
        let mut bench = Bench::new(Config::new().version(2).half_close_stall(Some(stall)));
        assert_eq!(bench.write(&pattern(300_000)).unwrap(), 262_144);
        assert_eq!(bench.send_data(), 262_144);
        let begin = Instant::now();
        assert!(bench.stream.peer_fin(begin));
        assert!(matches!(bench.write(b"x"), Err(Error::PeerFinished(after)) if after == stall));
        assert!(begin.elapsed() >= stall, "not before that");
        // Each credit is used up, and restarts the clock.
        bench.update(10, 262_144);
        assert_eq!(bench.write(&pattern(5000)).unwrap(), 10);
        assert_eq!(bench.send_data(), 10);
        bench.stream.state.lock().credit_at = Some(Instant::now() + FAR);
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"x"));
        let _ = bench.stream.close(&bench.env);
        assert!(matches!(blocked_write.join().unwrap(), Err(Error::Closed)));
    });
}

#[test]
fn a_write_that_waits_for_the_queue_and_loses_its_credit_meanwhile_fails_after_the_stall() {
    watched(|| {
        let stall = Duration::from_millis(20);
        let config = || Config::new().version(2).max_send_buffer(10).half_close_stall(Some(stall));
        // It loses its credit to a smaller window.
        let mut bench = Bench::new(config());
        assert_eq!(bench.write(&[0; 10]).unwrap(), 10);
        assert!(bench.stream.peer_fin(bench.start));
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"x"));
        bench.update(0, 10);
        assert_eq!(bench.send_data(), 10);
        assert!(matches!(blocked_write.join().unwrap(), Err(Error::PeerFinished(_))));
        // It loses its credit to another write: one of two gets all that there is.
        let mut bench = Bench::new(config());
        assert_eq!(bench.write(&[0; 10]).unwrap(), 10);
        assert!(bench.stream.peer_fin(bench.start));
        bench.update(0, 11);
        let blocked_writes =
            [(); 2].map(|()| bench.blocked(|stream, env| write(stream, env, b"x")));
        bench.send_data();
        let results = blocked_writes.map(|blocked_write| blocked_write.join().unwrap());
        let taken = results.iter().filter(|result| matches!(result, Ok(1))).count();
        let failed =
            results.iter().filter(|result| matches!(result, Err(Error::PeerFinished(_)))).count();
        assert_eq!((taken, failed), (1, 1), "{results:?}");
    });
}

#[test]
fn a_full_queue_is_no_stall_while_there_is_credit_or_the_peer_may_grant_some() {
    watched(|| {
        let short = Duration::from_nanos(1);
        // The peer has finished, and there is credit: the waiting data is on its way.
        let mut bench =
            Bench::new(Config::new().version(2).max_send_buffer(10).half_close_stall(Some(short)));
        assert_eq!(bench.write(&[0; 10]).unwrap(), 10);
        assert!(bench.stream.peer_fin(bench.start));
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"x"));
        assert!(bench.send_data() >= 10);
        assert_eq!(blocked_write.join().unwrap().unwrap(), 1);
        // There is no credit, and the peer hasn't finished.
        let mut bench = Bench::new(Config::new().version(2).half_close_stall(Some(short)));
        assert_eq!(bench.write(&pattern(300_000)).unwrap(), 262_144);
        assert_eq!(bench.send_data(), 262_144);
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"x"));
        bench.update(1, 262_144);
        assert_eq!(blocked_write.join().unwrap().unwrap(), 1);
        // Without a stall limit, the write waits without limit.
        let mut bench = Bench::new(Config::new().version(2).half_close_stall(None));
        assert_eq!(bench.write(&pattern(300_000)).unwrap(), 262_144);
        assert_eq!(bench.send_data(), 262_144);
        assert!(bench.stream.peer_fin(bench.start));
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"x"));
        bench.update(1, 262_144);
        assert_eq!(blocked_write.join().unwrap().unwrap(), 1);
    });
}

#[test]
fn a_reader_leads_instead_of_waiting_while_the_session_stands_by() {
    watched(|| {
        let bench = Bench::v1();
        let calls = AtomicU64::new(0);
        let read_inline = || {
            calls.fetch_add(1, SeqCst);
            bench.deliver(b"led");
            true
        };
        let mut buffer = [0; 10];
        // The handoff isn't offered. The data would have to come by itself, and it doesn't come in
        // time.
        bench.stream.set_timeout(Direction::Read, Some(Duration::from_millis(1)));
        assert!(matches!(
            bench.stream.read(&bench.env, &mut buffer, read_inline),
            Err(Error::Timeout)
        ));
        bench.env.read_handoff.offer();
        // The handoff is offered, but the limit is near.
        assert!(matches!(
            bench.stream.read(&bench.env, &mut buffer, read_inline),
            Err(Error::Timeout)
        ));
        assert_eq!(calls.load(SeqCst), 0);
        for far in [Some(FAR), None] {
            bench.stream.set_timeout(Direction::Read, far);
            assert_eq!(bench.stream.read(&bench.env, &mut buffer, read_inline).unwrap(), 3);
        }
        assert_eq!(calls.load(SeqCst), 2);
    });
}

#[test]
fn a_reader_that_cannot_lead_waits_unless_something_came_meanwhile() {
    watched(|| {
        let bench = Bench::v1();
        bench.env.read_handoff.offer();
        let mut buffer = [0; 10];
        let read_inline = || {
            bench.deliver(b"another's");
            false
        };
        assert_eq!(bench.stream.read(&bench.env, &mut buffer, read_inline).unwrap(), 9);
        // Its `read_inline` returns `false`.
        let reader = bench.blocked(|stream, env| read(stream, env, 10));
        bench.deliver(b"data");
        assert_eq!(reader.join().unwrap().unwrap(), b"data");
    });
}

//! How an application reads.

use std::io;
use std::sync::mpsc;

use super::super::reading::Reading;
use super::*;
use crate::error::Error;

/// More bytes than are copied under the lock.
const LARGE: usize = 3 * 5000;

/// Delivers `LARGE` bytes in three chunks.
fn deliver_large(bench: &Bench) -> Vec<u8> {
    let data = pattern(LARGE);
    data.chunks(5000).for_each(|chunk| bench.deliver(chunk));
    data
}

/// A writer that asks the test how to treat each piece.
struct Asks<F>(F);

impl<F: FnMut(&[u8]) -> io::Result<usize>> io::Write for Asks<F> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_read_returns_what_is_there_and_no_more_than_asked_for() {
    let bench = Bench::v1();
    bench.deliver(b"hello, world");
    assert_eq!(bench.read(5).unwrap(), b"hello");
    assert_eq!(bench.read(0).unwrap(), b"");
    assert_eq!(bench.read(100).unwrap(), b", world");
    let data = deliver_large(&bench);
    assert_eq!(bench.read(6000).unwrap(), data[..6000]);
    assert_eq!(bench.read(1000).unwrap(), data[6000..7000]);
    assert_eq!(bench.read(100_000).unwrap(), data[7000..]);
    assert_eq!(bench.stream.occupied(), 0);
    assert_eq!(bench.env.budget.used(), 0, "what is read is refunded");
}

#[test]
fn an_empty_read_returns_at_once_whatever_the_stream_is_in() {
    let bench = Bench::v1();
    assert_eq!(bench.read(0).unwrap(), b"");
    let _ = bench.stream.close(&bench.env);
    assert_eq!(bench.read(0).unwrap(), b"");
    assert!(matches!(bench.read(1), Err(Error::Closed)));
}

#[test]
fn what_is_read_counts_as_consumed_however_it_was_copied() {
    // Data that is copied under the lock, copied outside of it, and written to a user's writer.
    let mut bench = Bench::v2();
    deliver_large(&bench);
    assert_eq!(bench.read(100).unwrap().len(), 100);
    assert_eq!(bench.transmit_all(), [Sent::Update(100, 65536)]);
    for _ in 0..6 {
        deliver_large(&bench);
    }
    // These make half a window, so an UPD is due. They are counted one by one, and together.
    assert_eq!(bench.read(40_000).unwrap().len(), 40_000);
    assert_eq!(bench.transmit_all(), [Sent::Update(40_100, 65536)]);
    bench.stream.peer_fin(bench.start);
    let mut all = Vec::new();
    assert_eq!(bench.stream.write_to(&bench.env, &mut all).unwrap(), 7 * LARGE as u64 - 40_100);
    // Bytes for a writer are counted as it takes them. This UPD was due before all was read, so the
    // window doesn't grow yet.
    assert_eq!(bench.transmit_all(), [Sent::Update(7 * LARGE as u32, 65536)]);
}

#[test]
fn a_small_rest_leaves_its_large_buffer() {
    let bench = Bench::v1();
    bench.deliver(&pattern(16_000));
    assert_eq!(bench.stream.occupied(), 16_384 + 64);
    assert_eq!(bench.read(15_900).unwrap().len(), 15_900);
    assert_eq!(bench.stream.occupied(), 128 + 64);
    assert_eq!(bench.env.budget.used(), 128 + 64, "the large one is refunded");
    assert_eq!(bench.read(1000).unwrap(), pattern(16_000)[15_900..]);
}

#[test]
fn a_reader_that_leaves_data_behind_wakes_the_next() {
    watched(|| {
        let bench = Bench::v1();
        let readers = [
            bench.blocked(|stream, env| read(stream, env, 4)),
            bench.blocked(|stream, env| read(stream, env, 4)),
        ];
        bench.deliver(b"abcdefgh"); // wakes one read
        let mut heard: Vec<_> =
            readers.into_iter().map(|reader| reader.join().unwrap().unwrap()).collect();
        heard.sort();
        assert_eq!(heard, [b"abcd", b"efgh"]);
        assert_eq!(bench.waiting(), NOBODY);
    });
}

#[test]
fn a_reader_that_leaves_nothing_behind_wakes_nobody_and_an_end_wakes_all() {
    watched(|| {
        let bench = Bench::v1();
        bench.deliver(b"last");
        // Three reads wait for one that has chunks out. That one then finds the end behind them.
        bench.stream.state.lock().reading = Reading::Copying;
        let readers = [(); 3].map(|()| bench.blocked(|stream, env| read(stream, env, 4)));
        // The FIN itself sends no wake-up here, so that only the last step of the read can be the
        // cause.
        {
            let mut state = bench.stream.state.lock();
            assert!(state.core.peer_fin());
            state.reading = Reading::Nobody;
        }
        assert_eq!(bench.read(4).unwrap(), b"last");
        assert!(readers.into_iter().all(|reader| reader.join().unwrap().unwrap().is_empty()));
    });
}

#[test]
fn a_failure_behind_the_last_data_reaches_all_readers_too() {
    watched(|| {
        let bench = Bench::v1();
        bench.deliver(b"last");
        bench.stream.state.lock().reading = Reading::Copying;
        let readers = [(); 3].map(|()| bench.blocked(|stream, env| read(stream, env, 4)));
        {
            let mut state = bench.stream.state.lock();
            let _ = state.core.fail(Error::GoAway, false);
            state.reading = Reading::Nobody;
        }
        assert_eq!(bench.read(4).unwrap(), b"last");
        assert!(
            readers.into_iter().all(|reader| matches!(reader.join().unwrap(), Err(Error::GoAway)))
        );
    });
}

#[test]
fn two_large_reads_at_once_share_the_data_in_runs() {
    watched(|| {
        let bench = Bench::v1();
        let readers = [(); 2].map(|()| bench.blocked(|stream, env| read(stream, env, LARGE / 3)));
        let data = deliver_large(&bench);
        let mut heard: Vec<_> =
            readers.into_iter().map(|reader| reader.join().unwrap().unwrap()).collect();
        heard.push(bench.read(LARGE).unwrap());
        heard.sort_by_key(|run| data.windows(64).position(|window| window == &run[..64]));
        assert_eq!(heard.concat(), data);
    });
}

#[test]
fn write_to_moves_everything_until_the_end() {
    watched(|| {
        let bench = Bench::v1();
        let data = deliver_large(&bench);
        let mover = bench.spawn(|stream, env| {
            let mut out = Vec::new();
            stream.write_to(env, &mut out).map(|n| (n, out))
        });
        until(|| bench.waiting() == (1, 0, 0));
        bench.deliver(b"and more");
        until(|| bench.waiting() == (1, 0, 0) && bench.stream.occupied() == 0);
        bench.stream.peer_fin(bench.start);
        let (n, out) = mover.join().unwrap().unwrap();
        assert_eq!(n, LARGE as u64 + 8);
        assert!(out[..LARGE] == data && out[LARGE..] == *b"and more");
    });
}

#[test]
fn what_a_failing_writer_did_not_take_goes_back_to_the_front() {
    let bench = Bench::v1();
    let data = deliver_large(&bench);
    let mut taken = 0;
    let mut calls = 0;
    // Takes 100 bytes at a time, is interrupted in between, and fails in the second chunk.
    let mut out = Asks(|piece: &[u8]| {
        calls += 1;
        if calls % 2 == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if taken == 5200 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        assert!(data[taken..].starts_with(piece));
        taken += 100;
        Ok(100)
    });
    assert_eq!(
        bench.stream.write_to(&bench.env, &mut out).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    assert_eq!(taken, 5200);
    assert_eq!(bench.read(LARGE).unwrap(), data[5200..]);
}

#[test]
fn a_writer_that_takes_nothing_is_an_error_and_one_that_boasts_is_not_believed() {
    let bench = Bench::v1();
    bench.deliver(b"data");
    let error = bench.stream.write_to(&bench.env, &mut Asks(|_: &[u8]| Ok(0))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    bench.stream.peer_fin(bench.start);
    assert_eq!(bench.stream.write_to(&bench.env, &mut Asks(|_: &[u8]| Ok(1000))).unwrap(), 4);
}

#[test]
fn what_a_slow_writer_has_taken_is_told_while_it_is_at_the_rest() {
    watched(|| {
        let mut bench = Bench::v2();
        for _ in 0..3 {
            bench.deliver(&pattern(40_000)); // one chunk for each payload
        }
        let (say, heard) = mpsc::channel();
        let (go, told) = mpsc::channel();
        let mover = bench.spawn(move |stream, env| {
            let mut out = Asks(|piece: &[u8]| {
                say.send(()).unwrap();
                told.recv().unwrap();
                Ok(piece.len())
            });
            stream.write_to(env, &mut out)
        });
        heard.recv().unwrap();
        assert_eq!(bench.transmit_all(), []);
        go.send(()).unwrap();
        heard.recv().unwrap();
        assert_eq!(
            bench.transmit_all(),
            [Sent::Update(40_000, 65536)],
            "the first, and the others unread"
        );
        go.send(()).unwrap();
        heard.recv().unwrap();
        assert_eq!(bench.transmit_all(), [Sent::Update(80_000, 65536)]);
        go.send(()).unwrap();
        bench.stream.peer_fin(bench.start);
        assert_eq!(mover.join().unwrap().unwrap(), 120_000);
    });
}

#[test]
fn shutting_down_while_a_writer_has_a_chunk_counts_the_rest_as_consumed() {
    watched(|| {
        let mut bench = Bench::v2();
        bench.deliver(&pattern(40_000));
        let (say, heard) = mpsc::channel();
        let (go, told) = mpsc::channel();
        let mover = bench.spawn(move |stream, env| {
            let mut out = Asks(|_: &[u8]| {
                say.send(()).unwrap();
                told.recv().unwrap();
                Err(io::ErrorKind::StorageFull.into())
            });
            stream.write_to(env, &mut out)
        });
        heard.recv().unwrap();
        let _ = bench.stream.shut_read(&bench.env);
        assert_eq!(bench.transmit_all(), [], "the chunk is out");
        go.send(()).unwrap();
        assert!(mover.join().unwrap().is_err());
        assert_eq!(bench.transmit_all(), [Sent::Update(40_000, 65536)]);
        assert_eq!((bench.stream.occupied(), bench.env.budget.used()), (0, 0));
    });
}

#[test]
fn a_panic_in_a_users_writer_loses_nothing_and_lets_others_read() {
    let bench = Bench::v1();
    let data = deliver_large(&bench);
    let mut first = true;
    let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut out =
            Asks(|_: &[u8]| if std::mem::take(&mut first) { Ok(7) } else { panic!("a user's") });
        bench.stream.write_to(&bench.env, &mut out)
    }));
    assert!(moved.is_err());
    assert_eq!(bench.read(LARGE).unwrap(), data[7..]);
}

/// A `write_to` whose writer is stuck with the first piece of `LARGE` bytes. The first channel
/// reports that the writer is inside. The second tells it to take that piece.
type Stuck = (Bench, std::thread::JoinHandle<io::Result<u64>>, mpsc::Sender<()>);

fn stuck_writer() -> Stuck {
    let bench = Bench::v2();
    bench.deliver(&pattern(5000));
    let (say, heard) = mpsc::channel();
    let (go, told) = mpsc::channel();
    let mover = bench.spawn(move |stream, env| {
        let mut out = Asks(|data: &[u8]| {
            say.send(()).unwrap();
            told.recv().unwrap();
            Ok(data.len().min(100))
        });
        stream.write_to(env, &mut out)
    });
    heard.recv().unwrap();
    (bench, mover, go)
}

#[test]
fn what_a_writer_holds_counts_as_unread_and_a_cut_takes_it_back_at_once() {
    watched(|| {
        let (bench, mover, go) = stuck_writer();
        let held = bench.stream.occupied();
        assert!(held > 5000 && held == bench.env.budget.used());
        let stalled = || Error::Stalled { held: 1, after: Duration::from_secs(1) };
        let _ = bench.stream.fail(&bench.env, stalled(), true);
        assert_eq!(
            (bench.stream.occupied(), bench.env.budget.used()),
            (0, 0),
            "while the writer is still inside"
        );
        assert!(matches!(bench.read(1), Err(Error::Stalled { .. })));
        go.send(()).unwrap();
        let error = mover.join().unwrap().unwrap_err();
        assert!(matches!(error.into(), Error::Stalled { .. }), "it isn't asked to take the rest");
        assert_eq!((bench.stream.occupied(), bench.env.budget.used()), (0, 0));
    });
}

#[test]
fn a_close_takes_back_what_a_writer_holds() {
    watched(|| {
        let (bench, mover, go) = stuck_writer();
        let _ = bench.stream.close(&bench.env);
        assert_eq!((bench.stream.occupied(), bench.env.budget.used()), (0, 0));
        go.send(()).unwrap();
        assert!(matches!(mover.join().unwrap().unwrap_err().into(), Error::Closed));
    });
}

#[test]
fn shutting_down_ends_a_writer_that_holds_the_rest() {
    watched(|| {
        let (mut bench, mover, go) = stuck_writer();
        let _ = bench.stream.shut_read(&bench.env);
        assert_eq!((bench.stream.occupied(), bench.env.budget.used()), (0, 0));
        go.send(()).unwrap();
        assert_eq!(mover.join().unwrap().unwrap(), 100);
        assert_eq!(
            bench.transmit_all(),
            [Sent::Update(5000, 65536)],
            "all of it counts as consumed"
        );
    });
}

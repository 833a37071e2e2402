//! Unsolicited bytes of several streams. Together they are at most 1 MiB past the streams' shares.
//! A write that waits for some is woken when some are given back.

use super::*;
use crate::error::Error;
use crate::sync::stream::Direction;

/// A first window. It is also the size of a share where streams are few.
const FIRST: usize = 262_144;
const SHARE: usize = 16_384;

impl Bench {
    /// Adds another stream to the session.
    fn another(&self, id: u32) -> Arc<SharedStream> {
        SharedStream::new(id, Name::new(b"", None), &self.env.config, false, self.start)
    }

    /// Returns streams that hold all unsolicited bytes except the shares.
    fn full(&self) -> [Arc<SharedStream>; 4] {
        let streams = [5, 7, 9, 11].map(|id| self.another(id));
        for stream in &streams {
            assert_eq!(write(stream, &self.env, &[0; FIRST + 1]).unwrap(), FIRST);
        }
        streams
    }

    fn update_of(&self, stream: &Arc<SharedStream>, window: u32) {
        let mut wakes = Wakes::default();
        stream.update(&self.env, (0, window), self.start, &mut wakes).unwrap();
        wakes.send();
    }

    /// Writes on another stream, in a thread of its own. Returns when the write is blocked.
    fn blocked_on(&self, stream: &Arc<SharedStream>, bytes: usize) -> JoinHandle<Result<usize>> {
        let stream = Arc::clone(stream);
        let env = Arc::clone(&self.env);
        let waits = Arc::clone(&stream);
        let thread = thread::spawn(move || write(&stream, &env, &vec![1; bytes]));
        until(|| waits.state.lock().write_waiters > 0 || thread.is_finished());
        assert!(!thread.is_finished(), "the call has to wait");
        thread
    }
}

#[test]
fn four_streams_have_their_first_window_and_the_fifth_its_share_until_something_comes_back() {
    watched(|| {
        let bench = Bench::v2();
        let four = bench.full();
        assert_eq!(bench.write(&[0; FIRST]).unwrap(), SHARE);
        bench.stream.set_nonblocking(true);
        assert!(matches!(bench.write(&[0]), Err(Error::WouldBlock)));
        bench.stream.set_nonblocking(false);
        // An UPD that asks for a part of the bytes gives no allowance for the rest: the bytes past
        // the window are still unsolicited.
        let blocked_write = bench.blocked(|stream, env| write(stream, env, &[0; FIRST]));
        bench.update_of(&four[0], 65_536);
        assert_eq!(
            blocked_write.join().unwrap().unwrap(),
            65_536 - SHARE,
            "its share was past what all have together"
        );
        assert_eq!(bench.stream.state.lock().unsolicited, 65_536);
        // A stream gets all that it wants once there is enough.
        for stream in &four {
            bench.update_of(stream, FIRST as u32);
        }
        assert_eq!(bench.write(&[0; FIRST]).unwrap(), FIRST - 65_536);
    });
}

#[test]
fn a_streams_own_update_lets_its_write_go_and_it_counts_no_more() {
    watched(|| {
        let bench = Bench::v2();
        let _four = bench.full();
        assert_eq!(bench.write(&[0; FIRST]).unwrap(), SHARE);
        let blocked_write = bench.blocked(|stream, env| write(stream, env, &[0; 100_000]));
        bench.update(0, 65_536);
        assert_eq!(blocked_write.join().unwrap().unwrap(), 65_536 - SHARE);
        assert_eq!(bench.stream.state.lock().unsolicited, 0);
    });
}

#[test]
fn a_forgotten_stream_lets_others_go_on_and_a_write_that_is_still_copying_changes_nothing() {
    watched(|| {
        let bench = Bench::v2();
        let four = bench.full();
        assert_eq!(bench.write(&[0; FIRST]).unwrap(), SHARE);
        let blocked_write = bench.blocked(|stream, env| write(stream, env, &[0; FIRST]));
        four[0].state.lock().core.writing = true;
        assert!(four[0].close(&bench.env).closed);
        four[0].forget(&bench.env);
        four[0].state.lock().core.writing = false;
        four[0].state.lock().update_unsolicited(&bench.env);
        bench.env.wake_allowance_waiters(false);
        assert_eq!(blocked_write.join().unwrap().unwrap(), FIRST - SHARE);
        assert_eq!(four[0].state.lock().unsolicited, 0);
    });
}

#[test]
fn a_share_that_grows_wakes_those_for_whom_it_is_enough_wherever_they_stand() {
    watched(|| {
        let bench = Bench::v2();
        let _four = bench.full();
        bench.env.allowance.set_streams(100);
        let first = bench.another(21);
        assert_eq!(write(&first, &bench.env, &[0; FIRST]).unwrap(), SHARE);
        bench.env.allowance.set_streams(512);
        assert_eq!(bench.write(&[0; FIRST]).unwrap(), 4096);
        let at_the_head = bench.blocked_on(&first, 10);
        let behind = bench.blocked_on(&bench.stream, 10_000);
        let grown = bench.env.allowance.set_streams(256);
        assert!(grown && !bench.env.allowance.set_streams(256));
        bench.env.wake_allowance_waiters(grown);
        assert_eq!(behind.join().unwrap().unwrap(), 4096);
        assert!(!at_the_head.is_finished());
        let _ = first.close(&bench.env);
        assert!(matches!(at_the_head.join().unwrap(), Err(Error::Closed)));
    });
}

#[test]
fn who_waits_no_more_leaves_its_part_to_the_next() {
    watched(|| {
        let bench = Bench::v2();
        let four = bench.full();
        let [late, failed, other] = [21, 23, 25].map(|id| bench.another(id));
        for stream in [&late, &failed, &other, &bench.stream] {
            assert_eq!(write(stream, &bench.env, &[0; FIRST]).unwrap(), SHARE);
        }
        let writes = [&late, &failed, &other].map(|stream| bench.blocked_on(stream, 4096));
        let blocked_write = bench.blocked_on(&bench.stream, 4096);
        late.set_deadline(Direction::Write, Some(bench.start));
        let _ = failed.fail(&bench.env, Error::Closed, false);
        bench.update_of(&other, 65_536); // it has its own window
        let results = writes.map(|write| write.join().unwrap());
        assert!(
            matches!(results, [Err(Error::Timeout), Err(Error::Closed), Ok(4096)]),
            "{results:?}"
        );
        // The UPD of the last stream gave its share back. The other three shares are still past the
        // common limit.
        bench.update_of(&four[0], 3 * SHARE as u32 + 4096);
        assert_eq!(blocked_write.join().unwrap().unwrap(), 4096);
    });
}

#[test]
fn what_a_write_was_allowed_and_did_not_take_goes_back() {
    watched(|| {
        let mut bench = Bench::with_queue(100);
        assert_eq!(bench.write(&[0; FIRST]).unwrap(), 100);
        assert_eq!(bench.stream.state.lock().unsolicited, 100);
        // It waits for its outbox, not for allowance.
        let blocked_write = bench.blocked(|stream, env| write(stream, env, &[0; 60]));
        assert!(!bench.stream.state.lock().queued);
        assert!(bench.send_data() >= 100);
        assert_eq!(blocked_write.join().unwrap().unwrap(), 60);
        assert_eq!(bench.stream.state.lock().unsolicited, 160);
    });
}

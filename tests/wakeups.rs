//! The causes that wake a blocked `read`, `write_to`, `write` or `flush`: every cause that applies
//! to each call, on both versions. Each call is seen asleep before its cause comes. Limits that
//! must not be the cause are an hour away.
//!
//! `wakeups_accept.rs` does the same for `accept`, and `wakeups_many.rs` for several calls that are
//! blocked at once.
//!
//! Promises: P10, P19, P26, P29, P32, P45, P46, P47, P48, P49, P50, P51, P52, P56, P78, P113.

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gmux::wire::Command;
use gmux::{Config, Error, Session, Stream};
use support::blocked::{Blocked, blocked, started};
use support::frame_peer::{FramePeer, frame_peer};

/// A limit that a test waits for.
const SHORT: Duration = Duration::from_millis(30);
/// A limit that no test waits for. If it is the cause, the watchdog fires first.
const FAR: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    Read,
    WriteTo,
    Write,
    Flush,
}
use Call::{Flush, Read as ReadCall, Write as WriteCall, WriteTo};

const READS: [Call; 2] = [ReadCall, WriteTo];
const WRITES: [Call; 2] = [WriteCall, Flush];
const ALL: [Call; 4] = [ReadCall, WriteTo, WriteCall, Flush];

/// A stream on which the call has to block. No data has arrived, and for `write` and `flush` the
/// transport takes nothing. For `write` the send buffer is also full.
struct Fixture {
    peer: FramePeer,
    stream: Stream,
    session: Session,
    call: Call,
    /// The number of bytes that were accepted so far.
    accepted: usize,
}

impl Fixture {
    fn new(call: Call, version: u8, config: Config) -> Self {
        let (peer, transport) = frame_peer(version);
        let config = config.version(version).max_send_buffer(4096).close_timeout(FAR);
        let session = Session::server(transport, config).unwrap();
        peer.syn(3, "fixture");
        let stream = session.accept().unwrap();
        let mut fixture = Self { peer, stream, session, call, accepted: 0 };
        if WRITES.contains(&call) {
            fixture.peer.shut();
            fixture.accepted = (&fixture.stream).write(b"x").unwrap();
            fixture.peer.wait_stuck(); // now nothing leaves the send buffer
        }
        if call == WriteCall {
            fixture.accepted += fill(&fixture.stream);
        }
        fixture
    }

    fn run(&self) -> impl FnOnce() -> io::Result<u64> + Send + 'static {
        let call = self.call;
        let stream = self.stream.clone();
        move || match call {
            ReadCall => (&stream).read(&mut [0; 16]).map(|n| n as u64),
            WriteTo => stream.write_to(&mut io::sink()),
            WriteCall => (&stream).write(b"more").map(|n| n as u64),
            Flush => (&stream).flush().map(|()| 0),
        }
    }

    fn block(&self) -> Blocked<io::Result<u64>> {
        blocked(self.run())
    }

    fn set_deadline(&self, deadline: Option<Instant>) {
        match self.call {
            ReadCall | WriteTo => self.stream.set_read_deadline(deadline),
            WriteCall | Flush => self.stream.set_write_deadline(deadline),
        }
    }

    fn set_other_deadline(&self, deadline: Option<Instant>) {
        match self.call {
            ReadCall | WriteTo => self.stream.set_write_deadline(deadline),
            WriteCall | Flush => self.stream.set_read_deadline(deadline),
        }
    }

    fn set_timeout(&self, timeout: Option<Duration>) {
        match self.call {
            ReadCall | WriteTo => self.stream.set_read_timeout(timeout).unwrap(),
            WriteCall | Flush => self.stream.set_write_timeout(timeout).unwrap(),
        }
    }

    /// Ends a blocked call's wait, and checks that the call works as usual. So nothing was lost or
    /// taken twice before.
    fn satisfy(&mut self, call: Blocked<io::Result<u64>>) {
        match self.call {
            ReadCall => {
                self.peer.psh(3, "!");
                assert_eq!(call.join().unwrap(), 1);
            }
            WriteTo => {
                self.peer.psh(3, "!");
                self.peer.fin(3);
                assert_eq!(call.join().unwrap(), 1);
            }
            WriteCall => {
                self.peer.open();
                assert_eq!(call.join().unwrap(), 4);
                let data = self.peer.expect_data(3, self.accepted + 4);
                assert!(data.starts_with(b"x") && data.ends_with(b"\0more"));
                self.stream.close().unwrap();
                self.expect_fin();
            }
            Flush => {
                self.peer.open();
                call.join().unwrap();
                assert_eq!(self.peer.expect_data(3, 1), b"x");
            }
        }
    }

    fn expect_fin(&mut self) {
        let frame = self.peer.recv();
        assert_eq!((frame.header.command, frame.header.stream_id), (Command::Fin, 3), "{frame}");
    }

    /// Checks that the stream is still usable: the call blocks again, and then succeeds.
    fn is_usable(&mut self) {
        let call = self.block();
        self.satisfy(call);
    }
}

/// Writes zeros until there is no room, and returns the number of accepted bytes. A write of 5000
/// bytes is too long to be accepted whole, so the last byte of room is used, too.
fn fill(stream: &Stream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut filled = 0;
    loop {
        match (&*stream).write(&[0; 5000]) {
            Ok(n) => filled += n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                stream.set_nonblocking(false).unwrap();
                return filled;
            }
        }
    }
}

/// Runs a test for each of `calls`, on both versions.
fn each(name: &str, calls: &[Call], test: impl Fn(Fixture)) {
    each_with(name, calls, |config| config, test);
}

fn each_with(
    name: &str,
    calls: &[Call],
    config: impl Fn(Config) -> Config,
    test: impl Fn(Fixture),
) {
    for version in [1, 2] {
        for &call in calls {
            let case = format!("{name}: {call:?}, version {version}");
            println!("{case}");
            support::test(&case, || test(Fixture::new(call, version, config(Config::new()))));
        }
    }
}

macro_rules! fails_with {
    ($call:expr, $kind:ident, $pattern:pat $(if $guard:expr)?) => {{
        let error = $call.join().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::$kind, "{error:?}");
        let error = Error::from(error);
        assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}");
    }};
}

// ---- success ------------------------------------------------------------------------------------

#[test]
fn data_wakes_read() {
    each("data_wakes_read", &[ReadCall], |mut fixture| {
        fixture.is_usable();
        fixture.is_usable();
    });
}

#[test]
fn data_reaches_the_writer_of_a_blocked_write_to_at_once() {
    struct Tell(mpsc::Sender<Vec<u8>>);
    impl Write for Tell {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.send(buf.to_vec()).unwrap();
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    each("data_reaches_the_writer_of_a_blocked_write_to_at_once", &[WriteTo], |fixture| {
        let (tell, told) = mpsc::channel();
        let stream = fixture.stream.clone();
        let call = blocked(move || stream.write_to(&mut Tell(tell)));
        for piece in ["a", "bc"] {
            fixture.peer.psh(3, piece);
            assert_eq!(told.recv().unwrap(), piece.as_bytes());
            call.assert_asleep();
        }
        fixture.peer.fin(3);
        assert_eq!(call.join().unwrap(), 3);
    });
}

#[test]
fn room_wakes_write_and_the_handed_over_data_wakes_flush() {
    each("room_wakes_write_and_the_handed_over_data_wakes_flush", &WRITES, |mut fixture| {
        fixture.is_usable()
    });
}

/// Returns a version 2 stream whose window is used up. All accepted bytes were sent, so only credit
/// can wake a write.
fn without_credit(config: Config) -> Fixture {
    let mut fixture = Fixture::new(ReadCall, 2, config); // its transport takes everything
    fixture.call = WriteCall;
    while fixture.accepted < gmux::INITIAL_WINDOW as usize {
        fixture.accepted += (&fixture.stream).write(&[0; 5000]).unwrap();
    }
    assert_eq!(fixture.accepted, gmux::INITIAL_WINDOW as usize);
    fixture.peer.expect_data(3, fixture.accepted);
    fixture
}

#[test]
fn credit_wakes_write() {
    support::test("credit_wakes_write", || {
        let mut fixture = without_credit(Config::new());
        for (consumed, more) in [(2, 2), (6, 2)] {
            let call = fixture.block();
            // This says nothing new, or is older than the last update.
            fixture.peer.upd(3, 0, gmux::INITIAL_WINDOW);
            call.assert_asleep();
            fixture.peer.upd(3, consumed, gmux::INITIAL_WINDOW); // room for half of the write
            call.assert_asleep();
            fixture.peer.upd(3, consumed, gmux::INITIAL_WINDOW + more);
            assert_eq!(call.join().unwrap(), 4);
            fixture.peer.expect_data(3, 4);
            fixture.peer.upd(3, consumed, gmux::INITIAL_WINDOW);
        }
    });
}

// ---- the peer's FIN -----------------------------------------------------------------------------

#[test]
fn fin_wakes_reads_with_a_clean_end() {
    each("fin_wakes_reads_with_a_clean_end", &READS, |fixture| {
        let call = fixture.block();
        fixture.peer.fin(3);
        assert_eq!(call.join().unwrap(), 0);
    });
}

#[test]
fn fin_starts_the_stall_clock_of_a_write_without_credit() {
    support::test("fin_starts_the_stall_clock_of_a_write_without_credit", || {
        let fixture = without_credit(Config::new().half_close_stall(Some(SHORT)));
        let call = fixture.block();
        fixture.peer.fin(3);
        fails_with!(call, BrokenPipe, Error::PeerFinished(SHORT));
    });
}

#[test]
fn fin_does_not_wake_writes_that_wait_for_the_transport() {
    let stall = |config: Config| config.half_close_stall(Some(SHORT));
    each_with(
        "fin_does_not_wake_writes_that_wait_for_the_transport",
        &WRITES,
        stall,
        |mut fixture| {
            let call = fixture.block();
            fixture.peer.fin(3);
            // A read returns the end, so the FIN has arrived.
            assert_eq!((&fixture.stream).read(&mut [0]).unwrap(), 0);
            std::thread::sleep(SHORT * 2); // nothing happens, which is no event
            call.assert_asleep();
            fixture.satisfy(call);
        },
    );
}

// ---- deadlines and timeouts ---------------------------------------------------------------------

#[test]
fn a_deadline_ends_the_wait_and_takes_nothing() {
    each("a_deadline_ends_the_wait_and_takes_nothing", &ALL, |mut fixture| {
        fixture.set_deadline(Some(Instant::now() + SHORT));
        fails_with!(started(fixture.run()), TimedOut, Error::Timeout);
        // The deadline has also passed for later calls.
        fails_with!(started(fixture.run()), TimedOut, Error::Timeout);
        fixture.set_deadline(None);
        fixture.is_usable();
    });
}

#[test]
fn a_deadline_set_meanwhile_reaches_a_blocked_call() {
    each("a_deadline_set_meanwhile_reaches_a_blocked_call", &ALL, |mut fixture| {
        for ahead in [Duration::ZERO, SHORT] {
            let call = fixture.block();
            fixture.set_deadline(Some(Instant::now() + ahead));
            fails_with!(call, TimedOut, Error::Timeout);
            fixture.set_deadline(None);
        }
        let call = fixture.block();
        fixture.stream.set_deadline(Some(Instant::now())); // of both directions
        fails_with!(call, TimedOut, Error::Timeout);
        fixture.set_deadline(None);
        fixture.is_usable();
    });
}

#[test]
fn a_deadline_moved_nearer_reaches_a_blocked_call() {
    each("a_deadline_moved_nearer_reaches_a_blocked_call", &ALL, |mut fixture| {
        fixture.set_deadline(Some(Instant::now() + FAR));
        let call = fixture.block();
        fixture.set_deadline(Some(Instant::now() + SHORT));
        fails_with!(call, TimedOut, Error::Timeout);
        fixture.set_deadline(None);
        fixture.is_usable();
    });
}

/// Blocks a call that has a limit, and lifts the limit before it expires. Checks that the call
/// still waits when the old limit has passed.
fn lifted_in_time(
    fixture: &mut Fixture,
    limit: impl Fn(&Fixture, Duration),
    lift: impl Fn(&Fixture),
) {
    let mut ahead = Duration::from_millis(100);
    let call = loop {
        let set = Instant::now();
        limit(fixture, ahead);
        let call = started(fixture.run());
        // The call blocks in this time. If the machine was too slow, the next attempt has a limit
        // further away.
        std::thread::sleep(ahead / 4);
        lift(fixture);
        if set.elapsed() < ahead {
            // Waits until the old limit has passed.
            std::thread::sleep((set + ahead + SHORT).saturating_duration_since(Instant::now()));
            break call;
        }
        // The limit may have expired before it was lifted, so this attempt shows nothing.
        fixture.stream.set_deadline(Some(Instant::now()));
        let _ = call.join();
        fixture.stream.set_deadline(None);
        ahead *= 2;
    };
    call.assert_asleep();
    fixture.satisfy(call);
}

#[test]
fn a_deadline_moved_further_or_removed_doesnt_fire() {
    for further in [Some(FAR), None] {
        each("a_deadline_moved_further_or_removed_doesnt_fire", &ALL, |mut fixture| {
            lifted_in_time(
                &mut fixture,
                |fixture, ahead| fixture.set_deadline(Some(Instant::now() + ahead)),
                |fixture| fixture.set_deadline(further.map(|ahead| Instant::now() + ahead)),
            );
        });
    }
}

#[test]
fn the_other_directions_deadline_and_timeout_dont_matter() {
    each("the_other_directions_deadline_and_timeout_dont_matter", &ALL, |mut fixture| {
        fixture.set_other_deadline(Some(Instant::now()));
        let call = fixture.block();
        fixture.set_other_deadline(Some(Instant::now()));
        call.assert_asleep();
        fixture.satisfy(call);
    });
}

#[test]
fn a_timeout_ends_the_wait_and_takes_nothing() {
    each("a_timeout_ends_the_wait_and_takes_nothing", &ALL, |mut fixture| {
        fixture.set_timeout(Some(SHORT));
        fails_with!(started(fixture.run()), TimedOut, Error::Timeout);
        // each call has its own timeout
        fails_with!(started(fixture.run()), TimedOut, Error::Timeout);
        fixture.set_timeout(None);
        fixture.is_usable();
    });
}

#[test]
fn a_timeout_set_or_shortened_meanwhile_reaches_a_blocked_call() {
    for before in [None, Some(FAR)] {
        each("a_timeout_set_or_shortened_meanwhile_reaches_a_blocked_call", &ALL, |mut fixture| {
            fixture.set_timeout(before);
            // The earlier of the two limits applies.
            fixture.set_deadline(before.map(|ahead| Instant::now() + ahead));
            let call = fixture.block();
            fixture.set_timeout(Some(SHORT));
            fails_with!(call, TimedOut, Error::Timeout);
            fixture.set_timeout(None);
            fixture.is_usable();
        });
    }
}

#[test]
fn a_timeout_lengthened_meanwhile_doesnt_fire() {
    each("a_timeout_lengthened_meanwhile_doesnt_fire", &ALL, |mut fixture| {
        lifted_in_time(
            &mut fixture,
            |fixture, ahead| fixture.set_timeout(Some(ahead)),
            |fixture| fixture.set_timeout(Some(FAR)),
        );
    });
}

#[test]
fn a_no_data_timeout_ends_the_wait_and_the_stream_stays_usable() {
    let no_data = |config: Config| config.no_data_timeout(Some(SHORT));
    each_with(
        "a_no_data_timeout_ends_the_wait_and_the_stream_stays_usable",
        &ALL,
        no_data,
        |mut fixture| {
            fails_with!(started(fixture.run()), TimedOut, Error::NoData(SHORT));
            fails_with!(started(fixture.run()), TimedOut, Error::NoData(SHORT));
            fixture.stream.set_no_data_timeout(None).unwrap();
            fixture.is_usable();
        },
    );
}

#[test]
fn a_no_data_timeout_set_or_shortened_meanwhile_reaches_a_blocked_call() {
    for before in [None, Some(FAR)] {
        each(
            "a_no_data_timeout_set_or_shortened_meanwhile_reaches_a_blocked_call",
            &ALL,
            |mut fixture| {
                fixture.stream.set_no_data_timeout(before).unwrap();
                let call = fixture.block();
                fixture.stream.set_no_data_timeout(Some(SHORT)).unwrap();
                fails_with!(call, TimedOut, Error::NoData(SHORT));
                fixture.stream.set_no_data_timeout(None).unwrap();
                fixture.is_usable();
            },
        );
    }
}

#[test]
fn a_no_data_timeout_lengthened_meanwhile_doesnt_fire() {
    each("a_no_data_timeout_lengthened_meanwhile_doesnt_fire", &ALL, |mut fixture| {
        lifted_in_time(
            &mut fixture,
            |fixture, ahead| fixture.stream.set_no_data_timeout(Some(ahead)).unwrap(),
            |fixture| fixture.stream.set_no_data_timeout(Some(FAR)).unwrap(),
        );
    });
}

#[test]
fn non_blocking_mode_set_meanwhile_reaches_a_blocked_call() {
    each("non_blocking_mode_set_meanwhile_reaches_a_blocked_call", &ALL, |mut fixture| {
        let call = fixture.block();
        fixture.stream.set_nonblocking(true).unwrap();
        fails_with!(call, WouldBlock, Error::WouldBlock);
        fixture.stream.set_nonblocking(false).unwrap();
        fixture.is_usable();
    });
}

// ---- this end's other threads -------------------------------------------------------------------

#[test]
fn close_in_another_thread_wakes_every_call() {
    each("close_in_another_thread_wakes_every_call", &ALL, |fixture| {
        let call = fixture.block();
        fixture.stream.close().unwrap();
        fails_with!(call, NotConnected, Error::Closed);
    });
}

#[test]
fn shutdown_of_its_direction_wakes_a_call() {
    for both in [false, true] {
        each(
            "shutdown_of_its_direction_wakes_a_call",
            &[ReadCall, WriteTo, WriteCall],
            |fixture| {
                let call = fixture.block();
                match (fixture.call, both) {
                    (_, true) => fixture.stream.shutdown(Shutdown::Both).unwrap(),
                    (WriteCall, false) => fixture.stream.shutdown(Shutdown::Write).unwrap(),
                    (_, false) => fixture.stream.shutdown(Shutdown::Read).unwrap(),
                }
                match fixture.call {
                    WriteCall => fails_with!(call, BrokenPipe, Error::WriteShutdown),
                    _ => assert_eq!(call.join().unwrap(), 0),
                }
            },
        );
    }
}

#[test]
fn shutdown_of_the_other_direction_leaves_a_call_alone() {
    each("shutdown_of_the_other_direction_leaves_a_call_alone", &ALL, |mut fixture| {
        let call = fixture.block();
        let other = if READS.contains(&fixture.call) { Shutdown::Write } else { Shutdown::Read };
        fixture.stream.shutdown(other).unwrap();
        call.assert_asleep();
        fixture.satisfy(call);
    });
}

#[test]
fn a_flush_outlives_the_shutdown_of_its_direction() {
    each("a_flush_outlives_the_shutdown_of_its_direction", &[Flush], |mut fixture| {
        let call = fixture.block();
        fixture.stream.shutdown(Shutdown::Write).unwrap();
        call.assert_asleep();
        fixture.satisfy(call);
        fixture.expect_fin();
    });
}

#[test]
fn dropping_other_handles_leaves_a_call_alone() {
    each("dropping_other_handles_leaves_a_call_alone", &ALL, |fixture| {
        let call = fixture.block();
        let Fixture { peer, stream, session, call: kind, .. } = fixture;
        drop(session);
        drop(stream);
        call.assert_asleep();
        match kind {
            ReadCall | WriteTo => peer.fin(3),
            WriteCall | Flush => peer.open(),
        }
        assert_eq!(call.join().unwrap(), if kind == WriteCall { 4 } else { 0 });
    });
}

#[test]
fn session_close_wakes_every_call_before_it_is_done() {
    each("session_close_wakes_every_call_before_it_is_done", &ALL, |fixture| {
        let call = fixture.block();
        let session = fixture.session.clone();
        let closing = started(move || session.close());
        fails_with!(call, NotConnected, Error::Closed);
        if WRITES.contains(&fixture.call) {
            closing.assert_asleep();
        }
        fixture.peer.open();
        closing.join().unwrap();
    });
}

// ---- the session's end --------------------------------------------------------------------------

#[test]
fn a_failing_read_of_the_transport_wakes_every_call_with_its_own_kind() {
    each("a_failing_read_of_the_transport_wakes_every_call_with_its_own_kind", &ALL, |fixture| {
        let call = fixture.block();
        fixture.peer.fail_read(ErrorKind::ConnectionReset);
        fails_with!(
            call,
            ConnectionReset,
            Error::Io(source) if source.kind() == ErrorKind::ConnectionReset
        );
    });
}

#[test]
fn a_failing_write_of_the_transport_wakes_writes_at_once() {
    each("a_failing_write_of_the_transport_wakes_writes_at_once", &WRITES, |fixture| {
        let call = fixture.block();
        fixture.peer.fail_write(ErrorKind::HostUnreachable);
        fails_with!(call, HostUnreachable, Error::Io(_));
        // P46: data that the peer sent before can still be read. After it comes the first error.
        fixture.peer.psh(3, "late");
        let mut late = [0; 4];
        (&fixture.stream).read_exact(&mut late).unwrap();
        fixture.peer.end();
        let error = (&fixture.stream).read(&mut late).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable);
    });
}

#[test]
fn a_failing_write_of_the_transport_wakes_reads_when_the_input_ends_or_the_close_timeout_passes() {
    for ends in [true, false] {
        let name = "a_failing_write_of_the_transport_wakes_reads_when_the_input_ends_or_the_close_\
                    timeout_passes";
        for call in READS {
            support::test(name, || {
                let (peer, transport) = frame_peer(1);
                let close_timeout = if ends { FAR } else { SHORT };
                let session =
                    Session::server(transport, Config::new().close_timeout(close_timeout)).unwrap();
                peer.syn(3, "fixture");
                let fixture =
                    Fixture { stream: session.accept().unwrap(), peer, session, call, accepted: 0 };
                let call = fixture.block();
                fixture.peer.fail_write(ErrorKind::HostUnreachable);
                let writing = fixture.session.open("something to write").unwrap();
                if ends {
                    let flush = started(move || (&writing).flush());
                    // The flush fails, or has nothing to wait for, because nothing was written.
                    let _ = flush.join();
                    call.assert_asleep();
                    fixture.peer.end();
                }
                fails_with!(call, HostUnreachable, Error::Io(_));
            });
        }
    }
}

#[test]
fn the_end_of_the_input_wakes_every_call_with_an_error() {
    each("the_end_of_the_input_wakes_every_call_with_an_error", &ALL, |fixture| {
        let call = fixture.block();
        fixture.peer.end();
        fails_with!(
            call,
            ConnectionAborted,
            Error::ConnectionLost(lost) if lost.ours + lost.theirs > 0
        );
    });
}

#[test]
fn a_fault_of_the_peers_wakes_every_call() {
    each("a_fault_of_the_peers_wakes_every_call", &ALL, |fixture| {
        let call = fixture.block();
        fixture.peer.bytes([fixture.peer.version, 77, 0, 0, 0, 0, 0, 0]);
        fails_with!(call, InvalidData, Error::InvalidCommand(77));
    });
}

#[test]
fn an_impossible_update_fails_its_stream_alone_and_wakes_every_call_there() {
    for call in ALL {
        support::test(
            "an_impossible_update_fails_its_stream_alone_and_wakes_every_call_there",
            || {
                let fixture = Fixture::new(call, 2, Config::new());
                let call = fixture.block();
                fixture.peer.upd(3, 1_000_000, 65536);
                fails_with!(
                    call,
                    InvalidData,
                    Error::Consumed { stream: 3, consumed: 1_000_000, .. }
                );
                assert!(!fixture.session.is_closed());
            },
        );
    }
}

#[test]
fn a_stalled_streams_writes_wake_when_it_is_cut() {
    let config = |config: Config| config.max_receive_buffer(262_144).stall_timeout(Some(SHORT));
    each_with("a_stalled_streams_writes_wake_when_it_is_cut", &WRITES, config, |fixture| {
        let call = fixture.block();
        for _ in 0..6 {
            fixture.peer.psh(3, [7; 60_000]); // nobody reads
        }
        fails_with!(call, ConnectionAborted, Error::Stalled { after: SHORT, .. });
        assert!(!fixture.session.is_closed());
    });
}

#[test]
fn the_sessions_no_data_timeout_wakes_every_call() {
    each("the_sessions_no_data_timeout_wakes_every_call", &ALL, |fixture| {
        fixture.session.set_no_data_timeout(Some(FAR)).unwrap();
        let call = fixture.block();
        fixture.session.set_no_data_timeout(Some(SHORT)).unwrap();
        fails_with!(call, TimedOut, Error::NoData(SHORT));
        assert!(matches!(fixture.session.close_reason(), Some(Error::NoData(SHORT))));
    });
}

// ---- keepalive ----------------------------------------------------------------------------------

/// Keepalive timeout that leaves time to set up all fixtures on a busy machine.
const SILENCE: Duration = Duration::from_millis(600);

fn impatient(config: Config) -> Config {
    config.keepalive_interval(SILENCE / 3).keepalive_timeout(SILENCE)
}

/// P56: for `write` and `flush` the writer is stuck in the transport, so only the timer can notice
/// the silence.
#[test]
fn keepalive_expiry_wakes_every_call_also_with_the_writer_stuck_in_the_transport() {
    support::test(
        "keepalive_expiry_wakes_every_call_also_with_the_writer_stuck_in_the_transport",
        || {
            let mut fixtures = Vec::new();
            for version in [1, 2] {
                for call in ALL {
                    let fixture = Fixture::new(call, version, impatient(Config::new()));
                    // All calls are blocked at once, so that their timeouts run at the same time.
                    fixtures.push((started(fixture.run()), fixture));
                }
            }
            for (call, fixture) in fixtures {
                fails_with!(call, ConnectionAborted, Error::KeepaliveTimeout(SILENCE));
                // the timer's thread aborts on its own
                support::until(|| fixture.peer.is_aborted());
            }
        },
    );
}

/// P47: a transport that ignores `abort`, such as a pipe without an abort function, blocks the
/// session's own threads alone.
#[test]
fn keepalive_expiry_wakes_every_call_though_the_transport_stays_stuck() {
    support::test("keepalive_expiry_wakes_every_call_though_the_transport_stays_stuck", || {
        for call in WRITES {
            let fixture = Fixture::new(call, 1, impatient(Config::new()));
            fixture.peer.turn_deaf();
            fails_with!(
                started(fixture.run()),
                ConnectionAborted,
                Error::KeepaliveTimeout(SILENCE)
            );
            fails_with!(
                started(fixture.run()),
                ConnectionAborted,
                Error::KeepaliveTimeout(SILENCE)
            );
        }
    });
}

/// P47: the peer of a real socket reads nothing. The system's buffers are full, and the writer is
/// stuck in `writev`.
#[test]
fn keepalive_expiry_frees_a_writer_that_is_stuck_in_a_full_socket() {
    support::test("keepalive_expiry_frees_a_writer_that_is_stuck_in_a_full_socket", || {
        for version in [1, 2] {
            let (ours, peer) = support::tcp();
            let session = Session::client(ours, impatient(Config::new().version(version))).unwrap();
            // The streams send more than the system's buffers hold. On version 2 each of them sends
            // at most one window.
            let streams: Vec<_> = (0..64).map(|_| session.open("").unwrap()).collect();
            let calls: Vec<_> = streams
                .iter()
                .map(|stream| {
                    let stream = stream.clone();
                    started(move || -> io::Result<()> {
                        loop {
                            let _accepted = (&stream).write(&[0; 100_000])?;
                        }
                    })
                })
                .collect();
            let stream = streams[0].clone();
            let reading = started(move || (&stream).read(&mut [0]));
            let acceptor = session.clone();
            let accepting = started(move || acceptor.accept().map(drop));
            for call in calls {
                fails_with!(call, ConnectionAborted, Error::KeepaliveTimeout(SILENCE));
            }
            fails_with!(reading, ConnectionAborted, Error::KeepaliveTimeout(SILENCE));
            assert!(matches!(accepting.join(), Err(Error::KeepaliveTimeout(SILENCE))));
            let most = 64 * u64::from(gmux::INITIAL_WINDOW);
            assert!(
                version == 1 || session.stats().bytes_sent < most,
                "the socket took everything: nothing was stuck"
            );
            drop(peer);
        }
    });
}

#[test]
fn a_connection_reset_wakes_every_call() {
    for call in ALL {
        support::test("a_connection_reset_wakes_every_call", || {
            let (ours, mut peer) = support::tcp();
            let session = Session::client(ours, Config::new().keepalive_disabled(true)).unwrap();
            let stream = session.open("").unwrap();
            // The peer closes with unread input, so its system sends a reset.
            (&stream).write_all(b"unread").unwrap();
            (&stream).flush().unwrap();
            peer.read_exact(&mut [0; 8]).unwrap();
            let writer = stream.clone();
            let blocked = started(move || match call {
                ReadCall => (&stream).read(&mut [0]).map(drop),
                WriteTo => stream.write_to(&mut io::sink()).map(drop),
                WriteCall => (&stream).write_all(&vec![0; 64_000_000]),
                Flush => loop {
                    (&stream).write_all(&[0; 100_000])?;
                    (&stream).flush()?;
                },
            });
            blocked.assert_asleep();
            drop(peer);
            let error = blocked.join().unwrap_err();
            // The writer may meet the reset first. Its error is "broken pipe" if the reader took
            // the reset.
            assert!(
                matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                "{error:?}"
            );
            match Error::from(error) {
                Error::PartialWrite { source, .. } => assert!(matches!(*source, Error::Io(_))),
                error => assert!(matches!(error, Error::Io(_))),
            }
            drop(writer);
        });
    }
}

//! Tests of `copy_bidirectional`: half-close, counts, the first cause of a failure, idleness, and
//! the ends as seen by the peers after a failure.
//!
//! Promises: P103, P104, P105, P106, P107.
#![cfg(unix)]

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use gmux::copy::{Duplex, Fault, Side};
use gmux::wire::Command;
use gmux::{Config, CopyError, CopyOptions, Error, Session, Stream, copy_bidirectional};
use support::scripted::{Script, quiet};
use support::{Pattern, pair, tcp, test, versions};

/// The two sessions of a stream. A test keeps them alive.
type Under = Option<(Session, Session)>;

/// A connection: the near end, which is copied, and the far end. Both are `Duplex`.
struct Conn {
    near: Box<dyn Duplex + Send>,
    far: Box<dyn Duplex + Send>,
    _under: Under,
}

impl Conn {
    fn tcp() -> Self {
        let (near, far) = tcp();
        Self { near: Box::new(near), far: Box::new(far), _under: None }
    }

    fn unix() -> Self {
        let (near, far) = UnixStream::pair().unwrap();
        Self { near: Box::new(near), far: Box::new(far), _under: None }
    }

    fn stream(config: Config) -> Self {
        let (under, near, far) = stream(config);
        Self { near: Box::new(near), far: Box::new(far), _under: Some(under) }
    }
}

/// Opens a stream. Returns its sessions and its two ends.
fn stream(config: Config) -> ((Session, Session), Stream, Stream) {
    let (client, server) = pair(config);
    let far = client.open("copied").unwrap();
    let near = server.accept().unwrap();
    ((client, server), near, far)
}

fn v2() -> Config {
    Config::new().version(2)
}

fn write_all(end: &dyn Duplex, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let n = end.write(data)?;
        data = &data[n..];
    }
    Ok(())
}

fn read_to_end(end: &dyn Duplex) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buf = vec![0; 65536];
    loop {
        match end.read(&mut buf)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&buf[..n]),
        }
    }
}

fn read_exact(end: &dyn Duplex, n: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = vec![0; n];
    while all.len() < n {
        let room = n - all.len();
        let got = end.read(&mut buf[..room]).unwrap();
        assert!(got > 0, "an end after {} of {n} bytes", all.len());
        all.extend_from_slice(&buf[..got]);
    }
    all
}

/// Runs `work` for all items at the same time, because most of the work is waiting.
fn at_once<T: Send>(items: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for item in items {
            let work = &work;
            scope.spawn(move || work(item));
        }
    });
}

/// Returns pairs of connections of all kinds.
fn all_kinds() -> Vec<(&'static str, Conn, Conn)> {
    let mut all =
        vec![("tcp-unix", Conn::tcp(), Conn::unix()), ("unix-tcp", Conn::unix(), Conn::tcp())];
    for config in versions() {
        all.push(("stream-tcp", Conn::stream(config.clone()), Conn::tcp()));
        all.push(("unix-stream", Conn::unix(), Conn::stream(config.clone())));
        all.push(("stream-stream", Conn::stream(config.clone()), Conn::stream(config)));
    }
    all
}

#[test]
fn a_half_close_passes_through_and_the_other_direction_goes_on() {
    test("a_half_close_passes_through_and_the_other_direction_goes_on", || {
        for first_is_a in [true, false] {
            for (kind, a, b) in all_kinds() {
                let copy = thread::spawn(move || {
                    copy_bidirectional(&*a.near, &*b.near)
                        .map(|copied| (copied, a._under, b._under))
                });
                let (asks, answers) =
                    if first_is_a { (&*a.far, &*b.far) } else { (&*b.far, &*a.far) };
                write_all(asks, b"a question").unwrap();
                asks.finish_write().unwrap();
                assert_eq!(read_to_end(answers).unwrap(), b"a question", "{kind}");
                // The other direction stays open.
                for _ in 0..3 {
                    write_all(answers, b"part ").unwrap();
                    assert_eq!(read_exact(asks, 5), b"part ", "{kind}");
                }
                answers.finish_write().unwrap();
                assert_eq!(read_to_end(asks).unwrap(), b"", "{kind}");
                let (copied, ..) = copy.join().unwrap().unwrap();
                let counts = (copied.a_to_b, copied.b_to_a);
                assert_eq!(counts, if first_is_a { (10, 15) } else { (15, 10) }, "{kind}");
            }
        }
    });
}

#[test]
fn large_transfers_both_ways_at_once_lose_nothing() {
    test("large_transfers_both_ways_at_once_lose_nothing", || {
        const LEN: usize = 2 << 20;
        for (kind, a, b) in all_kinds() {
            thread::scope(|scope| {
                let copy = scope.spawn(|| copy_bidirectional(&*a.near, &*b.near));
                for (end, seed) in [(&*a.far, 1), (&*b.far, 2)] {
                    scope.spawn(move || {
                        write_all(end, &Pattern::bytes(seed, LEN)).unwrap();
                        end.finish_write().unwrap();
                    });
                }
                let there = scope.spawn(|| read_to_end(&*b.far).unwrap() == Pattern::bytes(1, LEN));
                assert!(read_to_end(&*a.far).unwrap() == Pattern::bytes(2, LEN), "{kind}: b to a");
                assert!(there.join().unwrap(), "{kind}: a to b");
                let copied = copy.join().unwrap().unwrap();
                assert_eq!((copied.a_to_b, copied.b_to_a), (LEN as u64, LEN as u64), "{kind}");
            });
        }
    });
}

// ---- failures -----------------------------------------------------------------------------------

/// A session dies midway. The data received before is delivered, and then the copy fails. The
/// socket's peer sees a reset or an end, as the socket's owner decides.
#[test]
fn a_session_that_dies_lets_the_sockets_peer_see_a_reset_if_the_owner_wants_it() {
    test("a_session_that_dies_lets_the_sockets_peer_see_a_reset_if_the_owner_wants_it", || {
        for linger in [true, false] {
            for config in versions() {
                let ((client, _server), near, far) = stream(config);
                let (socket, mut peer) = tcp();
                let sent = Pattern::bytes(3, 100_000);
                write_all(&far, &sent).unwrap();
                let copy = thread::spawn(move || (copy_bidirectional(&near, &socket), socket));
                let mut got = vec![0; sent.len()];
                peer.read_exact(&mut got).unwrap();
                client.close().unwrap(); // The stream is cut off, without an end.
                let (result, socket) = copy.join().unwrap();
                let error = result.unwrap_err();
                assert_eq!(error.fault, Fault::Read(Side::A), "{error}");
                assert_eq!((error.copied.a_to_b, error.copied.b_to_a), (100_000, 0));
                assert!(matches!(Error::from(error.source), Error::ConnectionLost(_)));
                assert!(got == sent);
                // The socket's peer hasn't seen an end or a reset yet.
                peer.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
                peer.set_read_timeout(None).unwrap();
                if linger {
                    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
                }
                drop(socket);
                match peer.read(&mut [0]) {
                    Ok(0) => assert!(!linger),
                    Err(error) => {
                        assert!(linger && error.kind() == ErrorKind::ConnectionReset, "{error}")
                    }
                    Ok(_) => panic!("data out of nowhere"),
                }
            }
        }
    });
}

/// The stream has buffered more than the socket's buffers hold. All of it arrives although the
/// session is dead.
#[test]
fn what_was_received_before_a_failure_is_delivered_first() {
    test("what_was_received_before_a_failure_is_delivered_first", || {
        let ((client, server), near, far) = stream(v2());
        let (socket, peer) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&socket).set_send_buffer_size(4096).unwrap();
        let sent = Pattern::bytes(4, 200_000);
        write_all(&far, &sent).unwrap();
        client.close().unwrap();
        let _ = server.closed().recv(); // The session has ended before the copy begins.
        let copy = thread::spawn(move || {
            copy_bidirectional(&near, &socket).map_err(|error| (error.fault, error.copied))
        });
        let got = read_to_end(&peer).unwrap();
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        let (fault, copied) = copy.join().unwrap().unwrap_err();
        assert_eq!((fault, copied.a_to_b), (Fault::Read(Side::A), 200_000));
    });
}

/// A user gives up a download. The socket's peer goes away while the stream sends.
#[test]
fn a_download_that_is_given_up_ends_the_stream() {
    test("a_download_that_is_given_up_ends_the_stream", || {
        for config in versions() {
            let (_under, near, far) =
                stream(config.half_close_stall(Some(Duration::from_millis(200))));
            let (socket, peer) = tcp();
            let copy = thread::spawn(move || copy_bidirectional(&socket, &near));
            let sender = thread::spawn({
                let far = far.clone();
                move || loop {
                    if let Err(error) = write_all(&far, &[7; 65536]) {
                        return Error::from(error);
                    }
                    if far.stats().peer_finished {
                        return Error::PeerClosed; // Version 1 shows it only by this.
                    }
                }
            });
            let mut some = vec![0; 300_000];
            (&peer).read_exact(&mut some).unwrap();
            drop(peer); // Unread data makes it a reset.
            let error = copy.join().unwrap().unwrap_err();
            // The direction that saw the reset first reports it.
            assert!(matches!(error.fault, Fault::Write(Side::A) | Fault::Read(Side::A)), "{error}");
            assert!(
                matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                "{error}"
            );
            assert!(error.copied.b_to_a >= 300_000);
            assert_eq!(read_to_end(&far).unwrap(), b""); // The wire has no other message for it.
            assert!(matches!(sender.join().unwrap(), Error::PeerFinished(_) | Error::PeerClosed));
        }
    });
}

/// The receiver gives up an upload. The stream's peer closes the stream while the socket sends.
#[test]
fn an_upload_that_is_given_up_ends_the_sockets_reading() {
    test("an_upload_that_is_given_up_ends_the_sockets_reading", || {
        let (_under, near, far) = stream(v2().half_close_stall(Some(Duration::from_millis(200))));
        let (socket, peer) = tcp();
        let copy = thread::spawn(move || copy_bidirectional(&near, &socket));
        let sender =
            thread::spawn(move || write_all(&peer, &vec![7; 64 << 20]).unwrap_err().kind());
        read_exact(&far, 300_000);
        drop(far);
        let error = copy.join().unwrap().unwrap_err();
        assert_eq!(
            (error.fault, error.kind()),
            (Fault::Write(Side::A), ErrorKind::BrokenPipe),
            "{error}"
        );
        assert!(matches!(Error::from(error.source), Error::PeerFinished(_)));
        // The socket is dropped with unread data, so its peer sees a reset.
        assert!(matches!(
            sender.join().unwrap(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ));
    });
}

/// A socket that records whether `finish_write` was called.
struct Watched<T>(T, AtomicBool);

impl<T: Duplex> Duplex for Watched<T> {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    fn finish_write(&self) -> io::Result<()> {
        self.1.store(true, SeqCst);
        self.0.finish_write()
    }
    fn abort(&self) {
        self.0.abort();
    }
}

/// A socket reports a reset only once. If a write gets it, a read at the same moment returns
/// `Ok(0)`. Such an end must not be passed on.
#[test]
fn a_reset_is_never_passed_on_as_an_end() {
    test("a_reset_is_never_passed_on_as_an_end", || {
        for round in 0..200 {
            let (a, a_far) = tcp();
            let (b, b_far) = tcp();
            let copy = thread::spawn(move || {
                let b = Watched(b, AtomicBool::new(false));
                (copy_bidirectional(&a, &b), b.1.into_inner())
            });
            let writer = thread::spawn(move || while (&b_far).write_all(&[7; 8192]).is_ok() {});
            read_exact(&a_far, 20_000);
            socket2::SockRef::from(&a_far).set_linger(Some(Duration::ZERO)).unwrap();
            drop(a_far);
            let (result, finished) = copy.join().unwrap();
            let error = result.unwrap_err();
            assert!(
                matches!(error.fault, Fault::Read(Side::A) | Fault::Write(Side::A)),
                "{round}: {error}"
            );
            assert!(!finished, "round {round}: {error}");
            writer.join().unwrap();
        }
    });
}

/// A Unix socket does the same. A write that waits for room gets the reset, and the read doesn't.
#[test]
fn a_unix_sockets_reset_is_never_passed_on_as_an_end() {
    test("a_unix_sockets_reset_is_never_passed_on_as_an_end", || {
        for round in 0..400 {
            let (a, a_far) = UnixStream::pair().unwrap();
            let (b, b_far) = UnixStream::pair().unwrap();
            let copy = thread::spawn(move || {
                let b = Watched(b, AtomicBool::new(false));
                (copy_bidirectional(&a, &b), b.1.into_inner())
            });
            let writer = thread::spawn(move || while (&b_far).write_all(&[7; 65536]).is_ok() {});
            read_exact(&a_far, 1);
            thread::sleep(Duration::from_millis(2)); // Mostly long enough for a write to block.
            write_all(&a_far, b"half").unwrap();
            drop(a_far); // Unread input makes it a reset.
            let (result, finished) = copy.join().unwrap();
            let error = result.unwrap_err();
            assert!(!finished, "round {round}: {error}");
            writer.join().unwrap();
        }
    });
}

/// The peer reads the last answer and goes away at once. It may do so. The end is a clean one, and
/// is passed on.
#[test]
fn a_peer_that_closes_after_the_last_answer_has_ended_in_order() {
    test("a_peer_that_closes_after_the_last_answer_has_ended_in_order", || {
        for round in 0..400 {
            let (a, mut a_far) = UnixStream::pair().unwrap();
            let (b, mut b_far) = UnixStream::pair().unwrap();
            let copy = thread::spawn(move || copy_bidirectional(&a, &b));
            let client = thread::spawn(move || {
                a_far.write_all(b"question").unwrap();
                a_far.read_exact(&mut [0; 6]).unwrap();
            });
            b_far.read_exact(&mut [0; 8]).unwrap();
            b_far.write_all(b"answer").unwrap();
            let end = b_far.read(&mut [0]).unwrap();
            assert_eq!(end, 0);
            drop(b_far);
            client.join().unwrap();
            let copied =
                copy.join().unwrap().unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!((copied.a_to_b, copied.b_to_a), (8, 6));
        }
    });
}

/// Ok means more than "accepted". If the session dies before the transport has the last bytes, the
/// copy fails.
#[test]
fn a_copy_is_done_when_the_transport_has_everything() {
    test("a_copy_is_done_when_the_transport_has_everything", || {
        let (script, session) = Script::client(quiet());
        let stream = session.open("").unwrap();
        script.frame(1, Command::Fin, stream.id(), &[]);
        let (socket, peer) = tcp();
        let copy = thread::spawn(move || copy_bidirectional(&socket, &stream));
        write_all(&peer, b"data").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&peer).unwrap(), b"");
        script.blocked(); // It accepts nothing.
        script.fail_read(ErrorKind::ConnectionReset);
        let error = copy.join().unwrap().unwrap_err();
        assert_eq!(
            (error.fault, error.kind(), error.copied.a_to_b),
            (Fault::Write(Side::B), ErrorKind::ConnectionReset, 4)
        );
    });
}

#[test]
fn a_stream_that_is_closed_in_another_thread_ends_the_copy_with_that() {
    test("a_stream_that_is_closed_in_another_thread_ends_the_copy_with_that", || {
        let (_under, near, _far) = stream(v2());
        let (socket, _peer) = tcp();
        let stop = near.clone();
        let copy = thread::spawn(move || copy_bidirectional(&near, &socket));
        thread::sleep(Duration::from_millis(20)); // The copy may be in any phase.
        stop.close().unwrap();
        let error = copy.join().unwrap().unwrap_err();
        assert_eq!(
            (error.fault, error.kind()),
            (Fault::Read(Side::A), ErrorKind::NotConnected),
            "{error}"
        );
        assert!(Error::from(error.source).is_closed());
    });
}

/// A write fails while the other direction is blocked in a write to a socket that nobody reads. The
/// copy waits only for a limited time for the received bytes to be written.
#[test]
fn a_failed_write_waits_for_a_peer_that_reads_nothing_for_a_bounded_time() {
    test("a_failed_write_waits_for_a_peer_that_reads_nothing_for_a_bounded_time", || {
        at_once([Conn::unix(), Conn::tcp()], |socket| {
            let (_under, near, far) = stream(v2());
            let stop = near.clone();
            let copy = thread::spawn(move || copy_bidirectional(&near, &*socket.near));
            far.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            while write_all(&far, &[7; 65536]).is_ok() {} // until all buffers are full
            stop.shutdown(Shutdown::Write).unwrap();
            write_all(&*socket.far, b"x").unwrap();
            let error = copy.join().unwrap().unwrap_err();
            assert_eq!(
                (error.fault, error.kind()),
                (Fault::Write(Side::A), ErrorKind::BrokenPipe),
                "{error}"
            );
            assert_eq!(error.copied.b_to_a, 0);
        });
    });
}

/// A failed read wakes two blocked calls: a write to the same connection, and a read of the other
/// one.
#[test]
fn a_failed_read_reaches_calls_that_are_blocked() {
    test("a_failed_read_reaches_calls_that_are_blocked", || {
        for blocked in [true, false] {
            let (_under, near, _far) = stream(v2());
            let (socket, peer) = tcp();
            near.set_read_deadline(Some(Instant::now() + Duration::from_millis(600)));
            let sender = blocked.then(|| {
                let peer = peer.try_clone().unwrap();
                thread::spawn(move || while write_all(&peer, &[7; 65536]).is_ok() {})
            });
            let error = copy_bidirectional(&near, &socket).unwrap_err();
            assert_eq!(
                (error.fault, error.kind()),
                (Fault::Read(Side::A), ErrorKind::TimedOut),
                "{error}"
            );
            drop(socket);
            drop(peer);
            if let Some(sender) = sender {
                sender.join().unwrap();
            }
        }
    });
}

// ---- time ---------------------------------------------------------------------------------------

const IDLE: Duration = Duration::from_millis(400);

fn idle() -> CopyOptions {
    CopyOptions::new().idle_timeout(Some(IDLE))
}

#[test]
fn silence_ends_the_copy_after_the_idle_timeout() {
    test("silence_ends_the_copy_after_the_idle_timeout", || {
        at_once(all_kinds(), |(kind, a, b)| {
            let began = Instant::now();
            let error = idle().run(&*a.near, &*b.near).unwrap_err();
            assert_eq!((error.fault, error.kind()), (Fault::Idle, ErrorKind::TimedOut), "{kind}");
            assert!(began.elapsed() >= IDLE);
            assert!(error.to_string().contains("no byte moved for 400ms"), "{error}");
        });
    });
}

#[test]
fn a_half_closed_silence_is_idle_too() {
    test("a_half_closed_silence_is_idle_too", || {
        let (_under, near, far) = stream(v2());
        let (socket, peer) = tcp();
        far.shutdown(Shutdown::Write).unwrap();
        let error = idle().run(&near, &socket).unwrap_err();
        assert_eq!(error.fault, Fault::Idle);
        // The peer had ended its side, and that end was passed on.
        assert_eq!(read_to_end(&peer).unwrap(), b"");
    });
}

#[test]
fn a_blocked_write_is_idle_too() {
    test("a_blocked_write_is_idle_too", || {
        for from_a in [true, false] {
            at_once(all_kinds(), |(kind, a, b)| {
                let far = if from_a { &*a.far } else { &*b.far };
                far.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
                thread::scope(|scope| {
                    let copy = scope.spawn(|| idle().run(&*a.near, &*b.near));
                    // until all buffers are full
                    while write_all(far, &[7; 65536]).is_ok() {}
                    let error = copy.join().unwrap().unwrap_err();
                    assert_eq!(error.fault, Fault::Idle, "{kind}: {error}");
                });
            });
        }
    });
}

/// After one direction has ended, silence of the other is limited. Before that, both may be silent
/// without limit.
#[test]
fn a_half_closed_copy_has_a_timeout_of_its_own() {
    test("a_half_closed_copy_has_a_timeout_of_its_own", || {
        let half = CopyOptions::new().half_close_timeout(Some(IDLE));
        at_once([half.clone(), half.idle_timeout(Some(IDLE * 100))], |options| {
            let (_under, near, far) = stream(v2());
            let (socket, peer) = tcp();
            thread::scope(|scope| {
                let copy = scope.spawn(|| options.run(&near, &socket));
                thread::sleep(IDLE * 2);
                write_all(&far, b"still there").unwrap();
                assert_eq!(read_exact(&peer, 11), b"still there");
                thread::sleep(IDLE);
                let began = Instant::now();
                far.shutdown(Shutdown::Write).unwrap();
                let error = copy.join().unwrap().unwrap_err();
                assert_eq!((error.fault, error.kind()), (Fault::Idle, ErrorKind::TimedOut));
                assert!(began.elapsed() >= IDLE, "{:?}", began.elapsed());
                assert!(error.to_string().contains("after a had ended"), "{error}");
            });
        });
    });
}

/// Peers without half-close. The first end ends both directions. Everything sent before it arrives,
/// and no reset destroys it.
#[test]
fn without_half_close_the_first_end_ends_both() {
    test("without_half_close_the_first_end_ends_both", || {
        let options = CopyOptions::new().half_close(false);
        for config in versions() {
            // The stream ends first. Its answer arrives whole, although the socket's peer reads
            // late and goes on sending.
            let (_under, near, far) = stream(config.clone());
            let (socket, peer) = tcp();
            socket2::SockRef::from(&peer).set_recv_buffer_size(50_000).unwrap();
            socket2::SockRef::from(&socket).set_send_buffer_size(1 << 20).unwrap();
            let copy = thread::spawn({
                let options = options.clone();
                move || options.run(&near, &socket)
            });
            let answer = Pattern::bytes(8, 400_000);
            write_all(&peer, b"question").unwrap();
            assert_eq!(read_exact(&far, 8), b"question");
            write_all(&far, &answer).unwrap();
            far.close().unwrap();
            for _ in 0..2 {
                // A copy that doesn't wait for the peer has dropped the socket after this time.
                thread::sleep(Duration::from_millis(100));
                write_all(&peer, b"and more").unwrap();
            }
            assert!(read_to_end(&peer).unwrap() == answer);
            socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer); // A reset after the end is no failure.
            assert_eq!(copy.join().unwrap().unwrap().a_to_b, 400_000);

            // The socket ends first. The stream's peer reads that end. The socket's peer reads an
            // end as soon as the socket is dropped.
            let (_under, near, far) = stream(config);
            let (socket, peer) = tcp();
            let copy = thread::spawn({
                let options = options.clone();
                move || options.run(&socket, &near)
            });
            write_all(&peer, b"question").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&far).unwrap(), b"question");
            drop(far); // The peer knows no half-close.
            assert_eq!(copy.join().unwrap().unwrap().a_to_b, 8);
            assert_eq!(read_to_end(&peer).unwrap(), b"");
        }
        // A peer that never ends its side is waited for only up to the limit.
        let (a, a_far) = tcp();
        let (b, b_far) = tcp();
        let copy = thread::spawn(move || options.run(&a, &b));
        drop(a_far);
        assert_eq!(read_to_end(&b_far).unwrap(), b"");
        copy.join().unwrap().unwrap();
        drop(b_far);
    });
}

/// An idle timeout so long that a loaded machine doesn't cause it.
const LONG_IDLE: Duration = Duration::from_millis(1500);

/// One direction moves a byte now and then. The other is silent all the time, or can't write.
#[test]
fn one_direction_that_moves_is_enough() {
    fn moves(blocked: bool) {
        let (_under, near, far) = stream(v2());
        let (socket, peer) = tcp();
        let copy = thread::spawn(move || {
            CopyOptions::new().idle_timeout(Some(LONG_IDLE)).run(&near, &socket)
        });
        if blocked {
            far.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            while write_all(&far, &[7; 65536]).is_ok() {}
        }
        let began = Instant::now();
        while began.elapsed() < LONG_IDLE * 2 {
            write_all(&peer, b"x").unwrap();
            assert_eq!(read_exact(&far, 1), b"x");
            thread::sleep(LONG_IDLE / 15);
        }
        assert!(!copy.is_finished());
        far.close().unwrap();
        drop(peer);
        let _ = copy.join().unwrap();
    }
    test("one_direction_that_moves_is_enough", || {
        let silent = thread::spawn(|| moves(false));
        moves(true);
        silent.join().unwrap();
    });
}

/// A reader is so slow that writing one block takes longer than the idle timeout. The other
/// direction is silent.
#[test]
fn a_slow_reader_is_not_idle() {
    test("a_slow_reader_is_not_idle", || {
        let (_under, near, far) = stream(v2());
        // This isn't TCP, because TCP with small buffers may pause for seconds by itself, until its
        // timer probes the window.
        let (socket, peer) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&socket).set_send_buffer_size(4096).unwrap();
        let sent = Pattern::bytes(5, 120_000);
        write_all(&far, &sent).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        let copy = thread::spawn(move || {
            CopyOptions::new().idle_timeout(Some(LONG_IDLE)).run(&near, &socket)
        });
        let mut got = Vec::new();
        let mut buf = [0; 1000];
        loop {
            match peer.read(&mut buf).unwrap() {
                0 => break,
                n => got.extend_from_slice(&buf[..n]),
            }
            thread::sleep(LONG_IDLE / 40);
        }
        assert!(got == sent, "{} of {}", got.len(), sent.len());
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(copy.join().unwrap().unwrap().a_to_b, 120_000);
    });
}

/// A deadline that was set before the copy holds, with and without an idle timeout. A call that has
/// reached it isn't repeated.
#[test]
fn a_deadline_of_the_streams_ends_the_copy() {
    test("a_deadline_of_the_streams_ends_the_copy", || {
        for options in
            [CopyOptions::new(), CopyOptions::new().idle_timeout(Some(Duration::from_secs(50)))]
        {
            let (_under, near, far) = stream(v2());
            let (socket, _peer) = tcp();
            near.set_read_deadline(Some(Instant::now() + Duration::from_millis(100)));
            let error = options.run(&near, &socket).unwrap_err();
            assert_eq!(
                (error.fault, error.kind()),
                (Fault::Read(Side::A), ErrorKind::TimedOut),
                "{error}"
            );
            assert!(Error::from(error.source).is_timeout());
            drop(far);
        }
        // The same holds for a no-data timeout and for a write deadline.
        let (_under, near, _far) = stream(v2());
        let (socket, _peer) = tcp();
        near.set_no_data_timeout(Some(Duration::from_millis(100))).unwrap();
        let error = copy_bidirectional(&near, &socket).unwrap_err();
        assert!(matches!(Error::from(error.source), Error::NoData(_)));

        let (_under, near, _far) = stream(v2());
        let (socket, peer) = tcp();
        near.set_write_deadline(Some(Instant::now()));
        let sender = thread::spawn(move || while (&peer).write_all(&[7; 65536]).is_ok() {});
        let error = copy_bidirectional(&socket, &near).unwrap_err();
        assert_eq!(
            (error.fault, error.kind()),
            (Fault::Write(Side::B), ErrorKind::TimedOut),
            "{error}"
        );
        drop(socket);
        sender.join().unwrap();
    });
}

#[test]
fn timeouts_and_modes_of_before_do_not_hold_and_timeouts_are_put_back() {
    test("timeouts_and_modes_of_before_do_not_hold_and_timeouts_are_put_back", || {
        let (_under, near, far) = stream(v2());
        let (socket, peer) = tcp();
        let short = Some(Duration::from_millis(4));
        let long = Some(Duration::from_secs(8));
        for result in [near.set_read_timeout(short), near.set_write_timeout(long)] {
            result.unwrap();
        }
        for result in [socket.set_read_timeout(short), socket.set_write_timeout(long)] {
            result.unwrap();
        }
        near.set_nonblocking(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        thread::scope(|scope| {
            let copy = scope.spawn(|| {
                CopyOptions::new().idle_timeout(Some(Duration::from_secs(50))).run(&near, &socket)
            });
            thread::sleep(Duration::from_millis(30)); // Longer than the timeout set before.
            write_all(&peer, b"late").unwrap();
            assert_eq!(read_exact(&far, 4), b"late");
            peer.shutdown(Shutdown::Write).unwrap();
            far.shutdown(Shutdown::Write).unwrap();
            copy.join().unwrap().unwrap();
        });
        assert_eq!((near.read_timeout().unwrap(), near.write_timeout().unwrap()), (short, long));
        assert_eq!(
            (socket.read_timeout().unwrap(), socket.write_timeout().unwrap()),
            (short, long)
        );
    });
}

#[test]
fn an_idle_timeout_of_zero_is_refused_and_nothing_has_changed() {
    test("an_idle_timeout_of_zero_is_refused_and_nothing_has_changed", || {
        let (a, a_far) = tcp();
        let (b, _b_far) = tcp();
        let error = CopyOptions::new().idle_timeout(Some(Duration::ZERO)).run(&a, &b).unwrap_err();
        assert_eq!((error.fault, error.kind()), (Fault::Start, ErrorKind::InvalidInput), "{error}");
        write_all(&a_far, b"x").unwrap();
        assert_eq!(read_exact(&a, 1), b"x");
        let error =
            CopyOptions::new().idle_timeout(Some(IDLE)).run(&a, &Double::default()).unwrap_err();
        assert_eq!((error.fault, error.kind()), (Fault::Start, ErrorKind::Unsupported), "{error}");
        assert_eq!(a.read_timeout().unwrap(), None);
    });
}

// ---- ends that have ended already ---------------------------------------------------------------

#[test]
fn ends_that_have_ended_already() {
    test("ends_that_have_ended_already", || {
        // Both peers have finished, and their data is still unread.
        let (_under, near, far) = stream(v2());
        let (socket, peer) = tcp();
        write_all(&far, b"from the stream").unwrap();
        write_all(&peer, b"from the socket").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let copied = copy_bidirectional(&near, &socket).unwrap();
        assert_eq!((copied.a_to_b, copied.b_to_a), (15, 15));
        assert_eq!(read_to_end(&far).unwrap(), b"from the socket");
        assert_eq!(read_to_end(&peer).unwrap(), b"from the stream");
        // A second copy finds nothing left.
        assert_eq!(copy_bidirectional(&near, &socket).unwrap().a_to_b, 0);

        // The socket's writing was shut down before, so the copy is only an upload.
        let (_under, near, far) = stream(v2());
        let (socket, peer) = tcp();
        socket.shutdown(Shutdown::Write).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        write_all(&peer, b"upload").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(copy_bidirectional(&socket, &near).unwrap().a_to_b, 6);
        assert_eq!(read_to_end(&far).unwrap(), b"upload");

        // A closed stream, a reset socket or a dead session is an error at once.
        let (_under, near, _far) = stream(v2());
        let (socket, _peer) = tcp();
        near.close().unwrap();
        assert_eq!(copy_bidirectional(&near, &socket).unwrap_err().kind(), ErrorKind::NotConnected);

        let (_under, near, far) = stream(v2());
        let (socket, peer) = tcp();
        write_all(&peer, b"last words").unwrap();
        socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        let error = copy_bidirectional(&socket, &near).unwrap_err();
        assert_eq!(
            (error.fault, error.kind()),
            (Fault::Read(Side::A), ErrorKind::ConnectionReset),
            "{error}"
        );
        assert_eq!(error.copied.a_to_b, 10);
        assert_eq!(read_to_end(&far).unwrap(), b"last words");
    });
}

#[test]
fn a_timeout_longer_than_the_clock_goes_on_for_ever() {
    /// A connection whose first write times out.
    struct Late(AtomicBool);

    impl Duplex for Late {
        fn read(&self, _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
        }
        fn write(&self, buf: &[u8]) -> io::Result<usize> {
            if self.0.swap(false, SeqCst) {
                thread::sleep(Duration::from_millis(500)); // Half of its time limit of a second.
                return Err(ErrorKind::WouldBlock.into());
            }
            Ok(buf.len())
        }
        fn finish_write(&self) -> io::Result<()> {
            Ok(())
        }
        fn abort(&self) {}
        fn set_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
        fn set_write_timeout(&self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
    }

    test("a_timeout_longer_than_the_clock_goes_on_for_ever", || {
        for options in [
            CopyOptions::new().idle_timeout(Some(Duration::MAX)),
            CopyOptions::new().half_close_timeout(Some(Duration::MAX)),
        ] {
            let (socket, peer) = tcp();
            write_all(&peer, b"late").unwrap();
            drop(peer);
            let copied = options.run(&socket, &Late(AtomicBool::new(true))).unwrap();
            assert_eq!(copied.a_to_b, 4);
        }
    });
}

/// Both ends come at the same moment. One of them is the first, and is passed on.
#[test]
fn without_half_close_one_of_two_ends_is_passed_on() {
    struct Ends<'a> {
        both: &'a Barrier,
        passed_on: &'a AtomicUsize,
    }

    impl Duplex for Ends<'_> {
        fn read(&self, _: &mut [u8]) -> io::Result<usize> {
            self.both.wait();
            Ok(0)
        }
        fn write(&self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn finish_write(&self) -> io::Result<()> {
            self.passed_on.fetch_add(1, SeqCst);
            Ok(())
        }
        fn abort(&self) {}
        fn set_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
    }

    test("without_half_close_one_of_two_ends_is_passed_on", || {
        for round in 0..300 {
            let both = Barrier::new(2);
            let passed_on = AtomicUsize::new(0);
            let ends = || Ends { both: &both, passed_on: &passed_on };
            CopyOptions::new().half_close(false).run(&ends(), &ends()).unwrap();
            assert!(passed_on.into_inner() > 0, "round {round}");
        }
    });
}

// ---- connections that the user implements -------------------------------------------------------

/// A scripted connection. Its reads return `input`, and then wait until they are stopped.
#[derive(Default)]
struct Double {
    input: Mutex<Vec<u8>>,
    written: Mutex<Vec<u8>>,
    stopped: (Mutex<bool>, std::sync::Condvar),
    reads: AtomicUsize,
    panics_reading: bool,
    panics_writing: bool,
    fails_writing: bool,
    timed: bool,
    aborts: AtomicUsize,
    finished: AtomicBool,
}

impl Double {
    fn stop(&self) {
        *self.stopped.0.lock().unwrap() = true;
        self.stopped.1.notify_all();
    }
}

impl Duplex for Double {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if self.reads.fetch_add(1, SeqCst) == 0 {
            return Err(ErrorKind::Interrupted.into());
        }
        let mut input = self.input.lock().unwrap();
        if !input.is_empty() {
            let n = input.len().min(buf.len()).min(7);
            buf[..n].copy_from_slice(&input[..n]);
            input.drain(..n);
            return Ok(n);
        }
        drop(input);
        assert!(!self.panics_reading, "of the user's own making");
        let mut stopped = self.stopped.0.lock().unwrap();
        while !*stopped {
            stopped = self.stopped.1.wait(stopped).unwrap();
        }
        Ok(0)
    }
    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        assert!(!self.panics_writing, "of the user's own making");
        if self.fails_writing {
            return Err(ErrorKind::HostUnreachable.into());
        }
        let n = buf.len().min(5);
        self.written.lock().unwrap().extend_from_slice(&buf[..n]);
        Ok(n)
    }
    fn finish_write(&self) -> io::Result<()> {
        self.finished.store(true, SeqCst);
        Ok(())
    }
    fn stop_reading(&self) {
        self.stop();
    }
    fn abort(&self) {
        self.aborts.fetch_add(1, SeqCst);
        self.stop();
    }
    fn set_write_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        if self.timed { Ok(()) } else { Err(ErrorKind::Unsupported.into()) }
    }
}

/// Writing to one connection fails. The data that its peer had sent is still delivered, and no end
/// is passed on.
#[test]
fn a_failed_write_loses_nothing_of_the_other_direction() {
    test("a_failed_write_loses_nothing_of_the_other_direction", || {
        let said = Pattern::bytes(6, 10_000);
        let broken =
            Double { input: Mutex::new(said.clone()), fails_writing: true, ..Double::default() };
        let other = Double { input: Mutex::new(b"x".to_vec()), timed: true, ..Double::default() };
        let error = copy_bidirectional(&other, &broken).unwrap_err();
        assert_eq!(
            (error.fault, error.kind()),
            (Fault::Write(Side::B), ErrorKind::HostUnreachable),
            "{error}"
        );
        assert_eq!((error.copied.a_to_b, error.copied.b_to_a), (0, 10_000));
        assert!(*other.written.lock().unwrap() == said);
        assert!(!other.finished.load(SeqCst) && !broken.finished.load(SeqCst));
        assert!(other.aborts.load(SeqCst) > 0 && broken.aborts.load(SeqCst) > 0);
    });
}

#[test]
fn a_panic_of_a_users_connection_ends_both_and_goes_on_in_the_caller() {
    test("a_panic_of_a_users_connection_ends_both_and_goes_on_in_the_caller", || {
        // The panic is in each direction, and so in each of the two threads.
        for (a_panics, reading) in [(true, true), (true, false), (false, true), (false, false)] {
            let double =
                Double { panics_reading: reading, panics_writing: !reading, ..Double::default() };
            let (socket, mut peer) = tcp();
            peer.write_all(b"something to write").unwrap();
            let panic = catch_unwind(AssertUnwindSafe(|| {
                if a_panics {
                    copy_bidirectional(&double, &socket)
                } else {
                    copy_bidirectional(&socket, &double)
                }
            }));
            let text = panic.unwrap_err();
            assert_eq!(text.downcast_ref::<&str>(), Some(&"of the user's own making"));
            assert!(double.aborts.load(SeqCst) > 0);
            // The read no longer waits.
            assert_eq!(Duplex::read(&socket, &mut [0; 64]).unwrap_or(0) % 18, 0);
        }
    });
}

#[test]
fn pointers_and_trait_objects_are_copied_as_what_they_point_to() {
    test("pointers_and_trait_objects_are_copied_as_what_they_point_to", || {
        let (a, a_far) = tcp();
        let (b, b_far) = tcp();
        a_far.shutdown(Shutdown::Write).unwrap();
        b_far.shutdown(Shutdown::Write).unwrap();
        let a: std::sync::Arc<TcpStream> = a.into();
        let b: Box<dyn Duplex> = Box::new(b);
        copy_bidirectional(&a, &b).unwrap();
        copy_bidirectional(&*a, &*b).unwrap();
        copy_bidirectional::<dyn Duplex, _>(&*b, &&*a).unwrap();
    });
}

#[test]
fn an_error_tells_what_failed_and_becomes_an_io_error() {
    test("an_error_tells_what_failed_and_becomes_an_io_error", || {
        let broken =
            Double { input: Mutex::new(b"123".to_vec()), fails_writing: true, ..Double::default() };
        let (socket, mut peer) = tcp();
        peer.write_all(b"something").unwrap();
        let error: CopyError = copy_bidirectional(&socket, &broken).unwrap_err();
        let text = error.to_string();
        let copied = error.copied.b_to_a;
        assert_eq!(
            text,
            format!(
                "copy: writing to b failed after 0 bytes from a to b and {copied} from b to a: \
                 host unreachable"
            )
        );
        let io = io::Error::from(error);
        assert_eq!((io.kind(), io.to_string()), (ErrorKind::HostUnreachable, text));
        assert!(io.get_ref().unwrap().downcast_ref::<CopyError>().is_some());
    });
}

// ---- many ---------------------------------------------------------------------------------------

/// Runs many forwards at once, each from a socket through a stream to a socket. The protocol over
/// them uses half-close.
#[test]
fn fifty_forwards_at_once() {
    test("fifty_forwards_at_once", || {
        const FORWARDS: usize = 50;
        let (client, server) = pair(v2());
        let begin = Barrier::new(FORWARDS);
        let client = &client;
        let server = &server;
        let begin = &begin;
        thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..FORWARDS {
                    let stream = server.accept().unwrap();
                    scope.spawn(move || {
                        let (target, service) = tcp();
                        thread::scope(|scope| {
                            scope.spawn(|| {
                                let text = read_to_end(&service).unwrap();
                                let answer: Vec<u8> = text.iter().rev().copied().collect();
                                write_all(&service, &answer).unwrap();
                                service.shutdown(Shutdown::Write).unwrap();
                            });
                            copy_bidirectional(&stream, &target).unwrap();
                        });
                    });
                }
            });
            for n in 0..FORWARDS {
                scope.spawn(move || {
                    let (local, user) = tcp();
                    let stream = client.open("service").unwrap();
                    begin.wait();
                    let question = Pattern::bytes(n as u64, 20_000 + n);
                    thread::scope(|scope| {
                        let copy = scope.spawn(|| copy_bidirectional(&local, &stream));
                        write_all(&user, &question).unwrap();
                        user.shutdown(Shutdown::Write).unwrap();
                        let answer = read_to_end(&user).unwrap();
                        assert!(answer.iter().rev().eq(&question));
                        let copied = copy.join().unwrap().unwrap();
                        assert_eq!(
                            (copied.a_to_b, copied.b_to_a),
                            (question.len() as u64, question.len() as u64)
                        );
                    });
                });
            }
        });
    });
}

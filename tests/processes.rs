//! Faults between processes: the other process is killed or stopped, the link is cut, nobody reads,
//! threads or descriptors run out. Afterwards this process holds no more than before.
//!
//! The other process is this executable, at its test `the_child`. Tests run one at a time, since
//! they measure the process. Where the system doesn't allow a test, the terminal shows it (`LEFT
//! OUT: …`). `GMUX_FULL` repeats tests that the small run makes once. There a test that is left out
//! fails.
//!
//! Promises: P9, P34, P35, P36, P39, P47, P56, P81.
#![cfg(target_os = "linux")]

#[path = "processes/child.rs"]
mod child;
#[path = "processes/host.rs"]
mod host;
mod support;
#[path = "processes/traffic.rs"]
mod traffic;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use gmux::{Config, Error, Session, Stream};
use host::{Guard, Peer, left_out, run, run_as};
use support::blocked::{Blocked, blocked, started};
use support::links::{Any, assert_lost};
use support::process_snapshot::{Counting, Margin, ProcessSnapshot, namesakes};
use support::test_for;
use traffic::Moved;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allowed growth of this process. It is the harness's own notes of the tests, a block or two, and
/// the pool's idle buffers. A session that is left behind is eight blocks or more, so one is seen
/// in the small run, too.
const MARGIN: Margin = Margin { resident: 48 << 20, blocks: 5, pooled: 24 << 20 };

static ALONE: Mutex<()> = Mutex::new(());

/// Runs a test of this file alone, since it measures the process.
fn alone(name: &str, body: impl FnOnce()) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    test_for(name, LIMIT, body);
}

/// Runs a scenario once to warm up, then `times` times. Compares the process's resources before and
/// after.
fn leaves_nothing(times: usize, mut scenario: impl FnMut(usize)) {
    let all = namesakes();
    scenario(0);
    let before = ProcessSnapshot::settled(all);
    for k in 1..=times {
        scenario(k);
    }
    let after = ProcessSnapshot::settled(all);
    println!("before: {before}\nafter:  {after}");
    after.assert_back_to(&before, MARGIN);
}

/// Asserts that the child reports the expected end of its session and has none of the session's
/// threads left. Then the child ends.
fn heard(mut peer: Peer, expected: impl FnOnce(&str) -> bool) {
    let ended = peer.ask("ended");
    assert!(expected(&ended), "{ended}");
    assert_eq!(peer.answer(), "0", "threads of the child's");
    peer.end();
}

/// Returns the number of repetitions in the small or in the full run.
fn times(small: usize, full: usize) -> usize {
    if std::env::var_os("GMUX_FULL").is_some() { full } else { small }
}

const LIMIT: Duration = Duration::from_secs(900);

#[test]
#[ignore = "the other process of these tests"]
fn the_child() {
    test_for("the_child", LIMIT, child::run);
}

// ---- this end of a conversation -----------------------------------------------------------------

/// This process's side: a session with a child as its peer, and data under way in both directions.
struct Talk {
    peer: Peer,
    session: Session,
    stream: Stream,
    moved: Arc<Moved>,
    write: Blocked<std::io::Error>,
    read: Option<Blocked<std::io::Error>>,
    accept: Blocked<Error>,
}

#[derive(Clone, Copy, PartialEq)]
enum Reads {
    Yes,
    No,
}

/// The settings of both ends.
struct Terms<'a> {
    /// The child's role.
    role: &'a str,
    version: &'a str,
    /// The keepalive timeout and the close timeout, in milliseconds.
    keepalive: &'a str,
    close: &'a str,
    reads: Reads,
}

const PATIENT: &str = "600000";

impl Talk {
    /// Begins over a connection from a child. `start` starts the child with the part it gets.
    fn begin(
        addr: &str,
        accept: impl FnOnce() -> Any,
        start: impl FnOnce(&str) -> Peer,
        terms: &Terms<'_>,
    ) -> Self {
        let Terms { role, version, keepalive, close, reads } = *terms;
        let deaf = if reads == Reads::No { "deaf-" } else { "" };
        let peer = start(&format!("talk {addr} {deaf}{role} {version} {keepalive} {close}"));
        let our_role = if role == "client" { "server" } else { "client" };
        let session = child::session(accept(), our_role, child::config(version, keepalive, close));
        Self::over(peer, session, reads)
    }

    /// Begins with a child that was told to talk.
    fn over(peer: Peer, session: Session, reads: Reads) -> Self {
        let stream = session.accept().unwrap();
        let moved = Arc::new(Moved::default());
        let ours = stream.clone();
        let count = Arc::clone(&moved);
        let write = started(move || traffic::send(&ours, &count));
        let read = (reads == Reads::Yes).then(|| {
            let ours = stream.clone();
            let count = Arc::clone(&moved);
            started(move || traffic::check(&ours, &count))
        });
        let acceptor = session.clone();
        let accept = blocked(move || acceptor.accept().unwrap_err());
        Self { peer, session, stream, moved, write, read, accept }
    }

    fn over_tcp(terms: &Terms<'_>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        Self::begin(&addr, || Any::new(listener.accept().unwrap().0), Peer::start, terms)
    }

    fn over_unix(terms: &Terms<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        Self::begin(
            path.to_str().unwrap(),
            || Any::new(listener.accept().unwrap().0),
            Peer::start,
            terms,
        )
    }

    /// Waits until data moves in both directions, at both ends.
    fn wait_until_moving(&mut self) {
        self.moved.wait_for(1 << 20);
        assert_eq!(self.peer.ask("moving"), "moving");
        self.moved.wait_for(1 << 20);
    }

    /// Asserts that every call fails, now and later, with an error that `check` accepts.
    fn assert_over(self, check: impl Fn(Error)) -> Peer {
        check(self.write.join().into());
        if let Some(read) = self.read {
            check(read.join().into());
        }
        check(self.accept.join());
        assert!(self.session.closed().recv().is_err());
        check(self.session.close_reason().unwrap());
        check(self.session.open("late").unwrap_err());
        support::until(|| self.session.num_streams() == 0); // A close goes on in the background.
        drop(self.stream);
        drop(self.session);
        self.peer
    }
}

fn lost(error: Error) {
    assert_lost(error.into());
}

fn silent(error: Error) {
    assert!(matches!(error, Error::KeepaliveTimeout(_)), "{error:?}");
}

/// Waits until this process's threads for the session have ended.
fn threads_end() {
    support::until(|| support::gmux_threads().is_empty());
}

// ---- a process dies -----------------------------------------------------------------------------

#[test]
fn a_peer_killed_in_mid_transfer_is_an_error_everywhere_and_leaves_nothing() {
    alone("a_peer_killed_in_mid_transfer_is_an_error_everywhere_and_leaves_nothing", || {
        leaves_nothing(times(8, 200), |k| {
            let terms = Terms {
                role: if k & 1 == 0 { "client" } else { "server" },
                version: if k & 2 == 0 { "1" } else { "2" },
                keepalive: PATIENT,
                close: PATIENT,
                reads: Reads::Yes,
            };
            let mut talk =
                if k & 4 == 0 { Talk::over_tcp(&terms) } else { Talk::over_unix(&terms) };
            talk.wait_until_moving();
            // The calls must fail because of the system's report of the connection. Keepalive would
            // take ten minutes.
            talk.peer.signal("KILL");
            talk.assert_over(lost).kill();
        });
    });
}

// ---- a process stands still ---------------------------------------------------------------------

#[test]
fn a_stopped_peer_runs_into_the_keepalive_and_goes_on_to_an_error() {
    alone("a_stopped_peer_runs_into_the_keepalive_and_goes_on_to_an_error", || {
        leaves_nothing(times(1, 10), |k| {
            let version = if k & 1 == 0 { "1" } else { "2" };
            let terms = Terms {
                role: "client",
                version,
                keepalive: "1200",
                close: PATIENT,
                reads: Reads::Yes,
            };
            let mut talk = Talk::over_tcp(&terms);
            talk.wait_until_moving();
            let stopped = talk.peer.stop();
            let peer = talk.assert_over(silent);
            threads_end(); // The peer is still there, and silent.
            // The child continues and finds out. Its own clock went on, so it may find first that
            // nothing came for too long.
            drop(stopped);
            heard(peer, |ended| {
                let known = ["Io(", "ConnectionLost", "KeepaliveTimeout"]
                    .iter()
                    .any(|known| ended.contains(known));
                known && !ended.contains("PeerClosed")
            });
        });
    });
}

/// A process is stopped for twice its keepalive timeout, while its peer sends all the time. The
/// bytes that came meanwhile count as life.
#[test]
fn a_process_that_was_stopped_hears_what_came_meanwhile_before_it_judges_its_peer() {
    alone("a_process_that_was_stopped_hears_what_came_meanwhile_before_it_judges_its_peer", || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Peer::start(&format!(
            "talk {} client 1 1000 {PATIENT}",
            listener.local_addr().unwrap()
        ));
        let transport = Any::new(listener.accept().unwrap().0);
        let session = child::session(transport, "server", child::config("1", PATIENT, PATIENT));
        let mut talk = Talk::over(peer, session, Reads::Yes);
        talk.wait_until_moving();
        for _ in 0..2 {
            let stopped = talk.peer.stop();
            thread::sleep(Duration::from_secs(2)); // This is the tested time.
            drop(stopped);
            // The verdict comes at once, or an interval (100 ms) later.
            assert!(
                talk.session
                    .closed()
                    .recv_timeout(Duration::from_millis(500))
                    .unwrap_err()
                    .is_timeout()
            );
            talk.wait_until_moving();
        }
        talk.peer.signal("KILL");
        talk.assert_over(lost).kill();
    });
}

// ---- the link is cut ----------------------------------------------------------------------------

/// A network namespace, which a link joins to this one.
struct Net {
    name: String,
    link: String,
    ours: String,
    /// Removes the namespace and the link.
    _guard: Guard,
}

impl Net {
    fn new() -> Result<Self, String> {
        let number = process::id();
        let name = format!("gmux-{number}");
        let link = format!("gm{number}");
        let third = number / 64 % 256;
        let fourth = number % 64 * 4;
        let [ours, theirs] = [1, 2].map(|host| format!("198.18.{third}.{}", fourth + host));
        run("ip", &["netns", "add", &name])?;
        let guard = Guard::new(&format!("ip link del {link}; ip netns del {name}"));
        let net = Self { name, link, ours, _guard: guard };
        let name = &*net.name;
        let link = &*net.link;
        let far = &*format!("{}b", net.link);
        run("ip", &["link", "add", link, "type", "veth", "peer", "name", far, "netns", name])?;
        run("ip", &["addr", "add", &format!("{}/30", net.ours), "dev", link])?;
        run("ip", &["link", "set", link, "up"])?;
        run("ip", &["-n", name, "addr", "add", &format!("{theirs}/30"), "dev", far])?;
        run("ip", &["-n", name, "link", "set", far, "up"])?;
        Ok(net)
    }

    fn cut(&self) {
        run("ip", &["link", "set", &self.link, "down"]).unwrap();
    }
}

#[test]
fn a_link_cut_under_a_blocked_writer_ends_both_sessions_by_keepalive() {
    const NAME: &str = "a_link_cut_under_a_blocked_writer_ends_both_sessions_by_keepalive";
    alone(NAME, || {
        if let Err(why) = Net::new() {
            return left_out(NAME, &format!("no network namespace: {why}"));
        }
        leaves_nothing(times(1, 10), |k| {
            let net = Net::new().unwrap();
            let listener = TcpListener::bind((&*net.ours, 0)).unwrap();
            let addr = listener.local_addr().unwrap().to_string();
            let version = if k & 1 == 0 { "1" } else { "2" };
            // Keepalive takes long enough for a loaded machine to see the writer asleep before its
            // call fails.
            let terms = Terms {
                role: "client",
                version,
                keepalive: "5000",
                close: PATIENT,
                reads: Reads::Yes,
            };
            let start = |part: &str| Peer::start_in(&["ip", "netns", "exec", &net.name], part);
            let mut talk =
                Talk::begin(&addr, || Any::new(listener.accept().unwrap().0), start, &terms);
            talk.wait_until_moving();
            net.cut();
            talk.write.assert_asleep();
            let peer = talk.assert_over(silent);
            heard(peer, |ended| ended.starts_with("Some(KeepaliveTimeout"));
        });
    });
}

// ---- unread data --------------------------------------------------------------------------------

/// Fills both directions, to the last buffer of the system, so that both ends' writers are blocked.
fn full_both_ways(close: &str) -> Talk {
    let mut talk = Talk::over_tcp(&Terms {
        role: "client",
        version: "1",
        keepalive: PATIENT,
        close,
        reads: Reads::No,
    });
    talk.moved.wait_until_stuck(&talk.session);
    assert_eq!(talk.peer.ask("full"), "full");
    talk.moved.wait_until_stuck(&talk.session);
    talk.write.assert_asleep();
    talk
}

#[test]
fn a_close_with_both_directions_full_is_bounded_and_says_what_was_lost() {
    alone("a_close_with_both_directions_full_is_bounded_and_says_what_was_lost", || {
        leaves_nothing(times(1, 10), |_| {
            let talk = full_both_ways("300");
            assert!(talk.session.stats().receive_pauses > 0);
            // The child still doesn't read, so the accepted data can't leave.
            let closed = talk.session.close();
            assert!(
                matches!(closed, Err(Error::CloseIncomplete { unsent: 1.., .. })),
                "{closed:?}"
            );
            let peer =
                talk.assert_over(|error| assert!(matches!(error, Error::Closed), "{error:?}"));
            threads_end();
            heard(peer, |ended| ended.contains("Io(") || ended.contains("ConnectionLost"));
        });
    });
}

#[test]
fn the_last_drop_with_both_directions_full_is_bounded() {
    alone("the_last_drop_with_both_directions_full_is_bounded", || {
        leaves_nothing(times(1, 10), |_| {
            let Talk { peer, session, stream, write, accept, .. } = full_both_ways("300");
            // The blocked calls hold handles. They are told to stop first, except the one that
            // drops the last handle.
            session.set_deadline(Some(std::time::Instant::now()));
            assert!(matches!(accept.join(), Error::Timeout));
            stream.set_write_deadline(Some(std::time::Instant::now()));
            assert_eq!(write.join().kind(), ErrorKind::TimedOut);
            drop(session);
            drop(stream); // The drop waits as `close` does.
            threads_end();
            heard(peer, |ended| ended.contains("Io(") || ended.contains("ConnectionLost"));
        });
    });
}

/// A process writes, finishes, closes, and exits as soon as `close` returns Ok. It has delivered
/// everything, even to a peer that reads slowly and sends all the while: data, pings, and on
/// version 2 window updates.
#[test]
fn a_process_that_exits_after_its_close_has_delivered_everything() {
    alone("a_process_that_exits_after_its_close_has_delivered_everything", || {
        let folder = tempfile::tempdir().unwrap();
        for (version, unix) in [("1", false), ("2", false), ("1", true), ("2", true)] {
            for round in 0..times(1, 20) {
                let path = folder.path().join(format!("{version}-{round}"));
                let (mut child, transport) = if unix {
                    let listener = UnixListener::bind(&path).unwrap();
                    let child = Peer::start(&format!("upload {} {version}", path.display()));
                    (child, Any::new(listener.accept().unwrap().0))
                } else {
                    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                    let child = Peer::start(&format!(
                        "upload {} {version}",
                        listener.local_addr().unwrap()
                    ));
                    (child, Any::new(listener.accept().unwrap().0))
                };
                let config = Config::new().version(version.parse().unwrap());
                // The budget is small, so that most of the data waits in the system's buffers.
                let config =
                    config.keepalive_interval(Duration::from_millis(5)).max_receive_buffer(262_144);
                let session = Session::server(transport, config).unwrap();
                let talking = thread::spawn({
                    let stream = session.open("talks all the time").unwrap();
                    move || while (&stream).write_all(&[7; 1000]).is_ok() {}
                });
                let streams: Vec<Stream> =
                    (0..child::UPLOADS).map(|_| session.accept().unwrap()).collect();
                thread::scope(|scope| {
                    for mut stream in streams {
                        scope.spawn(move || {
                            let mut got = Vec::new();
                            let mut piece = vec![0; 16 << 10];
                            loop {
                                match stream.read(&mut piece) {
                                    Ok(0) => break,
                                    Ok(n) => got.extend_from_slice(&piece[..n]),
                                    Err(error) => panic!(
                                        "version {version}, unix {unix}, round {round}, after {} \
                                         bytes: {error}",
                                        got.len()
                                    ),
                                }
                                // The reader is slow on purpose.
                                thread::sleep(Duration::from_millis(20));
                            }
                            let i = stream.name().strip_prefix("upload ").unwrap().parse().unwrap();
                            assert!(got == support::Pattern::bytes(i, child::UPLOAD));
                        });
                    }
                });
                assert_eq!(child.answer(), "Ok");
                child.end();
                talking.join().unwrap();
            }
        }
    });
}

/// Each end discards the other's data, so both can send everything. The end that is done first
/// tells the other that nobody reads any more. At least one end gets Ok. The other gets Ok, or the
/// number of bytes that were too late.
#[test]
fn of_two_closes_at_once_with_both_directions_full_one_knows_what_was_too_late() {
    alone("of_two_closes_at_once_with_both_directions_full_one_knows_what_was_too_late", || {
        leaves_nothing(times(1, 20), |_| {
            // Version 1, since there neither end can finish before the other has begun. With
            // windows, the accepted data would have been sent before.
            let mut talk = full_both_ways(PATIENT);
            // Each end discards the data that arrives, so that the other's accepted data can leave.
            talk.peer.tell("close");
            let ours = talk.session.close();
            let theirs = talk.peer.answer();
            let known = match &ours {
                Ok(()) => {
                    theirs == "Ok"
                        || theirs.contains("CloseIncomplete") && theirs.contains("peer_ended: true")
                }
                Err(Error::CloseIncomplete { peer_ended: true, .. }) => theirs == "Ok",
                Err(_) => false,
            };
            assert!(known, "{ours:?}, {theirs}");
            let peer =
                talk.assert_over(|error| assert!(matches!(error, Error::Closed), "{error:?}"));
            heard(peer, |ended| ended.starts_with("Some(Closed)"));
        });
    });
}

// ---- threads or descriptors run out -------------------------------------------------------------

/// A child that makes sessions while something is scarce. The connections are in the order in which
/// it uses them.
struct Crowd {
    peer: Peer,
    /// The user that the child runs as, if it is another one.
    user: Option<u32>,
    ours: std::vec::IntoIter<TcpStream>,
    /// This process's sessions, which echo.
    echoing: Vec<thread::JoinHandle<()>>,
    /// Accepts the connections that come later.
    _listener: TcpListener,
}

impl Crowd {
    fn start(user: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let part = format!("crowd {}", listener.local_addr().unwrap());
        let peer = user.map_or_else(|| Peer::start(&part), |user| Peer::start_as(user, &part));
        let ours: Vec<TcpStream> = (0..9).map(|_| listener.accept().unwrap().0).collect();
        Self { peer, user, ours: ours.into_iter(), echoing: Vec::new(), _listener: listener }
    }

    /// Sets a soft limit of the child. The child's user may do that. Root may not on every system.
    fn limit(&self, what: &str, to: usize) {
        run_as(
            self.user,
            "prlimit",
            &["--pid", &self.peer.id().to_string(), &format!("--{what}={to}:")],
        )
        .unwrap();
    }

    /// Returns the number of the child's threads, and its snapshot.
    fn count(&mut self) -> (usize, String) {
        let text = self.peer.ask("count");
        let (threads, snapshot) = text.split_once(' ').unwrap();
        (threads.parse().unwrap(), snapshot.to_owned())
    }

    /// Asserts that the child can make a session, and that the session works.
    fn succeeds(&mut self) {
        let ours = self.ours.next().unwrap();
        self.echoing.push(thread::spawn(move || {
            let session = Session::server(ours, Config::new()).unwrap();
            let mut echoes = Vec::new();
            for stream in session.incoming() {
                let stream = stream.unwrap();
                echoes.push(thread::spawn(move || {
                    let _ = child::echo(stream);
                }));
            }
            echoes.into_iter().for_each(|echo| echo.join().unwrap());
        }));
        assert_eq!(self.peer.ask("try"), "Ok");
    }

    /// Asserts that the child can't make a session, reports why, and that the connection ends.
    fn fails(&mut self) {
        let mut ours = self.ours.next().unwrap();
        let text = self.peer.ask("try");
        assert!(
            text.contains("thread") && text.contains("Resource temporarily unavailable"),
            "{text}"
        );
        assert!(!text.starts_with("WouldBlock") && !text.starts_with("Interrupted"), "{text}");
        let mut rest = Vec::new();
        match ours.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }

    fn end(mut self) {
        assert_eq!(self.peer.ask("close"), "closed");
        self.echoing.drain(..).for_each(|echoing| echoing.join().unwrap());
        self.peer.end();
    }
}

/// A limit above the child's threads, and below the systems' own limits.
const PLENTY: usize = 1000;

/// Returns the descriptors and blocks in the text of a snapshot.
fn descriptors_and_blocks(snapshot: &str) -> (i64, i64) {
    let number = |what: &str| {
        let words: Vec<&str> = snapshot.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let at = words.iter().position(|word| *word == what).unwrap();
        words[at - 1].parse().unwrap()
    };
    (number("descriptors"), number("allocations"))
}

#[test]
fn without_threads_no_session_starts_nothing_stays_behind_and_later_one_does() {
    const NAME: &str = "without_threads_no_session_starts_nothing_stays_behind_and_later_one_does";
    alone(NAME, || {
        // The limit counts all threads of a user, and doesn't bind root. So the child runs as a
        // user without other threads.
        if let Err(why) = run("sh", &["-c", "test $(id -u) = 0 || { echo not root >&2; exit 1; }"])
        {
            return left_out(NAME, &format!("the child needs a user of its own: {why}"));
        }
        if let Err(why) = run("prlimit", &["--version"]) {
            return left_out(NAME, &why);
        }
        let mut crowd = Crowd::start(Some(60_000 + process::id() % 5000));
        // The first session is made in full, so that everything that is made once exists.
        crowd.succeeds();
        assert_eq!(crowd.peer.ask("echo"), "1");
        assert_eq!(crowd.peer.ask("close"), "closed");
        crowd.peer.ask("settle");

        // There is room for no thread, then for one (the timer's), then for two (the reader's,
        // too).
        let (threads, snapshot) = crowd.count();
        let before = descriptors_and_blocks(&snapshot);
        for (k, more) in [0, 1, 2].into_iter().enumerate() {
            crowd.limit("nproc", threads + more);
            crowd.fails();
            let after = descriptors_and_blocks(&crowd.peer.ask("settle"));
            println!("{more} threads: {before:?}, then {after:?} descriptors and allocations");
            assert_eq!(
                after.0,
                before.0 - k as i64 - 1,
                "the connection, and no other descriptor, is gone"
            );
            assert!(after.1 <= before.1 + 10, "{after:?} after {before:?}");
        }

        // The same beside a session. Its threads must not be hurt.
        crowd.limit("nproc", PLENTY);
        crowd.succeeds();
        assert_eq!(crowd.peer.ask("echo"), "1");
        let (threads, _) = crowd.count();
        for more in [0, 1] {
            crowd.limit("nproc", threads + more);
            crowd.fails();
            assert_eq!(crowd.peer.ask("echo"), "1");
            support::until(|| crowd.count().0 == threads);
        }

        // When there is room again, a session can be made.
        crowd.limit("nproc", PLENTY);
        crowd.succeeds();
        assert_eq!(crowd.peer.ask("echo"), "2");
        crowd.end();
    });
}

#[test]
fn a_session_needs_no_descriptor_but_its_transports() {
    const NAME: &str = "a_session_needs_no_descriptor_but_its_transports";
    alone(NAME, || {
        if let Err(why) = run("prlimit", &["--version"]) {
            return left_out(NAME, &why);
        }
        let mut crowd = Crowd::start(None);
        crowd.succeeds();
        assert_eq!(crowd.peer.ask("echo"), "1");
        let before = descriptors_and_blocks(&crowd.count().1).0;
        crowd.limit("nofile", 64);
        let hoarded = crowd.peer.ask("hoard");
        assert!(hoarded.contains("Too many open files"), "{hoarded}");
        // A call that needs a descriptor reports that. A session over an existing connection needs
        // none, and works.
        let refused = crowd.peer.ask("connect");
        assert!(refused.contains("Too many open files"), "{refused}");
        crowd.succeeds();
        assert_eq!(crowd.peer.ask("echo"), "2");
        assert_eq!(crowd.peer.ask("close"), "closed");
        assert_eq!(crowd.peer.ask("unhoard"), "free");
        let after = descriptors_and_blocks(&crowd.peer.ask("settle")).0;
        assert_eq!(
            after,
            before - 2,
            "both sessions' connections, and no other descriptor, are gone"
        );
        crowd.end();
    });
}

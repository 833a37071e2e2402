//! Closing a session: what `close` returns, and when. The file `promises_closing_sessions.rs` has
//! the other effects of a close, and `processes.rs` closes sessions between real processes.
//!
//! Promises: P34, P36, P37, P38, P39, P41, P42, P46, P93.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gmux::transport::{Control, Halves, Shared, Transport};
use gmux::wire::{Command, Frame};
use gmux::{Config, Error, Session, Stream};
use support::raw::{End, against_client};
use support::scripted::{FAR, Script, asleep, blocked, data, quiet};
use support::{close_beside_a_peer_that_stays, pair, tcp, test, until, versions};

/// Whether a close failed with `peer_ended` and this number of unsent bytes.
fn peer_ended_before(closed: &Result<(), Error>, bytes: u64) -> bool {
    matches!(
        closed,
        Err(Error::CloseIncomplete { unsent, peer_ended: true, .. }) if *unsent == bytes
    )
}

/// P36: if the peer ends its side before this end has handed everything over, `close` is an error,
/// because the peer can't have read the rest.
#[test]
fn a_peer_that_ends_before_all_was_handed_over_makes_the_close_an_error() {
    test("a_peer_that_ends_before_all_was_handed_over_makes_the_close_an_error", || {
        let (script, session) = Script::client(quiet().close_timeout(FAR));
        script.piecewise(3);
        let mut stream = session.open("").unwrap();
        stream.write_all(b"too late").unwrap();
        script.blocked();
        let close = blocked("late-close", {
            let session = session.clone();
            move || session.close()
        });
        script.eof();
        until(|| !script.wait(|state| Some(state.reading)));
        asleep("late-close");
        script.allow_all();
        let closed = close.join().unwrap();
        assert!(peer_ended_before(&closed, 8), "{closed:?}");
        assert!(peer_ended_before(&session.close(), 8), "a second close says the same");
        let text = closed.unwrap_err();
        assert_eq!(
            (text.kind(), text.to_string().contains("8 accepted bytes")),
            (ErrorKind::ConnectionAborted, true)
        );
    });
}

/// P42: the peer ends its side before the close begins. The later close counts the bytes that the
/// writer thread holds and those that are still queued.
#[test]
fn a_later_close_counts_bytes_that_were_not_handed_over_before_the_peers_end() {
    test("a_later_close_counts_bytes_that_were_not_handed_over_before_the_peers_end", || {
        for queued in [0, 5] {
            let (script, session) = Script::client(quiet().close_timeout(FAR));
            script.piecewise(3);
            let mut stream = session.open("").unwrap();
            stream.write_all(b"with the writer").unwrap();
            script.blocked();
            stream.write_all(&vec![7; queued]).unwrap();
            script.frame(1, Command::Fin, 3, &[]); // so that the peer's end cuts no stream off
            script.eof();
            assert!(session.closed().recv().is_err());
            script.allow_all();
            let closed = session.close();
            assert!(peer_ended_before(&closed, 15 + queued as u64), "{closed:?}");
        }
    });
}

/// P42: the peer ends its side while a write is blocked in the transport, and then that write
/// fails. The failure is no error of the close, but the bytes that the write held are counted.
#[test]
fn the_bytes_of_a_write_that_fails_after_the_peers_end_are_counted() {
    test("the_bytes_of_a_write_that_fails_after_the_peers_end_are_counted", || {
        let (script, session) = Script::client(quiet().close_timeout(FAR));
        let (fails, told) = mpsc::channel::<()>();
        script.on_write(move || {
            told.recv().map_err(std::io::Error::other)?;
            Err(ErrorKind::BrokenPipe.into())
        });
        let mut stream = session.open("").unwrap();
        stream.write_all(b"never sent").unwrap();
        script.allow_all();
        until(|| session.stats().unsent == 10 && stream.stats().unsent == 10);
        stream.close().unwrap(); // so that the peer's end cuts no stream off
        script.eof();
        assert!(session.closed().recv().is_err());
        assert!(matches!(session.close_reason(), Some(Error::PeerClosed)));
        fails.send(()).unwrap();
        let closed = session.close();
        assert!(peer_ended_before(&closed, 10), "{closed:?}");
    });
}

/// P46: all bytes that arrive before and after the output fails can be read. This includes the part
/// of a frame that the end of the input cuts.
#[test]
fn the_received_part_of_a_cut_frame_can_be_read_after_the_output_failed() {
    test("the_received_part_of_a_cut_frame_can_be_read_after_the_output_failed", || {
        for whole in [100, 10_000] {
            let (script, session) = Script::server(quiet().close_timeout(FAR));
            script.on_write(|| Err(ErrorKind::BrokenPipe.into()));
            script.allow_all();
            script.frame(1, Command::Syn, 3, &[]);
            let mut stream = session.accept().unwrap();
            stream.write_all(b"x").unwrap();
            until(|| session.close_reason().is_some());
            let frame = Frame::new(1, Command::Psh, 3, vec![7; whole]).unwrap().encode();
            script.send(&frame[..8 + whole / 2]);
            script.eof();
            let mut came = Vec::new();
            let end = stream.read_to_end(&mut came).unwrap_err();
            assert_eq!((came.len(), end.kind()), (whole / 2, ErrorKind::BrokenPipe));
        }
    });
}

/// P34: if everything was handed over before the peer ended its side, `close` is Ok, also when the
/// peer ended first.
#[test]
fn a_peer_that_ended_first_and_had_everything_is_no_error() {
    test("a_peer_that_ended_first_and_had_everything_is_no_error", || {
        let (script, session) = Script::client(quiet().close_timeout(FAR));
        script.allow_all();
        let mut stream = session.open("").unwrap();
        stream.write_all(b"in time").unwrap();
        stream.flush().unwrap();
        drop(stream);
        until(|| session.num_streams() == 0);
        script
            .until_frames(|frames| frames.iter().any(|frame| frame.header.command == Command::Fin));
        script.eof();
        assert!(session.closed().recv().is_err());
        session.close().unwrap();
        assert_eq!(data(&script.frames(), 3), b"in time");
    });
}

/// P36: if the input ends by an error, such as a reset, `close` returns that error.
#[test]
fn close_returns_a_reset_of_the_input() {
    test("close_returns_a_reset_of_the_input", || {
        // In memory, where the order is certain: everything is handed over, and then the input
        // fails.
        let (script, session) = Script::client(quiet().close_timeout(FAR));
        script.allow_all();
        let close = blocked("reset-close", {
            let session = session.clone();
            move || session.close()
        });
        script.wait(|state| state.finished.then_some(()));
        script.fail_read(ErrorKind::ConnectionReset);
        assert_eq!(close.join().unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);

        // Over TCP, where the peer goes away with unread input.
        let (raw, session) = against_client(quiet().close_timeout(FAR), 1);
        let mut stream = session.open("").unwrap();
        stream.write_all(b"nobody reads this").unwrap();
        stream.flush().unwrap();
        let close = blocked("reset-close-tcp", {
            let session = session.clone();
            move || session.close()
        });
        drop(raw);
        let kind = close.join().unwrap().unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
    });
}

/// P37: two sessions of one process are closed one after the other in one thread. In one case all
/// streams are closed. In the other case streams are open and data is unread.
#[test]
fn two_ends_closed_one_after_the_other_in_one_thread_are_both_ok() {
    test("two_ends_closed_one_after_the_other_in_one_thread_are_both_ok", || {
        for config in versions() {
            for (open, expected) in [(false, true), (true, false)] {
                let (client, server) = pair(config.clone().close_timeout(FAR));
                let mut ours = client.open("a").unwrap();
                let mut theirs = server.open("b").unwrap();
                ours.write_all(b"unread").unwrap();
                theirs.write_all(b"unread").unwrap();
                ours.flush().unwrap();
                theirs.flush().unwrap();
                let accepted = (client.accept().unwrap(), server.accept().unwrap());
                let mut kept = Some((ours, theirs, accepted));
                if !open {
                    kept = None;
                }
                client.close().unwrap();
                // With open streams, the second session has ended already, because the first close
                // cut its streams off. Its close returns that error.
                let closed = server.close();
                assert_eq!(closed.is_ok(), expected, "{closed:?}");
                assert!(
                    closed
                        .map_or_else(|error| matches!(error, Error::ConnectionLost(_)), |()| true)
                );
                drop(kept);
            }
        }
    });
}

/// P37: both ends close at the same moment.
#[test]
fn both_ends_close_at_once_and_are_ok() {
    test("both_ends_close_at_once_and_are_ok", || {
        for config in versions() {
            for _ in 0..50 {
                let (client, server) = pair(config.clone().close_timeout(FAR));
                let mut stream = client.open("done").unwrap();
                stream.write_all(b"done").unwrap();
                drop(stream);
                let mut all = Vec::new();
                server.accept().unwrap().read_to_end(&mut all).unwrap();
                until(|| server.num_streams() == 0);
                let gate = Arc::new(Barrier::new(2));
                let closes = [client, server].map(|session| {
                    let gate = Arc::clone(&gate);
                    thread::spawn(move || {
                        gate.wait();
                        session.close()
                    })
                });
                for close in closes {
                    close.join().unwrap().unwrap();
                }
            }
        }
    });
}

/// P42, P93: a session whose input ends cleanly calls `finish_write`. Its threads end, and `abort`
/// isn't called.
#[test]
fn the_end_of_the_input_ends_the_output_in_order() {
    test("the_end_of_the_input_ends_the_output_in_order", || {
        for open in [false, true] {
            let (script, session) = Script::client(quiet().close_timeout(FAR));
            script.allow_all();
            let stream = open.then(|| session.open("left open").unwrap());
            script.eof();
            script.wait(|state| state.finished.then_some(()));
            assert!(session.closed().recv().is_err());
            until(|| support::gmux_threads().iter().all(|name| name == "gmux-timer"));
            assert!(!script.wait(|state| Some(state.aborted)));
            drop(stream);
        }
    });
}

/// P42: after the close timeout, `abort` frees a writer that is stuck in the transport.
#[test]
fn an_output_that_can_not_be_ended_is_aborted_after_the_close_timeout() {
    test("an_output_that_can_not_be_ended_is_aborted_after_the_close_timeout", || {
        let (script, session) = Script::client(quiet().close_timeout(Duration::from_millis(20)));
        let mut stream = session.open("").unwrap();
        stream.write_all(b"stuck").unwrap();
        script.blocked();
        script.frame(1, Command::Fin, 3, &[]);
        script.eof();
        script.wait(|state| state.aborted.then_some(()));
        let closed = session.close();
        assert!(matches!(closed, Err(Error::CloseIncomplete { .. })), "{closed:?}");
    });
}

/// A transport that can't tell its peer that writing is over.
struct Mute(Script);

struct MuteControl(Box<dyn Control>);

impl Transport for Mute {
    fn split(self) -> std::io::Result<Halves> {
        let mut halves = self.0.transport().split()?;
        halves.control = Box::new(MuteControl(halves.control));
        Ok(halves)
    }
}

impl Control for MuteControl {
    fn finish_write(&self) -> std::io::Result<()> {
        self.0.finish_write()
    }

    fn can_finish(&self) -> bool {
        false
    }

    fn abort(&self) {
        self.0.abort();
    }
}

/// P41: over such a transport, `close` is Ok when everything was handed over and flushed.
#[test]
fn where_the_peer_can_not_be_told_close_is_ok_when_everything_was_handed_over() {
    test("where_the_peer_can_not_be_told_close_is_ok_when_everything_was_handed_over", || {
        let script = Script::new();
        let session = Session::client(Mute(script.clone()), quiet().close_timeout(FAR)).unwrap();
        let mut stream = session.open("").unwrap();
        stream.write_all(b"all of it").unwrap();
        script.blocked();
        let close = blocked("mute-close", {
            let session = session.clone();
            move || session.close()
        });
        script.allow_all();
        close.join().unwrap().unwrap();
        assert_eq!(data(&script.frames(), 3), b"all of it");
        assert!(script.wait(|state| Some(state.finished)));
        session.close().unwrap();
        script.eof();
        drop(stream);

        // `Shared` without `on_finish` behaves the same. With it, the close waits for the peer.
        for told in [false, true] {
            let (near, far) = tcp();
            let tick = Some(Duration::from_millis(2));
            near.set_read_timeout(tick).unwrap();
            near.set_write_timeout(tick).unwrap();
            let abort = near.try_clone().unwrap();
            let transport = Shared::new(near).on_abort(move || {
                let _ = abort.shutdown(Shutdown::Both);
            });
            let transport = if told {
                transport.on_finish(|tcp| tcp.shutdown(Shutdown::Write))
            } else {
                transport
            };
            let session =
                Session::client(transport, quiet().close_timeout(Duration::from_millis(50)))
                    .unwrap();
            match told {
                false => session.close().unwrap(),
                true => close_beside_a_peer_that_stays(&session),
            }
            drop(far);
        }
    });
}

/// P38: bytes that arrive during a close count as life. So keepalive doesn't end a session whose
/// peer takes its time to end its side.
#[test]
fn bytes_that_arrive_while_closing_count_as_life() {
    test("bytes_that_arrive_while_closing_count_as_life", || {
        const TIMEOUT: Duration = Duration::from_millis(400);
        for _ in 0..20 {
            let config = Config::new()
                .keepalive_interval(TIMEOUT / 4)
                .keepalive_timeout(TIMEOUT)
                .close_timeout(FAR);
            let (script, session) = Script::client(config);
            script.allow_all();
            let close = blocked("alive-close", {
                let session = session.clone();
                move || session.close()
            });
            script.wait(|state| state.finished.then_some(()));
            let begin = Instant::now();
            let mut last = begin;
            let mut longest = Duration::ZERO;
            while begin.elapsed() < 3 * TIMEOUT {
                script.frame(1, Command::Nop, 0, &[]);
                thread::sleep(TIMEOUT / 40); // time itself is under test
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            script.eof();
            let closed = close.join().unwrap();
            if longest > TIMEOUT / 2 {
                continue; // this machine paused the test, so the session may have been right
            }
            return closed.unwrap();
        }
        panic!("the machine was late each time");
    });
}

/// P38: keepalive finds a silent peer during a close, too.
#[test]
fn a_silent_peer_ends_a_close_by_keepalive() {
    test("a_silent_peer_ends_a_close_by_keepalive", || {
        let tick = Duration::from_millis(20);
        let config =
            Config::new().keepalive_interval(tick).keepalive_timeout(2 * tick).close_timeout(FAR);
        let (script, session) = Script::client(config);
        script.allow_all();
        let closed = session.close();
        assert!(matches!(closed, Err(Error::KeepaliveTimeout(_))), "{closed:?}");
    });
}

/// P39: the last drop waits until everything was handed over, and doesn't wait for the peer's end.
#[test]
fn the_last_drop_does_not_wait_for_the_peers_end() {
    test("the_last_drop_does_not_wait_for_the_peers_end", || {
        let (mut raw, session) = against_client(quiet().close_timeout(FAR), 1);
        let mut stream: Stream = session.open("").unwrap();
        stream.write_all(b"all of it").unwrap();
        drop(session);
        drop(stream); // waiting for the peer's end would hang the test
        let (frames, end) = raw.rest();
        assert_eq!((data(&frames, 3).as_slice(), end), (&b"all of it"[..], End::Clean));
        raw.finish();
    });
}

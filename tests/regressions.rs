//! Faults that were found in this crate. Each comment says what was wrong. Each test failed before
//! its fault was mended.
//!
//! Promises: P16, P28, P54, P64, P113, P114.

mod support;

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gmux::wire::Command;
use gmux::{Config, Error, Session};
use support::scripted::{Script, count, data};
use support::{pair, raw, test};

/// The second SYN was refused, and the FIN of the refusal ended the open stream.
#[test]
fn a_second_syn_with_too_long_a_name_doesnt_finish_the_open_stream() {
    test("a_second_syn_with_too_long_a_name_doesnt_finish_the_open_stream", || {
        let (mut raw, session) = raw::against_server(Config::new().max_name_len(10), 1);
        raw.syn(3, "short");
        let mut stream = session.accept().unwrap();
        raw.syn(3, "longer than ten bytes");
        // The session has handled the SYN when it answers this. A FIN for stream 3 would have come
        // first.
        raw.assert_alive(&session, 5);
        stream.write_all(b"answer").unwrap();
        assert_eq!(raw.expect_data(3, 6), b"answer");
        assert_eq!((session.stats().frames_ignored, session.stats().streams_refused), (1, 0));
    });
}

/// The SYN was refused for its name, and the session went on.
#[test]
fn a_syn_of_our_parity_is_fatal_however_long_its_name() {
    test("a_syn_of_our_parity_is_fatal_however_long_its_name", || {
        let (mut raw, session) = raw::against_server(Config::new().max_name_len(10), 1);
        raw.syn(2, "longer than ten bytes");
        raw.nop();
        assert!(matches!(session.accept(), Err(Error::InvalidProtocol { .. })));
    });
}

/// On a stream of a closing session, `close` sent no FIN, but `shutdown(Write)` did. The FIN
/// followed data that had been cut off.
#[test]
fn a_shutdown_after_the_sessions_close_sends_no_fin() {
    test("a_shutdown_after_the_sessions_close_sends_no_fin", || {
        let (script, session) = Script::client(Config::new().keepalive_disabled(true));
        let mut stream = session.open("cut").unwrap();
        stream.write_all(b"part").unwrap();
        let closed = stream.closed();
        let closer = thread::spawn({
            let session = session.clone();
            move || session.close()
        });
        // The close has begun. It waits for the script to let it write.
        closed.recv().unwrap_err();
        assert_eq!(stream.write(b"rest").unwrap_err().kind(), ErrorKind::NotConnected);
        let _ = stream.shutdown(Shutdown::Write);
        script.allow_all();
        script.wait(|state| state.finished.then_some(()));
        script.eof();
        closer.join().unwrap().unwrap();
        let frames = script.frames();
        assert_eq!(
            (data(&frames, 3).as_slice(), count(&frames, Command::Fin, 3)),
            (b"part".as_slice(), 0)
        );
    });
}

/// The notifier's thread found that the session was gone, and didn't call the notifier.
#[test]
fn a_notifier_is_called_though_every_handle_is_dropped_at_once() {
    test("a_notifier_is_called_though_every_handle_is_dropped_at_once", || {
        for _ in 0..300 {
            let (ours, theirs) = support::tcp();
            let session = Session::client(ours, Config::new()).unwrap();
            let stream = session.open("").unwrap();
            let (called, calls) = mpsc::channel();
            stream.set_close_notifier(move |stream| called.send(stream.id()).unwrap());
            let closed = stream.closed();
            drop(theirs);
            closed.recv().unwrap_err();
            drop(stream);
            drop(session);
            assert_eq!(calls.recv(), Ok(3));
        }
    });
}

/// The addition of an `Instant` and a `Duration` overflowed, and panicked.
#[test]
fn a_keepalive_beyond_the_clock_is_never_due() {
    test("a_keepalive_beyond_the_clock_is_never_due", || {
        let (client, server) =
            pair(Config::new().keepalive_interval(Duration::MAX).keepalive_timeout(Duration::MAX));
        client.open("").unwrap().write_all(b"still works").unwrap();
        assert_eq!(server.accept().unwrap().id(), 3);
        client.close().unwrap();
    });
}

/// Data that `write_to` held wasn't counted as consumed, so the peer's window stayed shut.
#[test]
fn data_that_write_to_holds_when_reading_is_shut_down_counts_as_consumed() {
    /// Fails when the test says so.
    struct Stuck(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            self.0.send(()).unwrap();
            self.1.recv().unwrap();
            Err(ErrorKind::Other.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    test("data_that_write_to_holds_when_reading_is_shut_down_counts_as_consumed", || {
        let (mut raw, session) =
            raw::against_server(Config::new().version(2).max_stream_buffer(16384), 2);
        raw.syn(3, "");
        raw.psh(3, vec![0; 32768]);
        let stream = session.accept().unwrap();
        let (began, begun) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        let reader = thread::spawn({
            let stream = stream.clone();
            move || stream.write_to(&mut Stuck(began, gone)).unwrap_err().kind()
        });
        begun.recv().unwrap();
        stream.shutdown(Shutdown::Read).unwrap();
        go.send(()).unwrap();
        assert_eq!(reader.join().unwrap(), ErrorKind::Other);
        let update = raw.expect(Command::Upd, 3);
        assert_eq!(update, [32768_u32.to_le_bytes(), 16384_u32.to_le_bytes()].concat());
    });
}

/// Small dropped payloads counted as received, but large ones didn't. So the session's no-data
/// clock missed them.
#[test]
fn dropped_payload_counts_as_payload_whatever_its_size() {
    test("dropped_payload_counts_as_payload_whatever_its_size", || {
        let (mut raw, session) = raw::against_server(Config::new(), 1);
        raw.syn(3, "");
        let stream = session.accept().unwrap();
        stream.shutdown(Shutdown::Read).unwrap();
        raw.psh(3, [0; 100]);
        raw.psh(3, [0; 8192]);
        raw.assert_alive(&session, 5);
        assert_eq!(session.stats().bytes_received, 100 + 8192 + 1);
    });
}

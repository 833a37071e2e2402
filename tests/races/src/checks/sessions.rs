//! Whole sessions. The reader, writer and timer threads are the library's own. The check is the
//! peer.
//!
//! Every check ends with all threads gone. An execution with a thread left over is a deadlock.

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use facade::sched::choose;
use facade::time::advance;

use super::Check;
use super::line::{Line, Peer, assert_order, count, data, quiet, server};
use crate::wire::Command;
use crate::{Error, Session, Stream};

macro_rules! checks {
    ($($name:ident $time:literal $($reaches:ident)? $about:literal)*) => {
        pub const CHECKS: &[Check] = &[$(Check {
            name: stringify!($name),
            about: $about,
            time: $time,
            reaches: !str::is_empty(concat!($(stringify!($reaches))?)),
            body: $name,
        }),*];
    };
}

checks! {
    data_wakes_readers false "lost wake-up: two reads of one stream, data in pieces, FIN"
    room_wakes_writers false "lost wake-up: two writes and a flush, a queue of 3 bytes, a \
                              transport that stops and goes on"
    credit_wakes_a_writer false "lost wake-up: a write without credit (version 2), the peer's UPD \
                                 or its end"
    accepts_are_woken false "lost wake-up: two accepts, two SYNs, close"
    all_work_wakes_the_writer false "parked writer: SYN, data, UPD, FIN, a refusal; the peer \
                                     waits for each"
    pings_wake_the_writer true "parked writer and timer: keepalive's NOPs go out as time passes"
    streams_double_close false "double close: two closes and a drop of one stream, against the \
                                peer's FIN"
    sessions_double_close false "double close: two closes and two drops of one session, against \
                                 the peer's end"
    close_against_read_write false "session close against read, write and flush"
    close_against_open_accept false "session close against open, accept and an arriving SYN"
    stream_close_against_calls false "stream close, shutdown and drop against read, write and flush"
    last_drop_against_arrivals false "the last handle's drop against arriving streams and data"
    deadlines_reach_calls true "deadline change against read, write and flush, with the session's \
                                own threads"
    deadlines_reach_accept true "deadline change against accept and an arriving SYN"
    refunds_wake_the_reader false "budget refund against reader pause: two streams, one read, one \
                                   closed"
    close_wakes_a_paused_reader false "session close against a reader that waits for budget"
    stalls_are_cut true "budget: the stall timeout against a reader that waits, and a read that \
                         comes late"
    accepts_let_the_reader_on false "a full backlog: two accepts and a try_accept against the \
                                     reader's pause, no time limit"
    endings_let_the_reader_on false "a full backlog: close, drain, failed writes, or the last \
                                     session handle's drop against the reader's pause"
    a_full_backlog_refuses_in_time true "a full backlog: the stall timeout against an accept; \
                                         what is left out gets FIN"
    inline_write_alone false reaches "inline write: one stream, writes taken in part or not at \
                                      all, and nobody else who would wake the writer"
    inline_write false reaches "inline write against the writer thread: answers on two streams, \
                                partial and refused writes"
    inline_write_against_close false reaches "inline write against session close"
    inline_write_against_failure false reaches "inline write against failing writes and the \
                                                peer's end"
    inline_read false reaches "a caller reads, against another stream's data, a SYN, close, the \
                                peer's end, and a program that stops asking"
    failures_wake_everybody false "failed reads, failed writes or the peer's end against read, \
                                   write, flush, open, accept"
    close_against_failing_writes false "session close against failing writes: it is over when \
                                        close returns, and for those who wait"
    drain_against_closes false "drain against closing streams and an accept"
    close_against_the_peers_end true "close against a peer that reads everything and ends"
    close_timeout_passes true "close on a transport that takes nothing: the close timeout ends it"
    timer_comes_and_goes false "the timer's thread: one session ends while another begins"
    notifiers_fire_once false "close notifier against close, the session's end and its setting"
    both_ends false "two sessions against each other: an echo, both closed"
}

const SECOND: Duration = Duration::from_secs(1);

const PEER: Peer = Peer(1);

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::spawn(work)
}

/// Runs the peer on a thread of its own.
fn peer(line: &Arc<Line>, work: impl FnOnce(&Line) + Send + 'static) -> JoinHandle<()> {
    let line = Arc::clone(line);
    spawn(move || work(&line))
}

/// Closes both ends in the way that succeeds.
fn close_well(session: &Session, line: &Line) {
    session.close().unwrap();
    assert!(line.is_finished());
    line.eof();
}

fn read_to_end(mut stream: &Stream, size: usize) -> (usize, Option<std::io::Error>) {
    let mut buf = vec![0; size];
    let mut total = 0;
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return (total, None),
            Ok(n) => total += n,
            Err(error) => return (total, Some(error)),
        }
    }
}

/// Writes all data. Returns how much was accepted, and the error if there was one.
fn write_all(mut stream: &Stream, data: &[u8]) -> (usize, Option<std::io::Error>) {
    let mut done = 0;
    while done < data.len() {
        match stream.write(&data[done..]) {
            Ok(n) => done += n,
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

fn inner(error: &std::io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

// ---- lost wake-ups ------------------------------------------------------------------------------

fn data_wakes_readers() {
    let (session, line) = server(quiet(), false);
    let peer = peer(&line, |line| {
        line.feed(&[PEER.syn(3)]);
        line.feed(&[PEER.psh(3, b"abc")]);
        line.feed(&[PEER.psh(3, b"defg"), PEER.fin(3)]);
    });
    let stream = session.accept().unwrap();
    let readers = [2, 3].map(|size| {
        let stream = stream.clone();
        spawn(move || read_to_end(&stream, size).0)
    });
    assert_eq!(readers.map(|reader| reader.join().unwrap()).iter().sum::<usize>(), 7);
    peer.join().unwrap();
    drop(stream);
    close_well(&session, &line);
}

fn room_wakes_writers() {
    let (session, line) = server(quiet().max_send_buffer(3), false);
    let stream = session.open("").unwrap();
    line.full(true);
    let writers = [b"aaaa", b"bbbb"].map(|data| {
        let mut stream = stream.clone();
        spawn(move || {
            stream.write_all(data).unwrap();
            stream.flush().unwrap();
        })
    });
    line.full(false);
    line.wait_for(|frames| data(frames, 2).len() == 8);
    for writer in writers {
        writer.join().unwrap();
    }
    let mut all = data(&line.frames(), 2);
    all.sort_unstable();
    assert_eq!(all, b"aaaabbbb");
    drop(stream);
    close_well(&session, &line);
    let frames = line.frames();
    assert_order(&frames, 2, true);
    assert_eq!(count(&frames, Command::Fin, 2), 1);
}

fn credit_wakes_a_writer() {
    let (session, line) = server(quiet().version(2).max_send_buffer(1 << 20), false);
    let mut stream = session.open("").unwrap();
    let big = vec![0; crate::INITIAL_WINDOW as usize];
    stream.write_all(&big).unwrap();
    stream.flush().unwrap();
    let writer = spawn({
        let stream = stream.clone();
        move || write_all(&stream, b"ab")
    });
    let how = choose(3);
    match how {
        0 => line.feed(&[
            Peer(2).upd(2, 1, crate::INITIAL_WINDOW),
            Peer(2).upd(2, 2, crate::INITIAL_WINDOW),
        ]),
        1 => line.eof(),
        _ => line.fail_writes(), // The session doesn't write, so nothing happens until the close.
    }
    if how == 2 {
        let _ = session.close();
    }
    let (accepted, error) = writer.join().unwrap();
    match how {
        0 => assert!(accepted == 2 && error.is_none()),
        _ => assert!(accepted == 0 && error.is_some()),
    }
    drop(stream);
    let _ = session.close();
    line.eof();
}

fn accepts_are_woken() {
    let (session, line) = server(quiet(), false);
    let acceptors = [(); 3].map(|()| {
        let session = session.clone();
        spawn(move || session.accept().map(|stream| stream.id()))
    });
    line.feed(&[PEER.syn(3), PEER.syn(5)]);
    // Two streams were accepted and dropped. These are their FINs.
    line.wait_for(|frames| frames.len() == 2);
    session.close().unwrap();
    line.eof();
    let mut ids = Vec::new();
    let mut closed = 0;
    for acceptor in acceptors {
        match acceptor.join().unwrap() {
            Ok(id) => ids.push(id),
            Err(Error::Closed) => closed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    ids.sort_unstable();
    assert_eq!((ids, closed), (vec![3, 5], 1));
}

fn all_work_wakes_the_writer() {
    let config = quiet()
        .version(2)
        .max_stream_buffer(8)
        .accept_backlog(1)
        .accept_stall_timeout(Some(Duration::ZERO));
    let (session, line) = server(config, false);
    let peer = peer(&line, |line| {
        let peer = Peer(2);
        line.feed(&[peer.syn(3), peer.psh(3, b"12345678")]);
        line.wait_for(|frames| count(frames, Command::Upd, 3) > 0); // 8 bytes were read.
        line.wait_for(|frames| data(frames, 2) == b"x" && count(frames, Command::Syn, 2) == 1);
        line.feed(&[peer.syn(5), peer.syn(7)]);
        // It is refused, since the backlog is full.
        line.wait_for(|frames| count(frames, Command::Fin, 7) == 1);
        line.feed(&[peer.fin(3)]);
        line.wait_for(|frames| count(frames, Command::Fin, 3) == 1); // It is closed at its end.
    });
    let stream = session.accept().unwrap();
    let mut ours = session.open("").unwrap();
    let writer = spawn(move || {
        ours.write_all(b"x").unwrap();
        ours
    });
    assert_eq!(read_to_end(&stream, 4).0, 8);
    drop(stream);
    peer.join().unwrap();
    let _ = writer.join().unwrap();
    close_well(&session, &line);
}

fn pings_wake_the_writer() {
    let config = quiet()
        .keepalive_disabled(false)
        .keepalive_interval(SECOND)
        .keepalive_timeout(1000 * SECOND);
    let (session, line) = server(config, false);
    let peer = peer(&line, |line| {
        for n in 1..=2 {
            // The clock moves again and again, since the timer may look at it late.
            while count(&line.frames(), Command::Nop, 0) < n {
                advance(SECOND);
                thread::yield_now();
            }
        }
    });
    peer.join().unwrap();
    close_well(&session, &line);
}

// ---- double close -------------------------------------------------------------------------------

fn streams_double_close() {
    let (session, line) = server(quiet(), false);
    line.feed(&[PEER.syn(3)]);
    let mut stream = session.accept().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    stream.set_close_notifier(move |_| {
        counter.fetch_add(1, SeqCst);
    });
    let closed = stream.closed();
    stream.write_all(b"ab").unwrap();
    let peer = peer(&line, |line| line.feed(&[PEER.psh(3, b"x"), PEER.fin(3)]));
    let closers = [0, 1, 2].map(|n| {
        let stream = stream.clone();
        spawn(move || {
            if n < 2 {
                stream.close().unwrap()
            }
        })
    });
    drop(stream);
    for closer in closers {
        closer.join().unwrap();
    }
    assert!(closed.recv().is_err());
    peer.join().unwrap();
    assert_eq!((calls.load(SeqCst), session.num_streams()), (1, 0));
    session.drain(SECOND).unwrap(); // The stream is forgotten when its FIN is written.
    line.eof();
    let frames = line.frames();
    assert_order(&frames, 3, false);
    assert_eq!((count(&frames, Command::Fin, 3), data(&frames, 3)), (1, b"ab".to_vec()));
}

fn sessions_double_close() {
    let (session, line) = server(quiet(), false);
    let mut stream = session.open("").unwrap();
    stream.write_all(b"ab").unwrap();
    let closed = session.closed();
    let peer_ends = choose(2) == 0;
    let closers = [0, 1, 2].map(|n| {
        let session = session.clone();
        spawn(move || if n < 2 { session.close() } else { Ok(()) })
    });
    let dropper = spawn(move || drop(stream));
    drop(session);
    if peer_ends {
        line.eof(); // This comes at any moment.
    }
    for closer in closers {
        let result = closer.join().unwrap();
        // The peer may have ended its side while our stream was open. That cuts the stream off.
        assert!(result.is_ok() || peer_ends, "{result:?}");
    }
    dropper.join().unwrap();
    assert!(closed.recv().is_err());
    line.eof();
    let frames = line.frames();
    assert_order(&frames, 2, true);
    if !peer_ends {
        assert_eq!(data(&frames, 2), b"ab");
        assert!(line.is_finished());
    }
}

// ---- close against calls ------------------------------------------------------------------------

fn close_against_read_write() {
    let (session, line) = server(quiet().max_send_buffer(3), choose(2) == 0);
    line.feed(&[PEER.syn(3)]);
    let stream = session.accept().unwrap();
    let feeder = peer(&line, |line| line.feed(&[PEER.psh(3, b"xyz")]));
    let reader = spawn({
        let stream = stream.clone();
        move || read_to_end(&stream, 2)
    });
    let writer = spawn({
        let stream = stream.clone();
        move || write_all(&stream, b"abcdefgh")
    });
    let flusher = spawn({
        let mut stream = stream.clone();
        move || stream.flush()
    });
    session.close().unwrap();
    let (accepted, write_error) = writer.join().unwrap();
    let (read, read_error) = reader.join().unwrap();
    let flushed = flusher.join().unwrap();
    // The reader discards input until the peer ends. The fed data may have come before the close,
    // or after.
    feeder.join().unwrap();
    line.eof();
    assert!(read == 0 || read == 3);
    assert!(matches!(inner(&read_error.unwrap()), Some(Error::Closed)));
    assert_eq!(write_error.is_some(), accepted < 8);
    if let Some(error) = write_error.or(flushed.err()) {
        assert!(matches!(inner(&error), Some(Error::Closed)), "{error}");
    }
    let frames = line.frames();
    assert_eq!(data(&frames, 3), b"abcdefgh"[..accepted], "what was accepted is sent");
    assert_eq!(count(&frames, Command::Fin, 3), 0, "the application didn't finish it");
    drop(stream);
    assert_eq!(count(&line.frames(), Command::Fin, 3), 0);
}

fn close_against_open_accept() {
    let (session, line) = server(quiet(), false);
    line.hold(); // The close itself has to wake all calls, since the session's end comes later.
    let feeder = peer(&line, |line| line.feed(&[PEER.syn(3)]));
    let opener = spawn({
        let session = session.clone();
        move || {
            let mut stream = session.open("n")?;
            let n = stream.write(b"ab").unwrap_or(0);
            Ok((stream, n))
        }
    });
    let acceptors = [(); 2].map(|()| {
        let session = session.clone();
        spawn(move || session.accept())
    });
    let closer = spawn({
        let session = session.clone();
        move || session.close().unwrap()
    });
    let opened: Result<(Stream, usize), Error> = opener.join().unwrap();
    let mut accepted = 0;
    for acceptor in acceptors {
        match acceptor.join().unwrap() {
            Ok(stream) => accepted += stream.id(),
            Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
        }
    }
    assert!(accepted == 0 || accepted == 3);
    feeder.join().unwrap();
    line.wait_finished();
    line.eof();
    closer.join().unwrap();
    let frames = line.frames();
    match opened {
        Ok((stream, n)) => {
            assert_eq!((stream.id(), count(&frames, Command::Syn, 2)), (2, 1));
            assert_eq!(data(&frames, 2), b"ab"[..n]);
            assert_order(&frames, 2, true);
        }
        Err(error) => assert!(
            matches!(error, Error::Closed) && frames.iter().all(|f| f.header.stream_id != 2)
        ),
    }
    assert!(matches!(session.open("late"), Err(Error::Closed)));
}

fn stream_close_against_calls() {
    let (session, line) = server(quiet().max_send_buffer(3), choose(2) == 0);
    line.feed(&[PEER.syn(3)]);
    let stream = session.accept().unwrap();
    let feeder = peer(&line, |line| line.feed(&[PEER.psh(3, b"xyz")]));
    let reader = spawn({
        let stream = stream.clone();
        move || read_to_end(&stream, 2)
    });
    let writer = spawn({
        let stream = stream.clone();
        move || write_all(&stream, b"abcdefgh")
    });
    let flusher = spawn({
        let mut stream = stream.clone();
        move || stream.flush()
    });
    let how = choose(2);
    match how {
        0 => stream.close().unwrap(),
        _ => stream.shutdown(Shutdown::Both).unwrap(),
    }
    let (accepted, write_error) = writer.join().unwrap();
    let (read, read_error) = reader.join().unwrap();
    let flushed = flusher.join().unwrap();
    feeder.join().unwrap();
    assert!(read == 0 || read == 2 || read == 3);
    assert_eq!(read_error.is_some(), how == 0, "after shutdown(Read) reads return 0");
    assert_eq!(write_error.is_some(), accepted < 8);
    assert!(how == 0 || flushed.is_ok(), "what was accepted before a shutdown is flushed");
    drop(stream);
    session.drain(SECOND).unwrap();
    line.eof();
    let frames = line.frames();
    assert_eq!(data(&frames, 3), b"abcdefgh"[..accepted]);
    assert_eq!(count(&frames, Command::Fin, 3), 1);
    assert_order(&frames, 3, false);
}

fn last_drop_against_arrivals() {
    let (session, line) = server(quiet(), false);
    let feeder = peer(&line, |line| {
        line.feed(&[PEER.syn(3), PEER.psh(3, b"xyz")]);
        line.feed(&[PEER.syn(5), PEER.fin(3)]);
        line.wait_finished();
        line.eof();
    });
    let other = session.clone();
    let accept = spawn(move || {
        let _ = other.try_accept();
    });
    drop(session);
    accept.join().unwrap();
    feeder.join().unwrap();
    let frames = line.frames();
    // A refused stream gets one more FIN for its data, and nothing else.
    if count(&frames, Command::Fin, 3) == 2 {
        assert!(
            frames
                .iter()
                .all(|frame| frame.header.stream_id != 3 || frame.header.command == Command::Fin)
        );
    } else {
        assert_order(&frames, 3, false);
    }
    assert_order(&frames, 5, false);
}

// ---- limits -------------------------------------------------------------------------------------

fn deadlines_reach_calls() {
    let (session, line) = server(quiet().max_send_buffer(1), false);
    line.full(true);
    line.feed(&[PEER.syn(3)]);
    let stream = session.accept().unwrap();
    let start = Instant::now();
    let reader = spawn({
        let mut stream = stream.clone();
        move || stream.read(&mut [0]).map(drop)
    });
    // The writer takes some bytes from the queue, and waits in the transport.
    let writer = spawn({
        let mut stream = stream.clone();
        move || {
            loop {
                stream.write_all(b"abc")?;
            }
        }
    });
    let flusher = spawn({
        let mut stream = stream.clone();
        move || {
            stream.write_all(b"z")?;
            stream.flush()
        }
    });
    let clock = spawn(move || {
        for _ in 0..3 {
            advance(SECOND);
        }
    });
    stream.set_deadline(Some(start + 9 * SECOND));
    if choose(2) == 0 {
        stream.set_deadline(None);
    }
    stream.set_deadline(Some(start + 2 * SECOND));
    clock.join().unwrap();
    for (name, call) in [("read", reader), ("write", writer), ("flush", flusher)] {
        let result = call.join().unwrap();
        let timed_out = match result.as_ref().err().and_then(inner) {
            Some(Error::PartialWrite { source, .. }) => matches!(**source, Error::Timeout),
            error => matches!(error, Some(Error::Timeout)),
        };
        assert!(timed_out, "{name}: {result:?}");
    }
    line.full(false);
    drop(stream);
    session.close().unwrap();
    line.eof();
}

fn deadlines_reach_accept() {
    let (session, line) = server(quiet(), false);
    let start = Instant::now();
    let acceptors = [(); 2].map(|()| {
        let session = session.clone();
        spawn(move || session.accept().map(drop))
    });
    let feeder = peer(&line, |line| line.feed(&[PEER.syn(3)]));
    let clock = spawn(move || {
        for _ in 0..3 {
            advance(SECOND);
        }
    });
    session.set_deadline(Some(start + 9 * SECOND));
    session.set_deadline(Some(start + 2 * SECOND));
    clock.join().unwrap();
    feeder.join().unwrap();
    let results = acceptors.map(|acceptor| acceptor.join().unwrap());
    assert!(results.iter().filter(|result| result.is_ok()).count() <= 1);
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(Error::Timeout))));
    close_well(&session, &line);
}

// ---- the receive budget -------------------------------------------------------------------------

fn refunds_wake_the_reader() {
    let (session, line) = server(quiet().max_receive_buffer(200).max_stream_buffer(100), false);
    let feeder = peer(&line, |line| {
        line.feed(&[PEER.syn(3), PEER.syn(5)]);
        for _ in 0..3 {
            line.feed(&[PEER.psh(3, &[1; 100]), PEER.psh(5, &[2; 100])]);
        }
        line.feed(&[PEER.fin(3), PEER.fin(5)]);
    });
    let one = session.accept().unwrap();
    let two = session.accept().unwrap();
    let reader = spawn(move || assert_eq!(read_to_end(&one, 30).0, 300));
    // The other stream reads a little and is closed. Its held bytes are refunded, and its later
    // data is discarded.
    let closer = spawn(move || {
        let mut two = two;
        two.read_exact(&mut [0; 70]).unwrap();
        drop(two);
    });
    feeder.join().unwrap();
    reader.join().unwrap();
    closer.join().unwrap();
    session.drain(SECOND).unwrap();
    assert_eq!(session.stats().receive_buffered, 0);
    line.eof();
}

fn close_wakes_a_paused_reader() {
    let (session, line) = server(quiet().max_receive_buffer(100).max_stream_buffer(100), false);
    line.feed(&[PEER.syn(3)]);
    let stream = session.accept().unwrap();
    let feeder = peer(&line, |line| {
        for _ in 0..3 {
            line.feed(&[PEER.psh(3, &[1; 100])]);
        }
        line.eof();
    });
    let reader = (choose(2) == 0).then(|| {
        let mut stream = stream.clone();
        spawn(move || {
            let _ = stream.read(&mut [0; 64]);
        })
    });
    // This is Ok, or the error for a peer that ends while a stream is open.
    let _ = session.close();
    feeder.join().unwrap();
    if let Some(reader) = reader {
        reader.join().unwrap();
    }
    line.wait_unread(); // It comes before the stream's drop refunds its bytes.
    drop(stream);
}

fn stalls_are_cut() {
    let config = quiet().max_receive_buffer(600).max_stream_buffer(100).stall_timeout(Some(SECOND));
    let (session, line) = server(config, false);
    let feeder = peer(&line, |line| {
        line.feed(&[PEER.syn(3), PEER.syn(5), PEER.psh(5, &[2; 10])]);
        line.feed(&[(); 8].map(|()| PEER.psh(3, &[1; 100])));
        line.feed(&[PEER.psh(5, &[2; 150]), PEER.fin(5)]);
    });
    let asleep = session.accept().unwrap();
    let awake = session.accept().unwrap();
    let clock = spawn({
        let session = session.clone();
        move || {
            // The clock moves no further than necessary. A reader that the scheduler keeps waiting
            // for long would look like one that sleeps.
            while session.stats().streams_cut == 0 {
                advance(SECOND);
                thread::yield_now();
            }
        }
    });
    // The stream that is read gets everything. The other one is cut.
    let (got, error) = read_to_end(&awake, 64);
    assert!(got == 160 && error.is_none(), "{} {got}, {error:?}", awake.id());
    feeder.join().unwrap();
    let error = read_to_end(&asleep, 64).1.unwrap();
    assert!(matches!(inner(&error), Some(Error::Stalled { .. })), "{error}");
    assert_eq!(session.stats().streams_cut, 1);
    clock.join().unwrap();
    drop(asleep);
    drop(awake);
    // The clock doesn't move, so only the writer can end the close.
    close_well(&session, &line);
    assert_eq!(count(&line.frames(), Command::Fin, 3), 1);
}

// ---- the backlog --------------------------------------------------------------------------------

fn accepts_let_the_reader_on() {
    let (session, line) = server(quiet().accept_backlog(1).accept_stall_timeout(None), false);
    let ids = [3, 5, 7, 9];
    let feeder = peer(&line, move |line| {
        for id in ids {
            line.feed(&[PEER.syn(id), PEER.psh(id, b"ab"), PEER.fin(id)]);
        }
    });
    let acceptors = [false, true].map(|tries| {
        let session = session.clone();
        spawn(move || {
            for _ in 0..2 {
                let stream = loop {
                    let accepted =
                        if tries { session.try_accept() } else { session.accept().map(Some) };
                    match accepted.unwrap() {
                        Some(stream) => break stream,
                        None => thread::yield_now(),
                    }
                };
                // Its data comes after its SYN, and maybe after data of other streams.
                assert_eq!(read_to_end(&stream, 2).0, 2);
            }
        })
    });
    for thread in acceptors {
        thread.join().unwrap();
    }
    feeder.join().unwrap();
    let stats = session.stats();
    assert_eq!((stats.streams_received, stats.streams_refused), (4, 0));
    close_well(&session, &line);
}

fn endings_let_the_reader_on() {
    let (session, line) = server(quiet().accept_backlog(1).accept_stall_timeout(None), false);
    // This stream keeps the session alive when the last own handle is dropped.
    let mut ours = session.open("").unwrap();
    line.feed(&[PEER.syn(3), PEER.syn(5), PEER.syn(7)]);
    let how = choose(4);
    match how {
        0 => {
            let closed = spawn({
                let session = session.clone();
                move || {
                    let _ = session.close();
                }
            });
            line.wait_finished();
            line.eof();
            closed.join().unwrap();
        }
        1 => {
            drop(session);
            let refused = |frames: &[crate::wire::Frame]| {
                [3, 5, 7].iter().all(|&id| count(frames, Command::Fin, id) == 1)
            };
            line.wait_for(refused);
            drop(ours);
            line.eof();
            return;
        }
        2 => {
            // Streams that came in time can still be accepted.
            let drained = spawn({
                let session = session.clone();
                move || {
                    let _ = session.drain(SECOND);
                }
            });
            while let Ok(stream) = session.accept() {
                drop(stream);
            }
            drop(ours);
            line.wait_finished();
            line.eof();
            return drained.join().unwrap();
        }
        _ => {
            line.fail_writes();
            while ours.write(b"x").is_ok() {
                thread::yield_now();
            }
            line.eof(); // Reads go on until the input ends.
            line.wait_unread();
        }
    }
    drop(ours);
    let _ = session.close();
}

fn a_full_backlog_refuses_in_time() {
    let (session, line) =
        server(quiet().accept_backlog(1).accept_stall_timeout(Some(SECOND * 2)), false);
    line.feed(&[PEER.syn(3), PEER.syn(5)]);
    // The first stream is accepted before or after the time has passed. Or it is accepted only when
    // the second was refused, so that only the time can end the pause.
    let late = choose(2) == 1;
    let acceptor = spawn({
        let session = session.clone();
        move || {
            while late && session.stats().streams_refused == 0 {
                thread::yield_now();
            }
            let _ = session.accept().unwrap();
        }
    });
    let clock = spawn({
        let session = session.clone();
        move || {
            // The time passes the announcement, and then the limit.
            while session.stats().streams_received + session.stats().streams_refused < 2 {
                advance(SECOND);
                thread::yield_now();
            }
        }
    });
    acceptor.join().unwrap();
    clock.join().unwrap();
    let refused = session.stats().streams_refused;
    if refused == 0 {
        assert_eq!(session.accept().unwrap().id(), 5);
    }
    line.wait_for(|frames| [3, 5].iter().all(|&id| count(frames, Command::Fin, id) == 1));
    assert!(session.stats().accept_pauses <= 1);
    close_well(&session, &line);
}

// ---- inline writes ------------------------------------------------------------------------------

/// Reads a request and writes its answer, `rounds` times on one stream.
fn serve(stream: &mut Stream, rounds: usize) {
    for _ in 0..rounds {
        let mut request = [0; 2];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&request).unwrap();
    }
}

fn inline_write() {
    let (session, line) = server(quiet(), true);
    line.moods(4);
    line.feed(&[PEER.syn(3), PEER.syn(5)]);
    let clients = [(3, b"ab"), (5, b"cd")].map(|(id, request)| {
        peer(&line, move |line| {
            for round in 1..=2 {
                line.feed(&[PEER.psh(id, request)]);
                // Nothing else makes the writer go on.
                line.wait_for(|frames| data(frames, id) == request.repeat(round));
            }
        })
    });
    let servers = [(); 2].map(|()| {
        let mut stream = session.accept().unwrap();
        spawn(move || {
            serve(&mut stream, 2);
            stream
        })
    });
    let mut other = session.open("other").unwrap();
    other.write_all(b"0123456789").unwrap();
    for client in clients {
        client.join().unwrap();
    }
    let _ = servers.map(|server| server.join().unwrap());
    other.flush().unwrap();
    drop(other);
    session.drain(SECOND).unwrap();
    line.eof();
    let frames = line.frames();
    for (id, ours) in [(2, true), (3, false), (5, false)] {
        assert_order(&frames, id, ours);
        assert_eq!(count(&frames, Command::Fin, id), 1);
    }
    assert_eq!(data(&frames, 2), b"0123456789");
}

fn inline_write_alone() {
    let (session, line) = server(quiet(), true);
    line.moods(2);
    line.feed(&[PEER.syn(3)]);
    let mut stream = session.accept().unwrap();
    let client = peer(&line, |line| {
        for round in 1..=2 {
            line.feed(&[PEER.psh(3, b"ab")]);
            line.wait_for(|frames| data(frames, 3).len() == 2 * round);
        }
    });
    serve(&mut stream, 2);
    client.join().unwrap();
    drop(stream);
    close_well(&session, &line);
}

fn inline_write_against_close() {
    let (session, line) = server(quiet(), true);
    line.moods(2);
    line.feed(&[PEER.syn(3), PEER.psh(3, b"ab")]);
    let mut stream = session.accept().unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let answer = spawn({
        let stream = stream.clone();
        move || write_all(&stream, b"AB").0
    });
    let how = choose(3);
    match how {
        0 => session.close().unwrap(),
        1 => {
            stream.close().unwrap();
            session.drain(SECOND).unwrap();
        }
        _ => {} // The last drop ends it.
    }
    let accepted = answer.join().unwrap();
    drop(session);
    drop(stream);
    line.eof();
    let frames = line.frames();
    assert_eq!(data(&frames, 3), b"AB"[..accepted], "{how}");
    assert_eq!(count(&frames, Command::Fin, 3), usize::from(how != 0), "{how}");
    assert!(line.is_finished());
}

fn inline_write_against_failure() {
    let (session, line) = server(quiet(), true);
    line.moods(1);
    line.feed(&[PEER.syn(3), PEER.psh(3, b"ab")]);
    let mut stream = session.accept().unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let answers = [(); 2].map(|()| {
        let stream = stream.clone();
        spawn(move || write_all(&stream, b"ABC"))
    });
    let failure = peer(&line, |line| if choose(2) == 0 { line.fail_writes() } else { line.eof() });
    failure.join().unwrap();
    for answer in answers {
        let (accepted, error) = answer.join().unwrap();
        assert!(accepted == 3 || error.is_some());
    }
    // All writes may have been made before they failed. So only a read learns of the end.
    line.eof();
    let (_, error) = read_to_end(&stream, 4);
    assert!(error.is_some());
    drop(stream);
    let _ = session.close();
}

/// After some rounds of requests and answers, the thread that waits for the next request reads the
/// transport inline. Then another event happens.
fn inline_read() {
    let (session, line) = server(quiet(), true);
    line.feed(&[PEER.syn(3), PEER.syn(5)]);
    let mut stream = session.accept().unwrap();
    let other = session.accept().unwrap();
    // Number of rounds. It is more than the eight after which the reader thread hands the input
    // over.
    const ROUNDS: usize = 12;
    const SETTLE: usize = 60;
    let how = choose(6);
    let client = peer(&line, move |line| {
        for round in 1..=ROUNDS {
            // By then the server waits for the next request, more often than not.
            for _ in 0..SETTLE {
                thread::yield_now();
            }
            line.feed(&[PEER.psh(3, b"ab")]);
            if how == 4 && round == ROUNDS {
                line.feed(&[PEER.psh(5, b"wxyz"), PEER.fin(5)]);
            }
            line.wait_for(|frames| data(frames, 3).len() == 2 * round);
        }
        match how {
            0 => line.feed(&[PEER.psh(5, b"wxyz"), PEER.fin(5)]),
            1 => line.feed(&[PEER.syn(7)]),
            2 => line.eof(),
            3 => {}
            4 => {}
            _ => line.feed(&[PEER.psh(5, b"wxyz"), PEER.fin(5), PEER.fin(3)]),
        }
    });
    let reader = spawn(move || read_to_end(&other, 3));
    let acceptor = spawn({
        let session = session.clone();
        move || session.accept().map(drop)
    });
    serve(&mut stream, ROUNDS);
    if line.was_bounded() {
        facade::breaks::reach();
    }
    if how == 5 {
        // It asks again, as a program does, until the end of its stream.
        assert_eq!(read_to_end(&stream, 2).0, 0);
    }
    // The program asks no more. So the reader thread itself has to find the other streams' data.
    match how {
        0 | 4 | 5 => assert_eq!(reader.join().unwrap().0, 4),
        1 => {
            acceptor.join().unwrap().unwrap();
            let _ = session.close();
            assert!(reader.join().unwrap().1.is_some());
            client.join().unwrap();
            line.eof();
            return;
        }
        2 => {
            assert!(reader.join().unwrap().1.is_some());
            assert!(acceptor.join().unwrap().is_err());
            client.join().unwrap();
            return;
        }
        _ => {
            let asks = spawn(move || read_to_end(&stream, 2));
            session.close().unwrap();
            assert!(asks.join().unwrap().1.is_some());
            assert!(reader.join().unwrap().1.is_some());
            assert!(acceptor.join().unwrap().is_err());
            client.join().unwrap();
            line.eof();
            return;
        }
    }
    client.join().unwrap();
    session.close().unwrap();
    assert!(acceptor.join().unwrap().is_err());
    line.eof();
}

// ---- endings ------------------------------------------------------------------------------------

fn failures_wake_everybody() {
    let (session, line) = server(quiet().max_send_buffer(2), choose(2) == 0);
    line.feed(&[PEER.syn(3)]);
    let stream = session.accept().unwrap();
    let closed = session.closed();
    let reader = spawn({
        let stream = stream.clone();
        move || read_to_end(&stream, 2).1.is_some()
    });
    let writer = spawn({
        let stream = stream.clone();
        move || loop {
            if write_all(&stream, b"abcdef").1.is_some() {
                return true;
            }
            thread::yield_now();
        }
    });
    let flusher = spawn({
        let mut stream = stream.clone();
        move || {
            while stream.write(b"z").is_ok() && stream.flush().is_ok() {
                thread::yield_now();
            }
        }
    });
    let opener = spawn({
        let session = session.clone();
        move || session.open("x").map(drop)
    });
    let acceptor = spawn({
        let session = session.clone();
        move || session.accept().map(drop)
    });
    let how = choose(3);
    match how {
        0 => line.fail_reads(),
        1 => line.eof(),
        _ => {
            line.fail_writes();
            line.wait_for(|_| true);
        }
    }
    assert!(writer.join().unwrap());
    flusher.join().unwrap();
    if how == 2 {
        // Reads go on after failed writes, until the input ends.
        line.eof();
    }
    assert!(reader.join().unwrap(), "there was no FIN");
    assert!(acceptor.join().unwrap().is_err());
    let _ = opener.join().unwrap();
    assert!(closed.recv().is_err());
    assert!(session.close_reason().is_some());
    drop(stream);
    let _ = session.close();
}

fn close_against_failing_writes() {
    let (session, line) = server(quiet(), false);
    line.feed(&[PEER.syn(3)]);
    let stream = session.accept().unwrap();
    let reader = spawn({
        let stream = stream.clone();
        move || read_to_end(&stream, 2).1.is_some()
    });
    let failure = peer(&line, |line| line.fail_writes());
    let _ = (&stream).write(b"ab");
    let _ = session.close();
    assert!(session.is_closed());
    assert!(reader.join().unwrap(), "there was no FIN");
    failure.join().unwrap();
    line.eof();
}

fn drain_against_closes() {
    let (session, line) = server(quiet(), false);
    line.feed(&[PEER.syn(3), PEER.syn(5)]);
    let mut streams = vec![session.accept().unwrap(), session.open("").unwrap()];
    let acceptor = spawn({
        let session = session.clone();
        move || session.accept().map(drop) // The call waits, or there is none.
    });
    let closers: Vec<_> = streams.drain(..).map(|stream| spawn(move || drop(stream))).collect();
    let last = spawn({
        let session = session.clone();
        move || {
            let _ = session.accept();
        }
    });
    session.drain(SECOND).unwrap();
    for closer in closers {
        closer.join().unwrap();
    }
    let _ = acceptor.join().unwrap();
    last.join().unwrap();
    line.eof();
    let frames = line.frames();
    for (id, ours) in [(2, true), (3, false), (5, false)] {
        assert_order(&frames, id, ours);
        // The third frame may have arrived when the session was closing, and was discarded then.
        assert!(count(&frames, Command::Fin, id) == 1 || id == 5);
    }
}

/// The peer reads everything and ends its side at once, during the close or before it. The close
/// returns Ok, however little the writer thread has reported by then.
fn close_against_the_peers_end() {
    let (session, line) = server(quiet(), choose(2) == 0);
    line.feed(&[PEER.syn(3), PEER.fin(3)]);
    let stream = session.accept().unwrap();
    let ending = peer(&line, |line| {
        line.wait_for(|frames| data(frames, 3).len() == 2 && count(frames, Command::Fin, 3) == 1);
        line.eof();
    });
    assert_eq!(write_all(&stream, b"ab").0, 2);
    drop(stream);
    session.close().unwrap();
    assert_eq!(session.num_streams(), 0);
    ending.join().unwrap();
}

fn close_timeout_passes() {
    let (session, line) = server(quiet().close_timeout(SECOND), false);
    line.full(true);
    let mut stream = session.open("").unwrap();
    stream.write_all(b"ab").unwrap();
    let flusher = spawn(move || stream.flush().is_err());
    let done = Arc::new(AtomicUsize::new(0));
    let clock = spawn({
        let done = Arc::clone(&done);
        move || {
            while done.load(SeqCst) == 0 {
                advance(SECOND);
                thread::yield_now();
            }
        }
    });
    let results = [(); 2].map(|()| {
        let session = session.clone();
        spawn(move || session.close())
    });
    for result in results {
        assert!(result.join().unwrap().is_err(), "nothing was handed over");
    }
    assert!(flusher.join().unwrap());
    done.store(1, SeqCst);
    clock.join().unwrap();
}

/// The timer's thread ends with the last session, and begins with the next. It also serves a
/// session that comes in between.
fn timer_comes_and_goes() {
    let sessions = [(); 2].map(|()| {
        spawn(|| {
            for _ in 0..2 {
                let (session, line) = server(quiet(), false);
                line.eof();
                let _ = session.close();
            }
        })
    });
    for session in sessions {
        session.join().unwrap();
    }
}

fn notifiers_fire_once() {
    let (session, line) = server(quiet(), false);
    let stream = session.open("").unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let setter = spawn({
        let stream = stream.clone();
        move || {
            stream.set_close_notifier(move |stream| {
                assert!(stream.closed().recv().is_err());
                counter.fetch_add(1, SeqCst);
            })
        }
    });
    let closer = (choose(2) == 0).then(|| {
        let stream = stream.clone();
        spawn(move || stream.close().unwrap())
    });
    match choose(3) {
        0 => line.eof(),
        1 => {
            let _ = session.close();
        }
        _ => line.fail_reads(),
    }
    setter.join().unwrap();
    if let Some(closer) = closer {
        closer.join().unwrap();
    }
    drop(stream);
    let _ = session.close();
    line.eof();
    // The notifier may be called on a thread of its own, which this check doesn't know. It must be
    // called exactly once. A second call fails the check as well.
    while calls.load(SeqCst) == 0 {
        thread::yield_now();
    }
    assert_eq!(calls.load(SeqCst), 1);
}

fn both_ends() {
    let (a, b) = super::line::pair();
    let client = Session::client(a, quiet()).expect("it is valid");
    let server = Session::server(b, quiet()).expect("it is valid");
    let echo = spawn(move || {
        let stream = server.accept().unwrap();
        assert_eq!(stream.name(), "e");
        let mut buf = [0; 8];
        loop {
            match (&stream).read(&mut buf).unwrap() {
                0 => break,
                n => (&stream).write_all(&buf[..n]).unwrap(),
            }
        }
        drop(stream);
        server.close().unwrap();
    });
    let mut stream = client.open("e").unwrap();
    let writer = spawn({
        let mut stream = stream.clone();
        move || {
            stream.write_all(b"abc").unwrap();
            stream.write_all(b"defg").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
    });
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"abcdefg");
    writer.join().unwrap();
    drop(stream);
    let _ = client.close(); // This is Ok after a proper close and also after the peer's clean end.
    echo.join().unwrap();
}

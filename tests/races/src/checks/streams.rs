//! One stream without the engine. Its calls run against deliveries, transmissions, limits and
//! endings.

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use facade::sched::choose;
use facade::time::advance;
use parking_lot::Mutex;

use super::Check;
use crate::proto::chunks::{Chunk, charge_for};
use crate::proto::stream::{Lane, Transmit};
use crate::sync::shaper::{Queue, Signal, shaper};
use crate::sync::stream::{Direction, Env, Name, SharedStream, Take, Wakes};
use crate::wire::MAX_PAYLOAD;
use crate::{Config, Error, INITIAL_WINDOW};

pub const CHECKS: &[Check] = &[
    Check {
        name: "stream_reads",
        about: "lost wake-up: two reads against small deliveries, gathered wake-ups and FIN",
        time: false,
        reaches: false,
        body: stream_reads,
    },
    Check {
        name: "stream_reads_pass_on",
        about: "lost wake-up: three reads of one delivery: one that leaves data wakes the next",
        time: false,
        reaches: false,
        body: stream_reads_pass_on,
    },
    Check {
        name: "stream_reads_large",
        about: "lost wake-up: two reads that copy outside the lock against deliveries and FIN",
        time: false,
        reaches: false,
        body: stream_reads_large,
    },
    Check {
        name: "stream_reads_cut",
        about: "a read that copies outside the lock against a cut or a close that discards the \
                data: no end where there is none",
        time: false,
        reaches: false,
        body: stream_reads_cut,
    },
    Check {
        name: "stream_writes",
        about: "lost wake-up, scheduled flag against poll_transmit: two writes and a flush, a \
                queue of 3 bytes, the writer; \
            each call's bytes stay together",
        time: false,
        reaches: false,
        body: stream_writes,
    },
    Check {
        name: "stream_writes_large",
        about: "two writes that copy outside the lock: each call's bytes stay together",
        time: false,
        reaches: false,
        body: stream_writes_large,
    },
    Check {
        name: "stream_writes_give_up",
        about: "lost wake-up: the first write of the queue gives up, and the next fits",
        time: true,
        reaches: false,
        body: stream_writes_give_up,
    },
    Check {
        name: "stream_lent",
        about: "data that a user's writer holds against a cut or a close, which refund its \
                charge",
        time: false,
        reaches: false,
        body: stream_lent,
    },
    Check {
        name: "stream_credit",
        about: "lost wake-up: two writes without credit against UPDs",
        time: false,
        reaches: false,
        body: stream_credit,
    },
    Check {
        name: "stream_unsolicited",
        about: "lost wake-up: two streams' writes wait for allowance, one of them \
                fails, and there is enough for one",
        time: false,
        reaches: false,
        body: stream_unsolicited,
    },
    Check {
        name: "stream_schedule",
        about: "scheduled flag against poll_transmit: writes, window updates and FIN from three \
                threads; all is sent, none twice",
        time: false,
        reaches: false,
        body: stream_schedule,
    },
    Check {
        name: "stream_limits",
        about: "deadline, timeout, no-data timeout and non-blocking mode set while read, write \
                and flush wait",
        time: true,
        reaches: false,
        body: stream_limits,
    },
    Check {
        name: "stream_limits_move",
        about: "a deadline is moved near and far while a read waits and time passes",
        time: true,
        reaches: false,
        body: stream_limits_move,
    },
    Check {
        name: "stream_endings",
        about: "close, failure, detach and end against read, write, flush, a delivery and the \
                writer",
        time: false,
        reaches: false,
        body: stream_endings,
    },
    Check {
        name: "stream_double_close",
        about: "three closes, a shutdown and an end: one of them ends it, one gets the notifier; \
                one FIN",
        time: false,
        reaches: false,
        body: stream_double_close,
    },
    Check {
        name: "stream_notifier",
        about: "set_notifier twice against close: the notifier that isn't replaced is called once",
        time: false,
        reaches: false,
        body: stream_notifier,
    },
];

const SECOND: Duration = Duration::from_secs(1);

/// Returns a stream of version 1, for checks that need any stream.
pub fn stream(id: u32) -> Arc<SharedStream> {
    SharedStream::new(id, Name::new(b"", None), &Config::new(), false, Instant::now())
}

/// A stream and its environment.
struct Fixture {
    env: Env,
    stream: Arc<SharedStream>,
}

/// The sent frames and data.
#[derive(Debug, Default)]
struct Sent {
    data: Vec<u8>,
    frames: String,
}

fn fixture(config: Config) -> (Arc<Fixture>, Queue) {
    config.validate().expect("a configuration that sessions take");
    let (shaper, queue) = shaper();
    let stream = SharedStream::new(3, Name::new(b"", None), &config, true, Instant::now());
    let env = Env::new(config, shaper);
    (Arc::new(Fixture { env, stream }), queue)
}

impl Fixture {
    /// Runs `work` on a thread.
    fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Env, &Arc<SharedStream>) -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let fixture = Arc::clone(self);
        thread::spawn(move || work(&fixture.env, &fixture.stream))
    }

    /// Runs a writer thread that does the same as the engine's, without a transport. It ends at the
    /// signal to finish, when nothing is left to send.
    fn writer(self: &Arc<Self>, mut queue: Queue) -> thread::JoinHandle<Sent> {
        let parker = queue.parker();
        self.spawn(move |env, stream| {
            let mut sent = Sent::default();
            loop {
                let finish = env.shaper.is_signalled(Signal::Finish);
                if let Some((stream, lane)) = next(&mut queue) {
                    transmit(env, &stream, lane, &mut queue, &mut sent);
                } else if finish {
                    assert!(!queue.has_ready());
                    assert_eq!(stream.id, 3);
                    return sent;
                } else {
                    parker.park(&env.shaper, None);
                }
            }
        })
    }

    fn finish(&self) {
        self.env.shaper.signal(Signal::Finish);
    }
}

fn next(queue: &mut Queue) -> Option<(Arc<SharedStream>, Lane)> {
    let express = queue.next_express().map(|stream| (stream, Lane::Express));
    express.or_else(|| queue.next_bulk().map(|stream| (stream, Lane::Bulk)))
}

fn transmit(env: &Env, stream: &Arc<SharedStream>, lane: Lane, queue: &mut Queue, sent: &mut Sent) {
    let transmitted = stream.transmit(env, lane, MAX_PAYLOAD, |frame| match frame {
        Transmit::Syn => sent.frames.push('S'),
        Transmit::Update { .. } => sent.frames.push('U'),
        Transmit::Fin => sent.frames.push('F'),
        Transmit::Data(payload) => {
            sent.frames.push('D');
            sent.data.extend_from_slice(&payload.into_buffer()[crate::wire::HEADER_LEN..]);
        }
    });
    if transmitted.again {
        queue.requeue(Arc::clone(stream));
    }
    if transmitted.wake_blocked_write {
        stream.wake_blocked_write();
    }
    if transmitted.data > 0 || transmitted.fin {
        stream.mark_written(transmitted.data, transmitted.fin, Instant::now());
    }
}

fn read_to_end(env: &Env, stream: &Arc<SharedStream>, size: usize) -> Vec<u8> {
    let mut buf = vec![0; size];
    let mut all = Vec::new();
    loop {
        match stream.read(env, &mut buf, || false).unwrap() {
            0 => return all,
            n => all.extend_from_slice(&buf[..n]),
        }
    }
}

/// Writes as the library's own `write_all` does: the caller unparks the writer.
fn write_all(env: &Env, stream: &Arc<SharedStream>, data: &[u8]) -> Result<(), Error> {
    let written = stream.write(env, data, Take::All)?;
    assert_eq!(written.accepted, data.len());
    env.shaper.unpark(written.wakeup);
    Ok(())
}

/// Delivers as the reader thread does.
fn deliver(env: &Env, stream: &Arc<SharedStream>, data: &[u8], wakes: &mut Wakes) {
    use crate::proto::chunks::{Chunk, charge_for};
    use crate::sync::stream::Small;
    let now = Instant::now();
    match stream.deliver_small(env, data, now, wakes).unwrap() {
        Small::Needs { merged, size } => {
            let mut buffer = env.pool.get(size.min(MAX_PAYLOAD)).unwrap();
            let charge = env.budget.charge(charge_for(&buffer));
            let rest = &data[merged..];
            buffer[..rest.len()].copy_from_slice(rest);
            stream.deliver(env, Chunk::new(buffer, 0, rest.len(), charge), now, wakes);
        }
        Small::Done | Small::Late => {}
    }
}

fn stream_reads() {
    let (fixture, _queue) = fixture(Config::new());
    let (count, counted) = crossbeam_channel::unbounded();
    let readers = [2, 3].map(|size| {
        let count = count.clone();
        fixture.spawn(move |env, stream| {
            let mut buf = vec![0; size];
            loop {
                match stream.read(env, &mut buf, || false).unwrap() {
                    0 => return,
                    n => count.send(buf[..n].to_vec()).unwrap(),
                }
            }
        })
    });
    let mut wakes = Wakes::default();
    for data in [&b"abc"[..], b"d", b"efgh"] {
        deliver(&fixture.env, &fixture.stream, data, &mut wakes);
        if data.len() != 1 {
            wakes.send(); // The second delivery waits for the third's wake-up.
        }
    }
    // FIN wakes all readers, so everything has to be read before.
    let mut all = Vec::new();
    while all.len() < 8 {
        all.extend(counted.recv().unwrap());
    }
    assert!(fixture.stream.peer_fin(Instant::now()));
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    all.sort_unstable();
    assert_eq!(all, b"abcdefgh");
    assert_eq!(fixture.env.budget.used(), 0);
}

fn stream_reads_pass_on() {
    let (fixture, _queue) = fixture(Config::new());
    let readers = [(); 3]
        .map(|()| fixture.spawn(|env, stream| stream.read(env, &mut [0; 2], || false).unwrap()));
    let mut wakes = Wakes::default();
    deliver(&fixture.env, &fixture.stream, b"abcdef", &mut wakes);
    wakes.send(); // There is one wake-up for three waiting reads.
    assert_eq!(readers.map(|reader| reader.join().unwrap()), [2, 2, 2]);
}

/// Delivers a chunk that is too large to be copied under the lock.
fn deliver_large(fixture: &Fixture, data: &[u8], wakes: &mut Wakes) {
    let mut buffer = fixture.env.pool.get(data.len()).unwrap();
    buffer[..data.len()].copy_from_slice(data);
    let charge = fixture.env.budget.charge(charge_for(&buffer));
    fixture.stream.admit(&fixture.env, data.len()).unwrap();
    fixture.stream.deliver(
        &fixture.env,
        Chunk::new(buffer, 0, data.len(), charge),
        Instant::now(),
        wakes,
    );
}

fn stream_reads_cut() {
    let (fixture, _queue) = fixture(Config::new());
    let reader = fixture.spawn(|env, stream| stream.read(env, &mut [0; 6000], || false));
    let mut wakes = Wakes::default();
    deliver_large(&fixture, &[1; 5000], &mut wakes);
    wakes.send();
    let _ = match choose(2) {
        0 => fixture.stream.fail(&fixture.env, Error::Timeout, true),
        _ => fixture.stream.close(&fixture.env),
    };
    assert!(!matches!(reader.join().unwrap(), Ok(0)), "there was no FIN");
    assert_eq!(fixture.env.budget.used(), 0);
}

fn stream_reads_large() {
    const LEN: usize = 5000;
    let (fixture, _queue) = fixture(Config::new());
    let readers =
        [6000, 4500].map(|size| fixture.spawn(move |env, stream| read_to_end(env, stream, size)));
    let mut wakes = Wakes::default();
    for byte in [1, 2] {
        deliver_large(&fixture, &[byte; LEN], &mut wakes);
        wakes.send();
    }
    fixture.stream.peer_fin(Instant::now());
    let all = readers.map(|reader| reader.join().unwrap()).concat();
    let count = |byte| all.iter().filter(|&&other| other == byte).count();
    assert_eq!((all.len(), count(1), count(2)), (2 * LEN, LEN, LEN));
    assert_eq!(fixture.env.budget.used(), 0);
}

fn stream_writes() {
    let (fixture, queue) = fixture(Config::new().max_send_buffer(3));
    let writer = fixture.writer(queue);
    let writes = [b"aaaa", b"bbbb"].map(|data| {
        fixture.spawn(move |env, stream| {
            write_all(env, stream, data).unwrap();
            stream.flush().unwrap();
        })
    });
    for write in writes {
        write.join().unwrap();
    }
    fixture.finish();
    let sent = writer.join().unwrap();
    assert!(
        sent.data == b"aaaabbbb" || sent.data == b"bbbbaaaa",
        "a call's bytes lie together: {sent:?}"
    );
    assert!(sent.frames.starts_with('S') && sent.frames.matches('S').count() == 1, "{sent:?}");
}

fn stream_writes_large() {
    const LEN: usize = 5000;
    let (fixture, queue) =
        fixture(Config::new().max_send_buffer(3 * LEN).max_frame_size(LEN - 100));
    let writer = fixture.writer(queue);
    let writes = [1, 2, 3].map(|byte| {
        // The third write is small, and must not come between the pieces of the others.
        let len = if byte == 3 { 10 } else { LEN };
        fixture.spawn(move |env, stream| {
            let written = stream.write(env, &vec![byte; len], Take::WhatFits).unwrap();
            env.shaper.unpark(written.wakeup);
            (byte, written.accepted)
        })
    });
    let accepted = writes.map(|write| write.join().unwrap());
    fixture.finish();
    let sent = writer.join().unwrap();
    let mut runs: Vec<(u8, usize)> =
        sent.data.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
    runs.sort_unstable();
    assert_eq!(runs, accepted, "one call's bytes lie together");
}

/// The first write of the queue waits for more room than there ever is, and gives up. The one
/// behind it fits.
fn stream_writes_give_up() {
    let (fixture, _queue) = fixture(Config::new().max_send_buffer(5000));
    write_all(&fixture.env, &fixture.stream, &[0; 4950]).unwrap(); // Nobody sends the queued data.
    fixture.stream.set_timeout(Direction::Write, Some(2 * SECOND));
    let given_up = Arc::new(AtomicUsize::new(0));
    let head = fixture.spawn({
        let given_up = Arc::clone(&given_up);
        move |env, stream| {
            let result = stream.write(env, &[1; 97], Take::WhatFits);
            given_up.store(1, SeqCst);
            result.map(|written| written.accepted)
        }
    });
    advance(SECOND);
    let next = fixture.spawn(|env, stream| {
        stream.write(env, &[2; 30], Take::WhatFits).map(|written| written.accepted)
    });
    while given_up.load(SeqCst) == 0 {
        advance(SECOND);
        thread::yield_now();
    }
    // The second write's own time may have passed, too. If not, only the end of the head's wait
    // wakes it.
    assert!(matches!(head.join().unwrap(), Err(Error::Timeout)));
    let next = next.join().unwrap();
    assert!(matches!(next, Ok(30) | Err(Error::Timeout)), "{next:?}");
}

/// A writer that reports each call, and then waits.
struct Slow(crossbeam_channel::Sender<()>, crossbeam_channel::Receiver<()>);

impl std::io::Write for Slow {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.send(()).unwrap();
        self.1.recv().unwrap();
        Ok(data.len().min(100))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn stream_lent() {
    let (fixture, _queue) = fixture(Config::new());
    let (say, heard) = crossbeam_channel::unbounded();
    let (go, told) = crossbeam_channel::unbounded();
    let mover = fixture.spawn(|env, stream| stream.write_to(env, &mut Slow(say, told)));
    let mut wakes = Wakes::default();
    deliver_large(&fixture, &[1; 5000], &mut wakes);
    wakes.send();
    heard.recv().unwrap();
    let _ = match choose(2) {
        0 => fixture.stream.fail(&fixture.env, Error::Timeout, true),
        _ => fixture.stream.close(&fixture.env),
    };
    assert_eq!(
        (fixture.stream.occupied(), fixture.env.budget.used()),
        (0, 0),
        "the writer is still inside"
    );
    go.send(()).unwrap();
    assert!(mover.join().unwrap().is_err(), "there was no FIN");
    assert_eq!((fixture.stream.occupied(), fixture.env.budget.used()), (0, 0));
}

fn stream_credit() {
    let (fixture, queue) = fixture(Config::new().version(2).max_send_buffer(1 << 20));
    let env = &fixture.env;
    let stream = &fixture.stream;
    let writer = fixture.writer(queue);
    // This uses up the window that a stream begins with.
    write_all(env, stream, &[0; INITIAL_WINDOW as usize]).unwrap();
    stream.flush().unwrap(); // A peer can't have consumed data that wasn't sent.
    let writes = [1, 2]
        .map(|byte| fixture.spawn(move |env, stream| write_all(env, stream, &[byte; 4]).unwrap()));
    let mut wakes = Wakes::default();
    for consumed in [3, 8] {
        stream.update(env, (consumed, INITIAL_WINDOW), Instant::now(), &mut wakes).unwrap();
        wakes.send();
    }
    for write in writes {
        write.join().unwrap();
    }
    fixture.finish();
    let sent = writer.join().unwrap();
    let mut rest = sent.data[INITIAL_WINDOW as usize..].to_vec();
    rest.sort_unstable();
    assert_eq!(rest, [1, 1, 1, 1, 2, 2, 2, 2]);
}

fn stream_unsolicited() {
    const PIECE: usize = 4096;
    let (fixture, _queue) = fixture(Config::new().version(2));
    let other =
        SharedStream::new(5, Name::new(b"", None), &fixture.env.config, false, Instant::now());
    // Four streams hold everything beyond the shares. These two streams hold their shares.
    let first = u64::from(INITIAL_WINDOW);
    (0..4).for_each(|_| assert_eq!(fixture.env.allowance.take(0, first), first));
    let share = [&fixture.stream, &other]
        .map(|stream| stream.write(&fixture.env, &[0; 1 << 16], Take::WhatFits).unwrap().accepted);
    let write = |stream: &Arc<SharedStream>| {
        let stream = Arc::clone(stream);
        fixture.spawn(move |env, _| {
            stream.write(env, &[1; PIECE], Take::WhatFits).map(|written| written.accepted)
        })
    };
    let fails = write(&fixture.stream);
    let goes_on = write(&other);
    let failing = fixture.spawn(|env, stream| {
        let _ = stream.fail(env, Error::Closed, false);
    });
    // There is enough for one of them, beyond the two shares.
    let give = |bytes: usize| {
        fixture.env.allowance.change(bytes as u64, 0);
        fixture.env.wake_allowance_waiters(false);
    };
    give(share[0] + share[1] + PIECE);
    failing.join().unwrap();
    match fails.join().unwrap() {
        Ok(taken) => {
            assert_eq!(taken, PIECE);
            give(PIECE);
        }
        Err(error) => assert!(matches!(error, Error::Closed)),
    }
    assert_eq!(goes_on.join().unwrap().unwrap(), PIECE);
}

fn stream_schedule() {
    let config = Config::new().version(2).max_stream_buffer(8);
    let (fixture, mut queue) = fixture(config);
    let parker = queue.parker();
    let writer = fixture.spawn(move |env, _| {
        let mut sent = Sent::default();
        loop {
            let finish = env.shaper.is_signalled(Signal::Finish);
            // A stream is in a lane at most once. This check looks at both lanes together.
            let mut taken = VecDeque::new();
            while let Some(turn) = next(&mut queue) {
                taken.push_back(turn);
            }
            // A stream may have been queued again between two looks only after its turn, which
            // hasn't come yet.
            for lane in [Lane::Express, Lane::Bulk] {
                assert!(
                    taken.iter().filter(|(_, other)| *other == lane).count() <= 1,
                    "in a lane twice"
                );
            }
            let idle = taken.is_empty();
            for (stream, lane) in taken {
                transmit(env, &stream, lane, &mut queue, &mut sent);
            }
            if idle && finish {
                return sent;
            }
            if idle {
                parker.park(&env.shaper, None);
            }
        }
    });
    let write = fixture.spawn(|env, stream| write_all(env, stream, &[7; 3000]).unwrap());
    let more = fixture.spawn(|env, stream| {
        for _ in 0..2 {
            write_all(env, stream, b"x").unwrap();
        }
    });
    let read = fixture.spawn(|env, stream| {
        let mut got = 0;
        while got < 8 {
            got += stream.read(env, &mut [0; 4], || false).unwrap();
        }
    });
    let mut wakes = Wakes::default();
    for _ in 0..2 {
        deliver(&fixture.env, &fixture.stream, b"1234", &mut wakes);
        wakes.send();
    }
    write.join().unwrap();
    more.join().unwrap();
    let _ = fixture.stream.finish(&fixture.env);
    read.join().unwrap();
    fixture.finish();
    let Sent { data, frames } = writer.join().unwrap();
    assert_eq!(data.len(), 3002, "{frames}");
    assert!(frames.starts_with('S') && frames.matches('S').count() == 1, "{frames}");
    assert!(frames.contains('U') && frames.matches('U').count() <= 2, "{frames}");
    assert!(
        frames.matches('F').count() == 1 && !frames[frames.find('F').unwrap()..].contains('D'),
        "{frames}"
    );
}

/// Each of three waiting calls ends by a limit. The limit is set while the call waits, or before,
/// or after. Time passes the limit at any moment.
fn stream_limits() {
    let (fixture, _queue) = fixture(Config::new().max_send_buffer(1));
    let stream = &fixture.stream;
    write_all(&fixture.env, stream, b"x").unwrap(); // The queue is full, and nobody sends.
    let read = fixture.spawn(|env, stream| stream.read(env, &mut [0], || false).map(drop));
    let write = fixture.spawn(|env, stream| stream.write(env, b"y", Take::WhatFits).map(drop));
    let flush = fixture.spawn(|_, stream| stream.flush());
    let kind = facade::sched::choose(4);
    let set = fixture.spawn(move |_, stream| match kind {
        0 => {
            stream.set_deadline(Direction::Read, Some(Instant::now()));
            stream.set_deadline(Direction::Write, Some(Instant::now()));
        }
        1 => {
            stream.set_timeout(Direction::Read, Some(SECOND));
            stream.set_timeout(Direction::Write, Some(SECOND));
            advance(2 * SECOND);
            advance(2 * SECOND); // A call may have begun since.
        }
        2 => {
            stream.set_no_data_timeout(Some(SECOND));
        }
        _ => stream.set_nonblocking(true),
    });
    if kind == 2 {
        // The limit fires for one call at a time, and then its clock starts again. So time has to
        // pass for each.
        let clock = fixture.spawn(|_, _| {
            for _ in 0..12 {
                advance(2 * SECOND);
                thread::yield_now();
            }
        });
        clock.join().unwrap();
        set.join().unwrap();
        for _ in 0..3 {
            advance(2 * SECOND);
        }
        stream.set_nonblocking(true);
    } else {
        set.join().unwrap();
        if kind == 1 {
            advance(2 * SECOND);
            stream.set_nonblocking(true); // This is for calls that begin only now.
        }
    }
    for call in [read, write, flush] {
        let error = call.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Timeout | Error::NoData(_) | Error::WouldBlock), "{error}");
    }
}

fn stream_limits_move() {
    let (fixture, _queue) = fixture(Config::new());
    let start = Instant::now();
    let read = fixture.spawn(|env, stream| stream.read(env, &mut [0], || false));
    let far = facade::sched::choose(2) == 0;
    let mover = fixture.spawn(move |_, stream| {
        stream.set_deadline(Direction::Read, Some(start + 5 * SECOND));
        stream.set_deadline(Direction::Read, if far { None } else { Some(start + 50 * SECOND) });
        stream.set_deadline(Direction::Read, Some(start + 2 * SECOND));
    });
    let clock = thread::spawn(|| {
        for _ in 0..3 {
            advance(SECOND);
        }
    });
    // Whichever change comes last, the read is past its deadline then. It must not wait for the
    // limit that held when it began.
    mover.join().unwrap();
    clock.join().unwrap();
    assert!(matches!(read.join().unwrap(), Err(Error::Timeout)));
    assert!(Instant::now() == start + 3 * SECOND);
}

fn stream_endings() {
    let (fixture, queue) = fixture(Config::new().max_send_buffer(2));
    let writer = fixture.writer(queue);
    let calls = [
        fixture.spawn(|env, stream| {
            let mut total = 0;
            loop {
                match stream.read(env, &mut [0; 2], || false) {
                    Ok(0) => return (total, None),
                    Ok(n) => total += n,
                    Err(error) => return (total, Some(error)),
                }
            }
        }),
        fixture.spawn(|env, stream| (0, write_all(env, stream, b"abcdef").err())),
        fixture.spawn(|_, stream| (0, stream.flush().err())),
    ];
    let deliverer = fixture.spawn(|env, stream| {
        let mut wakes = Wakes::default();
        deliver(env, stream, b"123", &mut wakes);
        wakes.send();
    });
    let how = facade::sched::choose(4);
    let env = &fixture.env;
    let stream = &fixture.stream;
    let ended = match how {
        0 => stream.close(env),
        1 => stream.fail(env, Error::Timeout, false),
        2 => stream.detach(env, &Arc::new(Error::Closed)),
        _ => stream.end(env, &Arc::new(Error::PeerClosed)),
    };
    assert!(ended.first && ended.notifier.is_none());
    drop(ended);
    assert!(stream.closed().recv().is_err());
    let [(read, read_error), (_, write_error), (_, flush_error)] =
        calls.map(|call| call.join().unwrap());
    deliverer.join().unwrap();
    fixture.finish();
    let sent = writer.join().unwrap();
    assert!(read <= 3 && read_error.is_some(), "a read ends with an error, for there was no FIN");
    for error in [read_error, write_error.clone(), flush_error].into_iter().flatten() {
        let error = match error {
            Error::PartialWrite { source, .. } => Error::clone(&source),
            error => error,
        };
        let expected = match how {
            0 | 2 => matches!(error, Error::Closed),
            // A later write gets the failure, too.
            1 => matches!(error, Error::Timeout),
            _ => matches!(error, Error::PeerClosed),
        };
        assert!(expected, "{how}: {error}");
    }
    assert!(b"abcdef".starts_with(&sent.data), "{sent:?}");
    let fins = sent.frames.matches('F').count();
    assert_eq!(fins, usize::from(how < 2), "{how}: {sent:?}");
    if write_error.is_none() && how != 3 && how != 1 {
        assert_eq!(sent.data, b"abcdef", "what was accepted is sent");
    }
}

fn stream_double_close() {
    let (fixture, queue) = fixture(Config::new());
    let writer = fixture.writer(queue);
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let notifier = move |_: &Arc<SharedStream>| {
        count.fetch_add(1, SeqCst);
    };
    let _ = fixture.stream.set_notifier(Box::new(notifier));
    write_all(&fixture.env, &fixture.stream, b"ab").unwrap();
    let results = Arc::new(Mutex::new((0, 0)));
    let ending = |end: fn(&Env, &Arc<SharedStream>) -> crate::sync::stream::Ended| {
        let results = Arc::clone(&results);
        fixture.spawn(move |env, stream| {
            let mut ended = end(env, stream);
            let mut results = results.lock();
            results.0 += usize::from(ended.first);
            results.1 += usize::from(ended.closed);
            drop(results);
            if let Some(notifier) = ended.notifier.take() {
                notifier(stream);
            }
        })
    };
    let threads = [
        ending(|env, stream| stream.close(env)),
        ending(|env, stream| stream.close(env)),
        ending(|env, stream| stream.close(env)),
        ending(|env, stream| stream.finish(env)),
        ending(|env, stream| stream.detach(env, &Arc::new(Error::Closed))),
    ];
    for thread in threads {
        thread.join().unwrap();
    }
    fixture.finish();
    let sent = writer.join().unwrap();
    let results = results.lock();
    assert_eq!((results.0, results.1, called.load(SeqCst)), (1, 1, 1), "ended, closed, notified");
    // If its session was closing first, it gets no FIN.
    assert!(sent.frames.matches('F').count() <= 1 && sent.data == b"ab", "{sent:?}");
}

fn stream_notifier() {
    let (fixture, _queue) = fixture(Config::new());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let setters = [1, 2].map(|n| {
        let calls = Arc::clone(&calls);
        fixture.spawn(move |_, stream| {
            let (replaced, due) = stream.set_notifier(Box::new(move |_| calls.lock().push(n)));
            if let Some(due) = due {
                due(stream);
            }
            usize::from(replaced.is_some())
        })
    });
    let closer = fixture.spawn(|env, stream| {
        if let Some(notifier) = stream.close(env).notifier.take() {
            notifier(stream);
        }
    });
    closer.join().unwrap();
    let replaced: usize = setters.map(|setter| setter.join().unwrap()).iter().sum();
    let mut calls = calls.lock().clone();
    calls.sort_unstable();
    calls.dedup();
    assert_eq!(calls.len() + replaced, 2, "each was replaced or called");
}

//! One stream between the application's threads, which block, and the session's two threads, which
//! must not. The tests play both of these: they deliver the peer's frames and take the stream's
//! turns. A thread is known to be blocked when the stream counts it as waiting, since a waiting
//! call unlocks the stream only inside its wait.

mod endings;
mod peer;
mod reading;
mod transmit;
mod unsolicited;
mod waits;
mod writing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Env, Name, SharedStream, Small, Take, Wakes};
use crate::config::Config;
use crate::error::Result;
use crate::proto::chunks::{Chunk, charge_for};
use crate::proto::stream::{Lane, Received, Transmit};
use crate::sync::shaper::{Queue, shaper};
use crate::sync::testing::{Watchdog, until, watched};

/// A stream, with the parts of its session.
struct Bench {
    stream: Arc<SharedStream>,
    env: Arc<Env>,
    queue: Queue,
    /// The time at which the stream was created.
    start: Instant,
    _dog: Watchdog,
}

/// The number of calls that wait on a stream: reads, writes, flushes.
type Waiting = (u32, u32, u32);

const NOBODY: Waiting = (0, 0, 0);

/// The frames that a turn has sent.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Syn,
    Update(u32, u32),
    Data(Vec<u8>),
    Fin,
}

impl Bench {
    /// A stream that the peer has opened. It owes no SYN.
    fn new(config: Config) -> Self {
        Self::opened(config, false)
    }

    fn opened(config: Config, ours: bool) -> Self {
        let (shaper, queue) = shaper();
        let env = Env::new(config, shaper);
        let start = Instant::now();
        let stream = SharedStream::new(3, Name::new(b"name", None), &env.config, ours, start);
        Self { stream, env: Arc::new(env), queue, start, _dog: Watchdog::new() }
    }

    fn v1() -> Self {
        Self::new(Config::new())
    }

    fn v2() -> Self {
        Self::new(Config::new().version(2))
    }

    /// A stream of version 2 whose outbox takes `max` bytes.
    fn with_queue(max: usize) -> Self {
        Self::new(Config::new().version(2).max_send_buffer(max))
    }

    // ---- the application ------------------------------------------------------------------------

    fn read(&self, n: usize) -> Result<Vec<u8>> {
        read(&self.stream, &self.env, n)
    }

    fn write(&self, data: &[u8]) -> Result<usize> {
        write(&self.stream, &self.env, data)
    }

    /// Makes a call in a thread of its own.
    fn spawn<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Arc<SharedStream>, &Env) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let stream = Arc::clone(&self.stream);
        let env = Arc::clone(&self.env);
        thread::spawn(move || call(&stream, &env))
    }

    /// Makes a call in a thread of its own. Returns when one more call waits than before.
    fn blocked<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Arc<SharedStream>, &Env) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let sum = |(a, b, c): Waiting| a + b + c;
        let before = sum(self.waiting());
        let thread = self.spawn(call);
        until(|| sum(self.waiting()) == before + 1 || thread.is_finished());
        assert!(!thread.is_finished(), "the call has to wait");
        thread
    }

    fn waiting(&self) -> Waiting {
        let state = self.stream.state.lock();
        (state.read_waiters, state.write_waiters, state.flush_waiters)
    }

    // ---- the session's reader -------------------------------------------------------------------

    /// Delivers data and sends the wake-ups.
    fn deliver(&self, data: &[u8]) {
        let mut wakes = Wakes::default();
        self.deliver_into(data, self.start, &mut wakes);
        wakes.send();
    }

    /// Delivers as the reader thread does. Small payloads are merged. The rest of them, and large
    /// payloads, come in chunks.
    fn deliver_into(&self, data: &[u8], now: Instant, wakes: &mut Wakes) {
        let mut rest = data;
        let mut size = data.len();
        if data.len() <= 4096 {
            match self.stream.deliver_small(&self.env, data, now, wakes).unwrap() {
                Small::Done => return,
                Small::Late => panic!("data after the end"),
                Small::Needs { merged, size: needed } => {
                    rest = &data[merged..];
                    size = needed;
                }
            }
        } else {
            match self.stream.admit(&self.env, data.len()).unwrap() {
                Received::Queue => {}
                Received::Discard => return,
                Received::Late => panic!("data after the end"),
            }
        }
        let mut buffer = self.env.pool.fit(size).unwrap();
        buffer[..rest.len()].copy_from_slice(rest);
        let charge = self.env.budget.charge(charge_for(&buffer));
        self.stream.deliver(&self.env, Chunk::new(buffer, 0, rest.len(), charge), now, wakes);
    }

    /// Delivers an UPD.
    fn update(&self, consumed: u32, window: u32) {
        let mut wakes = Wakes::default();
        self.stream.update(&self.env, (consumed, window), Instant::now(), &mut wakes).unwrap();
        wakes.send();
    }

    // ---- the session's writer -------------------------------------------------------------------

    /// Takes the stream's turn in the lane in which it is queued, and hands the frames over at
    /// once.
    fn transmit(&mut self) -> Option<Vec<Sent>> {
        let lane = match self.queue.next_express() {
            Some(_) => Lane::Express,
            None => self.queue.next_bulk().map(|_| Lane::Bulk)?,
        };
        let mut sent = Vec::new();
        let transmitted =
            self.stream.transmit(&self.env, lane, usize::MAX, |frame| sent.push(Sent::of(frame)));
        self.stream.mark_written(transmitted.data, transmitted.fin, self.start);
        if transmitted.wake_blocked_write {
            self.stream.wake_blocked_write();
        }
        if transmitted.again {
            self.queue.requeue(Arc::clone(&self.stream));
        }
        Some(sent)
    }

    /// Takes turns until the stream has nothing more to send.
    fn transmit_all(&mut self) -> Vec<Sent> {
        std::iter::from_fn(|| self.transmit()).flatten().collect()
    }

    /// Does the same, and returns the number of data bytes.
    fn send_data(&mut self) -> usize {
        let data = |sent: &Sent| if let Sent::Data(data) = sent { data.len() } else { 0 };
        self.transmit_all().iter().map(data).sum()
    }
}

impl Sent {
    fn of(frame: Transmit) -> Self {
        match frame {
            Transmit::Syn => Self::Syn,
            Transmit::Update { consumed, window } => Self::Update(consumed, window),
            Transmit::Data(payload) => Self::Data(payload.into_buffer()[8..].to_vec()),
            Transmit::Fin => Self::Fin,
        }
    }
}

/// Reads at most `n` bytes.
fn read(stream: &Arc<SharedStream>, env: &Env, n: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0; n];
    let n = stream.read(env, &mut buffer, || false)?;
    buffer.truncate(n);
    Ok(buffer)
}

/// Writes, and sends the wake-up that this owes.
fn write(stream: &Arc<SharedStream>, env: &Env, data: &[u8]) -> Result<usize> {
    let written = stream.write(env, data, Take::WhatFits)?;
    env.shaper.unpark(written.wakeup);
    Ok(written.accepted)
}

/// Returns data in which each byte shows its place.
fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i ^ (i >> 8)) as u8).collect()
}

#[test]
fn a_name_has_its_bytes_and_its_text() {
    assert_eq!(
        (Name::new(b"web", None).bytes(), Name::new(b"web", None).text()),
        (&b"web"[..], "web")
    );
    let odd = Name::new(b"w\xffb", None);
    assert_eq!((odd.bytes(), odd.text()), (&b"w\xffb"[..], "w\u{fffd}b"));
}

#[test]
fn a_new_stream_is_queued_for_its_syn() {
    let mut ours = Bench::opened(Config::new(), true);
    assert_eq!(ours.transmit_all(), []);
    ours.stream.queue_now(&ours.env);
    assert_eq!(ours.transmit_all(), [Sent::Syn]);
    let mut theirs = Bench::v1();
    theirs.stream.queue_now(&theirs.env);
    assert_eq!(theirs.transmit_all(), []);
}

#[test]
fn windows_grow_out_of_half_the_budget_less_what_is_granted() {
    let bench = Bench::new(Config::new().version(2).max_receive_buffer(1 << 20));
    assert_eq!(bench.env.spare_grant(), 1 << 19);
    // A stream is counted from its first change on: with the initial window, which the protocol
    // grants.
    bench.stream.queue_now(&bench.env);
    assert_eq!(bench.env.granted.load(SeqCst), 262_144);
    assert_eq!(bench.env.spare_grant(), (1 << 19) - 262_144);
    let _ = bench.stream.close(&bench.env);
    assert_eq!(bench.env.granted.load(SeqCst), 0, "a closed stream grants nothing");
}

#[test]
fn a_stream_is_itself_and_no_other() {
    let a = Bench::v1();
    let b = Bench::v1();
    assert!(a.stream.is(&Arc::clone(&a.stream)) && !a.stream.is(&b.stream));
}

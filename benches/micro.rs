//! Measures the parts of the data path separately, without I/O: the codec, the pool, the chunk
//! queues, the shaper, and a stream's way from `write` through `poll_transmit` to `deliver` and
//! `read`.
//!
//! The parts are private to the library. So this benchmark includes their source files by path.
//!
//! With `GMUX_PIPELINE_FRAMES=N` it measures nothing, and only sends N frames through the pipeline.
//! `GMUX_PIPELINE_BYTES` is the size of a frame's data. `benches/callgrind` uses this to count
//! instructions per frame.
#![allow(dead_code, unused_imports, reason = "the library's modules, of which this uses a part")]

#[path = "../src/config.rs"]
mod config;
#[path = "../src/engine/mod.rs"]
mod engine;
#[path = "../src/error.rs"]
mod error;
#[path = "../src/pool.rs"]
mod pool;
#[path = "../src/proto/mod.rs"]
mod proto;
#[path = "../src/session.rs"]
mod session;
#[path = "../src/stats.rs"]
mod stats;
#[path = "../src/stream.rs"]
mod stream;
#[path = "../src/sync/mod.rs"]
mod sync;
#[path = "../src/traits.rs"]
mod traits;
#[path = "../src/transport/mod.rs"]
mod transport;
#[path = "../src/wire/mod.rs"]
mod wire;

pub use config::{Config, INITIAL_WINDOW};
pub use crossbeam_channel::Receiver;
pub use error::{Error, Result};
pub use session::{Incoming, Session};
pub use stats::SessionStats;
pub use stream::Stream;
pub use traits::{CloseNotifier, MuxConn, MuxStream};

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};

use pool::BufferPool;
use proto::chunks::{Chunk, Inbox, charge_for};
use proto::outbox::Outbox;
use proto::stream::{Lane, Transmit};
use sync::budget::{Budget, Charge};
use sync::read_handoff::ReadHandoff;
use sync::shaper::{Queue, shaper};
use sync::stream::{Env, Name, SharedStream, Small, Take, Wakes};
use wire::reader::{FrameReader, SMALL_PAYLOAD_MAX, Step};
use wire::writer::Batch;
use wire::{Command, HEADER_LEN, Header};

/// The two ends of a connection, without a transport. The bytes of one end's batches go to the
/// other end's frame reader.
struct Pipeline {
    sender: Env,
    receiver: Env,
    queue: Queue,
    out: Arc<SharedStream>,
    inn: Arc<SharedStream>,
    batch: Batch,
    frames: FrameReader,
    wire: Vec<u8>,
    wakes: Wakes,
    now: Instant,
    buf: Vec<u8>,
    /// Bytes that were delivered and that the stream hasn't read yet.
    unread: usize,
}

fn env() -> (Env, Queue) {
    let config = Config::new();
    let (shaper, queue) = shaper();
    let budget = Budget::new(config.max_receive_buffer);
    let granted = std::sync::atomic::AtomicU64::new(0);
    (
        Env {
            config,
            shaper,
            budget,
            pool: BufferPool::shared(),
            granted,
            read_handoff: ReadHandoff::default(),
            allowance: Default::default(),
        },
        queue,
    )
}

impl Pipeline {
    fn new() -> Self {
        let (sender, queue) = env();
        let (receiver, _) = env();
        let now = Instant::now();
        let stream = |env: &Env, ours| {
            SharedStream::new(3, Name::new(b"bench", None), &env.config, ours, now)
        };
        let out = stream(&sender, true);
        let inn = stream(&receiver, false);
        Self {
            out,
            inn,
            sender,
            receiver,
            queue,
            batch: Batch::default(),
            frames: FrameReader::new(1, 1 << 20),
            wire: Vec::new(),
            wakes: Wakes::default(),
            now,
            buf: vec![0; 128 * 1024],
            unread: 0,
        }
    }

    /// Writes `data`, carries its frames to the other end, and reads it there.
    fn send(&mut self, data: &[u8]) {
        let mut written = 0;
        while written < data.len() {
            written +=
                self.out.write(&self.sender, &data[written..], Take::WhatFits).unwrap().accepted;
            self.transmit();
            self.receive();
            while self.unread > 0 {
                self.unread -= self.inn.read(&self.receiver, &mut self.buf, || false).unwrap();
            }
        }
    }

    fn transmit(&mut self) {
        let Self { queue, batch, sender, .. } = self;
        while let Some((stream, lane)) = queue
            .next_express()
            .map(|c| (c, Lane::Express))
            .or_else(|| queue.next_bulk().map(|c| (c, Lane::Bulk)))
        {
            let header = |command, length| Header { version: 1, command, length, stream_id: 3 };
            let transmitted = stream.transmit(sender, lane, 1 << 20, |frame| match frame {
                Transmit::Syn => batch.push_small(header(Command::Syn, 5), b"bench"),
                Transmit::Data(payload) => {
                    batch.push_frame(
                        header(Command::Psh, payload.len() as u16),
                        payload.into_buffer(),
                    );
                }
                Transmit::Update { .. } | Transmit::Fin => {}
            });
            stream.mark_written(transmitted.data, transmitted.fin, self.now);
            if transmitted.again {
                queue.requeue(stream);
            }
        }
        while !batch.is_empty() {
            batch.write_to(&mut self.wire).unwrap();
        }
    }

    fn receive(&mut self) {
        let mut input = &self.wire[..];
        loop {
            match self.frames.next().unwrap() {
                Step::NeedInput => {
                    if self.frames.fill(&mut input, self.receiver.pool).unwrap() == 0 {
                        break;
                    }
                }
                Step::Header(header) if header.command == Command::Syn => {
                    self.frames.take_buffered()
                }
                Step::Header(header) if usize::from(header.length) <= SMALL_PAYLOAD_MAX => {
                    self.frames.take_buffered()
                }
                Step::Header(_) => {
                    let payload = self.frames.prepare(self.receiver.pool).unwrap();
                    self.frames.collect(payload);
                }
                Step::Buffered(header) if header.command == Command::Syn => {}
                Step::Buffered(header) => {
                    let data = self.frames.payload();
                    let env = &self.receiver;
                    self.unread += data.len();
                    if let Small::Needs { merged, size } =
                        self.inn.deliver_small(env, data, self.now, &mut self.wakes).unwrap()
                    {
                        let mut buffer = env.pool.get(size).unwrap();
                        let rest = usize::from(header.length) - merged;
                        buffer[..rest].copy_from_slice(&data[merged..]);
                        deliver(&self.inn, env, (buffer, 0, rest), self.now, &mut self.wakes);
                    }
                }
                Step::Collected(header, payload) => {
                    let env = &self.receiver;
                    let len = usize::from(header.length);
                    self.inn.admit(env, len).unwrap();
                    self.unread += len;
                    deliver(
                        &self.inn,
                        env,
                        (payload.buffer, payload.start, len),
                        self.now,
                        &mut self.wakes,
                    );
                }
            }
        }
        self.wire.clear();
    }
}

/// Delivers `len` bytes of a buffer, from `start` on.
fn deliver(
    stream: &Arc<SharedStream>,
    env: &Env,
    (buffer, start, len): (pool::Buffer, usize, usize),
    now: Instant,
    wakes: &mut Wakes,
) {
    let charge = env.budget.try_take(charge_for(&buffer)).unwrap();
    stream.deliver(env, Chunk::new(buffer, start, len, charge), now, wakes);
}

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    let header = Header { version: 1, command: Command::Psh, length: 64, stream_id: 77 };
    group.bench_function("header_encode", |b| b.iter(|| black_box(&header).encode()));
    let bytes = header.encode();
    group
        .bench_function("header_decode", |b| b.iter(|| Header::decode(black_box(&bytes)).unwrap()));
    for length in [64_u16, 1024, 32768] {
        let frame =
            wire::Frame::new(1, Command::Psh, 3, vec![7; usize::from(length)]).unwrap().encode();
        let wire = frame.repeat(64);
        group.throughput(Throughput::Elements(64));
        group.bench_function(format!("read_64_frames_of_{length}"), |b| {
            let mut reader = FrameReader::new(1, 1 << 20);
            b.iter(|| {
                let mut input = &wire[..];
                let mut seen = 0;
                while seen < 64 {
                    match reader.next().unwrap() {
                        Step::NeedInput => {
                            let _ = reader.fill(&mut input, BufferPool::shared()).unwrap();
                        }
                        Step::Header(header) if usize::from(header.length) <= SMALL_PAYLOAD_MAX => {
                            reader.take_buffered()
                        }
                        Step::Header(_) => {
                            let payload = reader.prepare(BufferPool::shared()).unwrap();
                            reader.collect(payload);
                        }
                        Step::Buffered(_) | Step::Collected(..) => seen += 1,
                    }
                }
            });
        });
    }
}

fn queues(c: &mut Criterion) {
    let pool = BufferPool::shared();
    c.bench_function("pool/get_and_drop_32k", |b| b.iter(|| pool.get(black_box(32768))));
    c.bench_function("chunks/inbox_merge_64", |b| {
        let mut inbox = Inbox::<()>::new();
        b.iter(|| {
            if inbox.merge(&[7; 64]) < 64 {
                inbox.clear();
                inbox.push(Chunk::new(pool.get(16384).unwrap(), 0, 1, ()));
            }
        });
    });
    c.bench_function("chunks/outbox_append_64_and_pop", |b| {
        let mut outbox = Outbox::new();
        b.iter(|| {
            outbox.append(&[7; 64], 32768, pool);
            if outbox.len() > 200_000 {
                while outbox.pop().is_some() {}
            }
        });
    });
    let (env, mut queue) = env();
    let stream = SharedStream::new(3, Name::new(b"", None), &env.config, true, Instant::now());
    c.bench_function("shaper/schedule_and_take", |b| {
        b.iter(|| {
            env.shaper.unpark(env.shaper.schedule(Arc::clone(&stream), Lane::Bulk));
            queue.next_bulk()
        });
    });
}

fn pipeline(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    for size in [64, 1024, 32768] {
        let mut pipeline = Pipeline::new();
        let data = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("write_transmit_deliver_read_{size}"), |b| {
            b.iter(|| pipeline.send(&data))
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = codec, queues, pipeline
}

fn main() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    if let Some(frames) = number("GMUX_PIPELINE_FRAMES") {
        let mut pipeline = Pipeline::new();
        let data = vec![7; number("GMUX_PIPELINE_BYTES").unwrap_or(64)];
        for _ in 0..frames {
            pipeline.send(&data);
        }
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}

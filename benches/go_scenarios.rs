//! The four benchmarks that Go's gmux has: the pool's size classes, opening and closing streams,
//! and 128 KiB writes on one stream and on a bare TCP connection.
//!
//! The `conn` group measures the time from the first write until the reader at the other end has
//! every byte. Both ends are in this process, over loopback. The speed of a machine varies with its
//! other work. So in the last benchmark gmux and bare TCP do the same work by turns, and it prints
//! gmux's speed as a ratio to TCP's. Compare only these ratios.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gmux::pool::{BufferPool, msb};
use gmux::{Config, Session, Stream};

/// Size of one write, in bytes.
const WRITE: usize = 128 * 1024;

/// Warm-up time of each group.
const WARM_UP: Duration = Duration::from_secs(1);
/// Measurement time of each group.
const MEASURE: Duration = Duration::from_secs(3);

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn sessions(version: u8) -> (Session, Session) {
    let (a, b) = tcp();
    let config = Config::new().version(version);
    (Session::client(a, config.clone()).unwrap(), Session::server(b, config).unwrap())
}

fn pool(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool");
    group.warm_up_time(WARM_UP).measurement_time(WARM_UP);
    group.bench_function("msb", |b| {
        let mut size = 0;
        b.iter(|| {
            size = size % 65536 + 1;
            msb(black_box(size))
        });
    });
    let pool = BufferPool::new();
    for size in [64, 4096, 65536] {
        group.bench_with_input(BenchmarkId::new("get_put", size), &size, |b, &size| {
            b.iter(|| pool.get(black_box(size)));
        });
    }
    group.finish();
}

/// Number of streams that `accept_close` opens before it waits for them to be accepted. The default
/// backlog holds more.
const BURST: u64 = 512;

/// Opens and closes streams. The peer accepts and closes them. `accept_close` keeps many streams
/// open at once, as in Go's gmux. `round_trip` waits for each stream until the peer has closed it.
fn accept_close(c: &mut Criterion) {
    let mut group = c.benchmark_group("accept_close");
    group.warm_up_time(WARM_UP).measurement_time(2 * WARM_UP).throughput(Throughput::Elements(1));
    for version in [1, 2] {
        let (client, server) = sessions(version);
        let (accepted, count) = mpsc::channel();
        let acceptor = thread::spawn(move || {
            for (n, stream) in (1..).zip(server.incoming()) {
                stream.unwrap().close().unwrap();
                accepted.send(n).unwrap();
            }
        });
        let mut opened = 0;
        group.bench_function(format!("v{version}"), |b| {
            b.iter_custom(|streams| {
                let start = Instant::now();
                let end = opened + streams;
                while opened < end {
                    let burst = (end - opened).min(BURST);
                    for _ in 0..burst {
                        client.open("bench").unwrap().close().unwrap();
                    }
                    opened += burst;
                    assert!(count.iter().any(|n: u64| n == opened));
                }
                start.elapsed()
            });
        });
        group.bench_function(format!("round_trip_v{version}"), |b| {
            b.iter(|| {
                let mut stream = client.open("bench").unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap(), 0); // the peer's FIN
            });
        });
        client.close().unwrap();
        drop(count);
        drop(client);
        acceptor.join().unwrap();
    }
    group.finish();
}

/// Measures writes of 128 KiB. The measurement stops when the reader, a thread in the background,
/// has received all bytes.
struct Pipe<W> {
    writer: W,
    expect: mpsc::Sender<u64>,
    arrived: mpsc::Receiver<()>,
}

impl<W: Write> Pipe<W> {
    fn new(writer: W, mut reader: impl Read + Send + 'static) -> Self {
        let (expect, expected) = mpsc::channel::<u64>();
        let (arrive, arrived) = mpsc::channel();
        thread::spawn(move || {
            let mut buf = vec![0; WRITE];
            for mut left in expected {
                while left > 0 {
                    let n = reader.read(&mut buf).unwrap();
                    assert!(n > 0, "the stream ended");
                    left -= n as u64;
                }
                arrive.send(()).unwrap();
            }
        });
        Self { writer, expect, arrived }
    }

    fn run(&mut self, writes: u64) -> Duration {
        let data = vec![7; WRITE];
        let start = Instant::now();
        self.expect.send(writes * WRITE as u64).unwrap();
        for _ in 0..writes {
            self.writer.write_all(&data).unwrap();
        }
        self.arrived.recv().unwrap();
        start.elapsed()
    }
}

fn bare_pipe() -> Pipe<TcpStream> {
    let (from, to) = tcp();
    from.set_nodelay(true).unwrap();
    Pipe::new(from, to)
}

/// Returns a pipe over one stream of a session. The streams keep their sessions alive.
fn muxed_pipe(version: u8) -> Pipe<Stream> {
    let (client, server) = sessions(version);
    Pipe::new(client.open("bench").unwrap(), server.accept().unwrap())
}

fn conn(c: &mut Criterion) {
    let mut group = c.benchmark_group("conn");
    group.warm_up_time(WARM_UP).measurement_time(MEASURE).sample_size(50);
    group.throughput(Throughput::Bytes(WRITE as u64));
    let mut bare = bare_pipe();
    group.bench_function("conn_tcp", |b| b.iter_custom(|writes| bare.run(writes)));
    for version in [1, 2] {
        let mut muxed = muxed_pipe(version);
        group.bench_function(format!("conn_gmux_v{version}"), |b| {
            b.iter_custom(|writes| muxed.run(writes))
        });
    }
    group.finish();
}

/// Does the work of `conn_gmux` and `conn_tcp` by turns, which Criterion can't do. Runs only in a
/// full `cargo bench`.
fn ratios(_: &mut Criterion) {
    const ROUNDS: usize = 15;
    const WRITES: u64 = 1024; // 128 MiB
    if !std::env::args().skip(1).eq(["--bench"]) {
        return; // this is a test, a profile, or a run of other benchmarks
    }
    let mut bare = bare_pipe();
    let mut v1 = muxed_pipe(1);
    let mut v2 = muxed_pipe(2);
    let mut took = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        took[0].push(bare.run(WRITES).as_secs_f64());
        took[1].push(v1.run(WRITES).as_secs_f64());
        took[2].push(v2.run(WRITES).as_secs_f64());
    }
    let [bare, v1, v2] = took.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[ROUNDS / 2]
    });
    let rate = |seconds: f64| (WRITES * WRITE as u64) as f64 / seconds / 1e9;
    println!(
        "by turns, medians of {ROUNDS}: conn_tcp {:.2} GB/s; conn_gmux v1 {:.2} GB/s, {:.2} of \
         it; v2 {:.2} GB/s, {:.2} of it",
        rate(bare),
        rate(v1),
        bare / v1,
        rate(v2),
        bare / v2
    );
}

criterion_group!(go_scenarios, pool, accept_close, conn, ratios);
criterion_main!(go_scenarios);

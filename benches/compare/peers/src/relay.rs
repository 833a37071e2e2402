//! A relay that delays. Bytes leave a fixed time after they came in, and no faster than a given
//! rate. Each direction has a thread that reads and a thread that writes. Between them is a queue
//! of chunks. Each chunk has the time at which it is due.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::Options;

/// Size of one read, in bytes, without and with a rate. With a rate it is less than the bytes of
/// one sample of the measurement, so that single chunks don't show in the samples.
const CHUNK: usize = 64 * 1024;
const PACED_CHUNK: usize = 8 * 1024;

/// Limit of the unused link time for which a later burst may make up. A busy machine's scheduler
/// causes gaps of this length.
const SLACK: Duration = Duration::from_millis(3);

/// Time by which a sleeping thread may wake up late.
const SLEEPERS_DELAY: Duration = Duration::from_micros(200);

/// Limit of the chunks in the queue. It is far more than any row needs: rate × delay.
const QUEUE: usize = 4096;

pub fn serve(options: &Options) -> io::Result<()> {
    let to: SocketAddr = options.text("to")?.parse().map_err(io::Error::other)?;
    let delay = Duration::from_micros(options.number("rtt_us", 0) / 2);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("ADDR {}", listener.local_addr()?);
    connect(listener.accept()?.0, TcpStream::connect(to)?, delay, 0)?
        .join()
        .expect("relay panicked");
    Ok(())
}

/// Relays between `a` and `b`, with `delay` each way, at `rate` bytes per second. A rate of 0 means
/// no limit. The returned handle is that of a thread that stops when the direction from `a` to `b`
/// is over.
pub fn connect(
    a: TcpStream,
    b: TcpStream,
    delay: Duration,
    rate: u64,
) -> io::Result<thread::JoinHandle<()>> {
    a.set_nodelay(true)?;
    b.set_nodelay(true)?;
    one_way(b.try_clone()?, a.try_clone()?, delay, rate);
    Ok(one_way(a, b, delay, rate))
}

/// Sleeps until just before `due`, then looks at the clock until `due`. A system wakes a sleeper
/// late, by up to a tenth of the shortest delay.
fn wait_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()).saturating_sub(SLEEPERS_DELAY));
    while Instant::now() < due {
        thread::yield_now();
    }
}

fn one_way(
    mut from: TcpStream,
    mut to: TcpStream,
    delay: Duration,
    rate: u64,
) -> thread::JoinHandle<()> {
    let (sender, receiver) =
        mpsc::sync_channel::<(Instant, Vec<u8>)>(if rate > 0 { 16 } else { QUEUE });
    thread::spawn(move || {
        let mut buffer = vec![0; if rate > 0 { PACED_CHUNK } else { CHUNK }];
        let mut free = Instant::now(); // the time at which the link is free
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if rate > 0 {
                free = free.max(Instant::now() - SLACK)
                    + Duration::from_secs_f64(n as f64 / rate as f64);
            } else {
                free = Instant::now();
            }
            if sender.send((free + delay, buffer[..n].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, chunk) in receiver {
            wait_until(due);
            if to.write_all(&chunk).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    })
}

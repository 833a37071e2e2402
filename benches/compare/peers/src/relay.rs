//! A relay that delays: what comes in goes out after a fixed time, and no faster than a rate. For
//! each direction a thread that reads and one that writes, with a queue of what is due when between
//! them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::Options;

/// What one read takes; with a rate, less than a sample's share, so that the link is as smooth as
/// what is measured on it.
const CHUNK: usize = 64 * 1024;
const PACED_CHUNK: usize = 8 * 1024;

/// How much of the link's time that passed unused a burst may make up for: what a busy machine's
/// scheduler takes.
const SLACK: Duration = Duration::from_millis(3);

/// How late a sleeping thread may wake.
const SLEEPERS_DELAY: Duration = Duration::from_micros(200);

/// Chunks on the way: far more than rate × delay of any row.
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

/// Relays between `a` and `b`, `delay` each way, at `rate` bytes per second (0: as fast as it
/// goes). The handle ends with the direction from `a` to `b`.
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

/// Sleeps until just before `due`, and looks at the clock for the rest: a system wakes a sleeper
/// late, by as much as a tenth of the shortest delay.
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
        let mut free = Instant::now(); // when the link is next free
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

//! The workloads for blocking peers (ours and raw TCP). Each stream has one thread at each end.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::common::{
    AHEAD, BATCH, Bulk, Idle, Latencies, Options, PING, RAW_CONNECTIONS, Sink, print,
};

/// One end of a session. For raw TCP, it makes a connection for each stream.
pub trait Link: Sized + Send + Sync + 'static {
    type Stream: Read + Write + Send + 'static;
    const IS_RAW: bool = false;

    fn serve(listener: TcpListener, options: &Options) -> io::Result<Self>;
    fn dial(addr: SocketAddr, options: &Options) -> io::Result<Self>;
    fn open(&self) -> io::Result<Self::Stream>;
    fn accept(&self) -> io::Result<Self::Stream>;
    /// Frames sent so far.
    fn frames(&self) -> u64 {
        0
    }
}

pub fn run<L: Link>(workload: &str, options: &Options) -> io::Result<()> {
    match workload {
        "bulk" => bulk::<L>(options),
        "ping" => ping::<L>(options),
        "openclose" => openclose::<L>(options),
        "serve-ping" => echo(&mut listen::<L>(options)?.accept()?),
        "dial-ping" => ping_on(dial::<L>(options)?.open()?, options),
        "serve-idle" => serve_idle::<L>(options),
        "dial-idle" => dial_idle::<L>(options),
        "serve-sink" => sink(listen::<L>(options)?.accept()?, options),
        "dial-source" => source(dial::<L>(options)?.open()?, 128 * 1024),
        _ => Err(io::Error::other(format!("no workload {workload}"))),
    }
}

fn listen<L: Link>(options: &Options) -> io::Result<L> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("ADDR {}", listener.local_addr()?);
    L::serve(listener, options)
}

fn dial<L: Link>(options: &Options) -> io::Result<L> {
    L::dial(options.text("addr")?.parse().map_err(io::Error::other)?, options)
}

/// Returns the two ends of a session, both in this process.
pub fn pair<L: Link>(options: &Options) -> io::Result<(L, L)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    thread::scope(|scope| {
        let server = scope.spawn(move || L::serve(listener, options));
        Ok((L::dial(addr, options)?, server.join().expect("serve panicked")?))
    })
}

fn bulk<L: Link>(options: &Options) -> io::Result<()> {
    let (client, server) = pair::<L>(options)?;
    let bulk = Bulk::new(options);
    thread::scope(|scope| {
        let readers: Vec<_> =
            (0..bulk.streams()).map(|_| scope.spawn(|| drain(server.accept()?, &bulk))).collect();
        let mut writers = Vec::new();
        for index in 0..bulk.streams() {
            let mut stream = client.open()?;
            let bulk = &bulk;
            writers.push(scope.spawn(move || {
                let payload = bulk.payload(index);
                let mut done = 0;
                loop {
                    let last = bulk.is_last(index, done);
                    stream.write_all(&payload)?;
                    done += 1;
                    if last {
                        return io::Result::Ok(stream); // stays open until all is read
                    }
                }
            }));
        }
        let streams: Vec<_> =
            writers.into_iter().map(|writer| writer.join().expect("writer panicked")).collect();
        for reader in readers {
            reader.join().expect("reader panicked")?;
        }
        for stream in streams {
            stream?;
        }
        bulk.report(client.frames());
        Ok(())
    })
}

fn drain<S: Read>(mut stream: S, bulk: &Bulk) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes += n as u64,
        }
        if bulk.is_complete(buffer[0].into(), bytes) {
            return Ok(());
        }
    }
}

fn ping<L: Link>(options: &Options) -> io::Result<()> {
    let (client, server) = pair::<L>(options)?;
    let load = options.number("load", 0);
    let stuck = options.number("stuck", 0);
    let server = Arc::new(server);
    let mut held = Vec::new();
    for index in 0..load {
        let stream = client.open()?;
        thread::spawn(move || source(stream, 128 * 1024));
        let mut stream = server.accept()?;
        if index < stuck {
            held.push(stream);
        } else {
            thread::spawn(move || {
                let mut buffer = vec![0; 128 * 1024];
                while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
            });
        }
    }
    let stream = client.open()?;
    thread::spawn(move || echo(&mut server.accept()?));
    ping_on(stream, options)
}

fn echo(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let mut buffer = [0; PING];
    loop {
        match stream.read_exact(&mut buffer) {
            Err(_) => return Ok(()), // the other process is done
            Ok(()) => stream.write_all(&buffer)?,
        }
    }
}

fn ping_on(mut stream: impl Read + Write, options: &Options) -> io::Result<()> {
    let mut buffer = [7; PING];
    let mut latencies = Latencies::new(options);
    loop {
        let begin = Instant::now();
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        if !latencies.add(begin) {
            break;
        }
    }
    latencies.report();
    Ok(())
}

/// Opens and closes streams. The opener may be [`AHEAD`] batches of [`BATCH`] streams ahead of the
/// acceptor. No backlog refuses so few streams.
fn openclose<L: Link>(options: &Options) -> io::Result<()> {
    let (client, server) = pair::<L>(options)?;
    let span = options.seconds("secs", 0.6);
    let (accepted, batches) = mpsc::channel();
    thread::spawn(move || {
        for n in 1.. {
            let mut stream = server.accept()?;
            stream.read_exact(&mut [0])?;
            drop(stream);
            if n % BATCH == 0 && accepted.send(()).is_err() {
                break;
            }
        }
        io::Result::Ok(())
    });
    let start = Instant::now();
    let limit = if L::IS_RAW { RAW_CONNECTIONS } else { u64::MAX };
    let ahead = if L::IS_RAW { 1 } else { AHEAD };
    let mut opened = 0;
    let mut pending = 0;
    let lost = |_| io::Error::other("the acceptor failed");
    while start.elapsed() < span && opened < limit {
        for _ in 0..BATCH {
            client.open()?.write_all(&[1])?;
        }
        opened += BATCH;
        pending += 1;
        if pending == ahead {
            batches.recv().map_err(lost)?;
            pending -= 1;
        }
    }
    for _ in 0..pending {
        batches.recv().map_err(lost)?;
    }
    print(&json!({ "per_s": opened as f64 / start.elapsed().as_secs_f64(), "streams": opened }));
    Ok(())
}

/// Measures the memory of idle streams twice: when all are open and no data was sent, and after a
/// ping on each. An extra stream, which is opened first, tells both processes when to measure.
fn serve_idle<L: Link>(options: &Options) -> io::Result<()> {
    let n = options.number("n", 10_000) as usize;
    let link = listen::<L>(options)?;
    let mut first = link.accept()?;
    first.read_exact(&mut [0])?;
    let mut memory = Idle::new(n)?;
    let mut held = Vec::with_capacity(n);
    for _ in 0..n {
        held.push(link.accept()?);
        first.write_all(&[1])?;
    }
    memory.opened()?;
    first.read_exact(&mut [0])?; // the client has measured
    let mut buffer = [0; PING];
    for stream in &mut held {
        stream.read_exact(&mut buffer)?;
        stream.write_all(&buffer)?;
    }
    first.read_exact(&mut [0])?; // all answers have arrived at the client
    memory.used()
}

fn dial_idle<L: Link>(options: &Options) -> io::Result<()> {
    let n = options.number("n", 10_000) as usize;
    let link = dial::<L>(options)?;
    let mut first = link.open()?;
    first.write_all(&[1])?;
    let mut memory = Idle::new(n)?;
    let mut held = Vec::with_capacity(n);
    for _ in 0..n {
        held.push(link.open()?);
        first.read_exact(&mut [0])?; // so both ends hold them in the same order
    }
    memory.opened()?;
    first.write_all(&[1])?;
    let mut buffer = [1; PING];
    for stream in &mut held {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
    }
    first.write_all(&[1])?;
    memory.used()?;
    let _ = first.read(&mut [0]); // until the server has measured, too
    Ok(())
}

fn sink(mut stream: impl Read, options: &Options) -> io::Result<()> {
    let mut sink = Sink::new(options);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                if let Some(result) = sink.add(n) {
                    print(&result);
                    return Ok(());
                }
            }
        }
    }
}

/// Writes until the peer is gone.
fn source(mut stream: impl Write, write: usize) -> io::Result<()> {
    let payload = vec![0; write];
    while stream.write_all(&payload).is_ok() {}
    Ok(())
}

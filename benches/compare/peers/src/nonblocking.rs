//! The workloads for peers on Tokio, on the default multi-thread runtime. Each stream has one task
//! at each end. The code is the same as in `blocking`, line by line.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tokio::sync::mpsc;

use crate::common::{AHEAD, BATCH, Bulk, Idle, Latencies, Options, PING, Sink, print};

/// One end of a connection.
pub trait AsyncLink: Sized + Send + Sync + 'static {
    type Stream: Duplex;

    fn serve(
        listener: TcpListener,
        options: &Options,
    ) -> impl Future<Output = io::Result<Self>> + Send;
    fn dial(addr: SocketAddr, options: &Options) -> impl Future<Output = io::Result<Self>> + Send;
    fn open(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

pub trait Duplex: Send + 'static {
    fn read(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
    fn write_all(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
    fn close(self) -> impl Future<Output = io::Result<()>> + Send;
}

pub fn run<L: AsyncLink>(workload: &str, options: &Options) -> io::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        match workload {
            "bulk" => bulk::<L>(options).await,
            "ping" => ping::<L>(options).await,
            "openclose" => openclose::<L>(options).await,
            "serve-ping" => echo(listen::<L>(options).await?.accept().await?).await,
            // Spawn a task, here and below. A future that `block_on` runs isn't on the runtime's
            // threads.
            "dial-ping" => {
                let link = dial::<L>(options).await?;
                let pinging = tokio::spawn(ping_on(link.open().await?, Latencies::new(options)));
                pinging.await.map_err(io::Error::other)?
            }
            "serve-idle" => serve_idle::<L>(options).await,
            "dial-idle" => dial_idle::<L>(options).await,
            "serve-sink" => sink(listen::<L>(options).await?.accept().await?, options).await,
            "dial-source" => source(dial::<L>(options).await?.open().await?, 128 * 1024).await,
            _ => Err(io::Error::other(format!("no workload {workload}"))),
        }
    })
}

async fn listen<L: AsyncLink>(options: &Options) -> io::Result<L> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("ADDR {}", listener.local_addr()?);
    L::serve(listener, options).await
}

async fn dial<L: AsyncLink>(options: &Options) -> io::Result<L> {
    L::dial(options.text("addr")?.parse().map_err(io::Error::other)?, options).await
}

async fn pair<L: AsyncLink>(options: &Options) -> io::Result<(L, L)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    tokio::try_join!(L::dial(addr, options), L::serve(listener, options))
}

async fn read_exact(stream: &mut impl Duplex, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(())
}

async fn bulk<L: AsyncLink>(options: &Options) -> io::Result<()> {
    let (client, server) = pair::<L>(options).await?;
    let server = Arc::new(server);
    let bulk = Arc::new(Bulk::new(options));
    let mut tasks = Vec::new();
    for _ in 0..bulk.streams() {
        let server = Arc::clone(&server);
        let bulk = Arc::clone(&bulk);
        tasks.push(tokio::spawn(async move {
            let stream = server.accept().await?;
            drain(stream, &bulk).await
        }));
    }
    let mut writers = Vec::new();
    for index in 0..bulk.streams() {
        let mut stream = client.open().await?;
        let bulk = Arc::clone(&bulk);
        writers.push(tokio::spawn(async move {
            let payload = bulk.payload(index);
            let mut done = 0;
            loop {
                let last = bulk.is_last(index, done);
                stream.write_all(&payload).await?;
                done += 1;
                if last {
                    return io::Result::Ok(stream);
                }
            }
        }));
    }
    let mut streams = Vec::new();
    for writer in writers {
        streams.push(writer.await.map_err(io::Error::other)??);
    }
    for task in tasks {
        task.await.map_err(io::Error::other)??;
    }
    bulk.report(0);
    Ok(())
}

async fn drain(mut stream: impl Duplex, bulk: &Bulk) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes += n as u64,
        }
        if bulk.is_complete(buffer[0].into(), bytes) {
            return Ok(());
        }
    }
}

async fn ping<L: AsyncLink>(options: &Options) -> io::Result<()> {
    let (client, server) = pair::<L>(options).await?;
    let load = options.number("load", 0);
    let stuck = options.number("stuck", 0);
    let server = Arc::new(server);
    let mut held = Vec::new();
    for index in 0..load {
        let stream = client.open().await?;
        tokio::spawn(source(stream, 128 * 1024));
        let mut stream = server.accept().await?;
        if index < stuck {
            held.push(stream);
        } else {
            tokio::spawn(async move {
                let mut buffer = vec![0; 128 * 1024];
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
            });
        }
    }
    let stream = client.open().await?;
    tokio::spawn(async move { echo(server.accept().await?).await });
    tokio::spawn(ping_on(stream, Latencies::new(options))).await.map_err(io::Error::other)?
}

async fn echo(mut stream: impl Duplex) -> io::Result<()> {
    let mut buffer = [0; PING];
    loop {
        match read_exact(&mut stream, &mut buffer).await {
            Err(_) => return Ok(()), // the other process is done
            Ok(()) => stream.write_all(&buffer).await?,
        }
    }
}

async fn ping_on(mut stream: impl Duplex, mut latencies: Latencies) -> io::Result<()> {
    let mut buffer = [7; PING];
    loop {
        let begin = Instant::now();
        stream.write_all(&buffer).await?;
        read_exact(&mut stream, &mut buffer).await?;
        if !latencies.add(begin) {
            break;
        }
    }
    latencies.report();
    Ok(())
}

async fn openclose<L: AsyncLink>(options: &Options) -> io::Result<()> {
    let (client, server) = pair::<L>(options).await?;
    let span = options.seconds("secs", 0.6);
    let (accepted, mut batches) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for n in 1.. {
            let mut stream = server.accept().await?;
            read_exact(&mut stream, &mut [0]).await?;
            stream.close().await?;
            if n % BATCH == 0 && accepted.send(()).is_err() {
                break;
            }
        }
        io::Result::Ok(())
    });
    let opener = tokio::spawn(async move {
        let start = Instant::now();
        let mut opened = 0;
        let mut pending = 0;
        let lost = || io::Error::other("the acceptor failed");
        while start.elapsed() < span {
            for _ in 0..BATCH {
                let mut stream = client.open().await?;
                stream.write_all(&[1]).await?;
                stream.close().await?;
            }
            opened += BATCH;
            pending += 1;
            if pending == AHEAD {
                batches.recv().await.ok_or_else(lost)?;
                pending -= 1;
            }
        }
        for _ in 0..pending {
            batches.recv().await.ok_or_else(lost)?;
        }
        print(
            &json!({ "per_s": opened as f64 / start.elapsed().as_secs_f64(), "streams": opened }),
        );
        io::Result::Ok(())
    });
    opener.await.map_err(io::Error::other)?
}

async fn serve_idle<L: AsyncLink>(options: &Options) -> io::Result<()> {
    let n = options.number("n", 10_000) as usize;
    let link = listen::<L>(options).await?;
    let mut first = link.accept().await?;
    read_exact(&mut first, &mut [0]).await?;
    let mut memory = Idle::new(n)?;
    let mut held = Vec::with_capacity(n);
    for _ in 0..n {
        held.push(link.accept().await?);
        first.write_all(&[1]).await?;
    }
    memory.opened()?;
    read_exact(&mut first, &mut [0]).await?; // the client has measured
    let mut buffer = [0; PING];
    for stream in &mut held {
        read_exact(stream, &mut buffer).await?;
        stream.write_all(&buffer).await?;
    }
    read_exact(&mut first, &mut [0]).await?; // all answers have arrived at the client
    memory.used()
}

async fn dial_idle<L: AsyncLink>(options: &Options) -> io::Result<()> {
    let n = options.number("n", 10_000) as usize;
    let link = dial::<L>(options).await?;
    let mut first = link.open().await?;
    first.write_all(&[1]).await?;
    let mut memory = Idle::new(n)?;
    let mut held = Vec::with_capacity(n);
    for _ in 0..n {
        held.push(link.open().await?);
        // Wait for each stream, so that both ends hold them in the same order.
        read_exact(&mut first, &mut [0]).await?;
    }
    memory.opened()?;
    first.write_all(&[1]).await?;
    let mut buffer = [1; PING];
    for stream in &mut held {
        stream.write_all(&buffer).await?;
        read_exact(stream, &mut buffer).await?;
    }
    first.write_all(&[1]).await?;
    memory.used()?;
    let _ = first.read(&mut [0]).await; // until the server has measured, too
    Ok(())
}

async fn sink(mut stream: impl Duplex, options: &Options) -> io::Result<()> {
    let mut sink = Sink::new(options);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
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

async fn source(mut stream: impl Duplex, write: usize) -> io::Result<()> {
    let payload = vec![0; write];
    while stream.write_all(&payload).await.is_ok() {}
    Ok(())
}

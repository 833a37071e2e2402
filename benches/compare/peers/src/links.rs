//! The peers. For each one, the code here makes a session over TCP, opens streams and accepts them.
//! All use `TCP_NODELAY` and their default configurations. A comment states each deviation from
//! that.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use futures::future::poll_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use crate::blocking::Link;
use crate::common::Options;
use crate::nonblocking::{AsyncLink, Duplex};

/// This crate. These options deviate from the defaults:
/// - `n=` raises `accept_backlog`, because that many idle streams are opened faster than they are
///   accepted.
/// - `send=` limits the accepted and unsent data of each of thousands of active streams.
/// - `window=` is the limit to which a stream's window may grow.
pub struct Ours(pub gmux::Session);

pub fn config(options: &Options) -> gmux::Config {
    let config = gmux::Config::new().version(options.version());
    let config = if options.number("n", 0) > 0 { config.accept_backlog(20_000) } else { config };
    let config = match options.number("window", 0) {
        0 => config,
        bytes => config.max_stream_window(bytes as usize),
    };
    match options.number("send", 0) {
        0 => config,
        bytes => config.max_send_buffer(bytes as usize),
    }
}

impl Link for Ours {
    type Stream = gmux::Stream;

    fn serve(listener: TcpListener, options: &Options) -> io::Result<Self> {
        Ok(Self(gmux::Session::server(listener.accept()?.0, config(options))?))
    }

    fn dial(addr: SocketAddr, options: &Options) -> io::Result<Self> {
        Ok(Self(gmux::Session::client(TcpStream::connect(addr)?, config(options))?))
    }

    fn open(&self) -> io::Result<gmux::Stream> {
        Ok(self.0.open("")?)
    }

    fn accept(&self) -> io::Result<gmux::Stream> {
        Ok(self.0.accept()?)
    }

    fn frames(&self) -> u64 {
        self.0.stats().frames_sent
    }
}

/// Bare TCP. It has a connection for each stream.
pub enum Raw {
    Dial(SocketAddr),
    Listen(TcpListener),
}

impl Link for Raw {
    type Stream = TcpStream;
    const IS_RAW: bool = true;

    fn serve(listener: TcpListener, _: &Options) -> io::Result<Self> {
        Ok(Self::Listen(listener))
    }

    fn dial(addr: SocketAddr, _: &Options) -> io::Result<Self> {
        Ok(Self::Dial(addr))
    }

    fn open(&self) -> io::Result<TcpStream> {
        let Self::Dial(addr) = self else { return Err(io::Error::other("not the opener")) };
        let tcp = TcpStream::connect(addr)?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    fn accept(&self) -> io::Result<TcpStream> {
        let Self::Listen(listener) = self else { return Err(io::Error::other("not the acceptor")) };
        let tcp = listener.accept()?.0;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }
}

async fn accept_tcp(listener: TcpListener) -> io::Result<tokio::net::TcpStream> {
    listener.set_nonblocking(true)?;
    let tcp = tokio::net::TcpListener::from_std(listener)?.accept().await?.0;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

async fn connect_tcp(addr: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let tcp = tokio::net::TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// For streams that are Tokio's `AsyncRead + AsyncWrite`.
macro_rules! duplex {
    ($stream:ty) => {
        impl Duplex for $stream {
            async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                AsyncReadExt::read(self, buffer).await
            }

            async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
                AsyncWriteExt::write_all(self, bytes).await
            }

            async fn close(mut self) -> io::Result<()> {
                AsyncWriteExt::shutdown(&mut self).await
            }
        }
    };
}

duplex!(async_smux::MuxStream<tokio::net::TcpStream>);
duplex!(Compat<yamux::Stream>);

/// async_smux. It has only version 1.
pub struct AsyncSmux {
    connector: async_smux::MuxConnector<tokio::net::TcpStream>,
    acceptor: Mutex<async_smux::MuxAcceptor<tokio::net::TcpStream>>,
}

impl AsyncSmux {
    fn new(
        tcp: tokio::net::TcpStream,
        mut builder: async_smux::MuxBuilder<async_smux::builder::WithConfig>,
    ) -> Self {
        let (connector, acceptor, worker) = builder.with_connection(tcp).build();
        tokio::spawn(worker);
        Self { connector, acceptor: Mutex::new(acceptor) }
    }
}

impl AsyncLink for AsyncSmux {
    type Stream = async_smux::MuxStream<tokio::net::TcpStream>;

    async fn serve(listener: TcpListener, _: &Options) -> io::Result<Self> {
        Ok(Self::new(accept_tcp(listener).await?, async_smux::MuxBuilder::server()))
    }

    async fn dial(addr: SocketAddr, _: &Options) -> io::Result<Self> {
        Ok(Self::new(connect_tcp(addr).await?, async_smux::MuxBuilder::client()))
    }

    async fn open(&self) -> io::Result<Self::Stream> {
        self.connector.connect().map_err(io::Error::other)
    }

    async fn accept(&self) -> io::Result<Self::Stream> {
        self.acceptor.lock().await.accept().await.ok_or_else(|| io::Error::other("no more streams"))
    }
}

/// yamux. A task drives the connection, as its documentation tells users to do.
pub struct Yamux {
    open: mpsc::Sender<oneshot::Sender<io::Result<yamux::Stream>>>,
    accepted: Mutex<mpsc::Receiver<yamux::Stream>>,
}

impl Yamux {
    fn new(tcp: tokio::net::TcpStream, mode: yamux::Mode) -> Self {
        let mut connection = yamux::Connection::new(tcp.compat(), yamux::Config::default(), mode);
        let (open, mut wanted) = mpsc::channel::<oneshot::Sender<io::Result<yamux::Stream>>>(16);
        let (accepts, accepted) = mpsc::channel(1024);
        tokio::spawn(async move {
            let mut opening = None;
            poll_fn(move |cx| {
                loop {
                    if opening.is_none()
                        && let std::task::Poll::Ready(Some(answer)) = wanted.poll_recv(cx)
                    {
                        opening = Some(answer);
                    }
                    if opening.is_some()
                        && let std::task::Poll::Ready(stream) = connection.poll_new_outbound(cx)
                        && let Some(answer) = opening.take()
                    {
                        let _ = answer.send(stream.map_err(io::Error::other));
                        continue;
                    }
                    match connection.poll_next_inbound(cx) {
                        std::task::Poll::Pending => return std::task::Poll::Pending,
                        std::task::Poll::Ready(Some(Ok(stream))) => {
                            if let Err(error) = accepts.try_send(stream) {
                                eprintln!("yamux: accepted stream dropped: {error}");
                            }
                        }
                        std::task::Poll::Ready(_) => return std::task::Poll::Ready(()),
                    }
                }
            })
            .await
        });
        Self { open, accepted: Mutex::new(accepted) }
    }
}

impl AsyncLink for Yamux {
    type Stream = Compat<yamux::Stream>;

    async fn serve(listener: TcpListener, _: &Options) -> io::Result<Self> {
        Ok(Self::new(accept_tcp(listener).await?, yamux::Mode::Server))
    }

    async fn dial(addr: SocketAddr, _: &Options) -> io::Result<Self> {
        Ok(Self::new(connect_tcp(addr).await?, yamux::Mode::Client))
    }

    async fn open(&self) -> io::Result<Self::Stream> {
        let (answer, opened) = oneshot::channel();
        self.open.send(answer).await.map_err(io::Error::other)?;
        Ok(opened.await.map_err(io::Error::other)??.compat())
    }

    async fn accept(&self) -> io::Result<Self::Stream> {
        let stream = self.accepted.lock().await.recv().await;
        Ok(stream.ok_or_else(|| io::Error::other("no more streams"))?.compat())
    }
}

/// smux_rust. The streams' methods are called directly, because its `AsyncRead` adapters copy the
/// data once more.
pub struct SmuxRust(Arc<smux_rust::Session>);

fn smux_config(options: &Options) -> Option<smux_rust::Config> {
    Some(smux_rust::Config { version: options.version(), ..smux_rust::Config::default() })
}

impl AsyncLink for SmuxRust {
    type Stream = smux_rust::Stream;

    async fn serve(listener: TcpListener, options: &Options) -> io::Result<Self> {
        let tcp = Box::new(accept_tcp(listener).await?);
        Ok(Self(smux_rust::server(tcp, smux_config(options)).await.map_err(io::Error::other)?))
    }

    async fn dial(addr: SocketAddr, options: &Options) -> io::Result<Self> {
        let tcp = Box::new(connect_tcp(addr).await?);
        Ok(Self(smux_rust::client(tcp, smux_config(options)).await.map_err(io::Error::other)?))
    }

    async fn open(&self) -> io::Result<smux_rust::Stream> {
        self.0.open_stream().await.map_err(io::Error::other)
    }

    async fn accept(&self) -> io::Result<smux_rust::Stream> {
        self.0.accept_stream().await.map_err(io::Error::other)
    }
}

impl Duplex for smux_rust::Stream {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        smux_rust::Stream::read(self, buffer).await
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        smux_rust::Stream::write_all(self, bytes).await
    }

    async fn close(self) -> io::Result<()> {
        smux_rust::Stream::close(&self).await
    }
}

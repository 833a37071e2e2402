//! All kinds of connections that a session can run over, and the scenarios that each has to pass.
//!
//! A kind is a function that makes a connected pair of transports ([`Connect`]). A scenario takes
//! such a function. To let the far end vanish, a scenario drops its transport and makes no session
//! of it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use gmux::transport::{Halves, Pair, Shared, Transport};
use gmux::{Config, Error, Session, Stream};

use super::blocked::blocked;
use super::{Pattern, tcp, threads, until, versions};

/// Any transport.
pub struct Any(Box<dyn FnOnce() -> io::Result<Halves> + Send>);

impl Any {
    pub fn new(transport: impl Transport + Send + 'static) -> Self {
        Self(Box::new(move || transport.split()))
    }
}

impl Transport for Any {
    fn split(self) -> io::Result<Halves> {
        (self.0)()
    }
}

/// Makes both ends of a connection.
pub type Connect = fn() -> (Any, Any);

/// Time limit of a `Shared` transport's reads and writes.
pub const BOUND: Duration = Duration::from_millis(2);

// ---- kinds --------------------------------------------------------------------------------------

pub fn over_tcp() -> (Any, Any) {
    let (a, b) = tcp();
    (Any::new(a), Any::new(b))
}

#[cfg(unix)]
pub fn over_unix() -> (Any, Any) {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    (Any::new(a), Any::new(b))
}

/// Two pipes of the system. Each end is a tuple of a reader and a writer.
pub fn over_pipes() -> (Any, Any) {
    let (reader, far_writer) = io::pipe().unwrap();
    let (far_reader, writer) = io::pipe().unwrap();
    (Any::new((reader, writer)), Any::new((far_reader, far_writer)))
}

/// Two named pipes, one for each direction. Both ends open them in the same order.
#[cfg(target_os = "linux")]
pub fn over_fifos() -> (Any, Any) {
    use rustix::fs::{CWD, Mode, mkfifoat};
    use std::fs::File;

    let dir = tempfile::tempdir().unwrap();
    let [there, back] = ["there", "back"].map(|name| {
        let path = dir.path().join(name);
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        path
    });
    let write = |path| File::options().write(true).open(path).unwrap();
    thread::scope(|scope| {
        let far = scope.spawn(|| {
            let reader = File::open(&there).unwrap();
            Any::new((reader, write(&back)))
        });
        let writer = write(&there);
        let near = Any::new((File::open(&back).unwrap(), writer));
        (near, far.join().unwrap())
    })
}

/// Two pipes of 1 KiB.
pub fn over_narrow_pipes() -> (Any, Any) {
    let (reader, far_writer) = narrow(None);
    let (far_reader, writer) = narrow(None);
    (Any::new((reader, writer)), Any::new(Pair::new(far_reader, far_writer)))
}

/// TCP behind an object that can only read and write, as a TLS connection. It has no readiness
/// closure.
pub fn over_shared() -> (Any, Any) {
    let (a, b) = tcp();
    (Any::new(shared(a, Plain)), Any::new(shared(b, Plain)))
}

/// The same as [`over_shared`], with a readiness closure.
pub fn over_shared_ready() -> (Any, Any) {
    let (a, b) = tcp();
    (Any::new(shared_ready(a, Plain)), Any::new(shared_ready(b, Plain)))
}

/// The same as [`over_shared_ready`], over a transport that reads ahead and keeps the bytes in its
/// own buffer.
pub fn over_shared_hoard() -> (Any, Any) {
    let (a, b) = tcp();
    (Any::new(shared_ready(a, Hoard::new)), Any::new(shared_ready(b, Hoard::new)))
}

/// Two pipes of 1 KiB in one object that can't be split.
pub fn over_shared_narrow_pipes() -> (Any, Any) {
    // Each end reads and writes in turns, a thousand times. Most of these calls wait for the other
    // end, so the limit is short.
    let bound = Some(Duration::from_micros(200));
    let (reader, far_writer) = narrow(bound);
    let (far_reader, writer) = narrow(bound);
    let shared = |reader, writer| {
        Shared::new(Duplex(reader, Some(writer))).on_finish(|duplex| {
            duplex.1 = None;
            Ok(())
        })
    };
    (Any::new(shared(reader, writer)), Any::new(shared(far_reader, far_writer)))
}

/// Makes a `Shared` over a wrapped TCP connection. It sets the time limits, the end of the writing
/// direction and the abort.
pub fn shared<T: Read + Write + AsRef<TcpStream> + Send + 'static>(
    tcp: TcpStream,
    wrap: impl FnOnce(TcpStream) -> T,
) -> Shared<T> {
    tcp.set_read_timeout(Some(BOUND)).unwrap();
    tcp.set_write_timeout(Some(BOUND)).unwrap();
    tcp.set_nodelay(true).unwrap();
    let abort = tcp.try_clone().unwrap();
    Shared::new(wrap(tcp)).on_finish(|inner| inner.as_ref().shutdown(Shutdown::Write)).on_abort(
        move || {
            let _ = abort.shutdown(Shutdown::Both);
        },
    )
}

pub fn shared_ready<T: Read + Write + AsRef<TcpStream> + Send + 'static>(
    tcp: TcpStream,
    wrap: impl FnOnce(TcpStream) -> T,
) -> Shared<T> {
    let ready = tcp.try_clone().unwrap();
    shared(tcp, wrap).with_readiness(move || ready.peek(&mut [0]).map(drop))
}

/// A connection that only reads and writes.
pub struct Plain(pub TcpStream);

impl AsRef<TcpStream> for Plain {
    fn as_ref(&self) -> &TcpStream {
        &self.0
    }
}

impl Read for Plain {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Plain {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A connection that reads ahead, as TLS does. It takes all bytes from the socket, and returns them
/// piece by piece. Meanwhile the socket is no longer readable.
pub struct Hoard {
    tcp: TcpStream,
    hoard: VecDeque<u8>,
}

impl Hoard {
    /// Limit of the bytes that a read returns.
    const PIECE: usize = 1000;

    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, hoard: VecDeque::new() }
    }
}

impl AsRef<TcpStream> for Hoard {
    fn as_ref(&self) -> &TcpStream {
        &self.tcp
    }
}

impl Read for Hoard {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.hoard.is_empty() {
            let mut all = vec![0; 256 * 1024];
            let n = self.tcp.read(&mut all)?;
            self.hoard.extend(&all[..n]);
        }
        let piece = buf.len().min(Self::PIECE);
        self.hoard.read(&mut buf[..piece])
    }
}

impl Write for Hoard {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.tcp.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

// ---- a narrow pipe in memory --------------------------------------------------------------------

/// The size in rust-yamux's deadlock test, in bytes.
const NARROW: usize = 1024;

struct Pipe {
    state: Mutex<PipeState>,
    changed: Condvar,
    /// Time after which a waiting call returns `WouldBlock`. `None` means without limit.
    bound: Option<Duration>,
}

#[derive(Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    reader_gone: bool,
    writer_gone: bool,
}

pub struct NarrowReader(Arc<Pipe>);
pub struct NarrowWriter(Arc<Pipe>);

/// Makes a pipe that holds 1 KiB.
pub fn narrow(bound: Option<Duration>) -> (NarrowReader, NarrowWriter) {
    let pipe = Arc::new(Pipe { state: Mutex::default(), changed: Condvar::new(), bound });
    (NarrowReader(Arc::clone(&pipe)), NarrowWriter(pipe))
}

impl Pipe {
    /// Waits until `done` returns `Some`.
    fn wait<R>(
        &self,
        mut done: impl FnMut(&mut PipeState) -> Option<io::Result<R>>,
    ) -> io::Result<R> {
        let mut state = self.state.lock().unwrap();
        let mut late = false;
        loop {
            if let Some(result) = done(&mut state) {
                drop(state);
                self.changed.notify_all();
                return result;
            }
            if late {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state = match self.bound {
                None => self.changed.wait(state).unwrap(),
                Some(bound) => {
                    let (state, timeout) = self.changed.wait_timeout(state, bound).unwrap();
                    late = timeout.timed_out();
                    state
                }
            };
        }
    }
}

impl Read for NarrowReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.wait(|state| {
            (!state.bytes.is_empty() || state.writer_gone).then(|| state.bytes.read(buf))
        })
    }
}

impl Write for NarrowWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.wait(|state| {
            if state.reader_gone {
                return Some(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let n = buf.len().min(NARROW - state.bytes.len());
            state.bytes.extend(&buf[..n]);
            (n > 0 || buf.is_empty()).then_some(Ok(n))
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for NarrowReader {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().reader_gone = true;
        self.0.changed.notify_all();
    }
}

impl Drop for NarrowWriter {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().writer_gone = true;
        self.0.changed.notify_all();
    }
}

struct Duplex(NarrowReader, Option<NarrowWriter>);

impl Read for Duplex {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Duplex {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.1.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// ---- data ---------------------------------------------------------------------------------------

/// 8 MiB of data. Each stream sends it from a different position on, and from the beginning again
/// after its end.
static DATA: LazyLock<Vec<u8>> = LazyLock::new(|| Pattern::bytes(8, 8 << 20));

/// Sends bytes `from..from + len` of the endless repetition of the data.
pub fn send(mut stream: &Stream, mut from: usize, mut len: usize) {
    while len > 0 {
        let start = from % DATA.len();
        let piece = &DATA[start..DATA.len().min(start + len)];
        stream.write_all(piece).unwrap();
        from += piece.len();
        len -= piece.len();
    }
}

/// Reads to the end and compares with the data from `from` on. Returns the number of bytes.
pub fn check(mut stream: &Stream, from: usize) -> usize {
    let mut buf = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        let n = stream.read(&mut buf).unwrap();
        if n == 0 {
            return total;
        }
        let mut done = 0;
        while done < n {
            let start = (from + total) % DATA.len();
            let len = (n - done).min(DATA.len() - start);
            assert!(
                buf[done..done + len] == DATA[start..start + len],
                "wrong data at {total} of {:?}",
                stream.name()
            );
            done += len;
            total += len;
        }
    }
}

/// Makes the sessions of both ends. Their close timeout is longer than the watchdog's, so a test
/// fails if only that timeout ends them.
pub fn sessions(connect: Connect, config: &Config) -> (Session, Session) {
    let (a, b) = connect();
    let config = config.clone().close_timeout(Duration::from_secs(600));
    (Session::client(a, config.clone()).unwrap(), Session::server(b, config).unwrap())
}

/// Waits until a session's two threads are gone.
pub fn threads_end(session: &Session) {
    until(|| reader_and_writer(session) == (false, false));
}

/// Whether a session's reader and writer threads exist. The session's number, which the threads'
/// names contain, is only in its `Debug` text.
pub fn reader_and_writer(session: &Session) -> (bool, bool) {
    let text = format!("{session:?}");
    let number = text
        .split("number: ")
        .nth(1)
        .and_then(|rest| rest.split([',', ' ']).next())
        .expect("a number");
    let has = |kind: &str| {
        let name = format!("gmux-{kind}-{number}");
        threads().contains(&name[..name.len().min(15)].to_owned()) // Linux keeps only 15 bytes.
    };
    (has("reader"), has("writer"))
}

// ---- scenarios ----------------------------------------------------------------------------------

/// Three streams, opened from both ends, carry 8 MiB in each direction, all at once. Then both
/// sessions close without error.
pub fn carries_8_mib_both_ways(connect: Connect) {
    for config in versions() {
        let (client, server) = sessions(connect, &config);
        let opened =
            [client.open("0").unwrap(), client.open("1").unwrap(), server.open("2").unwrap()];
        let accepted =
            [server.accept().unwrap(), server.accept().unwrap(), client.accept().unwrap()];
        thread::scope(|scope| {
            for (end, streams) in [&opened, &accepted].into_iter().enumerate() {
                for stream in streams {
                    let at = |end| (stream.name().parse::<usize>().unwrap() * 2 + end) * 1_000_003;
                    scope.spawn(move || {
                        send(stream, at(end), DATA.len());
                        stream.shutdown(Shutdown::Write).unwrap();
                    });
                    scope.spawn(move || assert_eq!(check(stream, at(1 - end)), DATA.len()));
                }
            }
        });
        drop(opened);
        drop(accepted);
        client.close().unwrap();
        server.close().unwrap();
        threads_end(&client);
        threads_end(&server);
    }
}

/// Nothing is left to do. The I/O threads of both ends wait, and so do several calls. A close wakes
/// all of them, and all threads end.
pub fn closes_while_parked(connect: Connect) {
    for config in versions() {
        let (client, server) = sessions(connect, &config);
        let ours = client.open("parked").unwrap();
        let theirs = server.accept().unwrap();
        let read = |stream: &Stream| {
            let mut stream = stream.clone();
            blocked(move || stream.read(&mut [0]).unwrap_err())
        };
        let accept = |session: &Session| {
            let session = session.clone();
            blocked(move || session.accept().unwrap_err())
        };
        let our_read = read(&ours);
        let their_read = read(&theirs);
        let our_accept = accept(&client);
        let their_accept = accept(&server);
        client.close().unwrap();
        assert_eq!(our_read.join().kind(), io::ErrorKind::NotConnected);
        assert!(matches!(our_accept.join(), Error::Closed));
        // The stream is still open, so the other side sees no clean end.
        assert_eq!(their_read.join().kind(), io::ErrorKind::ConnectionAborted);
        assert!(matches!(their_accept.join(), Error::ConnectionLost(_)));
        threads_end(&client);
        threads_end(&server);
    }
}

/// Checks the error of a call when the far end has vanished. It must differ from the error after a
/// local close, and from a clean end.
pub fn assert_lost(error: io::Error) {
    let inner = Error::from(error);
    assert!(matches!(inner, Error::ConnectionLost(_) | Error::Io(_)), "{inner:?}");
    let kind = inner.kind();
    let kinds = [
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::BrokenPipe,
    ];
    assert!(kinds.contains(&kind), "{inner:?} is {kind:?}");
}

/// The far end vanishes while nothing happens. All blocked calls fail, and the threads end.
pub fn notices_that_the_far_end_vanished(connect: Connect) {
    for config in versions() {
        let (near, far) = connect();
        let session = Session::client(near, config).unwrap();
        let mut stream = session.open("lost").unwrap();
        let closed = (session.closed(), stream.closed());
        let mut reader = stream.clone();
        let read = blocked(move || reader.read(&mut [0]).unwrap_err());
        let acceptor = session.clone();
        let accept = blocked(move || acceptor.accept().unwrap_err());
        drop(far);
        assert_lost(read.join());
        assert_lost(accept.join().into());
        assert!(closed.0.recv().is_err() && closed.1.recv().is_err());
        assert!(session.is_closed());
        assert_lost(session.close_reason().unwrap().into());
        assert_lost(session.open("late").unwrap_err().into());
        assert_lost(stream.write(&[1]).unwrap_err());
        threads_end(&session);
    }
}

/// The far end vanishes while the writer thread is stuck in the transport.
pub fn notices_that_the_far_end_vanished_during_a_write(connect: Connect) {
    let (near, far) = connect();
    let session = Session::client(near, Config::new()).unwrap();
    let stream = session.open("stuck").unwrap();
    fill(&session, &stream, 0, || true);
    let clones = [stream.clone(), stream.clone(), stream.clone()];
    let [mut a, mut b, mut c] = clones;
    // The system may still find room for a few bytes, because TCP probes a closed window. So both
    // threads repeat their calls until they fail.
    let write = blocked(move || {
        loop {
            if let Err(error) = a.write(&[1]) {
                break error;
            }
        }
    });
    let flush = blocked(move || {
        loop {
            if let Err(error) = b.flush().and_then(|()| b.write(&[1]).map(drop)) {
                break error;
            }
        }
    });
    let read = blocked(move || c.read(&mut [0]).unwrap_err());
    drop(far);
    assert_lost(write.join());
    assert_lost(flush.join());
    assert_lost(read.join());
    threads_end(&session);
}

/// Both I/O threads are stuck in the transport. The reader has nothing to read, and the writer has
/// no room. Calls wake at once. The close can't hand over all accepted bytes, and returns that as
/// an error. The abort frees the threads if the transport has one (`frees`). Otherwise the far end
/// frees them.
pub fn closes_while_both_threads_are_stuck(connect: Connect, frees: bool) {
    let (near, far) = connect();
    let config = Config::new().close_timeout(Duration::from_secs(1)).keepalive_disabled(true);
    let session = Session::client(near, config).unwrap();
    let stream = session.open("stuck").unwrap();
    fill(&session, &stream, 0, || true);
    let [mut a, mut b] = [stream.clone(), stream.clone()];
    let write = blocked(move || {
        loop {
            if let Err(error) = a.write(&[1]) {
                break error;
            }
        }
    });
    let read = blocked(move || b.read(&mut [0]).unwrap_err());
    let closed = session.close();
    assert!(matches!(closed, Err(Error::CloseIncomplete { unsent: 1.., .. })), "{closed:?}");
    assert_eq!(write.join().kind(), io::ErrorKind::NotConnected);
    assert_eq!(read.join().kind(), io::ErrorKind::NotConnected);
    if frees {
        threads_end(&session);
        drop(far);
    } else {
        assert_eq!(reader_and_writer(&session), (true, true));
        drop(far);
        threads_end(&session);
    }
}

/// Writes until no more bytes are accepted and `full` returns true. Returns the number of accepted
/// bytes. Nobody reads at the other end.
fn fill(session: &Session, mut stream: &Stream, from: usize, full: impl Fn() -> bool) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    // `bytes_sent` counts a batch when all of it is sent, and a loaded machine may need long for
    // one. So nothing is assumed after the first failed write, but only after several.
    let mut total = 0;
    let mut looks = 0;
    loop {
        let start = (from + total) % DATA.len();
        let before = session.stats().bytes_sent;
        match stream.write(&DATA[start..DATA.len().min(start + 65536)]) {
            Ok(n) => {
                total += n;
                looks = 0;
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
                looks = if session.stats().bytes_sent == before && full() { looks + 1 } else { 0 };
                if looks == 6 {
                    stream.set_write_timeout(None).unwrap();
                    return total;
                }
            }
        }
    }
}

/// Both directions are full at once. The budgets are used up, the transport is full, and both
/// writer threads are stuck. When the applications read, everything moves again.
pub fn both_directions_full_at_once_move_again(connect: Connect) {
    const REST: usize = 1 << 20;
    // Keepalive is off, because on a machine that stalls it would fail without a fault of the
    // transport.
    let config = Config::new().max_receive_buffer(65536).keepalive_disabled(true);
    let (client, server) = sessions(connect, &config);
    let ours = client.open("full").unwrap();
    let theirs = server.accept().unwrap();
    let ends = [(&client, &ours, 0), (&server, &theirs, 4_000_037)];
    let filled = thread::scope(|scope| {
        // Both readers wait for budget.
        let full = || ends.iter().all(|(session, _, _)| session.stats().receive_pauses > 0);
        let fills = ends
            .map(|(session, stream, from)| scope.spawn(move || fill(session, stream, from, full)));
        fills.map(|fill| fill.join().unwrap())
    });
    thread::scope(|scope| {
        for ((_, stream, from), filled) in ends.into_iter().zip(filled) {
            scope.spawn(move || {
                send(stream, from + filled, REST);
                stream.shutdown(Shutdown::Write).unwrap();
            });
        }
        for (end, other) in [(0, 1), (1, 0)] {
            let (_, stream, _) = ends[end];
            let (_, _, from) = ends[other];
            let filled = filled[other];
            scope.spawn(move || assert_eq!(check(stream, from), filled + REST));
        }
    });
    drop(ours);
    drop(theirs);
    client.close().unwrap();
    server.close().unwrap();
}

/// rust-yamux's deadlock test. Each end echoes 1 MiB of the other end.
pub fn echoes_1_mib_in_both_directions(connect: Connect) {
    const SIZE: usize = 1 << 20;
    for config in versions() {
        let (client, server) = sessions(connect, &config);
        let opened =
            [client.open("from the client").unwrap(), server.open("from the server").unwrap()];
        let accepted = [server.accept().unwrap(), client.accept().unwrap()];
        thread::scope(|scope| {
            for mut stream in &accepted {
                scope.spawn(move || {
                    io::copy(&mut &*stream, &mut stream).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                });
            }
            for stream in &opened {
                scope.spawn(move || {
                    send(stream, 5, SIZE);
                    stream.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || assert_eq!(check(stream, 5), SIZE));
            }
        });
        drop(opened);
        drop(accepted);
        client.close().unwrap();
        server.close().unwrap();
    }
}

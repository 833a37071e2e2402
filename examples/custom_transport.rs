//! Shows how to write a transport of your own, with every method of `Transport` and `Control`. The
//! transport doesn't run over a socket, but over queues of messages in memory. As in a WebSocket
//! connection, there are pings that must be answered.
//!
//! ```text
//! cargo run --example custom_transport
//! ```

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use gmux::transport::{Control, Halves, Transport};
use gmux::{Config, Session};

pub fn main() -> io::Result<()> {
    let (ours, theirs) = connect(["192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()]);
    let pings = ours.pings();
    let client = Session::client(ours, Config::new().version(2))?;
    let server = Session::server(theirs, Config::new().version(2))?;

    let echo = thread::spawn(move || {
        let stream = server.accept()?;
        io::copy(&mut &stream, &mut &stream)
    });
    pings.send()?;
    let limit = Instant::now() + Duration::from_secs(10);
    while pings.answered() == 0 && Instant::now() < limit {
        thread::sleep(Duration::from_millis(1));
    }
    let mut stream = client.open("hello")?;
    stream.write_all(b"over messages")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    echo.join().expect("the server panicked")?;

    println!("{answer:?} came back, and {} answer to a ping", pings.answered());
    client.close()?; // Ok: the peer has read everything, and has ended its side.
    Ok(())
}

// ---- the connection: one queue of messages for each direction -----------------------------------

enum Message {
    Data(Vec<u8>),
    Ping,
    Pong,
    End,
}

/// One direction of the connection. A reader that waits for a message waits on `changed`, and so
/// does a writer that waits for room. Every change of the state wakes both.
#[derive(Default)]
struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    /// Whether no more messages will be written. Then either `End` is in the queue, or the reader
    /// or the writer of this direction is gone.
    over: bool,
}

/// Limit of the messages in one queue. Without it, the queue would grow as long as the reader is
/// slower than the writer.
const MAX_QUEUED: usize = 8;

/// The largest message, in bytes.
const MAX_MESSAGE: usize = 16 * 1024;

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// Repeats `attempt` until it returns `Some`, at most until `bound` has passed.
    fn wait<T>(
        &self,
        bound: &Bound,
        mut attempt: impl FnMut(&mut State) -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        let limit = bound.get().map(|bound| Instant::now() + bound);
        let mut state = self.lock();
        loop {
            if let Some(done) = attempt(&mut state) {
                drop(state);
                self.changed.notify_all();
                return done;
            }
            state = match limit.map(|limit| limit.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(state).expect("as above"),
                // The session calls again.
                Some(Duration::ZERO) => return Err(ErrorKind::WouldBlock.into()),
                Some(left) => self.changed.wait_timeout(state, left).expect("as above").0,
            };
        }
    }

    fn put(&self, bound: &Bound, message: impl FnOnce() -> Message) -> io::Result<()> {
        let mut message = Some(message);
        self.wait(bound, |state| {
            if state.over {
                return Some(Err(ErrorKind::BrokenPipe.into()));
            }
            let message = message.take_if(|_| state.messages.len() < MAX_QUEUED)?;
            state.messages.push_back(message());
            Some(Ok(()))
        })
    }

    /// Returns the next message. If the peer is gone, the messages that it has sent come first.
    /// After them this returns an error and not an end of file, because only `End` proves that
    /// everything has arrived.
    fn take(&self, bound: &Bound) -> io::Result<Message> {
        self.wait(bound, |state| match state.messages.pop_front() {
            Some(message) => Some(Ok(message)),
            None if state.over => Some(Err(ErrorKind::ConnectionReset.into())),
            None => None,
        })
    }

    fn end(&self, last: Option<Message>) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.over, true) {
            state.messages.extend(last);
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// Time limit of a call, in nanoseconds. The session may change it between two calls.
struct Bound(AtomicU64);

impl Bound {
    fn new(bound: Option<Duration>) -> Arc<Self> {
        let this = Arc::new(Self(AtomicU64::new(0)));
        this.set(bound);
        this
    }

    fn set(&self, bound: Option<Duration>) {
        self.0.store(bound.map_or(u64::MAX, |bound| bound.as_nanos() as u64), SeqCst);
    }

    fn get(&self) -> Option<Duration> {
        Some(self.0.load(SeqCst)).filter(|bound| *bound < u64::MAX).map(Duration::from_nanos)
    }
}

// ---- the halves ---------------------------------------------------------------------------------

/// The read half. A message arrives whole, but a read may ask for less. The rest then stays in
/// `rest`.
struct Reader {
    lane: Arc<Lane>,
    rest: VecDeque<u8>,
    ended: bool,
    bound: Arc<Bound>,
    pings: Pings,
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() && !self.ended {
            match self.lane.take(&self.bound)? {
                Message::Data(data) => self.rest = data.into(),
                Message::End => self.ended = true, // stays true: the session may read again
                // `Interrupted` says that there is nothing for the session yet. The session reads
                // again at once. The pong isn't sent here, because it might have to wait for room.
                // If the peer's reader waited in the same way, both would wait forever.
                Message::Ping => {
                    self.pings.owed.store(true, SeqCst);
                    return Err(ErrorKind::Interrupted.into());
                }
                Message::Pong => {
                    self.pings.answered.fetch_add(1, SeqCst);
                    return Err(ErrorKind::Interrupted.into());
                }
            }
        }
        self.rest.read(buf)
    }
}

struct Writer {
    lane: Arc<Lane>,
    bound: Arc<Bound>,
    pings: Pings,
}

impl Writer {
    /// Sends a pong if one is owed. It answers all pings that have arrived until now.
    fn answer(&self) -> io::Result<()> {
        if self.pings.owed.swap(false, SeqCst) {
            self.lane
                .put(&self.bound, || Message::Pong)
                .inspect_err(|_| self.pings.owed.store(true, SeqCst))?;
        }
        Ok(())
    }
}

impl Write for Writer {
    /// Accepts as many bytes as fit, as any `write` may. A pong that is owed goes first, because a
    /// session that always has something to write calls no `flush`.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.answer()?;
        let data = &buf[..buf.len().min(MAX_MESSAGE)];
        self.lane.put(&self.bound, || Message::Data(data.to_vec()))?;
        Ok(data.len())
    }

    /// The session calls `flush` when it has nothing more to write for now. The transport must then
    /// send everything that it has kept back.
    fn flush(&mut self) -> io::Result<()> {
        self.answer()
    }
}

/// The session drops a half that it no longer needs. If no `End` was sent before, the drop tells
/// the peer that this end is gone.
impl Drop for Writer {
    fn drop(&mut self) {
        self.lane.end(None);
    }
}

/// Nobody reads after the drop of this half, so the drop makes the peer's writes fail.
impl Drop for Reader {
    fn drop(&mut self) {
        self.lane.end(None);
    }
}

// ---- the control: how the session ends the connection -------------------------------------------

struct Handle {
    incoming: Arc<Lane>,
    outgoing: Arc<Lane>,
    owed: Arc<AtomicBool>,
    addresses: [SocketAddr; 2],
}

impl Control for Handle {
    /// Tells the peer that nothing follows the bytes written so far. The peer's session then ends
    /// too, and so `Session::close` can report that everything has arrived.
    fn finish_write(&self) -> io::Result<()> {
        self.outgoing.end(Some(Message::End));
        Ok(())
    }

    /// Says whether `finish_write` really tells the peer. Here it does, and `true` is also the
    /// default. A serial line would return `false`. With `false` a close doesn't wait for the peer
    /// to end its side.
    fn can_finish(&self) -> bool {
        true
    }

    /// Says whether a read has made an answer that has to be sent, here a pong. The session then
    /// wakes its writer thread, which calls `flush`. Without this method the pong would wait until
    /// the session's next write. The session calls this method after each read, so it has to be
    /// cheap.
    fn wants_flush(&self) -> bool {
        self.owed.load(SeqCst)
    }

    /// Makes the blocked calls of both halves return. Any thread may call this method, and it must
    /// not wait. A session that has failed calls it to stop its two threads.
    fn abort(&self) {
        self.incoming.end(None);
        self.outgoing.end(None);
    }

    /// Returns this end's address, for logs and for `Session::local_addr`. The default is `None`,
    /// which is fine too.
    fn local_addr(&self) -> Option<SocketAddr> {
        Some(self.addresses[0])
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        Some(self.addresses[1])
    }
}

// ---- the transport ------------------------------------------------------------------------------

/// One end of a connection.
pub struct Connection {
    reader: Reader,
    writer: Writer,
    addresses: [SocketAddr; 2],
}

impl Transport for Connection {
    /// Gives the session the two halves and the control.
    ///
    /// Two threads of the session use the halves, and block in them. `bound_reads` and
    /// `bound_writes` are optional. With them the session can limit the time of a read or a write.
    /// Then a thread of the application may read an answer by itself, and write a request by
    /// itself. This saves waking the session's threads, and so some microseconds for each round
    /// trip.
    fn split(self) -> io::Result<Halves> {
        let Self { reader, writer, addresses } = self;
        let read_bound = Arc::clone(&reader.bound);
        let write_bound = Arc::clone(&writer.bound);
        let control = Handle {
            incoming: Arc::clone(&reader.lane),
            outgoing: Arc::clone(&writer.lane),
            owed: Arc::clone(&reader.pings.owed),
            addresses,
        };
        Ok(Halves::new(reader, writer, control)
            .bound_reads(move |bound| {
                read_bound.set(bound);
                Ok(())
            })
            .bound_writes(move |bound| {
                write_bound.set(bound);
                Ok(())
            }))
    }
}

/// Sends pings to the peer's transport. The sessions don't see them.
#[derive(Clone)]
pub struct Pings {
    lane: Arc<Lane>,
    /// Whether this end has received a ping and owes a pong.
    owed: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Pings {
    /// Sends a ping, and waits until there is room for it. It fails if the peer is gone.
    pub fn send(&self) -> io::Result<()> {
        self.lane.put(&Bound::new(None), || Message::Ping)
    }

    /// Returns the number of pongs received.
    pub fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }
}

impl Connection {
    /// Returns a handle that can ping the peer.
    pub fn pings(&self) -> Pings {
        self.writer.pings.clone()
    }

    fn new(incoming: &Arc<Lane>, outgoing: &Arc<Lane>, addresses: [SocketAddr; 2]) -> Self {
        let pings =
            Pings { lane: Arc::clone(outgoing), owed: Arc::default(), answered: Arc::default() };
        let reader = Reader {
            lane: Arc::clone(incoming),
            rest: VecDeque::new(),
            ended: false,
            bound: Bound::new(None), // until the session sets one
            pings: pings.clone(),
        };
        let writer =
            Writer { lane: Arc::clone(outgoing), bound: Bound::new(Some(WRITE_BOUND)), pings };
        Self { reader, writer, addresses }
    }
}

/// The time limit of a write until the session sets one. `Halves::bound_writes` expects 10 ms.
const WRITE_BOUND: Duration = Duration::from_millis(10);

/// Makes both ends of a connection. The arguments are their addresses.
pub fn connect([here, there]: [SocketAddr; 2]) -> (Connection, Connection) {
    let to = Arc::default();
    let fro = Arc::default();
    (Connection::new(&fro, &to, [here, there]), Connection::new(&to, &fro, [there, here]))
}

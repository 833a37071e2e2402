//! A transport of one's own: everything that `Transport` and `Control` ask for, over something that
//! isn't a socket. Here these are messages in memory, with pings that want an answer, much as a
//! WebSocket's do.
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
    client.close()?; // Ok: the peer has read everything, and ended its side
    Ok(())
}

// ---- what the transport runs over: a queue of messages for each direction -----------------------

enum Message {
    Data(Vec<u8>),
    Ping,
    Pong,
    End,
}

/// One direction. Whoever waits for a message, or for room, waits on `changed`; each change wakes.
#[derive(Default)]
struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    /// No more is written: in order (`End` is in the queue), or because an end has gone.
    over: bool,
}

/// So many messages wait at most: without a limit a reader that is slow costs memory without one.
const ROOM: usize = 8;

/// The largest message, in bytes.
const LARGEST: usize = 16 * 1024;

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// Waits until `attempt` gives something, for as long as `bound` lets it.
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
                // the session asks again
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
            let message = message.take_if(|_| state.messages.len() < ROOM)?;
            state.messages.push_back(message());
            Some(Ok(()))
        })
    }

    /// The next message. What was sent before the other end had gone comes first; then it is an
    /// error, not an end of file: only `End` says that all has come.
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

/// How long a call may take, in nanoseconds: the session changes it between two calls.
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

/// A message arrives whole, and a read may ask for less: the rest waits here.
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
                Message::End => self.ended = true, // and stays so: the session may ask again
                // `Interrupted`: nothing for the session yet, and it asks again at once. The answer
                // isn't sent from here: a reader that waits for room to write can wait for ever,
                // when the peer's does the same.
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
    /// Sends the answer that the reader owes, if any. Pings that came meanwhile share it.
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
    /// Takes what fits, as any write may. What the transport itself owes goes first: a writer that
    /// is busy for long comes to no flush.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.answer()?;
        let data = &buf[..buf.len().min(LARGEST)];
        self.lane.put(&self.bound, || Message::Data(data.to_vec()))?;
        Ok(data.len())
    }

    /// Called when the session has nothing more to write for now: what a transport keeps back has
    /// to leave.
    fn flush(&mut self) -> io::Result<()> {
        self.answer()
    }
}

/// The session drops a half when it has no more use for it. If that isn't after an `End`, this end
/// has gone, and the peer has to hear of it.
impl Drop for Writer {
    fn drop(&mut self) {
        self.lane.end(None);
    }
}

/// Nobody reads any more: a peer that writes has to hear of it.
impl Drop for Reader {
    fn drop(&mut self) {
        self.lane.end(None);
    }
}

// ---- what the session handles it by -------------------------------------------------------------

struct Handle {
    incoming: Arc<Lane>,
    outgoing: Arc<Lane>,
    owed: Arc<AtomicBool>,
    addresses: [SocketAddr; 2],
}

impl Control for Handle {
    /// Tells the peer that nothing more will come, after everything that was written. So the peer's
    /// session ends, too, and `Session::close` can say that all has arrived.
    fn finish_write(&self) -> io::Result<()> {
        self.outgoing.end(Some(Message::End));
        Ok(())
    }

    /// Whether `finish_write` really does so. It does here, which is the default. A serial line
    /// would say `false`: then a close doesn't wait for an end that can't come.
    fn can_finish(&self) -> bool {
        true
    }

    /// Whether the transport itself has something to send, which its reads have made: then the
    /// session wakes its writer, which calls `flush`. Otherwise an answer would wait until the
    /// session writes next. It is asked after each read, so it has to be cheap.
    fn wants_flush(&self) -> bool {
        self.owed.load(SeqCst)
    }

    /// Makes blocked calls of both halves return, from any thread and without waiting: that is how
    /// a dead session gets its threads back.
    fn abort(&self) {
        self.incoming.end(None);
        self.outgoing.end(None);
    }

    /// The addresses are for logs and for `Session::peer_addr`; `None`, the default, is fine, too.
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
    /// The halves go to two threads, which block in them. The bounds let a thread that waits for an
    /// answer read by itself, and one that sends a request write by itself, which saves waking the
    /// two: without them all works, and a round trip costs some microseconds more.
    fn split(self) -> io::Result<Halves> {
        let Self { reader, writer, addresses } = self;
        let reads = Arc::clone(&reader.bound);
        let writes = Arc::clone(&writer.bound);
        let control = Handle {
            incoming: Arc::clone(&reader.lane),
            outgoing: Arc::clone(&writer.lane),
            owed: Arc::clone(&reader.pings.owed),
            addresses,
        };
        Ok(Halves::new(reader, writer, control)
            .bound_reads(move |bound| {
                reads.set(bound);
                Ok(())
            })
            .bound_writes(move |bound| {
                writes.set(bound);
                Ok(())
            }))
    }
}

/// Asks the other end for a sign of life, beneath the session.
#[derive(Clone)]
pub struct Pings {
    lane: Arc<Lane>,
    /// Whether this end owes an answer.
    owed: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Pings {
    /// Sends a ping, and waits for room for it. An error if the other end has gone.
    pub fn send(&self) -> io::Result<()> {
        self.lane.put(&Bound::new(None), || Message::Ping)
    }

    /// How many answers have come.
    pub fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }
}

impl Connection {
    /// The means to ping the other end.
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
            bound: Bound::new(None), // until the session says otherwise
            pings: pings.clone(),
        };
        let writer =
            Writer { lane: Arc::clone(outgoing), bound: Bound::new(Some(WRITE_BOUND)), pings };
        Self { reader, writer, addresses }
    }
}

/// What `Halves::bound_writes` expects at the start.
const WRITE_BOUND: Duration = Duration::from_millis(10);

/// Both ends of a connection, and what each is to be called.
pub fn connect([here, there]: [SocketAddr; 2]) -> (Connection, Connection) {
    let to = Arc::default();
    let fro = Arc::default();
    (Connection::new(&fro, &to, [here, there]), Connection::new(&to, &fro, [there, here]))
}

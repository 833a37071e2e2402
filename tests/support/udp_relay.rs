//! A UDP relay that loses, reorders, doubles, damages and delays: a bad link between a client and a
//! server that know nothing of it.
//!
//! Clients send to [`UdpRelay::addr`]. Each client's address gets a socket of its own towards the
//! server, so the server sees as many clients as there are. What happens to a datagram is drawn
//! from a seed and from its number in its direction, so a run meets the same losses each time. Its
//! rate isn't limited, its memory is: [`HELD`] bytes a direction, and what would be more is lost
//! (and counted). A receiving thread for each socket does nothing but receive and draw, so that the
//! system's buffers stay empty; one thread sends what is due. Dropping the relay ends them all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that may be on the way in each direction: a fifth of a second at 100 MB/s.
const HELD: usize = 20 << 20;

/// Addresses that it serves at most; datagrams of more are lost. Each costs a socket and a thread.
const CLIENTS: usize = 256;

/// The socket's own buffer, should a receiving thread have to wait for a core. The system may give
/// less.
const SOCKET_BUFFER: usize = 4 << 20;

/// How long a receiving thread waits before it looks whether the relay has ended.
const LOOK: Duration = Duration::from_millis(50);

/// The sender's shortest sleep. A delay is never less than asked, and up to this much longer: that
/// spares a wake-up for each datagram.
const GRAIN: Duration = Duration::from_micros(200);

/// What happens to datagrams, in each direction. The default is a perfect link without delay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// Of a hundred datagrams, so many are lost. 100 is a dead link.
    pub loss: u32,
    /// Of a hundred, so many come [`Self::late`] after their time, so behind later ones.
    pub reorder: u32,
    /// How much later those come.
    pub late: Duration,
    /// Of a hundred, so many come twice: the second at once after the first.
    pub double: u32,
    /// Of a hundred, so many are followed by a copy in which one bit is wrong.
    pub damage: u32,
    /// How long each is on the way.
    pub delay: Duration,
    /// Where the random numbers begin.
    pub seed: u64,
}

/// What happened to datagrams so far, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Came from either side.
    pub received: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Sent later than their turn.
    pub reordered: u64,
    /// Sent twice.
    pub doubled: u64,
    /// Followed by a damaged copy.
    pub damaged: u64,
    /// Lost since [`HELD`] bytes were on the way already, or since there were [`CLIENTS`] clients.
    pub overflowed: u64,
}

/// The relay. Dropping it ends its threads and closes its sockets.
pub struct UdpRelay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// What clients send to.
    front: UdpSocket,
    /// Where the relay is.
    addr: SocketAddr,
    /// Where the server is.
    server: SocketAddr,
    /// All clients share one address towards the server, as behind a NAT.
    shares: bool,
    /// Guards all that follows; held for no system call but a wake-up.
    state: Mutex<State>,
    /// The sender waits for something that is due earlier than what it waits for.
    earlier: Condvar,
    stopping: AtomicBool,
}

struct State {
    link: Link,
    /// The earliest on top.
    on_the_way: BinaryHeap<Reverse<Datagram>>,
    /// By [`Direction`].
    drawn: [u64; 2],
    held: [usize; 2],
    /// All of the clients' sockets.
    backs: Vec<Arc<Back>>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    counts: Counts,
}

#[derive(Clone, Copy)]
enum Direction {
    ToServer = 0,
    ToClient = 1,
}

/// A datagram on its way. Ordered by when it is due, then by when it came.
struct Datagram {
    due: Instant,
    number: u64,
    direction: Direction,
    bytes: Vec<u8>,
    back: Arc<Back>,
}

/// A socket towards the server.
struct Back {
    socket: UdpSocket,
    /// Who gets the answers: whose socket it is, or who sent last where all share it.
    client: Mutex<SocketAddr>,
}

impl UdpRelay {
    /// A relay in front of `server`, on loopback.
    pub fn start(server: SocketAddr, link: Link) -> io::Result<Self> {
        Self::run(server, link, false)
    }

    /// A relay that the server sees as one address, whichever client sends: one client after the
    /// other, as a restarted one that keeps its port. Answers go to the client that sent last.
    pub fn start_as_one_client(server: SocketAddr, link: Link) -> io::Result<Self> {
        Self::run(server, link, true)
    }

    fn run(server: SocketAddr, link: Link, shares: bool) -> io::Result<Self> {
        let front = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let shared = Arc::new(Shared {
            addr: front.local_addr()?,
            front,
            server,
            shares,
            state: Mutex::new(State {
                link,
                on_the_way: BinaryHeap::new(),
                drawn: [0; 2],
                held: [0; 2],
                backs: Vec::new(),
                spare: Vec::new(),
                counts: Counts::default(),
            }),
            earlier: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let sender = spawn("relay-sender", &shared, Shared::send);
        let receiver = spawn("relay-clients", &shared, Shared::receive_from_clients);
        Ok(Self { shared, threads: vec![sender, receiver] })
    }

    /// Where clients send to.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Changes the link for datagrams that come from now on.
    pub fn set_link(&self, link: Link) {
        self.shared.state.lock().unwrap().link = link;
    }

    /// Sends the server a datagram as if it came from a client: once for each that there is.
    pub fn forge_from_clients(&self, bytes: &[u8]) {
        let backs = self.shared.state.lock().unwrap().backs.clone();
        for back in backs {
            let _ = back.socket.send(bytes);
        }
    }

    /// Sends each client a datagram as if it came from the server.
    pub fn forge_from_server(&self, bytes: &[u8]) {
        let backs = self.shared.state.lock().unwrap().backs.clone();
        for back in backs {
            let client = *back.client.lock().unwrap();
            let _ = self.shared.front.send_to(bytes, client);
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.shared.state.lock().unwrap().counts
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        {
            // Under the lock, so that the sender can't miss it between its look and its wait.
            let _state = self.shared.state.lock().unwrap();
            self.shared.stopping.store(true, SeqCst);
        }
        self.shared.earlier.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic has been printed already
        }
    }
}

fn spawn(name: &str, shared: &Arc<Shared>, run: fn(&Shared)) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared)).unwrap()
}

fn socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(addr)?;
    let options = socket2::SockRef::from(&socket);
    options.set_recv_buffer_size(SOCKET_BUFFER)?;
    options.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Receives from all clients. A new one gets its socket and its thread here.
    fn receive_from_clients(&self) {
        thread::scope(|scope| {
            let mut backs: HashMap<SocketAddr, Arc<Back>> = HashMap::new();
            let mut buffer = vec![0; 65536];
            while !self.stopping() {
                // Errors are a passed read timeout, or that an earlier datagram of ours met nobody.
                let Ok((length, client)) = self.front.recv_from(&mut buffer) else { continue };
                let key = if self.shares { self.addr } else { client };
                let back = match backs.get(&key) {
                    Some(back) => {
                        if self.shares {
                            *back.client.lock().unwrap() = client;
                        }
                        Arc::clone(back)
                    }
                    None if backs.len() == CLIENTS => {
                        let mut state = self.state.lock().unwrap();
                        state.counts.received += 1;
                        state.counts.overflowed += 1;
                        continue;
                    }
                    None => {
                        let any = SocketAddr::from((self.addr.ip(), 0));
                        let socket = socket(any).expect("the relay's socket for a client");
                        socket.connect(self.server).expect("a server's address");
                        let back = Arc::new(Back { socket, client: Mutex::new(client) });
                        backs.insert(key, Arc::clone(&back));
                        self.state.lock().unwrap().backs.push(Arc::clone(&back));
                        let receiving = Arc::clone(&back);
                        scope.spawn(move || self.receive_from_server(&receiving));
                        back
                    }
                };
                self.take(Direction::ToServer, &buffer[..length], &back);
            }
        });
    }

    /// Receives what the server sends to one client.
    fn receive_from_server(&self, back: &Arc<Back>) {
        let mut buffer = vec![0; 65536];
        while !self.stopping() {
            let Ok(length) = back.socket.recv(&mut buffer) else { continue }; // as above
            self.take(Direction::ToClient, &buffer[..length], back);
        }
    }

    /// Draws what happens to a datagram.
    fn take(&self, direction: Direction, bytes: &[u8], back: &Arc<Back>) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let way = direction as usize;
        let number = state.drawn[way];
        state.drawn[way] += 1;
        state.counts.received += 1;
        let link = state.link;
        let mut random = link.seed ^ (number * 2 + way as u64).wrapping_mul(0x2545_F491_4F6C_DD1D);
        let mut drawn = |percent: u32| next(&mut random) % 100 < u64::from(percent);
        if drawn(link.loss) {
            state.counts.lost += 1;
            return;
        }
        let mut due = now + link.delay;
        if drawn(link.reorder) {
            state.counts.reordered += 1;
            due += link.late;
        }
        let double = drawn(link.double);
        state.counts.doubled += u64::from(double);
        let damage = !bytes.is_empty() && drawn(link.damage);
        state.counts.damaged += u64::from(damage);
        let wrong = next(&mut random);
        let earliest = state.on_the_way.peek().map(|first| first.0.due);
        for copy in 0..=usize::from(double) + usize::from(damage) {
            if state.held[way] + bytes.len() > HELD {
                state.counts.overflowed += 1;
                continue;
            }
            state.held[way] += bytes.len();
            let mut own = state.spare.pop().unwrap_or_default();
            own.extend_from_slice(bytes);
            if copy > usize::from(double) {
                own[wrong as usize / 8 % bytes.len()] ^= 1 << (wrong % 8);
            }
            let number = number * 3 + copy as u64; // copies stay in their order, too
            let datagram = Datagram { due, number, direction, bytes: own, back: Arc::clone(back) };
            state.on_the_way.push(Reverse(datagram));
        }
        if earliest.is_none_or(|earliest| due < earliest) {
            self.earlier.notify_one();
        }
    }

    /// Sends what is due, until the end. What is on the way then is lost.
    fn send(&self) {
        let mut due = Vec::new();
        let mut state = self.state.lock().unwrap();
        while !self.stopping() {
            let now = Instant::now();
            while state.on_the_way.peek().is_some_and(|first| first.0.due <= now) {
                let Reverse(datagram) = state.on_the_way.pop().unwrap();
                state.held[datagram.direction as usize] -= datagram.bytes.len();
                due.push(datagram);
            }
            if due.is_empty() {
                let earliest = state.on_the_way.peek().map(|first| first.0.due);
                state = match earliest {
                    None => self.earlier.wait(state).unwrap(),
                    Some(earliest) => {
                        let wait = (earliest - now).max(GRAIN);
                        self.earlier.wait_timeout(state, wait).unwrap().0
                    }
                };
                continue;
            }
            drop(state);
            for datagram in &due {
                // A server that isn't there, or a client that has gone: lost, as on any link.
                let _ = match datagram.direction {
                    Direction::ToServer => datagram.back.socket.send(&datagram.bytes),
                    Direction::ToClient => {
                        let client = *datagram.back.client.lock().unwrap();
                        self.front.send_to(&datagram.bytes, client)
                    }
                };
            }
            state = self.state.lock().unwrap();
            for datagram in due.drain(..) {
                if state.spare.len() < 4096 {
                    let mut bytes = datagram.bytes;
                    bytes.clear();
                    state.spare.push(bytes);
                }
            }
        }
    }
}

impl Ord for Datagram {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Datagram {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Datagram {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Datagram {}

/// The next of splitmix64's random numbers.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

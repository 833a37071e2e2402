//! A UDP relay that loses, reorders, doubles, damages and delays datagrams. It makes a bad link
//! between a client and a server that know nothing of it.
//!
//! Clients send to [`UdpRelay::addr`]. The relay has a socket towards the server for each client's
//! address, so the server sees the right number of clients.
//!
//! The fate of a datagram is drawn from a seed and from its number in its direction. So each run
//! has the same losses.
//!
//! The relay's rate isn't limited, but its memory is: [`HELD`] bytes for each direction. Further
//! datagrams are lost and counted.
//!
//! Each socket has a receiving thread. It only receives datagrams and draws their fate, so that the
//! system's buffers stay empty. One more thread sends the datagrams that are due. The drop of the
//! relay ends all threads.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Limit of the bytes on the way in each direction. It is a fifth of a second at 100 MB/s.
const HELD: usize = 20 << 20;

/// Limit of the client addresses, because each costs a socket and a thread. Datagrams from further
/// addresses are lost.
const CLIENTS: usize = 256;

/// Size of a socket's buffer, in bytes. It holds datagrams while a receiving thread waits for a
/// core. The system may give less.
const SOCKET_BUFFER: usize = 4 << 20;

/// Interval at which a receiving thread checks whether the relay has ended.
const LOOK: Duration = Duration::from_millis(50);

/// The sender's shortest sleep. It saves a wake-up for each datagram. A delay is never shorter than
/// asked, and at most this much longer.
const GRAIN: Duration = Duration::from_micros(200);

/// The faults of the link, the same in each direction. The default is a perfect link without delay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// Percentage of datagrams that are lost. 100 is a dead link.
    pub loss: u32,
    /// Percentage of datagrams that arrive [`Self::late`] after their time, and so after later
    /// ones.
    pub reorder: u32,
    /// The extra delay of reordered datagrams.
    pub late: Duration,
    /// Percentage of datagrams that arrive twice. The second copy follows at once.
    pub double: u32,
    /// Percentage of datagrams that are followed by a copy with one wrong bit.
    pub damage: u32,
    /// The delay of each datagram.
    pub delay: Duration,
    /// The seed of the random numbers.
    pub seed: u64,
}

/// Counts of datagrams so far, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Received from either side.
    pub received: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Sent later than datagrams that came after them.
    pub reordered: u64,
    /// Sent twice.
    pub doubled: u64,
    /// Followed by a damaged copy.
    pub damaged: u64,
    /// Lost because [`HELD`] bytes were on the way already, or because there were [`CLIENTS`]
    /// clients already.
    pub overflowed: u64,
}

/// The relay. Its drop ends its threads and closes its sockets.
pub struct UdpRelay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The socket that clients send to.
    front: UdpSocket,
    /// The relay's address.
    addr: SocketAddr,
    /// The server's address.
    server: SocketAddr,
    /// Whether all clients share one address towards the server, as behind a NAT.
    shares: bool,
    /// Guards the fields of [`State`]. It is held across no system call except a wake-up.
    state: Mutex<State>,
    /// Wakes the sender when a datagram is due earlier than all others.
    earlier: Condvar,
    stopping: AtomicBool,
}

struct State {
    link: Link,
    /// The datagrams on the way. The earliest is on top.
    on_the_way: BinaryHeap<Reverse<Datagram>>,
    /// Number of datagrams received, by [`Direction`].
    drawn: [u64; 2],
    /// Bytes on the way, by [`Direction`].
    held: [usize; 2],
    /// The sockets of all clients.
    backs: Vec<Arc<Back>>,
    /// Unused buffers.
    spare: Vec<Vec<u8>>,
    counts: Counts,
}

#[derive(Clone, Copy)]
enum Direction {
    ToServer = 0,
    ToClient = 1,
}

/// A datagram on the way. Datagrams are ordered by the time when they are due, and then by the time
/// when they came.
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
    /// The client that gets the answers. If all clients share the socket, it is the one that sent
    /// last.
    client: Mutex<SocketAddr>,
}

impl UdpRelay {
    /// Starts a relay in front of `server`, on loopback.
    pub fn start(server: SocketAddr, link: Link) -> io::Result<Self> {
        Self::run(server, link, false)
    }

    /// Starts a relay that shows the server a single address for all clients. So a second client
    /// looks like the first one after a restart with the same port. Answers go to the client that
    /// sent last.
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

    /// Returns the address that clients send to.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Changes the link for datagrams that arrive from now on.
    pub fn set_link(&self, link: Link) {
        self.shared.state.lock().unwrap().link = link;
    }

    /// Sends the server a datagram from the address of each client.
    pub fn forge_from_clients(&self, bytes: &[u8]) {
        let backs = self.shared.state.lock().unwrap().backs.clone();
        for back in backs {
            let _ = back.socket.send(bytes);
        }
    }

    /// Sends each client a datagram from the address of the server.
    pub fn forge_from_server(&self, bytes: &[u8]) {
        let backs = self.shared.state.lock().unwrap().backs.clone();
        for back in backs {
            let client = *back.client.lock().unwrap();
            let _ = self.shared.front.send_to(bytes, client);
        }
    }

    /// Returns the counts so far.
    pub fn counts(&self) -> Counts {
        self.shared.state.lock().unwrap().counts
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        {
            // The flag is set under the lock. Otherwise the sender could miss it between its check
            // and its wait.
            let _state = self.shared.state.lock().unwrap();
            self.shared.stopping.store(true, SeqCst);
        }
        self.shared.earlier.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // A panic was already printed.
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

    /// Receives from all clients. A new client gets its socket and its thread here.
    fn receive_from_clients(&self) {
        thread::scope(|scope| {
            let mut backs: HashMap<SocketAddr, Arc<Back>> = HashMap::new();
            let mut buffer = vec![0; 65536];
            while !self.stopping() {
                // An error is a read timeout, or a report that nobody has received an earlier
                // datagram.
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

    /// Receives the datagrams of the server to one client.
    fn receive_from_server(&self, back: &Arc<Back>) {
        let mut buffer = vec![0; 65536];
        while !self.stopping() {
            let Ok(length) = back.socket.recv(&mut buffer) else { continue };
            self.take(Direction::ToClient, &buffer[..length], back);
        }
    }

    /// Draws the fate of a datagram, and queues it.
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
            let number = number * 3 + copy as u64; // Copies stay in order too.
            let datagram = Datagram { due, number, direction, bytes: own, back: Arc::clone(back) };
            state.on_the_way.push(Reverse(datagram));
        }
        if earliest.is_none_or(|earliest| due < earliest) {
            self.earlier.notify_one();
        }
    }

    /// Sends the datagrams that are due, until the relay ends. Datagrams that are on the way then
    /// are lost.
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
                // If the server or the client doesn't exist, the datagram is lost, as on any link.
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

/// Returns the next random number of splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

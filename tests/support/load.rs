//! Load for forwarders. It sends bytes through a TCP connection in both directions at once, and
//! checks each.
//!
//! The far forwarder connects to a [`Target`]. [`transfer`] is a client of the near forwarder. A
//! connection begins with a header: the number of bytes in each direction, and the end that closes.
//! Both ends compare every byte with the expected one. At the end the target writes a receipt. So a
//! transfer that succeeds proves that each byte arrived, in both directions. No half-close is
//! needed.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Period of the data, in bytes. It is a prime, and so no multiple of a buffer's or a window's
/// length. Otherwise a piece at a wrong place could look right.
const PERIOD: usize = 1_048_583;

/// Size of one read or write, in bytes.
const PIECE: usize = 128 * 1024;

/// The parameters of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Bytes from the client to the target.
    pub up: u64,
    /// Bytes from the target to the client.
    pub down: u64,
    /// Selects the positions in the data at which they begin.
    pub seed: u64,
    pub closes: Closes,
}

/// The end that closes its connection after the whole exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closes {
    /// The client closes. The target's connection has to end.
    Client,
    /// The target closes right after the last byte. The client has to get all bytes, and a clean
    /// end.
    Target,
}

impl Job {
    pub const HEADER: usize = 25;

    /// Makes a job of `bytes` bytes in each direction.
    pub fn both(bytes: u64, seed: u64) -> Self {
        Self { up: bytes, down: bytes, seed, closes: Closes::Client }
    }

    pub fn header(&self) -> [u8; Self::HEADER] {
        let mut header = [0; Self::HEADER];
        header[..8].copy_from_slice(&self.up.to_le_bytes());
        header[8..16].copy_from_slice(&self.down.to_le_bytes());
        header[16..24].copy_from_slice(&self.seed.to_le_bytes());
        header[24] = u8::from(self.closes == Closes::Target);
        header
    }

    fn decode(header: [u8; Self::HEADER]) -> Self {
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let closes = if header[24] == 1 { Closes::Target } else { Closes::Client };
        Self { up: number(0), down: number(8), seed: number(16), closes }
    }
}

// ---- the data -----------------------------------------------------------------------------------

fn data() -> &'static [u8] {
    static DATA: OnceLock<Vec<u8>> = OnceLock::new();
    DATA.get_or_init(|| {
        let mut state = 1u64;
        let mut word = || {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            (state >> 32).to_le_bytes()
        };
        let mut data = Vec::with_capacity(PERIOD + 4);
        while data.len() < PERIOD {
            data.extend_from_slice(&word()[..4]);
        }
        data.truncate(PERIOD);
        data
    })
}

/// Makes the data of a seed, piece by piece.
struct Pieces {
    at: usize,
    left: u64,
}

impl Pieces {
    fn new(seed: u64, length: u64) -> Self {
        let at = usize::try_from(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) % PERIOD as u64).unwrap();
        Self { at, left: length }
    }

    /// Returns the next piece, of at most `limit` bytes. It is empty at the end.
    fn next(&mut self, limit: usize) -> &'static [u8] {
        let length = limit.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let piece = &data()[self.at..];
        let piece = &piece[..length.min(piece.len())];
        self.left -= piece.len() as u64;
        self.at = (self.at + piece.len()) % PERIOD;
        piece
    }
}

fn send(mut to: &TcpStream, seed: u64, length: u64) -> io::Result<()> {
    let mut pieces = Pieces::new(seed, length);
    loop {
        match pieces.next(PIECE) {
            [] => return Ok(()),
            piece => to.write_all(piece)?,
        }
    }
}

/// Receives `length` bytes and compares each.
fn receive(mut from: &TcpStream, seed: u64, length: u64) -> io::Result<()> {
    let mut pieces = Pieces::new(seed, length);
    let mut buffer = vec![0; PIECE];
    while pieces.left > 0 {
        let at = length - pieces.left;
        let limit = PIECE.min(usize::try_from(pieces.left).unwrap_or(PIECE));
        let n = match from.read(&mut buffer[..limit]) {
            Ok(0) => return Err(other(format!("the end after {at} of {length} bytes"))),
            Ok(n) => n,
            Err(error) => {
                let text = format!("{error}, after {at} of {length} bytes");
                return Err(io::Error::new(error.kind(), text));
            }
        };
        let mut came = &buffer[..n];
        while !came.is_empty() {
            let right = pieces.next(came.len());
            let (piece, rest) = came.split_at(right.len());
            if piece != right {
                return Err(other(format!("wrong bytes, after {at} of {length}")));
            }
            came = rest;
        }
    }
    Ok(())
}

fn other(text: String) -> io::Error {
    io::Error::other(text)
}

fn told<T>(what: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}")))
}

// ---- both ends ----------------------------------------------------------------------------------

/// Moves a job's bytes through the forwarder at `through`. A connection on which nothing moves for
/// `patience` has failed.
pub fn transfer(through: SocketAddr, job: Job, patience: Duration) -> io::Result<()> {
    let socket = told("connect", TcpStream::connect(through))?;
    transfer_over(&socket, job, patience)
}

/// Does the same as [`transfer`], over an existing connection.
pub fn transfer_over(mut socket: &TcpStream, job: Job, patience: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    told("the header", socket.write_all(&job.header()))?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(socket, job.seed, job.up));
        let received = told("receiving", receive(socket, !job.seed, job.down));
        if received.is_err() {
            let _ = socket.shutdown(Shutdown::Both); // This stops the sender too.
        }
        told("sending", sending.join().unwrap())?;
        received
    })?;
    let mut receipt = [0; 8];
    told("the receipt", socket.read_exact(&mut receipt))?;
    if u64::from_le_bytes(receipt) != job.up {
        return Err(other("the target got wrong bytes".to_owned()));
    }
    if job.closes == Closes::Target && told("the end", socket.read(&mut receipt))? != 0 {
        return Err(other("more than the whole answer came".to_owned()));
    }
    Ok(())
}

/// The target of the far forwarder. It serves any number of transfers at once.
pub struct Target {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    addr: SocketAddr,
    patience: Duration,
    stopping: AtomicBool,
    /// Number of connections so far.
    accepted: AtomicU64,
    /// Number of connections that are open now.
    open: AtomicUsize,
    /// The largest number of connections that were open at once.
    most: AtomicUsize,
    /// Number of transfers without a fault.
    served: AtomicU64,
    /// The faults of the others.
    faults: Mutex<Vec<String>>,
}

impl Target {
    /// Starts a target on loopback. A connection on which nothing moves for `patience` has failed.
    pub fn start(patience: Duration) -> io::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, patience)
    }

    /// Does the same as [`Self::start`], at another address of this machine.
    pub fn start_at(ip: Ipv4Addr, patience: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, 0))?;
        let shared = Arc::new(Shared {
            addr: listener.local_addr()?,
            patience,
            stopping: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            faults: Mutex::new(Vec::new()),
        });
        let own = Arc::clone(&shared);
        let accepting = Some(thread::spawn(move || own.accept(&listener)));
        Ok(Self { shared, accepting })
    }

    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Returns the number of connections so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(SeqCst)
    }

    /// Returns the number of connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// Returns the largest number of connections that were open at once.
    pub fn most(&self) -> usize {
        self.shared.most.load(SeqCst)
    }

    /// Returns the number of transfers without a fault, whichever end closed.
    pub fn served(&self) -> u64 {
        self.shared.served.load(SeqCst)
    }

    /// Returns the faults so far, and forgets them.
    pub fn take_faults(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.faults.lock().unwrap())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.shared.stopping.store(true, SeqCst);
        let _ = TcpStream::connect(self.shared.addr); // This wakes the thread.
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for socket in listener.incoming() {
            if self.stopping.load(SeqCst) {
                return;
            }
            let Ok(socket) = socket else { continue };
            self.accepted.fetch_add(1, SeqCst);
            self.most.fetch_max(self.open.fetch_add(1, SeqCst) + 1, SeqCst);
            let own = Arc::clone(self);
            thread::spawn(move || {
                let served = own.serve(&socket);
                drop(socket);
                match served {
                    Ok(()) => {
                        own.served.fetch_add(1, SeqCst);
                    }
                    Err(error) => own.faults.lock().unwrap().push(error.to_string()),
                }
                own.open.fetch_sub(1, SeqCst);
            });
        }
    }

    fn serve(&self, mut socket: &TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(self.patience))?;
        socket.set_write_timeout(Some(self.patience))?;
        let mut header = [0; Job::HEADER];
        told("target: the header", socket.read_exact(&mut header))?;
        let job = Job::decode(header);
        thread::scope(|scope| {
            let sending = scope.spawn(|| send(socket, !job.seed, job.down));
            let received = told("target: receiving", receive(socket, job.seed, job.up));
            if received.is_err() {
                let _ = socket.shutdown(Shutdown::Both);
            }
            told("target: sending", sending.join().unwrap())?;
            received
        })?;
        told("target: the receipt", socket.write_all(&job.up.to_le_bytes()))?;
        if job.closes == Closes::Client {
            // A clean end or an error. Only the end itself matters.
            match socket.read(&mut header) {
                Ok(0) => {}
                Ok(_) => return Err(other("target: more than the whole upload came".to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) => return told("target: the end", Err(error)),
            }
        }
        Ok(())
    }
}

//! An endpoint: a UDP socket, its receiving thread and its clock thread, and who may talk to it.
//!
//! A conversation is its peer's address and number. It begins with a datagram that acks nothing and
//! brings one of the first segments, which may have overtaken the very first. It is accepted when
//! its first byte has come; then those of its address that have been silent for a while end.
//!
//! Invariants: what isn't well-formed is counted and dropped before it changes anything; the
//! receiving thread waits for the socket alone; no error of the socket's ends it.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::conversation::Conversation;
use super::datagram::Refused;
use super::link::{Counters, Link, count};
use super::protocol::Protocol;
use super::segment::{Command, Segment, parse};
use super::settings::Settings;
use super::socket::{Received, Socket};
use super::transport::KcpTransport;

/// How often the receiving thread goes on receiving before it sees to the conversations.
const ROUNDS: usize = 4;

/// How many segments a peer sends at once before it knows our window: KCP's.
const FIRST_SEGMENTS: u32 = 32;

/// Begins a conversation with a server. A datagram is only sent when something is written, and
/// nothing is known of the server before it answers: KCP has no handshake.
///
/// # Errors
/// Whatever the system says of the socket, and threads that can't be started.
pub fn connect(server: impl ToSocketAddrs, settings: &Settings) -> io::Result<KcpTransport> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address");
    for peer in server.to_socket_addrs()? {
        match connect_to(peer, settings) {
            Ok(transport) => return Ok(transport),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_to(peer: SocketAddr, settings: &Settings) -> io::Result<KcpTransport> {
    let any: SocketAddr = if peer.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    // Bound to no address, so that the system may change it, as kcptun's; what it is now is found
    // by another socket.
    let socket = UdpSocket::bind(any)?;
    let probe = UdpSocket::bind(any)?;
    probe.connect(peer)?;
    let local = SocketAddr::new(probe.local_addr()?.ip(), socket.local_addr()?.port());
    let socket = Socket::new(socket, settings.socket_buffer)?;
    let link = Arc::new(Link::new(socket, local, settings.clone()));
    let protocol = Protocol::new(rand::random(), settings);
    let conversation = Arc::new(Conversation::new(peer, protocol, true, 0));
    link.add_own(&conversation);
    let transport = KcpTransport::new(&link, conversation);
    start(&link)?;
    Ok(transport)
}

/// A socket that many clients talk to. Its drop ends accepting; what was accepted lives on.
#[derive(Debug)]
pub struct Endpoint {
    link: Arc<Link>,
}

impl Endpoint {
    /// Listens.
    ///
    /// # Errors
    /// Whatever the system says of the socket, and threads that can't be started.
    pub fn bind(addr: impl ToSocketAddrs, settings: &Settings) -> io::Result<Self> {
        let socket = UdpSocket::bind(addr)?;
        let local = socket.local_addr()?;
        let socket = Socket::new(socket, settings.socket_buffer)?;
        let endpoint = Self { link: Arc::new(Link::new(socket, local, settings.clone())) };
        start(&endpoint.link)?;
        Ok(endpoint)
    }

    /// Waits for a client's conversation whose first byte has come.
    ///
    /// # Errors
    /// The endpoint was closed.
    pub fn accept(&self) -> io::Result<KcpTransport> {
        Ok(KcpTransport::new(&self.link, self.link.accept()?))
    }

    /// Accepts no more, and wakes who waits for it.
    pub fn close(&self) {
        self.link.close();
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.link.local
    }

    /// How many conversations there are, those that linger and those to be accepted included.
    pub fn conversations(&self) -> usize {
        self.link.conversations()
    }

    pub fn counters(&self) -> &Counters {
        &self.link.counters
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.close();
    }
}

/// Starts the two threads. Their names have the port.
fn start(link: &Arc<Link>) -> io::Result<()> {
    let spawn = |name: &str, body: fn(&Arc<Link>)| {
        let name = format!("kcp-{name}-{}", link.local.port());
        let link = Arc::clone(link);
        thread::Builder::new().name(name).spawn(move || body(&link))
    };
    spawn("recv", receive_all)?;
    spawn("clock", keep_time).map(drop).inspect_err(|_| link.close())
}

/// The clock thread.
fn keep_time(link: &Arc<Link>) {
    let mut all = Vec::new();
    while !link.is_over() {
        link.clock.begin();
        let now = link.clock.now();
        let mut next = u64::MAX;
        link.all(&mut all);
        for conversation in all.drain(..) {
            match conversation.tick(link, now) {
                Some(due) => next = next.min(due),
                None => link.remove(&conversation),
            }
        }
        if !link.is_over() {
            link.clock.sleep(next);
        }
    }
}

/// The receiving thread. It sees to a conversation once for all that has come, so that one answer
/// and one wake-up do for many datagrams.
fn receive_all(link: &Arc<Link>) {
    let mut received = Received::new();
    let mut touched = Vec::<Arc<Conversation>>::new();
    while !link.is_over() {
        for round in 0..ROUNDS {
            match link.socket.receive(&mut received, round == 0) {
                Ok(()) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    break;
                }
                // What a router said of a datagram of ours, or worse: neither may make this spin.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
            for (peer, datagram) in received.datagrams() {
                count(&link.counters.received);
                if let Some(conversation) = dispatch(link, peer, datagram)
                    && !touched.iter().any(|known| Arc::ptr_eq(known, &conversation))
                {
                    touched.push(conversation);
                }
            }
            if !received.is_full() {
                break;
            }
        }
        for conversation in touched.drain(..) {
            if conversation.settle(link) {
                link.offer(&conversation);
            }
        }
    }
}

/// Gives a datagram to its conversation; returns that, if it took it.
fn dispatch(link: &Arc<Link>, peer: SocketAddr, datagram: &mut [u8]) -> Option<Arc<Conversation>> {
    let counters = &link.counters;
    if datagram.len() > *Settings::MTUS.end() {
        return drop_as(&counters.malformed); // a window of such would be dear
    }
    let segments = match link.crypt.open(datagram) {
        Ok(segments) => segments,
        Err(Refused::Short) => return drop_as(&counters.short),
        Err(Refused::Checksum) => {
            *counters.last_damaged.lock() = Some(peer);
            return drop_as(&counters.checksum);
        }
    };
    if let [_, _, _, _, 0xf1 | 0xf2, 0, ..] = segments {
        return drop_as(&counters.fec); // kcp-go's marks, where a segment has its command
    }
    let Some(Ok(first)) = parse(segments).next() else { return drop_as(&counters.malformed) };
    let now = link.clock.now();
    if let Some(conversation) = link.find(peer, first.conv) {
        return match conversation.input(segments, now) {
            Ok(()) => Some(conversation),
            Err(_) => drop_as(&counters.malformed),
        };
    }
    let begins =
        |segment: Segment<'_>| segment.command == Command::Push && segment.sn.0 < FIRST_SEGMENTS;
    if !parse(segments).flatten().any(begins) || link.has_ended(peer, first.conv) {
        return drop_as(&counters.unknown);
    }
    let mut protocol = Protocol::new(first.conv, &link.settings);
    if protocol.input(segments, now).is_err() {
        return drop_as(&counters.malformed);
    }
    let new = Arc::new(Conversation::new(peer, protocol, false, now));
    match link.add(&new) {
        true => Some(new),
        false => drop_as(&counters.refused),
    }
}

fn drop_as(counter: &std::sync::atomic::AtomicU64) -> Option<Arc<Conversation>> {
    count(counter);
    None
}

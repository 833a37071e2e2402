//! An endpoint: a UDP socket, its receiving thread, its clock thread, and the rules for new
//! conversations.
//!
//! A conversation is identified by its peer's address and its number. It begins with a datagram
//! that acks nothing and brings one of the first segments. This need not be the very first segment,
//! because segments can overtake each other. The conversation can be accepted when its first byte
//! has arrived. At that moment, older silent conversations of the same address end.
//!
//! Invariants:
//! - A malformed datagram is counted and dropped before it changes anything.
//! - The receiving thread waits for nothing but the socket.
//! - No error of the socket ends the receiving thread.

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

/// Limit of the receive calls before the receiving thread answers and wakes the conversations.
const MAX_RECEIVES: usize = 4;

/// Number of segments that a peer may send before it knows our window. The number is KCP's.
const FIRST_SEGMENTS: u32 = 32;

/// Begins a conversation with a server. KCP has no handshake. So this function sends no datagram,
/// and can't tell whether the server exists. The first datagram is sent by the first write.
///
/// # Errors
/// Returns the errors of the socket, and of starting threads.
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
    // As in kcptun, the socket isn't bound to one local address. So it goes on working when the
    // system gets another address. A second, connected socket finds the current address.
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

/// A socket that accepts conversations from many clients. After its drop no conversation is
/// accepted any more. Accepted conversations live on.
#[derive(Debug)]
pub struct Endpoint {
    link: Arc<Link>,
}

impl Endpoint {
    /// Opens a socket that clients can begin conversations with.
    ///
    /// # Errors
    /// Returns the errors of the socket, and of starting threads.
    pub fn bind(addr: impl ToSocketAddrs, settings: &Settings) -> io::Result<Self> {
        let socket = UdpSocket::bind(addr)?;
        let local = socket.local_addr()?;
        let socket = Socket::new(socket, settings.socket_buffer)?;
        let endpoint = Self { link: Arc::new(Link::new(socket, local, settings.clone())) };
        start(&endpoint.link)?;
        Ok(endpoint)
    }

    /// Waits for a client's conversation whose first byte has arrived.
    ///
    /// # Errors
    /// The endpoint was closed.
    pub fn accept(&self) -> io::Result<KcpTransport> {
        Ok(KcpTransport::new(&self.link, self.link.accept()?))
    }

    /// Makes blocked and later calls of [`accept`](Self::accept) fail.
    pub fn close(&self) {
        self.link.close();
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.link.local
    }

    /// Returns the number of conversations. It includes those that linger after their end, and
    /// those that aren't accepted yet.
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

/// Starts the two threads. Their names contain the port.
fn start(link: &Arc<Link>) -> io::Result<()> {
    let spawn = |name: &str, body: fn(&Arc<Link>)| {
        let name = format!("kcp-{name}-{}", link.local.port());
        let link = Arc::clone(link);
        thread::Builder::new().name(name).spawn(move || body(&link))
    };
    spawn("recv", receive_all)?;
    spawn("clock", keep_time).map(drop).inspect_err(|_| link.close())
}

/// The body of the clock thread.
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

/// The body of the receiving thread. It first takes in all datagrams that are there. Then it
/// answers and wakes each conversation once, so that many datagrams share one answer and one
/// wake-up.
fn receive_all(link: &Arc<Link>) {
    let mut received = Received::new();
    let mut touched = Vec::<Arc<Conversation>>::new();
    while !link.is_over() {
        for round in 0..MAX_RECEIVES {
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
                // A router's report about one of our datagrams, or a failure of the socket. Without
                // the sleep, a repeated error would use up the processor.
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

/// Gives a datagram to its conversation. Returns the conversation, if it has accepted the datagram.
fn dispatch(link: &Arc<Link>, peer: SocketAddr, datagram: &mut [u8]) -> Option<Arc<Conversation>> {
    let counters = &link.counters;
    if datagram.len() > *Settings::MTUS.end() {
        // A window full of oversized segments would cost much memory.
        return drop_as(&counters.malformed);
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
        // These are kcp-go's marks of error correction, at the place where a segment has its
        // command.
        return drop_as(&counters.fec);
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

//! The UDP socket: many datagrams in one system call, where the system can do that.
//!
//! On Linux a run of datagrams of one length is sent in one call (GSO), and those that wait are
//! received in one. The crate quinn-udp knows how, and does it one by one elsewhere.
//!
//! Invariants: the socket is in non-blocking mode where there is `poll` to wait with, and otherwise
//! blocks for [`WAIT`] at most; [`Socket::receive`] returns no later than that.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::SockRef;

/// How long the receiving thread waits at a time: so late it sees that it is to end, where the
/// system doesn't wake it.
const WAIT: Duration = Duration::from_secs(1);

/// How long a datagram waits for room in the socket's buffer before it is lost.
const WAIT_FOR_ROOM: Duration = Duration::from_millis(20);

/// How many messages are received at once. Each may be many datagrams of one sender's.
const MESSAGES: usize = 8;

/// How long a message may be: any.
const MESSAGE: usize = 64 * 1024;

#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// Where messages are received into.
pub struct Received {
    memory: Vec<u8>,
    metas: [RecvMeta; MESSAGES],
    count: usize,
}

impl Received {
    pub fn new() -> Self {
        Self {
            memory: vec![0; MESSAGES * MESSAGE],
            metas: [RecvMeta::default(); MESSAGES],
            count: 0,
        }
    }

    /// The datagrams that were received last, each with its sender.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        let messages = self.memory.chunks_mut(MESSAGE).zip(&self.metas).take(self.count);
        messages.flat_map(|(message, meta)| {
            let message = message.get_mut(..meta.len).unwrap_or_default();
            let empty = message.is_empty().then(Default::default);
            let datagrams = empty.into_iter().chain(message.chunks_mut(meta.stride.max(1)));
            datagrams.map(|datagram| (meta.addr, datagram))
        })
    }

    /// Whether there may be more where these came from.
    pub fn is_full(&self) -> bool {
        self.count == MESSAGES
    }
}

impl Socket {
    /// With buffers of so many bytes, as far as the system allows that.
    pub fn new(socket: UdpSocket, buffer: usize) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let _ = state.set_recv_buffer_size((&socket).into(), buffer);
        let _ = state.set_send_buffer_size((&socket).into(), buffer);
        if cfg!(not(unix)) {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(WAIT))?;
        }
        Ok(Self { socket, state })
    }

    /// How many datagrams of one length can be sent at once.
    pub fn most_at_once(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends a run of datagrams of `len` bytes each; the last may be shorter. Waits a little for
    /// room in the socket's buffer.
    ///
    /// # Errors
    /// The system didn't take them.
    pub fn send(&self, run: &[u8], len: usize, destination: SocketAddr) -> io::Result<()> {
        let segment_size = Some(len).filter(|len| *len < run.len());
        let transmit =
            Transmit { destination, ecn: None, contents: run, segment_size, src_ip: None };
        match self.state.try_send((&self.socket).into(), &transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait(false, WAIT_FOR_ROOM)?;
                self.state.try_send((&self.socket).into(), &transmit)
            }
            other => other,
        }
    }

    /// Takes the datagrams that are there; if there are none, waits for some for [`WAIT`] at most,
    /// or not at all.
    ///
    /// # Errors
    /// `WouldBlock` or `TimedOut` if there are none; or what the system says of an earlier send.
    pub fn receive(&self, into: &mut Received, wait: bool) -> io::Result<()> {
        into.count = 0;
        if wait {
            self.wait(true, WAIT)?;
        }
        let mut messages = into.memory.chunks_mut(MESSAGE).map(IoSliceMut::new);
        let mut bufs: [IoSliceMut<'_>; MESSAGES] =
            std::array::from_fn(|_| messages.next().unwrap_or(IoSliceMut::new(&mut [])));
        into.count = self.state.recv((&self.socket).into(), &mut bufs, &mut into.metas)?;
        Ok(())
    }

    /// Waits until the socket can be read or written.
    #[cfg(unix)]
    fn wait(&self, read: bool, at_most: Duration) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        let flags = if read { PollFlags::IN } else { PollFlags::OUT };
        let timeout = at_most.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&self.socket, flags)], Some(&timeout))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }

    /// The calls wait by themselves.
    #[cfg(not(unix))]
    fn wait(&self, _read: bool, _at_most: Duration) -> io::Result<()> {
        Ok(())
    }

    /// Wakes the receiving thread for good, where the system does that; elsewhere it wakes up by
    /// itself.
    pub fn wake(&self) {
        let _ = SockRef::from(&self.socket).shutdown(std::net::Shutdown::Both);
    }
}

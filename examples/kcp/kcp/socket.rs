//! The UDP socket. Where the system supports it, one system call sends or receives many datagrams.
//!
//! On Linux a run of datagrams of one length is sent in one call (GSO), and all datagrams that wait
//! are received in one call. The crate quinn-udp does this. On other systems quinn-udp sends and
//! receives them one by one.
//!
//! Invariants:
//! - Where the system has `poll`, the socket is in non-blocking mode. Elsewhere its calls block for
//!   at most [`RECEIVE_WAIT`].
//! - [`Socket::receive`] returns after at most [`RECEIVE_WAIT`].

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::SockRef;

/// Limit of one wait of the receiving thread. On systems that can't wake the thread, this is also
/// the delay until the thread notices that it has to stop.
const RECEIVE_WAIT: Duration = Duration::from_secs(1);

/// Time that a datagram waits for room in the socket's buffer before it is lost.
const SEND_WAIT: Duration = Duration::from_millis(20);

/// Number of messages that are received at once. Each may consist of many datagrams of one sender.
const MESSAGES: usize = 8;

/// Room for one message, in bytes. No message can be longer.
const MESSAGE: usize = 64 * 1024;

#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// The memory for received messages.
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

    /// Returns the datagrams of the last call of [`Socket::receive`], each with its sender.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        let messages = self.memory.chunks_mut(MESSAGE).zip(&self.metas).take(self.count);
        messages.flat_map(|(message, meta)| {
            let message = message.get_mut(..meta.len).unwrap_or_default();
            let empty = message.is_empty().then(Default::default);
            let datagrams = empty.into_iter().chain(message.chunks_mut(meta.stride.max(1)));
            datagrams.map(|datagram| (meta.addr, datagram))
        })
    }

    /// Returns whether more datagrams may be waiting in the socket.
    pub fn is_full(&self) -> bool {
        self.count == MESSAGES
    }
}

impl Socket {
    /// Sets the socket's buffers to `buffer` bytes, as far as the system allows that.
    pub fn new(socket: UdpSocket, buffer: usize) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let _ = state.set_recv_buffer_size((&socket).into(), buffer);
        let _ = state.set_send_buffer_size((&socket).into(), buffer);
        if cfg!(not(unix)) {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(RECEIVE_WAIT))?;
        }
        Ok(Self { socket, state })
    }

    /// Returns the limit of the datagrams of one length that can be sent at once.
    pub fn most_at_once(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends a run of datagrams of `len` bytes each. The last may be shorter. If the socket's
    /// buffer is full, this waits for room, at most for [`SEND_WAIT`].
    ///
    /// # Errors
    /// Returns the system's error if the system doesn't take the datagrams.
    pub fn send(&self, run: &[u8], len: usize, destination: SocketAddr) -> io::Result<()> {
        let segment_size = Some(len).filter(|len| *len < run.len());
        let transmit =
            Transmit { destination, ecn: None, contents: run, segment_size, src_ip: None };
        match self.state.try_send((&self.socket).into(), &transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait(false, SEND_WAIT)?;
                self.state.try_send((&self.socket).into(), &transmit)
            }
            other => other,
        }
    }

    /// Receives the datagrams that have come. If there are none and `wait` is true, this waits for
    /// some, at most for [`RECEIVE_WAIT`].
    ///
    /// # Errors
    /// - `WouldBlock` or `TimedOut` if there are no datagrams.
    /// - The system's error for an earlier send.
    pub fn receive(&self, into: &mut Received, wait: bool) -> io::Result<()> {
        into.count = 0;
        if wait {
            self.wait(true, RECEIVE_WAIT)?;
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

    /// Does nothing, because the socket's own calls wait here.
    #[cfg(not(unix))]
    fn wait(&self, _read: bool, _at_most: Duration) -> io::Result<()> {
        Ok(())
    }

    /// Wakes the receiving thread, and makes all its later waits return at once. On systems that
    /// can't do that, the thread wakes up by itself after [`RECEIVE_WAIT`].
    pub fn wake(&self) {
        let _ = SockRef::from(&self.socket).shutdown(std::net::Shutdown::Both);
    }
}

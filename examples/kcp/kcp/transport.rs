//! gmux's `Transport` over a conversation.
//!
//! KCP has no message that ends a conversation. This has consequences for a session:
//! - `finish_write` waits until the peer has acked everything.
//! - `can_finish` is false. `Session::close` returns Ok when the peer's KCP has acked everything.
//!   It doesn't wait until the peer ends its side, because KCP can't report that.
//! - A peer learns only by keepalive that the session is over. With TLS over KCP, the peer learns
//!   this at once, because TLS sends `close_notify`.
//! - After a finish the conversation goes on answering for a while, because the peer repeats
//!   segments that it believes lost. After an abort it is removed at once.
//!
//! Invariant: the conversation leaves its endpoint when both halves and the control are dropped.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use gmux::transport::{Control, Halves, Transport};

use super::conversation::Conversation;
use super::ending::End;
use super::link::Link;

/// Time limit of a write that waits for room, until gmux sets another. `Halves::bound_writes`
/// expects 10 ms.
const WRITE_BOUND: Duration = Duration::from_millis(10);

/// The number of microseconds that means "no limit".
const UNBOUNDED: u64 = u64::MAX;

/// A conversation that a session can run over.
#[derive(Debug)]
pub struct KcpTransport {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    link: Arc<Link>,
    conversation: Arc<Conversation>,
    /// Time limit of a read, in microseconds.
    read_bound: AtomicU64,
    /// Time limit of a write, in microseconds.
    write_bound: AtomicU64,
}

impl KcpTransport {
    pub(super) fn new(link: &Arc<Link>, conversation: Arc<Conversation>) -> Self {
        let write_bound = AtomicU64::new(micros(Some(WRITE_BOUND)));
        let read_bound = AtomicU64::new(UNBOUNDED);
        Self {
            handle: Arc::new(Handle {
                link: Arc::clone(link),
                conversation,
                read_bound,
                write_bound,
            }),
        }
    }

    pub fn peer_addr(&self) -> SocketAddr {
        self.handle.conversation.peer
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.conversation.leave(&self.link);
    }
}

impl Transport for KcpTransport {
    fn split(self) -> io::Result<Halves> {
        let [reader, writer, control, reads, writes] = [(); 5].map(|()| Arc::clone(&self.handle));
        let set = |to: &AtomicU64, bound| {
            to.store(micros(bound), SeqCst);
            Ok(())
        };
        Ok(Halves::new(Reader(reader), Writer(writer), ControlOf(control))
            .bound_reads(move |bound| set(&reads.read_bound, bound))
            .bound_writes(move |bound| set(&writes.write_bound, bound)))
    }
}

fn micros(bound: Option<Duration>) -> u64 {
    bound.map_or(UNBOUNDED, |bound| u64::try_from(bound.as_micros()).unwrap_or(UNBOUNDED))
}

fn bound(micros: &AtomicU64) -> Option<Duration> {
    match micros.load(SeqCst) {
        UNBOUNDED => None,
        micros => Some(Duration::from_micros(micros)),
    }
}

struct Reader(Arc<Handle>);

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Ok(0);
        }
        self.0.conversation.read(bufs, bound(&self.0.read_bound), &self.0.link)
    }
}

struct Writer(Arc<Handle>);

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.conversation.write(bufs, bound(&self.0.write_bound), &self.0.link)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.conversation.flush(&self.0.link)
    }
}

struct ControlOf(Arc<Handle>);

impl Control for ControlOf {
    fn finish_write(&self) -> io::Result<()> {
        self.0.conversation.finish(&self.0.link)
    }

    fn can_finish(&self) -> bool {
        false
    }

    fn abort(&self) {
        self.0.conversation.end(End::Aborted);
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        Some(self.0.link.local)
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        Some(self.0.conversation.peer)
    }
}

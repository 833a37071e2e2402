//! The state of a [`Session`] for its users: how it has ended, its counters, its addresses, its
//! `Debug`.
//!
//! Invariant: nothing here changes the session, and nothing here waits for the peer.

use std::fmt;
use std::net::SocketAddr;

use crossbeam_channel::Receiver;

use super::Session;
use crate::error::Error;
use crate::stats::{SessionStats, StreamStats};

impl Session {
    /// Returns whether the session was closed here, or has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.lifecycle.is_closing_or_ended()
    }

    /// Returns a channel that disconnects when the session is closed here, or ends. Nothing is ever
    /// sent on it.
    ///
    /// [`recv_timeout`](Receiver::recv_timeout) waits until the channel disconnects, for a limited
    /// time. [`Select`](crate::Select) or crossbeam's `select!` wait for several channels:
    ///
    /// ```
    /// use std::time::Duration;
    /// use gmux::{RecvTimeoutError, Select};
    /// # use gmux::{Config, Session};
    /// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
    /// # let client = Session::client(a, Config::new())?;
    /// # let server = Session::server(b, Config::new())?;
    /// let first = client.closed();
    /// let second = server.closed();
    /// assert_eq!(first.recv_timeout(Duration::from_millis(1)), Err(RecvTimeoutError::Timeout));
    /// let closer = std::thread::spawn(move || drop(server));
    /// let mut either = Select::new();
    /// either.recv(&first);
    /// either.recv(&second);
    /// println!("session {} of two has ended", either.ready() + 1);
    /// # closer.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// ```
    /// use crossbeam_channel::{after, select};
    /// # use gmux::{Config, Session};
    /// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
    /// # let client = Session::client(a, Config::new())?;
    /// # let server = Session::server(b, Config::new())?;
    /// client.close()?;
    /// select! {
    ///     recv(server.closed()) -> _ => println!("{}", server.close_reason().unwrap()),
    ///     recv(after(std::time::Duration::from_secs(9))) -> _ => panic!("nothing happened"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn closed(&self) -> Receiver<()> {
        self.shared.lifecycle.closed()
    }

    /// Returns why the session isn't usable any more, or `None` while it is open.
    ///
    /// The reason is [`Error::Closed`] after a local close, and [`Error::PeerClosed`] after the
    /// peer's clean end. Otherwise it is the error that ended the session.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.shared.lifecycle.cause().map(|cause| Error::clone(&cause))
    }

    /// Returns the number of streams that aren't closed. It is 0 once the session is closed here,
    /// or has ended.
    #[must_use]
    pub fn num_streams(&self) -> usize {
        self.shared.num_streams()
    }

    /// Returns the session's number in this process, from 1 on. Session 3 is called `session 3` in
    /// the log, and its threads are `gmux-reader-3` and `gmux-writer-3`.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.shared.number
    }

    /// Returns a snapshot of each stream that isn't closed on this side, in the order of the ids.
    /// Streams that wait for `accept` are included. After the session's end there are none.
    ///
    /// The snapshots show which stream holds the memory, and which calls wait.
    ///
    /// ```
    /// use std::io::Write;
    /// # use gmux::{Config, Session};
    /// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
    /// # let client = Session::client(a, Config::new())?;
    /// # let server = Session::server(b, Config::new())?;
    /// let mut stream = client.open("upload")?;
    /// stream.write_all(b"nobody reads this")?;
    /// # let theirs = server.accept()?;
    /// # while theirs.stats().unread < 17 { std::thread::yield_now() }
    /// let streams = server.streams();
    /// let largest = streams.iter().max_by_key(|stream| stream.unread).unwrap();
    /// assert_eq!((largest.name.as_str(), largest.unread), ("upload", 17));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn streams(&self) -> Vec<StreamStats> {
        self.shared.stream_stats()
    }

    /// Returns the session's counters and its present state. It looks at every stream, which takes
    /// about 0.1 µs per stream.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.shared.stats()
    }

    /// Returns this side's address if the transport knows it.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.local_addr()
    }

    /// Returns the peer's address if the transport knows it.
    #[doc(alias = "remote_addr")]
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.peer_addr()
    }
}

/// Shows the state that explains a hang: waiting calls, waiting data, the pause of reading with its
/// cause and duration, and the writer's state. It never blocks. If another thread holds the lock of
/// the session's table of streams at that moment, all of this is left out.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Session");
        text.field("number", &self.shared.number)
            .field("role", &self.shared.setup().role)
            .field("peer", &self.peer_addr())
            .field("close_reason", &self.close_reason());
        let Some(stats) = self.shared.glance() else {
            return text.finish_non_exhaustive(); // another thread holds the table of streams
        };
        text.field("streams", &stats.streams)
            .field("backlog", &stats.backlog)
            .field("accepts_waiting", &stats.accepts_waiting)
            .field("receive_buffered", &stats.receive_buffered)
            .field("paused", &stats.paused)
            .field("unsent", &stats.unsent)
            .field("writer", &stats.writer)
            .finish()
    }
}

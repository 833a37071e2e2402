//! Thousands of named streams over one connection, for blocking Rust.
//!
//! A [`Session`] turns one ordered, reliable byte connection (a `TcpStream`, a `UnixStream`, a pair of pipes, TLS …) into many
//! [`Stream`]s. Either end opens them, by name; the other accepts them. A stream is used like a `TcpStream`: `read` and
//! `write` block, threads do the waiting, and there is no async runtime. It speaks the protocol of the Go package gmux, and with
//! unnamed streams that of smux, versions 1 and 2.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{Shutdown, TcpListener, TcpStream};
//! use std::thread;
//! use gmux::{Config, Session};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let addr = listener.local_addr()?;
//!
//! // The server: a thread per stream.
//! let server = thread::spawn(move || -> std::io::Result<()> {
//!     let session = Session::server(listener.accept()?.0, Config::new())?;
//!     for stream in session.incoming() {
//!         let mut stream = stream?;
//!         thread::spawn(move || {
//!             let mut text = String::new();
//!             stream.read_to_string(&mut text)?;
//!             write!(stream, "{}: {}", stream.name().to_owned(), text.len())
//!         }); // dropping the stream closes it
//!     }
//!     Ok(())
//! });
//!
//! // The client.
//! let session = Session::client(TcpStream::connect(addr)?, Config::new())?;
//! let mut stream = session.open("length")?;
//! stream.write_all(b"how long is this?")?;
//! stream.shutdown(Shutdown::Write)?;
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer)?;
//! assert_eq!(answer, "length: 17");
//! session.close()?; // says whether everything was handed over
//! server.join().unwrap()?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Opening and accepting
//!
//! The two ends of a connection are alike, but for their streams' ids: one has to be the [`client`](Session::client), the other the
//! [`server`](Session::server). Both may open streams and accept them.
//!
//! [`open`](Session::open) doesn't wait for the peer, and the peer doesn't answer: there is no round trip before the first byte. A peer
//! that refuses the stream ends it, which reads as an immediate end of file.
//! [`accept`](Session::accept) waits for the next stream; [`try_accept`](Session::try_accept),
//! [`accept_timeout`](Session::accept_timeout) and [`set_deadline`](Session::set_deadline) bound that wait, and
//! [`incoming`](Session::incoming) is the loop around it.
//!
//! ```
//! use std::io::{Read, Write};
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
//! client.open("logs")?.write_all(b"one line")?;
//! client.open("metrics")?.write_all(b"cpu 7")?;
//! for _ in 0..2 {
//!     let mut stream = server.accept()?;
//!     let mut text = String::new();
//!     stream.read_to_string(&mut text)?;
//!     match stream.name() {
//!         "logs" => assert_eq!(text, "one line"),
//!         "metrics" => assert_eq!(text, "cpu 7"),
//!         other => panic!("{other:?}"),
//!     }
//! }
//! assert!(server.try_accept()?.is_none());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Names and who may open what
//!
//! A name is 0 to 65535 bytes, not necessarily text. [`name`](Stream::name) shows it with bytes that aren't UTF-8 replaced, so two
//! different names may look alike there: decide by [`name_bytes`](Stream::name_bytes). The peer chooses its names; nothing but your
//! check stands between them and what you do with them.
//!
//! ```
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
//! let allowed: &[&[u8]] = &[b"read/config", b"read/status"];
//! let _good = client.open("read/status")?;
//! let _bad = client.open(b"read/status\xFF")?;
//! assert!(allowed.contains(&server.accept()?.name_bytes()));
//!
//! let stream = server.accept()?;
//! assert_eq!(stream.name(), "read/status\u{FFFD}");
//! if !allowed.contains(&stream.name_bytes()) {
//!     drop(stream); // refused: its opener reads an end of file
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Plain smux peers understand only the unnamed stream, `open("")`; a name breaks their connection.
//!
//! # Reading, writing, half-close
//!
//! `read` returns what is there, at least one byte; `Ok(0)` is the peer's clean end and nothing else. `write` copies what there is
//! room for and returns that count; it waits only when there is none. `flush` waits until everything accepted has been handed to the
//! transport. [`shutdown`](Stream::shutdown) ends one direction: after `Write` the peer reads an end of file behind the data, and can
//! still answer.
//!
//! `Read` and `Write` are implemented for `&Stream` too, and `Clone` gives another handle, so one thread can read while another writes.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::Shutdown;
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
//! let ours = client.open("upper")?;
//! let writer = std::thread::spawn({
//!     let ours = ours.clone();
//!     move || {
//!         (&ours).write_all(b"question")?;
//!         ours.shutdown(Shutdown::Write) // no more from this end
//!     }
//! });
//!
//! let mut theirs = server.accept()?;
//! let mut text = String::new();
//! theirs.read_to_string(&mut text)?; // until the half-close
//! theirs.write_all(text.to_uppercase().as_bytes())?;
//! drop(theirs);
//!
//! let mut answer = String::new();
//! (&ours).read_to_string(&mut answer)?;
//! assert_eq!(answer, "QUESTION");
//! writer.join().unwrap()?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Deadlines and timeouts
//!
//! Two habits, and both may be set at once: then the earlier one holds. A *deadline* is a point in time for all calls
//! ([`set_deadline`](Stream::set_deadline), [`set_read_deadline`](Stream::set_read_deadline),
//! [`set_write_deadline`](Stream::set_write_deadline)); a *timeout* runs from each call's start
//! ([`set_read_timeout`](Stream::set_read_timeout), [`set_write_timeout`](Stream::set_write_timeout)). They belong to the stream, not to
//! the handle, and reach calls that are blocked already. An expired deadline still returns data that is there; a write that timed out
//! took nothing, so it can be repeated.
//!
//! ```
//! use std::io::{ErrorKind, Read};
//! use std::time::{Duration, Instant};
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let (client, _server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
//! let mut stream = client.open("silence")?;
//! stream.set_read_timeout(Some(Duration::from_millis(10)))?;
//! assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::TimedOut);
//! stream.set_read_timeout(None)?;
//!
//! // Another thread takes a blocked read's time away.
//! let reader = std::thread::spawn({
//!     let mut stream = stream.clone();
//!     move || stream.read(&mut [0; 8]).unwrap_err().kind()
//! });
//! stream.set_read_deadline(Some(Instant::now()));
//! assert_eq!(reader.join().unwrap(), ErrorKind::TimedOut);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`set_nonblocking`](Stream::set_nonblocking) makes calls that would wait fail with `WouldBlock`.
//!
//! # No-data timeouts
//!
//! A no-data timeout asks whether the *stream* is of use, not how long one call takes: reads and writes that wait fail with
//! [`Error::NoData`] when no payload crossed in either direction for that long. The clock runs between calls too, and starts again when it
//! has fired; the stream stays usable. A session has one of its own ([`Session::set_no_data_timeout`]), which ends the session.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::time::Duration;
//! use gmux::Error;
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
//! let mut stream = client.open("idle")?;
//! stream.set_no_data_timeout(Some(Duration::from_millis(20)));
//! let error = Error::from(stream.read(&mut [0; 8]).unwrap_err());
//! assert!(matches!(error, Error::NoData(_)));
//!
//! stream.set_no_data_timeout(None);
//! server.accept()?.write_all(b"late")?;
//! let mut text = String::new();
//! stream.read_to_string(&mut text)?;
//! assert_eq!(text, "late");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Closing and dropping
//!
//! *A stream*: [`close`](Stream::close), or the drop of its last handle. Neither blocks; FIN follows what was accepted, and what wasn't
//! read is thrown away.
//!
//! *A session*: [`close`](Session::close), or the drop of the last of its handles, sessions' and streams' together. What was accepted
//! is sent; streams that were closed or finished before get their FIN, **others get none**, so that their peers see an error and not
//! a clean end. Then the writing direction ends, and in the background what still comes is thrown away until the peer ends its side, or
//! for [`close_timeout`](Config::close_timeout). `close` and the last drop return when everything was handed to the transport;
//! only `close` can say that it failed, so end a client with it.
//!
//! ```
//! use std::io::{ErrorKind, Read, Write};
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
//! let (mut done, mut cut) = (client.open("done")?, client.open("cut")?);
//! done.write_all(b"all of it")?;
//! done.close()?;
//! cut.write_all(b"half of")?;
//! client.close()?;
//! assert_eq!(cut.write(b" it").unwrap_err().kind(), ErrorKind::NotConnected);
//!
//! let mut text = String::new();
//! server.accept()?.read_to_string(&mut text)?;
//! assert_eq!(text, "all of it");
//! // Data first, then the truth: this stream has no end.
//! let mut bytes = Vec::new();
//! let error = server.accept()?.read_to_end(&mut bytes).unwrap_err();
//! assert_eq!((bytes.as_slice(), error.kind()), (b"half of".as_slice(), ErrorKind::ConnectionAborted));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! As with any socket, none of this says that the peer's application has read anything: only an answer of its own can.
//!
//! # Draining
//!
//! [`drain`](Session::drain) ends a session gently: no new streams either way, then it waits until all are closed here and their
//! FINs were handed over, then it closes.
//!
//! ```
//! use std::io::Write;
//! use std::time::Duration;
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
//! let mut stream = client.open("last words")?;
//! let worker = std::thread::spawn(move || stream.write_all(b"goodbye")); // closes it
//! client.drain(Duration::from_secs(30))?;
//! worker.join().unwrap()?;
//! assert!(client.is_closed());
//! # drop(server);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Being told of an end
//!
//! [`Stream::set_close_notifier`] takes a closure that is called once when the stream ends here, however it does: on the thread that
//! closes it, or, when it ends by itself, on a thread of its own.
//!
//! ```
//! use std::sync::mpsc;
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
//! let (sender, ended) = mpsc::channel();
//! let stream = client.open("watched")?;
//! stream.set_close_notifier(move |stream| sender.send(stream.name().to_owned()).unwrap());
//! server.close()?; // the session ends, and every stream with it
//! assert_eq!(ended.recv().unwrap(), "watched");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Session::closed`] and [`Stream::closed`] are the same as channels, for `select!` of the crate crossbeam-channel: nothing is ever
//! sent, they disconnect at the end.
//!
//! ```
//! use crossbeam_channel::{select, unbounded};
//! use gmux::Error;
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
//! let (_jobs, queue) = unbounded::<String>();
//! std::thread::spawn(move || server.close());
//! loop {
//!     select! {
//!         recv(queue) -> job => println!("{job:?}"),
//!         recv(client.closed()) -> _ => break,
//!     }
//! }
//! assert!(matches!(client.close_reason(), Some(Error::PeerClosed)));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Version 2
//!
//! Version 1 has no flow control for single streams: when the data of one that nobody reads has used up
//! [`max_receive_buffer`](Config::max_receive_buffer), all streams wait. Version 2 gives each stream a window
//! ([`max_stream_buffer`](Config::max_stream_buffer)), so that a writer waits for its own reader alone, and cuts the stream that holds
//! most if the budget stays used up all the same ([`stall_timeout`](Config::stall_timeout)). There is no negotiation: both ends
//! have to be configured alike, and a mismatch ends the session with [`Error::InvalidVersion`].
//!
//! ```
//! use std::io::{Read, Write};
//! use std::time::Duration;
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! let config = Config::new().version(2).max_stream_buffer(128 * 1024);
//! let (client, server) = (Session::client(a, config.clone())?, Session::server(b, config)?);
//!
//! let mut unread = client.open("unread")?;
//! unread.set_write_timeout(Some(Duration::from_millis(50)))?;
//! unread.write_all(&vec![0; 1 << 20]).unwrap_err(); // nobody reads: it fills its own window
//!
//! let mut other = client.open("other")?;
//! other.write_all(b"not held up")?;
//! let (_unread, mut other) = (server.accept()?, server.accept()?);
//! let mut text = [0; 11];
//! other.read_exact(&mut text)?;
//! assert_eq!(&text, b"not held up");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Transports
//!
//! Anything that reads and writes bytes in order; see [`transport`]. `TcpStream` and `UnixStream` are used as they are; two halves
//! make a pair, as a tuple or as a [`Pair`](transport::Pair), which can be told how to interrupt a blocked read:
//!
//! ```
//! use std::io::{Read, Write, pipe};
//! use gmux::{Config, Session};
//!
//! let ((read_there, write_here), (read_here, write_there)) = (pipe()?, pipe()?);
//! let client = Session::client((read_here, write_here), Config::new())?;
//! let server = Session::server((read_there, write_there), Config::new())?;
//! client.open("through pipes")?.write_all(b"hello")?;
//! let mut text = String::new();
//! server.accept()?.read_to_string(&mut text)?;
//! assert_eq!(text, "hello");
//! client.close()?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Whatever can't be split (TLS, serial ports) goes into [`Shared`](transport::Shared), where the two directions take turns. Its reads and
//! its writes **have to be bounded** to a few milliseconds: by timeouts of what it runs over, as here, or by non-blocking mode.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{Shutdown, TcpListener, TcpStream};
//! use std::time::Duration;
//! use gmux::{Config, Session, transport::Shared};
//!
//! /// Stands for a TLS connection.
//! struct Tls(TcpStream);
//! # impl Read for Tls {
//! #     fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> { self.0.read(buf) }
//! # }
//! # impl Write for Tls {
//! #     fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> { self.0.write(buf) }
//! #     fn flush(&mut self) -> std::io::Result<()> { self.0.flush() }
//! # }
//!
//! fn transport(tcp: TcpStream) -> std::io::Result<Shared<Tls>> {
//!     tcp.set_read_timeout(Some(Duration::from_millis(2)))?;
//!     tcp.set_write_timeout(Some(Duration::from_millis(2)))?;
//!     let abort = tcp.try_clone()?;
//!     Ok(Shared::new(Tls(tcp))
//!         .on_finish(|tls| tls.0.shutdown(Shutdown::Write)) // for TLS: send close_notify
//!         .on_abort(move || drop(abort.shutdown(Shutdown::Both))))
//! }
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let client = Session::client(transport(TcpStream::connect(listener.local_addr()?)?)?, Config::new())?;
//! let server = Session::server(transport(listener.accept()?.0)?, Config::new())?;
//! client.open("")?.write_all(b"in turns")?;
//! let mut text = String::new();
//! server.accept()?.read_to_string(&mut text)?;
//! assert_eq!(text, "in turns");
//! client.close()?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Errors
//!
//! One type, [`Error`]. `Read` and `Write` return it inside an [`io::Error`](std::io::Error): its kind is what code written for
//! `TcpStream` expects, and the whole of it comes back with `Error::from`. The first fatal error ends a session, and is the one that
//! everybody sees ([`close_reason`](Session::close_reason)). What was received before an error can still be read.
//!
//! ```
//! use std::io::{ErrorKind, Read, Write};
//! use gmux::Error;
//! # use gmux::{Config, Session};
//! # let (a, mut raw) = std::os::unix::net::UnixStream::pair()?;
//! # let session = Session::client(a, Config::new())?;
//! let mut stream = session.open("")?;
//! raw.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?; // the other end isn't what we thought
//! let error = stream.read(&mut [0; 8]).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::InvalidData);
//! assert!(matches!(Error::from(error), Error::InvalidCommand(b'T')));
//! assert!(matches!(session.open(""), Err(Error::InvalidCommand(b'T'))));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! | [`ErrorKind`](std::io::ErrorKind) | when |
//! |---|---|
//! | `TimedOut` | deadline, timeout, no-data timeout |
//! | `WouldBlock` | non-blocking mode |
//! | `NotConnected` | the stream or session was closed at this end |
//! | `BrokenPipe` | a write after `shutdown(Write)`; no window after the peer's FIN for [`half_close_stall`](Config::half_close_stall) |
//! | `ConnectionAborted` | the session ended without the stream's FIN; keepalive; a stall |
//! | `InvalidData` | the peer broke the protocol |
//! | `InvalidInput` | configuration, a zero timeout, a name too long |
//! | `QuotaExceeded` | [`max_streams`](Config::max_streams), or no ids left |
//! | others | the transport's own |
//!
//! # Counters and logs
//!
//! [`Session::stats`] is a snapshot of what a session has counted.
//!
//! ```
//! use std::io::{Read, Write};
//! # use gmux::{Config, Session};
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let (client, server) = (Session::client(a, Config::new())?, Session::server(b, Config::new())?);
//! client.open("counted")?.write_all(&[7; 1000])?;
//! server.accept()?.read_to_end(&mut Vec::new())?;
//! let stats = server.stats();
//! assert_eq!((stats.streams_received, stats.bytes_received, stats.streams), (1, 1000, 0));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Log lines go through the crate log, under targets that begin with `gmux::`, and begin with the session's number in the process.
//! `warn` says what went wrong, `info` how sessions end, `debug` when they start and close, `trace` what each frame is. What a peer can
//! provoke is limited to ten lines a second and session. A logger must not write to a stream of the session that it is called by.
//!
//! ```
//! struct Stderr;
//! impl log::Log for Stderr {
//!     fn enabled(&self, metadata: &log::Metadata) -> bool {
//!         metadata.target().starts_with("gmux::")
//!     }
//!     fn log(&self, record: &log::Record) {
//!         if self.enabled(record.metadata()) {
//!             eprintln!("{} {}", record.level(), record.args());
//!         }
//!     }
//!     fn flush(&self) {}
//! }
//! log::set_logger(&Stderr).unwrap();
//! log::set_max_level(log::LevelFilter::Debug);
//! # let (a, b) = std::os::unix::net::UnixStream::pair()?;
//! # let session = gmux::Session::client(a, gmux::Config::new())?;
//! session.close()?; // DEBUG session 1 is closing
//! # drop(b);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Threads
//!
//! Each session has two, `gmux-reader-N` and `gmux-writer-N`; one `gmux-timer` serves all sessions of the process; close notifiers of
//! streams that end by themselves run on a `gmux-notify-N`. They are gone when the sessions are.
//!
//! # The manual
//!
//! [`manual::protocol`]: the wire. [`manual::architecture`]: how it works inside. [`manual::tuning`]: what each setting costs
//! and buys.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod config;
mod engine;
mod error;
#[cfg(any(doc, doctest))]
pub mod manual;
pub mod pool;
mod proto;
mod session;
mod stats;
mod stream;
mod sync;
mod traits;
pub mod transport;
pub mod wire;

pub use config::{Config, INITIAL_WINDOW};
pub use crossbeam_channel::Receiver;
pub use error::{Error, Result};
pub use session::{Incoming, Session};
pub use stats::SessionStats;
pub use stream::Stream;
pub use traits::{CloseNotifier, MuxConn, MuxStream};

/// The README's examples are doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

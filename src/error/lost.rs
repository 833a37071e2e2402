//! The circumstances of a lost connection: the place in the input, the streams that were cut off,
//! and, if nothing came from the peer, questions about the likely reason.
//!
//! Invariant: the text asks about the peer only while nothing has come from the peer. Once a frame
//! has come, versions and roles are known to agree.

use std::fmt;
use std::io;
use std::sync::Arc;

/// The circumstances of a lost connection, in
/// [`Error::ConnectionLost`](crate::Error::ConnectionLost).
///
/// ```
/// use std::io::Read;
/// use gmux::{Config, Error, Session};
/// # let (a, b) = std::os::unix::net::UnixStream::pair()?;
/// let client = Session::client(a, Config::new())?;
/// let mut stream = client.open("question")?;
/// drop(b); // the peer leaves and has sent nothing
/// match Error::from(stream.read(&mut [0]).unwrap_err()) {
///     Error::ConnectionLost(lost) => {
///         assert_eq!((lost.ours, lost.theirs, lost.inside_frame), (1, 0, false));
///         assert!(lost.nothing_received && lost.to_string().contains("is one end client"));
///     }
///     Error::Io(reset) => println!("the system reported it as {reset}"),
///     other => panic!("{other}"),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// Whether the connection ended inside a frame, and not between two frames.
    pub inside_frame: bool,
    /// The number of cut-off streams that this side had opened. A stream is cut off if this side
    /// still reads it and the peer has not finished it.
    pub ours: usize,
    /// The number of cut-off streams that the peer had opened. Streams that waited for `accept`
    /// count, too.
    pub theirs: usize,
    /// Whether no byte had come from the peer. Then the peer most likely didn't expect a session
    /// like this one. The peer's error or log has the reason.
    pub nothing_received: bool,
    pub(crate) setup: Setup,
}

/// The properties of this side with which the peer's properties have to agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) version: u8,
    pub(crate) role: &'static str,
    /// Whether the peer has an address. A child process has none, and neither has a peer over
    /// pipes.
    pub(crate) has_address: bool,
}

/// Shows the same text as `Display`, since a `main` that returns an error prints it by `Debug`.
impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it ended")?;
        if self.inside_frame {
            f.write_str(" inside a frame")?;
        }
        let streams = |n| if n == 1 { "stream" } else { "streams" };
        match (self.ours, self.theirs) {
            (0, 0) => {}
            (n, 0) => write!(f, " while {n} {} of this end {} open", streams(n), were(n))?,
            (0, n) => write!(f, " while {n} {} of the peer's {} open", streams(n), were(n))?,
            (n, m) => {
                write!(f, " while {n} {} of this end and {m} of the peer's were open", streams(n))?
            }
        }
        if self.nothing_received { self.setup.fmt(f) } else { Ok(()) }
    }
}

fn were(n: usize) -> &'static str {
    if n == 1 { "was" } else { "were" }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, role, has_address } = self;
        f.write_str(", before anything came from the peer: ")?;
        if !has_address {
            f.write_str(
                "is the program at the other end running (its exit status and standard error say \
                 so)? ",
            )?;
        }
        write!(
            f,
            "is the peer configured for version {version}, as this end is? is one end client and \
             the other server (this end is the {role})? does a plain smux \
             peer get unnamed streams only?"
        )
    }
}

/// A transport's error that occurred before any byte had come from the peer.
#[derive(Debug, thiserror::Error)]
#[error("{error}{setup}")]
struct Unheard {
    #[source]
    error: Arc<io::Error>,
    setup: Setup,
}

/// Adds the questions to a transport's error, if that error says that the peer has left. Other
/// errors, such as a certificate that isn't trusted, have no relation to the peer's version.
pub(super) fn unheard(error: Arc<io::Error>, setup: Setup) -> Arc<io::Error> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        kind @ (BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => {
            Arc::new(io::Error::new(kind, Unheard { error, setup }))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Error;
    use super::*;
    use std::error::Error as _;

    const SETUP: Setup = Setup { version: 2, role: "client", has_address: true };

    fn text(inside_frame: bool, ours: usize, theirs: usize, nothing_received: bool) -> String {
        Error::ConnectionLost(Lost { inside_frame, ours, theirs, nothing_received, setup: SETUP })
            .to_string()
    }

    #[test]
    fn a_lost_connection_says_whose_streams_were_open_and_how_many() {
        let lost = "connection lost: it ended";
        assert_eq!(text(true, 0, 0, false), format!("{lost} inside a frame"));
        assert_eq!(text(false, 1, 0, false), format!("{lost} while 1 stream of this end was open"));
        assert_eq!(
            text(false, 0, 1, false),
            format!("{lost} while 1 stream of the peer's was open")
        );
        assert_eq!(
            text(true, 0, 5, false),
            format!("{lost} inside a frame while 5 streams of the peer's were open")
        );
        let both = format!("{lost} while 2 streams of this end and 1 of the peer's were open");
        assert_eq!(text(false, 2, 1, false), both);
    }

    #[test]
    fn an_end_before_anything_came_asks_about_version_role_and_names() {
        let text = text(false, 2, 0, true);
        for word in [
            "2 streams of this end were open",
            "before anything came",
            "version 2",
            "the client",
            "unnamed",
        ] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn without_an_address_the_first_question_is_whether_the_program_runs() {
        let child = Setup { has_address: false, ..SETUP }.to_string();
        assert!(child.starts_with(
            ", before anything came from the peer: is the program at the other end running"
        ));
        assert!(child.contains("exit status") && child.contains("version 2"), "{child}");
        assert!(!SETUP.to_string().contains("exit status"));
    }

    #[test]
    fn so_does_a_reset_and_it_keeps_its_kind_and_source() {
        let reset = Error::from(io::Error::from(io::ErrorKind::ConnectionReset)).unheard(SETUP);
        let text = reset.to_string();
        assert!(text.starts_with("transport: connection reset, before anything came"), "{text}");
        assert!(text.contains("version 2") && text.contains("the client"), "{text}");
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        let mut sources = std::iter::successors(reset.source(), |error| (*error).source());
        assert!(sources.any(|source| {
            source.downcast_ref::<Arc<io::Error>>().is_some_and(|io| io.get_ref().is_none())
        }));
        // An error that doesn't mean the peer's leaving stays as it is.
        let other = Error::from(io::Error::from(io::ErrorKind::InvalidData)).unheard(SETUP);
        assert_eq!(other.to_string(), "transport: invalid data");
        assert!(matches!(Error::Timeout.unheard(SETUP), Error::Timeout));
    }
}

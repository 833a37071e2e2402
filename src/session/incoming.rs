//! [`Incoming`]: the iterator over accepted streams.
//!
//! Invariant: the iterator ends after a local close, or after the peer has ended the session
//! cleanly. It yields any other error once.

use super::Session;
use crate::error::{Error, Result};
use crate::stream::Stream;

/// Iterates over the peer's streams, as [`Session::incoming`] does.
///
/// ```no_run
/// # fn serve(session: gmux::Session) -> gmux::Result<()> {
/// for stream in &session {
///     let stream = stream?;
///     println!("{:?} begins", stream.name());
/// }
/// # Ok(())
/// # }
/// ```
impl<'a> IntoIterator for &'a Session {
    type Item = Result<Stream>;
    type IntoIter = Incoming<'a>;

    fn into_iter(self) -> Incoming<'a> {
        self.incoming()
    }
}

/// The iterator over the peer's streams, from [`Session::incoming`].
#[derive(Debug)]
pub struct Incoming<'a> {
    session: &'a Session,
    done: bool,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        Self { session, done: false }
    }
}

impl Iterator for Incoming<'_> {
    type Item = Result<Stream>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match self.session.accept() {
            Ok(stream) => Some(Ok(stream)),
            Err(error) => {
                self.done = true;
                (!matches!(error, Error::Closed | Error::PeerClosed)).then_some(Err(error))
            }
        }
    }
}

impl std::iter::FusedIterator for Incoming<'_> {}

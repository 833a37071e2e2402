//! What the end of a transport means: a clean end, streams that were cut off, or a peer that leaves
//! without a word.
//!
//! Invariant: what may have made the peer leave is asked only while nothing has come from it.

use super::SessionShared;
use super::logging::warn;
use crate::error::{Error, Lost, Setup};
use crate::proto::registry::Role;

impl SessionShared {
    /// The input has ended. That is clean between frames, with no stream cut off.
    pub(super) fn judge_eof(&self, inside_frame: bool) -> Error {
        let mut streams = self.registry.lock().streams.streams();
        streams.retain(|stream| stream.is_cut_off_by_eof());
        if !inside_frame && streams.is_empty() {
            // (A peer that ends after our own close does as it should, though it had nothing to
            // say.)
            let unexpected = !self.lifecycle.is_closing_or_ended();
            if unexpected && self.has_heard_nothing() && self.counters.streams_opened.value() > 0 {
                // A clean end; but streams that were opened, written and closed may have been
                // refused unread, and there is no call left that could say so.
                let number = self.number;
                let setup = self.setup();
                warn!(target: "gmux::session", "session {number}: the peer closed the \
                                                connection{setup}");
            }
            return Error::PeerClosed;
        }
        let ours = streams.iter().filter(|stream| self.role.opens(stream.id)).count();
        let theirs = streams.len() - ours;
        let setup = self.setup();
        let nothing_received = !inside_frame && self.has_heard_nothing();
        Error::ConnectionLost(Lost { inside_frame, ours, theirs, nothing_received, setup })
    }

    /// The transport has failed: the error asks about the setup if nothing has come from the peer.
    pub(super) fn judge_failure(&self, error: Error) -> Error {
        if self.has_heard_nothing() { error.unheard(self.setup()) } else { error }
    }

    /// Whether no whole frame has come yet.
    fn has_heard_nothing(&self) -> bool {
        self.counters.frames_received.value() == 0
    }

    /// What the peer has to agree with.
    pub(crate) fn setup(&self) -> Setup {
        let role = match self.role {
            Role::Client => "client",
            Role::Server => "server",
        };
        Setup { version: self.env.config.version, role, has_address: self.peer_addr.is_some() }
    }
}

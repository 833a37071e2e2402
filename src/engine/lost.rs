//! Judges the end of a transport: a clean end, a lost connection, or a peer that left before it
//! sent a frame.
//!
//! Invariant: an error asks about the setup (version, role) only if no frame has come from the
//! peer. After a frame has come, a wrong setup isn't the reason any more.

use super::SessionShared;
use super::logging::warn;
use crate::error::{Error, Lost, Setup};
use crate::proto::registry::Role;

impl SessionShared {
    /// Returns the error for the end of the input. The end is clean if it lies between two frames
    /// and cuts off no stream.
    pub(super) fn judge_eof(&self, inside_frame: bool) -> Error {
        let mut streams = self.registry.lock().streams.streams();
        streams.retain(|stream| stream.is_cut_off_by_eof());
        if !inside_frame && streams.is_empty() {
            // A peer that ends its side after this side has closed behaves as it should, even if it
            // never sent a frame.
            let unexpected = !self.lifecycle.is_closing_or_ended();
            if unexpected && self.has_heard_nothing() && self.counters.streams_opened.value() > 0 {
                // The end is clean, but the peer may never have read the streams that were opened,
                // written and closed. No call is left that could report this loss.
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

    /// Returns the error for a failed transport. It asks about the setup if nothing has come from
    /// the peer.
    pub(super) fn judge_failure(&self, error: Error) -> Error {
        if self.has_heard_nothing() { error.unheard(self.setup()) } else { error }
    }

    /// Returns whether no whole frame has come yet.
    fn has_heard_nothing(&self) -> bool {
        self.counters.frames_received.value() == 0
    }

    /// Returns the settings on which both ends have to agree.
    pub(crate) fn setup(&self) -> Setup {
        let role = match self.role {
            Role::Client => "client",
            Role::Server => "server",
        };
        Setup { version: self.env.config.version, role, has_address: self.peer_addr.is_some() }
    }
}

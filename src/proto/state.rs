//! The state machine of a stream: its sending half and its receiving half, as the wire sees them.
//!
//! ```text
//!  sending                                             receiving
//!
//!   Open ──Finish──▶ Finishing ──FinTaken──▶ FinTaken    Open ──ShutRead──▶ Discarding
//!                                              │           │                    │
//!                                          FinWritten   PeerFin              PeerFin
//!                                              ▼           ▼                    ▼
//!                                           Finished     Ended ◀────────────────┘
//! ```
//!
//! | state | meaning |
//! |---|---|
//! | `Open` | data may follow |
//! | `Finishing` | FIN will follow all accepted data |
//! | `FinTaken` | FIN is in the writer's batch, and only UPDs follow it |
//! | `Finished` | FIN was written to the transport |
//! | `Discarding` | received data is discarded, and counts as consumed |
//! | `Ended` | the peer's FIN was received |
//!
//! Invariant: no transition goes back, so FIN is taken at most once.

/// The sending half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sending {
    Open,
    Finishing,
    FinTaken,
    Finished,
}

/// The receiving half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Receiving {
    Open,
    Discarding,
    Ended,
}

/// An event that may change one of the halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The application will write no more.
    Finish,
    /// The writer put FIN into its batch.
    FinTaken,
    /// FIN was written to the transport.
    FinWritten,
    /// The application will read no more.
    ShutRead,
    /// The peer's FIN was received.
    PeerFin,
}

/// The state of both halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamState {
    pub(crate) sending: Sending,
    pub(crate) receiving: Receiving,
}

impl StreamState {
    pub(crate) fn new() -> Self {
        Self { sending: Sending::Open, receiving: Receiving::Open }
    }

    /// Applies an event. Returns whether it changed the state.
    pub(crate) fn on(&mut self, event: Event) -> bool {
        use self::Receiving as R;
        use self::Sending as S;
        let before = *self;
        match (event, self.sending, self.receiving) {
            (Event::Finish, S::Open, _) => self.sending = S::Finishing,
            (Event::FinTaken, S::Finishing, _) => self.sending = S::FinTaken,
            (Event::FinWritten, S::FinTaken, _) => self.sending = S::Finished,
            (Event::ShutRead, _, R::Open) => self.receiving = R::Discarding,
            (Event::PeerFin, _, R::Open | R::Discarding) => self.receiving = R::Ended,
            // The event has no effect, because the half already had this event, or isn't in a state
            // in which the event matters.
            (Event::Finish, S::Finishing | S::FinTaken | S::Finished, _)
            | (Event::FinTaken, S::Open | S::FinTaken | S::Finished, _)
            | (Event::FinWritten, S::Open | S::Finishing | S::Finished, _)
            | (Event::ShutRead, _, R::Discarding | R::Ended)
            | (Event::PeerFin, _, R::Ended) => {}
        }
        *self != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 5] =
        [Event::Finish, Event::FinTaken, Event::FinWritten, Event::ShutRead, Event::PeerFin];

    #[test]
    fn no_transition_goes_back() {
        // Try every sequence of six events.
        for code in 0..5usize.pow(6) {
            let mut state = StreamState::new();
            let mut taken = 0;
            let mut code = code;
            for _ in 0..6 {
                let event = EVENTS[code % 5];
                let before = state;
                code /= 5;
                let changed = state.on(event);
                assert_eq!(changed, state != before);
                assert!(state.sending >= before.sending && state.receiving >= before.receiving);
                taken += usize::from(event == Event::FinTaken && changed);
            }
            assert!(taken <= 1);
        }
    }

    #[test]
    fn fin_is_taken_only_when_the_application_finished() {
        let mut state = StreamState::new();
        assert!(!state.on(Event::FinTaken));
        assert!(
            state.on(Event::Finish) && state.on(Event::FinTaken) && state.on(Event::FinWritten)
        );
        assert_eq!(state, StreamState { sending: Sending::Finished, receiving: Receiving::Open });
    }
}

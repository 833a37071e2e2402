//! A pause: the reader thread waits until the application makes room in the receive budget or in
//! the backlog.
//!
//! A pause that is longer than [`SILENT`] is logged once, and so is its end. The reader thread
//! writes these lines itself, though it has to wake up for that. If the logger blocks, it holds up
//! only a session that has stopped anyway. On the timer's thread, such a logger would hold up all
//! sessions.
//!
//! Invariant: before the reader thread waits, it sends the collected wake-ups and frees the buffers
//! that hold no bytes yet. The woken threads may be those that make room.

use std::time::{Duration, Instant};

use super::{Reader, SessionShared};
use crate::config::Config;
use crate::engine::warn_limiter::shown;
use crate::sync::pause::Cause;

/// Duration up to which a pause isn't logged. A short pause is normal. A person notices a hang
/// after about a second.
const SILENT: Duration = Duration::from_secs(1);

impl Reader<'_> {
    /// Waits for the application, and keeps the record of the pause. `wait` blocks until its
    /// outcome is known. It returns `None` when the limit that it is given has passed.
    pub(super) fn pause<T>(
        &mut self,
        cause: Cause,
        mut wait: impl FnMut(Option<Instant>) -> Option<T>,
    ) -> T {
        self.input.wakes.send();
        self.input.frames.rest();
        let session = self.session;
        let begun = Instant::now();
        session.reader_pauses(begun, cause);
        let mut announced = false;
        let outcome = loop {
            let limit = if announced { None } else { begun.checked_add(SILENT) };
            if let Some(outcome) = wait(limit) {
                break outcome;
            }
            announced = true;
            let now = Instant::now();
            let say = || explain(session, cause, now - begun);
            self.input.warnings.warn(now, session.number, say);
        };
        let now = Instant::now();
        self.input.now = now;
        session.reader_resumes(now);
        if announced {
            let over = session.lifecycle.is_closing_or_ended();
            let what = if over { "the session is over" } else { "reading goes on" };
            let say = || format!("{what} after a pause of {:.1?}", now - begun);
            self.input.warnings.warn(now, session.number, say);
        }
        outcome
    }
}

/// Returns the log's text for a pause: the reason, and the remedies.
fn explain(session: &SessionShared, cause: Cause, lasted: Duration) -> String {
    let why = match cause {
        Cause::Budget => full_budget(session),
        Cause::Backlog => full_backlog(session.waiting_for_accept(), &session.env.config),
    };
    format!("nothing has been read for {lasted:.1?}, {why}")
}

/// Explains a pause for budget, and names the stream that holds most of it.
fn full_budget(session: &SessionShared) -> String {
    let budget = &session.env.budget;
    let config = &session.env.config;
    let holder = session.largest().map(|(held, stream)| {
        format!(
            "; stream {} {} holds most of it, {held} bytes",
            stream.id,
            shown(stream.name.bytes())
        )
    });
    let otherwise = match (config.version, config.stall()) {
        (_, Some(stall)) => {
            format!("after {stall:?} (stall_timeout) the stream that holds most is cut")
        }
        (2, None) => "a stall_timeout would cut the stream that holds most".to_owned(),
        (_, None) => "version 2 keeps one stream from stopping the others, a stall_timeout cuts it"
            .to_owned(),
    };
    format!(
        "since unread data uses up {} of the {} bytes of max_receive_buffer{}. Read faster, or \
         raise \
         max_receive_buffer; {otherwise}",
        budget.used(),
        budget.limit(),
        holder.unwrap_or_default(),
    )
}

/// Explains a pause for `accept`.
fn full_backlog(waiting: usize, config: &Config) -> String {
    let otherwise = match config.accept_stall_timeout {
        Some(timeout) => {
            format!("{timeout:?} after the pause began (accept_stall_timeout) streams are refused")
        }
        None => "an accept_stall_timeout would refuse streams after some time".to_owned(),
    };
    format!(
        "since {waiting} streams wait for accept. Accept faster, or raise accept_backlog; \
         {otherwise}"
    )
}

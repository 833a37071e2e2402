//! Until when a blocked call waits: deadlines, per-call timeouts, the no-data timeout, non-blocking
//! mode.
//!
//! These belong to the stream (or the session's `accept`), not to a handle, and reach calls that
//! are already blocked: whoever changes one wakes the waiters, and each asks again.
//!
//! Invariants: the clock is read only before a wait, or before a turn at the writer with a limit;
//! the earlier of deadline and timeout wins; a timeout runs from the call's start; the no-data
//! clock starts at the latest of creation, setting, last data, last firing.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// When a call began, as far as it matters: at its first need to wait.
#[derive(Debug, Default)]
pub(crate) struct Call {
    start: Option<Instant>,
}

impl Call {
    /// The call's start, which is now if it wasn't set before.
    pub(crate) fn start(&mut self, now: Instant) -> Instant {
        *self.start.get_or_insert(now)
    }
}

/// One direction's deadline and timeout.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Option<Instant>,
    pub(crate) timeout: Option<Duration>,
}

impl Deadline {
    /// Whether there is neither, so that a call may wait for ever.
    pub(crate) fn is_none(&self) -> bool {
        self.at.is_none() && self.timeout.is_none()
    }

    /// Until when the call may wait; `None`: for ever.
    ///
    /// # Errors
    /// `Timeout` if that has passed.
    pub(crate) fn limit(&self, call: &mut Call, now: Instant) -> Result<Option<Instant>> {
        let start = call.start(now);
        let timeout = self.timeout.and_then(|timeout| start.checked_add(timeout));
        match earlier(self.at, timeout) {
            Some(limit) if limit <= now => Err(Error::Timeout),
            limit => Ok(limit),
        }
    }
}

/// Refuses a timeout of zero, which could mean "never" as well as "at once".
///
/// # Errors
/// `ZeroTimeout`.
pub(crate) fn not_zero(timeout: Option<Duration>) -> Result<()> {
    if timeout.is_some_and(|timeout| timeout.is_zero()) { Err(Error::ZeroTimeout) } else { Ok(()) }
}

/// The earlier of two points in time, where `None` is never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}

/// A stream's no-data timeout and its clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NoData {
    timeout: Option<Duration>,
    since: Instant,
}

impl NoData {
    pub(crate) fn new(timeout: Option<Duration>, now: Instant) -> Self {
        Self { timeout, since: now }
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    pub(crate) fn set(&mut self, timeout: Option<Duration>, now: Instant) {
        *self = Self::new(timeout, now);
    }

    /// Data crossed at `now`.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.since = self.since.max(now);
    }

    /// When it fires, unless data crosses.
    ///
    /// # Errors
    /// `NoData` if that has passed; the clock starts again.
    pub(crate) fn limit(&mut self, now: Instant) -> Result<Option<Instant>> {
        let Some(timeout) = self.timeout else { return Ok(None) };
        match self.since.checked_add(timeout) {
            Some(limit) if limit <= now => {
                self.since = now;
                Err(Error::NoData(timeout))
            }
            limit => Ok(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earlier_of_deadline_and_timeout_wins() {
        let now = Instant::now();
        let both = Deadline { at: Some(now + SECOND * 2), timeout: Some(SECOND) };
        let mut call = Call::default();
        assert_eq!(both.limit(&mut call, now).unwrap(), Some(now + SECOND));
        // The timeout runs from the call's start, not from the second look.
        assert!(matches!(both.limit(&mut call, now + SECOND), Err(Error::Timeout)));
        let deadline = Deadline { timeout: Some(SECOND * 9), ..both };
        assert_eq!(deadline.limit(&mut call, now).unwrap(), Some(now + SECOND * 2));
    }

    #[test]
    fn a_limit_is_reached_at_its_own_moment() {
        let now = Instant::now();
        let deadline = Deadline { at: Some(now + SECOND), timeout: None };
        assert_eq!(deadline.limit(&mut Call::default(), now).unwrap(), Some(now + SECOND));
        assert!(matches!(deadline.limit(&mut Call::default(), now + SECOND), Err(Error::Timeout)));
        assert!(matches!(
            deadline.limit(&mut Call::default(), now + SECOND * 2),
            Err(Error::Timeout)
        ));
        let mut no_data = NoData::new(Some(SECOND), now);
        assert!(matches!(no_data.limit(now + SECOND), Err(Error::NoData(SECOND))));
    }

    #[test]
    fn a_direction_without_deadline_and_timeout_has_no_limit() {
        let now = Instant::now();
        assert!(Deadline::default().is_none());
        assert_eq!(Deadline::default().limit(&mut Call::default(), now).unwrap(), None);
        assert!(!Deadline { at: Some(now), timeout: None }.is_none());
        assert!(!Deadline { at: None, timeout: Some(SECOND) }.is_none());
        assert_eq!(
            (NoData::new(None, now).timeout(), NoData::new(Some(SECOND), now).timeout()),
            (None, Some(SECOND))
        );
    }

    #[test]
    fn a_timeout_beyond_the_clock_is_for_ever() {
        let forever = Deadline { at: None, timeout: Some(Duration::MAX) };
        assert_eq!(forever.limit(&mut Call::default(), Instant::now()).unwrap(), None);
        let mut no_data = NoData::new(Some(Duration::MAX), Instant::now());
        assert_eq!(no_data.limit(Instant::now()).unwrap(), None);
    }

    #[test]
    fn the_no_data_clock_restarts_at_data_setting_and_firing() {
        let now = Instant::now();
        let mut clock = NoData::new(Some(SECOND * 10), now);
        assert_eq!(clock.limit(now).unwrap(), Some(now + SECOND * 10));
        clock.touch(now + SECOND * 3);
        clock.touch(now + SECOND * 2); // an older stamp changes nothing
        assert_eq!(clock.limit(now).unwrap(), Some(now + SECOND * 13));
        clock.set(Some(SECOND), now + SECOND * 5);
        assert_eq!(clock.limit(now + SECOND * 5).unwrap(), Some(now + SECOND * 6));
        assert!(matches!(clock.limit(now + SECOND * 7), Err(Error::NoData(SECOND))));
        assert_eq!(clock.limit(now + SECOND * 7).unwrap(), Some(now + SECOND * 8));
        clock.set(None, now);
        assert_eq!(clock.limit(now + SECOND * 99).unwrap(), None);
    }
}

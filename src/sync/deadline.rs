//! Limits of blocked calls: deadlines, timeouts for each call, the no-data timeout, non-blocking
//! mode.
//!
//! The limits belong to the stream, or to the session's `accept`, and not to a handle. A change
//! reaches calls that are already blocked: it wakes them, and each call computes its limit anew.
//!
//! # Invariants
//! - The clock is read in three cases only: before a wait or an inline read, before an inline write
//!   that has a limit, and when a `write_all` begins a large copy.
//! - The earlier of deadline and timeout wins.
//! - A timeout runs from the call's start.
//! - The no-data clock runs from the latest of these moments: the stream's creation, the last
//!   setting, the last data, the last time it fired.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The start of a call. It is set when the call first reads the clock. Most calls that don't wait
/// never read it.
#[derive(Debug, Default)]
pub(crate) struct Call {
    start: Option<Instant>,
}

impl Call {
    /// Returns the call's start. Sets it to `now` if it wasn't set before.
    pub(crate) fn start(&mut self, now: Instant) -> Instant {
        *self.start.get_or_insert(now)
    }
}

/// The deadline and the timeout of one direction.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Deadline {
    /// The deadline: a point in time for all calls.
    pub(crate) at: Option<Instant>,
    /// The timeout: a duration for each call.
    pub(crate) timeout: Option<Duration>,
}

impl Deadline {
    /// Returns whether there is neither, so that a call may wait without limit.
    pub(crate) fn is_none(&self) -> bool {
        self.at.is_none() && self.timeout.is_none()
    }

    /// Returns the time until which the call may wait. `None` means without limit.
    ///
    /// # Errors
    /// `Timeout` if that time has passed.
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

/// Returns the earlier of two points in time. `None` means never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}

/// The no-data timeout of a stream, with its clock.
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

    /// Notes that data was sent or received at `now`.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.since = self.since.max(now);
    }

    /// Returns the time at which the timeout fires if no data is sent or received before. `None` if
    /// there is no timeout.
    ///
    /// # Errors
    /// `NoData` if that time has passed. Then the clock starts again.
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
    fn a_timeout_beyond_the_clock_is_no_limit() {
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
        clock.touch(now + SECOND * 2); // An older stamp changes nothing.
        assert_eq!(clock.limit(now).unwrap(), Some(now + SECOND * 13));
        clock.set(Some(SECOND), now + SECOND * 5);
        assert_eq!(clock.limit(now + SECOND * 5).unwrap(), Some(now + SECOND * 6));
        assert!(matches!(clock.limit(now + SECOND * 7), Err(Error::NoData(SECOND))));
        assert_eq!(clock.limit(now + SECOND * 7).unwrap(), Some(now + SECOND * 8));
        clock.set(None, now);
        assert_eq!(clock.limit(now + SECOND * 99).unwrap(), None);
    }
}

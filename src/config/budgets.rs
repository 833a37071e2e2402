//! The limits that follow from the values of a [`Config`].
//!
//! Invariant: every share of `max_receive_buffer` is computed here and nowhere else.

use std::time::Duration;

use super::{Config, V2_STALL_TIMEOUT};

impl Config {
    /// Returns the limit for all granted windows together, in bytes: half of `max_receive_buffer`.
    ///
    /// The peer may fill every granted window while nobody reads. The receive budget must have room
    /// for that data. The other half of the budget is needed for two reasons. Received payloads
    /// occupy up to a quarter more than their length, and new streams begin with windows too.
    pub(crate) fn grant_budget(&self) -> usize {
        self.max_receive_buffer / 2
    }

    /// Returns the limit for the names of all the peer's streams together, in bytes: half of
    /// `max_receive_buffer`, but at least one name of the allowed length.
    ///
    /// The names have a separate budget in addition to the receive budget. A name stays charged as
    /// long as its stream lives. If names and data had one budget, many names could leave no room
    /// for data.
    pub(crate) fn name_budget(&self) -> usize {
        (self.max_receive_buffer / 2).max(self.max_name_len)
    }

    /// Returns the number of bytes that the frame reader may read ahead: a quarter of
    /// `max_receive_buffer`.
    ///
    /// These bytes are in memory before they are charged to the receive budget.
    pub(crate) fn read_ahead_budget(&self) -> usize {
        self.max_receive_buffer / 4
    }

    /// Returns the largest window that a stream may grow to, in bytes: `max_stream_window` as it
    /// was set, or else the whole [`grant_budget`](Self::grant_budget). It is at least
    /// `max_stream_buffer`.
    pub(crate) fn largest_window(&self) -> usize {
        self.max_stream_window.unwrap_or(self.grant_budget()).max(self.max_stream_buffer)
    }

    /// Returns `stall_timeout` as it was set, or else the default of the version.
    pub(crate) fn stall(&self) -> Option<Duration> {
        self.stall_timeout.unwrap_or((self.version == 2).then_some(V2_STALL_TIMEOUT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receive_budget_is_shared_out_by_halves_and_quarters() {
        let config = Config::new().max_receive_buffer(1 << 20);
        assert_eq!(config.grant_budget(), 1 << 19);
        assert_eq!(config.name_budget(), 1 << 19);
        assert_eq!(config.read_ahead_budget(), 1 << 18);
        assert_eq!(config.largest_window(), config.grant_budget());
        assert_eq!(config.max_stream_window(100_000).largest_window(), 100_000);
    }

    #[test]
    fn one_name_of_the_allowed_length_always_fits_its_budget() {
        assert_eq!(Config::new().max_receive_buffer(100).name_budget(), 4096);
    }

    #[test]
    fn the_stall_timeout_depends_on_the_version_until_it_is_set() {
        assert_eq!(Config::new().stall(), None);
        assert_eq!(Config::new().version(2).stall(), Some(Duration::from_secs(30)));
        assert_eq!(Config::new().stall_timeout(None).version(2).stall(), None);
    }
}

//! The rules that the values of a [`Config`] keep.
//!
//! Invariant: the error of every rule names the field, its value and the allowed values.

use std::time::Duration;

use super::{Config, INITIAL_WINDOW};
use crate::error::{Error, Result};
use crate::wire::MAX_PAYLOAD;

impl Config {
    /// Checks every rule. A new session does this by itself.
    ///
    /// # Errors
    /// [`Error::Config`] with the field, its value and the rule, for the first rule that is broken.
    pub fn validate(&self) -> Result<()> {
        fn rule(
            kept: bool,
            field: &'static str,
            value: impl std::fmt::Debug,
            rule: &'static str,
        ) -> Result<()> {
            if kept {
                Ok(())
            } else {
                Err(Error::Config { field, value: format!("{value:?}"), rule })
            }
        }
        let positive = |timeout: &Option<Duration>| timeout.is_none_or(|t| !t.is_zero());

        rule(
            matches!(self.version, 1 | 2),
            "version",
            self.version,
            "only versions 1 and 2 exist",
        )?;
        if !self.keepalive_disabled {
            let interval = self.keepalive_interval;
            let timeout = self.keepalive_timeout;
            rule(
                !interval.is_zero(),
                "keepalive_interval",
                interval,
                "it must be longer than zero",
            )?;
            rule(
                timeout >= interval,
                "keepalive_timeout",
                timeout,
                "it must be at least keepalive_interval",
            )?;
        }
        let frame = self.max_frame_size;
        rule(
            (1..=MAX_PAYLOAD).contains(&frame),
            "max_frame_size",
            frame,
            "it must be 1 to 65535 bytes",
        )?;

        let budget = self.max_receive_buffer;
        let window = self.max_stream_buffer;
        rule(budget >= 1, "max_receive_buffer", budget, "it must be at least 1 byte")?;
        rule(
            self.version != 2 || budget >= INITIAL_WINDOW as usize,
            "max_receive_buffer",
            budget,
            "version 2 needs at least 262144 bytes: a peer may fill that much of one stream \
             before it hears of a window",
        )?;
        // Version 1 has no windows.
        if self.version == 2 {
            rule(window >= 1, "max_stream_buffer", window, "it must be at least 1 byte")?;
            rule(
                window <= budget,
                "max_stream_buffer",
                window,
                "it must not be larger than max_receive_buffer",
            )?;
            rule(
                window <= i32::MAX as usize,
                "max_stream_buffer",
                window,
                "it must be at most 2147483647 bytes",
            )?;

            let max = self.max_stream_window.unwrap_or(window);
            rule(
                max <= budget,
                "max_stream_window",
                max,
                "it must not be larger than max_receive_buffer",
            )?;
        }

        rule(
            self.accept_backlog >= 1,
            "accept_backlog",
            self.accept_backlog,
            "it must be at least 1",
        )?;
        rule(self.max_streams >= 1, "max_streams", self.max_streams, "it must be at least 1")?;
        rule(
            self.max_name_len <= MAX_PAYLOAD,
            "max_name_len",
            self.max_name_len,
            "it must be at most 65535 bytes",
        )?;
        rule(
            self.max_send_buffer >= 1,
            "max_send_buffer",
            self.max_send_buffer,
            "it must be at least 1 byte",
        )?;

        rule(
            !self.close_timeout.is_zero(),
            "close_timeout",
            self.close_timeout,
            "it must be longer than zero",
        )?;
        let stall = self.stall();
        rule(positive(&stall), "stall_timeout", stall, "it must be longer than zero, or None")?;
        let stall = self.half_close_stall;
        rule(positive(&stall), "half_close_stall", stall, "it must be longer than zero, or None")?;
        let no_data = self.no_data_timeout;
        rule(positive(&no_data), "no_data_timeout", no_data, "it must be longer than zero, or None")
    }
}

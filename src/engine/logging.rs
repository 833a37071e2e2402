//! The one place that logs. `trace!`, `debug!`, `info!` and `warn!` take the same arguments as
//! those of the `log` crate. If the logger panics, only that line is lost.
//!
//! Invariants:
//! - A line's arguments are evaluated only if its level is on.
//! - No other file names the `log` crate. `tests/layering.rs` checks it.

use super::guard::caught;

/// Returns whether a level is on. This is a comparison, so lines for every frame cost nothing while
/// they are off.
pub(super) fn is_on(level: ::log::Level) -> bool {
    level <= ::log::STATIC_MAX_LEVEL && level <= ::log::max_level()
}

/// Returns whether the level `trace` is on, which has lines for every frame.
pub(super) fn is_tracing() -> bool {
    is_on(::log::Level::Trace)
}

/// Gives a line to the logger. A panic of the logger is dropped, since it can't be logged.
#[cold]
pub(super) fn write(line: impl FnOnce()) {
    let _ = caught(line);
}

macro_rules! line {
    ($level:ident, target: $target:expr, $($line:tt)+) => {
        if $crate::engine::logging::is_on(::log::Level::$level) {
            $crate::engine::logging::write(
                || ::log::log!(target: $target, ::log::Level::$level, $($line)+)
            );
        }
    };
}

macro_rules! trace_line {
    ($($line:tt)+) => { $crate::engine::logging::line!(Trace, $($line)+) };
}

macro_rules! debug_line {
    ($($line:tt)+) => { $crate::engine::logging::line!(Debug, $($line)+) };
}

macro_rules! info_line {
    ($($line:tt)+) => { $crate::engine::logging::line!(Info, $($line)+) };
}

macro_rules! warn_line {
    ($($line:tt)+) => { $crate::engine::logging::line!(Warn, $($line)+) };
}

pub(super) use {
    debug_line as debug, info_line as info, line, trace_line as trace, warn_line as warn,
};

//! The one place that logs: `trace!`, `debug!`, `info!` and `warn!` as the `log` crate has them,
//! but for a logger that panics. That costs the line, and nothing else.
//!
//! Invariants: nothing is evaluated of a line whose level is off; no other file names the `log`
//! crate (`tests/layering.rs` checks it).

use super::guard::caught;

/// Whether lines of a level are wanted at all: a comparison, so that lines for every frame cost
/// nothing while they are off.
pub(super) fn is_on(level: ::log::Level) -> bool {
    level <= ::log::STATIC_MAX_LEVEL && level <= ::log::max_level()
}

/// Whether lines for every frame are wanted.
pub(super) fn is_tracing() -> bool {
    is_on(::log::Level::Trace)
}

/// Gives a line to the logger. What that panics with can't be logged.
#[cold]
pub(super) fn write(line: impl FnOnce()) {
    let _ = caught(line);
}

macro_rules! line {
    ($level:ident, target: $target:expr, $($line:tt)+) => {
        if $crate::engine::logging::is_on(::log::Level::$level) {
            $crate::engine::logging::write(|| ::log::log!(target: $target, ::log::Level::$level, $($line)+));
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

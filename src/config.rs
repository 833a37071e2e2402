//! The settings of a session, with their defaults and rules.
//!
//! Invariant: a [`Config`] inside a session has passed [`Config::validate`]. No later code checks a
//! value again.

// Benches and checks compile this file by its path, so it names the paths of its modules.
#[path = "config/budgets.rs"]
mod budgets;
#[path = "config/validate.rs"]
mod validate;

use std::time::Duration;

#[cfg(doc)]
use crate::error::Error;

/// The window that both peers of a version 2 session assume for a new stream until the first UPD,
/// in bytes.
///
/// It is a constant of the protocol, smux's `initialPeerWindow`. The frame UPD announces a window.
///
/// On up to four streams at once, this crate sends this number of bytes before the first UPD. On
/// each further stream it sends fewer bytes at first, as this table says. It sends more when an UPD
/// comes for the stream, or when UPDs for other streams make room.
///
/// | open streams | bytes before the first UPD |
/// |---|---|
/// | up to 128 | 16384 |
/// | more | fewer, but at least 4096 |
pub const INITIAL_WINDOW: u32 = 262_144;

/// The settings of a session. The setters take and return the `Config` by value. The defaults are
/// those of the Go package.
///
/// These words occur in the descriptions:
///
/// - *FIN*, *UPD* and *NOP* are [frames](crate::wire::Command). FIN ends one direction of a stream.
///   UPD announces a window. NOP is sent for keepalive only.
/// - A *window* is the number of bytes that a peer may send on one stream before it gets the next
///   UPD. Only version 2 has windows. Bytes of an announced window are *granted* to the peer.
/// - The *backlog* holds the peer's streams that wait for `accept`.
/// - A *refused* stream gets a FIN at once, and is never accepted.
///
/// ```
/// use std::time::Duration;
/// let config = gmux::Config::new().version(2).keepalive_interval(Duration::from_secs(5));
/// config.validate()?;
/// let refused = gmux::Config::new().max_frame_size(0).validate().unwrap_err();
/// assert_eq!(
///     refused.to_string(),
///     "configuration: max_frame_size = 0, but it must be 1 to 65535 bytes"
/// );
/// # Ok::<(), gmux::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) version: u8,
    pub(crate) keepalive_disabled: bool,
    pub(crate) keepalive_interval: Duration,
    pub(crate) keepalive_timeout: Duration,
    pub(crate) max_frame_size: usize,
    pub(crate) max_receive_buffer: usize,
    pub(crate) max_stream_buffer: usize,
    /// `None`: the whole [`grant_budget`](Config::grant_budget).
    max_stream_window: Option<usize>,
    pub(crate) accept_backlog: usize,
    pub(crate) accept_stall_timeout: Option<Duration>,
    pub(crate) max_streams: usize,
    pub(crate) max_name_len: usize,
    pub(crate) max_send_buffer: usize,
    pub(crate) close_timeout: Duration,
    /// `None`: the default of the version, see [`stall`](Config::stall).
    stall_timeout: Option<Option<Duration>>,
    pub(crate) half_close_stall: Option<Duration>,
    pub(crate) no_data_timeout: Option<Duration>,
}

/// Every value of a [`Config`] as a session uses it, returned by [`Config::settings`].
///
/// The setter of the same name describes each field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// See [`Config::version`].
    pub version: u8,
    /// See [`Config::keepalive_disabled`].
    pub keepalive_disabled: bool,
    /// See [`Config::keepalive_interval`].
    pub keepalive_interval: Duration,
    /// See [`Config::keepalive_timeout`].
    pub keepalive_timeout: Duration,
    /// See [`Config::max_frame_size`].
    pub max_frame_size: usize,
    /// See [`Config::max_receive_buffer`].
    pub max_receive_buffer: usize,
    /// See [`Config::max_stream_buffer`].
    pub max_stream_buffer: usize,
    /// See [`Config::max_stream_window`]. It is at least `max_stream_buffer`.
    pub max_stream_window: usize,
    /// See [`Config::accept_backlog`].
    pub accept_backlog: usize,
    /// See [`Config::accept_stall_timeout`].
    pub accept_stall_timeout: Option<Duration>,
    /// See [`Config::max_streams`].
    pub max_streams: usize,
    /// See [`Config::max_name_len`].
    pub max_name_len: usize,
    /// See [`Config::max_send_buffer`].
    pub max_send_buffer: usize,
    /// See [`Config::close_timeout`].
    pub close_timeout: Duration,
    /// See [`Config::stall_timeout`].
    pub stall_timeout: Option<Duration>,
    /// See [`Config::half_close_stall`].
    pub half_close_stall: Option<Duration>,
    /// See [`Config::no_data_timeout`].
    pub no_data_timeout: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: 1,
            keepalive_disabled: false,
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(30),
            max_frame_size: 32768,
            max_receive_buffer: 4_194_304,
            max_stream_buffer: 65536,
            max_stream_window: None,
            accept_backlog: 1024,
            accept_stall_timeout: Some(ACCEPT_STALL_TIMEOUT),
            max_streams: 65536,
            max_name_len: 4096,
            max_send_buffer: 262_144,
            close_timeout: Duration::from_secs(5),
            stall_timeout: None,
            half_close_stall: Some(Duration::from_secs(60)),
            no_data_timeout: None,
        }
    }
}

/// Default of `stall_timeout` on version 2. After about 10 s without progress, people think that a
/// program hangs. This default is three times as long. It equals the default keepalive timeout.
const V2_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Default of `accept_stall_timeout`. It must be long enough for a burst of streams, and for an
/// accept loop that is busy with one stream. It must also be short enough for a program that waits
/// for data and doesn't accept, because such a program gets no data during the pause. The program
/// has to go on before its users give up. The value is that of the default close timeout.
const ACCEPT_STALL_TIMEOUT: Duration = Duration::from_secs(5);

impl Config {
    /// Returns the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the protocol version: 1 (the default), or 2, which has a window for each stream. Both
    /// peers must be configured alike.
    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// Switches keepalive off if `disabled` (default: keepalive is on). Without keepalive, only
    /// no-data timeouts and the transport notice a peer that vanishes without closing the
    /// connection.
    #[must_use]
    pub fn keepalive_disabled(mut self, disabled: bool) -> Self {
        self.keepalive_disabled = disabled;
        self
    }

    /// Sets the interval at which keepalive sends a NOP frame (default: 10 s).
    #[must_use]
    pub fn keepalive_interval(mut self, interval: Duration) -> Self {
        self.keepalive_interval = interval;
        self
    }

    /// Sets the keepalive timeout (default: 30 s). If no byte comes from the peer for this time,
    /// the session ends with [`Error::KeepaliveTimeout`].
    ///
    /// The session ends 50 ms after the timeout. So a process that was stopped can first read the
    /// data that came during the stop. If the process was stopped when the timeout passed, or the
    /// machine was very busy, the session ends one [`keepalive_interval`](Self::keepalive_interval)
    /// after the timeout.
    #[must_use]
    pub fn keepalive_timeout(mut self, timeout: Duration) -> Self {
        self.keepalive_timeout = timeout;
        self
    }

    /// Sets the largest payload that is sent in one frame, in bytes (default: 32768). Larger frames
    /// are accepted from the peer.
    #[must_use]
    pub fn max_frame_size(mut self, bytes: usize) -> Self {
        self.max_frame_size = bytes;
        self
    }

    /// Sets the session's receive budget: the limit for the received and unread data of all its
    /// streams together, in bytes (default: 4 MiB). When the budget is used up, the session stops
    /// reading the transport.
    ///
    /// On version 2 the limit is twice this value while a write of the session waits for the peer's
    /// window. The reason is that the UPD for which the write waits may come after data for which
    /// there is no room.
    ///
    /// Where reading depends on writing (an echo, a proxy), version 2 needs at least 8192 bytes for
    /// each stream that is open at once. The default is enough for 512 streams.
    #[must_use]
    pub fn max_receive_buffer(mut self, bytes: usize) -> Self {
        self.max_receive_buffer = bytes;
        self
    }

    /// Sets the window that a version 2 stream announces to its peer at first, in bytes (default:
    /// 65536). The window grows up to [`max_stream_window`](Self::max_stream_window).
    ///
    /// With many streams, windows are smaller:
    ///
    /// - The limit of each announced window is half of `max_receive_buffer`, divided by the number
    ///   of open streams. But this limit is at least 8192 bytes.
    /// - While all windows together exceed half of `max_receive_buffer`, a new stream's window
    ///   begins with 16384 bytes. Later the window is at most half of the bytes that were read from
    ///   the stream, but at least 16384 bytes.
    #[must_use]
    pub fn max_stream_buffer(mut self, bytes: usize) -> Self {
        self.max_stream_buffer = bytes;
        self
    }

    /// Sets the limit to which the window of a version 2 stream grows while its reader keeps up, in
    /// bytes (default: half of `max_receive_buffer`).
    ///
    /// Windows grow only while all granted windows together are less than half of
    /// `max_receive_buffer`. A limit of `max_stream_buffer` or less means that windows don't grow.
    /// A stream's throughput is at most its window divided by the round-trip time.
    #[must_use]
    pub fn max_stream_window(mut self, bytes: usize) -> Self {
        self.max_stream_window = Some(bytes);
        self
    }

    /// Sets the number of the peer's streams that may wait for `accept` (default: 1024). While this
    /// backlog is full, a further stream stops the reading of the whole session, for at most
    /// [`accept_stall_timeout`](Self::accept_stall_timeout). After that time, further streams are
    /// refused with FIN.
    #[must_use]
    pub fn accept_backlog(mut self, streams: usize) -> Self {
        self.accept_backlog = streams;
        self
    }

    /// Sets the time for which a full backlog may stop the reading of the session (default: 5 s).
    ///
    /// During this pause, a burst of streams waits in the transport until the program has accepted
    /// earlier streams. No stream gets data, not even an accepted one. The time is counted from the
    /// beginning of the pause or from the last `accept`, whichever is later. When the time has
    /// passed, new streams are refused with FIN until half of the backlog is free. After that, the
    /// next pause is possible.
    ///
    /// `Some(Duration::ZERO)` refuses at once. `None` waits without limit. Keepalive is suspended
    /// during the pause. So with `None`, a dead peer is found only after the next `accept`.
    ///
    /// The pause ends at once when the session is closed, is drained, or ends. It also ends when
    /// the last [`Session`](crate::Session) handle is dropped.
    #[must_use]
    pub fn accept_stall_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.accept_stall_timeout = timeout;
        self
    }

    /// Sets the limit for the streams that this side has opened, and separately for the streams
    /// that the peer has opened (default: 65536). Past the limit, streams of the peer are refused
    /// with FIN, and [`open`](crate::Session::open) fails with [`Error::TooManyStreams`]. A stream
    /// counts until this side has closed it and its FIN was handed to the transport.
    #[must_use]
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.max_streams = streams;
        self
    }

    /// Sets the longest name that a stream of the peer may have, in bytes (default: 4096). Streams
    /// with longer names are refused with FIN.
    #[must_use]
    pub fn max_name_len(mut self, bytes: usize) -> Self {
        self.max_name_len = bytes;
        self
    }

    /// Sets the limit for the accepted and unsent data of a stream, in bytes (default: 262144).
    /// When this limit is reached, `write` waits.
    #[must_use]
    pub fn max_send_buffer(mut self, bytes: usize) -> Self {
        self.max_send_buffer = bytes;
        self
    }

    /// Sets the time that closing a session may take (default: 5 s). A close sends the accepted
    /// data, then waits until the peer ends its side.
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets the time for which the receive budget may stay used up (default: no limit on version 1,
    /// 30 s on version 2). After that time, the stream that holds most of the budget is cut with
    /// [`Error::Stalled`].
    #[must_use]
    pub fn stall_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.stall_timeout = Some(timeout);
        self
    }

    /// Sets the time for which a version 2 write may wait for the peer's window after the peer has
    /// sent FIN (default: 60 s; `None`: no limit). After that time the write fails with
    /// [`Error::PeerFinished`].
    #[must_use]
    pub fn half_close_stall(mut self, timeout: Option<Duration>) -> Self {
        self.half_close_stall = timeout;
        self
    }

    /// Sets the no-data timeout of new streams (default: none).
    #[must_use]
    pub fn no_data_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.no_data_timeout = timeout;
        self
    }

    /// Returns every setting in force: the value that was set, or else the default. Some defaults
    /// depend on other settings.
    ///
    /// ```
    /// use std::time::Duration;
    /// let config = gmux::Config::new().version(2).max_receive_buffer(1 << 20);
    /// let settings = config.settings();
    /// assert_eq!((settings.version, settings.keepalive_timeout), (2, Duration::from_secs(30)));
    /// assert_eq!(settings.max_stream_window, 1 << 19); // the default: half of the receive buffer
    /// assert_eq!(settings.stall_timeout, Some(Duration::from_secs(30))); // version 2's default
    /// ```
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            version: self.version,
            keepalive_disabled: self.keepalive_disabled,
            keepalive_interval: self.keepalive_interval,
            keepalive_timeout: self.keepalive_timeout,
            max_frame_size: self.max_frame_size,
            max_receive_buffer: self.max_receive_buffer,
            max_stream_buffer: self.max_stream_buffer,
            max_stream_window: self.largest_window(),
            accept_backlog: self.accept_backlog,
            accept_stall_timeout: self.accept_stall_timeout,
            max_streams: self.max_streams,
            max_name_len: self.max_name_len,
            max_send_buffer: self.max_send_buffer,
            close_timeout: self.close_timeout,
            stall_timeout: self.stall(),
            half_close_stall: self.half_close_stall,
            no_data_timeout: self.no_data_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// Returns the field that `validate` refuses. Panics if it refuses none.
    fn refused(config: Config) -> &'static str {
        match config.validate() {
            Err(Error::Config { field, value, rule }) => {
                assert!(!value.is_empty() && !rule.is_empty());
                field
            }
            other => panic!("{config:?} gave {other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_go_and_valid_on_both_versions() {
        let config = Config::new();
        assert_eq!((config.version, config.keepalive_disabled), (1, false));
        assert_eq!(
            (config.keepalive_interval, config.keepalive_timeout),
            (Duration::from_secs(10), Duration::from_secs(30))
        );
        assert_eq!(
            (config.max_frame_size, config.max_receive_buffer, config.max_stream_buffer),
            (32768, 4_194_304, 65536)
        );
        assert!(config.validate().is_ok());
        assert!(Config::new().version(2).validate().is_ok());
    }

    #[test]
    fn every_rule_names_its_field() {
        let zero = Duration::ZERO;
        assert_eq!(refused(Config::new().version(0)), "version");
        assert_eq!(refused(Config::new().version(3)), "version");
        assert_eq!(refused(Config::new().keepalive_interval(zero)), "keepalive_interval");
        assert_eq!(
            refused(Config::new().keepalive_timeout(Duration::from_secs(9))),
            "keepalive_timeout"
        );
        assert_eq!(refused(Config::new().max_frame_size(0)), "max_frame_size");
        assert_eq!(refused(Config::new().max_frame_size(65536)), "max_frame_size");
        assert_eq!(refused(Config::new().max_receive_buffer(0)), "max_receive_buffer");
        assert_eq!(
            refused(Config::new().version(2).max_receive_buffer(262_143)),
            "max_receive_buffer"
        );
        let v2 = || Config::new().version(2);
        assert_eq!(refused(v2().max_stream_buffer(0)), "max_stream_buffer");
        assert_eq!(
            refused(v2().max_receive_buffer(300_000).max_stream_buffer(300_001)),
            "max_stream_buffer"
        );
        let huge = i32::MAX as usize + 1;
        assert_eq!(
            refused(v2().max_receive_buffer(huge).max_stream_buffer(huge)),
            "max_stream_buffer"
        );
        assert_eq!(refused(v2().max_stream_window(4_194_305)), "max_stream_window");
        assert_eq!(refused(Config::new().accept_backlog(0)), "accept_backlog");
        assert_eq!(refused(Config::new().max_streams(0)), "max_streams");
        assert_eq!(refused(Config::new().max_name_len(65536)), "max_name_len");
        assert_eq!(refused(Config::new().max_send_buffer(0)), "max_send_buffer");
        assert_eq!(refused(Config::new().close_timeout(zero)), "close_timeout");
        assert_eq!(refused(Config::new().stall_timeout(Some(zero))), "stall_timeout");
        assert_eq!(refused(Config::new().half_close_stall(Some(zero))), "half_close_stall");
        assert_eq!(refused(Config::new().no_data_timeout(Some(zero))), "no_data_timeout");
    }

    #[test]
    fn version_1_has_no_windows_to_complain_of() {
        for config in [
            Config::new().max_receive_buffer(1),
            Config::new().max_receive_buffer(65535).max_stream_window(usize::MAX),
            Config::new().max_stream_buffer(0),
            Config::new().max_stream_buffer(usize::MAX),
        ] {
            assert!(config.validate().is_ok(), "{config:?}");
        }
    }

    #[test]
    fn keepalive_rules_dont_apply_when_it_is_off() {
        let config = Config::new().keepalive_disabled(true).keepalive_interval(Duration::ZERO);
        assert!(config.validate().is_ok());
    }
}

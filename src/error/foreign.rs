//! The bytes that came in the place of a frame, and the text of
//! [`Error::InvalidVersion`](crate::Error::InvalidVersion) about them.
//!
//! Most often the bytes are text: a login banner, the output of a shell's startup file, a web
//! server's answer. A user who sees the text knows its origin at once. Or the bytes are TLS,
//! because one peer uses TLS and the other doesn't.
//!
//! Invariant: at most [`SHOWN`] bytes are shown, and they are escaped. The peer chose them, and
//! they appear in logs.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Limit of the bytes that an error keeps. The first line of most banners is shorter.
const SHOWN: usize = 64;

/// The 1 to 64 bytes that came in the place of a frame, in
/// [`Error::InvalidVersion`](crate::Error::InvalidVersion). It derefs to `[u8]`. `Debug` shows it
/// as an escaped byte string.
///
/// ```
/// use gmux::{Config, Error, Session};
/// use std::io::Write;
/// # let (a, mut b) = std::os::unix::net::UnixStream::pair()?;
/// let session = Session::client(a, Config::new())?;
/// b.write_all(b"$ ")?; // a peer that is a shell
/// match session.accept() {
///     Err(Error::InvalidVersion { received, .. }) => {
///         assert_eq!(received[0], b'$');
///         assert!(format!("{received:?}").starts_with("b\"$"));
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Received(Arc<[u8]>);

impl std::ops::Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Shows the bytes as an escaped literal, because a `main` that returns an error prints that error
/// by `Debug`.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Returns the start of `bytes`, to be kept in an error.
pub(crate) fn start_of(bytes: &[u8]) -> Received {
    Received(bytes.iter().copied().take(SHOWN).collect())
}

/// Returns the text at the start of `bytes`, if there is some. Frames may follow a complete line of
/// text, because a program may print a banner before it starts to speak gmux.
pub(crate) fn text(bytes: &[u8]) -> Option<&str> {
    let valid = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?,
    };
    let is_shown = |c: char| !c.is_control() || matches!(c, '\t' | '\r' | '\n' | '\x1b'); // colours
    let text = valid.split(|c| !is_shown(c)).next().unwrap_or_default();
    // A letter that the end of `bytes` cuts in two still counts as text.
    let is_all = text.len() == valid.len()
        && std::str::from_utf8(bytes).err().is_none_or(|e| e.error_len().is_none());
    let is_line = text.ends_with('\n');
    (!text.is_empty() && (is_all || is_line)).then_some(text)
}

/// The message of the error. It has both versions (this side's, then the peer's) and a remedy, or
/// it shows the text that came instead of a frame.
pub(super) struct Foreign<'a>(
    pub(super) u8,
    pub(super) u8,
    pub(super) &'a Option<SocketAddr>,
    pub(super) &'a [u8],
);

impl fmt::Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ours, theirs, peer, received) = self;
        let peer = peer.map(|addr| format!(" {addr}")).unwrap_or_default();
        let whose = "is the peer speaking gmux or smux at all?";
        if let [kind @ 20..=23, 3, ..] = received {
            let (what, does) = match kind {
                21 => ("a TLS alert", "expects"),
                22 => ("a TLS handshake", "speaks"),
                _ => ("TLS", "speaks"),
            };
            return write!(
                f,
                "no frame, but {what}: the peer{peer} {does} TLS, and this end doesn't: give TLS \
                 to both ends, or to none"
            );
        }
        match (theirs, text(received)) {
            (1 | 2, _) => write!(
                f,
                "invalid version: this end is configured for version {ours}, the peer{peer} sent \
                 version {theirs}: configure both ends alike"
            ),
            (_, None) => write!(
                f,
                "invalid version: this end is configured for version {ours}, the peer{peer} sent \
                 version {theirs}: {whose}"
            ),
            (_, Some(text)) => write!(
                f,
                "no frame, but text: the peer{peer} sent {text:?} where this end expected a frame \
                 of version {ours}: {whose} does something else write to the connection, such as \
                 a login banner, a shell's startup file, or a message of the peer's program? It \
                 has to go elsewhere, to standard error for example"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(theirs: u8, received: &[u8]) -> String {
        let peer = Some("192.0.2.7:99".parse().unwrap());
        Foreign(1, theirs, &peer, received).to_string()
    }

    #[test]
    fn text_in_a_frames_place_is_shown_with_what_to_do() {
        for banner in ["Welcome to Debian!\n", "\x1b[1mbold\x1b[0m", "Добро пожаловать", "x"]
        {
            let text = said(banner.as_bytes()[0], banner.as_bytes());
            assert!(text.contains(&format!("{banner:?}")), "{text}");
            for part in ["192.0.2.7:99", "version 1", "gmux or smux at all?", "login banner"] {
                assert!(text.contains(part), "{text}");
            }
        }
        let followed = said(b'W', b"Welcome to Debian!\n\x02\x03\0\0\0\0\0\0");
        assert!(
            followed.contains(r#""Welcome to Debian!\n""#),
            "frames came behind it: {followed}"
        );
        let cut = &"é".repeat(40).into_bytes()[..63];
        assert!(said(cut[0], cut).contains(&"é".repeat(31)), "a letter was cut in two");
    }

    #[test]
    fn what_a_peer_sent_is_escaped_and_bounded() {
        let text = said(b'a', b"a\nfake log line\x1b[2J");
        assert!(!text.contains(['\n', '\x1b']), "{text}");
        assert_eq!(start_of(&[7; 1000]).len(), SHOWN);
    }

    /// The first two bytes are a record's type and TLS's major version. Both roles are tried.
    #[test]
    fn tls_in_a_frames_place_says_which_end_speaks_it() {
        let hello = said(22, b"\x16\x03\x01\x02\0\x01\0\x01\xfc");
        assert!(
            hello.contains("TLS handshake: the peer 192.0.2.7:99 speaks TLS, and this end doesn't"),
            "{hello}"
        );
        let alert = said(21, b"\x15\x03\x03\0\x02\x02\x32");
        assert!(
            alert.contains("TLS alert: the peer 192.0.2.7:99 expects TLS, and this end doesn't"),
            "{alert}"
        );
        assert!(said(23, b"\x17\x03\x03").contains("but TLS: the peer 192.0.2.7:99 speaks TLS"));
    }

    #[test]
    fn what_is_no_text_is_a_version() {
        for bytes in
            [&[0, 3, 0, 0][..], b"\x16\x02\x01\x02\0\x01", b"\x16", b"a\0b", &[0xff; 8], &[]]
        {
            let text = said(bytes.first().copied().unwrap_or(9), bytes);
            assert!(text.starts_with("invalid version") && text.contains("at all?"), "{text}");
        }
        assert!(said(2, b"\x02\x03\0\0").contains("version 2: configure both ends alike"));
    }
}

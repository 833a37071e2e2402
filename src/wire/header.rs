//! The 8-byte frame header: `VERSION u8 | CMD u8 | LENGTH u16 LE | STREAM ID u32 LE`.
//!
//! Invariant: a [`Header`] that was decoded has a known command. Its version and length may still
//! be wrong. The frame reader compares the version with the session's. The caller of the frame
//! reader checks the length ([`Header::check`]).

use std::fmt;

use byteorder::{ByteOrder, LittleEndian};

use crate::error::{Error, Result};

/// Length of a header, in bytes.
pub const HEADER_LEN: usize = 8;

/// The longest payload that the LENGTH field can express, in bytes.
pub const MAX_PAYLOAD: usize = 65535;

/// Length of an UPD frame's payload: CONSUMED u32 LE, WINDOW u32 LE.
pub const UPDATE_LEN: usize = 8;

/// The purpose of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Command {
    /// Opens a stream. The payload is the stream's name.
    Syn = 0,
    /// Ends the sender's side of the stream.
    Fin = 1,
    /// Carries data.
    Psh = 2,
    /// Keeps the session alive. The stream id is 0.
    Nop = 3,
    /// Tells the peer two numbers: how many bytes of the peer's data this side's application has
    /// consumed, and the size of the window. Version 2 only.
    Upd = 4,
}

impl TryFrom<u8> for Command {
    type Error = Error;

    fn try_from(byte: u8) -> Result<Self> {
        Ok(match byte {
            0 => Self::Syn,
            1 => Self::Fin,
            2 => Self::Psh,
            3 => Self::Nop,
            4 => Self::Upd,
            other => return Err(Error::InvalidCommand(other)),
        })
    }
}

/// A frame's first 8 bytes.
///
/// ```
/// use gmux::wire::{Command, Header};
/// let header = Header { version: 1, command: Command::Syn, length: 100, stream_id: 1 };
/// assert_eq!(header.to_string(), "Version:1 Cmd:0 StreamID:1 Length:100");
/// assert_eq!(Header::decode(&header.encode()).unwrap(), header);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header {
    /// Protocol version, 1 or 2.
    pub version: u8,
    /// The frame's purpose.
    pub command: Command,
    /// Length of the payload that follows, in bytes.
    pub length: u16,
    /// The stream that the frame belongs to, or 0 for NOP.
    pub stream_id: u32,
}

impl Header {
    /// Returns the header in its wire format.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.version;
        bytes[1] = self.command as u8;
        LittleEndian::write_u16(&mut bytes[2..4], self.length);
        LittleEndian::write_u32(&mut bytes[4..8], self.stream_id);
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Returns [`Error::InvalidCommand`] for a command byte that isn't in the protocol. The version
    /// isn't checked.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        Ok(Self {
            version: bytes[0],
            command: Command::try_from(bytes[1])?,
            length: LittleEndian::read_u16(&bytes[2..4]),
            stream_id: LittleEndian::read_u32(&bytes[4..8]),
        })
    }

    /// Checks the rules that don't depend on the state of streams. The command must allow the
    /// length, and the version must have the command.
    ///
    /// # Errors
    /// Returns [`Error::InvalidProtocol`] with the broken rule.
    pub fn check(&self) -> Result<()> {
        let reason = match (self.command, self.length) {
            (Command::Fin, 1..) => "FIN has no payload",
            (Command::Nop, 1..) => "NOP has no payload",
            (Command::Upd, _) if self.version == 1 => "UPD is a frame of version 2",
            (Command::Upd, 8)
            | (Command::Syn | Command::Psh, _)
            | (Command::Fin | Command::Nop, 0) => return Ok(()),
            (Command::Upd, _) => "UPD has a payload of 8 bytes",
        };
        Err(Error::InvalidProtocol { frame: *self, reason })
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, command, length, stream_id } = self;
        write!(f, "Version:{version} Cmd:{} StreamID:{stream_id} Length:{length}", *command as u8)
    }
}

/// A whole frame, for tools, tests and hand-written peers.
///
/// Sessions don't use this type. Their payloads stay in pooled buffers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The header. Its `length` is the payload's length.
    pub header: Header,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns a frame with the length filled in.
    ///
    /// # Errors
    /// Returns [`Error::NameTooLong`] if the payload has more than 65535 bytes.
    pub fn new(
        version: u8,
        command: Command,
        stream_id: u32,
        payload: impl Into<Vec<u8>>,
    ) -> Result<Self> {
        let payload = payload.into();
        let Ok(length) = u16::try_from(payload.len()) else {
            return Err(Error::NameTooLong { len: payload.len(), max: MAX_PAYLOAD });
        };
        Ok(Self { header: Header { version, command, length, stream_id }, payload })
    }

    /// Returns an UPD frame.
    #[must_use]
    pub fn update(stream_id: u32, consumed: u32, window: u32) -> Self {
        let header =
            Header { version: 2, command: Command::Upd, length: UPDATE_LEN as u16, stream_id };
        Self { header, payload: encode_update(consumed, window).to_vec() }
    }

    /// Returns the frame in its wire format.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header.encode().to_vec();
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Splits the first frame off `bytes`. Returns the frame and the bytes that follow it, or
    /// `None` if the frame isn't complete yet.
    ///
    /// # Errors
    /// Returns [`Error::InvalidCommand`] for a command byte that isn't in the protocol.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, &[u8])>> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::decode(head)?;
        let Some((payload, rest)) = rest.split_at_checked(usize::from(header.length)) else {
            return Ok(None);
        };
        Ok(Some((Self { header, payload: payload.to_vec() }, rest)))
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.header.fmt(f)
    }
}

/// Returns an UPD frame's payload.
pub(crate) fn encode_update(consumed: u32, window: u32) -> [u8; UPDATE_LEN] {
    let mut payload = [0; UPDATE_LEN];
    LittleEndian::write_u32(&mut payload[..4], consumed);
    LittleEndian::write_u32(&mut payload[4..], window);
    payload
}

/// Returns CONSUMED and WINDOW of an UPD frame's payload, or `None` if the payload doesn't have 8
/// bytes.
pub(crate) fn decode_update(payload: &[u8]) -> Option<(u32, u32)> {
    let payload: &[u8; UPDATE_LEN] = payload.try_into().ok()?;
    Some((LittleEndian::read_u32(&payload[..4]), LittleEndian::read_u32(&payload[4..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_and_an_update_lie_on_the_wire_as_the_protocol_says() {
        let header =
            Header { version: 2, command: Command::Psh, length: 0x0102, stream_id: 0x0304_0506 };
        assert_eq!(header.encode(), [2, 2, 0x02, 0x01, 0x06, 0x05, 0x04, 0x03]);
        assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        let update = Frame::update(3, 0x0102_0304, 0x0506_0708);
        assert_eq!(update.encode(), [2, 4, 8, 0, 3, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(decode_update(&update.payload), Some((0x0102_0304, 0x0506_0708)));
        assert_eq!((decode_update(&[0; 7]), decode_update(&[0; 9])), (None, None));
    }

    #[test]
    fn the_length_has_to_be_what_the_command_allows() {
        // Whether 0, 1, 8, and 65535 bytes are allowed, on version 1 and on version 2.
        let table = [
            (Command::Syn, [true; 4], [true; 4]),
            (Command::Fin, [true, false, false, false], [true, false, false, false]),
            (Command::Psh, [true; 4], [true; 4]),
            (Command::Nop, [true, false, false, false], [true, false, false, false]),
            (Command::Upd, [false; 4], [false, false, true, false]),
        ];
        for (command, v1, v2) in table {
            for (version, allowed) in [(1, v1), (2, v2)] {
                let check = |length| Header { version, command, length, stream_id: 3 }.check();
                assert_eq!(
                    [0, 1, 8, 65535].map(|length| check(length).is_ok()),
                    allowed,
                    "{command:?} {version}"
                );
            }
        }
        let header = Header { version: 1, command: Command::Upd, length: 8, stream_id: 3 };
        let error = header.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid protocol: UPD is a frame of version 2 (Version:1 Cmd:4 StreamID:3 Length:8)"
        );
    }

    #[test]
    fn bytes_that_are_no_command_are_refused() {
        let command =
            |byte| Header::decode(&[1, byte, 0, 0, 0, 0, 0, 0]).map(|header| header.command as u8);
        assert_eq!([0, 1, 2, 3, 4].map(|byte| command(byte).unwrap()), [0, 1, 2, 3, 4]);
        assert!(
            [5, 255]
                .iter()
                .all(|byte| matches!(command(*byte), Err(Error::InvalidCommand(b)) if b == *byte))
        );
    }

    #[test]
    fn a_frame_shows_its_header() {
        let frame = Frame::new(1, Command::Fin, 7, []).unwrap();
        assert_eq!(frame.to_string(), "Version:1 Cmd:1 StreamID:7 Length:0");
    }

    #[test]
    fn a_payload_that_a_length_cannot_name_is_refused() {
        assert_eq!(
            Frame::new(1, Command::Psh, 3, vec![0; MAX_PAYLOAD]).unwrap().header.length,
            65535
        );
        let error = Frame::new(1, Command::Psh, 3, vec![0; MAX_PAYLOAD + 1]).unwrap_err();
        assert!(matches!(error, Error::NameTooLong { len: 65536, max: 65535 }));
    }
}

//! The bytes that cross one stream. The stream's name is the path relative to the tree, with `/`
//! between the parts.
//!
//! ```text
//!   sender                                                  receiver
//!   kind (1 byte), length (u64, little-endian)    ──▶
//!                                                 ◀──       answer: go on, or why not
//!   content, its SHA-256, end of the stream       ──▶
//!                                                 ◀──       answer: it is in place, or why not
//! ```
//!
//! The sender has to wait for the first answer. Received data that nobody has read yet fills the
//! receive buffer of the whole session (`max_receive_buffer`). If the sender didn't wait, data for
//! streams that nobody has accepted could fill this buffer. Then there would be no room for the
//! next bytes of accepted streams, and the transfer would stop. So content is sent only when a
//! thread is ready to read it.
//!
//! Invariant: content counts as complete only when its announced length, its digest and the end of
//! the stream have been read. So a transfer that is cut off anywhere never looks like success.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

/// Size of the blocks that are read and passed on, in bytes.
const BLOCK: usize = 64 * 1024;

/// The kind of a stream's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    /// An empty directory. Its content is empty. Other directories are made when their files
    /// arrive.
    Directory,
    /// The names of everything that will be sent. It comes on the unnamed stream. With it the
    /// receiver can tell which names are missing.
    List,
}

/// The head of a stream.
#[derive(Debug)]
pub struct Request {
    pub kind: Kind,
    /// Length of the content, in bytes.
    pub length: u64,
}

impl Request {
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let kind = match self.kind {
            Kind::File => b'F',
            Kind::Directory => b'D',
            Kind::List => b'L',
        };
        let mut head = [kind; 9];
        head[1..].copy_from_slice(&self.length.to_le_bytes());
        to.write_all(&head)
    }

    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut kind = [0; 1];
        let mut length = [0; 8];
        from.read_exact(&mut kind)?;
        from.read_exact(&mut length)?;
        let kind = match kind[0] {
            b'F' => Kind::File,
            b'D' => Kind::Directory,
            b'L' => Kind::List,
            other => return Err(invalid(format!("unknown kind of stream {other:#04x}"))),
        };
        Ok(Self { kind, length: u64::from_le_bytes(length) })
    }
}

/// The receiver's answer: yes, or the reason why not.
pub type Answer = Result<(), String>;

/// Sends an answer. It consists of 0 (yes) or 1 (no), the length of the reason (u16, little-endian)
/// and the reason.
pub fn write_answer(to: &mut impl Write, answer: &Answer) -> io::Result<()> {
    let (status, reason) = match answer {
        Ok(()) => (0, ""),
        Err(reason) => (1, reason.as_str()),
    };
    let reason = &reason.as_bytes()[..reason.len().min(u16::MAX.into())];
    let mut bytes = vec![status];
    bytes.extend((reason.len() as u16).to_le_bytes());
    bytes.extend(reason);
    to.write_all(&bytes)
}

/// Reads an answer. `status` is its first byte, if that has been read already.
pub fn read_answer(from: &mut impl Read, status: Option<u8>) -> io::Result<Answer> {
    let mut head = [0; 3];
    let read = match status {
        Some(status) => {
            head[0] = status;
            from.read_exact(&mut head[1..])
        }
        None => from.read_exact(&mut head),
    };
    read.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("the receiver refused the stream without a word"),
        _ => error,
    })?;
    let mut reason = vec![0; u16::from_le_bytes([head[1], head[2]]).into()];
    from.read_exact(&mut reason)?;
    // The reason is shown on a terminal, so it must not contain control characters.
    let reason = String::from_utf8_lossy(&reason).replace(char::is_control, "?");
    Ok(if head[0] == 0 { Ok(()) } else { Err(reason) })
}

/// Copies `length` bytes and returns their digest. After each block it calls `each` with the
/// block's size.
pub fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    length: u64,
    mut each: impl FnMut(usize) -> io::Result<()>,
) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    let mut left = length;
    while left > 0 {
        let room = left.min(BLOCK as u64) as usize;
        let n = match from.read(&mut block[..room]) {
            Ok(0) => {
                return Err(invalid(format!(
                    "the content ended after {} of {length} bytes",
                    length - left
                )));
            }
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&block[..n]);
        to.write_all(&block[..n])?;
        each(n)?;
        left -= n as u64;
    }
    Ok(hash.finalize().into())
}

/// Reads the digest and the end of the stream, which follow the content.
pub fn read_trailer(from: &mut impl Read, digest: &[u8; 32]) -> io::Result<()> {
    let mut sent = [0; 32];
    from.read_exact(&mut sent).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("the content's digest is missing"),
        _ => error,
    })?;
    if sent != *digest {
        return Err(invalid("the content doesn't match its digest"));
    }
    match from.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(invalid("the content is longer than announced")),
    }
}

/// The list of names. Its bytes are the total size of all files (u64), then for each name its
/// length (u32) and the name. All numbers are little-endian.
pub struct List {
    pub total: u64,
    pub names: Vec<Vec<u8>>,
}

impl List {
    /// Limit of the list that a receiver accepts, in bytes. It is enough for a million names of
    /// usual length.
    pub const MAX: u64 = 64 << 20;

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.total.to_le_bytes().to_vec();
        for name in &self.names {
            bytes.extend((name.len() as u32).to_le_bytes());
            bytes.extend(name);
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let cut = || invalid("the list of names is cut off");
        let (total, mut rest) = bytes.split_first_chunk().ok_or_else(cut)?;
        let mut names = Vec::new();
        while !rest.is_empty() {
            let (len, tail) = rest.split_first_chunk().ok_or_else(cut)?;
            let (name, tail) =
                tail.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(cut)?;
            names.push(name.to_vec());
            rest = tail;
        }
        Ok(Self { total: u64::from_le_bytes(*total), names })
    }
}

pub fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

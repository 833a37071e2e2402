//! What crosses one stream. Its name is the path, relative to the tree, parts divided by `/`.
//!
//! ```text
//!   sender                                                  receiver
//!   kind (1 byte), length (u64, little-endian)    ──▶
//!                                                 ◀──       answer: go on, or why not
//!   content, its SHA-256, end of the stream       ──▶
//!                                                 ◀──       answer: it is in place, or why not
//! ```
//!
//! The first answer is more than a courtesy. Data for a stream that nobody has accepted yet lies in
//! the session's receive budget, and could use it up while those that are being read wait for their
//! next bytes behind it. So content is sent only when a thread is there to read it.
//!
//! Invariant: content counts as whole only after its announced length, its digest and the end of
//! the stream, so that no way of being cut off is taken for success.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

/// How much is read and passed on at once, in bytes.
const BLOCK: usize = 64 * 1024;

/// What a stream brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    /// An empty directory; other directories come about with their files. Its content is empty.
    Directory,
    /// The names of everything that is going to be sent, on the unnamed stream: without it a
    /// receiver couldn't tell what is missing.
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

/// What the receiver says: yes, or why not.
pub type Answer = Result<(), String>;

/// Sends an answer: 0 or 1, the length of the reason (u16, little-endian), the reason.
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

/// Reads an answer whose first byte is `status`, if that has been read already.
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
    // What a peer says is shown on a terminal: nothing in it may control that.
    let reason = String::from_utf8_lossy(&reason).replace(char::is_control, "?");
    Ok(if head[0] == 0 { Ok(()) } else { Err(reason) })
}

/// Copies `length` bytes, calls `each` with the size of every block that was passed on, and returns
/// their digest.
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

/// Reads what follows the content: its digest, and the end.
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

/// The list of names: the bytes that all files have together (u64), then each name after its length
/// (u32), all little-endian.
pub struct List {
    pub total: u64,
    pub names: Vec<Vec<u8>>,
}

impl List {
    /// The longest list that a receiver takes, in bytes: a million names of usual length.
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

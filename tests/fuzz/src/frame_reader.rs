//! Feeds arbitrary bytes in arbitrary pieces to the frame reader, and compares it with a decoder
//! that has all bytes at once. Both must see the same frames, the same error at the same place, and
//! the same end.

use std::io::{self, IoSliceMut, Read};

use crate::choices::{Choices, payload};
use crate::error::Error;
use crate::pool::BufferPool;
use crate::wire::HEADER_LEN;
use crate::wire::reader::{FrameReader, PayloadBuffer, SMALL_PAYLOAD_MAX, Step};

/// A result of reading, in order.
#[derive(Debug, PartialEq)]
enum Seen {
    /// Version, command, length and stream id, and the payload if it wasn't skipped.
    Frame {
        head: (u8, u8, u16, u32),
        payload: Option<Vec<u8>>,
    },
    BadVersion {
        theirs: u8,
    },
    BadCommand(u8),
    /// The end of the input, and whether it came inside a frame.
    End {
        inside: bool,
    },
}

/// The treatment of a payload.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Skip,
    /// No choice is made, which has the same effect as skipping.
    Ignore,
    Inline,
    Collect,
}

/// The treatment of each frame's payload. It depends only on the frame's number and length, so that
/// both decoders agree. The reader offers small payloads to be taken inline or skipped, and large
/// ones to be collected or skipped. A collected run may not contain small frames.
struct Places {
    kinds: Vec<u8>,
}

impl Places {
    fn of(&self, number: usize, length: u16) -> Place {
        // By default each frame has the same treatment as the one before. Runs make the reader read
        // ahead.
        match self.kinds.get(number % (self.kinds.len() + 1)).copied().unwrap_or(7) % 8 {
            0 => Place::Skip,
            1 => Place::Ignore,
            _ if usize::from(length) <= SMALL_PAYLOAD_MAX => Place::Inline,
            _ => Place::Collect,
        }
    }
}

/// A transport whose reads have chosen sizes and may be interrupted.
struct Pieces<'a> {
    data: &'a [u8],
    sizes: &'a [u16],
    calls: usize,
    /// The least size of a read, so that a long input isn't read byte by byte.
    least: usize,
}

impl Pieces<'_> {
    fn next_size(&mut self) -> io::Result<usize> {
        if self.sizes.is_empty() {
            return Ok(usize::MAX);
        }
        let size = self.sizes[self.calls % self.sizes.len()];
        self.calls += 1;
        // Every round of reads makes some progress.
        match size {
            0 if !self.calls.is_multiple_of(self.sizes.len()) => {
                Err(io::ErrorKind::Interrupted.into())
            }
            _ => Ok(usize::from(size).max(self.least)),
        }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        assert!(
            bufs.iter().any(|buf| !buf.is_empty()),
            "a read of nothing looks like the end of the input"
        );
        let mut left = self.next_size()?;
        let mut total = 0;
        for buf in bufs {
            let n = left.min(buf.len()).min(self.data.len());
            let (now, later) = self.data.split_at(n);
            buf[..n].copy_from_slice(now);
            self.data = later;
            left -= n;
            total += n;
        }
        Ok(total)
    }
}

/// Decodes the frames of `data` at once.
fn one_shot(data: &[u8], version: u8, places: &Places) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let theirs = data[at];
        if theirs != version {
            seen.push(Seen::BadVersion { theirs }); // The version byte is enough.
            return seen;
        }
        let Some(&[_, command, l0, l1, a, b, c, d]) = data[at..].first_chunk::<HEADER_LEN>() else {
            break;
        };
        if command > 4 {
            seen.push(Seen::BadCommand(command));
            return seen;
        }
        let length = u16::from_le_bytes([l0, l1]);
        let begin = at + HEADER_LEN;
        let end = at + HEADER_LEN + usize::from(length);
        let place = places.of(seen.len(), length);
        let skipped = matches!(place, Place::Skip | Place::Ignore) && length > 0;
        if end > data.len() && !skipped {
            return ended(seen, true);
        }
        let payload = (!skipped).then(|| data[begin..end].to_vec());
        seen.push(Seen::Frame {
            head: (theirs, command, length, u32::from_le_bytes([a, b, c, d])),
            payload,
        });
        if end > data.len() {
            return ended(seen, true);
        }
        at = end;
    }
    ended(seen, at < data.len())
}

fn ended(mut seen: Vec<Seen>, inside: bool) -> Vec<Seen> {
    seen.push(Seen::End { inside });
    seen
}

/// Reads the frames of `data` with the frame reader.
fn in_pieces(
    data: &[u8],
    version: u8,
    places: &Places,
    ahead: usize,
    rests: u8,
    sizes: &[u16],
) -> Vec<Seen> {
    let pool = BufferPool::shared();
    let mut input = Pieces { data, sizes, calls: 0, least: 1 + data.len() / 8192 };
    let mut reader = FrameReader::new(version, ahead);
    let mut seen = Vec::new();
    let head = |header: crate::wire::Header| {
        (header.version, header.command as u8, header.length, header.stream_id)
    };
    loop {
        match reader.next() {
            Ok(Step::NeedInput) => {
                let before = input.data.len();
                match reader.fill(&mut input, pool) {
                    Ok(0) if input.data.is_empty() => return ended(seen, reader.inside_frame()),
                    Ok(n) => assert_eq!(n, before - input.data.len(), "what a fill says it read"),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted),
                }
            }
            Ok(Step::Header(header)) if header.length == 0 => {
                seen.push(Seen::Frame { head: head(header), payload: Some(Vec::new()) });
            }
            Ok(Step::Header(header)) => {
                assert!(reader.inside_frame(), "between a header and its payload");
                let place = places.of(seen.len(), header.length);
                match place {
                    Place::Skip | Place::Ignore => {
                        seen.push(Seen::Frame { head: head(header), payload: None });
                        if place == Place::Skip {
                            reader.skip();
                        }
                    }
                    Place::Inline => reader.take_buffered(),
                    Place::Collect => {
                        let payload =
                            reader.prepare(pool).expect("the pool has buffers of 1 to 65536 bytes");
                        if rests & 1 << (seen.len() % 8) != 0 {
                            reader.rest(); // As the library does before it waits for budget.
                        }
                        reader.collect(payload);
                    }
                }
            }
            Ok(Step::Buffered(header)) => {
                seen.push(Seen::Frame {
                    head: head(header),
                    payload: Some(reader.payload().to_vec()),
                });
            }
            Ok(Step::Collected(header, PayloadBuffer { buffer, start, .. })) => {
                let payload = buffer[start..start + usize::from(header.length)].to_vec();
                seen.push(Seen::Frame { head: head(header), payload: Some(payload) });
            }
            Err(Error::InvalidVersion { ours, theirs, peer: None, received }) => {
                assert_eq!(ours, version);
                assert!(
                    (1..=64).contains(&received.len()) && received[0] == theirs,
                    "{received:?}"
                );
                seen.push(Seen::BadVersion { theirs });
                return seen;
            }
            Err(Error::InvalidCommand(command)) => {
                seen.push(Seen::BadCommand(command));
                return seen;
            }
            Err(other) => panic!("{other:?} is no error of the frame reader"),
        }
    }
}

/// Upper limit of the bytes that an input is expanded to.
const MOST: usize = 1 << 19;

/// Returns the bytes that the choices stand for: raw bytes, and frames whose payload needn't be in
/// the input.
fn bytes(choices: &mut Choices, version: u8) -> Vec<u8> {
    let mut data = Vec::new();
    while !choices.is_empty() && data.len() < MOST {
        let kind = choices.byte();
        if kind < 48 {
            data.extend_from_slice(choices.bytes(usize::from(kind) + 1));
            continue;
        }
        let command = choices.byte();
        let id = choices.byte();
        let length = choices.length();
        let seed = choices.byte();
        let command = if command < 250 { command % 5 } else { command };
        let theirs = if kind == 255 { id } else { version };
        let times = if kind & 3 == 0 { 1 + kind / 16 } else { 1 };
        for _ in 0..times {
            data.extend([theirs, command]);
            data.extend((length as u16).to_le_bytes());
            data.extend(u32::from(id).to_le_bytes());
            data.extend_from_slice(payload(seed, data.len(), length));
        }
        if kind & 7 == 1 {
            // The payload is cut, so the bytes that follow are taken for its rest.
            data.truncate(data.len() - choices.length().min(length));
        }
    }
    data
}

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let version = 1 + choices.byte() % 2;
    let ahead = [0, 4096, 20_000, 100_000, 1 << 20][choices.below(5)];
    let rests = choices.byte();
    let kinds = choices.below(6);
    let places = Places { kinds: choices.bytes(kinds).to_vec() };
    let sizes: Vec<u16> = (0..choices.below(7)).map(|_| choices.length() as u16).collect();
    let data = bytes(&mut choices, version);

    let expected = one_shot(&data, version, &places);
    // The input is read as chosen, in one piece, and byte by byte where that doesn't take long.
    let mut cuts: Vec<&[u16]> = vec![&sizes, &[]];
    if data.len() < 2000 {
        cuts.push(&[1]);
    }
    for sizes in cuts {
        let seen = in_pieces(&data, version, &places, ahead, rests, sizes);
        if let Some(at) =
            (0..expected.len().max(seen.len())).find(|&at| seen.get(at) != expected.get(at))
        {
            panic!("cut to {sizes:?}, step {at}: {:?}, not {:?}", seen.get(at), expected.get(at));
        }
    }
}

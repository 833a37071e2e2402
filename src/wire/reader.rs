//! Cuts a byte stream into frames: a state machine without I/O, but for [`FrameReader::fill`], which does one read.
//!
//! After a header the caller says where the payload goes: past it ([`skip`](FrameReader::skip)), into the reader's own
//! window ([`inline`](FrameReader::inline), for small ones), or straight into a pooled buffer
//! ([`collect`](FrameReader::collect)), which is read together with the start of what follows in one vectored read.
//! Between the header and that choice the caller may wait for budget.
//!
//! Invariants: `start <= end <= window.len()`; no byte is copied twice; any split of the input gives the same steps; the reader
//! holds at most its window and the one buffer that it was given.

use std::io::{self, IoSliceMut, Read};

use super::header::{HEADER_LEN, Header};
use crate::error::Result;
use crate::pool::Buffer;

/// Size of the window, in bytes: small frames arrive this much at a time. A session has one of these for its whole life,
/// so it is what an idle session costs.
const WINDOW: usize = 16 * 1024;

/// The largest payload that fits the window with its header; the caller takes larger ones with `collect`.
pub(crate) const INLINE_MAX: usize = 4096;

/// How much of what follows a collected payload is read with it, in bytes: enough for the next header and some small
/// frames, little enough that the next large payload isn't copied out of the window.
const LOOKAHEAD: usize = 512;

enum State {
    Header,
    /// A header was returned; its payload has no place yet.
    Undecided(Header),
    Inline(Header),
    Collect {
        header: Header,
        buffer: Buffer,
        filled: usize,
    },
    Skip {
        left: usize,
    },
}

/// What [`FrameReader::next`] found.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing whole: call `fill`.
    NeedInput,
    /// A header. If its length isn't 0, say where the payload goes.
    Header(Header),
    /// The payload asked for with `inline`: see [`FrameReader::payload`].
    Inline(Header),
    /// The payload asked for with `collect`.
    Collected(Header, Buffer),
}

pub(crate) struct FrameReader {
    window: Box<[u8]>,
    start: usize,
    end: usize,
    /// The inline payload returned last lies here, just before `start`.
    payload: std::ops::Range<usize>,
    state: State,
}

impl FrameReader {
    pub(crate) fn new() -> Self {
        Self { window: vec![0; WINDOW].into_boxed_slice(), start: 0, end: 0, payload: 0..0, state: State::Header }
    }

    /// The next step, from what has been read so far.
    ///
    /// # Errors
    /// `InvalidCommand` for a header with an unknown command.
    pub(crate) fn next(&mut self) -> Result<Step> {
        loop {
            let available = self.end - self.start;
            match std::mem::replace(&mut self.state, State::Header) {
                State::Header => {
                    let Some(bytes) = self.window[self.start..self.end].first_chunk::<HEADER_LEN>() else {
                        return Ok(Step::NeedInput);
                    };
                    let header = Header::decode(bytes)?;
                    self.start += HEADER_LEN;
                    if header.length > 0 {
                        self.state = State::Undecided(header);
                    }
                    return Ok(Step::Header(header));
                }
                State::Inline(header) => {
                    let length = usize::from(header.length);
                    if available < length {
                        self.state = State::Inline(header);
                        return Ok(Step::NeedInput);
                    }
                    self.payload = self.start..self.start + length;
                    self.start += length;
                    return Ok(Step::Inline(header));
                }
                State::Collect { header, mut buffer, mut filled } => {
                    let n = available.min(buffer.len() - filled);
                    buffer[filled..filled + n].copy_from_slice(&self.window[self.start..self.start + n]);
                    self.start += n;
                    filled += n;
                    if filled == buffer.len() {
                        return Ok(Step::Collected(header, buffer));
                    }
                    self.state = State::Collect { header, buffer, filled };
                    return Ok(Step::NeedInput);
                }
                State::Skip { left } => {
                    let n = available.min(left);
                    self.start += n;
                    if n < left {
                        self.state = State::Skip { left: left - n };
                        return Ok(Step::NeedInput);
                    }
                }
                // The caller didn't choose: reading past is the only choice that can't go wrong.
                State::Undecided(header) => self.state = State::Skip { left: usize::from(header.length) },
            }
        }
    }

    /// Reads past the payload of the header just returned.
    pub(crate) fn skip(&mut self) {
        if let State::Undecided(header) = self.state {
            self.state = State::Skip { left: usize::from(header.length) };
        }
    }

    /// Takes the payload of the header just returned, at most [`INLINE_MAX`] bytes, in the window.
    pub(crate) fn inline(&mut self) {
        if let State::Undecided(header) = self.state {
            debug_assert!(usize::from(header.length) <= INLINE_MAX);
            self.state = State::Inline(header);
        }
    }

    /// Takes the payload of the header just returned in `buffer`, which is cut to its length.
    pub(crate) fn collect(&mut self, mut buffer: Buffer) {
        if let State::Undecided(header) = self.state {
            buffer.set_len(usize::from(header.length));
            self.state = State::Collect { header, buffer, filled: 0 };
        }
    }

    /// The payload of the `Inline` step just returned.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.window[self.payload.clone()]
    }

    /// Whether a frame has begun and isn't whole: an end of input now is a truncation.
    pub(crate) fn inside_frame(&self) -> bool {
        self.end > self.start || !matches!(self.state, State::Header)
    }

    /// One read from the transport; returns its count, 0 at the end of the input.
    pub(crate) fn fill(&mut self, input: &mut (impl Read + ?Sized)) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.window.len() - self.start < HEADER_LEN + INLINE_MAX {
            self.window.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match &mut self.state {
            State::Collect { buffer, filled, .. } => {
                // `next` has emptied the window into the buffer.
                let rest = &mut buffer[*filled..];
                let wanted = rest.len();
                let mut slices = [IoSliceMut::new(rest), IoSliceMut::new(&mut self.window[..LOOKAHEAD])];
                let n = input.read_vectored(&mut slices)?;
                *filled += n.min(wanted);
                (self.start, self.end) = (0, n.saturating_sub(wanted).min(LOOKAHEAD));
                Ok(n)
            }
            _ => {
                let n = input.read(&mut self.window[self.end..])?;
                self.end = (self.end + n).min(self.window.len());
                Ok(n)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::BufferPool;
    use crate::wire::{Command, Frame};
    use proptest::prelude::*;

    /// Input that comes in pieces of given sizes.
    struct Pieces<'a> {
        data: &'a [u8],
        sizes: std::iter::Cycle<std::vec::IntoIter<usize>>,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.sizes.next().unwrap().min(buf.len()).min(self.data.len());
            let (now, later) = self.data.split_at(n);
            buf[..n].copy_from_slice(now);
            self.data = later;
            Ok(n)
        }

        fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            let mut left = self.sizes.next().unwrap();
            let mut total = 0;
            for buf in bufs {
                let n = left.min(buf.len()).min(self.data.len());
                let (now, later) = self.data.split_at(n);
                buf[..n].copy_from_slice(now);
                self.data = later;
                total += n;
                left -= n;
            }
            Ok(total)
        }
    }

    /// All frames of `data` as the reader sees them; where a payload goes depends on its length alone.
    fn frames(data: &[u8], sizes: Vec<usize>) -> (Vec<Frame>, bool) {
        let pool = BufferPool::new();
        let mut input = Pieces { data, sizes: sizes.into_iter().cycle() };
        let (mut reader, mut frames) = (FrameReader::new(), Vec::new());
        loop {
            match reader.next().unwrap() {
                Step::NeedInput => {
                    if reader.fill(&mut input).unwrap() == 0 {
                        return (frames, reader.inside_frame());
                    }
                }
                Step::Header(header) if header.length == 0 => frames.push(Frame { header, payload: vec![] }),
                Step::Header(header) if header.stream_id == 9 => {
                    frames.push(Frame { header, payload: vec![] });
                    reader.skip();
                }
                Step::Header(header) if usize::from(header.length) <= INLINE_MAX => reader.inline(),
                Step::Header(header) => reader.collect(pool.get(usize::from(header.length)).unwrap()),
                Step::Inline(header) => frames.push(Frame { header, payload: reader.payload().to_vec() }),
                Step::Collected(header, buffer) => frames.push(Frame { header, payload: buffer.to_vec() }),
            }
        }
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let length = prop_oneof![3 => 0..40usize, 2 => 0..5000usize, 1 => 4090..4100usize, 1 => 0..65536usize];
        (1..=2u8, 0..=4u8, 0..12u32, length, any::<u8>()).prop_map(|(version, command, id, length, seed)| {
            let payload: Vec<u8> = (0..length).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            Frame::new(version, Command::try_from(command).unwrap(), id, payload).unwrap()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 200 }))]

        #[test]
        fn any_split_gives_the_same_frames(
            sent in prop::collection::vec(frame(), 1..12),
            sizes in prop::collection::vec(prop_oneof![1..9usize, 1..70000usize], 1..8),
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(Frame::encode).collect();
            let (seen, inside) = frames(&bytes, sizes);
            prop_assert!(!inside);
            prop_assert_eq!(seen.len(), sent.len());
            for (seen, mut sent) in seen.into_iter().zip(sent) {
                if sent.header.stream_id == 9 {
                    sent.payload.clear();
                }
                prop_assert!(seen == sent, "{seen} {sent}");
            }
        }

        #[test]
        fn decode_undoes_encode(sent in frame(), rest in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut bytes = sent.encode();
            bytes.extend_from_slice(&rest);
            let (seen, left) = Frame::decode(&bytes).unwrap().unwrap();
            prop_assert_eq!(left, &rest[..]);
            prop_assert!(seen == sent);
            prop_assert!(Frame::decode(&bytes[..sent.encode().len() - 1]).unwrap().is_none());
        }

        #[test]
        fn a_cut_inside_a_frame_is_seen(sent in frame(), cut in any::<prop::sample::Index>()) {
            let bytes = sent.encode();
            let cut = cut.index(bytes.len());
            let (seen, inside) = frames(&bytes[..cut], vec![7]);
            prop_assert_eq!(inside, cut > 0);
            prop_assert!(seen.is_empty() || sent.header.stream_id == 9);
        }
    }
}

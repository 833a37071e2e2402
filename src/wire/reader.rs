//! Cuts a byte stream into frames. The state machine does no I/O, except in [`FrameReader::fill`],
//! which does one read.
//!
//! After each header with a payload, the caller chooses a place for the payload:
//!
//! | call | place |
//! |---|---|
//! | [`skip`](FrameReader::skip) | none, the payload is read and thrown away |
//! | [`take_buffered`](FrameReader::take_buffered) | the reader's own read buffer, for small payloads |
//! | [`prepare`](FrameReader::prepare), then [`collect`](FrameReader::collect) | a pooled buffer |
//!
//! Between the header and that choice the caller may wait for budget.
//!
//! # Reading ahead
//! Bulk data comes as a run of frames of one length. During a run, the reader guesses that the next
//! frames have the same length again. One read asks for the rest of the payload and for several
//! whole frames behind it. Each of these frames is read, with its header, into a separate pooled
//! buffer. If the guess is right, up to eight frames arrive with one system call, each in the place
//! where it belongs. If the guess is wrong, the bytes that were read ahead are copied to the read
//! buffer and parsed from there.
//!
//! # Invariants
//! - The steps that [`FrameReader::next`] returns don't depend on how the reads split the input.
//! - The unparsed input is the read buffer's `start..end`, then the buffers of `ahead` in their
//!   order.
//! - While the transport is read into a payload's buffer, the read buffer and `ahead` are empty.
//! - Empty buffers (`spare`) are held only while a payload is collected.

mod fill;

use std::collections::VecDeque;

use super::header::{Command, HEADER_LEN, Header};
use crate::error::{Error, Result, start_of};
use crate::pool::{Buffer, BufferPool};

/// Size of the read buffer, in bytes. One read returns up to this number of bytes of small frames.
/// A session has a read buffer for its whole life, so this size is part of the cost of an idle
/// session. After a wrong guess the buffer may keep up to [`READ_BUFFER_KEPT`].
const READ_BUFFER: usize = 16 * 1024;

/// Largest capacity that the read buffer keeps after a wrong guess, in bytes. It is room for one
/// frame of the default size (32 KiB and the header). An idle session may keep 64 KiB of memory at
/// most, and the read buffer is the largest part of that.
const READ_BUFFER_KEPT: usize = 2 * READ_BUFFER + 4096;

/// Number of successive payloads of the same length that make a run. Two payloads may have the same
/// length by chance.
const RUN: usize = 3;

/// Largest payload that `take_buffered` accepts, in bytes. A frame with such a payload fits into
/// the read buffer. The caller collects larger payloads.
pub(crate) const SMALL_PAYLOAD_MAX: usize = 4096;

/// Number of bytes that a read asks for behind a collected payload, outside of a run. These bytes
/// are enough for the next header and some small frames. The number is small, so that little of the
/// next large payload has to be copied out of the read buffer.
const LOOKAHEAD: usize = 512;

/// Largest number of frames that are read ahead. With the frame that is collected, one read brings
/// up to eight frames. Eight frames of the default size are as much data as one batch of a sender.
const AHEAD: usize = 7;

enum State {
    Header,
    /// A header was returned. Its payload has no place yet.
    Undecided(Header),
    Buffered(Header),
    Collect {
        header: Header,
        payload: PayloadBuffer,
    },
    Skip {
        left: usize,
    },
}

/// A pooled buffer that holds a payload from `start` on.
#[derive(Debug)]
pub(crate) struct PayloadBuffer {
    pub(crate) buffer: Buffer,
    pub(crate) start: usize,
    /// Bytes of the payload that have come.
    filled: usize,
}

/// Decodes the header at the beginning of the received bytes `come`. Returns `None` if the header
/// isn't complete yet.
///
/// The version is checked first, because the meaning of a command byte depends on it. The version
/// is checked as soon as its byte has come, because a peer of another protocol may send a few bytes
/// and wait.
fn decode(come: &[u8], ours: u8) -> Result<Option<Header>> {
    match come.first() {
        Some(&theirs) if theirs != ours => {
            Err(Error::InvalidVersion { ours, theirs, peer: None, received: start_of(come) })
        }
        _ => come.first_chunk().map(Header::decode).transpose(),
    }
}

/// The result of [`FrameReader::next`].
#[derive(Debug)]
pub(crate) enum Step {
    /// No step is complete. Call `fill`.
    NeedInput,
    /// A header. If its length isn't 0, choose the place of the payload.
    Header(Header),
    /// The payload that was asked for with `take_buffered`. [`FrameReader::payload`] returns it.
    Buffered(Header),
    /// The payload that was asked for with `collect`.
    Collected(Header, PayloadBuffer),
}

pub(crate) struct FrameReader {
    /// The session's protocol version.
    version: u8,
    read_buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where the payload of the last `Buffered` step lies in the read buffer.
    payload: std::ops::Range<usize>,
    state: State,
    /// Buffers that were read ahead, each with its number of filled bytes. Only the last buffer may
    /// be partly filled.
    ahead: VecDeque<(Buffer, usize)>,
    /// Number of bytes that may be read ahead.
    ahead_bytes: usize,
    /// Empty buffers to read ahead into.
    spare: Vec<Buffer>,
    /// The length of the last large payload, and the number of payloads of that length in a row.
    run: (usize, usize),
}

impl FrameReader {
    /// Returns a reader for a session of `version`. It reads at most `ahead_bytes` ahead.
    pub(crate) fn new(version: u8, ahead_bytes: usize) -> Self {
        Self {
            version,
            ahead_bytes,
            read_buffer: vec![0; READ_BUFFER],
            start: 0,
            end: 0,
            payload: 0..0,
            state: State::Header,
            ahead: VecDeque::new(),
            spare: Vec::new(),
            run: (0, 0),
        }
    }

    /// Returns the next step, from the bytes that have been read so far.
    ///
    /// # Errors
    /// Returns `InvalidVersion` for a header of another version, as soon as its first byte has
    /// come. Otherwise returns `InvalidCommand` for a header with an unknown command.
    pub(crate) fn next(&mut self) -> Result<Step> {
        loop {
            let available = self.end - self.start;
            match std::mem::replace(&mut self.state, State::Header) {
                State::Header => {
                    if available == 0
                        && let Some((front, filled)) = self.ahead.front()
                        && let Some(header) = decode(&front[..*filled], self.version)?
                    {
                        // The guess was right if the frame has the length of its buffer. Then no
                        // other frame lies in that buffer.
                        if HEADER_LEN + usize::from(header.length) == front.len() {
                            self.state = State::Undecided(header);
                            return Ok(Step::Header(header));
                        }
                    }
                    if available < HEADER_LEN && !self.ahead.is_empty() {
                        self.spill();
                        continue;
                    }
                    let Some(header) =
                        decode(&self.read_buffer[self.start..self.end], self.version)?
                    else {
                        return Ok(Step::NeedInput);
                    };
                    self.start += HEADER_LEN;
                    if header.length > 0 {
                        self.state = State::Undecided(header);
                    } else {
                        self.run = (0, 0);
                    }
                    return Ok(Step::Header(header));
                }
                State::Buffered(header) => {
                    let length = usize::from(header.length);
                    if available < length {
                        self.state = State::Buffered(header);
                        if self.spill() {
                            continue;
                        }
                        return Ok(Step::NeedInput);
                    }
                    self.payload = self.start..self.start + length;
                    self.start += length;
                    return Ok(Step::Buffered(header));
                }
                State::Collect { header, mut payload } => {
                    let wanted = usize::from(header.length) - payload.filled;
                    let n = available.min(wanted);
                    let at = payload.start + payload.filled;
                    payload.buffer[at..at + n]
                        .copy_from_slice(&self.read_buffer[self.start..self.start + n]);
                    self.start += n;
                    payload.filled += n;
                    if n == wanted {
                        return Ok(Step::Collected(header, payload));
                    }
                    self.state = State::Collect { header, payload };
                    if self.spill() {
                        continue;
                    }
                    return Ok(Step::NeedInput);
                }
                State::Skip { left } => {
                    let n = available.min(left);
                    self.start += n;
                    if n < left {
                        self.state = State::Skip { left: left - n };
                        if self.spill() {
                            continue;
                        }
                        return Ok(Step::NeedInput);
                    }
                }
                // The caller didn't choose a place for the payload. Skipping the payload is safe in
                // any case.
                State::Undecided(header) => {
                    self.state = State::Undecided(header);
                    self.skip();
                }
            }
        }
    }

    /// Copies the bytes that were read ahead to the read buffer. Returns whether there were any.
    fn spill(&mut self) -> bool {
        if self.ahead.is_empty() {
            return false;
        }
        debug_assert_eq!(self.start, self.end, "what is read ahead comes after the read buffer");
        self.read_buffer.clear();
        self.start = 0;
        for (buffer, filled) in self.ahead.drain(..) {
            self.read_buffer.extend_from_slice(&buffer[..filled]);
        }
        self.end = self.read_buffer.len();
        self.read_buffer.resize(self.end.max(READ_BUFFER), 0);
        true
    }

    /// Returns the buffer of the frame whose header was just returned, if the frame was read ahead
    /// into a separate buffer.
    fn adopt(&mut self) -> Option<(Buffer, usize)> {
        if self.start == self.end { self.ahead.pop_front() } else { None }
    }

    /// Reads the payload of the header just returned, and throws it away.
    pub(crate) fn skip(&mut self) {
        if let State::Undecided(header) = self.state {
            let here = self.adopt().map_or(0, |(_, filled)| filled - HEADER_LEN);
            self.state = State::Skip { left: usize::from(header.length) - here };
        }
    }

    /// Puts the payload of the header just returned into the read buffer. The payload has at most
    /// [`SMALL_PAYLOAD_MAX`] bytes.
    pub(crate) fn take_buffered(&mut self) {
        if let State::Undecided(header) = self.state {
            debug_assert!(usize::from(header.length) <= SMALL_PAYLOAD_MAX);
            self.run = (0, 0);
            self.state = State::Buffered(header);
        }
    }

    /// Returns a buffer for the payload of the header just returned. If the payload was read ahead,
    /// the result is the buffer in which the payload lies. Otherwise the result is an empty buffer
    /// from the pool. The caller must pass the buffer to [`collect`](Self::collect) before it calls
    /// `next` again.
    ///
    /// Returns `None` if no header was just returned, or if the pool has no buffer of this size.
    pub(crate) fn prepare(&mut self, pool: &BufferPool) -> Option<PayloadBuffer> {
        let State::Undecided(header) = self.state else { return None };
        let length = usize::from(header.length);
        debug_assert!(
            length > SMALL_PAYLOAD_MAX,
            "a run of small payloads would be read ahead, where `take_buffered` doesn't look"
        );
        if length == self.run.0 {
            self.run.1 += 1;
        } else {
            self.run = (length, 1);
            self.spare.clear();
        }
        match self.adopt() {
            Some((buffer, filled)) => {
                Some(PayloadBuffer { buffer, start: HEADER_LEN, filled: filled - HEADER_LEN })
            }
            None => pool.fit(length).map(|buffer| PayloadBuffer { buffer, start: 0, filled: 0 }),
        }
    }

    /// Gives the empty buffers (`spare`) back to the pool. Called when the caller is about to wait.
    pub(crate) fn rest(&mut self) {
        self.spare.clear();
    }

    /// Collects the payload of the header just returned in the buffer that `prepare` returned.
    pub(crate) fn collect(&mut self, payload: PayloadBuffer) {
        if let State::Undecided(header) = self.state {
            self.state = State::Collect { header, payload };
        }
    }

    /// Returns the payload of the `Buffered` step just returned.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.read_buffer[self.payload.clone()]
    }

    /// Shortens an incomplete data frame to its received part. The next step then returns that
    /// part. Called when the input has ended, because the rest of the frame will never come.
    /// Returns whether there is a received part.
    pub(crate) fn cut_short(&mut self) -> bool {
        let (header, come) = match &mut self.state {
            State::Buffered(header) => (header, self.end - self.start),
            State::Collect { header, payload } => (header, payload.filled),
            State::Header | State::Undecided(_) | State::Skip { .. } => return false,
        };
        if header.command != Command::Psh || come == 0 {
            return false;
        }
        header.length = header.length.min(u16::try_from(come).unwrap_or(u16::MAX));
        true
    }

    /// Returns whether a frame has begun and isn't complete. If the input ends inside a frame, the
    /// input was truncated.
    pub(crate) fn inside_frame(&self) -> bool {
        self.end > self.start || !matches!(self.state, State::Header)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSliceMut, Read};

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

    /// Returns all frames of `data` as the reader sees them. The place of a payload depends only on
    /// its length, except that payloads of stream 9 are skipped.
    fn frames(data: &[u8], sizes: Vec<usize>) -> (Vec<Frame>, bool) {
        let pool = BufferPool::new();
        let mut input = Pieces { data, sizes: sizes.into_iter().cycle() };
        let mut reader = FrameReader::new(1, 1 << 20);
        let mut frames = Vec::new();
        loop {
            match reader.next().unwrap() {
                Step::NeedInput => {
                    if reader.fill(&mut input, &pool).unwrap() == 0 {
                        return (frames, reader.inside_frame());
                    }
                }
                Step::Header(header) if header.length == 0 => {
                    frames.push(Frame { header, payload: vec![] })
                }
                Step::Header(header) if header.stream_id == 9 => {
                    frames.push(Frame { header, payload: vec![] });
                    reader.skip();
                }
                Step::Header(header) if usize::from(header.length) <= SMALL_PAYLOAD_MAX => {
                    reader.take_buffered()
                }
                Step::Header(_) => {
                    let payload = reader.prepare(&pool).unwrap();
                    reader.collect(payload);
                }
                Step::Buffered(header) => {
                    frames.push(Frame { header, payload: reader.payload().to_vec() })
                }
                Step::Collected(header, PayloadBuffer { buffer, start, .. }) => {
                    let payload = buffer[start..start + usize::from(header.length)].to_vec();
                    frames.push(Frame { header, payload });
                }
            }
        }
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let length = prop_oneof![
            3 => 0..40usize,
            2 => 0..5000usize,
            1 => 4090..4100usize,
            1 => 0..65536usize,
            8 => Just(5000usize),
        ];
        (0..=4u8, 0..12u32, length, any::<u8>()).prop_map(|(command, id, length, seed)| {
            let payload: Vec<u8> = (0..length).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            Frame::new(1, Command::try_from(command).unwrap(), id, payload).unwrap()
        })
    }

    /// Input that fills each read as far as there is data, and counts the reads.
    struct Counted<'a> {
        data: &'a [u8],
        reads: usize,
    }

    impl Read for Counted<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.read_vectored(&mut [IoSliceMut::new(buf)])
        }

        fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            self.reads += 1;
            self.data.read_vectored(bufs)
        }
    }

    /// `count` data frames of `length` bytes.
    fn bulk(count: usize, length: usize) -> Vec<u8> {
        (0..count)
            .flat_map(|i| Frame::new(1, Command::Psh, 3, vec![i as u8; length]).unwrap().encode())
            .collect()
    }

    /// Reads `count` frames, each into a separate buffer. Returns the offset of each payload in its
    /// buffer, and the number of reads.
    fn collect(
        reader: &mut FrameReader,
        input: &mut Counted<'_>,
        pool: &BufferPool,
        count: usize,
    ) -> (Vec<usize>, usize) {
        let before = input.reads;
        let mut starts = Vec::new();
        while starts.len() < count {
            match reader.next().unwrap() {
                Step::NeedInput => {
                    assert!(reader.fill(input, pool).unwrap() > 0, "after {} frames", starts.len())
                }
                Step::Header(_) => {
                    let payload = reader.prepare(pool).unwrap();
                    reader.collect(payload);
                }
                Step::Collected(header, PayloadBuffer { buffer, start, .. }) => {
                    let payload = &buffer[start..start + usize::from(header.length)];
                    assert!(payload.iter().all(|byte| *byte == payload[0]));
                    starts.push(start);
                }
                step @ Step::Buffered(_) => panic!("{step:?}"),
            }
        }
        (starts, input.reads - before)
    }

    #[test]
    fn in_a_run_whole_frames_are_read_ahead_to_where_they_belong() {
        let pool = BufferPool::new();
        let bytes = bulk(33, 32768);
        let mut input = Counted { data: &bytes, reads: 0 };
        let mut reader = FrameReader::new(1, 1 << 20);
        let mut next = |n| collect(&mut reader, &mut input, &pool, n);
        // Outside of a run each frame takes one read. The first header takes a further one. A
        // payload whose offset is 8 has its header in front of it, so it was read ahead.
        assert_eq!(next(2), (vec![0, 0], 3));
        // The third frame of one length makes a run. From this frame on, the limit for reading
        // ahead is one frame, and it grows by one with each frame. A frame that was read ahead
        // needs no read, so reads happen at the third, the fifth and the ninth frame. They read
        // one, three and seven frames ahead.
        assert_eq!(next(2), (vec![0, 8], 1));
        assert_eq!(next(4), (vec![0, 8, 8, 8], 2));
        for _ in 0..3 {
            assert_eq!(
                next(8),
                (vec![0, 8, 8, 8, 8, 8, 8, 8], 2),
                "eight frames: a header, and the rest"
            );
        }
        assert_eq!(next(1).0, [0]);
        assert!(!reader.inside_frame());
        assert_eq!(reader.fill(&mut input, &pool).unwrap(), 0);
    }

    #[test]
    fn no_more_is_read_ahead_than_is_allowed() {
        let pool = BufferPool::new();
        for (allowed, ahead) in [(0, 0), (32767, 0), (32768, 1), (100_000, 3)] {
            let bytes = bulk(40, 32768);
            let mut input = Counted { data: &bytes, reads: 0 };
            let mut reader = FrameReader::new(1, allowed);
            collect(&mut reader, &mut input, &pool, 2);
            // Besides `allowed`, the length of the run limits reading ahead. This limit is one
            // frame when the run begins, and grows by one with each frame of the run.
            let (starts, _) = collect(&mut reader, &mut input, &pool, 32);
            let longest = starts.split(|start| *start == 0).map(<[usize]>::len).max();
            assert_eq!(longest, Some(ahead), "{allowed} bytes allowed");
        }
    }

    #[test]
    fn a_run_ends_with_a_frame_of_another_length_or_kind() {
        let small = Frame::new(1, Command::Psh, 3, [1; 10]).unwrap().encode();
        let empty = Frame::new(1, Command::Nop, 0, []).unwrap().encode();
        let longer = bulk(1, 32768 + 1);
        for other in [small, empty, longer] {
            let pool = BufferPool::new();
            let bytes = [bulk(8, 32768), other, bulk(4, 32768)].concat();
            let mut input = Counted { data: &bytes, reads: 0 };
            let mut reader = FrameReader::new(1, 1 << 20);
            collect(&mut reader, &mut input, &pool, 8);
            loop {
                match reader.next().unwrap() {
                    Step::NeedInput => {
                        let _ = reader.fill(&mut input, &pool).unwrap();
                    }
                    Step::Header(header) if header.length == 0 => break,
                    Step::Header(header) if header.length == 10 => reader.take_buffered(),
                    Step::Header(_) => {
                        let payload = reader.prepare(&pool).unwrap();
                        reader.collect(payload);
                    }
                    Step::Buffered(_) | Step::Collected(..) => break,
                }
            }
            // The next frames are read one by one, until the third begins a run.
            let (starts, _) = collect(&mut reader, &mut input, &pool, 4);
            assert_eq!(starts, [0, 0, 0, 8]);
        }
    }

    #[test]
    fn frames_that_were_read_ahead_can_be_skipped_whole_or_in_part() {
        // The input comes at once, or with a cut inside the frames that are read ahead.
        let frame = HEADER_LEN + 32768;
        for cut in [13 * frame, 6 * frame + 100, 6 * frame + 3] {
            let pool = BufferPool::new();
            let bytes = bulk(13, 32768);
            let mut reader = FrameReader::new(1, 1 << 20);
            let mut input = Counted { data: &bytes[..cut], reads: 0 };
            collect(&mut reader, &mut input, &pool, 5);
            // Skip the sixth frame.
            loop {
                match reader.next().unwrap() {
                    Step::Header(_) => break reader.skip(),
                    Step::NeedInput => {
                        let _ = reader.fill(&mut input, &pool).unwrap();
                    }
                    step => panic!("{step:?}"),
                }
            }
            // Skip the seventh frame. Only a part of it has arrived when the input is cut inside
            // it.
            if cut < bytes.len() {
                loop {
                    match reader.next().unwrap() {
                        Step::Header(_) => reader.skip(),
                        Step::NeedInput if reader.fill(&mut input, &pool).unwrap() == 0 => break,
                        Step::NeedInput => {}
                        step => panic!("{step:?}"),
                    }
                }
                assert!(reader.inside_frame());
                input.data = &bytes[cut..];
            }
            let mut seen = Vec::new();
            loop {
                match reader.next().unwrap() {
                    Step::NeedInput if reader.fill(&mut input, &pool).unwrap() == 0 => break,
                    Step::NeedInput => {}
                    Step::Header(_) => {
                        let payload = reader.prepare(&pool).unwrap();
                        reader.collect(payload);
                    }
                    Step::Collected(_, PayloadBuffer { buffer, start, .. }) => {
                        seen.push(buffer[start])
                    }
                    step @ Step::Buffered(_) => panic!("{step:?}"),
                }
            }
            let rest: Vec<u8> = (0..13).collect();
            // If the cut lies inside the seventh frame's header, that header came later, and the
            // frame was collected.
            let first = if cut == 6 * frame + 100 { 7 } else { 6 };
            assert_eq!(seen, rest[first..], "cut at {cut}");
        }
    }

    #[test]
    fn a_header_that_was_not_chosen_for_is_read_past() {
        let pool = BufferPool::new();
        let bytes = [bulk(1, 5000), Frame::update(3, 1, 2).encode()].concat();
        let bytes: Vec<u8> = bytes.into_iter().collect();
        let mut input = &bytes[..5008];
        let mut reader = FrameReader::new(1, 1 << 20);
        reader.fill(&mut input, &pool).unwrap();
        assert!(matches!(reader.next().unwrap(), Step::Header(header) if header.length == 5000));
        assert!(reader.inside_frame());
        assert!(matches!(reader.next().unwrap(), Step::NeedInput));
        assert!(!reader.inside_frame());
    }

    #[test]
    fn buffers_that_nothing_was_read_into_can_be_let_go_of() {
        let pool = BufferPool::new();
        let bytes = bulk(20, 32768);
        let frame = HEADER_LEN + 32768;
        // The input ends inside the ninth payload. Seven empty buffers wait behind it.
        let mut input = Counted { data: &bytes[..8 * frame + 100], reads: 0 };
        let mut reader = FrameReader::new(1, 1 << 20);
        collect(&mut reader, &mut input, &pool, 8);
        let payload = loop {
            match reader.next().unwrap() {
                Step::NeedInput => {
                    let _ = reader.fill(&mut input, &pool).unwrap();
                }
                Step::Header(_) => break reader.prepare(&pool).unwrap(),
                step => panic!("{step:?}"),
            }
        };
        reader.collect(payload);
        assert!(matches!(reader.next().unwrap(), Step::NeedInput));
        assert_eq!(reader.fill(&mut input, &pool).unwrap(), 92);
        let held = pool.idle();
        reader.rest();
        assert_eq!(pool.idle(), held + 7);
        // A read of a header may wait long. The empty buffers are also given back before such a
        // read.
        input.data = &bytes[8 * frame + 100..9 * frame];
        collect(&mut reader, &mut input, &pool, 1);
        let held = pool.idle();
        assert!(matches!(reader.next().unwrap(), Step::NeedInput));
        assert_eq!(reader.fill(&mut input, &pool).unwrap(), 0);
        assert_eq!(pool.idle(), held + 7);
    }

    #[test]
    fn a_read_buffer_that_a_wrong_guess_made_grow_a_little_is_kept() {
        let pool = BufferPool::new();
        let small = Frame::new(1, Command::Psh, 3, [1; 10]).unwrap().encode();
        let bytes = [bulk(5, 32768), small.repeat(20_000)].concat();
        let mut input = Counted { data: &bytes, reads: 0 };
        let mut reader = FrameReader::new(1, 32768); // at most one frame ahead
        collect(&mut reader, &mut input, &pool, 5);
        loop {
            match reader.next().unwrap() {
                Step::NeedInput if reader.fill(&mut input, &pool).unwrap() == 0 => break,
                Step::NeedInput => {}
                Step::Header(_) => reader.take_buffered(),
                Step::Buffered(_) => {}
                step @ Step::Collected(..) => panic!("{step:?}"),
            }
        }
        assert_eq!(reader.read_buffer.len(), READ_BUFFER);
        assert!(
            (2 * READ_BUFFER..=4 * READ_BUFFER).contains(&reader.read_buffer.capacity()),
            "{}",
            reader.read_buffer.capacity()
        );
    }

    #[test]
    fn a_read_buffer_that_a_wrong_guess_made_grow_is_given_back() {
        let pool = BufferPool::new();
        let small = Frame::new(1, Command::Psh, 3, [1; 10]).unwrap().encode();
        let many = small.len() * 20_000;
        let bytes = [bulk(9, 32768), small.repeat(20_000)].concat();
        let mut input = Counted { data: &bytes, reads: 0 };
        let mut reader = FrameReader::new(1, 1 << 20);
        collect(&mut reader, &mut input, &pool, 9);
        let mut seen = 0;
        let mut largest = 0;
        loop {
            match reader.next().unwrap() {
                Step::NeedInput if reader.fill(&mut input, &pool).unwrap() == 0 => break,
                Step::NeedInput => {}
                Step::Header(_) => reader.take_buffered(),
                Step::Buffered(_) => seen += reader.payload().len() + HEADER_LEN,
                step @ Step::Collected(..) => panic!("{step:?}"),
            }
            largest = largest.max(reader.read_buffer.capacity());
        }
        assert_eq!(seen, many);
        assert!(largest > READ_BUFFER_KEPT, "{largest}: the guess was wrong by seven frames");
        assert_eq!(
            (reader.read_buffer.len(), reader.read_buffer.capacity()),
            (READ_BUFFER, READ_BUFFER)
        );
    }

    #[test]
    fn the_rest_of_a_frame_moves_when_the_next_might_not_fit_behind_it() {
        let room = HEADER_LEN + SMALL_PAYLOAD_MAX;
        for (start, moves) in [(READ_BUFFER - room, false), (READ_BUFFER - room + 1, true)] {
            let pool = BufferPool::new();
            let bytes = [bulk(1, start - HEADER_LEN), bulk(1, 100)].concat();
            let (mut first, mut rest) = bytes.split_at(start + 3);
            let mut reader = FrameReader::new(1, 1 << 20);
            assert_eq!(reader.fill(&mut first, &pool).unwrap(), start + 3);
            assert!(matches!(reader.next().unwrap(), Step::Header(_)));
            reader.skip();
            assert!(matches!(reader.next().unwrap(), Step::NeedInput));
            assert_eq!((reader.start, reader.end), (start, start + 3));
            reader.fill(&mut rest, &pool).unwrap();
            assert_eq!(reader.start, if moves { 0 } else { start });
            assert!(matches!(reader.next().unwrap(), Step::Header(header) if header.length == 100));
        }
    }

    #[test]
    fn outside_of_a_run_little_is_read_beyond_a_payload() {
        let pool = BufferPool::new();
        let bytes = bulk(3, 32768);
        let mut input = Counted { data: &bytes, reads: 0 };
        let mut reader = FrameReader::new(1, 1 << 20);
        collect(&mut reader, &mut input, &pool, 1);
        assert_eq!(bytes.len() - input.data.len(), HEADER_LEN + 32768 + LOOKAHEAD);
        assert!(reader.inside_frame(), "the next one's beginning");
    }

    #[test]
    fn small_frames_come_a_read_buffer_at_a_time() {
        let small = Frame::new(1, Command::Psh, 3, [1; 100]).unwrap().encode();
        let pool = BufferPool::new();
        let bytes = small.repeat(3000);
        let mut input = Counted { data: &bytes, reads: 0 };
        let mut reader = FrameReader::new(1, 1 << 20);
        let mut seen = 0;
        loop {
            match reader.next().unwrap() {
                Step::NeedInput if reader.fill(&mut input, &pool).unwrap() == 0 => break,
                Step::NeedInput => {}
                Step::Header(_) => reader.take_buffered(),
                Step::Buffered(header) => {
                    assert_eq!(reader.payload(), [1; 100]);
                    seen += usize::from(header.length);
                }
                step @ Step::Collected(..) => panic!("{step:?}"),
            }
        }
        assert_eq!(seen, 300_000);
        // A frame that is cut at the read buffer's end moves to the buffer's beginning. The rest of
        // each read is new data.
        let least = bytes.len() / READ_BUFFER + 1;
        assert!((least..=least + 2).contains(&input.reads), "{} reads", input.reads);
    }

    #[test]
    fn another_version_is_said_to_be_that_whatever_its_command() {
        for bytes in [[2, 1, 0, 0, 0, 0, 0, 0], [3, 99, 0, 0, 0, 0, 0, 0]] {
            let mut reader = FrameReader::new(1, 1 << 20);
            reader.fill(&mut &bytes[..], &BufferPool::new()).unwrap();
            match reader.next() {
                Err(Error::InvalidVersion { ours: 1, theirs, .. }) => assert_eq!(theirs, bytes[0]),
                other => panic!("{other:?}"),
            }
        }
    }

    /// A shell's prompt is shorter than a header, and no byte follows it.
    #[test]
    fn another_version_is_said_as_soon_as_its_byte_is_there() {
        let mut reader = FrameReader::new(1, 1 << 20);
        reader.fill(&mut &b"$ "[..], &BufferPool::new()).unwrap();
        match reader.next() {
            Err(Error::InvalidVersion { theirs: b'$', received, .. }) => {
                assert_eq!(&received[..], b"$ ")
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(
            ProptestConfig::default().cases.min(if cfg!(miri) { 4 } else { 200 })
        ))]

        #[test]
        fn any_split_gives_the_same_frames(
            sent in prop::collection::vec(frame(), 1..30),
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
        fn decode_undoes_encode(
            sent in frame(),
            rest in prop::collection::vec(any::<u8>(), 0..20),
        ) {
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

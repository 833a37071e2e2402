//! Lays frames out for the transport. A large payload stays in the buffer into which the
//! application's `write` has copied it. Its header is put in front of it in the same buffer. Small
//! payloads and control frames are gathered in one scratch buffer. Vectored writes send all these
//! buffers.
//!
//! # Invariants
//! - Bytes are sent in the order in which the frames were pushed.
//! - After a partial write the batch continues with the next unsent byte.
//! - A segment is never empty.

use std::io::{self, IoSlice, Write};

use super::header::{HEADER_LEN, Header};
use crate::pool::Buffer;

/// Size at which a batch is full, in bytes. Eight frames of the default size (32 KiB) fill a batch.
/// A socket's send buffer accepts about this number of bytes at once.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;

/// Number of segments at which a batch is full. The last stream that transmits into a batch may add
/// segments beyond this number. So one write sends up to 64 segments, four more than this number.
/// Any further segments are sent with the next write. 64 is far below 1024, the systems' limit for
/// one `writev`.
pub(crate) const BATCH_SEGMENTS: usize = 60;

/// Longest payload of a frame buffer, in bytes, that is copied into the scratch buffer. Up to this
/// length the copy costs less than a further segment.
const SCRATCH_MAX: usize = 1024;

/// Scratch memory that an idle batch keeps, in bytes: one page.
const SCRATCH_KEPT: usize = 4096;

enum Segment {
    /// A part of the scratch buffer, of this length. It begins where the previous scratch segment
    /// ends.
    Scratch(usize),
    /// A whole frame in a separate buffer.
    Frame(Buffer),
}

/// Frames on their way to the transport.
#[derive(Default)]
pub(crate) struct Batch {
    segments: Vec<Segment>,
    scratch: Vec<u8>,
    /// Unsent bytes.
    left: usize,
    /// Index of the first segment with unsent bytes.
    segment: usize,
    /// Number of bytes of the segment at `segment` that are sent.
    sent: usize,
    /// Offset at which the next scratch segment begins.
    scratch_at: usize,
}

impl Batch {
    /// Returns the number of unsent bytes.
    pub(crate) fn len(&self) -> usize {
        self.left
    }

    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Returns whether the batch should be sent before another frame is pushed.
    pub(crate) fn is_full(&self) -> bool {
        self.left >= BATCH_BYTES || self.segments.len() >= BATCH_SEGMENTS
    }

    /// Returns whether the batch keeps more memory than an idle session should keep.
    pub(crate) fn is_heavy(&self) -> bool {
        self.scratch.capacity() > SCRATCH_KEPT || self.segments.capacity() > 2 * BATCH_SEGMENTS
    }

    /// Frees the memory that a burst of data has needed.
    pub(crate) fn rest(&mut self) {
        self.scratch.shrink_to(SCRATCH_KEPT);
        self.segments.shrink_to(BATCH_SEGMENTS);
    }

    /// Appends a frame whose payload is copied.
    pub(crate) fn push_small(&mut self, header: Header, payload: &[u8]) {
        let n = HEADER_LEN + payload.len();
        self.scratch.extend_from_slice(&header.encode());
        self.scratch.extend_from_slice(payload);
        self.left += n;
        match self.segments.last_mut() {
            Some(Segment::Scratch(len)) => *len += n,
            _ => self.segments.push(Segment::Scratch(n)),
        }
    }

    /// Appends a frame. `frame` holds the payload from byte 8 on. The header is written to the
    /// first 8 bytes.
    pub(crate) fn push_frame(&mut self, header: Header, mut frame: Buffer) {
        match frame.split_first_chunk_mut::<HEADER_LEN>() {
            Some((head, payload)) if payload.len() > SCRATCH_MAX => {
                *head = header.encode();
                self.left += frame.len();
                self.segments.push(Segment::Frame(frame));
            }
            Some((_, payload)) => self.push_small(header, payload),
            None => debug_assert!(false, "a frame buffer is longer than its header"),
        }
    }

    /// Does one write and returns its byte count. When all bytes are sent, the batch is empty and
    /// can be filled again.
    ///
    /// # Errors
    /// Returns the transport's error, or `WriteZero` if the transport takes no bytes.
    pub(crate) fn write_to(&mut self, output: &mut (impl Write + ?Sized)) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); BATCH_SEGMENTS + 4];
        let mut count = 0;
        let mut skip = self.sent;
        let mut scratch_at = self.scratch_at;
        for (slice, segment) in slices.iter_mut().zip(&self.segments[self.segment..]) {
            let bytes = match segment {
                Segment::Frame(frame) => &frame[..],
                Segment::Scratch(len) => {
                    scratch_at += len;
                    &self.scratch[scratch_at - len..scratch_at]
                }
            };
            *slice = IoSlice::new(&bytes[skip..]);
            skip = 0;
            count += 1;
        }
        let n = output.write_vectored(&slices[..count])?;
        if n == 0 && self.left > 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let n = n.min(self.left);
        self.advance(n);
        Ok(n)
    }

    fn advance(&mut self, mut n: usize) {
        self.left -= n;
        if self.left == 0 {
            // Buffers return to the pool here, after the write.
            self.segments.clear();
            self.scratch.clear();
            self.segment = 0;
            self.sent = 0;
            self.scratch_at = 0;
            return;
        }
        while let Some(segment) = self.segments.get(self.segment) {
            let len = match segment {
                Segment::Scratch(len) => *len,
                Segment::Frame(frame) => frame.len(),
            };
            if self.sent + n < len {
                self.sent += n;
                return;
            }
            n -= len - self.sent;
            if let Segment::Scratch(len) = segment {
                self.scratch_at += len;
            }
            self.segment += 1;
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::BufferPool;
    use crate::wire::{Command, Frame};
    use proptest::prelude::*;

    /// Output that accepts pieces of given sizes.
    struct Pieces {
        data: Vec<u8>,
        sizes: std::iter::Cycle<std::vec::IntoIter<usize>>,
    }

    impl Write for Pieces {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(buf)])
        }

        fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            assert!(bufs.iter().all(|buf| !buf.is_empty()), "a segment is never empty");
            let mut left = self.sizes.next().unwrap();
            let before = self.data.len();
            for buf in bufs {
                let n = left.min(buf.len());
                self.data.extend_from_slice(&buf[..n]);
                left -= n;
            }
            Ok(self.data.len() - before)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn partial_writes_lose_and_repeat_nothing(
            lengths in prop::collection::vec(
                prop_oneof![0..30usize, 1020..1030usize, 0..40000usize],
                1..50,
            ),
            sizes in prop::collection::vec(prop_oneof![1..20usize, 1..100_000usize], 1..6),
        ) {
            let pool = BufferPool::new();
            let mut batch = Batch::default();
            let mut expected = Vec::new();
            let mut output = Pieces { data: Vec::new(), sizes: sizes.into_iter().cycle() };
            for round in 0..2 {
                for (id, &length) in lengths.iter().enumerate() {
                    let payload: Vec<u8> = (0..length).map(|i| (i + id + round) as u8).collect();
                    let frame = Frame::new(1, Command::Psh, id as u32, payload.clone()).unwrap();
                    expected.extend(frame.encode());
                    if length % 2 == 0 || length == 0 {
                        batch.push_small(frame.header, &payload);
                    } else {
                        let mut buffer = pool.frame(length);
                        buffer[HEADER_LEN..].copy_from_slice(&payload);
                        batch.push_frame(frame.header, buffer);
                    }
                }
                while !batch.is_empty() {
                    batch.write_to(&mut output).unwrap();
                }
            }
            prop_assert!(output.data == expected);
        }
    }

    /// A header for `length` bytes of data.
    fn header(length: usize) -> Header {
        Header { version: 1, command: Command::Psh, length: length as u16, stream_id: 3 }
    }

    fn push(batch: &mut Batch, pool: &BufferPool, length: usize) {
        batch.push_frame(header(length), pool.frame(length));
    }

    #[test]
    fn a_batch_counts_what_is_left_to_send() {
        let pool = BufferPool::new();
        let mut batch = Batch::default();
        assert_eq!((batch.is_empty(), batch.len(), batch.segments()), (true, 0, 0));
        batch.push_small(header(10), &[0; 10]);
        push(&mut batch, &pool, 2000);
        assert_eq!((batch.len(), batch.segments(), batch.is_empty()), (18 + 2008, 2, false));
        let mut output = Pieces { data: Vec::new(), sizes: vec![20, 10_000].into_iter().cycle() };
        assert_eq!(batch.write_to(&mut output).unwrap(), 20);
        assert_eq!((batch.len(), batch.is_empty()), (2006, false));
        assert_eq!(batch.write_to(&mut output).unwrap(), 2006);
        assert_eq!((batch.is_empty(), batch.len(), batch.segments()), (true, 0, 0));
    }

    #[test]
    fn an_idle_batch_gives_back_what_a_burst_needed() {
        let pool = BufferPool::new();
        let mut batch = Batch::default();
        batch.push_small(header(100), &[0; 100]);
        assert!(!batch.is_heavy(), "little is kept");
        for _ in 0..1000 {
            push(&mut batch, &pool, 2000);
            batch.push_small(header(100), &[0; 100]);
        }
        let mut output = Pieces { data: Vec::new(), sizes: vec![usize::MAX].into_iter().cycle() };
        while !batch.is_empty() {
            batch.write_to(&mut output).unwrap();
        }
        assert!(batch.is_heavy(), "a busy one keeps it");
        batch.rest();
        assert!(!batch.is_heavy());
        assert_eq!(
            (batch.scratch.capacity(), batch.segments.capacity()),
            (SCRATCH_KEPT, BATCH_SEGMENTS)
        );
    }

    #[test]
    fn small_payloads_share_a_segment_and_large_ones_stay_where_they_are() {
        let pool = BufferPool::new();
        let mut batch = Batch::default();
        for length in [1, 1024, 500, 1025, 1024, 3] {
            push(&mut batch, &pool, length);
        }
        assert_eq!(batch.segments(), 3, "three small ones, a large one, two small ones");
    }

    #[test]
    fn a_batch_is_full_by_its_bytes_or_by_its_segments() {
        let pool = BufferPool::new();
        let mut batch = Batch::default();
        for _ in 0..7 {
            push(&mut batch, &pool, 32768);
        }
        let left = BATCH_BYTES - batch.len() - HEADER_LEN;
        push(&mut batch, &pool, left - 1);
        assert!(!batch.is_full() && batch.len() == BATCH_BYTES - 1);
        let mut batch = Batch::default();
        push(&mut batch, &pool, 65535);
        for _ in 0..5 {
            push(&mut batch, &pool, 32768);
        }
        let left = BATCH_BYTES - batch.len() - HEADER_LEN;
        push(&mut batch, &pool, left);
        assert!(batch.is_full() && batch.len() == BATCH_BYTES);
        let mut batch = Batch::default();
        for _ in 0..BATCH_SEGMENTS - 1 {
            push(&mut batch, &pool, 2000);
        }
        assert!(!batch.is_full());
        push(&mut batch, &pool, 2000);
        assert!(batch.is_full() && batch.len() < BATCH_BYTES);
    }

    #[test]
    fn a_batch_leaves_in_one_write_where_the_transport_takes_it() {
        let pool = BufferPool::new();
        let mut batch = Batch::default();
        for _ in 0..BATCH_SEGMENTS {
            push(&mut batch, &pool, 2000);
        }
        let all = batch.len();
        let mut output = Pieces { data: Vec::new(), sizes: vec![usize::MAX].into_iter().cycle() };
        assert_eq!(batch.write_to(&mut output).unwrap(), all);
        assert!(batch.is_empty());
    }

    #[test]
    fn what_does_not_fit_one_write_goes_out_with_the_next() {
        let pool = BufferPool::new();
        let mut batch = Batch::default();
        for _ in 0..BATCH_SEGMENTS + 10 {
            push(&mut batch, &pool, 2000);
        }
        let mut output = Pieces { data: Vec::new(), sizes: vec![usize::MAX].into_iter().cycle() };
        assert_eq!(batch.write_to(&mut output).unwrap(), (BATCH_SEGMENTS + 4) * 2008);
        assert_eq!(batch.write_to(&mut output).unwrap(), 6 * 2008);
        assert!(batch.is_empty());
    }

    #[test]
    fn a_write_that_ends_with_a_segment_is_continued_with_the_next() {
        let pool = BufferPool::new();
        let mut batch = Batch::default();
        for _ in 0..3 {
            push(&mut batch, &pool, 2000);
            batch.push_small(header(10), &[0; 10]);
        }
        let mut output = Pieces { data: Vec::new(), sizes: vec![2008, 18].into_iter().cycle() };
        for _ in 0..3 {
            assert_eq!(batch.write_to(&mut output).unwrap(), 2008);
            assert_eq!(batch.write_to(&mut output).unwrap(), 18);
        }
        assert!(batch.is_empty());
    }

    #[test]
    fn a_transport_that_boasts_is_not_believed() {
        struct Boasts;
        impl Write for Boasts {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Ok(1_000_000)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut batch = Batch::default();
        batch.push_small(header(3), b"abc");
        assert_eq!(batch.write_to(&mut Boasts).unwrap(), 11);
        assert!(batch.is_empty());
    }

    #[test]
    fn a_transport_that_takes_nothing_is_an_error() {
        let mut batch = Batch::default();
        let header = Header { version: 1, command: Command::Nop, length: 0, stream_id: 0 };
        batch.push_small(header, &[]);
        let mut full = Pieces { data: Vec::new(), sizes: vec![0].into_iter().cycle() };
        assert_eq!(
            Batch::default().write_to(&mut full).unwrap(),
            0,
            "unless there is nothing to take"
        );
        assert_eq!(batch.write_to(&mut full).unwrap_err().kind(), io::ErrorKind::WriteZero);
    }
}

//! The two queues of a stream: received data that waits for the application, and accepted data that waits for the writer.
//!
//! Both hold pooled buffers and merge small pieces into their last one. A received chunk carries its *charge*, a value that
//! refunds the session's budget when it is dropped; what that is, is the layer above's business.
//!
//! Invariants: no chunk is empty; a queue's `len` is the sum over its chunks; what a received chunk occupies is charged, not what it
//! holds; a small tail doesn't pin a large buffer.

use std::collections::VecDeque;

use crate::pool::{Buffer, BufferPool};
use crate::wire::HEADER_LEN;

/// What a chunk costs beside its buffer, in bytes: its place in the queue, and the allocator's overhead. It is charged too, so that
/// one-byte chunks don't come free.
pub(crate) const CHUNK_OVERHEAD: usize = 64;

/// The smallest buffer that small payloads are merged into, in bytes.
const SMALLEST_CHUNK: usize = 64;

/// The largest buffer that small payloads are merged into, in bytes.
const LARGEST_MERGE: usize = 16 * 1024;

/// A chunk's tail is moved to a smaller buffer when it is the last data and has fallen below one part in so many of its
/// buffer: a move costs at most this fraction of the copy that `read` makes anyway.
const TAIL_FRACTION: usize = 8;

/// Buffers below this size, in bytes, are never worth moving a tail out of.
const TAIL_WORTHWHILE: usize = 2048;

/// A queue that has become empty keeps its own memory up to so many places of 56 bytes: enough for what waits while both ends keep up, so that a
/// busy stream doesn't allocate, and little enough for a hundred thousand idle ones that have seen a burst.
const KEPT_PLACES: usize = 32;

/// Makes the first place of a queue one place, not the four that a `VecDeque` begins with: most streams have no more than one message waiting, and keep the place
/// when they are idle.
#[inline]
fn first_place<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() == 0 {
        queue.reserve_exact(1);
    }
}

/// A piece of received data.
#[derive(Debug)]
pub(crate) struct Chunk<C> {
    buffer: Buffer,
    start: usize,
    end: usize,
    /// Refunds the budget when the chunk is dropped.
    _charge: C,
}

/// What a buffer for a chunk of `n` bytes is to be charged, in bytes.
pub(crate) fn charge_for(buffer: &Buffer) -> usize {
    buffer.capacity() + CHUNK_OVERHEAD
}

impl<C> Chunk<C> {
    /// A chunk of `len` bytes of `buffer` from `start` on, which is charged by `charge`.
    pub(crate) fn new(mut buffer: Buffer, start: usize, len: usize, charge: C) -> Self {
        buffer.set_len(buffer.capacity());
        let end = (start + len).min(buffer.len());
        Self { buffer, start: start.min(end), end, _charge: charge }
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Marks the first `n` bytes as read.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// Copies what fits into `out`, and marks it as read.
    pub(crate) fn copy_to(&mut self, out: &mut [u8]) -> usize {
        let n = self.len().min(out.len());
        out[..n].copy_from_slice(&self.data()[..n]);
        self.consume(n);
        n
    }
}

/// Received data.
#[derive(Debug)]
pub(crate) struct Inbox<C> {
    chunks: VecDeque<Chunk<C>>,
    len: usize,
}

impl<C> Inbox<C> {
    pub(crate) fn new() -> Self {
        Self { chunks: VecDeque::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the data occupies of the budget, in bytes.
    pub(crate) fn occupied(&self) -> usize {
        self.chunks.iter().map(|chunk| charge_for(&chunk.buffer)).sum()
    }

    /// Copies as much of `data` as the last chunk has room for; returns the count. That room is charged already.
    pub(crate) fn merge(&mut self, data: &[u8]) -> usize {
        let Some(last) = self.chunks.back_mut() else { return 0 };
        let room = &mut last.buffer[last.end..];
        let n = room.len().min(data.len());
        room[..n].copy_from_slice(&data[..n]);
        last.end += n;
        self.len += n;
        n
    }

    /// The size of the buffer for `n` more small bytes that `merge` had no room for: as much again as is queued already, within
    /// bounds, so that a stream that nobody reads wastes at most half.
    pub(crate) fn merge_size(&self, n: usize) -> usize {
        n.max(self.len.clamp(SMALLEST_CHUNK, LARGEST_MERGE))
    }

    pub(crate) fn push(&mut self, chunk: Chunk<C>) {
        if chunk.len() > 0 {
            self.len += chunk.len();
            first_place(&mut self.chunks);
            self.chunks.push_back(chunk);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Chunk<C>> {
        let chunk = self.chunks.pop_front()?;
        self.len -= chunk.len();
        if self.chunks.is_empty() {
            self.chunks.shrink_to(KEPT_PLACES);
        }
        Some(chunk)
    }

    /// Puts what is left of a chunk back to the head.
    pub(crate) fn unpop(&mut self, chunk: Chunk<C>) {
        if chunk.len() > 0 {
            self.len += chunk.len();
            self.chunks.push_front(chunk);
        }
    }

    /// Moves the rest of the data, if it is a small tail of a large buffer, to a small buffer; `charge` charges it. Returns the
    /// large one, for the caller to drop.
    pub(crate) fn release_tail(&mut self, pool: &BufferPool, charge: impl FnOnce(usize) -> C) -> Option<Chunk<C>> {
        let (1, Some(last)) = (self.chunks.len(), self.chunks.front_mut()) else { return None };
        let capacity = last.buffer.capacity();
        if capacity < TAIL_WORTHWHILE || last.len() * TAIL_FRACTION > capacity {
            return None;
        }
        let mut buffer = pool.get(last.len().max(SMALLEST_CHUNK))?;
        let len = last.len();
        buffer[..len].copy_from_slice(last.data());
        let charge = charge(charge_for(&buffer));
        Some(std::mem::replace(last, Chunk::new(buffer, 0, len, charge)))
    }

    /// Takes everything out, for the caller to drop.
    pub(crate) fn clear(&mut self) -> VecDeque<Chunk<C>> {
        self.len = 0;
        std::mem::take(&mut self.chunks)
    }
}

/// Data for one frame: a pooled buffer with room for the header in front.
#[derive(Debug)]
pub(crate) struct Payload {
    buffer: Buffer,
    end: usize,
}

impl Payload {
    /// A payload with room for `room` bytes.
    pub(crate) fn with_room(pool: &BufferPool, room: usize) -> Self {
        let mut buffer = pool.frame(room);
        buffer.set_len(buffer.capacity());
        Self { buffer, end: HEADER_LEN }
    }

    /// Copies what fits below `max` bytes in all; returns the count.
    #[inline]
    pub(crate) fn append(&mut self, data: &[u8], max: usize) -> usize {
        let room = max.min(self.buffer.len() - HEADER_LEN).saturating_sub(self.len());
        let n = room.min(data.len());
        self.buffer[self.end..self.end + n].copy_from_slice(&data[..n]);
        self.end += n;
        n
    }

    pub(crate) fn len(&self) -> usize {
        self.end - HEADER_LEN
    }

    /// The buffer, cut to the header's place and the payload.
    pub(crate) fn into_buffer(mut self) -> Buffer {
        self.buffer.set_len(self.end);
        self.buffer
    }
}

/// The first buffer for small writes has room for so many bytes; once something waits, writes merge into whole frames.
const FIRST_MERGE: usize = 1024;

/// Accepted data.
#[derive(Debug)]
pub(crate) struct Outbox {
    payloads: VecDeque<Payload>,
    len: usize,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { payloads: VecDeque::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Length of the first payload, 0 if there is none.
    pub(crate) fn front_len(&self) -> usize {
        self.payloads.front().map_or(0, Payload::len)
    }

    /// Merges `data` into the last payload, and into new ones of at most `max_frame` bytes.
    #[inline]
    pub(crate) fn append(&mut self, mut data: &[u8], max_frame: usize, pool: &BufferPool) {
        self.len += data.len();
        if let Some(last) = self.payloads.back_mut() {
            let n = last.append(data, max_frame);
            data = &data[n..];
        }
        while !data.is_empty() {
            let room = if self.payloads.is_empty() { data.len().max(FIRST_MERGE) } else { max_frame };
            let mut payload = Payload::with_room(pool, room.min(max_frame));
            let n = payload.append(data, max_frame);
            data = &data[n..];
            first_place(&mut self.payloads);
            self.payloads.push_back(payload);
        }
    }

    pub(crate) fn push(&mut self, payload: Payload) {
        if payload.len() > 0 {
            self.len += payload.len();
            first_place(&mut self.payloads);
            self.payloads.push_back(payload);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Payload> {
        let payload = self.payloads.pop_front()?;
        self.len -= payload.len();
        if self.payloads.is_empty() {
            self.payloads.shrink_to(KEPT_PLACES);
        }
        Some(payload)
    }

    /// Takes everything out, for the caller to drop.
    pub(crate) fn clear(&mut self) -> VecDeque<Payload> {
        self.len = 0;
        std::mem::take(&mut self.payloads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(pool: &BufferPool, data: &[u8]) -> Chunk<usize> {
        let mut buffer = pool.get(data.len()).unwrap();
        buffer[..data.len()].copy_from_slice(data);
        let charge = charge_for(&buffer);
        Chunk::new(buffer, 0, data.len(), charge)
    }

    #[test]
    fn small_pieces_merge_and_occupy_at_most_a_small_multiple() {
        let (pool, mut inbox) = (BufferPool::new(), Inbox::<usize>::new());
        for i in 0..100_000usize {
            let byte = [i as u8];
            if inbox.merge(&byte) == 0 {
                let mut buffer = pool.get(inbox.merge_size(1)).unwrap();
                buffer[0] = byte[0];
                let charge = charge_for(&buffer);
                inbox.push(Chunk::new(buffer, 0, 1, charge));
            }
        }
        assert_eq!(inbox.len(), 100_000);
        assert!(inbox.occupied() < 2 * 100_000, "{}", inbox.occupied());
        let mut out = vec![0; 100_000];
        let mut at = 0;
        while let Some(mut chunk) = inbox.pop() {
            at += chunk.copy_to(&mut out[at..]);
        }
        assert!(out.iter().enumerate().all(|(i, &b)| b == i as u8));
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_chunk_goes_back_to_the_head() {
        let (pool, mut inbox) = (BufferPool::new(), Inbox::new());
        inbox.push(chunk(&pool, b"abc"));
        inbox.push(chunk(&pool, b"def"));
        let mut first = inbox.pop().unwrap();
        first.consume(2);
        inbox.unpop(first);
        assert_eq!(inbox.len(), 4);
        assert_eq!(inbox.pop().unwrap().data(), b"c");
        assert_eq!(inbox.pop().unwrap().data(), b"def");
    }

    #[test]
    fn a_small_tail_leaves_its_large_buffer() {
        let (pool, mut inbox) = (BufferPool::new(), Inbox::new());
        inbox.push(chunk(&pool, &[7; 32768]));
        assert!(inbox.release_tail(&pool, |n| n).is_none());
        let mut big = inbox.pop().unwrap();
        big.consume(32768 - 100);
        inbox.unpop(big);
        let big = inbox.release_tail(&pool, |n| n).unwrap();
        assert_eq!(big._charge, 32768 + CHUNK_OVERHEAD);
        assert_eq!(inbox.occupied(), 128 + CHUNK_OVERHEAD);
        assert_eq!(inbox.pop().unwrap().data(), &[7; 100]);
    }

    #[test]
    fn small_writes_merge_into_frames_and_large_ones_stay_whole() {
        let (pool, mut outbox) = (BufferPool::new(), Outbox::new());
        for _ in 0..100_000 {
            outbox.append(&[1], 32768, &pool);
        }
        let mut large = Payload::with_room(&pool, 500);
        assert_eq!(large.append(&[2; 500], 32768), 500);
        outbox.push(large);
        let mut lengths = Vec::new();
        while let Some(payload) = outbox.pop() {
            lengths.push(payload.len());
            assert!(payload.into_buffer().len() <= 32768 + HEADER_LEN);
        }
        assert_eq!(lengths.iter().sum::<usize>(), 100_500);
        assert!(lengths.len() <= 6, "{lengths:?}");
    }

    #[test]
    fn a_frame_never_exceeds_the_maximum() {
        let (pool, mut outbox) = (BufferPool::new(), Outbox::new());
        outbox.append(&[9; 40], 16, &pool);
        let lengths: Vec<_> = std::iter::from_fn(|| outbox.pop()).map(|p| p.len()).collect();
        assert_eq!(lengths, [16, 16, 8]);
    }

    fn payload(pool: &BufferPool, data: &[u8]) -> Payload {
        let mut payload = Payload::with_room(pool, data.len().max(1));
        assert_eq!(payload.append(data, 65535), data.len());
        payload
    }

    #[test]
    fn no_chunk_and_no_payload_is_empty() {
        let (pool, mut inbox, mut outbox) = (BufferPool::new(), Inbox::new(), Outbox::new());
        inbox.push(Chunk::new(pool.get(10).unwrap(), 3, 0, 0));
        assert!(inbox.is_empty() && inbox.pop().is_none());
        outbox.push(payload(&pool, &[]));
        assert!(outbox.is_empty() && outbox.pop().is_none());
    }

    #[test]
    fn a_queue_counts_what_is_in_it_and_lets_go_of_all_of_it() {
        let (pool, mut inbox, mut outbox) = (BufferPool::new(), Inbox::new(), Outbox::new());
        assert_eq!((inbox.len(), outbox.len(), outbox.front_len()), (0, 0, 0));
        inbox.push(chunk(&pool, b"abc"));
        inbox.push(chunk(&pool, b"de"));
        outbox.push(payload(&pool, b"abc"));
        outbox.push(payload(&pool, b"de"));
        outbox.append(b"f", 3, &pool); // there is room behind the last
        outbox.append(b"gh", 3, &pool);
        assert_eq!((inbox.len(), inbox.is_empty()), (5, false));
        assert_eq!((outbox.len(), outbox.is_empty(), outbox.front_len()), (8, false, 3));
        let chunks: Vec<_> = inbox.clear().iter().map(|chunk| chunk.data().to_vec()).collect();
        assert_eq!(chunks, [b"abc".to_vec(), b"de".to_vec()]);
        let lengths: Vec<_> = outbox.clear().iter().map(Payload::len).collect();
        assert_eq!(lengths, [3, 3, 2]);
        assert!(inbox.is_empty() && inbox.pop().is_none() && outbox.is_empty() && outbox.pop().is_none());
    }

    #[test]
    fn a_queue_keeps_its_places_but_not_a_bursts() {
        let (pool, mut inbox, mut outbox) = (BufferPool::new(), Inbox::new(), Outbox::new());
        for (places, kept) in [(1, 1), (KEPT_PLACES, KEPT_PLACES), (KEPT_PLACES + 1, KEPT_PLACES)] {
            (inbox.chunks, outbox.payloads) = (VecDeque::with_capacity(places), VecDeque::with_capacity(places));
            inbox.push(chunk(&pool, b"x"));
            outbox.push(payload(&pool, b"x"));
            if places > 1 {
                inbox.push(chunk(&pool, b"y"));
                outbox.push(payload(&pool, b"y"));
                assert!(inbox.pop().is_some() && outbox.pop().is_some());
                // Not before it is empty.
                assert!(inbox.chunks.capacity() >= places && outbox.payloads.capacity() >= places);
            }
            assert!(inbox.pop().is_some() && outbox.pop().is_some());
            let capacities = (inbox.chunks.capacity(), outbox.payloads.capacity());
            assert_eq!(capacities, (kept, kept));
        }
    }

    #[test]
    fn a_tail_moves_when_it_is_small_and_alone_and_its_buffer_is_worth_it() {
        let pool = BufferPool::new();
        // The size of the buffer, what is left in it, and whether that moves: at most an eighth, of 2048 bytes or more.
        for (size, left, moves) in
            [(1024, 1, false), (2048, 256, true), (2048, 257, false), (32768, 4096, true), (32768, 4097, false)]
        {
            let mut inbox = Inbox::new();
            let mut big = chunk(&pool, &vec![7; size]);
            big.consume(size - left);
            inbox.push(big);
            assert_eq!(inbox.release_tail(&pool, |n| n).is_some(), moves, "{left} of {size}");
            assert_eq!(inbox.len(), left);
        }
        // Behind it is more: the large buffer will be gone soon.
        let mut inbox = Inbox::new();
        let mut big = chunk(&pool, &[7; 32768]);
        big.consume(32768 - 1);
        inbox.push(big);
        inbox.push(chunk(&pool, b"more"));
        assert!(inbox.release_tail(&pool, |n| n).is_none());
    }

    #[test]
    fn merge_sizes_grow_with_what_is_queued_within_bounds() {
        let (pool, mut inbox) = (BufferPool::new(), Inbox::new());
        assert_eq!((inbox.merge_size(1), inbox.merge_size(100)), (64, 100));
        inbox.push(chunk(&pool, &[0; 1000]));
        assert_eq!((inbox.merge_size(1), inbox.merge_size(1001)), (1000, 1001));
        inbox.push(chunk(&pool, &[0; 60_000]));
        assert_eq!(inbox.merge_size(1), 16_384);
    }
}

//! Received data that waits for the application, in pooled buffers. (Accepted data:
//! [`outbox`](super::outbox).)
//!
//! Small pieces are merged into the last chunk. A chunk carries its *charge*, a value that
//! refunds the session's budget when it is dropped; what that is, is the layer above's business.
//!
//! Invariants: no chunk is empty; a queue's `len` is the sum over its chunks; what a chunk occupies
//! is charged, not what it holds; a small tail doesn't pin a large buffer.

use std::collections::VecDeque;

use crate::pool::{Buffer, BufferPool};

/// What a chunk costs beside its buffer, in bytes: its place in the queue, and the allocator's
/// overhead. It is charged too, so that one-byte chunks don't come free.
pub(crate) const CHUNK_OVERHEAD: usize = 64;

/// The smallest buffer that small payloads are merged into, in bytes.
const SMALLEST_CHUNK: usize = 64;

/// The largest buffer that small payloads are merged into, in bytes.
const LARGEST_MERGE: usize = 16 * 1024;

/// A chunk's tail is moved to a smaller buffer when it is the last data and has fallen below one
/// part in so many of its buffer: a move costs at most this fraction of the copy that `read` makes
/// anyway.
const TAIL_FRACTION: usize = 8;

/// Buffers below this size, in bytes, are never worth moving a tail out of.
const TAIL_WORTHWHILE: usize = 2048;

/// A queue that has become empty keeps its own memory up to so many places of 56 bytes: enough for
/// what waits while both ends keep up, so that a busy stream doesn't allocate, and little enough
/// for a hundred thousand idle ones that have seen a burst.
pub(super) const KEPT_PLACES: usize = 32;

/// Makes the first place of a queue one place, not the four that a `VecDeque` begins with: most
/// streams have no more than one message waiting, and keep the place when they are idle.
#[inline]
pub(super) fn first_place<T>(queue: &mut VecDeque<T>) {
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
    charge: C,
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
        Self { buffer, start: start.min(end), end, charge }
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
    /// What the chunk that is lent occupies, in bytes, and its charge.
    lent: Option<(usize, C)>,
}

impl<C> Inbox<C> {
    pub(crate) fn new() -> Self {
        Self { chunks: VecDeque::new(), len: 0, lent: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the data occupies of the budget, in bytes, with what is lent.
    pub(crate) fn occupied(&self) -> usize {
        let lent = self.lent.as_ref().map_or(0, |(bytes, _)| *bytes);
        lent + self.chunks.iter().map(|chunk| charge_for(&chunk.buffer)).sum::<usize>()
    }

    /// Copies as much of `data` as the last chunk has room for; returns the count. That room is
    /// charged already.
    pub(crate) fn merge(&mut self, data: &[u8]) -> usize {
        let Some(last) = self.chunks.back_mut() else { return 0 };
        let room = &mut last.buffer[last.end..];
        let n = room.len().min(data.len());
        room[..n].copy_from_slice(&data[..n]);
        last.end += n;
        self.len += n;
        n
    }

    /// The size of the buffer for `n` more small bytes that `merge` had no room for: as much again
    /// as is queued already, within bounds, so that a stream that nobody reads wastes at most half.
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

    /// Takes the first chunk out for a reader that may keep it for long, and leaves its charge
    /// here: it still counts, and can be [recalled](Self::recall).
    pub(crate) fn lend(&mut self) -> Option<Chunk<()>> {
        let Chunk { buffer, start, end, charge } = self.pop()?;
        self.lent = Some((charge_for(&buffer), charge));
        Some(Chunk { buffer, start, end, charge: () })
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.lent.is_some()
    }

    /// Puts what is left of a lent chunk back to the head; it is returned if its charge was
    /// recalled.
    pub(crate) fn give_back(&mut self, chunk: Chunk<()>) -> Option<Chunk<()>> {
        let Some((_, charge)) = self.lent.take() else { return Some(chunk) };
        let Chunk { buffer, start, end, charge: () } = chunk;
        self.unpop(Chunk { buffer, start, end, charge });
        None
    }

    /// Takes the charge of the lent chunk, for the caller to drop: the chunk is used up, or not
    /// wanted any more.
    pub(crate) fn recall(&mut self) -> Option<C> {
        self.lent.take().map(|(_, charge)| charge)
    }

    /// Moves the rest of the data, if it is a small tail of a large buffer, to a small buffer;
    /// `charge` charges it. Returns the large one, for the caller to drop.
    pub(crate) fn release_tail(
        &mut self,
        pool: &BufferPool,
        charge: impl FnOnce(usize) -> C,
    ) -> Option<Chunk<C>> {
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
        let pool = BufferPool::new();
        let mut inbox = Inbox::<usize>::new();
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
        let pool = BufferPool::new();
        let mut inbox = Inbox::new();
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
        let pool = BufferPool::new();
        let mut inbox = Inbox::new();
        inbox.push(chunk(&pool, &[7; 32768]));
        assert!(inbox.release_tail(&pool, |n| n).is_none());
        let mut big = inbox.pop().unwrap();
        big.consume(32768 - 100);
        inbox.unpop(big);
        let big = inbox.release_tail(&pool, |n| n).unwrap();
        assert_eq!(big.charge, 32768 + CHUNK_OVERHEAD);
        assert_eq!(inbox.occupied(), 128 + CHUNK_OVERHEAD);
        assert_eq!(inbox.pop().unwrap().data(), &[7; 100]);
    }

    #[test]
    fn no_chunk_is_empty() {
        let pool = BufferPool::new();
        let mut inbox = Inbox::new();
        inbox.push(Chunk::new(pool.get(10).unwrap(), 3, 0, 0));
        assert!(inbox.is_empty() && inbox.pop().is_none());
    }

    #[test]
    fn a_queue_counts_what_is_in_it_and_lets_go_of_all_of_it() {
        let pool = BufferPool::new();
        let mut inbox = Inbox::new();
        assert_eq!(inbox.len(), 0);
        inbox.push(chunk(&pool, b"abc"));
        inbox.push(chunk(&pool, b"de"));
        assert_eq!((inbox.len(), inbox.is_empty()), (5, false));
        let chunks: Vec<_> = inbox.clear().iter().map(|chunk| chunk.data().to_vec()).collect();
        assert_eq!(chunks, [b"abc".to_vec(), b"de".to_vec()]);
        assert!(inbox.is_empty() && inbox.pop().is_none());
    }

    #[test]
    fn a_queue_keeps_its_places_but_not_a_bursts() {
        let pool = BufferPool::new();
        let mut inbox = Inbox::new();
        for (places, kept) in [(1, 1), (KEPT_PLACES, KEPT_PLACES), (KEPT_PLACES + 1, KEPT_PLACES)] {
            inbox.chunks = VecDeque::with_capacity(places);
            inbox.push(chunk(&pool, b"x"));
            if places > 1 {
                inbox.push(chunk(&pool, b"y"));
                assert!(inbox.pop().is_some());
                assert!(inbox.chunks.capacity() >= places, "not before it is empty");
            }
            assert!(inbox.pop().is_some());
            assert_eq!(inbox.chunks.capacity(), kept);
        }
    }

    #[test]
    fn a_tail_moves_when_it_is_small_and_alone_and_its_buffer_is_worth_it() {
        let pool = BufferPool::new();
        // The size of the buffer, what is left in it, and whether that moves: at most an eighth, of
        // 2048 bytes or more.
        for (size, left, moves) in [
            (1024, 1, false),
            (2048, 256, true),
            (2048, 257, false),
            (32768, 4096, true),
            (32768, 4097, false),
        ] {
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
        let pool = BufferPool::new();
        let mut inbox = Inbox::new();
        assert_eq!((inbox.merge_size(1), inbox.merge_size(100)), (64, 100));
        inbox.push(chunk(&pool, &[0; 1000]));
        assert_eq!((inbox.merge_size(1), inbox.merge_size(1001)), (1000, 1001));
        inbox.push(chunk(&pool, &[0; 60_000]));
        assert_eq!(inbox.merge_size(1), 16_384);
    }
}

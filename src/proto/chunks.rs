//! The inbox of a stream: received data that waits for the application, in pooled buffers. Accepted
//! data waits in the [`outbox`](super::outbox).
//!
//! A *chunk* is a piece of received data in one buffer. Small payloads are merged into the last
//! chunk. A chunk carries its *charge*, a value of the layer above. Dropping the charge refunds the
//! session's budget.
//!
//! Invariants:
//!
//! - No chunk is empty.
//! - A queue's `len` is the sum over its chunks.
//! - A chunk is charged for the memory that it occupies, not for the data that it holds.
//! - If only a small rest of one chunk is unread, this rest doesn't keep a large buffer in use
//!   ([`TAIL_FRACTION`]).

use std::collections::VecDeque;

use crate::pool::{Buffer, BufferPool};

/// Memory that a chunk costs beside its buffer, in bytes: its place in the queue, and the
/// allocator's overhead. It is charged too, so that many tiny chunks can't exceed the budget.
pub(crate) const CHUNK_OVERHEAD: usize = 64;

/// Smallest buffer for merged small payloads, in bytes. A chunk costs [`CHUNK_OVERHEAD`], also 64
/// bytes, in any case. So a smaller buffer would save little.
const SMALLEST_CHUNK: usize = 64;

/// Largest buffer for merged small payloads, in bytes. It is the size of the frame reader's own
/// buffer, from which these payloads are copied.
const LARGEST_MERGE: usize = 16 * 1024;

/// Divisor for the largest *tail* that is moved. The tail is the unread rest of a chunk of which a
/// part was read. A tail of at most an eighth of its buffer is moved to a smaller buffer, if no
/// other data is queued. `read` copies a whole buffer anyway, and the move adds at most an eighth
/// to that copy.
const TAIL_FRACTION: usize = 8;

/// Smallest buffer out of which a tail is moved, in bytes. A smaller buffer isn't worth the move.
const TAIL_WORTHWHILE: usize = 2048;

/// Number of items for which an empty queue keeps memory. An item takes 56 bytes. With memory for
/// 32 items, a busy stream doesn't allocate while both sides keep up. The number is small enough
/// for a hundred thousand idle streams that have had a burst.
pub(super) const KEPT_PLACES: usize = 32;

/// Reserves room for one item, if the queue has no memory yet. By itself, a `VecDeque` would begin
/// with room for four items. One is enough, because most streams never have more than one message
/// waiting, and an idle stream keeps this memory.
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

/// Returns the charge for a chunk in `buffer`, in bytes.
pub(crate) fn charge_for(buffer: &Buffer) -> usize {
    buffer.capacity() + CHUNK_OVERHEAD
}

impl<C> Chunk<C> {
    /// Returns a chunk that holds `len` bytes of `buffer` from `start` on.
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

    /// Copies as much as fits into `out`, and marks it as read. Returns the number of bytes copied.
    pub(crate) fn copy_to(&mut self, out: &mut [u8]) -> usize {
        let n = self.len().min(out.len());
        out[..n].copy_from_slice(&self.data()[..n]);
        self.consume(n);
        n
    }
}

/// The received data of a stream.
#[derive(Debug)]
pub(crate) struct Inbox<C> {
    chunks: VecDeque<Chunk<C>>,
    /// Bytes of data. A lent chunk isn't counted.
    len: usize,
    /// The lent chunk's occupied bytes, and its charge.
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

    /// Returns the part of the budget that the data occupies, in bytes. A lent chunk counts too.
    pub(crate) fn occupied(&self) -> usize {
        let lent = self.lent.as_ref().map_or(0, |(bytes, _)| *bytes);
        lent + self.chunks.iter().map(|chunk| charge_for(&chunk.buffer)).sum::<usize>()
    }

    /// Copies as much of `data` as the last chunk has room for. Returns the number of bytes copied.
    /// No further charge is needed, because the chunk's whole buffer is charged already.
    pub(crate) fn merge(&mut self, data: &[u8]) -> usize {
        let Some(last) = self.chunks.back_mut() else { return 0 };
        let room = &mut last.buffer[last.end..];
        let n = room.len().min(data.len());
        room[..n].copy_from_slice(&data[..n]);
        last.end += n;
        self.len += n;
        n
    }

    /// Returns the size of a new buffer for `n` bytes of a small payload for which `merge` found no
    /// room. The buffer is as large as the queued data, but between [`SMALLEST_CHUNK`] and
    /// [`LARGEST_MERGE`]. So at most about half of the memory of an unread stream is unused.
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

    /// Puts the rest of a chunk back at the head of the queue.
    pub(crate) fn unpop(&mut self, chunk: Chunk<C>) {
        if chunk.len() > 0 {
            self.len += chunk.len();
            self.chunks.push_front(chunk);
        }
    }

    /// Lends the first chunk to a call that may keep it for long. The chunk's charge stays in the
    /// inbox. So the chunk still counts as occupied, and the charge can be
    /// [recalled](Self::recall).
    pub(crate) fn lend(&mut self) -> Option<Chunk<()>> {
        let Chunk { buffer, start, end, charge } = self.pop()?;
        self.lent = Some((charge_for(&buffer), charge));
        Some(Chunk { buffer, start, end, charge: () })
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.lent.is_some()
    }

    /// Puts the rest of the lent chunk back at the head of the queue. If the chunk's charge was
    /// recalled meanwhile, returns the chunk instead.
    pub(crate) fn give_back(&mut self, chunk: Chunk<()>) -> Option<Chunk<()>> {
        let Some((_, charge)) = self.lent.take() else { return Some(chunk) };
        let Chunk { buffer, start, end, charge: () } = chunk;
        self.unpop(Chunk { buffer, start, end, charge });
        None
    }

    /// Takes the charge of the lent chunk. The caller drops the charge. Called when the chunk is
    /// used up, or when its data isn't wanted any more.
    pub(crate) fn recall(&mut self) -> Option<C> {
        self.lent.take().map(|(_, charge)| charge)
    }

    /// Moves the unread data to a small buffer, if it is a small rest in a single large buffer.
    /// `charge` returns the charge for the small buffer. Returns the large buffer as a chunk, which
    /// the caller drops.
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

    /// Takes out all data. The caller drops it.
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
        // The size of the buffer, the rest in it, and whether the rest moves. It moves if it is at
        // most an eighth of a buffer of at least 2048 bytes.
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
        // A tail with more data behind it stays, because its buffer will be free soon.
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

//! The outbox of a stream: accepted data that waits for the writer, in pooled buffers, and its
//! division into frames.
//!
//! | `max_frame_size` | a buffer holds | the writer takes a frame |
//! |---|---|---|
//! | 4096 bytes or more | one frame, with room for its header in front | without a copy |
//! | less | many frames | as a copy |
//!
//! Invariants:
//!
//! - No payload is empty.
//! - `len` and `occupied` are the sums over the payloads.
//! - The buffers occupy at most twice the length of the data plus [`SLACK`], whatever the sizes of
//!   writes and frames.

use std::collections::VecDeque;

use super::chunks::{KEPT_PLACES, first_place};
use crate::pool::{Buffer, BufferPool};
use crate::wire::HEADER_LEN;

/// Memory that a stream's data may occupy beyond twice its length, in bytes. The first buffer needs
/// it, and so do the unused parts of two buffers of [`SHARED`] bytes.
pub(crate) const SLACK: usize = 4096;

/// Smallest `max_frame_size` for which each frame has a buffer of its own, in bytes. From 4096 on,
/// a pooled buffer occupies at most a quarter more than its data. Smaller frames share buffers and
/// are copied out of them. Frames with up to 1024 bytes are copied into the writer's batch in any
/// case, and the copy of a longer one costs little.
const WHOLE: usize = 4096;

/// Size of a buffer that several frames share, in bytes. With the room for a header, the buffer has
/// 2048 bytes. So the unused parts of the first and of the last buffer are together at most
/// [`SLACK`].
const SHARED: usize = 2048 - HEADER_LEN;

/// Room for small writes in the first buffer of an empty outbox, in bytes. Later buffers are as
/// large as a frame, if the bound on memory allows that. The value is a choice. [`SLACK`] covers
/// the unused part of this first buffer.
const FIRST_MERGE: usize = 1024;

/// Data for the writer, in a pooled buffer with room for a header in front of it.
#[derive(Debug)]
pub(crate) struct Payload {
    buffer: Buffer,
    start: usize,
    end: usize,
    /// The largest frame, in bytes.
    max_frame: usize,
}

impl Payload {
    /// Returns an empty payload with room for `room` bytes. `max_frame` is the largest frame, in
    /// bytes.
    pub(crate) fn with_room(pool: &BufferPool, room: usize, max_frame: usize) -> Self {
        let mut buffer = pool.frame(room);
        buffer.set_len(buffer.capacity());
        Self { buffer, start: HEADER_LEN, end: HEADER_LEN, max_frame }
    }

    /// Returns a payload that holds as much of `data` as one buffer takes.
    pub(crate) fn of(pool: &BufferPool, data: &[u8], max_frame: usize) -> Self {
        let mut payload = Self::with_room(pool, data.len().min(unit(max_frame)), max_frame);
        payload.append(data);
        payload
    }

    /// Copies as much of `data` as fits. Returns the number of bytes copied.
    #[inline]
    pub(crate) fn append(&mut self, data: &[u8]) -> usize {
        let n = self.room().min(data.len());
        self.buffer[self.end..self.end + n].copy_from_slice(&data[..n]);
        self.end += n;
        n
    }

    /// Returns the number of bytes that may be appended. A buffer for one frame takes no more than
    /// `max_frame` bytes, even if it is larger.
    fn room(&self) -> usize {
        let room = self.buffer.len() - self.end;
        if is_shared(self.max_frame) { room } else { room.min(self.max_frame - self.len()) }
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Returns whether the payload is exactly one frame of `n` bytes, with room for its header.
    fn is_frame_of(&self, n: usize) -> bool {
        self.len() == n && self.start == HEADER_LEN
    }

    /// Returns an empty payload from the same pool.
    fn sibling(&self, room: usize) -> Self {
        let pool = self.buffer.pool().unwrap_or(BufferPool::shared());
        Self::with_room(pool, room, self.max_frame)
    }

    /// Returns a copy of the payload with room for `room` bytes in all.
    fn resized(&self, room: usize) -> Self {
        let mut other = self.sibling(room);
        other.append(self.data());
        other
    }

    /// Returns the buffer: room for the header, then the data. The payload has to be one frame.
    pub(crate) fn into_buffer(mut self) -> Buffer {
        debug_assert_eq!(self.start, HEADER_LEN);
        self.buffer.set_len(self.end);
        self.buffer
    }
}

/// Returns whether frames of at most `max_frame` bytes share buffers.
fn is_shared(max_frame: usize) -> bool {
    max_frame < WHOLE
}

/// Returns the largest amount of data in one buffer, in bytes.
fn unit(max_frame: usize) -> usize {
    if is_shared(max_frame) { SHARED } else { max_frame }
}

/// The accepted data of a stream.
#[derive(Debug)]
pub(crate) struct Outbox {
    payloads: VecDeque<Payload>,
    /// Bytes of data.
    len: usize,
    /// Bytes that the payloads' buffers occupy.
    occupied: usize,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { payloads: VecDeque::new(), len: 0, occupied: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the length of the first frame, or 0 if there is none.
    pub(crate) fn front_len(&self) -> usize {
        self.payloads.front().map_or(0, |front| match front.max_frame {
            max if is_shared(max) => self.len.min(max),
            _ => front.len(),
        })
    }

    /// Appends `data` to the last payload, and the rest to new ones.
    #[inline]
    pub(crate) fn append(&mut self, mut data: &[u8], max_frame: usize, pool: &BufferPool) {
        self.len += data.len();
        if let Some(last) = self.payloads.back_mut() {
            data = &data[last.append(data)..];
        }
        if !data.is_empty() {
            self.append_to_new(data, max_frame, pool);
        }
    }

    /// Puts `data` into a larger last buffer and into new buffers, as needed. `data` is counted in
    /// `len` already, and doesn't fit into the last payload.
    fn append_to_new(&mut self, mut data: &[u8], max_frame: usize, pool: &BufferPool) {
        let unit = unit(max_frame);
        // If the last payload is small, it is copied into a larger buffer. A longer payload isn't
        // copied, because the copy would cost more than it saves.
        if let Some(last) = self.payloads.back()
            && last.len() < unit.min(WHOLE)
            && let Some(last) = self.payloads.pop_back()
        {
            self.occupied -= last.buffer.capacity();
            let least = (last.len() + data.len()).min(unit);
            let mut larger = last.resized(self.room_for(least, unit));
            data = &data[larger.append(data)..];
            self.put(larger);
        }
        while !data.is_empty() {
            let least = data.len().min(unit);
            let room = if self.payloads.is_empty() {
                least.max(FIRST_MERGE.min(unit))
            } else {
                self.room_for(least, unit)
            };
            let mut payload = Payload::with_room(pool, room, max_frame);
            data = &data[payload.append(data)..];
            self.put(payload);
        }
    }

    /// Returns the room that a new buffer is to have, between `least` and `unit`. The room is as
    /// large as the bound on occupied memory allows.
    fn room_for(&self, least: usize, unit: usize) -> usize {
        let allowed = (2 * self.len + SLACK).saturating_sub(self.occupied);
        if BufferPool::frame_capacity(unit) <= allowed {
            return unit;
        }
        // At most a fifth of the new buffer stays unused, or the buffer is so small that `SLACK`
        // covers the rest.
        (allowed / 5 * 4).saturating_sub(HEADER_LEN).clamp(least, unit)
    }

    /// Appends a payload.
    pub(crate) fn push(&mut self, payload: Payload) {
        if payload.len() > 0 {
            self.len += payload.len();
            self.refit_last(); // no more data will be appended to the last payload
            self.put(payload);
        }
    }

    /// Puts a payload at the end. The payload's length is counted in `len` already.
    fn put(&mut self, payload: Payload) {
        self.occupied += payload.buffer.capacity();
        first_place(&mut self.payloads);
        self.payloads.push_back(payload);
    }

    /// Moves the last payload to a smaller buffer that is just large enough, if that buffer has
    /// less than half the size of the present one.
    fn refit_last(&mut self) {
        if let Some(last) = self.payloads.back_mut()
            && BufferPool::frame_capacity(last.len()) < last.buffer.capacity() / 2
        {
            let refitted = last.resized(last.len());
            self.occupied -= last.buffer.capacity() - refitted.buffer.capacity();
            *last = refitted;
        }
    }

    /// Takes out the first frame.
    pub(crate) fn pop(&mut self) -> Option<Payload> {
        let n = self.front_len();
        let frame = if self.payloads.front()?.is_frame_of(n) {
            self.take_front()?
        } else {
            self.copy_frame(n)?
        };
        self.len -= n;
        if self.occupied > 2 * self.len + SLACK {
            // The last buffer was made when the bound on occupied memory was larger.
            self.refit_last();
        }
        if self.payloads.is_empty() {
            self.payloads.shrink_to(KEPT_PLACES);
        }
        Some(frame)
    }

    fn take_front(&mut self) -> Option<Payload> {
        let front = self.payloads.pop_front()?;
        self.occupied -= front.buffer.capacity();
        Some(front)
    }

    /// Copies the first frame, of `n` bytes, out of the buffers that hold it.
    fn copy_frame(&mut self, n: usize) -> Option<Payload> {
        let mut frame = self.payloads.front()?.sibling(n);
        while frame.len() < n {
            let front = self.payloads.front_mut()?;
            let part = front.len().min(n - frame.len());
            frame.append(&front.data()[..part]);
            front.start += part;
            if front.len() == 0 {
                self.take_front();
            }
        }
        Some(frame)
    }

    /// Takes out all data, for the caller to drop.
    pub(crate) fn clear(&mut self) -> VecDeque<Payload> {
        self.len = 0;
        self.occupied = 0;
        std::mem::take(&mut self.payloads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(pool: &BufferPool, data: &[u8]) -> Payload {
        let payload = Payload::of(pool, data, 65535);
        assert_eq!(payload.len(), data.len());
        payload
    }

    #[test]
    fn small_writes_merge_into_frames_and_large_ones_stay_whole() {
        let pool = BufferPool::new();
        let mut outbox = Outbox::new();
        for _ in 0..100_000 {
            outbox.append(&[1], 32768, &pool);
        }
        outbox.push(Payload::of(&pool, &[2; 500], 32768));
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
        let pool = BufferPool::new();
        let mut outbox = Outbox::new();
        outbox.append(&[9; 40], 16, &pool);
        let lengths: Vec<_> = std::iter::from_fn(|| outbox.pop()).map(|p| p.len()).collect();
        assert_eq!(lengths, [16, 16, 8]);
    }

    #[test]
    fn a_frame_in_a_buffer_of_its_own_is_not_copied() {
        let pool = BufferPool::new();
        let mut outbox = Outbox::new();
        for (length, max_frame) in [(WHOLE, WHOLE), (32768, 32768), (100, 100), (60_000, 65535)] {
            let payload = Payload::of(&pool, &vec![1; length], max_frame);
            let address = payload.buffer.as_ptr();
            outbox.push(payload);
            assert_eq!(outbox.pop().unwrap().into_buffer().as_ptr(), address);
        }
    }

    #[test]
    fn nothing_is_no_payload() {
        let pool = BufferPool::new();
        let mut outbox = Outbox::new();
        outbox.push(payload(&pool, &[]));
        assert!(outbox.is_empty() && outbox.pop().is_none());
    }

    #[test]
    fn a_queue_counts_what_is_in_it_and_lets_go_of_all_of_it() {
        let pool = BufferPool::new();
        let mut outbox = Outbox::new();
        assert_eq!((outbox.len(), outbox.front_len()), (0, 0));
        outbox.push(payload(&pool, b"abc"));
        outbox.push(payload(&pool, b"de"));
        outbox.append(b"f", 3, &pool); // goes into the last payload
        outbox.append(b"gh", 3, &pool);
        assert_eq!((outbox.len(), outbox.is_empty(), outbox.front_len()), (8, false, 3));
        let rest: Vec<_> = outbox.clear().iter().flat_map(|p| p.data().to_vec()).collect();
        assert_eq!(rest, b"abcdefgh");
        assert!(outbox.is_empty() && outbox.pop().is_none() && outbox.occupied == 0);
    }

    #[test]
    fn a_queue_keeps_its_places_but_not_a_bursts() {
        let pool = BufferPool::new();
        let mut outbox = Outbox::new();
        for (places, kept) in [(1, 1), (KEPT_PLACES, KEPT_PLACES), (KEPT_PLACES + 1, KEPT_PLACES)] {
            outbox.payloads = VecDeque::with_capacity(places);
            outbox.push(payload(&pool, b"x"));
            if places > 1 {
                outbox.push(payload(&pool, b"y"));
                assert!(outbox.pop().is_some());
                assert!(outbox.payloads.capacity() >= places, "not before it is empty");
            }
            assert!(outbox.pop().is_some());
            assert_eq!(outbox.payloads.capacity(), kept);
        }
    }

    /// Checks the sums against a new count, and the bound on occupied memory.
    fn check(outbox: &Outbox) {
        let occupied: usize = outbox.payloads.iter().map(|p| p.buffer.capacity()).sum();
        let len: usize = outbox.payloads.iter().map(Payload::len).sum();
        assert_eq!((outbox.occupied, outbox.len), (occupied, len));
        assert!(occupied <= 2 * len + 4096, "{len} bytes occupy {occupied}");
    }

    /// Accepts data as a stream's write does: up to 4096 bytes at once, more buffer by buffer.
    fn write(outbox: &mut Outbox, pool: &BufferPool, mut data: &[u8], max_frame: usize) {
        while data.len() > 4096 {
            let payload = Payload::of(pool, data, max_frame);
            data = &data[payload.len()..];
            outbox.push(payload);
        }
        outbox.append(data, max_frame, pool);
        check(outbox);
    }

    /// Accepts much data in writes of `size` bytes, then takes all frames. The bound holds at each
    /// step.
    fn fill_and_drain(size: usize, max_frame: usize) {
        let pool = BufferPool::new();
        let mut outbox = Outbox::new();
        let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let mut sent = Vec::new();
        let mut seen = Vec::new();
        let much = if size < 1000 || max_frame < 1000 { 12_000 } else { 262_144 };
        while sent.len() < much {
            write(&mut outbox, &pool, &data, max_frame);
            sent.extend_from_slice(&data);
        }
        while let Some(frame) = outbox.pop() {
            check(&outbox);
            assert!(frame.len() <= max_frame);
            seen.extend_from_slice(&frame.into_buffer()[HEADER_LEN..]);
        }
        assert!(seen == sent);
    }

    #[test]
    fn accepted_data_occupies_at_most_twice_its_length_and_4096_bytes() {
        let frames = [1, 2, 16, 516, 1000, 1016, 1017, 2040, 2041, 4095, 4096, 4097, 5000, 8193];
        let frames = frames.into_iter().chain([10_241, 16_385, 20_473, 32_768, 32_769, 65_535]);
        let miri = cfg!(miri);
        for max_frame in frames.filter(|frame| !miri || [16, 2041, 32_769].contains(frame)) {
            for size in [1, 100, 1025, 2041, 4096, 4097, 5001, 10_242, 33_000, 40_000, 262_144] {
                let quick = max_frame >= 1000 || size <= 40_000; // each frame is checked
                if quick && (!miri || size > 30_000) {
                    fill_and_drain(size, max_frame);
                }
            }
        }
    }

    /// Returns the number of cases of each property: few under Miri, which is slow.
    fn cases() -> u32 {
        ProptestConfig::default().cases.min(if cfg!(miri) { 4 } else { 200 })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases()))]

        #[test]
        fn any_writes_and_frames_keep_the_bound_and_the_bytes(
            max_frame in prop_oneof![1..65usize, 1..4097usize, 4096..65536usize],
            steps in prop::collection::vec(
                (prop_oneof![1..20usize, 1..4097usize, 4097..40_000usize], 0..6usize),
                1..60,
            ),
        ) {
            let pool = BufferPool::new();
            let mut outbox = Outbox::new();
            let mut sent = Vec::new();
            let mut seen = Vec::new();
            for (i, (size, pops)) in steps.into_iter().enumerate() {
                let data: Vec<u8> = (0..size).map(|n| (n + i) as u8).collect();
                write(&mut outbox, &pool, &data, max_frame);
                sent.extend_from_slice(&data);
                for _ in 0..pops {
                    if let Some(frame) = outbox.pop() {
                        check(&outbox);
                        prop_assert!(frame.len() <= max_frame);
                        seen.extend_from_slice(&frame.into_buffer()[HEADER_LEN..]);
                    }
                }
            }
            while let Some(frame) = outbox.pop() {
                check(&outbox);
                seen.extend_from_slice(&frame.into_buffer()[HEADER_LEN..]);
            }
            prop_assert!(seen == sent);
        }

        #[test]
        fn one_write_is_cut_into_whole_frames_and_a_rest(
            max_frame in prop_oneof![1..65usize, 1..4097usize, 4096..65536usize],
            size in 1..262_145usize,
        ) {
            let pool = BufferPool::new();
            let mut outbox = Outbox::new();
            write(&mut outbox, &pool, &vec![0; size], max_frame);
            let mut left = size;
            while let Some(frame) = outbox.pop() {
                prop_assert_eq!(frame.len(), left.min(max_frame));
                left -= frame.len();
            }
            prop_assert_eq!(left, 0);
        }
    }
}

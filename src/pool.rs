//! A pool of reusable buffers, modelled on the allocator of Go's gmux.
//!
//! A class holds the buffers of one size. There are three kinds of classes:
//!
//! - The powers of two from 1 to 65536 bytes. In these classes at most half of a buffer is unused.
//! - Sizes for the data path, which puts an 8-byte header and a payload side by side.
//! - Quarter steps between the powers of two, from 4096 bytes on. They are for received payloads,
//!   because a payload is charged to the receive budget with the size of its buffer.
//!
//! Invariants:
//! - A dropped buffer returns to the class that it came from.
//! - A class keeps at most 1 MiB of idle buffers, or 4 MiB if bulk data goes through it. Further
//!   buffers are given back to the system.
//! - The locks are leaves: while one is held, no other lock is taken and no user's code is called.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

use crate::wire::{HEADER_LEN, MAX_PAYLOAD};

/// The largest buffer of a power-of-two class, in bytes.
pub const MAX_BUFFER: usize = 65536;

/// The data path's classes. A buffer of these classes holds a header and a payload. The payload
/// sizes are the usual write sizes of applications up to the default `max_frame_size`, and the
/// largest payload.
const FRAME_BUFFERS: [usize; 5] = [
    HEADER_LEN + 4096,
    HEADER_LEN + 8192,
    HEADER_LEN + 16384,
    HEADER_LEN + 32768,
    HEADER_LEN + MAX_PAYLOAD,
];

/// Returns the limit of the idle bytes that a class keeps. Further buffers are given back to the
/// system.
///
/// | classes | limit | reason |
/// |---|---|---|
/// | powers of two from 4096 bytes on, and the data path's | 4 MiB | Bulk data goes through them, and 4 MiB is the default receive budget of a session |
/// | the others | 1 MiB | The peer chooses the sizes of frames, and idle buffers are kept for the process's life |
///
/// All classes together keep at most about 64 MiB. Each class may exceed its limit by less than one
/// buffer.
const fn kept_bytes(class: usize) -> usize {
    let is_for_bulk = class >= FIRST_LARGE && class < POWERS + FRAME_BUFFERS.len();
    if is_for_bulk { 4 << 20 } else { 1 << 20 }
}

/// The class of buffers of [`QUARTERS_FROM`] bytes.
const FIRST_LARGE: usize = QUARTERS_FROM.trailing_zeros() as usize;

/// The number of power-of-two classes, 2⁰ to 2¹⁶. The data path's classes come after them.
const POWERS: usize = 17;

/// The size from which quarter steps exist, in bytes.
const QUARTERS_FROM: usize = 4096;
/// The number of powers of two that have quarter steps above them: 4096 to 32768.
const QUARTER_POWERS: usize = 4;

/// The number of all classes: powers of two, the data path's, then three quarter steps for
/// each power.
const CLASSES: usize = POWERS + FRAME_BUFFERS.len() + 3 * QUARTER_POWERS;

/// Returns the size of a class's buffers, in bytes.
fn size_of_class(class: usize) -> usize {
    let Some(special) = class.checked_sub(POWERS) else { return 1 << class };
    match FRAME_BUFFERS.get(special) {
        Some(&size) => size,
        None => {
            let quarter = special - FRAME_BUFFERS.len();
            (QUARTERS_FROM << (quarter / 3)) / 4 * (5 + quarter % 3)
        }
    }
}

/// Returns the class for [`BufferPool::fit`].
fn fit_class(size: usize) -> Option<usize> {
    let class = msb(size)?;
    if size <= QUARTERS_FROM {
        return Some(class);
    }
    let base = 1 << (class - 1); // the power of two below
    let steps = (size - base).div_ceil(base / 4);
    let quarters = POWERS + FRAME_BUFFERS.len() + 3 * (class - msb(QUARTERS_FROM)? - 1);
    Some(if steps == 4 { class } else { quarters + steps - 1 })
}

/// Returns the class for [`BufferPool::frame`], and the size of a header with the payload.
fn frame_class(payload: usize) -> (usize, usize) {
    let size = (HEADER_LEN + payload).min(HEADER_LEN + MAX_PAYLOAD);
    let close = |&frame: &usize| size <= frame && frame - size < size / 8;
    let special = FRAME_BUFFERS.iter().position(close).map(|special| POWERS + special);
    (special.or_else(|| fit_class(size)).unwrap_or(POWERS + FRAME_BUFFERS.len() - 1), size)
}

/// The approximate cost of an idle buffer in addition to its bytes: its place in the list, and the
/// allocator's overhead.
const PLACE: usize = 48;

/// Idle buffers of one size.
struct Class {
    size: usize,
    /// The approximate limit of the class's idle bytes.
    kept: usize,
    idle: Mutex<Vec<Box<[u8]>>>,
}

impl Class {
    fn new(class: usize) -> Self {
        Self { size: size_of_class(class), kept: kept_bytes(class), idle: Mutex::new(Vec::new()) }
    }

    fn take(&self) -> Box<[u8]> {
        let idle = self.idle.lock().pop();
        idle.unwrap_or_else(|| vec![0; self.size].into_boxed_slice())
    }

    fn put(&self, data: Box<[u8]>) {
        let mut idle = self.idle.lock();
        if idle.len() * (self.size + PLACE) < self.kept {
            idle.push(data);
        } else {
            drop(idle);
            drop(data);
        }
    }
}

/// A pool of buffers of 1 to 65536 bytes. Cloning gives another handle to the same pool.
///
/// ```
/// let pool = gmux::pool::BufferPool::new();
/// let buffer = pool.get(1000).expect("1000 is within 1..=65536");
/// assert_eq!((buffer.len(), buffer.capacity()), (1000, 1024));
/// drop(buffer); // it goes back to the pool
/// assert!(pool.get(0).is_none() && pool.get(65537).is_none());
/// ```
#[derive(Clone)]
pub struct BufferPool {
    classes: Arc<[Class; CLASSES]>,
}

impl BufferPool {
    /// Returns an empty pool.
    #[must_use]
    pub fn new() -> Self {
        Self { classes: Arc::new(std::array::from_fn(Class::new)) }
    }

    /// Returns the pool that all sessions of the process share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<BufferPool> = LazyLock::new(BufferPool::new);
        &SHARED
    }

    /// Returns a buffer of `size` bytes (1 to 65536), or `None` for any other size. Its contents
    /// are unspecified: zeros, or bytes of an earlier user of this pool.
    #[must_use]
    pub fn get(&self, size: usize) -> Option<Buffer> {
        let class = msb(size)?;
        Some(self.take(class, size))
    }

    /// Returns a buffer for a header and `payload` bytes (1 to 65535). It takes one of the data
    /// path's classes if such a buffer leaves less than an eighth of the needed bytes unused. If
    /// not, it takes the class of [`fit`](Self::fit).
    pub(crate) fn frame(&self, payload: usize) -> Buffer {
        let (class, size) = frame_class(payload);
        self.take(class, size)
    }

    /// Returns the capacity, in bytes, of the buffer that [`frame`](Self::frame) returns for
    /// `payload` bytes.
    pub(crate) fn frame_capacity(payload: usize) -> usize {
        size_of_class(frame_class(payload).0)
    }

    /// Returns a buffer of `size` bytes (1 to 65536). Above 4096 bytes, at most a fifth of it is
    /// unused.
    pub(crate) fn fit(&self, size: usize) -> Option<Buffer> {
        Some(self.take(fit_class(size)?, size))
    }

    fn take(&self, class: usize, len: usize) -> Buffer {
        match self.classes.get(class) {
            Some(home) => Buffer { data: home.take(), len, home: Some((self.clone(), class)) },
            None => Buffer { data: vec![0; len].into_boxed_slice(), len, home: None },
        }
    }

    /// Returns the number of idle buffers, over all classes.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.classes.iter().map(|class| class.idle.lock().len()).sum()
    }
}

impl Default for BufferPool {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufferPool").field("idle", &self.idle()).finish()
    }
}

/// Returns the power-of-two class of a size: the exponent of the smallest power of two that is
/// large enough. Returns `None` if `size` isn't 1 to 65536.
///
/// ```
/// assert_eq!(gmux::pool::msb(1), Some(0));
/// assert_eq!(gmux::pool::msb(1000), Some(10));
/// assert_eq!(gmux::pool::msb(65537), None);
/// ```
#[must_use]
pub fn msb(size: usize) -> Option<usize> {
    match size {
        1..=MAX_BUFFER => Some(size.next_power_of_two().trailing_zeros() as usize),
        _ => None,
    }
}

/// A buffer from a [`BufferPool`]. When the buffer is dropped, it returns to the pool. It derefs to
/// its `len` bytes.
pub struct Buffer {
    data: Box<[u8]>,
    len: usize,
    home: Option<(BufferPool, usize)>,
}

impl Buffer {
    /// Returns the pool that the buffer goes back to.
    pub(crate) fn pool(&self) -> Option<&BufferPool> {
        self.home.as_ref().map(|(pool, _)| pool)
    }

    /// Returns the bytes that the buffer occupies: the size of its class.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.data.len()
    }

    /// Shortens or lengthens the buffer. A length above the capacity becomes the capacity.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.data.len());
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.data[..self.len]
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .field("capacity", &self.data.len())
            .finish()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some((pool, class)) = self.home.take()
            && let Some(home) = pool.classes.get(class)
        {
            home.put(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_outside_the_classes_are_refused() {
        let pool = BufferPool::new();
        assert!(pool.get(0).is_none());
        assert!(pool.get(65537).is_none());
        assert!(pool.get(usize::MAX).is_none());
    }

    #[test]
    fn every_size_gets_its_length_and_wastes_at_most_half() {
        let pool = BufferPool::new();
        for size in 1..=MAX_BUFFER {
            let buffer = pool.get(size).unwrap();
            assert_eq!(buffer.len(), size);
            assert!(
                buffer.capacity() >= size && buffer.capacity() < 2 * size,
                "{size}: {}",
                buffer.capacity()
            );
        }
        for payload in 1..=65535 {
            let buffer = pool.frame(payload);
            assert_eq!(buffer.len(), payload + HEADER_LEN);
            assert!(buffer.capacity() <= 2 * buffer.len(), "{payload}: {}", buffer.capacity());
            assert_eq!(BufferPool::frame_capacity(payload), buffer.capacity());
        }
    }

    #[test]
    fn a_fitting_buffer_wastes_at_most_a_fifth() {
        let pool = BufferPool::new();
        for size in 1..=MAX_BUFFER {
            let buffer = pool.fit(size).unwrap();
            assert_eq!(buffer.len(), size);
            let most = if size <= 4096 { 2 * size } else { size / 4 * 5 + 5 };
            assert!(
                buffer.capacity() >= size && buffer.capacity() <= most,
                "{size}: {}",
                buffer.capacity()
            );
        }
        assert!(pool.fit(0).is_none() && pool.fit(MAX_BUFFER + 1).is_none());
    }

    #[test]
    fn a_dropped_buffer_is_the_next_one_out() {
        let pool = BufferPool::new();
        let first = pool.get(3000).unwrap();
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.idle(), 1);
        assert_eq!(pool.get(4096).unwrap().as_ptr(), address);
        assert_eq!(pool.frame(32768).capacity(), HEADER_LEN + 32768);
    }

    #[test]
    fn a_burst_is_given_back() {
        let pool = BufferPool::new();
        let burst: Vec<_> = (0..200).map(|_| pool.get(65536).unwrap()).collect();
        drop(burst);
        assert_eq!(pool.idle(), (4 << 20) / 65536);
    }

    #[test]
    fn what_a_peer_can_make_the_process_keep_is_bounded_over_all_sizes() {
        let kept = |class| kept_bytes(class).next_multiple_of(size_of_class(class));
        let most: usize = (0..CLASSES).map(kept).sum();
        assert!(most <= 65 << 20, "{most}"); // the last buffer may exceed what a class keeps
    }
}

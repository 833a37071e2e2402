//! The threads, descriptors and memory that a process holds. Tests compare two snapshots, to show
//! that everything is as it was before.
//!
//! Memory is counted in two ways:
//!
//! - The system says how much is resident. The allocator rounds this up by megabytes.
//! - [`Counting`] counts live allocations exactly, if a test binary makes it its global allocator.
//!
//! Allocations whose size is one of the pool's classes are mostly idle buffers. Their number may
//! vary, so [`Counting`] counts their bytes apart. A session or stream that is left behind is about
//! a dozen allocations of other sizes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::{gmux_threads, threads, until};

/// Counts live allocations, and passes every call on to the system's allocator.
pub struct Counting;

static OTHERS: AtomicI64 = AtomicI64::new(0);
static POOLED: AtomicI64 = AtomicI64::new(0);

/// Whether a buffer of the pool may have this size:
///
/// - a power of two from 16 on: a header, and the few bytes of a frame that was cut
/// - a quarter step between powers of two, from 4096 on
/// - a header and a payload
fn is_pool_size(size: usize) -> bool {
    let power = size >= 16 && size.is_power_of_two();
    let quarter = size >= 4096 && size.is_multiple_of(1 << (size.ilog2() - 2));
    let frame = size > 4096 && (size - 8).is_power_of_two();
    size <= 65543 && (power || quarter || frame || size == 8 + 65535)
}

fn count(size: usize, sign: i64) {
    if is_pool_size(size) {
        POOLED.fetch_add(sign * size as i64, Relaxed);
    } else {
        OTHERS.fetch_add(sign, Relaxed);
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout.size(), -1);
        count(size, 1);
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        unsafe { System.dealloc(memory, layout) }
    }
}

/// The resources of the process at one moment.
#[derive(Debug, Clone, Copy)]
pub struct ProcessSnapshot {
    /// Threads whose name begins with `gmux-`.
    pub threads: usize,
    /// Open descriptors.
    pub descriptors: usize,
    /// Resident memory, in bytes.
    pub resident: i64,
    /// Number of live allocations of sizes that are no class of the pool. Zero without
    /// [`Counting`].
    pub blocks: i64,
    /// Bytes in live allocations of the pool's sizes. Zero without [`Counting`].
    pub pooled: i64,
}

impl ProcessSnapshot {
    pub fn now() -> Self {
        Self {
            threads: gmux_threads().len(),
            // One descriptor is that of the directory.
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() - 1),
            resident: resident("self"),
            blocks: OTHERS.load(Relaxed),
            pooled: POOLED.load(Relaxed),
        }
    }

    /// Waits until gmux's threads are gone, as after the last session's end, and until at most
    /// `before` threads have this thread's name. `before` is what [`namesakes`] returned before the
    /// first session began. The watchdog bounds the wait.
    pub fn settled(before: usize) -> Self {
        until(|| gmux_threads().is_empty() && namesakes() <= before);
        Self::now()
    }

    /// Asserts that there are as many threads and descriptors as in `before`, and that memory has
    /// grown by no more than `margin`.
    #[track_caller]
    pub fn assert_back_to(&self, before: &Self, margin: Margin) {
        assert_eq!(
            (self.threads, self.descriptors),
            (before.threads, before.descriptors),
            "{self}\nbefore: {before}"
        );
        assert!(
            self.blocks <= before.blocks + margin.blocks,
            "allocations: {self}\nbefore: {before}"
        );
        assert!(self.pooled <= before.pooled + margin.pooled, "buffers: {self}\nbefore: {before}");
        assert!(
            self.resident <= before.resident + margin.resident,
            "resident memory: {self}\nbefore: {before}"
        );
    }
}

/// Returns how many threads have this thread's name. A new thread has its parent's name until it
/// sets its own. Threads of the harness come and go under other names.
pub fn namesakes() -> usize {
    let Ok(name) = fs::read_to_string("/proc/thread-self/comm") else { return 0 };
    threads().iter().filter(|other| *other == name.trim()).count()
}

/// The allowed growth of memory.
#[derive(Debug, Clone, Copy)]
pub struct Margin {
    pub resident: i64,
    pub blocks: i64,
    pub pooled: i64,
}

impl fmt::Display for ProcessSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} threads, {} descriptors, {} KiB resident, {} allocations, {} KiB of the pool's \
             sizes",
            self.threads,
            self.descriptors,
            self.resident / 1024,
            self.blocks,
            self.pooled / 1024
        )
    }
}

/// Returns the resident memory of a process (`self`, or a process id), in bytes.
pub fn resident(process: &str) -> i64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0) * 1024
}

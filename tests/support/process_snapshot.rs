//! What a process holds: threads of gmux's, descriptors, memory. For tests that end with "as it was
//! before".
//!
//! Memory is counted twice. The system says what is resident, which the allocator rounds up by
//! megabytes; [`Counting`], where a test binary makes it its global allocator, counts live
//! allocations exactly. Those whose size is one of the pool's classes are mostly its idle buffers,
//! whose number may vary, so they are counted apart, in bytes; of all others a session or stream
//! that is left behind is a dozen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::{gmux_threads, threads, until};

/// Counts what is live; everything is the system's allocator's.
pub struct Counting;

static OTHERS: AtomicI64 = AtomicI64::new(0);
static POOLED: AtomicI64 = AtomicI64::new(0);

/// Whether a pool's buffer may be that large: from 16 bytes on (a header, and the few bytes of a
/// frame that was cut) powers of two, quarter steps from 4096 on, a header and a payload.
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

// SAFETY: everything is passed on to the system's allocator as it came.
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

/// What there is at one moment.
#[derive(Debug, Clone, Copy)]
pub struct ProcessSnapshot {
    /// Threads whose name begins with `gmux-`.
    pub threads: usize,
    /// Open descriptors.
    pub descriptors: usize,
    /// Resident memory, in bytes.
    pub resident: i64,
    /// Live allocations of sizes that the pool has no class for. Zero without [`Counting`].
    pub blocks: i64,
    /// Bytes of live allocations of the others.
    pub pooled: i64,
}

impl ProcessSnapshot {
    pub fn now() -> Self {
        Self {
            threads: gmux_threads().len(),
            // one is the directory's
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() - 1),
            resident: resident("self"),
            blocks: OTHERS.load(Relaxed),
            pooled: POOLED.load(Relaxed),
        }
    }

    /// Waits until gmux's threads are gone, as after the last session's end, and no more than
    /// `before` threads are called as this one is, as [`namesakes`] said before the first. The
    /// watchdog bounds it.
    pub fn settled(before: usize) -> Self {
        until(|| gmux_threads().is_empty() && namesakes() <= before);
        Self::now()
    }

    /// No thread, no descriptor more than `before`, and memory within the margins: of resident
    /// bytes, of blocks, of pooled bytes.
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

/// How many threads are called as this one is. A thread that has only just begun is called as the
/// one that made it, until it gives itself its name; the harness comes and goes with threads of
/// other names.
pub fn namesakes() -> usize {
    let Ok(name) = fs::read_to_string("/proc/thread-self/comm") else { return 0 };
    threads().iter().filter(|other| *other == name.trim()).count()
}

/// By how much memory may be more than before.
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

/// Resident memory of a process (`self`, or a number), in bytes.
pub fn resident(process: &str) -> i64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0) * 1024
}

//! After each batch of seeds the process has to be as it was: no thread of gmux's, no memory that grows.
//!
//! Memory is counted by the allocator, in live allocations, of two sorts. Those whose size is one of the pool's classes are mostly its
//! idle buffers: their number may vary, up to what the pool keeps. All others have to be as many as before: a session, stream or
//! handle that is left behind is a dozen of them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::gmux_threads;

struct Counting;

/// Live allocations of sizes that the pool has no class for.
static OTHERS: AtomicI64 = AtomicI64::new(0);
/// Live bytes of the others.
static POOLED: AtomicI64 = AtomicI64::new(0);

/// Whether a pool's buffer may be that large: powers of two, quarter steps from 4096 bytes on, a header and a payload.
fn is_pool_size(size: usize) -> bool {
    let quarters = size >= 4096 && size.is_multiple_of(1 << (size.ilog2() - 2));
    let frame = size > 4096 && (size - 8).is_power_of_two();
    size.is_power_of_two() || quarters || frame || size == 8 + 65535
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

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// So many allocations more may be live than after the first batches: what threads and tables of the runtime leave behind.
const SLACK: i64 = 30;
/// Batches before memory counts: pools, tables and thread-locals are set up.
const WARM_UP: usize = 2;

/// What was left after each batch.
#[derive(Default)]
pub struct Leaks {
    others: Vec<i64>,
    pooled: Vec<i64>,
}

impl Leaks {
    /// Waits until gmux's threads are gone; then memory has to be as before.
    pub fn check(&mut self, batch: &[u64]) {
        let until = Instant::now() + Duration::from_secs(60);
        while !gmux_threads().is_empty() {
            assert!(Instant::now() < until, "after seeds {batch:?} threads are left: {:?}", gmux_threads());
            thread::sleep(Duration::from_millis(1)); // there is no event for a thread's end that isn't joined
        }
        let (others, pooled) = (OTHERS.load(Relaxed), POOLED.load(Relaxed));
        if let Some(first) = self.others.get(WARM_UP) {
            assert!(
                others <= first + SLACK,
                "after seeds {batch:?} {others} allocations are live, before {:?}",
                self.others
            );
        }
        self.others.push(others);
        self.pooled.push(pooled);
    }
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |list: &[i64]| {
            let (first, last) = (list.get(WARM_UP).or(list.last()).copied(), list.last().copied());
            (first.unwrap_or(0), list.iter().copied().max().unwrap_or(0), last.unwrap_or(0))
        };
        let ((first, most, last), (pool_first, pool_most, pool_last)) = (at(&self.others), at(&self.pooled));
        write!(
            f,
            "live allocations: {first} after the first batches, {most} at most, {last} at the end; of the pool's sizes, {pool_first}, {pool_most}, {pool_last} bytes"
        )
    }
}

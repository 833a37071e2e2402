//! After each batch of seeds, the process must hold no more of gmux's threads, descriptors and
//! memory than after the first batch. The first batch sets up pools, tables and thread-locals.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::gmux_threads;
use crate::support::process_snapshot::{Counting, Margin, ProcessSnapshot, namesakes};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allowed growth of the process in the small run, or when one seed runs again and again.
///
/// - Blocks: one or two come and go. A session that is left behind is eight or more, a stream four.
/// - Buffers: the pool keeps as many as the busiest moment needed. That was up to 400 KiB more than
///   in the first batch. A loss shows from 4 KiB a seed on.
pub const SMALL: Margin = Margin { resident: 16 << 20, blocks: 3, pooled: 640 << 10 };

/// Allowed growth for thousands of different seeds. Few of them have a moment that is busier than
/// all before. The growth was 1.6 MiB after 2000 seeds.
pub const LARGE: Margin = Margin { resident: 32 << 20, blocks: 3, pooled: 3 << 20 };

/// Number of times that a batch with more blocks is run again.
const AGAIN: i64 = 5;

/// The resources that the process held after the first batch.
pub struct Leaks {
    margin: Margin,
    /// Threads that have the name of the test's thread while no seed runs.
    namesakes: usize,
    first: Option<ProcessSnapshot>,
}

impl Leaks {
    /// Must be called before the first batch.
    pub fn new(margin: Margin) -> Self {
        Self { margin, namesakes: namesakes(), first: None }
    }

    /// Waits until gmux's threads are gone.
    pub fn settle(&self, batch: &[u64]) {
        let until = Instant::now() + Duration::from_secs(60);
        while !gmux_threads().is_empty() {
            assert!(
                Instant::now() < until,
                "after seeds {batch:?} threads are left: {:?}",
                gmux_threads()
            );
            // The end of a thread that isn't joined raises no event.
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asserts that the process holds no more than before. The test's own notes of the batch must
    /// be gone.
    ///
    /// If there are more blocks, the batch is run `again`, [`AGAIN`] times. Allocations that are
    /// made once, by the first who needs them, aren't made again by the same seeds. But a leak
    /// repeats each time, so even one block a batch is seen.
    pub fn check(&mut self, batch: &[u64], again: impl Fn()) {
        let mut snapshot = ProcessSnapshot::settled(self.namesakes);
        if let (Some(from), Some(to)) = (batch.first(), batch.last()) {
            println!("after seeds {from} to {to}: {snapshot}");
        }
        let first = *self.first.get_or_insert(snapshot);
        if snapshot.blocks > first.blocks + self.margin.blocks {
            for _ in 0..AGAIN {
                again();
                self.settle(batch);
            }
            let more = ProcessSnapshot::settled(self.namesakes);
            println!("after the same seeds, {AGAIN} times: {more}");
            assert!(
                more.blocks < snapshot.blocks + AGAIN,
                "allocations, time after time: {more}\nbefore: {snapshot}"
            );
            self.first = Some(ProcessSnapshot { blocks: more.blocks, ..first });
            snapshot = more;
        }
        snapshot.assert_back_to(self.first.get_or_insert(snapshot), self.margin);
    }
}

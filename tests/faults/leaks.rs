//! After each batch of seeds the process has to be as it was after the first: no thread of gmux's,
//! no descriptor, no memory more.
//!
//! The first batch sets up pools, tables and thread-locals.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::gmux_threads;
use crate::support::process_snapshot::{Counting, Margin, ProcessSnapshot, namesakes};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// By how much the process may have grown in the small run, or with one seed again and again.
/// Blocks: one or two come and go; a session that is left behind is eight or more, a stream four.
/// Buffers: the pool keeps what the busiest moment needed, which was up to 400 KiB more than in the
/// first batch; what is lost is seen from 4 KiB a seed on.
pub const SMALL: Margin = Margin { resident: 16 << 20, blocks: 3, pooled: 640 << 10 };

/// The same for any seeds, and thousands of them. Most have no moment that is busier than those
/// before: it was 1.6 MiB more after 2000.
pub const LARGE: Margin = Margin { resident: 32 << 20, blocks: 3, pooled: 3 << 20 };

/// How often a batch is run again that seems to have lost something.
const AGAIN: i64 = 5;

/// What the process held after the first batch.
pub struct Leaks {
    margin: Margin,
    /// Threads that are called as the test's own while no seed runs.
    namesakes: usize,
    first: Option<ProcessSnapshot>,
}

impl Leaks {
    /// To be made before the first batch.
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
            // there is no event for a thread's end that isn't joined
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// All has to be as before. The test's own notes of the batch are gone.
    ///
    /// Where there are more blocks, the batch is run `again`, [`AGAIN`] times. What is made once,
    /// by whoever needs it first, isn't made again by the same seeds; what they lost, they lose
    /// each time, so that one block a batch is seen.
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

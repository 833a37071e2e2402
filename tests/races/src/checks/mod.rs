//! The checks, and the way in which one is explored.
//!
//! A check is a function that starts some threads against each other and asserts the result.
//! [`Check::explore`] runs it many times. Two schedulers choose the order of the threads' steps.
//! One chooses at random at each step. The other (PCT) gives threads random priorities and changes
//! them a few times, which finds faults that need one thread to be slow for long.
//!
//! An execution fails in two cases:
//!
//! - An assertion doesn't hold.
//! - Threads are left, and none of them can run: a wake-up was lost, or a thread doesn't end.

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;

use facade::real::Instant;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{FailurePersistence, Runner};

mod line;
mod parts;
mod sessions;
mod streams;

/// Number of priority changes of PCT in an execution. It is enough to stop a thread at two places.
const PCT_DEPTH: usize = 3;

/// Upper limit of steps. An execution that takes more is caught in a loop.
const MAX_STEPS: usize = 200_000;

/// Stack of each thread, in bytes. The library's deepest calls stay well below it.
const STACK: usize = 128 * 1024;

pub struct Check {
    pub name: &'static str,
    /// The subject of the check, for the list.
    pub about: &'static str,
    /// Whether it moves the clock.
    pub time: bool,
    /// Whether the check reports that an execution [`reach`](facade::breaks::reach)es its subject.
    /// Then at least one execution in a hundred must do so.
    pub reaches: bool,
    pub body: fn(),
}

/// The settings of an exploration.
pub struct Plan {
    /// Executions for each scheduler.
    pub schedules: usize,
    pub seed: u64,
    /// Whether to print a failing schedule, for `replay`.
    pub print: bool,
}

/// The result of an exploration.
pub struct Report {
    /// Such as `2000 random in 0.8 s, 2000 pct in 0.9 s`.
    pub text: String,
    pub failed: bool,
}

/// Returns all checks.
pub fn all() -> Vec<Check> {
    [parts::CHECKS, streams::CHECKS, sessions::CHECKS].concat()
}

impl Clone for Check {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl Check {
    pub fn explore(&self, plan: &Plan) -> Report {
        type Make = fn(&Plan) -> Box<dyn Scheduler + Send>;
        let schedulers: [(&str, Make); 2] = [
            ("random", |plan| Box::new(RandomScheduler::new_from_seed(plan.seed, plan.schedules))),
            ("pct", |plan| {
                Box::new(PctScheduler::new_from_seed(plan.seed, PCT_DEPTH, plan.schedules))
            }),
        ];
        let mut texts = Vec::new();
        for (name, scheduler) in schedulers {
            let begin = Instant::now();
            let (begun, reached, result) = self.run(scheduler(plan), plan.print);
            let seconds = begin.elapsed().as_secs_f64();
            if let Err(message) = result {
                texts.push(format!("FAILED at schedule {begun} of {name}: {message}"));
                return Report { text: texts.join(", "), failed: true };
            }
            if self.reaches && reached * 100 < begun {
                texts.push(format!(
                    "FAILED: only {reached} of {begun} executions got to what it is about ({name})"
                ));
                return Report { text: texts.join(", "), failed: true };
            }
            let share =
                if self.reaches { format!(" (reached by {reached})") } else { String::new() };
            texts.push(format!("{begun} {name}{share} in {seconds:.1} s"));
        }
        Report { text: texts.join(", "), failed: false }
    }

    /// Runs one schedule again, from its printed form.
    pub fn replay(&self, schedule: &str) -> Report {
        let mut scheduler = ReplayScheduler::new_from_encoded(schedule);
        scheduler.set_allow_incomplete();
        let (_, _, result) = self.run(Box::new(scheduler), false);
        let failed = result.is_err();
        Report {
            text: result
                .map_or_else(|message| format!("FAILED: {message}"), |()| "passed".to_owned()),
            failed,
        }
    }

    /// Runs executions. Returns how many were begun, how many reached the check's subject, and the
    /// message of the last one if it failed.
    fn run(
        &self,
        scheduler: Box<dyn Scheduler + Send>,
        print: bool,
    ) -> (usize, usize, Result<(), String>) {
        let mut config = shuttle::Config::new();
        config.stack_size = STACK;
        config.max_steps = shuttle::MaxSteps::FailAfter(MAX_STEPS);
        config.silence_warnings = true;
        // A failed execution stops at its failure. Otherwise its unwinding might fail in other
        // places and hide the cause.
        config.ungraceful_shutdown_config.immediately_return_on_panic = true;
        config.failure_persistence =
            if print { FailurePersistence::Print } else { FailurePersistence::None };
        let begun = Arc::new(AtomicUsize::new(0));
        let reached = Arc::new(AtomicUsize::new(0));
        let time = self.time;
        let body = self.body;
        let count = Arc::clone(&begun);
        let reach = Arc::clone(&reached);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            Runner::new(scheduler, config).run(move || {
                count.fetch_add(1, SeqCst);
                // This belongs to the execution before.
                reach.fetch_add(usize::from(facade::breaks::take_reached()), SeqCst);
                facade::time::reset(time);
                body();
            });
        }));
        let text = |panic: Box<dyn core::any::Any + Send>| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or(panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
                .unwrap_or("a panic".to_owned())
        };
        (begun.load(SeqCst), reached.load(SeqCst), result.map_err(text))
    }
}

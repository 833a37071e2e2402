//! The result of a transfer, in the same form at both ends.
//!
//! Invariant: a transfer is complete only if nothing was refused, nothing is missing and there was
//! no other problem.

use std::fmt::Display;

use gmux::SessionStats;

use super::names;
use super::protocol::Kind;

#[derive(Debug, Default)]
pub struct Report {
    pub files: u64,
    pub directories: u64,
    /// Size of all files that are in place, in bytes.
    pub bytes: u64,
    pub seconds: f64,
    pub stats: SessionStats,
    /// Files that the receiver refused, and files that couldn't be read. Each is a name and a
    /// reason, for people.
    refused: Vec<String>,
    /// Names that may not be in place.
    missing: Vec<String>,
    /// Other problems.
    pub problems: Vec<String>,
}

impl Report {
    pub fn placed(&mut self, kind: Kind, length: u64) {
        match kind {
            Kind::File => self.files += 1,
            Kind::Directory => self.directories += 1,
            Kind::List => {}
        }
        self.bytes += length;
    }

    pub fn refused(&mut self, name: &[u8], why: impl Display) {
        self.refused.push(format!("\"{}\": {why}", names::show(name)));
    }

    pub fn missing(&mut self, name: &[u8], why: impl Display) {
        self.missing.push(format!("\"{}\": {why}", names::show(name)));
    }

    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.missing.is_empty() && self.problems.is_empty()
    }

    /// Prints everything that went wrong.
    pub fn complain(&self) {
        for problem in &self.problems {
            eprintln!("error: {problem}");
        }
        for refused in &self.refused {
            eprintln!("refused {refused}");
        }
        for missing in &self.missing {
            eprintln!("missing {missing}");
        }
        if !self.is_complete() {
            eprintln!(
                "NOT complete: {} refused, {} missing",
                self.refused.len(),
                self.missing.len()
            );
        }
    }

    /// Prints a summary.
    pub fn summarize(&self, verb: &str) {
        let Self { files, directories, bytes, seconds, stats, .. } = self;
        let rate = *bytes as f64 / 1e6 / seconds.max(1e-9);
        println!(
            "{verb} {files} files ({bytes} bytes) and {directories} empty directories in \
             {seconds:.3} s: {rate:.1} MB/s"
        );
        println!(
            "{} frames sent, {} received; at most {} streams open at once",
            stats.frames_sent, stats.frames_received, stats.streams_peak
        );
    }
}

//! The receiver has `jobs` threads, and each accepts one stream at a time. So it
//! handles at most `jobs` streams at once, and further streams wait in the session's backlog.
//!
//! Invariants:
//! - A file gets its final name only after it was received completely and verified.
//! - A temporary file is removed at the end of the call that made it, however that call ends.
//! - A name is taken at most once, and never both as a file and as a directory.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gmux::{Error, Session, Stream};
use indicatif::ProgressBar;
use tempfile::NamedTempFile;

use super::names::{self, Target};
use super::protocol::{self, Kind, List, Request, invalid};
use super::report::Report;

/// Time limit for an accepted stream that brings no data. A sender that opens streams and stays
/// silent must not occupy all threads forever. The limit leaves time for the sender's slowest disk
/// to read a block.
const NO_DATA_TIMEOUT: Duration = Duration::from_secs(60);

/// Receives everything that the peer sends, into `root`, until it closes the session.
pub fn receive(session: &Session, root: &Path, jobs: usize, bar: &ProgressBar) -> Report {
    let started = Instant::now();
    let receiver = Receiver { session, root, bar, state: Mutex::default() };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                // An error of `incoming` means that the session has ended. Every thread gets this
                // error. So the reason is taken only once, from `close_reason` below.
                for stream in session.incoming().map_while(Result::ok) {
                    receiver.handle(&stream);
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let lost = session.close_reason().filter(|reason| !matches!(reason, Error::PeerClosed));
    let closed = session.close();

    let state = receiver.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut report = state.report;
    report.seconds = seconds;
    report.stats = session.stats();
    report.problems.extend(lost.or(closed.err()).map(|error| format!("the connection: {error}")));
    match &state.list {
        None => report.problems.push("the sender never said what it would send".to_owned()),
        Some(list) => {
            for name in list.names.iter().filter(|name| !state.names.contains_key(*name)) {
                report.missing(name, "never came");
            }
        }
    }
    for (name, state) in &state.names {
        if *state == Taken::Begun {
            report.missing(name, "came in part");
        }
    }
    report
}

struct Receiver<'a> {
    session: &'a Session,
    /// Canonical, so that no directory above it can be a link.
    root: &'a Path,
    bar: &'a ProgressBar,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    list: Option<List>,
    /// The names of all streams that were accepted or refused.
    names: BTreeMap<Vec<u8>, Taken>,
    /// The names of all directories that accepted names need.
    directories: HashSet<Vec<u8>>,
    report: Report,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Begun,
    Placed,
    Refused,
}

impl Receiver<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives one stream, and answers it.
    fn handle(&self, mut stream: &Stream) {
        let answer = match self.take(stream) {
            Ok(()) => Ok(()),
            // A stream that was cut off counts as missing, not as refused.
            Err(_) if self.session.is_closed() => return,
            Err(error) => {
                let name = stream.name_bytes();
                let mut state = self.state();
                if !name.is_empty() {
                    // If two streams have the same name, the second is refused. The state of the
                    // first stays.
                    state.names.entry(name.to_vec()).or_insert(Taken::Refused);
                }
                state.report.refused(name, &error);
                Err(error.to_string())
            }
        };
        // If the answer doesn't arrive, the connection is lost, and both programs report that.
        let _ = protocol::write_answer(&mut stream, &answer);
    }

    fn take(&self, mut stream: &Stream) -> io::Result<()> {
        stream.set_no_data_timeout(Some(NO_DATA_TIMEOUT))?;
        let request = Request::read(&mut stream)?;
        match request.kind {
            Kind::List => self.take_list(stream, &request),
            Kind::File | Kind::Directory => self.take_entry(stream, &request),
        }
    }

    fn take_list(&self, mut stream: &Stream, request: &Request) -> io::Result<()> {
        if !stream.name_bytes().is_empty()
            || request.length > List::MAX
            || self.state().list.is_some()
        {
            return Err(invalid("the list of names comes once, unnamed, and in 64 MiB at most"));
        }
        protocol::write_answer(&mut stream, &Ok(()))?;
        let mut bytes = Vec::new();
        let digest = protocol::copy(&mut stream, &mut bytes, request.length, |_| Ok(()))?;
        protocol::read_trailer(&mut stream, &digest)?;
        let list = List::decode(&bytes)?;
        self.bar.set_length(list.total);
        self.state().list.get_or_insert(list);
        Ok(())
    }

    fn take_entry(&self, stream: &Stream, request: &Request) -> io::Result<()> {
        let name = stream.name_bytes();
        let parts = names::check(name)?;
        let target = if request.kind == Kind::File { Target::File } else { Target::Directory };
        if target == Target::Directory && request.length > 0 {
            return Err(invalid("a directory with content"));
        }
        names::locate(self.root, &parts, target, false)?;
        self.claim(name, target)?;
        let filled = self.fill(stream, &parts, target, request.length);
        let mut state = self.state();
        match &filled {
            Ok(()) => {
                state.names.insert(name.to_vec(), Taken::Placed);
                state.report.placed(request.kind, request.length);
            }
            Err(_) if self.session.is_closed() => {}
            Err(_) => {
                state.names.insert(name.to_vec(), Taken::Refused);
            }
        }
        filled
    }

    /// Receives the content for a claimed name, and puts it into place.
    fn fill(
        &self,
        mut stream: &Stream,
        parts: &[&OsStr],
        target: Target,
        length: u64,
    ) -> io::Result<()> {
        // A temporary file. Its name can't be mistaken for the final name, and its drop removes the
        // file.
        let mut temporary = match target {
            Target::File => Some(self.temporary()?),
            Target::Directory => None,
        };
        protocol::write_answer(&mut stream, &Ok(()))?;
        let progress = |n| {
            self.bar.inc(n as u64);
            Ok(())
        };
        let digest = match &mut temporary {
            Some(file) => protocol::copy(&mut stream, file.as_file_mut(), length, progress)?,
            None => protocol::copy(&mut stream, &mut io::sink(), length, progress)?,
        };
        protocol::read_trailer(&mut stream, &digest)?;

        // Check the path once more, because the first check may have been long ago.
        let path = names::locate(self.root, parts, target, true)?;
        if let Some(file) = temporary {
            file.persist(&path).map_err(|error| error.error)?;
        }
        Ok(())
    }

    fn temporary(&self) -> io::Result<NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(names::TEMPORARY).suffix(".part");
        // Set the permissions of a usual new file, which the umask limits. By default, `tempfile`
        // lets only the owner use the file.
        #[cfg(unix)]
        builder.permissions(fs::Permissions::from_mode(0o666));
        builder.tempfile_in(self.root)
    }

    /// Claims a name for a stream. It fails in these cases:
    /// - Another stream has the name.
    /// - The name is needed as a file, and another stream needs it as a directory, or the other way
    ///   round.
    fn claim(&self, name: &[u8], target: Target) -> io::Result<()> {
        let mut state = self.state();
        if state.names.get(name).is_some_and(|taken| *taken != Taken::Refused) {
            return Err(invalid("the name came before"));
        }
        if target == Target::File && state.directories.contains(name) {
            return Err(invalid("the name is that of a directory already"));
        }
        let ends = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(i, _)| i);
        let above: Vec<&[u8]> = ends.map(|end| &name[..end]).collect();
        for directory in &above {
            let taken = matches!(state.names.get(*directory), Some(Taken::Begun | Taken::Placed));
            if taken && !state.directories.contains(*directory) {
                return Err(invalid(format!("{} is a file already", names::show(directory))));
            }
        }
        for directory in above {
            state.directories.insert(directory.to_vec());
        }
        if target == Target::Directory {
            state.directories.insert(name.to_vec());
        }
        state.names.insert(name.to_vec(), Taken::Begun);
        Ok(())
    }
}

/// Makes the directory to receive into if it is missing. Returns its path without links.
pub fn prepare(into: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(into)?;
    into.canonicalize()
}

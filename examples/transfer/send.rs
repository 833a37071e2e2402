//! The sender has `jobs` threads, and each sends one file at a time. For each file it
//! opens a new stream.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use gmux::{Error, Session, Stream};
use indicatif::ProgressBar;

use super::protocol::{self, Kind, List, Request, invalid};
use super::report::Report;
use super::tree::{Entry, Tree};

/// Sends the tree, waits until the receiver has confirmed or refused each entry, and closes the
/// session.
pub fn send(session: &Session, tree: &Tree, jobs: usize, bar: &ProgressBar) -> Report {
    let started = Instant::now();
    let mut report = Report::default();

    let listed = send_list(session, tree);
    // Each thread takes the next file that no other has taken.
    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        while let Some(entry) = tree.entries.get(next.fetch_add(1, Ordering::Relaxed)) {
            results.push((entry, send_entry(session, entry, bar)));
        }
        results
    };
    let results = match &listed {
        Ok(()) => thread::scope(|scope| {
            let threads: Vec<_> =
                (0..jobs.min(tree.entries.len())).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("a sending thread panicked"))
                .collect()
        }),
        Err(_) => Vec::new(),
    };
    report.seconds = started.elapsed().as_secs_f64();

    for (entry, result) in results {
        match (result, entry.kind) {
            (Ok(length), kind) => report.placed(kind, length),
            (Err(error), _) if session.is_closed() => report.missing(&entry.name, error),
            (Err(error), _) => report.refused(&entry.name, error),
        }
    }
    // The close comes last, when each entry is confirmed or refused. Its result tells whether the
    // session ended without an error.
    let lost = session.close_reason();
    let closed = session.close();
    if let Err(error) = listed {
        report.problems.push(format!("the list of names was not taken: {error}"));
        tree.entries.iter().for_each(|entry| report.missing(&entry.name, "not sent"));
    }
    report
        .problems
        .extend(lost.or(closed.err()).map(|error| format!("the connection: {}", explain(&error))));
    report.stats = session.stats();
    report
}

fn explain(error: &Error) -> String {
    match error {
        Error::PeerClosed => "the receiver closed it before everything was confirmed".to_owned(),
        other => other.to_string(),
    }
}

fn send_list(session: &Session, tree: &Tree) -> io::Result<()> {
    let list = List {
        total: tree.bytes,
        names: tree.entries.iter().map(|entry| entry.name.clone()).collect(),
    };
    let bytes = list.encode();
    let request = Request { kind: Kind::List, length: bytes.len() as u64 };
    send_stream(&session.open("")?, &request, &mut bytes.as_slice(), |_| {})
}

/// Sends one file or directory. Returns its length in bytes.
fn send_entry(session: &Session, entry: &Entry, bar: &ProgressBar) -> io::Result<u64> {
    let request;
    let mut content: Box<dyn Read> = match entry.kind {
        Kind::File => {
            let file = File::open(&entry.path)?;
            request = Request { kind: entry.kind, length: file.metadata()?.len() };
            Box::new(file)
        }
        Kind::Directory | Kind::List => {
            request = Request { kind: entry.kind, length: 0 };
            Box::new(io::empty())
        }
    };
    let stream = session.open(&entry.name)?;
    send_stream(&stream, &request, &mut content, |n| bar.inc(n as u64))?;
    Ok(request.length)
} // The stream is dropped here. The drop of its last handle closes it.

fn send_stream(
    mut stream: &Stream,
    request: &Request,
    content: &mut impl Read,
    progress: impl Fn(usize),
) -> io::Result<()> {
    request.write(&mut stream)?;
    protocol::read_answer(&mut stream, None)?.map_err(invalid)?;

    // A read with a deadline in the past never waits. It returns the data that is there, or fails
    // with `TimedOut`. So a receiver that gives up, for example with a full disk, is noticed
    // between two blocks and not only after the last.
    stream.set_read_deadline(Some(Instant::now()));
    let mut refusal = None;
    let copied = protocol::copy(content, &mut &*stream, request.length, |n| {
        progress(n);
        refusal = early_refusal(stream)?;
        if refusal.is_some() { Err(invalid("refused")) } else { Ok(()) }
    });
    let digest = match copied {
        Ok(digest) => digest,
        // If the receiver gave a reason, that reason caused the failure here.
        Err(error) => {
            let reason = if refusal.is_some() { refusal } else { early_refusal(stream)? };
            return Err(reason.map_or(error, invalid));
        }
    };
    stream.set_read_deadline(None);

    stream.write_all(&digest)?;
    stream.shutdown(Shutdown::Write)?;
    protocol::read_answer(&mut stream, None)?.map_err(invalid)
}

/// Returns the receiver's reason, if the receiver has refused the file before the end of the
/// content. The stream's read deadline is in the past. So this returns at once if no answer has
/// come yet.
fn early_refusal(mut stream: &Stream) -> io::Result<Option<String>> {
    let mut status = [0];
    match stream.read(&mut status) {
        Ok(0) => Ok(Some("the receiver closed the stream without a word".to_owned())),
        Ok(_) => {
            stream.set_read_deadline(None);
            let answer = protocol::read_answer(&mut stream, Some(status[0]))?;
            Ok(Some(
                answer
                    .err()
                    .unwrap_or_else(|| "the receiver confirmed what it can't have yet".to_owned()),
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
        Err(error) => Err(error),
    }
}

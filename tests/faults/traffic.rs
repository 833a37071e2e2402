//! Runs a plan: sessions over faulty transports, and threads that use their streams. Whatever
//! fails, all these threads have to end by themselves.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use gmux::{Error, Session, Stream};

use crate::guard;
use crate::ledger::{Dropped, Ledger, ReadEnd, WriteEnd};
use crate::plan::{Action, Ending, Manner, Plan};
use crate::support::Pattern;
use crate::support::faulty::{self, INJECTED, Rng};
use crate::verdict::{self, Outcome};

/// Runs a plan and judges it.
pub fn run(plan: &Plan) -> Outcome {
    let mut rng = Rng::new(!plan.seed);
    let ((a, a_gone), (b, b_gone)) =
        faulty::connect(plan.kind, plan.capacities, plan.resets, plan.faults.clone(), &mut rng);
    let (ledger, all_done) = Ledger::new(plan);
    let sessions = [
        created(plan, 0, || Session::client(a, plan.config.clone())),
        created(plan, 1, || Session::server(b, plan.config.clone())),
    ];
    let closed: Vec<Receiver<()>> = sessions.iter().flatten().map(Session::closed).collect();
    let keep = plan.ending != Ending::LastDrop || plan.trigger.is_some();
    if keep {
        for end in [0, 1] {
            *ledger.sessions[end].lock().unwrap() = sessions[end].clone();
        }
    }
    thread::scope(|scope| {
        for (end, session) in sessions.into_iter().enumerate() {
            let Some(session) = session else { continue };
            let acceptor = session.clone();
            let ledger = &ledger;
            let rng = (rng.fork(), rng.fork());
            start(scope, ledger, move || open(scope, ledger, end, &session, rng.0));
            start(scope, ledger, move || accept(scope, ledger, end, &acceptor, rng.1, !keep));
        }
        // Everything is done, or can't be done any more.
        for closed in &closed {
            select! { recv(all_done) -> _ => break, recv(closed) -> _ => {} }
        }
        if keep {
            let Ending::Close(first) = plan.ending else { return close_both(&ledger, 0) };
            close_both(&ledger, first);
        }
    });
    // Both sessions have let go of their transports, so the sessions' threads are about to end.
    for gone in [a_gone, b_gone] {
        assert!(gone.recv().is_err());
    }
    for closed in &closed {
        assert!(closed.recv().is_err());
    }
    verdict::judge(&ledger, keep)
}

fn close_both(ledger: &Ledger<'_>, first: usize) {
    close(ledger, first);
    close(ledger, 1 - first);
}

/// Starts a session. A panic of the transport is an error at this point, and leaves nothing behind.
fn created(
    plan: &Plan,
    end: usize,
    create: impl FnOnce() -> gmux::Result<Session>,
) -> Option<Session> {
    match create() {
        Ok(session) => Some(session),
        Err(error) => {
            assert!(plan.faults[end].address && error.to_string().contains(INJECTED), "{error}");
            None
        }
    }
}

/// Starts a thread. Its panic is the seed's failure.
fn start<'s, 'e: 's>(
    scope: &'s Scope<'s, 'e>,
    ledger: &'e Ledger<'_>,
    run: impl FnOnce() + Send + 's,
) {
    let seed = ledger.plan.seed;
    let thread = thread::Builder::new().name(format!("seed-{seed}"));
    thread.spawn_scoped(scope, move || guard(seed, run)).expect("a thread");
}

fn close(ledger: &Ledger<'_>, end: usize) {
    let Some(session) = ledger.session(end) else { return };
    ledger.closing[end].store(true, SeqCst);
    let result = session.close();
    ledger.closes[end].lock().unwrap().get_or_insert(result);
}

/// Opens this end's streams.
fn open<'s, 'e: 's>(
    scope: &'s Scope<'s, 'e>,
    ledger: &'e Ledger<'_>,
    end: usize,
    session: &Session,
    mut rng: Rng,
) {
    let ours = ledger.plan.streams.iter().enumerate().filter(|(_, stream)| stream.opener == end);
    for (index, _) in ours {
        let Ok(stream) = session.open(index.to_string()) else {
            let over = session.close_reason().is_some() || ledger.closing[end].load(SeqCst);
            assert!(over, "a session that is open opens no stream");
            return;
        };
        use_stream(scope, ledger, end, index, stream, &mut rng);
    }
}

/// Accepts the other end's streams. With `few`, no more than the plan has.
fn accept<'s, 'e: 's>(
    scope: &'s Scope<'s, 'e>,
    ledger: &'e Ledger<'_>,
    end: usize,
    session: &Session,
    mut rng: Rng,
    few: bool,
) {
    let mut theirs =
        ledger.plan.streams.iter().enumerate().filter(|(_, stream)| stream.opener != end);
    loop {
        let next = theirs.next().map(|(index, _)| index);
        if few && next.is_none() {
            return;
        }
        let stream = loop {
            if !rng.chance(20) {
                break session.accept();
            }
            match session.accept_timeout(Duration::from_millis(1)) {
                Err(Error::Timeout) => {}
                other => break other,
            }
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                assert!(
                    session.close_reason().is_some() || matches!(error, Error::Closed),
                    "accept: {error}"
                );
                return;
            }
        };
        assert_eq!(stream.name().parse().ok(), next, "streams are accepted in their order");
        use_stream(scope, ledger, end, next.expect("a stream that was opened"), stream, &mut rng);
    }
}

/// Starts the threads that use one end of a stream.
fn use_stream<'s, 'e: 's>(
    scope: &'s Scope<'s, 'e>,
    ledger: &'e Ledger<'_>,
    end: usize,
    index: usize,
    stream: Stream,
    rng: &mut Rng,
) {
    let entry = &ledger.ends[index][end];
    assert!(!entry.exists.swap(true, SeqCst), "a stream was accepted twice");
    *entry.closed.lock().unwrap() = Some(stream.closed());
    let mut user = |stream| User {
        scope,
        ledger,
        index,
        end,
        stream,
        rng: rng.fork(),
        out: Pattern::new(pattern(ledger.plan.seed, index, end)),
        inn: Pattern::new(pattern(ledger.plan.seed, index, 1 - end)),
        buf: Vec::new(),
    };
    let done = Arc::new(Done(ledger));
    let plan = &ledger.plan.streams[index];
    let mut first = user(stream.clone());
    first.notify();
    if plan.ping_pong {
        let opened = plan.opener == end;
        start(scope, ledger, move || {
            if opened {
                first.ask()
            } else {
                first.answer()
            }
            drop(first);
            drop(done);
        });
        return;
    }
    let mut second = user(stream);
    let also_done = Arc::clone(&done);
    start(scope, ledger, move || {
        first.write_all();
        drop(first);
        drop(done);
    });
    start(scope, ledger, move || {
        second.read_all();
        drop(second);
        drop(also_done);
    });
}

/// One end of a stream is done when this is dropped.
struct Done<'e, 'p>(&'e Ledger<'p>);

impl Drop for Done<'_, '_> {
    fn drop(&mut self) {
        self.0.end_done();
    }
}

/// Returns the seed of the bytes that one end sends.
fn pattern(seed: u64, index: usize, end: usize) -> u64 {
    Rng::new(seed.wrapping_mul(1000) + index as u64 * 2 + end as u64).word()
}

/// A thread with a handle to one end of a stream.
struct User<'s, 'e, 'p> {
    scope: &'s Scope<'s, 'e>,
    ledger: &'e Ledger<'p>,
    index: usize,
    end: usize,
    stream: Stream,
    rng: Rng,
    out: Pattern,
    inn: Pattern,
    buf: Vec<u8>,
}

impl<'s, 'e: 's, 'p> User<'s, 'e, 'p> {
    fn way_out(&self) -> &'e crate::ledger::Way {
        &self.ledger.ways[self.index][self.end]
    }

    fn way_in(&self) -> &'e crate::ledger::Way {
        &self.ledger.ways[self.index][1 - self.end]
    }

    fn entry(&self) -> &'e crate::ledger::End {
        &self.ledger.ends[self.index][self.end]
    }

    fn manner(&self) -> Manner {
        self.ledger.plan.streams[self.index].manner[self.end]
    }

    fn notify(&self) {
        let dropped = Dropped(Arc::clone(&self.entry().notifiers));
        dropped.0.set.fetch_add(1, SeqCst);
        self.stream.set_close_notifier(move |stream| {
            let notifiers = &dropped.0;
            assert!(!stream.name().is_empty());
            notifiers.called.fetch_add(1, SeqCst);
        });
    }

    // ---- calls ----------------------------------------------------------------------------------

    /// Makes one write of `data`. Tries again after soft errors.
    fn write(&mut self, data: &[u8]) -> Result<usize, Error> {
        loop {
            self.quirk();
            match self.stream.write(data) {
                Ok(n) => {
                    assert!(
                        (1..=data.len()).contains(&n),
                        "a write of {} bytes took {n}",
                        data.len()
                    );
                    self.way_out().accepted.fetch_add(n as u64, SeqCst);
                    self.moved(n);
                    return Ok(n);
                }
                Err(error) => self.failed(error)?,
            }
        }
    }

    /// Writes all of the next `len` bytes.
    fn write_next(&mut self, len: usize) -> Result<(), Error> {
        let mut data = vec![0; len];
        self.out.fill(&mut data);
        let mut done = 0;
        while done < len {
            done += self.write(&data[done..])?;
        }
        Ok(())
    }

    /// Makes one read of up to `max` bytes, and checks the bytes. Tries again after soft errors.
    fn read(&mut self, max: usize) -> Result<usize, Error> {
        loop {
            self.quirk();
            let mut buf = std::mem::take(&mut self.buf);
            buf.resize(max, 0);
            let result = self.stream.read(&mut buf);
            match result {
                Ok(n) => {
                    assert!(n <= max);
                    self.check(&buf[..n]);
                    self.buf = buf;
                    return Ok(n);
                }
                Err(error) => {
                    self.buf = buf;
                    self.failed(error)?;
                }
            }
        }
    }

    /// Reads through `write_to`, with a writer that fails after `max` bytes. The bytes that the
    /// writer didn't take have to stay in the stream. Returns 0 at the end.
    fn read_by_writer(&mut self, max: usize) -> Result<usize, Error> {
        loop {
            let stream = self.stream.clone();
            let mut sink = Sink { user: self, took: 0, max };
            let result = stream.write_to(&mut sink);
            let took = sink.took;
            match result {
                Ok(total) => {
                    assert_eq!(total, took as u64);
                    // The next read finds the end once more.
                    return if took > 0 { Ok(took) } else { Ok(0) };
                }
                Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Full>()) => {
                    return Ok(took);
                }
                Err(error) => {
                    self.failed(error)?;
                    if took > 0 {
                        return Ok(took);
                    }
                }
            }
        }
    }

    fn check(&mut self, data: &[u8]) {
        let mut expected = vec![0; data.len()];
        self.inn.fill(&mut expected);
        let at = self.way_in().read.fetch_add(data.len() as u64, SeqCst);
        assert!(
            data == expected,
            "stream {}, end {}: wrong data at {at} + {}",
            self.index,
            self.end,
            data.len()
        );
        self.moved(data.len());
    }

    /// Handles the error of a call. Soft errors come from this end's own settings, which are reset.
    fn failed(&self, error: io::Error) -> Result<(), Error> {
        let kind = error.kind();
        assert!(
            !matches!(kind, io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof),
            "{kind:?} surfaced: {error}"
        );
        let error = Error::from(error);
        match error {
            Error::Timeout => {
                self.stream.set_deadline(None);
                self.stream.set_read_timeout(None).unwrap();
                self.stream.set_write_timeout(None).unwrap();
            }
            Error::WouldBlock => self.stream.set_nonblocking(false).unwrap(),
            Error::NoData(_) => self.stream.set_no_data_timeout(None).unwrap(),
            hard => return Err(hard),
        }
        assert!(self.entry().limited.load(SeqCst), "{error} without a limit");
        self.ledger.soft_errors.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Now and then does something other than reading and writing.
    fn quirk(&mut self) {
        if !self.rng.chance(self.ledger.plan.streams[self.index].quirks) {
            return;
        }
        let short = Some(Duration::from_millis(1));
        let kind = self.rng.below(9);
        if kind < 5 {
            self.entry().limited.store(true, SeqCst);
        }
        match kind {
            0 => self.stream.set_read_timeout(short).unwrap(),
            1 => self.stream.set_write_timeout(short).unwrap(),
            2 => self.stream.set_deadline(Some(Instant::now())),
            3 => self.stream.set_nonblocking(true).unwrap(),
            4 => self.stream.set_no_data_timeout(short).unwrap(),
            5 => self.notify(),
            6 => {
                let clone = self.stream.clone();
                start(self.scope, self.ledger, move || drop(clone));
            }
            _ => {
                if let Err(error) = self.stream.flush() {
                    // The next write gets a hard error, too. Reads may go on.
                    let _ = self.failed(error);
                }
            }
        }
    }

    /// Records bytes that were accepted or read. Starts the plan's event if its time has come.
    fn moved(&self, n: usize) {
        let now = self.ledger.progress.fetch_add(n as u64, SeqCst) + n as u64;
        let Some(trigger) = self.ledger.plan.trigger else { return };
        if now < trigger.at || self.ledger.fired.swap(true, SeqCst) {
            return;
        }
        let ledger = self.ledger;
        let end = trigger.end;
        match trigger.action {
            Action::Close => {}
            Action::CloseTwice => start(self.scope, ledger, move || close(ledger, end)),
            Action::CloseBoth => start(self.scope, ledger, move || close(ledger, 1 - end)),
            Action::Drain => {
                if let Some(session) = ledger.session(end) {
                    ledger.closing[end].store(true, SeqCst);
                    let _ = session.drain(Duration::from_millis(3)); // `close` says how it went.
                }
            }
        }
        close(ledger, end);
    }

    // ---- the threads ----------------------------------------------------------------------------

    fn write_all(&mut self) {
        let manner = self.manner();
        let mut left = self.ledger.plan.streams[self.index].bytes[self.end];
        let mut end = WriteEnd::Done;
        while left > 0 {
            if self.entry().leaving.load(SeqCst) {
                end = WriteEnd::Stopped;
                break;
            }
            let most = self.rng.pick(&[9, 700, 5000, 100_000]);
            let n = left.min(1 + self.rng.below(most));
            if let Err(error) = self.write_next(n) {
                end = WriteEnd::Failed(error);
                break;
            }
            left -= n;
        }
        self.finish(end, manner == Manner::Close, matches!(manner, Manner::DropAt(_)));
    }

    /// Ends writing at this end.
    fn finish(&mut self, end: WriteEnd, close: bool, silent: bool) {
        let way = self.way_out();
        *way.write_end.lock().unwrap() = Some(end);
        way.finish_asked.store(true, SeqCst);
        if silent {
            return;
        }
        let finished = if close {
            self.stream.close().is_ok()
        } else {
            // This fails if the other thread has closed the stream.
            self.stream.shutdown(Shutdown::Write).is_ok()
        };
        // The check comes after the call. So if the session isn't closing, the call came before its
        // close.
        let closing = self.ledger.closing[self.end].load(SeqCst);
        way.finished_in_time.store(finished && !closing, SeqCst);
    }

    fn read_all(&mut self) {
        let manner = self.manner();
        let enough = match manner {
            Manner::Finish | Manner::Close => usize::MAX,
            Manner::StopReading(n) | Manner::CloseAt(n) | Manner::DropAt(n) => n,
        };
        let mut total = 0;
        let end = loop {
            if total >= enough {
                break ReadEnd::Stopped;
            }
            let most = self.rng.pick(&[1, 30, 3000, 20_000, 100_000, 100_000]);
            let max = (1 + self.rng.below(most)).min(enough - total);
            let result = if self.rng.chance(8) { self.read_by_writer(max) } else { self.read(max) };
            match result {
                Ok(0) => break ReadEnd::Eof,
                Ok(n) => total += n,
                Err(error) => break ReadEnd::Failed(error),
            }
        };
        let stopped = matches!(end, ReadEnd::Stopped);
        self.stop_reading(end);
        match manner {
            // This fails if the stream is closed.
            Manner::StopReading(_) if stopped => {
                let _ = self.stream.shutdown(Shutdown::Read);
            }
            Manner::CloseAt(_) => {
                self.way_out().finish_asked.store(true, SeqCst);
                self.stream.close().unwrap();
            }
            Manner::DropAt(_) => self.entry().leaving.store(true, SeqCst),
            _ => {}
        }
    }

    /// Ends reading at this end, and records how.
    fn stop_reading(&mut self, end: ReadEnd) {
        let again = (!matches!(end, ReadEnd::Stopped)).then(|| self.stream.read(&mut [0; 9]));
        match (&end, again) {
            (ReadEnd::Eof, Some(Err(error))) => {
                let closed = matches!(Error::from(error), Error::Closed);
                assert!(closed, "after the end, an error");
            }
            (ReadEnd::Eof, Some(Ok(n))) => assert_eq!(n, 0, "data after the end"),
            (ReadEnd::Failed(error), Some(Ok(n))) => {
                panic!("a read failed ({error}), then gave {n}")
            }
            _ => {}
        }
        *self.way_in().read_end.lock().unwrap() = Some(end);
    }

    /// Sends requests, and reads the answer after each.
    fn ask(&mut self) {
        let mut left = self.ledger.plan.streams[self.index].bytes[self.end];
        let mut write_end = WriteEnd::Done;
        let mut read_end = None;
        'asks: while left > 0 {
            let most = self.rng.pick(&[5, 200, 200, 2500]);
            let n = left.min(1 + self.rng.below(most)).min(self.ledger.plan.request_max);
            if let Err(error) = self.write_next(n) {
                write_end = WriteEnd::Failed(error);
                break;
            }
            left -= n;
            let mut answer = 0;
            while answer < n {
                match self.read(n - answer) {
                    Ok(0) => read_end = Some(ReadEnd::Eof),
                    Err(error) => read_end = Some(ReadEnd::Failed(error)),
                    Ok(more) => answer += more,
                }
                if read_end.is_some() {
                    write_end = WriteEnd::Stopped;
                    break 'asks;
                }
            }
        }
        self.finish(write_end, false, false);
        let end = read_end.unwrap_or_else(|| self.read_to_end());
        self.stop_reading(end);
    }

    /// Echoes the bytes that arrive.
    fn answer(&mut self) {
        let mut write_end = WriteEnd::Done;
        let read_end = loop {
            match self.read(3000) {
                Ok(0) => break ReadEnd::Eof,
                Err(error) => break ReadEnd::Failed(error),
                Ok(n) => {
                    if let Err(error) = self.write_next(n) {
                        write_end = WriteEnd::Failed(error);
                        break self.read_to_end();
                    }
                }
            }
        };
        self.finish(write_end, false, false);
        self.stop_reading(read_end);
    }

    fn read_to_end(&mut self) -> ReadEnd {
        loop {
            match self.read(100) {
                Ok(0) => return ReadEnd::Eof,
                Err(error) => return ReadEnd::Failed(error),
                Ok(_) => {}
            }
        }
    }
}

/// A writer that takes a number of bytes, then fails.
struct Sink<'u, 's, 'e, 'p> {
    user: &'u mut User<'s, 'e, 'p>,
    took: usize,
    max: usize,
}

#[derive(Debug)]
struct Full;

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the writer is full")
    }
}

impl std::error::Error for Full {}

impl Write for Sink<'_, '_, '_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(self.max - self.took);
        if n == 0 {
            return Err(io::Error::other(Full));
        }
        self.user.check(&buf[..n]);
        self.took += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

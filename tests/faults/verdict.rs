//! The conditions that must hold after a seed.
//!
//! | always | |
//! |---|---|
//! | the bytes read are a prefix of the bytes accepted | (checked while reading) |
//! | a clean end is true: the other end asked for it, and nothing is missing | `Ok(0)`: finished by the other end, and read = accepted |
//! | every end was told once | close notifier, `closed()` |
//! | nothing is left in the session | streams, receive budget, the transport |
//!
//! | without a hard fault | |
//! |---|---|
//! | every stream that its sender had finished is read whole, with a clean end | if the sender's `close`, if any, succeeded, and the reader's session wasn't closed |
//! | every write is accepted | unless a session was closed, or the stream by its other end |
//! | every close succeeds | |

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use gmux::Error;

use crate::ledger::{Ledger, Notifiers, ReadEnd, WriteEnd};
use crate::plan::{Action, Ending, Manner};
use crate::support::faulty::Kind;
use crate::support::until;

/// The counts of one seed, for the sum.
pub struct Outcome {
    pub kind: Kind,
    pub hard: bool,
    pub sound: bool,
    pub eofs: u64,
    pub failed: u64,
    pub stopped: u64,
    pub missing: u64,
    pub bytes: u64,
    pub soft_errors: u64,
    /// Notifiers to be checked again when all threads are gone. None may be called twice.
    pub notified: Vec<Arc<Notifiers>>,
}

/// Judges a seed whose transports are gone. `kept` says that the ledger holds its sessions.
pub fn judge(ledger: &Ledger<'_>, kept: bool) -> Outcome {
    let plan = ledger.plan;
    let mut outcome = Outcome {
        kind: plan.kind,
        hard: plan.is_hard(),
        sound: plan.is_sound(),
        eofs: 0,
        failed: 0,
        stopped: 0,
        missing: 0,
        bytes: 0,
        soft_errors: ledger.soft_errors.load(SeqCst),
        notified: Vec::new(),
    };
    for index in 0..plan.streams.len() {
        for sender in [0, 1] {
            way(ledger, index, sender, &mut outcome);
            end(ledger, index, sender, &mut outcome);
        }
    }
    for end in [0, 1] {
        if let Some(session) = ledger.sessions[end].lock().unwrap().take() {
            assert!(
                session.is_closed() && session.close_reason().is_some(),
                "session {end} gives no reason"
            );
            // Notifiers run on threads of their own, and hold streams.
            until(|| session.num_streams() == 0);
            until(|| session.stats().receive_buffered == 0);
        }
        if let (true, true, Some(Err(error))) =
            (plan.is_sound(), kept, ledger.closes[end].lock().unwrap().as_ref())
        {
            // A stream that its reader closed early may still have had data to send when the other
            // end was done.
            let late = matches!(error, gmux::Error::CloseIncomplete { peer_ended: true, .. });
            let other =
                late.then(|| ledger.closes[1 - end].lock().unwrap().clone().unwrap_or(Ok(())));
            assert!(matches!(other, Some(Ok(()))), "closing session {end} failed: {error}");
        }
    }
    outcome
}

/// One direction of one stream.
fn way(ledger: &Ledger<'_>, index: usize, sender: usize, outcome: &mut Outcome) {
    let plan = ledger.plan;
    let way = &ledger.ways[index][sender];
    let reader = 1 - sender;
    let accepted = way.accepted.load(SeqCst);
    let read = way.read.load(SeqCst);
    let read_end = way.read_end.lock().unwrap().clone();
    let write_end = way.write_end.lock().unwrap().clone();
    let what = || {
        format!(
            "stream {index} from end {sender}: {accepted} bytes accepted, {write_end:?}; {read} \
             read, {read_end:?}; finish asked: {}, in time: {}",
            way.finish_asked.load(SeqCst),
            way.finished_in_time.load(SeqCst)
        )
    };
    outcome.bytes += read;
    match &read_end {
        Some(ReadEnd::Eof) => outcome.eofs += 1,
        Some(ReadEnd::Failed(_)) => outcome.failed += 1,
        Some(ReadEnd::Stopped) => outcome.stopped += 1,
        None => outcome.missing += 1,
    }
    assert!(read <= accepted, "read but never accepted: {}", what());
    let exists = |end: usize| ledger.ends[index][end].exists.load(SeqCst);
    // A session that drains refuses streams. On this wire a refused stream looks like one that was
    // closed at once.
    let refuses = plan
        .trigger
        .is_some_and(|trigger| trigger.action == Action::Drain && trigger.end == sender);
    let refused = refuses && !exists(sender) && ledger.fired.load(SeqCst);
    if let (Some(ReadEnd::Eof), false) = (&read_end, refused) {
        assert!(way.finish_asked.load(SeqCst), "a clean end that nobody asked for: {}", what());
        assert_eq!(read, accepted, "a clean end with data missing: {}", what());
    }
    assert_eq!(
        read_end.is_some(),
        exists(reader),
        "a reader without a stream, or the reverse: {}",
        what()
    );
    if plan.is_hard() {
        return;
    }
    // Nothing was lost on the way. So a finished direction arrives whole.
    let manner = plan.streams[index].manner;
    let closed = |end: usize| {
        plan.trigger.is_some() && ledger.closing[end].load(SeqCst) && was_early(ledger, end)
    };
    let closed_well = ledger.closes[sender].lock().unwrap().as_ref().is_none_or(Result::is_ok);
    let reads_on = matches!(manner[reader], Manner::Finish | Manner::StopReading(_));
    if reads_on && way.finished_in_time.load(SeqCst) && closed_well && !closed(reader) {
        let whole = matches!(read_end, Some(ReadEnd::Eof | ReadEnd::Stopped));
        assert!(whole, "finished, and not read to its end: {}", what());
    }
    if plan.trigger.is_some() {
        return;
    }
    assert!(exists(sender) && exists(reader), "it was never accepted: {}", what());
    // A writer fails when the other end has closed the stream, or when the other end's session is
    // gone with its last handle.
    let left = plan.closes_early() || plan.ending == Ending::LastDrop;
    match &write_end {
        Some(WriteEnd::Done) => {
            let planned = plan.streams[index].bytes[sender] as u64;
            assert!(
                accepted == planned || plan.streams[index].ping_pong,
                "not everything was accepted: {}",
                what()
            );
        }
        Some(WriteEnd::Stopped) => {
            assert!(matches!(manner[sender], Manner::DropAt(_)), "{}", what())
        }
        Some(WriteEnd::Failed(Error::Closed)) => {
            assert!(matches!(manner[sender], Manner::CloseAt(_)), "{}", what())
        }
        Some(WriteEnd::Failed(Error::PeerFinished(_))) => {
            assert!(plan.closes_early(), "{}", what())
        }
        Some(WriteEnd::Failed(_)) => assert!(left, "{}", what()),
        None => panic!("no end: {}", what()),
    }
    match &read_end {
        Some(ReadEnd::Eof) => {}
        Some(ReadEnd::Stopped) => {
            assert!(!matches!(manner[reader], Manner::Finish | Manner::Close), "{}", what())
        }
        Some(ReadEnd::Failed(Error::Closed)) => {
            assert!(matches!(manner[reader], Manner::Close | Manner::CloseAt(_)), "{}", what());
        }
        Some(ReadEnd::Failed(_)) | None => panic!("it wasn't read to its end: {}", what()),
    }
}

/// Whether the trigger closed a session, before everything was done.
fn was_early(ledger: &Ledger<'_>, end: usize) -> bool {
    ledger.plan.trigger.is_some_and(|trigger| {
        ledger.fired.load(SeqCst) && (trigger.end == end || trigger.action == Action::CloseBoth)
    })
}

/// Judges one end of one stream.
fn end(ledger: &Ledger<'_>, index: usize, end: usize, outcome: &mut Outcome) {
    let entry = &ledger.ends[index][end];
    if !entry.exists.load(SeqCst) {
        return;
    }
    until(|| entry.notifiers.called.load(SeqCst) > 0); // It may be called on a thread of its own.
    outcome.notified.push(Arc::clone(&entry.notifiers));
    let closed = entry.closed.lock().unwrap().take().expect("it exists");
    assert!(closed.recv().is_err());
}

/// The sum over all seeds.
#[derive(Default)]
pub struct Tally {
    seeds: u64,
    hard: u64,
    sound: u64,
    kinds: std::collections::BTreeMap<String, u64>,
    eofs: u64,
    failed: u64,
    stopped: u64,
    missing: u64,
    bytes: u64,
    soft_errors: u64,
    notified: u64,
    recent: Vec<Arc<Notifiers>>,
    slowest: Vec<(Duration, u64)>,
}

impl Tally {
    pub fn add(&mut self, outcome: &mut Outcome, seed: u64, took: Duration) {
        self.slowest.push((took, seed));
        self.slowest.sort_unstable_by(|a, b| b.cmp(a));
        self.slowest.truncate(5);
        self.seeds += 1;
        self.hard += u64::from(outcome.hard);
        self.sound += u64::from(outcome.sound);
        *self.kinds.entry(format!("{:?}", outcome.kind)).or_default() += 1;
        self.eofs += outcome.eofs;
        self.failed += outcome.failed;
        self.stopped += outcome.stopped;
        self.missing += outcome.missing;
        self.bytes += outcome.bytes;
        self.soft_errors += outcome.soft_errors;
        self.recent.append(&mut outcome.notified);
    }

    /// Checks the notifiers when all threads are gone, so that no more calls can come.
    pub fn check(&mut self) {
        for notifiers in std::mem::take(&mut self.recent) {
            let count = |counter: &std::sync::atomic::AtomicU32| counter.load(SeqCst);
            let set = count(&notifiers.set);
            let called = count(&notifiers.called);
            let dropped = count(&notifiers.dropped);
            // A single notifier was called once. Of several, one was called, and also each that was
            // set after the end.
            assert!((1..=set).contains(&called), "of {set} close notifiers {called} were called");
            assert_eq!(dropped, set, "a close notifier is left behind");
            self.notified += u64::from(called);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} with a hard fault, {} where everything had to arrive; {:?}",
            self.hard, self.sound, self.kinds
        )?;
        writeln!(f, "slowest seeds: {:.1?}", self.slowest)?;
        write!(
            f,
            "directions: {} whole, {} failed, {} given up by the reader, {} never arrived; {} \
             bytes, {} soft errors, {} notifiers called",
            self.eofs,
            self.failed,
            self.stopped,
            self.missing,
            self.bytes,
            self.soft_errors,
            self.notified
        )
    }
}

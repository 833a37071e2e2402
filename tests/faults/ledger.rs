//! What the traffic keeps a ledger of: for each direction of each stream what was accepted,
//! finished and read, and for each end what it was told.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};
use gmux::{Error, Session};

use crate::plan::Plan;

/// How reading ended.
#[derive(Debug, Clone)]
pub enum ReadEnd {
    Eof,
    Failed(Error),
    /// This end had read what it wanted.
    Stopped,
}

/// How writing ended.
#[derive(Debug, Clone)]
pub enum WriteEnd {
    /// Everything was accepted.
    Done,
    Failed(Error),
    /// This end stopped early.
    Stopped,
}

/// One direction of a stream.
#[derive(Debug, Default)]
pub struct Way {
    pub accepted: AtomicU64,
    /// Set before anything is called that may send FIN.
    pub finish_asked: AtomicBool,
    /// It was finished, and the session's close hadn't begun yet.
    pub finished_in_time: AtomicBool,
    pub read: AtomicU64,
    pub write_end: Mutex<Option<WriteEnd>>,
    pub read_end: Mutex<Option<ReadEnd>>,
}

/// The close notifiers of one end of a stream.
#[derive(Debug, Default)]
pub struct Notifiers {
    /// A second replaces the first; but set on an ended stream it is called at once.
    pub set: AtomicU32,
    pub called: AtomicU32,
    /// Called or not, all are dropped in the end.
    pub dropped: AtomicU32,
}

/// Counts a notifier's drop.
pub struct Dropped(pub Arc<Notifiers>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, SeqCst);
    }
}

/// One end of a stream.
#[derive(Debug, Default)]
pub struct End {
    /// The stream was opened or accepted here.
    pub exists: AtomicBool,
    pub notifiers: Arc<Notifiers>,
    pub closed: Mutex<Option<Receiver<()>>>,
    /// A timeout or the like was set at some time, so calls may fail with that.
    pub limited: AtomicBool,
    /// This end leaves without a word: its writer stops as well.
    pub leaving: AtomicBool,
}

/// One seed's ledger.
pub struct Ledger<'p> {
    pub plan: &'p Plan,
    /// By stream, then by sender: 0 the client, 1 the server.
    pub ways: Vec<[Way; 2]>,
    pub ends: Vec<[End; 2]>,
    /// Kept to be closed and asked; none when the last drop is to end the session.
    pub sessions: [Mutex<Option<Session>>; 2],
    /// Set before a session's `close`.
    pub closing: [AtomicBool; 2],
    /// What `close` returned.
    pub closes: [Mutex<Option<Result<(), Error>>>; 2],
    pub progress: AtomicU64,
    pub fired: AtomicBool,
    pub soft_errors: AtomicU64,
    left: AtomicUsize,
    done: Mutex<Option<Sender<()>>>,
}

impl<'p> Ledger<'p> {
    /// The ledger, and what disconnects when all ends of all streams are done.
    pub fn new(plan: &'p Plan) -> (Self, Receiver<()>) {
        let (done, all_done) = crossbeam_channel::bounded(0);
        let n = plan.streams.len();
        let ledger = Self {
            plan,
            ways: (0..n).map(|_| Default::default()).collect(),
            ends: (0..n).map(|_| Default::default()).collect(),
            sessions: Default::default(),
            closing: Default::default(),
            closes: Default::default(),
            progress: AtomicU64::new(0),
            fired: AtomicBool::new(false),
            soft_errors: AtomicU64::new(0),
            left: AtomicUsize::new(2 * n),
            done: Mutex::new(Some(done)),
        };
        (ledger, all_done)
    }

    /// One end of one stream is done.
    pub fn end_done(&self) {
        if self.left.fetch_sub(1, SeqCst) == 1 {
            self.done.lock().unwrap().take();
        }
    }

    pub fn session(&self, end: usize) -> Option<Session> {
        self.sessions[end].lock().unwrap().clone()
    }
}

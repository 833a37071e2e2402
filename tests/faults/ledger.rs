//! The ledger of the traffic. It has the accepted, finished and read bytes of each direction of
//! each stream, and the notifications that each end got.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};
use gmux::{Error, Session};

use crate::plan::Plan;

/// The way in which reading ended.
#[derive(Debug, Clone)]
pub enum ReadEnd {
    Eof,
    Failed(Error),
    /// This end had read as much as its plan says.
    Stopped,
}

/// The way in which writing ended.
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
    /// The direction was finished before the session's close began.
    pub finished_in_time: AtomicBool,
    pub read: AtomicU64,
    pub write_end: Mutex<Option<WriteEnd>>,
    pub read_end: Mutex<Option<ReadEnd>>,
}

/// The close notifiers of one end of a stream.
#[derive(Debug, Default)]
pub struct Notifiers {
    /// Number of notifiers that were set. A second replaces the first. On an ended stream, each is
    /// called at once.
    pub set: AtomicU32,
    pub called: AtomicU32,
    /// Number of notifiers that were dropped. In the end all are, whether they were called or not.
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
    /// A timeout, a deadline or non-blocking mode was set at some time. So calls may fail with its
    /// error.
    pub limited: AtomicBool,
    /// This end leaves without closing the stream. Its writer stops as well.
    pub leaving: AtomicBool,
}

/// One seed's ledger.
pub struct Ledger<'p> {
    pub plan: &'p Plan,
    /// By stream, then by sender: 0 is the client, 1 the server.
    pub ways: Vec<[Way; 2]>,
    pub ends: Vec<[End; 2]>,
    /// Handles with which the sessions are closed and inspected. There are none when the last drop
    /// is to end the session.
    pub sessions: [Mutex<Option<Session>>; 2],
    /// Set before a session's `close`.
    pub closing: [AtomicBool; 2],
    /// The results of `close`.
    pub closes: [Mutex<Option<Result<(), Error>>>; 2],
    pub progress: AtomicU64,
    pub fired: AtomicBool,
    pub soft_errors: AtomicU64,
    left: AtomicUsize,
    done: Mutex<Option<Sender<()>>>,
}

impl<'p> Ledger<'p> {
    /// Returns the ledger, and a receiver that is disconnected when all ends of all streams are
    /// done.
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

    /// Records that one end of one stream is done.
    pub fn end_done(&self) {
        if self.left.fetch_sub(1, SeqCst) == 1 {
            self.done.lock().unwrap().take();
        }
    }

    pub fn session(&self, end: usize) -> Option<Session> {
        self.sessions[end].lock().unwrap().clone()
    }
}

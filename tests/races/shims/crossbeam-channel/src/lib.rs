//! The parts of crossbeam-channel that gmux uses, under the scheduler's control.

pub use facade::channels::{
    Receiver, RecvError, SendError, Sender, TryRecvError, TrySendError, bounded, unbounded,
};

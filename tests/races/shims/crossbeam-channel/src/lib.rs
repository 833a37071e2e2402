//! What gmux uses of crossbeam-channel, under the scheduler's control.

pub use facade::channels::{
    Receiver, RecvError, SendError, Sender, TryRecvError, TrySendError, bounded, unbounded,
};

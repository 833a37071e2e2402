//! A read half and a write half that are two objects: pipes, a child's stdio.
//!
//! Safe code can't interrupt a read from a pipe. So when a session over a pair ends, user calls
//! wake at once all the same, but the session's reader thread ends when its read returns: when the
//! far end closes, or when what [`with_abort`](Pair::with_abort) was given makes it.
//!
//! Invariant: dropping the write half is what ends the writing direction, unless the pair was said
//! to have no end.

use std::io::{self, Read, Write};

use parking_lot::Mutex;

use super::{Control, Halves, Transport};

/// A transport of two halves.
///
/// `(reader, writer)` tuples are transports too; this adds a way to end a blocked read.
///
/// ```
/// # #[cfg(unix)] {
/// use std::process::{Command, Stdio};
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
/// use gmux::{Config, Session, transport::Pair};
///
/// let mut helper = Command::new("my-helper");
/// # let mut helper = Command::new("sh");
/// # helper.args(["-c", "cat > /dev/null"]);
/// let mut child = helper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
/// let (stdout, stdin) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
/// let child = Arc::new(Mutex::new(child));
/// let transport = Pair::new(stdout, stdin).with_abort({
///     let child = Arc::clone(&child);
///     move || { let _ = child.lock().unwrap().kill(); } // its stdout ends, and the reader thread with it
/// });
/// // So long the helper may go on working after the close.
/// let config = Config::new().close_timeout(Duration::from_secs(60));
/// let session = Session::client(transport, config)?;
/// // ...
/// let closed = session.close(); // Ok: the helper has read everything, and ended its output
/// let mut child = child.lock().unwrap();
/// if closed.is_err() {
///     let _ = child.kill(); // by whoever has the lock: a wait for a child that works would keep it for ever
/// }
/// child.wait()?; // without a limit: a helper may end its output and go on (the example `stdio` has one)
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// `close` waits until the helper ends its output, for at most
/// [`close_timeout`](crate::Config::close_timeout), which is 5 seconds unless set otherwise. Then
/// the abort is called, and kills it. A helper that ends its output in time isn't killed.
pub struct Pair<R, W> {
    reader: R,
    writer: W,
    abort: Option<Box<dyn FnOnce() + Send>>,
    /// Whether the drop of the write half ends the writing direction.
    can_finish: bool,
}

impl<R: Read + Send + 'static, W: Write + Send + 'static> Pair<R, W> {
    /// A pair that can't be interrupted.
    pub fn new(reader: R, writer: W) -> Self {
        Self { reader, writer, abort: None, can_finish: true }
    }

    /// Calls `abort` when the session ends by an error or by its close timeout, once: it should
    /// make a blocked read of the read half return, and must not block for long. It isn't called
    /// where both directions have ended by themselves.
    #[must_use]
    pub fn with_abort(mut self, abort: impl FnOnce() + Send + 'static) -> Self {
        self.abort = Some(Box::new(abort));
        self
    }

    /// Says that the drop of the write half tells the peer nothing: a serial line goes on after
    /// whoever used it, and so does a descriptor that others hold, too.
    ///
    /// [`close`](crate::Session::close) then returns Ok as soon as everything was handed over and
    /// flushed, which is less than it says elsewhere ([`Control::can_finish`]). The read half is
    /// used on until it ends, or [`close_timeout`](crate::Config::close_timeout) has passed and it
    /// returns once more. Without this, a close waits for an end that can't come, and says
    /// [`CloseIncomplete`](crate::Error::CloseIncomplete). [The
    /// manual](crate::manual::transports#a-serial-line) has the whole recipe.
    #[must_use]
    pub fn without_end(mut self) -> Self {
        self.can_finish = false;
        self
    }
}

impl<R, W> std::fmt::Debug for Pair<R, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("abort", &self.abort.is_some()).finish_non_exhaustive()
    }
}

struct PairControl {
    /// A leaf; taken out before it is called.
    abort: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    can_finish: bool,
}

impl Control for PairControl {
    /// The writer thread drops the write half next, and that ends it.
    fn finish_write(&self) -> io::Result<()> {
        Ok(())
    }

    fn can_finish(&self) -> bool {
        self.can_finish
    }

    fn abort(&self) {
        let abort = self.abort.lock().take();
        if let Some(abort) = abort {
            abort();
        }
    }
}

impl<R: Read + Send + 'static, W: Write + Send + 'static> Transport for Pair<R, W> {
    fn split(self) -> io::Result<Halves> {
        let control = PairControl { abort: Mutex::new(self.abort), can_finish: self.can_finish };
        Ok(Halves::new(self.reader, self.writer, control))
    }
}

impl<R: Read + Send + 'static, W: Write + Send + 'static> Transport for (R, W) {
    fn split(self) -> io::Result<Halves> {
        Pair::new(self.0, self.1).split()
    }
}

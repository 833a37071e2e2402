//! A read half and a write half that are two objects, such as pipes or a child's stdio.
//!
//! Safe code can't interrupt a read from a pipe. When a session over a pair ends, user calls still
//! wake at once. But the session's reader thread stops only when its read returns. The read returns
//! when the peer closes its end of the pipe, or when the closure of
//! [`with_abort`](Pair::with_abort) makes it return.
//!
//! Invariant: dropping the write half ends the writing direction, unless
//! [`without_end`](Pair::without_end) was called.

use std::io::{self, Read, Write};

use parking_lot::Mutex;

use super::{Control, Halves, Transport};

/// A transport of two halves.
///
/// `(reader, writer)` tuples are transports, too. A `Pair` adds a way to end a blocked read.
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
///     move || {
///         // This closes the child's stdout. So the reader thread stops, too.
///         let _ = child.lock().unwrap().kill();
///     }
/// });
/// // The helper may go on working for a minute after the close.
/// let config = Config::new().close_timeout(Duration::from_secs(60));
/// let session = Session::client(transport, config)?;
/// // ...
/// let closed = session.close(); // Ok: the helper has read everything and ended its output
/// let mut child = child.lock().unwrap();
/// if closed.is_err() {
///     // Kill the child first, because `wait` holds the lock that the abort closure needs.
///     let _ = child.kill();
/// }
/// // This wait has no time limit, and a helper may close its output and go on running. The
/// // example `stdio` shows a wait with a limit.
/// child.wait()?;
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// `close` waits until the helper ends its output, for at most
/// [`close_timeout`](crate::Config::close_timeout). The default of `close_timeout` is 5 seconds.
/// When it has passed, the session calls the abort closure, which kills the helper. A helper that
/// ends its output in time isn't killed.
pub struct Pair<R, W> {
    reader: R,
    writer: W,
    abort: Option<Box<dyn FnOnce() + Send>>,
    /// Whether dropping the write half ends the writing direction.
    can_finish: bool,
}

impl<R: Read + Send + 'static, W: Write + Send + 'static> Pair<R, W> {
    /// Returns a pair that can't be interrupted.
    pub fn new(reader: R, writer: W) -> Self {
        Self { reader, writer, abort: None, can_finish: true }
    }

    /// Calls `abort` once when the session ends by an error or by its close timeout. `abort` should
    /// make a blocked read of the read half return, and must not block for long. It isn't called if
    /// both directions have ended by themselves.
    #[must_use]
    pub fn with_abort(mut self, abort: impl FnOnce() + Send + 'static) -> Self {
        self.abort = Some(Box::new(abort));
        self
    }

    /// Declares that dropping the write half tells the peer nothing. Two examples are a serial
    /// line, which stays open without its user, and a descriptor that other processes hold, too.
    ///
    /// After this declaration, [`close`](crate::Session::close) returns Ok as soon as everything
    /// was handed over and flushed. That Ok promises less than over other transports
    /// ([`Control::can_finish`]). The session goes on reading until the read half returns an end of
    /// file. When [`close_timeout`](crate::Config::close_timeout) has passed, the session stops
    /// reading as soon as the present read returns.
    ///
    /// Without this call, a close waits for an end of file that can't come, and returns
    /// [`CloseIncomplete`](crate::Error::CloseIncomplete). [The
    /// manual](crate::manual::transports#a-serial-line) shows the whole setup.
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
    /// A leaf lock: no other lock is taken under it. The closure is taken out before it is called.
    abort: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    can_finish: bool,
}

impl Control for PairControl {
    /// Does nothing. The writer thread drops the write half next, and that ends the writing.
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

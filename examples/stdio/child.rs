//! Runs a command whose standard input and output carry a session.
//!
//! The command shares the standard error of this process. So its messages are visible, including a
//! password prompt of ssh.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gmux::transport::Pair;
use gmux::{Config, Session};

/// Time that the command has to exit after the session has ended. After that time it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval of the checks whether the command has exited. They are needed because std has no wait
/// with a time limit.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A running command, and the session over it.
pub struct Running {
    pub session: Session,
    child: SharedChild,
}

#[derive(Clone)]
struct SharedChild {
    child: Arc<Mutex<Child>>,
    /// Whether this program has killed the command. The exit status alone can't tell who killed it.
    killed: Arc<AtomicBool>,
}

/// The way in which the command ended.
pub struct End {
    status: io::Result<ExitStatus>,
    killed: bool,
}

/// Starts the command, and a session over it. This program is the session's client.
pub fn start(command: &[OsString], config: Config) -> io::Result<Running> {
    let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
    let (Some(output), Some(input)) = (child.stdout.take(), child.stdin.take()) else {
        unreachable!("both are piped")
    };
    let child = SharedChild { child: Arc::new(Mutex::new(child)), killed: Arc::default() };
    // A read from a pipe can't be interrupted. So the command is killed if the session ends by an
    // error, or if the peer doesn't end its side in time. The kill closes the command's output, so
    // the session's reader thread can stop.
    let abort = child.clone();
    let transport = Pair::new(output, input).with_abort(move || abort.kill());
    match Session::client(transport, config) {
        Ok(session) => Ok(Running { session, child }),
        Err(error) => {
            child.kill();
            let _ = child.lock().wait(); // Without a wait the process would stay as a zombie.
            Err(error.into())
        }
    }
}

impl Running {
    /// Closes the session, and waits until the command exits.
    ///
    /// If the close returns Ok, the peer has received everything and has ended its output. The
    /// command will then soon exit by itself.
    pub fn finish(self) -> (gmux::Result<()>, End) {
        let closed = self.session.close();
        let status = self.child.wait();
        (closed, End { status, killed: self.child.killed.load(SeqCst) })
    }
}

impl SharedChild {
    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the command if it still runs. This never waits, because the session calls it and must
    /// not be delayed.
    fn kill(&self) {
        let mut child = self.lock();
        if matches!(child.try_wait(), Ok(None)) {
            self.killed.store(true, SeqCst);
            let _ = child.kill(); // This fails if the command has just exited.
        }
    }

    /// Waits until the command exits, and kills it after `EXIT_TIMEOUT`. The lock isn't held during
    /// the wait, because the session may have to kill the command meanwhile.
    fn wait(&self) -> io::Result<ExitStatus> {
        let limit = Instant::now() + EXIT_TIMEOUT;
        while Instant::now() < limit {
            if let Some(status) = self.lock().try_wait()? {
                return Ok(status);
            }
            thread::sleep(POLL_INTERVAL);
        }
        self.kill();
        self.lock().wait()
    }
}

impl End {
    /// Returns the command's exit code, if the command exited by itself and not by a signal.
    pub fn code(&self) -> Option<u8> {
        let code = self.status.as_ref().ok()?.code().filter(|_| !self.killed)?;
        u8::try_from(code).ok()
    }

    pub fn is_success(&self) -> bool {
        self.status.as_ref().is_ok_and(ExitStatus::success)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.status {
            Ok(_) if self.killed => {
                f.write_str("the command was killed, for the session was over and it went on")
            }
            Ok(status) => write!(f, "the command ended with {status}"),
            Err(error) => write!(f, "nobody knows how the command ended: {error}"),
        }
    }
}

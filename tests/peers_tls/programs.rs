//! Runs another program as a child process. Its standard error is collected, and it is killed at
//! the end of the test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

/// A running program.
pub struct Program {
    pub child: Child,
    said: Arc<Said>,
    collecting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Said {
    /// The lines so far, and whether the output has ended.
    lines: Mutex<(Vec<String>, bool)>,
    /// A thread that needs another line waits on it. Each line and the end of the output wake it.
    more: Condvar,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Said::default());
        let errors = child.stderr.take().unwrap();
        let own = Arc::clone(&said);
        let collecting = thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                own.lines.lock().unwrap().0.push(line);
                own.more.notify_all();
            }
            own.lines.lock().unwrap().1 = true;
            own.more.notify_all();
        });
        Self { child, said, collecting: Some(collecting) }
    }

    /// Waits for a line that contains `part`, and returns it.
    pub fn line_with(&self, part: &str) -> String {
        let mut lines = self.said.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.0.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            assert!(!lines.1, "it ended without saying {part:?}, but {:#?}", lines.0);
            lines = self.said.more.wait(lines).unwrap();
        }
    }

    /// Waits until the program ends by itself. Returns its status and its output.
    pub fn finish(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.collecting.take().unwrap().join().unwrap();
        (status, self.said.lines.lock().unwrap().0.join("\n"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(collecting) = self.collecting.take() {
            let _ = collecting.join();
        }
        if thread::panicking() {
            eprintln!("the other program said: {:#?}", self.said.lines.lock().unwrap().0);
        }
    }
}

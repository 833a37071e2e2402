//! The test's side of a child process, which is this test's executable with a part to play.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::child::{MARK, PART};

/// A child process. It ends with its test.
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    pub fn start(part: &str) -> Self {
        Self::with(Command::new(env::current_exe().unwrap()), part)
    }

    /// Starts the child as another user. The user may not enter the executable's folder, so the
    /// child opens the executable through this process.
    pub fn start_as(user: u32, part: &str) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command.uid(user).gid(user);
        Self::with(command, part)
    }

    /// Runs `program arguments...`. The executable is the last argument.
    pub fn start_in(program: &[&str], part: &str) -> Self {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(env::current_exe().unwrap());
        Self::with(command, part)
    }

    fn with(mut command: Command, part: &str) -> Self {
        let mut child = command
            .args(["--exact", "the_child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn tell(&mut self, command: &str) {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.output.read_line(&mut line).unwrap() > 0,
                "the child is dead: {:?}",
                self.child.wait()
            );
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.trim_end().to_owned();
            }
        }
    }

    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    /// Sends SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name: `KILL`, `CONT`.
    pub fn signal(&self, name: &str) {
        run("sh", &["-c", &format!("kill -{name} {}", self.id())]).unwrap();
    }

    /// Sends SIGSTOP. The child continues when the guard is dropped.
    pub fn stop(&self) -> Guard {
        let guard = Guard::new(&format!("kill -CONT {}", self.id()));
        self.signal("STOP");
        guard
    }

    /// Asserts that the child ends by itself, with success.
    pub fn end(mut self) {
        let _ = self.input.take();
        assert!(self.child.wait().unwrap().success(), "the child ended badly");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It has ended already, if all went well.
        let _ = self.child.wait();
    }
}

/// Undoes a change when it is dropped. Another process does that, so it also happens when this
/// process is killed, as by a watchdog.
pub struct Guard(Child);

impl Guard {
    /// `undo` is a shell command.
    pub fn new(undo: &str) -> Self {
        let script = format!("cat; {undo}");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.stdin.take();
        let _ = self.0.wait(); // It doesn't matter whether there was something to undo.
    }
}

/// Reports on the terminal, past the harness, that a test did nothing. In the full run that is a
/// failure.
pub fn left_out(test: &str, why: &str) {
    let text = format!("LEFT OUT: {test}: {why}");
    assert!(env::var_os("GMUX_FULL").is_none(), "{text}");
    // This isn't `eprintln!`, which the harness would swallow. Then the test would look like one
    // that passed.
    std::io::stderr().write_all(format!("\n{text}\n").as_bytes()).unwrap();
}

/// Runs a command to its end. The error is the text that the command printed when it failed.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    run_as(None, program, arguments)
}

/// Runs a command as another user.
pub fn run_as(user: Option<u32>, program: &str, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    match command.args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

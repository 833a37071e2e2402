//! Tests of the `stdio` example as its users run it: the built program, with child processes.
//! `peers_ssh.rs` tests the same through a real sshd.
//!
//! Plain `cargo test` builds the examples first. For `--test stdio` alone, run
//! `cargo build --examples` before.
//!
//! Promises: none. It shows the example of that name as its users meet it.
#![cfg(unix)]

#[path = "../examples/stdio/own.rs"]
mod own;
mod support;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::thread;

use gmux::{Config, Error, Session};
use support::peers::example;
use support::{Pattern, test, until};

/// Runs `stdio check` over a shell command. In that command `$0` is the program.
fn check(options: &[&str], script: &str) -> Output {
    let stdio = example("stdio");
    Command::new(&stdio)
        .arg("check")
        .args(options)
        .args(["--", "sh", "-c", script])
        .arg(&stdio)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

// ---- check --------------------------------------------------------------------------------------

#[test]
fn a_hundred_streams_at_once_go_through_a_childs_stdio_and_finish_one_side_first() {
    test("a_hundred_streams_at_once_go_through_a_childs_stdio_and_finish_one_side_first", || {
        let done = check(&["--streams", "100"], "exec \"$0\" serve");
        assert!(done.status.success(), "{done:?}");
        assert!(
            text(&done.stdout).contains("100 streams at once, 6553600 bytes each way"),
            "{done:?}"
        );
        assert_eq!(text(&done.stderr), "stdio: the command ended with exit status: 0\n");
    });
}

#[test]
fn the_childs_exit_code_is_reported_and_passed_on() {
    test("the_childs_exit_code_is_reported_and_passed_on", || {
        // A command that never serves.
        let done = check(&[], "exit 7");
        assert_eq!(done.status.code(), Some(7), "{done:?}");
        assert!(text(&done.stderr).contains("the command ended with exit status: 7"), "{done:?}");
        // A command that serves well, and then fails.
        let done = check(&[], "\"$0\" serve; exit 3");
        assert_eq!(done.status.code(), Some(3), "{done:?}");
        assert!(text(&done.stdout).contains("all came back"), "{done:?}");
    });
}

#[test]
fn a_command_that_is_not_there_is_named() {
    test("a_command_that_is_not_there_is_named", || {
        let done = Command::new(example("stdio"))
            .args(["check", "--", "no-such-command"])
            .output()
            .unwrap();
        assert_eq!(done.status.code(), Some(1));
        assert!(text(&done.stderr).starts_with("stdio: no-such-command: "), "{done:?}");
    });
}

#[test]
fn what_the_child_says_on_its_standard_error_passes_through() {
    test("what_the_child_says_on_its_standard_error_passes_through", || {
        let done = check(&["--streams", "1"], "echo a word of the child >&2; exec \"$0\" serve");
        assert!(done.status.success(), "{done:?}");
        assert!(text(&done.stderr).contains("a word of the child\n"), "{done:?}");
    });
}

/// The error shows the text and an advice. A prompt is shorter than a frame's header, so the
/// session waits for more.
#[test]
fn a_child_that_writes_text_first_is_a_clear_error() {
    test("a_child_that_writes_text_first_is_a_clear_error", || {
        let garbage = [
            ("echo 'Welcome to Debian!'; exec \"$0\" serve", r#""Welcome to Debian!\n"#),
            ("printf '$ '; exec sleep 600", r#""$ ""#),
        ];
        for (script, shown) in garbage {
            let done = check(&[], script);
            assert_eq!(done.status.code(), Some(1), "{done:?}");
            let said = text(&done.stderr);
            for part in [
                "no frame, but text",
                shown,
                "a frame of version 2",
                "login banner",
                "standard error",
            ] {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    });
}

#[test]
fn a_child_that_goes_on_after_the_close_is_killed_and_that_is_said() {
    test("a_child_that_goes_on_after_the_close_is_killed_and_that_is_said", || {
        // `sleep` keeps the output open.
        let done = check(&["--streams", "1"], "\"$0\" serve; exec sleep 600");
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        let said = text(&done.stderr);
        assert!(
            said.contains("everything was sent, but the peer has not ended its side within 5s"),
            "{said}"
        );
        assert!(said.contains("the command was killed"), "{said}");
        assert!(text(&done.stdout).contains("all came back"), "{done:?}");
    });
}

// ---- a program's own standard input and output --------------------------------------------------

/// The variable that makes the test below run as a child process.
const CHILD: &str = "GMUX_TEST_STDIO_CHILD";

/// libtest writes to standard output before a test. The session begins after this marker.
const MARKER: &[u8] = b"\nfrom here on it is gmux\n";

/// Not a test, but a child process. It prints while it serves, closes first, and lives on.
#[test]
#[ignore = "the test that needs it runs it as a child process"]
fn a_child_that_closes_first() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    io::stdout().write_all(MARKER).unwrap();
    io::stdout().flush().unwrap();
    let session = Session::server(own::take().unwrap(), Config::new()).unwrap();
    println!("this would be taken for a frame");
    let mut stream = session.accept().unwrap();
    io::copy(&mut stream.clone(), &mut stream).unwrap();
    println!("and this");
    drop(stream);
    eprintln!("closed: {:?}", session.close());
    loop {
        thread::park();
    }
}

#[test]
fn a_program_ends_its_side_over_its_own_stdio_and_may_print_meanwhile() {
    test("a_program_ends_its_side_over_its_own_stdio_and_may_print_meanwhile", || {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_child_that_closes_first",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(MARKER) {
            stdout.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        let session =
            Session::client((stdout, child.stdin.take().unwrap()), Config::new()).unwrap();
        let mut stream = session.open("echo").unwrap();
        stream.write_all(b"between the lines").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "between the lines");
        drop(stream);
        assert!(
            matches!(session.accept(), Err(Error::PeerClosed)),
            "the child lives, and has ended its side"
        );
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let said: Vec<_> = lines.take_while(|line| line != "closed: Ok(())").collect();
        assert_eq!(said, ["this would be taken for a frame", "and this"]);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

// ---- forward ------------------------------------------------------------------------------------

/// A running forwarder, with its command, which serves.
struct Forwarder {
    process: Child,
    addr: String,
    err: Option<BufReader<ChildStderr>>,
    dir: tempfile::TempDir,
}

impl Forwarder {
    fn start(target: &str, allow: &str) -> Self {
        let stdio = example("stdio");
        let dir = tempfile::tempdir().unwrap();
        let script =
            "echo $$ > \"$1/pid\"; mv \"$1/pid\" \"$1/serving\"; exec \"$0\" serve --allow \"$2\"";
        let mut process = Command::new(&stdio)
            .args(["forward", "--port", &format!("127.0.0.1:0={target}"), "--", "sh", "-c", script])
            .args([stdio.as_os_str(), dir.path().as_os_str(), allow.as_ref()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        let err = process.stderr.take().map(BufReader::new);
        Self { process, addr, err, dir }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.addr).unwrap()
    }

    /// The id of the process that serves.
    fn serving(&self) -> u32 {
        let file = self.dir.path().join("serving");
        until(|| file.exists());
        fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.err.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.process.kill(); // It may have ended already.
        let _ = self.process.wait();
    }
}

/// The client finishes its side. The service answers only after that.
#[test]
fn a_forwarded_connection_passes_half_close_through() {
    test("a_forwarded_connection_passes_half_close_through", || {
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = service.local_addr().unwrap().to_string();
        let forwarder = Forwarder::start(&target, &target);
        let mut client = forwarder.connect();
        let sent = Pattern::bytes(1, 1 << 20);
        let answer = thread::scope(|scope| {
            scope.spawn(|| {
                let (mut tcp, _) = service.accept().unwrap();
                let mut came = Vec::new();
                tcp.read_to_end(&mut came).unwrap();
                came.reverse();
                tcp.write_all(&came).unwrap();
            });
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            answer
        });
        assert!(answer.iter().rev().eq(&sent));
        // Output of other code in the serving process doesn't get between the frames.
        if Path::new("/proc/self/fd").exists() {
            let fd = |number| {
                fs::read_link(format!("/proc/{}/fd/{number}", forwarder.serving())).unwrap()
            };
            assert_eq!(fd(1), fd(2));
            assert_eq!(fd(0), Path::new("/dev/null"));
        }
    });
}

/// The user's connection is reset. The forwarder prints the reason to standard error.
#[test]
fn a_target_that_is_not_allowed_or_not_there_is_no_clean_end() {
    test("a_target_that_is_not_allowed_or_not_there_is_no_clean_end", || {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        for (allow, reason) in [("192.0.2.1:1", "is not allowed"), (&*gone, "refused")] {
            let mut forwarder = Forwarder::start(&gone, allow);
            let mut client = forwarder.connect();
            client.read(&mut [0]).unwrap_err();
            let line = forwarder.next_line();
            assert!(line.contains(&gone) && line.contains(reason), "{line}");
        }
    });
}

#[test]
fn a_child_that_is_killed_in_the_middle_is_a_clear_error_everywhere() {
    test("a_child_that_is_killed_in_the_middle_is_a_clear_error_everywhere", || {
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = service.local_addr().unwrap().to_string();
        let mut forwarder = Forwarder::start(&target, &target);
        let mut client = forwarder.connect();
        let (mut tcp, _) = service.accept().unwrap();
        tcp.write_all(b"half of an ans").unwrap();
        client.read_exact(&mut [0; 14]).unwrap();
        let killed =
            Command::new("kill").args(["-9", &forwarder.serving().to_string()]).status().unwrap();
        assert!(killed.success());
        client.read(&mut [0]).unwrap_err(); // a reset, not an end of file
        assert_eq!(forwarder.process.wait().unwrap().code(), Some(1));
        let mut said = String::new();
        forwarder.err.as_mut().unwrap().read_to_string(&mut said).unwrap();
        assert!(
            said.contains("connection lost: it ended while 1 stream of this end was open"),
            "{said}"
        );
        assert!(said.contains("the command ended with signal: 9"), "{said}");
    });
}

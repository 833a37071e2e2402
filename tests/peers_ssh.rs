//! Tests of the `stdio` example through Debian's ssh and sshd. The tests start an sshd on loopback,
//! with its own keys and its own port. `./tests/peers ssh` runs these tests. `stdio.rs` has the
//! same tests without ssh.
//!
//! The tests run as root or as any other user, because sshd accepts the user who started it.
//!
//! Promises: none. It shows the example `stdio` through a program of others.
#![cfg(unix)]

mod support;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use support::peers::{are_there, example, program};
use support::{Pattern, test_for, until};
use tempfile::TempDir;

/// Time limit of a test. Logins may be slow on a busy machine.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Runs `body` with an sshd if the programs are installed. `more` returns further lines of its
/// configuration.
fn through_ssh(name: &str, more: impl Fn(&Path) -> String, body: impl FnOnce(&Sshd)) {
    test_for(name, WATCHDOG, || {
        if are_there(name, &["sshd", "ssh", "ssh-keygen"]) {
            body(&Sshd::start(more));
        }
    });
}

struct Sshd {
    process: Child,
    dir: TempDir,
    port: u16,
}

impl Sshd {
    fn start(more: impl Fn(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for key in ["host", "user"] {
            let made = Command::new(program("ssh-keygen").unwrap())
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.path().join(key))
                .status();
            assert!(made.unwrap().success());
        }
        // As root, sshd needs a directory that only an installed service makes.
        let _ = fs::create_dir_all("/run/sshd");
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let here = dir.path().display();
            let config = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/host\n\
                 AuthorizedKeysFile {here}/user.pub\nUsePAM no\nStrictModes no\nPidFile none\n\
                 PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n{}\n",
                more(dir.path())
            );
            fs::write(dir.path().join("config"), config).unwrap();
            let public = fs::read_to_string(dir.path().join("host.pub")).unwrap();
            fs::write(dir.path().join("known"), format!("[127.0.0.1]:{port} {public}")).unwrap();
            let log = fs::File::create(dir.path().join("log")).unwrap();
            // sshd starts itself again for each connection, so it needs its whole path.
            let mut process = Command::new(program("sshd").unwrap())
                .args(["-D", "-e", "-f"])
                .arg(dir.path().join("config"))
                .stderr(log)
                .spawn()
                .unwrap();
            let mut ended = None;
            until(|| {
                ended = process.try_wait().unwrap();
                ended.is_some() || TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            let log = fs::read_to_string(dir.path().join("log")).unwrap();
            match ended {
                None => return Self { process, dir, port },
                // Another program took the port.
                Some(_) if log.contains("Address already in use") => {}
                Some(status) => panic!("sshd: {status}: {log}"),
            }
        }
    }

    /// Returns a command that runs `remote` at the other end.
    fn ssh(&self, remote: &str) -> Vec<OsString> {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let port = self.port.to_string();
        let known = format!("UserKnownHostsFile={}", file("known"));
        let key = file("user");
        let host = "127.0.0.1";
        let mut words = vec!["ssh", "-F", "none", "-T", "-p", &port, "-i", &key, "-o", &known];
        for option in
            ["IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=yes", "LogLevel=ERROR"]
        {
            words.extend(["-o", option]);
        }
        words.extend([host, remote]);
        words.into_iter().map(OsString::from).collect()
    }

    fn check(&self, options: &[&str], remote: &str) -> Output {
        let mut command = Command::new(example("stdio"));
        command.arg("check").args(options).arg("--").args(self.ssh(remote)).output().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            println!("sshd's log:\n{}", self.log());
        }
    }
}

fn nothing_more(_: &Path) -> String {
    String::new()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn serve() -> String {
    format!("exec {} serve", example("stdio").display())
}

// ---- data ---------------------------------------------------------------------------------------

#[test]
#[ignore = "needs Debian's sshd: ./tests/peers ssh"]
fn a_hundred_streams_at_once_go_through_ssh_and_finish_one_side_first() {
    through_ssh(
        "a_hundred_streams_at_once_go_through_ssh_and_finish_one_side_first",
        nothing_more,
        |sshd| {
            let done = sshd.check(&["--streams", "100", "--kib", "256"], &serve());
            assert!(done.status.success(), "{done:?}");
            assert!(
                text(&done.stdout).contains("100 streams at once, 26214400 bytes each way"),
                "{done:?}"
            );
            println!("through ssh: {}", text(&done.stdout).trim_end());
            assert_eq!(text(&done.stderr), "stdio: the command ended with exit status: 0\n");
        },
    );
}

/// A banner of sshd goes to ssh's standard error. It is visible, and does no harm.
#[test]
#[ignore = "needs Debian's sshd: ./tests/peers ssh"]
fn sshds_own_banner_passes_by() {
    let banner = |dir: &Path| {
        fs::write(dir.join("banner"), "Authorised users only.\n").unwrap();
        format!("Banner {}/banner", dir.display())
    };
    through_ssh("sshds_own_banner_passes_by", banner, |sshd| {
        let mut words = sshd.ssh(&serve());
        let quiet = words.iter().position(|word| word == "LogLevel=ERROR").unwrap();
        words[quiet] = "LogLevel=INFO".into();
        let done = Command::new(example("stdio"))
            .args(["check", "--streams", "2", "--"])
            .args(words)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        assert!(text(&done.stderr).contains("Authorised users only."), "{done:?}");
    });
}

// ---- exit codes ---------------------------------------------------------------------------------

#[test]
#[ignore = "needs Debian's sshd: ./tests/peers ssh"]
fn the_far_commands_exit_code_is_reported_and_passed_on() {
    through_ssh("the_far_commands_exit_code_is_reported_and_passed_on", nothing_more, |sshd| {
        let serve = serve();
        let serve = serve.strip_prefix("exec ").unwrap();
        for (remote, code, more) in [
            ("exit 7", 7, "connection lost"),
            ("no-such-command", 127, "not found"), // The far shell's message passes through.
            (&*format!("{serve}; exit 3"), 3, "exit status: 3"),
        ] {
            let done = sshd.check(&[], remote);
            assert_eq!(done.status.code(), Some(code), "{done:?}");
            let said = text(&done.stderr);
            assert!(
                said.contains(&format!("the command ended with exit status: {code}")),
                "{said}"
            );
            assert!(said.contains(more), "{said}");
        }
    });
}

#[test]
#[ignore = "needs Debian's sshd: ./tests/peers ssh"]
fn a_refused_login_is_sshs_own_message_and_code() {
    through_ssh("a_refused_login_is_sshs_own_message_and_code", nothing_more, |sshd| {
        // Replace the user's key by another one.
        fs::copy(sshd.dir.path().join("host"), sshd.dir.path().join("user")).unwrap();
        let done = sshd.check(&[], &serve());
        assert_eq!(done.status.code(), Some(255), "{done:?}");
        assert!(text(&done.stderr).contains("Permission denied"), "{done:?}");
    });
}

// ---- text before the session --------------------------------------------------------------------

/// A startup file of bash that prints. bash reads it before each command that ssh starts.
#[test]
#[ignore = "needs Debian's sshd: ./tests/peers ssh"]
fn a_startup_file_that_prints_is_a_clear_error() {
    let name = "a_startup_file_that_prints_is_a_clear_error";
    let home = |dir: &Path| {
        fs::write(dir.join(".bashrc"), "echo 'Welcome! 3 updates can be applied.'\n").unwrap();
        format!("SetEnv HOME={0} BASH_ENV={0}/.bashrc", dir.display())
    };
    through_ssh(name, home, |sshd| {
        // Start bash explicitly, because the user's shell may be another one.
        let done = sshd.check(&[], &format!("exec bash -c '{}'", serve()));
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        let said = text(&done.stderr);
        for part in [
            "no frame, but text",
            "\"Welcome! 3 updates can be applied.\\n",
            "startup file",
            "standard error",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    });
}

// ---- forward, and kills -------------------------------------------------------------------------

/// A running forwarder. The test can find and kill its ssh and its far program.
struct Forwarder {
    process: Child,
    addr: String,
    err: BufReader<ChildStderr>,
}

impl Forwarder {
    fn start(sshd: &Sshd, target: &str) -> Self {
        let here = sshd.dir.path().display();
        let remote = format!("echo $$ > {here}/far; {} --allow {target}", serve());
        let near = format!("echo $$ > {here}/near; exec \"$@\"");
        let mut process = Command::new(example("stdio"))
            .args([
                "forward",
                "--port",
                &format!("127.0.0.1:0={target}"),
                "--",
                "sh",
                "-c",
                &near,
                "sh",
            ])
            .args(sshd.ssh(&remote))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        let err = BufReader::new(process.stderr.take().unwrap());
        Self { process, addr, err }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "needs Debian's sshd: ./tests/peers ssh"]
fn a_connection_forwarded_through_ssh_passes_half_close_through() {
    through_ssh(
        "a_connection_forwarded_through_ssh_passes_half_close_through",
        nothing_more,
        |sshd| {
            let service = TcpListener::bind("127.0.0.1:0").unwrap();
            let forwarder = Forwarder::start(sshd, &service.local_addr().unwrap().to_string());
            let mut client = TcpStream::connect(&forwarder.addr).unwrap();
            let sent = Pattern::bytes(1, 4 << 20);
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
        },
    );
}

/// The near ssh, or the far program, is killed in the middle of an answer.
#[test]
#[ignore = "needs Debian's sshd: ./tests/peers ssh"]
fn a_kill_on_either_side_is_a_clear_error_at_both() {
    through_ssh("a_kill_on_either_side_is_a_clear_error_at_both", nothing_more, |sshd| {
        // ssh exits with 255 if the far program ended by a signal.
        for (victim, how) in
            [("near", "the command ended with signal: 9"), ("far", "exit status: 255")]
        {
            let service = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut forwarder = Forwarder::start(sshd, &service.local_addr().unwrap().to_string());
            let mut client = TcpStream::connect(&forwarder.addr).unwrap();
            let (mut tcp, _) = service.accept().unwrap();
            tcp.write_all(b"half of an ans").unwrap();
            client.read_exact(&mut [0; 14]).unwrap();
            let pid = fs::read_to_string(sshd.dir.path().join(victim)).unwrap();
            assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
            client.read(&mut [0]).unwrap_err(); // A reset, not an end of file.
            if victim == "near" {
                // The far program sees its input end with a stream open.
                tcp.read(&mut [0]).unwrap_err();
            } else {
                assert_eq!(tcp.read(&mut [0]).unwrap_or(0), 0); // The system closed it.
            }
            assert!(!forwarder.process.wait().unwrap().success());
            let mut said = String::new();
            forwarder.err.read_to_string(&mut said).unwrap();
            assert!(
                said.contains("connection lost: it ended while 1 stream of this end was open"),
                "{said}"
            );
            assert!(said.contains(how), "{said}");
        }
    });
}

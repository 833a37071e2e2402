//! Tests of the `tls` example as its users run it. Both ends are the built program.
//!
//! Plain `cargo test --features rustls` builds the examples first. For `--test tls_example` alone,
//! run `cargo build --features rustls --example tls` before.
//!
//! Promises: none. It shows the example `tls` as its users meet it.

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use support::test;

fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().and_then(Path::parent).unwrap().join("examples/tls");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --features rustls --example tls` first",
        path.display()
    );
    path
}

/// A running server and its address. Its drop kills it.
struct Server(Child, String);

impl Server {
    fn start(certificate: &Path) -> Self {
        let mut command = Command::new(program());
        command.args(["server", "--listen", "127.0.0.1:0", "--self-made"]).arg(certificate);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr = lines.next().unwrap().unwrap().strip_prefix("listening on ").unwrap().to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        Self(child, addr)
    }

    fn asked(&self, ca: &Path, name: &str) -> Output {
        let mut command = Command::new(program());
        command.args(["client", "--connect", &self.1, "--name", name, "--ca"]).arg(ca).arg("hello");
        command.output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_example_echoes_over_tls_and_refuses_strangers() {
    test("the_example_echoes_over_tls_and_refuses_strangers", || {
        let folder = tempfile::tempdir().unwrap();
        let [ours, other] = ["ours.der", "other.der"].map(|name| folder.path().join(name));
        let server = Server::start(&ours);
        let stranger = Server::start(&other);
        let answer = server.asked(&ours, "localhost");
        let text = String::from_utf8(answer.stdout).unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        assert!(text.contains("TLSv1_3") && text.ends_with("one: hello\ntwo: hello\n"), "{text}");

        for (server, name) in [(&stranger, "localhost"), (&server, "elsewhere")] {
            let refused = server.asked(&ours, name);
            let text = String::from_utf8(refused.stderr).unwrap();
            assert!(
                !refused.status.success()
                    && text.contains("TLS handshake: invalid peer certificate"),
                "{text}"
            );
        }
    });
}

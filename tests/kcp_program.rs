//! Tests of the `kcp` example as its users run it, as two programs: half-close, TLS over KCP,
//! options. `peers_kcptun.rs` tests it with kcptun's programs.
//!
//! Plain `cargo test` builds the examples first. For `--test kcp_program` alone, run
//! `cargo build --examples` before.
//!
//! Promises: none. It shows the example `kcp`, which isn't a part of the crate.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use support::{Pattern, test};

/// The built example. Its directory lies beside the directory of this test's executable.
fn kcp() -> Command {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().and_then(Path::parent).unwrap().join("examples").join("kcp");
    assert!(path.exists(), "{} is missing: run `cargo build --examples` first", path.display());
    Command::new(path)
}

/// A running program. Its drop kills it.
struct Running {
    child: Child,
    addr: SocketAddr,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = kcp().args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let addr = first.strip_prefix("listening on ").unwrap().parse().unwrap();
        thread::spawn(move || lines.for_each(drop)); // The program must not block on its output.
        Self { child, addr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server in front of `target`, and a client of that server.
fn forwarders(
    target: &TcpListener,
    both: &[&str],
    of_server: &[&str],
    of_client: &[&str],
) -> (Running, Running) {
    let target = target.local_addr().unwrap().to_string();
    let server =
        ["server", "--listen", "127.0.0.1:0", "--target", &target, "--key", "of this test"];
    let server = Running::start(&[&server, both, of_server].concat());
    let remote = server.addr.to_string();
    let client =
        ["client", "--listen", "127.0.0.1:0", "--remote", &remote, "--key", "of this test"];
    (Running::start(&[&client, both, of_client].concat()), server)
}

fn target() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// Sends a megabyte and ends its writing. Only then the target sends everything back.
fn question_and_answer(target: &TcpListener, client: &Running) {
    let question = Pattern::bytes(9, 1_000_000);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut tcp = target.accept().unwrap().0;
            let mut all = Vec::new();
            tcp.read_to_end(&mut all).unwrap(); // The half-close arrives.
            tcp.write_all(&all).unwrap();
        });
        let mut tcp = TcpStream::connect(client.addr).unwrap();
        tcp.write_all(&question).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).unwrap();
        assert!(answer == question, "{} bytes", answer.len());
    });
}

#[test]
fn half_close_comes_through_between_two_of_them() {
    test("half-close", || {
        for smuxver in ["1", "2"] {
            let target = target();
            let (client, _server) =
                forwarders(&target, &["--half-close", "--smuxver", smuxver], &[], &[]);
            question_and_answer(&target, &client);
        }
    });
}

#[test]
fn without_half_close_an_end_of_the_stream_ends_the_connection() {
    test("whole close", || {
        let target = target();
        let (client, _server) = forwarders(&target, &["--crypt", "none"], &[], &["--conn", "2"]);
        for _ in 0..2 {
            let mut tcp = TcpStream::connect(client.addr).unwrap();
            tcp.write_all(b"!").unwrap();
            let mut far = target.accept().unwrap().0;
            // Read the question first. A socket that is closed with unread input resets its
            // connection, and the answer would be lost.
            far.read_exact(&mut [0]).unwrap();
            far.write_all(&Pattern::bytes(2, 300_000)).unwrap();
            drop(far);
            let mut answer = Vec::new();
            tcp.read_to_end(&mut answer).unwrap(); // The answer is whole, whichever end closes.
            assert!(answer == Pattern::bytes(2, 300_000));
            // The client doesn't end its side. The program soon does it instead.
            while tcp.write_all(b"?").is_ok() {
                thread::yield_now();
            }
        }
    });
}

#[test]
fn what_kcptun_has_and_this_hasnt_is_refused() {
    for arguments in [
        &["client", "--remote", "127.0.0.1:9", "--datashard", "10"][..],
        &["client", "--remote", "127.0.0.1:9", "--crypt", "salsa20"],
        &["client", "--remote", "127.0.0.1:9", "--mtu", "1501"],
        &["client", "--remote", "127.0.0.1:9", "--smuxver", "3"],
        &["server", "--keepalive", "31"],
        &["server", "--sndwnd", "0"],
    ] {
        let done = kcp().args(arguments).output().unwrap();
        assert_eq!(done.status.code(), Some(2), "{arguments:?}");
    }
}

/// Returns a PEM file, which is base64 between two lines.
#[cfg(feature = "rustls")]
fn pem(what: &str, der: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {what}-----\n");
    for (n, three) in der.chunks(3).enumerate() {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for digit in 0..4 {
            let shown = digit <= three.len();
            text.push(if shown {
                DIGITS[(bits >> (18 - 6 * digit)) as usize & 63].into()
            } else {
                '='
            });
        }
        if n % 16 == 15 {
            text.push('\n');
        }
    }
    text + &format!("\n-----END {what}-----\n")
}

#[cfg(feature = "rustls")]
#[test]
fn tls_over_kcp_is_two_options_away() {
    test("TLS", || {
        let made = rcgen::generate_simple_self_signed(["mux.example".to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| directory.path().join(name));
        std::fs::write(&cert, pem("CERTIFICATE", made.cert.der())).unwrap();
        std::fs::write(&key, pem("PRIVATE KEY", &made.signing_key.serialize_der())).unwrap();
        let [cert, key] = [&cert, &key].map(|path| path.to_str().unwrap());
        let target = target();
        let of_server = ["--tls-cert", cert, "--tls-key", key];
        let right = ["--tls-ca", cert, "--tls-name", "mux.example"];
        let (client, server) = forwarders(&target, &["--half-close"], &of_server, &right);
        question_and_answer(&target, &client);

        // With another name than the certificate's there is no connection.
        let remote = server.addr.to_string();
        let start =
            ["client", "--listen", "127.0.0.1:0", "--remote", &remote, "--key", "of this test"];
        let wrong = ["--tls-ca", cert, "--tls-name", "another.example"];
        let client = Running::start(&[&start[..], &wrong].concat());
        let mut tcp = TcpStream::connect(client.addr).unwrap();
        let _ = tcp.write_all(b"!");
        assert!(matches!(tcp.read(&mut [0]), Ok(0) | Err(_)));
    });
}

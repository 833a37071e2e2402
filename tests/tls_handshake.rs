//! Tests of the handshake of `transport::Tls`: its results, its failures, and that a failure leaves
//! nothing behind. The tests count the descriptors of the process, so they run one at a time.
//!
//! Promises: P98, P101.
#![cfg(target_os = "linux")]

#[path = "support/certs.rs"]
mod certs;
mod support;

use std::error::Error as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gmux::transport::{Control, Halves, Pair, Tls, Transport};
use gmux::{Config, Session};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, ProtocolVersion,
    RootCertStore, ServerConfig, ServerConnection,
};

use support::process_snapshot::ProcessSnapshot;
use support::{tcp, test, until};

/// A deadline that no test reaches. A test that hangs is ended by the watchdog before.
const FAR: Duration = Duration::from_secs(3600);
/// A deadline that tests wait for.
const SHORT: Duration = Duration::from_millis(300);

/// Runs a test of this file. After it there must be as many descriptors and threads as before.
fn alone(name: &str, body: impl FnOnce()) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = ProcessSnapshot::now();
    test(name, || {
        body();
        until(|| {
            let now = ProcessSnapshot::now();
            (now.threads, now.descriptors) == (before.threads, before.descriptors)
        });
    });
}

/// Does the handshakes of both ends at once. Returns the client's result first.
fn both(
    client: ClientConnection,
    server: ServerConnection,
    (a, b): (TcpStream, TcpStream),
) -> (io::Result<Tls>, io::Result<Tls>) {
    thread::scope(|scope| {
        let client = scope.spawn(|| Tls::handshake(client, a, FAR));
        let server = Tls::handshake(server, b, FAR);
        (client.join().unwrap(), server)
    })
}

/// Returns the rustls error inside an error.
fn cause(error: &io::Error) -> rustls::Error {
    error
        .source()
        .and_then(|source| source.downcast_ref::<rustls::Error>())
        .cloned()
        .expect("rustls's error inside")
}

fn assert_says(error: &io::Error, kind: ErrorKind, text: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    let said = error.to_string();
    assert!(said.starts_with("TLS handshake: ") && said.contains(text), "{said}");
}

// ---- its results -------------------------------------------------------------------------------

#[test]
fn both_ends_tell_what_they_agreed_upon() {
    alone("both_ends_tell_what_they_agreed_upon", || {
        let (client, server) = certs::configs(&[&rustls::version::TLS13]);
        let mut client = ClientConfig::clone(&client);
        let mut server = ServerConfig::clone(&server);
        client.alpn_protocols = vec![b"gmux/1".to_vec(), b"other".to_vec()];
        server.alpn_protocols = vec![b"gmux/1".to_vec()];
        let (client, server) = certs::connections_of(&(Arc::new(client), Arc::new(server)));
        let (a, b) = tcp();
        let our_addr = a.local_addr().unwrap();
        let their_addr = a.peer_addr().unwrap();
        let (client, server) = both(client, server, (a, b));
        let client = client.unwrap();
        let server = server.unwrap();
        for end in [&client, &server] {
            assert_eq!(end.alpn_protocol(), Some(&b"gmux/1"[..]));
            assert_eq!(end.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            assert!(end.cipher_suite().is_some());
        }
        assert_eq!(client.cipher_suite(), server.cipher_suite());
        assert_eq!((client.server_name(), server.server_name()), (None, Some("localhost")));
        assert_eq!(client.peer_certificates().map(<[_]>::len), Some(1));
        assert!(server.peer_certificates().is_none());
        assert_eq!((client.local_addr(), client.peer_addr()), (Some(our_addr), Some(their_addr)));
        assert_eq!(server.peer_addr(), Some(our_addr));
        let exported = [&client, &server].map(|end| {
            let mut bytes = [0; 32];
            end.export_keying_material(&mut bytes, b"EXPORTER-test", None).unwrap();
            bytes
        });
        assert_eq!(exported[0], exported[1]);
        assert_eq!(
            client.export_keying_material(&mut [], b"x", None).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        assert!(format!("{client:?}").contains("TLSv1_3"), "{client:?}");
    });
}

// ---- deadlines ---------------------------------------------------------------------------------

/// Checks that a handshake over `transport` fails at its deadline. The peer's thread must end after
/// that.
fn meets_the_deadline(transport: impl Transport, as_server: bool) {
    let (client, server) = certs::connections();
    let begun = Instant::now();
    let failed = if as_server {
        Tls::handshake(server, transport, SHORT).unwrap_err()
    } else {
        Tls::handshake(client, transport, SHORT).unwrap_err()
    };
    assert!(begun.elapsed() >= SHORT);
    assert_says(&failed, ErrorKind::TimedOut, "not done within 300ms");
}

#[test]
fn silence_meets_the_deadline() {
    alone("silence_meets_the_deadline", || {
        for as_server in [false, true] {
            let (near, _far) = tcp();
            meets_the_deadline(near, as_server);
        }
    });
}

/// Each byte is progress, but the handshake as a whole is too slow.
#[test]
fn a_byte_now_and_then_meets_the_deadline() {
    alone("a_byte_now_and_then_meets_the_deadline", || {
        let (near, mut far) = tcp();
        let mut hello = Vec::new();
        certs::connections().0.write_tls(&mut hello).unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for byte in hello {
                    if over.load(SeqCst) || far.write_all(&[byte]).is_err() {
                        return;
                    }
                    thread::sleep(SHORT / 50); // The test is about time: about 200 bytes, 1.2 s.
                }
            });
            meets_the_deadline(near, true);
            over.store(true, SeqCst);
        });
    });
}

/// The server's certificates are larger than the socket's buffer.
#[test]
fn a_peer_that_does_not_read_meets_the_deadline() {
    alone("a_peer_that_does_not_read_meets_the_deadline", || {
        let (near, mut far) = tcp();
        socket2::SockRef::from(&near).set_send_buffer_size(1).unwrap();
        socket2::SockRef::from(&far).set_recv_buffer_size(1).unwrap();
        let mut hello = Vec::new();
        certs::connections().0.write_tls(&mut hello).unwrap();
        far.write_all(&hello).unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone(); 1000], key).unwrap();
        let begun = Instant::now();
        let failed = Tls::handshake(ServerConnection::new(Arc::new(config)).unwrap(), near, SHORT)
            .unwrap_err();
        assert!(begun.elapsed() >= SHORT);
        assert_says(&failed, ErrorKind::TimedOut, "not done within");
    });
}

/// A transport without time limits is aborted once, at the deadline.
#[test]
fn a_transport_without_bounds_is_aborted_at_the_deadline() {
    alone("a_transport_without_bounds_is_aborted_at_the_deadline", || {
        let aborts = Arc::new(AtomicUsize::new(0));
        for as_server in [false, true] {
            let (near, _far) = tcp();
            let reader = near.try_clone().unwrap();
            let abort = near.try_clone().unwrap();
            let pair = Pair::new(reader, near).with_abort({
                let aborts = Arc::clone(&aborts);
                move || {
                    aborts.fetch_add(1, SeqCst);
                    abort.shutdown(Shutdown::Both).unwrap();
                }
            });
            meets_the_deadline(pair, as_server);
        }
        assert_eq!(aborts.load(SeqCst), 2);
    });
}

/// A transport without time limits isn't aborted if its handshake is done in time.
#[test]
fn a_transport_without_bounds_that_is_done_in_time_lives_on() {
    alone("a_transport_without_bounds_that_is_done_in_time_lives_on", || {
        let (a, b) = tcp();
        let (client, server) = certs::connections();
        let pair = |tcp: TcpStream| Pair::new(tcp.try_clone().unwrap(), tcp);
        let deadline = Duration::from_secs(5);
        let begun = Instant::now();
        let (client, server) = thread::scope(|scope| {
            let client = scope.spawn(|| Tls::handshake(client, pair(a), deadline).unwrap());
            let server = Tls::handshake(server, pair(b), deadline).unwrap();
            (client.join().unwrap(), server)
        });
        assert!(begun.elapsed() < deadline, "a loaded machine: nothing was tested");
        assert!(support::gmux_threads().is_empty(), "{:?}", support::gmux_threads());
        let client = Session::client(client, Config::new());
        let server = Session::server(server, Config::new());
        let client = client.unwrap();
        let server = server.unwrap();
        (&client.open("x").unwrap()).write_all(b"1").unwrap();
        (&server.accept().unwrap()).read_exact(&mut [0]).unwrap();
        drop(client);
        drop(server);
    });
}

// ---- other protocols ----------------------------------------------------------------------------

#[test]
fn garbage_is_a_clear_error_and_is_answered_by_an_alert() {
    alone("garbage_is_a_clear_error_and_is_answered_by_an_alert", || {
        let texts: [&[u8]; 4] =
            [b"SSH-2.0-OpenSSH_9.2p1\r\n", b"GET / HTTP/1.1\r\n\r\n", &[0; 300], &[0xff; 20_000]];
        for text in texts {
            for as_server in [false, true] {
                let (near, mut far) = tcp();
                let answer = thread::spawn(move || {
                    let mut answer = Vec::new();
                    // This may fail, because the other end may be gone before all was sent.
                    let _ = far.write_all(text);
                    far.read_to_end(&mut answer).map(|_| answer)
                });
                let (client, server) = certs::connections();
                let failed = if as_server {
                    Tls::handshake(server, near, FAR).unwrap_err()
                } else {
                    Tls::handshake(client, near, FAR).unwrap_err()
                };
                assert_says(&failed, ErrorKind::InvalidData, "");
                cause(&failed);
                let answer = answer.join().unwrap().unwrap();
                // A client has sent its hello before the alert.
                let at = if as_server {
                    0
                } else {
                    5 + usize::from(u16::from_be_bytes([answer[3], answer[4]]))
                };
                assert_eq!(
                    answer[at..].first(),
                    Some(&0x15),
                    "an alert comes last, of {} bytes",
                    answer.len()
                );
                assert_eq!(answer.len(), at + 7);
            }
        }
    });
}

#[test]
fn an_end_in_the_middle_is_said() {
    alone("an_end_in_the_middle_is_said", || {
        for sent in [0, 1, 5, 100] {
            let (near, mut far) = tcp();
            let mut hello = Vec::new();
            certs::connections().0.write_tls(&mut hello).unwrap();
            far.write_all(&hello[..sent]).unwrap();
            far.shutdown(Shutdown::Write).unwrap();
            let failed = Tls::handshake(certs::connections().1, near, FAR).unwrap_err();
            assert_says(&failed, ErrorKind::UnexpectedEof, "the peer ended the connection");
        }
    });
}

// ---- certificates ------------------------------------------------------------------------------

/// A certificate authority.
struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let name = format!("authority {}", NUMBER.fetch_add(1, SeqCst));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(
            rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap())
                .unwrap(),
        )
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// Signs a certificate for `name`, valid or expired. Returns it with its key.
    fn sign(
        &self,
        name: &str,
        expired: bool,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn client(
        &self,
        identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> ClientConnection {
        let config = ClientConfig::builder().with_root_certificates(self.roots());
        let config = match identity {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }

    /// Makes a server that asks for certificates of this authority, or for none.
    fn server(
        &self,
        (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
        asks: bool,
    ) -> ServerConnection {
        let config = ServerConfig::builder();
        let config = if asks {
            config.with_client_cert_verifier(
                WebPkiClientVerifier::builder(self.roots()).build().unwrap(),
            )
        } else {
            config.with_no_client_auth()
        };
        ServerConnection::new(Arc::new(config.with_single_cert(chain, key).unwrap())).unwrap()
    }
}

/// A client that doesn't trust the server fails with the reason. The server fails with the alert
/// that the client sends.
#[test]
fn a_server_that_is_not_trusted_is_an_error_at_both_ends() {
    alone("a_server_that_is_not_trusted_is_an_error_at_both_ends", || {
        let authority = Authority::new();
        let other = Authority::new();
        let cases = [
            (other.sign("localhost", false), "UnknownIssuer", AlertDescription::UnknownCA),
            (authority.sign("localhost", true), "expired", AlertDescription::CertificateExpired),
            (
                authority.sign("elsewhere", false),
                "not valid for name",
                AlertDescription::BadCertificate,
            ),
        ];
        for (identity, text, alert) in cases {
            let (client, server) =
                both(authority.client(None), authority.server(identity, false), tcp());
            let client = client.unwrap_err();
            let server = server.unwrap_err();
            assert_says(&client, ErrorKind::InvalidData, text);
            assert!(matches!(cause(&client), rustls::Error::InvalidCertificate(_)), "{client}");
            assert_says(&server, ErrorKind::InvalidData, "the peer refused it by the alert");
            let rustls::Error::AlertReceived(received) = cause(&server) else { panic!("{server}") };
            assert!(received == alert || alert == AlertDescription::BadCertificate, "{received:?}");
        }
    });
}

#[test]
fn a_server_knows_the_client_by_its_certificate() {
    alone("a_server_knows_the_client_by_its_certificate", || {
        let authority = Authority::new();
        let identity = authority.sign("a client", false);
        let shown = identity.0.clone();
        let (client, server) = both(
            authority.client(Some(identity)),
            authority.server(authority.sign("localhost", false), true),
            tcp(),
        );
        assert_eq!(server.unwrap().peer_certificates(), Some(&shown[..]));
        let _ = client.unwrap();
    });
}

/// With TLS 1.3 a client's handshake is done before the server checks its certificate. So the
/// client's session ends with the server's alert as its error. It does so whether the client writes
/// at once or not at all.
#[test]
fn a_client_that_is_refused_reads_the_alert_in_its_sessions_error() {
    alone("a_client_that_is_refused_reads_the_alert_in_its_sessions_error", || {
        let authority = Authority::new();
        let other = Authority::new();
        let cases: [(Option<_>, _, _); 3] = [
            (None, "CertificateRequired", None),
            (Some((&other, false)), "UnknownCA", Some(CertificateError::UnknownIssuer)),
            (Some((&authority, true)), "CertificateExpired", None),
        ];
        for (identity, alert, found) in cases {
            for round in 0..30 {
                let identity = identity.map(|(by, expired)| by.sign("a client", expired));
                let server = authority.server(authority.sign("localhost", false), true);
                let (a, b) = tcp();
                let (tell, go) = mpsc::channel();
                let client = authority.client(identity);
                let client = thread::spawn(move || {
                    let session =
                        Session::client(Tls::handshake(client, a, FAR).unwrap(), Config::new())
                            .unwrap();
                    if round % 3 == 0 {
                        go.recv().unwrap(); // The server is gone now.
                    }
                    if round % 3 != 1 {
                        let stream = session
                            .open("hello")
                            .and_then(|stream| Ok((&stream).write_all(&[7; 100_000])?));
                        drop(stream);
                    }
                    let error = session.accept().unwrap_err();
                    (error.to_string(), session.close_reason().unwrap().to_string())
                });
                let refused = Tls::handshake(server, b, FAR).unwrap_err();
                let _ = tell.send(());
                assert_says(&refused, ErrorKind::InvalidData, "");
                if let Some(found) = &found {
                    let rustls::Error::InvalidCertificate(cause) = cause(&refused) else {
                        panic!("{refused}")
                    };
                    assert_eq!(&cause, found);
                }
                let (error, reason) = client.join().unwrap();
                assert!(
                    error.contains(alert) && reason.contains(alert),
                    "round {round}: {error}; {reason}"
                );
            }
        }
    });
}

// ---- panics in a transport ---------------------------------------------------------------------

/// A transport that panics in one of its calls. The second field is the number of that call, from
/// 1.
struct Bomb(TcpStream, usize);

impl Transport for Bomb {
    fn split(self) -> io::Result<Halves> {
        let calls = Arc::new(AtomicUsize::new(self.1));
        let reader = self.0.try_clone()?;
        let abort = self.0.try_clone()?;
        Ok(Halves::new(Fused(reader, Arc::clone(&calls)), Fused(self.0, calls), Abort(abort)))
    }
}

struct Fused(TcpStream, Arc<AtomicUsize>);

impl Fused {
    fn burn(&self) {
        let left =
            self.1.fetch_update(SeqCst, SeqCst, |left| Some(left.saturating_sub(1))).unwrap();
        assert!(left != 1, "as ordered");
    }
}

impl Read for Fused {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.burn();
        self.0.read(buf)
    }
}

impl Write for Fused {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.burn();
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.burn();
        self.0.flush()
    }
}

struct Abort(TcpStream);

impl Control for Abort {
    fn finish_write(&self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    fn abort(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// A panic in the handshake reaches the caller, as if the caller had called the transport itself.
/// The peer sees the connection end. A panic later ends the session.
#[test]
fn a_transport_that_panics_costs_its_connection_alone() {
    alone("a_transport_that_panics_costs_its_connection_alone", || {
        for n in 1..40 {
            let (a, b) = tcp();
            let (client, server) = certs::connections();
            thread::scope(|scope| {
                let far = scope.spawn(|| {
                    let Ok(tls) = Tls::handshake(server, b, FAR) else { return };
                    let session = Session::server(tls, Config::new()).unwrap();
                    while let Ok(stream) = session.accept() {
                        let _ = io::copy(&mut &stream, &mut &stream);
                    }
                });
                let near = scope.spawn(|| {
                    // After a failed write, the session reads on until the close timeout.
                    let config = Config::new().close_timeout(Duration::from_millis(50));
                    let session =
                        Session::client(Tls::handshake(client, Bomb(a, n), FAR).unwrap(), config)
                            .unwrap();
                    loop {
                        let mut stream = session.open("s")?;
                        stream.write_all(&[1; 1000])?;
                        stream.read_exact(&mut [0; 1000])?;
                    }
                    #[allow(unreachable_code, reason = "says what the loop's `?` returns")]
                    Ok::<(), io::Error>(())
                });
                match near.join() {
                    Ok(ended) => assert!(ended.unwrap_err().to_string().contains("as ordered")),
                    Err(panic) => {
                        assert_eq!(panic.downcast_ref::<&str>(), Some(&"as ordered"), "call {n}")
                    }
                }
                far.join().unwrap();
            });
        }
    });
}

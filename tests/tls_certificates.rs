//! Tests of `transport::Tls`:
//! - certificates that are refused, and the error at each end
//! - ALPN and SNI
//! - a connection where only one end speaks TLS
//!
//! After each test no thread and no descriptor may be left. So the tests run one after another.
//!
//! Promises: P101, P102.

#[path = "support/authority.rs"]
mod authority;
mod support;

use std::error::Error as StdError;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use gmux::transport::Tls;
use gmux::{Config, Error, Session};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConnection, DigitallySignedStruct, DistinguishedName, ProtocolVersion, ServerConnection,
    SignatureScheme, SupportedProtocolVersion,
};

use authority::{
    Authority, CLIENT, Identity, Purpose, SERVER, VERSIONS, Valid, client, client_config,
    client_to, server, server_config,
};
use support::process_snapshot::ProcessSnapshot;
use support::{tcp, test, until};

/// Time limit of a handshake. A slower one hangs.
const LONG: Duration = Duration::from_secs(30);

/// The authority that both ends trust.
static OURS: LazyLock<Authority> = LazyLock::new(|| Authority::new("our authority"));
/// An authority that nobody trusts.
static OTHER: LazyLock<Authority> = LazyLock::new(|| Authority::new("another authority"));

/// Runs one test at a time, and compares threads and descriptors before and after it.
fn alone(name: &str, body: impl FnOnce()) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    test(name, || {
        let before = ProcessSnapshot::settled(usize::MAX); // Other tests wait for the lock.
        body();
        // The last parts of a session are dropped shortly after its threads end. Only the watchdog
        // stays.
        until(|| {
            let now = ProcessSnapshot::now();
            (now.threads, now.descriptors) == (before.threads, before.descriptors)
        });
    });
}

// ---- refused certificates ----------------------------------------------------------------------

/// The client's action right after its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Waits,
    /// It writes at once. A server that has refused the client then resets the connection, and the
    /// reset must not hide the alert.
    Writes,
}

/// Runs a client's end, and returns its error. With TLS 1.3 the handshake is done before the server
/// checks the client's certificate. Then the error comes from the session.
fn client_end(connection: ClientConnection, tcp: TcpStream, after: After) -> io::Error {
    let tls = match Tls::handshake(connection, tcp, LONG) {
        Ok(tls) => tls,
        Err(error) => {
            assert!(error.to_string().starts_with("TLS handshake: "), "{error}");
            return error;
        }
    };
    let session = Session::client(tls, Config::new()).unwrap();
    if after == After::Writes {
        let mut stream = match session.open("refused") {
            Ok(stream) => stream,
            Err(error) => return error.into(),
        };
        while stream.write_all(&[7; 4096]).is_ok() {}
        let read = stream.read(&mut [0]).unwrap_err();
        session.closed().recv().unwrap_err();
        assert_eq!(Error::from(read).to_string(), session.close_reason().unwrap().to_string());
    }
    let accept = session.accept().unwrap_err();
    let reason = session.close_reason().unwrap();
    assert_eq!(accept.to_string(), reason.to_string());
    reason.into()
}

/// Runs a server's end that has to refuse. Returns its error.
fn server_end(connection: ServerConnection, tcp: TcpStream) -> io::Error {
    let error = Tls::handshake(connection, tcp, LONG).map(drop).unwrap_err();
    assert!(error.to_string().starts_with("TLS handshake: "), "{error}");
    error
}

/// Finds the rustls error inside an error, as a user would find it.
fn rustls_error(error: &io::Error) -> rustls::Error {
    let first = error.get_ref().map(|inner| inner as &(dyn StdError + 'static));
    let mut sources = std::iter::successors(first, |error| (*error).source());
    let found = sources.find_map(|error| error.downcast_ref::<rustls::Error>().cloned());
    found.unwrap_or_else(|| panic!("no rustls error in {error:?}"))
}

/// Connects both ends, and checks their errors: parts of the texts, and the kind.
fn refused(
    what: &str,
    ends: impl Fn() -> (ClientConnection, ServerConnection),
    client_says: &[&str],
    server_says: &[&str],
) {
    for after in [After::Waits, After::Writes] {
        let (near, far) = tcp();
        let (client, server) = ends();
        let (client, server) = thread::scope(|scope| {
            let client = scope.spawn(|| client_end(client, near, after));
            let server = server_end(server, far);
            (client.join().unwrap(), server)
        });
        for (end, error, says) in
            [("client", &client, client_says), ("server", &server, server_says)]
        {
            let text = error.to_string();
            println!("{what}, {after:?}, {end}: {text}");
            for part in says {
                assert!(
                    text.contains(part),
                    "{what}, {after:?}: the {end} doesn't say {part:?}: {text}"
                );
            }
            assert_eq!(
                error.kind(),
                io::ErrorKind::InvalidData,
                "{what}, {after:?}, {end}: {error:?}"
            );
            rustls_error(error);
        }
    }
}

/// Checks a case for each version of TLS. `make` makes the two ends.
fn refused_in_all_versions(
    name: &str,
    make: impl Fn(&[&'static SupportedProtocolVersion]) -> (ClientConnection, ServerConnection),
    client_says: &[&str],
    server_says: &[&str],
) {
    alone(name, || {
        for version in VERSIONS {
            let what = format!("{name}, {:?}", version.version);
            refused(&what, || make(&[version]), client_says, server_says);
        }
    });
}

/// Makes a client that trusts our authority, and a server with the certificate `shown`.
fn meets(
    shown: &Identity,
    versions: &[&'static SupportedProtocolVersion],
) -> (ClientConnection, ServerConnection) {
    (client(client_config(&OURS, None, versions)), server(server_config(shown, None, versions)))
}

/// Makes a client with the certificate `shown`, or with none, and a server that requires a
/// certificate of our authority.
fn shows(
    shown: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> (ClientConnection, ServerConnection) {
    let own = OURS.issue(Purpose::Server, SERVER, Valid::Now);
    (
        client(client_config(&OURS, shown, versions)),
        server(server_config(&own, Some(OURS.verifier()), versions)),
    )
}

#[test]
fn a_client_refuses_a_server_of_an_unknown_authority() {
    refused_in_all_versions(
        "a_client_refuses_a_server_of_an_unknown_authority",
        |versions| meets(&OTHER.issue(Purpose::Server, SERVER, Valid::Now), versions),
        &["invalid peer certificate", "UnknownIssuer"],
        &["the peer refused", "UnknownCA"],
    );
}

#[test]
fn a_client_refuses_a_server_whose_certificate_is_expired() {
    refused_in_all_versions(
        "a_client_refuses_a_server_whose_certificate_is_expired",
        |versions| meets(&OURS.issue(Purpose::Server, SERVER, Valid::Expired), versions),
        &["invalid peer certificate", "certificate expired", "seconds ago"],
        &["the peer refused", "CertificateExpired"],
    );
}

#[test]
fn a_client_refuses_a_server_of_another_name() {
    refused_in_all_versions(
        "a_client_refuses_a_server_of_another_name",
        |versions| meets(&OURS.issue(Purpose::Server, "other.example", Valid::Now), versions),
        &[
            "invalid peer certificate",
            "not valid for name \"localhost\"",
            "only valid for",
            "other.example",
        ],
        &["the peer refused", "BadCertificate"],
    );
}

#[test]
fn a_client_refuses_a_server_that_shows_a_clients_certificate() {
    refused_in_all_versions(
        "a_client_refuses_a_server_that_shows_a_clients_certificate",
        |versions| meets(&OURS.issue(Purpose::Client, SERVER, Valid::Now), versions),
        &["invalid peer certificate", "server authentication"],
        &["the peer refused", "UnsupportedCertificate"],
    );
}

#[test]
fn a_server_refuses_a_client_of_an_unknown_authority() {
    refused_in_all_versions(
        "a_server_refuses_a_client_of_an_unknown_authority",
        |versions| shows(Some(&OTHER.issue(Purpose::Client, CLIENT, Valid::Now)), versions),
        &["the peer", "alert UnknownCA"],
        &["invalid peer certificate", "UnknownIssuer"],
    );
}

#[test]
fn a_server_refuses_a_client_whose_certificate_is_expired() {
    refused_in_all_versions(
        "a_server_refuses_a_client_whose_certificate_is_expired",
        |versions| shows(Some(&OURS.issue(Purpose::Client, CLIENT, Valid::Expired)), versions),
        &["the peer", "alert CertificateExpired"],
        &["invalid peer certificate", "certificate expired", "seconds ago"],
    );
}

#[test]
fn a_server_refuses_a_client_that_shows_no_certificate() {
    refused_in_all_versions(
        "a_server_refuses_a_client_that_shows_no_certificate",
        |versions| shows(None, versions),
        &["the peer", "alert CertificateRequired"],
        &["peer sent no certificates"],
    );
}

#[test]
fn a_server_refuses_a_client_that_shows_a_servers_certificate() {
    refused_in_all_versions(
        "a_server_refuses_a_client_that_shows_a_servers_certificate",
        |versions| shows(Some(&OURS.issue(Purpose::Server, CLIENT, Valid::Now)), versions),
        &["the peer", "alert UnsupportedCertificate"],
        &["invalid peer certificate", "client authentication"],
    );
}

/// A verifier that checks a client's name. rustls has none that does it.
#[derive(Debug)]
struct Named(Arc<dyn ClientCertVerifier>, ServerName<'static>);

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.1)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[test]
fn a_server_refuses_a_client_of_another_name() {
    refused_in_all_versions(
        "a_server_refuses_a_client_of_another_name",
        |versions| {
            let (own, alice) = OURS.issue_both();
            let verifier =
                Arc::new(Named(OURS.verifier(), ServerName::try_from("bob.example").unwrap()));
            (
                client(client_config(&OURS, Some(&alice), versions)),
                server(server_config(&own, Some(verifier), versions)),
            )
        },
        &["the peer", "alert BadCertificate"],
        &["invalid peer certificate", "not valid for name \"bob.example\"", "alice.example"],
    );
}

/// The other way to check a client's name. The handshake accepts all certificates of the authority,
/// and the application checks the name afterwards. Then the client gets no reason. It only sees an
/// end that isn't clean.
#[test]
fn an_application_can_look_at_the_clients_name() {
    alone("an_application_can_look_at_the_clients_name", || {
        let names = |tls: &Tls, name| {
            let certificate =
                ParsedCertificate::try_from(&tls.peer_certificates().unwrap()[0]).unwrap();
            verify_server_name(&certificate, &ServerName::try_from(name).unwrap())
        };
        let (client, server) = met(both_sides(&[&rustls::version::TLS13]));
        assert_eq!(names(&server, CLIENT), Ok(()));
        let error = names(&server, "bob.example").unwrap_err().to_string();
        assert!(error.contains("bob.example") && error.contains(CLIENT), "{error}");
        drop(server);
        let session = Session::client(client, Config::new()).unwrap();
        let error = session.accept().unwrap_err();
        println!("the client says: {error}");
        assert!(!matches!(error, Error::PeerClosed), "{error}");
    });
}

// ---- results of a handshake --------------------------------------------------------------------

/// Makes two ends that accept each other, each with a certificate.
fn both_sides(
    versions: &[&'static SupportedProtocolVersion],
) -> (ClientConnection, ServerConnection) {
    let (own, shown) = OURS.issue_both();
    let server_side = server_config(&own, Some(OURS.verifier()), versions);
    (client(client_config(&OURS, Some(&shown), versions)), server(server_side))
}

/// Does the handshake of two ends that accept each other.
fn met((client, server): (ClientConnection, ServerConnection)) -> (Tls, Tls) {
    let (near, far) = tcp();
    thread::scope(|scope| {
        let client = scope.spawn(|| Tls::handshake(client, near, LONG).unwrap());
        let server = Tls::handshake(server, far, LONG).unwrap();
        (client.join().unwrap(), server)
    })
}

/// Makes a session over both ends, and checks that it works.
fn works(client: Tls, server: Tls) {
    let client = Session::client(client, Config::new()).unwrap();
    let server = Session::server(server, Config::new()).unwrap();
    let mut near = client.open("question").unwrap();
    near.write_all(b"to be").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut far = server.accept().unwrap();
    let mut question = String::new();
    far.read_to_string(&mut question).unwrap();
    assert_eq!((far.name(), &*question), ("question", "to be"));
    drop(near);
    drop(far);
    client.close().unwrap();
    server.close().unwrap();
}

#[test]
fn certificates_name_and_version_are_known_afterwards() {
    alone("certificates_name_and_version_are_known_afterwards", || {
        for (version, number) in
            VERSIONS.into_iter().zip([ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2])
        {
            let (own, shown) = OURS.issue_both();
            let server_side = server_config(&own, Some(OURS.verifier()), &[version]);
            let client_side = client_config(&OURS, Some(&shown), &[version]);
            let (client, server) = met((client(client_side), server(server_side)));
            assert_eq!(client.peer_certificates(), Some(&[own.certificate][..]));
            assert_eq!(server.peer_certificates(), Some(&[shown.certificate][..]));
            assert_eq!((client.server_name(), server.server_name()), (None, Some(SERVER)));
            assert_eq!([client.protocol_version(), server.protocol_version()], [Some(number); 2]);
            assert_eq!(client.cipher_suite(), server.cipher_suite());
            assert_eq!([client.alpn_protocol(), server.alpn_protocol()], [None; 2]);
            assert_eq!(
                (client.local_addr(), client.peer_addr()),
                (server.peer_addr(), server.local_addr())
            );
            works(client, server);
        }
    });
}

#[test]
fn a_server_that_asks_for_no_certificate_has_none() {
    alone("a_server_that_asks_for_no_certificate_has_none", || {
        let (own, shown) = OURS.issue_both();
        let client_side = client_config(&OURS, Some(&shown), &VERSIONS);
        let (client, server) =
            met((client(client_side), server(server_config(&own, None, &VERSIONS))));
        assert_eq!(server.peer_certificates(), None);
        works(client, server);
    });
}

#[test]
fn a_client_that_connects_by_address_gives_no_name() {
    alone("a_client_that_connects_by_address_gives_no_name", || {
        let own = OURS.issue(Purpose::Server, "127.0.0.1", Valid::Now);
        let client_side = client_to("127.0.0.1", client_config(&OURS, None, &VERSIONS));
        let (client, server) = met((client_side, server(server_config(&own, None, &VERSIONS))));
        assert_eq!(server.server_name(), None);
        works(client, server);
    });
}

/// Makes two ends that offer these protocols by ALPN.
fn offering(
    versions: &[&'static SupportedProtocolVersion],
    client_offers: &[&str],
    server_offers: &[&str],
) -> (ClientConnection, ServerConnection) {
    let list = |offers: &[&str]| offers.iter().map(|name| name.as_bytes().to_vec()).collect();
    let own = OURS.issue(Purpose::Server, SERVER, Valid::Now);
    let mut near = client_config(&OURS, None, versions);
    let mut far = server_config(&own, None, versions);
    near.alpn_protocols = list(client_offers);
    far.alpn_protocols = list(server_offers);
    (client(near), server(far))
}

#[test]
fn the_protocol_of_alpn_is_known_to_both() {
    alone("the_protocol_of_alpn_is_known_to_both", || {
        for version in VERSIONS {
            let (client, server) =
                met(offering(&[version], &["gmux/2", "gmux/1"], &["gmux/1", "http/1.1"]));
            assert_eq!([client.alpn_protocol(), server.alpn_protocol()], [Some(&b"gmux/1"[..]); 2]);
            works(client, server);
            // A peer that offers no protocol is accepted.
            let (client, server) = met(offering(&[version], &[], &["gmux/1"]));
            assert_eq!([client.alpn_protocol(), server.alpn_protocol()], [None; 2]);
            works(client, server);
        }
    });
}

#[test]
fn no_common_protocol_is_an_error_at_both() {
    refused_in_all_versions(
        "no_common_protocol_is_an_error_at_both",
        |versions| offering(versions, &["h2"], &["gmux/1"]),
        &["the peer refused", "NoApplicationProtocol"],
        &["peer doesn't support any known protocol"],
    );
}

// ---- peers that don't speak TLS -----------------------------------------------------------------

/// Runs a TLS server whose peer sends bytes that aren't TLS. Returns the server's error.
fn server_hears(said: &[u8]) -> io::Error {
    let own = OURS.issue(Purpose::Server, SERVER, Valid::Now);
    let (mut near, far) = tcp();
    near.write_all(said).unwrap();
    let error = server_end(server(server_config(&own, None, &VERSIONS)), far);
    let mut rest = Vec::new();
    let _ = near.read_to_end(&mut rest); // An alert, or a reset.
    println!(
        "after {:?} the server says: {error}\nand sends {rest:?}",
        String::from_utf8_lossy(said)
    );
    error
}

#[track_caller]
fn assert_says(error: &impl std::fmt::Display, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "not said: {part:?} in {text}");
    }
}

#[test]
fn a_tls_server_says_that_http_isnt_tls() {
    alone("a_tls_server_says_that_http_isnt_tls", || {
        let error = server_hears(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error:?}");
        assert_says(&error, &["not TLS", "\"GET / HTTP/1.1", "is it without TLS?"]);
    });
}

#[test]
fn a_tls_server_says_that_random_bytes_arent_tls() {
    alone("a_tls_server_says_that_random_bytes_arent_tls", || {
        let error = server_hears(&[0x9d; 300]);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error:?}");
        assert_says(&error, &["not TLS", "is it without TLS?"]);
    });
}

/// If the first byte could be TLS, the error is the one from rustls.
#[test]
fn a_tls_server_says_what_is_wrong_with_tls() {
    alone("a_tls_server_says_what_is_wrong_with_tls", || {
        let error = server_hears(b"\x16\x03\x01\0\x05\x01\0\0\x01\xff");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error:?}");
        rustls_error(&error);
    });
}

#[test]
fn plain_gmux_at_a_tls_server_is_told_at_both_ends() {
    alone("plain_gmux_at_a_tls_server_is_told_at_both_ends", || {
        for config in support::versions() {
            let own = OURS.issue(Purpose::Server, SERVER, Valid::Now);
            let (near, far) = tcp();
            let session = Session::client(near, config).unwrap();
            let mut stream = session.open("plain").unwrap();
            stream.write_all(b"hello").unwrap();
            let error = server_end(server(server_config(&own, None, &VERSIONS)), far);
            assert_says(&error, &["not TLS", "gmux", "is it without TLS?"]);
            let error = session.accept().unwrap_err();
            println!("the plain client says: {error}");
            assert_says(&error, &["TLS alert", "expects TLS"]);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error:?}");
        }
    });
}

#[test]
fn tls_at_a_plain_gmux_server_is_told_at_both_ends() {
    alone("tls_at_a_plain_gmux_server_is_told_at_both_ends", || {
        for config in support::versions() {
            let (near, far) = tcp();
            let session = Session::server(far, config).unwrap();
            let error =
                client_end(client(client_config(&OURS, None, &VERSIONS)), near, After::Waits);
            println!("the TLS client says: {error}");
            assert_says(&error, &["ended the connection", "does it speak TLS?"]);
            let error = session.accept().unwrap_err();
            println!("the plain server says: {error}");
            assert_says(&error, &["TLS handshake", "speaks TLS", "this end doesn't"]);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error:?}");
        }
    });
}

#[test]
fn a_tls_client_at_a_web_server_says_what_it_met() {
    alone("a_tls_client_at_a_web_server_says_what_it_met", || {
        let (near, mut far) = tcp();
        far.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
        let error =
            Tls::handshake(client(client_config(&OURS, None, &VERSIONS)), near, LONG).unwrap_err();
        println!("the TLS client says: {error}");
        assert_says(&error, &["not TLS", "\"HTTP/1.1 400 Bad Request"]);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error:?}");
    });
}

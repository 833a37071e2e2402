//! TLS over any transport, by rustls, in both directions at once.
//!
//! rustls keeps one state for both directions, so it can't be split. But its calls never wait. Only
//! the inner transport waits, and the inner transport can be split. So each half of [`Tls`] owns
//! one half of the inner transport. Both halves share rustls's state under a lock that is held only
//! around rustls's calls:
//!
//! ```text
//! reader: inner read ──▶ ciphertext ──▶ [lock: decrypt] ──▶ plaintext
//! writer: plaintext ──▶ [lock: encrypt] ──▶ ciphertext ──▶ inner write
//! ```
//!
//! rustls makes answers to the input, such as new keys and alerts. The writer thread sends these
//! answers. [`Control::wants_flush`](super::Control::wants_flush) tells the writer that there is an
//! answer. [`link`] says which lock guards which state.
//!
//! Invariant: once the handshake has begun, no code outside of this module sees the rustls
//! connection. So if a later version of rustls can be split into halves, only this module has to
//! change.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, Connection, ProtocolVersion};

use super::{Halves, Transport};

mod handshake;
mod incoming;
mod link;
mod outgoing;

use handshake::Done;
use incoming::TlsReader;
use link::Link;
use outgoing::{TlsControl, TlsWriter};

/// A TLS connection (rustls) over another transport, usually a `TcpStream`. Needs the feature
/// `rustls`.
///
/// The connection reads and writes at the same time. Neither direction ever waits for the other,
/// even if both are full. A blocked call can be interrupted if the transport below allows that. If
/// that transport allows inline reads and writes, `Tls` allows them, too. If the connection ends
/// without TLS's closing mark (`close_notify`), calls fail. So a connection that was cut off never
/// looks like an end of file.
///
/// You choose the cryptography in your own manifest:
///
/// ```toml
/// gmux-rs = { version = "0.2", features = ["rustls"] }
/// # "ring" or "aws_lc_rs":
/// rustls = { version = "0.23", default-features = false, features = ["std", "ring"] }
/// ```
///
/// A client:
///
/// ```no_run
/// use std::net::TcpStream;
/// use std::sync::Arc;
/// use std::time::Duration;
/// use gmux::{Config, Session, transport::Tls};
/// use rustls::{ClientConfig, ClientConnection, RootCertStore};
///
/// let mut roots = RootCertStore::empty(); // or those of the crate webpki-roots, or the system's
/// # let ca: rustls::pki_types::CertificateDer = Vec::new().into();
/// roots.add(ca).map_err(std::io::Error::other)?;
/// let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
///
/// let name = "mux.example.com".try_into().map_err(std::io::Error::other)?;
/// let connection = ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
/// let tcp = TcpStream::connect("mux.example.com:443")?;
/// let tls = Tls::handshake(connection, tcp, Duration::from_secs(10))?;
/// let session = Session::client(tls, Config::new())?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A server does the handshake of each connection in a separate thread, so that a slow client
/// doesn't delay others:
///
/// ```no_run
/// use std::net::TcpListener;
/// use std::sync::Arc;
/// use std::thread;
/// use std::time::Duration;
/// use gmux::{Config, Session, transport::Tls};
/// use rustls::{ServerConfig, ServerConnection};
///
/// # fn config() -> Arc<ServerConfig> { unimplemented!() }
/// # fn serve(session: Session) {}
/// let config: Arc<ServerConfig> = config();
/// for tcp in TcpListener::bind("0.0.0.0:443")?.incoming() {
///     let (config, tcp) = (Arc::clone(&config), tcp?);
///     thread::spawn(move || -> std::io::Result<()> {
///         let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
///         let tls = Tls::handshake(connection, tcp, Duration::from_secs(10))?;
///         println!("{:?} asks for {:?}", tls.peer_addr(), tls.server_name());
///         serve(Session::server(tls, Config::new())?);
///         Ok(())
///     });
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Who the client is
/// Here is a server that asks for certificates, and a client that has a certificate. `chain` is the
/// certificate of the server or client, followed by the certificates that vouch for this
/// certificate. `key` is
/// the private key of that certificate.
///
/// ```no_run
/// use std::sync::Arc;
/// use rustls::pki_types::{CertificateDer, PrivateKeyDer};
/// use rustls::server::WebPkiClientVerifier;
/// use rustls::{ClientConfig, RootCertStore, ServerConfig};
///
/// type Chain = Vec<CertificateDer<'static>>;
/// type Key = PrivateKeyDer<'static>;
/// type Error = Box<dyn std::error::Error>;
///
/// /// `clients` holds the CA that vouches for clients: one of your own, not those of the web.
/// fn server(clients: RootCertStore, chain: Chain, key: Key) -> Result<ServerConfig, Error> {
///     let verifier = WebPkiClientVerifier::builder(Arc::new(clients)).build()?;
///     let config = ServerConfig::builder().with_client_cert_verifier(verifier);
///     Ok(config.with_single_cert(chain, key)?)
/// }
///
/// /// `servers` holds the CAs that vouch for the server.
/// fn client(servers: RootCertStore, chain: Chain, key: Key) -> Result<ClientConfig, Error> {
///     let config = ClientConfig::builder().with_root_certificates(servers);
///     Ok(config.with_client_auth_cert(chain, key)?)
/// }
/// ```
///
/// rustls checks which CA vouches for a client. It doesn't check the client's name. The server
/// finds the name in [`peer_certificates`](Self::peer_certificates). The example `tls` is a whole
/// program of this kind, with certificates that it makes itself.
///
/// # The end of a connection
/// [`Session::close`](crate::Session::close) sends `close_notify`, ends the writing of the
/// transport below, and waits for the peer's `close_notify`. If the peer's side ends without
/// `close_notify`, calls fail with an error that says so. Data and `close_notify` that came before
/// a failure are delivered first.
///
/// On TLS 1.3 a client finishes its handshake before the server has checked the client's
/// certificate. If the server then refuses the certificate, the session ends with an error.
/// [`close_reason`](crate::Session::close_reason) and the calls that fail show the server's alert,
/// such as `CertificateRequired`.
///
/// # Limits
/// - With TLS 1.2 the keys are used up at some time (for AES-GCM after 2^24 records, 256 GiB of
///   bulk data). Then the session ends with an error that says so. TLS 1.3 has no such limit,
///   because it makes new keys.
/// - Early data (0-RTT) isn't sent. A server that has accepted early data fails the handshake. An
///   attacker can repeat early data, so leave `max_early_data_size` at 0.
/// - Data counts as handed over when it is encrypted, even if the transport below hasn't taken it
///   yet. A write encrypts 16 KiB, or up to 64 KiB while the transport below takes everything at
///   once. So `Tls` works like an addition to the system's send buffer.
/// - A `Tls` that is dropped without a session sends no `close_notify`.
/// - A certificate that expires or is revoked during a session doesn't end the session.
pub struct Tls {
    done: Done,
}

impl Tls {
    /// Does the handshake over `transport` on the calling thread, and returns the connection for a
    /// session. `timeout` limits the whole handshake. A peer that sends a byte now and then can't
    /// prolong this time.
    ///
    /// `connection` is a `rustls::ClientConnection` or `ServerConnection`. Its handshake may
    /// already be done, if that was over this transport.
    ///
    /// **Ok at a client doesn't mean that the server has accepted the client's certificate.** With
    /// TLS 1.3 the server checks the certificate after the client's handshake is done. The server's
    /// first answer on a stream shows that it has accepted the certificate. A refusal ends the
    /// session later, with an error. See [The end of a connection](Tls#the-end-of-a-connection).
    ///
    /// The timeout works if one of these is true:
    ///
    /// - The transport can bound its reads and writes, as sockets can (except on Windows).
    /// - Its [`Control::abort`](super::Control::abort) makes blocked calls return. A second thread
    ///   calls `abort` when the timeout has passed.
    ///
    /// Neither is true for pipes, unless they are a pair [with an abort](super::Pair::with_abort).
    ///
    /// # Errors
    /// All texts begin with "TLS handshake:". After an error the transport has been aborted and
    /// dropped.
    ///
    /// - `TimedOut`: the timeout has passed.
    /// - `InvalidData`: TLS failed at one of the two sides. The `source` is the `rustls::Error`,
    ///   such as `InvalidCertificate`, or `AlertReceived` if the peer found the fault. If this side
    ///   found the fault, it tells the peer by an alert. Sending the alert may take up to one
    ///   second. That time is part of `timeout`.
    /// - `UnexpectedEof`: the peer ended the connection during the handshake.
    /// - Other kinds are errors of the transport.
    ///
    /// # Panics
    /// Panics if the transport panics, with the same payload.
    pub fn handshake(
        connection: impl Into<Connection>,
        transport: impl Transport,
        timeout: Duration,
    ) -> io::Result<Self> {
        Ok(Self { done: handshake::handshake(connection.into(), transport.split()?, timeout)? })
    }

    /// Returns the peer's certificates as the peer sent them, the peer's own certificate first. A
    /// server gets certificates only if it asked for them (see [Who the client
    /// is](Tls#who-the-client-is)).
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.done.tls.peer_certificates()
    }

    /// Returns the protocol upon which both sides agreed (ALPN), if there is one.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.done.tls.alpn_protocol()
    }

    /// Returns the name that the client asked for (SNI), or `None` at a client.
    pub fn server_name(&self) -> Option<&str> {
        match &self.done.tls {
            Connection::Server(server) => server.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// Returns the version, TLS 1.2 or 1.3.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.done.tls.protocol_version()
    }

    /// Returns the cipher suite upon which both sides agreed.
    pub fn cipher_suite(&self) -> Option<CipherSuite> {
        self.done.tls.negotiated_cipher_suite().map(|suite| suite.suite())
    }

    /// Derives bytes that only the two sides of this connection can know, and fills `output` with
    /// them (RFC 5705). A protocol above can use them to bind itself to this connection.
    ///
    /// # Errors
    /// Returns `InvalidInput` if rustls refuses, because `output` is empty or the context is too
    /// long.
    pub fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: Option<&[u8]>,
    ) -> io::Result<()> {
        let exported = self.done.tls.export_keying_material(output, label, context);
        exported.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    /// Returns this side's address, if the transport below has one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.done.control.local_addr()
    }

    /// Returns the peer's address, if the transport below has one.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.done.control.peer_addr()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("protocol_version", &self.protocol_version())
            .field("cipher_suite", &self.cipher_suite())
            .field("peer_addr", &self.peer_addr())
            .finish_non_exhaustive()
    }
}

impl Transport for Tls {
    fn split(self) -> io::Result<Halves> {
        let Done { tls, incoming, outgoing, control, bounded_writes, bound_writes, bound_reads } =
            self.done;
        let link = Arc::new(Link::new(tls, outgoing, control));
        let reader = TlsReader::new(Arc::clone(&link), incoming);
        let mut halves = Halves::new(reader, TlsWriter(Arc::clone(&link)), TlsControl(link));
        halves.bounded_writes = bounded_writes;
        halves.bound_writes = bound_writes;
        halves.bound_reads = bound_reads;
        Ok(halves)
    }
}

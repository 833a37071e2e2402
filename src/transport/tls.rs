//! TLS over any transport, by rustls, in both directions at once.
//!
//! rustls keeps one state for both directions, so it can't be split. Its calls never wait, though:
//! what waits is the inner transport, and that splits. So each half of [`Tls`] has the inner half
//! for itself, and shares rustls's state under a lock that is held around its calls alone:
//!
//! ```text
//! reader: inner read ──▶ ciphertext ──▶ [lock: decrypt] ──▶ plaintext
//! writer: plaintext ──▶ [lock: encrypt] ──▶ ciphertext ──▶ inner write
//! ```
//!
//! What TLS wants sent in answer to what was read (new keys, alerts) is the writer's to send, and
//! [`Control::wants_flush`](super::Control::wants_flush) is how it hears of that. [`link`] says
//! which lock guards what.
//!
//! Invariant: nothing outside of this directory sees a rustls connection once the handshake has
//! begun, so that a rustls with halves of its own can take this one's place.

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
/// It reads and writes at the same time: no direction ever waits for the other, also with both of
/// them full. It is as interruptible as the transport below it, callers may read and write in
/// place of the session's threads where that one allows it, and an end without TLS's own
/// (`close_notify`) is an error, never a clean end.
///
/// The cryptography is your choice, made in your own manifest:
///
/// ```toml
/// gmux-rs = { version = "0.2", features = ["rustls"] }
/// rustls = { version = "0.23", default-features = false, features = ["std", "ring"] } # or aws_lc_rs
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
/// let config = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
///
/// let name = "mux.example.com".try_into().map_err(std::io::Error::other)?;
/// let connection = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
/// let tcp = TcpStream::connect("mux.example.com:443")?;
/// let tls = Tls::handshake(connection, tcp, Duration::from_secs(10))?;
/// let session = Session::client(tls, Config::new())?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A server does the handshake in the connection's own thread, so that a slow client delays nobody:
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
/// A server that asks for certificates, and a client that has one (`chain` is its certificate and
/// those that vouch for it, `key` its private key):
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
/// /// `clients` is who vouches for clients: a CA of your own, not those of the web.
/// fn server(clients: RootCertStore, chain: Chain, key: Key) -> Result<ServerConfig, Error> {
///     let verifier = WebPkiClientVerifier::builder(Arc::new(clients)).build()?;
///     Ok(ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key)?)
/// }
///
/// /// `servers` is who vouches for the server.
/// fn client(servers: RootCertStore, chain: Chain, key: Key) -> Result<ClientConfig, Error> {
///     Ok(ClientConfig::builder().with_root_certificates(servers).with_client_auth_cert(chain, key)?)
/// }
/// ```
///
/// rustls checks who vouches for a client, not its name. The server looks at that in
/// [`peer_certificates`](Self::peer_certificates). The example `tls` is a whole program of it, with
/// certificates that it makes.
///
/// # The end of a connection
/// [`Session::close`](crate::Session::close) sends `close_notify`, ends the writing of the
/// transport below, and waits for the peer's. Where the peer's side ends without it, calls fail
/// with an error that says so. Data and `close_notify` that have come before a failure are given
/// out first.
///
/// A client on TLS 1.3 has done its handshake before the server has looked at its certificate. That
/// it was refused is then the error of the session: [`close_reason`](crate::Session::close_reason)
/// and the calls that fail tell the server's alert, such as `CertificateRequired`.
///
/// # Limits
/// - With TLS 1.2 the keys wear out (for AES-GCM after 2^24 records, 256 GiB of bulk data), and the
///   session ends with an error that says so. TLS 1.3 makes new ones.
/// - Early data (0-RTT) isn't sent; a server that has accepted some fails the handshake. It can be
///   repeated by an attacker, so leave `max_early_data_size` at 0.
/// - What waits to be written counts as handed over when it was encrypted: 16 KiB at a time, up to
///   64 KiB while the transport below takes all at once. It is like a larger buffer of the
///   system's.
/// - A `Tls` that is dropped without a session sends no `close_notify`.
/// - A certificate that expires, or is revoked, while a session lives doesn't end it.
pub struct Tls {
    done: Done,
}

impl Tls {
    /// Does the handshake over `transport`, on this thread, in `timeout` at most, everything
    /// included: a peer that sends a byte now and then doesn't make it longer. Then gives the
    /// connection for a session.
    ///
    /// `connection` is a `rustls::ClientConnection` or `ServerConnection`; it may have done its
    /// handshake before, over the same transport.
    ///
    /// **Ok at a client doesn't mean that the server has taken its certificate.** With TLS 1.3 the
    /// server looks at it after the client's handshake is done. Its first answer on a stream says
    /// that it has; a refusal is the session's error, [later](Tls#the-end-of-a-connection).
    ///
    /// The timeout can be kept where the transport can bound its reads and writes, as sockets can
    /// (not on Windows), or is ended by its [`Control::abort`](super::Control::abort), which a
    /// second thread calls then. Pipes have neither by themselves: see
    /// [`Pair::with_abort`](super::Pair::with_abort).
    ///
    /// # Errors
    /// All texts begin with "TLS handshake:". The transport has been aborted and dropped.
    /// - `TimedOut`: the timeout has passed.
    /// - `InvalidData`: TLS failed at either end; the `source` is the `rustls::Error`, such as
    ///   `InvalidCertificate` or, when the peer refused, `AlertReceived`. A fault that was found
    ///   here is told to the peer by an alert, which takes up to a second within the timeout.
    /// - `UnexpectedEof`: the peer ended the connection in the middle.
    /// - Others are the transport's.
    ///
    /// # Panics
    /// With the transport: what it panics with goes on to the caller.
    pub fn handshake(
        connection: impl Into<Connection>,
        transport: impl Transport,
        timeout: Duration,
    ) -> io::Result<Self> {
        Ok(Self { done: handshake::handshake(connection.into(), transport.split()?, timeout)? })
    }

    /// The peer's certificates, its own first, as it sent them. A server has them only if it asked
    /// for them ([as above](Tls#who-the-client-is)).
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.done.tls.peer_certificates()
    }

    /// The protocol that both ends agreed upon (ALPN), if there is one.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.done.tls.alpn_protocol()
    }

    /// The name that the client asked for (SNI); `None` at a client.
    pub fn server_name(&self) -> Option<&str> {
        match &self.done.tls {
            Connection::Server(server) => server.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// TLS 1.2 or 1.3.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.done.tls.protocol_version()
    }

    /// The cipher suite that both ends agreed upon.
    pub fn cipher_suite(&self) -> Option<CipherSuite> {
        self.done.tls.negotiated_cipher_suite().map(|suite| suite.suite())
    }

    /// Derives bytes that both ends alone can know, for a binding of what is above to this very
    /// connection (RFC 5705). Fills `output`.
    ///
    /// # Errors
    /// `InvalidInput`: rustls refuses, since `output` is empty or the context too long.
    pub fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: Option<&[u8]>,
    ) -> io::Result<()> {
        let exported = self.done.tls.export_keying_material(output, label, context);
        exported.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    /// This end's address, if the transport below has one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.done.control.local_addr()
    }

    /// The peer's address, if the transport below has one.
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

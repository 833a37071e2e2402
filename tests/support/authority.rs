//! A certificate authority for one run. It makes certificates of servers and clients that are
//! valid, expired, or in another name.
//!
//! Tests include it by `#[path = "support/authority.rs"] mod authority;`.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

/// All versions of TLS that rustls has.
pub const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];

/// The server's name in its certificate. Clients ask for this name.
pub const SERVER: &str = "localhost";

/// The client's name in its certificate.
pub const CLIENT: &str = "alice.example";

/// The purpose of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Server,
    Client,
}

/// The validity of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    Now,
    /// Until the end of 2001.
    Expired,
}

/// An authority that signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn issue(&self, purpose: Purpose, name: &str, valid: Valid) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match purpose {
            Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        if valid == Valid::Expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2001, 12, 31);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate: certificate.der().clone(), key: key.serialize_der() }
    }

    /// Issues a valid certificate for the server and one for the client.
    pub fn issue_both(&self) -> (Identity, Identity) {
        let server = self.issue(Purpose::Server, SERVER, Valid::Now);
        (server, self.issue(Purpose::Client, CLIENT, Valid::Now))
    }

    /// Returns a store of root certificates that trusts this authority.
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// Returns a verifier for a server. It accepts the clients of this authority.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        WebPkiClientVerifier::builder(self.roots()).build().unwrap()
    }

    /// Writes the authority's certificate as PEM, for another program.
    pub fn write(&self, directory: &Path, name: &str) -> PathBuf {
        to_pem(directory, &format!("{name}.pem"), "x509", self.issuer.der())
    }
}

/// A certificate and its key.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.clone()).unwrap()
    }

    /// Writes certificate and key as PEM, for another program.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = to_pem(directory, &format!("{name}.pem"), "x509", &self.certificate);
        (certificate, to_pem(directory, &format!("{name}.key.pem"), "pkey", &self.key))
    }
}

/// Converts DER to PEM by the openssl program, because some programs read only PEM.
fn to_pem(directory: &Path, name: &str, command: &str, der: &[u8]) -> PathBuf {
    let from = directory.join(name).with_extension("der");
    let to = directory.join(name);
    std::fs::write(&from, der).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args([command, "-inform", "DER", "-in"]).arg(from).arg("-out").arg(&to);
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    to
}

/// Makes the configuration of a client that trusts `authority`. With `own` it shows a certificate.
pub fn client_config(
    authority: &Authority,
    own: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(authority.roots());
    match own {
        Some(own) => {
            builder.with_client_auth_cert(vec![own.certificate.clone()], own.key()).unwrap()
        }
        None => builder.with_no_client_auth(),
    }
}

/// Makes the configuration of a server with a certificate. With `clients` it requires a certificate
/// that this verifier accepts.
pub fn server_config(
    own: &Identity,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let builder = ServerConfig::builder_with_protocol_versions(versions);
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    };
    builder.with_single_cert(vec![own.certificate.clone()], own.key()).unwrap()
}

/// Makes a client's connection to the server of this name. Its handshake hasn't begun.
pub fn client_to(name: &'static str, config: ClientConfig) -> ClientConnection {
    ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap()
}

pub fn client(config: ClientConfig) -> ClientConnection {
    client_to(SERVER, config)
}

pub fn server(config: ServerConfig) -> ServerConnection {
    ServerConnection::new(Arc::new(config)).unwrap()
}

//! TLS configurations with a certificate that is made for this run.
//!
//! Tests include it by `#[path = "support/certs.rs"] mod certs;`. So the other tests needn't build
//! rustls.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

/// A self-made certificate for `localhost`, and its key.
static MADE: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
    LazyLock::new(|| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());

/// Configurations of both ends, for TLS 1.3.
static CONFIGS: LazyLock<(Arc<ClientConfig>, Arc<ServerConfig>)> =
    LazyLock::new(|| configs(&[&rustls::version::TLS13]));

/// Makes the configurations of both ends.
pub fn configs(
    versions: &[&'static SupportedProtocolVersion],
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    configs_by(rustls::crypto::ring::default_provider(), versions)
}

/// Makes the configurations of both ends with a given cryptography provider.
pub fn configs_by(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = Arc::new(provider);
    let key = PrivateKeyDer::try_from(MADE.signing_key.serialize_der()).unwrap();
    let certificate = MADE.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let server =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    (Arc::new(client), Arc::new(server))
}

/// Makes both ends of a connection. Its handshake hasn't begun.
pub fn connections() -> (ClientConnection, ServerConnection) {
    connections_of(&CONFIGS)
}

/// Makes both ends of a connection from given configurations. Its handshake hasn't begun.
pub fn connections_of(
    (client, server): &(Arc<ClientConfig>, Arc<ServerConfig>),
) -> (ClientConnection, ServerConnection) {
    let client =
        ClientConnection::new(Arc::clone(client), ServerName::try_from("localhost").unwrap())
            .unwrap();
    (client, ServerConnection::new(Arc::clone(server)).unwrap())
}

//! TLS over KCP. It adds authentication, which KCP's ciphers lack. The server's options are
//! `--tls-cert` and `--tls-key`. The client's options are `--tls-ca` and `--tls-name`.
//!
//! The certificates and the key are PEM files. kcptun has no TLS, so both ends have to be this
//! program, built with `--features rustls`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gmux::transport::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use crate::kcp::KcpTransport;
use crate::options::{Client, Server};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Time limit of a handshake. A handshake takes two round trips, and the link may lose packets.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// Returns the server's configuration, if the options ask for TLS.
pub fn of_server(options: &Server) -> Result<Option<Arc<ServerConfig>>> {
    let (Some(certificates), Some(key)) = (&options.tls_cert, &options.tls_key) else {
        return Ok(None);
    };
    let config = ServerConfig::builder().with_no_client_auth();
    let key = PrivateKeyDer::from_pem_file(key)?;
    Ok(Some(Arc::new(config.with_single_cert(read_certificates(certificates)?, key)?)))
}

/// Returns the client's configuration and the server's name, if the options ask for TLS.
pub fn of_client(options: &Client) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>> {
    let (Some(authorities), Some(name)) = (&options.tls_ca, &options.tls_name) else {
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(authorities)? {
        roots.add(certificate)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Some((Arc::new(config), name.clone().try_into()?)))
}

/// Does the handshake of a server.
pub fn accept(config: &Arc<ServerConfig>, kcp: KcpTransport) -> Result<Tls> {
    let connection = ServerConnection::new(Arc::clone(config))?;
    Ok(Tls::handshake(connection, kcp, HANDSHAKE)?)
}

/// Does the handshake of a client.
pub fn connect(
    (config, name): &(Arc<ClientConfig>, ServerName<'static>),
    kcp: KcpTransport,
) -> Result<Tls> {
    let connection = ClientConnection::new(Arc::clone(config), name.clone())?;
    Ok(Tls::handshake(connection, kcp, HANDSHAKE)?)
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_file_iter(file)?.collect::<std::result::Result<_, _>>()?)
}

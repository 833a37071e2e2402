//! TLS over KCP, with `--tls-cert` and `--tls-key` at the server, `--tls-ca` and `--tls-name` at
//! the client: KCP's ciphers have no authentication.
//!
//! The certificates and the key are PEM files. kcptun has no TLS; both ends are of this program.
//! It is built with `--features rustls`.

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

/// A handshake has so long: two round trips, on a link that loses packets.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// The server's configuration, if TLS is asked for.
pub fn of_server(options: &Server) -> Result<Option<Arc<ServerConfig>>> {
    let (Some(certificates), Some(key)) = (&options.tls_cert, &options.tls_key) else {
        return Ok(None);
    };
    let config = ServerConfig::builder().with_no_client_auth();
    let key = PrivateKeyDer::from_pem_file(key)?;
    Ok(Some(Arc::new(config.with_single_cert(read_certificates(certificates)?, key)?)))
}

/// The client's configuration and the server's name, if TLS is asked for.
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

/// The handshake of a server.
pub fn accept(config: &Arc<ServerConfig>, kcp: KcpTransport) -> Result<Tls> {
    let connection = ServerConnection::new(Arc::clone(config))?;
    Ok(Tls::handshake(connection, kcp, HANDSHAKE)?)
}

/// The handshake of a client.
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

//! Streams over one TLS connection: a server that echoes, and a client.
//! Certificates come from files, as PEM or DER. To try the example, let the server make a
//! certificate for itself:
//!
//! ```text
//! cargo run --features rustls --example tls -- server --self-made /tmp/cert.der
//! cargo run --features rustls --example tls -- \
//!     client --connect 127.0.0.1:7443 --ca /tmp/cert.der hello
//! ```
//!
//! The cryptography is a feature of rustls that your `Cargo.toml` chooses. Here it is `ring`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use gmux::transport::Tls;
use gmux::{Config, Session, Stream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Time limit of a handshake. A user wouldn't wait longer, and a stranger who connects and stays
/// silent can't occupy a thread for longer.
const HANDSHAKE: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(about = "Streams over one TLS connection")]
enum Args {
    /// Echoes all received bytes on every stream.
    Server(Server),
    /// Sends a text on two streams, and shows the answers.
    Client {
        #[arg(long)]
        connect: String,
        /// The name that the server's certificate must carry.
        #[arg(long, default_value = "localhost")]
        name: String,
        /// The certificate of the authority that signed the server's certificate, or the server's
        /// own certificate.
        #[arg(long)]
        ca: PathBuf,
        text: String,
    },
}

#[derive(clap::Args)]
struct Server {
    #[arg(long, default_value = "127.0.0.1:7443")]
    listen: String,
    /// The server's certificate, followed by the intermediate certificates, if there are any.
    #[arg(long, requires = "key", required_unless_present = "self_made")]
    cert: Option<PathBuf>,
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Makes a certificate for `localhost` instead. It is written to this file, for the client.
    #[arg(long, conflicts_with = "cert")]
    self_made: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Args::parse() {
        Args::Server(server) => serve(&server),
        Args::Client { connect, name, ca, text } => ask(&connect, &name, &ca, &text),
    };
    if let Err(error) = done {
        eprintln!("tls: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

// ---- the server --------------------------------------------------------------------------------

fn serve(args: &Server) -> io::Result<()> {
    let (chain, key) = identity(args)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let config = Arc::new(config.map_err(io::Error::other)?);
    let listener = TcpListener::bind(&args.listen)?;
    println!("listening on {}", listener.local_addr()?);
    for tcp in listener.incoming() {
        let tcp = tcp?;
        let config = Arc::clone(&config);
        // The handshake also runs in the new thread, so that a slow client delays nobody else.
        thread::spawn(move || {
            if let Err(error) = connection(tcp, config) {
                eprintln!("a connection ended: {error}");
            }
        });
    }
    Ok(())
}

fn connection(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let tls = Tls::handshake(connection, tcp, HANDSHAKE)?;
    println!("{:?} asks for {:?}", tls.peer_addr(), tls.server_name());
    let session = Session::server(tls, Config::new().version(2))?;
    for stream in session.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = io::copy(&mut &stream, &mut &stream) {
                eprintln!("{:?}: {error}", stream.name());
            }
        });
    }
    // This close ends the server's side. The client's `close` waits for it. So the client knows
    // that everything has arrived.
    Ok(session.close()?)
}

/// Returns the server's certificates and key.
fn identity(args: &Server) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    if let Some(file) = &args.self_made {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .map_err(io::Error::other)?;
        std::fs::write(file, made.cert.der())?;
        let key =
            PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(io::Error::other)?;
        return Ok((vec![made.cert.der().clone()], key));
    }
    let (Some(cert), Some(key)) = (&args.cert, &args.key) else {
        unreachable!("clap has asked for both")
    };
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error))?;
    Ok((certificates(cert)?, key))
}

/// Reads the certificates in a file, PEM or DER.
fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bytes = std::fs::read(file)?;
    if !bytes.starts_with(b"-----") {
        return Ok(vec![CertificateDer::from(bytes)]);
    }
    CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(file, error))
}

fn wrong(file: &Path, error: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{}: {error:?}", file.display()))
}

// ---- the client --------------------------------------------------------------------------------

fn ask(addr: &str, name: &str, ca: &Path, text: &str) -> io::Result<()> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let tls = Tls::handshake(connection, TcpStream::connect(addr)?, HANDSHAKE)?;
    println!("connected by {:?}, {:?}", tls.protocol_version(), tls.cipher_suite());
    let session = Session::client(tls, Config::new().version(2))?;
    for name in ["one", "two"] {
        println!("{name}: {}", echo(&session.open(name)?, text)?);
    }
    // Ok means that the server has read everything and has ended its side.
    Ok(session.close()?)
}

fn echo(mut stream: &Stream, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

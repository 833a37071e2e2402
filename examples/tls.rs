//! Streams over one TLS connection: a server that echoes, and a client. Certificates come from
//! files (PEM or DER), or the server makes one for itself, to try it out:
//!
//! ```text
//! cargo run --features rustls --example tls -- server --listen 127.0.0.1:7443 --self-made /tmp/cert.der
//! cargo run --features rustls --example tls -- client --connect 127.0.0.1:7443 --ca /tmp/cert.der hello
//! ```
//!
//! The cryptography is chosen in the manifest, as a feature of rustls: here `ring`.

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

/// How long a handshake may take: a person waits no longer, and a stranger keeps a thread no
/// longer.
const HANDSHAKE: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(about = "Streams over one TLS connection")]
enum Args {
    /// Echoes what comes on every stream.
    Server(Server),
    /// Sends a text on some streams, and shows what comes back.
    Client {
        #[arg(long)]
        connect: String,
        /// The name that the server's certificate has to be for.
        #[arg(long, default_value = "localhost")]
        name: String,
        /// The certificate of the authority that signed the server's, or the server's own.
        #[arg(long)]
        ca: PathBuf,
        text: String,
    },
}

#[derive(clap::Args)]
struct Server {
    #[arg(long, default_value = "127.0.0.1:7443")]
    listen: String,
    /// The server's certificate, with those that it needs behind it.
    #[arg(long, requires = "key", required_unless_present = "self_made")]
    cert: Option<PathBuf>,
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Makes a certificate for `localhost` instead, and writes it to this file, for the client.
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
        // The handshake in a thread of its own, too: a slow client delays nobody.
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
    // Answers the client's goodbye, so that its `close` knows that all has come.
    Ok(session.close()?)
}

/// The server's certificates and key.
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

/// The certificates in a file, PEM or DER.
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
    // Ok means that the server has read everything, and said so by its own end.
    Ok(session.close()?)
}

fn echo(mut stream: &Stream, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

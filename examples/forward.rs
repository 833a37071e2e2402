//! Forwards TCP connections to named services behind another host, all over one connection:
//!
//! ```text
//! cargo run --example forward -- server --listen 127.0.0.1:7000 --service web=127.0.0.1:80
//! cargo run --example forward -- \
//!     client --listen 127.0.0.1:8080 --remote 127.0.0.1:7000 --service web
//! curl http://127.0.0.1:8080/
//! ```
//!
//! The server connects to the services of its command line and to nothing else. There is no
//! encryption and no login here. Whoever can connect to the server's port can use the services.
//!
//! When the session ends, the connections that it carries end, too. The client makes a new session
//! when the next user connects.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::{Parser, Subcommand};
use gmux::{Config, CopyOptions, Session, Stream};

/// TCP connections to named services behind another host, over one connection.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Role,
    /// Ends a forwarded connection after this many seconds without data.
    #[arg(long, global = true)]
    idle: Option<u64>,
}

#[derive(Subcommand)]
enum Role {
    /// Runs next to the services.
    Server {
        /// The address to which clients of this program connect.
        #[arg(long)]
        listen: SocketAddr,
        /// A service that clients may name, and its address. May be given several times.
        #[arg(
            long = "service",
            value_name = "NAME=HOST:PORT",
            value_parser = service,
            required = true
        )]
        services: Vec<(String, String)>,
    },
    /// Runs next to the users of a service.
    Client {
        /// The address to which users connect.
        #[arg(long)]
        listen: SocketAddr,
        /// The address of the server.
        #[arg(long, value_name = "HOST:PORT")]
        remote: String,
        /// The name of the service that users are connected to.
        #[arg(long)]
        service: String,
    },
}

fn service(text: &str) -> Result<(String, String), String> {
    let (name, target) = text.split_once('=').ok_or("expected NAME=HOST:PORT")?;
    Ok((name.to_owned(), target.to_owned()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let options = CopyOptions::new().idle_timeout(args.idle.map(Duration::from_secs));
    let result = match args.role {
        Role::Server { listen, services } => {
            server(listen, services.into_iter().collect(), &options)
        }
        Role::Client { listen, remote, service } => client(listen, &remote, &service, &options),
    };
    if let Err(error) = result {
        eprintln!("forward: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Calls `serve` in a new thread for each connection, and prints the errors that `serve` returns.
fn accept(
    listen: SocketAddr,
    serve: impl Fn(TcpStream) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    println!("listening on {}", listener.local_addr()?);
    thread::scope(|scope| {
        for tcp in listener.incoming() {
            let serve = || serve(tcp?).inspect_err(|error| eprintln!("forward: {error}"));
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, serve) {
                eprintln!("forward: {error}"); // The connection was closed.
            }
        }
    });
    Ok(())
}

fn server(
    listen: SocketAddr,
    services: HashMap<String, String>,
    options: &CopyOptions,
) -> io::Result<()> {
    accept(listen, |tcp| {
        let session = Session::server(tcp, Config::new().version(2))?;
        thread::scope(|scope| {
            for stream in &session {
                let stream = stream?;
                // The lookup uses the name's bytes. `name()` replaces bytes that aren't UTF-8, so
                // it may differ from the name that the client sent.
                let target =
                    str::from_utf8(stream.name_bytes()).ok().and_then(|name| services.get(name));
                let Some(target) = target else {
                    eprintln!("{:?}: no such service", stream.name());
                    continue; // The drop closes the stream.
                };
                let serve = move || match TcpStream::connect(target) {
                    Ok(tcp) => forward(&stream, tcp, options),
                    Err(error) => eprintln!("{:?}: {target}: {error}", stream.name()),
                };
                thread::Builder::new().spawn_scoped(scope, serve)?;
            }
            Ok(())
        })
    })
}

fn client(
    listen: SocketAddr,
    remote: &str,
    service: &str,
    options: &CopyOptions,
) -> io::Result<()> {
    let connect = || -> io::Result<_> {
        Ok(Session::client(TcpStream::connect(remote)?, Config::new().version(2))?)
    };
    let session = Mutex::new(connect()?); // If the server can't be reached, this fails at once.
    accept(listen, |tcp| {
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        if session.is_closed() {
            *session = connect()?;
        }
        let stream = session.open(service)?;
        drop(session);
        forward(&stream, tcp, options);
        Ok(())
    })
}

/// Copies in both directions until both have ended, and prints the result.
fn forward(stream: &Stream, tcp: TcpStream, options: &CopyOptions) {
    match options.run(stream, &tcp) {
        Ok(copied) => {
            println!(
                "{:?}: {} bytes from the session, {} to it",
                stream.name(),
                copied.a_to_b,
                copied.b_to_a
            )
        }
        Err(error) => {
            eprintln!("{:?}: {error} (a is the stream, b the socket)", stream.name());
            // With this setting the drop of the socket resets the connection. Otherwise the
            // socket's peer would read an end of file, and think that everything has arrived.
            let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

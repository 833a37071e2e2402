//! Sends all received bytes back, on every stream of every connection. Try it with the
//! `echo_client` example:
//!
//! ```text
//! cargo run --example echo_server -- 127.0.0.1:7000
//! ```

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;

use gmux::{Config, Session, Stream};

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let listener = TcpListener::bind(addr)?;
    println!("listening on {}", listener.local_addr()?);
    for connection in listener.incoming() {
        let connection = connection?;
        thread::spawn(move || {
            if let Err(error) = serve(connection) {
                eprintln!("a session ended: {error}");
            }
        });
    }
    Ok(())
}

/// Serves one connection, with one thread for each stream that the client opens.
fn serve(connection: TcpStream) -> io::Result<()> {
    let session = Session::server(connection, Config::new().version(2))?;
    // The loop ends when the client closes its session. If the connection breaks instead, the last
    // item is the error.
    for stream in session.incoming() {
        let stream = stream?;
        thread::spawn(move || match echo(&stream) {
            Ok(bytes) => println!("{:?}: {bytes} bytes", stream.name()),
            Err(error) => eprintln!("{:?}: {error}", stream.name()),
        });
    }
    Ok(())
}

/// Echoes until the client has finished its side. The stream closes when its last handle is
/// dropped.
fn echo(stream: &Stream) -> io::Result<u64> {
    // `&Stream` implements `Read` and `Write`, so one stream can be both the source and the target
    // of the copy.
    io::copy(&mut &*stream, &mut &*stream)
}

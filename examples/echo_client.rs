//! Opens several streams at once over one connection to the `echo_server` example.
//! It checks that each stream gets back the bytes that it sent.
//!
//! ```text
//! cargo run --example echo_client -- 127.0.0.1:7000
//! ```

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use gmux::{Config, Session};

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    // With version 2 of the protocol, a stream that is read slowly doesn't stop the others. Both
    // ends must use the same version, and `echo_server` uses 2.
    let session = Session::client(TcpStream::connect(addr)?, Config::new().version(2))?;

    thread::scope(|scope| {
        let names = ["one", "two", "three", "four"];
        let threads: Vec<_> =
            names.map(|name| scope.spawn(|| ask(&session, name))).into_iter().collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panicked"))
    })?;

    // `close` returns Ok when the server's session has received everything. After that this process
    // may exit. Dropping the last handle also sends everything, but can't report whether it
    // arrived.
    session.close()?;
    Ok(())
}

/// Sends a megabyte on a new stream, and reads it back.
fn ask(session: &Session, name: &str) -> io::Result<()> {
    let stream = session.open(name)?;
    let question = name.repeat(1_000_000 / name.len());

    // Writing and reading have to go on at the same time. A server whose answers aren't read stops
    // reading, and a write would then wait without limit.
    let mut answer = String::new();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (&stream).write_all(question.as_bytes())?;
            // The server now reads an end of file. This end can still read.
            stream.shutdown(Shutdown::Write)
        });
        (&stream).read_to_string(&mut answer)?;
        writer.join().expect("a thread panicked")
    })?;
    if answer != question {
        return Err(io::Error::other(format!("{name}: what came back is not what was sent")));
    }
    println!("{name}: {} bytes came back", answer.len());
    Ok(())
} // The stream is dropped here. The drop of its last handle closes it.

//! Opens some streams at once over one connection to the `echo_server` example, and checks what
//! comes back:
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
    // Version 2, since the other end is ours, too: a stream that is read slowly doesn't stop the
    // others.
    let session = Session::client(TcpStream::connect(addr)?, Config::new().version(2))?;

    thread::scope(|scope| {
        let names = ["one", "two", "three", "four"];
        let threads: Vec<_> =
            names.map(|name| scope.spawn(|| ask(&session, name))).into_iter().collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panicked"))
    })?;

    // Says goodbye properly: Ok means that the server's session has everything, and that this
    // process may exit. Dropping the last handle sends everything, too, but can't tell whether it
    // arrived.
    session.close()?;
    Ok(())
}

/// Sends a megabyte on a stream of its own, and reads it back.
fn ask(session: &Session, name: &str) -> io::Result<()> {
    let stream = session.open(name)?;
    let question = name.repeat(1_000_000 / name.len());

    // Writing and reading have to go on at the same time: a server that can't get rid of its
    // answers stops reading.
    let mut answer = String::new();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (&stream).write_all(question.as_bytes())?;
            // the server reads an end of file, and we can still read
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
} // the stream is dropped here, and so closed

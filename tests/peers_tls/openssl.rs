//! `openssl s_client` and `s_server`, with binary data through them, and keys renewed in its
//! middle.
//!
//! Both pass their standard input to the peer, and print what the peer sends. They also take
//! commands there: when the *first byte of one read* is a letter such as `K` (new keys, and the
//! peer is asked for new ones, too), what was read is a command, and isn't sent. So their standard
//! input here is a Unix datagram socket: each message is one read. A
//! command is a message of its own, and no message of data begins with a letter: it begins with a
//! frame's version ([`Frames`]) or, in raw data, with a byte 1 that belongs to it ([`bytes_at`]).
//!
//! `s_client -brief` prints nothing but data on standard output. `s_server` has commands only
//! without `-brief` and `-quiet`, and then prints other text, too: [`Text`] takes it out.
//!
//! Honest limits: s_client isn't reading while its standard output is full, nor s_server while its
//! peer doesn't read. They are OpenSSL's TLS, but not an example of a full-duplex program.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Condvar, LazyLock, Mutex};
use std::time::Duration;

use super::programs::Program;
use super::support::Pattern;

/// The most that s_client takes in one read, in bytes (`BUFSIZZ` in its source; s_server takes
/// twice as much).
pub const MESSAGE: usize = 8192;

/// The openssl program, run as `s_client` or `s_server`.
pub struct Openssl {
    pub program: Program,
    /// Each datagram is one read of the program's, and an empty one is the end of its input.
    pub input: UnixDatagram,
    pub output: Option<ChildStdout>,
}

impl Openssl {
    pub fn start(args: &[&str]) -> Self {
        let (input, theirs) = UnixDatagram::pair().unwrap();
        let mut command = Command::new("openssl");
        command.args(args).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped());
        let mut program = Program::start(&mut command);
        let output = program.child.stdout.take();
        Self { program, input, output }
    }

    /// The port that an s_server with `-accept 127.0.0.1:0` has found. It is among its first lines.
    pub fn port(&mut self) -> u16 {
        let output = self.output.as_mut().unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while output.read(&mut byte).unwrap() == 1 {
            if byte[0] != b'\n' {
                line.push(byte[0]);
            } else if let Some(addr) = line.strip_prefix(b"ACCEPT 127.0.0.1:") {
                return std::str::from_utf8(addr).unwrap().parse().unwrap();
            } else {
                line.clear();
            }
        }
        panic!("it ended without an address")
    }
}

/// Raw data: pieces of [`MESSAGE`] bytes that begin with a 1, and repeat after 1024.
pub fn bytes_at(position: u64) -> &'static [u8] {
    static DATA: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut data = Pattern::bytes(77, 1024 * MESSAGE);
        data.iter_mut().step_by(MESSAGE).for_each(|first| *first = 1);
        data
    });
    &DATA[usize::try_from(position % DATA.len() as u64).unwrap()..]
}

/// A writing half for a session: each frame is one message, and a command goes before every n-th.
pub struct Frames {
    input: UnixDatagram,
    frame: Vec<u8>,
    frames: usize,
    every: usize,
    command: &'static [u8],
}

impl Frames {
    /// The largest payload whose frame fits one message.
    pub const PAYLOAD: usize = MESSAGE - 8;

    pub fn new(input: UnixDatagram, command: &'static [u8], every: usize) -> Self {
        Self { input, frame: Vec::new(), frames: 0, every, command }
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        let n = self.input.send(message)?;
        assert_eq!(n, message.len(), "a message was cut");
        Ok(())
    }
}

impl Write for Frames {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.frame.extend_from_slice(buf);
        while let Some(&[_, _, low, high]) = self.frame.first_chunk() {
            let length = 8 + usize::from(u16::from_le_bytes([low, high]));
            assert!(length <= MESSAGE, "a frame of {length} bytes");
            if self.frame.len() < length {
                break;
            }
            self.frames += 1;
            if self.frames.is_multiple_of(self.every) {
                self.send(self.command)?;
            }
            let rest = self.frame.split_off(length);
            self.send(&self.frame)?;
            self.frame = rest;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Frames {
    /// The end of the input, which ends the program.
    fn drop(&mut self) {
        let _ = self.input.send(&[]);
    }
}

/// Takes s_server's text out of its standard output: all before the first byte that is 1 or 2, what
/// it prints for each renewal, and when a read brought no data. Counts the renewals, so that a test
/// sees that none was missed. At the end it prints more, after the data: there the end of the data
/// is told.
pub struct Text<R> {
    inner: R,
    begun: bool,
    held: Vec<u8>,
    pub renewals: usize,
    over: bool,
}

impl<R: Read> Text<R> {
    const RENEWED: &[u8] = b"SSL_do_handshake -> 1\n";
    const NO_DATA: &[u8] = b"Read BLOCK\n";
    const END: &[u8] = b"DONE\nshutting down SSL\nCONNECTION CLOSED\n";

    pub fn new(inner: R) -> Self {
        Self { inner, begun: false, held: Vec::new(), renewals: 0, over: false }
    }

    /// How many of `held`'s first bytes are data for sure.
    fn settle(&mut self) -> usize {
        if !self.begun {
            let first = self.held.iter().position(|byte| matches!(byte, 1 | 2));
            self.held.drain(..first.unwrap_or(self.held.len()));
            self.begun = first.is_some();
        }
        let mut at = 0;
        while let Some(found) =
            self.held[at..].iter().position(|byte| matches!(byte, b'S' | b'R' | b'D'))
        {
            at += found;
            let rest = &self.held[at..];
            if rest.starts_with(Self::RENEWED) {
                self.held.drain(at..at + Self::RENEWED.len());
                self.renewals += 1;
            } else if rest.starts_with(Self::NO_DATA) {
                self.held.drain(at..at + Self::NO_DATA.len());
            } else if rest.starts_with(Self::END) {
                self.held.truncate(at);
                self.over = true;
            } else if [Self::RENEWED, Self::NO_DATA, Self::END]
                .iter()
                .any(|text| text.starts_with(rest))
            {
                return at; // the next read tells
            } else {
                at += 1;
            }
        }
        self.held.len()
    }
}

impl<R: Read> Read for Text<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.settle().min(buf.len());
            if n > 0 || self.over {
                buf[..n].copy_from_slice(&self.held[..n]);
                self.held.drain(..n);
                return Ok(n);
            }
            let mut more = [0; 64 * 1024];
            let n = self.inner.read(&mut more)?;
            if n == 0 {
                assert!(self.held.is_empty(), "cut in its text: {:?}", self.held);
                return Ok(0);
            }
            self.held.extend_from_slice(&more[..n]);
        }
    }
}

/// A gate that threads wait at while it is shut.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    /// Waited for by who comes to a shut gate; opening it wakes all.
    opened: Condvar,
}

impl Gate {
    pub fn set(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.opened.notify_all();
    }

    pub fn pass(&self) {
        let open = self.open.lock().unwrap();
        let open = self.opened.wait_while(open, |open| !*open).unwrap();
        drop(open);
    }
}

/// How long a call may find no room before its direction counts as full.
pub const FULL: Duration = Duration::from_millis(60);

//! Runs `openssl s_client` and `s_server`, passes binary data through them, and lets them renew
//! keys in the middle of it.
//!
//! Both programs pass their standard input to the peer, and print the bytes of the peer. They also
//! take commands from their standard input. If the *first byte of one read* is a letter such as
//! `K`, the read is a command and isn't sent. `K` renews the keys, and asks the peer for new ones
//! too.
//!
//! So standard input is a Unix datagram socket here, because each message is then one read:
//! - A command is a message of its own.
//! - A message of data never begins with a letter. It begins with a frame's version ([`Frames`]).
//!   In raw data it begins with a byte 1, which is part of the data ([`bytes_at`]).
//!
//! `s_client -brief` prints only data on standard output. `s_server` has commands only without
//! `-brief` and `-quiet`. Then it prints other text too, and [`Text`] removes it.
//!
//! These tests have a limit. s_client doesn't read while its standard output is full. s_server
//! doesn't read while its peer doesn't. So they show OpenSSL's TLS, but not a full-duplex program.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Condvar, LazyLock, Mutex};
use std::time::Duration;

use super::programs::Program;
use super::support::Pattern;

/// Limit of one read of s_client, in bytes. It is `BUFSIZZ` in its source. s_server reads twice as
/// much.
pub const MESSAGE: usize = 8192;

/// The openssl program, run as `s_client` or `s_server`.
pub struct Openssl {
    pub program: Program,
    /// Each datagram is one read of the program. An empty one is the end of its input.
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

    /// Returns the port that an s_server with `-accept 127.0.0.1:0` has chosen. It is in one of its
    /// first lines.
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

/// Returns the raw data at a position. It consists of pieces of [`MESSAGE`] bytes. Each begins with
/// a 1, and after 1024 pieces they repeat.
pub fn bytes_at(position: u64) -> &'static [u8] {
    static DATA: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut data = Pattern::bytes(77, 1024 * MESSAGE);
        data.iter_mut().step_by(MESSAGE).for_each(|first| *first = 1);
        data
    });
    &DATA[usize::try_from(position % DATA.len() as u64).unwrap()..]
}

/// The write half of a session. Each frame is one message. Before every n-th frame it sends a
/// command.
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
    /// Ends the program's input, and so the program.
    fn drop(&mut self) {
        let _ = self.input.send(&[]);
    }
}

/// Removes s_server's own text from its standard output:
/// - everything before the first byte that is 1 or 2
/// - its line for each renewal of keys
/// - its line for a read that brought no data
/// - its text after the data, where reading ends
///
/// It counts the renewals, so that a test can check that none was missed.
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

    /// Returns the number of bytes at the front of `held` that are certainly data.
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
                return at; // The next read decides.
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

/// A gate. Threads wait at it while it is shut.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    /// Threads at a shut gate wait on it. Opening the gate wakes all of them.
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

/// A direction counts as full when its writes have found no room for this time.
pub const FULL: Duration = Duration::from_millis(60);

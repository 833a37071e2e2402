//! A peer that speaks frames by hand, over loopback TCP. It sends frames that a hostile, odd or
//! merely different peer would send, and it sees every frame that a session answers with.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use gmux::wire::{Command, Frame};
use gmux::{Config, Session};

pub struct Raw {
    pub stream: TcpStream,
    pub version: u8,
    unread: Vec<u8>,
}

/// The way in which a raw peer's input ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// An end of file between frames.
    Clean,
    /// An end of file inside a frame.
    Cut,
    Error(io::ErrorKind),
}

/// Returns a session in the server's role, and a raw client. The client opens odd ids.
pub fn against_server(config: Config, version: u8) -> (Raw, Session) {
    let (raw, ours) = super::tcp();
    (Raw::new(raw, version), Session::server(ours, config).unwrap())
}

/// Returns a session in the client's role, and a raw server. The server opens even ids.
pub fn against_client(config: Config, version: u8) -> (Raw, Session) {
    let (ours, raw) = super::tcp();
    (Raw::new(raw, version), Session::client(ours, config).unwrap())
}

impl Raw {
    pub fn new(stream: TcpStream, version: u8) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, version, unread: Vec::new() }
    }

    // ---- sending: everything panics if the connection is gone, `try_bytes` alone says so --------

    pub fn try_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.try_bytes(bytes).unwrap();
    }

    pub fn frame(&mut self, command: Command, id: u32, payload: &[u8]) {
        let frame = Frame::new(self.version, command, id, payload).unwrap();
        self.bytes(&frame.encode());
    }

    pub fn syn(&mut self, id: u32, name: impl AsRef<[u8]>) {
        self.frame(Command::Syn, id, name.as_ref());
    }

    pub fn psh(&mut self, id: u32, data: impl AsRef<[u8]>) {
        self.frame(Command::Psh, id, data.as_ref());
    }

    pub fn fin(&mut self, id: u32) {
        self.frame(Command::Fin, id, &[]);
    }

    pub fn nop(&mut self) {
        self.frame(Command::Nop, 0, &[]);
    }

    pub fn upd(&mut self, id: u32, consumed: u32, window: u32) {
        self.bytes(&Frame::update(id, consumed, window).encode());
    }

    /// Ends the sending direction.
    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    // ---- receiving ------------------------------------------------------------------------------

    /// Returns the next frame, also a NOP, or how the input ended.
    pub fn next(&mut self) -> Result<Frame, End> {
        loop {
            if let Some((frame, rest)) =
                Frame::decode(&self.unread).expect("gmux sends known commands")
            {
                let rest = rest.len();
                self.unread.drain(..self.unread.len() - rest);
                assert_eq!(frame.header.version, self.version, "{frame}");
                return Ok(frame);
            }
            let mut piece = [0; 65536];
            match self.stream.read(&mut piece) {
                Ok(0) if self.unread.is_empty() => return Err(End::Clean),
                Ok(0) => return Err(End::Cut),
                Ok(n) => self.unread.extend_from_slice(&piece[..n]),
                Err(error) => return Err(End::Error(error.kind())),
            }
        }
    }

    /// Returns the next frame that isn't a NOP.
    pub fn recv(&mut self) -> Frame {
        loop {
            let frame = self.next().unwrap_or_else(|end| {
                panic!("a frame was expected, the connection ended: {end:?}")
            });
            if frame.header.command != Command::Nop {
                return frame;
            }
        }
    }

    /// Asserts that the next frame that isn't a NOP has this command and id. Returns its payload.
    pub fn expect(&mut self, command: Command, id: u32) -> Vec<u8> {
        let frame = self.recv();
        assert_eq!((frame.header.command, frame.header.stream_id), (command, id), "{frame}");
        frame.payload
    }

    /// Returns the next `len` bytes of data on stream `id`, in however many frames they come. Skips
    /// UPDs.
    pub fn expect_data(&mut self, id: u32, len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < len {
            let frame = self.recv();
            match frame.header.command {
                Command::Psh if frame.header.stream_id == id => data.extend(frame.payload),
                Command::Upd => {}
                _ => panic!("data was expected on stream {id}, {frame} came"),
            }
        }
        assert_eq!(data.len(), len);
        data
    }

    /// Returns all frames until the input ends, without NOPs, and how the input ended.
    pub fn rest(&mut self) -> (Vec<Frame>, End) {
        let mut frames = Vec::new();
        loop {
            match self.next() {
                Ok(frame) if frame.header.command == Command::Nop => {}
                Ok(frame) => frames.push(frame),
                Err(end) => return (frames, end),
            }
        }
    }

    /// Reads until the session's end, then ends its own side, as a peer does.
    pub fn part(&mut self) -> (Vec<Frame>, End) {
        let rest = self.rest();
        self.finish();
        rest
    }

    /// Asserts that the session still works: it accepts a stream that is opened with `id`, and the
    /// stream echoes a byte.
    pub fn assert_alive(&mut self, session: &Session, id: u32) {
        self.syn(id, "alive?");
        self.psh(id, [42]);
        let mut stream = session.accept().unwrap();
        assert_eq!((stream.id(), stream.name()), (id, "alive?"));
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
        assert_eq!(self.expect_data(id, 1), [42]);
        stream.close().unwrap();
        loop {
            let frame = self.recv();
            match frame.header.command {
                Command::Fin => break assert_eq!(frame.header.stream_id, id),
                Command::Upd => {}
                _ => panic!("FIN was expected, {frame} came"),
            }
        }
    }
}

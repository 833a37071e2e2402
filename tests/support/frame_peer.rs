//! A peer in memory that sends and receives whole frames, over a transport that the test controls.
//! The test says which bytes arrive, when a write may go on, and how reads and writes fail. There
//! are no kernel buffers in between, so a stuck write is stuck at its first byte.

use std::io::{self, Read, Write};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use gmux::transport::{Control, Halves, Transport};
use gmux::wire::{Command, Frame};
use parking_lot::{Condvar, Mutex};

enum Input {
    Bytes(Vec<u8>),
    End,
    Fail(io::ErrorKind),
}

#[derive(Default)]
struct Gate {
    /// Writes wait at the gate.
    shut: bool,
    /// A write waits at the gate.
    stuck: bool,
    aborted: bool,
    /// Aborting doesn't end a write that waits.
    deaf: bool,
    fault: Option<io::ErrorKind>,
    written: Vec<u8>,
}

#[derive(Default)]
struct Shared {
    gate: Mutex<Gate>,
    /// Wakes writes that wait at the gate, and tests that wait for the session's writer.
    changed: Condvar,
}

/// The test's end.
pub struct FramePeer {
    pub version: u8,
    input: Sender<Input>,
    shared: Arc<Shared>,
    /// Position in `written` of the next frame that `recv` returns.
    seen: usize,
}

/// The session's end.
pub struct FramePeerTransport {
    input: Receiver<Input>,
    tell: Sender<Input>,
    shared: Arc<Shared>,
}

/// Returns a peer and its transport, which lets everything through until the test says otherwise.
pub fn frame_peer(version: u8) -> (FramePeer, FramePeerTransport) {
    let (tell, input) = unbounded();
    let shared = Arc::new(Shared::default());
    let transport = FramePeerTransport { input, tell: tell.clone(), shared: Arc::clone(&shared) };
    (FramePeer { version, input: tell, shared, seen: 0 }, transport)
}

impl FramePeer {
    // ---- the session's input --------------------------------------------------------------------

    pub fn bytes(&self, bytes: impl Into<Vec<u8>>) {
        let _ = self.input.send(Input::Bytes(bytes.into())); // the session may be gone
    }

    pub fn frame(&self, command: Command, id: u32, payload: &[u8]) {
        self.bytes(Frame::new(self.version, command, id, payload).unwrap().encode());
    }

    pub fn syn(&self, id: u32, name: &str) {
        self.frame(Command::Syn, id, name.as_bytes());
    }

    pub fn psh(&self, id: u32, data: impl AsRef<[u8]>) {
        self.frame(Command::Psh, id, data.as_ref());
    }

    pub fn fin(&self, id: u32) {
        self.frame(Command::Fin, id, &[]);
    }

    pub fn nop(&self) {
        self.frame(Command::Nop, 0, &[]);
    }

    pub fn upd(&self, id: u32, consumed: u32, window: u32) {
        self.bytes(Frame::update(id, consumed, window).encode());
    }

    pub fn end(&self) {
        let _ = self.input.send(Input::End);
    }

    pub fn fail_read(&self, kind: io::ErrorKind) {
        let _ = self.input.send(Input::Fail(kind));
    }

    // ---- the session's writes -------------------------------------------------------------------

    fn change(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.shared.gate.lock());
        self.shared.changed.notify_all();
    }

    /// Makes writes wait from now on, until `open` is called or the transport is aborted.
    pub fn shut(&self) {
        self.change(|gate| gate.shut = true);
    }

    pub fn open(&self) {
        self.change(|gate| gate.shut = false);
    }

    /// From now on, an abort doesn't end a waiting write. Only `open` does.
    pub fn turn_deaf(&self) {
        self.change(|gate| gate.deaf = true);
    }

    /// Makes all writes fail from now on, also a write that waits.
    pub fn fail_write(&self, kind: io::ErrorKind) {
        self.change(|gate| gate.fault = Some(kind));
    }

    /// Waits until a write of the session is stuck at the gate.
    pub fn wait_stuck(&self) {
        let mut gate = self.shared.gate.lock();
        while !gate.stuck {
            self.shared.changed.wait(&mut gate);
        }
    }

    pub fn is_aborted(&self) -> bool {
        self.shared.gate.lock().aborted
    }

    /// Returns the session's next frame that isn't a NOP.
    pub fn recv(&mut self) -> Frame {
        let mut gate = self.shared.gate.lock();
        loop {
            if let Some((frame, rest)) = Frame::decode(&gate.written[self.seen..]).unwrap() {
                self.seen = gate.written.len() - rest.len();
                if frame.header.command != Command::Nop {
                    return frame;
                }
            } else {
                self.shared.changed.wait(&mut gate);
            }
        }
    }

    /// Returns the next `len` bytes of data on stream `id`. Skips UPDs.
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
}

/// Lets the session's threads go when the test is over.
impl Drop for FramePeer {
    fn drop(&mut self) {
        self.change(|gate| (gate.shut, gate.deaf) = (false, false));
        self.end();
    }
}

impl Transport for FramePeerTransport {
    fn split(self) -> io::Result<Halves> {
        let Self { input, tell, shared } = self;
        let reader = FramePeerReader { input, left: Vec::new() };
        Ok(Halves::new(
            reader,
            FramePeerWriter(Arc::clone(&shared)),
            FramePeerControl { tell, shared },
        ))
    }
}

struct FramePeerReader {
    input: Receiver<Input>,
    left: Vec<u8>,
}

impl Read for FramePeerReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            match self.input.recv() {
                Ok(Input::Bytes(bytes)) => self.left = bytes,
                Ok(Input::Fail(kind)) => return Err(kind.into()),
                Ok(Input::End) | Err(_) => return Ok(0),
            }
        }
        let n = buf.len().min(self.left.len());
        buf[..n].copy_from_slice(&self.left[..n]);
        self.left.drain(..n);
        Ok(n)
    }
}

struct FramePeerWriter(Arc<Shared>);

impl Write for FramePeerWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut gate = self.0.gate.lock();
        loop {
            if let Some(kind) = gate.fault {
                return Err(kind.into());
            }
            if gate.aborted && !gate.deaf {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if !gate.shut {
                break;
            }
            gate.stuck = true;
            self.0.changed.notify_all();
            self.0.changed.wait(&mut gate);
            gate.stuck = false;
        }
        gate.written.extend_from_slice(buf);
        drop(gate);
        self.0.changed.notify_all();
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FramePeerControl {
    tell: Sender<Input>,
    shared: Arc<Shared>,
}

impl Control for FramePeerControl {
    /// Ends the peer's input, too. A peer that runs this crate ends its side when it has read the
    /// end.
    fn finish_write(&self) -> io::Result<()> {
        let _ = self.tell.send(Input::End); // the reader may be gone
        Ok(())
    }

    fn abort(&self) {
        self.shared.gate.lock().aborted = true;
        self.shared.changed.notify_all();
        let _ = self.tell.send(Input::End); // the reader may be gone
    }
}

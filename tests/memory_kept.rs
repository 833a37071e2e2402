//! The memory that a session keeps after a burst, and the memory that accepted data occupies. A
//! counting allocator measures both.
//!
//! The process-wide pool keeps buffers on purpose, so these are counted apart. Its buffers are the
//! only blocks of bytes that are allocated zeroed and never grow. A session's read buffer is
//! allocated zeroed, too. So its first size is added to the session's memory, unless the read
//! buffer has grown and is counted already.
//!
//! Promises: P68, P72.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{ErrorKind, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use gmux::wire::{Command, Frame};
use gmux::{Config, Session};
use support::scripted::{Script, quiet};
use support::{tcp, until};

/// Runs one test at a time, because they measure the process's memory.
fn test(name: &str, body: impl FnOnce()) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    support::test(name, body);
}

/// Counts live bytes. A note in front of each block says whether it is one of the pool's buffers.
struct Counting;

/// Live bytes: those of the pool's buffers, idle or in use, and all others.
static POOLED: AtomicI64 = AtomicI64::new(0);
static OTHERS: AtomicI64 = AtomicI64::new(0);
/// Whether a session's read buffer has grown since this was cleared. Then it counts as one of the
/// others.
static GREW: AtomicBool = AtomicBool::new(false);

/// Returns the size of the note's place, which keeps the block aligned.
fn front(layout: Layout) -> usize {
    layout.align().max(16)
}

fn with_front(layout: Layout, size: usize) -> Layout {
    // SAFETY: the sizes are far too small to overflow, and the alignment is that of a layout.
    unsafe { Layout::from_size_align_unchecked(size + front(layout), layout.align().max(16)) }
}

fn count(pooled: bool, size: i64) {
    if pooled {
        POOLED.fetch_add(size, Relaxed)
    } else {
        OTHERS.fetch_add(size, Relaxed)
    };
}

// SAFETY: each call goes to the system's allocator. The size includes the note's place, and a block
// is released with the layout with which it was allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { noted(System.alloc(with_front(layout, layout.size())), layout, false) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe {
            noted(
                System.alloc_zeroed(with_front(layout, layout.size())),
                layout,
                layout.align() == 1,
            )
        }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe {
            let base = old.sub(front(layout));
            count(*base == 1, -(layout.size() as i64));
            let new = System.realloc(base, with_front(layout, layout.size()), size + front(layout));
            if new.is_null() {
                count(*base == 1, layout.size() as i64);
                return new;
            }
            GREW.fetch_or(*new == 1, Relaxed);
            *new = 0;
            count(false, size as i64);
            new.add(front(layout))
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe {
            let base = memory.sub(front(layout));
            count(*base == 1, -(layout.size() as i64));
            System.dealloc(base, with_front(layout, layout.size()));
        }
    }
}

/// # Safety
/// `base` is null, or a fresh block that begins with the note's place.
unsafe fn noted(base: *mut u8, layout: Layout, pooled: bool) -> *mut u8 {
    if base.is_null() {
        return base;
    }
    unsafe {
        *base = u8::from(pooled);
        count(pooled, layout.size() as i64);
        base.add(front(layout))
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The first size of a session's read buffer, which counts as one of the pool's buffers.
const READ_BUFFER: i64 = 16 * 1024;

/// The number of streams of a burst, in each direction.
const STREAMS: u32 = 3000;

/// Makes a burst in both directions: thousands of streams with a little data while the socket takes
/// nothing, streams of the peer, and large frames. Nine large frames of one stream in a row make
/// the reader expect more of them, which don't come.
fn burst(session: &Session, peer: &std::net::TcpStream) {
    let mut ours = Vec::new();
    let mut bulk = session.open("bulk").unwrap();
    bulk.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let data = vec![1; 262_144];
    while bulk.write(&data).is_ok() {} // until nothing moves
    for _ in 0..STREAMS {
        let mut stream = session.open("some name").unwrap();
        stream.write_all(&[2; 100]).unwrap();
        ours.push(stream);
    }
    let drain = thread::spawn({
        let mut peer = peer.try_clone().unwrap();
        move || {
            let mut seen = Frames::default();
            while seen.fins < 2 * STREAMS as usize + 1 {
                seen.read(&mut peer);
            }
        }
    });
    // The peer's streams with a little data, and then its FINs.
    let mut bytes = Vec::new();
    let mut frame = |command, id, payload: &[u8]| {
        bytes.extend(Frame::new(1, command, id, payload).unwrap().encode());
    };
    let theirs = || (0..STREAMS).map(|n| 2 * n + 2);
    theirs().for_each(|id| frame(Command::Syn, id, b"theirs"));
    (0..9).for_each(|_| frame(Command::Psh, 2, &[3; 32768]));
    for _ in 0..8 {
        theirs().for_each(|id| frame(Command::Psh, id, &[4; 3]));
    }
    theirs().for_each(|id| frame(Command::Fin, id, &[]));
    (0..=STREAMS).for_each(|n| frame(Command::Fin, 2 * n + 3, &[]));
    let send = thread::spawn({
        let mut peer = peer.try_clone().unwrap();
        move || peer.write_all(&bytes).unwrap()
    });
    for _ in 0..STREAMS {
        let mut stream = session.accept().unwrap();
        ours.push(stream.clone());
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    send.join().unwrap();
    drop(bulk);
    drop(ours);
    drain.join().unwrap();
}

/// Counts FINs in the bytes that the session writes.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    fins: usize,
}

impl Frames {
    fn read(&mut self, input: &mut impl Read) {
        let mut buf = vec![0; 65536];
        let n = input.read(&mut buf).unwrap();
        assert!(n > 0, "the session has ended");
        self.bytes.extend_from_slice(&buf[..n]);
        let mut rest = &self.bytes[..];
        while let Some((head, _)) = rest.split_first_chunk::<8>()
            && let Some(after) = rest.get(8 + usize::from(u16::from_le_bytes([head[2], head[3]]))..)
        {
            self.fins += usize::from(head[1] == 1);
            rest = after;
        }
        self.bytes = rest.to_vec();
    }
}

/// P72: beside the process-wide pool, a session keeps at most 64 KiB after a burst.
#[test]
fn a_session_keeps_at_most_64_kib_after_a_burst() {
    test("a_session_keeps_at_most_64_kib_after_a_burst", || {
        // The first round fills what the process keeps: the pool, the timer, the standard library.
        for round in 0..2 {
            let before = OTHERS.load(Relaxed);
            GREW.store(false, Relaxed);
            let (near, far) = tcp();
            let config =
                quiet().accept_backlog(STREAMS as usize).close_timeout(Duration::from_secs(1));
            let session = Session::client(near, config).unwrap();
            burst(&session, &far);
            assert_eq!(session.num_streams(), 0);
            // The writer gives its memory back when it has been idle for 100 ms.
            let read_buffer = || if GREW.load(Relaxed) { 0 } else { READ_BUFFER };
            let kept = || OTHERS.load(Relaxed) - before + read_buffer();
            let begin = Instant::now();
            while round > 0 && kept() > 65_536 && begin.elapsed() < Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(10));
            }
            println!("{} bytes kept", kept());
            assert!(round == 0 || kept() <= 65_536, "{} bytes are kept", kept());
            drop(far);
            drop(session);
            until(|| support::gmux_threads().is_empty());
        }
    });
}

/// P68: accepted data occupies at most twice its length and 4096 bytes for each stream, whatever
/// `max_frame_size` is. The writer's batch occupies memory beside that.
#[test]
fn accepted_data_occupies_little_whatever_the_frame_size() {
    test("accepted_data_occupies_little_whatever_the_frame_size", || {
        for max_frame_size in [1, 100, 4095, 32_768] {
            for piece in [1000, 33_000] {
                let (script, session) = Script::client(config(max_frame_size));
                let mut stream = session.open("").unwrap();
                script.blocked(); // the writer is stuck in the SYN
                let all = || POOLED.load(Relaxed) + OTHERS.load(Relaxed);
                stream.set_nonblocking(true).unwrap();
                let data = vec![1; piece];
                let before = all();
                let mut accepted = 0;
                loop {
                    match stream.write(&data) {
                        Ok(n) => accepted += n as i64,
                        Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
                    }
                }
                let grown = all() - before;
                // A small write is accepted whole or not at all.
                let full = if piece <= 4096 { 262_144 / piece * piece } else { 262_144 };
                assert_eq!(accepted, full as i64);
                // Some of the memory may have been in the pool before. The 20,000 bytes are for
                // places in queues.
                assert!(
                    grown <= 2 * accepted + 4096 + 20_000,
                    "{max_frame_size}, {piece}: {accepted} bytes occupy {grown}"
                );
                // The queued data isn't needed any more, so this ends the session without it.
                session.set_no_data_timeout(Some(Duration::from_millis(1))).unwrap();
                drop(stream);
                drop(session);
                until(|| support::gmux_threads().is_empty());
            }
        }
    });
}

fn config(max_frame_size: usize) -> Config {
    quiet().max_frame_size(max_frame_size).close_timeout(Duration::from_millis(1))
}

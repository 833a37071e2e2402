//! Counts the allocations of a session that has warmed up. It sends 1 GiB of bulk data, and 10
//! million writes of 64 bytes. Both ends are in this process, and its allocator counts. The
//! benchmark fails at one allocation per MB or more. Data that crosses a session should lie in
//! pooled buffers, which are used again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use gmux::{Config, Session};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: all calls are passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sends writes of `size` bytes. To warm up, it first sends `warm_up` bytes. Then it does `count`
/// writes, and returns the number of allocations during these.
fn allocations(version: u8, size: usize, count: usize, warm_up: usize) -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
    let server = listener.accept().expect("connected").0;
    let config = Config::new().version(version);
    let client = Session::client(client, config.clone()).expect("a session");
    let server = Session::server(server, config).expect("a session");
    let mut out = client.open("count").expect("open");
    let mut inn = server.accept().expect("accept");
    let mut before = 0;
    let reader = thread::spawn(move || {
        let mut buf = vec![0; 128 * 1024];
        let mut left = warm_up / size * size + count * size;
        while left > 0 {
            left -= inn.read(&mut buf).expect("data");
        }
        ALLOCATIONS.load(Relaxed)
    });
    let data = vec![7; size];
    for i in 0..warm_up / size + count {
        if i == warm_up / size {
            before = ALLOCATIONS.load(Relaxed);
        }
        out.write_all(&data).expect("write");
    }
    reader.join().expect("the reader") - before
}

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let quick = !std::env::args().any(|arg| arg == "--bench"); // `cargo test` doesn't pass it
    for (what, size, count) in [("128 KiB writes", 131_072, 8192), ("64 B writes", 64, 10_000_000)]
    {
        for version in [1, 2] {
            let count = if quick { count / 100 } else { count };
            let n = allocations(version, size, count, 64 << 20);
            let megabytes = (size * count) as f64 / 1e6;
            let rate = n as f64 / megabytes;
            println!(
                "version {version}, {what}: {n} allocations in {megabytes:.0} MB, {rate:.3} per MB"
            );
            if rate >= 1.0 && !quick {
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

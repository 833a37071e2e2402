//! Two cores driven against each other, in virtual time, without a transport, a thread or a clock.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::chunks::{Chunk, charge_for};
use super::stream::{Lane, Readable, Received, StreamCore, Transmit, Writable};
use super::unsolicited::Unsolicited;
use super::window::{ReceiveWindow, SendWindow, WindowSizes, window_cap};
use crate::pool::BufferPool;
use crate::wire::{Command, Frame, encode_update};

const MAX_FRAME: usize = 16;
const MAX_SEND: usize = 4096;

/// One end of a stream.
struct End {
    core: StreamCore<usize>,
    version: u8,
    pool: BufferPool,
    /// The frames that were sent and haven't arrived.
    sent: VecDeque<Frame>,
    /// All frames that were ever sent.
    log: Vec<Frame>,
}

impl End {
    fn new(origin: u64, version: u8, window: usize, opener: bool) -> Self {
        let sizes = WindowSizes { base: window, max: window };
        let core = StreamCore::starting_at(origin, version, sizes, opener);
        Self { core, version, pool: BufferPool::new(), sent: VecDeque::new(), log: Vec::new() }
    }

    /// Writes as much of `data` as there is room for. Returns the number of bytes.
    fn write(&mut self, data: &[u8]) -> usize {
        let Writable::Room(room) = self.core.writable(MAX_SEND, 1) else { return 0 };
        let n = room.min(data.len());
        self.core.accept_small(&data[..n], MAX_FRAME, &self.pool);
        n
    }

    fn read(&mut self, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        let mut done = 0;
        while matches!(self.core.readable(), Readable::Data)
            && done < n
            && let Some(mut chunk) = self.core.inbox().pop()
        {
            let n = chunk.copy_to(&mut out[done..]);
            assert!(n > 0, "no chunk is empty");
            done += n;
            self.core.inbox().unpop(chunk);
        }
        self.core.consumed(done, 0);
        out.truncate(done);
        out
    }

    /// Sends all frames that are due. Returns whether there was one.
    fn transmit(&mut self, name: &str) -> bool {
        let mut any = false;
        while let Some(lane) = self.core.schedule() {
            self.core.begin_transmit(lane);
            let mut data = 0;
            let mut fin = false;
            let before = self.log.len();
            while let Some(frame) = self.core.poll_transmit(lane, usize::MAX) {
                assert!(self.log.len() < before + MAX_SEND + 3, "sending doesn't end");
                any = true;
                let (command, payload) = match frame {
                    Transmit::Syn => (Command::Syn, name.as_bytes().to_vec()),
                    Transmit::Update { consumed, window } => {
                        (Command::Upd, encode_update(consumed, window).to_vec())
                    }
                    Transmit::Data(payload) => {
                        data += payload.len();
                        (Command::Psh, payload.into_buffer()[8..].to_vec())
                    }
                    Transmit::Fin => {
                        fin = true;
                        (Command::Fin, Vec::new())
                    }
                };
                let frame = Frame::new(self.version, command, 3, payload).unwrap();
                self.sent.push_back(frame.clone());
                self.log.push(frame);
            }
            self.core.mark_written(data, fin);
            assert!(self.log.len() > before, "a scheduled stream has a frame to send");
        }
        any
    }

    /// Receives one frame of the other end. Returns whether there was one.
    fn receive(&mut self, from: &mut Self) -> bool {
        let Some(Frame { header, payload }) = from.sent.pop_front() else { return false };
        match header.command {
            Command::Psh => {
                match self
                    .core
                    .receive(payload.len())
                    .expect("a sender that keeps to the window never overruns")
                {
                    Received::Queue => {
                        let mut buffer = self.pool.get(payload.len()).unwrap();
                        buffer.copy_from_slice(&payload);
                        let charge = charge_for(&buffer);
                        self.core.inbox().push(Chunk::new(buffer, 0, payload.len(), charge));
                    }
                    Received::Discard => {}
                    Received::Late => panic!("data after FIN"),
                }
            }
            Command::Upd => {
                let (consumed, window) = crate::wire::decode_update(&payload).unwrap();
                self.core
                    .update(consumed, window)
                    .expect("a receiver never consumes more than was sent");
            }
            Command::Fin => assert!(self.core.peer_fin(), "FIN is sent once"),
            Command::Syn | Command::Nop => {}
        }
        true
    }
}

/// Returns the recorded lines of one side, as frames.
fn recorded(side: &str) -> Vec<Frame> {
    include_str!("../../tests/vectors/gmux-v2-window.txt")
        .lines()
        .filter_map(|line| line.strip_prefix(side)?.split_whitespace().next())
        .map(|hex| {
            let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            Frame::decode(&bytes).unwrap().unwrap().0
        })
        .collect()
}

#[test]
fn the_exact_sequence_of_the_recorded_window_conversation() {
    let mut client = End::new(0, 2, 64, true);
    let mut server = End::new(0, 2, 64, false);
    let data: Vec<u8> = (0..200).collect();
    assert_eq!(client.write(&data), 200);
    client.transmit("window");
    while server.receive(&mut client) {}
    let mut heard = Vec::new();
    for _ in 0..13 {
        heard.extend(server.read(16));
        server.transmit("");
    }
    assert_eq!(heard, data);
    assert_eq!(server.write(&heard), 200);
    server.transmit("");
    while client.receive(&mut server) {}
    let mut back = Vec::new();
    for _ in 0..13 {
        back.extend(client.read(16));
        client.transmit("");
    }
    assert!(client.core.finish());
    client.transmit("");
    while server.receive(&mut client) {}
    assert!(matches!(server.core.readable(), Readable::Eof));
    assert!(server.core.close().is_some());
    server.transmit("");
    assert_eq!(back, data);
    assert_eq!(client.log, recorded("c2s "));
    assert_eq!(server.log, recorded("s2c "));
}

#[test]
fn fin_waits_for_a_write_that_is_being_copied() {
    let mut end = End::new(0, 1, 64, false);
    end.core.writing = true;
    assert!(end.core.finish());
    assert!(!end.transmit(""), "not before the bytes are in");
    end.core.writing = false;
    assert!(end.transmit(""));
    assert_eq!(end.log.last().unwrap().header.command, Command::Fin);
}

#[test]
fn after_fin_only_updates_are_sent() {
    let mut a = End::new(0, 2, 64, true);
    let mut b = End::new(0, 2, 64, false);
    a.write(b"last");
    a.core.finish();
    assert!(!a.core.finish(), "a second finish is no news");
    a.transmit("");
    assert_eq!(b.write(&[1; 100]), 100);
    b.transmit("");
    while a.receive(&mut b) {}
    let before = a.log.len();
    assert!(matches!(a.core.writable(MAX_SEND, 1), Writable::Failed(crate::Error::WriteShutdown)));
    assert_eq!(a.read(100).len(), 100);
    a.transmit("");
    assert!(
        a.log.len() > before && a.log[before..].iter().all(|f| f.header.command == Command::Upd)
    );
}

#[test]
fn a_window_update_goes_by_the_express_lane_though_the_stream_waits_in_bulk() {
    let mut end = End::new(0, 2, 64, false);
    assert_eq!(end.write(&[0; 4000]), 4000);
    assert_eq!(end.core.schedule(), Some(Lane::Bulk));
    assert_eq!(end.core.schedule(), None, "it is in each lane at most once");
    end.core.announce();
    assert_eq!(end.core.schedule(), Some(Lane::Express));
    end.core.begin_transmit(Lane::Express);
    assert!(matches!(
        end.core.poll_transmit(Lane::Express, 0),
        Some(Transmit::Update { consumed: 0, window: 64 })
    ));
    assert!(end.core.poll_transmit(Lane::Express, 0).is_none(), "the data waits for its own turn");
}

#[derive(Debug, Clone)]
enum Op {
    Write(bool, usize),
    Read(bool, usize),
    Transmit(bool),
    Receive(bool, usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (any::<bool>(), 0..3000usize).prop_map(|(a, n)| Op::Write(a, n)),
        (any::<bool>(), 0..3000usize).prop_map(|(a, n)| Op::Read(a, n)),
        any::<bool>().prop_map(Op::Transmit),
        (any::<bool>(), 1..40usize).prop_map(|(a, n)| Op::Receive(a, n)),
    ]
}

proptest! {
    #[test]
    fn every_byte_arrives_in_order_then_the_end(
        ops in prop::collection::vec(op(), 0..150),
        version in 1..=2u8,
        window in 1..2000usize,
        origin in prop_oneof![Just(0u64), Just((1 << 32) - 500), Just((1 << 33) - 1)],
    ) {
        let mut ends = [true, false].map(|opener| End::new(origin, version, window, opener));
        // The bytes that each end wrote, and the bytes that it read.
        let mut written = [Vec::new(), Vec::new()];
        let mut read = [Vec::new(), Vec::new()];
        let mut next = 0u8;
        let mut step = |ends: &mut [End; 2], op: Op| match op {
            Op::Write(a, n) => {
                let data: Vec<u8> = (0..n).map(|_| { next = next.wrapping_add(7); next }).collect();
                let n = ends[usize::from(a)].write(&data);
                written[usize::from(a)].extend(&data[..n]);
            }
            Op::Read(a, n) => read[usize::from(a)].extend(ends[usize::from(a)].read(n)),
            Op::Transmit(a) => { let _ = ends[usize::from(a)].transmit(""); },
            Op::Receive(a, n) => {
                let [first, second] = ends;
                let (to, from) = if a { (second, first) } else { (first, second) };
                for _ in 0..n {
                    to.receive(from);
                }
            }
        };
        for op in ops {
            step(&mut ends, op);
        }
        for end in &mut ends {
            end.core.finish();
        }
        // All data in flight arrives without another write.
        for _ in 0..100 {
            for a in [false, true] {
                step(&mut ends, Op::Transmit(a));
                step(&mut ends, Op::Receive(!a, 1000));
                step(&mut ends, Op::Read(!a, 10_000));
            }
        }
        prop_assert!(read[0] == written[1] && read[1] == written[0]);
        for end in &ends {
            prop_assert!(matches!(end.core.readable(), Readable::Eof));
            let fins = end.log.iter().filter(|f| f.header.command == Command::Fin).count();
            prop_assert_eq!(fins, 1);
            let last_data = end.log.iter().rposition(|f| f.header.command == Command::Psh);
            let fin = end.log.iter().position(|f| f.header.command == Command::Fin);
            prop_assert!(last_data < fin);
        }
    }
}

/// One direction of one stream, as counters: the sender's window, the receiver's window, and the
/// receiver's unread bytes.
struct OneWay {
    tx: SendWindow,
    rx: ReceiveWindow,
    unread: usize,
}

/// One direction of all streams: the sender's sum of unsolicited bytes, and a receiver with the
/// default budget.
struct Direction {
    streams: Vec<OneWay>,
    unsolicited: Unsolicited,
}

impl Direction {
    const BUDGET: usize = 4 << 20;
    /// The limit for all granted windows together.
    const GRANT_BUDGET: usize = Self::BUDGET / 2;

    fn new() -> Self {
        Self { streams: Vec::new(), unsolicited: Unsolicited::default() }
    }

    /// Returns the largest window that may be announced, the bytes that may still be granted, and
    /// whether the grant budget is used up.
    fn limits(&self) -> (u32, u64, bool) {
        let granted: u64 = self.streams.iter().map(|stream| stream.rx.granted()).sum();
        let budget = Self::GRANT_BUDGET as u64;
        let cap = window_cap(Self::GRANT_BUDGET, self.streams.len());
        (cap, budget.saturating_sub(granted), granted > budget)
    }

    fn open(&mut self) {
        let (_, _, crowded) = self.limits();
        let mut tx = SendWindow::new(true, 0);
        tx.disallow();
        let sizes = WindowSizes { base: 65_536, max: Self::GRANT_BUDGET };
        self.streams.push(OneWay { tx, rx: ReceiveWindow::new(true, sizes, 0), unread: 0 });
        if crowded {
            self.streams.last_mut().unwrap().rx.announce();
            self.update(self.streams.len() - 1);
        }
    }

    /// Sends up to `most` bytes on stream `i`. Returns the number of bytes for which there was
    /// credit.
    fn send(&mut self, i: usize, most: usize) -> usize {
        let streams = self.streams.len();
        let OneWay { tx, rx, unread } = &mut self.streams[i];
        let before = tx.unsolicited();
        if tx.awaits_first_update() {
            tx.allow(self.unsolicited.offer(before, most.min(tx.reach()) as u64, streams));
        }
        let n = most.min(tx.credit());
        tx.accept(n);
        tx.transmit(n);
        if tx.awaits_first_update() {
            tx.disallow();
        }
        self.unsolicited.change(before, tx.unsolicited());
        rx.receive(n).unwrap();
        *unread += n;
        n
    }

    /// Reads up to `most` bytes of stream `i`. Returns the number of bytes read.
    fn read(&mut self, i: usize, most: usize) -> usize {
        let (cap, spare, crowded) = self.limits();
        let stream = &mut self.streams[i];
        let n = most.min(stream.unread);
        stream.unread -= n;
        if stream.unread == 0 {
            stream.rx.mark_caught_up();
        }
        stream.rx.cap(cap, crowded);
        stream.rx.consume(n, spare);
        self.update(i);
        n
    }

    /// Passes a due UPD to the sender.
    fn update(&mut self, i: usize) {
        let streams = self.streams.len();
        let (cap, _, crowded) = self.limits();
        let stream = &mut self.streams[i];
        stream.rx.cap(cap, crowded);
        if let Some((consumed, window)) = stream.rx.take_update() {
            assert!(window as usize <= 8192.max(Self::GRANT_BUDGET / streams));
            let before = stream.tx.unsolicited();
            let _ = stream.tx.update(consumed, window);
            self.unsolicited.change(before, stream.tx.unsolicited());
        }
    }
}

/// Plays the sum of `manual::architecture`, "Why four rules are enough".
///
/// Streams are opened one after another, or all at once. Each is echoed by a thread that reads,
/// then writes. Nobody reads the echo, until nothing moves any more. Then the unread data, a
/// quarter more for the memory that it occupies, and one frame have to fit into twice the budget.
/// So the reader of the echoing end isn't stopped, and finds the UPDs that let the echoes go on.
/// For up to 256 streams that are opened at once, the budget itself is enough.
#[test]
fn when_all_echoes_are_blocked_what_is_unread_leaves_the_reader_room() {
    for (streams, piece) in
        [17, 64, 128, 256, 512].into_iter().flat_map(|n| [(n, 4096), (n, 8192), (n, 65_536)])
    {
        for one_by_one in [false, true] {
            let mut there = Direction::new();
            let mut back = Direction::new();
            // The bytes that each echo has read and not yet written.
            let mut held = vec![0; streams];
            let run_until_stuck =
                |there: &mut Direction, back: &mut Direction, held: &mut [usize]| loop {
                    let mut moved = 0;
                    for (i, held) in held.iter_mut().enumerate() {
                        moved += there.send(i, piece);
                        if *held == 0 {
                            *held = there.read(i, piece);
                            moved += *held;
                        }
                        let n = back.send(i, *held);
                        *held -= n;
                        moved += n;
                    }
                    if moved == 0 {
                        return;
                    }
                };
            for open in 1..=streams {
                there.open();
                back.open();
                if one_by_one {
                    run_until_stuck(&mut there, &mut back, &mut held[..open]);
                }
            }
            run_until_stuck(&mut there, &mut back, &mut held);
            let unread: usize = there.streams.iter().map(|stream| stream.unread).sum();
            let occupied = unread + unread / 4 + 65_536 + 64;
            let times = if streams <= 256 && !one_by_one { 1 } else { 2 };
            assert!(
                occupied <= times * Direction::BUDGET,
                "{streams} streams, {piece} bytes, {one_by_one}: {unread} are unread"
            );
            println!(
                "{streams} streams, {piece} bytes, one by one {one_by_one}: {unread} bytes are \
                 unread"
            );
        }
    }
}

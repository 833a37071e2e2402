//! Tests of the protocol core of the `kcp` example, `examples/kcp/kcp/protocol.rs`:
//! - two ends in virtual time, over a link that loses, reorders and doubles datagrams
//! - a hostile peer, segment by segment
//!
//! Promises: none. It shows the example `kcp`, which isn't a part of the crate.

#[allow(dead_code, unused_imports, reason = "a part of the example")]
#[path = "../examples/kcp/kcp/mod.rs"]
mod kcp;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use kcp::datagram::HEAD;
use kcp::outbox::Outbox;
use kcp::protocol::Protocol;
use kcp::segment::{Command, HEADER, Malformed, Segment, Seq, parse};
use kcp::{Mode, Settings};
use proptest::prelude::*;

// ---- two ends and a link ------------------------------------------------------------------------

/// The faults of a link, each in percent of the datagrams.
#[derive(Debug, Clone, Copy)]
struct Link {
    loss: u64,
    late: u64,
    double: u64,
    seed: u64,
}

const PERFECT: Link = Link { loss: 0, late: 0, double: 0, seed: 1 };

/// Time that a datagram is on the way, in virtual milliseconds.
const DELAY: u64 = 10;
/// Extra time of a late datagram, in virtual milliseconds.
const LATER: u64 = 7;

struct End {
    protocol: Protocol,
    to_write: u64,
    written: u64,
    /// Number of received bytes. Each was checked.
    came: u64,
    reads: bool,
}

impl End {
    /// Acts as an application: reads everything that is there, writes as much as fits, and flushes.
    fn work(&mut self) {
        let mut buf = [0; 5000];
        while self.reads {
            let n = self.protocol.read(&mut buf);
            if n == 0 {
                break;
            }
            for byte in &buf[..n] {
                assert_eq!(*byte, pattern(self.came), "at {}", self.came);
                self.came += 1;
            }
        }
        while self.written < self.to_write {
            let part: Vec<u8> =
                (self.written..self.to_write.min(self.written + 3000)).map(pattern).collect();
            let n = self.protocol.write(&part);
            if n == 0 {
                break;
            }
            self.written += n as u64;
        }
        self.protocol.flush();
    }
}

fn pattern(at: u64) -> u8 {
    (at ^ (at >> 8).wrapping_mul(31) ^ (at >> 16).wrapping_mul(17)) as u8
}

/// A datagram on the way: time of arrival, its number, its destination, its bytes.
type Datagram = (u64, u64, usize, Vec<u8>);

struct World {
    ends: [End; 2],
    now: u64,
    link: Link,
    on_the_way: BinaryHeap<Reverse<Datagram>>,
    sent: u64,
    random: u64,
    outbox: Outbox,
}

impl World {
    fn new(link: Link, settings: &Settings, first: u32, now: u64) -> Self {
        let end = || End {
            protocol: Protocol::beginning_at(7, settings, Seq(first)),
            to_write: 0,
            written: 0,
            came: 0,
            reads: true,
        };
        Self {
            ends: [end(), end()],
            now,
            link,
            on_the_way: BinaryHeap::new(),
            sent: 0,
            random: link.seed,
            outbox: Outbox::default(),
        }
    }

    fn chance(&mut self, of_a_hundred: u64) -> bool {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 100 < of_a_hundred
    }

    /// Runs one instant. Both ends do everything that they can do now. Then time goes on to the
    /// next event.
    fn step(&mut self) {
        for who in 0..2 {
            self.ends[who].work();
            self.ends[who].protocol.transmit(self.now, &mut self.outbox);
            for datagram in datagrams(&mut self.outbox) {
                self.send(1 - who, datagram);
            }
        }
        let due = self.ends.iter().map(|end| end.protocol.due()).min().unwrap();
        let comes = self.on_the_way.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
        let next = due.min(comes);
        assert_ne!(next, u64::MAX, "nothing will ever happen");
        self.now = self.now.max(next);
        while let Some(Reverse((at, ..))) = self.on_the_way.peek()
            && *at <= self.now
        {
            let Reverse((_, _, to, bytes)) = self.on_the_way.pop().unwrap();
            self.ends[to].protocol.input(&bytes, self.now).unwrap();
        }
    }

    fn send(&mut self, to: usize, bytes: Vec<u8>) {
        self.sent += 1;
        if self.chance(self.link.loss) {
            return;
        }
        let late = if self.chance(self.link.late) { LATER } else { 0 };
        if self.chance(self.link.double) {
            self.on_the_way.push(Reverse((self.now + DELAY + LATER, self.sent, to, bytes.clone())));
        }
        self.on_the_way.push(Reverse((self.now + DELAY + late, self.sent, to, bytes)));
    }

    /// Runs until everything has arrived and is acked. It must not take longer than `within`
    /// virtual milliseconds.
    fn run(&mut self, within: u64) {
        let until = self.now + within;
        while !self.is_done() {
            self.step();
            assert!(
                self.now < until,
                "after {within} ms: {:?}",
                self.ends.each_ref().map(|end| end.came)
            );
        }
    }

    fn is_done(&self) -> bool {
        let [a, b] = &self.ends;
        a.came == b.to_write
            && b.came == a.to_write
            && self.ends.iter().all(|end| end.protocol.is_done())
    }
}

/// Removes the datagrams, and returns them without their heads.
fn datagrams(outbox: &mut Outbox) -> Vec<Vec<u8>> {
    let (bytes, ends) = outbox.parts();
    let mut start = 0;
    let mut all = Vec::new();
    for end in ends {
        all.push(bytes[start + HEAD..*end].to_vec());
        start = *end;
    }
    outbox.clear();
    all
}

fn settings(mode: Mode, window: u16) -> Settings {
    Settings { send_window: window, receive_window: window, mode, ..Settings::client() }
}

// ---- transfers ----------------------------------------------------------------------------------

#[test]
fn every_byte_comes_over_links_that_lose_reorder_and_double() {
    for loss in [0, 5, 20] {
        for (late, double) in [(0, 0), (20, 20)] {
            let link = Link { loss, late, double, seed: loss + late + 1 };
            let mut world = World::new(link, &settings(Mode::FAST, 128), 0, 0);
            world.ends.iter_mut().for_each(|end| end.to_write = 2_000_000);
            world.run(1_000_000);
        }
    }
}

#[test]
fn a_link_that_loses_nothing_has_nothing_sent_again() {
    let mut world = World::new(PERFECT, &settings(Mode::FAST2, 64), 0, 0);
    world.ends[0].to_write = 3_000_000;
    world.run(1_000_000);
    assert_eq!(world.ends[0].protocol.repeats(), 0);
    // The lower limit of the time is one window of 64 segments for each round trip of 20 ms, and 1
    // ms for which an ack waits. The transfer needs no more.
    assert!(world.now < 3_000_000 / (64 * 1306) * 23 + 100, "{}", world.now);
}

#[test]
fn a_lost_segment_is_sent_again_after_two_later_acks_not_after_its_wait() {
    let mut world = World::new(Link { loss: 5, ..PERFECT }, &settings(Mode::FAST, 128), 0, 0);
    world.ends[0].to_write = 3_000_000;
    world.run(1_000_000);
    let segments = 3_000_000 / 1306;
    let repeats = world.ends[0].protocol.repeats();
    assert!((segments / 25..segments / 10).contains(&repeats), "{repeats} of {segments}");
    assert!(world.now < 3_000_000 / (128 * 1306) * 23 * 4, "{}", world.now);
}

#[test]
fn numbers_and_the_clock_may_wrap() {
    for link in [PERFECT, Link { loss: 5, late: 20, double: 20, seed: 3 }] {
        let mut world = World::new(
            link,
            &settings(Mode::FAST3, 256),
            u32::MAX - 700,
            u64::from(u32::MAX) - 100,
        );
        world.ends.iter_mut().for_each(|end| end.to_write = 3_000_000); // 2297 segments
        world.run(1_000_000);
        assert!(world.now > u64::from(u32::MAX));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn any_link_any_window_any_begin(
        loss in 0u64..30, late in 0u64..40, double in 0u64..40, seed: u64,
        window in 1u16..300, mtu in 64usize..1500, first: u32, now: u32,
        mode in prop::sample::select(vec![Mode::NORMAL, Mode::FAST, Mode::FAST2, Mode::FAST3]),
        bytes in (0u64..60_000, 0u64..60_000),
    ) {
        let settings = Settings { mtu, ..settings(mode, window) };
        let mut world = World::new(Link { loss, late, double, seed }, &settings, first, now.into());
        (world.ends[0].to_write, world.ends[1].to_write) = bytes;
        world.run(10_000_000);
    }
}

#[test]
fn a_reader_that_stalls_holds_no_more_than_its_window_and_goes_on_when_asked() {
    for link in [PERFECT, Link { loss: 20, late: 20, double: 20, seed: 9 }] {
        let mut world = World::new(link, &settings(Mode::FAST, 64), 0, 0);
        world.ends[0].to_write = 1_000_000;
        world.ends[1].reads = false;
        let until = 30_000;
        while world.now < until {
            world.step(); // The next event is a question for the window, or its answer.
        }
        let mut buf = vec![0; 1_000_000];
        let n = world.ends[1].protocol.read(&mut buf);
        assert_eq!(n, 64 * 1306, "the window");
        world.ends[1].came = n as u64;
        world.ends[1].reads = true;
        world.run(100_000);
    }
}

#[test]
fn an_opened_window_is_told_and_needs_no_question() {
    let mut world = World::new(PERFECT, &settings(Mode::FAST, 64), 0, 0);
    world.ends[0].to_write = 64 * 1306 * 2;
    world.ends[1].reads = false;
    // Run until a question was answered, nothing is on the way or owed, and the next question is
    // not near.
    while world.now < 300
        || !world.on_the_way.is_empty()
        || world.ends[0].protocol.due() < world.now + 300
        || world.ends[1].protocol.due() < world.now + 300
    {
        world.step();
    }
    world.ends[1].reads = true;
    let began = world.now;
    world.run(100_000);
    assert!(world.now < began + 100, "{} ms: a question comes after 500", world.now - began);
}

// ---- hostile segments, one by one ---------------------------------------------------------------

fn segment(command: Command, sn: u32, una: u32) -> Segment<'static> {
    Segment { conv: 7, command, window: 64, ts: 0, sn: Seq(sn), una: Seq(una), data: &[] }
}

fn bytes(segments: &[Segment<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    segments.iter().for_each(|segment| segment.write(&mut bytes));
    bytes
}

/// Returns an end that has sent segments `first` to `first + 3`.
fn sender_of_four(first: u32) -> Protocol {
    let mut protocol = Protocol::beginning_at(7, &settings(Mode::FAST, 64), Seq(first));
    assert_eq!(protocol.write(&[1; 4 * 1306]), 4 * 1306);
    assert_eq!(sent(&mut protocol, 0).len(), 4);
    protocol
}

fn sent(protocol: &mut Protocol, now: u64) -> Vec<Vec<u8>> {
    let mut outbox = Outbox::default();
    protocol.transmit(now, &mut outbox);
    datagrams(&mut outbox)
}

/// First numbers to try. The result of no check depends on them.
const FIRSTS: [u32; 4] = [0, 1000, u32::MAX - 1, i32::MAX as u32 - 1];

#[test]
fn an_ack_of_what_was_never_sent_changes_nothing() {
    for first in FIRSTS {
        for (sn, una) in [
            (4, 0),
            (4, 5),
            (1, 5),
            (1 << 30, 0),
            (0, 1 << 30),
            (i32::MAX as u32, 0),
            (0, i32::MAX as u32),
        ] {
            let mut protocol = sender_of_four(first);
            let datagram =
                bytes(&[segment(Command::Ack, first.wrapping_add(sn), first.wrapping_add(una))]);
            assert_eq!(protocol.input(&datagram, 1), Err(Malformed), "{sn} {una}");
            // A good segment before it in the same datagram isn't used either.
            let good = segment(Command::Ack, first, first.wrapping_add(4));
            let mixed = bytes(&[
                good,
                segment(Command::Ack, first.wrapping_add(sn), first.wrapping_add(una)),
            ]);
            assert_eq!(protocol.input(&mixed, 1), Err(Malformed));
            assert!(!protocol.is_done());
            assert_eq!(protocol.input(&bytes(&[good]), 1), Ok(()));
            assert!(protocol.is_done());
        }
    }
}

#[test]
fn acks_that_are_old_or_come_twice_change_nothing() {
    for first in FIRSTS {
        let mut protocol = sender_of_four(first);
        let at = |n: u32| first.wrapping_add(n);
        protocol.input(&bytes(&[segment(Command::Ack, at(1), at(2))]), 1).unwrap();
        for (sn, una) in
            [(0, 0), (1, 1), (u32::MAX - 5, 0), (0, u32::MAX - 5), ((1 << 31) + 5, (1 << 31) + 5)]
        {
            protocol.input(&bytes(&[segment(Command::Ack, at(sn), at(una))]), 2).unwrap();
            protocol.input(&bytes(&[segment(Command::Ack, at(sn), at(una))]), 2).unwrap();
        }
        assert!(!protocol.is_done());
        protocol.input(&bytes(&[segment(Command::Ack, at(3), at(4))]), 3).unwrap();
        assert!(protocol.is_done());
    }
}

#[test]
fn timestamps_may_be_anything() {
    for ts in [0, 1, 1 << 31, (1 << 31) - 1, u32::MAX] {
        for now in [5, u64::from(u32::MAX), 1 << 40] {
            let mut protocol = Protocol::new(7, &settings(Mode::FAST2, 64));
            protocol.write(&[1; 8 * 1306]);
            sent(&mut protocol, now);
            for sn in [7, 0, 3] {
                protocol
                    .input(&bytes(&[Segment { ts, ..segment(Command::Ack, sn, 0) }]), now + 1)
                    .unwrap();
            }
            // It sends again within the longest wait.
            let again: usize =
                (0..3).map(|n| sent(&mut protocol, now + 60_001 * (n + 1)).len()).sum();
            assert!(again > 0, "{ts} {now}");
        }
    }
}

#[test]
fn data_beyond_the_window_has_no_place_and_no_ack() {
    for first in FIRSTS {
        let mut protocol = Protocol::beginning_at(7, &settings(Mode::FAST, 64), Seq(first));
        for sn in [64, 65, 1000, 1 << 30, i32::MAX as u32] {
            let push =
                Segment { data: b"x", ..segment(Command::Push, first.wrapping_add(sn), first) };
            protocol.input(&bytes(&[push]), 0).unwrap();
            assert_eq!(sent(&mut protocol, 10), Vec::<Vec<u8>>::new());
        }
        // Segments that were received before are acked, and nothing else happens.
        for sn in [u32::MAX, u32::MAX - 1000, 1 << 31] {
            let push =
                Segment { data: b"x", ..segment(Command::Push, first.wrapping_add(sn), first) };
            protocol.input(&bytes(&[push]), 20).unwrap();
            assert_eq!(sent(&mut protocol, 30).len(), 1);
        }
        assert!(!protocol.is_readable());
    }
}

#[test]
fn empty_segments_are_no_end_and_take_no_place() {
    let mut protocol = Protocol::new(7, &settings(Mode::FAST, 4));
    for sn in 0..100 {
        protocol.input(&bytes(&[segment(Command::Push, sn, 0)]), 0).unwrap();
        assert!(!protocol.is_readable());
    }
    protocol
        .input(&bytes(&[Segment { data: b"abc", ..segment(Command::Push, 100, 0) }]), 0)
        .unwrap();
    let mut buf = [0; 10];
    assert_eq!((protocol.read(&mut buf), &buf[..3]), (3, &b"abc"[..]));
    assert_eq!(protocol.read(&mut buf), 0);
}

#[test]
fn a_window_of_nothing_stops_the_sender_and_costs_a_question_now_and_then() {
    let mut protocol = sender_of_four(0);
    protocol.input(&bytes(&[Segment { window: 0, ..segment(Command::Ack, 3, 4) }]), 1).unwrap();
    assert_eq!(protocol.write(&[2; 1306]), 1306);
    protocol.flush();
    let mut questions = 0;
    for now in 2..100_000 {
        for datagram in sent(&mut protocol, now) {
            assert!(parse(&datagram).flatten().all(|segment| segment.command == Command::Ask));
            questions += 1;
        }
    }
    assert!((8..20).contains(&questions), "{questions}");
    protocol.input(&bytes(&[segment(Command::Tell, 0, 4)]), 100_000).unwrap();
    assert_eq!(sent(&mut protocol, 100_000).len(), 1);
}

#[test]
fn an_overtaken_window_of_nothing_doesnt_count() {
    let mut protocol = sender_of_four(0);
    protocol.input(&bytes(&[segment(Command::Ack, 3, 4)]), 1).unwrap();
    protocol.input(&bytes(&[Segment { window: 0, ..segment(Command::Ack, 2, 3) }]), 1).unwrap();
    protocol.write(&[2; 1306]);
    assert_eq!(sent(&mut protocol, 2).len(), 1);
}

#[test]
fn a_thousand_questions_are_answered_once_for_each_batch() {
    let mut protocol = Protocol::new(7, &settings(Mode::FAST, 64));
    let questions = vec![segment(Command::Ask, 0, 0); 1000];
    protocol.input(&bytes(&questions), 0).unwrap();
    let answer = sent(&mut protocol, 0);
    assert_eq!(answer.len(), 1);
    assert_eq!(answer[0].len(), HEADER);
    assert_eq!(sent(&mut protocol, 100), Vec::<Vec<u8>>::new());
}

#[test]
fn datagrams_that_arent_made_of_segments_change_nothing() {
    let good = bytes(&[Segment { data: b"abc", ..segment(Command::Push, 0, 0) }]);
    let mut bad: Vec<Vec<u8>> = (1..good.len()).map(|len| good[..len].to_vec()).collect();
    for (at, byte) in
        [(0, 8), (4, 80), (4, 85), (4, 0), (4, 255), (20, 4), (20, 2), (23, 255), (23, 128)]
    {
        bad.push(good.clone());
        bad.last_mut().unwrap()[at] = byte;
    }
    bad.push([&good[..], &[0]].concat());
    bad.push([&good[..], &bad[5]].concat());
    for datagram in bad {
        let mut protocol = Protocol::new(7, &settings(Mode::FAST, 64));
        assert_eq!(protocol.input(&datagram, 0), Err(Malformed), "{datagram:?}");
        assert!(!protocol.is_readable());
        assert_eq!(protocol.due(), u64::MAX);
        protocol.input(&good, 0).unwrap();
        assert!(protocol.is_readable());
    }
    // In a stream the field `frg` has no meaning, so 255 is as good as 0.
    let mut parts = good.clone();
    parts[5] = 255;
    let mut protocol = Protocol::new(7, &settings(Mode::FAST, 64));
    protocol.input(&parts, 0).unwrap();
    assert!(protocol.is_readable());
}

// ---- anything at all ----------------------------------------------------------------------------

fn any_segment() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0u32..70, any::<u32>(), (u32::MAX - 5)..=u32::MAX, Just(1 << 31)];
    let fields = (
        prop_oneof![Just(7u32), any::<u32>()],
        prop_oneof![81u8..=84, any::<u8>()],
        any::<u8>(),
        any::<u16>(),
    );
    (
        fields,
        any::<u32>(),
        number.clone(),
        number,
        prop_oneof![Just(None), any::<u32>().prop_map(Some)],
        0usize..20,
    )
        .prop_map(|((conv, command, frg, window), ts, sn, una, len, data)| {
            let mut bytes = conv.to_le_bytes().to_vec();
            bytes.extend([command, frg]);
            bytes.extend(window.to_le_bytes());
            [ts, sn, una, len.unwrap_or(data as u32)]
                .iter()
                .for_each(|n| bytes.extend(n.to_le_bytes()));
            bytes.extend(vec![5; data]);
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn no_datagrams_make_it_panic_or_hold_more_than_its_windows(
        datagrams in prop::collection::vec(
            (
                prop::collection::vec(any_segment(), 1..4).prop_map(|segments| segments.concat()),
                0u64..5000,
            ),
            1..12,
        ),
        first in prop_oneof![Just(0u32), Just(u32::MAX - 3), any::<u32>()],
        mut now in prop_oneof![
            Just(0u64),
            (u64::from(u32::MAX) - 9)..=u64::from(u32::MAX),
            0u64..1 << 50,
        ],
    ) {
        let mut protocol = Protocol::beginning_at(7, &settings(Mode::FAST3, 32), Seq(first));
        let mut buf = [0; 100];
        for (datagram, later) in datagrams {
            protocol.write(&[3; 2000]);
            protocol.flush();
            let _ = protocol.input(&datagram, now);
            now += later;
            // At most one answer for each segment, and each segment of the window once.
            prop_assert!(sent(&mut protocol, now).len() <= 32 + 20);
            protocol.read(&mut buf);
        }
    }
}

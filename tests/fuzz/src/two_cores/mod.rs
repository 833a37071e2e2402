//! Two protocol cores, with arbitrary operations of their applications, writers and readers. A
//! simple model says which data each stream must deliver: exactly the accepted bytes in order, then
//! the right ending.
//!
//! There is no thread, no transport and no clock. Each operation is a choice of the input. The
//! model ([`Side`]) counts bytes and records the operations. It knows nothing of chunks, lanes, or
//! how windows grow. After every operation both cores must be in the state of the model.

mod end;
mod side;

use std::collections::VecDeque;

use crate::Choices;
use crate::proto::registry::{Limits, Role};
use crate::proto::stream::Lane;
use crate::proto::window::WindowSizes;
use end::{End, Packet};
use side::Side;

/// The settings that an input chooses for both ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) version: u8,
    pub(crate) max_frame: usize,
    pub(crate) max_send: usize,
    pub(crate) sizes: WindowSizes,
    /// The receive budget, in bytes.
    pub(crate) budget: usize,
    pub(crate) limits: Limits,
    /// Number of bytes that a stream has carried before it begins. It is near the point where the
    /// wire's counters wrap.
    pub(crate) origin: u64,
    /// New streams announce their window before the first read.
    pub(crate) announce: bool,
}

impl Rules {
    fn choose(choices: &mut Choices) -> Self {
        let bits = choices.byte();
        let version = 1 + (bits & 1);
        let base = [1, 7, 64, 1000, 8192, 65536, 262_144, 300_000][choices.below(8)];
        let max = base << (choices.byte() % 6);
        let max_frame = [1, 16, 1000, 4096, 32768, 65535][choices.below(6)];
        Self {
            version,
            max_frame,
            // At most some hundred frames wait. More would only take longer.
            max_send: [1, 300, 5000, 65536, 262_144][choices.below(5)].min(500 * max_frame),
            sizes: WindowSizes { base, max },
            budget: [1, 5000, 70_000, 262_144, 1 << 20][choices.below(5)],
            limits: Limits { max_streams: 1 + choices.below(5), backlog: 1 + choices.below(3) },
            origin: [0, (1 << 32) - 500, (1 << 33) - 1, (1 << 31) - 70_000]
                [usize::from(bits >> 1) % 4],
            announce: bits & 8 != 0,
        }
    }
}

/// The end of the session when the choices are used up.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    /// All streams are finished, then closed.
    Graceful,
    /// The first end closes the session. Its accepted data is sent, then the peer sees the end of
    /// the input.
    Close,
    /// The first end's session ends at once.
    Abrupt,
    /// The first end's writes fail. It reads on until its input ends.
    WriteFails,
}

pub(crate) struct World {
    rules: Rules,
    ends: [End; 2],
    /// The packets of each end that are under way.
    wires: [VecDeque<Packet>; 2],
}

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let rules = Rules::choose(&mut choices);
    let ending =
        [Ending::Graceful, Ending::Close, Ending::Abrupt, Ending::WriteFails][choices.below(4)];
    let mut world = World {
        rules,
        ends: [End::new(Role::Client, rules), End::new(Role::Server, rules)],
        wires: [VecDeque::new(), VecDeque::new()],
    };
    // There is a stream from the start, so that few choices reach far.
    world.open(0);
    world.check();
    while !choices.is_empty() {
        world.step(&mut choices);
        world.check();
    }
    world.finish(ending);
}

impl World {
    fn open(&mut self, at: usize) {
        if let Some(id) = self.ends[at].open() {
            let streams = self.ends[at].streams.len();
            assert!(streams <= 1 << 16, "{id}: an input is shorter than that");
        }
    }

    /// Performs one operation.
    fn step(&mut self, choices: &mut Choices) {
        let op = choices.byte();
        let which = choices.byte();
        let at = usize::from(which & 1);
        let end = &mut self.ends[at];
        let nth = usize::from(which >> 1);
        // Most operations use a stream that the application has, if there is one.
        let stream = end.in_hand(nth);
        match (op % 20, stream) {
            (0, _) => self.open(at),
            (1, _) => end.accept(),
            (2 | 3, _) => self.turn(at, choices),
            (4, _) => _ = self.transmit_all(at),
            (5, _) => end.mark_written(),
            (6, _) => _ = self.deliver(at),
            (7, _) => {
                for _ in 0..nth {
                    self.deliver(at);
                }
            }
            (8 | 9, Some(id)) => end.write(id, choices.length()),
            (10, Some(id)) => end.write_large(id, choices.length()),
            (11 | 12, Some(id)) => end.read(id, choices.length()),
            (13, Some(id)) => end.read(id, usize::MAX),
            (14, Some(id)) => end.take_chunk(id, choices.length()),
            (15, Some(id)) => end.finish(id),
            (16, Some(id)) => end.shut_read(id),
            (17, Some(id)) => end.close(id),
            (18, Some(id)) if nth > 100 => end.fail(id, op > 127),
            (18, Some(id)) => end.write(id, choices.length() * 4),
            _ => _ = self.deliver(at),
        }
    }

    /// Gives the next stream a turn at the writer. The choices limit it.
    fn turn(&mut self, at: usize, choices: &mut Choices) {
        let lane = if choices.flag() { Lane::Express } else { Lane::Bulk };
        let quantum = choices.length();
        let polls = 1 + choices.below(9);
        self.ends[at].turn(lane, quantum, polls, &mut self.wires[at]);
    }

    /// Gives every waiting stream a full turn. Returns whether there was one.
    fn transmit_all(&mut self, at: usize) -> bool {
        let mut any = false;
        loop {
            let express = self.ends[at].turn(Lane::Express, 2048, usize::MAX, &mut self.wires[at]);
            let bulk = self.ends[at].turn(Lane::Bulk, 128 * 1024, usize::MAX, &mut self.wires[at]);
            if !express && !bulk {
                return any;
            }
            any = true;
        }
    }

    /// Makes the reader's next step at `at`. Returns whether there was one.
    fn deliver(&mut self, at: usize) -> bool {
        let [first, second] = &mut self.wires;
        let (from, to) = if at == 0 { (second, first) } else { (first, second) };
        self.ends[at].deliver(from, to)
    }

    /// Does everything that needs no more writes of the applications, and reads all the while,
    /// until nothing moves.
    fn pump(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "the two ends keep each other busy forever");
            let mut moved = false;
            for at in 0..2 {
                moved |= !self.ends[at].dumb && self.transmit_all(at);
                self.ends[at].mark_written();
                while !self.ends[at].deaf && self.deliver(at) {
                    moved = true;
                }
                moved |= self.ends[at].read_all();
            }
            if !moved {
                break;
            }
        }
        self.check();
    }

    fn finish(&mut self, ending: Ending) {
        self.ends.iter_mut().for_each(End::complete_calls);
        match ending {
            Ending::Graceful => {
                self.pump();
                self.check_windows();
                self.each_cell(|end, id| end.finish(id));
                self.pump();
                self.check_deliveries();
                self.each_cell(|end, id| end.close(id));
                self.pump();
                return self.check_nothing_left();
            }
            Ending::Close => {
                self.ends[0].begin_close();
                self.pump();
                self.ends[0].dumb = true;
            }
            Ending::Abrupt => {
                self.ends[0].session_ends();
                self.pump();
            }
            Ending::WriteFails => {
                self.ends[0].writes_fail();
                self.pump();
                self.check_deliveries();
                self.ends[0].session_ends();
            }
        }
        // The second end's input ends.
        self.ends[1].input_ends();
        self.check();
        for end in &mut self.ends {
            end.read_all();
        }
        self.check();
        self.check_deliveries();
    }

    fn each_cell(&mut self, act: impl Fn(&mut End, u32)) {
        for end in &mut self.ends {
            let ids: Vec<u32> = end.streams.keys().copied().collect();
            ids.into_iter().for_each(|id| act(end, id));
        }
    }

    // ---- conditions -----------------------------------------------------------------------------

    /// Asserts the conditions that hold after every operation.
    fn check(&mut self) {
        let rules = self.rules;
        for end in &mut self.ends {
            end.check();
        }
        if rules.version != 2 {
            return;
        }
        // Each byte that a sender may have accepted was granted. The receiver counts it as granted
        // until it is consumed there.
        for to in 0..2 {
            let from = &self.ends[1 - to];
            let to = &self.ends[to];
            for (id, stream) in &to.streams {
                let Some(sender) = from.streams.get(id) else { continue };
                let side = &stream.side;
                if side.reads_on() && !side.fin_arrived {
                    let open = sender.side.accepted - side.consumed;
                    assert!(
                        open <= stream.core.granted(),
                        "{id}: {open} bytes are under way, {stream:?}"
                    );
                    assert!(
                        sender.side.accepted <= side.edge,
                        "{id}: more was accepted than was ever granted"
                    );
                }
            }
        }
    }

    /// Returns both directions of each stream: the sender, and the receiver if the stream got
    /// there.
    fn flows(&self) -> impl Iterator<Item = (u32, &Side, Option<&Side>)> {
        let flow = |from: usize| {
            let to = &self.ends[1 - from];
            let from = &self.ends[from];
            from.streams.iter().map(|(&id, stream)| {
                (id, &stream.side, to.streams.get(&id).map(|stream| &stream.side))
            })
        };
        flow(0).chain(flow(1))
    }

    /// When all sent data is consumed, every sender may go on.
    fn check_windows(&self) {
        for (id, sender, receiver) in self.flows() {
            if let Some(receiver) = receiver
                && receiver.reads_on()
                && !sender.has_discarded()
                && !sender.can_forget()
            {
                // A window begins with 16 KiB while half of the budget is granted.
                let least = (self.rules.sizes.base.min(16_384) as u64 / 2).max(1);
                let credit = sender.credit(self.rules.version);
                assert!(
                    credit >= least,
                    "{id}: all is read, and there is credit for {credit} bytes: {sender:?}"
                );
            }
        }
    }

    /// When nothing moves any more and every stream has ended, checks the data that each receiver
    /// got.
    fn check_deliveries(&self) {
        for (id, sender, receiver) in self.flows() {
            let Some(receiver) = receiver else { continue };
            let got = receiver.read;
            assert!(got <= sender.transmitted, "{id}: {got} bytes came, {sender:?}");
            if !receiver.reads_on() || receiver.unreachable {
                continue;
            }
            let sent = if sender.has_discarded() { sender.transmitted } else { sender.accepted };
            assert_eq!(
                got, sent,
                "{id}: bytes delivered, of those accepted: {sender:?} {receiver:?}"
            );
            let wanted = sender.finished && !sender.send_closed || sender.fin_taken;
            assert_eq!(receiver.fin_arrived, wanted, "{id}: FIN: {sender:?} {receiver:?}");
        }
    }

    fn check_nothing_left(&self) {
        for end in &self.ends {
            assert_eq!(end.registry.len(), 0, "streams that are over are forgotten");
            assert_eq!(end.used.get(), 0, "what was charged is refunded");
            assert!(end.lanes.iter().all(VecDeque::is_empty), "nothing waits for a turn");
        }
    }
}

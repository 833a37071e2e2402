//! The plan of a seed: everything that isn't left to the threads' schedule.
//!
//! Two thirds of the seeds have a hard fault. The others have only soft faults, which a session has
//! to live with: odd sizes, `Interrupted`, stalls. With soft faults alone, everything has to
//! arrive.

use std::io::ErrorKind;
use std::time::Duration;

use gmux::Config;

use crate::support::faulty::{
    AbortFault, At, CallFault, Cut, Faults, Kind, Place, ReadFault, Rng, Soft, WriteFault,
};

/// The way in which one end of a stream ends its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// `shutdown(Write)` after the last byte. Reads to the end.
    Finish,
    /// `close()` after the last byte.
    Close,
    /// `shutdown(Read)` after this many bytes were read.
    StopReading(usize),
    /// `close()` after this many bytes were read.
    CloseAt(usize),
    /// Drops its handles without closing, after this many bytes were read.
    DropAt(usize),
}

#[derive(Debug, Clone)]
pub struct StreamPlan {
    /// The end that opens the stream: 0 is the client, 1 the server.
    pub opener: usize,
    /// With `true`, one thread at each end sends and receives requests and answers in alternation.
    /// With `false`, each end has a thread for each direction.
    pub ping_pong: bool,
    /// Number of bytes that each end sends: `[client, server]`. In ping-pong, the other end echoes
    /// the opener's bytes.
    pub bytes: [usize; 2],
    pub manner: [Manner; 2],
    /// Percentage of calls that come with a timeout, non-blocking mode, a flush, or the like.
    pub quirks: usize,
}

/// The way in which the sessions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Both are closed when all is done. The number says which end is closed first.
    Close(usize),
    /// The last handles are dropped.
    LastDrop,
}

/// An event in the middle of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Close,
    /// Two threads close the session at once.
    CloseTwice,
    /// A drain with a short limit.
    Drain,
    /// A thread closes one end while this one closes the other.
    CloseBoth,
}

#[derive(Debug, Clone, Copy)]
pub struct Trigger {
    /// Number of bytes, accepted or read, at which the event comes.
    pub at: u64,
    pub end: usize,
    pub action: Action,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub kind: Kind,
    pub capacities: [usize; 2],
    pub resets: bool,
    pub config: Config,
    /// Length of the longest request of ping-pong. The asking end writes the whole request before
    /// it reads, so the answer has to fit into the window. Half of the window may not have been
    /// granted anew yet. With a longer request both ends would wait for each other, as with any
    /// protocol.
    pub request_max: usize,
    pub faults: [Faults; 2],
    pub streams: Vec<StreamPlan>,
    pub trigger: Option<Trigger>,
    pub ending: Ending,
}

const ERRORS: [ErrorKind; 7] = [
    ErrorKind::ConnectionReset,
    ErrorKind::BrokenPipe,
    ErrorKind::UnexpectedEof,
    ErrorKind::NotConnected,
    ErrorKind::PermissionDenied,
    ErrorKind::InvalidData,
    ErrorKind::Other,
];

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let kind = match rng.below(100) {
            0..30 => Kind::Memory,
            30..70 => Kind::Bounded,
            70..78 => Kind::Pair,
            78..86 => Kind::Shared,
            86..94 => Kind::Unix,
            _ => Kind::Tcp,
        };
        let hard = rng.chance(66);
        let mut faults = [Self::soft(rng), Self::soft(rng)];
        // A single stream with requests and answers that arrive whole. With these, calling threads
        // read and write inline.
        let talk = rng.chance(25) && matches!(kind, Kind::Bounded | Kind::Unix | Kind::Tcp);
        if talk {
            for faults in &mut faults {
                faults.read_soft.cut = Cut::Whole;
                faults.write_soft.cut = Cut::Whole;
            }
        }
        let capacities = if talk { [4096; 2] } else { [Self::capacity(rng), Self::capacity(rng)] };
        // Each small piece costs two threads a wake-up. So in small pieces only little can be sent
        // in a reasonable time.
        let piece = |soft: &Soft| match soft.cut {
            Cut::Whole => usize::MAX,
            Cut::Odd(most) => most,
            Cut::One => 1,
        };
        let cuts = faults.iter().flat_map(|f| [piece(&f.read_soft), piece(&f.write_soft)]);
        let smallest = cuts.chain(capacities).min().unwrap_or(1);
        let most = match smallest {
            _ if kind == Kind::Shared => 3000,
            1 => 2000,
            2..20 => 8000,
            20..500 => 80_000,
            _ => 400_000,
        };
        let streams: Vec<_> = if talk {
            vec![Self::ping_pong(rng, 30_000)]
        } else {
            (0..1 + rng.below(4)).map(|_| Self::stream(rng, most)).collect()
        };
        let total: usize = streams.iter().map(|stream| stream.bytes[0] + stream.bytes[1]).sum();
        if hard {
            let end = rng.below(2);
            Self::hard(rng, &mut faults[end], total, kind);
            if rng.chance(15) {
                Self::hard(rng, &mut faults[1 - end], total, kind);
            }
        }
        let at = rng.below(2 * total + 1) as u64;
        let action =
            rng.pick(&[Action::Close, Action::CloseTwice, Action::Drain, Action::CloseBoth]);
        let trigger = rng.chance(25).then(|| Trigger { at, end: rng.below(2), action });
        let ending = if rng.chance(30) { Ending::LastDrop } else { Ending::Close(rng.below(2)) };
        let window = rng.pick(&[500, 4096, 65536]);
        let config = Self::config(rng, &faults, &streams).max_stream_buffer(window);
        Self {
            seed,
            kind,
            capacities,
            resets: rng.chance(30),
            config,
            request_max: window / 2,
            faults,
            streams,
            trigger,
            ending,
        }
    }

    fn capacity(rng: &mut Rng) -> usize {
        rng.pick(&[1, 11, 300, 4096, 65536])
    }

    fn soft(rng: &mut Rng) -> Faults {
        Faults { read_soft: Soft::new(rng), write_soft: Soft::new(rng), ..Faults::none() }
    }

    fn at(rng: &mut Rng, total: usize) -> At {
        // Makes early faults as likely as late ones. The beginning of a stream is short.
        let most = rng.pick(&[30, 500, 5000, total]);
        At {
            bytes: rng.below(most + 1),
            place: rng.pick(&[Place::Any, Place::Header, Place::Payload, Place::Boundary]),
        }
    }

    fn call(rng: &mut Rng) -> CallFault {
        if rng.chance(60) { CallFault::Error(rng.pick(&ERRORS)) } else { CallFault::Panic }
    }

    fn hard(rng: &mut Rng, faults: &mut Faults, total: usize, kind: Kind) {
        let at = Self::at(rng, total);
        match rng.below(100) {
            0..18 => faults.read = Some((at, ReadFault::Eof)),
            18..32 => faults.read = Some((at, ReadFault::Error(rng.pick(&ERRORS)))),
            32..40 => faults.read = Some((at, ReadFault::Panic)),
            40..56 => faults.write = Some((at, WriteFault::Error(rng.pick(&ERRORS)))),
            // Behind `Shared`, `Ok(0)` means "not yet", which would never end.
            56..62 if kind != Kind::Shared => faults.write = Some((at, WriteFault::Zero)),
            56..70 => faults.write = Some((at, WriteFault::Panic)),
            70..74 => faults.write = Some((at, WriteFault::Swallow)),
            74..82 => faults.flush = Some((1 + rng.below(20), Self::call(rng))),
            82..88 => faults.finish = Some(Self::call(rng)),
            88..90 => {}
            90..92 => faults.bound = Some((1 + rng.below(4), Self::call(rng))),
            92..95 => faults.address = !matches!(kind, Kind::Pair | Kind::Shared),
            _ => {
                let plain = matches!(kind, Kind::Memory | Kind::Bounded);
                faults.drops = [plain && rng.chance(60), plain && rng.chance(60)];
            }
        }
        if rng.chance(15) || !faults.is_hard() {
            // Only its abort interrupts a socket.
            let sockets = matches!(kind, Kind::Unix | Kind::Tcp);
            let before = !sockets && rng.chance(50);
            faults.abort = Some(if before { AbortFault::Before } else { AbortFault::After });
        }
    }

    fn manner(rng: &mut Rng, bytes: usize) -> Manner {
        let at = rng.below(bytes + 1);
        match rng.below(100) {
            0..76 => Manner::Finish,
            76..83 => Manner::Close,
            83..90 => Manner::StopReading(at),
            90..95 => Manner::CloseAt(at),
            _ => Manner::DropAt(at),
        }
    }

    fn bytes(rng: &mut Rng, most: usize) -> usize {
        let size = rng.pick(&[0, 10, 1000, 9000, 70_000, 200_000, 400_000]);
        rng.below(size.min(most) + 1)
    }

    fn stream(rng: &mut Rng, most: usize) -> StreamPlan {
        if rng.chance(40) {
            return Self::ping_pong(rng, most.min(20_000));
        }
        let opener = rng.below(2);
        let quirks = rng.pick(&[0, 0, 3, 20]);
        let bytes = [Self::bytes(rng, most), Self::bytes(rng, most)];
        let manner = [Self::manner(rng, bytes[1]), Self::manner(rng, bytes[0])];
        StreamPlan { opener, ping_pong: false, bytes, manner, quirks }
    }

    fn ping_pong(rng: &mut Rng, most: usize) -> StreamPlan {
        let bytes = [rng.below(most); 2]; // The echo has the same length.
        let opener = rng.below(2);
        let quirks = rng.pick(&[0, 0, 3, 20]);
        StreamPlan { opener, ping_pong: true, bytes, manner: [Manner::Finish; 2], quirks }
    }

    fn config(rng: &mut Rng, faults: &[Faults; 2], streams: &[StreamPlan]) -> Config {
        let version = 1 + rng.below(2) as u8;
        let manners: Vec<_> = streams.iter().flat_map(|stream| stream.manner).collect();
        // An end that silently stops reading, but goes on writing, keeps its unread bytes. With
        // little budget the other end may wait for that budget, and both may block each other.
        let patient = manners.iter().any(|manner| matches!(manner, Manner::DropAt(_)));
        let budget = match (version, patient || rng.chance(50)) {
            (_, true) => 4 << 20,
            (1, false) => 65536,
            (_, false) => 262_144,
        };
        let config = Config::new()
            .version(version)
            .max_frame_size(rng.pick(&[37, 1000, 4096, 5000, 32768, 65535]))
            .max_receive_buffer(budget)
            .max_send_buffer(rng.pick(&[100, 3000, 65536, 262_144]));
        let hard = faults.iter().any(Faults::is_hard);
        // Where nothing may fail, no time limit may pass either.
        let config = config.close_timeout(Duration::from_millis(if hard { 80 } else { 60_000 }));
        let config = if faults.iter().any(|f| matches!(f.write, Some((_, WriteFault::Swallow)))) {
            config
                .keepalive_interval(Duration::from_millis(20))
                .keepalive_timeout(Duration::from_millis(120))
        } else {
            config.keepalive_disabled(true)
        };
        let closes = |manner: &Manner| *manner != Manner::Finish;
        // Time that a writer without window waits after an early close. An end that stops reading
        // closes the stream when it has written everything.
        let stall = manners.iter().any(closes).then(|| Duration::from_millis(40));
        match stall {
            Some(_) => config.half_close_stall(stall),
            None => config,
        }
    }

    pub fn is_hard(&self) -> bool {
        self.faults.iter().any(Faults::is_hard)
    }

    /// Whether every byte and every end has to arrive, and every close has to succeed.
    pub fn is_sound(&self) -> bool {
        !self.is_hard() && self.trigger.is_none()
    }

    /// Whether writes may fail because the peer has closed the stream early.
    pub fn closes_early(&self) -> bool {
        let manners = self.streams.iter().flat_map(|stream| stream.manner);
        manners.into_iter().any(|manner| manner != Manner::Finish)
    }
}

//! The attacks: what each sends, against which settings and which application, and what it may cost
//! at most.
//!
//! An attack is a prelude and then pieces of bytes, so that the same attack can be sent as fast as
//! it goes, or at a pace. What an attack may cost in memory is added up from the settings, see
//! [`Cost::bound`].

use std::time::Duration;

use gmux::Config;
use gmux::wire::{Command, Frame};

/// What the attacked application does: what suits the attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// Accepts nothing.
    Ignores,
    /// Accepts streams, and drops them.
    Drops,
    /// Accepts streams, and keeps them; reads nothing.
    Holds,
    /// The same, until they fail.
    HoldsWhatIsGood,
    /// Reads whatever comes.
    Reads,
    /// Drops streams; but to one that is called "fill" it writes as much as it can.
    Fills,
    /// Reads one stream, but not before the session has stopped reading for want of room; then all
    /// there is.
    ReadsInBursts,
    /// Keeps streams, with close notifiers that take as long as the session lives.
    NotifiesSlowly,
}

/// What the attacker does with what comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Reads it, and throws it away.
    Read,
    /// Leaves it where it is, until nothing can be sent to it any more.
    Unread,
}

/// How the attacked session ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on: it answers another stream after the attack.
    Lives,
    /// Its reader waits for the application, as it should; it lives.
    Waits,
    /// It ends, for this reason.
    Ends(&'static str),
    /// It goes on, or ends for this reason: which of the two depends on who is faster.
    MayEnd(&'static str),
}

/// What an attack may cost in memory, by the settings that limit it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// It is data that is received and unread: `max_receive_buffer`.
    pub data: bool,
    /// It is names: half of that.
    pub names: bool,
    /// It is streams, at most so many: `max_streams`, `accept_backlog`, or what the attack opens at
    /// once.
    pub streams: usize,
    /// It is refusals that can't be sent.
    pub refusals: bool,
    /// Threads that it makes the victim start, at most: the application's for its streams, gmux's
    /// for close notifiers.
    pub threads: usize,
    /// It is sessions, at most so many at once.
    pub sessions: usize,
    /// It is idle buffers, of so many sizes.
    pub idle_sizes: usize,
    /// It is what so many streams have accepted from the application, and can't send:
    /// `max_send_buffer` each.
    pub unsent: usize,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What a stream without data occupies at most, in bytes: its state, its place in the table (twice,
/// while that grows), in the backlog, in a lane, and in the application's hands; and the
/// allocator's overhead.
const STREAM: usize = 800;

/// What a session occupies at most, in bytes: two threads' stacks as far as they are touched, the
/// reader's window, what is read ahead.
const SESSION: usize = 64 * KIB + WINDOW;

/// What a session's reader holds that isn't charged: its window as a wrong guess made it grow,
/// seven frames read ahead.
const WINDOW: usize = 8 * 65_543;

/// What the process grows by whatever happens: threads, the allocator's arenas, the measuring.
const FIXED: usize = 2 * MIB;

/// How many refusals may wait (the promises say so), and what each occupies while their queue
/// grows.
const REFUSALS: usize = 65_536 * 4 * 3;

/// How many threads of a session call close notifiers at most (the documentation of
/// `set_close_notifier` says so).
const NOTIFY_THREADS: usize = 8;

/// `max_send_buffer`, as it is by default.
const SEND_BUFFER: usize = 256 * KIB;

/// How much a size of buffers keeps idle at most, and all sizes together.
const IDLE: usize = 4 * MIB;
const IDLE_ALL: usize = 64 * MIB;

impl Cost {
    /// The bound in bytes.
    pub fn bound(&self, config: &Settings) -> usize {
        let mut bound = FIXED + self.streams * STREAM + self.sessions.max(1) * SESSION;
        if self.data {
            // A charge counts the buffer's class and 64 bytes; the chunks' queue may have grown to
            // twice what is in it.
            bound += config.receive_buffer * 3 / 2 + 65_600;
        }
        if self.names {
            bound += config.receive_buffer / 2 * 5 / 4 + config.name_len;
        }
        if self.refusals {
            bound += REFUSALS;
        }
        if self.unsent > 0 {
            // And the batch that is being written. A frame's buffer is its header's and its data's.
            bound += self.unsent * SEND_BUFFER * 9 / 8 + 2 * SEND_BUFFER;
        }
        bound + (self.idle_sizes * IDLE.min(config.receive_buffer)).min(IDLE_ALL)
    }
}

/// Of the settings, what bounds are made of.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub receive_buffer: usize,
    pub name_len: usize,
}

pub struct Attack {
    pub name: &'static str,
    pub versions: &'static [u8],
    pub settings: Settings,
    /// The rest of the settings.
    pub more: fn(Config) -> Config,
    pub app: App,
    pub answers: Answers,
    /// How many streams the application has to have accepted before the pieces are sent.
    pub accepted: u64,
    /// Sent first, all at once.
    pub prelude: fn(u8) -> Vec<u8>,
    /// The n-th piece.
    pub piece: fn(u8, u32) -> Vec<u8>,
    /// All pieces are the same.
    pub same: bool,
    /// How many pieces, small and full.
    pub pieces: (u32, u32),
    /// The attacker waits for answers, so that it can send all: so many streams are asked for in a
    /// piece.
    pub paced: Option<u64>,
    /// Each piece comes by a connection of its own, which the victim has to end.
    pub apart: bool,
    pub fate: Fate,
    pub cost: Cost,
}

const DEFAULT: Settings = Settings { receive_buffer: 4 * MIB, name_len: 4096 };

/// A small budget: soon used up.
const SMALL: Settings = Settings { receive_buffer: MIB, ..DEFAULT };

impl Attack {
    pub const fn new(
        name: &'static str,
        piece: fn(u8, u32) -> Vec<u8>,
        pieces: (u32, u32),
    ) -> Self {
        Self {
            name,
            versions: &[1, 2],
            settings: DEFAULT,
            more: |config| config,
            app: App::Ignores,
            answers: Answers::Read,
            accepted: 0,
            prelude: |_| Vec::new(),
            piece,
            pieces,
            same: false,
            paced: None,
            apart: false,
            fate: Fate::Lives,
            cost: Cost {
                data: false,
                names: false,
                streams: 0,
                refusals: false,
                threads: 0,
                sessions: 0,
                idle_sizes: 0,
                unsent: 0,
            },
        }
    }

    /// The attacked sessions' settings.
    pub fn config(&self, version: u8) -> Config {
        let Settings { receive_buffer, name_len } = self.settings;
        let mut config = Config::new()
            .version(version)
            .max_receive_buffer(receive_buffer)
            .max_name_len(name_len);
        if !super::full() {
            // the default costs 5 s an attack
            config = config.accept_stall_timeout(Some(Duration::from_millis(100)));
        }
        (self.more)(config)
    }

    pub fn bound(&self) -> usize {
        self.cost.bound(&self.settings)
    }
}

pub fn find(name: &str) -> &'static Attack {
    ALL.iter()
        .chain([&SLOW])
        .find(|attack| attack.name == name)
        .unwrap_or_else(|| panic!("no attack is called {name:?}"))
}

// ---- bytes --------------------------------------------------------------------------------------

fn frame(version: u8, command: Command, id: u32, payload: &[u8]) -> Vec<u8> {
    Frame::new(version, command, id, payload).unwrap().encode()
}

fn upd(id: u32, consumed: u32, window: u32) -> Vec<u8> {
    Frame::update(id, consumed, window).encode()
}

/// So many frames, made from their number in the whole attack, `per` of them a piece.
fn frames(n: u32, per: u32, make: impl FnMut(u32) -> Vec<u8>) -> Vec<u8> {
    (n * per..(n + 1) * per).flat_map(make).collect()
}

/// The id of the i-th stream of a client: from 101, to leave some for the prelude.
fn id(i: u32) -> u32 {
    101 + 2 * i
}

/// Opens a stream that the application fills, with no end of window: what comes back fills the
/// sockets, so that nothing else can.
fn fill(version: u8) -> Vec<u8> {
    fill_one(version, 1)
}

fn fill_one(version: u8, id: u32) -> Vec<u8> {
    let mut bytes = frame(version, Command::Syn, id, b"fill");
    if version == 2 {
        bytes.extend(upd(id, 0, i32::MAX as u32));
    }
    bytes
}

/// How many streams of the attacker's the application fills.
const FILLED: u32 = 64;

/// Opens `n` streams.
fn open(version: u8, n: u32) -> Vec<u8> {
    (0..n).flat_map(|i| frame(version, Command::Syn, id(i), b"")).collect()
}

/// Noise, the same each time.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Payload lengths that each need a buffer of another size class: quarter steps from 4096 to 65536,
/// and the data path's own.
const SIZES: [u16; 21] = [
    4097, 5121, 6145, 7169, 8193, 10_241, 12_289, 14_337, 16_385, 20_481, 24_577, 28_673, 32_769,
    40_961, 49_153, 57_345, 65_535, 8192, 16_384, 32_768, 4200,
];

// ---- the attacks --------------------------------------------------------------------------------

pub static ALL: &[Attack] = &[
    // Data that nobody reads, in the smallest frames: 9 bytes on the wire for each.
    Attack {
        prelude: |version| open(version, 32),
        app: App::Holds,
        settings: SMALL,
        same: true,
        fate: Fate::Waits,
        cost: Cost { data: true, streams: 32, ..COST },
        ..Attack::new(
            "one-byte-frames",
            |version, n| frames(n, 3200, |i| frame(version, Command::Psh, id(i % 32), &[1])),
            (2000, 2000),
        )
    },
    // The same, to as many streams as there may be: each holds a buffer of its own.
    Attack {
        app: App::Ignores,
        settings: SMALL,
        more: |config| config.accept_backlog(100_000),
        fate: Fate::Waits,
        cost: Cost { data: true, streams: 8300, ..COST },
        ..Attack::new(
            "a-byte-for-each-stream",
            |version, n| {
                frames(n, 500, |i| {
                    let mut bytes = frame(version, Command::Syn, id(i), b"");
                    bytes.extend(frame(version, Command::Psh, id(i), &[1]));
                    bytes
                })
            },
            (200, 200),
        )
    },
    // Streams that nobody accepts.
    Attack {
        paced: Some(1000),
        cost: Cost { streams: 1024, refusals: true, ..COST },
        ..Attack::new(
            "syn-flood",
            |version, n| frames(n, 1000, |i| frame(version, Command::Syn, id(i), b"")),
            (100, 1000),
        )
    },
    Attack {
        app: App::Fills,
        answers: Answers::Unread,
        prelude: fill,
        more: |config| config.max_streams(1000),
        fate: Fate::Ends("Flood"),
        cost: Cost { streams: 1000 + 1024, refusals: true, ..COST },
        ..Attack::new(
            "syn-flood-unread",
            |version, n| frames(n, 1000, |i| frame(version, Command::Syn, id(i), b"")),
            (100, 1000),
        )
    },
    // Streams that the application writes to, none of which the attacker reads.
    Attack {
        app: App::Fills,
        answers: Answers::Unread,
        prelude: |version| (0..FILLED).flat_map(|i| fill_one(version, id(i))).collect(),
        cost: Cost {
            streams: FILLED as usize,
            threads: FILLED as usize,
            unsent: FILLED as usize,
            ..COST
        },
        ..Attack::new(
            "answers-unread",
            |version, n| frames(n, 100, |_| frame(version, Command::Nop, 0, b"")),
            (10, 10),
        )
    },
    // Streams that everybody accepts: as many as there may be.
    Attack {
        app: App::Holds,
        more: |config| config.accept_backlog(65_536),
        fate: Fate::MayEnd("Flood"),
        cost: Cost { streams: 65_536, refusals: true, ..COST },
        ..Attack::new(
            "as-many-streams-as-may-be",
            |version, n| frames(n, 1000, |i| frame(version, Command::Syn, id(i), b"")),
            (10, 100),
        )
    },
    // Rapid reset.
    Attack {
        app: App::Drops,
        paced: Some(1000),
        cost: Cost { streams: 2 * 1024, refusals: true, ..COST },
        ..Attack::new("rapid-reset", rapid_reset, (20, 1000))
    },
    Attack {
        app: App::Fills,
        answers: Answers::Unread,
        prelude: fill,
        more: |config| config.max_streams(1000),
        fate: Fate::Ends("Flood"),
        cost: Cost { streams: 2 * 1024, refusals: true, ..COST },
        ..Attack::new("rapid-reset-unread", rapid_reset, (100, 1000))
    },
    Attack {
        app: App::Fills,
        answers: Answers::Unread,
        prelude: fill,
        more: |config| config.accept_backlog(65_536),
        fate: Fate::Ends("Flood"),
        cost: Cost { streams: 65_536 + 1024, refusals: true, ..COST },
        ..Attack::new("rapid-reset-unread-defaults", rapid_reset, (0, 1000))
    },
    // Names.
    Attack {
        cost: Cost { streams: 1024, refusals: true, ..COST },
        ..Attack::new(
            "names-too-long",
            |version, n| frames(n, 16, |i| frame(version, Command::Syn, id(i), &[1; 65_535])),
            (6, 1000),
        )
    },
    Attack {
        app: App::Holds,
        settings: Settings { name_len: 65_535, ..DEFAULT },
        cost: Cost { names: true, streams: 1024, refusals: true, ..COST },
        ..Attack::new(
            "names-allowed",
            |version, n| frames(n, 16, |i| frame(version, Command::Syn, id(i), &[1; 65_535])),
            (20, 1000),
        )
    },
    // Frames that lead nowhere.
    Attack::new(
        "unknown-ids",
        |version, n| frames(n, 1000, |i| frame(version, Command::Psh, id(i), &[1])),
        (100, 1000),
    ),
    Attack::new(
        "unknown-ids-large",
        |version, n| frames(n, 4, |i| frame(version, Command::Psh, id(i), &[1; 65_535])),
        (12, 4000),
    ),
    Attack {
        same: true,
        ..Attack::new(
            "nop-flood",
            |version, n| frames(n, 8000, |_| frame(version, Command::Nop, 0, &[])),
            (25, 2000),
        )
    },
    Attack {
        prelude: |version| open(version, 1),
        same: true,
        app: App::Holds,
        ..Attack::new(
            "empty-data",
            |version, n| frames(n, 8000, |_| frame(version, Command::Psh, id(0), &[])),
            (50, 2000),
        )
    },
    Attack {
        prelude: |version| {
            let mut bytes = open(version, 1);
            bytes.extend(frame(version, Command::Fin, id(0), b""));
            bytes
        },
        same: true,
        app: App::Holds,
        ..Attack::new(
            "data-after-fin",
            |version, n| frames(n, 4000, |_| frame(version, Command::Psh, id(0), &[1])),
            (50, 2000),
        )
    },
    Attack {
        prelude: |version| open(version, 1),
        same: true,
        app: App::Holds,
        ..Attack::new(
            "syn-again",
            |version, n| frames(n, 16, |_| frame(version, Command::Syn, id(0), &[1; 4096])),
            (50, 2000),
        )
    },
    // Windows.
    Attack {
        versions: &[2],
        app: App::Fills,
        prelude: |version| frame(version, Command::Syn, 1, b"fill"),
        ..Attack::new(
            "upd-flood",
            |_, n| frames(n, 4000, |i| upd(1, 0, if i % 2 == 0 { 0 } else { 262_144 + i / 2 })),
            (50, 1000),
        )
    },
    Attack {
        versions: &[2],
        app: App::HoldsWhatIsGood,
        fate: Fate::MayEnd("Flood"),
        cost: Cost { streams: 1024 + 2048, refusals: true, ..COST },
        ..Attack::new(
            "absurd-counts",
            |version, n| {
                frames(n, 100, |i| {
                    let mut bytes = frame(version, Command::Syn, id(i), b"absurd");
                    bytes.extend(upd(id(i), i32::MAX as u32, u32::MAX));
                    bytes
                })
            },
            (50, 2000),
        )
    },
    // Many streams that fail one by one, and whose ends the application wants to be told of.
    Attack {
        versions: &[2],
        app: App::NotifiesSlowly,
        accepted: 200,
        prelude: |version| open(version, 200),
        cost: Cost { streams: 200, threads: NOTIFY_THREADS, ..COST },
        ..Attack::new("failures-notified", |_, n| upd(id(n), i32::MAX as u32, u32::MAX), (200, 200))
    },
    Attack {
        versions: &[2],
        app: App::HoldsWhatIsGood,
        cost: Cost { data: true, streams: 1024, ..COST },
        ..Attack::new(
            "window-overrun",
            |version, n| {
                let mut bytes = frame(version, Command::Syn, id(n), b"greedy");
                for _ in 0..9 {
                    bytes.extend(frame(version, Command::Psh, id(n), &[1; 65_535]));
                }
                bytes
            },
            (10, 1000),
        )
    },
    // Guesses gone wrong: runs of large frames, then what isn't one of them.
    Attack {
        prelude: |version| open(version, 2),
        app: App::Reads,
        cost: Cost { data: true, threads: 2, ..COST },
        ..Attack::new(
            "wrong-guesses",
            |version, n| {
                let large = frame(version, Command::Psh, id(n % 2), &[1; 65_535]);
                let small =
                    [id(0), id(1)].map(|id| frame(version, Command::Psh, id, &[2])).concat();
                [large.repeat(3), small.repeat(15_000)].concat()
            },
            (5, 500),
        )
    },
    // A buffer of every size, as many as fit, one size after the other.
    Attack {
        versions: &[1],
        prelude: |version| open(version, 1),
        app: App::ReadsInBursts,
        cost: Cost { data: true, idle_sizes: SIZES.len(), ..COST },
        ..Attack::new(
            "every-size",
            |version, n| {
                let len = SIZES[n as usize % SIZES.len()] as usize;
                frame(version, Command::Psh, id(0), &vec![1; len]).repeat(6 * MIB / len)
            },
            (42, 210),
        )
    },
    // Not even a peer of ours.
    Attack {
        versions: &[1],
        apart: true,
        fate: Fate::Ends("Invalid"),
        cost: Cost { sessions: 4, ..COST },
        ..Attack::new("garbage", |_, n| noise(n, 4096), (100, 2000))
    },
    // The right version and command, the rest noise: it gets further.
    Attack {
        apart: true,
        fate: Fate::Ends("Invalid"),
        cost: Cost { data: true, names: true, sessions: 4, streams: 1024, ..COST },
        ..Attack::new(
            "frames-of-garbage",
            |version, n| {
                let mut bytes: Vec<u8> = Vec::new();
                for (i, pair) in noise(n, 64).chunks(2).enumerate() {
                    let command = [Command::Syn, Command::Psh, Command::Fin, Command::Nop]
                        [usize::from(pair[0] % 4)];
                    let empty = matches!(command, Command::Fin | Command::Nop);
                    let payload =
                        noise(n + i as u32, if empty { 0 } else { usize::from(pair[1]) * 20 });
                    bytes.extend(frame(version, command, u32::from(pair[1] % 8) * 2 + 1, &payload));
                }
                bytes.extend([version, 99, 0, 0, 0, 0, 0, 0]);
                bytes
            },
            (50, 1000),
        )
    },
];

/// A large frame that takes for ever, on each of many connections: a piece is a byte of each.
pub static SLOW: Attack = Attack {
    more: |config| config.keepalive_interval(SLOW_KEEPALIVE / 3).keepalive_timeout(SLOW_KEEPALIVE),
    app: App::Holds,
    accepted: SLOW_CONNECTIONS as u64,
    prelude: |version| {
        let mut bytes = open(version, 1);
        bytes.extend(&frame(version, Command::Psh, id(0), &[1; 65_535])[..8]);
        bytes
    },
    cost: Cost { sessions: SLOW_CONNECTIONS, ..COST },
    ..Attack::new("slow-frame", |_, _| vec![1], (20, 20))
};

pub const SLOW_CONNECTIONS: usize = 50;

/// How long nothing at all may come.
const SLOW_KEEPALIVE: Duration = Duration::from_secs(3);

const COST: Cost = Cost {
    data: false,
    names: false,
    streams: 0,
    refusals: false,
    threads: 0,
    sessions: 0,
    idle_sizes: 0,
    unsent: 0,
};

fn rapid_reset(version: u8, n: u32) -> Vec<u8> {
    frames(n, 1000, |i| {
        let mut bytes = frame(version, Command::Syn, id(i), b"");
        bytes.extend(frame(version, Command::Fin, id(i), b""));
        bytes
    })
}

/// How many frames there are in `bytes`.
pub fn count_frames(bytes: &[u8]) -> u64 {
    let mut at = 0;
    let mut count = 0;
    while let Some(header) = bytes.get(at..at + 8) {
        at += 8 + usize::from(u16::from_le_bytes([header[2], header[3]]));
        count += 1;
    }
    count
}

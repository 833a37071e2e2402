//! The attacks. Each has its bytes, the settings and the application that it attacks, and the upper
//! limit of its cost.
//!
//! An attack is a prelude and then pieces of bytes. So the same attack can be sent at full speed,
//! or at a pace. Its upper limit of memory is added up from the settings, see [`Cost::bound`].

use std::time::Duration;

use gmux::Config;
use gmux::wire::{Command, Frame};

/// The behaviour of the attacked application. It is the one that suits the attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// Accepts nothing.
    Ignores,
    /// Accepts streams, and drops them.
    Drops,
    /// Accepts streams and keeps them, but reads nothing.
    Holds,
    /// Accepts streams and keeps them until they fail. Reads nothing.
    HoldsWhatIsGood,
    /// Reads everything that arrives.
    Reads,
    /// Drops streams, except those with the name "fill". To them it writes as much as it can.
    Fills,
    /// Reads one stream. It begins only when the session has stopped reading for want of room, and
    /// then reads everything.
    ReadsInBursts,
    /// Keeps streams, with close notifiers that run as long as the session lives.
    NotifiesSlowly,
}

/// The attacker's treatment of the bytes that come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Reads the bytes and discards them.
    Read,
    /// Leaves the bytes unread, until nothing more can be sent to the attacker.
    Unread,
}

/// The state of the attacked session after the attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The session goes on. It answers another stream after the attack.
    Lives,
    /// The session's reader waits for the application, as it should. The session lives.
    Waits,
    /// The session ends, for this reason.
    Ends(&'static str),
    /// The session goes on, or ends for this reason. The outcome depends on the relative speed of
    /// both sides.
    MayEnd(&'static str),
}

/// The memory that an attack may cost, by the settings that limit it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// The attack fills the receive budget with unread data: `max_receive_buffer`.
    pub data: bool,
    /// The attack fills the memory for names: half of `max_receive_buffer`.
    pub names: bool,
    /// The attack makes up to this many streams: `max_streams`, `accept_backlog`, or the number
    /// that it has open at once.
    pub streams: usize,
    /// The attack causes refusals that can't be sent.
    pub refusals: bool,
    /// Upper limit of the threads that the attack makes the victim start: the application's for its
    /// streams, and gmux's for close notifiers.
    pub threads: usize,
    /// The attack makes up to this many sessions at once.
    pub sessions: usize,
    /// The attack leaves idle buffers of this many sizes.
    pub idle_sizes: usize,
    /// This many streams have accepted data from the application that they can't send:
    /// `max_send_buffer` each.
    pub unsent: usize,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Upper limit of the memory of a stream without data, in bytes:
///
/// - its state
/// - its place in the table (twice, while the table grows), in the backlog, and in a lane
/// - its handle in the application
/// - the allocator's overhead
const STREAM: usize = 800;

/// Upper limit of a session's memory, in bytes: two threads' stacks as far as they are touched, the
/// reader's buffer, and the bytes read ahead.
const SESSION: usize = 64 * KIB + READ_BUFFER;

/// Memory of a session's reader that isn't charged: its buffer after a wrong guess made it grow,
/// and seven frames read ahead.
const READ_BUFFER: usize = 8 * 65_543;

/// Growth of the process that no attack causes: threads, the allocator's arenas, the measuring.
const FIXED: usize = 2 * MIB;

/// Memory of the refusals. The promises set the number that may wait. Each takes up to three times
/// 4 bytes while its queue grows.
const REFUSALS: usize = 65_536 * 4 * 3;

/// Upper limit of a session's threads that call close notifiers. The documentation of
/// `set_close_notifier` has it.
const NOTIFY_THREADS: usize = 8;

/// The default of `max_send_buffer`.
const SEND_BUFFER: usize = 256 * KIB;

/// Upper limit of idle buffers, for one size and for all sizes together.
const IDLE: usize = 4 * MIB;
const IDLE_ALL: usize = 64 * MIB;

impl Cost {
    /// Returns the upper limit of the memory, in bytes.
    pub fn bound(&self, config: &Settings) -> usize {
        let mut bound = FIXED + self.streams * STREAM + self.sessions.max(1) * SESSION;
        if self.data {
            // A charge counts the buffer's class and 64 bytes. The queue of chunks may have grown
            // to twice its content.
            bound += config.receive_buffer * 3 / 2 + 65_600;
        }
        if self.names {
            bound += config.receive_buffer / 2 * 5 / 4 + config.name_len;
        }
        if self.refusals {
            bound += REFUSALS;
        }
        if self.unsent > 0 {
            // The batch that is being written counts, too. A frame's buffer holds its header and
            // its data.
            bound += self.unsent * SEND_BUFFER * 9 / 8 + 2 * SEND_BUFFER;
        }
        bound + (self.idle_sizes * IDLE.min(config.receive_buffer)).min(IDLE_ALL)
    }
}

/// The settings from which the upper limits are computed.
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
    /// Number of streams that the application must have accepted before the pieces are sent.
    pub accepted: u64,
    /// The bytes that are sent first, all at once.
    pub prelude: fn(u8) -> Vec<u8>,
    /// Returns the n-th piece.
    pub piece: fn(u8, u32) -> Vec<u8>,
    /// All pieces are the same.
    pub same: bool,
    /// Number of pieces in the small and in the full run.
    pub pieces: (u32, u32),
    /// The attacker waits for answers, so that it can send all pieces. The number says how many
    /// streams a piece asks for.
    pub paced: Option<u64>,
    /// Each piece comes by a connection of its own, which the victim has to end.
    pub apart: bool,
    pub fate: Fate,
    pub cost: Cost,
}

const DEFAULT: Settings = Settings { receive_buffer: 4 * MIB, name_len: 4096 };

/// A small budget, which is soon used up.
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
            // The default would cost 5 s for each attack.
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

/// Returns `per` frames, the `n`-th piece. `make` gets each frame's number in the whole attack.
fn frames(n: u32, per: u32, make: impl FnMut(u32) -> Vec<u8>) -> Vec<u8> {
    (n * per..(n + 1) * per).flat_map(make).collect()
}

/// Returns the id of a client's i-th stream. It starts at 101, to leave some ids for the prelude.
fn id(i: u32) -> u32 {
    101 + 2 * i
}

/// Opens a stream that the application fills, with a window that never ends. The data that comes
/// back fills the sockets, so that nothing else can be sent to the attacker.
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

/// Number of the attacker's streams that the application fills.
const FILLED: u32 = 64;

/// Opens `n` streams.
fn open(version: u8, n: u32) -> Vec<u8> {
    (0..n).flat_map(|i| frame(version, Command::Syn, id(i), b"")).collect()
}

/// Returns noise, the same each time.
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
/// and the data path's own size.
const SIZES: [u16; 21] = [
    4097, 5121, 6145, 7169, 8193, 10_241, 12_289, 14_337, 16_385, 20_481, 24_577, 28_673, 32_769,
    40_961, 49_153, 57_345, 65_535, 8192, 16_384, 32_768, 4200,
];

// ---- the attacks --------------------------------------------------------------------------------

pub static ALL: &[Attack] = &[
    // Data that nobody reads, in the smallest frames. Each takes 9 bytes on the wire.
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
    // The same, to as many streams as are allowed. Each holds a buffer of its own.
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
    // Streams that the application writes to. The attacker reads none of them.
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
    // Streams that the application accepts, as many as are allowed.
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
    // Frames without effect.
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
    // Window updates.
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
    // Many streams that fail one by one. The application wants a notification of each end.
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
    // Wrong guesses of the reader: runs of large frames, then a frame that breaks the run.
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
    // Buffers of every size, as many as fit, one size after the other.
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
    // Bytes of another protocol.
    Attack {
        versions: &[1],
        apart: true,
        fate: Fate::Ends("Invalid"),
        cost: Cost { sessions: 4, ..COST },
        ..Attack::new("garbage", |_, n| noise(n, 4096), (100, 2000))
    },
    // The right version and command, and noise in the rest. It gets further.
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

/// A large frame that never ends, on each of many connections. A piece is one byte for each of
/// them.
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

/// Keepalive timeout: the time without any bytes after which a session ends.
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

/// Returns the number of frames in `bytes`.
pub fn count_frames(bytes: &[u8]) -> u64 {
    let mut at = 0;
    let mut count = 0;
    while let Some(header) = bytes.get(at..at + 8) {
        at += 8 + usize::from(u16::from_le_bytes([header[2], header[3]]));
        count += 1;
    }
    count
}

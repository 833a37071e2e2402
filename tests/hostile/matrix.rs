//! The whole product of commands, classes of length, classes of stream id, and versions. Each frame
//! goes to a session of its own. The session has to do what the table says. After that it either
//! answers a well-behaved stream or has ended with the right error.
//!
//! `tests/odd_input.rs` has the rows of the protocol's table one by one, and shows what the
//! application sees of each. This test leaves no combination out.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};

use gmux::wire::Command;
use gmux::{Config, Error, Session, Stream};

use super::support::raw::{Raw, against_server};
use super::support::{test_for, until};

/// The class of the frame's stream id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    Unopened,
    Open,
    /// The peer has sent FIN. We have not.
    HalfClosedByThem,
    /// We have sent FIN. The peer has not.
    HalfClosedByUs,
    /// Both sides have sent FIN, and the stream is forgotten.
    Closed,
    /// An id of our parity, of a stream that we have opened.
    OursOpen,
    /// An id of our parity that we have not opened.
    OursUnopened,
    Zero,
}

impl Id {
    const ALL: [Self; 8] = [
        Self::Unopened,
        Self::Open,
        Self::HalfClosedByThem,
        Self::HalfClosedByUs,
        Self::Closed,
        Self::OursOpen,
        Self::OursUnopened,
        Self::Zero,
    ];

    fn number(self) -> u32 {
        match self {
            Self::Unopened => 99,
            Self::Open => 3,
            Self::HalfClosedByThem => 5,
            Self::HalfClosedByUs => 7,
            Self::Closed => 9,
            Self::OursOpen => 2,
            Self::OursUnopened => 98,
            Self::Zero => 0,
        }
    }
}

/// The class of the frame's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Zero,
    One,
    /// 8 bytes. For UPD they are plausible counts.
    Eight,
    /// 8 bytes. For UPD they are impossible counts.
    EightAbsurd,
    MaxFrame,
    Largest,
}

impl Length {
    const ALL: [Self; 6] =
        [Self::Zero, Self::One, Self::Eight, Self::EightAbsurd, Self::MaxFrame, Self::Largest];

    fn payload(self) -> Vec<u8> {
        match self {
            Self::Zero => vec![],
            Self::One => vec![1],
            Self::Eight => [0u32.to_le_bytes(), 65_536u32.to_le_bytes()].concat(),
            Self::EightAbsurd => [0x7fff_ffffu32.to_le_bytes(), u32::MAX.to_le_bytes()].concat(),
            Self::MaxFrame => vec![1; 32_768],
            Self::Largest => vec![1; 65_535],
        }
    }
}

/// The result that the table requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// A stream is ready to be accepted.
    Opens,
    /// FIN comes back, and the refusal is counted.
    Refused,
    /// The frame is counted as ignored.
    Ignored,
    /// Nothing happens.
    Nothing,
    /// The stream's reader finds this many bytes.
    Delivers(usize),
    /// The stream's reader finds its end.
    Ends,
    /// The stream fails. The peer gets FIN, unless it was sent before. The session goes on.
    Fails,
    /// The session ends with `InvalidProtocol`, for this reason.
    Fatal(&'static str),
}

/// The table. First come the frames that are wrong whatever their id is. The rest is by command.
fn expected(version: u8, command: Command, length: Length, id: Id) -> Expected {
    use Expected as E;
    const ROLES: &str =
        "SYN with an id that only this end may open: are both ends clients, or both servers?";
    match (command, length, id) {
        // Impossible lengths. The header shows them before the id is looked at.
        (Command::Fin, Length::Zero, _) | (Command::Nop, Length::Zero, _) => match (command, id) {
            (Command::Nop, _) => E::Nothing,
            (_, Id::Open | Id::HalfClosedByUs | Id::OursOpen) => E::Ends,
            (_, Id::Closed) => E::Nothing, // The frame may have crossed with our FIN.
            (_, Id::Unopened | Id::HalfClosedByThem | Id::OursUnopened | Id::Zero) => E::Ignored,
        },
        (Command::Fin, _, _) => E::Fatal("FIN has no payload"),
        (Command::Nop, _, _) => E::Fatal("NOP has no payload"),
        (Command::Upd, _, _) if version == 1 => E::Fatal("UPD is a frame of version 2"),
        (
            Command::Upd,
            Length::Eight,
            Id::Open | Id::HalfClosedByThem | Id::HalfClosedByUs | Id::OursOpen,
        ) => E::Nothing,
        (
            Command::Upd,
            Length::EightAbsurd,
            Id::Open | Id::HalfClosedByThem | Id::HalfClosedByUs | Id::OursOpen,
        ) => E::Fails,
        (Command::Upd, Length::Eight | Length::EightAbsurd, Id::Closed) => E::Nothing,
        (Command::Upd, Length::Eight | Length::EightAbsurd, _) => E::Ignored,
        (Command::Upd, _, _) => E::Fatal("UPD has a payload of 8 bytes"),

        // The opening of a stream. The rules for the id come before those for the name's length.
        (Command::Syn, _, Id::OursOpen | Id::OursUnopened | Id::Zero) => E::Fatal(ROLES),
        (Command::Syn, _, Id::Open | Id::HalfClosedByThem | Id::HalfClosedByUs) => E::Ignored,
        // max_name_len is 4096.
        (Command::Syn, Length::MaxFrame | Length::Largest, Id::Unopened | Id::Closed) => E::Refused,
        (Command::Syn, _, Id::Unopened | Id::Closed) => E::Opens,

        (Command::Psh, Length::Zero, _) => E::Nothing,
        (Command::Psh, _, Id::Open | Id::HalfClosedByUs | Id::OursOpen) => {
            E::Delivers(length.payload().len())
        }
        (Command::Psh, _, Id::HalfClosedByThem) => E::Ignored,
        (Command::Psh, _, Id::Unopened | Id::Closed | Id::OursUnopened | Id::Zero) => E::Ignored,
    }
}

/// A session with a stream in each state, and the handles of the streams that live.
struct Fixture {
    raw: Raw,
    session: Session,
    streams: Vec<Stream>,
}

impl Fixture {
    fn new(version: u8) -> Self {
        let config = Config::new().version(version).keepalive_disabled(true);
        let (mut raw, session) = against_server(config, version);
        let accept = |raw: &mut Raw, id: Id| {
            raw.syn(id.number(), format!("{id:?}"));
            session.accept().unwrap()
        };
        // This stream is closed on both sides, and forgotten. It is handed over before a later
        // frame is.
        raw.syn(Id::Closed.number(), "");
        raw.fin(Id::Closed.number());
        let _ = session.accept().unwrap();
        raw.expect(Command::Fin, Id::Closed.number());
        let ours = session.open("ours").unwrap();
        raw.expect(Command::Syn, Id::OursOpen.number());
        let mut streams = vec![ours];
        for id in [Id::Open, Id::HalfClosedByThem, Id::HalfClosedByUs] {
            let stream = accept(&mut raw, id);
            match id {
                Id::HalfClosedByThem => raw.fin(id.number()),
                Id::HalfClosedByUs => {
                    stream.shutdown(Shutdown::Write).unwrap();
                    raw.expect(Command::Fin, id.number());
                }
                _ => {}
            }
            streams.push(stream);
        }
        // The session has received SYN and FIN, SYN three times, FIN, and this NOP.
        raw.nop();
        until(|| session.stats().frames_received == 7);
        Self { raw, session, streams }
    }

    fn stream(&self, id: Id) -> &Stream {
        self.streams.iter().find(|stream| stream.id() == id.number()).unwrap()
    }
}

fn check(version: u8, command: Command, length: Length, id: Id) {
    let mut fixture = Fixture::new(version);
    let before = fixture.session.stats();
    fixture.raw.frame(command, id.number(), &length.payload());
    let expected = expected(version, command, length, id);
    if let Expected::Fatal(why) = expected {
        assert!(fixture.session.closed().recv().is_err());
        match fixture.session.close_reason() {
            Some(Error::InvalidProtocol { frame, reason }) => {
                assert_eq!((frame.command, frame.stream_id, reason), (command, id.number(), why));
                assert_eq!(usize::from(frame.length), length.payload().len());
            }
            other => panic!("{other:?}"),
        }
        for stream in &fixture.streams {
            // The streams are told one after the other.
            until(|| (&mut &*stream).write(b"x").is_err());
        }
        return;
    }
    match expected {
        Expected::Opens => {
            let stream = fixture.session.accept().unwrap();
            assert_eq!((stream.id(), stream.name_bytes()), (id.number(), &length.payload()[..]));
            drop(stream);
            fixture.raw.expect(Command::Fin, id.number());
        }
        Expected::Refused => {
            let _ = fixture.raw.expect(Command::Fin, id.number());
        }
        Expected::Delivers(n) => {
            let mut data = vec![0; n];
            let mut stream = fixture.stream(id);
            stream.read_exact(&mut data).unwrap();
            assert!(data == length.payload());
            if version == 2 {
                fixture.raw.expect(Command::Upd, id.number()); // The update of the first read.
            }
        }
        Expected::Ends => assert_eq!(fixture.stream(id).read(&mut [0; 9]).unwrap(), 0),
        Expected::Fails => {
            if id != Id::HalfClosedByUs {
                fixture.raw.expect(Command::Fin, id.number());
            }
            let error = Error::from(fixture.stream(id).read(&mut [0; 9]).unwrap_err());
            assert!(
                matches!(error, Error::Consumed { stream, .. } if stream == id.number()),
                "{error:?}"
            );
        }
        Expected::Ignored | Expected::Nothing | Expected::Fatal(_) => {}
    }
    // The frame is handled when the next one is.
    fixture.raw.nop();
    until(|| fixture.session.stats().frames_received == before.frames_received + 2);
    let after = fixture.session.stats();
    let count = |wanted: bool| u64::from(wanted);
    assert_eq!(after.frames_ignored - before.frames_ignored, count(expected == Expected::Ignored));
    assert_eq!(
        after.streams_refused - before.streams_refused,
        count(expected == Expected::Refused)
    );
    assert_eq!(
        after.streams_received - before.streams_received,
        count(expected == Expected::Opens)
    );
    assert_eq!(after.streams_cut - before.streams_cut, count(expected == Expected::Fails));
    assert_eq!(after.receive_buffered, 0);
    fixture.raw.assert_alive(&fixture.session, 101);
    // The other streams still work.
    for other in fixture
        .streams
        .iter()
        .filter(|stream| stream.id() != id.number() || expected == Expected::Nothing)
    {
        if other.id() != Id::HalfClosedByThem.number() {
            fixture.raw.psh(other.id(), "on");
            let mut data = [0; 2];
            (&mut &*other).read_exact(&mut data).unwrap();
            assert_eq!(&data, b"on");
        }
    }
}

#[test]
fn every_command_of_every_length_on_every_id_does_what_the_table_says() {
    let name = "every_command_of_every_length_on_every_id_does_what_the_table_says";
    test_for(name, std::time::Duration::from_secs(120), || {
        let mut cases = 0;
        let mut failed = Vec::new();
        for version in [1, 2] {
            for command in [Command::Syn, Command::Fin, Command::Psh, Command::Nop, Command::Upd] {
                for length in Length::ALL {
                    for id in Id::ALL {
                        cases += 1;
                        let case = format!("version {version}, {command:?}, {length:?}, {id:?}");
                        if catch_unwind(AssertUnwindSafe(|| check(version, command, length, id)))
                            .is_err()
                        {
                            eprintln!("in the case of {case}");
                            failed.push(case);
                        }
                    }
                }
            }
        }
        println!("{cases} cases");
        assert!(failed.is_empty(), "{failed:#?}");
    });
}

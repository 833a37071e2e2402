//! The meaning of an input, decoded at once: the data that each stream must deliver, and the frames
//! that its peer may get in return.

use std::collections::HashMap;

use super::app::Seen;
use crate::choices::{Choices, payload};
use crate::wire::{Command, Frame, HEADER_LEN};

/// Appends the bytes that the next choices stand for: a frame whose payload needn't be in the
/// input, a run of such frames, or raw bytes.
pub(super) fn write_frames(choices: &mut Choices, version: u8, out: &mut Vec<u8>) {
    let kind = choices.byte();
    if kind >= 248 {
        let n = choices.below(24);
        return out.extend_from_slice(choices.bytes(n));
    }
    // There are few ids, so that frames meet. Most are odd, which are the peer's.
    let id = match choices.byte() {
        byte @ 0..230 => 1 + 2 * u32::from(byte % 5),
        byte @ 230..253 => u32::from(byte - 230),
        _ => choices.word(),
    };
    let seed = choices.byte();
    let (command, length) = match kind {
        0..70 => (0, choices.below(12)),
        70..80 => (0, choices.length()),
        80..180 => (2, choices.length()),
        180..205 => (1, 0),
        205..210 => (3, 0),
        210..240 => (4, 8),
        _ => (choices.byte() % 6, choices.length()),
    };
    let times = if kind & 7 == 3 { 1 + usize::from(seed & 15) } else { 1 };
    for _ in 0..times {
        out.extend([version, command]);
        out.extend((length as u16).to_le_bytes());
        out.extend(id.to_le_bytes());
        let at = out.len();
        if command == 4 {
            // Some counts are possible, some impossible.
            let count = [0, 1, choices.byte().into(), choices.short().into(), choices.word()]
                [choices.below(5)];
            let window =
                [65536, 0, 1 << 20, u32::from(choices.byte()), choices.word()][choices.below(5)];
            out.extend(count.to_le_bytes());
            out.extend(window.to_le_bytes());
            out.truncate(at + length);
        }
        out.extend_from_slice(payload(seed, at, at + length - out.len()));
    }
}

/// The input's frames for one stream id.
#[derive(Debug, Default)]
struct Said {
    syns: usize,
    name: Vec<u8>,
    /// The data between the last SYN and FIN.
    data: Vec<u8>,
    fin: bool,
    /// Number of data bytes for all streams of this id.
    total: usize,
    updates: usize,
}

#[derive(Debug)]
pub(super) struct Script(HashMap<u32, Said>);

impl Script {
    pub(super) fn read(mut bytes: &[u8], version: u8) -> Self {
        let mut said: HashMap<u32, Said> = HashMap::new();
        while bytes.first() == Some(&version) {
            let frame = match Frame::decode(bytes) {
                Ok(Some((frame, rest))) => {
                    bytes = rest;
                    frame
                }
                // The session may act on the last frame before it is complete. It refuses a name
                // that is too long, and counts unwanted data as consumed.
                Ok(None) if bytes.len() >= HEADER_LEN => {
                    let id = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                    let entry = said.entry(id).or_default();
                    match bytes[1] {
                        0 => entry.syns += 2,
                        // The part that has arrived of cut data is delivered.
                        _ => {
                            entry.total += usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
                            if bytes[1] == 2 && entry.syns > 0 && !entry.fin {
                                entry.data.extend(&bytes[HEADER_LEN..]);
                            }
                        }
                    }
                    break;
                }
                _ => break,
            };
            if frame.header.check().is_err() {
                break;
            }
            let entry = said.entry(frame.header.stream_id).or_default();
            match frame.header.command {
                Command::Syn if frame.header.stream_id % 2 == 0 => break,
                Command::Syn => {
                    entry.syns += 1;
                    entry.name = frame.payload;
                    entry.data = Vec::new();
                    entry.fin = false;
                }
                Command::Psh => {
                    entry.total += frame.payload.len();
                    if entry.syns > 0 && !entry.fin {
                        entry.data.extend(frame.payload);
                    }
                }
                Command::Fin => entry.fin |= entry.syns > 0,
                Command::Upd => entry.updates += 1,
                Command::Nop => {}
            }
        }
        Self(said)
    }

    /// Checks the application's record of a stream.
    pub(super) fn check_input(&self, seen: &Seen, version: u8, may_be_cut: bool) {
        let said = self.0.get(&seen.id).unwrap_or_else(|| panic!("{seen:?} was never opened"));
        assert!(said.syns > 0, "{seen:?} was never opened");
        if said.syns > 1 {
            return; // The speed of the application decides which of them this record belongs to.
        }
        assert_eq!(seen.name, said.name);
        let got = seen.read.len();
        let data = said.data.len();
        assert!(
            said.data.starts_with(&seen.read),
            "{}: {got} bytes that aren't the first of those sent",
            seen.id
        );
        if seen.eof && !seen.shut_read {
            assert!(
                said.fin && got == data,
                "{}: the end after {got} of {data} bytes, FIN: {}",
                seen.id,
                said.fin
            );
        }
        // A stream may fail alone, because of an UPD's counts or of data past its window.
        let may_fail = may_be_cut || version == 2 && (said.updates > 0 || data > 262_144);
        if seen.complete && !seen.shut_read && !may_fail {
            assert_eq!(got, data, "{}: bytes read, of those sent", seen.id);
            assert_eq!(seen.eof, said.fin, "{}: whether the end was clean", seen.id);
        }
    }

    /// Checks the bytes that the session wrote. They must be whole frames, except the last.
    pub(super) fn check_output(
        &self,
        mut bytes: &[u8],
        version: u8,
        max_frame: usize,
        streams: &[Seen],
    ) {
        #[derive(Default)]
        struct Sent {
            syns: usize,
            fins: usize,
            data: Vec<u8>,
        }
        let mut sent: HashMap<u32, Sent> = HashMap::new();
        while let Some((frame, rest)) = Frame::decode(bytes).expect("commands are known") {
            bytes = rest;
            let id = frame.header.stream_id;
            assert_eq!(frame.header.version, version);
            frame.header.check().expect("lengths are allowed");
            let ours = id % 2 == 0;
            let entry = sent.entry(id).or_default();
            let said = self.0.get(&id);
            let syns = said.map_or(0, |said| said.syns);
            let once = ours || syns == 1;
            let text = frame.to_string();
            match frame.header.command {
                Command::Nop => assert_eq!(id, 0),
                Command::Syn => {
                    assert!(ours && entry.syns == 0 && entry.fins == 0, "{id}: SYN");
                    entry.syns += 1;
                }
                Command::Psh => {
                    assert!(
                        (1..=max_frame).contains(&frame.payload.len()),
                        "{id}: {} bytes",
                        frame.payload.len()
                    );
                    assert!(!once || entry.fins == 0, "{id}: data after FIN");
                    entry.data.extend(frame.payload);
                }
                Command::Fin => {
                    entry.fins += 1;
                    // A refused stream gets one more FIN if data comes for it.
                    let again =
                        said.is_some_and(|said| said.total > 0) && (!once || entry.data.is_empty());
                    let most = if ours { 1 } else { syns * (1 + usize::from(again)) };
                    assert!(entry.fins <= most, "{id}: {} FIN for {syns} SYN", entry.fins);
                }
                Command::Upd => {
                    let consumed =
                        u32::from_le_bytes(frame.payload[..4].try_into().expect("four bytes"));
                    let total = said.map_or(0, |said| said.total);
                    assert!(
                        consumed as usize <= total,
                        "{id}: {consumed} of {total} bytes consumed"
                    );
                }
            }
            assert!(id == 0 || entry.syns == usize::from(ours), "{text} before SYN");
            assert!(id == 0 || ours || syns > 0, "{text} for a stream that was never opened");
        }
        for seen in streams {
            if let Some(sent) = sent.get(&seen.id)
                && (seen.ours || self.0.get(&seen.id).is_some_and(|said| said.syns == 1))
            {
                assert!(
                    seen.wrote.starts_with(&sent.data),
                    "{}: other bytes than were written",
                    seen.id
                );
            }
        }
    }
}

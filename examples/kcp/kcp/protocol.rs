//! One end of a conversation. It is a pure state machine, without I/O, lock, clock or thread.
//!
//! The owner passes in `now`, in milliseconds, from a clock that never goes back and doesn't wrap.
//! Only the low half of `now` is sent.
//!
//! The owner calls [`Protocol::input`] with received datagrams, and also calls `read` and `write`.
//! After each of these calls it calls [`Protocol::transmit`]. It also calls `transmit` when the
//! time from [`Protocol::due`] has come.
//!
//! Invariants:
//! - A datagram is used as a whole or not at all.
//! - No input from a peer makes the protocol panic, loop, or hold more than the windows.
//! - `transmit` sends everything that may be sent now.

use super::buffers::Buffers;
use super::outbox::Outbox;
use super::receiver::Receiver;
use super::segment::{Command, Malformed, Segment, Seq, parse};
use super::sender::Sender;
use super::settings::Settings;

/// The first and the longest wait before a peer without room is asked for its window, in
/// milliseconds. KCP waits 7 s, so one lost datagram can stall a conversation for 7 s. A question
/// costs only 24 bytes. So a shorter wait is cheap.
const ASK: (u64, u64) = (500, 10_000);

/// Unused buffers are freed when nothing has been in flight for this time, in milliseconds. After
/// such a pause another burst is unlikely.
const REST_AFTER: u64 = 1000;

#[derive(Debug)]
pub struct Protocol {
    conv: u32,
    mtu: usize,
    sender: Sender,
    receiver: Receiver,
    buffers: Buffers,
    /// The acks of the datagram that is being read. The vector is a field only to keep its memory.
    acked: Vec<(Seq, u64)>,
    /// The time at which the peer is asked for its window, and the wait before the question after
    /// that.
    ask: (u64, u64),
    /// Whether the peer has to be told our window. That is so if the peer has asked, or if the
    /// window is open again.
    tell: bool,
    announced: Announced,
    rest_due: u64,
}

/// The peer's knowledge of our window. The peer is told twice that the window is open again,
/// because a datagram may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    Open,
    /// The peer knows that there is no room.
    Shut,
    /// The peer was told once that there is some room again.
    Ajar,
}

impl Protocol {
    pub fn new(conv: u32, settings: &Settings) -> Self {
        Self::beginning_at(conv, settings, Seq(0))
    }

    /// Does the same as `new`, but with a chosen first number for both directions. Tests use it to
    /// let the numbers wrap.
    pub fn beginning_at(conv: u32, settings: &Settings, first: Seq) -> Self {
        Self {
            conv,
            mtu: settings.mtu.clamp(*Settings::MTUS.start(), *Settings::MTUS.end()),
            sender: Sender::new(settings, first),
            receiver: Receiver::new(settings.receive_window.max(1), first),
            buffers: Buffers::default(),
            acked: Vec::new(),
            ask: (u64::MAX, ASK.0),
            tell: false,
            announced: Announced::Open,
            rest_due: u64::MAX,
        }
    }

    pub fn conv(&self) -> u32 {
        self.conv
    }

    // ---- from the peer --------------------------------------------------------------------------

    /// Takes in a datagram, without its nonce and checksum.
    ///
    /// # Errors
    /// The datagram belongs to another conversation, or no datagram of this conversation can look
    /// so. No part of it was used.
    pub fn input(&mut self, datagram: &[u8], now: u64) -> Result<(), Malformed> {
        for segment in parse(datagram) {
            let segment = segment?;
            let is_ack = segment.command == Command::Ack;
            if segment.conv != self.conv || !self.sender.is_sane(&segment, is_ack) {
                return Err(Malformed);
            }
        }
        self.acked.clear();
        let mut latest = None;
        for segment in parse(datagram).flatten() {
            match segment.command {
                Command::Push => {
                    self.receiver.push(
                        segment.sn,
                        segment.ts,
                        segment.data,
                        now,
                        &mut self.buffers,
                    );
                }
                Command::Ack if self.sender.ack(segment.sn, &mut self.buffers) => {
                    latest = Some(segment.ts);
                    let age = (now as u32).wrapping_sub(segment.ts);
                    self.acked.push((segment.sn, now.saturating_sub(age.into())));
                }
                Command::Ack | Command::Tell => {}
                Command::Ask => self.tell = true,
            }
            self.sender.progress(segment.una, segment.window, &mut self.buffers);
        }
        if let Some(ts) = latest {
            self.sender.rtt.measure(now as u32, ts);
        }
        self.acked.sort_unstable_by(|(a, _), (b, _)| a.since(*b).cmp(&0));
        self.sender.find_lost(&self.acked);
        Ok(())
    }

    // ---- from and to the application ------------------------------------------------------------

    /// Takes as much of `data` as there is room for. Returns the number of bytes taken.
    pub fn write(&mut self, data: &[u8]) -> usize {
        self.sender.write(data, &mut self.buffers)
    }

    /// Lets all written data be sent, even if it doesn't fill a segment.
    pub fn flush(&mut self) {
        self.sender.flush();
    }

    /// Returns whether there is enough room to make waking a blocked write worthwhile.
    pub fn has_room(&self) -> bool {
        self.sender.has_room()
    }

    /// Returns whether the peer has acked everything that was written.
    pub fn is_done(&self) -> bool {
        self.sender.is_done()
    }

    pub fn is_readable(&self) -> bool {
        self.receiver.is_readable()
    }

    /// Reads received bytes into `buf`. Returns their number, which is 0 if there are none.
    pub fn read(&mut self, buf: &mut [u8]) -> usize {
        let n = self.receiver.read(buf, &mut self.buffers);
        self.look_at_window();
        n
    }

    /// Notes that nobody reads any more. From now on received data is acked and thrown away.
    pub fn discard(&mut self) {
        self.receiver.discard(&mut self.buffers);
        self.look_at_window();
    }

    /// Decides whether the peer has to be told of new room.
    fn look_at_window(&mut self) {
        let room = self.receiver.room();
        let next = match self.announced {
            Announced::Shut if room > 0 => Announced::Ajar,
            Announced::Ajar if room > self.receiver.window() / 2 => Announced::Open,
            _ => return,
        };
        self.announced = next;
        self.tell = true;
    }

    // ---- to the peer ----------------------------------------------------------------------------

    /// Returns the latest time for the next call of [`transmit`](Self::transmit), or `u64::MAX` if
    /// there is none.
    pub fn due(&self) -> u64 {
        if self.tell {
            return 0;
        }
        self.sender.due().min(self.receiver.due()).min(self.ask.0).min(self.rest_due)
    }

    /// Returns whether the peer has acked any segment.
    pub fn is_proven(&self) -> bool {
        self.sender.is_proven()
    }

    /// Returns the number of segments that were sent again.
    pub fn repeats(&self) -> u64 {
        self.sender.repeats
    }

    /// Puts all segments that have to be sent now into `out`. Data comes first, so that datagrams
    /// of full length lie together.
    pub fn transmit(&mut self, now: u64, out: &mut Outbox) {
        let room = self.receiver.room();
        let conv = self.conv;
        let mtu = self.mtu;
        let window = u16::try_from(room).unwrap_or(u16::MAX);
        let una = self.receiver.next();
        let mut push = |command, sn, ts, data: &[u8]| {
            out.push(&Segment { conv, command, window, ts, sn, una, data }, mtu);
        };
        let mut told = false;
        self.sender.transmit(now, |sn, data| {
            told = true;
            push(Command::Push, sn, now as u32, data);
        });
        if self.receiver.owes() && (told || now >= self.receiver.due()) {
            told = true;
            self.receiver.acks(|sn, ts| push(Command::Ack, sn, ts, &[]));
        }
        if self.is_time_to_ask(now) {
            told = true;
            push(Command::Ask, Seq(0), now as u32, &[]);
        }
        if std::mem::take(&mut self.tell) && !told {
            push(Command::Tell, Seq(0), now as u32, &[]);
        }
        if room == 0 {
            self.announced = Announced::Shut;
        }
        out.seal();
        self.rest(now);
    }

    /// Returns whether the peer has had no room for long enough to be asked for its window.
    fn is_time_to_ask(&mut self, now: u64) -> bool {
        let (due, wait) = &mut self.ask;
        if !self.sender.is_shut_out() {
            *due = u64::MAX;
            *wait = ASK.0;
            return false;
        }
        let ask = now >= *due;
        if ask {
            *wait = (*wait * 3 / 2).min(ASK.1);
        }
        if ask || *due == u64::MAX {
            *due = now + *wait;
        }
        ask
    }

    /// Frees unused buffers when nothing has been in flight for [`REST_AFTER`].
    fn rest(&mut self, now: u64) {
        if self.buffers.is_small() || !self.sender.is_done() || self.receiver.is_readable() {
            self.rest_due = u64::MAX;
        } else if self.rest_due == u64::MAX {
            self.rest_due = now + REST_AFTER;
        } else if now >= self.rest_due {
            self.buffers.rest();
            self.rest_due = u64::MAX;
        }
    }
}

//! A whole server's session over a transport in memory, which feeds it arbitrary bytes in arbitrary
//! pieces. A small application accepts, reads, echoes and closes.
//!
//! These conditions must hold:
//!
//! - No thread panics. The fuzzer and the replay end the process at any panic.
//! - Nothing hangs. The fuzzer and the replay have watchdogs.
//! - Both threads are gone at the end.
//! - The memory that the session counts stays within its bound.
//! - The session sends only frames that its peer must accept.
//! - For every stream that the input opens once, the application reads the data that the input
//!   contains ([`script`]), with the right ending.
//!
//! There are two kinds of application. One acts between the pieces and never blocks. The other is a
//! thread that blocks in `accept`, `read` and `write`.

mod app;
mod feed;
mod script;

use std::time::Duration;

use crate::{Choices, Config, Session};
use app::{App, Bounds};
use feed::Manner;
use script::Script;

/// Upper limit of the bytes that an input is expanded to. The last step may pass it a little.
const MOST: usize = 1 << 19;

/// Returns the configuration that an input chooses.
fn config(choices: &mut Choices) -> Config {
    let bits = choices.byte();
    let version = 1 + (bits & 1);
    let least = if version == 2 { 262_144 } else { 0 };
    let budget = [1, 5000, 70_000, 262_144][choices.below(4)].max(least);
    let window = [1, 1000, 65536, 262_144][choices.below(4)].min(budget);
    Config::new()
        .version(version)
        .keepalive_disabled(bits & 2 != 0)
        .max_receive_buffer(budget)
        .max_stream_buffer(window)
        .max_frame_size([1, 100, 4096, 32768][choices.below(4)])
        .max_send_buffer([1, 1000, 65536][choices.below(3)])
        .accept_backlog(1 + choices.below(4))
        .accept_stall_timeout(Some(if bits & 128 == 0 {
            Duration::ZERO
        } else {
            Duration::from_millis(1)
        }))
        .max_streams(1 + choices.below(6))
        .max_name_len([4096, 0, 65535][choices.below(3)])
        // The timeout is either far away, or so near that it ends the session.
        .close_timeout(if bits & 12 == 12 {
            Duration::from_millis(2)
        } else {
            Duration::from_secs(60)
        })
        .half_close_stall(if bits & 16 == 0 { Some(Duration::from_millis(1)) } else { None })
        .stall_timeout(if bits & 96 == 96 { Some(Duration::from_millis(1)) } else { None })
}

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let config = config(&mut choices);
    let version = config.version;
    let max_frame = config.max_frame_size;
    let may_be_cut = config.stall().is_some();
    let short = config.close_timeout < Duration::from_secs(1);
    let bounds = Bounds::new(&config);
    let manner = Manner::choose(&mut choices);
    let blocking = choices.below(8) == 1;
    let last = choices.byte();

    let (feed, transport) = feed::feed(manner);
    let session = Session::server(transport, config).expect("a session starts");
    let mut app = App::new(session, bounds, blocking);
    let mut fed = Vec::new();
    let mut waiting = Vec::new();
    while !choices.is_empty() && fed.len() < MOST {
        script::write_frames(&mut choices, version, &mut waiting);
        // A piece may end anywhere. The rest goes with the next piece.
        let keep = if choices.byte() & 3 == 0 { choices.length().min(waiting.len()) } else { 0 };
        let rest = waiting.split_off(waiting.len() - keep);
        let piece = std::mem::replace(&mut waiting, rest);
        fed.extend_from_slice(&piece);
        feed.give(piece);
        feed.wait_taken(|| app.may_be_paused());
        app.step(&mut choices);
        app.check();
    }
    match last % 8 {
        // The peer ends its side, or a read fails. All input before that is read as far as
        // possible.
        0..3 => {
            feed.end();
            app.read_all();
        }
        3 => {
            feed.fail_read();
            app.read_all();
        }
        // The peer ends its side when the session does. If the session's close timeout is short, it
        // may also never end it.
        4 if short => feed.never_ends(),
        5 => app.close_streams(),
        6 => {
            feed.release();
            app.drain();
        }
        7 => {
            if short {
                feed.never_ends();
            }
            feed.fail_write();
        }
        _ => {}
    }
    app.check();
    let streams = app.leave(last & 8 != 0, &feed);
    feed.wait_gone();

    let script = Script::read(&fed, version);
    for seen in streams.iter().filter(|seen| !seen.ours) {
        script.check_input(seen, version, may_be_cut);
    }
    script.check_output(&feed.written(), version, max_frame, &streams);
}

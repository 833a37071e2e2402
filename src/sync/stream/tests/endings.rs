//! How a stream ends.

use std::io;
use std::sync::mpsc;

use crossbeam_channel::TryRecvError;

use super::*;
use crate::error::Error;

/// The ways in which a stream can end for its application.
type Ending = fn(&Bench) -> super::super::Ended;

const ENDINGS: [(&str, Ending); 4] = [
    ("close", |bench| bench.stream.close(&bench.env)),
    ("fail", |bench| bench.stream.fail(&bench.env, Error::Timeout, false)),
    ("detach", |bench| bench.stream.detach(&bench.env, &Arc::new(Error::PeerClosed))),
    ("end", |bench| bench.stream.end(&bench.env, &Arc::new(Error::PeerClosed))),
];

/// The ways in which one half of a stream ends, and not the stream.
const HALVES: [(&str, Ending); 3] = [
    ("finish", |bench| bench.stream.finish(&bench.env)),
    ("shut_read", |bench| bench.stream.shut_read(&bench.env)),
    ("fail_write", |bench| {
        bench.stream.fail_write(&bench.env, &Arc::new(Error::from(io::Error::other("cut"))))
    }),
];

/// A notifier that reports `name` when it is called, or when it is dropped without a call.
fn notifier(name: &'static str) -> (super::super::Notifier, mpsc::Receiver<&'static str>) {
    let (said, heard) = mpsc::channel();
    (Box::new(move |_| said.send(name).unwrap()), heard)
}

/// Returns whether the stream has ended for its application.
fn has_ended(bench: &Bench) -> bool {
    bench.stream.glance(bench.start).is_some_and(|(_, cause)| cause.is_some())
}

#[test]
fn the_first_ending_gives_out_the_notifier_and_disconnects_the_channel() {
    for (name, end) in ENDINGS {
        let bench = Bench::v1();
        let channel = bench.stream.closed();
        assert_eq!(channel.try_recv(), Err(TryRecvError::Empty), "{name}");
        let (called, heard) = notifier("called");
        assert!(matches!(bench.stream.set_notifier(called), (None, None)));
        let mut ended = end(&bench);
        assert!(ended.first && has_ended(&bench), "{name}");
        assert_eq!(ended.closed, name == "close");
        assert_eq!(bench.stream.is_closed(), name == "close");
        ended.notifier.take().expect("the notifier")(&bench.stream);
        assert_eq!(heard.recv(), Ok("called"));
        assert_eq!(
            channel.try_recv(),
            Err(TryRecvError::Empty),
            "it disconnects when the caller lets go of what the ending left"
        );
        drop(ended);
        assert_eq!(channel.try_recv(), Err(TryRecvError::Disconnected), "{name}");
        // A second ending of any kind gives out nothing more.
        for (second, end) in ENDINGS {
            let ended = end(&bench);
            assert!(!ended.first && ended.notifier.is_none(), "{second} after {name}");
        }
        assert_eq!(bench.stream.closed().try_recv(), Err(TryRecvError::Disconnected));
    }
}

#[test]
fn half_an_ending_leaves_the_stream_to_its_application() {
    for (name, end) in HALVES {
        let bench = Bench::v1();
        let (called, _heard) = notifier("called");
        let channel = bench.stream.closed();
        assert!(matches!(bench.stream.set_notifier(called), (None, None)));
        let ended = end(&bench);
        assert!(
            !ended.first && !ended.closed && !ended.can_forget && ended.notifier.is_none(),
            "{name}"
        );
        assert!(!has_ended(&bench) && !bench.stream.is_closed(), "{name}");
        assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
    }
}

#[test]
fn each_ending_is_what_calls_then_report() {
    let bench = Bench::v1();
    let _ = bench.stream.close(&bench.env);
    assert!(matches!((bench.read(1), bench.write(b"x")), (Err(Error::Closed), Err(Error::Closed))));
    let bench = Bench::v1();
    let _ = bench.stream.fail(&bench.env, Error::GoAway, false);
    assert!(matches!((bench.read(1), bench.write(b"x")), (Err(Error::GoAway), Err(Error::GoAway))));
    let bench = Bench::v1();
    let _ = bench.stream.detach(&bench.env, &Arc::new(Error::Closed));
    assert!(matches!((bench.read(1), bench.write(b"x")), (Err(Error::Closed), Err(Error::Closed))));
    let bench = Bench::v1();
    let _ = bench.stream.end(&bench.env, &Arc::new(Error::PeerClosed));
    assert!(matches!(
        (bench.read(1), bench.write(b"x")),
        (Err(Error::PeerClosed), Err(Error::PeerClosed))
    ));
    let bench = Bench::v1();
    let _ = bench.stream.finish(&bench.env);
    assert!(matches!(bench.write(b"x"), Err(Error::WriteShutdown)));
    let bench = Bench::v1();
    let _ = bench.stream.fail_write(&bench.env, &Arc::new(Error::GoAway));
    assert!(matches!(bench.write(b"x"), Err(Error::GoAway)));
    let bench = Bench::v1();
    bench.deliver(b"unread");
    let _ = bench.stream.shut_read(&bench.env);
    assert_eq!(bench.read(1).unwrap(), b"");
}

#[test]
fn a_closed_stream_owes_its_fin_and_is_over_when_that_is_handed_over() {
    let mut bench = Bench::v1();
    let ended = bench.stream.close(&bench.env);
    assert!(ended.closed && !ended.can_forget, "its FIN isn't out yet");
    assert_eq!(bench.transmit_all(), [Sent::Fin]);
    assert!(!bench.stream.close(&bench.env).closed, "a second close closes nothing");

    // FIN was handed over before, so the close is the last step.
    let mut bench = Bench::v1();
    let _ = bench.stream.finish(&bench.env);
    assert_eq!(bench.transmit_all(), [Sent::Fin]);
    assert!(bench.stream.close(&bench.env).can_forget);
}

#[test]
fn every_ending_wakes_everybody_who_waits() {
    watched(|| {
        for (name, end) in ENDINGS {
            let bench = Bench::with_queue(10);
            assert_eq!(bench.write(&[0; 10]).unwrap(), 10);
            let reads = [
                bench.blocked(|stream, env| read(stream, env, 1)),
                bench.blocked(|stream, env| read(stream, env, 1)),
            ];
            let writes = [
                bench.blocked(|stream, env| write(stream, env, b"x")),
                bench.blocked(|stream, env| write(stream, env, b"x")),
            ];
            let flushes = [
                bench.blocked(|stream, _| stream.flush()),
                bench.blocked(|stream, _| stream.flush()),
            ];
            assert_eq!(bench.waiting(), (2, 2, 2));
            let _ = end(&bench);
            assert!(reads.into_iter().all(|thread| thread.join().unwrap().is_err()), "{name}");
            assert!(writes.into_iter().all(|thread| thread.join().unwrap().is_err()), "{name}");
            assert!(flushes.into_iter().all(|thread| thread.join().unwrap().is_err()), "{name}");
            assert_eq!(bench.waiting(), NOBODY);
        }
    });
}

#[test]
fn shutting_down_a_half_wakes_who_waits_for_it() {
    watched(|| {
        let bench = Bench::with_queue(10);
        assert_eq!(bench.write(&[0; 10]).unwrap(), 10);
        let reader = bench.blocked(|stream, env| read(stream, env, 1));
        let blocked_write = bench.blocked(|stream, env| write(stream, env, b"x"));
        let _ = bench.stream.shut_read(&bench.env);
        assert_eq!(reader.join().unwrap().unwrap(), b"");
        let _ = bench.stream.finish(&bench.env);
        assert!(matches!(blocked_write.join().unwrap(), Err(Error::WriteShutdown)));
    });
}

#[test]
fn an_ending_rings_for_the_fin_that_it_owes() {
    watched(|| {
        let bench = Bench::v1();
        let parker = bench.queue.parker();
        let env = Arc::clone(&bench.env);
        let writer = thread::spawn(move || parker.park(&env.shaper, None));
        until(|| bench.env.shaper.is_parked());
        let _ = bench.stream.close(&bench.env);
        writer.join().unwrap();
    });
}

#[test]
fn a_notifier_replaces_the_one_before_and_is_due_at_once_on_an_ended_stream() {
    let bench = Bench::v1();
    let (first, first_heard) = notifier("first");
    let (second, second_heard) = notifier("second");
    assert!(matches!(bench.stream.set_notifier(first), (None, None)));
    let (replaced, due) = bench.stream.set_notifier(second);
    assert!(due.is_none());
    replaced.expect("the first, to be dropped")(&bench.stream);
    assert_eq!(first_heard.recv(), Ok("first"));
    bench.stream.close(&bench.env).notifier.expect("the second")(&bench.stream);
    assert_eq!(second_heard.recv(), Ok("second"));
    let (third, third_heard) = notifier("third");
    let (replaced, due) = bench.stream.set_notifier(third);
    assert!(replaced.is_none());
    due.expect("the third, to be called")(&bench.stream);
    assert_eq!(third_heard.recv(), Ok("third"));
}

#[test]
fn a_notifier_that_was_kept_is_taken_once() {
    let bench = Bench::v1();
    assert!(bench.stream.take_notifier().is_none());
    let (kept, heard) = notifier("kept");
    assert!(bench.stream.keep_notifier(kept).is_none());
    bench.stream.take_notifier().expect("the notifier that was kept")(&bench.stream);
    assert_eq!(heard.recv(), Ok("kept"));
    assert!(bench.stream.take_notifier().is_none());
    // The close that would take the notifier has come and gone.
    let _ = bench.stream.close(&bench.env);
    assert!(bench.stream.keep_notifier(notifier("late").0).is_some());
}

#[test]
fn the_last_handle_is_the_last_of_as_many_as_were_made() {
    let bench = Bench::v1();
    for _ in 0..3 {
        bench.stream.add_handle();
    }
    assert_eq!([(); 3].map(|()| bench.stream.drop_handle()), [false, false, true]);
}

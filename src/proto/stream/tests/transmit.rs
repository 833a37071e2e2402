//! The frames that a stream sends, their lanes, and the bytes that count as written.

use super::*;

/// Sends one frame. Returns its bytes of data, or `None` if there is no data frame to send.
fn data_sent(core: &mut Core, lane: Lane, quantum: usize) -> Option<usize> {
    match core.poll_transmit(lane, quantum)? {
        Transmit::Data(payload) => Some(payload.len()),
        Transmit::Syn | Transmit::Update { .. } | Transmit::Fin => None,
    }
}

#[test]
fn a_flush_is_done_when_the_transport_has_it_all_or_never_will() {
    let mut core = core(2);
    assert!(matches!(core.flushed(0), Some(Ok(()))));
    accept(&mut core, 100);
    assert!(core.flushed(100).is_none());
    assert_eq!(transmit(&mut core), (100, false));
    assert!(core.flushed(100).is_none(), "taken by the writer isn't written");
    core.mark_written(99, false);
    assert!(core.flushed(100).is_none() && core.flushed(99).is_some());
    core.mark_written(1, false);
    assert!(matches!(core.flushed(100), Some(Ok(()))));
    for step in [Fail, Detach, FailWrite, End] {
        let mut core = super::core(2);
        accept(&mut core, 1);
        step.take(&mut core);
        assert!(matches!(core.flushed(1), Some(Err(_))), "{step:?}");
        assert!(matches!(core.flushed(0), Some(Ok(()))), "written bytes stay written");
    }
    Close.take(&mut core);
    assert!(matches!(core.flushed(0), Some(Err(Error::Closed))));
}

#[test]
fn a_stream_can_be_forgotten_when_it_is_closed_and_its_fin_is_written() {
    let mut core = core(2);
    assert!(!core.can_forget());
    Finish.take(&mut core);
    assert_eq!(transmit(&mut core), (0, true));
    core.mark_written(0, true);
    assert!(!core.can_forget(), "its application still has it");
    Close.take(&mut core);
    assert!(core.can_forget());
    let mut core = super::core(2);
    Close.take(&mut core);
    assert_eq!(transmit(&mut core), (0, true));
    assert!(!core.can_forget(), "taken by the writer isn't written");
    core.mark_written(0, true);
    assert!(core.can_forget());
}

#[test]
fn fin_is_owed_by_a_stream_that_ended_and_not_by_one_whose_session_did() {
    let fin = steps_after_which(|core| transmit(core).1);
    assert_eq!(fin, [Finish, Close, Fail, FailAndDiscard]);
    // Once the session is closing, a stream has no clean end, so no FIN is sent.
    for step in [Close, Nothing] {
        let mut core = core(2);
        Detach.take(&mut core);
        step.take(&mut core);
        assert!(!core.finish());
        assert_eq!(transmit(&mut core), (0, false));
    }
}

#[test]
fn what_was_accepted_is_sent_after_a_close_and_not_after_a_failure_or_the_end() {
    let sends = |step: &Step| {
        let mut core = core(2);
        accept(&mut core, 100);
        step.take(&mut core);
        transmit(&mut core).0 == 100
    };
    let sends: Vec<Step> = STEPS.into_iter().filter(sends).collect();
    assert_eq!(sends, [Nothing, Fin, Finish, ShutRead, Close, Detach, FailWrite]);
}

#[test]
fn little_data_goes_by_the_express_lane_unless_the_stream_waits_in_bulk() {
    let lanes = |core: &mut Core| [core.schedule(), core.schedule()];
    let mut little = core(2);
    accept(&mut little, EXPRESS_BYTES);
    assert_eq!(lanes(&mut little), [Some(Lane::Express), None]);
    // More data comes while it waits. It is queued in bulk, too, and stays in express.
    accept(&mut little, 1);
    assert_eq!(lanes(&mut little), [Some(Lane::Bulk), None]);
    let mut much = core(2);
    accept(&mut much, EXPRESS_BYTES + 1);
    assert_eq!(lanes(&mut much), [Some(Lane::Bulk), None]);
    // The express lane has sent a part meanwhile. The rest is little, but is queued in bulk
    // already.
    much.begin_transmit(Lane::Express);
    assert!(much.poll_transmit(Lane::Express, usize::MAX).is_some());
    accept(&mut much, 10);
    assert_eq!(lanes(&mut much), [None, None]);
    assert_eq!(lanes(&mut core(2)), [None, None], "nothing to send");
}

#[test]
fn transmit_sends_what_its_lane_allows() {
    let mut express = core(2);
    accept(&mut express, 100);
    assert!(express.poll_transmit(Lane::Express, 99).is_none(), "whole frames alone");
    assert_eq!(data_sent(&mut express, Lane::Express, 100), Some(100));
    let mut bulk = core(2);
    accept(&mut bulk, 100);
    assert!(bulk.poll_transmit(Lane::Bulk, 0).is_none());
    assert_eq!(data_sent(&mut bulk, Lane::Bulk, 1), Some(100));
}

//! The timer's decisions for one session, in virtual time: whether to send a NOP, whether the
//! session is dead, and whether a timeout has passed.
//!
//! A *look* is one call of [`Keepalive::poll`].
//!
//! Invariants: a decision depends only on the arguments and on earlier looks. The next look is
//! never later than the time at which the next action may become due.

use std::time::{Duration, Instant};

/// The state of a session, as the timer finds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimerInput {
    pub(crate) now: Instant,
    /// The delay of this look: the time from the planned moment to `now`.
    pub(crate) late: Duration,
    /// The time at which anything was last received, or at which the reader went on after a pause.
    pub(crate) received: Instant,
    /// The time at which stream data was last sent or received, or at which the no-data timeout was
    /// set.
    pub(crate) payload: Instant,
    /// The session's no-data timeout.
    pub(crate) no_data: Option<Duration>,
    /// Whether the reader thread waits for the application, for any reason.
    pub(crate) paused: bool,
    /// The time since which the reader has waited for budget.
    pub(crate) short: Option<Instant>,
    /// The time at which the close timeout passes. It is set when the session begins to close, when
    /// its writes fail, or when its input ends.
    pub(crate) deadline: Option<Instant>,
}

/// The action that the timer has to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimerAction {
    Nothing,
    /// Send a NOP.
    Ping,
    /// Cut the stream that holds most of the budget. The value is the stall timeout.
    Stalled(Duration),
    /// End the session, because nothing was received for this time.
    Silent(Duration),
    /// End the session, because its no-data timeout, this value, has passed.
    NoData(Duration),
    /// End the session, because its close timeout has passed.
    Overdue,
}

/// The timer's memory of one session.
#[derive(Debug)]
pub(crate) struct Keepalive {
    /// The keepalive's interval and timeout. `None` if keepalive is off.
    period: Option<(Duration, Duration)>,
    /// The stall timeout. `None` if it is off.
    stall: Option<Duration>,
    /// The time of the next NOP. `None` if no NOP will be sent: keepalive is off, or the time is
    /// past the end of the clock.
    ping_at: Option<Instant>,
    /// The time of the last cut. The next cut comes at least one stall timeout later.
    cut_at: Option<Instant>,
    /// A silence that a look has found: the time of the last reception, and the time of the
    /// judgement.
    suspected: Option<(Instant, Option<Instant>)>,
}

/// Delay between the look that finds a silence and the judgement that the peer is dead.
///
/// If the whole process was stopped, the timer may run before the reader has taken in the data that
/// came meanwhile. 50 ms are enough for the reader thread to run, even on a busy machine. They are
/// short compared with any timeout.
///
/// If the look itself is more than 50 ms late, the machine is very busy, or the process was stopped
/// for long. Then 50 ms may be too short, so the judgement follows one keepalive interval after the
/// look (or 50 ms, if the interval is shorter).
const SECOND_LOOK: Duration = Duration::from_millis(50);

impl Keepalive {
    pub(crate) fn new(
        period: Option<(Duration, Duration)>,
        stall: Option<Duration>,
        now: Instant,
    ) -> Self {
        let ping_at = period.and_then(|(interval, _)| now.checked_add(interval));
        Self { period, stall, ping_at, cut_at: None, suspected: None }
    }

    /// Returns the action that is due now, and the time of the next look. The time is `None` if no
    /// further look is needed.
    pub(crate) fn poll(&mut self, input: TimerInput) -> (TimerAction, Option<Instant>) {
        let TimerInput { now, late, received, payload, no_data, paused, short, deadline } = input;
        let mut next = deadline;
        let mut soonest = |at: Option<Instant>| next = [next, at].into_iter().flatten().min();

        if deadline.is_some_and(|deadline| deadline <= now) {
            return (TimerAction::Overdue, None);
        }
        if let Some(timeout) = no_data {
            match payload.checked_add(timeout) {
                Some(at) if at <= now => return (TimerAction::NoData(timeout), None),
                at => soonest(at),
            }
        }
        let mut action = TimerAction::Nothing;
        if let Some((interval, timeout)) = self.period {
            // While the reader is paused, the session can't know whether its peer is alive.
            if !paused {
                match received.checked_add(timeout) {
                    Some(at) if at <= now => {
                        // The judgement's time is set once for each silence. So a dead peer is
                        // found even if every look is late.
                        let judged = match self.suspected {
                            Some((since, judged)) if since == received => judged,
                            _ => now.checked_add(if late > SECOND_LOOK {
                                interval.max(SECOND_LOOK)
                            } else {
                                SECOND_LOOK
                            }),
                        };
                        if judged.is_some_and(|judged| judged <= now) {
                            return (TimerAction::Silent(timeout), None);
                        }
                        self.suspected = Some((received, judged));
                        soonest(judged);
                    }
                    at => soonest(at),
                }
            }
            if self.ping_at.is_some_and(|at| at <= now) {
                self.ping_at = now.checked_add(interval);
                action = TimerAction::Ping;
            }
            soonest(self.ping_at);
        }
        if let (Some(stall), Some(since)) = (self.stall, short) {
            // One cut may not free enough of the budget. The next cut follows one stall timeout
            // later.
            let since = self.cut_at.map_or(since, |cut| cut.max(since));
            match since.checked_add(stall) {
                Some(at) if at <= now => {
                    self.cut_at = Some(now);
                    soonest(now.checked_add(stall));
                    // If a NOP is due too, it is sent at the next look, which follows at once.
                    if action == TimerAction::Ping {
                        self.ping_at = Some(now);
                        soonest(Some(now));
                    }
                    action = TimerAction::Stalled(stall);
                }
                at => soonest(at),
            }
        }
        (action, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn input(start: Instant, seconds: u32) -> TimerInput {
        let now = start + SECOND * seconds;
        let late = Duration::ZERO;
        let received = start;
        let payload = start;
        TimerInput {
            now,
            late,
            received,
            payload,
            no_data: None,
            paused: false,
            short: None,
            deadline: None,
        }
    }

    #[test]
    fn pings_every_interval_and_dies_after_the_timeout() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some((SECOND * 10, SECOND * 30)), None, start);
        assert_eq!(
            keepalive.poll(input(start, 0)),
            (TimerAction::Nothing, Some(start + SECOND * 10))
        );
        assert_eq!(
            keepalive.poll(input(start, 10)),
            (TimerAction::Ping, Some(start + SECOND * 20))
        );
        assert_eq!(
            keepalive.poll(input(start, 11)),
            (TimerAction::Nothing, Some(start + SECOND * 20))
        );
        assert_eq!(
            keepalive.poll(input(start, 20)),
            (TimerAction::Ping, Some(start + SECOND * 30))
        );
        let judged = start + SECOND * 30 + SECOND_LOOK;
        assert_eq!(keepalive.poll(input(start, 30)), (TimerAction::Ping, Some(judged)));
        let second = TimerInput { now: judged, ..input(start, 30) };
        assert_eq!(keepalive.poll(second), (TimerAction::Silent(SECOND * 30), None));
        let heard = TimerInput { received: start + SECOND * 29, ..input(start, 40) };
        assert_eq!(keepalive.poll(heard).0, TimerAction::Ping);
    }

    /// Looks at the session until the session is judged silent. Each look comes late by `late`.
    /// Returns the time of the judgement.
    fn found_out(keepalive: &mut Keepalive, start: Instant, first: u32, late: Duration) -> Instant {
        let mut input = TimerInput { late, ..input(start, first) };
        loop {
            match keepalive.poll(input) {
                (TimerAction::Silent(_), _) => return input.now,
                (_, next) => input.now = next.expect("a next look") + late,
            }
        }
    }

    #[test]
    fn a_timer_that_overslept_gives_one_more_interval() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some((SECOND, SECOND * 3)), None, start);
        let overslept = TimerInput { late: SECOND * 4, ..input(start, 5) };
        assert_eq!(keepalive.poll(overslept).0, TimerAction::Ping);
        // The reader has run since, and has received data.
        let heard = TimerInput { received: start + SECOND * 5, ..input(start, 6) };
        assert_eq!(keepalive.poll(heard).0, TimerAction::Ping);
        // The next silence gets its own judgement.
        let overslept =
            TimerInput { late: SECOND * 4, received: heard.received, ..input(start, 20) };
        assert_eq!(keepalive.poll(overslept).0, TimerAction::Ping);
    }

    #[test]
    fn a_silence_is_looked_at_twice_however_short_the_oversleeping_was() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some((SECOND * 2, SECOND * 3)), None, start);
        // The look is only 1 ms late. But the process may have been stopped just before the look,
        // so that the reader couldn't read data that had come.
        let woken = TimerInput { late: SECOND / 1000, ..input(start, 3) };
        assert_eq!(
            keepalive.poll(woken),
            (TimerAction::Ping, Some(start + SECOND * 3 + SECOND_LOOK))
        );
        let heard = TimerInput { received: woken.now, now: woken.now + SECOND_LOOK, ..woken };
        assert_eq!(keepalive.poll(heard).0, TimerAction::Nothing);
    }

    #[test]
    fn a_dead_peer_is_found_out_one_interval_later_though_the_timer_oversleeps_each_time() {
        let start = Instant::now();
        let new = || Keepalive::new(Some((SECOND, SECOND * 3)), None, start);
        assert_eq!(
            found_out(&mut new(), start, 3, Duration::ZERO),
            start + SECOND * 3 + SECOND_LOOK
        );
        // The first look is four seconds late. The judgement is one interval and four seconds
        // later.
        assert_eq!(found_out(&mut new(), start, 7, SECOND * 4), start + SECOND * (7 + 1 + 4));
    }

    #[test]
    fn a_paused_reader_stops_the_keepalive_but_not_the_no_data_clock() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some((SECOND * 10, SECOND * 30)), None, start);
        let paused = TimerInput { paused: true, ..input(start, 300) };
        assert_eq!(keepalive.poll(paused).0, TimerAction::Ping);
        let no_data = TimerInput { no_data: Some(SECOND * 40), ..paused };
        assert_eq!(keepalive.poll(no_data).0, TimerAction::NoData(SECOND * 40));
    }

    #[test]
    fn a_stall_is_cut_once_per_timeout() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(None, Some(SECOND * 5), start);
        let paused =
            |seconds| TimerInput { paused: true, short: Some(start), ..input(start, seconds) };
        assert_eq!(keepalive.poll(paused(4)), (TimerAction::Nothing, Some(start + SECOND * 5)));
        assert_eq!(
            keepalive.poll(paused(5)),
            (TimerAction::Stalled(SECOND * 5), Some(start + SECOND * 10))
        );
        assert_eq!(keepalive.poll(paused(6)).0, TimerAction::Nothing);
        assert_eq!(keepalive.poll(paused(10)).0, TimerAction::Stalled(SECOND * 5));
        assert_eq!(keepalive.poll(input(start, 99)), (TimerAction::Nothing, None));
        // No stream is cut while the reader waits for something else than budget.
        let for_accept = TimerInput { paused: true, ..input(start, 99) };
        assert_eq!(keepalive.poll(for_accept), (TimerAction::Nothing, None));
    }

    #[test]
    fn a_ping_and_a_stall_at_once_both_happen() {
        let start = Instant::now();
        let mut keepalive =
            Keepalive::new(Some((SECOND * 5, SECOND * 30)), Some(SECOND * 5), start);
        let paused = TimerInput { paused: true, short: Some(start), ..input(start, 5) };
        assert_eq!(
            keepalive.poll(paused),
            (TimerAction::Stalled(SECOND * 5), Some(start + SECOND * 5))
        );
        assert_eq!(keepalive.poll(paused).0, TimerAction::Ping);
    }

    #[test]
    fn the_close_deadline_comes_before_everything() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(Some((SECOND, SECOND)), Some(SECOND), start);
        let all = TimerInput {
            no_data: Some(SECOND),
            deadline: Some(start + SECOND * 2),
            ..input(start, 2)
        };
        assert_eq!(keepalive.poll(all).0, TimerAction::Overdue);
    }

    #[test]
    fn the_no_data_timeout_is_due_at_its_moment_and_looked_at_by_then() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(None, None, start);
        let input = |seconds| TimerInput { no_data: Some(SECOND * 40), ..input(start, seconds) };
        assert_eq!(keepalive.poll(input(39)), (TimerAction::Nothing, Some(start + SECOND * 40)));
        assert_eq!(keepalive.poll(input(40)), (TimerAction::NoData(SECOND * 40), None));
        let crossed = TimerInput { payload: start + SECOND * 30, ..input(40) };
        assert_eq!(keepalive.poll(crossed), (TimerAction::Nothing, Some(start + SECOND * 70)));
        // A nearer close deadline sets the next look.
        let closing = TimerInput { deadline: Some(start + SECOND * 50), ..crossed };
        assert_eq!(keepalive.poll(closing), (TimerAction::Nothing, Some(start + SECOND * 50)));
    }
}

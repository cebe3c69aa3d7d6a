//! Delivers events to the backend in batches: in order, again after a failure, and with the number of those that were lost.
//!
//! Its position is a number in the event log, so what waits for the backend needs no memory of its own. An event is delivered
//! at least once, unless the log overruns the position: then it is lost, and counted in the next batch.
//!
//! ```text
//! idle --an event--> collecting --full, or hook_batch_wait over--> sending --2xx--> idle, or collecting
//!                                                                   |  ^
//!                                                                   v  | the wait is over; longer each time
//!                                                                  waiting
//! ```

use std::time::Duration;

use log::{info, warn};

use super::{CallId, HttpCall, HttpResult, MAX_ANSWER, wait_after};
use crate::base::distribution::Distribution;
use crate::base::event_kind::EventKinds;
use crate::base::time::Time;
use crate::config::Config;
use crate::events::log::{Entry, EventLog};

/// Most bytes of the events of one batch, unless it has one event only.
const MAX_BATCH_BYTES: usize = 256 << 10;
/// Longest wait after a failure when the server stops: it stops soon, whether or not the backend takes the last events.
const MAX_LAST_WAIT: Duration = Duration::from_millis(250);

/// The delivery of events to one backend.
#[derive(Debug)]
pub(crate) struct Batches {
    kinds: EventKinds,
    max_events: usize,
    wait: Duration,
    timeout: Duration,
    /// Number of the first event that the backend has not acknowledged.
    next: u64,
    /// When the oldest event that is not acknowledged was noted.
    since: Option<Time>,
    state: State,
    /// Events that were lost and are not reported yet.
    lost: u64,
    /// Number of the next batch, from 1.
    batch: u64,
    failures: u32,
    /// No event follows.
    is_last: bool,
    stats: BatchStats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// The batch with events up to `last` is being sent since `at`. It reports `lost`. Meanwhile, `overrun` of its events
    /// have left the log.
    Sending {
        last: u64,
        events: u64,
        lost: u64,
        overrun: u64,
        at: Time,
    },
    /// The last try has failed.
    Waiting {
        until: Time,
    },
}

/// What became of the events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchStats {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) batches: u64,
    pub(crate) retries: u64,
    pub(crate) latency: Distribution,
}

impl Batches {
    pub(crate) fn new(config: &Config) -> Batches {
        Batches {
            kinds: config.hook_events,
            max_events: config.hook_batch_events as usize,
            wait: config.hook_batch_wait,
            timeout: config.hook_timeout,
            next: 1,
            since: None,
            state: State::Ready,
            lost: 0,
            batch: 1,
            failures: 0,
            is_last: false,
            stats: BatchStats { delivered: 0, lost: 0, batches: 0, retries: 0, latency: Distribution::of_durations() },
        }
    }

    /// Notes that events were appended to the log.
    pub(crate) fn note_events(&mut self, now: Time) {
        self.since.get_or_insert(now);
    }

    /// Notes that an event has left the log.
    pub(crate) fn note_overrun(&mut self, entry: &Entry) {
        if entry.seq < self.next {
            return;
        }
        self.next = entry.seq + 1;
        if !self.kinds.contains(entry.kind) {
            return;
        }
        match &mut self.state {
            // It may have arrived.
            State::Sending { last, overrun, .. } if entry.seq <= *last => *overrun += 1,
            _ => self.lose(1),
        }
    }

    fn lose(&mut self, count: u64) {
        if self.lost == 0 && count > 0 {
            warn!("the hook is too slow or does not answer: events are lost, see lobbyd_hook_events_total");
        }
        self.lost += count;
        self.stats.lost += count;
    }

    /// No event follows: from now on a batch does not wait to be full, a try that waits after a failure begins at once, and
    /// further ones wait for 250 ms at most.
    pub(crate) fn note_last(&mut self) {
        self.is_last = true;
        if matches!(self.state, State::Waiting { .. }) {
            self.state = State::Ready;
        }
    }

    /// Returns the call to begin, if one is due.
    pub(crate) fn poll_call(&mut self, now: Time, log: &EventLog) -> Option<HttpCall> {
        match self.state {
            State::Sending { .. } => return None,
            State::Waiting { until } if now < until => return None,
            State::Waiting { .. } | State::Ready => {}
        }
        let since = self.since?;
        let (mut texts, mut bytes, mut last, mut is_full) = (Vec::new(), 0, self.next - 1, false);
        for entry in log.from(self.next) {
            let is_wanted = self.kinds.contains(entry.kind);
            if is_wanted
                && !texts.is_empty()
                && (texts.len() >= self.max_events || bytes + entry.text.len() > MAX_BATCH_BYTES)
            {
                is_full = true;
                break;
            }
            last = entry.seq;
            if is_wanted {
                bytes += entry.text.len() + 1;
                texts.push(&*entry.text);
            }
        }
        if texts.is_empty() && self.lost == 0 {
            (self.next, self.since) = (last + 1, None);
            return None;
        }
        is_full |= texts.len() >= self.max_events;
        // After a failure the events have waited long enough.
        if !is_full && !self.is_last && self.failures == 0 && now < since + self.wait {
            return None;
        }
        let body = self.body(log, &texts, bytes);
        self.state = State::Sending { last, events: texts.len() as u64, lost: self.lost, overrun: 0, at: now };
        self.stats.retries += u64::from(self.failures > 0);
        Some(HttpCall { of: CallId::Batch, body: Some(body), timeout: self.timeout, max_answer: MAX_ANSWER })
    }

    fn body(&self, log: &EventLog, texts: &[&str], bytes: usize) -> Vec<u8> {
        let mut body = format!("{{\"type\":\"events\",\"boot\":\"{}\"", log.boot());
        body.reserve(bytes + 128);
        if let Some(node) = log.node() {
            body.push_str(",\"node\":");
            body.push_str(&serde_json::to_string(node).expect("a string always serializes"));
        }
        body.push_str(&format!(",\"batch\":{},\"lost\":{},\"events\":[", self.batch, self.lost));
        body.push_str(&texts.join(","));
        body.push_str("]}");
        body.into_bytes()
    }

    /// Handles the result of the call.
    pub(crate) fn handle_result(&mut self, now: Time, result: &HttpResult) {
        let State::Sending { last, events, lost, overrun, at } = self.state else { return };
        self.stats.latency.record((now - at).as_micros() as u64);
        let fault = match result {
            Ok((200..=299, _)) => {
                if self.failures > 0 {
                    info!("the hook takes events again");
                }
                self.state = State::Ready;
                self.next = self.next.max(last + 1);
                self.lost -= lost;
                self.failures = 0;
                self.batch += 1;
                self.stats.batches += 1;
                self.stats.delivered += events;
                // What has come meanwhile has waited for the call.
                self.since = Some(at);
                return;
            }
            Ok((status, _)) => format!("its status is {status}"),
            Err(fault) => fault.to_string(),
        };
        if self.failures == 0 {
            warn!("the hook does not take events: {fault}; they are sent again with growing waits");
        }
        self.failures = self.failures.saturating_add(1);
        let longest = if self.is_last { MAX_LAST_WAIT } else { Duration::MAX };
        self.state = State::Waiting { until: now + wait_after(self.failures).min(longest) };
        self.lose(overrun);
    }

    /// Returns when to call [`poll_call`](Self::poll_call) next, if nothing happens until then.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match self.state {
            State::Sending { .. } => None,
            State::Waiting { until } => Some(until),
            State::Ready => self.since.map(|since| since + self.wait),
        }
    }

    /// Whether the backend has acknowledged all events that it wants.
    pub(crate) fn is_complete(&self, log: &EventLog) -> bool {
        self.state == State::Ready
            && self.lost == 0
            && !log.from(self.next).any(|entry| self.kinds.contains(entry.kind))
    }

    /// Number of events of the log that the backend has not acknowledged.
    pub(crate) fn waiting(&self, log: &EventLog) -> u64 {
        (log.last() + 1).saturating_sub(self.next.max(log.oldest()))
    }

    pub(crate) fn stats(&self) -> &BatchStats {
        &self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::event_kind::EventKind;
    use crate::events::log::tests::event;
    use crate::hook::HttpFault;

    const MS: Duration = Duration::from_millis(1);

    /// A log, its delivery, and the time.
    struct Rig {
        log: EventLog,
        batches: Batches,
        now: Time,
    }

    impl Rig {
        fn new(kept: usize, max_events: u32, kinds: &str) -> Rig {
            let config = Config {
                hook_batch_events: max_events,
                hook_events: kinds.parse().expect("kinds"),
                ..Config::default()
            };
            Rig { log: EventLog::new(1, None, kept), batches: Batches::new(&config), now: Time::ZERO }
        }

        fn push(&mut self, kind: EventKind, count: usize) {
            for _ in 0..count {
                if let Some(entry) = self.log.push(&event(kind, Some("a"))) {
                    self.batches.note_overrun(&entry);
                }
                self.batches.note_events(self.now);
            }
        }

        /// The batch that is sent now: its number, its losses, and the numbers of its events.
        fn send(&mut self) -> Option<(u64, u64, Vec<u64>)> {
            let call = self.batches.poll_call(self.now, &self.log)?;
            let body: serde_json::Value = serde_json::from_slice(&call.body.expect("a POST")).expect("JSON");
            let number = |value: &serde_json::Value| value.as_u64().expect("a number");
            let events = body["events"].as_array().expect("a list").iter().map(|event| number(&event["seq"])).collect();
            assert_eq!((&body["type"], &body["boot"]), (&"events".into(), &"0000000000000001".into()));
            Some((number(&body["batch"]), number(&body["lost"]), events))
        }

        fn wait(&mut self, span: Duration) -> &mut Rig {
            self.now = self.now + span;
            self
        }

        fn answer(&mut self, status: u16) {
            self.batches.handle_result(self.now, &Ok((status, Vec::new())));
        }
    }

    #[test]
    fn a_batch_is_sent_when_it_is_full_or_its_first_event_has_waited() {
        let mut rig = Rig::new(100, 3, "all");
        assert_eq!((rig.send(), rig.batches.poll_timeout()), (None, None));
        rig.push(EventKind::Joined, 1);
        rig.wait(60 * MS).push(EventKind::Joined, 1);
        assert_eq!((rig.send(), rig.batches.poll_timeout()), (None, Some(Time::ZERO + 100 * MS)));
        assert_eq!(rig.wait(40 * MS).send(), Some((1, 0, vec![1, 2])));
        rig.push(EventKind::Joined, 4);
        assert_eq!((rig.send(), rig.batches.poll_timeout()), (None, None), "one batch at a time");
        rig.answer(204);
        assert_eq!(rig.send(), Some((2, 0, vec![3, 4, 5])));
        rig.answer(200);
        assert_eq!(rig.send(), None);
        assert_eq!(rig.wait(100 * MS).send(), Some((3, 0, vec![6])));
        rig.answer(200);
        assert!(rig.batches.is_complete(&rig.log));
        assert_eq!((rig.wait(100 * MS).send(), rig.batches.poll_timeout()), (None, None));
        assert_eq!((rig.batches.stats().delivered, rig.batches.stats().batches), (6, 3));
    }

    #[test]
    fn a_batch_that_fails_is_sent_again_with_growing_waits_and_keeps_the_order() {
        let mut rig = Rig::new(100, 2, "all");
        rig.push(EventKind::Joined, 3);
        let mut waits = Vec::new();
        for status in [500, 302, 404, 503, 500, 500, 500, 500, 500] {
            assert_eq!(rig.send(), Some((1, 0, vec![1, 2])), "{status}");
            rig.answer(status);
            let until = rig.batches.poll_timeout().expect("a wait");
            waits.push((until - rig.now).as_millis());
            assert_eq!(rig.send(), None);
            rig.now = until;
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(rig.send(), Some((1, 0, vec![1, 2])));
        rig.batches.handle_result(rig.now, &Err(HttpFault::Timeout));
        rig.wait(30_000 * MS).send().expect("again");
        rig.answer(200);
        assert_eq!(rig.wait(100 * MS).send(), Some((2, 0, vec![3])));
        assert_eq!((rig.batches.stats().retries, rig.batches.stats().lost), (10, 0));
    }

    #[test]
    fn events_that_leave_the_log_are_lost_and_counted_in_the_next_batch() {
        let mut rig = Rig::new(4, 2, "all");
        rig.push(EventKind::Joined, 9);
        assert_eq!((rig.batches.stats().lost, rig.batches.waiting(&rig.log)), (5, 4));
        assert_eq!(rig.send(), Some((1, 5, vec![6, 7])));
        rig.answer(500);
        rig.push(EventKind::Joined, 1);
        assert_eq!(rig.wait(250 * MS).send(), Some((1, 6, vec![7, 8])), "the oldest gives way while the batch waits");
        // While it is sent, both of its events and one more leave the log.
        rig.push(EventKind::Joined, 3);
        rig.answer(200);
        assert_eq!(rig.batches.stats().lost, 7, "7 and 8 have arrived, 9 is lost");
        assert_eq!(rig.send(), Some((2, 1, vec![10, 11])));
        rig.push(EventKind::Joined, 2);
        rig.answer(500);
        assert_eq!(rig.batches.stats().lost, 9, "10 and 11 have not arrived");
        assert_eq!(rig.wait(500 * MS).send(), Some((2, 3, vec![12, 13])));
    }

    #[test]
    fn kinds_that_the_backend_does_not_want_are_not_sent_and_not_lost() {
        let mut rig = Rig::new(3, 10, "left");
        rig.push(EventKind::Joined, 7);
        assert_eq!((rig.wait(100 * MS).send(), rig.batches.poll_timeout()), (None, None));
        rig.push(EventKind::Left, 1);
        rig.push(EventKind::Joined, 1);
        assert_eq!(rig.wait(100 * MS).send(), Some((1, 0, vec![8])));
        rig.answer(200);
        rig.push(EventKind::Left, 4);
        assert_eq!(rig.wait(100 * MS).send(), Some((2, 1, vec![11, 12, 13])));
    }

    #[test]
    fn the_last_events_do_not_wait() {
        let mut rig = Rig::new(9, 10, "all");
        rig.push(EventKind::ServerStopped, 1);
        rig.batches.note_last();
        assert!(rig.send().is_some());
        assert!(!rig.batches.is_complete(&rig.log));
        rig.answer(200);
        assert!(rig.batches.is_complete(&rig.log));
    }

    #[test]
    fn the_last_events_do_not_wait_for_the_end_of_a_long_wait_after_failures() {
        let mut rig = Rig::new(9, 10, "all");
        rig.push(EventKind::Joined, 1);
        for _ in 0..9 {
            rig.wait(30_000 * MS).send().expect("a try");
            rig.answer(500);
        }
        assert_eq!(rig.wait(MS).send(), None, "the next try is 30 s later");
        rig.push(EventKind::ServerStopped, 1);
        rig.batches.note_last();
        for _ in 0..3 {
            assert_eq!(rig.send(), Some((1, 0, vec![1, 2])));
            rig.answer(500);
            assert_eq!((rig.send(), rig.batches.poll_timeout()), (None, Some(rig.now + 250 * MS)));
            rig.wait(250 * MS);
        }
        rig.send().expect("a try");
        rig.answer(200);
        assert!(rig.batches.is_complete(&rig.log));
    }
}

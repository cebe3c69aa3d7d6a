//! What was counted and measured, by one thread or by all.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// Longest duration that is recorded as it is, in microseconds: an hour.
const MAX_MICROS: u64 = 3_600_000_000;
/// Most different texts of the server under which a thread counts events. All further ones are counted as [`OTHER`].
const MAX_TEXTS: usize = 64;
/// Bytes of a code, and of a reason or an error, that are kept.
pub(super) const MAX_CODE: usize = 64;
pub(super) const MAX_REASON: usize = 256;
const OTHER: &str = "other";

#[derive(Debug)]
pub(super) struct Tally {
    pub(super) count: Counts,
    /// Times until a `welcome`, from the begin of a connection.
    pub(super) connect: Histogram<u64>,
    /// Times until an answer, from when the message was due.
    pub(super) ack: Histogram<u64>,
    /// Times until a message was received by another member, from when it was due.
    pub(super) delivery: Histogram<u64>,
    /// How late the generator was with messages that nothing but itself held back.
    pub(super) lateness: Histogram<u64>,
    /// Errors in answers, by code.
    pub(super) refused: BTreeMap<String, u64>,
    /// Ends of connections that the generator did not ask for, by code and reason.
    pub(super) closed: BTreeMap<(u16, String), u64>,
    /// Requests for a WebSocket or an event stream that were refused, by status.
    pub(super) statuses: BTreeMap<u16, u64>,
    /// POSTs that were refused, by status.
    pub(super) post_statuses: BTreeMap<u16, u64>,
    /// Connections that failed without an answer, by error.
    pub(super) failed: BTreeMap<String, u64>,
    /// Members whose token was refused when they connected for the first time.
    pub(super) refused_tokens: Vec<usize>,
    /// The largest share of its time that a thread was busy in while members talked, from 0 to 1.
    pub(super) busiest: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) joined: u64,
    /// Members that were not welcomed, or whose connection ended for good.
    pub(super) gone: u64,
    /// Connections that came back to their seat, and those that joined again.
    pub(super) resumed: u64,
    pub(super) rejoined: u64,
    pub(super) due: u64,
    pub(super) sent: u64,
    pub(super) acked: u64,
    /// POSTs that were accepted.
    pub(super) posts: u64,
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) out_of_order: u64,
    /// Messages of which the server has said that a member has missed them.
    pub(super) unrecovered: u64,
    /// Requests without an answer.
    pub(super) unanswered: u64,
    /// Messages of this run that no member has sent so.
    pub(super) unknown: u64,
}

/// What happened since the last time that progress was shown.
#[derive(Debug)]
pub(super) struct Interval {
    pub(super) sent: u64,
    pub(super) delivered: u64,
    pub(super) errors: u64,
    pub(super) open: u64,
    pub(super) delivery: Histogram<u64>,
}

/// Returns a histogram of durations in microseconds with so many significant digits.
fn durations(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_MICROS, digits).expect("the bounds and digits are valid")
}

/// Counts an event under the first bytes of a text that the server has chosen.
pub(super) fn count_text(counts: &mut BTreeMap<String, u64>, text: &str, max_bytes: usize) {
    let text = shortened(text, max_bytes);
    let is_room = counts.len() < MAX_TEXTS || counts.contains_key(text);
    *counts.entry(if is_room { text } else { OTHER }.to_owned()).or_default() += 1;
}

fn shortened(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

pub(super) fn record(histogram: &mut Histogram<u64>, micros: u64) {
    histogram.saturating_record(micros.max(1));
}

impl Tally {
    pub(super) fn new() -> Tally {
        let [connect, ack, delivery, lateness] = [0; 4].map(|_| durations(3));
        Tally {
            count: Counts::default(),
            connect,
            ack,
            delivery,
            lateness,
            refused: BTreeMap::new(),
            closed: BTreeMap::new(),
            statuses: BTreeMap::new(),
            post_statuses: BTreeMap::new(),
            failed: BTreeMap::new(),
            refused_tokens: Vec::new(),
            busiest: 0.0,
        }
    }

    /// Returns the number of events that a run without faults does not have.
    pub(super) fn errors(&self) -> u64 {
        let count = &self.count;
        let refused: u64 = self.refused.values().sum();
        let statuses = self.statuses.values().chain(self.post_statuses.values());
        let ended: u64 = self.closed.values().chain(statuses).chain(self.failed.values()).sum();
        refused + ended + count.doubled + count.out_of_order + count.unknown
    }

    /// Counts a connection that the server has closed. The code of [`OTHER`] is 0.
    pub(super) fn count_closed(&mut self, code: u16, reason: &str) {
        let key = (code, shortened(reason, MAX_REASON).to_owned());
        let is_room = self.closed.len() < MAX_TEXTS || self.closed.contains_key(&key);
        *self.closed.entry(if is_room { key } else { (0, OTHER.to_owned()) }).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Tally) {
        self.count.add(&other.count);
        for (own, other) in [
            (&mut self.connect, &other.connect),
            (&mut self.ack, &other.ack),
            (&mut self.delivery, &other.delivery),
            (&mut self.lateness, &other.lateness),
        ] {
            own.add(other).expect("all histograms have the same bounds");
        }
        sum(&mut self.refused, &other.refused);
        sum(&mut self.closed, &other.closed);
        sum(&mut self.statuses, &other.statuses);
        sum(&mut self.post_statuses, &other.post_statuses);
        sum(&mut self.failed, &other.failed);
        self.refused_tokens.extend(&other.refused_tokens);
        self.busiest = self.busiest.max(other.busiest);
    }
}

fn sum<K: Clone + Ord>(own: &mut BTreeMap<K, u64>, other: &BTreeMap<K, u64>) {
    for (key, count) in other {
        *own.entry(key.clone()).or_default() += count;
    }
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        let Counts {
            joined,
            gone,
            resumed,
            rejoined,
            due,
            sent,
            acked,
            posts,
            delivered,
            lost,
            doubled,
            out_of_order,
            unrecovered,
            unanswered,
            unknown,
        } = other;
        for (own, other) in [
            (&mut self.joined, joined),
            (&mut self.gone, gone),
            (&mut self.resumed, resumed),
            (&mut self.rejoined, rejoined),
            (&mut self.due, due),
            (&mut self.sent, sent),
            (&mut self.acked, acked),
            (&mut self.posts, posts),
            (&mut self.delivered, delivered),
            (&mut self.lost, lost),
            (&mut self.doubled, doubled),
            (&mut self.out_of_order, out_of_order),
            (&mut self.unrecovered, unrecovered),
            (&mut self.unanswered, unanswered),
            (&mut self.unknown, unknown),
        ] {
            *own += other;
        }
    }
}

impl Interval {
    pub(super) fn new() -> Interval {
        Interval { sent: 0, delivered: 0, errors: 0, open: 0, delivery: durations(2) }
    }

    pub(super) fn add(&mut self, other: &Interval) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.errors += other.errors;
        self.open += other.open;
        self.delivery.add(&other.delivery).expect("all histograms have the same bounds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_server_are_bounded() {
        let mut tally = Tally::new();
        for number in 0..200 {
            let text = format!("{number}{}é", "x".repeat(1000));
            count_text(&mut tally.refused, &text, MAX_CODE);
            tally.count_closed(4000 + number, &text);
        }
        let long = format!("0{}", "x".repeat(63));
        count_text(&mut tally.refused, &format!("{long}y"), MAX_CODE);
        assert_eq!((tally.refused.len(), tally.refused[OTHER], tally.refused[&long]), (65, 136, 2));
        assert_eq!((tally.closed.len(), tally.closed[&(0, OTHER.to_owned())]), (65, 136));
        assert_eq!(shortened(&"é".repeat(40), 64).len(), 64);
        assert_eq!(shortened(&format!("x{}", "é".repeat(40)), 64).len(), 63);
    }
}

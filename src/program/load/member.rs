//! One member: its connection, its session, and its requests without an answer. Knows neither the schedule nor the other
//! members.
//!
//!     Idle ──connect──► Connecting ──welcome──► Joined ──leave──► Leaving
//!      ▲                     └─────────────────────┴─► ended: comes back, or Gone

use std::collections::BTreeMap;
use std::io;

use mio::Registry;

use super::books::{Books, Sent};
use super::ended::{Ended, Goodbye};
use super::link::{Item, Link};
use super::message::{Said, broadcast};
use super::plan::{MAX_UNANSWERED, Plan};
use super::position::Position;
use super::route::Route;
use super::socket::Part;

/// Bytes that one read takes at most.
pub(super) const READ_BYTES: usize = 64 << 10;

/// Most bytes that may wait before a member stops sending. The unanswered messages of an honest server have at most 16 MiB; one that
/// acknowledges what it has not read could make them grow without a bound.
const MAX_UNSENT: usize = 32 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It connects when its time comes.
    Idle,
    /// `welcome` has not come.
    Connecting,
    Joined,
    /// It has said leave.
    Leaving,
    /// It does not come back.
    Gone,
}

#[derive(Debug)]
pub(super) struct Member {
    /// Number among all members.
    pub(super) number: usize,
    pub(super) state: State,
    link: Option<Link>,
    /// When the connection was begun.
    pub(super) began: u64,
    /// Connections that have ended without an answer that says what to do. Each makes the member try the next server: a node
    /// of a cluster may be gone, and a session comes back to any node.
    pub(super) detours: usize,
    /// Attempts since the last `welcome`.
    pub(super) attempts: u32,
    pub(super) was_joined: bool,
    /// Whether it was a member until the end of the run.
    pub(super) has_stayed: bool,
    pub(super) position: Option<Position>,
    /// Highest `seq` of a message that came as it was sent.
    pub(super) last_seq: Option<u64>,
    next_ref: u64,
    /// By `ref`.
    pub(super) unanswered: BTreeMap<u64, Said>,
    pub(super) sent: Sent,
    pub(super) books: Books,
    pub(super) schedule: Schedule,
    /// Whether a message is due and cannot be sent.
    pub(super) is_held: bool,
    /// When it may send again after a refusal.
    pub(super) paused_until: u64,
    /// What the server has said before it closed the connection: whether to come back, and when.
    pub(super) goodbye: Option<Goodbye>,
}

/// When the messages of a member are due, in microseconds. It does not depend on what the server does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) first: f64,
    pub(super) period: f64,
}

impl Schedule {
    /// Returns when the message with this number is due.
    pub(super) fn due(self, number: u64) -> u64 {
        // Multiplied and not added up, so that nothing drifts.
        (self.first + number as f64 * self.period) as u64
    }

    /// Returns the number of messages that are due before `end`.
    pub(super) fn count_before(self, end: u64) -> u64 {
        let estimate = ((end as f64 - self.first) / self.period).max(0.0) as u64;
        // Rounding may move it by one.
        (estimate.saturating_sub(1)..).find(|&number| self.due(number) >= end).unwrap_or(estimate)
    }
}

impl Member {
    pub(super) fn new(number: usize, lobby_members: usize) -> Member {
        Member {
            number,
            state: State::Idle,
            link: None,
            began: 0,
            detours: 0,
            attempts: 0,
            was_joined: false,
            has_stayed: false,
            position: None,
            last_seq: None,
            next_ref: 1,
            unanswered: BTreeMap::new(),
            sent: Sent::default(),
            books: Books::new(lobby_members),
            schedule: Schedule { first: 0.0, period: 1.0 },
            is_held: false,
            paused_until: 0,
            goodbye: None,
        }
    }

    /// Begins to connect. `at` is the index of the member, under which its sockets are registered.
    pub(super) fn connect(&mut self, now: u64, at: usize, plan: &Plan, registry: &Registry) -> io::Result<()> {
        self.disconnect();
        self.began = now;
        self.attempts += 1;
        self.goodbye = None;
        self.state = State::Connecting;
        let route = Route { number: self.number, at, detours: self.detours };
        self.link = Some(Link::open(route, self.position.as_ref(), plan, registry)?);
        Ok(())
    }

    /// Whether a message may be sent as soon as the server allows it. A session has no position before its first list, and
    /// sends no numbered request: a late attempt without a position would make the server forget which ones it has executed.
    pub(super) fn may_send(&self) -> bool {
        let has_list = self.position.as_ref().is_none_or(|position| position.is_known);
        let has_room = self.link.as_ref().is_none_or(|link| link.unsent() <= MAX_UNSENT);
        self.state == State::Joined && has_list && has_room && self.unanswered.len() < MAX_UNANSWERED
    }

    /// Whether a message could be sent now.
    pub(super) fn can_send(&self, now: u64) -> bool {
        self.may_send() && self.paused_until <= now
    }

    /// Returns when the next message is due.
    pub(super) fn due(&self) -> u64 {
        self.schedule.due(self.sent.count)
    }

    /// Sends the message that is due. It is written with the next [`flush`](Self::flush).
    pub(super) fn say(&mut self, plan: &Plan, due: u64) {
        let said = Said { run: plan.run, member: self.number, number: self.sent.count, due };
        let reference = self.next_ref;
        self.next_ref += 1;
        self.sent.count += 1;
        self.unanswered.insert(reference, said);
        self.push(broadcast(reference, said, plan.bytes));
    }

    /// Sends the requests again that have no answer, in their order and with their numbers.
    pub(super) fn say_again(&mut self, plan: &Plan) {
        let texts: Vec<String> =
            self.unanswered.iter().map(|(&reference, &said)| broadcast(reference, said, plan.bytes)).collect();
        texts.into_iter().for_each(|text| self.push(text));
    }

    pub(super) fn push(&mut self, text: String) {
        if let Some(link) = &mut self.link {
            link.push(text);
        }
    }

    /// Answers a ping of the server.
    pub(super) fn answer(&mut self, text: String) {
        if let Some(link) = &mut self.link {
            link.answer(text);
        }
    }

    pub(super) fn handle_writable(&mut self, part: Part) -> io::Result<()> {
        self.link.as_mut().map_or(Ok(()), |link| link.handle_writable(part))
    }

    /// Writes as much as the sockets take.
    pub(super) fn flush(&mut self, plan: &Plan, registry: &Registry) -> io::Result<()> {
        self.link.as_mut().map_or(Ok(()), |link| link.flush(plan, registry))
    }

    /// Reads once. Returns whether there may be more to read.
    pub(super) fn read(&mut self, part: Part, buffer: &mut [u8]) -> Result<bool, Ended> {
        match (part, &mut self.link) {
            (_, None) => Ok(false),
            (Part::Main, Some(link)) => link.read(buffer),
            (Part::Posts, Some(link)) => link.read_posts(buffer),
        }
    }

    /// Returns how many POSTs were accepted since the last call.
    pub(super) fn take_accepted(&mut self) -> u64 {
        self.link.as_mut().map_or(0, Link::take_accepted)
    }

    /// Returns the next message that has arrived whole.
    pub(super) fn next(&mut self) -> Result<Option<Item>, Ended> {
        self.link.as_mut().map_or(Ok(None), Link::next)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Drops the sockets, and what was read or not written.
    pub(super) fn disconnect(&mut self) {
        self.link = None;
    }

    /// Forgets the requests without an answer: nobody knows whether they were executed. Returns their number.
    pub(super) fn give_up_unanswered(&mut self) -> u64 {
        let requests = std::mem::take(&mut self.unanswered);
        self.sent.optional.extend(requests.values().map(|said| said.number));
        requests.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_has_as_many_messages_as_fit() {
        let count = |first, period, end| {
            let schedule = Schedule { first, period };
            let count = schedule.count_before(end);
            assert!(schedule.due(count) >= end && (count == 0 || schedule.due(count - 1) < end));
            count
        };
        assert_eq!(count(0.0, 100_000.0, 1_000_000), 10);
        assert_eq!(count(50_000.0, 100_000.0, 1_000_000), 10);
        assert_eq!(count(1_000_000.0, 100_000.0, 1_000_000), 0);
        assert_eq!(count(7.0, 1e6 / 3.0, 60_000_007), 180);
        assert_eq!(count(0.0, 1e9, 1_000_000), 1);
    }
}

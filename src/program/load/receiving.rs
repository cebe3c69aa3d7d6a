//! What members receive: the session, answers, and the messages of the others, which are entered into the books.

use super::books::Fit;
use super::ended::{Ended, Goodbye};
use super::link::Item;
use super::member::{Member, State};
use super::message::{Said, ServerMessage};
use super::plan::Plan;
use super::position::Position;
use super::tally::{Interval, MAX_CODE, Tally, count_text, record};

pub(super) struct Receiver<'a> {
    pub(super) plan: &'a Plan,
    pub(super) tally: &'a mut Tally,
    pub(super) interval: &'a mut Interval,
    /// Index of the first member of the receiver's lobby.
    pub(super) first: usize,
}

/// What the items that have arrived mean for the connection.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) has_joined: bool,
    pub(super) ended: Option<Ended>,
}

impl Receiver<'_> {
    /// Handles everything that a member has received whole.
    pub(super) fn receive(&mut self, members: &mut [Member], at: usize, now: u64) -> Outcome {
        let mut outcome = Outcome::default();
        while outcome.ended.is_none() {
            match members[at].next() {
                Ok(None) => break,
                Ok(Some(Item::Text(text))) => match serde_json::from_str(&text) {
                    Ok(message) => match self.handle(members, at, now, &message) {
                        Ok(has_joined) => outcome.has_joined |= has_joined,
                        Err(ended) => outcome.ended = Some(ended),
                    },
                    Err(_) => outcome.ended = Some(Ended::Failed("the server does not speak lobby.v1.json".into())),
                },
                Ok(Some(Item::Binary)) => self.tally.count.unknown += 1,
                Err(ended) => outcome.ended = Some(ended),
            }
        }
        outcome
    }

    /// Handles a message. Returns whether the member is welcomed by it.
    fn handle(
        &mut self,
        members: &mut [Member],
        at: usize,
        now: u64,
        message: &ServerMessage<'_>,
    ) -> Result<bool, Ended> {
        let member = &mut members[at];
        match &*message.kind {
            "welcome" if member.state != State::Connecting => {
                return Err(Ended::Failed("the server has welcomed a connection twice".into()));
            }
            "welcome" => {
                self.welcome(member, now, message);
                return Ok(true);
            }
            "message" => self.enter(members, at, now, message),
            "ack" => {
                if let Some(said) = message.number().and_then(|number| member.unanswered.remove(&number)) {
                    self.tally.count.acked += 1;
                    record(&mut self.tally.ack, now.saturating_sub(said.due));
                }
            }
            "error" => self.refuse(member, now, message),
            "health_ping" => {
                if let Some(timestamp) = message.timestamp {
                    member.answer(format!(r#"{{"type":"health_pong","timestamp":{timestamp}}}"#));
                }
            }
            "goodbye" => {
                let elsewhere = message.url.as_ref().and_then(|url| self.plan.places_behind(member.number, url));
                member.detours = elsewhere.unwrap_or(member.detours);
                member.goodbye = Some(Goodbye {
                    code: message.code.and_then(|code| code.get().parse().ok()).unwrap_or(1005),
                    reason: message.reason.as_deref().unwrap_or_default().to_owned(),
                    reconnect: message.reconnect.unwrap_or(false),
                    retry_after_micros: message.retry_after_ms.map(|millis| millis.saturating_mul(1000)),
                });
            }
            _ => {}
        }
        let Some(position) = &mut members[at].position else { return Ok(false) };
        position.is_known |= message.kind == "presence_state";
        position.seq = position.seq.max(message.seq.unwrap_or(0));
        position.n = message.n.unwrap_or(position.n);
        Ok(false)
    }

    fn welcome(&mut self, member: &mut Member, now: u64, message: &ServerMessage<'_>) {
        record(&mut self.tally.connect, now.saturating_sub(member.began));
        member.state = State::Joined;
        member.attempts = 0;
        let was_joined = std::mem::replace(&mut member.was_joined, true);
        let epoch = message.epoch.map(|epoch| epoch.get().to_owned()).unwrap_or_default();
        let seat = message.conn.as_deref().unwrap_or_default();
        // The session may have got another seat on a connection whose welcome was lost.
        let has_seat = member.position.as_ref().is_some_and(|position| position.seat == seat);
        if was_joined && has_seat && message.resumed == Some(true) {
            self.tally.count.resumed += 1;
            if message.recovered != Some(true) {
                member.books.accept_gap();
            }
            self.settle(member, now, message);
            member.say_again(self.plan);
            if let Some(position) = &mut member.position {
                position.epoch = epoch;
                position.n = message.n.unwrap_or(position.n);
            }
            return;
        }
        if was_joined {
            self.tally.count.rejoined += 1;
            self.tally.count.unanswered += member.give_up_unanswered();
            member.books.accept_gap();
        } else {
            self.tally.count.joined += 1;
        }
        member.last_seq = None;
        // Without sessions, there is nothing to come back to.
        let has_session = message.away_ms.is_some();
        let n = message.n.unwrap_or(0);
        member.position = has_session.then(|| Position { seat: seat.to_owned(), epoch, seq: 0, n, is_known: false });
    }

    /// Settles the requests of the earlier connection that the server has read.
    fn settle(&mut self, member: &mut Member, now: u64, message: &ServerMessage<'_>) {
        let done = message.done.unwrap_or(0);
        let refused = message.refused.as_deref().and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0);
        let rest = member.unanswered.split_off(&done.saturating_add(1));
        for (number, said) in std::mem::replace(&mut member.unanswered, rest) {
            let place = u32::try_from(done - number).ok();
            let is_refused = place.and_then(|place| refused.checked_shr(place)).is_some_and(|bits| bits & 1 == 1);
            if is_refused {
                count_text(&mut self.tally.refused, "refused", MAX_CODE);
                member.sent.optional.insert(said.number);
            } else {
                self.tally.count.acked += 1;
                record(&mut self.tally.ack, now.saturating_sub(said.due));
            }
        }
    }

    fn refuse(&mut self, member: &mut Member, now: u64, message: &ServerMessage<'_>) {
        let code = message.code.map_or("", |code| code.get().trim_matches('"'));
        count_text(&mut self.tally.refused, code, MAX_CODE);
        if let Some(said) = message.number().and_then(|number| member.unanswered.remove(&number)) {
            member.sent.optional.insert(said.number);
        }
        if let Some(millis) = message.retry_after_ms {
            member.paused_until = now + millis.saturating_mul(1000).min(60_000_000);
        }
    }

    /// Enters a message into the books of its receiver.
    fn enter(&mut self, members: &mut [Member], at: usize, now: u64, message: &ServerMessage<'_>) {
        let said: Option<Said> = message.data.and_then(|data| serde_json::from_str(data.get()).ok());
        let base = members[self.first].number;
        let sender = said.and_then(|said| said.member.checked_sub(base).map(|position| (said, position)));
        let is_ours = |&(said, position): &(Said, usize)| {
            let lobby_members = self.plan.members_of(base / self.plan.per_lobby);
            said.run == self.plan.run
                && position < lobby_members
                && self.first + position != at
                && said.number < members[self.first + position].sent.count
        };
        let Some((said, position)) = sender.filter(is_ours) else {
            self.tally.count.unknown += 1;
            return;
        };
        let member = &mut members[at];
        let is_behind = message.seq.zip(member.last_seq).is_some_and(|(seq, last)| seq <= last);
        match member.books.receive(position, said.number) {
            Fit::Doubled => {
                self.tally.count.doubled += 1;
                return;
            }
            fit => self.tally.count.out_of_order += u64::from(fit == Fit::Late || is_behind),
        }
        member.last_seq = member.last_seq.max(message.seq);
        let latency = now.saturating_sub(said.due);
        record(&mut self.tally.delivery, latency);
        record(&mut self.interval.delivery, latency);
        self.tally.count.delivered += 1;
        self.interval.delivered += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::load::command;

    struct Rig {
        plan: Plan,
        tally: Tally,
        interval: Interval,
        members: Vec<Member>,
    }

    impl Rig {
        fn new() -> Rig {
            let words = "load ws://127.0.0.1:1 --members 2 --per-lobby 2".split(' ');
            let matches = command::command().try_get_matches_from(words).expect("valid");
            let plan = command::plan(&matches, 7).expect("valid");
            let members = (0..2).map(|number| Member::new(number, 2)).collect();
            Rig { plan, tally: Tally::new(), interval: Interval::new(), members }
        }

        fn receive(&mut self, text: &str) {
            let Rig { plan, tally, interval, members } = self;
            let message = serde_json::from_str(text).expect("JSON");
            let mut receiver = Receiver { plan, tally, interval, first: 0 };
            receiver.handle(members, 0, 0, &message).expect("the server keeps to the protocol");
        }

        fn welcome(&mut self, seat: &str, resumed: bool, done: u64) {
            self.members[0].state = State::Connecting;
            self.receive(&format!(
                r#"{{"type":"welcome","conn":"{seat}","epoch":1,"seq":3,"resumed":{resumed},"recovered":{resumed},"away_ms":30000,"done":{done},"refused":"0","n":0}}"#
            ));
        }

        fn say(&mut self) {
            self.members[0].say(&self.plan, 0);
        }
    }

    const LIST: &str = r#"{"type":"presence_state","seq":3,"users":[]}"#;

    #[test]
    fn the_first_request_is_sent_after_the_first_list() {
        let mut rig = Rig::new();
        rig.welcome("s1", false, 0);
        assert!(!rig.members[0].can_send(0), "it has no position");
        rig.welcome("s1", true, 0);
        assert!(!rig.members[0].can_send(0), "it has come back, and has none still");
        rig.receive(LIST);
        assert!(rig.members[0].can_send(0));
        rig.welcome("s1", true, 0);
        assert!(rig.members[0].can_send(0), "a member that comes back has its position");
        rig.welcome("s2", false, 0);
        assert!(!rig.members[0].can_send(0), "it has joined anew");
        // Without sessions, nothing is numbered for good.
        rig.members[0].state = State::Connecting;
        rig.receive(r#"{"type":"welcome","conn":"s3","epoch":1,"seq":3,"resumed":false}"#);
        assert!(rig.members[0].can_send(0));
    }

    #[test]
    fn a_member_that_comes_back_settles_what_the_server_has_read() {
        let mut rig = Rig::new();
        rig.welcome("s1", false, 0);
        rig.receive(LIST);
        (0..3).for_each(|_| rig.say());
        rig.welcome("s1", true, 2);
        assert_eq!(rig.members[0].unanswered.keys().collect::<Vec<_>>(), [&3]);
        assert_eq!((rig.tally.count.acked, rig.tally.count.resumed), (2, 1));
        rig.welcome("s1", true, u64::MAX);
        assert_eq!((rig.members[0].unanswered.len(), rig.tally.count.acked), (0, 3), "more than was sent");
    }

    #[test]
    fn a_connection_is_welcomed_once() {
        let mut rig = Rig::new();
        rig.welcome("s1", false, 0);
        let Rig { plan, tally, interval, members } = &mut rig;
        let message = serde_json::from_str(r#"{"type":"welcome","conn":"s1","epoch":1}"#).expect("JSON");
        let outcome = Receiver { plan, tally, interval, first: 0 }.handle(members, 0, 0, &message);
        assert_eq!(outcome, Err(Ended::Failed("the server has welcomed a connection twice".into())));
    }

    /// Its seat was given up, and it got another one on a connection that was lost before the welcome arrived.
    #[test]
    fn with_another_seat_nothing_is_sent_again() {
        let mut rig = Rig::new();
        rig.welcome("s1", false, 0);
        rig.receive(LIST);
        (0..3).for_each(|_| rig.say());
        rig.welcome("s2", true, 0);
        let member = &rig.members[0];
        assert!(member.unanswered.is_empty() && !member.can_send(0));
        assert_eq!((rig.tally.count.unanswered, rig.tally.count.rejoined, rig.tally.count.resumed), (3, 1, 0));
    }
}

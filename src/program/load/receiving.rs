//! What members receive: the session, answers, and the messages of the others, which are entered into the books.

use lobbyd::sim::wire::Received;

use super::books::Fit;
use super::member::{Goodbye, Member, Position, State};
use super::message::{Said, ServerMessage};
use super::plan::Plan;
use super::tally::{Interval, Tally, record};

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

/// How a connection has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Without an answer or a close frame: the error.
    Failed(String),
    EndOfStream,
    /// The upgrade was refused with this status, and perhaps a time to wait in microseconds.
    Status(u16, Option<u64>),
    Closed(u16, String),
}

impl Ended {
    /// Whether the server may be gone, or is about to go.
    pub(super) fn has_no_answer(&self) -> bool {
        matches!(self, Ended::Failed(_) | Ended::EndOfStream | Ended::Closed(1001, _))
    }

    /// Whether the server, or a proxy, does not accept the token.
    pub(super) fn refuses_token(&self, goodbye: Option<&Goodbye>) -> bool {
        match self {
            Ended::Status(status, _) => [401, 403].contains(status),
            Ended::Closed(code, _) => [4001, 4003].contains(code),
            Ended::EndOfStream => goodbye.is_some_and(|goodbye| [4001, 4003].contains(&goodbye.code)),
            Ended::Failed(_) => false,
        }
    }

    /// Counts the end, and returns how long the member waits before it comes back; `None` if it must not.
    pub(super) fn count_and_wait(self, member: &Member, tally: &mut Tally, backoff: u64) -> Option<u64> {
        let goodbye = member.goodbye.as_ref();
        let (code, reason) = match (self, goodbye) {
            (Ended::Failed(error), _) => {
                *tally.failed.entry(error).or_default() += 1;
                return Some(backoff);
            }
            (Ended::Status(status, retry_after), _) => {
                *tally.statuses.entry(status).or_default() += 1;
                return [429, 503].contains(&status).then(|| backoff.max(retry_after.unwrap_or(0)));
            }
            (Ended::EndOfStream, Some(goodbye)) => (goodbye.code, goodbye.reason.clone()),
            (Ended::EndOfStream, None) => (1006, "end of the stream without a close frame".to_owned()),
            (Ended::Closed(code, reason), _) => (code, reason),
        };
        *tally.closed.entry((code, reason)).or_default() += 1;
        match (goodbye, code) {
            (Some(Goodbye { reconnect: false, .. }), _) => None,
            (Some(Goodbye { retry_after_micros: Some(wait), .. }), _) => Some(*wait),
            (_, 4200..4300 | 4600..4700) => Some(0),
            (Some(_), _) | (None, 1001 | 1005 | 1006 | 1011..1015 | 4100..4200 | 4500..4600) => Some(backoff),
            (None, _) => None,
        }
    }
}

impl Receiver<'_> {
    /// Handles everything that a member has received whole.
    pub(super) fn receive(&mut self, members: &mut [Member], at: usize, now: u64) -> Outcome {
        let mut outcome = Outcome::default();
        while outcome.ended.is_none() {
            match members[at].next() {
                Ok(None) => break,
                Ok(Some(Received::Text(text))) => match serde_json::from_str(&text) {
                    Ok(message) => outcome.has_joined |= self.handle(members, at, now, &message),
                    Err(_) => outcome.ended = Some(Ended::Failed("the server does not speak lobby.v1.json".into())),
                },
                Ok(Some(Received::Ping(payload))) => members[at].push_pong(&payload),
                Ok(Some(Received::Answer(101, _) | Received::Body(_) | Received::Pong(_))) => {}
                Ok(Some(Received::Answer(status, head))) => {
                    outcome.ended = Some(Ended::Status(status, retry_after(&head)));
                }
                Ok(Some(Received::Close(code, reason))) => outcome.ended = Some(Ended::Closed(code, reason)),
                Ok(Some(Received::Binary(_))) => self.tally.count.unknown += 1,
                Err(violation) => outcome.ended = Some(Ended::Failed(violation.to_string())),
            }
        }
        outcome
    }

    /// Handles a message. Returns whether the member is welcomed by it.
    fn handle(&mut self, members: &mut [Member], at: usize, now: u64, message: &ServerMessage<'_>) -> bool {
        let member = &mut members[at];
        match &*message.kind {
            "welcome" => {
                self.welcome(member, now, message);
                return true;
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
                    member.push_text(&format!(r#"{{"type":"health_pong","timestamp":{timestamp}}}"#));
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
        let Some(position) = &mut members[at].position else { return false };
        position.is_known |= message.kind == "presence_state";
        position.seq = position.seq.max(message.seq.unwrap_or(0));
        position.n = message.n.unwrap_or(position.n);
        false
    }

    fn welcome(&mut self, member: &mut Member, now: u64, message: &ServerMessage<'_>) {
        record(&mut self.tally.connect, now.saturating_sub(member.began));
        member.state = State::Joined;
        member.attempts = 0;
        let was_joined = std::mem::replace(&mut member.was_joined, true);
        let epoch = message.epoch.map(|epoch| epoch.get().to_owned()).unwrap_or_default();
        if was_joined && message.resumed == Some(true) {
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
        member.position = has_session.then(|| Position { epoch, seq: 0, n: message.n.unwrap_or(0), is_known: false });
    }

    /// Settles the requests of the earlier connection that the server has read.
    fn settle(&mut self, member: &mut Member, now: u64, message: &ServerMessage<'_>) {
        let done = message.done.unwrap_or(0);
        let refused = message.refused.as_deref().and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0);
        let rest = member.unanswered.split_off(&(done + 1));
        for (number, said) in std::mem::replace(&mut member.unanswered, rest) {
            let is_refused = refused.checked_shr((done - number) as u32).is_some_and(|bits| bits & 1 == 1);
            if is_refused {
                *self.tally.refused.entry("refused".into()).or_default() += 1;
                member.sent.optional.insert(said.number);
            } else {
                self.tally.count.acked += 1;
                record(&mut self.tally.ack, now.saturating_sub(said.due));
            }
        }
    }

    fn refuse(&mut self, member: &mut Member, now: u64, message: &ServerMessage<'_>) {
        let code = message.code.map_or("", |code| code.get().trim_matches('"'));
        *self.tally.refused.entry(code.to_owned()).or_default() += 1;
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

/// Returns the value of `Retry-After` in microseconds.
fn retry_after(head: &str) -> Option<u64> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))?;
    value.trim().parse::<u64>().ok()?.checked_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_tried_again_is_tried_again() {
        let wait = |ended: Ended, goodbye: Option<(bool, Option<u64>)>| {
            let mut member = Member::new(0, 1);
            member.goodbye = goodbye.map(|(reconnect, retry_after_micros)| Goodbye {
                code: 4002,
                reason: "server_full".into(),
                reconnect,
                retry_after_micros,
            });
            ended.count_and_wait(&member, &mut Tally::new(), 7)
        };
        let closed = |code| Ended::Closed(code, String::new());
        assert_eq!(wait(closed(4002), Some((false, None))), None);
        assert_eq!(wait(closed(4002), Some((true, Some(9)))), Some(9));
        assert_eq!(wait(closed(4201), None), Some(0));
        assert_eq!(wait(closed(4201), Some((true, None))), Some(0));
        assert_eq!(wait(closed(1001), Some((true, None))), Some(7));
        assert_eq!(wait(closed(4009), None), None);
        assert_eq!(wait(closed(1000), None), None);
        assert_eq!(wait(Ended::EndOfStream, None), Some(7));
        assert_eq!(wait(Ended::EndOfStream, Some((false, None))), None);
        assert_eq!(wait(Ended::Status(429, Some(30)), None), Some(30));
        assert_eq!(wait(Ended::Status(503, None), None), Some(7));
        assert_eq!(wait(Ended::Status(404, None), None), None);
        assert_eq!(wait(Ended::Failed("refused".into()), None), Some(7));
    }

    #[test]
    fn retry_after_is_read_in_any_case() {
        assert_eq!(retry_after("HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\n\r\n"), Some(3_000_000));
        assert_eq!(retry_after("HTTP/1.1 503 Busy\r\nRetry-After: soon\r\n\r\n"), None);
        assert_eq!(retry_after("HTTP/1.1 503 Busy\r\n\r\n"), None);
    }
}

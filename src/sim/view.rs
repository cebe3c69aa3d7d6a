//! A client's view of its lobby, built only from the messages it received. Checks the server against the protocol:
//!
//! - `welcome` comes first, and `presence_state` before any `presence_diff`.
//! - Gaps in `seq` are explained by the client's own messages.
//! - Requests are answered in order.
//! - All members receive the same text under the same `seq`.
//!
//! Knows no bytes, no time, and nothing of the engine. A view goes through these stages:
//!
//! ```text
//! New --welcome--> Welcomed --presence_state--> Synced --goodbye--> Over
//!  |                   |                                             ^
//!  +-------------------+-------------------goodbye-------------------+
//! ```

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::shared_state::SharedState;
use crate::base::number::integer;

/// A message that the client sent and that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SentRequest {
    pub(super) kind: RequestKind,
    pub(super) reference: Option<u32>,
    /// The client's number of broadcasts and messages to the application up to this request.
    pub(super) k: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    Broadcast,
    App,
    Direct,
    Presence,
    Ping,
    Malformed,
    /// A malformed `health_pong`. It is answered with an error, but charged as a `health_pong`.
    BadPong,
    Leave,
}

/// What the client has to do after a message from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    Nothing,
    /// Answer the health check with this nonce.
    HealthPing(u64),
}

/// A member of the lobby, as the client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownMember {
    pub(super) user: Box<str>,
    pub(super) conn: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No message received yet.
    New,
    /// `welcome` received; the members are not known yet.
    Welcomed,
    /// `presence_state` received.
    Synced,
    /// `goodbye` received; no message may follow.
    Over,
}

/// The lobby as one client knows it.
#[derive(Debug)]
pub(super) struct View {
    /// Number of the client's link.
    number: u32,
    stage: Stage,
    /// `conn` of the `welcome`, which names the client's seat.
    pub(super) conn: Box<str>,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    /// Number of the client's own messages since `seq` whose outcome is unknown: each took one `seq`, or was refused
    /// without an error. The server's `seq` is between `seq` and `seq + slack`.
    slack: u64,
    /// The members in join order. `None` if the server sends only their number.
    pub(super) members: Option<Vec<KnownMember>>,
    /// The last number of members received in place of a list.
    count: u64,
    /// Unanswered requests that are served on arrival, in order.
    requests: VecDeque<SentRequest>,
    /// With ticks on, unanswered requests that wait for the next tick. They are answered in their own order.
    tick_requests: VecDeque<SentRequest>,
    pub(super) has_ticks: bool,
    /// Whether the `presence_state` for the first request was received, but not yet its `ack`.
    front_answered: bool,
    /// Whether a `presence_state` was matched to a request without a `ref`, which may have been refused without an
    /// error.
    spare_state: bool,
    /// Number of answers to requests that are charged as messages.
    pub(super) served: u64,
    /// Number of refusals for a rate or a full inbox.
    pub(super) refusals: u64,
    /// Number of refusals without a `ref`.
    pub(super) refusals_without_ref: u64,
    /// The last refusal: its `ref`, and the wait in milliseconds.
    pub(super) refusal: Option<(Option<u32>, u64)>,
    /// The `ref` of the `leave` that was sent, if it had one.
    pub(super) leave_ref: Option<u32>,
    /// Whether the `leave` was refused, so that the client remains a member.
    pub(super) leave_refused: bool,
    /// The last latest-wins value received under each key.
    pub(super) latest: [u64; 3],
    /// Number of the last operator's message received.
    last_operator_message: u32,
    /// Messages of other clients that were skipped, by link and number.
    gaps: Vec<(u32, u32)>,
    /// Number of the last message received from each link.
    last_messages: Vec<(u32, u32)>,
    /// Number of the last direct message received from each link.
    last_directs: Vec<(u32, u32)>,
    /// Number of the last raw message received from each link.
    last_raws: Vec<(u32, u32)>,
    last_nonce: u64,
    /// Code and reason of the `goodbye`, if one was received.
    pub(super) goodbye: Option<(u16, String)>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct ServerText<'a> {
    #[serde(borrow)]
    conn: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
    #[serde(borrow)]
    lobby: Option<Cow<'a, str>>,
    protocol: Option<u64>,
    epoch: Option<u64>,
    seq: Option<u64>,
    count: Option<u64>,
    #[serde(borrow)]
    users: Option<Vec<UserState<'a>>>,
    #[serde(borrow)]
    joins: Option<Vec<UserState<'a>>>,
    #[serde(borrow)]
    leaves: Option<Vec<UserState<'a>>>,
    #[serde(borrow)]
    from: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    reference: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    timestamp: Option<u64>,
    retry_after_ms: Option<u64>,
    key: Option<u64>,
    value: Option<u64>,
}

/// Payload of an operator's message: its number.
#[derive(Deserialize)]
struct OperatorMessage {
    op: u32,
}

#[derive(Deserialize)]
struct UserState<'a> {
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow)]
    conn: Cow<'a, str>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
}

impl UserState<'_> {
    fn to_member(&self) -> KnownMember {
        KnownMember { user: self.user.as_ref().into(), conn: self.conn.as_ref().into() }
    }
}

/// Payload that model clients put into every message.
#[derive(Deserialize)]
pub(super) struct Marker {
    /// Number of the sender's link.
    l: u32,
    /// Number of the message among those of its kind from this link.
    k: u32,
}

impl View {
    pub(super) fn new(number: u32) -> View {
        View {
            number,
            stage: Stage::New,
            conn: "".into(),
            epoch: 0,
            seq: 0,
            slack: 0,
            members: None,
            count: 0,
            requests: VecDeque::new(),
            tick_requests: VecDeque::new(),
            has_ticks: false,
            front_answered: false,
            spare_state: false,
            served: 0,
            refusals: 0,
            refusals_without_ref: 0,
            refusal: None,
            leave_ref: None,
            latest: [0; 3],
            last_operator_message: 0,
            leave_refused: false,
            gaps: Vec::new(),
            last_messages: Vec::new(),
            last_directs: Vec::new(),
            last_raws: Vec::new(),
            last_nonce: 0,
            goodbye: None,
        }
    }

    pub(super) fn is_synced(&self) -> bool {
        self.stage == Stage::Synced
    }

    /// Records a request that was sent.
    pub(super) fn expect(&mut self, request: SentRequest) {
        if self.waits_for_tick(request.kind) {
            self.tick_requests.push_back(request)
        } else {
            self.requests.push_back(request)
        }
    }

    /// Whether a request of this kind waits for a tick.
    fn waits_for_tick(&self, kind: RequestKind) -> bool {
        self.has_ticks && matches!(kind, RequestKind::Broadcast | RequestKind::App | RequestKind::Direct)
    }

    /// Returns the first unanswered request.
    pub(super) fn unanswered(&self) -> Option<&SentRequest> {
        self.requests.front().or(self.tick_requests.front())
    }

    /// Returns the number of members that the client knows of.
    pub(super) fn count_known(&self) -> u64 {
        self.members.as_ref().map_or(self.count, |members| members.len() as u64)
    }

    /// Returns the number of the last message received from `link`.
    pub(super) fn last_message_of(&self, link: u32) -> Option<u32> {
        self.last_messages.iter().find(|(from, _)| *from == link).map(|(_, k)| *k)
    }

    /// Checks a text message of the server. `me` and `lobby` are the user and the lobby of the client's request.
    ///
    /// With `strict`, answers are matched to the requests sent.
    pub(super) fn receive_text(
        &mut self,
        text: &str,
        me: &str,
        lobby: &str,
        strict: bool,
        shared: &mut SharedState,
    ) -> Result<Reaction, String> {
        let Kind { kind } = serde_json::from_str(text).map_err(|error| format!("not JSON ({error}): {text}"))?;
        if self.stage == Stage::Over {
            return Err(format!("a message after the goodbye: {text}"));
        }
        if self.stage == Stage::New && kind != "welcome" && kind != "goodbye" {
            return Err(format!("a message before the welcome: {text}"));
        }
        let known = [
            "welcome",
            "presence_state",
            "presence_diff",
            "message",
            "direct",
            "ack",
            "error",
            "pong",
            "health_ping",
            "goodbye",
            "latest",
        ];
        if !known.contains(&&*kind) {
            return Ok(Reaction::Nothing);
        }
        let fields: ServerText<'_> = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        self.handle(&kind, fields, text, me, lobby, strict, shared).map_err(|error| format!("{error}: {text}"))
    }

    #[expect(clippy::too_many_arguments, reason = "one table of the protocol")]
    fn handle(
        &mut self,
        kind: &str,
        fields: ServerText<'_>,
        text: &str,
        me: &str,
        lobby: &str,
        strict: bool,
        shared: &mut SharedState,
    ) -> Result<Reaction, String> {
        match kind {
            "welcome" => {
                require(self.stage == Stage::New, "a second welcome")?;
                require(fields.protocol == Some(1), "a welcome with another protocol version")?;
                require(fields.user.as_deref() == Some(me), "a welcome for another user")?;
                require(fields.lobby.as_deref() == Some(lobby), "a welcome for another lobby")?;
                self.conn = field(fields.conn)?.as_ref().into();
                self.epoch = field(fields.epoch)?;
                self.seq = field(fields.seq)?;
                self.stage = Stage::Welcomed;
            }
            "presence_state" => self.handle_state(&fields, strict, shared)?,
            "presence_diff" => {
                require(self.stage == Stage::Synced, "a presence_diff before the presence_state")?;
                let seq = field(fields.seq)?;
                self.advance_seq(seq, strict, shared)?;
                shared.check_same_text(self.epoch, seq, text)?;
                let members = self.members.as_mut().ok_or("a presence_diff to a client that received only a count")?;
                for leave in &field(fields.leaves)? {
                    require(leave.reason.is_some(), "a leave without a reason")?;
                    let at = members.iter().position(|there| *there.conn == *leave.conn && *there.user == *leave.user);
                    members.remove(at.ok_or("a leave of a user that is not a member")?);
                }
                for join in &field(fields.joins)? {
                    require(
                        members.iter().all(|there| *there.conn != *join.conn),
                        "a join of a seat that is already known",
                    )?;
                    members.push(join.to_member());
                }
                require(members.iter().any(|there| there.conn == self.conn), "the client's own seat left")?;
            }
            "message" => {
                require(self.stage == Stage::Synced, "a message before the presence_state")?;
                let seq = field(fields.seq)?;
                self.advance_seq(seq, strict, shared)?;
                shared.check_same_text(self.epoch, seq, text)?;
                let Some(from) = fields.from else {
                    let OperatorMessage { op } = operator_message(&fields.data)
                        .ok_or("a message without a sender that is not the operator's")?;
                    require(op > self.last_operator_message, "the operator's messages are out of order")?;
                    self.last_operator_message = op;
                    shared.messages += 1;
                    let sent = shared.published.iter().find(|(k, _)| *k == op);
                    require(sent.is_none_or(|sent| sent.1 == seq), "the operator's answer had another seq")?;
                    return Ok(Reaction::Nothing);
                };
                if let Some(members) = &self.members {
                    require(
                        members.iter().any(|there| *there.user == *from),
                        "a message from a user that is not a member",
                    )?;
                }
                if let Some(marker) = marker(&fields.data) {
                    shared.messages += 1;
                    let user = shared.link_users.get(marker.l as usize).ok_or("a message from an unknown link")?;
                    require(shared.users[*user] == *from, "a message with another user's name")?;
                    if shared.relays {
                        let gaps = shared.has_rate_limits.then_some(&mut self.gaps);
                        check_order(&mut self.last_messages, &marker, true, gaps)?;
                        shared.note_delivered((marker.l, marker.k))?;
                    }
                }
            }
            "direct" => {
                require(self.stage == Stage::Synced, "a direct message before the presence_state")?;
                if let Some(marker) = marker(&fields.data) {
                    shared.messages += 1;
                    let user = shared.link_users.get(marker.l as usize).ok_or("a message from an unknown link")?;
                    require(shared.users[*user] == *field(fields.from)?, "a message with another user's name")?;
                    check_order(&mut self.last_directs, &marker, false, None)?;
                }
            }
            "ack" | "error" | "pong" if strict => self.handle_answer(kind, &fields, shared)?,
            "latest" => self.handle_latest(field(fields.key)?, field(fields.value)?)?,
            "error" if self.leave_ref.is_some() => {
                let is_refused = fields.code.is_some_and(|code| code.get() == "\"rate_limited\"");
                let reference = fields.reference.and_then(|raw| read_number(raw.get()));
                self.leave_refused |= is_refused && reference.is_some() && reference == self.leave_ref.map(u64::from);
            }
            "health_ping" => {
                let nonce = field(fields.timestamp)?;
                require(
                    nonce > self.last_nonce && nonce < 1 << 53,
                    "a nonce that is not larger than the last, or not below 2^53",
                )?;
                self.last_nonce = nonce;
                return Ok(Reaction::HealthPing(nonce));
            }
            "goodbye" => {
                let code = field(fields.code)?.get().parse().map_err(|_| "a close code that is not a number")?;
                self.goodbye = Some((code, field(fields.reason)?.into_owned()));
                self.stage = Stage::Over;
            }
            _ => {}
        }
        Ok(Reaction::Nothing)
    }

    fn handle_latest(&mut self, key: u64, value: u64) -> Result<(), String> {
        let last = self.latest.get_mut(key as usize).ok_or("a latest-wins frame with an unknown key")?;
        require(value > *last, "an older latest-wins value after a newer one")?;
        *last = value;
        Ok(())
    }

    fn handle_state(&mut self, fields: &ServerText<'_>, strict: bool, shared: &SharedState) -> Result<(), String> {
        let seq = fields.seq.ok_or("no seq")?;
        let was_listed = self.members.is_some();
        self.members = fields.users.as_ref().map(|users| users.iter().map(UserState::to_member).collect());
        self.count = match &self.members {
            Some(members) => members.len() as u64,
            None => fields.count.ok_or("neither users nor count")?,
        };
        if let Some(members) = &self.members {
            require(
                members.iter().any(|there| there.conn == self.conn),
                "a presence_state without the client's own seat",
            )?;
        }
        if self.stage == Stage::Welcomed {
            require(
                seq == self.seq || seq == self.seq + 1,
                "the first presence_state does not follow the welcome's seq",
            )?;
            self.seq = seq;
            self.stage = Stage::Synced;
            return Ok(());
        }
        while strict && self.seq + self.slack < seq && self.skip_silent(self.has_ticks, shared) {}
        if strict || seq < self.seq {
            require((self.seq..=self.seq + self.slack).contains(&seq), "a presence_state with an impossible seq")?;
        }
        (self.seq, self.slack) = (seq, 0);
        if strict && was_listed == self.members.is_some() {
            let asks = |front: &SentRequest| front.kind == RequestKind::Presence;
            while !self.requests.front().is_some_and(asks) && self.skip_silent(false, shared) {}
            let front = self.requests.front().filter(|front| asks(front) && !self.front_answered);
            match front.ok_or("a presence_state that the client did not request")?.reference {
                None => {
                    self.requests.pop_front();
                    self.spare_state = shared.has_rate_limits;
                    self.served += 1;
                }
                Some(_) => self.front_answered = true,
            }
        }
        Ok(())
    }

    fn handle_answer(&mut self, kind: &str, fields: &ServerText<'_>, shared: &mut SharedState) -> Result<(), String> {
        let reference: Option<u32> = match fields.reference {
            None => None,
            Some(raw) => {
                let number = read_number(raw.get()).and_then(|number| u32::try_from(number).ok());
                Some(number.ok_or("a ref that was never used, or is spelled differently")?)
            }
        };
        let code = fields.code.map(|raw| raw.get().trim_matches('"'));
        if code == Some("rate_limited") {
            return self.handle_refusal(reference, fields.retry_after_ms, shared);
        }
        // An error without a `ref` answers the first request that it fits.
        let answers = |front: &SentRequest| {
            front.reference == reference
                && match (kind, front.kind) {
                    ("pong", asked) => asked == RequestKind::Ping,
                    ("error", RequestKind::Malformed | RequestKind::BadPong) => code == Some("bad_message"),
                    ("error", RequestKind::Direct) => code == Some("user_not_found"),
                    ("error", _) => false,
                    (_, RequestKind::Ping | RequestKind::Malformed | RequestKind::BadPong) => false,
                    (_, _) => true,
                }
        };
        let on_tick = match (kind, reference) {
            ("pong", _) => false,
            (_, None) => self.has_ticks && code == Some("user_not_found"),
            (_, reference) => self.tick_requests.iter().any(|request| request.reference == reference),
        };
        while !self.queue(on_tick).front().is_some_and(answers) {
            require(self.skip_silent(on_tick, shared), "an answer that fits no request, or is out of order")?;
        }
        let front = self.queue(on_tick).pop_front().expect("the loop ends at a matching request");
        self.served += u64::from(front.kind != RequestKind::BadPong);
        if shared.has_rate_limits && matches!(front.kind, RequestKind::Broadcast | RequestKind::App) {
            shared.acked.insert((self.number, front.k));
        }
        match front.kind {
            RequestKind::Broadcast | RequestKind::App => {
                let seq = field(fields.seq)?;
                let next = self.seq + 1..=self.seq + self.slack + 1;
                require(next.contains(&seq), "an ack whose seq is not the next one")?;
                (self.seq, self.slack) = (seq, 0);
            }
            RequestKind::Presence => {
                if !std::mem::take(&mut self.front_answered) {
                    // Its state was matched to an earlier request without a `ref`, which in fact was refused without an
                    // error.
                    require(std::mem::take(&mut self.spare_state), "an ack before the presence_state")?;
                    self.served -= 1;
                }
            }
            RequestKind::Direct
            | RequestKind::Ping
            | RequestKind::Malformed
            | RequestKind::BadPong
            | RequestKind::Leave => {
                require(fields.seq.is_none(), "a seq in the answer to a request that takes none")?;
            }
        }
        Ok(())
    }

    /// Handles `error rate_limited`: a request exceeded a rate or did not fit into the inbox.
    fn handle_refusal(
        &mut self,
        reference: Option<u32>,
        retry_after_ms: Option<u64>,
        shared: &mut SharedState,
    ) -> Result<(), String> {
        let wait = field(retry_after_ms)?;
        require(wait > 0, "a refusal with a wait of 0")?;
        require(shared.has_rate_limits, "a refusal although no limit is configured")?;
        self.refusals += 1;
        self.refusal = Some((reference, wait));
        if reference.is_none() {
            self.refusals_without_ref += 1;
            return Ok(());
        }
        require(!shared.is_final_phase, "a refusal in the final phase")?;
        // A refusal on arrival overtakes answers that wait for the tick.
        let front = match self.tick_requests.iter().position(|request| request.reference == reference) {
            Some(at) => self.tick_requests.remove(at),
            None => {
                while self.requests.front().is_some_and(|front| front.reference != reference) {
                    require(self.skip_silent(false, shared), "a refusal out of order")?;
                }
                require(!self.front_answered, "a refusal of a request that was served")?;
                self.requests.pop_front()
            }
        };
        let front = front.ok_or("a refusal with the ref of no unanswered request")?;
        match front.kind {
            RequestKind::Broadcast | RequestKind::App => {
                let message = (self.number, front.k);
                require(!shared.delivered.contains(&message), "a refusal of a message that another client received")?;
                shared.refused.insert(message);
            }
            RequestKind::Leave => self.leave_refused = true,
            RequestKind::Direct
            | RequestKind::Presence
            | RequestKind::Ping
            | RequestKind::Malformed
            | RequestKind::BadPong => {}
        }
        Ok(())
    }

    /// Returns a skipped message, by client and number, that the server acknowledged to its sender.
    pub(super) fn missing_message(&self, shared: &SharedState) -> Option<(u32, u32)> {
        self.gaps.iter().copied().find(|gap| shared.acked.contains(gap))
    }

    /// Moves to `seq`, received in a frame. Only the client's own messages may lie between.
    fn advance_seq(&mut self, seq: u64, strict: bool, shared: &SharedState) -> Result<(), String> {
        require(seq > self.seq, "a seq that is not larger than the last")?;
        while strict && self.seq + self.slack + 1 < seq {
            require(self.skip_silent(self.has_ticks, shared), "a gap in seq")?;
        }
        (self.seq, self.slack) = (seq, 0);
        Ok(())
    }

    /// Removes the first request of the queue if it may remain without an answer. Returns whether it did.
    ///
    /// With rate limits, any request without a `ref` may have been refused without an error.
    fn skip_silent(&mut self, on_tick: bool, shared: &SharedState) -> bool {
        let Some(front) = self.queue(on_tick).front().copied().filter(|front| front.reference.is_none()) else {
            return false;
        };
        match front.kind {
            RequestKind::Broadcast | RequestKind::App if shared.has_rate_limits => self.slack += 1,
            RequestKind::Broadcast | RequestKind::App => self.seq += 1,
            RequestKind::Direct => {}
            _ if shared.has_rate_limits => {}
            _ => return false,
        }
        self.queue(on_tick).pop_front();
        true
    }

    fn queue(&mut self, on_tick: bool) -> &mut VecDeque<SentRequest> {
        if on_tick { &mut self.tick_requests } else { &mut self.requests }
    }

    pub(super) fn skip_all_silent(&mut self, shared: &SharedState) {
        for on_tick in [false, true] {
            while self.skip_silent(on_tick, shared) {}
        }
    }

    /// Checks a message of a raw application, or a binary message: two numbers of eight digits, as in [`raw_message`].
    pub(super) fn receive_raw(&mut self, bytes: &[u8], shared: &mut SharedState) -> Result<(), String> {
        if let Some((key, value)) = raw_latest(bytes) {
            return self.handle_latest(key, value);
        }
        let Some(marker) = raw_marker(bytes) else { return Ok(()) };
        shared.messages += 1;
        require((marker.l as usize) < shared.link_users.len(), "a message from an unknown link")?;
        if shared.relays { check_order(&mut self.last_raws, &marker, !shared.has_rate_limits, None) } else { Ok(()) }
    }

    pub(super) fn last_raw_of(&self, link: u32) -> Option<u32> {
        self.last_raws.iter().find(|(from, _)| *from == link).map(|(_, k)| *k)
    }
}

/// Writes a number in one of the spellings that clients use; in many languages every number is written as a double.
pub(super) fn write_number(number: u64) -> String {
    let digits = number.to_string();
    let (first, rest) = digits.split_at(1);
    match number % 5 {
        0 => digits,
        1 => format!("{digits}.0"),
        2 => format!("{first}.{rest}0e{}", rest.len()),
        3 => format!("{digits}00E-2"),
        _ => format!("{digits}.000e+00"),
    }
}

/// Reads a number, but only in the spelling that [`write_number`] uses for it.
fn read_number(text: &str) -> Option<u64> {
    let number = integer(text).and_then(|number| u64::try_from(number).ok())?;
    (write_number(number) == text).then_some(number)
}

/// Formats a message that [`View::receive_raw`] reads.
pub(super) fn raw_message(link: u32, k: u32, padding: usize) -> String {
    format!("{link:08}{k:08}{}", ".".repeat(padding))
}

fn raw_marker(bytes: &[u8]) -> Option<Marker> {
    let digits = |range| str::from_utf8(bytes.get(range)?).ok()?.parse().ok();
    Some(Marker { l: digits(0..8)?, k: digits(8..16)? })
}

/// Reads a raw latest-wins frame: the letter `L`, one digit for the key, and twelve for the value.
fn raw_latest(bytes: &[u8]) -> Option<(u64, u64)> {
    let digits = |range| str::from_utf8(bytes.get(range)?).ok()?.parse().ok();
    if bytes.first() == Some(&b'L') { Some((digits(1..2)?, digits(2..14)?)) } else { None }
}

fn operator_message(data: &Option<&RawValue>) -> Option<OperatorMessage> {
    serde_json::from_str(data.as_ref()?.get()).ok()
}

fn marker(data: &Option<&RawValue>) -> Option<Marker> {
    serde_json::from_str(data.as_ref()?.get()).ok()
}

/// Records a message in `last_received` and checks its order: no message may arrive twice or out of order.
///
/// Numbers may be skipped, and are then added to `gaps`, if `gaps` is given. Otherwise they may be skipped unless
/// `without_gaps`.
fn check_order(
    last_received: &mut Vec<(u32, u32)>,
    marker: &Marker,
    without_gaps: bool,
    gaps: Option<&mut Vec<(u32, u32)>>,
) -> Result<(), String> {
    match last_received.iter_mut().find(|(from, _)| *from == marker.l) {
        None => last_received.push((marker.l, marker.k)),
        Some((_, last)) => {
            let follows = if let Some(gaps) = gaps {
                gaps.extend((*last + 1..marker.k).map(|k| (marker.l, k)));
                marker.k > *last
            } else if without_gaps {
                marker.k == *last + 1
            } else {
                marker.k > *last
            };
            if !follows {
                return Err(format!("message {} of client #{} after message {last}", marker.k, marker.l));
            }
            *last = marker.k;
        }
    }
    Ok(())
}

fn field<T>(field: Option<T>) -> Result<T, String> {
    field.ok_or_else(|| "a field is missing".into())
}

fn require(holds: bool, violation: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(violation.into()) }
}

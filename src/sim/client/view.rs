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
//!
//! Of a session that was resumed, the frames of the replay precede the `presence_state`.

use std::collections::BTreeMap;

use super::answers::{Answers, StateForm};
use super::books::{Books, KnownMember};
use super::in_session::InSession;
use super::payload::{Gaps, LastReceived, Marker, OperatorMessage, VolatileMarker, read_raw_latest};
use super::server_text::{Kind, ServerText, UserState, field, require};
use super::shared_state::SharedState;
use crate::sim::models::lobby_view::Values;
use crate::sim::models::relay::MessageId;

/// What the client has to do after a message from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    Nothing,
    /// Answer the health check with this nonce.
    HealthPing(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No message received yet.
    New,
    /// `welcome` received; the members are not known yet.
    Welcomed,
    /// `presence_state` received.
    Synced,
    /// `goodbye` received; no message may follow.
    Over,
}

/// The client's request, which the server's `welcome` must match, and how strictly answers are checked.
#[derive(Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) user: &'a str,
    pub(super) lobby: &'a str,
    /// Whether answers are matched to the requests sent.
    pub(super) strict: bool,
}

/// The lobby as one client knows it.
#[derive(Debug)]
pub(crate) struct View {
    pub(super) stage: Stage,
    /// Epoch of the `welcome`.
    pub(crate) epoch: u64,
    /// The client's requests and their answers, and the `seq` of the lobby.
    pub(crate) answers: Answers,
    pub(crate) books: Books,
    /// `None` for a connection without a session.
    pub(crate) session: Option<InSession>,
    /// The last latest-wins value received under each key.
    pub(crate) latest: [u64; 3],
    /// Whether the first `presence_state` was read, and not yet the `lobby_state` that follows it.
    pub(super) awaits_lobby_state: bool,
    /// Data of the members in the last `presence_state`.
    pub(super) listed_data: BTreeMap<Box<str>, Values>,
    last_raws: LastReceived,
    last_nonce: u64,
    /// Code and reason of the `goodbye`, if one was received.
    pub(crate) goodbye: Option<(u16, String)>,
}

impl UserState<'_> {
    fn to_member(&self) -> KnownMember {
        KnownMember {
            user: self.user.as_ref().into(),
            conn: self.conn.as_ref().into(),
            is_away: self.away == Some(true),
        }
    }
}

impl View {
    pub(crate) fn new(number: u32, has_ticks: bool) -> View {
        View {
            stage: Stage::New,
            epoch: 0,
            answers: Answers::new(number, has_ticks),
            books: Books::default(),
            session: None,
            latest: [0; 3],
            awaits_lobby_state: false,
            listed_data: BTreeMap::new(),
            last_raws: LastReceived::default(),
            last_nonce: 0,
            goodbye: None,
        }
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.stage == Stage::Synced
    }

    /// Whether a `welcome` was read.
    pub(crate) fn is_welcomed(&self) -> bool {
        !self.books.conn.is_empty()
    }

    /// Returns the number of the last message received from `link`.
    pub(crate) fn last_message_of(&self, link: u32) -> Option<u32> {
        self.books.last_messages.of(link)
    }

    /// Returns the number of the last raw message received from `link`.
    pub(crate) fn last_raw_of(&self, link: u32) -> Option<u32> {
        self.last_raws.of(link)
    }

    /// Returns a skipped message, by client and number, that the server acknowledged to its sender.
    pub(crate) fn missing_message(&self, shared: &SharedState) -> Option<MessageId> {
        shared.relay.missing_among(&self.books.gaps)
    }

    /// Checks a text message of the server.
    pub(super) fn receive_text(
        &mut self,
        text: &str,
        expected: Expected<'_>,
        shared: &mut SharedState,
    ) -> Result<Reaction, String> {
        let kind = Kind::parse(text)?;
        if self.stage == Stage::Over {
            return Err(format!("a message after the goodbye: {text}"));
        }
        if self.stage == Stage::New && kind.kind != "welcome" && kind.kind != "goodbye" {
            return Err(format!("a message before the welcome: {text}"));
        }
        if !kind.is_known(shared.control.is_some()) {
            return Ok(Reaction::Nothing);
        }
        let fields = ServerText::parse(text)?;
        self.handle(&kind.kind, fields, text, expected, shared).map_err(|error| format!("{error}: {text}"))
    }

    fn handle(
        &mut self,
        kind: &str,
        fields: ServerText<'_>,
        text: &str,
        expected: Expected<'_>,
        shared: &mut SharedState,
    ) -> Result<Reaction, String> {
        let strict = expected.strict;
        match kind {
            "welcome" => self.handle_welcome(fields, expected, shared)?,
            "presence_state" => self.handle_state(&fields, strict, shared)?,
            "presence_diff" => {
                self.follow_lobby(&fields, text, strict, shared)?;
                self.handle_diff(fields)?;
            }
            "message" if fields.seq.is_none() => self.handle_unnumbered(&fields, expected.user, shared)?,
            "message" => {
                let seq = self.follow_lobby(&fields, text, strict, shared)?;
                self.handle_message(&fields, seq, shared)?;
            }
            "state" | "host" | "settings" | "countdown" | "start" => {
                let seq = self.follow_lobby(&fields, text, strict, shared)?;
                self.follow_control(kind, seq, text)?;
            }
            "lobby_state" => self.handle_lobby_state(&fields, shared)?,
            "direct" => self.handle_direct(fields, shared)?,
            "ack" if self.is_replayed(&fields) => self.handle_replayed_ack(&fields)?,
            "ack" | "error" | "pong" if strict => {
                if let Some(answer) = self.answers.handle_answer(kind, &fields, shared)? {
                    self.check_control_answer(&answer, &fields, expected.user, shared)?;
                }
            }
            "latest" => self.handle_latest(field(fields.key)?, field(fields.value)?)?,
            "error" if self.answers.leave_ref.is_some() => self.answers.handle_unmatched_error(&fields),
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

    fn handle_welcome(
        &mut self,
        fields: ServerText<'_>,
        expected: Expected<'_>,
        shared: &mut SharedState,
    ) -> Result<(), String> {
        require(self.stage == Stage::New, "a second welcome")?;
        require(fields.protocol == Some(1), "a welcome with another protocol version")?;
        require(fields.user.as_deref() == Some(expected.user), "a welcome for another user")?;
        require(fields.lobby.as_deref() == Some(expected.lobby), "a welcome for another lobby")?;
        self.epoch = field(fields.epoch)?;
        self.answers.seq = field(fields.seq)?;
        self.stage = Stage::Welcomed;
        if self.session.is_some() {
            return self.welcome_session(&fields, shared);
        }
        let is_plain =
            fields.away_ms.or(fields.done).or(fields.replay).or(fields.n).is_none() && fields.refused.is_none();
        require(is_plain && fields.resumed == Some(false), "a welcome of a session that the client does not have")?;
        self.books.conn = field(fields.conn)?.as_ref().into();
        self.books.position.epoch = self.epoch;
        Ok(())
    }

    /// Moves to the `seq` of a frame that all members receive, and returns it.
    fn follow_lobby(
        &mut self,
        fields: &ServerText<'_>,
        text: &str,
        strict: bool,
        shared: &mut SharedState,
    ) -> Result<u64, String> {
        let seq = field(fields.seq)?;
        if self.stage == Stage::Synced {
            self.answers.advance_seq(seq, strict, shared)?;
            self.books.position.seq = seq;
        } else {
            self.handle_replayed_frame(seq, text)?;
        }
        shared.relay.text_received(self.epoch, seq, text)?;
        Ok(seq)
    }

    fn handle_diff(&mut self, fields: ServerText<'_>) -> Result<(), String> {
        if self.stage == Stage::Welcomed && self.books.members.is_none() {
            // The session was resumed from its start, before the client knew any list.
            return Ok(());
        }
        let without_list = "a presence_diff to a client that received only a count";
        let members = self.books.members.as_mut().ok_or(without_list)?;
        for leave in &field(fields.leaves)? {
            require(leave.reason.is_some(), "a leave without a reason")?;
            let at = members.iter().position(|there| *there.conn == *leave.conn && *there.user == *leave.user);
            members.remove(at.ok_or("a leave of a user that is not a member")?);
            if let Some(known) = &mut self.books.lobby {
                known.now.member_left(&leave.conn);
            }
        }
        for join in &field(fields.joins)? {
            require(members.iter().all(|there| *there.conn != *join.conn), "a join of a seat that is already known")?;
            members.push(join.to_member());
        }
        require(members.iter().any(|there| there.conn == self.books.conn), "the client's own seat left")?;
        let changes = [(fields.away, true), (fields.back, false)];
        for (changed, is_away) in changes.into_iter().filter_map(|(list, is_away)| Some((list?, is_away))) {
            require(!changed.is_empty(), "an empty list of members away or back")?;
            for member in changed {
                self.books.set_away(&member.user, &member.conn, is_away)?;
            }
        }
        Ok(())
    }

    fn handle_message(&mut self, fields: &ServerText<'_>, seq: u64, shared: &mut SharedState) -> Result<(), String> {
        let Some(from) = &fields.from else {
            if !shared.relays {
                // Operators send nothing in such a run: the application announces it. All members received the same text,
                // and only a player knows what it means.
                shared.messages += 1;
                return Ok(());
            }
            let op = self.handle_operator_message(fields, shared)?;
            return require(shared.relay.allows_operator_message(op, seq), "the operator's answer had another seq");
        };
        self.check_sender(from)?;
        let Some(marker) = Marker::read(&fields.data) else { return Ok(()) };
        shared.messages += 1;
        let user = shared.link_users.get(marker.l as usize).ok_or("a message from an unknown link")?;
        require(shared.users[*user] == **from, "a message with another user's name")?;
        if shared.relays {
            let may_skip = shared.may_refuse || shared.has_sessions;
            let Books { gaps, last_messages, .. } = &mut self.books;
            let known = gaps.len();
            last_messages.check_next(&marker, if may_skip { Gaps::Noted(gaps) } else { Gaps::Forbidden })?;
            // Only a message whose sender does not know its outcome may be missing.
            if let Some((_, k)) = gaps[known..].iter().find(|gap| !shared.may_refuse && !shared.relay.is_lost(**gap)) {
                return Err(format!("message {} of client #{} before message {k}", marker.k, marker.l));
            }
            shared.relay.delivered((marker.l, marker.k))?;
        }
        Ok(())
    }

    /// Checks a `message` without a `seq`: a volatile broadcast, or an operator's message that some users do not get.
    fn handle_unnumbered(
        &mut self,
        fields: &ServerText<'_>,
        user: &str,
        shared: &mut SharedState,
    ) -> Result<(), String> {
        require(self.stage == Stage::Synced, "a message without a seq before the presence_state")?;
        let Some(from) = &fields.from else {
            let op = self.handle_operator_message(fields, shared)?;
            return require(
                shared.relay.allows_unnumbered(op, user),
                "an operator's message that the user must not get",
            );
        };
        self.check_sender(from)?;
        let marker = VolatileMarker::read(&fields.data).ok_or("a message without a seq that is not volatile")?;
        shared.messages += 1;
        let sender = shared.link_users.get(marker.l as usize).ok_or("a message from an unknown link")?;
        require(shared.users[*sender] == **from, "a message with another user's name")?;
        self.books.last_volatiles.check_next(&Marker { l: marker.l, k: marker.v }, Gaps::Allowed)
    }

    fn check_sender(&self, from: &str) -> Result<(), String> {
        let members = self.books.members.as_ref();
        let is_member = members.is_none_or(|members| members.iter().any(|there| *there.user == *from));
        require(is_member, "a message from a user that is not a member")
    }

    /// Checks the order of the operator's messages, and returns the number of this one.
    fn handle_operator_message(&mut self, fields: &ServerText<'_>, shared: &mut SharedState) -> Result<u32, String> {
        let OperatorMessage { op } =
            OperatorMessage::read(&fields.data).ok_or("a message without a sender that is not the operator's")?;
        require(op > self.books.last_operator_message, "the operator's messages are out of order")?;
        self.books.last_operator_message = op;
        shared.messages += 1;
        Ok(op)
    }

    fn handle_direct(&mut self, fields: ServerText<'_>, shared: &mut SharedState) -> Result<(), String> {
        match fields.n {
            Some(n) => self.follow_directs(n)?,
            None => {
                require(self.session.is_none(), "a direct message without its number, in a session")?;
                require(self.stage == Stage::Synced, "a direct message before the presence_state")?;
            }
        }
        let Some(marker) = Marker::read(&fields.data) else { return Ok(()) };
        shared.messages += 1;
        let user = shared.link_users.get(marker.l as usize).ok_or("a message from an unknown link")?;
        require(shared.users[*user] == *field(fields.from)?, "a message with another user's name")?;
        self.books.last_directs.check_next(&marker, Gaps::Allowed)
    }

    fn handle_latest(&mut self, key: u64, value: u64) -> Result<(), String> {
        let last = self.latest.get_mut(key as usize).ok_or("a latest-wins frame with an unknown key")?;
        require(value > *last, "an older latest-wins value after a newer one")?;
        *last = value;
        Ok(())
    }

    fn handle_state(&mut self, fields: &ServerText<'_>, strict: bool, shared: &mut SharedState) -> Result<(), String> {
        let seq = fields.seq.ok_or("no seq")?;
        let was = self.books.members.take();
        self.books.members = fields.users.as_ref().map(|users| users.iter().map(UserState::to_member).collect());
        self.books.count = match &self.books.members {
            Some(members) => members.len() as u64,
            None => fields.count.ok_or("neither users nor count")?,
        };
        if let Some(members) = &self.books.members {
            require(
                members.iter().any(|there| there.conn == self.books.conn),
                "a presence_state without the client's own seat",
            )?;
        }
        let was_listed = was.is_some();
        if shared.control.is_some()
            && let Some(users) = &fields.users
        {
            let is_known = was_listed && !self.has_lost_frames() && !shared.is_draining;
            self.take_member_data(users, is_known)?;
        }
        // The changes before it precede it, so that it is no news to a client that has a list.
        if let (Some(was), Some(now)) = (was, &self.books.members)
            && was != *now
            && !self.has_lost_frames()
            && !shared.is_draining
        {
            return Err(format!("a presence_state, although the client knew {was:?}"));
        }
        self.books.position.seq = seq;
        if self.stage == Stage::Welcomed {
            if self.session.is_some() {
                self.end_replay(seq)?;
            }
            let welcome = self.answers.seq;
            // The joins, and another host.
            let most = if shared.control.is_some() { 2 } else { 1 };
            require(
                (welcome..=welcome + most).contains(&seq),
                "the first presence_state does not follow the welcome's seq",
            )?;
            self.answers.seq = seq;
            self.awaits_lobby_state = shared.control.is_some();
            self.stage = Stage::Synced;
            return Ok(());
        }
        let form = match (was_listed, self.books.members.is_some()) {
            (_, false) => StateForm::Number,
            (false, true) => StateForm::ListAfterNumber,
            (true, true) => StateForm::ListAgain,
        };
        self.answers.handle_presence_state(seq, form, strict, shared)
    }

    /// Checks a message of a raw application, or a binary message, in the format of
    /// [`raw_message`](super::payload::raw_message).
    pub(super) fn receive_raw(&mut self, bytes: &[u8], shared: &mut SharedState) -> Result<(), String> {
        if let Some((key, value)) = read_raw_latest(bytes) {
            return self.handle_latest(key, value);
        }
        let Some(marker) = Marker::read_raw(bytes) else { return Ok(()) };
        shared.messages += 1;
        require((marker.l as usize) < shared.link_users.len(), "a message from an unknown link")?;
        if !shared.relays {
            return Ok(());
        }
        self.last_raws.check_next(&marker, if shared.may_refuse { Gaps::Allowed } else { Gaps::Forbidden })
    }
}

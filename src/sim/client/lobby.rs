//! What a client knows of its lobby besides the members: data, host, settings and countdown. It follows the frames, also
//! while it comes back, and every `lobby_state` must agree.

use std::collections::BTreeMap;

use super::asked::{Asked, Asker, ExpectedAnswer};
use super::known_lobby::{KnownLobby, Snapshot};
use super::sent::ControlAnswer;
use super::server_text::{ServerText, UserState, field, require};
use super::shared_state::SharedState;
use super::view::View;
use crate::sim::models::lobby_view::{LobbyFrame, LobbyView, read_values};

impl View {
    /// Whether the lobby is known.
    pub(crate) fn lobby_view(&self) -> Option<&LobbyView> {
        self.books.lobby.as_ref().map(|known| &known.now.view)
    }

    /// Whether the client is the host, as far as it knows.
    pub(crate) fn is_host(&self) -> bool {
        self.lobby_view().is_some_and(|view| view.host == Some(self.books.conn.clone()))
    }

    /// Whether the client has read everything up to this `seq`, and knows its lobby.
    pub(crate) fn is_at(&self, epoch: u64, seq: u64) -> bool {
        self.is_synced() && !self.awaits_lobby_state && (self.epoch, self.books.position.seq) == (epoch, seq)
    }

    /// Compares what the client knows with what its lobby has said. Without a list, and during a drain, it does not know
    /// which members have left, and so not the data of all members.
    pub(crate) fn check_lobby_view(
        &self,
        said: &LobbyView,
        is_draining: bool,
        is_wall_stepped: bool,
    ) -> Result<(), String> {
        let Some(known) = self.lobby_view() else { return Err("the lobby is not known".into()) };
        let mut known = known.clone();
        if self.books.members.is_none() || is_draining {
            known.members.clone_from(&said.members);
        }
        if is_wall_stepped && known.countdown.is_some() && said.countdown.is_some() {
            known.countdown = said.countdown;
        }
        if known == *said { Ok(()) } else { Err(format!("the lobby is known as {known:?}, and has said {said:?}")) }
    }

    /// Applies a numbered frame, if it is one of lobby control.
    pub(super) fn follow_control(&mut self, kind: &str, seq: u64, text: &str) -> Result<(), String> {
        let Some(frame) = LobbyFrame::read(kind, text)? else { return Ok(()) };
        require(!self.awaits_lobby_state, "a change of the lobby before the lobby_state")?;
        if let (LobbyFrame::Start { seats: Some(seats), .. }, Some(members)) = (&frame, &self.books.members)
            && self.is_synced()
        {
            let is_same = members.iter().map(|member| &member.conn).eq(seats);
            require(is_same, "a start with other seats than those of the members")?;
        }
        // A client that has lost frames does not know the lobby before the next `lobby_state`.
        if let Some(known) = &mut self.books.lobby {
            known.before = known.now.clone();
            known.now.apply(seq, &frame);
            known.last = Some((seq, frame));
        }
        Ok(())
    }

    /// Takes the data of the members from a `presence_state`, the list of which precedes the `lobby_state`. `is_known`:
    /// whether the client knows it already.
    pub(super) fn take_member_data(&mut self, users: &[UserState<'_>], is_known: bool) -> Result<(), String> {
        let mut members = BTreeMap::new();
        for user in users {
            if let Some(data) = user.data {
                let values = read_values(data.get())?;
                require(!values.is_empty(), "a member with empty data")?;
                members.insert(user.conn.as_ref().into(), values);
            }
        }
        if let Some(known) = &mut self.books.lobby {
            if is_known && known.now.view.members != members {
                return Err(format!("the data of the members is known as {:?}", known.now.view.members));
            }
            known.now.view.members.clone_from(&members);
        }
        self.listed_data = members;
        Ok(())
    }

    pub(super) fn handle_lobby_state(&mut self, fields: &ServerText<'_>, shared: &SharedState) -> Result<(), String> {
        let book = shared.control.as_ref().ok_or("a lobby_state with lobby control off")?;
        require(self.is_synced(), "a lobby_state before the presence_state")?;
        self.awaits_lobby_state = false;
        let seq = field(fields.seq)?;
        require(seq == self.books.position.seq, "a lobby_state with another seq than the presence_state")?;
        let mut view = LobbyView {
            host: fields.host.as_deref().map(Into::into),
            settings: read_values(field(fields.settings)?.get())?,
            data: read_values(field(fields.data)?.get())?,
            members: std::mem::take(&mut self.listed_data),
            countdown: fields.countdown,
        };
        field(fields.watchers)?;
        if let Some(known) = &mut self.books.lobby {
            view.members.clone_from(&known.now.view.members);
            if book.is_wall_stepped && view.countdown.is_some() == known.now.view.countdown.is_some() {
                known.now.view.countdown = view.countdown;
            }
            if known.now.view != view {
                return Err(format!("a lobby_state, although the client knew {:?}", known.now.view));
            }
        } else {
            let now = Snapshot { view, since: seq, ..Snapshot::default() };
            self.books.lobby = Some(KnownLobby { now, ..KnownLobby::default() });
        }
        Ok(())
    }

    /// Checks the answer to a request of lobby control against what the client knew when it was served.
    pub(super) fn check_control_answer(
        &self,
        answer: &ControlAnswer,
        fields: &ServerText<'_>,
        user: &str,
        shared: &SharedState,
    ) -> Result<(), String> {
        let book = shared.control.as_ref().ok_or("an answer with lobby control off")?;
        let asked = book.get(answer.asked);
        let (true, Some(known)) = (answer.is_certain, &self.books.lobby) else { return Ok(()) };
        let is_done = answer.code.is_none();
        require(!is_done || asked.has_frame() == fields.seq.is_some(), "an ack with a seq, or without one")?;
        let mut at = &known.now;
        if let Some(seq) = fields.seq.filter(|_| is_done) {
            let (last, frame) = known.last.as_ref().ok_or("an ack before any change of the lobby")?;
            if *last != seq || !asked.is_answered_by(frame, user) {
                return Err(format!("an ack after the change {last} {frame:?}, which is not that of {asked:?}"));
            }
            at = &known.before;
        }
        let members = self.books.members.as_deref().filter(|_| !shared.is_draining);
        let asker = Asker { conn: &self.books.conn, user, members };
        let fits = match book.judge(asked, at, asker) {
            ExpectedAnswer::Unsure => true,
            ExpectedAnswer::Done => is_done,
            ExpectedAnswer::Refused(code) => answer.code.as_deref() == Some(code),
        };
        if !fits {
            let expected = book.judge(asked, at, asker);
            return Err(format!("the answer must be {expected:?} to {asked:?}: the client knew {:?}", at.view));
        }
        if answer.code.as_deref() == Some("conflict") {
            check_conflict(asked, known, fields, members.is_some())?;
        }
        Ok(())
    }
}

/// Checks that a `conflict` tells the present values, and when they changed. `has_list`: whether the client got a list of the
/// members, and with it their data.
fn check_conflict(asked: &Asked, known: &KnownLobby, fields: &ServerText<'_>, has_list: bool) -> Result<(), String> {
    let Asked::Set { of, if_seq: Some(if_seq), data } = asked else {
        return Err("a conflict without a condition".into());
    };
    let (seq, said) = (field(fields.seq)?, read_values(field(fields.data)?.get())?);
    let values = known.now.view.data_of(of.as_deref());
    // What another page of the same user has set is known from the list only.
    let is_unknown = |key: &str| of.is_some() && !has_list && !values.contains_key(key);
    let present = |key: &str| values.get(key).cloned().unwrap_or_else(|| "null".into());
    let fits = |key: &str| said.get(key).is_some_and(|said| is_unknown(key) || *said == present(key));
    let is_present = said.len() == data.len() && data.keys().all(|key| fits(key));
    require(is_present, "a conflict with other values than the present ones")?;
    let newest = known.now.newest(of.as_deref(), data.keys());
    require(seq > *if_seq && newest.is_none_or(|newest| newest <= seq), "a conflict with another seq")
}

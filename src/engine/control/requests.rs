//! Serves the requests of lobby control: checks what the member may do, asks the application, and answers.

use super::super::Engine;
use super::super::app::App;
use super::super::core::Core;
use super::super::member::{Member, RelayRequest};
use super::ControlError;
use crate::base::close::Reject;
use crate::base::id::{LobbyKey, SeatKey};
use crate::lobby::control::entries::{Change, Entries};
use crate::lobby::control::settings::Writers;
use crate::protocol::{self, ControlRequest};

/// Why a request was refused.
type Refusal = (Reject, String);

fn refusal(reject: Reject, why: &str) -> Refusal {
    (reject, why.to_owned())
}

fn not_host() -> Refusal {
    refusal(Reject::NotAllowed, "only the host may do this")
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Refusal {
        let reject = match error {
            ControlError::Off => Reject::NotAllowed,
            ControlError::NoSuchLobby | ControlError::NoSuchMember => Reject::UserNotFound,
            ControlError::Invalid(_) => Reject::BadMessage,
            ControlError::TooLarge(_) => Reject::TooLarge,
        };
        (reject, error.to_string())
    }
}

impl<A: App> Engine<A> {
    /// Serves a request of lobby control. The `ack` has the `seq` of the message that follows from it, if there is one.
    pub(in crate::engine) fn serve_control(
        &mut self,
        member: &Member,
        request: &ControlRequest<'_>,
        reference: Option<&str>,
    ) {
        // The request is judged by what its sender has been told.
        self.core.flush_presence(member.lobby_key);
        if !self.core.directory.is_current_seat(member.seat_key, member.seat) {
            return;
        }
        let key = member.conn.key();
        match self.try_serve_control(member, request) {
            Err((reject, why)) => self.core.refuse_request(member, reference, reject, &why),
            Ok(Served::Conflict) => {
                let ControlRequest::Set { data, of, .. } = request else { unreachable!("only `set` is conditional") };
                self.core.note_refused(member, reference);
                self.core.counters.count_reject(Reject::Conflict);
                let seat = of.and_then(|of| self.core.directory.find_seat(member.lobby_key, of));
                self.core.write_conflict(member, seat, data, reference);
                self.core.reply(key);
            }
            Ok(Served::Done(seq)) => {
                if let Some(reference) = reference {
                    protocol::write_ack(&mut self.core.buffers.text, reference, seq);
                    self.core.reply_with_seq(key, seq.unwrap_or(0));
                }
            }
        }
    }

    fn try_serve_control(&mut self, member: &Member, request: &ControlRequest<'_>) -> Result<Served, Refusal> {
        self.core.check_control_request(member, request)?;
        let asked = match request {
            ControlRequest::Set { data, of, .. } => RelayRequest::Set { of: *of, data: data.text() },
            &ControlRequest::Host { conn } => RelayRequest::Host { conn },
            ControlRequest::Kick { user, is_banned } => RelayRequest::Kick { user, is_banned: *is_banned },
            ControlRequest::Unban { user } => RelayRequest::Unban { user },
            ControlRequest::Settings { settings } => RelayRequest::Settings { settings },
        };
        if !self.allows(member, asked) {
            return Err(refusal(Reject::NotAllowed, "you may not do this here"));
        }
        // The application may have closed members, or made another one the host.
        let target = self.core.check_control_request(member, request)?;
        self.core.execute_control_request(member, request, target)
    }
}

/// Outcome of a request that was not refused.
enum Served {
    /// It was executed. The `seq` is that of the message that follows from it.
    Done(Option<u64>),
    /// The condition of a `set` does not hold.
    Conflict,
}

impl Core {
    /// Checks whether a member may make a request. Returns the seat of the member that it concerns, if there is one.
    fn check_control_request(&self, member: &Member, request: &ControlRequest<'_>) -> Result<Option<SeatKey>, Refusal> {
        let (directory, lobby) = (&self.directory, member.lobby_key);
        let is_host = directory.is_host(member.seat_key);
        let seat_of = |id| {
            let seat = directory.find_seat(lobby, id);
            seat.ok_or_else(|| refusal(Reject::UserNotFound, "no member of this lobby has this conn"))
        };
        match request {
            ControlRequest::Set { of: None, .. } => {
                let control = directory.control(lobby).expect("lobby control is on");
                let may_write = is_host || control.settings.write == Writers::All;
                if may_write { Ok(None) } else { Err(not_host()) }
            }
            ControlRequest::Set { of: Some(of), .. } if *of == member.seat => Ok(Some(member.seat_key)),
            _ if !is_host => Err(not_host()),
            &ControlRequest::Set { of: Some(of), .. } => seat_of(of).map(Some),
            &ControlRequest::Host { conn } => {
                let seat = seat_of(conn)?;
                if !directory.can_be_host(seat) {
                    let why = "the member is away, or has no session: it cannot be the host";
                    return Err(refusal(Reject::NotAllowed, why));
                }
                Ok(Some(seat))
            }
            ControlRequest::Kick { user, is_banned } => {
                if **user == *member.user {
                    return Err(refusal(Reject::NotAllowed, "you cannot kick yourself"));
                }
                let seat = directory.seats_of(user).iter().copied().find(|&seat| directory.seat(seat).lobby == lobby);
                // A user that is not there can be banned.
                if seat.is_none() && !is_banned {
                    return Err(refusal(Reject::UserNotFound, "no such user in this lobby"));
                }
                Ok(seat)
            }
            ControlRequest::Unban { user } => {
                if directory.is_banned(lobby, user) {
                    Ok(None)
                } else {
                    Err(refusal(Reject::UserNotFound, "the user is not banned"))
                }
            }
            ControlRequest::Settings { .. } => Ok(None),
        }
    }

    fn execute_control_request(
        &mut self,
        member: &Member,
        request: &ControlRequest<'_>,
        target: Option<SeatKey>,
    ) -> Result<Served, Refusal> {
        let (lobby, by) = (member.lobby_key, Some(&*member.user));
        match request {
            ControlRequest::Set { data, if_seq, .. } => {
                let changes = data.changes();
                if let Some(if_seq) = *if_seq
                    && self.newest_change(lobby, target, &changes) > if_seq
                {
                    return Ok(Served::Conflict);
                }
                Ok(Served::Done(Some(self.change_data(lobby, by, target, &changes)?)))
            }
            &ControlRequest::Host { conn } => Ok(Served::Done(Some(self.hand_over(lobby, conn)?))),
            ControlRequest::Kick { user, is_banned } => {
                self.kick_user(lobby, user, *is_banned);
                Ok(Served::Done(None))
            }
            ControlRequest::Unban { user } => {
                self.directory.unban(lobby, user);
                Ok(Served::Done(None))
            }
            ControlRequest::Settings { settings } => {
                let change = protocol::read_settings(settings).map_err(|why| (Reject::BadMessage, why))?;
                Ok(Served::Done(Some(self.change_settings(lobby, by, &change)?)))
            }
        }
    }

    /// Returns the `seq` of the newest change of these keys of a lobby, or of a member of it; 0 if none was ever set.
    pub(super) fn newest_change(&self, lobby: LobbyKey, target: Option<SeatKey>, changes: &[Change<'_>]) -> u64 {
        self.entries_of(lobby, target).map_or(0, |data| data.newest(changes.iter().map(|&(key, _)| key)))
    }

    /// Returns the data of a lobby, or of a member of it, if there is some.
    pub(super) fn entries_of(&self, lobby: LobbyKey, target: Option<SeatKey>) -> Option<&Entries> {
        match target {
            None => self.directory.control(lobby).map(|control| &control.data),
            Some(seat) => self.directory.member_data(seat),
        }
    }

    /// Writes the answer to a conditional `set` whose condition does not hold.
    fn write_conflict(
        &mut self,
        member: &Member,
        target: Option<SeatKey>,
        data: &protocol::DataChanges<'_>,
        reference: Option<&str>,
    ) {
        let changes = data.changes();
        let newest = self.newest_change(member.lobby_key, target, &changes);
        let mut text = std::mem::take(&mut self.buffers.text);
        let current = self.entries_of(member.lobby_key, target);
        let values = changes.iter().map(|&(key, _)| (key, current.and_then(|data| data.get(key))));
        protocol::write_conflict(&mut text, reference, newest, values);
        self.buffers.text = text;
    }
}

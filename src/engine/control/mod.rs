//! Lobby control: data, host, settings, bans and start of a lobby.
//!
//! Members change them with the requests in [`requests`], applications with the methods of
//! [`Context`](super::context::Context) in [`context`], operators with their commands. All of them use the functions here. What
//! follows from changes among the members is sent by [`flush`].

pub(crate) mod command;
pub(crate) mod configuring;
mod context;
mod flush;
pub(crate) mod inspect;
mod operating;
mod requests;

use std::error::Error;
use std::fmt;

use smol_str::SmolStr;

use super::core::Core;
use crate::base::close::CloseReason;
use crate::base::id::{LobbyKey, SeatId, SeatKey};
use crate::lobby::control::Refused;
use crate::lobby::control::entries::Change;
use crate::lobby::control::settings::SettingsChange;
use crate::protocol::{self, DataChanges};

/// Whether the members of an application's lobbies may change them: see [`App::LOBBY_CONTROL`](crate::App::LOBBY_CONTROL).
///
/// No example of its own: [`App::LOBBY_CONTROL`](crate::App::LOBBY_CONTROL) has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LobbyControl {
    /// They may not. The messages are the application's.
    Off,
    /// They may, if [`App::allows`](crate::App::allows) agrees. Whatever [`lobby_control`](crate::Config::lobby_control) is, the
    /// configuration must have what it needs, such as a [`seat_grace`](crate::Config::seat_grace) above 0:
    /// [`Config::check_for`](crate::Config::check_for) checks it.
    On,
    /// They may if [`lobby_control`](crate::Config::lobby_control) is on.
    ByConfig,
}

/// Why data, settings, host or bans of a lobby were not changed.
///
/// No example of its own: [`Context::set_lobby_data`](crate::Context::set_lobby_data) has one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlError {
    /// Lobby control is off: [`App::LOBBY_CONTROL`](crate::App::LOBBY_CONTROL) is not `On`, nor `ByConfig` with
    /// [`lobby_control`](crate::Config::lobby_control) on.
    Off,
    /// No lobby with that code exists.
    NoSuchLobby,
    /// The lobby has no such member, or the member cannot be the host.
    NoSuchMember,
    /// The data or the settings are not valid. A sentence names the rule.
    Invalid(String),
    /// A bound has no room for the data. A sentence names the bound.
    TooLarge(String),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Off => f.write_str(
                "lobby control is off: App::LOBBY_CONTROL can be On, or ByConfig, with which the option lobby_control decides",
            ),
            ControlError::NoSuchLobby => f.write_str("no lobby of that code exists"),
            ControlError::NoSuchMember => f.write_str("the lobby has no such member"),
            ControlError::Invalid(why) | ControlError::TooLarge(why) => f.write_str(why),
        }
    }
}

impl Error for ControlError {}

impl From<Refused> for ControlError {
    fn from(Refused::TooLarge(why): Refused) -> ControlError {
        ControlError::TooLarge(why)
    }
}

impl Core {
    /// Whether requests of lobby control from the member in a seat are the engine's.
    pub(super) fn has_control(&self, seat: SeatKey) -> bool {
        self.config.lobby_control && self.directory.seat(seat).has_session
    }

    /// Returns a lobby whose data and settings can be changed.
    pub(super) fn controlled_lobby(&self, code: &str) -> Result<LobbyKey, ControlError> {
        if !self.config.lobby_control {
            return Err(ControlError::Off);
        }
        if !self.may_change_shared() {
            return Err(ControlError::Invalid(
                "all nodes of the cluster share it: a node cannot change it alone".to_owned(),
            ));
        }
        self.directory.find_lobby(code).ok_or(ControlError::NoSuchLobby)
    }

    /// Changes data of a lobby, or of a member of it, and tells all members. `by` is the user that does it; `None` for the
    /// application and for operators. Returns the `seq` of the message.
    pub(super) fn change_data(
        &mut self,
        lobby: LobbyKey,
        by: Option<&str>,
        member: Option<SeatKey>,
        changes: &[Change<'_>],
    ) -> Result<u64, ControlError> {
        self.flush_presence(lobby);
        self.directory.get_lobby(lobby).ok_or(ControlError::NoSuchLobby)?;
        self.directory.fits_data(lobby, member, changes)?;
        let conn = member.map(|seat| self.directory.seat(seat).id);
        let seq = self.directory.lobby_ref(lobby).seq + 1;
        self.directory.set_data(lobby, member, changes, seq);
        let (sent, _) = self.send_numbered(lobby, |_, text, seq| protocol::write_state(text, seq, by, conn, changes));
        debug_assert_eq!(seq, sent);
        self.unflushed_lobbies.push(lobby);
        Ok(seq)
    }

    /// The same for data as a JSON object.
    pub(super) fn change_data_json(
        &mut self,
        lobby: LobbyKey,
        by: Option<&str>,
        member: Option<SeatKey>,
        data: &str,
    ) -> Result<u64, ControlError> {
        protocol::check_data(data, self.config.max_json_depth).map_err(|why| ControlError::Invalid(why.to_string()))?;
        let data = DataChanges::read(data).map_err(|why| ControlError::Invalid(why.to_owned()))?;
        self.change_data(lobby, by, member, &data.changes())
    }

    /// Changes settings of a lobby, and tells all members. Returns the `seq` of the message.
    pub(super) fn change_settings(
        &mut self,
        lobby: LobbyKey,
        by: Option<&str>,
        change: &SettingsChange,
    ) -> Result<u64, ControlError> {
        let bounds = self.directory.control_bounds().ok_or(ControlError::Off)?.settings;
        change.check(bounds).map_err(ControlError::Invalid)?;
        self.flush_presence(lobby);
        self.directory.get_lobby(lobby).ok_or(ControlError::NoSuchLobby)?;
        self.directory.set_settings(lobby, change);
        let seq = self.send_settings(lobby, by, change);
        self.unflushed_lobbies.push(lobby);
        Ok(seq)
    }

    fn send_settings(&mut self, lobby: LobbyKey, by: Option<&str>, change: &SettingsChange) -> u64 {
        let (seq, _) = self.send_numbered(lobby, |core, text, seq| {
            let control = core.directory.control(lobby).expect("lobby control is on");
            let bounds = core.directory.control_bounds().expect("lobby control is on").settings;
            let is_locked = core.directory.lobby_ref(lobby).locked;
            protocol::write_settings(text, seq, by, (&control.settings, is_locked), bounds, change);
        });
        seq
    }

    /// Makes a member the host, and tells all members. Returns the `seq` of the message.
    pub(super) fn hand_over(&mut self, lobby: LobbyKey, to: SeatId) -> Result<u64, ControlError> {
        self.flush_presence(lobby);
        self.directory.get_lobby(lobby).ok_or(ControlError::NoSuchLobby)?;
        let seat = self.directory.find_seat(lobby, to).filter(|&seat| self.directory.can_be_host(seat));
        let seat = seat.ok_or(ControlError::NoSuchMember)?;
        let is_other = !self.directory.is_host(seat);
        self.directory.set_host(seat);
        if is_other {
            self.feed_host(seat);
        }
        Ok(self.send_host(lobby, to))
    }

    fn send_host(&mut self, lobby: LobbyKey, host: SeatId) -> u64 {
        self.send_numbered(lobby, |_, text, seq| protocol::write_host(text, seq, host)).0
    }

    /// Ends all seats of a user in a lobby, and bans it if `is_banned`. Returns the number of seats.
    pub(super) fn kick_user(&mut self, lobby: LobbyKey, user: &str, is_banned: bool) -> usize {
        if is_banned {
            self.directory.ban(lobby, user);
            self.directory.forget_named_seat(lobby, user, self.clock.now());
        }
        let reason = if is_banned { CloseReason::Banned } else { CloseReason::Kicked };
        let seats = self.directory.seats_of(user).iter().copied();
        let seats: Vec<SeatKey> = seats.filter(|&seat| self.directory.seat(seat).lobby == lobby).collect();
        if self.is_clustered() {
            seats.iter().for_each(|&seat| self.close_seat(seat, reason));
            return seats.len();
        }
        let (conns, away) = (self.conns_of(&seats), self.away_among(&seats));
        self.close_away(&away, reason);
        conns.iter().for_each(|conn| self.begin_close(conn.key(), reason));
        seats.len()
    }

    /// The users that are banned from a lobby, oldest ban first.
    pub(super) fn banned_users(&self, lobby: LobbyKey) -> Vec<SmolStr> {
        self.directory.bans(lobby).cloned().collect()
    }
}

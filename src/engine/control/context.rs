//! The methods of [`Context`] for lobby control.

use super::super::context::Context;
use super::super::member::Member;
use super::ControlError;
use crate::base::id::SeatId;
use crate::protocol;

/// # Lobby control
///
/// These methods need [`App::LOBBY_CONTROL`](crate::App::LOBBY_CONTROL). A change is sent to all members, and kept for those that
/// come back. An application that owns a part refuses the requests of members in [`App::allows`](crate::App::allows).
impl Context<'_> {
    /// Returns the data of a lobby as a JSON object; `None` if there is no such lobby, or lobby control is off.
    pub fn lobby_data(&self, lobby: &str) -> Option<String> {
        self.inspect(|core| {
            let control = core.directory.control(core.directory.find_lobby(lobby)?)?;
            let mut text = String::new();
            protocol::push_data(&mut text, &control.data);
            Some(text)
        })
    }

    /// Changes data of a lobby. `data` is a JSON object: `null` deletes a key. Returns the `seq` of the `state` that all
    /// members are sent.
    ///
    /// ```
    /// use lobbyd::control::{ControlError, LobbyControl};
    /// use lobbyd::{App, Authorization, Context, Member, Message, Protocol, Request};
    ///
    /// /// Counts rounds in the lobby's data, which only this application writes.
    /// struct Rounds(u32);
    ///
    /// impl App for Rounds {
    ///     const PROTOCOL: Protocol = Protocol::Json;
    ///     const LOBBY_CONTROL: LobbyControl = LobbyControl::On;
    ///
    ///     fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
    ///         Authorization::token_is_user(request)
    ///     }
    ///
    ///     fn allows(&mut self, _: &mut Context<'_>, _: &Member, request: lobbyd::sending::RelayRequest<'_>) -> bool {
    ///         !matches!(request, lobbyd::sending::RelayRequest::Set { of: None, .. })
    ///     }
    ///
    ///     fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, _: Message<'_>) {
    ///         self.0 += 1;
    ///         let changed = cx.set_lobby_data(from.lobby(), &format!(r#"{{"round":{}}}"#, self.0));
    ///         assert!(!matches!(changed, Err(ControlError::Off)));
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ControlError`] if there is no such lobby, or the data is not valid or too large. Nothing has changed then.
    pub fn set_lobby_data(&mut self, lobby: &str, data: &str) -> Result<u64, ControlError> {
        self.run(|core| {
            let lobby = core.controlled_lobby(lobby)?;
            core.change_data_json(lobby, None, None, data)
        })
    }

    /// Returns the data of a member as a JSON object; `None` if it has left, or lobby control is off.
    pub fn member_data(&self, member: &Member) -> Option<String> {
        self.inspect(|core| {
            let is_there = core.directory.is_current_seat(member.seat_key, member.seat);
            core.directory.control_bounds().filter(|_| is_there)?;
            let mut text = String::new();
            match core.directory.member_data(member.seat_key) {
                Some(data) => protocol::push_data(&mut text, data),
                None => text.push_str("{}"),
            }
            Some(text)
        })
    }

    /// Changes data of a member, as [`set_lobby_data`](Self::set_lobby_data) does for a lobby.
    ///
    /// # Errors
    ///
    /// [`ControlError`] if the member has left or only watches, or the data is not valid or too large. Nothing has changed
    /// then.
    pub fn set_member_data(&mut self, member: &Member, data: &str) -> Result<u64, ControlError> {
        self.run(|core| {
            let lobby = core.controlled_lobby(&member.lobby)?;
            let seat = core.directory.find_seat(lobby, member.seat).ok_or(ControlError::NoSuchMember)?;
            core.change_data_json(lobby, None, Some(seat), data)
        })
    }

    /// Returns the seat of the host of a lobby; `None` if there is no such lobby, or it has no host yet.
    pub fn lobby_host(&self, lobby: &str) -> Option<SeatId> {
        self.inspect(|core| core.directory.host(core.directory.find_lobby(lobby)?))
    }

    /// Makes a member the host of its lobby.
    ///
    /// # Errors
    ///
    /// [`ControlError::NoSuchMember`] if it is not present, has no session, or only watches.
    pub fn set_lobby_host(&mut self, member: &Member) -> Result<u64, ControlError> {
        self.run(|core| {
            let lobby = core.controlled_lobby(&member.lobby)?;
            core.hand_over(lobby, member.seat)
        })
    }

    /// Returns the settings of a lobby as the JSON object that its members see; `None` if there is no such lobby, or lobby
    /// control is off.
    pub fn lobby_settings(&self, lobby: &str) -> Option<String> {
        self.inspect(|core| {
            let lobby = core.directory.find_lobby(lobby)?;
            let (control, bounds) = (core.directory.control(lobby)?, core.directory.control_bounds()?.settings);
            let is_locked = core.directory.lobby_ref(lobby).locked;
            Some(protocol::settings_json(&control.settings, is_locked, bounds))
        })
    }

    /// Changes settings of a lobby. `settings` is a JSON object with the settings to change, as in the request of a member.
    ///
    /// # Errors
    ///
    /// [`ControlError`] if there is no such lobby, or a value breaks a rule. Nothing has changed then.
    pub fn set_lobby_settings(&mut self, lobby: &str, settings: &str) -> Result<u64, ControlError> {
        self.run(|core| {
            let lobby = core.controlled_lobby(lobby)?;
            let change = protocol::read_settings(settings).map_err(ControlError::Invalid)?;
            core.change_settings(lobby, None, &change)
        })
    }

    /// Bans a user from a lobby and ends its seats in it. Returns the number of seats that ended.
    ///
    /// # Errors
    ///
    /// [`ControlError`] if there is no such lobby, or lobby control is off.
    pub fn ban_from_lobby(&mut self, lobby: &str, user: &str) -> Result<usize, ControlError> {
        self.run(|core| {
            let lobby = core.controlled_lobby(lobby)?;
            Ok(core.kick_user(lobby, user, true))
        })
    }

    /// Ends the ban of a user. Returns false if there was none. A user who was kicked by it, and had a session, is still refused for
    /// `seat_grace` after the kick.
    ///
    /// # Errors
    ///
    /// [`ControlError`] if there is no such lobby, or lobby control is off.
    pub fn unban_from_lobby(&mut self, lobby: &str, user: &str) -> Result<bool, ControlError> {
        self.run(|core| {
            let lobby = core.controlled_lobby(lobby)?;
            Ok(core.directory.unban(lobby, user))
        })
    }

    /// Returns the users that are banned from a lobby, oldest ban first.
    pub fn lobby_bans(&self, lobby: &str) -> Vec<String> {
        self.inspect(|core| {
            let lobby = core.directory.find_lobby(lobby);
            lobby.map_or(Vec::new(), |lobby| core.banned_users(lobby).into_iter().map(Into::into).collect())
        })
    }
}

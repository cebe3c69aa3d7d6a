//! Carries out operators' commands of lobby control, and shows its state to them.

use std::time::Duration;

use super::super::Engine;
use super::super::app::App;
use super::super::core::Core;
use super::super::operator::{OperatorAnswer, OperatorRefusal};
use super::ControlError;
use super::command::{ControlSummary, LobbyChange, LobbyControlView, NewLobby, SettingsText};
use crate::base::id::{LobbyKey, SeatId, SeatKey};
use crate::base::list_query::is_pool;
use crate::lobby::control::entries::Change;
use crate::lobby::control::keeping::LobbyWithSeats;
use crate::lobby::control::settings::SettingsChange;
use crate::lobby::{is_lobby_code, is_user_id};
use crate::protocol::{self, DataChanges};

impl From<ControlError> for OperatorRefusal {
    fn from(error: ControlError) -> OperatorRefusal {
        match error {
            ControlError::Off => OperatorRefusal::ControlOff,
            ControlError::NoSuchLobby => OperatorRefusal::NoSuchLobby,
            ControlError::NoSuchMember => OperatorRefusal::NoSuchMember,
            ControlError::Invalid(why) => OperatorRefusal::Invalid(why),
            ControlError::TooLarge(why) => OperatorRefusal::TooLarge(why),
        }
    }
}

fn invalid(why: impl Into<String>) -> OperatorRefusal {
    OperatorRefusal::Invalid(why.into())
}

impl<A: App> Engine<A> {
    /// Data, settings and all else that lobby control knows of a lobby. `None` if there is no lobby with this code, or
    /// lobby control is off.
    pub fn lobby_control(&self, code: &str) -> Option<LobbyControlView> {
        let core = &self.core;
        let lobby = core.directory.find_lobby(code)?;
        let (control, bounds) = (core.directory.control(lobby)?, core.directory.control_bounds()?.settings);
        let is_locked = core.directory.lobby_ref(lobby).locked;
        let mut data = String::new();
        protocol::push_data(&mut data, &control.data);
        let named = core.directory.named_seats(lobby);
        let (reserved, reserved_for) = match named {
            Some((users, until)) => (users.map(str::to_owned).collect(), Some(until - core.now())),
            None => (Vec::new(), None),
        };
        Some(LobbyControlView {
            host: core.directory.host(lobby),
            settings: protocol::settings_json(&control.settings, is_locked, bounds),
            data,
            bans: core.banned_users(lobby).iter().map(ToString::to_string).collect(),
            countdown: control.countdown.map(|at| core.unix_millis_at(at)),
            reserved,
            reserved_for,
        })
    }
}

impl Core {
    pub(in crate::engine) fn control_summary(&self, lobby: LobbyKey) -> Option<ControlSummary> {
        let settings = &self.directory.control(lobby)?.settings;
        Some(ControlSummary {
            watchers: self.directory.lobby_ref(lobby).watchers(),
            is_listed: settings.listed,
            name: settings.name.as_ref().map(ToString::to_string),
            has_password: settings.password.is_some(),
            reserved: self.directory.named_seats(lobby).map_or(0, |(users, _)| users.count()),
        })
    }

    /// Returns the data of a member as a JSON object; `None` with lobby control off, and for a watcher.
    pub(in crate::engine) fn member_data_json(&self, seat: SeatKey) -> Option<String> {
        self.directory.control_bounds().filter(|_| !self.directory.seat(seat).is_watcher)?;
        let mut text = String::new();
        match self.directory.member_data(seat) {
            Some(data) => protocol::push_data(&mut text, data),
            None => text.push_str("{}"),
        }
        Some(text)
    }

    /// Carries out an operator's change of a lobby.
    pub(in crate::engine) fn change_lobby(
        &mut self,
        code: &str,
        change: LobbyChange,
    ) -> Result<OperatorAnswer, OperatorRefusal> {
        let lobby = self.controlled_lobby(code)?;
        // The command is judged by what the members have been told.
        self.flush_presence(lobby);
        self.directory.get_lobby(lobby).ok_or(OperatorRefusal::NoSuchLobby)?;
        let seq = match change {
            LobbyChange::Data { of, if_seq, data } => self.change_data_if(lobby, of, if_seq, &data)?,
            LobbyChange::Settings(SettingsText(settings)) => {
                let change = protocol::read_settings(&settings).map_err(OperatorRefusal::Invalid)?;
                self.change_settings(lobby, None, &change)?
            }
            LobbyChange::Host(conn) => self.hand_over(lobby, conn)?,
            LobbyChange::Ban(user) => {
                if !is_user_id(&user) {
                    return Err(invalid("user must be a user id: 1 to 128 bytes without control characters"));
                }
                return Ok(OperatorAnswer::Ending(self.kick_user(lobby, &user, true)));
            }
            LobbyChange::Unban(user) => {
                return match self.directory.unban(lobby, &user) {
                    true => Ok(OperatorAnswer::Unbanned),
                    false => Err(OperatorRefusal::NotBanned),
                };
            }
        };
        Ok(OperatorAnswer::Changed { seq })
    }

    /// Changes data of a lobby, or of the member in a seat, unless one of its keys has changed since `if_seq`.
    fn change_data_if(
        &mut self,
        lobby: LobbyKey,
        of: Option<SeatId>,
        if_seq: Option<u64>,
        data: &str,
    ) -> Result<u64, OperatorRefusal> {
        let find = |of| self.directory.find_seat(lobby, of).ok_or(OperatorRefusal::NoSuchMember);
        let member = of.map(find).transpose()?;
        let changes = self.read_data(data)?;
        let changes = changes.changes();
        if let Some(if_seq) = if_seq {
            let seq = self.newest_change(lobby, member, &changes);
            if seq > if_seq {
                let mut data = String::new();
                let current = self.entries_of(lobby, member);
                let values = changes.iter().map(|&(key, _)| (key, current.and_then(|current| current.get(key))));
                protocol::push_changes(&mut data, values);
                return Err(OperatorRefusal::Conflict { seq, data });
            }
        }
        Ok(self.change_data(lobby, None, member, &changes)?)
    }

    /// Reads data as members may send it.
    fn read_data<'a>(&self, data: &'a str) -> Result<DataChanges<'a>, OperatorRefusal> {
        if data.len() > self.config.max_message_bytes.0 {
            return Err(OperatorRefusal::TooLong);
        }
        protocol::check_data(data, self.config.max_json_depth).map_err(|_| OperatorRefusal::BadMessage)?;
        DataChanges::read(data).map_err(invalid)
    }

    /// Creates a lobby as an operator wants it, or changes nothing.
    pub(in crate::engine) fn create_lobby(&mut self, new: &NewLobby) -> Result<OperatorAnswer, OperatorRefusal> {
        let NewLobby { code, seats, settings, data, ttl, pool } = new;
        let bounds = self.directory.control_bounds().ok_or(OperatorRefusal::ControlOff)?.settings;
        // A node that drains has refused its own operators before; those of other nodes are served.
        if self.is_ending() {
            return Err(OperatorRefusal::Draining);
        }
        self.check_new_lobby(code.as_deref(), seats, pool.as_deref(), *ttl)?;
        let change = match settings {
            Some(SettingsText(settings)) => protocol::read_settings(settings).map_err(OperatorRefusal::Invalid)?,
            None => SettingsChange::default(),
        };
        change.check(bounds).map_err(OperatorRefusal::Invalid)?;
        let max = change.max.flatten();
        if !self.directory.fits_seats(max, seats.len()) {
            let most = max.or(self.config.max_per_lobby.bound()).unwrap_or(u32::MAX);
            return Err(invalid(format!("seats has {} users: the lobby has room for {most}", seats.len())));
        }
        let changes = data.as_deref().map(|data| self.read_data(data)).transpose()?;
        let changes: Vec<Change<'_>> = changes.iter().flat_map(DataChanges::changes).collect();
        self.directory.fits_new_data(&changes).map_err(ControlError::from)?;
        if !self.directory.has_lobby_room() {
            return Err(OperatorRefusal::LobbyLimit);
        }
        let code = code.clone().unwrap_or_else(|| self.directory.new_code());
        let (pool, until) = (pool.as_deref(), self.now() + *ttl);
        let new = LobbyWithSeats { code: &code, pool, max, users: seats, until };
        let lobby = self.directory.create_with_seats(&new, self.clock.unix_micros());
        // No member has been told anything, so this takes no `seq`.
        self.directory.set_settings(lobby, &change);
        if !changes.is_empty() {
            self.directory.set_data(lobby, None, &changes, 0);
        }
        let epoch = self.directory.lobby_ref(lobby).epoch;
        Ok(OperatorAnswer::Created { lobby: code, epoch })
    }

    /// Checks the names and the time of a new lobby.
    fn check_new_lobby(
        &self,
        code: Option<&str>,
        seats: &[String],
        pool: Option<&str>,
        ttl: Duration,
    ) -> Result<(), OperatorRefusal> {
        if code.is_some_and(|code| !is_lobby_code(code)) {
            return Err(invalid("code must have 1 to 64 of A-Z a-z 0-9 _ -"));
        }
        if pool.is_some_and(|pool| !is_pool(pool)) {
            return Err(invalid("pool must have 1 to 32 of A-Z a-z 0-9 _ -"));
        }
        let mut users: Vec<&String> = seats.iter().collect();
        users.sort_unstable();
        if !users.iter().all(|user| is_user_id(user)) {
            return Err(invalid("seats must be user ids: 1 to 128 bytes without control characters"));
        }
        if let Some(twice) = users.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid(format!("seats has {:?} twice", twice[0])));
        }
        let most = self.config.max_seats_ttl;
        if ttl.is_zero() || ttl > most {
            return Err(invalid(format!(
                "ttl_ms must be from 1 to {}, the max_seats_ttl of this server",
                most.as_millis()
            )));
        }
        if code.is_some_and(|code| self.directory.find_lobby(code).is_some()) {
            return Err(OperatorRefusal::LobbyExists);
        }
        Ok(())
    }
}

//! Model of lobby control: who may change a lobby, who its host is, when it starts, who is kept out of it, and for how long
//! it exists without members.
//!
//! Fed with the requests that the application allowed, with everything that was said, and with the changes of the seats.
//! Compared with the engine after every turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Deserialize;

use super::lobby_view::{LobbyFrame, LobbyView, Values, read_values};
use super::relay::MessageId;
use super::seats::SeatModel;
use super::sessions::SessionModel;
use super::wall_clock::WallClock;
use crate::base::id::SeatId;
use crate::base::time::Time;
use crate::config::{Config, Limit};
use crate::engine::app::Member;

/// Lobby control of all lobbies.
#[derive(Debug)]
pub(crate) struct ControlModel {
    host_grace: Duration,
    max_bans: usize,
    pub(super) max_lobbies: Limit,
    defaults: Values,
    /// Whether a seat may be reserved before its connection joins. Then a lobby may exist without seats.
    pub(super) may_reserve: bool,
    pub(super) lobbies: BTreeMap<Box<str>, Lobby>,
    /// The request that the application allowed last, until its frame was said.
    allowed: Option<Allowed>,
    /// Changes that were made, by the mark of their client.
    done: BTreeSet<MessageId>,
    newly_done: Vec<MessageId>,
    /// The newest seat at the last check.
    pub(super) newest_seat: SeatId,
    /// Whether the present command of an operator may change a lobby.
    pub(crate) is_commanding: bool,
}

/// One lobby.
#[derive(Debug)]
pub(super) struct Lobby {
    pub(super) epoch: u64,
    pub(super) view: LobbyView,
    bans: VecDeque<Box<str>>,
    /// Time of the start, during a countdown.
    pub(super) starts_at: Option<Time>,
    /// Whether it has started, and the settings that follow were not said yet.
    has_started: bool,
    /// Since when it has no members.
    pub(super) empty_since: Option<Time>,
}

/// A request that the application allowed.
#[derive(Debug)]
struct Allowed {
    from: Member,
    word: &'static str,
    of: Option<SeatId>,
    text: String,
}

/// What the models of members know, while the events of one call of the engine are fed.
#[derive(Clone, Copy)]
pub(crate) struct Members<'a> {
    pub(crate) seats: &'a SeatModel,
    pub(crate) sessions: &'a SessionModel,
    /// Seats that change in this call. The order among these changes and what is said is not known.
    pub(crate) unflushed: &'a BTreeSet<SeatId>,
}

/// The type of a frame.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    kind: std::borrow::Cow<'a, str>,
}

/// The mark of a client in a value: the number of its link, and the `ref`.
#[derive(Deserialize)]
struct Marked {
    l: u32,
    r: u32,
}

/// The setting `start`.
#[derive(Deserialize)]
pub(super) struct StartRule {
    min: usize,
    ready: bool,
    countdown_ms: u64,
}

impl Members<'_> {
    /// The seats in a lobby, in join order.
    pub(super) fn of(&self, lobby: &str) -> Vec<SeatId> {
        let of_lobby = self.seats.iter().filter(|(_, seated)| *seated.lobby == *lobby && !seated.is_watcher);
        of_lobby.map(|(seat, _)| seat).collect()
    }

    /// Whether the member in a seat can become the host.
    pub(super) fn is_candidate(&self, seat: SeatId) -> bool {
        self.sessions.has_session(seat) && !self.sessions.is_away(seat)
    }
}

impl Lobby {
    fn new(epoch: u64, defaults: &Values) -> Lobby {
        Lobby {
            epoch,
            view: LobbyView { settings: defaults.clone(), ..LobbyView::default() },
            bans: VecDeque::new(),
            starts_at: None,
            has_started: false,
            empty_since: None,
        }
    }

    pub(super) fn setting(&self, key: &str) -> &str {
        self.view.settings.get(key).map_or("null", |value| value)
    }

    pub(super) fn is_host(&self, seat: SeatId) -> bool {
        self.view.host.as_deref() == Some(&*seat.to_string())
    }

    pub(super) fn empty_ttl(&self) -> Duration {
        Duration::from_millis(self.setting("empty_ttl_ms").parse().unwrap_or(0))
    }

    pub(super) fn start_rule(&self) -> Option<StartRule> {
        serde_json::from_str(self.setting("start")).ok()
    }

    /// Whether the lobby may start: enough members, all present and, if they have to be, ready. `None` if it depends on a seat
    /// that is changing.
    pub(super) fn may_start(&self, code: &str, members: Members<'_>) -> Option<bool> {
        let Some(rule) = self.start_rule() else { return Some(false) };
        let seats = members.of(code);
        if !members.unflushed.is_empty() {
            return None;
        }
        let is_ready = |seat: &SeatId| {
            let data = self.view.members.get(&*seat.to_string());
            data.and_then(|data| data.get("ready")).is_some_and(|value| **value == *"true")
        };
        let fits = |seat: &SeatId| !members.sessions.is_away(*seat) && (!rule.ready || is_ready(seat));
        Some(seats.len() >= rule.min && seats.iter().all(fits))
    }
}

impl ControlModel {
    /// `None` with lobby control off.
    pub(crate) fn new(config: &Config, may_reserve: bool) -> Option<ControlModel> {
        let max = config.max_per_lobby.bound().map_or("null".into(), |max| max.to_string());
        let defaults = format!(
            r#"{{"max":{max},"locked":false,"listed":false,"name":null,"tags":{{}},"has_password":false,"write":"host","watchers":{},"start":null,"empty_ttl_ms":0}}"#,
            config.max_watchers
        );
        config.lobby_control.then(|| ControlModel {
            host_grace: config.host_grace,
            max_bans: config.max_bans as usize,
            max_lobbies: config.max_lobbies,
            defaults: read_values(&defaults).expect("an object"),
            may_reserve,
            lobbies: BTreeMap::new(),
            allowed: None,
            done: BTreeSet::new(),
            newly_done: Vec::new(),
            newest_seat: SeatId(0),
            is_commanding: false,
        })
    }

    pub(crate) fn view_of(&self, lobby: &str) -> Option<(u64, &LobbyView)> {
        self.lobbies.get(lobby).map(|lobby| (lobby.epoch, &lobby.view))
    }

    /// Takes the marks of the changes that were made since the last call.
    pub(crate) fn take_done(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.newly_done)
    }

    /// A member has joined, or is about to, in a lobby that is in this epoch. Returns whether the lobby was not known.
    pub(crate) fn lobby_found(&mut self, code: &str, epoch: u64) -> bool {
        let is_new = self.lobbies.get(code).is_none_or(|lobby| lobby.epoch != epoch);
        if is_new {
            self.lobbies.insert(code.into(), Lobby::new(epoch, &self.defaults));
        }
        is_new
    }

    /// A member has joined in a new seat.
    pub(crate) fn joined(&mut self, member: &Member, members: Members<'_>) -> Result<(), String> {
        let count = members.of(member.lobby()).len() as u64;
        let may_reserve = self.may_reserve;
        // A member that left in the same call may have been the only one.
        let defaults = &self.defaults;
        let lobby = self.lobbies.entry(member.lobby().into()).or_insert_with(|| Lobby::new(0, defaults));
        lobby.empty_since = None;
        if !may_reserve && !member.is_watcher() {
            let is_locked = lobby.setting("locked") == "true" || lobby.starts_at.is_some();
            let has_room = lobby.setting("max").parse().ok().is_none_or(|max: u64| count <= max);
            if is_locked || !has_room {
                return Err(format!("{} has joined a lobby that is locked, or full with {count}", member.user()));
            }
        }
        self.check_banned(member)
    }

    /// Checks that the user of a member that has just got a seat is not banned.
    pub(crate) fn check_banned(&self, member: &Member) -> Result<(), String> {
        let lobby = self.lobbies.get(member.lobby());
        if lobby.is_some_and(|lobby| lobby.bans.iter().any(|user| **user == *member.user())) {
            return Err(format!("{} is banned and has got a seat", member.user()));
        }
        Ok(())
    }

    /// A member has left. `is_last`: no seat is left in its lobby.
    pub(crate) fn left(&mut self, member: &Member, is_last: bool, at: Time) {
        if let Some(lobby) = self.lobbies.get_mut(member.lobby()) {
            lobby.view.members.remove(&*member.seat().to_string());
            lobby.empty_since = is_last.then_some(at);
        }
    }

    /// The application has allowed a request. It is carried out, unless a condition does not hold or a bound has no room.
    pub(crate) fn allowed(
        &mut self,
        from: &Member,
        word: &'static str,
        of: Option<SeatId>,
        text: &str,
        members: Members<'_>,
    ) -> Result<(), String> {
        let Some(lobby) = self.lobbies.get_mut(from.lobby()) else {
            return Err(format!("{word} in a lobby that was not found"));
        };
        // The host moves without a frame if all members are new.
        let is_known = lobby.view.host.as_ref().is_some_and(|host| {
            !members.unflushed.iter().any(|seat| seat.to_string() == **host)
                && members.seats.iter().any(|(seat, _)| seat.to_string() == **host)
        });
        let is_own = word == "set" && (of == Some(from.seat()) || (of.is_none() && lobby.view.all_may_write()));
        if is_known && !is_own && !lobby.is_host(from.seat()) {
            return Err(format!("{} has made the request {word}, and is not the host", from.user()));
        }
        match word {
            "ban" => {
                lobby.bans.retain(|user| **user != *text);
                lobby.bans.push_back(text.into());
                while lobby.bans.len() > self.max_bans {
                    lobby.bans.pop_front();
                }
            }
            "unban" => lobby.bans.retain(|user| **user != *text),
            _ => {}
        }
        self.allowed = Some(Allowed { from: from.clone(), word, of, text: text.to_owned() });
        Ok(())
    }

    /// A lobby has said a numbered frame to its members. Returns whether it says that the lobby is locked, or not any more.
    pub(crate) fn said(
        &mut self,
        (code, epoch): (&str, u64),
        text: &str,
        at: Time,
        members: Members<'_>,
        clock: &WallClock,
    ) -> Result<Option<bool>, String> {
        self.lobby_found(code, epoch);
        let Kind { kind } = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let Some(frame) = LobbyFrame::read(&kind, text)? else { return Ok(None) };
        let checked = match &frame {
            LobbyFrame::State { by, conn, data } => self.check_state(by.as_deref(), conn.as_deref(), data),
            LobbyFrame::Host { conn } => self.check_host(code, conn, at, members),
            LobbyFrame::Settings { by, settings } => self.check_settings(code, by.as_deref(), settings),
            LobbyFrame::Countdown { at: unix } => self.check_countdown(code, *unix, at, members, clock),
            LobbyFrame::Start { seats, count } => self.check_start(code, seats.as_deref(), *count, at, members),
        };
        let lobby = self.lobbies.get_mut(code).expect("it was found");
        lobby.view.apply(&frame);
        if matches!(frame, LobbyFrame::Start { .. } | LobbyFrame::Countdown { at: None }) {
            lobby.starts_at = None;
        }
        let locked = match &frame {
            LobbyFrame::Settings { settings, .. } => settings.get("locked").map(|locked| **locked == *"true"),
            _ => None,
        };
        checked.map(|()| locked).map_err(|error| format!("{error}: {text}"))
    }

    fn take_allowed(&mut self, word: &str, by: Option<&str>) -> Result<Option<Allowed>, String> {
        match self.allowed.take() {
            Some(allowed) if allowed.word == word && by == Some(allowed.from.user()) => Ok(Some(allowed)),
            _ if by.is_none() && self.is_commanding => Ok(None),
            other => Err(format!("a change that nobody has asked for; the last request was {other:?}")),
        }
    }

    fn check_state(&mut self, by: Option<&str>, conn: Option<&str>, data: &Values) -> Result<(), String> {
        let Some(allowed) = self.take_allowed("set", by)? else { return Ok(()) };
        let of = allowed.of.map(|of| of.to_string());
        if of.as_deref() != conn || read_values(&allowed.text)? != *data {
            return Err(format!("a change other than {allowed:?}"));
        }
        let marks = data.values().filter_map(|value| serde_json::from_str(value).ok());
        let marks: BTreeSet<MessageId> = marks.map(|Marked { l, r }| (l, r)).collect();
        for mark in marks {
            if !self.done.insert(mark) {
                return Err(format!("the change of client #{} with the ref {} was made twice", mark.0, mark.1));
            }
            self.newly_done.push(mark);
        }
        Ok(())
    }

    fn check_host(&mut self, code: &str, conn: &str, at: Time, members: Members<'_>) -> Result<(), String> {
        let (lobby, grace) = (&self.lobbies[code], self.host_grace);
        let is_named = |seat: &SeatId| seat.to_string() == conn;
        let seats = members.of(code);
        let is_unflushed = members.unflushed.iter().any(is_named);
        let is_handed_over = self.allowed.as_ref().is_some_and(|allowed| {
            allowed.word == "host" && allowed.from.lobby() == code && allowed.of.as_ref().is_some_and(is_named)
        });
        if !is_unflushed && !seats.iter().any(|seat| is_named(seat) && members.is_candidate(*seat)) {
            return Err("a host that is not a present member with a session".into());
        }
        if is_handed_over {
            self.allowed = None;
            return Ok(());
        }
        let keeps = |seat: &SeatId| {
            let is_in_time = members.sessions.away_since(*seat).is_none_or(|since| at < since + grace);
            lobby.is_host(*seat) && members.sessions.has_session(*seat) && is_in_time
        };
        if seats.iter().any(|seat| !members.unflushed.contains(seat) && keeps(seat)) {
            return Err("the host is another one, although the last one is present or was until just now".into());
        }
        let earliest = seats.iter().find(|seat| !members.unflushed.contains(seat) && members.is_candidate(**seat));
        match earliest {
            Some(earliest)
                if !is_named(earliest) && !members.unflushed.iter().any(|it| is_named(it) && it < earliest) =>
            {
                Err(format!("the host is not the earliest present member, {earliest}"))
            }
            _ => Ok(()),
        }
    }

    fn check_settings(&mut self, code: &str, by: Option<&str>, settings: &Values) -> Result<(), String> {
        let lobby = self.lobbies.get_mut(code).expect("it was found");
        if std::mem::take(&mut lobby.has_started) {
            let expected = read_values(r#"{"locked":true,"start":null}"#).expect("an object");
            return if by.is_none() && *settings == expected {
                Ok(())
            } else {
                Err("other settings after the start".into())
            };
        }
        self.take_allowed("settings", by).map(drop)
    }

    fn check_countdown(
        &mut self,
        code: &str,
        unix: Option<u64>,
        at: Time,
        members: Members<'_>,
        clock: &WallClock,
    ) -> Result<(), String> {
        let lobby = self.lobbies.get_mut(code).expect("it was found");
        let may_start = lobby.may_start(code, members);
        if unix.is_none() {
            return match lobby.starts_at {
                None => Err("the end of a countdown that has not begun".into()),
                Some(_) if may_start == Some(true) => Err("the countdown is cancelled without a reason".into()),
                Some(_) => Ok(()),
            };
        }
        let rule = lobby.start_rule().ok_or("a countdown without a rule")?;
        if may_start == Some(false) || lobby.starts_at.is_some() || rule.countdown_ms == 0 {
            return Err("a countdown begins, and must not".into());
        }
        let starts_at = at + Duration::from_millis(rule.countdown_ms);
        lobby.starts_at = Some(starts_at);
        let expected = clock.micros_at(starts_at) / 1000;
        if unix == Some(expected) { Ok(()) } else { Err(format!("a countdown that does not end at {expected}")) }
    }

    fn check_start(
        &mut self,
        code: &str,
        said: Option<&[Box<str>]>,
        count: usize,
        at: Time,
        members: Members<'_>,
    ) -> Result<(), String> {
        let lobby = self.lobbies.get_mut(code).expect("it was found");
        let may_start = lobby.may_start(code, members);
        lobby.has_started = true;
        let rule = lobby.start_rule().ok_or("a start without a rule")?;
        let is_due = lobby.starts_at.map_or(rule.countdown_ms == 0, |starts_at| at >= starts_at);
        if !is_due || may_start == Some(false) {
            return Err("the lobby starts, and must not".into());
        }
        let seats: Vec<String> = members.of(code).into_iter().map(|seat| seat.to_string()).collect();
        let is_same = said.is_none_or(|said| seats.iter().map(|seat| &**seat).eq(said.iter().map(|conn| &**conn)));
        if may_start.is_some() && (seats.len() != count || !is_same) {
            return Err("the lobby starts with other members".into());
        }
        Ok(())
    }

    /// The turn is over: nothing follows any more from what was allowed.
    pub(super) fn end_turn(&mut self) {
        self.allowed = None;
    }

    pub(super) fn host_grace(&self) -> Duration {
        self.host_grace
    }
}

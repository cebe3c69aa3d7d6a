//! A client's view of its lobby: the members, and with lobby control data, host, settings and countdown.
//!
//! Knows no connection and no time. Each change is reported as an event, so that the events and the view always agree.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::event::{Event, LobbyMember, Seat};
use super::fields::Fields;
use super::ordered::Ordered;
use super::queue::EventQueue;
use super::weight;

/// Memory of a member, without its names and data.
const MEMBER: usize = 256;

/// Author and number of a change.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    pub(super) by: Option<String>,
    pub(super) seq: Option<u64>,
}

/// A member in a list, or in a change of the list.
struct Entry {
    conn: String,
    user: Option<String>,
    is_away: Option<bool>,
    data: Option<Map<String, Value>>,
    reason: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Join,
    Leave,
    Away,
    Back,
}

#[derive(Debug, Default)]
pub(super) struct View {
    members: Ordered<LobbyMember>,
    count: u64,
    me: Option<Arc<str>>,
    host: Option<String>,
    data: Map<String, Value>,
    settings: Map<String, Value>,
    watchers: u64,
    countdown: Option<u64>,
    /// Shared by all members that have no data.
    no_data: Arc<Map<String, Value>>,
    /// Memory of the members.
    members_weight: usize,
    /// Memory of data and settings.
    control_weight: usize,
}

fn entries(fields: &Fields<'_>, name: &str) -> Option<Vec<Entry>> {
    let read = |entry: &Fields<'_>| {
        Some(Entry {
            conn: entry.text("conn")?,
            user: entry.text("user"),
            is_away: entry.flag("away"),
            data: entry.map("data"),
            reason: entry.text("reason"),
        })
    };
    Some(fields.list::<Fields<'_>>(name)?.iter().filter_map(read).collect())
}

fn weight_of(member: &LobbyMember) -> usize {
    MEMBER + member.weight()
}

/// Returns the keys whose values differ, with their new values; `null`: the key is gone.
fn differences(before: &Map<String, Value>, now: &Map<String, Value>) -> Map<String, Value> {
    let changed = now.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let gone = before.keys().filter(|key| !now.contains_key(*key));
    let changed = changed.map(|(key, value)| (key.clone(), value.clone()));
    changed.chain(gone.map(|key| (key.clone(), Value::Null))).collect()
}

impl View {
    // ---- what is known ----

    pub(super) fn members(&self) -> impl Iterator<Item = &LobbyMember> {
        self.members.values()
    }

    pub(super) fn member(&self, conn: &str) -> Option<&LobbyMember> {
        self.members.get(conn)
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn me(&self) -> Option<&LobbyMember> {
        self.member(self.me.as_deref()?)
    }

    pub(super) fn host(&self) -> Option<&LobbyMember> {
        self.member(self.host.as_deref()?)
    }

    pub(super) fn data(&self) -> &Map<String, Value> {
        &self.data
    }

    pub(super) fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    pub(super) fn watchers(&self) -> u64 {
        self.watchers
    }

    pub(super) fn countdown(&self) -> Option<u64> {
        self.countdown
    }

    /// Returns the memory that it takes, roughly.
    pub(super) fn weight(&self) -> usize {
        self.members_weight + self.control_weight
    }

    // ---- members ----

    /// Replaces the members by a `presence_state`. What differs is reported. A lobby that is too large for a list has only
    /// the own member.
    pub(super) fn list(&mut self, state: &Fields<'_>, conn: &str, user: &str, watches: bool, events: &mut EventQueue) {
        let own = || {
            let known = self.member(conn);
            let user = Some(known.map_or(user, |known| known.user()).to_owned());
            let data = known.map(|known| known.data().clone());
            Entry { conn: conn.to_owned(), user, is_away: known.map(|known| known.is_away), data, reason: None }
        };
        let listed = entries(state, "users");
        let listed = listed.unwrap_or_else(|| if watches { Vec::new() } else { vec![own()] });
        let users: BTreeMap<&str, Option<&str>> =
            listed.iter().map(|entry| (&*entry.conn, entry.user.as_deref())).collect();
        let leave = |member: &LobbyMember| Entry {
            conn: member.conn.to_string(),
            user: None,
            is_away: Some(member.is_away),
            data: None,
            reason: Some("unknown".to_owned()),
        };
        // A server that was started anew gives the names of seats again. With another user it is another member.
        let is_gone = |member: &&LobbyMember| {
            users.get(&*member.conn).is_none_or(|user| user.is_some_and(|user| *user != *member.user))
        };
        let gone: Vec<Entry> = self.members().filter(is_gone).map(leave).collect();
        let data: Vec<_> =
            listed.iter().map(|entry| (entry.conn.clone(), entry.data.clone().unwrap_or_default())).collect();
        self.count = state.number("count").unwrap_or(listed.len() as u64);
        // A user with a new seat leaves the former one first.
        for entry in gone {
            self.change_member(Kind::Leave, entry, events);
        }
        for entry in listed {
            self.change_member(Kind::Join, entry, events);
        }
        events.push(Event::Members);
        let origin = Origin { by: None, seq: state.number("seq") };
        for (conn, data) in data {
            self.replace_member_data(&conn, data, &origin, events);
        }
        self.me = self.member(conn).map(|me| me.conn.clone());
    }

    /// Applies a `presence_diff`.
    pub(super) fn change(&mut self, diff: &Fields<'_>, events: &mut EventQueue) {
        let read = |name| entries(diff, name).unwrap_or_default();
        // A member may also have joined and left since the last change.
        let (former, passing) = read("leaves").into_iter().partition(|entry| self.members.get(&entry.conn).is_some());
        let kinds: [(Kind, Vec<Entry>); 5] = [
            (Kind::Leave, former),
            (Kind::Join, read("joins")),
            (Kind::Leave, passing),
            (Kind::Away, read("away")),
            (Kind::Back, read("back")),
        ];
        for (kind, entries) in kinds {
            for entry in entries {
                self.change_member(kind, entry, events);
            }
        }
        self.count = self.members.len() as u64;
        events.push(Event::Members);
    }

    fn change_member(&mut self, kind: Kind, entry: Entry, events: &mut EventQueue) {
        let known = self.members.get(&entry.conn);
        // A list names known members, too.
        let kind = match kind {
            Kind::Join if known.is_some() && entry.is_away == Some(true) => Kind::Away,
            Kind::Join if known.is_some() => Kind::Back,
            kind => kind,
        };
        let was_away = known.map(|known| known.is_away);
        let mut member = known.cloned().unwrap_or_else(|| LobbyMember {
            user: "".into(),
            conn: entry.conn.into(),
            is_away: false,
            data: entry.data.map_or_else(|| self.no_data.clone(), Arc::new),
        });
        member.is_away = entry.is_away.unwrap_or(kind == Kind::Away);
        if let Some(user) = entry.user.filter(|user| **user != *member.user) {
            member.user = user.into();
        }
        if kind == Kind::Leave {
            let gone = self.members.remove(&member.conn);
            self.members_weight -= gone.as_ref().map_or(0, weight_of);
        } else {
            self.put(member.clone());
        }
        if was_away == Some(member.is_away) && kind != Kind::Leave {
            return;
        }
        events.push_change(match kind {
            Kind::Join => Event::Join(member),
            Kind::Leave => Event::Leave { who: member, reason: entry.reason.unwrap_or_default() },
            Kind::Away => Event::Away(member),
            Kind::Back => Event::Back(member),
        });
    }

    fn put(&mut self, member: LobbyMember) {
        self.members_weight += weight_of(&member);
        let before = self.members.insert(&member.conn.clone(), member);
        self.members_weight -= before.as_ref().map_or(0, weight_of);
    }

    fn replace_member_data(&mut self, conn: &str, now: Map<String, Value>, origin: &Origin, events: &mut EventQueue) {
        let Some(member) = self.members.get(conn) else { return };
        let changes = differences(&member.data, &now);
        if changes.is_empty() {
            return;
        }
        let member = LobbyMember { data: Arc::new(now), ..member.clone() };
        self.put(member.clone());
        let Origin { by, seq } = origin.clone();
        events.push_change(Event::Data { changes, who: Some(member), by, seq });
    }

    // ---- lobby control ----

    /// Replaces what is known of the lobby by a `lobby_state`; without one, by nothing. What differs is reported.
    pub(super) fn replace(&mut self, state: Option<&Fields<'_>>, events: &mut EventQueue) {
        let map = |name| state.and_then(|state| state.map(name)).unwrap_or_default();
        let number = |name| state.and_then(|state| state.number(name));
        let origin = Origin { by: None, seq: number("seq") };
        self.watchers = number("watchers").unwrap_or(0);
        self.replace_settings(map("settings"), &origin, events);
        self.replace_data(map("data"), &origin, events);
        self.set_host(state.and_then(|state| state.text("host")), events);
        self.set_countdown(number("countdown"), events);
    }

    /// Applies a `state`: a change of the lobby's data, or of a member's.
    pub(super) fn set(&mut self, state: &Fields<'_>, origin: &Origin, events: &mut EventQueue) {
        let changes = state.map("data").unwrap_or_default();
        let apply = |before: &Map<String, Value>| {
            let mut now = before.clone();
            now.extend(changes);
            now.retain(|_, value| !value.is_null());
            now
        };
        match state.text("conn") {
            None => self.replace_data(apply(&self.data), origin, events),
            Some(conn) => {
                // In a lobby that is too large for a list the others are unknown.
                let Some(member) = self.member(&conn) else { return };
                self.replace_member_data(&conn, apply(&member.data), origin, events);
            }
        }
    }

    fn replace_data(&mut self, now: Map<String, Value>, origin: &Origin, events: &mut EventQueue) {
        let changes = differences(&self.data, &now);
        self.data = now;
        self.weigh_control();
        if !changes.is_empty() {
            let Origin { by, seq } = origin.clone();
            events.push_change(Event::Data { changes, who: None, by, seq });
        }
    }

    /// Applies the change of some settings.
    pub(super) fn configure(&mut self, message: &Fields<'_>, origin: &Origin, events: &mut EventQueue) {
        let mut now = self.settings.clone();
        now.extend(message.map("settings").unwrap_or_default());
        self.replace_settings(now, origin, events);
    }

    fn replace_settings(&mut self, now: Map<String, Value>, origin: &Origin, events: &mut EventQueue) {
        let changes = differences(&self.settings, &now);
        self.settings = now;
        self.weigh_control();
        if !changes.is_empty() {
            let Origin { by, seq } = origin.clone();
            events.push_change(Event::Settings { changes, by, seq });
        }
    }

    fn weigh_control(&mut self) {
        self.control_weight = weight::of_map(&self.data) + weight::of_map(&self.settings);
    }

    pub(super) fn set_host(&mut self, conn: Option<String>, events: &mut EventQueue) {
        if conn != self.host {
            self.host = conn;
            events.push_change(Event::Host(self.host().cloned()));
        }
    }

    pub(super) fn set_countdown(&mut self, at: Option<u64>, events: &mut EventQueue) {
        if at != self.countdown {
            self.countdown = at;
            events.push_change(Event::Countdown(at));
        }
    }

    /// The game starts.
    pub(super) fn start(&mut self, message: &Fields<'_>, events: &mut EventQueue) {
        self.countdown = None;
        let seats = entries(message, "seats").unwrap_or_default();
        let seats = seats.into_iter().map(|seat| Seat { user: seat.user.unwrap_or_default(), conn: seat.conn });
        events.push_change(Event::Start(seats.collect()));
    }
}

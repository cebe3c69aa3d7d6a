//! Requests of lobby control: what each one asks for, and the answer that it must get, judged by what its sender knows.
//!
//! A client has received every change of its lobby when its request is served, so it knows the answer in most cases.

use std::collections::BTreeMap;

use super::books::KnownMember;
use crate::config::Config;
use crate::sim::models::lobby_view::{LobbyFrame, LobbyView, Values, bytes_of};

/// A request of lobby control.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Set { of: Option<Box<str>>, if_seq: Option<u64>, data: Values },
    Host { conn: Box<str> },
    Kick { user: Box<str>, is_banned: bool },
    Unban,
    Settings { expected: Values, is_valid: bool },
}

/// The answer that a request must get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    /// An error with this code.
    Refused(&'static str),
    /// It depends on what the client does not know.
    Unsure,
}

/// The bounds of the configuration, and the requests of a run.
#[derive(Debug)]
pub(crate) struct ControlBook {
    lobby: (usize, usize),
    member: (usize, usize),
    members_bytes: usize,
    pub(crate) max_members: Option<u32>,
    pub(crate) max_watchers: u32,
    pub(crate) max_empty_ttl_ms: u64,
    asked: Vec<Asked>,
    /// Whether the wall clock was ever set. Then the time of a start may be shown differently.
    pub(crate) is_wall_stepped: bool,
}

/// What a client knows of its lobby at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) view: LobbyView,
    /// `seq` of the last change of each key, of the lobby or of the member in a seat.
    pub(super) changed: BTreeMap<(Option<Box<str>>, Box<str>), u64>,
    /// Changes up to this `seq` are not known one by one.
    pub(super) since: u64,
}

/// The client that asks.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) conn: &'a str,
    pub(super) user: &'a str,
    /// `None` if the client knows only their number, or is not told of changes any more.
    pub(super) members: Option<&'a [KnownMember]>,
}

impl ControlBook {
    /// `None` with lobby control off.
    pub(crate) fn new(config: &Config) -> Option<ControlBook> {
        config.lobby_control.then(|| ControlBook {
            lobby: (config.max_lobby_keys as usize, config.max_lobby_data.0),
            member: (config.max_member_keys as usize, config.max_member_data.0),
            members_bytes: config.max_members_data.0,
            max_members: config.max_per_lobby.bound(),
            max_watchers: config.max_watchers,
            max_empty_ttl_ms: config.max_empty_ttl.as_millis() as u64,
            asked: Vec::new(),
            is_wall_stepped: false,
        })
    }

    /// Adds a request. Returns its index.
    pub(super) fn add(&mut self, asked: Asked) -> u32 {
        self.asked.push(asked);
        self.asked.len() as u32 - 1
    }

    pub(super) fn get(&self, index: u32) -> &Asked {
        &self.asked[index as usize]
    }

    /// Largest number of bytes of the data of the lobby or of a member.
    pub(super) fn most_bytes(&self, is_of_member: bool) -> usize {
        if is_of_member { self.member.1 } else { self.lobby.1 }
    }

    /// Returns the answer that a request must get, if its sender knows `known` when it is served.
    pub(super) fn judge(&self, asked: &Asked, known: &Snapshot, asker: Asker<'_>) -> Verdict {
        let view = &known.view;
        let is_host = view.host.as_deref() == Some(asker.conn);
        match asked {
            Asked::Set { of: None, .. } if !is_host && !view.all_may_write() => Verdict::Refused("not_allowed"),
            Asked::Set { of: Some(of), .. } if **of != *asker.conn => match asker.is_member(of) {
                _ if !is_host => Verdict::Refused("not_allowed"),
                Some(true) => self.judge_change(asked, known, asker),
                Some(false) => Verdict::Refused("user_not_found"),
                None => Verdict::Unsure,
            },
            Asked::Set { .. } => self.judge_change(asked, known, asker),
            _ if !is_host => Verdict::Refused("not_allowed"),
            Asked::Host { conn } => match asker.is_member(conn) {
                Some(true) if asker.is_away(conn) => Verdict::Refused("not_allowed"),
                Some(false) => Verdict::Refused("user_not_found"),
                _ if **conn == *asker.conn => Verdict::Done,
                // Whether the member has a session is not told, and that it is away only after a while.
                _ => Verdict::Unsure,
            },
            Asked::Kick { user, .. } if **user == *asker.user => Verdict::Refused("not_allowed"),
            Asked::Kick { is_banned: true, .. } => Verdict::Done,
            Asked::Kick { user, .. } => match asker.members {
                Some(members) if members.iter().any(|there| there.user == *user) => Verdict::Done,
                _ => Verdict::Unsure,
            },
            Asked::Unban => Verdict::Unsure,
            Asked::Settings { is_valid: true, .. } => Verdict::Done,
            Asked::Settings { is_valid: false, .. } => Verdict::Refused("bad_message"),
        }
    }

    /// Judges a change that its sender may make.
    fn judge_change(&self, asked: &Asked, known: &Snapshot, asker: Asker<'_>) -> Verdict {
        let Asked::Set { of, if_seq, data } = asked else { return Verdict::Unsure };
        let of = of.as_deref();
        if let Some(if_seq) = *if_seq {
            let newest = known.newest(of, data.keys());
            if newest.is_some_and(|newest| newest > if_seq) {
                return Verdict::Refused("conflict");
            }
            // Of the keys without a value, only the last deletions are known to the server.
            let values = known.view.data_of(of);
            let is_exact = data.keys().all(|key| values.contains_key(key));
            if if_seq < known.since || !is_exact {
                return Verdict::Unsure;
            }
        }
        let after = known.view.after(of, data);
        let (keys, bytes) = if of.is_some() { self.member } else { self.lobby };
        if after.len() > keys || bytes_of(&after) > bytes {
            return Verdict::Refused("too_large");
        }
        if of.is_none() {
            return Verdict::Done;
        }
        if asker.members.is_none() {
            return Verdict::Unsure;
        }
        let others = known.view.members.iter().filter(|(conn, _)| Some(&***conn) != of);
        let all = others.map(|(_, values)| bytes_of(values)).sum::<usize>() + bytes_of(&after);
        if all > self.members_bytes { Verdict::Refused("too_large") } else { Verdict::Done }
    }
}

impl Asker<'_> {
    fn is_member(&self, conn: &str) -> Option<bool> {
        self.members.map(|members| members.iter().any(|there| *there.conn == *conn))
    }

    fn is_away(&self, conn: &str) -> bool {
        self.members.is_some_and(|members| members.iter().any(|there| *there.conn == *conn && there.is_away))
    }
}

impl Snapshot {
    /// Returns the `seq` of the newest change of these keys that is known.
    pub(super) fn newest<'a>(&self, of: Option<&str>, keys: impl Iterator<Item = &'a Box<str>>) -> Option<u64> {
        keys.filter_map(|key| self.changed.get(&(of.map(Into::into), key.clone())).copied()).max()
    }

    /// Applies a frame.
    pub(super) fn apply(&mut self, seq: u64, frame: &LobbyFrame) {
        if let LobbyFrame::State { conn, data, .. } = frame {
            self.changed.extend(data.keys().map(|key| ((conn.clone(), key.clone()), seq)));
        }
        self.view.apply(frame);
    }

    /// A member has left.
    pub(super) fn member_left(&mut self, conn: &str) {
        self.view.members.remove(conn);
        self.changed.retain(|(of, _), _| of.as_deref() != Some(conn));
    }
}

impl Asked {
    /// Whether a frame is what follows from the request of `user`.
    pub(super) fn is_answered_by(&self, frame: &LobbyFrame, user: &str) -> bool {
        let is_own = |by: &Option<Box<str>>| by.as_deref() == Some(user);
        match (self, frame) {
            (Asked::Set { of, data, .. }, LobbyFrame::State { by, conn, data: said }) => {
                is_own(by) && of == conn && data == said
            }
            (Asked::Host { conn }, LobbyFrame::Host { conn: said }) => conn == said,
            (Asked::Settings { expected, .. }, LobbyFrame::Settings { by, settings }) => {
                is_own(by) && expected == settings
            }
            _ => false,
        }
    }

    /// Whether a frame follows from it.
    pub(super) fn has_frame(&self) -> bool {
        matches!(self, Asked::Set { .. } | Asked::Host { .. } | Asked::Settings { .. })
    }
}

//! Requests of lobby control: what each one asks for, and the answer that it must get, judged by what its sender knows.
//!
//! A client has received every change of its lobby when its request is served, so it knows the answer in most cases.

use super::books::KnownMember;
use super::known_lobby::Snapshot;
use crate::config::Config;
use crate::sim::models::lobby_view::{LobbyFrame, Values, bytes_of};

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
pub(super) enum ExpectedAnswer {
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
    pub(super) fn judge(&self, asked: &Asked, known: &Snapshot, asker: Asker<'_>) -> ExpectedAnswer {
        let view = &known.view;
        let is_host = view.host.as_deref() == Some(asker.conn);
        match asked {
            Asked::Set { of: None, .. } if !is_host && !view.all_may_write() => ExpectedAnswer::Refused("not_allowed"),
            Asked::Set { of: Some(of), .. } if **of != *asker.conn => match asker.is_member(of) {
                _ if !is_host => ExpectedAnswer::Refused("not_allowed"),
                Some(true) => self.judge_change(asked, known, asker),
                Some(false) => ExpectedAnswer::Refused("user_not_found"),
                None => ExpectedAnswer::Unsure,
            },
            Asked::Set { .. } => self.judge_change(asked, known, asker),
            _ if !is_host => ExpectedAnswer::Refused("not_allowed"),
            Asked::Host { conn } => match asker.is_member(conn) {
                Some(true) if asker.is_away(conn) => ExpectedAnswer::Refused("not_allowed"),
                Some(false) => ExpectedAnswer::Refused("user_not_found"),
                _ if **conn == *asker.conn => ExpectedAnswer::Done,
                // Whether the member has a session is not told, and that it is away only after a while.
                _ => ExpectedAnswer::Unsure,
            },
            Asked::Kick { user, .. } if **user == *asker.user => ExpectedAnswer::Refused("not_allowed"),
            Asked::Kick { is_banned: true, .. } => ExpectedAnswer::Done,
            Asked::Kick { user, .. } => match asker.members {
                Some(members) if members.iter().any(|there| there.user == *user) => ExpectedAnswer::Done,
                _ => ExpectedAnswer::Unsure,
            },
            Asked::Unban => ExpectedAnswer::Unsure,
            Asked::Settings { is_valid: true, .. } => ExpectedAnswer::Done,
            Asked::Settings { is_valid: false, .. } => ExpectedAnswer::Refused("bad_message"),
        }
    }

    /// Judges a change that its sender may make.
    fn judge_change(&self, asked: &Asked, known: &Snapshot, asker: Asker<'_>) -> ExpectedAnswer {
        let Asked::Set { of, if_seq, data } = asked else { return ExpectedAnswer::Unsure };
        let of = of.as_deref();
        if let Some(if_seq) = *if_seq {
            let newest = known.newest(of, data.keys());
            if newest.is_some_and(|newest| newest > if_seq) {
                return ExpectedAnswer::Refused("conflict");
            }
            // Of the keys without a value, only the last deletions are known to the server.
            let values = known.view.data_of(of);
            let is_exact = data.keys().all(|key| values.contains_key(key));
            if if_seq < known.since || !is_exact {
                return ExpectedAnswer::Unsure;
            }
        }
        let after = known.view.after(of, data);
        let (keys, bytes) = if of.is_some() { self.member } else { self.lobby };
        if after.len() > keys || bytes_of(&after) > bytes {
            return ExpectedAnswer::Refused("too_large");
        }
        if of.is_none() {
            return ExpectedAnswer::Done;
        }
        if asker.members.is_none() {
            return ExpectedAnswer::Unsure;
        }
        let others = known.view.members.iter().filter(|(conn, _)| Some(&***conn) != of);
        let all = others.map(|(_, values)| bytes_of(values)).sum::<usize>() + bytes_of(&after);
        if all > self.members_bytes { ExpectedAnswer::Refused("too_large") } else { ExpectedAnswer::Done }
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

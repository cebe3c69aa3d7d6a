//! Model of the restricted identities: an identity ends at its expiry, and is valid in one lobby only.
//!
//! Fed with the identities that the application returns.

use std::collections::BTreeMap;
use std::time::Duration;

use super::wall_clock::WallClock;
use crate::base::id::ConnId;
use crate::base::rate::Rate;
use crate::base::time::Time;
use crate::engine::app::{Identity, Member};

/// Restricted identities of the open connections.
#[derive(Debug)]
pub(crate) struct TokenModel {
    identities: BTreeMap<ConnId, Identity>,
    token_grace: Duration,
}

impl TokenModel {
    pub(crate) fn new(token_grace: Duration) -> TokenModel {
        TokenModel { identities: BTreeMap::new(), token_grace }
    }

    /// The connection was authorized as `identity`, or will be.
    pub(crate) fn authorized(&mut self, conn: ConnId, identity: Identity) {
        self.identities.insert(conn, identity);
    }

    /// The connection was dropped. Returns the own rate of its identity.
    pub(crate) fn dropped(&mut self, conn: ConnId) -> Option<Rate> {
        self.identities.remove(&conn).and_then(|identity| identity.tier)
    }

    /// Returns the own rate of an open connection's identity.
    pub(crate) fn tier_of(&self, conn: ConnId) -> Option<Rate> {
        self.identities.get(&conn).and_then(|identity| identity.tier)
    }

    /// Checks that the identity of a member that joins or takes over a seat allows its lobby.
    pub(crate) fn check_lobby(&self, member: &Member) -> Result<(), String> {
        let (conn, lobby) = (member.conn(), member.lobby());
        let only = self.identities.get(&conn).and_then(|identity| identity.lobby.as_deref());
        if only.is_none_or(|only| only == lobby) {
            return Ok(());
        }
        Err(format!("conn={conn} is in lobby {lobby}, but its identity is restricted to {only:?}"))
    }

    /// Whether the identity of a connection is restricted to another lobby than `lobby`.
    pub(crate) fn is_elsewhere(&self, conn: ConnId, lobby: &str) -> bool {
        let identity = self.identities.get(&conn);
        identity.and_then(|identity| identity.lobby.as_deref()).is_some_and(|only| only != lobby)
    }

    /// Whether the expiry of a connection's identity can have ended the connection now. The grace may not apply to a
    /// connection that is not a member yet.
    pub(crate) fn allows_expiry(&self, conn: ConnId, is_member: bool, now: Time, wall_clock: &WallClock) -> bool {
        let grace = if is_member { Duration::ZERO } else { self.token_grace };
        self.end_of(conn, wall_clock).is_some_and(|end| now + grace >= end)
    }

    /// Checks that a member's identity has not expired more than `slack` ago.
    pub(crate) fn check_expiry(
        &self,
        conn: ConnId,
        now: Time,
        slack: Duration,
        wall_clock: &WallClock,
    ) -> Result<(), String> {
        // A step of the wall clock may move the expiry into the past.
        let end = self.end_of(conn, wall_clock).map(|end| end.max(wall_clock.stepped_at.unwrap_or(Time::ZERO)));
        if end.is_some_and(|end| now >= end + slack) {
            return Err(format!("conn={conn} is still joined, but its identity has expired"));
        }
        Ok(())
    }

    /// Returns the time at which a connection must have ended because its identity expires, `token_grace` included.
    fn end_of(&self, conn: ConnId, wall_clock: &WallClock) -> Option<Time> {
        let millis = self.identities.get(&conn)?.expires?;
        let end = Time::from_micros(millis * 1000) + self.token_grace;
        Some(wall_clock.time_of(end.as_micros()))
    }
}

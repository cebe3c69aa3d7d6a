//! Read-only views of the engine, for tests and operators.

use super::Engine;
use super::app::App;
use crate::base::close::CloseReason;
use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::http::DateLine;

/// A member: its user, its seat, its connection unless it is away, and whether the others were told that it is away.
pub(crate) type InspectedMember<'a> = (&'a str, SeatId, Option<ConnId>, bool);

impl<A: App> Engine<A> {
    /// Returns the close reason of a connection. `None` before one is recorded, and after the connection is freed.
    pub fn ending(&self, conn: ConnId) -> Option<CloseReason> {
        self.core.conns.get(conn).and_then(|slot| self.core.conns.close_reason(slot))
    }

    /// Returns the number of bytes that wait to be written to `conn`.
    pub fn queued_bytes(&self, conn: ConnId) -> usize {
        self.core.queued_bytes(conn)
    }

    /// The header line `Date` of an operator's answer at `now`.
    pub(crate) fn date_line(&self, now: Time) -> DateLine {
        DateLine::at(self.core.clock.unix_at_zero().saturating_add(now.as_micros()))
    }

    /// Whether all presence changes have been flushed, as is required at the end of a turn.
    pub(crate) fn is_presence_flushed(&self) -> bool {
        self.core.directory.is_presence_flushed()
    }

    /// Free room in the outbox of `conn`, in bytes that count against `max_outbound_bytes`.
    pub(crate) fn room(&self, conn: ConnId) -> usize {
        self.core.conns.get(conn).map_or(0, |_| {
            self.core.config.max_outbound_bytes.0.saturating_sub(self.core.egress.queued_size(conn.key()).cost)
        })
    }

    /// Number of connections that are not freed, and number of armed timers.
    pub(crate) fn slots_and_timers(&self) -> (usize, usize) {
        (self.core.conns.len(), self.core.timers.wheel.len())
    }

    /// Epoch and `seq` of a lobby, and its members, present and away, in join order.
    pub(crate) fn lobby_state(&self, code: &str) -> Option<(u64, u64, impl Iterator<Item = InspectedMember<'_>>)> {
        let directory = &self.core.directory;
        let key = directory.find_lobby(code)?;
        let lobby = directory.lobby_ref(key);
        let members = directory.seats_in(key).map(|seat| {
            (&**directory.user_of(seat), directory.seat(seat).id, directory.conn_of(seat), directory.is_told_away(seat))
        });
        Some((lobby.epoch, lobby.seq, members))
    }
}

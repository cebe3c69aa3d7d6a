//! What a test or an operator may look at. It changes nothing.

use super::Engine;
use super::app::App;
use crate::close::CloseReason;
use crate::id::{ConnId, SeatId};

impl<A: App> Engine<A> {
    /// Why a connection is ending. `None` while it is not, and once its socket has been dropped.
    pub fn ending(&self, conn: ConnId) -> Option<CloseReason> {
        self.core.slots.get(conn.index()).filter(|slot| slot.id == conn).and_then(|slot| slot.close_reason)
    }

    /// Bytes that wait to be written to `conn`.
    pub fn queued_bytes(&self, conn: ConnId) -> usize {
        self.core.queued_bytes(conn)
    }

    /// Whether every lobby's members have been told who came and who left, as they must have been at a turn's end.
    pub(crate) fn is_presence_flushed(&self) -> bool {
        self.core.directory.is_presence_flushed()
    }

    /// What still fits into the outbox of `conn`.
    pub(crate) fn room(&self, conn: ConnId) -> usize {
        let slot = self.core.slots.get(conn.index()).filter(|slot| slot.id == conn);
        slot.map_or(0, |_| {
            self.core.config.max_outbound_bytes.0.saturating_sub(self.core.queued_size(conn.index()).cost)
        })
    }

    /// Connections whose socket has not been dropped, and armed timers.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.core.slots.len(), self.core.wheel.len())
    }

    /// A lobby's epoch and `seq`, and who is in it in join order.
    pub(crate) fn lobby_inside(&self, code: &str) -> Option<(u64, u64, impl Iterator<Item = (&str, SeatId, ConnId)>)> {
        let directory = &self.core.directory;
        let key = directory.find_lobby(code)?;
        let lobby = directory.lobby_ref(key);
        let members = directory.members(key).iter().map(|&key| {
            let seat = directory.seat(key);
            (&**directory.user_of(key), seat.id, seat.conn)
        });
        Some((lobby.epoch, lobby.seq, members))
    }
}

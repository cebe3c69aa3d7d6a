//! What becomes of a seat whose connection has ended, as all nodes decide it.

use super::super::core::Core;
use super::super::state::events::AppEvent;
use crate::base::close::CloseReason;
use crate::base::event_kind::EventKind;
use crate::base::id::SeatKey;
use crate::base::peer::Peer;
use crate::cluster::log::Incarnation;
use crate::lobby::sessions::LostConn;

impl Core {
    /// Ends the connection of a seat, which is not away and has none here: keeps the seat for its session, or frees it. All
    /// nodes come to the same result. `is_written` says whether all that the connection was sent had been written.
    pub(super) fn end_connection(&mut self, seat: SeatKey, reason: CloseReason, is_written: bool) {
        let member = self.member_in(seat);
        let has_session = self.directory.session_of(seat).is_some();
        // A member that an operator's command ends does not escape because its connection ends before.
        let ordered = self.cluster.as_ref().and_then(|cluster| cluster.seat_connections.get(seat)?.ordered);
        let reason = ordered.filter(|_| reason.keeps_seat()).unwrap_or(reason);
        if is_written && let Some(state) = self.sessions.get_mut(seat) {
            state.directs.note_all_written();
        }
        if has_session && reason.keeps_seat() && !self.config.seat_grace.is_zero() {
            let lost = LostConn {
                reason: reason.away_reason(),
                peer: Peer::UNKNOWN,
                address: Peer::UNKNOWN.ip(),
                last_heard: self.now(),
                data: member.data.clone(),
            };
            let away_reason = lost.reason;
            self.directory.set_away(seat, lost, self.clock.now());
            if self.config.lobby_control {
                self.unflushed_lobbies.push(member.lobby_key);
            }
            self.counters.seats_kept += 1;
            self.feed_member(EventKind::Away, &member, Some(away_reason));
            self.events.push_back(AppEvent::Away(member, away_reason));
        } else {
            if reason.is_kick() && (self.config.lobby_control || has_session) {
                self.directory.keep_out(seat, self.clock.now());
            }
            let reason = reason.leave_reason();
            self.directory.leave(seat, reason, self.clock.now());
            self.forget_session(seat, member.lobby_key);
            self.note_left(member, reason);
        }
    }

    /// Ends a seat because all nodes have decided it, and closes its connection if that is here.
    pub(in crate::engine) fn close_seat(&mut self, seat: SeatKey, reason: CloseReason) {
        if self.directory.away(seat).is_some() {
            self.close_away(&[seat], reason);
            return;
        }
        let Some(conn) = self.directory.conn_of(seat) else { return self.end_connection(seat, reason, false) };
        let key = conn.key();
        let is_written = !self.egress.has_queue(key);
        self.record_close_reason(key, reason);
        self.directory.detach(seat);
        self.set_closing(key);
        self.forget_in_flight(seat);
        self.end_connection(seat, reason, is_written);
        self.send_close(key, reason, None);
    }

    /// Forgets the requests of a seat's connection that are on the way. They will be ignored.
    pub(in crate::engine) fn forget_in_flight(&mut self, seat: SeatKey) {
        let Some(cluster) = &mut self.cluster else { return };
        if let Some(connection) = cluster.seat_connections.get(seat) {
            cluster.in_flight.remove(&connection.join_number);
        }
    }

    /// Ends all connections of a node that has ended.
    pub(super) fn end_node(&mut self, node: Incarnation) {
        self.pings.node_ended(node);
        let cluster = self.in_cluster();
        cluster.nodes.remove(&node);
        let is_of_node =
            |seat: &SeatKey| cluster.seat_connections.get(*seat).is_some_and(|connection| connection.node == node);
        let mut seats: Vec<SeatKey> = cluster.seat_connections.keys().filter(is_of_node).collect();
        seats.sort_unstable_by_key(|&seat| self.directory.seat(seat).id);
        for seat in seats {
            if self.directory.seat(seat).is_elsewhere() {
                self.end_connection(seat, CloseReason::Hangup, false);
            }
        }
    }
}

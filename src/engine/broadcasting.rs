//! Messages to lobbies and members, in order with the presence changes of the lobby: no member receives a message from a
//! sender that was not announced to it.

use super::core::Core;
use super::member::{Exclude, Member, Sent};
use super::sending::compressible;
use crate::base::id::{ConnId, LobbyKey};
use crate::lobby::directory::{Directory, LobbyMember, Seat};
use crate::protocol;
use crate::ws::frame::{Frame, Mark, MarkedText, Outgoing};

impl Core {
    /// Sends a frame to the members of a lobby that `exclude` does not name.
    pub(super) fn broadcast(&mut self, lobby: LobbyKey, exclude: Exclude<'_>, frame: Outgoing<'_>) -> Sent {
        self.flush_presence(lobby);
        // The flush may have closed the last member as too slow.
        if self.directory.get_lobby(lobby).is_none() {
            return Sent::default();
        }
        match exclude {
            Exclude::None => self.send_to_lobby(lobby, frame, None),
            Exclude::Conn(conn) => self.send_to_lobby(lobby, frame, Some(conn)),
            Exclude::User(_) | Exclude::Users(_) => {
                self.queue_for_members(lobby, frame, compressible(exclude), |directory, member| {
                    includes(exclude, directory, member)
                })
            }
        }
    }

    /// Sends a frame to all other connections in the lobby of `from`. The sender may have left it.
    pub(super) fn relay(&mut self, from: &Member, frame: Outgoing<'_>) -> Sent {
        let lobby = if self.is_seated(from) { Some(from.lobby_key) } else { self.directory.find_lobby(&from.lobby) };
        lobby.map_or(Sent::default(), |lobby| self.broadcast(lobby, Exclude::Conn(from.conn), frame))
    }

    /// The same as [`broadcast`](Self::broadcast), but the frame replaces the one that was queued before under the key
    /// `latest`.
    pub(super) fn broadcast_latest(
        &mut self,
        lobby: LobbyKey,
        exclude: Exclude<'_>,
        latest: u64,
        frame: &Frame,
    ) -> Sent {
        self.flush_presence(lobby);
        if self.directory.get_lobby(lobby).is_none() {
            return Sent::default();
        }
        self.send_latest_to_members(lobby, frame, latest, compressible(exclude), |directory, member| {
            includes(exclude, directory, member)
        })
    }

    /// Sends `data` to all other members of the lobby as a `message`. Returns its `seq`, or 0 if nothing was sent.
    /// `reference` is the `ref` of the request, for a session that comes back.
    pub(super) fn broadcast_message(
        &mut self,
        lobby: LobbyKey,
        from: &Member,
        reference: Option<&str>,
        data: &str,
    ) -> (u64, Sent) {
        self.flush_presence(lobby);
        // The flush may have closed the sender as too slow, and no member may receive a message from a sender it does
        // not know.
        if !self.directory.is_current_seat(from.seat_key, from.seat) {
            return (0, Sent::default());
        }
        let lobby_ref = self.directory.lobby_mut(lobby);
        lobby_ref.seq += 1;
        let seq = lobby_ref.seq;
        let mut text = std::mem::take(&mut self.buffers.text);
        protocol::write_message(&mut text, &from.user, seq, data);
        self.keep_message(from, seq, reference, &text);
        let except = self.speaker(from);
        let marked = MarkedText { text: &text, mark: Mark::Seq(seq) };
        let sent = self.send_to_lobby(lobby, Outgoing::Marked(&marked), Some(except));
        self.buffers.text = text;
        (seq, sent)
    }

    /// The same without a number: the `message` is not kept for sessions that come back.
    pub(super) fn broadcast_volatile(&mut self, lobby: LobbyKey, from: &Member, data: &str) -> Sent {
        self.flush_presence(lobby);
        if !self.directory.is_current_seat(from.seat_key, from.seat) {
            return Sent::default();
        }
        let mut text = std::mem::take(&mut self.buffers.text);
        protocol::write_volatile_message(&mut text, &from.user, data);
        let sent = self.send_to_lobby(lobby, Outgoing::Text(&text), Some(self.speaker(from)));
        self.buffers.text = text;
        sent
    }

    /// The connection that does not receive what a member broadcasts.
    ///
    /// The member's connection, not that of its seat: a newer connection that took over the seat has not seen the message.
    /// A session has, on whichever connection.
    #[inline]
    fn speaker(&self, member: &Member) -> ConnId {
        let seat = self.directory.seat(member.seat_key);
        if seat.has_session { seat.conn } else { member.conn }
    }

    /// The same for the application: the sender's `ack` carries the `seq`.
    pub(super) fn broadcast_for_app(&mut self, lobby: LobbyKey, from: &Member, data: &str) -> Sent {
        let reference = if self.is_answering(from) { self.answer.reference.clone() } else { None };
        let (seq, sent) = self.broadcast_message(lobby, from, reference.as_deref(), data);
        // A `seq` of 0 means that nothing was sent. A message with another member as `from` does not change the `ack`.
        if let Some((_, last)) = self.answer.relayed.as_mut().filter(|(conn, _)| seq > 0 && *conn == from.conn) {
            *last = seq;
        }
        sent
    }

    /// Whether the application is handling a message of this member.
    fn is_answering(&self, member: &Member) -> bool {
        self.answer.relayed.is_some_and(|(conn, _)| conn == member.conn)
    }

    /// Sends `data` to the seats of `to` in the sender's lobby. Returns false when there is none.
    ///
    /// A sender that the flush has closed sends nothing, and the result is true.
    pub(super) fn direct(&mut self, from: &Member, to: &str, data: &str) -> bool {
        self.flush_presence(from.lobby_key);
        if !self.directory.is_current_seat(from.seat_key, from.seat) {
            return true;
        }
        let mut receivers = std::mem::take(&mut self.buffers.seats);
        receivers.clear();
        let seats = self.directory.seats_of(to).iter().copied();
        let is_member = |seat: &Seat| seat.lobby == from.lobby_key && !seat.is_watcher;
        receivers.extend(seats.filter(|&seat| is_member(self.directory.seat(seat))));
        for &seat in &receivers {
            self.send_direct(seat, |text, n| protocol::write_direct(text, &from.user, n, data));
        }
        let found = !receivers.is_empty();
        self.buffers.seats = receivers;
        found
    }

    /// Sends `data` to all members of the lobby as a `message` whose `from` is `null`. Returns its `seq`.
    pub(super) fn announce(&mut self, lobby: LobbyKey, data: &str) -> (u64, Sent) {
        self.flush_presence(lobby);
        let Some(_) = self.directory.get_lobby(lobby) else { return (0, Sent::default()) };
        self.send_numbered(lobby, |_, text, seq| protocol::write_server_message(text, Some(seq), data))
    }

    /// Sends a numbered message to all members of a lobby, whose presence changes were sent. `write` writes it with its
    /// `seq`. Returns the `seq`.
    pub(super) fn send_numbered(
        &mut self,
        lobby: LobbyKey,
        write: impl FnOnce(&Core, &mut String, u64),
    ) -> (u64, Sent) {
        let state = self.directory.lobby_mut(lobby);
        state.seq += 1;
        let seq = state.seq;
        let mut text = std::mem::take(&mut self.buffers.text);
        write(self, &mut text, seq);
        self.keep_frame(lobby, seq, &text);
        let marked = MarkedText { text: &text, mark: Mark::Seq(seq) };
        let sent = self.send_to_lobby(lobby, Outgoing::Marked(&marked), None);
        self.buffers.text = text;
        (seq, sent)
    }
}

fn includes(exclude: Exclude<'_>, directory: &Directory, member: LobbyMember) -> bool {
    match exclude {
        Exclude::None => true,
        Exclude::Conn(conn) => directory.seat(member.seat).conn != conn,
        Exclude::User(user) => **directory.user_of(member.seat) != *user,
        Exclude::Users(users) => !users.contains(&&**directory.user_of(member.seat)),
    }
}

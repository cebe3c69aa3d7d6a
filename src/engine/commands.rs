//! Commands of an application, given through its [`Context`](super::context::Context), on users and connections.

use std::borrow::Cow;
use std::time::Duration;

use super::core::Core;
use super::member::Sent;
use crate::base::close::{CloseReason, Reject};
use crate::base::id::{ConnId, ConnKey, SeatKey};
use crate::egress::Priority;
use crate::ws::frame::{Frame, Outgoing};

impl Core {
    pub(super) fn send_to_user(&mut self, user: &str, frame: Outgoing<'_>) -> Sent {
        let mut sent = Sent::default();
        for conn in self.conns_of(self.directory.seats_of(user)) {
            let Some(key) = self.key_after_presence(conn) else { continue };
            let queued = self.send(key, frame, Priority::Deferred);
            sent.queued += usize::from(queued);
            sent.dropped += usize::from(!queued);
        }
        sent
    }

    pub(super) fn send_to_conn(&mut self, conn: ConnId, frame: Outgoing<'_>) -> bool {
        self.key_after_presence(conn).is_some_and(|key| self.send(key, frame, Priority::Deferred))
    }

    pub(super) fn send_back_to_conn(&mut self, conn: ConnId, frame: Outgoing<'_>) -> bool {
        self.key_after_presence(conn).is_some_and(|key| self.send_back(key, frame))
    }

    pub(super) fn send_latest_to_conn(&mut self, conn: ConnId, latest: u64, frame: &Frame) -> bool {
        self.key_after_presence(conn).is_some_and(|key| self.send_latest(key, latest, frame.clone()))
    }

    /// Returns the key of a member to send to, after flushing the presence changes of its lobby.
    ///
    /// `None` when there is no such member, or when the flush has closed it as too slow.
    fn key_after_presence(&mut self, conn: ConnId) -> Option<ConnKey> {
        let lobby = self.egress.lobby_of(conn)?;
        self.flush_presence(lobby);
        self.slot(conn)?.seat().map(|_| conn.key())
    }

    pub(super) fn ping_user(&mut self, user: &str, timeout: Duration) -> usize {
        let seats = self.directory.seats_of(user);
        let (present, elsewhere) = (seats.len() - self.away_among(seats).len(), self.seats_elsewhere(seats));
        let conns: Vec<ConnId> = self.conns_of(seats);
        for conn in &conns {
            self.begin_check(conn.key(), timeout);
            self.rearm(conn.key());
        }
        match &self.cluster {
            // All nodes do the same, each for its own connections.
            Some(cluster) if cluster.is_shared => return present,
            Some(_) if self.check_log_takes_more().is_ok() => {}
            _ => return conns.len(),
        }
        let asked = elsewhere.into_iter().filter_map(|seat| self.ask_for_check(seat, 0, timeout)).count();
        conns.len() + asked
    }

    pub(super) fn record_pong(&mut self, conn: ConnId, nonce: u64) -> Option<Duration> {
        self.slot(conn)?;
        self.update_last_message(conn);
        self.answer_check(conn.key(), nonce)
    }

    pub(super) fn update_last_message(&mut self, conn: ConnId) {
        let now = self.clock.own();
        if let Some(slot) = self.slot(conn) {
            slot.health.heard(now);
        }
    }

    pub(super) fn close(&mut self, conn: ConnId, reason: CloseReason) {
        if self.slot(conn).is_some() {
            self.begin_close(conn.key(), reason);
        }
    }

    pub(super) fn close_user(&mut self, user: &str, reason: CloseReason) -> usize {
        let seats = self.directory.seats_of(user);
        let (conns, away) = (self.conns_of(seats), self.away_among(seats));
        self.close_all(conns, &away, reason)
    }

    pub(super) fn close_lobby(&mut self, lobby: &str, reason: CloseReason) -> usize {
        match self.directory.find_lobby(lobby) {
            Some(lobby) => {
                let away = self.directory.lobby_ref(lobby).away().to_vec();
                self.close_all(self.conns_in(lobby), &away, reason)
            }
            None => 0,
        }
    }

    fn close_all(&mut self, conns: Vec<ConnId>, away: &[SeatKey], reason: CloseReason) -> usize {
        if away.is_empty() || self.may_change_shared() {
            self.close_away(away, reason);
        }
        conns.iter().for_each(|conn| self.begin_close(conn.key(), reason));
        conns.len()
    }

    pub(super) fn set_rejection(&mut self, reject: Reject, message: Cow<'static, str>) {
        self.answer.rejection = Some((reject, message));
    }

    pub(super) fn take_rejection(&mut self) -> Option<(Reject, Cow<'static, str>)> {
        self.answer.rejection.take()
    }
}

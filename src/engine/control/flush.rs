//! Sends what follows from changes among the members of a lobby: another host, and the start. Called by the flush of
//! presence, so that it is sent in order with the presence changes.

use super::super::core::Core;
use crate::base::id::{ConnKey, LobbyKey, SeatId, SeatKey};
use crate::egress::Priority;
use crate::lobby::control::settings::SettingsChange;
use crate::lobby::control::start::StartEvent;
use crate::protocol::{self, LobbyState};
use crate::ws::frame::{Mark, MarkedText, Outgoing};

impl Core {
    /// Moves the host if it is time to. Returns the message for the members with an id below `first_new`; the others read
    /// it in the state that they are sent. `None` if nobody has to be told.
    pub(in crate::engine) fn host_frame(
        &mut self,
        lobby: LobbyKey,
        first_new: Option<SeatId>,
    ) -> Option<(String, Mark)> {
        let host = self.directory.move_host(lobby, self.now())?;
        self.feed_host(host);
        let host = self.directory.seat(host).id;
        let is_told = |seat: SeatKey| first_new.is_none_or(|first| self.directory.seat(seat).id < first);
        // An away member reads it when it comes back.
        let mut seats = self.directory.all_seats_in(lobby);
        seats.any(is_told).then_some(())?;
        drop(seats);
        let state = self.directory.lobby_mut(lobby);
        state.seq += 1;
        let seq = state.seq;
        let mut text = String::new();
        protocol::write_host(&mut text, seq, host);
        self.keep_frame(lobby, seq, &text);
        Some((text, Mark::Seq(seq)))
    }

    /// Moves the host, and begins, cancels or ends the countdown, if it is time to. All presence changes have been sent.
    /// Returns false if there was nothing to look at.
    pub(in crate::engine) fn flush_control(&mut self, lobby: LobbyKey) -> bool {
        if self.directory.get_lobby(lobby).is_none() || !self.directory.is_control_dirty(lobby) {
            return false;
        }
        self.directory.set_control_clean(lobby);
        if self.is_ending() {
            return true;
        }
        if let Some((text, mark)) = self.host_frame(lobby, None) {
            self.send_to_older(lobby, None, &MarkedText { text: &text, mark });
        }
        if self.directory.get_lobby(lobby).is_some()
            && let Some(event) = self.directory.update_start(lobby, self.now())
        {
            self.send_start_event(lobby, event);
        }
        true
    }

    fn send_start_event(&mut self, lobby: LobbyKey, event: StartEvent) {
        match event {
            StartEvent::CountingDown(at) => {
                let at = self.unix_millis_at(at);
                self.send_numbered(lobby, |_, text, seq| protocol::write_countdown(text, seq, Some(at)));
            }
            StartEvent::Cancelled => {
                self.send_numbered(lobby, |_, text, seq| protocol::write_countdown(text, seq, None));
            }
            StartEvent::Started => {
                self.feed_start(lobby);
                self.send_numbered(lobby, |core, text, seq| {
                    let directory = &core.directory;
                    let count = directory.lobby_ref(lobby).seats_count();
                    let seat = |seat| (&**directory.user_of(seat), directory.seat(seat).id);
                    let is_listed = count <= core.config.presence_max as usize;
                    protocol::write_start(text, seq, count, is_listed.then(|| directory.seats_in(lobby).map(seat)));
                });
                // Sending may have closed the last member as too slow.
                if self.directory.get_lobby(lobby).is_some() {
                    let change = SettingsChange { locked: Some(true), start: Some(None), ..SettingsChange::default() };
                    self.send_settings(lobby, None, &change);
                }
            }
        }
    }

    pub(super) fn unix_millis_at(&self, at: crate::base::time::Time) -> u64 {
        let micros = match &self.cluster {
            Some(cluster) => cluster.origin.unix_micros(at),
            None => self.clock.unix_at_zero().saturating_add(at.as_micros()),
        };
        micros / 1000
    }

    /// Looks again at the lobbies that have a deadline, at the end of the turn. Lobbies that have been empty for long
    /// enough are removed.
    pub(in crate::engine) fn expire_control(&mut self) {
        let now = self.now();
        while let Some(lobby) = self.directory.take_control_event(now) {
            self.unflushed_lobbies.push(lobby);
        }
    }

    /// Sends a member the state of its lobby, with lobby control on.
    pub(in crate::engine) fn send_lobby_state(&mut self, key: ConnKey, lobby: LobbyKey) {
        if self.conns[key].seat().is_some()
            && let Some((text, mark)) = self.lobby_state(lobby)
        {
            self.send(key, Outgoing::Marked(&MarkedText { text: &text, mark }), Priority::Normal);
        }
    }

    /// Returns the state of a lobby; `None` with lobby control off.
    pub(in crate::engine) fn lobby_state(&self, lobby: LobbyKey) -> Option<(String, Mark)> {
        let (bounds, control) = (self.directory.control_bounds()?.settings, self.directory.control(lobby)?);
        let lobby_ref = self.directory.lobby_ref(lobby);
        let state = LobbyState {
            seq: lobby_ref.seq,
            host: self.directory.host(lobby),
            settings: &control.settings,
            is_locked: lobby_ref.locked,
            bounds,
            data: &control.data,
            watchers: lobby_ref.watchers(),
            countdown: control.countdown.map(|at| self.unix_millis_at(at)),
        };
        let mut text = String::new();
        state.write(&mut text);
        Some((text, Mark::State { epoch: lobby_ref.epoch, seq: lobby_ref.seq }))
    }
}

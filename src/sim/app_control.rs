//! Actions on behalf of the application: kicks, notices, health checks, late authorizations, and the drain.
//!
//! All of them use the engine's public commands, as an application or an operator does.

use super::app_command::AppCommand;
use super::client::Link;
use super::swarm::Behaviour;
use super::transcript::{EventKind, NO_CLIENT};
use super::world::World;
use crate::base::close::CloseReason;
use crate::engine::app::{App, Authorization};
use crate::engine::operator::{OperatorAnswer, OperatorCommand};

/// Behaviours that may follow another one in the same turn. Notices and kicks are listed more than once, because their
/// combination is the most likely to fail.
const APP_BEHAVIOURS: &[Behaviour] = &[
    Behaviour::Kick,
    Behaviour::Kick,
    Behaviour::Notice,
    Behaviour::Notice,
    Behaviour::Notice,
    Behaviour::Notice,
    Behaviour::HealthCheck,
    Behaviour::CloseLobby,
];
/// Outboxes with more room than this many bytes are not filled.
const FILLED: usize = 20_000;

impl<A: App> World<A> {
    pub(super) fn drain(&mut self) {
        self.transcript.note(self.now, NO_CLIENT, EventKind::Drains, 0, &[]);
        self.is_draining = true;
        self.drained_from = self.shared.link_users.len() as u32;
        self.turn_open = true;
        if self.control.percent(50) {
            return self.engine.handle_drain(self.now);
        }
        let answer = self.engine.handle_operator(self.now, OperatorCommand::Drain);
        assert!(matches!(answer, Ok(OperatorAnswer::Draining(_))), "{answer:?}");
    }

    /// Performs one behaviour, possibly followed by others for the same client or for clients in its lobby. Then
    /// delivers input of some clients of the lobby, all in the same turn.
    pub(super) fn run_app_commands(&mut self, behaviour: Behaviour) {
        let start = self.control.below(self.links.len() as u64) as usize;
        let prefers_sender = self.control.percent(50);
        let indices = || (start..self.links.len()).chain(0..start);
        let link = |index: usize| self.links[index].as_ref().filter(|link| link.conn.is_some());
        let sender = indices().find(|&index| link(index).is_some_and(|link| link.pipe.unread_by_server() > 0));
        let connected = indices().find(|&index| link(index).is_some());
        let target = sender.filter(|_| prefers_sender).or(connected);
        self.draw_app_command(behaviour, target);
        let lobby = target.and_then(|index| self.links[index].as_ref()).map(|link| link.lobby);
        while self.control.percent(70) {
            let next = APP_BEHAVIOURS[self.control.below(APP_BEHAVIOURS.len() as u64) as usize];
            let neighbour = self.control.below(self.links.len() as u64) as usize;
            let is_near = self.links[neighbour].as_ref().is_some_and(|link| Some(link.lobby) == lobby);
            let target = if is_near && self.control.percent(50) { Some(neighbour) } else { target };
            if self.swarm.weight(next) > 0 {
                self.count(next);
                self.draw_app_command(next, target);
            }
        }
        for index in self.indices() {
            let has_input = |link: &Link| {
                link.conn.is_some()
                    && Some(link.lobby) == lobby
                    && (link.pipe.unread_by_server() > 0 || link.pipe.is_at_end())
            };
            if self.links[index].as_ref().is_some_and(has_input) && self.control.percent(40) {
                self.deliver(index, usize::MAX);
            }
        }
    }

    /// Draws a lobby and fills the outboxes of its members, so that the next frames exceed the bound of some. Then
    /// kicks a user and lets the members send. Returns whether the lobby had at least two members that may send.
    pub(super) fn squeeze(&mut self) -> bool {
        let lobby = self.control.below(self.shared.lobbies.len() as u64) as usize;
        let is_ready = |link: &Link| link.lobby == lobby && link.conn.is_some() && link.may_send();
        let ready: Vec<usize> =
            self.indices().filter(|&index| self.links[index].as_ref().is_some_and(is_ready)).collect();
        if ready.len() < 2 {
            return false;
        }
        self.turn_open = true;
        let most = [100, 200, 600][self.control.below(3) as usize];
        for &index in &ready {
            let conn = self.link(index).conn.expect("is_ready() implies an open connection");
            let room = self.engine.room(conn);
            if room < FILLED && self.control.percent(70) {
                let left = self.control.below(most) as usize;
                self.note(index, EventKind::Filled, left as u64, &[]);
                self.send_app_command(AppCommand::Fill { conn, padding: room.saturating_sub(left) });
            }
        }
        let kicked = ready[self.control.below(ready.len() as u64) as usize];
        self.draw_app_command(Behaviour::Kick, Some(kicked));
        if self.control.percent(30) {
            let user = self.shared.users[self.links[ready[0]].as_ref().map_or(0, |link| link.user)].clone();
            let sent = self.send_app_command(AppCommand::FillUser { user: &user, padding: 0 });
            self.transcript.mix(sent.queued as u64);
        }
        for index in ready {
            if self.control.percent(60) && self.links[index].as_ref().is_some_and(Link::may_send) {
                const KINDS: [Behaviour; 4] =
                    [Behaviour::Flood, Behaviour::Presence, Behaviour::Direct, Behaviour::AppMessage];
                for _ in 0..=self.control.below(2) {
                    let kind = KINDS[self.control.below(4) as usize];
                    self.send_one(index, kind);
                }
                if self.links[index].as_ref().is_some_and(|link| link.pipe.unread_by_server() > 0) {
                    self.deliver(index, usize::MAX);
                }
            }
        }
        true
    }

    fn draw_app_command(&mut self, behaviour: Behaviour, target: Option<usize>) {
        self.turn_open = true;
        let random = &mut self.control;
        let target = target.and_then(|index| self.links[index].as_ref()).filter(|_| random.percent(70));
        let any_user = random.below(self.shared.users.len() as u64) as usize;
        let any_lobby = random.below(self.shared.lobbies.len() as u64) as usize;
        let user = self.shared.users[target.map_or(any_user, |link| link.user)].clone();
        let lobby = self.shared.lobbies[target.map_or(any_lobby, |link| link.lobby)].clone();
        let conn = target.and_then(|link| link.conn);
        let how = random.below(4);
        // Sometimes an outbox is filled almost completely, so that the next frame exceeds its bound.
        let padding = match conn.map(|conn| self.engine.room(conn)) {
            Some(room) if room < FILLED && random.percent(60) => room.saturating_sub(random.below(200) as usize),
            _ => random.below(self.swarm.padding as u64 + 1) as usize,
        };
        self.transcript.note(self.now, NO_CLIENT, EventKind::Did(behaviour), how, user.as_bytes());
        let timeout = self.engine.config().health_timeout * (1 + how as u32);
        let (user, lobby) = (&*user, &*lobby);
        let sent = self.send_app_command(match (behaviour, how, conn) {
            (Behaviour::Kick, 0, Some(conn)) => AppCommand::Ban(conn),
            (Behaviour::Kick, _, _) => AppCommand::Kick { user },
            (Behaviour::CloseLobby, _, _) => AppCommand::CloseLobby { lobby },
            (Behaviour::HealthCheck, _, _) => AppCommand::Ping { user, timeout },
            (_, 0, Some(conn)) => AppCommand::Fill { conn, padding },
            (_, 1, _) => AppCommand::FillUser { user, padding },
            (_, 2, _) => AppCommand::FillOthers { lobby, user, padding },
            (_, _, _) => AppCommand::FillLobby { lobby, padding },
        });
        self.transcript.mix(sent.queued as u64);
    }

    /// Answers a pending authorization. Returns whether there was one.
    pub(super) fn authorize(&mut self) -> bool {
        let waiting = self.engine.app().observed.waiting.len();
        if waiting == 0 {
            return false;
        }
        let random = &mut self.control;
        let (conn, answer) =
            self.engine.observed_app().observed.waiting.swap_remove(random.below(waiting as u64) as usize);
        let index = self.index_of(conn);
        let random = &mut self.control;
        let how = if self.swarm.weight(Behaviour::LateAuth) > 0 { random.below(10) } else { 9 };
        let answer = match (how, index) {
            (0, _) => Authorization::Refuse(CloseReason::Banned),
            (1, _) => Authorization::Pending { user: None },
            (2, Some(index)) => {
                let user = random.below(self.shared.users.len() as u64) as usize;
                let link = self.links[index].as_mut().expect("index_of() found the link");
                link.user = user;
                self.shared.link_users[link.number as usize] = user;
                let observed = &mut self.engine.observed_app().observed;
                let identity = observed.identity_model.identity_of(&self.shared.users[user]);
                observed.identities.insert(conn, identity.clone());
                Authorization::Allow(identity)
            }
            // The answer is never given.
            (3, _) => return true,
            _ => answer,
        };
        self.turn_open = true;
        if let Some(index) = index {
            self.note(index, EventKind::Authorized, how, &[]);
        }
        self.count(Behaviour::LateAuth);
        self.engine.handle_authorized(self.now, conn, answer.clone());
        if how == 4 {
            self.engine.handle_authorized(self.now, conn, answer);
        }
        true
    }
}

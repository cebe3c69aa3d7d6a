//! What the application's owner does: kicks, notices, health checks, late answers to authorizations, the drain.
//!
//! Everything here goes through the engine's public commands, as an administrator's or a game's own wishes would.

use super::app_command::AppCommand;
use super::client::Link;
use super::swarm::Behaviour;
use super::transcript::{NOBODY, What};
use super::world::World;
use crate::close::CloseReason;
use crate::engine::app::{App, Authorization};
use crate::engine::operator::{OperatorAnswer, OperatorCommand};

/// What the owner may do on top of something else: talking and kicking go together badly most often.
const APP_COMMANDS: &[Behaviour] = &[
    Behaviour::Kick,
    Behaviour::Kick,
    Behaviour::Notice,
    Behaviour::Notice,
    Behaviour::Notice,
    Behaviour::Notice,
    Behaviour::HealthCheck,
    Behaviour::CloseLobby,
];
/// More room than this in an outbox is not worth filling.
const FILLED: usize = 20_000;

impl<A: App> World<A> {
    pub(super) fn drain(&mut self) {
        self.transcript.note(self.now, NOBODY, What::Drains, 0, &[]);
        self.is_draining = true;
        self.drained_from = self.common.owners.len() as u32;
        self.turn_open = true;
        if self.owner.percent(50) {
            return self.engine.handle_drain(self.now);
        }
        let answer = self.engine.handle_operator(self.now, OperatorCommand::Drain);
        assert!(matches!(answer, Ok(OperatorAnswer::Draining(_))), "{answer:?}");
    }

    /// Does one thing, and perhaps some more to the same client or to others in its lobby before anybody else can act;
    /// and then, in the same turn, arrives what some of them have said.
    pub(super) fn intervene(&mut self, behaviour: Behaviour) {
        let start = self.owner.below(self.links.len() as u64) as usize;
        let speaks = self.owner.percent(50);
        let places = || (start..self.links.len()).chain(0..start);
        let link = |place: usize| self.links[place].as_ref().filter(|link| link.conn.is_some());
        let speaker = places().find(|&place| link(place).is_some_and(|link| link.pipe.upward() > 0));
        let anybody = places().find(|&place| link(place).is_some());
        let target = speaker.filter(|_| speaks).or(anybody);
        self.command_app(behaviour, target);
        let lobby = target.and_then(|place| self.links[place].as_ref()).map(|link| link.lobby);
        while self.owner.percent(70) {
            let next = APP_COMMANDS[self.owner.below(APP_COMMANDS.len() as u64) as usize];
            let neighbour = self.owner.below(self.links.len() as u64) as usize;
            let is_near = self.links[neighbour].as_ref().is_some_and(|link| Some(link.lobby) == lobby);
            let target = if is_near && self.owner.percent(50) { Some(neighbour) } else { target };
            if self.swarm.weight(next) > 0 {
                self.count(next);
                self.command_app(next, target);
            }
        }
        for place in self.places() {
            let has_spoken = |link: &Link| {
                link.conn.is_some() && Some(link.lobby) == lobby && (link.pipe.upward() > 0 || link.pipe.is_at_end())
            };
            if self.links[place].as_ref().is_some_and(has_spoken) && self.owner.percent(40) {
                self.deliver(place, usize::MAX);
            }
        }
    }

    /// Brings a lobby to the point where each word is too much for somebody, and lets everybody speak. Whether there
    /// was one to do it to.
    pub(super) fn squeeze(&mut self) -> bool {
        let lobby = self.owner.below(self.common.lobbies.len() as u64) as usize;
        let is_there = |link: &Link| link.lobby == lobby && link.conn.is_some() && link.may_speak();
        let crowd: Vec<usize> =
            self.places().filter(|&place| self.links[place].as_ref().is_some_and(is_there)).collect();
        if crowd.len() < 2 {
            return false;
        }
        self.turn_open = true;
        let most = [100, 200, 600][self.owner.below(3) as usize];
        for &place in &crowd {
            let conn = self.link(place).conn.expect("chosen for it");
            let room = self.engine.room(conn);
            if room < FILLED && self.owner.percent(70) {
                let left = self.owner.below(most) as usize;
                self.note(place, What::Filled, left as u64, &[]);
                self.ask_app(AppCommand::Fill { conn, padding: room.saturating_sub(left) });
            }
        }
        let leaver = crowd[self.owner.below(crowd.len() as u64) as usize];
        self.command_app(Behaviour::Kick, Some(leaver));
        if self.owner.percent(30) {
            let user = self.common.users[self.links[crowd[0]].as_ref().map_or(0, |link| link.user)].clone();
            let sent = self.ask_app(AppCommand::FillUser { user: &user, padding: 0 });
            self.transcript.mix(sent.queued as u64);
        }
        for place in crowd {
            if self.owner.percent(60) && self.links[place].as_ref().is_some_and(Link::may_speak) {
                const KINDS: [Behaviour; 4] =
                    [Behaviour::Flood, Behaviour::Presence, Behaviour::Direct, Behaviour::AppMessage];
                for _ in 0..=self.owner.below(2) {
                    let kind = KINDS[self.owner.below(4) as usize];
                    self.ask_calmly(place, kind);
                }
                if self.links[place].as_ref().is_some_and(|link| link.pipe.upward() > 0) {
                    self.deliver(place, usize::MAX);
                }
            }
        }
        true
    }

    fn command_app(&mut self, behaviour: Behaviour, target: Option<usize>) {
        self.turn_open = true;
        let random = &mut self.owner;
        let target = target.and_then(|place| self.links[place].as_ref()).filter(|_| random.percent(70));
        let any_user = random.below(self.common.users.len() as u64) as usize;
        let any_lobby = random.below(self.common.lobbies.len() as u64) as usize;
        let user = self.common.users[target.map_or(any_user, |link| link.user)].clone();
        let lobby = self.common.lobbies[target.map_or(any_lobby, |link| link.lobby)].clone();
        let conn = target.and_then(|link| link.conn);
        let how = random.below(4);
        // Now and then an outbox is filled to the brim, so that whatever comes next is too much.
        let padding = match conn.map(|conn| self.engine.room(conn)) {
            Some(room) if room < FILLED && random.percent(60) => room.saturating_sub(random.below(200) as usize),
            _ => random.below(self.swarm.padding as u64 + 1) as usize,
        };
        self.transcript.note(self.now, NOBODY, What::Did(behaviour), how, user.as_bytes());
        let timeout = self.engine.config().health_timeout * (1 + how as u32);
        let (user, lobby) = (&*user, &*lobby);
        let sent = self.ask_app(match (behaviour, how, conn) {
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

    /// Answers an authorization that waits. Whether one did.
    pub(super) fn authorize(&mut self) -> bool {
        let waiting = self.engine.app().seen.waiting.len();
        if waiting == 0 {
            return false;
        }
        let random = &mut self.owner;
        let (conn, answer) = self.engine.observed_app().seen.waiting.swap_remove(random.below(waiting as u64) as usize);
        let place = self.place_of(conn);
        let random = &mut self.owner;
        let how = if self.swarm.weight(Behaviour::LateAuth) > 0 { random.below(10) } else { 9 };
        let answer = match (how, place) {
            (0, _) => Authorization::Refuse(CloseReason::Banned),
            (1, _) => Authorization::Pending { user: None },
            (2, Some(place)) => {
                let user = random.below(self.common.users.len() as u64) as usize;
                let link = self.links[place].as_mut().expect("place_of() has found it");
                link.user = user;
                self.common.owners[link.number as usize] = user;
                let seen = &mut self.engine.observed_app().seen;
                let identity = seen.leases.identity_of(&self.common.users[user]);
                seen.identities.insert(conn, identity.clone());
                Authorization::Allow(identity)
            }
            // It never comes.
            (3, _) => return true,
            _ => answer,
        };
        self.turn_open = true;
        if let Some(place) = place {
            self.note(place, What::Authorized, how, &[]);
        }
        self.count(Behaviour::LateAuth);
        self.engine.handle_authorized(self.now, conn, answer.clone());
        if how == 4 {
            self.engine.handle_authorized(self.now, conn, answer);
        }
        true
    }
}

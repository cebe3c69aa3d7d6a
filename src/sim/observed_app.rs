//! The application under test, with somebody looking over its shoulder.
//!
//! [`ObservedApp`] passes every call on, and notes what it saw: each `on_join` must be followed by exactly one `on_leave`,
//! and nobody speaks, is measured or is taken over outside of that. It also makes authorization slow, when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::app_command::AppCommand;
use super::limit_model::Leases;
use super::swarm::Behaviour;
use super::tick_model::TickModel;
use crate::engine::app::{
    App, Authorization, Context, Identity, Member, Message, Pressure, Protocol, RelayRequest, Route, Sent,
};
use crate::engine::tick::Tick;
use crate::id::{ConnId, SeatId};
use crate::random::Random;
use crate::time::Time;
use crate::wire::handshake::Request;
use crate::{LeaveReason, is_user_id};

pub(super) struct ObservedApp<A> {
    pub(super) app: A,
    pub(super) seen: Seen,
}

/// What was seen, to be taken by the simulator after every step.
pub(super) struct Seen {
    /// Of a hundred authorizations, how many are answered later.
    pub(super) late: u64,
    never_late: bool,
    pub(super) random: Random,
    /// Answers that have still to be given.
    pub(super) waiting: Vec<(ConnId, Authorization)>,
    /// What restricts whom the application lets in, and what that did since the last look.
    pub(super) leases: Leases,
    pub(super) did: Vec<Behaviour>,
    /// The restricted identities of connections that are there.
    pub(super) identities: BTreeMap<ConnId, Identity>,
    /// Lobbies that take nobody new.
    pub(super) locked: Vec<Box<str>>,
    /// The ticks, when they are on.
    pub(super) tick_model: Option<TickModel>,
    /// Who is in, by seat.
    pub(super) seats: BTreeMap<SeatId, Seated>,
    /// Of whom it was told that much is queued.
    pressed: BTreeSet<ConnId>,
    pub(super) joined: u64,
    pub(super) taken_over: u64,
    pub(super) left: u64,
    pub(super) messages: u64,
    pub(super) unanswered: u64,
    /// Answered health checks since the last look: whose, when, and how long they took.
    pub(super) answered: Vec<(ConnId, Time, Duration)>,
    pub(super) answered_ever: u64,
    /// What came of the last command.
    pub(super) granted: Sent,
    /// What must not be, if it was.
    pub(super) violation: Option<String>,
}

/// Who is in a seat.
#[derive(Debug)]
pub(super) struct Seated {
    pub(super) conn: ConnId,
    pub(super) user: Box<str>,
    pub(super) lobby: Box<str>,
    /// Since when this connection is.
    pub(super) since: Time,
}

impl<A> ObservedApp<A> {
    pub(super) fn new(
        app: A,
        late: u64,
        leases: Leases,
        tick_model: Option<TickModel>,
        random: Random,
    ) -> ObservedApp<A> {
        let seen = Seen {
            late,
            never_late: late == 0,
            random,
            waiting: Vec::new(),
            leases,
            did: Vec::new(),
            identities: BTreeMap::new(),
            locked: Vec::new(),
            tick_model,
            seats: BTreeMap::new(),
            pressed: BTreeSet::new(),
            joined: 0,
            taken_over: 0,
            left: 0,
            messages: 0,
            unanswered: 0,
            answered: Vec::new(),
            answered_ever: 0,
            granted: Sent::default(),
            violation: None,
        };
        ObservedApp { app, seen }
    }
}

impl Seen {
    fn require(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(violation());
        }
    }

    /// `who` must be in its seat, on its connection.
    fn require_seated(&mut self, who: &Member, call: &str) {
        let holds =
            self.seats.get(&who.seat()).is_some_and(|there| there.conn == who.conn() && *there.user == *who.user());
        self.require(holds, || format!("{call} names conn={} seat={}, which is not joined", who.conn(), who.seat()));
    }

    /// What `who` says reaches the application.
    fn hear(&mut self, who: &Member, now: Time, call: &str) {
        self.require_seated(who, call);
        match &mut self.tick_model {
            Some(tick_model) => tick_model.hear(now, who.conn()),
            // With ticks a message is charged before it is heard.
            None => {
                if let Err(violation) = self.leases.charge(who.user(), now) {
                    self.require(false, || violation);
                }
            }
        }
    }

    fn note_left(&mut self, conn: ConnId) {
        self.pressed.remove(&conn);
        self.tick_model.iter_mut().for_each(|tick_model| tick_model.left(conn));
    }

    /// `who` comes in, which its identity must allow.
    fn admit(&mut self, who: &Member, now: Time) -> Seated {
        let only = self.identities.get(&who.conn()).and_then(|identity| identity.lobby.clone());
        self.require(only.as_deref().is_none_or(|lobby| lobby == who.lobby()), || {
            format!("conn={} is in lobby {}, and its identity is good for {only:?}", who.conn(), who.lobby())
        });
        Seated { conn: who.conn(), user: who.user().into(), lobby: who.lobby().into(), since: now }
    }
}

impl<A: App> App for ObservedApp<A> {
    const PROTOCOL: Protocol = A::PROTOCOL;

    fn route(&self, request: &Request<'_>) -> Route {
        self.app.route(request)
    }

    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        let mut answer = self.app.authorize(cx, request);
        let route = self.app.route(request);
        let seen = &mut self.seen;
        if let (Authorization::Allow(identity), Route::Lobby(code)) = (&mut answer, &route) {
            let did = seen.leases.restrict(identity, code, cx.unix_millis());
            if !did.is_empty() {
                seen.identities.insert(request.conn(), identity.clone());
                seen.did.extend(did);
            }
        }
        let Authorization::Allow(Identity { user, .. }) = &answer else { return answer };
        if seen.late == 0 || !is_user_id(user) || !seen.random.percent(seen.late) {
            return answer;
        }
        let user = seen.random.percent(70).then(|| user.clone());
        seen.waiting.push((request.conn(), answer));
        Authorization::Pending { user }
    }

    fn on_join(&mut self, cx: &mut Context<'_>, who: &Member) {
        let seen = &mut self.seen;
        seen.joined += 1;
        // A seat that was promised before the lobby was locked is kept.
        let is_locked = seen.never_late && seen.locked.iter().any(|code| **code == *who.lobby());
        seen.require(!is_locked, || format!("conn={} has joined lobby {}, which is locked", who.conn(), who.lobby()));
        let seated = seen.admit(who, cx.now());
        let before = seen.seats.insert(who.seat(), seated);
        seen.require(before.is_none(), || format!("on_join a second time for seat={}", who.seat()));
        self.app.on_join(cx, who);
    }

    fn on_rejoin(&mut self, cx: &mut Context<'_>, who: &Member) {
        let seen = &mut self.seen;
        seen.taken_over += 1;
        let seated = seen.admit(who, cx.now());
        match seen.seats.get_mut(&who.seat()) {
            Some(there) if *there.user == *who.user() => {
                let before = std::mem::replace(there, seated);
                seen.note_left(before.conn);
            }
            _ => seen.require(false, || format!("on_rejoin for seat={}, which is not the user's", who.seat())),
        }
        self.app.on_rejoin(cx, who);
    }

    fn allows(&mut self, cx: &mut Context<'_>, from: &Member, what: RelayRequest<'_>) -> bool {
        self.seen.hear(from, cx.now(), "allows");
        self.app.allows(cx, from, what)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        self.seen.messages += 1;
        self.seen.hear(from, cx.now(), "on_message");
        self.app.on_message(cx, from, message);
    }

    fn on_leave(&mut self, cx: &mut Context<'_>, who: &Member, why: LeaveReason) {
        self.seen.left += 1;
        self.seen.require_seated(who, "on_leave");
        self.seen.seats.remove(&who.seat());
        self.seen.note_left(who.conn());
        // A lobby that becomes empty is gone, and its lock with it.
        let seen = &mut self.seen;
        if !seen.locked.is_empty() && seen.seats.values().all(|seated| *seated.lobby != *who.lobby()) {
            seen.locked.retain(|code| **code != *who.lobby());
        }
        self.app.on_leave(cx, who, why);
    }

    fn on_health(&mut self, cx: &mut Context<'_>, who: &Member, latency: Option<Duration>) {
        match latency {
            Some(latency) => {
                self.seen.answered_ever += 1;
                self.seen.answered.push((who.conn(), cx.now(), latency));
            }
            None => self.seen.unanswered += 1,
        }
        self.app.on_health(cx, who, latency);
    }

    fn on_pressure(&mut self, cx: &mut Context<'_>, who: &Member, pressure: Pressure) {
        let seen = &mut self.seen;
        seen.require_seated(who, "on_pressure");
        let alternates = match pressure {
            Pressure::High { .. } => {
                seen.did.push(Behaviour::Pressure);
                seen.pressed.insert(who.conn())
            }
            Pressure::Low { .. } => seen.pressed.remove(&who.conn()),
        };
        seen.require(alternates, || format!("conn={} is told {pressure:?} twice", who.conn()));
        self.app.on_pressure(cx, who, pressure);
    }

    fn on_reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
        self.app.on_reload(cx, contents);
    }

    fn on_command(&mut self, cx: &mut Context<'_>, command: &[u8]) {
        match AppCommand::decode(command) {
            Some(command) => self.seen.granted = command.grant(A::PROTOCOL, cx),
            None => self.app.on_command(cx, command),
        }
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        self.app.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) {
        self.app.restore(snapshot);
    }

    fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
        let seen = &mut self.seen;
        seen.did.push(Behaviour::Ticks);
        let checked = match &mut seen.tick_model {
            Some(tick_model) => tick_model.tick(cx.now(), tick),
            None => Err(format!("{tick:?} although ticks are off")),
        };
        if let Err(violation) = checked {
            seen.require(false, || violation);
        }
        seen.require(cx.tick() == tick.number(), || format!("{tick:?} is called {}", cx.tick()));
        self.app.on_tick(cx, tick);
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, deadline: Time) {
        self.seen.tick_model.iter_mut().for_each(TickModel::drain);
        self.app.on_drain(cx, deadline);
    }
}

//! A wrapper around the application under test that records and checks the engine's callbacks.
//!
//! [`ObservedApp`] forwards every callback. It checks that each `on_join` is followed by exactly one `on_leave`, and
//! that messages, pressure and takeovers concern joined seats only. It also delays authorizations and restricts
//! identities, as drawn for the run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::app_command::AppCommand;
use super::limit_model::IdentityModel;
use super::swarm::Behaviour;
use super::tick_model::TickModel;
use crate::base::id::{ConnId, SeatId};
use crate::base::random::Random;
use crate::base::time::Time;
use crate::engine::app::{
    App, Authorization, Context, Identity, Member, Message, Pressure, Protocol, RelayRequest, Route, Sent,
};
use crate::engine::tick::Tick;
use crate::ws::handshake::Request;
use crate::{LeaveReason, is_user_id};

pub(super) struct ObservedApp<A> {
    pub(super) app: A,
    pub(super) observed: Observations,
}

/// The recorded callbacks. The simulator evaluates them after every step.
pub(super) struct Observations {
    /// Percentage of authorizations that are answered later.
    pub(super) late: u64,
    never_late: bool,
    pub(super) random: Random,
    /// Delayed authorizations, with the answers still to be given.
    pub(super) waiting: Vec<(ConnId, Authorization)>,
    /// Draws the restrictions of identities.
    pub(super) identity_model: IdentityModel,
    /// Behaviours that occurred since the last evaluation.
    pub(super) occurred: Vec<Behaviour>,
    /// Restricted identities of the open connections.
    pub(super) identities: BTreeMap<ConnId, Identity>,
    /// Codes of the locked lobbies.
    pub(super) locked: Vec<Box<str>>,
    /// Model of the ticks; `None` if ticks are off.
    pub(super) tick_model: Option<TickModel>,
    /// The members, by seat.
    pub(super) seats: BTreeMap<SeatId, Seated>,
    /// Connections reported above the high-water mark and not yet below the low one.
    above_high_mark: BTreeSet<ConnId>,
    pub(super) joined: u64,
    pub(super) taken_over: u64,
    pub(super) left: u64,
    pub(super) messages: u64,
    pub(super) unanswered: u64,
    /// Health checks answered since the last evaluation: connection, time of the answer, and latency.
    pub(super) answered: Vec<(ConnId, Time, Duration)>,
    /// Number of health checks answered in the run.
    pub(super) answered_ever: u64,
    /// Result of the last application command.
    pub(super) command_result: Sent,
    /// The first violation since the last evaluation.
    pub(super) violation: Option<String>,
}

/// The member in a seat.
#[derive(Debug)]
pub(super) struct Seated {
    pub(super) conn: ConnId,
    pub(super) user: Box<str>,
    pub(super) lobby: Box<str>,
    /// Time at which this connection joined or took over the seat.
    pub(super) since: Time,
}

impl<A> ObservedApp<A> {
    pub(super) fn new(
        app: A,
        late: u64,
        identity_model: IdentityModel,
        tick_model: Option<TickModel>,
        random: Random,
    ) -> ObservedApp<A> {
        let observed = Observations {
            late,
            never_late: late == 0,
            random,
            waiting: Vec::new(),
            identity_model,
            occurred: Vec::new(),
            identities: BTreeMap::new(),
            locked: Vec::new(),
            tick_model,
            seats: BTreeMap::new(),
            above_high_mark: BTreeSet::new(),
            joined: 0,
            taken_over: 0,
            left: 0,
            messages: 0,
            unanswered: 0,
            answered: Vec::new(),
            answered_ever: 0,
            command_result: Sent::default(),
            violation: None,
        };
        ObservedApp { app, observed }
    }
}

impl Observations {
    fn require(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(violation());
        }
    }

    /// Requires that `member` is in its seat, on its connection.
    fn require_seated(&mut self, member: &Member, call: &str) {
        let holds = self
            .seats
            .get(&member.seat())
            .is_some_and(|there| there.conn == member.conn() && *there.user == *member.user());
        self.require(holds, || {
            format!("{call} names conn={} seat={}, which is not joined", member.conn(), member.seat())
        });
    }

    /// Records that a message of `member` reached the application through the callback `call`.
    fn note_message(&mut self, member: &Member, now: Time, call: &str) {
        self.require_seated(member, call);
        match &mut self.tick_model {
            Some(tick_model) => tick_model.note_message(now, member.conn()),
            // With ticks, the engine charges a message on arrival, before the application receives it.
            None => {
                if let Err(violation) = self.identity_model.charge(member.user(), now) {
                    self.require(false, || violation);
                }
            }
        }
    }

    fn note_left(&mut self, conn: ConnId) {
        self.above_high_mark.remove(&conn);
        self.tick_model.iter_mut().for_each(|tick_model| tick_model.left(conn));
    }

    /// Checks that the identity of `member` allows its lobby, and returns the member for its seat.
    fn admit(&mut self, member: &Member, now: Time) -> Seated {
        let only = self.identities.get(&member.conn()).and_then(|identity| identity.lobby.clone());
        self.require(only.as_deref().is_none_or(|lobby| lobby == member.lobby()), || {
            format!("conn={} is in lobby {}, but its identity is restricted to {only:?}", member.conn(), member.lobby())
        });
        Seated { conn: member.conn(), user: member.user().into(), lobby: member.lobby().into(), since: now }
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
        let observed = &mut self.observed;
        if let (Authorization::Allow(identity), Route::Lobby(code)) = (&mut answer, &route) {
            let occurred = observed.identity_model.restrict(identity, code, cx.unix_millis());
            if !occurred.is_empty() {
                observed.identities.insert(request.conn(), identity.clone());
                observed.occurred.extend(occurred);
            }
        }
        let Authorization::Allow(Identity { user, .. }) = &answer else { return answer };
        if observed.late == 0 || !is_user_id(user) || !observed.random.percent(observed.late) {
            return answer;
        }
        let user = observed.random.percent(70).then(|| user.clone());
        observed.waiting.push((request.conn(), answer));
        Authorization::Pending { user }
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        let observed = &mut self.observed;
        observed.joined += 1;
        // A seat that was reserved before the lobby was locked may still be joined.
        let is_locked = observed.never_late && observed.locked.iter().any(|code| **code == *member.lobby());
        observed
            .require(!is_locked, || format!("conn={} joined lobby {}, which is locked", member.conn(), member.lobby()));
        let seated = observed.admit(member, cx.now());
        let before = observed.seats.insert(member.seat(), seated);
        observed.require(before.is_none(), || format!("second on_join for seat={}", member.seat()));
        self.app.on_join(cx, member);
    }

    fn on_rejoin(&mut self, cx: &mut Context<'_>, member: &Member) {
        let observed = &mut self.observed;
        observed.taken_over += 1;
        let seated = observed.admit(member, cx.now());
        match observed.seats.get_mut(&member.seat()) {
            Some(there) if *there.user == *member.user() => {
                let before = std::mem::replace(there, seated);
                observed.note_left(before.conn);
            }
            _ => observed
                .require(false, || format!("on_rejoin for seat={}, which is not a seat of the user", member.seat())),
        }
        self.app.on_rejoin(cx, member);
    }

    fn allows(&mut self, cx: &mut Context<'_>, from: &Member, what: RelayRequest<'_>) -> bool {
        self.observed.note_message(from, cx.now(), "allows");
        self.app.allows(cx, from, what)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        self.observed.messages += 1;
        self.observed.note_message(from, cx.now(), "on_message");
        self.app.on_message(cx, from, message);
    }

    fn on_leave(&mut self, cx: &mut Context<'_>, member: &Member, reason: LeaveReason) {
        self.observed.left += 1;
        self.observed.require_seated(member, "on_leave");
        self.observed.seats.remove(&member.seat());
        self.observed.note_left(member.conn());
        // A lobby that becomes empty is removed, together with its lock.
        let observed = &mut self.observed;
        if !observed.locked.is_empty() && observed.seats.values().all(|seated| *seated.lobby != *member.lobby()) {
            observed.locked.retain(|code| **code != *member.lobby());
        }
        self.app.on_leave(cx, member, reason);
    }

    fn on_health(&mut self, cx: &mut Context<'_>, member: &Member, latency: Option<Duration>) {
        match latency {
            Some(latency) => {
                self.observed.answered_ever += 1;
                self.observed.answered.push((member.conn(), cx.now(), latency));
            }
            None => self.observed.unanswered += 1,
        }
        self.app.on_health(cx, member, latency);
    }

    fn on_pressure(&mut self, cx: &mut Context<'_>, member: &Member, pressure: Pressure) {
        let observed = &mut self.observed;
        observed.require_seated(member, "on_pressure");
        let alternates = match pressure {
            Pressure::High { .. } => {
                observed.occurred.push(Behaviour::Pressure);
                observed.above_high_mark.insert(member.conn())
            }
            Pressure::Low { .. } => observed.above_high_mark.remove(&member.conn()),
        };
        observed.require(alternates, || format!("conn={} was reported {pressure:?} twice", member.conn()));
        self.app.on_pressure(cx, member, pressure);
    }

    fn on_reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
        self.app.on_reload(cx, contents);
    }

    fn on_command(&mut self, cx: &mut Context<'_>, command: &[u8]) {
        match AppCommand::decode(command) {
            Some(command) => self.observed.command_result = command.execute(A::PROTOCOL, cx),
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
        let observed = &mut self.observed;
        observed.occurred.push(Behaviour::Ticks);
        let checked = match &mut observed.tick_model {
            Some(tick_model) => tick_model.tick(cx.now(), tick),
            None => Err(format!("{tick:?} although ticks are off")),
        };
        if let Err(violation) = checked {
            observed.require(false, || violation);
        }
        observed.require(cx.tick() == tick.number(), || format!("cx.tick() during {tick:?} is {}", cx.tick()));
        self.app.on_tick(cx, tick);
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, deadline: Time) {
        self.observed.tick_model.iter_mut().for_each(TickModel::drain);
        self.app.on_drain(cx, deadline);
    }
}

//! All models of a run. Feeds each of them with the engine's events, in the order in which they were dispatched.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use super::addresses::AddressModel;
use super::close_reasons::Circumstances;
use super::control::{ControlModel, Members};
use super::counters::{CounterModel, check_equal};
use super::health::HealthModel;
use super::latest::LatestModel;
use super::locks::LockModel;
use super::operators::OperatorModel;
use super::pressure::PressureModel;
use super::rates::RateModel;
use super::reported::ReportedModel;
use super::seats::SeatModel;
use super::sessions::SessionModel;
use super::ticks::TickModel;
use super::tokens::TokenModel;
use super::user_rates::UserRateModel;
use super::wall_clock::WallClock;
use crate::base::close::{CloseReason, LeaveReason};
use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::config::{Config, DuplicateLogin};
use crate::engine::app::{Identity, Member, Pressure, Protocol};
use crate::engine::observer::{Content, Observed, ObservedEvent};
use crate::engine::state::stats::Stats;
use crate::engine::state::ticks::Tick;
use crate::sim::swarm::behaviour::{Behaviour, BehaviourCounts};

/// The models of a run.
pub(crate) struct Models {
    pub(crate) seats: SeatModel,
    pub(crate) sessions: SessionModel,
    pub(crate) locks: LockModel,
    /// `None` with lobby control off.
    pub(crate) control: Option<ControlModel>,
    pub(crate) pressure: PressureModel,
    pub(crate) health: HealthModel,
    /// `None` if ticks are off.
    pub(crate) ticks: Option<TickModel>,
    pub(crate) tokens: TokenModel,
    pub(crate) user_rates: UserRateModel,
    pub(crate) rates: RateModel,
    pub(crate) addresses: AddressModel,
    pub(crate) operators: OperatorModel,
    pub(crate) latest: LatestModel,
    pub(crate) counters: CounterModel,
    pub(crate) wall_clock: WallClock,
    pub(crate) reported: ReportedModel,
    /// Occurrences of each behaviour.
    pub(crate) behaviours: BehaviourCounts,
    /// Whether a lobby may be so large that its members are told only their number.
    pub(crate) may_be_counted: bool,
    /// Number of messages that reached the application.
    messages: u64,
    /// The first violation that is not reported yet.
    violation: Option<String>,
}

/// Which messages may be refused, and whether seats may be reserved before they are joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowances {
    /// Whether the inbox that waits for the next tick may be full.
    pub(crate) limits_inbox: bool,
    /// Whether any message may be refused.
    pub(crate) may_refuse: bool,
    /// Whether a seat may be reserved for a connection that joins later.
    pub(crate) may_reserve: bool,
}

/// What the application under test was shown or decided, besides the events.
#[derive(Debug, Default)]
pub(crate) struct AppRecord {
    /// Identities returned by `authorize`, with the restrictions that were drawn for each.
    pub(crate) authorized: Vec<(ConnId, Identity, Vec<Behaviour>)>,
    /// Lobbies that were joined, each with its epoch and the last `seq` before.
    pub(crate) lobbies: Vec<(SmolStr, u64, u64)>,
    /// Number of callbacks that the engine observes as events.
    pub(crate) calls: usize,
    /// The number that the context showed in each `on_tick`.
    pub(crate) shown_ticks: Vec<u64>,
}

impl Models {
    pub(crate) fn new(protocol: Protocol, config: &Config, allowances: Allowances) -> Models {
        let Allowances { limits_inbox, may_refuse, may_reserve } = allowances;
        Models {
            seats: SeatModel::default(),
            sessions: SessionModel::new(config, may_reserve),
            locks: LockModel::new(may_reserve),
            control: ControlModel::new(config, may_reserve),
            pressure: PressureModel::default(),
            health: HealthModel::default(),
            ticks: TickModel::new(config),
            tokens: TokenModel::new(config.token_grace),
            user_rates: UserRateModel::new(config),
            rates: RateModel::new(config, limits_inbox, may_refuse),
            addresses: AddressModel::new(config),
            operators: OperatorModel::new(protocol, config),
            latest: LatestModel::default(),
            counters: CounterModel::default(),
            wall_clock: WallClock::new(),
            reported: ReportedModel::default(),
            behaviours: BehaviourCounts::new(),
            may_be_counted: config.presence_max < 16,
            messages: 0,
            violation: None,
        }
    }

    /// Feeds the models with the events of one call of the engine.
    pub(crate) fn feed(&mut self, events: Vec<Observed>, record: AppRecord) {
        for (conn, identity, restrictions) in record.authorized {
            self.user_rates.authorized(&identity.user, identity.tier);
            if !restrictions.is_empty() {
                self.tokens.authorized(conn, identity);
            }
            restrictions.into_iter().for_each(|behaviour| self.behaviours.add(behaviour));
        }
        let observed = events.iter().filter(|observed| observed.event.is_callback()).count();
        let calls = record.calls;
        if calls != observed {
            let violation = || format!("the application was called {calls} times for {observed} observed events");
            self.violation.get_or_insert_with(violation);
        }
        let unflushed: BTreeSet<SeatId> = match self.control {
            Some(_) => events.iter().filter_map(|observed| observed.event.changed_seat()).collect(),
            None => BTreeSet::new(),
        };
        for (lobby, epoch, seq) in record.lobbies {
            if let Some(control) = &mut self.control {
                // An earlier lobby of this name was kept without members for its time, and its lock ended with it.
                if control.lobby_found(&lobby, epoch) {
                    self.locks.lobby_removed(&lobby);
                }
            }
            self.sessions.lobby_found(&lobby, epoch, seq);
        }
        let mut shown_ticks = record.shown_ticks.into_iter();
        for Observed { at, event } in events {
            self.reported.told(&event);
            let outcome = match event {
                ObservedEvent::Joined(member) => self.joined(&member, at),
                ObservedEvent::TookOver(member) => self.took_over(&member, at),
                ObservedEvent::Relay { from, to, data } => {
                    self.message(&from, at, "allows").and(self.sessions.shown(&from, &data, to.is_some()))
                }
                ObservedEvent::Control { from, word, of, text } => {
                    self.message(&from, at, "allows").and(self.control(&from, word, of, &text, &unflushed))
                }
                ObservedEvent::Message { from, content } => {
                    self.messages += 1;
                    let shown = match &content {
                        Content::Text(text) => self.sessions.shown(&from, text, false),
                        Content::Bytes(_) => Ok(()),
                    };
                    self.message(&from, at, "on_message").and(shown)
                }
                ObservedEvent::Away(member, reason) => self.went_away(&member, reason, at),
                ObservedEvent::Back(member) => self.back(&member, at),
                ObservedEvent::Left(member, reason) => self.left(&member, reason, at),
                ObservedEvent::Said { lobby, epoch, seq, text } => {
                    let said = self.sessions.said(&lobby, epoch, seq, &text, at);
                    said.and(self.said_of_control(&lobby, epoch, &text, at, &unflushed))
                }
                ObservedEvent::SaidDirectly { seat, n, text } => self.sessions.said_directly(seat, n, text.len()),
                ObservedEvent::Began { seat, seq } => {
                    self.sessions.began(seat, seq, at);
                    Ok(())
                }
                ObservedEvent::Health(member, latency) => {
                    self.health.ended(member.conn(), at, latency);
                    Ok(())
                }
                ObservedEvent::Pressure(member, pressure) => self.pressure(&member, pressure),
                ObservedEvent::Tick(tick) => self.tick(at, &tick, shown_ticks.next()),
                ObservedEvent::Drain(_) => {
                    self.ticks.iter_mut().for_each(TickModel::drain);
                    self.sessions.drain();
                    Ok(())
                }
            };
            if let Err(violation) = outcome {
                self.violation.get_or_insert(violation);
            }
        }
        if self.control.is_some() {
            self.sessions.is_kicking = false;
        }
    }

    fn joined(&mut self, member: &Member, at: Time) -> Result<(), String> {
        let (conn, lobby) = (member.conn(), member.lobby());
        let unlocked = match self.locks.allows_join(lobby) {
            true => Ok(()),
            false => Err(format!("conn={conn} joined lobby {lobby}, which is locked")),
        };
        // All models are fed, also after a violation.
        let session = self.sessions.joined(member, at);
        let seated = self.seats.joined(member, at);
        let Models { seats, sessions, .. } = self;
        let members = Members { seats, sessions, unflushed: &BTreeSet::new() };
        let controlled = self.control.as_mut().map_or(Ok(()), |control| control.joined(member, members));
        unlocked.and(self.tokens.check_lobby(member)).and(seated).and(session).and(controlled)
    }

    /// The application allowed a request of lobby control.
    fn control(
        &mut self,
        from: &Member,
        word: &'static str,
        of: Option<SeatId>,
        text: &str,
        unflushed: &BTreeSet<SeatId>,
    ) -> Result<(), String> {
        // The seats of a user that is kicked are barred, also while they are away.
        self.sessions.is_kicking |= matches!(word, "kick" | "ban");
        let members = Members { seats: &self.seats, sessions: &self.sessions, unflushed };
        let control = self.control.as_mut().ok_or("a request of lobby control, which is off")?;
        control.allowed(from, word, of, text, members)
    }

    fn said_of_control(
        &mut self,
        lobby: &str,
        epoch: u64,
        text: &str,
        at: Time,
        unflushed: &BTreeSet<SeatId>,
    ) -> Result<(), String> {
        let members = Members { seats: &self.seats, sessions: &self.sessions, unflushed };
        let Some(control) = &mut self.control else { return Ok(()) };
        let locked = control.said((lobby, epoch), text, at, members, &self.wall_clock);
        // During a countdown a lobby is locked, too.
        self.locks.commanded();
        if let Ok(Some(locked)) = locked {
            self.locks.set(lobby, locked);
        }
        locked.map(drop)
    }

    fn took_over(&mut self, member: &Member, at: Time) -> Result<(), String> {
        let allowed = self.tokens.check_lobby(member);
        let session = self.sessions.took_over(member, at);
        let older = self.seats.taken_over(member, at);
        if let Ok(older) = older {
            self.conn_left(older);
        }
        let controlled = self.control.as_ref().map_or(Ok(()), |control| control.check_banned(member));
        allowed.and(older.map(drop)).and(session).and(controlled)
    }

    fn went_away(&mut self, member: &Member, reason: LeaveReason, at: Time) -> Result<(), String> {
        let there = self.seats.went_away(member);
        self.conn_left(member.conn());
        there.and(self.sessions.went_away(member, reason, at))
    }

    fn back(&mut self, member: &Member, at: Time) -> Result<(), String> {
        let allowed = self.tokens.check_lobby(member);
        let session = self.sessions.back(member, at);
        let older = self.seats.back(member, at);
        if let Ok(older) = older {
            self.conn_left(older);
        }
        let controlled = self.control.as_ref().map_or(Ok(()), |control| control.check_banned(member));
        allowed.and(older.map(drop)).and(session).and(controlled)
    }

    /// A message reached the application through the callback `call`.
    fn message(&mut self, from: &Member, at: Time, call: &str) -> Result<(), String> {
        let seated = self.seats.check_seated(from, call);
        let charged = match &mut self.ticks {
            Some(ticks) => {
                ticks.message(at, from.conn());
                Ok(())
            }
            // With ticks, the engine charges a message on arrival, before the application receives it.
            None => self.user_rates.charge(from.user(), at),
        };
        seated.and(charged)
    }

    fn left(&mut self, member: &Member, reason: LeaveReason, at: Time) -> Result<(), String> {
        let left = self.seats.left(member).and(self.sessions.left(member, reason, at));
        self.conn_left(member.conn());
        let is_last = self.seats.is_lobby_empty(member.lobby());
        if let Some(control) = &mut self.control {
            control.left(member, is_last, at);
        }
        // A lobby that becomes empty is removed, together with its lock. One that is kept has no session any more that could
        // come back, and its lock is known to the model of lobby control.
        if self.seats.is_lobby_empty(member.lobby()) {
            self.locks.lobby_removed(member.lobby());
            self.sessions.lobby_removed(member.lobby());
        }
        left
    }

    fn conn_left(&mut self, conn: ConnId) {
        self.pressure.left(conn);
        self.ticks.iter_mut().for_each(|ticks| ticks.left(conn));
    }

    fn pressure(&mut self, member: &Member, pressure: Pressure) -> Result<(), String> {
        if matches!(pressure, Pressure::High { .. }) {
            self.behaviours.add(Behaviour::Pressure);
        }
        self.seats.check_seated(member, "on_pressure").and(self.pressure.reported(member.conn(), pressure))
    }

    fn tick(&mut self, at: Time, tick: &Tick, shown: Option<u64>) -> Result<(), String> {
        self.behaviours.add(Behaviour::Ticks);
        let checked = match &mut self.ticks {
            Some(ticks) => ticks.tick(at, tick),
            None => Err(format!("{tick:?} although ticks are off")),
        };
        let is_shown = match shown {
            Some(shown) if shown == tick.number() => Ok(()),
            Some(shown) => Err(format!("cx.tick() during {tick:?} is {shown}")),
            None => Err(format!("the application was not called for {tick:?}")),
        };
        checked.and(is_shown)
    }

    /// Returns the first violation of an event since the last call.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        self.violation.take().map_or(Ok(()), Err)
    }

    /// Numbers of the events so far, for the transcript.
    pub(crate) fn event_counts(&self) -> [u64; 5] {
        let seats = &self.seats;
        [seats.joined, seats.left, self.messages, seats.taken_over, self.health.unanswered]
    }

    /// Whether the connection `conn`, in `lobby`, can have ended now with `reason`.
    pub(crate) fn allow_close(
        &self,
        reason: CloseReason,
        conn: ConnId,
        lobby: &str,
        circumstances: &Circumstances,
        now: Time,
        config: &Config,
    ) -> bool {
        if let Some(is_allowed) = circumstances.allow(reason, config) {
            return is_allowed;
        }
        match reason {
            CloseReason::TokenExpired => {
                self.tokens.allows_expiry(conn, circumstances.is_synced, now, &self.wall_clock)
            }
            CloseReason::Unauthorized => circumstances.is_unpredictable || self.tokens.is_elsewhere(conn, lobby),
            CloseReason::IpLimit => self.addresses.allows_refusal(conn, |other| {
                let was_seated = self.seats.iter().any(|(_, seated)| seated.conn == other && seated.since < now);
                was_seated && config.duplicate_login == DuplicateLogin::Replace
            }),
            CloseReason::RateLimited if circumstances.is_event_attempt => self.addresses.limits_attempts(),
            CloseReason::RateLimited => self.rates.allows_close(circumstances.bytes_sent),
            CloseReason::ForcedReconnect => !circumstances.is_draining && self.operators.allows_reconnect(conn),
            CloseReason::LobbyLocked => self.locks.allows_refusal(),
            _ => true,
        }
    }

    /// Checks, after a turn, that no member has exceeded its expiry or lifetime.
    pub(crate) fn check_members(&self, now: Time, config: &Config) -> Result<(), String> {
        // A timer may be late by the wheel's granule. Twice that is allowed here.
        let slack = config.wheel_granule * 2;
        self.sessions.check(now, slack, self.may_be_counted)?;
        self.seats.check_limits(config)?;
        for (_, seated) in self.seats.iter().filter(|(seat, _)| !self.sessions.is_away(*seat)) {
            let conn = seated.conn;
            self.tokens.check_expiry(conn, now, slack, &self.wall_clock)?;
            if config.max_lifetime.is_some_and(|age| now >= seated.since + age + slack) {
                return Err(format!("conn={conn} is still joined, but is older than max_lifetime"));
            }
        }
        Ok(())
    }

    /// Compares the engine's counters with those of the models, after all connections have closed.
    pub(crate) fn check_totals(&self, stats: &Stats) -> Result<(), String> {
        if let (Some(model), Some(ticks)) = (&self.ticks, &stats.ticks) {
            model.check_counts(ticks.ran, ticks.skipped)?;
            if ticks.inbox_bytes > 0 {
                return Err(format!("no connection is left, but {} bytes wait for a tick", ticks.inbox_bytes));
            }
        }
        self.seats.check_empty()?;
        self.sessions.check_empty()?;
        let engine = &stats.counters;
        self.counters.check(engine)?;
        check_equal(&[
            ("joined", engine.joined, self.seats.joined),
            ("left", engine.left, self.seats.left),
            ("joined and left", engine.joined, engine.left),
            ("taken_over and resumed", engine.taken_over + engine.resumed, self.seats.taken_over),
            ("resumed", engine.resumed, self.sessions.resumed),
            ("health_checks", engine.health_checks, self.health.answered + engine.health_checks_failed),
        ])
    }
}

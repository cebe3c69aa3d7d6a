//! The server under test: the engine, its time, and the models of what it must do.
//!
//! Every call of the engine passes through [`Server::call`], which feeds the models with the events of the call. Knows
//! no client, and draws nothing.

use smol_str::SmolStr;

use super::app::authorizer::Authorizer;
use super::app::command::AppCommand;
use super::app::under_test::AppUnderTest;
use super::models::feed::{AppRecord, Models};
use super::models::ticks::TickModel;
use super::models::wall_clock::START_MICROS;
use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::config::{CheckedConfig, Config, Flush};
use crate::engine::Engine;
use crate::engine::app::{App, Sent};
use crate::engine::driver::Start;
use crate::engine::observer::{Observed, ObservedEvent};

pub(super) struct Server<A: App> {
    engine: Engine<AppUnderTest<A>>,
    pub(super) models: Models,
    pub(super) now: Time,
    /// Time of the previous turn.
    pub(super) last_turn: Time,
    /// Whether a connection had unread input after the previous turn, so that its timers may have been deferred.
    pub(super) had_unread: bool,
    /// Whether the engine has received an input since the driver's last turn ended.
    pub(super) turn_open: bool,
    /// Number of the first link accepted after the drain began.
    pub(super) drained_from: Option<u32>,
}

impl<A: App> Server<A> {
    pub(super) fn new(seed: u64, config: CheckedConfig, app: AppUnderTest<A>, models: Models) -> Server<A> {
        let mut engine = Engine::new(config, start(seed), app);
        engine.observe();
        engine.start_feed();
        Server {
            engine,
            models,
            now: Time::ZERO,
            last_turn: Time::ZERO,
            had_unread: false,
            turn_open: false,
            drained_from: None,
        }
    }

    /// Calls the engine at the present time, then feeds the models with the events that the call dispatched.
    pub(super) fn call<R>(&mut self, call: impl FnOnce(&mut Engine<AppUnderTest<A>>, Time) -> R) -> R {
        let result = call(&mut self.engine, self.now);
        let events = self.engine.take_observed();
        let lobbies = lobbies_joined(&self.engine, &events);
        let app = self.engine.observed_app();
        let record = AppRecord {
            lobbies,
            authorized: app.authorizer.take_restricted(),
            calls: std::mem::take(&mut app.calls),
            shown_ticks: std::mem::take(&mut app.shown_ticks),
        };
        self.models.feed(events, record);
        result
    }

    /// At the end of a turn: takes the events for operators, as a driver does, and checks them.
    pub(super) fn check_events(&mut self) -> Result<(), String> {
        let events = self.engine.take_feed();
        self.models.reported.check_turn(&events)?;
        let lobbies = self.engine.lobbies(None, usize::MAX).items.into_iter().map(|lobby| lobby.code);
        self.models.reported.check_state(&self.models.seats, lobbies)
    }

    /// Passes a command to the application. Returns the number of receivers.
    pub(super) fn command(&mut self, command: AppCommand<'_>) -> Sent {
        let command = command.encode();
        self.call(|engine, now| engine.handle_command(now, command.as_bytes()));
        std::mem::take(&mut self.engine.observed_app().command_result)
    }

    #[cfg(test)]
    pub(super) fn into_engine(self) -> Engine<AppUnderTest<A>> {
        self.engine
    }

    pub(super) fn engine(&self) -> &Engine<AppUnderTest<A>> {
        &self.engine
    }

    pub(super) fn app(&self) -> &A {
        &self.engine.app().app
    }

    pub(super) fn authorizer(&mut self) -> &mut Authorizer {
        &mut self.engine.observed_app().authorizer
    }

    pub(super) fn config(&self) -> &Config {
        self.engine.config()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drained_from.is_some()
    }

    /// Returns the seats in a lobby, in join order, as the engine knows them.
    pub(super) fn seats_in(&self, lobby: &str) -> Vec<SeatId> {
        let state = self.engine.lobby_state(lobby);
        state.map_or_else(Vec::new, |(_, _, members)| members.map(|(_, seat, ..)| seat).collect())
    }

    /// Returns the connections in a lobby, in join order, as the engine knows them, without members that are away.
    pub(super) fn members_of(&self, lobby: &str) -> Vec<ConnId> {
        let state = self.engine.lobby_state(lobby);
        state.map_or_else(Vec::new, |(_, _, members)| members.filter_map(|(_, _, conn, _)| conn).collect())
    }

    /// Returns the number of bytes in the inboxes, which wait for the next tick.
    pub(super) fn inbox_bytes(&self) -> usize {
        self.engine.stats().ticks.map_or(0, |ticks| ticks.inbox_bytes)
    }

    /// Whether queued output may wait for the next tick although its socket is not blocked.
    pub(super) fn may_cork(&self) -> bool {
        self.config().flush == Flush::Tick && self.models.ticks.as_ref().is_some_and(TickModel::may_cork)
    }
}

/// Returns the lobbies that were joined in these events, each with its epoch and the last `seq` before the join.
fn lobbies_joined<A: App>(engine: &Engine<A>, events: &[Observed]) -> Vec<(SmolStr, u64, u64)> {
    let first_said = |code: &str| {
        events.iter().find_map(|observed| match &observed.event {
            ObservedEvent::Said { lobby, epoch, seq, .. } if lobby == code => Some((*epoch, *seq - 1)),
            _ => None,
        })
    };
    let joined = events.iter().filter_map(|observed| match &observed.event {
        ObservedEvent::Joined(member) => Some(member.lobby()),
        _ => None,
    });
    let found = joined.filter_map(|code| {
        let state = engine.lobby_state(code).map(|(epoch, seq, _)| (epoch, seq));
        let (epoch, seq) = first_said(code).or(state)?;
        Some((code.into(), epoch, seq))
    });
    found.collect()
}

/// Returns the start of a run.
pub(super) fn start(seed: u64) -> Start {
    Start { unix_micros: START_MICROS, seed }
}

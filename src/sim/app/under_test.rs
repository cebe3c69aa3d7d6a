//! A wrapper around the application under test, through which the simulator acts on the engine.
//!
//! It changes the answers of `authorize`, and executes the simulator's commands. All other callbacks are forwarded, and
//! counted, so that the events that the models are fed with can be compared with the calls.

use std::time::Duration;

use super::authorizer::Authorizer;
use super::command::AppCommand;
use crate::base::close::LeaveReason;
use crate::base::time::Time;
use crate::engine::app::{App, Authorization, Context, Member, Message, Pressure, Protocol, RelayRequest, Route, Sent};
use crate::engine::control::LobbyControl;
use crate::engine::state::ticks::Tick;
use crate::ws::handshake::Request;

pub(crate) struct AppUnderTest<A> {
    pub(crate) app: A,
    pub(crate) authorizer: Authorizer,
    /// Result of the last command of the simulator.
    pub(crate) command_result: Sent,
    /// Number of calls that the engine observes as events, since the last call of the engine.
    pub(crate) calls: usize,
    /// The number that the context showed in each `on_tick` since the last call of the engine.
    pub(crate) shown_ticks: Vec<u64>,
}

impl<A> AppUnderTest<A> {
    pub(crate) fn new(app: A, authorizer: Authorizer) -> AppUnderTest<A> {
        AppUnderTest { app, authorizer, command_result: Sent::default(), calls: 0, shown_ticks: Vec::new() }
    }

    /// Returns the application, for a call that the engine observes as an event.
    fn observed(&mut self) -> &mut A {
        self.calls += 1;
        &mut self.app
    }
}

impl<A: App> App for AppUnderTest<A> {
    const PROTOCOL: Protocol = A::PROTOCOL;
    const LOBBY_CONTROL: LobbyControl = A::LOBBY_CONTROL;
    const IS_STATELESS: bool = A::IS_STATELESS;

    fn route(&self, request: &Request<'_>) -> Route {
        self.app.route(request)
    }

    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        let answer = self.app.authorize(cx, request);
        // A POST is asked for the user only: its stream has the identity.
        if request.is_for_events && request.header("content-length").is_some_and(|length| length != "0") {
            return answer;
        }
        let route = self.app.route(request);
        self.authorizer.answer(request.conn(), &route, answer, cx.unix_millis())
    }

    fn on_command(&mut self, cx: &mut Context<'_>, command: &[u8]) {
        match AppCommand::decode(command) {
            Some(command) => self.command_result = command.execute(A::PROTOCOL, cx),
            None => self.app.on_command(cx, command),
        }
    }

    fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
        // No event tells what the context shows.
        self.shown_ticks.push(cx.tick());
        self.observed().on_tick(cx, tick);
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.observed().on_join(cx, member);
    }

    fn on_away(&mut self, cx: &mut Context<'_>, member: &Member, reason: LeaveReason) {
        self.observed().on_away(cx, member, reason);
    }

    fn on_back(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.observed().on_back(cx, member);
    }

    fn on_rejoin(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.observed().on_rejoin(cx, member);
    }

    fn allows(&mut self, cx: &mut Context<'_>, from: &Member, what: RelayRequest<'_>) -> bool {
        self.observed().allows(cx, from, what)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        self.observed().on_message(cx, from, message);
    }

    fn on_leave(&mut self, cx: &mut Context<'_>, member: &Member, reason: LeaveReason) {
        self.observed().on_leave(cx, member, reason);
    }

    fn on_health(&mut self, cx: &mut Context<'_>, member: &Member, latency: Option<Duration>) {
        self.observed().on_health(cx, member, latency);
    }

    fn on_pressure(&mut self, cx: &mut Context<'_>, member: &Member, pressure: Pressure) {
        self.observed().on_pressure(cx, member, pressure);
    }

    fn on_reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
        self.app.on_reload(cx, contents);
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, deadline: Time) {
        self.observed().on_drain(cx, deadline);
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        self.app.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) {
        self.app.restore(snapshot);
    }
}

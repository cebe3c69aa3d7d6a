//! Wraps an application, so that a panic closes one lobby and does not end the process.

use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use log::error;

use crate::base::close::{CloseReason, LeaveReason};
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::engine::app::{App, Authorization, Context, Member, Message, Pressure, Protocol, RelayRequest, Route};
use crate::engine::control::LobbyControl;
use crate::engine::state::ticks::Tick;
use crate::ws::handshake::Request;

/// Catches panics of an application. When a callback for a member panics, the member's lobby is closed with 1011
/// `internal_error`. Other lobbies continue.
///
/// Without this wrapper a panic ends the process, which is the right default: one application serves all lobbies, so
/// after a panic its whole state is suspect. An application that keeps the state of each lobby separate may use the
/// wrapper.
///
/// A panic can corrupt only the application's own state. No callback runs while the engine changes its state: each
/// method of [`Context`] finishes its change before it returns, and the resulting events are dispatched after the
/// callback has returned. So a panic in a callback interrupts no change of the engine. A panic of the engine itself, in
/// a method of [`Context`], is not caught and ends the process.
///
/// A panic in a callback without a member ([`App::on_tick`], [`App::on_command`], [`App::on_reload`] or
/// [`App::on_drain`]) still ends the process. A panic in [`App::authorize`] closes the connection with 1011, and one in
/// [`App::route`] is answered like [`Route::NotFound`](crate::admission::Route::NotFound).
///
/// ```
/// use lobbyd::apps::{CatchPanics, Relay};
/// use lobbyd::driver::Start;
/// use lobbyd::{Config, Engine};
///
/// let (config, start) = (Config::default().check().unwrap(), Start { unix_micros: 0, seed: 1 });
/// let engine = Engine::new(config, start, CatchPanics::new(Relay::default()));
/// assert_eq!(engine.app().panics(), 0);
/// ```
#[derive(Debug, Default)]
pub struct CatchPanics<A> {
    app: A,
    panics: u64,
}

impl<A> CatchPanics<A> {
    /// Wraps `app`.
    pub fn new(app: A) -> CatchPanics<A> {
        CatchPanics { app, panics: 0 }
    }

    /// Returns the wrapped application.
    pub fn app(&self) -> &A {
        &self.app
    }

    /// Returns the number of caught panics, without those in [`App::route`].
    pub fn panics(&self) -> u64 {
        self.panics
    }
}

/// Calls the application. Returns `None` when it panics.
///
/// A panic of the engine in a method of `Context` is not caught: the engine's state is then suspect for all lobbies.
fn attempt<R>(cx: &mut Context<'_>, call: impl FnOnce(&mut Context<'_>) -> R) -> Option<R> {
    // AssertUnwindSafe: by choosing this wrapper, the operator accepts the state that a panic leaves behind.
    let result = panic::catch_unwind(AssertUnwindSafe(|| call(cx)));
    if cx.has_engine_panicked() {
        error!("the engine panicked in a call from the application; the process ends");
        // There is no payload if the application itself caught the engine's panic.
        panic::resume_unwind(result.err().unwrap_or_else(|| Box::new("the engine has panicked")));
    }
    result.ok()
}

impl<A: App> CatchPanics<A> {
    /// Calls the application for `member`, and closes the member's lobby when the call panics.
    fn catch_panic<R>(
        &mut self,
        cx: &mut Context<'_>,
        member: &Member,
        call: impl FnOnce(&mut A, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let result = attempt(cx, |cx| call(&mut self.app, cx));
        if result.is_none() {
            self.panics += 1;
            let closed = cx.close_lobby(member.lobby(), CloseReason::InternalError);
            error!(
                "user={:?} lobby={} the application panicked in a callback for this member: its lobby is closed, members={closed}",
                member.user(),
                member.lobby()
            );
        }
        result
    }
}

impl<A: App> App for CatchPanics<A> {
    const PROTOCOL: Protocol = A::PROTOCOL;
    const LOBBY_CONTROL: LobbyControl = A::LOBBY_CONTROL;
    const IS_STATELESS: bool = A::IS_STATELESS;

    fn route(&self, request: &Request<'_>) -> Route {
        // route() has no Context, so the engine cannot have panicked.
        panic::catch_unwind(AssertUnwindSafe(|| self.app.route(request))).unwrap_or(Route::NotFound)
    }

    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        attempt(cx, |cx| self.app.authorize(cx, request)).unwrap_or_else(|| {
            self.panics += 1;
            error!("conn={} the application panicked while authorizing it", request.conn());
            Authorization::Refuse(CloseReason::InternalError)
        })
    }

    fn authorize_again(&mut self, cx: &mut Context<'_>, conn: ConnId, token: &str) -> Authorization {
        attempt(cx, |cx| self.app.authorize_again(cx, conn, token)).unwrap_or_else(|| {
            self.panics += 1;
            error!("conn={conn} the application panicked while authorizing it");
            Authorization::Refuse(CloseReason::InternalError)
        })
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.catch_panic(cx, member, |app, cx| app.on_join(cx, member));
    }

    fn on_away(&mut self, cx: &mut Context<'_>, member: &Member, reason: LeaveReason) {
        self.catch_panic(cx, member, |app, cx| app.on_away(cx, member, reason));
    }

    fn on_back(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.catch_panic(cx, member, |app, cx| app.on_back(cx, member));
    }

    fn on_rejoin(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.catch_panic(cx, member, |app, cx| app.on_rejoin(cx, member));
    }

    fn allows(&mut self, cx: &mut Context<'_>, from: &Member, request: RelayRequest<'_>) -> bool {
        self.catch_panic(cx, from, |app, cx| app.allows(cx, from, request)).unwrap_or(false)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        self.catch_panic(cx, from, |app, cx| app.on_message(cx, from, message));
    }

    fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
        self.app.on_tick(cx, tick);
    }

    fn on_leave(&mut self, cx: &mut Context<'_>, member: &Member, reason: LeaveReason) {
        self.catch_panic(cx, member, |app, cx| app.on_leave(cx, member, reason));
    }

    fn on_health(&mut self, cx: &mut Context<'_>, member: &Member, latency: Option<Duration>) {
        self.catch_panic(cx, member, |app, cx| app.on_health(cx, member, latency));
    }

    fn on_pressure(&mut self, cx: &mut Context<'_>, member: &Member, pressure: Pressure) {
        self.catch_panic(cx, member, |app, cx| app.on_pressure(cx, member, pressure));
    }

    fn on_command(&mut self, cx: &mut Context<'_>, command: &[u8]) {
        self.app.on_command(cx, command);
    }

    fn on_reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
        self.app.on_reload(cx, contents);
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        self.app.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) {
        self.app.restore(snapshot);
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, deadline: Time) {
        self.app.on_drain(cx, deadline);
    }
}

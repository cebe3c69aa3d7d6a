//! An application whose panics cost a lobby instead of the process.

use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use log::error;

use crate::close::{CloseReason, LeaveReason};
use crate::engine::app::{App, Authorization, Context, Member, Message, Pressure, Protocol, RelayRequest, Route};
use crate::engine::tick::Tick;
use crate::time::Time;
use crate::wire::handshake::Request;

/// Wraps an application: when it panics over a member, that member's lobby is closed with 1011 `internal_error`, and the
/// others go on.
///
/// Without it a panic ends the process, which is the right default: one application serves all lobbies, so after a panic its
/// state is suspect, and so is what it tells the others. Whoever keeps the state of each lobby apart may prefer this.
///
/// Only the application's own state is at stake. It never runs inside one of the engine's functions, only between them:
/// everything it asks for through [`Context`] is done when the call returns, and what it must be told of that waits until it
/// has returned itself. So wherever it panics, no change of the engine's is half done. A panic of the engine itself, in a method of
/// [`Context`], is another matter: it is not contained, and ends the process.
///
/// A panic that concerns no member, in [`App::on_tick`], [`App::on_command`], [`App::on_reload`] or [`App::on_drain`], still ends the process.
/// Who panics while authorizing is answered with 1011, and while routing with HTTP status 404.
///
/// ```
/// use lobbyd::apps::{CatchPanics, Relay};
/// use lobbyd::{Config, Engine, Start};
///
/// let engine = Engine::new(Config::default(), Start { unix_micros: 0, seed: 1 }, CatchPanics::new(Relay::default()));
/// assert_eq!(engine.app().panics(), 0);
/// ```
#[derive(Debug, Default)]
pub struct CatchPanics<A> {
    app: A,
    panics: u64,
}

impl<A> CatchPanics<A> {
    /// `app`, contained.
    pub fn new(app: A) -> CatchPanics<A> {
        CatchPanics { app, panics: 0 }
    }

    /// The application itself.
    pub fn app(&self) -> &A {
        &self.app
    }

    /// How often it has panicked.
    pub fn panics(&self) -> u64 {
        self.panics
    }
}

/// Calls the application. `None` when it panics.
///
/// A panic of the engine in a method of `Context` is not caught: then the engine's state is suspect, which concerns all
/// lobbies.
fn attempt<R>(cx: &mut Context<'_>, call: impl FnOnce(&mut Context<'_>) -> R) -> Option<R> {
    // Whether what it has left behind can still be used is what the operator has answered by choosing this.
    let result = panic::catch_unwind(AssertUnwindSafe(|| call(cx)));
    if cx.has_engine_panicked() {
        error!("the engine itself panicked in a call of the application, which cannot be contained");
        // There is no payload if the application has caught the panic itself.
        panic::resume_unwind(result.err().unwrap_or_else(|| Box::new("the engine has panicked")));
    }
    result.ok()
}

impl<A: App> CatchPanics<A> {
    /// Calls the application about `who`, and closes the lobby when it panics.
    fn catch_panic<R>(
        &mut self,
        cx: &mut Context<'_>,
        who: &Member,
        call: impl FnOnce(&mut A, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let result = attempt(cx, |cx| call(&mut self.app, cx));
        if result.is_none() {
            self.panics += 1;
            let closed = cx.close_lobby(who.lobby(), CloseReason::InternalError);
            error!(
                "the application panicked over user={:?}: lobby={} closed, members={closed}",
                who.user(),
                who.lobby()
            );
        }
        result
    }
}

impl<A: App> App for CatchPanics<A> {
    const PROTOCOL: Protocol = A::PROTOCOL;

    fn route(&self, request: &Request<'_>) -> Route {
        // It cannot call the engine.
        panic::catch_unwind(AssertUnwindSafe(|| self.app.route(request))).unwrap_or(Route::NotFound)
    }

    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        attempt(cx, |cx| self.app.authorize(cx, request)).unwrap_or_else(|| {
            self.panics += 1;
            error!("the application panicked while it authorized conn={}", request.conn());
            Authorization::Refuse(CloseReason::InternalError)
        })
    }

    fn on_join(&mut self, cx: &mut Context<'_>, who: &Member) {
        self.catch_panic(cx, who, |app, cx| app.on_join(cx, who));
    }

    fn on_rejoin(&mut self, cx: &mut Context<'_>, who: &Member) {
        self.catch_panic(cx, who, |app, cx| app.on_rejoin(cx, who));
    }

    fn allows(&mut self, cx: &mut Context<'_>, from: &Member, what: RelayRequest<'_>) -> bool {
        self.catch_panic(cx, from, |app, cx| app.allows(cx, from, what)).unwrap_or(false)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        self.catch_panic(cx, from, |app, cx| app.on_message(cx, from, message));
    }

    fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
        self.app.on_tick(cx, tick);
    }

    fn on_leave(&mut self, cx: &mut Context<'_>, who: &Member, why: LeaveReason) {
        self.catch_panic(cx, who, |app, cx| app.on_leave(cx, who, why));
    }

    fn on_health(&mut self, cx: &mut Context<'_>, who: &Member, latency: Option<Duration>) {
        self.catch_panic(cx, who, |app, cx| app.on_health(cx, who, latency));
    }

    fn on_pressure(&mut self, cx: &mut Context<'_>, who: &Member, pressure: Pressure) {
        self.catch_panic(cx, who, |app, cx| app.on_pressure(cx, who, pressure));
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

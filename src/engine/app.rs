//! The interface of an application: the engine calls an [`App`] for each event, and the app acts through [`Context`].
//!
//! An application sees requests, members and messages. It does not see sockets, timers or the engine's tables.

use std::time::Duration;

pub(crate) use super::context::Context;
use super::control::LobbyControl;
pub(crate) use super::member::{
    Authorization, Exclude, Identity, Member, Message, Pressure, Protocol, RelayRequest, Route, Sent,
};
use super::state::ticks::Tick;
use crate::base::close::{CloseReason, LeaveReason};
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::ws::handshake::Request;

/// An application that runs inside the engine. It is called for every event, on one thread, one call at a time.
///
/// Calls are not nested. An event that a call causes, such as the leave of a member that it closed, is dispatched in a
/// later call of the same turn. With the same seed and the same inputs, exactly the same calls follow, if the
/// application takes the time only from [`Context::now`] and randomness only from [`Context::random`].
///
/// ```
/// use lobbyd::{App, Authorization, Context, Exclude, Frame, Member, Message, Protocol, Request};
///
/// /// Sends each text to the whole lobby, the sender included, in upper case.
/// struct Shout;
///
/// impl App for Shout {
///     const PROTOCOL: Protocol = Protocol::Raw;
///
///     fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
///         Authorization::token_is_user(request)
///     }
///
///     fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
///         if let Message::Text(text) = message {
///             let frame = Frame::text(&text.to_uppercase());
///             cx.broadcast_to_lobby(from.lobby(), Exclude::None, &frame);
///         }
///     }
/// }
/// ```
pub trait App {
    /// The protocol that the engine speaks with members: the JSON protocol, or none of its own.
    const PROTOCOL: Protocol;

    /// Whether members with a session may change data, host and settings of their lobby. Otherwise the messages `set`,
    /// `host`, `kick`, `unban` and `settings` are the application's. Only with [`Protocol::Json`].
    const LOBBY_CONTROL: LobbyControl = LobbyControl::Off;

    /// Whether the application keeps no state of its own, and its callbacks depend on nothing but their arguments and the
    /// [`Context`]. It decides how the application runs in a cluster.
    ///
    /// If so, the members of a lobby may be on any node. Every node calls the application for every event of a lobby, in the same
    /// order. Other calls, such as [`on_command`](Self::on_command) and [`on_pressure`](Self::on_pressure), are those of one node, and cannot change what all nodes share:
    /// data, locks, numbered messages, away members. The methods for these say that nothing was done. [`Context::random`] and the numbers of one node are not the same on all of them: what members are told must not
    /// depend on these. A member on another node has a [`Member::conn`](crate::Member::conn) to which nothing can be sent. Otherwise each
    /// lobby is on one node, and clients are sent there.
    const IS_STATELESS: bool = false;

    /// Returns the lobby that a request is for. By default the path is `/ws/{lobby_code}`, or `/sse/{lobby_code}` for
    /// server-sent events with [`Protocol::Json`]. A replay does not call this.
    ///
    /// The path of an event stream, and of the messages for it, always begins with `/sse/`.
    fn route(&self, request: &Request<'_>) -> Route {
        match request.path().strip_prefix(if request.is_for_events { "/sse/" } else { "/ws/" }) {
            Some(code) => Route::Lobby(code.to_owned()),
            None => Route::NotFound,
        }
    }

    /// Decides whether the client may join, and as which user. Limits are checked afterwards.
    ///
    /// A journal contains the answer and no token, so a replay does not call this. It must have no effect besides its
    /// answer.
    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization;

    /// Decides about a client for which [`authorize`](Self::authorize) has returned
    /// [`Context::await_keys`](crate::Context::await_keys): the keys were fetched again, and
    /// [`on_reload`](Self::on_reload) was called if they have changed. By default the client is refused.
    ///
    /// A replay does not call this. It must have no effect besides its answer.
    fn authorize_again(&mut self, _cx: &mut Context<'_>, _conn: ConnId, _token: &str) -> Authorization {
        Authorization::Refuse(CloseReason::Unauthorized)
    }

    /// `member` has a seat. With [`Protocol::Json`] it has been sent its `welcome`.
    fn on_join(&mut self, _cx: &mut Context<'_>, _member: &Member) {}

    /// A newer connection of the same user has taken over the seat. `member` is the newer one; other members are not
    /// notified.
    ///
    /// The newer connection has no state yet: a game sends it the current one.
    fn on_rejoin(&mut self, _cx: &mut Context<'_>, _member: &Member) {}

    /// The connection of `member`, which has a session, was lost. Its seat is kept for `seat_grace`. Either
    /// [`on_back`](Self::on_back) or [`on_leave`](Self::on_leave) follows.
    fn on_away(&mut self, _cx: &mut Context<'_>, _member: &Member, _reason: LeaveReason) {}

    /// A client has come back to the seat of its session, on a new connection. It was away, or its earlier connection was
    /// still open and is closed now. The other members are told only if they were told that it was away.
    ///
    /// The client has received the messages and direct messages that it missed; see `recovered` in the protocol. What the
    /// application has sent in other ways is lost, so a game sends the current state. By default calls
    /// [`on_rejoin`](Self::on_rejoin), which does the same.
    fn on_back(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.on_rejoin(cx, member);
    }

    /// With [`Protocol::Json`]: whether `from` may `broadcast` or `direct` or, with lobby control, make a request that its
    /// lobby would let it make. If not, it gets an `error not_allowed`.
    fn allows(&mut self, _cx: &mut Context<'_>, _from: &Member, _request: RelayRequest<'_>) -> bool {
        true
    }

    /// `from` sent a message that the engine does not answer itself.
    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>);

    /// A tick of the game clock, with `tick_hz` on.
    ///
    /// The messages received since the previous tick have just been delivered: by connection, and for each connection
    /// in order of arrival. So a game's state depends on which member sent which message before which tick. It does
    /// not depend on the order in which packets were read.
    ///
    /// ```
    /// use lobbyd::ticks::Tick;
    /// use lobbyd::{App, Authorization, Context, Exclude, Frame, Member, Message, Protocol, Request};
    ///
    /// /// Counts messages, and sends the count with every tick.
    /// struct Sum(u64);
    ///
    /// impl App for Sum {
    ///     const PROTOCOL: Protocol = Protocol::Raw;
    ///
    ///     fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
    ///         Authorization::token_is_user(request)
    ///     }
    ///
    ///     fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {
    ///         self.0 += 1;
    ///     }
    ///
    ///     fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
    ///         let state = format!("tick {}: {}", tick.number(), self.0);
    ///         // When the next tick follows at once, it sends a newer state.
    ///         if !tick.is_catching_up() {
    ///             cx.broadcast_latest("arena", Exclude::None, 0, &Frame::text(&state));
    ///         }
    ///     }
    /// }
    /// ```
    fn on_tick(&mut self, _cx: &mut Context<'_>, _tick: &Tick) {}

    /// `member` has left its seat. Each `on_join` is followed by exactly one `on_leave`.
    fn on_leave(&mut self, _cx: &mut Context<'_>, _member: &Member, _reason: LeaveReason) {}

    /// A health check of `member` has ended: answered after `latency`, or not answered in time (`None`).
    ///
    /// Every check has one result. A check that gives way to a newer one, because `max_health_pings` are open, is
    /// reported as `None` in a later turn. Checks that are open when the connection begins to close are reported as
    /// `None`, before `on_leave`.
    fn on_health(&mut self, _cx: &mut Context<'_>, _member: &Member, _latency: Option<Duration>) {}

    /// The bytes queued for `member` have risen above `outbound_high_mark`, or fallen again to `outbound_low_mark`.
    fn on_pressure(&mut self, _cx: &mut Context<'_>, _member: &Member, _pressure: Pressure) {}

    /// Another thread has sent `command`, through `Handle::send`.
    fn on_command(&mut self, _cx: &mut Context<'_>, _command: &[u8]) {}

    /// The operator asked for a reload: `contents` is the new content of the application's start data. The
    /// applications of this crate read it as their list of tokens. Also called with keys that were fetched from
    /// [`jwt_jwks_url`](crate::Config::jwt_jwks_url). If the contents are invalid,
    /// [`Context::refuse_reload`](crate::Context::refuse_reload) reports it.
    fn on_reload(&mut self, _cx: &mut Context<'_>, _contents: &[u8]) {}

    /// Returns the application's state while no connection exists, for a checkpoint in the journal.
    ///
    /// A replay can start at a checkpoint and passes the state to [`restore`](Self::restore). An application without
    /// state returns `Some(Vec::new())`. With `None`, the default, a replay must start where the server did.
    fn snapshot(&self) -> Option<Vec<u8>> {
        None
    }

    /// Restores the state that [`snapshot`](Self::snapshot) returned, in a newly created application.
    fn restore(&mut self, _snapshot: &[u8]) {}

    /// A drain begins: all members are about to be closed. Connections that are left at `deadline` are cut off.
    fn on_drain(&mut self, _cx: &mut Context<'_>, _deadline: Time) {}
}

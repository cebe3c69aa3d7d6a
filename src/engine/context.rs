//! [`Context`]: an application's access to the engine.

use std::borrow::Cow;
use std::time::Duration;

use super::core::Core;
use super::member::{Body, Exclude, HistoryFrame, Member, Message, Sent};
use super::state::stats::Stats;
use crate::base::close::{CloseReason, Reject};
use crate::base::id::ConnId;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::ws::frame::{Frame, Outgoing};

/// The application's access to the engine. Each call takes effect at once and in order, on the members present at that
/// moment.
///
/// # Sending
///
/// | receivers | method |
/// | --- | --- |
/// | the members of a lobby, or all but some of them | [`broadcast_to_lobby`](Self::broadcast_to_lobby) |
/// | all others in the lobby of a member, without looking up the lobby | [`broadcast_from`](Self::broadcast_from) |
/// | all others in the lobby of a member, as a JSON `message` from it | [`broadcast_message`](Self::broadcast_message) |
/// | all others in the lobby of a member, as a binary message from it | [`broadcast_binary`](Self::broadcast_binary) |
/// | all members of a lobby, as a JSON `message` without a sender | [`announce`](Self::announce) |
/// | all connections of a user | [`send_to_user`](Self::send_to_user) |
/// | one connection | [`send_to_conn`](Self::send_to_conn) |
/// | the members of a lobby; only the newest frame under a key counts | [`broadcast_latest`](Self::broadcast_latest) |
/// | one connection; only the newest frame under a key counts | [`send_latest_to_conn`](Self::send_latest_to_conn) |
///
/// `broadcast_message` and `announce` give the `message` a `seq` and are for [`Protocol::Json`](crate::Protocol::Json).
/// The others send a frame or a message as it is.
///
/// With `Protocol::Json`, a member's [`Message::Json`](crate::Message::Json) has no `type` that only the server sends,
/// such as `goodbye`. Sent to the others as it is, it carries no sender; `broadcast_message` puts it into `data` and adds
/// `from` and `seq`.
///
/// The `data` of `broadcast_message` and `announce` is not checked. Serialize it with `serde_json`, which writes JSON
/// that every parser reads, or pass on what a member sent, which was checked on arrival. Never build it with `format!`
/// from names or texts of clients.
///
/// ```
/// use lobbyd::{App, Authorization, Context, Exclude, Frame, Member, Message, Protocol, Request};
///
/// /// A game of cards with the commands `deal` and `pass`.
/// struct Cards;
///
/// impl App for Cards {
///     const PROTOCOL: Protocol = Protocol::Raw;
///
///     fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
///         Authorization::token_is_user(request)
///     }
///
///     fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
///         match message {
///             Message::Text("deal") => {
///                 let dealt = Frame::text("the cards are dealt");
///                 cx.broadcast_to_lobby(from.lobby(), Exclude::None, &dealt);
///                 let card = format!("you hold {}", cx.random().below(52));
///                 cx.send_to_conn(from.conn(), &Frame::text(&card));
///             }
///             // The others see what the member sent.
///             other => {
///                 cx.broadcast_from(from, other);
///             }
///         }
///     }
/// }
/// ```
pub struct Context<'a> {
    pub(super) core: &'a mut Core,
}

impl Context<'_> {
    /// Runs a method of the engine with a flag set. The flag stays set if the method panics. This distinguishes a panic
    /// of the engine from a panic of the application: see [`has_engine_panicked`](Self::has_engine_panicked).
    pub(super) fn run<R>(&mut self, method: impl FnOnce(&mut Core) -> R) -> R {
        self.core.call_guard.begin();
        let result = method(self.core);
        self.core.call_guard.end();
        result
    }

    /// The same as [`run`](Self::run), for a method that changes nothing.
    pub(super) fn inspect<'c, R>(&'c self, method: impl FnOnce(&'c Core) -> R) -> R {
        self.core.call_guard.begin();
        let result = method(self.core);
        self.core.call_guard.end();
        result
    }

    /// Whether the engine has panicked in a method of the context, so that its state may be inconsistent.
    pub(crate) fn has_engine_panicked(&self) -> bool {
        self.core.call_guard.has_panicked()
    }

    /// Returns the time of this turn. It does not advance while the application runs.
    pub fn now(&self) -> Time {
        self.inspect(|core| core.now())
    }

    /// Returns the number of the last tick that has run or is running; 0 before the first, and with `tick_hz` off.
    pub fn tick(&self) -> u64 {
        self.inspect(|core| core.ticks.as_ref().map_or(0, |ticks| ticks.view().tick))
    }

    /// Returns the wall time of this turn, in milliseconds since the Unix epoch. It advances together with
    /// [`now`](Self::now).
    pub fn unix_millis(&self) -> u64 {
        self.inspect(|core| core.unix_millis())
    }

    /// Returns the seeded generator. An application whose sessions must be reproducible uses no other randomness.
    pub fn random(&mut self) -> &mut Random {
        // Without the flag: this cannot panic, and a panic in the use of the generator is the application's.
        &mut self.core.random
    }

    /// Checks whether a further user could join the lobby now.
    ///
    /// # Errors
    ///
    /// The reason why not: `ServerFull`, `LobbyFull`, `LobbyLocked`, `LobbyLimit` or `UserLimit`.
    pub fn can_accept_connection(&self, lobby: &str) -> Result<(), CloseReason> {
        self.inspect(|core| core.directory.admits(lobby))
    }

    /// Sends a frame or a message to the members of the lobby that `exclude` does not name, in join order.
    ///
    /// A lobby that does not exist has no members.
    pub fn broadcast_to_lobby<'b>(&mut self, lobby: &str, exclude: Exclude<'_>, body: impl Into<Body<'b>>) -> Sent {
        let Body(outgoing) = body.into();
        self.run(|core| match core.directory.find_lobby(lobby) {
            Some(lobby) => core.broadcast(lobby, exclude, outgoing),
            None => Sent::default(),
        })
    }

    /// Sends a frame or a message to all other connections in the lobby of `from`.
    ///
    /// The same as [`broadcast_to_lobby`](Self::broadcast_to_lobby) with [`Exclude::Conn`], but the lobby is not looked
    /// up by its code.
    pub fn broadcast_from<'b>(&mut self, from: &Member, body: impl Into<Body<'b>>) -> Sent {
        let Body(outgoing) = body.into();
        self.run(|core| core.relay(from, outgoing))
    }

    /// Sends a binary message of `from` to all other connections in its lobby: unchanged, or as
    /// [`Frame::binary_from`] if [`binary_sender`](crate::Config::binary_sender) is on.
    ///
    /// [`Relay`](crate::apps::Relay) passes binary messages on in this way. An application that always wants the sender
    /// sends [`Frame::binary_from`] with [`broadcast_from`](Self::broadcast_from).
    pub fn broadcast_binary(&mut self, from: &Member, bytes: &[u8]) -> Sent {
        self.run(|core| match core.config.binary_sender {
            true => core.relay(from, Outgoing::Frame(&Frame::binary_from(from.user(), bytes))),
            false => core.relay(from, Outgoing::Binary(bytes)),
        })
    }

    /// Sends `frame` to the members of the lobby as the latest under `key`: it replaces a queued frame with the same
    /// key.
    ///
    /// For snapshots, which are obsolete when the next one is sent. If the queue of a member is full, the member does
    /// not get the frame and stays connected; it counts as `dropped`.
    pub fn broadcast_latest(&mut self, lobby: &str, exclude: Exclude<'_>, key: u64, frame: &Frame) -> Sent {
        self.run(|core| match core.directory.find_lobby(lobby) {
            Some(lobby) => core.broadcast_latest(lobby, exclude, key, frame),
            None => Sent::default(),
        })
    }

    /// Sends `frame` to one connection as the latest under `key`; see [`broadcast_latest`](Self::broadcast_latest).
    pub fn send_latest_to_conn(&mut self, conn: ConnId, key: u64, frame: &Frame) -> bool {
        self.run(|core| core.send_latest_to_conn(conn, key, frame))
    }

    /// With [`Protocol::Json`](crate::Protocol::Json): sends `data`, which must be JSON and is not checked, to all
    /// other members of the lobby as a `message` from `from`.
    ///
    /// If [`App::on_message`](crate::App::on_message) calls this for the sender of the message that it handles, the
    /// `ack` to the sender carries the `seq` of the `message`. After several such calls the `ack` carries the last `seq`.
    pub fn broadcast_message(&mut self, from: &Member, data: &str) -> Sent {
        self.run(|core| match core.directory.find_lobby(&from.lobby) {
            Some(lobby) if core.may_change_shared() => core.broadcast_for_app(lobby, from, data),
            _ => Sent::default(),
        })
    }

    /// With [`Protocol::Json`](crate::Protocol::Json): sends `data`, which must be JSON and is not checked, to all
    /// members of the lobby as a `message` without a sender (`from` is `null`).
    pub fn announce(&mut self, lobby: &str, data: &str) -> Sent {
        self.run(|core| match core.directory.find_lobby(lobby) {
            Some(lobby) if core.may_change_shared() => core.announce(lobby, data).1,
            _ => Sent::default(),
        })
    }

    /// Sends a frame or a message to all connections of `user`. Nothing is queued when the user is not connected.
    pub fn send_to_user<'b>(&mut self, user: &str, body: impl Into<Body<'b>>) -> Sent {
        let Body(outgoing) = body.into();
        self.run(|core| core.send_to_user(user, outgoing))
    }

    /// Sends a frame or a message to one connection. Returns whether it was queued.
    ///
    /// It is not queued if the connection has no seat, or is closed because its queue is full.
    pub fn send_to_conn<'b>(&mut self, conn: ConnId, body: impl Into<Body<'b>>) -> bool {
        let Body(outgoing) = body.into();
        self.run(|core| core.send_to_conn(conn, outgoing))
    }

    /// Sends to one member what it has sent itself, and nothing else: compressed, if the member takes compressed messages.
    pub(crate) fn send_back(&mut self, conn: ConnId, message: Message<'_>) -> bool {
        let Body(outgoing) = message.into();
        self.run(|core| core.send_back_to_conn(conn, outgoing))
    }

    /// With [`Protocol::Json`](crate::Protocol::Json), in `on_message`: rejects the message. Its `ref` gets an `error`
    /// instead of an `ack`. An application may reject with a code of its own: [`Reject::app`].
    pub fn reject(&mut self, reject: Reject, message: impl Into<Cow<'static, str>>) {
        let message = message.into();
        self.run(|core| core.set_rejection(reject, message));
    }

    /// Starts a health check on each of the user's connections. [`App::on_health`](crate::App::on_health) gets each
    /// result.
    ///
    /// Returns the number of checks: 0 when the user is not connected. In a cluster the node with the connection checks it, and calls
    /// `on_health`.
    pub fn ping_user(&mut self, user: &str, timeout: Duration) -> usize {
        self.run(|core| core.ping_user(user, timeout))
    }

    /// Reports the answer to a health check that reached the application outside the protocol.
    ///
    /// Returns the latency if `nonce` belongs to an open check of `conn`;
    /// [`App::on_health`](crate::App::on_health) is then called too.
    pub fn record_pong(&mut self, conn: ConnId, nonce: u64) -> Option<Duration> {
        self.run(|core| core.record_pong(conn, nonce))
    }

    /// Counts a message that reached the application outside the protocol as bytes received from `conn`: it answers
    /// an open ping and delays the next one.
    pub fn update_last_message(&mut self, conn: ConnId) {
        self.run(|core| core.update_last_message(conn));
    }

    /// Whether the user has a connection with a seat.
    pub fn is_user_connected(&self, user: &str) -> bool {
        // In a cluster, on any node.
        self.inspect(|core| core.directory.seats_of(user).iter().any(|&seat| !core.directory.seat(seat).is_away))
    }

    /// Returns the user ids of the lobby's members, present and away, in join order. A user with two seats is listed twice.
    pub fn lobby_users(&self, lobby: &str) -> impl Iterator<Item = &str> {
        let lobby = self.inspect(|core| core.directory.find_lobby(lobby));
        let seats = lobby.map(|lobby| self.inspect(|core| core.directory.seats_in(lobby)));
        seats.into_iter().flatten().map(|seat| self.inspect(|core| &**core.directory.user_of(seat)))
    }

    /// Returns the lobby's last numbered frames, oldest first: messages and presence changes, as they were sent.
    ///
    /// They are kept for members that come back, at most `history_frames` and `history_bytes`, and only while a member of
    /// the lobby has a session. Otherwise there are none.
    pub fn history(&self, lobby: &str) -> impl Iterator<Item = HistoryFrame<'_>> {
        let history = self.inspect(|core| core.histories.get(core.directory.find_lobby(lobby)?));
        let entries = history.into_iter().flat_map(|history| history.entries_after(0));
        entries.map(|entry| HistoryFrame { seq: entry.seq, text: entry.text })
    }

    /// Returns the counters and the current state.
    pub fn stats(&self) -> Stats {
        self.inspect(|core| core.stats())
    }

    /// Returns the number of bytes that wait to be written to `conn`.
    pub fn queued_bytes(&self, conn: ConnId) -> usize {
        self.inspect(|core| core.queued_bytes(conn))
    }

    /// Closes a connection after its queued output, with a goodbye and a close frame. It leaves its seat at once.
    ///
    /// For a reason without a code that can be sent (0 or 1006) the connection is cut off. An application may close
    /// with a code of its own: [`CloseReason::app`].
    pub fn close(&mut self, conn: ConnId, reason: CloseReason) {
        self.run(|core| core.close(conn, reason));
    }

    /// Closes all connections of a user. Returns their number.
    pub fn close_user(&mut self, user: &str, reason: CloseReason) -> usize {
        self.run(|core| core.close_user(user, reason))
    }

    /// Locks a lobby against new members, or unlocks it. A connection that takes over its user's seat in the lobby is
    /// always admitted.
    ///
    /// Returns false when there is no such lobby. A lobby that becomes empty is removed, and its lock with it.
    pub fn lock_lobby(&mut self, lobby: &str, locked: bool) -> bool {
        self.run(|core| core.may_change_shared() && core.lock_lobby(lobby, locked))
    }

    /// Closes all connections in a lobby. Returns their number.
    pub fn close_lobby(&mut self, lobby: &str, reason: CloseReason) -> usize {
        self.run(|core| core.close_lobby(lobby, reason))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe};

    use super::*;
    use crate::apps::CatchPanics;
    use crate::config::Config;
    use crate::engine::Engine;
    use crate::engine::app::App;
    use crate::engine::driver::Start;
    use crate::engine::member::{Authorization, Message, Protocol};
    use crate::sim::wire;
    use crate::ws::handshake::Request;

    /// Calls a function with a context whose engine may be broken.
    struct Caller(fn(&mut Context<'_>));

    impl App for Caller {
        const PROTOCOL: Protocol = Protocol::Raw;

        fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
            Authorization::token_is_user(request)
        }

        fn on_message(&mut self, cx: &mut Context<'_>, _: &Member, _: Message<'_>) {
            self.0(cx);
        }
    }

    /// Breaks the engine: from now on every method that looks up the connection of bob, the only member of `go`,
    /// panics.
    fn break_engine(cx: &mut Context<'_>) {
        let seat = cx.core.directory.seats_of("bob")[0];
        cx.core.conns.remove_for_test(cx.core.directory.seat(seat).conn.key());
    }

    /// Ann sends a message, and the application calls `act` inside [`CatchPanics`]. `expected`: whether the call of
    /// the engine returns, and whether the engine can be used afterwards.
    #[track_caller]
    fn check(act: fn(&mut Context<'_>), expected: (bool, bool)) {
        let start = Start { unix_micros: 0, seed: 1 };
        let mut engine = Engine::new(
            Config::default().check().expect("the configuration is valid"),
            start,
            CatchPanics::new(Caller(act)),
        );
        let mut enter = |target: &str| {
            let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
            engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request(target, &[]));
            conn
        };
        let ann = enter("/ws/chess?token=ann");
        enter("/ws/go?token=bob");
        assert_eq!(engine.stats().total_connections, 2);
        let mut returns = |bytes: &[u8]| {
            panic::catch_unwind(AssertUnwindSafe(|| engine.handle_bytes(Time::ZERO, ann, bytes))).is_ok()
        };
        assert_eq!((returns(&wire::text("act")), returns(b"")), expected);
    }

    #[test]
    fn a_panic_of_the_engine_is_not_caught() {
        // While the engine is not broken, these calls do not panic.
        check(|cx| assert_eq!(cx.close_user("bob", CloseReason::Kicked), 1), (true, true));
        check(|cx| assert_eq!(cx.close_lobby("go", CloseReason::Kicked), 1), (true, true));
        check(|cx| assert_eq!(cx.ping_user("bob", Duration::from_secs(1)), 1), (true, true));
        let broken: [fn(&mut Context<'_>); 3] = [
            |cx| {
                break_engine(cx);
                cx.close_user("bob", CloseReason::Kicked);
            },
            |cx| {
                break_engine(cx);
                cx.close_lobby("go", CloseReason::Kicked);
            },
            |cx| {
                break_engine(cx);
                cx.ping_user("bob", Duration::from_secs(1));
            },
        ];
        broken.into_iter().for_each(|act| check(act, (false, false)));
    }

    #[test]
    fn a_panic_of_the_engine_that_the_application_catches_still_breaks_the_engine() {
        check(
            |cx| {
                break_engine(cx);
                panic::catch_unwind(AssertUnwindSafe(|| cx.close_user("bob", CloseReason::Kicked))).unwrap_err();
            },
            (false, false),
        );
        check(
            |cx| {
                break_engine(cx);
                panic::catch_unwind(AssertUnwindSafe(|| cx.close_user("bob", CloseReason::Kicked))).unwrap_err();
                cx.tick();
            },
            (false, false),
        );
    }

    #[test]
    fn a_panic_of_the_application_between_two_calls_is_caught() {
        check(|_| panic!("the test panics on purpose"), (true, true));
        check(|cx| assert_eq!(cx.random().below(0), 0), (true, true));
        check(
            |cx| assert!(cx.lobby_users("chess").any(|user| user == "bob"), "the test panics on purpose"),
            (true, true),
        );
        check(|cx| cx.lobby_users("chess").for_each(|user| assert_eq!(user, "bob")), (true, true));
        // The conversion of the application's own message type is the application's code.
        struct Bad;
        impl From<Bad> for Cow<'static, str> {
            fn from(_: Bad) -> Self {
                panic!("the test panics on purpose")
            }
        }
        check(|cx| cx.reject(Reject::BadMessage, Bad), (true, true));
    }
}

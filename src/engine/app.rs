//! What a game writes: an [`App`], which is told what happened and acts through [`Context`].

use std::borrow::Cow;
use std::time::Duration;

use super::core::Core;
pub(crate) use super::member::{
    Authorization, Exclude, Identity, Member, Message, Pressure, Protocol, RelayRequest, Route, Sent,
};
use super::stats::Stats;
use super::tick::Tick;
use crate::close::{CloseReason, LeaveReason, Reject};
use crate::id::ConnId;
use crate::random::Random;
use crate::time::Time;
use crate::wire::frame::{Frame, Outgoing};
use crate::wire::handshake::Request;

/// An application that lives in the engine: it is called for everything that happens, on one thread, one call at a time.
///
/// No call runs inside another: what a call brings about (a member that leaves because it was closed, say) is told in
/// a later call of the same turn. Given the same seed and the same inputs, the same calls follow, bit for bit, as long
/// as the application reads no clock and draws no randomness but [`Context::now`] and [`Context::random`].
///
/// ```
/// use lobbyd::{App, Authorization, Context, Frame, Member, Message, Request, Protocol};
///
/// /// Tells everybody in the lobby, the sender too, what was said, in capitals.
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
///             cx.broadcast_to_lobby(from.lobby(), lobbyd::Exclude::None, &frame);
///         }
///     }
/// }
/// ```
pub trait App {
    /// Whether the engine speaks the JSON protocol with the members, or says nothing of its own.
    const PROTOCOL: Protocol;

    /// Which lobby a request is for. By default `/ws/{lobby_code}`. A replay does not call this.
    fn route(&self, request: &Request<'_>) -> Route {
        match request.path().strip_prefix("/ws/") {
            Some(code) => Route::Lobby(code.to_owned()),
            None => Route::NotFound,
        }
    }

    /// Whether the client may come in, and as whom. Limits are checked afterwards.
    ///
    /// A journal holds the answer and no token, so a replay does not call this: nothing but the answer may come of it.
    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization;

    /// `who` has a seat. With [`Protocol::Json`] it has been sent its `welcome`.
    fn on_join(&mut self, _cx: &mut Context<'_>, _who: &Member) {}

    /// A newer connection of the same user has taken over `who`'s seat; the other members notice nothing.
    ///
    /// The newer connection knows nothing yet: a game sends it the state of things.
    fn on_rejoin(&mut self, _cx: &mut Context<'_>, _who: &Member) {}

    /// With [`Protocol::Json`]: whether `from` may `broadcast` or `direct`. If not, it gets an `error not_allowed`.
    fn allows(&mut self, _cx: &mut Context<'_>, _from: &Member, _what: RelayRequest<'_>) -> bool {
        true
    }

    /// `from` said something that the engine does not answer itself.
    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>);

    /// A tick of the game's clock, with `tick_hz` on. What members have said since the last has just been told, by
    /// connection, and for each in the order in which it came: so what the game does follows from who said what before which
    /// tick, and not from the order in which packets were read.
    ///
    /// ```
    /// use lobbyd::{App, Authorization, Context, Exclude, Frame, Member, Message, Request, Protocol, Tick};
    ///
    /// /// Counts what is said, and tells the sum with every tick.
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
    ///         // Nobody will miss the state of a tick that is over when the next follows at once.
    ///         if !tick.is_catching_up() {
    ///             cx.broadcast_latest("arena", Exclude::None, 0, &Frame::text(&state));
    ///         }
    ///     }
    /// }
    /// ```
    fn on_tick(&mut self, _cx: &mut Context<'_>, _tick: &Tick) {}

    /// `who` has no seat any more. Each `on_join` is followed by exactly one `on_leave`.
    fn on_leave(&mut self, _cx: &mut Context<'_>, _who: &Member, _why: LeaveReason) {}

    /// A health check of `who` has ended: answered after `latency`, or not in time (`None`).
    ///
    /// Every check has one result. Those that are open when the connection ends are told as `None`, before `on_leave`.
    fn on_health(&mut self, _cx: &mut Context<'_>, _who: &Member, _latency: Option<Duration>) {}

    /// More than `outbound_high_mark` bytes are queued for `who`, or no more than `outbound_low_mark` again.
    fn on_pressure(&mut self, _cx: &mut Context<'_>, _who: &Member, _pressure: Pressure) {}

    /// Another thread has sent `command`, through `Handle::send`.
    fn on_command(&mut self, _cx: &mut Context<'_>, _command: &[u8]) {}

    /// The operator wants what the application was started with to be read again; `contents` is that. The stock applications
    /// take it for their list of tokens.
    fn on_reload(&mut self, _cx: &mut Context<'_>, _contents: &[u8]) {}

    /// The application's state while nobody is there, for a journal: a replay can begin at such a moment, and hands it to
    /// [`restore`](Self::restore). An application that keeps nothing says `Some(Vec::new())`.
    ///
    /// `None`, the default: a replay must begin where the server did.
    fn snapshot(&self) -> Option<Vec<u8>> {
        None
    }

    /// Takes the state that [`snapshot`](Self::snapshot) gave, in an application that has just been made.
    fn restore(&mut self, _snapshot: &[u8]) {}

    /// The server is about to say goodbye to everybody. Whatever is left at `deadline` is cut off.
    fn on_drain(&mut self, _cx: &mut Context<'_>, _deadline: Time) {}
}

/// How an application acts. What it asks for happens at once and in order, to the members as they are at that moment.
pub struct Context<'a> {
    pub(super) core: &'a mut Core,
}

impl Context<'_> {
    /// Runs the engine's part of a method, with a flag set. The flag stays set if that panics, which tells a panic of the engine
    /// from one of the application: see [`has_engine_panicked`](Self::has_engine_panicked).
    fn run<R>(&mut self, work: impl FnOnce(&mut Core) -> R) -> R {
        self.core.begin_call();
        let result = work(self.core);
        self.core.end_call();
        result
    }

    /// The same for a method that changes nothing.
    fn look<'c, R>(&'c self, work: impl FnOnce(&'c Core) -> R) -> R {
        self.core.begin_call();
        let result = work(self.core);
        self.core.end_call();
        result
    }

    /// Whether the engine has panicked in one of these methods, so that its state may be half changed.
    pub(crate) fn has_engine_panicked(&self) -> bool {
        self.core.has_panicked()
    }

    /// The time of this turn: it does not move while the application runs.
    pub fn now(&self) -> Time {
        self.look(|core| core.now())
    }

    /// The number of the tick that is over or under way; 0 before the first, and with `tick_hz` off.
    pub fn tick(&self) -> u64 {
        self.look(|core| core.ticks.as_ref().map_or(0, |ticks| ticks.view().tick))
    }

    /// Milliseconds since the Unix epoch, by the same clock: the start's wall time and [`now`](Self::now).
    pub fn unix_millis(&self) -> u64 {
        self.look(|core| core.unix_micros() / 1000)
    }

    /// The seeded generator. The only randomness an application may use if its sessions are to be repeatable.
    pub fn random(&mut self) -> &mut Random {
        // This cannot panic, and a panic of the generator is the application's fault.
        self.core.random()
    }

    /// Whether somebody could join the lobby now; the reason why not otherwise.
    ///
    /// # Errors
    ///
    /// `ServerFull`, `LobbyFull`, `LobbyLocked`, `LobbyLimit` or `UserLimit`.
    pub fn can_accept_connection(&self, lobby: &str) -> Result<(), CloseReason> {
        self.look(|core| core.directory().admits(lobby, None))
    }

    /// Sends `frame` to the members of the lobby, in the order in which they joined. A lobby that does not exist has none.
    pub fn broadcast_to_lobby(&mut self, lobby: &str, exclude: Exclude<'_>, frame: &Frame) -> Sent {
        self.run(|core| match core.directory().find_lobby(lobby) {
            Some(lobby) => core.broadcast(lobby, exclude, Outgoing::Frame(frame)),
            None => Sent::default(),
        })
    }

    /// Sends `frame` to everybody in the lobby of `from` but its own connection, without looking the lobby up.
    pub fn broadcast_from(&mut self, from: &Member, frame: &Frame) -> Sent {
        self.run(|core| core.relay(from, Outgoing::Frame(frame)))
    }

    /// Sends what `from` said to everybody else in its lobby, as it is.
    ///
    /// The same as [`broadcast_from`](Self::broadcast_from) with a frame of it, which need not be made.
    pub fn relay(&mut self, from: &Member, message: Message<'_>) -> Sent {
        self.run(|core| core.relay(from, outgoing(message)))
    }

    /// Sends a message on to one connection, as it is.
    ///
    /// The same as [`send_to_conn`](Self::send_to_conn) with a frame of it, which need not be made.
    pub fn relay_to_conn(&mut self, conn: ConnId, message: Message<'_>) -> bool {
        self.run(|core| core.send_to_conn(conn, outgoing(message)))
    }

    /// Sends `frame` to the members of the lobby as the latest under `key`: of those queued for a member only the newest is
    /// kept. For snapshots, which only matter until the next one.
    ///
    /// A member for whom there is no room gets none, and stays: those count as `dropped`.
    pub fn broadcast_latest(&mut self, lobby: &str, exclude: Exclude<'_>, key: u64, frame: &Frame) -> Sent {
        self.run(|core| match core.directory().find_lobby(lobby) {
            Some(lobby) => core.broadcast_latest(lobby, exclude, key, frame),
            None => Sent::default(),
        })
    }

    /// Sends `frame` to one connection as the latest under `key`; see [`broadcast_latest`](Self::broadcast_latest).
    pub fn send_latest_to_conn(&mut self, conn: ConnId, key: u64, frame: &Frame) -> bool {
        self.run(|core| core.send_latest_to_conn(conn, key, frame))
    }

    /// With [`Protocol::Json`]: sends `data`, which must be JSON, to everybody else in the lobby as a `message` from `from`.
    ///
    /// In [`App::on_message`], from the member that is heard: the `ack` of its message carries the `seq` of this one, of the
    /// last if there are several.
    pub fn broadcast_message(&mut self, from: &Member, data: &str) -> Sent {
        self.run(|core| match core.directory().find_lobby(&from.lobby) {
            Some(lobby) => core.broadcast_for_app(lobby, from, data),
            None => Sent::default(),
        })
    }

    /// With [`Protocol::Json`]: sends `data`, which must be JSON, to everybody in the lobby as a `message` that is `from`
    /// nobody (`null`).
    pub fn announce(&mut self, lobby: &str, data: &str) -> Sent {
        self.run(|core| match core.directory().find_lobby(lobby) {
            Some(lobby) => core.announce(lobby, data).1,
            None => Sent::default(),
        })
    }

    /// Sends `frame` to all connections of `user`. Nothing is queued when the user is not connected.
    pub fn send_to_user(&mut self, user: &str, frame: &Frame) -> Sent {
        self.run(|core| core.send_to_user(user, frame))
    }

    /// Sends `frame` to one connection. Whether it was queued: not if the connection has no seat, or was closed as too slow.
    pub fn send_to_conn(&mut self, conn: ConnId, frame: &Frame) -> bool {
        self.run(|core| core.send_to_conn(conn, Outgoing::Frame(frame)))
    }

    /// With [`Protocol::Json`], in `on_message`: the message is refused; its `ref` gets an `error` in place of an `ack`.
    pub fn reject(&mut self, reject: Reject, message: impl Into<Cow<'static, str>>) {
        let message = message.into();
        self.run(|core| core.set_rejection(reject, message));
    }

    /// Asks the page of each of the user's connections whether it is alive. [`App::on_health`] gets each answer.
    ///
    /// Returns how many were asked: 0 when the user is not connected.
    pub fn ping_user(&mut self, user: &str, timeout: Duration) -> usize {
        self.run(|core| core.ping_user(user, timeout))
    }

    /// Hands in the answer to a health check that reached the application by a way of its own.
    ///
    /// Returns the latency if `nonce` is that of a check under way on `conn`; [`App::on_health`] is told too.
    pub fn record_pong(&mut self, conn: ConnId, nonce: u64) -> Option<Duration> {
        self.run(|core| core.record_pong(conn, nonce))
    }

    /// Takes something that reached the application by a way of its own as a sign of life of `conn`.
    pub fn update_last_message(&mut self, conn: ConnId) {
        self.run(|core| core.update_last_message(conn));
    }

    /// Whether the user has a connection with a seat.
    pub fn is_user_connected(&self, user: &str) -> bool {
        self.look(|core| !core.directory().seats_of(user).is_empty())
    }

    /// The lobby's members, in the order in which they joined; a user with two seats stands there twice.
    pub fn lobby_users(&self, lobby: &str) -> impl Iterator<Item = &str> {
        let members = self.look(|core| {
            let directory = core.directory();
            directory.find_lobby(lobby).map_or(&[][..], |lobby| directory.members(lobby))
        });
        members.iter().map(|&seat| self.look(|core| &**core.directory().user_of(seat)))
    }

    /// Counters and the present state.
    pub fn stats(&self) -> Stats {
        self.look(|core| core.stats())
    }

    /// Bytes that wait to be written to `conn`.
    pub fn queued_bytes(&self, conn: ConnId) -> usize {
        self.look(|core| core.queued_bytes(conn))
    }

    /// Ends a connection: what is queued is still delivered, then goodbye and a close frame. Its seat is free at once.
    ///
    /// For a reason without a code that can be sent (0 or 1006) it is cut off.
    pub fn close(&mut self, conn: ConnId, reason: CloseReason) {
        self.run(|core| core.close(conn, reason));
    }

    /// Ends all connections of a user. Returns how many.
    pub fn close_user(&mut self, user: &str, reason: CloseReason) -> usize {
        self.run(|core| core.close_user(user, reason))
    }

    /// Lets nobody new into a lobby, or lets them in again; members who come back to their own seats are let in anyway.
    ///
    /// False when there is no such lobby. A lobby that becomes empty is gone, and its lock with it.
    pub fn lock_lobby(&mut self, lobby: &str, locked: bool) -> bool {
        self.run(|core| core.lock_lobby(lobby, locked))
    }

    /// Ends all connections in a lobby. Returns how many.
    pub fn close_lobby(&mut self, lobby: &str, reason: CloseReason) -> usize {
        self.run(|core| core.close_lobby(lobby, reason))
    }
}

/// A message as it is sent on.
fn outgoing(message: Message<'_>) -> Outgoing<'_> {
    match message {
        Message::Text(text) | Message::Json { text, .. } => Outgoing::Text(text),
        Message::Binary(bytes) => Outgoing::Binary(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe};

    use super::*;
    use crate::apps::CatchPanics;
    use crate::config::Config;
    use crate::engine::{Engine, Start};
    use crate::sim::wire;

    /// Does something with a context that may have been broken.
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

    /// Every method that looks up the connection of bob, who is alone in the lobby `go`, panics from now on.
    fn break_engine(cx: &mut Context<'_>) {
        let seat = cx.core.directory.seats_of("bob")[0];
        cx.core.slots.remove(cx.core.directory.seat(seat).conn.index());
    }

    /// Ann says something, and the contained application does `act`. Whether that is contained; and whether the engine can be
    /// used afterwards.
    #[track_caller]
    fn check(act: fn(&mut Context<'_>), expected: (bool, bool)) {
        let start = Start { unix_micros: 0, seed: 1 };
        let mut engine = Engine::new(Config::default(), start, CatchPanics::new(Caller(act)));
        let mut enter = |target: &str| {
            let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
            engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request(target, &[]));
            conn
        };
        let ann = enter("/ws/chess?token=ann");
        enter("/ws/go?token=bob");
        assert_eq!(engine.stats().total_connections, 2);
        let mut holds = |bytes: &[u8]| {
            panic::catch_unwind(AssertUnwindSafe(|| engine.handle_bytes(Time::ZERO, ann, bytes))).is_ok()
        };
        assert_eq!((holds(&wire::text("act")), holds(b"")), expected);
    }

    #[test]
    fn a_panic_of_the_engine_is_not_contained() {
        // Unbroken they do not panic.
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
    fn a_panic_of_the_engine_that_the_application_catches_goes_on() {
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
    fn a_panic_of_the_application_between_two_calls_is_contained() {
        check(|_| panic!("as it was told to"), (true, true));
        check(|cx| assert_eq!(cx.random().below(0), 0), (true, true));
        check(|cx| assert!(cx.lobby_users("chess").any(|user| user == "bob"), "as it was told to"), (true, true));
        check(|cx| cx.lobby_users("chess").for_each(|user| assert_eq!(user, "bob")), (true, true));
        // A message of the application's own kind is made by its code.
        struct Bad;
        impl From<Bad> for Cow<'static, str> {
            fn from(_: Bad) -> Self {
                panic!("as it was told to")
            }
        }
        check(|cx| cx.reject(Reject::BadMessage, Bad), (true, true));
    }
}

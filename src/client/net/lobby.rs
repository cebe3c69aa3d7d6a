//! A session with its socket: what a game, a bot or a script holds.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;
use std::vec;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use super::clock::{Clock, SystemRandom};
use super::connection::{Connection, Ended};
use super::frames::Incoming;
use super::options::LobbyOptions;
use super::preparing::{Answer, Prepared, Preparing};
use super::stream::Stream;
use super::tls::Trust;
use super::upgrade::Upgrade;
use crate::base::time::Time;
use crate::client::action::{Action, AttemptId, Outgoing};
use crate::client::address::Filters;
use crate::client::error::LobbyError;
use crate::client::event::{Event, State};
use crate::client::session::Session;

const WAKER: Token = Token(0);
const SOCKET: Token = Token(1);
/// Most bytes that a turn reads, so that a flood does not hold up the game.
const READ_BUDGET: usize = 256 << 10;
/// Time for an address to answer before the next one is tried.
const NEXT_ADDRESS: Duration = Duration::from_secs(3);
/// Time for the server to end a connection that was closed.
const LINGER: Duration = Duration::from_secs(2);
/// A turn waits no longer. It bounds the number that the system gets.
const MAX_WAIT: Duration = Duration::from_secs(3600);
const FOREVER: Duration = Duration::MAX;

/// A member of a lobby, with a socket: a [`Session`], whose methods it has, and what drives it.
///
/// It has one socket and no thread, except for a short time before an attempt to connect if a name must be resolved or a
/// [token fetched](crate::client::LobbyToken::fetched). Whatever happens is done in [`turn`](Self::turn), or in a method that waits: a program must call
/// one of them often. A game calls `turn(Duration::ZERO)`, which never blocks, in each frame:
///
/// ```no_run
/// use std::time::{Duration, Instant};
///
/// use lobbyd::client::{Event, Lobby, LobbyOptions, State};
///
/// let options = LobbyOptions { token: "ann".into(), ..LobbyOptions::default() };
/// let mut lobby = Lobby::connect("ws://game.example/ws/chess", options)?;
/// # fn frame() -> bool { false }
/// let mut last_sent = Instant::now();
/// while frame() {
///     lobby.turn(Duration::ZERO);
///     while let Some(event) = lobby.poll_event() {
///         match event {
///             Event::Message(message) => println!("{:?}: {}", message.from, message.json()),
///             Event::Connection { state: State::Closed, why } => println!("closed: {why:?}"),
///             _ => {}
///         }
///     }
///     // 20 times a second: a fast display has more frames than the server accepts messages.
///     if last_sent.elapsed() >= Duration::from_millis(50) {
///         last_sent = Instant::now();
///         lobby.send("position", [17, 4])?;
///     }
/// }
/// lobby.leave();
/// # Ok::<(), lobbyd::client::LobbyError>(())
/// ```
///
/// A bot waits with [`next_event`](Self::next_event), a script with [`join`](Self::join) and
/// [`request_and_wait`](Self::request_and_wait). Dropping a lobby closes its socket; the server keeps the seat for some time,
/// and [`Options::was`](crate::client::Options::was) claims it.
pub struct Lobby {
    session: Session,
    clock: Clock,
    random: SystemRandom,
    poll: Poll,
    events: Events,
    preparing: Preparing,
    trust: Option<Trust>,
    certificates: Option<Vec<u8>>,
    max_frame_bytes: usize,
    /// The attempt whose token and addresses are awaited.
    awaited: Option<AttemptId>,
    /// The attempt that connects, or has.
    dial: Option<Dial>,
    connection: Option<Connection>,
    /// A connection that was closed, and when it is dropped.
    closing: Option<(Connection, Time)>,
    trace: Option<Box<Trace>>,
}

/// A text message that crosses the socket: see [`Lobby::trace`], which has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traced<'a> {
    /// It is written now, or waits for the socket.
    Sent(&'a str),
    /// The session has it.
    Received(&'a str),
}

type Trace = dyn FnMut(Traced<'_>) + Send + Sync;

/// Reasons of attempts that have failed.
const NO_CONNECTION: &str = "no_connection";
const TLS: &str = "tls";

/// What an attempt still may try.
struct Dial {
    prepared: Prepared,
    addresses: vec::IntoIter<SocketAddr>,
    /// When the next address is tried.
    next: Time,
}

impl Lobby {
    /// Begins to join the lobby at `url`, such as `wss://game.example/ws/chess`. Does not wait for it.
    ///
    /// # Errors
    ///
    /// `bad_url` or `bad_lobby_code`: the address can never work. `no_tls`: of a `wss://` address, if the crate was built
    /// without the feature `tls` or there are no certificates. `unavailable`: the system has no descriptor to spare.
    pub fn connect(url: &str, options: LobbyOptions) -> Result<Lobby, LobbyError> {
        let mut random = SystemRandom::new();
        Lobby::start(Session::new(url, options.session.clone(), move || random.next())?, options)
    }

    /// Begins to follow the list of lobbies that can be joined: see [`Session::list`].
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn list(url: &str, filters: &Filters, options: LobbyOptions) -> Result<Lobby, LobbyError> {
        let mut random = SystemRandom::new();
        Lobby::start(Session::list(url, filters, options.session.clone(), move || random.next())?, options)
    }

    /// Joins a lobby, and waits until its members are known. Events until then can be polled.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect); `timeout`; or the reason word with which the server closed the lobby for good, such as
    /// `lobby_full`, with the close code in its details.
    pub fn join(url: &str, options: LobbyOptions, timeout: Duration) -> Result<Lobby, LobbyError> {
        let mut lobby = Lobby::connect(url, options)?;
        let mut why = String::new();
        lobby.wait(timeout, |session| {
            if let Some(last) = session.why() {
                why.clone_from(&last.reason);
            }
            session.state() == State::Open
        });
        match lobby.state() {
            State::Open => Ok(lobby),
            State::Closed => Err(lobby.why_closed()),
            _ if why.is_empty() => Err(LobbyError::new("timeout")),
            _ => Err(LobbyError::with_message("timeout", &format!("the last attempt has failed: {why}"))),
        }
    }

    fn start(session: Session, options: LobbyOptions) -> Result<Lobby, LobbyError> {
        let unavailable = |error: io::Error| LobbyError::with_message("unavailable", &error.to_string());
        let poll = Poll::new().map_err(unavailable)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(unavailable)?;
        let mut lobby = Lobby {
            clock: Clock::start(),
            random: SystemRandom::new(),
            poll,
            events: Events::with_capacity(4),
            preparing: Preparing::new(options.token, waker),
            trust: None,
            certificates: options.certificates,
            max_frame_bytes: options.session.max_frame_bytes,
            awaited: None,
            dial: None,
            connection: None,
            closing: None,
            trace: None,
            session,
        };
        if lobby.session.is_secure() {
            lobby.load_trust().map_err(|why| LobbyError::with_message("no_tls", &why))?;
        }
        lobby.command(|session, now| session.connect(now));
        Ok(lobby)
    }

    /// Calls `trace` with each text message that is sent or received, before its effects: for a log while a game is made.
    ///
    /// ```no_run
    /// use lobbyd::client::{Lobby, LobbyOptions};
    ///
    /// let mut lobby = Lobby::connect("ws://127.0.0.1:9001/ws/chess", LobbyOptions::default())?;
    /// lobby.trace(|traced| eprintln!("{traced:?}"));
    /// # Ok::<(), lobbyd::client::LobbyError>(())
    /// ```
    pub fn trace(&mut self, trace: impl FnMut(Traced<'_>) + Send + Sync + 'static) {
        self.trace = Some(Box::new(trace));
    }

    // ---- turns ----

    /// Does one turn: waits at most `max_wait` for something to happen, then reads, expires timers, and writes. It waits no
    /// longer than until the first event, and not at all while there are events to poll.
    ///
    /// `Duration::ZERO`: it never blocks.
    pub fn turn(&mut self, max_wait: Duration) -> State {
        let max_wait = if self.session.has_events() { Duration::ZERO } else { max_wait };
        self.step(max_wait);
        self.session.state()
    }

    /// Returns the next event that [`turn`](Self::turn) has found.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.session.poll_event()
    }

    /// Waits for the next event. `None`: the lobby is closed, and its last event was returned.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.session.poll_event() {
                return Some(event);
            }
            if self.is_finished() {
                return None;
            }
            self.step(FOREVER);
        }
    }

    /// Does turns until `is_done`, until the lobby is closed, or until the time is over. Returns whether it is done. Events
    /// stay to be polled; when they take 4 MiB, nothing is read any more.
    pub fn wait(&mut self, timeout: Duration, mut is_done: impl FnMut(&Session) -> bool) -> bool {
        let end = self.clock.now() + timeout;
        while !is_done(&self.session) {
            let rest = end - self.clock.now();
            if rest.is_zero() || self.is_finished() {
                return false;
            }
            self.step(rest);
        }
        true
    }

    /// Returns the server's time in milliseconds since the Unix epoch; `None` before the first welcome.
    pub fn now(&self) -> Option<u64> {
        self.session.now(self.clock.now())
    }

    /// Returns whether the lobby is closed, and its socket too: nothing happens any more.
    pub fn is_finished(&self) -> bool {
        self.session.state() == State::Closed && self.closing.is_none()
    }

    pub(super) fn step(&mut self, max_wait: Duration) {
        let wait = self.time_to_wait(max_wait);
        match self.poll.poll(&mut self.events, Some(wait)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("the poll of this client exists, but: {error}"),
        }
        let now = self.clock.now();
        // An event of a former connection costs a read that finds nothing.
        if self.events.iter().any(|event| event.token() == SOCKET) {
            let closing = self.closing.as_mut().map(|(connection, _)| connection);
            self.connection.iter_mut().chain(closing).for_each(Connection::handle_event);
        }
        if let Some(answer) = self.preparing.poll() {
            self.handle_prepared(now, answer);
        }
        self.try_next_address(now);
        self.read(now);
        self.session.handle_timeout(now);
        self.act(now);
        self.linger(now);
    }

    fn time_to_wait(&self, max_wait: Duration) -> Duration {
        let may_read = |connection: &Connection| connection.may_receive() && self.session.has_room();
        if self.connection.as_ref().is_some_and(may_read) {
            return Duration::ZERO;
        }
        let due = [self.session.poll_timeout(), self.next_address_due(), self.closing.as_ref().map(|(_, end)| *end)];
        let max_wait = max_wait.min(MAX_WAIT);
        match due.into_iter().flatten().min().filter(|_| !max_wait.is_zero()) {
            Some(due) => max_wait.min(due - self.clock.now()),
            None => max_wait,
        }
    }

    // ---- attempts ----

    fn handle_prepared(&mut self, now: Time, answer: Answer) {
        if self.awaited != Some(answer.id) {
            return;
        }
        self.awaited = None;
        let prepared = match answer.prepared {
            Ok(prepared) => prepared,
            Err(reason) => return self.session.handle_failed(now, answer.id, reason),
        };
        let addresses = prepared.addresses.clone().into_iter();
        self.dial = Some(Dial { prepared, addresses, next: Time::NEVER });
        self.dial_next(now, NO_CONNECTION);
    }

    /// Connects to the next address of the attempt. If none is left, the attempt has failed: for the reason of the last one.
    fn dial_next(&mut self, now: Time, mut reason: &'static str) {
        self.connection = None;
        let Some(mut dial) = self.dial.take() else { return };
        while let Some(address) = dial.addresses.next() {
            match self.open(&dial.prepared, address) {
                Ok(connection) => {
                    self.connection = Some(connection);
                    let is_last = dial.addresses.as_slice().is_empty();
                    dial.next = if is_last { Time::NEVER } else { now + NEXT_ADDRESS };
                    self.dial = Some(dial);
                    return;
                }
                Err(why) => reason = why,
            }
        }
        self.session.handle_failed(now, dial.prepared.attempt.id(), reason);
    }

    fn open(&mut self, prepared: &Prepared, address: SocketAddr) -> Result<Connection, &'static str> {
        let Prepared { attempt, token, .. } = prepared;
        if attempt.is_secure() {
            self.load_trust().map_err(|_| TLS)?;
        }
        let tls = self.trust.as_ref().filter(|_| attempt.is_secure()).map(|trust| (trust, attempt.host()));
        let mut socket = TcpStream::connect(address).map_err(|_| NO_CONNECTION)?;
        let interests = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, SOCKET, interests).map_err(|_| NO_CONNECTION)?;
        let stream = Stream::new(socket, tls).map_err(|_| TLS)?;
        let request = Upgrade::request(attempt, token.as_deref());
        Ok(Connection::new(attempt.id(), stream, request, self.max_frame_bytes))
    }

    fn load_trust(&mut self) -> Result<(), String> {
        if self.trust.is_none() {
            self.trust = Some(match &self.certificates {
                Some(pem) => Trust::from_pem(pem)?,
                None => Trust::of_system()?,
            });
        }
        Ok(())
    }

    fn next_address_due(&self) -> Option<Time> {
        let is_connecting = self.connection.as_ref().is_some_and(Connection::is_connecting);
        self.dial.as_ref().filter(|_| is_connecting).map(|dial| dial.next)
    }

    fn try_next_address(&mut self, now: Time) {
        if self.next_address_due().is_some_and(|due| due <= now) {
            self.dial_next(now, NO_CONNECTION);
        }
    }

    // ---- reading ----

    fn read(&mut self, now: Time) {
        let mut budget = READ_BUDGET;
        while self.session.has_room() {
            let Some(connection) = &mut self.connection else { return };
            let before = budget;
            let received = connection.receive(&mut budget);
            let id = connection.id;
            if budget < before {
                self.session.handle_heard(now, id);
            }
            match received {
                Ok(None) => return,
                Ok(Some(Incoming::Text(text))) => {
                    self.trace.iter_mut().for_each(|trace| trace(Traced::Received(&text)));
                    self.session.handle_text(now, id, &text);
                }
                Ok(Some(Incoming::Binary(bytes))) => self.session.handle_binary(now, id, &bytes),
                Ok(Some(Incoming::Ping(payload))) => connection.pong(&payload, self.random.next()),
                Ok(Some(Incoming::Pong)) => {}
                Ok(Some(Incoming::Close(code, reason))) => {
                    connection.close((code != 1005).then_some(code));
                    self.end(now, Ended::Closed(code, reason));
                }
                Err(Ended::Failed(reason)) => self.dial_next(now, reason),
                Err(ended) => self.end(now, ended),
            }
            self.act(now);
        }
    }

    /// The connection has ended.
    fn end(&mut self, now: Time, ended: Ended) {
        let Some(connection) = self.connection.take() else { return };
        let id = connection.id;
        self.dial = None;
        self.keep_closing(now, connection);
        match ended {
            Ended::Failed(reason) => self.session.handle_failed(now, id, reason),
            Ended::Refused(status, retry_after) => self.session.handle_refused(now, id, status, retry_after),
            Ended::Closed(code, reason) => self.session.handle_closed(now, id, code, &reason),
        }
    }

    // ---- acting ----

    /// Calls a method of the session, and does at once what it asks for.
    pub(super) fn command<T>(&mut self, call: impl FnOnce(&mut Session, Time) -> T) -> T {
        let now = self.clock.now();
        let result = call(&mut self.session, now);
        self.act(now);
        result
    }

    fn act(&mut self, now: Time) {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Connect(attempt) => {
                    self.awaited = Some(attempt.id());
                    if let Some(answer) = self.preparing.begin(attempt) {
                        self.handle_prepared(now, answer);
                    }
                }
                Action::Send(id, message) => {
                    let mask = self.random.next();
                    if let Some(connection) = self.connection.as_mut().filter(|connection| connection.id == id) {
                        connection.send(&message, mask);
                        if let (Outgoing::Text(text), Some(trace)) = (&message, &mut self.trace) {
                            trace(Traced::Sent(text));
                        }
                    }
                }
                Action::Close(id, code) => self.give_up(now, id, code),
            }
        }
        if let Some(connection) = &mut self.connection {
            connection.flush();
            self.session.handle_unwritten(connection.id, connection.unwritten());
        }
    }

    fn give_up(&mut self, now: Time, id: AttemptId, code: Option<u16>) {
        self.awaited = self.awaited.filter(|awaited| *awaited != id);
        if let Some(mut connection) = self.connection.take_if(|connection| connection.id == id) {
            self.dial = None;
            connection.close(code);
            self.keep_closing(now, connection);
        }
    }

    /// Keeps a connection whose close frame was sent, until the server has ended it. Unread input would turn its end into a
    /// reset, which discards what the server has not read: the member's leave.
    fn keep_closing(&mut self, now: Time, mut connection: Connection) {
        if connection.is_closing() {
            connection.flush();
            self.closing = Some((connection, now + LINGER));
            self.linger(now);
        }
    }

    fn linger(&mut self, now: Time) {
        let Some((connection, end)) = &mut self.closing else { return };
        connection.flush();
        let mut budget = READ_BUDGET;
        if connection.receive(&mut budget).is_err() || *end <= now {
            self.closing = None;
        }
    }

    fn why_closed(&self) -> LobbyError {
        let Some(why) = self.session.why() else { return LobbyError::new("closed") };
        let reason = if why.reason.is_empty() { "closed" } else { &*why.reason };
        LobbyError::with(reason, "code", why.code)
    }
}

/// What is known: see [`Session`].
impl Deref for Lobby {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

/// Without secrets and messages.
impl fmt::Debug for Lobby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lobby").field("session", &self.session).finish_non_exhaustive()
    }
}

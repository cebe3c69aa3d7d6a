//! One client of a lobby: its state, and how a driver and an application use it.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::action::{Action, AttemptId, Outgoing};
use super::address::{Address, Filters, Origin};
use super::backoff::{Backoff, Ending};
use super::error::LobbyError;
use super::event::{Ack, Closed, Event, LobbyMember, RequestId, State};
use super::list::{ListedLobby, Lobbies};
use super::options::Options;
use super::pacing::Pacing;
use super::queue::EventQueue;
use super::requests::Requests;
use super::round_trips::RoundTrips;
use super::timers::{Timer, Timers};
use super::view::View;
use super::welcome::Welcome;
use crate::base::time::Time;

/// The current attempt, or the connection that it has led to. What is reported of another one is ignored.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: AttemptId,
    /// The first message was read: messages may be sent.
    pub(super) is_welcome: bool,
    /// The server has said how the connection will end.
    pub(super) goodbye: Option<Ending>,
    /// Bytes of messages that the driver has not polled.
    pub(super) unpolled: usize,
    /// Bytes that the driver has not written.
    pub(super) unwritten: usize,
}

/// How far the messages of the lobby were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

/// A member of a lobby that comes back to its seat when its connection is lost, or a follower of the list of lobbies.
///
/// A state machine without I/O, clock and threads. The [module](crate::client) has an example, and says what a driver does.
pub struct Session {
    pub(super) address: Address,
    pub(super) options: Options,
    pub(super) draw: Box<dyn FnMut() -> u64 + Send + Sync>,
    /// Chosen once. A secret of the user.
    name: String,
    /// The session of the process before a restart, until the first welcome.
    pub(super) was: Option<String>,
    pub(super) state: State,
    /// Why, if the state has a reason.
    pub(super) why: Option<Closed>,
    pub(super) link: Option<Link>,
    /// When something of the current connection has arrived.
    pub(super) last_heard: Time,
    last_attempt: u64,
    pub(super) timers: Timers,
    pub(super) backoff: Backoff,
    /// The server that has the lobby, if a goodbye has named one.
    pub(super) home: Option<Origin>,
    pub(super) welcome: Option<Welcome>,
    /// Where to continue; `None` before the first list. Requests wait for it.
    pub(super) position: Option<Position>,
    /// Number of the last direct message.
    pub(super) n: u64,
    /// Messages were missed, and the application has not been told.
    pub(super) has_gap: bool,
    pub(super) requests: Requests,
    pub(super) pacing: Pacing,
    pub(super) round_trips: RoundTrips,
    pub(super) view: View,
    /// `Some` in a follower of the list.
    pub(super) lobbies: Option<Lobbies>,
    pub(super) actions: VecDeque<Action>,
    pub(super) events: EventQueue,
}

impl Session {
    /// Creates a session that joins the lobby at `url`, such as `wss://game.example/ws/chess`, when
    /// [`connect`](Self::connect) is called.
    ///
    /// `draw` yields uniform random numbers: for the name of the session, which is a secret of its user, and for waits. In a
    /// game they come from the operating system, in a test from a seed.
    ///
    /// # Errors
    ///
    /// `bad_url` or `bad_lobby_code`: the address can never work.
    pub fn new(
        url: &str,
        options: Options,
        draw: impl FnMut() -> u64 + Send + Sync + 'static,
    ) -> Result<Session, LobbyError> {
        Ok(Session::at(Address::parse(url)?, options, Box::new(draw), None))
    }

    /// Creates a session that follows the list of lobbies that can be joined. `url` is that of `/ws/~lobbies`.
    ///
    /// # Errors
    ///
    /// `bad_url` or `bad_lobby_code`: the address can never work.
    pub fn list(
        url: &str,
        filters: &Filters,
        options: Options,
        draw: impl FnMut() -> u64 + Send + Sync + 'static,
    ) -> Result<Session, LobbyError> {
        let address = Address::parse(url)?.with_filters(filters, None);
        Ok(Session::at(address, options, Box::new(draw), Some(Lobbies::default())))
    }

    fn at(
        address: Address,
        options: Options,
        mut draw: Box<dyn FnMut() -> u64 + Send + Sync>,
        lobbies: Option<Lobbies>,
    ) -> Session {
        let was = options.was.clone();
        Session {
            address,
            options,
            name: format!("{:016x}{:016x}", draw(), draw()),
            draw,
            backoff: Backoff::new(was.is_some()),
            was,
            state: State::Idle,
            why: None,
            link: None,
            last_heard: Time::ZERO,
            last_attempt: 0,
            timers: Timers::default(),
            home: None,
            welcome: None,
            position: None,
            n: 0,
            has_gap: false,
            requests: Requests::default(),
            pacing: Pacing::default(),
            round_trips: RoundTrips::default(),
            view: View::default(),
            lobbies,
            actions: VecDeque::new(),
            events: EventQueue::default(),
        }
    }

    // ---- what the driver reports ----

    /// A text message has arrived.
    pub fn handle_text(&mut self, now: Time, id: AttemptId, text: &str) {
        if self.may_read(now, id, text.len()) {
            self.receive(now, text);
            self.check_memory();
        }
    }

    /// A binary message has arrived.
    pub fn handle_binary(&mut self, now: Time, id: AttemptId, bytes: &[u8]) {
        if self.may_read(now, id, bytes.len()) {
            self.events.push(Event::Binary(bytes.to_vec()));
        }
    }

    /// Something has arrived that is no whole message: a ping or a pong, or a part of a message. A driver that does not report
    /// it may lose a connection over which a large message comes slowly: see [`Options::heartbeat`].
    pub fn handle_heard(&mut self, now: Time, id: AttemptId) {
        if self.is_current(id) {
            self.heard(now);
        }
    }

    /// The connection has ended: with the code and the reason of the server's close frame, with code 1005 if it had none, or
    /// with 1006 if there was no close frame, or the upgrade has failed after the request was written.
    pub fn handle_closed(&mut self, now: Time, id: AttemptId, code: u16, reason: &str) {
        if self.is_current(id) {
            self.lost(now, Ending::new(code, reason), true);
        }
    }

    /// The server has answered the attempt with an HTTP status other than 101, possibly with `Retry-After`.
    pub fn handle_refused(&mut self, now: Time, id: AttemptId, status: u16, retry_after: Option<Duration>) {
        if self.is_current(id) {
            let retry_after = retry_after.unwrap_or_default();
            self.lost(now, Ending { retry_after, ..Ending::new(1006, &format!("http_{status}")) }, false);
        }
    }

    /// The attempt has failed before the request was written. The reason is a word for the application, such as `no_token`,
    /// `no_address`, `no_connection` or `tls`.
    pub fn handle_failed(&mut self, now: Time, id: AttemptId, reason: &str) {
        if self.is_current(id) {
            self.lost(now, Ending::new(1006, reason), false);
        }
    }

    /// The number of bytes of the connection that wait to be written has changed. A driver that does not report it may have
    /// large buffers, if the server does not read.
    pub fn handle_unwritten(&mut self, id: AttemptId, bytes: usize) {
        if let Some(link) = self.link.as_mut().filter(|link| link.id == id) {
            link.unwritten = bytes;
        }
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come. To call it early or late does no harm: before a timer that
    /// is more than a second late is handled, what has arrived meanwhile may be.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Connect => self.not_opened(now),
                Timer::Probe => self.unanswered(now),
                Timer::Heartbeat => self.beat(now),
                Timer::Stable => self.backoff.reset(),
                Timer::Retry => self.open(now),
                Timer::Pause => self.flush(now),
                Timer::Request(id) => {
                    self.settle(id, Err(LobbyError::new("timeout")));
                    self.probe(now);
                }
            }
        }
    }

    // ---- what the driver must do ----

    /// Returns what the driver must do now. To be called after each other method, until it returns `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if let Action::Send(id, message) = &action
            && let Some(link) = self.link.as_mut().filter(|link| link.id == *id)
        {
            link.unpolled -= message.len();
        }
        Some(action)
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout); `None`: not before something else has happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next_due()
    }

    /// Returns the next event for the application.
    ///
    /// An application that polls no events loses its connection when they take 4 MiB, and misses no message that the server
    /// still has when it comes back. A driver can stop reading before: see [`has_room`](Self::has_room).
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// Returns whether the application has polled enough events for another message to be read.
    pub fn has_room(&self) -> bool {
        !self.events.is_full()
    }

    // ---- what is known ----

    /// Returns the state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns why the session waits for the next attempt, or why it is closed: the reason of the last
    /// [`Event::Connection`]. `None` in other states.
    pub fn why(&self) -> Option<&Closed> {
        self.why.as_ref()
    }

    /// Returns the name under which the seat can be claimed after a restart of the process: [`Options::was`]. It is a secret.
    pub fn name(&self) -> &str {
        self.was.as_deref().unwrap_or(&self.name)
    }

    /// Returns the last `welcome`.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_ref()
    }

    /// Returns the name of the lobby, which others join with.
    pub fn code(&self) -> Option<&str> {
        self.welcome.as_ref().map(|welcome| &*welcome.lobby)
    }

    /// Returns the number of the last message that was read, for [`set_if`](Self::set_if).
    pub fn seq(&self) -> u64 {
        self.position.map_or(0, |position| position.seq)
    }

    /// Returns the members, in the order in which they joined. In a lobby that is too large for a list, only the own one.
    pub fn members(&self) -> impl Iterator<Item = &LobbyMember> {
        self.view.members()
    }

    /// Returns the member on a seat.
    pub fn member(&self, conn: &str) -> Option<&LobbyMember> {
        self.view.member(conn)
    }

    /// Returns the number of members, also in a lobby that is too large for a list.
    pub fn count(&self) -> u64 {
        self.view.count()
    }

    /// Returns the own member. Watchers have none.
    pub fn me(&self) -> Option<&LobbyMember> {
        self.view.me()
    }

    /// Returns the host, if it is known. As what follows, with lobby control only.
    pub fn host(&self) -> Option<&LobbyMember> {
        self.view.host()
    }

    /// Returns the data of the lobby.
    pub fn data(&self) -> &Map<String, Value> {
        self.view.data()
    }

    /// Returns the settings that members may see.
    pub fn settings(&self) -> &Map<String, Value> {
        self.view.settings()
    }

    /// Returns the number of watchers when the last list came.
    pub fn watchers(&self) -> u64 {
        self.view.watchers()
    }

    /// Returns when the game starts, in milliseconds since the Unix epoch, on the clock of [`now`](Self::now).
    pub fn countdown(&self) -> Option<u64> {
        self.view.countdown()
    }

    /// Returns the lobbies of a [`list`](Self::list): at most 100, the oldest first.
    pub fn lobbies(&self) -> impl Iterator<Item = &ListedLobby> {
        self.lobbies.iter().flat_map(Lobbies::entries)
    }

    /// Returns whether more lobbies match than the list has.
    pub fn has_more_lobbies(&self) -> bool {
        self.lobbies.as_ref().is_some_and(Lobbies::has_more)
    }

    /// Returns the shortest recent round trip.
    pub fn latency(&self) -> Option<Duration> {
        self.round_trips.latency()
    }

    /// Returns the server's time in milliseconds since the Unix epoch; `None` before the first welcome.
    pub fn now(&self, now: Time) -> Option<u64> {
        self.round_trips.server_millis(now)
    }

    // ---- what a driver with a socket needs ----

    /// Returns whether the first attempt has TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.address.origin.is_secure
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Returns whether a request waits for its outcome.
    pub(super) fn is_pending(&self, id: RequestId) -> bool {
        self.requests.is_kept(id)
    }

    /// Takes the outcome of a request from among the events.
    pub(super) fn take_settled(&mut self, id: RequestId) -> Option<Result<Ack, LobbyError>> {
        self.events.take_settled(id)
    }

    // ---- shared by the parts ----

    pub(super) fn is_current(&self, id: AttemptId) -> bool {
        self.link.as_ref().is_some_and(|link| link.id == id)
    }

    /// Starts an attempt. Returns its id.
    pub(super) fn next_link(&mut self) -> AttemptId {
        self.last_attempt += 1;
        let id = AttemptId(self.last_attempt);
        self.link = Some(Link { id, is_welcome: false, goodbye: None, unpolled: 0, unwritten: 0 });
        id
    }

    /// Returns the fields of the address by which the server knows the seat. A follower of the list has none.
    pub(super) fn seat_fields(&self) -> Vec<(String, String)> {
        if self.lobbies.is_some() {
            return Vec::new();
        }
        let was = self.was.iter().map(|was| ("was", was.clone()));
        let position = self.position.iter().flat_map(|position| {
            let numbers = [("epoch", position.epoch), ("seq", position.seq), ("n", self.n)];
            numbers.map(|(name, number)| (name, number.to_string()))
        });
        let fields = [("session", self.name.clone())].into_iter().chain(was).chain(position);
        fields.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Sends a message, if the server has said welcome. Returns whether it was sent.
    pub(super) fn say(&mut self, message: Outgoing) -> bool {
        let Some(link) = self.link.as_mut().filter(|link| link.is_welcome) else { return false };
        link.unpolled += message.len();
        self.actions.push_back(Action::Send(link.id, message));
        true
    }
}

/// Without the name of the session, which is a secret, and without messages.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("state", &self.state)
            .field("link", &self.link)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

//! The engine: a deterministic state machine. Input is received bytes and time; output is bytes to send and sockets to
//! drop.
//!
//! It opens no socket, reads no clock, spawns no thread and takes no lock. A driver reports events with `handle_*`
//! methods, as many as it likes. Before it sleeps, it calls every `poll_*` method until nothing is left: first
//! `poll_writable`, because a write may close a connection, and then `poll_closed`.

pub(crate) mod app;
mod commands;
mod core;
pub(crate) mod drain;
mod health;
mod histogram;
mod inbox;
mod inspect;
mod keepalive;
pub(crate) mod member;
pub(crate) mod observer;
pub(crate) mod operator;
mod origins;
mod rates;
pub(crate) mod recording;
mod requests;
mod sending;
mod slot;
pub(crate) mod stats;
mod teardown;
pub(crate) mod tick;
mod unread;
pub(crate) mod wheel;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use log::debug;

use self::app::{App, Authorization, Context, Identity, Member, Message, Protocol};
use self::core::{AppEvent, Core};
use self::drain::{DrainTotals, shutting_down};
use self::inbox::QueuedMessage;
use self::observer::{Observed, ObservedEvent};
use self::recording::{Decisions, Destination, Input, RecordMode};
use self::slot::{ConnState, PendingAuth};
use self::stats::Stats;
use self::tick::Ticks;
use crate::base::close::{CloseReason, Reject};
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::config::Config;
use crate::egress::outbox::Flow;
use crate::http::Refusal;
use crate::lobby::is_user_id;
use crate::ws::connection::WireEvent;
use crate::ws::handshake::{self, Facts, Probe, ReadParams, Request, Upgrade};
use crate::ws::websocket::Limits;

/// The initial state of an engine besides its configuration. The same start and the same inputs give the same outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The wall time at [`Time::ZERO`], in microseconds since the Unix epoch.
    pub unix_micros: u64,
    /// The seed of the random generator.
    pub seed: u64,
}

/// The error of [`Engine::handle_accept`]: every socket that the limits allow is in use, or no [`ConnId`] is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("every socket that the limits allow is in use")
    }
}

impl std::error::Error for Full {}

/// The result of [`Engine::handle_bytes_up_to`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumed {
    /// Number of bytes consumed from the front of the input.
    pub bytes: usize,
    /// Estimated cost of processing them, in bytes. Each received frame costs the length of its message plus 256, and
    /// the same again for each frame that it causes to be queued.
    pub work: usize,
}

/// Cost of a frame besides its bytes. Locating the frame, and its part of a system call, take about as long as copying
/// this many bytes.
const FRAME_WORK: usize = 256;

/// A complete lobby server without I/O, including its application.
///
/// Its methods come in four kinds: getters; `handle_*` methods, which report an event; commands, which the application
/// gives through [`Context`]; and `poll_*` methods, which return the next task of the driver.
///
/// ```
/// use lobbyd::apps::Echo;
/// use lobbyd::{Config, Engine, Start, Time};
///
/// let mut engine = Engine::new(Config::default(), Start { unix_micros: 0, seed: 1 }, Echo);
/// let peer = "127.0.0.1:4000".parse().unwrap();
/// let conn = engine.handle_accept(Time::ZERO, peer).unwrap();
/// engine.handle_bytes(Time::ZERO, conn, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n");
///
/// let mut answer = Vec::new();
/// while let Some(conn) = engine.poll_writable() {
///     engine.write_to(conn, &mut answer).unwrap();
/// }
/// assert!(answer.starts_with(b"HTTP/1.1 426 Upgrade Required\r\n"));
/// ```
pub struct Engine<A> {
    app: A,
    core: Core,
}

impl<A: App> Engine<A> {
    /// Creates an engine without connections, at [`Time::ZERO`].
    ///
    /// `config` should have passed [`Config::check`].
    pub fn new(config: Config, start: Start, app: A) -> Engine<A> {
        Engine { app, core: Core::new(config, A::PROTOCOL, start) }
    }

    /// Returns the application.
    pub fn app(&self) -> &A {
        &self.app
    }

    /// Returns the application, to inspect or change it between turns. To send to members, use [`Engine::act`].
    ///
    /// A journal cannot record such a change: a replay ends at the call of this method or of [`Engine::act`]. A change
    /// that must be recorded is passed as data, through [`Engine::handle_command`].
    pub fn app_mut(&mut self) -> &mut A {
        self.enter(self.core.now(), &Input::Closure);
        &mut self.app
    }

    /// Notes all events that are dispatched to the application from now on.
    pub(crate) fn observe(&mut self) {
        self.core.observer.start();
    }

    /// Takes the events that were noted since the last call, in the order of dispatch. Empty unless
    /// [`observe`](Self::observe) was called.
    pub(crate) fn take_observed(&mut self) -> Vec<Observed> {
        self.core.observer.take()
    }

    /// Returns the application to a caller that only observes it. The call is not recorded.
    pub(crate) fn observed_app(&mut self) -> &mut A {
        &mut self.app
    }

    /// Returns the configuration in use.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// Runs a closure that acts on the application and the engine between turns, as the application does in a
    /// callback.
    ///
    /// A journal cannot record the closure: see [`Engine::app_mut`].
    pub fn act<R>(&mut self, now: Time, act: impl FnOnce(&mut A, &mut Context<'_>) -> R) -> R {
        self.enter(now, &Input::Closure);
        let result = act(&mut self.app, &mut Context { core: &mut self.core });
        self.dispatch_events();
        result
    }

    // ---- events ----

    /// Reports an accepted socket. Returns the id of the new connection.
    ///
    /// # Errors
    ///
    /// [`Full`]: the driver drops the socket without an answer.
    pub fn handle_accept(&mut self, now: Time, peer: SocketAddr) -> Result<ConnId, Full> {
        self.enter(now, &Input::Accept(peer));
        self.core.accept(peer)
    }

    /// Reports received bytes, and processes all of them.
    pub fn handle_bytes(&mut self, now: Time, conn: ConnId, bytes: &[u8]) {
        self.handle_bytes_up_to(now, conn, bytes, usize::MAX);
    }

    /// Reports received bytes like [`handle_bytes`](Self::handle_bytes), but limits the [work](Consumed::work) of this
    /// call.
    ///
    /// Processing stops after the frame with which the work reaches `max_work`, so at least one frame is consumed. A
    /// driver uses this when other connections have input too. It passes the unconsumed bytes again when the other
    /// connections have had their turn, before any later bytes. They are counted and charged once.
    pub fn handle_bytes_up_to(&mut self, now: Time, conn: ConnId, bytes: &[u8], max_work: usize) -> Consumed {
        self.enter_bytes(now, conn, bytes, max_work);
        let now = self.core.now();
        // A connection that was closed earlier in the turn is included: its received bytes are counted too.
        let Some(slot) = self.core.slots.get_mut(conn.index()).filter(|slot| slot.id == conn) else {
            return Consumed { bytes: bytes.len(), work: bytes.len() };
        };
        let unconsumed = std::mem::take(&mut slot.unconsumed) as usize;
        let new_bytes = bytes.len().saturating_sub(unconsumed);
        let is_closed = slot.is_closed();
        self.core.counters.bytes_in += new_bytes as u64;
        if is_closed {
            return Consumed { bytes: bytes.len(), work: bytes.len() };
        }
        if new_bytes > 0 {
            let slot = &mut self.core.slots[conn.index()];
            slot.health.heard(now);
            if slot.close_reason.is_some() && self.core.count_lingering(conn.index(), new_bytes) {
                return Consumed { bytes: bytes.len(), work: bytes.len() };
            }
            self.core.charge_bytes(conn.index(), new_bytes);
            // The charge may have closed the connection, so the events are dispatched before the input is parsed.
            self.dispatch_events();
        }
        let consumed = self.process_bytes(conn, bytes, max_work);
        if let Some(slot) = self.core.slot(conn) {
            slot.unconsumed = u32::try_from(unconsumed.max(bytes.len()) - consumed.bytes).unwrap_or(u32::MAX);
        }
        consumed
    }

    /// Reports that the peer sends nothing more: a read returned the end of the stream, or an error.
    ///
    /// The connection leaves its seat at once. Queued output is still written, because a peer may close only its own
    /// direction and wait for the answer to its last message. If the socket is broken, the next write fails and closes
    /// the connection.
    pub fn handle_hangup(&mut self, now: Time, conn: ConnId) {
        self.enter(now, &Input::Hangup(conn));
        self.drain_inbox(conn);
        if self.core.slot(conn).is_some() {
            self.core.peer_finished(conn.index());
            self.dispatch_events();
        }
    }

    /// Lists all connections that may have received bytes which the driver has not read yet. Valid until the next
    /// call.
    ///
    /// Due timers of these connections are deferred, because an unread message may be the answer that a timer waits
    /// for. They are deferred for at most [`max_deferred_turns`](Config::max_deferred_turns) turns; the expiry of a
    /// token and `max_lifetime` are not deferred. A driver calls this before [`handle_timeout`](Self::handle_timeout)
    /// when [`has_due_timers`](Self::has_due_timers) returns true.
    pub fn handle_unread(&mut self, now: Time, conns: &[ConnId]) {
        if conns.is_empty() && self.core.unread.is_empty() {
            return;
        }
        self.enter(now, &Input::Unread(conns));
        self.core.unread.set(conns);
    }

    /// Reports that the wall clock shows `unix_micros`, in microseconds since the Unix epoch, and differs from the
    /// engine's time.
    ///
    /// The clock was set, it drifts, or the machine was suspended. From now on `server_time` and the expiry of tokens
    /// follow the new value; timeouts do not.
    pub fn handle_wall_time(&mut self, now: Time, unix_micros: u64) {
        // No real clock shows such a value; the bound keeps sums from overflowing.
        let unix_micros = unix_micros.min(1 << 62);
        self.enter(now, &Input::WallTime(unix_micros));
        self.core.set_wall_time(unix_micros);
    }

    /// Reports that a socket that was [`Blocked`](Flow::Blocked) accepts bytes again.
    pub fn handle_writable(&mut self, now: Time, conn: ConnId) {
        self.enter(now, &Input::Writable(conn));
        self.core.writable(conn);
    }

    /// Advances the time: expires timers, then runs due ticks. [`poll_timeout`](Self::poll_timeout) returns when to
    /// call this.
    ///
    /// A tick may send more than the queues have room for. If [`wants_flush`](Self::wants_flush) returns true
    /// afterwards, the rest of the tick runs in the next call, which is due after all connections with output have been
    /// written to.
    pub fn handle_timeout(&mut self, now: Time) {
        self.enter(now, &Input::Timeout);
        self.core.last_timeout = self.core.now();
        for key in self.core.expire() {
            self.core.timer(key);
            self.dispatch_events();
        }
        self.drain_inboxes_of_batch();
        self.core.drive_drain();
        self.core.expire_pings();
        self.dispatch_events();
        self.run_ticks();
    }

    /// Reports the answer to an authorization that was [`Pending`](Authorization::Pending).
    ///
    /// An answer that is still `Pending`, comes too late, or is for a connection that waits for none, is ignored.
    pub fn handle_authorized(&mut self, now: Time, conn: ConnId, answer: Authorization) {
        let answer = answer.without_bad_names();
        self.enter(now, &Input::Authorized(conn, &answer));
        let Some(slot) = self.core.slot(conn).filter(|slot| slot.close_reason.is_none() && slot.wire.is_deciding())
        else {
            return;
        };
        if matches!(answer, Authorization::Pending { .. }) {
            return;
        }
        let ConnState::Pending(pending) = &mut slot.state else { return };
        let PendingAuth { code, reservation } =
            *pending.take().expect("a deferred request has a pending authorization");
        let key = conn.index();
        let early = self.core.accept_pending(key);
        let outcome = match self.core.check_authorization(answer, &code) {
            Ok(identity) => self.core.seat(key, reservation, &code, &identity),
            Err(reason) => {
                if let Some(reservation) = reservation {
                    self.core.directory.cancel(reservation, self.core.now);
                }
                Err(reason)
            }
        };
        match outcome {
            Ok(()) => self.core.mark_dirty(key),
            Err(reason) => self.core.begin_close(key, reason),
        }
        self.dispatch_events();
        self.process_bytes(conn, &early, usize::MAX);
    }

    /// Reports that the driver dropped a new connection without [`handle_accept`](Self::handle_accept), because no file
    /// descriptor was free.
    pub(crate) fn note_shed(&mut self) {
        self.enter(self.core.now(), &Input::Shed);
        self.core.counters.shed += 1;
    }

    /// Passes a command from outside to [`App::on_command`].
    pub fn handle_command(&mut self, now: Time, command: &[u8]) {
        self.enter(now, &Input::Command(command));
        self.app.on_command(&mut Context { core: &mut self.core }, command);
        self.dispatch_events();
    }

    /// Passes the application's reloaded start data to [`App::on_reload`].
    pub fn handle_reload(&mut self, now: Time, contents: &[u8]) {
        self.enter(now, &Input::Reload(contents));
        self.app.on_reload(&mut Context { core: &mut self.core }, contents);
        self.dispatch_events();
    }

    /// Starts a drain: admits no new members and closes all existing ones. [`is_drained`](Self::is_drained)
    /// returns true when it is over.
    ///
    /// [`App::on_drain`] is called first and may still send to all members. Members are closed in batches of
    /// `drain_batch`, oldest first. Their queued output is flushed, however slowly they read, until `drain_deadline`;
    /// the connections that are left then are cut off.
    pub fn handle_drain(&mut self, now: Time) {
        self.enter(now, &Input::Drain);
        self.drain();
    }

    fn drain(&mut self) {
        if let Some(deadline) = self.core.begin_drain() {
            self.core.observer.note(self.core.now, || ObservedEvent::Drain(deadline));
            self.app.on_drain(&mut Context { core: &mut self.core }, deadline);
            self.dispatch_events();
            // The messages of a member that has left are not relayed. So messages that wait for the next tick are
            // delivered before the members are closed.
            self.core.members_by_age().into_iter().for_each(|conn| self.drain_inbox(conn));
            self.core.close_all_members();
            self.dispatch_events();
        }
    }

    /// Cuts off all remaining connections, without a close frame: for a second request to stop, or when a drain takes
    /// too long.
    pub fn handle_stop(&mut self, now: Time) {
        self.enter(now, &Input::Stop);
        self.core.begin_drain();
        self.core.abort_all();
        self.dispatch_events();
    }

    // ---- the driver's tasks ----

    /// Whether a deadline depends on the wall clock, because a member's identity expires.
    ///
    /// If so, the driver reads the wall clock from time to time even if nothing happens: a monotonic timeout does not
    /// end earlier when the wall clock is set.
    pub fn has_wall_deadlines(&self) -> bool {
        !self.core.expiries.is_empty()
    }

    /// Whether the next [`handle_timeout`](Self::handle_timeout) at `now` acts on timers of connections.
    ///
    /// If so, the driver first checks again which sockets have input, and passes those that it does not read now to
    /// [`handle_unread`](Self::handle_unread).
    pub fn has_due_timers(&self, now: Time) -> bool {
        self.core.next_timer().is_some_and(|at| at <= now)
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout) next; `None` when nothing waits for time to pass.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.core.poll_timeout()
    }

    /// Returns the next connection with output to write, for [`write_to`](Self::write_to).
    pub fn poll_writable(&mut self) -> Option<ConnId> {
        self.core.record_flush();
        self.flush_presence_and_events();
        let next = self.core.poll_writable();
        if next.is_none() {
            self.core.record_flushed();
        }
        next
    }

    /// Writes the queued output of `conn` to its socket.
    ///
    /// # Errors
    ///
    /// - An error of the socket. The connection is closed, and [`poll_closed`](Self::poll_closed) will return it.
    /// - An error of the recorder, when no output may be sent unrecorded. Nothing has been written then.
    pub fn write_to(&mut self, conn: ConnId, socket: &mut impl Write) -> io::Result<Flow> {
        if self.core.slot(conn).is_none() {
            return Ok(Flow::Drained);
        }
        let result = if self.core.record_mode.is_recording() {
            self.commit_record()?;
            self.core.write_recorded(conn, socket)
        } else {
            self.core.write_to(conn.index(), socket)
        };
        if let Err(error) = &result {
            debug!("conn={conn} write failed: {error}");
            self.drain_inbox(conn);
            if self.core.slot(conn).is_some() {
                self.core.abort(conn.index(), CloseReason::WriteFailed);
                self.dispatch_events();
            }
        }
        result
    }

    /// Returns the next connection whose socket must be dropped. Its id is invalid from now on.
    ///
    /// Call this after [`poll_writable`](Self::poll_writable) has returned `None`, until it returns `None` too: a
    /// write may close a connection, and a recorded session is replayed in this order.
    pub fn poll_closed(&mut self) -> Option<ConnId> {
        self.core.poll_closed()
    }

    // ---- getters ----

    /// Whether so much output is queued for writable connections that the driver should write before it reads on.
    pub fn wants_flush(&self) -> bool {
        self.core.wants_flush
    }

    /// Returns the longest delay before the next read that keeps ticks on time; `None` if the next read must not be
    /// delayed.
    ///
    /// It is an eighth of the tick's period, at most 4 ms. `None` if that is shorter than 1 ms, or while output does
    /// not wait for ticks: see [`Config::flush`].
    pub fn max_read_delay(&self) -> Option<Duration> {
        self.core.max_read_delay()
    }

    /// Returns the counters and the current state.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Whether all connections that [`handle_drain`](Self::handle_drain) waits for are closed.
    pub fn is_drained(&self) -> bool {
        self.core.is_drained()
    }

    /// Whether a drain has started. It stays true when the drain is over.
    pub fn is_draining(&self) -> bool {
        self.core.is_draining()
    }

    /// Returns the totals of the drain so far; `None` before [`handle_drain`](Self::handle_drain).
    pub fn drain_totals(&self) -> Option<DrainTotals> {
        self.core.drain_totals()
    }

    /// Asserts all invariants of the engine and its parts. For tests: it visits every connection, lobby and timer.
    ///
    /// # Panics
    ///
    /// When an invariant does not hold.
    pub fn check(&self) {
        self.core.check();
    }

    // ---- internals ----

    /// Parses received bytes and acts on each event, until the work reaches `max_work`.
    fn process_bytes(&mut self, conn: ConnId, bytes: &[u8], max_work: usize) -> Consumed {
        let mut input = bytes;
        let mut work = 0;
        let config = &self.core.config;
        let max_header_bytes = config.max_header_bytes.0;
        let limits = Limits { max_message_bytes: config.max_message_bytes.0, max_fragments: config.max_fragments };
        // The scratch buffer is moved out of the core, because events borrow from it while the core acts on them.
        let mut scratch = std::mem::take(&mut self.core.scratch);
        while !input.is_empty()
            && let Some(slot) = self.core.slot(conn)
            && let Some(event) = slot.wire.poll(&mut input, &mut scratch, max_header_bytes, limits)
        {
            let key = conn.index();
            let (length, frames_out) = (event.message_bytes(), self.core.counters.frames_out);
            match event {
                WireEvent::Nothing => {}
                WireEvent::Head(head) => {
                    self.on_head(conn, &head);
                    self.core.record_rest(key, input);
                }
                WireEvent::BadHead(refusal) => self.core.close_with_http(key, CloseReason::HttpRefused, &refusal),
                WireEvent::Text(text) => {
                    self.on_text(key, text);
                    self.core.message_ended(key, input.len());
                }
                WireEvent::Binary(bytes) => {
                    self.on_app_message(key, Message::Binary(bytes));
                    self.core.message_ended(key, input.len());
                }
                WireEvent::Ping(payload) => self.core.pinged(key, payload),
                WireEvent::Pong(payload) => self.core.ponged(key, payload),
                // No frame may follow the answer to the peer's close frame, so the peer's queued messages are served
                // first.
                WireEvent::Close(answer) => {
                    self.drain_inbox(conn);
                    if self.core.slot(conn).is_some() {
                        self.core.peer_closed(key, answer, input.is_empty());
                    }
                }
                WireEvent::Fault(reason) => {
                    self.drain_inbox(conn);
                    if self.core.slot(conn).is_some() {
                        self.core.close_after_fault(key, reason);
                    }
                }
            }
            self.dispatch_events();
            let frames_queued = (self.core.counters.frames_out - frames_out) as usize;
            work = (1 + frames_queued).saturating_mul(FRAME_WORK + length).saturating_add(work);
            if work >= max_work {
                break;
            }
        }
        self.core.scratch = scratch;
        // The rest of the input is discarded if the connection is closed or no longer parses its input.
        let unconsumed = self.core.slot(conn).map_or(0, |slot| if slot.wire.ignores_input() { 0 } else { input.len() });
        Consumed { bytes: bytes.len() - unconsumed, work }
    }

    fn on_head(&mut self, conn: ConnId, head: &[u8]) {
        let key = conn.index();
        let outcome = if let RecordMode::Replaying(_) = self.core.record_mode {
            self.decide_from_record(key)
        } else {
            let params = ReadParams {
                conn,
                peer: self.core.slots[key].peer.address(),
                max_headers: self.core.config.max_headers,
                trusted_proxies: self.core.config.trusted_proxies,
                subprotocols: A::PROTOCOL.subprotocols(),
            };
            let read = handshake::read(head, &params, |request, upgrade| self.decide_and_record(key, request, upgrade));
            read.unwrap_or_else(|refusal| {
                self.core.record_refused(&refusal);
                Err(refusal)
            })
        };
        if let Err(refusal) = outcome {
            self.core.close_with_http(key, CloseReason::HttpRefused, &refusal);
        }
    }

    /// Decides about a well-formed request. In a replay `request` is `None`, and the recorded decisions are used.
    fn decide(
        &mut self,
        key: usize,
        request: Option<&Request<'_>>,
        facts: Facts,
        decisions: &mut Decisions,
    ) -> Result<(), Refusal> {
        if let Some(response) = self.core.health_response(&facts) {
            return Err(response);
        }
        if self.core.is_draining() {
            return Err(shutting_down());
        }
        let within_limit = self.core.charge_attempt(key, facts.address)?;
        // Only a recorded decision can be missing. The replay ends here in that case.
        let Some(destination) = self.ask_destination(request, decisions) else { return Ok(()) };
        let code = match destination {
            Destination::Nowhere => {
                return Err(Refusal::new(404, "there is nothing here; lobbies are at /ws/{lobby_code}"));
            }
            Destination::Lobby(code) => Ok(code),
            Destination::BadCode => Err(CloseReason::BadLobbyCode),
        };
        let upgrade = facts.upgrade?;
        // From here on a refusal accepts the upgrade first, so that a page can read the close reason.
        let origin = if facts.is_origin_allowed { Ok(()) } else { Err(CloseReason::ForbiddenOrigin) };
        let code = match within_limit.and(origin).and(code) {
            Ok(code) => code,
            Err(reason) => {
                if let Some(request) = request.filter(|_| reason == CloseReason::ForbiddenOrigin) {
                    self.core.log_refused_origin(request);
                }
                self.core.accept_and_close(key, &upgrade, reason);
                return Ok(());
            }
        };
        match self.ask_authorization(request, decisions) {
            None => {}
            Some(Authorization::Pending { user }) => {
                self.core.wait_for_authorization(key, upgrade, &code, user.as_deref());
            }
            Some(answer) => {
                let identity = self.core.check_authorization(answer, &code);
                self.core.accept_and_seat(key, &upgrade, &code, identity);
            }
        }
        Ok(())
    }

    fn on_text(&mut self, key: usize, text: &str) {
        match A::PROTOCOL {
            Protocol::Raw => self.on_app_message(key, Message::Text(text)),
            Protocol::Json => {
                let Some(member) = self.core.member(key) else { return };
                self.core.counters.messages_in += 1;
                self.on_request(&member, text);
            }
        }
    }

    fn on_app_message(&mut self, key: usize, message: Message<'_>) {
        let Some(member) = self.core.member(key) else { return };
        self.core.counters.messages_in += 1;
        let queued = || match message {
            Message::Text(text) | Message::Json { text, .. } => QueuedMessage::Text(text.into()),
            Message::Binary(bytes) => QueuedMessage::Binary(bytes.into()),
        };
        if self.core.admit_message(key, None, queued) {
            // Only a JSON message can be answered with an error, so a rejection is dropped here.
            let _ = self.deliver(&member, message);
        }
    }

    /// Flushes presence and dispatches events until nothing is left to do.
    fn flush_presence_and_events(&mut self) {
        // A callback may send, and so change lobbies again.
        while !self.core.unflushed_lobbies.is_empty() || !self.core.app_events.is_empty() {
            self.core.flush_all_presence();
            self.dispatch_events();
        }
    }

    // ---- ticks ----

    /// Runs the due ticks. Before each tick it delivers the messages that were received since the previous one.
    fn run_ticks(&mut self) {
        let mut has_ticked = false;
        loop {
            if self.core.wants_flush {
                return;
            }
            if let Some((conn, message)) = self.core.inboxes.take_due() {
                let member = self.core.member(conn.index()).expect("only members have an inbox");
                self.serve_queued(&member, &message);
            } else if let Some(tick) = self.core.ticks.as_mut().and_then(Ticks::take_under_way) {
                self.core.observer.note(self.core.now, || ObservedEvent::Tick(tick));
                self.app.on_tick(&mut Context { core: &mut self.core }, &tick);
                has_ticked = true;
            } else if !self.core.begin_tick() {
                break;
            }
            self.dispatch_events();
        }
        // Presence is flushed before output is uncorked: joins and leaves belong to this tick.
        if has_ticked {
            self.flush_presence_and_events();
            self.core.uncork_all();
        }
    }

    /// Delivers the queued messages of all members that the next batch closes. The application may close some of them
    /// meanwhile; the batch then closes other members in their stead, so their messages are delivered too.
    fn drain_inboxes_of_batch(&mut self) {
        let mut drained = Vec::new();
        loop {
            let batch = self.core.next_batch();
            if batch == drained {
                break;
            }
            batch.iter().for_each(|&conn| self.drain_inbox(conn));
            drained = batch;
        }
    }

    /// Delivers the queued messages of a member, as long as it has its seat.
    fn drain_inbox(&mut self, conn: ConnId) {
        while self.core.slot(conn).is_some_and(|slot| slot.seat().is_some())
            && let Some(message) = self.core.inboxes.take_of(conn)
        {
            let member = self.core.member(conn.index()).expect("the connection has a seat");
            self.serve_queued(&member, &message);
            self.dispatch_events();
        }
    }

    /// Serves a queued message. Its sender may have left its seat.
    fn serve_queued(&mut self, from: &Member, message: &QueuedMessage) {
        match (A::PROTOCOL, message) {
            (Protocol::Json, QueuedMessage::Text(text)) => self.serve_queued_request(from, text),
            (Protocol::Raw, QueuedMessage::Text(text)) => drop(self.deliver(from, Message::Text(text))),
            (_, QueuedMessage::Binary(bytes)) => drop(self.deliver(from, Message::Binary(bytes))),
        }
    }

    /// Passes a message to the application. Returns the rejection if the application rejected the message.
    fn deliver(&mut self, from: &Member, message: Message<'_>) -> Option<(Reject, Cow<'static, str>)> {
        let Engine { app, core } = self;
        // A rejection from another callback is discarded: it does not belong to this message.
        core.take_rejection();
        core.observer.note(core.now, || ObservedEvent::Message { from: from.clone(), content: message.into() });
        app.on_message(&mut Context { core }, from, message);
        core.take_rejection()
    }

    /// Dispatches events to the application, including those that its callbacks cause, until none is left.
    #[inline]
    fn dispatch_events(&mut self) {
        if !self.core.app_events.is_empty() {
            self.dispatch_all_events();
        }
    }

    fn dispatch_all_events(&mut self) {
        while let Some(event) = self.core.app_events.pop_front() {
            let Engine { app, core } = self;
            core.observe_event(&event);
            let cx = &mut Context { core };
            match event {
                AppEvent::Undelivered(member) => {
                    while let Some(message) = self.core.inboxes.take_of(member.conn) {
                        self.serve_queued(&member, &message);
                    }
                }
                AppEvent::Joined(member) => app.on_join(cx, &member),
                AppEvent::Rejoined(member) => app.on_rejoin(cx, &member),
                AppEvent::Left(member, reason) => app.on_leave(cx, &member, reason),
                AppEvent::Health(member, latency) => app.on_health(cx, &member, latency),
                AppEvent::Pressure(member, pressure) => app.on_pressure(cx, &member, pressure),
            }
        }
    }
}

impl Core {
    /// The facts about a request that are known before the application is asked.
    pub(super) fn facts(&self, request: &Request<'_>, upgrade: Result<Upgrade, Refusal>) -> Facts {
        Facts {
            probe: request.probe(),
            address: request.address(),
            is_origin_allowed: request.is_from_allowed_page(&self.config.allowed_origin),
            upgrade,
        }
    }

    /// The response to a health check on the members' port. An upgrade request for the same path goes to the
    /// application.
    ///
    /// Ready means that new members are admitted. A full server is ready too, because it refuses members with a close
    /// reason of its own.
    fn health_response(&self, facts: &Facts) -> Option<Refusal> {
        match facts.probe? {
            _ if facts.upgrade.is_ok() => None,
            Probe::Live => Some(Refusal::new(200, "live")),
            Probe::Ready if self.is_draining() => Some(Refusal::new(503, "draining")),
            Probe::Ready => Some(Refusal::new(200, "ready")),
        }
    }

    /// Accepts the upgrade, then seats the connection or closes it with the reason. A browser cannot read the status
    /// of a refused upgrade.
    fn accept_and_seat(&mut self, key: usize, upgrade: &Upgrade, code: &str, decision: Result<Identity, CloseReason>) {
        // The application may have closed the connection in `authorize`.
        if self.slots[key].close_reason.is_some() {
            return;
        }
        self.accept_upgrade(key, upgrade);
        let outcome = decision.and_then(|identity| self.seat(key, None, code, &identity));
        match outcome {
            Ok(()) => self.mark_dirty(key),
            Err(reason) => self.begin_close(key, reason),
        }
    }

    /// Accepts the upgrade and closes the connection with the reason.
    fn accept_and_close(&mut self, key: usize, upgrade: &Upgrade, reason: CloseReason) {
        if self.slots[key].close_reason.is_none() {
            self.accept_upgrade(key, upgrade);
            self.begin_close(key, reason);
        }
    }

    fn accept_upgrade(&mut self, key: usize, upgrade: &Upgrade) {
        let slot = &mut self.slots[key];
        self.record_mode.redact_echo(slot.id, upgrade);
        slot.wire.accept(upgrade, &mut self.outboxes);
    }

    /// Accepts an upgrade that waited for authorization. Returns the bytes that the client sent meanwhile.
    pub(super) fn accept_pending(&mut self, key: usize) -> Vec<u8> {
        let slot = &mut self.slots[key];
        slot.wire.pending_upgrade().into_iter().for_each(|upgrade| self.record_mode.redact_echo(slot.id, upgrade));
        slot.wire.accept_pending(&mut self.outboxes)
    }

    /// Checks the application's answer for the lobby `code`. Returns the identity, or the reason to refuse the client.
    fn check_authorization(&self, answer: Authorization, code: &str) -> Result<Identity, CloseReason> {
        match answer {
            Authorization::Refuse(reason) => Err(reason),
            // An invalid user id and an identity for another lobby are refused. A journal may contain either.
            Authorization::Allow(identity)
                if !is_user_id(&identity.user) || identity.lobby.as_deref().is_some_and(|lobby| lobby != code) =>
            {
                Err(CloseReason::Unauthorized)
            }
            Authorization::Allow(identity) if identity.expires.is_some_and(|end| end <= self.unix_micros() / 1000) => {
                Err(CloseReason::TokenExpired)
            }
            Authorization::Allow(identity) => Ok(identity),
            Authorization::Pending { .. } => unreachable!("a pending answer is never checked"),
        }
    }

    fn wait_for_authorization(&mut self, key: usize, upgrade: Upgrade, code: &str, user: Option<&str>) {
        if self.slots[key].close_reason.is_some() {
            return;
        }
        // A seat is reserved only for a known user: an unknown one may turn out to have a seat already.
        let reserved = user.map(|user| self.directory.reserve(code, user, self.unix_micros())).transpose();
        match reserved {
            Ok(reservation) => {
                let slot = &mut self.slots[key];
                slot.wire.defer(upgrade);
                slot.state = ConnState::Pending(Some(Box::new(PendingAuth { code: code.into(), reservation })));
                self.set_stage_deadline(key, self.config.auth_timeout);
            }
            Err(reason) => self.accept_and_close(key, &upgrade, reason),
        }
    }
}

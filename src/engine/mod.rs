//! The deterministic state machine: bytes and time go in; bytes and "drop this socket" come out.
//!
//! It opens no socket, reads no clock, spawns nothing and locks nothing. A driver turns its crank: it calls any number
//! of `handle_*` methods for what happened, and then drains every `poll_*` method before it sleeps: `poll_writable` first,
//! because what is written may end connections, and then `poll_closed`.

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
use self::recording::{Decisions, Destination, Input, RecordMode};
use self::slot::{ConnState, PendingAuth};
use self::stats::Stats;
use self::tick::Ticks;
use crate::close::{CloseReason, Reject};
use crate::config::Config;
use crate::id::ConnId;
use crate::lobby::is_user_id;
use crate::time::Time;
use crate::wire::connection::WireEvent;
use crate::wire::handshake::{self, Facts, Probe, Request, Terms, Upgrade};
use crate::wire::http::Refusal;
use crate::wire::outbox::Flow;
use crate::wire::websocket::Limits;

/// What an engine starts from besides its configuration. The same start and the same inputs give the same outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The wall time at [`Time::ZERO`], in microseconds since the Unix epoch.
    pub unix_micros: u64,
    /// Where all randomness comes from.
    pub seed: u64,
}

/// Every socket there may be is in use, or every [`ConnId`] was given. The driver drops the new socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("every socket that the limits allow is in use")
    }
}

impl std::error::Error for Full {}

/// What [`Engine::handle_bytes_up_to`] made of the bytes it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumed {
    /// So many of them, from the front, were acted on.
    pub bytes: usize,
    /// What that cost, roughly, in bytes: the length of each message, once for itself and once for each frame that it brought
    /// about, and 256 for each of them.
    pub work: usize,
}

/// What a frame costs beside its bytes: finding it, and its part of a system call, take the time of copying so many.
const FRAME_WORK: usize = 256;

/// A whole lobby server without I/O, and the application in it.
///
/// Methods come in four kinds: getters; `handle_*`, what happened; commands, given by the application through
/// [`Context`]; and `poll_*`, what the driver must do now.
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
    /// An engine without connections, at [`Time::ZERO`].
    ///
    /// `config` should have passed [`Config::check`].
    pub fn new(config: Config, start: Start, app: A) -> Engine<A> {
        Engine { app, core: Core::new(config, A::PROTOCOL, start) }
    }

    /// The application.
    pub fn app(&self) -> &A {
        &self.app
    }

    /// The application, to look at and to change between turns. What is to reach members goes through [`Engine::act`].
    ///
    /// Whoever replays the session cannot know what was changed: a journal stops being replayable here, and so it does
    /// with [`Engine::act`]. What is to be recorded comes as data, through [`Engine::handle_command`].
    pub fn app_mut(&mut self) -> &mut A {
        self.enter(self.core.now(), &Input::Owner);
        &mut self.app
    }

    /// The application, for whoever only watches it.
    pub(crate) fn observed_app(&mut self) -> &mut A {
        &mut self.app
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// Lets the application's owner act between turns, as the application does in a callback.
    pub fn act<R>(&mut self, now: Time, act: impl FnOnce(&mut A, &mut Context<'_>) -> R) -> R {
        self.enter(now, &Input::Owner);
        let result = act(&mut self.app, &mut Context { core: &mut self.core });
        self.dispatch_events();
        result
    }

    // ---- what happened ----

    /// A socket was accepted.
    ///
    /// # Errors
    ///
    /// [`Full`]: the driver drops the socket without an answer.
    pub fn handle_accept(&mut self, now: Time, peer: SocketAddr) -> Result<ConnId, Full> {
        self.enter(now, &Input::Accept(peer));
        self.core.accept(peer)
    }

    /// Bytes were received.
    pub fn handle_bytes(&mut self, now: Time, conn: ConnId, bytes: &[u8]) {
        self.handle_bytes_up_to(now, conn, bytes, usize::MAX);
    }

    /// Bytes were received while others wait too: as [`handle_bytes`](Self::handle_bytes), but it stops after the frame with
    /// which the [work](Consumed::work) comes to `max_work`. At least one frame is taken.
    ///
    /// What is not taken the driver hands in again, before what was received after it, when the others have had their turn.
    /// It is counted and charged once.
    pub fn handle_bytes_up_to(&mut self, now: Time, conn: ConnId, bytes: &[u8], max_work: usize) -> Consumed {
        self.enter_bytes(now, conn, bytes, max_work);
        let now = self.core.now();
        // Also a connection that was given up earlier in the turn: received is received.
        let Some(slot) = self.core.slots.get_mut(conn.index()).filter(|slot| slot.id == conn) else {
            return Consumed { bytes: bytes.len(), work: bytes.len() };
        };
        let untaken = std::mem::take(&mut slot.untaken) as usize;
        let new_bytes = bytes.len().saturating_sub(untaken);
        let is_closed = slot.is_closed();
        self.core.counters.bytes_in += new_bytes as u64;
        if is_closed {
            return Consumed { bytes: bytes.len(), work: bytes.len() };
        }
        if new_bytes > 0 {
            let slot = &mut self.core.slots[conn.index()];
            slot.health.heard(now);
            if slot.close_reason.is_some() && self.core.has_lingered(conn.index(), new_bytes) {
                return Consumed { bytes: bytes.len(), work: bytes.len() };
            }
            self.core.charge_bytes(conn.index(), new_bytes);
            // That may have ended it, and then nothing more is read from it.
            self.dispatch_events();
        }
        let taken = self.feed(conn, bytes, max_work);
        if let Some(slot) = self.core.slot(conn) {
            slot.untaken = u32::try_from(untaken.max(bytes.len()) - taken.bytes).unwrap_or(u32::MAX);
        }
        taken
    }

    /// The peer will send nothing more: reading gave the end of the stream, or an error.
    ///
    /// Its seat is free at once. What is queued for it is still written, because a peer may close only its own direction and
    /// wait for the answer to what it sent before. If the socket is broken, writing fails and the connection ends with that.
    pub fn handle_hangup(&mut self, now: Time, conn: ConnId) {
        self.enter(now, &Input::Hangup(conn));
        self.drain_inbox(conn);
        if self.core.slot(conn).is_some() {
            self.core.peer_finished(conn.index());
            self.dispatch_events();
        }
    }

    /// Names all connections that may have received bytes which have not been read yet. Holds until the next call.
    ///
    /// Their due timers wait, because an unread answer may be what they wait for: at most for
    /// [`max_deferred_turns`](Config::max_deferred_turns) turns. A token's end and `max_lifetime` do not wait. A driver
    /// calls this before [`handle_timeout`](Self::handle_timeout) when [`has_due_timers`](Self::has_due_timers) says so.
    pub fn handle_unread(&mut self, now: Time, conns: &[ConnId]) {
        if conns.is_empty() && self.core.unread.is_empty() {
            return;
        }
        self.enter(now, &Input::Unread(conns));
        self.core.unread.set(conns);
    }

    /// The wall clock shows `unix_micros`, in microseconds since the Unix epoch, which is not what it should show by the
    /// engine's time: it was set, it drifts, or the machine was suspended. From now on `server_time` and the ends of tokens
    /// follow it; timeouts do not.
    pub fn handle_wall_time(&mut self, now: Time, unix_micros: u64) {
        // What no clock shows must not overflow a sum.
        let unix_micros = unix_micros.min(1 << 62);
        self.enter(now, &Input::WallTime(unix_micros));
        self.core.set_wall_time(unix_micros);
    }

    /// A socket that was [`Blocked`](Flow::Blocked) takes bytes again.
    pub fn handle_writable(&mut self, now: Time, conn: ConnId) {
        self.enter(now, &Input::Writable(conn));
        self.core.writable(conn);
    }

    /// Time has passed; [`poll_timeout`](Self::poll_timeout) says when to call this. Timers expire, then ticks run.
    ///
    /// What is said in a tick may be more than queues hold: when [`wants_flush`](Self::wants_flush) says so, the rest of the
    /// tick follows with the next call, which is due once everybody has been written to.
    pub fn handle_timeout(&mut self, now: Time) {
        self.enter(now, &Input::Timeout);
        self.core.looked_at = self.core.now();
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

    /// The answer to an authorization that was [`Pending`](Authorization::Pending). Too late, or for a connection that
    /// waits for none, it means nothing.
    pub fn handle_authorized(&mut self, now: Time, conn: ConnId, answer: Authorization) {
        let answer = answer.without_bad_names();
        self.enter(now, &Input::Authorized(conn, &answer));
        let Some(slot) = self.core.slot(conn).filter(|slot| slot.close_reason.is_none() && slot.wire.is_deciding())
        else {
            return;
        };
        // Still pending is no answer.
        if matches!(answer, Authorization::Pending { .. }) {
            return;
        }
        let ConnState::Pending(waiting) = &mut slot.state else { return };
        let PendingAuth { code, reservation } = *waiting.take().expect("a held request waits for its authorization");
        let key = conn.index();
        let early = self.core.accept_held(key);
        let outcome = match self.core.judge(answer, &code) {
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
        self.feed(conn, &early, usize::MAX);
    }

    /// A connection was closed for want of a descriptor before it could be accepted.
    pub(crate) fn note_shed(&mut self) {
        self.enter(self.core.now(), &Input::Shed);
        self.core.counters.shed += 1;
    }

    /// A command from outside, for [`App::on_command`].
    pub fn handle_command(&mut self, now: Time, command: &[u8]) {
        self.enter(now, &Input::Command(command));
        self.app.on_command(&mut Context { core: &mut self.core }, command);
        self.dispatch_events();
    }

    /// What the application was started with has been read again, for [`App::on_reload`].
    pub fn handle_reload(&mut self, now: Time, contents: &[u8]) {
        self.enter(now, &Input::Reload(contents));
        self.app.on_reload(&mut Context { core: &mut self.core }, contents);
        self.dispatch_events();
    }

    /// Say goodbye to everybody and let nobody in; [`is_drained`](Self::is_drained) tells when it is over.
    ///
    /// The application hears of it first and may still speak to everybody. Members are told in batches of `drain_batch`,
    /// oldest first, and what is queued is flushed, however slowly they read, until `drain_deadline` cuts off the rest.
    pub fn handle_drain(&mut self, now: Time) {
        self.enter(now, &Input::Drain);
        self.drain();
    }

    fn drain(&mut self) {
        if let Some(deadline) = self.core.begin_drain() {
            self.app.on_drain(&mut Context { core: &mut self.core }, deadline);
            self.dispatch_events();
            // Nobody hears from a member that is gone: what waits for the next tick is said before the goodbyes.
            self.core.members_by_age().into_iter().for_each(|conn| self.drain_inbox(conn));
            self.core.close_all_members();
            self.dispatch_events();
        }
    }

    /// Cuts off whatever is left, without another word: the second request to stop, or the end of patience.
    pub fn handle_stop(&mut self, now: Time) {
        self.enter(now, &Input::Stop);
        self.core.begin_drain();
        self.core.abort_all();
        self.dispatch_events();
    }

    // ---- what the driver must do ----

    /// Whether a deadline depends on the wall clock, because a member's identity expires. Then a driver looks at that clock
    /// from time to time, also when nothing happens, since no monotonic timeout follows a clock that is set.
    pub fn has_wall_deadlines(&self) -> bool {
        !self.core.expiries.is_empty()
    }

    /// Whether the next [`handle_timeout`](Self::handle_timeout) at `now` acts on timers of connections. Before that a driver
    /// looks once more which sockets have input, and passes those it does not read now to
    /// [`handle_unread`](Self::handle_unread).
    pub fn has_due_timers(&self, now: Time) -> bool {
        self.core.next_timer().is_some_and(|at| at <= now)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next; `None` when nothing waits for time to pass.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.core.poll_timeout()
    }

    /// The next connection with something to write, for [`write_to`](Self::write_to).
    pub fn poll_writable(&mut self) -> Option<ConnId> {
        self.core.record_flush();
        self.flush_presence_and_events();
        let next = self.core.poll_writable();
        if next.is_none() {
            self.core.record_flushed();
        }
        next
    }

    /// Writes what is queued for `conn` to its socket.
    ///
    /// # Errors
    ///
    /// Those of the socket. The connection has ended then, and [`poll_closed`](Self::poll_closed) will name it. And those
    /// of the record, when nothing may go out unrecorded; then nothing has.
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
            debug!("conn={conn} cannot be written to: {error}");
            self.drain_inbox(conn);
            if self.core.slot(conn).is_some() {
                self.core.abort(conn.index(), CloseReason::WriteFailed);
                self.dispatch_events();
            }
        }
        result
    }

    /// The next connection whose socket must be dropped. Its id means nothing from now on.
    ///
    /// To be asked when [`poll_writable`](Self::poll_writable) has said `None`, until it says so too: writing may be what ends
    /// a connection, and a session that is recorded is replayed in this order.
    pub fn poll_closed(&mut self) -> Option<ConnId> {
        self.core.poll_closed()
    }

    // ---- getters ----

    /// Whether so much is queued for somebody who could be written to that the driver should write before it reads on.
    pub fn wants_flush(&self) -> bool {
        self.core.wants_flush
    }

    /// How long nobody would notice if nothing were read: with `flush` at the tick a part of its period.
    pub fn max_read_delay(&self) -> Option<Duration> {
        self.core.max_read_delay()
    }

    /// Counters and the present state.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Whether everybody has gone after [`handle_drain`](Self::handle_drain).
    pub fn is_drained(&self) -> bool {
        self.core.is_drained()
    }

    /// Whether the server is saying goodbye to everybody, or has.
    pub fn is_draining(&self) -> bool {
        self.core.is_draining()
    }

    /// What has come so far of [`handle_drain`](Self::handle_drain); `None` before it.
    pub fn drain_totals(&self) -> Option<DrainTotals> {
        self.core.drain_totals()
    }

    /// Asserts every invariant of every owner of a fact. For tests: it walks over everything.
    ///
    /// # Panics
    ///
    /// When an invariant does not hold.
    pub fn check(&self) {
        self.core.check();
    }

    // ---- inside ----

    /// Takes received bytes apart and acts on each event, until that is `max_work`.
    fn feed(&mut self, conn: ConnId, bytes: &[u8], max_work: usize) -> Consumed {
        let mut input = bytes;
        let mut work = 0;
        let config = &self.core.config;
        let max_header_bytes = config.max_header_bytes.0;
        let limits = Limits { max_message_bytes: config.max_message_bytes.0, max_fragments: config.max_fragments };
        // Taken out, because messages lie in it while the core acts on them.
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
                // It may hear nothing after the answer to its close frame, so what it said comes first.
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
            let brought_about = (self.core.counters.frames_out - frames_out) as usize;
            work = (1 + brought_about).saturating_mul(FRAME_WORK + length).saturating_add(work);
            if work >= max_work {
                break;
            }
        }
        self.core.scratch = scratch;
        // Of a connection that has been given up, or is understood no more, the rest is nobody's.
        let left = self.core.slot(conn).map_or(0, |slot| if slot.wire.ignores_input() { 0 } else { input.len() });
        Consumed { bytes: bytes.len() - left, work }
    }

    fn on_head(&mut self, conn: ConnId, head: &[u8]) {
        let key = conn.index();
        let outcome = if let RecordMode::Replaying(_) = self.core.record_mode {
            self.decide_from_record(key)
        } else {
            let terms = Terms {
                conn,
                peer: self.core.slots[key].peer.address(),
                max_headers: self.core.config.max_headers,
                trusted_proxies: self.core.config.trusted_proxies,
                subprotocols: A::PROTOCOL.subprotocols(),
            };
            let read = handshake::read(head, &terms, |request, upgrade| self.decide_and_record(key, request, upgrade));
            read.unwrap_or_else(|refusal| {
                self.core.record_refused(&refusal);
                Err(refusal)
            })
        };
        if let Err(refusal) = outcome {
            self.core.close_with_http(key, CloseReason::HttpRefused, &refusal);
        }
    }

    /// Decides about a request that is well-formed. There is none in a replay, where the answers are known.
    fn decide(
        &mut self,
        key: usize,
        request: Option<&Request<'_>>,
        facts: Facts,
        decisions: &mut Decisions,
    ) -> Result<(), Refusal> {
        if let Some(health) = self.core.health_answer(&facts) {
            return Err(health);
        }
        if self.core.is_draining() {
            return Err(shutting_down());
        }
        let within_limit = self.core.charge_attempt(key, facts.address)?;
        // Only what is recorded may be missing. Then the replay ends here.
        let Some(destination) = self.ask_destination(request, decisions) else { return Ok(()) };
        let code = match destination {
            Destination::Nowhere => {
                return Err(Refusal::new(404, "there is nothing here; lobbies are at /ws/{lobby_code}"));
            }
            Destination::Lobby(code) => Ok(code),
            Destination::BadCode => Err(CloseReason::BadLobbyCode),
        };
        let upgrade = facts.upgrade?;
        // From here on a page can read why it may not come in.
        let origin = if facts.is_origin_allowed { Ok(()) } else { Err(CloseReason::ForbiddenOrigin) };
        let code = match within_limit.and(origin).and(code) {
            Ok(code) => code,
            Err(reason) => {
                if let Some(request) = request.filter(|_| reason == CloseReason::ForbiddenOrigin) {
                    self.core.log_refused_origin(request);
                }
                self.core.refuse(key, &upgrade, reason);
                return Ok(());
            }
        };
        match self.ask_authorization(request, decisions) {
            None => {}
            Some(Authorization::Pending { user }) => {
                self.core.wait_for_authorization(key, upgrade, &code, user.as_deref());
            }
            Some(answer) => {
                let identity = self.core.judge(answer, &code);
                self.core.grant(key, &upgrade, &code, identity);
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
        let kept = || match message {
            Message::Text(text) | Message::Json { text, .. } => QueuedMessage::Text(text.into()),
            Message::Binary(bytes) => QueuedMessage::Binary(bytes.into()),
        };
        if self.core.admit_message(key, None, kept) {
            // Only a JSON message can be answered with an error.
            let _ = self.deliver(&member, message);
        }
    }

    /// Tells lobbies and the application of all that has changed.
    fn flush_presence_and_events(&mut self) {
        // What the application says to what it is told may change lobbies again.
        while !self.core.unflushed_lobbies.is_empty() || !self.core.app_events.is_empty() {
            self.core.flush_all_presence();
            self.dispatch_events();
        }
    }

    // ---- ticks ----

    /// Runs what is due: for each tick what has been said since the last, and then the tick itself.
    fn run_ticks(&mut self) {
        let mut has_ticked = false;
        loop {
            if self.core.wants_flush {
                return;
            }
            if let Some((conn, said)) = self.core.inboxes.take_due() {
                let member = self.core.member(conn.index()).expect("an inbox is a member's");
                self.serve_queued(&member, &said);
            } else if let Some(tick) = self.core.ticks.as_mut().and_then(Ticks::take_under_way) {
                self.app.on_tick(&mut Context { core: &mut self.core }, &tick);
                has_ticked = true;
            } else if !self.core.begin_tick() {
                break;
            }
            self.dispatch_events();
        }
        // Told before it is written: who came and who left belongs to the tick.
        if has_ticked {
            self.flush_presence_and_events();
            self.core.uncork_all();
        }
    }

    /// Hands over what a member has said and nobody has heard, while it is still there.
    fn drain_inbox(&mut self, conn: ConnId) {
        while self.core.slot(conn).is_some_and(|slot| slot.seat().is_some())
            && let Some(said) = self.core.inboxes.take_of(conn)
        {
            let member = self.core.member(conn.index()).expect("it holds a seat");
            self.serve_queued(&member, &said);
            self.dispatch_events();
        }
    }

    /// Delivers the queued messages of all members that the next batch closes. The application may close some of them
    /// meanwhile, and then others take their places in the batch.
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

    /// Serves what was kept. Its sender may have left its seat.
    fn serve_queued(&mut self, from: &Member, said: &QueuedMessage) {
        match (A::PROTOCOL, said) {
            (Protocol::Json, QueuedMessage::Text(text)) => self.serve_queued_request(from, text),
            (Protocol::Raw, QueuedMessage::Text(text)) => drop(self.deliver(from, Message::Text(text))),
            (_, QueuedMessage::Binary(bytes)) => drop(self.deliver(from, Message::Binary(bytes))),
        }
    }

    /// Gives a message to the application. Returns how it refused it, if it did.
    fn deliver(&mut self, from: &Member, message: Message<'_>) -> Option<(Reject, Cow<'static, str>)> {
        let Engine { app, core } = self;
        // What was refused in another callback was no message.
        core.take_rejection();
        app.on_message(&mut Context { core }, from, message);
        core.take_rejection()
    }

    /// Tells the application what has happened, until it has nothing to answer to it.
    #[inline]
    fn dispatch_events(&mut self) {
        if !self.core.app_events.is_empty() {
            self.dispatch_all_events();
        }
    }

    fn dispatch_all_events(&mut self) {
        while let Some(event) = self.core.app_events.pop_front() {
            let Engine { app, core } = self;
            let cx = &mut Context { core };
            match event {
                AppEvent::Undelivered(member) => {
                    while let Some(said) = self.core.inboxes.take_of(member.conn) {
                        self.serve_queued(&member, &said);
                    }
                }
                AppEvent::Joined(member) => app.on_join(cx, &member),
                AppEvent::Rejoined(member) => app.on_rejoin(cx, &member),
                AppEvent::Left(member, why) => app.on_leave(cx, &member, why),
                AppEvent::Health(member, latency) => app.on_health(cx, &member, latency),
                AppEvent::Pressure(member, pressure) => app.on_pressure(cx, &member, pressure),
            }
        }
    }
}

impl Core {
    /// What is decided about a request before the application is asked.
    pub(super) fn facts(&self, request: &Request<'_>, upgrade: Result<Upgrade, Refusal>) -> Facts {
        Facts {
            probe: request.probe(),
            address: request.address(),
            is_origin_allowed: request.is_from_allowed_page(&self.config.allowed_origin),
            upgrade,
        }
    }

    /// The answer to a health check on the port of the members. An upgrade for the same path is the application's.
    ///
    /// Ready means that new members are taken; a full server is ready too, since it says itself why it takes none.
    fn health_answer(&self, facts: &Facts) -> Option<Refusal> {
        match facts.probe? {
            _ if facts.upgrade.is_ok() => None,
            Probe::Live => Some(Refusal::new(200, "live")),
            Probe::Ready if self.is_draining() => Some(Refusal::new(503, "draining")),
            Probe::Ready => Some(Refusal::new(200, "ready")),
        }
    }

    /// Grants the upgrade, and then the seat or the reason why there is none: a browser cannot read the status of a
    /// refused upgrade.
    fn grant(&mut self, key: usize, upgrade: &Upgrade, code: &str, decision: Result<Identity, CloseReason>) {
        // The application may have ended the connection while it was asked.
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

    /// Grants the upgrade, and says why there is no seat.
    fn refuse(&mut self, key: usize, upgrade: &Upgrade, reason: CloseReason) {
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

    /// Grants an upgrade that was held. Returns what the client sent meanwhile.
    pub(super) fn accept_held(&mut self, key: usize) -> Vec<u8> {
        let slot = &mut self.slots[key];
        slot.wire.held_upgrade().into_iter().for_each(|upgrade| self.record_mode.redact_echo(slot.id, upgrade));
        slot.wire.accept_held(&mut self.outboxes)
    }

    /// What the application's answer comes to in the lobby `code`.
    fn judge(&self, answer: Authorization, code: &str) -> Result<Identity, CloseReason> {
        match answer {
            Authorization::Refuse(reason) => Err(reason),
            // An id that breaks the rules is no id, and an identity for another lobby is none here. A journal may hold either.
            Authorization::Allow(identity)
                if !is_user_id(&identity.user) || identity.lobby.as_deref().is_some_and(|lobby| lobby != code) =>
            {
                Err(CloseReason::Unauthorized)
            }
            Authorization::Allow(identity) if identity.expires.is_some_and(|end| end <= self.unix_micros() / 1000) => {
                Err(CloseReason::TokenExpired)
            }
            Authorization::Allow(identity) => Ok(identity),
            Authorization::Pending { .. } => unreachable!("whoever waits is not judged"),
        }
    }

    fn wait_for_authorization(&mut self, key: usize, upgrade: Upgrade, code: &str, user: Option<&str>) {
        if self.slots[key].close_reason.is_some() {
            return;
        }
        // Without a name no seat can be held: whoever it turns out to be may have one already.
        let reserved = user.map(|user| self.directory.reserve(code, user, self.unix_micros())).transpose();
        match reserved {
            Ok(reservation) => {
                let slot = &mut self.slots[key];
                slot.wire.hold(upgrade);
                slot.state = ConnState::Pending(Some(Box::new(PendingAuth { code: code.into(), reservation })));
                self.set_step(key, self.config.auth_timeout);
            }
            Err(reason) => self.refuse(key, &upgrade, reason),
        }
    }
}

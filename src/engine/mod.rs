//! The engine: a deterministic state machine. Input is received bytes and time; output is bytes to send and sockets to
//! drop.
//!
//! It opens no socket, reads no clock, spawns no thread and takes no lock. A driver passes in what happened and ends the
//! turn: see [`Engine`].
//!
//! The parts of the state are in `state`, each with its own rules; `core` owns them. The behaviour is in the other
//! files, one topic each.

mod accepting;
mod admission;
mod admission_log;
mod announcing;
pub(crate) mod app;
mod asking;
mod broadcasting;
mod charging;
mod checking;
mod checkpoint;
pub(crate) mod cluster;
mod commands;
pub(crate) mod context;
pub(crate) mod control;
mod core;
mod decompressing;
mod dispatch;
mod draining;
pub(crate) mod driver;
mod entry;
mod event_streams;
mod facts;
mod feeding;
mod guessing;
mod input;
pub(crate) mod inspect;
mod keepalive;
mod lists;
pub(crate) mod member;
pub(crate) mod observer;
mod operating;
pub(crate) mod operator;
mod posts;
mod publishing;
pub(crate) mod recording;
mod replaying;
mod request_refs;
mod requests;
mod resuming;
mod seating;
mod segment_rotation;
mod sending;
mod sessions;
mod slow_consumer;
mod sorting;
pub(crate) mod state;
mod teardown;
mod ticking;
mod timing;
mod turn;
mod writing;

use std::time::Duration;

use self::app::App;
use self::context::Context;
use self::core::Core;
use self::driver::{Consumed, Full, Start};
use self::member::Authorization;
use self::observer::{Observed, ObservedEvent};
use self::recording::Input;
use self::state::drain::DrainTotals;
use self::state::measurements::Measurements;
use self::state::readiness::Readiness;
use self::state::stats::Stats;
use crate::base::id::ConnId;
use crate::base::peer::Peer;
use crate::base::time::Time;
use crate::config::CheckedConfig;

/// A complete lobby server without I/O, including its application.
///
/// Its methods come in three kinds: getters; `handle_*` methods, which report what happened; and the end of a turn. An
/// application gives its commands through [`Context`].
///
/// # Driving an engine
///
/// A driver owns the sockets and the clock. It repeats this turn; [`net::Server`](crate::net::Server) does it with mio,
/// and [`sim::Simulator`](crate::sim::Simulator) without sockets:
///
/// 1. Wait for events, at most until [`poll_timeout`](Engine::poll_timeout). Do not wait at all while sockets or buffers
///    have input that was not passed in or not consumed, or while
///    [`has_operator_reports`](Engine::has_operator_reports) returns true; and not longer than a second while
///    [`has_wall_deadlines`](Engine::has_wall_deadlines) does. Then read the clock, once: all calls of the turn get the
///    same time.
/// 2. Report what happened, in any order: [`handle_accept`](Engine::handle_accept) or
///    [`handle_shed`](Engine::handle_shed), [`handle_bytes_up_to`](Engine::handle_bytes_up_to),
///    [`handle_writable`](Engine::handle_writable), [`handle_hangup`](Engine::handle_hangup),
///    [`handle_wall_time`](Engine::handle_wall_time), commands and operators' requests; take the reports of operators'
///    commands with [`poll_operator`](Engine::poll_operator). If
///    [`wants_flush`](Engine::wants_flush) returns true between two reads, call [`flush`](Engine::flush) before the next
///    one.
/// 3. If [`has_due_timers`](Engine::has_due_timers) returns true, ask the system again which sockets have input, and name
///    those that are not read in this turn or whose input is not consumed, even if there are none:
///    [`handle_unread`](Engine::handle_unread).
/// 4. Call [`end_turn`](Engine::end_turn), which expires timers, runs ticks, writes to the sockets, names those to drop,
///    and completes the journal.
/// 5. Only now send answers that leave by another way, such as those to operators: what they follow from is in the
///    journal.
///
/// A program that acts between two turns calls [`flush`](Engine::flush) and
/// [`commit_journal`](Engine::commit_journal) before it waits.
///
/// ```
/// use std::io;
///
/// use lobbyd::apps::Echo;
/// use lobbyd::driver::{Flow, Start, Transport};
/// use lobbyd::{CloseReason, Config, ConnId, Engine, Time};
///
/// /// Keeps what the engine writes, for one connection.
/// #[derive(Default)]
/// struct Memory {
///     written: Vec<u8>,
/// }
///
/// impl Transport for Memory {
///     type Socket<'a> = &'a mut Vec<u8>;
///
///     fn socket(&mut self, _: ConnId) -> Option<&mut Vec<u8>> {
///         Some(&mut self.written)
///     }
///
///     fn wrote(&mut self, _: ConnId, _: &io::Result<Flow>) {}
///
///     fn closed(&mut self, _: ConnId, _: CloseReason) {}
/// }
///
/// let config = Config::default().check().unwrap();
/// let mut engine = Engine::new(config, Start { unix_micros: 0, seed: 1 }, Echo);
/// let conn = engine.handle_accept(Time::ZERO, "127.0.0.1:4000".parse().unwrap()).unwrap();
/// engine.handle_bytes(Time::ZERO, conn, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n");
///
/// let mut memory = Memory::default();
/// engine.end_turn(Time::ZERO, &mut memory).unwrap();
/// assert!(memory.written.starts_with(b"HTTP/1.1 426 Upgrade Required\r\n"));
/// ```
pub struct Engine<A> {
    app: A,
    core: Core,
}

impl<A: App> Engine<A> {
    /// Creates an engine without connections, at [`Time::ZERO`]. [`Config::check_for`](crate::Config::check_for) returns
    /// the configuration. [`Config::check`](crate::Config::check) is enough unless
    /// [`App::LOBBY_CONTROL`] is `On`.
    ///
    /// # Panics
    ///
    /// If the configuration was checked without lobby control, the application switches it on, and the configuration is
    /// invalid with it.
    pub fn new(config: CheckedConfig, start: Start, app: A) -> Engine<A> {
        Engine::as_recorded(config.fitted_to::<A>(), start, app)
    }

    /// Creates an engine that has lobby control if the configuration says so, whatever the application says.
    pub(crate) fn as_recorded(config: CheckedConfig, start: Start, app: A) -> Engine<A> {
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
    pub fn config(&self) -> &CheckedConfig {
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
    pub fn handle_accept(&mut self, now: Time, peer: Peer) -> Result<ConnId, Full> {
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
    #[inline]
    pub fn handle_bytes_up_to(&mut self, now: Time, conn: ConnId, bytes: &[u8], max_work: usize) -> Consumed {
        if self.core.conns.get(conn).is_some_and(|slot| slot.wire.receives_requests()) {
            return self.receive_in_pieces(now, conn, bytes, max_work);
        }
        self.enter_bytes(now, conn, bytes, max_work);
        self.receive(conn, bytes, max_work)
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
            self.core.handle_peer_end(conn.key());
            self.dispatch_events();
        }
    }

    /// Lists all connections that may have received bytes which the driver has not read yet. Valid until the next
    /// call.
    ///
    /// Due timers of these connections are deferred, because an unread message may be the answer that a timer waits
    /// for. They are deferred for at most [`max_deferred_turns`](crate::Config::max_deferred_turns) turns; the expiry of a
    /// token and `max_lifetime` are not deferred. A driver calls this before [`end_turn`](Self::end_turn) when
    /// [`has_due_timers`](Self::has_due_timers) returns true.
    pub fn handle_unread(&mut self, now: Time, conns: &[ConnId]) {
        if conns.is_empty() && self.core.timers.unread.is_empty() {
            return;
        }
        self.enter(now, &Input::Unread(conns));
        self.core.timers.unread.set(conns);
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

    /// Reports that a socket that was [`Blocked`](crate::driver::Flow::Blocked) accepts bytes again.
    pub fn handle_writable(&mut self, now: Time, conn: ConnId) {
        self.enter(now, &Input::Writable(conn));
        self.core.egress.handle_writable(conn);
    }

    /// Reports the answer to an authorization that was [`Pending`](Authorization::Pending).
    ///
    /// An answer that is still `Pending`, comes too late, or is for a connection that waits for none, is ignored.
    pub fn handle_authorized(&mut self, now: Time, conn: ConnId, answer: Authorization) {
        let answer = answer.checked(self.core.config.max_identity_bytes);
        self.enter(now, &Input::Authorized(conn, &answer));
        if let Some(early) = self.admit_pending(conn, answer) {
            self.process_bytes(conn, &early, usize::MAX);
        }
    }

    /// Reports that the driver dropped a new connection without [`handle_accept`](Self::handle_accept), because no file
    /// descriptor was free. For the next ten seconds the server is not [ready](Self::readiness).
    pub fn handle_shed(&mut self, now: Time) {
        self.enter(now, &Input::Shed);
        self.core.note_shed();
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
            self.core.observer.note(self.core.clock.now(), || ObservedEvent::Drain(deadline));
            self.app.on_drain(&mut Context { core: &mut self.core }, deadline);
            self.dispatch_events();
            // The messages of a member that has left are not relayed. So messages that wait for the next tick are
            // delivered before the members are closed.
            self.core.members_by_age().into_iter().for_each(|conn| self.drain_inbox(conn));
            self.core.end_away_for_drain();
            self.core.close_all_members();
            self.dispatch_events();
        }
    }

    /// Cuts off all remaining connections, without a close frame: for a second request to stop, or when a drain takes
    /// too long.
    pub fn handle_stop(&mut self, now: Time) {
        self.enter(now, &Input::Stop);
        self.core.begin_drain();
        self.core.drain.iter_mut().for_each(|drain| drain.is_cut_off = true);
        self.core.end_away_for_drain();
        self.core.abort_all("the server stops at once");
        self.dispatch_events();
    }

    // ---- the driver's tasks ----

    /// Whether a deadline depends on the wall clock, because a member's identity expires.
    ///
    /// If so, the driver reads the wall clock from time to time even if nothing happens: a monotonic timeout does not
    /// end earlier when the wall clock is set.
    pub fn has_wall_deadlines(&self) -> bool {
        !self.core.timers.expiries.is_empty()
    }

    /// Whether the next [`end_turn`](Self::end_turn) at `now` acts on timers of connections.
    ///
    /// If so, the driver first checks again which sockets have input, and passes those that it does not read now to
    /// [`handle_unread`](Self::handle_unread).
    pub fn has_due_timers(&self, now: Time) -> bool {
        self.core.next_timer().is_some_and(|at| at <= now)
    }

    /// Returns when to call [`end_turn`](Self::end_turn) next; `None` when nothing waits for time to pass.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.core.poll_timeout()
    }

    // ---- getters ----

    /// Whether so much output is queued for writable connections that the driver should write before it reads on.
    pub fn wants_flush(&self) -> bool {
        self.core.egress.wants_flush()
    }

    /// Returns the longest delay before the next read that keeps ticks on time; `None` if the next read must not be
    /// delayed.
    ///
    /// It is an eighth of the tick's period, at most 4 ms. `None` if that is shorter than 1 ms, or while output does
    /// not wait for ticks: see [`Config::flush`](crate::Config::flush).
    pub fn max_read_delay(&self) -> Option<Duration> {
        self.core.max_read_delay()
    }

    /// Returns the counters and the current state.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Returns what was measured for monitoring. It costs the same with any number of connections.
    pub fn measurements(&self) -> Measurements {
        self.core.measurements()
    }

    /// Whether all connections that [`handle_drain`](Self::handle_drain) waits for are closed. A node of a cluster also waits
    /// until the log says so, at most until the drain's deadline: then the others know at once.
    pub fn is_drained(&self) -> bool {
        self.core.is_drained()
    }

    /// Whether a drain has started. It stays true when the drain is over.
    pub fn is_draining(&self) -> bool {
        self.core.is_draining()
    }

    /// Returns whether new members are admitted, as `GET /health/ready` answers.
    ///
    /// ```
    /// use lobbyd::apps::Echo;
    /// use lobbyd::driver::{Readiness, Start};
    /// use lobbyd::{Config, Engine, Time};
    ///
    /// let config = Config::default().check().unwrap();
    /// let mut engine = Engine::new(config, Start { unix_micros: 0, seed: 1 }, Echo);
    /// assert_eq!(engine.readiness(), Readiness::Ready);
    /// engine.handle_shed(Time::ZERO);
    /// assert_eq!(engine.readiness(), Readiness::Shedding);
    /// ```
    pub fn readiness(&self) -> Readiness {
        self.core.readiness()
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
}

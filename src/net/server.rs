//! The server on real sockets, and its event loop. Knows no protocol: bytes and events go to the engine.

use std::time::Duration;
use std::{io, iter};

use log::{info, warn};
use mio::{Events, Poll, Token};

use super::checked_for::checked_for;
use super::clock::{Clock, os_seed};
use super::cluster::ClusterSocket;
use super::descriptors::warn_if_limit_is_low;
use super::error::Error;
use super::handle::Handle;
use super::hook::Events as ServerEvents;
use super::journal_files::Files;
use super::listen_socket::{GivenSockets, ListenSocket};
use super::listeners::Listeners;
use super::metrics::{LoopMetrics, ServerMetrics};
use super::operators::Operators;
use super::proxied::ProxiedSockets;
#[cfg(all(feature = "signals", unix))]
use super::signal::Signals;
use super::sockets::Sockets;
use super::stopping::Stopping;
#[cfg(target_os = "linux")]
use super::timerfd::TimerFd;
use super::tls::Tls;
use super::tokens;
use crate::base::time::Time;
use crate::config::{CheckedConfig, Config};
use crate::engine::Engine;
use crate::engine::app::{App, Context};
use crate::engine::driver::JournalError;
use crate::engine::state::drain::DrainTotals;
use crate::journal::{Recording, record};

/// Longest wait while members' identities expire. Neither a clock that is set nor a machine that resumes ends a wait.
const MAX_WALL_WAIT: Duration = Duration::from_secs(1);
/// Longest time that a drain waits for the requests of connections that were accepted before it.
const HANDSHAKES_BEFORE_DRAIN: Duration = Duration::from_millis(500);
/// Most events taken from one wait. This is many more than the sockets read in a turn, so that new connections are seen
/// even when thousands of sockets are ready at once.
const EVENTS: usize = 16_384;
/// Most additional polls in one turn before timers expire. Events of all sockets that a process may open fit in this
/// many.
const MAX_POLLS: usize = 64;

/// A lobby server on real sockets: an [`Engine`], and the sockets of its connections under the same keys.
///
/// See the [crate documentation](crate) for an example.
pub struct Server<A> {
    pub(super) engine: Engine<A>,
    clock: Clock,
    pub(super) poll: Poll,
    events: Events,
    pub(super) listeners: Listeners,
    /// Sockets of proxies whose header has not arrived yet.
    pub(super) proxied: ProxiedSockets,
    pub(super) sockets: Sockets,
    /// Receive buffer shared by all connections. Nothing stays in it between two reads.
    buffer: Box<[u8]>,
    stats_at: Time,
    pub(super) handle: Handle,
    #[cfg(all(feature = "signals", unix))]
    signals: Option<Signals>,
    pub(super) stopping: Stopping,
    /// When a drain begins for which connections without a seat are waited for.
    drain_at: Option<Time>,
    wants_reload: bool,
    pub(super) operators: Option<Operators>,
    pub(super) cluster: Option<ClusterSocket>,
    /// `None` without `admin` and without the hook.
    pub(super) server_events: Option<ServerEvents>,
    metrics: LoopMetrics,
    /// Wakes the loop with microsecond precision. Present only when ticks are on.
    #[cfg(target_os = "linux")]
    timerfd: Option<TimerFd>,
}

/// Whether the server continues to run.
///
/// [`Server::turn`] is shown in the example of the [crate documentation](crate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Call [`Server::turn`] again.
    Running,
    /// The server was stopped, and all connections are closed.
    Stopped(DrainTotals),
}

impl<A: App> Server<A> {
    /// Creates a server that listens on `config.listen`, with a random seed from the operating system. Logs a warning for each
    /// option [without effect](Config::without_effect), and for `lobby_control` if [`App::LOBBY_CONTROL`] does not use it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] with all problems, [`Error::Listen`], [`Error::Token`], [`Error::Certificate`], [`Error::Key`],
    /// [`Error::Hook`] or [`Error::Journal`].
    pub fn bind(config: Config, app: A) -> Result<Server<A>, Error> {
        Server::bind_checked(checked_for::<A>(config)?, app, None)
    }

    /// Creates a server with a configuration that is checked already, and with a seed, which determines the numbers
    /// from [`Context::random`](crate::Context::random). Without a seed, the operating system chooses one.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if [`App::LOBBY_CONTROL`] switches lobby control on and the configuration is invalid with it,
    /// [`Error::Listen`], [`Error::Token`], [`Error::Hook`] or [`Error::Journal`].
    pub fn bind_checked(config: CheckedConfig, app: A, seed: Option<u64>) -> Result<Server<A>, Error> {
        Server::bind_with_sockets(config, app, seed, Vec::new())
    }

    /// Creates a server as [`bind_checked`](Self::bind_checked) does, on sockets that already listen where their addresses
    /// are in `config.listen` or `config.admin`. A service manager or a parent process that keeps such a socket open loses
    /// no connection in a restart: when this server drains, it leaves new connections at these sockets to the next process,
    /// except for those of operators.
    ///
    /// # Errors
    ///
    /// As [`bind_checked`](Self::bind_checked), and [`Error::Listen`] for a socket whose address is not listed.
    pub fn bind_with_sockets(
        config: CheckedConfig,
        app: A,
        seed: Option<u64>,
        sockets: Vec<ListenSocket>,
    ) -> Result<Server<A>, Error> {
        let config = checked_for::<A>(config.into_config())?;
        let mut given = GivenSockets::new(sockets, iter::once(&config.listen).chain(&config.admin))?;
        let seed = seed.unwrap_or_else(os_seed);
        config.without_effect().iter().for_each(|problem| warn!("{problem}"));
        let receive_bytes = config.socket_receive_bytes.map(|bytes| bytes.0);
        let tls = Tls::open(&config)?;
        let mut listeners = Listeners::bind(&config.listen, config.listen_mode, receive_bytes, &mut given)?;
        let poll = Poll::new().map_err(Error::Poll)?;
        listeners.register(poll.registry(), tokens::LISTENERS).map_err(Error::Poll)?;
        let operators = Operators::bind(&config, poll.registry(), &mut given)?;
        let operator_listeners = operators.as_ref().map_or(0, |operators| operators.listeners().addresses().len());
        warn_if_limit_is_low(&config, listeners.addresses().len() + operator_listeners);
        let handle = Handle::new(poll.registry(), tokens::WAKER, config.max_commands).map_err(Error::Poll)?;
        #[cfg(target_os = "linux")]
        let timerfd = match config.tick_hz {
            Some(_) => Some(TimerFd::new(poll.registry(), tokens::TIMERFD).map_err(Error::Poll)?),
            None => None,
        };
        let (clock, start) = Clock::start(seed);
        info!("seed={seed}");
        let mut engine = Engine::new(config.clone(), start, app);
        let cluster = ClusterSocket::new::<A>(&config, seed)?;
        if cluster.is_some() {
            if A::IS_STATELESS {
                config.check_replicated().map_err(Error::Config)?;
            }
            engine.join_cluster();
        }
        let server_events = ServerEvents::new(&mut engine, &handle, os_seed() ^ start.unix_micros)?;
        if let Some(path) = &config.journal {
            let recorded = Files::open(path, &config).and_then(|files| record(&mut engine, start, files));
            recorded.map_err(|error| Error::Journal(path.clone(), error))?;
        }
        Ok(Server {
            buffer: vec![0; config.receive_buffer_bytes.0].into(),
            stats_at: Time::ZERO + config.stats_interval.unwrap_or(Duration::MAX),
            engine,
            clock,
            poll,
            events: Events::with_capacity(EVENTS),
            listeners,
            proxied: ProxiedSockets::new(&config),
            sockets: Sockets::new(tls),
            handle,
            #[cfg(all(feature = "signals", unix))]
            signals: None,
            stopping: Stopping::No,
            drain_at: None,
            wants_reload: false,
            operators,
            cluster,
            server_events,
            metrics: LoopMetrics::new(start.unix_micros),
            #[cfg(target_os = "linux")]
            timerfd,
        })
    }

    /// Installs signal handlers. The first SIGTERM or SIGINT drains the server, the second stops it at once. SIGHUP
    /// requests a [`reload`](Self::take_reload), which [`run`](Self::run) ignores. Needs the cargo feature `signals`. On
    /// Unix only.
    ///
    /// # Errors
    ///
    /// [`Error::Poll`], when the operating system cannot set up the pipes or the handlers.
    #[cfg(all(feature = "signals", unix))]
    pub fn listen_to_signals(&mut self) -> Result<(), Error> {
        let signals = Signals::listen(self.poll.registry(), tokens::STOP, tokens::RELOAD);
        self.signals = Some(signals.map_err(Error::Poll)?);
        Ok(())
    }

    /// Returns a handle with which other threads stop the server or send commands to the application.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns the engine, which gives access to the application and the statistics.
    pub fn engine(&self) -> &Engine<A> {
        &self.engine
    }

    /// Returns the engine, to be changed between turns. Use [`act`](Self::act) to send to members, or [`Handle::send`]
    /// when the session is recorded.
    ///
    /// ```
    /// use lobbyd::net::Server;
    /// use lobbyd::{App, Authorization, Config, Context, Member, Message, Protocol, Request};
    ///
    /// #[derive(Default)]
    /// struct Game {
    ///     round: u32,
    /// }
    ///
    /// impl App for Game {
    ///     const PROTOCOL: Protocol = Protocol::Raw;
    ///     fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
    ///         Authorization::token_is_user(request)
    ///     }
    ///     fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
    /// }
    ///
    /// # fn main() -> Result<(), lobbyd::net::Error> {
    /// let config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
    /// let mut server = Server::bind(config, Game::default())?;
    /// server.engine_mut().app_mut().round += 1;
    /// assert_eq!(server.engine().app().round, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn engine_mut(&mut self) -> &mut Engine<A> {
        &mut self.engine
    }

    /// Runs a closure on the application between turns. Frames that it sends go out in the next turn.
    ///
    /// A closure cannot be recorded. The journal of a recorded session only notes the call, and a replay ends there. A
    /// game that must be replayable sends itself a command instead, through [`Engine::handle_command`] or
    /// [`Handle::send`].
    pub fn act<R>(&mut self, act: impl FnOnce(&mut A, &mut Context<'_>) -> R) -> R {
        self.engine.act(self.clock.now(), act)
    }

    /// Returns the current state and the counters as one log line, with the cost of the journal if there is one.
    pub fn stats_line(&self) -> String {
        let line = self.engine.stats().line();
        match self.engine.recording() {
            Some(Recording { bytes, writes, micros, slowest_micros, has_failed, .. }) => format!(
                "{line} journal_bytes={bytes} journal_writes={writes} journal_ms={} journal_slowest_us={slowest_micros}{}",
                micros / 1000,
                if has_failed { " journal_failed" } else { "" }
            ),
            None => line,
        }
    }

    /// Returns whether SIGHUP has arrived since the last call. The program then reads the application's start-up file
    /// again and passes it to [`reload`](Self::reload), and calls [`reload_admin_token`](Self::reload_admin_token),
    /// [`reload_certificate`](Self::reload_certificate) and [`reload_hook`](Self::reload_hook).
    pub fn take_reload(&mut self) -> bool {
        std::mem::take(&mut self.wants_reload)
    }

    /// Passes new contents of its start-up file to the application: see [`App::on_reload`].
    pub fn reload(&mut self, contents: &[u8]) {
        self.engine.handle_reload(self.clock.now(), contents);
    }

    /// Runs until the server is stopped. Returns the totals of the drain.
    ///
    /// # Errors
    ///
    /// As [`turn`](Self::turn).
    pub fn run(&mut self) -> Result<DrainTotals, Error> {
        loop {
            if let Status::Stopped(totals) = self.turn(None)? {
                return Ok(totals);
            }
        }
    }

    /// Runs one turn of the event loop, for a program with a loop of its own. Waits at most `max_wait` for events.
    ///
    /// # Errors
    ///
    /// [`Error::Poll`] when waiting fails. [`Error::Journal`] when the journal cannot be written and `journal_on_error`
    /// is `stop`; then everything that was sent is recorded.
    pub fn turn(&mut self, max_wait: Option<Duration>) -> Result<Status, Error> {
        // For what was sent between two turns.
        let flushed = self.engine.flush(&mut self.sockets).and_then(|()| self.engine.commit_journal());
        flushed.map_err(|error| self.journal_error(error))?;
        let wait = self.wait(max_wait).map_err(Error::Poll)?;
        let wait = self.delay_read(wait);
        self.poll_events(wait)?;
        let now = self.clock.now();
        self.metrics.begin_turn(now);
        if let Some(unix_micros) = self.clock.moved_wall_time(now) {
            self.engine.handle_wall_time(now, unix_micros);
        }
        let had_unread = self.sockets.have_unread();
        self.handle_events(now);
        // A listener's event may be queued behind the events of thousands of sockets, so accept() is tried without it.
        if had_unread {
            self.listeners.try_all(now);
        }
        // An operator may have asked for it.
        if self.engine.is_draining() {
            self.listeners.pause_given();
        }
        self.accept(now);
        if let Some(cluster) = &mut self.cluster {
            cluster.read(now, &mut self.engine, self.poll.registry(), &mut self.buffer);
        }
        let read = self.sockets.read_ready(now, &mut self.engine, &mut self.buffer);
        read.map_err(|error| self.journal_error(error))?;
        self.poll_before_timers(now)?;
        if let Some(operators) = &mut self.operators {
            let tls = &mut self.sockets.tls;
            operators.read(now, self.poll.registry(), &mut self.buffer, tls);
            let (of_proxied, of_tls, of_events) = (&self.proxied, &*tls, self.server_events.as_ref());
            let metrics = ServerMetrics { of_loop: &mut self.metrics, of_proxied, of_tls, of_events };
            operators.work(now, &mut self.engine, metrics);
        }
        self.engine.end_turn(now, &mut self.sockets).map_err(|error| self.journal_error(error))?;
        if let Some(events) = &mut self.server_events {
            events.end_turn(now, &mut self.engine);
        }
        // Answers to operators go out only after their commands are recorded.
        if let Some(operators) = &mut self.operators {
            operators.write(now, self.server_events.as_ref(), &mut self.sockets.tls);
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.write(now, &mut self.engine, self.poll.registry());
        }
        if now >= self.stats_at {
            self.stats_at = now + self.engine.config().stats_interval.unwrap_or(Duration::MAX);
            info!("{}", self.stats_line());
        }
        // Without `max_wait` the program waits nowhere else, so the next wait ends the turn. Otherwise the program may do
        // anything before it calls again.
        if max_wait.is_some() {
            self.metrics.end_turn(self.clock.now());
        }
        self.status(now)
    }

    /// Waits for events. A signal ends the wait with none.
    fn poll_events(&mut self, wait: Option<Duration>) -> Result<(), Error> {
        match self.poll.poll(&mut self.events, wait) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            Err(error) => Err(Error::Poll(error)),
        }
    }

    /// If timers are due, polls for further events, and passes the connections that may have unread input to the
    /// engine.
    ///
    /// The first wait misses events when the process was stopped or suspended after it, when a signal ended it, or when
    /// it returned its full number of events. A pong or a request that is already in the kernel must not count as late
    /// because of that.
    fn poll_before_timers(&mut self, now: Time) -> Result<(), Error> {
        let operators_are_due = self.operators.as_ref().is_some_and(|operators| operators.has_due_timers(now));
        if !self.engine.has_due_timers(now) && !operators_are_due {
            return Ok(());
        }
        for _ in 0..MAX_POLLS {
            self.poll_events(Some(Duration::ZERO))?;
            let count = self.handle_events(now);
            if count < EVENTS {
                break;
            }
        }
        self.engine.handle_unread(now, self.sockets.unread());
        Ok(())
    }

    /// Sleeps for the engine's `max_read_delay`, if it has one, so that input is read in batches. With `flush` at the
    /// tick, output waits for the tick anyway, so a later read delays no output. Most of the cost of a single message
    /// is waking up for it. Returns the rest of `wait`.
    fn delay_read(&self, wait: Option<Duration>) -> Option<Duration> {
        let Some(rest) = self.engine.max_read_delay().map(|rest| wait.map_or(rest, |wait| wait.min(rest))) else {
            return wait;
        };
        #[expect(clippy::disallowed_methods, reason = "events of sockets must not end this wait")]
        std::thread::sleep(rest);
        wait.map(|wait| wait - rest)
    }

    /// Returns the longest time to wait for events; `None` when it is unlimited.
    fn wait(&mut self, max_wait: Option<Duration>) -> io::Result<Option<Duration>> {
        if self.sockets.have_unread() {
            return Ok(Some(Duration::ZERO));
        }
        let stats_at = Some(self.stats_at).filter(|&at| at != Time::NEVER);
        let operators = self.operators.as_ref().and_then(Operators::poll_timeout);
        // The report of a ping that ended with this turn is handed over in the next one.
        let report = (self.operators.is_some() && self.engine.has_operator_reports()).then_some(Time::ZERO);
        let drain_at = self.drain_at.filter(|_| !self.engine.is_draining());
        let drain_at = drain_at.map(|at| if self.has_handshakes() { at } else { Time::ZERO });
        let cluster = self.cluster.as_ref().and_then(ClusterSocket::poll_timeout);
        let events = self.server_events.as_ref().and_then(ServerEvents::poll_timeout);
        let of_sockets = [self.listeners.poll_timeout(), self.proxied.poll_timeout(), operators, report, cluster];
        let others = [self.engine.poll_timeout(), stats_at, drain_at, events];
        let next = of_sockets.into_iter().chain(others).flatten().min();
        let now = self.clock.now();
        self.metrics.end_turn(now);
        #[cfg(target_os = "linux")]
        if let (Some(timerfd), Some(next)) = (&mut self.timerfd, next) {
            timerfd.set(now, next)?;
        }
        let wall_wait = self.engine.has_wall_deadlines().then_some(MAX_WALL_WAIT);
        Ok(next.map(|next| next - now).into_iter().chain(max_wait).chain(wall_wait).min())
    }

    /// Handles the events of the last wait: marks ready sockets and takes commands and signals. Returns the number of
    /// events.
    fn handle_events(&mut self, now: Time) -> usize {
        let (mut woken, mut count) = (false, 0);
        for event in &self.events {
            count += 1;
            match event.token() {
                tokens::WAKER => woken = true,
                tokens::CLUSTER => self.cluster.iter_mut().for_each(|cluster| cluster.handle_event(event)),
                // The timer only wakes the loop.
                #[cfg(target_os = "linux")]
                tokens::TIMERFD => {}
                #[cfg(all(feature = "signals", unix))]
                tokens::RELOAD => self.wants_reload |= self.signals.as_mut().is_some_and(Signals::take_reload),
                #[cfg(all(feature = "signals", unix))]
                tokens::STOP => {
                    let signals = self.signals.as_mut().map_or(0, Signals::take_stops);
                    (0..signals).for_each(|_| self.stopping.advance());
                }
                token @ Token(tokens::FIRST_ADMIN..) => {
                    if let Some(index) = tokens::LISTENERS.index(token) {
                        self.listeners.handle_ready(now, index);
                    } else if let Some(operators) = &mut self.operators {
                        match tokens::ADMIN_LISTENERS.index(token) {
                            Some(index) => operators.handle_listener_ready(now, index),
                            None => operators.handle_socket_ready(event),
                        }
                    }
                }
                Token(tokens::FIRST_AWAITING_HEADER..) => self.proxied.handle_event(event),
                Token(_) => self.sockets.handle_event(now, &mut self.engine, event),
            }
        }
        if woken {
            self.carry_out_commands(now);
        }
        if self.stopping == Stopping::Draining {
            self.begin_drain(now);
        }
        count
    }

    /// Drains, at once or, if sockets outlast this process, after the connections that have been accepted are served: the
    /// next process serves only those that it accepts itself.
    fn begin_drain(&mut self, now: Time) {
        let wait = if self.listeners.pause_given() { HANDSHAKES_BEFORE_DRAIN } else { Duration::ZERO };
        let drain_at = *self.drain_at.get_or_insert(now + wait);
        if drain_at <= now || !self.has_handshakes() {
            self.drain_at = Some(now);
            self.engine.handle_drain(now);
        }
    }

    fn journal_error(&self, JournalError(error): JournalError) -> Error {
        let path = self.engine.config().journal.clone();
        Error::Journal(path.expect("a recorded session has a journal path"), error)
    }

    fn status(&mut self, now: Time) -> Result<Status, Error> {
        if self.stopping == Stopping::AtOnce {
            self.engine.handle_stop(now);
            let flushed = self.engine.flush(&mut self.sockets).and_then(|()| self.engine.commit_journal());
            flushed.map_err(|error| self.journal_error(error))?;
        }
        Ok(match self.engine.drain_totals() {
            Some(totals) if self.engine.is_drained() && self.has_left_cluster(now) && self.has_told_hook(now) => {
                Status::Stopped(totals)
            }
            _ => Status::Running,
        })
    }
}

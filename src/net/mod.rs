//! The mio driver: sockets, the clock and the loop. The only place that does I/O.
//!
//! One turn: wait; read the clock once; accept; read the ready sockets, as far as the turn's budget of work goes; if timers
//! are due, look for input once more and name the connections whose input is not read; expire timers; write what is queued,
//! one vectored write for each connection; drop what has ended.

mod clock;
mod files;
mod handle;
mod journal;
mod listener;
mod operators;
mod read_scheduler;
#[cfg(all(feature = "bin", unix))]
mod signal;
#[cfg(target_os = "linux")]
mod timerfd;

use std::fmt;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use log::{debug, info, warn};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use self::clock::Clock;
pub use self::files::read_file;
use self::handle::Command;
pub use self::handle::{Busy, Handle};
use self::journal::Files;
pub use self::journal::open_journal;
use self::listener::{Accepted, Listener};
use self::operators::Operators;
use self::read_scheduler::{Budget, ReadBacklog, ReadClass, ReadScheduler};
use crate::config::{Config, Problem};
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::drain::DrainTotals;
use crate::engine::operator::OperatorCommand;
use crate::id::ConnId;
use crate::journal::{Recording, record};
use crate::time::Time;
use crate::wire::outbox::Flow;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
#[cfg(all(feature = "bin", unix))]
const STOP: Token = Token(usize::MAX - 2);
#[cfg(all(feature = "bin", unix))]
const RELOAD: Token = Token(usize::MAX - 3);
#[cfg(target_os = "linux")]
const TIMERFD: Token = Token(usize::MAX - 5);

/// How long to wait before accepting again when the system is short of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait while members' tokens expire. A clock that is set, or a machine that wakes up, ends no wait by itself.
const WALL_LOOK: Duration = Duration::from_secs(1);
/// Events taken from one wait: many more than sockets are read in a turn, so that when thousands are ready at once
/// newcomers are seen among them.
const EVENTS: usize = 16_384;
/// How often one turn looks for more events before timers expire. All sockets a process may have fit in this many waits.
const MAX_LOOKS: usize = 64;

/// What a read costs beside its bytes: a system call takes about the time in which so many are copied.
const READ_WORK: usize = 4096;

/// A lobby server on a real socket: an [`Engine`], and the sockets of its connections under the same keys.
///
/// See the [crate's first page](crate) for an example.
pub struct Server<A> {
    engine: Engine<A>,
    clock: Clock,
    poll: Poll,
    events: Events,
    listener: Listener,
    /// By [`ConnId::index`].
    sockets: Vec<Option<MemberSocket>>,
    ready: ReadScheduler,
    /// Scratch list of the connections in `ready`.
    unread: Vec<ConnId>,
    /// Shared by all connections; nothing stays in it between two reads.
    buffer: Box<[u8]>,
    /// When to accept next, if there may be something to accept.
    accept_at: Option<Time>,
    stats_at: Time,
    handle: Handle,
    #[cfg(all(feature = "bin", unix))]
    signals: Option<signal::Signals>,
    stopping: Stopping,
    wants_reload: bool,
    operators: Option<Operators>,
    /// Wakes the loop to the microsecond, when ticks need that.
    #[cfg(target_os = "linux")]
    timerfd: Option<timerfd::TimerFd>,
}

struct MemberSocket {
    id: ConnId,
    stream: TcpStream,
    /// Whether it stands in `ready`.
    is_ready: bool,
    class: ReadClass,
    /// Whether there is, or may be, something to read beside what is backlog.
    is_readable: bool,
    /// Of those who say more than their share, which are few.
    backlog: Option<Box<ReadBacklog>>,
    /// Whether the peer's end was reported closed: read on to the end, there is no second event.
    read_closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    Draining,
    AtOnce,
}

/// Whether the server goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Call [`Server::turn`] again.
    Running,
    /// It was stopped, and everybody has gone.
    Stopped(DrainTotals),
}

/// Why a server could not start, or not go on.
#[derive(Debug)]
pub enum Error {
    /// The configuration contradicts itself.
    Config(Vec<Problem>),
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The operators' token cannot be had from its file.
    Token(PathBuf, String),
    /// The journal cannot be begun, or not gone on with.
    Journal(PathBuf, io::Error),
    /// Waiting for events failed.
    Poll(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(problems) => {
                f.write_str("invalid configuration")?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
            Error::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: address in use; is another lobbyd running?")
            }
            Error::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Error::Token(path, why) => write!(f, "admin_token_file = {}: {why}", path.display()),
            Error::Journal(path, error) => write!(f, "journal = {}: {error}", path.display()),
            Error::Poll(error) => write!(f, "cannot wait for events: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Config(_) | Error::Token(..) => None,
            Error::Listen(_, error) | Error::Journal(_, error) | Error::Poll(error) => Some(error),
        }
    }
}

impl<A: App> Server<A> {
    /// A server that listens on `config.listen`, with a seed of its own.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] with all problems, [`Error::Listen`], [`Error::Token`] or [`Error::Journal`].
    pub fn bind(config: Config, app: A) -> Result<Server<A>, Error> {
        Server::bind_seeded(config, app, os_seed())
    }

    /// The same, with a seed from outside: what [`Context::random`](crate::Context::random) draws follows from it.
    ///
    /// # Errors
    ///
    /// As [`bind`](Server::bind).
    pub fn bind_seeded(config: Config, app: A, seed: u64) -> Result<Server<A>, Error> {
        config.check().map_err(Error::Config)?;
        config.without_effect().iter().for_each(|problem| warn!("{problem}"));
        let receive_bytes = config.socket_receive_bytes.map(|bytes| bytes.0);
        let mut listener =
            Listener::bind(config.listen, receive_bytes).map_err(|error| Error::Listen(config.listen, error))?;
        let poll = Poll::new().map_err(Error::Poll)?;
        listener.register(poll.registry(), LISTENER).map_err(Error::Poll)?;
        let operators = Operators::bind(&config, poll.registry())?;
        let handle = Handle::new(poll.registry(), WAKER, config.max_commands).map_err(Error::Poll)?;
        #[cfg(target_os = "linux")]
        let timerfd = match config.tick_hz {
            Some(_) => Some(timerfd::TimerFd::new(poll.registry(), TIMERFD).map_err(Error::Poll)?),
            None => None,
        };
        let (clock, start) = Clock::start(seed);
        info!("seed={seed}");
        let mut engine = Engine::new(config.clone(), start, app);
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
            listener,
            sockets: Vec::new(),
            ready: ReadScheduler::default(),
            unread: Vec::new(),
            accept_at: None,
            handle,
            #[cfg(all(feature = "bin", unix))]
            signals: None,
            stopping: Stopping::No,
            wants_reload: false,
            operators,
            #[cfg(target_os = "linux")]
            timerfd,
        })
    }

    /// Stops in good order on SIGTERM and SIGINT, and at once on a second one; SIGHUP asks for a
    /// [`reload`](Self::take_reload).
    ///
    /// # Errors
    ///
    /// When the signals' pipe cannot be set up.
    #[cfg(all(feature = "bin", unix))]
    pub fn listen_to_signals(&mut self) -> io::Result<()> {
        self.signals = Some(signal::Signals::listen(self.poll.registry(), STOP, RELOAD)?);
        Ok(())
    }

    /// The address it listens on.
    ///
    /// # Errors
    ///
    /// When the operating system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The address it answers operators on; `None` when `admin` is off.
    ///
    /// # Errors
    ///
    /// When the operating system does not say.
    pub fn admin_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.operators.as_ref().map(Operators::local_addr).transpose()
    }

    /// For other threads: to stop the server, and to send the application commands.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The engine, and with it the application and the statistics.
    pub fn engine(&self) -> &Engine<A> {
        &self.engine
    }

    /// The engine, to act between turns. Use [`act`](Self::act) for what must reach members, or [`Handle::send`] when the
    /// session is recorded.
    pub fn engine_mut(&mut self) -> &mut Engine<A> {
        &mut self.engine
    }

    /// Lets the application's owner act between turns: what it sends goes out in the next turn.
    ///
    /// A closure is no data. Where the session is recorded, the journal notes that there was one, and a replay ends there:
    /// a game that wants to be replayed sends itself a command, through [`Engine::handle_command`] or [`Handle::send`].
    pub fn act<R>(&mut self, act: impl FnOnce(&mut A, &mut crate::Context<'_>) -> R) -> R {
        self.engine.act(self.clock.now(), act)
    }

    /// What there is and what has happened, in one line for a log; with what the journal has cost, if there is one.
    pub fn stats_line(&self) -> String {
        let line = self.engine.stats().line();
        match self.engine.recording() {
            Some(Recording { bytes, writes, micros, slowest_micros, has_failed }) => format!(
                "{line} journal_bytes={bytes} journal_writes={writes} journal_ms={} journal_slowest_us={slowest_micros}{}",
                micros / 1000,
                if has_failed { " journal_failed" } else { "" }
            ),
            None => line,
        }
    }

    /// Whether SIGHUP has asked, since the last call, to read again what the application was started with; the answer is
    /// [`reload`](Self::reload).
    pub fn take_reload(&mut self) -> bool {
        std::mem::take(&mut self.wants_reload)
    }

    /// Hands the application what it was started with, read again: see [`App::on_reload`].
    pub fn reload(&mut self, contents: &[u8]) {
        self.engine.handle_reload(self.clock.now(), contents);
    }

    /// Runs until it is stopped. Returns what came of saying goodbye to everybody.
    ///
    /// # Errors
    ///
    /// [`Error::Poll`].
    pub fn run(&mut self) -> Result<DrainTotals, Error> {
        loop {
            if let Status::Stopped(totals) = self.turn(None)? {
                return Ok(totals);
            }
        }
    }

    /// One turn of the loop, for a program that has a loop of its own. Waits at most `max_wait` for something to happen.
    ///
    /// # Errors
    ///
    /// [`Error::Poll`]; and [`Error::Journal`] when it cannot be written and `journal_on_error` is `stop`. Nothing has gone
    /// out then that is not recorded.
    pub fn turn(&mut self, max_wait: Option<Duration>) -> Result<Status, Error> {
        self.write_all();
        self.keep_journal()?;
        let wait = self.wait(max_wait).map_err(Error::Poll)?;
        let wait = self.delay_read(wait);
        self.poll_events(wait)?;
        let now = self.clock.now();
        if let Some(unix_micros) = self.clock.moved_wall_time(now) {
            self.engine.handle_wall_time(now, unix_micros);
        }
        let was_behind = !self.ready.is_empty();
        self.sort_events(now);
        // The listener's own event may stand behind those of thousands of sockets.
        if self.accept_at.map_or(was_behind, |at| at <= now) {
            self.accept(now);
        }
        self.read_ready(now);
        self.look_before_timers(now)?;
        if let Some(operators) = &mut self.operators {
            operators.read(now, self.poll.registry(), &mut self.buffer);
        }
        self.engine.handle_timeout(now);
        // A tick with much to say goes on once everybody has been written to.
        while self.engine.wants_flush() {
            self.write_all();
            self.engine.handle_timeout(now);
        }
        if let Some(operators) = &mut self.operators {
            operators.work(now, &mut self.engine);
        }
        self.write_all();
        // An operator is told of nothing that is not recorded.
        self.keep_journal()?;
        if let Some(operators) = &mut self.operators {
            operators.write(now);
        }
        if now >= self.stats_at {
            self.stats_at = now + self.engine.config().stats_interval.unwrap_or(Duration::MAX);
            info!("{}", self.stats_line());
        }
        Ok(self.status(now))
    }

    /// Waits for events. A signal ends the wait without any.
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

    /// Before timers expire: takes all events that are there, and names the connections that may have unread input.
    ///
    /// The first wait does not show all of them when the process was stopped or suspended after it, when a signal ended it,
    /// or when it returned as many events as it may. A pong or a request that lies in the kernel must not come too late
    /// because of that.
    fn look_before_timers(&mut self, now: Time) -> Result<(), Error> {
        let operators_are_due = self.operators.as_ref().is_some_and(|operators| operators.has_due_timers(now));
        if !self.engine.has_due_timers(now) && !operators_are_due {
            return Ok(());
        }
        for _ in 0..MAX_LOOKS {
            self.poll_events(Some(Duration::ZERO))?;
            let count = self.sort_events(now);
            if count < EVENTS {
                break;
            }
        }
        self.unread.clear();
        self.unread.extend(self.ready.ids());
        self.engine.handle_unread(now, &self.unread);
        Ok(())
    }

    /// While everybody is told everything at the tick, what arrives within a moment is read together: most of what a single
    /// message costs then is waking up for it. Returns what is left of `wait`.
    fn delay_read(&self, wait: Option<Duration>) -> Option<Duration> {
        let Some(rest) = self.engine.max_read_delay().map(|rest| wait.map_or(rest, |wait| wait.min(rest))) else {
            return wait;
        };
        #[expect(clippy::disallowed_methods, reason = "the one wait that sockets must not end")]
        std::thread::sleep(rest);
        wait.map(|wait| wait - rest)
    }

    fn wait(&mut self, max_wait: Option<Duration>) -> io::Result<Option<Duration>> {
        if !self.ready.is_empty() {
            return Ok(Some(Duration::ZERO));
        }
        let stats_at = Some(self.stats_at).filter(|&at| at != Time::NEVER);
        let operators = self.operators.as_ref().and_then(Operators::poll_timeout);
        let next = [self.engine.poll_timeout(), self.accept_at, stats_at, operators].into_iter().flatten().min();
        let now = self.clock.now();
        #[cfg(target_os = "linux")]
        if let (Some(timerfd), Some(next)) = (&mut self.timerfd, next) {
            timerfd.set(now, next)?;
        }
        let wall_look = self.engine.has_wall_deadlines().then_some(WALL_LOOK);
        Ok(next.map(|next| next - now).into_iter().chain(max_wait).chain(wall_look).min())
    }

    /// Notes what the events of the last wait say. Returns how many there were.
    fn sort_events(&mut self, now: Time) -> usize {
        let (mut woken, mut count) = (false, 0);
        for event in &self.events {
            count += 1;
            match event.token() {
                LISTENER => self.accept_at = Some(now),
                WAKER => woken = true,
                // That it wakes the loop is all it does.
                #[cfg(target_os = "linux")]
                TIMERFD => {}
                #[cfg(all(feature = "bin", unix))]
                RELOAD => self.wants_reload |= self.signals.as_mut().is_some_and(signal::Signals::take_reload),
                #[cfg(all(feature = "bin", unix))]
                STOP => {
                    let signals = self.signals.as_mut().map_or(0, signal::Signals::take_stops);
                    (0..signals).for_each(|_| self.stopping = self.stopping.next());
                }
                operators::LISTENER => {
                    self.operators.iter_mut().for_each(|operators| operators.listener_is_ready(now));
                }
                Token(operators::FIRST..) => {
                    self.operators.iter_mut().for_each(|operators| operators.socket_is_ready(event));
                }
                Token(index) => {
                    let Some(socket) = self.sockets.get_mut(index).and_then(Option::as_mut) else { continue };
                    if event.is_writable() {
                        self.engine.handle_writable(now, socket.id);
                    }
                    socket.read_closed |= event.is_read_closed() || event.is_error();
                    socket.is_readable |= event.is_readable() || socket.read_closed;
                    if socket.is_readable && !socket.is_ready {
                        socket.is_ready = true;
                        self.ready.push(socket.id, socket.class);
                    }
                }
            }
        }
        if woken {
            for command in self.handle.take() {
                match command {
                    Command::Stop => self.stopping = self.stopping.next(),
                    Command::App(command) => self.engine.handle_command(now, &command),
                    Command::Authorized(conn, answer) => self.engine.handle_authorized(now, conn, answer),
                    Command::Clock(command) => {
                        if let Err(why) = self.engine.handle_operator(now, OperatorCommand::Clock(command)) {
                            warn!("the clock was not set, {command:?}: {why:?}");
                        }
                    }
                }
            }
        }
        if self.stopping == Stopping::Draining {
            self.engine.handle_drain(now);
        }
        count
    }

    fn accept(&mut self, now: Time) {
        // The budget may end before the backlog: then go on in the next turn, there is no second event.
        self.accept_at = Some(now);
        for _ in 0..self.engine.config().accept_per_turn {
            match self.listener.accept() {
                Accepted::Connection(stream, peer) => self.adopt(now, stream, peer),
                Accepted::Shed => self.engine.note_shed(),
                Accepted::Aborted => {}
                Accepted::Empty => {
                    self.accept_at = None;
                    return;
                }
                Accepted::Later => {
                    self.accept_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn adopt(&mut self, now: Time, mut stream: TcpStream, peer: SocketAddr) {
        let Ok(id) = self.engine.handle_accept(now, peer) else { return };
        let token = Token(id.index());
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, token, interest) {
            debug!("conn={id} peer={peer} cannot be polled: {error}");
            return self.engine.handle_hangup(now, id);
        }
        if id.index() >= self.sockets.len() {
            self.sockets.resize_with(id.index() + 1, || None);
        }
        self.sockets[id.index()] = Some(MemberSocket {
            id,
            stream,
            is_ready: false,
            class: ReadClass::New,
            is_readable: false,
            backlog: None,
            read_closed: false,
        });
    }

    /// Reads the ready sockets, as far as the turn's budget goes; what is left over waits for the next turn.
    fn read_ready(&mut self, now: Time) {
        let config = self.engine.config();
        let (share, request) = (config.work_per_receive.0, config.max_header_bytes.0);
        let budget =
            Budget { new: config.accept_per_turn, others: config.events_per_turn, work: config.work_per_turn.0 };
        let mut turn = self.ready.begin_turn(budget);
        while let Some((id, class)) = self.ready.next(&mut turn) {
            // Of a newcomer only its request is read, and no more than that may take: what follows it waits like the rest.
            let (max_bytes, max_work) = match class {
                ReadClass::New => (request.min(self.buffer.len()), 0),
                ReadClass::Light | ReadClass::Unclassified | ReadClass::Heavy => (self.buffer.len(), share),
            };
            let work = self.receive(now, id, max_bytes, max_work);
            self.ready.spend(class, work);
            // Many who speak in one turn must not fill the outbox of somebody who reads: nobody has asked its socket yet.
            if self.engine.wants_flush() {
                self.write_all();
            }
        }
    }

    /// Gives a connection its share: of what is kept for it, or of what a single read brings. Returns the work that was.
    fn receive(&mut self, now: Time, id: ConnId, max_bytes: usize, max_work: usize) -> usize {
        let socket = self.sockets.get_mut(id.index()).and_then(Option::as_mut);
        let Some(socket) = socket.filter(|socket| socket.id == id) else { return 0 };
        socket.is_ready = false;
        let (mut work, mut said) = (READ_WORK, 0);
        if let Some(backlog) = &mut socket.backlog {
            let taken = self.engine.handle_bytes_up_to(now, id, backlog.bytes(), max_work);
            if backlog.take(taken.bytes) {
                socket.backlog = None;
            }
            said = taken.work;
            work = said;
        } else {
            match socket.stream.read(&mut self.buffer[..max_bytes]) {
                Ok(0) => {
                    self.engine.handle_hangup(now, id);
                    return work;
                }
                Ok(n) => {
                    // A read that does not fill the buffer has taken all there was; elsewhere that is not certain.
                    socket.is_readable = n == max_bytes || socket.read_closed || !cfg!(target_os = "linux");
                    let taken = self.engine.handle_bytes_up_to(now, id, &self.buffer[..n], max_work);
                    socket.backlog = ReadBacklog::new(&self.buffer[taken.bytes..n]);
                    said = taken.work;
                    work += n + said;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.is_readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    debug!("conn={id} cannot be read: {error}");
                    self.engine.handle_hangup(now, id);
                    return work;
                }
            }
        }
        let has_more = socket.is_readable || socket.backlog.is_some();
        socket.class = match socket.class {
            _ if has_more => ReadClass::Heavy,
            ReadClass::New => ReadClass::Unclassified,
            _ if said > max_work => ReadClass::Heavy,
            _ => ReadClass::Light,
        };
        if has_more {
            socket.is_ready = true;
            self.ready.push(id, ReadClass::Heavy);
        }
        work
    }

    fn write_all(&mut self) {
        while let Some(id) = self.engine.poll_writable() {
            let Some(socket) = self.sockets.get_mut(id.index()).and_then(Option::as_mut) else { continue };
            // An error has ended the connection, which poll_closed() says.
            if let Ok(Flow::Finished) = self.engine.write_to(id, &mut socket.stream) {
                let _ = socket.stream.shutdown(Shutdown::Write);
            }
        }
        while let Some(id) = self.engine.poll_closed() {
            if let Some(socket) = self.sockets.get_mut(id.index()) {
                *socket = None;
            }
        }
    }

    /// Everything is written, so another part of the journal may begin.
    fn keep_journal(&mut self) -> Result<(), Error> {
        self.engine.rotate_segment();
        self.engine.commit_record().map_err(|error| {
            let path = self.engine.config().journal.clone();
            Error::Journal(path.expect("what is recorded has a name"), error)
        })
    }

    fn status(&mut self, now: Time) -> Status {
        if self.stopping == Stopping::AtOnce {
            self.engine.handle_stop(now);
            self.write_all();
        }
        match self.engine.drain_totals() {
            Some(totals) if self.engine.is_drained() => Status::Stopped(totals),
            _ => Status::Running,
        }
    }
}

impl Stopping {
    fn next(self) -> Stopping {
        match self {
            Stopping::No => Stopping::Draining,
            Stopping::Draining | Stopping::AtOnce => Stopping::AtOnce,
        }
    }
}

/// A seed from the operating system, by way of the keys it gives to hash maps.
fn os_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

//! The owner of the engine's state, except the application. The behaviour is in the other files of this folder, one
//! topic each; the parts of the state, with the rules that concern one part alone, are in [`state`](super::state).
//!
//! Knows neither the application nor a socket.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use smol_str::SmolStr;

use super::driver::Start;
use super::member::{Member, Protocol};
use super::observer::{ObservedEvent, Observer};
use super::recording::Edition;
use super::state::call_guard::CallGuard;
use super::state::clock::Clock;
use super::state::close_queue::CloseQueue;
use super::state::cluster::Cluster;
use super::state::conn::Slot;
use super::state::conns::Conns;
use super::state::counters::Counters;
use super::state::drain::Drain;
use super::state::events::{AppEvent, AppEvents};
use super::state::feed::Feed;
use super::state::homes::Homes;
use super::state::identity_data::IdentityData;
use super::state::inbox::Inboxes;
use super::state::lists::Lists;
use super::state::measurements::{Latencies, Measurements};
use super::state::meters::{Addresses, Rates};
use super::state::origins::LoggedOrigins;
use super::state::pings::Pings;
use super::state::posts::Posts;
use super::state::questions::AskedQuestions;
use super::state::readiness::{Readiness, Shedding};
use super::state::record_mode::RecordMode;
use super::state::sessions::{Histories, SessionStates};
use super::state::stats::Stats;
use super::state::ticks::Ticks;
use super::state::timers::Timers;
use crate::base::close::Reject;
use crate::base::id::{ConnId, ConnKey, LobbyKey, SeatKey};
use crate::base::random::Random;
use crate::base::time::Time;
use crate::config::{CheckedConfig, Flush};
use crate::egress::Egress;
use crate::http::DateLine;
use crate::http::forwarded::ForwardedFault;
use crate::lobby::directory::Directory;
use crate::ws::deflate::Decompressor;

/// Longest pause between two reads. A pause lets one read take several messages, and delays pongs by as much.
const MAX_READ_DELAY: Duration = Duration::from_millis(4);
/// Shortest useful pause: it is many times as long as going to sleep and waking up take.
const MIN_READ_DELAY: Duration = Duration::from_millis(1);

pub(crate) struct Core {
    pub(super) config: CheckedConfig,
    pub(super) protocol: Protocol,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) conns: Conns,
    pub(super) directory: Directory,
    /// `None` without a cluster.
    pub(super) cluster: Option<Box<Cluster>>,
    /// `None` except in a cluster whose application keeps state of its own.
    pub(super) homes: Option<Box<Homes>>,
    pub(super) egress: Egress,
    pub(super) decompressor: Decompressor,
    pub(super) identity_data: IdentityData,
    pub(super) sessions: SessionStates,
    pub(super) histories: Histories,
    pub(super) timers: Timers,
    pub(super) rates: Rates,
    pub(super) addresses: Addresses,
    pub(super) counters: Counters,
    pub(super) latencies: Latencies,
    /// `None` when `tick_hz` is off.
    pub(super) ticks: Option<Ticks>,
    pub(super) inboxes: Inboxes,
    pub(super) events: AppEvents,
    /// Lobbies with presence changes to flush at the end of the turn.
    pub(super) unflushed_lobbies: Vec<LobbyKey>,
    pub(super) drain: Option<Drain>,
    pub(super) close_queue: CloseQueue,
    pub(super) pings: Pings,
    pub(super) posts: Posts,
    pub(super) lists: Lists,
    pub(super) shedding: Shedding,
    pub(super) answer: Answer,
    pub(super) buffers: Buffers,
    pub(super) logged_origins: LoggedOrigins,
    /// Causes that were logged since the start.
    pub(super) logged_forwarded_faults: BTreeSet<ForwardedFault>,
    pub(super) record_mode: RecordMode,
    pub(super) call_guard: CallGuard,
    pub(super) observer: Observer,
    pub(super) feed: Feed,
    pub(super) questions: AskedQuestions,
}

/// What the application has decided about the message that it handles.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) rejection: Option<(Reject, Cow<'static, str>)>,
    /// The connection whose message the application is handling, and the `seq` of the last `message` that the
    /// application has sent with this member as `from`, or 0. The `ack` carries the `seq`.
    pub(super) relayed: Option<(ConnId, u64)>,
    /// The `ref` of that message, if its sender has a session.
    pub(super) reference: Option<SmolStr>,
}

/// Buffers that are kept only to save allocations. Nothing stays in them between two calls.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// For JSON before it becomes a frame.
    pub(super) text: String,
    /// For a received message while it is processed.
    pub(super) scratch: Vec<u8>,
    /// For a received message that was compressed.
    pub(super) decompressed: Vec<u8>,
    /// For a list of receivers.
    pub(super) receivers: Vec<ConnKey>,
    /// For the seats of a user.
    pub(super) seats: Vec<SeatKey>,
}

impl Core {
    pub(super) fn new(config: CheckedConfig, protocol: Protocol, start: Start) -> Core {
        let mut core = Core {
            directory: Directory::new(&config),
            cluster: None,
            homes: None,
            egress: Egress::new(&config),
            decompressor: Decompressor::default(),
            rates: Rates::new(&config),
            addresses: Addresses::new(&config),
            ticks: Ticks::new(&config),
            inboxes: Inboxes::new(&config),
            timers: Timers::new(&config),
            sessions: SessionStates::new(&config),
            histories: Histories::new(&config),
            config,
            protocol,
            clock: Clock::new(Time::ZERO, start.unix_micros),
            random: Random::new(start.seed),
            conns: Conns::default(),
            identity_data: IdentityData::default(),
            counters: Counters::default(),
            latencies: Latencies::default(),
            events: AppEvents::new(),
            unflushed_lobbies: Vec::new(),
            drain: None,
            close_queue: CloseQueue::default(),
            pings: Pings::default(),
            posts: Posts::default(),
            lists: Lists::default(),
            shedding: Shedding::default(),
            answer: Answer::default(),
            buffers: Buffers::default(),
            logged_origins: LoggedOrigins::default(),
            logged_forwarded_faults: BTreeSet::new(),
            record_mode: RecordMode::Off,
            call_guard: CallGuard::default(),
            observer: Observer::default(),
            feed: Feed::default(),
            questions: AskedQuestions::default(),
        };
        core.update_corking();
        core
    }

    #[inline]
    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    pub(super) fn unix_millis(&self) -> u64 {
        self.clock.unix_micros() / 1000
    }

    /// The header line `Date` of an answer now.
    pub(super) fn date_line(&self) -> DateLine {
        match self.record_mode.edition() {
            Edition::First => DateLine::NONE,
            Edition::Second | Edition::Third => DateLine::at(self.clock.unix_micros()),
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    pub(super) fn readiness(&self) -> Readiness {
        match () {
            () if self.is_draining() => Readiness::Draining,
            () if self.is_detached() || self.has_given_up() => Readiness::Detached,
            () if self.shedding.is_recent(self.now()) => Readiness::Shedding,
            () => Readiness::Ready,
        }
    }

    /// Counts a connection that was dropped because no descriptor was free.
    pub(super) fn note_shed(&mut self) {
        self.counters.shed += 1;
        self.shedding.note(self.now());
    }

    /// Whether output is to wait for ticks: with `flush` at the tick, while the clock runs and the server is not
    /// draining.
    pub(super) fn should_cork(&self) -> bool {
        self.config.flush == Flush::Tick
            && self.drain.is_none()
            && self.ticks.as_ref().is_some_and(|ticks| !ticks.view().paused)
    }

    /// Called when [`should_cork`](Self::should_cork) may have changed.
    pub(super) fn update_corking(&mut self) {
        self.egress.set_corking(self.should_cork());
    }

    /// The longest delay before the next read that keeps ticks on time. `None` when it is too short to be worth a
    /// pause.
    pub(super) fn max_read_delay(&self) -> Option<Duration> {
        let period = self.ticks.as_ref().filter(|_| self.egress.corks_output())?.period();
        Some((period / 8).min(MAX_READ_DELAY)).filter(|&delay| delay >= MIN_READ_DELAY)
    }

    // ---- connections and members ----

    /// Returns a connection that is not closed.
    #[inline]
    pub(super) fn slot(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.conns.open_mut(id)
    }

    /// Whether `member` still has the seat that it describes.
    pub(super) fn is_seated(&self, member: &Member) -> bool {
        self.conns.get(member.conn).is_some_and(|slot| slot.seat().is_some())
    }

    /// Returns the member in the seat of the connection `key`; `None` if the connection has no seat.
    pub(super) fn member(&self, key: ConnKey) -> Option<Member> {
        let slot = &self.conns[key];
        slot.seat().map(|seat| self.member_with(seat, slot.id, self.identity_data.of(key), false))
    }

    /// Returns the member in a seat, present or away.
    pub(super) fn member_in(&self, seat: SeatKey) -> Member {
        let conn = self.directory.seat(seat).conn;
        let connection = || self.cluster.as_ref().and_then(|cluster| cluster.seat_connections.get(seat));
        match self.directory.away(seat) {
            Some(away) => self.member_with(seat, conn, away.lost.data.clone(), true),
            None if conn == ConnId::ELSEWHERE => {
                self.member_with(seat, conn, connection().and_then(|connection| connection.data.clone()), false)
            }
            None => self.member_with(seat, conn, self.identity_data.of(conn.key()), false),
        }
    }

    #[inline]
    fn member_with(&self, seat_key: SeatKey, conn: ConnId, data: Option<Arc<[u8]>>, is_away: bool) -> Member {
        let seat = self.directory.seat(seat_key);
        Member {
            conn,
            user: self.directory.name_of(seat.user).clone(),
            lobby: self.directory.lobby_ref(seat.lobby).code.clone(),
            seat: seat.id,
            seat_key,
            lobby_key: seat.lobby,
            data,
            is_away,
            is_watcher: seat.is_watcher,
        }
    }

    /// The connections of these seats. An away seat has none.
    pub(super) fn conns_of(&self, seats: &[SeatKey]) -> Vec<ConnId> {
        seats.iter().filter_map(|&seat| self.directory.conn_of(seat)).collect()
    }

    /// The connections of a lobby's members, in join order.
    pub(super) fn conns_in(&self, lobby: LobbyKey) -> Vec<ConnId> {
        self.directory.members(lobby).iter().map(|member| self.directory.seat(member.seat).conn).collect()
    }

    // ---- views ----

    pub(super) fn queued_bytes(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |_| self.egress.queued_size(conn.key()).bytes)
    }

    pub(super) fn stats(&self) -> Stats {
        let (seated, away) = (self.directory.members_count(), self.directory.away_count());
        let max_connections = self.config.max_connections.bound();
        let capacity_percent = match max_connections {
            None => 0.0,
            Some(0) => 100.0,
            Some(max) => (seated as f64 / f64::from(max) * 1000.0).round() / 10.0,
        };
        Stats {
            total_connections: seated - away,
            away,
            max_connections,
            capacity_percent,
            active_lobbies: self.directory.lobbies_count(),
            pending: self.conns.pending_count() + self.conns.overflow_count(),
            closing: self.conns.closing_count(),
            list_watchers: self.lists.len(),
            ticks: self.ticks.as_ref().map(|ticks| ticks.stats(self.inboxes.bytes())),
            cluster: self.cluster.as_ref().map(|cluster| cluster.stats(self.conns.seated_count() - self.lists.len())),
            counters: self.counters.clone(),
        }
    }

    pub(super) fn measurements(&self) -> Measurements {
        Measurements {
            lagging: self.egress.lagging_count(),
            blocked_bytes: self.egress.blocked_bytes(),
            ping_latency: self.latencies.pings,
            health_latency: self.latencies.health_checks,
            tick_lateness: self.ticks.as_ref().map(Ticks::lateness),
        }
    }

    /// Notes an event that is about to be dispatched, for an observer.
    pub(super) fn observe_event(&mut self, event: &AppEvent) {
        self.observer.note_all(self.clock.now(), || match event {
            // The messages of the inbox are noted one by one.
            AppEvent::Undelivered(_) => None,
            AppEvent::Joined(member) => Some(ObservedEvent::Joined(member.clone())),
            AppEvent::Rejoined(member) => Some(ObservedEvent::TookOver(member.clone())),
            AppEvent::Away(member, reason) => Some(ObservedEvent::Away(member.clone(), *reason)),
            AppEvent::Back(member) => Some(ObservedEvent::Back(member.clone())),
            AppEvent::Left(member, reason) => Some(ObservedEvent::Left(member.clone(), *reason)),
            AppEvent::Health(member, latency) => Some(ObservedEvent::Health(member.clone(), *latency)),
            AppEvent::Pressure(member, pressure) => Some(ObservedEvent::Pressure(member.clone(), *pressure)),
        });
    }
}

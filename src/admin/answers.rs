//! The answers of the admin port as JSON: on one line, with the keys in the order of the fields, for human readers.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::base::time::Time;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::member::Sent;
use crate::engine::operator::{LobbyView, Page, PingReport, SeatView};
use crate::engine::recording::Recording;
use crate::engine::state::drain::DrainTotals;
use crate::engine::state::readiness::Readiness;
use crate::engine::state::stats::Stats;
use crate::engine::state::ticks::{ClockView, TickStats};
use crate::http::response::JsonResponse;

pub(super) fn live() -> JsonResponse {
    JsonResponse::new(200, &StatusObject { status: "live", message: None })
}

pub(super) fn readiness(readiness: Readiness) -> JsonResponse {
    let object = StatusObject { status: readiness.word(), message: readiness.message() };
    JsonResponse::new(readiness.status(), &object)
}

#[derive(Serialize)]
struct StatusObject {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

// ---- lobbies and users ----

#[derive(Serialize)]
struct LobbyObject<'a> {
    lobby: &'a str,
    members: usize,
    locked: bool,
    epoch: u64,
    seq: u64,
}

impl<'a> From<&'a LobbyView> for LobbyObject<'a> {
    fn from(view: &'a LobbyView) -> LobbyObject<'a> {
        let LobbyView { code, members, locked, epoch, seq, .. } = view;
        LobbyObject { lobby: code, members: *members, locked: *locked, epoch: *epoch, seq: *seq }
    }
}

#[derive(Serialize)]
struct SeatObject {
    conn: String,
    peer: String,
    address: String,
    queued_bytes: usize,
    idle_ms: u128,
}

impl From<&SeatView> for SeatObject {
    fn from(view: &SeatView) -> SeatObject {
        SeatObject {
            conn: view.seat.to_string(),
            peer: view.peer.to_string(),
            address: view.address.to_string(),
            queued_bytes: view.queued_bytes,
            idle_ms: view.idle.as_millis(),
        }
    }
}

pub(super) fn lobbies(page: &Page<LobbyView>) -> JsonResponse {
    #[derive(Serialize)]
    struct LobbiesObject<'a> {
        lobbies: Vec<LobbyObject<'a>>,
        next: Option<u64>,
    }
    let lobbies = page.items.iter().map(LobbyObject::from).collect();
    JsonResponse::new(200, &LobbiesObject { lobbies, next: page.next })
}

/// The answer about one lobby, with a page of its members.
pub(super) fn lobby(view: &LobbyView, members: &Page<SeatView>) -> JsonResponse {
    #[derive(Serialize)]
    struct MembersObject<'a> {
        #[serde(flatten)]
        lobby: LobbyObject<'a>,
        users: Vec<MemberObject<'a>>,
        next: Option<u64>,
    }
    #[derive(Serialize)]
    struct MemberObject<'a> {
        user: &'a str,
        #[serde(flatten)]
        seat: SeatObject,
    }
    let users = members.items.iter().map(|view| MemberObject { user: &view.user, seat: view.into() }).collect();
    JsonResponse::new(200, &MembersObject { lobby: view.into(), users, next: members.next })
}

/// The answer about one user, with a page of its seats.
pub(super) fn user(user: &str, seats: &Page<SeatView>) -> JsonResponse {
    #[derive(Serialize)]
    struct UserObject<'a> {
        user: &'a str,
        seats: Vec<UserSeatObject<'a>>,
        next: Option<u64>,
    }
    #[derive(Serialize)]
    struct UserSeatObject<'a> {
        lobby: &'a str,
        #[serde(flatten)]
        seat: SeatObject,
    }
    let items = seats.items.iter().map(|view| UserSeatObject { lobby: &view.lobby, seat: view.into() }).collect();
    JsonResponse::new(200, &UserObject { user, seats: items, next: seats.next })
}

// ---- commands ----

/// The answer to a message; `seq` is that of a message to a lobby that speaks JSON.
pub(super) fn sent(seq: Option<u64>, sent: Sent) -> JsonResponse {
    #[derive(Serialize)]
    struct SentObject {
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        queued: usize,
        dropped: usize,
    }
    JsonResponse::new(200, &SentObject { seq, queued: sent.queued, dropped: sent.dropped })
}

pub(super) fn closing(closing: usize) -> JsonResponse {
    #[derive(Serialize)]
    struct ClosingObject {
        closing: usize,
    }
    JsonResponse::new(200, &ClosingObject { closing })
}

pub(super) fn locked(locked: bool) -> JsonResponse {
    #[derive(Serialize)]
    struct LockedObject {
        locked: bool,
    }
    JsonResponse::new(200, &LockedObject { locked })
}

pub(super) fn draining(so_far: DrainTotals) -> JsonResponse {
    #[derive(Serialize)]
    struct DrainingObject {
        status: &'static str,
        #[serde(flatten)]
        totals: TotalsObject,
    }
    JsonResponse::new(202, &DrainingObject { status: "draining", totals: so_far.into() })
}

pub(super) fn clock(view: ClockView) -> JsonResponse {
    JsonResponse::new(200, &ClockObject::from(view))
}

/// The answer to a finished ping.
pub(super) fn pinged(report: &PingReport) -> JsonResponse {
    #[derive(Serialize)]
    struct ReportObject<'a> {
        user: &'a str,
        healthy: bool,
        /// The best of all seats.
        latency_ms: Option<Milliseconds>,
        conns: Vec<ConnObject>,
    }
    #[derive(Serialize)]
    struct ConnObject {
        conn: String,
        latency_ms: Option<Milliseconds>,
    }
    let best = report.answers.iter().filter_map(|(_, latency)| *latency).min();
    let conns = report
        .answers
        .iter()
        .map(|(seat, latency)| ConnObject { conn: seat.to_string(), latency_ms: latency.map(Milliseconds) });
    JsonResponse::new(
        200,
        &ReportObject {
            user: &report.user,
            healthy: best.is_some(),
            latency_ms: best.map(Milliseconds),
            conns: conns.collect(),
        },
    )
}

// ---- statistics ----

#[derive(Serialize)]
struct StatsObject {
    status: &'static str,
    uptime_ms: u64,
    total_connections: usize,
    max_connections: Option<u32>,
    #[serde(serialize_with = "as_displayed")]
    capacity_percent: f64,
    active_lobbies: usize,
    pending: usize,
    closing: usize,
    ticks: Option<TicksObject>,
    #[serde(serialize_with = "as_object")]
    counters: Vec<(Cow<'static, str>, u64)>,
    /// Without the reasons that did not occur.
    #[serde(serialize_with = "as_object")]
    closed: Vec<(Cow<'static, str>, u64)>,
    /// Without the errors that did not occur.
    #[serde(serialize_with = "as_object")]
    errors: Vec<(Cow<'static, str>, u64)>,
    drain: Option<TotalsObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<JournalObject>,
}

#[derive(Serialize)]
struct ClockObject {
    tick: u64,
    paused: bool,
    slowdown: u32,
}

impl From<ClockView> for ClockObject {
    fn from(ClockView { tick, paused, slowdown }: ClockView) -> ClockObject {
        ClockObject { tick, paused, slowdown }
    }
}

#[derive(Serialize)]
struct TicksObject {
    hz: u32,
    #[serde(flatten)]
    clock: ClockObject,
    ran: u64,
    caught_up: u64,
    skipped: u64,
    late_us: LatenessObject,
    inbox_bytes: usize,
    inbox_refused: u64,
}

#[derive(Serialize)]
struct LatenessObject {
    p50: u64,
    p99: u64,
    max: u64,
}

impl From<&TickStats> for TicksObject {
    fn from(stats: &TickStats) -> TicksObject {
        TicksObject {
            hz: stats.hz,
            clock: stats.clock.into(),
            ran: stats.ran,
            caught_up: stats.caught_up,
            skipped: stats.skipped,
            late_us: LatenessObject { p50: stats.late_p50, p99: stats.late_p99, max: stats.late_max },
            inbox_bytes: stats.inbox_bytes,
            inbox_refused: stats.refused,
        }
    }
}

#[derive(Serialize)]
struct TotalsObject {
    closed: u64,
    flushed_bytes: u64,
    dropped_bytes: u64,
    forced: u64,
    elapsed_ms: u64,
}

impl From<DrainTotals> for TotalsObject {
    fn from(totals: DrainTotals) -> TotalsObject {
        let DrainTotals { closed, flushed_bytes, dropped_bytes, forced, elapsed } = totals;
        TotalsObject { closed, flushed_bytes, dropped_bytes, forced, elapsed_ms: elapsed.as_millis() as u64 }
    }
}

#[derive(Serialize)]
struct JournalObject {
    bytes: u64,
    writes: u64,
    micros: u64,
    slowest_micros: u64,
    failed: bool,
}

impl From<Recording> for JournalObject {
    fn from(Recording { bytes, writes, micros, slowest_micros, has_failed }: Recording) -> JournalObject {
        JournalObject { bytes, writes, micros, slowest_micros, failed: has_failed }
    }
}

pub(super) fn stats<A: App>(engine: &Engine<A>, now: Time) -> JsonResponse {
    let Stats {
        total_connections,
        max_connections,
        capacity_percent,
        active_lobbies,
        pending,
        closing,
        ticks,
        counters,
    } = engine.stats();
    let closed = counters.closes().map(|(reason, count)| (reason.count_name().into_owned().into(), count));
    let errors = counters.rejects().map(|(reject, count)| (reject.word().to_owned().into(), count));
    JsonResponse::new(
        200,
        &StatsObject {
            status: engine.readiness().word(),
            uptime_ms: now.as_micros() / 1000,
            total_connections,
            max_connections,
            capacity_percent,
            active_lobbies,
            pending,
            closing,
            ticks: ticks.as_ref().map(TicksObject::from),
            counters: counters.named().into_iter().map(|(name, count)| (name.into(), count)).collect(),
            closed: closed.collect(),
            errors: errors.collect(),
            drain: engine.drain_totals().map(TotalsObject::from),
            journal: engine.recording().map(JournalObject::from),
        },
    )
}

// ---- numbers ----

/// A duration in milliseconds with three decimals: the engine's time has microseconds.
struct Milliseconds(Duration);

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let micros = self.0.as_micros();
        as_displayed(&format_args!("{}.{:03}", micros / 1000, micros % 1000), serializer)
    }
}

/// Writes a number as it is displayed: 5 and not 5.0.
fn as_displayed<S: Serializer>(number: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(number.to_string()).expect("a number is displayed as in JSON").serialize(serializer)
}

/// Writes an object whose keys are not known in advance.
fn as_object<S: Serializer>(fields: &[(Cow<'static, str>, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(name, count)| (name, count)))
}

//! The answers of the admin port as JSON: on one line, with the keys in the order of the fields, for human readers.

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::figures::{Figures, as_displayed, clock_figures, drain_figures, figures};
use crate::base::time::Time;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::member::Sent;
use crate::engine::operator::{LobbyControlView, LobbyView, Page, PingReport, SeatView};
use crate::engine::state::drain::DrainTotals;
use crate::engine::state::readiness::Readiness;
use crate::engine::state::ticks::ClockView;
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
    away: usize,
    locked: bool,
    epoch: u64,
    seq: u64,
    #[serde(flatten)]
    control: Option<SummaryObject<'a>>,
}

/// With lobby control on.
#[derive(Serialize)]
struct SummaryObject<'a> {
    watchers: u32,
    listed: bool,
    name: Option<&'a str>,
    has_password: bool,
    reserved: usize,
}

impl<'a> From<&'a LobbyView> for LobbyObject<'a> {
    fn from(view: &'a LobbyView) -> LobbyObject<'a> {
        let &LobbyView { ref code, members, away, locked, epoch, seq, ref control, .. } = view;
        let control = control.as_ref().map(|control| SummaryObject {
            watchers: control.watchers,
            listed: control.is_listed,
            name: control.name.as_deref(),
            has_password: control.has_password,
            reserved: control.reserved,
        });
        LobbyObject { lobby: code, members, away, locked, epoch, seq, control }
    }
}

/// JSON that is written as it is.
struct Raw<'a>(&'a str);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

#[derive(Serialize)]
struct SeatObject<'a> {
    conn: String,
    /// Only of a watcher.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// With lobby control on.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Raw<'a>>,
    away: bool,
    /// In a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_ms: Option<u128>,
}

impl<'a> From<&'a SeatView> for SeatObject<'a> {
    fn from(view: &'a SeatView) -> SeatObject<'a> {
        SeatObject {
            conn: view.seat.to_string(),
            role: view.is_watcher.then_some("watch"),
            data: view.data.as_deref().map(Raw),
            away: view.away,
            node: view.node.as_deref(),
            peer: view.peer.map(|peer| peer.to_string()),
            address: view.address.map(|address| address.to_string()),
            queued_bytes: view.queued_bytes,
            idle_ms: view.idle.map(|idle| idle.as_millis()),
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
pub(super) fn lobby(view: &LobbyView, control: Option<&LobbyControlView>, members: &Page<SeatView>) -> JsonResponse {
    #[derive(Serialize)]
    struct MembersObject<'a> {
        #[serde(flatten)]
        lobby: LobbyObject<'a>,
        #[serde(flatten)]
        control: Option<ControlObject<'a>>,
        users: Vec<MemberObject<'a>>,
        next: Option<u64>,
    }
    #[derive(Serialize)]
    struct MemberObject<'a> {
        user: &'a str,
        #[serde(flatten)]
        seat: SeatObject<'a>,
    }
    let users = members.items.iter().map(|view| MemberObject { user: &view.user, seat: view.into() }).collect();
    let control = control.map(ControlObject::from);
    JsonResponse::new(200, &MembersObject { lobby: view.into(), control, users, next: members.next })
}

/// Lobby-control state of one lobby.
#[derive(Serialize)]
struct ControlObject<'a> {
    host: Option<String>,
    countdown: Option<u64>,
    settings: Raw<'a>,
    data: Raw<'a>,
    bans: &'a [String],
    reserved_users: &'a [String],
    reserved_ms: Option<u128>,
}

impl<'a> From<&'a LobbyControlView> for ControlObject<'a> {
    fn from(view: &'a LobbyControlView) -> ControlObject<'a> {
        ControlObject {
            host: view.host.map(|host| host.to_string()),
            countdown: view.countdown,
            settings: Raw(&view.settings),
            data: Raw(&view.data),
            bans: &view.bans,
            reserved_users: &view.reserved,
            reserved_ms: view.reserved_for.map(|left| left.as_millis()),
        }
    }
}

pub(super) fn bans(code: &str, bans: &[String]) -> JsonResponse {
    #[derive(Serialize)]
    struct BansObject<'a> {
        lobby: &'a str,
        bans: &'a [String],
    }
    JsonResponse::new(200, &BansObject { lobby: code, bans })
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
        seat: SeatObject<'a>,
    }
    let items = seats.items.iter().map(|view| UserSeatObject { lobby: &view.lobby, seat: view.into() }).collect();
    JsonResponse::new(200, &UserObject { user, seats: items, next: seats.next })
}

// ---- commands ----

/// The answer to a message; `seq` is that of a numbered message to a lobby that speaks JSON.
pub(super) fn sent(seq: Option<u64>, sent: Sent, repeated: bool) -> JsonResponse {
    #[derive(Serialize)]
    struct SentObject {
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        queued: usize,
        dropped: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        excluded: Option<usize>,
        #[serde(skip_serializing_if = "Option::is_none")]
        repeated: Option<bool>,
    }
    let Sent { queued, dropped, excluded } = sent;
    let excluded = Some(excluded).filter(|&excluded| excluded > 0);
    JsonResponse::new(200, &SentObject { seq, queued, dropped, excluded, repeated: repeated.then_some(true) })
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

/// The answer to a change of data, settings or the host.
pub(super) fn changed(seq: u64) -> JsonResponse {
    #[derive(Serialize)]
    struct ChangedObject {
        seq: u64,
    }
    JsonResponse::new(200, &ChangedObject { seq })
}

pub(super) fn unbanned() -> JsonResponse {
    #[derive(Serialize)]
    struct UnbannedObject {
        banned: bool,
    }
    JsonResponse::new(200, &UnbannedObject { banned: false })
}

pub(super) fn created(lobby: &str, epoch: u64) -> JsonResponse {
    #[derive(Serialize)]
    struct CreatedObject<'a> {
        lobby: &'a str,
        epoch: u64,
    }
    JsonResponse::new(201, &CreatedObject { lobby, epoch })
}

/// The refusal of a conditional change, with the present values.
pub(super) fn conflict(seq: u64, data: &str, message: &str) -> JsonResponse {
    #[derive(Serialize)]
    struct ConflictObject<'a> {
        error: &'static str,
        message: &'a str,
        seq: u64,
        data: Raw<'a>,
    }
    JsonResponse::new(409, &ConflictObject { error: "conflict", message, seq, data: Raw(data) })
}

pub(super) fn draining(so_far: DrainTotals) -> JsonResponse {
    #[derive(Serialize)]
    struct DrainingObject {
        status: &'static str,
        #[serde(flatten)]
        totals: Figures,
    }
    JsonResponse::new(202, &DrainingObject { status: "draining", totals: drain_figures(so_far) })
}

pub(super) fn clock(view: ClockView) -> JsonResponse {
    JsonResponse::new(200, &clock_figures(view))
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

pub(super) fn stats<A: App>(engine: &Engine<A>, now: Time) -> JsonResponse {
    JsonResponse::new(200, &figures(engine, now))
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

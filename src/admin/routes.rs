//! The routes of the admin port: parses a request into an [`AdminRequest`], carries it out on the engine, and formats
//! the answer as JSON. Knows neither sockets nor clients.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;

use super::http::{Answer, HttpRequest};
use super::json::{JsonObject, millis};
use crate::base::close::{CloseReason, Reject};
use crate::base::number::integer;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::drain::DrainTotals;
use crate::engine::operator::{
    KickTarget, LobbyView, OperatorAnswer, OperatorCommand, OperatorRefusal, Page, Payload, PingReport, SeatView,
};
use crate::engine::recording::Recording;
use crate::engine::tick::{ClockCommand, ClockView, TickStats};
use crate::http::percent_decode;

/// Default and largest `limit`, the number of items of a page. The largest bounds the duration of a turn.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// Default and largest `timeout_ms` of a ping.
const DEFAULT_PING: u64 = 2000;
const MAX_PING: u64 = 60_000;

/// A request of an operator: a query or a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AdminRequest {
    Live,
    Ready,
    Stats,
    Lobbies(PageQuery),
    Lobby(String, PageQuery),
    User(String, PageQuery),
    Do(OperatorCommand),
}

/// Selects one page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageQuery {
    limit: usize,
    after: Option<u64>,
}

/// Returns whether the path needs no token. Health probes carry none; `Host` and `Origin` are checked for them too.
pub(super) fn needs_no_token(path: &str) -> bool {
    path.starts_with("/health/")
}

/// Parses a request. The error is the answer to send.
pub(super) fn read(request: &HttpRequest<'_>) -> Result<AdminRequest, Answer> {
    let segments: Option<Vec<Cow<'_, str>>> =
        request.path[1..].split('/').map(|segment| percent_decode(segment, false)).collect();
    let segments = segments.ok_or_else(|| bad("the path is not properly percent-encoded UTF-8"))?;
    let segments: Vec<&str> = segments.iter().map(|segment| &**segment).collect();
    let is_query = match segments[..] {
        ["health", "live" | "ready"] | ["stats"] | ["lobbies"] | ["lobbies" | "users", _] => true,
        ["lobbies", _, "publish" | "kick" | "lock" | "close"] | ["users", _, "send" | "ping" | "kick"] => false,
        ["kick" | "drain"] | ["clock", "pause" | "resume" | "step" | "slow"] => false,
        _ => return Err(Answer::error(404, "not_found", "there is nothing here")),
    };
    match (is_query, request.method) {
        (true, "GET" | "HEAD") => query_request(&segments, request.query),
        (true, _) => Err(Answer::error(405, "method_not_allowed", "use GET").with_line("Allow: GET, HEAD\r\n")),
        (false, "POST") => command(&segments, request),
        (false, _) => Err(Answer::error(405, "method_not_allowed", "use POST").with_line("Allow: POST\r\n")),
    }
}

fn query_request(segments: &[&str], query: &str) -> Result<AdminRequest, Answer> {
    let page_query = page_query(query)?;
    Ok(match *segments {
        ["health", "live"] => AdminRequest::Live,
        ["health", "ready"] => AdminRequest::Ready,
        ["stats"] => AdminRequest::Stats,
        ["lobbies"] => AdminRequest::Lobbies(page_query),
        ["lobbies", code] => AdminRequest::Lobby(code.into(), page_query),
        ["users", user] => AdminRequest::User(user.into(), page_query),
        _ => unreachable!("read() passes only the paths of queries"),
    })
}

fn page_query(query: &str) -> Result<PageQuery, Answer> {
    let mut page_query = PageQuery { limit: DEFAULT_LIMIT, after: None };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').map(|(key, value)| (key, value.parse::<u64>())) {
            Some(("limit", Ok(limit))) if (1..=MAX_LIMIT as u64).contains(&limit) => page_query.limit = limit as usize,
            Some(("limit", _)) => return Err(bad("limit must be from 1 to 1000")),
            Some(("after", Ok(after))) => page_query.after = Some(after),
            Some(("after", _)) => return Err(bad("after must be the `next` of an earlier page")),
            _ => return Err(bad("the query may hold limit and after")),
        }
    }
    Ok(page_query)
}

fn command(segments: &[&str], request: &HttpRequest<'_>) -> Result<AdminRequest, Answer> {
    // A page of another origin cannot send this type without a CORS preflight request, which is never granted.
    let media_type = request.headers.content_type.and_then(|value| value.split(';').next());
    if !media_type.is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Answer::error(415, "not_json", "send Content-Type: application/json"));
    }
    let mut fields = BodyFields::read(request.body)?;
    let command = match *segments {
        ["lobbies", lobby, "publish"] => OperatorCommand::Publish { lobby: lobby.into(), payload: fields.payload()? },
        ["users", user, "send"] => OperatorCommand::Send { user: user.into(), payload: fields.payload()? },
        ["users", user, "ping"] => {
            let timeout: u64 =
                fields.integer("timeout_ms", "must be milliseconds from 1 to 60000")?.unwrap_or(DEFAULT_PING);
            if !(1..=MAX_PING).contains(&timeout) {
                return Err(bad("timeout_ms must be milliseconds from 1 to 60000"));
            }
            OperatorCommand::Ping { user: user.into(), timeout: Duration::from_millis(timeout) }
        }
        ["lobbies", lobby, "lock"] => {
            let locked = fields.take("locked", "must be true or false")?.unwrap_or(true);
            OperatorCommand::Lock { lobby: lobby.into(), locked }
        }
        ["lobbies", lobby, "close"] => OperatorCommand::Close { lobby: lobby.into() },
        ["lobbies", lobby, "kick"] => fields.kick(KickTarget::Lobby(lobby.into()))?,
        ["users", user, "kick"] => fields.kick(KickTarget::User(user.into()))?,
        ["kick"] => fields.kick(KickTarget::All)?,
        ["drain"] => OperatorCommand::Drain,
        ["clock", "pause"] => OperatorCommand::Clock(ClockCommand::Pause),
        ["clock", "resume"] => OperatorCommand::Clock(ClockCommand::Resume),
        ["clock", "step"] => {
            let ticks = fields.integer("ticks", "must be a number from 1 to 100")?.unwrap_or(1);
            OperatorCommand::Clock(ClockCommand::Step(ticks))
        }
        ["clock", "slow"] => {
            let rule = "must be how many times slower the clock is to run, from 1 to 1000";
            let factor = fields.integer("factor", rule)?.ok_or_else(|| bad(&format!("factor {rule}")))?;
            OperatorCommand::Clock(ClockCommand::Slow(factor))
        }
        _ => unreachable!("read() passes only the paths of commands"),
    };
    fields.end()?;
    Ok(AdminRequest::Do(command))
}

/// The fields of a request's body that are not read yet.
struct BodyFields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> BodyFields<'a> {
    fn read(body: &'a [u8]) -> Result<BodyFields<'a>, Answer> {
        match body.trim_ascii() {
            [] => Ok(BodyFields(BTreeMap::new())),
            // The brace is checked because serde also reads `null` as a map.
            body @ [b'{', ..] => {
                serde_json::from_slice(body).map(BodyFields).map_err(|_| bad("the body is not valid JSON"))
            }
            _ => Err(bad("the body must be one JSON object")),
        }
    }

    /// Removes and parses a field. `null` counts as absent.
    fn take<T: serde::Deserialize<'a>>(&mut self, key: &str, rule: &str) -> Result<Option<T>, Answer> {
        let value = self.0.remove(key).filter(|raw| raw.get() != "null").map(|raw| serde_json::from_str(raw.get()));
        value.transpose().map_err(|_| bad(&format!("{key} {rule}")))
    }

    /// Removes an integer field, in any notation: `100`, `100.0` and `1e2` are the same.
    fn integer<T: TryFrom<i64>>(&mut self, key: &str, rule: &str) -> Result<Option<T>, Answer> {
        let value = self.0.remove(key).filter(|raw| raw.get() != "null");
        let read = |raw: &RawValue| integer(raw.get()).and_then(|value| T::try_from(value).ok());
        value.map(|raw| read(raw).ok_or_else(|| bad(&format!("{key} {rule}")))).transpose()
    }

    fn payload(&mut self) -> Result<Payload, Answer> {
        match (self.0.remove("data"), self.take("text", "must be a string")?) {
            (Some(data), None) => Ok(Payload::Json(data.get().into())),
            (None, Some(text)) => Ok(Payload::Text(text)),
            _ => Err(bad("send `data`, any JSON, or `text`, a string")),
        }
    }

    fn kick(&mut self, target: KickTarget) -> Result<OperatorCommand, Answer> {
        let reconnect = self.take("reconnect", "must be true or false")?.unwrap_or(false);
        Ok(OperatorCommand::Kick { target, reconnect })
    }

    /// Refuses unknown fields, so that a request with a misspelt field does not seem to succeed.
    fn end(self) -> Result<(), Answer> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(bad(&format!("the body holds `{key}`, which means nothing here"))),
        }
    }
}

fn bad(message: &str) -> Answer {
    Answer::error(400, "bad_request", message)
}

/// The outcome of a request: its answer, or the ticket of a ping whose report is answered later.
pub(super) enum Outcome {
    Answer(Answer),
    Later(u64),
}

/// Carries out a request on the engine.
pub(super) fn carry_out<A: App>(engine: &mut Engine<A>, now: Time, request: AdminRequest) -> Outcome {
    let answer = match request {
        AdminRequest::Live => Answer::new(200, JsonObject::new().string("status", "live")),
        AdminRequest::Ready if engine.is_draining() => Answer::new(503, JsonObject::new().string("status", "draining")),
        AdminRequest::Ready => Answer::new(200, JsonObject::new().string("status", "ready")),
        AdminRequest::Stats => stats(engine, now),
        AdminRequest::Lobbies(PageQuery { limit, after }) => {
            let Page { items, next } = engine.lobbies(after, limit);
            let lobbies = items.iter().map(|view| lobby(JsonObject::new(), view));
            Answer::new(200, JsonObject::new().array("lobbies", lobbies).optional("next", next))
        }
        AdminRequest::Lobby(code, PageQuery { limit, after }) => match engine.lobby(&code) {
            None => refused(OperatorRefusal::NoSuchLobby),
            Some(view) => {
                let Page { items, next } = engine.lobby_members(&code, after, limit);
                let users = items.iter().map(|view| seat(JsonObject::new().string("user", &view.user), view));
                Answer::new(200, lobby(JsonObject::new(), &view).array("users", users).optional("next", next))
            }
        },
        AdminRequest::User(user, PageQuery { limit, after }) => {
            let Page { items, next } = engine.user_seats(&user, after, limit);
            if items.is_empty() && after.is_none() {
                refused(OperatorRefusal::NoSuchUser)
            } else {
                let seats = items.iter().map(|view| seat(JsonObject::new().string("lobby", &view.lobby), view));
                Answer::new(200, JsonObject::new().string("user", &user).array("seats", seats).optional("next", next))
            }
        }
        AdminRequest::Do(command) => match engine.handle_operator(now, command) {
            Ok(OperatorAnswer::Pinged(ticket)) => return Outcome::Later(ticket),
            Ok(done) => answer_to(done),
            Err(refusal) => refused(refusal),
        },
    };
    Outcome::Answer(answer)
}

fn answer_to(done: OperatorAnswer) -> Answer {
    match done {
        OperatorAnswer::Sent { seq, sent } => {
            let object = match seq {
                Some(seq) => JsonObject::new().plain("seq", seq),
                None => JsonObject::new(),
            };
            Answer::new(200, object.plain("queued", sent.queued).plain("dropped", sent.dropped))
        }
        OperatorAnswer::Ending(count) => Answer::new(200, JsonObject::new().plain("closing", count)),
        OperatorAnswer::Locked(locked) => Answer::new(200, JsonObject::new().plain("locked", locked)),
        OperatorAnswer::Draining(so_far) => {
            Answer::new(202, totals(JsonObject::new().string("status", "draining"), so_far))
        }
        OperatorAnswer::Clock(view) => Answer::new(200, clock(JsonObject::new(), view)),
        OperatorAnswer::Pinged(_) => unreachable!("carry_out() returns Outcome::Later for a ping"),
    }
}

/// Returns the answer to a finished ping.
pub(super) fn pinged(report: &PingReport) -> Answer {
    let best = report.answers.iter().filter_map(|(_, latency)| *latency).min();
    let conns = report.answers.iter().map(|(seat, latency)| {
        JsonObject::new().string("conn", &seat.to_string()).optional("latency_ms", latency.map(millis))
    });
    let object = JsonObject::new()
        .string("user", &report.user)
        .plain("healthy", best.is_some())
        .optional("latency_ms", best.map(millis))
        .array("conns", conns);
    Answer::new(200, object)
}

fn refused(refusal: OperatorRefusal) -> Answer {
    match refusal {
        OperatorRefusal::NoSuchLobby => Answer::error(404, "no_such_lobby", "no lobby of that code exists"),
        OperatorRefusal::NoSuchUser => Answer::error(404, "no_such_user", "the user is not connected"),
        OperatorRefusal::NotJson => {
            Answer::error(409, "not_json", "the members speak JSON: send `data` in place of `text`")
        }
        OperatorRefusal::TooLong => Answer::error(413, "too_long", "that is more than max_message_bytes"),
        OperatorRefusal::Busy => {
            Answer::error(503, "busy", "too many pings wait for their answers").with_line("Retry-After: 1\r\n")
        }
        OperatorRefusal::NoTicks => Answer::error(409, "no_ticks", "there is no clock to set: tick_hz is off"),
        OperatorRefusal::ClockRuns => Answer::error(409, "clock_runs", "pause the clock before you step it"),
        OperatorRefusal::OutOfRange => bad("ticks must be from 1 to 100 until they have run, factor from 1 to 1000"),
    }
}

fn lobby(object: JsonObject, view: &LobbyView) -> JsonObject {
    object
        .string("lobby", &view.code)
        .plain("members", view.members)
        .plain("locked", view.locked)
        .plain("epoch", view.epoch)
        .plain("seq", view.seq)
}

fn seat(object: JsonObject, view: &SeatView) -> JsonObject {
    object
        .string("conn", &view.seat.to_string())
        .string("peer", &view.peer.to_string())
        .plain("queued_bytes", view.queued_bytes)
        .plain("idle_ms", view.idle.as_millis())
}

fn clock(object: JsonObject, view: ClockView) -> JsonObject {
    object.plain("tick", view.tick).plain("paused", view.paused).plain("slowdown", view.slowdown)
}

fn ticks(stats: &TickStats) -> String {
    let late = JsonObject::new().plain("p50", stats.late_p50).plain("p99", stats.late_p99).plain("max", stats.late_max);
    clock(JsonObject::new().plain("hz", stats.hz), stats.clock)
        .plain("ran", stats.ran)
        .plain("caught_up", stats.caught_up)
        .plain("skipped", stats.skipped)
        .plain("late_us", late.end())
        .plain("inbox_bytes", stats.inbox_bytes)
        .plain("inbox_refused", stats.refused)
        .end()
}

fn totals(object: JsonObject, totals: DrainTotals) -> JsonObject {
    let DrainTotals { closed, flushed_bytes, dropped_bytes, forced } = totals;
    object
        .plain("closed", closed)
        .plain("flushed_bytes", flushed_bytes)
        .plain("dropped_bytes", dropped_bytes)
        .plain("forced", forced)
}

fn recorded(recording: Recording) -> JsonObject {
    let Recording { bytes, writes, micros, slowest_micros, has_failed } = recording;
    JsonObject::new()
        .plain("bytes", bytes)
        .plain("writes", writes)
        .plain("micros", micros)
        .plain("slowest_micros", slowest_micros)
        .plain("failed", has_failed)
}

fn stats<A: App>(engine: &Engine<A>, now: Time) -> Answer {
    let stats = engine.stats();
    let counters = &stats.counters;
    let nonzero = |object: JsonObject, (word, count): (&str, u64)| {
        if count == 0 { object } else { object.plain(word, count) }
    };
    let closes = CloseReason::ALL.iter().map(|&reason| (reason.word(), counters.closed(reason)));
    let errors = Reject::ALL.iter().map(|&reject| (reject.word(), counters.rejected(reject)));
    let drain = engine.drain_totals().map(|so_far| totals(JsonObject::new(), so_far).end());
    let object = JsonObject::new()
        .string("status", if engine.is_draining() { "draining" } else { "ready" })
        .plain("uptime_ms", now.as_micros() / 1000)
        .plain("total_connections", stats.total_connections)
        .optional("max_connections", stats.max_connections)
        .plain("capacity_percent", stats.capacity_percent)
        .plain("active_lobbies", stats.active_lobbies)
        .plain("pending", stats.pending)
        .plain("closing", stats.closing)
        .optional("ticks", stats.ticks.as_ref().map(ticks))
        .plain("counters", counters.named().into_iter().fold(JsonObject::new(), |o, (k, v)| o.plain(k, v)).end())
        .plain("closed", closes.fold(JsonObject::new(), nonzero).end())
        .plain("errors", errors.fold(JsonObject::new(), nonzero).end())
        .optional("drain", drain);
    let object = match engine.recording() {
        Some(recording) => object.plain("journal", recorded(recording).end()),
        None => object,
    };
    Answer::new(200, object)
}

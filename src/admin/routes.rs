//! The routes of the admin port: parses a request into an [`AdminRequest`]. Knows neither sockets nor clients, and does
//! not act on the engine.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;

use super::page::PageFile;
use super::streams::read_query;
use crate::base::id::SeatId;
use crate::base::number::integer;
use crate::engine::operator::{
    KickTarget, LobbyChange, NewLobby, OperatorCommand, Order, Payload, SettingsText, SortLobbies, SortMembers,
};
use crate::engine::state::ticks::ClockCommand;
use crate::events::reader::EventQuery;
use crate::http::probe::Probe;
use crate::http::request::HttpRequest;
use crate::http::response::JsonResponse;
use crate::http::target::percent_decode;

/// Default and largest `limit`, the number of items of a page. The largest bounds the duration of a turn.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// Longest `search`, in bytes. A field of a page that takes 64 UTF-16 code units yields no more.
const MAX_SEARCH_BYTES: usize = 192;
/// Default and largest `timeout_ms` of a ping.
const DEFAULT_PING: u64 = 2000;
const MAX_PING: u64 = 60_000;

/// A request of an operator: a query or a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AdminRequest {
    Probe(Probe),
    Page(&'static PageFile),
    Stats,
    Metrics,
    /// The lobbies whose code or name contains the text.
    Lobbies(String, Option<Order<SortLobbies>>, PageQuery),
    /// A lobby, and its members whose user id contains the text.
    Lobby(String, String, Option<Order<SortMembers>>, PageQuery),
    User(String, PageQuery),
    /// The users that are banned from a lobby.
    Bans(String),
    /// The stream of events.
    Events(EventQuery),
    Do(OperatorCommand),
}

/// Selects one page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageQuery {
    pub(super) limit: usize,
    pub(super) after: Option<u64>,
}

/// Parses a request. The error is the answer to send.
pub(super) fn read(request: &HttpRequest<'_>) -> Result<AdminRequest, JsonResponse> {
    if let Some(probe) = Probe::at(request.path) {
        return match request.method {
            // Any query is ignored.
            "GET" | "HEAD" => Ok(AdminRequest::Probe(probe)),
            _ => Err(use_get()),
        };
    }
    if let Some(file) = PageFile::at(request.path) {
        return match request.method {
            // Any query is ignored.
            "GET" | "HEAD" => Ok(AdminRequest::Page(file)),
            _ => Err(use_get()),
        };
    }
    let segments: Option<Vec<Cow<'_, str>>> =
        request.path[1..].split('/').map(|segment| percent_decode(segment, false)).collect();
    let segments =
        segments.ok_or_else(|| JsonResponse::bad_request("the path is not properly percent-encoded UTF-8"))?;
    let segments: Vec<&str> = segments.iter().map(|segment| &**segment).collect();
    let is_query = match segments[..] {
        // A lobby is created with POST on the path of the list.
        ["lobbies"] => request.method != "POST",
        ["events"] if request.method == "HEAD" => return Err(only_get()),
        ["stats" | "metrics" | "events"] | ["lobbies" | "users", _] | ["lobbies", _, "bans"] => true,
        ["lobbies", _, "publish" | "kick" | "lock" | "close"] | ["users", _, "send" | "ping" | "kick"] => false,
        ["lobbies", _, "data" | "settings" | "host" | "ban" | "unban"] => false,
        ["kick" | "drain"] | ["clock", "pause" | "resume" | "step" | "slow"] => false,
        _ => return Err(JsonResponse::error(404, "not_found", "there is nothing here")),
    };
    match (is_query, request.method) {
        (true, "GET") if segments == ["events"] => read_query(request).map(AdminRequest::Events),
        (true, "GET" | "HEAD") => query_request(&segments, request.query),
        (true, _) if segments == ["lobbies"] => {
            Err(JsonResponse::error(405, "method_not_allowed", "use GET or POST")
                .with_line("Allow: GET, HEAD, POST\r\n"))
        }
        (true, _) if segments == ["events"] => Err(only_get()),
        (true, _) => Err(use_get()),
        (false, "POST") => command(&segments, request),
        (false, _) => Err(JsonResponse::error(405, "method_not_allowed", "use POST").with_line("Allow: POST\r\n")),
    }
}

fn use_get() -> JsonResponse {
    JsonResponse::error(405, "method_not_allowed", "use GET").with_line("Allow: GET, HEAD\r\n")
}

/// A stream of events has no head without a body.
fn only_get() -> JsonResponse {
    JsonResponse::error(405, "method_not_allowed", "use GET").with_line("Allow: GET\r\n")
}

fn query_request(segments: &[&str], query: &str) -> Result<AdminRequest, JsonResponse> {
    if *segments == ["metrics"] {
        // Any query is ignored: a scraper may be configured to send parameters.
        return Ok(AdminRequest::Metrics);
    }
    let ListQuery { search, sort, page } = list_query(query)?;
    if (search.is_some() || sort.is_some()) && !matches!(segments, ["lobbies"] | ["lobbies", _]) {
        let rule = "only the lists of lobbies and of their members can be searched and sorted";
        return Err(JsonResponse::bad_request(rule));
    }
    let search = search.unwrap_or_default().into_owned();
    Ok(match *segments {
        ["stats"] => AdminRequest::Stats,
        ["lobbies"] => {
            let sort =
                sort.map(|sort| order(sort, LOBBY_SORTS, "sort must be members, away, seq or age")).transpose()?;
            AdminRequest::Lobbies(search, sort, page)
        }
        ["lobbies", code] => {
            let sort =
                sort.map(|sort| order(sort, MEMBER_SORTS, "sort must be queued_bytes or idle_ms")).transpose()?;
            AdminRequest::Lobby(code.into(), search, sort, page)
        }
        ["lobbies", code, "bans"] => AdminRequest::Bans(code.into()),
        ["users", user] => AdminRequest::User(user.into(), page),
        _ => unreachable!("read() passes only the paths of queries"),
    })
}

const LOBBY_SORTS: &[(&str, SortLobbies)] = &[
    ("members", SortLobbies::Members),
    ("away", SortLobbies::Away),
    ("seq", SortLobbies::Seq),
    ("age", SortLobbies::Age),
];
const MEMBER_SORTS: &[(&str, SortMembers)] = &[("queued_bytes", SortMembers::Queued), ("idle_ms", SortMembers::Idle)];

/// Reads the name of a number, with a minus in front if the largest one comes first.
fn order<B: Copy>(sort: &str, all: &[(&str, B)], rule: &str) -> Result<Order<B>, JsonResponse> {
    let (name, is_descending) = sort.strip_prefix('-').map_or((sort, false), |name| (name, true));
    let known = all.iter().find(|(known, _)| *known == name);
    let order = known.map(|&(_, by)| Order { by, is_descending });
    order.ok_or_else(|| JsonResponse::bad_request(&format!("{rule}, perhaps with - in front")))
}

/// The query of a list.
struct ListQuery<'a> {
    /// The text to search for.
    search: Option<Cow<'a, str>>,
    sort: Option<&'a str>,
    page: PageQuery,
}

fn list_query(query: &str) -> Result<ListQuery<'_>, JsonResponse> {
    let mut page = PageQuery { limit: DEFAULT_LIMIT, after: None };
    let (mut search, mut sort) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (key, value.parse::<u64>()) {
            ("limit", Ok(limit)) if (1..=MAX_LIMIT as u64).contains(&limit) => page.limit = limit as usize,
            ("limit", _) => return Err(JsonResponse::bad_request("limit must be from 1 to 1000")),
            ("after", Ok(after)) => page.after = Some(after),
            ("after", _) => return Err(JsonResponse::bad_request("after must be the `next` of an earlier page")),
            ("search", _) => {
                let text = percent_decode(value, true).filter(|text| text.len() <= MAX_SEARCH_BYTES);
                let rule = "search must be percent-encoded UTF-8 of at most 192 bytes";
                search = Some(text.ok_or_else(|| JsonResponse::bad_request(rule))?);
            }
            ("sort", _) => sort = Some(value),
            _ => {
                let rule = "the query may hold limit and after; of /lobbies and of a lobby also search and sort";
                return Err(JsonResponse::bad_request(rule));
            }
        }
    }
    Ok(ListQuery { search, sort, page })
}

fn command(segments: &[&str], request: &HttpRequest<'_>) -> Result<AdminRequest, JsonResponse> {
    // A page of another origin cannot send this type without a CORS preflight request, which is never granted.
    let media_type = request.headers.content_type.and_then(|value| value.split(';').next());
    if !media_type.is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json")) {
        return Err(JsonResponse::error(415, "not_json", "send Content-Type: application/json"));
    }
    let mut fields = BodyFields::read(request.body)?;
    let command = match *segments {
        ["lobbies", lobby, "publish"] => OperatorCommand::Publish {
            lobby: lobby.into(),
            payload: fields.payload()?,
            exclude: fields.take("exclude", "must be a list of user ids")?.unwrap_or_default(),
            idempotency_key: fields.take("idempotency_key", "must be a string of 1 to 64 bytes")?,
        },
        ["users", user, "send"] => OperatorCommand::Send { user: user.into(), payload: fields.payload()? },
        ["users", user, "ping"] => {
            let timeout: u64 =
                fields.integer("timeout_ms", "must be milliseconds from 1 to 60000")?.unwrap_or(DEFAULT_PING);
            if !(1..=MAX_PING).contains(&timeout) {
                return Err(JsonResponse::bad_request("timeout_ms must be milliseconds from 1 to 60000"));
            }
            OperatorCommand::Ping { user: user.into(), timeout: Duration::from_millis(timeout) }
        }
        ["lobbies", lobby, "lock"] => {
            let locked = fields.take("locked", "must be true or false")?.unwrap_or(true);
            OperatorCommand::Lock { lobby: lobby.into(), locked }
        }
        ["lobbies"] => OperatorCommand::Create(fields.new_lobby()?),
        ["lobbies", lobby, verb @ ("data" | "settings" | "host" | "ban" | "unban")] => {
            OperatorCommand::Change { lobby: lobby.into(), change: fields.change(verb)? }
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
            let factor =
                fields.integer("factor", rule)?.ok_or_else(|| JsonResponse::bad_request(&format!("factor {rule}")))?;
            OperatorCommand::Clock(ClockCommand::Slow(factor))
        }
        _ => unreachable!("read() passes only the paths of commands"),
    };
    fields.end()?;
    Ok(AdminRequest::Do(command))
}

/// The fields of a request's body that are not read yet. A map, because a derived struct would refuse a field that occurs
/// twice: here the last one counts.
struct BodyFields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> BodyFields<'a> {
    fn read(body: &'a [u8]) -> Result<BodyFields<'a>, JsonResponse> {
        match body.trim_ascii() {
            [] => Ok(BodyFields(BTreeMap::new())),
            // The brace is checked because serde also reads `null` as a map.
            body @ [b'{', ..] => serde_json::from_slice(body)
                .map(BodyFields)
                .map_err(|_| JsonResponse::bad_request("the body is not valid JSON")),
            _ => Err(JsonResponse::bad_request("the body must be one JSON object")),
        }
    }

    /// Removes and parses a field. `null` counts as absent.
    fn take<T: serde::Deserialize<'a>>(&mut self, key: &str, rule: &str) -> Result<Option<T>, JsonResponse> {
        let value = self.0.remove(key).filter(|raw| raw.get() != "null").map(|raw| serde_json::from_str(raw.get()));
        value.transpose().map_err(|_| JsonResponse::bad_request(&format!("{key} {rule}")))
    }

    /// Removes an integer field, in any notation: `100`, `100.0` and `1e2` are the same.
    fn integer<T: TryFrom<i64>>(&mut self, key: &str, rule: &str) -> Result<Option<T>, JsonResponse> {
        let value = self.0.remove(key).filter(|raw| raw.get() != "null");
        let read = |raw: &RawValue| integer(raw.get()).and_then(|value| T::try_from(value).ok());
        value.map(|raw| read(raw).ok_or_else(|| JsonResponse::bad_request(&format!("{key} {rule}")))).transpose()
    }

    fn payload(&mut self) -> Result<Payload, JsonResponse> {
        match (self.0.remove("data"), self.take("text", "must be a string")?) {
            (Some(data), None) => Ok(Payload::Json(data.get().into())),
            (None, Some(text)) => Ok(Payload::Text(text)),
            _ => Err(JsonResponse::bad_request("send `data`, any JSON, or `text`, a string")),
        }
    }

    /// The fields of a new lobby.
    fn new_lobby(&mut self) -> Result<NewLobby, JsonResponse> {
        let rule = "must be a positive number of milliseconds";
        let ttl: u64 =
            self.integer("ttl_ms", rule)?.ok_or_else(|| JsonResponse::bad_request(&format!("ttl_ms {rule}")))?;
        Ok(NewLobby {
            code: self.take("code", "must be a string")?,
            seats: self.take("seats", "must be a list of user ids")?.unwrap_or_default(),
            settings: self.json("settings").map(SettingsText),
            data: self.json("data"),
            ttl: Duration::from_millis(ttl),
            pool: self.take("pool", "must be a string")?,
        })
    }

    /// The fields of a change of a lobby.
    fn change(&mut self, verb: &str) -> Result<LobbyChange, JsonResponse> {
        let missing = |key: &str, what: &str| JsonResponse::bad_request(&format!("{key} must be {what}"));
        let rule = "must be the conn of a member, such as \"s3\"";
        Ok(match verb {
            "data" => LobbyChange::Data {
                of: self.seat("of", rule)?,
                if_seq: self.integer("if", "must be a seq")?,
                data: self.json("data").ok_or_else(|| missing("data", "an object"))?,
            },
            "settings" => {
                let settings = self.json("settings").ok_or_else(|| missing("settings", "an object"))?;
                LobbyChange::Settings(SettingsText(settings))
            }
            "host" => LobbyChange::Host(
                self.seat("conn", rule)?.ok_or_else(|| JsonResponse::bad_request(&format!("conn {rule}")))?,
            ),
            _ => {
                let user: Option<String> = self.take("user", "must be a user id")?;
                let user = user.ok_or_else(|| missing("user", "a user id"))?;
                if verb == "ban" { LobbyChange::Ban(user) } else { LobbyChange::Unban(user) }
            }
        })
    }

    /// Removes a field with any JSON. `null` counts as absent.
    fn json(&mut self, key: &str) -> Option<String> {
        self.0.remove(key).map(RawValue::get).filter(|&json| json != "null").map(str::to_owned)
    }

    fn seat(&mut self, key: &str, rule: &str) -> Result<Option<SeatId>, JsonResponse> {
        let text: Option<String> = self.take(key, rule)?;
        let read =
            |text: String| SeatId::read(&text).ok_or_else(|| JsonResponse::bad_request(&format!("{key} {rule}")));
        text.map(read).transpose()
    }

    fn kick(&mut self, target: KickTarget) -> Result<OperatorCommand, JsonResponse> {
        let reconnect = self.take("reconnect", "must be true or false")?.unwrap_or(false);
        Ok(OperatorCommand::Kick { target, reconnect })
    }

    /// Refuses unknown fields, so that a request with a misspelt field does not seem to succeed.
    fn end(self) -> Result<(), JsonResponse> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(JsonResponse::bad_request(&format!("the body holds `{key}`, which means nothing here"))),
        }
    }
}

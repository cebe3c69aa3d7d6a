//! Carries out requests on the engine, and decides how they are answered.

use super::answers;
use super::metrics::{self, DriverMetrics};
use super::routes::{AdminRequest, PageQuery};
use crate::base::time::Time;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::operator::{OperatorAnswer, OperatorRefusal, OperatorReport};
use crate::events::reader::EventQuery;
use crate::http::probe::Probe;
use crate::http::response::JsonResponse;

/// The outcome of a request: its answer, or the ticket of the report that will be its answer.
pub(super) enum Outcome {
    Answer(JsonResponse),
    Later(u64),
    /// A stream of events begins.
    Stream(EventQuery),
}

/// Carries out a request on the engine.
pub(super) fn carry_out<A: App>(
    engine: &mut Engine<A>,
    now: Time,
    driver: &mut dyn DriverMetrics,
    request: AdminRequest,
) -> Outcome {
    let answer = match request {
        AdminRequest::Probe(Probe::Live) => answers::live(),
        AdminRequest::Probe(Probe::Ready) => answers::readiness(engine.readiness()),
        AdminRequest::Page(file) => file.response(),
        AdminRequest::Stats => answers::stats(engine, now),
        AdminRequest::Metrics => metrics::answer(engine, now, driver),
        AdminRequest::Lobbies(search, order, PageQuery { limit, after }) => {
            let page = match order {
                None => Some(engine.lobbies_with(&search, after, limit)),
                Some(order) => engine.sorted_lobbies(&search, order, after.unwrap_or(0), limit),
            };
            page.map_or_else(too_many_to_sort, |page| answers::lobbies(&page))
        }
        AdminRequest::Lobby(code, search, order, PageQuery { limit, after }) => match engine.lobby(&code) {
            None => refused(OperatorRefusal::NoSuchLobby),
            Some(view) => {
                let members = match order {
                    None if search.is_empty() => Some(engine.lobby_members(&code, after, limit)),
                    None => engine.lobby_members_with(&code, &search, after, limit),
                    Some(order) => engine.sorted_members(&code, &search, order, after.unwrap_or(0), limit),
                };
                let control = engine.lobby_control(&code);
                members.map_or_else(too_many_to_sort, |members| answers::lobby(&view, control.as_ref(), &members))
            }
        },
        AdminRequest::Bans(code) => match (engine.lobby(&code), engine.lobby_control(&code)) {
            (None, _) => refused(OperatorRefusal::NoSuchLobby),
            (_, None) => refused(OperatorRefusal::ControlOff),
            (_, Some(control)) => answers::bans(&code, &control.bans),
        },
        AdminRequest::User(user, PageQuery { limit, after }) => {
            let page = engine.user_seats(&user, after, limit);
            if page.items.is_empty() && after.is_none() {
                refused(OperatorRefusal::NoSuchUser)
            } else {
                answers::user(&user, &page)
            }
        }
        AdminRequest::Events(query) => return Outcome::Stream(query),
        AdminRequest::Do(command) => match engine.handle_operator(now, command) {
            Ok(OperatorAnswer::Pinged(ticket) | OperatorAnswer::Submitted(ticket)) => return Outcome::Later(ticket),
            outcome => answer_of(outcome),
        },
    };
    Outcome::Answer(answer)
}

fn too_many_to_sort() -> JsonResponse {
    JsonResponse::error(409, "too_many", "a list of more than 20000 entries is not sorted: ask without `sort`")
}

/// Returns the ticket of a report, and the answer that it is.
pub(super) fn reported(report: OperatorReport) -> (u64, JsonResponse) {
    match report {
        OperatorReport::Pinged(report) => (report.ticket, answers::pinged(&report)),
        OperatorReport::Answered { ticket, answer } => (ticket, answer_of(answer)),
    }
}

/// Returns the answer to a command that was carried out or refused.
fn answer_of(outcome: Result<OperatorAnswer, OperatorRefusal>) -> JsonResponse {
    match outcome {
        Ok(OperatorAnswer::Sent { seq, sent, repeated }) => answers::sent(seq, sent, repeated),
        Ok(OperatorAnswer::Ending(count)) => answers::closing(count),
        Ok(OperatorAnswer::Locked(locked)) => answers::locked(locked),
        Ok(OperatorAnswer::Changed { seq }) => answers::changed(seq),
        Ok(OperatorAnswer::Unbanned) => answers::unbanned(),
        Ok(OperatorAnswer::Created { lobby, epoch }) => answers::created(&lobby, epoch),
        Ok(OperatorAnswer::Draining(so_far)) => answers::draining(so_far),
        Ok(OperatorAnswer::Clock(view)) => answers::clock(view),
        Ok(OperatorAnswer::Pinged(_) | OperatorAnswer::Submitted(_)) => unreachable!("its report is the answer"),
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: OperatorRefusal) -> JsonResponse {
    let (status, code) = match &refusal {
        OperatorRefusal::NoSuchLobby => (404, "no_such_lobby"),
        OperatorRefusal::NoSuchUser => (404, "no_such_user"),
        OperatorRefusal::NotJson => (409, "not_json"),
        OperatorRefusal::TooLong => (413, "too_long"),
        OperatorRefusal::BadMessage => (400, "bad_message"),
        OperatorRefusal::BadKey => (400, "bad_request"),
        OperatorRefusal::KeyReused => (409, "key_reused"),
        OperatorRefusal::ControlOff => (409, "lobby_control_off"),
        OperatorRefusal::NoSuchMember => (404, "no_such_member"),
        OperatorRefusal::NotBanned => (404, "not_banned"),
        OperatorRefusal::Invalid(_) => (400, "bad_request"),
        OperatorRefusal::TooLarge(_) => (413, "too_large"),
        OperatorRefusal::Conflict { seq, data } => return answers::conflict(*seq, data, &refusal.to_string()),
        OperatorRefusal::LobbyExists => (409, "lobby_exists"),
        OperatorRefusal::LobbyLimit => (503, "lobby_limit"),
        OperatorRefusal::Draining => (503, "draining"),
        OperatorRefusal::Busy => (503, "busy"),
        OperatorRefusal::Unavailable => (503, "unavailable"),
        OperatorRefusal::OutcomeUnknown => (504, "outcome_unknown"),
        OperatorRefusal::NoTicks => (409, "no_ticks"),
        OperatorRefusal::ClockRuns => (409, "clock_runs"),
        OperatorRefusal::OutOfRange => (400, "bad_request"),
    };
    let response = JsonResponse::error(status, code, &refusal.to_string());
    match refusal {
        OperatorRefusal::Busy | OperatorRefusal::Unavailable => response.with_line("Retry-After: 1\r\n"),
        _ => response,
    }
}

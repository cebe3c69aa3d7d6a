//! Carries out requests on the engine, and decides how they are answered.

use super::answers;
use super::routes::{AdminRequest, PageQuery, bad};
use crate::base::time::Time;
use crate::engine::Engine;
use crate::engine::app::App;
use crate::engine::operator::{OperatorAnswer, OperatorRefusal};
use crate::http::response::JsonResponse;

/// The outcome of a request: its answer, or the ticket of a ping whose report is answered later.
pub(super) enum Outcome {
    Answer(JsonResponse),
    Later(u64),
}

/// Carries out a request on the engine.
pub(super) fn carry_out<A: App>(engine: &mut Engine<A>, now: Time, request: AdminRequest) -> Outcome {
    let answer = match request {
        AdminRequest::Live => answers::status(200, "live"),
        AdminRequest::Ready if engine.is_draining() => answers::status(503, "draining"),
        AdminRequest::Ready => answers::status(200, "ready"),
        AdminRequest::Stats => answers::stats(engine, now),
        AdminRequest::Lobbies(PageQuery { limit, after }) => answers::lobbies(&engine.lobbies(after, limit)),
        AdminRequest::Lobby(code, PageQuery { limit, after }) => match engine.lobby(&code) {
            None => refused(OperatorRefusal::NoSuchLobby),
            Some(view) => answers::lobby(&view, &engine.lobby_members(&code, after, limit)),
        },
        AdminRequest::User(user, PageQuery { limit, after }) => {
            let page = engine.user_seats(&user, after, limit);
            if page.items.is_empty() && after.is_none() {
                refused(OperatorRefusal::NoSuchUser)
            } else {
                answers::user(&user, &page)
            }
        }
        AdminRequest::Do(command) => match engine.handle_operator(now, command) {
            Ok(OperatorAnswer::Pinged(ticket)) => return Outcome::Later(ticket),
            Ok(OperatorAnswer::Sent { seq, sent }) => answers::sent(seq, sent),
            Ok(OperatorAnswer::Ending(count)) => answers::closing(count),
            Ok(OperatorAnswer::Locked(locked)) => answers::locked(locked),
            Ok(OperatorAnswer::Draining(so_far)) => answers::draining(so_far),
            Ok(OperatorAnswer::Clock(view)) => answers::clock(view),
            Err(refusal) => refused(refusal),
        },
    };
    Outcome::Answer(answer)
}

fn refused(refusal: OperatorRefusal) -> JsonResponse {
    match refusal {
        OperatorRefusal::NoSuchLobby => JsonResponse::error(404, "no_such_lobby", "no lobby of that code exists"),
        OperatorRefusal::NoSuchUser => JsonResponse::error(404, "no_such_user", "the user is not connected"),
        OperatorRefusal::NotJson => {
            JsonResponse::error(409, "not_json", "the members speak JSON: send `data` in place of `text`")
        }
        OperatorRefusal::TooLong => JsonResponse::error(413, "too_long", "that is more than max_message_bytes"),
        OperatorRefusal::Busy => {
            JsonResponse::error(503, "busy", "too many pings wait for their answers").with_line("Retry-After: 1\r\n")
        }
        OperatorRefusal::NoTicks => JsonResponse::error(409, "no_ticks", "there is no clock to set: tick_hz is off"),
        OperatorRefusal::ClockRuns => JsonResponse::error(409, "clock_runs", "pause the clock before you step it"),
        OperatorRefusal::OutOfRange => bad("ticks must be from 1 to 100 until they have run, factor from 1 to 1000"),
    }
}

//! What a client tells, in the words of the vectors.

use lobbyd::client::{Event, LobbyError, LobbyMember, LobbyMessage, Session};
use serde_json::{Value, json};

/// Names of events of lobby control, which without it are types of the game.
const CONTROL_EVENTS: &[&str] = &["data", "host", "settings", "countdown", "start"];

/// Returns what a step calls a failure.
pub fn failure(error: &LobbyError) -> Value {
    let mut failure = json!({"error": error.code()});
    for name in ["seq", "data"].into_iter().filter(|_| error.code() == "conflict") {
        failure[name] = error.details()[name].clone();
    }
    failure
}

/// Returns what a step calls an event, if it names it at all.
pub fn told(event: Event, session: &Session) -> Option<Value> {
    Some(match event {
        Event::Join(who) => json!(["join", who.user()]),
        Event::Leave { who, reason } => json!(["leave", who.user(), reason]),
        Event::Away(who) => json!(["away", who.user()]),
        Event::Back(who) => json!(["back", who.user()]),
        Event::Gap => json!(["gap"]),
        // Without lobby control it is a type of the game, for which the steps have no listener.
        Event::Message(message) if message.kind.as_deref() == Some("lobby_state") => return None,
        Event::Message(message) => message_of(&message, session),
        Event::Data { changes, who, by, .. } => json!(["data", changes, who.map(|who| who.user().to_owned()), by]),
        Event::Host(host) => json!(["host", host.map(|who| who.user().to_owned())]),
        Event::Settings { changes, by, .. } => json!(["settings", changes, by]),
        Event::Countdown(at) => json!(["countdown", at]),
        Event::Start(seats) => json!(["start", seats.into_iter().map(|seat| seat.user).collect::<Vec<_>>()]),
        Event::Lobbies => {
            let codes: Vec<&str> = session.lobbies().map(|lobby| &*lobby.code).collect();
            json!(["lobbies", codes, session.has_more_lobbies()])
        }
        _ => return None,
    })
}

fn message_of(message: &LobbyMessage, session: &Session) -> Value {
    let has_control = session.welcome().is_some_and(|welcome| welcome.has_control);
    let is_control_word = message.kind.as_ref().is_some_and(|kind| CONTROL_EVENTS.contains(&&**kind));
    let name = match message.is_direct {
        _ if is_control_word && !has_control => "typed",
        true => "direct",
        false => "message",
    };
    json!([name, message.from, message.data::<Value>().expect("JSON")])
}

/// Returns what the client knows under this name.
pub fn knows(session: &Session, name: &str) -> Value {
    let user = |who: Option<&LobbyMember>| who.map(|who| who.user().to_owned()).into();
    match name {
        "data" => session.data().clone().into(),
        "settings" => session.settings().clone().into(),
        "watchers" => session.watchers().into(),
        "countdown" => session.countdown().into(),
        "code" => session.code().into(),
        "why" => session.why().map(|why| json!({"code": why.code, "reason": why.reason})).into(),
        "seq" => session.seq().into(),
        "count" => session.count().into(),
        "host" => user(session.host()),
        "me" => user(session.me()),
        "members" => {
            let with_data = session.members().filter(|who| !who.data().is_empty());
            Value::Object(with_data.map(|who| (who.user().to_owned(), who.data().clone().into())).collect())
        }
        "lobbies" => json!(session.lobbies().collect::<Vec<_>>()),
        "more" => session.has_more_lobbies().into(),
        _ => panic!("a client does not know {name}"),
    }
}

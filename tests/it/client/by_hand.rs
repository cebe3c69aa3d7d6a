//! Sessions that a test drives by hand.

use lobbyd::Time;
use lobbyd::client::{Action, AttemptId, Options, Session};

/// With lobby control.
pub const WELCOME: &str = r#"{"type":"welcome","conn":"s1","user":"ann","lobby":"chess","epoch":7,"seq":0,"resumed":false,"server_time":1700000000000,"limits":{"max_message_bytes":65536},"away_ms":30000,"done":0,"refused":"0","n":0,"control":true}"#;
pub const LIST: &str =
    r#"{"type":"presence_state","seq":2,"users":[{"user":"ann","conn":"s1"},{"user":"bob","conn":"s2"}]}"#;
pub const STATE: &str = r#"{"type":"lobby_state","seq":2,"host":"s1","settings":{},"data":{},"watchers":0}"#;

/// Lets a session connect. Returns its connection.
#[track_caller]
pub fn connected(session: &mut Session) -> AttemptId {
    session.connect(Time::ZERO);
    attempt(session)
}

/// Returns the attempt that the session asks for.
#[track_caller]
fn attempt(session: &mut Session) -> AttemptId {
    let mut actions = std::iter::from_fn(|| session.poll_action());
    let attempt = actions.find_map(|action| match action {
        Action::Connect(attempt) => Some(attempt.id()),
        _ => None,
    });
    attempt.expect("an attempt")
}

/// Returns a session in a lobby with two members, and its connection.
#[track_caller]
pub fn joined() -> (Session, AttemptId) {
    let mut session = Session::new("ws://a/ws/chess", Options::default(), || 1 << 63).expect("an address");
    let id = connected(&mut session);
    for text in [WELCOME, LIST, STATE] {
        session.handle_text(Time::ZERO, id, text);
    }
    while session.poll_action().is_some() {}
    (session, id)
}

/// Lets a session that has lost its connection connect again. Returns the connection.
#[track_caller]
pub fn lost(session: &mut Session) -> AttemptId {
    session.handle_timeout(session.poll_timeout().expect("the next attempt"));
    attempt(session)
}

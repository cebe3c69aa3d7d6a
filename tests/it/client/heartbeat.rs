//! A connection that is dead and has not ended: nothing arrives any more, and nobody says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lobbyd::Time;
use lobbyd::client::{Action, AttemptId, Lobby, LobbyOptions, Options, Outgoing, Session, State, Traced};

use super::by_hand::{WELCOME, connected, lost};
use super::sockets::{open, relay, turns, why, with_token};
use crate::common::sockets::on_free_port;

const HEARTBEAT: Duration = Duration::from_secs(20);

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

/// Returns a session that was welcomed at the start of time.
fn welcomed(heartbeat: Option<Duration>) -> (Session, AttemptId) {
    let options = Options { heartbeat, ..Options::default() };
    let mut session = Session::new("ws://a/ws/chess", options, || 1 << 63).expect("an address");
    let id = connected(&mut session);
    session.handle_text(Time::ZERO, id, WELCOME);
    session.handle_text(Time::ZERO, id, r#"{"type":"presence_state","seq":1,"users":[]}"#);
    session.handle_text(Time::ZERO, id, r#"{"type":"lobby_state","seq":1}"#);
    assert_eq!(session.state(), State::Open);
    pings(&mut session);
    (session, id)
}

/// Lets time pass. Returns the number of pings that were sent meanwhile.
fn pass(session: &mut Session, until: Time) -> usize {
    while let Some(due) = session.poll_timeout().filter(|&due| due <= until) {
        session.handle_timeout(due);
    }
    pings(session)
}

fn pings(session: &mut Session) -> usize {
    let is_ping =
        |action: &Action| matches!(action, Action::Send(_, Outgoing::Text(text)) if text.contains("\"ping\""));
    std::iter::from_fn(|| session.poll_action()).filter(is_ping).count()
}

#[test]
fn parts_of_messages_and_pings_are_signs_of_life() {
    let (mut session, id) = welcomed(Some(HEARTBEAT));
    assert_eq!(pass(&mut session, at(19)), 0);
    session.handle_heard(at(19), id);
    assert_eq!((pass(&mut session, at(38)), pass(&mut session, at(39))), (0, 1));
    session.handle_heard(at(48), id);
    assert_eq!((pass(&mut session, at(67)), session.state()), (0, State::Open));
    assert_eq!((pass(&mut session, at(68)), session.state()), (1, State::Open));
    assert_eq!(pass(&mut session, at(77)), 0);
    pass(&mut session, at(78));
    assert_ne!(session.state(), State::Open, "half the time later");
}

#[test]
fn a_connection_that_was_given_up_is_no_sign_of_life_of_the_next_one() {
    let (mut session, former) = welcomed(Some(HEARTBEAT));
    session.handle_closed(at(1), former, 1006, "");
    let next = lost(&mut session);
    session.handle_text(at(2), next, WELCOME);
    pings(&mut session);
    session.handle_text(at(2), next, r#"{"type":"presence_state","seq":1,"users":[]}"#);
    session.handle_text(at(2), next, r#"{"type":"lobby_state","seq":1}"#);
    session.handle_heard(at(10), former);
    assert_eq!((pass(&mut session, at(21)), pass(&mut session, at(22))), (0, 1));
}

#[test]
fn without_a_heartbeat_nothing_is_asked() {
    for heartbeat in [None, Some(Duration::ZERO)] {
        let (mut session, _) = welcomed(heartbeat);
        assert_eq!((pass(&mut session, at(100_000)), session.state()), (0, State::Open));
    }
}

/// A driver stops reading when there is no room for events.
#[test]
fn an_application_that_polls_no_events_keeps_its_connection() {
    let (mut session, id) = welcomed(Some(HEARTBEAT));
    let message = format!(r#"{{"type":"message","from":"bob","data":"{}"}}"#, "x".repeat(1 << 19));
    while session.has_room() {
        session.handle_text(Time::ZERO, id, &message);
    }
    pass(&mut session, at(60));
    assert_eq!(session.state(), State::Open);
    while session.poll_event().is_some() {}
    pass(&mut session, at(70));
    assert_ne!(session.state(), State::Open, "nothing has arrived although there was room");
}

#[test]
fn the_first_silence_begins_with_the_welcome() {
    let options = Options { heartbeat: Some(HEARTBEAT), ..Options::default() };
    let mut session = Session::new("ws://a/ws/chess", options, || 1 << 63).expect("an address");
    let id = connected(&mut session);
    session.handle_text(at(10), id, WELCOME);
    session.handle_text(at(10), id, r#"{"type":"presence_state","seq":1,"users":[]}"#);
    session.handle_text(at(10), id, r#"{"type":"lobby_state","seq":1}"#);
    pings(&mut session);
    assert_eq!((pass(&mut session, at(29)), pass(&mut session, at(30))), (0, 1));
}

// ---- with a socket ----

fn join(address: std::net::SocketAddr, heartbeat: Option<Duration>) -> Lobby {
    let session = Options { heartbeat, ..Options::default() };
    let options = LobbyOptions { session, ..with_token("ann") };
    Lobby::connect(&format!("ws://{address}/ws/chess"), options).expect("a valid address")
}

/// The server has no turns for a while: its socket stays open, and nobody reads it.
#[test]
fn a_half_open_connection_is_given_up_and_the_seat_kept() {
    let mut server = relay(on_free_port());
    let address = server.local_addr().expect("the server listens");
    let mut ann = join(address, Some(Duration::from_millis(100)));
    open(&mut server, &mut [&mut ann]);
    let seat = ann.me().expect("a member").conn().to_owned();
    assert!(ann.wait(Duration::from_secs(60), |session| session.state() == State::Waiting), "it is noticed");
    assert_eq!(ann.why().map(|why| why.code), Some(1006));
    assert_eq!(why(&mut ann).map(|why| why.code), Some(1006), "the event");
    open(&mut server, &mut [&mut ann]);
    assert_eq!((ann.me().expect("a member").conn(), ann.why()), (&*seat, None));
}

#[test]
fn a_half_open_connection_without_a_heartbeat_is_kept() {
    let mut server = relay(on_free_port());
    let mut ann = join(server.local_addr().expect("the server listens"), None);
    open(&mut server, &mut [&mut ann]);
    assert!(!ann.wait(Duration::from_millis(300), |session| session.state() != State::Open));
}

#[test]
fn a_quiet_connection_is_kept() {
    let mut server = relay(on_free_port());
    let mut ann = join(server.local_addr().expect("the server listens"), Some(Duration::from_millis(40)));
    let asked = Arc::new(AtomicU32::new(0));
    let counter = asked.clone();
    ann.trace(move |traced| {
        if matches!(traced, Traced::Sent(text) if text.contains("\"ping\"")) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    open(&mut server, &mut [&mut ann]);
    assert!(why(&mut ann).is_none());
    turns(&mut server, &mut [&mut ann], |_| asked.load(Ordering::Relaxed) > 8);
    assert_eq!((ann.state(), why(&mut ann)), (State::Open, None), "it was not lost in between");
}

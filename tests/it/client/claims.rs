//! What the vectors do not say: the interface to drivers and applications in Rust.

use std::time::Duration;

use lobbyd::client::{Action, Event, LobbyError, Of, Options, Outgoing, Session, State};
use lobbyd::{Random, Time};
use serde_json::{Value, json};

use super::by_hand::{WELCOME, connected, joined, lost};

const LIST: &str = r#"{"type":"presence_state","seq":2,"users":[{"user":"ann","conn":"s1"}]}"#;

fn millis(millis: u64) -> Time {
    Time::from_micros(millis * 1000)
}

fn code<T: std::fmt::Debug>(result: Result<T, LobbyError>) -> String {
    result.expect_err("an error").code().to_owned()
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

#[test]
fn data_of_a_request_have_no_number() {
    let (mut session, id) = joined();
    events(&mut session);
    for (seq, data) in [(3, r#"{"type":"move","to":"e4","ref":7}"#), (4, r#"{"to":"e4","ref":7}"#)] {
        let text = format!(r#"{{"type":"message","from":"bob","seq":{seq},"data":{data}}}"#);
        session.handle_text(Time::ZERO, id, &text);
    }
    let [Event::Message(typed), Event::Message(other)] = &events(&mut session)[..] else { panic!("two messages") };
    assert_eq!(typed.data::<Value>().expect("JSON"), json!({"type": "move", "to": "e4"}));
    assert_eq!(other.data::<Value>().expect("JSON"), json!({"to": "e4", "ref": 7}), "it is no request");
}

#[test]
fn events_before_the_first_list_follow_it() {
    let mut session = Session::new("ws://a/ws/chess", Options::default(), || 0).expect("an address");
    let id = connected(&mut session);
    session.handle_text(Time::ZERO, id, &WELCOME.replace(",\"control\":true", ""));
    session.handle_text(Time::ZERO, id, r#"{"type":"direct","from":"bob","n":1,"data":1}"#);
    session.handle_binary(Time::ZERO, id, b"x");
    let connecting = Event::Connection { state: State::Connecting, why: None };
    assert_eq!(events(&mut session), [connecting]);
    session.handle_text(Time::ZERO, id, LIST);
    let events = events(&mut session);
    assert!(matches!(&events[0], Event::Connection { state: State::Open, .. }), "{events:?}");
    assert!(matches!(&events[1], Event::Message(message) if message.is_direct), "{events:?}");
    assert_eq!(events[2..], [Event::Binary(b"x".to_vec()), Event::Members]);
}

#[test]
fn only_an_attempt_that_may_have_arrived_can_displace_a_later_one() {
    // Whether the client comes back after 4004, when its first attempt has ended like this.
    let comes_back = |end: fn(&mut Session, lobbyd::client::AttemptId)| {
        let mut session = Session::new("ws://a/ws/chess", Options::default(), || 0).expect("an address");
        let id = connected(&mut session);
        end(&mut session, id);
        let id = lost(&mut session);
        session.handle_text(Time::ZERO, id, &WELCOME.replace(",\"control\":true", ""));
        session.handle_text(Time::ZERO, id, LIST);
        session.handle_closed(Time::ZERO, id, 4004, "replaced");
        session.state() == State::Waiting
    };
    assert!(comes_back(|session, id| session.handle_closed(Time::ZERO, id, 1006, "")));
    assert!(!comes_back(|session, id| session.handle_failed(Time::ZERO, id, "no_connection")), "nothing was sent");
    assert!(!comes_back(|session, id| session.handle_refused(Time::ZERO, id, 503, None)), "it was answered");
    assert!(!comes_back(|session, id| {
        session.handle_text(
            Time::ZERO,
            id,
            r#"{"type":"goodbye","code":4101,"reason":"auth_timeout","reconnect":true}"#,
        );
        session.handle_closed(Time::ZERO, id, 1006, "");
    }));
}

#[test]
fn a_status_with_retry_after_is_waited_for() {
    let mut session = Session::new("ws://a/ws/chess", Options::default(), || u64::MAX).expect("an address");
    let id = connected(&mut session);
    session.handle_refused(Time::ZERO, id, 429, Some(Duration::from_secs(7)));
    assert_eq!(session.poll_timeout(), Some(millis(7000)));
    let Some(Event::Connection { state: State::Waiting, why: Some(why) }) = events(&mut session).pop() else {
        panic!()
    };
    assert_eq!((why.code, &*why.reason, why.wait), (1006, "http_429", Some(Duration::from_secs(7))));
    session.wake(millis(10), true);
    assert_eq!(session.poll_timeout(), Some(millis(7000)), "also when the network is back");
}

#[test]
fn a_restarted_process_claims_the_seat_of_the_one_before() {
    let begin = |seed, was| {
        let mut random = Random::new(seed);
        let options = Options { was, ..Options::default() };
        Session::new("ws://a/ws/chess", options, move || random.next_u64()).expect("an address")
    };
    let first = begin(1, None);
    let mut second = begin(2, Some(first.name().to_owned()));
    assert_eq!(second.name(), first.name(), "until the server has given it the seat");
    let id = connected(&mut second);
    second.handle_text(Time::ZERO, id, WELCOME);
    assert_ne!(second.name(), first.name());
}

#[test]
fn requests_are_bounded() {
    let (mut session, _) = joined();
    let now = Time::ZERO;
    assert_eq!(code(session.request(now, "move", "x".repeat(65_536))), "too_large");
    assert_eq!(code(session.send(Time::ZERO, "move", "x".repeat(65_536))), "too_large");
    assert_eq!(code(session.bytes(Time::ZERO, vec![0; 65_537])), "too_large");
    assert_eq!(code(session.request(now, "move", json!({"type": "leave"}))), "bad_payload");
    for _ in 0..64 {
        session.request(now, "move", 1).expect("there is room");
    }
    assert_eq!(code(session.request(now, "move", 1)), "queue_full");
    let sent = std::iter::from_fn(|| session.poll_action()).count();
    assert_eq!(sent, 16, "the others wait for answers");
    session.handle_timeout(millis(10_000));
    let outcomes = events(&mut session);
    let timeouts = outcomes
        .iter()
        .filter(|event| matches!(event, Event::Settled { result: Err(error), .. } if error.code() == "timeout"));
    assert_eq!(timeouts.count(), 64);
    for _ in 0..2 {
        session.request(millis(10_000), "move", "x".repeat(32_000)).expect("there is room");
    }
    assert_eq!(code(session.request(now, "move", "x".repeat(32_000))), "queue_full", "64 KiB");
    session.leave();
    assert_eq!(code(session.request(now, "move", 1)), "closed");
}

#[test]
fn a_single_request_may_be_larger_than_the_queue() {
    let mut session = Session::new("ws://a/ws/chess", Options::default(), || 0).expect("an address");
    let id = connected(&mut session);
    session.handle_text(Time::ZERO, id, &WELCOME.replace("65536", "200000"));
    session.handle_text(Time::ZERO, id, LIST);
    let large = "x".repeat(100_000);
    session.request(Time::ZERO, "move", &large).expect("nothing else is kept");
    assert_eq!(code(session.request(Time::ZERO, "move", 1)), "queue_full");
    session.handle_text(Time::ZERO, id, r#"{"type":"ack","ref":1,"seq":3}"#);
    session.request(Time::ZERO, "move", 1).expect("there is room");
    assert_eq!(code(session.request(Time::ZERO, "move", &large)), "queue_full", "another one is kept");
    assert_eq!(code(session.request(Time::ZERO, "move", "x".repeat(200_000))), "too_large");
}

#[test]
fn an_application_that_has_left_hears_of_its_requests_only() {
    let (mut session, id) = joined();
    session.handle_text(Time::ZERO, id, r#"{"type":"message","from":"bob","seq":3,"data":1}"#);
    session.handle_binary(Time::ZERO, id, b"x");
    let asked = session.request(Time::ZERO, "move", 1).expect("there is room");
    session.leave();
    let told = events(&mut session);
    assert!(told.iter().all(|event| matches!(event, Event::Connection { .. } | Event::Settled { .. })), "{told:?}");
    let is_settled = |event: &Event| matches!(event, Event::Settled { id, result: Err(_) } if *id == asked);
    assert!(told.iter().any(is_settled), "{told:?}");
    assert!(matches!(told.last(), Some(Event::Connection { state: State::Closed, .. })), "{told:?}");
}

#[test]
fn data_of_an_unknown_seat_cannot_be_the_own() {
    let mut session = Session::new("ws://a/ws/chess", Options::default(), || 0).expect("an address");
    assert_eq!(code(session.set(Time::ZERO, Of::Me, json!({"ready": true}))), "user_not_found");
}

#[test]
fn the_servers_clock_is_known_after_the_welcome() {
    let mut session = Session::new("ws://a/ws/chess", Options::default(), || 0).expect("an address");
    let id = connected(&mut session);
    assert_eq!(session.now(Time::ZERO), None);
    session.handle_text(millis(100), id, WELCOME);
    assert_eq!((session.now(millis(150)), session.latency()), (Some(1_700_000_000_050), None));
    // The answer to the ping of the welcome: half of the round trip is the way back.
    session.handle_text(millis(300), id, r#"{"type":"pong","ref":"100000","server_time":1700000000500}"#);
    assert_eq!(
        (session.now(millis(300)), session.latency()),
        (Some(1_700_000_000_600), Some(Duration::from_millis(200)))
    );
    session.handle_text(millis(301), id, r#"{"type":"pong","ref":"900000000","server_time":0}"#);
    assert_eq!(session.latency(), Some(Duration::from_millis(200)), "an answer to no ping");
}

#[test]
fn a_refused_volatile_message_is_an_event() {
    let (mut session, id) = joined();
    events(&mut session);
    assert_eq!(session.send(Time::ZERO, "cursor", json!({"x": 1})), Ok(true));
    session.handle_text(Time::ZERO, id, r#"{"type":"error","code":"not_allowed","message":"watchers only watch"}"#);
    let [Event::Error(error)] = &events(&mut session)[..] else { panic!("an error") };
    assert_eq!((error.code(), &*error.to_string()), ("not_allowed", "not_allowed: watchers only watch"));
}

#[test]
fn what_was_not_polled_of_a_lost_connection_is_not_sent() {
    let (mut session, id) = joined();
    session.request(Time::ZERO, "move", 1).expect("there is room");
    session.handle_closed(Time::ZERO, id, 1006, "");
    assert_eq!(session.poll_action(), None);
    // It is sent on the next connection, with its number.
    let id = lost(&mut session);
    session.handle_text(Time::ZERO, id, &WELCOME.replace("\"resumed\":false", "\"resumed\":true,\"recovered\":true"));
    let text = r#"{"type":"move","data":1,"ref":1}"#.to_owned();
    assert_eq!(session.poll_action(), Some(Action::Send(id, Outgoing::Text(text))));
}

#[test]
fn names_of_sessions_are_shown_nowhere() {
    let options = Options { was: Some("0123456789abcdef".to_owned()), ..Options::default() };
    let mut session = Session::new("ws://a/ws/chess", options.clone(), || 0x1234_5678_9abc_def0).expect("an address");
    session.connect(Time::ZERO);
    let Some(Action::Connect(attempt)) = session.poll_action() else { panic!("an attempt") };
    assert!(attempt.target().contains("session=123456789abcdef0123456789abcdef0&was=0123456789abcdef"));
    let shown = format!("{options:?} {session:?} {attempt:?}");
    assert!(!shown.contains("0123456789abcdef") && !shown.contains("9abcdef0"), "{shown}");
}

//! Servers that send anything: a client does not panic, and its memory is bounded.

use std::time::Duration;

use lobbyd::client::{Action, AttemptId, Event, Of, Options, RequestId, Session, State};
use lobbyd::{Random, Time};
use serde_json::{Value, json};

use super::by_hand::{LIST, STATE, WELCOME, connected, joined, lost};

/// Messages of a server, of every type.
const MESSAGES: &[&str] = &[
    WELCOME,
    r#"{"type":"welcome","conn":"s2","user":"ann","lobby":"go","epoch":8,"resumed":false,"recovered":false,"server_time":1,"done":9,"refused":"ffff","n":3}"#,
    r#"{"type":"welcome","conn":"s1","user":"ann","lobby":"chess","epoch":7,"resumed":true,"recovered":true,"done":2,"refused":"1","control":true}"#,
    r#"{"type":"presence_state","seq":2,"users":[{"user":"ann","conn":"s1"},{"user":"bob","conn":"s2","away":true,"data":{"team":"red"}}]}"#,
    r#"{"type":"presence_state","seq":3,"count":600}"#,
    r#"{"type":"presence_diff","seq":4,"joins":[{"user":"cy","conn":"s3"}],"leaves":[{"user":"bob","conn":"s2","reason":"left"}],"away":[{"user":"ann","conn":"s1"}],"back":[{"conn":"s1"}]}"#,
    r#"{"type":"lobby_state","seq":4,"host":"s1","settings":{"max":8,"tags":{}},"data":{"round":1},"watchers":2,"countdown":1700000009000}"#,
    r#"{"type":"state","seq":5,"by":"bob","data":{"round":2,"map":null}}"#,
    r#"{"type":"state","seq":6,"by":null,"conn":"s1","data":{"ready":true}}"#,
    r#"{"type":"host","seq":7,"conn":"s2"}"#,
    r#"{"type":"settings","seq":8,"by":"ann","settings":{"locked":true,"start":{"min":2}}}"#,
    r#"{"type":"countdown","seq":9,"at":1700000011000}"#,
    r#"{"type":"start","seq":10,"seats":[{"user":"ann","conn":"s1"}]}"#,
    r#"{"type":"message","from":"bob","seq":11,"data":{"type":"move","to":"e4","ref":1}}"#,
    r#"{"type":"message","from":null,"data":[[[1.5e300,"\ud83d\ude00"]]]}"#,
    r#"{"type":"direct","from":"bob","n":4,"data":"psst"}"#,
    r#"{"type":"ack","ref":1,"seq":12,"delivered":1,"dropped":0}"#,
    r#"{"type":"error","ref":2,"code":"conflict","message":"…","seq":12,"data":{"a":1}}"#,
    r#"{"type":"error","code":"rate_limited","message":"slower","ref":3,"retry_after_ms":9007199254740991}"#,
    r#"{"type":"pong","ref":"0","server_time":9007199254740991}"#,
    r#"{"type":"health_ping","timestamp":17}"#,
    r#"{"type":"goodbye","code":4103,"reason":"reconnect","reconnect":true,"retry_after_ms":9007199254740991,"url":"wss://[::1]:1"}"#,
    r#"{"type":"goodbye","code":4004,"reason":"replaced","reconnect":false}"#,
    r#"{"type":"lobbies","lobbies":[{"code":"bcdfg","name":null,"tags":{"game":"chess"},"members":1,"max":4,"has_password":false}],"more":true}"#,
    r#"{"type":"lobbies_diff","set":[{"code":"xwvtz"}],"gone":["bcdfg"]}"#,
];

/// Values in place of those that a field should have.
const VALUES: &[&str] = &[
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "1e400",
    "-0.0",
    "9007199254740992",
    "18446744073709551616",
    "\"\"",
    "\"s1\"",
    "\"..\"",
    "\"\\u0000\"",
    "[]",
    "{}",
    "[null,1,{}]",
    "{\"conn\":\"s1\"}",
    "{\"type\":\"gap\",\"ref\":null}",
    "[[[[[[]]]]]]",
];

fn pick<'a>(random: &mut Random, texts: &[&'a str]) -> &'a str {
    texts[random.below(texts.len() as u64) as usize]
}

/// Replaces a value somewhere in the message.
fn replace(value: &mut Value, random: &mut Random) {
    let inner = match value {
        Value::Object(map) if !map.is_empty() => {
            let at = random.below(map.len() as u64) as usize;
            map.values_mut().nth(at)
        }
        Value::Array(values) if !values.is_empty() => {
            let at = random.below(values.len() as u64) as usize;
            values.get_mut(at)
        }
        _ => None,
    };
    match inner.filter(|_| random.percent(80)) {
        Some(inner) => replace(inner, random),
        None => *value = serde_json::from_str(pick(random, VALUES)).unwrap_or(json!(1e308)),
    }
}

/// Returns a message of a server that is mostly damaged.
fn message(random: &mut Random) -> String {
    let mut text = pick(random, MESSAGES);
    // It ends the session, or delays it.
    if text.contains("goodbye") && random.percent(90) {
        text = WELCOME;
    }
    match random.below(6) {
        0 | 1 => text.to_owned(),
        2 => text.chars().take(random.below(text.len() as u64) as usize).collect(),
        3 => {
            let at = random.below(text.len() as u64) as usize;
            let with = pick(random, &["{", "}", "\"", ",", ":", "9", "\\", "ä", "null", "\0", "[["]);
            text.char_indices().map(|(here, c)| if here == at { with.to_owned() } else { c.to_string() }).collect()
        }
        4 => pick(random, VALUES).to_owned(),
        _ => {
            let mut value: Value = serde_json::from_str(text).expect("JSON");
            let kind = value["type"].clone();
            for _ in 0..=random.below(3) {
                replace(&mut value, random);
            }
            if let Some(fields) = value.as_object_mut() {
                fields.insert("type".to_owned(), kind);
            }
            value.to_string()
        }
    }
}

#[derive(Default)]
struct Books {
    connections: Vec<AttemptId>,
    started: Vec<RequestId>,
    settled: Vec<RequestId>,
}

impl Books {
    fn drain(&mut self, session: &mut Session) {
        while let Some(action) = session.poll_action() {
            if let Action::Connect(attempt) = action {
                assert!(attempt.target().is_ascii() && !attempt.target().contains(' '), "{}", attempt.target());
                self.connections.push(attempt.id());
            }
        }
        while let Some(event) = session.poll_event() {
            if let Event::Settled { id, .. } = event {
                self.settled.push(id);
            }
        }
    }
}

/// One step of a driver, an application, or a server.
fn step(session: &mut Session, now: &mut Time, books: &mut Books, random: &mut Random) {
    let newest = books.connections.len().saturating_sub(if random.percent(95) { 1 } else { 2 });
    let connection = books.connections.get(newest).copied();
    match (random.below(40), connection) {
        (0, Some(id)) => {
            let code =
                if random.percent(90) { 1006 } else { [1000, 4001, 4003, 4004, 65535][random.below(5) as usize] };
            session.handle_closed(*now, id, code, pick(random, &["", "token_expired", "kicked"]));
        }
        (1, Some(id)) => session.handle_failed(*now, id, "no_connection"),
        (2, Some(id)) => session.handle_refused(*now, id, 503, Some(Duration::from_secs(random.below(9)))),
        (3, Some(id)) => session.handle_binary(*now, id, &[0; 9]),
        (4, Some(id)) => session.handle_unwritten(id, random.below(1 << 17) as usize),
        (5, _) => session.wake(*now, random.percent(50)),
        (6 | 7, _) => {
            let payload: Value = serde_json::from_str(pick(random, VALUES)).unwrap_or_default();
            books.started.extend(session.request(*now, "move", payload));
        }
        (8, _) => books.started.extend(session.set(*now, Of::Me, json!({"ready": true}))),
        (9, _) => books.started.extend(session.hand_over(*now, "s2")),
        (10, _) => drop(session.send(*now, "cursor", json!({"x": 1}))),
        (11..=15, _) => {
            let wait = if random.percent(90) { random.below(20_000_000) } else { random.below(1 << 60) };
            *now = session
                .poll_timeout()
                .filter(|_| random.percent(70))
                .unwrap_or(*now + Duration::from_micros(wait))
                .max(*now);
            session.handle_timeout(*now);
            assert!(session.poll_timeout().is_none_or(|next| next > *now), "it makes progress");
        }
        (_, Some(id)) => session.handle_text(*now, id, &message(random)),
        _ => {}
    }
}

#[test]
fn no_server_makes_a_client_panic_or_forget_a_request() {
    let (mut opens, mut outcomes) = (0, 0);
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut draws = Random::new(!seed);
        let draw = move || draws.next_u64();
        let options = Options { was: random.percent(20).then(|| "0123456789abcdef".to_owned()), ..Options::default() };
        let mut session = match random.below(5) {
            0 => Session::list("ws://a/ws/~lobbies", &Default::default(), options, draw),
            _ => Session::new("ws://a/ws/~quick/b?role=watch", options, draw),
        }
        .expect("an address");
        let (mut now, mut books) = (Time::ZERO, Books::default());
        session.connect(now);
        for _ in 0..400 {
            step(&mut session, &mut now, &mut books, &mut random);
            opens += u32::from(session.state() == State::Open);
            if random.percent(90) {
                books.drain(&mut session);
            }
        }
        session.leave();
        books.drain(&mut session);
        assert_eq!((session.state(), session.poll_timeout()), (State::Closed, None));
        books.settled.sort();
        assert_eq!(books.started, books.settled, "seed {seed}: each request has one outcome");
        outcomes += books.settled.len();
    }
    assert!(opens > 3_000 && outcomes > 1_000, "{opens} steps with an open session, {outcomes} outcomes");
}

#[test]
fn every_beginning_of_a_message_is_ignored_or_read() {
    for text in MESSAGES {
        for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
            let (mut session, id) = joined();
            let seq = session.seq();
            session.handle_text(Time::ZERO, id, &text[..end]);
            assert_eq!((session.state(), session.seq()), (State::Open, seq), "{}", &text[..end]);
        }
    }
}

#[test]
fn events_that_are_not_polled_end_the_connection_and_lose_nothing() {
    let (mut session, id) = joined();
    let data = "x".repeat(1000);
    let text = |seq: u64| format!(r#"{{"type":"message","from":"bob","seq":{seq},"data":"{data}"}}"#);
    let mut seq = session.seq();
    while session.has_room() {
        seq += 1;
        session.handle_text(Time::ZERO, id, &text(seq));
    }
    assert!((3000..4500).contains(&seq), "4 MiB: {seq} messages");
    session.handle_text(Time::ZERO, id, &text(seq + 1));
    assert_eq!(session.poll_action(), Some(Action::Close(id, None)));
    assert_eq!((session.state(), session.seq()), (State::Waiting, seq));
    assert_eq!(session.request(Time::ZERO, "move", 1).expect_err("no room for its outcome").code(), "queue_full");
    // The server replays what was not read.
    let mut events = std::iter::from_fn(|| session.poll_event());
    let messages = events.by_ref().filter(|event| matches!(event, Event::Message(_))).count();
    assert_eq!(messages as u64, seq - 2);
    let id = lost(&mut session);
    assert!(session.has_room());
    session.handle_text(Time::ZERO, id, &WELCOME.replace("\"resumed\":false", "\"resumed\":true,\"recovered\":true"));
    session.handle_text(Time::ZERO, id, &text(seq + 1));
    assert_eq!(session.seq(), seq + 1);
}

#[test]
fn events_before_the_first_list_that_cannot_be_polled_are_dropped_as_a_gap() {
    let mut session = Session::new("ws://a/ws/chess", Options::default(), || 1 << 63).expect("an address");
    let id = connected(&mut session);
    session.handle_text(Time::ZERO, id, WELCOME);
    let message = json!({"type": "message", "from": "bob", "data": "x".repeat(1000)}).to_string();
    while session.has_room() {
        session.handle_text(Time::ZERO, id, &message);
    }
    session.handle_text(Time::ZERO, id, &message);
    assert_eq!(session.state(), State::Waiting);
    assert!(session.has_room(), "the next connection is read");
    let id = lost(&mut session);
    for text in [WELCOME, LIST, STATE] {
        session.handle_text(Time::ZERO, id, text);
    }
    assert_eq!(session.state(), State::Open);
    let events: Vec<Event> = std::iter::from_fn(|| session.poll_event()).collect();
    assert!(events.contains(&Event::Gap) && !events.iter().any(|event| matches!(event, Event::Message(_))));
}

#[test]
fn events_weigh_the_data_of_the_members_that_they_keep() {
    let big = "x".repeat(900_000);
    let changes: [fn(u64) -> Value; 3] = [
        |n| json!({"type": "state", "seq": n, "by": "bob", "conn": "s2", "data": {"k": n}}),
        |n| json!({"type": "presence_diff", "seq": n, if n % 2 == 0 { "away" } else { "back" }: [{"conn": "s2"}]}),
        |n| json!({"type": "host", "seq": n, "conn": if n % 2 == 0 { "s2" } else { "s1" }}),
    ];
    for change in changes {
        let (mut session, id) = joined();
        let state = json!({"type": "state", "seq": 3, "by": "bob", "conn": "s2", "data": {"big": big}});
        session.handle_text(Time::ZERO, id, &state.to_string());
        while session.poll_event().is_some() {}
        let kept = (4..).take_while(|&n| {
            session.handle_text(Time::ZERO, id, &change(n).to_string());
            session.has_room()
        });
        let kept = kept.count();
        assert!((3..12).contains(&kept), "events with 900 kB each, within 4 MiB: {kept}");
    }
}

/// Sends messages that leave 1 MB each in the events, until the client reads no more. Returns how many.
#[track_caller]
fn messages_until_full(message: &str) -> u64 {
    let (mut session, id) = joined();
    let message = message.replace("BIG", &"x".repeat(1_000_000));
    for number in 1..100 {
        session.handle_text(Time::ZERO, id, &message.replace("NUMBER", &(10 + number).to_string()));
        if !session.has_room() {
            return number;
        }
    }
    panic!("the client takes everything");
}

#[test]
fn every_text_in_an_event_counts() {
    for message in [
        r#"{"type":"message","from":"bob","seq":NUMBER,"data":"BIG"}"#,
        r#"{"type":"message","from":"BIG","seq":NUMBER,"data":1}"#,
        r#"{"type":"message","from":"bob","seq":NUMBER,"data":{"type":"BIG"}}"#,
        r#"{"type":"presence_diff","seq":NUMBER,"joins":[{"user":"BIG","conn":"cNUMBER"}],"leaves":[]}"#,
        r#"{"type":"presence_diff","seq":NUMBER,"joins":[{"user":"cy","conn":"cNUMBER","data":{"a":"BIG"}}],"leaves":[]}"#,
        r#"{"type":"presence_diff","seq":NUMBER,"joins":[],"leaves":[{"user":"BIG","conn":"cNUMBER"}]}"#,
        r#"{"type":"presence_diff","seq":NUMBER,"joins":[],"leaves":[{"user":"cy","conn":"cNUMBER","reason":"BIG"}]}"#,
        r#"{"type":"state","seq":NUMBER,"by":"BIG","data":{"round":NUMBER}}"#,
        r#"{"type":"state","seq":NUMBER,"by":"bob","data":{"aNUMBER":"BIG"}}"#,
        r#"{"type":"settings","seq":NUMBER,"by":"BIG","settings":{"max":NUMBER}}"#,
        r#"{"type":"start","seq":NUMBER,"seats":[{"user":"BIG","conn":"s1"}]}"#,
        r#"{"type":"error","code":"BIG"}"#,
        r#"{"type":"error","code":"bad_message","message":"BIG"}"#,
    ] {
        let count = messages_until_full(message);
        assert!((3..=5).contains(&count), "4 MiB: {count} messages such as {message}");
    }
}

#[test]
fn a_reason_that_fits_no_close_frame_is_not_copied_into_each_request() {
    let (mut session, id) = joined();
    for _ in 0..64 {
        session.request(Time::ZERO, "move", 1).expect("there is room");
    }
    let goodbye = json!({"type": "goodbye", "code": 4003, "reason": "x".repeat(1_000_000), "reconnect": false});
    session.handle_text(Time::ZERO, id, &goodbye.to_string());
    session.handle_closed(Time::ZERO, id, 4003, "kicked");
    assert_eq!((session.state(), session.has_room()), (State::Closed, true));
    let codes = std::iter::from_fn(|| session.poll_event()).filter_map(|event| match event {
        Event::Settled { result, .. } => Some(result.expect_err("it was not answered").code().to_owned()),
        _ => None,
    });
    assert_eq!(codes.collect::<Vec<_>>(), ["closed"; 64]);
}

/// Sends messages until the client leaves the server for good. Returns how many.
#[track_caller]
fn flood(mut text: impl FnMut(u64) -> String) -> u64 {
    let (mut session, id) = joined();
    for number in 0..100_000 {
        session.handle_text(Time::ZERO, id, &text(number));
        while session.poll_action().is_some() {}
        while let Some(event) = session.poll_event() {
            if let Event::Connection { state: State::Closed, why } = event {
                let why = why.expect("a reason");
                assert_eq!((why.code, &*why.reason), (1009, "too_large"));
                return number;
            }
        }
    }
    panic!("the client takes everything");
}

#[test]
fn what_is_known_of_a_lobby_is_bounded() {
    let joins = flood(|number| {
        let members: Vec<Value> = (0..100).map(|at| json!({"user": "x", "conn": format!("{number}-{at}")})).collect();
        json!({"type": "presence_diff", "seq": number, "joins": members, "leaves": []}).to_string()
    });
    assert!((500..1000).contains(&joins), "about 60,000 members: {joins}");
    flood(|number| {
        json!({"type": "state", "seq": number, "by": "bob", "data": {format!("{number}"): "x".repeat(10_000)}})
            .to_string()
    });
    flood(|number| json!({"type": "settings", "settings": {format!("{number}"): vec![0; 10_000]}}).to_string());
    assert_eq!(flood(|_| " ".repeat((1 << 20) + 1)), 0);
}

#[test]
fn a_list_of_lobbies_is_bounded() {
    let mut session =
        Session::list("ws://a/ws/~lobbies", &Default::default(), Options::default(), || 1 << 63).expect("an address");
    let id = connected(&mut session);
    for number in 0.. {
        let set: Vec<Value> =
            (0..100).map(|at| json!({"code": format!("{number}-{at}"), "name": "x".repeat(100)})).collect();
        session.handle_text(Time::ZERO, id, &json!({"type": "lobbies_diff", "set": set}).to_string());
        while session.poll_event().is_some() {}
        if session.state() == State::Closed {
            return assert!((300..1000).contains(&number), "{number}");
        }
    }
}

#[test]
fn a_server_that_asks_without_reading_gets_no_answers_without_an_end() {
    let (mut session, id) = joined();
    for number in 0..100_000 {
        session.handle_text(Time::ZERO, id, &json!({"type": "health_ping", "timestamp": number}).to_string());
    }
    let mut actions = std::iter::from_fn(|| session.poll_action());
    assert!((1000..2500).contains(&actions.by_ref().count()), "64 KiB");
    session.handle_unwritten(id, 65_537);
    session.handle_text(Time::ZERO, id, r#"{"type":"health_ping","timestamp":1}"#);
    assert_eq!(
        (session.poll_action(), session.send(Time::ZERO, "cursor", 1)),
        (None, Ok(false)),
        "the driver has as much unwritten"
    );
    session.handle_unwritten(id, 0);
    session.handle_text(Time::ZERO, id, r#"{"type":"health_ping","timestamp":1}"#);
    assert!(session.poll_action().is_some());
}

#[test]
fn a_lobby_whose_name_is_no_code_leads_nowhere_else() {
    let (mut session, id) = joined();
    session.handle_text(Time::ZERO, id, &WELCOME.replace("\"chess\"", "\"../../admin?x=1 HTTP/1.1\\r\\n\""));
    session.handle_closed(Time::ZERO, id, 1006, "");
    session.handle_timeout(session.poll_timeout().expect("the next attempt"));
    let target = std::iter::from_fn(|| session.poll_action()).find_map(|action| match action {
        Action::Connect(attempt) => Some(attempt.target()),
        _ => None,
    });
    let target = target.expect("an attempt");
    assert!(target.starts_with("/ws/%2E%2E%2F%2E%2E%2Fadmin%3Fx%3D1%20HTTP%2F1%2E1%0D%0A?"), "{target}");
}

#[test]
fn data_that_this_parser_cannot_read_are_a_message_like_others() {
    let (mut session, id) = joined();
    while session.poll_event().is_some() {}
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    session.handle_text(Time::ZERO, id, &format!(r#"{{"type":"message","from":"bob","seq":3,"data":{deep}}}"#));
    let Some(Event::Message(message)) = session.poll_event() else { panic!("a message") };
    assert_eq!((message.json(), session.seq()), (&*deep, 3));
    assert!(message.data::<Value>().is_err());
}

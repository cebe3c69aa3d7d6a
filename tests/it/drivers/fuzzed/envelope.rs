//! One text message of a member, compared with the way serde_json reads it.

use std::collections::BTreeMap;

use lobbyd::apps::Relay;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Opcode, Reader, Received};
use lobbyd::{ConnId, Engine, Time};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{START, without_rates};

pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut engine = Engine::new(without_rates().check().expect("the configuration is valid"), START, Relay::default());
    let mut clients: Vec<(ConnId, Reader)> = Vec::new();
    for user in ["ann", "bob"] {
        let conn = engine.handle_accept(Time::ZERO, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        engine.handle_bytes(Time::ZERO, conn, &wire::upgrade_request(&format!("/ws/a?token={user}"), &[]));
        clients.push((conn, Reader::default()));
        turn(&mut engine, &mut clients);
    }
    clients.iter_mut().for_each(|(_, reader)| drop(received(reader)));
    engine.handle_bytes(Time::ZERO, clients[0].0, &wire::frame(Opcode::TEXT, true, text.as_bytes(), [1, 2, 3, 4]));
    turn(&mut engine, &mut clients);
    engine.check();
    let answers = received(&mut clients[0].1);
    let delivered = received(&mut clients[1].1);

    let Ok(Object(fields)) = serde_json::from_str(text) else {
        assert_refused(&answers, &delivered);
        return;
    };
    let (depth, is_paired) = depth_and_pairs(text);
    if depth > 128 || !is_paired || has_infinite_number(text) {
        return assert_refused(&answers, &delivered);
    }
    // serde_json limits numbers and depth. Beyond them, less is checked.
    let value = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).ok();
    let field = |name: &str| fields.get(name).and_then(|raws| value(raws[0]));
    let reserved = ["type", "ref", "data", "to", "timestamp"];
    if reserved.iter().any(|&name| fields.get(name).is_some_and(|raws| raws.len() > 1)) {
        return assert_refused(&answers, &delivered);
    }
    let Some(Value::String(kind)) = field("type").filter(|kind| kind != "") else {
        return assert_refused(&answers, &delivered);
    };
    // An optional field that is null is absent.
    let reference = field("ref").filter(|value| *value != Value::Null);
    let is_valid = match &reference {
        // A number so near to the largest double that serde_json rounds it to infinity.
        None if fields.get("ref").is_some_and(|raws| raws[0].get() != "null") => return,
        None => true,
        Some(Value::String(text)) => text.len() <= 64,
        Some(Value::Number(number)) => {
            let double = number.as_f64().expect("every number has a double");
            let is_integral = double.fract() == 0.0 && double.abs() < 2_f64.powi(53);
            // A double of up to fifteen digits is exact. With more digits it may only be near an integer.
            if is_integral && fields["ref"][0].get().len() > 15 {
                return;
            }
            is_integral
        }
        Some(_) => false,
    };
    if !is_valid {
        return assert_refused(&answers, &delivered);
    }
    let sent_data = fields.get("data").map(|raws| raws[0].get());
    let answered: Vec<&Value> = answers.iter().filter(|answer| answer["ref"] != Value::Null).collect();
    match &reference {
        Some(reference) => {
            let [answer] = &answered[..] else { panic!("one answer for one ref: {answers:?}") };
            assert_eq!(&answer["ref"], reference);
        }
        None => assert!(answered.is_empty(), "{answers:?}"),
    }
    let refused = answers.iter().any(|answer| answer["type"] == "error");
    match kind.as_str() {
        "broadcast" => {
            assert_eq!(refused, sent_data.is_none());
            assert_eq!(delivered.len(), usize::from(!refused));
        }
        "direct" => {
            let to_bob = field("to") == Some("bob".into());
            assert!(!to_bob || refused == sent_data.is_none());
        }
        "presence" | "ping" | "leave" => assert!(!refused),
        "welcome" | "presence_state" | "presence_diff" | "message" | "ack" | "error" | "pong" | "health_ping"
        | "goodbye" => assert_refused(&answers, &delivered),
        "health_pong" => {}
        _ => {
            assert!(!refused);
            let [message] = &delivered[..] else { panic!("everything else is passed on: {delivered:?}") };
            assert_eq!(message["type"], "message");
            // Only if serde_json can read the message.
            if let Ok(sent) = serde_json::from_str::<Value>(text) {
                assert_eq!((&message["data"], &message["from"]), (&sent, &"ann".into()));
            }
        }
    }
}

/// Returns how deep valid JSON is nested, and whether the surrogates in each of its strings are paired.
fn depth_and_pairs(json: &str) -> (i32, bool) {
    let (mut depth, mut deepest, mut is_paired) = (0, 0, true);
    let mut chars = json.chars();
    while let Some(c) = chars.next() {
        depth += i32::from(c == '[' || c == '{') - i32::from(c == ']' || c == '}');
        deepest = deepest.max(depth);
        if c != '"' {
            continue;
        }
        let mut units = Vec::new();
        while let Some(c) = chars.next().filter(|&c| c != '"') {
            match (c, if c == '\\' { chars.next() } else { None }) {
                (_, Some('u')) => {
                    let digits: String = chars.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).expect("four digits"));
                }
                (_, Some(_)) => units.push(0),
                (c, None) => units.extend(c.encode_utf16(&mut [0; 2]).iter()),
            }
        }
        is_paired &= char::decode_utf16(units).all(|decoded| decoded.is_ok());
    }
    (deepest, is_paired)
}

/// Returns whether valid JSON has a number that a double holds only as infinity.
fn has_infinite_number(json: &str) -> bool {
    // Without escapes, every second part between quotes is a string.
    let plain = json.replace("\\\\", "").replace("\\\"", "");
    let mut outside = plain.split('"').step_by(2);
    outside.any(|part| {
        let words = part.split([' ', '\t', '\n', '\r', ',', ':', '[', ']', '{', '}']);
        words.filter_map(|word| word.parse::<f64>().ok()).any(f64::is_infinite)
    })
}

#[track_caller]
fn assert_refused(answers: &[Value], delivered: &[Value]) {
    assert!(delivered.is_empty(), "it is not relayed: {delivered:?}");
    let [answer] = answers else { panic!("one error: {answers:?}") };
    assert_eq!((&answer["type"], &answer["code"]), (&"error".into(), &"bad_message".into()));
}

fn turn(engine: &mut Engine<Relay>, clients: &mut [(ConnId, Reader)]) {
    let mut sockets = MemorySockets::default();
    engine.flush(&mut sockets).expect("the session is not recorded");
    clients.iter_mut().for_each(|(conn, reader)| reader.push(&sockets.written(*conn)));
}

/// The messages a client received. Data nested deeper than serde_json reads appears as `null`.
fn received(reader: &mut Reader) -> Vec<Value> {
    let mut texts = Vec::new();
    while let Some(received) = reader.next().expect("the server keeps to the protocol") {
        if let Received::Text(text) = received {
            let Object(fields) = serde_json::from_str(&text).expect("the server speaks JSON");
            let read = |raws: &Vec<&RawValue>| serde_json::from_str(raws[0].get()).unwrap_or(Value::Null);
            texts.push(fields.iter().map(|(name, raws)| (name.clone(), read(raws))).collect());
        }
    }
    texts
}

/// A JSON object with all values of each key.
struct Object<'a>(BTreeMap<String, Vec<&'a RawValue>>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = BTreeMap<String, Vec<&'de RawValue>>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = BTreeMap::<String, Vec<&RawValue>>::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    fields.entry(name).or_default().push(value);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Fields).map(Object)
    }
}

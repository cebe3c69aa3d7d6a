//! JSON that strict parsers refuse, and types that only the server sends: a member's message with either is malformed.

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::operator::{OperatorAnswer, OperatorCommand, OperatorRefusal, Payload};
use lobbyd::{Config, Engine};

use super::three::THREE;
use crate::common::scenario::{START, World, set};

/// Texts with half of a surrogate pair, as the contents of a JSON string.
const LONE: &[&str] = &[
    r"\ud800",
    r"\uDFFF",
    r"a\uDbFf",
    r"\udc00b",
    r"\ud800\ud800\udc00",
    r"\ud83d x \ude00",
    r"\ud83d\n\ude00",
    r"\ud83d\\ude00",
    r"\ude00\ud83d",
    r"\ud83d\ude00\ude00",
    r"\ud83d\u0041",
    r"\\\ud800",
];

/// Texts without one.
const PAIRED: &[&str] = &[
    r"\ud83d\ude00",
    r"\uD83D\uDE00",
    r"\\ud800",
    r"\\\\ud800",
    r"\u0041\ud7ff\ue000\uffff",
    r#"\"\ud800\udc00\""#,
    r"\\\ud83d\ude00\\",
];

/// A config in which no number of malformed messages closes a connection.
fn config(max_json_depth: &str) -> Config {
    let mut config = Config { max_strikes: u32::MAX, ..Config::default() };
    set(&mut config, "max_json_depth", max_json_depth).expect("a limit");
    for rate in ["messages_per_second", "bytes_per_second"] {
        set(&mut config, rate, "unlimited").expect("a limit");
    }
    config
}

fn world(max_json_depth: &str) -> World<Relay> {
    let mut world = World::new(config(max_json_depth), Relay::default());
    world.run(THREE);
    world
}

/// Ann sends a message with `ref` 7, which reaches bob and cid as a message with `data`.
#[track_caller]
fn check_relayed(world: &mut World<Relay>, text: &str, data: &str) {
    world.act("ann", text);
    world.flush();
    world.steps("ann < ack ref=7");
    for name in ["bob", "cid"] {
        let [got] = &world.take(name)[..] else { panic!("{name} gets one message: {text}") };
        assert!(got.ends_with(&format!(r#","data":{data}}}"#)), "{text}: {got}");
    }
}

#[track_caller]
fn check_refused(world: &mut World<Relay>, text: &str, reference: &str) {
    let strikes = world.engine.stats().counters.rejected(lobbyd::Reject::BadMessage);
    world.act("ann", text);
    world.flush();
    world.steps(&format!("ann < error code=bad_message {reference}\nbob < nothing\ncid < nothing"));
    assert_eq!(world.engine.stats().counters.rejected(lobbyd::Reject::BadMessage), strikes + 1, "{text}");
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    format!("{}{}", open.repeat(depth), close.repeat(depth))
}

#[test]
fn json_nested_deeper_than_the_bound_is_a_bad_message() {
    for (bound, depth) in [("128", 128), ("1", 1), ("3", 3), ("500", 500)] {
        let mut world = world(bound);
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a]":"#, "}]")] {
            let step = open.matches(['[', '{']).count();
            // The message itself is one level.
            let levels = (depth - 1) / step;
            let inner = if open == "[" { "" } else { "0" };
            let data = |levels: usize| format!("{}{inner}{}", open.repeat(levels), close.repeat(levels));
            if levels > 0 {
                let fits = data(levels);
                check_relayed(&mut world, &format!(r#"{{"type":"broadcast","data":{fits},"ref":7}}"#), &fits);
            }
            let deep = data(levels + 1);
            check_refused(&mut world, &format!(r#"{{"type":"broadcast","data":{deep},"ref":7}}"#), "ref=7");
            check_refused(&mut world, &format!(r#"{{"type":"direct","to":"bob","data":{deep}}}"#), "!ref");
            check_refused(&mut world, &format!(r#"{{"type":"move","at":{deep},"ref":7}}"#), "ref=7");
            check_refused(&mut world, &format!(r#"{{"type":"ping","at":{deep},"ref":7}}"#), "ref=7");
        }
        // Wide is not deep, and a bracket in a string nests nothing.
        let strings = format!(r#"["{}","\"{}\\"]"#, "[{".repeat(600), "[".repeat(600));
        let wide = format!("[{}1]", "[],".repeat(600));
        for data in [strings, wide].iter().filter(|_| depth >= 3) {
            check_relayed(&mut world, &format!(r#"{{"type":"broadcast","data":{data},"ref":7}}"#), data);
        }
    }
    let mut world = world("unlimited");
    let deep = nested("[", "]", 30_000);
    check_relayed(&mut world, &format!(r#"{{"type":"broadcast","data":{deep},"ref":7}}"#), &deep);
}

#[test]
fn half_of_a_surrogate_pair_is_a_bad_message() {
    let mut world = world("128");
    for &text in LONE {
        check_refused(&mut world, &format!(r#"{{"type":"broadcast","data":"{text}","ref":7}}"#), "ref=7");
        check_refused(&mut world, &format!(r#"{{"type":"broadcast","data":[{{"{text}":1}}],"ref":7}}"#), "ref=7");
        check_refused(&mut world, &format!(r#"{{"type":"direct","to":"bob","data":["{text}"],"ref":7}}"#), "ref=7");
        check_refused(&mut world, &format!(r#"{{"type":"move","at":["","{text}"],"ref":7}}"#), "ref=7");
        check_refused(&mut world, &format!(r#"{{"type":"ping","extra":"{text}","ref":7}}"#), "ref=7");
        check_refused(&mut world, &format!(r#"{{"type":"move","{text}":0,"ref":7}}"#), "ref=7");
        check_refused(&mut world, &format!(r#"{{"ref":"a\"b","{text}":{{}},"type":"ping"}}"#), r#"ref="a\"b""#);
        check_refused(&mut world, &format!(r#"{{"type":"move","ref":"{text}"}}"#), "!ref");
        check_refused(&mut world, &format!(r#"{{"type":"x{text}"}}"#), "!ref");
        check_refused(&mut world, &format!(r#"{{"type":"direct","to":"bob{text}","data":0}}"#), "!ref");
    }
    for &text in PAIRED {
        let data = format!(r#"["{text}",{{"{text}":"{text}"}}]"#);
        check_relayed(&mut world, &format!(r#"{{"type":"broadcast","data":{data},"ref":7}}"#), &data);
    }
}

/// Returns numbers beyond the largest finite double.
fn numbers_beyond_doubles() -> Vec<String> {
    let nines = "9".repeat(309);
    let written = ["1e309", "-1E+309", "1.8e308", "0.1e310", "1e00309", "12345e99999999999999999999"].map(String::from);
    let long = [nines.clone(), format!("-{nines}.5"), format!("{nines}e-0"), "7".repeat(5000)];
    let shifted = [format!("{}e250", "1".repeat(60)), format!("{}e-1", "1".repeat(400))];
    written.into_iter().chain(long).chain(shifted).collect()
}

#[test]
fn a_number_beyond_the_largest_double_is_a_bad_message() {
    let mut world = world("128");
    for number in numbers_beyond_doubles() {
        check_refused(&mut world, &format!(r#"{{"type":"broadcast","data":{number},"ref":7}}"#), "ref=7");
        check_refused(&mut world, &format!(r#"{{"type":"broadcast","data":[{{"x":[0,{number}]}}],"ref":7}}"#), "ref=7");
        check_refused(&mut world, &format!(r#"{{"type":"direct","to":"bob","data":[{number} ],"ref":7}}"#), "ref=7");
        check_refused(&mut world, &format!(r#"{{"type":"move","at":["1e3",{number}],"ref":7}}"#), "ref=7");
        check_refused(&mut world, &format!(r#"{{"extra":{number},"type":"ping","ref":7}}"#), "ref=7");
        // In a string it is text.
        let text = format!(r#"["{number}",{{"{number}":0}}]"#);
        check_relayed(&mut world, &format!(r#"{{"type":"broadcast","data":{text},"ref":7}}"#), &text);
    }
    let tiny = format!("-0.{}1", "0".repeat(5000));
    let long = [format!("{}e-310", "9".repeat(600)), "9".repeat(308), format!("1{}", "0".repeat(308)), tiny];
    let written = ["1.7976931348623157e308", "1e308", "1e-999", "0e999", "-0.0E+5000", "1e3"].map(String::from);
    for number in written.iter().chain(&long) {
        let data = format!(r#"[{number},{{"a":{number}}}]"#);
        check_relayed(&mut world, &format!(r#"{{"type":"broadcast","data":{data},"ref":7}}"#), &data);
    }
}

/// A malformed answer to a health check is an error and no strike, also for these reasons.
#[test]
fn a_health_pong_that_strict_parsers_refuse_is_no_strike() {
    let mut world = World::new(Config { max_strikes: 0, ..config("3") }, Relay::default());
    world.run("ann joins chess");
    for extra in [r#""\ud800""#, "[[[]]]", "1e999"] {
        world.act("ann", &format!(r#"{{"type":"health_pong","timestamp":1,"extra":{extra}}}"#));
        world.flush();
        world.run("ann < error code=bad_message");
    }
}

#[test]
fn raw_applications_pass_everything_on() {
    let mut world = World::new(config("1"), Verbatim::default());
    world.run("ann > connect chess\nann < upgrade\nbob > connect chess\nbob < upgrade");
    for text in ["[[[[\"\\ud800\"]]]]", r#"{"type":"goodbye"}"#] {
        world.act("ann", &format!("text {text}"));
        world.flush();
        assert_eq!(world.take("bob"), [text]);
    }
}

#[test]
fn what_operators_publish_is_json_for_strict_parsers_too() {
    let mut world = world("3");
    let publish = |json: String| OperatorCommand::publish("chess", Payload::Json(json));
    let send = |json: String| OperatorCommand::Send { user: "ann".into(), payload: Payload::Json(json) };
    let lone = LONE.iter().map(|text| format!("[\"{text}\"]"));
    // Deeper than in a member's broadcast; and what is no JSON would end the envelope.
    let others = ["[[[]]]", r#"{"a":[{}]}"#, "", "1} ,", "{", "nul", "1 2", "[1,]"].map(String::from);
    for json in lone.chain(others).chain(numbers_beyond_doubles()) {
        for command in [publish(json.clone()), send(json.clone())] {
            let answer = world.engine.handle_operator(world.now, command);
            assert_eq!(answer, Err(OperatorRefusal::BadMessage), "{json}");
        }
    }
    world.flush();
    world.run("ann < nothing\nbob < nothing\ncid < nothing");
    for json in [r#"[["\ud83d\ude00"]]"#, " 1 ", "null"] {
        for command in [publish(json.into()), send(json.into())] {
            let answer = world.engine.handle_operator(world.now, command);
            assert!(matches!(answer, Ok(OperatorAnswer::Sent { .. })), "{json}: {answer:?}");
        }
    }
    world.flush();
    world.run("ann < message data=[[\"😀\"]], direct, message data=1, direct, message data=null, direct\nbob < message, message, message\ncid < message, message, message");
    // A raw application's operators send what they like.
    let mut engine = Engine::new(config("1").check().expect("valid"), START, Verbatim::default());
    engine
        .handle_accept(world.now, ([127, 0, 0, 1], 1).into())
        .map(|conn| {
            engine.handle_bytes(world.now, conn, &lobbyd::sim::wire::upgrade_request("/ws/chess?token=ann", &[]));
        })
        .expect("there is room");
    let answer = engine.handle_operator(world.now, publish("[[\"\\ud800".into()));
    assert!(matches!(answer, Ok(OperatorAnswer::Sent { .. })), "{answer:?}");
}

/// The types of the server's messages, but for `direct`, which is a request as well.
const SERVER_TYPES: &[&str] =
    &["welcome", "presence_state", "presence_diff", "message", "ack", "error", "pong", "health_ping", "goodbye"];

#[test]
fn a_type_that_only_the_server_sends_is_a_bad_message() {
    let mut world = world("128");
    for word in SERVER_TYPES {
        check_refused(
            &mut world,
            &format!(r#"{{"type":"{word}","from":"bob","data":1,"timestamp":1,"ref":7}}"#),
            "ref=7",
        );
        let escaped = format!("\\u{:04x}{}", word.as_bytes()[0], &word[1..]);
        check_refused(&mut world, &format!(r#"{{"type":"{escaped}"}}"#), "!ref");
        // Another spelling is another type.
        let other = format!(r#"{{"type":"{}","ref":7}}"#, word.to_uppercase());
        check_relayed(&mut world, &other, &other);
        // Inside `data` it is data.
        let data = format!(r#"{{"type":"{word}"}}"#);
        check_relayed(&mut world, &format!(r#"{{"type":"broadcast","data":{data},"ref":7}}"#), &data);
    }
}

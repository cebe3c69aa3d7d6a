//! Messages of operators to all but some users, and messages that are published once for each idempotency key.

use lobbyd::Config;
use lobbyd::apps::{Relay, Verbatim};
use lobbyd::operator::{OperatorAnswer, OperatorCommand, OperatorRefusal, Payload};
use serde_json::json;

use super::{Operator, config, operator, post, three};
use crate::common::scenario::World;

/// An operator, and ann in a session and bob in chess, who have read all that they were sent.
fn two() -> (World<Relay>, Operator) {
    let config = Config { max_idempotency_keys: 3, ..config() };
    let mut world = World::new(config.clone(), Relay::default());
    world.run(
        "
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
        ",
    );
    (world, operator(&config))
}

#[test]
fn excluded_users_do_not_get_a_message() {
    let (mut world, mut operator) = three();
    operator.check(
        &mut world,
        &post("/lobbies/chess/publish", r#"{"data":"not for ann","exclude":["ann","cid","nobody","ann",""]}"#),
        200,
        json!({"queued": 1, "dropped": 0, "excluded": 1}),
    );
    assert_eq!(world.take("bob"), [r#"{"type":"message","from":null,"data":"not for ann"}"#]);
    world.run("ann < nothing\ncid < nothing");
    operator.check(
        &mut world,
        &post("/lobbies/chess/publish", r#"{"data":1,"exclude":["ann","bob"]}"#),
        200,
        json!({"queued": 0, "dropped": 0, "excluded": 2}),
    );
    // It takes no number. Nobody is excluded by an empty list, or by null.
    for (exclude, seq) in [("[]", 2), ("null", 3)] {
        operator.check(
            &mut world,
            &post("/lobbies/chess/publish", &format!(r#"{{"data":2,"exclude":{exclude}}}"#)),
            200,
            json!({"seq": seq, "queued": 2, "dropped": 0}),
        );
    }
    world.run("ann < message seq=2, message seq=3\nbob < message seq=2, message seq=3");
    for exclude in [r#""ann""#, "[1]", "{}", "[null]"] {
        let body = format!(r#"{{"data":1,"exclude":{exclude}}}"#);
        operator.refused(&mut world, &post("/lobbies/chess/publish", &body), 400, "bad_request");
        operator.refused(&mut world, &post("/users/ann/send", r#"{"data":1,"exclude":["bob"]}"#), 400, "bad_request");
    }
}

#[test]
fn a_message_with_excluded_users_is_not_replayed() {
    let (mut world, mut operator) = two();
    world.steps("ann > hangup");
    operator.ask(&mut world, &post("/lobbies/chess/publish", r#"{"data":"kept"}"#));
    operator.check(
        &mut world,
        &post("/lobbies/chess/publish", r#"{"data":"passing","exclude":["cid"]}"#),
        200,
        json!({"queued": 1, "dropped": 0}),
    );
    world.run(
        r#"
        bob < message seq=2 data="kept", message !seq data="passing"
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome recovered=true replay=1 seq=2, message seq=2 data="kept", presence_state seq=2
        "#,
    );
}

#[test]
fn raw_members_may_be_excluded_too() {
    let mut world = World::new(config(), Verbatim::default());
    world.run("ann > connect chess\nann < upgrade\nbob > connect chess\nbob < upgrade");
    let mut operator = operator(&config());
    let request = post("/lobbies/chess/publish", r#"{"text":"hi","exclude":["ann"],"idempotency_key":"k"}"#);
    operator.check(&mut world, &request, 200, json!({"queued": 1, "dropped": 0, "excluded": 1}));
    let repeated = json!({"queued": 1, "dropped": 0, "excluded": 1, "repeated": true});
    operator.check(&mut world, &request, 200, repeated);
    assert_eq!((world.take("ann").len(), world.take("bob")), (0, vec!["hi".to_owned()]));
}

#[test]
fn a_repeated_publish_sends_nothing_and_gets_the_first_answer() {
    let (mut world, mut operator) = two();
    let publish = |body: &str| post("/lobbies/chess/publish", body);
    let first = publish(r#"{"data":{"score":[1,2]},"idempotency_key":"round-1"}"#);
    operator.check(&mut world, &first, 200, json!({"seq": 2, "queued": 2, "dropped": 0}));
    world.run("ann < message seq=2\nbob < message seq=2");
    // Another member does not change the answer.
    world.run(
        "
        cid > connect chess
        cid < upgrade, welcome, presence_state
        ann < presence_diff +cid
        bob < presence_diff +cid
        ",
    );
    let again = json!({"seq": 2, "queued": 2, "dropped": 0, "repeated": true});
    operator.check(&mut world, &first, 200, again.clone());
    let reordered = publish(r#"{"idempotency_key":"round-1","exclude":[], "data": {"score":[1,2]} }"#);
    operator.check(&mut world, &reordered, 200, again);
    world.run("ann < nothing\nbob < nothing\ncid < nothing");
    // Any other content under the key is refused.
    for body in [
        r#"{"data":{"score":[1,3]},"idempotency_key":"round-1"}"#,
        r#"{"data":{"score":[1, 2]},"idempotency_key":"round-1"}"#,
        r#"{"data":{"score":[1,2]},"exclude":["ann"],"idempotency_key":"round-1"}"#,
    ] {
        operator.refused(&mut world, &publish(body), 409, "key_reused");
    }
    // A key belongs to its lobby, and null is no key.
    world.run("dan > connect go\ndan < upgrade, welcome, presence_state");
    let other = post("/lobbies/go/publish", r#"{"data":9,"idempotency_key":"round-1"}"#);
    operator.check(&mut world, &other, 200, json!({"seq": 1, "queued": 1, "dropped": 0}));
    for seq in [4, 5] {
        let plain = publish(r#"{"data":1,"idempotency_key":null}"#);
        operator.check(&mut world, &plain, 200, json!({"seq": seq, "queued": 3, "dropped": 0}));
    }
}

#[test]
fn a_refused_publish_keeps_no_key() {
    let (mut world, mut operator) = two();
    let publish = |data: &str| post("/lobbies/chess/publish", &format!(r#"{{"data":{data},"idempotency_key":"k"}}"#));
    operator.refused(&mut world, &publish(r#""\ud800""#), 400, "bad_message");
    let long = format!("\"{}\"", "x".repeat(65_536));
    operator.refused(&mut world, &publish(&long), 413, "too_long");
    operator.check(&mut world, &publish("1"), 200, json!({"seq": 2, "queued": 2, "dropped": 0}));
}

#[test]
fn idempotency_keys_have_1_to_64_bytes() {
    let (mut world, mut operator) = two();
    let publish = |key: &str| post("/lobbies/chess/publish", &format!(r#"{{"data":1,"idempotency_key":{key}}}"#));
    let of = |count: usize| format!("\"{}\"", "ü".repeat(count));
    assert_eq!(operator.ask(&mut world, &publish(&of(32))).status, 200);
    for key in ["\"\"", &of(33), "7", "true", "[]"] {
        operator.refused(&mut world, &publish(key), 400, "bad_request");
    }
    // A user has no lifetime that would bound its keys.
    let send = post("/users/ann/send", r#"{"data":1,"idempotency_key":"k"}"#);
    operator.refused(&mut world, &send, 400, "bad_request");
}

#[test]
fn a_lobby_keeps_its_last_keys_as_long_as_it_exists() {
    let (mut world, mut operator) = two();
    let mut publish = |world: &mut World<Relay>, key: u32| {
        let body = format!(r#"{{"data":1,"idempotency_key":"{key}"}}"#);
        operator.ask(world, &post("/lobbies/chess/publish", &body)).body["repeated"] == true
    };
    assert_eq!([1, 2, 3, 1, 4].map(|key| publish(&mut world, key)), [false, false, false, true, false]);
    assert_eq!([2, 3, 4].map(|key| publish(&mut world, key)), [true; 3]);
    assert!(!publish(&mut world, 1), "the first key was the oldest of more than three");
    // The lobby ends, and the next one has the same key in the server's tables.
    world.steps("bob > close 1000\nann > close 1000");
    world.steps("eve > connect chess\neve < upgrade, welcome, presence_state");
    assert_eq!([1, 3, 4].map(|key| publish(&mut world, key)), [false; 3]);
    world.steps("eve < message seq=1, message seq=2, message seq=3");
}

#[test]
fn programs_publish_with_the_same_rules() {
    let (mut world, _) = two();
    let publish = |data: &str, key: String| OperatorCommand::Publish {
        lobby: "chess".into(),
        payload: Payload::Json(data.into()),
        exclude: vec!["bob".into()],
        idempotency_key: Some(key),
    };
    let mut answer = |command| world.engine.handle_operator(world.now, command);
    let first = answer(publish("1", "k".into())).expect("the lobby exists");
    let OperatorAnswer::Sent { seq: None, sent, repeated: false } = first else { panic!("{first:?}") };
    assert_eq!((sent.queued, sent.excluded), (1, 1));
    let again = answer(publish("1", "k".into())).expect("the lobby exists");
    assert_eq!(again, OperatorAnswer::Sent { seq: None, sent, repeated: true });
    assert_eq!(answer(publish("2", "k".into())), Err(OperatorRefusal::KeyReused));
    assert_eq!(answer(publish("1", "k".repeat(65))), Err(OperatorRefusal::BadKey));
}

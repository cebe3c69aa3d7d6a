//! Numbers of requests: each is executed once.

use lobbyd::Config;

use crate::common::scenario::{World, check};

#[test]
fn a_number_is_executed_once_and_repeated_answers_say_so() {
    check(
        Config::default(),
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < ack ref=1 seq=2
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < ack ref=1 repeated=true !seq
        ann > {"type":"direct","to":"zoe","data":1,"ref":3}
        ann < error ref=3 code=user_not_found
        ann > {"type":"move","ref":3.0}
        ann < error ref=3.0 code=refused repeated=true
        ann > {"type":"move","ref":2}
        ann < error ref=2 code=refused repeated=true
        ann > {"type":"move","ref":0}
        ann < error ref=0 code=refused repeated=true
        ann > {"type":"move","ref":"1"}
        ann < ack ref="1" seq=3
        ann > {"type":"ping","ref":1}
        ann < pong ref=1
        ann > {"type":"move","to":"\ud800","ref":4}
        ann < error ref=4 code=bad_message
        bob < message seq=2, message seq=3
        ann > hangup
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=3 n=0
        ann < upgrade, welcome resumed=true done=4 refused="7" replay=0, presence_state
        "#,
    );
}

#[test]
fn messages_that_wait_for_a_tick_are_delivered_when_their_connection_is_lost() {
    check(
        Config { tick_hz: Some(10), ..Config::default() },
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        turn begins
        ann > {"type":"broadcast","data":1,"ref":1}
        ann > {"type":"direct","to":"bob","data":2,"ref":2}
        ann > {"type":"direct","to":"zoe","data":2,"ref":3}
        ann:2 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        turn ends
        bob < message seq=2 data=1, direct data=2
        ann:2 < upgrade, welcome done=3 refused="1" replay=1, ack ref=1 seq=2, presence_state seq=2
        ann < ack ref=1 seq=2, ack ref=2, error ref=3, goodbye code=4004, close 4004 replaced
        "#,
    );
}

#[test]
fn at_most_max_unanswered_requests_of_a_session_wait_for_a_tick() {
    let mut world = World::new(Config { tick_hz: Some(10), ..Config::default() }, lobbyd::apps::Relay::default());
    world.steps(
        "
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        ",
    );
    for number in 1..=17 {
        world.steps(&format!(r#"ann > {{"type":"move","ref":{number}}}"#));
    }
    world.steps("ann < error ref=17 code=rate_limited");
    world.steps("advance 100ms");
    assert_eq!(world.take("ann").len(), 16);
}

#[test]
fn what_waits_for_a_tick_on_a_connection_without_a_session_reaches_the_session_that_takes_its_seat() {
    check(
        Config { tick_hz: Some(10), ..Config::default() },
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > {"type":"broadcast","data":1}
        ann:2 > connect chess session=page-of-ann-0001
        ann < goodbye, close 4004 replaced
        ann:2 < upgrade, welcome seq=1 resumed=false, presence_state seq=1
        ann:2 > {"type":"broadcast","data":2,"ref":1}
        advance 100ms
        ann:2 < ack ref=1 seq=2
        "#,
    );
}

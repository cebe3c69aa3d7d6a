//! Refused messages: the error, its `retry_after_ms`, and the close after too many.

use std::time::Duration;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::{ByteSize, Limit};
use lobbyd::{App, CloseReason, Config, Reject};
use serde_json::Value;

use super::{MINUTE, no_rates, one_a_second};
use crate::common::scenario::{World, check};

/// Returns the `retry_after_ms` of an `error rate_limited`, or `None` for another answer.
#[track_caller]
fn denied(world: &mut World<impl App>, name: &str) -> Option<u64> {
    let got = world.take(name);
    let [answer] = &got[..] else { panic!("one answer: {got:?}") };
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    (answer["type"] == "error").then(|| {
        assert_eq!(answer["code"], "rate_limited", "{answer}");
        assert_eq!(answer["ref"], 1, "{answer}");
        answer["retry_after_ms"].as_u64().expect("a number")
    })
}

/// A message sent after `retry_after_ms` is allowed, and one sent a millisecond earlier is refused. `ann` sends `messages`,
/// which have a `ref`, in rotation. The check is repeated for every refusal.
#[track_caller]
fn check_retry_after(config: Config, messages: &[&str]) {
    let config = Config { max_message_bytes: ByteSize(1000), ..config };
    let mut world = World::new(config, Relay::default());
    world.steps("ann > connect a\nann:2 > connect b");
    let (mut let_through, mut waits) = (0, 0);
    'clients: for turn in 0..200 {
        let message = messages[turn % messages.len()];
        world.take("ann");
        // Another connection of the same user sends too.
        world.act("ann:2", messages[0]);
        world.flush();
        world.take("ann:2");
        let ask = |world: &mut World<Relay>| {
            world.act("ann", message);
            world.flush();
            denied(world, "ann")
        };
        let Some(wait) = ask(&mut world) else {
            let_through += 1;
            continue 'clients;
        };
        waits += 1;
        assert!(wait > 0);
        world.advance(Duration::from_millis(wait - 1));
        world.take("ann");
        assert_eq!(ask(&mut world), Some(1), "{turn}: one more millisecond");
        world.advance(Duration::from_millis(1));
        assert_eq!(ask(&mut world), None, "{turn}: allowed after the stated wait");
    }
    assert!(waits > 50 && let_through > 3, "{waits} {let_through}");
}

#[test]
fn retry_after_is_exact() {
    let short = r#"{"type":"broadcast","data":1,"ref":1}"#;
    let long = format!(r#"{{"type":"broadcast","data":"{}","ref":1}}"#, "x".repeat(300));
    let at_most = Limit::at_most;
    let messages = Config { messages_per_second: at_most(7), message_burst: 5, ..no_rates() };
    check_retry_after(messages.clone(), &[short]);
    let user = Config { user_messages_per_second: at_most(3).into(), user_message_burst: 8.into(), ..no_rates() };
    check_retry_after(user.clone(), &[short]);
    let bytes = Config { bytes_per_second: at_most(700), byte_burst: ByteSize(1500), ..no_rates() };
    check_retry_after(bytes.clone(), &[short, &long]);
    let user_bytes =
        Config { user_bytes_per_second: at_most(900).into(), user_byte_burst: ByteSize(1800).into(), ..no_rates() };
    check_retry_after(user_bytes.clone(), &[short, &long]);
    // If two buckets refuse, the longer wait is returned. A message that one bucket refuses takes no tokens from the other.
    let both = Config { user_messages_per_second: at_most(3).into(), user_message_burst: 8.into(), ..messages };
    check_retry_after(both, &[short]);
    let slow_connection = Config { messages_per_second: at_most(2), message_burst: 4, ..user };
    check_retry_after(slow_connection, &[short]);
    let both = Config { user_bytes_per_second: at_most(900).into(), user_byte_burst: ByteSize(1800).into(), ..bytes };
    check_retry_after(both, &[short, &long]);
}

#[test]
fn a_rate_of_zero_gives_the_longest_retry_after() {
    let config = Config { messages_per_second: Limit::at_most(0), ..no_rates() };
    check(
        config,
        r#"
        ann > connect chess
        ann < upgrade, welcome limits={"max_message_bytes":65536,"messages_per_second":0}, presence_state
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < error ref=1 code=rate_limited retry_after_ms=4294967295
        "#,
    );
}

#[test]
fn a_refused_message_with_a_ref_gets_one_error() {
    check(
        one_a_second(),
        r#"
        turn begins
        ann > connect chess
        bob > connect chess
        turn ends
        ann < upgrade, welcome, presence_state
        bob < upgrade, welcome, presence_state
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < ack ref=1 delivered=1
        bob < message
        ann > {"type":"broadcast","data":1,"ref":2}
        ann < error ref=2 code=rate_limited retry_after_ms=1000
        ann > {"type":"direct","to":"bob","data":1,"ref":"three"}
        ann < error ref="three" code=rate_limited retry_after_ms=1000
        ann > {"type":"move","ref":4}
        ann < error ref=4 code=rate_limited
        ann > {"type":"presence","ref":5}
        ann < error ref=5 code=rate_limited
        ann > {"type":"ping","ref":6}
        ann < error ref=6 code=rate_limited
        ann > {"type":"direct","ref":7}
        ann < error ref=7 code=rate_limited
        advance 300ms
        ann > {"type":"broadcast","data":1,"ref":8}
        ann < error ref=8 code=rate_limited retry_after_ms=700
        bob < nothing
        # The refused messages took no numbers.
        advance 700ms
        ann > {"type":"broadcast","data":1,"ref":9}
        ann < ack ref=9 seq=2
        bob < message seq=2
        # Leaving needs no token.
        "#,
    );
}

#[test]
fn messages_without_a_ref_get_at_most_one_error_a_second() {
    let mut world = World::new(one_a_second(), Relay::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > {"type":"move"}
        ann < nothing
        ann > {"type":"move"}
        ann < error !ref code=rate_limited retry_after_ms=1000
        ann > {"type":"move"}
        ann > binary x
        ann > {
        advance 990ms
        ann > {"type":"move"}
        ann < nothing
        advance 10ms
        # One token is available.
        ann > {"type":"move"}
        ann > {"type":"move"}
        ann < error !ref code=rate_limited retry_after_ms=1000
        "#,
    );
    assert_eq!(world.engine.stats().counters.rejected(Reject::RateLimited), 6);
    assert_eq!(world.engine.stats().counters.rejected(Reject::BadMessage), 0, "a refused message is not parsed");
}

#[test]
fn too_many_refused_messages_close_the_connection() {
    let mut world = World::new(one_a_second(), Relay::default());
    world.run(
        r#"
        bob, ann join chess
        ann > {"type":"broadcast","data":1}
        bob < message
        "#,
    );
    // The first one is refused without a strike: nobody had told it to wait.
    for n in 0..33 {
        world.run(&format!("ann > {{\"type\":\"move\",\"ref\":{n}}}\nann < error ref={n} code=rate_limited"));
    }
    world.run(
        r#"
        # One strike is forgiven per second.
        advance 1s
        ann > {"type":"broadcast","data":1}
        bob < message
        ann > {"type":"move","ref":33}
        ann < error ref=33 code=rate_limited
        ann > {"type":"move","ref":34}
        ann < error ref=34 code=rate_limited
        ann > {"type":"move","ref":35}
        ann < goodbye code=4009 reason=rate_limited reconnect=false, close 4009 rate_limited
        bob < presence_diff -ann:kicked
        "#,
    );
    assert_eq!(world.engine.stats().counters.closed(CloseReason::RateLimited), 1);
    // With no strikes allowed, the first refused message that did not wait closes the connection.
    check(
        Config { max_rate_strikes: 0, ..one_a_second() },
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > {"type":"ping"}
        ann < pong
        ann > {"type":"ping","ref":1}
        ann < error ref=1 code=rate_limited
        ann > {"type":"ping","ref":2}
        ann < goodbye, close 4009 rate_limited
        "#,
    );
}

/// A client that sends the next message as soon as one is answered, and waits when it is told to, is served at its rate for
/// ever.
#[test]
fn a_client_that_waits_as_it_is_told_is_never_closed() {
    let config =
        Config { messages_per_second: Limit::at_most(60), message_burst: 10, max_rate_strikes: 0, ..no_rates() };
    let mut world = World::new(config, Relay::default());
    world.run("ann joins chess");
    let (mut served, mut refused) = (0, 0);
    let end = world.now + MINUTE;
    while world.now < end {
        world.act("ann", r#"{"type":"ping","ref":1}"#);
        world.flush();
        match denied(&mut world, "ann") {
            None => served += 1,
            Some(wait) => {
                refused += 1;
                world.advance(Duration::from_millis(wait));
            }
        }
    }
    assert!((3300..=3611).contains(&served) && refused > 3000, "{served} served, {refused} refused");
}

#[test]
fn a_raw_application_sends_no_error() {
    let config = Config { max_rate_strikes: 2, ..one_a_second() };
    World::new(config, Verbatim::default()).run(
        r#"
        bob > connect chess
        bob < upgrade
        ann > connect chess
        ann < upgrade
        ann > text one
        bob < one
        ann > text two
        ann > binary three
        ann > text four
        ann < nothing
        bob < nothing
        ann > text five
        ann < close 4009 rate_limited
        "#,
    );
}

//! What a client is sent that it missed, and whether that is all.

use lobbyd::config::ByteSize;
use lobbyd::{CloseReason, Config};

use crate::common::scenario::{World, check};

#[test]
fn recovered_is_false_when_anything_is_missing() {
    let config = Config { history_frames: 2, direct_frames: 1, ..Config::default() };
    for (position, sent, recovered) in [
        ("epoch=1000000000000 seq=2 n=0", 2, true),
        ("epoch=1000000000000 seq=2 n=0", 3, false),
        ("epoch=1000000000000 seq=1 n=0", 2, false),
        ("epoch=1000000000000 seq=3 n=0", 0, false),
        ("epoch=1000000000000 seq=2 n=1", 0, false),
    ] {
        let mut world = World::new(config.clone(), lobbyd::apps::Relay::default());
        world.steps(
            r#"
            bob joins chess
            ann > connect chess session=page-of-ann-0001
            bob < presence_diff +ann
            bob > {"type":"broadcast","data":1}
            ann < upgrade, welcome, presence_state seq=1, message seq=2
            ann > hangup
            "#,
        );
        (0..sent).for_each(|_| world.steps(r#"bob > {"type":"broadcast","data":1}"#));
        world.steps(&format!(
            "
            ann > connect chess session=page-of-ann-0001 {position}
            ann < upgrade, welcome resumed=true recovered={recovered} replay={}
            ",
            if recovered { sent } else { 0 }
        ));
    }
    let script = r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > hangup
        bob > {"type":"direct","to":"ann","data":1}
        bob > {"type":"direct","to":"ann","data":2}
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome recovered=false replay=1 n=1, direct n=2 data=2, presence_state
        ann > hangup
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=2
        ann < upgrade, welcome recovered=true replay=0 n=2, presence_state
        "#;
    check(config, script);
}

#[test]
fn what_does_not_fit_is_missing() {
    // A message with ten digits has 57 bytes, and a direct message 54.
    for (history, directs, recovered, replay) in
        [(114, 108, true, 4), (113, 108, false, 2), (114, 107, false, 1), (0, 0, false, 0)]
    {
        check(
            Config { history_bytes: ByteSize(history), direct_bytes: ByteSize(directs), ..Config::default() },
            &format!(
                r#"
                bob joins chess
                ann > connect chess session=page-of-ann-0001
                ann < upgrade, welcome, presence_state
                bob < presence_diff +ann
                ann > hangup
                bob > {{"type":"broadcast","data":1234567890}}
                bob > {{"type":"broadcast","data":1234567890}}
                bob > {{"type":"direct","to":"ann","data":1234567890}}
                bob > {{"type":"direct","to":"ann","data":1234567890}}
                ann > connect chess session=page-of-ann-0001
                ann < upgrade, welcome recovered={recovered} replay={replay}{}, presence_state
                "#,
                if recovered { ", message, message" } else { "" }.to_owned() + &", direct".repeat(replay.min(2))
            ),
        );
    }
}

#[test]
fn a_direct_message_is_forgotten_when_a_ping_after_it_is_answered() {
    let mut world = World::new(Config::default(), lobbyd::apps::Relay::default());
    world.steps(
        r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        bob > {"type":"direct","to":"ann","data":1}
        ann < direct n=1
        advance 20s
        bob < ping
        bob > pong
        "#,
    );
    let ping = world.take("ann").pop().expect("a ping");
    world.steps(&format!(
        "
        ann > {}
        ann > hangup
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome recovered=false replay=0 n=1, presence_state
        ",
        ping.replacen("ping", "pong", 1)
    ));
}

#[test]
fn a_client_that_does_not_know_that_its_session_began_anew_is_told_again() {
    // Its requests of the earlier session must not be sent again to the new one, which knows nothing of them.
    let script = r#"
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state seq=1
        bob < presence_diff +ann
        ann > {"type":"direct","to":"bob","data":1,"ref":1}
        ann < ack ref=1
        bob < direct data=1
        ann > hangup
        "#;
    let welcome_is_lost = r#"
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome resumed=false done=0
        ann > hangup
        "#;
    let again = r#"
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome resumed=false recovered=false done=0 replay=0, presence_state
        ann > {"type":"direct","to":"bob","data":1,"ref":1}
        ann < ack ref=1
        bob < direct data=1
        ann > hangup
        "#;
    let other_page = r#"
        ann:2 > connect chess session=another-page-of-ann
        ann:2 < upgrade, welcome, presence_state
        ann:2 > hangup
        "#;
    // On a seat of its own, and on the seat that another page had, where the position is no older than the session.
    let is_freed = r#"
        advance 15s
        bob < presence_diff away=ann
        bob > {"type":"broadcast","data":0}
        advance 15s
        bob < presence_diff -ann
        "#;
    let joined = "bob < presence_diff +ann\n";
    check(Config::default(), &[script, is_freed, welcome_is_lost, joined, again].concat());
    check(Config::default(), &[script, other_page, welcome_is_lost, again].concat());
}

#[test]
fn a_newer_page_is_not_sent_what_was_written_to_the_older_one() {
    for claim in ["session=another-page-of-ann", "session=another-page-of-ann was=page-of-ann-0001"] {
        check(
            Config::default(),
            &format!(
                r#"
                bob joins chess
                ann > connect chess session=page-of-ann-0001
                ann < upgrade, welcome, presence_state
                bob < presence_diff +ann
                bob > {{"type":"direct","to":"ann","data":1}}
                ann < direct n=1
                ann:2 > connect chess {claim}
                ann < goodbye code=4004, close 4004 replaced
                ann:2 < upgrade, welcome replay=0 n=34, presence_state
                bob > {{"type":"direct","to":"ann","data":2}}
                ann:2 < direct n=35 data=2
                "#
            ),
        );
    }
}

#[test]
fn a_slow_consumer_comes_back_to_what_it_could_not_read() {
    let config = Config {
        max_message_bytes: ByteSize(3000),
        max_outbound_bytes: ByteSize::kib(32),
        history_bytes: ByteSize::kib(16),
        history_frames: 100,
        direct_bytes: ByteSize(1000),
        direct_frames: 4,
        ..Config::default()
    };
    let mut world = World::new(config, lobbyd::apps::Relay::default());
    world.steps(
        "
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > window 0
        ",
    );
    let data = "x".repeat(2000);
    let mut sent = 0;
    while world.engine.stats().counters.closed(CloseReason::SlowConsumer) == 0 {
        world.steps(&format!(r#"bob > {{"type":"broadcast","data":"{data}"}}"#));
        sent += 1;
        assert!(sent < 40);
    }
    world.steps(
        "
        ann:2 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=10 n=0
        ann:2 < upgrade, welcome resumed=true recovered=true
        ",
    );
    assert_eq!(world.take("ann:2").len(), sent - 8, "messages 11 and later, and a presence_state");
}

//! Size and duration of a handshake and of its authorization.

use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::config::ByteSize;
use lobbyd::sim::wire;
use lobbyd::{Authorization, CloseReason, Config};

use super::seats::seats;
use crate::common::scenario::World;
use crate::common::witness::Witness;

#[test]
fn a_request_head_has_a_timeout() {
    let config = Config { handshake_timeout: Duration::from_millis(300), ..Config::default() };
    let mut world = World::new(config, Relay::default());
    world.run(
        r#"
        a > open
        b > open
        advance 290ms
        b > raw GET / HTTP/1.1\r\n
        advance 10ms
        a < http 408, body the request head took too long, eof
        b < http 408, body, eof
        # Input from a peer that keeps sending is read and ignored, until linger_timeout.
        b > raw Host: a\r\n\r\n
        b < nothing
        advance 1s
        "#,
    );
    assert_eq!((world.engine.stats().closing, world.is_open("a"), world.is_open("b")), (0, false, false));
}

#[test]
fn a_request_head_has_a_maximum_size() {
    let config = Config { max_header_bytes: ByteSize(300), max_headers: 6, ..Config::default() };
    #[track_caller]
    fn check_head(config: &Config, lines: &[&str], expected: &str) {
        for step in [1, 7, usize::MAX] {
            let mut world = World::new(config.clone(), Relay::default());
            world.open("ann");
            for piece in wire::upgrade_request("/ws/chess?token=ann", lines).chunks(step) {
                world.send("ann", piece);
                world.flush();
            }
            world.run(&format!("ann < {expected}"));
        }
    }
    let usual = wire::upgrade_request("/ws/chess?token=ann", &[]).len();
    let filler = |n: usize| format!("X: {}", "x".repeat(n - usual - "X: \r\n".len()));
    let accepted = "upgrade, welcome, presence_state";
    check_head(&config, &[&filler(300)], accepted);
    check_head(&config, &[&filler(301)], "http 431, body the request head is longer than 300 bytes, eof");
    check_head(&config, &[&filler(5000)], "http 431, body the request head is longer than 300 bytes, eof");
    check_head(&config, &["A: b"], accepted);
    check_head(&config, &["A: b", "A: b"], "http 431, body the request has more than 6 header lines, eof");
    // A head can be too long before it is complete.
    let mut world = World::new(config, Relay::default());
    world.run(&format!("ann > open\nann > raw G{}\nann < http 414, body, eof", "E".repeat(300)));
}

#[test]
fn input_before_authorization_is_bounded() {
    let config = Config { max_header_bytes: ByteSize(300), ..Config::default() };
    let mut world = World::new(config, Witness::<true>::default());
    world.run("ann > get /ws/chess?token=ann&auth=later");
    world.send("ann", &[0; 300]);
    world.run("ann < nothing");
    world.run("ann > raw x\nann < http 431, body wait for the upgrade before sending so much, eof");
    // The reserved seat is free again.
    assert_eq!(world.engine.stats().active_lobbies, 0);
    world.authorize("ann", Authorization::allow("ann"));
    world.run("ann < nothing");
}

#[test]
fn authorization_has_a_timeout() {
    let config = Config { auth_timeout: Duration::from_secs(1), ..seats(1) };
    for auth in ["later", "unnamed"] {
        let mut world = World::new(config.clone(), Witness::<true>::default());
        world.run(&format!(
            r#"
            ann > get /ws/chess?token=ann&auth={auth}
            # Neither handshake_timeout nor input sent meanwhile has an effect.
            advance 900ms
            ann > {{"type":"ping"}}
            advance 90ms
            ann < nothing
            advance 10ms
            ann < upgrade, goodbye code=4101 reason=auth_timeout reconnect=true, close 4101 auth_timeout
            bob > connect chess
            bob < upgrade, welcome, presence_state users=bob
            "#
        ));
        // The decision comes too late.
        world.authorize("ann", Authorization::allow("ann"));
        world.run("ann < nothing\nbob < nothing");
    }
}

#[test]
fn an_authorization_is_decided_once() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann > get /ws/chess?token=ann&auth=later");
    let mut answer = |answer: Authorization, script: &str| {
        world.authorize("ann", answer);
        world.run(script);
    };
    answer(Authorization::Pending { user: Some("eve".into()) }, "ann < nothing");
    // The user may differ from the claimed one.
    answer(Authorization::allow("bob"), "ann < upgrade, welcome user=bob, presence_state users=bob");
    answer(Authorization::allow("cid"), "ann < nothing");
    answer(Authorization::Refuse(CloseReason::Banned), "ann < nothing");

    for (answer, expected) in [
        (Authorization::Refuse(CloseReason::TokenExpired), "close 4001 token_expired"),
        (Authorization::Refuse(CloseReason::Banned), "close 4003 banned"),
        (Authorization::allow(""), "close 4001 unauthorized"),
        (Authorization::allow("a\nb"), "close 4001 unauthorized"),
    ] {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run("ann > get /ws/chess?token=ann&auth=later");
        world.authorize("ann", answer);
        world.run(&format!("ann < upgrade, goodbye, {expected}"));
        assert_eq!(world.engine.stats().active_lobbies, 0, "no lobby is reserved");
        assert_eq!(world.engine.app_mut().take(), [""; 0]);
    }
}

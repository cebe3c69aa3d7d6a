//! Volatile broadcasts: they have no number and are not kept.

use lobbyd::apps::Relay;
use lobbyd::sending::RelayRequest;
use lobbyd::{App, Authorization, Config, Context, Member, Message, Protocol, Request};

use super::three::check_three;
use crate::common::scenario::{World, check};

#[test]
fn a_volatile_broadcast_has_no_seq() {
    check_three(
        r#"
        ann > {"type":"broadcast","data":{"x":1},"volatile":true}
        ann < nothing
        bob < message from=ann !seq data={"x":1}
        cid < message from=ann !seq data={"x":1}
        ann > {"type":"broadcast","data":2,"volatile":true,"ref":7}
        ann < ack ref=7 !seq delivered=2 dropped=0
        bob < message from=ann !seq data=2
        cid < message from=ann !seq data=2
        # It takes no number from the others.
        bob > {"type":"broadcast","data":3,"volatile":false,"ref":8}
        bob < ack ref=8 seq=1 delivered=2 dropped=0
        ann < message seq=1
        cid < message seq=1
        bob > {"type":"broadcast","data":4,"volatile":null}
        ann < message seq=2
        cid < message seq=2
        "#,
    );
}

#[test]
fn volatile_must_be_true_or_false() {
    check_three(
        r#"
        ann > {"type":"broadcast","data":1,"volatile":1,"ref":1}
        ann < error ref=1 code=bad_message
        ann > {"type":"broadcast","data":1,"volatile":"true"}
        ann < error code=bad_message
        bob < nothing
        # In another message it means nothing.
        ann > {"type":"move","volatile":1}
        bob < message seq=1
        cid < message seq=1
        "#,
    );
}

#[test]
fn a_volatile_broadcast_is_not_replayed() {
    check(
        Config::default(),
        r#"
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state seq=0
        bob > connect chess session=page-of-bob-0001
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob seq=1
        ann > hangup
        bob > {"type":"broadcast","data":1,"ref":1}
        bob < ack ref=1 seq=2
        bob > {"type":"broadcast","data":2,"ref":2,"volatile":true}
        bob < ack ref=2 !seq delivered=0 dropped=0
        # The sender comes back: its own message is confirmed by `done`, and nothing of it is replayed.
        bob > hangup
        bob > connect chess session=page-of-bob-0001 epoch=1000000000000 seq=1 n=0
        bob < upgrade, welcome resumed=true recovered=true done=2 replay=1, ack ref=1 seq=2, presence_state seq=2
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome recovered=true replay=1, message seq=2 data=1, presence_state seq=2
        # A repeated number is not executed.
        bob > {"type":"broadcast","data":2,"ref":2,"volatile":true}
        bob < ack ref=2 repeated=true
        ann < nothing
        "#,
    );
}

#[test]
fn volatile_broadcasts_wait_for_the_tick() {
    let mut world = World::new(Config { tick_hz: Some(10), ..Config::default() }, Relay::default());
    world.run(
        r#"
        ann, bob join chess
        ann > {"type":"broadcast","data":1,"volatile":true}
        ann > {"type":"broadcast","data":2}
        ann > {"type":"broadcast","data":3,"volatile":true,"ref":1}
        bob < nothing
        advance 100ms
        bob < message !seq data=1, message seq=2 data=2, message !seq data=3
        ann < ack ref=1 !seq delivered=1
        "#,
    );
}

/// Refuses to relay anything.
struct Silent;

impl App for Silent {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn allows(&mut self, _: &mut Context<'_>, _: &Member, _: RelayRequest<'_>) -> bool {
        false
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

#[test]
fn the_application_decides_about_volatile_broadcasts_too() {
    World::new(Config::default(), Silent).run(
        r#"
        ann, bob join chess
        ann > {"type":"broadcast","data":1,"volatile":true,"ref":1}
        ann < error ref=1 code=not_allowed
        bob < nothing
        "#,
    );
}

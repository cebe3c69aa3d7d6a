//! Bugs found by the simulator, each with the smallest scenario that shows it.

use std::time::Duration;

use lobbyd::config::{ByteSize, Limit};
use lobbyd::operator::{KickTarget, OperatorCommand};
use lobbyd::{
    App, Authorization, CloseReason, Config, Context, Exclude, Frame, LeaveReason, Member, Message, Protocol, Request,
};

use crate::common::scenario::World;

/// Admits the listed users at once and leaves all others pending.
struct Late {
    at_once: &'static [&'static str],
}

impl App for Late {
    const PROTOCOL: Protocol = Protocol::Json;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        let user = request.token().expect("the scripts send a token").to_owned();
        if self.at_once.contains(&user.as_str()) {
            Authorization::allow(user)
        } else {
            Authorization::Pending { user: Some(user) }
        }
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

/// Sends no messages of its own, and leaves every authorization pending.
struct Silent;

impl App for Silent {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Authorization {
        Authorization::Pending { user: None }
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

#[test]
fn a_seat_takeover_gets_its_welcome_first() {
    let mut world = World::new(Config::default(), lobbyd::apps::Relay::default());
    world.run("ann joins chess");
    // In one turn the lobby changes and ann connects again.
    world.act("bob", "connect chess");
    world.act("ann:2", "connect chess");
    world.flush();
    world.run(
        "ann < presence_diff seq=1 +bob, goodbye, close 4004 replaced
         ann:2 < upgrade, welcome seq=1, presence_state seq=1 users=ann,bob
         bob < upgrade, welcome seq=0, presence_state seq=1 users=ann,bob",
    );
}

#[test]
fn a_late_authorization_sends_the_upgrade_at_once_to_a_raw_member() {
    let mut world = World::new(Config::default(), Silent);
    world.run("ann > connect chess\nann < nothing");
    world.authorize("ann", Authorization::allow("ann"));
    world.run("ann < upgrade");
}

#[test]
fn a_slow_consumer_is_answered_before_it_is_closed() {
    let config = Config {
        max_per_lobby: Limit::at_most(3),
        max_message_bytes: ByteSize(125),
        max_outbound_bytes: ByteSize(2200),
        seat_grace: Duration::ZERO,
        ..Config::default()
    };
    let mut world = World::new(config, lobbyd::apps::Relay::default());
    world.act("ann", "connect chess");
    let frame = Frame::binary(&[0; 1500]);
    for _ in 0..2 {
        world.engine.act(world.now, |_, cx| cx.broadcast_to_lobby("chess", Exclude::None, &frame));
    }
    world.flush();
    world.run("ann < upgrade, goodbye code=4102, close 4102 slow_consumer");
}

#[test]
fn lobbies_are_within_their_limit_while_an_authorization_waits() {
    let config = Config { max_lobbies: Limit::at_most(1), ..Config::default() };
    let mut world = World::new(config, Late { at_once: &["ann"] });
    world.run("ann joins chess");
    world.engine.app_mut().at_once = &[];
    world.run("ann:2 > connect go\nann:2 < upgrade, goodbye code=4002 reason=lobby_limit, close 4002 lobby_limit");
}

#[test]
fn authorization_ends_after_auth_timeout_and_not_after_handshake_timeout() {
    let config = Config { auth_timeout: Duration::from_millis(100), ..Config::default() };
    let mut world = World::new(config, Late { at_once: &[] });
    world.run(
        "ann > connect chess
         advance 110ms
         ann < upgrade, goodbye code=4101, close 4101 auth_timeout",
    );
}

#[test]
fn a_presence_state_lists_a_member_whose_leave_is_not_announced_yet() {
    // The lobby of three is above the bound. When one member leaves, the list of members is sent to all. It does not fit into
    // the outbox of a slow member, which is closed for it.
    let config = Config {
        presence_max: 2,
        max_message_bytes: ByteSize(125),
        max_outbound_bytes: ByteSize(2200),
        seat_grace: Duration::ZERO,
        ..Config::default()
    };
    let mut world = World::new(config, lobbyd::apps::Relay::default());
    world.run(
        "ann > connect chess
         ann < upgrade, welcome, presence_state users=ann
         bob > connect chess
         bob < upgrade, welcome, presence_state users=ann,bob
         ann < presence_diff +bob
         eve > connect chess
         eve < upgrade, welcome, presence_state count=3
         ann < presence_state count=3
         bob < presence_state count=3
         advance 1s
         ann > window 0",
    );
    // Ann's outbox has room for a ping, but not for the presence.
    let ann = world.conn("ann");
    let room = 2200 - 64 - 50;
    world.engine.act(world.now, |_, cx| cx.send_to_conn(ann, &Frame::binary(&vec![0; room])));
    world.engine.act(world.now, |_, cx| cx.close_user("eve", CloseReason::Kicked));
    world.send("bob", &lobbyd::sim::wire::text(r#"{"type":"presence"}"#));
    world.flush();
    world.run(
        "eve < goodbye, close 4003 kicked
         bob < presence_state seq=1 users=ann,bob, presence_diff seq=2 -ann:slow, presence_state seq=2 users=bob
         ann > read
         ann < goodbye, close 4102 slow_consumer",
    );
}

#[test]
fn sending_to_a_user_that_is_closed_meanwhile_does_not_panic() {
    let config = Config { max_per_lobby: Limit::at_most(3), max_message_bytes: ByteSize(125), ..Config::default() };
    let config = Config { max_outbound_bytes: ByteSize(2200), seat_grace: Duration::ZERO, ..config };
    let mut world = World::new(config, lobbyd::apps::Relay::default());
    world.run(
        "ann, bob join chess
         ann > window 0",
    );
    let ann = world.conn("ann");
    let sent = world.engine.act(world.now, |_, cx| {
        cx.send_to_conn(ann, &Frame::binary(&[0; 2086]));
        cx.close_user("bob", CloseReason::Kicked);
        cx.send_to_user("ann", &Frame::binary(&[1]))
    });
    assert_eq!((sent.queued, sent.dropped), (0, 0), "the connection closed before the send");
    assert_eq!(world.engine.ending(ann), Some(CloseReason::SlowConsumer));
}

#[test]
fn bytes_of_a_connection_lost_in_the_same_turn_are_counted() {
    let mut world = World::new(Config::default(), lobbyd::apps::Relay::default());
    world.open("ann");
    let conn = world.conn("ann");
    world.engine.handle_hangup(world.now, conn);
    world.engine.handle_bytes(world.now, conn, b"GET");
    assert_eq!(world.engine.stats().counters.bytes_in, 3);
}

/// The members of a lobby are closed one by one. Bob is closed first, and ann connects again before its batch.
fn ann_reconnects_before_her_batch(command: OperatorCommand, script: &str) {
    let config = Config { drain_batch: 1, max_connections: Limit::at_most(5), ..Config::default() };
    let mut world = World::new(config, lobbyd::apps::Relay::default());
    world.run(
        "bob > connect chess
         bob < upgrade, welcome, presence_state
         ann > connect chess
         ann < upgrade, welcome, presence_state
         bob < presence_diff +ann",
    );
    world.engine.handle_operator(world.now, command).expect("the lobby is there");
    world.steps("ann:2 > connect chess");
    world.run(script);
}

#[test]
fn a_seat_takeover_in_a_closing_lobby_is_closed_too() {
    ann_reconnects_before_her_batch(
        OperatorCommand::Close { lobby: "chess".into() },
        "bob < goodbye, close 4006 lobby_closed
         ann < presence_diff -bob:kicked, goodbye, close 4004 replaced
         ann:2 < upgrade, welcome, presence_state users=ann
         advance 100ms
         ann:2 < goodbye, close 4006 lobby_closed",
    );
}

#[test]
fn a_user_that_has_already_reconnected_is_not_closed_again() {
    ann_reconnects_before_her_batch(
        OperatorCommand::Kick { target: KickTarget::Lobby("chess".into()), reconnect: true },
        "bob < goodbye, close 4103 reconnect
         ann < presence_diff -bob:kicked, goodbye, close 4004 replaced
         ann:2 < upgrade, welcome, presence_state users=ann
         advance 100ms
         ann:2 < nothing",
    );
}

/// Counts its members.
struct Count(i32);

impl App for Count {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, _: &mut Context<'_>, _: &Member) {
        self.0 += 1;
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}

    fn on_leave(&mut self, _: &mut Context<'_>, _: &Member, _: LeaveReason) {
        self.0 -= 1;
    }
}

#[test]
fn a_close_for_too_many_bytes_is_dispatched_at_once() {
    let config = Config {
        bytes_per_second: Limit::at_most(1),
        byte_burst: ByteSize(395),
        max_message_bytes: ByteSize(125),
        max_rate_strikes: 0,
        ..Config::default()
    };
    let mut world = World::new(config, Count(0));
    world.steps("ann > connect chess");
    assert_eq!(world.engine.app().0, 1);
    let conn = world.conn("ann");
    world.engine.handle_bytes(world.now, conn, &lobbyd::sim::wire::text(&"x".repeat(100)).repeat(10));
    assert_eq!(world.engine.ending(conn), Some(CloseReason::RateLimited));
    assert_eq!(world.engine.app().0, 0, "the leave is dispatched at once");
}

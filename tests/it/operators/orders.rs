//! Operators' commands to close connections, while their batches run. The stricter command counts, and a new login does not
//! avoid it.

use lobbyd::apps::Relay;
use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::operator::{KickTarget, OperatorCommand};
use lobbyd::{App, Authorization, Config, Context, Member, Message, Protocol, Request};

use crate::common::scenario::World;

fn kick(target: KickTarget, reconnect: bool) -> OperatorCommand {
    OperatorCommand::Kick { target, reconnect }
}

#[track_caller]
fn order<A: App>(world: &mut World<A>, command: OperatorCommand) {
    world.engine.handle_operator(world.now, command).expect("the users are connected");
    world.flush();
}

/// Ann, bob and cid are to reconnect, in one batch each. Ann is closed before `stricter` is called.
fn while_a_reconnect_is_queued(stricter: impl FnOnce(&mut World<Relay>), script: &str) {
    let config = Config { drain_batch: 1, max_connections: Limit::at_most(5), ..Config::default() };
    let mut world = World::new(config, Relay::default());
    world.steps("ann > connect a\nbob > connect chess\ncid > connect go");
    order(&mut world, kick(KickTarget::All, true));
    world.steps("ann < upgrade, welcome, presence_state, goodbye, close 4103 reconnect");
    world.steps("bob < upgrade, welcome, presence_state\ncid < upgrade, welcome, presence_state");
    stricter(&mut world);
    world.run(script);
}

#[test]
fn a_stricter_command_replaces_a_reconnect() {
    while_a_reconnect_is_queued(
        |world| order(world, kick(KickTarget::User("cid".into()), false)),
        "advance 100ms
         bob < goodbye, close 4103 reconnect
         advance 100ms
         cid < goodbye, close 4003 kicked",
    );
    while_a_reconnect_is_queued(
        |world| order(world, OperatorCommand::Close { lobby: "go".into() }),
        "advance 100ms
         bob < goodbye, close 4103 reconnect
         advance 100ms
         cid < goodbye, close 4006 lobby_closed",
    );
    while_a_reconnect_is_queued(
        |world| world.engine.handle_drain(world.now),
        "advance 100ms
         bob < goodbye, close 1001 server_shutdown
         advance 100ms
         cid < goodbye, close 1001 server_shutdown",
    );
    // Of two final commands the first counts, and a milder one does not replace it.
    while_a_reconnect_is_queued(
        |world| {
            order(world, OperatorCommand::Close { lobby: "go".into() });
            order(world, kick(KickTarget::All, false));
            order(world, kick(KickTarget::All, true));
            world.engine.handle_drain(world.now);
        },
        "advance 100ms
         bob < goodbye, close 4003 kicked
         advance 100ms
         cid < goodbye, close 4006 lobby_closed",
    );
}

/// Bob and ann are in chess. Bob is closed in the first batch. Then `command` is given, and ann waits for the next batch.
#[track_caller]
fn login_while_batches_run(duplicate_login: DuplicateLogin, command: OperatorCommand, script: &str) {
    let config = Config {
        drain_batch: 1,
        max_connections: Limit::at_most(10),
        duplicate_login,
        max_per_user: Limit::at_most(5),
        ..Config::default()
    };
    let mut world = World::new(config, Relay::default());
    world.steps("bob > connect chess\nann > connect chess");
    // Uses up the first batch.
    order(&mut world, kick(KickTarget::User("bob".into()), false));
    order(&mut world, command);
    world.steps("bob < upgrade, welcome, presence_state, presence_diff +ann, goodbye, close 4003 kicked");
    world.steps("ann < upgrade, welcome, presence_state, presence_diff -bob:kicked");
    world.run(script);
}

#[test]
fn a_user_that_logs_in_while_the_batches_run_is_closed_too() {
    let user = || kick(KickTarget::User("ann".into()), false);
    let lobby = || kick(KickTarget::Lobby("chess".into()), false);
    let kick_all = || kick(KickTarget::All, false);
    // The user has a second connection, in another lobby.
    login_while_batches_run(
        DuplicateLogin::Allow,
        user(),
        "ann:2 > connect go
         ann:2 < upgrade, welcome, presence_state
         eve > connect chess
         eve < upgrade, welcome, presence_state
         ann < presence_diff +eve
         advance 100ms
         ann < goodbye, close 4003 kicked
         eve < presence_diff -ann:kicked
         advance 100ms
         ann:2 < goodbye, close 4003 kicked
         advance 200ms
         # The kick has ended. It is not a ban.
         ann:3 > connect go
         ann:3 < upgrade, welcome, presence_state
         advance 200ms
         ann:3 < nothing",
    );
    // The user moves to other lobbies, repeatedly.
    login_while_batches_run(
        DuplicateLogin::Replace,
        user(),
        "ann:2 > connect go
         ann < goodbye, close 4004 replaced
         ann:2 < upgrade, welcome, presence_state
         ann:3 > connect bridge
         ann:2 < goodbye, close 4004 replaced
         ann:3 < upgrade, welcome, presence_state
         advance 100ms
         ann:3 < goodbye, close 4003 kicked",
    );
    login_while_batches_run(
        DuplicateLogin::Replace,
        lobby(),
        "eve > connect chess
         eve < upgrade, welcome, presence_state
         ann < presence_diff +eve
         fay > connect go
         fay < upgrade, welcome, presence_state
         advance 100ms
         ann < goodbye, close 4003 kicked
         eve < presence_diff -ann:kicked
         advance 100ms
         eve < goodbye, close 4003 kicked
         advance 200ms
         fay < nothing",
    );
    // The command applies to eve, which joins before its last batch, and not to bob, which joins after it.
    login_while_batches_run(
        DuplicateLogin::Replace,
        kick_all(),
        "eve > connect go
         eve < upgrade, welcome, presence_state
         advance 100ms
         ann < goodbye, close 4003 kicked
         bob:2 > connect chess
         bob:2 < upgrade, welcome, presence_state
         advance 100ms
         eve < goodbye, close 4003 kicked
         advance 200ms
         bob:2 < nothing",
    );
    // A client that was told to reconnect and has already done so.
    login_while_batches_run(
        DuplicateLogin::Replace,
        kick(KickTarget::All, true),
        "ann:2 > connect go
         ann < goodbye, close 4004 replaced
         ann:2 < upgrade, welcome, presence_state
         advance 200ms
         ann:2 < nothing",
    );
}

/// A user that logs in again and again leaves no state behind, and is closed in the end.
#[test]
fn repeated_logins_do_not_avoid_a_kick() {
    let config = Config { drain_batch: 1, max_connections: Limit::at_most(10), ..Config::default() };
    let mut world = World::new(config, Relay::default());
    world.steps("bob > connect chess\nann > connect chess");
    order(&mut world, kick(KickTarget::User("bob".into()), false));
    order(&mut world, kick(KickTarget::User("ann".into()), false));
    for n in 2..100 {
        world.steps(&format!("ann:{n} > connect lobby-{n}\nann:{n} < upgrade, welcome, presence_state"));
        // The operator repeats the command each time.
        order(&mut world, kick(KickTarget::User("ann".into()), false));
        if n < 99 {
            world.steps(&format!("ann:{n} > hangup"));
        }
    }
    world.steps("advance 100ms\nann:99 < goodbye, close 4003 kicked\nadvance 100ms");
    world.steps("ann:100 > connect go\nann:100 < upgrade, welcome, presence_state\nadvance 200ms\nann:100 < nothing");
}

/// The authorization is pending when the command is given.
#[test]
fn a_user_that_is_authorized_while_the_batches_run_is_closed_too() {
    struct Late;
    impl App for Late {
        const PROTOCOL: Protocol = Protocol::Raw;
        fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
            match request.token() {
                Some("eve") => Authorization::Pending { user: Some("eve".into()) },
                _ => Authorization::token_is_user(request),
            }
        }
        fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
    }
    let config = Config { drain_batch: 1, max_connections: Limit::at_most(10), ..Config::default() };
    let mut world = World::new(config, Late);
    world.run("ann > connect chess\nann < upgrade\nbob > connect chess\nbob < upgrade\neve > connect chess");
    order(&mut world, kick(KickTarget::Lobby("chess".into()), false));
    world.authorize("eve", Authorization::allow("eve"));
    world.run(
        "ann < close 4003 kicked
         eve < upgrade
         advance 100ms
         bob < close 4003 kicked
         advance 100ms
         eve < close 4003 kicked",
    );
}

/// A batch skips members that have left. Messages that the next members sent before the tick are delivered before they close.
#[test]
fn a_batch_delivers_the_messages_of_every_member_it_closes() {
    for leaver in ["", "bob > close\n"] {
        let config =
            Config { drain_batch: 1, tick_hz: Some(1), max_connections: Limit::at_most(5), ..Config::default() };
        let mut world = World::new(config, Relay::default());
        world.steps("ann > connect a\nbob > connect go\ncid > connect chess\ndan > connect chess");
        order(&mut world, kick(KickTarget::All, true));
        if leaver.is_empty() {
            world.advance(std::time::Duration::from_millis(100));
        }
        for name in ["ann", "bob", "cid", "dan"] {
            world.take(name);
        }
        world.steps(leaver);
        world.act("cid", r#"{"type":"broadcast","data":1,"ref":7}"#);
        world.flush();
        world.advance(std::time::Duration::from_millis(101));
        let got = world.take("cid");
        assert!(got.first().is_some_and(|first| first.contains("ack")), "{leaver}: {got:?}");
        assert!(got.last().is_some_and(|last| last.contains("4103")), "{leaver}: {got:?}");
    }
}

/// An order about a user lasts until the user's newest connection is closed, at whatever position of the queue that is.
#[test]
fn an_order_about_a_user_lasts_until_its_newest_connection_is_closed() {
    let config = Config {
        drain_batch: 1,
        duplicate_login: DuplicateLogin::Allow,
        max_per_user: Limit::at_most(5),
        max_connections: Limit::at_most(9),
        ..Config::default()
    };
    let mut world = World::new(config, Relay::default());
    world.steps("ann > connect a");
    world.steps("one > get /ws/b?token=bob");
    order(&mut world, kick(KickTarget::All, true));
    order(&mut world, kick(KickTarget::User("bob".into()), false));
    world.steps("two > get /ws/c?token=bob");
    for (name, closed) in [("one", "4003"), ("two", "4003"), ("three", "4003")] {
        world.advance(std::time::Duration::from_millis(100));
        let got = world.take(name);
        assert!(got.last().is_some_and(|last| last.contains(closed)), "{name}: {got:?}");
        if name == "one" {
            world.steps("three > get /ws/d?token=bob");
        }
    }
    world.steps("four > get /ws/d?token=bob");
    world.advance(std::time::Duration::from_millis(500));
    assert!(world.is_open("four"), "afterwards a kick bans no user");
}

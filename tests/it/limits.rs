//! Every bound of the configuration, hit with tiny values, and where it leads.

use lobbyd::{Authorization, Bytes, CloseReason, Config, DuplicateLogin, Exclude, Frame, Limit, Sent};

use crate::scenario::World;
use crate::witness::Witness;

/// Whoever is being authorized for a new lobby holds it beside the one it would leave empty.
#[test]
fn a_lobby_that_is_waited_for_counts_against_max_lobbies() {
    let config = Config { max_lobbies: Limit::at_most(1), ..Config::default() };
    let mut world = World::new(config, Witness::<true>::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann:2 > get /ws/go?token=ann&auth=later
        ann:2 < upgrade, goodbye code=4002, close 4002 lobby_limit
        # Once nothing has to be waited for, the one lobby takes the other's place.
        ann:3 > get /ws/go?token=ann&auth=unnamed
        "#,
    );
    let conn = world.conn("ann:3");
    world.engine.handle_authorized(world.now, conn, Authorization::allow("ann"));
    world.settle();
    world.run(
        r#"
        ann < goodbye code=4004, close 4004 replaced
        ann:3 < upgrade, welcome lobby=go, presence_state users=ann
        "#,
    );
}

/// Holds the largest frame, and not two of them.
fn small_outbox() -> Config {
    Config {
        max_message_bytes: Bytes(3000),
        max_outbound_bytes: Bytes(5100),
        max_per_lobby: Limit::at_most(4),
        ..Config::default()
    }
}

/// Whoever is sent to is told first who has come, and that may already be too much for it.
#[test]
fn a_receiver_too_slow_for_the_presence_is_not_sent_to() {
    for logins in [DuplicateLogin::Replace, DuplicateLogin::Allow] {
        let config = Config { duplicate_login: logins, max_per_user: Limit::at_most(2), ..small_outbox() };
        let mut world = World::new(
            config,
            Witness::<true>::reacting(|cx, who, event| {
                if event == "join bob" {
                    let hello = Frame::text(r#"{"type":"hello"}"#);
                    let ann = cx.lobby_users("chess").position(|user| user == "ann");
                    assert_eq!(ann, Some(0));
                    assert_eq!(cx.send_to_user("ann", &hello), Sent::default());
                    let sent = cx.broadcast_to_lobby("chess", Exclude::None, &hello);
                    assert_eq!(sent, Sent { queued: 1, dropped: 0, excluded: 0 });
                    assert!(cx.send_to_conn(who.expect("bob").conn(), &hello));
                }
            }),
        );
        world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 0");
        let ann = world.conn("ann");
        // Leaves too little room for the presence_diff that bob's coming brings about.
        let filler = Frame::binary(&vec![0; 5030]);
        assert!(world.app(|_, cx| cx.send_to_conn(ann, &filler)));
        world.run(
            r#"
            bob > connect chess
            bob < upgrade, welcome, presence_state users=ann,bob, presence_diff -ann:slow, hello, hello
            ann > read
            ann < goodbye code=4102, close 4102 slow_consumer
            "#,
        );
        assert_eq!(world.engine.stats().counters.closed(CloseReason::SlowConsumer), 1);
    }
}

/// Frames mean nothing to a peer that has not read that there is a WebSocket.
#[test]
fn a_slow_consumer_is_granted_its_upgrade_before_it_is_closed() {
    let mut world = World::new(
        small_outbox(),
        Witness::<true>::reacting(|cx, who, event| {
            if event == "join ann" {
                let ann = who.expect("ann").conn();
                while cx.send_to_conn(ann, &Frame::binary(&[0; 1000])) {}
            }
        }),
    );
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, goodbye code=4102, close 4102 slow_consumer
        "#,
    );
}

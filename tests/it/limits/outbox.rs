//! The size of messages and of the queue of frames to one connection.

use lobbyd::apps::Relay;
use lobbyd::config::{ByteSize, DuplicateLogin, Limit};
use lobbyd::sending::Sent;
use lobbyd::sim::MemorySockets;
use lobbyd::sim::wire::{self, Opcode};
use lobbyd::{CloseReason, Config, Exclude, Frame};

use crate::common::scenario::{World, small_outbox};
use crate::common::witness::Witness;

/// A receiver is sent the presence update before a message. The update alone may exceed its outbox.
#[test]
fn a_receiver_closed_by_a_presence_update_gets_no_message() {
    for logins in [DuplicateLogin::Replace, DuplicateLogin::Allow] {
        let config = Config { duplicate_login: logins, max_per_user: Limit::at_most(2), ..small_outbox() };
        let mut world = World::new(
            config,
            Witness::<true>::reacting(|cx, member, event| {
                if event == "join bob" {
                    let hello = Frame::text(r#"{"type":"hello"}"#);
                    let ann = cx.lobby_users("chess").position(|user| user == "ann");
                    assert_eq!(ann, Some(0));
                    assert_eq!(cx.send_to_user("ann", &hello), Sent::default());
                    let sent = cx.broadcast_to_lobby("chess", Exclude::None, &hello);
                    assert_eq!(sent, Sent { queued: 1, dropped: 0, excluded: 0 });
                    assert!(cx.send_to_conn(member.expect("bob").conn(), &hello));
                }
            }),
        );
        world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 0");
        let ann = world.conn("ann");
        // Leaves too little room for the presence_diff of bob's join.
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

/// Frames mean nothing to a peer that has not read the upgrade.
#[test]
fn a_slow_consumer_gets_its_upgrade_before_the_close() {
    let mut world = World::new(
        small_outbox(),
        Witness::<true>::reacting(|cx, member, event| {
            if event == "join ann" {
                let ann = member.expect("ann").conn();
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

#[test]
fn a_message_has_a_maximum_size() {
    #[track_caller]
    fn check_message(frames: &[Vec<u8>], fits: bool) {
        let config = Config { max_message_bytes: ByteSize(200), ..Config::default() };
        let mut world = World::new(config, Witness::<true>::default());
        world.run("ann joins chess");
        world.send("ann", &frames.concat());
        world.flush();
        world.run(if fits { "" } else { "ann < goodbye code=1009, close 1009 message_too_big, eof" });
        let log = world.engine.app_mut().take();
        assert_eq!(log.len(), 2);
        assert_eq!(log[1] == "leave ann dropped", !fits, "{log:?}");
        assert_eq!(world.engine.stats().total_connections, usize::from(fits));
    }
    let json = |n: usize| format!("{{\"type\":\"x\",\"x\":\"{}\"}}", "x".repeat(n - 19)).into_bytes();
    let mask = [3, 5, 7, 9];
    assert_eq!(json(200).len(), 200);
    for (opcode, payload) in [(Opcode::TEXT, json(200)), (Opcode::BINARY, vec![1; 200])] {
        check_message(&[wire::frame(opcode, true, &payload, mask)], true);
        let (front, back) = payload.split_at(150);
        let fragments = [wire::frame(opcode, false, front, mask), wire::frame(Opcode::CONTINUATION, true, back, mask)];
        check_message(&fragments, true);
    }
    for (opcode, payload) in [(Opcode::TEXT, json(201)), (Opcode::BINARY, vec![1; 201])] {
        check_message(&[wire::frame(opcode, true, &payload, mask)], false);
        let (front, back) = payload.split_at(150);
        let fragments = [wire::frame(opcode, false, front, mask), wire::frame(Opcode::CONTINUATION, true, back, mask)];
        check_message(&fragments, false);
        // The header is enough: the server does not wait for the payload and allocates nothing for it.
        let header = wire::frame(opcode, true, &payload, mask)[..8].to_vec();
        check_message(&[header], false);
    }
    check_message(&[vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]], false);
}

#[test]
fn pongs_count_against_the_outbox() {
    let mut world = World::new(small_outbox(), Relay::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 0");
    let ping = wire::frame(Opcode::PING, true, &[b'x'; 125], [1; 4]);
    let ann = world.conn("ann");
    let mut pings = 0;
    while world.engine.stats().total_connections == 1 {
        world.send("ann", &ping);
        world.flush();
        pings += 1;
        assert!(world.app(|_, cx| cx.queued_bytes(ann)) <= 5100 + 200);
    }
    // Each pong counts its 127 bytes and 64 bytes of overhead.
    assert_eq!(pings, 5100 / (127 + 64) + 1);
    world.run("ann > read\nann < goodbye code=4102, close 4102 slow_consumer");
}

/// The close frame and its goodbye always fit.
#[test]
fn a_partly_written_frame_is_completed_before_the_goodbye() {
    let mut world = World::new(small_outbox(), Witness::<true>::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 10");
    let ann = world.conn("ann");
    world.app(|_, cx| assert!(cx.send_to_conn(ann, &Frame::text(&"x".repeat(50)))));
    world.app(|_, cx| while cx.send_to_conn(ann, &Frame::text(&"y".repeat(1000))) {});
    world.run(&format!("ann > read\nann < {}, goodbye, close 4102 slow_consumer", "x".repeat(50)));
}

/// No write is attempted until the socket is reported writable.
#[test]
fn a_blocked_socket_is_not_written_until_it_is_writable() {
    let mut world = World::new(small_outbox(), Witness::<true>::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state\nann > window 0");
    let ann = world.conn("ann");
    world.app(|_, cx| assert!(cx.send_to_conn(ann, &Frame::text("one"))));
    world.app(|_, cx| assert!(cx.send_to_conn(ann, &Frame::text("two"))));
    let check_nothing_is_written = |world: &mut World<_>| {
        let mut sockets = MemorySockets::default();
        world.engine.flush(&mut sockets).expect("the session is not recorded");
        assert_eq!(sockets.take_writes(), []);
    };
    check_nothing_is_written(&mut world);
    world.run("ann > read\nann < one, two");
    check_nothing_is_written(&mut world);
}

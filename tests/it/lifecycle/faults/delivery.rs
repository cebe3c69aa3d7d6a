//! Delivery of messages.

use std::collections::BTreeMap;

use lobbyd::apps::Relay;
use lobbyd::config::Limit;
use lobbyd::sending::Sent;
use lobbyd::{Authorization, CloseReason, Config, Exclude, Frame, Random};

use super::several_logins;
use crate::common::scenario::{World, check, small_outbox};
use crate::common::witness::Witness;

/// The reference implementation iterated over a set that changed meanwhile: the rest of the lobby missed the message.
#[test]
fn membership_is_fixed_at_the_call() {
    // In one callback, the application broadcasts a message and then closes the lobby.
    let mut world = World::new(
        Config::default(),
        Witness::<true>::reacting(|cx, member, event| {
            if event.starts_with("json ann last_words") {
                let lobby = member.expect("a member").lobby().to_owned();
                let sent = cx.broadcast_to_lobby(&lobby, Exclude::None, &Frame::text(r#"{"type":"bye"}"#));
                assert_eq!(sent, Sent { queued: 3, dropped: 0, excluded: 0 });
                assert_eq!(cx.close_lobby(&lobby, CloseReason::LobbyClosed), 3);
                let sent = cx.broadcast_to_lobby(&lobby, Exclude::None, &Frame::text(r#"{"type":"too late"}"#));
                assert_eq!(sent, Sent::default());
            }
        }),
    );
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        turn begins
        bob > connect chess
        cid > connect chess
        turn ends
        bob < upgrade, welcome, presence_state users=ann,bob,cid
        cid < upgrade, welcome, presence_state users=ann,bob,cid
        ann < presence_diff +bob +cid
        turn begins
        ann > {"type":"last_words"}
        # dan joins a new lobby of the same name, which was not announced to the others.
        dan > connect chess
        turn ends
        ann < bye, goodbye code=4006 reason=lobby_closed, close 4006 lobby_closed
        bob < bye, goodbye, close 4006 lobby_closed
        cid < bye, goodbye, close 4006 lobby_closed
        dan < upgrade, welcome seq=0, presence_state seq=0 users=dan
        "#,
    );
}

/// The reference implementation removed a failed receiver from the set it was iterating over.
#[test]
fn a_closing_receiver_does_not_cost_others_the_message() {
    let config = small_outbox();
    check(
        config,
        &format!(
            r#"
            ann, bob, cid join chess
            bob > window 0
            ann > {{"type":"broadcast","data":"{big}","ref":1}}
            ann < ack ref=1 delivered=2 dropped=0
            cid < message data={big}
            ann > {{"type":"broadcast","data":"{big}","ref":2}}
            ann < ack ref=2 delivered=1 dropped=1, presence_diff -bob:slow
            cid < message data={big}, presence_diff -bob:slow
            "#,
            big = "x".repeat(2500)
        ),
    );
}

/// In the reference implementation one slow client stalled the whole lobby, behind an unbounded buffer.
#[test]
fn slow_consumer_is_closed_not_buffered() {
    let mut world = World::new(small_outbox(), Relay::default());
    world.run(
        r#"
        ann, bob join chess
        bob > window 0
        "#,
    );
    let mut sent = 0;
    let bob = world.conn("bob");
    while world.engine.stats().total_connections == 2 {
        world.steps(r#"ann > {"type":"broadcast","data":"abcdefghijklmnopqrstuvwxyz"}"#);
        let queued = world.app(|_, cx| cx.queued_bytes(bob));
        assert!(queued <= 5100 + 200, "the bound, and a goodbye: {queued}");
        sent += 1;
    }
    assert!((20..60).contains(&sent), "a bounded number fits into bob's outbox: {sent}");
    world.run(
        r#"
        ann < presence_diff -bob:slow
        bob > read
        # Frames that bob did not read are discarded. The close reason is sent.
        bob < goodbye code=4102 reason=slow_consumer reconnect=true, close 4102 slow_consumer
        "#,
    );
    assert_eq!(world.engine.stats().counters.closed(CloseReason::SlowConsumer), 1);
    assert_eq!(world.engine.stats().counters.frames_dropped, sent - 1);
}

/// In the reference implementation two concurrent broadcasts reached the members in different orders.
#[test]
fn all_members_see_one_order() {
    let names = ["ann", "bob", "cid", "dan"];
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut world = World::new(Config::default(), Relay::default());
        for name in names {
            world.act(name, "connect chess");
        }
        world.flush();
        for name in names {
            assert_eq!(world.take(name).len(), 3, "upgrade, welcome, presence_state");
        }
        let mut broadcasts: BTreeMap<u64, (String, u64)> = BTreeMap::new();
        let mut acks: Vec<(String, u64)> = Vec::new();
        for n in 0..40u64 {
            let name = names[random.below(4) as usize];
            let turn = if random.percent(50) { "turn ends" } else { "turn begins" };
            world.act(name, &format!(r#"{{"type":"broadcast","data":{n},"ref":{n}}}"#));
            acks.push((name.into(), n));
            if turn == "turn ends" {
                world.flush();
            }
        }
        world.flush();
        for name in names {
            let mut last = 0;
            for text in world.take(name) {
                let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                let seq = value["seq"].as_u64().expect("a number");
                assert_eq!(seq, last + 1, "no gap: an ack has the number of the own message");
                last = seq;
                let (from, n) = match &value["type"] {
                    kind if kind == "ack" => (name.to_owned(), value["ref"].as_u64().expect("a number")),
                    _ => (value["from"].as_str().expect("a name").into(), value["data"].as_u64().expect("a number")),
                };
                let there = broadcasts.entry(seq).or_insert((from.clone(), n));
                assert_eq!(*there, (from, n), "{name} receives the same message at {seq}");
            }
            assert_eq!(last, 40);
        }
        assert_eq!(broadcasts.into_values().collect::<Vec<_>>(), acks, "the order of arrival");
    }
}

/// The reference implementation removed a connection after a failed send, but went on handling its messages.
#[test]
fn a_closed_connection_causes_no_event() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run(
        r#"
        ann, bob join chess
        "#,
    );
    let bob = world.conn("bob");
    world.run(
        r#"
        turn begins
        bob > {"type":"move"}
        bob > break
        ann > {"type":"broadcast","data":1}
        turn ends
        # Removing the member and closing the socket are one step.
        bob < cut
        ann < presence_diff -bob:dropped
        "#,
    );
    world.engine.app_mut().take();
    world.engine.handle_bytes(world.now, bob, &lobbyd::sim::wire::text(r#"{"type":"move"}"#));
    world.engine.handle_hangup(world.now, bob);
    world.engine.handle_writable(world.now, bob);
    world.engine.handle_authorized(world.now, bob, Authorization::allow("bob"));
    world.flush();
    assert_eq!(world.engine.app_mut().take(), [""; 0]);
    assert_eq!(world.engine.stats().counters.closed(CloseReason::WriteFailed), 1);
    assert_eq!(world.engine.stats().counters.closed_in_all(), 1);

    // The same after an orderly close that the peer has not read yet.
    world.run(
        r#"
        ann > {"type":"leave"}
        ann < goodbye code=1000 reason=left, close 1000 left
        ann > {"type":"move"}
        ann > binary x
        ann > ping x
        ann > {"type":"leave"}
        ann > {
        "#,
    );
    assert_eq!(world.engine.app_mut().take(), ["leave ann left"]);
}

/// In the reference implementation a message that could not be serialized as JSON disconnected its receiver.
#[test]
fn a_serialization_error_is_returned_to_the_caller() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann joins chess");
    let non_string_keys = BTreeMap::from([((1, 2), 3)]);
    assert!(Frame::json(&non_string_keys).is_err());
    let frame = Frame::json(&BTreeMap::from([("type", "fine")])).expect("a map with strings as keys");
    assert_eq!(world.app(|_, cx| cx.send_to_user("ann", &frame)).queued, 1);
    world.run("ann < fine");
    assert_eq!(world.engine.stats().counters.closed_in_all(), 0);
}

/// In the reference implementation bad JSON, JSON other than an object, and binary frames left a stale member in the lobby.
#[test]
fn no_input_leaves_a_stale_member() {
    #[track_caller]
    fn check_input(bytes: &[u8], ends_with: Option<&str>) {
        let mut world = World::new(Config::default(), Relay::default());
        world.run("ann joins chess");
        world.send("ann", bytes);
        world.flush();
        world.engine.check();
        let got = world.take("ann");
        let close = got.iter().find(|item| item.starts_with("close "));
        assert_eq!(close.map(String::as_str), ends_with);
        assert_eq!(world.engine.stats().total_connections, usize::from(ends_with.is_none()));
        // A closed connection has left no seat behind, and an open one still works.
        world.run("advance 4s");
        if ends_with.is_some() {
            assert_eq!(world.engine.stats().closing, 0);
        } else {
            world.run("ann > {\"type\":\"ping\",\"ref\":1}\nann < pong ref=1");
        }
    }
    use lobbyd::sim::wire::{Opcode, close, frame, text};
    for bad in ["", "{", "nonsense", "[]", "1", "null", "\"type\"", "{}", r#"{"type":1}"#, r#"{"type":"broadcast"}"#] {
        check_input(&text(bad), None);
    }
    check_input(&frame(Opcode::BINARY, true, b"\xff\x00", [1; 4]), None);
    check_input(&frame(Opcode::BINARY, true, b"", [1; 4]), None);
    check_input(&frame(Opcode::TEXT, true, b"\xff", [1; 4]), Some("close 1007 bad_utf8"));
    check_input(&frame(Opcode::CONTINUATION, true, b"x", [1; 4]), Some("close 1002 protocol_error"));
    check_input(&close(1000, ""), Some("close 1000 "));
    check_input(&close(4999, "bye"), Some("close 4999 bye"));
}

/// The reference implementation could only exclude all sockets of a user, and took the empty id for "exclude none".
#[test]
fn a_broadcast_excludes_exactly_the_given_receivers() {
    let config = Config { max_per_lobby: Limit::at_most(5), ..several_logins(2) };
    let mut world = World::new(config, Witness::<true>::default());
    world.run(
        r#"
        turn begins
        ann:1 > connect chess
        ann:2 > connect chess
        bob > connect chess
        turn ends
        ann:1 < upgrade, welcome, presence_state
        ann:2 < upgrade, welcome, presence_state
        bob < upgrade, welcome, presence_state
        "#,
    );
    let first = world.conn("ann:1");
    let mut check_exclude = |exclude: Exclude<'_>, receivers: &[&str]| {
        let sent = world.app(|_, cx| cx.broadcast_to_lobby("chess", exclude, &Frame::text(r#"{"type":"hello"}"#)));
        assert_eq!(sent, Sent { queued: receivers.len(), dropped: 0, excluded: 3 - receivers.len() });
        for name in ["ann:1", "ann:2", "bob"] {
            assert_eq!(world.take(name).len(), usize::from(receivers.contains(&name)), "{exclude:?} {name}");
        }
    };
    check_exclude(Exclude::None, &["ann:1", "ann:2", "bob"]);
    check_exclude(Exclude::Conn(first), &["ann:2", "bob"]);
    check_exclude(Exclude::User("ann"), &["bob"]);
    check_exclude(Exclude::User("nobody"), &["ann:1", "ann:2", "bob"]);
    check_exclude(Exclude::User(""), &["ann:1", "ann:2", "bob"]);
    check_exclude(Exclude::Users(&["bob", "ann"]), &[]);
    check_exclude(Exclude::Users(&["", "bob"]), &["ann:1", "ann:2"]);
    check_exclude(Exclude::Users(&[]), &["ann:1", "ann:2", "bob"]);
    // No user has the empty id.
    world.run(
        r#"
        nobody > get /ws/chess?auth=nameless
        nobody < upgrade, goodbye code=4001 reason=unauthorized, close 4001 unauthorized
        "#,
    );
}

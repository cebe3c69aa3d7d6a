//! Faults of the reference implementation, a connection manager of the usual kind. There is one test per fault. Its name
//! states the behaviour that is required instead.

use std::collections::BTreeMap;
use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::{Authorization, CloseReason, Config, DuplicateLogin, Engine, Exclude, Frame, Limit, Random, Sent, Time};

use crate::scenario::{START, World, check, small_outbox};
use crate::witness::Witness;

fn lobby_of(n: u32) -> Config {
    Config { max_per_lobby: Limit::at_most(n), ..Config::default() }
}

fn several_logins(n: u32) -> Config {
    Config { duplicate_login: DuplicateLogin::Allow, max_per_user: Limit::at_most(n), ..Config::default() }
}

/// The reference implementation closed before it accepted: pages saw code 1006 and no reason.
#[test]
fn a_refusal_reaches_the_page_as_a_close_code() {
    check(
        lobby_of(1),
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        bob > connect chess
        bob < upgrade, goodbye code=4002 reason=lobby_full reconnect=false, close 4002 lobby_full
        bob > close 4002
        bob < eof
        cid > get /ws/chess
        cid < upgrade, goodbye code=4001 reason=unauthorized reconnect=false, close 4001 unauthorized
        "#,
    );
}

/// The reference implementation had one entry per user, which the first login to end deleted.
#[test]
fn ending_the_older_login_keeps_the_newer_one_reachable() {
    let mut world = World::new(several_logins(2), Relay::default());
    world.run(
        r#"
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann:1 > connect chess
        ann:1 < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann:2 > connect chess
        ann:2 < upgrade, welcome, presence_state users=bob,ann,ann
        bob < presence_diff +ann
        ann:1 < presence_diff +ann
        ann:1 > hangup
        bob < presence_diff -ann:dropped
        ann:2 < presence_diff -ann:dropped
        bob > {"type":"direct","to":"ann","data":1,"ref":1}
        bob < ack ref=1
        ann:2 < direct from=bob data=1
        "#,
    );
    assert!(world.app(|_, cx| cx.is_user_connected("ann")));
    assert_eq!(world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2))), 1);
    world.run("ann:2 < health_ping");

    // The same if the newer login replaces the older one.
    check(
        Config::default(),
        r#"
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann:1 > connect chess
        ann:1 < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann:2 > connect chess
        ann:1 < goodbye code=4004 reason=replaced, close 4004 replaced
        ann:2 < upgrade, welcome, presence_state
        ann:1 > hangup
        bob > {"type":"direct","to":"ann","data":1,"ref":1}
        bob < ack ref=1
        ann:2 < direct from=bob data=1
        "#,
    );
}

/// The reference implementation left the older socket in the lobby: it kept its seat and received every message.
#[test]
fn a_replaced_login_receives_nothing_more_and_keeps_no_seat() {
    let mut world = World::new(lobby_of(2), Witness::<true>::default());
    world.run(
        r#"
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann:1 > connect chess
        ann:1 < upgrade, welcome conn=s2, presence_state
        bob < presence_diff +ann
        ann:2 > connect chess
        ann:2 < upgrade, welcome conn=s2 seq=1, presence_state users=bob,ann
        ann:1 < goodbye code=4004 reason=replaced reconnect=false, close 4004 replaced
        # There was no join and no leave. Messages from the older socket are ignored.
        bob < nothing
        ann:1 > {"type":"broadcast","data":"old"}
        ann:1 > {"type":"move"}
        bob > {"type":"broadcast","data":"new","ref":1}
        bob < ack ref=1 delivered=1
        ann:2 < message data=new
        "#,
    );
    assert_eq!(world.engine.stats().total_connections, 2);
    assert_eq!(world.engine.app_mut().take(), ["join bob", "join ann", "rejoin ann", "may bob broadcast \"new\""]);
}

/// The reference implementation refused a user whose own stale connection occupied the last seat.
#[test]
fn a_user_returning_to_a_full_lobby_takes_over_its_seat() {
    let full = Config { max_connections: Limit::at_most(2), max_lobbies: Limit::at_most(1), ..lobby_of(2) };
    check(
        full,
        r#"
        ann:1 > connect chess
        ann:1 < upgrade, welcome, presence_state
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann:1 < presence_diff +bob
        ann:2 > connect chess
        ann:2 < upgrade, welcome, presence_state users=ann,bob
        ann:1 < goodbye code=4004, close 4004 replaced
        "#,
    );
}

/// The reference implementation checked the limit, waited, and then admitted all connections that had waited.
#[test]
fn concurrent_handshakes_never_exceed_the_limit() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let config = Config { max_connections: Limit::at_most(3), ..lobby_of(2) };
        let mut world = World::new(config, Witness::<true>::default());
        let refuses = seed % 2 == 1;
        let ways = ["", "&auth=later", "&auth=unnamed"];
        // Each client opens, sends its request in two pieces, and is authorized. The order among the clients is random.
        let requests: Vec<(String, Vec<u8>)> = (0..6)
            .map(|n| {
                let way = ways[random.below(3) as usize];
                let target = format!("/ws/{}?token=user{n}{way}", ["a", "b"][n % 2]);
                (format!("user{n}"), lobbyd::sim::wire::upgrade_request(&target, &[]))
            })
            .collect();
        let mut progress = [0; 6];
        while progress.iter().any(|&step| step < 4) {
            let n = random.below(6) as usize;
            let (name, request) = &requests[n];
            match progress[n] {
                0 => world.open(name),
                1 => world.send(name, &request[..60]),
                2 => world.send(name, &request[60..]),
                3 => {
                    let conn = world.conn(name);
                    let answer = match refuses && random.percent(40) {
                        true => Authorization::Refuse(CloseReason::Banned),
                        false => Authorization::allow(name.as_str()),
                    };
                    world.engine.handle_authorized(world.now, conn, answer);
                }
                _ => continue,
            }
            progress[n] += 1;
            // Counts the seats: no limit is exceeded at any moment.
            world.engine.check();
            if random.percent(30) {
                world.flush();
            }
        }
        world.flush();
        let stats = world.engine.stats();
        let counters = &stats.counters;
        let refused =
            [CloseReason::ServerFull, CloseReason::LobbyFull, CloseReason::Banned].map(|r| counters.closed(r));
        assert_eq!(stats.total_connections as u64 + refused.iter().sum::<u64>(), 6, "seed {seed}");
        assert!(stats.total_connections <= 3);
        if !refuses {
            assert_eq!(stats.total_connections, 3, "seed {seed}: no connection is refused while there is room");
        }
    }
}

/// The reference implementation counted a socket only once it was admitted, and waited for it without a timeout.
#[test]
fn silent_sockets_are_counted_and_timed_out() {
    let mut world = World::new(Config { max_pending: 2, ..Config::default() }, Relay::default());
    world.run(
        r#"
        a > open
        b > open
        b > raw GET /ws/chess HTTP/1.1\r\n
        c > open
        c < http 503, body, eof
        "#,
    );
    assert_eq!(world.engine.stats().pending, 2);
    world.run(
        r#"
        advance 4990ms
        b > raw Host: a\r\n
        a < nothing
        advance 10ms
        a < http 408, body, eof
        # A request that trickles in does not extend the deadline.
        b < http 408, body, eof
        advance 2s
        "#,
    );
    let stats = world.engine.stats();
    assert_eq!((stats.pending, stats.closing), (0, 0));
    assert_eq!(stats.counters.closed(CloseReason::HandshakeTimeout), 2);
}

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
            ann > connect chess
            ann < upgrade, welcome, presence_state
            bob > connect chess
            bob < upgrade, welcome, presence_state
            ann < presence_diff +bob
            cid > connect chess
            cid < upgrade, welcome, presence_state
            ann < presence_diff +cid
            bob < presence_diff +cid
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
        ann > connect chess
        ann < upgrade, welcome, presence_state
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
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
        ann > connect chess
        ann < upgrade, welcome, presence_state
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
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

/// In the reference implementation a late pong added the removed user to its maps again.
#[test]
fn late_pongs_for_a_closed_connection_change_nothing() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
    let ann = world.conn("ann");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run("ann < health_ping timestamp=1000000000\nann > hangup");
    // The slot is used again, under another id.
    world.run("bob > connect chess\nbob < upgrade, welcome, presence_state");
    assert_eq!(world.conn("bob").index(), ann.index());
    assert_ne!(world.conn("bob"), ann);
    let before = world.engine.stats();
    world.app(|app, cx| {
        app.take();
        assert_eq!(cx.record_pong(ann, 1_000_000_000), None);
        cx.update_last_message(ann);
        assert!(!cx.send_to_conn(ann, &Frame::text("{}")));
        assert_eq!(cx.queued_bytes(ann), 0);
        cx.close(ann, CloseReason::Kicked);
        assert_eq!(cx.send_to_user("ann", &Frame::text("{}")), Sent::default());
        assert_eq!(cx.ping_user("ann", Duration::from_secs(2)), 0);
        assert!(!cx.is_user_connected("ann"));
    });
    assert_eq!(world.engine.stats(), before);
    assert_eq!(world.engine.app_mut().take(), [""; 0]);
    world.run("bob < nothing");
}

/// In the reference implementation a message that could not be serialized as JSON disconnected its receiver.
#[test]
fn a_serialization_error_is_returned_to_the_caller() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
    let non_string_keys = BTreeMap::from([((1, 2), 3)]);
    assert!(Frame::json(&non_string_keys).is_err());
    let frame = Frame::json(&BTreeMap::from([("type", "fine")])).expect("a map with strings as keys");
    assert_eq!(world.app(|_, cx| cx.send_to_user("ann", &frame)).queued, 1);
    world.run("ann < fine");
    assert_eq!(world.engine.stats().counters.closed_in_all(), 0);
}

/// The reference implementation swallowed every error without reporting it.
#[test]
fn every_close_is_counted_under_its_reason() {
    let mut world = World::new(Config { max_strikes: 0, ..Config::default() }, Relay::default());
    let (bad_utf8, unmasked) = ([0x81, 0x81, 0, 0, 0, 0, 0xff], [0x81, 0x01, b'x']);
    type End<'a> = &'a dyn Fn(&mut World<Relay>);
    let ends: &[(&str, CloseReason, End<'_>)] = &[
        ("left", CloseReason::Left, &|world| world.steps(r#"ann > {"type":"leave"}"#)),
        ("closed", CloseReason::PeerClosed, &|world| world.act("ann", "close 1000")),
        ("hung up", CloseReason::Hangup, &|world| world.hangup("ann")),
        ("malformed", CloseReason::BadMessage, &|world| world.steps("ann > {")),
        ("bad UTF-8", CloseReason::BadUtf8, &|world| world.send("ann", &bad_utf8)),
        ("unmasked", CloseReason::ProtocolError, &|world| world.send("ann", &unmasked)),
        ("too big", CloseReason::MessageTooBig, &|world| world.act("ann", &format!("text {}", "x".repeat(70_000)))),
        ("broken", CloseReason::WriteFailed, &|world| world.steps("ann > break\nann > ping x")),
        ("kicked", CloseReason::Kicked, &|world| {
            world.app(|_, cx| cx.close_user("ann", CloseReason::Kicked));
        }),
    ];
    for (n, (case, reason, end)) in ends.iter().enumerate() {
        world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
        end(&mut world);
        world.flush();
        world.take("ann");
        let counters = world.engine.stats().counters;
        assert_eq!(counters.closed(*reason), 1, "{case}");
        assert_eq!(counters.closed_in_all(), n as u64 + 1, "{case}");
        world.steps("advance 4s");
        world.take("ann");
    }
}

/// In the reference implementation bad JSON, JSON other than an object, and binary frames left a stale member in the lobby.
#[test]
fn no_input_leaves_a_stale_member() {
    #[track_caller]
    fn check_input(bytes: &[u8], ends_with: Option<&str>) {
        let mut world = World::new(Config::default(), Relay::default());
        world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
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

/// In the reference implementation a second ping of the same user made the first one fail, and the reverse.
#[test]
fn several_pings_of_one_user_are_each_answered() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run("ann < health_ping timestamp=1000000000\nadvance 1s");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run(
        r#"
        ann < health_ping timestamp=1000001000, health_ping timestamp=1000001001
        advance 250ms
        ann > {"type":"health_pong","timestamp":1000001001}
        ann > {"type":"health_pong","timestamp":1000000000}
        advance 10ms
        ann > {"type":"health_pong","timestamp":1000001000}
        advance 10s
        "#,
    );
    let log = world.engine.app_mut().take();
    assert_eq!(log, ["join ann", "health ann 250000us", "health ann 1250000us", "health ann 260000us"]);
    assert_eq!(world.engine.stats().counters.health_checks_failed, 0);
}

/// In the reference implementation a late answer to one ping was taken for an answer to the next, with a latency far too low.
#[test]
fn late_pong_answers_no_later_ping() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run("ann < health_ping timestamp=1000000000\nadvance 2010ms");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run(
        r#"
        ann < health_ping timestamp=1000002010
        advance 1ms
        ann > {"type":"health_pong","timestamp":1000000000}
        advance 499ms
        ann > {"type":"health_pong","timestamp":1000002010}
        ann > {"type":"health_pong","timestamp":1000002010}
        "#,
    );
    assert_eq!(world.engine.app_mut().take(), ["join ann", "health ann unhealthy", "health ann 500000us"]);
}

/// The reference implementation's ping raised an exception if the connection was closed.
#[test]
fn a_ping_always_has_a_result() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    assert_eq!(world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2))), 0, "no user of that name");
    for end in ["hangup", "close 1000", r#"{"type":"leave"}"#, "break", "connect", "connect elsewhere"] {
        world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
        world.engine.app_mut().take();
        assert_eq!(world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2))), 1);
        match end {
            "break" => world.steps("ann > break\nann > ping x"),
            "connect" => world.steps("ann:2 > connect chess"),
            "connect elsewhere" => world.steps("ann:3 > connect go"),
            end => world.steps(&format!("ann < health_ping\nann > {end}")),
        }
        world.flush();
        let log = world.engine.app_mut().take();
        assert_eq!(log[0], "health ann unhealthy", "{end}: the result comes before the leave, {log:?}");
        assert_eq!(log.iter().filter(|event| event.starts_with("health")).count(), 1);
        world.app(|_, cx| cx.close_user("ann", CloseReason::Kicked));
        world.steps("advance 10s");
        assert!(!world.engine.app_mut().take().iter().any(|event| event.starts_with("health")), "{end}: once");
        for name in ["ann", "ann:2", "ann:3"] {
            if world.knows(name) {
                world.take(name);
            }
        }
    }
}

/// The reference implementation measured with wall time: a clock step gave negative or huge latencies.
#[test]
fn latency_is_never_negative_when_the_clock_steps() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("advance 10s\nann > connect chess\nann < upgrade, welcome, presence_state");
    world.app(|_, cx| cx.ping_user("ann", Duration::from_secs(2)));
    world.run("ann < health_ping timestamp=1000010000");
    let conn = world.conn("ann");
    let pong = lobbyd::sim::wire::text(r#"{"type":"health_pong","timestamp":1000010000}"#);
    world.engine.handle_bytes(Time::from_micros(3), conn, &pong);
    world.end_turn_at(Time::ZERO);
    world.app(|_, cx| assert_eq!(cx.now(), Time::from_micros(10_000_000)));
    assert_eq!(world.engine.app_mut().take(), ["join ann", "health ann 0us"]);
}

/// The reference implementation stored the time of the last activity and never checked it.
#[test]
fn silent_connections_are_found_and_closed() {
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob
        advance 19s
        bob > {"type":"ping"}
        bob < pong
        advance 10980ms
        ann < ping
        advance 20ms
        ann < goodbye code=4201 reason=stale reconnect=true, close 4201 stale
        bob < presence_diff -ann:timeout
        "#,
    );
}

/// In the reference implementation activity in one tab kept the user's dead tab alive.
#[test]
fn activity_counts_for_one_connection_only() {
    check(
        several_logins(2),
        r#"
        ann:1 > connect chess
        ann:1 < upgrade, welcome, presence_state
        ann:2 > connect go
        ann:2 < upgrade, welcome, presence_state
        advance 10s
        ann:1 > {"type":"presence"}
        ann:1 < presence_state
        advance 15s
        ann:2 < ping
        ann:1 > {"type":"presence"}
        ann:1 < presence_state
        advance 6s
        ann:2 < goodbye code=4201, close 4201 stale
        ann:1 < nothing
        "#,
    );
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

/// The reference implementation created a lobby for any path, with no bound on its name or on the number of lobbies.
#[test]
fn a_lobby_needs_a_valid_code_and_room() {
    let mut world = World::new(Config { max_lobbies: Limit::at_most(1), ..Config::default() }, Relay::default());
    let long = format!("/ws/{}", "x".repeat(65));
    for (n, path) in
        ["/ws/", "/ws/a.b", "/ws/a%2Fb", "/ws/a/b", "/ws/sch%C3%B6n", "/ws/a%20b", &long].iter().enumerate()
    {
        world.run(&format!(
            "x{n} > get {path}?token=x{n}\nx{n} < upgrade, goodbye code=4007, close 4007 bad_lobby_code"
        ));
    }
    assert_eq!(world.engine.stats().active_lobbies, 0);
    world.run(&format!("ann > connect {}\nann < upgrade, welcome, presence_state", "x".repeat(64)));
    world.run(
        r#"
        bob > connect chess
        bob < upgrade, goodbye code=4002, close 4002 lobby_limit
        ann > hangup
        bob > close 4002
        bob < eof
        bob > hangup
        # An empty lobby is removed, which makes room for another.
        bob > connect chess
        bob < upgrade, welcome, presence_state
        "#,
    );
}

/// The reference implementation recomputed all totals for every new connection.
#[test]
fn totals_equal_a_full_recount() {
    for (seed, logins) in
        (0..15).zip([DuplicateLogin::Replace, DuplicateLogin::Allow, DuplicateLogin::Reject].iter().cycle())
    {
        let mut random = Random::new(seed);
        let config = Config {
            max_connections: Limit::at_most(7),
            max_lobbies: Limit::at_most(3),
            max_per_user: Limit::at_most(2),
            duplicate_login: *logins,
            ..lobby_of(3)
        };
        let mut world = World::new(config, Witness::<true>::default());
        for step in 0..150 {
            let name = format!("user{}:{}", random.below(5), random.below(3));
            let user = name.split(':').next().expect("split returns at least one part");
            let action = random.below(4);
            match (world.is_open(&name), action) {
                (false, _) => {
                    let auth = if random.percent(30) { "&auth=later" } else { "" };
                    let lobby = random.below(4);
                    world.act(&name, &format!("get /ws/lobby{lobby}?token={user}{auth}"));
                }
                (true, 0) => world.hangup(&name),
                (true, 1) => world.act(&name, r#"{"type":"broadcast","data":1}"#),
                (true, 2) => world.act(&name, "close 1000"),
                (true, _) => {
                    let conn = world.conn(&name);
                    world.engine.handle_authorized(world.now, conn, Authorization::allow(user));
                }
            }
            if random.percent(60) {
                world.flush();
            }
            // Recounts everything and compares.
            world.engine.check();
            let stats = world.engine.stats();
            let counted =
                world.app(|_, cx| (0..4).map(|n| cx.lobby_users(&format!("lobby{n}")).count()).sum::<usize>());
            assert_eq!(stats.total_connections, counted, "seed {seed} step {step}");
        }
        assert!(world.engine.stats().counters.joined > 10);
    }
}

/// The reference implementation divided by the limit, even if it was 0.
#[test]
fn capacity_is_a_number_for_every_limit() {
    #[track_caller]
    fn check_capacity(limit: Limit, expected: f64) {
        let config = Config { max_connections: limit, ..Config::default() };
        let mut world = World::new(config, Relay::default());
        world.steps("ann > connect chess");
        assert_eq!(world.engine.stats().capacity_percent, expected);
    }
    check_capacity(Limit::at_most(0), 100.0);
    check_capacity(Limit::at_most(1), 100.0);
    check_capacity(Limit::at_most(3), 33.3);
    check_capacity(Limit::at_most(500), 0.2);
    check_capacity(Limit::UNLIMITED, 0.0);
}

/// The reference implementation was one global object: workers did not see each other's users, and tests interfered.
#[test]
fn two_engines_share_nothing() {
    let mut one = World::new(lobby_of(1), Relay::default());
    let two = Engine::new(lobby_of(1), START, Relay::default());
    one.run("ann > connect chess\nann < upgrade, welcome, presence_state");
    assert_eq!((one.engine.stats().total_connections, two.stats().total_connections), (1, 0));
    let mut two = World::new(lobby_of(1), Relay::default());
    two.run("bob > connect chess\nbob < upgrade, welcome conn=s1, presence_state users=bob");
}

/// The reference implementation sent no presence, no joins, no leaves and no close reasons.
#[test]
fn a_client_learns_the_members_and_its_close_reason() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome protocol=1 user=ann lobby=chess conn=s1, presence_state users=ann
        bob > connect chess
        bob < upgrade, welcome protocol=1 user=bob lobby=chess conn=s2, presence_state users=ann,bob
        ann < presence_diff +bob
        "#,
    );
    world.app(|_, cx| cx.close_user("bob", CloseReason::Banned));
    world.run(
        r#"
        bob < goodbye code=4003 reason=banned reconnect=false, close 4003 banned
        ann < presence_diff -bob:kicked
        "#,
    );
}

/// In the reference implementation a user that entered a second lobby could not be reached in the first. After leaving the
/// second it could not be reached at all.
#[test]
fn a_user_is_reached_in_every_lobby() {
    let mut world = World::new(several_logins(2), Relay::default());
    world.run(
        r#"
        ann:1 > connect chess
        ann:1 < upgrade, welcome, presence_state
        ann:2 > connect go
        ann:2 < upgrade, welcome, presence_state
        "#,
    );
    let hello = Frame::text(r#"{"type":"hello"}"#);
    assert_eq!(world.app(|_, cx| cx.send_to_user("ann", &hello)).queued, 2);
    world.run("ann:1 < hello\nann:2 < hello\nann:2 > hangup");
    assert_eq!(world.app(|_, cx| cx.send_to_user("ann", &hello)).queued, 1);
    world.run("ann:1 < hello");
    assert!(world.app(|_, cx| cx.is_user_connected("ann")));

    // With one seat per user, the user leaves one lobby when it enters the other.
    check(
        Config::default(),
        r#"
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann > connect chess
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann:2 > connect go
        bob < presence_diff -ann:replaced
        ann < goodbye code=4004, close 4004 replaced
        ann:2 < upgrade, welcome lobby=go, presence_state users=ann
        "#,
    );
}

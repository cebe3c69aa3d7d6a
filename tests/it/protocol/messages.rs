//! The JSON protocol as documented: every message of a client and every message of the server.

use lobbyd::apps::{Echo, Relay, Verbatim};
use lobbyd::sim::wire;
use lobbyd::{
    App, Authorization, ByteSize, CloseReason, Config, Context, DuplicateLogin, Limit, Member, Message, Protocol,
    Reject, Request,
};
use serde_json::Value;

use crate::scenario::{World, check};
use crate::witness::Witness;

/// Three members of one lobby, each of which has been sent the others' presence.
const THREE: &str = r#"
    turn begins
    ann > connect chess
    bob > connect chess
    cid > connect chess
    turn ends
    ann < upgrade, welcome, presence_state seq=0 users=ann,bob,cid
    bob < upgrade, welcome, presence_state seq=0 users=ann,bob,cid
    cid < upgrade, welcome, presence_state seq=0 users=ann,bob,cid
"#;

/// Runs a script with the three members of [`THREE`].
#[track_caller]
fn check_three(script: &str) {
    check(Config::default(), &format!("{THREE}{script}"));
}

// ---- messages of a client ----

#[test]
fn members_receive_presence_and_each_others_messages() {
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome protocol=1 user=ann lobby=chess seq=0 resumed=false, presence_state seq=0 users=ann
        bob > connect chess
        bob < upgrade, welcome user=bob, presence_state seq=1 users=ann,bob
        ann < presence_diff seq=1 +bob
        bob > {"type":"move","to":"e4"}
        ann < message from=bob seq=2 data={"type":"move","to":"e4"}
        bob < nothing
        ann > {"type":"broadcast","data":[1],"ref":7}
        bob < message from=ann seq=3 data=[1]
        ann < ack ref=7 seq=3 delivered=1 dropped=0
        bob > close 1000
        bob < close 1000 , eof
        ann < presence_diff seq=4 -bob:left
        "#,
    );
}

#[test]
fn broadcast_reaches_every_other_member() {
    check_three(
        r#"
        ann > {"type":"broadcast","data":{"x":null}}
        ann < nothing
        bob < message from=ann seq=1 data={"x":null}
        cid < message from=ann seq=1 data={"x":null}
        bob > {"data":null,"ref":"r","type":"broadcast"}
        bob < ack ref="r" seq=2 delivered=2 dropped=0
        ann < message from=bob seq=2 data=null
        cid < message from=bob seq=2 data=null
        ann > {"type":"broadcast"}
        ann < error !ref code=bad_message
        "#,
    );
    // A broadcast without receivers takes a number too.
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < ack ref=1 seq=1 delivered=0 dropped=0
        ann > {"type":"broadcast","data":1,"ref":2}
        ann < ack ref=2 seq=2 delivered=0 dropped=0
        "#,
    );
}

#[test]
fn direct_reaches_one_member_of_the_same_lobby() {
    check_three(
        r#"
        ann > {"type":"direct","to":"bob","data":[1],"ref":1}
        ann < ack ref=1 !seq !delivered
        bob < direct from=ann data=[1] !seq
        cid < nothing
        ann > {"type":"direct","to":"bob","data":2}
        bob < direct from=ann data=2
        # A member can send to itself.
        ann > {"type":"direct","to":"ann","data":3,"ref":2}
        ann < direct from=ann data=3, ack ref=2
        ann > {"type":"direct","to":"eve","data":4,"ref":3}
        ann < error ref=3 code=user_not_found
        # A member of another lobby is not found.
        eve > connect go
        eve < upgrade, welcome, presence_state
        ann > {"type":"direct","to":"eve","data":5}
        ann < error !ref code=user_not_found
        ann > {"type":"direct","to":"","data":5}
        ann < error code=user_not_found
        ann > {"type":"direct","data":6,"ref":4}
        ann < error ref=4 code=bad_message
        ann > {"type":"direct","to":"bob","ref":5}
        ann < error ref=5 code=bad_message
        ann > {"type":"direct","to":["bob"],"data":6}
        ann < error code=bad_message
        "#,
    );
}

#[test]
fn presence_ping_health_pong_and_leave_are_answered() {
    check_three(
        r#"
        ann > {"type":"presence"}
        ann < presence_state seq=0 users=ann,bob,cid
        ann > {"type":"presence","ref":1}
        ann < presence_state users=ann,bob,cid, ack ref=1
        advance 1500ms
        ann > {"type":"ping"}
        ann < pong !ref server_time=1000001500
        ann > {"type":"ping","ref":"a"}
        ann < pong ref="a" server_time=1000001500
        # A pong without a check is no error, and is not relayed.
        ann > {"type":"health_pong","timestamp":5}
        ann > {"type":"health_pong","timestamp":5,"ref":2}
        ann < ack ref=2
        ann > {"type":"health_pong","timestamp":-5}
        ann > {"type":"health_pong","ref":3}
        ann < error ref=3 code=bad_message
        bob < nothing
        ann > {"type":"leave","ref":4}
        ann < ack ref=4, goodbye code=1000 reason=left reconnect=false !retry_after_ms, close 1000 left
        bob < presence_diff seq=1 -ann:left
        cid < presence_diff seq=1 -ann:left
        bob > {"type":"leave"}
        bob < goodbye code=1000, close 1000 left
        cid < presence_diff seq=2 -bob:left
        bob > close 1000
        bob < eof
        "#,
    );
}

#[test]
fn every_other_type_goes_to_the_application() {
    check_three(
        r#"
        ann > {"type":"move","to":["e4"],"data":0,"timestamp":"noon"}
        bob < message from=ann seq=1 data={"type":"move","to":["e4"],"data":0,"timestamp":"noon"}
        cid < message from=ann seq=1 data={"type":"move","to":["e4"],"data":0,"timestamp":"noon"}
        ann > {"type":"Broadcast","ref":1}
        ann < ack ref=1 seq=2 !delivered
        bob < message seq=2 data={"type":"Broadcast","ref":1}
        cid < message seq=2
        # The server's own types are not reserved. A client cannot forge `from`.
        ann > {"type":"message","from":"bob","data":"trust me"}
        bob < message from=ann seq=3
        cid < message from=ann seq=3
        "#,
    );
}

#[test]
fn a_ref_is_a_string_or_an_integer_and_is_returned_unchanged() {
    #[track_caller]
    fn check_ref(reference: &str, accepted: bool) {
        let mut world = World::new(Config::default(), Relay::default());
        world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
        for kind in ["ping", "presence", "leave?", "broadcast\",\"data\":\"0"] {
            world.act("ann", &format!(r#"{{"type":"{kind}","ref":{reference}}}"#));
            world.flush();
            let got = world.take("ann");
            let answers: Vec<&String> = got.iter().filter(|text| !text.contains("presence_state")).collect();
            let [answer] = answers[..] else { panic!("one answer: {got:?}") };
            assert_eq!(answer.contains(&format!(r#""ref":{reference}"#)), accepted, "{answer}");
            assert_eq!(answer.contains("bad_message"), !accepted, "{answer}");
        }
    }
    let (longest, too_long) = (format!("{:?}", "x".repeat(64)), format!("{:?}", "x".repeat(65)));
    for good in ["0", "-1", "-0", "9007199254740991", r#""""#, r#""a b""#, r#""\u00e9\"""#, &longest] {
        check_ref(good, true);
    }
    // Numbers are compared by value, and are returned as the client wrote them.
    let zeros = format!("5.{}", "0".repeat(1000));
    for good in ["1.0", "-1.0", "1e2", "1.7e1", "170e-1", "1E+2", "0e999", &zeros] {
        check_ref(good, true);
    }
    // The bound is in bytes, after unescaping.
    check_ref(&format!("{:?}", "é".repeat(32)), true);
    check_ref(&format!("{:?}", "é".repeat(33)), false);
    check_ref(&format!("\"{}\"", r"\u0041".repeat(64)), true);
    for bad in ["true", "[]", "{}", &too_long, "9007199254740992", "-9007199254740992", "1.5", "1e-1", "1e16", "1e400"]
    {
        check_ref(bad, false);
    }
}

#[test]
fn an_optional_field_that_is_null_is_absent() {
    check_three(
        r#"
        ann > {"type":"ping","ref":null}
        ann < pong !ref
        ann > {"type":"broadcast","data":null,"ref":null}
        bob < message data=null
        cid < message data=null
        # A required field must not be null.
        ann > {"type":"direct","to":null,"data":1,"ref":1}
        ann < error ref=1 code=bad_message
        ann > {"type":null,"ref":2}
        ann < error ref=2 code=bad_message
        "#,
    );
}

#[test]
fn the_ack_of_a_numbered_message_carries_its_seq() {
    /// Executes the steps that the type of a message names: broadcasts it for its sender or for the member that joined last,
    /// announces, or rejects.
    #[derive(Default)]
    struct Speaker(Option<Member>);
    impl App for Speaker {
        const PROTOCOL: Protocol = Protocol::Json;
        fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
            Authorization::token_is_user(request)
        }
        fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
            cx.broadcast_message(member, "0");
            self.0 = Some(member.clone());
        }
        fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
            let Message::Json { kind, text } = message else { return };
            for step in kind.split('+') {
                match step {
                    "say" => drop(cx.broadcast_message(from, text)),
                    "announce" => drop(cx.announce(from.lobby(), "1")),
                    "other" => drop(cx.broadcast_message(self.0.as_ref().expect("a member has joined"), "2")),
                    "reject" => cx.reject(Reject::NotAllowed, "no"),
                    _ => {}
                }
            }
        }
    }
    World::new(Config::default(), Speaker::default()).run(
        r#"
        ann > connect chess
        ann < upgrade, welcome seq=0, presence_state seq=0
        ann > {"type":"nothing","ref":1}
        ann < ack ref=1 !seq
        ann > {"type":"say","ref":2}
        ann < ack ref=2 seq=2
        # The ack does not carry the number of another message, which the sender receives itself.
        ann > {"type":"announce","ref":3}
        ann < message seq=3, ack ref=3 !seq
        ann > {"type":"say+announce","ref":4}
        ann < message seq=5, ack ref=4 seq=4
        ann > {"type":"say+say","ref":5}
        ann < ack ref=5 seq=7
        ann > {"type":"say+reject","ref":6}
        ann < error ref=6 code=not_allowed !seq
        ann > {"type":"nothing","ref":7}
        ann < ack ref=7 !seq
        ann > {"type":"presence","ref":8}
        ann < presence_state seq=8, ack ref=8 !seq
        # Nor does it carry the number of a message in another member's name, sent before or after the sender's.
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann < presence_diff +bob, message seq=10
        ann > {"type":"other","ref":9}
        ann < message from=bob seq=11, ack ref=9 !seq
        ann > {"type":"other+say+other","ref":10}
        ann < message from=bob seq=12, message from=bob seq=14, ack ref=10 seq=13
        bob < message from=ann seq=13
        "#,
    );
}

#[test]
fn a_malformed_message_is_refused_and_the_connection_stays_open() {
    for bad in [
        "",
        " ",
        "{",
        "[]",
        "null",
        "0",
        "\"ping\"",
        "{}",
        r#"{"type":null}"#,
        r#"{"type":""}"#,
        r#"{"type":"ping"}{}"#,
    ] {
        check(
            Config::default(),
            &format!(
                r#"
                ann > connect chess
                ann < upgrade, welcome, presence_state
                ann > text {bad}
                ann < error !ref code=bad_message !retry_after_ms
                ann > {{"type":"ping"}}
                ann < pong
                "#
            ),
        );
    }
}

#[test]
fn too_many_malformed_messages_close_the_connection() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run(THREE);
    for _ in 0..32 {
        world.run("ann > {\nann < error code=bad_message");
        // Strikes count per connection, and valid messages do not clear them.
        world.run("ann > {\"type\":\"ping\"}\nann < pong");
    }
    world.run(
        r#"
        bob > {
        bob < error code=bad_message
        # A message refused for another reason is no strike.
        bob > {"type":"direct","to":"eve","data":1}
        bob < error code=user_not_found
        ann > {
        ann < goodbye code=4005 reason=bad_message reconnect=false, close 4005 bad_message
        bob < presence_diff -ann:kicked
        cid < presence_diff -ann:kicked
        "#,
    );
    assert_eq!(world.engine.stats().counters.rejected(Reject::BadMessage), 33);
}

#[test]
fn binary_messages_are_passed_on_and_take_no_seq() {
    check_three(
        r#"
        ann > binary one
        bob < binary one
        cid < binary one
        ann < nothing
        ann > {"type":"broadcast","data":1,"ref":1}
        ann < ack ref=1 seq=1
        bob < message seq=1
        cid < message seq=1
        "#,
    );
}

#[test]
fn fragments_are_put_together() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run(THREE);
    let parts: [(wire::Opcode, bool, &[u8]); 4] = [
        (wire::Opcode::TEXT, false, br#"{"type":"broad"#),
        (wire::Opcode::CONTINUATION, false, "cast\",\"data\":\"\u{20ac}".as_bytes().split_at(15).0),
        // A control frame may come between fragments.
        (wire::Opcode::PING, true, b"between"),
        (wire::Opcode::CONTINUATION, true, b"\x82\xac\"}"),
    ];
    for (opcode, is_final, payload) in parts {
        world.send("ann", &wire::frame(opcode, is_final, payload, [7, 0, 255, 1]));
        world.flush();
    }
    world.run("ann < pong between\nbob < message data=\"\u{20ac}\"\ncid < message data=\"\u{20ac}\"");
}

#[test]
fn names_and_data_may_be_any_text() {
    check(
        Config::default(),
        r#"
        quo > get /ws/chess?token=a%22b%5Cc
        quo < upgrade, welcome user="a\"b\\c", presence_state users=a"b\c
        uni > get /ws/chess?token=%E2%82%AC%F0%9F%8E%B2
        uni < upgrade, welcome user=€🎲, presence_state users=a"b\c,€🎲
        quo < presence_diff +€🎲
        uni > {"type":"direct","to":"a\u0022b\\c","data":"\ud83c\udfb2","ref":"\u20ac"}
        uni < ack ref="€"
        quo < direct from=€🎲 data="🎲"
        quo > {"type":"broadcast","data":"\u2028\/\u0000"}
        uni < message from="a\"b\\c" data="\u2028/\u0000"
        uni > {"\u0074ype":"\u0070ing"}
        uni < pong
        # An unpaired surrogate is no valid name.
        uni > {"type":"direct","to":"\ud83c","data":1}
        uni < error code=bad_message
        quo > hangup
        uni < presence_diff -a"b\c:dropped
        "#,
    );
}

#[test]
fn data_is_passed_on_unchanged() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run(THREE);
    let data = "{ \"b\" : 1.0e2, \"a\":\t[ 18446744073709551616, -0.0 ],\"b\":\"\\u0061\" }";
    world.send("ann", &wire::text(&format!("{{\"type\":\"broadcast\",\"data\":{data}}}")));
    world.flush();
    for name in ["bob", "cid"] {
        assert_eq!(world.take(name), [format!("{{\"type\":\"message\",\"from\":\"ann\",\"seq\":1,\"data\":{data}}}")]);
    }
}

// ---- messages of the server ----

#[test]
fn welcome_contains_the_limits_and_the_time() {
    let config = Config { max_message_bytes: ByteSize(1000), ..Config::default() };
    check(
        config,
        r#"
        advance 2s
        ann > connect chess
        ann < upgrade, welcome protocol=1 conn=s1 user=ann lobby=chess epoch=1000002000000 seq=0 \
            resumed=false recovered=false server_time=1000002000 \
            limits={"max_message_bytes":1000,"messages_per_second":60} \
            ping={"interval_ms":20000,"timeout_ms":10000} !tick !session !resume_token, \
            presence_state seq=0 users=ann
        "#,
    );
}

/// At a seat takeover, presence that is not announced yet is sent to the older connection. The newer one is sent its welcome
/// first.
#[test]
fn welcome_comes_first_also_after_a_seat_takeover() {
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        turn begins
        bob > connect chess
        ann:2 > connect chess
        turn ends
        bob < upgrade, welcome seq=0, presence_state seq=1 users=ann,bob
        ann < presence_diff seq=1 +bob, goodbye, close 4004 replaced
        ann:2 < upgrade, welcome seq=1, presence_state seq=1 users=ann,bob
        # The same if the seat has not been announced yet.
        turn begins
        cid > connect chess
        cid:2 > connect chess
        cid:2 > {"type":"ping"}
        turn ends
        cid < upgrade, welcome conn=s3, goodbye code=4004, close 4004 replaced
        cid:2 < upgrade, welcome conn=s3, pong, presence_state seq=2 users=ann,bob,cid
        ann:2 < presence_diff seq=2 +cid
        bob < presence_diff seq=2 +cid
        "#,
    );
}

#[test]
fn presence_is_merged_within_a_turn() {
    check_three(
        r#"
        turn begins
        dan > connect chess
        bob > hangup
        eve > connect chess
        cid > {"type":"leave"}
        turn ends
        ann < presence_diff seq=1 +dan +eve -bob:dropped -cid:left
        cid < goodbye, close 1000 left
        dan < upgrade, welcome, presence_state seq=1 users=ann,dan,eve
        eve < upgrade, welcome, presence_state seq=1 users=ann,dan,eve
        "#,
    );
}

/// A presence_diff announces a member before its messages. Messages sent earlier come before that presence_diff.
#[test]
fn a_member_is_announced_before_its_messages() {
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        turn begins
        ann > {"type":"broadcast","data":"before","ref":1}
        bob > connect chess
        bob > {"type":"broadcast","data":"hello","ref":2}
        cid > connect chess
        bob > {"type":"leave"}
        turn ends
        ann < ack ref=1 seq=1 delivered=0, presence_diff seq=2 +bob, message from=bob seq=3, \
            presence_diff seq=4 +cid -bob:left
        bob < upgrade, welcome, presence_state seq=2 users=ann,bob, ack ref=2 seq=3, goodbye, close 1000 left
        cid < upgrade, welcome, presence_state seq=4 users=ann,cid
        "#,
    );
}

#[test]
fn a_member_that_joins_and_leaves_in_one_turn_is_not_announced() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        turn begins
        bob > connect chess
        bob > {"type":"leave"}
        cid > connect chess
        cid > hangup
        dan > connect chess
        turn ends
        bob < upgrade, welcome, goodbye, close 1000 left
        # The client may have closed only its own direction.
        cid < upgrade, welcome, eof
        dan < upgrade, welcome, presence_state seq=1 users=ann,dan
        ann < presence_diff seq=1 +dan
        "#,
    );
    // The application's events are complete: each join has its leave.
    let log = world.engine.app_mut().take();
    assert_eq!(log, ["join ann", "join bob", "leave bob left", "join cid", "leave cid dropped", "join dan"]);
}

#[test]
fn a_large_lobby_is_counted_and_a_small_one_listed() {
    let config = Config { presence_max: 2, ..Config::default() };
    check(
        config,
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state seq=0 users=ann !count
        bob > connect chess
        bob < upgrade, welcome, presence_state seq=1 users=ann,bob !count
        ann < presence_diff seq=1 +bob
        # Above the bound: all members are sent the count.
        cid > connect chess
        ann < presence_state seq=1 count=3 !users
        bob < presence_state seq=1 count=3 !users
        cid < upgrade, welcome, presence_state seq=1 count=3 !users
        # There are no diffs above the bound.
        dan > connect chess
        dan < upgrade, welcome, presence_state seq=1 count=4 !users
        ann < nothing
        dan > hangup
        ann > {"type":"presence"}
        ann < presence_state seq=1 count=3 !users
        # Below the bound again: all members are sent the list.
        bob > {"type":"leave"}
        bob < goodbye, close 1000 left
        ann < presence_state seq=1 users=ann,cid !count
        cid < presence_state seq=1 users=ann,cid !count
        cid > hangup
        ann < presence_diff seq=2 -cid:dropped
        "#,
    );
    check(
        Config { presence_max: 0, ..Config::default() },
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state count=1 !users
        bob > connect chess
        bob < upgrade, welcome, presence_state count=2 !users
        "#,
    );
}

#[test]
fn seq_has_no_gaps_for_a_member_that_stays() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("ann > connect chess\nann < upgrade, welcome seq=0, presence_state seq=0");
    let mut random = lobbyd::Random::new(5);
    for n in 0..200 {
        let name = ["bob", "cid", "dan"][random.below(3) as usize];
        match (world.is_open(name), random.below(5)) {
            (false, _) => world.act(name, "connect chess"),
            (true, 0) => world.hangup(name),
            (true, 1) => world.act(name, &format!(r#"{{"type":"direct","to":"ann","data":{n}}}"#)),
            (true, 2) => world.act(name, "binary x"),
            (true, _) => world.act(name, &format!(r#"{{"type":"broadcast","data":{n}}}"#)),
        }
        if random.percent(50) {
            world.flush();
        }
    }
    world.flush();
    let mut seq = 0;
    for text in world.take("ann") {
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(next) = value["seq"].as_u64() {
            assert_eq!(next, seq + 1, "{text}");
            seq = next;
        } else {
            assert!(text == "binary x" || value["type"] == "direct", "{text}");
        }
    }
    assert!(seq > 50);
}

#[test]
fn epoch_is_new_when_a_lobby_is_created_again() {
    let mut world = World::new(Config::default(), Relay::default());
    let mut epochs = Vec::new();
    for _ in 0..3 {
        // No time passes in between.
        world.steps("ann > connect chess");
        let welcome: Value = serde_json::from_str(&world.take("ann")[1]).expect("JSON");
        assert_eq!(welcome["seq"], 0);
        epochs.push(welcome["epoch"].as_u64().expect("a number"));
        world.run("ann > hangup");
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    assert!(epochs[2] < 1 << 53, "JavaScript can read it");

    // While the lobby has members, the epoch does not change.
    let mut world = World::new(Config::default(), Relay::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome epoch=1000000000000, presence_state
        bob > connect chess
        bob < upgrade, welcome epoch=1000000000000, presence_state
        ann < presence_diff +bob
        advance 1s
        ann > hangup
        bob < presence_diff -ann:dropped
        ann > connect chess
        ann < upgrade, welcome epoch=1000000000000 seq=2, presence_state
        bob < presence_diff +ann
        "#,
    );
}

#[test]
fn conn_names_the_seat() {
    check(
        Config::default(),
        r#"
        ann > connect chess
        ann < upgrade, welcome conn=s1, presence_state
        ann:2 > connect chess
        ann < goodbye, close 4004 replaced
        ann:2 < upgrade, welcome conn=s1, presence_state
        ann:2 > hangup
        ann:3 > connect chess
        ann:3 < upgrade, welcome conn=s2, presence_state
        "#,
    );
}

#[test]
fn every_leave_has_its_reason() {
    #[track_caller]
    fn check_leave(end: impl FnOnce(&mut World<Relay>), why: &str) {
        let mut world = World::new(Config::default(), Relay::default());
        world.run(
            r#"
            bob > connect chess
            bob < upgrade, welcome, presence_state
            ann > connect chess
            ann < upgrade, welcome, presence_state
            bob < presence_diff +ann
            "#,
        );
        end(&mut world);
        world.flush();
        world.steps(&format!("bob < presence_diff seq=2 -ann:{why}"));
    }
    check_leave(|world| world.act("ann", r#"{"type":"leave"}"#), "left");
    check_leave(|world| world.act("ann", "close 1000"), "left");
    check_leave(|world| world.act("ann", "hangup"), "dropped");
    check_leave(|world| world.send("ann", b"\x81\x01x"), "dropped");
    check_leave(|world| world.act("ann:2", "connect go"), "replaced");
    for (reason, why) in [
        (CloseReason::Kicked, "kicked"),
        (CloseReason::Banned, "kicked"),
        (CloseReason::RateLimited, "kicked"),
        (CloseReason::InternalError, "dropped"),
        (CloseReason::UnsupportedData, "dropped"),
        (CloseReason::TokenExpired, "kicked"),
        (CloseReason::MaxLifetime, "kicked"),
    ] {
        let end = |world: &mut World<Relay>| assert_eq!(world.app(|_, cx| cx.close_user("ann", reason)), 1);
        check_leave(end, why);
    }
}

#[test]
fn goodbye_precedes_every_close_and_says_whether_to_reconnect() {
    for &reason in CloseReason::ALL {
        if reason.code() < 1000 || reason.code() == 1006 {
            continue;
        }
        let mut world = World::new(Config::default(), Relay::default());
        world.run("ann > connect chess\nann < upgrade, welcome, presence_state");
        world.app(|_, cx| cx.close_user("ann", reason));
        let (code, word) = (reason.code(), reason.word());
        let reconnect = matches!(code, 1001 | 1011 | 4100..=4299);
        let goodbye = format!("goodbye code={code} reason={word} reconnect={reconnect}");
        let retry = if code == 1001 { "" } else { " !retry_after_ms" };
        world.steps(&format!("ann < {goodbye}{retry}, close {code} {word}"));
        // The connection still waits for the peer's answer to the close, whatever reason the application named.
        assert!(world.take("ann").is_empty(), "{reason}");
    }
}

#[test]
fn queued_frames_are_delivered_before_the_goodbye() {
    check_three(
        r#"
        bob > window 0
        ann > {"type":"broadcast","data":1}
        cid < message
        ann > {"type":"direct","to":"bob","data":2}
        bob > {"type":"leave"}
        ann < presence_diff -bob:left
        cid < presence_diff -bob:left
        bob > read
        bob < message data=1, direct data=2, goodbye, close 1000 left
        "#,
    );
}

// ---- connecting ----

#[test]
fn messages_in_the_packet_of_the_upgrade_are_handled() {
    let mut world = World::new(Config::default(), Relay::default());
    world.run("bob > connect chess\nbob < upgrade, welcome, presence_state");
    world.open("ann");
    let mut packet = wire::upgrade_request("/ws/chess?token=ann", &[]);
    packet.extend(wire::text(r#"{"type":"broadcast","data":"early","ref":1}"#));
    packet.extend(wire::text(r#"{"type":"leave"}"#));
    packet.extend(wire::close(1000, ""));
    world.send("ann", &packet);
    world.flush();
    world.run(
        r#"
        ann < upgrade, welcome, presence_state users=bob,ann, ack ref=1 seq=2 delivered=1, goodbye, close 1000 left, eof
        bob < presence_diff seq=1 +ann, message from=ann seq=2 data=early, presence_diff seq=3 -ann:left
        "#,
    );
}

#[test]
fn messages_sent_while_authorization_is_pending_are_handled() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run(
        r#"
        ann > get /ws/chess?token=ann&auth=later
        ann > {"type":"move"}
        ann > {"type":"ping","ref":1}
        ann < nothing
        "#,
    );
    assert_eq!(world.engine.app_mut().take(), [""; 0]);
    let conn = world.conn("ann");
    world.engine.handle_authorized(world.now, conn, lobbyd::Authorization::allow("ann"));
    world.flush();
    world.run("ann < upgrade, welcome, pong ref=1, presence_state");
    assert_eq!(world.engine.app_mut().take(), ["join ann", r#"json ann move {"type":"move"}"#]);
}

#[test]
fn the_subprotocol_is_echoed_if_offered() {
    #[track_caller]
    fn check_offer(lines: &str, expected: &str) {
        check(Config::default(), &format!("ann > get /ws/chess?token=ann {lines}\nann < {expected}"));
    }
    let bearer = "base64url.bearer.lobby.Ym9i";
    let let_in = |upgrade: &str, user: &str| format!("{upgrade}, welcome user={user}, presence_state");
    check_offer("", &let_in("upgrade", "ann"));
    check_offer("Sec-WebSocket-Protocol: lobby.v1.json", &let_in("upgrade lobby.v1.json", "ann"));
    check_offer("Sec-WebSocket-Protocol: x, lobby.v1.json", &let_in("upgrade lobby.v1.json", "ann"));
    check_offer(
        "Sec-WebSocket-Protocol: x | Sec-WebSocket-Protocol: lobby.v1.json",
        &let_in("upgrade lobby.v1.json", "ann"),
    );
    // The subprotocol with the token is never echoed.
    check_offer(&format!("Sec-WebSocket-Protocol: {bearer}, lobby.v1.json"), &let_in("upgrade lobby.v1.json", "bob"));
    for offer in [bearer, "x", "lobby.v2.json", "LOBBY.V1.JSON"] {
        check_offer(&format!("Sec-WebSocket-Protocol: {offer}"), "http 400, body, eof");
    }
    // The same if the upgrade is granted only to send a refusal.
    check(
        Config { max_connections: Limit::at_most(0), ..Config::default() },
        r#"
        ann > get /ws/chess?token=ann Sec-WebSocket-Protocol: lobby.v1.json
        ann < upgrade lobby.v1.json, goodbye, close 4002 server_full
        "#,
    );
}

#[test]
fn the_places_of_a_token_have_an_order_of_precedence() {
    #[track_caller]
    fn check_user(query: &str, lines: &[&str], user: Option<&str>) {
        let expected = match user {
            Some(user) => format!("upgrade lobby.v1.json, welcome user={user}, presence_state"),
            None => "upgrade lobby.v1.json, goodbye code=4001, close 4001 unauthorized".into(),
        };
        let lines = [lines, &["Sec-WebSocket-Protocol: lobby.v1.json"]].concat().join(" | ");
        check(Config::default(), &format!("x > get /ws/chess{query} {lines}\nx < {expected}"));
    }
    let header = "Authorization: Bearer cid";
    let subprotocol = "Sec-WebSocket-Protocol: base64url.bearer.lobby.Ym9i";
    check_user("?token=ann", &[subprotocol, header], Some("cid"));
    check_user("?token=ann", &[subprotocol], Some("bob"));
    check_user("?token=ann", &[], Some("ann"));
    check_user("?x=1&token=a%2Bb", &[], Some("a+b"));
    check_user("", &["Authorization: bearer cid"], Some("cid"));
    check_user("?token=ann", &["Authorization: Basic Y2lkOg=="], Some("ann"));
    check_user("?token=ann", &["Sec-WebSocket-Protocol: base64url.bearer.lobby.!"], Some("ann"));
    check_user("", &[], None);
    check_user("?token=", &[], None);
    check_user("?Token=ann", &[], None);
}

#[test]
fn a_user_id_has_1_to_128_bytes_and_no_control_characters() {
    #[track_caller]
    fn check_id(token: &str, accepted: bool) {
        let mut world = World::new(Config::default(), Relay::default());
        world.steps(&format!("x > get /ws/chess Authorization: Bearer {token}"));
        let got = world.take("x");
        assert_eq!(got.iter().any(|text| text.contains("welcome")), accepted, "{token} {got:?}");
        assert_eq!(got.contains(&"close 4001 unauthorized".to_owned()), !accepted);
    }
    check_id("a", true);
    check_id(&"a".repeat(128), true);
    check_id(&"a".repeat(129), false);
    check_id(&"é".repeat(64), true);
    check_id(&"é".repeat(65), false);
    check_id("a\u{85}b", false);
    check_id("a b", true);
}

// ---- seats ----

#[test]
fn a_second_login_is_refused_if_configured() {
    let config = Config { duplicate_login: DuplicateLogin::Reject, ..Config::default() };
    check(
        config,
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann:2 > connect chess
        ann:2 < upgrade, goodbye code=4002 reason=user_limit, close 4002 user_limit
        ann:3 > connect go
        ann:3 < upgrade, goodbye code=4002 reason=user_limit, close 4002 user_limit
        ann > hangup
        ann:4 > connect go
        ann:4 < upgrade, welcome, presence_state
        "#,
    );
}

#[test]
fn a_direct_message_reaches_every_seat_of_its_user_in_the_lobby() {
    let config =
        Config { duplicate_login: DuplicateLogin::Allow, max_per_user: Limit::at_most(3), ..Config::default() };
    check(
        config,
        r#"
        turn begins
        bob > connect chess
        ann:1 > connect chess
        ann:2 > connect chess
        ann:3 > connect go
        turn ends
        bob < upgrade, welcome, presence_state users=bob,ann,ann
        ann:1 < upgrade, welcome, presence_state
        ann:2 < upgrade, welcome, presence_state
        ann:3 < upgrade, welcome lobby=go, presence_state users=ann
        bob > {"type":"direct","to":"ann","data":1,"ref":1}
        bob < ack ref=1
        ann:1 < direct data=1
        ann:2 < direct data=1
        ann:3 < nothing
        # Other connections of the sender's user receive a broadcast.
        ann:1 > {"type":"broadcast","data":2}
        bob < message data=2
        ann:2 < message data=2
        "#,
    );
}

// ---- applications ----

#[test]
fn an_application_may_forbid_a_broadcast_or_direct_message() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run(THREE);
    world.run(
        r#"
        ann > {"type":"broadcast","data":"forbidden","ref":1}
        ann < error ref=1 code=not_allowed
        ann > {"type":"direct","to":"bob","data":"forbidden","ref":2}
        ann < error ref=2 code=not_allowed
        ann > {"type":"broadcast","data":"forbidden"}
        ann < error !ref code=not_allowed
        bob < nothing
        # A forbidden message takes no number.
        ann > {"type":"broadcast","data":"allowed","ref":3}
        ann < ack ref=3 seq=1
        bob < message seq=1 data=allowed
        cid < message seq=1 data=allowed
        "#,
    );
    assert_eq!(world.engine.stats().counters.rejected(Reject::NotAllowed), 3);
}

/// If the application closes the sender while `allows` runs, the message is not relayed.
#[test]
fn a_message_whose_sender_is_closed_by_allows_is_not_relayed() {
    for message in [r#"{"type":"broadcast","data":1,"ref":1}"#, r#"{"type":"direct","to":"bob","data":1,"ref":1}"#] {
        let mut world = World::new(
            Config::default(),
            Witness::<true>::reacting(|cx, member, event| {
                if event.starts_with("may") {
                    cx.close(member.expect("ann").conn(), CloseReason::PolicyViolation);
                }
            }),
        );
        world.run(THREE);
        world.run(&format!(
            r#"
            ann > {message}
            ann < goodbye code=1008, close 1008 policy_violation
            bob < presence_diff seq=1 -ann:kicked
            cid < presence_diff seq=1 -ann:kicked
            "#
        ));
    }
}

#[test]
fn an_application_may_refuse_a_message() {
    let mut world = World::new(
        Config::default(),
        Witness::<true>::reacting(|cx, _, event| {
            if event.starts_with("json") && event.contains("illegal") {
                cx.reject(Reject::NotAllowed, "that is no legal \"move\"");
            }
        }),
    );
    world.run(THREE);
    world.run(
        r#"
        ann > {"type":"illegal","ref":1}
        ann < error ref=1 code=not_allowed
        ann > {"type":"illegal"}
        ann < error !ref code=not_allowed
        ann > {"type":"legal","ref":2}
        ann < ack ref=2
        "#,
    );
    world.act("ann", r#"{"type":"illegal"}"#);
    world.flush();
    let expected = r#"{"type":"error","code":"not_allowed","message":"that is no legal \"move\""}"#;
    assert_eq!(world.take("ann"), [expected]);
}

/// A reject applies only to the message that is being handled.
#[test]
fn a_reject_outside_of_on_message_has_no_effect() {
    let mut world = World::new(
        Config::default(),
        Witness::<true>::reacting(|cx, _, event| {
            if !event.starts_with("json") {
                cx.reject(Reject::NotAllowed, "this refuses nothing");
            }
        }),
    );
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann > {"type":"move","ref":1}
        ann < ack ref=1
        ann > {"type":"broadcast","data":1,"ref":2}
        ann < ack ref=2
        ann > {"type":"move","ref":3}
        ann < ack ref=3
        "#,
    );
}

/// Events caused by a callback are dispatched after it returns.
#[test]
fn no_callback_runs_inside_another() {
    let mut world = World::new(
        Config::default(),
        Witness::<true>::reacting(|cx, member, event| {
            if event.starts_with("json ann close_both") {
                cx.close_user("bob", CloseReason::Kicked);
                cx.close(member.expect("ann").conn(), CloseReason::Kicked);
                assert_eq!(cx.lobby_users("chess").collect::<Vec<_>>(), ["cid"], "their seats are free at once");
            }
        }),
    );
    world.run(THREE);
    world.engine.app_mut().take();
    world.run(
        r#"
        turn begins
        ann > {"type":"close_both","ref":1}
        ann > {"type":"unheard"}
        turn ends
        ann < goodbye, close 4003 kicked
        bob < goodbye, close 4003 kicked
        cid < presence_diff seq=1 -bob:kicked -ann:kicked
        "#,
    );
    let log = world.engine.app_mut().take();
    assert_eq!(log, [r#"json ann close_both {"type":"close_both","ref":1}"#, "leave bob kicked", "leave ann kicked"]);
}

#[test]
fn verbatim_relays_and_sends_no_messages_of_its_own() {
    let config = Config { max_connections: Limit::at_most(2), ..Config::default() };
    World::new(config, Verbatim::default()).run(
        r#"
        ann > get /ws/chess?token=ann Sec-WebSocket-Protocol: graphql-ws
        ann < upgrade graphql-ws
        bob > connect chess
        bob < upgrade
        ann < nothing
        ann > text not JSON at all
        bob < not JSON at all
        ann > text {"type":"leave","ref":1}
        bob < {"type":"leave","ref":1}
        ann > binary x
        bob < binary x
        ann < nothing
        cid > connect chess
        cid < upgrade, close 4002 server_full
        ann > close 1000
        ann < close 1000 , eof
        bob < nothing
        drain
        bob < close 1001 server_shutdown
        "#,
    );
}

#[test]
fn echo_answers_each_connection_separately() {
    World::new(Config::default(), Echo).run(
        r#"
        ann > get /anything/at/all
        ann < upgrade
        bob > get /
        bob < upgrade
        ann > text one
        ann < one
        ann > binary two
        ann < binary two
        bob < nothing
        "#,
    );
}

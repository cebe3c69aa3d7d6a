//! The messages of a client, as documented.

use lobbyd::apps::Relay;
use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::sim::wire;
use lobbyd::{App, Authorization, Config, Context, Member, Message, Protocol, Reject, Request};

use super::three::{THREE, check_three};
use crate::common::scenario::{World, check};

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
        # A client cannot forge `from`.
        ann > {"type":"move","from":"bob","data":"trust me"}
        bob < message from=ann seq=3
        cid < message from=ann seq=3
        ann > {"type":"message","from":"bob","data":"trust me"}
        ann < error code=bad_message
        "#,
    );
}

#[test]
fn a_ref_is_a_string_or_an_integer_and_is_returned_unchanged() {
    #[track_caller]
    fn check_ref(reference: &str, accepted: bool) {
        let mut world = World::new(Config::default(), Relay::default());
        world.run("ann joins chess");
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

#[test]
fn binary_messages_name_their_sender_if_the_configuration_says_so() {
    let longest = "é".repeat(64);
    for (binary_sender, from_ann, from_longest) in [
        (false, "binary hi".to_owned(), "binary hi".to_owned()),
        // A length of 128 is no UTF-8, so the script shows a replacement character.
        (true, "binary \u{3}annhi".to_owned(), format!("binary \u{fffd}{longest}hi")),
    ] {
        let mut world = World::new(Config { binary_sender, ..Config::default() }, Relay::default());
        world.run("ann joins chess");
        world.act("long", &format!("get /ws/chess?token={}", "%C3%A9".repeat(64)));
        world.flush();
        world.take("ann");
        world.take("long");
        world.steps("ann > binary hi");
        assert_eq!(world.take("long"), [from_ann]);
        world.steps("long > binary hi");
        assert_eq!(world.take("ann"), [from_longest]);
    }
}

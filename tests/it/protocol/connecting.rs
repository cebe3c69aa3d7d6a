//! The beginning of a connection: early messages, subprotocols, tokens, user ids and second logins.

use lobbyd::Config;
use lobbyd::apps::Relay;
use lobbyd::config::{DuplicateLogin, Limit};
use lobbyd::sim::wire;

use crate::common::scenario::{World, check};
use crate::common::witness::Witness;

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
    world.authorize("ann", lobbyd::Authorization::allow("ann"));
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
    // A request of an operator about such a user would have another path in most HTTP clients.
    check_id(".", false);
    check_id("..", false);
    check_id("...", true);
}

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
        ann < ping
        ann:3 > connect go
        ann:3 < upgrade, goodbye code=4002 reason=user_limit, close 4002 user_limit
        ann > hangup
        ann:4 > connect go
        ann:4 < upgrade, welcome, presence_state
        "#,
    );
}

//! Authorization: which tokens are accepted, for which user and lobby, and for how long.

use std::time::Duration;

use lobbyd::admission::Rate;
use lobbyd::apps::{Auth, Relay, Tokens, Verbatim};
use lobbyd::{Authorization, CloseReason, Config, Identity};

use crate::common::scenario::World;
use crate::common::witness::Witness;

const LIST: &str = "
    # Players. What follows a # is for people.
    4f1c9a  ann
    99d0e7  bob  tier=free lobby=chess
    77aa11  cid  expires=1000060000     # a minute after the start
    0b5e55  old  expires=1000000000
";

fn listed(text: &str) -> Relay {
    Relay::new(Auth::Tokens(Tokens::parse(text).expect("a valid list")))
}

/// Connects to `target` with further header `lines`, and expects to be admitted as `user` or refused with a reason.
#[track_caller]
fn check_listed(target: &str, lines: &str, expected: Result<&str, CloseReason>) {
    let mut world = World::new(Config::default(), listed(LIST));
    let expected = match expected {
        Ok(user) => format!("welcome user={user}, presence_state"),
        Err(reason) => format!("goodbye code={} reconnect=false, close {reason}", reason.code()),
    };
    let lines = [lines, "Sec-WebSocket-Protocol: lobby.v1.json"].join(" | ");
    world.run(&format!("x > get {target} {lines}\nx < upgrade lobby.v1.json, {expected}"));
}

// ---- tokens ----

#[test]
fn a_listed_token_is_accepted_in_every_place() {
    check_listed("/ws/chess?token=4f1c9a", "", Ok("ann"));
    check_listed("/ws/chess", "Authorization: Bearer 4f1c9a", Ok("ann"));
    // base64url("99d0e7")
    check_listed("/ws/chess", "Sec-WebSocket-Protocol: base64url.bearer.lobby.OTlkMGU3", Ok("bob"));
    // The first token found decides, even if a later one would be accepted.
    check_listed("/ws/chess?token=4f1c9a", "Authorization: Bearer wrong", Err(CloseReason::Unauthorized));
    check_listed("/ws/chess?token=wrong", "Authorization: Bearer 4f1c9a", Ok("ann"));
}

#[test]
fn unlisted_tokens_are_refused() {
    for target in
        ["/ws/chess", "/ws/chess?token=", "/ws/chess?token=ann", "/ws/chess?token=4F1C9A", "/ws/chess?token=4f1c9"]
    {
        check_listed(target, "", Err(CloseReason::Unauthorized));
    }
    check_listed("/ws/chess?token=%23", "", Err(CloseReason::Unauthorized));
    check_listed("/ws/chess?token=4f1c9a%20%20ann", "", Err(CloseReason::Unauthorized));
}

#[test]
fn a_listed_token_can_be_limited_to_a_lobby_and_a_time() {
    check_listed("/ws/chess?token=99d0e7", "", Ok("bob"));
    check_listed("/ws/Chess?token=99d0e7", "", Err(CloseReason::Unauthorized));
    check_listed("/ws/chess?token=77aa11", "", Ok("cid"));
    // The token expired at this very moment.
    check_listed("/ws/chess?token=0b5e55", "", Err(CloseReason::TokenExpired));
}

#[test]
fn the_server_never_sends_a_token_back() {
    let mut world = World::new(Config::default(), listed(LIST));
    world.steps(
        r#"
        ann > get /ws/chess?token=4f1c9a
        bob > get /ws/chess Authorization: Bearer 99d0e7
        cid > get /ws/go Authorization: Bearer 99d0e7
        eve > get /ws/chess?token=5ec2e7
        ann > {"type":"presence","ref":1}
        advance 30s
        "#,
    );
    let received: Vec<String> = ["ann", "bob", "cid", "eve"].iter().flat_map(|name| world.take(name)).collect();
    assert!(received.len() > 12, "{received:?}");
    for token in ["4f1c9a", "99d0e7", "5ec2e7"] {
        assert!(received.iter().all(|text| !text.contains(token)), "{received:?}");
    }
}

/// The list can be read again while the server runs.
#[test]
fn a_new_list_applies_to_new_connections_only() {
    let mut world = World::new(Config::default(), listed("one ann\ntwo bob"));
    let reload = |world: &mut World<Relay>, list: &[u8]| {
        let now = world.now;
        world.engine.handle_reload(now, list);
        world.flush();
    };
    world.run("ann > get /ws/chess?token=one\nann < upgrade, welcome user=ann, presence_state");
    reload(&mut world, b"two bob\nthree cid");
    world.run(
        r#"
        ann < nothing
        ann > {"type":"ping"}
        ann < pong
        x > get /ws/chess?token=one
        x < upgrade, goodbye, close 4001 unauthorized
        cid > get /ws/chess?token=three
        cid < upgrade, welcome user=cid, presence_state users=ann,cid
        ann < presence_diff +cid
        "#,
    );
    // An invalid list changes nothing, even if only a small part of it is wrong.
    for wrong in ["two bob\nfour", "two bob\nfour dan\nfour eve", "four dan tier=gold"] {
        reload(&mut world, wrong.as_bytes());
        world.run("y > get /ws/go?token=four\ny < upgrade, goodbye, close 4001 unauthorized\ny > hangup");
        world.run("bob > get /ws/go?token=two\nbob < upgrade, welcome user=bob, presence_state\nbob > hangup");
    }
    reload(&mut world, b"four \xff");
    world.run("bob > get /ws/go?token=two\nbob < upgrade, welcome, presence_state\nbob > hangup");
    // An empty list changes nothing either: a file that is being rewritten is empty for a moment.
    reload(&mut world, b"# nobody yet\n");
    world.run("z > get /ws/go?token=two\nz < upgrade, welcome user=bob, presence_state\nann < nothing");
}

#[test]
fn without_a_list_a_reload_changes_nothing() {
    let mut world = World::new(Config::default(), Verbatim::default());
    world.engine.handle_reload(world.now, b"one bob");
    world.run("one > connect chess\none < upgrade");
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.engine.handle_reload(world.now, b"one bob");
    assert_eq!(world.engine.app_mut().take(), ["reload one bob"], "the application receives the contents");
}

#[test]
fn an_invalid_list_is_refused_naming_every_bad_line_and_no_token() {
    let long = "5ec2e7".repeat(30);
    let text = format!(
        "5ec2e7\n5ec2e7 ann\n5ec2e7 bob\n# fine\nann {long}\ncid 1 tier=5ec2e7\ndan 2 lobby=5ec2e7!\neve 3 \
         expires=5ec2e7\nann and 5ec2e7"
    );
    let problems = Tokens::parse(&text).expect_err("most lines are invalid");
    let lines: Vec<&str> = problems.iter().map(|problem| problem.split(':').next().expect("a line")).collect();
    assert_eq!(lines, ["line 1", "line 3", "line 5", "line 6", "line 7", "line 8", "line 9"], "{problems:?}");
    // Columns are easily swapped, so any word of a bad line may be a token.
    assert!(problems.iter().all(|problem| !problem.contains("5ec2e7")), "{problems:?}");
    assert_eq!(format!("{:?}", Tokens::parse("5ec2e7 ann").expect("a valid list")), "Tokens(1)");
}

// ---- identities ----

#[test]
fn an_identity_for_one_lobby_is_refused_in_another() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run(
        r#"
        ann > get /ws/chess?token=ann&only=chess
        ann < upgrade, welcome lobby=chess, presence_state
        bob > get /ws/go?token=bob&only=chess
        bob < upgrade, goodbye code=4001 reason=unauthorized reconnect=false, close 4001 unauthorized
        # The refused connection does not replace the user's seat in another lobby.
        ann:2 > get /ws/go?token=ann&only=chess
        ann:2 < upgrade, goodbye, close 4001 unauthorized
        ann < nothing
        "#,
    );
    assert_eq!(world.engine.app_mut().take(), ["join ann"]);
}

#[test]
fn an_expired_identity_is_closed_after_its_grace() {
    let config = Config { token_grace: Duration::from_millis(2500), ..Config::default() };
    let mut world = World::new(config, Witness::<true>::default());
    world.run(
        r#"
        bob > connect chess
        bob < upgrade, welcome, presence_state
        ann > get /ws/chess?token=ann&expires=1000005000
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        advance 7490ms
        ann > {"type":"ping"}
        ann < pong
        bob < nothing
        advance 10ms
        ann < goodbye code=4001 reason=token_expired reconnect=false !retry_after_ms, close 4001 token_expired
        bob < presence_diff -ann:kicked
        # The grace does not apply to new connections.
        ann:2 > get /ws/chess?token=ann&expires=1000005000
        ann:2 < upgrade, goodbye code=4001, close 4001 token_expired
        ann > close 4001
        ann < eof
        advance 1s
        "#,
    );
    assert_eq!(world.engine.stats().counters.closed(CloseReason::TokenExpired), 2);
    assert_eq!(world.engine.stats().total_connections, 1);
    // A token that expires one millisecond later is still accepted.
    let config = Config { token_grace: Duration::ZERO, ..Config::default() };
    World::new(config, Witness::<true>::default()).run(
        r#"
        ann > get /ws/chess?token=ann&expires=1000000001
        ann < upgrade, welcome, presence_state
        advance 10ms
        ann < goodbye, close 4001 token_expired
        "#,
    );
}

#[test]
fn an_identity_with_a_distant_expiry_changes_nothing() {
    for expires in ["1900000000000", "18446744073709551615"] {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run(&format!(
            r#"
            ann > get /ws/chess?token=ann&expires={expires}
            ann < upgrade, welcome, presence_state
            advance 20s
            ann < ping
            advance 10s
            ann < goodbye, close 4201 stale
            "#
        ));
    }
}

/// The seat stays, and the expiry time is that of the new connection.
#[test]
fn a_seat_takeover_brings_the_new_expiry() {
    let config = Config { token_grace: Duration::ZERO, ..Config::default() };
    let mut world = World::new(config, Witness::<true>::default());
    world.run(
        r#"
        ann > get /ws/chess?token=ann&expires=1000001000
        ann < upgrade, welcome conn=s1, presence_state
        ann:2 > get /ws/chess?token=ann&expires=1000003000
        ann < goodbye, close 4004 replaced
        ann > close 4004
        ann < eof
        ann:2 < upgrade, welcome conn=s1, presence_state
        advance 2990ms
        ann:2 < nothing
        advance 10ms
        ann:2 < goodbye, close 4001 token_expired
        "#,
    );
}

#[test]
fn a_late_authorization_follows_the_same_rules() {
    #[track_caller]
    fn check_answer(identity: Identity, expected: &str) -> World<Witness<true>> {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run("ann > get /ws/chess?token=ann&auth=later\nadvance 5s\nann < nothing");
        world.authorize("ann", Authorization::Allow(identity));
        world.run(&format!("ann < upgrade, {expected}"));
        world
    }
    let ann = || Identity::new("ann");
    check_answer(ann().only_in("chess"), "welcome, presence_state");
    check_answer(ann().only_in("go"), "goodbye, close 4001 unauthorized");
    check_answer(Identity::new("x".repeat(129)), "goodbye, close 4001 unauthorized");
    check_answer(ann().expires_at_unix_millis(1_000_005_000), "goodbye, close 4001 token_expired");
    let mut world = check_answer(ann().expires_at_unix_millis(1_000_005_001), "welcome, presence_state");
    world.run("advance 10s\nann < nothing\nadvance 10ms\nann < goodbye, close 4001 token_expired");
    let pro = r#"limits={"max_message_bytes":65536,"messages_per_second":10}"#;
    check_answer(ann().tier(Rate::PRO), &format!("welcome {pro}, presence_state"));
}

/// A late decision about a closed connection does not apply to the connection that uses its slot now.
#[test]
fn an_authorization_of_a_closed_connection_is_ignored() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann > get /ws/chess?token=ann&auth=later");
    let closed = world.conn("ann");
    world.steps("ann > hangup");
    world.take("ann");
    world.run("bob > get /ws/chess?token=bob&auth=later");
    assert_eq!(world.conn("bob").index(), closed.index(), "bob has ann's slot, under another id");
    world.engine.handle_authorized(world.now, closed, Authorization::allow("eve"));
    world.flush();
    world.run("bob < nothing");
    world.authorize("bob", Authorization::allow("bob"));
    world.run("bob < upgrade, welcome user=bob, presence_state users=bob");
}

#[test]
fn the_welcome_names_the_rate_of_the_tier() {
    for (query, named) in [("", "60"), ("&tier=free", "1"), ("&tier=pro", "10"), ("&tier=enterprise", "100")] {
        let mut world = World::new(Config::default(), Witness::<true>::default());
        world.run(&format!(
            "ann > get /ws/chess?token=ann{query}\n\
             ann < upgrade, welcome limits={{\"max_message_bytes\":65536,\"messages_per_second\":{named}}}, \
             presence_state"
        ));
    }
    let slow = Rate::new(1, Duration::from_secs(4), 1);
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.run("ann > get /ws/chess?token=ann&auth=later");
    world.authorize("ann", Authorization::Allow(Identity::new("ann").tier(slow)));
    world.run(
        "ann < upgrade, welcome limits={\"max_message_bytes\":65536,\"messages_per_second\":0.25}, presence_state",
    );
}

/// Reads a list and expects the number of its users, or words of its first problem.
#[track_caller]
fn check_list(contents: &[u8], expected: Result<usize, &str>) {
    match (Tokens::read(contents), expected) {
        (Ok(tokens), Ok(count)) => assert_eq!(tokens.len(), count),
        (Err(problems), Err(words)) => {
            assert!(problems[0].contains(words), "{problems:?}");
            assert!(problems.iter().all(|problem| !problem.contains("5ec2e7")), "{problems:?}");
        }
        (read, _) => panic!("{:?}: {read:?}", String::from_utf8_lossy(contents)),
    }
}

#[test]
fn a_list_is_read_as_intended_or_refused() {
    // A comment begins at the start of a line or after white space.
    check_list(b"# who\n5ec2e7 ann # the first\n  \t# more\n5ec2e8 bob\t#the second\n", Ok(2));
    check_list(b"5ec2e7 ann #", Ok(1));
    check_list(b"5ec2e7 # ann", Err("line 1: a token is followed by its user"));
    // Line endings of other systems, and a last line without one.
    check_list(b"5ec2e7 ann\r\n\r\n5ec2e8 bob tier=pro\r\n5ec2e9 cid", Ok(3));
    check_list(b"5ec2e7 ann\r5ec2e8 bob\r", Err("line 1: it holds a control character"));
    check_list(b"# who\r5ec2e7 ann\r", Err("line 1: it holds a control character"));
    check_list(b"5ec2e7\0 ann", Err("line 1: it holds a control character"));
    check_list("5ec2e8 bob\n5ec2e7 \u{7f}ann".as_bytes(), Err("line 2: it holds a control character"));
    check_list(b"\xef\xbb\xbf5ec2e7 ann", Err("it begins with a byte order mark; save it without one"));
    check_list(b"5ec2e7 ann\n5ec2e8 b\xffb", Err("it is not UTF-8"));
    check_list(b"\xff\xfe5\0", Err("it is not UTF-8"));
    check_list(b"5ec2e7 ann lobby=a lobby=b", Err("line 1: word 4 repeats lobby="));
    check_list(b"5ec2e7 ann tier=pro expires=1 tier=free", Err("line 1: word 5 repeats tier="));
    check_list(b"5ec2e7 ann\n5ec2e7 ann", Err("line 2: the token occurs twice"));
}

/// A `#` within a word belongs to the word. Otherwise this `bob` would be admitted to every lobby.
#[test]
fn a_number_sign_within_a_word_is_part_of_it() {
    let mut world = World::new(Config::default(), listed("5ec2e7 bob#7 lobby=chess\na#b ann"));
    world.run(
        r#"
        bob > get /ws/go?token=5ec2e7
        bob < upgrade, goodbye, close 4001 unauthorized
        eve > get /ws/chess?token=5ec2e7
        eve < upgrade, welcome user=bob#7, presence_state
        ann > get /ws/go?token=a%23b
        ann < upgrade, welcome user=ann, presence_state
        "#,
    );
}

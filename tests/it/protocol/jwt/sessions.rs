//! Members that are authenticated by JWTs: their seats, their expiry, and new keys.

use std::time::Duration;

use lobbyd::apps::{Auth, Jwt, JwtKeys, Relay, Verbatim};
use lobbyd::{App, Authorization, CloseReason, Config, Context, Member, Message, Protocol, Request};

use super::NOW;
use crate::common::jwt::{Algorithm, CLAIMS, SECRET, file, keys, set, signed, token};
use crate::common::scenario::World;

pub fn world(config: Config, jwt: Jwt) -> World<Relay> {
    World::new(config, Relay::new(Auth::Jwt(jwt)))
}

fn jwt() -> Jwt {
    Jwt::new(keys(Algorithm::HS256))
}

fn reload<A: App>(world: &mut World<A>, contents: &[u8]) {
    let now = world.now;
    world.engine.handle_reload(now, contents);
    world.flush();
}

#[test]
fn a_token_seats_its_user_from_each_place_in_a_request() {
    let ann = token(CLAIMS);
    let coded = data_encoding::BASE64URL_NOPAD.encode(token(r#"{"sub":"cid","exp":1000060}"#).as_bytes());
    let bob = token(r#"{"sub":"bob","exp":1000060,"tier":"pro"}"#);
    world(Config::default(), jwt()).run(&format!(
        r#"
        ann > get /ws/chess?token={ann}
        ann < upgrade, welcome user=ann lobby=chess, presence_state
        bob > get /ws/chess Authorization: Bearer {bob}
        bob < upgrade, welcome user=bob limits={{"max_message_bytes":65536,"messages_per_second":10}}, presence_state
        ann < presence_diff +bob
        cid > get /ws/chess Sec-WebSocket-Protocol: lobby.v1.json, base64url.bearer.lobby.{coded}
        cid < upgrade lobby.v1.json, welcome user=cid, presence_state
        ann < presence_diff +cid
        bob < presence_diff +cid
        x > get /ws/chess?token=ann
        x < upgrade, goodbye code=4001 reason=unauthorized reconnect=false, close 4001 unauthorized
        y > get /ws/chess
        y < upgrade, goodbye, close 4001 unauthorized
        "#
    ));
    let mut world = World::new(Config::default(), Verbatim::new(Auth::Jwt(jwt())));
    world.run(&format!(
        "ann > get /ws/chess?token={ann}\nann < upgrade\nx > get /ws/chess?token=x\nx < upgrade, close 4001 unauthorized"
    ));
    assert_eq!(world.engine.stats().counters.closed(CloseReason::Unauthorized), 1);
}

#[test]
fn a_token_for_a_lobby_is_valid_in_this_lobby_only() {
    let ann = token(r#"{"sub":"ann","exp":1000060,"lobby":"chess"}"#);
    world(Config::default(), jwt()).run(&format!(
        r#"
        ann > get /ws/go?token={ann}
        ann < upgrade, goodbye code=4001, close 4001 unauthorized
        ann:2 > get /ws/chess?token={ann}
        ann:2 < upgrade, welcome user=ann lobby=chess, presence_state
        "#
    ));
}

/// The leeway of 10 s and the grace of 2.5 s are added.
#[test]
fn a_member_is_closed_when_its_token_has_expired() {
    let config = Config { token_grace: Duration::from_millis(2500), ..Config::default() };
    let ann = token(r#"{"sub":"ann","exp":1000005.25}"#);
    let mut world = world(config, jwt());
    world.run(&format!(
        r#"
        ann > get /ws/chess?token={ann}
        ann < upgrade, welcome, presence_state
        advance 15240ms
        ann > {{"type":"ping"}}
        ann < pong
        ann:2 > get /ws/go?token={ann}
        ann < goodbye reason=replaced, close 4004 replaced
        ann:2 < upgrade, welcome user=ann, presence_state
        ann > close 4004
        ann < eof
        advance 2500ms
        ann:2 < nothing
        advance 10ms
        ann:2 < goodbye code=4001 reason=token_expired reconnect=false, close 4001 token_expired
        ann:3 > get /ws/chess?token={ann}
        ann:3 < upgrade, goodbye code=4001 reason=token_expired, close 4001 token_expired
        "#
    ));
    assert_eq!(world.engine.stats().counters.closed(CloseReason::TokenExpired), 2);
}

#[test]
fn new_keys_apply_to_new_connections_only() {
    let mut world = world(Config::default(), Jwt::new(set()));
    let rsa = signed(Algorithm::RS256, r#"{"alg":"RS256","kid":"r1"}"#, CLAIMS);
    let ed = signed(Algorithm::EdDSA, r#"{"alg":"EdDSA","kid":"2"}"#, r#"{"sub":"bob","exp":1000060}"#);
    world.run(&format!(
        "ann > get /ws/chess?token={rsa}\nann < upgrade, welcome, presence_state\n\
         bob > get /ws/chess?token={ed}\nbob < upgrade, goodbye, close 4001 unauthorized\nbob > hangup"
    ));
    let next = String::from_utf8(file("set.jwks.json")).expect("ASCII").replace("d1", "2").replace("r1", "old");
    reload(&mut world, next.as_bytes());
    world.run(&format!(
        "ann < nothing\nbob > get /ws/go?token={ed}\nbob < upgrade, welcome, presence_state\nbob > hangup\n\
         x > get /ws/chess?token={rsa}\nx < upgrade, goodbye, close 4001 unauthorized\nx > hangup"
    ));
    // A file with an error changes nothing, nor does one of another form.
    let half = next.replace("AQAB", "AQ");
    for contents in [&b""[..], b"{", b"{\"keys\":[]}", SECRET, &file("rsa.pub.pem"), half.as_bytes()] {
        reload(&mut world, contents);
        world.run(&format!("bob > get /ws/go?token={ed}\nbob < upgrade, welcome, presence_state\nbob > hangup"));
        world.run(&format!("x > get /ws/chess?token={rsa}\nx < upgrade, goodbye, close 4001 unauthorized\nx > hangup"));
    }
}

/// What the application learns: the lobby that it chose, and the data of the token.
struct Seen(Jwt, Vec<String>);

impl App for Seen {
    const PROTOCOL: Protocol = Protocol::Raw;

    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        self.0.authorize(cx, request)
    }

    fn on_join(&mut self, _: &mut Context<'_>, member: &Member) {
        let data = member.data().map(String::from_utf8_lossy);
        self.1.push(format!("{} {}", member.user(), data.unwrap_or_default()));
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

#[test]
fn role_and_data_reach_an_application_within_their_bound() {
    let mut world = World::new(Config::default(), Seen(jwt(), Vec::new()));
    let with = |more: &str| token(&format!(r#"{{"sub":"ann","exp":1000060{more}}}"#));
    let bound = Config::default().max_identity_bytes.0;
    let data = |length: usize| with(&format!(r#","data":"{}""#, "x".repeat(length - r#"{"data":""}"#.len())));
    for (token, reply) in [
        (with(""), "upgrade"),
        (with(r#","role":"host","data":{"elo":[1,2]}"#), "upgrade"),
        (data(bound), "upgrade"),
        (data(bound + 1), "upgrade, close 1011 internal_error"),
    ] {
        world.run(&format!("ann > get /ws/chess?token={token}\nann < {reply}\nann > hangup"));
    }
    let seen = &world.engine.app_mut().1;
    assert_eq!(seen[..2], ["ann ", r#"ann {"role":"host","data":{"elo":[1,2]}}"#]);
    assert_eq!((seen.len(), seen[2].len()), (3, "ann ".len() + bound));
}

/// The wall time of the turn decides, not that of the machine.
#[test]
fn the_time_is_that_of_the_engine() {
    let mut world = world(Config::default(), jwt().leeway(Duration::ZERO));
    let early = token(r#"{"sub":"ann","exp":1000060,"nbf":1000003}"#);
    world.run(&format!(
        r#"
        ann > get /ws/chess?token={early}
        ann < upgrade, goodbye, close 4001 unauthorized
        ann > hangup
        advance 3s
        ann > get /ws/chess?token={early}
        ann < upgrade, welcome, presence_state
        "#
    ));
    assert_eq!(world.now.as_micros() / 1000 + NOW, 1_000_003_000);
}

#[test]
fn debug_output_shows_no_secret() {
    let auth = Auth::Jwt(Jwt::new(JwtKeys::secret(SECRET).expect("long enough")));
    let shown = format!("{auth:?} {:?}", Relay::new(auth.clone()));
    assert!(shown.contains("JwtKeys(Secret, 1)") && !shown.contains("secret of the tests"), "{shown}");
    assert!(!shown.contains(&format!("{SECRET:?}")[1..20]), "{shown}");
}

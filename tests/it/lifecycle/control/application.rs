//! Applications that own all of their lobbies, or parts.

use lobbyd::apps::Relay;
use lobbyd::control::{ControlError, LobbyControl};
use lobbyd::sending::RelayRequest;
use lobbyd::{App, Authorization, Config, Context, Member, Message, Protocol, Request};
use serde_json::{Value, json};

use crate::common::scenario::World;

/// Allows members to change their own data only. The message `do` calls a method of the context.
#[derive(Default)]
struct Game {
    asked: Vec<String>,
    answers: Vec<String>,
}

impl App for Game {
    const PROTOCOL: Protocol = Protocol::Json;
    const LOBBY_CONTROL: LobbyControl = LobbyControl::On;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn allows(&mut self, _: &mut Context<'_>, from: &Member, request: RelayRequest<'_>) -> bool {
        self.asked.push(format!("{request:?}"));
        matches!(request, RelayRequest::Set { of: Some(of), .. } if of == from.seat())
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let Message::Json { kind, .. } = message else { return };
        let answer = match kind {
            "round" => format!("{:?}", cx.set_lobby_data("chess", r#"{"round":1}"#)),
            "array" => format!("{:?}", cx.set_lobby_data("chess", "[1]")),
            "team" => format!("{:?}", cx.set_member_data(from, r#"{"team":"red"}"#)),
            "lead" => format!("{:?}", cx.set_lobby_host(from)),
            "lock" => format!("{:?}", cx.set_lobby_settings("chess", r#"{"locked":true}"#)),
            "max" => format!("{:?}", cx.set_lobby_settings("chess", r#"{"max":11}"#)),
            "nowhere" => format!("{:?}", cx.set_lobby_data("go", r#"{"a":1}"#)),
            "exclude" => format!("{:?}", cx.ban_from_lobby("chess", "zoe")),
            "readmit" => format!("{:?}", cx.unban_from_lobby("chess", "zoe")),
            _ => format!(
                "{:?} {:?} {:?} {:?}",
                cx.lobby_data("chess"),
                cx.member_data(from),
                cx.lobby_host("chess").map(|seat| seat.to_string()),
                cx.lobby_bans("chess")
            ),
        };
        self.answers.push(answer);
    }
}

#[test]
fn an_application_reads_the_settings_that_members_see() {
    let mut world = World::new(Config::default(), Game::default());
    world.run(
        r#"
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state, lobby_state host=s1
        ann > {"type":"lock"}
        ann < settings seq=1 by=null settings={"locked":true}
        "#,
    );
    let (chess, go) = world.app(|_, cx| (cx.lobby_settings("chess"), cx.lobby_settings("go")));
    let settings: Value = serde_json::from_str(&chess.expect("the lobby exists")).expect("JSON");
    let shown = ["max", "locked", "listed", "has_password"].map(|name| settings[name].clone());
    assert_eq!(shown, [json!(10), json!(true), json!(false), json!(false)]);
    assert_eq!(go, None, "there is no such lobby");

    let mut world = World::new(Config::default(), Relay::default());
    world.steps("ann > connect chess");
    assert_eq!(world.app(|_, cx| cx.lobby_settings("chess")), None, "lobby control is off");
}

#[test]
fn an_application_owns_what_it_does_not_allow() {
    let mut world = World::new(Config::default(), Game::default());
    world.run(
        r#"
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state, lobby_state host=s1
        ann > {"type":"set","data":{"a":1},"ref":1}
        ann < error ref=1 code=not_allowed
        ann > {"type":"set","of":"s1","data":{"a":1},"ref":2}
        ann < state seq=1 by=ann conn=s1, ack seq=1
        ann > {"type":"settings","settings":{"max":2},"ref":3}
        ann < error ref=3 code=not_allowed
        ann > {"type":"kick","user":"bob","ban":true,"ref":4}
        ann < error ref=4 code=not_allowed
        ann > {"type":"round"}
        ann < state seq=2 by=null !conn data={"round":1}
        ann > {"type":"team"}
        ann < state seq=3 by=null conn=s1 data={"team":"red"}
        ann > {"type":"lock"}
        ann < settings seq=4 by=null settings={"locked":true}
        bob > connect chess
        bob < upgrade, goodbye, close 4002 lobby_locked
        ann > {"type":"lead"}
        ann < host seq=5 conn=s1
        ann > {"type":"array"}
        ann > {"type":"max"}
        ann > {"type":"nowhere"}
        ann > {"type":"exclude"}
        ann > {"type":"what"}
        ann > {"type":"readmit"}
        "#,
    );
    let game = world.engine.app();
    let seat = "SeatId(1)";
    assert_eq!(
        game.asked,
        [
            "Set { of: None, data: \"{\\\"a\\\":1}\" }".to_owned(),
            format!("Set {{ of: Some({seat}), data: \"{{\\\"a\\\":1}}\" }}"),
            "Settings { settings: \"{\\\"max\\\":2}\" }".to_owned(),
            "Kick { user: \"bob\", is_banned: true }".to_owned(),
        ]
    );
    let answers: Vec<&str> = game.answers.iter().map(|answer| &**answer).collect();
    let expected = [
        "Ok(2)",
        "Ok(3)",
        "Ok(4)",
        "Ok(5)",
        r#"Err(Invalid("data must be an object"))"#,
        r#"Err(Invalid("max is 11: it must be from 1 to 10"))"#,
        "Err(NoSuchLobby)",
        "Ok(0)",
        r#"Some("{\"round\":1}") Some("{\"a\":1,\"team\":\"red\"}") Some("s1") ["zoe"]"#,
        "Ok(true)",
    ];
    assert_eq!(answers, expected);
}

#[test]
fn the_methods_are_refused_with_lobby_control_off() {
    let mut world = World::new(Config::default(), lobbyd::apps::Relay::default());
    world.steps("ann joins chess");
    let changed = world.engine.act(world.now, |_, cx| cx.set_lobby_data("chess", r#"{"a":1}"#));
    assert_eq!(changed, Err(ControlError::Off));
    let text =
        "lobby control is off: App::LOBBY_CONTROL can be On, or ByConfig, with which the option lobby_control decides";
    assert_eq!(ControlError::Off.to_string(), text);
    assert_eq!(world.engine.act(world.now, |_, cx| cx.lobby_data("chess")), None);
}

/// Closes the member that a request is about while it is asked whether it may be made.
struct Closes;

impl App for Closes {
    const PROTOCOL: Protocol = Protocol::Json;
    const LOBBY_CONTROL: LobbyControl = LobbyControl::On;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn allows(&mut self, cx: &mut Context<'_>, _: &Member, _: RelayRequest<'_>) -> bool {
        cx.close_user("bob", lobbyd::CloseReason::LobbyClosed);
        true
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

#[test]
fn a_member_that_the_application_closes_meanwhile_is_not_found() {
    for request in [
        r#"{"type":"set","of":"s2","data":{"a":1},"ref":1}"#,
        r#"{"type":"host","conn":"s2","ref":1}"#,
        r#"{"type":"kick","user":"bob","ref":1}"#,
    ] {
        World::new(Config::default(), Closes).run(&format!(
            r#"
            ann > connect chess session=page-of-ann-0001
            ann < upgrade, welcome, presence_state, lobby_state
            bob > connect chess session=page-of-bob-0001
            bob < upgrade, welcome, presence_state, lobby_state
            ann < presence_diff +bob
            ann > {request}
            ann < error ref=1 code=user_not_found, presence_diff -bob
            bob < goodbye, close 4006 lobby_closed
            "#
        ));
    }
}

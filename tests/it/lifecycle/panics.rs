//! Panics of the application that [`CatchPanics`] catches: they close one lobby and affect nothing else.

use lobbyd::admission::Route;
use lobbyd::apps::CatchPanics;
use lobbyd::sending::RelayRequest;
use lobbyd::sim::Simulator;
use lobbyd::{App, Authorization, CloseReason, Config, Context, LeaveReason, Member, Message, Protocol, Request};

use crate::common::scenario::World;

/// Relays messages. A message can make it panic in a given callback, with its work half done.
#[derive(Default)]
struct Fragile {
    panics_at_next: Option<&'static str>,
    left: Vec<String>,
}

impl Fragile {
    fn may_panic(&mut self, here: &str) {
        assert!(self.panics_at_next.take_if(|callback| *callback == here).is_none(), "requested by the test");
    }
}

impl App for Fragile {
    const PROTOCOL: Protocol = Protocol::Json;

    fn route(&self, request: &Request<'_>) -> Route {
        assert_ne!(request.path(), "/ws/panic", "requested by the test");
        Route::Lobby(request.path().trim_start_matches("/ws/").to_owned())
    }

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        assert_ne!(request.token(), Some("panic"), "requested by the test");
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, _: &mut Context<'_>, _: &Member) {
        self.may_panic("at join");
    }

    fn allows(&mut self, _: &mut Context<'_>, _: &Member, _: RelayRequest<'_>) -> bool {
        self.may_panic("at allows");
        true
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let Message::Json { kind, .. } = message else { return };
        cx.broadcast_message(from, "\"half\"");
        let callbacks = ["at join", "at allows", "at leave"];
        self.panics_at_next = callbacks.into_iter().find(|&callback| callback == kind);
        assert_ne!(kind, "panic", "requested by the test");
        if kind == "kick and panic" {
            cx.close_user("bob", CloseReason::Kicked);
            panic!("requested by the test");
        }
    }

    fn on_leave(&mut self, _: &mut Context<'_>, member: &Member, _: LeaveReason) {
        self.left.push(member.user().to_owned());
        self.may_panic("at leave");
    }
}

#[track_caller]
fn check(script: &str, panics: u64, left: &[&str]) {
    let mut world = World::new(Config::default(), CatchPanics::new(Fragile::default()));
    world.run(
        "ann, bob join chess
         cid > connect go
         cid < upgrade, welcome, presence_state",
    );
    world.run(script);
    assert_eq!(world.engine.app().panics(), panics);
    assert_eq!(world.engine.app().app().left, left);
    // The other lobby is not affected, and a closed lobby can be created again.
    world.run("cid > {\"type\":\"ping\"}\ncid < pong");
    if !left.is_empty() {
        world.run("dan > connect chess\ndan < upgrade, welcome seq=0, presence_state users=dan");
    }
}

#[test]
fn a_panic_closes_the_lobby_it_concerns() {
    let closed = "ann < goodbye, close 1011 internal_error
         bob < message data=half, goodbye, close 1011 internal_error
         ann > close 1011
         ann < eof
         bob > close 1011
         bob < eof";
    check(&format!("ann > {{\"type\":\"panic\"}}\n{closed}"), 1, &["ann", "bob"]);
    // Commands given before the panic take effect.
    check(
        r#"ann > {"type":"kick and panic"}
         bob < message data=half, goodbye, close 4003 kicked
         ann < goodbye, close 1011 internal_error
         ann > close
         ann < eof
         bob > close
         bob < eof"#,
        1,
        &["bob", "ann"],
    );
}

#[test]
fn a_panic_in_every_callback_is_caught() {
    let end = "ann < goodbye, close 1011 internal_error
         bob < goodbye, close 1011 internal_error
         ann > close
         ann < eof
         bob > close
         bob < eof";
    let order = |callback: &str| format!("ann > {{\"type\":\"{callback}\"}}\nbob < message\n");
    check(&format!("{}ann > {{\"type\":\"broadcast\",\"data\":1}}\n{end}", order("at allows")), 1, &["ann", "bob"]);
    let newcomer = "eve > connect chess
         eve < upgrade, welcome, goodbye, close 1011 internal_error
         eve > close
         eve < eof";
    check(&format!("{}{newcomer}\n{end}", order("at join")), 1, &["ann", "bob", "eve"]);
    check(
        &format!("{}bob > hangup\nann < goodbye, close 1011 internal_error\nann > close\nann < eof", order("at leave")),
        1,
        &["bob", "ann"],
    );
}

#[test]
fn a_panic_in_authorize_refuses_the_request() {
    check(
        "panic > connect chess\npanic < upgrade, goodbye, close 1011 internal_error\npanic > close\npanic < eof",
        1,
        &[],
    );
    check("eve > connect panic\neve < upgrade, goodbye, close 4007 bad_lobby_code\neve > close\neve < eof", 0, &[]);
}

/// All invariants hold after every step on a simulated faulty network.
#[test]
fn invariants_hold_after_every_panic() {
    struct Unlucky;
    impl App for Unlucky {
        const PROTOCOL: Protocol = Protocol::Json;
        fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
            Authorization::token_is_user(request)
        }
        fn on_join(&mut self, cx: &mut Context<'_>, _: &Member) {
            assert!(!cx.random().percent(5), "a random panic");
        }
        fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, _: Message<'_>) {
            cx.broadcast_message(from, "1");
            assert!(!cx.random().percent(5), "a random panic");
            cx.broadcast_message(from, "2");
        }
        fn on_leave(&mut self, cx: &mut Context<'_>, _: &Member, _: LeaveReason) {
            assert!(!cx.random().percent(5), "a random panic");
        }
    }
    let mut panics = 0;
    for seed in 0..30 {
        match Simulator::new(seed, Config::default(), CatchPanics::new(Unlucky)).run(300) {
            Ok(report) => {
                panics += report
                    .closes()
                    .filter(|(reason, _)| *reason == CloseReason::InternalError)
                    .map(|(_, n)| n)
                    .sum::<u64>();
            }
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
    assert!(panics > 20, "the application panics: {panics}");
}

/// A new callback must be forwarded and its panics caught. The default method would swallow it.
#[test]
fn every_callback_is_forwarded() {
    let read = |path: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        std::fs::read_to_string(path).expect("a source is readable")
    };
    let text = read("src/engine/app.rs");
    let (_, declared) = text.split_once("pub trait App {").expect("the source declares the trait");
    let (declared, _) = declared.split_once("\n}\n").expect("the trait has an end");
    let wrapper = read("src/apps/catch_panics.rs");
    let names: Vec<&str> =
        declared.lines().filter_map(|line| line.strip_prefix("    fn ")?.split('(').next()).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(wrapper.contains(&format!("    fn {name}(")), "{name} is not forwarded");
    }
}

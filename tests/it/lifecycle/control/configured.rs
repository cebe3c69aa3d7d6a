//! Lobby control that an application switches on needs a configuration that has room for it.

use std::time::Duration;

use lobbyd::apps::{Relay, Verbatim};
use lobbyd::config::{ByteSize, Problems};
use lobbyd::control::LobbyControl;
use lobbyd::driver::Start;
use lobbyd::net::{Error, Server};
use lobbyd::sim::{Plan, Simulator};
use lobbyd::{App, Authorization, Config, Context, Engine, Member, Message, Protocol, Request};

use crate::common::sockets::on_free_port;
use crate::common::warnings::warnings_of;

/// Sets data of each lobby.
#[derive(Default)]
struct Opening;

impl App for Opening {
    const PROTOCOL: Protocol = Protocol::Json;
    const LOBBY_CONTROL: LobbyControl = LobbyControl::On;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        // Small bounds may refuse it.
        let _ = cx.set_lobby_data(member.lobby(), r#"{"is_open":true}"#);
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

/// Room for what a member without lobby control is sent at once, and for no more.
fn small() -> Config {
    Config {
        max_outbound_bytes: ByteSize::kib(128),
        outbound_high_mark: ByteSize::kib(32),
        outbound_low_mark: ByteSize::kib(16),
        ..on_free_port()
    }
}

fn fields(problems: &Problems) -> Vec<&str> {
    problems.iter().map(|problem| problem.field).collect()
}

#[track_caller]
fn is_refused(server: Result<Server<Opening>, Error>) {
    match server.map(|_| ()) {
        Err(Error::Config(problems)) => assert_eq!(fields(&problems), ["max_outbound_bytes"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_check_for_an_application_knows_whether_it_has_lobby_control() {
    let plain = small().check().expect("there is room without lobby control");
    let on = Config { lobby_control: true, ..Config::default() };
    assert_eq!(small().check_for::<Relay>().as_ref(), Ok(&plain), "the relay has what is configured");
    assert_eq!(on.clone().check_for::<Relay>().expect("there is room").worst_case_memory(), on.worst_case_memory());
    assert_eq!(fields(&small().check_for::<Opening>().expect_err("no room for data")), ["max_outbound_bytes"]);
    let counted = Config::default().check_for::<Opening>().expect("the defaults have room");
    assert_eq!(counted.into_config(), on);
    assert_eq!(on.check_for::<Verbatim>().expect("valid").into_config(), Config::default());
    let problems = Config { seat_grace: Duration::ZERO, ..Config::default() }.check_for::<Opening>();
    assert_eq!(fields(&problems.expect_err("nobody has a session")), ["lobby_control"]);
}

#[test]
fn a_server_refuses_a_configuration_without_room_for_the_applications_lobby_control() {
    is_refused(Server::bind(small(), Opening));
    let checked = small().check().expect("valid without lobby control");
    is_refused(Server::bind_checked(checked.clone(), Opening, None));
    is_refused(Server::bind_with_sockets(checked, Opening, None, Vec::new()));
    let server = Server::bind(on_free_port(), Opening).expect("the defaults have room");
    assert!(server.engine().config().lobby_control);
}

#[test]
fn a_server_warns_of_lobby_control_that_the_application_does_not_use() {
    // There may be another one, of too few descriptors.
    let of_lobby_control = |mut warnings: Vec<String>| {
        warnings.retain(|warning| warning.contains("lobby_control"));
        warnings
    };
    let config = Config { lobby_control: true, ..on_free_port() };
    let (server, warnings) = warnings_of(|| Server::bind(config.clone(), Verbatim::default()));
    assert!(!server.expect("a free port").engine().config().lobby_control);
    let expected = "lobby_control = on: has no effect, because the application does not use it (App::LOBBY_CONTROL)";
    assert_eq!(of_lobby_control(warnings), [expected]);
    for config in [on_free_port(), config] {
        let (server, warnings) = warnings_of(|| Server::bind(config, Opening));
        assert!(server.is_ok());
        assert_eq!(of_lobby_control(warnings), [""; 0]);
    }
}

#[test]
#[should_panic(expected = "check it with Config::check_for, because App::LOBBY_CONTROL changes lobby_control: invalid")]
fn an_engine_refuses_a_configuration_that_was_not_checked_for_the_application() {
    let config = small().check().expect("valid without lobby control");
    let _ = Engine::new(config, Start { unix_micros: 0, seed: 1 }, Opening);
}

/// The journal is replayed, too, which checks the recorded configuration.
#[test]
fn the_simulator_draws_configurations_for_an_application_that_has_lobby_control() {
    for plan in Plan::seeds(0..60, 120, None) {
        let run = Simulator::swarm(plan.seed, Opening).replayed_with(|| Opening).run(plan.steps);
        run.unwrap_or_else(|failure| panic!("{failure}"));
        let relayed = Simulator::swarm(plan.seed, Switch).relays_everything().replayed_with(|| Switch);
        relayed.run(plan.steps).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// Relays as the built-in application does, always with lobby control.
struct Switch;

impl App for Switch {
    const PROTOCOL: Protocol = Protocol::Json;
    const LOBBY_CONTROL: LobbyControl = LobbyControl::On;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        Relay::default().on_message(cx, from, message);
    }
}

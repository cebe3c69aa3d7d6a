//! Two games on a server in the same thread.

use std::time::Duration;

use bevy_app::{App, AppExit};
use bevy_ecs::prelude::*;
use lobbyd::client::{Event, Lobby, LobbyOptions, State};
use lobbyd::net::Server;
use lobbyd::{Config, apps::Relay};
use lobbyd_bevy::{AddSaid, LobbyClient, LobbyEvent, LobbyPlugin, Said};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Move {
    to: String,
}

#[derive(Resource, Default)]
struct Heard {
    moves: Vec<(Option<String>, String)>,
    states: Vec<State>,
    leaves: Vec<(String, String)>,
}

fn note(mut moves: MessageReader<Said<Move>>, mut events: MessageReader<LobbyEvent>, mut heard: ResMut<Heard>) {
    heard.moves.extend(moves.read().map(|said| (said.from.clone(), said.data.to.clone())));
    for LobbyEvent(event) in events.read() {
        match event {
            Event::Connection { state, .. } => heard.states.push(*state),
            Event::Leave { who, reason } => heard.leaves.push((who.user().to_owned(), reason.clone())),
            _ => {}
        }
    }
}

fn serve(listen: &str) -> Server<Relay> {
    let config = Config { listen: listen.parse().expect("an address"), ..Config::default() };
    Server::bind(config, Relay::default()).expect("the address is free")
}

fn url(server: &Server<Relay>) -> String {
    format!("ws://{}/ws/chess", server.local_addr().expect("the server listens"))
}

fn game(url: &str, user: &str) -> App {
    let options = LobbyOptions { token: user.into(), ..LobbyOptions::default() };
    let mut app = App::new();
    app.add_plugins(LobbyPlugin)
        .add_said::<Move>("move")
        .insert_resource(LobbyClient(Lobby::connect(url, options).expect("a valid address")))
        .init_resource::<Heard>()
        .add_systems(bevy_app::Update, note);
    app
}

/// Runs frames of the games and turns of the server until `is_done`.
#[track_caller]
fn frames(server: &mut Server<Relay>, games: &mut [App; 2], is_done: impl Fn(&World) -> bool) {
    for _ in 0..12_000 {
        games.iter_mut().for_each(App::update);
        if games.iter().all(|game| is_done(game.world())) {
            return;
        }
        server.turn(Some(Duration::from_millis(5))).expect("the turn succeeds");
    }
    panic!("it did not happen");
}

fn say(game: &mut App, to: &str) {
    let mut lobby = game.world_mut().resource_mut::<LobbyClient>();
    lobby.request("move", Move { to: to.to_owned() }).expect("there is room");
}

fn moves(world: &World) -> Vec<&str> {
    world.resource::<Heard>().moves.iter().map(|(_, to)| &**to).collect()
}

#[test]
fn two_games_hear_each_other_and_come_back_to_a_new_server() {
    let mut server = serve("127.0.0.1:0");
    let mut games = [game(&url(&server), "ann"), game(&url(&server), "bob")];
    frames(&mut server, &mut games, |world| world.resource::<LobbyClient>().count() == 2);
    say(&mut games[0], "e4");
    say(&mut games[1], "e5");
    frames(&mut server, &mut games, |world| moves(world).len() == 1);
    let heard = |game: &App| game.world().resource::<Heard>().moves.clone();
    assert_eq!(heard(&games[0]), [(Some("bob".to_owned()), "e5".to_owned())]);
    assert_eq!(heard(&games[1]), [(Some("ann".to_owned()), "e4".to_owned())]);

    let address = server.local_addr().expect("the server listens").to_string();
    drop(server);
    let mut server = serve(&address);
    let is_back = |world: &World| {
        let states = &world.resource::<Heard>().states;
        states.contains(&State::Waiting) && states.last() == Some(&State::Open)
    };
    frames(&mut server, &mut games, |world| is_back(world) && world.resource::<LobbyClient>().count() == 2);
    say(&mut games[0], "Nf3");
    say(&mut games[1], "Nc6");
    frames(&mut server, &mut games, |world| moves(world).len() == 2);
}

#[test]
fn a_game_that_exits_leaves_its_seat() {
    // The last frame waits for the server for half a second, in which a busy machine may do something else.
    assert!((0..5).any(|_| last_frame_waits_until_the_seat_is_left()));
}

fn last_frame_waits_until_the_seat_is_left() -> bool {
    let mut server = serve("127.0.0.1:0");
    let url = url(&server);
    let mut bob = game(&url, "bob");
    // Its last frame waits for the server.
    let ann = std::thread::spawn(move || {
        let mut ann = game(&url, "ann");
        while ann.world().resource::<LobbyClient>().count() < 2 {
            ann.update();
            std::thread::yield_now();
        }
        ann.world_mut().write_message(AppExit::Success);
        ann.update();
        ann.world().resource::<LobbyClient>().is_finished()
    });
    for _ in 0..12_000 {
        bob.update();
        if ann.is_finished() && !bob.world().resource::<Heard>().leaves.is_empty() {
            break;
        }
        server.turn(Some(Duration::from_millis(5))).expect("the turn succeeds");
    }
    assert!(ann.is_finished(), "the game has not ended");
    assert_eq!(bob.world().resource::<Heard>().leaves, [("ann".to_owned(), "left".to_owned())]);
    ann.join().expect("it does not panic")
}

#[test]
fn types_of_messages_may_be_added_before_the_plugin_and_without_it() {
    App::new().add_said::<Move>("move").update();
    App::new().add_said::<Move>("move").add_plugins(LobbyPlugin).update();
}

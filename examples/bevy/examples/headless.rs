//! A game without a window: it says where it is ten times a second, and prints where others are. Run the server, and then
//! two of these:
//!
//! ```sh
//! cargo run
//! cargo run --manifest-path examples/bevy/Cargo.toml --example headless -- ann
//! cargo run --manifest-path examples/bevy/Cargo.toml --example headless -- bob
//! ```

use std::time::Duration;

use bevy_app::{App, ScheduleRunnerPlugin, Update};
use bevy_ecs::prelude::*;
use lobbyd::client::{Event, Lobby, LobbyOptions, State};
use lobbyd_bevy::{AddSaid, LobbyClient, LobbyEvent, LobbyPlugin, Said};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Position {
    x: f32,
}

#[derive(Component)]
struct Me;

#[derive(Component)]
struct At(f32);

fn walk(mut me: Single<&mut At, With<Me>>, mut lobby: ResMut<LobbyClient>) -> Result {
    me.0 += 0.1;
    lobby.send("position", Position { x: me.0 })?;
    Ok(())
}

fn hear(mut positions: MessageReader<Said<Position>>) {
    for Said { from, data, .. } in positions.read() {
        println!("{} is at {:.1}", from.as_deref().unwrap_or_default(), data.x);
    }
}

fn tell(mut events: MessageReader<LobbyEvent>) {
    for LobbyEvent(event) in events.read() {
        match event {
            Event::Connection { state: State::Closed, why } => panic!("the lobby is closed: {why:?}"),
            Event::Connection { state, .. } => println!("{state:?}"),
            Event::Join(who) => println!("{} is here", who.user()),
            Event::Leave { who, .. } => println!("{} has gone", who.user()),
            _ => {}
        }
    }
}

fn main() -> Result {
    let user = std::env::args().nth(1).unwrap_or_else(|| "ann".to_owned());
    let options = LobbyOptions { token: user.into(), ..LobbyOptions::default() };
    let lobby = Lobby::connect("ws://127.0.0.1:9001/ws/walk", options)?;
    let mut app = App::new();
    app.world_mut().spawn((Me, At(0.0)));
    app.add_plugins((ScheduleRunnerPlugin::run_loop(Duration::from_millis(100)), LobbyPlugin))
        .add_said::<Position>("position")
        .insert_resource(LobbyClient(lobby))
        .add_systems(Update, (walk, hear, tell))
        .run();
    Ok(())
}

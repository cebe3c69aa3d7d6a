//! A Bevy plugin for lobbies: a resource with the client, and a message for each thing that happens.
//!
//! ```no_run
//! use std::time::{Duration, Instant};
//!
//! use bevy_app::{App, Update};
//! use bevy_ecs::prelude::*;
//! use lobbyd::client::{Lobby, LobbyOptions};
//! use lobbyd_bevy::{AddSaid, LobbyClient, LobbyPlugin, Said};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Position {
//!     x: f32,
//!     y: f32,
//! }
//!
//! /// Sends 20 times a second: a fast display has more frames than the server accepts messages.
//! fn tell(mut lobby: ResMut<LobbyClient>, mut last_sent: Local<Option<Instant>>) {
//!     if last_sent.is_none_or(|sent| sent.elapsed() >= Duration::from_millis(50)) {
//!         *last_sent = Some(Instant::now());
//!         let _ = lobby.send("position", Position { x: 1.0, y: 2.0 });
//!     }
//! }
//!
//! fn hear(mut positions: MessageReader<Said<Position>>) {
//!     for Said { from, data, .. } in positions.read() {
//!         println!("{from:?} is at {}, {}", data.x, data.y);
//!     }
//! }
//!
//! let options = LobbyOptions { token: "ann".into(), ..LobbyOptions::default() };
//! let lobby = Lobby::connect("ws://127.0.0.1:9001/ws/chess", options).unwrap();
//! App::new()
//!     .add_plugins(LobbyPlugin)
//!     .add_said::<Position>("position")
//!     .insert_resource(LobbyClient(lobby))
//!     .add_systems(Update, (tell, hear))
//!     .run();
//! ```

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use bevy_app::{App, AppExit, Last, Plugin, PreUpdate};
use bevy_ecs::prelude::*;
use lobbyd::client::{Event, Lobby};
use serde::de::DeserializeOwned;

/// Time for the server to read that the game leaves.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

/// The client of the lobby. While the resource exists, it does a turn in each frame, in [`PreUpdate`]; to leave, call
/// [`Lobby::leave`], and remove the resource when [`Lobby::is_finished`]. On [`AppExit`] the plugin leaves.
#[derive(Resource)]
pub struct LobbyClient(pub Lobby);

impl Deref for LobbyClient {
    type Target = Lobby;

    fn deref(&self) -> &Lobby {
        &self.0
    }
}

impl DerefMut for LobbyClient {
    fn deref_mut(&mut self) -> &mut Lobby {
        &mut self.0
    }
}

/// Something has happened in the lobby.
#[derive(Message, Debug)]
pub struct LobbyEvent(pub Event);

/// A member, or the server, has said something of a type that [`AddSaid::add_said`] names.
#[derive(Message, Debug)]
pub struct Said<T: Send + Sync + 'static> {
    /// User id; `None`: the server.
    pub from: Option<String>,
    pub data: T,
    /// Whether only this member was told.
    pub is_direct: bool,
}

/// The systems of this plugin: add those that depend on what was heard after them, or in a later schedule.
#[derive(SystemSet, Clone, Debug, PartialEq, Eq, Hash)]
pub enum LobbySystems {
    /// Does a turn of the client.
    Turn,
    /// Reads the data of what was said.
    Read,
}

/// Does a turn of [`LobbyClient`] in each frame, and writes each event as a [`LobbyEvent`]. On [`AppExit`] it leaves, so that
/// the seat is free at once; the last frame takes half a second at most.
pub struct LobbyPlugin;

impl Plugin for LobbyPlugin {
    fn build(&self, app: &mut App) {
        app.add_message::<LobbyEvent>()
            .configure_sets(PreUpdate, (LobbySystems::Turn, LobbySystems::Read).chain())
            .add_systems(PreUpdate, turn.in_set(LobbySystems::Turn).run_if(resource_exists::<LobbyClient>))
            .add_systems(Last, leave.run_if(on_message::<AppExit>.and_then(resource_exists::<LobbyClient>)));
    }
}

fn turn(mut lobby: ResMut<LobbyClient>, mut events: MessageWriter<LobbyEvent>) {
    lobby.turn(Duration::ZERO);
    events.write_batch(std::iter::from_fn(|| lobby.poll_event()).map(LobbyEvent));
}

fn leave(mut lobby: ResMut<LobbyClient>) {
    lobby.leave();
    lobby.wait(EXIT_TIMEOUT, |_| false);
}

/// Messages of the game as types.
pub trait AddSaid {
    /// Writes a [`Said`] for each message of this `type` whose data is that of a `T`. The others are [`LobbyEvent`]s only.
    /// Needs the [`LobbyPlugin`], which may be added before or after.
    fn add_said<T: DeserializeOwned + Send + Sync + 'static>(&mut self, kind: &'static str) -> &mut Self;
}

impl AddSaid for App {
    fn add_said<T: DeserializeOwned + Send + Sync + 'static>(&mut self, kind: &'static str) -> &mut App {
        let read = move |mut events: MessageReader<LobbyEvent>, mut said: MessageWriter<Said<T>>| {
            for LobbyEvent(event) in events.read() {
                if let Event::Message(message) = event
                    && message.kind.as_deref() == Some(kind)
                    && let Ok(data) = message.data()
                {
                    said.write(Said { from: message.from.clone(), data, is_direct: message.is_direct });
                }
            }
        };
        self.add_message::<LobbyEvent>()
            .add_message::<Said<T>>()
            .add_systems(PreUpdate, read.in_set(LobbySystems::Read))
    }
}

//! How clients enter lobbies with lobby control on: new codes, pools, passwords, and watching.

mod codes;
mod passwords;
mod pending;
mod pools;
mod watchers;

use lobbyd::apps::Relay;
use lobbyd::{App, Config, journal};
use serde_json::Value;

use crate::common::scenario::{START, World};

fn on() -> Config {
    Config { lobby_control: true, ..Config::default() }
}

/// A world whose session is recorded. [`finish`] replays it.
fn recorded(config: Config) -> World<Relay> {
    recorded_with(config, Relay::default())
}

fn recorded_with<A: App>(config: Config, app: A) -> World<A> {
    let mut world = World::new(config, app);
    journal::record(&mut world.engine, START, Vec::new()).expect("it can be recorded");
    world
}

/// Checks that a replay sends the same bytes, and returns the journal.
#[track_caller]
fn finish<A: App + Default>(mut world: World<A>) -> Vec<u8> {
    let stats = world.engine.stats();
    let journal: Vec<u8> = journal::finish(&mut world.engine).expect("it was recorded in memory");
    assert_eq!(journal::replay(&*journal, A::default()).expect("nothing differs").stats, stats);
    journal
}

/// Runs a script, and replays it.
#[track_caller]
fn check(config: Config, script: &str) {
    let mut world = recorded(config);
    world.run(script);
    finish(world);
}

/// Takes what a client has received, and returns its `welcome`.
#[track_caller]
fn welcome<A: App>(world: &mut World<A>, name: &str) -> Value {
    let got = world.take(name);
    let welcome = got.iter().find(|text| text.contains(r#""type":"welcome""#));
    serde_json::from_str(welcome.unwrap_or_else(|| panic!("{name} got {got:?}"))).expect("JSON")
}

/// The same for the code of its lobby.
#[track_caller]
fn lobby_of<A: App>(world: &mut World<A>, name: &str) -> String {
    welcome(world, name)["lobby"].as_str().expect("a text").to_owned()
}

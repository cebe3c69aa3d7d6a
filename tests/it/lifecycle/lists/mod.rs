//! The list of lobbies with lobby control on: `GET /lobbies`, and connections that follow it.

mod following;
mod hostile;
mod requests;

use std::collections::BTreeMap;
use std::time::Duration;

use lobbyd::apps::Relay;
use lobbyd::{Config, journal};
use serde_json::Value;

use crate::common::scenario::{START, World};

fn on() -> Config {
    Config { lobby_control: true, ..Config::default() }
}

/// The same without pings.
fn quiet() -> Config {
    Config { ping_interval: Duration::from_secs(3600), ..on() }
}

/// A world whose session is recorded. [`finish`] replays it.
fn recorded(config: Config) -> World<Relay> {
    let mut world = World::new(config, Relay::default());
    journal::record(&mut world.engine, START, Vec::new()).expect("it can be recorded");
    world
}

/// Checks that a replay sends the same bytes.
#[track_caller]
fn finish(mut world: World<Relay>) {
    let stats = world.engine.stats();
    let journal: Vec<u8> = journal::finish(&mut world.engine).expect("it was recorded in memory");
    assert_eq!(journal::replay(&*journal, Relay::default()).expect("nothing differs").stats, stats);
}

/// Creates a lobby that is listed and has these further settings. Its host is the client with the name of the lobby.
#[track_caller]
fn open(world: &mut World<Relay>, code: &str, settings: &str) {
    world.steps(&format!("{code} > connect {code} session=page-of-{code:_>16}"));
    set(world, code, &format!(r#"{{"listed":true{settings}}}"#));
}

/// Changes settings of the lobby of a host.
#[track_caller]
fn set(world: &mut World<Relay>, host: &str, settings: &str) {
    world.steps(&format!(r#"{host} > {{"type":"settings","settings":{settings}}}"#));
    let got = world.take(host);
    assert!(got.iter().any(|text| text.contains(r#""type":"settings""#)), "{host} got {got:?}");
}

/// Asks for a part of the list. Returns its status and its body.
#[track_caller]
fn get(world: &mut World<Relay>, query: &str) -> (u16, Value) {
    world.open("asker");
    world.send("asker", format!("GET /lobbies?{query} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes());
    world.steps("asker > hangup");
    let got = world.take("asker");
    let status = got[0].strip_prefix("http ").unwrap_or_else(|| panic!("{got:?}")).parse().expect("a status");
    let body = got[1].strip_prefix("body ").expect("a body");
    (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
}

/// The codes of lobbies as an array.
fn codes(lobbies: &Value) -> Vec<&str> {
    let lobbies = lobbies.as_array().expect("an array");
    lobbies.iter().map(|lobby| lobby["code"].as_str().expect("a text")).collect()
}

/// What a client knows that follows the list.
#[derive(Default)]
struct View {
    lobbies: BTreeMap<String, Value>,
    more: bool,
    /// Number of whole lists and of differences that it was sent.
    frames: (usize, usize),
}

impl View {
    /// Reads what a client has received.
    #[track_caller]
    fn read(&mut self, world: &mut World<Relay>, name: &str) {
        for text in world.take(name) {
            let Ok(frame) = serde_json::from_str::<Value>(&text) else {
                assert_eq!(text, "upgrade");
                continue;
            };
            let list = |key: &str| frame[key].as_array().unwrap_or_else(|| panic!("no {key} in {frame}")).clone();
            match frame["type"].as_str() {
                Some("lobbies") => {
                    self.lobbies.clear();
                    self.put(list("lobbies"));
                    self.more = frame["more"].as_bool().expect("more");
                    self.frames.0 += 1;
                }
                Some("lobbies_diff") => {
                    self.put(list("set"));
                    for code in list("gone") {
                        let gone = self.lobbies.remove(code.as_str().expect("a text"));
                        assert!(gone.is_some(), "{code} was not there");
                    }
                    assert!(!list("set").is_empty() || !list("gone").is_empty(), "there is a difference");
                    self.frames.1 += 1;
                }
                _ => panic!("{name} got {frame}"),
            }
        }
    }

    fn put(&mut self, lobbies: Vec<Value>) {
        for lobby in lobbies {
            self.lobbies.insert(lobby["code"].as_str().expect("a text").to_owned(), lobby);
        }
    }

    /// Asserts that it is the first page of the list.
    #[track_caller]
    fn check(&self, world: &mut World<Relay>, query: &str) {
        let (status, page) = get(world, query);
        assert_eq!(status, 200, "{page}");
        let page = page["lobbies"].as_array().expect("an array");
        let page: BTreeMap<String, Value> =
            page.iter().map(|lobby| (lobby["code"].as_str().expect("a text").to_owned(), lobby.clone())).collect();
        assert_eq!(self.lobbies, page, "{query}");
    }
}

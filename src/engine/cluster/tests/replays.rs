//! The session of a node replays alone.

use std::io;
use std::time::Duration;

use super::World;
use crate::apps::Relay;
use crate::base::time::Time;
use crate::cluster::log::{ClusterInput, ClusterOutput, EntryBody, Incarnation, LogEntry};
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::app::{App, Authorization, Context, Exclude, Member, Message, Protocol};
use crate::engine::control::LobbyControl;
use crate::engine::driver::Start;
use crate::engine::operator::{NewLobby, OperatorCommand};
use crate::engine::recording::RotateHint;
use crate::journal::{self, Sink};
use crate::sim::{MemorySockets, wire};
use crate::ws::frame::Frame;
use crate::ws::handshake::Request;

#[test]
fn the_sessions_of_two_nodes_replay_alone() {
    let mut world = World::new(Config::default());
    let ann = world.connect(0, "/ws/chess?token=ann&session=page-of-ann-0001");
    let bob = world.connect(1, "/ws/chess?token=bob");
    assert_eq!(world.types(ann), ["welcome", "presence_state", "presence_diff"]);
    assert_eq!(world.types(bob), ["welcome", "presence_state"]);
    world.say(ann, r#"{"type":"broadcast","data":1,"ref":"1"}"#);
    world.say(bob, r#"{"type":"direct","to":"ann","data":2,"ref":"2"}"#);
    world.say(bob, r#"{"type":"ping"}"#);
    assert_eq!(world.types(ann), ["ack", "direct"]);
    assert_eq!(world.types(bob), ["message", "ack", "pong"]);
    world.hang_up(ann);
    world.advance(100);
    world.say(bob, r#"{"type":"broadcast","data":3}"#);
    world.check_agreement();
    let epoch = world.nodes[0].engine.lobbies(None, 1).items[0].epoch;
    let target = format!("/ws/chess?token=ann&session=page-of-ann-0001&epoch={epoch}&seq=2&n=1");
    let back = world.connect(1, &target);
    let heard = world.heard(back);
    assert_eq!((&heard[0]["resumed"], &heard[0]["recovered"]), (&true.into(), &true.into()), "{heard:?}");
    assert!(heard.iter().any(|message| message["type"] == "message" && message["data"] == 3), "{heard:?}");
    world.advance(40_000);
    world.check_agreement();
    world.check_replays();
}

/// The new node gets lobbies with histories, an away member, an order to end a seat, and idempotency keys.
#[test]
fn the_session_of_a_node_that_got_its_state_from_another_one_replays_alone() {
    let config = Config { lobby_control: true, ..Config::default() };
    let mut world = World::of_one(config.clone());
    let ann = world.connect(0, "/ws/chess?token=ann&session=page-of-ann-0001");
    let bob = world.connect(0, "/ws/chess?token=bob&session=page-of-bob-0001");
    world.say(ann, r#"{"type":"set","data":{"map":"dust"}}"#);
    world.say(ann, r#"{"type":"broadcast","data":1,"ref":"1"}"#);
    world.hang_up(bob);
    world.advance(3000);
    world.attach(config);
    world.check_agreement();
    let epoch = world.nodes[0].engine.lobbies(None, 1).items[0].epoch;
    let back = world.connect(1, &format!("/ws/chess?token=bob&session=page-of-bob-0001&epoch={epoch}&seq=1&n=0"));
    let heard = world.heard(back);
    assert_eq!((&heard[0]["resumed"], &heard[0]["recovered"]), (&true.into(), &true.into()), "{heard:?}");
    assert!(heard.iter().any(|message| message["data"] == 1), "{heard:?}");
    world.say(back, r#"{"type":"broadcast","data":2}"#);
    assert_eq!(world.types(ann).last().map(String::as_str), Some("message"));
    world.advance(60_000);
    world.check_agreement();
    world.check_replays();
}

/// Counts messages, so its lobbies have a home each.
struct Counter(u64);

impl App for Counter {
    const PROTOCOL: Protocol = Protocol::Json;
    const LOBBY_CONTROL: LobbyControl = LobbyControl::On;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, _: Message<'_>) {
        self.0 += 1;
        cx.broadcast_to_lobby(
            from.lobby(),
            Exclude::None,
            &Frame::text(&format!(r#"{{"type":"count","count":{}}}"#, self.0)),
        );
    }
}

#[test]
fn the_session_of_a_node_with_a_game_replays_alone() {
    let start = Start { unix_micros: 0, seed: 1 };
    let config = Config::default().check().expect("the configuration is valid");
    let mut engine = Engine::new(config, start, Counter(0));
    engine.join_cluster();
    journal::record(&mut engine, start, Vec::new()).expect("memory takes everything");
    let (mut sockets, mut index, mut now) = (MemorySockets::default(), 0, Time::ZERO);
    let (node, other) = (Incarnation(4), Incarnation(5));
    engine.handle_cluster(now, ClusterInput::Attached { node, index, state: None });
    let mut feed = |engine: &mut Engine<Counter>, now: Time, body: EntryBody<'_>| {
        index += 1;
        engine.handle_cluster(now, ClusterInput::Entry(LogEntry { index, unix_micros: 9, body }));
    };
    feed(&mut engine, now, EntryBody::Founded);
    feed(&mut engine, now, EntryBody::Attached { node, name: "first" });
    feed(&mut engine, now, EntryBody::Attached { node: other, name: "second wss://second.example" });
    let mut taken = 0;
    for round in 0..40_u64 {
        now = now + Duration::from_millis(10);
        // Lobbies are created and removed between two turns in which the link takes something, and in others.
        let lobby = ["a", "b", "c"][(round % 3) as usize];
        let conn = engine.handle_accept(now, ([127, 0, 0, 1], 4000).into()).expect("there is room");
        engine.handle_bytes(now, conn, &wire::upgrade_request(&format!("/ws/{lobby}?token=user{round}"), &[]));
        engine.end_turn(now, &mut sockets).expect("memory takes everything");
        while round % 4 != 1
            && let Some(output) = engine.poll_cluster()
        {
            taken += 1;
            if let ClusterOutput::Append(bytes) = output {
                feed(&mut engine, now, EntryBody::Operations { node, bytes: &bytes });
            }
        }
        engine.handle_bytes(now, conn, &wire::text(r#"{"type":"hi"}"#));
        if round % 2 == 0 {
            // Claimed when it is there already, in the turn in which another one is released.
            let new = OperatorCommand::Create(NewLobby::new(Duration::from_millis(25)));
            engine.handle_operator(now, new).expect("there is room");
        }
        if round % 5 != 2 {
            engine.handle_hangup(now, conn);
        }
        engine.end_turn(now, &mut sockets).expect("memory takes everything");
    }
    assert!(taken > 5 && engine.app().0 > 10, "{taken} outputs, {} messages", engine.app().0);
    engine.handle_cluster(now, ClusterInput::Detached);
    engine.end_turn(now, &mut sockets).expect("memory takes everything");
    let stats = engine.stats();
    let recorded: Vec<u8> = journal::finish(&mut engine).expect("it was recorded");
    let summary = journal::replay(&*recorded, Counter(0)).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(summary.stats, stats);
}

/// Joins a cluster, gets a state that cannot be read, and is detached. Returns the journal.
fn session_with_state(state: &[u8]) -> Vec<u8> {
    let start = Start { unix_micros: 0, seed: 1 };
    let config = Config::default().check().expect("the configuration is valid");
    let mut engine = Engine::new(config, start, Relay::default());
    // In the other order than usual.
    engine.join_cluster();
    journal::record(&mut engine, start, Vec::new()).expect("memory takes everything");
    let attached = ClusterInput::Attached { node: Incarnation(7), index: 300, state: Some(state) };
    engine.handle_cluster(Time::ZERO, ClusterInput::Reachable(true));
    engine.handle_cluster(Time::ZERO, attached);
    engine.handle_cluster(Time::ZERO, ClusterInput::Detached);
    engine.end_turn(Time::ZERO, &mut MemorySockets::default()).expect("memory takes everything");
    journal::finish(&mut engine).expect("it was recorded")
}

#[test]
fn a_state_of_any_size_is_recorded_in_parts() {
    for length in [0, 1, 300_000, 4 << 20, (9 << 20) + 1] {
        let state: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let recorded = session_with_state(&state);
        assert!(recorded.len() >= length && recorded.len() < length + 20_000, "{} of {length}", recorded.len());
        let summary = journal::replay(&*recorded, Relay::default()).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(summary.turn, 1);
    }
}

#[test]
fn other_operations_than_the_recorded_ones_are_a_divergence() {
    let mut world = World::new(Config::default());
    world.connect(0, "/ws/chess?token=ann");
    let output = world.nodes[0].engine.poll_cluster();
    assert!(output.is_none(), "all was taken");
    let node = &mut world.nodes[0];
    // What the link took is not what the engine gave.
    let forged = ClusterOutput::Append(vec![1]);
    node.engine.core.record_taken(&forged);
    node.engine.end_turn(world.now, &mut node.sockets).expect("memory takes everything");
    let recorded: Vec<u8> = journal::finish(&mut node.engine).expect("it was recorded");
    let failure = journal::replay(&*recorded, Relay::default()).expect_err("it was not so");
    assert!(failure.to_string().contains("nothing more is appended to the log"), "{failure}");
}

/// Each segment in a buffer of its own.
#[derive(Default)]
struct Segments(Vec<Vec<u8>>);

impl Sink for Segments {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        self.0.push(Vec::new());
        Ok(())
    }

    fn write(&mut self, block: &[u8], rest: &[u8]) -> io::Result<()> {
        let last = self.0.last_mut().expect("a segment has begun");
        last.extend_from_slice(block);
        last.extend_from_slice(rest);
        Ok(())
    }

    fn rotate_hint(&self) -> RotateHint {
        RotateHint::WhenEmpty
    }
}

/// A node shares lobbies with the others even if it has no connection, so only one that is detached can begin a segment
/// with which a replay begins.
#[test]
fn a_segment_with_a_start_begins_only_without_a_place_in_the_cluster() {
    let start = Start { unix_micros: 0, seed: 1 };
    let config = Config::default().check().expect("the configuration is valid");
    let mut engine = Engine::new(config, start, Relay::default());
    journal::record(&mut engine, start, Segments::default()).expect("memory takes everything");
    engine.join_cluster();
    let mut sockets = MemorySockets::default();
    let segments = |engine: &mut Engine<Relay>, sockets: &mut MemorySockets, micros: u64| {
        engine.end_turn(Time::from_micros(micros), sockets).expect("memory takes everything");
        let counted = engine.recording().is_some();
        assert!(counted);
    };
    let attached = ClusterInput::Attached { node: Incarnation(1), index: 0, state: None };
    engine.handle_cluster(Time::from_micros(1), attached);
    for micros in 2..400 {
        segments(&mut engine, &mut sockets, micros);
    }
    engine.handle_cluster(Time::from_micros(500), ClusterInput::Detached);
    for micros in 501..1000 {
        segments(&mut engine, &mut sockets, micros);
    }
    let Segments(written) = journal::finish(&mut engine).expect("it was recorded");
    assert!(written.len() > 1, "a segment begins after the node was detached");
    journal::replay(&*written.concat(), Relay::default()).unwrap_or_else(|failure| panic!("{failure}"));
    for segment in &written[1..] {
        let rest = journal::replay(&**segment, Relay::default()).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(rest.stats.cluster.is_some_and(|cluster| !cluster.is_attached), "it is a node");
    }
    assert!(written[0].len() > 3000, "the first segment goes on while the node is attached: {}", written[0].len());
}

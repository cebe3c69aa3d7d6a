//! Operators' commands from any node.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{Page, World};
use crate::admin::AdminConns;
use crate::cluster::log::{ClusterInput, ClusterOutput, Incarnation};
use crate::config::Config;
use crate::engine::operator::{
    KickTarget, LobbyChange, NewLobby, OperatorAnswer, OperatorCommand, OperatorRefusal, OperatorReport, Payload,
    PingReport,
};

type Outcome = Result<OperatorAnswer, OperatorRefusal>;

fn config() -> Config {
    Config { lobby_control: true, ..Config::default() }
}

impl World {
    /// Gives a command to a node, and returns its answer when it was carried out.
    fn ask(&mut self, node: usize, command: OperatorCommand) -> Outcome {
        let now = self.now;
        let ticket = match self.nodes[node].engine.handle_operator(now, command) {
            Ok(OperatorAnswer::Submitted(ticket)) => ticket,
            other => return other,
        };
        assert!(!self.nodes[node].engine.has_operator_reports(), "it has not been carried out");
        self.settle();
        self.report(node, ticket)
    }

    fn report(&mut self, node: usize, expected: u64) -> Outcome {
        match self.nodes[node].engine.poll_operator() {
            Some(OperatorReport::Answered { ticket, answer }) => {
                assert_eq!(ticket, expected);
                answer
            }
            other => panic!("{other:?}"),
        }
    }
}

fn publish(data: &str, key: Option<&str>) -> OperatorCommand {
    OperatorCommand::Publish {
        lobby: "chess".into(),
        payload: Payload::Json(data.into()),
        exclude: Vec::new(),
        idempotency_key: key.map(str::to_owned),
    }
}

fn kick(target: KickTarget) -> OperatorCommand {
    OperatorCommand::Kick { target, reconnect: false }
}

fn data_of(messages: &[Json]) -> Vec<&Json> {
    messages.iter().filter(|message| message["type"] == "message").map(|message| &message["data"]).collect()
}

/// Ann on the first node and bob on the second one, both with sessions.
fn ann_and_bob(world: &mut World) -> (Page, Page) {
    let ann = world.connect(0, "/ws/chess?token=ann&session=page-of-ann-0001");
    let bob = world.connect(1, "/ws/chess?token=bob&session=page-of-bob-0001");
    world.advance(2000);
    world.heard(ann);
    world.heard(bob);
    (ann, bob)
}

#[test]
fn what_one_node_publishes_reaches_the_members_of_all_once_for_each_key() {
    let mut world = World::new(config());
    let (ann, bob) = ann_and_bob(&mut world);
    let Ok(OperatorAnswer::Sent { seq: Some(seq), sent, repeated: false }) = world.ask(0, publish("1", Some("k")))
    else {
        panic!("it was published")
    };
    assert_eq!((sent.queued, sent.dropped, sent.excluded), (2, 0, 0), "members of all nodes are counted");
    let repeated = Ok(OperatorAnswer::Sent { seq: Some(seq), sent, repeated: true });
    assert_eq!(world.ask(1, publish("1", Some("k"))), repeated, "the other node knows the key");
    assert_eq!(world.ask(1, publish("2", Some("k"))), Err(OperatorRefusal::KeyReused));
    for page in [ann, bob] {
        assert_eq!(data_of(&world.heard(page)), [&json!(1)]);
    }
    let send = OperatorCommand::Send { user: "bob".into(), payload: Payload::Json("3".into()) };
    assert!(matches!(world.ask(0, send), Ok(OperatorAnswer::Sent { sent, .. }) if sent.queued == 1));
    assert_eq!(world.types(bob), ["direct"]);
    let missing = OperatorCommand::publish("go", Payload::Json("1".into()));
    assert_eq!(world.ask(1, missing), Err(OperatorRefusal::NoSuchLobby));
    world.check_agreement();
    world.check_replays();
}

#[test]
fn the_answer_is_that_of_its_place_in_the_log() {
    let mut world = World::new(config());
    ann_and_bob(&mut world);
    let create = |code: &str| {
        let seats = vec!["eve".to_owned()];
        OperatorCommand::Create(NewLobby { code: Some(code.into()), seats, ..NewLobby::new(Duration::from_secs(9)) })
    };
    // Both nodes are asked in the same turn. The log decides.
    let now = world.now;
    let answers = [0, 1].map(|node| world.nodes[node].engine.handle_operator(now, create("match")));
    world.settle();
    let outcomes = [0, 1].map(|node| match answers[node] {
        Ok(OperatorAnswer::Submitted(ticket)) => world.report(node, ticket),
        ref other => panic!("{other:?}"),
    });
    assert!(matches!(outcomes[0], Ok(OperatorAnswer::Created { .. })), "{outcomes:?}");
    assert_eq!(outcomes[1], Err(OperatorRefusal::LobbyExists));
    let change = |data: &str, if_seq| OperatorCommand::Change {
        lobby: "chess".into(),
        change: LobbyChange::Data { of: None, if_seq, data: data.into() },
    };
    let Ok(OperatorAnswer::Changed { seq }) = world.ask(1, change(r#"{"a":1}"#, None)) else {
        panic!("it was changed")
    };
    assert!(matches!(world.ask(0, change(r#"{"a":2}"#, Some(seq - 1))), Err(OperatorRefusal::Conflict { .. })));
    assert!(world.ask(0, change(r#"{"a":2}"#, Some(seq))).is_ok());
    let lock = OperatorCommand::Lock { lobby: "chess".into(), locked: true };
    assert_eq!(world.ask(1, lock), Ok(OperatorAnswer::Locked(true)));
    let data = [0, 1].map(|node| world.nodes[node].engine.lobby_control("chess").expect("it exists").data);
    assert_eq!(data, [r#"{"a":2}"#, r#"{"a":2}"#]);
    // Its seats end on all nodes at the same time of the log.
    world.advance(10_000);
    assert!(world.nodes.iter().all(|node| node.engine.lobby("match").is_none()));
    world.check_agreement();
    world.check_replays();
}

#[test]
fn a_kick_ends_the_seats_of_all_nodes_and_the_away_ones() {
    let mut world = World::new(config());
    let (ann, bob) = ann_and_bob(&mut world);
    let eve = world.connect(1, "/ws/chess?token=eve&session=page-of-eve-0001");
    world.hang_up(eve);
    assert_eq!(world.ask(0, kick(KickTarget::User("bob".into()))), Ok(OperatorAnswer::Ending(1)));
    assert_eq!(world.types(bob).last().map(String::as_str), Some("4003"));
    assert_eq!(world.nodes[0].engine.lobby_members("chess", None, 9).items.len(), 2);
    let back = world.connect(0, "/ws/chess?token=bob&session=page-of-bob-0001");
    assert_eq!(world.types(back).last().map(String::as_str), Some("4003"), "kicked users stay out on all nodes");
    assert_eq!(world.ask(1, kick(KickTarget::Lobby("chess".into()))), Ok(OperatorAnswer::Ending(2)));
    assert_eq!(world.types(ann).last().map(String::as_str), Some("4003"));
    assert!(world.nodes.iter().all(|node| node.engine.lobby("chess").is_none()), "the away seat has ended too");
    assert_eq!(world.ask(1, kick(KickTarget::User("bob".into()))), Err(OperatorRefusal::NoSuchUser));
    world.check_replays();
}

/// The connection is lost before its node executes the command, so the node has nothing to close.
#[test]
fn a_kicked_member_does_not_escape_by_a_connection_that_ends() {
    let mut world = World::new(config());
    let (ann, bob) = ann_and_bob(&mut world);
    let now = world.now;
    world.nodes[1].is_linked = false;
    let asked = world.nodes[0].engine.handle_operator(now, kick(KickTarget::User("bob".into())));
    assert!(matches!(asked, Ok(OperatorAnswer::Submitted(_))));
    world.settle();
    world.nodes[1].engine.handle_hangup(now, bob.conn);
    world.nodes[1].is_linked = true;
    world.settle();
    for node in &world.nodes {
        let seats = node.engine.lobby_members("chess", None, 9).items;
        assert_eq!(seats.iter().map(|seat| (&*seat.user, seat.away)).collect::<Vec<_>>(), [("ann", false)]);
    }
    let left = world.heard(ann).into_iter().find(|message| message["type"] == "presence_diff").expect("bob has left");
    assert_eq!(left["leaves"][0]["reason"], "kicked", "{left}");
    world.check_replays();
}

#[test]
fn a_node_that_attaches_knows_the_order_to_end_a_seat() {
    let mut world = World::new(config());
    let (_, bob) = ann_and_bob(&mut world);
    let now = world.now;
    world.nodes[1].is_linked = false;
    assert!(world.nodes[0].engine.handle_operator(now, kick(KickTarget::User("bob".into()))).is_ok());
    world.settle();
    world.attach(config());
    world.nodes[1].engine.handle_hangup(now, bob.conn);
    world.nodes[1].is_linked = true;
    world.settle();
    for node in &world.nodes {
        assert_eq!(node.engine.lobby("chess").map(|lobby| (lobby.members, lobby.away)), Some((1, 0)));
    }
    world.check_replays();
}

#[test]
fn a_command_without_the_log_is_refused_or_its_outcome_is_unknown() {
    let mut world = World::new(config());
    ann_and_bob(&mut world);
    let now = world.now;
    let node = &mut world.nodes[0];
    node.is_linked = false;
    let Ok(OperatorAnswer::Submitted(ticket)) = node.engine.handle_operator(now, publish("1", None)) else {
        panic!("it is on its way")
    };
    assert!(node.engine.poll_timeout().is_some_and(|at| at <= now + Config::default().admin_timeout));
    world.advance(30_000);
    assert_eq!(world.report(0, ticket), Err(OperatorRefusal::OutcomeUnknown));
    let now = world.now;
    let engine = &mut world.nodes[0].engine;
    let Ok(OperatorAnswer::Submitted(ticket)) = engine.handle_operator(now, publish("1", None)) else {
        panic!("it is on its way")
    };
    engine.handle_cluster(now, ClusterInput::Reachable(false));
    assert_eq!(engine.handle_operator(now, publish("1", None)), Err(OperatorRefusal::Unavailable));
    engine.handle_cluster(now, ClusterInput::Detached);
    assert_eq!(engine.handle_operator(now, publish("1", None)), Err(OperatorRefusal::Unavailable));
    assert_eq!(world.report(0, ticket), Err(OperatorRefusal::OutcomeUnknown));
    world.settle();
    world.check_replays();
}

#[test]
fn commands_that_wait_are_bounded() {
    let mut world = World::new(config());
    ann_and_bob(&mut world);
    let (now, node) = (world.now, &mut world.nodes[0]);
    let outcomes: Vec<Outcome> = (0..1025).map(|_| node.engine.handle_operator(now, publish("1", None))).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1024);
    assert_eq!(outcomes.last(), Some(&Err(OperatorRefusal::Busy)));
    world.settle();
    assert_eq!(std::iter::from_fn(|| world.nodes[0].engine.poll_operator()).count(), 1024);
    assert!(world.ask(0, publish("1", None)).is_ok());
}

/// Asks the operators' port of a node, and returns the status and the body of the answer.
fn http(world: &mut World, node: usize, method: &str, path: &str, body: &str) -> (u16, Json) {
    let config = Config { admin: Some("127.0.0.1:9002".parse().expect("an address")), ..Config::default() };
    let mut admin = AdminConns::new(&config, None);
    let now = world.now;
    let client = admin.handle_accept(now, ([127, 0, 0, 1], 4000).into()).expect("there is room");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    admin.handle_bytes(client, format!("{head}{body}").as_bytes());
    admin.work(now, &mut world.nodes[node].engine);
    if admin.pending(client).is_empty() {
        world.settle();
        admin.work(now, &mut world.nodes[node].engine);
    }
    let answer = String::from_utf8(admin.pending(client).to_vec()).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head[9..12].parse().expect("a status"), serde_json::from_str(body).expect("JSON"))
}

#[test]
fn an_operator_gets_the_answer_when_the_log_has_the_command() {
    let mut world = World::new(config());
    let (_, bob) = ann_and_bob(&mut world);
    let (status, answer) = http(&mut world, 0, "POST", "/lobbies/chess/publish", r#"{"data":1}"#);
    assert_eq!((status, &answer["queued"]), (200, &json!(2)), "{answer}");
    assert_eq!(data_of(&world.heard(bob)), [&json!(1)]);
    assert_eq!(http(&mut world, 0, "POST", "/lobbies/go/close", "{}").0, 404);
    let (_, answer) = http(&mut world, 0, "GET", "/lobbies/chess", "");
    let users = &answer["users"];
    assert_eq!((&users[0]["node"], &users[0]["peer"]), (&json!("first"), &json!("127.0.0.1:4000")), "{answer}");
    assert_eq!((&users[1]["node"], &users[1]["peer"]), (&json!("second"), &Json::Null), "{answer}");
    assert_eq!(users[1]["idle_ms"], Json::Null);
    let (_, stats) = http(&mut world, 0, "GET", "/stats", "");
    assert_eq!(stats["total_connections"], 2, "those of the cluster");
    let cluster = &stats["cluster"];
    assert_eq!((&cluster["nodes"], &cluster["connections"]), (&json!(2), &json!(1)), "{cluster}");
    assert_eq!((&cluster["attached"], &cluster["reachable"]), (&json!(true), &json!(true)));
    assert_eq!(cluster["index"], cluster["entries"]);
    assert!(cluster["bytes"].as_u64() > Some(0));
}

#[test]
fn a_ping_goes_through_the_log_and_is_replayed() {
    let mut world = World::new(config());
    let (_, bob) = ann_and_bob(&mut world);
    let now = world.now;
    let ping = OperatorCommand::Ping { user: "bob".into(), timeout: Duration::from_secs(2) };
    let Ok(OperatorAnswer::Pinged(expected)) = world.nodes[0].engine.handle_operator(now, ping.clone()) else {
        panic!("it is asked")
    };
    world.advance(30);
    let asked = world.heard(bob);
    world.say(bob, &format!(r#"{{"type":"health_pong","timestamp":{}}}"#, asked[0]["timestamp"]));
    match world.nodes[0].engine.poll_operator() {
        Some(OperatorReport::Pinged(PingReport { ticket, answers, .. })) => {
            assert_eq!((ticket, answers.len()), (expected, 1));
            assert_eq!(answers[0].1, Some(Duration::from_millis(0)), "bob has heard of it after the time had passed");
        }
        other => panic!("{other:?}"),
    }
    let now = world.now;
    assert!(world.nodes[1].engine.handle_operator(now, ping).is_ok(), "it is there");
    world.advance(3000);
    assert!(world.nodes[1].engine.poll_operator().is_some());
    world.check_agreement();
    world.check_replays();
}

#[test]
fn a_node_that_has_sent_its_members_to_others_is_not_ready() {
    let mut world = World::new(config());
    let now = world.now;
    world.nodes[0].engine.handle_cluster(now, ClusterInput::Reachable(false));
    world.advance(1000);
    assert_eq!(http(&mut world, 0, "GET", "/health/ready", "").0, 200, "a short outage");
    world.advance(6000);
    assert_eq!(http(&mut world, 0, "GET", "/health/ready", "").0, 503);
    let now = world.now;
    world.nodes[0].engine.handle_cluster(now, ClusterInput::Reachable(true));
    assert_eq!(http(&mut world, 0, "GET", "/health/ready", "").0, 200);
}

#[test]
fn a_node_without_a_place_is_not_ready() {
    let mut world = World::new(config());
    assert_eq!(http(&mut world, 0, "GET", "/health/ready", "").0, 200);
    let now = world.now;
    world.nodes[0].engine.handle_cluster(now, ClusterInput::Detached);
    let (status, answer) = http(&mut world, 0, "GET", "/health/ready", "");
    assert_eq!((status, &answer["status"]), (503, &json!("detached")));
    assert_eq!(http(&mut world, 0, "POST", "/kick", "{}").1["error"], "unavailable");
}

/// The bytes of an operation come from another node. Whatever they are, no node panics, and all of them agree.
#[test]
fn damaged_operations_are_ignored_by_all_nodes() {
    let mut world = World::new(config());
    ann_and_bob(&mut world);
    let mut written = Vec::new();
    for command in [publish("1", Some("k")), kick(KickTarget::All), OperatorCommand::Close { lobby: "go".into() }] {
        let now = world.now;
        assert!(world.nodes[0].engine.handle_operator(now, command).is_ok());
    }
    while let Some(ClusterOutput::Append(bytes)) = world.nodes[0].engine.poll_cluster() {
        written.extend(bytes);
    }
    for at in 0..written.len() {
        let mut damaged = written.clone();
        damaged[at] ^= 0x55;
        world.append(Some(Incarnation(1)), Some(damaged));
        world.append(Some(Incarnation(2)), Some(written[at..].to_vec()));
    }
    world.settle();
    world.check_agreement();
    world.check_replays();
}

//! Outages, a clock of the log that is wrong, and states that cannot be read.

use super::*;
use crate::base::limit::Limit;
use crate::config::ByteSize;
use crate::engine::operator::{KickTarget, OperatorCommand};

/// Gives each member much data.
#[derive(Default)]
struct Passports;

impl App for Passports {
    const PROTOCOL: Protocol = Protocol::Json;
    const IS_STATELESS: bool = true;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        match Authorization::token_is_user(request) {
            Authorization::Allow(identity) => Authorization::Allow(identity.data(vec![b'x'; 1 << 20])),
            refused => refused,
        }
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &Member, _: Message<'_>) {}
}

#[test]
fn what_waits_for_the_log_is_divided_into_batches() {
    let config = Config { max_identity_bytes: ByteSize(1 << 20), ..config() };
    let mut nodes = Nodes::<Passports>::new(1, &config);
    let ask = |nodes: &mut Nodes<Passports>, number: usize| {
        let engine = &mut nodes.nodes[0].engine;
        let conn = engine.handle_accept(nodes.now, "10.0.0.1:4000".parse().expect("an address")).expect("room");
        let target = format!("/ws/chess{number}?token=user{number}&{PAGE}");
        engine.handle_bytes(nodes.now, conn, &wire::upgrade_request(&target, &[]));
        nodes.clients.push(Client { node: 0, conn, reader: Reader::default(), got: VecDeque::new() });
    };
    (0..10).for_each(|number| ask(&mut nodes, number));
    nodes.nodes[0].engine.handle_cluster(nodes.now, ClusterInput::Reachable(false));
    (10..20).for_each(|number| ask(&mut nodes, number));
    let waiting = nodes.nodes[0].engine.poll_cluster();
    assert!(waiting.is_none(), "what a client asks without Redis is not kept for later: it may have gone then");
    nodes.nodes[0].engine.handle_cluster(nodes.now, ClusterInput::Reachable(true));
    nodes.turn();
    let longest = nodes.log.iter().filter_map(|body| match body {
        Body::Operations(_, bytes) => Some(bytes.len()),
        _ => None,
    });
    assert!(longest.max().is_some_and(|longest| longest < 6 << 20), "a batch that no link takes");
    for client in 0..20 {
        let got = nodes.got(client);
        assert!(got[0].contains(r#""type":"welcome""#), "{got:?}");
    }
}

#[test]
fn a_node_that_cannot_read_the_state_has_no_place_and_executes_nothing() {
    let mut nodes = Nodes::<Relay>::new(1, &config());
    let mut engine =
        Engine::new(config().check().expect("valid"), Start { unix_micros: UNIX, seed: 2 }, Relay::default());
    engine.join_cluster();
    let node = Incarnation(9);
    engine.handle_cluster(nodes.now, ClusterInput::Attached { node, index: 7, state: Some(b"of a newer version") });
    let entry = |index| LogEntry { index, unix_micros: UNIX, body: EntryBody::Attached { node, name: "new" } };
    engine.handle_cluster(nodes.now, ClusterInput::Entry(entry(8)));
    assert!(engine.poll_cluster().is_none() && engine.shared_state().contains("executed 0"));
    assert!(!engine.shared_state().contains("9=new"));
    // It attaches again, and gets a state that it can read.
    engine.handle_cluster(nodes.now, ClusterInput::Detached);
    nodes.log.push(Body::Attached(Incarnation(2), "node2".to_owned()));
    nodes.nodes.push(Node {
        engine,
        incarnation: Incarnation(2),
        sockets: MemorySockets::default(),
        given: 0,
        is_attached: false,
    });
    nodes.turn();
    let ann = nodes.connect("ann", 1, &format!("chess?token=ann&{PAGE}"));
    expect(&mut nodes, ann, &["welcome", "presence_state", "lobby_state"]);
}

const HOUR: i64 = 3_600_000_000;

#[test]
fn deadlines_pass_when_the_clock_of_the_log_has_gone_back() {
    let config = Config { seat_grace: Duration::from_secs(5), ..config() };
    let mut nodes = Nodes::<Relay>::new(2, &config);
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    let bob = nodes.connect("bob", 1, &format!("chess?token=bob&{PAGE}"));
    nodes.advance(Duration::from_secs(1));
    [ann, bob].into_iter().for_each(|client| drop(nodes.got(client)));
    nodes.hang_up(ann);
    nodes.advance(Duration::from_secs(3));
    expect(&mut nodes, bob, &[r#""away":[{"user":"ann""#]);
    nodes.skew = -HOUR;
    nodes.advance(Duration::from_secs(6));
    let got = nodes.got(bob);
    assert!(got.iter().any(|text| text.contains(r#""leaves":[{"user":"ann""#)), "{got:?}");
    assert_eq!(nodes.nodes[0].engine.shared_state(), nodes.nodes[1].engine.shared_state());
    nodes.attach(3, &config);
    nodes.advance(Duration::from_secs(1));
    assert_eq!(nodes.nodes[0].engine.shared_state(), nodes.nodes[2].engine.shared_state());
}

#[test]
fn an_operators_kick_does_not_wait_for_the_clock_of_the_log() {
    let config = Config { drain_batch: 1, max_connections: Limit::at_most(20), ..config() };
    let mut nodes = Nodes::<Relay>::new(1, &config);
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    let bob = nodes.connect("bob", 0, &format!("chess?token=bob&{PAGE}"));
    nodes.skew = HOUR;
    nodes.say(ann, r#"{"type":"broadcast","data":1,"ref":1}"#);
    [ann, bob].into_iter().for_each(|client| drop(nodes.got(client)));
    let kick = OperatorCommand::Kick { target: KickTarget::Lobby("chess".into()), reconnect: false };
    nodes.nodes[0].engine.handle_operator(nodes.now, kick).expect("it is appended");
    nodes.advance(Duration::from_secs(2));
    for client in [ann, bob] {
        assert_eq!(nodes.got(client).last().map(String::as_str), Some("close 4003 kicked"));
    }
}

#[test]
fn guesses_that_arrive_together_are_limited_as_those_that_arrive_one_by_one() {
    let mut nodes = Nodes::<Relay>::new(2, &config());
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    nodes.say(ann, r#"{"type":"settings","settings":{"password":"tulip"},"ref":1}"#);
    nodes.got(ann);
    let first = nodes.clients.len();
    for number in 0..30 {
        let engine = &mut nodes.nodes[1].engine;
        let conn = engine.handle_accept(nodes.now, "10.0.0.1:4000".parse().expect("an address")).expect("room");
        let password = if number == 29 { "tulip".to_owned() } else { format!("rose{number}") };
        let target = format!("/ws/chess?token=user{number}&{PAGE}&password={password}");
        engine.handle_bytes(nodes.now, conn, &wire::upgrade_request(&target, &[]));
        nodes.clients.push(Client { node: 1, conn, reader: Reader::default(), got: VecDeque::new() });
    }
    nodes.turn();
    let answers: Vec<String> = (first..first + 30).map(|client| nodes.got(client).join(" ")).collect();
    let count = |what: &str| answers.iter().filter(|answer| answer.contains(what)).count();
    assert_eq!((count("wrong_password"), count("rate_limited"), count("welcome")), (10, 20, 0), "{answers:#?}");
    nodes.advance(Duration::from_secs(1));
    assert_eq!(nodes.nodes[0].engine.shared_state(), nodes.nodes[1].engine.shared_state());
    assert_eq!(nodes.nodes[0].engine.lobby_members("chess", None, 100).items.len(), 1, "nobody else is there");
    // A client that does not guess is not concerned.
    let bob = nodes.connect("bob", 1, &format!("go?token=bob&{PAGE}"));
    expect(&mut nodes, bob, &["welcome", "presence_state", "lobby_state"]);
}

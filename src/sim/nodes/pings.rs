//! Pings of users whose connections are on other nodes.

use super::*;
use crate::base::limit::Limit;
use crate::config::DuplicateLogin;
use crate::engine::operator::{OperatorAnswer, OperatorCommand, OperatorRefusal, OperatorReport, PingReport};

const TIMEOUT: Duration = Duration::from_secs(2);

fn ping<A: App + Default>(nodes: &mut Nodes<A>, node: usize, user: &str) -> Result<u64, OperatorRefusal> {
    let command = OperatorCommand::Ping { user: user.into(), timeout: TIMEOUT };
    match nodes.nodes[node].engine.handle_operator(nodes.now, command) {
        Ok(OperatorAnswer::Pinged(ticket)) => Ok(ticket),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal),
    }
}

/// Answers the `health_ping` that a client has received, and nothing else.
#[track_caller]
fn pong<A: App + Default>(nodes: &mut Nodes<A>, client: usize) {
    let got = nodes.got(client);
    let stamp = got.iter().find_map(|text| text.strip_prefix(r#"{"type":"health_ping","timestamp":"#));
    let stamp = stamp.unwrap_or_else(|| panic!("{got:?}")).trim_end_matches('}').to_owned();
    nodes.say(client, &format!(r#"{{"type":"health_pong","timestamp":{stamp}}}"#));
}

/// The latencies in the report that a node has, in milliseconds.
fn report<A: App + Default>(nodes: &mut Nodes<A>, node: usize) -> Option<Vec<(String, Option<u128>)>> {
    match nodes.nodes[node].engine.poll_operator()? {
        OperatorReport::Pinged(PingReport { answers, .. }) => {
            let millis = |latency: Duration| latency.as_millis();
            Some(answers.into_iter().map(|(seat, latency)| (seat.to_string(), latency.map(millis))).collect())
        }
        other => panic!("{other:?}"),
    }
}

fn ann_and_bob() -> (Nodes<Relay>, usize, usize) {
    let config = Config { duplicate_login: DuplicateLogin::Allow, max_per_user: Limit::at_most(2), ..config() };
    let mut nodes = Nodes::<Relay>::new(2, &config);
    let ann = nodes.connect("ann", 0, &format!("chess?token=ann&{PAGE}"));
    let bob = nodes.connect("bob", 1, &format!("chess?token=bob&{PAGE}"));
    [ann, bob].into_iter().for_each(|client| drop(nodes.got(client)));
    (nodes, ann, bob)
}

#[test]
fn a_user_on_another_node_is_pinged_and_its_node_measures_the_latency() {
    let (mut nodes, ann, bob) = ann_and_bob();
    // The clock of the log differs from those of the nodes.
    nodes.skew = 7_000_000;
    ping(&mut nodes, 0, "bob").expect("it is asked");
    nodes.turn();
    nodes.advance(Duration::from_millis(150));
    assert_eq!(report(&mut nodes, 0), None);
    pong(&mut nodes, bob);
    assert_eq!(report(&mut nodes, 0), Some(vec![("s2".into(), Some(150))]));
    assert_eq!(report(&mut nodes, 1), None, "only the node that was asked reports");
    expect(&mut nodes, ann, &[]);
    assert_eq!(nodes.nodes[0].engine.shared_state(), nodes.nodes[1].engine.shared_state());
    // A late answer is one of nobody's.
    ping(&mut nodes, 0, "bob").expect("it is asked");
    nodes.turn();
    nodes.advance(TIMEOUT - Duration::from_millis(50));
    assert_eq!(report(&mut nodes, 0), None);
    nodes.advance(Duration::from_millis(50));
    assert_eq!(report(&mut nodes, 0), Some(vec![("s2".into(), None)]));
    pong(&mut nodes, bob);
    assert_eq!((report(&mut nodes, 0), report(&mut nodes, 1)), (None, None));
}

#[test]
fn a_ping_asks_the_seats_of_all_nodes() {
    let (mut nodes, ann, _) = ann_and_bob();
    let other = nodes.connect("ann", 1, "go?token=ann&session=another-page-of-ann");
    nodes.got(other);
    ping(&mut nodes, 0, "ann").expect("it is asked");
    nodes.turn();
    pong(&mut nodes, other);
    nodes.advance(Duration::from_millis(50));
    assert_eq!(report(&mut nodes, 0), None);
    pong(&mut nodes, ann);
    assert_eq!(report(&mut nodes, 0), Some(vec![("s1".into(), Some(50)), ("s3".into(), Some(0))]));
}

#[test]
fn a_ping_ends_with_the_connection_or_the_node_that_was_asked() {
    let (mut nodes, _, bob) = ann_and_bob();
    ping(&mut nodes, 0, "bob").expect("it is asked");
    nodes.turn();
    nodes.hang_up(bob);
    assert_eq!(report(&mut nodes, 0), Some(vec![("s2".into(), None)]));
    // Its end is on its way to the log.
    let bob = nodes.connect("bob", 1, &format!("chess?token=bob&{PAGE}"));
    let conn = nodes.clients[bob].conn;
    nodes.nodes[1].engine.handle_hangup(nodes.now, conn);
    ping(&mut nodes, 0, "bob").expect("it is asked");
    nodes.turn();
    assert_eq!(report(&mut nodes, 0), Some(vec![("s2".into(), None)]));
    // The log has its end before the check.
    let bob = nodes.connect("bob", 1, &format!("chess?token=bob&{PAGE}"));
    let conn = nodes.clients[bob].conn;
    nodes.nodes[1].engine.handle_hangup(nodes.now, conn);
    nodes.nodes[1].engine.end_turn(nodes.now, &mut MemorySockets::default()).expect("nothing is recorded");
    while let Some(ClusterOutput::Append(bytes)) = nodes.nodes[1].engine.poll_cluster() {
        nodes.log.push(Body::Operations(Incarnation(2), bytes));
    }
    ping(&mut nodes, 0, "bob").expect("it is asked");
    nodes.turn();
    assert_eq!(report(&mut nodes, 0), Some(vec![("s2".into(), None)]));
    nodes.connect("bob", 1, &format!("chess?token=bob&{PAGE}"));
    ping(&mut nodes, 0, "bob").expect("it is asked");
    nodes.turn();
    assert_eq!(report(&mut nodes, 0), None);
    nodes.kill(1);
    assert_eq!(report(&mut nodes, 0), Some(vec![("s2".into(), None)]), "the node has ended");
}

#[test]
fn without_the_log_only_users_of_the_node_that_is_asked_are_pinged() {
    let (mut nodes, ann, _) = ann_and_bob();
    nodes.nodes[0].engine.handle_cluster(nodes.now, ClusterInput::Reachable(false));
    assert_eq!(ping(&mut nodes, 0, "bob"), Err(OperatorRefusal::Unavailable));
    assert_eq!(ping(&mut nodes, 0, "eve"), Err(OperatorRefusal::NoSuchUser));
    ping(&mut nodes, 0, "ann").expect("it is here");
    nodes.turn();
    pong(&mut nodes, ann);
    assert_eq!(report(&mut nodes, 0), Some(vec![("s1".into(), Some(0))]));
    nodes.nodes[0].engine.handle_cluster(nodes.now, ClusterInput::Reachable(true));
    // A node that loses its place waits for nobody.
    ping(&mut nodes, 0, "bob").expect("it is asked");
    nodes.nodes[0].engine.handle_cluster(nodes.now, ClusterInput::Detached);
    assert_eq!(report(&mut nodes, 0), Some(vec![("s2".into(), None)]));
}

/// Pings bob when it is told to, and says what it hears of that.
#[derive(Default)]
struct Doctor {
    pinged: Vec<usize>,
    healthy: usize,
}

impl App for Doctor {
    const PROTOCOL: Protocol = Protocol::Json;
    const IS_STATELESS: bool = true;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, _: &Member, _: Message<'_>) {
        self.pinged.push(cx.ping_user("bob", TIMEOUT));
    }

    fn on_health(&mut self, _: &mut Context<'_>, _: &Member, latency: Option<Duration>) {
        self.healthy += usize::from(latency.is_some());
    }

    fn on_command(&mut self, cx: &mut Context<'_>, _: &[u8]) {
        self.pinged.push(cx.ping_user("bob", TIMEOUT));
    }
}

#[test]
fn an_application_pings_a_user_on_whichever_node() {
    let mut nodes = Nodes::<Doctor>::new(2, &config());
    let ann = nodes.connect("ann", 0, "chess?token=ann");
    let bob = nodes.connect("bob", 1, "chess?token=bob");
    nodes.got(bob);
    // All nodes do this, and the one with the connection asks.
    nodes.say(ann, r#"{"type":"hello"}"#);
    pong(&mut nodes, bob);
    // One node does this alone.
    nodes.nodes[0].engine.handle_command(nodes.now, b"");
    nodes.turn();
    pong(&mut nodes, bob);
    let apps = nodes.nodes.iter().map(|node| (node.engine.app().pinged.clone(), node.engine.app().healthy));
    assert_eq!(apps.collect::<Vec<_>>(), [(vec![1, 1], 0), (vec![1], 2)]);
    expect(&mut nodes, bob, &[]);
}

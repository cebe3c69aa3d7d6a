//! A node that drains moves its members to the others.

use super::World;
use crate::cluster::log::ClusterInput;
use crate::config::Config;

#[test]
fn a_node_that_drains_moves_its_members_and_loses_nothing() {
    let mut world = World::new(Config::default());
    let ann = world.connect(0, "/ws/chess?token=ann&session=page-of-ann-0001");
    let bob = world.connect(1, "/ws/chess?token=bob&session=page-of-bob-0001");
    world.advance(2000);
    let (welcome, seq) = {
        let heard = world.heard(ann);
        let seq = heard.iter().filter_map(|message| message["seq"].as_u64()).max().expect("a seq");
        (heard[0].clone(), seq)
    };
    world.heard(bob);
    world.say(bob, r#"{"type":"broadcast","data":"before"}"#);
    let now = world.now;
    world.nodes[0].engine.handle_drain(now);
    assert!(!world.nodes[0].engine.is_drained());
    world.settle();
    let heard = world.heard(ann);
    let goodbye = heard.iter().find(|message| message["type"] == "goodbye").expect("it drains");
    assert!(goodbye["retry_after_ms"].as_u64().is_some_and(|wait| wait <= 300), "{goodbye}");
    world.say(bob, r#"{"type":"broadcast","data":"meanwhile"}"#);
    world.advance(300);
    let read = heard.iter().filter_map(|message| message["seq"].as_u64()).max().unwrap_or(seq);
    let epoch = welcome["epoch"].as_u64().expect("an epoch");
    let target = format!("/ws/chess?token=ann&session=page-of-ann-0001&epoch={epoch}&seq={read}&n=0");
    let back = world.connect(1, &target);
    let heard = world.heard(back);
    assert_eq!((&heard[0]["resumed"], &heard[0]["recovered"]), (&true.into(), &true.into()), "{heard:?}");
    assert!(heard.iter().any(|message| message["data"] == "meanwhile"), "{heard:?}");
    world.advance(5000);
    assert_eq!(world.types(bob), Vec::<String>::new(), "nobody was told anything");
    world.say(back, r#"{"type":"broadcast","data":"after"}"#);
    assert_eq!(world.types(bob), ["message"]);
    world.check_agreement();
    // The client has closed its connection.
    let now = world.now;
    world.nodes[0].engine.handle_hangup(now, ann.conn);
    world.settle();
    assert!(world.nodes[0].engine.is_drained());
    world.check_replays();
}

#[test]
fn a_drain_is_over_when_the_log_has_the_ends_of_all_connections() {
    let mut world = World::new(Config::default());
    let ann = world.connect(0, "/ws/chess?token=ann&session=page-of-ann-0001");
    let now = world.now;
    world.nodes[0].is_linked = false;
    world.nodes[0].engine.handle_drain(now);
    world.nodes[0].engine.handle_hangup(now, ann.conn);
    world.settle();
    let node = &mut world.nodes[0];
    assert_eq!(node.engine.drain_totals().map(|totals| totals.closed), Some(1));
    assert!(!node.engine.is_drained(), "the others have not heard of it");
    assert!(node.engine.poll_timeout().is_some(), "it does not wait for ever");
    node.is_linked = true;
    world.settle();
    world.check_agreement();
    assert!(world.nodes[0].engine.is_drained());
    assert_eq!(world.nodes[1].engine.lobby("chess").map(|lobby| lobby.away), Some(1));
}

#[test]
fn a_drain_without_the_log_ends_with_the_place_its_deadline_or_a_second_request() {
    for cause in 0..3 {
        let mut world = World::new(Config::default());
        let ann = world.connect(0, "/ws/chess?token=ann");
        let now = world.now;
        let node = &mut world.nodes[0];
        node.engine.handle_drain(now);
        node.engine.handle_hangup(now, ann.conn);
        node.engine.end_turn(now, &mut node.sockets).expect("memory takes everything");
        assert!(node.engine.poll_cluster().is_some(), "the end of the connection");
        assert!(!node.engine.is_drained());
        match cause {
            0 => node.engine.handle_cluster(now, ClusterInput::Detached),
            1 => node.engine.handle_stop(now),
            _ => {
                let deadline = now + Config::default().drain_deadline;
                assert!(node.engine.poll_timeout().is_some_and(|at| at <= deadline));
                node.engine.end_turn(deadline, &mut node.sockets).expect("memory takes everything");
            }
        }
        assert!(node.engine.is_drained(), "cause {cause}");
    }
}

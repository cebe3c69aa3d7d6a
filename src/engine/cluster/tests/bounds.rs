//! What a node keeps does not grow with what its clients have done.

use super::World;
use crate::config::Config;

#[test]
fn nothing_is_kept_of_connections_that_were_replaced() {
    let mut world = World::new(Config::default());
    for number in 0..20 {
        let ann = world.connect(number % 2, "/ws/chess?token=ann&session=page-of-ann-0001");
        world.say(ann, r#"{"type":"broadcast","data":1}"#);
        world.say(ann, r#"{"type":"broadcast","data":1}"#);
    }
    for node in &world.nodes {
        let cluster = node.engine.core.cluster.as_ref().expect("it is a node");
        assert!(cluster.in_flight.len() <= 1, "{:?}", cluster.in_flight);
    }
    world.check_agreement();
}

//! Which node reports which event.

use super::*;
use crate::engine::state::feed::FeedEvent;

/// The events of each node since the last call: their words, and the users.
fn events(world: &mut World) -> Vec<Vec<String>> {
    let shown = |event: &FeedEvent| match &event.member {
        Some(member) => format!("{} {}", event.kind.word(), member.user),
        None => event.kind.word().to_owned(),
    };
    world.nodes.iter_mut().map(|node| node.engine.take_feed().iter().map(shown).collect()).collect()
}

fn world() -> World {
    let mut world = World::new(Config::default());
    world.attach(Config::default());
    world.nodes.iter_mut().for_each(|node| node.engine.start_feed());
    world
}

#[test]
fn each_event_is_reported_by_the_node_of_the_connection() {
    let mut world = world();
    let ann = world.connect(1, "/ws/chess?token=ann");
    world.connect(2, "/ws/chess?token=bob&session=0123456789abcdef");
    assert_eq!(events(&mut world), [vec!["lobby_opened"], vec!["joined ann"], vec!["joined bob"]]);
    world.say(ann, r#"{"type":"leave"}"#);
    assert_eq!(events(&mut world), [vec![], vec!["left ann"], vec![]]);
    // A newer connection of the session, on another node.
    let bob = world.connect(0, "/ws/chess?token=bob&session=0123456789abcdef");
    assert_eq!(events(&mut world), [vec!["back bob"], vec![], vec![]]);
    world.hang_up(bob);
    assert_eq!(events(&mut world), [vec!["away bob"], vec![], vec![]]);
    world.advance(31_000);
    world.advance(1);
    assert_eq!(events(&mut world), [vec!["left bob", "lobby_closed"], vec![], vec![]]);
}

#[test]
fn the_members_of_a_node_that_has_ended_are_reported_by_the_oldest_node() {
    let mut world = world();
    world.connect(0, "/ws/chess?token=ann");
    world.connect(2, "/ws/chess?token=bob");
    world.connect(2, "/ws/chess?token=cid&session=0123456789abcdef");
    events(&mut world);
    world.end(2);
    assert_eq!(events(&mut world)[..2], [vec!["left bob".to_owned(), "away cid".into()], vec![]]);
    world.end(0);
    assert_eq!(events(&mut world)[1], ["left ann"], "it is the oldest now");
}

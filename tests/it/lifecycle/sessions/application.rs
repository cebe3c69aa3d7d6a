//! What the application and operators see, and what ends seats that are away.

use std::time::Duration;

use lobbyd::operator::{KickTarget, OperatorCommand, Payload};
use lobbyd::{Authorization, Config};

use crate::common::scenario::World;
use crate::common::witness::Witness;

const GRACE: Duration = Duration::from_secs(30);

#[test]
fn a_kicked_member_cannot_come_back_during_the_grace() {
    for is_away in [false, true] {
        let mut world = World::new(Config::default(), lobbyd::apps::Relay::default());
        world.steps(
            "
            bob joins chess
            ann > connect chess session=page-of-ann-0001
            ann < upgrade, welcome, presence_state
            bob < presence_diff +ann
            ",
        );
        if is_away {
            world.steps("ann > hangup");
        }
        let kick = OperatorCommand::Kick { target: KickTarget::User("ann".into()), reconnect: false };
        world.engine.handle_operator(world.now, kick).expect("ann is there");
        world.steps(
            "
            advance 0ms
            bob < presence_diff -ann:kicked
            ",
        );
        world.take("ann");
        world.steps(
            "
            ann:2 > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
            ann:2 < upgrade, goodbye code=4003, close 4003 kicked
            ann:3 > connect chess
            ann:3 < upgrade, goodbye code=4003, close 4003 kicked
            ann:4 > connect go
            ann:4 < upgrade, welcome, presence_state
            ",
        );
        world.advance(GRACE);
        world.steps(
            "
            ann:5 > connect chess session=page-of-ann-0001
            ann:5 < upgrade, welcome resumed=false, presence_state
            ",
        );
    }
}

#[test]
fn the_application_is_told_of_away_and_back_and_every_join_has_one_leave() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.steps(
        "
        ann > connect chess session=page-of-ann-0001
        ann > hangup
        ann > connect chess session=page-of-ann-0001
        ann:2 > connect chess session=page-of-ann-0001
        ann:2 > hangup
        advance 30s
        ",
    );
    assert_eq!(
        world.engine.app().log,
        ["join ann", "away ann dropped", "back ann", "back ann", "away ann dropped", "leave ann dropped"]
    );
}

#[test]
fn operators_see_away_members_and_write_to_them() {
    let mut world = World::new(Config::default(), lobbyd::apps::Relay::default());
    world.steps(
        "
        bob joins chess
        ann > connect chess session=page-of-ann-0001
        ann < upgrade, welcome, presence_state
        bob < presence_diff +ann
        ann > hangup
        ",
    );
    let lobby = world.engine.lobby("chess").expect("it exists");
    assert_eq!((lobby.members, lobby.away), (2, 1));
    let members = world.engine.lobby_members("chess", None, 10).items;
    assert_eq!(
        members.iter().map(|member| (member.user.as_str(), member.away)).collect::<Vec<_>>(),
        [("bob", false), ("ann", true)]
    );
    let stats = world.engine.stats();
    assert_eq!((stats.total_connections, stats.away, stats.capacity_percent), (1, 1, 0.4));
    let send = OperatorCommand::Send { user: "ann".into(), payload: Payload::Json("7".into()) };
    world.engine.handle_operator(world.now, send).expect("ann has a seat");
    world.steps(
        "
        ann > connect chess session=page-of-ann-0001 epoch=1000000000000 seq=1 n=0
        ann < upgrade, welcome recovered=true replay=1, direct from=null n=1 data=7, presence_state
        ",
    );
}

#[test]
fn a_seat_is_kept_while_a_claim_is_being_authorized() {
    for auth in ["later", "unnamed"] {
        let config = Config { auth_timeout: Duration::from_secs(60), ..Config::default() };
        let mut world = World::new(config, Witness::<true>::default());
        world.steps(&format!(
            "
            bob > connect chess session=page-of-bob-0001
            ann > connect chess session=page-of-ann-0001
            ann < upgrade, welcome, presence_state
            ann > hangup
            advance 29s
            ann > connect chess session=page-of-ann-0001 auth={auth}
            advance 10s
            "
        ));
        world.authorize("ann", Authorization::allow("ann"));
        world.steps("ann < upgrade, welcome resumed=true conn=s2");
    }
}

#[test]
fn a_drain_does_not_wait_for_away_seats() {
    let mut world = World::new(Config::default(), Witness::<true>::default());
    world.steps(
        "
        ann > connect chess session=page-of-ann-0001
        bob > connect chess session=page-of-bob-0001
        ann > hangup
        drain
        bob > close 1001
        advance 1s
        ",
    );
    assert!(world.engine.is_drained());
    let left: Vec<&String> = world.engine.app().log.iter().filter(|event| event.starts_with("leave")).collect();
    assert_eq!(left, ["leave ann dropped", "leave bob shutdown"]);
}

//! Every bound of the configuration, hit with tiny values, and where it leads.

use lobbyd::{Authorization, Config, Limit};

use crate::scenario::World;
use crate::witness::Witness;

/// Whoever is being authorized for a new lobby holds it beside the one it would leave empty.
#[test]
fn a_lobby_that_is_waited_for_counts_against_max_lobbies() {
    let config = Config { max_lobbies: Limit::at_most(1), ..Config::default() };
    let mut world = World::new(config, Witness::<true>::default());
    world.run(
        r#"
        ann > connect chess
        ann < upgrade, welcome, presence_state
        ann:2 > get /ws/go?token=ann&auth=later
        ann:2 < upgrade, goodbye code=4002, close 4002 lobby_limit
        # Once nothing has to be waited for, the one lobby takes the other's place.
        ann:3 > get /ws/go?token=ann&auth=unnamed
        "#,
    );
    let conn = world.conn("ann:3");
    world.engine.handle_authorized(world.now, conn, Authorization::allow("ann"));
    world.settle();
    world.run(
        r#"
        ann < goodbye code=4004, close 4004 replaced
        ann:3 < upgrade, welcome lobby=go, presence_state users=ann
        "#,
    );
}

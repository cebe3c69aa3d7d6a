//! Operators and strangers act on the admin port.

use crate::engine::app::App;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::transcript::EventKind;
use crate::sim::world::World;

/// Lets some clients of the admin port connect, ask, hang up or stop reading, or changes the token.
pub(crate) fn act<A: App>(world: &mut World<A>) -> Result<(), String> {
    world.server.turn_open = true;
    let number = world.admin_port.act(world.server.now)?;
    world.note_server(EventKind::Did(Behaviour::AdminPort), number, &[]);
    Ok(())
}

//! Clients with a session change their lobby: data, host, settings, bans and the start.

use crate::engine::app::App;
use crate::sim::client::link::Link;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::transcript::EventKind;
use crate::sim::world::World;

/// Sends a request of lobby control from a drawn client, mostly from a host. Returns whether it was possible.
pub(crate) fn change<A: App>(world: &mut World<A>, behaviour: Behaviour) -> bool {
    let World { clients, random, swarm, server, .. } = &mut *world;
    let random = &mut random.lobby;
    let is_host = |link: &Link| link.may_change_lobby() && link.view.is_host();
    let host = if random.percent(60) { clients.pick(random, is_host) } else { None };
    let Some(index) = host.or_else(|| clients.pick(random, Link::may_change_lobby)) else { return false };
    let max = server.config().max_message_bytes.0;
    let is_malformed = swarm.weight(Behaviour::Malformed) > 0 && random.percent(3);
    let what = if is_malformed { Behaviour::Malformed } else { behaviour };
    let (link, shared) = clients.link_and_shared(index);
    let was_sent = link.send_control(what, shared, max, random);
    if was_sent {
        if is_malformed {
            server.models.behaviours.add(Behaviour::Malformed);
        }
        world.note(index, EventKind::Did(behaviour), 0, &[]);
    }
    was_sent
}

//! A client connects, with a valid, an invalid or an incomplete upgrade request.

use crate::engine::app::{App, Protocol};
use crate::sim::client::address::draw_peer;
use crate::sim::client::link::{Accepted, Link, Traits};
use crate::sim::client::pipe::Side;
use crate::sim::client::request;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::transcript::EventKind;
use crate::sim::world::World;

/// Capacity in bytes of the path to a client that reads at once.
const WIDE: usize = 16 * 1024;

/// Connects a client. `special` is [`Behaviour::BadRequest`], [`Behaviour::HalfRequest`] or none. Returns whether it was
/// possible.
pub(crate) fn connect<A: App>(world: &mut World<A>, special: Option<Behaviour>) -> bool {
    let Some(index) = world.clients.free_index() else { return false };
    let random = &mut world.random.clients;
    let user = random.below(world.clients.shared.users.len() as u64) as usize;
    let lobby = random.below(world.clients.shared.lobbies.len() as u64) as usize;
    if world.clients.iter().any(|link| link.user == user && link.pipe.client == Side::Open) {
        if world.swarm.weight(Behaviour::LogInTwice) == 0 {
            return false;
        }
        world.count(Behaviour::LogInTwice);
    }
    let traits = draw_traits(world);
    world.server.turn_open = true;
    let has_several = world.swarm.weight(Behaviour::Addresses) > 0;
    let port = 1024 + index as u16;
    let (peer, network) =
        if has_several { draw_peer(&mut world.random.clients, port) } else { (([127, 0, 0, 1], port).into(), 0) };
    let Ok(conn) = world.server.call(|engine, now| engine.handle_accept(now, peer)) else {
        world.server.models.counters.shed += 1;
        world.note_server(EventKind::TurnedAway, 0, &[]);
        return true;
    };
    let config = world.server.config();
    let most = world.clients.links.len() as u32;
    let accepted = Accepted {
        number: world.clients.shared.link_users.len() as u32,
        conn,
        at: world.server.now,
        user,
        lobby,
        network,
        capacity: if traits.is_slow || traits.is_stalled { world.swarm.narrow } else { WIDE },
        is_json: A::PROTOCOL == Protocol::Json,
        has_ticks: config.tick_hz.is_some(),
        is_owed_answers: config.max_closing >= most && config.max_pending >= most,
    };
    world.clients.shared.link_users.push(user);
    world.server.models.counters.opened += 1;
    world.server.models.addresses.accepted(network);
    if has_several {
        world.count(Behaviour::Addresses);
    }
    let mut link = Link::new(accepted, traits);
    send_request(world, &mut link, special);
    world.clients.insert(index, conn, link);
    let shared = &world.clients.shared;
    let words = format!("conn={conn} user={} lobby={}", shared.users[user], shared.lobbies[lobby]);
    world.note(index, EventKind::Connects, 0, words.as_bytes());
    true
}

fn draw_traits<A: App>(world: &mut World<A>) -> Traits {
    let World { server, swarm, random, .. } = world;
    let mut has = |behaviour| {
        let has = swarm.occurs(behaviour, &mut random.clients);
        // A client shows its patience only when it is refused.
        if has && behaviour != Behaviour::Patient {
            server.models.behaviours.add(behaviour);
        }
        has
    };
    Traits {
        is_eager: has(Behaviour::Eager),
        is_mute: has(Behaviour::Mute),
        is_rude: has(Behaviour::Rude),
        pongs_wrongly: has(Behaviour::WrongPong),
        is_slow: has(Behaviour::SlowReader),
        is_stalled: has(Behaviour::Stall),
        fragments: has(Behaviour::Fragment),
        is_patient: has(Behaviour::Patient),
    }
}

/// Sends the upgrade request. With a valid one, the client also gets its player.
fn send_request<A: App>(world: &mut World<A>, link: &mut Link, special: Option<Behaviour>) {
    let World { clients, random, .. } = world;
    let random = &mut random.clients;
    let (user, lobby) = (&clients.shared.users[link.user], &clients.shared.lobbies[link.lobby]);
    let mut request = request::request(user, lobby, link.is_json, random);
    match special {
        Some(Behaviour::BadRequest) => {
            (request, link.may_be_accepted) = request::bad_request(random);
            link.is_unpredictable = true;
        }
        Some(_) => {
            request.truncate(random.below(request.len() as u64) as usize);
            link.is_unpredictable = true;
            link.is_unfinished = true;
        }
        None => link.player = clients.players.as_mut().map(|players| players(random, user)),
    }
    link.pipe.send(&request);
}

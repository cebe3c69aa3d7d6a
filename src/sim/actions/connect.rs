//! A client connects, with a valid, an invalid or an incomplete upgrade request, or a health check.

use std::net::IpAddr;

use crate::base::id::ConnId;
use crate::base::peer::Peer;
use crate::engine::app::{App, Protocol};
use crate::sim::actions::claim;
use crate::sim::client::address::{PROXY, draw_peer, forwarded_line};
use crate::sim::client::link::{Accepted, Link, Traits};
use crate::sim::client::pipe::Side;
use crate::sim::client::posting::Posting;
use crate::sim::client::request;
use crate::sim::client::sessions::PositionForm;
use crate::sim::models::addresses::PROXY_NETWORK;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::transcript::EventKind;
use crate::sim::world::World;

/// Capacity in bytes of the path to a client that reads at once.
const WIDE: usize = 16 * 1024;

/// Connects a load balancer that asks for `/health`. In half of the cases its request arrives at once, and must be answered
/// even if all sockets without a seat are taken. Returns whether it was possible.
pub(crate) fn probe<A: App>(world: &mut World<A>) -> Result<bool, String> {
    let accepted = world.clients.shared.link_users.len();
    if !connect(world, Some(Behaviour::Probe)) {
        return Ok(false);
    }
    if world.clients.shared.link_users.len() == accepted {
        let may_refuse = world.server.config().max_overflow == 0;
        return if may_refuse {
            Ok(true)
        } else {
            Err("a socket was turned away, although one beyond max_pending may be displaced".into())
        };
    }
    if world.server.config().max_overflow > 0 && world.random.network.percent(50) {
        let number = accepted as u32;
        let index = world
            .clients
            .indices()
            .into_iter()
            .find(|&index| world.clients.get(index).is_some_and(|link| link.number == number));
        let index = index.expect("the link was just inserted");
        let is_draining = world.server.is_draining();
        let link = world.clients.link(index);
        let asks_ready = link.probe.is_some_and(|probe| probe.asks_ready);
        link.expected_status = Some(if asks_ready && is_draining { 503 } else { 200 });
        world.deliver(index, usize::MAX);
    }
    Ok(true)
}

/// Who connects, and with which claim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// Index of the user.
    pub(crate) user: usize,
    /// Index of the lobby.
    pub(crate) lobby: usize,
    /// [`Behaviour::BadRequest`], [`Behaviour::HalfRequest`], [`Behaviour::Probe`], [`Behaviour::BadClaim`] or none.
    pub(crate) special: Option<Behaviour>,
    /// The session that it comes back to, with what it says of its position.
    pub(crate) resumed: Option<(usize, PositionForm)>,
}

/// Connects a client. `special` is [`Behaviour::BadRequest`], [`Behaviour::HalfRequest`], [`Behaviour::Probe`],
/// [`Behaviour::BadClaim`] or none. Returns whether it was possible.
pub(crate) fn connect<A: App>(world: &mut World<A>, special: Option<Behaviour>) -> bool {
    let Some(index) = world.clients.free_index() else { return false };
    let random = &mut world.random.clients;
    let user = random.below(world.clients.shared.users.len() as u64) as usize;
    let lobby = random.below(world.clients.shared.lobbies.len() as u64) as usize;
    if world.clients.iter().any(|link| link.user == user && !link.is_post() && link.pipe.client == Side::Open) {
        if world.swarm.weight(Behaviour::LogInTwice) == 0 {
            return false;
        }
        world.count(Behaviour::LogInTwice);
    }
    open(world, index, Client { user, lobby, special, resumed: None });
    true
}

/// Connects `client` on the link at `index`, which is free.
pub(crate) fn open<A: App>(world: &mut World<A>, index: usize, client: Client) {
    let Client { user, lobby, special, .. } = client;
    let traits = draw_traits(world);
    let has_events = special.is_none() && world.swarm.occurs(Behaviour::Events, &mut world.random.clients);
    world.server.turn_open = true;
    let is_valid = matches!(special, None | Some(Behaviour::BadClaim));
    let Some(Dialed { conn, network, named }) = dial(world, index, is_valid) else { return };
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
        has_events,
        may_post: world.swarm.weight(Behaviour::Post) > 0,
        has_ticks: config.tick_hz.is_some(),
        is_owed_answers: config.max_closing >= most && config.max_pending >= most,
    };
    if has_events {
        world.count(Behaviour::Events);
    }
    world.clients.shared.link_users.push(user);
    let mut link = Link::new(accepted, traits);
    let claim = claim::enter(world, &mut link, special, client.resumed);
    send_request(world, &mut link, special, named, claim.as_deref());
    world.clients.insert(index, conn, link);
    let shared = &world.clients.shared;
    let words = format!("conn={conn} user={} lobby={}", shared.users[user], shared.lobbies[lobby]);
    world.note(index, EventKind::Connects, 0, words.as_bytes());
}

/// A socket that the server has accepted.
struct Dialed {
    conn: ConnId,
    /// Network that the client's address counts for.
    network: usize,
    /// The address that a proxy names.
    named: Option<IpAddr>,
}

/// Opens a socket for the link at `index`, on which a request that `is_valid` follows or another one. `None` if the server
/// turns it away.
fn dial<A: App>(world: &mut World<A>, index: usize, is_valid: bool) -> Option<Dialed> {
    let has_several = world.swarm.weight(Behaviour::Addresses) > 0;
    let port = 1024 + index as u16;
    let (peer, network) =
        if has_several { draw_peer(&mut world.random.clients, port) } else { (([127, 0, 0, 1], port).into(), 0) };
    // Behind a proxy, only a valid request names the client. One of a socket file has no address to be named.
    let is_proxied = world.server.config().trusted_proxies > 0;
    let named = match peer {
        Peer::Ip(address) if is_proxied && is_valid => Some(address.ip()),
        _ => None,
    };
    let (peer, network) = match named {
        _ if !is_proxied => (peer, network),
        Some(_) => ((PROXY, port).into(), network),
        None => ((PROXY, port).into(), PROXY_NETWORK),
    };
    let Ok(conn) = world.server.call(|engine, now| engine.handle_accept(now, peer)) else {
        world.server.models.counters.shed += 1;
        world.note_server(EventKind::TurnedAway, 0, &[]);
        return None;
    };
    world.server.models.counters.opened += 1;
    world.server.models.addresses.accepted(network);
    if has_several {
        world.count(Behaviour::Addresses);
    }
    Some(Dialed { conn, network, named })
}

/// Opens a connection on which the client of the event stream at `stream` can post. Returns its index.
pub(super) fn open_post<A: App>(world: &mut World<A>, stream: usize) -> Option<usize> {
    let index = world.clients.free_post_index()?;
    world.server.turn_open = true;
    // The proxy names no client in a POST.
    let Dialed { conn, network, .. } = dial(world, index, false)?;
    let at = world.server.now;
    let (of_stream, shared) = world.clients.link_and_shared(stream);
    let (number, user, lobby) = (of_stream.number, of_stream.user, of_stream.lobby);
    let accepted = Accepted {
        number: shared.link_users.len() as u32,
        conn,
        at,
        user,
        lobby,
        network,
        capacity: WIDE,
        is_json: true,
        has_events: false,
        may_post: false,
        has_ticks: false,
        is_owed_answers: false,
    };
    shared.link_users.push(user);
    let mut link = Link::new(accepted, Traits::default());
    link.posting = Some(Posting::new(number));
    link.may_be_accepted = false;
    world.clients.insert(index, conn, link);
    world.note(index, EventKind::Connects, 0, format!("conn={conn} posts for #{number}").as_bytes());
    Some(index)
}

fn draw_traits<A: App>(world: &mut World<A>) -> Traits {
    let World { server, swarm, random, .. } = world;
    let has_deflate = server.config().deflate;
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
        // Drawn last, and only if it can have an effect, so that seeds give the same runs where it has none.
        compresses: has_deflate && has(Behaviour::Compress),
    }
}

/// Sends the upgrade request, in which a proxy may have `named` the client's address, and which may `claim` a session. With
/// a valid one, the client also gets its player.
fn send_request<A: App>(
    world: &mut World<A>,
    link: &mut Link,
    special: Option<Behaviour>,
    named: Option<IpAddr>,
    claim: Option<&str>,
) {
    let World { clients, random, swarm, server, .. } = world;
    let random = &mut random.clients;
    let proxied = named.map(|address| forwarded_line(server.config().forwarded_header, address, random));
    let (user, lobby) = (&clients.shared.users[link.user], &clients.shared.lobbies[link.lobby]);
    let mut request = match link.has_events() {
        true => request::events_request(user, lobby, proxied, claim, random),
        false => {
            let offer = link.traits.compresses.then(|| request::draw_offer(random));
            let lines = proxied.into_iter().chain(offer).collect();
            request::request(user, lobby, link.is_json, lines, claim, random)
        }
    };
    match special {
        // A server that serves no files refuses the request.
        Some(Behaviour::BadRequest) if random.below(12) == 0 => {
            request = request::file_request(random);
            link.asks_for_file = true;
            link.may_be_accepted = false;
            link.is_unpredictable = true;
        }
        Some(Behaviour::BadRequest) => {
            (request, link.may_be_accepted) = request::bad_request(random);
            link.is_unpredictable = true;
        }
        Some(Behaviour::Probe) => {
            let probe;
            (request, probe) = request::probe(random);
            link.probe = Some(probe);
            link.may_be_accepted = false;
            link.is_unpredictable = true;
        }
        // The refusal follows the upgrade, so that a page can read it.
        Some(Behaviour::BadClaim) => link.is_unpredictable = true,
        Some(_) => {
            request.truncate(random.below(request.len() as u64) as usize);
            link.is_unpredictable = true;
            link.is_unfinished = true;
        }
        None => {
            link.player = clients.players.as_mut().map(|players| players(random, user));
            if swarm.occurs(Behaviour::OddRequest, random) {
                request = request::oddly_written(&request, random);
                server.models.behaviours.add(Behaviour::OddRequest);
            }
        }
    }
    link.pipe.send(&request);
}

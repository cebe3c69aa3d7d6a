//! The application acts: kicks, notices, health checks, latest-wins frames, and late authorizations.
//!
//! All of them use the engine's public commands, as an application does.

use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::engine::app::{App, Authorization};
use crate::sim::actions::client::send_one;
use crate::sim::app::command::{AppCommand, Latest};
use crate::sim::client::link::Link;
use crate::sim::models::latest::KEYS;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::transcript::EventKind;
use crate::sim::world::World;

/// Behaviours that may follow another one in the same turn. Notices and kicks are listed more than once, because their
/// combination is the most likely to fail.
const FOLLOWING: &[Behaviour] = &[
    Behaviour::Kick,
    Behaviour::Kick,
    Behaviour::Notice,
    Behaviour::Notice,
    Behaviour::Notice,
    Behaviour::Notice,
    Behaviour::HealthCheck,
    Behaviour::CloseLobby,
];
/// Outboxes with more room than this many bytes are not filled.
const FILLED: usize = 20_000;

/// Performs one behaviour, possibly followed by others for the same client or for clients in its lobby. Then delivers
/// input of some clients of the lobby, all in the same turn.
pub(crate) fn run_commands<A: App>(world: &mut World<A>, behaviour: Behaviour) {
    let World { clients, random, .. } = &mut *world;
    let (count, random) = (clients.links.len() as u64, &mut random.control);
    let start = random.below(count) as usize;
    let prefers_sender = random.percent(50);
    let find = |fits: &dyn Fn(&Link) -> bool| {
        clients.indices_from(start).find(|&index| clients.get(index).is_some_and(|it| it.conn.is_some() && fits(it)))
    };
    let sender = find(&|link| link.pipe.unread_by_server() > 0);
    let target = sender.filter(|_| prefers_sender).or(find(&|_| true));
    let lobby = target.and_then(|index| clients.get(index)).map(|link| link.lobby);
    run_command(world, behaviour, target);
    while world.random.control.percent(70) {
        let random = &mut world.random.control;
        let next = FOLLOWING[random.below(FOLLOWING.len() as u64) as usize];
        let neighbour = random.below(count) as usize;
        let is_near = world.clients.get(neighbour).is_some_and(|link| Some(link.lobby) == lobby);
        let target = if is_near && random.percent(50) { Some(neighbour) } else { target };
        if world.swarm.weight(next) > 0 {
            world.count(next);
            run_command(world, next, target);
        }
    }
    for index in world.clients.indices() {
        let has_input = |link: &Link| {
            link.conn.is_some()
                && Some(link.lobby) == lobby
                && (link.pipe.unread_by_server() > 0 || link.pipe.is_at_end())
        };
        if world.clients.get(index).is_some_and(has_input) && world.random.control.percent(40) {
            world.deliver(index, usize::MAX);
        }
    }
}

/// Draws a command for `behaviour` and gives it to the application. It usually concerns the link at `target`.
fn run_command<A: App>(world: &mut World<A>, behaviour: Behaviour, target: Option<usize>) {
    let World { server, clients, swarm, random, .. } = &mut *world;
    server.turn_open = true;
    let random = &mut random.control;
    let shared = &clients.shared;
    let target = target.and_then(|index| clients.get(index)).filter(|_| random.percent(70));
    let any_user = random.below(shared.users.len() as u64) as usize;
    let any_lobby = random.below(shared.lobbies.len() as u64) as usize;
    let user = shared.users[target.map_or(any_user, |link| link.user)].clone();
    let lobby = shared.lobbies[target.map_or(any_lobby, |link| link.lobby)].clone();
    let conn = target.and_then(|link| link.conn);
    let how = random.below(4);
    // Sometimes an outbox is filled almost completely, so that the next frame exceeds its bound.
    let padding = match conn.map(|conn| server.engine().room(conn)) {
        Some(room) if room < FILLED && random.percent(60) => room.saturating_sub(random.below(200) as usize),
        _ => random.below(swarm.padding as u64 + 1) as usize,
    };
    let timeout = server.config().health_timeout * (1 + how as u32);
    world.note_server(EventKind::Did(behaviour), how, user.as_bytes());
    let (user, lobby) = (&*user, &*lobby);
    world.server.models.sessions.is_kicking = behaviour == Behaviour::Kick;
    let sent = world.server.command(match (behaviour, how, conn) {
        (Behaviour::Kick, 0, Some(conn)) => AppCommand::Ban(conn),
        (Behaviour::Kick, _, _) => AppCommand::Kick { user },
        (Behaviour::CloseLobby, _, _) => AppCommand::CloseLobby { lobby },
        (Behaviour::HealthCheck, _, _) => AppCommand::Ping { user, timeout },
        (_, 0, Some(conn)) => AppCommand::Fill { conn, padding },
        (_, 1, _) => AppCommand::FillUser { user, padding },
        (_, 2, _) => AppCommand::FillOthers { lobby, user, padding },
        (_, _, _) => AppCommand::FillLobby { lobby, padding },
    });
    world.server.models.sessions.is_kicking = false;
    world.transcript.mix(sent.queued as u64);
}

/// Draws a lobby and fills the outboxes of its members, so that the next frames exceed the bound of some. Then kicks a
/// user and lets the members send. Returns whether the lobby had at least two members that may send.
pub(crate) fn squeeze<A: App>(world: &mut World<A>) -> bool {
    let World { clients, random, .. } = &mut *world;
    let lobby = random.control.below(clients.shared.lobbies.len() as u64) as usize;
    let ready: Vec<(usize, ConnId)> = clients
        .indices()
        .filter_map(|index| {
            let link = clients.get(index).filter(|link| link.lobby == lobby && link.may_send())?;
            Some((index, link.conn?))
        })
        .collect();
    if ready.len() < 2 {
        return false;
    }
    world.server.turn_open = true;
    let most = [100, 200, 600][world.random.control.below(3) as usize];
    for &(index, conn) in &ready {
        let room = world.server.engine().room(conn);
        if room < FILLED && world.random.control.percent(70) {
            let left = world.random.control.below(most) as usize;
            world.note(index, EventKind::Filled, left as u64, &[]);
            world.server.command(AppCommand::Fill { conn, padding: room.saturating_sub(left) });
        }
    }
    let (kicked, _) = ready[world.random.control.below(ready.len() as u64) as usize];
    run_command(world, Behaviour::Kick, Some(kicked));
    if world.random.control.percent(30) {
        let (first, _) = ready[0];
        let user = world.clients.get(first).map_or(0, |link| link.user);
        let sent = world.server.command(AppCommand::FillUser { user: &world.clients.shared.users[user], padding: 0 });
        world.transcript.mix(sent.queued as u64);
    }
    for (index, _) in ready {
        if world.random.control.percent(60) && world.clients.get(index).is_some_and(Link::may_send) {
            send_some(world, index);
        }
    }
    true
}

/// Sends one or a few messages from the client at `index`, and delivers them.
fn send_some<A: App>(world: &mut World<A>, index: usize) {
    const KINDS: [Behaviour; 4] = [Behaviour::Flood, Behaviour::Presence, Behaviour::Direct, Behaviour::AppMessage];
    for _ in 0..=world.random.control.below(2) {
        let kind = KINDS[world.random.control.below(4) as usize];
        send_one(world, index, kind);
    }
    if world.clients.get(index).is_some_and(|link| link.pipe.unread_by_server() > 0) {
        world.deliver(index, usize::MAX);
    }
}

/// Sends a latest-wins frame to a lobby or to one connection. `to` selects the link; otherwise it is drawn.
pub(crate) fn send_latest<A: App>(world: &mut World<A>, to: Option<usize>) {
    let World { server, clients, swarm, random, .. } = &mut *world;
    server.turn_open = true;
    let random = &mut random.control;
    let index = to.unwrap_or_else(|| random.below(clients.links.len() as u64) as usize);
    let key = random.below(KEYS as u64);
    let is_single = to.is_none() && random.percent(30);
    let padding = random.below(swarm.padding as u64 + 200) as usize;
    let Some(link) = clients.get(index) else { return };
    let Some(conn) = link.conn else { return };
    let value = server.models.latest.next_value();
    let latest = Latest { key, value, padding };
    let (reached, is_certain) = if is_single {
        let queued = server.command(AppCommand::Latest { conn, latest }).queued;
        (vec![conn], queued == 1)
    } else {
        let lobby = &clients.shared.lobbies[link.lobby];
        let sent = server.command(AppCommand::LatestInLobby { lobby, latest });
        (server.members_of(lobby), sent.dropped == 0)
    };
    for link in clients.iter().filter(|link| link.conn.is_some_and(|it| reached.contains(&it))) {
        server.models.latest.sent(link.number, key as usize, value, is_certain);
    }
    world.note_server(EventKind::Latest, key, &value.to_be_bytes());
}

/// Whether the client may turn out to be another user: it is not refused yet, and it has no session, which would know its
/// user.
fn may_be_another(link: &Link) -> bool {
    link.reason.is_none() && link.view.session.is_none()
}

/// Answers a pending authorization. Returns whether there was one.
pub(crate) fn authorize<A: App>(world: &mut World<A>) -> bool {
    let World { server, clients, swarm, random, .. } = &mut *world;
    let waiting = server.authorizer().waiting();
    if waiting == 0 {
        return false;
    }
    let random = &mut random.control;
    let (conn, answer) = server.authorizer().take_waiting(random.below(waiting as u64) as usize);
    let index = clients.index_of(conn);
    let how = if swarm.weight(Behaviour::LateAuth) > 0 { random.below(10) } else { 9 };
    let answer = match (how, index) {
        (0, _) => Authorization::Refuse(CloseReason::Banned),
        (1, _) => Authorization::Pending { user: None },
        (2, Some(index)) if clients.get(index).is_some_and(may_be_another) => {
            let (link, shared) = clients.link_and_shared(index);
            let user = random.below(shared.users.len() as u64) as usize;
            link.user = user;
            shared.link_users[link.number as usize] = user;
            let identity = server.authorizer().identity_of(&shared.users[user]);
            server.models.user_rates.authorized(&identity.user, identity.tier);
            server.models.tokens.authorized(conn, identity.clone());
            Authorization::Allow(identity)
        }
        // The answer is never given.
        (3, _) => return true,
        _ => answer,
    };
    server.turn_open = true;
    if let Some(index) = index {
        world.note(index, EventKind::Authorized, how, &[]);
    }
    world.count(Behaviour::LateAuth);
    world.server.call(|engine, now| engine.handle_authorized(now, conn, answer.clone()));
    if how == 4 {
        world.server.call(|engine, now| engine.handle_authorized(now, conn, answer));
    }
    true
}

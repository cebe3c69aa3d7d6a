//! A connected client sends messages, valid or not, or ends its side of the connection.

use crate::engine::app::App;
use crate::sim::client::link::Link;
use crate::sim::client::pipe::Side;
use crate::sim::client::sent::RequestKind;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::transcript::EventKind;
use crate::sim::world::World;

/// Sends an ordinary broadcast from a drawn client. Returns whether it was possible.
pub(crate) fn broadcast<A: App>(world: &mut World<A>) -> bool {
    let Some(index) = world.clients.pick(&mut world.random.schedule, Link::may_send) else { return false };
    // `Flood` stands for an ordinary broadcast here.
    send_one(world, index, Behaviour::Flood);
    world.note(index, EventKind::Broadcast, 0, &[]);
    true
}

/// Sends what `behaviour` stands for from a drawn client. Returns whether it was possible.
pub(crate) fn send<A: App>(world: &mut World<A>, behaviour: Behaviour) -> bool {
    // An event stream carries only text messages, and a POST only those that can be read.
    let fits = match behaviour {
        Behaviour::Control
        | Behaviour::Binary
        | Behaviour::TooBig
        | Behaviour::NearValid
        | Behaviour::Garbage
        | Behaviour::Close
        | Behaviour::GoAway => Link::may_send_frames,
        _ => Link::may_send,
    };
    let Some(index) = world.clients.pick(&mut world.random.schedule, fits) else { return false };
    let max = world.server.config().max_message_bytes.0;
    let World { clients, swarm, random, .. } = world;
    let random = &mut random.clients;
    let (link, shared) = clients.link_and_shared(index);
    match behaviour {
        Behaviour::Control => link.ping(random),
        Behaviour::TooBig => link.send_too_big(max, random),
        Behaviour::NearValid => link.send_near_valid(random),
        Behaviour::Garbage => link.send_garbage(random),
        Behaviour::Close => {
            let codes = [Some(1000), Some(1001), Some(1012), Some(1013), Some(1014), None, Some(4999)];
            let code = codes[random.below(7) as usize];
            link.close(code, random);
        }
        Behaviour::GoAway => {
            let code = random.percent(50).then_some(1001);
            link.close(code, random);
        }
        Behaviour::Flood => {
            let kinds = [Behaviour::Flood, Behaviour::Control, Behaviour::Ping, Behaviour::Presence];
            let kind = kinds[random.below(4) as usize];
            for _ in 0..random.below(60) {
                match kind {
                    Behaviour::Control if !link.has_events() => link.ping(random),
                    _ if !link.may_send() => break,
                    _ => link.send_kind(kind, swarm.padding, shared, max, random),
                }
            }
        }
        _ => link.send_kind(behaviour, swarm.padding, shared, max, random),
    }
    world.note(index, EventKind::Did(behaviour), 0, &[]);
    true
}

/// Sends one message of `kind` from the client at `index`. A presence request always carries a `ref`.
pub(crate) fn send_one<A: App>(world: &mut World<A>, index: usize, kind: Behaviour) {
    let max = world.server.config().max_message_bytes.0;
    let World { clients, swarm, random, .. } = world;
    let (link, shared) = clients.link_and_shared(index);
    match kind {
        Behaviour::Presence => drop(link.send_with_reference(RequestKind::Presence, &mut random.clients)),
        Behaviour::Control if link.has_events() => {}
        Behaviour::Control => link.ping(&mut random.clients),
        _ => link.send_kind(kind, swarm.padding, shared, max, &mut random.clients),
    }
}

/// Ends the side of a drawn client in the way `behaviour`. Returns whether it was possible.
pub(crate) fn end<A: App>(world: &mut World<A>, behaviour: Behaviour) -> bool {
    let is_open = |link: &Link| link.pipe.client == Side::Open;
    let Some(index) = world.clients.pick(&mut world.random.schedule, is_open) else { return false };
    if behaviour == Behaviour::HalfClose {
        let random = &mut world.random.clients;
        let sends_close = random.percent(50);
        let link = world.clients.link(index);
        if sends_close && link.may_send_frames() {
            link.close(Some(1000), random);
        }
        link.pipe.half_close();
        world.note(index, EventKind::Did(behaviour), 0, &[]);
        return true;
    }
    let side = match behaviour {
        Behaviour::Hangup => Side::Ended,
        Behaviour::Reset => Side::Reset,
        _ => Side::Vanished,
    };
    world.note(index, EventKind::Did(behaviour), 0, &[]);
    world.clients.link(index).pipe.end(side);
    true
}

/// Sends the retries that are due and delivers them at once.
pub(crate) fn send_due_retries<A: App>(world: &mut World<A>) {
    for index in world.clients.indices() {
        let Some(link) = world.clients.get_mut(index) else { continue };
        let Some(mut retry) = link.retry.filter(|it| it.retried.is_none() && it.until <= world.server.now) else {
            continue;
        };
        link.retry = None;
        // The client may have sent an answer to a server's ping meanwhile.
        let is_silent = link.may_send() && link.conn.is_some() && link.pipe.sent == retry.sent;
        let user = link.user;
        if !is_silent || world.clients.connections_of(user) != retry.connections {
            continue;
        }
        world.note(index, EventKind::HasWaited, 0, &[]);
        let link = world.clients.link(index);
        // Then it is no longer than the message that was refused.
        (link.traits.fragments, link.traits.compresses) = (false, false);
        retry.retried = Some(link.send_with_reference(RequestKind::Ping, &mut world.random.clients));
        link.retry = Some(retry);
        world.deliver(index, usize::MAX);
    }
}

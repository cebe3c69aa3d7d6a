//! What a client that connects claims: a session of its own, that of another, or the one that it comes back to.

use crate::engine::app::{App, Protocol};
use crate::sim::client::link::Link;
use crate::sim::client::request;
use crate::sim::client::sessions::PositionForm;
use crate::sim::models::missed::Claim;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::world::World;

/// Lets a client that has just connected on `link` begin a session, or come back to the one of which `resumed` is the index,
/// with what it says of its position. Returns the parameters of its request.
pub(super) fn enter<A: App>(
    world: &mut World<A>,
    link: &mut Link,
    special: Option<Behaviour>,
    resumed: Option<(usize, PositionForm)>,
) -> Option<String> {
    if world.swarm.weight(Behaviour::Session) == 0 || A::PROTOCOL != Protocol::Json {
        return None;
    }
    let World { server, clients, swarm, random, .. } = world;
    let random = &mut random.clients;
    let shared = &mut clients.shared;
    let sessions = &mut shared.sessions;
    let (index, form) = match (special, resumed) {
        (Some(Behaviour::BadClaim), _) => return Some(request::bad_claim(random).to_owned()),
        (Some(_), _) => return None,
        (None, Some((index, form))) => (index, form),
        (None, None) => {
            // Most clients have a session.
            if random.percent(30) {
                return None;
            }
            let is_foreign = sessions.names() > 0 && swarm.occurs(Behaviour::ForeignSession, random);
            let name = is_foreign.then(|| 1 + random.below(sessions.names().into()) as u32);
            let name = name.filter(|&name| sessions.is_foreign(name, link.user, link.lobby));
            if name.is_some() {
                server.models.behaviours.add(Behaviour::ForeignSession);
            }
            let name = name.unwrap_or_else(|| sessions.new_name());
            server.models.behaviours.add(Behaviour::Session);
            (sessions.add(name, None, link.user, link.lobby, link.number), PositionForm::Right)
        }
    };
    let session = &sessions.all[index];
    let sent = session.claim(form);
    let claim = Claim {
        session: session.name,
        was: session.was,
        position: sent.position,
        marker: session.marker,
        is_behind: form != PositionForm::Right || session.has_two_tabs,
    };
    if shared.control.is_some() {
        server.models.behaviours.add(Behaviour::LobbyControl);
    }
    if shared.has_sessions {
        server.models.sessions.claimed(link.accepted, claim);
    }
    let text = request::claim(claim.session, claim.was, claim.position);
    // Without a grace there are no sessions.
    if !shared.has_sessions {
        return Some(text);
    }
    link.enter_session(index, sent, shared);
    Some(text)
}

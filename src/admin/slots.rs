//! Which client gives way to another when all slots are taken. Knows no request.
//!
//! Clients that have shown the token have slots of their own, `max_admin_connections` of them. The others, newcomers,
//! may ask for `/health` only, and share `max_admin_pending` slots. So newcomers displace newcomers only. A client that
//! shows the token displaces one that has shown it, if that one is idle or stalled. If no token is configured, a request
//! for anything but `/health` counts as one that shows it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use slab::Slab;

use super::client::{Client, ClientState};
use crate::base::network::network_of;

/// Returns the number of clients that have shown the token, or of the others.
pub(super) fn count(clients: &Slab<Client>, is_admitted: bool) -> usize {
    clients.iter().filter(|(_, client)| client.is_admitted == is_admitted && !client.is_closed()).count()
}

/// Returns the newcomer that gives way to a new connection.
///
/// It is none that was accepted in this turn, and none that has shown the token and waits for a slot. A client that has
/// all its answers goes first. Otherwise it is the oldest one of the network that has most of them,
/// so a flood of connections displaces its own. The order does not depend on what a client has sent: an attacker must
/// not appear busier than an operator whose first request has not arrived yet.
pub(super) fn next_newcomer(clients: &Slab<Client>) -> Option<usize> {
    let newcomers = || clients.iter().filter(|(_, client)| !client.is_admitted && !client.is_closed());
    let mut networks: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for (_, client) in newcomers() {
        *networks.entry(network_of(client.peer.ip())).or_default() += 1;
    }
    let order = |client: &Client| {
        let others = networks.get(&network_of(client.peer.ip())).copied().unwrap_or_default();
        (client.state != ClientState::Lingering, std::cmp::Reverse(others), client.number)
    };
    let displaceable = newcomers().filter(|(_, client)| !client.is_new && !client.waits_for_slot);
    displaceable.min_by_key(|(_, client)| order(client)).map(|(key, _)| key)
}

/// The slot of a client for which another one has shown the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// This client gives way.
    Of(usize),
    /// A client was answered in this turn. It can give way in the next one.
    NextTurn,
    /// All clients wait for reports of pings.
    None,
}

/// Returns the client with the token that gives way to another one that has shown it: an idle one, or else one whose
/// peer may be gone, does not complete its request, or does not read its answer. The one that waits longest goes first.
pub(super) fn next_admitted(clients: &Slab<Client>) -> Slot {
    let admitted = || clients.iter().filter(|(_, client)| client.is_admitted && !client.is_closed());
    let rank = |client: &Client| match client.state {
        ClientState::Lingering => Some(0),
        ClientState::Reading if !client.has_begun_request() => Some(1),
        _ if client.ended => Some(2),
        ClientState::Reading => Some(3),
        ClientState::Writing { .. } => Some(4),
        // It comes back to its position.
        ClientState::Streaming => Some(5),
        ClientState::Waiting { .. } | ClientState::Closed => None,
    };
    let ranked = admitted().filter(|(_, client)| !client.is_just_answered).filter_map(|(key, client)| {
        let rank = rank(client)?;
        Some(((rank, client.deadline, client.number), key))
    });
    match ranked.min() {
        Some((_, key)) => Slot::Of(key),
        None if admitted().any(|(_, client)| client.is_just_answered && rank(client).is_some()) => Slot::NextTurn,
        None => Slot::None,
    }
}

//! Whether clients and server agree at the end of a run: who is there, what was received, and what was freed.
//!
//! Only compares. The final phase brings about the state that is compared here.

use super::client::clients::Clients;
use super::client::link::Link;
use super::client::shared_state::SharedState;
use super::server::Server;
use super::world::World;
use crate::engine::app::App;
use crate::engine::inspect::InspectedMember;

pub(super) fn check_only_live_remain<A: App>(world: &mut World<A>) -> Result<(), String> {
    let World { server, clients, transcript, .. } = world;
    if let Some(link) = clients.iter().find(|link| !link.is_live()) {
        transcript.current_client = link.number;
        return Err(format!("client #{} has ended, but its connection is still open", link.number));
    }
    let stats = server.engine().stats();
    if (stats.pending, stats.closing) != (0, 0) {
        return Err(format!("{} pending and {} closing connections remain", stats.pending, stats.closing));
    }
    if server.is_draining() && !server.engine().is_drained() {
        return Err("the drain is not complete".into());
    }
    Ok(())
}

/// Checks that each client knows the number of members in its lobby.
pub(super) fn check_counts<A: App>(world: &mut World<A>) -> Result<(), String> {
    let World { server, clients, transcript, .. } = world;
    for link in clients.iter().filter(|link| link.view.is_synced()) {
        transcript.current_client = link.number;
        let members = server.seats_in(&clients.shared.lobbies[link.lobby]).len() as u64;
        let known = link.view.books.count_known();
        if known != members {
            return Err(format!("the client knows of {known} members, but its lobby has {members}"));
        }
    }
    Ok(())
}

/// Compares each client's view of its lobby with the server's directory.
///
/// A client that receives only the number of members is not informed of leaves. Its number is compared only if
/// `all_stayed`, that is, no connection closed while the final messages were sent.
pub(super) fn compare_views<A: App>(world: &mut World<A>, all_stayed: bool) -> Result<(), String> {
    let World { server, clients, transcript, .. } = world;
    let Clients { links, shared, .. } = &mut *clients;
    let mut seated = 0;
    for link in links.iter_mut().flatten().filter(|link| !link.is_post()) {
        transcript.current_client = link.number;
        compare_view(server, link, shared, all_stayed)?;
        seated += 1;
    }
    let stats = server.engine().stats();
    if stats.total_connections != seated {
        return Err(format!("{} seats are occupied, but {seated} clients remain", stats.total_connections));
    }
    for link in clients.iter() {
        transcript.current_client = link.number;
        server.models.latest.check(link.number, &link.view.latest)?;
    }
    compare_messages(world)
}

fn compare_view<A: App>(
    server: &Server<A>,
    link: &mut Link,
    shared: &SharedState,
    all_stayed: bool,
) -> Result<(), String> {
    let conn = link.conn.ok_or("a connection was dropped in the final phase")?;
    if !link.pings.is_empty() {
        return Err(format!("{} pings were not answered", link.pings.len()));
    }
    let code = &shared.lobbies[link.lobby];
    let state = server.engine().lobby_state(code);
    let (epoch, seq, members) = state.ok_or_else(|| format!("lobby {code} of conn={conn} does not exist"))?;
    let members: Vec<InspectedMember<'_>> = members.collect();
    if !members.iter().any(|(user, _, at, _)| *at == Some(conn) && **user == *shared.users[link.user]) {
        return Err(format!("conn={conn} is not in its lobby {code}"));
    }
    if !link.is_json {
        return Ok(());
    }
    let view = &mut link.view;
    if shared.relays {
        view.answers.skip_all_silent(shared);
    }
    if !view.is_synced() || (view.epoch, view.answers.seq) != (epoch, seq) {
        return Err(format!(
            "the client is at epoch {} seq {}, the server at epoch {epoch} seq {seq}",
            view.epoch, view.answers.seq
        ));
    }
    if let Some(request) = view.answers.unanswered().filter(|_| shared.relays && link.player.is_none()) {
        return Err(format!("no answer to {request:?}"));
    }
    compare_members(link, &members, all_stayed)
}

fn compare_members(link: &Link, members: &[InspectedMember<'_>], all_stayed: bool) -> Result<(), String> {
    let show = |user: &str, seat: String, is_away| format!("{user}/{seat}{}", if is_away { " away" } else { "" });
    let there: Vec<String> =
        members.iter().map(|(user, seat, _, is_away)| show(user, seat.to_string(), *is_away)).collect();
    let listed = link.view.books.members.as_ref();
    let known: Option<Vec<String>> = listed
        .map(|known| known.iter().map(|known| show(&known.user, known.conn.to_string(), known.is_away)).collect());
    let count = link.view.books.count_known();
    let is_same_list = known.as_ref().is_none_or(|known| *known == there);
    // A client that only reads has not asked for the number.
    let is_certain = known.is_some() || (all_stayed && !link.has_nothing_to_say());
    let is_same_count = count == there.len() as u64 || !is_certain;
    if is_same_list && is_same_count {
        return Ok(());
    }
    Err(format!("the client knows the members {known:?} ({count}), the server has {there:?}"))
}

/// Checks that each client received the last message of each other client in its lobby.
fn compare_messages<A: App>(world: &mut World<A>) -> Result<(), String> {
    let World { clients, transcript, .. } = world;
    if !clients.shared.relays || clients.players.is_some() {
        return Ok(());
    }
    for link in clients.iter().filter(|link| !link.is_post()) {
        transcript.current_client = link.number;
        if let Some((client, k)) = link.view.missing_message(&clients.shared) {
            return Err(format!("client #{} did not receive message {k} of client #{client}", link.number));
        }
        // A client that only reads sends no last message.
        let is_other = |other: &&Link| {
            let is_silent = other.is_post() || other.has_nothing_to_say();
            other.number != link.number && other.lobby == link.lobby && !is_silent
        };
        for other in clients.iter().filter(is_other) {
            let (received, sent) = match link.is_json {
                true => (link.view.last_message_of(other.marker), other.messages_sent),
                false => (link.view.last_raw_of(other.number), other.raw_sent),
            };
            if received != Some(sent) {
                return Err(format!(
                    "client #{} last received {received:?} from client #{}, which sent {sent}",
                    link.number, other.number
                ));
            }
        }
    }
    Ok(())
}

/// Checks, after all clients have disconnected, that the engine keeps nothing and that all counters agree.
pub(super) fn check_all_freed<A: App>(world: &mut World<A>) -> Result<(), String> {
    let World { server, clients, transcript, .. } = world;
    if let Some(link) = clients.iter().next() {
        transcript.current_client = link.number;
        return Err(format!("client #{} has disconnected, but its link remains", link.number));
    }
    let engine = server.engine();
    let stats = engine.stats();
    let (slots, timers) = engine.slots_and_timers();
    let left = [stats.total_connections, stats.away, stats.active_lobbies, stats.pending, stats.closing, slots, timers];
    if left != [0; 7] {
        return Err(format!("not freed: [seats, away, lobbies, pending, closing, slots, timers] = {left:?}"));
    }
    if engine.poll_timeout().is_some() || (server.is_draining() && !engine.is_drained()) {
        return Err("no connection is left, but the engine has a timeout or has not drained".into());
    }
    server.models.check_totals(&stats)
}

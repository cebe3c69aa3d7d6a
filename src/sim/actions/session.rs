//! Clients with a session come back to it in every way, and repeat requests.

use super::connect::{Client, open};
use crate::base::random::Random;
use crate::engine::app::App;
use crate::sim::client::link::Link;
use crate::sim::client::pipe::Side;
use crate::sim::client::sessions::{PositionForm, Session};
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::swarm::pick::pick;
use crate::sim::transcript::EventKind;
use crate::sim::world::World;

/// Lets a client come back to its session. Returns whether it was possible.
pub(crate) fn resume<A: App>(world: &mut World<A>) -> bool {
    let count = world.clients.shared.sessions.all.len() as u64;
    if count == 0 {
        return false;
    }
    // Most clients come back at once, so the last sessions are tried first.
    let back = world.random.schedule.below(count).min(world.random.schedule.below(count));
    let start = (count - 1 - back) as usize;
    let has_two_tabs = world.swarm.occurs(Behaviour::TwoTabs, &mut world.random.schedule);
    let fits = |index: &usize| {
        let session = &world.clients.shared.sessions.all[*index];
        let link = world.clients.iter().find(|link| link.number == session.link);
        let is_connected = link.is_some_and(|link| link.pipe.is_client_reading() && link.closed.is_none());
        !session.is_over && (!is_connected || has_two_tabs || session.link.is_multiple_of(4))
    };
    let Some(index) = (0..=start).rev().chain(start + 1..count as usize).find(fits) else { return false };
    // Sometimes it comes back several times in a row.
    let times = if world.random.schedule.percent(10) { 3 } else { 1 };
    (0..times).any(|_| come_back(world, index, has_two_tabs))
}

/// Lets a client lose its connection while an attempt that it gave up earlier is still on its way, with the position that it had
/// then. The attempt arrives at any time, also when the client is back; what the server answers does not. Returns whether it
/// was possible.
pub(crate) fn stray<A: App>(world: &mut World<A>) -> bool {
    let session_of = |link: &Link| link.view.session.as_ref().filter(|it| !it.is_superseded).map(|it| it.index);
    let knows_lobby = |link: &Link| link.may_send() && link.view.is_synced() && session_of(link).is_some();
    let (Some(free), Some(old)) =
        (world.clients.free_index(), world.clients.pick(&mut world.random.schedule, knows_lobby))
    else {
        return false;
    };
    let index = session_of(world.clients.link(old)).expect("just checked");
    world.clients.supersede(index);
    let side = pick(&mut world.random.clients, &[Side::Ended, Side::Reset, Side::Vanished]);
    world.clients.link(old).pipe.end(side);
    let has_former = world.clients.shared.sessions.all[index].has_former_position();
    let form = match world.random.clients.below(4) {
        0 | 1 if has_former => PositionForm::Former,
        0 => PositionForm::Missing,
        _ => PositionForm::Stale,
    };
    world.note(old, EventKind::Did(Behaviour::Stray), 0, format!("{form:?}").as_bytes());
    let Session { user, lobby, .. } = world.clients.shared.sessions.all[index];
    open(world, free, Client { user, lobby, special: None, resumed: Some((index, form)) });
    if let Some(stray) = world.clients.get_mut(free) {
        stray.pipe.end(Side::Ended);
    }
    true
}

/// Lets the client of the session at `index` come back. Returns whether it was possible.
fn come_back<A: App>(world: &mut World<A>, mut index: usize, has_two_tabs: bool) -> bool {
    let Some(free) = world.clients.free_index() else { return false };
    let user = world.clients.shared.sessions.all[index].user;
    let own = world.clients.shared.sessions.all[index].link;
    let is_other =
        |link: &Link| link.user == user && !link.is_post() && link.number != own && link.pipe.client == Side::Open;
    if world.clients.iter().any(is_other) {
        if world.swarm.weight(Behaviour::LogInTwice) == 0 {
            return false;
        }
        world.count(Behaviour::LogInTwice);
    }
    let old = world.clients.supersede(index);
    if let Some(old) = old {
        if has_two_tabs {
            world.count(Behaviour::TwoTabs);
            world.clients.shared.sessions.all[index].has_two_tabs = true;
        } else {
            let side = pick(&mut world.random.clients, &[Side::Ended, Side::Reset, Side::Vanished]);
            world.note(old, EventKind::Did(Behaviour::Hangup), 0, &[]);
            world.clients.link(old).pipe.end(side);
        }
    }
    if world.swarm.occurs(Behaviour::Reload, &mut world.random.clients) {
        world.count(Behaviour::Reload);
        index = reload(world, index);
    }
    let form = if world.swarm.occurs(Behaviour::OddPosition, &mut world.random.clients) {
        world.count(Behaviour::OddPosition);
        draw_form(&mut world.random.clients)
    } else {
        PositionForm::Right
    };
    let Session { user, lobby, .. } = world.clients.shared.sessions.all[index];
    open(world, free, Client { user, lobby, special: None, resumed: Some((index, form)) });
    true
}

fn draw_form(random: &mut Random) -> PositionForm {
    // A client that has a position always sends it.
    pick(random, &[PositionForm::Stale, PositionForm::Stale, PositionForm::Future, PositionForm::Foreign])
}

/// The page of the session at `index` is loaded anew. Returns the index of its new session.
fn reload<A: App>(world: &mut World<A>, index: usize) -> usize {
    let shared = &mut world.clients.shared;
    let session = &mut shared.sessions.all[index];
    session.is_over = true;
    // The page knows nothing of what the old one had sent.
    session.begin_anew(&mut shared.relay);
    let Session { name, user, lobby, .. } = *session;
    let new = shared.sessions.new_name();
    let link = shared.link_users.len() as u32;
    shared.sessions.add(new, Some(name), user, lobby, link)
}

/// Lets a client send a request with a number that it used before. Returns whether it was possible.
pub(crate) fn repeat<A: App>(world: &mut World<A>) -> bool {
    let can_repeat = |link: &Link| link.may_send() && link.view.answers.session.is_some();
    let Some(index) = world.clients.pick(&mut world.random.schedule, can_repeat) else { return false };
    let World { clients, random, .. } = world;
    let (link, shared) = clients.link_and_shared(index);
    let has_repeated = link.repeat(shared, &mut random.clients);
    if has_repeated {
        world.note(index, EventKind::Did(Behaviour::Repeat), 0, &[]);
    }
    has_repeated
}

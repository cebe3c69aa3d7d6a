//! The end of a run: the faults stop, and clients and server must agree.
//!
//! ```text
//! faults stop --pass time--> only live members remain --final messages--> states compared
//!     --all clients disconnect--> everything freed and all counters compared
//! ```

use std::time::Duration;

use super::actions::{app, client, operator};
use super::agreement;
use super::client::link::Link;
use super::client::pipe::Side;
use super::swarm::behaviour::Behaviour;
use super::swarm::config::wait_between_messages;
use super::time;
use super::world::World;
use crate::engine::app::{App, Protocol};
use crate::engine::state::ticks::ClockCommand;

/// Stops the faults and checks that clients and server agree within a bounded time. Then disconnects all clients and
/// checks that everything is freed.
pub(super) fn converge<A: App>(world: &mut World<A>) -> Result<(), String> {
    stop_faults(world);
    operator::set_final_game_clock(world, longest_wait(world))?;
    world.server.authorizer().stop_delays();
    // Answer half of the pending authorizations. The others time out.
    for _ in 0..world.server.authorizer().waiting() / 2 {
        app::authorize(world);
    }
    time::pass(world, longest_wait(world))?;
    agreement::check_only_live_remain(world)?;
    if !world.server.is_draining() {
        check_counts(world)?;
        let models = &world.server.models;
        let before = (models.counters.closed, models.seats.left);
        send_final_messages(world)?;
        agreement::compare_views(world, has_stayed(world, before))?;
    }
    disconnect_all(world);
    time::pass(world, longest_wait(world))?;
    if world.server.config().tick_hz.is_some() {
        operator::command_game_clock(world, ClockCommand::Pause)?;
    }
    agreement::check_all_freed(world)
}

/// Whether no connection was closed, and no seat freed, since these were the numbers of both.
fn has_stayed<A: App>(world: &World<A>, before: (u64, u64)) -> bool {
    let models = &world.server.models;
    (models.counters.closed, models.seats.left) == before
}

fn stop_faults<A: App>(world: &mut World<A>) {
    world.swarm.stop_faults();
    for link in world.clients.iter_mut() {
        link.traits = Default::default();
        (link.refused, link.retry) = (None, None);
        // A client closes the connection that it has given up.
        if link.view.session.as_ref().is_some_and(|session| session.is_superseded) {
            link.pipe.end(Side::Reset);
        }
        // Events are written to a client that has vanished until its host is given up (RFC 9293 section 3.8.3).
        if link.has_events() && link.pipe.client == Side::Vanished {
            link.pipe.client = Side::Reset;
        }
        if link.pipe.is_client_reading() {
            link.pipe.capacity = usize::MAX;
            if link.is_unpredictable && !link.is_unfinished {
                link.pipe.end(Side::Reset);
            }
        }
    }
}

/// Upper bound for the sum of all timeouts that can still be running.
fn longest_wait<A: App>(world: &World<A>) -> Duration {
    let config = world.server.config();
    let granules = config.wheel_granule * 8;
    let path = config.ping_interval + config.pong_timeout;
    let before = config.handshake_timeout.max(config.auth_timeout).max(path);
    // A seat is kept for a session while a claim is authorized, and then for seat_grace.
    let away = if world.clients.shared.has_sessions { config.seat_grace + config.auth_timeout } else { Duration::ZERO };
    // A lobby may be kept without members, and a countdown goes on.
    let empty = if config.lobby_control { config.max_empty_ttl } else { Duration::ZERO };
    before + empty + away + config.close_timeout * 2 + config.linger_timeout + config.health_timeout * 4 + granules
}

/// Checks that all members know their number, if none has left for the interval at which they are told it. Tokens may
/// still expire.
fn check_counts<A: App>(world: &mut World<A>) -> Result<(), String> {
    let config = world.server.config();
    let Some(interval) = config.presence_count_interval.filter(|_| A::PROTOCOL == Protocol::Json) else {
        return Ok(());
    };
    // With output that waits for ticks, the number is sent at the next one.
    let tick = config.tick_hz.map_or(Duration::ZERO, |hz| Duration::from_secs(1) / hz + longest_wait(world) / 100);
    let before = (world.server.models.counters.closed, world.server.models.seats.left);
    time::pass(world, interval + config.wheel_granule * 2 + tick)?;
    if has_stayed(world, before) { agreement::check_counts(world) } else { Ok(()) }
}

/// Lets each remaining client send one request of each kind and checks the engine's message and frame counters.
fn send_final_messages<A: App>(world: &mut World<A>) -> Result<(), String> {
    time::run_until_inboxes_empty(world)?;
    let before = world.server.engine().stats().counters;
    let frames_before = world.clients.frames_received();
    let pongs_before = world.clients.health_pongs();
    let messages_sent = send_one_of_each_kind(world)?;
    if world.clients.shared.relays {
        // All outboxes have room now, so every latest-wins frame must arrive.
        for index in world.clients.indices() {
            app::send_latest(world, Some(index));
            time::run_until_inboxes_empty(world)?;
        }
    }
    let after = world.server.engine().stats().counters;
    let (messages_in, frames_out) = (after.messages_in - before.messages_in, after.frames_out - before.frames_out);
    let frames = world.clients.frames_received() - frames_before;
    // Health checks go on meanwhile, and their answers may count as messages.
    let most = messages_sent + world.clients.health_pongs() - pongs_before;
    if !(messages_sent..=most).contains(&messages_in) || frames_out != frames {
        return Err(format!(
            "the engine counts {messages_in} messages in and {frames_out} frames out, but clients sent {messages_sent} \
             and received {frames}"
        ));
    }
    Ok(())
}

/// Returns the number of messages that the clients sent.
fn send_one_of_each_kind<A: App>(world: &mut World<A>) -> Result<u64, String> {
    world.clients.shared.is_final_phase = true;
    let kinds: &[Behaviour] = match (A::PROTOCOL, world.clients.players.is_some()) {
        (Protocol::Json, false) => &[Behaviour::Flood, Behaviour::Presence, Behaviour::Ping, Behaviour::Control],
        (Protocol::Json, true) => &[Behaviour::Presence, Behaviour::Control],
        (Protocol::Raw, false) => &[Behaviour::Flood, Behaviour::Control],
        (Protocol::Raw, true) => &[Behaviour::Control],
    };
    let mut messages_sent = 0;
    for index in world.clients.indices() {
        for &kind in kinds {
            if world.clients.shared.may_refuse {
                // A POST is charged more bytes than a frame.
                let has_events = world.clients.get(index).is_some_and(Link::has_events);
                let wait = wait_between_messages(world.server.config());
                time::pass(world, if has_events { wait * 4 } else { wait })?;
            }
            if world.clients.get(index).is_some_and(|link| !(link.is_post() || link.has_nothing_to_say())) {
                client::send_one(world, index, kind);
                messages_sent += u64::from(kind != Behaviour::Control);
                time::run_until_inboxes_empty(world)?;
            }
        }
    }
    Ok(messages_sent)
}

fn disconnect_all<A: App>(world: &mut World<A>) {
    if world.random.clients.percent(30) && !world.server.is_draining() {
        return operator::drain(world);
    }
    // Not under rate limits, where a `leave` could be refused.
    let may_leave =
        A::PROTOCOL == Protocol::Json && world.clients.players.is_none() && !world.clients.shared.may_refuse;
    for index in world.clients.indices() {
        if world.clients.get(index).is_none() {
            continue;
        }
        let link = world.clients.link(index);
        let has_events = link.has_events() || link.is_post();
        let random = &mut world.random.clients;
        match random.below(4) {
            0 | 1 if has_events => world.clients.link(index).pipe.end(Side::Ended),
            0 if may_leave => client::send_one(world, index, Behaviour::Leave),
            0 | 1 => world.clients.link(index).close(Some(1000), random),
            _ => {
                let side = if random.percent(50) { Side::Ended } else { Side::Reset };
                world.clients.link(index).pipe.end(side);
            }
        }
    }
}

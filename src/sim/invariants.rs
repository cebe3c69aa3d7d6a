//! The invariants that are checked after every step and after every turn.
//!
//! Compares the engine with the models and the clients. Changes nothing in the engine.

use std::collections::BTreeSet;

use super::client::clients::Clients;
use super::client::link::Link;
use super::client::pipe::Side;
use super::models::addresses::OpenConn;
use super::models::close_reasons::Circumstances;
use super::models::control::Members;
use super::models::feed::Models;
use super::report::Expectation;
use super::server::Server;
use super::swarm::behaviour::Behaviour;
use super::transcript::EventKind;
use super::world::World;
use crate::base::close::CloseReason;
use crate::base::id::ConnId;
use crate::config::Limit;
use crate::engine::app::App;
use crate::engine::operator::OperatorReport;

/// Checks the invariants that hold after every step, also in the middle of a turn.
pub(super) fn after_step<A: App>(world: &mut World<A>) -> Result<(), String> {
    world.note_actions();
    world.server.engine().check();
    check_close_reasons(world, &[])?;
    check_health_answers(world)?;
    world.server.models.check()?;
    let counts = world.server.models.event_counts();
    counts.into_iter().for_each(|count| world.transcript.mix(count));
    if let Some(invariant) = &mut world.invariant {
        invariant(world.server.app()).map_err(|error| {
            world.expectation = Expectation::Application;
            format!("the application's invariant: {error}")
        })?;
    }
    remove_ended_links(world)
}

/// Checks and removes the links on which both sides have ended the connection.
fn remove_ended_links<A: App>(world: &mut World<A>) -> Result<(), String> {
    let World { clients, transcript, .. } = world;
    for index in clients.indices() {
        let Some(link) = clients.get(index) else { continue };
        // A client that waits for the answer to a POST has yet to learn that none comes.
        let waits = link.posting.as_ref().is_some_and(|posting| posting.waits);
        if link.conn.is_none() && !link.pipe.is_client_reading() && !waits {
            transcript.current_client = link.number;
            link.check_end()?;
            if let Some((client, k)) = link.view.missing_message(&clients.shared) {
                return Err(format!("message {k} of client #{client} was acknowledged but did not arrive"));
            }
            clients.remove(index);
        }
    }
    Ok(())
}

/// Checks the invariants that hold at the end of a turn, after the driver has written and dropped connections.
pub(super) fn after_turn<A: App>(world: &mut World<A>) -> Result<(), String> {
    check_links(world)?;
    if !world.server.engine().is_presence_flushed() {
        return Err("a lobby has unannounced joins or leaves at the end of a turn".into());
    }
    check_operators(world)?;
    check_measurements(world)?;
    let World { server, clients, .. } = world;
    let (now, inbox_bytes) = (server.now, server.inbox_bytes());
    if let Some(ticks) = &mut server.models.ticks {
        ticks.check(now, inbox_bytes)?;
    }
    server.models.check_members(now, server.config())?;
    server.check_events()?;
    check_control(server, clients)?;
    let models = &server.models;
    // A session that has come back from another address may go on counting for the earlier one.
    let networks = models.seats.iter().filter_map(|(_, seated)| {
        let now = clients.network_of(seated.conn);
        now.filter(|_| seated.earlier.iter().all(|&conn| clients.network_of(conn) == now))
    });
    models.addresses.check_seats(networks)?;
    server.models.addresses.check_attempts(now)?;
    match server.engine().poll_timeout() {
        Some(next) if next <= now => Err(format!("the next timeout {next} is not after now, {now}")),
        _ => Ok(()),
    }
}

/// Checks that no output waits for nothing and that a drain goes on.
fn check_links<A: App>(world: &mut World<A>) -> Result<(), String> {
    let World { server, clients, transcript, .. } = world;
    let engine = server.engine();
    let may_wait = server.may_cork();
    // A connection that is not closing yet is closed with one of the next batches.
    let next_batch = server.now + server.config().drain_batch_interval;
    let waits = engine.poll_timeout().is_some_and(|next| next <= next_batch);
    for link in clients.iter() {
        let Some(conn) = link.conn else { continue };
        if engine.queued_bytes(conn) > 0 && !link.pipe.is_blocked && !may_wait {
            transcript.current_client = link.number;
            return Err(format!("conn={conn} has queued bytes although its socket is not blocked"));
        }
        let is_drained = server.drained_from.is_some_and(|first| link.number < first);
        if is_drained && link.reason.is_none() && !waits {
            transcript.current_client = link.number;
            return Err(format!("conn={conn} is not closing and no batch is scheduled, although the server drains"));
        }
    }
    Ok(())
}

/// Checks, after a turn, the ping reports received. Also checks that no ping report and no pending close is overdue.
fn check_operators<A: App>(world: &mut World<A>) -> Result<(), String> {
    let World { server, clients, transcript, .. } = world;
    let (now, last_turn, had_unread) = (server.now, server.last_turn, server.had_unread);
    while let Some(report) = server.call(|engine, _| engine.poll_operator()) {
        let OperatorReport::Pinged(report) = report else { return Err(format!("without a cluster: {report:?}")) };
        // An answer may have been unread in the network since before the deadline.
        server.models.operators.ping_ended(&report, |due| last_turn <= due || had_unread)?;
        transcript.mix(report.ticket ^ (report.answers.len() as u64) << 32);
    }
    // A ping deferred by unread input ends in the first later turn in which time has passed.
    if !(clients.has_unread() || had_unread || last_turn == now) {
        server.models.operators.check_pings(now)?;
    }
    server.models.operators.turn_ended(now, &server.models.seats)
}

/// Compares, after a turn, the lobby control of each lobby with its model, and with what the clients know that have read
/// everything.
fn check_control<A: App>(server: &mut Server<A>, clients: &mut Clients) -> Result<(), String> {
    let Some(mut control) = server.models.control.take() else { return Ok(()) };
    let engine = server.engine();
    let inspect = |code: &str| {
        let (epoch, ..) = engine.lobby_state(code)?;
        Some((epoch, engine.inspect_control(code)?))
    };
    let Models { seats, sessions, wall_clock, .. } = &server.models;
    let members = Members { seats, sessions, unflushed: &BTreeSet::new() };
    let is_stepped = wall_clock.stepped_at.is_some();
    control.check(inspect, members, server.now, server.is_draining(), is_stepped)?;
    clients.shared.relay.changed(control.take_done());
    for link in clients.links.iter().flatten() {
        let code = &clients.shared.lobbies[link.lobby];
        let (Some((epoch, view)), Some((_, seq, _))) = (control.view_of(code), server.engine().lobby_state(code))
        else {
            continue;
        };
        if link.view.is_at(epoch, seq) && link.reason.is_none() {
            link.view
                .check_lobby_view(view, server.is_draining(), is_stepped)
                .map_err(|error| format!("client #{}: {error}", link.number))?;
        }
    }
    server.models.control = Some(control);
    Ok(())
}

/// Checks, after a turn, the measurements for monitoring against the counters and the models.
fn check_measurements<A: App>(world: &World<A>) -> Result<(), String> {
    let (stats, measured) = (world.server.engine().stats(), world.server.engine().measurements());
    let (answered, measured_answers) = (world.server.models.health.answered, measured.health_latency.count());
    if measured_answers != answered {
        return Err(format!("{answered} health checks were answered, and {measured_answers} latencies measured"));
    }
    let (pings, measured_pings) = (stats.counters.pings, measured.ping_latency.count());
    if measured_pings > pings {
        return Err(format!("{pings} pings were sent, and {measured_pings} latencies measured"));
    }
    let late = measured.tick_lateness.map_or(0, |late| late.count());
    match stats.ticks {
        Some(ticks) if late > ticks.ran => Err(format!("{} ticks have run, and {late} were measured", ticks.ran)),
        None if late > 0 => Err("ticks were measured, and they are off".into()),
        _ => Ok(()),
    }
}

/// Notes the connections and the seats that count for an address before the next close reason is looked at.
fn note_open<A: App>(world: &mut World<A>) {
    if world.server.config().max_per_ip == Limit::UNLIMITED {
        return;
    }
    let is_open = |link: &Link| link.conn.filter(|_| link.reason.is_none());
    let open_conn = |link: &Link| Some(OpenConn { conn: is_open(link)?, network: link.network, user: link.user });
    let World { server, clients, .. } = &*world;
    let open: Vec<OpenConn> = clients.iter().filter_map(open_conn).collect();
    // Seats also count without a connection, or for an earlier address.
    let others = server.models.seats.iter().flat_map(|(_, seated)| {
        let user = clients.shared.users.iter().position(|user| **user == *seated.user);
        let open = move |conn| Some(OpenConn { conn, network: clients.network_of(conn)?, user: user? });
        let last = open(seated.conn).filter(|_| seated.is_away);
        last.into_iter().chain(seated.earlier.iter().filter_map(move |&conn| open(conn)))
    });
    let others: Vec<OpenConn> = others.collect();
    world.server.models.addresses.note_open(open, others);
}

/// Records new close reasons, and checks that each is plausible and never changes. `closed` are the connections that the
/// engine has freed in this turn.
pub(super) fn check_close_reasons<A: App>(
    world: &mut World<A>,
    closed: &[(ConnId, CloseReason)],
) -> Result<(), String> {
    note_open(world);
    for index in world.clients.indices() {
        let World { server, clients, transcript, .. } = &mut *world;
        let Some(link) = clients.get_mut(index) else { continue };
        let Some(conn) = link.conn else { continue };
        let freed = closed.iter().find(|(other, _)| *other == conn).map(|&(_, reason)| reason);
        let ending = freed.or(server.engine().ending(conn));
        if ending == link.reason {
            continue;
        }
        let Some(reason) = ending.filter(|_| link.reason.is_none()) else {
            transcript.current_client = link.number;
            return Err(format!("the close reason of conn={conn} changed from {:?} to {ending:?}", link.reason));
        };
        link.reason = Some(reason);
        let (number, user, lobby) = (link.number, link.user, link.lobby);
        transcript.note(server.now, number, EventKind::Ended(reason), u64::from(reason.code()), &[]);
        if reason == CloseReason::MaxLifetime {
            server.models.behaviours.add(Behaviour::Lifetime);
        }
        if reason.is_kick() {
            let (user, lobby) = (&clients.shared.users[user], &clients.shared.lobbies[lobby]);
            server.models.sessions.kicked(conn, user, lobby, server.now);
        }
        let Some(circumstances) = circumstances(world, index) else { continue };
        let World { server, clients, transcript, .. } = &mut *world;
        let lobby = &clients.shared.lobbies[lobby];
        if !server.models.allow_close(reason, conn, lobby, &circumstances, server.now, server.config()) {
            transcript.current_client = number;
            return Err(format!("conn={conn} ended with {reason}, which nothing in the run explains"));
        }
    }
    Ok(())
}

/// Returns what has happened on the link at `index`.
fn circumstances<A: App>(world: &World<A>, index: usize) -> Option<Circumstances> {
    let World { server, clients, .. } = world;
    let link = clients.get(index)?;
    let later = &clients.shared.link_users[link.number as usize + 1..];
    // An older connection may have been authorized later and replaced this one.
    let has_other = clients.iter().any(|it| it.number != link.number && it.user == link.user && !it.is_post());
    Some(Circumstances {
        age: server.now - link.opened,
        silence: server.now - link.last_delivery,
        has_input: link.has_input(),
        unread_turns: link.unread_turns,
        client_ended: link.pipe.client != Side::Open,
        write_failed: link.pipe.write_fails || link.pipe.client == Side::Reset,
        user_has_other: later.contains(&link.user) || has_other,
        user_had_other: clients.shared.link_users.iter().filter(|&&user| user == link.user).count() > 1,
        sent_leave: link.sent_leave,
        sent_close: link.sent_close,
        close_code: link.close_code,
        malformed_sent: server.models.behaviours.of(Behaviour::Malformed) > 0,
        is_unpredictable: link.is_unpredictable,
        is_unchecked: link.is_unpredictable || link.player.is_some(),
        is_draining: server.is_draining(),
        is_synced: link.view.is_synced(),
        is_event_attempt: link.has_events() && !link.view.is_welcomed(),
        bytes_sent: link.pipe.sent + link.posted.1,
    })
}

/// Checks that each answered health check matches a nonce that the client sent back, and that the latency fits.
fn check_health_answers<A: App>(world: &mut World<A>) -> Result<(), String> {
    let World { server, clients, transcript, .. } = world;
    for answered in server.models.health.take_answered() {
        let Some(link) = clients.iter_mut().find(|link| link.conn == Some(answered.conn)) else { continue };
        // An event stream has answered when its bytes are written.
        let is_unchecked = link.is_unpredictable || link.player.is_some() || link.has_events();
        let checked = answered.check(&mut link.ponged, is_unchecked, &server.models.wall_clock);
        if checked.is_err() {
            transcript.current_client = link.number;
        }
        checked?;
    }
    Ok(())
}

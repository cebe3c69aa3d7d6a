//! Lets time pass: by a drawn step, or until everything in flight has arrived.

use std::time::Duration;

use super::actions::post;
use super::invariants;
use super::swarm::behaviour::Behaviour;
use super::transcript::EventKind;
use super::world::World;
use crate::engine::app::App;

/// Number of rounds after which an exchange of bytes, or of timers, counts as endless.
const MAX_ROUNDS: u32 = 100_000;

/// Ends the turn, then advances the time by a drawn step.
pub(super) fn advance<A: App>(world: &mut World<A>) -> Result<(), String> {
    world.end_turn()?;
    let World { server, clients, swarm, random, .. } = world;
    let now = server.now;
    let random = &mut random.schedule;
    let retry = clients.next_retry().filter(|&retry| retry > now);
    server.now = if let Some(retry) = retry
        && random.percent(50)
    {
        retry
    } else if swarm.occurs(Behaviour::Jump, random) {
        let config = server.config();
        let reach = config.ping_interval * 3 + config.handshake_timeout * 2;
        let far = Duration::from_micros(random.below(reach.as_micros() as u64));
        let far = if random.percent(5) { far * 5000 } else { far };
        server.models.behaviours.add(Behaviour::Jump);
        now + far
    } else if let Some(hz) = server.config().tick_hz
        && random.percent(10)
    {
        // Up to eleven tick periods at once, so that the turn is late for some ticks.
        now + Duration::from_secs(1) / hz * random.below(12) as u32
    } else {
        match server.engine().poll_timeout() {
            Some(next) if random.percent(50) => next,
            _ => now + Duration::from_micros(random.below(20_000)),
        }
    };
    server.turn_open = true;
    world.note_server(EventKind::Clock, 0, &[]);
    Ok(())
}

/// Advances the time by `span`, stopping at every timer, and delivers everything in flight at each stop.
pub(super) fn pass<A: App>(world: &mut World<A>, span: Duration) -> Result<(), String> {
    let end = world.server.now + span;
    run_until_quiet(world)?;
    for _ in 0..MAX_ROUNDS {
        match world.server.engine().poll_timeout() {
            Some(next) if next <= end => world.server.now = next,
            _ => {
                world.server.now = end;
                return run_until_quiet(world);
            }
        }
        run_until_quiet(world)?;
    }
    Err("timers keep expiring without end".into())
}

/// Delivers everything in flight and all answers, and runs ticks until no inbox or corked output is left.
pub(super) fn run_until_inboxes_empty<A: App>(world: &mut World<A>) -> Result<(), String> {
    run_until_quiet(world)?;
    while world.server.inbox_bytes() > 0 || has_corked_output(world) {
        world.server.now = world
            .server
            .engine()
            .poll_timeout()
            .ok_or("messages or output wait for a tick, but no tick is scheduled")?;
        run_until_quiet(world)?;
    }
    Ok(())
}

/// Whether a connection has corked output, which waits for the next tick.
fn has_corked_output<A: App>(world: &World<A>) -> bool {
    let mut conns = world.clients.iter().filter(|link| !link.pipe.is_blocked).filter_map(|link| link.conn);
    world.server.may_cork() && conns.any(|conn| world.server.engine().queued_bytes(conn) > 0)
}

/// Delivers everything in flight, and all answers, until no more bytes move.
fn run_until_quiet<A: App>(world: &mut World<A>) -> Result<(), String> {
    for _ in 0..MAX_ROUNDS {
        let mut moved = post::run(world)?;
        for index in world.clients.indices() {
            let Some(link) = world.clients.get(index) else { continue };
            if link.has_input() {
                world.deliver(index, usize::MAX);
                moved = true;
            }
            if world.clients.link(index).pipe.is_unblocked() {
                world.wake(index);
                moved = true;
            }
        }
        world.end_turn()?;
        for index in world.clients.indices() {
            let Some(link) = world.clients.get(index) else { continue };
            if link.pipe.is_client_reading() && (link.pipe.unread_by_client() > 0 || link.pipe.is_at_server_end()) {
                world.read(index, usize::MAX)?;
                moved = true;
            }
        }
        world.transcript.step += 1;
        invariants::after_step(world)?;
        if !moved {
            return Ok(());
        }
    }
    Err("the clients and the server keep exchanging bytes without end".into())
}

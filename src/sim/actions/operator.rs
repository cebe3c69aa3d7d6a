//! Operators act: commands to members and lobbies, the game clock, the wall clock, and the drain.

use std::time::Duration;

use crate::engine::app::App;
use crate::engine::operator::{KickTarget, OperatorAnswer, OperatorCommand, OperatorRefusal, Payload};
use crate::engine::state::ticks::ClockCommand;
use crate::sim::models::operators::Found;
use crate::sim::swarm::behaviour::Behaviour;
use crate::sim::swarm::pick::pick;
use crate::sim::transcript::EventKind;
use crate::sim::world::World;

/// Approximate number of ticks in each wait of the final phase. The clock is slowed down to reach it.
const FINAL_TICKS: u128 = 500;

/// Sends a random operator command of the kind `behaviour`, and checks the answer.
pub(crate) fn send_command<A: App>(world: &mut World<A>, behaviour: Behaviour) -> Result<(), String> {
    let World { server, clients, random, .. } = &mut *world;
    server.turn_open = true;
    let random = &mut random.control;
    let user = clients.shared.users[random.below(clients.shared.users.len() as u64) as usize].clone();
    let lobby = clients.shared.lobbies[random.below(clients.shared.lobbies.len() as u64) as usize].clone();
    let how = random.below(10);
    world.note_server(EventKind::Did(behaviour), how, lobby.as_bytes());
    let epoch = world.server.engine().lobby(&lobby).map(|lobby| lobby.epoch);
    let command = command(world, behaviour, how, &user, &lobby, epoch);
    let World { server, clients, transcript, .. } = world;
    let found = Found {
        in_lobby: server.seats_in(&lobby),
        of_user: server.models.seats.of_user(&user),
        total: server.models.seats.iter().count(),
        epoch,
    };
    let spares_away = matches!(command, OperatorCommand::Kick { reconnect: true, .. });
    let found = if spares_away { found.without_away(&server.models.seats) } else { found };
    server.models.sessions.is_kicking = matches!(command, OperatorCommand::Kick { reconnect: false, .. });
    server.models.control.iter_mut().for_each(|control| control.is_commanding = true);
    let answer = server.call(|engine, now| engine.handle_operator(now, command.clone()));
    server.models.control.iter_mut().for_each(|control| control.is_commanding = false);
    server.models.sessions.is_kicking = false;
    transcript.mix(answer.is_ok().into());
    if let (OperatorCommand::Publish { exclude, .. }, Ok(OperatorAnswer::Sent { seq, repeated: false, .. })) =
        (&command, &answer)
    {
        let op = server.models.operators.last_message();
        match seq {
            Some(seq) => clients.shared.relay.published(op, *seq),
            None => clients.shared.relay.published_unnumbered(op, exclude),
        }
    }
    if answer.is_ok() && matches!(command, OperatorCommand::Lock { .. } | OperatorCommand::Close { .. }) {
        server.models.locks.commanded();
    }
    let is_locked = server.engine().lobby(&lobby).is_some_and(|lobby| lobby.locked);
    server.models.locks.set(&lobby, is_locked);
    let (models, now) = (&mut server.models, server.now);
    models.operators.answered(&command, &answer, found, &models.seats, now)
}

/// Returns the command for `behaviour`; `how` selects one of its forms.
fn command<A: App>(
    world: &mut World<A>,
    behaviour: Behaviour,
    how: u64,
    user: &str,
    lobby: &str,
    epoch: Option<u64>,
) -> OperatorCommand {
    let (user, lobby) = (user.to_owned(), lobby.to_owned());
    let config = world.server.config();
    match (behaviour, how) {
        (Behaviour::Lock, 0) => OperatorCommand::Close { lobby },
        (Behaviour::Lock, _) => OperatorCommand::Lock { lobby, locked: how < 6 },
        (Behaviour::OperatorKick, 0) => OperatorCommand::Kick { target: KickTarget::All, reconnect: true },
        (Behaviour::OperatorKick, 1..4) => {
            OperatorCommand::Kick { target: KickTarget::Lobby(lobby), reconnect: how == 1 }
        }
        (Behaviour::OperatorKick, _) => OperatorCommand::Kick { target: KickTarget::User(user), reconnect: how < 7 },
        (Behaviour::OperatorPing, _) => {
            OperatorCommand::Ping { user, timeout: config.health_timeout * (how as u32 + 1) / 2 }
        }
        (_, 0) => OperatorCommand::publish(lobby, Payload::Text("not JSON".into())),
        (_, 2) => OperatorCommand::publish(lobby, Payload::Json("\"\\ud800\"".into())),
        (_, 1) => {
            let long = format!("\"{}\"", "x".repeat(config.max_message_bytes.0));
            OperatorCommand::Send { user, payload: Payload::Json(long) }
        }
        (_, 8..) => publish_with_options(world, user, lobby, epoch),
        (_, _) => {
            let payload = next_message(world);
            match how {
                2..6 => OperatorCommand::Send { user, payload },
                _ => OperatorCommand::publish(lobby, payload),
            }
        }
    }
}

fn next_message<A: App>(world: &mut World<A>) -> Payload {
    Payload::Json(format!("{{\"op\":{}}}", world.server.models.operators.next_message()))
}

/// Returns a publish to all but some users, or with an idempotency key, which may be one that was used before.
fn publish_with_options<A: App>(
    world: &mut World<A>,
    user: String,
    lobby: String,
    epoch: Option<u64>,
) -> OperatorCommand {
    let World { server, random, .. } = &mut *world;
    let random = &mut random.control;
    let (repeats, which) = (random.percent(40), random.next_u64());
    let (excludes, has_key, key) = (random.percent(50), random.percent(60), random.below(6));
    if repeats && let Some(command) = epoch.and_then(|epoch| server.models.operators.published.any_kept(epoch, which)) {
        return command.clone();
    }
    let exclude = if excludes { vec![user, "nobody".to_owned()] } else { Vec::new() };
    let idempotency_key = has_key.then(|| format!("key-{key}"));
    OperatorCommand::Publish { lobby, payload: next_message(world), exclude, idempotency_key }
}

/// Sends a random clock command.
pub(crate) fn set_game_clock<A: App>(world: &mut World<A>) -> Result<(), String> {
    let random = &mut world.random.control;
    let command = match random.below(10) {
        0..2 => ClockCommand::Pause,
        2..6 => ClockCommand::Resume,
        6..8 => ClockCommand::Step(pick(random, &[0, 1, 1, 3, 7, 100, 101])),
        _ => ClockCommand::Slow(pick(random, &[0, 1, 1, 1, 2, 3, 10, 1000, 1001])),
    };
    command_game_clock(world, command)
}

/// Sends a clock command and compares the answer with that of the model.
pub(crate) fn command_game_clock<A: App>(world: &mut World<A>, command: ClockCommand) -> Result<(), String> {
    world.server.turn_open = true;
    let number = match command {
        ClockCommand::Pause => 1 << 32,
        ClockCommand::Resume => 2 << 32,
        ClockCommand::Step(ticks) => 3 << 32 | u64::from(ticks),
        ClockCommand::Slow(factor) => 4 << 32 | u64::from(factor),
    };
    world.note_server(EventKind::Did(Behaviour::Clock), number, &[]);
    let server = &mut world.server;
    let answer = server.call(|engine, now| engine.handle_operator(now, OperatorCommand::Clock(command)));
    let now = server.now;
    let expected = match &mut server.models.ticks {
        Some(ticks) => ticks.command(now, command).map(OperatorAnswer::Clock),
        None => Err(OperatorRefusal::NoTicks),
    };
    if answer == expected {
        Ok(())
    } else {
        Err(format!("the answer to {command:?} is {answer:?}, expected {expected:?}"))
    }
}

/// Resumes the game clock, slowed down so that about [`FINAL_TICKS`] ticks run during `span`.
pub(crate) fn set_final_game_clock<A: App>(world: &mut World<A>, span: Duration) -> Result<(), String> {
    let Some(hz) = world.server.config().tick_hz else { return Ok(()) };
    let factor = span.as_millis() * u128::from(hz) / 1000 / FINAL_TICKS;
    command_game_clock(world, ClockCommand::Slow(factor.clamp(1, 1000) as u32))?;
    command_game_clock(world, ClockCommand::Resume)
}

/// Sets the wall clock forward or back.
pub(crate) fn step_wall_clock<A: App>(world: &mut World<A>) {
    let World { server, random, clients, .. } = &mut *world;
    clients.shared.control.iter_mut().for_each(|book| book.is_wall_stepped = true);
    let random = &mut random.control;
    let step = pick(random, &[1_000, 50_000, 2_000_000, 3_600_000_000]);
    let before = server.models.wall_clock.micros_at_zero;
    let micros_at_zero = if random.percent(50) { before + step } else { before - step };
    server.models.wall_clock.stepped(server.now, micros_at_zero);
    server.turn_open = true;
    let micros = server.models.wall_clock.micros_at(server.now);
    world.note_server(EventKind::Did(Behaviour::WallStep), micros_at_zero, &[]);
    world.server.call(|engine, now| engine.handle_wall_time(now, micros));
}

/// Begins the drain.
pub(crate) fn drain<A: App>(world: &mut World<A>) {
    world.note_server(EventKind::Drains, 0, &[]);
    let World { server, clients, random, .. } = world;
    clients.shared.is_draining = true;
    server.drained_from = Some(clients.shared.link_users.len() as u32);
    server.turn_open = true;
    if random.control.percent(50) {
        return server.call(|engine, now| engine.handle_drain(now));
    }
    let answer = server.call(|engine, now| engine.handle_operator(now, OperatorCommand::Drain));
    assert!(matches!(answer, Ok(OperatorAnswer::Draining(_))), "{answer:?}");
}

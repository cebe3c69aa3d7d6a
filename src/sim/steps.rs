//! Draws each step of a run, carries it out, and checks the invariants.
//!
//! A step is one action: some bytes arrive or are read, a client sends a message, the driver finishes its turn, or time
//! passes.

use super::actions::{admin_port, app, client, connect, lobby, operator, post, session};
use super::client::link::Link;
use super::invariants;
use super::swarm::behaviour::Behaviour;
use super::swarm::parameters::Swarm;
use super::time;
use super::transcript::EventKind;
use super::world::World;
use crate::base::random::Random;
use crate::config::Config;
use crate::engine::app::App;

/// The actions of a run, each with its weight.
pub(super) struct Steps {
    actions: Vec<(Action, u32)>,
    total_weight: u64,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Deliver,
    Read,
    Wake,
    EndTurn,
    Advance,
    Connect,
    Send,
    Authorize,
    Do(Behaviour),
}

/// Behaviours that are actions of their own. The other behaviours modify actions that happen anyway.
const STEP_BEHAVIOURS: &[Behaviour] = &[
    Behaviour::Direct,
    Behaviour::Volatile,
    Behaviour::Presence,
    Behaviour::Ping,
    Behaviour::Control,
    Behaviour::Binary,
    Behaviour::AppMessage,
    Behaviour::Flood,
    Behaviour::Malformed,
    Behaviour::TooBig,
    Behaviour::NearValid,
    Behaviour::Garbage,
    Behaviour::BadRequest,
    Behaviour::HalfRequest,
    Behaviour::Leave,
    Behaviour::Close,
    Behaviour::Hangup,
    Behaviour::Reset,
    Behaviour::Vanish,
    Behaviour::SpuriousWake,
    Behaviour::Kick,
    Behaviour::CloseLobby,
    Behaviour::Notice,
    Behaviour::Squeeze,
    Behaviour::HealthCheck,
    Behaviour::Latest,
    Behaviour::Lock,
    Behaviour::OperatorKick,
    Behaviour::OperatorSay,
    Behaviour::OperatorPing,
    Behaviour::Clock,
    Behaviour::HalfClose,
    Behaviour::WallStep,
    Behaviour::Probe,
    Behaviour::AdminPort,
    Behaviour::GoAway,
];

/// Behaviours that are actions of their own in runs with sessions.
const SESSION_STEPS: &[Behaviour] = &[Behaviour::Resume, Behaviour::BadClaim, Behaviour::Repeat, Behaviour::Stray];

/// Behaviours that are actions of their own in runs with lobby control.
const CONTROL_STEPS: &[Behaviour] =
    &[Behaviour::SetData, Behaviour::HandOver, Behaviour::Expel, Behaviour::Settings, Behaviour::Ready];

impl Steps {
    pub(super) fn new(swarm: &Swarm, config: &Config) -> Steps {
        let mut actions = vec![
            (Action::Deliver, 300),
            (Action::Read, 300),
            (Action::Wake, 60),
            (Action::EndTurn, 30),
            (Action::Advance, swarm.clock),
            (Action::Connect, swarm.arrivals),
            (Action::Send, swarm.sends),
            (Action::Authorize, if swarm.weight(Behaviour::LateAuth) > 0 { 20 } else { 0 }),
        ];
        for &behaviour in STEP_BEHAVIOURS {
            // Behaviours that end connections are less frequent than those that use them.
            let divisor = match behaviour {
                Behaviour::Squeeze => 3,
                Behaviour::Latest | Behaviour::AdminPort => 1,
                _ if behaviour < Behaviour::Malformed => 1,
                _ => 8,
            };
            actions.push((Action::Do(behaviour), swarm.weight(behaviour).div_ceil(divisor)));
        }
        for &behaviour in SESSION_STEPS.iter().filter(|_| swarm.weight(Behaviour::Session) > 0) {
            let divisor = if behaviour == Behaviour::BadClaim { 8 } else { 1 };
            actions.push((Action::Do(behaviour), swarm.weight(behaviour).div_ceil(divisor)));
        }
        for &behaviour in CONTROL_STEPS.iter().filter(|_| config.lobby_control) {
            // Kicks and locks end what the others do.
            let divisor = match behaviour {
                Behaviour::Expel => 4,
                Behaviour::HandOver | Behaviour::Settings => 2,
                _ => 1,
            };
            actions.push((Action::Do(behaviour), (4 * swarm.weight(behaviour)).div_ceil(divisor)));
        }
        actions.push((Action::Do(Behaviour::Drain), u32::from(swarm.weight(Behaviour::Drain) > 16)));
        Steps { total_weight: actions.iter().map(|(_, weight)| u64::from(*weight)).sum(), actions }
    }

    /// Runs one action and checks all invariants.
    pub(super) fn run<A: App>(&self, world: &mut World<A>) -> Result<(), String> {
        let action = self.draw(&mut world.random.schedule);
        if !act(world, action)? {
            act_instead(world, action)?;
        }
        client::send_due_retries(world);
        post::run(world)?;
        give_due_commands(world);
        if world.server.turn_open && world.random.schedule.percent(world.swarm.turns) {
            world.end_turn()?;
        }
        invariants::after_step(world)
    }

    fn draw(&self, random: &mut Random) -> Action {
        let mut at = random.below(self.total_weight);
        for &(action, weight) in &self.actions {
            match at.checked_sub(u64::from(weight)) {
                Some(rest) => at = rest,
                None => return action,
            }
        }
        unreachable!("the weights add up to their total")
    }
}

/// Gives the application the commands of its loop that are due.
fn give_due_commands<A: App>(world: &mut World<A>) {
    let World { server, commands, .. } = world;
    let Some((command, count)) = commands.as_mut().map(|commands| commands.take_due(server.now)) else { return };
    for _ in 0..count {
        server.turn_open = true;
        server.call(|engine, now| engine.handle_command(now, command));
    }
}

/// Runs other actions, since no client can do `action` now.
fn act_instead<A: App>(world: &mut World<A>, action: Action) -> Result<(), String> {
    // Time must pass too; otherwise no connection is ever idle.
    if matches!(action, Action::Deliver | Action::Read) && world.random.schedule.percent(10) {
        return time::advance(world);
    }
    for action in [Action::Deliver, Action::Read, Action::Wake, Action::Send, Action::Connect] {
        if act(world, action)? {
            return Ok(());
        }
    }
    time::advance(world)
}

/// Runs `action`. Returns whether it was possible.
fn act<A: App>(world: &mut World<A>, action: Action) -> Result<bool, String> {
    match action {
        Action::Deliver => return Ok(deliver(world)),
        Action::Read => return read(world),
        Action::Wake => {
            let is_unblocked = |link: &Link| link.conn.is_some() && link.pipe.is_unblocked();
            let Some(index) = world.clients.pick(&mut world.random.schedule, is_unblocked) else { return Ok(false) };
            world.wake(index);
        }
        Action::EndTurn => world.end_turn()?,
        Action::Advance => time::advance(world)?,
        Action::Connect => return Ok(connect::connect(world, None)),
        Action::Send => return Ok(client::broadcast(world)),
        Action::Authorize => return Ok(app::authorize(world)),
        Action::Do(behaviour) => {
            let done = perform(world, behaviour)?;
            if done {
                world.count(behaviour);
            }
            return Ok(done);
        }
    }
    Ok(true)
}

fn deliver<A: App>(world: &mut World<A>) -> bool {
    let Some(index) = world.clients.pick(&mut world.random.schedule, Link::has_input) else { return false };
    let network = &mut world.random.network;
    let chunk = if world.swarm.occurs(Behaviour::Chunk, network) {
        let chunk = 1 + network.below(world.swarm.chunk as u64) as usize;
        world.count(Behaviour::Chunk);
        chunk
    } else {
        world.server.config().receive_buffer_bytes.0
    };
    world.deliver(index, chunk);
    true
}

fn read<A: App>(world: &mut World<A>) -> Result<bool, String> {
    let can_read = |link: &Link| {
        link.pipe.is_client_reading()
            && !link.traits.is_stalled
            && (link.pipe.unread_by_client() > 0 || link.pipe.is_at_server_end())
    };
    let Some(index) = world.clients.pick(&mut world.random.schedule, can_read) else { return Ok(false) };
    let is_slow = world.clients.link(index).traits.is_slow;
    let chunk = if is_slow { 1 + world.random.network.below(world.swarm.narrow as u64) } else { u64::MAX };
    world.read(index, chunk as usize)?;
    Ok(true)
}

/// Performs `behaviour`. Returns whether it was possible.
fn perform<A: App>(world: &mut World<A>, behaviour: Behaviour) -> Result<bool, String> {
    match behaviour {
        Behaviour::BadRequest | Behaviour::HalfRequest => return Ok(connect::connect(world, Some(behaviour))),
        Behaviour::BadClaim => return Ok(connect::connect(world, Some(behaviour))),
        Behaviour::Resume => return Ok(session::resume(world)),
        Behaviour::Repeat => return Ok(session::repeat(world)),
        Behaviour::Stray => return Ok(session::stray(world)),
        Behaviour::SetData | Behaviour::HandOver | Behaviour::Expel | Behaviour::Settings | Behaviour::Ready => {
            return Ok(lobby::change(world, behaviour));
        }
        Behaviour::Probe => return connect::probe(world),
        Behaviour::AdminPort => admin_port::act(world)?,
        Behaviour::Hangup | Behaviour::Reset | Behaviour::Vanish | Behaviour::HalfClose => {
            return Ok(client::end(world, behaviour));
        }
        Behaviour::WallStep => operator::step_wall_clock(world),
        Behaviour::SpuriousWake => return Ok(wake_spuriously(world)),
        Behaviour::Kick | Behaviour::CloseLobby | Behaviour::Notice | Behaviour::HealthCheck => {
            app::run_commands(world, behaviour);
        }
        Behaviour::Squeeze => return Ok(app::squeeze(world)),
        Behaviour::Latest => app::send_latest(world, None),
        Behaviour::Lock | Behaviour::OperatorKick | Behaviour::OperatorSay | Behaviour::OperatorPing => {
            operator::send_command(world, behaviour)?;
        }
        Behaviour::Clock => operator::set_game_clock(world)?,
        Behaviour::Drain if world.server.is_draining() => return Ok(false),
        Behaviour::Drain => operator::drain(world),
        _ => return Ok(client::send(world, behaviour)),
    }
    Ok(true)
}

/// Reports a socket as writable without cause. If it is in fact blocked, the next write blocks again.
fn wake_spuriously<A: App>(world: &mut World<A>) -> bool {
    let is_connected = |link: &Link| link.conn.is_some();
    let Some(index) = world.clients.pick(&mut world.random.schedule, is_connected) else { return false };
    world.note(index, EventKind::SpuriousWake, 0, &[]);
    let conn = world.clients.link(index).conn.expect("pick() chose an open connection");
    world.server.turn_open = true;
    world.server.call(|engine, now| engine.handle_writable(now, conn));
    true
}

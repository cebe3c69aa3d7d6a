//! Model of the ticks: draws their configuration, sends an operator's clock commands, and checks the number, the time
//! and the order of every tick.
//!
//! The model keeps the tick clock independently of the engine: in nanoseconds, and with other arithmetic.

use std::time::Duration;

use super::limit_model::pick;
use super::swarm::Behaviour;
use super::transcript::{EventKind, NO_CLIENT};
use super::world::World;
use crate::base::id::ConnId;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::config::{ByteSize, Config, Flush};
use crate::engine::app::App;
use crate::engine::operator::{OperatorAnswer, OperatorCommand, OperatorRefusal};
use crate::engine::tick::{ClockCommand, ClockView, Tick};

/// An inbox limit that no client reaches, so that no message is refused.
const VAST: ByteSize = ByteSize(1 << 30);
/// Approximate number of ticks in each wait of the final phase. The clock is slowed down to reach it.
const FINAL_TICKS: u128 = 500;

/// Draws the tick configuration of a run.
pub(super) fn draw(config: &mut Config, random: &mut Random) {
    config.tick_hz = Some(pick(random, &[1, 3, 10, 30, 60, 144, 1000]));
    config.flush = if random.percent(40) { Flush::Tick } else { Flush::Turn };
    config.max_catch_up_ticks = pick(random, &[0, 1, 5, 20]);
    config.max_inbox_bytes =
        pick(random, &[ByteSize(0), ByteSize(500), ByteSize(5000), ByteSize::kib(64), VAST, VAST, VAST]);
}

/// Whether a message may be refused because the inbox for the next tick is full.
pub(super) fn has_inbox_limit(config: &Config) -> bool {
    config.tick_hz.is_some() && config.max_inbox_bytes < VAST
}

/// State of the tick clock and counters of the ticks so far.
#[derive(Debug)]
pub(super) struct TickModel {
    hz: u64,
    max_catch_up: u64,
    /// Tick clock at `since`, in nanoseconds.
    shown: u128,
    since: Time,
    slowdown: u32,
    is_paused: bool,
    /// Number of times the clock was set. The engine may lose up to a microsecond each time, by rounding.
    settings: u128,
    /// Single steps still to run while paused.
    steps: u32,
    /// Number of the last tick.
    last: u64,
    ran: u64,
    skipped: u64,
    /// Time of the last turn with scheduled ticks, the number of ticks that ran in it, and the number skipped.
    turn: (Time, u64, u64),
    /// Time and sender of each message delivered to the application since the last tick.
    delivered: Vec<(Time, ConnId)>,
    /// Whether a tick has run in this turn.
    has_ticked: bool,
    /// While the server drains, messages do not wait for a tick.
    is_draining: bool,
}

impl TickModel {
    pub(super) fn new(config: &Config) -> Option<TickModel> {
        config.tick_hz.map(|hz| TickModel {
            hz: hz.into(),
            max_catch_up: config.max_catch_up_ticks.into(),
            shown: 0,
            since: Time::ZERO,
            slowdown: 1,
            is_paused: false,
            settings: 1,
            steps: 0,
            last: 0,
            ran: 0,
            skipped: 0,
            turn: (Time::ZERO, 0, 0),
            delivered: Vec::new(),
            has_ticked: false,
            is_draining: false,
        })
    }

    fn shown_at(&self, now: Time) -> u128 {
        let run = if self.is_paused { 0 } else { (now - self.since).as_nanos() / u128::from(self.slowdown) };
        self.shown + run
    }

    /// Returns the time at which tick `number` is due: in nanoseconds, rounded down to whole microseconds.
    fn due(&self, number: u64) -> u128 {
        u128::from(number) * 1_000_000 / u128::from(self.hz) * 1000
    }

    fn slack(&self) -> u128 {
        self.settings * 1000
    }

    fn set(&mut self, now: Time) {
        (self.shown, self.since) = (self.shown_at(now), now);
        self.settings += 1;
    }

    /// Applies an operator's command to the model. Returns the answer that the engine must give.
    fn command(&mut self, now: Time, command: ClockCommand) -> Result<ClockView, OperatorRefusal> {
        match command {
            ClockCommand::Step(_) if !self.is_paused => return Err(OperatorRefusal::ClockRuns),
            ClockCommand::Step(count) if count == 0 || self.steps + count > 100 => {
                return Err(OperatorRefusal::OutOfRange);
            }
            ClockCommand::Slow(factor) if factor == 0 || factor > 1000 => return Err(OperatorRefusal::OutOfRange),
            _ => {}
        }
        self.set(now);
        match command {
            ClockCommand::Pause => self.is_paused = true,
            ClockCommand::Resume => self.is_paused = false,
            ClockCommand::Step(count) => self.steps += count,
            ClockCommand::Slow(factor) => self.slowdown = factor,
        }
        Ok(ClockView { tick: self.last, paused: self.is_paused, slowdown: self.slowdown })
    }

    /// Records that a message of `conn` reached the application.
    pub(super) fn note_message(&mut self, now: Time, conn: ConnId) {
        if !self.is_draining {
            self.delivered.push((now, conn));
        }
    }

    /// Forgets the messages of `conn`, which ended: its inbox is delivered before `on_leave`, outside of ticks.
    pub(super) fn left(&mut self, conn: ConnId) {
        self.delivered.retain(|&(_, sender)| sender != conn);
    }

    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        self.delivered.clear();
    }

    /// Checks a tick that runs now, and the messages that the application received before it.
    pub(super) fn tick(&mut self, now: Time, tick: &Tick) -> Result<(), String> {
        let number = tick.number();
        if number != self.last + tick.skipped() + 1 {
            return Err(format!("{tick:?} follows tick {}", self.last));
        }
        if !self.delivered.is_sorted_by_key(|&(_, conn)| conn) || self.delivered.iter().any(|&(at, _)| at != now) {
            return Err(format!(
                "messages before {tick:?} at {now} have another time or are not in the order of connections: {:?}",
                self.delivered
            ));
        }
        self.delivered.clear();
        self.has_ticked = true;
        self.last = number;
        self.ran += 1;
        self.skipped += tick.skipped();
        if self.steps > 0 {
            self.steps -= 1;
            self.set(now);
            self.shown = self.shown.max(self.due(number));
            let is_plain = tick.skipped() == 0 && tick.late().is_zero();
            return if is_plain { Ok(()) } else { Err(format!("a single step is late or skips ticks: {tick:?}")) };
        }
        let (shown, slack) = (self.shown_at(now), self.slack());
        if self.is_paused || self.due(number) > shown {
            return Err(format!("{tick:?} at {now}, but the clock shows {shown} ns"));
        }
        let late = (shown - self.due(number)) * u128::from(self.slowdown);
        let least = late.min((now - Time::ZERO).as_nanos()).saturating_sub(slack * u128::from(self.slowdown));
        if !(least..=late + 1000 * u128::from(self.slowdown)).contains(&tick.late().as_nanos()) {
            return Err(format!("{tick:?} is {late} ns late"));
        }
        let next = self.due(number + 1);
        if tick.is_catching_up() && next > shown || !tick.is_catching_up() && next + slack <= shown {
            return Err(format!("{tick:?} at {now}, but the clock shows {shown} ns"));
        }
        if self.turn.0 != now {
            self.turn = (now, 0, 0);
        }
        self.turn.1 += 1;
        self.turn.2 += tick.skipped();
        if self.turn.1 > self.max_catch_up + 1 {
            return Err(format!("{tick:?} exceeds max_catch_up_ticks"));
        }
        Ok(())
    }

    /// Whether output may be corked until the next tick.
    fn may_cork(&self) -> bool {
        !(self.has_ticked || self.is_paused || self.is_draining)
    }

    /// Checks, after a turn, that all due ticks have run and that all messages received before them were delivered.
    pub(super) fn check(&mut self, now: Time, inbox_bytes: usize) -> Result<(), String> {
        if !self.delivered.is_empty() && !self.is_draining {
            return Err(format!("messages were delivered outside of a tick: {:?}", self.delivered));
        }
        let (shown, next) = (self.shown_at(now), self.due(self.last + 1));
        if self.steps > 0 || (!self.is_paused && next + self.slack() <= shown) {
            return Err(format!("tick {} was due at {next} ns, but the clock shows {shown} ns", self.last + 1));
        }
        let (at, ran, skipped) = self.turn;
        if at == now && skipped > 0 && ran != self.max_catch_up + 1 {
            return Err(format!("{skipped} ticks were skipped, although only {ran} ran"));
        }
        if std::mem::take(&mut self.has_ticked) && inbox_bytes > 0 {
            return Err(format!("{inbox_bytes} bytes remain in inboxes after a tick"));
        }
        Ok(())
    }

    /// Compares the engine's counters with those of the model.
    pub(super) fn check_counts(&self, ran: u64, skipped: u64) -> Result<(), String> {
        if (ran, skipped) == (self.ran, self.skipped) {
            Ok(())
        } else {
            Err(format!(
                "the engine counts {ran} ticks and {skipped} skipped, the model {} and {}",
                self.ran, self.skipped
            ))
        }
    }
}

impl<A: App> World<A> {
    /// Sends a random clock command as an operator.
    pub(super) fn set_clock(&mut self) -> Result<(), String> {
        let random = &mut self.control;
        let command = match random.below(10) {
            0..2 => ClockCommand::Pause,
            2..6 => ClockCommand::Resume,
            6..8 => ClockCommand::Step(pick(random, &[0, 1, 1, 3, 7, 100, 101])),
            _ => ClockCommand::Slow(pick(random, &[0, 1, 1, 1, 2, 3, 10, 1000, 1001])),
        };
        self.command_clock(command)
    }

    /// Sends a clock command as an operator and compares the answer with that of the model.
    pub(super) fn command_clock(&mut self, command: ClockCommand) -> Result<(), String> {
        self.turn_open = true;
        let number = match command {
            ClockCommand::Pause => 1 << 32,
            ClockCommand::Resume => 2 << 32,
            ClockCommand::Step(ticks) => 3 << 32 | u64::from(ticks),
            ClockCommand::Slow(factor) => 4 << 32 | u64::from(factor),
        };
        self.transcript.note(self.now, NO_CLIENT, EventKind::Did(Behaviour::Clock), number, &[]);
        let now = self.now;
        let answer = self.engine.handle_operator(now, OperatorCommand::Clock(command));
        let expected = match &mut self.engine.observed_app().observed.tick_model {
            Some(tick_model) => tick_model.command(now, command).map(OperatorAnswer::Clock),
            None => Err(OperatorRefusal::NoTicks),
        };
        if answer == expected {
            Ok(())
        } else {
            Err(format!("the answer to {command:?} is {answer:?}, expected {expected:?}"))
        }
    }

    /// Resumes the clock, slowed down so that about [`FINAL_TICKS`] ticks run during `span`.
    pub(super) fn set_final_clock(&mut self, span: Duration) -> Result<(), String> {
        let Some(hz) = self.engine.config().tick_hz else { return Ok(()) };
        let factor = span.as_millis() * u128::from(hz) / 1000 / FINAL_TICKS;
        self.command_clock(ClockCommand::Slow(factor.clamp(1, 1000) as u32))?;
        self.command_clock(ClockCommand::Resume)
    }

    /// Returns the number of bytes in the inboxes, which wait for the next tick.
    pub(super) fn inbox_bytes(&self) -> usize {
        self.engine.stats().ticks.map_or(0, |ticks| ticks.inbox_bytes)
    }

    /// Whether a connection has corked output, which waits for the next tick.
    pub(super) fn has_corked_output(&self) -> bool {
        let conns = self.links.iter().flatten().filter(|link| !link.pipe.is_blocked).filter_map(|link| link.conn);
        self.may_cork() && conns.into_iter().any(|conn| self.engine.queued_bytes(conn) > 0)
    }

    /// Whether queued output may wait for the next tick although its socket is not blocked.
    pub(super) fn may_cork(&self) -> bool {
        let tick_model = self.engine.app().observed.tick_model.as_ref();
        self.engine.config().flush == Flush::Tick && tick_model.is_some_and(TickModel::may_cork)
    }

    pub(super) fn check_ticks(&mut self) -> Result<(), String> {
        let inbox_bytes = self.inbox_bytes();
        match &mut self.engine.observed_app().observed.tick_model {
            Some(tick_model) => tick_model.check(self.now, inbox_bytes),
            None => Ok(()),
        }
    }
}

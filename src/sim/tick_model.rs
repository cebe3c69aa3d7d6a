//! Ticks: how they are drawn, what an operator does to the clock, and whether each comes when it must, as it must, and
//! after what it must.
//!
//! The clock is kept a second time here, in nanoseconds and by other sums than the engine's.

use std::time::Duration;

use super::limit_model::pick;
use super::swarm::Behaviour;
use super::transcript::{NOBODY, What};
use super::world::World;
use crate::config::{ByteSize, Config, Flush};
use crate::engine::app::App;
use crate::engine::operator::{OperatorAnswer, OperatorCommand, OperatorRefusal};
use crate::engine::tick::{ClockCommand, ClockView, Tick};
use crate::id::ConnId;
use crate::random::Random;
use crate::time::Time;

/// An inbox that nobody fills, so that nobody is refused.
const VAST: ByteSize = ByteSize(1 << 30);
/// In the calm at the end there are about so many ticks, however fast the clock ran before.
const CALM_TICKS: u128 = 500;

/// Draws the ticks of a run.
pub(super) fn draw(config: &mut Config, random: &mut Random) {
    config.tick_hz = Some(pick(random, &[1, 3, 10, 30, 60, 144, 1000]));
    config.flush = if random.percent(40) { Flush::Tick } else { Flush::Turn };
    config.max_catch_up_ticks = pick(random, &[0, 1, 5, 20]);
    config.max_inbox_bytes =
        pick(random, &[ByteSize(0), ByteSize(500), ByteSize(5000), ByteSize::kib(64), VAST, VAST, VAST]);
}

/// Whether anybody may be refused because too much waits for the next tick.
pub(super) fn are_inboxes_limited(config: &Config) -> bool {
    config.tick_hz.is_some() && config.max_inbox_bytes < VAST
}

/// What is known of the ticks so far.
#[derive(Debug)]
pub(super) struct TickModel {
    hz: u64,
    max_catch_up: u64,
    /// Nanoseconds that the clock showed at `since`.
    shown: u128,
    since: Time,
    slowdown: u32,
    is_paused: bool,
    /// How often the clock was set: each time the engine rounds a microsecond away.
    settings: u128,
    steps: u32,
    last: u64,
    ran: u64,
    skipped: u64,
    /// Ticks that ran by the clock at this time, and those that were skipped.
    turn: (Time, u64, u64),
    /// Who was heard since the last tick, and when.
    heard: Vec<(Time, ConnId)>,
    /// Whether a tick has come in this turn.
    has_come: bool,
    /// Everybody is heard at once when the server drains.
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
            heard: Vec::new(),
            has_come: false,
            is_draining: false,
        })
    }

    fn shown_at(&self, now: Time) -> u128 {
        let run = if self.is_paused { 0 } else { (now - self.since).as_nanos() / u128::from(self.slowdown) };
        self.shown + run
    }

    /// Nanoseconds, in whole microseconds.
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

    /// What an operator's command must come to.
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

    /// A member's words reach the application.
    pub(super) fn hear(&mut self, now: Time, conn: ConnId) {
        if !self.is_draining {
            self.heard.push((now, conn));
        }
    }

    /// Whoever goes is heard before that, whenever that is.
    pub(super) fn left(&mut self, conn: ConnId) {
        self.heard.retain(|&(_, heard)| heard != conn);
    }

    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        self.heard.clear();
    }

    /// A tick has come.
    pub(super) fn tick(&mut self, now: Time, tick: &Tick) -> Result<(), String> {
        let number = tick.number();
        if number != self.last + tick.skipped() + 1 {
            return Err(format!("{tick:?} after tick {}", self.last));
        }
        if !self.heard.is_sorted_by_key(|&(_, conn)| conn) || self.heard.iter().any(|&(at, _)| at != now) {
            return Err(format!("before {tick:?} at {now} were heard, at their times, {:?}", self.heard));
        }
        self.heard.clear();
        self.has_come = true;
        self.last = number;
        self.ran += 1;
        self.skipped += tick.skipped();
        if self.steps > 0 {
            self.steps -= 1;
            self.set(now);
            self.shown = self.shown.max(self.due(number));
            let is_plain = tick.skipped() == 0 && tick.late().is_zero();
            return if is_plain { Ok(()) } else { Err(format!("a step is {tick:?}")) };
        }
        let (shown, slack) = (self.shown_at(now), self.slack());
        if self.is_paused || self.due(number) > shown {
            return Err(format!("{tick:?} at {now}, when the clock shows {shown} ns"));
        }
        let late = (shown - self.due(number)) * u128::from(self.slowdown);
        let least = late.min((now - Time::ZERO).as_nanos()).saturating_sub(slack * u128::from(self.slowdown));
        if !(least..=late + 1000 * u128::from(self.slowdown)).contains(&tick.late().as_nanos()) {
            return Err(format!("{tick:?} is {late} ns late"));
        }
        let next = self.due(number + 1);
        if tick.is_catching_up() && next > shown || !tick.is_catching_up() && next + slack <= shown {
            return Err(format!("{tick:?} at {now}, when the clock shows {shown} ns"));
        }
        if self.turn.0 != now {
            self.turn = (now, 0, 0);
        }
        self.turn.1 += 1;
        self.turn.2 += tick.skipped();
        if self.turn.1 > self.max_catch_up + 1 {
            return Err(format!("{tick:?} is one too many at once"));
        }
        Ok(())
    }

    /// Whether what is said may still wait for the next tick.
    fn may_hold(&self) -> bool {
        !(self.has_come || self.is_paused || self.is_draining)
    }

    /// After a turn: what was due has come, and all that was said before it.
    pub(super) fn check(&mut self, now: Time, inbox_bytes: usize) -> Result<(), String> {
        if !self.heard.is_empty() && !self.is_draining {
            return Err(format!("heard outside of a tick, at their times: {:?}", self.heard));
        }
        let (shown, next) = (self.shown_at(now), self.due(self.last + 1));
        if self.steps > 0 || (!self.is_paused && next + self.slack() <= shown) {
            return Err(format!("tick {} was due at {next} ns, and the clock shows {shown} ns", self.last + 1));
        }
        let (at, ran, skipped) = self.turn;
        if at == now && skipped > 0 && ran != self.max_catch_up + 1 {
            return Err(format!("{skipped} ticks were skipped, and only {ran} have run"));
        }
        if std::mem::take(&mut self.has_come) && inbox_bytes > 0 {
            return Err(format!("{inbox_bytes} bytes wait after a tick"));
        }
        Ok(())
    }

    /// At the end: what was counted.
    pub(super) fn check_counts(&self, ran: u64, skipped: u64) -> Result<(), String> {
        if (ran, skipped) == (self.ran, self.skipped) {
            Ok(())
        } else {
            Err(format!(
                "{ran} ticks and {skipped} skipped are counted, and there were {} and {}",
                self.ran, self.skipped
            ))
        }
    }
}

impl<A: App> World<A> {
    /// An operator sets the clock.
    pub(super) fn set_clock(&mut self) -> Result<(), String> {
        let random = &mut self.owner;
        let command = match random.below(10) {
            0..2 => ClockCommand::Pause,
            2..6 => ClockCommand::Resume,
            6..8 => ClockCommand::Step(pick(random, &[0, 1, 1, 3, 7, 100, 101])),
            _ => ClockCommand::Slow(pick(random, &[0, 1, 1, 1, 2, 3, 10, 1000, 1001])),
        };
        self.command_clock(command)
    }

    /// Does what an operator may, and compares what comes of it.
    pub(super) fn command_clock(&mut self, command: ClockCommand) -> Result<(), String> {
        self.turn_open = true;
        let number = match command {
            ClockCommand::Pause => 1 << 32,
            ClockCommand::Resume => 2 << 32,
            ClockCommand::Step(ticks) => 3 << 32 | u64::from(ticks),
            ClockCommand::Slow(factor) => 4 << 32 | u64::from(factor),
        };
        self.transcript.note(self.now, NOBODY, What::Did(Behaviour::Clock), number, &[]);
        let now = self.now;
        let answer = self.engine.handle_operator(now, OperatorCommand::Clock(command));
        let expected = match &mut self.engine.observed_app().seen.tick_model {
            Some(tick_model) => tick_model.command(now, command).map(OperatorAnswer::Clock),
            None => Err(OperatorRefusal::NoTicks),
        };
        if answer == expected { Ok(()) } else { Err(format!("{command:?} was answered {answer:?}, not {expected:?}")) }
    }

    /// The clock goes on, so slowly that `span` passes in some hundred ticks.
    pub(super) fn calm_clock(&mut self, span: Duration) -> Result<(), String> {
        let Some(hz) = self.engine.config().tick_hz else { return Ok(()) };
        let factor = span.as_millis() * u128::from(hz) / 1000 / CALM_TICKS;
        self.command_clock(ClockCommand::Slow(factor.clamp(1, 1000) as u32))?;
        self.command_clock(ClockCommand::Resume)
    }

    /// Bytes that wait for the next tick.
    pub(super) fn kept_bytes(&self) -> usize {
        self.engine.stats().ticks.map_or(0, |ticks| ticks.inbox_bytes)
    }

    /// Whether something is queued and waits for the next tick.
    pub(super) fn holds_something(&self) -> bool {
        let conns = self.links.iter().flatten().filter(|link| !link.pipe.is_blocked).filter_map(|link| link.conn);
        self.may_hold() && conns.into_iter().any(|conn| self.engine.queued_bytes(conn) > 0)
    }

    /// Whether what is queued may wait for the next tick, although its socket is not blocked.
    pub(super) fn may_hold(&self) -> bool {
        let tick_model = self.engine.app().seen.tick_model.as_ref();
        self.engine.config().flush == Flush::Tick && tick_model.is_some_and(TickModel::may_hold)
    }

    pub(super) fn check_ticks(&mut self) -> Result<(), String> {
        let kept = self.kept_bytes();
        match &mut self.engine.observed_app().seen.tick_model {
            Some(tick_model) => tick_model.check(self.now, kept),
            None => Ok(()),
        }
    }
}

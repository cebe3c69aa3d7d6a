//! Model of the ticks: the number, the time and the order of every tick, and the answers to clock commands.
//!
//! Fed with ticks, messages and an operator's clock commands. Keeps the tick clock independently of the engine: in
//! nanoseconds, and with other arithmetic.

use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::config::Config;
use crate::engine::operator::OperatorRefusal;
use crate::engine::state::ticks::{ClockCommand, ClockView, Tick};

/// State of the tick clock and counters of the ticks so far.
#[derive(Debug)]
pub(crate) struct TickModel {
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
    pub(crate) fn new(config: &Config) -> Option<TickModel> {
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
    pub(crate) fn command(&mut self, now: Time, command: ClockCommand) -> Result<ClockView, OperatorRefusal> {
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

    /// A message of `conn` reached the application.
    pub(crate) fn message(&mut self, now: Time, conn: ConnId) {
        if !self.is_draining {
            self.delivered.push((now, conn));
        }
    }

    /// The member on `conn` left. Its messages are forgotten: its inbox is delivered before `on_leave`, outside of ticks.
    pub(crate) fn left(&mut self, conn: ConnId) {
        self.delivered.retain(|&(_, sender)| sender != conn);
    }

    /// The drain began.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
        self.delivered.clear();
    }

    /// A tick runs now. Checks it, and the messages that the application received before it.
    pub(crate) fn tick(&mut self, now: Time, tick: &Tick) -> Result<(), String> {
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
    pub(crate) fn may_cork(&self) -> bool {
        !(self.has_ticked || self.is_paused || self.is_draining)
    }

    /// Checks, after a turn, that all due ticks have run and that all messages received before them were delivered.
    pub(crate) fn check(&mut self, now: Time, inbox_bytes: usize) -> Result<(), String> {
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
    pub(crate) fn check_counts(&self, ran: u64, skipped: u64) -> Result<(), String> {
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

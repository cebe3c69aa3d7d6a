//! The game clock: which ticks are due, which of them run, and how late.
//!
//! The game clock runs with the engine's time, or slower by a whole factor, or is paused. Tick `n` is due when the
//! clock shows `n * 1_000_000 / tick_hz` microseconds. Due times are multiplied and never added up, so that they do not
//! drift. Knows no connections and no application.
//!
//! ```text
//! waiting --begin()--> under way: queued messages are delivered --take_under_way()--> waiting
//! running <--Pause, Resume--> paused: a tick runs only for a Step
//! ```

use std::fmt;
use std::time::Duration;

use super::histogram::Histogram;
use crate::base::distribution::Distribution;
use crate::base::time::Time;
use crate::config::Config;

/// Largest number of ticks that [`ClockCommand::Step`] may request before they run: all of them run in one turn.
pub(crate) const MAX_STEPS: u32 = 100;
/// Largest factor by which the clock may be slowed.
pub(crate) const MAX_SLOWDOWN: u32 = 1000;

/// One tick of the game: see [`App::on_tick`](crate::App::on_tick).
///
/// [`App::on_tick`](crate::App::on_tick) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    number: u64,
    late: Duration,
    skipped: u64,
    is_catching_up: bool,
}

impl Tick {
    /// The tick's number. The first tick is 1, one period after the start. Skipped ticks have numbers too.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How long after its due time the tick runs.
    pub fn late(&self) -> Duration {
        self.late
    }

    /// Number of ticks directly before this one that were skipped, because more than `max_catch_up_ticks` were late.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether the next tick is due already and follows at once.
    pub fn is_catching_up(&self) -> bool {
        self.is_catching_up
    }
}

/// A command to the game clock. It changes nothing else in the server. Plain data, for operators and `net::Handle`.
///
/// ```
/// use lobbyd::apps::Echo;
/// use lobbyd::driver::Start;
/// use lobbyd::operator::{OperatorAnswer, OperatorCommand};
/// use lobbyd::ticks::ClockCommand;
/// use lobbyd::{Config, Engine, Time};
///
/// let config = Config { tick_hz: Some(60), ..Config::default() }.check()?;
/// let mut engine = Engine::new(config, Start { unix_micros: 0, seed: 1 }, Echo);
/// let answer = engine.handle_operator(Time::ZERO, OperatorCommand::Clock(ClockCommand::Pause));
/// let Ok(OperatorAnswer::Clock(clock)) = answer else { panic!("{answer:?}") };
/// assert!(clock.paused);
/// # Ok::<(), lobbyd::config::Problems>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockCommand {
    /// Stops the clock. Until it resumes, no tick runs and the members' messages wait.
    Pause,
    /// Resumes the clock at the time it shows.
    Resume,
    /// Runs this many ticks, from 1 to 100, at the end of the turn. The clock must be paused.
    Step(u32),
    /// Slows the clock by this factor, from 1 to 1000. At 1 it runs at normal speed.
    Slow(u32),
}

/// Why a [`ClockCommand`] was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockRefusal {
    /// Only a paused clock can be stepped.
    Runs,
    /// The number of the command is out of range.
    OutOfRange,
}

/// State of the game clock.
///
/// [`ClockCommand`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClockView {
    /// Number of the last tick that is over or under way.
    pub tick: u64,
    /// Whether the clock is paused.
    pub paused: bool,
    /// Factor by which the clock is slowed while it runs.
    pub slowdown: u32,
}

/// Tick counts since the start, and the current state of the game clock.
///
/// [`Stats`](crate::stats::Stats) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TickStats {
    /// Ticks per second at normal speed.
    pub hz: u32,
    /// State of the game clock.
    pub clock: ClockView,
    /// Ticks that have run.
    pub ran: u64,
    /// Ticks that ran when the next one was already due.
    pub caught_up: u64,
    /// Ticks that were skipped.
    pub skipped: u64,
    /// Messages that were refused because the inbox of their connection was full.
    pub refused: u64,
    /// Bytes of the messages that wait for the next tick, plus 64 per message.
    pub inbox_bytes: usize,
    /// Median lateness of the ticks, without stepped ticks, in microseconds. At most 7 % too high.
    pub late_p50: u64,
    /// 99th percentile of the lateness, in microseconds. At most 7 % too high.
    pub late_p99: u64,
    /// Largest lateness, in microseconds. Exact.
    pub late_max: u64,
}

/// The form used in the log's line of statistics.
impl fmt::Display for TickStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClockView { tick, paused, slowdown } = self.clock;
        write!(f, "tick={tick} ticks_ran={} late_us={}/{}/{}", self.ran, self.late_p50, self.late_p99, self.late_max)?;
        if paused {
            f.write_str(" clock=paused")?;
        }
        if slowdown > 1 {
            write!(f, " slowdown={slowdown}")?;
        }
        let counts = [("caught_up", self.caught_up), ("skipped", self.skipped), ("inbox_refused", self.refused)];
        counts.iter().filter(|(_, count)| *count > 0).try_for_each(|(name, count)| write!(f, " {name}={count}"))
    }
}

#[derive(Debug)]
pub(crate) struct Ticks {
    hz: u32,
    max_catch_up: u64,
    /// Number of the last tick that ran or was skipped.
    last: u64,
    /// The time of the last change of the clock's state. The clock showed `game` microseconds then.
    since: Time,
    game: u64,
    slowdown: u32,
    is_paused: bool,
    /// Number of ticks that a step command has still to run.
    steps: u32,
    /// The tick that has begun, until the application receives it. The queued messages are delivered first.
    under_way: Option<Tick>,
    ran: u64,
    caught_up: u64,
    skipped: u64,
    pub(crate) refused: u64,
    lateness: Histogram,
    /// The same lateness in fixed ranges, for monitoring. Not part of a checkpoint.
    lateness_ranges: Distribution,
}

impl Ticks {
    pub(crate) fn new(config: &Config) -> Option<Ticks> {
        config.tick_hz.map(|hz| Ticks {
            hz,
            max_catch_up: config.max_catch_up_ticks.into(),
            last: 0,
            since: Time::ZERO,
            game: 0,
            slowdown: 1,
            is_paused: false,
            steps: 0,
            under_way: None,
            ran: 0,
            caught_up: 0,
            skipped: 0,
            refused: 0,
            lateness: Histogram::default(),
            lateness_ranges: Distribution::of_durations(),
        })
    }

    /// The state between two ticks, as numbers for a checkpoint.
    pub(crate) fn numbers(&mut self) -> Vec<u64> {
        debug_assert!(self.under_way.is_none(), "a checkpoint is taken between two ticks");
        let clock = [self.last, self.since.as_micros(), self.game, self.slowdown.into(), self.is_paused.into()];
        let counts = [self.steps.into(), self.ran, self.caught_up, self.skipped, self.refused];
        clock.into_iter().chain(counts).chain(self.lateness.all_mut().map(|number| *number)).collect()
    }

    /// Restores the state from the [`numbers`](Self::numbers) of a checkpoint.
    pub(crate) fn set_numbers(&mut self, numbers: &[u64]) {
        let mut numbers = numbers.iter().copied();
        let mut next = || numbers.next().unwrap_or_default();
        (self.last, self.since, self.game) = (next(), Time::from_micros(next()), next());
        self.slowdown = next().clamp(1, MAX_SLOWDOWN.into()) as u32;
        self.is_paused = next() != 0;
        self.steps = next().min(MAX_STEPS.into()) as u32;
        (self.ran, self.caught_up, self.skipped, self.refused) = (next(), next(), next(), next());
        self.lateness.all_mut().for_each(|number| *number = next());
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    pub(crate) fn view(&self) -> ClockView {
        ClockView { tick: self.last, paused: self.is_paused, slowdown: self.slowdown }
    }

    pub(crate) fn stats(&self, inbox_bytes: usize) -> TickStats {
        TickStats {
            hz: self.hz,
            clock: self.view(),
            ran: self.ran,
            caught_up: self.caught_up,
            skipped: self.skipped,
            refused: self.refused,
            inbox_bytes,
            late_p50: self.lateness.quantile(50),
            late_p99: self.lateness.quantile(99),
            late_max: self.lateness.max(),
        }
    }

    /// The lateness of the ticks, without stepped ticks.
    pub(crate) fn lateness(&self) -> Distribution {
        self.lateness_ranges
    }

    // ---- due times ----

    /// Time between two ticks.
    pub(crate) fn period(&self) -> Duration {
        Duration::from_secs(1) / self.hz * self.slowdown
    }

    /// The clock's time, in microseconds, at which tick `number` is due.
    fn due(&self, number: u64) -> u64 {
        number.saturating_mul(1_000_000) / u64::from(self.hz)
    }

    /// The engine's time at which tick `number` is due, if the clock is not changed. May be before `since`.
    fn due_at(&self, number: u64) -> Time {
        let (due, slowdown) = (self.due(number), u64::from(self.slowdown));
        Time::from_micros(match due.checked_sub(self.game) {
            Some(ahead) => self.since.as_micros().saturating_add(ahead.saturating_mul(slowdown)),
            None => self.since.as_micros().saturating_sub((self.game - due).saturating_mul(slowdown)),
        })
    }

    /// The clock's time at `now`, in microseconds.
    fn game_at(&self, now: Time) -> u64 {
        let run = if self.is_paused { 0 } else { (now - self.since).as_micros() as u64 / u64::from(self.slowdown) };
        self.game.saturating_add(run)
    }

    /// Number of the last tick that is due at `now`.
    fn last_due(&self, now: Time) -> u64 {
        let shown = u128::from(self.game_at(now)) + 1;
        // The largest n for which n * 1_000_000 / hz, rounded down, is not above the clock's time.
        ((shown * u128::from(self.hz)).div_ceil(1_000_000) - 1) as u64
    }

    /// Time at which the next tick begins or the tick under way continues. `None` while the clock is paused and not
    /// stepped.
    pub(crate) fn next(&self, now: Time) -> Option<Time> {
        if self.under_way.is_some() || self.steps > 0 {
            return Some(now);
        }
        (!self.is_paused).then(|| self.due_at(self.last + 1))
    }

    /// Time until messages that wait for the next tick are delivered. `None` while the clock is paused and not
    /// stepped.
    pub(crate) fn wait(&self, now: Time) -> Option<Duration> {
        self.next(now).map(|next| next - now)
    }

    // ---- running ticks ----

    /// Begins the next tick, if one is to run at `now`. Returns whether one has begun.
    pub(crate) fn begin(&mut self, now: Time) -> bool {
        let tick = if self.steps > 0 { Some(self.step(now)) } else { self.next_due(now) };
        if let Some(tick) = tick {
            self.last = tick.number;
            self.ran += 1;
            self.caught_up += u64::from(tick.is_catching_up);
            self.skipped += tick.skipped;
            self.under_way = Some(tick);
        }
        tick.is_some()
    }

    /// Takes the tick that has begun, for the application.
    pub(crate) fn take_under_way(&mut self) -> Option<Tick> {
        self.under_way.take()
    }

    fn next_due(&mut self, now: Time) -> Option<Tick> {
        if self.is_paused {
            return None;
        }
        let last_due = self.last_due(now);
        let due = last_due.saturating_sub(self.last);
        if due == 0 {
            return None;
        }
        // The last due tick is the current one. The ticks before it are late, and the oldest of them may be skipped.
        let skipped = (due - 1).saturating_sub(self.max_catch_up);
        let number = self.last + skipped + 1;
        let late = now - self.due_at(number);
        self.lateness.record(late.as_micros() as u64);
        self.lateness_ranges.record(late.as_micros() as u64);
        Some(Tick { number, late, skipped, is_catching_up: number < last_due })
    }

    /// Takes one step: moves the clock to the due time of the next tick, unless the clock is past it.
    fn step(&mut self, now: Time) -> Tick {
        self.steps -= 1;
        self.set(now);
        let number = self.last + 1;
        self.game = self.game.max(self.due(number));
        Tick { number, late: Duration::ZERO, skipped: 0, is_catching_up: self.steps > 0 }
    }

    // ---- the clock ----

    /// Stores the clock's time at `now`, so that its state can be changed from `now` on.
    fn set(&mut self, now: Time) {
        (self.game, self.since) = (self.game_at(now), now);
    }

    pub(crate) fn command(&mut self, now: Time, command: ClockCommand) -> Result<(), ClockRefusal> {
        self.set(now);
        match command {
            ClockCommand::Pause => self.is_paused = true,
            ClockCommand::Resume => self.is_paused = false,
            ClockCommand::Step(_) if !self.is_paused => return Err(ClockRefusal::Runs),
            ClockCommand::Step(count) if count == 0 || count > MAX_STEPS - self.steps => {
                return Err(ClockRefusal::OutOfRange);
            }
            ClockCommand::Step(count) => self.steps += count,
            ClockCommand::Slow(factor) if !(1..=MAX_SLOWDOWN).contains(&factor) => {
                return Err(ClockRefusal::OutOfRange);
            }
            ClockCommand::Slow(factor) => self.slowdown = factor,
        }
        Ok(())
    }

    pub(crate) fn check(&self) {
        assert!(self.steps <= MAX_STEPS, "steps are bounded");
        assert!((1..=MAX_SLOWDOWN).contains(&self.slowdown));
        assert_eq!(self.ran + self.skipped, self.last, "every tick ran or was skipped");
        assert!(self.caught_up <= self.ran);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    fn ticks(hz: u32, max_catch_up_ticks: u32) -> Ticks {
        let config = Config { tick_hz: Some(hz), max_catch_up_ticks, ..Config::default() };
        Ticks::new(&config).expect("ticks are on")
    }

    /// Runs the ticks that are due at `now`. Returns their numbers and their lateness in microseconds.
    fn run(ticks: &mut Ticks, now: u64) -> Vec<(u64, u64)> {
        let now = Time::from_micros(now);
        let mut ran = Vec::new();
        while ticks.begin(now) {
            let tick = ticks.take_under_way().expect("the tick has begun");
            ran.push((tick.number(), tick.late().as_micros() as u64));
        }
        ticks.check();
        ran
    }

    #[test]
    fn a_million_ticks_do_not_drift() {
        for hz in [1, 3, 7, 60, 144, 333, 999, 1000] {
            let mut ticks = ticks(hz, 0);
            for number in 1..=1_000_000 {
                let at = ticks.next(Time::ZERO).expect("the clock runs").as_micros();
                assert_eq!(at, number * 1_000_000 / u64::from(hz), "tick {number} at {hz} Hz");
                assert!(!ticks.begin(Time::from_micros(at - 1)), "tick {number} at {hz} Hz is early");
                assert!(ticks.begin(Time::from_micros(at)), "tick {number} at {hz} Hz");
                assert_eq!(
                    ticks.take_under_way().map(|tick| (tick.number(), tick.late())),
                    Some((number, Duration::ZERO))
                );
            }
            assert_eq!((ticks.ran, ticks.skipped), (1_000_000, 0));
        }
    }

    #[test]
    fn late_ticks_are_caught_up_and_the_oldest_skipped() {
        let mut ticks = ticks(10, 2);
        assert_eq!(run(&mut ticks, 100_000), [(1, 0)]);
        assert_eq!(run(&mut ticks, 310_000), [(2, 110_000), (3, 10_000)]);
        assert_eq!(run(&mut ticks, 1_050_000), [(8, 250_000), (9, 150_000), (10, 50_000)]);
        assert_eq!((ticks.caught_up, ticks.skipped), (3, 4));
    }

    #[test]
    fn a_paused_clock_can_be_stepped_and_resumes_at_its_time() {
        let mut ticks = ticks(10, 5);
        let at = Time::from_micros;
        assert_eq!(ticks.command(at(10_000), ClockCommand::Step(1)), Err(ClockRefusal::Runs));
        assert_eq!(ticks.command(at(150_000), ClockCommand::Pause), Ok(()));
        assert_eq!(run(&mut ticks, 900_000), [], "a tick that was due before the pause waits too");
        assert_eq!(ticks.command(at(900_000), ClockCommand::Step(0)), Err(ClockRefusal::OutOfRange));
        assert_eq!(ticks.command(at(900_000), ClockCommand::Step(3)), Ok(()));
        assert_eq!(ticks.command(at(900_000), ClockCommand::Step(MAX_STEPS - 2)), Err(ClockRefusal::OutOfRange));
        assert_eq!(run(&mut ticks, 900_000), [(1, 0), (2, 0), (3, 0)]);
        assert_eq!(ticks.command(at(1_000_000), ClockCommand::Resume), Ok(()));
        assert_eq!(ticks.next(at(1_000_000)), Some(at(1_100_000)), "tick 3 has just run");
        assert_eq!(run(&mut ticks, 1_100_000), [(4, 0)]);
        assert_eq!(ticks.command(at(1_150_000), ClockCommand::Slow(4)), Ok(()));
        assert_eq!(ticks.next(at(1_150_000)), Some(at(1_350_000)), "half a period is left, four times as long");
        assert_eq!(ticks.command(at(1_150_000), ClockCommand::Slow(1001)), Err(ClockRefusal::OutOfRange));
        assert_eq!(run(&mut ticks, 1_349_999), []);
        assert_eq!(run(&mut ticks, 1_350_000), [(5, 0)]);
    }

    /// After any commands, a tick runs exactly at the time that `next()` returns, and not a microsecond earlier.
    #[test]
    fn next_is_the_exact_time_of_the_next_tick() {
        for seed in 0..2000 {
            let mut random = Random::new(seed);
            let mut ticks = ticks(1 + random.below(1000) as u32, random.below(4) as u32);
            let mut now = 0;
            for _ in 0..40 {
                now += random.below(40_000);
                let command = match random.below(6) {
                    0 => Some(ClockCommand::Pause),
                    1 => Some(ClockCommand::Slow(1 + random.below(9) as u32)),
                    2 => Some(ClockCommand::Step(1 + random.below(3) as u32)),
                    3 => Some(ClockCommand::Resume),
                    _ => None,
                };
                // A step is refused while the clock runs.
                let _ = command.map(|command| ticks.command(Time::from_micros(now), command));
                run(&mut ticks, now);
                let Some(next) = ticks.next(Time::from_micros(now)).map(Time::as_micros) else { continue };
                assert!(next > now, "seed {seed}");
                assert!(run(&mut ticks, next - 1).is_empty(), "seed {seed}");
                let ran = run(&mut ticks, next);
                assert_eq!(ran.iter().map(|&(_, late)| late).collect::<Vec<_>>(), [0], "seed {seed}");
                now = next;
            }
        }
    }
}

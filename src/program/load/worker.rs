//! One thread: the members of some lobbies on one event loop.
//!
//! Open loop: when a message is due does not depend on the answers to earlier ones, and its latency begins when it was due.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};

use super::clock::Clock;
use super::ended::Ended;
use super::member::{Member, READ_BYTES, Schedule, State};
use super::plan::{CONNECT_MICROS, Plan};
use super::receiving::Receiver;
use super::shared::{NEVER, Report, Shared};
use super::socket::Part;
use super::tally::{Interval, Tally, record};
use super::timer::Timer;

/// Longest wait without an event, so that other threads and deadlines are noticed.
const MAX_WAIT_MICROS: u64 = 10_000;
/// Time between two looks at all members.
const ADVANCE_MICROS: u64 = 5_000;
/// Time for the last messages and answers to arrive.
const DRAIN_MICROS: u64 = 5_000_000;
/// Time for the answers to leaves.
const LEAVE_MICROS: u64 = 2_000_000;
/// Longest wait of a member that comes back.
const MAX_BACKOFF_MICROS: u64 = 5_000_000;
/// Attempts of a member that has never been answered.
const MAX_FAILED_ATTEMPTS: u32 = 4;
/// Reads of a socket in a turn, of [`READ_BYTES`] each, so that a socket that always has more does not hold up the others.
const MAX_READS: usize = 4;
const SECOND: u64 = 1_000_000;
const TIMER: Token = Token(usize::MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ramp,
    /// Waits for the members of other threads.
    Settled,
    Talk {
        end: u64,
    },
    Drain {
        until: u64,
    },
    Leave {
        until: u64,
    },
}

pub(super) struct Worker {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    clock: Clock,
    poll: Poll,
    timer: Timer,
    members: Vec<Member>,
    /// Sockets with something to read. Readiness is edge-triggered: no event reports again what was left in one of them.
    unread: BTreeSet<Token>,
    /// When members connect.
    connects: BinaryHeap<Reverse<(u64, usize)>>,
    /// When messages are due, or held ones may be sent. Whether the generator has waited for this time.
    dues: BinaryHeap<Reverse<(u64, usize, bool)>>,
    /// Members that are connecting, and how many may.
    connecting: usize,
    max_connecting: usize,
    phase: Phase,
    tally: Tally,
    interval: Interval,
    interval_ends: u64,
    advance_at: u64,
    /// Errors that the earlier intervals have shown.
    shown_errors: u64,
    busy: u64,
    idle: u64,
}

/// Runs the lobbies whose number is `thread` modulo the number of threads.
pub(super) fn run(plan: Arc<Plan>, shared: Arc<Shared>, clock: Clock, thread: usize, reports: &Sender<Report>) {
    let outcome = Worker::new(plan, shared, clock, thread).and_then(|worker| worker.run(reports));
    let _ = reports.send(match outcome {
        Ok(tally) => Report::Done(Box::new(tally)),
        Err(error) => Report::Failed(error),
    });
}

impl Worker {
    fn new(plan: Arc<Plan>, shared: Arc<Shared>, clock: Clock, thread: usize) -> io::Result<Worker> {
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry(), TIMER)?;
        let mut members = Vec::new();
        for lobby in (thread..plan.lobbies()).step_by(plan.threads) {
            let count = plan.members_of(lobby);
            members.extend((0..count).map(|position| Member::new(lobby * plan.per_lobby + position, count)));
        }
        let connects =
            members.iter().enumerate().map(|(at, member)| Reverse((plan.connects_at(member.number), at))).collect();
        Ok(Worker {
            max_connecting: (plan.handshakes / plan.threads).max(1),
            plan,
            shared,
            clock,
            poll,
            timer,
            members,
            unread: BTreeSet::new(),
            connects,
            dues: BinaryHeap::new(),
            connecting: 0,
            phase: Phase::Ramp,
            tally: Tally::new(),
            interval: Interval::new(),
            interval_ends: SECOND,
            advance_at: 0,
            shown_errors: 0,
            busy: 0,
            idle: 0,
        })
    }

    fn run(mut self, reports: &Sender<Report>) -> io::Result<Tally> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; READ_BYTES];
        let mut now = self.clock.micros();
        loop {
            let wait = Duration::from_micros(self.wait(now));
            let timeout = self.timer.set(wait)?;
            let asleep = self.clock.micros();
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let awake = self.clock.micros();
            if matches!(self.phase, Phase::Talk { .. }) {
                self.busy += asleep - now;
                self.idle += awake - asleep;
            }
            now = awake;
            for event in &events {
                self.handle_event(event);
            }
            for token in std::mem::take(&mut self.unread) {
                self.handle_readable(token, &mut buffer);
            }
            self.connect_due(now);
            self.send_due(now);
            if now >= self.interval_ends {
                self.report(now, reports);
            }
            if now >= self.advance_at && self.advance(now) {
                self.finish();
                self.report(now, reports);
                return Ok(self.tally);
            }
        }
    }

    /// Returns the time until the next thing to do without an event.
    fn wait(&self, now: u64) -> u64 {
        if !self.unread.is_empty() {
            return 0;
        }
        let can_connect = self.connecting < self.max_connecting;
        let connect = self.connects.peek().filter(|_| can_connect).map(|Reverse((at, _))| *at);
        let due = self.dues.peek().map(|Reverse((at, ..))| *at);
        let next = connect.into_iter().chain(due).min().unwrap_or(u64::MAX);
        next.saturating_sub(now).min(MAX_WAIT_MICROS)
    }

    fn handle_event(&mut self, event: &Event) {
        let (at, part) = Part::of(event.token());
        let Some(member) = self.members.get_mut(at) else { return };
        if event.is_writable()
            && let Err(error) = member.handle_writable(part)
        {
            let ended = Ended::Failed(error.to_string());
            return self.end(at, ended);
        }
        // There may be room again for messages.
        if self.members[at].is_held {
            self.resume_sending(at);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.unread.insert(event.token());
        }
    }

    fn handle_readable(&mut self, token: Token, buffer: &mut [u8]) {
        let (at, part) = Part::of(token);
        match self.read(at, part, buffer) {
            Ok(has_more) => {
                if has_more {
                    self.unread.insert(token);
                }
                self.flush(at);
            }
            Err(ended) => self.end(at, ended),
        }
    }

    /// Reads a bounded number of bytes. Returns whether there may be more to read.
    fn read(&mut self, at: usize, part: Part, buffer: &mut [u8]) -> Result<bool, Ended> {
        for _ in 0..MAX_READS {
            let has_more = self.members[at].read(part, buffer);
            self.tally.count.posts += self.members[at].take_accepted();
            if !has_more? {
                return Ok(false);
            }
            if part == Part::Main {
                self.receive(at)?;
            }
        }
        Ok(true)
    }

    /// Handles what has arrived whole.
    fn receive(&mut self, at: usize) -> Result<(), Ended> {
        let now = self.clock.micros();
        let first = at - self.position(at);
        let mut receiver = Receiver { plan: &self.plan, tally: &mut self.tally, interval: &mut self.interval, first };
        let outcome = receiver.receive(&mut self.members, at, now);
        if outcome.has_joined {
            self.connecting -= 1;
        }
        if self.members[at].is_held {
            self.resume_sending(at);
        }
        outcome.ended.map_or(Ok(()), Err)
    }

    fn flush(&mut self, at: usize) {
        if let Err(error) = self.members[at].flush(&self.plan, self.poll.registry()) {
            self.end(at, Ended::Failed(error.to_string()));
        }
    }

    /// Lets a member that could not send try again.
    fn resume_sending(&mut self, at: usize) {
        let member = &mut self.members[at];
        if member.may_send() {
            member.is_held = false;
            let time = member.due().max(member.paused_until);
            self.dues.push(Reverse((time, at, false)));
        }
    }

    /// A connection has ended: the member comes back, unless it is refused for good.
    fn end(&mut self, at: usize, ended: Ended) {
        let now = self.clock.micros();
        let member = &mut self.members[at];
        if member.state == State::Connecting {
            self.connecting -= 1;
        }
        let was_leaving = member.state == State::Leaving;
        member.disconnect();
        if was_leaving {
            member.state = State::Gone;
            return;
        }
        let backoff = (100_000 << member.attempts.min(10)).min(MAX_BACKOFF_MICROS);
        let ended = ended.explained(member.goodbye.as_ref());
        let has_failed = matches!(ended, Ended::Failed(_));
        member.detours += usize::from(ended.has_no_answer());
        if !member.was_joined && ended.refuses_token() {
            self.tally.refused_tokens.push(member.number);
        }
        let wait = ended.count_and_wait(member.goodbye.as_ref(), &mut self.tally, backoff);
        let can_come_back = match self.phase {
            // A server that refuses the first connections is not there.
            Phase::Ramp if has_failed && !member.was_joined && member.attempts >= MAX_FAILED_ATTEMPTS => false,
            Phase::Ramp => now < self.plan.ramp_micros(),
            Phase::Settled | Phase::Talk { .. } | Phase::Drain { .. } => member.was_joined,
            Phase::Leave { .. } => false,
        };
        match wait.filter(|_| can_come_back) {
            Some(wait) => {
                member.state = State::Idle;
                self.connects.push(Reverse((now.saturating_add(wait), at)));
            }
            None => self.give_up(at),
        }
    }

    fn give_up(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.disconnect();
        member.state = State::Gone;
        self.tally.count.gone += 1;
        self.tally.count.unanswered += member.give_up_unanswered();
    }

    fn connect_due(&mut self, now: u64) {
        while self.connecting < self.max_connecting
            && let Some(&Reverse((time, at))) = self.connects.peek()
            && time <= now
        {
            self.connects.pop();
            if self.members[at].state != State::Idle {
                continue;
            }
            self.connecting += 1;
            if let Err(error) = self.members[at].connect(now, at, &self.plan, self.poll.registry()) {
                self.end(at, Ended::Failed(error.to_string()));
            }
        }
    }

    /// Sends the messages that are due.
    fn send_due(&mut self, now: u64) {
        while let Some(&Reverse((time, at, is_timely))) = self.dues.peek()
            && time <= now
        {
            self.dues.pop();
            let Phase::Talk { end } = self.phase else { continue };
            let member = &mut self.members[at];
            let due = member.due();
            if due >= end {
                continue;
            }
            if !member.can_send(now) {
                if member.state == State::Joined && member.paused_until > now {
                    self.dues.push(Reverse((member.paused_until, at, false)));
                } else {
                    member.is_held = true;
                }
                continue;
            }
            let sent_at = self.clock.micros();
            if is_timely {
                record(&mut self.tally.lateness, sent_at - due.min(sent_at));
            }
            member.say(&self.plan, due);
            self.tally.count.sent += 1;
            self.interval.sent += 1;
            let next = member.due();
            self.dues.push(Reverse((next, at, next > sent_at)));
            self.flush(at);
        }
    }

    /// Goes on to the next phase if its time has come. Returns whether the run is over.
    fn advance(&mut self, now: u64) -> bool {
        self.advance_at = now + ADVANCE_MICROS;
        match self.phase {
            Phase::Ramp => {
                self.end_slow_handshakes(now);
                let is_over = now >= self.plan.ramp_micros();
                let is_settled = |member: &Member| matches!(member.state, State::Joined | State::Gone);
                if is_over || self.members.iter().all(is_settled) {
                    for at in 0..self.members.len() {
                        if !is_settled(&self.members[at]) {
                            self.connecting -= usize::from(self.members[at].state != State::Idle);
                            self.give_up(at);
                        }
                    }
                    self.phase = Phase::Settled;
                    self.shared.refused_tokens.fetch_add(self.tally.refused_tokens.len(), Ordering::AcqRel);
                    self.shared.settled.fetch_add(1, Ordering::AcqRel);
                }
            }
            Phase::Settled => match self.shared.begin.load(Ordering::Acquire) {
                0 => {}
                NEVER => {
                    self.leave();
                    self.phase = Phase::Leave { until: now + LEAVE_MICROS };
                }
                begin => self.begin(begin),
            },
            Phase::Talk { end } => {
                self.end_slow_handshakes(now);
                if now >= end {
                    let total = self.busy + self.idle;
                    self.tally.busiest = self.busy as f64 / total.max(1) as f64;
                    self.phase = Phase::Drain { until: now + DRAIN_MICROS };
                }
            }
            Phase::Drain { until } => {
                self.end_slow_handshakes(now);
                if now >= until || self.is_complete() {
                    self.leave();
                    self.phase = Phase::Leave { until: now + LEAVE_MICROS };
                }
            }
            Phase::Leave { until } => {
                return now >= until || self.members.iter().all(|member| !member.is_connected());
            }
        }
        false
    }

    /// Ends connections that take too long to be welcomed.
    fn end_slow_handshakes(&mut self, now: u64) {
        if self.connecting == 0 {
            return;
        }
        for at in 0..self.members.len() {
            let member = &self.members[at];
            if member.state == State::Connecting && now.saturating_sub(member.began) > CONNECT_MICROS {
                self.end(at, Ended::Failed("no welcome within 10 s".into()));
            }
        }
    }

    /// Schedules the first message of each member.
    fn begin(&mut self, begin: u64) {
        let end = begin + self.plan.duration().as_micros() as u64;
        self.phase = Phase::Talk { end };
        for (at, member) in self.members.iter_mut().enumerate() {
            let (period, first) = self.plan.period(member.number);
            member.schedule = Schedule { first: begin as f64 + first, period };
            // Members that were refused were to talk, too.
            self.tally.count.due += member.schedule.count_before(end);
            if member.was_joined {
                self.dues.push(Reverse((member.due(), at, true)));
            }
        }
    }

    /// Whether every message and every answer has arrived.
    fn is_complete(&self) -> bool {
        let has_all = |at: usize, member: &Member| {
            member.unanswered.is_empty()
                && self
                    .others(at)
                    .all(|other| member.books.is_complete(self.position(other), &self.members[other].sent))
        };
        self.members.iter().enumerate().all(|(at, member)| member.state != State::Joined || has_all(at, member))
    }

    fn position(&self, at: usize) -> usize {
        self.members[at].number % self.plan.per_lobby
    }

    /// The other members of a member's lobby.
    fn others(&self, at: usize) -> impl Iterator<Item = usize> {
        let first = at - self.position(at);
        let count = self.plan.members_of(self.members[at].number / self.plan.per_lobby);
        (first..first + count).filter(move |&other| other != at)
    }

    fn leave(&mut self) {
        self.dues.clear();
        self.connects.clear();
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            match member.state {
                State::Joined => {
                    self.tally.count.unanswered += member.give_up_unanswered();
                    (member.state, member.has_stayed) = (State::Leaving, true);
                    member.push(r#"{"type":"leave"}"#.to_owned());
                    let _ = member.flush(&self.plan, self.poll.registry());
                }
                State::Gone | State::Leaving => {}
                State::Idle | State::Connecting => {
                    self.connecting -= usize::from(member.state != State::Idle);
                    self.give_up(at);
                }
            }
        }
    }

    /// Counts what is missing. The books of members that were gone before the end cannot be complete.
    fn finish(&mut self) {
        for at in 0..self.members.len() {
            let member = &self.members[at];
            if !member.has_stayed {
                continue;
            }
            for other in self.others(at).collect::<Vec<_>>() {
                let missing = member.books.missing(self.position(other), &self.members[other].sent);
                self.tally.count.lost += missing.lost;
                self.tally.count.unrecovered += missing.unrecovered;
            }
        }
    }

    fn report(&mut self, now: u64, reports: &Sender<Report>) {
        self.interval_ends = now - now % SECOND + SECOND;
        let errors = self.tally.errors();
        let mut interval = std::mem::replace(&mut self.interval, Interval::new());
        interval.errors = errors - std::mem::replace(&mut self.shown_errors, errors);
        interval.open = self.members.iter().filter(|member| member.state == State::Joined).count() as u64;
        // The main thread may have ended.
        let _ = reports.send(Report::Interval(interval));
    }
}

//! Event trace of a replay: describes each event as text, with its time, connection, user and lobby.
//!
//! Knows the events that the engine notes, not the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::printable::Printable;
use crate::base::close::CloseReason;
use crate::base::id::{ConnId, SeatId};
use crate::base::time::Time;
use crate::engine::member::{Member, Pressure};
use crate::engine::observer::{Content, Observed, ObservedEvent};
use crate::engine::state::ticks::Tick;

/// Most characters of a message that are shown.
const SHOWN: usize = 200;
/// Ticks at least this late are traced.
const LATE: Duration = Duration::from_millis(1);

/// An event of a session. Displayed as one line of printable characters.
///
/// [`Replay`](super::Replay) has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceEvent {
    /// Time of the event.
    pub at: Time,
    /// The connection that the event concerns, if it concerns one.
    pub conn: Option<ConnId>,
    /// The user of the connection, if it has a seat.
    pub user: Option<String>,
    /// The lobby of the connection, if it has a seat.
    pub lobby: Option<String>,
    /// Description of the event.
    pub what: String,
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.at)?;
        match self.conn {
            Some(conn) => write!(f, " conn={conn}")?,
            None => f.write_str(" server")?,
        }
        if let (Some(user), Some(lobby)) = (&self.user, &self.lobby) {
            write!(f, " user={user:?} lobby={}", Printable(lobby))?;
        }
        write!(f, " {}", Printable(&self.what))
    }
}

/// Describes the events of a replay while it is traced.
#[derive(Debug, Default)]
pub(super) struct EventTracer {
    is_tracing: bool,
    events: Vec<TraceEvent>,
    /// The members by connection; also those whose connection has just been lost.
    seated: BTreeMap<ConnId, Member>,
    /// Seats of members that are away.
    away: BTreeSet<SeatId>,
}

impl EventTracer {
    pub(super) fn start(&mut self) {
        self.is_tracing = true;
    }

    pub(super) fn take(&mut self) -> Vec<TraceEvent> {
        std::mem::take(&mut self.events)
    }

    /// Notes an event that the replay itself observes, such as an input.
    pub(super) fn note(&mut self, at: Time, conn: Option<ConnId>, what: impl FnOnce() -> String) {
        if self.is_tracing {
            let member = conn.and_then(|conn| self.seated.get(&conn));
            let (user, lobby) = member.map(|it| (it.user().to_owned(), it.lobby().to_owned())).unzip();
            self.events.push(TraceEvent { at, conn, user, lobby, what: what() });
        }
    }

    /// Notes that a connection is closing, and removes its user and lobby. The seat of a member that is away is kept.
    pub(super) fn note_close_reason(&mut self, at: Time, conn: ConnId, reason: CloseReason) {
        let leaves = self.seated.get(&conn).is_some_and(|member| !self.away.contains(&member.seat()));
        let verb = if leaves { "leaves" } else { "ends" };
        self.note(at, Some(conn), || format!("{verb}: {reason}: {}", reason.explain()));
        self.seated.remove(&conn);
    }

    /// Notes an event that was dispatched to the application.
    pub(super) fn note_observed(&mut self, Observed { at, event }: &Observed) {
        match event {
            ObservedEvent::Joined(member) => self.note_seated(*at, member, "joins"),
            ObservedEvent::TookOver(member) => self.note_seated(*at, member, "takes over the user's seat"),
            ObservedEvent::Relay { from, to: None, data } => {
                self.note_member(*at, from, format!("broadcasts {}", quote(data)));
            }
            ObservedEvent::Relay { from, to: Some(to), data } => {
                self.note_member(*at, from, format!("says {} to {to:?}", quote(data)));
            }
            ObservedEvent::Control { from, word, of, text } => {
                let of = of.map_or(String::new(), |of| format!(" of {of}"));
                self.note_member(*at, from, format!("asks for {word}{of}: {}", quote(text)));
            }
            ObservedEvent::Message { from, content: Content::Text(text) } => {
                self.note_member(*at, from, format!("says {}", quote(text)));
            }
            ObservedEvent::Message { from, content: Content::Bytes(count) } => {
                self.note_member(*at, from, format!("sends {count} bytes"));
            }
            ObservedEvent::Health(member, latency) => self.note_member(*at, member, describe_health(*latency)),
            ObservedEvent::Pressure(member, pressure) => self.note_member(*at, member, describe_pressure(*pressure)),
            ObservedEvent::Tick(tick) => self.note_tick(*at, tick),
            ObservedEvent::Away(member, reason) => {
                self.away.insert(member.seat());
                self.note_member(*at, member, format!("is away: {}", reason.word()));
            }
            ObservedEvent::Back(member) => self.note_seated(*at, member, "is back"),
            ObservedEvent::Left(member, reason) if self.away.remove(&member.seat()) => {
                self.note_member(*at, member, format!("leaves: {}", reason.word()));
            }
            // Close reasons and the input of a drain are noted instead: they cover connections without a seat.
            // So are the requests that led to what was sent.
            ObservedEvent::Left(..)
            | ObservedEvent::Drain(_)
            | ObservedEvent::Said { .. }
            | ObservedEvent::SaidDirectly { .. }
            | ObservedEvent::Began { .. } => {}
        }
    }

    fn note_seated(&mut self, at: Time, member: &Member, event: &str) {
        self.seated.insert(member.conn(), member.clone());
        self.away.remove(&member.seat());
        self.note_member(at, member, event.to_owned());
    }

    /// Notes an event of a member, which may have left its seat already.
    fn note_member(&mut self, at: Time, member: &Member, what: String) {
        let (user, lobby) = (Some(member.user().to_owned()), Some(member.lobby().to_owned()));
        self.events.push(TraceEvent { at, conn: Some(member.conn()), user, lobby, what });
    }

    fn note_tick(&mut self, at: Time, tick: &Tick) {
        if tick.skipped() > 0 || tick.late() >= LATE {
            self.note(at, None, || {
                let (number, late) = (tick.number(), tick.late().as_secs_f64() * 1000.0);
                format!("runs tick {number} {late:.3} ms late, after {} skipped ticks", tick.skipped())
            });
        }
    }
}

fn describe_health(latency: Option<Duration>) -> String {
    match latency {
        Some(latency) => format!("answers a health check after {:.3} ms", latency.as_secs_f64() * 1000.0),
        None => "does not answer a health check".to_owned(),
    }
}

fn describe_pressure(pressure: Pressure) -> String {
    match pressure {
        Pressure::High { queued_bytes } => format!("is above the high-water mark: {queued_bytes} bytes are queued"),
        Pressure::Low { queued_bytes } => {
            format!("is below the low-water mark again: {queued_bytes} bytes are queued")
        }
    }
}

/// Shortens a message to [`SHOWN`] characters and escapes control characters.
fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(SHOWN).collect::<String>().escape_debug().collect();
    if text.chars().nth(SHOWN).is_some() {
        quoted.push('…');
    }
    quoted
}

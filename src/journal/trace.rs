//! Event trace of a replay: wraps the application, and notes each event with its time, connection, user and lobby.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use crate::base::close::{CloseReason, LeaveReason};
use crate::base::id::ConnId;
use crate::base::time::Time;
use crate::engine::app::{App, Authorization, Context, Member, Message, Pressure, Protocol, RelayRequest, Route};
use crate::engine::tick::Tick;
use crate::ws::handshake::Request;

/// Most characters of a message that are shown.
const SHOWN: usize = 200;
/// Ticks at least this late are traced.
const LATE: Duration = Duration::from_millis(1);

/// An event of a session. Displayed as one line of printable characters.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Displays a text from a journal with control characters escaped. A journal from an untrusted source may contain
/// escape sequences for the terminal.
pub(super) struct Printable<'a>(pub(super) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            // Escaped as in a Rust literal, except for quotation marks and backslashes.
            .try_for_each(|c| {
                if matches!(c, '"' | '\'' | '\\') { f.write_char(c) } else { write!(f, "{}", c.escape_debug()) }
            })
    }
}

/// Wraps an application and traces its events.
pub(super) struct EventTracer<A> {
    app: A,
    is_tracing: bool,
    events: Vec<TraceEvent>,
    /// User and lobby of each connection with a seat.
    seated: BTreeMap<ConnId, (String, String)>,
}

impl<A> EventTracer<A> {
    pub(super) fn new(app: A) -> EventTracer<A> {
        EventTracer { app, is_tracing: false, events: Vec::new(), seated: BTreeMap::new() }
    }

    pub(super) fn inner(&self) -> &A {
        &self.app
    }

    pub(super) fn trace_events(&mut self) {
        self.is_tracing = true;
    }

    pub(super) fn take_events(&mut self) -> Vec<TraceEvent> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn note(&mut self, at: Time, conn: Option<ConnId>, what: String) {
        if self.is_tracing {
            let (user, lobby) = conn.and_then(|conn| self.seated.get(&conn)).cloned().unzip();
            self.events.push(TraceEvent { at, conn, user, lobby, what });
        }
    }

    /// Notes that a connection is closing, and removes its user and lobby.
    pub(super) fn note_close_reason(&mut self, at: Time, conn: ConnId, reason: CloseReason) {
        let verb = if self.seated.contains_key(&conn) { "leaves" } else { "ends" };
        self.note(at, Some(conn), format!("{verb}: {reason}: {}", reason.explain()));
        self.seated.remove(&conn);
    }

    fn note_seated(&mut self, cx: &Context<'_>, member: &Member, event: &str) {
        if self.is_tracing {
            self.seated.insert(member.conn(), (member.user().to_owned(), member.lobby().to_owned()));
            self.note(cx.now(), Some(member.conn()), event.to_owned());
        }
    }

    fn note_member(&mut self, cx: &Context<'_>, member: &Member, what: impl FnOnce() -> String) {
        if self.is_tracing {
            let (user, lobby) = (Some(member.user().to_owned()), Some(member.lobby().to_owned()));
            self.events.push(TraceEvent { at: cx.now(), conn: Some(member.conn()), user, lobby, what: what() });
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

impl<A: App> App for EventTracer<A> {
    const PROTOCOL: Protocol = A::PROTOCOL;

    fn route(&self, request: &Request<'_>) -> Route {
        self.app.route(request)
    }

    fn authorize(&mut self, cx: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        self.app.authorize(cx, request)
    }

    fn on_join(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.note_seated(cx, member, "joins");
        self.app.on_join(cx, member);
    }

    fn on_rejoin(&mut self, cx: &mut Context<'_>, member: &Member) {
        self.note_seated(cx, member, "takes over the user's seat");
        self.app.on_rejoin(cx, member);
    }

    fn allows(&mut self, cx: &mut Context<'_>, from: &Member, request: RelayRequest<'_>) -> bool {
        self.note_member(cx, from, || match request {
            RelayRequest::Broadcast { data } => format!("broadcasts {}", quote(data)),
            RelayRequest::Direct { to, data } => format!("says {} to {to:?}", quote(data)),
        });
        self.app.allows(cx, from, request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        self.note_member(cx, from, || match message {
            Message::Text(text) | Message::Json { text, .. } => format!("says {}", quote(text)),
            Message::Binary(bytes) => format!("sends {} bytes", bytes.len()),
        });
        self.app.on_message(cx, from, message);
    }

    fn on_leave(&mut self, cx: &mut Context<'_>, member: &Member, reason: LeaveReason) {
        self.app.on_leave(cx, member, reason);
    }

    fn on_health(&mut self, cx: &mut Context<'_>, member: &Member, latency: Option<Duration>) {
        self.note_member(cx, member, || match latency {
            Some(latency) => format!("answers a health check after {:.3} ms", latency.as_secs_f64() * 1000.0),
            None => "does not answer a health check".to_owned(),
        });
        self.app.on_health(cx, member, latency);
    }

    fn on_pressure(&mut self, cx: &mut Context<'_>, member: &Member, pressure: Pressure) {
        self.note_member(cx, member, || match pressure {
            Pressure::High { queued_bytes } => format!("is above the high-water mark: {queued_bytes} bytes are queued"),
            Pressure::Low { queued_bytes } => {
                format!("is below the low-water mark again: {queued_bytes} bytes are queued")
            }
        });
        self.app.on_pressure(cx, member, pressure);
    }

    fn on_command(&mut self, cx: &mut Context<'_>, command: &[u8]) {
        self.app.on_command(cx, command);
    }

    fn on_tick(&mut self, cx: &mut Context<'_>, tick: &Tick) {
        if tick.skipped() > 0 || tick.late() >= LATE {
            let (number, late) = (tick.number(), tick.late().as_secs_f64() * 1000.0);
            self.note(
                cx.now(),
                None,
                format!("runs tick {number} {late:.3} ms late, after {} skipped ticks", tick.skipped()),
            );
        }
        self.app.on_tick(cx, tick);
    }

    fn on_reload(&mut self, cx: &mut Context<'_>, contents: &[u8]) {
        self.app.on_reload(cx, contents);
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        self.app.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) {
        self.app.restore(snapshot);
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, deadline: Time) {
        self.app.on_drain(cx, deadline);
    }
}

//! The application of a replay, with somebody who notes what happens to whom.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use crate::close::{CloseReason, LeaveReason};
use crate::engine::app::{App, Authorization, Context, Member, Message, Pressure, Protocol, RelayRequest, Route};
use crate::engine::tick::Tick;
use crate::id::ConnId;
use crate::time::Time;
use crate::wire::handshake::Request;

/// Characters of what is said that are shown.
const SHOWN: usize = 200;
/// A tick that is later than this is worth a line.
const LATE: Duration = Duration::from_millis(1);

/// Something that happened in a session. Displayed as a line, in which nothing but printable characters stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// When.
    pub at: Time,
    /// To which connection, if to one.
    pub conn: Option<ConnId>,
    /// Who that is, if it has been let in.
    pub user: Option<String>,
    /// Where that is.
    pub lobby: Option<String>,
    /// What.
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

/// A text that a journal holds, fit for a terminal: whoever wrote the journal may have written anything.
pub(super) struct Printable<'a>(pub(super) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            // As in a literal, but for what a literal escapes for its own sake.
            .try_for_each(|c| {
                if matches!(c, '"' | '\'' | '\\') { f.write_char(c) } else { write!(f, "{}", c.escape_debug()) }
            })
    }
}

pub(super) struct EventTracer<A> {
    app: A,
    is_narrating: bool,
    events: Vec<TraceEvent>,
    /// Who is there: user and lobby.
    open: BTreeMap<ConnId, (String, String)>,
}

impl<A> EventTracer<A> {
    pub(super) fn new(app: A) -> EventTracer<A> {
        EventTracer { app, is_narrating: false, events: Vec::new(), open: BTreeMap::new() }
    }

    pub(super) fn inner(&self) -> &A {
        &self.app
    }

    pub(super) fn trace_events(&mut self) {
        self.is_narrating = true;
    }

    pub(super) fn take_events(&mut self) -> Vec<TraceEvent> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn note(&mut self, at: Time, conn: Option<ConnId>, what: String) {
        if self.is_narrating {
            let (user, lobby) = conn.and_then(|conn| self.open.get(&conn)).cloned().unzip();
            self.events.push(TraceEvent { at, conn, user, lobby, what });
        }
    }

    /// A connection ends; its user is not there any more.
    pub(super) fn note_closed(&mut self, at: Time, conn: ConnId, reason: CloseReason) {
        let verb = if self.open.contains_key(&conn) { "leaves" } else { "ends" };
        self.note(at, Some(conn), format!("{verb}: {reason}: {}", reason.explain()));
        self.open.remove(&conn);
    }

    fn come(&mut self, cx: &Context<'_>, who: &Member, how: &str) {
        if self.is_narrating {
            self.open.insert(who.conn(), (who.user().to_owned(), who.lobby().to_owned()));
            self.note(cx.now(), Some(who.conn()), how.to_owned());
        }
    }

    fn note_member(&mut self, cx: &Context<'_>, who: &Member, what: impl FnOnce() -> String) {
        if self.is_narrating {
            let (user, lobby) = (Some(who.user().to_owned()), Some(who.lobby().to_owned()));
            self.events.push(TraceEvent { at: cx.now(), conn: Some(who.conn()), user, lobby, what: what() });
        }
    }
}

/// What was said, fit for a terminal.
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

    fn on_join(&mut self, cx: &mut Context<'_>, who: &Member) {
        self.come(cx, who, "joins");
        self.app.on_join(cx, who);
    }

    fn on_rejoin(&mut self, cx: &mut Context<'_>, who: &Member) {
        self.come(cx, who, "takes its seat over");
        self.app.on_rejoin(cx, who);
    }

    fn allows(&mut self, cx: &mut Context<'_>, from: &Member, what: RelayRequest<'_>) -> bool {
        self.note_member(cx, from, || match what {
            RelayRequest::Broadcast { data } => format!("broadcasts {}", quote(data)),
            RelayRequest::Direct { to, data } => format!("says to {to:?} {}", quote(data)),
        });
        self.app.allows(cx, from, what)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        self.note_member(cx, from, || match message {
            Message::Text(text) | Message::Json { text, .. } => format!("says {}", quote(text)),
            Message::Binary(bytes) => format!("sends {} bytes", bytes.len()),
        });
        self.app.on_message(cx, from, message);
    }

    fn on_leave(&mut self, cx: &mut Context<'_>, who: &Member, why: LeaveReason) {
        self.app.on_leave(cx, who, why);
    }

    fn on_health(&mut self, cx: &mut Context<'_>, who: &Member, latency: Option<Duration>) {
        self.note_member(cx, who, || match latency {
            Some(latency) => format!("is healthy, after {:.3} ms", latency.as_secs_f64() * 1000.0),
            None => "does not answer a health check".to_owned(),
        });
        self.app.on_health(cx, who, latency);
    }

    fn on_pressure(&mut self, cx: &mut Context<'_>, who: &Member, pressure: Pressure) {
        self.note_member(cx, who, || match pressure {
            Pressure::High { queued_bytes } => format!("reads slowly: {queued_bytes} bytes are queued"),
            Pressure::Low { queued_bytes } => format!("has caught up: {queued_bytes} bytes are queued"),
        });
        self.app.on_pressure(cx, who, pressure);
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
                format!("tick {number} is {late:.3} ms late, {} skipped before it", tick.skipped()),
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

//! A page: a client with one session, which comes back to it on any node.
//!
//! A [`client::Session`](Session) decides what the page sends and when it connects. The page is its driver, without sockets, and
//! its application. The [frames] that arrive are checked against the books before the session reads them, and what the
//! session reports is checked against the frames.

mod frames;
mod read_so_far;
mod welcome;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::Value;

use self::read_so_far::ReadSoFar;
use super::books::{BookId, Books, Epoch, Kind, Outcome};
use super::members::Members;
use super::node::WireId;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::client::{Action, Attempt, AttemptId, LobbyError, Options, Outgoing, RequestId, Session, State};
use crate::sim::application::{self, Application};
use crate::sim::wire::{self, Opcode, Reader, Received};

/// Most requests without an outcome. More than a session has without an answer.
const REQUESTS: usize = 20;
/// Mask of the frames of a page.
const MASK: [u8; 4] = [1, 2, 3, 4];

/// A numbered request of a page, as it was sent.
#[derive(Clone, Debug)]
struct Sent {
    id: u64,
    kind: Kind,
    text: String,
    request: RequestId,
    /// Whether it was refused, once it was answered.
    answer: Option<bool>,
}

/// The connection of a page.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) wire: WireId,
    pub(super) node: usize,
    attempt: AttemptId,
    reader: Reader,
    pub(super) is_welcome: bool,
    /// From `welcome` to `presence_state`.
    awaits_state: bool,
    /// Frames that are still to be replayed.
    replay: u64,
    pub(super) heard_at: u64,
    is_recovered: bool,
    /// Highest number of a request that the session has used, according to the `welcome`.
    done: u64,
}

/// How a connection will end, as the server has said.
#[derive(Clone, Debug)]
struct Goodbye {
    code: u64,
}

#[derive(Debug)]
pub(super) struct Page {
    pub(super) user: usize,
    pub(super) name: String,
    pub(super) session: Session,
    application: Application,
    pub(super) book: BookId,
    read: ReadSoFar,
    pub(super) conn: Option<Connection>,
    goodbye: Option<Goodbye>,
    /// Requests that are not settled.
    requests: BTreeMap<RequestId, (u64, Kind)>,
    /// Those of them that were not sent, or whose number was used up.
    unsent: BTreeSet<RequestId>,
    /// By number, the requests that this session has sent.
    sent: BTreeMap<u64, Sent>,
    /// Numbers that were sent again on purpose.
    repeats: BTreeSet<u64>,
    /// What its driver has not done yet.
    steps: VecDeque<Step>,
    /// Number of connections that it has opened.
    attempts: u64,
    /// Whether one of them has brought no welcome. It may reach its node late, and begin a session on another seat.
    has_stray: bool,
    /// When its connection was lost, and whether anything has happened since for which its session may have ended.
    pub(super) lost_at: Option<u64>,
    pub(super) is_disturbed: bool,
    /// Until then an operator's command may end its session.
    pub(super) disturbed_until: u64,
    /// Whether the log was forked since its last welcome: its session may have been one that is lost.
    pub(super) is_forked: bool,
}

/// What has become of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    None,
    /// Its page had a session, which the server does not know.
    Forgotten,
}

/// What the driver of a page must do.
#[derive(Debug)]
pub(super) enum Step {
    Connect(Attempt),
    Send(Vec<u8>),
    /// Send these bytes and close the connection.
    Close(Vec<u8>),
}

impl Page {
    /// `place` is where it enters: a path with its query. `was` is the session that it claims.
    pub(super) fn new(
        (user, name): (usize, &str),
        place: &str,
        was: Option<String>,
        book: BookId,
        random: &mut Random,
    ) -> Page {
        let mut draw = Random::new(random.next_u64());
        // Some applications do not wait long.
        let request_timeout = Duration::from_secs(if random.percent(30) { 10 } else { 600 });
        let has_was = was.is_some();
        let options = Options { request_timeout, was, ..Options::default() };
        let url = format!("ws://cluster/ws/{place}token={name}");
        let session = Session::new(&url, options, move || draw.next_u64()).expect("an address");
        Page {
            user,
            name: name.to_owned(),
            session,
            application: Application::default(),
            book,
            read: ReadSoFar { has_was, ..ReadSoFar::default() },
            conn: None,
            goodbye: None,
            requests: BTreeMap::new(),
            unsent: BTreeSet::new(),
            sent: BTreeMap::new(),
            repeats: BTreeSet::new(),
            steps: VecDeque::new(),
            attempts: 0,
            has_stray: false,
            lost_at: None,
            is_disturbed: false,
            disturbed_until: 0,
            is_forked: false,
        }
    }

    /// The lobby in which it is, or was last.
    pub(super) fn lobby(&self) -> Option<&str> {
        self.session.code()
    }

    pub(super) fn epoch_and_position(&self) -> Option<(&Epoch, u64)> {
        Some((self.read.epoch.as_ref()?, self.read.position?.1))
    }

    /// The members that it knows, by seat. `None` before the first list.
    pub(super) fn members(&self) -> Option<Members> {
        self.read.has_list.then(|| {
            let entry = |member: &crate::client::LobbyMember| {
                (member.conn().to_owned(), (member.user().to_owned(), member.is_away()))
            };
            self.session.members().map(entry).collect()
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.session.state() == State::Closed
    }

    /// Whether it waits for nothing.
    pub(super) fn is_quiet(&self) -> bool {
        self.requests.is_empty()
    }

    // ---- what its driver does ----

    /// Runs the timers that are due.
    pub(super) fn run_timers(&mut self, now: u64) {
        let now = Time::from_micros(now);
        if self.session.poll_timeout().is_some_and(|due| due <= now) {
            self.session.handle_timeout(now);
        }
    }

    pub(super) fn next_timeout(&self) -> Option<u64> {
        self.session.poll_timeout().map(Time::as_micros)
    }

    /// Returns what its driver must do next.
    pub(super) fn next_step(&mut self, books: &mut Books) -> Result<Option<Step>, String> {
        self.poll_actions(books)?;
        Ok(self.steps.pop_front())
    }

    /// Polls what the session wants. After each message, because the numbers of requests follow from its order.
    fn poll_actions(&mut self, books: &mut Books) -> Result<(), String> {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Connect(attempt) => self.steps.push_back(Step::Connect(attempt)),
                Action::Send(id, message) if self.is_current(id) => {
                    let Outgoing::Text(text) = message else { return Err("a page sends texts only".to_owned()) };
                    self.sends(&text, books)?;
                    self.steps.push_back(Step::Send(wire::text(&text)));
                }
                Action::Close(id, code) if self.is_current(id) => {
                    let payload = code.map(u16::to_be_bytes);
                    let payload = payload.as_ref().map_or(&[][..], |code| code);
                    self.steps.push_back(Step::Close(wire::frame(Opcode::CLOSE, true, payload, MASK)));
                }
                Action::Send(..) | Action::Close(..) => {}
            }
        }
        Ok(())
    }

    fn is_current(&self, id: AttemptId) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.attempt == id)
    }

    /// Notes a message that the session sends. Its number must be one that the server has not used.
    fn sends(&mut self, text: &str, books: &mut Books) -> Result<(), String> {
        let message: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let Some(number) = message["ref"].as_u64() else { return Ok(()) };
        let conn = self.conn.as_ref().expect("the session has a connection");
        if !conn.is_welcome || number <= conn.done {
            return Err(format!("{} sends {text} although its welcome says done {}", self.name, conn.done));
        }
        if let Some(sent) = self.sent.get(&number) {
            books.count("sent again");
            return if sent.text == text && sent.answer.is_none() {
                Ok(())
            } else {
                Err(format!("{} sends {text} in place of {sent:?}", self.name))
            };
        }
        // Without one, a late attempt could make the server forget that it was executed.
        if self.read.position.is_none() {
            return Err(format!("{} sends {text} before it has a position", self.name));
        }
        // Messages have their ids as data.
        let is_it = |request: &&RequestId| match self.requests.get(request) {
            Some((_, Kind::Control)) => !matches!(message["type"].as_str(), Some("broadcast" | "direct")),
            Some((id, _)) => message["data"].as_u64() == Some(*id),
            None => false,
        };
        let request = self.unsent.iter().find(is_it).copied();
        let request = request.ok_or_else(|| format!("{} sends {text} unasked", self.name))?;
        self.unsent.remove(&request);
        let (id, kind) = self.requests[&request];
        self.sent.insert(number, Sent { id, kind, text: text.to_owned(), request, answer: None });
        Ok(())
    }

    /// Opens a connection. Returns the upgrade request.
    pub(super) fn connect(
        &mut self,
        now: u64,
        (wire, node): (WireId, usize),
        attempt: &Attempt,
    ) -> Result<Vec<u8>, String> {
        let target = attempt.target();
        self.read.check_claim(&target).map_err(|why| format!("{}: {why}", self.name))?;
        self.conn = Some(Connection {
            wire,
            node,
            attempt: attempt.id(),
            reader: Reader::default(),
            is_welcome: false,
            awaits_state: false,
            replay: 0,
            heard_at: now,
            is_recovered: true,
            done: 0,
        });
        self.goodbye = None;
        self.attempts += 1;
        Ok(wire::upgrade_request(&target, &[]))
    }

    /// The connection has ended, or is given up.
    pub(super) fn disconnected(&mut self, now: u64) {
        let Some(conn) = self.conn.take() else { return };
        self.has_stray |= !conn.is_welcome;
        if conn.is_welcome && self.lost_at.is_none() {
            self.lost_at = Some(now);
        }
        self.session.handle_closed(Time::from_micros(now), conn.attempt, 1006, "");
    }

    // ---- what its application does ----

    /// Whether its application asks for something now. Some ask without a connection.
    pub(super) fn may_request(&self) -> bool {
        !self.is_over() && self.requests.len() < REQUESTS
    }

    /// Whether a message reaches the server at once.
    pub(super) fn is_ready(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.is_welcome && !conn.awaits_state) && self.goodbye.is_none()
    }

    /// Notes a request that the session has accepted or refused.
    pub(super) fn requested(
        &mut self,
        now: u64,
        (id, kind): (u64, Kind),
        request: Result<RequestId, LobbyError>,
        books: &mut Books,
    ) {
        let Ok(request) = request else { return };
        books.sent(self.book, id, kind, now);
        self.application.requested(request);
        self.requests.insert(request, (id, kind));
        self.unsent.insert(request);
    }

    /// Returns a request that was answered, to be sent again.
    pub(super) fn repeat(&mut self, random: &mut Random) -> Option<Vec<u8>> {
        let answered: Vec<u64> = self
            .sent
            .iter()
            .rev()
            .filter(|(_, sent)| sent.answer.is_some())
            .take(8)
            .map(|(number, _)| *number)
            .collect();
        let number = *answered.get(random.below(answered.len().max(1) as u64) as usize)?;
        self.repeats.insert(number);
        Some(wire::text(&self.sent[&number].text))
    }

    /// Polls what the session reports, and closes the books of a page that is over.
    pub(super) fn poll_events(&mut self, now: u64, books: &mut Books) -> Result<(), String> {
        let was_over = self.application.is_closed();
        let outcomes = self.application.poll(&mut self.session).map_err(|why| format!("{}: {why}", self.name))?;
        for (request, outcome) in outcomes {
            let (id, kind) = self.requests.remove(&request).expect("it was asked for");
            self.unsent.remove(&request);
            self.settled((id, kind), &outcome, books)?;
        }
        if self.is_over() && !was_over {
            books.broken(self.book, now);
        }
        Ok(())
    }

    fn settled(
        &mut self,
        (id, _): (u64, Kind),
        outcome: &application::Outcome,
        books: &mut Books,
    ) -> Result<(), String> {
        let outcome = match outcome {
            Ok(ack) if ack.fields().is_empty() => Outcome::Done,
            Ok(_) => Outcome::Acked,
            Err(error) => match error.code() {
                "closed" | "unknown" | "timeout" => Outcome::Unknown,
                _ => Outcome::Refused,
            },
        };
        books.settled(id, outcome)
    }

    // ---- what it receives ----

    /// Reads received bytes. Returns what its driver answers.
    pub(super) fn receive(&mut self, now: u64, bytes: &[u8], books: &mut Books) -> Result<(Vec<u8>, Event), String> {
        let (mut answer, mut event) = (Vec::new(), Event::None);
        let time = Time::from_micros(now);
        let Some(conn) = &mut self.conn else { return Ok((answer, event)) };
        conn.reader.push(bytes);
        conn.heard_at = now;
        self.session.handle_heard(time, conn.attempt);
        while let Some(conn) = &mut self.conn
            && let Some(received) = conn.reader.next().map_err(|violation| violation.0)?
        {
            let attempt = conn.attempt;
            match received {
                Received::Answer(101, _) | Received::Body(_) | Received::Pong(_) | Received::Binary(_) => {}
                Received::Answer(status @ (429 | 503), head) => {
                    let retry_after = wire::header(&head, "retry-after").and_then(|value| value.parse().ok());
                    self.conn = None;
                    self.session.handle_refused(time, attempt, status, retry_after.map(Duration::from_secs));
                }
                Received::Answer(_, head) => return Err(format!("{} is answered {head}", self.name)),
                Received::Ping(payload) => answer.extend(wire::frame(Opcode::PONG, true, &payload, MASK)),
                Received::Close(code, reason) => {
                    let said = self.goodbye.as_ref().is_some_and(|goodbye| goodbye.code == u64::from(code));
                    if !said {
                        return Err(format!("{}: close {code} without its goodbye: {:?}", self.name, self.goodbye));
                    }
                    answer.extend(wire::frame(Opcode::CLOSE, true, &code.to_be_bytes(), MASK));
                    if conn.is_welcome && self.lost_at.is_none() {
                        self.lost_at = Some(now);
                    }
                    self.conn = None;
                    self.session.handle_closed(time, attempt, code, &reason);
                }
                Received::Text(text) => {
                    let read: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
                    let heard = self.heard(now, &read, &text, books);
                    if heard.map_err(|why| format!("{}: {why}; its message: {text}", self.name))? == Event::Forgotten {
                        event = Event::Forgotten;
                    }
                    self.session.handle_text(time, attempt, &text);
                    self.poll_actions(books)?;
                    self.poll_events(now, books).map_err(|why| format!("{why}; its message: {text}"))?;
                    self.check_answered(&read).map_err(|why| format!("{}: {why}; its message: {text}", self.name))?;
                }
            }
        }
        self.poll_events(now, books)?;
        Ok((answer, event))
    }

    /// Whether the session has settled what the server has just answered.
    fn check_answered(&self, message: &Value) -> Result<(), String> {
        let is_open = |sent: &Sent| self.requests.contains_key(&sent.request);
        match message["type"].as_str() {
            Some("welcome") => {
                let done = message["done"].as_u64().unwrap_or(0);
                // A request that was refused for the rate waits for another number, or has one.
                let has_another = |number: u64, sent: &Sent| {
                    let mut later = self.sent.range(number + 1..);
                    self.unsent.contains(&sent.request) || later.any(|(_, later)| later.request == sent.request)
                };
                let is_lost = |(number, sent): &(&u64, &Sent)| is_open(sent) && !has_another(**number, sent);
                match self.sent.range(..=done).find(is_lost) {
                    Some((number, _)) => Err(format!("ref {number} has no outcome")),
                    None => Ok(()),
                }
            }
            Some("ack" | "error") => {
                let sent = message["ref"].as_u64().and_then(|number| self.sent.get(&number));
                let is_unanswered = message["code"] != "rate_limited" && sent.is_some_and(is_open);
                if is_unanswered { Err("the request has no outcome".to_owned()) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

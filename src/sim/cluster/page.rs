//! A page: a client with one session, which comes back to it on any node.

mod welcome;

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::books::{BookId, Books, Epoch, Kind, Outcome, message_entry};
use super::members::{self, Members};
use super::node::WireId;
use crate::base::random::Random;
use crate::sim::wire::{self, Opcode, Reader, Received};

/// Most numbered requests without an answer.
const IN_FLIGHT: usize = 8;
/// Number of settled requests that may be sent again.
const REPEATED: usize = 8;

#[derive(Clone, Debug)]
struct Sent {
    id: u64,
    kind: Kind,
    text: String,
}

/// The connection of a page.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) wire: WireId,
    pub(super) node: usize,
    reader: Reader,
    pub(super) is_welcome: bool,
    /// From `welcome` to `presence_state`.
    awaits_state: bool,
    /// Frames that are still to be replayed.
    replay: u64,
    pub(super) heard_at: u64,
    is_recovered: bool,
}

/// How a connection has ended for the page.
#[derive(Clone, Debug, Default)]
struct Goodbye {
    code: u64,
    reconnect: bool,
    wait: u64,
}

#[derive(Debug)]
pub(super) struct Page {
    pub(super) user: usize,
    pub(super) name: String,
    /// Where it enters: a path with its query.
    pub(super) place: String,
    pub(super) session: String,
    was: Option<String>,
    pub(super) book: BookId,
    epoch: Option<Epoch>,
    position: Option<(u64, u64)>,
    n: Option<u64>,
    next_ref: u64,
    pending: BTreeMap<u64, Sent>,
    settled: VecDeque<(u64, Sent, bool)>,
    repeats: BTreeMap<u64, u64>,
    pub(super) seat: Option<String>,
    /// By seat: user and whether it is away. `None`: not known.
    pub(super) view: Option<Members>,
    pub(super) conn: Option<Connection>,
    goodbye: Option<Goodbye>,
    /// Number of connections that it has opened.
    attempts: u64,
    pub(super) retry_at: u64,
    pub(super) is_over: bool,
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

impl Page {
    pub(super) fn new(
        user: usize,
        name: &str,
        place: String,
        session: String,
        was: Option<String>,
        book: BookId,
    ) -> Page {
        Page {
            user,
            name: name.to_owned(),
            place,
            session,
            was,
            book,
            epoch: None,
            position: None,
            n: None,
            next_ref: 1,
            pending: BTreeMap::new(),
            settled: VecDeque::new(),
            repeats: BTreeMap::new(),
            seat: None,
            view: None,
            conn: None,
            goodbye: None,
            attempts: 0,
            retry_at: 0,
            is_over: false,
            lost_at: None,
            is_disturbed: false,
            disturbed_until: 0,
            is_forked: false,
        }
    }

    /// The lobby in which it is, or was last.
    pub(super) fn lobby(&self) -> Option<&str> {
        self.epoch.as_ref().map(|(lobby, _)| &**lobby)
    }

    pub(super) fn epoch_and_position(&self) -> Option<(&Epoch, u64)> {
        Some((self.epoch.as_ref()?, self.position?.1))
    }

    /// The part of its query that belongs to a lobby with a code.
    fn way_in(&self) -> &str {
        let query = self.place.split_once('?').map_or("", |(_, query)| query);
        if query.starts_with("seats=") { "" } else { query }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.pending.is_empty()
    }

    // ---- connections ----

    /// Opens a connection. Returns the upgrade request.
    pub(super) fn connect(&mut self, now: u64, wire: WireId, node: usize) -> Vec<u8> {
        let mut target = match &self.epoch {
            Some((lobby, _)) => format!("/ws/{lobby}?{}", self.way_in()),
            None => format!("/ws/{}", self.place),
        };
        target += &format!("token={}&session={}", self.name, self.session);
        if let Some(was) = &self.was {
            target += &format!("&was={was}");
        }
        if let (Some((epoch, seq)), Some(n)) = (self.position, self.n) {
            target += &format!("&epoch={epoch}&seq={seq}&n={n}");
        }
        self.conn = Some(Connection {
            wire,
            node,
            reader: Reader::default(),
            is_welcome: false,
            awaits_state: false,
            replay: 0,
            heard_at: now,
            is_recovered: true,
        });
        self.goodbye = None;
        self.attempts += 1;
        wire::upgrade_request(&target, &[])
    }

    /// The connection is lost, or ended. Returns whether the page is over.
    pub(super) fn disconnected(&mut self, now: u64, random: &mut Random, books: &mut Books) -> Result<(), String> {
        let was_welcome = self.conn.take().is_some_and(|conn| conn.is_welcome);
        if was_welcome && self.lost_at.is_none() {
            self.lost_at = Some(now);
        }
        let goodbye = self.goodbye.take();
        self.retry_at = now + random.below(1_500_000) + goodbye.as_ref().map_or(0, |goodbye| goodbye.wait);
        if goodbye.is_some_and(|goodbye| !goodbye.reconnect) {
            return self.end(now, books);
        }
        Ok(())
    }

    /// The page is gone. What became of its requests is not known.
    pub(super) fn end(&mut self, now: u64, books: &mut Books) -> Result<(), String> {
        self.is_over = true;
        books.broken(self.book, now);
        for (_, sent) in std::mem::take(&mut self.pending) {
            books.settled(sent.id, Outcome::Unknown)?;
        }
        Ok(())
    }

    // ---- what it sends ----

    pub(super) fn may_request(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.is_welcome && !conn.awaits_state)
            && self.goodbye.is_none()
            && self.pending.len() < IN_FLIGHT
    }

    /// Gives a request a number. `text` is its JSON without the last brace.
    pub(super) fn request(&mut self, now: u64, id: u64, kind: Kind, text: &str, books: &mut Books) -> Vec<u8> {
        let reference = self.next_ref;
        self.next_ref += 1;
        let text = format!("{text},\"ref\":{reference}}}");
        books.sent(self.book, id, kind, now);
        let message = wire::text(&text);
        self.pending.insert(reference, Sent { id, kind, text });
        message
    }

    /// Sends a request again that was settled.
    pub(super) fn repeat(&mut self, random: &mut Random) -> Option<Vec<u8>> {
        if self.settled.is_empty() {
            return None;
        }
        let (reference, sent, _) = &self.settled[random.below(self.settled.len() as u64) as usize];
        *self.repeats.entry(*reference).or_insert(0) += 1;
        Some(wire::text(&sent.text))
    }

    // ---- what it receives ----

    /// Reads received bytes. Returns what it answers.
    pub(super) fn receive(&mut self, now: u64, bytes: &[u8], books: &mut Books) -> Result<(Vec<u8>, Event), String> {
        let (mut answer, mut event) = (Vec::new(), Event::None);
        let Some(conn) = &mut self.conn else { return Ok((answer, event)) };
        conn.reader.push(bytes);
        conn.heard_at = now;
        while let Some(conn) = &mut self.conn
            && let Some(received) = conn.reader.next().map_err(|violation| violation.0)?
        {
            match received {
                Received::Answer(101, _) | Received::Body(_) | Received::Pong(_) | Received::Binary(_) => {}
                Received::Answer(status, head) => match status {
                    429 | 503 => {
                        self.goodbye = Some(Goodbye { code: u64::from(status), reconnect: true, wait: 500_000 });
                    }
                    _ => return Err(format!("{} is answered {head}", self.name)),
                },
                Received::Ping(payload) => answer.extend(wire::frame(Opcode::PONG, true, &payload, [1, 2, 3, 4])),
                Received::Close(code, _) => {
                    let said = self.goodbye.as_ref().is_some_and(|goodbye| goodbye.code == u64::from(code));
                    if !said {
                        return Err(format!("{}: close {code} without its goodbye: {:?}", self.name, self.goodbye));
                    }
                    answer.extend(wire::frame(Opcode::CLOSE, true, &code.to_be_bytes(), [1, 2, 3, 4]));
                }
                Received::Text(text) => {
                    let read: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
                    let heard = self.heard(now, &read, &text, books, &mut answer);
                    if heard.map_err(|why| format!("{}: {why}; its message: {text}", self.name))? == Event::Forgotten {
                        event = Event::Forgotten;
                    }
                }
            }
        }
        Ok((answer, event))
    }

    fn heard(
        &mut self,
        now: u64,
        message: &Value,
        text: &str,
        books: &mut Books,
        answer: &mut Vec<u8>,
    ) -> Result<Event, String> {
        let kind = message["type"].as_str().ok_or("no type")?;
        let seq = message["seq"].as_u64();
        match kind {
            "welcome" => return self.welcomed(now, message, books, answer),
            "presence_state" => self.listed(seq.ok_or("no seq")?, message, books)?,
            "presence_diff" => {
                self.numbered(seq.ok_or("no seq")?, text.to_owned(), books)?;
                self.view.as_mut().map_or(Ok(()), |view| members::apply(view, message))?;
            }
            "message" => {
                let id = message["data"].as_u64();
                match seq {
                    Some(seq) => {
                        let from = message["from"].as_str().unwrap_or("null");
                        self.numbered(seq, message_entry(from, &message["data"].to_string()), books)?;
                    }
                    None => books.volatile(self.book, id.ok_or("not an id")?)?,
                }
            }
            "direct" => self.direct(message, books)?,
            "ack" | "error" => self.answered(message, kind == "error", books)?,
            "state" | "host" | "settings" | "countdown" | "start" => {
                self.numbered(seq.ok_or("no seq")?, text.to_owned(), books)?;
            }
            "goodbye" => {
                self.goodbye = Some(Goodbye {
                    code: message["code"].as_u64().ok_or("no code")?,
                    reconnect: message["reconnect"].as_bool().ok_or("no reconnect")?,
                    wait: message["retry_after_ms"].as_u64().unwrap_or(0) * 1000,
                });
                books.count(match message["reason"].as_str() {
                    Some("reconnect") => "goodbye reconnect",
                    Some("replaced") => "goodbye replaced",
                    Some("kicked" | "banned") => "goodbye kicked",
                    Some("lobby_full" | "server_full" | "lobby_limit" | "user_limit") => "goodbye full",
                    _ => "goodbye with another reason",
                });
            }
            "health_ping" => {
                let stamp = message["timestamp"].as_u64().ok_or("no timestamp")?;
                answer.extend(wire::text(&format!(r#"{{"type":"health_pong","timestamp":{stamp}}}"#)));
            }
            "pong" | "lobby_state" => {}
            _ => return Err("an unknown type".to_owned()),
        }
        Ok(Event::None)
    }

    fn settle(&mut self, reference: u64, sent: Sent, outcome: Outcome, books: &mut Books) -> Result<(), String> {
        books.settled(sent.id, outcome)?;
        if self.settled.len() == REPEATED {
            self.settled.pop_front();
        }
        self.settled.push_back((reference, sent, outcome == Outcome::Refused));
        Ok(())
    }

    fn moved(&mut self, seq: u64) {
        let epoch = self.epoch.as_ref().map_or(0, |&(_, epoch)| epoch);
        self.position = Some((epoch, seq));
    }

    fn numbered(&mut self, seq: u64, entry: String, books: &mut Books) -> Result<(), String> {
        let conn = self.conn.as_mut().expect("it has received something");
        if conn.awaits_state {
            books.count("replayed");
            conn.replay = conn.replay.checked_sub(1).ok_or("more is replayed than announced")?;
            if !conn.is_recovered {
                return Err("a frame is replayed although nothing was recovered".to_owned());
            }
        }
        let epoch = self.epoch.clone().ok_or("a frame before welcome")?;
        books.numbered(self.book, &epoch, seq, entry)?;
        self.moved(seq);
        Ok(())
    }

    fn listed(&mut self, seq: u64, state: &Value, books: &mut Books) -> Result<(), String> {
        let conn = self.conn.as_mut().expect("it has received something");
        if std::mem::take(&mut conn.awaits_state) && conn.replay > 0 {
            return Err(format!("{} announced frames were not replayed", conn.replay));
        }
        let epoch = self.epoch.clone().ok_or("a list before welcome")?;
        let is_same = self.position == Some((epoch.1, seq));
        books.state(self.book, &epoch, seq)?;
        self.moved(seq);
        let view = members::read_list(&state["users"]).ok_or("not a list")?;
        if let Some(seat) = &self.seat
            && view.get(seat).is_none_or(|(user, _)| *user != self.name)
        {
            return Err(format!("its seat {seat} is not in the list"));
        }
        if let Some(known) = &self.view
            && is_same
            && !members::has_same_users(known, &view)
        {
            return Err(format!("the diffs have led to {known:?}"));
        }
        self.view = Some(view);
        Ok(())
    }

    fn direct(&mut self, message: &Value, books: &mut Books) -> Result<(), String> {
        let conn = self.conn.as_mut().expect("it has received something");
        if conn.awaits_state {
            conn.replay = conn.replay.checked_sub(1).ok_or("more is replayed than announced")?;
        }
        let n = message["n"].as_u64().ok_or("no n")?;
        if self.n.is_some_and(|known| n != known + 1) {
            return Err(format!("direct message {n} after {:?}", self.n));
        }
        self.n = Some(n);
        match message["data"].as_u64() {
            Some(id) => books.direct(self.book, id),
            // Of an operator.
            None => Ok(()),
        }
    }

    fn answered(&mut self, answer: &Value, is_error: bool, books: &mut Books) -> Result<(), String> {
        let Some(reference) = answer["ref"].as_u64() else { return Ok(()) };
        let seq = answer["seq"].as_u64();
        if answer["repeated"].as_bool() == Some(true) {
            books.count("repeated");
            let known = self.settled.iter().find(|(known, ..)| *known == reference);
            if !self.repeats.contains_key(&reference) && known.is_none() && !self.pending.contains_key(&reference) {
                return Err("an unexpected repetition".to_owned());
            }
            if known.is_some_and(|&(.., was_refused)| was_refused != is_error) {
                return Err(format!("the outcome was another one before: refused={}", !is_error));
            }
            if let Some(sent) = self.pending.remove(&reference) {
                let outcome = if is_error { Outcome::Refused } else { Outcome::Acked };
                return self.settle(reference, sent, outcome, books);
            }
            return Ok(());
        }
        let sent = self.pending.remove(&reference);
        if let Some(seq) = seq
            && !is_error
        {
            let of =
                sent.as_ref().or_else(|| self.settled.iter().find(|(it, ..)| *it == reference).map(|(_, it, _)| it));
            let Some((id, kind)) = of.map(|sent| (sent.id, sent.kind)) else {
                return Err("an ack of an unknown ref".to_owned());
            };
            if kind == Kind::Broadcast {
                self.numbered(seq, message_entry(&self.name.clone(), &id.to_string()), books)?;
            }
        }
        let is_replay = self.conn.as_ref().is_some_and(|conn| conn.awaits_state);
        match sent {
            Some(sent) if is_error && matches!(answer["code"].as_str(), Some("unavailable" | "rate_limited")) => {
                // The log has not seen it: its number may still be used.
                books.count("refused by the node alone");
                books.settled(sent.id, Outcome::Refused)
            }
            Some(sent) => self.settle(reference, sent, if is_error { Outcome::Refused } else { Outcome::Acked }, books),
            None if is_replay => Ok(()),
            None => Err("an answer to a request that has none".to_owned()),
        }
    }
}

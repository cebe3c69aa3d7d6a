//! What the server sends to a page, checked frame by frame against the books.
//!
//! Decides nothing for the page: the session reads the same frames afterwards.

use serde_json::Value;

use super::{Event, Goodbye, Page};
use crate::sim::cluster::books::{Books, Kind, message_entry};
use crate::sim::cluster::members;

impl Page {
    pub(super) fn heard(&mut self, now: u64, message: &Value, text: &str, books: &mut Books) -> Result<Event, String> {
        let kind = message["type"].as_str().ok_or("no type")?;
        let seq = message["seq"].as_u64();
        match kind {
            "welcome" => return self.welcomed(now, message, books),
            "presence_state" => self.listed(seq.ok_or("no seq")?, message, books)?,
            "presence_diff" => {
                self.numbered(seq.ok_or("no seq")?, text.to_owned(), books)?;
                self.members().map_or(Ok(()), |mut known| members::apply(&mut known, message))?;
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
                self.application.expect_message(message);
            }
            "direct" => self.direct(message, books)?,
            "ack" | "error" => self.answered(message, kind == "error", books)?,
            "state" | "host" | "settings" | "countdown" | "start" => {
                self.numbered(seq.ok_or("no seq")?, text.to_owned(), books)?;
            }
            "goodbye" => self.told_goodbye(message, books)?,
            "health_ping" | "pong" | "lobby_state" => {}
            _ => return Err("an unknown type".to_owned()),
        }
        Ok(Event::None)
    }

    fn told_goodbye(&mut self, message: &Value, books: &mut Books) -> Result<(), String> {
        message["reconnect"].as_bool().ok_or("no reconnect")?;
        self.goodbye = Some(Goodbye { code: message["code"].as_u64().ok_or("no code")? });
        books.count(match message["reason"].as_str() {
            Some("reconnect") => "goodbye reconnect",
            Some("replaced") => "goodbye replaced",
            Some("kicked" | "banned") => "goodbye kicked",
            Some("lobby_full" | "server_full" | "lobby_limit" | "user_limit") => "goodbye full",
            _ => "goodbye with another reason",
        });
        Ok(())
    }

    fn moved(&mut self, seq: u64) {
        let epoch = self.read.epoch.as_ref().map_or(0, |&(_, epoch)| epoch);
        self.read.position = Some((epoch, seq));
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
        let epoch = self.read.epoch.clone().ok_or("a frame before welcome")?;
        books.numbered(self.book, &epoch, seq, entry)?;
        self.moved(seq);
        Ok(())
    }

    fn listed(&mut self, seq: u64, state: &Value, books: &mut Books) -> Result<(), String> {
        let conn = self.conn.as_mut().expect("it has received something");
        if std::mem::take(&mut conn.awaits_state) && conn.replay > 0 {
            return Err(format!("{} announced frames were not replayed", conn.replay));
        }
        let epoch = self.read.epoch.clone().ok_or("a list before welcome")?;
        let is_same = self.read.position == Some((epoch.1, seq));
        books.state(self.book, &epoch, seq)?;
        self.moved(seq);
        let list = members::read_list(&state["users"]).ok_or("not a list")?;
        if let Some(seat) = &self.read.seat
            && list.get(seat).is_none_or(|(user, _)| *user != self.name)
        {
            return Err(format!("its seat {seat} is not in the list"));
        }
        if let Some(known) = self.members()
            && is_same
            && !members::has_same_users(&known, &list)
        {
            return Err(format!("the diffs have led to {known:?}"));
        }
        self.read.has_list = true;
        Ok(())
    }

    fn direct(&mut self, message: &Value, books: &mut Books) -> Result<(), String> {
        let conn = self.conn.as_mut().expect("it has received something");
        if conn.awaits_state {
            conn.replay = conn.replay.checked_sub(1).ok_or("more is replayed than announced")?;
        }
        let n = message["n"].as_u64().ok_or("no n")?;
        if self.read.n.is_some_and(|known| n != known + 1) {
            return Err(format!("direct message {n} after {:?}", self.read.n));
        }
        self.read.n = Some(n);
        if n > self.read.highest_n {
            self.read.highest_n = n;
            self.application.expect_message(message);
        }
        match message["data"].as_u64() {
            Some(id) => books.direct(self.book, id),
            // Of an operator.
            None => Ok(()),
        }
    }

    fn answered(&mut self, answer: &Value, is_error: bool, books: &mut Books) -> Result<(), String> {
        let Some(reference) = answer["ref"].as_u64() else { return Ok(()) };
        let is_replay = self.conn.as_ref().is_some_and(|conn| conn.awaits_state);
        let Some(sent) = self.sent.get_mut(&reference) else {
            // Of a session that the page has forgotten.
            return if is_replay { Ok(()) } else { Err("an answer to a request that was not sent".to_owned()) };
        };
        let (id, kind, before) = (sent.id, sent.kind, sent.answer);
        // The log has not seen what the node alone has refused.
        let is_of_node = is_error && matches!(answer["code"].as_str(), Some("unavailable" | "rate_limited"));
        sent.answer = sent.answer.or(Some(is_error).filter(|_| !is_of_node));
        if answer["repeated"].as_bool() == Some(true) {
            books.count("repeated");
            // Of a number that is far below the last one, the server knows only that it was used.
            let is_known = self.sent.last_key_value().is_some_and(|(last, _)| last - reference < 64);
            if is_known && before.is_some_and(|was_refused| was_refused != is_error) {
                return Err(format!("the outcome was another one before: refused={}", !is_error));
            }
            return Ok(());
        }
        if is_of_node {
            books.count("refused by the node alone");
            // It gets another number, unless it has timed out.
            let request = self.sent[&reference].request;
            if answer["code"] == "rate_limited" && self.requests.contains_key(&request) {
                self.unsent.insert(request);
            }
        } else if before.is_some() && !is_replay && !self.repeats.contains(&reference) {
            return Err("a second answer to a request".to_owned());
        }
        if let Some(seq) = answer["seq"].as_u64()
            && !is_error
            && kind == Kind::Broadcast
        {
            self.numbered(seq, message_entry(&self.name.clone(), &id.to_string()), books)?;
        }
        Ok(())
    }
}

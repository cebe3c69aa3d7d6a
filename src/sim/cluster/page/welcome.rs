//! The beginning of a connection: what has become of the session, and of the requests that were not answered.

use serde_json::Value;

use super::{Event, Page};
use crate::sim::cluster::books::{Books, Outcome};
use crate::sim::wire;

impl Page {
    pub(super) fn welcomed(
        &mut self,
        now: u64,
        welcome: &Value,
        books: &mut Books,
        answer: &mut Vec<u8>,
    ) -> Result<Event, String> {
        let number = |field: &str| welcome[field].as_u64().ok_or(format!("no {field}"));
        let (seq, n) = (number("seq")?, number("n")?);
        let is_resumed = welcome["resumed"].as_bool().ok_or("no resumed")?;
        let is_recovered = welcome["recovered"].as_bool().ok_or("no recovered")?;
        let lobby = welcome["lobby"].as_str().ok_or("no lobby")?;
        let epoch = (lobby.to_owned(), number("epoch")?);
        let had_session = self.epoch.is_some();
        let seat = welcome["conn"].as_str().ok_or("no conn")?.to_owned();
        let conn = self.conn.as_mut().expect("it has received something");
        (conn.is_welcome, conn.awaits_state, conn.replay) = (true, true, number("replay")?);
        conn.is_recovered = is_recovered;
        books.count("welcomes");
        let mut event = Event::None;
        let is_forked = std::mem::take(&mut self.is_forked);
        if is_forked {
            // What it knows may not be part of the log any more.
            (self.n, self.view, self.seat) = (None, None, None);
            self.settled.clear();
            books.broken(self.book, now);
        }
        if self.attempts > 1 && !(is_resumed && had_session) {
            // An earlier connection may have begun a session of which the page has heard nothing.
            books.broken(self.book, now);
        }
        if is_resumed {
            books.count("resumes");
            if is_recovered {
                books.count("recovered");
                if let Some(known) = self.n.filter(|&known| known != n) {
                    return Err(format!("recovered, but n is {n} after {known}"));
                }
            } else {
                books.broken(self.book, now);
                if self.was.is_none() && self.position.is_some() {
                    let lost = n.saturating_sub(self.n.unwrap_or(n));
                    books.gap(self.book, (&epoch, seq), lost, is_forked)?;
                }
                books.begin(self.book);
            }
            if had_session && self.seat.as_ref().is_some_and(|known| *known != seat) {
                return Err(format!("resumed on another seat than {:?}", self.seat));
            }
            self.settle_done(number("done")?, welcome["refused"].as_str().ok_or("no refused")?, books)?;
        } else {
            if is_recovered {
                return Err("a new session cannot recover".to_owned());
            }
            if had_session {
                event = Event::Forgotten;
            }
            books.restart(self.book);
            self.position = None;
            self.settled.clear();
            for (_, sent) in std::mem::take(&mut self.pending) {
                books.settled(sent.id, Outcome::Unknown)?;
            }
        }
        (self.n, self.was, self.seat, self.lost_at) = (Some(n), None, Some(seat), None);
        self.epoch = Some(epoch);
        self.is_disturbed = false;
        for sent in self.pending.values() {
            books.count("sent again");
            answer.extend(wire::text(&sent.text));
        }
        Ok(event)
    }

    fn settle_done(&mut self, done: u64, refused: &str, books: &mut Books) -> Result<(), String> {
        let refused = u64::from_str_radix(refused, 16).map_err(|error| error.to_string())?;
        let later = self.pending.split_off(&(done + 1));
        for (reference, sent) in std::mem::replace(&mut self.pending, later) {
            let is_refused = done - reference < 64 && refused >> (done - reference) & 1 == 1;
            self.settle(reference, sent, if is_refused { Outcome::Refused } else { Outcome::Done }, books)?;
        }
        self.next_ref = self.next_ref.max(done + 1);
        Ok(())
    }
}

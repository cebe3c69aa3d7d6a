//! The beginning of a connection: what has become of the session, and of the requests that were not answered.

use serde_json::Value;

use super::{Event, Page};
use crate::sim::cluster::books::Books;

impl Page {
    pub(super) fn welcomed(&mut self, now: u64, welcome: &Value, books: &mut Books) -> Result<Event, String> {
        let number = |field: &str| welcome[field].as_u64().ok_or(format!("no {field}"));
        let (seq, n, done) = (number("seq")?, number("n")?, number("done")?);
        let is_resumed = welcome["resumed"].as_bool().ok_or("no resumed")?;
        let is_recovered = welcome["recovered"].as_bool().ok_or("no recovered")?;
        let refused = welcome["refused"].as_str().ok_or("no refused")?;
        let refused = u64::from_str_radix(refused, 16).map_err(|error| error.to_string())?;
        let lobby = welcome["lobby"].as_str().ok_or("no lobby")?;
        let epoch = (lobby.to_owned(), number("epoch")?);
        let seat = welcome["conn"].as_str().ok_or("no conn")?.to_owned();
        let conn = self.conn.as_mut().expect("it has received something");
        (conn.is_welcome, conn.awaits_state, conn.replay) = (true, true, number("replay")?);
        (conn.is_recovered, conn.done) = (is_recovered, done);
        books.count("welcomes");
        let read = &mut self.read;
        let had_session = read.epoch.is_some();
        let is_forked = std::mem::take(&mut self.is_forked);
        let known_seat = read.seat.take();
        let is_same_seat = is_resumed && known_seat.as_ref().is_none_or(|known| *known == seat);
        if read.position.is_some() && !is_recovered {
            self.application.expect_gap();
        }
        if is_forked {
            // What it knows may not be part of the log any more.
            (read.n, read.has_list, read.is_vague) = (None, false, true);
            self.application.expect_fork();
            self.sent.values_mut().for_each(|sent| sent.answer = None);
            books.broken(self.book, now);
        }
        if self.attempts > 1 && !(is_resumed && had_session) {
            // An earlier connection may have begun a session of which the page has heard nothing.
            books.broken(self.book, now);
        }
        let mut event = Event::None;
        if is_resumed {
            books.count("resumes");
            if is_recovered {
                books.count("recovered");
                if let Some(known) = read.n.filter(|&known| known != n) {
                    return Err(format!("recovered, but n is {n} after {known}"));
                }
            } else {
                books.broken(self.book, now);
                if !read.has_was && read.position.is_some() {
                    let lost = n.saturating_sub(read.n.unwrap_or(n));
                    books.gap(self.book, (&epoch, seq), lost, is_forked)?;
                }
                books.begin(self.book);
            }
            if had_session && !is_same_seat && !is_forked && !self.has_stray {
                return Err(format!("resumed on another seat than {known_seat:?}"));
            }
        } else {
            if is_recovered {
                return Err("a new session cannot recover".to_owned());
            }
            if had_session {
                event = Event::Forgotten;
            }
            books.restart(self.book);
        }
        if is_same_seat {
            self.check_settled(done, refused, is_forked)?;
        } else {
            self.read.position = None;
            self.sent.clear();
            self.repeats.clear();
        }
        let read = &mut self.read;
        read.position = read.position.filter(|&(known, _)| known == epoch.1);
        read.highest_n = if is_same_seat { read.highest_n.max(n) } else { n };
        (read.n, read.has_was, read.seat, self.lost_at) = (Some(n), false, Some(seat), None);
        read.epoch = Some(epoch);
        self.is_disturbed = false;
        Ok(event)
    }

    /// The server must not have forgotten what it has answered.
    fn check_settled(&self, done: u64, refused: u64, is_forked: bool) -> Result<(), String> {
        for (number, sent) in self.sent.iter().rev().take(64) {
            let Some(was_refused) = sent.answer.filter(|_| !is_forked) else { continue };
            let says = done.checked_sub(*number).map(|back| back < 64 && refused >> back & 1 == 1);
            // A node alone has refused what the log has not seen.
            let is_consistent = match says {
                Some(is_refused) => is_refused == was_refused || (was_refused && done - number >= 64),
                None => was_refused,
            };
            if !is_consistent {
                return Err(format!("ref {number} was answered, refused={was_refused}, and done is {done}"));
            }
        }
        Ok(())
    }
}

//! Sessions of the model clients: the name under which a page comes back, how far it has read, and the outcome of each of
//! its numbered requests. A session outlives its connections.
//!
//! Knows no connection but the number of the link that speaks for it, and no bytes.

use std::collections::{BTreeMap, VecDeque};

use super::books::{Books, ReadPosition};
use super::sent::{Outcome, RequestKind};
use crate::sim::models::relay::RelayModel;

/// Most numbered requests that a client leaves unanswered.
const MAX_UNANSWERED: usize = 16;
/// Largest distance between the oldest unanswered number and the next one. `refused` has 64 bits.
const MAX_SPAN: u32 = 48;
/// Number of outcomes that are kept, for requests that are sent again on purpose.
const OUTCOMES: usize = 64;

/// A numbered request whose outcome the client does not know.
#[derive(Clone, Debug)]
pub(crate) struct Unconfirmed {
    pub(crate) reference: u32,
    pub(crate) kind: RequestKind,
    pub(crate) k: u32,
    pub(crate) text: String,
}

/// What a claim says of the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PositionForm {
    /// As far as the client has read.
    Right,
    /// As far as it had read earlier, as after a page was restored.
    Stale,
    /// Ahead of what the server has said.
    Future,
    /// Of another epoch.
    Foreign,
    /// None, as in the first attempt.
    Missing,
    /// Of an earlier session of this name.
    Former,
}

/// What a client claims in its request, and what it then knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct SentClaim {
    pub(crate) position: Option<ReadPosition>,
    /// What the client knows at this position. `None` for a new session.
    pub(crate) books: Option<Books>,
}

/// A page with its session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Number of its name. A client that claims the session of another has a session with the same name.
    pub(crate) name: u32,
    /// Number of the name that it sends as `was`.
    pub(crate) was: Option<u32>,
    pub(crate) user: usize,
    pub(crate) lobby: usize,
    /// Number of the link that speaks for it now, or did last.
    pub(crate) link: u32,
    /// Number under which its messages are known: that of its first link.
    pub(crate) marker: u32,
    pub(crate) messages_sent: u32,
    pub(crate) directs_sent: u32,
    /// Whether the page has given up.
    pub(crate) is_over: bool,
    /// Whether it came back while an earlier connection went on reading.
    pub(crate) has_two_tabs: bool,
    last_ref: u32,
    unanswered: VecDeque<Unconfirmed>,
    outcomes: BTreeMap<u32, Outcome>,
    /// What it knew when it last lost or gave up its connection.
    books: Option<Books>,
    /// What it knew earlier.
    older: Option<Books>,
    /// Its position in a session of this name that has ended.
    former: Option<ReadPosition>,
}

/// All sessions of a run.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) all: Vec<Session>,
    names: u32,
}

/// Writes the name with this number. Names have 16 to 64 characters.
pub(crate) fn session_name(number: u32) -> String {
    let name = format!("page-{number:011}");
    match number % 3 {
        0 => name,
        1 => format!("{name}_{}", "Zz9-".repeat(11)),
        _ => format!("{name}{}", "_".repeat(48)),
    }
}

impl Sessions {
    /// Returns the number of a name that was not used before.
    pub(crate) fn new_name(&mut self) -> u32 {
        self.names += 1;
        self.names
    }

    /// Number of names used so far. They are numbered from 1.
    pub(crate) fn names(&self) -> u32 {
        self.names
    }

    /// Whether no session of this name belongs to `user` in `lobby`.
    pub(crate) fn is_foreign(&self, name: u32, user: usize, lobby: usize) -> bool {
        let is_own = |it: &Session| (it.name == name || it.was == Some(name)) && (it.user, it.lobby) == (user, lobby);
        !self.all.iter().any(is_own)
    }

    /// Adds a session whose first link has the number `link`. Returns its index.
    pub(crate) fn add(&mut self, name: u32, was: Option<u32>, user: usize, lobby: usize, link: u32) -> usize {
        self.all.push(Session {
            name,
            was,
            user,
            lobby,
            link,
            marker: link,
            messages_sent: 0,
            directs_sent: 0,
            is_over: false,
            has_two_tabs: false,
            last_ref: 0,
            unanswered: VecDeque::new(),
            outcomes: BTreeMap::new(),
            books: None,
            older: None,
            former: None,
        });
        self.all.len() - 1
    }
}

impl Session {
    /// Returns the next number for a request; `None` if too many are unanswered. A number may be skipped.
    pub(crate) fn next_reference(&mut self, skips: bool) -> Option<u32> {
        self.peek_reference()?;
        if skips {
            self.last_ref += 1;
            self.note_outcome(self.last_ref, Outcome::Skipped);
        }
        self.last_ref += 1;
        Some(self.last_ref)
    }

    /// Returns the number that the next request gets, unless it skips one; `None` if too many are unanswered.
    pub(crate) fn peek_reference(&self) -> Option<u32> {
        let oldest = self.unanswered.front().map_or(self.last_ref, |oldest| oldest.reference);
        let has_room = self.unanswered.len() < MAX_UNANSWERED && self.last_ref + 2 - oldest <= MAX_SPAN;
        has_room.then_some(self.last_ref + 1)
    }

    /// A numbered request was sent for the first time.
    pub(crate) fn sent(&mut self, request: Unconfirmed) {
        self.unanswered.push_back(request);
    }

    /// A numbered request was answered.
    pub(crate) fn answered(&mut self, reference: u32, outcome: Outcome) {
        self.unanswered.retain(|sent| sent.reference != reference);
        self.note_outcome(reference, outcome);
    }

    fn note_outcome(&mut self, reference: u32, outcome: Outcome) {
        self.outcomes.insert(reference, outcome);
        if self.outcomes.len() > OUTCOMES {
            self.outcomes.pop_first();
        }
    }

    /// Returns a number that was used or skipped before, with its outcome if the client knows it. `which` selects one.
    pub(crate) fn used_reference(&self, which: u64) -> Option<(u32, Option<Outcome>)> {
        let unanswered = self.unanswered.iter().map(|sent| (sent.reference, None));
        // A number that was skipped is refused only once a higher one was read.
        let read =
            self.outcomes.iter().filter(|(_, outcome)| **outcome == Outcome::Executed).map(|(number, _)| *number);
        let highest = read.max().unwrap_or(0);
        let settled = self.outcomes.iter().filter(|(number, _)| **number <= highest);
        // The server knows the outcomes of the last numbers only.
        let is_known = |number: u32| self.last_ref - number < OUTCOMES as u32;
        let settled = settled.map(|(&number, &outcome)| (number, Some(outcome).filter(|_| is_known(number))));
        let all: Vec<_> = settled.chain(unanswered).collect();
        (!all.is_empty()).then(|| all[(which % all.len() as u64) as usize])
    }

    /// The session was resumed. Settles every request up to `done`, of which `refused` names those answered with an
    /// error, and returns those to send again.
    pub(crate) fn settle(
        &mut self,
        done: u64,
        refused: u64,
        relay: &mut RelayModel,
    ) -> Result<Vec<Unconfirmed>, String> {
        self.check_done(done)?;
        for (&reference, &outcome) in &self.outcomes {
            let fits = match outcome_in(reference, done, refused) {
                Some(said) => (said == Outcome::Executed) == (outcome == Outcome::Executed),
                None => outcome == Outcome::Skipped || u64::from(reference) < done,
            };
            if !fits {
                return Err(format!("ref {reference} was {outcome:?}, but done is {done} and refused is {refused:x}"));
            }
        }
        for sent in std::mem::take(&mut self.unanswered) {
            let id = (self.marker, sent.k);
            let is_message = sent.kind.is_message();
            if matches!(sent.kind, RequestKind::Control { is_marked: true, .. }) {
                let is_done = outcome_in(sent.reference, done, refused) == Some(Outcome::Executed);
                if is_done != relay.is_changed((self.marker, sent.reference)) {
                    return Err(format!(
                        "ref {} has changed the lobby: {}, according to done {done} and refused {refused:x} {is_done}",
                        sent.reference, !is_done
                    ));
                }
            }
            match outcome_in(sent.reference, done, refused) {
                Some(outcome) => {
                    if is_message && (outcome == Outcome::Executed) != relay.is_executed(id) {
                        return Err(format!(
                            "ref {} is {outcome:?} according to done {done} and refused {refused:x}, and the \
                             application received it: {}",
                            sent.reference,
                            relay.is_executed(id)
                        ));
                    }
                    match outcome {
                        Outcome::Executed if is_message => relay.acked(id),
                        Outcome::Refused if is_message => relay.refused(id)?,
                        _ => {}
                    }
                    self.note_outcome(sent.reference, outcome);
                }
                None if is_message && relay.is_executed(id) => {
                    return Err(format!("ref {} was executed, but done is {done}", sent.reference));
                }
                None => self.unanswered.push_back(sent),
            }
        }
        Ok(self.unanswered.iter().cloned().collect())
    }

    /// The server has used no number that was not sent.
    pub(super) fn check_done(&self, done: u64) -> Result<(), String> {
        let last = self.last_ref;
        if done <= u64::from(last) {
            Ok(())
        } else {
            Err(format!("done is {done}, and the client's last ref was {last}"))
        }
    }

    /// The session begins anew: the outcome of what was sent is unknown.
    pub(crate) fn begin_anew(&mut self, relay: &mut RelayModel) {
        for sent in self.unanswered.drain(..).filter(|sent| sent.kind.is_message()) {
            relay.lost((self.marker, sent.k));
        }
        self.outcomes.clear();
        let read = self.books.as_ref().filter(|books| books.has_position);
        self.former = read.map(|books| books.position).or(self.former);
        (self.books, self.older) = (None, None);
    }

    /// Whether the client has read in an earlier session of this name.
    pub(crate) fn has_former_position(&self) -> bool {
        self.former.is_some()
    }

    /// The client gives up its connection, on which it knew `books`, or none if it was not welcomed.
    pub(crate) fn gave_up(&mut self, books: Option<Books>) {
        if let Some(books) = books {
            self.older = self.books.replace(books).or(self.older.take());
        }
    }

    /// Returns what the client claims next, and what it knows then.
    pub(crate) fn claim(&self, form: PositionForm) -> SentClaim {
        let books = match form {
            PositionForm::Stale => self.older.clone(),
            _ => None,
        };
        let Some(books) = books.or_else(|| self.books.clone()) else { return SentClaim::default() };
        if !books.has_position {
            let books = Some(Books { conn: books.conn, ..Books::default() });
            return SentClaim { position: None, books };
        }
        let position = books.position;
        let position = match form {
            PositionForm::Missing => None,
            PositionForm::Former => self.former,
            PositionForm::Right | PositionForm::Stale => Some(position),
            PositionForm::Future if position.seq % 2 == 0 => {
                Some(ReadPosition { seq: position.seq + 1000, ..position })
            }
            PositionForm::Future => Some(ReadPosition { n: position.n + 1000, ..position }),
            PositionForm::Foreign => Some(ReadPosition { epoch: position.epoch + 1 + position.seq % 2, ..position }),
        };
        SentClaim { position, books: Some(books) }
    }
}

/// Returns the outcome that the `done` and `refused` of a `welcome` give to a request; `None` if it was not read.
fn outcome_in(reference: u32, done: u64, refused: u64) -> Option<Outcome> {
    match done.checked_sub(reference.into())? {
        back @ 0..64 if refused >> back & 1 == 1 => Some(Outcome::Refused),
        0..64 => Some(Outcome::Executed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_server_accepts() {
        for number in 0..9 {
            assert!(crate::base::session::SessionHash::of(&session_name(number)).is_some(), "{}", session_name(number));
        }
    }
}

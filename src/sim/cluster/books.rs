//! Double-entry books: what clients have sent, and what each session has received, across all its connections and nodes.
//!
//! Knows neither nodes nor the log, so that it checks what clients see of them:
//!
//! - Every numbered frame of a lobby reaches every session of the lobby exactly once and in order, from its first
//!   `presence_state` on. A session gets its own messages as `ack`s.
//! - All members see the same frame under the same number, and no message has two numbers.
//! - Direct messages are numbered without gaps.
//! - A request is executed at most once, and one that was acknowledged is not lost.
//! - Frames are missing only after `recovered: false`, which has a reason that the books confirm.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{Config, DuplicateLogin};

/// How long a frame of a lost part of the log may be on its way to a client, in microseconds.
const FORKED: u64 = 20_000_000;

/// Number of a session's book.
pub(super) type BookId = usize;
/// A lobby and its epoch.
pub(super) type Epoch = (String, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Broadcast,
    /// Without a `ref`.
    Quiet,
    Volatile,
    /// To this user.
    Direct(usize),
    Control,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Acked,
    Refused,
    /// Settled by `done` of a `welcome`.
    Done,
    Unknown,
}

#[derive(Debug)]
struct Request {
    kind: Kind,
    sent_at: u64,
    book: BookId,
    outcome: Option<Outcome>,
}

/// What one session has received.
#[derive(Debug, Default)]
pub(super) struct SessionBook {
    pub(super) user: usize,
    /// Position in the lobby, since the first `presence_state`.
    position: Option<(Epoch, u64)>,
    /// Numbers that it may have missed only because they were its own messages without a `ref`.
    own_quiet: BTreeSet<(Epoch, u64)>,
    has_sent_quietly: bool,
    /// How often the server has begun it anew.
    restarts: u64,
    /// Whether it was told that frames are missing.
    has_gap: bool,
    volatile: BTreeSet<u64>,
}

#[derive(Debug)]
pub(super) struct Books {
    users: Vec<String>,
    history_frames: u64,
    history_bytes: u64,
    /// Whether a user may have several seats.
    has_several_seats: bool,
    /// How long a seat may exist after its page has ended, in microseconds: until the cluster knows it.
    seat_life: u64,
    logs: BTreeMap<Epoch, BTreeMap<u64, String>>,
    pub(super) sessions: Vec<SessionBook>,
    requests: BTreeMap<u64, Request>,
    /// By message: its number in a lobby.
    places: BTreeMap<u64, (Epoch, u64)>,
    /// By message: the book of the session that received it as a direct message.
    directs: BTreeMap<u64, (BookId, u64)>,
    /// What operators have published, by its data: its number in a lobby.
    published: BTreeMap<String, (Epoch, u64)>,
    /// What was published under this number, as the operator was told.
    told: BTreeMap<String, u64>,
    /// By user: when a direct message may last have been lost.
    breaks: Vec<Option<u64>>,
    /// Epochs of which nodes have seen different frames, because the log was forked.
    void: BTreeSet<Epoch>,
    /// Until then a fork may concern what clients send and see.
    forked_until: u64,
    now: u64,
    pub(super) counts: BTreeMap<&'static str, u64>,
}

/// What the books say about a message with a number.
pub(super) fn message_entry(user: &str, data: &str) -> String {
    format!("message {user} {data}")
}

impl Books {
    pub(super) fn new(users: &[String], config: &Config) -> Books {
        Books {
            seat_life: config.seat_grace.as_micros() as u64 + 15_000_000,
            has_several_seats: config.duplicate_login == DuplicateLogin::Allow,
            users: users.to_vec(),
            history_frames: u64::from(config.history_frames),
            history_bytes: config.history_bytes.0 as u64,
            logs: BTreeMap::new(),
            sessions: Vec::new(),
            requests: BTreeMap::new(),
            places: BTreeMap::new(),
            directs: BTreeMap::new(),
            published: BTreeMap::new(),
            told: BTreeMap::new(),
            breaks: vec![None; users.len()],
            void: BTreeSet::new(),
            forked_until: 0,
            now: 0,
            counts: BTreeMap::new(),
        }
    }

    pub(super) fn set_time(&mut self, now: u64) {
        self.now = now;
    }

    /// The log was forked: what only some nodes have executed is lost, and clients have seen it.
    pub(super) fn note_fork(&mut self, now: u64) {
        self.void.extend(self.logs.keys().cloned());
        self.forked_until = now + FORKED;
        self.count("forks");
    }

    /// Whether a request may be one that was lost by a fork, or executed in both parts of the log.
    fn may_be_forked(&self, id: u64) -> bool {
        self.requests.get(&id).is_none_or(|request| request.sent_at < self.forked_until)
    }

    pub(super) fn open(&mut self, user: usize) -> BookId {
        self.sessions.push(SessionBook { user, ..SessionBook::default() });
        self.sessions.len() - 1
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_insert(0) += 1;
    }

    /// The session of this book is over, or has missed something.
    pub(super) fn broken(&mut self, book: BookId, now: u64) {
        let user = self.sessions[book].user;
        self.breaks[user] = Some(now);
    }

    /// All sessions have ended with their server.
    pub(super) fn all_broken(&mut self, now: u64) {
        self.breaks.fill(Some(now));
    }

    // ---- what a session receives ----

    /// A new session has begun on a seat.
    pub(super) fn begin(&mut self, book: BookId) {
        self.sessions[book].position = None;
    }

    /// The server has said that frames are missing. There must be a reason. `is_forked`: what the session knows may be lost.
    pub(super) fn gap(
        &mut self,
        book: BookId,
        (epoch, seq): (&Epoch, u64),
        lost_directs: u64,
        is_forked: bool,
    ) -> Result<(), String> {
        let session = &mut self.sessions[book];
        session.has_gap = true;
        let Some((known, position)) = session.position.take() else { return Ok(()) };
        let size = |seq: u64| self.logs.get(epoch).and_then(|log| log.get(&seq)).map_or(64, String::len) as u64 + 64;
        let reason = if known != *epoch {
            "another epoch"
        } else if seq.saturating_sub(position) > self.history_frames {
            "more frames than the history"
        } else if (position + 1..=seq).map(size).sum::<u64>() > self.history_bytes {
            "more bytes than the history"
        } else if lost_directs > 0 {
            "lost direct messages"
        } else if is_forked {
            "a fork"
        } else {
            return Err(format!(
                "{} is not recovered without a reason: position {position} of {seq} in {epoch:?}",
                self.users[session.user]
            ));
        };
        self.count(reason);
        Ok(())
    }

    /// A frame with a number.
    pub(super) fn numbered(&mut self, book: BookId, epoch: &Epoch, seq: u64, entry: String) -> Result<(), String> {
        let session = &mut self.sessions[book];
        let user = &self.users[session.user];
        if let Some((known, position)) = &session.position
            && known == epoch
        {
            if seq <= *position {
                return Err(format!("{user} receives seq {seq} of {epoch:?} after {position}: {entry}"));
            }
            if seq > position + 1 && !session.has_sent_quietly {
                return Err(format!("{user} receives seq {seq} of {epoch:?} after {position}: some are lost"));
            }
            session.own_quiet.extend((position + 1..seq).map(|missing| (epoch.clone(), missing)));
        }
        session.position = Some((epoch.clone(), seq));
        self.note_entry(epoch, seq, entry, book)
    }

    fn note_entry(&mut self, epoch: &Epoch, seq: u64, entry: String, book: BookId) -> Result<(), String> {
        if self.now < self.forked_until && !self.logs.contains_key(epoch) {
            self.void.insert(epoch.clone());
        }
        let user = &self.users[self.sessions[book].user];
        let log = self.logs.entry(epoch.clone()).or_default();
        if self.void.contains(epoch) {
            if let Some(id) = entry.starts_with("message ").then(|| id_in(&entry)).flatten() {
                self.places.entry(id).or_insert((epoch.clone(), seq));
            }
            log.entry(seq).or_insert(entry);
            return Ok(());
        }
        match log.get(&seq) {
            Some(known) if *known != entry => {
                return Err(format!("seq {seq} of {epoch:?} is `{entry}` for {user}, and `{known}` for others"));
            }
            Some(_) => return Ok(()),
            None => drop(log.insert(seq, entry.clone())),
        }
        if let Some(data) = entry.strip_prefix("message null ") {
            if self.told.get(data).is_some_and(|told| *told != seq && self.now >= self.forked_until) {
                return Err(format!("{data} has seq {seq}, and the operator was told {:?}", self.told.get(data)));
            }
            let place = (epoch.clone(), seq);
            if let Some(other) = self.published.insert(data.to_owned(), place)
                && self.now >= self.forked_until
            {
                return Err(format!("{data} was published twice: {other:?} and seq {seq} of {epoch:?}"));
            }
        }
        if let Some(id) = entry.starts_with("message ").then(|| id_in(&entry)).flatten()
            && let Some(other) = self.places.insert(id, (epoch.clone(), seq))
            && !self.may_be_forked(id)
        {
            return Err(format!("message {id} has two numbers: {other:?} and seq {seq} of {epoch:?}"));
        }
        Ok(())
    }

    /// A list of members as of this number.
    pub(super) fn state(&mut self, book: BookId, epoch: &Epoch, seq: u64) -> Result<(), String> {
        let session = &mut self.sessions[book];
        if let Some((known, position)) = &session.position
            && known == epoch
        {
            if seq < *position {
                return Err(format!("{} gets a list as of {seq} after {position}", self.users[session.user]));
            }
            if seq > *position && !session.has_sent_quietly {
                return Err(format!(
                    "{} gets a list of {epoch:?} as of {seq} after {position}: some frames are lost",
                    self.users[session.user]
                ));
            }
            session.own_quiet.extend((position + 1..=seq).map(|missing| (epoch.clone(), missing)));
        }
        session.position = Some((epoch.clone(), seq));
        Ok(())
    }

    pub(super) fn volatile(&mut self, book: BookId, id: u64) -> Result<(), String> {
        self.count("volatile");
        if self.sessions[book].volatile.insert(id) || self.may_be_forked(id) {
            Ok(())
        } else {
            Err(format!("the volatile message {id} comes twice"))
        }
    }

    /// A direct message, whose number follows the last one.
    pub(super) fn direct(&mut self, book: BookId, id: u64) -> Result<(), String> {
        self.count("directs");
        // A session that the server has begun anew gets what it does not know to have been written.
        let receiver = (book, self.sessions[book].restarts);
        match self.directs.insert(id, receiver) {
            Some(other) if other == receiver && !self.may_be_forked(id) => {
                Err(format!("the direct message {id} comes twice"))
            }
            Some(_) => {
                self.count("directs again on a newer page");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// An operator was told that its message has this number.
    pub(super) fn published(&mut self, data: &str, seq: u64) -> Result<(), String> {
        self.told.insert(data.to_owned(), seq);
        match self.published.get(data) {
            Some((epoch, place)) if *place != seq && self.now >= self.forked_until => {
                Err(format!("the operator was told seq {seq} for {data}, which has {place} in {epoch:?}"))
            }
            _ => Ok(()),
        }
    }

    /// An operator was told that its message was refused.
    pub(super) fn not_published(&self, data: &str) -> Result<(), String> {
        match self.published.get(data) {
            Some(place) if self.now >= self.forked_until => {
                Err(format!("{data} was refused although it was published: {place:?}"))
            }
            _ => Ok(()),
        }
    }

    /// The server has begun a session anew.
    pub(super) fn restart(&mut self, book: BookId) {
        self.sessions[book].restarts += 1;
        self.begin(book);
    }

    // ---- what clients send ----

    pub(super) fn sent(&mut self, book: BookId, id: u64, kind: Kind, now: u64) {
        self.sessions[book].has_sent_quietly |= kind == Kind::Quiet;
        self.requests.entry(id).or_insert(Request { kind, sent_at: now, book, outcome: None });
    }

    pub(super) fn settled(&mut self, id: u64, outcome: Outcome) -> Result<(), String> {
        let request = self.requests.get_mut(&id).expect("the request was sent");
        if let Some(before) = request.outcome {
            return Err(format!("request {id} is settled twice: {before:?}, then {outcome:?}"));
        }
        request.outcome = Some(outcome);
        let is_seen = self.places.contains_key(&id) || self.directs.contains_key(&id);
        if outcome == Outcome::Refused && is_seen && !self.may_be_forked(id) {
            return Err(format!("request {id} is refused although it was executed"));
        }
        self.count(match outcome {
            Outcome::Acked => "acked",
            Outcome::Refused => "refused",
            Outcome::Done => "settled by done",
            Outcome::Unknown => "settled as unknown",
        });
        Ok(())
    }

    /// Whether a session may not know that its own last frames were sent.
    pub(super) fn sends_quietly(&self, book: BookId) -> bool {
        self.sessions[book].has_sent_quietly
    }

    // ---- at the end ----

    /// Checks what can be known only when everything has arrived.
    pub(super) fn check(&self) -> Result<(), String> {
        for session in &self.sessions {
            for (epoch, seq) in session.own_quiet.iter().filter(|(epoch, _)| !self.void.contains(epoch)) {
                let entry = self.logs.get(epoch).and_then(|log| log.get(seq));
                let is_own = entry.is_none_or(|entry| {
                    let request = id_in(entry).and_then(|id| self.requests.get(&id));
                    request.is_some_and(|it| it.kind == Kind::Quiet && self.sessions[it.book].user == session.user)
                });
                if !is_own {
                    let user = &self.users[session.user];
                    return Err(format!("{user} has missed seq {seq} of {epoch:?}: {}", entry.expect("not its own")));
                }
            }
        }
        self.requests.iter().try_for_each(|(id, request)| self.check_request(*id, request))
    }

    fn check_request(&self, id: u64, request: &Request) -> Result<(), String> {
        let session = &self.sessions[request.book];
        let user = &self.users[session.user];
        match (request.kind, request.outcome) {
            (Kind::Quiet | Kind::Volatile, _) => Ok(()),
            (_, None) => Err(format!("request {id} of {user} was never settled")),
            _ if self.may_be_forked(id) => Ok(()),
            (_, Some(Outcome::Refused)) if self.places.contains_key(&id) || self.directs.contains_key(&id) => {
                Err(format!("request {id} of {user} was refused, and executed"))
            }
            (Kind::Broadcast, Some(outcome @ (Outcome::Acked | Outcome::Done))) if !self.places.contains_key(&id) => {
                if outcome == Outcome::Done && session.has_gap {
                    return Ok(());
                }
                Err(format!("request {id} of {user} is lost: {outcome:?}"))
            }
            (Kind::Direct(to), Some(outcome @ (Outcome::Acked | Outcome::Done))) if !self.directs.contains_key(&id) => {
                // A user with several seats may have one to which no page comes back.
                let pages = self.sessions.iter().filter(|session| session.user == to).count();
                let has_lost_seats = self.has_several_seats && pages > 1;
                if has_lost_seats || self.breaks[to].is_some_and(|at| at + self.seat_life >= request.sent_at) {
                    return Ok(());
                }
                Err(format!("the direct message {id} of {user} to {} is lost: {outcome:?}", self.users[to]))
            }
            _ => Ok(()),
        }
    }
}

/// The number of the message in an entry.
fn id_in(entry: &str) -> Option<u64> {
    entry.rsplit_once(' ')?.1.parse().ok()
}

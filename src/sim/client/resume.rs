//! A client's connection in a session: it checks what the server says of the session, and the frames of a replay.
//!
//! What must be replayed was worked out by the model of the sessions; the view compares frame by frame.

use super::books::Books;
use super::payload::read_number;
use super::server_text::{ServerText, field, require};
use super::shared_state::SharedState;
use super::view::{Stage, View};
use crate::sim::models::missed::{Replayed, Resume};
use crate::sim::models::relay::hash_text;

impl View {
    /// Returns what the client knows, if it was welcomed.
    pub(crate) fn books_of_session(&self) -> Option<Books> {
        (self.stage != Stage::New && !self.books.conn.is_empty()).then(|| self.books.clone())
    }

    pub(super) fn has_lost_frames(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.has_lost_frames)
    }

    /// Handles the `welcome` of a connection in a session.
    pub(super) fn welcome_session(&mut self, fields: &ServerText<'_>, shared: &mut SharedState) -> Result<(), String> {
        let session = self.session.as_mut().expect("the caller has checked");
        let (resumed, recovered) = (field(fields.resumed)?, field(fields.recovered)?);
        let (done, replay, n) = (field(fields.done)?, field(fields.replay)?, field(fields.n)?);
        let refused = u64::from_str_radix(field(fields.refused.as_deref())?, 16).map_err(|error| error.to_string())?;
        require(fields.away_ms == Some(shared.seat_grace_ms), "another away_ms")?;
        let conn = field(fields.conn.as_deref())?;
        let of_all = &mut shared.sessions.all[session.index];
        let Some(expected) = session.expected.take() else {
            require(!resumed && !recovered, "a session is resumed that the engine did not resume")?;
            require((done, refused) == (0, 0), "a new session with requests")?;
            session.kept_directs = replay;
            self.books = Books { conn: conn.into(), ..Books::default() };
            (self.books.position.epoch, self.books.position.n) = (self.epoch, n);
            // The first connection of a session may have sent before its `welcome`, and is answered.
            if !session.is_superseded && session.waits_for_welcome() {
                of_all.begin_anew(&mut shared.relay);
            }
            return Ok(());
        };
        if expected.predates.is_some_and(|predates| predates == resumed) {
            return Err(format!("resumed is {resumed}, and must not be"));
        }
        let books = session.claim.books.take().unwrap_or_default();
        // The session that the client knew has ended, or its position says so, and the welcome of this one was lost.
        let is_unknown = !resumed;
        // A late attempt may have got another seat for the session. A client knows its seat by its name.
        let is_other_seat = !books.conn.is_empty() && *books.conn != *conn;
        self.books = if is_unknown { Books::default() } else { books };
        self.books.conn = conn.into();
        if shared.may_be_counted {
            // Meanwhile the lobby may have been too large for a list, and then no changes are replayed.
            self.books.members = None;
        }
        if !recovered {
            self.books.lobby = None;
        }
        let Resume { recovered: must_recover, replay: frames, last_direct, min_directs, .. } = expected;
        if must_recover.is_some_and(|must| must != recovered) {
            return Err(format!("recovered is {recovered}, and must be {must_recover:?}"));
        }
        if recovered {
            // What was said after the `welcome` is not replayed.
            let is_replayed = |frame: &Replayed| match *frame {
                Replayed::Frame { seq, .. } | Replayed::Ack { seq, .. } => seq <= self.answers.seq,
                Replayed::Direct { n: number } => number > n,
            };
            session.replay = frames.into_iter().filter(is_replayed).collect();
            if session.replay.len() as u64 != replay {
                return Err(format!("replay is {replay}, expected {:?}", session.replay));
            }
        } else {
            session.kept_directs = replay;
            if n + replay != last_direct || replay < min_directs {
                return Err(format!("{replay} direct messages after {n}, expected {min_directs} up to {last_direct}"));
            }
        }
        if recovered {
            let is_same = !self.books.has_position || self.books.position.epoch == self.epoch;
            require(is_same, "a session is recovered in another epoch")?;
            let is_known = !self.books.has_position || self.books.position.n == n;
            require(is_known, "a session is recovered, and its direct messages are not")?;
            self.books.position.n = n;
        } else {
            self.books.allow_gaps();
            self.books.position.n = n;
        }
        (session.has_lost_frames, session.is_recovered) = (!recovered, recovered);
        if (is_unknown || is_other_seat) && !session.is_superseded {
            require(!recovered || !is_unknown, "a session that the client does not know is recovered")?;
            of_all.check_done(done)?;
            of_all.begin_anew(&mut shared.relay);
        } else if !session.is_superseded {
            session.resend = of_all.settle(done, refused, &mut shared.relay)?;
        }
        Ok(())
    }

    /// Whether an `ack` is a frame of the replay.
    pub(super) fn is_replayed(&self, fields: &ServerText<'_>) -> bool {
        self.stage == Stage::Welcomed && fields.seq.is_some() && self.session.is_some()
    }

    pub(super) fn handle_replayed_ack(&mut self, fields: &ServerText<'_>) -> Result<(), String> {
        let number = fields.reference.and_then(|raw| read_number(raw.get()));
        let (reference, seq) = (number.ok_or("the ack of a ref that was never used")?, field(fields.seq)?);
        let is_next = |frame: &Replayed| *frame == Replayed::Ack { seq, reference };
        self.take_replayed(is_next)?;
        self.books.position.seq = seq;
        Ok(())
    }

    /// Handles a numbered frame before the `presence_state`.
    pub(super) fn handle_replayed_frame(&mut self, seq: u64, text: &str) -> Result<(), String> {
        let hash = hash_text(text);
        self.take_replayed(|frame| *frame == Replayed::Frame { seq, hash })?;
        self.books.position.seq = seq;
        Ok(())
    }

    /// Handles the number of a direct message.
    pub(super) fn follow_directs(&mut self, n: u64) -> Result<(), String> {
        if n != self.books.position.n + 1 {
            return Err(format!("direct message {n} after {}", self.books.position.n));
        }
        self.books.position.n = n;
        let session = self.session.as_mut().ok_or("a numbered direct message without a session")?;
        if self.stage == Stage::Welcomed {
            if session.kept_directs > 0 {
                session.kept_directs -= 1;
                return Ok(());
            }
            return self.take_replayed(|frame| *frame == Replayed::Direct { n });
        }
        Ok(())
    }

    fn take_replayed(&mut self, is_next: impl Fn(&Replayed) -> bool) -> Result<(), String> {
        let session = self.session.as_mut().ok_or("a numbered frame before the presence_state")?;
        match session.replay.pop_front() {
            Some(frame) if is_next(&frame) => Ok(()),
            other => Err(format!("the next frame of the replay is {other:?}")),
        }
    }

    /// Handles the `presence_state` that ends a replay, with `seq`.
    pub(super) fn end_replay(&mut self, seq: u64) -> Result<(), String> {
        let session = self.session.as_mut().expect("the caller has checked");
        if !session.replay.is_empty() || session.kept_directs > 0 {
            return Err(format!("not replayed: {:?} and {} direct messages", session.replay, session.kept_directs));
        }
        session.has_lost_frames = false;
        self.books.has_position = true;
        (self.books.position.epoch, self.books.position.seq) = (self.epoch, seq);
        Ok(())
    }
}

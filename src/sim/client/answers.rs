//! Matches the server's answers to the requests of one client, and follows the `seq` of its lobby.
//!
//! Answers come in the order of the requests. A request without a `ref` may remain without an answer, and then its
//! effect on `seq` is inferred from the next frame. Knows no members and no bytes.

use std::collections::VecDeque;

use super::payload::read_number;
use super::sent::{ControlAnswer, Outcome, RequestKind, SentRequest};
use super::server_text::{ServerText, field, require};
use super::shared_state::SharedState;

/// Form of a `presence_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateForm {
    /// The number of members.
    Number,
    /// The list of members, after a number.
    ListAfterNumber,
    /// The list of members, after another list.
    ListAgain,
}

/// The unanswered requests of a client, and the counts of the answers.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Number under which the client's messages are known.
    pub(crate) number: u32,
    has_ticks: bool,
    /// Index of the session that this connection speaks for, if any.
    pub(crate) session: Option<usize>,
    pub(crate) seq: u64,
    /// Number of the client's own messages since `seq` whose outcome is unknown: each took one `seq`, or was refused
    /// without an error. The server's `seq` is between `seq` and `seq + slack`.
    slack: u64,
    /// Unanswered requests that are served on arrival, in order.
    on_arrival: VecDeque<SentRequest>,
    /// With ticks on, unanswered requests that wait for the next tick. They are answered in their own order.
    on_tick: VecDeque<SentRequest>,
    /// Whether the `presence_state` for the first request was received, but not yet its `ack`.
    front_answered: bool,
    /// Whether a number of members was received. Numbers also come unasked, so from then on no `presence_state` with one
    /// is matched to a request.
    is_counted: bool,
    /// Whether a `presence_state` was matched to a request without a `ref`, which may have been refused without an
    /// error.
    spare_state: bool,
    /// Number of answers to requests that are charged as messages.
    pub(crate) served: u64,
    /// Bytes by which these requests are longer than their payloads. Those that may have been refused are left out.
    pub(crate) served_growth: u64,
    /// Number of refusals for a rate or a full inbox.
    pub(crate) refusals: u64,
    /// Number of refusals without a `ref`.
    pub(crate) refusals_without_ref: u64,
    /// The last refusal: its `ref`, and the wait in milliseconds.
    pub(crate) refusal: Option<(Option<u32>, u64)>,
    /// The `ref` of the `leave` that was sent, if it had one.
    pub(crate) leave_ref: Option<u32>,
    /// Whether the `leave` was refused, so that the client remains a member.
    pub(crate) leave_refused: bool,
}

impl Answers {
    pub(crate) fn new(number: u32, has_ticks: bool) -> Answers {
        Answers {
            number,
            has_ticks,
            session: None,
            seq: 0,
            slack: 0,
            on_arrival: VecDeque::new(),
            on_tick: VecDeque::new(),
            front_answered: false,
            is_counted: false,
            spare_state: false,
            served: 0,
            served_growth: 0,
            refusals: 0,
            refusals_without_ref: 0,
            refusal: None,
            leave_ref: None,
            leave_refused: false,
        }
    }

    /// Records a request that was sent.
    pub(crate) fn expect(&mut self, request: SentRequest) {
        if request.kind == RequestKind::Leave {
            self.leave_ref = request.reference;
        }
        let waits_for_tick = self.has_ticks && request.kind.waits_for_tick();
        self.queue(waits_for_tick).push_back(request);
    }

    /// Returns the first unanswered request.
    pub(crate) fn unanswered(&self) -> Option<&SentRequest> {
        self.on_arrival.front().or(self.on_tick.front())
    }

    /// Moves to `seq`, received in a frame. With `strict`, only the client's own messages may lie between.
    pub(super) fn advance_seq(&mut self, seq: u64, strict: bool, shared: &SharedState) -> Result<(), String> {
        require(seq > self.seq, "a seq that is not larger than the last")?;
        while strict && self.seq + self.slack + 1 < seq {
            require(self.skip_silent(self.has_ticks, shared), "a gap in seq")?;
        }
        (self.seq, self.slack) = (seq, 0);
        Ok(())
    }

    /// Handles a `presence_state` after the first. A list after a list answers a request; one after a number may be
    /// unasked, and a number is never matched.
    pub(super) fn handle_presence_state(
        &mut self,
        seq: u64,
        form: StateForm,
        strict: bool,
        shared: &SharedState,
    ) -> Result<(), String> {
        self.is_counted |= form == StateForm::Number;
        while strict && self.seq + self.slack < seq && self.skip_silent(self.has_ticks, shared) {}
        if strict || seq < self.seq {
            require((self.seq..=self.seq + self.slack).contains(&seq), "a presence_state with an impossible seq")?;
        }
        (self.seq, self.slack) = (seq, 0);
        if !strict || form != StateForm::ListAgain {
            return Ok(());
        }
        let asks = |front: &SentRequest| front.kind == RequestKind::Presence;
        while !self.on_arrival.front().is_some_and(asks) && self.skip_silent(false, shared) {}
        let front = self.on_arrival.front().filter(|front| asks(front) && !self.front_answered);
        match front.ok_or("a presence_state that the client did not request")?.reference {
            None => {
                self.on_arrival.pop_front();
                self.spare_state = shared.may_refuse;
                self.served += 1;
            }
            Some(_) => self.front_answered = true,
        }
        Ok(())
    }

    /// Handles an `ack`, an `error` or a `pong`: it must answer the first request that may have an answer. Returns the answer
    /// to a request of lobby control, which is checked by what the client knows.
    pub(super) fn handle_answer(
        &mut self,
        kind: &str,
        fields: &ServerText<'_>,
        shared: &mut SharedState,
    ) -> Result<Option<ControlAnswer>, String> {
        let reference: Option<u32> = match fields.reference {
            None => None,
            Some(raw) => {
                let number = read_number(raw.get()).and_then(|number| u32::try_from(number).ok());
                Some(number.ok_or("a ref that was never used, or is spelled differently")?)
            }
        };
        let code = fields.code.map(|raw| raw.get().trim_matches('"'));
        if code == Some("rate_limited") {
            return self.handle_refusal(reference, fields.retry_after_ms, shared).map(|()| None);
        }
        if fields.repeated == Some(true) {
            return self.handle_repeated(kind, reference, code, shared).map(|()| None);
        }
        // An error without a `ref` answers the first request that it fits.
        let answers = |front: &SentRequest| {
            front.reference == reference
                && match (kind, front.kind) {
                    ("pong", asked) => asked == RequestKind::Ping,
                    ("error", RequestKind::Malformed | RequestKind::BadPong) => code == Some("bad_message"),
                    ("error", RequestKind::Direct) => code == Some("user_not_found"),
                    // What has a malformed value is asked for with a `ref` only.
                    ("error", RequestKind::Control { .. }) => reference.is_some() || code != Some("bad_message"),
                    ("error", _) => false,
                    (_, RequestKind::Ping | RequestKind::Malformed | RequestKind::BadPong | RequestKind::Repeat(_)) => {
                        false
                    }
                    (_, _) => true,
                }
        };
        let on_tick = match (kind, reference) {
            ("pong", _) => false,
            (_, None) => self.has_ticks && kind == "error" && code != Some("bad_message"),
            (_, reference) => self.on_tick.iter().any(|request| request.reference == reference),
        };
        while !self.queue(on_tick).front().is_some_and(answers) {
            require(self.skip_silent(on_tick, shared), "an answer that fits no request, or is out of order")?;
        }
        let front = self.queue(on_tick).pop_front().expect("the loop ends at a matching request");
        self.note_outcome(&front, if kind == "error" { Outcome::Refused } else { Outcome::Executed }, shared);
        self.handle_served(front, fields.seq, shared)?;
        let RequestKind::Control { asked, .. } = front.kind else { return Ok(None) };
        let code = code.filter(|_| kind == "error").map(Into::into);
        Ok(Some(ControlAnswer { asked, code, is_certain: reference.is_some() }))
    }

    /// Handles the answer to a request whose number was used before.
    fn handle_repeated(
        &mut self,
        kind: &str,
        reference: Option<u32>,
        code: Option<&str>,
        shared: &SharedState,
    ) -> Result<(), String> {
        let is_repeat = |sent: &SentRequest| matches!(sent.kind, RequestKind::Repeat(_)) && sent.reference == reference;
        while !self.on_arrival.front().is_some_and(is_repeat) {
            require(self.skip_silent(false, shared), "a repeated answer out of order, or to a request that was not")?;
        }
        let outcome = match (kind, code) {
            ("ack", None) => Outcome::Executed,
            ("error", Some("refused")) => Outcome::Refused,
            _ => return Err("another answer to a repeated number".into()),
        };
        let front = self.on_arrival.pop_front().expect("the loop ends at a matching request");
        self.served += 1;
        self.served_growth += u64::from(front.growth);
        match front.kind {
            RequestKind::Repeat(Some(known)) if (known == Outcome::Executed) != (outcome == Outcome::Executed) => {
                Err(format!("the answer to a repeated number, which was {known:?} before"))
            }
            _ => Ok(()),
        }
    }

    /// Tells the session the outcome of a request with a number.
    fn note_outcome(&self, request: &SentRequest, outcome: Outcome, shared: &mut SharedState) {
        if let (Some(session), Some(reference)) = (self.session, request.reference)
            && request.kind.is_numbered()
        {
            shared.sessions.all[session].answered(reference, outcome);
        }
    }

    /// Returns the messages of the client that were sent without a `ref` and whose outcome it does not know.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = &SentRequest> {
        let unanswered = self.on_arrival.iter().chain(&self.on_tick);
        unanswered.filter(|sent| sent.reference.is_none())
    }

    /// Checks what the answer says of `front`, which was served.
    fn handle_served(&mut self, front: SentRequest, seq: Option<u64>, shared: &mut SharedState) -> Result<(), String> {
        if front.kind != RequestKind::BadPong {
            self.served += 1;
            self.served_growth += u64::from(front.growth);
        }
        match front.kind {
            RequestKind::Broadcast | RequestKind::App => {
                shared.relay.acked((self.number, front.k));
                let seq = field(seq)?;
                let next = self.seq + 1..=self.seq + self.slack + 1;
                require(next.contains(&seq), "an ack whose seq is not the next one")?;
                (self.seq, self.slack) = (seq, 0);
            }
            RequestKind::Presence => {
                if !std::mem::take(&mut self.front_answered) && !self.is_counted {
                    // Its state was matched to an earlier request without a `ref`, which in fact was refused without an
                    // error.
                    require(std::mem::take(&mut self.spare_state), "an ack before the presence_state")?;
                    self.served -= 1;
                }
            }
            RequestKind::Direct
            | RequestKind::Volatile
            | RequestKind::Ping
            | RequestKind::Malformed
            | RequestKind::BadPong
            | RequestKind::Repeat(_)
            | RequestKind::Leave => {
                require(seq.is_none(), "a seq in the answer to a request that takes none")?;
            }
            RequestKind::Control { .. } => {}
        }
        Ok(())
    }

    /// Handles `error rate_limited`: a request exceeded a rate or did not fit into the inbox.
    fn handle_refusal(
        &mut self,
        reference: Option<u32>,
        retry_after_ms: Option<u64>,
        shared: &mut SharedState,
    ) -> Result<(), String> {
        let wait = field(retry_after_ms)?;
        require(wait > 0, "a refusal with a wait of 0")?;
        require(shared.may_refuse, "a refusal although no limit is configured")?;
        self.refusals += 1;
        self.refusal = Some((reference, wait));
        if reference.is_none() {
            self.refusals_without_ref += 1;
            return Ok(());
        }
        require(!shared.is_final_phase, "a refusal in the final phase")?;
        // A refusal on arrival overtakes answers that wait for the tick.
        let front = match self.on_tick.iter().position(|request| request.reference == reference) {
            Some(at) => self.on_tick.remove(at),
            None => {
                while self.on_arrival.front().is_some_and(|front| front.reference != reference) {
                    require(self.skip_silent(false, shared), "a refusal out of order")?;
                }
                require(!self.front_answered, "a refusal of a request that was served")?;
                self.on_arrival.pop_front()
            }
        };
        let front = front.ok_or("a refusal with the ref of no unanswered request")?;
        self.note_outcome(&front, Outcome::Refused, shared);
        match front.kind {
            RequestKind::Broadcast | RequestKind::App => shared.relay.refused((self.number, front.k))?,
            RequestKind::Leave => self.leave_refused = true,
            RequestKind::Direct
            | RequestKind::Volatile
            | RequestKind::Presence
            | RequestKind::Ping
            | RequestKind::Malformed
            | RequestKind::Repeat(_)
            | RequestKind::Control { .. }
            | RequestKind::BadPong => {}
        }
        Ok(())
    }

    /// Handles an `error` to a client whose answers are not predictable: it may be the refusal of its `leave`.
    pub(super) fn handle_unmatched_error(&mut self, fields: &ServerText<'_>) {
        let is_refused = fields.code.is_some_and(|code| code.get() == "\"rate_limited\"");
        let reference = fields.reference.and_then(|raw| read_number(raw.get()));
        self.leave_refused |= is_refused && reference.is_some() && reference == self.leave_ref.map(u64::from);
    }

    /// Removes the first request of the queue if it may remain without an answer. Returns whether it did.
    ///
    /// With rate limits, any request without a `ref` may have been refused without an error.
    fn skip_silent(&mut self, on_tick: bool, shared: &SharedState) -> bool {
        // The refusal of a repeated number has no `ref`, because it says nothing of the first request with this number.
        let may_be_silent = |front: &SentRequest| {
            front.reference.is_none() || (shared.may_refuse && matches!(front.kind, RequestKind::Repeat(_)))
        };
        let Some(front) = self.queue(on_tick).front().copied().filter(may_be_silent) else { return false };
        match front.kind {
            RequestKind::Broadcast | RequestKind::App if shared.may_refuse => self.slack += 1,
            RequestKind::Broadcast | RequestKind::App => self.seq += 1,
            RequestKind::Direct | RequestKind::Volatile | RequestKind::Control { .. } => {}
            RequestKind::Presence if self.is_counted => {}
            _ if shared.may_refuse => {}
            _ => return false,
        }
        self.queue(on_tick).pop_front();
        true
    }

    /// Removes all requests that may remain without an answer.
    pub(crate) fn skip_all_silent(&mut self, shared: &SharedState) {
        for on_tick in [false, true] {
            while self.skip_silent(on_tick, shared) {}
        }
    }

    fn queue(&mut self, on_tick: bool) -> &mut VecDeque<SentRequest> {
        if on_tick { &mut self.on_tick } else { &mut self.on_arrival }
    }
}

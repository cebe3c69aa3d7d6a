//! `ref`s of requests in sessions. A number that was used is not executed again, so that a client may send a request again
//! when it does not know whether the first one arrived.

use smol_str::SmolStr;

use super::core::Core;
use super::member::Member;
use super::state::upstream::Judged;
use crate::base::close::Reject;
use crate::base::id::ConnKey;
use crate::base::number::integer;
use crate::protocol;

impl Core {
    /// Uses up the number of a request that the lobby or the application is to execute. Returns false if it was used
    /// before; the request is answered then.
    #[inline]
    pub(super) fn use_reference(&mut self, member: &Member, reference: Option<&str>) -> bool {
        match self.number_of(member, reference) {
            None => true,
            Some((reference, number)) => self.use_number(member, reference, number),
        }
    }

    /// Answers a request whose number was used before. Returns false if it was not.
    pub(super) fn answer_repeated(&mut self, member: &Member, reference: Option<&str>) -> bool {
        match self.number_of(member, reference) {
            Some((reference, number)) if self.sessions.state(member.seat_key).upstream.has_used(number) => {
                !self.use_number(member, reference, number)
            }
            _ => false,
        }
    }

    fn use_number(&mut self, member: &Member, reference: &str, number: i64) -> bool {
        match self.sessions.state(member.seat_key).upstream.judge(number) {
            Judged::New => return true,
            Judged::RepeatedDone => protocol::write_repeated_ack(&mut self.buffers.text, reference),
            Judged::RepeatedRefused => protocol::write_repeated_error(&mut self.buffers.text, reference),
        }
        let key = member.conn.key();
        if self.cluster.as_ref().is_some_and(|cluster| cluster.is_executing) {
            // It was charged before it was appended.
            self.reply(key);
            return false;
        }
        let text = std::mem::take(&mut self.buffers.text);
        match self.charge_message(key) {
            Ok(()) => {
                self.buffers.text = text;
                self.reply(key);
            }
            // Without the `ref`: an error would say that the request was refused.
            Err(denied) => self.rate_limited(key, None, denied),
        }
        false
    }

    /// Answers a request with an error.
    pub(super) fn refuse_request(&mut self, member: &Member, reference: Option<&str>, reject: Reject, message: &str) {
        self.note_refused(member, reference);
        self.reject(member.conn.key(), reference, reject, message);
    }

    /// Records that the answer to a request is an error.
    pub(super) fn note_refused(&mut self, member: &Member, reference: Option<&str>) {
        if let Some((_, number)) = self.number_of(member, reference) {
            self.sessions.state(member.seat_key).upstream.note_refused(number);
        }
    }

    /// Whether one more request of a member may wait for the next tick.
    pub(super) fn may_wait(&self, key: ConnKey, reference: Option<&str>) -> bool {
        let state = self.conns[key].seat().and_then(|seat| self.sessions.get(seat));
        let has_number = reference.is_some_and(|reference| integer(reference).is_some());
        !has_number || state.is_none_or(|state| state.unanswered < self.config.max_unanswered)
    }

    /// Records that a request waits for the next tick.
    pub(super) fn note_waiting(&mut self, member: &Member, reference: Option<&str>) {
        if self.number_of(member, reference).is_some() {
            self.sessions.state(member.seat_key).unanswered += 1;
        }
    }

    /// Records that a request that has waited is served now.
    pub(super) fn note_served(&mut self, member: &Member, reference: Option<&str>) {
        if self.number_of(member, reference).is_some() {
            let unanswered = &mut self.sessions.state(member.seat_key).unanswered;
            *unanswered = unanswered.saturating_sub(1);
        }
    }

    /// Returns the `ref` of a member's request for the application's answer to it, if the member has a session.
    pub(super) fn kept_reference(&self, member: &Member, reference: Option<&str>) -> Option<SmolStr> {
        let has_session = self.directory.is_current_seat(member.seat_key, member.seat)
            && self.directory.seat(member.seat_key).has_session;
        reference.filter(|_| has_session).map(SmolStr::new)
    }

    /// Returns the `ref` of a member's request and its number, if it has one and the member has a session.
    #[inline]
    fn number_of<'r>(&self, member: &Member, reference: Option<&'r str>) -> Option<(&'r str, i64)> {
        let reference = reference?;
        let has_session = self.directory.is_current_seat(member.seat_key, member.seat)
            && self.directory.seat(member.seat_key).has_session;
        let number = if has_session { integer(reference) } else { None };
        number.map(|number| (reference, number))
    }
}

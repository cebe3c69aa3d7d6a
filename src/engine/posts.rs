//! POST: messages for an event stream. Each is served as if it had come as a frame on the connection of the stream.

use super::Engine;
use super::app::App;
use super::core::Core;
use super::member::Identity;
use super::state::posts::{Busy, Post};
use crate::base::close::CloseReason;
use crate::base::entry::RequestedLobby;
use crate::base::id::{ConnId, ConnKey};
use crate::base::session::SessionHash;
use crate::config::rates::POST_BYTES;
use crate::http::PlainResponse;
use crate::ws::event_stream::accepted_head;
use crate::ws::handshake::{Acceptance, Page};
use crate::ws::post::PostHead;

impl<A: App> Engine<A> {
    /// Handles a line of the body of a POST.
    pub(super) fn on_posted(&mut self, conn: ConnId, text: Option<&str>, is_last: bool) {
        let key = conn.key();
        if let Some(text) = text
            && let Some(stream) = self.core.posts.get(key).map(|post| post.stream)
        {
            if self.core.member_of(stream).is_none() {
                // The rest of the body is not read: it would be lost, too.
                let refusal = PlainResponse::new(404, "the event stream ended before all messages were read");
                return self.core.refuse_post(key, refusal);
            }
            self.serve_posted(stream, text);
        }
        // A message may have closed the connection on which it came.
        if is_last && self.core.slot(conn).is_some_and(|slot| slot.close_kind.is_none()) {
            self.core.end_post(conn);
        }
    }

    fn serve_posted(&mut self, stream: ConnId, text: &str) {
        // The line feed is charged, too, as the head of a frame is.
        self.core.charge_bytes(stream.key(), text.len() + 1);
        // The charge may have closed the stream.
        self.dispatch_events();
        if self.core.member_of(stream).is_some() {
            self.on_text(stream.key(), text);
            if self.core.slot(stream).is_some() {
                self.core.message_ended(stream.key(), 0);
            }
        }
    }
}

impl Core {
    /// Checks a POST before the application is asked who sent it. `was_asked`: a replay, whose recording has the answer.
    /// Returns a stream that the POST may be for.
    ///
    /// # Errors
    ///
    /// HTTP 400 without a session; 404 if no user has an open stream of the session in this lobby. HTTP 429 if the address
    /// has no attempt left, and a POST for the stream was refused before: no POST is an attempt, but a refused one counts as
    /// one. Otherwise a client could guess tokens by POSTs to its own stream.
    ///
    /// HTTP 409 if each of these streams has a POST already, and 429 if those without one have no bytes left. So the
    /// questions of a client are limited by its byte rate.
    pub(super) fn check_post(
        &mut self,
        key: ConnKey,
        page: &Page,
        requested: &RequestedLobby,
        was_asked: bool,
    ) -> Result<ConnKey, PlainResponse> {
        let Some(session) = page.session else {
            return Err(PlainResponse::new(400, "name the session of your event stream: ?session="));
        };
        let streams: Vec<ConnKey> =
            self.posts.streams_of(session).filter(|&stream| self.is_at(stream, requested)).collect();
        let Some(&stream) = streams.first() else { return Err(no_stream()) };
        let (now, address) = (self.now(), self.address_of(key));
        let may_be_refused = self.rates.attempt.is_none_or(|rate| self.addresses.has_attempt(address, now, rate));
        if !may_be_refused && self.posts.is_suspect(stream) {
            self.charge_attempt(key).map_err(|(response, _)| response)?;
        }
        let free: Vec<ConnKey> = streams.into_iter().filter(|&stream| !self.posts.is_busy(stream)).collect();
        match free.iter().find(|&&stream| self.has_bytes(stream, POST_BYTES)) {
            Some(&stream) => Ok(stream),
            // Earlier builds asked about each POST.
            None if was_asked => Ok(stream),
            None if free.is_empty() => Err(busy()),
            None => Err(beyond_rate()),
        }
    }

    /// The client has ended the connection of a POST while the application was asked about it. It counts as a refused one, or a
    /// client could cause questions without end.
    pub(super) fn note_given_up(&mut self, key: ConnKey, session: SessionHash) {
        self.posts.note_refused(session);
        // Without a token left, the next POST is refused.
        let _ = self.charge_attempt(key);
    }

    fn is_at(&self, stream: ConnKey, requested: &RequestedLobby) -> bool {
        let seat = self.conns[stream].seat().map(|seat| self.directory.seat(seat));
        seat.is_some_and(|seat| requested.may_be(&self.directory.lobby_ref(seat.lobby).code))
    }

    /// Decides about a POST when the application has answered who sent it. `has_waited`: the authorization was pending.
    pub(super) fn judge_post(
        &mut self,
        key: ConnKey,
        post: (PostHead, Page),
        requested: &RequestedLobby,
        decision: Result<Identity, CloseReason>,
        has_waited: bool,
    ) -> Result<(), PlainResponse> {
        let session = post.1.session;
        let begun = decision.map_err(refusal_of).and_then(|identity| self.begin_post(key, post, requested, &identity));
        // 409 and 429 are known before the application is asked, unless the client changes that while it waits.
        let counts = |refusal: &PlainResponse| match refusal.status() {
            409 | 429 => has_waited,
            status => matches!(status, 401 | 403 | 404),
        };
        if begun.as_ref().is_err_and(counts) {
            session.into_iter().for_each(|session| self.posts.note_refused(session));
            self.charge_attempt(key).map_err(|(response, _)| response)?;
        }
        begun
    }

    /// The same for a POST that has waited for the answer. Returns the part of its body that was received meanwhile.
    pub(super) fn judge_pending_post(
        &mut self,
        key: ConnKey,
        requested: &RequestedLobby,
        decision: Result<Identity, CloseReason>,
    ) -> Vec<u8> {
        self.posts.end_question(key);
        let (form, page, early) = self.conns[key].wire.take_pending();
        let Acceptance::Post(head) = form else { unreachable!("the caller has seen a POST") };
        let cors = page.cors.clone();
        if let Err(refusal) = self.judge_post(key, (head, page), requested, decision, true) {
            self.close_with_http(key, CloseReason::HttpRefused, &refusal.with_cors(cors));
        }
        early
    }

    /// Finds the stream of a POST, and begins to receive its body.
    fn begin_post(
        &mut self,
        key: ConnKey,
        (head, page): (PostHead, Page),
        requested: &RequestedLobby,
        identity: &Identity,
    ) -> Result<(), PlainResponse> {
        if self.conns[key].close_kind.is_some() {
            return Ok(());
        }
        let Page { cors, session } = page;
        let Some(stream) = session.and_then(|session| self.stream_of(&identity.user, requested, session)) else {
            return Err(no_stream());
        };
        let post = Post { stream, cors, keep_alive: head.keep_alive };
        let conn = self.conns[key].id;
        self.posts.begin(conn, post).map_err(|Busy| busy())?;
        // A POST without messages costs a request, too.
        self.charge_bytes(stream.key(), POST_BYTES);
        if self.conns[stream.key()].meter.over().is_some() {
            self.message_ended(stream.key(), 0);
            self.posts.end(conn);
            return Err(beyond_rate());
        }
        if head.length == 0 {
            self.end_post(conn);
            return Ok(());
        }
        self.conns[key].wire.receive_body(head.length);
        self.set_stage_deadline(key, self.config.handshake_timeout);
        if head.expects_continue {
            self.send_continue(key);
        }
        Ok(())
    }

    /// Returns the open event stream of a user's session in a lobby.
    fn stream_of(&self, user: &str, requested: &RequestedLobby, session: SessionHash) -> Option<ConnId> {
        let mut streams = self.posts.streams_of(session).filter(|&stream| self.is_at(stream, requested));
        let is_own =
            |&stream: &ConnKey| self.conns[stream].seat().is_some_and(|seat| **self.directory.user_of(seat) == *user);
        streams.find(is_own).map(|stream| self.conns[stream].id)
    }

    /// The connection, if it has a seat.
    fn member_of(&mut self, conn: ConnId) -> Option<ConnId> {
        self.slot(conn).and_then(|slot| slot.seat()).map(|_| conn)
    }

    /// Answers a POST whose body has ended, and waits for the next request.
    fn end_post(&mut self, conn: ConnId) {
        let key = conn.key();
        let Some(Post { cors, keep_alive, .. }) = self.posts.end(conn) else { return };
        let response = accepted_head(self.date_line(), cors.as_ref(), keep_alive);
        self.redact_echo(key, cors.and_then(|cors| cors.echo(&response)));
        self.egress.push_response(key, response);
        self.egress.mark_dirty(key);
        if !keep_alive {
            self.record_close_reason(key, CloseReason::HttpRefused);
            self.conns[key].wire.linger();
            return self.set_stage_deadline(key, self.config.close_timeout);
        }
        if self.egress.queued_size(key).cost > self.config.max_outbound_bytes.0 {
            // It sends requests and reads no answers.
            return self.abort(key, CloseReason::SlowConsumer);
        }
        self.conns[key].wire.end_request();
        self.release_address(key);
        self.set_stage_deadline(key, self.config.handshake_timeout);
    }

    /// Refuses a POST while its body is being received.
    pub(super) fn refuse_post(&mut self, key: ConnKey, refusal: PlainResponse) {
        let post = self.posts.end(self.conns[key].id);
        let refusal = refusal.with_cors(post.and_then(|post| post.cors));
        self.close_with_http(key, CloseReason::HttpRefused, &refusal);
    }
}

fn busy() -> PlainResponse {
    PlainResponse::new(409, "one POST at a time for each session")
}

fn beyond_rate() -> PlainResponse {
    PlainResponse::new(429, "you send more than your rate")
}

fn no_stream() -> PlainResponse {
    PlainResponse::new(404, "this session has no open event stream in this lobby")
}

/// The status for a client whose POST was refused for `reason`, which a page can read.
pub(super) fn refusal_of(reason: CloseReason) -> PlainResponse {
    let status = match reason.code() {
        4001 => 401,
        4005 => 400,
        4007 => 404,
        4009 => 429,
        1001 | 4002 | 4100..=4299 | 4500..=4699 => 503,
        1011 => 500,
        _ => 403,
    };
    PlainResponse::new(status, format!("{}: {}", reason.word(), reason.explain()))
}

//! Admission: reads a request, asks the application, and seats the connection or refuses it.

use std::time::Duration;

use super::Engine;
use super::app::App;
use super::context::Context;
use super::core::Core;
use super::draining::shutting_down;
use super::event_streams::BUSY_WAIT;
use super::member::{Authorization, Identity, Protocol};
use super::posts::refusal_of;
use super::recording::{Decisions, Destination, Edition, RecordedDecision};
use super::state::conn::{ConnState, PendingAuth};
use super::state::record_mode::RecordMode;
use crate::base::close::CloseReason;
use crate::base::entry::RequestedLobby;
use crate::base::id::{ConnId, ConnKey};
use crate::config::Limit;
use crate::http::PlainResponse;
use crate::lobby::directory::{Released, SeatRequest};
use crate::lobby::entering::Wanted;
use crate::ws::deflate::Deflate;
use crate::ws::handshake::{self, Acceptance, Facts, Page, ReadParams, Request};

impl<A: App> Engine<A> {
    /// Handles a complete request head.
    pub(super) fn on_head(&mut self, conn: ConnId, head: &[u8]) {
        let key = conn.key();
        let outcome = if let RecordMode::Replaying(_) = self.core.record_mode {
            self.decide_from_record(key)
        } else {
            let params = ReadParams {
                conn,
                peer: self.core.conns[key].peer.peer(),
                max_headers: self.core.config.max_headers,
                trusted_proxies: self.core.config.trusted_proxies,
                forwarded_header: self.core.config.forwarded_header,
                subprotocols: A::PROTOCOL.subprotocols(),
                has_sessions: A::PROTOCOL == Protocol::Json,
                has_entries: self.core.has_lobby_control(),
                max_body_bytes: (A::PROTOCOL == Protocol::Json).then(|| self.core.config.max_message_bytes.0 * 2),
                has_list: self.core.config.lobby_control,
                has_deflate: self.core.config.deflate,
            };
            let read = handshake::read(head, &params, |request, form| self.decide_and_record(key, request, form));
            read.unwrap_or_else(|refusal| {
                self.core.record_refused(&refusal);
                Err(refusal)
            })
        };
        if let Err(refusal) = outcome {
            self.core.close_with_http(key, CloseReason::HttpRefused, &refusal);
        }
    }

    /// Decides about a well-formed request. In a replay `request` is `None`, and the recorded decisions are used.
    fn decide(
        &mut self,
        key: ConnKey,
        request: Option<&Request<'_>>,
        facts: Facts,
        decisions: &mut Decisions,
    ) -> Result<(), PlainResponse> {
        let (with_body, cors) = (!facts.is_head_request, facts.cors.clone());
        self.try_decide(key, request, facts, decisions)
            .map_err(|response| response.with_body(with_body).with_cors(cors))
    }

    fn try_decide(
        &mut self,
        key: ConnKey,
        request: Option<&Request<'_>>,
        facts: Facts,
        decisions: &mut Decisions,
    ) -> Result<(), PlainResponse> {
        if let Some(response) = self.core.health_response(&facts) {
            return Err(response);
        }
        if self.core.is_draining() {
            return self.core.refuse_early(key, &facts, shutting_down(), CloseReason::ServerShutdown, None);
        }
        if let Err(response) = self.core.admit_overflow(key, facts.address) {
            return self.core.refuse_early(key, &facts, response, CloseReason::ServerFull, Some(BUSY_WAIT));
        }
        if let Some(fault) = request.and_then(Request::forwarded_fault) {
            self.core.log_forwarded_fault(key, fault);
        }
        self.core.note_address(key, facts.address);
        if facts.is_attempt()
            && let Err((response, wait)) = self.core.charge_attempt(key)
        {
            return self.core.refuse_early(key, &facts, response, CloseReason::RateLimited, Some(wait));
        }
        if let Some(file) = &facts.file {
            self.core.close_with_file(key, file, !facts.is_head_request);
            return Ok(());
        }
        if let Some(list) = facts.list {
            return self.core.answer_list_request(key, *list, facts.cors, !facts.is_head_request);
        }
        // Only a recorded decision can be missing. The replay ends here in that case.
        let Some(destination) = self.ask_destination(request, decisions) else { return Ok(()) };
        if destination == Destination::Nowhere
            && (!facts.is_upgrade() || self.core.record_mode.edition() == Edition::First)
        {
            return Err(PlainResponse::new(404, "there is nothing here; lobbies are at /ws/{lobby_code}"));
        }
        if let Destination::Lobbies(filter) = destination {
            return self.core.follow_list(key, request, facts, filter);
        }
        if facts.is_guess()
            && let Err((response, wait)) = self.core.check_guesses(key)
        {
            return self.core.refuse_early(key, &facts, response, CloseReason::RateLimited, Some(wait));
        }
        self.ask_and_admit(key, request, facts, destination, decisions)
    }

    /// Asks the application about a client that wants a seat. A refusal accepts the upgrade first, so that a page can read
    /// the close reason.
    fn ask_and_admit(
        &mut self,
        key: ConnKey,
        request: Option<&Request<'_>>,
        facts: Facts,
        destination: Destination,
        decisions: &mut Decisions,
    ) -> Result<(), PlainResponse> {
        let asked = self.core.check_facts(destination.requested_lobby(), &facts);
        let Facts { form, cors, claim, .. } = facts;
        let form = form?;
        let page = Page { cors, session: claim.ok().flatten().map(|claim| claim.session) };
        let (requested, claim, entry) = match asked {
            Ok(asked) => asked,
            Err(reason) => {
                if let Some(request) = request.filter(|_| reason == CloseReason::ForbiddenOrigin) {
                    self.core.log_refused_origin(request);
                }
                return self.core.refuse_form(key, &form, &page, reason);
            }
        };
        let wanted = Wanted { requested: &requested, claim, entry, reserved: None };
        let stream = if let Acceptance::Post(_) = form {
            let was_asked = request.is_none() && decisions.authorization.is_some();
            Some(self.core.check_post(key, &page, &requested, was_asked)?)
        } else {
            None
        };
        if request.is_none() && decisions.authorization.is_none() && self.core.config.max_per_ip != Limit::UNLIMITED {
            // Earlier builds judged max_per_ip here, before they asked the application. In the journals of this build an
            // authorization follows.
            return self.core.refuse_form(key, &form, &page, CloseReason::IpLimit);
        }
        match self.ask_authorization(request, decisions) {
            None => {}
            Some(Authorization::Pending { user }) => {
                self.core.wait_for_authorization(key, form, page, wanted, user.as_deref());
                // The application may have closed the connection. Then no answer comes, and the stream would stay occupied.
                let stream = stream.filter(|_| self.core.conns[key].wire.is_deciding());
                stream.into_iter().for_each(|stream| self.core.posts.ask(key, stream));
            }
            Some(answer) => {
                let identity = self.core.check_authorization(answer, &requested);
                if let Acceptance::Post(head) = form {
                    return self.core.judge_post(key, (head, page), &requested, identity, false);
                }
                if let Ok(identity) = &identity
                    && self.core.must_ask_cluster(&requested)
                {
                    let identity = identity.clone();
                    self.core.defer_to_cluster(key, (form, page), wanted, identity);
                    return Ok(());
                }
                self.complete_session(key, wanted, &identity);
                self.core.accept_and_seat(key, &form, &page, wanted, identity);
            }
        }
        Ok(())
    }

    /// Decides about a request that was read, and records the decisions.
    pub(super) fn decide_and_record(
        &mut self,
        key: ConnKey,
        request: &Request<'_>,
        form: Result<Acceptance, PlainResponse>,
    ) -> Result<(), PlainResponse> {
        let facts = self.core.facts(request, form);
        let mut decisions = Decisions::default();
        if let Some(recorder) = self.core.record_mode.recorder() {
            recorder.request(Ok(&facts));
            let outcome = self.decide(key, Some(request), facts, &mut decisions);
            self.core.record_mode.recorder().expect("the engine is recorded").decisions(&decisions);
            outcome
        } else {
            self.decide(key, Some(request), facts, &mut decisions)
        }
    }

    /// Decides about a request in a replay. The text of the request is not recorded, so the recorded decisions are
    /// used.
    pub(super) fn decide_from_record(&mut self, key: ConnKey) -> Result<(), PlainResponse> {
        let RecordMode::Replaying(replaying) = &mut self.core.record_mode else {
            unreachable!("only a replay has recorded decisions")
        };
        let Some(RecordedDecision { asked, mut decisions }) = replaying.recorded_decision.take() else {
            replaying.has_decision_mismatch = true;
            return Ok(());
        };
        self.decide(key, None, asked?, &mut decisions)
    }

    /// The request's destination: from the application, or in a replay from the record.
    pub(super) fn ask_destination(
        &mut self,
        request: Option<&Request<'_>>,
        decisions: &mut Decisions,
    ) -> Option<Destination> {
        if let Some(request) = request {
            let has_lobby_control = self.core.has_lobby_control();
            decisions.destination = Some(Destination::of(self.app.route(request), has_lobby_control, request));
        }
        self.check_recorded(decisions.destination.clone())
    }

    /// The request's authorization: from the application, or in a replay from the record.
    pub(super) fn ask_authorization(
        &mut self,
        request: Option<&Request<'_>>,
        decisions: &mut Decisions,
    ) -> Option<Authorization> {
        let Some(request) = request else {
            if let Some(state) = decisions.random {
                self.core.random.set_state(state);
            }
            let recorded = self.check_recorded(decisions.authorization.clone());
            // A forged journal may contain what no application is allowed to answer.
            return recorded.map(|answer| answer.checked(self.core.config.max_identity_bytes));
        };
        let before = self.core.random.state();
        let answer = self.app.authorize(&mut Context { core: &mut self.core }, request);
        let answer = answer.checked(self.core.config.max_identity_bytes);
        if self.core.record_mode.is_recording() {
            let after = self.core.random.state();
            decisions.random = (after != before).then_some(after);
            decisions.authorization = Some(answer.clone());
        }
        Some(answer)
    }

    /// Notes a mismatch if a replay lacks the decision that the engine asks for: the journal then comes from another
    /// engine.
    fn check_recorded<T>(&mut self, decision: Option<T>) -> Option<T> {
        if let RecordMode::Replaying(replaying) = &mut self.core.record_mode {
            replaying.has_decision_mismatch |= decision.is_none();
        }
        decision
    }

    /// Handles the answer to an authorization that was pending. Returns the bytes that the client sent meanwhile.
    pub(super) fn admit_pending(&mut self, conn: ConnId, answer: Authorization) -> Option<Vec<u8>> {
        let slot = self.core.conns.open(conn).filter(|slot| slot.close_kind.is_none() && slot.wire.is_deciding())?;
        // A connection that waits for the cluster was answered before.
        if matches!(answer, Authorization::Pending { .. }) || self.core.waits_for_cluster(conn) {
            return None;
        }
        let is_post = matches!(slot.wire.pending_request(), Some(Acceptance::Post(_)));
        let ConnState::Pending(Some(pending)) = &slot.state else { return None };
        let decision = self.core.check_authorization(answer, &pending.requested);
        if is_post {
            let requested = self.core.take_pending_auth(conn.key()).requested;
            let early = self.core.judge_pending_post(conn.key(), &requested, decision);
            self.dispatch_events();
            return Some(early);
        }
        self.seat_deferred(conn, decision)
    }

    /// Seats a connection whose request was deferred, or refuses it. Returns the bytes that the client sent meanwhile; `None`
    /// if it goes on waiting.
    pub(super) fn seat_deferred(&mut self, conn: ConnId, decision: Result<Identity, CloseReason>) -> Option<Vec<u8>> {
        let key = conn.key();
        let slot = self.core.slot(conn).filter(|slot| slot.close_kind.is_none() && slot.wire.is_deciding())?;
        let ConnState::Pending(Some(_)) = &slot.state else { return None };
        let pending = self.core.take_pending_auth(key);
        let (pending, decision) = match decision {
            Ok(identity) => {
                let (pending, identity) = self.core.ask_cluster(key, pending, identity)?;
                (pending, Ok(identity))
            }
            Err(reason) => (pending, Err(reason)),
        };
        let PendingAuth { requested, claim, entry, reservation } = pending;
        let released = reservation.map(|reservation| self.core.directory.release(reservation));
        let reserved = released.as_ref().map(Released::lobby);
        let wanted = Wanted { requested: &requested, claim, entry, reserved };
        self.complete_session(key, wanted, &decision);
        // The application may have closed the connection meanwhile.
        let is_open = self.core.slot(conn).is_some_and(|slot| slot.close_kind.is_none());
        let early = is_open.then(|| self.core.accept_pending(key));
        match decision {
            Ok(identity) if is_open => self.core.seat_or_refuse(key, wanted, &identity),
            Err(reason) if is_open => self.core.begin_close(key, reason),
            _ => {}
        }
        if let Some(released) = released {
            self.core.directory.forget_released(released, self.core.clock.now());
        }
        self.dispatch_events();
        early
    }
}

impl Core {
    /// Takes the request of a connection that is deferred.
    fn take_pending_auth(&mut self, key: ConnKey) -> PendingAuth {
        let ConnState::Pending(pending) = &mut self.conns[key].state else { unreachable!("the caller has looked") };
        *pending.take().expect("a deferred request has a pending authorization")
    }

    /// Refuses, in a replay, bytes whose refusal is recorded. Returns whether it is.
    #[inline]
    pub(super) fn refuse_from_record(&mut self, conn: ConnId) -> bool {
        if !matches!(self.record_mode, RecordMode::Replaying(_))
            || !self.slot(conn).is_some_and(|slot| slot.wire.is_reading_head())
        {
            return false;
        }
        let refusal = self.record_mode.take_refusal();
        if let Some(refusal) = &refusal {
            self.close_with_http(conn.key(), CloseReason::HttpRefused, refusal);
        }
        refusal.is_some()
    }

    /// Refuses a request before its destination is known: with an HTTP response, or with a stream that ends at once.
    pub(super) fn refuse_early(
        &mut self,
        key: ConnKey,
        facts: &Facts,
        response: PlainResponse,
        reason: CloseReason,
        wait: Option<Duration>,
    ) -> Result<(), PlainResponse> {
        if !matches!(facts.form, Ok(Acceptance::Events)) {
            return Err(response);
        }
        self.accept_events(key, facts.cors.as_ref());
        self.begin_close_for(key, reason, wait);
        Ok(())
    }

    /// Refuses a request for `reason`, in the form in which its sender can read it.
    pub(super) fn refuse_form(
        &mut self,
        key: ConnKey,
        form: &Acceptance,
        page: &Page,
        reason: CloseReason,
    ) -> Result<(), PlainResponse> {
        if let Acceptance::Post(_) = form {
            return Err(refusal_of(reason));
        }
        if self.conns[key].close_kind.is_none() {
            self.accept_form(key, form, page);
            self.begin_close(key, reason);
        }
        Ok(())
    }

    /// Accepts the upgrade, then seats the connection or closes it with the reason. A browser cannot read the status
    /// of a refused upgrade.
    fn accept_and_seat(
        &mut self,
        key: ConnKey,
        form: &Acceptance,
        page: &Page,
        wanted: Wanted<'_>,
        decision: Result<Identity, CloseReason>,
    ) {
        // The application may have closed the connection in `authorize`.
        if self.conns[key].close_kind.is_some() {
            return;
        }
        self.accept_form(key, form, page);
        match decision {
            Ok(identity) => self.seat_or_refuse(key, wanted, &identity),
            Err(reason) => self.begin_close(key, reason),
        }
    }

    /// Opens the WebSocket, or begins the event stream.
    pub(super) fn accept_form(&mut self, key: ConnKey, form: &Acceptance, page: &Page) {
        match form {
            Acceptance::WebSocket(upgrade) => {
                let date = self.date_line();
                self.redact_echo(key, upgrade.echo(date));
                let response = self.conns[key].wire.accept(upgrade, date);
                self.egress.push_response(key, response);
                if upgrade.deflate.is_some_and(Deflate::takes_compressed) {
                    self.egress.accept_compressed(key);
                }
            }
            Acceptance::Events => {
                self.accept_events(key, page.cors.as_ref());
                if let Some(session) = page.session {
                    self.posts.open_stream(key, session);
                }
            }
            Acceptance::Post(_) => unreachable!("a POST is judged, and opens nothing"),
        }
    }

    /// Accepts a request that waited for authorization, and is no POST. Returns the bytes that the client sent meanwhile.
    pub(super) fn accept_pending(&mut self, key: ConnKey) -> Vec<u8> {
        let (form, page, early) = self.conns[key].wire.take_pending();
        self.accept_form(key, &form, &page);
        early
    }

    /// Checks the application's answer. Returns the identity, or the reason to refuse the client. An identity for one lobby
    /// is refused for a new one and for a pool.
    fn check_authorization(&self, answer: Authorization, requested: &RequestedLobby) -> Result<Identity, CloseReason> {
        match answer {
            Authorization::Refuse(reason) => Err(reason),
            Authorization::Allow(identity)
                if identity.lobby.as_deref().is_some_and(|lobby| !requested.is_lobby(lobby)) =>
            {
                Err(CloseReason::Unauthorized)
            }
            Authorization::Allow(identity) if identity.expires.is_some_and(|end| end <= self.unix_millis()) => {
                Err(CloseReason::TokenExpired)
            }
            Authorization::Allow(identity) => Ok(identity),
            Authorization::Pending { .. } => unreachable!("a pending answer is never checked"),
        }
    }

    fn wait_for_authorization(
        &mut self,
        key: ConnKey,
        form: Acceptance,
        page: Page,
        wanted: Wanted<'_>,
        user: Option<&str>,
    ) {
        if self.conns[key].close_kind.is_some() {
            return;
        }
        // A POST takes no seat.
        // In a cluster the log gives the seat.
        let user = user.filter(|_| !matches!(form, Acceptance::Post(_)) && !self.is_clustered());
        // A seat is reserved only for a known user: an unknown one may turn out to have a seat already.
        let address = self.address_of(key);
        let (now, unix) = (self.now(), self.clock.unix_micros());
        let reserved = user.map(|user| {
            let code = self.directory.resolve(&wanted, user, now);
            self.directory.reserve(SeatRequest::new(&code, user, address, &wanted), now, unix)
        });
        let reserved = reserved.transpose();
        match reserved {
            Ok(reservation) => {
                let slot = &mut self.conns[key];
                slot.wire.defer(form, page);
                let Wanted { requested, claim, entry, .. } = wanted;
                let pending = PendingAuth { requested: requested.clone(), claim, entry, reservation };
                slot.state = ConnState::Pending(Some(Box::new(pending)));
                self.set_stage_deadline(key, self.config.auth_timeout);
            }
            Err(reason) => {
                self.note_guess(key, reason, wanted.entry);
                self.accept_form(key, &form, &page);
                self.refuse_login(key, wanted, user.unwrap_or_default(), reason);
            }
        }
    }
}

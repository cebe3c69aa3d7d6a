//! Admission: reads a request, asks the application, and seats the connection or refuses it.

use std::borrow::Cow;
use std::time::Duration;

use log::info;

use super::Engine;
use super::app::App;
use super::context::Context;
use super::core::Core;
use super::draining::shutting_down;
use super::event_streams::BUSY_WAIT;
use super::member::{Authorization, Identity, Member, Protocol};
use super::posts::refusal_of;
use super::recording::{Decisions, Destination, Edition, RecordedDecision};
use super::state::conn::{ConnState, PendingAuth};
use super::state::events::AppEvent;
use super::state::record_mode::RecordMode;
use super::state::timers::Expiry;
use crate::base::close::{CloseReason, LeaveReason};
use crate::base::id::{AddressKey, ConnId, ConnKey};
use crate::base::session::Claim;
use crate::base::time::Time;
use crate::config::Limit;
use crate::http::probe::Probe;
use crate::http::{Cors, PlainResponse};
use crate::lobby::directory::{Joined, Reservation, SeatRequest};
use crate::ws::handshake::{self, Acceptance, BadClaim, Facts, ReadParams, Request};

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
                max_body_bytes: (A::PROTOCOL == Protocol::Json).then(|| self.core.config.max_message_bytes.0 * 2),
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
        if let Err(response) = self.core.admit_overflow(key) {
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
        // Only a recorded decision can be missing. The replay ends here in that case.
        let Some(destination) = self.ask_destination(request, decisions) else { return Ok(()) };
        let code = match destination {
            Destination::Nowhere if !facts.is_upgrade() || self.core.record_mode.edition() == Edition::First => {
                return Err(PlainResponse::new(404, "there is nothing here; lobbies are at /ws/{lobby_code}"));
            }
            Destination::Lobby(code) => Ok(code),
            Destination::BadCode | Destination::Nowhere => Err(CloseReason::BadLobbyCode),
        };
        let Facts { form, cors, claim, is_origin_allowed, .. } = facts;
        let form = form?;
        // From here on a refusal accepts the upgrade first, so that a page can read the close reason.
        let origin = if is_origin_allowed { Ok(()) } else { Err(CloseReason::ForbiddenOrigin) };
        let claim = claim.map_err(|BadClaim| CloseReason::BadMessage);
        let (code, claim) = match origin.and(code).and_then(|code| Ok((code, claim?))) {
            Ok(admitted) => admitted,
            Err(reason) => {
                if let Some(request) = request.filter(|_| reason == CloseReason::ForbiddenOrigin) {
                    self.core.log_refused_origin(request);
                }
                return self.core.refuse_form(key, &form, cors.as_ref(), reason);
            }
        };
        if let Acceptance::Post(_) = form {
            self.core.check_post(key, claim)?;
        }
        if request.is_none() && decisions.authorization.is_none() && self.core.config.max_per_ip != Limit::UNLIMITED {
            // Earlier builds judged max_per_ip here, before they asked the application. In the journals of this build an
            // authorization follows.
            return self.core.refuse_form(key, &form, cors.as_ref(), CloseReason::IpLimit);
        }
        match self.ask_authorization(request, decisions) {
            None => {}
            Some(Authorization::Pending { user }) => {
                self.core.wait_for_authorization(key, form, (cors, claim), &code, user.as_deref())?;
            }
            Some(answer) => {
                let identity = self.core.check_authorization(answer, &code);
                match form {
                    Acceptance::Post(head) => self.core.judge_post(key, (head, cors), claim, &code, identity)?,
                    form => self.core.accept_and_seat(key, &form, (cors.as_ref(), claim), &code, identity),
                }
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
            decisions.destination = Some(self.app.route(request).into());
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
        let slot = self.core.slot(conn).filter(|slot| slot.close_kind.is_none() && slot.wire.is_deciding())?;
        if matches!(answer, Authorization::Pending { .. }) {
            return None;
        }
        let ConnState::Pending(pending) = &mut slot.state else { return None };
        let PendingAuth { code, reservation, claim } =
            *pending.take().expect("a deferred request has a pending authorization");
        let key = conn.key();
        if let Some(Acceptance::Post(_)) = slot.wire.pending_request() {
            let early = self.core.judge_pending_post(key, claim, &code, answer);
            self.dispatch_events();
            return Some(early);
        }
        let early = self.core.accept_pending(key, claim);
        match self.core.check_authorization(answer, &code) {
            Ok(identity) => self.core.seat_or_refuse(key, reservation, claim, &code, &identity),
            Err(reason) => {
                if let Some(reservation) = reservation {
                    self.core.directory.cancel(reservation, self.core.clock.now());
                }
                self.core.begin_close(key, reason);
            }
        }
        self.dispatch_events();
        Some(early)
    }
}

impl Core {
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

    /// The facts about a request that are known before the application is asked.
    pub(super) fn facts(&self, request: &Request<'_>, form: Result<Acceptance, PlainResponse>) -> Facts {
        let rules = &self.config.allowed_origin;
        let is_origin_allowed = request.is_from_allowed_page(rules);
        // An event stream begins even so, and names the reason.
        let is_forbidden = request.is_for_events && !is_origin_allowed && !matches!(form, Ok(Acceptance::Events));
        Facts {
            probe: request.probe,
            is_head_request: request.is_head_request,
            address: request.address(),
            is_origin_allowed,
            claim: request.claim,
            cors: if request.is_for_events { request.cors(rules) } else { None },
            form: if is_forbidden { Err(refusal_of(CloseReason::ForbiddenOrigin)) } else { form },
        }
    }

    /// Refuses a request before its destination is known: with an HTTP response, or with a stream that ends at once.
    fn refuse_early(
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
    fn refuse_form(
        &mut self,
        key: ConnKey,
        form: &Acceptance,
        cors: Option<&Cors>,
        reason: CloseReason,
    ) -> Result<(), PlainResponse> {
        if let Acceptance::Post(_) = form {
            return Err(refusal_of(reason));
        }
        if self.conns[key].close_kind.is_none() {
            self.accept_form(key, form, cors, None);
            self.begin_close(key, reason);
        }
        Ok(())
    }

    /// The response to a health check on the members' port. An upgrade request for the same path goes to the
    /// application.
    ///
    fn health_response(&self, facts: &Facts) -> Option<PlainResponse> {
        match facts.probe? {
            _ if facts.is_upgrade() => None,
            Probe::Live => Some(PlainResponse::new(200, "live")),
            Probe::Ready => {
                let readiness = self.readiness();
                let sentence = match readiness.message() {
                    Some(message) => format!("{}: {message}", readiness.word()).into(),
                    None => Cow::Borrowed(readiness.word()),
                };
                Some(PlainResponse::new(readiness.status(), sentence))
            }
        }
    }

    /// Accepts the upgrade, then seats the connection or closes it with the reason. A browser cannot read the status
    /// of a refused upgrade.
    fn accept_and_seat(
        &mut self,
        key: ConnKey,
        form: &Acceptance,
        (cors, claim): (Option<&Cors>, Option<Claim>),
        code: &str,
        decision: Result<Identity, CloseReason>,
    ) {
        // The application may have closed the connection in `authorize`.
        if self.conns[key].close_kind.is_some() {
            return;
        }
        self.accept_form(key, form, cors, claim);
        match decision {
            Ok(identity) => self.seat_or_refuse(key, None, claim, code, &identity),
            Err(reason) => self.begin_close(key, reason),
        }
    }

    /// Seats a connection whose upgrade was accepted, or closes it with the reason.
    fn seat_or_refuse(
        &mut self,
        key: ConnKey,
        reservation: Option<Reservation>,
        claim: Option<Claim>,
        code: &str,
        identity: &Identity,
    ) {
        let _ = claim;
        match self.seat(key, reservation, code, identity) {
            Ok(()) => self.egress.mark_dirty(key),
            Err(reason) => self.refuse_login(key, &identity.user, reason),
        }
    }

    /// Closes a connection that gets no seat. If another seat of its user is the reason, that one is pinged.
    fn refuse_login(&mut self, key: ConnKey, user: &str, reason: CloseReason) {
        let wait = if reason == CloseReason::UserLimit { self.ping_for_login(user) } else { None };
        self.begin_close_for(key, reason, wait);
    }

    /// Opens the WebSocket, or begins the event stream.
    fn accept_form(&mut self, key: ConnKey, form: &Acceptance, cors: Option<&Cors>, claim: Option<Claim>) {
        match form {
            Acceptance::WebSocket(upgrade) => {
                let date = self.date_line();
                self.redact_echo(key, upgrade.echo(date));
                let response = self.conns[key].wire.accept(upgrade, date);
                self.egress.push_response(key, response);
            }
            Acceptance::Events => {
                self.accept_events(key, cors);
                if let Some(claim) = claim {
                    self.posts.open_stream(key, claim.session);
                }
            }
            Acceptance::Post(_) => unreachable!("a POST is judged, and opens nothing"),
        }
    }

    /// Accepts a request that waited for authorization, and is no POST. Returns the bytes that the client sent meanwhile.
    pub(super) fn accept_pending(&mut self, key: ConnKey, claim: Option<Claim>) -> Vec<u8> {
        let (form, cors, early) = self.conns[key].wire.take_pending();
        self.accept_form(key, &form, cors.as_ref(), claim);
        early
    }

    /// Checks the application's answer for the lobby `code`. Returns the identity, or the reason to refuse the client.
    pub(super) fn check_authorization(&self, answer: Authorization, code: &str) -> Result<Identity, CloseReason> {
        match answer {
            Authorization::Refuse(reason) => Err(reason),
            Authorization::Allow(identity) if identity.lobby.as_deref().is_some_and(|lobby| lobby != code) => {
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
        (cors, claim): (Option<Cors>, Option<Claim>),
        code: &str,
        user: Option<&str>,
    ) -> Result<(), PlainResponse> {
        if self.conns[key].close_kind.is_some() {
            return Ok(());
        }
        // A POST takes no seat.
        let user = user.filter(|_| !matches!(form, Acceptance::Post(_)));
        // A seat is reserved only for a known user: an unknown one may turn out to have a seat already.
        let address = self.address_of(key);
        let now = self.clock.unix_micros();
        let reserved = user.map(|user| self.directory.reserve(SeatRequest { code, user, address }, now)).transpose();
        match reserved {
            Ok(reservation) => {
                let slot = &mut self.conns[key];
                slot.wire.defer(form, cors);
                slot.state = ConnState::Pending(Some(Box::new(PendingAuth { code: code.into(), reservation, claim })));
                self.set_stage_deadline(key, self.config.auth_timeout);
            }
            Err(reason) => {
                self.accept_form(key, &form, cors.as_ref(), claim);
                self.refuse_login(key, user.unwrap_or_default(), reason);
            }
        }
        Ok(())
    }

    // ---- seats ----

    /// Seats a connection whose upgrade was accepted.
    fn seat(
        &mut self,
        key: ConnKey,
        reservation: Option<Reservation>,
        code: &str,
        identity: &Identity,
    ) -> Result<(), CloseReason> {
        let (id, unix, now) = (self.conns[key].id, self.clock.unix_micros(), self.now());
        let user = &*identity.user;
        if let Some(seat) = self.directory.seat_to_take_over(code, user)
            && self.directory.seat(seat).is_announced
        {
            // The older connection receives the presence changes that are still to flush. The newer one must receive
            // its `welcome` first, and then the presence state.
            self.flush_presence(self.directory.seat(seat).lobby);
        }
        // The member that loses its seat is read while it still has the seat.
        let replaced = self.directory.seat_to_replace(user).map(|seat| self.directory.seat(seat).conn);
        let replaced = replaced.and_then(|conn| self.member(conn.key()));
        let request = SeatRequest { code, user, address: self.address_of(key) };
        let Joined { seat, previous_conn, replaced_conn } = match reservation {
            Some(reservation) => self.directory.join_reserved(reservation, request, id, now, unix)?,
            None => self.directory.join(request, id, now, unix)?,
        };
        if let Some(old) = previous_conn.or(replaced_conn) {
            let member = replaced.expect("a seat's connection is seated");
            self.record_close_reason_of(old.key(), Some(&member), CloseReason::Replaced);
            if replaced_conn.is_some() {
                self.note_left(member, LeaveReason::Replaced);
            } else {
                self.note_undelivered(&member);
            }
            // The directory has already taken the seat away, so `leave_seat` is not called.
            self.set_closing(old.key());
            self.send_close(old.key(), CloseReason::Replaced, None);
        }
        let lobby_key = self.directory.seat(seat).lobby;
        info!(
            "conn={id} peer={} user={user:?} lobby={code} joined{}",
            self.conns.remote(key),
            took_over_suffix(previous_conn)
        );
        self.charge_head_to_user(key, seat);
        self.conns.set_seated(key, seat);
        self.begin_stay(key, identity);
        let member = self.member(key).expect("it has just been seated");
        self.egress.subscribe(key, lobby_key);
        self.rearm(key);
        if let Some(old) = previous_conn {
            self.inherit_queued_close(old, id);
        }
        self.apply_orders(key, user, code);
        self.announce_seat(&member, previous_conn.is_some());
        Ok(())
    }

    /// Returns the key of the address that the connection counts for.
    fn address_of(&self, key: ConnKey) -> AddressKey {
        self.conns[key].address.expect("charge_attempt() has set it before the application was asked")
    }

    /// Sets the deadlines and the rate of a connection that has just been seated.
    fn begin_stay(&mut self, key: ConnKey, identity: &Identity) {
        let now = self.now();
        let slot = &mut self.conns[key];
        slot.meter.set_tier(identity.tier);
        let max_lifetime_end = self.config.max_lifetime.map_or(Time::NEVER, |age| now + age);
        slot.deadline = max_lifetime_end;
        slot.ends_at_max_lifetime = true;
        if let Some(interval) = self.config.health_interval {
            slot.health.schedule_check(now + interval);
        }
        self.identity_data.set(key, identity.data.clone());
        if let Some(unix_millis) = identity.expires {
            self.timers.expiries.insert(key, Expiry { unix_millis, max_lifetime_end });
            self.set_expiry_deadline(key);
        }
    }

    /// Queues the event for a member that has just been seated, and sends its `welcome`.
    fn announce_seat(&mut self, member: &Member, has_taken_over: bool) {
        // The event precedes the welcome, which may close a connection whose outbox is too small.
        if has_taken_over {
            self.counters.taken_over += 1;
            self.events.push_back(AppEvent::Rejoined(member.clone()));
        } else {
            self.counters.joined += 1;
            self.events.push_back(AppEvent::Joined(member.clone()));
        }
        if self.protocol == Protocol::Json {
            self.welcome(member);
        } else {
            // A raw protocol sends no presence, so all members count as announced.
            self.discard_presence_changes(member.lobby_key);
        }
    }
}

/// Suffix of the log message of a join.
fn took_over_suffix(previous_conn: Option<ConnId>) -> &'static str {
    if previous_conn.is_some() { " (took over)" } else { "" }
}
